"""How stable each feature is: intraclass correlations over perturbations and real repeats, in all and by centre."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.cohort import repeated_patients
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.icc import Array, Icc, icc_1_1, icc_2_1, icc_3_1

COLUMNS = [
    "feature",
    "roi",
    "source",
    "icc",
    "scope",
    "centre",
    "estimate",
    "ci_low",
    "ci_high",
    "n_cases",
    "n_repeats",
    "note",
]
PERTURBATION, REPEATS = "perturbation", "repeats"
ALL, CENTRE = "all", "centre"
FORMS = {PERTURBATION: (icc_1_1,), REPEATS: (icc_1_1, icc_2_1, icc_3_1)}

# "As a rule of thumb, researchers should try to obtain at least 30 heterogeneous samples and involve at least 3 raters"
# (Koo and Li, J Chiropr Med 15:155, 2016).
FEW_CASES = 30
FEW_PERTURBATIONS = 3


def perturbation_values(
    cases: Sequence[Mapping[str, str]], files: Mapping[str, Path]
) -> dict[str, tuple[list[str], list[str], Array]]:
    """By ROI: features, the centre of each case, and values (cases, perturbations, features), NaN where there is none.

    cases: rows of the cohort in the order of the sheet. Of a patient's scans only the first one that has the ROI
    counts: others would be cases that are not independent.
    """
    columns: list[str] = []
    found: dict[str, list[tuple[str, dict[int, list[float]]]]] = {}
    seen: set[tuple[str, str]] = set()
    for case in cases:
        path = files.get(case["case_id"])
        if path is None:
            continue
        header, rows = _read_perturbed(path)
        columns = columns or header
        if header != columns:
            raise RuntimeError("the perturbed features of two cases have different columns")
        for roi, values in rows.items():
            patient = case.get("patient_id") or case["case_id"]
            if (patient, roi) not in seen:
                seen.add((patient, roi))
                found.setdefault(roi, []).append((case["centre"], values))
    result = {}
    for roi, own in found.items():
        numbers = sorted({number for _, values in own for number in values})
        blank = [math.nan] * len(columns)
        stacked = np.array([[values.get(number, blank) for number in numbers] for _, values in own])
        result[roi] = (columns, [centre for centre, _ in own], stacked)
    return result


def _read_perturbed(path: Path) -> tuple[list[str], dict[str, dict[int, list[float]]]]:
    """Feature names and, by ROI and number of the perturbation, values of a case's perturb/features.csv."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    found: dict[str, dict[int, list[float]]] = {}
    for roi, number, *cells in rows:
        found.setdefault(roi, {})[int(number)] = [float(cell) if cell else math.nan for cell in cells]
    return header[2:], found


def repeat_values(
    cases: Sequence[Mapping[str, str]], features: pd.DataFrame
) -> dict[str, tuple[list[str], list[str], Array]]:
    """By ROI: features, centres, and values (patients, repeats, features) of patients with several `repeat_id`.

    features: one row a case and ROI. A repeat without features (excluded, or not made) is NaN. The centre is empty
    where a patient's repeats are of different centres: they belong to none. Raises CohortError where a patient has a
    `repeat_id` twice.
    """
    patients = repeated_patients([dict(case) for case in cases])
    for patient, rows in patients.items():
        ids = [row["repeat_id"] for row in rows]
        if len(set(ids)) < len(ids):
            raise CohortError(f"patient {patient} has the same repeat_id twice. Name each repeat of a patient once")
    order = list(dict.fromkeys(row["repeat_id"] for rows in patients.values() for row in rows))
    names = [str(name) for name in features.columns if name not in ("case_id", "patient_id", "centre", "roi")]
    result = {}
    for roi in dict.fromkeys(features["roi"]) if patients else ():
        table = features[features["roi"] == roi].set_index("case_id")[names]
        values = np.full((len(patients), len(order), len(names)), np.nan)
        for position, rows in enumerate(patients.values()):
            for row in rows:
                if row["case_id"] in table.index:
                    values[position, order.index(row["repeat_id"])] = table.loc[row["case_id"]].to_numpy(np.float64)
        centres = [rows[0]["centre"] if len({r["centre"] for r in rows}) == 1 else "" for rows in patients.values()]
        result[str(roi)] = (names, centres, values)
    return result


def stability_rows(source: str, roi: str, features: Sequence[str], centres: Sequence[str], values: Array) -> list[Any]:
    """Rows of the table for one ROI and source: each form over all cases, then within each centre if there are several.

    values: (cases, repeats, features).
    """
    placed = np.array(centres, dtype=object)
    names = [name for name in dict.fromkeys(centres) if name]
    scopes = [(ALL, "", np.ones(len(values), dtype=bool))]
    if len(names) > 1 or "" in centres:
        scopes += [(CENTRE, name, placed == name) for name in names]
    rows: list[Any] = []
    for scope, centre, chosen in scopes:
        for form in FORMS[source]:
            rows += _rows(form(values[chosen]), source, roi, features, scope, centre)
    return rows


def _rows(found: Icc, source: str, roi: str, features: Sequence[str], scope: str, centre: str) -> Iterable[Any]:
    numbers = (found.estimate, found.low, found.high, found.cases, found.repeats)
    for feature, (estimate, low, high, cases, repeats), note in zip(
        features, np.stack(numbers, axis=1).tolist(), found.note, strict=True
    ):
        yield (feature, roi, source, found.form, scope, centre, estimate, low, high, int(cases), repeats, note)


def few_cases_warnings(table: pd.DataFrame) -> list[str]:
    """A sentence for each ROI and source whose coefficients rest on few cases or perturbations."""
    messages = []
    whole = table[table["scope"] == ALL]
    for (roi, source, form), rows in whole.groupby(["roi", "source", "icc"], sort=False):
        cases, repeats = int(rows["n_cases"].max()), float(rows["n_repeats"].max())
        if cases < FEW_CASES:
            messages.append(
                f"stability of ROI {roi}, {source}, {form}: {cases} cases, fewer than {FEW_CASES}; "
                "the intervals are wide, and they count on cases that differ as those to come"
            )
        if source == PERTURBATION and repeats < FEW_PERTURBATIONS:
            messages.append(f"stability of ROI {roi}: {repeats:g} perturbations a case, fewer than {FEW_PERTURBATIONS}")
    return messages


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the perturbed features and the tables, writes tables/stability.csv."""
    with open(task.inputs["tables/cohort.csv"], encoding="utf-8", newline="") as stream:
        cases = list(csv.DictReader(stream))
    features = pd.read_parquet(task.inputs["tables/features_raw.parquet"])
    entries = task.entries.get("perturb", {})
    with_features = set(features["case_id"])
    files = {
        case: entry.files["features.csv"]
        for case, entry in entries.items()
        if entry.status == "ok" and case in with_features
    }
    rows: list[Any] = []
    for source, by_roi in (
        (PERTURBATION, perturbation_values(cases, files)),
        (REPEATS, repeat_values(cases, features)),
    ):
        for roi, values in by_roi.items():
            rows += stability_rows(source, roi, *values)
    table = pd.DataFrame(rows, columns=COLUMNS)
    messages = few_cases_warnings(table)
    messages += [f"{case}: {warning}" for case, entry in entries.items() for warning in entry.warnings]
    lost = [case for case, entry in entries.items() if entry.status == "excluded" and case in with_features]
    if lost:
        reasons = list(dict.fromkeys(entries[case].reason for case in lost))
        messages.append(f"{len(lost)} cases have features but could not be perturbed: {'; '.join(reasons[:3])}")
    folder = task.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "stability.csv", index=False, lineterminator="\n", encoding="utf-8")
    return CohortResult(facts={"rows": len(table), "sources": list(dict.fromkeys(table["source"]))}, warnings=messages)
