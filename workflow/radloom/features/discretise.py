"""Grey levels of an ROI: PyRadiomics' bins (its `getBinEdges` and `binImage`), and IBSI's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from radloom.errors import CaseError
from radloom.features.kernels import count_values, library
from radloom.images import Array

# A table with one level for each possible value is quicker than a search, up to about this many values.
_TABLE_AT_MOST = 1 << 17
# Levels are kept in 16 bits.
HIGHEST_LEVEL = 65535


@dataclass(frozen=True)
class GreyLevels:
    """Grey levels of the voxels of an ROI, in the order of `image[mask]`.

    level: the level of each voxel, uint16, from 1.
    present: the levels that occur, ascending, int32.
    counts: voxels of each present level.
    """

    level: Array
    present: Array
    counts: Array

    @property
    def highest(self) -> int:
        """The highest level, PyRadiomics' Ng (levels that don't occur are counted in it)."""
        return int(self.present[-1])

    def ranks(self) -> Array:
        """Return each voxel's level renumbered 1, 2, ... over the present levels, uint16."""
        if len(self.present) == self.highest:
            return self.level
        table = np.zeros(self.highest + 1, np.uint16)
        table[self.present] = np.arange(1, len(self.present) + 1)
        return table[self.level]


def bin_edges(low: Any, high: Any, setting: Mapping[str, Any]) -> Array:
    """Return the bins' edges of an ROI with values from `low` to `high`, ascending.

    As PyRadiomics' `getBinEdges`: with `binCount`, numpy's histogram with one added to the last edge; else bins of
    `binWidth` (25) at its multiples from the one at or below `low`. `low` and `high` keep their type: single precision
    stays single.
    """
    count = setting.get("binCount")
    if count is not None:
        edges = np.histogram(np.array([low, high]), count)[1]
        edges[-1] += 1
        return edges
    width = setting.get("binWidth", 25)
    if isinstance(low, np.integer):  # 16 bits would overflow near their limits
        low, high = int(low), int(high)
    return np.arange(low - (low % width), high + 2 * width, width)


def fixed_bin_size(values: Array, width: float, first: float) -> Array:
    """Return IBSI's grey levels of bins of `width` that begin at `first`: floor((x - first) / width) + 1 (Q3RU)."""
    return np.floor((values.astype(np.float64) - first) / width).astype(np.int32) + 1


def fixed_bin_number(values: Array, bins: int) -> Array:
    """Return IBSI's grey levels 1 to `bins` that span the values; the largest value belongs to the last bin (K15C).

    floor(bins (x - min) / (max - min)) + 1 as it stands is exact for whole HU. PyRadiomics' edges min + k (max - min) /
    bins are rounded, so that a value on an edge may fall below it. A flat ROI has one level.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return np.ones(values.shape, np.int32)
    levels = np.floor(bins * (values.astype(np.float64) - low) / (high - low)).astype(np.int32) + 1
    return np.minimum(levels, bins)


def discretise(values: Array, setting: Mapping[str, Any]) -> GreyLevels:
    """Return the grey levels of the voxel values (1D) of an ROI.

    PyRadiomics', or with `binAnchor` IBSI's: bins of `binWidth` begin there, and `binCount` bins span the values.
    Raises CaseError where there are more levels than fit, or where values lie below `binAnchor`.
    """
    low, high = values.min(), values.max()
    width, count = setting.get("binWidth", 25), setting.get("binCount")
    anchor = setting.get("binAnchor")
    lowest = float(low) if anchor is None else anchor
    if (count is None and (float(high) - lowest) / width >= HIGHEST_LEVEL - 1) or (count or 0) > HIGHEST_LEVEL:
        raise CaseError(
            f"the ROI's values from {low:g} to {high:g} make more than {HIGHEST_LEVEL} grey levels",
            "a larger `binWidth`, or a `resegmentRange` that leaves out implausible values",
        )
    if anchor is not None:
        levels = fixed_bin_size(values, width, anchor) if count is None else fixed_bin_number(values, count)
    else:
        levels = _pyradiomics_levels(values, low, high, setting)
    if float(low) < lowest:
        levels = np.maximum(levels, 0)
    occurrences = count_values(levels, 0, int(levels.max()))
    if occurrences[0]:
        raise CaseError(
            f"{occurrences[0]} voxels of the ROI lie below the first bin", "check `resegmentRange` and the bins"
        )
    present = np.flatnonzero(occurrences).astype(np.int32)
    return GreyLevels(levels.astype(np.uint16), present, occurrences[present])


def _pyradiomics_levels(values: Array, low: Any, high: Any, setting: Mapping[str, Any]) -> Array:
    edges = np.asarray(bin_edges(low, high, setting))
    if values.dtype.kind in "iu" and int(high) - int(low) < _TABLE_AT_MOST:
        table = np.digitize(np.arange(int(low), int(high) + 1), edges)
        return np.asarray(table.astype(np.int32)[np.subtract(values, low, dtype=np.int32)])
    levels = np.empty(len(values), np.int32)
    exact = edges.astype(np.float64)
    library().digitize(values.astype(np.float64, copy=False), len(values), exact, len(exact), levels)
    return levels
