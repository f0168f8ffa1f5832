"""Labels of ROIs: their names and numbers, and what several steps ask of a label volume."""

from __future__ import annotations

import json
import re
from pathlib import Path
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


def read_names(path: Path) -> dict[int, str]:
    """Label numbers and ROI names of a JSON file."""
    return {int(number): name for number, name in json.loads(path.read_text(encoding="utf-8")).items()}


def write_names(path: Path, names: dict[int, str]) -> None:
    """Write label numbers and ROI names as JSON, in ascending order."""
    path.write_text(json.dumps({str(n): names[n] for n in sorted(names)}) + "\n", encoding="utf-8")


def number_names(array: np.ndarray) -> dict[int, str]:
    """Names for the labels of a volume that has none: label_<number> for each number but 0."""
    import numpy as np

    return {int(number): f"label_{number}" for number in np.unique(array) if number != 0}
