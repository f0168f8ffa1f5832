"""Losses of a segmentation: cross entropy, soft Dice, focal loss, and their weighted sum.

Logits are (batch, channels, [z,] y, x), labels (batch, [z,] y, x) with 0 for background and 1, 2, ... for the classes.
A net with `softmax` outputs has a channel for the background; one with `sigmoid` outputs has a channel a class, and
every channel is a question of its own (multi-label).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional


@dataclass(frozen=True)
class SegmentationLoss:
    """The sum of up to three losses, one value an item of the batch; each part counts as often as its factor says.

    Raises ValueError for a loss of nothing.
    """

    outputs: str = "softmax"
    cross_entropy: float = 1.0
    """Factor of the cross entropy; of binary cross entropies with logits, averaged over the channels, for sigmoid."""
    dice: float = 1.0
    """Factor of 1 - soft Dice, averaged over the classes without the background (Milletari et al., 3DV 2016)."""
    focal: float = 0.0
    """Factor of the focal loss (Lin et al., ICCV 2017)."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss; with 0 it is the cross entropy."""
    dice_epsilon: float = 1.0
    """What is added to numerator and denominator of the soft Dice, in voxels: it decides what an absent class costs."""
    dice_over_batch: bool = True
    """Sums of the soft Dice over the batch, not over each item: steadier where most slices lack most classes."""
    dice_of: str = "all"
    """`all` classes, or only those `present` in the batch (the item): of many classes most are absent from a slice, and
    their part of the mean would drown what the others have to teach. Cross entropy teaches what isn't there."""
    class_weights: tuple[float, ...] = ()
    """Weight a channel of cross entropy and focal loss; empty: 1 everywhere. A voxel's loss is multiplied by it, and
    the mean is over all voxels: the weights are not divided by their sum."""

    def __post_init__(self) -> None:
        if min(self.cross_entropy, self.dice, self.focal) < 0 or self.cross_entropy + self.dice + self.focal <= 0:
            raise ValueError("the loss is a sum of nothing: give cross_entropy, dice or focal a factor above 0")
        if self.dice_epsilon <= 0:
            raise ValueError("dice_epsilon must be above 0, or a class that isn't there would be 0 / 0")
        if self.dice_of not in ("all", "present"):
            raise ValueError(f"dice_of is all or present, not {self.dice_of!r}")
        if self.dice_of == "present" and not self.cross_entropy + self.focal:
            raise ValueError("dice_of present needs cross_entropy or focal: nothing else teaches what isn't there")
        if any(weight < 0 for weight in self.class_weights):
            raise ValueError("class weights must not be negative")

    def __call__(self, logits: torch.Tensor | Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Loss of each item, (batch,) in float32; of several logits (deep supervision) their weighted mean."""
        if isinstance(logits, torch.Tensor):
            return self._of_one(logits, labels)
        weights = deep_supervision_weights(len(logits))
        parts = [self._of_one(one, shrink_labels(labels, one.shape[2:])) for one in logits]
        return torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(dim=0)

    def _of_one(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # In half precision the sums over voxels would overflow, and their small differences be lost.
        logits, labels = logits.float(), labels.long()
        total = logits.new_zeros(len(logits))
        if self.cross_entropy:
            total = total + self.cross_entropy * self._entropy(logits, labels, 0.0)
        if self.focal:
            total = total + self.focal * self._entropy(logits, labels, self.focal_gamma)
        if self.dice:
            total = total + self.dice * self._dice(logits, labels)
        return total

    def _entropy(self, logits: torch.Tensor, labels: torch.Tensor, gamma: float) -> torch.Tensor:
        """Mean over voxels (and channels, for sigmoid) of -(1 - p)^gamma log p, p being that of the truth."""
        weights = logits.new_tensor(self.class_weights) if self.class_weights else None
        if self.outputs == "softmax":
            loss = -logits.log_softmax(dim=1).gather(1, labels[:, None])[:, 0]
            if gamma:
                loss = _focal(loss, gamma)
            if weights is not None:
                loss = loss * weights[labels]
        else:
            truth = class_masks(labels, logits.shape[1])
            loss = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            if gamma:
                loss = _focal(loss, gamma)
            if weights is not None:
                loss = loss * weights.reshape(1, -1, *[1] * (logits.ndim - 2))
        return loss.flatten(1).mean(dim=1)

    def _dice(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.outputs == "softmax":
            probability = logits.softmax(dim=1)[:, 1:]
        else:
            probability = logits.sigmoid()
        truth = class_masks(labels, probability.shape[1])
        voxels = tuple(range(2, logits.ndim))
        overlap = (probability * truth).sum(dim=voxels)
        there = truth.sum(dim=voxels)
        total = probability.sum(dim=voxels) + there
        if self.dice_over_batch:
            overlap, total, there = (part.sum(dim=0, keepdim=True) for part in (overlap, total, there))
        lost = 1 - (2 * overlap + self.dice_epsilon) / (total + self.dice_epsilon)
        counts = (there > 0).float() if self.dice_of == "present" else torch.ones_like(lost)
        # An item without any class costs nothing here.
        return ((lost * counts).sum(dim=1) / counts.sum(dim=1).clamp(min=1)).expand(len(logits))


def _focal(entropy: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma times -log p = `entropy`."""
    # The power's slope at p = 1 is infinite for gamma below 1, and times 0 it would be no number.
    return (1 - torch.exp(-entropy)).clamp(min=1e-12) ** gamma * entropy


def class_masks(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels (batch, [z,] y, x) as masks (batch, classes, [z,] y, x), float32; channel 0 is class 1."""
    numbers = torch.arange(1, classes + 1, device=labels.device).reshape(1, -1, *[1] * (labels.ndim - 1))
    return (labels[:, None] == numbers).float()


def deep_supervision_weights(levels: int) -> list[float]:
    """Weights 1, 1/2, 1/4, ... of the logits from the finest on, divided by their sum."""
    weights = [0.5**level for level in range(levels)]
    return [weight / sum(weights) for weight in weights]


def shrink_labels(labels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Labels (batch, [z,] y, x) on the coarser grid of some logits, the nearest voxel's."""
    if tuple(labels.shape[1:]) == tuple(size):
        return labels
    # Half precision or float32 hold every label up to 255.
    return functional.interpolate(labels[:, None].float(), tuple(size), mode="nearest-exact")[:, 0].long()
