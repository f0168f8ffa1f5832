"""UNet++ is the net of its paper's figure, and pruned it is a part of itself."""

import pytest
import torch
from living_nets import enliven
from torch.nn import functional

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.flops import cost
from radloom.nets.net import Net


def made(dimensions: int = 2, **changes: object) -> Net:
    torch.manual_seed(0)
    values = {"kind": "unetplusplus", "channels": (4, 6, 8, 10), "norm": "instance", "deep_supervision": True}
    net = build_net(Architecture(**values | {"dimensions": dimensions} | changes), 3).requires_grad_(False)
    return enliven(net, torch.randn(2, 1, *[16] * dimensions))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_logits_are_those_of_functions(dimensions: int) -> None:
    net = made(dimensions)
    state = net.state_dict()
    convolution = functional.conv2d if dimensions == 2 else functional.conv3d
    transposed = functional.conv_transpose2d if dimensions == 2 else functional.conv_transpose3d
    images = torch.rand(2, 1, *[8, 24, 16][-dimensions:])

    def node(name: str, maps: torch.Tensor, stride: int = 1) -> torch.Tensor:
        for first, step in ((0, stride), (3, 1)):
            maps = convolution(maps, state[f"nodes.{name}.{first}.weight"], padding=1, stride=step)
            scale, shift = (state[f"nodes.{name}.{first + 1}.{key}"] for key in ("weight", "bias"))
            maps = functional.instance_norm(maps, weight=scale, bias=shift).relu()
        return maps

    def up(name: str, maps: torch.Tensor) -> torch.Tensor:
        return transposed(maps, state[f"up.{name}.weight"], state[f"up.{name}.bias"], stride=2)

    def down(level: int, maps: torch.Tensor) -> torch.Tensor:
        if dimensions == 2:
            return node(f"{level}_0", functional.max_pool2d(maps, 2))
        return node(f"{level}_0", maps, stride=2)

    # Written out node by node: x with level and step, as in the paper's figure 1.
    x00 = node("0_0", images)
    x10 = down(1, x00)
    x20 = down(2, x10)
    x30 = down(3, x20)
    x01 = node("0_1", torch.cat([x00, up("0_1", x10)], 1))
    x11 = node("1_1", torch.cat([x10, up("1_1", x20)], 1))
    x21 = node("2_1", torch.cat([x20, up("2_1", x30)], 1))
    x02 = node("0_2", torch.cat([x00, x01, up("0_2", x11)], 1))
    x12 = node("1_2", torch.cat([x10, x11, up("1_2", x21)], 1))
    x03 = node("0_3", torch.cat([x00, x01, x02, up("0_3", x12)], 1))
    expected = [
        convolution(maps, state[f"heads.{name}.weight"], state[f"heads.{name}.bias"])
        for name, maps in (("0_3", x03), ("0_2", x02), ("0_1", x01))
    ]
    found = net.train()(images)
    assert len(found) == 3
    for logits, by_hand in zip(found, expected, strict=True):
        torch.testing.assert_close(logits, by_hand, rtol=0, atol=1e-5)
    torch.testing.assert_close(net.eval()(images), expected[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pruned_to", [1, 2, 3])
def test_pruned_it_gives_a_shallower_nodes_logits_for_less(pruned_to: int) -> None:
    whole, pruned = made(), made(options={"pruned_to": pruned_to}).eval()
    pruned.load_state_dict(whole.state_dict())
    images = torch.rand(1, 1, 16, 16)
    assert torch.equal(pruned(images), whole.train()(images)[3 - pruned_to])
    costs = [cost(net, 1, (16, 16)).flops for net in (pruned, whole)]
    assert costs[0] < costs[1] if pruned_to < 3 else costs[0] == costs[1]
    assert len(pruned.train()(images)) == 3


def test_parameters_by_formula() -> None:
    channels, outputs = (4, 6, 8, 10), 3

    def double(first: int, last: int) -> int:
        return 9 * first * last + 9 * last * last + 4 * last

    expected = sum(double(above, below) for above, below in zip((1, *channels), channels, strict=False))
    for step in range(1, 4):
        for level in range(4 - step):
            here, below = channels[level], channels[level + 1]
            expected += double((step + 1) * here, here) + 4 * below * here + here
    single = made(deep_supervision=False)
    assert sum(p.numel() for p in single.parameters()) == expected + channels[0] * outputs + outputs
    assert sum(p.numel() for p in made().parameters()) == expected + 3 * (channels[0] * outputs + outputs)


def test_without_deep_supervision_training_gives_one_tensor() -> None:
    assert made(deep_supervision=False).train()(torch.rand(1, 1, 16, 16)).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"channels": (4,)}, "at least 2 levels"),
        ({"options": {"pruned_to": 0}}, "from 1 to 3"),
        ({"options": {"pruned_to": True}}, "from 1 to 3"),
        ({"options": {"pruned_to": 2}, "deep_supervision": False}, "takes a UNet"),
        ({"options": {"prune": 2}}, "has only strides, pruned_to, not prune"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        made(**changes)
