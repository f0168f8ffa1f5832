"""Supervoxels: simple linear iterative clustering (SLIC) of an image into compact pieces of like intensity.

The algorithm of Achanta et al. (IEEE TPAMI 34:2274, 2012) in three dimensions and millimetres: k-means of intensity and
place, in which a voxel looks only at the eight cluster centres whose cells of the initial grid are nearest.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy import ndimage

from radloom.images import Array, Vector

_ITERATIONS = 10
_SETTLED = 1e-2  # part of the voxels that still change their cluster


def supervoxels(image: Array, region: Array, spacing: Vector, volume_mm3: float, compactness: float) -> Array:
    """Number, from 0, of each voxel's supervoxel: int32, (z, y, x), -1 outside `region`.

    image: (z, y, x), float, scaled so that its range of interest is 0 to 1.
    region: boolean (z, y, x); only these voxels are clustered.
    spacing: mm, in the order x, y, z.
    volume_mm3: volume of a cell of the initial grid.
    compactness: difference of intensity that counts as much as the width of a cell.

    Each supervoxel is one 6-connected piece as far as it can: smaller pieces that the clustering split off go to the
    nearest supervoxel, and one that lost all its voxels is not numbered.
    """
    where = np.nonzero(region)
    labels = np.full(image.shape, -1, dtype=np.int32)
    if not where[0].size:
        return labels
    width = volume_mm3 ** (1 / 3)
    steps = np.array(spacing[::-1])
    cells = np.maximum(np.rint(np.array(image.shape) * steps / width).astype(np.int64), 1)
    values = image[where].astype(np.float32)
    places = [(index * step).astype(np.float32) for index, step in zip(where, steps, strict=True)]
    at = [(index + 0.5) * n / size - 0.5 for index, n, size in zip(where, cells, image.shape, strict=True)]
    low = [np.clip(np.floor(a), 0, max(n - 2, 0)).astype(np.int32) for a, n in zip(at, cells, strict=True)]
    nearest = [np.clip(np.rint(a), 0, n - 1).astype(np.int32) for a, n in zip(at, cells, strict=True)]
    total = int(cells.prod())
    clusters = np.ravel_multi_index(tuple(nearest), tuple(cells))
    for _ in range(_ITERATIONS):
        counts = np.maximum(np.bincount(clusters, minlength=total), 1e-9)
        centres = [np.bincount(clusters, weights=part, minlength=total) / counts for part in (values, *places)]
        mean, *middle = (centre.astype(np.float32) for centre in centres)
        mean[counts < 1] = np.inf  # an empty cluster attracts nobody
        best = np.full(values.shape, np.inf, dtype=np.float32)
        chosen = clusters
        for corner in itertools.product((0, 1), repeat=3):
            cell = [np.minimum(axis + c, n - 1) for axis, c, n in zip(low, corner, cells, strict=True)]
            candidate = np.ravel_multi_index(tuple(cell), tuple(cells))
            distance = ((values - mean[candidate]) / compactness) ** 2
            for place, centre in zip(places, middle, strict=True):
                distance += ((place - centre[candidate]) / width) ** 2
            better = distance < best
            best = np.where(better, distance, best)
            chosen = np.where(better, candidate, chosen)
        changed = np.count_nonzero(chosen != clusters)
        clusters = chosen
        if changed <= _SETTLED * len(values):
            break
    labels[where] = clusters
    labels = _connected(labels, steps)
    _, labels[where] = np.unique(labels[where], return_inverse=True)
    return labels


def _connected(labels: Array, steps: Array) -> Array:
    """Give all but the largest piece of each label to the label of the nearest of the other voxels."""
    import cc3d

    pieces = cc3d.connected_components((labels + 1).astype(np.uint32), connectivity=6)
    sizes = np.bincount(pieces.ravel())
    label_of = np.full(len(sizes), -1, dtype=np.int64)
    label_of[pieces.ravel()] = labels.ravel()
    order = np.lexsort((-np.arange(len(sizes)), sizes))  # the largest last; of equal ones the first
    largest = np.zeros(len(sizes), dtype=bool)
    last: dict[int, int] = {int(label_of[piece]): int(piece) for piece in order}
    largest[list(last.values())] = True
    orphans = (labels >= 0) & ~largest[pieces]
    if not orphans.any():
        return labels
    nearest = ndimage.distance_transform_edt(
        orphans | (labels < 0), sampling=steps, return_distances=False, return_indices=True
    )
    result = labels.copy()
    result[orphans] = labels[tuple(axis[orphans] for axis in nearest)]
    return result
