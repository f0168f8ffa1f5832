"""First order features, with PyRadiomics' definitions.

All of them follow from how often each value occurs, so whole HU are counted once and single passes over voxels are few.
Where a definition departs from IBSI's: kurtosis is not minus 3, `voxelArrayShift` goes into the energies, and
TotalEnergy is PyRadiomics' own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from radloom.features.kernels import count_values
from radloom.images import Array

EPS = float(np.spacing(1))
_TABLE_AT_MOST = 1 << 17
# All that the formulas ask for.
PERCENTILES = (0, 10, 25, 50, 75, 90, 100)


@dataclass(frozen=True)
class Distribution:
    """Values of an ROI as float64, how often each occurs (None: once each, in which case `values` need not be in
    order beyond the ranks that percentiles ask for), the shares of its grey levels, the shift that the energies add and
    the volume of a voxel in mm3.
    """

    values: Array
    counts: Array | None
    shares: Array
    shift: float
    voxel_mm3: float

    @cached_property
    def n(self) -> int:
        return len(self.values) if self.counts is None else int(self.counts.sum())

    @cached_property
    def cumulative(self) -> Array | None:
        return None if self.counts is None else np.cumsum(self.counts)

    @cached_property
    def mean(self) -> float:
        return self.total(self.values) / self.n

    @cached_property
    def deviations(self) -> Array:
        return self.values - self.mean

    @cached_property
    def squares(self) -> Array:
        return self.deviations * self.deviations

    def total(self, terms: Array) -> float:
        """Sum over the voxels of a term for each value."""
        return float(terms.sum() if self.counts is None else (terms * self.counts).sum())

    @property
    def is_flat(self) -> bool:
        return self.percentile(0) == self.percentile(100)

    def moment(self, order: int) -> float:
        """Return the second, third or fourth central moment; exactly 0 where all values are the same."""
        if self.is_flat:
            return 0.0
        terms = {2: lambda: self.squares, 3: lambda: self.squares * self.deviations, 4: lambda: self.squares**2}
        return self.total(terms[order]()) / self.n

    def percentile(self, q: float) -> float:
        """Return the q-th percentile, interpolated linearly between the two next values (numpy's `linear`)."""
        below, t = _rank(q, self.n)
        low, high = self._ranked(below), self._ranked(min(below + 1, self.n - 1))
        return high - (high - low) * (1 - t) if t >= 0.5 else low + (high - low) * t

    def _ranked(self, rank: int) -> float:
        at = rank if self.cumulative is None else np.searchsorted(self.cumulative, rank, side="right")
        return float(self.values[at])

    def standardised_moment(self, order: int) -> float:
        variance = self.moment(2)
        return self.moment(order) / variance ** (order / 2) if variance else 0.0

    def mean_absolute_deviation(self) -> float:
        return self.total(np.abs(self.deviations)) / self.n

    def robust_mean_absolute_deviation(self) -> float:
        inside = (self.values >= self.percentile(10)) & (self.values <= self.percentile(90))
        part = replace(self, values=self.values[inside], counts=None if self.counts is None else self.counts[inside])
        return part.mean_absolute_deviation() if part.n else math.nan  # of two values neither is inside

    def energy(self) -> float:
        return self.total((self.values + self.shift) ** 2)


def _rank(q: float, n: int) -> tuple[int, float]:
    """The rank (from 0) at or below the q-th percentile of n values, and how far it is from there to the next."""
    position = q / 100 * (n - 1)
    below = math.floor(position)
    return below, position - below


FORMULAS: dict[str, Callable[[Distribution], float]] = {
    "10Percentile": lambda d: d.percentile(10),
    "90Percentile": lambda d: d.percentile(90),
    "Energy": Distribution.energy,
    "Entropy": lambda d: float(-(d.shares * np.log2(d.shares + EPS)).sum()),
    "InterquartileRange": lambda d: d.percentile(75) - d.percentile(25),
    "Kurtosis": lambda d: d.standardised_moment(4),
    "Maximum": lambda d: d.percentile(100),
    "Mean": lambda d: d.mean,
    "MeanAbsoluteDeviation": Distribution.mean_absolute_deviation,
    "Median": lambda d: d.percentile(50),
    "Minimum": lambda d: d.percentile(0),
    "Range": lambda d: d.percentile(100) - d.percentile(0),
    "RobustMeanAbsoluteDeviation": Distribution.robust_mean_absolute_deviation,
    "RootMeanSquared": lambda d: math.sqrt(d.energy() / d.n),
    "Skewness": lambda d: d.standardised_moment(3),
    "StandardDeviation": lambda d: math.sqrt(d.moment(2)),
    "TotalEnergy": lambda d: d.energy() * d.voxel_mm3,
    "Uniformity": lambda d: float((d.shares**2).sum()),
    "Variance": lambda d: d.moment(2),
}


# Those that follow from the grey levels.
LEVEL_FEATURES = frozenset({"Entropy", "Uniformity"})


def distribution(
    values: Array, level_counts: Array | None, setting: Mapping[str, Any], voxel_mm3: float
) -> Distribution:
    """Count the values (1D) of an ROI; `level_counts` are the voxels of each grey level that occurs, None where no
    feature asks for them.
    """
    if values.dtype.kind in "iu" and int(values.max()) - int(values.min()) < _TABLE_AT_MOST:
        low = int(values.min())
        counts = count_values(values, low, int(values.max()))
        distinct = np.flatnonzero(counts)
        counts, ascending = counts[distinct], (distinct + low).astype(np.float64)
    else:
        ranks = [_rank(q, len(values))[0] + above for q in PERCENTILES for above in (0, 1)]
        ascending = np.partition(values.astype(np.float64), sorted({min(rank, len(values) - 1) for rank in ranks}))
        counts = None
    shares = np.empty(0) if level_counts is None else level_counts / level_counts.sum()
    return Distribution(ascending, counts, shares, float(setting.get("voxelArrayShift", 0)), voxel_mm3)


def first_order_features(d: Distribution, wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named features of a distribution of values."""
    return {name: FORMULAS[name](d) for name in wanted}
