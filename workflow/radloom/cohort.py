"""The cohort sheet and the clinical table: reading them, and finding all that is wrong with them at once.

Messages name the sheet's lines and the case, never the path of a source: folders carry patients' names.
"""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from radloom.source_names import is_url, is_volume

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ROI_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
REQUIRED = ("case_id", "centre", "image")
HOUNSFIELD = ("water_hu", "air_hu", "water_hu_sd", "air_hu_sd")
# Columns that the chain itself reads; every other column may serve as batch, where the configuration names it.
KNOWN = (*REQUIRED, "patient_id", "mask", "series", "mask_roi", "roi_name", "repeat_id", *HOUNSFIELD)
PAIRS = (
    *(("water_hu", "air_hu"), ("air_hu", "water_hu")),
    *(("water_hu_sd", "air_hu_sd"), ("air_hu_sd", "water_hu_sd"), ("water_hu_sd", "water_hu")),
)
"""Of the readings of HU, what is nothing without what."""
PATHS = ("image", "mask")
# What never leaves the sheet: paths, UIDs, and the free text of descriptions and of the names of drawn ROIs.
PRIVATE = (*PATHS, "series", "mask_roi")
MOST_PROBLEMS = 100
# How people write that a value is not known, in lower case.
MISSING = frozenset({"", "na", "n/a", "nan", "null", "."})


@dataclass(frozen=True)
class Sheet:
    """A table as text: its columns, its rows, and each row's line in the file (the header is line 1)."""

    columns: list[str]
    rows: list[dict[str, str]]
    lines: list[int]


def read_sheet(path: Path, name: str) -> tuple[Sheet, list[str]]:
    """Read a TSV or CSV table (by its ending) as stripped text; return it with what is wrong with its form.

    `name` is what messages call it. Empty lines and lines that begin with `#` are passed over.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return Sheet([], [], []), [f"{name}: the file {path} does not exist"]
    except (OSError, UnicodeDecodeError):
        return Sheet([], [], []), [f"{name}: {path} can't be read as UTF-8 text"]
    delimiter = "," if path.suffix.lower() == ".csv" else "\t"
    columns: list[str] = []
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    problems: list[str] = []
    reader = csv.reader(text.splitlines(), delimiter=delimiter, strict=True)
    line = 0
    while True:
        first = line + 1
        try:
            cells = [cell.strip() for cell in next(reader)]
        except StopIteration:
            break
        except csv.Error:
            # A quote that is not closed would swallow the lines after it, and their cases.
            problems.append(f"{name}, line {first}: a quotation mark is not closed, or stands inside a cell")
            break
        line = reader.line_num
        if line > first:
            problems.append(f"{name}, line {first}: a quoted cell goes on over {line - first + 1} lines")
        if not any(cells) or cells[0].startswith("#"):
            continue
        if not columns:
            columns = cells
            doubled = [n + 1 for n, c in enumerate(columns) if c in columns[:n]]
            if doubled:
                # By number: in a table without a header the first row is a patient's.
                where = ", ".join(map(str, doubled))
                problems.append(f"{name}, line {line}: the names of columns must differ; given twice: number {where}")
            continue
        if len(cells) > len(columns):
            problems.append(f"{name}, line {line}: {len(cells)} cells, but {len(columns)} columns")
            continue
        cells += [""] * (len(columns) - len(cells))
        rows.append(dict(zip(columns, cells, strict=True)))
        lines.append(line)
    if not columns:
        problems.append(f"{name}: {path} is empty")
    return Sheet(columns, rows, lines), problems


def read_cohort(path: Path) -> tuple[Sheet, list[str]]:
    """Read the cohort sheet, with `patient_id` filled in, and list everything that is wrong with it but its files."""
    sheet, problems = read_sheet(path, "cohort sheet")
    if not sheet.columns:
        return sheet, problems
    missing = [column for column in REQUIRED if column not in sheet.columns]
    if missing:
        return sheet, [*problems, f"cohort sheet: column missing: {', '.join(missing)}"]
    if not sheet.rows:
        problems.append("cohort sheet: no case")
    seen: dict[str, int] = {}
    patients: dict[str, dict[str, int]] = {}
    spellings: dict[str, dict[str, int]] = {}
    repeats: dict[str, dict[str, str]] = {}
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        where = f"cohort sheet, line {line}"
        row["patient_id"] = row.get("patient_id") or row["case_id"]
        for column in ("case_id", "centre", "patient_id"):
            if not NAME.fullmatch(row[column]):
                # The value itself is not repeated: what stands there by mistake may be a patient's name.
                problems.append(
                    f"{where}: {column} is not a letter or digit and up to 63 more letters, digits, '.', '_' or '-'"
                )
            elif is_missing(row[column]):
                problems.append(f"{where}: {column} reads like a missing value")
        if NAME.fullmatch(row["patient_id"]):
            patients.setdefault(row["patient_id"].casefold(), {}).setdefault(row["patient_id"], line)
        # Two ids that differ in case alone would meet in one folder on some file systems.
        case = row["case_id"].casefold()
        if case in seen:
            problems.append(f"{where}: duplicate case_id, first on line {seen[case]}")
        seen.setdefault(case, line)
        if NAME.fullmatch(row["centre"]):
            spellings.setdefault(re.sub(r"[._-]", "", row["centre"].casefold()), {}).setdefault(row["centre"], line)
        problems += _hounsfield_problems(row, where)
        problems += _cell_problems(row, where)
        problems += _repeat_problems(row, where, repeats)
        if row.get("roi_name") and not ROI_NAME.fullmatch(row["roi_name"]):
            problems.append(f"{where}: roi_name is not a letter followed by at most 31 letters, digits or '_'")
    for name, written in (("centre", spellings), ("patient_id", patients)):
        for ways in written.values():
            if len(ways) > 1:
                listed = ", ".join(f"{way} (line {line})" for way, line in ways.items())
                problems.append(f"cohort sheet: a {name} written {len(ways)} ways: {listed}")
    return sheet, problems


def _cell_problems(row: dict[str, str], where: str) -> list[str]:
    """List what is wrong with the cells that name image and mask, and what is to be chosen of them."""
    image, mask = row["image"], row.get("mask", "")
    if not image:
        return [f"{where}: no image"]
    problems = []
    if row.get("series") and is_volume(image):
        problems.append(f"{where}: series chooses among the series of DICOM, and the image is a single volume")
    if row.get("mask_roi") and not mask:
        problems.append(f"{where}: mask_roi without mask")
    elif row.get("mask_roi") and is_volume(mask):
        problems.append(f"{where}: mask_roi chooses among the ROIs of an RTSTRUCT or SEG, and the mask is a volume")
    return problems


def _repeat_problems(row: dict[str, str], where: str, seen: dict[str, dict[str, str]]) -> list[str]:
    """List what is wrong with a row's `repeat_id`; `seen` holds the patients' repeats so far, and where they stand."""
    repeat = row.get("repeat_id", "")
    others = seen.setdefault(row["patient_id"], {})
    problems = []
    if repeat and (not NAME.fullmatch(repeat) or is_missing(repeat)):
        problems.append(
            f"{where}: repeat_id is not a letter or digit and up to 63 more letters, digits, '.', '_' or '-', "
            "or reads like a missing value"
        )
    if repeat in others and repeat:
        problems.append(f"{where}: the patient has this repeat_id already, {others[repeat]}")
    elif others and bool(repeat) != bool(next(iter(others))):
        problems.append(
            f"{where}: some rows of the patient have a repeat_id and some don't: give it to all, or to none"
        )
    others.setdefault(repeat, where.partition(", ")[2])
    return problems


def repeated_patients(rows: list[dict[str, str]]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of each patient who has several with a `repeat_id`, in the order of the sheet."""
    patients: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row.get("repeat_id"):
            patients.setdefault(row.get("patient_id") or row["case_id"], []).append(row)
    return {patient: own for patient, own in patients.items() if len(own) > 1}


def is_missing(cell: str) -> bool:
    """Tell whether a cell of a table that a person made says that the value is not known."""
    return cell.strip().lower() in MISSING


def _hounsfield_problems(row: dict[str, str], where: str) -> list[str]:
    problems = []
    given = [column for column in HOUNSFIELD if row.get(column)]
    for column in given:
        try:
            value = float(row[column])
        except ValueError:
            problems.append(f"{where}: {column} is not a number")
            continue
        expected = {"water_hu": 0, "air_hu": -1000}.get(column)
        if expected is None:
            if not 0 < value < math.inf:
                problems.append(f"{where}: {column} is not above 0; leave it empty where it is not known")
        elif not abs(value - expected) <= 200:
            problems.append(f"{where}: {column} is further than 200 HU from {expected}")
    return problems + [f"{where}: {one} without {other}" for one, other in PAIRS if one in given and other not in given]


def source_path(sheet: Path, cell: str) -> Path | str:
    """Return the absolute path of a source: relative ones count from the folder of the sheet; of a server its URL."""
    if is_url(cell):
        return cell
    return Path(cell) if Path(cell).is_absolute() else sheet.resolve().parent / cell


def summarise(problems: list[str]) -> list[str]:
    """Shorten a very long list of problems, saying how many more there are."""
    if len(problems) <= MOST_PROBLEMS:
        return problems
    return [*problems[:MOST_PROBLEMS], f"... and {len(problems) - MOST_PROBLEMS} more"]
