"""What segmentation and postprocessing both ask of a label volume."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

ROI_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
"""A name that every table and every statistics package can hold."""


def count_labels(array: np.ndarray) -> np.ndarray:
    """Voxels of every label number from 0 up in a label volume (z, y, x; unsigned whole numbers)."""
    import numpy as np  # not above: the configuration is checked with the names alone

    length = int(array.max(initial=0)) + 1
    counts = np.zeros(length, np.int64)
    # Plane by plane: bincount makes an int64 copy of what it counts.
    for plane in array:
        counts += np.bincount(plane.reshape(-1), minlength=length)
    return counts
