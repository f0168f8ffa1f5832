"""Hints of streaks, motion and truncation in a CT: figures that say where to look, not what is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radloom.calibrate import Calibration
from radloom.images import Array, Geometry, Volume
from radloom.quality_noise import Patches, inner_part, per_patch

METAL_HU = 2500.0
"""Denser than bone; metal in a scanner of 12 bits has 3071. Enamel may come near it."""
BODY_HU = -300.0
_LIMIT_12_BIT = 3071  # 4095 - 1024
_METAL_SLICES = 8
_METAL_MM2 = 10.0  # of metal in a slice, so that noise and single voxels are none
_METAL_BLUR_MM = 2.0
_AROUND_METAL_MM = (8.0, 80.0)
_METAL_MARGIN_MM = 20.0  # of what patches at the end of that see: themselves, and the reach of the blur
_TISSUE = (-50.0, 200.0)  # HU of a patch's mean
_FEWEST_IN_SLICE = 40
_REACH_MM = 20.0  # furthest shift between slices that is looked for
_TREND = 9  # slices whose median shift is the anatomy's
_LEAST_BODY = 0.02  # share of a slice
_DENSE_MM = 4.0
_MOST_CUT_OFF = 0.1  # share of the rim
_MOST_OTHER = 0.2  # of the largest part's voxels


@dataclass(frozen=True)
class Survey:
    """What one pass over all slices of a scan finds.

    `across` (z, x) and `along` (z, y) count the body's pixels in the columns and rows of every slice.
    """

    metal: Array
    """Pixels of metal in every slice."""
    saturated: int
    across: Array
    along: Array
    rim: Array
    """(z, 2): pixels of the rim of the field of view, and those of them that are body."""
    metallic: Array | None
    """The slices (n, y, x; as they came) with the most metal, at most 8; None where none has 10 mm2."""
    dense: Volume
    """Where voxels about 4 mm apart are above -300 HU (bool)."""


class Surveyor:
    """Looks at the slices of a scan one by one."""

    def __init__(self, geometry: Geometry, calibration: Calibration) -> None:
        shape = geometry.shape
        self.least_metal = max(1, math.ceil(_METAL_MM2 / (geometry.spacing[0] * geometry.spacing[1])))
        self.metallic: dict[int, Array] = {}
        self.body_from, self.metal_from = (
            float(hu - calibration.intercept) / calibration.slope for hu in (BODY_HU, METAL_HU)
        )
        self.metal, self.highest, self.saturated = np.zeros(shape[0], int), -np.inf, 0
        self.across, self.along = np.zeros((shape[0], shape[2]), int), np.zeros((shape[0], shape[1]), int)
        self.rim = np.zeros((shape[0], 2), int)
        self.frame = _rim(np.ones(shape[1:], bool))
        every = [max(1, round(_DENSE_MM / step)) for step in geometry.spacing]
        x, y, z = (range(min(n // 2, size - 1), size, n) for n, size in zip(every, geometry.size, strict=True))
        self.dense, self.dense_at = np.zeros((len(z), len(y), len(x)), bool), (z, y, x)
        wide_x, wide_y, wide_z = (n * step for n, step in zip(every, geometry.spacing, strict=True))
        first_x, first_y, first_z = geometry.to_physical([x[0], y[0], z[0]]).tolist()
        self.dense_geometry = Geometry(
            (len(x), len(y), len(z)), (wide_x, wide_y, wide_z), (first_x, first_y, first_z), geometry.direction
        )

    def look(self, z: int, plane: Array, seen: Array | None) -> None:
        """Take in a slice (y, x; observed HU); `seen` is False in padding, None where there is none."""
        body = plane > self.body_from
        edge = self.frame
        if seen is not None:
            body &= seen
            edge = _rim(seen)
        bits = body.view(np.uint8)
        self.across[z], self.along[z] = (np.add.reduce(bits, axis=axis, dtype=np.uint32) for axis in (0, 1))
        self.rim[z] = np.count_nonzero(edge), np.count_nonzero(body & edge)
        slices, rows, columns = self.dense_at
        if z in slices:
            self.dense[slices.index(z)] = body[rows[0] :: rows.step, columns[0] :: columns.step]
        highest = float(plane.max())
        self.highest = max(self.highest, highest)
        if highest > self.metal_from:
            self.metal[z] = np.count_nonzero(plane > self.metal_from)
            if self.metal[z] >= self.least_metal:
                self.metallic[z] = plane.copy()
                if len(self.metallic) > _METAL_SLICES:
                    del self.metallic[min(self.metallic, key=lambda n: int(self.metal[n]))]
        if highest >= _LIMIT_12_BIT - 0.5:
            self.saturated += int(np.count_nonzero(np.abs(plane - float(_LIMIT_12_BIT)) <= 0.5))

    def result(self) -> Survey:
        # A scanner of more bits passes through 3071 without stopping there.
        stops = self.highest <= _LIMIT_12_BIT + 0.5
        metallic = np.stack(list(self.metallic.values())) if self.metallic else None
        dense = Volume(self.dense, self.dense_geometry)
        return Survey(self.metal, self.saturated if stops else 0, self.across, self.along, self.rim, metallic, dense)


def find_body(found: Survey) -> Volume | None:
    """The body where voxels about 4 mm apart lie in it or beside it (bool), None where it can't be told.

    It is the largest part of what is denser than -300 HU and what that encloses in a slice (`radloom.body`), grown by
    one voxel. It can't be told where more than a tenth of the rim of the field of view is body (a scan that was cut
    out may show nothing else), or where another part is a fifth as large (the other leg; a table is smaller).
    """
    import cc3d

    from radloom.body import body_mask

    cut_off, dense = truncated_share(found), found.dense.array.view(np.uint8)
    if cut_off is None or cut_off > _MOST_CUT_OFF or not dense.any():
        return None
    body = body_mask(dense, 0.5)
    sizes = np.sort(np.bincount(cc3d.connected_components(dense, connectivity=6).ravel())[1:])
    if (sizes[:-1] > _MOST_OTHER * np.count_nonzero(body)).any():
        return None
    return Volume(grown(body), found.dense.geometry)


def grown(mask: Array) -> Array:
    """A mask (z, y, x; bool) and the 26 neighbours of its voxels."""
    for axis in range(3):
        wider = mask.copy()
        along, source = np.moveaxis(wider, axis, 0), np.moveaxis(mask, axis, 0)
        along[1:] |= source[:-1]
        along[:-1] |= source[1:]
        mask = wider
    return mask


def _rim(seen: Array) -> Array:
    """The measured pixels (y, x) that lie at the border of the slice or beside one that was not measured."""
    inner = np.zeros_like(seen)
    inner[1:-1, 1:-1] = seen[1:-1, 1:-1] & seen[:-2, 1:-1] & seen[2:, 1:-1] & seen[1:-1, :-2] & seen[1:-1, 2:]
    return np.asarray(seen & ~inner)


def truncated_share(found: Survey) -> float | None:
    """Share of the field of view's rim where the body (and the table) is cut off, the mean over all slices."""
    there = found.rim[:, 0] > 0
    return float(np.mean(found.rim[there, 1] / found.rim[there, 0])) if there.any() else None


def motion_jump(found: Survey, spacing: tuple[float, float, float]) -> float | None:
    """The largest sudden shift in mm of the body between two slices; None where its contour is out of the image.

    Two neighbouring slices' counts of body pixels, by columns and by rows, are laid over each other: the shift with the
    least squared difference, to a fraction of a pixel by a parabola. What the shift has beyond the median of those of
    nine slices around it is no anatomy, which moves on steadily. `spacing` is (x, y, z) in mm.
    """
    slices = len(found.across)
    size = found.across.shape[1] * found.along.shape[1]
    body = found.across.sum(axis=1) >= _LEAST_BODY * size
    jumps = []
    for profile, step in ((found.across, spacing[0]), (found.along, spacing[1])):
        clear = body & (np.maximum(profile[:, 0], profile[:, -1]) <= 0.1 * profile.max(axis=1))
        pairs = clear[1:] & clear[:-1]
        if np.count_nonzero(pairs) < _TREND:
            continue
        shifts = np.full(slices - 1, np.nan)
        shifts[pairs] = _shifts(profile.astype(np.float64), max(2, round(_REACH_MM / step)))[pairs] * step
        padded = np.pad(shifts, _TREND // 2, constant_values=np.nan)
        windows = np.lib.stride_tricks.sliding_window_view(padded, _TREND)
        known = np.isfinite(windows).sum(axis=1) >= _TREND // 2 + 1
        jumps.append(np.where(known & pairs, np.abs(shifts - _nanmedian(windows)), 0.0))
    return float(np.sqrt(np.sum(np.square(jumps), axis=0)).max()) if jumps else None


def _nanmedian(windows: Array) -> Array:
    some = np.isfinite(windows).any(axis=1)
    result = np.full(len(windows), np.nan)
    result[some] = np.nanmedian(windows[some], axis=1)
    return result


def _shifts(profile: Array, reach: int) -> Array:
    """By how many pixels each row of a profile (z, n) is shifted against the row before."""
    padded = np.pad(profile, ((0, 0), (reach, reach)))
    count = profile.shape[1]
    costs = np.stack(
        [
            np.square(padded[1:, reach + d : reach + d + count] - profile[:-1]).sum(axis=1)
            for d in range(-reach, reach + 1)
        ]
    )
    best = costs.argmin(axis=0)
    inside = np.clip(best, 1, 2 * reach - 1)
    rows = np.arange(len(best))
    left, middle, right = costs[inside - 1, rows], costs[inside, rows], costs[inside + 1, rows]
    bend = left - 2 * middle + right
    part = np.divide(0.5 * (left - right), bend, out=np.zeros_like(bend), where=bend > 0)
    return np.where(best == inside, inside + part, best) - reach


def _orientation(plane: Array, side: tuple[int, int], spacing: tuple[float, float, float]) -> tuple[Array, Array]:
    """How the gradients of every patch (rows, columns) are oriented, as cosine and sine of the double angle.

    Of the structure tensor's elements: ((gx^2 - gy^2), 2 gx gy) / (gx^2 + gy^2), each summed over the patch: (0, 0)
    where no direction leads, of length 1 where there is but one.
    """
    gx, gy = np.gradient(plane, spacing[0], axis=1), np.gradient(plane, spacing[1], axis=0)
    xx, yy, xy = (per_patch(np.add, inner_part(part, side), side) for part in (gx * gx, gy * gy, gx * gy))
    total = xx + yy
    share = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return (xx - yy) * share, 2 * xy * share


def streak_anisotropy(patches: Patches, spacing: tuple[float, float, float]) -> float | None:
    """How far one direction leads in the soft tissue of a slice, 0 to 1; of the sampled slices the 90 % quantile.

    The length of the mean over the slice's patches of their gradients' orientation. Noise and round anatomy have no
    direction; streaks across a slice (photon starvation between shoulders or hips) have one. None without soft tissue.
    """
    tissue = patches.measured & (patches.mean >= _TISSUE[0]) & (patches.mean <= _TISSUE[1])
    lengths = []
    for plane, chosen in zip(patches.planes, tissue, strict=True):
        if np.count_nonzero(chosen) >= _FEWEST_IN_SLICE:
            cosine, sine = _orientation(plane, patches.side, spacing)
            lengths.append(np.hypot(cosine[chosen].mean(), sine[chosen].mean()))
    return float(np.quantile(lengths, 0.9)) if lengths else None


def gaussian(array: Array, sigmas: Sequence[float]) -> Array:
    """An array smoothed by a Gaussian of these widths in voxels, cut off at 4 sigma; its rims go on beyond it.

    As scipy.ndimage.gaussian_filter with mode "nearest", whose import takes longer than all that is done with it here.
    """
    for axis, sigma in enumerate(sigmas):
        reach = int(4 * sigma + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
        widths = [(reach, reach) if other == axis else (0, 0) for other in range(array.ndim)]
        padded = np.moveaxis(np.pad(array, widths, mode="edge"), axis, 0)
        length = array.shape[axis]
        total = np.zeros((length, *padded.shape[1:]), array.dtype)
        for start, weight in enumerate((weights / weights.sum()).astype(array.dtype)):
            total += weight * padded[start : start + length]
        array = np.moveaxis(total, 0, axis)
    return array


def streak_metal(patches: Patches, spacing: tuple[float, float, float]) -> float | None:
    """How far gradients around the metal go across its rays, -1 to 1; None without metal or tissue around it.

    `patches` are those of `Survey.metallic`. Of soft tissue 8 to 80 mm from the middle of the slice's largest piece of
    metal: the mean of -cos(2 a), a being the angle between gradient and ray. 0 for noise, towards 1 for streaks that
    radiate from the metal, below 0 for anatomy that lies around it in shells.
    """
    import cc3d

    tissue = patches.measured & (patches.mean >= _TISSUE[0]) & (patches.mean <= _TISSUE[1])
    blur = (_METAL_BLUR_MM / spacing[1], _METAL_BLUR_MM / spacing[0])
    rows, columns = tissue.shape[1:]
    height, width = patches.planes.shape[1:]
    y = ((np.arange(rows) - (rows - 1) / 2) * patches.side[0] + (height - 1) / 2) * spacing[1]
    x = ((np.arange(columns) - (columns - 1) / 2) * patches.side[1] + (width - 1) / 2) * spacing[0]
    found = []
    for z, plane in enumerate(patches.planes):
        pieces = cc3d.connected_components((plane > METAL_HU).view(np.uint8), connectivity=4)
        sizes = np.bincount(pieces.ravel())[1:]
        if not sizes.size:
            continue
        middle = np.argwhere(pieces == int(np.argmax(sizes)) + 1).mean(axis=0)
        dy, dx = np.meshgrid(y - middle[0] * spacing[1], x - middle[1] * spacing[0], indexing="ij")
        distance = np.hypot(dy, dx)
        near = tissue[z] & (distance >= _AROUND_METAL_MM[0]) & (distance <= _AROUND_METAL_MM[1])
        ray = np.arctan2(dy[near], dx[near])
        # A little smoothed: the noise of single pixels would drown broad streaks. Only where it is looked at.
        reach = _AROUND_METAL_MM[1] + _METAL_MARGIN_MM
        window = tuple(
            slice(max(0, round(at - reach / step)), round(at + reach / step) + 1)
            for at, step in zip(middle, (spacing[1], spacing[0]), strict=True)
        )
        smooth = plane.copy()
        smooth[window] = gaussian(plane[window], blur)
        cosine, sine = _orientation(smooth, patches.side, spacing)
        found.append(-(cosine[near] * np.cos(2 * ray) + sine[near] * np.sin(2 * ray)))
    together = np.concatenate(found) if found else np.zeros(0)
    return float(together.mean()) if together.size >= _FEWEST_IN_SLICE else None
