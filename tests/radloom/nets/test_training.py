"""Training learns, does so alike twice, and judges on phantoms that it hasn't seen."""

import math

import numpy as np
import pytest
import torch

from radloom.nets.architecture import Architecture
from radloom.nets.folder import ModelDescription
from radloom.nets.training import (
    TrainingSettings,
    dice_coefficient,
    held_out_dice,
    segmentation_loss,
    train,
    training_phantoms,
    training_slices,
)

DESCRIPTION = ModelDescription(
    name="test",
    classes={1: "organ", 2: "tumour"},
    spacing=(4.0, 4.0),
    hu_window=(-160.0, 240.0),
    architecture=Architecture(channels=(4, 8, 16)),
)
SETTINGS = TrainingSettings(epochs=4, patch=(40, 52))


def test_training_learns_the_organ_and_repeats_itself() -> None:
    phantoms = training_phantoms(range(8))
    losses: list[float] = []
    net = train(phantoms, DESCRIPTION, SETTINGS, lambda _, loss: losses.append(loss))
    assert len(losses) == SETTINGS.epochs
    assert losses[-1] < 0.7 * losses[0]
    dice = held_out_dice(net, DESCRIPTION, training_phantoms([900_100, 900_101, 900_102]))
    assert np.mean(dice["organ"]) > 0.8

    again = train(phantoms, DESCRIPTION, SETTINGS)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in net.state_dict().items())


def test_another_seed_is_another_net() -> None:
    phantoms = training_phantoms([0])
    chosen = [TrainingSettings(epochs=1, patch=(40, 52), seed=seed) for seed in (0, 1)]
    nets = [train(phantoms, DESCRIPTION, settings).last.weight for settings in chosen]
    assert not torch.equal(*nets)


def test_slices_have_the_nets_spacing_and_the_phantoms_volumes() -> None:
    phantoms = training_phantoms([4])
    images, labels = training_slices(phantoms, (2.5, 2.5), (64, 80))
    assert images.shape == labels.shape == (len(phantoms[0].image), 64, 80)
    sx, sy, sz = phantoms[0].spacing
    for label in (1, 2):
        truth = (phantoms[0].labels == label).sum() * sx * sy * sz
        assert (labels == label).sum().item() * 2.5 * 2.5 * sz == pytest.approx(truth, rel=0.05)
    # Air is added around what is smaller than the patch.
    wide, around = training_slices(phantoms, (2.5, 2.5), (200, 200))
    assert (wide[:, :10] == -1000).all()
    assert (around[:, :10] == 0).all()


def test_every_tenth_patient_has_no_tumour() -> None:
    assert [bool((p.labels == 2).any()) for p in training_phantoms([8, 9, 10])] == [True, False, True]


def test_too_few_slices_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than a batch"):
        train(training_phantoms([0]), DESCRIPTION, TrainingSettings(epochs=1, batch=1000, patch=(40, 52)))


def test_loss_by_hand() -> None:
    labels = torch.tensor([[[0, 1], [1, 0]]])
    logits = torch.zeros(1, 2, 2, 2)
    # p = 1/2 everywhere: cross entropy log 2, soft Dice (2 * 1 + 1) / (2 + 2 + 1).
    assert segmentation_loss(logits, labels).item() == pytest.approx(math.log(2) + 1 - 3 / 5)
    perfect = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1) * 100.0
    assert segmentation_loss(perfect, labels).item() == pytest.approx(0, abs=1e-5)


def test_dice_by_hand() -> None:
    first, second = np.array([1, 1, 0, 0], bool), np.array([1, 0, 1, 0], bool)
    assert dice_coefficient(first, second) == 0.5
    assert dice_coefficient(first, first) == 1.0
    assert dice_coefficient(first, ~first) == 0.0
    assert math.isnan(dice_coefficient(first & ~first, second & ~second))
