"""Reads the user's own tables: the clinical table, and features that were extracted elsewhere."""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from radloom.assembly import refuse_shared_columns
from radloom.cohort import NAME, is_missing
from radloom.cohort import read_sheet as read_text
from radloom.errors import CohortError

MOST_SHOWN = 20
BAD_FEATURES = "the feature table can't be used"
ID_COLUMNS = ("case_id", "patient_id", "centre", "roi")


@dataclass(frozen=True)
class Clinical:
    """The clinical table: `key` is `patient_id` or `case_id`, `rows` maps a key's value to the cells by
    column.
    """

    key: str
    columns: list[str]
    rows: dict[str, dict[str, str]]


@dataclass(frozen=True)
class FeatureTable:
    """Features of cases x ROIs: every row's `ids` has case_id, patient_id, centre, roi (and further columns
    of
    the cohort, where a table made elsewhere carries them); `values` is (rows, features).
    """

    ids: list[dict[str, str]]
    features: list[str]
    values: np.ndarray
    warnings: list[str]


def _read_cells(path: Path) -> tuple[list[str], list[pd.Series], list[int]]:
    """Columns, the stripped cells of each, and the line on which each row ends, of a CSV or TSV file (UTF-8,
    `.gz` too).
    """
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as error:
        raise CohortError(f"the feature table is not readable as UTF-8 text ({type(error).__name__})") from None
    first = text.split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",\t;", key=first.count))
    columns = [cell.strip() for cell in next(reader, [])]
    problems: list[str] = []
    rows: list[list[str]] = []
    lines: list[int] = []
    for row in reader:
        if len(row) == len(columns):
            rows.append([cell.strip() for cell in row])
            lines.append(reader.line_num)
        elif any(cell.strip() for cell in row):
            problems.append(f"line {reader.line_num}: {len(row)} cells, the header has {len(columns)}")
    _raise(BAD_FEATURES, problems)
    return columns, [pd.Series([row[i] for row in rows], dtype=object) for i in range(len(columns))], lines


def read_clinical(path: Path) -> Clinical:
    """Read the clinical table, keyed by `patient_id` or, where that is absent, by `case_id`.

    Raises CohortError for a missing key column, an empty key, and a key that has two rows (with the lines).
    """
    sheet, problems = read_text(path, "clinical table")
    _raise("the clinical table can't be used", problems)
    key = next((name for name in ("patient_id", "case_id") if name in sheet.columns), None)
    if key is None:
        raise CohortError("the clinical table has neither a column 'patient_id' nor 'case_id'")
    rows: dict[str, dict[str, str]] = {}
    lines: dict[str, list[int]] = {}
    for row, line in zip(sheet.rows, sheet.lines, strict=True):
        if not row[key]:
            problems.append(f"line {line}: {key} is empty")
            continue
        lines.setdefault(row[key], []).append(line)
        rows[row[key]] = {n: "" if is_missing(cell) else cell for n, cell in row.items() if n != key}
    problems += [
        f"lines {', '.join(map(str, found))}: the same {key} has {len(found)} rows, there must be one"
        for found in lines.values()
        if len(found) > 1
    ]
    _raise("the clinical table can't be used", problems)
    return Clinical(key, [name for name in sheet.columns if name != key], rows)


def read_feature_table(path: Path, clinical: Clinical | None, further: Collection[str] = ()) -> FeatureTable:
    """Read features that were extracted elsewhere (CSV, TSV or Parquet; `.gz` allowed), one row a case and
    ROI.

    `case_id` is required; `centre` (or `center`) may be a column of the clinical table instead; `patient_id`
    defaults to the case, `roi` to "ROI". Columns named in `further` describe the case, PyRadiomics'
    `diagnostics_...` columns are left out with a warning. Every other column is a feature; an empty cell is
    a feature that could not be computed (NaN). Raises CohortError, with line, case and column, for a cell
    that is no finite number, a case x ROI that appears twice, a missing or contradictory centre, names
    that can't be used, and features that are also columns of the clinical table.
    """
    if ".parquet" in path.suffixes:
        frame = pd.read_parquet(path)
        columns, where = [str(name) for name in frame.columns], "row"
        cells, lines = [frame.iloc[:, i] for i in range(len(columns))], list(range(1, len(frame) + 1))
    else:
        (columns, cells, lines), where = _read_cells(path), "line"
    if "centre" not in columns:
        columns = ["centre" if name == "center" else name for name in columns]
    _raise(BAD_FEATURES, [f"column {n!r} appears twice" for n, count in Counter(columns).items() if count > 1])
    if "case_id" not in columns:
        raise CohortError("the feature table has no column 'case_id'")
    if not lines:
        raise CohortError("the feature table has no rows")
    about = [name for name in columns if name in ID_COLUMNS or name in further]
    dropped = [name for name in columns if name.startswith("diagnostics_")]
    features = [name for name in columns if name not in about and name not in dropped]
    if not features:
        raise CohortError("the feature table has no feature: no column beside " + ", ".join(about))
    refuse_shared_columns(features, clinical.columns if clinical else [])

    ids = _identify({name: _texts(cells[columns.index(name)]) for name in about}, len(lines), clinical)
    _raise(BAD_FEATURES, _id_problems(ids, lines, where))
    values = np.empty((len(lines), len(features)))
    problems: list[str] = []
    for j, name in enumerate(features):
        values[:, j], bad = _numbers(cells[columns.index(name)])
        problems += [
            f"{where} {lines[i]}, case {ids[i]['case_id']}: column {name!r} is not a finite number" for i in bad
        ]
    _raise(BAD_FEATURES, problems)
    warnings = []
    if dropped:
        warnings.append(f"{len(dropped)} columns diagnostics_... of the feature table are no features: left out")
    return FeatureTable(ids, features, values, warnings)


def _identify(text: dict[str, list[str]], n: int, clinical: Clinical | None) -> list[dict[str, str]]:
    """Case, patient, centre, ROI and further columns of every row, with their defaults."""
    known = clinical.columns if clinical else []
    theirs = next((name for name in ("centre", "center") if name in known), None)
    if "centre" not in text and theirs is None:
        raise CohortError("neither the feature table nor the clinical table has a column 'centre' (or 'center')")
    ids: list[dict[str, str]] = []
    for i in range(n):
        row = dict.fromkeys(ID_COLUMNS, "") | {name: cells[i] for name, cells in text.items()}
        row["patient_id"] = row["patient_id"] or row["case_id"]
        row["roi"] = row["roi"] or "ROI"
        if "centre" not in text and clinical is not None and theirs is not None:
            row["centre"] = clinical.rows.get(row[clinical.key], {}).get(theirs, "")
        ids.append(row)
    return ids


def _id_problems(ids: list[dict[str, str]], lines: list[int], where: str) -> list[str]:
    """What is wrong with the rows' names. Those that can't be used are not repeated: they may be a
    patient's.
    """
    problems: list[str] = []
    first_line: dict[tuple[str, str], int] = {}
    cases: dict[str, dict[str, str]] = {}
    spellings: dict[str, str] = {}
    for row, line in zip(ids, lines, strict=True):
        unusable = [name for name in ID_COLUMNS if row[name] and not NAME.fullmatch(row[name])]
        if unusable or not row["case_id"]:
            problems.append(
                f"{where} {line}: {', '.join(unusable) or 'case_id'} is not a letter or digit followed by at most 63 "
                "letters, digits, '.', '_' or '-'"
            )
            continue
        case, centre, roi = row["case_id"], row["centre"], row["roi"]
        if not centre:
            problems.append(f"{where} {line}: case {case} has no centre")
        other = spellings.setdefault(re.sub(r"[._-]", "", centre.casefold()), centre)
        if other != centre:
            problems.append(f"{where} {line}: case {case}: centre {centre} is elsewhere written {other}")
        before = first_line.setdefault((case, roi), line)
        if before != line:
            problems.append(f"{where}s {before} and {line}: case {case}, ROI {roi} appears twice")
        same = cases.setdefault(case, row)
        differ = [name for name in row if name != "roi" and row[name] != same[name]]
        if differ:
            problems.append(f"{where} {line}: case {case}: {', '.join(differ)} differs from the case's first row")
    return problems


def _texts(cells: pd.Series) -> list[str]:
    """Cells as stripped text; null is the empty text."""
    return ["" if value is None or value != value else str(value).strip() for value in cells]


def _numbers(cells: pd.Series) -> tuple[np.ndarray, list[int]]:
    """Cells as float64 with NaN for missing, and the positions of those that are no finite number."""
    values = np.full(len(cells), np.nan)
    bad: list[int] = []
    if cells.dtype.kind in "iuf":
        values[:] = cells.to_numpy(np.float64)
        return values, np.flatnonzero(np.isinf(values)).tolist()
    for i, cell in enumerate(cells):
        if cell is None or cell != cell or (isinstance(cell, str) and is_missing(cell)):
            continue
        try:
            values[i] = float("x" if isinstance(cell, bool | np.bool_) else cell)
        except (TypeError, ValueError):
            bad.append(i)
            continue
        # float() reads "1_000" as 1000 and "infinity": neither is a number that a table should hold.
        if not math.isfinite(values[i]) or (isinstance(cell, str) and "_" in cell):
            bad.append(i)
    return values, bad


def _raise(what: str, problems: list[str]) -> None:
    """Raise CohortError with the first problems and the number of the rest, if there are any."""
    if problems:
        shown = problems[:MOST_SHOWN]
        rest = [f"... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        raise CohortError("\n  ".join([f"{what}:", *shown, *rest]))
