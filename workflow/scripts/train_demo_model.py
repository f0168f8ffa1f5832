"""Train the demonstration's U-Net on phantoms and write it as a model folder.

By hand: train_demo_model.py --out resources/models/demo_unet [--patients 60] [--epochs 16]

Deterministic on one kind of machine: the same weights, bit for bit. Its phantoms are other ones than the
demonstration's. The training is that of the step train_segmentation; only the cases are drawn here.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radloom.nets.architecture import Architecture, build_net
from radloom.nets.augment import Augmentation
from radloom.nets.dataset import CachedCase, Preparation, Sampling, cache_case
from radloom.nets.determinism import be_deterministic
from radloom.nets.fit import FitSettings, fit
from radloom.nets.folder import ModelDescription, save_model
from radloom.nets.losses import SegmentationLoss
from radloom.nets.validation import dice_of_classes, predictor_of
from radloom.phantoms import LABEL_NAMES, Phantom, draw_anatomy, draw_scanner, make_phantom

HELD_OUT = range(900_000, 900_030)
"""Seeds of the phantoms that the net is judged by."""
DESCRIPTION = ModelDescription(
    name="demo_unet",
    classes=dict(LABEL_NAMES),
    spacing=(2.5, 2.5),
    hu_window=(-160.0, 240.0),
    architecture=Architecture(channels=(8, 16, 32, 64)),
    licence="MIT",
)
PREPARATION = Preparation((64, 80), DESCRIPTION.hu_window, augmentation=Augmentation(shift=5, hu_shift=12, noise_hu=6))


def training_phantom(seed: int) -> Phantom:
    """The phantom of a seed, of its own patient and scanner; every tenth patient has no tumour."""
    # A first word that no cohort uses keeps these streams apart from those of the demonstration.
    rng = np.random.default_rng([20_000, seed])
    anatomy = draw_anatomy(rng, with_tumour=seed % 10 != 9)
    return make_phantom(anatomy, draw_scanner(rng), rng)


def cached_phantom(folder: Path, seed: int) -> CachedCase:
    """The phantom of a seed on the net's grid."""

    def read() -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
        phantom = training_phantom(seed)
        return phantom.image, phantom.labels, phantom.spacing

    return cache_case(folder / str(seed), str(seed), str(seed), "phantoms", DESCRIPTION.spacing, len(LABEL_NAMES), read)


def held_out_dice(net: torch.nn.Module, seeds: Iterable[int]) -> dict[str, list[float]]:
    """Dice of every class in every phantom that has it, on the phantom's own grid."""
    predictor = predictor_of(net, DESCRIPTION, "cpu")
    dice: dict[str, list[float]] = {name: [] for name in LABEL_NAMES.values()}
    for seed in seeds:
        phantom = training_phantom(seed)
        found = predictor.labels(phantom.image, phantom.spacing)
        for number, value in enumerate(dice_of_classes(found, phantom.labels, len(LABEL_NAMES)), start=1):
            if not math.isnan(value):
                dice[LABEL_NAMES[number]].append(float(value))
    return dice


def main() -> None:
    """Read the command line, train, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--patients", type=int, default=60, help="phantoms to train on (default 60)")
    parser.add_argument("--epochs", type=int, default=16, help="passes over their slices (default 16)")
    args = parser.parse_args()
    settings = FitSettings(epochs=args.epochs, batch=8, learning_rate=1e-2, weight_decay=1e-3)
    be_deterministic()
    torch.manual_seed(settings.seed)
    net = build_net(DESCRIPTION.architecture, DESCRIPTION.channels_out)

    def report(row: dict[str, Any]) -> None:
        print(f"epoch {row['epoch']}/{settings.epochs}: loss {row['loss']:.4f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        cases = [cached_phantom(Path(folder), seed) for seed in range(args.patients)]
        fit(net, cases, PREPARATION, Sampling(PREPARATION.patch), SegmentationLoss(), settings, report=report)
    summary = {
        name: {"mean": float(np.mean(values)), "minimum": min(values), "phantoms": len(values)}
        for name, values in held_out_dice(net, HELD_OUT).items()
        if values
    }
    training = {
        "data": "CT phantoms of radloom.phantoms, no patients",
        "script": "workflow/scripts/train_demo_model.py",
        "phantom_seeds": f"0..{args.patients - 1}",
        "loss": dataclasses.asdict(SegmentationLoss()),
        "augmentation": dataclasses.asdict(PREPARATION.augmentation),
        "patch": list(PREPARATION.patch),
        **dataclasses.asdict(settings),
    }
    dice = {"held_out_phantom_seeds": f"{HELD_OUT[0]}..{HELD_OUT[-1]}", **summary}
    save_model(args.out, net, dataclasses.replace(DESCRIPTION, name=args.out.name, training=training, dice=dice))
    for name, values in summary.items():
        print(f"Dice of {name} on {values['phantoms']} held-out phantoms: {values['mean']:.3f}")
    if len(summary) < len(LABEL_NAMES):
        sys.exit("error: a class was never seen; train on more phantoms")


if __name__ == "__main__":
    main()
