"""Read an image (NIfTI, NRRD, MetaImage) and its mask, check them, and write them with the axes nearest to LPS.

By hand: ingest.py SOURCE --out image.nii.gz [--mask SOURCE --roi NAME --mask-out mask.nii.gz] [--meta meta.json]
"""

import argparse
import json
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Read the case's image and, if it has one, its mask."""
    from radloom.images import write_nifti
    from radloom.ingest import ingest_case

    scan = ingest_case(
        task.inputs["image"],
        task.inputs.get("mask"),
        min_spacing=task.params["min_spacing"],
        max_spacing=task.params["max_spacing"],
        geometry_tolerance=task.params["geometry_tolerance"],
    )
    write_nifti(task.out / "image.nii.gz", scan.image)
    if scan.mask is not None:
        write_nifti(task.out / "mask.nii.gz", scan.mask)
    return CaseResult(facts=scan.facts, warnings=scan.warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line for one case."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="image to read: NIfTI, NRRD or MetaImage")
    parser.add_argument("--out", type=Path, required=True, metavar="image.nii.gz", help="image to write")
    parser.add_argument("--mask", type=Path, metavar="SOURCE", help="label mask on the image's grid")
    parser.add_argument("--mask-out", type=Path, metavar="mask.nii.gz", help="mask to write; needed with --mask")
    parser.add_argument("--roi", metavar="NAME", help="name of the mask's ROI, noted in --meta")
    parser.add_argument("--meta", type=Path, metavar="meta.json", help="write what was found out about the image")


def by_hand(args: argparse.Namespace) -> None:
    """Read one image by the arguments of the command line."""
    from radloom.images import write_nifti
    from radloom.ingest import ingest_case

    if (args.mask is None) != (args.mask_out is None):
        raise SystemExit("error: --mask and --mask-out go together")
    if args.roi is not None and args.mask is None:
        raise SystemExit("error: --roi names the ROI of a mask: give --mask as well")
    scan = ingest_case(args.source, args.mask)
    write_nifti(args.out, scan.image)
    if scan.mask is not None:
        write_nifti(args.mask_out, scan.mask)
    if args.meta is not None:
        meta = {**scan.facts, **({"roi": args.roi} if args.roi else {}), "warnings": scan.warnings}
        args.meta.write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    for warning in scan.warnings:
        print(f"warning: {warning}")


STEP = CaseStep("ingest", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
