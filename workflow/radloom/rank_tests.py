"""Rank tests of many columns at once: Kolmogorov-Smirnov distances of empirical distributions.

Plain arrays, samples x columns; no monotone transformation of a column changes a result.
"""

from __future__ import annotations

import numpy as np


def ks_statistic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sample Kolmogorov-Smirnov statistic of each column (largest gap of the empirical distributions)."""
    both = np.vstack([first, second])
    step = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
    order = np.argsort(both, axis=0, kind="stable")
    ranked = np.take_along_axis(both, order, axis=0)
    gap = np.abs(np.cumsum(step[order], axis=0))
    last_of_tie = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, both.shape[1]), dtype=bool)])
    return np.asarray(np.where(last_of_tie, gap, 0.0).max(axis=0))
