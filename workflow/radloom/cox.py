"""Cox regression: inference for few covariates, the penalised path for many, proportional hazards, concordance.

Arrays are cases x columns; `time` is the time to event or censoring in any unit, `event` is 1 for an event and 0 for
censoring. Higher linear predictors mean higher hazards.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import solve
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.nonparametric import kaplan_meier_estimator
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from radloom.errors import CohortError

RISK_TIE = 1e-8
"""Linear predictors closer than this count as equal in the concordance (as in scikit-survival)."""

LARGEST_SE = 10.0
"""A Cox coefficient per SD with a larger standard error has no finite estimate (few events leave it at 1 or 2)."""

N_PENALTIES = 50
LEAST_PENALTY = 0.05
"""The path runs over this many penalties, down to this fraction of the one at which the first column enters."""


@dataclass(frozen=True)
class PenalisedFit:
    """A penalised fit at the penalty that cross-validation chose, with the curve it was chosen by."""

    coefficients: np.ndarray
    intercept: float
    penalty: float
    penalties: np.ndarray = field(default_factory=lambda: np.empty(0))
    cv_deviance: np.ndarray = field(default_factory=lambda: np.empty(0))

    def linear_predictor(self, design: np.ndarray) -> np.ndarray:
        """Linear predictor of each row of a design, cases x columns."""
        return np.asarray(design @ self.coefficients + self.intercept)


# ----------------------------------------------------------------------- inference


def fit_cox(
    design: pd.DataFrame,
    time: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray | None = None,
    ties: str = "efron",
    level: float = 0.95,
) -> pd.DataFrame:
    """Unpenalised Cox regression with Wald intervals (Efron ties, as R's `coxph`).

    Returns one row a term: term, coefficient, se, hazard_ratio, ci_low, ci_high, z, p. Raises CohortError where the
    partial likelihood has no maximum (collinear columns, a column that separates the events).
    """
    values = design.to_numpy(dtype=np.float64)
    if np.linalg.matrix_rank(values - values.mean(axis=0)) < values.shape[1]:
        raise CohortError("the covariates of the Cox model are constant or collinear")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = PHReg(time, values, status=event, strata=strata, ties=ties).fit()
    coefficient, se = np.asarray(fit.params), np.asarray(fit.bse)
    # Where a coefficient runs away, the likelihood is flat: its standard error, per SD, leaves all bounds.
    if not np.isfinite(se).all() or (se * values.std(axis=0) > LARGEST_SE).any():
        raise CohortError(
            "the Cox model has no finite estimate: a covariate separates the events from the censored cases"
        )
    z = coefficient / se
    half = NormalDist().inv_cdf(0.5 + level / 2) * se
    return pd.DataFrame(
        {
            "term": [str(name) for name in design.columns],
            "coefficient": coefficient,
            "se": se,
            "hazard_ratio": np.exp(coefficient),
            "ci_low": np.exp(coefficient - half),
            "ci_high": np.exp(coefficient + half),
            "z": z,
            "p": 2 * stats.norm.sf(np.abs(z)),
        }
    )


def _survival_before(at: np.ndarray, times: np.ndarray, survival: np.ndarray) -> np.ndarray:
    """Left limit of a survival curve at given times."""
    return np.concatenate([[1.0], survival])[np.searchsorted(times, at, side="left")]


def proportional_hazards_test(
    design: pd.DataFrame,
    time: np.ndarray,
    event: np.ndarray,
    coefficients: np.ndarray,
    strata: np.ndarray | None = None,
    transform: str = "km",
) -> pd.DataFrame:
    """Score test of proportional hazards, per term and global, for a fit with Efron ties.

    The test adds z * g(t) to the model for each term z, with g the Kaplan-Meier estimate or the rank of time, and
    takes the score test of the added terms at zero (Grambsch & Therneau, Biometrika 1994, 10.1093/biomet/81.3.515,
    without their approximation of constant variance: as `cox.zph` of R's survival from 3.0 on).

    Returns term, chi2, df, p; the last row is GLOBAL.
    """
    values = design.to_numpy(dtype=np.float64)
    values = values - values.mean(axis=0)
    n, p = values.shape
    event = np.asarray(event).astype(bool)
    if transform == "km":
        g = 1.0 - _survival_before(time, *kaplan_meier_estimator(event, time))
    elif transform == "rank":
        g = stats.rankdata(time)
    else:
        raise ValueError(f"transform must be km or rank, not {transform!r}")
    g = g - g[event].mean()
    g = g / np.abs(g).max()  # the statistic doesn't change with the scale of g, the conditioning does
    groups = np.zeros(n, dtype=int) if strata is None else np.unique(strata, return_inverse=True)[1]
    weight = np.exp(values @ coefficients)
    score = np.zeros(p)
    information = np.zeros((3, p, p))
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.argsort(-time[rows], kind="stable")]
        x, w, t, dead = values[rows], weight[rows], time[rows], event[rows]
        s0 = np.cumsum(w)
        s1 = np.cumsum(w[:, None] * x, axis=0)
        s2 = np.cumsum(w[:, None, None] * x[:, :, None] * x[:, None, :], axis=0)
        for moment in np.unique(t[dead]):
            last = np.searchsorted(-t, -moment, side="right") - 1
            tied = np.flatnonzero(dead & (t == moment))
            xt, wt = x[tied], w[tied]
            g_t = g[rows[tied[0]]]
            score += g_t * xt.sum(axis=0)
            for step in range(len(tied)):
                share = step / len(tied)
                a0 = s0[last] - share * wt.sum()
                mean = (s1[last] - share * (wt @ xt)) / a0
                spread = (s2[last] - share * (xt.T @ (wt[:, None] * xt))) / a0 - np.outer(mean, mean)
                score -= g_t * mean
                information += np.array([1.0, g_t, g_t * g_t])[:, None, None] * spread
    full = np.block([[information[0], information[1]], [information[1], information[2]]])
    chosen = [[p + term] for term in range(p)] + [list(range(p, 2 * p))]
    rows_out = []
    for name, added in zip([*map(str, design.columns), "GLOBAL"], chosen, strict=True):
        keep = [*range(p), *added]
        u = np.concatenate([np.zeros(p), score[np.array(added) - p]])
        chi2 = float(u @ solve(full[np.ix_(keep, keep)], u, assume_a="sym"))
        rows_out.append({"term": name, "chi2": chi2, "df": len(added), "p": float(stats.chi2.sf(chi2, len(added)))})
    return pd.DataFrame(rows_out)


# ----------------------------------------------------------------------- penalised


def partial_log_likelihood(linear_predictors: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Breslow's partial log-likelihood of each column of linear predictors, cases x models."""
    order = np.argsort(-time, kind="stable")
    eta, t, dead = linear_predictors[order], time[order], np.asarray(event)[order].astype(bool)
    top = eta.max(axis=0)
    log_risk = np.log(np.cumsum(np.exp(eta - top), axis=0)) + top
    last = np.searchsorted(-t, -t, side="right") - 1  # the risk set holds all that share the time
    return np.asarray((eta[dead] - log_risk[last[dead]]).sum(axis=0))


def cox_path(
    design: np.ndarray, time: np.ndarray, event: np.ndarray, l1_ratio: float, penalties: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Elastic-net Cox path (Coxnet, Breslow ties): penalties, descending, and coefficients, columns x penalties.

    The columns must be standardised, and l1_ratio above 0 (Coxnet has no ridge). Without given penalties the path
    starts where the first column enters. Where the fit overflows for small penalties, their coefficients are NaN.
    """
    event = np.asarray(event).astype(bool)
    target = Surv.from_arrays(event, np.asarray(time, dtype=np.float64))
    largest = float(np.abs(_score_at_zero(design, time, event)).max() / len(time) / l1_ratio)
    if penalties is None:
        penalties = largest * np.geomspace(1.0, LEAST_PENALTY, N_PENALTIES)
    coefficients = np.full((design.shape[1], len(penalties)), np.nan)
    # Coxnet ends a path when the deviance stops falling: where nothing has entered yet, and where nothing more is
    # to be had. So it starts where the first column enters, and is taken up again where it ended.
    done = int((penalties >= largest).sum())
    coefficients[:, :done] = 0.0
    length = len(penalties) - done
    while done < len(penalties) and length:
        model = CoxnetSurvivalAnalysis(alphas=penalties[done : done + length], l1_ratio=l1_ratio, tol=1e-10)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="all coefficients are zero")
                model.fit(design, target)
        except ArithmeticError:
            length //= 2
            continue
        found = model.coef_.shape[1]
        coefficients[:, done : done + found] = model.coef_
        done += found
        length = min(length, len(penalties) - done)
    return penalties, coefficients


def _score_at_zero(design: np.ndarray, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Derivative of Breslow's partial log-likelihood by each coefficient, where all are zero."""
    order = np.argsort(-time, kind="stable")
    x, t, dead = design[order], time[order], event[order]
    last = np.searchsorted(-t, -t, side="right") - 1
    mean_at_risk = np.cumsum(x, axis=0)[last] / (last + 1)[:, None]
    return np.asarray((x[dead] - mean_at_risk[dead]).sum(axis=0))


def fit_penalised_cox(
    design: np.ndarray, time: np.ndarray, event: np.ndarray, l1_ratio: float, folds: np.ndarray
) -> PenalisedFit:
    """Elastic-net Cox model at the penalty of least cross-validated deviance.

    `design` holds standardised columns, `folds` the fold of each case. One path a fold; a fold's deviance is that of
    all cases less that of the training cases, both at the coefficients of the training cases, averaged with the
    fold's events as weights (the grouped cross-validation of glmnet; Simon et al., J Stat Softw 2011,
    10.18637/jss.v039.i05).
    """
    n_columns = design.shape[1]
    if n_columns == 0:
        return PenalisedFit(np.empty(0), 0.0, float("nan"))
    penalties, coefficients = cox_path(design, time, event, l1_ratio)
    deviances, weights = [], []
    for fold in np.unique(folds):
        train = folds != fold
        n_events = float(event[~train].sum())
        if n_events == 0 or event[train].sum() == 0:
            continue
        _, path = cox_path(design[train], time[train], event[train], l1_ratio, penalties)
        eta = design @ path
        with np.errstate(invalid="ignore"):
            whole = partial_log_likelihood(eta, time, event)
            part = partial_log_likelihood(eta[train], time[train], event[train])
        deviances.append(-2 * (whole - part) / n_events)
        weights.append(n_events)
    if not deviances:
        raise CohortError("the penalty of the Cox model can't be chosen: the events lie in one fold")
    curve = np.average(np.array(deviances), axis=0, weights=np.array(weights))
    curve[~np.isfinite(coefficients).all(axis=0)] = np.nan
    best = int(np.nanargmin(curve))
    return PenalisedFit(coefficients[:, best].copy(), 0.0, float(penalties[best]), penalties, curve)


# --------------------------------------------------------------------- concordance


def comparable_pairs(time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """1 where case i (row) is known to have its event before case j (column), else 0; cases x cases, float64."""
    dead = np.asarray(event).astype(bool)
    earlier = time[:, None] < time[None, :]
    same = (time[:, None] == time[None, :]) & ~dead[None, :]
    return np.asarray((dead[:, None] & (earlier | same)), dtype=np.float64)


def concordance_of_pairs(score: np.ndarray) -> np.ndarray:
    """1 where the score of case i (row) is higher than that of case j (column), 1/2 where they are equal, else 0."""
    gap = score[:, None] - score[None, :]
    return np.where(np.abs(gap) <= RISK_TIE, 0.5, (gap > 0).astype(np.float64))


def harrell_c(time: np.ndarray, event: np.ndarray, risk: np.ndarray) -> float:
    """Harrell's C: the fraction of the pairs of known order in which the earlier case has the higher risk.

    NaN without a comparable pair (Harrell et al., Stat Med 1996).
    """
    pairs = comparable_pairs(time, event)
    total = pairs.sum()
    return float((pairs * concordance_of_pairs(risk)).sum() / total) if total else float("nan")


def uno_weights(time: np.ndarray, event: np.ndarray, tau: float | None = None) -> np.ndarray:
    """Weight of the pairs that each case's event opens in Uno's C: 1 / G(t)^2 for events before tau, else 0.

    G is the survival function of censoring (Uno et al., Stat Med 2011, 10.1002/sim.4154). It is taken just before t.
    Without tau the latest event time counts.
    """
    dead = np.asarray(event).astype(bool)
    g = _survival_before(time, *kaplan_meier_of_censoring(time, dead))
    weight = np.zeros(len(time))
    inside = dead & ((time < tau) if tau is not None else True)
    weight[inside] = 1.0 / g[inside] ** 2
    return weight


def kaplan_meier_of_censoring(time: np.ndarray, event: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kaplan-Meier estimate of the censoring times; an event at the same time comes first."""
    times, uncensored = kaplan_meier_estimator(np.asarray(event).astype(bool), time, reverse=True)
    return times, uncensored


def uno_c(time: np.ndarray, event: np.ndarray, risk: np.ndarray, tau: float | None = None) -> float:
    """Uno's C of a risk score, for event times below tau; NaN without a comparable pair."""
    pairs = comparable_pairs(time, event) * uno_weights(time, event, tau)[:, None]
    total = pairs.sum()
    return float((pairs * concordance_of_pairs(risk)).sum() / total) if total else float("nan")
