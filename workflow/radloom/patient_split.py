"""Which patients a net learns from, is chosen by, and is judged by: drawn within each centre, and fixed in a file."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

from radloom.cohort import read_sheet
from radloom.errors import CohortError

PARTS = ("train", "validation", "test")


def draw_split(centres: Mapping[str, str], validation: float, test: float, seed: int) -> dict[str, str]:
    """The part of each patient; `centres` maps patients to their centres, the shares are of all patients.

    Patients are ordered by centre, and within it by a hash of seed and name; then every 1/share-th of them is taken,
    so that a part has its share of each centre to within one patient, and its share of all, rounded. A patient's place
    in the order depends on nobody else. Raises CohortError where a part that is asked for, or the training, is empty.
    """

    def place(patient: str) -> tuple[str, str]:
        return centres[patient], hashlib.sha256(f"{seed}/{patient}".encode()).hexdigest()

    def every(patients: list[str], share: float) -> set[str]:
        def number(i: int) -> int:
            return math.floor(i * share + 0.5)

        return {patient for i, patient in enumerate(patients) if number(i + 1) > number(i)}

    order = sorted(centres, key=place)
    in_test = every(order, test)
    rest = [patient for patient in order if patient not in in_test]
    in_validation = every(rest, validation / (1 - test))
    split = {p: "test" if p in in_test else "validation" if p in in_validation else "train" for p in order}
    for part, share in zip(PARTS, (1.0, validation, test), strict=True):
        if share > 0 and part not in split.values():
            raise CohortError(
                f"training: of {len(centres)} patients none is left for {part}; change the shares validation and test "
                "of train_segmentation, or name who is what in its split"
            )
    return split


def read_split(path: Path) -> dict[str, str]:
    """The parts of patients in a table with the columns patient_id and part. Raises CohortError saying why not."""
    sheet, problems = read_sheet(path, "the split")
    missing = [column for column in ("patient_id", "part") if column not in sheet.columns]
    if not problems and missing:
        problems = [f"the split has no column {' and no column '.join(missing)}"]
    split: dict[str, str] = {}
    if not problems:
        for row, line in zip(sheet.rows, sheet.lines, strict=True):
            if row["part"] not in PARTS:
                problems.append(f"the split, line {line}: part is none of {', '.join(PARTS)}")
            elif split.setdefault(row["patient_id"], row["part"]) != row["part"]:
                problems.append(f"the split, line {line}: the patient is in two parts")
        if not problems and "train" not in split.values():
            problems.append("the split has nobody to train on")
    if problems:
        raise CohortError("training: " + "; ".join(problems[:10]))
    return split


def write_split(path: Path, split: Mapping[str, str], centres: Mapping[str, str]) -> None:
    """Write patient, centre and part as a table that `read_split` reads."""
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["patient_id", "centre", "part"])
        writer.writerows([patient, centres[patient], split[patient]] for patient in sorted(split))
