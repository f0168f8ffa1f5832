"""Overfitting check of the multi-organ net: can training make a 2D net with one sigmoid channel an organ know one CT?

    python benchmarks/torso_overfit.py [--epochs 32] [--threads 1]

It trains on all slices of a real torso CT with 62 labels (../shared/data/segmentation) by the code of
`train_segmentation`, and prints the mean Dice of the classes that are present on these same slices. It is no measure
of how well organs are found in another scan.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from radloom.images import from_sitk, reorient
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.augment import Augmentation
from radloom.nets.dataset import CachedCase, Preparation, Sampling, cache_case
from radloom.nets.determinism import be_deterministic
from radloom.nets.distributed import Team
from radloom.nets.fit import FitSettings, fit
from radloom.nets.folder import ModelDescription
from radloom.nets.losses import SegmentationLoss
from radloom.nets.priors import class_shares, start_at_prior
from radloom.nets.validation import validate_cases

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "segmentation"


def torso(folder: Path) -> tuple[CachedCase, dict[int, str]]:
    """The CT on its own in-plane grid in the cache, its labels renumbered 1, 2, 3 ..., and their names."""
    image, labels = (
        reorient(from_sitk(sitk.ReadImage(str(DATA / f"torso_{name}.nii.gz")))) for name in ("ct", "labels")
    )
    numbers = [int(n) for n in np.unique(labels.array) if n]
    renumber = np.zeros(max(numbers) + 1, np.uint8)
    renumber[numbers] = np.arange(1, len(numbers) + 1)
    sx, sy, sz = image.geometry.spacing
    case = cache_case(
        folder / "torso",
        "torso",
        "torso",
        "one",
        (sx, sy),
        len(numbers),
        lambda: (image.array, renumber[labels.array], (sx, sy, sz)),
    )
    return case, {i: f"label_{n}" for i, n in enumerate(numbers, start=1)}


def main() -> None:
    """Train, and print what the net knows of its own training slices."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--learning-rate", type=float, default=1e-2)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--every", type=int, default=5, help="epochs between two looks at the Dice")
    args = parser.parse_args()
    be_deterministic(threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        case, classes = torso(Path(folder))
        architecture = Architecture(channels=tuple(args.channels))
        torch.manual_seed(0)
        net = build_net(architecture, len(classes))
        start_at_prior(net, class_shares([case]))
        step = 2 ** (len(args.channels) - 1)
        patch = tuple(-(-n // step) * step for n in case.shape[1:])
        description = ModelDescription(
            "torso", classes, case.spacing[:2], (-200.0, 400.0), architecture, "sigmoid", precision=args.precision
        )
        preparation = Preparation(patch, description.hu_window, augmentation=Augmentation())
        settings = FitSettings(
            epochs=args.epochs,
            batch=args.batch,
            learning_rate=args.learning_rate,
            precision=args.precision,
            validate_every=args.every,
        )
        # The cross entropy summed over the classes, not averaged: one class is a small part of the mean.
        loss = SegmentationLoss("sigmoid", cross_entropy=len(classes), dice=1.0, dice_of="present")
        start = time.perf_counter()

        def report(row: dict[str, Any]) -> None:
            dice = f", mean Dice {row['dice']:.3f}" if "dice" in row else ""
            seconds = time.perf_counter() - start
            print(f"epoch {row['epoch']}/{args.epochs}: loss {row['loss']:.4f}{dice}, {seconds:.0f} s", flush=True)

        def validate(current: torch.nn.Module) -> Any:
            return validate_cases(current, [case], description, Team())

        made = fit(net, [case], preparation, Sampling(patch), loss, settings, validate, report=report)
        seconds = time.perf_counter() - start
        found = validate(net)
        parameters = sum(p.numel() for p in net.parameters())
        print(f"{len(classes)} classes, {case.shape[0]} slices, {parameters} parameters, {args.threads} threads")
        print(f"mean Dice on its own training slices {found.dice:.3f} (epoch {made.best_epoch}) in {seconds:.0f} s")
        worst = sorted(found.by_class.items(), key=lambda item: item[1])[:5]
        print("lowest:", ", ".join(f"{name} {value:.2f}" for name, value in worst))


if __name__ == "__main__":
    main()
