"""Interpolation of image and mask to one voxel spacing.

The new grid keeps the axes of the image, and shares its centre with it (IBSI, section 2.4). So the
interpolation splits into one small matrix an axis, whatever the direction of the axes: B-spline prefilter,
interpolation and border are all in it, and a volume is resampled by matrix products. Masks are interpolated
linearly: where the weight of all labels together is at least 0.5 a voxel is labelled, by the label of the
largest weight. So the union of the labels is what it would be as one label, however they are divided.
"""

from __future__ import annotations

import itertools
import math
from typing import Literal

import numpy as np

from radloom.errors import CaseError
from radloom.images import Array, Box, Geometry, Volume, bounding_box

Interpolator = Literal["bspline", "linear"]
Weights = tuple[Array | None, Array | None, Array | None]

# An extent that is a whole number of new voxels up to rounding in the headers must not gain a voxel.
_PART_OF_A_VOXEL = 1e-3
_SAME_SPACING = 1e-6
_MOST_VOXELS = 1_000_000_000
_BLOCK_ROWS = 64
_SLAB_ROWS = 16
_NEGLIGIBLE = 1e-10
# At whole ratios of the spacings many weights are 0.5 but for rounding, on both sides of an ROI; all count
# as 0.5.
_WEIGHT_ROUNDING = 1e-6


def new_grid(geometry: Geometry, spacing: tuple[float, float, float]) -> Geometry:
    """The grid of `spacing` (x, y, z; mm; 0 keeps an axis) with the axes and the centre of `geometry`.

    Its size is ceil(n s / s_new) (IBSI reference manual, section 2.4). Raises CaseError where the grid would
    have over 10^9 voxels.
    """
    size, step, first = [], [], []
    for n, old, wanted in zip(geometry.size, geometry.spacing, spacing, strict=True):
        if _kept(old, wanted):
            size.append(n)
            step.append(old)
            first.append(0.0)
        else:
            size.append(max(math.ceil(n * old / wanted - _PART_OF_A_VOXEL), 1))
            step.append(float(wanted))
            first.append((n - 1) / 2 - (size[-1] - 1) / 2 * wanted / old)
    if math.prod(size) > _MOST_VOXELS:
        raise CaseError(
            f"at {' x '.join(f'{s:g}' for s in step)} mm the image would have {math.prod(size)} voxels",
            "Set a coarser resample: spacing in the configuration, or crop the image.",
        )
    x, y, z = geometry.to_physical(first).tolist()
    return Geometry((size[0], size[1], size[2]), (step[0], step[1], step[2]), (x, y, z), geometry.direction)


def resample_image(image: Volume, spacing: tuple[float, float, float], interpolator: Interpolator) -> Volume:
    """The image at `spacing` (x, y, z; mm; 0 keeps an axis) as float32, on the grid of `new_grid`.

    `bspline` is the interpolating cubic B-spline, its coefficients mirrored at the borders as SciPy's
    "mirror" and ITK have them. Points of the new grid outside the centres of the outer voxels (by less than
    half a new voxel) take the value at the border. An axis whose spacing stays is not touched: at the
    image's own spacing the values come back bit for bit.
    """
    grid = new_grid(image.geometry, spacing)
    weights = axis_weights(image.geometry, grid, interpolator)
    return Volume(_multiply(image.array, weights), grid)


def resample_mask(mask: Volume, spacing: tuple[float, float, float]) -> tuple[Volume, list[str]]:
    """The labelled mask at `spacing` on the grid of `new_grid`, of the same type, and warnings: see `mask_on_grid`."""
    return mask_on_grid(mask, new_grid(mask.geometry, spacing))


def mask_on_grid(mask: Volume, grid: Geometry) -> tuple[Volume, list[str]]:
    """The labelled mask on another grid with its axes and its centre, of the same type, and warnings.

    A voxel whose linearly interpolated weight of all labels together is at least 0.5 takes the label of the
    largest weight, of equal ones the lower. A label too small for the new grid is warned of. Raises CaseError
    where none is left.
    """
    weights = axis_weights(mask.geometry, grid, "linear")
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


def axis_weights(old: Geometry, new: Geometry, interpolator: Interpolator) -> Weights:
    """Matrices (new size x old size) of the z, y and x axes; None for an axis that stays as it is."""
    matrices: list[Array | None] = []
    for axis in (2, 1, 0):
        if _kept(old.spacing[axis], new.spacing[axis]):
            matrices.append(None)
            continue
        n, m = old.size[axis], new.size[axis]
        ratio = new.spacing[axis] / old.spacing[axis]
        at = np.clip((n - 1) / 2 + (np.arange(m) - (m - 1) / 2) * ratio, 0, n - 1)
        matrix = bspline_matrix(n, at) if interpolator == "bspline" else linear_matrix(n, at)
        matrices.append(matrix)
    return matrices[0], matrices[1], matrices[2]


def linear_matrix(n: int, at: Array) -> Array:
    """Matrix (len(at) x n) that interpolates n samples linearly at the positions `at`, 0 to n - 1."""
    low = np.clip(np.floor(at).astype(np.intp), 0, max(n - 2, 0))
    rows = np.arange(len(at))
    matrix = np.zeros((len(at), n))
    matrix[rows, low] = 1 - (at - low)
    if n > 1:
        matrix[rows, low + 1] = at - low
    return matrix


def bspline_matrix(n: int, at: Array) -> Array:
    """Matrix (len(at) x n) that interpolates n samples by the cubic B-spline at the positions `at`, 0 to n -
    1.

    The spline through the samples has the coefficients c with P c = samples, where P holds the cubic
    B-spline at the samples (1/6, 4/6, 1/6), mirrored at both ends (Unser, IEEE Signal Process. Mag.
    16(6):22, 1999).
    """
    if n == 1:
        return np.ones((len(at), 1))
    prefilter = _bspline_basis(n, np.arange(n, dtype=np.float64))
    return np.linalg.solve(prefilter.T, _bspline_basis(n, at).T).T


def _bspline_basis(n: int, at: Array) -> Array:
    matrix = np.zeros((len(at), n))
    rows = np.arange(len(at))
    base = np.floor(at).astype(np.intp)
    t = at - base
    values = ((1 - t) ** 3 / 6, 2 / 3 - t**2 + t**3 / 2, 2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2, t**3 / 6)
    period = 2 * (n - 1)
    for offset, value in zip((-1, 0, 1, 2), values, strict=True):
        index = (base + offset) % period
        # Two of the four may be mirrored onto one sample, so they are added.
        np.add.at(matrix, (rows, np.where(index < n, index, period - index)), value)
    return matrix


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
    for start in range(0, matrix.shape[0], _BLOCK_ROWS):
        block = matrix[start : start + _BLOCK_ROWS]
        used = np.flatnonzero((np.abs(block) > _NEGLIGIBLE).any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((np.ascontiguousarray(block[:, columns]), columns))
    return blocks


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
