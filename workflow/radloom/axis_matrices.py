"""The matrices that interpolate and filter samples along one axis.

Everything here works in voxels of the old axis: n samples at the positions 0 to n - 1, mirrored at both ends about
the outer samples, as SciPy's mode "mirror" and ITK's B-spline have them. A matrix (new samples x old samples) has rows
that sum to 1, so constants stay as they are.
"""

from __future__ import annotations

import math

import numpy as np

from radloom.images import Array

MOST_ORDER = 5
FWHM = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian of standard deviation 1."""

# The Gaussian is taken of the spline of this order: its frequency response is the Gaussian's within 0.2 % up to half of
# the Nyquist frequency.
_SMOOTHED_ORDER = 5
# Positions that are half-way between two samples but for rounding all go to the later one.
_HALF_WAY = 1e-9
_GAUSSIAN_REACH = 6.0  # standard deviations
_GAUSSIAN_STEPS = 4  # a standard deviation, or a voxel where that is shorter


def linear_matrix(n: int, at: Array) -> Array:
    """Matrix (len(at) x n) that interpolates n samples linearly at the positions `at`, 0 to n - 1."""
    low = np.clip(np.floor(at).astype(np.intp), 0, max(n - 2, 0))
    rows = np.arange(len(at))
    matrix = np.zeros((len(at), n))
    matrix[rows, low] = 1 - (at - low)
    if n > 1:
        matrix[rows, low + 1] = at - low
    return matrix


def bspline_matrix(n: int, at: Array, order: int = 3) -> Array:
    """Matrix (len(at) x n) that interpolates n samples by the B-spline of an order, 0 to 5, at the positions `at`.

    The spline through the samples has the coefficients c with P c = samples, where P holds the B-spline at the
    samples (1/6, 4/6, 1/6 of the cubic one), mirrored at both ends (Unser, IEEE Signal Process. Mag. 16(6):22,
    1999). Order 0 is the nearest sample (half-way: the later one), order 1 linear.
    """
    if n == 1:
        return np.ones((len(at), 1))
    if order < 2:
        return _bspline_basis(n, at, order)
    return _through_samples(n, _bspline_basis(n, at, order), order)


def sinc_matrix(n: int, at: Array, radius: int) -> Array:
    """Matrix (len(at) x n) that interpolates n samples by the sinc with Lanczos' window at the positions `at`.

    sinc(x) sinc(x / radius) for |x| < radius, over the sum of these weights (Lanczos' own add up to 1 only within
    0.1 % at radius 5, and a constant would come out with ripples). ITK's LanczosWindowedSinc, of radius 5, is the same
    without the division.
    """
    index, weights = sinc_weights(n, at, radius)
    matrix = np.zeros((len(at), n))
    np.add.at(matrix, (np.arange(len(at))[:, None], index), weights)
    return matrix


def sinc_weights(n: int, at: Array, radius: int) -> tuple[Array, Array]:
    """The samples that each position sees by the windowed sinc, and their weights, both (len(at) x 2 radius)."""
    base = np.floor(at).astype(np.intp)
    taps = np.arange(1 - radius, radius + 1)
    away = (at - base)[:, None] - taps
    weights = np.sinc(away) * np.sinc(away / radius)
    weights /= weights.sum(axis=1, keepdims=True)
    return _mirrored(base[:, None] + taps, n), weights


def gaussian_matrix(n: int, sigma: float) -> Array:
    """Matrix (n x n) that convolves n samples with a Gaussian of standard deviation `sigma` in voxels, above 0.

    What is convolved is the B-spline of order 5 through the samples, not the samples: a Gaussian that is sampled would
    be narrower than it should be below half a voxel. The integral is a sum at steps of sigma / 4, at most 1/4 voxel,
    over 6 sigma to both sides.
    """
    if n == 1:
        return np.ones((1, 1))
    step = min(sigma, 1.0) / _GAUSSIAN_STEPS
    count = math.ceil(_GAUSSIAN_REACH * sigma / step)
    shifts = np.arange(-count, count + 1) * step
    weights = np.exp(-((shifts / sigma) ** 2) / 2)
    weights /= weights.sum()
    # Every sample sees the same taps before they are mirrored: the smoothed spline at whole distances.
    reach = math.ceil(shifts[-1]) + _SMOOTHED_ORDER
    taps = np.arange(-reach, reach + 1)
    profile = np.zeros(len(taps))
    for shift, weight in zip(shifts.tolist(), weights.tolist(), strict=True):
        base, offset, values = _bspline_values(np.array([shift]), _SMOOTHED_ORDER)
        first = int(base[0]) + offset + reach
        profile[first : first + len(values)] += weight * np.concatenate(values)
    basis = _folded(n, np.arange(n), taps, np.broadcast_to(profile, (n, len(taps))))
    return _through_samples(n, basis, _SMOOTHED_ORDER)


def _through_samples(n: int, basis: Array, order: int) -> Array:
    """The matrix of the spline through the samples, from that of its coefficients (rows x n)."""
    prefilter = _bspline_basis(n, np.arange(n, dtype=np.float64), order)
    return np.asarray(np.linalg.solve(prefilter.T, basis.T).T)


def _bspline_basis(n: int, at: Array, order: int) -> Array:
    base, offset, values = _bspline_values(at, order)
    return _folded(n, base, np.arange(offset, offset + len(values)), np.stack(values, axis=1))


def _bspline_values(at: Array, order: int) -> tuple[Array, int, list[Array]]:
    """Where the B-splines that a position sees begin: at `base` + the number returned; and their values there."""
    if order == 3:
        base = np.floor(at).astype(np.intp)
        t: Array = at - base
        # Written out: the recursion below gives the same but for the last digit.
        cubic = [(1 - t) ** 3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2, t**3 / 6]
        return base, -1, cubic
    # Odd orders have their knots at the samples, even ones between them.
    even = order % 2 == 0
    base = np.floor(at + (0.5 + _HALF_WAY) * even).astype(np.intp)
    t = at - base + 0.5 * even
    values: list[Array] = [np.ones_like(t)]
    for d in range(1, order + 1):  # Cox-de Boor's recursion for knots of distance 1
        before = values
        values = [(1 - t) / d * before[0]]
        values += [((t + d - j) * before[j - 1] + (j + 1 - t) * before[j]) / d for j in range(1, d)]
        values.append(t / d * before[-1])
    return base, -(order // 2), values


def _folded(n: int, base: Array, taps: Array, weights: Array) -> Array:
    """Matrix (len(base) x n) of the weights (len(base) x len(taps)) of the samples base + taps, mirrored."""
    matrix = np.zeros((len(base), n))
    rows = np.arange(len(base))
    for tap, weight in zip(taps.tolist(), weights.T, strict=True):
        # Several of them may be mirrored onto one sample, so they are added.
        np.add.at(matrix, (rows, _mirrored(base + tap, n)), weight)
    return matrix


def _mirrored(index: Array, n: int) -> Array:
    """Indices of any size as those of the n samples, mirrored about the outer ones."""
    period = max(2 * (n - 1), 1)
    index = index % period
    return np.where(index < n, index, period - index)
