"""PyRadiomics features of every ROI of a case.

The numbers are PyRadiomics', by `radloom.features` or by PyRadiomics itself. Around them stands what a table for
statisticians needs: columns that follow from the parameter file alone, an empty cell and a warning where a
feature can't be computed, and a reason where an ROI can't be used.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radloom.derived_rois import Region, find_rois
from radloom.errors import CaseError
from radloom.feature_params import (
    SHAPE_CLASSES,
    FeatureParams,
    feature_columns,
    read_params,
    validate_params,
)
from radloom.features import compute_features, shape_features
from radloom.features.filters import FilteredImage, filtered_images
from radloom.ibsi import bin_setting, ibsi_values, intensity_range
from radloom.images import (
    Array,
    Box,
    Volume,
    bounding_box,
    corner_distance,
    crop,
    crop_geometry,
    read_nifti,
    read_nifti_geometry,
    same_grid,
)
from radloom.roi_definitions import Definition, Shell
from radloom.stock import check_by_schema, check_grey_levels, listening, normalized, stock_shape, stock_textures

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
_NAMED_AT_MOST = 5


@dataclass(frozen=True)
class Roi:
    """An ROI where it lies: the whole image, the slices of its box, and its voxels in there, (z, y, x) bool."""

    image: Volume
    box: Box
    mask: Array

    @property
    def array(self) -> Array:
        """The image's values in the box, (z, y, x); a view."""
        return self.image.array[self.box]

    def volumes(self, mask: Array) -> tuple[Volume, Volume]:
        """The box of the image and a mask on it, (z, y, x), where they lie."""
        place = crop_geometry(self.image.geometry, self.box)
        return Volume(np.ascontiguousarray(self.array), place), Volume(mask.astype(np.uint8), place)

    @property
    def values(self) -> Array:
        """The image's values in the ROI, (n,)."""
        return self.array[self.mask]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing (z, y, x) in mm."""
        x, y, z = self.image.geometry.spacing
        return z, y, x


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


def read_around(
    image: Path, roi: Path, params: Iterable[FeatureParams], derived: Mapping[str, Definition]
) -> tuple[Volume, Volume]:
    """Read an image and its label volume (NIfTI), cut to what the features depend on: the labels and as far around them
    as derived ROIs may reach, or all of it where filters or `normalize` look at the whole image.

    Raises ValueError as `read_nifti`.
    """
    labels = read_nifti(roi)
    shells = sum(one.outer_mm for one in derived.values() if isinstance(one, Shell))
    margin = math.ceil(shells / min(labels.geometry.spacing)) + 1
    box = bounding_box(labels.array, margin)
    if box is None or not all(map(_is_local, params)) or read_nifti_geometry(image).size != labels.geometry.size:
        return read_nifti(image), labels
    labels = crop(labels, box)
    return read_nifti(image, box), labels


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
            values, facts[name], roi_notes = _extract_roi(image, region, params, min_voxels)
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
    image: Volume, region: Region, params: FeatureParams, min_voxels: int
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Values by column (what has no value is missing or not finite), facts and notes of one ROI."""
    small = _tight(image, region)
    needed = max(min_voxels, params.setting.get("minimumROISize", 1))
    _check_roi(small.mask, needed, params)
    if not np.isfinite(small.values).all():
        raise CaseError("the ROI has voxels without a finite value", "check the image for NaN and infinity")
    count = int(np.count_nonzero(small.mask))
    facts: dict[str, float] = {"voxels": count, "volume_mm3": count * image.geometry.voxel_mm3}
    if params.setting.get("normalize"):
        small = Roi(normalized(image, params.setting), small.box, small.mask)
    in_range = intensity_mask(small, needed, params)
    if "resegmentRange" in params.setting or params.outlier_sigma is not None:
        facts["voxels_in_range"] = int(np.count_nonzero(in_range))
    shape_mask = in_range if params.setting.get("resegmentShape") else small.mask
    notes = _contrast(small.array[in_range], params)
    values, more = _ENGINES[params.engine](image, small, shape_mask, in_range, params)
    if params.ibsi:
        values = ibsi_values(values, count)
    return values, facts, notes + more


def _tight(image: Volume, region: Region) -> Roi:
    inner = bounding_box(region.mask)
    if inner is None:
        raise CaseError("the ROI is empty", "check the segmentation and the volume limits of the post-processing")
    z, y, x = (
        slice(outer.start + part.start, outer.start + part.stop) for outer, part in zip(region.box, inner, strict=True)
    )
    return Roi(image, (z, y, x), region.mask[inner])


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


def intensity_mask(roi: Roi, min_voxels: int, params: FeatureParams) -> Array:
    """Return which voxels of the ROI's box first order and texture features use: all of the ROI's, or those in
    `resegmentRange` by `resegmentMode`, as PyRadiomics' `resegmentMask`; ends included. With `outlier_sigma`
    outliers go too (`radloom.ibsi.intensity_range`).

    Raises CaseError where too few are left.
    """
    limits = params.setting.get("resegmentRange")
    if limits is None and params.outlier_sigma is None:
        return roi.mask
    low, high = intensity_range(roi.values, params.setting, params.outlier_sigma)
    what = f"the part of the ROI inside `resegmentRange` {limits}"
    if params.outlier_sigma is not None:
        what = f"the part of the ROI from {low:g} to {high:g}"
    kept = roi.mask & (roi.array >= low) & (roi.array <= high)
    if np.count_nonzero(kept) <= 1:
        raise CaseError(f"{what} has at most one voxel", "check the range, the calibration and the ROI")
    _check_roi(kept, min_voxels, params, what)
    return kept


def _contrast(values: Array, params: FeatureParams) -> list[str]:
    """A note on an ROI without contrast in the original image."""
    if "Original" not in params.image_types:
        return []
    setting = params.effective("Original")
    if params.ibsi:
        setting = bin_setting(values, setting)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return [
            f"all voxels have the value {low:g}: first order and texture features take PyRadiomics' conventional values"
        ]
    width, first = float(setting.get("binWidth", 25)), setting.get("binAnchor", 0)
    one_bin = (low - first) // width == (high - first) // width
    if setting.get("binCount") == 1 or ("binCount" not in setting and one_bin):
        return [
            f"all values fall into one bin of width {width:g}: texture features take PyRadiomics' conventional values"
        ]
    return []


def _by_radloom(
    image: Volume, roi: Roi, shape_mask: Array, in_range: Array, params: FeatureParams
) -> tuple[dict[str, float], list[str]]:
    """All features by `radloom.features`, but for `shape2D`, which is PyRadiomics' own."""
    spacing = roi.spacing
    values: dict[str, float] = {}
    notes: list[str] = []
    if "shape" in params.features:
        shape = shape_features(shape_mask, spacing, params.features["shape"])
        values = {f"original_shape_{name}": value for name, value in shape.items()}
    if "shape2D" in params.features:
        flat, notes = _flat_shape(roi, shape_mask, params)
        values |= flat
    classes = {name: features for name, features in params.features.items() if name not in SHAPE_CLASSES}
    if not classes:
        return values, notes
    # Directions depend on the box of the voxels in range, as in PyRadiomics.
    inner = bounding_box(in_range)
    assert inner is not None
    mask = in_range[inner]
    for filtered in _images(image, roi, in_range, params):
        problem, setting = filtered.note, params.effective(filtered.image_type)
        if not problem and not np.isfinite(filtered.array[in_range]).all():
            problem = f"{filtered.name}: some voxels have no finite value"
        try:
            if params.ibsi and not problem:
                setting = bin_setting(filtered.array[in_range], setting, filtered.image_type)
            found = {} if problem else compute_features(filtered.array[inner], mask, spacing, classes, setting)
        except CaseError as error:
            if filtered.image_type == "Original":
                raise
            problem = f"{filtered.name}: {error.reason}"
        if problem:
            notes.append(problem)
            continue
        values |= {f"{filtered.name}_{name}": value for name, value in found.items()}
    return values, notes


def _images(image: Volume, roi: Roi, in_range: Array, params: FeatureParams) -> Iterator[FilteredImage]:
    """The images of all image types inside the ROI's box."""
    if set(params.image_types) == {"Original"}:
        yield FilteredImage("original", "Original", roi.array)
        return
    mask = np.zeros(image.array.shape, bool)
    mask[roi.box] = in_range
    yield from filtered_images(roi.image, mask, roi.box, params.image_types, params.setting)


def _by_pyradiomics(
    image: Volume, roi: Roi, shape_mask: Array, in_range: Array, params: FeatureParams
) -> tuple[dict[str, float], list[str]]:
    """All features by stock PyRadiomics, on the whole image where filters or `normalize` look at it."""
    check_by_schema(params)
    check_grey_levels(roi.array[in_range], params)
    with listening() as heard:
        values = {}
        if "shape" in params.features:
            values = stock_shape(*roi.volumes(shape_mask), params, "shape")
        if "shape2D" in params.features:
            flat, notes = _flat_shape(roi, shape_mask, params)
            values |= flat
            heard += notes
        if _is_local(params):
            values |= stock_textures(*roi.volumes(roi.mask), params)
        else:
            mask = np.zeros(image.array.shape, np.uint8)
            mask[roi.box] = roi.mask
            values |= stock_textures(image, Volume(mask, image.geometry), params)
    return values, heard


def _is_local(params: FeatureParams) -> bool:
    """Whether features depend on nothing outside the ROI's box; filters and `normalize` look at the whole image."""
    return set(params.image_types) == {"Original"} and not params.setting.get("normalize", False)


def _flat_shape(roi: Roi, shape_mask: Array, params: FeatureParams) -> tuple[dict[str, float], list[str]]:
    """Shape features of an ROI of one slice, or the note that it has more."""
    axis = int(params.setting.get("force2Ddimension", 0))
    across = int(np.any(shape_mask, axis=tuple(other for other in range(3) if other != axis)).sum())
    if across != 1:
        return {}, [f"shape2D is for ROIs of one slice, this one has {across}"]
    with listening() as heard:
        return stock_shape(*roi.volumes(shape_mask), params, "shape2D"), heard


_ENGINES = {"radloom": _by_radloom, "pyradiomics": _by_pyradiomics}


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
