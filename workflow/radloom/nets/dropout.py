"""Dropout of whole feature maps, for training and for Monte Carlo sampling (Gal, Ghahramani, ICML 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


class ChannelDropout(nn.Module):
    """Sets each feature map of each item to zero with probability `share`, and divides the others by 1 - `share`.

    Neighbouring voxels of a map are so much alike that dropping single ones would drop nothing (Tompson et al., CVPR
    2015). In training masks come from torch's generator; within `monte_carlo` from the seeds; else nothing is dropped.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout is a share below 1, not {share}")
        self.share = share
        self.sampling: tuple[int, Sequence[int]] | None = None
        """Number of this layer in its net and the seeds of the batch's items, while sampling."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Feature maps (batch, channels, [z,] y, x), some of them zero."""
        if self.sampling is not None:
            layer, seeds = self.sampling
            if len(seeds) != len(maps):
                raise ValueError(f"a batch of {len(maps)} items can't be sampled with {len(seeds)} seeds")
            drawn = [np.random.default_rng([seed, layer]).random(maps.shape[1]) for seed in seeds]
            kept = np.stack(drawn) >= self.share
            scale = torch.from_numpy(kept / (1 - self.share)).to(maps.device, maps.dtype)
            return maps * scale.reshape(*kept.shape, *[1] * (maps.dim() - 2))
        if maps.dim() == 4:
            return nn.functional.dropout2d(maps, self.share, self.training)
        return nn.functional.dropout3d(maps, self.share, self.training)

    def extra_repr(self) -> str:
        """The share, for printing."""
        return str(self.share)


@contextmanager
def monte_carlo(net: nn.Module, seeds: Sequence[int]) -> Iterator[None]:
    """Within the context the net drops feature maps though it is in eval mode; one seed (0 or more) an item.

    The masks of an item follow from its seed and the layer's place in the net alone: they don't depend on the other
    items, the size of the batch, the size of the image, the device or earlier calls. Windows of one image that are to
    belong to one sample get the same seed. Raises ValueError for a net without dropout, whose samples would all be
    the same, and for a negative seed.
    """
    layers = [module for module in net.modules() if isinstance(module, ChannelDropout) and module.share > 0]
    if not layers:
        raise ValueError("the net has no dropout, its Monte Carlo samples would all be the same")
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds are whole numbers from 0 on, not {min(seeds)}")
    before = [layer.sampling for layer in layers]
    try:
        for number, layer in enumerate(layers):
            layer.sampling = (number, tuple(seeds))
        yield
    finally:
        for layer, sampling in zip(layers, before, strict=True):
            layer.sampling = sampling
