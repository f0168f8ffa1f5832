"""PyRadiomics features of every ROI of a case.

PyRadiomics does the computing; its numbers are left as they are. Around it stands what a table for
statisticians needs: columns that follow from the parameter file alone, an empty cell and a warning where a
feature can't be computed, a reason where an ROI can't be used, and none of PyRadiomics' own printing.
"""

from __future__ import annotations

import csv
import functools
import json
import logging
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.derived_rois import find_rois
from radloom.errors import CaseError, CohortError
from radloom.feature_params import (
    SHAPE_CLASSES,
    FeatureParams,
    feature_columns,
    read_params,
    validate_params,
)
from radloom.images import Array, Volume, bounding_box, corner_distance, crop, from_sitk, same_grid, to_sitk
from radloom.roi_definitions import Definition

if TYPE_CHECKING:
    from radiomics.featureextractor import RadiomicsFeatureExtractor
    from SimpleITK import Image

__all__ = [
    "Extraction",
    "FeatureParams",
    "extract_features",
    "feature_columns",
    "read_params",
    "validate_params",
    "write_features",
]

GRID_TOLERANCE_MM = 1e-3
# A co-occurrence matrix holds one float64 for each pair of grey levels and direction: 1.7 GB at this number
# of levels.
MAX_GREY_LEVELS = 4096
_NAMED_AT_MOST = 5

# PyRadiomics logs these as warnings for every ROI, although they follow from the parameter file and don't
# touch a number.
_CHATTER = ("GLCM is symmetrical", "is deprecated, use with caution", "Calculating Local Binary Pattern")


@dataclass(frozen=True)
class Extraction:
    """Features of the ROIs of a case: `rows[roi]` has a value a column, NaN where the feature can't be
    computed.
    """

    columns: list[str]
    rows: dict[str, list[float]]
    rois: dict[str, dict[str, float]]
    excluded: list[dict[str, str]]
    warnings: list[str]


def extract_features(
    image: Volume,
    roi: Volume,
    labels: Mapping[int, str],
    params: FeatureParams,
    rois: Iterable[str | int] = (),
    min_voxels: int = 1,
    derived: Mapping[str, Definition] | None = None,
) -> Extraction:
    """Compute the features of each ROI of a label volume, and of those derived from them.

    image: HU, (z, y, x), already resampled and calibrated; integer or float, taken as it is.
    roi: label numbers on the same grid, (z, y, x).
    labels: names of the ROIs by label number; rows come in the order of the numbers, then of the derived ROIs' names.
    rois: names or label numbers to extract, all of them when empty; of an `each` the name stands for all components.
    min_voxels: an ROI with fewer voxels is excluded (`minimumROISize` of the parameter file works alike, and
        means what it says here: PyRadiomics itself would refuse an ROI of just that size).
    derived: definitions of further ROIs by name (`radloom.roi_definitions`).

    Volumes are in mm3. Raises CaseError when image and ROI don't lie on one grid or no ROI is left,
    CohortError when PyRadiomics rejects the parameters.
    """
    if not same_grid(image.geometry, roi.geometry, GRID_TOLERANCE_MM):
        raise CaseError(_grid_mismatch(image, roi), "draw the ROI on this image, or resample both together")
    columns = feature_columns(params)
    found = find_rois(roi.array, roi.geometry.spacing, labels, derived, rois)
    rows: dict[str, list[float]] = {}
    facts: dict[str, dict[str, float]] = {}
    excluded = list(found.excluded)
    notes = list(found.notes)
    for name, region in found.regions.items():
        try:
            values, facts[name], roi_notes = _extract_roi(image, region.full(roi.array.shape), params, min_voxels)
        except CaseError as error:
            excluded.append({"roi": name, "reason": error.reason, "advice": error.advice})
            continue
        row = {column: values.get(column, math.nan) for column in columns}
        row = {column: value if math.isfinite(value) else math.nan for column, value in row.items()}
        rows[name] = list(row.values())
        notes += [f"{name}: {note}" for note in [*roi_notes, *_empty_cells(row)]]
    if not rows:
        reasons = "; ".join(f"{entry['roi']}: {entry['reason']}" for entry in excluded)
        advice = "; ".join(dict.fromkeys(entry["advice"] for entry in excluded))
        raise CaseError(f"no ROI can be used ({reasons or 'the case has none'})", advice)
    return Extraction(columns, rows, facts, excluded, notes)


def write_features(path: Path, extraction: Extraction) -> None:
    """Write `roi,<feature>,...`, one row an ROI; floats by repr, so that they read back bit for bit; NaN is
    an empty cell.
    """
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["roi", *extraction.columns])
        for name, values in extraction.rows.items():
            writer.writerow([name, *("" if math.isnan(value) else repr(value) for value in values)])


def _grid_mismatch(image: Volume, roi: Volume) -> str:
    if image.geometry.size != roi.geometry.size:
        return f"the ROI has {roi.geometry.size} voxels, the image {image.geometry.size}"
    distance = corner_distance(image.geometry, roi.geometry)
    return f"the ROI's grid lies {distance:.3g} mm away from the image's"


def _extract_roi(
    image: Volume, mask: Array, params: FeatureParams, min_voxels: int
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Values by column (failed features are missing or not finite), facts and notes of one ROI (z, y, x, bool)."""
    roi = Volume(mask.astype(np.uint8), image.geometry)
    box = bounding_box(roi.array)
    if box is None:
        raise CaseError("the ROI is empty", "check the segmentation and the volume limits of the post-processing")
    small_image, small_mask = crop(image, box), crop(roi, box)
    needed = max(min_voxels, params.setting.get("minimumROISize", 1))
    _check_roi(small_mask.array, needed, params)
    if not np.isfinite(small_image.array[small_mask.array > 0]).all():
        raise CaseError("the ROI has voxels without a finite value", "check the image for NaN and infinity")
    count = int(small_mask.array.sum())
    facts: dict[str, float] = {"voxels": count, "volume_mm3": count * image.geometry.voxel_mm3}

    with _listening() as heard:
        _let_pyradiomics_check(json.dumps(_as_file(params)))
        seen = crop(_normalized(image, params), box) if params.setting.get("normalize") else small_image
        in_range = _intensity_mask(seen, small_mask, needed, params)
        shape_mask = small_mask
        if "resegmentRange" in params.setting:
            facts["voxels_in_range"] = int(in_range.sum())
            if params.setting.get("resegmentShape"):
                shape_mask = Volume(in_range.astype(np.uint8), small_mask.geometry)
        flat = _check_grey_levels(seen.array[in_range], params)
        # Without filters PyRadiomics looks at nothing outside the ROI's box. Filters see the whole image, as
        # does `normalize`.
        whole = set(params.image_types) != {"Original"} or params.setting.get("normalize", False)
        texture_input = (image, roi) if whole else (small_image, small_mask)
        values = _shape(small_image, shape_mask, params, heard)
        values |= _textures(*texture_input, params)
    return values, facts, flat + heard


def _check_roi(mask: Array, min_voxels: int, params: FeatureParams, what: str = "the ROI") -> None:
    count = int(np.count_nonzero(mask))
    if count < min_voxels:
        raise CaseError(
            f"{what} has {count} voxel{'' if count == 1 else 's'}, at least {min_voxels} are needed",
            "a larger ROI, a finer `resample.spacing` or a smaller `extract.min_voxels`",
        )
    box = bounding_box(mask)
    extent = [] if box is None else [part.stop - part.start for part in reversed(box)]
    dimensions = sum(size > 1 for size in extent)
    required = max(int(params.setting.get("minimumROIDimensions", 2)), 1)
    if dimensions < required:
        raise CaseError(
            f"{what} is only {' x '.join(map(str, extent))} voxels (x, y, z), "
            f"so it extends in {dimensions} instead of {required} directions",
            "a finer `resample.spacing`, or `minimumROIDimensions` of the parameter file",
        )


def _normalized(image: Volume, params: FeatureParams) -> Volume:
    """The image as PyRadiomics scales it by its own mean and standard deviation before anything else."""
    from radiomics.imageoperations import normalizeImage

    return from_sitk(normalizeImage(to_sitk(image), **params.setting))


def _intensity_mask(image: Volume, mask: Volume, min_voxels: int, params: FeatureParams) -> Array:
    """Which voxels (z, y, x) first order and texture features use: all of the ROI's, or those in
    `resegmentRange`.
    """
    if "resegmentRange" not in params.setting:
        return mask.array > 0
    from radiomics.imageoperations import resegmentMask
    from SimpleITK import GetArrayFromImage

    what = f"the part of the ROI inside `resegmentRange` {params.setting['resegmentRange']}"
    try:
        kept = resegmentMask(to_sitk(image), to_sitk(mask), **{**params.setting, "label": 1})
    except ValueError:  # PyRadiomics' way to say that at most one voxel is left
        raise CaseError(f"{what} has at most one voxel", "check the range, the calibration and the ROI") from None
    in_range: Array = GetArrayFromImage(kept) > 0
    _check_roi(in_range, min_voxels, params, what)
    return in_range


def _check_grey_levels(values: Array, params: FeatureParams) -> list[str]:
    """Notes on an ROI without contrast; raises CaseError where the matrices of the texture classes would not
    fit into memory.
    """
    if "Original" not in params.image_types:
        return []
    setting = params.effective("Original")
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [
            f"all voxels have the value {low:g}: first order and texture features take PyRadiomics' conventional values"
        ]
    width = float(setting.get("binWidth", 25))
    levels = int(setting.get("binCount", high // width - low // width + 1))
    if levels == 1:
        return [
            f"all values fall into one bin of width {width:g}: texture features take PyRadiomics' conventional values"
        ]
    if levels > MAX_GREY_LEVELS and set(params.features) - {"firstorder", *SHAPE_CLASSES}:
        raise CaseError(
            f"the ROI's values from {low:g} to {high:g} make {levels} grey levels, more than {MAX_GREY_LEVELS}",
            "a larger `binWidth`, or a `resegmentRange` that leaves out implausible values",
        )
    return []


def _shape(image: Volume, mask: Volume, params: FeatureParams, heard: list[str]) -> dict[str, float]:
    """Shape features of a mask.

    On its own, because PyRadiomics crops to the box of the re-segmented mask, and so would cut off the shape
    of the whole ROI.
    """
    setting = {name: value for name, value in params.setting.items() if name not in ("resegmentRange", "normalize")}
    values: dict[str, float] = {}
    for name in SHAPE_CLASSES:
        if name not in params.features:
            continue
        across = np.any(mask.array, axis=_other_axes(int(setting.get("force2Ddimension", 0)))).sum()
        if name == "shape2D" and across != 1:
            heard.append(f"shape2D is for ROIs of one slice, this one has {across}")
            continue
        values |= _execute(_extractor(setting, {}, {name: params.features[name]}), to_sitk(image), to_sitk(mask))
    return values


def _other_axes(axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(3) if other != axis)


def _textures(image: Volume, mask: Volume, params: FeatureParams) -> dict[str, float]:
    """First order and texture features of all image types."""
    classes = {name: features for name, features in params.features.items() if name not in SHAPE_CLASSES}
    if not classes:
        return {}
    extractor = _extractor(params.setting, params.image_types, classes)
    return _execute(extractor, to_sitk(image), to_sitk(mask))


def _extractor(
    setting: Mapping[str, Any],
    image_types: Mapping[str, Mapping[str, Any]],
    features: Mapping[str, tuple[str, ...]],
) -> RadiomicsFeatureExtractor:
    """A stock extractor with just these settings, image types and features.

    Left to Radloom: the diagnostics (the case records hold them), the size limit (checked, see
    `extract_features`), and what concerns a mask on another grid (the grids are the same), which would change
    SimpleITK's tolerance for the whole process.
    """
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    ours = {"minimumROISize", "geometryTolerance", "correctMask"}
    extractor = RadiomicsFeatureExtractor(additionalInfo=False)
    extractor.settings.update({key: value for key, value in setting.items() if key not in ours})
    extractor.enabledImagetypes = {name: dict(own) for name, own in image_types.items()}
    extractor.enabledFeatures = {name: list(wanted) for name, wanted in features.items()}
    return extractor


def _execute(extractor: RadiomicsFeatureExtractor, image: Image, mask: Image) -> dict[str, float]:
    # The grids agree within GRID_TOLERANCE_MM; SimpleITK wants them equal.
    mask.CopyInformation(image)
    return {name: float(value) for name, value in extractor.execute(image, mask, label=1).items()}


def _as_file(params: FeatureParams) -> dict[str, Any]:
    """The parameters as PyRadiomics would read them from a file."""
    return {
        "setting": dict(params.setting),
        "imageType": {name: dict(own) for name, own in params.image_types.items()},
        "featureClass": {name: list(features) for name, features in params.features.items()},
    }


@functools.lru_cache(maxsize=8)
def _let_pyradiomics_check(content: str) -> None:
    """Hold a parameter file against PyRadiomics' own schema, once a process (30 ms); raises CohortError where
    it fails.
    """
    import pykwalify.core
    from pykwalify.errors import PyKwalifyException
    from radiomics import getParameterValidationFiles

    schema, functions = getParameterValidationFiles()
    logging.getLogger(pykwalify.core.__name__).addHandler(logging.NullHandler())
    core = pykwalify.core.Core(source_data=json.loads(content), schema_files=[schema], extensions=[functions])
    try:
        core.validate()
    except (PyKwalifyException, TypeError, ValueError) as error:
        raise CohortError(f"PyRadiomics rejects the parameter file: {' '.join(str(error).split())}") from None


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if any(part in message for part in _CHATTER):
            return
        if message.startswith("FAILED:"):
            message = _failure(record)
        if message not in self.heard:
            self.heard.append(message)


def _failure(record: logging.LogRecord) -> str:
    """`glcm Contrast failed: ZeroDivisionError: ...` of the traceback that PyRadiomics logs (which holds
    paths of this machine).
    """
    text = record.getMessage()
    feature = re.search(r"\bget(\w+)FeatureValue\b", text)
    name = f"{record.name.rpartition('.')[2]} {feature.group(1) if feature else 'feature'}"
    return f"{name} failed: {text.strip().splitlines()[-1].strip()}"


@contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what PyRadiomics logs as a warning or worse, and keep it and NumPy from printing."""
    import radiomics

    heard: list[str] = []
    listener = _Listener(heard)
    logger = radiomics.logger
    console, propagate = radiomics.handler.level, logger.propagate
    radiomics.handler.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    logger.addHandler(listener)
    try:
        # Every division by zero ends in a value that is not finite, and that is reported as an empty cell.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield heard
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
        radiomics.handler.setLevel(console)


def _empty_cells(row: Mapping[str, float]) -> list[str]:
    """One sentence that names the columns without a value, if there are any."""
    empty = [column for column, value in row.items() if math.isnan(value)]
    if not empty:
        return []
    more = f" and {len(empty) - _NAMED_AT_MOST} more" if len(empty) > _NAMED_AT_MOST else ""
    subject = "1 feature" if len(empty) == 1 else f"{len(empty)} features"
    return [
        f"{subject} could not be computed and {'is' if len(empty) == 1 else 'are'} empty: "
        f"{', '.join(empty[:_NAMED_AT_MOST])}{more}"
    ]
