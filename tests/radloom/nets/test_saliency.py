"""Saliency: finite differences, a net whose map is known, and windows that give what the whole image does."""

import numpy as np
import pytest
import torch
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription
from radloom.nets.prediction import Member, Predictor, Settings, split_head
from radloom.nets.saliency import class_gradients, find_saliency, log_odds, saliency_map, scan_gradients
from radloom.nets.windows import gaussian_weights, neighbour_slices, window_starts


def tiny_net(outputs: int, seed: int = 0, **more) -> nn.Module:
    torch.manual_seed(seed)
    net = build_net(Architecture(channels=(4, 8), norm="none", **more), outputs)
    # All classes are found somewhere.
    nn.init.constant_([m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)][-1].bias, 0.1)
    return net.double().eval().requires_grad_(False)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_gradients_are_those_of_finite_differences(outputs, dimensions) -> None:
    """Central differences of 1e-6 in float64 agree to 1e-5 of the largest gradient: a ReLU has a corner within one."""
    net = tiny_net(3, dimensions=dimensions)
    shape = (1, 1, *(8, 8, 4)[:dimensions])
    image = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    logits = net(image)
    label = logits.argmax(dim=1) if outputs == "softmax" else torch.where(logits.amax(1) > 0, logits.argmax(1) + 1, 0)
    number = int(label[label > 0].mode().values)
    gradient = class_gradients(net, image, outputs, [number])[number]

    def evidence(values: torch.Tensor) -> float:
        return float(log_odds(net(values), outputs, number)[label == number].sum())

    step = 1e-6
    for flat in np.random.default_rng(0).choice(image.numel(), 25, replace=False):
        shift = torch.zeros_like(image)
        shift.view(-1)[flat] = step
        numeric = (evidence(image + shift) - evidence(image - shift)) / (2 * step)
        assert float(gradient.view(-1)[flat]) == pytest.approx(numeric, abs=1e-5 * float(gradient.abs().max()))


def test_the_logit_of_a_softmax_is_that_of_its_probability() -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64)
    for number in range(1, 4):
        assert torch.allclose(log_odds(logits, "softmax", number), logits.softmax(dim=1)[:, number].logit())
        assert torch.allclose(log_odds(logits, "sigmoid", number), logits.sigmoid()[:, number - 1].logit())


def test_a_linear_net_has_its_kernel_around_each_voxel_that_it_finds() -> None:
    kernel = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]], dtype=torch.float64)
    net = nn.Conv2d(1, 1, 3, padding=1, bias=True).double().requires_grad_(False)
    net.weight[0, 0], net.bias[0] = kernel, -8.5
    image = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    image[0, 0, 4, 4] = 1  # the logit is above 0 in the one voxel whose kernel reaches it with the 9
    gradient = class_gradients(net, image, "sigmoid", [1])[1]
    expected = torch.zeros(9, 9, dtype=torch.float64)
    expected[2:5, 2:5] = kernel
    assert torch.allclose(gradient[0, 0], expected)


def test_a_class_that_is_not_found_is_left_out() -> None:
    net = nn.Conv2d(1, 2, 1).requires_grad_(False)
    net.weight[:], net.bias[:] = 1, torch.tensor([1.0, -5.0])
    assert set(class_gradients(net, torch.zeros(1, 1, 4, 4), "sigmoid", [1, 2])) == {1}


def test_one_window_is_the_whole_image() -> None:
    net = tiny_net(2)
    image = torch.randn(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(8, 8, dtype=torch.float64)
    found = scan_gradients(net, image, "softmax", [1], [[0], [0]], weights, neighbour_slices(3, 1))[1]
    assert torch.allclose(found, class_gradients(net, image[:, None], "softmax", [1])[1][:, 0])


def test_neighbouring_slices_get_their_share() -> None:
    """A net that adds up its three slices: each plane counts in its own and its neighbours' logits."""
    net = nn.Conv2d(3, 1, 1).double().requires_grad_(False)
    net.weight[0, :, 0, 0], net.bias[0] = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64), 1.0
    image = torch.ones(4, 2, 2, dtype=torch.float64)
    weights = torch.ones(2, 2, dtype=torch.float64)
    found = scan_gradients(net, image, "sigmoid", [1], [[0], [0]], weights, neighbour_slices(4, 3))[1]
    assert found[:, 0, 0].tolist() == [12.0, 111.0, 111.0, 210.0]


def test_windows_give_the_gradient_of_the_averaged_logits() -> None:
    """A net that is positive everywhere: the evidence is the sum of all averaged logits, by hand and autograd."""
    net = tiny_net(1, seed=3, dimensions=3)
    net.forward = lambda x, forward=net.forward: forward(x).abs() + 0.1
    image = torch.randn(6, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    window = (4, 8, 8)
    places = [window_starts(n, w, 0.5) for n, w in zip(image.shape, window, strict=True)]
    weights = gaussian_weights(window).double()
    sums, total = torch.zeros(6, 12, 12, dtype=torch.float64), torch.zeros(6, 12, 12, dtype=torch.float64)
    for z in places[0]:
        for y in places[1]:
            for x in places[2]:
                part = np.s_[z : z + 4, y : y + 8, x : x + 8]
                logits = torch.zeros_like(sums)
                logits[part] = net(image[part][None, None])[0, 0] * weights
                sums = sums + logits
                total[part] += weights
    (expected,) = torch.autograd.grad((sums / total).sum(), image)
    found = scan_gradients(net, image.detach(), "sigmoid", [1], places, weights)[1]
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_a_map_is_smoothed_in_mm_and_ends_at_one() -> None:
    magnitude = np.zeros((21, 41, 41))
    magnitude[10, 20, 20] = 7.0
    found = saliency_map(magnitude, (1.0, 1.0, 2.0), sigma_mm=4.0)
    assert found.dtype == np.float32
    assert found.max() == found[10, 20, 20] == 1
    # A Gaussian falls to exp(-1/2) at its standard deviation: 4 voxels of 1 mm, 2 of 2 mm.
    assert found[10, 20, 24] == pytest.approx(np.exp(-0.5), rel=1e-4)
    assert found[12, 20, 20] == pytest.approx(np.exp(-0.5), rel=1e-3)
    assert not saliency_map(np.zeros((3, 3, 3)), (1.0, 1.0, 1.0)).any()


@pytest.mark.parametrize("patch", [(), (32, 32)])
def test_a_net_that_looks_for_bright_voxels_looks_at_them(patch) -> None:
    """A logit that grows with the square of the value above 0: the map is the bright ball's, on the scan's own grid."""
    torch.manual_seed(0)
    architecture = Architecture(channels=(8, 8), norm="none")
    net = build_net(architecture, 20)
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    net.forward = lambda x: torch.cat([4 * x - 2, -4 * torch.ones_like(x).expand(-1, 19, -1, -1)], dim=1)
    description = ModelDescription(
        name="bright",
        classes={number: f"c{number}" for number in range(1, 21)},
        spacing=(2.0, 2.0),
        hu_window=(0.0, 100.0),
        architecture=architecture,
        outputs="sigmoid",
        patch=patch,
    )
    z, y, x = np.ogrid[:9, :50, :60]
    ball = (z - 4) ** 2 * 9 + (y - 20) ** 2 + (x - 40) ** 2 < 100
    predictor = Predictor([Member("bright", net, description)], Settings(device="cpu"))
    found = find_saliency(predictor, np.where(ball, 100.0, 0.0), (1.0, 1.0, 3.0), [1, 2])
    assert found[1].shape == ball.shape
    assert found[1].max() == 1
    assert not found[2].any()
    # The evidence is the ball's alone, blurred by 2 mm and by the net's pixels of 2 mm.
    assert found[1][ball].mean() > 0.6
    assert found[1][~ball].mean() < 0.02


def test_a_head_that_was_taken_off_is_put_on_again() -> None:
    torch.manual_seed(1)
    architecture = Architecture(channels=(4, 8))
    description = ModelDescription("many", {n: f"c{n}" for n in range(1, 7)}, (1.0, 1.0), (-100.0, 100.0), architecture)
    image = 60 * np.random.default_rng(0).normal(size=(2, 12, 20))
    maps = []
    for split in (False, True):
        torch.manual_seed(1)
        net = build_net(architecture, 7).eval().requires_grad_(False)
        head = split_head(net, description) if split else None
        assert (head is not None) == split
        predictor = Predictor([Member("many", net, description, head)], Settings(device="cpu"))
        numbers = np.unique(predictor.labels(image, (1.0, 1.0, 1.0)))
        maps.append(find_saliency(predictor, image, (1.0, 1.0, 1.0), [int(numbers[-1])])[int(numbers[-1])])
    assert maps[0].max() == 1
    assert maps[1] == pytest.approx(maps[0], abs=1e-4)
