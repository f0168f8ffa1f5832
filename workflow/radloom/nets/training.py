"""Training of a small U-Net on phantoms, deterministic to the bit on one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from radloom.nets.architecture import build_net
from radloom.nets.folder import ModelDescription
from radloom.nets.inplane import linear_matrix, pixels, to_window
from radloom.nets.net import Net
from radloom.nets.prediction import Member, Predictor
from radloom.phantoms import Phantom, draw_anatomy, draw_scanner, make_phantom


@dataclass(frozen=True)
class TrainingSettings:
    """How a net is trained."""

    epochs: int = 16
    batch: int = 8
    learning_rate: float = 1e-2
    weight_decay: float = 1e-3
    seed: int = 0
    patch: tuple[int, int] = (64, 80)
    """Pixels (y, x) of the patches that the net sees."""
    hu_jitter: float = 12.0
    """Largest HU offset that is added to a slice, so that an imperfect calibration doesn't matter."""
    noise_hu: float = 6.0
    """Largest standard deviation of the noise that is added to a slice."""


def training_phantoms(seeds: Iterable[int]) -> list[Phantom]:
    """Phantoms of the given seeds, each of its own patient and scanner; every tenth patient has no tumour."""
    made = []
    for seed in seeds:
        # A first word that no cohort uses keeps these streams apart from those of the demonstration.
        rng = np.random.default_rng([20_000, seed])
        anatomy = draw_anatomy(rng, with_tumour=seed % 10 != 9)
        made.append(make_phantom(anatomy, draw_scanner(rng), rng))
    return made


def training_slices(
    phantoms: Sequence[Phantom], spacing: tuple[float, ...], patch: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """All slices of the phantoms at the net's `spacing` (x, y): HU (n, y, x) float32 and labels (n, y, x) int64.

    Every slice is cut or padded (with air, with background) around its middle to `patch` (y, x) pixels.
    """
    images, labels = [], []
    for phantom in phantoms:
        (_, ny, nx), (sx, sy, _), (tx, ty) = phantom.image.shape, phantom.spacing, spacing[:2]
        mx, my = pixels(nx, sx, tx), pixels(ny, sy, ty)
        to_y, to_x = linear_matrix(ny, sy, my, ty), linear_matrix(nx, sx, mx, tx).T
        image = to_y @ torch.from_numpy(phantom.image) @ to_x
        truth = torch.from_numpy(phantom.labels)
        shares = torch.stack([to_y @ (truth == label).float() @ to_x for label in range(3)])
        images.append(_centred(image, patch, -1000.0))
        labels.append(_centred(shares.argmax(dim=0), patch, 0))
    return torch.cat(images), torch.cat(labels)


def _centred(slices: torch.Tensor, patch: tuple[int, int], fill: float) -> torch.Tensor:
    """Slices (n, y, x) cut or padded with `fill` around their middle to `patch` (y, x) pixels."""
    down, right = patch[0] - slices.shape[1], patch[1] - slices.shape[2]
    sides = (right // 2, right - right // 2, down // 2, down - down // 2)
    return nn.functional.pad(slices, sides, value=fill)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy plus 1 - soft Dice averaged over the classes other than background.

    logits (n, classes, y, x), labels (n, y, x); the Dice sums run over the whole batch (Milletari et al., 3DV 2016).
    """
    probability = logits.softmax(dim=1)[:, 1:]
    truth = nn.functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].float()
    overlap = (probability * truth).sum(dim=(0, 2, 3))
    total = probability.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    dice = (2 * overlap + 1) / (total + 1)
    return nn.functional.cross_entropy(logits, labels) + 1 - dice.mean()


def _augmented(
    images: torch.Tensor, labels: torch.Tensor, settings: TrainingSettings, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """The batch shifted by up to 5 pixels each way, with HU offset and noise; air and background move in."""
    moved_images, moved_labels = [], []
    for image, label in zip(images, labels, strict=True):
        dy, dx = torch.randint(-5, 6, (2,), generator=generator).tolist()
        sides = (dx, -dx, dy, -dy)
        moved_images.append(nn.functional.pad(image, sides, value=-1000.0))
        moved_labels.append(nn.functional.pad(label, sides, value=0))
    hu = torch.stack(moved_images)
    offset = (2 * torch.rand(len(hu), 1, 1, generator=generator) - 1) * settings.hu_jitter
    deviation = torch.rand(len(hu), 1, 1, generator=generator) * settings.noise_hu
    return hu + offset + deviation * torch.randn(hu.shape, generator=generator), torch.stack(moved_labels)


def train(
    phantoms: Sequence[Phantom],
    description: ModelDescription,
    settings: TrainingSettings,
    report: Callable[[int, float], None] | None = None,
) -> Net:
    """Train a net for `description` (classes 1 organ, 2 tumour) with AdamW and a one-cycle learning rate.

    `report` is called after every epoch with its number (from 1) and its mean loss.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    images, labels = training_slices(phantoms, description.spacing, settings.patch)
    net = build_net(description.architecture, description.channels_out)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = len(images) // settings.batch
    if steps == 0:
        raise ValueError(f"{len(images)} slices are fewer than a batch of {settings.batch}")
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, epochs=settings.epochs, steps_per_epoch=steps
    )
    net.train()
    for epoch in range(1, settings.epochs + 1):
        order = torch.randperm(len(images), generator=generator)
        losses = 0.0
        for chosen in order[: steps * settings.batch].split(settings.batch):
            hu, truth = _augmented(images[chosen], labels[chosen], settings, generator)
            slices = to_window(hu, description.hu_window)[:, None].contiguous(memory_format=torch.channels_last)
            loss = segmentation_loss(net(slices), truth)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cycle.step()
            losses += float(loss.detach())
        if report is not None:
            report(epoch, losses / steps)
    return net.eval().requires_grad_(False)


def dice_coefficient(found: np.ndarray, truth: np.ndarray) -> float:
    """2 |A and B| / (|A| + |B|) of two masks; NaN where both are empty."""
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(truth))
    return 2.0 * int(np.count_nonzero(found & truth)) / total if total else float("nan")


def held_out_dice(net: Net, description: ModelDescription, phantoms: Sequence[Phantom]) -> dict[str, list[float]]:
    """Dice of every class in every phantom, on the phantom's own grid; NaN where neither net nor truth has it."""
    dice: dict[str, list[float]] = {name: [] for name in description.classes.values()}
    predictor = Predictor([Member(description.name, net, description)])
    for phantom in phantoms:
        found = predictor.labels(phantom.image, phantom.spacing)
        for number, name in description.classes.items():
            dice[name].append(dice_coefficient(found == number, phantom.labels == number))
    return dice
