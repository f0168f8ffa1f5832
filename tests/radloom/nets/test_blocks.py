"""The blocks see as far as their kernels say, and normalise as asked."""

import pytest
import torch
from living_nets import enliven
from torch import nn

from radloom.nets.blocks import double_convolution, effective_kernel, normalisation


def test_the_effective_kernel_by_hand() -> None:
    # Taps at 0, 2, 4 span 5 voxels; at 0, 4, 8 nine; five taps two apart nine.
    assert [effective_kernel(3, 1), effective_kernel(3, 2), effective_kernel(3, 4), effective_kernel(5, 2)] == [
        3,
        5,
        9,
        9,
    ]


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("rate", [1, 2, 3])
@pytest.mark.parametrize("residual", [False, True])
def test_the_receptive_field_is_that_of_two_effective_kernels(dimensions: int, rate: int, residual: bool) -> None:
    block = double_convolution(1, 2, dimensions=dimensions, norm="none", rate=rate, residual=residual)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(0.1)  # positive, so that no ReLU stops a gradient
    image = torch.ones(1, 1, *[21] * dimensions, requires_grad=True)
    maps = block(image)
    assert maps.shape == (1, 2, *[21] * dimensions)
    maps[0, 0][(10,) * dimensions].backward()
    assert image.grad is not None
    reached = torch.nonzero(image.grad[0, 0])
    span = 2 * effective_kernel(3, rate) - 1
    assert (reached.amax(dim=0) - reached.amin(dim=0) + 1).tolist() == [span] * dimensions
    # Between the taps there are holes.
    assert len(reached) == 5**dimensions


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_block_by_functions(residual: bool, dropout: float) -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 8, 6)
    block = enliven(double_convolution(3, 4, residual=residual, dropout=dropout, stride=2), image)
    state = block.state_dict()
    body = "body." if residual else ""

    def step(maps: torch.Tensor, convolution: str, norm: str, **how: int) -> torch.Tensor:
        maps = nn.functional.conv2d(maps, state[f"{convolution}.weight"], **how)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return nn.functional.batch_norm(maps, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"])

    expected = step(image, f"{body}0", f"{body}1", stride=2, padding=1).relu()
    expected = step(expected, f"{body}3", f"{body}4", padding=1)
    if residual:
        expected = expected + step(image, "shortcut.0", "shortcut.1", stride=2)
    torch.testing.assert_close(block(image), expected.relu(), rtol=0, atol=1e-6)


def test_a_shortcut_of_the_same_shape_has_no_weights() -> None:
    block = double_convolution(4, 4, residual=True)
    assert isinstance(block.shortcut, nn.Identity)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.zero_()
    maps = torch.rand(1, 4, 5, 5)
    assert torch.equal(block(maps), maps)


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize(("norm", "axes"), [("batch", (0, 2)), ("instance", (2,)), ("group", (1, 2)), ("none", None)])
def test_a_norm_has_mean_zero_over_its_axes(dimensions: int, norm: str, axes: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    maps = 3 + 2 * torch.randn(3, 16, *[6] * dimensions)
    layer = normalisation(norm, dimensions, 16)
    found = layer(maps)
    if axes is None:
        assert found is maps
        return
    # Groups of two channels each.
    flat = found.reshape(3, 8, -1) if norm == "group" else found.flatten(2)
    over = (2,) if norm == "group" else axes
    assert flat.mean(dim=over).abs().max() < 1e-5
    assert (flat.var(dim=over, unbiased=False) - 1).abs().max() < 1e-3
    assert sum(p.numel() for p in layer.parameters()) == 32


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (12, 4), (7, 1), (4, 4)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    layer = normalisation("group", 2, channels)
    assert isinstance(layer, nn.GroupNorm)
    assert layer.num_groups == groups


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="not 'layer'"):
        normalisation("layer", 2, 4)
