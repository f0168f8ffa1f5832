"""The pieces that nets are made of, for 2 dimensions (slices) and 3 (volumes)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from radloom.nets.dropout import ChannelDropout

CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
INSTANCE = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}

GROUPS = 8
"""Groups of a group normalisation; the greatest common divisor with the channels where these are no multiple."""


def effective_kernel(kernel: int, rate: int) -> int:
    """Voxels that a kernel of `kernel` taps spans where they lie `rate` voxels apart: k + (k - 1)(r - 1)."""
    return kernel + (kernel - 1) * (rate - 1)


def normalisation(norm: str, dimensions: int, channels: int) -> nn.Module:
    """The layer that `Architecture.norm` names: batch, instance, group or none; all with learnt scale and offset."""
    if norm == "batch":
        return BATCH[dimensions](channels)
    if norm == "instance":
        return INSTANCE[dimensions](channels, affine=True)
    if norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm is batch, instance, group or none, not {norm!r}")


def double_convolution(
    channels_in: int,
    channels_out: int,
    *,
    dimensions: int = 2,
    norm: str = "batch",
    residual: bool = False,
    rate: int = 1,
    dropout: float = 0.0,
    stride: int | tuple[int, ...] = 1,
) -> nn.Module:
    """Twice a convolution of 3 voxels a side, normalisation and ReLU; then dropout of channels.

    The convolutions' taps lie `rate` voxels apart; the first one moves by `stride`. With `residual` the block's input,
    brought to its shape by a convolution of 1 voxel where needed, is added before the last ReLU.
    """
    if residual:
        return ResidualConvolution(channels_in, channels_out, dimensions, norm, rate, dropout, stride)
    layers = _two_convolutions(channels_in, channels_out, dimensions, norm, rate, stride)
    layers.append(nn.ReLU(inplace=True))
    if dropout > 0:
        layers.append(ChannelDropout(dropout))
    return nn.Sequential(*layers)


class ResidualConvolution(nn.Module):
    """A double convolution with a shortcut around it (He et al., CVPR 2016)."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        dimensions: int,
        norm: str,
        rate: int,
        dropout: float,
        stride: int | tuple[int, ...],
    ) -> None:
        super().__init__()
        self.body = nn.Sequential(*_two_convolutions(channels_in, channels_out, dimensions, norm, rate, stride))
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out or stride != 1:
            self.shortcut = nn.Sequential(
                CONVOLUTION[dimensions](channels_in, channels_out, 1, stride=stride, bias=norm == "none"),
                normalisation(norm, dimensions, channels_out),
            )
        self.dropout = ChannelDropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Feature maps (batch, channels_out, [z,] y, x) of those that come in."""
        return self.dropout(nn.functional.relu(self.body(maps) + self.shortcut(maps)))


def _two_convolutions(
    channels_in: int, channels_out: int, dimensions: int, norm: str, rate: int, stride: int | tuple[int, ...]
) -> list[nn.Module]:
    """Convolution, normalisation, ReLU, convolution, normalisation."""
    layers: list[nn.Module] = []
    for first, steps in ((channels_in, stride), (channels_out, 1)):
        layers += [
            # No bias where the normalisation that follows has one.
            CONVOLUTION[dimensions](
                first, channels_out, 3, stride=steps, padding=rate, dilation=rate, bias=norm == "none"
            ),
            normalisation(norm, dimensions, channels_out),
            nn.ReLU(inplace=True),
        ]
    return layers[:-1]
