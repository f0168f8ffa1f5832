"""What a net costs is what torch counts, and what closed forms say."""

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.flops import cost, on_meta

TRANSFORMER = {"width": 12, "heads": 3, "layers": 2, "mlp": 2, "grid": [8, 4]}


def test_the_net_of_reference_takes_24_6_gflop_a_slice() -> None:
    channels, pixels, multiplications = Architecture().channels, 256 * 256, 0
    for level, (channel, before) in enumerate(zip(channels, (1, *channels), strict=False)):
        multiplications += pixels // 4**level * 9 * (before * channel + channel * channel)
    for level, (above, below) in enumerate(pairwise(channels)):
        here = pixels // 4**level
        # A transposed convolution of 2 x 2 with stride 2 reaches each pixel of its output once.
        multiplications += here * (below * above + 9 * (2 * above * above + above * above))
    multiplications += pixels * channels[0] * 117
    with torch.device("meta"):
        found = cost(build_net(Architecture(), 117), 1, (256, 256))
    assert found.flops == 2 * multiplications == 24_553_455_616
    assert found.parameters == 7_766_293


@pytest.mark.parametrize(
    ("architecture", "size"),
    [
        (Architecture(channels=(4, 8, 12), dilation=(1, 2, 3), residual=True, slices=3), (16, 24)),
        (Architecture(dimensions=3, channels=(4, 8), norm="none", residual=True), (8, 6, 4)),
        (Architecture("unetplusplus", 3, channels=(4, 6, 8), deep_supervision=True), (8, 8, 4)),
        (Architecture("unetplusplus", channels=(4, 6, 8)), (8, 16)),
        (Architecture("transunet", channels=(4, 6, 8), options=TRANSFORMER), (32, 16)),
    ],
)
def test_counted_as_torch_counts(architecture: Architecture, size: tuple[int, ...]) -> None:
    net = build_net(architecture, 5)
    found = cost(net, architecture.inputs, size)
    assert net.training
    # Of the kernels for attention torch counts all but the CPU's own, so that it is kept from that one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net.eval()(torch.rand(1, architecture.inputs, *size))
    assert found.flops == counter.get_total_flops()


def test_grouped_and_strided_convolutions_are_counted() -> None:
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, (3, 5), stride=2, groups=2),
        torch.nn.ConvTranspose2d(8, 6, 3, stride=2, groups=2),
        torch.nn.Linear(21, 4),
    )
    found = cost(layers, 4, (20, 24))  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layers(torch.rand(1, 4, 20, 24))
    assert found.flops == counter.get_total_flops()


def test_shapes_cost_nothing_and_change_nothing() -> None:
    net = build_net(Architecture(channels=(4, 8)), 3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    # 2 TB of image, which nobody computes.
    logits = on_meta(net, (2, 1, 2**19, 2**19))
    assert logits.shape == (2, 3, 2**19, 2**19)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_size_that_the_net_refuses() -> None:
    net = build_net(Architecture(channels=(4, 8)), 3)
    with pytest.raises(ValueError, match="multiples"):
        cost(net, 1, (5, 8))
    assert net.training
    assert not any(module._forward_hooks for module in net.modules())
