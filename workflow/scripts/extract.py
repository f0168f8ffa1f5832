"""PyRadiomics features of the ROIs of a case.

By hand: extract.py image.nii.gz roi.nii.gz --params config/pyradiomics.yaml --out features.csv
"""

import argparse
from pathlib import Path
from typing import Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Extract the features of all ROIs of a case into features.csv, or of each extraction into features_<name>.csv.

    Of several extractions one may fail, where the ROIs have no use for its parameters: the others go on.
    """
    from radloom.errors import CaseError
    from radloom.extract import extract_features, read_around, read_params, write_features
    from radloom.extractions import features_file
    from radloom.labels import read_names
    from radloom.roi_definitions import read_definitions

    labels = read_names(task.inputs["postprocess/labels.json"])
    derived = read_definitions(task.params["derived_rois"])
    # The parameter file is called params, or params.<name> for each of several extractions.
    extractions = {
        key.partition(".")[2]: read_params(
            path, task.params["ibsi"], task.params["outlier_sigma"], task.params["engine"]
        )
        for key, path in sorted(task.resources.items())
    }
    image, roi = read_around(
        task.inputs["calibrate/image.nii.gz"], task.inputs["postprocess/roi.nii.gz"], extractions.values(), derived
    )
    facts: dict[str, dict[str, Any]] = {}
    warnings: list[str] = []
    failures: dict[str, CaseError] = {}
    for name, params in extractions.items():
        try:
            extraction = extract_features(
                image, roi, labels, params, task.params["rois"], task.params["min_voxels"], derived
            )
        except CaseError as error:
            failures[name] = error
            facts[name] = {"reason": error.reason, "advice": error.advice}
            continue
        write_features(task.out / features_file(name), extraction)
        facts[name] = {"rois": extraction.rois, "excluded_rois": extraction.excluded}
        warnings += [f"{name}: {warning}" if name else warning for warning in extraction.warnings]
    if len(failures) == len(facts):
        reasons = dict.fromkeys(error.reason for error in failures.values())
        advice = dict.fromkeys(error.advice for error in failures.values())
        if len(reasons) > 1:
            reasons = dict.fromkeys(f"{name}: {error.reason}" for name, error in failures.items())
        raise CaseError("; ".join(reasons), "; ".join(filter(None, advice)))
    return CaseResult(facts.get("", {"extractions": facts}), warnings)


def _mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML or JSON file (JSON is YAML)."""
    import yaml

    from radloom.errors import CohortError

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CohortError(f"{path.name} can't be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise CohortError(f"{path.name} holds no mapping of names to definitions")
    return {str(name): definition for name, definition in content.items()}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, help="image in HU, resampled and calibrated (NIfTI)")
    parser.add_argument("roi", type=Path, help="label numbers on the image's grid (NIfTI)")
    parser.add_argument("--params", type=Path, required=True, help="parameter file in PyRadiomics' format")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write, one row an ROI")
    parser.add_argument("--labels", type=Path, help='JSON with the names of the labels, such as {"1": "tumour"}')
    parser.add_argument("--roi-name", nargs="+", default=[], help="names or label numbers of the ROIs (default: all)")
    parser.add_argument("--derived", type=Path, help="YAML or JSON with derived ROIs, as in `extract.derived_rois`")
    parser.add_argument("--ibsi", action="store_true", help="IBSI's definitions where PyRadiomics departs from them")
    parser.add_argument(
        "--outlier-sigma", type=float, help="with --ibsi: leave out voxels this many sigma off the mean"
    )
    parser.add_argument("--min-voxels", type=int, default=64, help="exclude ROIs with fewer voxels (default: 64)")
    parser.add_argument("--engine", choices=["radloom", "pyradiomics"], default="radloom", help="what computes them")


def by_hand(args: argparse.Namespace) -> None:
    """Extract the features of one image; without --labels the ROIs are called label_<number>."""
    import sys

    from radloom.errors import CaseError
    from radloom.extract import extract_features, read_around, read_params, write_features
    from radloom.labels import number_names, read_names
    from radloom.roi_definitions import read_definitions

    params = read_params(args.params, args.ibsi, args.outlier_sigma, args.engine)
    derived = read_definitions(_mapping(args.derived)) if args.derived else {}
    try:
        image, roi = read_around(args.image, args.roi, [params], derived)
    except ValueError as error:
        raise CaseError(str(error)) from None
    labels = read_names(args.labels) if args.labels else number_names(roi.array)
    extraction = extract_features(image, roi, labels, params, args.roi_name, args.min_voxels, derived)
    write_features(args.out, extraction)
    for entry in extraction.excluded:
        print(f"excluded: {entry['roi']}: {entry['reason']} ({entry['advice']})", file=sys.stderr)
    for warning in extraction.warnings:
        print(f"warning: {warning}", file=sys.stderr)


STEP = CaseStep("extract", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
