"""The training loop: AdamW, a schedule, mixed precision, checkpoints, and a resume that continues bit for bit.

A checkpoint holds tensors, numbers and text alone and is read with `weights_only`, so that no program can be in it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from radloom.errors import CohortError
from radloom.nets.dataset import CachedCase, EpochBatches, Patches, Preparation, Sampling, make_loader
from radloom.nets.distributed import Team, gather, share_buffers, share_net, sum_over, wait
from radloom.nets.losses import SegmentationLoss
from radloom.nets.robust import make_weighting
from radloom.nets.validation import Validation

LAST, BEST = "last.pt", "best.pt"
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class FitSettings:
    """How a net is trained. Raises ValueError for what can't be."""

    epochs: int = 100
    batch: int = 8
    """Items of a process that go through the net at once."""
    accumulate: int = 1
    """Batches whose gradients are averaged before the weights change."""
    learning_rate: float = 1e-3
    """The schedule's highest."""
    weight_decay: float = 1e-3
    schedule: str = "one_cycle"
    """`one_cycle` (Smith 2018), `plateau` (lower where the validation Dice stays) or `constant`."""
    plateau_factor: float = 0.3
    plateau_patience: int = 5
    """Validations without a better Dice after which `plateau` lowers the rate."""
    clip_norm: float | None = None
    """Largest norm of all gradients together."""
    precision: str = "float32"
    """`float32`, or autocast to `bfloat16` or `float16` (with a scaler of the loss)."""
    channels_last: bool = True
    compile: bool = False
    validate_every: int = 1
    """Epochs between validations; the last epoch is always validated."""
    early_stopping: int | None = None
    """Validations without a better Dice after which the training ends."""
    robust: str = "none"
    robust_step: float = 0.01
    robust_factor: float = 2.0
    workers: int = 0
    """Processes that make items; they change nothing but the time."""
    seed: int = 0
    deterministic: bool = True

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.accumulate, self.validate_every) < 1 or self.workers < 0:
            raise ValueError("epochs, batch, accumulate and validate_every are at least 1, workers at least 0")
        if self.schedule not in ("one_cycle", "plateau", "constant"):
            raise ValueError(f"schedule is one_cycle, plateau or constant, not {self.schedule!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.learning_rate <= 0 or self.weight_decay < 0 or (self.clip_norm is not None and self.clip_norm <= 0):
            raise ValueError("learning_rate and clip_norm are above 0, weight_decay at least 0")
        if self.robust == "group_dro" and not 0 <= self.robust_step < math.inf:
            raise ValueError("robust_step is at least 0")


@dataclass
class Fit:
    """How a training went; the net holds the weights of the best epoch."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """A row an epoch: epoch, loss, learning_rate, and where it was validated dice, dice of classes and centres."""
    best_epoch: int = 0
    best_dice: float = -math.inf


def fit(
    net: nn.Module,
    cases: Sequence[CachedCase],
    preparation: Preparation,
    sampling: Sampling,
    loss: SegmentationLoss,
    settings: FitSettings,
    validate: Callable[[nn.Module], Validation] | None = None,
    checkpoints: Path | None = None,
    team: Team | None = None,
    report: Callable[[dict[str, Any]], None] | None = None,
) -> Fit:
    """Train `net` in place, on the team's device; what it returns has the weights of the epoch with the best Dice.

    Without `validate`, or where no Dice can be estimated, the last epoch is the best. With `checkpoints`, a folder,
    every epoch is kept there as the last one, and a training that was stopped goes on after it as if nothing had been.
    The folder belongs to one training: whoever calls changes it when settings or data change. `report` is called with
    every epoch's row of the history.
    Raises CohortError for too few items, for a loss that doesn't fit `robust`, and when it is no longer a number.
    """
    team = team or Team()
    if settings.robust != "none" and loss.dice and loss.dice_over_batch:
        raise CohortError("training: robust looks at single items: set the loss' dice_over to item")
    patches = Patches(cases, preparation)
    batches = EpochBatches(cases, sampling, settings.batch, settings.seed, team.rank, team.world)
    loader = make_loader(patches, batches, settings.workers, cuda=team.cuda)
    weighting = make_weighting(settings.robust, patches.centres, team, settings.robust_step, settings.robust_factor)
    if team.cuda and team.world > 1:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    form = torch.channels_last if len(sampling.patch) == 2 else torch.channels_last_3d
    net.to(team.device)
    if settings.channels_last:
        net.to(memory_format=form)  # type: ignore[call-overload]
    # Each process drops maps of its own.
    torch.manual_seed(settings.seed + team.rank)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    updates = math.ceil(len(batches) / settings.accumulate)
    schedule = _schedule(optimiser, settings, updates)
    scaler = torch.amp.GradScaler(team.device.split(":")[0], enabled=settings.precision == "float16")
    state = _State(net, optimiser, schedule, scaler, weighting, team)
    made = state.load(checkpoints / LAST) if checkpoints is not None else Fit()
    wait(team)
    shared = share_net(team, net)
    if settings.compile:
        torch.use_deterministic_algorithms(settings.deterministic)  # tells the compiler as well
    model = torch.compile(shared) if settings.compile else shared
    stale = sum(1 for row in made.history[made.best_epoch :] if "dice" in row)
    for epoch in range(len(made.history) + 1, settings.epochs + 1):
        if settings.early_stopping is not None and stale >= settings.early_stopping:
            break
        batches.epoch = epoch
        net.train()
        # On the device: to read each loss at once would let the card wait for the host.
        total = torch.zeros((), dtype=torch.float64, device=team.device)
        rate = optimiser.param_groups[0]["lr"]
        for step, (inputs, labels, centres) in enumerate(_with_bar(loader, epoch, settings.epochs, team)):
            ends = (step + 1) % settings.accumulate == 0 or step + 1 == len(batches)
            group = min(settings.accumulate, len(batches) - step // settings.accumulate * settings.accumulate)
            inputs = inputs.to(team.device, non_blocking=True)
            if settings.channels_last:
                inputs = inputs.contiguous(memory_format=form)
            labels, centres = (part.to(team.device, non_blocking=True) for part in (labels, centres))
            with contextlib.ExitStack() as stack:
                if not ends and team.world > 1:
                    stack.enter_context(shared.no_sync())  # type: ignore[operator]
                with _autocast(settings.precision, team):
                    logits = model(inputs)
                one = weighting(loss(logits, labels), centres)
                scaler.scale(one / group).backward()
            total += one.detach()
            if ends:
                if settings.clip_norm is not None:
                    scaler.unscale_(optimiser)  # or the scaled gradients would be clipped
                    nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
                scaler.step(optimiser)
                scaler.update()
                optimiser.zero_grad(set_to_none=True)
                if settings.schedule == "one_cycle":
                    schedule.step()
        mean = float(sum_over(team, total)) / team.world
        row: dict[str, Any] = {"epoch": epoch, "loss": mean / len(batches), "learning_rate": rate}
        if not math.isfinite(row["loss"]):
            raise CohortError(
                f"training: the loss of epoch {epoch} is not finite; lower learning_rate, set clip_norm, or train in "
                "float32"
            )
        if validate is not None and (epoch % settings.validate_every == 0 or epoch == settings.epochs):
            net.eval()
            share_buffers(team, net)  # what is judged is the net that is kept
            with torch.inference_mode():
                found = validate(net)
            weighting.validated(found.by_centre)
            row |= {"dice": found.dice, "by_class": found.by_class, "by_centre": found.by_centre}
            if settings.schedule == "plateau":
                schedule.step(found.dice)
            stale += 1
            if found.dice > made.best_dice:
                stale = 0
        if settings.robust != "none":
            row["weights"] = dict(zip(patches.centres, weighting.weights.tolist(), strict=True))
        made.history.append(row)
        better = validate is None or ("dice" in row and row["dice"] > made.best_dice)
        if better:
            made.best_epoch, made.best_dice = epoch, row.get("dice", math.nan)
            state.keep_best(checkpoints)
        state.save(checkpoints, made)
        if report is not None and team.leads:
            report(row)
    if made.best_epoch:
        state.take_best(checkpoints)
    else:  # the validation has none of the classes, and chooses no epoch
        made.best_epoch = len(made.history)
    wait(team)
    net.eval().requires_grad_(False)
    return made


def _autocast(precision: str, team: Team) -> Any:
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(team.device.split(":")[0], dtype=PRECISIONS[precision])


def _schedule(optimiser: torch.optim.Optimizer, settings: FitSettings, updates: int) -> Any:
    if settings.schedule == "one_cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=updates
        )
    if settings.schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimiser, mode="max", factor=settings.plateau_factor, patience=settings.plateau_patience, eps=0
        )
    return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda _: 1.0)


def _with_bar(loader: Any, epoch: int, epochs: int, team: Team) -> Iterator[Any]:
    """The loader's batches, with a progress bar where somebody is looking."""
    if not team.leads or not sys.stderr.isatty():
        return iter(loader)
    from tqdm import tqdm  # not above: the core needs no more than torch, numpy, scipy and safetensors

    return iter(tqdm(loader, f"epoch {epoch}/{epochs}", leave=False, unit="batch"))


class _State:
    """All that decides how a training goes on."""

    def __init__(self, net: nn.Module, optimiser: Any, schedule: Any, scaler: Any, weighting: Any, team: Team) -> None:
        self.net, self.optimiser, self.schedule, self.scaler = net, optimiser, schedule, scaler
        self.weighting, self.team = weighting, team
        self._best: dict[str, torch.Tensor] | None = None

    def save(self, folder: Path | None, made: Fit) -> None:
        """Write the last checkpoint."""
        if folder is None:
            return
        random = gather(self.team, self._random())
        if self.team.leads:
            content = {
                "net": self.net.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": {k: v for k, v in self.schedule.state_dict().items() if _keepable(v)},
                "scaler": self.scaler.state_dict(),
                "weights": self.weighting.weights,
                "random": random,
                "fit": {"history": made.history, "best_epoch": made.best_epoch, "best_dice": made.best_dice},
            }
            _write(folder / LAST, content)
        wait(self.team)

    def load(self, path: Path) -> Fit:
        """Go back to a checkpoint; where there is none, a fresh start."""
        if not path.is_file():
            return Fit()
        try:
            content = torch.load(path, map_location=self.team.device, weights_only=True)
            self.net.load_state_dict(content["net"])
            self.optimiser.load_state_dict(content["optimiser"])
            self.schedule.load_state_dict(content["schedule"])
            self.scaler.load_state_dict(content["scaler"])
            self.weighting.weights = content["weights"].cpu()
            own = content["random"][self.team.rank]
            torch.set_rng_state(own["cpu"].cpu())
            if self.team.cuda:
                torch.cuda.set_rng_state(own["cuda"].cpu())
            return Fit(**content["fit"])
        except Exception as error:
            raise CohortError(
                f"training: the checkpoint {path.name} can't be read ({type(error).__name__}); remove its folder to "
                "start anew"
            ) from None

    def keep_best(self, folder: Path | None) -> None:
        """Keep the weights as the best ones."""
        if folder is None:
            self._best = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        elif self.team.leads:
            _write(folder / BEST, self.net.state_dict())

    def take_best(self, folder: Path | None) -> None:
        """Give the net the best weights."""
        wait(self.team)
        if folder is not None:
            self._best = torch.load(folder / BEST, map_location=self.team.device, weights_only=True)
        assert self._best is not None
        self.net.load_state_dict(self._best)

    def _random(self) -> dict[str, torch.Tensor]:
        found = {"cpu": torch.get_rng_state()}
        return found | ({"cuda": torch.cuda.get_rng_state()} if self.team.cuda else {})


def _keepable(value: Any) -> bool:
    return isinstance(value, int | float | str | bool | list | tuple | type(None))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".part")
    torch.save(content, made)
    os.replace(made, path)
