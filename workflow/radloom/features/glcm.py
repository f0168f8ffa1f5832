"""Grey level co-occurrence features, with PyRadiomics' definitions.

A matrix is made for each direction and a feature is the mean over directions (IBSI's aggregation "3D, averaged");
with `weightingNorm` the matrices are added with weights that fall with distance, and there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from radloom.features.kernels import library
from radloom.features.matrices import Levels, cooccurrences, directions
from radloom.images import Array

EPS = float(np.spacing(1))


@dataclass(frozen=True)
class Cooccurrence:
    """What the features need of the matrices p(i, j) of all directions.

    levels: the present grey levels i, j, float64. highest: the highest of them.
    px, py: (direction, level), sums over j and over i.
    p_sum, p_difference: (direction, k), sums over i + j = k and over |i - j| = k, from k = 0.
    product, energy, largest, entropy, covariance, cross_entropy, product_entropy: (direction,).
    second: (direction,), second largest eigenvalue of Q of the maximal correlation coefficient, where asked for.
    """

    levels: Array
    highest: int
    px: Array
    py: Array
    p_sum: Array
    p_difference: Array
    product: Array
    energy: Array
    largest: Array
    entropy: Array
    covariance: Array
    cross_entropy: Array
    product_entropy: Array
    second: Array

    @property
    def ux(self) -> Array:
        return (self.px * self.levels).sum(1)

    @property
    def uy(self) -> Array:
        return (self.py * self.levels).sum(1)

    def over_sums(self, weight: Callable[[Array, Array], Array]) -> float:
        """Mean over directions of the sum of weight(i + j, ux + uy) p(i, j)."""
        k = np.arange(self.p_sum.shape[1], dtype=float)[None, :]
        return _mean((self.p_sum * weight(k, (self.ux + self.uy)[:, None])).sum(1))

    def over_differences(self, weight: Callable[[Array], Array], first: int = 0) -> float:
        """Mean over directions of the sum of weight(|i - j|) p(i, j) over |i - j| >= first."""
        k = np.arange(first, self.p_difference.shape[1], dtype=float)
        return _mean((self.p_difference[:, first:] * weight(k)).sum(1))

    def correlation(self) -> float:
        sigma = np.sqrt((self.px * (self.levels - self.ux[:, None]) ** 2).sum(1)) * np.sqrt(
            (self.py * (self.levels - self.uy[:, None]) ** 2).sum(1)
        )
        return _mean(np.where(sigma == 0, 1.0, self.covariance / (sigma + EPS)))

    def difference_variance(self) -> float:
        k = np.arange(self.p_difference.shape[1], dtype=float)
        mean = (self.p_difference * k).sum(1, keepdims=True)
        return _mean((self.p_difference * (k - mean) ** 2).sum(1))

    def information_correlation_1(self) -> float:
        largest = np.fmax(_entropy(self.px), _entropy(self.py))
        return _mean(np.divide(self.entropy - self.cross_entropy, largest, where=largest != 0, out=0 * largest))

    def information_correlation_2(self) -> float:
        # Independence has the largest entropy, so a gain below 0 is rounding. PyRadiomics takes the root of it, and
        # leaves the direction out or not, depending on the last digit.
        gain = np.maximum(self.product_entropy - self.entropy, 0.0)
        return _mean((1 - np.exp(-2 * gain)) ** 0.5)


FORMULAS: dict[str, Callable[[Cooccurrence], float]] = {
    "Autocorrelation": lambda g: _mean(g.product),
    "ClusterProminence": lambda g: g.over_sums(lambda k, u: (k - u) ** 4),
    "ClusterShade": lambda g: g.over_sums(lambda k, u: (k - u) ** 3),
    "ClusterTendency": lambda g: g.over_sums(lambda k, u: (k - u) ** 2),
    "Contrast": lambda g: g.over_differences(lambda k: k**2),
    "Correlation": Cooccurrence.correlation,
    "DifferenceAverage": lambda g: g.over_differences(lambda k: k),
    "DifferenceEntropy": lambda g: _mean(_entropy(g.p_difference)),
    "DifferenceVariance": Cooccurrence.difference_variance,
    "Id": lambda g: g.over_differences(lambda k: 1 / (1 + k)),
    "Idm": lambda g: g.over_differences(lambda k: 1 / (1 + k**2)),
    "Idmn": lambda g: g.over_differences(lambda k: 1 / (1 + k**2 / g.highest**2)),
    "Idn": lambda g: g.over_differences(lambda k: 1 / (1 + k / g.highest)),
    "Imc1": Cooccurrence.information_correlation_1,
    "Imc2": Cooccurrence.information_correlation_2,
    "InverseVariance": lambda g: g.over_differences(lambda k: 1 / k**2, first=1),
    "JointAverage": lambda g: _mean(g.ux),
    "JointEnergy": lambda g: _mean(g.energy),
    "JointEntropy": lambda g: _mean(g.entropy),
    "MCC": lambda g: 1.0 if len(g.levels) < 2 else _mean(np.sqrt(g.second)),
    "MaximumProbability": lambda g: _mean(g.largest),
    "SumAverage": lambda g: g.over_sums(lambda k, _: k),
    "SumEntropy": lambda g: _mean(_entropy(g.p_sum)),
    "SumSquares": lambda g: _mean((g.px * (g.levels - g.ux[:, None]) ** 2).sum(1)),
}


def glcm_features(levels: Levels, setting: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, float]:
    """Return the named features; NaN where no two voxels of the ROI are neighbours."""
    offsets = directions(levels.roi.mask.shape, setting, both_ways=False)
    matrices = _matrices(levels, offsets, setting)
    cooccurrence = _sums(matrices, levels, "Imc2" in wanted, "MCC" in wanted)
    # One matrix without any pair is NaN in PyRadiomics, MCC too; of several, empty ones are left out.
    single = len(offsets) == 1 or setting.get("weightingNorm") is not None
    if len(cooccurrence.energy) == 0 and single:
        return dict.fromkeys(wanted, float("nan"))
    return {name: FORMULAS[name](cooccurrence) for name in wanted}


def direction_weights(
    offsets: Sequence[tuple[int, int, int]], spacing: Sequence[float], norm: str, decay: bool
) -> Array:
    """Return PyRadiomics' weight of each direction by its length in mm under a norm: exp(-length^2), or, without
    `decay`, the length itself.
    """
    mm = np.abs(np.array(offsets)) * np.array(spacing)
    lengths = {
        "infinity": mm.max(1),
        "euclidean": np.sqrt((mm**2).sum(1)),
        "manhattan": mm.sum(1),
    }.get(norm)
    if lengths is None:  # no_weighting, and what PyRadiomics doesn't know
        return np.ones(len(offsets))
    return np.exp(-(lengths**2)) if decay else lengths


def _matrices(levels: Levels, offsets: Sequence[tuple[int, int, int]], setting: Mapping[str, Any]) -> Iterable[Array]:
    """The matrices that have any pair, each with sum 1."""
    counted: Iterator[Array] = (counts.astype(np.float64) for counts in cooccurrences(levels, offsets))
    if setting.get("symmetricalGLCM", True):
        counted = (counts + counts.T for counts in counted)
    norm = setting.get("weightingNorm")
    if norm is not None:
        weights = direction_weights(offsets, levels.roi.spacing, norm, decay=True)
        counted = iter([sum(weight * counts for weight, counts in zip(weights, counted, strict=True))])
    for counts in counted:
        total = counts.sum()
        if total > 0:
            yield counts / total


def _sums(matrices: Iterable[Array], levels: Levels, product_entropy: bool, mcc: bool) -> Cooccurrence:
    present, highest = levels.grey.present, levels.grey.highest
    collected: list[tuple[Array, ...]] = []
    second: list[float] = []
    for p in matrices:
        sums = (
            np.zeros(len(present)),
            np.zeros(len(present)),
            np.zeros(2 * highest + 1),
            np.zeros(highest),
            np.zeros(7),
        )
        library().cooccurrence_sums(np.ascontiguousarray(p), present, len(present), int(product_entropy), *sums)
        collected.append(sums)
        if mcc and len(present) > 1:
            second.append(_second_eigenvalue(p, sums[0], sums[1]))
    shapes = (len(present), len(present), 2 * highest + 1, highest, 7)
    px, py, p_sum, p_difference, scalars = (
        np.array([sums[k] for sums in collected]).reshape(len(collected), width) for k, width in enumerate(shapes)
    )
    product, energy, largest, entropy, covariance, cross_entropy, independent_entropy = scalars.T
    return Cooccurrence(
        levels=present.astype(float),
        highest=highest,
        px=px,
        py=py,
        p_sum=p_sum,
        p_difference=p_difference,
        product=product,
        energy=energy,
        largest=largest,
        entropy=entropy,
        covariance=covariance,
        cross_entropy=cross_entropy,
        product_entropy=independent_entropy,
        second=np.array(second),
    )


def _second_eigenvalue(p: Array, px: Array, py: Array) -> float:
    """Second largest eigenvalue of Q(i, j) = sum over k of p(i, k) p(j, k) / (px(i) py(k) + eps).

    None of Q's is negative. One that rounding puts below zero is 0; PyRadiomics takes the root, and leaves the
    direction out or not, depending on rounding elsewhere.
    """
    q = (p / (px[:, None] * py[None, :] + EPS)) @ p.T
    return max(float(np.sort(np.linalg.eigvals(q))[-2].real), 0.0)


def _entropy(p: Array) -> Array:
    return -(p * np.log2(p + EPS)).sum(1)


def _mean(by_direction: Array) -> float:
    """Mean over the directions that have a value, NaN if none has."""
    known = by_direction[~np.isnan(by_direction)]
    return float(known.mean()) if len(known) else float("nan")
