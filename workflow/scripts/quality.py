"""Measure the quality of a scan and of its ROIs: noise, blood, hints of artefacts, borders, shift.

By hand: quality.py image.nii.gz roi.nii.gz --out quality.json [--names labels.json] [--valid valid.nii.gz]
         [--scan scan.nii.gz]
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main

if TYPE_CHECKING:
    from radloom.calibrate import Calibration


def run_case(task: CaseTask) -> CaseResult:
    """Measure one case; its figures go to the tables by the manifest, and into quality.json."""
    from radloom.calibrate import read_calibration
    from radloom.labels import read_names

    inputs = task.inputs
    facts = measure(
        inputs["ingest/image.nii.gz"],
        inputs.get("ingest/valid.nii.gz"),
        read_calibration(inputs["calibrate/calibration.json"]),
        inputs["calibrate/image.nii.gz"],
        inputs.get("resample/valid.nii.gz"),
        inputs["postprocess/roi.nii.gz"],
        read_names(inputs["postprocess/labels.json"]),
        task.params["extract.rois"],
        task.params["blood_rois"],
    )
    (task.out / "quality.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return CaseResult(facts)


def measure(
    scan_path: Path,
    scan_valid: Path | None,
    calibration: "Calibration",
    image_path: Path,
    image_valid: Path | None,
    roi_path: Path,
    names: dict[int, str] | None,
    wanted: list[str | int],
    blood_rois: list[str],
) -> dict[str, Any]:
    """Figures of scan and ROIs, and what duplicates are found by. The scan passes slice by slice."""
    from radloom.images import read_nifti, read_nifti_geometry, read_nifti_planes
    from radloom.labels import number_names
    from radloom.quality import blood_hu, box_of_rois, measure_rois, measure_scan, read_box

    labels = read_nifti(roi_path)
    box = box_of_rois(labels)
    found = measure_scan(
        read_nifti_planes(scan_path),
        read_nifti_geometry(scan_path),
        read_nifti_planes(scan_valid) if scan_valid is not None else None,
        calibration,
    )
    rois = {}
    if box is not None:
        if names is None:
            names = number_names(labels.array[box])
        image = read_box(read_nifti_planes(image_path), box)
        valid = read_box(read_nifti_planes(image_valid), box) if image_valid is not None else None
        rois = measure_rois(image, box, labels, names, valid, wanted, found.body)
        found.figures["hu_blood"] = blood_hu(image, box, labels, names, blood_rois)
    return {"scan": found.figures, "rois": rois, "voxels": found.voxels, "picture": found.picture}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="the CT in HU, as ingest.py writes it")
    parser.add_argument("roi", type=Path, metavar="roi.nii.gz", help="label volume on the image's grid")
    parser.add_argument("--out", type=Path, required=True, metavar="quality.json", help="file that takes the figures")
    parser.add_argument("--names", type=Path, metavar="labels.json", help="names of the labels")
    parser.add_argument("--valid", type=Path, metavar="valid.nii.gz", help="0 where the image is padding")
    parser.add_argument("--scan", type=Path, metavar="scan.nii.gz", help="the CT before resampling (default: image)")
    parser.add_argument("--blood", nargs="*", default=["aorta", "blood", "blood_pool"], help="names of ROIs of blood")
    parser.add_argument("--scan-valid", type=Path, metavar="valid.nii.gz", help="0 where the scan is padding")


def by_hand(args: argparse.Namespace) -> None:
    """Measure one image and say what was found."""
    from radloom.calibrate import Calibration
    from radloom.images import read_nifti_geometry, same_grid
    from radloom.labels import read_names
    from radloom.quality_figures import FIGURES

    if args.scan_valid is not None and args.scan is None:
        raise SystemExit("error: --scan-valid needs --scan")
    scan, scan_valid = (args.scan, args.scan_valid) if args.scan is not None else (args.image, args.valid)
    try:
        grids = [read_nifti_geometry(path) for path in (args.image, args.roi, args.valid) if path is not None]
        grids_of_scan = [read_nifti_geometry(path) for path in (scan, scan_valid) if path is not None]
        if not all(same_grid(grid, many[0], 1e-3) for many in (grids, grids_of_scan) for grid in many):
            raise SystemExit("error: image, ROI and validity mask are not on one grid")
        names = read_names(args.names) if args.names is not None else None
        facts = measure(scan, scan_valid, Calibration("none"), args.image, args.valid, args.roi, names, [], args.blood)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    args.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    for roi, figures in (("", facts["scan"]), *facts["rois"].items()):
        for name, value in figures.items():
            shown = "-" if value is None else f"{value:.4g} {FIGURES[name].unit}".removesuffix(" 1")
            print(f"{roi + ': ' if roi else ''}{name} {shown}")


STEP = CaseStep("quality", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
