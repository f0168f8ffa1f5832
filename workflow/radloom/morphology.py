"""Balls and connected components of masks in mm: what postprocessing and derived ROIs share.

Distances are between voxel centres. A voxel belongs to a dilation by r mm where its centre lies within r mm (r itself
included) of the centre of a voxel of the mask, and to an erosion where no voxel that isn't of the mask lies so near.
"""

from __future__ import annotations

import numpy as np

from radloom.images import Box

RADIUS_TOLERANCE = 1e-5
"""Relative tolerance of squared distances against squared radii: distances are computed in float32."""


def squared_distance(mask: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    """Squared distance in mm2 from each voxel of `mask` (z, y, x, bool) to the nearest voxel outside it.

    Exact up to float32 (Felzenszwalb and Huttenlocher 2012, package edt); `spacing` is (x, y, z) in mm. Infinite where
    nothing lies outside; what lies beyond the array doesn't count.
    """
    import edt

    sx, sy, sz = spacing
    return edt.edtsq(np.ascontiguousarray(mask), anisotropy=(sz, sy, sx), black_border=False, parallel=1)


def within(squared: np.ndarray, radius_mm: float) -> np.ndarray:
    """Where a squared distance in mm2 is at most that of `radius_mm`, but for float32."""
    return squared <= radius_mm**2 * (1 + RADIUS_TOLERANCE)


def ball_dilation(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels within `radius_mm` of a voxel of `mask` (z, y, x, bool), centre to centre; `spacing` is (x, y, z) in mm.

    What would lie outside the array is lost.
    """
    return within(squared_distance(~mask, spacing), radius_mm)


def ball_erosion(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxels of `mask` (z, y, x, bool) with no background voxel within `radius_mm`; `spacing` is (x, y, z) in mm.

    Outside the array nothing is background; pad where it should be.
    """
    return ~within(squared_distance(mask, spacing), radius_mm)


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The 26-connected components of `mask` (z, y, x, bool), numbered from 1 in no certain order, and how many."""
    import cc3d

    # As bytes: of booleans cc3d 4.1 reserves too few labels for a line of single voxels, and raises RuntimeError.
    components, count = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=26, return_N=True
    )
    return components, int(count)


def components_by_size(mask: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """The 26-connected components of `mask` (z, y, x, bool), the largest first: slices, and the mask within them.

    Of equally large ones the one comes first whose first voxel does, in the order of the array.
    """
    import cc3d

    components, count = label_components(mask)
    if count == 0:
        return []
    flat = components.reshape(-1)
    at = np.flatnonzero(flat)
    statistics = cc3d.statistics(components)
    sizes, boxes = statistics["voxel_counts"].tolist(), statistics["bounding_boxes"]
    # Numbers of components are the library's affair, places in the array aren't: the last one written stays.
    first = np.zeros(count + 1, np.int64)
    first[flat[at[::-1]]] = at[::-1]
    order = sorted(range(1, count + 1), key=lambda number: (-sizes[number], first[number]))
    return [(boxes[number], components[boxes[number]] == number) for number in order]
