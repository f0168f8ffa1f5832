"""HU of fat and muscle in an image without any segmentation, by the peaks that they make in its histogram.

The values are means of 2 x 2 pixels of a slice, which halves the noise; the histogram (bins of 1 HU) is smoothed by a
Gaussian of 5 HU. A peak counts where it stands out from the valleys on both sides by a fifth, and has enough voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from radloom.images import Array


@dataclass(frozen=True)
class Tissue:
    """Where a tissue's peak may lie (HU), where it should, and how much that differs between patients."""

    low: float
    high: float
    expected: float
    sd: float


TISSUES = {
    # Subcutaneous fat.
    "fat": Tissue(-140.0, -60.0, -100.0, 10.0),
    # Skeletal muscle; without contrast agent near the lower end of its spread, with it near the upper one.
    "muscle": Tissue(20.0, 80.0, 50.0, 15.0),
}
_AROUND = 80  # HU beyond the range of a peak in which valleys are looked for
_SMOOTHING = 5.0  # HU
_PROMINENCE = 1.2
_WIDTH = 20  # HU to each side of a peak in which its values are counted
_LEAST_VALUES = 2000  # means of 2 x 2 pixels


def tissue_hu(array: Array, tissue: Tissue, valid: Array | None = None) -> float | None:
    """HU of a tissue in an image (z, y, x), or None where it makes no peak.

    `valid` (z, y, x) is 0 where nothing was measured.
    """
    first, last = int(tissue.low) - _AROUND, int(tissue.high) + _AROUND
    counts = np.zeros(last - first + 1)
    for z, plane in enumerate(array):
        rows, columns = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
        quarters = [
            part[:rows, :columns].reshape(rows // 2, 2, columns // 2, 2)
            for part in (plane, *(() if valid is None else (valid[z],)))
        ]
        means = quarters[0].mean(axis=(1, 3), dtype=np.float64)
        if valid is not None:
            means = means[quarters[1].all(axis=(1, 3))]
        near = means[(means >= first - 0.5) & (means < last + 0.5)]
        counts += np.bincount(np.floor(near + 0.5).astype(np.intp) - first, minlength=len(counts))
    reach = np.arange(-4 * int(_SMOOTHING), 4 * int(_SMOOTHING) + 1)
    kernel = np.exp(-((reach / _SMOOTHING) ** 2) / 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    inside = slice(_AROUND, len(counts) - _AROUND)
    peak = int(np.argmax(smooth[inside])) + _AROUND
    if peak in (inside.start, inside.stop - 1):
        return None  # the slope of something else
    valleys = max(smooth[:peak].min(), smooth[peak + 1 :].min())
    if smooth[peak] < _PROMINENCE * valleys or counts[peak - _WIDTH : peak + _WIDTH + 1].sum() < _LEAST_VALUES:
        return None
    # The top of the parabola through the highest bin and its neighbours.
    before, top, after = smooth[peak - 1 : peak + 2].tolist()
    bend = before - 2 * top + after
    return float(first + peak + (0.5 * (before - after) / bend if bend else 0.0))
