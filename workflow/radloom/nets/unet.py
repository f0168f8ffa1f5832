"""The U-Net (Ronneberger, Fischer, Brox, MICCAI 2015; in 3 dimensions Cicek et al., MICCAI 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from radloom.nets.blocks import CONVOLUTION, TRANSPOSED, double_convolution
from radloom.nets.net import Net

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture


class UNet(Net):
    """A U-Net for slices (2 dimensions), neighbouring slices as channels (2.5) and volumes (3).

    Each level below the first halves the resolution (option `strides`: by other factors), in 2 dimensions by maximum
    pooling and in 3 by the stride of its first convolution; on the way up a transposed convolution doubles it, and the
    level's own maps are concatenated. Pooling and trilinear interpolation in 3 dimensions would be simpler, but their
    gradients on CUDA differ from run to run. With deep supervision every level of the way up gives logits in
    training, those of the coarser ones on their own grids (Dou et al., Med Image Anal 2017).
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("strides",)

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        dimensions, channels = architecture.dimensions, architecture.channels
        self.pooled = dimensions == 2
        self.strides = level_strides(architecture)
        self.multiple = tuple(math.prod(axis) for axis in zip((1,) * dimensions, *self.strides, strict=True))

        block = partial(level_block, architecture)
        levels = range(len(channels) - 1)
        self.first = block(0, architecture.inputs)
        self.down = nn.ModuleList(
            block(level + 1, channels[level], 1 if self.pooled else self.strides[level]) for level in levels
        )
        self.up = nn.ModuleList(
            TRANSPOSED[dimensions](below, above, stride, stride=stride)
            for (above, below), stride in reversed(list(zip(pairwise(channels), self.strides, strict=True)))
        )
        self.bottom: nn.Module = nn.Identity()
        """What the lowest level's maps pass before the way up."""
        self.merge = nn.ModuleList(block(level, 2 * channels[level]) for level in reversed(levels))
        self.last = CONVOLUTION[dimensions](channels[0], outputs, 1)
        self.deep_supervision = architecture.deep_supervision
        if self.deep_supervision:
            self.heads = nn.ModuleList(CONVOLUTION[dimensions](maps, outputs, 1) for maps in channels[1:-1])

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that a U-Net can't have."""
        super().check(architecture)
        level_strides(architecture)

    def logit_layers(self) -> Iterator[nn.Module]:
        """The convolution to the logits, and those of the deep supervision."""
        yield self.last
        if self.deep_supervision:
            yield from self.heads

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of the images. Raises ValueError for a size that isn't a multiple of `multiple`."""
        self.check_size(images)
        maps = self.first(images)
        skipped = []
        for down, stride in zip(self.down, self.strides, strict=True):
            skipped.append(maps)
            maps = down(nn.functional.max_pool2d(maps, stride) if self.pooled else maps)
        maps = self.bottom(maps)
        levels: list[torch.Tensor] = []
        for up, merge in zip(self.up, self.merge, strict=True):
            maps = merge(torch.cat([skipped.pop(), up(maps)], dim=1))
            levels.insert(0, maps)
        logits = self.last(maps)
        if not (self.training and self.deep_supervision):
            return logits
        return [logits, *(head(maps) for head, maps in zip(self.heads, levels[1:], strict=True))]


def level_block(
    architecture: Architecture, level: int, channels_in: int, stride: int | tuple[int, ...] = 1
) -> nn.Module:
    """The double convolution of a level, as the architecture has it."""
    return double_convolution(
        channels_in,
        architecture.channels[level],
        dimensions=architecture.dimensions,
        norm=architecture.norm,
        residual=architecture.residual,
        rate=architecture.dilation[level] if architecture.dilation else 1,
        dropout=architecture.dropout,
        stride=stride,
    )


def level_strides(architecture: Architecture) -> list[tuple[int, ...]]:
    """By what each level below the first divides each axis ([z,] y, x): the option `strides`, else 2 everywhere.

    Raises ValueError for strides that don't fit the levels and dimensions.
    """
    steps, dimensions = len(architecture.channels) - 1, architecture.dimensions
    strides = architecture.options.get("strides", [[2] * dimensions] * steps)
    fits = isinstance(strides, list | tuple) and len(strides) == steps
    if not fits or not all(
        isinstance(level, list | tuple)
        and len(level) == dimensions
        and all(type(s) is int and 1 <= s <= 4 for s in level)
        for level in strides
    ):
        raise ValueError(f"strides are {steps} lists of {dimensions} numbers from 1 to 4, not {strides!r}")
    return [tuple(level) for level in strides]
