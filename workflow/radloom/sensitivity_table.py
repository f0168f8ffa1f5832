"""How far each feature moves, and how the ranks of the cases change, under the settings of the step sensitivity."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.sensitivity import BASELINE, read_keyed
from radloom.tables import write_table

FEWEST_CASES = 3
"""With two cases every correlation is 1 or -1."""


@dataclass(frozen=True)
class Change:
    """What a setting does to a feature of an ROI, over the cases that have it in both: NaN where it is not known."""

    n: int
    median: float
    q1: float
    q3: float
    spearman: float
    concordance: float


@dataclass(frozen=True)
class SensitivityRow:
    """A row of tables/sensitivity.csv."""

    roi: str
    feature: str
    parameter: str
    baseline: str
    setting: str
    n: int
    change: str
    median_change: float
    q1_change: float
    q3_change: float
    spearman: float
    concordance: float


SENSITIVITY_COLUMNS = [field.name for field in fields(SensitivityRow)]


def change_is_relative(baseline: np.ndarray) -> bool:
    """Whether a change can be divided by the baseline: where all its known values lie on one side of 0.

    A feature that is near 0 in some cases and changes its sign (skewness, the mean of fat and muscle) has no scale
    that a change of it could be measured by.
    """
    known = baseline[np.isfinite(baseline)]
    return bool(known.size) and bool((known > 0).all() or (known < 0).all())


def compare(baseline: np.ndarray, varied: np.ndarray, relative: bool) -> Change:
    """Compare a feature's values (cases,) under a setting with those of the baseline.

    The change is `varied - baseline`, divided by |baseline| if `relative`; quartiles interpolate linearly.
    `spearman` is the correlation of the average ranks (ties share theirs; Spearman 1904), `concordance` Lin's
    coefficient with the divisor n (Biometrics 45:255, 1989): 1 where the values are the same, less where they move or
    scatter. Both are NaN for fewer than 3 cases, and where they are 0 / 0.
    """
    known = np.isfinite(baseline) & np.isfinite(varied)
    x, y = baseline[known], varied[known]
    n = int(known.sum())
    if n == 0:
        return Change(0, *[math.nan] * 5)
    moved = (y - x) / np.abs(x) if relative else y - x
    q1, median, q3 = (float(q) for q in np.percentile(moved, [25, 50, 75]))
    spearman = concordance = math.nan
    if n >= FEWEST_CASES:
        spearman = _correlation(rankdata(x), rankdata(y))
        scale = max(float(np.abs(x).max()), float(np.abs(y).max())) or 1.0
        u, v = x / scale, y / scale  # squares of large values would overflow
        spread = u.var() + v.var() + (u.mean() - v.mean()) ** 2
        if np.ptp(x) > 0 or np.ptp(y) > 0:
            concordance = float(2 * np.mean((u - u.mean()) * (v - v.mean())) / spread)
    return Change(n, median, q1, q3, spearman, concordance)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation of ranks, NaN where one of the two is constant; exactly 1 where they are the same."""
    u, v = x - x.mean(), y - y.mean()
    squares = math.sqrt(float(u @ u) * float(v @ v))
    return min(1.0, max(-1.0, float(u @ v) / squares)) if squares > 0 else math.nan


def sensitivity_rows(
    columns: Sequence[str],
    cases: Sequence[Mapping[tuple[str, ...], Sequence[float]]],
    baselines: Mapping[str, str],
) -> list[SensitivityRow]:
    """Every ROI, setting and feature, sorted in that order as they stand in the cases' files.

    cases: for every case the values by (ROI, parameter, setting), in the order of `columns`. baselines: what stands for
    the run's own setting of each parameter.
    """
    keys = list(dict.fromkeys(key for case in cases for key in case))
    rows = []
    missing = np.full(len(columns), np.nan)
    for roi in dict.fromkeys(key[0] for key in keys):
        own = np.array([case.get((roi, BASELINE, ""), missing) for case in cases], dtype=np.float64)
        relative = [change_is_relative(column) for column in own.T]
        for _, parameter, setting in (key for key in keys if key[0] == roi and key[1] != BASELINE):
            varied = np.array([case.get((roi, parameter, setting), missing) for case in cases], dtype=np.float64)
            for j, feature in enumerate(columns):
                found = compare(own[:, j], varied[:, j], relative[j])
                rows.append(
                    SensitivityRow(
                        roi,
                        feature,
                        parameter,
                        baselines[parameter],
                        setting,
                        found.n,
                        "relative" if relative[j] else "absolute",
                        found.median,
                        found.q1,
                        found.q3,
                        found.spearman,
                        found.concordance,
                    )
                )
    return rows


def build_sensitivity_table(task: CohortTask) -> CohortResult:
    """Write tables/sensitivity.csv from the files of all cases that have features."""
    # In the order of their names: sums must not depend on how the cases are divided among jobs.
    left_out = _excluded(task.inputs["tables/cohort.csv"]) if "tables/cohort.csv" in task.inputs else set()
    done = {
        case: entry
        for case, entry in sorted(task.entries["sensitivity"].items())
        if entry.status == "ok" and case not in left_out
    }
    columns: list[str] = []
    cases = []
    for entry in done.values():
        own, values = read_keyed(entry.files["features.csv"], 3)
        if columns and own != columns:
            raise CohortError("the files of the cases don't have the same features: make them with one parameter file")
        columns = own
        cases.append(values)
    baselines: dict[str, str] = next((entry.facts["baseline"] for entry in done.values()), {})
    rows = sensitivity_rows(columns, cases, baselines)
    write_table(task.out / "tables" / "sensitivity.csv", SENSITIVITY_COLUMNS, map(asdict, rows))
    warned = [case for case, entry in done.items() if entry.warnings]
    return CohortResult({"cases": len(cases), "rows": len(rows), "cases_with_warnings": warned})


def _excluded(cohort: Path) -> set[str]:
    """The cases that the tables leave out: the quality gate excludes some that have features."""
    with cohort.open(encoding="utf-8", newline="") as stream:
        return {row["case_id"] for row in csv.DictReader(stream) if row["status"] == "excluded"}
