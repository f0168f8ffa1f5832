"""Nets whose logits depend on the image, as those of a trained net do."""

import torch
from torch import nn


def enliven(net: nn.Module, images: torch.Tensor) -> nn.Module:
    """The net in eval mode, its batch norms with the statistics of `images` and all norms with scales and offsets.

    A fresh net's batch norm does nothing, and made-up statistics tend to push every map below zero, where ReLU makes
    everything alike, so that a comparison of logits compares biases. The spread over the image is asserted.
    """
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            module.momentum = None  # the mean over all batches, of which there is one
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm):
            with torch.no_grad():
                module.weight.copy_(0.5 + torch.rand(module.weight.shape, generator=generator))
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
    with torch.no_grad():
        net.train()(images)
        logits = net.eval().requires_grad_(False)(images)
    assert logits.flatten(2).std(dim=2).min() > 0.01, "the logits are the same all over the image"
    return net
