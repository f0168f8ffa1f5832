"""The U-Net keeps the grid, is what its formula says, and has the parameters that its levels say."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from living_nets import enliven
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import load_model

DEMO = Path(__file__).parents[3] / "resources" / "models" / "demo_unet"


@pytest.mark.parametrize(("channels", "size"), [((4,), (5, 7)), ((4, 8), (6, 10)), ((4, 6, 8, 10), (16, 24))])
def test_logits_lie_on_the_slices_grid(channels: tuple[int, ...], size: tuple[int, int]) -> None:
    net = build_net(Architecture(channels=channels), 3).eval()
    assert net.multiple == (2 ** (len(channels) - 1),) * 2
    assert net(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def parameters_by_formula(architecture: Architecture, outputs: int) -> int:
    """Of a U-Net without residuals, with normalisation."""
    taps, channels = 3**architecture.dimensions, architecture.channels

    def double(first: int, last: int) -> int:
        # Weights of two convolutions without bias, and scale and shift of two normalisations.
        return taps * first * last + taps * last * last + 4 * last

    expected = double(architecture.slices, channels[0]) + channels[0] * outputs + outputs
    for above, below in pairwise(channels):
        up = 2**architecture.dimensions * below * above + above
        expected += double(above, below) + up + double(2 * above, above)
    return expected


@pytest.mark.parametrize(
    ("architecture", "outputs"),
    [
        (Architecture(), 117),
        (Architecture(slices=5, channels=(8, 16, 32, 64)), 3),
        (Architecture(dimensions=3, channels=(4, 8, 12), norm="instance"), 2),
        (Architecture(dilation=(1, 1, 2, 2, 4), dropout=0.2), 117),
    ],
)
def test_parameters_are_those_of_the_architecture(architecture: Architecture, outputs: int) -> None:
    net = build_net(architecture, outputs)
    assert sum(p.numel() for p in net.parameters()) == parameters_by_formula(architecture, outputs)


def test_the_net_of_reference_has_7_77_million_parameters() -> None:
    assert parameters_by_formula(Architecture(), 117) == 7_766_293


def test_the_demos_weights_load_by_name_and_give_what_the_formula_gives() -> None:
    net, description = load_model(DEMO)
    weights = load_file(DEMO / "model.safetensors")
    assert set(net.state_dict()) == set(weights)
    slices = torch.rand(2, 1, 40, 24, generator=torch.Generator().manual_seed(0))
    expected = by_functions(weights, slices, len(description.architecture.channels))
    with torch.inference_mode():
        # Oracle: the U-Net written down in torch.nn.functional; the logits are of the order of 10.
        torch.testing.assert_close(net(slices), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_logits_are_those_of_functions(dimensions: int) -> None:
    torch.manual_seed(0)
    architecture = Architecture(dimensions=dimensions, channels=(4, 8, 12))
    images = torch.randn(2, 1, *[8, 12, 16][-dimensions:])
    net = enliven(build_net(architecture, 5), images)
    torch.testing.assert_close(net(images), by_functions(net.state_dict(), images, 3), rtol=0, atol=1e-5)


def by_functions(state: dict[str, torch.Tensor], images: torch.Tensor, levels: int) -> torch.Tensor:
    """A U-Net with batch normalisation in eval mode, in functions alone."""
    dimensions = images.dim() - 2
    convolution = functional.conv2d if dimensions == 2 else functional.conv3d
    transposed = functional.conv_transpose2d if dimensions == 2 else functional.conv_transpose3d

    def double(maps: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        for first, step in ((0, stride), (3, 1)):
            maps = convolution(maps, state[f"{name}.{first}.weight"], padding=1, stride=step)
            norm = {
                key: state[f"{name}.{first + 1}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            }
            maps = functional.batch_norm(maps, **norm).relu()
        return maps

    maps, skipped = double(images, "first"), []
    for level in range(levels - 1):
        skipped.append(maps)
        if dimensions == 2:
            maps = double(functional.max_pool2d(maps, 2), f"down.{level}")
        else:
            maps = double(maps, f"down.{level}", stride=2)
    for level in range(levels - 1):
        maps = transposed(maps, state[f"up.{level}.weight"], state[f"up.{level}.bias"], stride=2)
        maps = double(torch.cat([skipped.pop(), maps], dim=1), f"merge.{level}")
    return convolution(maps, state["last.weight"], state["last.bias"])


def test_every_level_sees_the_slice() -> None:
    torch.manual_seed(0)
    net = build_net(Architecture(channels=(2, 3, 4)), 2).eval()
    slices = torch.rand(1, 1, 8, 8, requires_grad=True)
    net(slices)[0, 1, 0, 0].backward()
    # A pixel in the far corner is reached through the lowest level alone.
    assert slices.grad is not None
    assert slices.grad[0, 0, 7, 7] != 0


@pytest.mark.parametrize("dimensions", [2, 3])
def test_deep_supervision_gives_each_levels_logits_in_training_alone(dimensions: int) -> None:
    net = build_net(Architecture(dimensions=dimensions, channels=(2, 3, 4, 5), deep_supervision=True), 2)
    images = torch.rand(2, 1, *[16] * dimensions)
    assert [tuple(logits.shape[1:]) for logits in net(images)] == [(2, *[n] * dimensions) for n in (16, 8, 4)]
    assert net.eval()(images).shape == (2, 2, *[16] * dimensions)


def test_strides_of_an_anisotropic_net() -> None:
    options = {"strides": [[1, 2, 2], [1, 2, 2], [2, 2, 2]]}
    architecture = Architecture(dimensions=3, channels=(2, 3, 4, 5), options=options, deep_supervision=True)
    net = build_net(architecture, 2)
    assert net.multiple == (2, 8, 8)
    shapes = [tuple(logits.shape[2:]) for logits in net(torch.rand(1, 1, 4, 16, 8))]
    assert shapes == [(4, 16, 8), (4, 8, 4), (4, 4, 2)]


@pytest.mark.parametrize(
    "strides", [[[2, 2]], [[2, 2, 2]] * 2, [[2, 0], [2, 2]], [[2, 2.0], [2, True]], "ab", [[2, 2], [2, 9]], 2]
)
def test_strides_that_do_not_fit_are_refused(strides: object) -> None:
    with pytest.raises(ValueError, match="strides are 2 lists of 2 numbers"):
        Architecture(channels=(2, 3, 4), options={"strides": strides})


def test_what_cannot_be_halved_is_refused() -> None:
    net = build_net(Architecture(channels=(2, 4, 8)), 2)
    with pytest.raises(ValueError, match=r"multiples of \(4, 4\)"):
        net(torch.rand(1, 1, 8, 6))
    with pytest.raises(ValueError, match="2 spatial axes, not 3"):
        net(torch.rand(1, 1, 8, 8, 8))


def test_operations_that_are_not_deterministic_on_cuda_are_in_no_3d_net() -> None:
    unsafe = (nn.MaxPool3d, nn.Upsample, nn.AvgPool3d)
    for kind in ("unet", "unetplusplus"):
        net = build_net(Architecture(kind=kind, dimensions=3, channels=(2, 3)), 2)
        assert not any(isinstance(module, unsafe) for module in net.modules())
        image = torch.rand(1, 1, 4, 4, 4, requires_grad=True)
        names, todo = set(), [net(image).sum().grad_fn]
        while todo:
            node = todo.pop()
            if node is not None:
                names.add(node.name())
                todo += [following for following, _ in node.next_functions]
        assert not [name for name in names if "Pool" in name or "Upsample" in name]
        assert math.prod(net.multiple) == 8
