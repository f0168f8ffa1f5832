"""Train the demonstration's U-Net on phantoms and write it as a model folder.

By hand: train_demo_model.py --out resources/models/demo_unet [--patients 60] [--epochs 16]

Deterministic on one kind of machine: the same weights, bit for bit. Its phantoms are other ones than the
demonstration's.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from pathlib import Path

import numpy as np

from radloom.nets.architecture import Architecture
from radloom.nets.folder import ModelDescription, save_model
from radloom.nets.training import TrainingSettings, held_out_dice, train, training_phantoms
from radloom.phantoms import LABEL_NAMES

HELD_OUT = range(900_000, 900_030)
"""Seeds of the phantoms that the net is judged by."""


def main() -> None:
    """Read the command line, train, judge and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--patients", type=int, default=60, help="phantoms to train on (default 60)")
    parser.add_argument("--epochs", type=int, default=16, help="passes over their slices (default 16)")
    args = parser.parse_args()
    settings = TrainingSettings(epochs=args.epochs)
    description = ModelDescription(
        name=args.out.name,
        classes=dict(LABEL_NAMES),
        spacing=(2.5, 2.5),
        hu_window=(-160.0, 240.0),
        architecture=Architecture(channels=(8, 16, 32, 64)),
        licence="MIT",
    )
    net = train(
        training_phantoms(range(args.patients)),
        description,
        settings,
        lambda epoch, loss: print(f"epoch {epoch}/{settings.epochs}: loss {loss:.4f}", flush=True),
    )
    dice = held_out_dice(net, description, training_phantoms(HELD_OUT))
    summary = {
        name: {
            "mean": float(np.nanmean(values)),
            "minimum": float(np.nanmin(values)),
            "phantoms": sum(not math.isnan(v) for v in values),
        }
        for name, values in dice.items()
    }
    save_model(
        args.out,
        net,
        dataclasses.replace(
            description,
            training={
                "data": "CT phantoms of radloom.phantoms, no patients",
                "script": "workflow/scripts/train_demo_model.py",
                "phantom_seeds": f"0..{args.patients - 1}",
                "loss": "cross entropy + soft Dice",
                "optimiser": "AdamW, one cycle",
                **dataclasses.asdict(settings),
            },
            dice={"held_out_phantom_seeds": f"{HELD_OUT[0]}..{HELD_OUT[-1]}", **summary},
        ),
    )
    for name, values in summary.items():
        print(f"Dice of {name} on {values['phantoms']} held-out phantoms: {values['mean']:.3f}")
    if any(math.isnan(values["mean"]) for values in summary.values()):
        sys.exit("error: a class was never seen; train on more phantoms")


if __name__ == "__main__":
    main()
