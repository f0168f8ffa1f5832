"""Where the windows of a prediction lie, how much each voxel of one counts, and which slices a 2.5D net sees."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

SIGMA_SHARE = 0.125
"""Standard deviation of the Gaussian weight, as a share of the window (nnU-Net; Isensee et al., Nat Methods 2021)."""
LEAST_WEIGHT = 1e-3
"""Weight that no voxel goes below, so that the rim of a window counts where nothing else covers it (as in MONAI)."""


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """First voxels of the windows along an axis of `length` >= `window` voxels, evenly spread from edge to edge.

    As few windows as leave neighbours at least `overlap` of a window in common, up to rounding to whole voxels.
    """
    room = length - window
    if room < 0:
        raise ValueError(f"a window of {window} voxels is longer than the axis of {length}")
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil(room / step) + 1
    return [round(i * room / (count - 1)) for i in range(count)] if count > 1 else [0]


def side_by_side(length: int, window: int, *, from_end: bool = False) -> dict[int, torch.Tensor]:
    """First voxels of windows that lie side by side along an axis, and where each counts: (window,) of 1 and 0.

    The last one ends with the axis, and what it shares with its neighbour is its own. `from_end`: they begin there.
    """
    if window > length:
        raise ValueError(f"a window of {window} voxels is longer than the axis of {length}")
    starts = [*range(0, length - window, window), length - window]
    shares = {}
    for start, end in zip(starts, [*starts[1:], length], strict=True):
        share = (torch.arange(window) < end - start).float()
        shares[length - window - start if from_end else start] = share.flip(0) if from_end else share
    return dict(sorted(shares.items()))


def gaussian_weights(window: Sequence[int]) -> torch.Tensor:
    """Weights (window's shape), float32: a Gaussian around the middle, 1 at its peak, nowhere below `LEAST_WEIGHT`."""
    weights = torch.ones(())
    for length in window:
        position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (position / (SIGMA_SHARE * length)) ** 2)
    return weights.clamp(min=LEAST_WEIGHT)


def neighbour_slices(count: int, slices: int) -> torch.Tensor:
    """Indices (count, slices) of each slice's neighbours, itself in the middle; the outermost repeat."""
    offsets = torch.arange(slices) - slices // 2
    return (torch.arange(count)[:, None] + offsets).clamp(0, count - 1)
