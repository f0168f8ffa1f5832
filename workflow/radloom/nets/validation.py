"""How well a net does on whole cases of the cache, on its own grid, and what temperature its logits need."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from radloom.nets.calibration import TemperatureFit, fit_temperature
from radloom.nets.dataset import CachedCase
from radloom.nets.distributed import Team, gather
from radloom.nets.folder import ModelDescription
from radloom.nets.prediction import Predictor, Settings, member_of

VOXELS_DRAWN = 200_000
"""About how many voxels of all cases the temperature is fitted on."""


@dataclass(frozen=True)
class Validation:
    """Dice of whole cases that the training doesn't see."""

    dice: float
    """Mean over the classes of `by_class`; NaN where there is none."""
    by_class: dict[str, float]
    by_centre: dict[str, float]


def predictor_of(net: nn.Module, description: ModelDescription, device: str) -> Predictor:
    """A predictor of a net that is still in training; it predicts as the finished model will.

    It has a copy: whatever a prediction does (memory format, short memory that moves the net to the CPU), and the
    tensors of inference mode that it leaves, must not reach the training.
    """
    copied = copy.deepcopy(net).eval()
    return Predictor([member_of("net", copied, description)], Settings(), device)  # type: ignore[arg-type]


def dice_of_classes(found: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Dice 2 |A and B| / (|A| + |B|) of the classes 1, 2, ...; NaN where the truth lacks the class.

    A class that is found where there is none can't be rewarded or punished by a score of 0 to 1; the metrics of the
    finished model count it.
    """
    from radloom.segmentation_metrics import confusion

    table = confusion(truth, found, classes + 1)
    total = (table.sum(axis=0) + table.sum(axis=1))[1:]
    there = table.sum(axis=1)[1:] > 0
    return np.divide(2 * np.diag(table)[1:], total, out=np.full(classes, math.nan), where=there)


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
    net: nn.Module, cases: Sequence[CachedCase], description: ModelDescription, team: Team
) -> Validation:
    """Dice of whole cases on the net's grid; the team shares them, and every process gets all of the result."""
    predictor = predictor_of(net, description, team.device)
    own = {}
    for case in cases[team.rank :: team.world]:
        found = predictor.labels(np.asarray(case.image), case.spacing)
        own[case.case_id] = dice_of_classes(found, np.asarray(case.labels), len(description.classes))
    dice: dict[str, np.ndarray] = {}
    for part in gather(team, own):
        dice |= part
    return summarise(dice, {case.case_id: case.centre for case in cases}, description.classes)


def calibrate_net(
    net: nn.Module, cases: Sequence[CachedCase], description: ModelDescription, device: str, seed: int
) -> TemperatureFit:
    """The temperature that the net's logits need, fitted on whole cases on its grid by `radloom.nets.calibration`."""
    predictor = predictor_of(net, description, device)

    def pairs() -> Iterator[tuple[torch.Tensor, np.ndarray]]:
        for case in cases:
            (scan,) = predictor.scans(np.asarray(case.image), case.spacing)
            planes = (plane for _, slab in predictor.logits(scan) for plane in slab)
            for plane, labels in zip(planes, case.labels, strict=True):
                yield plane.movedim(-1, 0).float().cpu(), np.asarray(labels)

    logits, labels = itertools.tee(pairs())
    # Of each plane, not of each slab: how high that is depends on net, device and memory.
    each = max(20, VOXELS_DRAWN // sum(case.shape[0] for case in cases))
    names = [description.classes[number] for number in sorted(description.classes)]
    with torch.inference_mode():
        return fit_temperature(
            (pair[0] for pair in logits), (pair[1] for pair in labels), names, description.outputs, each, seed
        )
