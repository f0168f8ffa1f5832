"""Performance of predicted risks at a horizon, with censoring, for many bootstrap samples at once.

`time` is the time to event or censoring in any unit, `event` is 1 for an event and 0 for censoring, `risk` the
predicted probability of an event by the horizon. `weights` are rows x cases: how often each bootstrap sample (row)
holds each case. Every function gives one value a row, the one that physically repeating the cases would give, with the
Kaplan-Meier estimates refitted in every row; NaN where a row can't tell: nobody in it was followed to the horizon while
somebody's outcome is open, or it holds cases of one kind only.

Conventions: at equal times events come before censoring. A case is known at the horizon if it had its event by then, or
if it was followed without one up to the horizon or longer, as in R's `survival::rttright`. scikit-survival drops those
who were censored exactly at the horizon, which leaves nothing where follow-up was cut there, and takes the probability
of censoring just after a time instead of just before it; where no times are tied both are the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radloom.ranking import codes_of, concordance, in_blocks, rows_of_weights, share, weighted_auc

# ------------------------------------------------------------------ Kaplan-Meier by rows


@dataclass(frozen=True)
class HorizonWeights:
    """Inverse-probability-of-censoring weights at a horizon, each rows x cases.

    `case` belongs to those with an event by the horizon, `control` to those known to be free of it; 0 elsewhere. Rows
    in which the horizon lies beyond the follow-up are NaN.
    """

    case: np.ndarray
    control: np.ndarray


def horizon_status(time: np.ndarray, event: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the cases with an event by the horizon, and of those known to be free of it."""
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    case = dead & (time <= horizon)
    return case, (time >= horizon) & ~case


def _survival(weights: np.ndarray, happens: np.ndarray, beyond: np.ndarray | None = None) -> np.ndarray:
    """Kaplan-Meier estimate before each of the cases in their order, and after the last: rows x (cases + 1).

    The cases must be sorted by time; `beyond` is how many more are at risk behind the last. Those that share a time may
    be taken one after the other: the factors (r - 1) / r, (r - 2) / (r - 1) ... multiply to the same.
    """
    at_risk = np.cumsum(weights[:, ::-1], axis=1)[:, ::-1]
    if beyond is not None:
        at_risk = at_risk + beyond[:, None]
    leaving = np.where(happens, weights, 0.0)
    factor = 1.0 - np.divide(leaving, at_risk, out=np.zeros_like(leaving), where=at_risk > 0)
    curve = np.ones((len(weights), weights.shape[1] + 1))
    np.cumprod(factor, axis=1, out=curve[:, 1:])
    return curve


def _open_at(time: np.ndarray, dead: np.ndarray, weights: np.ndarray, horizon: float) -> np.ndarray:
    """Rows in which nobody was followed to the horizon, though the last one seen was censored."""
    if (time >= horizon).any() and (weights[:, time >= horizon].sum(axis=1) > 0).all():
        return np.zeros(len(weights), dtype=bool)
    last = np.where(weights > 0, time, -np.inf).max(axis=1, initial=-np.inf)
    censored_last = ((weights > 0) & ~dead & (time == last[:, None])).any(axis=1)
    return np.asarray((last < horizon) & censored_last)


def censoring_survival(
    time: np.ndarray,
    event: np.ndarray,
    at: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Probability of not being censored before a time of each case (`at`), rows x cases.

    Kaplan-Meier estimate of the censoring times, its left limit, within each of the `strata` (centres, say, whose
    follow-up differs), refitted for each row of weights.
    """
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(time))
    found = np.empty_like(table)
    codes = codes_of(strata, len(time))
    for stratum in np.unique(codes):
        members = np.flatnonzero(codes == stratum)
        order = members[np.lexsort((~dead[members], time[members]))]
        place = np.searchsorted(time[order], np.asarray(at)[members], side="left")
        found[:, members] = _survival(table[:, order], ~dead[order])[:, place]
    return found


def horizon_weights(
    time: np.ndarray, event: np.ndarray, horizon: float, weights: np.ndarray, strata: np.ndarray | None = None
) -> HorizonWeights:
    """Weights by which the cases known at the horizon stand for all cases, those censored before it too.

    A case weighs its count over the probability of not being censored before its event or before the horizon,
    whichever is first: `censoring_survival`, taken just before that time (Graf et al., Stat Med 1999,
    10.1002/(sici)1097-0258(19990915/30)18:17/18<2529::aid-sim274>3.0.co;2-5; Uno et al., JASA 2007,
    10.1198/016214507000000149). In each stratum the weights add up to its count, and those of cases to the
    Kaplan-Meier risk times its count.
    """
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(time))
    case, control = horizon_status(time, dead, horizon)
    codes = codes_of(strata, len(time))

    def block(counts: np.ndarray) -> np.ndarray:
        remaining = censoring_survival(time, dead, np.minimum(time, horizon), counts, strata)
        known = np.divide(counts, remaining, out=np.zeros_like(counts), where=(counts > 0) & (case | control))
        for stratum in np.unique(codes):
            members = codes == stratum
            known[_open_at(time[members], dead[members], counts[:, members], horizon)] = np.nan
        return known

    found = in_blocks(block, table)
    unknown = np.isnan(found)
    return HorizonWeights(
        np.where(case | unknown, found, 0.0),
        np.where(control | unknown, found, 0.0),
    )


def kaplan_meier_risk(time: np.ndarray, event: np.ndarray, horizon: float, weights: np.ndarray) -> np.ndarray:
    """Kaplan-Meier estimate of the risk of an event by the horizon for each row of weights."""
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    order = np.lexsort((~dead, time))
    place = np.searchsorted(time[order], horizon, side="right")

    def block(counts: np.ndarray) -> np.ndarray:
        risk = (
            1.0 - _survival(counts[:, order[:place]], dead[order[:place]], counts[:, order[place:]].sum(axis=1))[:, -1]
        )
        risk[_open_at(time, dead, counts, horizon) | (counts.sum(axis=1) == 0)] = np.nan
        return risk

    return in_blocks(block, rows_of_weights(weights, len(time)))


# ----------------------------------------------------------------------- discrimination


def time_dependent_auc(
    time: np.ndarray,
    event: np.ndarray,
    score: np.ndarray,
    horizon: float,
    weights: np.ndarray,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Cumulative/dynamic AUC at a horizon for each row of weights.

    Among pairs of a case with an event by the horizon and one free of it, the weighted fraction in which the former has
    the higher score; only pairs within `groups` (folds) count. Weights are those of `horizon_weights`, censoring taken
    within `strata`. `score` may be on any scale. (Uno et al., JASA 2007, 10.1198/016214507000000149; Hung & Chiang, Can
    J Stat 2010, 10.1002/cjs.10046; Blanche et al., Biom J 2013, 10.1002/bimj.201200045.)
    """
    known = horizon_weights(time, event, horizon, weights, strata)
    return weighted_auc(score, known.case, known.control, groups)


def harrell_c_rows(
    time: np.ndarray, event: np.ndarray, score: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """Harrell's C for each row of weights, pairs within `groups` only; `cox.harrell_c` for unit weights."""
    return concordance(time, event, score, weights, groups)


def uno_c_rows(
    time: np.ndarray,
    event: np.ndarray,
    score: np.ndarray,
    weights: np.ndarray,
    tau: float | None = None,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
) -> np.ndarray:
    """Uno's C of event times below tau for each row of weights, censoring refitted in each.

    For unit weights it is `cox.uno_c`. Only pairs within `groups` count; censoring is taken within `strata`.
    """
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(time))
    inside = dead & ((time < tau) if tau is not None else True)

    def block(counts: np.ndarray) -> np.ndarray:
        remaining = censoring_survival(time, dead, time, counts, strata)
        return np.divide(1.0, remaining**2, out=np.zeros_like(counts), where=(counts > 0) & inside)

    return concordance(time, dead, score, table, groups, in_blocks(block, table))


# -------------------------------------------------------------------------- Brier score


@dataclass(frozen=True)
class Brier:
    """Brier scores of the model and of the Kaplan-Meier risk for everybody, one value a row of weights.

    `scaled` is 1 less their ratio. It is the index of prediction accuracy (Kattan & Gerds, Diagn Progn Res 2018,
    10.1186/s41512-018-0029-2): 1 is perfect, 0 no better than the same risk for all, below 0 worse.
    """

    score: np.ndarray
    reference: np.ndarray
    scaled: np.ndarray


def _checked_risk(risk: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(risk, dtype=np.float64)
    if values.shape != shape:
        raise ValueError(f"predicted risks must be {shape}, not {values.shape}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("predicted risks must lie between 0 and 1")
    return values


def _brier_curves(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    horizons: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Brier scores of the model and of the Kaplan-Meier risk, each rows x horizons; `risk` is cases x horizons.

    The weight of an event doesn't depend on the horizon, and that of those free of it is a count over one number a
    stratum: so all rows and horizons are a few products of matrices.
    """
    time, dead = np.asarray(time, dtype=np.float64), np.asarray(event).astype(bool)
    codes = codes_of(strata, len(time))
    happened = dead[:, None] & (time[:, None] <= horizons[None, :])
    free = (time[:, None] >= horizons[None, :]) & ~happened
    miss, alarm = happened * (1 - risk) ** 2, free * risk**2

    def block(counts: np.ndarray) -> np.ndarray:
        score, ill, well = (np.zeros((len(counts), len(horizons))) for _ in range(3))
        for stratum in np.unique(codes):
            rows = np.flatnonzero(codes == stratum)
            order = rows[np.lexsort((~dead[rows], time[rows]))]
            drawn = counts[:, order]
            curve = _survival(drawn, ~dead[order])
            own = curve[:, np.searchsorted(time[order], time[order], side="left")]
            by_event = np.divide(drawn, own, out=np.zeros_like(drawn), where=drawn > 0)
            remaining = curve[:, np.searchsorted(time[order], horizons, side="left")]
            followed = drawn @ free[order].astype(np.float64)
            still = np.divide(1.0, remaining, out=np.zeros_like(remaining), where=followed > 0)
            score += by_event @ miss[order] + still * (drawn @ alarm[order])
            ill += by_event @ happened[order].astype(np.float64)
            well += still * followed
            for column, horizon in enumerate(horizons):
                score[_open_at(time[order], dead[order], drawn, float(horizon)), column] = np.nan
        size = counts.sum(axis=1)[:, None]
        common = share(ill, ill + well)
        reference = share(ill * (1 - common) ** 2 + well * common**2, size + 0 * common)
        return np.stack([share(score, size + 0 * score), np.where(np.isnan(score), np.nan, reference)], axis=1)

    both = in_blocks(block, rows_of_weights(weights, len(time)))
    return both[:, 0], both[:, 1]


def brier_at(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    horizon: float,
    weights: np.ndarray,
    strata: np.ndarray | None = None,
) -> Brier:
    """Brier score of the predicted risk of an event by the horizon, weighted for censoring (within `strata`).

    The mean over all cases of the squared distance of the risk from what happened; those known at the horizon weigh as
    in `horizon_weights` (Graf et al., Stat Med 1999). Raises ValueError for risks outside 0 to 1.
    """
    values = _checked_risk(risk, (len(time),))
    score, reference = _brier_curves(time, event, values[:, None], np.array([float(horizon)]), weights, strata)
    return Brier(score[:, 0], reference[:, 0], 1.0 - share(score[:, 0], reference[:, 0]))


def integrated_brier(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    horizons: np.ndarray,
    weights: np.ndarray,
    strata: np.ndarray | None = None,
) -> Brier:
    """Brier score averaged over time, from the first to the last of two or more ascending horizons (trapezoids).

    `risk` is cases x horizons. `scaled` compares the averages. Raises ValueError for risks outside 0 to 1.
    """
    at = np.asarray(horizons, dtype=np.float64)
    if len(at) < 2 or not (np.diff(at) > 0).all():
        raise ValueError("the integrated Brier score needs two or more ascending horizons")
    score, reference = _brier_curves(time, event, _checked_risk(risk, (len(time), len(at))), at, weights, strata)
    score, reference = (np.trapezoid(curve, at, axis=1) / (at[-1] - at[0]) for curve in (score, reference))
    return Brier(score, reference, 1.0 - share(score, reference))
