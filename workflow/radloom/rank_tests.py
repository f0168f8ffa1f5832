"""Rank tests of many columns at once: are the values of all batches, or of one and the others, equally distributed?

Plain arrays, samples x columns; no monotone transformation of a column and no order of the samples changes a result.

Anderson-Darling: the k-sample statistic with midranks of Scholz and Stephens (J Am Stat Assoc 1987,
10.1080/01621459.1987.10478517), standardised by its mean and standard deviation, as `scipy.stats.anderson_ksamp` does.
That one takes a column at a time and cuts p off at 0.001 and 0.25, between which it interpolates a table. Here all
columns are ranked once, and p is that of the limiting distribution without bounds: with thousands of features a p that
can't fall below 0.001 could never survive the adjustment for their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import kolmogorov

LEAST_SAMPLES = 4
"""The variance of the k-sample statistic is not defined for fewer."""

_CELLS = 150_000
"""Values that are ranked at a time: what the processor keeps near. The result doesn't depend on it."""


@dataclass(frozen=True)
class RankTests:
    """Tests of each column (last axis) between k groups (first axis where there is one).

    `ad` is the standardised k-sample Anderson-Darling statistic, `ad_p` its p. `one_ks` and `one_ad` compare each
    group with all others (Kolmogorov-Smirnov distance; standardised two-sample Anderson-Darling).
    """

    ad: np.ndarray
    ad_p: np.ndarray
    one_ks: np.ndarray
    one_ks_p: np.ndarray
    one_ad: np.ndarray
    one_ad_p: np.ndarray


def rank_tests(values: np.ndarray, groups: list[np.ndarray]) -> RankTests:
    """Compare the groups (rows of each) of `values`, samples x columns, column by column.

    Kolmogorov-Smirnov's p is the asymptotic one (Kolmogorov's distribution at sqrt(n m / (n + m)) D), Anderson-
    Darling's that of `anderson_darling_p`. All is NaN for a column without any difference, with fewer than two groups,
    or with fewer than LEAST_SAMPLES samples. Values must be finite.
    """
    k, p = len(groups), values.shape[1]
    empty = np.full((k, p), np.nan)
    found = RankTests(empty[0].copy() if k else np.full(p, np.nan), np.full(p, np.nan), *(empty.copy() for _ in "1234"))
    sizes = np.array([len(rows) for rows in groups], dtype=np.float64)
    n = int(sizes.sum())
    if k < 2 or n < LEAST_SAMPLES:
        return found
    used = np.concatenate(groups)
    codes = np.repeat(np.arange(k), sizes.astype(int))
    step = max(1, _CELLS // n)
    for start in range(0, p, step):
        part = slice(start, min(start + step, p))
        distance, scatter = _scatter(np.ascontiguousarray(values[used, part].T), codes, sizes)
        found.ad[part] = (scatter / sizes[:, None]).sum(axis=0)
        found.one_ad[:, part] = scatter * (1 / sizes + 1 / (n - sizes))[:, None]
        found.one_ks[:, part] = distance
    found.ad[:] = (found.ad - (k - 1)) / np.sqrt(_variance(sizes))
    found.ad_p[:] = anderson_darling_p(found.ad, k)
    for row, size in enumerate(sizes):
        found.one_ad[row] = (found.one_ad[row] - 1) / np.sqrt(_variance(np.array([size, n - size])))
        found.one_ks_p[row] = kolmogorov(np.sqrt(size * (n - size) / n) * found.one_ks[row])
    found.one_ad_p[:] = anderson_darling_p(found.one_ad, 2)
    return found


def _scatter(values: np.ndarray, codes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each group against the others, groups x rows of `values` (columns x samples, constant ones NaN).

    The largest distance of the distribution functions; and the sum over the samples of the squared distance of a
    group's midrank distribution from the pooled one, weighted as Anderson and Darling do: over n_i it is the group's
    part of the k-sample statistic, times (1 / n_i + 1 / (n - n_i)) the two-sample statistic of the group and the rest.
    """
    columns, n = values.shape
    order = np.argsort(values, axis=1, kind="stable")
    ranked = np.take_along_axis(values, order, axis=1)
    group = codes[order]
    position = np.arange(n)
    new = np.ones((columns, n), dtype=bool)
    new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    tied = not new.all()
    if tied:
        first = np.maximum.accumulate(np.where(new, position, 0), axis=1)
        last_of_run = np.ones((columns, n), dtype=bool)
        last_of_run[:, :-1] = new[:, 1:]
        last = np.minimum.accumulate(np.where(last_of_run, position, n)[:, ::-1], axis=1)[:, ::-1]
    else:
        first = last = position[None, :]
    length = (last - first + 1).astype(np.float64)
    middle = (first + last + 1) / 2.0
    weight = middle * (n - middle) - n * length / 4.0
    constant = ranked[:, 0] == ranked[:, -1]
    distance = np.empty((len(sizes), columns))
    scatter = np.empty((len(sizes), columns))
    with np.errstate(invalid="ignore", divide="ignore"):
        inverse = np.broadcast_to((n - 1) / n**2 / weight, (columns, n))
        for code, size in enumerate(sizes):
            mine = group == code
            upto = np.cumsum(mine, axis=1, dtype=np.float64)
            if tied:
                at_end = np.take_along_axis(upto, last, axis=1)
                both = at_end + np.take_along_axis(upto, first, axis=1) - np.take_along_axis(mine, first, axis=1)
            else:
                at_end, both = upto, 2.0 * upto - mine
            # F of the group minus that of the others: c / n_i - (e - c) / (n - n_i) with c of e samples in the group.
            gap = at_end * (1.0 / size + 1.0 / (n - size)) - (last + 1) / (n - size)
            distance[code] = np.maximum(gap.max(axis=1), -gap.min(axis=1))
            apart = both * (n / 2.0) - size * middle
            scatter[code] = np.einsum("cj,cj,cj->c", apart, apart, inverse)
    distance[:, constant] = np.nan
    scatter[:, constant] = np.nan
    return distance, scatter


def _variance(sizes: np.ndarray) -> float:
    """Variance of the k-sample statistic under equal distributions (Scholz and Stephens 1987, equation 4)."""
    n, k = int(sizes.sum()), len(sizes)
    inverse = float((1.0 / sizes).sum())
    harmonic = np.cumsum(1.0 / np.arange(1, n))
    h = float(harmonic[-1])
    i = np.arange(1, n - 1)
    g = float(((h - harmonic[i - 1]) / (n - i)).sum())
    a = (4 * g - 6) * (k - 1) + (10 - 6 * g) * inverse
    b = (2 * g - 4) * k**2 + 8 * h * k + (2 * g - 14 * h - 4) * inverse - 8 * h + 4 * g - 6
    c = (6 * h + 2 * g - 2) * k**2 + (4 * h - 4 * g + 6) * k + (2 * h - 6) * inverse + 4 * h
    d = (2 * h + 6) * k**2 - 4 * h * k
    return float((a * n**3 + b * n**2 + c * n + d) / ((n - 1.0) * (n - 2.0) * (n - 3.0)))


def anderson_darling_p(standardised: np.ndarray, k: int) -> np.ndarray:
    """P values of standardised k-sample Anderson-Darling statistics; NaN stays NaN.

    The limiting distribution is that of a sum over j = 1, 2, ... of chi-squares with k - 1 degrees of freedom, weighted
    by 1 / (j (j + 1)) (Scholz and Stephens 1987). Its tail is had by inverting its generating function, which is known
    in closed form, along a line through the saddle point, so that small p are as precise as large ones. A small
    sample's own distribution differs: of 5 to 10 cases a group, a p near 0.05 is about a tenth too small, and one below
    0.001 too large.
    """
    from scipy import stats
    from scipy.interpolate import PchipInterpolator

    m = k - 1
    spread = np.sqrt(2.0 * m * (np.pi**2 / 3.0 - 3.0))
    x = m + spread * np.asarray(standardised, dtype=np.float64)
    at, log_p = _tail(m)
    p = np.full(x.shape, np.nan)
    known = np.isfinite(x)
    inner = known & (x < at[-1])
    p[inner] = np.exp(PchipInterpolator(at, log_p)(np.maximum(x[inner], at[0])))
    far = known & ~inner
    # Beyond, the first term rules: its own tail, joined where the table ends.
    p[far] = np.exp(log_p[-1] + stats.chi2.logsf(2 * x[far], m) - stats.chi2.logsf(2 * at[-1], m))
    return np.clip(p, 0.0, 1.0)


@lru_cache(maxsize=64)
def _tail(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Places and the logarithm of the probability that the limiting statistic (m = k - 1) is larger."""
    spread = np.sqrt(2.0 * m * (np.pi**2 / 3.0 - 3.0))
    lowest = max(0.04 * m, m - 4.5 * spread)
    at = np.concatenate([np.linspace(lowest, m + 6 * spread, 70), np.linspace(m + 6.25 * spread, m + 30.0, 30)])
    at = np.unique(at)
    log_p = np.array([_log_tail(float(x), m) for x in at])
    return np.concatenate([[0.0], at]), np.concatenate([[0.0], np.minimum(np.minimum.accumulate(log_p), 0.0)])


def _log_tail(x: float, m: int) -> float:
    """log P(A > x) of A = sum of chi2_m / (j (j + 1)), by inversion along the line of real part `c`."""
    c = float(np.clip(1.0 - 0.5 * m / x, 0.1, 0.995))  # near the saddle point where the first term rules
    width = min(c, 1.0 - c)
    u = np.linspace(0.0, np.arcsinh(3000.0 / width), 6001)
    t = width * np.sinh(u)
    s = c + 1j * t
    ratio = np.cos(np.pi / 2 * np.sqrt(1 + 8 * s)) / (-2 * np.pi * s)
    log_m = -0.5 * m * (np.log(np.abs(ratio)) + 1j * np.unwrap(np.angle(ratio)))
    at_c = float(log_m[0].real)
    integrand = (np.exp(log_m - at_c - 1j * t * x) / s).real * width * np.cosh(u)
    return at_c - c * x + float(np.log(max(np.trapezoid(integrand, u) / np.pi, 1e-300)))


def adjust_fdr(p: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p-values (J R Stat Soc B 1995); NaN stays NaN and doesn't count."""
    q = np.full(len(p), np.nan)
    there = np.flatnonzero(np.isfinite(p))
    order = there[np.argsort(-p[there], kind="stable")]
    m = len(order)
    scaled = p[order] * m / np.arange(m, 0, -1)
    q[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return q


def ks_statistic(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Two-sample Kolmogorov-Smirnov statistic of each column (largest gap of the empirical distributions)."""
    both = np.vstack([first, second])
    step = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
    order = np.argsort(both, axis=0, kind="stable")
    ranked = np.take_along_axis(both, order, axis=0)
    gap = np.abs(np.cumsum(step[order], axis=0))
    last_of_tie = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, both.shape[1]), dtype=bool)])
    return np.asarray(np.where(last_of_tie, gap, 0.0).max(axis=0))
