"""What a net is built from: a description that fits into a configuration or a `model.json`, and the nets by name.

What every net takes and returns is said at `radloom.nets.net.Net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from radloom.nets.generalised_unet import GeneralisedUNet
from radloom.nets.monai_nets import PREFIX, MonaiNet
from radloom.nets.net import Net
from radloom.nets.transunet import TransUNet
from radloom.nets.unet import UNet
from radloom.nets.unetplusplus import UNetPlusPlus


@dataclass(frozen=True)
class Architecture:
    """A net's structure. Raises ValueError for one that can't be."""

    kind: str = "unet"
    """A key of `NETS`, or `monai:NAME` for a net of MONAI, which gets `options` as its arguments (`MonaiNet`)."""
    dimensions: int = 2
    """2 for slices, 3 for volumes."""
    slices: int = 1
    """Neighbouring slices that are the channels of a 2D net's input, the middle one being predicted (2.5D); odd."""
    channels: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Feature maps of the levels from full resolution down."""
    norm: str = "batch"
    """`batch`, `instance`, `group` or `none`."""
    residual: bool = False
    """A shortcut around each double convolution (He et al., CVPR 2016)."""
    dilation: tuple[int, ...] = ()
    """Rate r of each level's convolutions, whose kernels of k span k + (k - 1)(r - 1) voxels; empty: 1 everywhere."""
    dropout: float = 0.0
    """Share of feature maps that are dropped in training (and by Monte Carlo dropout) after each double convolution."""
    deep_supervision: bool = False
    """Also the coarser levels (UNet++: the shallower nodes) give logits in training."""
    options: dict[str, Any] = field(default_factory=dict)
    """What only this kind of net knows."""

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or (self.kind not in NETS and not self.kind.startswith(PREFIX)):
            raise ValueError(f"the architecture {self.kind!r} is none of {', '.join(NETS)} and no {PREFIX}NAME")
        if not _whole(self.dimensions, 2, 3):
            raise ValueError(f"a net has 2 or 3 dimensions, not {self.dimensions!r}")
        if not _whole(self.slices, 1, 99) or self.slices % 2 == 0 or (self.dimensions == 3 and self.slices != 1):
            raise ValueError(f"slices is an odd number up to 99, and 1 for a net of 3 dimensions, not {self.slices!r}")
        if not isinstance(self.channels, tuple) or not 1 <= len(self.channels) <= 8:
            raise ValueError(f"a net has 1 to 8 levels, each with its channels, not {self.channels!r}")
        if not all(_whole(channels, 1, 4096) for channels in self.channels):
            raise ValueError(f"the channels of the levels must be positive numbers up to 4096, not {self.channels!r}")
        if self.norm not in ("batch", "instance", "group", "none"):
            raise ValueError(f"norm is batch, instance, group or none, not {self.norm!r}")
        for name in ("residual", "deep_supervision"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is true or false, not {getattr(self, name)!r}")
        if not isinstance(self.dilation, tuple) or len(self.dilation) not in (0, len(self.channels)):
            raise ValueError(f"the dilation {self.dilation!r} is not one rate for each level")
        if not all(_whole(rate, 1, 64) for rate in self.dilation):
            raise ValueError(f"the dilation's rates are whole numbers from 1 to 64, not {self.dilation!r}")
        if isinstance(self.dropout, bool) or not isinstance(self.dropout, int | float) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share below 1, not {self.dropout!r}")
        if not isinstance(self.options, dict) or not all(isinstance(key, str) for key in self.options):
            raise ValueError(f"options is a mapping of names to values, not {self.options!r}")
        self.net.check(self)

    @property
    def net(self) -> type[Net]:
        """The class of the net."""
        return NETS.get(self.kind, MonaiNet)

    @property
    def inputs(self) -> int:
        """Channels of the net's input."""
        return self.slices

    def as_json(self) -> dict[str, Any]:
        """The architecture as it stands in `model.json`."""
        return asdict(self)


def read_architecture(section: Mapping[str, Any]) -> Architecture:
    """The architecture that a section of a configuration or of a `model.json` describes.

    Raises ValueError for an unknown key or a value that can't be.
    """
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    try:
        return Architecture(**values)
    except TypeError as error:
        raise ValueError(f"the architecture has a key or a value that is none: {error}") from None


def build_net(architecture: Architecture, outputs: int) -> Net:
    """The net of an architecture with `outputs` channels of logits, its weights drawn from torch's generator.

    Raises ValueError for a net of MONAI that can't be had.
    """
    if outputs < 1:
        raise ValueError(f"a net has at least one output, not {outputs}")
    return architecture.net(architecture, outputs)


def net_to_train(architecture: Architecture, outputs: int) -> Net:
    """As `build_net`. Raises ValueError also for a net whose logits don't lie on the grid of its input."""
    net = build_net(architecture, outputs)
    if any(net.border):
        raise ValueError(
            "a net with unpadded convolutions can predict, but not be trained: its options' padding is valid"
        )
    return net


def _whole(value: object, lowest: int, highest: int) -> bool:
    """Whether a value is a whole number within bounds; true and false are none."""
    return type(value) is int and lowest <= value <= highest


NETS: dict[str, type[Net]] = {
    "unet": UNet,
    "unetplusplus": UNetPlusPlus,
    "transunet": TransUNet,
    "generalised_unet": GeneralisedUNet,
}
