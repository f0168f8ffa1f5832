"""Clean the labels of the ROIs: closing, opening, components and holes, in mm.

By hand: postprocess.py labels.nii.gz --out roi.nii.gz [--config config.yaml]
"""

import argparse
import shutil
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Postprocess one case's labels into roi.nii.gz; labels.json keeps every name, also of an ROI that is gone."""
    from radloom.images import read_nifti, write_nifti
    from radloom.labels import read_names
    from radloom.postprocess import postprocess, read_settings

    names = read_names(task.inputs["segment/labels.json"])
    labels = read_nifti(task.inputs["segment/labels.nii.gz"])
    result = postprocess(labels, names, read_settings(task.params, names.values()))
    write_nifti(task.out / "roi.nii.gz", result.labels)
    shutil.copyfile(task.inputs["segment/labels.json"], task.out / "labels.json")
    return CaseResult(facts={"volume_mm3": result.volume_mm3, "change": result.change, "components": result.components})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("labels", type=Path, metavar="labels.nii.gz", help="label volume (unsigned whole numbers)")
    parser.add_argument("--out", type=Path, required=True, metavar="roi.nii.gz", help="label volume to write")
    parser.add_argument("--config", type=Path, help="configuration whose section `postprocess` is used")
    parser.add_argument(
        "--names", type=Path, metavar="labels.json", help="names of the labels (default: label_1, label_2, ...)"
    )


def by_hand(args: argparse.Namespace) -> None:
    """Postprocess one label volume; without --config the labels stay as they are."""
    import yaml

    from radloom.images import read_nifti, write_nifti
    from radloom.labels import number_names, read_names
    from radloom.postprocess import postprocess, read_settings

    try:
        labels = read_nifti(args.labels)
        section = {}
        if args.config is not None:
            section = (yaml.safe_load(args.config.read_text(encoding="utf-8")) or {}).get("postprocess") or {}
        names = read_names(args.names) if args.names is not None else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"error: {error}") from None
    if labels.array.dtype.kind != "u":
        raise SystemExit(f"error: labels are unsigned whole numbers, this volume holds {labels.array.dtype}")
    for number, name in number_names(labels.array).items():
        names.setdefault(number, name)
    if not names:
        raise SystemExit("error: the label volume is empty")
    result = postprocess(labels, names, read_settings(section, names.values()))
    write_nifti(args.out, result.labels)
    for name, volume in result.volume_mm3.items():
        print(f"{name}: {volume / 1000:.2f} ml in {result.components[name]} components")


STEP = CaseStep("postprocess", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
