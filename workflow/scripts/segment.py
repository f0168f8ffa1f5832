"""Label the ROIs of a CT image, with a U-Net or from the mask that came with it.

By hand: segment.py image.nii.gz --out labels.nii.gz --model resources/models/NAME [--device auto]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main
from radloom.errors import CaseError


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
    parser.add_argument("--model", type=Path, required=True, help="model folder")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--slices-per-batch", type=int, default=16, help="slices at once on CUDA (default: 16)")
    parser.add_argument("--labels-out", type=Path, metavar="labels.json", help="write the names of the labels here")


def by_hand(args: argparse.Namespace) -> None:
    """Segment one image with a model."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import count_labels, write_names
    from radloom.segment import segment_model

    if args.slices_per_batch < 1:
        raise SystemExit("error: --slices-per-batch must be at least 1")
    try:
        image = read_nifti(args.image)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    labels, names = segment_model(image, args.model, args.device, args.slices_per_batch)
    write_nifti(args.out, labels)
    if args.labels_out is not None:
        write_names(args.labels_out, names)
    counts = dict(enumerate(count_labels(labels.array).tolist()))
    for number, name in sorted(names.items()):
        print(f"{number} {name}: {counts.get(number, 0) * labels.geometry.voxel_mm3 / 1000:.2f} ml")


STEP = CaseStep("segment", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
