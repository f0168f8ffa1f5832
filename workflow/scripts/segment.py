"""Label the ROIs of a CT image, with a U-Net, from the mask that came with it, or with an outside segmenter.

By hand: segment.py image.nii.gz --out labels.nii.gz --model resources/models/NAME [--device auto]
     or: segment.py image.nii.gz --out labels.nii.gz --command "PROGRAM {image} {labels}" --label 5=liver
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main
from radloom.errors import CaseError

if TYPE_CHECKING:
    from radloom.images import Volume


def run_case(task: CaseTask) -> CaseResult:
    """Segment one case into labels.nii.gz and labels.json."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import segment_mask, segment_model

    source = task.params["source"]
    warnings: list[str] = []
    if source == "mask":
        if "resample/mask.nii.gz" not in task.inputs:
            raise CaseError(
                "no mask in the cohort sheet",
                "Give the case a mask, or set segment.source to model",
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
        )
    else:
        labels, names = segment_model(
            read_nifti(task.inputs["calibrate/image.nii.gz"]),
            task.resources["model"],
            task.params["device"],
            task.params["slices_per_batch"],
        )
    write_nifti(task.out / "labels.nii.gz", labels)
    write_names(task.out / "labels.json", names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    voxels = {name: counts.get(number, 0) for number, name in sorted(names.items())}
    return CaseResult(facts={"source": source, "voxels": voxels}, warnings=warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="CT image in HU")
    parser.add_argument("--out", type=Path, required=True, metavar="labels.nii.gz", help="label volume to write")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, help="model folder")
    source.add_argument("--command", help="outside segmenter, as segment.command in the configuration")
    parser.add_argument("--label", action="append", default=[], metavar="NUMBER=NAME", help="a label of --command")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds that --command may take")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--slices-per-batch", type=int, default=16, help="slices at once on CUDA (default: 16)")
    parser.add_argument("--labels-out", type=Path, metavar="labels.json", help="write the names of the labels here")


def _by_command(args: argparse.Namespace) -> tuple["Volume", dict[int, str]]:
    from radloom.segment_command import command_problems, segment_command

    wanted = dict(label.split("=", 1) for label in args.label if "=" in label)
    problems = command_problems(args.command, wanted)
    if not all(number.isdigit() and int(number) > 0 for number in wanted) or len(wanted) < len(args.label):
        problems.append("--label takes NUMBER=NAME, each number once")
    if problems:
        raise SystemExit("error: " + "\n".join(problems))
    labels, names, warnings = segment_command(
        args.image,
        args.command,
        {int(number): name for number, name in wanted.items()},
        device=args.device,
        timeout_s=args.timeout,
    )
    for warning in warnings:
        print(f"warning: {warning}")
    return labels, names


def by_hand(args: argparse.Namespace) -> None:
    """Segment one image with a model or an outside segmenter."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import segment_model

    if args.slices_per_batch < 1:
        raise SystemExit("error: --slices-per-batch must be at least 1")
    try:
        image = read_nifti(args.image)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if args.command is None:
        labels, names = segment_model(image, args.model, args.device, args.slices_per_batch)
    else:
        labels, names = _by_command(args)
    write_nifti(args.out, labels)
    if args.labels_out is not None:
        write_names(args.labels_out, names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    for number, name in sorted(names.items()):
        print(f"{number} {name}: {counts.get(number, 0) * labels.geometry.voxel_mm3 / 1000:.2f} ml")


STEP = CaseStep("segment", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
