"""HU of fat and muscle in an image without any segmentation, by the peaks that they make in its histogram.

The step `calibrate` measures them, corrects by them where it is asked to, and the quality gate has them from there.

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


def tissue_hu(image: Array, valid: Array | None = None) -> dict[str, float | None]:
    """HU of each of `TISSUES` in an image (z, y, x), None where it makes no peak.

    `valid` (z, y, x) is 0 where nothing was measured.
    """
    # As far beyond the valleys as the smoothing reaches, so that they are no ends of the histogram.
    margin = _AROUND + 4 * int(_SMOOTHING)
    first = int(min(tissue.low for tissue in TISSUES.values())) - margin
    last = int(max(tissue.high for tissue in TISSUES.values())) + margin
    counts = np.zeros(last - first + 1)
    for z, plane in enumerate(image):
        means = _quarters(plane, np.add) * np.float32(0.25)
        near = (means >= first) & (means <= last)
        if valid is not None:
            near &= _quarters(valid[z] != 0, np.logical_and)
        counts += np.bincount(np.rint(means[near]).astype(np.intp) - first, minlength=len(counts))
    reach = np.arange(-4 * int(_SMOOTHING), 4 * int(_SMOOTHING) + 1)
    kernel = np.exp(-((reach / _SMOOTHING) ** 2) / 2)
    smooth = np.convolve(counts, kernel / kernel.sum(), mode="same")
    return {name: _peak(counts, smooth, first, tissue) for name, tissue in TISSUES.items()}


def _quarters(plane: Array, join: np.ufunc) -> Array:
    """The pixels of a plane (y, x) joined two by two along both axes; an odd last row or column is left out."""
    rows, columns = plane.shape[0] // 2 * 2, plane.shape[1] // 2 * 2
    dtype = bool if plane.dtype == bool else np.float32
    lines = join(plane[0:rows:2, :columns], plane[1:rows:2, :columns], dtype=dtype)
    return np.asarray(join(lines[:, 0::2], lines[:, 1::2]))


def _peak(counts: Array, smooth: Array, first: int, tissue: Tissue) -> float | None:
    """Where the tissue's peak lies in a histogram whose first bin is that of `first` HU, and in the smoothed one."""
    start, stop = int(tissue.low) - first, int(tissue.high) - first + 1
    peak = int(np.argmax(smooth[start:stop])) + start
    if peak in (start, stop - 1):
        return None  # the slope of something else
    valleys = max(smooth[start - _AROUND : peak].min(), smooth[peak + 1 : stop + _AROUND].min())
    if smooth[peak] < _PROMINENCE * valleys or counts[peak - _WIDTH : peak + _WIDTH + 1].sum() < _LEAST_VALUES:
        return None
    # The top of the parabola through the highest bin and its neighbours.
    before, top, after = smooth[peak - 1 : peak + 2].tolist()
    bend = before - 2 * top + after
    return float(first + peak + (0.5 * (before - after) / bend if bend else 0.0))
