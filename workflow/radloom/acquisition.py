"""How scans were acquired: the columns of the acquisition table, clean values for them, and days without dates.

Values come from DICOM headers (`radloom.dicom.acquisition`) and from columns of the cohort sheet of the same name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radloom.cohort import is_missing

Value = str | float | None

# Of each number the least and the largest that is believed.
RANGES: dict[str, tuple[float, float]] = {
    "kvp": (20, 200),
    "tube_current": (1, 5000),
    "exposure": (0.1, 10_000),
    "slice_thickness": (0.05, 50),
    "pitch": (0.01, 10),
    "table_height": (-5000, 5000),
    "gantry_tilt": (-60, 60),
}
COLUMNS = (
    "manufacturer",
    "scanner_model",
    "software",
    "kernel",
    "reconstruction",
    *("kvp", "tube_current", "exposure", "slice_thickness", "pitch", "contrast", "table_height", "gantry_tilt"),
    "transfer_syntax",
)
TEXTS = tuple(name for name in COLUMNS if name not in RANGES)
SCAN_DAY = "scan_day"
"""Days from the patient's first scan in the cohort."""

SHIFTED_DAY = "shifted_day"
"""What a record has instead of a date: a number of days whose differences within a patient are true."""

NAMED = (*COLUMNS, SCAN_DAY)
MIXED = "mixed"

# 0 stands in headers for what a scanner doesn't know; here it is also a value.
_ZERO_IS_A_VALUE = ("table_height", "gantry_tilt")
_DECIMALS = 3  # so that 3.26999999999998 mm and 3.27 mm are one batch
_TEXT = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+/():-]{0,31}")
_LONG_DIGITS = re.compile(r"[0-9][0-9.]{15,}")  # an identifier rather than a version
# What occurs in (0008,0070), as words in lower case, and how the table spells it. Toshiba's scanners became Canon's.
_MANUFACTURERS = {
    "siemens": "Siemens",
    "ge": "GE",
    "general electric": "GE",
    "philips": "Philips",
    "picker": "Philips",
    "marconi": "Philips",
    "elscint": "Philips",
    "canon": "Canon",
    "toshiba": "Canon",
    "hitachi": "Fujifilm",
    "fujifilm": "Fujifilm",
    "neusoft": "Neusoft",
    "uih": "United Imaging",
    "united imaging": "United Imaging",
    "shimadzu": "Shimadzu",
    "neurologica": "NeuroLogica",
    "varian": "Varian",
    "elekta": "Elekta",
    "accuray": "Accuray",
}
_NO_CONTRAST = frozenset(
    (
        *("no", "none", "n", "non", "nil", "without", "native", "nativ", "unenhanced", "plain", "w/o", "wo", "false"),
        *("no contrast", "without contrast", "non contrast", "noncontrast", "non-contrast", "no iv"),
    )
)
# What programs that de-identify write in the place of a text, and what stands for "not known".
_REMOVED = re.compile(r"anon|de-?id|removed|redact|deleted|dummy|unknown|not specified|masked|pseudo|^x+$|^[^a-z1-9]*$")


def clean(column: str, value: object) -> Value:
    """Return the value of a column as the table has it, None where it can't be believed or may be private.

    Numbers within RANGES, rounded to 3 decimals; texts short and of plain letters, digits and signs. Raises KeyError
    for a column that the table doesn't have.
    """
    if column in RANGES:
        return _number(column, value)
    text = " ".join(str(value).split())
    if column == "manufacturer":
        return manufacturer_name(text) or _text(text)
    if column == "contrast":
        return text.lower() if text.lower() in ("yes", "no", MIXED) else None
    if column not in TEXTS:
        raise KeyError(column)
    return _text(text)


def is_known_zero(column: str, value: object) -> bool:
    """Tell whether a value is a 0 that stands for "not known"."""
    try:
        return column in RANGES and column not in _ZERO_IS_A_VALUE and float(str(value)) == 0
    except ValueError:
        return False


def _number(column: str, value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    least, largest = RANGES[column]
    return round(number, _DECIMALS) + 0.0 if math.isfinite(number) and least <= number <= largest else None


def _text(text: str) -> str | None:
    return text if _TEXT.fullmatch(text) and not _LONG_DIGITS.search(text) and not is_missing(text) else None


def manufacturer_name(text: str) -> str | None:
    """Return the one spelling of a manufacturer of CT scanners, None for one that is not known."""
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    return next((name for word, name in _MANUFACTURERS.items() if re.match(rf"{word}\b", words)), None)


def contrast_given(agent: str) -> str:
    """Return yes or no for the free text that names a contrast agent, "" where it says neither.

    The text itself goes nowhere.
    """
    text = agent.strip().strip(".").lower()
    if text in _NO_CONTRAST:
        return "no"
    return "" if is_missing(text) or _REMOVED.search(text) else "yes"


def join_sheet(
    cases: Sequence[Mapping[str, str]], headers: Mapping[str, Mapping[str, Value]]
) -> tuple[dict[str, dict[str, Value]], list[tuple[str, str]]]:
    """Return the acquisition of every case (the columns of NAMED), and warnings as pairs of case and text.

    `headers` has what ingest found, by case. A cell of the sheet counts before the header, since somebody wrote it for
    this cohort; where the two differ in more than upper and lower case there is a warning. A cell that no clean value
    can be made of is as an empty one, with a warning that doesn't repeat it.
    """
    found: dict[str, dict[str, Value]] = {}
    warnings: list[tuple[str, str]] = []
    for case in cases:
        case_id = case["case_id"]
        header = headers.get(case_id, {})
        row: dict[str, Value] = {}
        for column in COLUMNS:
            row[column] = known = header.get(column)
            cell = case.get(column, "")
            if is_missing(cell):
                continue
            given = clean(column, cell)
            if given is None:
                warnings.append((case_id, f"the cohort sheet's {column} is no possible value and is left out"))
            elif known is None or str(given).casefold() != str(known).casefold():
                row[column] = given
                if known is not None:
                    warnings.append((case_id, f"{column} differs in cohort sheet and DICOM header; the sheet's counts"))
        found[case_id] = row
    _add_days(cases, headers, found, warnings)
    return found, warnings


def read_headers(inputs: Mapping[str, Path]) -> dict[str, Any]:
    """What ingest found in a case's DICOM headers, by the names of `COLUMNS`; nothing where it had none."""
    path = inputs.get("ingest/acquisition.json")
    return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8")))


def with_headers(row: Mapping[str, str], headers: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row, and where it has none what DICOM headers say under the same names."""
    known = {name: str(value) for name, value in headers.items() if value is not None}
    return known | {name: cell for name, cell in row.items() if not is_missing(cell)}


def _add_days(
    cases: Sequence[Mapping[str, str]],
    headers: Mapping[str, Mapping[str, Value]],
    found: dict[str, dict[str, Value]],
    warnings: list[tuple[str, str]],
) -> None:
    """Add SCAN_DAY: from the patient's first scan with a date; of a patient without any, by the sheet's own days."""
    patients: dict[str, list[Mapping[str, str]]] = {}
    for case in cases:
        patients.setdefault(case.get("patient_id") or case["case_id"], []).append(case)
    for own in patients.values():
        days = {case["case_id"]: headers.get(case["case_id"], {}).get(SHIFTED_DAY) for case in own}
        given = {case["case_id"]: case.get(SCAN_DAY, "") for case in own}
        from_headers = any(day is not None for day in days.values())
        for case_id, cell in given.items():
            if is_missing(cell):
                continue
            if from_headers:
                text = "the cohort sheet's scan_day is left out: the patient's days come from DICOM headers"
                warnings.append((case_id, text))
            elif re.fullmatch(r"[+-]?[0-9]{1,6}(\.0*)?", cell):
                days[case_id] = float(cell)
            else:
                warnings.append((case_id, "the cohort sheet's scan_day is no whole number of days and is left out"))
        known = {case_id: float(day) for case_id, day in days.items() if day is not None}
        for case_id in days:
            first = min(known.values(), default=0.0)
            found[case_id][SCAN_DAY] = known[case_id] - first if case_id in known else None


def cell(value: Any) -> Any:
    """Return a value as it is written to a table: whole numbers without a point, so that 120 and 120.0 are one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
