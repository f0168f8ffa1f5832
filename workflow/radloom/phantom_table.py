"""Tables of phantom measurements, and the line of HU that a scanner had on a day, with its uncertainty.

A table has one row a scanner, day and material: the HU that the material should have and those measured; with a column
`centre` scanners are told apart by it too. Through the materials of one scanner and day goes a line HU_true = slope
HU_measured + intercept, by least squares weighted with 1 / sd^2 (without `sd`, evenly).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from radloom.cohort import is_missing, read_sheet
from radloom.errors import CaseError

Covariance = tuple[float, float, float]
"""Variance of the slope, covariance of slope and intercept, variance of the intercept."""

_REQUIRED = ("scanner", "material", "hu_expected", "hu_measured")
_HU_RANGE = (-1100.0, 4000.0)
_LEAST_SPAN = 100.0  # HU; between the materials of a line
_ROUNDING = 1 / 12  # HU^2; the variance of what is rounded to whole HU
_TABLE = "the table of phantom measurements (calibrate: phantom_table)"


@dataclass(frozen=True)
class Measurement:
    """One material of a phantom on one scanner; `day` is None in a table without days, `sd` where it is not given, and
    `centre` in a table that doesn't name any.
    """

    scanner: str
    day: float | None
    material: str
    expected: float
    measured: float
    sd: float | None
    centre: str | None = None


@dataclass(frozen=True)
class Line:
    """HU_true = slope HU_measured + intercept, and the covariance of the two; None where nothing tells of it."""

    slope: float
    intercept: float
    covariance: Covariance | None

    def sd(self, hu: float) -> float | None:
        """Standard deviation in HU of the corrected value at `hu`, measured."""
        if self.covariance is None:
            return None
        slope, both, intercept = self.covariance
        return math.sqrt(max(slope * hu**2 + 2 * both * hu + intercept, 0.0))


def is_day(text: str) -> bool:
    """Tell whether a cell is a finite number, as days are given."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_phantom_table(path: Path) -> tuple[list[Measurement], list[str]]:
    """Read a table (TSV or CSV) and list all that is wrong with it; what is wrong names lines, not what they hold."""
    name = "phantom table"
    sheet, problems = read_sheet(path, name)
    if not sheet.columns:
        return [], problems
    missing = [column for column in _REQUIRED if column not in sheet.columns]
    if missing:
        return [], [*problems, f"{name}: column missing: {', '.join(missing)}"]
    rows: list[Measurement] = []
    seen: dict[tuple[str | None, str, float | None, str], int] = {}
    for cells, line in zip(sheet.rows, sheet.lines, strict=True):
        where = f"{name}, line {line}"
        bad = [c for c in ("hu_expected", "hu_measured") if not is_day(cells[c])]
        bad += [c for c in ("sd", "day") if not is_missing(cells.get(c, "")) and not is_day(cells[c])]
        if bad:
            # A date in the column of days must not be repeated either.
            problems += [f"{where}: {column} is not a number" for column in bad]
            continue
        sd = None if is_missing(cells.get("sd", "")) else float(cells["sd"])
        day = None if is_missing(cells.get("day", "")) else float(cells["day"])
        expected, measured = float(cells["hu_expected"]), float(cells["hu_measured"])
        row = Measurement(cells["scanner"], day, cells["material"], expected, measured, sd, cells.get("centre"))
        if not row.scanner or not row.material or row.centre == "":
            problems.append(f"{where}: scanner, material or centre is missing")
        if not all(_HU_RANGE[0] <= hu <= _HU_RANGE[1] for hu in (row.expected, row.measured)):
            problems.append(f"{where}: HU outside {_HU_RANGE[0]:g} to {_HU_RANGE[1]:g}")
        if sd is not None and not sd > 0:
            problems.append(f"{where}: sd is not above 0")
        key = (row.centre, row.scanner, row.day, row.material)
        if key in seen:
            problems.append(f"{where}: the same scanner, day and material as on line {seen[key]}")
        seen.setdefault(key, line)
        rows.append(row)
    for scanner in dict.fromkeys((row.centre, row.scanner) for row in rows):
        own = [row for row in rows if (row.centre, row.scanner) == scanner]
        lines = [seen[row.centre, row.scanner, row.day, row.material] for row in own]
        where = f"{name}, lines {min(lines)} to {max(lines)}"
        if len({row.day is None for row in own}) > 1:
            problems.append(f"{where}: some measurements of a scanner have a day and some don't")
        if len({row.sd is None for row in own}) > 1:
            problems.append(f"{where}: some measurements of a scanner have an sd and some don't")
        for day in dict.fromkeys(row.day for row in own):
            span = [row.expected for row in own if row.day == day]
            if max(span) - min(span) < _LEAST_SPAN:
                problems.append(
                    f"{where}: the materials of a scanner and day need to lie at least {_LEAST_SPAN:g} HU apart"
                )
    return rows, problems


def fit_line(measured: Sequence[float], expected: Sequence[float], sd: Sequence[float] | None) -> Line:
    """The line through points of measured and expected HU, by least squares weighted with 1 / sd^2.

    The covariance is (X' W X)^-1 times, where `sd` (of `measured`, whose errors the line multiplies by its slope) is
    given, the larger of slope^2 and chi^2 / (n - 2), so that materials that don't lie on a line widen it (Birge's
    ratio), else the variance of the residuals, or of rounding to whole HU where that is larger: three materials may lie
    on a line by chance. It is None for two points without `sd`: they lie on their line whatever
    their errors. At least two different values of `measured` are needed.
    """
    x, y = np.asarray(measured, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    weights = np.ones_like(x) if sd is None else 1 / np.asarray(sd, dtype=np.float64) ** 2
    # About the weighted mean the slope and the value there are independent, which is exact for any HU.
    centre, level = np.average(x, weights=weights), np.average(y, weights=weights)
    spread = float(np.sum(weights * (x - centre) ** 2))
    slope = float(np.sum(weights * (x - centre) * (y - level)) / spread)
    chi2 = float(np.sum(weights * (y - level - slope * (x - centre)) ** 2))
    free = len(x) - 2
    if sd is None:
        scale = max(chi2 / free, slope**2 * _ROUNDING) if free else None
    else:
        scale = max(slope**2, chi2 / free) if free else slope**2
    covariance = None
    if scale is not None:
        of_slope, of_level = scale / spread, scale / float(weights.sum())
        covariance = (of_slope, -float(centre) * of_slope, of_level + float(centre) ** 2 * of_slope)
    return Line(slope, float(level - slope * centre), covariance)


def phantom_line(rows: Iterable[Measurement], cell: Mapping[str, str], settings: Mapping[str, Any]) -> Line | None:
    """The line of a case's scanner on the day of the scan; None where the table doesn't have the scanner.

    `cell` are the case's cells of the cohort sheet (and of its DICOM headers), `settings` the section `calibrate`.
    Between two days `interpolate` takes slope and intercept linearly, and their covariance as that of the weighted mean
    of independent measurements; after the last day it is that day's, as with `last`. Nothing is taken from a later day
    alone: what was changed since the scan would be undone. Raises CaseError where there is no measurement for the day.
    """
    scanner = cell.get(settings["scanner_column"], "").strip()
    own = [row for row in rows if row.scanner == scanner and row.centre in (None, cell.get("centre"))]
    if not own:
        return None
    if own[0].day is None:
        return _line_of(own, None)
    text = cell.get(settings["day_column"], "")
    if not is_day(text):
        raise CaseError(
            "the day of the scan is not given, and its scanner's phantom measurements have days",
            f"Fill in the column {settings['day_column']} of the cohort sheet.",
        )
    day = float(text)
    days = sorted({row.day for row in own if row.day is not None})
    before = [d for d in days if d <= day]
    if not before:
        raise CaseError(
            "the first phantom measurement of its scanner is later than the scan",
            f"Add an earlier one to {_TABLE}, or give the case's own water_hu and air_hu.",
        )
    last = before[-1]
    most = settings["phantom_max_days"]
    if most is not None and day - last > most:
        raise CaseError(
            f"the last phantom measurement of its scanner is {day - last:g} days older than the scan, over {most:g}",
            f"Add a later one to {_TABLE}, or raise calibrate: phantom_max_days.",
        )
    line = _line_of(own, last)
    after = [d for d in days if d > day]
    if settings["phantom_day"] == "last" or not after or last == day:
        return line
    share = (day - last) / (after[0] - last)
    return _between(line, _line_of(own, after[0]), share)


def _line_of(rows: Iterable[Measurement], day: float | None) -> Line:
    own = [row for row in rows if row.day == day]
    sds = [row.sd for row in own if row.sd is not None]
    measured = [row.measured for row in own]
    if max(measured) - min(measured) < _LEAST_SPAN / 2:
        raise CaseError(
            "the materials of its scanner's phantom were measured at nearly the same HU", f"Correct them in {_TABLE}."
        )
    return fit_line(measured, [row.expected for row in own], sds or None)


def _between(first: Line, second: Line, share: float) -> Line:
    covariance = None
    if first.covariance is not None and second.covariance is not None:
        a, b, c = (
            (1 - share) ** 2 * one + share**2 * other
            for one, other in zip(first.covariance, second.covariance, strict=True)
        )
        covariance = (a, b, c)
    return Line(
        (1 - share) * first.slope + share * second.slope,
        (1 - share) * first.intercept + share * second.intercept,
        covariance,
    )
