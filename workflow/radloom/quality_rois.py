"""What can be said of an ROI's quality: size, parts, borders, HU that are no tissue, and whether it lies beside its
object.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radloom.images import Array, Box, Geometry, Volume, bounding_box, within_box
from radloom.quality_artefacts import METAL_HU, gaussian, grown

SHIFT_REACH_MM = 10.0
SHIFT_MARGIN_MM = 14.0  # of image around an ROI that the search for a shift reads
_AIR_HU = -900.0
_GRID_MM = 2.0  # voxels of the search
_MOST_VOXELS = 3_000_000
_POINTS = 600
_WINDOW = (-200.0, 300.0)  # HU; bone and air beside the ROI would draw every border to themselves
_SMOOTH_MM = 1.0
_APART_MM = 4.5  # further from the best shift than this is another one
_DISTINCT = 1.4  # times the best of all shifts apart
_LEAST_STEP = 3.0  # HU/mm at the border, below which it shows no object
_FEWEST_POINTS = 30


@dataclass(frozen=True)
class RoiView:
    """One ROI within a box of the volume: mask (z, y, x; bool), image in true HU, and `valid`, None where all is; and
    the body on a grid of its own, None where it can't be told.
    """

    mask: Array
    image: Array
    valid: Array | None
    box: Box
    geometry: Geometry
    """Of the whole volume."""
    body: Volume | None = None


def measure_roi(view: RoiView) -> dict[str, float | None]:
    """All figures of an ROI (not empty) by name (`radloom.quality_figures`); None where one can't be had."""
    import cc3d

    spacing = view.geometry.spacing[::-1]
    tight = bounding_box(view.mask)
    assert tight is not None
    mask, values = view.mask[tight], view.image[tight][view.mask[tight]]
    low, high = view.box[0].start + tight[0].start, view.box[0].start + tight[0].stop
    _, components = cc3d.connected_components(np.ascontiguousarray(mask).view(np.uint8), connectivity=26, return_N=True)
    shift, gain = find_shift(view)
    return {
        "roi_volume_ml": values.size * view.geometry.voxel_mm3 / 1000,
        "roi_components": float(components),
        "roi_border_voxels": float(_border_voxels(view)),
        "roi_padding_voxels": float(_padding_voxels(view)),
        "roi_to_first_slice_mm": low * spacing[0],
        "roi_to_last_slice_mm": (view.geometry.shape[0] - high) * spacing[0],
        "roi_metal_share": float(np.mean(values > METAL_HU)),
        "roi_air_share": float(np.mean(values < _AIR_HU)),
        "roi_outside_body_share": outside_share(mask, within_box(view.box, tight), view.geometry, view.body),
        "roi_shift_mm": shift,
        "roi_shift_gain": gain,
    }


def _border_voxels(view: RoiView) -> int:
    """Voxels of the ROI in the outermost layer of the volume, each once."""
    outer = np.zeros(view.mask.shape, bool)
    for axis, (side, length) in enumerate(zip(view.box, view.geometry.shape, strict=True)):
        layers = np.moveaxis(outer, axis, 0)
        if side.start == 0:
            layers[0] = True
        if side.stop == length:
            layers[-1] = True
    return int(np.count_nonzero(view.mask & outer))


def _padding_voxels(view: RoiView) -> int:
    """Voxels of the ROI that were not measured or have one of their 26 neighbours that was not."""
    if view.valid is None or view.valid.all():
        return 0
    return int(np.count_nonzero(view.mask & grown(~view.valid.astype(bool))))


def outside_share(mask: Array, box: Box, geometry: Geometry, body: Volume | None) -> float | None:
    """Share of the ROI that lies outside the body (`find_body`), None where that can't be told.

    `mask` (z, y, x; bool) is what lies within `box` of a volume of this geometry; of each voxel the nearest one of the
    body's grid counts, which has to have the same axes.
    """
    if body is None or not np.allclose(body.geometry.axes, geometry.axes, atol=1e-3):
        return None
    first = body.geometry.to_index(geometry.origin)
    inside = body.array
    for axis, side in enumerate(box):
        along = 2 - axis
        steps = np.arange(side.start, side.stop) * (geometry.spacing[along] / body.geometry.spacing[along])
        places = np.rint(first[along] + steps).astype(np.intp).clip(0, inside.shape[axis] - 1)
        inside = inside.take(places, axis=axis)
    return 1 - float(np.count_nonzero(mask & inside) / np.count_nonzero(mask))


def find_shift(view: RoiView) -> tuple[float | None, float | None]:
    """How far in mm from its place an ROI's border fits the image best, and how many times better than where it is.

    The fit is the step of the image (HU/mm, after a Gaussian of 1 mm, HU within -200 and 300) along the normal of the
    ROI's border: its median over up to 600 points of the border, without sign, so that what lies along a part of it
    only doesn't count. All shifts up to 10 mm on a grid of about 2 mm are tried. Both are None where nothing can be
    said: where the best step is below 3 HU/mm, not 1.4 times any that lies further than 4.5 mm from it, or at the end
    of the search; or where less than half of the border lies within what was measured.
    """
    grid = _on_grid(view)
    if grid is None:
        return None, None
    image, part, spacing = grid
    points, normals = _border(part, spacing)
    if len(points) < _FEWEST_POINTS:
        return None, None
    reach = np.array([int(SHIFT_REACH_MM // step) for step in spacing])
    # With a rim of NaN as wide as the search, so that a shift is one number to add to all places.
    rim = [(0, 0), *((n, n) for n in reach)]
    steps = np.pad(
        np.array(np.gradient(gaussian(image, (_SMOOTH_MM / spacing).tolist()), *spacing)), rim, constant_values=np.nan
    )
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), -1).reshape(-1, 3)
    distance = np.linalg.norm(shifts * spacing, axis=1)
    shifts, distance = shifts[distance <= SHIFT_REACH_MM], distance[distance <= SHIFT_REACH_MM]
    jumps = np.array([steps.shape[2] * steps.shape[3], steps.shape[3], 1])
    places, moves = (points + reach) @ jumps, shifts @ jumps
    flat, outward = steps.reshape(3, -1), normals.T
    fewest = max(_FEWEST_POINTS, len(points) / 2)
    fits = np.zeros(len(shifts))
    for i, move in enumerate(moves):
        across = (outward * flat[:, places + move]).sum(axis=0)
        across = across[np.isfinite(across)]
        if across.size >= fewest:
            fits[i] = abs(float(np.partition(across, across.size // 2)[across.size // 2]))
    best = int(np.argmax(fits))
    apart = np.linalg.norm((shifts - shifts[best]) * spacing, axis=1) > _APART_MM
    here = fits[int(np.argmin(distance))]
    at_end = distance[best] > SHIFT_REACH_MM - min(spacing)
    if at_end or fits[best] < _LEAST_STEP or fits[best] < _DISTINCT * fits[apart].max() or here <= 0:
        return None, None
    return float(distance[best]), float(fits[best] / here)


def _on_grid(view: RoiView) -> tuple[Array, Array, Array] | None:
    """Image (NaN where not measured) and share of the ROI in blocks of about 2 mm, and their spacing (z, y, x)."""
    spacing = np.array(view.geometry.spacing[::-1])
    factors = np.maximum(1, np.rint(_GRID_MM / spacing)).astype(int)
    while np.prod(np.array(view.mask.shape) // factors) > _MOST_VOXELS:
        factors[np.argmin(factors * spacing)] += 1
    if (np.array(view.mask.shape) // factors < 3).any():
        return None
    image = _blocks(view.image, factors, _WINDOW)
    if view.valid is not None and not view.valid.all():
        image[_blocks(view.valid, factors) < 1] = np.nan
    return image, _blocks(view.mask, factors), factors * spacing


def _blocks(array: Array, factors: Array, window: tuple[float, float] | None = None) -> Array:
    """The means (float32) of blocks of so many voxels (z, y, x) around the middle of the array."""
    sizes = np.array(array.shape) // factors
    starts = (np.array(array.shape) - sizes * factors) // 2
    inner = array[tuple(slice(a, a + n * f) for a, n, f in zip(starts, sizes, factors, strict=True))]
    result = np.empty(sizes, np.float32)
    for z in range(sizes[0]):
        slab = inner[z * factors[0] : (z + 1) * factors[0]].astype(np.float32)
        if window is not None:
            slab = slab.clip(*window)
        result[z] = slab.reshape(factors[0], sizes[1], factors[1], sizes[2], factors[2]).mean(axis=(0, 2, 4))
    return result


def _border(part: Array, spacing: Array) -> tuple[Array, Array]:
    """Voxels (n, 3) of the ROI's inner border, at most 600 evenly picked, and the outward normals (n, 3) there."""
    mask = part >= 0.5
    padded = np.pad(mask, 1, constant_values=True)
    inner = np.zeros_like(mask)
    for axis in range(3):
        along = np.moveaxis(padded, axis, 0)
        neighbours = np.moveaxis(~along[:-2] | ~along[2:], 0, axis)
        inner |= neighbours[tuple(slice(None) if other == axis else slice(1, -1) for other in range(3))]
    inner &= mask
    points = np.argwhere(inner)
    if len(points) > _POINTS:
        points = points[np.linspace(0, len(points) - 1, _POINTS).round().astype(int)]
    smooth = gaussian(part, (_SMOOTH_MM / spacing).tolist())
    normals = -np.stack([grad[tuple(points.T)] for grad in np.gradient(smooth, *spacing)], axis=1)
    length = np.linalg.norm(normals, axis=1)
    some = length > 1e-6
    return points[some], normals[some] / length[some, None]
