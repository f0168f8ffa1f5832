"""Calibration curves: observed against predicted risk, in groups of predicted risk and smooth.

The smooth curve regresses the outcome on a restricted cubic spline of the linear predictor (flexible calibration: Van
Calster et al., J Clin Epidemiol 2016, 10.1016/j.jclinepi.2015.12.005). ICI, E50 and E90 are the mean, the median and
the 90th percentile of the distance between predicted risk and curve over the cases (Austin & Steyerberg, Stat Med 2019,
10.1002/sim.8281). `weights` are rows x cases, the counts of bootstrap samples; the knots are those of the unweighted
predictions in every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from radloom.ranking import in_blocks, rows_of_weights, share

KNOT_QUANTILES = {3: (0.10, 0.50, 0.90), 4: (0.05, 0.35, 0.65, 0.95), 5: (0.05, 0.275, 0.50, 0.725, 0.95)}
"""Where the knots of a spline lie among the values (Harrell, Regression Modeling Strategies, 2nd ed., table 2.3)."""

LEAST_INFORMATION = 1e-10
"""Information whose smallest eigenvalue is less than this part of the largest carries no estimate."""

SETTLED = 1e-10
LONGEST_STEP = 2.0
"""Newton's method takes no longer step in the linear predictor, and ends when steps are shorter than SETTLED."""


@dataclass(frozen=True)
class SmoothCalibration:
    """A smooth calibration curve and its distance from the predictions.

    `predicted` is a grid of risks between the least and the largest, `observed` the curve there, rows x grid. `ici`,
    `e50` and `e90` have one value a row.
    """

    predicted: np.ndarray
    observed: np.ndarray
    ici: np.ndarray
    e50: np.ndarray
    e90: np.ndarray


def spline_knots(values: np.ndarray, n_knots: int = 3) -> np.ndarray:
    """Knots of a restricted cubic spline at Harrell's quantiles of the values; those that coincide count once."""
    if n_knots not in KNOT_QUANTILES:
        raise ValueError(f"a calibration curve has 3, 4 or 5 knots, not {n_knots}")
    return np.unique(np.quantile(values, KNOT_QUANTILES[n_knots]))


def restricted_spline(values: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Basis of a restricted cubic spline, values x (knots - 1): linear beyond the outer knots.

    The first column is the value itself; with fewer than three knots there is no other (Harrell 2015, eq. 2.25).
    """
    x = np.asarray(values, dtype=np.float64)
    if len(knots) < 3:
        return x[:, None]
    last, before = knots[-1], knots[-2]

    def cube(knot: float) -> np.ndarray:
        return np.maximum(x - knot, 0.0) ** 3

    columns = [x]
    for knot in knots[:-2]:
        end = cube(before) * (last - knot) / (last - before) - cube(last) * (before - knot) / (last - before)
        columns.append((cube(knot) - end) / (last - knots[0]) ** 2)
    return np.column_stack(columns)


def weighted_quantiles(values: np.ndarray, weights: np.ndarray, probability: float) -> np.ndarray:
    """A quantile of each row of values, each repeated as often as its weight says (numpy's `linear` rule)."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    reached = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1)
    place = (reached[:, -1] - 1) * probability
    low = np.floor(place)

    def value_at(rank: np.ndarray) -> np.ndarray:
        index = np.minimum((reached <= rank[:, None]).sum(axis=1), values.shape[1] - 1)
        return np.asarray(np.take_along_axis(ordered, index[:, None], axis=1)[:, 0])

    found = value_at(low)
    found = found + (place - low) * (value_at(np.minimum(low + 1, reached[:, -1] - 1)) - found)
    return np.where(reached[:, -1] > 0, found, np.nan)


def risk_groups(risk: np.ndarray, n_groups: int) -> np.ndarray:
    """The group of each case, from 0: quantile groups of predicted risk of about the same size; ties stay together."""
    if not len(risk):
        raise ValueError("a calibration curve needs cases")
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, n_groups + 1)[1:-1]))
    return np.unique(np.searchsorted(edges, risk, side="left"), return_inverse=True)[1]


def newton_step(information: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Newton's step of each row, information rows x p x p and score rows x p; NaN where there is no estimate."""
    good = np.isfinite(information).all(axis=(1, 2)) & np.isfinite(score).all(axis=1)
    safe = np.where(good[:, None, None], information, np.eye(information.shape[1]))
    spread = np.linalg.eigvalsh(safe)
    good &= spread[:, 0] > LEAST_INFORMATION * np.maximum(spread[:, -1], 1e-300)
    safe[~good] = np.eye(information.shape[1])
    step = np.linalg.solve(safe, score[:, :, None])[:, :, 0]
    step[~good] = np.nan
    return np.asarray(step)


def distance_from_curve(risk: np.ndarray, curve: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """ICI, E50 and E90 of curves at the predicted risks, rows x cases."""
    gap = np.abs(curve - risk)
    gone = np.isnan(gap).any(axis=1)
    gap[gone] = 0.0
    ici = share((gap * weights).sum(axis=1), weights.sum(axis=1))
    middle, far = (weighted_quantiles(gap, weights, probability) for probability in (0.5, 0.9))
    return tuple(np.where(gone, np.nan, values) for values in (ici, middle, far))


def grid_of(risk: np.ndarray, n_grid: int) -> np.ndarray:
    """Risks at which a curve is drawn, from the least to the largest predicted one."""
    if not len(risk):
        raise ValueError("a calibration curve needs cases")
    return np.linspace(risk.min(), risk.max(), n_grid)


# ------------------------------------------------------------------------------- binary


def logistic_newton(design: np.ndarray, outcome: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Coefficients of weighted logistic regressions, rows x columns; NaN without a finite estimate."""
    products = (design[:, :, None] * design[:, None, :]).reshape(len(design), -1)
    p = design.shape[1]
    found = np.zeros((len(weights), p))
    settled = np.zeros(len(weights), dtype=bool)
    for _ in range(50):
        probability = expit(found @ design.T)
        information = ((weights * probability * (1 - probability)) @ products).reshape(-1, p, p)
        step = newton_step(information, (weights * (outcome - probability)) @ design)
        length = np.abs(step @ design.T).max(axis=1)
        part = np.where(settled, 0.0, np.minimum(1.0, LONGEST_STEP / np.maximum(length, 1e-300)))
        found = found + np.where(settled[:, None], 0.0, part[:, None] * step)
        settled |= length < SETTLED
        if (settled | np.isnan(found).any(axis=1)).all():
            break
    found[~settled] = np.nan
    return found


def smooth_calibration(
    linear_predictor: np.ndarray, outcome: np.ndarray, weights: np.ndarray, n_knots: int = 3, n_grid: int = 101
) -> SmoothCalibration:
    """Smooth calibration curve of predicted probabilities of a binary outcome, for each row of weights.

    Logistic regression on a restricted cubic spline of the linear predictor, the logit of the predicted probability.
    Raises ValueError where one is not finite.
    """
    x, y = np.asarray(linear_predictor, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {len(x)} linear predictors are not finite")
    values = expit(x)
    grid = grid_of(values, n_grid)
    knots = spline_knots(x, n_knots)
    basis = restricted_spline(x, knots)
    centre, scale = basis.mean(axis=0), np.maximum(basis.std(axis=0), 1e-300)

    def design(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([np.ones(len(rows)), (rows - centre) / scale])

    own, drawn = design(basis), design(restricted_spline(np.clip(logit(grid), x.min(), x.max()), knots))

    def block(counts: np.ndarray) -> np.ndarray:
        coefficients = logistic_newton(own, y, counts)
        away = distance_from_curve(values, expit(coefficients @ own.T), counts)
        return np.column_stack([*away, expit(coefficients @ drawn.T)])

    with np.errstate(invalid="ignore"):
        found = in_blocks(block, rows_of_weights(weights, len(values)))
    return SmoothCalibration(grid, found[:, 3:], found[:, 0], found[:, 1], found[:, 2])


def wilson_interval(events: np.ndarray, n: np.ndarray, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a proportion (Wilson, JASA 1927, 10.1080/01621459.1927.10502953)."""
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    events, n = np.asarray(events, dtype=np.float64), np.asarray(n, dtype=np.float64)
    middle = (events + z2 / 2) / (n + z2)
    half = np.sqrt(z2 * (events * (n - events) / n + z2 / 4)) / (n + z2)
    # At 0 and n events the interval reaches 0 and 1; the sum would miss them by a rounding.
    return np.where(events == 0, 0.0, middle - half), np.where(events == n, 1.0, middle + half)


def grouped_calibration(risk: np.ndarray, outcome: np.ndarray, n_groups: int = 10, level: float = 0.95) -> pd.DataFrame:
    """Mean predicted and observed risk in groups of predicted risk, with Wilson's interval.

    One row a group, in ascending order: group, n, events, predicted, observed, ci_low, ci_high.
    """
    values, y = np.asarray(risk, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    groups = risk_groups(values, n_groups)
    n = np.bincount(groups)
    events = np.bincount(groups, weights=y)
    low, high = wilson_interval(events, n, level)
    return pd.DataFrame(
        {
            "group": np.arange(1, len(n) + 1),
            "n": n,
            "events": events.astype(int),
            "predicted": np.bincount(groups, weights=values) / n,
            "observed": events / n,
            "ci_low": low,
            "ci_high": high,
        }
    )
