"""How far the samples of an ensemble or of Monte Carlo dropout agree: maps a slab, scores a case.

A sample is one member of an ensemble (Lakshminarayanan et al., NeurIPS 2017, arXiv:1612.01474) in one draw of its
dropout (Gal & Ghahramani, ICML 2016, arXiv:1506.02142). With p_k a class's probability in sample k of K, the law of
total variance splits that of its yes or no (Depeweg et al., ICML 2018, arXiv:1710.07283):

    total m (1 - m)  =  aleatoric, mean of p_k (1 - p_k)  +  epistemic, variance of p_k,      m = mean of p_k

Variances of probabilities are over K, else the sum would not hold; those of volumes over K - 1.

A slab is a part of the volume along z, (planes, y, x, channels) as nets give it. Of each class its mean and its sum of
squares are held, of the samples only their labels: memory is that of a few slabs of probabilities whatever K, and a
slab may be one plane. The scores are the same for any height of the slabs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

from radloom.errors import CohortError
from radloom.uncertainty_scores import ClassUncertainty

if TYPE_CHECKING:
    from radloom.nets.prediction import Predictor, Slab

MAPS = {"mean": 1 / 65535, "total": 0.25 / 65535, "aleatoric": 0.25 / 65535, "epistemic": 0.25 / 65535}
"""The maps, and what a step of their uint16 is worth: probabilities end at 1, variances of a yes or no at 1/4."""


class Moments:
    """Mean and variance of tensors of one shape that come one by one (Welford 1962, 10.1080/00401706.1962.10490022)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, values: torch.Tensor) -> None:
        """Take in one more tensor (float32); it isn't kept."""
        self.count += 1
        if self.count == 1:
            self.mean, self._squares = values.clone(), torch.zeros_like(values)
            return
        difference = values - self.mean
        self.mean.add_(difference, alpha=1 / self.count)
        # The difference from the new mean is (n - 1) / n of that from the old one.
        self._squares.addcmul_(difference, difference, value=(self.count - 1) / self.count)

    def at(self, channel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (over the count) of one channel (the last axis) a voxel; `channel` (...) says which."""
        index = channel[..., None].long()
        return self.mean.gather(-1, index)[..., 0], self._squares.gather(-1, index)[..., 0] / self.count


def split_variance(mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Total, aleatoric and epistemic variance by the mean and the variance of the samples' probabilities."""
    total = mean * (1 - mean)
    # By the law of total variance, which needs no third sum; rounding alone could take it below 0.
    return total, (total - variance).clamp_(min=0), variance


class CaseUncertainty:
    """Scores of a case, to which slabs are added in any order."""

    def __init__(self, classes: Mapping[int, str], outputs: str, voxel_ml: float) -> None:
        """`classes` are numbers 1, 2, 3 ... and names; `outputs` is softmax (channel 0 is background) or sigmoid."""
        self.classes = dict(sorted(classes.items()))
        self.outputs = outputs
        self.voxel_ml = voxel_ml
        self._length = len(self.classes) + 1
        self._voxels: torch.Tensor | None = None
        """Voxels of label by sample, (samples, labels)."""
        self._common: dict[tuple[int, int], torch.Tensor] = {}
        self._found = np.zeros(self._length)
        """By label, voxels where any sample has it, and the sum of the label's epistemic variance there."""
        self._epistemic = np.zeros(self._length)

    @torch.no_grad()
    def add(self, samples: Iterable[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add a slab: its samples' probabilities (planes, y, x, channels; float32), one at a time.

        Returns the slab's maps (planes, y, x; float32): mean probability, total, aleatoric and epistemic variance of
        the voxel's likeliest class that isn't the background, so that the three add up in every voxel.
        """
        moments, labels = Moments(), []
        for values in samples:
            moments.add(values)
            labels.append(label_of(values, self.outputs))
        if moments.count < 2:
            raise ValueError("uncertainty needs two samples at least")
        self._count(torch.stack(labels))
        self._add_epistemic(moments, labels)
        likeliest = moments.mean[..., self._first :].argmax(dim=-1) + self._first
        mean, variance = moments.at(likeliest)
        return dict(zip(MAPS, (mean, *split_variance(mean, variance)), strict=True))

    @property
    def _first(self) -> int:
        """The channel of class 1."""
        return 1 if self.outputs == "softmax" else 0

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
            anywhere = self._found[number]
            found[name] = ClassUncertainty(
                volume_ml=mean[number],
                volume_sd_ml=sd[number],
                volume_cv=sd[number] / mean[number] if mean[number] else math.nan,
                pairwise_dice=math.fsum(pairs) / len(pairs) if pairs else math.nan,
                epistemic=float(self._epistemic[number] / anywhere) if anywhere else math.nan,
            )
        return found

    def _count(self, labels: torch.Tensor) -> None:
        """Count voxels of labels (samples, planes, y, x; uint8), and those that two samples have in common."""
        flat = labels.flatten(1)
        flat = flat[:, (flat > 0).any(dim=0)]
        voxels = torch.stack([torch.bincount(row, minlength=self._length) for row in flat]).cpu()
        self._voxels = voxels if self._voxels is None else self._voxels + voxels
        for first, second in combinations(range(len(flat)), 2):
            both = flat[first][flat[first] == flat[second]]
            common = torch.bincount(both, minlength=self._length).cpu()
            self._common[first, second] = self._common.get((first, second), 0) + common

    def _add_epistemic(self, moments: Moments, labels: list[torch.Tensor]) -> None:
        """Add the variance of each label where any sample has it, once a voxel."""
        parts = []
        for number, label in enumerate(labels):
            new = label > 0
            for earlier in labels[:number]:
                new &= label != earlier
            _, variance = moments.at((label.int() - 1 + self._first).clamp_(min=0))
            parts.append([tensor.cpu().numpy() for tensor in (label, new, variance)])
        # Plane by plane, so that the order of the sum doesn't depend on the height of a slab.
        for plane in range(labels[0].shape[0]):
            for label, new, variance in ([array[plane] for array in part] for part in parts):
                self._found += np.bincount(label[new], minlength=self._length)
                self._epistemic += np.bincount(label[new], variance[new], self._length)


def label_of(values: torch.Tensor, outputs: str) -> torch.Tensor:
    """The labels (uint8) that probabilities (..., channels) stand for."""
    largest, label = values.max(dim=-1)
    if outputs == "softmax":
        return label.to(torch.uint8)
    return torch.where(largest > 0.5, label + 1, 0).to(torch.uint8)


def passes(dropout: Sequence[bool], samples: int) -> list[tuple[int, int | None]]:
    """Which member with which seed gives each sample, by whether the members have dropout.

    With `samples` of 1 each member counts once, without dropout; with more, one with dropout that often. No two samples
    have the same seed: members that drop the same maps would agree better than independent draws do.
    """
    return [
        (member, seed)
        for member, has in enumerate(dropout)
        for seed in (range(member * samples, (member + 1) * samples) if has and samples > 1 else (None,))
    ]


def assess(
    predictor: Predictor,
    array: np.ndarray,
    spacing: tuple[float, float, float],
    samples: int,
    with_maps: bool = False,
) -> tuple[dict[str, ClassUncertainty], dict[str, np.ndarray]]:
    """Scores of a scan (z, y, x; HU, LPS axes; `spacing` x, y, z in mm) and, if wanted, `MAPS` (uint16) on its grid.

    The samples are seen without mirror images, on the net's grid, and the scores are of that grid. They go through the
    nets side by side: of each as much is held as of one prediction, so that nets of volumes take a row of windows of
    memory a sample. Raises CohortError for fewer than two samples, and for nets of different spacings.
    """
    chosen = passes([member.description.architecture.dropout > 0 for member in predictor.members], samples)
    if len(chosen) < 2:
        raise CohortError(
            "segment.uncertainty needs two samples at least: several models, or one with dropout and more samples"
        )
    scans = predictor.scans(array, spacing)
    grids = {member.grid(array.shape, spacing) for member in predictor.members}
    if len(grids) > 1:
        raise CohortError("segment.uncertainty needs models of one spacing; these work on different grids")
    (grid,) = grids
    voxel_ml = math.prod(length for _, length in grid) / 1000
    case = CaseUncertainty(predictor.classes, predictor.outputs, voxel_ml)
    streams = [_planes(predictor.probabilities(scans[member], member, seed, mirror=False)) for member, seed in chosen]

    def maps() -> Iterator[Slab]:
        for plane in range(len(scans[0].image)):
            found = case.add(next(stream) for stream in streams)
            yield plane, torch.stack([found[name] for name in MAPS], dim=-1)

    stream = maps()
    volumes: dict[str, np.ndarray] = {}
    if with_maps:
        volumes = {name: np.empty(array.shape, np.uint16) for name in MAPS}
        for first, slab in predictor.to_own_grid(scans[0], stream):
            for (name, step), values in zip(MAPS.items(), slab, strict=True):
                volumes[name][first : first + values.shape[0]] = np.rint(np.clip(values / step, 0, 65535))
    # All planes count for the scores, also where nobody asks for their maps.
    for _ in stream:
        pass
    return case.scores(), volumes


def _planes(slabs: Iterable[Slab]) -> Iterator[torch.Tensor]:
    """Slabs one plane (1, y, x, channels) at a time: those of two samples may differ in height."""
    for _, slab in slabs:
        yield from slab.split(1)
