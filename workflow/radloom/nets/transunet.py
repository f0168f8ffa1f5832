"""A hybrid of convolutions and self-attention, like TransUNet (Chen et al., arXiv 2102.04306, 2021)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from radloom.nets.blocks import normalisation
from radloom.nets.dropout import ChannelDropout
from radloom.nets.inplane import linear_matrix
from radloom.nets.unet import UNet

if TYPE_CHECKING:
    from radloom.nets.architecture import Architecture

DEFAULTS: dict[str, Any] = {"width": 512, "heads": 8, "layers": 6, "mlp": 4, "grid": (16, 16)}


class TransUNet(UNet):
    """A 2D U-Net whose lowest level (with 5 levels 1/16 of the resolution) passes a transformer before the way up.

    Options, all whole numbers: `width` of the tokens (512), `heads` of the attention (8), `layers` (6), `mlp`: width of
    a layer's hidden part in widths (4), `grid`: (y, x) positions that an embedding is learnt for ([16, 16], that is
    slices of 256 x 256); for others it is interpolated.
    """

    DIMENSIONS = (2,)
    OPTIONS = tuple(DEFAULTS)

    def __init__(self, architecture: Architecture, outputs: int) -> None:
        super().__init__(architecture, outputs)
        options = DEFAULTS | architecture.options
        self.bottom = Transformer(
            architecture.channels[-1],
            options["width"],
            options["heads"],
            options["layers"],
            options["mlp"],
            tuple(options["grid"]),
            architecture.norm,
            architecture.dropout,
        )

    @classmethod
    def check(cls, architecture: Architecture) -> None:
        """Raise ValueError for an architecture that a TransUNet can't have."""
        super().check(architecture)
        options = DEFAULTS | architecture.options
        for key in ("width", "heads", "layers", "mlp"):
            if type(options[key]) is not int or not 1 <= options[key] <= 4096:
                raise ValueError(f"{key} is a whole number from 1 to 4096, not {options[key]!r}")
        if options["width"] % options["heads"]:
            raise ValueError(f"the width {options['width']} is no multiple of the {options['heads']} heads")
        grid = options["grid"]
        if (
            not isinstance(grid, list | tuple)
            or len(grid) != 2
            or any(type(n) is not int or not 1 <= n <= 1024 for n in grid)
        ):
            raise ValueError(f"grid is two whole numbers (y, x) from 1 to 1024, not {grid!r}")


class Transformer(nn.Module):
    """Feature maps (batch, channels, y, x) as one token a pixel through layers of self-attention, and back."""

    def __init__(
        self,
        channels: int,
        width: int,
        heads: int,
        layers: int,
        mlp: int,
        grid: tuple[int, ...],
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, 1)
        self.position = nn.Parameter(0.02 * torch.randn(width, *grid))
        self.layers = nn.Sequential(*(TransformerLayer(width, heads, mlp) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.back = nn.Sequential(
            nn.Conv2d(width, channels, 3, padding=1, bias=norm == "none"),
            normalisation(norm, 2, channels),
            nn.ReLU(inplace=True),
        )
        self.dropout = ChannelDropout(dropout) if dropout > 0 else nn.Identity()

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Feature maps of the same shape."""
        y, x = maps.shape[-2:]
        tokens = (self.embed(maps) + interpolated(self.position, y, x)).flatten(2).transpose(1, 2)
        tokens = self.norm(self.layers(tokens))
        return self.dropout(self.back(tokens.transpose(1, 2).unflatten(2, (y, x))))


class TransformerLayer(nn.Module):
    """Attention and a hidden layer on tokens (batch, tokens, width), normalised before each (Xiong et al., 2020)."""

    def __init__(self, width: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, mlp * width), nn.GELU(), nn.Linear(mlp * width, width)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens of the same shape."""
        tokens = tokens + self.attention(self.norm(tokens))
        return tokens + self.mlp(tokens)


class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d_k)) V in each of `heads` parts of the width (Vaswani et al., NeurIPS 2017)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (batch, tokens, width) of the same shape."""
        parts = self.qkv(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # (batch, heads, tokens, width / heads); without a mask torch scales by 1 / sqrt(width / heads).
        together = nn.functional.scaled_dot_product_attention(parts[0], parts[1], parts[2])
        return self.out(together.transpose(1, 2).flatten(2))


def interpolated(position: torch.Tensor, y: int, x: int) -> torch.Tensor:
    """A position embedding (width, y, x) brought linearly to another grid that covers the same field.

    By matrix products, since the gradient of torch's interpolation differs from run to run on CUDA.
    """
    grid_y, grid_x = position.shape[-2:]
    if (y, x) == (grid_y, grid_x):
        return position
    to_y = linear_matrix(grid_y, 1 / grid_y, y, 1 / y).to(position)
    to_x = linear_matrix(grid_x, 1 / grid_x, x, 1 / x).to(position)
    return to_y @ position @ to_x.T
