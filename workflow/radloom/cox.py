"""Cox regression: inference for few covariates, baseline hazard, proportional hazards, concordance.

`penalised` has the path for many covariates.

Arrays are cases x columns; `time` is the time to event or censoring in any unit, `event` is 1 for an event and 0 for
censoring. Higher linear predictors mean higher hazards.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.linalg import LinAlgWarning, solve
from sksurv.nonparametric import kaplan_meier_estimator

from radloom.errors import CohortError
from radloom.risk_sets import (
    RiskSets,
    information,
    log_likelihood,
    residuals,
    risk_sets,
    score,
    terms_of,
)
from radloom.separation import STRICT, cox_direction

RISK_TIE = 1e-8
"""Linear predictors closer than this count as equal in the concordance (as in scikit-survival)."""

LARGEST_SE = 10.0
"""A coefficient per SD with a larger standard error (few events leave it at 1 or 2) has its likelihood examined."""

MOST_STEPS = 50
"""Newton steps before a fit is examined: a likelihood with a maximum needs about 6 of them."""

LONGEST_STEP = 5.0
"""No Newton step moves two cases' linear predictors apart by more than this."""


# ----------------------------------------------------------------------- inference


def fit_cox(
    design: pd.DataFrame,
    time: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray | None = None,
    ties: str = "efron",
    level: float = 0.95,
    cluster: np.ndarray | None = None,
) -> pd.DataFrame:
    """Unpenalised Cox regression with Wald intervals, as R's `coxph` (ties: efron or breslow).

    With `cluster` (one label a case: patient, centre) the standard errors are those of Lin & Wei (JASA 1989,
    10.1080/01621459.1989.10478874), from score residuals summed over each cluster, as R's `coxph(..., cluster)`: no
    small-sample correction, so with fewer than about 30 clusters the intervals are too short.

    Returns one row a term: term, coefficient, se, hazard_ratio, ci_low, ci_high, z, p, n, events, ties, robust (bool),
    clusters (empty without), strata (number of them), se_model (the standard error without clusters). Raises
    CohortError where a cell is missing, the partial likelihood has no maximum (it names the terms that separate the
    events), or a term can't be told from the others.
    """
    fit = _maximise(design, time, event, strata, ties)
    coefficient, covariance = fit.coefficients, fit.covariance
    model_se = np.sqrt(np.diag(covariance))
    se, n_clusters = model_se, None
    if cluster is not None:
        labels = pd.Series(np.asarray(cluster))
        if labels.isna().any():
            raise CohortError(f"{_named(design.index[labels.isna()])} of the Cox model have no cluster")
        codes, _ = pd.factorize(labels)
        n_clusters = int(codes.max()) + 1
        if n_clusters < 2:
            raise CohortError("cluster-robust errors need at least two clusters; all cases lie in one")
        influence = _residuals(fit) @ covariance
        summed = np.zeros((n_clusters, influence.shape[1]))
        np.add.at(summed, codes, influence)
        se = np.sqrt((summed**2).sum(axis=0))
    z = coefficient / se
    half = NormalDist().inv_cdf(0.5 + level / 2) * se
    with np.errstate(over="ignore"):  # the ratio a unit of a column whose unit is far too large is infinite
        ratio, low, high = (np.exp(coefficient + side * half) for side in (0, -1, 1))
    return pd.DataFrame(
        {
            "term": [str(name) for name in design.columns],
            "coefficient": coefficient,
            "se": se,
            "hazard_ratio": ratio,
            "ci_low": low,
            "ci_high": high,
            "z": z,
            "p": 2 * stats.norm.sf(np.abs(z)),
            "n": len(design),
            "events": int(np.asarray(event).astype(bool).sum()),
            "ties": ties,
            "robust": cluster is not None,
            "clusters": pd.array([n_clusters] * len(se), dtype="Int64"),
            "strata": len(fit.sets),
            "se_model": model_se,
        }
    )


@dataclass(frozen=True)
class _CoxFit:
    """The maximum of a partial likelihood: coefficients and covariance on the scale of the design's columns."""

    coefficients: np.ndarray
    covariance: np.ndarray
    values: np.ndarray
    sets: list[RiskSets]


def _named(cases: pd.Index) -> str:
    """The first cases by name, and how many more."""
    some = ", ".join(str(case) for case in cases[:5])
    return f"case {some}" if len(cases) == 1 else f"{len(cases)} cases ({some}{', ...' if len(cases) > 5 else ''})"


def _strata_numbers(strata: np.ndarray | None, n: int) -> np.ndarray:
    if strata is None:
        return np.zeros(n, dtype=int)
    if pd.isna(np.asarray(strata)).any():
        raise CohortError("a case of the Cox model has no stratum")
    return np.asarray(np.unique(np.asarray(strata), return_inverse=True)[1], dtype=int)


def _checked(design: pd.DataFrame, time: np.ndarray, event: np.ndarray) -> np.ndarray:
    """The design as numbers; refuses what no Cox model can use."""
    values = design.to_numpy(dtype=np.float64)
    known = np.isfinite(values).all(axis=1) & np.isfinite(time)
    if not known.all():
        raise CohortError(
            f"{_named(design.index[~known])} of the Cox model lack a time or a covariate: fill or leave them out first"
        )
    if not np.isin(event, (0, 1)).all():
        raise CohortError("the events of the Cox model must be 1 (event) or 0 (censored)")
    if not np.asarray(event).any():
        raise CohortError(f"the Cox model has no events among its {len(values)} cases")
    return values


def _maximise(
    design: pd.DataFrame, time: np.ndarray, event: np.ndarray, strata: np.ndarray | None, ties: str
) -> _CoxFit:
    """Newton's method with step halving from zero, on standardised columns: the likelihood is concave."""
    time = np.asarray(time, dtype=np.float64)
    values = _checked(design, time, event)
    sets = risk_sets(time, event, _strata_numbers(strata, len(values)), ties)
    spread = values.std(axis=0)
    _refuse_unidentified(design, values, spread, sets)
    x = (values - values.mean(axis=0)) / spread
    beta = np.zeros(x.shape[1])
    reached = sum(log_likelihood(group, terms_of(group, x, x @ beta), x @ beta) for group in sets)
    converged = False
    for _ in range(MOST_STEPS):
        gradient, hessian = _derivatives(x, sets, beta)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", LinAlgWarning)
                step = solve(hessian, gradient, assume_a="pos")
        except (np.linalg.LinAlgError, LinAlgWarning, ValueError):
            break
        if np.abs(step).max(initial=0.0) < 1e-9:
            beta, converged = beta + step, True
            break
        # Far from the maximum the quadratic misleads, and a step may land where the likelihood is flat.
        step = step * min(1.0, LONGEST_STEP / max(float(np.ptp(x @ step)), 1e-300))
        for _ in range(30):
            eta = x @ (beta + step)
            with np.errstate(all="ignore"):
                new = sum(log_likelihood(group, terms_of(group, x, eta), eta) for group in sets)
            if new >= reached - 1e-11 * abs(reached):
                break
            step = step / 2
        beta, reached = beta + step, new
    covariance = np.full((len(beta), len(beta)), np.nan)
    if converged:
        covariance = np.linalg.inv(_derivatives(x, sets, beta)[1])
    # A coefficient that runs away leaves the likelihood flat. Whether it has a maximum is then decided exactly.
    if not converged or (np.sqrt(np.diag(covariance)) > LARGEST_SE).any():
        direction = cox_direction(x, sets)
        if direction is not None:
            parts = zip(design.columns, direction, strict=True)
            names = ", ".join(str(name) for name, part in parts if abs(part) > STRICT)
            raise CohortError(
                f"the Cox model has no finite estimate: by {names} the case that has an event always comes first in its"
                " risk set (monotone likelihood). Leave it out, merge its categories, or use the penalised model"
            )
        if not converged:
            raise CohortError("the Cox model did not converge, though its likelihood has a maximum: check its columns")
    return _CoxFit(beta / spread, covariance / np.outer(spread, spread), values, sets)


def _derivatives(x: np.ndarray, sets: list[RiskSets], beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and information of all strata together."""
    terms = [terms_of(group, x, x @ beta) for group in sets]
    gradient = np.sum([score(group, term, x) for group, term in zip(sets, terms, strict=True)], axis=0)
    hessian = np.sum([information(group, term, x) for group, term in zip(sets, terms, strict=True)], axis=0)
    return gradient, hessian


def _refuse_unidentified(design: pd.DataFrame, values: np.ndarray, spread: np.ndarray, sets: list[RiskSets]) -> None:
    """Raise where a term, or a combination of terms, is the same for all cases of every risk set."""
    names = [str(name) for name in design.columns]
    # A constant column may get a spread of rounding alone.
    constant = [n for n, s, v in zip(names, spread, np.abs(values).max(axis=0), strict=True) if s <= 1e-12 * v]
    if constant:
        raise CohortError(f"a covariate of the Cox model is constant: {', '.join(constant)}; leave it out")
    x = (values - values.mean(axis=0)) / spread
    hessian = _derivatives(x, sets, np.zeros(x.shape[1]))[1]
    own = np.diag(hessian)
    unseen = [name for name, number in zip(names, own, strict=True) if number <= 1e-10 * max(float(own.max()), 1e-300)]
    if unseen:
        raise CohortError(
            f"{', '.join(unseen)} can't be estimated by the Cox model: constant among the cases at risk at every event"
            " (within each stratum, if there are strata); leave it out"
        )
    scale = np.sqrt(own)
    size, vectors = np.linalg.eigh(hessian / np.outer(scale, scale))
    if len(size) and size[0] < 1e-10 * size[-1]:
        involved = [name for name, part in zip(names, vectors[:, 0], strict=True) if abs(part) > 1e-4]
        raise CohortError(f"covariates of the Cox model are collinear: {', '.join(involved)}; leave one of them out")


def _residuals(fit: _CoxFit) -> np.ndarray:
    x = fit.values - fit.values.mean(axis=0)
    eta = x @ fit.coefficients
    found = np.empty_like(x)
    for group in fit.sets:
        found[group.rows] = residuals(group, terms_of(group, x, eta), x)
    return found


def score_residuals(
    design: pd.DataFrame,
    time: np.ndarray,
    event: np.ndarray,
    coefficients: np.ndarray,
    strata: np.ndarray | None = None,
    ties: str = "efron",
) -> np.ndarray:
    """Score residuals at given coefficients, cases x terms, as R's `residuals(fit, "score")`.

    Each is the part of a case in the derivative of the log partial likelihood: at the maximum they add up to 0.
    """
    time = np.asarray(time, dtype=np.float64)
    values = _checked(design, time, event)
    sets = risk_sets(time, event, _strata_numbers(strata, len(values)), ties)
    return _residuals(_CoxFit(np.asarray(coefficients, dtype=np.float64), np.empty((0, 0)), values, sets))


def dfbeta(
    design: pd.DataFrame,
    time: np.ndarray,
    event: np.ndarray,
    strata: np.ndarray | None = None,
    ties: str = "efron",
) -> np.ndarray:
    """Approximate change of each coefficient that a case brings, cases x terms, as R's `residuals(fit, "dfbeta")`."""
    fit = _maximise(design, time, event, strata, ties)
    return np.asarray(_residuals(fit) @ fit.covariance)


# --------------------------------------------------------- baseline hazard, prediction


@dataclass(frozen=True)
class BaselineHazard:
    """The hazard of a case whose linear predictor is `centre`, by stratum.

    `table` has one row an event time and stratum: stratum, time, n_risk, n_event, hazard (the increment), and
    cumulative_hazard. `last` is each stratum's last follow-up: nothing is known beyond. `problems` says in sentences
    which strata have no hazard.
    """

    table: pd.DataFrame
    centre: float
    last: dict[Any, float]
    problems: tuple[str, ...] = ()


def baseline_hazard(
    linear_predictor: np.ndarray,
    time: np.ndarray,
    event: np.ndarray,
    ties: str = "efron",
    strata: np.ndarray | None = None,
) -> BaselineHazard:
    """Baseline hazard of a Cox model from the linear predictors of the cases that it was fitted to.

    `ties="breslow"` is Breslow's estimate (the one for penalised fits), `"efron"` divides among tied events as
    Efron's likelihood does; both as R's `survfit.coxph`. A stratum without an event has no hazard (NaN in
    predictions, and a sentence in `problems`): no event among few cases is no proof of survival.
    """
    eta = np.asarray(linear_predictor, dtype=np.float64)
    time = np.asarray(time, dtype=np.float64)
    if not (np.isfinite(eta).all() and np.isfinite(time).all()):
        raise CohortError("the baseline hazard needs a linear predictor and a time of every case")
    # About its mean the exponential stays in bounds, whatever the scale of the columns.
    centre = float(eta.mean())
    numbers = _strata_numbers(strata, len(eta))
    labels = ["all"] if strata is None else list(np.unique(np.asarray(strata)))
    columns = ["stratum", "time", "n_risk", "n_event", "hazard", "cumulative_hazard"]
    parts, last, problems = [], {}, []
    for label, group in zip(labels, risk_sets(time, event, numbers, ties), strict=True):
        last[label] = float(time[group.rows].max())
        if not len(group.dead):
            problems.append(f"stratum {label}: no event among {len(group.rows)} cases, so no baseline hazard")
            continue
        terms = terms_of(group, np.empty((len(eta), 0)), eta - centre)
        hazard = np.add.reduceat(1.0 / terms.total, group.first)[::-1] * np.exp(-terms.shift)
        parts.append(
            pd.DataFrame(
                {
                    "stratum": label,
                    "time": group.times[::-1],
                    "n_risk": group.last[group.first][::-1] + 1,
                    "n_event": np.bincount(group.tie)[::-1],
                    "hazard": hazard,
                    "cumulative_hazard": np.cumsum(hazard),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return BaselineHazard(table, centre, last, tuple(problems))


def predict_survival(
    baseline: BaselineHazard,
    linear_predictor: np.ndarray,
    horizons: Sequence[float] | np.ndarray,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Predicted survival at horizons (in the unit of time), cases x horizons, as R's `survfit(fit, newdata)`.

    NaN beyond the last follow-up of the case's stratum, and in a stratum without events. Raises CohortError for a
    stratum that the baseline hazard doesn't know.
    """
    eta = np.asarray(linear_predictor, dtype=np.float64)
    at = np.asarray(horizons, dtype=np.float64)
    labels = np.full(len(eta), "all", dtype=object) if strata is None else np.asarray(strata)
    unknown = sorted({str(label) for label in labels if label not in baseline.last})
    if unknown:
        raise CohortError(
            f"no baseline hazard for stratum {', '.join(unknown)}: the model was fitted to "
            f"{', '.join(str(label) for label in baseline.last)}"
        )
    survival = np.full((len(eta), len(at)), np.nan)
    for label, last in baseline.last.items():
        own = baseline.table[baseline.table["stratum"] == label]
        rows = labels == label
        if own.empty or not rows.any():
            continue
        cumulative = np.concatenate([[0.0], own["cumulative_hazard"].to_numpy(dtype=np.float64)])
        reached = cumulative[np.searchsorted(own["time"].to_numpy(dtype=np.float64), at, side="right")]
        with np.errstate(over="ignore"):
            raised = np.exp(eta[rows] - baseline.centre)[:, None]
            found = np.exp(-np.where(reached > 0, reached * raised, 0.0))
        survival[rows] = np.where(at <= last, found, np.nan)
    return survival


# -------------------------------------------------------------- proportional hazards


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

    The test adds z * g(t) to the model for each term z and takes the score test of the added terms at zero
    (Grambsch & Therneau, Biometrika 1994, 10.1093/biomet/81.3.515, without their approximation of constant variance:
    as `cox.zph` of R's survival from 3.0 on). g is the Kaplan-Meier estimate of all cases (`km`), the rank of time
    (`rank`), time itself (`identity`) or its logarithm (`log`).

    Returns term, chi2, df, p; the last row is GLOBAL.
    """
    values = design.to_numpy(dtype=np.float64)
    values = values - values.mean(axis=0)
    n, p = values.shape
    event = np.asarray(event).astype(bool)
    time = np.asarray(time, dtype=np.float64)
    if transform == "km":
        g = 1.0 - _survival_before(time, *kaplan_meier_estimator(event, time))
    elif transform == "rank":
        g = stats.rankdata(time)
    elif transform == "identity":
        g = time.copy()
    elif transform == "log":
        if (time[event] <= 0).any():
            raise CohortError("the logarithm of time needs event times above 0: use the transform km, rank or identity")
        g = np.log(np.where(event, time, 1.0))
    else:
        raise ValueError(f"transform must be km, rank, identity or log, not {transform!r}")
    g = g - g[event].mean()
    # The statistic doesn't change with the scale of g or of the columns, the conditioning does.
    g = g / max(float(np.abs(g[event]).max()), 1e-300)
    scale = np.maximum(values.std(axis=0), 1e-300)
    eta = values @ coefficients
    values = values / scale
    added_score = np.zeros(p)
    powers = np.zeros((3, p, p))
    for group in risk_sets(time, event, _strata_numbers(strata, n), "efron"):
        terms = terms_of(group, values, eta)
        own = g[group.rows][group.dead]
        added_score += score(group, terms, values, own)
        for power in range(3):
            powers[power] += information(group, terms, values, own**power)
    full = np.block([[powers[0], powers[1]], [powers[1], powers[2]]])
    chosen = [[p + term] for term in range(p)] + [list(range(p, 2 * p))]
    rows_out = []
    for name, added in zip([*map(str, design.columns), "GLOBAL"], chosen, strict=True):
        keep = [*range(p), *added]
        u = np.concatenate([np.zeros(p), added_score[np.array(added) - p]])
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
