"""Features of the ROIs of a case under other bin widths and voxel spacings.

By hand: sensitivity.py image.nii.gz roi.nii.gz --params config/pyradiomics.yaml --out features.csv
[--bin-width 10 50] [--spacing 2 2 2 --spacing 3 3 3]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Extract the features of a case under each setting into features.csv."""
    from radloom.calibrate import calibrate_image, read_calibration
    from radloom.extract import read_params
    from radloom.images import Vector, Volume, read_nifti
    from radloom.labels import read_names
    from radloom.resample import read_sampling, resample_image
    from radloom.roi_definitions import read_definitions
    from radloom.sensitivity import DEFAULT_BIN_WIDTH, read_keyed, spacing_text, vary_settings, write_sensitivity

    settings = (task.params[f"extract.{key}"] for key in ("ibsi", "outlier_sigma", "engine"))
    params = read_params(task.resources["params"], *settings)
    # features.csv, or features_<name>.csv where there are several extractions.
    _, features = read_keyed(next(path for name, path in task.inputs.items() if name.startswith("extract/")), 1)
    names = read_names(task.inputs["postprocess/labels.json"])
    calibration = read_calibration(task.inputs["calibrate/calibration.json"])
    sampling = read_sampling(task.inputs["resample/sampling.json"])

    def image_at(spacing: Vector) -> Volume:
        source = read_nifti(task.inputs["ingest/image.nii.gz"])
        image = resample_image(source, spacing, sampling)
        return calibrate_image(image, calibration, round_hu=task.params["calibrate.round_hu"])[0]

    bin_width = float(params.setting.get("binWidth", DEFAULT_BIN_WIDTH))
    result = vary_settings(
        read_nifti(task.inputs["calibrate/image.nii.gz"]),
        read_nifti(task.inputs["postprocess/roi.nii.gz"]),
        names,
        params,
        {name: values for (name,), values in features.items()},
        [width for width in task.params["bin_widths"] if width != bin_width],
        [(x, y, z) for x, y, z in task.params["spacings"] if [x, y, z] != task.params["resample.spacing"]],
        image_at,
        task.params["extract.min_voxels"],
        read_definitions(task.params["extract.derived_rois"]),
    )
    write_sensitivity(task.out / "features.csv", result)
    baseline = {"bin_width": f"{bin_width:g}", "spacing": spacing_text(task.params["resample.spacing"])}
    return CaseResult({"baseline": baseline}, result.warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, help="image in HU, resampled and calibrated (NIfTI): the baseline")
    parser.add_argument("roi", type=Path, help="label numbers on the image's grid (NIfTI)")
    parser.add_argument("--params", type=Path, required=True, help="parameter file in PyRadiomics' format")
    parser.add_argument("--out", type=Path, required=True, help="CSV to write, one row an ROI and setting")
    parser.add_argument("--bin-width", type=float, nargs="*", default=[], help="in HU")
    parser.add_argument("--spacing", type=float, nargs=3, action="append", default=[], help="x, y and z, mm")
    parser.add_argument("--min-voxels", type=int, default=64, help="fewest voxels of an ROI (default: 64)")


def by_hand(args: argparse.Namespace) -> None:
    """Vary the settings of one image; other spacings are resampled from it."""
    import sys

    import numpy as np

    from radloom.calibrate import Calibration, calibrate_image
    from radloom.errors import CaseError
    from radloom.extract import extract_features, read_params
    from radloom.images import Vector, Volume, read_nifti
    from radloom.labels import number_names
    from radloom.resample import resample_image
    from radloom.sensitivity import vary_settings, write_sensitivity

    params = read_params(args.params)
    try:
        image, roi = read_nifti(args.image), read_nifti(args.roi)
    except ValueError as error:
        raise CaseError(str(error)) from None

    def image_at(spacing: Vector) -> Volume:
        whole = bool(np.issubdtype(image.array.dtype, np.integer))
        return calibrate_image(resample_image(image, spacing, "bspline"), Calibration("none"), round_hu=whole)[0]

    labels = number_names(roi.array)
    baseline = extract_features(image, roi, labels, params, (), args.min_voxels).rows
    spacings = [(x, y, z) for x, y, z in args.spacing]
    result = vary_settings(
        image, roi, labels, params, baseline, args.bin_width, spacings, image_at, args.min_voxels
    )  # fmt: skip
    write_sensitivity(args.out, result)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)


STEP = CaseStep("sensitivity", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
