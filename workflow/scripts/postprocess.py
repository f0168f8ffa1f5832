"""Clean the labels of the ROIs by morphology in mm: cut to the body, closing, opening, components, holes and more.

By hand: postprocess.py labels.nii.gz --out roi.nii.gz [--config config.yaml] [--image image.nii.gz]
"""

import argparse
import shutil
import sys
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main

IMAGE = "calibrate/image.nii.gz"


def run_case(task: CaseTask) -> CaseResult:
    """Postprocess one case's labels into roi.nii.gz; labels.json keeps every name, also of an ROI that is gone."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import read_names
    from radloom.postprocess import postprocess, read_settings
    from radloom.uncertainty_scores import check_scores, read_scores

    params = dict(task.params)
    if limits := params.pop("segment.uncertainty", None):
        check_scores(read_scores(task.inputs["segment/uncertainty.json"]), **limits)
    names = read_names(task.inputs["segment/labels.json"])
    labels = read_nifti(task.inputs["segment/labels.nii.gz"])
    # The image is among the inputs only where some ROI may be cut to the body (engine/steps.py).
    image = read_nifti(task.inputs[IMAGE]) if IMAGE in task.inputs else None
    result = postprocess(labels, names, read_settings(params, names.values()), image)
    write_nifti(task.out / "roi.nii.gz", result.labels)
    shutil.copyfile(task.inputs["segment/labels.json"], task.out / "labels.json")
    facts = {
        "volume_mm3": result.volume_mm3,
        "change": result.change,
        "components": result.components,
        "change_by_step": result.steps,
    }
    return CaseResult(facts=facts, warnings=result.warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("labels", type=Path, metavar="labels.nii.gz", help="label volume (unsigned whole numbers)")
    parser.add_argument("--out", type=Path, required=True, metavar="roi.nii.gz", help="label volume to write")
    parser.add_argument("--config", type=Path, help="configuration whose section `postprocess` is used")
    parser.add_argument(
        "--names", type=Path, metavar="labels.json", help="names of the labels (default: label_1, label_2, ...)"
    )
    parser.add_argument("--image", type=Path, metavar="image.nii.gz", help="the CT in HU, which `inside_body` asks for")


def by_hand(args: argparse.Namespace) -> None:
    """Postprocess one label volume; without --config the labels stay as they are."""
    import yaml

    from radloom.images import read_nifti, same_grid, write_nifti
    from radloom.labels import number_names, read_names
    from radloom.postprocess import GRID_TOLERANCE_MM, postprocess, read_settings

    try:
        labels = read_nifti(args.labels)
        section = {}
        if args.config is not None:
            section = (yaml.safe_load(args.config.read_text(encoding="utf-8")) or {}).get("postprocess") or {}
        names = read_names(args.names) if args.names is not None else {}
        image = read_nifti(args.image) if args.image is not None else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"error: {error}") from None
    if labels.array.dtype.kind != "u":
        raise SystemExit(f"error: labels are unsigned whole numbers, this volume holds {labels.array.dtype}")
    for number, name in number_names(labels.array).items():
        names.setdefault(number, name)
    if not names:
        raise SystemExit("error: the label volume is empty")
    settings = read_settings(section, names.values())
    if settings.needs_image and image is None:
        raise SystemExit("error: inside_body asks for the image: --image image.nii.gz")
    if image is not None and not same_grid(image.geometry, labels.geometry, GRID_TOLERANCE_MM):
        raise SystemExit("error: the image is on another grid than the labels")
    result = postprocess(labels, names, settings, image)
    write_nifti(args.out, result.labels)
    for name, volume in result.volume_mm3.items():
        print(f"{name}: {volume / 1000:.2f} ml in {result.components[name]} components")
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)


STEP = CaseStep("postprocess", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
