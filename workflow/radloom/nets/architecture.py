"""What a net is built from: a description that fits into a configuration or a `model.json`, and the nets by name.

What every net takes and returns is said at `radloom.nets.net.Net`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from radloom.nets.net import Net
from radloom.nets.unet import UNet


@dataclass(frozen=True)
class Architecture:
    """A net's structure. Raises ValueError for one that can't be."""

    kind: str = "unet"
    """A key of `NETS`, or `monai:NAME` for a net of MONAI, which gets `options` as its arguments."""
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
        if self.kind not in NETS and not self.kind.startswith("monai:"):
            raise ValueError(f"the architecture {self.kind!r} is none of {', '.join(NETS)} and no monai:NAME")
        if self.dimensions not in (2, 3):
            raise ValueError(f"a net has 2 or 3 dimensions, not {self.dimensions}")
        if self.slices < 1 or self.slices % 2 == 0 or (self.dimensions == 3 and self.slices != 1):
            raise ValueError(f"slices is an odd number, and 1 for a net of 3 dimensions, not {self.slices}")
        if not self.channels or min(self.channels) < 1:
            raise ValueError(f"the channels of the levels must be positive numbers, not {list(self.channels)}")
        if self.norm not in ("batch", "instance", "group", "none"):
            raise ValueError(f"norm is batch, instance, group or none, not {self.norm!r}")
        if self.dilation and (len(self.dilation) != len(self.channels) or min(self.dilation) < 1):
            raise ValueError(f"the dilation {list(self.dilation)} is not one positive rate for each level")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a share below 1, not {self.dropout}")
        if self.kind in NETS:
            NETS[self.kind].check(self)

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
    """The net of an architecture with `outputs` channels of logits, its weights drawn from torch's generator."""
    if outputs < 1:
        raise ValueError(f"a net has at least one output, not {outputs}")
    if architecture.kind.startswith("monai:"):
        raise ValueError("nets of MONAI can't be built yet")
    return NETS[architecture.kind](architecture, outputs)


NETS: dict[str, type[Net]] = {"unet": UNet}
