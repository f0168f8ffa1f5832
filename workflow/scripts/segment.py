"""Label the ROIs of a CT image, with a U-Net, from the mask that came with it, or with an outside segmenter.

By hand: segment.py image.nii.gz --out labels.nii.gz --model resources/models/NAME [--model ...] [--device auto]
         with [--samples 10] --uncertainty uncertainty.json: how far samples of the nets agree
     or: segment.py image.nii.gz --out labels.nii.gz --command "PROGRAM {image} {labels}" --label 5=liver
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main
from radloom.errors import CaseError

if TYPE_CHECKING:
    from radloom.images import Volume
    from radloom.nets.prediction import Settings

SALIENCY_WINDOW = (-160.0, 240.0)
"""HU shown as black and as white below saliency maps: soft tissue."""


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
                "Give the case a mask, or set segment.source to model or command",
            )
        configured = {int(number): name for number, name in task.params["labels"].items()}
        mask = read_nifti(task.inputs["resample/mask.nii.gz"])
        labels, names, warnings = segment_mask(mask, configured, task.row.get("roi_name", ""))
    elif source == "command":
        from radloom.segment_command import segment_command

        labels, names, warnings = segment_command(
            task.inputs["calibrate/image.nii.gz"],
            task.params["command"],
            {int(number): name for number, name in task.params["labels"].items()},
            device=task.params["device"],
            timeout_s=task.limits["command_timeout_s"],
            # The program's copy of the image is gone with the case's folder, also after a kill.
            work=task.out.resolve(),
        )
    else:
        models = {name.removeprefix("model."): task.resources[name] for name in sorted(task.resources)}
        image, settings = read_nifti(task.inputs["calibrate/image.nii.gz"]), _settings(**task.params, **task.limits)
        found = segment_model(image, models, settings)
        labels, names, warnings = found.labels, found.names, found.warnings
        facts |= found.facts
        if task.params["uncertainty"]["samples"]:
            facts["uncertainty"] = _write_uncertainty(task.out, image, models, settings, **task.params["uncertainty"])
        if task.params["saliency"]["classes"]:
            facts["saliency_ml"] = _write_saliency(task.out, image, models, settings, **task.params["saliency"])
    write_nifti(task.out / "labels.nii.gz", labels)
    write_names(task.out / "labels.json", names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    voxels = {name: counts.get(number, 0) for number, name in sorted(names.items())}
    return CaseResult(facts={**facts, "voxels": voxels}, warnings=warnings)


def _write_uncertainty(
    out: Path, image: Volume, models: dict[str, Path], settings: Settings, samples: int, maps: bool
) -> dict[str, Any]:
    """Write the scores of samples and, if wanted, the maps; returns the scores for the record."""
    from radloom.images import write_nifti
    from radloom.nets.uncertainty import MAPS
    from radloom.segment import assess_model
    from radloom.uncertainty_scores import score_facts, write_scores

    scores, volumes = assess_model(image, models, samples, maps, settings)
    write_scores(out / "uncertainty.json", scores)
    for name, volume in volumes.items():
        write_nifti(out / f"uncertainty_{name}.nii.gz", volume, slope=MAPS[name])
    return score_facts(scores)


def _write_saliency(
    out: Path, image: Volume, models: dict[str, Path], settings: Settings, classes: list[str], tau: float
) -> dict[str, float]:
    """Write the map, the pseudo-ROI and a picture of classes; returns the pseudo-ROIs' volumes in ml."""
    import numpy as np

    from radloom.images import Volume, reorient, write_nifti
    from radloom.map_pictures import GAP, draw_map
    from radloom.overlay import stack_pictures, write_overlay
    from radloom.segment import saliency_model

    upright, pictures, volumes = reorient(image), [], {}
    for name, found in saliency_model(image, models, classes, settings).items():
        roi = found.array >= tau
        write_nifti(out / f"saliency_{name}.nii.gz", found)
        write_nifti(out / f"saliency_{name}_roi.nii.gz", Volume(roi.astype(np.uint8), found.geometry))
        volumes[name] = float(np.count_nonzero(roi)) * found.geometry.voxel_mm3 / 1000
        shown = Volume(np.where(roi, found.array, np.float32(np.nan)), found.geometry)
        title = f"{name} · saliency of at least {tau:g}"
        pictures.append(draw_map(upright, reorient(shown).array, title, SALIENCY_WINDOW))
    write_overlay(out / "saliency.png", stack_pictures(pictures, GAP))
    return volumes


def _settings(device: str, batch: str | int, tta: list[str], cpu_precision: str, **_: Any) -> Settings:
    """The settings of the prediction, from the configuration's section or the command line."""
    from radloom.nets.prediction import Settings

    return Settings(device, None if batch == "auto" else int(batch), tuple(tta), cpu_precision)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="CT image in HU")
    parser.add_argument("--out", type=Path, required=True, metavar="labels.nii.gz", help="label volume to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, action="append", help="model folder; several times: an ensemble")
    source.add_argument("--command", help="outside segmenter, as segment.command in the configuration")
    parser.add_argument("--label", action="append", default=[], metavar="NUMBER=NAME", help="a label of --command")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that --command may take")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--tta", nargs="+", choices=["x", "y", "z"], default=[], help="axes of test-time mirroring")
    parser.add_argument("--cpu-precision", choices=["float32", "model"], default="float32", help="default: float32")
    parser.add_argument("--batch", type=_batch, default="auto", help="slices or windows at once on CUDA")
    parser.add_argument("--uncertainty", type=Path, metavar="FILE.json", help="write how far samples agree here")
    parser.add_argument("--samples", type=int, default=1, help="draws of each net's dropout, for --uncertainty")
    parser.add_argument("--labels-out", type=Path, metavar="labels.json", help="write the names of the labels here")


def _batch(word: str) -> str | int:
    if word != "auto" and (not word.isdigit() or int(word) < 1):
        raise argparse.ArgumentTypeError(f"auto or a positive number, not {word!r}")
    return word if word == "auto" else int(word)


def _by_command(args: argparse.Namespace) -> tuple[Volume, dict[int, str], list[str]]:
    from radloom.segment_command import command_problems, segment_command

    wanted = dict(label.split("=", 1) for label in args.label if "=" in label)
    problems = command_problems(args.command, wanted)
    if not all(number.isdigit() and int(number) > 0 for number in wanted) or len(wanted) < len(args.label):
        problems.append("--label takes NUMBER=NAME, each number once")
    if problems:
        raise SystemExit("error: " + "\n".join(problems))
    return segment_command(
        args.image,
        args.command,
        {int(number): name for number, name in wanted.items()},
        device=args.device,
        timeout_s=args.timeout,
    )


def by_hand(args: argparse.Namespace) -> None:
    """Segment one image with a model or an outside segmenter."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import assess_model, segment_model
    from radloom.uncertainty_scores import write_scores

    if args.uncertainty is not None and args.command is not None:
        raise SystemExit("error: --uncertainty is for --model")
    try:
        image = read_nifti(args.image)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if args.command is None:
        models = {str(number): folder for number, folder in enumerate(args.model)}
        settings = _settings(args.device, args.batch, args.tta, args.cpu_precision)
        found = segment_model(image, models, settings)
        if args.uncertainty is not None:
            write_scores(args.uncertainty, assess_model(image, models, args.samples, False, settings)[0])
        labels, names, warnings = found.labels, found.names, found.warnings
    else:
        labels, names, warnings = _by_command(args)
    for warning in warnings:
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
