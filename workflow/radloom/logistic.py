"""Logistic regression: inference for few covariates, the elastic net for many, discrimination and calibration.

Arrays are cases x columns; `outcome` is 0 or 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import stats
from scipy.special import expit
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import enet_path
from statsmodels.tools.sm_exceptions import PerfectSeparationError, PerfectSeparationWarning

from radloom.cox import LEAST_PENALTY, N_PENALTIES, PenalisedFit
from radloom.errors import CohortError

RIDGE_START = 1e-3
"""A ridge penalty has no value at which the first column enters: its path starts as if this were the l1 ratio."""

LEAST_VARIANCE = 1e-5
"""Fitted probabilities closer than this to 0 or 1 weigh no less than this (as in glmnet)."""


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
            fit = sm.Logit(outcome, values).fit(method="newton", maxiter=100, tol=1e-12, disp=False)
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


# ----------------------------------------------------------------------- penalised


def deviance(linear_predictors: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Binomial deviance of each column of linear predictors, cases x models."""
    signed = np.where(np.asarray(outcome)[:, None] == 1, -linear_predictors, linear_predictors)
    return np.asarray(2 * np.logaddexp(0.0, signed).sum(axis=0))


def logistic_path(
    design: np.ndarray, outcome: np.ndarray, l1_ratio: float, penalties: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elastic-net logistic path: penalties, descending; intercepts; coefficients, columns x penalties.

    Minimises mean(log(1 + exp(-s eta))) + penalty * (l1_ratio |b|_1 + (1 - l1_ratio) / 2 |b|_2^2), intercept
    free, by proximal Newton: the log-likelihood's quadratic expansion is solved by scikit-learn's coordinate
    descent, warm-started from the larger penalty, until nothing moves (Friedman, Hastie & Tibshirani,
    J Stat Softw 2010, 10.18637/jss.v033.i01). Columns must be standardised.
    """
    y = np.asarray(outcome, dtype=np.float64)
    n, p = design.shape
    if penalties is None:
        gradient = np.abs(design.T @ (y - y.mean())).max() / n
        largest = gradient / max(l1_ratio, RIDGE_START)
        penalties = largest * np.geomspace(1.0, LEAST_PENALTY, N_PENALTIES)
    intercepts = np.empty(len(penalties))
    coefficients = np.zeros((p, len(penalties)))
    b, b0 = np.zeros(p), float(np.log(y.mean() / (1 - y.mean())))
    last_penalty = float(penalties[0])
    for step, penalty in enumerate(penalties):
        gradient = np.abs(design.T @ (y - expit(design @ b + b0))) / n
        # Columns that will hardly enter at this penalty wait outside (the strong rule; Tibshirani et al.,
        # J R Stat Soc B 2012, 10.1111/j.1467-9868.2011.01004.x); those that do after all are found below.
        inside = (gradient >= l1_ratio * (2 * penalty - last_penalty)) | (b != 0)
        while True:
            b0, b[inside] = _newton(design[:, inside], y, float(penalty), l1_ratio, b0, b[inside])
            gradient = np.abs(design.T @ (y - expit(design @ b + b0))) / n
            missed = ~inside & (gradient > l1_ratio * penalty)
            if not missed.any():
                break
            inside |= missed
        last_penalty = float(penalty)
        intercepts[step], coefficients[:, step] = b0, b
    return penalties, intercepts, coefficients


def _newton(
    design: np.ndarray, y: np.ndarray, penalty: float, l1_ratio: float, b0: float, b: np.ndarray
) -> tuple[float, np.ndarray]:
    """Intercept and coefficients at one penalty, from a start."""
    for _ in range(100):
        eta = design @ b + b0
        probability = expit(eta)
        weight = np.maximum(probability * (1 - probability), LEAST_VARIANCE)
        new_b0, new_b = _weighted_net(design, eta + (y - probability) / weight, weight, penalty, l1_ratio, b)
        moved = max(abs(new_b0 - b0), float(np.abs(new_b - b).max(initial=0.0)))
        b, b0 = new_b, new_b0
        if moved < 1e-7:
            return b0, b
    raise ArithmeticError(f"the logistic path did not converge at penalty {penalty:.3g}")


def _weighted_net(
    design: np.ndarray,
    response: np.ndarray,
    weight: np.ndarray,
    penalty: float,
    l1_ratio: float,
    start: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Elastic net of a weighted least-squares problem with a free intercept; weights of mean 1/n scale."""
    n = len(response)
    share = weight / weight.sum()
    centre, middle = share @ design, float(share @ response)
    root = np.sqrt(weight)
    x = np.asfortranarray((design - centre) * root[:, None])
    r = (response - middle) * root
    if x.shape[1] == 0:
        return middle, start
    if l1_ratio == 0:
        b = np.asarray(_ridge(x, r, n * penalty))
    else:
        # Thousands of small problems: scikit-learn's checks of their arguments would take four fifths of the time.
        with warnings.catch_warnings(), config_context(skip_parameter_validation=True):
            warnings.simplefilter("ignore", ConvergenceWarning)  # the Newton loop around it checks
            _, path, _ = enet_path(
                x,
                r,
                l1_ratio=l1_ratio,
                alphas=np.array([penalty]),
                coef_init=start,
                tol=1e-10,
                max_iter=20_000,
                precompute=False,
                check_input=False,
            )
        b = path[:, 0]
    return middle - float(centre @ b), b


def _ridge(x: np.ndarray, r: np.ndarray, penalty: float) -> np.ndarray:
    """Ridge regression through the smaller of the two normal equations."""
    n, p = x.shape
    if p <= n:
        return np.linalg.solve(x.T @ x + penalty * np.eye(p), x.T @ r)
    return x.T @ np.linalg.solve(x @ x.T + penalty * np.eye(n), r)


def fit_penalised_logistic(design: np.ndarray, outcome: np.ndarray, l1_ratio: float, folds: np.ndarray) -> PenalisedFit:
    """Elastic-net logistic model at the penalty of least cross-validated deviance.

    `design` holds standardised columns, `folds` the fold of each case; one path a fold.
    """
    outcome = np.asarray(outcome)
    if design.shape[1] == 0:
        share = outcome.mean()
        return PenalisedFit(np.empty(0), float(np.log(share / (1 - share))), float("nan"))
    penalties, intercepts, coefficients = logistic_path(design, outcome, l1_ratio)
    deviances, sizes = [], []
    for fold in np.unique(folds):
        train = folds != fold
        if len(np.unique(outcome[train])) < 2:
            continue
        _, free, path = logistic_path(design[train], outcome[train], l1_ratio, penalties)
        held = ~train
        deviances.append(deviance(design[held] @ path + free, outcome[held]) / held.sum())
        sizes.append(float(held.sum()))
    if not deviances:
        raise CohortError("the penalty of the logistic model can't be chosen: one class lies in one fold")
    curve = np.average(np.array(deviances), axis=0, weights=np.array(sizes))
    best = int(np.argmin(curve))
    return PenalisedFit(coefficients[:, best].copy(), float(intercepts[best]), float(penalties[best]), penalties, curve)


# --------------------------------------------------------------------- performance


def class_pairs(outcome: np.ndarray) -> np.ndarray:
    """1 where case i (row) has the outcome and case j (column) has not, else 0; cases x cases, float64."""
    y = np.asarray(outcome) == 1
    return np.asarray((y[:, None] & ~y[None, :]), dtype=np.float64)


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
