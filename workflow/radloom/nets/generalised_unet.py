"""The generalised U-Net of DeepVoxNet (Robben et al., report KUL/ESAT/PSI/1801, 2018), for weights trained with it.

What trained weights mean hangs on details in which it differs from the other nets: a convolution comes after its
normalisation and activation, kernels may be flat along an axis, upsampling interpolates between voxels and so makes
each level's border narrower, and maps are normalised over the whole window. Windows therefore have at least one size,
`field`, and an input that is smaller lies in the middle of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from radloom.nets.net import Net

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture

EPSILON = 1e-7  # Keras' K.epsilon()
SLOPE = 0.01


@dataclass(frozen=True)
class Structure:
    """What `Architecture.options` says of a generalised U-Net. Raises ValueError for one that can't be built.

    The first four hold an entry a level, from full resolution down, with an item a convolution; the deepest level has
    none on the way up. Kernels and `field` are (z, y, x).
    """

    down: tuple[tuple[int, ...], ...]
    """Feature maps on the way down."""
    down_kernels: tuple[tuple[tuple[int, int, int], ...], ...]
    up: tuple[tuple[int, ...], ...]
    """Feature maps on the way up."""
    up_kernels: tuple[tuple[tuple[int, int, int], ...], ...]
    pool: int
    """Voxels along an axis of which the next level makes one; odd, so that the voxels' centres coincide."""
    field: tuple[int, int, int]
    """Smallest grid that logits are computed on."""

    def __post_init__(self) -> None:
        if len(self.down) < 2 or not len(self.down) == len(self.down_kernels) == len(self.up_kernels) == len(self.up):
            raise ValueError("the levels of a generalised U-Net must be as many on both ways, and two at least")
        for maps, kernels in zip((*self.down, *self.up), (*self.down_kernels, *self.up_kernels), strict=True):
            if len(maps) != len(kernels) or any(number < 1 for number in maps):
                raise ValueError("each convolution of a generalised U-Net needs a positive number of maps and a kernel")
            if any(len(kernel) != 3 or any(k < 1 or k % 2 == 0 for k in kernel) for kernel in kernels):
                raise ValueError("the kernels of a generalised U-Net are three odd numbers each")
        if not all(self.down) or not all(self.up[:-1]) or self.up[-1]:
            raise ValueError("each level of a generalised U-Net has convolutions on both ways, the deepest only down")
        if self.pool < 3 or self.pool % 2 == 0 or len(self.field) != 3 or min(self.field) < 1:
            raise ValueError(
                "a generalised U-Net pools by an odd number from 3 on, and its field is three positive ones"
            )

    @property
    def factor(self) -> int:
        """Voxels along an axis of which the deepest level has one."""
        return int(self.pool ** (len(self.down) - 1))

    def length_in(self, wanted: int) -> int:
        """Shortest length of an input with logits for `wanted` voxels; (factor - 1) / 2 at each end get none."""
        return self.factor * (1 + -(-(wanted - 1) // self.factor))


def read_structure(options: Mapping[str, Any]) -> Structure:
    """The structure in `Architecture.options`. Raises ValueError for an unknown, missing or unfit key."""

    def frozen(value: Any) -> Any:
        return tuple(frozen(item) for item in value) if isinstance(value, list | tuple) else value

    try:
        return Structure(**{key: frozen(value) for key, value in options.items()})
    except TypeError as error:
        raise ValueError(f"the options of the generalised U-Net are not right: {error}") from None


class GeneralisedUNet(Net):
    """Windows (batch, 1, z, y, x) of any size to logits (batch, outputs, z, y, x) on the same grid.

    What lies outside of a window is taken as 0, and a voxel's logits depend on where the window ends.
    """

    DIMENSIONS = (3,)
    FIELDS = ("channels", "norm")  # these only tell a reader; the options are what counts
    OPTIONS = tuple(field.name for field in fields(Structure))

    multiple = (1, 1, 1)

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        self.structure = structure = read_structure(architecture.options)
        maps = 1
        self.down = nn.ModuleList()
        for features, kernels in zip(structure.down, structure.down_kernels, strict=True):
            self.down.append(_convolutions(maps, features, kernels))
            maps = features[-1]
        self.up = nn.ModuleList()
        for level in reversed(range(len(structure.up) - 1)):
            features = structure.up[level]
            self.up.append(_convolutions(structure.down[level][-1] + maps, features, structure.up_kernels[level]))
            maps = features[-1]
        self.last = nn.Conv3d(maps, outputs, 1)

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture whose options describe no generalised U-Net."""
        super().check(architecture)
        read_structure(architecture.options)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of the windows, on the same grid."""
        border = (self.structure.factor - 1) // 2
        padding: list[int] = []
        for wanted, least in zip(windows.shape[2:], self.structure.field, strict=True):
            length = self.structure.length_in(max(wanted, least))
            before = (length - wanted) // 2
            padding = [before, length - wanted - before, *padding]
        x, y, z = (before - border for before in padding[::2])
        nz, ny, nx = windows.shape[2:]
        return self.logits_inside(nn.functional.pad(windows, padding))[:, :, z : z + nz, y : y + ny, x : x + nx]

    def logits_inside(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of windows, multiples of `Structure.factor`, without the (factor - 1) / 2 voxels at each end."""
        maps = windows
        skipped = []
        for level, convolutions in enumerate(self.down):
            if level:
                maps = nn.functional.max_pool3d(maps, self.structure.pool)
            for number, convolution in enumerate(convolutions.children()):
                # The image itself is not normalised again.
                maps = convolution(_activated(maps) if level or number else maps)
            skipped.append(maps)
        skipped.pop()
        for convolutions in self.up:
            size = [self.structure.pool * (length - 1) + 1 for length in maps.shape[2:]]
            maps = nn.functional.interpolate(maps, size=size, mode="trilinear", align_corners=True)
            maps = torch.cat([_middle(skipped.pop(), size), maps], dim=1)
            for convolution in convolutions.children():
                maps = convolution(_activated(maps))
        logits: torch.Tensor = self.last(_activated(maps))
        return logits

    def convolutions(self) -> Iterator[Any]:
        """All convolutions in the order in which they are computed."""
        for way in (self.down, self.up):
            for level in way:
                yield from level.children()
        yield self.last


def _convolutions(maps: int, features: Sequence[int], kernels: Sequence[tuple[int, int, int]]) -> nn.ModuleList:
    layers = nn.ModuleList()
    for number, kernel in zip(features, kernels, strict=True):
        layers.append(nn.Conv3d(maps, number, kernel, padding=tuple(k // 2 for k in kernel)))  # type: ignore[arg-type]
        maps = number
    return layers


def _activated(maps: torch.Tensor) -> torch.Tensor:
    """Standard scores over the voxels of each map, with epsilon added to the deviation, and a leaky rectifier."""
    deviation, mean = torch.std_mean(maps, dim=(2, 3, 4), correction=0, keepdim=True)
    return nn.functional.leaky_relu_((maps - mean).div_(deviation + EPSILON), SLOPE)


def _middle(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle (z, y, x) of maps (batch, maps, z, y, x)."""
    z, y, x = ((have - want) // 2 for have, want in zip(maps.shape[2:], size, strict=True))
    return maps[:, :, z : z + size[0], y : y + size[1], x : x + size[2]]
