"""How well a net does on whole cases of the cache, on its own grid, while it is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from radloom.nets.dataset import CachedCase, neighbours, normalised
from radloom.nets.distributed import Team, gather
from radloom.nets.fit import Validation
from radloom.nets.folder import ModelDescription

CPU_BATCH = 4


def labels_of(logits: torch.Tensor, outputs: str) -> torch.Tensor:
    """Labels (batch, [z,] y, x) of logits (batch, channels, [z,] y, x): the largest; for sigmoid where above a half."""
    if outputs == "softmax":
        return logits.argmax(dim=1)
    largest, number = logits.max(dim=1)
    return torch.where(largest > 0, number + 1, 0)


def slice_labels(
    net: nn.Module, case: CachedCase, description: ModelDescription, device: str, batch: int = 16
) -> np.ndarray:
    """Labels (z, y, x; uint8) that a net of 2 dimensions gives a case on the net's grid, whole slices at a time."""
    image = case.image
    depth, ny, nx = image.shape
    multiple = _multiple(net)
    pad = (0, -nx % multiple[-1], 0, -ny % multiple[-2])
    window, scores = description.hu_window, description.normalisation
    air = normalised(torch.tensor(window[0]), window, scores)
    size = CPU_BATCH if device == "cpu" else batch
    found = np.empty(image.shape, np.uint8)
    for start in range(0, depth, size):
        middles = range(start, min(start + size, depth))
        hu = np.stack([image[neighbours(z, description.architecture.slices, depth)] for z in middles]).astype(
            np.float32
        )
        values = normalised(torch.from_numpy(hu).to(device), window, scores)
        values = nn.functional.pad(values, pad, value=float(air)).contiguous(memory_format=torch.channels_last)
        found[start : start + size] = (
            labels_of(net(values)[:, :, :ny, :nx], description.outputs).to(torch.uint8).cpu().numpy()
        )
    return found


def _multiple(net: nn.Module) -> tuple[int, ...]:
    multiple = net.multiple
    return (multiple, multiple, multiple) if isinstance(multiple, int) else tuple(multiple)  # type: ignore[arg-type]


def dice_of_classes(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Dice 2 |A and B| / (|A| + |B|) of the classes 1, 2, ...; NaN where neither volume has the class."""
    size = classes + 1
    pairs = np.zeros(size * size, np.int64)
    for a, b in zip(found, truth, strict=True):  # plane by plane: bincount makes int64 copies
        pairs += np.bincount(a.reshape(-1).astype(np.int64) * size + b.reshape(-1), minlength=size * size)
    table = pairs.reshape(size, size)
    total = (table.sum(axis=0) + table.sum(axis=1))[1:]
    return np.divide(2 * np.diag(table)[1:], total, out=np.full(classes, math.nan), where=total > 0)


def summarise(dice: Mapping[str, np.ndarray], centres: Mapping[str, str], classes: Mapping[int, str]) -> Validation:
    """Mean Dice by class over cases, over the classes, and by centre over its cases' and classes' values.

    `dice` holds of each case the Dice of the classes, NaN where it has none, which counts for nothing.
    """
    table = np.stack([dice[case] for case in sorted(dice)])
    by_class = {name: _mean(table[:, number - 1]) for number, name in sorted(classes.items())}
    of_centre = {
        centre: _mean(np.concatenate([dice[case] for case in sorted(dice) if centres[case] == centre]))
        for centre in sorted({centres[case] for case in dice})
    }
    return Validation(_mean(np.array(list(by_class.values()))), by_class, of_centre)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def validate_cases(
    net: nn.Module,
    cases: Sequence[CachedCase],
    description: ModelDescription,
    team: Team,
) -> Validation:
    """Dice of whole cases on the net's grid; the team shares them, and every process gets all of the result."""
    own = {}
    for case in cases[team.rank :: team.world]:
        found = slice_labels(net, case, description, team.device)
        own[case.case_id] = dice_of_classes(found, case.labels, len(description.classes))
    dice: dict[str, np.ndarray] = {}
    for part in gather(team, own):
        dice |= part
    return summarise(dice, {case.case_id: case.centre for case in cases}, description.classes)
