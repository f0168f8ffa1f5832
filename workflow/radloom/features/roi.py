"""The voxels of an ROI as the passes over them need them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radloom.features.kernels import library, shape_of
from radloom.images import Array


@dataclass(frozen=True)
class Roi:
    """An ROI in a box of voxels.

    mask: (z, y, x), uint8, 1 inside.
    spacing: (z, y, x) in mm.
    pad: how many voxels of margin the padded volume of grey levels has at each side, by axis.
    start, length: runs of ROI voxels along x, as flat indices into the padded volume.
    """

    mask: Array
    spacing: tuple[float, float, float]
    pad: tuple[int, int, int]
    start: Array
    length: Array

    @property
    def padded_shape(self) -> tuple[int, int, int]:
        z, y, x = (size + 2 * margin for size, margin in zip(self.mask.shape, self.pad, strict=True))
        return z, y, x

    @property
    def runs(self) -> tuple[Array, Array, int]:
        """Return the runs as the kernels take them."""
        return self.start, self.length, len(self.start)


def make_roi(mask: Array, spacing: tuple[float, float, float], margin: int = 1) -> Roi:
    """Prepare an ROI: mask (z, y, x), nonzero inside; spacing (z, y, x) in mm; `margin`, the farthest offset."""
    mask = np.ascontiguousarray(mask, dtype=bool).view(np.uint8)
    pad = np.full(3, margin, dtype=np.int64)
    found = library().find_runs(mask, shape_of(mask), pad, None, None)
    start, length = np.empty(found, np.int64), np.empty(found, np.int64)
    library().find_runs(mask, shape_of(mask), pad, start.ctypes.data, length.ctypes.data)
    return Roi(mask, spacing, (margin, margin, margin), start, length)
