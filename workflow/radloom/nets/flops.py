"""What a net costs: parameters, and floating-point operations for one image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from radloom.nets.net import Net
from radloom.nets.transunet import SelfAttention


@dataclass(frozen=True)
class Cost:
    """What a net costs for one image."""

    parameters: int
    """Numbers that training changes."""
    flops: int
    """Floating-point operations of convolutions, linear layers and attention, a multiplication and the addition that
    follows counted as two; biases, normalisation, activations, pooling, softmax and the interpolation of a position
    embedding are left out."""


def on_meta(net: nn.Module, images: Sequence[int]) -> Any:
    """What the net returns for images of the shape (batch, inputs, [z,] y, x), as shapes without numbers.

    Nothing is computed and the net is not changed, whatever its mode.
    """
    state = {name: tensor.to("meta") for name, tensor in [*net.named_parameters(), *net.named_buffers()]}
    with torch.no_grad():
        return torch.func.functional_call(net, state, (torch.empty(tuple(images), device="meta"),))


def cost(net: Net, inputs: int, size: Sequence[int]) -> Cost:
    """The cost of a prediction for one image of `inputs` channels and `size` ([z,] y, x).

    Counted layer by layer while shapes pass the net. Attention is known of this package's nets alone: in nets of
    MONAI only their convolutions and linear layers count. Raises ValueError for a size that the net refuses.
    """
    total = 0

    def count(module: nn.Module, taken: tuple[torch.Tensor, ...], given: torch.Tensor) -> None:
        nonlocal total
        total += 2 * _multiplications(module, taken[0], given)

    counted = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, SelfAttention)
    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, counted)]
    training = net.training
    try:
        on_meta(net.eval(), (1, inputs, *size))
    finally:
        net.train(training)
        for hook in hooks:
            hook.remove()
    return Cost(sum(p.numel() for p in net.parameters()), total)


def _multiplications(module: nn.Module, taken: torch.Tensor, given: torch.Tensor) -> int:
    """Multiplications of one layer from its input and its output."""
    if isinstance(module, SelfAttention):
        # Q K^T and the product with V; the linear layers count themselves.
        batch, tokens, width = taken.shape
        return 2 * batch * tokens * tokens * width
    if isinstance(module, nn.Linear):
        return given.numel() * module.in_features
    assert isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d)
    taps = math.prod(module.kernel_size)
    if module.transposed:
        return taken.numel() * taps * module.out_channels // module.groups
    return given.numel() * taps * module.in_channels // module.groups
