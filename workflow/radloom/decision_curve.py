"""Decision curves: the net benefit of treating those whose predicted risk reaches a threshold.

Net benefit is the share of true positives less that of false positives, the latter weighted by the odds of the
threshold: TP / n - FP / n * t / (1 - t) (Vickers & Elkin, Med Decis Making 2006, 10.1177/0272989X06295361). With
censoring, the positives' risk of an event by the horizon is their own Kaplan-Meier estimate (Vickers et al., BMC Med
Inform Decis Mak 2008, 10.1186/1472-6947-8-53). Treating nobody has a net benefit of 0. `weights` are rows x cases: the
counts of bootstrap samples, in each of which the Kaplan-Meier estimates are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radloom.ranking import rows_of_weights, share
from radloom.survival_metrics import kaplan_meier_risk


@dataclass(frozen=True)
class DecisionCurve:
    """Net benefit of the model and of treating everybody, rows x thresholds; that of treating nobody is 0."""

    thresholds: np.ndarray
    model: np.ndarray
    treat_all: np.ndarray


def _checked(risk: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, at = np.asarray(risk, dtype=np.float64), np.asarray(thresholds, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("predicted risks must lie between 0 and 1")
    if at.ndim != 1 or not ((at >= 0) & (at < 1)).all():
        raise ValueError("thresholds of a decision curve must lie between 0 and 1, 1 excluded")
    return values, at


def decision_curve(risk: np.ndarray, outcome: np.ndarray, thresholds: np.ndarray, weights: np.ndarray) -> DecisionCurve:
    """Net benefit of a predicted probability of a binary outcome, for each row of weights.

    Those whose risk is the threshold or more are treated. NaN in rows without cases. Raises ValueError for risks
    outside 0 to 1 and thresholds outside 0 to below 1.
    """
    values, at = _checked(risk, thresholds)
    table, y = rows_of_weights(weights, len(values)), np.asarray(outcome, dtype=np.float64)
    treated = (values[:, None] >= at[None, :]).astype(np.float64)
    odds, size = at / (1 - at), table.sum(axis=1)[:, None]
    true, false = table @ (y[:, None] * treated), table @ ((1 - y)[:, None] * treated)
    prevalence = share((table @ y)[:, None], size)
    everywhere = np.broadcast_to(size, true.shape)
    return DecisionCurve(at, share(true - odds * false, everywhere), prevalence - odds * (1 - prevalence))


def survival_decision_curve(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    horizon: float,
    thresholds: np.ndarray,
    weights: np.ndarray,
) -> DecisionCurve:
    """Net benefit of the predicted risk of an event by the horizon, for each row of weights.

    Those whose risk is the threshold or more are treated; where nobody's is, the net benefit is 0. NaN where none of
    the treated was followed to the horizon and the last one seen was censored: at high thresholds a few cases decide.
    Raises ValueError for risks outside 0 to 1 and thresholds outside 0 to below 1.
    """
    values, at = _checked(risk, thresholds)
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(values))
    size = table.sum(axis=1)
    model = np.empty((len(table), len(at)))
    known: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for column, threshold in enumerate(at):
        treated = np.flatnonzero(values >= threshold)
        # Thresholds that treat as many treat the same.
        if len(treated) not in known:
            drawn = table[:, treated]
            rate = share(drawn.sum(axis=1), size)
            observed = kaplan_meier_risk(time[treated], dead[treated], horizon, drawn)
            known[len(treated)] = rate, np.where(rate == 0, 0.0, observed)
        rate, observed = known[len(treated)]
        model[:, column] = rate * (observed - (1 - observed) * threshold / (1 - threshold)) + 0.0  # never -0
    overall = kaplan_meier_risk(time, dead, horizon, table)[:, None]
    return DecisionCurve(at, model, overall - (1 - overall) * at / (1 - at))
