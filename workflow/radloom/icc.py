"""Intraclass correlation coefficients of single measurements with their 95 % intervals, for many features at once.

The three forms of Shrout and Fleiss (Psychol Bull 86:420, 1979), with the intervals as McGraw and Wong write them
(Psychol Methods 1:30, 1996, tables 4 and 7):

- ICC(1,1): repeats of a case are exchangeable (one-way random effects), such as random perturbations.
- ICC(2,1): each repeat is one and the same reader or session for all cases, and a systematic difference between
  them counts as disagreement (two-way random effects, absolute agreement).
- ICC(3,1): the same, but a systematic difference between repeats does not count (two-way mixed effects, consistency).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtri

Array = NDArray[Any]

LEVEL = 0.95
_UPPER = (1 + LEVEL) / 2
# Values that differ by less than this part of their size differ by rounding alone.
_ROUNDING = 1e-12

TOO_FEW = "fewer than 2 cases with 2 repeats"
TOO_FEW_COMPLETE = "fewer than 2 cases have all repeats"
NO_VARIANCE = "all values are the same"
NO_SPREAD = "no difference between repeats: the interval has no width"


@dataclass(frozen=True)
class Icc:
    """One form of the coefficient for all features; every field has one entry a feature.

    `cases` are the cases that count and `repeats` the mean number of their values. Where a coefficient can't be
    estimated, it and its interval are NaN and `note` says why.
    """

    form: str
    estimate: Array
    low: Array
    high: Array
    cases: Array
    repeats: Array
    note: list[str]


def icc_1_1(values: Array) -> Icc:
    """ICC(1,1) of values (cases, repeats, features); NaN is a repeat that is not there.

    Cases may have different numbers of repeats, one among them: then the mean squares are those of the unbalanced
    one-way analysis of variance, and k in estimate and interval is k0 = (N - sum k_i^2 / N) / (n - 1) (N values, k_i
    of case i of n), which makes the estimate consistent but the interval approximate (Donner, Int Stat Rev 54:67,
    1986). With equal numbers both are Shrout and Fleiss' exactly.
    """
    there = np.isfinite(values)
    k_i = there.sum(axis=1)
    n, total = (k_i > 0).sum(axis=0), k_i.sum(axis=0)
    with np.errstate(all="ignore"):
        x = _centred(values, there)
        means = np.where(k_i > 0, x.sum(axis=1) / k_i, 0.0)
        within_squares = (np.where(there, x - means[:, None, :], 0.0) ** 2).sum(axis=(0, 1))
        # x is centred at its grand mean.
        between = (k_i * means**2).sum(axis=0) / (n - 1)
        within = within_squares / (total - n)
        k0 = (total - (k_i**2).sum(axis=0) / total) / (n - 1)
        f = between / within
        low, high = (
            (ratio - 1) / (ratio + k0 - 1)
            for ratio in (f / fdtri(n - 1, total - n, _UPPER), f * fdtri(total - n, n - 1, _UPPER))
        )
        estimate = (between - within) / (between + (k0 - 1) * within)
    enough = (n >= 2) & ((k_i >= 2).sum(axis=0) >= 2)
    spread = _spread(values, there)
    return _judged("ICC(1,1)", estimate, low, high, n, total, enough, TOO_FEW, spread, within_squares)


def icc_2_1(values: Array) -> Icc:
    """ICC(2,1) of values (cases, repeats, features); of each feature, cases that lack a repeat are left out.

    The interval is Shrout and Fleiss' (Satterthwaite's approximation of the degrees of freedom).
    """

    def estimate(rows: Array, columns: Array, error: Array, n: Array, k: int) -> tuple[Array, Array, Array]:
        rho = (rows - error) / (rows + (k - 1) * error + k * (columns - error) / n)
        a, b = k * rho * columns, (n * (1 - rho) + k * rho * (n - 1)) * error
        df = (a + b) ** 2 / (a**2 / (k - 1) + b**2 / ((n - 1) * (k - 1)))
        upper, lower = fdtri(n - 1, df, _UPPER), fdtri(df, n - 1, _UPPER)
        rest = k * columns + (k * n - k - n) * error
        low = n * (rows - upper * error) / (upper * rest + n * rows)
        high = n * (lower * rows - error) / (rest + n * lower * rows)
        return rho, low, high

    return _two_way("ICC(2,1)", values, estimate)


def icc_3_1(values: Array) -> Icc:
    """ICC(3,1) of values (cases, repeats, features); of each feature, cases that lack a repeat are left out."""

    def estimate(rows: Array, _: Array, error: Array, n: Array, k: int) -> tuple[Array, Array, Array]:
        f, df1, df2 = rows / error, n - 1, (n - 1) * (k - 1)
        low, high = (
            (ratio - 1) / (ratio + k - 1) for ratio in (f / fdtri(df1, df2, _UPPER), f * fdtri(df2, df1, _UPPER))
        )
        return (rows - error) / (rows + (k - 1) * error), low, high

    return _two_way("ICC(3,1)", values, estimate)


def _two_way(
    form: str, values: Array, estimate: Callable[[Array, Array, Array, Array, int], tuple[Array, Array, Array]]
) -> Icc:
    """A coefficient of the mean squares of cases, repeats and residuals, over cases that have all repeats."""
    k = values.shape[1]
    complete: Array = np.asarray(np.isfinite(values).all(axis=1))
    there = np.broadcast_to(complete[:, None, :], values.shape)
    n = complete.sum(axis=0)
    with np.errstate(all="ignore"):
        x = _centred(values, there)
        row_means, column_means = x.mean(axis=1), x.sum(axis=0) / n
        residuals = np.where(there, x - row_means[:, None, :] - column_means[None, :, :], 0.0)
        error_squares = (residuals**2).sum(axis=(0, 1))
        rows = k * (row_means**2).sum(axis=0) / (n - 1)
        columns = n * (column_means**2).sum(axis=0) / (k - 1)
        error = error_squares / ((n - 1) * (k - 1))
        rho, low, high = estimate(rows, columns, error, n, k)
    enough = (n >= 2) & (k >= 2)
    spread = _spread(values, there)
    # A difference between repeats that is the same in all cases leaves no residuals, and ICC(3,1) doesn't see it.
    squares = (
        error_squares if form == "ICC(3,1)" else error_squares + n * (np.nan_to_num(column_means) ** 2).sum(axis=0)
    )
    return _judged(form, rho, low, high, n, n * k, enough, TOO_FEW_COMPLETE, spread, squares)


def _centred(values: Array, there: Array) -> Array:
    """The values minus each feature's grand mean; 0 where there is none."""
    mean = np.where(there, values, 0.0).sum(axis=(0, 1)) / there.sum(axis=(0, 1))
    return np.where(there, values - mean, 0.0)


def _spread(values: Array, there: Array) -> Array:
    """The squared size below which the sums of squares of each feature are rounding; infinite without spread."""
    some = there.any(axis=(0, 1))
    high = np.where(there, values, -np.inf).max(axis=(0, 1), initial=-np.inf)
    low = np.where(there, values, np.inf).min(axis=(0, 1), initial=np.inf)
    size = np.abs(np.where(there, values, 0.0)).max(axis=(0, 1), initial=0.0)
    with np.errstate(invalid="ignore"):
        varies = some & (high - low > _ROUNDING * size)
    return np.where(varies, (_ROUNDING * size) ** 2 * there.sum(axis=(0, 1)), np.inf)


def _judged(
    form: str,
    estimate: Array,
    low: Array,
    high: Array,
    cases: Array,
    total: Array,
    enough: Array,
    too_few: str,
    rounding: Array,
    squares: Array,
) -> Icc:
    """The coefficients, NaN with a note where they can't be estimated; 1 where repeats agree but for rounding."""
    constant = enough & np.isinf(rounding)
    equal = enough & ~constant & (squares <= rounding)
    known = enough & ~constant
    parts = [np.where(equal, 1.0, np.where(known, part, np.nan)) for part in (estimate, low, high)]
    notes = [
        too_few if not e else NO_VARIANCE if c else NO_SPREAD if s else ""
        for e, c, s in zip(enough, constant, equal, strict=True)
    ]
    with np.errstate(all="ignore"):
        repeats = np.where(cases > 0, total / cases, 0.0)
    return Icc(form, parts[0], parts[1], parts[2], cases, repeats, notes)
