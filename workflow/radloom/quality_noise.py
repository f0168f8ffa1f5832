"""Noise of a CT, from small patches of sampled axial slices.

A slice is cut into squares of about 6 mm, as many as fit around its middle. Each has a mean and a standard deviation;
noise is read from the deviations of those that show one material, which leaves trends across the body out of it. The
sides are odd numbers of pixels, so that a mirrored image has the same patches.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from radloom.calibrate import Calibration
from radloom.images import Array

SLICES = 24
PATCH_MM = 6.0  # Christianson 2015 and Tian & Samei 2016 look at areas of about 30 mm2
_LEAST_SIDE = 5
_SOFT_TISSUE = (0.0, 100.0)  # HU of a patch's mean
_MUSCLE = (10.0, 90.0)
_AIR_ABOVE_ALL = -850.0  # HU that no pixel of a patch of air exceeds
_NOT_AIR = -500.0
_PADDED_BELOW = -1023.0  # HU before calibration; ingest leaves -1024 in padding
_AIR = (-1100.0, -900.0)  # HU beyond which it is something else
_AIR_SLICES = 8
_AIR_NEAR = 25.0  # HU of a patch's median from that of all air
_MOST_AT_FLOOR = 0.4
_FEWEST_PATCHES = 50
_LOG_BIN, _LOG_WIDTH = 0.01, 0.04  # of the histogram of log SD, and of the Gaussian that smooths it
_MOST_UNLIKE = 120.0  # HU between the means of neighbouring patches within one tissue
_SD_RANGE = (0.2, 300.0)
_MOST_UNEVEN = 15.0  # HU between the means of neighbouring patches of flat tissue
_ONE_SIGMA = 0.8413447460685429  # share of a normal distribution below one standard deviation


@dataclass(frozen=True)
class Patches:
    """Patches of slices: planes (n, y, x) in true HU, and of each patch (n, rows, columns) mean, SD (divisor pixels -
    1), least and largest value, whether all its pixels were measured, and whether some of them look like padding.
    """

    planes: Array
    side: tuple[int, int]
    mean: Array
    sd: Array
    low: Array
    high: Array
    measured: Array
    padding: Array
    step: float
    """Distance in HU between two values that the image can have; 0 where it has fractions."""

    @property
    def pixels(self) -> int:
        return self.side[0] * self.side[1]


def sampled(count: int, most: int) -> list[int]:
    """At most `most` (an even number) of the indices 0 to count - 1, evenly spread; mirrored they are the same."""
    if count <= most:
        return list(range(count))
    half = [(2 * i + 1) * count // (2 * most) for i in range(most // 2)]
    return half + [count - 1 - i for i in reversed(half)]


def cut_patches(
    planes: Array, valid: Array | None, spacing: tuple[float, float, float], calibration: Calibration
) -> Patches:
    """Cut slices (n, y, x; observed HU) into patches; `valid` is 0 in padding. `spacing` is (x, y, z) in mm."""
    step = calibration.slope if planes.dtype.kind in "iu" else 0.0
    true = planes.astype(np.float32)
    if calibration.method != "none":
        true = true * np.float32(calibration.slope) + np.float32(calibration.intercept)
    side = _side(spacing[1], true.shape[1]), _side(spacing[0], true.shape[2])
    count = side[0] * side[1]
    columns: dict[str, list[Array]] = {name: [] for name in ("mean", "sd", "low", "high", "measured", "padding")}
    # Plane by plane, which stays in the processor's cache.
    for n, plane in enumerate(true):
        inner = inner_part(plane, side)
        mean = per_patch(np.add, inner, side) / count
        # About the patch's mean: float32 loses nothing of a noise of 1 HU about -1000 HU.
        rest = inner - np.repeat(np.repeat(mean, side[0], axis=0), side[1], axis=1)
        columns["mean"].append(mean)
        columns["sd"].append(np.sqrt(per_patch(np.add, rest * rest, side) / max(count - 1, 1)))
        columns["low"].append(per_patch(np.minimum, inner, side))
        columns["high"].append(per_patch(np.maximum, inner, side))
        seen = np.ones(mean.shape, bool)
        if valid is not None:
            seen = per_patch(np.logical_and, inner_part(valid[n] > 0, side), side)
        columns["measured"].append(seen)
        columns["padding"].append(per_patch(np.logical_or, inner_part(_solid(planes[n] < _PADDED_BELOW), side), side))
    return Patches(true, side, **{name: np.stack(parts) for name, parts in columns.items()}, step=step)


def _solid(found: Array) -> Array:
    """The pixels (y, x) that are found together with all of their eight neighbours, and those neighbours.

    Noise that is cut off at -1024 HU has such pixels too, but hardly nine in a square.
    """
    middle = found[1:-1, 1:-1].copy()
    for dy, dx in itertools.product((0, 1, 2), (0, 1, 2)):
        middle &= found[dy : dy + middle.shape[0], dx : dx + middle.shape[1]]
    solid = np.zeros_like(found)
    for dy, dx in itertools.product((0, 1, 2), (0, 1, 2)):
        solid[dy : dy + middle.shape[0], dx : dx + middle.shape[1]] |= middle
    return solid


def _side(spacing: float, length: int) -> int:
    """The odd number of pixels nearest to 6 mm, at least 5 and no more than there are."""
    odd = 2 * math.floor((PATCH_MM / spacing - 1) / 2 + 0.5) + 1
    most = length if length % 2 else length - 1
    return min(max(_LEAST_SIDE, odd), most)


def inner_part(plane: Array, side: tuple[int, int]) -> Array:
    """The part of a plane (y, x) around its middle that whole patches fill: both rims lose as much."""
    spans = []
    for length, width in zip(plane.shape, side, strict=True):
        fit = length // width
        fit -= (length - fit * width) % 2
        start = (length - fit * width) // 2
        spans.append(slice(start, start + fit * width))
    return plane[tuple(spans)]


def per_patch(reduce: np.ufunc, inner: Array, side: tuple[int, int]) -> Array:
    """A reduction of the pixels of every patch (rows, columns) of what `inner_part` returns."""
    rows, columns = inner.shape[0] // side[0], inner.shape[1] // side[1]
    lines = reduce.reduce(inner.reshape(rows, side[0], columns * side[1]), axis=1)
    return np.asarray(reduce.reduce(lines.reshape(rows, columns, side[1]), axis=2))


def _pixels(patches: Patches, chosen: Array) -> Array:
    """The pixels (patches, pixels) of the chosen patches (n, rows, columns)."""
    found = []
    for plane, these in zip(patches.planes, chosen, strict=True):
        rows, columns = these.shape
        inner = inner_part(plane, patches.side).reshape(rows, patches.side[0], columns, patches.side[1])
        found.append(inner.transpose(0, 2, 1, 3)[these].reshape(-1, patches.pixels))
    return np.concatenate(found)


def air_patches(patches: Patches) -> Array:
    """Which patches (n, rows, columns) show the air around the body.

    A row or column reaches them from a side through patches below -500 HU alone, no pixel of theirs is above -850 HU,
    the patches around them are below -500 HU too, and they are no padding.
    """
    low = patches.high < _NOT_AIR
    rays = np.logical_and.accumulate
    outside = rays(low, axis=1) | rays(low[:, ::-1], axis=1)[:, ::-1]
    outside |= rays(low, axis=2) | rays(low[:, :, ::-1], axis=2)[:, :, ::-1]
    inner = ~_near(~low)
    return np.asarray(outside & inner & (patches.high < _AIR_ABOVE_ALL) & patches.measured & ~patches.padding)


def air_noise(patches: Patches) -> float | None:
    """The noise in the air around the body in HU, None where it can't be had.

    It is what the upper 84.13 % quantile of the pixels lies above the median of their patch: one standard
    deviation of normal noise, which values cut off at -1000 or -1024 HU don't change. Where more than 40 % of the
    air have its lowest value, nothing is left to measure.
    """
    chosen = air_patches(patches)
    if (slices := np.flatnonzero(chosen.any(axis=(1, 2)))).size > _AIR_SLICES:
        some = slices[sampled(slices.size, _AIR_SLICES)]
        chosen[np.isin(np.arange(len(chosen)), some, invert=True)] = False
    if np.count_nonzero(chosen) < _FEWEST_PATCHES:
        return None
    values = _pixels(patches, chosen)
    middles = np.median(values, axis=1)
    # Foam and cloth are denser than air: the lowest tenth is where to begin.
    near = np.abs(middles - np.quantile(middles, 0.1)) <= _AIR_NEAR
    near = np.abs(middles - np.median(middles[near])) <= _AIR_NEAR
    values, middles = values[near], middles[near]
    if len(values) < _FEWEST_PATCHES or not _AIR[0] <= np.median(values) <= _AIR[1]:
        return None
    # Of the air: padding may lie below what the scanner, or somebody after it, cut off.
    if np.mean(values <= values.min() + 0.01) > _MOST_AT_FLOOR:
        return None
    return _upper_sigma(values - middles[:, None], patches.step)


def _upper_sigma(rest: Array, step: float) -> float:
    """The 84.13 % quantile; of whole HU, each of which stands for all fractions about it, between its ends."""
    if not step:
        return float(np.quantile(rest, _ONE_SIGMA))
    levels, counts = np.unique(np.rint(rest / step), return_counts=True)
    return float(np.interp(_ONE_SIGMA, np.cumsum(counts) / rest.size, levels + 0.5)) * step


def global_noise(patches: Patches) -> float | None:
    """The global noise level in HU: the mode of the local SDs in soft tissue (patch means of 0 to 100 HU).

    After Christianson et al. (AJR 205:W93, 2015) and Tian & Samei (Med Phys 43:475, 2016). The histogram is that of
    the logarithm of the SDs, smoothed by a Gaussian of 4 %: its mode is the standard deviation of normal noise without
    bias, whatever the patch's size. Left out are patches at the border of air, fat or bone: those with a neighbour
    whose mean is 120 HU away. None with fewer than 50 patches, or without noise.
    """
    every = patches.sd[_within(patches, _SOFT_TISSUE) & (_unevenness(patches.mean) <= _MOST_UNLIKE)]
    found = np.log(every[(every > _SD_RANGE[0]) & (every < _SD_RANGE[1])])
    if found.size < _FEWEST_PATCHES or found.size < every.size / 2:
        return None
    edges = np.arange(math.log(_SD_RANGE[0]), math.log(_SD_RANGE[1]) + _LOG_BIN, _LOG_BIN)
    return math.exp(_mode(found, edges, _LOG_WIDTH))


def _unevenness(means: Array) -> Array:
    """Range of the means (n, rows, columns) of each patch and its eight neighbours; infinite at the rims."""
    uneven = np.full(means.shape, np.inf)
    if min(means.shape[1:]) >= 3:
        windows = np.lib.stride_tricks.sliding_window_view(means, (3, 3), axis=(1, 2))
        uneven[:, 1:-1, 1:-1] = windows.max(axis=(3, 4)) - windows.min(axis=(3, 4))
    return uneven


def tissue_noise(patches: Patches) -> float | None:
    """SD in HU in flat tissue of muscle's HU (10 to 90), the median over patches; None where there is no such.

    Flat is told by the means of the patch and its eight neighbours, so that quiet patches aren't picked by their own
    SD: the quarter with the least range of those means, and no more than 15 HU.
    """
    chosen = _within(patches, _MUSCLE)
    uneven = _unevenness(patches.mean)
    known = uneven[chosen]
    known = known[known <= _MOST_UNEVEN]
    if known.size < _FEWEST_PATCHES:
        return None
    flat = chosen & (uneven <= np.quantile(known, 0.25))
    freedom = patches.pixels - 1
    # Median of chi over sqrt(freedom), after Wilson and Hilferty (1931).
    return float(np.median(patches.sd[flat])) / (1 - 2 / (9 * freedom)) ** 1.5


def _within(patches: Patches, span: tuple[float, float]) -> Array:
    return np.asarray(patches.measured & (patches.mean >= span[0]) & (patches.mean <= span[1]))


def _near(found: Array) -> Array:
    """The patches (n, rows, columns) that are found, and their eight neighbours in the slice."""
    grown = found.copy()
    grown[:, 1:] |= found[:, :-1]
    grown[:, :-1] |= found[:, 1:]
    wide = grown.copy()
    wide[:, :, 1:] |= grown[:, :, :-1]
    wide[:, :, :-1] |= grown[:, :, 1:]
    return wide


def _smoothed(values: Array, edges: Array, width: float) -> tuple[Array, Array]:
    """The histogram of values, smoothed by a Gaussian of this width, and the middles of its bins."""
    step = edges[1] - edges[0]
    counts = np.histogram(values, edges)[0]
    reach = math.ceil(4 * width / step)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) * step / width) ** 2)
    return np.convolve(counts, kernel / kernel.sum(), mode="same"), edges[:-1] + step / 2


def _mode(values: Array, edges: Array, width: float) -> float:
    smooth, middles = _smoothed(values, edges, width)
    top = int(np.argmax(smooth))
    if not 0 < top < len(smooth) - 1:
        return float(middles[top])
    left, centre, right = (float(v) for v in smooth[top - 1 : top + 2])
    bend = left - 2 * centre + right
    shift = 0.5 * (left - right) / bend if bend else 0.0
    return float(middles[top] + shift * (edges[1] - edges[0]))
