"""Whether a column is an outcome in another guise: 1 - event, dead / alive, months for days, time in classes.

The rule: a column is a recoding of an outcome if

1. one is a function of the other: a value of the one always goes with the same value of the other; and
2. they run together: with the column's values in their order (numbers, up or down) or in some order (words, codes), the
   outcome's never turn back, so that every value of the column has one value, or one range, of the outcome; and
3. chance does not do that: dealt out anew to the cases, the column's values would do it with a probability below CHANCE
   (that of the table under fixed margins, times the orders that were allowed).

Without the third, a column of many values (an age in days, a name) would always be one, since what occurs once is a
function of anything. Values that repeat and match one to one are the same column however few the cases. A covariate
that merely goes with the outcome breaks the first two with a single case against the trend, however strong it is. Not
found: an outcome with noise or with wrong cells, and other endpoints (progression for death), which are no functions of
this one.

A column may also be made of a time and an event together ("died within two years"): among the cases with the event it
is time in classes. So times are looked at within the classes of the other outcomes as well. And whether a cell is
filled at all may be the outcome (a date of death).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from scipy.special import gammaln

CHANCE = 1e-6
LEAST_CASES = 8
"""Fewer cases with both values tell nothing."""

SAME = "says the same as"
RECODED = "is a recoding of"
KNOWN_WHERE = "is filled in by"


def relation(own: pd.Series, outcomes: Mapping[str, pd.Series]) -> tuple[str, str] | None:
    """How a column is an outcome (SAME, RECODED or KNOWN_WHERE) and which, or None if it is none.

    All columns are text or numbers of the same cases in the same order, NaN where nothing is known.
    """
    filled = own.notna().map({True: "filled", False: "empty"})
    whole = np.ones(len(own), dtype=bool)
    parts = [(name, whole) for name in outcomes]
    parts += [(name, inside) for name in outcomes for inside in _classes(name, outcomes)]
    for name, inside in parts:
        outcome = outcomes[name][inside]
        kind = _compare(own[inside], outcome, always_same=inside is whole)
        if kind is not None:
            return kind, name
        if _compare(filled[inside], outcome, always_same=False) is not None:
            return KNOWN_WHERE, name
    return None


def _classes(name: str, outcomes: Mapping[str, pd.Series]) -> Iterator[np.ndarray]:
    """The cases (masks) of each class of the other outcomes, if this one has more than two values."""
    if outcomes[name].nunique() > 2:
        for other, column in outcomes.items():
            if other != name and column.nunique() == 2:
                for value in sorted(column.dropna().unique(), key=str):
                    yield (column == value).to_numpy()


def _compare(own: pd.Series, outcome: pd.Series, always_same: bool) -> str | None:
    """SAME, RECODED or None; `always_same` says that what matches one to one counts however likely that is."""
    both = (own.notna() & outcome.notna()).to_numpy()
    if both.sum() < LEAST_CASES:
        return None
    x, own_is_number = _codes(own[both])
    y, outcome_is_number = _codes(outcome[both])
    n_x, n_y = int(x.max()) + 1, int(y.max()) + 1
    if min(n_x, n_y) < 2:
        return None
    cells, counts = np.unique(np.column_stack([x, y]), axis=0, return_counts=True)
    if len(cells) > max(n_x, n_y):  # neither is a function of the other
        return None
    one_to_one = len(cells) == n_x == n_y
    if always_same and one_to_one and n_x < len(x):
        return SAME
    if not outcome_is_number and n_y > 2:
        return None
    chance = _log_chance(x, y, counts)
    low, high = np.full(n_x, n_y), np.full(n_x, -1)
    np.minimum.at(low, cells[:, 0], cells[:, 1])
    np.maximum.at(high, cells[:, 0], cells[:, 1])
    found = own_is_number and (_never_back(low, high) or _never_back(low[::-1], high[::-1]))
    found = found and chance + np.log(2) < np.log(CHANCE)
    if not found:
        order = np.lexsort((high, low))
        found = _never_back(low[order], high[order]) and chance + gammaln(n_x + 1) < np.log(CHANCE)
    if not found:
        return None
    return SAME if one_to_one else RECODED


def _codes(column: pd.Series) -> tuple[np.ndarray, bool]:
    """The rank of each value among the different ones, and whether they are numbers."""
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return np.unique(numbers.to_numpy(dtype=np.float64), return_inverse=True)[1], True
    return np.unique(column.astype(str).str.strip().to_numpy(dtype=object), return_inverse=True)[1], False


def _never_back(low: np.ndarray, high: np.ndarray) -> bool:
    return bool((high[:-1] <= low[1:]).all())


def _log_chance(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> float:
    """Logarithm of the probability of a table of counts under fixed margins (Fisher's exact test)."""
    margins = gammaln(np.bincount(x) + 1).sum() + gammaln(np.bincount(y) + 1).sum()
    return float(margins - gammaln(len(x) + 1) - gammaln(counts + 1).sum())
