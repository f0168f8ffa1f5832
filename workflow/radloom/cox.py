"""Cox regression: inference for few covariates, proportional hazards, concordance (`penalised` has many covariates).

Arrays are cases x columns; `time` is the time to event or censoring in any unit, `event` is 1 for an event and 0 for
censoring. Higher linear predictors mean higher hazards.
"""

from __future__ import annotations

import warnings
from statistics import NormalDist

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import solve
from sksurv.nonparametric import kaplan_meier_estimator
from statsmodels.duration.hazard_regression import PHReg

from radloom.errors import CohortError

RISK_TIE = 1e-8
"""Linear predictors closer than this count as equal in the concordance (as in scikit-survival)."""

LARGEST_SE = 10.0
"""A Cox coefficient per SD with a larger standard error has no finite estimate (few events leave it at 1 or 2)."""


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
