"""The generalised U-Net of DeepVoxNet (Robben et al., report KUL/ESAT/PSI/1801, 2018), for weights trained with it.

What trained weights mean hangs on details in which it differs from the other nets: a convolution comes after its
normalisation and activation, kernels may be flat along an axis, upsampling interpolates between voxels and so makes
each level's border narrower, and maps are normalised over the whole window. Windows therefore have at least one size,
`field`, and an input that is smaller lies in the middle of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
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
    """Voxels along an axis of which the next level makes one."""
    field: tuple[int, int, int]
    """Smallest grid that logits are computed on."""
    padding: str = "same"
    """`same`: zeros around what a convolution sees, and upsampling that interpolates, for which `pool` is odd: the
    voxels' centres coincide. `valid`: convolutions lose their border, and upsampling repeats voxels."""
    residual: bool = False
    """A shortcut around the convolutions of a level, by a 1 x 1 x 1 convolution where the number of maps changes."""

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
        if self.padding not in ("same", "valid") or not isinstance(self.residual, bool):
            raise ValueError("a generalised U-Net's padding is same or valid, and residual is true or false")
        if self.pool < 2 or (self.padding == "same" and self.pool % 2 == 0):
            raise ValueError("a generalised U-Net pools by 2 or more, and with padding by an odd number")
        if len(self.field) != 3 or min(self.field) < 1:
            raise ValueError("the field of a generalised U-Net is three positive numbers")

    @property
    def factor(self) -> int:
        """Voxels along an axis of which the deepest level has one."""
        return int(self.pool ** (len(self.down) - 1))

    @property
    def border(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) at each end of an input that get no logits."""
        if self.padding == "same":
            return ((self.factor - 1) // 2,) * 3
        return self._lost((self.down_kernels, self.up_kernels))

    def size_in(self, wanted: Sequence[int]) -> list[int]:
        """Smallest size (z, y, x) of an input with logits for `wanted` voxels."""
        if self.padding == "same":
            return [self.factor * (1 + -(-(n - 1) // self.factor)) for n in wanted]
        # What the deepest level has n voxels of gets n factor - 2 lost logits, `lost` on the way up.
        return [
            self.factor * -(-(n + 2 * up) // self.factor) - 2 * up + 2 * border
            for n, up, border in zip(wanted, self._lost((self.up_kernels,)), self.border, strict=True)
        ]

    def _lost(self, ways: Sequence[Sequence[Sequence[tuple[int, int, int]]]]) -> tuple[int, int, int]:
        """Voxels of full resolution (z, y, x) that unpadded convolutions lose at each end."""
        lost = [0, 0, 0]
        for way in ways:
            for level, kernels in enumerate(way):
                for kernel in kernels:
                    lost = [n + k // 2 * self.pool**level for n, k in zip(lost, kernel, strict=True)]
        return lost[0], lost[1], lost[2]


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

    With `valid` padding the outermost `border` voxels of a window are only seen, and get no logits. What lies outside
    of a window is taken as 0, and a voxel's logits depend on where the window ends.
    """

    DIMENSIONS = (3,)
    FIELDS = ("channels", "norm")  # these only tell a reader; the options are what counts
    OPTIONS = tuple(field.name for field in fields(Structure))

    multiple = (1, 1, 1)

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        self.structure = structure = read_structure(architecture.options)
        if structure.padding == "valid":
            self.border = structure.border
        maps = 1
        self.down, self.down_shortcuts = nn.ModuleList(), nn.ModuleList()
        for features, kernels in zip(structure.down, structure.down_kernels, strict=True):
            self.down.append(_convolutions(maps, features, kernels, structure))
            if structure.residual:
                self.down_shortcuts.append(_shortcut(maps, features[-1]))
            maps = features[-1]
        self.up, self.up_shortcuts = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(len(structure.up) - 1)):
            features, kernels = structure.up[level], structure.up_kernels[level]
            maps += structure.down[level][-1]
            self.up.append(_convolutions(maps, features, kernels, structure))
            if structure.residual:
                self.up_shortcuts.append(_shortcut(maps, features[-1]))
            maps = features[-1]
        self.last = nn.Conv3d(maps, outputs, 1)

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture whose options describe no generalised U-Net."""
        super().check(architecture)
        read_structure(architecture.options)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of the windows, on the same grid without the net's `border`."""
        wanted = [length - 2 * border for length, border in zip(windows.shape[2:], self.border, strict=True)]
        if min(wanted) < 1:
            raise ValueError(f"windows of {tuple(windows.shape[2:])} have nothing within the border {self.border}")
        field = [max(n, least) for n, least in zip(wanted, self.structure.field, strict=True)]
        padding: list[int] = []
        for have, length in zip(windows.shape[2:], self.structure.size_in(field), strict=True):
            before = (length - have) // 2
            padding = [before, length - have - before, *padding]
        logits = self.logits_inside(nn.functional.pad(windows, padding))
        z, y, x = (
            before + seen - without
            for before, seen, without in zip(padding[-2::-2], self.border, self.structure.border, strict=True)
        )
        return logits[:, :, z : z + wanted[0], y : y + wanted[1], x : x + wanted[2]]

    def logits_inside(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of windows of a size that `Structure.size_in` gives, without `Structure.border` at each end."""
        maps = windows
        skipped = []
        for level, (convolutions, shortcut) in enumerate(zip_longest(self.down, self.down_shortcuts)):
            if level:
                maps = nn.functional.max_pool3d(maps, self.structure.pool)
            # The image itself is not normalised again.
            maps = _through(maps, convolutions, shortcut, bare=level == 0)
            skipped.append(maps)
        skipped.pop()
        for convolutions, shortcut in zip_longest(self.up, self.up_shortcuts):
            maps = self._enlarged(maps)
            maps = torch.cat([_middle(skipped.pop(), maps.shape[2:]), maps], dim=1)
            maps = _through(maps, convolutions, shortcut)
        logits: torch.Tensor = self.last(_activated(maps))
        return logits

    def _enlarged(self, maps: torch.Tensor) -> torch.Tensor:
        if self.structure.padding == "valid":
            return nn.functional.interpolate(maps, scale_factor=float(self.structure.pool), mode="nearest")
        size = [self.structure.pool * (length - 1) + 1 for length in maps.shape[2:]]
        return nn.functional.interpolate(maps, size=size, mode="trilinear", align_corners=True)

    def convolutions(self) -> Iterator[Any]:
        """All convolutions in the order in which they are computed, a level's shortcut behind its others."""
        for way, shortcuts in ((self.down, self.down_shortcuts), (self.up, self.up_shortcuts)):
            for level, shortcut in zip_longest(way, shortcuts):
                yield from level.children()
                if isinstance(shortcut, nn.Conv3d):
                    yield shortcut
        yield self.last


def _convolutions(
    maps: int, features: Sequence[int], kernels: Sequence[tuple[int, int, int]], structure: Structure
) -> nn.ModuleList:
    layers = nn.ModuleList()
    for number, kernel in zip(features, kernels, strict=True):
        around = [k // 2 for k in kernel] if structure.padding == "same" else [0, 0, 0]
        layers.append(nn.Conv3d(maps, number, kernel, padding=tuple(around)))  # type: ignore[arg-type]
        maps = number
    return layers


def _shortcut(maps: int, made: int) -> nn.Module:
    return nn.Identity() if maps == made else nn.Conv3d(maps, made, 1)


def _through(maps: torch.Tensor, convolutions: Any, shortcut: Any, bare: bool = False) -> torch.Tensor:
    """Maps after a level's convolutions, each behind a normalisation; with `bare` but for the first."""
    seen = maps
    for number, convolution in enumerate(convolutions.children()):
        maps = convolution(maps if bare and number == 0 else _activated(maps))
    if shortcut is not None:
        maps = maps + shortcut(_middle(seen, maps.shape[2:]))
    return maps


def _activated(maps: torch.Tensor) -> torch.Tensor:
    """Standard scores over the voxels of each map, with epsilon added to the deviation, and a leaky rectifier."""
    deviation, mean = torch.std_mean(maps, dim=(2, 3, 4), correction=0, keepdim=True)
    return nn.functional.leaky_relu_((maps - mean).div_(deviation + EPSILON), SLOPE)


def _middle(maps: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle (z, y, x) of maps (batch, maps, z, y, x)."""
    z, y, x = ((have - want) // 2 for have, want in zip(maps.shape[2:], size, strict=True))
    return maps[:, :, z : z + size[0], y : y + size[1], x : x + size[2]]
