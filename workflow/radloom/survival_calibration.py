"""Calibration of predicted risks of an event by a horizon, with censoring, for many bootstrap samples at once.

Arrays as in `survival_metrics`: `weights` are rows x cases. Predictions come as `log_hazard`, the logarithm of the
cumulative hazard at the horizon: for a Cox model the linear predictor plus the logarithm of the baseline there, for a
given risk its complementary log-log, log(-log(1 - risk)) (`cloglog`). Slope and smooth curve are drawn on this scale
(Crowson et al., Stat Methods Med Res 2016, 10.1177/0962280213497434; Austin et al., Stat Med 2020, 10.1002/sim.8570).
Events after the horizon count as censored there: what happens later says nothing of that risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from radloom.calibration_curve import (
    LONGEST_STEP,
    SETTLED,
    SmoothCalibration,
    distance_from_curve,
    grid_of,
    newton_step,
    restricted_spline,
    risk_groups,
    spline_knots,
)
from radloom.ranking import codes_of, in_blocks, rows_of_weights, share
from radloom.survival_metrics import kaplan_meier_risk

LARGEST_LOG = 700.0
"""A hazard whose logarithm is larger is a risk of 1, and no number."""


@dataclass(frozen=True)
class SurvivalCalibration:
    """Agreement of predicted with observed risk at a horizon; each entry has one value a row of weights.

    `observed_expected` is the Kaplan-Meier risk over the mean predicted risk. `slope` is the coefficient of the
    complementary log-log of the risk in a Cox model, with a baseline for each group. `in_the_large` is the shift on
    that scale that makes the mean predicted risk the Kaplan-Meier risk, `intercept` the same with the scale first
    multiplied by the slope. Ideal are 1, 1, 0 and 0. NaN where there is no finite estimate.
    """

    observed_expected: np.ndarray
    intercept: np.ndarray
    slope: np.ndarray
    in_the_large: np.ndarray


def cloglog(risk: np.ndarray) -> np.ndarray:
    """log(-log(1 - risk)), the logarithm of the cumulative hazard; raises ValueError for risks of 0 and 1.

    Where the model gives its linear predictor plus the logarithm of its baseline hazard, better take that: risks near 1
    round to it.
    """
    values = np.asarray(risk, dtype=np.float64)
    if not ((values > 0) & (values < 1)).all():
        raise ValueError("calibration needs predicted risks between 0 and 1, ends excluded")
    return np.asarray(np.log(-np.log1p(-values)))


def _finite(log_hazard: np.ndarray) -> np.ndarray:
    values = np.asarray(log_hazard, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} predicted log hazards are not finite")
    return values


@dataclass(frozen=True)
class _Deaths:
    """Cases sorted by group, latest first, and what the partial likelihood needs of each death; indices of the sorted.

    `last` is the last at risk at each death's time, `start` the first of its group, `tie` the number of its set of
    deaths at one time, `first` the first death of each such set. `from_` and `to` delimit, for each case, the cases of
    its group whose time is its own or earlier.
    """

    order: np.ndarray
    deaths: np.ndarray
    last: np.ndarray
    start: np.ndarray
    tie: np.ndarray
    first: np.ndarray
    from_: np.ndarray
    to: np.ndarray


def _sorted_deaths(time: np.ndarray, dead: np.ndarray, codes: np.ndarray) -> _Deaths:
    order = np.lexsort((~dead, -time, codes))
    t, c, d = time[order], codes[order], dead[order]
    new_group = np.r_[True, c[1:] != c[:-1]]
    new_time = new_group | np.r_[True, t[1:] != t[:-1]]
    group, moment = np.cumsum(new_group) - 1, np.cumsum(new_time) - 1
    group_start, time_start = np.flatnonzero(new_group), np.flatnonzero(new_time)
    group_end, time_end = np.r_[group_start[1:], len(t)], np.r_[time_start[1:], len(t)]
    deaths = np.flatnonzero(d)
    tie = np.unique(moment[deaths], return_inverse=True)[1]
    return _Deaths(
        order=order,
        deaths=deaths,
        last=time_end[moment[deaths]] - 1,
        start=group_start[group[deaths]],
        tie=tie,
        first=np.flatnonzero(np.r_[True, tie[1:] != tie[:-1]]) if len(tie) else np.empty(0, dtype=np.int64),
        from_=time_start[moment],
        to=group_end[group],
    )


def _cox_newton(design: np.ndarray, sets: _Deaths, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of weighted Cox models with Efron's ties, rows x columns, and the hazard at each death.

    `design` and `weights` are sorted as `sets`. As in R's `coxph` a weight doesn't make a tie with itself: the deaths
    of one time share their mean weight (those of weight 0 left out). The hazard is rows x deaths.
    """
    n, p = design.shape
    products = (design[:, :, None] * design[:, None, :]).reshape(n, -1)
    dead, tie, first = sets.deaths, sets.tie, sets.first
    own = weights[:, dead]
    there = (own > 0).astype(np.float64)
    among = np.add.reduceat(there, first, axis=1)[:, tie]
    before = np.cumsum(there, axis=1) - there
    part = share(before - before[:, first][:, tie], among)
    part = np.where(there > 0, part, 0.0)
    mass = np.where(there > 0, share(np.add.reduceat(own, first, axis=1)[:, tie], among), 0.0)

    def at_risk(values: np.ndarray) -> np.ndarray:
        total = np.zeros((len(values), n + 1))
        np.cumsum(values, axis=1, out=total[:, 1:])
        dying = np.add.reduceat(values[:, dead], first, axis=1)[:, tie]
        return np.asarray(total[:, sets.last + 1] - total[:, sets.start] - part * dying)

    found, settled = np.zeros((len(weights), p)), np.zeros(len(weights), dtype=bool)
    summed = own @ design[dead]
    hazard = np.full(own.shape, np.nan)
    for _ in range(50):
        eta = found @ design.T
        top = eta.max(axis=1, keepdims=True)
        relative = weights * np.exp(eta - top)
        size = at_risk(relative)
        with np.errstate(all="ignore"):
            rate = np.where(mass > 0, mass / size, 0.0)
            means = np.stack([at_risk(relative * design[:, k]) / size for k in range(p)], axis=2)
            means[mass <= 0] = 0.0
            score = summed - np.einsum("rd,rdp->rp", mass, means)
            # A case's share of the information grows with the hazard of all deaths that it was at risk at.
            jumps = np.zeros((len(weights), n + 1))
            jumps[:, dead] = rate
            jumps = np.cumsum(jumps[:, ::-1], axis=1)[:, ::-1]
            cumulated = jumps[:, sets.from_] - jumps[:, sets.to]
            cumulated[:, dead] -= np.add.reduceat(rate * part, first, axis=1)[:, tie]
            information = ((relative * cumulated) @ products).reshape(-1, p, p)
            information = information - np.einsum("rd,rdp,rdq->rpq", mass, means, means)
            step = newton_step(information, score)
            length = np.abs(step @ design.T).max(axis=1)
            stride = np.where(settled, 0.0, np.minimum(1.0, LONGEST_STEP / np.maximum(length, 1e-300)))
            found = found + np.where(settled[:, None], 0.0, stride[:, None] * step)
        fresh = ~settled
        hazard[fresh] = rate[fresh] * np.exp(-top[fresh])
        settled |= length < SETTLED
        if (settled | np.isnan(found).any(axis=1)).all():
            break
    found[~settled], hazard[~settled] = np.nan, np.nan
    return found, hazard


def calibration_slope(
    time: np.ndarray,
    event: np.ndarray,
    log_hazard: np.ndarray,
    horizon: float,
    weights: np.ndarray,
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Coefficient of the complementary log-log of the risk in a Cox model of the time up to the horizon.

    Groups (folds) are strata: only cases of one group are compared. Efron ties and weights as R's `coxph`.
    """
    x = _finite(log_hazard)
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(x))
    codes = codes_of(groups, len(x))
    # A constant in a group changes nothing but the rounding.
    x = x - (np.bincount(codes, weights=x) / np.bincount(codes))[codes]
    spread = float(x.std()) if len(x) else 0.0
    case = dead & (time <= horizon)
    if spread < 1e-12 or not case.any():
        return np.full(len(table), np.nan)
    sets = _sorted_deaths(np.minimum(time, horizon), case, codes)
    design = (x / spread)[sets.order, None]

    def block(counts: np.ndarray) -> np.ndarray:
        return _cox_newton(design, sets, counts[:, sets.order])[0][:, 0] / spread

    return in_blocks(block, table)


def _shift(x: np.ndarray, slope: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The shift a for which the weighted mean of 1 - exp(-exp(a + slope * x)) is the target, for each row."""
    size = weights.sum(axis=1)
    estimable = (target > 0) & (target < 1) & np.isfinite(slope) & (size > 0)
    scaled = np.where(estimable, slope, 0.0)[:, None] * x
    # All cases alike at the least or the largest value bracket it; Newton's steps that leave the bracket are halved.
    goal = np.log(-np.log1p(-np.where(estimable, target, 0.5)))
    drawn = weights > 0
    low = goal - np.where(drawn, scaled, -np.inf).max(axis=1, initial=-np.inf)
    high = goal - np.where(drawn, scaled, np.inf).min(axis=1, initial=np.inf)
    low, high = np.where(estimable, low, 0.0), np.where(estimable, high, 0.0)
    found = (low + high) / 2
    for _ in range(200):
        hazard = np.exp(np.minimum(found[:, None] + scaled, LARGEST_LOG))
        excess = (weights * -np.expm1(-hazard)).sum(axis=1) / np.maximum(size, 1e-300) - target
        gradient = (weights * hazard * np.exp(-hazard)).sum(axis=1) / np.maximum(size, 1e-300)
        low, high = np.where(excess < 0, found, low), np.where(excess < 0, high, found)
        with np.errstate(all="ignore"):
            new = found - excess / gradient
        new = np.where((new >= low) & (new <= high), new, (low + high) / 2)
        moved = np.abs(new - found)
        found = new
        if (moved[estimable] < 1e-12 * np.maximum(1.0, np.abs(found[estimable]))).all():
            break
    return np.where(estimable, found, np.nan)


def calibration_at(
    time: np.ndarray,
    event: np.ndarray,
    log_hazard: np.ndarray,
    horizon: float,
    weights: np.ndarray,
    groups: np.ndarray | None = None,
) -> SurvivalCalibration:
    """Calibration of the predicted risk of an event by the horizon, for each row of weights.

    `groups` are cases whose predictions come from one model (folds); the slope compares risks within them only, as
    `logistic.calibration` does. Mean and shift take the risks of all groups as they are. Raises ValueError for risks of
    0 or 1.
    """
    x = _finite(log_hazard)
    values = -np.expm1(-np.exp(np.minimum(x, LARGEST_LOG)))
    table = rows_of_weights(weights, len(values))
    observed = kaplan_meier_risk(time, event, horizon, table)
    slope = calibration_slope(time, event, x, horizon, table, groups)

    def block(counts: np.ndarray, target: np.ndarray, by: np.ndarray) -> np.ndarray:
        return np.column_stack(
            [_shift(x, by[:, 0], target[:, 0], counts), _shift(x, np.ones(len(counts)), target[:, 0], counts)]
        )

    shifts = in_blocks(block, table, observed[:, None], slope[:, None])
    expected = share(table @ values, table.sum(axis=1))
    return SurvivalCalibration(share(observed, expected), shifts[:, 0], slope, shifts[:, 1])


def smooth_survival_calibration(
    time: np.ndarray,
    event: np.ndarray,
    log_hazard: np.ndarray,
    horizon: float,
    weights: np.ndarray,
    n_knots: int = 3,
    n_grid: int = 101,
) -> SmoothCalibration:
    """Smooth calibration curve at a horizon, with ICI, E50 and E90, for each row of weights.

    A Cox model of the time up to the horizon on a restricted cubic spline of the complementary log-log of the risk
    (Austin et al. 2020); the curve is its risk at the horizon, with Efron's estimate of the baseline. NaN in rows whose
    follow-up ends before the horizon. Raises ValueError where a `log_hazard` is not finite.
    """
    x = _finite(log_hazard)
    values = -np.expm1(-np.exp(x))
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(x))
    grid = grid_of(values, n_grid)
    case = dead & (time <= horizon)
    if float(x.std()) < 1e-12 or not case.any():
        gone = np.full(len(table), np.nan)
        return SmoothCalibration(grid, np.full((len(table), n_grid), np.nan), gone, gone, gone)
    knots = spline_knots(x, n_knots)
    basis = restricted_spline(x, knots)
    centre, scale = basis.mean(axis=0), np.maximum(basis.std(axis=0), 1e-300)
    own = (basis - centre) / scale
    with np.errstate(divide="ignore"):
        asked = np.clip(np.log(-np.log1p(-grid)), x.min(), x.max())  # a risk that rounds to 1 has no logarithm
    drawn = (restricted_spline(asked, knots) - centre) / scale
    sets = _sorted_deaths(np.minimum(time, horizon), case, np.zeros(len(x), dtype=np.int64))
    open_ = np.isnan(kaplan_meier_risk(time, event, horizon, table))

    def block(counts: np.ndarray) -> np.ndarray:
        coefficients, hazard = _cox_newton(own[sets.order], sets, counts[:, sets.order])
        baseline = hazard.sum(axis=1, keepdims=True)

        def observed(design: np.ndarray) -> np.ndarray:
            return -np.expm1(-baseline * np.exp(coefficients @ design.T))

        return np.column_stack([*distance_from_curve(values, observed(own), counts), observed(drawn)])

    found = in_blocks(block, table)
    found[open_] = np.nan
    return SmoothCalibration(grid, found[:, 3:], found[:, 0], found[:, 1], found[:, 2])


def kaplan_meier_interval(
    time: np.ndarray, event: np.ndarray, horizon: float, level: float = 0.95
) -> tuple[float, float, float]:
    """Kaplan-Meier risk by the horizon with its interval: Greenwood's variance on the log-log scale, as R's survfit.

    NaN where the follow-up ends before the horizon; the ends are NaN where the risk is 0 or 1.
    """
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    risk = float(kaplan_meier_risk(time, event, horizon, np.ones((1, len(time))))[0])
    if not 0 < risk < 1:
        return risk, float("nan"), float("nan")
    moments, died = np.unique(time[dead & (time <= horizon)], return_counts=True)
    at_risk = (time[None, :] >= moments[:, None]).sum(axis=1)
    log_survival = np.log1p(-risk)
    se = np.sqrt((died / (at_risk * (at_risk - died))).sum()) / abs(log_survival)
    half = NormalDist().inv_cdf(0.5 + level / 2) * se
    low, high = (float(-np.expm1(log_survival * np.exp(sign * half))) for sign in (-1, 1))
    return risk, low, high


def grouped_survival_calibration(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, horizon: float, n_groups: int = 10, level: float = 0.95
) -> pd.DataFrame:
    """Mean predicted and Kaplan-Meier risk in groups of predicted risk.

    One row a group, in ascending order: group, n, events (by the horizon), predicted, observed, ci_low, ci_high;
    observed is NaN where nobody of the group was followed to the horizon, the interval also where the risk is 0 or 1.
    """
    values = np.asarray(risk, dtype=np.float64)
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    groups = risk_groups(values, n_groups)
    rows = []
    for group in range(int(groups.max()) + 1):
        members = groups == group
        observed, low, high = kaplan_meier_interval(time[members], dead[members], horizon, level)
        rows.append(
            {
                "group": group + 1,
                "n": int(members.sum()),
                "events": int((dead & (time <= horizon))[members].sum()),
                "predicted": float(values[members].mean()),
                "observed": observed,
                "ci_low": low,
                "ci_high": high,
            }
        )
    return pd.DataFrame(rows)
