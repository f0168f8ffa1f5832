"""Picture of a case: three planes through its ROIs, with their outlines.

By hand: overlay.py image.nii.gz roi.nii.gz --out overlay.png [--window -160 240]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Draw the overlay of a case into overlay.png."""
    from radloom.images import read_nifti
    from radloom.labels import read_names
    from radloom.overlay import draw_overlay, write_overlay

    names = read_names(task.inputs["postprocess/labels.json"])
    low, high = task.params["window"]
    picture = draw_overlay(
        read_nifti(task.inputs["calibrate/image.nii.gz"]),
        read_nifti(task.inputs["postprocess/roi.nii.gz"]),
        names,
        (low, high),
    )
    write_overlay(task.out / "overlay.png", picture)
    return CaseResult()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, help="image in HU (NIfTI)")
    parser.add_argument("roi", type=Path, help="label numbers on the image's grid (NIfTI)")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--window", type=float, nargs=2, default=[-160, 240], metavar=("BLACK", "WHITE"), help="in HU")


def by_hand(args: argparse.Namespace) -> None:
    """Draw one image with the outlines of all its labels."""
    from radloom.errors import CaseError
    from radloom.images import read_nifti
    from radloom.labels import number_names
    from radloom.overlay import draw_overlay, write_overlay

    try:
        image, roi = read_nifti(args.image), read_nifti(args.roi)
    except ValueError as error:
        raise CaseError(str(error)) from None
    labels = number_names(roi.array)
    write_overlay(args.out, draw_overlay(image, roi, labels, (args.window[0], args.window[1])))


STEP = CaseStep("overlay", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
