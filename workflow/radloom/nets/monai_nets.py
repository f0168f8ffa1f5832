"""Nets of MONAI (https://monai.io) as an architecture; MONAI is imported only where one is asked for."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from radloom.nets.flops import on_meta
from radloom.nets.net import Net

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture

PREFIX = "monai:"
GIVEN = ("spatial_dims", "in_channels", "out_channels")
"""Arguments that follow from the model, and aren't options."""
MULTIPLE = 32
"""What lengths are multiples of unless the options say otherwise: five halvings, more than most nets have."""


class MonaiNet(Net):
    """`monai:NAME`: the class NAME of `monai.networks.nets`, which gets the options as arguments.

    `spatial_dims`, `in_channels` and `out_channels` are filled in. The option `multiple` (a number, not MONAI's) says
    what lengths must be multiples of: 32 unless given, and `img_size` for a net that has one. Raises ValueError
    where MONAI isn't installed, for a name or arguments that it refuses, for one that would fetch weights, and for a
    net that doesn't return one tensor of logits on the image's grid, as those with deep supervision.
    """

    FIELDS = ()

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        name, dimensions = architecture.kind.removeprefix(PREFIX), architecture.dimensions
        options = dict(architecture.options)
        self.multiple = _multiple(options, dimensions)
        # A net with an image size takes this size alone; others must also pass one above the smallest.
        size = tuple((1 if "img_size" in options else 2) * length for length in self.multiple)
        given = dict(zip(GIVEN, (dimensions, architecture.inputs, outputs), strict=True))
        chosen = _class(name)
        try:
            self.net: nn.Module = chosen(**given, **options)
        except Exception as error:  # whatever a class makes of wrong arguments
            raise ValueError(f"MONAI's {name} can't be built: {_first_line(error)}") from None
        self._try(name, (2, architecture.inputs, *size), (2, outputs, *size))

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that isn't described by its options alone."""
        cls.check_fields(architecture)
        for key, value in architecture.options.items():
            if key in GIVEN:
                raise ValueError(f"{key} of a net of MONAI follows from the model and is no option")
            if "pretrained" in key and value:
                raise ValueError(f"{key}: weights come from a model folder, never from elsewhere")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the images. Raises ValueError for a size that isn't a multiple of `multiple`."""
        self.check_size(images)
        logits = self.net(images)
        # Some nets return a list, of one element without deep supervision.
        return logits[0] if isinstance(logits, list | tuple) and len(logits) == 1 else logits

    def _try(self, name: str, images: tuple[int, ...], expected: tuple[int, ...]) -> None:
        """Raise ValueError where the net doesn't make logits of the shape `expected` of `images`, in either mode."""
        for training in (False, True):
            self.train(training)
            try:
                logits = on_meta(self, images)
            except Exception as error:  # whatever a net makes of a size that it can't take
                raise ValueError(f"MONAI's {name} fails on images of {images[2:]}: {_first_line(error)}") from None
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            if found != expected:
                raise ValueError(
                    f"MONAI's {name} makes {found} of images {images}, not logits {expected}; it must be a net for "
                    "segmentation, without deep supervision"
                )


def _class(name: str) -> Any:
    """The class `name` of monai.networks.nets."""
    try:
        from monai.networks import nets
    except ImportError:
        raise ValueError(
            f"the architecture monai:{name} needs MONAI, which isn't installed; "
            "run pip install -e '.[monai]' in Radloom's folder"
        ) from None
    found = getattr(nets, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ValueError(f"monai.networks.nets has no net {name!r}")
    return found


def _multiple(options: dict[str, Any], dimensions: int) -> tuple[int, ...]:
    """What lengths must be multiples of, from the options, out of which it is taken."""
    wanted = options.pop("multiple", options.get("img_size", MULTIPLE))
    lengths = tuple(wanted) if isinstance(wanted, list | tuple) else (wanted,) * dimensions
    if len(lengths) != dimensions or any(type(n) is not int or not 1 <= n <= 1024 for n in lengths):
        raise ValueError(f"multiple and img_size are numbers from 1 to 1024, one an axis, not {wanted!r}")
    return lengths


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
