"""Every architecture that is accepted works, and every other is refused with its reason."""

import itertools
import json

import pytest
import torch

from radloom.nets.architecture import Architecture, build_net, read_architecture

TRANSFORMER = {"width": 8, "heads": 2, "layers": 1, "mlp": 2, "grid": [4, 4]}


def every_architecture() -> list[Architecture]:
    """All kinds and dimensions with each option by itself, and with all of them."""
    made = []
    for (kind, dimensions), changes in itertools.product(
        [("unet", 2), ("unet", 3), ("unetplusplus", 2), ("unetplusplus", 3), ("transunet", 2)],
        [
            {},
            {"residual": True},
            {"dilation": (1, 2, 3)},
            {"dropout": 0.3},
            {"deep_supervision": True},
            {"norm": "instance"},
            {"norm": "group"},
            {"norm": "none"},
            {"slices": 3},
            {"residual": True, "dilation": (2, 1, 2), "dropout": 0.1, "deep_supervision": True, "norm": "group"},
        ],
    ):
        if dimensions == 3 and "slices" in changes:
            continue
        options = TRANSFORMER if kind == "transunet" else {}
        made.append(Architecture(kind, dimensions, channels=(4, 6, 8), options=options, **changes))
    return made


@pytest.mark.parametrize("architecture", every_architecture(), ids=lambda a: json.dumps(a.as_json())[:200])
def test_every_net_trains_and_predicts(architecture: Architecture) -> None:
    torch.manual_seed(0)
    net = build_net(architecture, 3)
    assert net.multiple == (4,) * architecture.dimensions
    size = (16, 8, 12)[-architecture.dimensions :]
    images = torch.randn(3, architecture.inputs, *size)

    trained = net(images)
    if architecture.deep_supervision:
        assert isinstance(trained, list)
        assert len(trained) == 2
        assert trained[0].shape == (3, 3, *size)
    else:
        trained = [trained]
    # A random direction: the sum of what a norm gives has no gradient.
    sum((logits * torch.randn_like(logits)).sum() for logits in trained).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name

    net.eval().requires_grad_(False)
    logits = net(images)
    assert logits.shape == (3, 3, *size)
    assert torch.equal(net(images), logits)
    # Items don't see each other. The sums' order may change with the batch: float32 rounding of logits of order 1.
    alone = torch.cat([net(image[None]) for image in images])
    torch.testing.assert_close(logits, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", every_architecture()[::7])
def test_an_architecture_survives_json(architecture: Architecture) -> None:
    again = read_architecture(json.loads(json.dumps(architecture.as_json())))
    assert again == architecture
    state = build_net(architecture, 2).state_dict()
    build_net(again, 2).load_state_dict(state)


def test_the_same_seed_is_the_same_net() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_net(Architecture(channels=(2, 3)), 2).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[0])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "resnet"}, "'resnet' is none of unet, unetplusplus, transunet, generalised_unet and no monai:NAME"),
        ({"kind": 3}, "3 is none of"),
        ({"dimensions": 4}, "2 or 3 dimensions"),
        ({"dimensions": True}, "2 or 3 dimensions"),
        ({"slices": 2}, "slices is an odd number"),
        ({"slices": -1}, "slices is an odd number"),
        ({"slices": 10**40 + 1}, "slices is an odd number"),
        ({"slices": 3, "dimensions": 3}, "slices is an odd number"),
        ({"channels": []}, "1 to 8 levels"),
        ({"channels": "ab"}, "1 to 8 levels"),
        ({"channels": [2] * 9}, "1 to 8 levels"),
        ({"channels": [4, 0]}, "positive numbers"),
        ({"channels": [4, 1e3]}, "positive numbers"),
        ({"channels": [10**30]}, "positive numbers up to 4096"),
        ({"norm": "layer"}, "norm is batch"),
        ({"norm": ["batch"]}, "norm is batch"),
        ({"residual": 1}, "residual is true or false"),
        ({"deep_supervision": "yes"}, "deep_supervision is true or false"),
        ({"dilation": [1]}, "one rate for each level"),
        ({"dilation": [1, 1, 1, 1, 0]}, "rates are whole numbers"),
        ({"dropout": 1.0}, "share below 1"),
        ({"dropout": float("nan")}, "share below 1"),
        ({"dropout": "0.1"}, "share below 1"),
        ({"options": {"heads": 4}}, "'unet' has only strides, not heads"),
        ({"options": [1]}, "options is a mapping"),
        ({"kind": "generalised_unet", "dimensions": 3, "residual": True}, "residual does nothing in a net of kind"),
        ({"width": 3}, "a key or a value that is none"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_architecture(changes)


def test_a_net_without_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one output"):
        build_net(Architecture(), 0)
