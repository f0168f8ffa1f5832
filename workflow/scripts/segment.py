"""Label the ROIs of a CT image, with a U-Net or from the mask that came with it.

By hand: segment.py image.nii.gz --out labels.nii.gz --model resources/models/NAME [--model ...] [--device auto]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main
from radloom.errors import CaseError

if TYPE_CHECKING:
    from radloom.nets.prediction import Settings


def run_case(task: CaseTask) -> CaseResult:
    """Segment one case into labels.nii.gz and labels.json."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import segment_mask, segment_model

    source = task.params["source"]
    facts: dict[str, Any] = {"source": source}
    if source == "mask":
        if "resample/mask.nii.gz" not in task.inputs:
            raise CaseError(
                "no mask in the cohort sheet",
                "Give the case a mask, or set segment.source to model",
            )
        configured = {int(number): name for number, name in task.params["labels"].items()}
        mask = read_nifti(task.inputs["resample/mask.nii.gz"])
        labels, names, warnings = segment_mask(mask, configured, task.row.get("roi_name", ""))
    else:
        models = {name.removeprefix("model."): task.resources[name] for name in sorted(task.resources)}
        found = segment_model(read_nifti(task.inputs["calibrate/image.nii.gz"]), models, _settings(**task.params))
        labels, names, warnings = found.labels, found.names, found.warnings
        facts |= found.facts
    write_nifti(task.out / "labels.nii.gz", labels)
    write_names(task.out / "labels.json", names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    voxels = {name: counts.get(number, 0) for number, name in sorted(names.items())}
    return CaseResult(facts={**facts, "voxels": voxels}, warnings=warnings)


def _settings(device: str, batch: str | int, tta: list[str], cpu_precision: str, **_: Any) -> Settings:
    """The settings of the prediction, from the configuration's section or the command line."""
    from radloom.nets.prediction import Settings

    return Settings(device, None if batch == "auto" else int(batch), tuple(tta), cpu_precision)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="CT image in HU")
    parser.add_argument("--out", type=Path, required=True, metavar="labels.nii.gz", help="label volume to write")
    parser.add_argument(
        "--model", type=Path, required=True, action="append", help="model folder; several times: an ensemble"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--tta", nargs="+", choices=["x", "y", "z"], default=[], help="axes of test-time mirroring")
    parser.add_argument("--cpu-precision", choices=["float32", "model"], default="float32", help="default: float32")
    parser.add_argument("--batch", type=_batch, default="auto", help="slices or windows at once on CUDA")
    parser.add_argument("--labels-out", type=Path, metavar="labels.json", help="write the names of the labels here")


def _batch(word: str) -> str | int:
    if word != "auto" and (not word.isdigit() or int(word) < 1):
        raise argparse.ArgumentTypeError(f"auto or a positive number, not {word!r}")
    return word if word == "auto" else int(word)


def by_hand(args: argparse.Namespace) -> None:
    """Segment one image with a model."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import segment_model

    try:
        image = read_nifti(args.image)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    models = {str(number): folder for number, folder in enumerate(args.model)}
    found = segment_model(image, models, _settings(args.device, args.batch, args.tta, args.cpu_precision))
    labels, names = found.labels, found.names
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    write_nifti(args.out, labels)
    if args.labels_out is not None:
        write_names(args.labels_out, names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    for number, name in sorted(names.items()):
        print(f"{number} {name}: {counts.get(number, 0) * labels.geometry.voxel_mm3 / 1000:.2f} ml")


STEP = CaseStep("segment", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
