"""The figures of the quality gate: what each is, its unit, and of what it is a figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Figure:
    """A figure of a scan, of what its calibration found in it, of each of its ROIs, or of its place in the cohort."""

    of: Literal["scan", "calibration", "roi", "cohort"]
    unit: str
    meaning: str
    title: str
    advice: str = "Look at the scan and its picture in the report."
    """What to do where a rule is broken, before the rule itself is changed."""


FIGURES = {
    "slices": Figure("scan", "1", "Axial slices of the scan as it was sent.", "number of slices"),
    "slice_spacing_mm": Figure("scan", "mm", "Distance between the middles of two slices.", "slice spacing"),
    "coverage_mm": Figure("scan", "mm", "Length of the scan along the body: slices x slice spacing.", "coverage"),
    "slice_gap_mm": Figure(
        "cohort",
        "mm",
        "What the slice spacing has beyond the slice thickness that sheet or DICOM name; negative where slices "
        "overlap, empty where the thickness is not known.",
        "gap between slices",
    ),
    "burned_in_slices": Figure(
        "cohort",
        "1",
        "Slices whose DICOM header says that text is burnt into their pixels (0028,0301).",
        "number of slices with burnt-in text",
        advice="Look at the slices, and at the case's picture in the report, before anybody gets them.",
    ),
    "recognizable_slices": Figure(
        "cohort",
        "1",
        "Slices whose DICOM header says that a person may be recognised by them (0028,0302), as by a face.",
        "number of slices that show who it is",
        advice="Take the face away before the images leave the hospital.",
    ),
    "overlay_slices": Figure(
        "cohort",
        "1",
        "Slices that had overlay planes (60xx), which may hold text; none reaches the image.",
        "number of slices with overlay planes",
        advice="Look whether the same text is burnt into the pixels.",
    ),
    "noise_air_sd": Figure(
        "scan",
        "HU",
        "Noise in the air around the body: how far the 84 % quantile of its pixels lies above the median of their "
        "patch of 6 mm. Empty without air, and where more than 40 % of it are cut off at the lowest value.",
        "noise in air",
    ),
    "noise_tissue_sd": Figure(
        "scan",
        "HU",
        "Noise in flat tissue: median SD of 6 mm patches of 10 to 90 HU, of the quarter whose neighbours' means differ "
        "least.",
        "noise in flat tissue",
    ),
    "noise_global_sd": Figure(
        "scan",
        "HU",
        "Global noise level: mode of the SDs of all 6 mm patches of soft tissue, 0 to 100 HU (Christianson, AJR "
        "205:W93, 2015).",
        "global noise level",
    ),
    "hu_air": Figure("calibration", "HU", "Median of the air around the body, after the calibration.", "HU of air"),
    "hu_fat": Figure(
        "calibration",
        "HU",
        "Peak of fat in the image's histogram within -140 and -60 HU, after the calibration.",
        "HU of fat",
    ),
    "hu_muscle": Figure(
        "calibration",
        "HU",
        "Peak of muscle in the image's histogram within 20 and 80 HU, after the calibration.",
        "HU of muscle",
    ),
    "hu_blood": Figure(
        "scan",
        "HU",
        "Median of the inner part of an ROI that holds blood (quality: blood_rois), 2 mm from its border, after the "
        "calibration.",
        "HU of blood",
    ),
    "streak_anisotropy": Figure(
        "scan",
        "1",
        "How far one direction leads in the gradients of a slice's soft tissue, 0 to 1 (90 % quantile of the slices): "
        "hint of streaks across the slice.",
        "streak figure across slices",
    ),
    "streak_metal": Figure(
        "scan",
        "1",
        "How far gradients go across the rays from the metal, -1 to 1: hint of streaks that radiate from it. Empty "
        "without metal.",
        "streak figure around metal",
    ),
    "metal_ml": Figure("scan", "ml", "Volume above 2500 HU.", "volume of metal"),
    "saturated_voxels": Figure(
        "scan",
        "voxel",
        "Voxels at 3071 HU, where that is the highest value: the end of 12 bits.",
        "number of saturated voxels",
    ),
    "motion_jump_mm": Figure(
        "scan",
        "mm",
        "Largest shift of the body's outline from a slice to the next beyond that of the slices around: hint of "
        "motion. Empty where the body is cut off at the sides.",
        "largest jump between slices",
    ),
    "truncated_share": Figure(
        "scan",
        "1",
        "Share of the rim of the field of view where body (or table) is cut off.",
        "share of the rim where the body is cut off",
    ),
    "roi_volume_ml": Figure("roi", "ml", "Volume of the ROI.", "volume"),
    "roi_components": Figure(
        "roi",
        "1",
        "Parts of the ROI that touch nowhere (26-connected).",
        "number of components",
        advice="Look for parts that are no lesion; postprocess: components and min_volume_mm3 take them away.",
    ),
    "roi_border_voxels": Figure(
        "roi",
        "voxel",
        "Voxels of the ROI in the outermost layer of the image.",
        "voxels at the border of the image",
        advice="Look whether the scan ends within the ROI, and leave the case out if it does.",
    ),
    "roi_padding_voxels": Figure(
        "roi",
        "voxel",
        "Voxels of the ROI in or beside padding, which was not measured.",
        "voxels in or beside padding",
        advice="Look whether the field of view ends within the ROI, and leave the case out if it does.",
    ),
    "roi_to_first_slice_mm": Figure(
        "roi", "mm", "Distance of the ROI from the scan's end at the feet.", "distance to the first slice"
    ),
    "roi_to_last_slice_mm": Figure(
        "roi", "mm", "Distance of the ROI from the scan's end at the head.", "distance to the last slice"
    ),
    "roi_metal_share": Figure(
        "roi",
        "1",
        "Share of the ROI above 2500 HU: metal.",
        "share of metal",
        advice="Look whether the ROI includes an implant or a clip.",
    ),
    "roi_air_share": Figure(
        "roi",
        "1",
        "Share of the ROI below -900 HU: air.",
        "share of air",
        advice="Look whether the ROI reaches into air.",
    ),
    "roi_outside_body_share": Figure(
        "roi",
        "1",
        "Share of the ROI further than about 4 mm outside the body: beside it or in the table. Empty where the body "
        "can't be told: cut off at over a tenth of the rim, or in parts (legs).",
        "share outside the body",
        advice="Look whether the ROI was drawn on this very series, and whether it reaches into the table.",
    ),
    "roi_shift_mm": Figure(
        "roi",
        "mm",
        "Shift, on a grid of about 2 mm, at which the ROI's border fits the image best. Empty where none stands out.",
        "best shift of the ROI",
        advice="Look whether the ROI was drawn on this very series, and send the mask again if not.",
    ),
    "roi_shift_gain": Figure(
        "roi",
        "1",
        "How many times steeper the image is at the border so shifted than where the ROI is.",
        "gain by a shift of the ROI",
        advice="Look whether the ROI was drawn on this very series, and send the mask again if not.",
    ),
    "same_voxels": Figure(
        "cohort",
        "1",
        "Other cases with the very same voxels, but for repeats and further ROIs of the same patient.",
        "number of other cases with the same voxels",
        advice="Keep one of the rows, or give both the same patient_id.",
    ),
    "same_series": Figure(
        "cohort",
        "1",
        "Other cases of the same DICOM series, but for repeats and further ROIs of the same patient.",
        "number of other cases of the same series",
        advice="Keep one of the rows, or give both the same patient_id.",
    ),
    "nearest_picture": Figure(
        "cohort",
        "1",
        "Share of picture-hash bits in which the case most like it differs, mirrored or not; below 0.1 for the same "
        "picture, about 0.4 to 0.5 for another. Not against scans of the same patient.",
        "distance of the picture to another case's",
        advice="Compare the scans: if they are of one patient, give both the same patient_id, or keep one.",
    ),
    "patient_centres": Figure(
        "cohort",
        "1",
        "Centres that sent scans of the case's patient, by the sheet's patient_id or the id in the DICOM files.",
        "number of centres of the patient",
        advice="Look whether it is one patient, who then must not count twice, or two that have one name.",
    ),
}
"""All figures by name, in the order in which tables list them."""
