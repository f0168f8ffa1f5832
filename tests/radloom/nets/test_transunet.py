"""The TransUNet's attention is the formula's, and its position embedding goes to other sizes."""

import math

import pytest
import torch
from torch.nn import functional

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.transunet import SelfAttention, interpolated

OPTIONS = {"width": 16, "heads": 2, "layers": 2, "mlp": 2, "grid": [4, 6]}


def attention_by_formula(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d_k)) V of (..., tokens, d_k)."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    share = (scores - scores.amax(dim=-1, keepdim=True)).exp()
    return share / share.sum(dim=-1, keepdim=True) @ v


def test_the_formula_is_what_torch_computes() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 30, 8)
    expected = functional.scaled_dot_product_attention(q, k, v)
    # float32 sums of 30 numbers of order 1.
    torch.testing.assert_close(attention_by_formula(q, k, v), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("heads", [1, 3])
def test_self_attention_is_the_formula_head_by_head(heads: int) -> None:
    torch.manual_seed(0)
    layer, tokens = SelfAttention(12, heads), torch.randn(2, 20, 12)
    weights, biases = layer.qkv.weight.split(12), layer.qkv.bias.split(12)
    q, k, v = (tokens @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
    d_k = 12 // heads
    parts = [
        attention_by_formula(q[..., cut], k[..., cut], v[..., cut])
        for cut in (slice(d_k * head, d_k * (head + 1)) for head in range(heads))
    ]
    expected = torch.cat(parts, dim=2) @ layer.out.weight.T + layer.out.bias
    torch.testing.assert_close(layer(tokens), expected, rtol=0, atol=2e-6)


def test_attention_does_not_know_the_order_of_tokens() -> None:
    torch.manual_seed(0)
    layer, tokens, order = SelfAttention(8, 2), torch.randn(1, 9, 8), torch.randperm(9)
    torch.testing.assert_close(layer(tokens[:, order]), layer(tokens)[:, order], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 6), (9, 14), (4, 11)])
def test_a_finer_grid_is_interpolated_as_torch_does(size: tuple[int, int]) -> None:
    position = torch.randn(5, 4, 6)
    expected = functional.interpolate(position[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(interpolated(position, *size), expected, rtol=0, atol=1e-5)


def test_a_coarser_grid_is_averaged_as_torch_does() -> None:
    position = torch.randn(5, 12, 8)
    expected = functional.interpolate(position[None], (4, 4), mode="bilinear", align_corners=False, antialias=True)[0]
    torch.testing.assert_close(interpolated(position, 4, 4), expected, rtol=0, atol=1e-5)
    assert interpolated(position, 12, 8) is position


def test_every_pixel_sees_the_whole_slice_and_its_place() -> None:
    torch.manual_seed(0)
    # 50 pixels are more than three levels of convolutions reach, and no norm takes a mean over the slice.
    for kind, options in (("unet", {}), ("transunet", OPTIONS)):
        net = build_net(Architecture(kind, channels=(8, 12, 16), norm="none", options=options), 2).eval()
        slices = torch.rand(1, 1, 64, 48, requires_grad=True)
        net(slices)[0, :, :4, :4].sum().backward()
        assert slices.grad is not None
        assert (slices.grad[0, 0, 56:, 40:] != 0).all() == (kind == "transunet")
    # On a slice that is the same everywhere only the embedding tells places apart, looked at far from the borders
    # and at every fourth pixel, since the transposed convolutions have a pattern of four.
    alike = torch.full((1, 1, 160, 160), 0.5)
    with torch.no_grad():
        net.bottom.position.mul_(50)
        assert net(alike)[0, :, 64:96:4, 64:96:4].flatten(1).std(dim=1).min() > 1e-5
        net.bottom.position.zero_()
        assert net(alike)[0, :, 64:96:4, 64:96:4].flatten(1).std(dim=1).max() < 1e-6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dimensions": 3}, "can't have 3 dimensions"),
        ({"options": {"heads": 3}}, "512 is no multiple of the 3 heads"),
        ({"options": {"width": 0}}, "width is a whole number"),
        ({"options": {"layers": 2.5}}, "layers is a whole number"),
        ({"options": {"mlp": "4"}}, "mlp is a whole number"),
        ({"options": {"grid": [4]}}, "grid is two whole numbers"),
        ({"options": {"grid": [4, -1]}}, "grid is two whole numbers"),
        ({"options": {"depth": 3}}, "not depth"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Architecture(kind="transunet", **changes)
