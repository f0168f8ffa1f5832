"""Layers of a net in forms that are faster on a CPU, for prediction: the same numbers but for float32 rounding.

torch 2.13 takes a convolution of its own for a single small volume, which is three times as slow as oneDNN's
(`use_mkldnn` in its Convolution.cpp), normalises an instance in a copy of another layout, and has no transposed
convolution of volumes but a slow one. All three cost more than the arithmetic of a 3D net.

Where gradients or a lower precision are wanted, or on a card, the layers are torch's own.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)
LAYOUT = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory format by the number of a tensor's axes."""


def with_cpu_layers(net: Module) -> Module:
    """A copy of a net in eval mode, which shares nothing with it, with the layers of this module in place of torch's.

    Raises ValueError for a net that is in training mode.
    """
    if net.training:
        raise ValueError("only a net in eval mode can have its layers exchanged")
    net = copy.deepcopy(net)
    if torch.backends.mkldnn.is_available():
        for parent in list(net.modules()):
            for name, layer in list(parent.named_children()):
                if type(layer) is nn.Conv3d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                    setattr(parent, name, Convolution(layer))
                elif type(layer) in (nn.InstanceNorm2d, nn.InstanceNorm3d) and not layer.track_running_stats:
                    setattr(parent, name, InstanceNorm(layer))
                elif type(layer) in (nn.ConvTranspose2d, nn.ConvTranspose3d) and _only_enlarges(layer):
                    setattr(parent, name, Enlargement(layer))
    return net


def _only_enlarges(layer: Any) -> bool:
    """Tell whether each voxel becomes a block of its own: the kernel is as long as the step."""
    plain = not any(layer.padding) and not any(layer.output_padding) and set(layer.dilation) == {1}
    return plain and layer.groups == 1 and layer.kernel_size == layer.stride


class _Exchanged(nn.Module):
    """A layer of torch's, and what does its work on a CPU."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """What the layer makes of feature maps (n, channels, [z,] y, x)."""
        if maps.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
            result: torch.Tensor = self.layer(maps)
            return result
        return self.quick(maps.contiguous(memory_format=LAYOUT[maps.ndim]))

    def quick(self, maps: torch.Tensor) -> torch.Tensor:
        """The same of maps whose channels lie together, and with such a result."""
        raise NotImplementedError


class Convolution(_Exchanged):
    """A convolution of volumes by oneDNN, whatever their size."""

    def quick(self, maps: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        convolved: torch.Tensor = torch.ops.aten.mkldnn_convolution(
            maps, layer.weight, layer.bias, layer.padding, layer.stride, layer.dilation, layer.groups
        )
        return convolved


class InstanceNorm(_Exchanged):
    """Instance normalisation in the layout that the maps have.

    Mean and variance are taken in two passes; torch's batch normalisation of a single image would be as fast, but sums
    up one by one in float32 in this layout, which is off by 2e-4 in a window of 64^3.
    """

    def quick(self, maps: torch.Tensor) -> torch.Tensor:
        one_by_one = [self._normalised(maps[i : i + 1]) for i in range(len(maps))]
        return one_by_one[0] if len(maps) == 1 else torch.cat(one_by_one)

    def _normalised(self, maps: torch.Tensor) -> torch.Tensor:
        voxels = maps[0, 0].numel()
        mean = _channel_sums(maps) / voxels
        # Batch normalisation by given numbers is a factor and an offset a channel.
        centred = nn.functional.batch_norm(maps, mean, torch.ones_like(mean), eps=0.0)
        variance = _channel_sums(centred.square_()) / voxels
        layer = self.layer
        return nn.functional.batch_norm(maps, mean, variance, layer.weight, layer.bias, eps=layer.eps)


def _channel_sums(maps: torch.Tensor) -> torch.Tensor:
    """The sum of each channel of an image (1, channels, [z,] y, x)."""
    return maps.movedim(1, -1).flatten(0, -2).sum(dim=0)


class Enlargement(_Exchanged):
    """A transposed convolution whose blocks don't overlap: a matrix product, and the blocks laid side by side."""

    def quick(self, maps: torch.Tensor) -> torch.Tensor:
        weight: torch.Tensor = self.layer.weight  # (channels in, out, *kernel)
        block = weight.shape[2:]
        matrix = weight.movedim(1, -1).flatten(1)  # (in, *kernel and out)
        count, _, *size = maps.shape
        made = maps.movedim(1, -1) @ matrix
        made = made.unflatten(-1, (*block, weight.shape[1]))
        # (n, z, y, x, kz, ky, kx, out) to (n, z, kz, y, ky, x, kx, out)
        axes = len(size)
        order = [0, *(1 + axis + part * axes for axis in range(axes) for part in (0, 1)), 1 + 2 * axes]
        made = made.permute(order).reshape(count, *(n * k for n, k in zip(size, block, strict=True)), -1)
        if self.layer.bias is not None:
            made += self.layer.bias
        return made.movedim(-1, 1)
