"""Penalised Cox and logistic regression: elastic-net paths, and the penalty by cross-validation (`penalised.c`).

Arrays are cases x columns; the columns must be standardised. `time` is the time to event or censoring in any unit,
`event` and `outcome` are 0 or 1. Minimised is -log-likelihood / n + penalty * sum_j factor_j * (l1_ratio * |b_j| +
(1 - l1_ratio) / 2 * b_j^2), the objective of glmnet (Friedman, Hastie & Tibshirani, J Stat Softw 2010,
10.18637/jss.v033.i01; Cox: Simon et al., J Stat Softw 2011, 10.18637/jss.v039.i05), whose lambda is the penalty
here. Strong rules (Tibshirani et al., J R Stat Soc B 2012, 10.1111/j.1467-9868.2011.01004.x) say which columns are
looked at first.

A solution fulfils the conditions of its optimum (Karush, Kuhn, Tucker) to 1e-9 of the largest derivative at zero.
The same data give the same bytes, whatever the order of the rows; there are no threads.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from radloom.compiled import array_of, build, load
from radloom.errors import CohortError

SOURCE = Path(__file__).with_name("penalised.c")

N_PENALTIES = 50
LEAST_PENALTY = 0.05
"""The path runs over this many penalties, down to this fraction of the one at which the first column enters."""

RIDGE_START = 1e-3
"""A ridge penalty has no value at which the first column enters: its path starts as if this were the l1 ratio."""

CONSTANT = 1e-12
"""A column whose spread is a smaller share of its size than this is constant."""

_COX, _LOGISTIC = 0, 1
_RUNS_AWAY = 1
_RULES = ("min", "1se")


@dataclass(frozen=True)
class PenalisedFit:
    """A penalised fit at the penalty that cross-validation chose, with the curve it was chosen by.

    `penalty` is `penalty_min`, that of the least deviance, or `penalty_1se`, the largest one whose deviance is within a
    standard error of the least. `cv_deviance` and `cv_se` have one value a penalty, NaN where the fit runs away.
    """

    coefficients: np.ndarray
    intercept: float
    penalty: float
    penalties: np.ndarray = field(default_factory=lambda: np.empty(0))
    cv_deviance: np.ndarray = field(default_factory=lambda: np.empty(0))
    cv_se: np.ndarray = field(default_factory=lambda: np.empty(0))
    penalty_min: float = float("nan")
    penalty_1se: float = float("nan")

    def linear_predictor(self, design: np.ndarray) -> np.ndarray:
        """Linear predictor of each row of a design, cases x columns."""
        return np.asarray(design @ self.coefficients + self.intercept)


# ------------------------------------------------------------------------- deviances


def partial_log_likelihood(
    linear_predictors: np.ndarray, time: np.ndarray, event: np.ndarray, strata: np.ndarray | None = None
) -> np.ndarray:
    """Breslow's partial log-likelihood of each column of linear predictors, cases x models; strata are summed."""
    if strata is not None:
        labels = np.asarray(strata)
        parts = [labels == label for label in np.unique(labels)]
        each = [partial_log_likelihood(linear_predictors[rows], time[rows], event[rows]) for rows in parts]
        return np.asarray(np.sum(each, axis=0))
    order = np.argsort(-time, kind="stable")
    eta, t, dead = linear_predictors[order], time[order], np.asarray(event)[order].astype(bool)
    top = eta.max(axis=0)
    log_risk = np.log(np.cumsum(np.exp(eta - top), axis=0)) + top
    last = np.searchsorted(-t, -t, side="right") - 1  # the risk set holds all that share the time
    return np.asarray((eta[dead] - log_risk[last[dead]]).sum(axis=0))


def deviance(linear_predictors: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Binomial deviance of each column of linear predictors, cases x models."""
    signed = np.where(np.asarray(outcome)[:, None] == 1, -linear_predictors, linear_predictors)
    return np.asarray(2 * np.logaddexp(0.0, signed).sum(axis=0))


# ----------------------------------------------------------------------------- paths


def cox_path(
    design: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    l1_ratio: float,
    penalties: np.ndarray | None = None,
    *,
    strata: np.ndarray | None = None,
    penalty_factor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Elastic-net Cox path (Breslow ties): penalties, descending, and coefficients, columns x penalties.

    `strata` has a label for each case: risk sets stay within strata (as glmnet's `stratifySurv`). `penalty_factor`
    multiplies the penalty of each column, 0 leaves it unpenalised; glmnet rescales the factors to a mean of 1, which is
    not done here. Without given penalties the path starts where the first penalised column enters (all penalties are
    0 where none can). Where the fit runs away, coefficients are NaN from that penalty on.

    Raises CohortError without events or where the unpenalised columns alone have no finite estimate, ValueError for
    arguments that don't fit together, an l1_ratio that isn't above 0 and at most 1, or numbers that aren't finite.
    """
    if not 0 < l1_ratio <= 1:
        raise ValueError(f"l1_ratio of a Cox path must be above 0 and at most 1, not {l1_ratio}")
    cases = _cox_cases(design, time, event, strata, None)
    used, _, coefficients, _ = _paths(cases, l1_ratio, penalties, penalty_factor, 0)
    return used, coefficients


def logistic_path(
    design: np.ndarray,
    outcome: np.ndarray,
    l1_ratio: float,
    penalties: np.ndarray | None = None,
    *,
    penalty_factor: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elastic-net logistic path: penalties, descending; intercepts; coefficients, columns x penalties.

    The intercept is not penalised. An l1_ratio of 0 is ridge regression; its path starts as if it were 0.001. The
    rest is as in `cox_path`.
    """
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio of a logistic path must lie between 0 and 1, not {l1_ratio}")
    cases = _logistic_cases(design, outcome, None)
    used, intercepts, coefficients, _ = _paths(cases, l1_ratio, penalties, penalty_factor, 0)
    return used, intercepts, coefficients


def fit_penalised_cox(
    design: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    l1_ratio: float,
    folds: np.ndarray,
    *,
    strata: np.ndarray | None = None,
    penalty_factor: np.ndarray | None = None,
    rule: str = "min",
) -> PenalisedFit:
    """Elastic-net Cox model at the penalty that cross-validation chooses.

    `folds` has the fold of each case. One path a fold, over the penalties of the whole; a fold's deviance is that of
    all cases less that of the training cases, both at the coefficients of the training cases, averaged with the fold's
    events as weights (the grouped cross-validation of glmnet). A fold without events, or that holds all events, says
    nothing. `rule` is "min" or "1se" (see `PenalisedFit`). Errors are those of `cox_path`, and CohortError where no
    penalty can be chosen.
    """
    if not 0 < l1_ratio <= 1:
        raise ValueError(f"l1_ratio of a Cox path must be above 0 and at most 1, not {l1_ratio}")
    if np.shape(design)[1] == 0:
        return PenalisedFit(np.empty(0), 0.0, float("nan"))
    dead = np.asarray(event).astype(bool)
    labels, inverse = np.unique(np.asarray(folds), return_inverse=True)
    weights = np.bincount(inverse, weights=dead.astype(np.float64), minlength=len(labels))
    usable = (weights > 0) & (weights < dead.sum())
    if dead.any() and not usable.any():
        raise CohortError("the penalty of the Cox model can't be chosen: the events lie in one fold")
    cases = _cox_cases(design, time, event, strata, _renumber(usable)[inverse])
    return _chosen(cases, l1_ratio, penalty_factor, weights[usable], rule)


def fit_penalised_logistic(
    design: np.ndarray,
    outcome: np.ndarray,
    l1_ratio: float,
    folds: np.ndarray,
    *,
    penalty_factor: np.ndarray | None = None,
    rule: str = "min",
) -> PenalisedFit:
    """Elastic-net logistic model at the penalty that cross-validation chooses.

    One path a fold, over the penalties of the whole; a fold's deviance is the mean over its cases, and folds are
    averaged with their sizes as weights. A fold without which the rest has one class says nothing. The rest is as in
    `fit_penalised_cox` and `logistic_path`.
    """
    if not 0 <= l1_ratio <= 1:
        raise ValueError(f"l1_ratio of a logistic path must lie between 0 and 1, not {l1_ratio}")
    y = np.asarray(outcome).astype(bool)
    if np.shape(design)[1] == 0:
        share = y.mean()
        return PenalisedFit(np.empty(0), float(np.log(share / (1 - share))), float("nan"))
    labels, inverse = np.unique(np.asarray(folds), return_inverse=True)
    sizes = np.bincount(inverse, minlength=len(labels)).astype(np.float64)
    ones = np.bincount(inverse, weights=y.astype(np.float64), minlength=len(labels))
    usable = (ones < y.sum()) & (sizes - ones < len(y) - y.sum())
    if 0 < y.sum() < len(y) and not usable.any():
        raise CohortError("the penalty of the logistic model can't be chosen: one class lies in one fold")
    cases = _logistic_cases(design, outcome, _renumber(usable)[inverse])
    return _chosen(cases, l1_ratio, penalty_factor, sizes[usable], rule)


# ----------------------------------------------------------------------------- inside


@dataclass(frozen=True)
class _Cases:
    """Cases in the order in which they are computed with; the design is columns x cases and centred."""

    family: int
    design: np.ndarray
    centre: np.ndarray
    outcome: np.ndarray
    time: np.ndarray
    stratum: np.ndarray
    fold: np.ndarray


def _renumber(usable: np.ndarray) -> np.ndarray:
    """Number of each fold, the usable ones first."""
    return np.where(usable, np.cumsum(usable) - 1, usable.sum() + np.cumsum(~usable) - 1)


def _checked(design: np.ndarray, **columns: np.ndarray) -> np.ndarray:
    """The design as contiguous rows of float64, whose length all columns share."""
    values = np.ascontiguousarray(design, dtype=np.float64)
    if values.ndim != 2:
        raise ValueError(f"the design must be cases x columns, not an array of {values.ndim} dimensions")
    for name, column in columns.items():
        if np.shape(column) != (len(values),):
            raise ValueError(f"{name} must have one value for each of the {len(values)} cases")
    if not np.isfinite(values).all():
        raise ValueError("the design holds numbers that are not finite")
    return values


def _order_of_rows(values: np.ndarray) -> np.ndarray:
    """A key by which rows of equal time have one order, whatever order they came in: their bytes."""
    if not values.shape[1]:
        return np.zeros(len(values))
    rows = (values + 0.0).view(np.dtype((np.void, values.shape[1] * values.itemsize)))[:, 0]
    rank = np.empty(len(rows), dtype=np.int64)
    rank[np.argsort(rows, kind="stable")] = np.arange(len(rows))
    return rank


def _cox_cases(
    design: np.ndarray, time: np.ndarray, event: np.ndarray, strata: np.ndarray | None, fold: np.ndarray | None
) -> _Cases:
    stratum = np.zeros(len(design), np.int64) if strata is None else np.unique(strata, return_inverse=True)[1]
    fold = np.zeros(len(design), np.int64) if fold is None else fold
    values = _checked(design, time=time, event=event, strata=stratum, folds=fold)
    at, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    if not np.isfinite(at).all():
        raise ValueError("times must be finite")
    if not dead.any():
        raise CohortError("a Cox model can't be fitted without events")
    order = np.lexsort((fold, _order_of_rows(values), ~dead, -at, stratum))
    columns = np.ascontiguousarray(values[order].T)
    size = np.abs(columns).max(axis=1, initial=0.0)
    # A constant of a stratum leaves the partial likelihood as it is; without it less is lost to rounding.
    starts = np.flatnonzero(np.diff(stratum[order], prepend=-1))
    for first, last in zip(starts, [*starts[1:], len(order)], strict=True):
        columns[:, first:last] -= columns[:, first:last].mean(axis=1)[:, None]
    columns[np.abs(columns).max(axis=1, initial=0.0) <= CONSTANT * size] = 0.0
    return _Cases(
        _COX,
        columns,
        np.zeros(len(columns)),
        dead[order].astype(np.float64),
        at[order],
        stratum[order].astype(np.int64),
        fold[order].astype(np.int64),
    )


def _logistic_cases(design: np.ndarray, outcome: np.ndarray, fold: np.ndarray | None) -> _Cases:
    fold = np.zeros(len(design), np.int64) if fold is None else fold
    values = _checked(design, outcome=outcome, folds=fold)
    y = np.asarray(outcome).astype(bool)
    if y.all() or not y.any():
        raise CohortError("a logistic model can't be fitted to one class")
    order = np.lexsort((fold, _order_of_rows(values), y))
    columns = np.ascontiguousarray(values[order].T)
    size = np.abs(columns).max(axis=1, initial=0.0)
    centre = columns.mean(axis=1)
    columns -= centre[:, None]
    columns[np.abs(columns).max(axis=1, initial=0.0) <= CONSTANT * size] = 0.0
    nothing = np.zeros(len(y))
    return _Cases(
        _LOGISTIC,
        columns,
        centre,
        y[order].astype(np.float64),
        nothing,
        nothing.astype(np.int64),
        fold[order].astype(np.int64),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    i64, f64 = ctypes.c_int64, ctypes.c_double
    numbers, table, ints = array_of(np.float64, 1), array_of(np.float64, 2), array_of(np.int64, 1)
    arguments = [ctypes.c_int, i64, i64, table, numbers, ints, numbers, numbers, f64, f64, ctypes.c_int, i64, numbers]
    arguments += [ints, i64, numbers, table, table]
    return load(build(SOURCE, "penalised regression"), [("paths", i64, arguments)])


def _paths(
    cases: _Cases, l1_ratio: float, penalties: np.ndarray | None, penalty_factor: np.ndarray | None, n_folds: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Penalties; intercepts; coefficients, columns x penalties; deviance of the held cases, folds x penalties."""
    p, n = cases.design.shape
    factor = np.ones(p) if penalty_factor is None else np.array(penalty_factor, dtype=np.float64)
    if factor.shape != (p,) or not (np.isfinite(factor) & (factor >= 0)).all():
        raise ValueError(f"penalty_factor must have a number of 0 or more for each of the {p} columns")
    if penalties is None:
        used = np.geomspace(1.0, LEAST_PENALTY, N_PENALTIES)
    else:
        used = np.array(penalties, dtype=np.float64)
        if used.ndim != 1 or not (np.isfinite(used) & (used >= 0)).all():
            raise ValueError("penalties must be a list of numbers of 0 or more")
    intercepts, coefficients = np.empty(len(used)), np.empty((len(used), p))
    deviances = np.empty((n_folds, len(used)))
    state = _library().paths(
        cases.family,
        n,
        p,
        cases.design,
        cases.outcome,
        cases.stratum,
        cases.time,
        np.append(factor, 0.0),  # the last is the intercept's
        l1_ratio,
        RIDGE_START,
        penalties is not None,
        len(used),
        used,
        cases.fold,
        n_folds,
        intercepts,
        coefficients,
        deviances,
    )
    if state == _RUNS_AWAY:
        raise CohortError(
            "the model of the unpenalised columns has no finite estimate: they separate the cases; penalise them too"
        )
    if state:
        raise MemoryError("there is no memory for the penalised path")
    return used, intercepts - coefficients @ cases.centre, np.ascontiguousarray(coefficients.T), deviances


def _chosen(
    cases: _Cases, l1_ratio: float, penalty_factor: np.ndarray | None, weights: np.ndarray, rule: str
) -> PenalisedFit:
    """The fit at the penalty that the rule chooses; `weights` are those of the folds."""
    if rule not in _RULES:
        raise ValueError(f"rule must be one of {', '.join(_RULES)}, not {rule!r}")
    penalties, intercepts, coefficients, deviances = _paths(cases, l1_ratio, None, penalty_factor, len(weights))
    each = deviances / weights[:, None]
    curve = np.average(each, axis=0, weights=weights)
    curve[~(np.isfinite(curve) & np.isfinite(coefficients).all(axis=0))] = np.nan
    # As glmnet: the weighted variance over folds, divided by their number less one.
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.sqrt(np.average((each - curve) ** 2, axis=0, weights=weights) / (len(weights) - 1))
    if np.isnan(curve).all():
        raise CohortError(
            "the penalty can't be chosen: the fit runs away in a fold (columns without a penalty separate its cases)"
        )
    least = int(np.nanargmin(curve))
    # Without an error (one fold) there is no such penalty: the comparison with NaN is false.
    near = np.flatnonzero(curve <= curve[least] + error[least])
    within = int(near[0]) if len(near) else None
    if rule == "1se" and within is None:
        raise CohortError("the penalty can't be chosen by one standard error: a single fold has none")
    best = within if rule == "1se" and within is not None else least
    return PenalisedFit(
        coefficients[:, best].copy(),
        float(intercepts[best]),
        float(penalties[best]),
        penalties,
        curve,
        error,
        float(penalties[least]),
        float("nan") if within is None else float(penalties[within]),
    )
