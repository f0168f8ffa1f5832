"""Dropout drops whole feature maps; when sampling, an item's masks follow from its seed alone."""

import pytest
import torch

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.dropout import ChannelDropout, monte_carlo
from radloom.nets.net import Net


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return build_net(Architecture(channels=(8, 12), dropout=0.4), 3).eval().requires_grad_(False)


@pytest.mark.parametrize("size", [(5, 7), (3, 4, 5)])
@pytest.mark.parametrize("sampling", [False, True])
def test_maps_are_dropped_whole_and_the_mean_is_kept(size: tuple[int, ...], sampling: bool) -> None:
    torch.manual_seed(0)
    layer = ChannelDropout(0.3)
    maps = torch.ones(40, 500, *size)
    if sampling:
        with monte_carlo(layer.eval(), range(40)):
            dropped = layer(maps).flatten(2)
    else:
        dropped = layer.train()(maps).flatten(2)
    assert torch.equal(dropped.amin(dim=2), dropped.amax(dim=2))
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.7])
    # 20,000 maps: standard deviation of the share 0.0032.
    assert (dropped[..., 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.013)


def test_nothing_is_dropped_in_eval(net: Net) -> None:
    slices = torch.rand(2, 1, 8, 8)
    before = net(slices)
    with monte_carlo(net, [1, 2]):
        assert not torch.equal(net(slices), before)
    assert torch.equal(net(slices), before)


def test_masks_depend_on_the_items_seed_alone(net: Net) -> None:
    slices = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with monte_carlo(net, [7, 8, 9, 7]):
        together = net(slices)
        torch.manual_seed(99)
        assert torch.equal(net(slices), together)
    for item, seed in enumerate([7, 8, 9, 7]):
        with monte_carlo(net, [seed]):
            assert net(slices[item : item + 1])[0] == pytest.approx(together[item], abs=1e-6)


def test_each_seed_and_each_layer_drops_others(net: Net) -> None:
    layers = [module for module in net.modules() if isinstance(module, ChannelDropout)]
    ones = torch.ones(1, 200, 1, 1)
    masks = []
    for seed in (3, 4):
        with monte_carlo(net, [seed]):
            masks += [tuple((layer(ones) > 0).flatten().tolist()) for layer in layers]
    assert len(layers) == 3
    assert len(set(masks)) == 6


def test_samples_have_the_mean_of_the_logits_of_a_linear_layer() -> None:
    # A net without a non-linearity behind the dropout: the mean over masks is the logits without dropout.
    torch.manual_seed(0)
    net = torch.nn.Sequential(ChannelDropout(0.5), torch.nn.Conv2d(6, 2, 1)).eval().requires_grad_(False)
    maps = torch.rand(1, 6, 2, 2)
    with monte_carlo(net, range(4000)):
        samples = net(maps.expand(4000, -1, -1, -1))
    error = samples.std(dim=0) / 4000**0.5
    assert ((samples.mean(dim=0) - net(maps)[0]).abs() < 5 * error).all()


def test_a_context_ends_after_an_error_and_nests(net: Net) -> None:
    slices = torch.rand(1, 1, 8, 8)
    with monte_carlo(net, [1]):
        outer = net(slices)
        with monte_carlo(net, [2]):
            assert not torch.equal(net(slices), outer)
        assert torch.equal(net(slices), outer)
        with pytest.raises(ValueError, match="a batch of 2 items can't be sampled with 1 seeds"):
            net(slices.expand(2, -1, -1, -1))
    assert all(module.sampling is None for module in net.modules() if isinstance(module, ChannelDropout))


def test_what_cannot_be_sampled_is_refused(net: Net) -> None:
    with (
        pytest.raises(ValueError, match="has no dropout"),
        monte_carlo(build_net(Architecture(channels=(2,)), 1), [1]),
    ):
        pass
    with pytest.raises(ValueError, match="not -1"), monte_carlo(net, [3, -1]):
        pass


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_is_below_one(share: float) -> None:
    with pytest.raises(ValueError, match="share below 1"):
        ChannelDropout(share)
