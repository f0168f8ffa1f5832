"""The tables of curves: net benefit over thresholds, and predicted against observed risk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from radloom.calibration_curve import grouped_calibration
from radloom.decision_curve import decision_curve, survival_decision_curve
from radloom.performance import Predictions, Setting, SurvivalJudge, interval
from radloom.survival_calibration import grouped_survival_calibration

GROUPS = 5
LEAST_CASES = 50
"""Calibration curves have GROUPS groups of predicted risk, and need this many cases."""


def _risks(found: Predictions, setting: Setting) -> list[tuple[float | None, np.ndarray, np.ndarray]]:
    """Horizon, predicted risks of the cases that have one, and their positions; for each horizon, or once."""
    judge, rows = setting.judge, found.known
    if isinstance(judge, SurvivalJudge):
        horizons = () if judge.competing else judge.horizons
        return [(horizon, judge.probability(found.link[rows, j]), rows) for j, horizon in enumerate(horizons)]
    return [(None, judge.probability(found.link[rows, 0]), rows)]


def decision_rows(arm: str, found: Predictions, setting: Setting, thresholds: Sequence[float]) -> list[dict[str, Any]]:
    """Net benefit of an arm's predictions, and of treating everybody, at each threshold."""
    judge = setting.judge
    if "net_benefit" not in judge.families:
        return []
    at = np.array(sorted(thresholds))
    table = []
    for horizon, risk, rows in _risks(found, setting):
        if not len(rows) or judge.refusal(rows, horizon):
            continue
        draws = np.vstack([np.ones(len(rows)), setting.weights[:, rows]])
        if isinstance(judge, SurvivalJudge):
            assert horizon is not None
            curve = survival_decision_curve(judge.time[rows], judge.event[rows], risk, horizon, at, draws)
        else:
            curve = decision_curve(risk, judge.outcome[rows], at, draws)
        counts = {"n": len(rows), "events": judge.events_by(rows, horizon)}
        for strategy, values in (("model", curve.model), ("treat all", curve.treat_all)):
            for column, threshold in enumerate(at):
                low, high = interval(values[1:, column])
                table.append(
                    {
                        "model": judge.name, "arm": arm, "split": found.split, "strategy": strategy,
                        "horizon": np.nan if horizon is None else horizon, "threshold": threshold,
                        "estimate": values[0, column], "ci_low": low, "ci_high": high, **counts,
                    }
                )  # fmt: skip
    return table


def calibration_rows(arm: str, found: Predictions, setting: Setting) -> list[dict[str, Any]]:
    """Mean predicted and observed risk of an arm in groups of predicted risk; none for few cases."""
    judge = setting.judge
    if "calibration" not in judge.families:
        return []
    table = []
    for horizon, risk, rows in _risks(found, setting):
        if len(rows) < LEAST_CASES or judge.refusal(rows, horizon):
            continue
        if isinstance(judge, SurvivalJudge):
            assert horizon is not None
            groups = grouped_survival_calibration(judge.time[rows], judge.event[rows], risk, horizon, GROUPS)
        else:
            groups = grouped_calibration(risk, judge.outcome[rows], GROUPS)
        where = {"model": judge.name, "arm": arm, "split": found.split}
        where_at = {**where, "horizon": np.nan if horizon is None else horizon}
        table += [{**where_at, **row} for row in groups.to_dict("records")]
    return table
