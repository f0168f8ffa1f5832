"""UNet++: a U-Net whose skips are filled with convolutions (Zhou et al., DLMIA 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import nn

from radloom.nets.blocks import CONVOLUTION, TRANSPOSED
from radloom.nets.net import Net
from radloom.nets.unet import level_block, level_strides

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture


class UNetPlusPlus(Net):
    """Nodes X^{i,j} at level i = 0 (full resolution) .. L and step j = 0 .. L - i, each a double convolution.

    X^{i,0} is the way down, halved as in `UNet`. X^{i,j} takes the level's nodes before it, X^{i,0} .. X^{i,j-1}, and
    X^{i+1,j-1} enlarged by a transposed convolution. With deep supervision every X^{0,j}, j >= 1, gives logits at full
    resolution, in training as a list from j = L down to 1; else X^{0,L} alone does. Option `pruned_to`: the j that
    gives the logits in prediction, for which only the nodes are computed that it needs; it takes deep supervision.
    """

    OPTIONS = ("strides", "pruned_to")

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        dimensions, channels = architecture.dimensions, architecture.channels
        self.pooled = dimensions == 2
        self.strides = level_strides(architecture)
        self.multiple = tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))
        self.deep_supervision = architecture.deep_supervision
        self.deepest = len(channels) - 1
        self.pruned_to: int = architecture.options.get("pruned_to", self.deepest)
        self.nodes = nn.ModuleDict()
        self.up = nn.ModuleDict()
        for step in range(len(channels)):
            for level in range(len(channels) - step):
                if step == 0:
                    channels_in = channels[level - 1] if level else architecture.inputs
                else:
                    channels_in = (step + 1) * channels[level]
                    stride = self.strides[level]
                    self.up[f"{level}_{step}"] = TRANSPOSED[dimensions](
                        channels[level + 1], channels[level], stride, stride=stride
                    )
                self.nodes[f"{level}_{step}"] = level_block(
                    architecture,
                    level,
                    channels_in,
                    1 if self.pooled or step or not level else self.strides[level - 1],
                )
        self.heads = nn.ModuleDict(
            {
                f"0_{step}": CONVOLUTION[dimensions](channels[0], outputs, 1)
                for step in range(1 if self.deep_supervision else self.deepest, self.deepest + 1)
            }
        )

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that a UNet++ can't have."""
        super().check(architecture)
        level_strides(architecture)
        deepest = len(architecture.channels) - 1
        if deepest < 1:
            raise ValueError("a UNet++ has at least 2 levels")
        pruned_to = architecture.options.get("pruned_to", deepest)
        if type(pruned_to) is not int or not 1 <= pruned_to <= deepest:
            raise ValueError(f"pruned_to is a whole number from 1 to {deepest}, not {pruned_to!r}")
        if pruned_to != deepest and not architecture.deep_supervision:
            raise ValueError("pruned_to takes a UNet++ with deep_supervision, else only the last node gives logits")

    def logit_layers(self) -> Iterator[nn.Module]:
        """The convolutions to the logits of each step."""
        yield from self.heads.values()

    def forward(self, images: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Logits of the images. Raises ValueError for a size that isn't a multiple of `multiple`."""
        self.check_size(images)
        deepest = self.deepest if self.training else self.pruned_to
        maps: dict[tuple[int, int], torch.Tensor] = {}
        for level in range(deepest + 1):
            above = maps[level - 1, 0] if level else images
            if level and self.pooled:
                above = nn.functional.max_pool2d(above, self.strides[level - 1])
            maps[level, 0] = self.nodes[f"{level}_0"](above)
        for step in range(1, deepest + 1):
            for level in range(deepest + 1 - step):
                enlarged = self.up[f"{level}_{step}"](maps[level + 1, step - 1])
                together = torch.cat([*(maps[level, before] for before in range(step)), enlarged], dim=1)
                maps[level, step] = self.nodes[f"{level}_{step}"](together)
        if self.training and self.deep_supervision:
            return [self.heads[f"0_{step}"](maps[0, step]) for step in range(deepest, 0, -1)]
        return self.heads[f"0_{deepest}"](maps[0, deepest])
