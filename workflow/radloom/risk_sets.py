"""Sums over the risk sets of a Cox model: partial likelihood, score, information, residuals, baseline hazard.

Arrays are cases x columns. Each event gives one term of the partial likelihood, with the weights exp(linear predictor)
of the cases still at risk. Where d events share a time, Efron's l-th term (l = 0 .. d - 1) takes off the fraction l / d
of their weights; Breslow's takes off nothing (Efron, JASA 1977, 10.1080/01621459.1977.10480613).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TIES = ("efron", "breslow")


@dataclass(frozen=True)
class RiskSets:
    """The risk sets of one stratum; cases and events stand in the order of descending time.

    `rows` are the positions of its cases; `dead` the events, as positions in `rows`; `last` the position in `rows` of
    the last member of each event's risk set; `share` the part of the tied events' weights that its term takes off;
    `tie` the number of its event time; `first` the first event of each event time; `times` the event times; `reach`
    the number of event times after each case's own.
    """

    rows: np.ndarray
    dead: np.ndarray
    last: np.ndarray
    share: np.ndarray
    tie: np.ndarray
    first: np.ndarray
    times: np.ndarray
    reach: np.ndarray


@dataclass(frozen=True)
class Terms:
    """The terms of the partial likelihood of one stratum at given linear predictors.

    `weight` is exp(linear predictor - shift) of each case, `total` the weight of each event's risk set, `mean` the
    weighted mean of the columns in it (events x columns).
    """

    weight: np.ndarray
    total: np.ndarray
    mean: np.ndarray
    shift: float


def risk_sets(time: np.ndarray, event: np.ndarray, groups: np.ndarray, ties: str) -> list[RiskSets]:
    """The risk sets of each stratum; `groups` numbers the strata from 0."""
    if ties not in TIES:
        raise ValueError(f"ties must be one of {', '.join(TIES)}, not {ties!r}")
    dead = np.asarray(event).astype(bool)
    found = []
    for group in range(int(groups.max()) + 1):
        rows = np.flatnonzero(groups == group)
        rows = rows[np.argsort(-time[rows], kind="stable")]
        t = time[rows]
        events = np.flatnonzero(dead[rows])
        moments, first, tie, size = np.unique(-t[events], return_index=True, return_inverse=True, return_counts=True)
        share = (np.arange(len(events)) - first[tie]) / size[tie] if ties == "efron" else np.zeros(len(events))
        found.append(
            RiskSets(
                rows=rows,
                dead=events,
                last=np.searchsorted(-t, -t[events], side="right") - 1,
                share=share,
                tie=tie,
                first=first,
                times=-moments,
                reach=np.searchsorted(moments, -t, side="left"),
            )
        )
    return found


def terms_of(sets: RiskSets, values: np.ndarray, eta: np.ndarray) -> Terms:
    """The terms of one stratum; `values` and `eta` hold all cases."""
    x, own = values[sets.rows], eta[sets.rows]
    # Only ratios of weights matter: the largest is 1, so that none overflows.
    shift = float(own.max())
    weight = np.exp(own - shift)
    if not len(sets.dead):
        return Terms(weight, np.empty(0), np.empty((0, x.shape[1])), shift)
    weighted = weight[:, None] * x
    tied = np.add.reduceat(weight[sets.dead], sets.first)[sets.tie]
    tied_sum = np.add.reduceat(weighted[sets.dead], sets.first, axis=0)[sets.tie]
    total = np.cumsum(weight)[sets.last] - sets.share * tied
    first_moment = np.cumsum(weighted, axis=0)[sets.last] - sets.share[:, None] * tied_sum
    return Terms(weight, total, first_moment / total[:, None], shift)


def hazard_sums(sets: RiskSets, increments: np.ndarray) -> np.ndarray:
    """Sum of increments (events, or events x columns) over the terms in which each case takes part.

    A case takes part in the terms of the event times up to its own; in those of its own event, as far as they don't
    take it off.
    """
    share = sets.share.reshape(-1, *[1] * (increments.ndim - 1))
    shape = (len(sets.times) + 1, *increments.shape[1:])
    since = np.zeros(shape)
    if len(sets.dead):
        by_time = np.add.reduceat(increments, sets.first, axis=0)
        since[:-1] = np.cumsum(by_time[::-1], axis=0)[::-1]
    sums = since[sets.reach]
    if len(sets.dead):
        sums[sets.dead] -= np.add.reduceat(share * increments, sets.first, axis=0)[sets.tie]
    return np.asarray(sums)


def log_likelihood(sets: RiskSets, terms: Terms, eta: np.ndarray) -> float:
    """Log partial likelihood of one stratum."""
    return float((eta[sets.rows][sets.dead] - terms.shift - np.log(terms.total)).sum())


def information(sets: RiskSets, terms: Terms, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Information of one stratum, columns x columns: the sum over events of the variance in their risk sets.

    `weights` are one number an event (events of the stratum in the order of descending time), 1 if not given.
    """
    w = np.ones(len(sets.dead)) if weights is None else weights
    x = values[sets.rows]
    taken = terms.weight * hazard_sums(sets, w / terms.total)
    return np.asarray(x.T @ (taken[:, None] * x) - terms.mean.T @ (w[:, None] * terms.mean))


def score(sets: RiskSets, terms: Terms, values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Derivative of the log partial likelihood of one stratum by each coefficient; `weights` as in `information`."""
    w = np.ones(len(sets.dead)) if weights is None else weights
    return np.asarray(w @ (values[sets.rows][sets.dead] - terms.mean))


def residuals(sets: RiskSets, terms: Terms, values: np.ndarray) -> np.ndarray:
    """Score residuals of one stratum, its cases in the order of `rows` x columns."""
    x = values[sets.rows]
    hazard = hazard_sums(sets, 1.0 / terms.total)
    drift = hazard_sums(sets, terms.mean / terms.total[:, None])
    found = terms.weight[:, None] * (drift - x * hazard[:, None])
    if len(sets.dead):
        # Tied events are exchangeable: each is compared with the average of the tied terms' means.
        size = np.bincount(sets.tie)
        average = (np.add.reduceat(terms.mean, sets.first, axis=0) / size[:, None])[sets.tie]
        found[sets.dead] += x[sets.dead] - average
    return np.asarray(found)
