"""The training loop learns, repeats itself, and goes on after a stop as if nothing had been."""

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn
from training_material import CLASSES, SPACING, cached_balls

from radloom.errors import CohortError
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.augment import Augmentation
from radloom.nets.dataset import CachedCase, Preparation, Sampling
from radloom.nets.determinism import be_deterministic
from radloom.nets.distributed import Team
from radloom.nets.fit import Fit, FitSettings, fit
from radloom.nets.folder import ModelDescription
from radloom.nets.losses import SegmentationLoss
from radloom.nets.validation import Validation, validate_cases

WINDOW = (-160.0, 240.0)
CHANGES = Augmentation(("x",), rotate=10, scale=0.1, shift=2, noise_hu=8, blur=0.5, hu_shift=8)
SMALL = Architecture(channels=(4, 8))
BATCHES = SegmentationLoss()
ITEMS = SegmentationLoss(dice_over_batch=False)


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> list[CachedCase]:
    return cached_balls(tmp_path_factory.mktemp("cache"), 6)


def train(
    balls: list[CachedCase],
    settings: FitSettings,
    folder: Path | None = None,
    *,
    architecture: Architecture = SMALL,
    loss: SegmentationLoss = BATCHES,
    patch: tuple[int, ...] = (32, 40),
    report: Callable[[dict[str, Any]], None] | None = None,
    validate: bool = True,
    **sampling: Any,
) -> tuple[bytes, Fit, nn.Module]:
    """Train on the first cases, validate on the last two; returns the weights' bytes, the history and the net."""
    be_deterministic()
    torch.manual_seed(settings.seed)
    net = build_net(architecture, 3)
    spacing = SPACING[: architecture.dimensions]
    description = ModelDescription("t", CLASSES, spacing, WINDOW, architecture, patch=patch if len(patch) == 3 else ())
    preparation = Preparation(patch, WINDOW, None, architecture.slices, CHANGES)

    def judge(current: nn.Module) -> Validation:
        return validate_cases(current, balls[-2:], description, Team())

    made = fit(
        net,
        balls[:-2],
        preparation,
        Sampling(patch, **sampling),
        loss,
        settings,
        judge if validate else None,
        folder,
        report=report,
    )
    return save({k: v.contiguous() for k, v in net.state_dict().items()}), made, net


class Stop(Exception):
    """Stands for a kill."""


def stop_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def report(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise Stop

    return report


def test_it_learns_and_keeps_the_best_epoch(balls: list[CachedCase]) -> None:
    settings = FitSettings(epochs=8, batch=4, learning_rate=0.03)
    _, made, net = train(balls, settings)
    assert made.history[-1]["loss"] < 0.6 * made.history[0]["loss"]
    assert made.best_dice == max(row["dice"] for row in made.history) > 0.6
    assert made.history[made.best_epoch - 1]["dice"] == made.best_dice
    # The net that is handed back is that of the best epoch.
    description = ModelDescription("t", CLASSES, SPACING[:2], WINDOW, Architecture(channels=(4, 8)))
    assert validate_cases(net, balls[-2:], description, Team()).dice == made.best_dice
    assert not net.training
    short = FitSettings(epochs=1, batch=4)
    once = train(balls, short, validate=False)[0]
    assert train(balls, replace(short, seed=1), validate=False)[0] != once
    assert train(balls, replace(short, workers=2), validate=False)[0] == once


def test_a_validation_without_the_classes_takes_the_last_epoch(
    balls: list[CachedCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    last, _, _ = train(balls, FitSettings(epochs=2, batch=8), validate=False)
    nothing = Validation(math.nan, {"ball": math.nan}, {"a": math.nan})
    monkeypatch.setitem(train.__globals__, "validate_cases", lambda *_: nothing)
    weights, made, _ = train(balls, FitSettings(epochs=2, batch=8))
    assert (made.best_epoch, made.best_dice) == (2, -math.inf)
    assert weights == last


def test_workers_change_nothing_also_with_dropout_and_after_a_stop(balls: list[CachedCase], tmp_path: Path) -> None:
    options: dict[str, Any] = {"architecture": Architecture(channels=(4, 8), dropout=0.3), "validate": False}
    alone = FitSettings(epochs=3, batch=8)
    weights = train(balls, alone, **options)[0]
    helped = replace(alone, workers=1)
    assert train(balls, helped, **options)[0] == weights
    with pytest.raises(Stop):
        train(balls, helped, tmp_path, report=stop_after(2), **options)
    assert train(balls, helped, tmp_path, **options)[0] == weights


def test_validation_leaves_the_net_as_it_is(balls: list[CachedCase]) -> None:
    plain = FitSettings(epochs=2, batch=8, channels_last=False)
    made = train(balls, plain)[1]
    # What is learned doesn't depend on whether somebody looks.
    assert [row["loss"] for row in made.history] == [
        row["loss"] for row in train(balls, plain, validate=False)[1].history
    ]
    assert all(0 <= row["dice"] <= 1 for row in made.history)


# Everything that has a state of its own: dropout's generator, the schedules, the scaler, the centres' weights.
RESUMED = {
    "dropout, one cycle, group DRO": (
        Architecture(channels=(4, 8), dropout=0.2),
        FitSettings(epochs=4, batch=4, learning_rate=0.02, robust="group_dro", robust_step=0.1),
    ),
    "plateau, worst centre, accumulation, clipping": (
        Architecture(channels=(4, 8), norm="instance"),
        FitSettings(
            epochs=4,
            batch=3,
            accumulate=2,
            clip_norm=0.5,
            learning_rate=0.01,
            schedule="plateau",
            plateau_patience=0,
            robust="worst_centre",
        ),
    ),
    "float16 with a scaler": (
        Architecture(channels=(4, 8)),
        FitSettings(epochs=4, batch=4, learning_rate=0.02, precision="float16"),
    ),
    "bfloat16, constant rate": (
        Architecture(channels=(4, 8), deep_supervision=True),
        FitSettings(epochs=4, batch=4, learning_rate=0.02, precision="bfloat16", schedule="constant"),
    ),
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_stop_and_a_resume_are_as_if_nothing_had_been(name: str, balls: list[CachedCase], tmp_path: Path) -> None:
    architecture, settings = RESUMED[name]
    options: dict[str, Any] = {"architecture": architecture, "loss": ITEMS}
    weights, made, _ = train(balls, settings, tmp_path / "once", **options)
    for epoch in (2, 3):
        with pytest.raises(Stop):
            train(balls, settings, tmp_path / "stopped", report=stop_after(epoch), **options)
    again, resumed, _ = train(balls, settings, tmp_path / "stopped", **options)
    assert again == weights
    assert resumed.history == made.history
    assert resumed.best_epoch == made.best_epoch
    # Without checkpoints it is the same training, and a finished one is only read again.
    assert train(balls, settings, **options)[0] == weights
    assert train(balls, settings, tmp_path / "once", report=stop_after(1), **options)[0] == weights


def test_a_checkpoint_is_data_and_a_damaged_one_is_refused(balls: list[CachedCase], tmp_path: Path) -> None:
    train(balls, FitSettings(epochs=1, batch=4), tmp_path)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    assert {"net", "optimiser", "schedule", "scaler", "weights", "random", "fit"} == set(content)
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CohortError, match=r"last\.pt can't be read"):
        train(balls, FitSettings(epochs=2, batch=4), tmp_path)


def test_accumulated_batches_are_one_large_batch(balls: list[CachedCase]) -> None:
    """Gradients of equal batches are averaged; with a loss of single items and no batch norm that is the same step."""
    still = Architecture(channels=(4, 8), norm="instance")
    large = FitSettings(epochs=2, batch=12, learning_rate=0.01)
    small = FitSettings(epochs=2, batch=4, accumulate=3, learning_rate=0.01)
    (_, a, first), (_, b, second) = (train(balls, s, architecture=still, loss=ITEMS) for s in (large, small))
    # Sums in another order, through two epochs of AdamW, whose steps don't depend on the gradients' size.
    assert [row["loss"] for row in b.history] == pytest.approx([row["loss"] for row in a.history], rel=1e-3)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=5e-3)


def test_a_rest_of_batches_is_averaged_over_itself(balls: list[CachedCase]) -> None:
    # 6 batches in groups of 4 and 2: the last group's loss must not be divided by 4.
    rates = FitSettings(epochs=1, batch=4, accumulate=4, learning_rate=0.01, schedule="constant")
    made = train(balls, rates, loss=ITEMS)[1]
    assert len(made.history) == 1


def test_gradients_are_clipped_after_the_scale_is_taken_off(balls: list[CachedCase]) -> None:
    seen: list[float] = []
    kept = nn.utils.clip_grad_norm_

    def clip(parameters: Any, largest: float) -> torch.Tensor:
        norm = kept(parameters, largest)
        seen.append(float(norm))
        return norm

    nn.utils.clip_grad_norm_ = clip
    try:
        train(balls, FitSettings(epochs=1, batch=4, precision="float16", clip_norm=1.0))
    finally:
        nn.utils.clip_grad_norm_ = kept
    # The scale begins at 65,536: scaled gradients would be that much larger.
    assert len(seen) == 6
    assert all(norm < 100 for norm in seen)


def test_plateau_lowers_the_rate_and_early_stopping_ends(balls: list[CachedCase]) -> None:
    settings = FitSettings(
        epochs=20,
        batch=4,
        learning_rate=1e-12,
        schedule="plateau",
        plateau_factor=0.5,
        plateau_patience=1,
        early_stopping=4,
    )
    # A net that doesn't change has the same Dice in every epoch but the first ones, when batch norm settles.
    made = train(balls, settings, architecture=Architecture(channels=(4, 8), norm="instance"))[1]
    assert len(made.history) == 5
    assert made.best_epoch == 1
    assert made.history[-1]["learning_rate"] == 0.5e-12


def test_one_cycle_rises_and_falls(balls: list[CachedCase]) -> None:
    rates = [row["learning_rate"] for row in train(balls, FitSettings(epochs=6, batch=8), validate=False)[1].history]
    assert rates[0] < max(rates) <= 1e-3
    assert rates[-1] < 0.3 * max(rates)


def test_validation_only_when_it_is_due(balls: list[CachedCase]) -> None:
    made = train(balls, FitSettings(epochs=5, batch=8, validate_every=2))[1]
    assert ["dice" in row for row in made.history] == [False, True, False, True, True]


def test_three_dimensions_and_neighbouring_slices(balls: list[CachedCase]) -> None:
    volume = Architecture(dimensions=3, channels=(4, 8))
    made = train(
        balls, FitSettings(epochs=2, batch=2), architecture=volume, patch=(4, 16, 16), samples=6, foreground=0.7
    )[1]
    assert 0 <= made.history[-1]["dice"] <= 1
    made = train(balls, FitSettings(epochs=2, batch=8), architecture=Architecture(slices=3, channels=(4, 8)))[1]
    assert made.history[1]["loss"] < made.history[0]["loss"]


def test_multi_label_outputs_learn(balls: list[CachedCase]) -> None:
    be_deterministic()
    torch.manual_seed(0)
    architecture = Architecture(channels=(4, 8))
    net = build_net(architecture, 2)
    description = ModelDescription("t", CLASSES, SPACING[:2], WINDOW, architecture, "sigmoid")
    made = fit(
        net,
        balls[:-2],
        Preparation((32, 40), WINDOW),
        Sampling((32, 40)),
        SegmentationLoss("sigmoid"),
        FitSettings(epochs=8, batch=4, learning_rate=0.03),
        lambda current: validate_cases(current, balls[-2:], description, Team()),
    )
    # The core, 1 voxel in 100, takes longer than the ball around it.
    assert made.history[-1]["by_class"]["ball"] > 0.8


def test_a_loss_that_is_no_number_stops(balls: list[CachedCase]) -> None:
    with pytest.raises(CohortError, match="loss of epoch 1 is not finite"):
        train(balls, FitSettings(epochs=2, batch=4, learning_rate=1e30, schedule="constant"), validate=False)


def test_what_cant_be(balls: list[CachedCase]) -> None:
    with pytest.raises(CohortError, match="dice_over to item"):
        train(balls, FitSettings(robust="group_dro"))
    with pytest.raises(CohortError, match="fewer than a batch"):
        train(balls, FitSettings(batch=1000))
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"epochs": 0}, "epochs"),
        ({"schedule": "cosine"}, "schedule"),
        ({"precision": "int8"}, "precision"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ]
    for options, what in wrong:
        with pytest.raises(ValueError, match=what):
            FitSettings(**options)


SCRIPT = """
import sys, torch
from pathlib import Path
from test_fit import train
from training_material import cached_balls
from radloom.nets.architecture import Architecture
from radloom.nets.fit import FitSettings
import radloom.nets.fit as module
from radloom.nets.distributed import join_team, leave_team
team = join_team("cpu")
kept = module.fit
import test_fit
test_fit.fit = lambda *args, **options: kept(*args, **{**options, "team": team})
test_fit.Team = lambda: team
balls = cached_balls(Path(sys.argv[1]), 6)
settings = FitSettings(epochs=2, batch=3, learning_rate=0.01, robust=sys.argv[3], robust_step=0.1)
_, made, net = train(balls, settings, architecture=Architecture(channels=(4, 8), norm="instance"), loss=test_fit.ITEMS)
if team.leads:
    torch.save({"history": made.history, "net": net.state_dict()}, sys.argv[2])
# With batch normalisation, whose statistics each process has of its own share.
small = Architecture(channels=(4, 8))
_, made, net = train(balls, FitSettings(epochs=5, batch=3, learning_rate=0.03), architecture=small)
if team.leads:
    description = test_fit.ModelDescription("t", test_fit.CLASSES, test_fit.SPACING[:2], test_fit.WINDOW, small)
    alone = test_fit.validate_cases(net, balls[-2:], description, type(team)())
    assert 0 < alone.dice == made.best_dice, (alone, made.history)
leave_team(team)
"""


def test_two_processes_learn_what_one_does_with_twice_the_batch(
    balls: list[CachedCase], tmp_path: Path, repo: Path
) -> None:
    robust = "group_dro"  # which exchanges losses as well as gradients
    (tmp_path / "script.py").write_text(SCRIPT)
    path = [repo / "workflow", repo / "tests" / "helpers", Path(__file__).parent]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "script.py"), str(balls[0].folder.parent), str(tmp_path / "made.pt"), robust]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    both = torch.load(tmp_path / "made.pt", weights_only=True)
    settings = FitSettings(epochs=2, batch=6, learning_rate=0.01, robust=robust, robust_step=0.1)
    _, alone, net = train(balls, settings, architecture=Architecture(channels=(4, 8), norm="instance"), loss=ITEMS)
    # The same items in the same steps; only the order of the sums differs (float32), through 8 steps of AdamW.
    assert [row["loss"] for row in both["history"]] == pytest.approx([row["loss"] for row in alone.history], rel=1e-4)
    assert math.isclose(both["history"][-1]["dice"], alone.history[-1]["dice"], abs_tol=0.01)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(both["net"][name], value, rtol=0, atol=2e-3)
