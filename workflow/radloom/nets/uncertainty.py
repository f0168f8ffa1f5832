"""How far the samples of an ensemble or of Monte Carlo dropout agree: maps a slab, scores a case.

A sample is one member of an ensemble (Lakshminarayanan et al., NeurIPS 2017, arXiv:1612.01474) in one draw of its
dropout (Gal & Ghahramani, ICML 2016, arXiv:1506.02142). With p_k a class's probability in sample k of K, the law of
total variance splits that of its yes or no (Depeweg et al., ICML 2018, arXiv:1710.07283):

    total m (1 - m)  =  aleatoric, mean of p_k (1 - p_k)  +  epistemic, variance of p_k,      m = mean of p_k

Variances of probabilities are over K, else the sum would not hold; those of volumes over K - 1.

A slab is a part of the volume along z, (z, y, x). Of each class its mean and its sum of squares are held, of the
samples only their labels: memory is that of a few slabs of probabilities whatever K, and a slab may be one slice thin.
The scores are the same for any height of the slabs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import torch

MAPS = ("mean", "total", "aleatoric", "epistemic")


class Moments:
    """Mean and variance of tensors of one shape that come one by one (Welford 1962, 10.1080/00401706.1962.10490022)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, values: torch.Tensor) -> None:
        """Take in one more tensor (float32); it isn't kept."""
        if self.count == 0:
            self.mean, self._squares = torch.zeros_like(values), torch.zeros_like(values)
        self.count += 1
        difference = values - self.mean
        self.mean.add_(difference, alpha=1 / self.count)
        self._squares.addcmul_(difference, values - self.mean)

    def variance(self) -> torch.Tensor:
        """Variance over the count."""
        return self._squares / self.count


def split_variance(moments: Moments) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, aleatoric and epistemic variance of probabilities, in the shape of the samples."""
    total = moments.mean * (1 - moments.mean)
    epistemic = moments.variance()
    # By the law of total variance, which needs no third sum; rounding alone could take it below 0.
    return total, (total - epistemic).clamp_(min=0), epistemic


@dataclass(frozen=True)
class ClassUncertainty:
    """The scores of a class in a case; NaN where no sample has found the class."""

    volume_ml: float
    """Mean over the samples."""
    volume_sd_ml: float
    volume_cv: float
    """Standard deviation over mean."""
    pairwise_dice: float
    """Mean Dice of the samples' labels, two by two; pairs that both lack the class don't count."""
    epistemic: float
    """Mean epistemic variance where any sample has found the class."""


class CaseUncertainty:
    """Scores of a case, to which slabs are added in any order."""

    def __init__(self, classes: Mapping[int, str], outputs: str, voxel_ml: float) -> None:
        """`classes` are numbers 1, 2, 3 ... and names; `outputs` is softmax (channel 0 is background) or sigmoid."""
        self.classes = dict(sorted(classes.items()))
        self.outputs = outputs
        self.voxel_ml = voxel_ml
        length = len(self.classes) + 1
        self._voxels: torch.Tensor | None = None
        """Voxels of label by sample, (samples, labels)."""
        self._common: dict[tuple[int, int], torch.Tensor] = {}
        self._found = torch.zeros(length - 1, dtype=torch.float64)
        self._epistemic = torch.zeros(length - 1, dtype=torch.float64)

    @torch.no_grad()
    def add(self, samples: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add a slab: its samples' probabilities (channels, z, y, x; float32), one at a time.

        Returns the slab's maps (z, y, x; float32): mean probability, total, aleatoric and epistemic variance of the
        voxel's likeliest class that isn't the background, so that the three add up in every voxel.
        """
        moments, labels = Moments(), []
        for values in samples:
            moments.add(values)
            labels.append(label_of(values, self.outputs))
        if moments.count < 2:
            raise ValueError("uncertainty needs two samples at least")
        self._count(torch.stack(labels))
        total, aleatoric, epistemic = split_variance(moments)
        parts = dict(zip(MAPS, (moments.mean, total, aleatoric, epistemic), strict=True))
        if self.outputs == "softmax":
            parts = {name: values[1:] for name, values in parts.items()}
        self._add_epistemic(parts["epistemic"], labels)
        likeliest = parts["mean"].argmax(dim=0, keepdim=True)
        return {name: values.gather(0, likeliest)[0] for name, values in parts.items()}

    def scores(self) -> dict[str, ClassUncertainty]:
        """The scores by the name of the class."""
        if self._voxels is None:
            raise ValueError("no slab was added")
        volumes = self._voxels.double() * self.voxel_ml
        mean, sd = volumes.mean(dim=0).tolist(), volumes.std(dim=0).tolist()
        found = {}
        for number, name in self.classes.items():
            pairs = []
            for (first, second), common in self._common.items():
                both = int(self._voxels[first, number] + self._voxels[second, number])
                if both:
                    pairs.append(2 * int(common[number]) / both)
            voxels = float(self._found[number - 1])
            found[name] = ClassUncertainty(
                volume_ml=mean[number],
                volume_sd_ml=sd[number],
                volume_cv=sd[number] / mean[number] if mean[number] else math.nan,
                pairwise_dice=math.fsum(pairs) / len(pairs) if pairs else math.nan,
                epistemic=float(self._epistemic[number - 1]) / voxels if voxels else math.nan,
            )
        return found

    def _count(self, labels: torch.Tensor) -> None:
        """Count voxels of labels (samples, z, y, x; uint8), and those that two samples have in common."""
        length = len(self.classes) + 1
        flat = labels.flatten(1)
        flat = flat[:, (flat > 0).any(dim=0)]
        voxels = torch.stack([torch.bincount(row, minlength=length) for row in flat]).cpu()
        self._voxels = voxels if self._voxels is None else self._voxels + voxels
        for first, second in combinations(range(len(flat)), 2):
            both = flat[first][flat[first] == flat[second]]
            common = torch.bincount(both, minlength=length).cpu()
            self._common[first, second] = self._common.get((first, second), 0) + common

    def _add_epistemic(self, epistemic: torch.Tensor, labels: list[torch.Tensor]) -> None:
        """Add the epistemic variance (classes, z, y, x) where any sample has the class."""
        anywhere = torch.zeros((len(epistemic) + 1, *epistemic.shape[1:]), dtype=torch.bool, device=epistemic.device)
        for label in labels:
            anywhere.scatter_(0, label[None].long(), True)
        anywhere = anywhere[1:]
        # By plane, and the planes one after the other: the sum doesn't depend on the height of a slab.
        for found, values in zip(anywhere.unbind(1), epistemic.unbind(1), strict=True):
            self._found += found.sum(dim=(1, 2)).double().cpu()
            self._epistemic += torch.where(found, values, 0).sum(dim=(1, 2), dtype=torch.float64).cpu()


def label_of(values: torch.Tensor, outputs: str) -> torch.Tensor:
    """The labels (uint8) that probabilities (channels, ...) stand for."""
    largest, label = values.max(dim=0)
    if outputs == "softmax":
        return label.to(torch.uint8)
    return torch.where(largest > 0.5, label + 1, 0).to(torch.uint8)


def score_facts(scores: Mapping[str, ClassUncertainty]) -> dict[str, dict[str, float | None]]:
    """Scores by ROI and name as a record holds them: None for what can't be estimated."""
    return {
        roi: {name: None if math.isnan(value) else value for name, value in asdict(found).items()}
        for roi, found in scores.items()
    }


def too_uncertain(
    scores: Mapping[str, ClassUncertainty], max_volume_cv: float | None, min_pairwise_dice: float | None
) -> list[str]:
    """What is beyond the thresholds, a phrase a class. A score that can't be estimated is beyond none."""
    problems = []
    for roi, score in scores.items():
        if max_volume_cv is not None and score.volume_cv > max_volume_cv:
            problems.append(
                f"{roi}: coefficient of variation of the volume {score.volume_cv:.3g} above {max_volume_cv:g}"
            )
        if min_pairwise_dice is not None and score.pairwise_dice < min_pairwise_dice:
            problems.append(f"{roi}: mean pairwise Dice {score.pairwise_dice:.3g} below {min_pairwise_dice:g}")
    return problems
