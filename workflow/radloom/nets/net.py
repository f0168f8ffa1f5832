"""What all nets have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture


class Net(nn.Module):
    """A net from images (batch, inputs, [z,] y, x) to logits (batch, outputs, [z,] y, x) on the same grid.

    In training with deep supervision it returns a list of logits, the finest first. Those of a U-Net's coarser levels
    lie on their own, coarser grids; those of a UNet++ all lie on the image's.
    """

    DIMENSIONS: ClassVar[tuple[int, ...]] = (2, 3)
    FIELDS: ClassVar[tuple[str, ...]] = ("channels", "norm", "residual", "dilation", "dropout", "deep_supervision")
    """What of `Architecture` this kind of net is built by, beside its options; the rest must be left as it is."""
    OPTIONS: ClassVar[tuple[str, ...]] = ()
    """Keys of `Architecture.options` that this kind of net knows."""

    multiple: tuple[int, ...]
    """What the length of each spatial axis, in the array's order, must be a multiple of."""
    border: tuple[int, ...] = (0, 0, 0)
    """Voxels at each end of an axis (z, y, x) that a net takes beyond those that it gives logits for."""

    def __init__(self, architecture: Architecture, outputs: int) -> None:  # noqa: ARG002
        super().__init__()

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that this kind of net can't have."""
        if architecture.dimensions not in cls.DIMENSIONS:
            raise ValueError(f"a net of kind {architecture.kind!r} can't have {architecture.dimensions} dimensions")
        unknown = sorted(set(architecture.options) - set(cls.OPTIONS))
        if unknown:
            known = f"only {', '.join(cls.OPTIONS)}" if cls.OPTIONS else "no options"
            raise ValueError(f"a net of kind {architecture.kind!r} has {known}, not {', '.join(unknown)}")
        cls.check_fields(architecture)

    @classmethod
    def check_fields(cls, architecture: Architecture) -> None:
        """Raise ValueError for a value that would do nothing in this kind of net."""
        for field in fields(architecture):
            chosen = getattr(architecture, field.name)
            if field.name in Net.FIELDS and field.name not in cls.FIELDS and chosen != field.default:
                raise ValueError(f"{field.name} does nothing in a net of kind {architecture.kind!r}; see its options")

    def logit_layers(self) -> Iterator[nn.Module]:
        """The 1 x 1 convolutions that give logits; none of a net that doesn't say which they are."""
        yield from ()

    def check_size(self, images: torch.Tensor) -> None:
        """Raise ValueError for images whose axes aren't multiples of `multiple`."""
        size = tuple(images.shape[2:])
        if len(size) != len(self.multiple):
            raise ValueError(f"the net takes images of {len(self.multiple)} spatial axes, not {len(size)}")
        if any(length % multiple for length, multiple in zip(size, self.multiple, strict=True)):
            raise ValueError(f"images of {size} are not multiples of {self.multiple}")
