"""Interpolate an image and its mask to one voxel spacing, on a grid that shares its centre with the original.

By hand: resample.py image.nii.gz --out out.nii.gz --spacing 1 1 1 [--mask m.nii.gz --mask-out m2.nii.gz]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Resample the case's image and, if it has one, its mask."""
    from radloom.images import read_nifti, write_nifti
    from radloom.resample import resample_image, resample_mask

    x, y, z = task.params["spacing"]
    warnings: list[str] = []
    # The mask first: a case whose mask doesn't survive needs no image.
    if "ingest/mask.nii.gz" in task.inputs:
        mask, warnings = resample_mask(read_nifti(task.inputs["ingest/mask.nii.gz"]), (x, y, z))
        write_nifti(task.out / "mask.nii.gz", mask)
        del mask
    image = read_nifti(task.inputs["ingest/image.nii.gz"])
    image = resample_image(image, (x, y, z), task.params["interpolator"])
    write_nifti(task.out / "image.nii.gz", image)
    geometry = image.geometry
    return CaseResult({"spacing": list(geometry.spacing), "size": list(geometry.size)}, warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line for one case."""
    parser.add_argument("image", type=Path, metavar="image.nii.gz", help="image as ingest.py writes it")
    parser.add_argument("--out", type=Path, required=True, metavar="out.nii.gz", help="image to write (float32)")
    parser.add_argument(
        "--spacing",
        type=float,
        nargs=3,
        required=True,
        metavar=("X", "Y", "Z"),
        help="new voxel spacing in mm; 0 keeps the spacing of that axis",
    )
    parser.add_argument("--interpolator", choices=["bspline", "linear"], default="bspline", help="of the image")
    parser.add_argument("--mask", type=Path, metavar="m.nii.gz", help="mask on the image's grid")
    parser.add_argument("--mask-out", type=Path, metavar="m2.nii.gz", help="mask to write; needed with --mask")


def by_hand(args: argparse.Namespace) -> None:
    """Resample one image by the arguments of the command line."""
    from radloom.images import read_nifti, same_grid, write_nifti
    from radloom.resample import resample_image, resample_mask

    if (args.mask is None) != (args.mask_out is None):
        raise SystemExit("error: --mask and --mask-out go together")
    x, y, z = args.spacing
    if min(x, y, z) < 0:
        raise SystemExit("error: --spacing can't be negative")
    try:
        image = read_nifti(args.image)
        mask = None if args.mask is None else read_nifti(args.mask)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if mask is not None:
        if not same_grid(mask.geometry, image.geometry, 1e-3):
            raise SystemExit("error: image and mask are not on one grid; read them together with ingest.py first")
        resampled, warnings = resample_mask(mask, (x, y, z))
        write_nifti(args.mask_out, resampled)
        for warning in warnings:
            print(f"warning: {warning}")
    write_nifti(args.out, resample_image(image, (x, y, z), args.interpolator))


STEP = CaseStep("resample", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
