"""Read an image (NIfTI, NRRD, MetaImage, DICOM) and its mask, check them, and write them with the axes nearest to LPS.

By hand: ingest.py SOURCE --out image.nii.gz [--series PATTERN] [--mask SOURCE --roi NAME --mask-out mask.nii.gz]
[--valid-out valid.nii.gz] [--meta meta.json]. SOURCE is a volume, a DICOM file, a folder of DICOM, a zip or tar of one,
or the URL of a series on a DICOMweb server.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main

if TYPE_CHECKING:
    from radloom.ingest import Scan


def run_case(task: CaseTask) -> CaseResult:
    """Read the case's image and, if it has one, its mask."""
    from radloom.acquisition import COLUMNS
    from radloom.engine.records import fetched_path
    from radloom.ingest import ingest_case
    from radloom.source_cells import Selection

    # What a decoder puts into temporary files is gone with the case's folder, also after a kill.
    tempfile.tempdir = str(task.out)
    private = task.private
    image, mask = (private.get(f"{name}_url") or task.inputs.get(name) for name in ("image", "mask"))
    assert image is not None
    scan = ingest_case(
        image,
        mask,
        min_spacing=task.params["min_spacing"],
        max_spacing=task.params["max_spacing"],
        geometry_tolerance=task.params["geometry_tolerance"],
        selection=Selection(
            private.get("series", ""),
            private.get("mask_roi", ""),
            private.get("roi_name", ""),
            private.get("patient_id", ""),
            bytes.fromhex(private.get("salt", "")),
        ),
        dicom=task.params,
        max_unpacked_gb=task.limits["max_unpacked_gb"],
        web={key: value for key, value in task.limits["dicomweb"].items() if key != "keep"},
        work=task.out,
        fetched=fetched_path(task.out.parent),
    )
    write(scan, task.out / "image.nii.gz", task.out / "mask.nii.gz", task.out / "valid.nii.gz")
    if found := scan.facts.get("acquisition"):
        # For steps that follow a scan's kernel or slice thickness.
        told = {name: found.get(name) for name in COLUMNS}
        (task.out / "acquisition.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    return CaseResult(facts=scan.facts, warnings=scan.warnings)


def write(scan: "Scan", image: Path, mask: Path | None, valid: Path | None) -> None:
    """Write what was read: the image, the mask if there is one, and where the image is padding if any of it is."""
    from radloom.images import write_nifti

    write_nifti(image, scan.image)
    for path, volume in ((mask, scan.mask), (valid, scan.valid)):
        if path is not None and volume is not None:
            write_nifti(path, volume)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line for one case."""
    what = "NIfTI, NRRD, MetaImage, DICOM (file, folder, zip, tar), or the URL of a DICOMweb series"
    parser.add_argument("source", metavar="SOURCE", help=f"image to read: {what}")
    parser.add_argument("--out", type=Path, required=True, metavar="image.nii.gz", help="image to write")
    parser.add_argument("--series", metavar="PATTERN", default="", help="UID or description (a pattern) of a series")
    parser.add_argument("--mask", metavar="SOURCE", help="label mask on the image's grid, RTSTRUCT or SEG")
    parser.add_argument("--mask-out", type=Path, metavar="mask.nii.gz", help="mask to write; needed with --mask")
    parser.add_argument(
        "--roi",
        metavar="NAME",
        help="ROI of the RTSTRUCT or segment of the SEG (name, pattern or #number); of other masks noted in --meta",
    )
    parser.add_argument(
        "--valid-out",
        type=Path,
        metavar="valid.nii.gz",
        help="write where the image was measured (1) and where it is padding (0), if there is any",
    )
    parser.add_argument("--meta", type=Path, metavar="meta.json", help="write what was found out about the image")


def by_hand(args: argparse.Namespace) -> None:
    """Read one source by the arguments of the command line, with the defaults of the section `ingest`."""
    from radloom.config import schema
    from radloom.ingest import ingest_case
    from radloom.source_cells import Selection
    from radloom.source_names import is_url, is_volume

    if (args.mask is None) != (args.mask_out is None):
        raise SystemExit("error: --mask and --mask-out go together")
    if args.roi is not None and args.mask is None:
        raise SystemExit("error: --roi names the ROI of a mask: give --mask as well")
    settings: dict[str, Any] = {k: v["default"] for k, v in schema()["properties"]["ingest"]["properties"].items()}
    drawn = args.mask is not None and not is_volume(args.mask)
    image, mask = (Path(s) if s is not None and not is_url(s) else s for s in (args.source, args.mask))
    scan = ingest_case(
        image,
        mask,
        selection=Selection(series=args.series, mask_roi=(args.roi or "") if drawn else ""),
        dicom=settings,
        max_unpacked_gb=settings["max_unpacked_gb"],
        work=args.out.resolve().parent,
    )
    write(scan, args.out, args.mask_out, args.valid_out)
    if args.meta is not None:
        named = {"roi": args.roi} if args.roi and not drawn else {}
        meta = {**scan.facts, **named, "warnings": scan.warnings}
        args.meta.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    for warning in scan.warnings:
        print(f"warning: {warning}")


STEP = CaseStep("ingest", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
