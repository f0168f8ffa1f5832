"""A fused net gives the same logits with fewer layers."""

import pytest
import torch
from living_nets import enliven
from torch import nn

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.dropout import monte_carlo
from radloom.nets.fusion import fused


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(channels=(4, 8, 12), dropout=0.2),
        Architecture(dimensions=3, channels=(4, 8), residual=True, dropout=0.2),
        Architecture("unetplusplus", channels=(4, 8, 12), dilation=(1, 2, 2), dropout=0.2),
        Architecture("transunet", channels=(4, 8), options={"width": 8, "heads": 2, "layers": 1}, dropout=0.2),
    ],
    ids=lambda a: a.kind,
)
def test_logits_stay_and_no_batch_norm_is_left(architecture: Architecture) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, *[16] * architecture.dimensions)
    net = enliven(build_net(architecture, 3), images)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    quick = fused(net)
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in quick.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    # float32 rounding through a dozen layers, logits of order 1.
    torch.testing.assert_close(quick(images), net(images), rtol=0, atol=1e-5)
    with monte_carlo(net, [1, 2]), monte_carlo(quick, [1, 2]):
        torch.testing.assert_close(quick(images), net(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "group", "none"])
def test_other_norms_stay(norm: str) -> None:
    net = build_net(Architecture(channels=(4, 8), norm=norm), 2).eval()
    images = torch.rand(1, 1, 8, 8)
    assert torch.equal(fused(net)(images), net(images))
    assert list(fused(net).state_dict()) == list(net.state_dict())


def test_a_net_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fused(build_net(Architecture(channels=(2, 4)), 2))
