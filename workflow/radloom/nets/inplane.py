"""Between the grid of an image and the one that a net works at, in training and prediction alike.

Both grids have the same middle. Axes are independent, so that an image is resampled by a matrix product for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

PLANES = 16
"""Planes of an image that are resampled together."""


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


def net_grid(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """Voxels and spacing in mm of the net's grid along z, y and x, for an image (z, y, x; spacing x, y, z in mm).

    `target` is the net's spacing (x, y[, z]); slices stay as they are without a z.
    """
    wanted = [*target, *spacing[len(target) :]][::-1]
    return tuple((pixels(n, s, t), t) for n, s, t in zip(shape, spacing[::-1], wanted, strict=True))


def to_grid(
    shape: Sequence[int], spacing: Sequence[float], grid: Sequence[tuple[int, float]]
) -> list[torch.Tensor | None]:
    """The matrices along z, y and x that bring an image to a grid of `net_grid`; None where nothing changes."""
    return [
        None if n == m and abs(s - t) <= 1e-6 * t else linear_matrix(n, s, m, t)
        for n, s, (m, t) in zip(shape, spacing[::-1], grid, strict=True)
    ]


def from_grid(
    shape: Sequence[int], spacing: Sequence[float], grid: Sequence[tuple[int, float]]
) -> list[torch.Tensor | None]:
    """The matrices along z, y and x that bring what lies on the net's grid back to the image's."""
    return [
        None if n == m and abs(s - t) <= 1e-6 * t else linear_matrix(m, t, n, s)
        for n, s, (m, t) in zip(shape, spacing[::-1], grid, strict=True)
    ]


def on_grid(array: np.ndarray, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """An image (z, y, x) resampled by the matrices of `to_grid`, float32."""
    upright, down, right = matrices
    parts = []
    # A few planes at a time: float32 copies of a whole scan would take gigabytes.
    for start in range(0, len(array), PLANES):
        planes = torch.from_numpy(np.ascontiguousarray(array[start : start + PLANES], dtype=np.float32))
        planes = planes if down is None else down @ planes
        parts.append(planes if right is None else planes @ right.T)
    image = torch.cat(parts)
    return image if upright is None else (upright @ image.flatten(1)).unflatten(1, image.shape[1:])


def to_window(hu: torch.Tensor, window: tuple[float, float]) -> torch.Tensor:
    """HU to 0 .. 1 within the window, cut off beyond it."""
    return ((hu - window[0]) / (window[1] - window[0])).clamp(0, 1)
