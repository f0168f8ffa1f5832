"""The patient's body in a CT."""

from __future__ import annotations

import numpy as np

from radloom.errors import CaseError
from radloom.images import bounding_box
from radloom.labels import count_labels


def body_mask(image: np.ndarray, threshold_hu: float) -> np.ndarray:
    """The body in a CT (z, y, x; HU), as a mask: what is denser than `threshold_hu`, and what that encloses.

    Of the voxels above the threshold the largest 6-connected part is taken, which leaves out a table that touches the
    body along edges alone; then what it encloses within each slice (lungs, bowel gas), 4-connected. Raises CaseError
    where nothing is above the threshold.
    """
    import cc3d

    parts = cc3d.connected_components((image > threshold_hu).view(np.uint8), connectivity=6)
    sizes = count_labels(parts)
    sizes[0] = 0
    if not sizes.any():
        raise CaseError(
            f"the image has no voxel above {threshold_hu:g} HU, so that no body is found",
            "See that the image is a CT in HU, lower postprocess.body_hu, or set inside_body to false",
        )
    # Of equally large ones the one that comes first in the order of the array.
    largest = np.flatnonzero(sizes == sizes.max())
    body = parts == (largest[0] if len(largest) == 1 else parts.reshape(-1)[np.argmax(np.isin(parts, largest))])
    box = bounding_box(body)
    assert box is not None
    for plane in body[box]:
        outside = cc3d.connected_components(np.pad(~plane, 1, constant_values=True).view(np.uint8), connectivity=4)
        plane |= outside[1:-1, 1:-1] != outside[0, 0]
    return body
