"""Where a net of sigmoid outputs begins: at how often each class occurs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from radloom.nets.dataset import CachedCase
from radloom.nets.net import Net

LEAST = 1e-6


def class_shares(cases: Sequence[CachedCase]) -> torch.Tensor:
    """The share of all voxels of the cases that each class has, without the background; float64."""
    counts = torch.stack([torch.from_numpy(case.counts).double().sum(dim=0) for case in cases]).sum(dim=0)
    return counts[1:] / counts.sum()


def start_at_prior(net: Net, shares: torch.Tensor) -> None:
    """Set the biases of a net's sigmoid logits to the classes' log odds, in place (Lin et al., ICCV 2017, section 4.1).

    With biases near 0 a net begins with half of every class in every voxel, and spends its first epochs on unlearning
    it: with dozens of classes, most of the training.
    """
    for layer in net.logit_layers():
        with torch.no_grad():
            layer.bias.copy_(torch.logit(shares.clamp(min=LEAST, max=1 - LEAST)))  # type: ignore[operator]
