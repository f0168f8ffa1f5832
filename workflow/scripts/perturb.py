"""Features of the ROIs of a case under perturbations of image and ROI, for the stability of the features.

By hand: perturb.py image.nii.gz roi.nii.gz --params config/pyradiomics.yaml --count 10 --out DIR
`image.nii.gz` is the image before resampling, `roi.nii.gz` the ROI on the resampled grid.
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Perturb the ROIs of a case, extract them, and write features.csv and perturbations.csv."""
    from radloom.calibrate import read_calibration
    from radloom.extract import read_params
    from radloom.images import read_nifti
    from radloom.labels import read_names
    from radloom.perturb import Amplitudes, Chain, perturb_features, write_perturbed
    from radloom.resample import read_sampling

    params = task.params
    made = perturb_features(
        read_nifti(task.inputs["ingest/image.nii.gz"]),
        read_nifti(task.inputs["postprocess/roi.nii.gz"]),
        read_names(task.inputs["postprocess/labels.json"]),
        read_params(
            task.resources["params"], *(params[f"extract.{key}"] for key in ("ibsi", "outlier_sigma", "engine"))
        ),
        Chain(
            read_sampling(task.inputs["resample/sampling.json"]),
            read_calibration(task.inputs["calibrate/calibration.json"]),
            params["calibrate.round_hu"],
        ),
        Amplitudes(**{name: params[name] for name in ("rotation", "shift", "volume", "noise", "contour")}),
        params["count"],
        params["rois"] or params["extract.rois"],
        params["extract.min_voxels"],
    )
    write_perturbed(task.out, made)
    return CaseResult(facts={"rois": made.facts}, warnings=made.warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, help="image in HU before resampling (NIfTI)")
    parser.add_argument("roi", type=Path, help="label numbers on the resampled grid, of the same axes (NIfTI)")
    parser.add_argument("--params", type=Path, required=True, help="parameter file in PyRadiomics' format")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes the two tables")
    parser.add_argument("--count", type=int, default=10, help="perturbations of each ROI (default: 10)")
    parser.add_argument("--labels", type=Path, help='JSON with the names of the labels, such as {"1": "tumour"}')
    parser.add_argument("--rotation", type=float, default=13, help="largest rotation in degrees (default: 13)")
    parser.add_argument("--shift", type=float, default=0.5, help="largest shift in voxels (default: 0.5)")
    parser.add_argument("--volume", type=float, default=0.2, help="largest change of the volume (default: 0.2)")
    parser.add_argument("--noise", type=float, default=1, help="noise, in units of that measured (default: 1)")
    parser.add_argument("--no-contour", action="store_true", help="keep the contour")
    parser.add_argument("--interpolator", choices=["bspline", "linear", "sinc"], default="bspline")
    parser.add_argument("--drift", type=float, default=0.0, help="e in HU_true = (HU_observed + 1000)(1 + e) - 1000")
    parser.add_argument("--no-round", action="store_true", help="keep fractions of HU")


def by_hand(args: argparse.Namespace) -> None:
    """Perturb one case; without --labels the ROIs are called label_<number>."""
    import sys

    from radloom.calibrate import Calibration, drift_calibration
    from radloom.errors import CaseError
    from radloom.extract import read_params
    from radloom.images import read_nifti
    from radloom.labels import number_names, read_names
    from radloom.perturb import Amplitudes, Chain, perturb_features, write_perturbed
    from radloom.resample import Sampling

    params = read_params(args.params)
    try:
        image, roi = read_nifti(args.image), read_nifti(args.roi)
    except ValueError as error:
        raise CaseError(str(error)) from None
    labels = read_names(args.labels) if args.labels else number_names(roi.array)
    calibration = drift_calibration(args.drift) if args.drift else Calibration("none")
    chain = Chain(Sampling(args.interpolator), calibration, not args.no_round)
    amplitudes = Amplitudes(args.rotation, args.shift, args.volume, args.noise, not args.no_contour)
    made = perturb_features(image, roi, labels, params, chain, amplitudes, args.count)
    args.out.mkdir(parents=True, exist_ok=True)
    write_perturbed(args.out, made)
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)


STEP = CaseStep("perturb", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
