"""Layers exchanged for a CPU give the same logits; the oracle is the same net in float64 with torch's own layers."""

import copy

import pytest
import torch
from living_nets import enliven
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.cpu_layers import Convolution, Enlargement, InstanceNorm, with_cpu_layers
from radloom.nets.dropout import monte_carlo
from radloom.nets.fusion import fused

NETS = {
    "3d": Architecture(dimensions=3, channels=(4, 8, 12), norm="instance"),
    "3d, residual, dilated, dropout": Architecture(
        dimensions=3, channels=(4, 8), norm="instance", residual=True, dilation=(1, 2), dropout=0.2
    ),
    "3d, batch norm": Architecture(dimensions=3, channels=(4, 8), norm="batch"),
    "3d, group norm, flat strides": Architecture(
        dimensions=3, channels=(4, 8, 12), norm="group", options={"strides": [[1, 2, 2], [2, 2, 2]]}
    ),
    "2d, instance norm": Architecture(channels=(4, 8, 12), norm="instance"),
    "2.5d": Architecture(channels=(4, 8), slices=3, norm="instance", dropout=0.2),
    "unet++": Architecture("unetplusplus", dimensions=3, channels=(4, 8, 12), norm="instance"),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("count", [1, 3])
def test_logits_stay(name: str, count: int) -> None:
    architecture = NETS[name]
    torch.manual_seed(0)
    size = (16, 24, 8)[: architecture.dimensions]
    images = 3 * torch.randn(count, architecture.slices, *size)
    net = enliven(build_net(architecture, 3), images)
    quick = with_cpu_layers(fused(net))
    with torch.no_grad():
        wanted = copy.deepcopy(net).double()(images.double())
        # float32 rounding through a dozen layers, logits of order 1; torch's own layers are off by as much.
        torch.testing.assert_close(quick(images).double(), wanted, rtol=0, atol=2e-5)
        if architecture.dropout:
            seeds = list(range(count))
            with monte_carlo(net, seeds), monte_carlo(quick, seeds):
                torch.testing.assert_close(quick(images), net(images), rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm2d(4, affine=True), nn.InstanceNorm3d(4)])
def test_an_image_is_normalised_to_the_same_bits_alone_and_among_others(norm: nn.Module) -> None:
    maps = torch.randn(3, 4, *(8, 12, 4)[: 2 if isinstance(norm, nn.InstanceNorm2d) else 3])
    with torch.no_grad():
        assert torch.equal(InstanceNorm(norm)(maps)[1:2], InstanceNorm(norm)(maps[1:2]))


def test_what_is_slow_is_exchanged_and_the_net_itself_stays() -> None:
    net = build_net(NETS["3d"], 3).eval()
    quick = with_cpu_layers(net)
    kinds = [type(module) for module in quick.modules()]
    plain = [type(module) for module in net.modules()]
    assert kinds.count(Convolution) == plain.count(nn.Conv3d) == 11
    assert kinds.count(InstanceNorm) == plain.count(nn.InstanceNorm3d) == 10
    assert kinds.count(Enlargement) == plain.count(nn.ConvTranspose3d) == 2
    assert not {p.data_ptr() for p in net.parameters()} & {p.data_ptr() for p in quick.parameters()}


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose3d(2, 3, 3, stride=2),
        nn.ConvTranspose3d(2, 3, 3, stride=3, padding=1),
        nn.ConvTranspose3d(2, 4, 2, stride=2, groups=2),
        nn.ConvTranspose3d(2, 3, 2, stride=2, dilation=2),
        nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate"),
        nn.Conv3d(2, 3, 3, padding="same"),
        nn.InstanceNorm3d(2, track_running_stats=True),
    ],
    ids=["overlapping", "padded", "groups", "dilated", "replicated", "same", "running"],
)
def test_layers_of_other_kinds_stay(layer: nn.Module) -> None:
    net = nn.Sequential(layer).eval()
    quick = with_cpu_layers(net)
    assert type(quick[0]) is type(layer)
    images = torch.randn(1, 2, 6, 6, 6)
    with torch.no_grad():
        assert torch.equal(quick(images), net(images))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(2, 5, 3, stride=2, padding=1),
        nn.Conv3d(4, 6, (1, 3, 3), padding=(0, 1, 1), groups=2, bias=False),
        nn.ConvTranspose3d(3, 4, (1, 2, 3), stride=(1, 2, 3)),
        nn.ConvTranspose2d(3, 4, 2, stride=2, bias=False),
        nn.InstanceNorm3d(4, affine=False),
    ],
    ids=["stride", "flat", "uneven", "plane", "no scale"],
)
def test_layers_one_by_one(layer: nn.Module) -> None:
    net = nn.Sequential(layer).eval()
    quick = with_cpu_layers(net)
    assert type(quick[0]) is not type(layer)
    channels = getattr(layer, "in_channels", None) or 4
    dimensions = 2 if isinstance(layer, nn.ConvTranspose2d) else 3
    images = torch.randn(2, channels, *(6, 8, 10)[:dimensions])
    with torch.no_grad():
        torch.testing.assert_close(quick(images), net(images), rtol=1e-5, atol=1e-5)


def test_the_mean_of_an_offset_map_does_not_cost_its_variance() -> None:
    """64^3 voxels around 1000 with a deviation of 1: in one pass, or summed one by one, nothing would be left of it."""
    maps = 1000 + torch.randn(1, 2, 64, 64, 64, generator=torch.Generator().manual_seed(0))
    layer = nn.InstanceNorm3d(2)
    with torch.no_grad():
        found = InstanceNorm(layer)(maps)
        # The input itself is known to 3e-5 only.
        torch.testing.assert_close(found.double(), layer(maps.double()), rtol=0, atol=2e-4)


def test_gradients_are_those_of_torch() -> None:
    net = build_net(NETS["3d"], 2).eval()
    quick = with_cpu_layers(net)
    found = []
    for one in (net, quick):
        images = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
        one(images).sum().backward()
        found.append(images.grad)
    assert torch.equal(*found)


def test_a_net_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        with_cpu_layers(build_net(NETS["3d"], 2))
