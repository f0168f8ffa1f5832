"""The generalised U-Net: on any grid, with one size of its field, and only as it can be built."""

import pytest
import torch

from radloom.nets.architecture import Architecture, build_net, net_to_train
from radloom.nets.generalised_unet import read_structure

SMALL = {
    "down": [[2, 3], [4]],
    "down_kernels": [[[1, 3, 3], [3, 3, 3]], [[3, 3, 3]]],
    "up": [[3], []],
    "up_kernels": [[[3, 3, 1]], []],
    "pool": 3,
    "field": [7, 10, 13],
}


def small_net(**options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_net(Architecture("generalised_unet", 3, options={**SMALL, **options}), 2).eval()


@pytest.mark.parametrize("size", [(7, 10, 13), (1, 1, 1), (6, 11, 12), (8, 9, 31)])
def test_logits_lie_on_the_grid_of_the_input(size: tuple[int, int, int]) -> None:
    windows = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = small_net()(windows)
    assert logits.shape == (2, 2, *size)
    assert torch.isfinite(logits).all()


def test_an_input_smaller_than_the_field_is_one_in_the_middle_of_zeros() -> None:
    net = small_net()
    windows = torch.randn(1, 1, 5, 8, 9, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        whole = net(torch.nn.functional.pad(windows, (2, 2, 1, 1, 1, 1)))
        assert torch.equal(net(windows), whole[:, :, 1:6, 1:9, 2:11])


def test_at_its_own_size_nothing_but_the_levels_border_is_added() -> None:
    net = small_net()
    windows = torch.randn(1, 1, 7, 10, 13, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        inside = net.logits_inside(torch.nn.functional.pad(windows, (1, 1, 1, 1, 1, 1)))
        assert torch.equal(net(windows), inside)


def test_items_of_a_batch_do_not_meet() -> None:
    net = small_net()
    windows = torch.randn(3, 1, 7, 10, 13, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        together = net(windows)
        alone = torch.cat([net(window[None]) for window in windows])
    # A convolution may sum in another order for another batch.
    assert torch.allclose(together, alone, atol=1e-5)


VALID = {"pool": 2, "field": [2, 4, 6], "padding": "valid", "residual": True}


@pytest.mark.parametrize("size", [(2, 4, 6), (1, 1, 1), (5, 4, 11)])
def test_without_padding_a_window_loses_its_border(size: tuple[int, int, int]) -> None:
    net = small_net(**VALID)
    assert net.border == (4, 5, 4)  # down 1, 2, 2, up 1, 1, 0, and 1 of the deepest level is 2
    windows = torch.randn(1, 1, *(n + 2 * b for n, b in zip(size, net.border, strict=True)))
    with torch.no_grad():
        assert net(windows).shape == (1, 2, *size)
    with pytest.raises(ValueError, match="nothing within the border"):
        net(torch.zeros(1, 1, 8, 10, 8))


def test_a_net_without_padding_is_not_trained() -> None:
    architecture = Architecture("generalised_unet", 3, options={**SMALL, **VALID})
    with pytest.raises(ValueError, match="can predict, but not be trained"):
        net_to_train(architecture, 2)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pool": 2}, "odd number"),
        ({"padding": "valid", "pool": 1}, "pools by 2 or more"),
        ({"padding": "full"}, "same or valid"),
        ({"residual": 1}, "true or false"),
        ({"field": [7, 10]}, "three positive"),
        ({"up": [[3], [3]], "up_kernels": [[[3, 3, 1]], [[3, 3, 3]]]}, "only down"),
        ({"down": [[2], [4]]}, "a kernel"),
        ({"down_kernels": [[[2, 3, 3], [3, 3, 3]], [[3, 3, 3]]]}, "odd numbers"),
        ({"down": [[2, 3]]}, "as many on both ways"),
        ({"dilation": 2}, "unexpected keyword"),
    ],
)
def test_structures_that_cannot_be_built(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_structure({**SMALL, **options})
