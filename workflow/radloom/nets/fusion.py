"""Batch normalisation made part of the convolutions before it, for prediction."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Module = TypeVar("Module", bound=nn.Module)
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def fused(net: Module) -> Module:
    """A copy of a net in eval mode whose convolutions do the batch normalisation that follows them as well.

    In eval mode a batch normalisation is a factor and an offset for each channel, which the convolution's weights and
    bias take up; the logits differ by float32 rounding. Other norms depend on the image and stay, and so do layers
    that don't follow each other in a plain `nn.Sequential`, as those of MONAI. Raises ValueError for a net that is in
    training mode.
    """
    if net.training:
        raise ValueError("only a net in eval mode can be fused")
    net = copy.deepcopy(net)
    for module in list(net.modules()):
        if type(module) is not nn.Sequential:
            continue
        for place in range(len(module) - 1):
            convolution, norm = module[place], module[place + 1]
            if isinstance(convolution, CONVOLUTIONS) and isinstance(norm, BATCH_NORMS):
                module[place] = fuse_conv_bn_eval(convolution, norm)
                module[place + 1] = nn.Identity()
    return net
