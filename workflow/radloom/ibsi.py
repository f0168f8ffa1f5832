"""What `extract.ibsi: true` closes between PyRadiomics and IBSI 1, as functions around the engine.

The definitions are those of the IBSI reference manual (arXiv:1612.07003, ibsi.readthedocs.io) and its consensus values
(Zwanenburg et al., Radiology 2020, https://doi.org/10.1148/radiol.2020191145). Resampling and calibration hold
IBSI's grid, its rounding of HU and its masks already. What is left is here: the intensity mask from a range and
outliers together, the bins, and the definitions of single features. docs/ibsi.md compares every value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from radloom.errors import CaseError
from radloom.images import Array

AXIS_LENGTHS = ("MajorAxisLength", "MinorAxisLength", "LeastAxisLength")
EXCESS = 3.0  # the kurtosis of a normal distribution


def intensity_range(
    values: Array, setting: Mapping[str, Any], outlier_sigma: float | None = None
) -> tuple[float, float]:
    """Lowest and highest value of the intensity mask, both included; infinite where there is no bound.

    values: all of the morphological mask's, in any shape.
    setting: PyRadiomics' `resegmentRange` (one or two numbers) and `resegmentMode`.
    outlier_sigma: also keep within this many standard deviations of the mean.

    Range and outlier re-segmentation each give an interval, and their intersection holds (IBSI IF9H): so the mean
    and the standard deviation (over n) are those of all values, not of those that the range leaves. Raises CaseError
    where no interval is left.
    """
    low, high = -math.inf, math.inf
    if setting.get("resegmentRange"):
        bounds = sorted(float(bound) for bound in setting["resegmentRange"])
        mode = setting.get("resegmentMode", "absolute")
        if mode == "relative":
            bounds = [bound * float(values.max()) for bound in bounds]
        elif mode == "sigma":
            bounds = [_mean(values) + bound * _deviation(values) for bound in bounds]
        low, high = bounds[0], bounds[1] if len(bounds) == 2 else math.inf
    if outlier_sigma is not None:
        centre, spread = _mean(values), _deviation(values)
        low, high = max(low, centre - outlier_sigma * spread), min(high, centre + outlier_sigma * spread)
    if low > high:
        raise CaseError(
            f"no value can be in the re-segmentation's range, which would begin at {low:g} and end at {high:g}",
            "check `resegmentRange`, `extract.outlier_sigma`, the calibration and the ROI",
        )
    return low, high


def bin_setting(values: Array, setting: Mapping[str, Any], image_type: str = "Original") -> dict[str, Any]:
    """The settings with `binAnchor`, which makes the engine bin as IBSI does: where the first bin begins.

    values: those of the intensity mask. Bins of a fixed size begin at the lower bound of the re-segmentation range
    where an absolute one is given, else at the lowest value; filtered images aren't in HU, so theirs begin at the
    lowest value too (IBSI Q3RU). A fixed number of bins spans the values themselves.
    """
    absolute = setting.get("resegmentRange") and setting.get("resegmentMode", "absolute") == "absolute"
    if absolute and image_type == "Original" and setting.get("binCount") is None:
        return {**setting, "binAnchor": min(setting["resegmentRange"])}
    return {**setting, "binAnchor": values.min().item()}


def ibsi_values(values: Mapping[str, float], voxels: int) -> dict[str, float]:
    """Feature values by column with IBSI's definitions in place of PyRadiomics' where the two differ.

    values: by column; those that failed (NaN) stay so.
    voxels: of the morphological mask.

    Kurtosis is the excess over that of a normal distribution (minus 3), for every image type; PyRadiomics' 0 of a flat
    ROI stays, since no distribution has a kurtosis below 1. The axis lengths are those of the covariance over n - 1
    instead of n. That is what the consensus has: of the 74 voxels of the digital phantom n - 1 gives 11.4, 9.31 and
    8.54 mm, all its digits, and n gives 11.3, 9.24 and 8.48. Elongation and flatness are ratios and don't notice.
    """
    factor = math.sqrt(voxels / (voxels - 1)) if voxels > 1 else math.nan
    result = dict(values)
    for column, value in values.items():
        if column.endswith("_firstorder_Kurtosis"):
            result[column] = value - EXCESS if value else value
        elif column.startswith("original_shape_") and column.endswith(AXIS_LENGTHS):
            result[column] = value * factor
    return result


def _mean(values: Array) -> float:
    return float(np.mean(values, dtype=np.float64))


def _deviation(values: Array) -> float:
    return float(np.std(values, dtype=np.float64))
