"""Features of the matrices that count grey level against size: run lengths (GLRLM), size zones (GLSZM) and
dependences (GLDM). The three classes share their formulas, which PyRadiomics defines, under names of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from radloom.features.glcm import direction_weights
from radloom.features.matrices import Levels, directions, neighbourhoods, run_lengths, zones
from radloom.images import Array

EPS = float(np.spacing(1))


@dataclass(frozen=True)
class SizeMatrix:
    """Counts by grey level and size, (direction, level, size), with the levels i and sizes j they are for.

    A class without directions has one; features are means over directions.
    """

    counts: Array
    i: Array
    j: Array

    @property
    def n(self) -> Array:
        """Number of runs, zones or voxels: (direction,)."""
        return self.counts.sum((1, 2))

    @property
    def by_level(self) -> Array:
        return self.counts.sum(2)

    @property
    def by_size(self) -> Array:
        return self.counts.sum(1)

    def emphasis(self, level_power: int, size_power: int) -> float:
        """Mean of i^level_power j^size_power."""
        return _mean((self.counts @ self.j**size_power @ self.i**level_power) / self.n)

    def non_uniformity(self, margin: Array, normalised: bool) -> float:
        return _mean((margin**2).sum(1) / self.n ** (2 if normalised else 1))

    def variance(self, margin: Array, values: Array) -> float:
        shares = margin / self.n[:, None]
        mean = (shares * values).sum(1, keepdims=True)
        return _mean((shares * (values - mean) ** 2).sum(1))

    def entropy(self) -> float:
        shares = self.counts / self.n[:, None, None]
        return _mean(-(shares * np.log2(shares + EPS)).sum((1, 2)))

    def percentage(self) -> float:
        """Runs or zones a voxel."""
        return _mean(self.n / (self.by_size * self.j).sum(1))


Formula = Callable[[SizeMatrix], float]


def _formulas(small: str, large: str, level_suffix: str, size: str, non_uniformity: str) -> dict[str, Formula]:
    """The shared formulas under the names of a class: `small` and `large` sizes, as ShortRun and LongRun;
    `level_suffix` after GrayLevel in the emphases; `size` as in RunEntropy; and the name of non-uniformity over sizes.
    """
    return {
        f"{small}Emphasis": lambda m: m.emphasis(0, -2),
        f"{large}Emphasis": lambda m: m.emphasis(0, 2),
        f"LowGrayLevel{level_suffix}Emphasis": lambda m: m.emphasis(-2, 0),
        f"HighGrayLevel{level_suffix}Emphasis": lambda m: m.emphasis(2, 0),
        f"{small}LowGrayLevelEmphasis": lambda m: m.emphasis(-2, -2),
        f"{small}HighGrayLevelEmphasis": lambda m: m.emphasis(2, -2),
        f"{large}LowGrayLevelEmphasis": lambda m: m.emphasis(-2, 2),
        f"{large}HighGrayLevelEmphasis": lambda m: m.emphasis(2, 2),
        "GrayLevelNonUniformity": lambda m: m.non_uniformity(m.by_level, normalised=False),
        "GrayLevelNonUniformityNormalized": lambda m: m.non_uniformity(m.by_level, normalised=True),
        non_uniformity: lambda m: m.non_uniformity(m.by_size, normalised=False),
        f"{non_uniformity}Normalized": lambda m: m.non_uniformity(m.by_size, normalised=True),
        "GrayLevelVariance": lambda m: m.variance(m.by_level, m.i),
        f"{size}Variance": lambda m: m.variance(m.by_size, m.j),
        f"{size}Entropy": SizeMatrix.entropy,
        f"{size}Percentage": SizeMatrix.percentage,
    }


GLRLM = _formulas("ShortRun", "LongRun", "Run", "Run", "RunLengthNonUniformity")
GLSZM = _formulas("SmallArea", "LargeArea", "Zone", "Zone", "SizeZoneNonUniformity")
GLDM = _formulas("SmallDependence", "LargeDependence", "", "Dependence", "DependenceNonUniformity")


def glrlm_features(levels: Levels, setting: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named run length features; runs go one voxel a step whatever `distances` says."""
    offsets = directions(levels.roi.mask.shape, setting, both_ways=False, distances=(1,))
    counts = run_lengths(levels, offsets).astype(np.float64)
    norm = setting.get("weightingNorm")
    if norm is not None:
        weights = direction_weights(offsets, levels.roi.spacing, norm, decay=False)
        counts = np.tensordot(weights, counts, axes=1)[None]
    counts = counts[counts.any(axis=(1, 2))]
    lengths = np.arange(1, counts.shape[2] + 1, dtype=float)
    matrix = SizeMatrix(counts, levels.grey.present.astype(float), lengths)
    return {name: GLRLM[name](matrix) for name in wanted}


def glszm_features(levels: Levels, setting: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named size zone features; voxels connect with all neighbours, of a slice with `force2D`."""
    counts, sizes = zones(levels, directions(levels.roi.mask.shape, setting, both_ways=False, distances=(1,)))
    matrix = SizeMatrix(counts[None].astype(np.float64), levels.grey.present.astype(float), sizes.astype(float))
    return {name: GLSZM[name](matrix) for name in wanted}


def gldm_features(levels: Levels, dependence: Array, wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named dependence features of the counts (level, dependent neighbours); the size of a dependence
    counts the voxel itself.
    """
    matrix = SizeMatrix(
        dependence[None].astype(np.float64),
        levels.grey.present.astype(float),
        np.arange(1, dependence.shape[1] + 1, dtype=float),
    )
    return {name: GLDM[name](matrix) for name in wanted}


def gldm_and_neighbours(levels: Levels, setting: Mapping[str, Any]) -> tuple[Array, Array]:
    """Count dependences and neighbourhood differences of an ROI in one pass (see `matrices.neighbourhoods`)."""
    offsets = directions(levels.roi.mask.shape, setting, both_ways=True)
    return neighbourhoods(levels, offsets, setting.get("gldm_a", 0))


def _mean(by_direction: Array) -> float:
    return float(by_direction.mean()) if len(by_direction) else float("nan")
