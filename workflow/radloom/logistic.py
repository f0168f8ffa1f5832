"""Logistic regression: inference for few covariates, discrimination, calibration (`penalised` has many covariates).

Arrays are cases x columns; `outcome` is 0 or 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit
from statsmodels.discrete.discrete_model import Logit
from statsmodels.tools.sm_exceptions import PerfectSeparationError, PerfectSeparationWarning

from radloom.errors import CohortError


def fit_logistic(design: pd.DataFrame, outcome: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Unpenalised logistic regression by maximum likelihood with Wald intervals, as R's `glm`.

    Returns one row a term, the intercept first: term, coefficient, se, odds_ratio, ci_low, ci_high, z, p. Raises
    CohortError where the likelihood has no maximum (collinear columns, separation).
    """
    values = np.column_stack([np.ones(len(design)), design.to_numpy(dtype=np.float64)])
    if np.linalg.matrix_rank(values) < values.shape[1]:
        raise CohortError("the covariates of the logistic model are constant or collinear")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", PerfectSeparationWarning)
            fit = Logit(outcome, values).fit(method="newton", maxiter=100, tol=1e-12, disp=False)
    except (PerfectSeparationError, PerfectSeparationWarning, np.linalg.LinAlgError):
        fit = None
    if fit is None or not fit.mle_retvals["converged"] or not np.isfinite(fit.bse).all():
        raise CohortError("the logistic model has no finite estimate: the covariates separate the two classes")
    coefficient, se = np.asarray(fit.params), np.asarray(fit.bse)
    z = coefficient / se
    half = NormalDist().inv_cdf(0.5 + level / 2) * se
    return pd.DataFrame(
        {
            "term": ["(Intercept)", *map(str, design.columns)],
            "coefficient": coefficient,
            "se": se,
            "odds_ratio": np.exp(coefficient),
            "ci_low": np.exp(coefficient - half),
            "ci_high": np.exp(coefficient + half),
            "z": z,
            "p": 2 * stats.norm.sf(np.abs(z)),
        }
    )


# --------------------------------------------------------------------- performance


@dataclass(frozen=True)
class Calibration:
    """Agreement of predicted with observed risk; each entry has one value a row of weights.

    `slope` is that of a logistic regression of the outcome on the linear predictor, with an intercept for each group;
    `intercept` is the intercept of all cases with the slope held at that value, `in_the_large` with the slope held at
    1. Ideal are 1, 0 and 0. With one group, slope and intercept are those of `val.prob` of R's rms. NaN where there is
    no finite estimate.
    """

    intercept: np.ndarray
    slope: np.ndarray
    in_the_large: np.ndarray


def calibration(
    linear_predictor: np.ndarray, outcome: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
) -> Calibration:
    """Calibration of a linear predictor for each row of case weights, rows x cases (counts of a bootstrap).

    `groups` are cases whose predictions come from one model (folds). Models of different folds differ in their
    intercepts, and where a class is rarer in training it is commoner among the cases held out: a slope over pooled
    folds would be drawn down by that alone, and below 0 where models predict the same for everybody. So only risks of
    one group are compared. Newton's method on all rows at once.
    """
    x = np.asarray(linear_predictor, dtype=np.float64)
    y = np.asarray(outcome, dtype=np.float64)
    w = np.asarray(weights, dtype=np.float64)
    with np.errstate(all="ignore"):  # rows without a finite estimate run off; they are NaN in the end
        slope = _slope(x, y, w, np.zeros(len(x)) if groups is None else groups)
        return Calibration(_intercept(x, y, w, slope), slope, _intercept(x, y, w, np.ones(len(w))))


def _slope(x: np.ndarray, y: np.ndarray, w: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Slope of the outcome on x with an intercept a group, for each row of weights."""
    member = (np.asarray(groups)[:, None] == np.unique(groups)[None, :]).astype(np.float64)
    # A group of one class in a row says nothing of the slope: its own intercept explains it.
    both = ((w * y) @ member > 0) & ((w * (1 - y)) @ member > 0)
    size, first, second = w @ member, (w * x) @ member, (w * x**2) @ member
    varies = second * size - first**2 > 1e-12 * np.maximum(second * size, 1e-300)
    estimable = (both & varies).any(axis=1)
    w = w * (both @ member.T)
    intercepts, slope = np.zeros((len(w), member.shape[1])), np.ones(len(w))
    settled = np.zeros(len(w), dtype=bool)
    for _ in range(50):
        probability = expit(intercepts @ member.T + slope[:, None] * x)
        residual, curvature = w * (y - probability), w * probability * (1 - probability)
        u0, h00, h01 = residual @ member, curvature @ member, (curvature * x) @ member
        share = np.divide(h01, h00, out=np.zeros_like(h01), where=h00 > 0)
        step = residual @ x - (share * u0).sum(axis=1)
        step = step / (curvature @ x**2 - (share * h01).sum(axis=1))
        rest = np.divide(u0 - h01 * step[:, None], h00, out=np.zeros_like(u0), where=h00 > 0)
        # Halving long steps keeps Newton's method from running off where the start is far away.
        length = np.maximum(np.abs(step), np.abs(rest).max(axis=1))
        part = np.where(settled, 0.0, np.minimum(1.0, 2.0 / np.maximum(length, 1e-300)))
        slope, intercepts = slope + part * step, intercepts + part[:, None] * rest
        settled |= length < 1e-10
        if (settled | ~estimable).all():
            break
    return np.where(settled & estimable, slope, np.nan)


def _intercept(x: np.ndarray, y: np.ndarray, w: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Intercept of the outcome on slope * x, the slope held, for each row of weights; one slope a row."""
    intercept, settled = np.zeros(len(w)), np.zeros(len(w), dtype=bool)
    estimable = ((w @ y) > 0) & ((w @ (1 - y)) > 0) & np.isfinite(slope)
    for _ in range(50):
        probability = expit(intercept[:, None] + slope[:, None] * x)
        move = (w * (y - probability)).sum(axis=1) / (w * probability * (1 - probability)).sum(axis=1)
        move = move * np.minimum(1.0, 2.0 / np.maximum(np.abs(move), 1e-300))
        intercept = intercept + np.where(settled, 0.0, move)
        settled |= np.abs(move) < 1e-10
        if (settled | ~estimable).all():
            break
    return np.where(settled & estimable, intercept, np.nan)
