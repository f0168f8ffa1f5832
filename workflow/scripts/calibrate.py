"""Map observed to true HU by a water and an air value or by a drift, and measure the air outside the body.

By hand: calibrate.py image.nii.gz --out out.nii.gz [--water-hu W --air-hu A | --drift E]
         [--water-hu-sd S --air-hu-sd S | --drift-sd S]
"""

import argparse
import dataclasses
import json
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Calibrate the case's image by its own values, its scanner's phantom, those of its centre (`params["centre"]`), or
    references in the image, and measure the air around the body.
    """
    from radloom.acquisition import read_headers, with_headers
    from radloom.calibrate import (
        air_warning,
        calibrate_image,
        choose_calibration,
        measure_air,
        references_calibration,
    )
    from radloom.images import read_nifti, write_nifti
    from radloom.phantom_table import phantom_line, read_phantom_table
    from radloom.tissue_peaks import tissue_hu

    params = task.params
    warnings: list[str] = []
    line = None
    own = any(task.row.get(name) for name in ("water_hu", "air_hu"))
    if "phantom_table" in task.resources and not own:
        table, _ = read_phantom_table(task.resources["phantom_table"])
        line = phantom_line(table, with_headers(task.row, read_headers(task.inputs)), params)
        if line is None:
            warnings.append("the table of phantom measurements has none of the scan's scanner")
    calibration = choose_calibration(task.row, params["centre"], line)
    image = read_nifti(task.inputs["resample/image.nii.gz"])
    known = task.inputs.get("resample/valid.nii.gz")
    valid = None if known is None else read_nifti(known).array
    observed: dict[str, float] = {}
    if params["correct_by_references"] and calibration.method == "none":
        air = measure_air(image.array, calibration, valid)[0]
        if air is None:
            warnings.append("no air around the body was found: not calibrated by references")
        else:
            tissues = tissue_hu(image.array, valid)
            observed = {"air": air} | {n: hu for n in params["references"] if (hu := tissues[n]) is not None}
            calibration = references_calibration(observed)
    image, notes = calibrate_image(image, calibration, round_hu=params["round_hu"])
    warnings += notes
    write_nifti(task.out / "image.nii.gz", image)
    air_hu, air_voxels = measure_air(image.array, calibration, valid)
    corrected = {n: calibration.slope * hu + calibration.intercept for n, hu in observed.items() if n != "air"}
    warnings += air_warning(air_hu, params["air_tolerance"])
    # For steps that interpolate anew and have to calibrate as this one did.
    (task.out / "calibration.json").write_text(json.dumps(dataclasses.asdict(calibration)) + "\n", encoding="utf-8")
    facts = {
        "method": calibration.method,
        "source": calibration.source,
        "slope": calibration.slope,
        "intercept": calibration.intercept,
        "sd_hu": calibration.uncertainty(),
        # What the references were observed at, and in the calibrated image all that is found.
        "observed_hu": observed,
        "air_hu": air_hu,
        "air_voxels": air_voxels,
        "tissue_hu": tissue_hu(image.array, valid) | corrected,
    }
    return CaseResult(facts, warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line for one case."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="image as resample.py writes it")
    parser.add_argument("--out", type=Path, required=True, metavar="out.nii.gz", help="image to write")
    parser.add_argument("--water-hu", metavar="W", help="HU that water was measured at; needs --air-hu")
    parser.add_argument("--air-hu", metavar="A", help="HU that air was measured at; needs --water-hu")
    parser.add_argument("--water-hu-sd", metavar="S", help="standard deviation of that HU; needs --air-hu-sd")
    parser.add_argument("--air-hu-sd", metavar="S", help="standard deviation of that HU; needs --water-hu-sd")
    parser.add_argument("--drift", type=float, metavar="E", help="e in HU_true = (HU_observed + 1000)(1 + e) - 1000")
    parser.add_argument("--drift-sd", type=float, metavar="S", help="standard deviation of the drift")
    parser.add_argument("--no-round", action="store_true", help="keep fractions of HU: float32 instead of int16")


def by_hand(args: argparse.Namespace) -> None:
    """Calibrate one image by the arguments of the command line."""
    from radloom.calibrate import calibrate_image, choose_calibration, measure_air
    from radloom.cohort import HOUNSFIELD
    from radloom.images import read_nifti, write_nifti
    from radloom.tissue_peaks import tissue_hu

    row = {name: getattr(args, name) or "" for name in HOUNSFIELD}
    drift = {name: getattr(args, name) for name in ("drift", "drift_sd") if getattr(args, name) is not None}
    if drift and any(row.values()):
        raise SystemExit("error: give --water-hu and --air-hu, or --drift")
    if "drift_sd" in drift and "drift" not in drift:
        raise SystemExit("error: --drift-sd needs --drift")
    calibration = choose_calibration(row, drift)
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
    for hu, sd in calibration.uncertainty().items():
        print(f"standard deviation at {hu} HU: {'not known' if sd is None else f'{sd:.3g} HU'}")
    print("no air outside the body" if air_hu is None else f"air outside the body: {air_hu:g} HU, {air_voxels} voxels")
    for tissue, found in tissue_hu(image.array).items():
        print(f"{tissue}: {'not found' if found is None else f'{found:.1f} HU'}")


STEP = CaseStep("calibrate", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
