"""A two-dimensional U-Net (Ronneberger, Fischer, Brox, MICCAI 2015) with batch normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


def _double_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for first, last in ((channels_in, channels_out), (channels_out, channels_out)):
        # No bias: the batch normalisation that follows has one.
        layers += [nn.Conv2d(first, last, 3, padding=1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet2D(nn.Module):
    """Slices (batch, 1, y, x) to logits (batch, classes, y, x); y and x are multiples of `UNet2D.multiple`.

    `channels` are the feature maps of the levels from full resolution down. A level halves the resolution by 2 x 2
    maximum pooling; on the way up a transposed convolution doubles it, and the level's own maps are concatenated.
    """

    def __init__(self, classes: int, channels: Sequence[int]) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"a segmentation needs at least 2 classes with the background, not {classes}")
        if not channels or min(channels) < 1:
            raise ValueError(f"the channels of the levels must be positive numbers, not {list(channels)}")
        levels = list(pairwise(channels))
        self.multiple = 2 ** len(levels)
        self.first = _double_convolution(1, channels[0])
        self.down = nn.ModuleList(_double_convolution(above, below) for above, below in levels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, above, 2, stride=2) for above, below in reversed(levels))
        self.merge = nn.ModuleList(_double_convolution(2 * above, above) for above, _ in reversed(levels))
        self.last = nn.Conv2d(channels[0], classes, 1)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Logits of the slices, on the same grid. Raises ValueError for a size that the levels can't halve."""
        if slices.shape[-1] % self.multiple or slices.shape[-2] % self.multiple:
            raise ValueError(f"slices of {tuple(slices.shape[-2:])} are not multiples of {self.multiple}")
        maps = self.first(slices)
        skipped = []
        for down in self.down:
            skipped.append(maps)
            maps = down(nn.functional.max_pool2d(maps, 2))
        for up, merge in zip(self.up, self.merge, strict=True):
            maps = merge(torch.cat([skipped.pop(), up(maps)], dim=1))
        return self.last(maps)
