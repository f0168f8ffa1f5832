"""Interpolation of image and mask to one voxel spacing.

The new grid keeps the axes of the image, and shares its centre with it (IBSI, section 2.4) unless told otherwise. So
the interpolation splits into one small matrix an axis, whatever the direction of the axes: filters, prefilter,
interpolation and border are all in it, and a volume, or a box of it, is resampled by matrix products. Masks are
interpolated linearly: where the weight of all labels together is at least 0.5 a voxel is labelled, by the label of the
largest weight. So the union of the labels is what it would be as one label, however they are divided.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from radloom.axis_matrices import FWHM, bspline_matrix, gaussian_matrix, linear_matrix, sinc_matrix
from radloom.errors import CaseError
from radloom.images import Array, Box, Geometry, Vector, Volume, bounding_box, crop_geometry, widen

Interpolator = Literal["bspline", "linear", "sinc"]
Alignment = Literal["centre", "origin", "corner"]
Weights = tuple[Array | None, Array | None, Array | None]

# An extent that is a whole number of new voxels up to rounding in the headers must not gain a voxel.
_PART_OF_A_VOXEL = 1e-3
_SAME_SPACING = 1e-6
_MOST_VOXELS = 1_000_000_000
_BLOCK_ROWS = 64
# A matrix whose rows see so few voxels (linear) has next to nothing but zeros in large blocks.
_FEW_TAPS = 2
_FEW_TAPS_BLOCK_ROWS = 16
_SLAB_ROWS = 16
_NEGLIGIBLE = 1e-10
# At whole ratios of the spacings many weights are 0.5 but for rounding, on both sides of an ROI; all count
# as 0.5.
_WEIGHT_ROUNDING = 1e-6
# Voxels; grids that are nearer to each other than this share a centre, or their voxels.
_SAME_PLACE = 1e-6


@dataclass(frozen=True)
class Sampling:
    """How an image is interpolated; the section `resample` of the configuration explains it.

    `order` is that of the B-spline, `radius` (voxels of the image) that of the windowed sinc. `sigma_mm` (x, y, z) is
    a Gaussian that the image is filtered with first, beside that of `antialias`. `width_mm` (x, y, z) is the full width
    that this Gaussian brings the image to, where scans are matched to one; 0 along other axes.
    """

    interpolator: Interpolator = "bspline"
    order: int = 3
    radius: int = 5
    antialias: bool = False
    align: Alignment = "centre"
    sigma_mm: Vector = (0.0, 0.0, 0.0)
    width_mm: Vector = (0.0, 0.0, 0.0)

    def sigma(self, axis: int, old: float, new: float) -> float:
        """Standard deviation in old voxels of the Gaussian along an axis (x, y, z) of the spacings `old` and `new`.

        Against aliasing where the new spacing is larger: sigma^2 = (new^2 - old^2) / (8 ln 2), which takes a point
        spread of the full width `old` to one of the full width `new` (Cardoso et al., MICCAI 2015, LNCS 9350:674). A
        matched axis comes from the width that all scans have by then: from their own spacings they would part again.
        """
        variance = self.sigma_mm[axis] ** 2
        width = self.width_mm[axis] or old
        if self.antialias and new > old and new > width:
            variance += (new**2 - width**2) / FWHM**2
        return math.sqrt(variance) / old

    def matrix(self, n: int, at: Array, sigma: float = 0.0) -> Array:
        """Matrix (len(at) x n) that filters n samples by `sigma` (voxels) and interpolates them at `at`, 0 to n - 1."""
        if self.interpolator == "linear":
            matrix = linear_matrix(n, at)
        elif self.interpolator == "sinc":
            matrix = sinc_matrix(n, at, self.radius)
        else:
            matrix = bspline_matrix(n, at, self.order)
        return matrix @ gaussian_matrix(n, sigma) if sigma > 0 else matrix


LINEAR = Sampling("linear")


def read_sampling(path: Path) -> Sampling:
    """The sampling that the step `resample` has written for a case."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return Sampling(**content | {name: tuple(content[name]) for name in ("sigma_mm", "width_mm")})


def new_grid(geometry: Geometry, spacing: Vector, align: Alignment = "centre") -> Geometry:
    """The grid of `spacing` (x, y, z; mm; 0 keeps an axis) with the axes of `geometry`.

    Its size is ceil(n s / s_new) (IBSI reference manual, section 2.4). It shares with `geometry` its centre (what IBSI
    recommends), the centre of the first voxel (`origin`, IBSI's other choice), or the outer corner of the first voxel
    (`corner`, as PyRadiomics). Raises CaseError where the grid would have over 10^9 voxels.
    """
    size, step, first = [], [], []
    for n, old, wanted in zip(geometry.size, geometry.spacing, spacing, strict=True):
        if _kept(old, wanted):
            size.append(n)
            step.append(old)
            first.append(0.0)
            continue
        size.append(max(math.ceil(n * old / wanted - _PART_OF_A_VOXEL), 1))
        step.append(float(wanted))
        if align == "origin":
            first.append(0.0)
        elif align == "corner":
            first.append((wanted / old - 1) / 2)
        else:
            first.append((n - 1) / 2 - (size[-1] - 1) / 2 * wanted / old)
    if math.prod(size) > _MOST_VOXELS:
        raise CaseError(
            f"at {' x '.join(f'{s:g}' for s in step)} mm the image would have {math.prod(size)} voxels",
            "Set a coarser resample: spacing in the configuration, or crop the image.",
        )
    x, y, z = geometry.to_physical(first).tolist()
    return Geometry((size[0], size[1], size[2]), (step[0], step[1], step[2]), (x, y, z), geometry.direction)


@dataclass(frozen=True)
class Passage:
    """The way from one grid to a box of another with the same axes.

    `seen` is the part of the old grid that decides the box, so all of an image that has to be read; `weights` lead from
    there to `grid`.
    """

    seen: Box
    grid: Geometry
    weights: Weights

    def apply(self, array: Array) -> Array:
        """The values (z, y, x) on the new grid of those in the box `seen`, float32."""
        return _multiply(array, self.weights)


def passage(old: Geometry, new: Geometry, sampling: Sampling, box: Box | None = None) -> Passage:
    """How an image on the grid `old` comes to the box (z, y, x; default: all) of the grid `new`."""
    parts, seen = [], []
    whole = box or (slice(0, new.shape[0]), slice(0, new.shape[1]), slice(0, new.shape[2]))
    for matrix, rows in zip(axis_weights(old, new, sampling), whole, strict=True):
        part = None if matrix is None or box is None else matrix[rows]
        if part is None:
            parts.append(matrix)
            seen.append(rows if matrix is None else slice(0, matrix.shape[1]))
        else:
            columns = _used(part)
            parts.append(np.ascontiguousarray(part[:, columns]))
            seen.append(columns)
    grid = new if box is None else crop_geometry(new, box)
    return Passage((seen[0], seen[1], seen[2]), grid, (parts[0], parts[1], parts[2]))


def resample_image(image: Volume, spacing: Vector, sampling: Sampling | Interpolator, box: Box | None = None) -> Volume:
    """The image at `spacing` (x, y, z; mm; 0 keeps an axis) as float32, on the grid of `new_grid` or a box of it.

    The name of an interpolator stands for its default settings. `bspline` is the interpolating B-spline, its
    coefficients mirrored at the borders as SciPy's "mirror" and ITK have them. Points of the new grid outside the
    centres of the outer voxels (by less than half a new voxel) take the value at the border. An axis whose spacing
    stays, and that is not filtered, is not touched: at the image's own spacing the values come back bit for bit. A box
    (z, y, x; voxels of the new grid) has the values of the whole but for the last digit of float32.
    """
    sampling = Sampling(sampling) if isinstance(sampling, str) else sampling
    way = passage(image.geometry, new_grid(image.geometry, spacing, sampling.align), sampling, box)
    return Volume(way.apply(image.array[way.seen]), way.grid)


def crop_box(mask: Volume, margin_mm: float) -> Box:
    """The box (z, y, x) around what is labelled in a mask, `margin_mm` wider on each side, but within the grid.

    It is at least two voxels wider, so that nothing labelled touches a side that is not the image's own.
    """
    tight = bounding_box(mask.array)
    if tight is None:
        raise CaseError("the mask is empty", "Check the mask, or set resample: crop_mm to null.")
    margins = [max(math.ceil(margin_mm / step), 2) for step in reversed(mask.geometry.spacing)]
    return widen(tight, margins, mask.array.shape)


def resample_valid(valid: Volume, grid: Geometry) -> Volume:
    """Which voxels of another grid with the same axes are measured (uint8), from where those of `valid` (not 0) are.

    A voxel is, if all of the (up to eight) voxels are that a linear interpolation sees there: what any padding went
    into is no measurement. The B-spline and filters see further, with weights that fall off.
    """
    result = valid.array != 0
    for axis, (matrix, n) in enumerate(zip(axis_weights(valid.geometry, grid, LINEAR), valid.array.shape, strict=True)):
        if matrix is None:
            continue
        (low, share), (high, rest) = _neighbours(matrix, n)
        first, second = np.where(share > _SAME_PLACE, low, high), np.where(rest > _SAME_PLACE, high, low)
        result = result.take(first, axis) & result.take(second, axis)
    return Volume(result.astype(np.uint8), grid)


def resample_mask(mask: Volume, spacing: Vector, align: Alignment = "centre") -> tuple[Volume, list[str]]:
    """The labelled mask at `spacing` on the grid of `new_grid`, of the same type, and warnings: see `mask_on_grid`."""
    return mask_on_grid(mask, new_grid(mask.geometry, spacing, align))


def mask_on_grid(mask: Volume, grid: Geometry) -> tuple[Volume, list[str]]:
    """The labelled mask on another grid with its axes, of the same type, and warnings.

    A voxel whose linearly interpolated weight of all labels together is at least 0.5 takes the label of the
    largest weight, of equal ones the lower. A label too small for the new grid is warned of. Raises CaseError
    where none is left.
    """
    weights = axis_weights(mask.geometry, grid, LINEAR)
    result = np.zeros(grid.shape, dtype=mask.array.dtype)
    left: set[int] = set()
    spans = _label_planes(mask.array)
    # Where one label has half of the weight it is the largest; in ascending order the lower one comes first.
    for label, (start, stop) in spans.items():
        inside, rows = _at_least_half(mask.array[start:stop] == label, start, weights)
        inside &= result[rows] == 0
        result[rows][inside] = label
        if inside.any():
            left.add(label)
    if len(spans) > 1:
        # What is still free in the union lies where labels meet.
        inside, rows = _at_least_half(mask.array > 0, 0, weights)
        inside &= result[rows] == 0
        left |= _fill_by_largest_weight(result, inside, rows, mask.array, weights)
    lost = [label for label in spans if label not in left]
    if not left:
        raise CaseError(
            f"nothing of the mask is left at a spacing of {' x '.join(f'{s:g}' for s in grid.spacing)} mm",
            "Set a finer resample: spacing in the configuration; the ROI is too small for this one.",
        )
    return Volume(result, grid), [f"label {label} is too small to be left after the resampling" for label in lost]


def _at_least_half(region: Array, start: int, weights: Weights) -> tuple[Array, Box]:
    """Where a boolean region has a weight of at least 0.5, and the box of the new grid that this array covers.

    `region` begins at the old z plane `start`; only what can see it is computed. Between the samples of a
    coarse grid nothing can: the array is empty then.
    """
    box = bounding_box(region)
    if box is None:
        return np.zeros((0, 0, 0), dtype=bool), (slice(0, 0), slice(0, 0), slice(0, 0))
    columns = (slice(box[0].start + start, box[0].stop + start), box[1], box[2])
    parts, rows = zip(*(_part(w, c) for w, c in zip(weights, columns, strict=True)), strict=True)
    box_of_rows = (rows[0], rows[1], rows[2])
    if any(row.start == row.stop for row in rows):
        return np.zeros(tuple(row.stop - row.start for row in rows), dtype=bool), box_of_rows
    weight = _multiply(region[box], (parts[0], parts[1], parts[2]))
    return np.asarray(weight >= 0.5 - _WEIGHT_ROUNDING), box_of_rows


def _fill_by_largest_weight(result: Array, wanted: Array, rows: Box, labels: Array, weights: Weights) -> set[int]:
    """Write the label of the largest weight into the voxels `wanted` of the part `rows` of `result`.

    The eight old voxels around each of them are looked up in `labels`, plane by plane. Returns the labels
    written.
    """
    around = [_neighbours(w, n) for w, n in zip(weights, labels.shape, strict=True)]
    written: set[int] = set()
    for z in np.flatnonzero(wanted.any(axis=(1, 2))).tolist():
        y, x = np.nonzero(wanted[z])
        at = (np.full(y.shape, z + rows[0].start), y + rows[1].start, x + rows[2].start)
        corners, shares = [], []
        for choice in itertools.product((0, 1), repeat=3):
            picked = [axis[side] for axis, side in zip(around, choice, strict=True)]
            corners.append(labels[tuple(index[a] for (index, _), a in zip(picked, at, strict=True))])
            shares.append(math.prod(share[a] for (_, share), a in zip(picked, at, strict=True)))
        largest = np.zeros(y.shape)
        chosen = np.zeros(y.shape, dtype=labels.dtype)
        for corner in corners:
            weight = sum(share * (other == corner) for other, share in zip(corners, shares, strict=True))
            equal = np.abs(weight - largest) <= _WEIGHT_ROUNDING
            better = (corner > 0) & ((weight > largest + _WEIGHT_ROUNDING) | (equal & (corner < chosen)))
            largest[better] = weight[better]
            chosen[better] = corner[better]
        result[at] = chosen
        written.update(np.unique(chosen).tolist())
    return written


def _neighbours(matrix: Array | None, n: int) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """The lower and the upper of the two old voxels that each row of a linear matrix sees, each with its share."""
    if matrix is None:
        low, share = np.arange(n), np.ones(n)
    else:
        low = (matrix != 0).argmax(axis=1)
        share = matrix[np.arange(len(matrix)), low]
    return (low, share), (np.minimum(low + 1, n - 1), 1 - share)


def axis_weights(old: Geometry, new: Geometry, sampling: Sampling) -> Weights:
    """Matrices (new size x old size) of the z, y and x axes; None for an axis that stays as it is.

    Both grids have the same axes.
    """
    matrices: list[Array | None] = []
    shift = old.to_index(new.centre()) - (np.array(old.size) - 1) / 2
    for axis in (2, 1, 0):
        n, m = old.size[axis], new.size[axis]
        # Grids that share their centre do so exactly, whatever the rounding of their origins.
        moved = float(shift[axis]) if abs(shift[axis]) > _SAME_PLACE else 0.0
        sigma = sampling.sigma(axis, old.spacing[axis], new.spacing[axis])
        kept = _kept(old.spacing[axis], new.spacing[axis])
        if kept and not sigma and not moved and n == m:
            matrices.append(None)
            continue
        ratio = 1.0 if kept else new.spacing[axis] / old.spacing[axis]
        at = np.clip((n - 1) / 2 + moved + (np.arange(m) - (m - 1) / 2) * ratio, 0, n - 1)
        if kept and np.abs(at - at.round()).max() <= _SAME_PLACE:
            at = at.round()  # a box of the old voxels
        matrices.append(sampling.matrix(n, at, sigma))
    return matrices[0], matrices[1], matrices[2]


def _multiply(array: Array, weights: Weights) -> Array:
    """Apply the matrices of the z, y and x axes to (z, y, x) values: float64 sums, float32 result.

    Plane by plane along y and x, then slab by slab along z: beside the result there is one float32 volume of
    the new size in x and y and the old one in z.
    """
    along_z, along_y, along_x = (None if matrix is None else _blocks(matrix) for matrix in weights)
    if along_y is None and along_x is None:
        planes = array.astype(np.float32)
    else:
        planes = np.empty((array.shape[0], *_new_lengths(array, weights)[1:]), dtype=np.float32)
        for source, target in zip(array, planes, strict=True):
            plane = source.astype(np.float64)
            if along_y is not None:
                plane = np.concatenate([block @ plane[columns] for block, columns in along_y])
            if along_x is not None:
                plane = np.concatenate([plane[:, columns] @ block.T for block, columns in along_x], axis=1)
            target[...] = plane
    if along_z is None:
        return planes
    result = np.empty(_new_lengths(array, weights), dtype=np.float32)
    for start in range(0, planes.shape[1], _SLAB_ROWS):
        part = (slice(None), slice(start, start + _SLAB_ROWS))
        slab = planes[part].reshape(planes.shape[0], -1).astype(np.float64)
        new = np.concatenate([block @ slab[columns] for block, columns in along_z])
        result[part] = new.reshape(-1, *result[part].shape[1:])
    return result


def _new_lengths(array: Array, weights: Weights) -> tuple[int, ...]:
    return tuple(n if w is None else w.shape[0] for n, w in zip(array.shape, weights, strict=True))


def _blocks(matrix: Array) -> list[tuple[Array, slice]]:
    """Blocks of rows of a band matrix, each with the columns in which it isn't 0.

    The weights of the B-spline fall to a quarter from voxel to voxel, so that a block sees some twenty
    voxels more than it has rows; what is left out changes no value by more than 1e-6 HU.
    """
    blocks = []
    few = np.count_nonzero(matrix, axis=1).max() <= _FEW_TAPS
    size = _FEW_TAPS_BLOCK_ROWS if few else _BLOCK_ROWS
    for start in range(0, matrix.shape[0], size):
        block = matrix[start : start + size]
        columns = _used(block)
        blocks.append((np.ascontiguousarray(block[:, columns]), columns))
    return blocks


def _used(matrix: Array) -> slice:
    """The columns from the first to the last that isn't 0, or as good as."""
    used = np.flatnonzero((np.abs(matrix) > _NEGLIGIBLE).any(axis=0))
    return slice(int(used[0]), int(used[-1]) + 1)


def _part(matrix: Array | None, columns: slice) -> tuple[Array | None, slice]:
    """The part of an axis' matrix that sees the old voxels `columns`, and the new voxels that it gives."""
    if matrix is None:
        return None, columns
    rows = np.flatnonzero(matrix[:, columns].any(axis=1))
    if not rows.size:
        return matrix[:0, columns], slice(0, 0)
    found = slice(int(rows[0]), int(rows[-1]) + 1)
    return matrix[found, columns], found


def _label_planes(array: Array) -> dict[int, tuple[int, int]]:
    """First and one past the last z plane of each label in ascending order."""
    found: dict[int, tuple[int, int]] = {}
    for z, plane in enumerate(array):
        for label in np.flatnonzero(np.bincount(plane.ravel())).tolist():
            if label:
                found[label] = (found.get(label, (z, z))[0], z + 1)
    return dict(sorted(found.items()))


def _kept(old: float, wanted: float) -> bool:
    return wanted == 0 or abs(wanted - old) <= _SAME_SPACING * old
