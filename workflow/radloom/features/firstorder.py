"""First order features, with PyRadiomics' definitions.

All of them follow from how often each value occurs, so whole HU are counted once and single passes over voxels are few.
Where a definition departs from IBSI's: kurtosis is not minus 3, `voxelArrayShift` goes into the energies, and
TotalEnergy is PyRadiomics' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from radloom.images import Array

EPS = float(np.spacing(1))
_TABLE_AT_MOST = 1 << 17


@dataclass(frozen=True)
class Distribution:
    """Values of an ROI, ascending float64, how often each occurs, the shares of its grey levels, the shift that the
    energies add and the volume of a voxel in mm3.
    """

    values: Array
    counts: Array
    shares: Array
    shift: float
    voxel_mm3: float

    @cached_property
    def n(self) -> int:
        return int(self.counts.sum())

    @cached_property
    def cumulative(self) -> Array:
        return np.cumsum(self.counts)

    @cached_property
    def mean(self) -> float:
        return float((self.values * self.counts).sum() / self.n)

    @cached_property
    def deviations(self) -> Array:
        return self.values - self.mean

    def moment(self, order: int) -> float:
        """Return the central moment of this order; exactly 0 where all values are the same."""
        if len(self.values) == 1 or self.values[0] == self.values[-1]:
            return 0.0
        return float((self.deviations**order * self.counts).sum() / self.n)

    def percentile(self, q: float) -> float:
        """Return the q-th percentile, interpolated linearly between the two next values (numpy's `linear`)."""
        position = q / 100 * (self.n - 1)
        below = math.floor(position)
        low, high = self._ranked(below), self._ranked(min(below + 1, self.n - 1))
        t = position - below
        return high - (high - low) * (1 - t) if t >= 0.5 else low + (high - low) * t

    def _ranked(self, rank: int) -> float:
        return float(self.values[np.searchsorted(self.cumulative, rank, side="right")])

    def standardised_moment(self, order: int) -> float:
        variance = self.moment(2)
        return self.moment(order) / variance ** (order / 2) if variance else 0.0

    def mean_absolute_deviation(self) -> float:
        return float((np.abs(self.deviations) * self.counts).sum() / self.n)

    def robust_mean_absolute_deviation(self) -> float:
        inside = (self.values >= self.percentile(10)) & (self.values <= self.percentile(90))
        values, counts = self.values[inside], self.counts[inside]
        mean = (values * counts).sum() / counts.sum()
        return float((np.abs(values - mean) * counts).sum() / counts.sum())

    def energy(self) -> float:
        return float(((self.values + self.shift) ** 2 * self.counts).sum())


FORMULAS: dict[str, Callable[[Distribution], float]] = {
    "10Percentile": lambda d: d.percentile(10),
    "90Percentile": lambda d: d.percentile(90),
    "Energy": Distribution.energy,
    "Entropy": lambda d: float(-(d.shares * np.log2(d.shares + EPS)).sum()),
    "InterquartileRange": lambda d: d.percentile(75) - d.percentile(25),
    "Kurtosis": lambda d: d.standardised_moment(4),
    "Maximum": lambda d: float(d.values[-1]),
    "Mean": lambda d: d.mean,
    "MeanAbsoluteDeviation": Distribution.mean_absolute_deviation,
    "Median": lambda d: d.percentile(50),
    "Minimum": lambda d: float(d.values[0]),
    "Range": lambda d: float(d.values[-1] - d.values[0]),
    "RobustMeanAbsoluteDeviation": Distribution.robust_mean_absolute_deviation,
    "RootMeanSquared": lambda d: math.sqrt(d.energy() / d.n),
    "Skewness": lambda d: d.standardised_moment(3),
    "StandardDeviation": lambda d: math.sqrt(d.moment(2)),
    "TotalEnergy": lambda d: d.energy() * d.voxel_mm3,
    "Uniformity": lambda d: float((d.shares**2).sum()),
    "Variance": lambda d: d.moment(2),
}


def distribution(values: Array, level_counts: Array, setting: Mapping[str, Any], voxel_mm3: float) -> Distribution:
    """Count the values (1D) of an ROI; `level_counts` are the voxels of each grey level that occurs."""
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < _TABLE_AT_MOST:
        low = int(values.min())
        counts = np.bincount(np.subtract(values, low, dtype=np.int32))
        distinct = np.flatnonzero(counts)
        counts, ascending = counts[distinct], (distinct + low).astype(np.float64)
    else:
        ascending = np.sort(values.astype(np.float64))
        counts = np.ones(len(ascending), np.int64)
    shares = level_counts / level_counts.sum()
    return Distribution(ascending, counts, shares, float(setting.get("voxelArrayShift", 0)), voxel_mm3)


def first_order_features(d: Distribution, wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named features of a distribution of values."""
    return {name: FORMULAS[name](d) for name in wanted}
