"""Dice of whole cases, and the temperature of a net in training."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from training_material import CLASSES, SPACING, cached_balls

from radloom.nets import validation
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.distributed import Team
from radloom.nets.folder import ModelDescription
from radloom.nets.validation import calibrate_net, dice_of_classes, summarise, validate_cases


def test_dice_by_hand_and_classes_that_are_not_there() -> None:
    truth = np.array([[[1, 1, 0, 0, 0, 0]]], np.uint8)
    found = np.array([[[1, 0, 1, 3, 0, 0]]], np.uint8)
    dice = dice_of_classes(found, truth, 3)
    assert dice[0] == 0.5
    assert np.isnan(dice[1:]).all()  # absent, and a false positive
    assert dice_of_classes(np.zeros_like(truth), truth, 1)[0] == 0


def test_means_over_cases_classes_and_centres() -> None:
    dice = {"x": np.array([0.2, math.nan]), "y": np.array([0.6, 0.9]), "z": np.array([math.nan, math.nan])}
    made = summarise(dice, {"x": "a", "y": "b", "z": "c"}, {1: "one", 2: "two"})
    assert made.by_class == pytest.approx({"one": 0.4, "two": 0.9})
    assert made.dice == pytest.approx(0.65)
    assert made.by_centre == pytest.approx({"a": 0.2, "b": 0.75, "c": math.nan}, nan_ok=True)


def test_a_net_in_training_predicts_as_the_finished_model_will(tmp_path: Path) -> None:
    cases = cached_balls(tmp_path, 2, (5, 30, 37))  # sizes that no net takes without padding
    torch.manual_seed(3)
    architecture = Architecture(channels=(4, 8))
    net = build_net(architecture, 3)
    description = ModelDescription("t", CLASSES, SPACING[:2], (-160.0, 240.0), architecture)
    first = validate_cases(net, cases, description, Team())
    assert 0 <= first.dice <= 1
    assert validate_cases(net, cases, description, Team()) == first
    fit = calibrate_net(net, cases, description, "cpu", 0)
    assert fit.nll_after <= fit.nll_before
    # 2 cases of 5 slices of 30 x 37 voxels, at most 20,000 of each.
    assert fit.voxels == 2 * 5 * 30 * 37


def test_as_many_voxels_are_drawn_however_high_a_slab_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "VOXELS_DRAWN", 1000)
    cases = cached_balls(tmp_path, 2, (16, 16, 16))
    torch.manual_seed(3)
    for architecture, patch in (
        (Architecture(channels=(4, 8)), ()),
        (Architecture("unet", 3, channels=(4, 8)), (16,) * 3),
    ):
        description = ModelDescription(
            "t", CLASSES, SPACING[: architecture.dimensions], (-160.0, 240.0), architecture, patch=patch
        )
        fit = calibrate_net(build_net(architecture, 3), cases, description, "cpu", 0)
        assert fit.voxels == 1000 // 32 * 32
