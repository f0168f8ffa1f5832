"""Losses against torch's own, MONAI's and closed forms."""

import math

import pytest
import torch
from torch.nn import functional

from radloom.nets.losses import SegmentationLoss, class_masks, deep_supervision_weights, shrink_labels

NOTHING = {"cross_entropy": 0.0, "dice": 0.0, "focal": 0.0}


def batch(channels: int = 4, seed: int = 0, shape: tuple[int, ...] = (6, 7)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, channels, (3, *shape), generator=generator)
    return torch.randn(3, channels, *shape, generator=generator), labels


def test_cross_entropy_is_torchs_with_and_without_weights() -> None:
    logits, labels = batch()
    for weights in ((), (0.5, 1.0, 2.0, 0.0)):
        expected = functional.cross_entropy(
            logits, labels, torch.tensor(weights) if weights else None, reduction="none"
        ).mean(dim=(1, 2))
        found = SegmentationLoss(**NOTHING | {"cross_entropy": 1.0}, class_weights=weights)(logits, labels)
        torch.testing.assert_close(found, expected)


def test_multi_label_cross_entropy_is_torchs_bce_with_logits() -> None:
    logits, labels = batch()
    truth = torch.stack([labels == number for number in (1, 2, 3, 4)], dim=1).float()  # no voxel is of class 4
    weights = torch.tensor([1.0, 3.0, 0.5, 2.0])
    expected = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    plain = SegmentationLoss("sigmoid", cross_entropy=1, dice=0)(logits, labels)
    torch.testing.assert_close(plain, expected.mean(dim=(1, 2, 3)))
    weighted = SegmentationLoss("sigmoid", cross_entropy=1, dice=0, class_weights=tuple(weights.tolist()))
    torch.testing.assert_close(weighted(logits, labels), (expected * weights[:, None, None]).mean(dim=(1, 2, 3)))


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
@pytest.mark.parametrize("over_batch", [True, False])
def test_soft_dice_is_monais(outputs: str, over_batch: bool) -> None:
    monai = pytest.importorskip("monai.losses")
    logits, labels = batch(shape=(4, 5, 6))
    if outputs == "sigmoid":
        truth = class_masks(labels, 4)
        oracle = monai.DiceLoss(sigmoid=True, smooth_nr=2.0, smooth_dr=2.0, batch=over_batch, reduction="none")
    else:
        truth = functional.one_hot(labels, 4).movedim(-1, 1).float()
        oracle = monai.DiceLoss(
            softmax=True, include_background=False, smooth_nr=2.0, smooth_dr=2.0, batch=over_batch, reduction="none"
        )
    expected = oracle(logits, truth)
    expected = expected.mean().expand(3) if over_batch else expected.flatten(1).mean(dim=1)
    loss = SegmentationLoss(outputs, cross_entropy=0, dice=1, dice_epsilon=2.0, dice_over_batch=over_batch)
    torch.testing.assert_close(loss(logits, labels), expected)


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_focal_loss_is_monais_and_without_gamma_the_cross_entropy(outputs: str) -> None:
    monai = pytest.importorskip("monai.losses")
    logits, labels = batch()
    loss = SegmentationLoss(outputs, cross_entropy=0, dice=0, focal=1, focal_gamma=2.0)
    if outputs == "sigmoid":
        expected = monai.FocalLoss(gamma=2.0, reduction="none")(logits, class_masks(labels, 4)).mean(dim=(1, 2, 3))
    else:
        truth = functional.one_hot(labels, 4).movedim(-1, 1).float()
        # MONAI averages over the channels, all but one of which are 0.
        expected = 4 * monai.FocalLoss(gamma=2.0, use_softmax=True, reduction="none")(logits, truth).mean(dim=(1, 2, 3))
    torch.testing.assert_close(loss(logits, labels), expected)
    flat = SegmentationLoss(outputs, cross_entropy=0, dice=0, focal=1, focal_gamma=0.0)
    entropy = SegmentationLoss(outputs, cross_entropy=1, dice=0)
    torch.testing.assert_close(flat(logits, labels), entropy(logits, labels))


@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_a_voxel_that_is_certain_has_a_focal_gradient(outputs: str) -> None:
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    logits = torch.full((1, 2, 2, 2), -200.0)
    logits[:, 0] = 200.0 if outputs == "softmax" else -200.0
    logits.requires_grad_()
    SegmentationLoss(outputs, cross_entropy=0, dice=0, focal=1, focal_gamma=0.5)(logits, labels).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.zeros(1, 2, 2, 2)
    # p = 1/2 everywhere: cross entropy log 2, soft Dice (2 * 1 + 1) / (2 + 2 + 1).
    assert SegmentationLoss()(logits, labels).item() == pytest.approx(math.log(2) + 1 - 3 / 5)
    assert SegmentationLoss(cross_entropy=3, dice=0.5, focal=2)(logits, labels).item() == pytest.approx(
        3 * math.log(2) + 0.5 * 0.4 + 2 * 0.25 * math.log(2)
    )
    perfect = functional.one_hot(labels, 2).movedim(-1, 1) * 100.0
    assert SegmentationLoss()(perfect, labels).item() == pytest.approx(0, abs=1e-5)


def test_an_absent_class_that_is_not_found_costs_nothing() -> None:
    labels = torch.zeros(2, 3, 3, dtype=torch.long)
    logits = torch.stack([torch.full((2, 3, 3), 50.0), torch.full((2, 3, 3), -50.0)], dim=1)
    assert SegmentationLoss(cross_entropy=0)(logits, labels).max().item() == pytest.approx(0, abs=1e-6)


def test_half_precision_loses_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 3, 300, 300, generator=generator).half()
    labels = torch.randint(0, 3, (1, 300, 300), generator=generator)
    # 90,000 voxels are more than float16's largest number.
    torch.testing.assert_close(SegmentationLoss()(logits, labels), SegmentationLoss()(logits.float(), labels))


def test_deep_supervision_is_the_weighted_mean_of_the_levels() -> None:
    fine, labels = batch()
    coarse = torch.randn(3, 4, 3, 4, generator=torch.Generator().manual_seed(2))
    loss = SegmentationLoss()
    assert deep_supervision_weights(3) == [4 / 7, 2 / 7, 1 / 7]
    shrunk = shrink_labels(labels, (3, 4))
    assert shrunk[0, 0, 0] in labels[0, :2, :2]
    expected = 2 / 3 * loss(fine, labels) + 1 / 3 * loss(coarse, shrunk)
    torch.testing.assert_close(loss([fine, coarse], labels), expected)
    torch.testing.assert_close(loss([fine, fine], labels), loss(fine, labels))


def test_what_cant_be() -> None:
    with pytest.raises(ValueError, match="sum of nothing"):
        SegmentationLoss(cross_entropy=0, dice=0)
    with pytest.raises(ValueError, match="dice_epsilon"):
        SegmentationLoss(dice_epsilon=0)
    with pytest.raises(ValueError, match="negative"):
        SegmentationLoss(class_weights=(1, -1))


@pytest.mark.parametrize("over_batch", [True, False])
def test_soft_dice_of_present_classes_is_the_mean_over_these(over_batch: bool) -> None:
    logits, _ = batch(channels=3)
    labels = torch.zeros(3, 6, 7, dtype=torch.long)
    labels[0, :2], labels[1, 2:4] = 1, 3  # the third item has no class, and nobody has class 2
    of_each = []
    for number, items in ((1, [0]), (3, [1])):
        chosen = range(3) if over_batch else items
        probability = logits[list(chosen), number - 1].sigmoid()
        truth = labels[list(chosen)] == number
        of_each.append(1 - (2 * probability[truth].sum() + 1) / (probability.sum() + truth.sum() + 1))
    expected = torch.stack(of_each).mean().expand(3) if over_batch else torch.stack([*of_each, torch.tensor(0.0)])
    loss = SegmentationLoss("sigmoid", cross_entropy=1, dice=1, dice_of="present", dice_over_batch=over_batch)
    entropy = SegmentationLoss("sigmoid", cross_entropy=1, dice=0)(logits, labels)
    torch.testing.assert_close(loss(logits, labels) - entropy, expected)


def test_dice_of_something_else_is_refused() -> None:
    with pytest.raises(ValueError, match="dice_of is all or present"):
        SegmentationLoss(dice_of="some")
    with pytest.raises(ValueError, match="needs cross_entropy or focal"):
        SegmentationLoss(cross_entropy=0, dice_of="present")
