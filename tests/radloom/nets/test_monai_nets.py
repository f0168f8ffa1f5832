"""Nets of MONAI are taken where they fit, and MONAI's own nets give the logits of ours."""

import sys

import pytest
import torch
from living_nets import enliven
from torch import nn

from radloom.nets.architecture import Architecture, build_net, read_architecture
from radloom.nets.blocks import double_convolution
from radloom.nets.dropout import monte_carlo

pytest.importorskip("monai")


@pytest.mark.parametrize(
    ("name", "dimensions", "options"),
    [
        ("UNet", 2, {"channels": [4, 8], "strides": [2], "multiple": 2}),
        ("BasicUNet", 3, {"features": [2, 2, 2, 4, 4, 2], "norm": "batch", "multiple": 16}),
        ("BasicUNetPlusPlus", 2, {"features": [2, 2, 2, 4, 4, 2]}),
        ("SegResNet", 3, {"init_filters": 8, "multiple": [8, 8, 8]}),
    ],
)
def test_a_net_of_monai_is_a_net(name: str, dimensions: int, options: dict[str, object]) -> None:
    architecture = read_architecture({"kind": f"monai:{name}", "dimensions": dimensions, "options": options})
    torch.manual_seed(0)
    net = build_net(architecture, 3)
    assert net.training
    # At the smallest size the lowest level has one voxel, over which no norm is possible.
    images = torch.rand(2, 1, *(2 * length for length in net.multiple))
    logits = net(images)
    assert logits.shape == (2, 3, *images.shape[2:])
    logits.square().sum().backward()
    net.eval().requires_grad_(False)
    assert torch.equal(net(images), net(images))
    assert list(build_net(architecture, 3).state_dict()) == list(net.state_dict())


def test_sizes_that_do_not_fit_are_refused_before_monai_sees_them() -> None:
    net = build_net(Architecture("monai:UNet", options={"channels": [4, 8], "strides": [2], "multiple": 4}), 2)
    with pytest.raises(ValueError, match=r"multiples of \(4, 4\)"):
        net(torch.rand(1, 1, 6, 8))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "monai:Nonsense"}, "has no net 'Nonsense'"),
        ({"kind": "monai:"}, "has no net ''"),
        ({"kind": "monai:__name__"}, "has no net '__name__'"),
        ({"options": {"feature": [1]}}, "can't be built: .*unexpected keyword argument 'feature'"),
        ({"options": {"features": [1, 2]}}, "can't be built"),
        ({"options": {"act": ["os.system", {}]}}, "can't be built: Unsupported option"),
        ({"options": {"in_channels": 2}}, "in_channels of a net of MONAI follows from the model"),
        ({"kind": "monai:FlexibleUNet", "options": {"backbone": "resnet18", "pretrained": True}}, "never from elsewh"),
        ({"kind": "monai:DenseNet121"}, r"makes \(2, 2\) of images"),
        ({"kind": "monai:BasicUNetPlusPlus", "options": {"deep_supervision": True}}, "without deep supervision"),
        ({"options": {"multiple": 4}}, "fails on images of"),
        ({"options": {"multiple": [32]}}, "multiple and img_size are numbers"),
        ({"options": {"multiple": 1e9}}, "multiple and img_size are numbers"),
        ({"dropout": 0.5}, "dropout does nothing in a net of kind 'monai:"),
        ({"channels": [4, 8]}, "channels does nothing in a net of kind 'monai:"),
        ({"deep_supervision": True}, "deep_supervision does nothing"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_net(read_architecture({"kind": "monai:BasicUNet", **changes}), 2)


def test_without_monai_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(ValueError, match=r"pip install -e '.\[monai\]'"):
        build_net(Architecture("monai:UNet"), 2)


def test_a_net_of_monai_has_no_seeded_dropout() -> None:
    net = build_net(Architecture("monai:BasicUNet", options={"dropout": 0.1, "features": [2] * 6}), 2)
    with pytest.raises(ValueError, match="has no dropout"), monte_carlo(net, [1]):
        pass


def copy_layers(source: list[nn.Module], target: list[nn.Module]) -> None:
    """Weights from layer to layer; the convolutions that have no bias in ours get a zero one."""
    assert len(source) == len(target)
    for ours, theirs in zip(source, target, strict=True):
        state = ours.state_dict()
        missing = theirs.load_state_dict(state, strict=False)
        assert not missing.unexpected_keys
        assert missing.missing_keys in ([], ["bias"])
        if missing.missing_keys:
            nn.init.zeros_(theirs.bias)


def layers(net: nn.Module) -> list[nn.Module]:
    kinds = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.BatchNorm2d, nn.InstanceNorm3d)
    return [module for module in net.modules() if isinstance(module, kinds)]


def test_monais_basic_unet_gives_the_same_logits() -> None:
    from monai.networks.nets import BasicUNet

    torch.manual_seed(0)
    # MONAI's last step up doesn't halve the channels, so that the first two levels must have as many.
    images = torch.randn(2, 1, 32, 48)
    net = enliven(build_net(Architecture(channels=(4, 4, 8, 16, 32)), 5), images)
    other = BasicUNet(2, 1, 5, features=(4, 4, 8, 16, 32, 4), act="relu", norm="batch").eval()
    ours = layers(net.first) + layers(net.down)
    for up, merge in zip(net.up, net.merge, strict=True):
        ours += [up, *layers(merge)]
    copy_layers([*ours, net.last], layers(other))
    torch.testing.assert_close(other(images), net(images), rtol=0, atol=1e-5)


def test_monais_dyn_unet_gives_the_same_logits_in_3d() -> None:
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    images = torch.randn(2, 1, 8, 12, 16)
    net = enliven(build_net(Architecture(dimensions=3, channels=(4, 6, 8), norm="instance"), 5), images)
    other = DynUNet(
        3,
        1,
        5,
        kernel_size=[3, 3, 3],
        strides=[1, 2, 2],
        upsample_kernel_size=[2, 2],
        filters=[4, 6, 8],
        norm_name=("instance", {"affine": True}),
        act_name="relu",
        trans_bias=True,
    ).eval()

    def block(ours: nn.Module, theirs: nn.Module) -> None:
        convolutions_first = [theirs.conv1.conv, theirs.norm1, theirs.conv2.conv, theirs.norm2]
        copy_layers(layers(ours), convolutions_first)

    block(net.first, other.input_block)
    block(net.down[0], other.downsamples[0])
    block(net.down[1], other.bottleneck)
    for up, merge, step in zip(net.up, net.merge, other.upsamples, strict=True):
        copy_layers([up], [step.transp_conv.conv])
        block(merge, step.conv_block)
        # It concatenates the enlarged maps before the level's own.
        weight = step.conv_block.conv1.conv.weight.data
        step.conv_block.conv1.conv.weight.data = torch.cat(weight.chunk(2, dim=1)[::-1], dim=1)
    copy_layers([net.last], [other.output_block.conv.conv])
    torch.testing.assert_close(other(images), net(images), rtol=0, atol=1e-5)


def test_monais_residual_block_gives_the_same_maps() -> None:
    from monai.networks.blocks.dynunet_block import UnetResBlock

    torch.manual_seed(0)
    maps = torch.randn(2, 3, 12, 8)
    ours = enliven(double_convolution(3, 5, residual=True, stride=2), maps)
    theirs = UnetResBlock(2, 3, 5, 3, 2, "batch", act_name="relu").eval()
    targets = [theirs.conv1.conv, theirs.norm1, theirs.conv2.conv, theirs.norm2, theirs.conv3.conv, theirs.norm3]
    copy_layers(layers(ours), targets)
    torch.testing.assert_close(theirs(maps), ours(maps), rtol=0, atol=1e-6)
