"""Maps of features over the ROIs of a case: every voxel has the feature of its neighbourhood.

By hand: voxel_maps.py image.nii.gz roi.nii.gz --params config/pyradiomics.yaml --features glcm_Contrast --out DIR
"""

import argparse
from pathlib import Path

from radloom.engine.step import CaseResult, CaseStep, CaseTask, main


def run_case(task: CaseTask) -> CaseResult:
    """Write the maps of a case, and a picture of all of them."""
    from radloom.extract import read_params
    from radloom.images import read_nifti
    from radloom.labels import read_names
    from radloom.voxel_maps import voxel_maps, write_maps

    names = read_names(task.inputs["postprocess/labels.json"])
    asked = {str(one) for one in task.params["rois"] or task.params["extract.rois"]}
    image = read_nifti(task.inputs["calibrate/image.nii.gz"])
    maps = voxel_maps(
        image,
        read_nifti(task.inputs["postprocess/roi.nii.gz"]),
        {number: name for number, name in names.items() if not asked or asked & {name, str(number)}},
        read_params(task.resources["params"]),
        task.params["features"],
        kernel_radius=task.params["kernel_radius"],
        masked_kernel=task.params["masked_kernel"],
    )
    low, high = task.params["overlay.window"]
    facts, warnings = write_maps(task.out, image, maps, (low, high))
    return CaseResult({"maps": facts}, warnings)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("image", type=Path, help="image in HU, resampled and calibrated (NIfTI)")
    parser.add_argument("roi", type=Path, help="label numbers on the image's grid (NIfTI)")
    parser.add_argument("--params", type=Path, required=True, help="parameter file in PyRadiomics' format")
    parser.add_argument("--features", nargs="+", required=True, help="such as firstorder_Entropy glcm_Contrast")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes the maps and their picture")
    parser.add_argument("--kernel-radius", type=int, default=1, help="voxels to each side (default: 1)")
    parser.add_argument("--unmasked", action="store_true", help="take voxels outside of the ROI into the kernel")
    parser.add_argument("--window", type=float, nargs=2, default=[-160, 240], metavar=("BLACK", "WHITE"), help="in HU")


def by_hand(args: argparse.Namespace) -> None:
    """Map one image; its ROIs are called label_<number>."""
    import sys

    from radloom.errors import CaseError, CohortError
    from radloom.extract import read_params
    from radloom.feature_params import map_features
    from radloom.images import read_nifti
    from radloom.labels import number_names
    from radloom.voxel_maps import voxel_maps, write_maps

    params = read_params(args.params)
    problems = map_features(args.features, params)[1]
    if problems:
        raise CohortError("; ".join(problems))
    try:
        image, roi = read_nifti(args.image), read_nifti(args.roi)
    except ValueError as error:
        raise CaseError(str(error)) from None
    labels = number_names(roi.array)
    maps = voxel_maps(image, roi, labels, params, args.features, (), args.kernel_radius, not args.unmasked)
    args.out.mkdir(parents=True, exist_ok=True)
    for note in write_maps(args.out, image, maps, (args.window[0], args.window[1]))[1]:
        print(f"warning: {note}", file=sys.stderr)


STEP = CaseStep("voxel_maps", run_case)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
