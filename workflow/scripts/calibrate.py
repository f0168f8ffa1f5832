"""Map observed to true HU by a water and an air value or by a drift, and measure the air outside the body.

By hand: calibrate.py image.nii.gz --out out.nii.gz [--water-hu W --air-hu A | --drift E]
"""

import argparse
import dataclasses
import json
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Calibrate the case's image by its own values or by those of its centre (`params["centre"]`)."""
    from radloom.calibrate import air_warning, calibrate_image, choose_calibration, measure_air
    from radloom.images import read_nifti, write_nifti

    calibration = choose_calibration(task.row, task.params["centre"])
    image = read_nifti(task.inputs["resample/image.nii.gz"])
    image, warnings = calibrate_image(image, calibration, round_hu=task.params["round_hu"])
    write_nifti(task.out / "image.nii.gz", image)
    air_hu, air_voxels = measure_air(image.array, calibration)
    warnings += air_warning(air_hu, task.params["air_tolerance"])
    # For steps that interpolate anew and have to calibrate as this one did.
    (task.out / "calibration.json").write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
    facts = {
        "method": calibration.method,
        "slope": calibration.slope,
        "intercept": calibration.intercept,
        "air_hu": air_hu,
        "air_voxels": air_voxels,
    }
    return CaseResult(facts, warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line for one case."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="image as resample.py writes it")
    parser.add_argument("--out", type=Path, required=True, metavar="out.nii.gz", help="image to write")
    parser.add_argument("--water-hu", metavar="W", help="HU that water was measured at; needs --air-hu")
    parser.add_argument("--air-hu", metavar="A", help="HU that air was measured at; needs --water-hu")
    parser.add_argument("--drift", type=float, metavar="E", help="e in HU_true = (HU_observed + 1000)(1 + e) - 1000")
    parser.add_argument("--no-round", action="store_true", help="keep fractions of HU: float32 instead of int16")


def by_hand(args: argparse.Namespace) -> None:
    """Calibrate one image by the arguments of the command line."""
    from radloom.calibrate import calibrate_image, choose_calibration, measure_air
    from radloom.images import read_nifti, write_nifti

    row = {"water_hu": args.water_hu or "", "air_hu": args.air_hu or ""}
    if args.drift is not None and any(row.values()):
        raise SystemExit("error: give --water-hu and --air-hu, or --drift")
    calibration = choose_calibration(row, {} if args.drift is None else {"drift": args.drift})
    try:
        image = read_nifti(args.image)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    image, warnings = calibrate_image(image, calibration, round_hu=not args.no_round)
    write_nifti(args.out, image)
    for warning in warnings:
        print(f"warning: {warning}")
    air_hu, air_voxels = measure_air(image.array, calibration)
    print(f"{calibration.method}: HU_true = {calibration.slope:.6g} HU_observed {calibration.intercept:+.6g}")
    print("no air outside the body" if air_hu is None else f"air outside the body: {air_hu:g} HU, {air_voxels} voxels")


STEP = CaseStep("calibrate", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
