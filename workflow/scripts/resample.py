"""Interpolate an image and its mask to one voxel spacing, on a grid that shares its centre with the original.

By hand: resample.py image.nii.gz --out out.nii.gz --spacing 1 1 1 [--mask m.nii.gz --mask-out m2.nii.gz]
"""

import argparse
import dataclasses
import json
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Resample the case's image and, if it has them, its mask and what of the image is measured."""
    from radloom.acquisition import read_headers, with_headers
    from radloom.images import Volume, crop, read_nifti, read_nifti_geometry, write_nifti
    from radloom.match import matched_widths, matching_gaussian
    from radloom.resample import Sampling, crop_box, mask_on_grid, new_grid, passage, resample_valid

    params = task.params
    old = read_nifti_geometry(task.inputs["ingest/image.nii.gz"])
    row = with_headers(task.row, read_headers(task.inputs))
    sigma_mm, matched, notes = matching_gaussian(row, params["match"], old.spacing[2])
    settings = (params[key] for key in ("interpolator", "order", "sinc_radius", "antialias", "align"))
    sampling = Sampling(*settings, sigma_mm, matched_widths(params["match"]))
    x, y, z = params["spacing"]
    grid = new_grid(old, (x, y, z), sampling.align)
    box = None
    warnings: list[str] = []
    # The mask first: a case whose mask doesn't survive needs no image.
    if "ingest/mask.nii.gz" in task.inputs:
        mask, warnings = mask_on_grid(read_nifti(task.inputs["ingest/mask.nii.gz"]), grid)
        if params["crop_mm"] is not None:
            box = crop_box(mask, params["crop_mm"])
            mask = crop(mask, box)
        write_nifti(task.out / "mask.nii.gz", mask)
        del mask
    way = passage(old, grid, sampling, box)
    if "ingest/valid.nii.gz" in task.inputs:
        valid = resample_valid(read_nifti(task.inputs["ingest/valid.nii.gz"]), way.grid)
        # Absent, all is measured.
        if not valid.array.all():
            write_nifti(task.out / "valid.nii.gz", valid)
        del valid
    image = read_nifti(task.inputs["ingest/image.nii.gz"], way.seen)
    write_nifti(task.out / "image.nii.gz", Volume(way.apply(image.array), way.grid))
    # For steps that interpolate anew and have to do it as this one did.
    (task.out / "sampling.json").write_text(json.dumps(dataclasses.asdict(sampling)) + "\n", encoding="utf-8")
    facts = {"spacing": list(way.grid.spacing), "size": list(way.grid.size)}
    return CaseResult(facts | matched, [*notes, *warnings])


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
    parser.add_argument("--interpolator", choices=["bspline", "linear", "sinc"], default="bspline", help="of the image")
    parser.add_argument("--order", type=int, choices=range(6), default=3, help="of the B-spline (default: 3)")
    parser.add_argument("--radius", type=int, default=5, help="of the windowed sinc, in voxels (default: 5)")
    parser.add_argument("--antialias", action="store_true", help="filter axes that become coarser by a Gaussian first")
    parser.add_argument("--align", choices=["centre", "origin", "corner"], default="centre", help="of the new grid")
    parser.add_argument(
        "--sigma",
        type=float,
        nargs=3,
        default=(0, 0, 0),
        metavar=("X", "Y", "Z"),
        help="standard deviations in mm of a Gaussian that the image is filtered with first",
    )
    parser.add_argument("--mask", type=Path, metavar="m.nii.gz", help="mask on the image's grid")
    parser.add_argument("--mask-out", type=Path, metavar="m2.nii.gz", help="mask to write; needed with --mask")


def by_hand(args: argparse.Namespace) -> None:
    """Resample one image by the arguments of the command line."""
    from radloom.images import read_nifti, same_grid, write_nifti
    from radloom.resample import Sampling, resample_image, resample_mask

    if (args.mask is None) != (args.mask_out is None):
        raise SystemExit("error: --mask and --mask-out go together")
    x, y, z = args.spacing
    if min(x, y, z) < 0:
        raise SystemExit("error: --spacing can't be negative")
    if args.radius < 1 or min(args.sigma) < 0:
        raise SystemExit("error: --radius is at least 1, and --sigma can't be negative")
    sampling = Sampling(args.interpolator, args.order, args.radius, args.antialias, args.align, tuple(args.sigma))
    try:
        image = read_nifti(args.image)
        mask = None if args.mask is None else read_nifti(args.mask)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    if mask is not None:
        if not same_grid(mask.geometry, image.geometry, 1e-3):
            raise SystemExit("error: image and mask are not on one grid; read them together with ingest.py first")
        resampled, warnings = resample_mask(mask, (x, y, z), sampling.align)
        write_nifti(args.mask_out, resampled)
        for warning in warnings:
            print(f"warning: {warning}")
    write_nifti(args.out, resample_image(image, (x, y, z), sampling))


STEP = CaseStep("resample", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
