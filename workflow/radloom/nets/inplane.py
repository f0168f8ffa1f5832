"""Between the pixel grid of an image's slices and the one that a net works at.

Both grids have the same middle. Axes are independent, so that a slice is resampled by two matrix products.
"""

from __future__ import annotations

import math

import torch


def pixels(count: int, spacing: float, target: float) -> int:
    """How many pixels of `target` mm it takes to cover `count` pixels of `spacing` mm."""
    return max(1, math.ceil(count * spacing / target - 1e-6))


def linear_matrix(count_in: int, spacing_in: float, count_out: int, spacing_out: float) -> torch.Tensor:
    """Matrix (count_out, count_in), float32, that interpolates linearly along one axis; spacings in mm.

    Where the output is coarser, the triangle of the linear interpolation is widened to the output's spacing,
    so that fine noise is averaged instead of aliased. Beyond the outermost pixels their value goes on.
    """
    position_in = (torch.arange(count_in, dtype=torch.float64) - (count_in - 1) / 2) * spacing_in
    position_out = (torch.arange(count_out, dtype=torch.float64) - (count_out - 1) / 2) * spacing_out
    # An output pixel never lies outside the input by more than what the clamp mends.
    position_out = position_out.clamp(position_in[0], position_in[-1])
    distance = (position_out[:, None] - position_in[None, :]).abs()
    weight = (1 - distance / max(spacing_in, spacing_out)).clamp(min=0)
    weight[weight < 1e-9] = 0  # rounding of the positions; without it the same spacing would not be the identity
    return (weight / weight.sum(dim=1, keepdim=True)).float()


def to_input(
    hu: torch.Tensor, window: tuple[float, float], normalisation: tuple[float, float] | None = None
) -> torch.Tensor:
    """HU, cut off at the window, to what a net takes: 0 .. 1, or standard scores of (mean, standard deviation)."""
    if normalisation is None:
        return to_window(hu, window)
    return (hu.clamp(*window) - normalisation[0]) / normalisation[1]


def to_window(hu: torch.Tensor, window: tuple[float, float]) -> torch.Tensor:
    """HU to 0 .. 1 within the window, cut off beyond it."""
    return ((hu - window[0]) / (window[1] - window[0])).clamp(0, 1)
