"""The U-Net keeps the grid, refuses sizes it can't halve, and has the parameters that its levels say."""

from itertools import pairwise

import pytest
import torch

from radloom.nets.architecture import Architecture, build_net


@pytest.mark.parametrize(("channels", "size"), [((4,), (5, 7)), ((4, 8), (6, 10)), ((4, 6, 8, 10), (16, 24))])
def test_logits_lie_on_the_slices_grid(channels: tuple[int, ...], size: tuple[int, int]) -> None:
    net = build_net(Architecture(channels=channels), 3).eval()
    assert net(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_parameters_are_those_of_the_architecture() -> None:
    def double(first: int, last: int) -> int:
        # Weights of two convolutions without bias, and scale and shift of two normalisations.
        return 9 * first * last + 9 * last * last + 4 * last

    channels = (8, 16, 32, 64)
    expected = double(1, 8) + (8 * 3 + 3)
    for above, below in pairwise(channels):
        expected += double(above, below) + (4 * below * above + above) + double(2 * above, above)
    assert sum(p.numel() for p in build_net(Architecture(channels=channels), 3).parameters()) == expected


def test_every_level_sees_the_slice() -> None:
    torch.manual_seed(0)
    net = build_net(Architecture(channels=(2, 3, 4)), 2).eval()
    slices = torch.rand(1, 1, 8, 8, requires_grad=True)
    net(slices)[0, 1, 0, 0].backward()
    # A pixel in the far corner is reached through the lowest level alone.
    assert slices.grad is not None
    assert slices.grad[0, 0, 7, 7] != 0


def test_what_cannot_be_halved_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiples of \(4, 4\)"):
        build_net(Architecture(channels=(2, 4, 8)), 2)(torch.rand(1, 1, 8, 6))


@pytest.mark.parametrize("channels", [(), (4, 0)])
def test_bad_channels_are_refused(channels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="positive numbers"):
        Architecture(channels=channels)
