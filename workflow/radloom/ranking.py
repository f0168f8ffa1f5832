"""Concordance and areas under the curve for many bootstrap samples at once.

`weights` are rows x cases: how often each bootstrap sample (row) holds each case. Every function gives one value a row,
the one that physically repeating the cases would give, and NaN where a row has no comparable pair. Two draws of one
case are no pair. Where `groups` are given (the folds of a cross-validation), only cases of one group are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from radloom.cox import RISK_TIE

BLOCK = 1 << 18
"""Rows are worked off in blocks of about this many cells, so that 10,000 cases don't need gigabytes."""


def in_blocks(function: Callable[..., np.ndarray], *tables: np.ndarray) -> np.ndarray:
    """The results of a function of tables with the same rows, called for blocks of rows and put together."""
    n_rows, n_columns = tables[0].shape
    size = max(1, BLOCK // max(1, n_columns))
    if n_rows <= size:
        return function(*tables)
    starts = range(0, n_rows, size)
    return np.concatenate([function(*(table[start : start + size] for table in tables)) for start in starts])


def rows_of_weights(weights: np.ndarray, n: int) -> np.ndarray:
    """Case weights as float64, rows x cases; raises ValueError where they are no counts of n cases."""
    table = np.atleast_2d(np.asarray(weights, dtype=np.float64))
    if table.ndim != 2 or table.shape[1] != n:
        raise ValueError(f"weights must be rows x {n} cases, not {table.shape}")
    if not (np.isfinite(table).all() and (table >= 0).all()):
        raise ValueError("weights must be finite and at least 0")
    return table


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is not above 0."""
    with np.errstate(invalid="ignore"):
        return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def codes_of(groups: np.ndarray | None, n: int) -> np.ndarray:
    """The group of each case as a number from 0; one group where none are given."""
    if groups is None:
        return np.zeros(n, dtype=np.int64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    if len(codes) != n:
        raise ValueError(f"{len(codes)} groups were given for {n} cases")
    return codes


def _scores(score: np.ndarray) -> np.ndarray:
    values = np.asarray(score, dtype=np.float64)
    if np.isnan(values).any():
        raise ValueError(f"{int(np.isnan(values).sum())} of {len(values)} risk scores are missing")
    return values


def weighted_auc(
    score: np.ndarray, case_weights: np.ndarray, control_weights: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """The weighted fraction of case-control pairs in which the case has the higher score; equal scores count 1/2.

    `case_weights` and `control_weights` are rows x cases; a pair weighs their product. Scores within RISK_TIE are
    equal. The pairs are counted by sorting, so a row costs n log n.
    """
    values = _scores(score)
    codes = codes_of(groups, len(values))
    order = np.lexsort((values, codes))
    s, c = values[order], codes[order]
    starts = np.flatnonzero(np.r_[True, c[1:] != c[:-1]])
    ends = np.r_[starts[1:], len(s)]
    lower, upper = np.empty(len(s), dtype=np.int64), np.empty(len(s), dtype=np.int64)
    for start, end in zip(starts, ends, strict=True):
        inside = s[start:end]
        lower[start:end] = start + np.searchsorted(inside, inside - RISK_TIE, side="left")
        upper[start:end] = start + np.searchsorted(inside, inside + RISK_TIE, side="right")
    opening = np.flatnonzero((case_weights != 0).any(axis=0)[order])

    def block(case: np.ndarray, control: np.ndarray) -> np.ndarray:
        below = np.zeros((len(control), len(s) + 1))
        np.cumsum(control[:, order], axis=1, out=below[:, 1:])
        cases = case[:, order]
        of_group = np.add.reduceat(cases, starts, axis=1)
        right = 0.5 * (cases[:, opening] * (below[:, lower[opening]] + below[:, upper[opening]])).sum(axis=1)
        right = right - (of_group * below[:, starts]).sum(axis=1)
        return share(right, (of_group * (below[:, ends] - below[:, starts])).sum(axis=1))

    if not len(s):
        return np.full(len(case_weights), np.nan)
    return in_blocks(block, case_weights, control_weights)


def count_pairs(case: np.ndarray, control: np.ndarray, groups: np.ndarray | None = None) -> int:
    """Number of pairs of a case and a control (masks) of one group."""
    codes = codes_of(groups, len(case))
    return int(
        (np.bincount(codes[case], minlength=len(codes)) * np.bincount(codes[control], minlength=len(codes))).sum()
    )


def concordance(
    time: np.ndarray,
    event: np.ndarray,
    risk: np.ndarray,
    weights: np.ndarray,
    groups: np.ndarray | None = None,
    opened: np.ndarray | None = None,
) -> np.ndarray:
    """Concordance of a risk score with survival times for each row of weights.

    Without `opened` this is Harrell's C; `opened`, rows x cases, weighs the pairs that each case's event opens (Uno's
    C: `survival_metrics.uno_c_rows`). The same as by the matrix of all pairs, but only those that an
    event opens are looked at, some cases at a time, so that memory doesn't grow with the square of the cases.
    """
    values, time = _scores(risk), np.asarray(time, dtype=np.float64)
    dead = np.asarray(event).astype(bool)
    table = rows_of_weights(weights, len(values))
    codes = codes_of(groups, len(values))
    right, total = np.zeros(len(table)), np.zeros(len(table))
    for group in np.unique(codes):
        members = np.flatnonzero(codes == group)
        members = members[np.lexsort((~dead[members], time[members]))]
        t, r, drawn = time[members], values[members], table[:, members]
        deaths = np.flatnonzero(dead[members])
        # Behind the deaths of its own time come those censored at that time, and all later ones.
        later = np.searchsorted(t[deaths], t[deaths], side="right") - 1
        behind = deaths[later] + 1
        tail = np.zeros((len(table), len(members) + 1))
        tail[:, :-1] = np.cumsum(drawn[:, ::-1], axis=1)[:, ::-1]
        weight = drawn[:, deaths] if opened is None else drawn[:, deaths] * opened[:, members[deaths]]
        total += (weight * tail[:, behind]).sum(axis=1)
        size = max(1, 4 * BLOCK // max(1, len(members)))
        for start in range(0, len(deaths), size):
            these = slice(start, start + size)
            gap = r[deaths[these], None] - r[None, :]
            higher = np.where(np.abs(gap) <= RISK_TIE, 0.5, (gap > 0).astype(np.float64))
            higher[np.arange(len(members))[None, :] < behind[these, None]] = 0.0
            right += (weight[:, these] * (drawn @ higher.T)).sum(axis=1)
    return share(right, total)
