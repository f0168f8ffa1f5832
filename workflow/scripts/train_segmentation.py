"""Train a segmentation net on cases with labels, and write it as a model folder.

By hand: train_segmentation.py cases.csv --out DIR [--config config.yaml] [--cache DIR]

cases.csv has a row a case with case_id, patient_id, centre, image and labels (NIfTI files on one grid, beside the
table or with their whole path), and names (a JSON file such as {"1": "liver"}). The settings are the section
train_segmentation of the configuration. It goes on where it was stopped if it gets the same --cache again. On several
GPUs: torchrun --nproc-per-node N workflow/scripts/train_segmentation.py cases.csv ...
"""

import argparse
import sys
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Train on the cohort."""
    from radloom.training_run import run_step

    return run_step(task, Path(__file__))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("cases", type=Path, metavar="cases.csv", help="table of the cases (CSV or TSV)")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes models/NAME and training/")
    parser.add_argument("--config", type=Path, help="configuration; its section train_segmentation counts")
    parser.add_argument("--name", help="name of the model, in place of the configuration's")
    parser.add_argument("--split", type=Path, help="table with patient_id and part, in place of the configuration's")
    parser.add_argument("--cache", type=Path, help="folder for checkpoints and resampled cases (default: OUT/cache)")
    parser.add_argument("--code", default="", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)


def by_hand(args: argparse.Namespace) -> None:
    """Train on the cases of a table, in as many processes as torchrun started."""
    from radloom.training_run import train_by_hand

    result = train_by_hand(args)
    if result is not None:
        for warning in result.warnings:
            print(f"warning: {warning}", file=sys.stderr)
        print(
            f"{args.out / 'models' / result.facts['model']}: epoch {result.facts['best_epoch']}, {result.facts['dice']}"
        )


STEP = CohortStep("train_segmentation", run_cohort)

if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
