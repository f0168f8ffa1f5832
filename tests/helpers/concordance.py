"""Concordance by the matrix of all pairs: slow, and plain enough to be an oracle."""

from collections.abc import Callable

import numpy as np

from radloom.cox import concordance_of_pairs


def fold_concordance(
    pairs_of: Callable[[np.ndarray], np.ndarray], risk: np.ndarray, groups: np.ndarray, weights: np.ndarray
) -> tuple[float, np.ndarray, int]:
    """Fraction of concordant pairs among the comparable pairs within groups, for all cases and each row of weights.

    `pairs_of` gives the weights of the pairs of some cases, cases x cases; `weights` are samples x cases. Two draws of
    one case are no pair. Returns the fraction of all cases, those of the samples, and the number of pairs.
    """
    right, total, n_pairs = np.zeros(len(weights) + 1), np.zeros(len(weights) + 1), 0
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        pairs = pairs_of(members)
        n_pairs += int((pairs > 0).sum())
        drawn = np.vstack([np.ones(len(members)), weights[:, members]])
        right += ((drawn @ (pairs * concordance_of_pairs(risk[members]))) * drawn).sum(axis=1)
        total += ((drawn @ pairs) * drawn).sum(axis=1)
    share = np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)
    return float(share[0]), share[1:], n_pairs


def class_pairs(outcome: np.ndarray) -> np.ndarray:
    """1 where case i (row) has the outcome and case j (column) has not, else 0; cases x cases, float64."""
    y = np.asarray(outcome) == 1
    return np.asarray((y[:, None] & ~y[None, :]), dtype=np.float64)
