"""Figures that tell a sound scan from one to look at: noise, blood, hints of artefacts, and the ROI's place.

`radloom.quality_figures` says what each figure is. Those of the scan are measured before resampling, which would change
the noise, in true HU; those of the ROI in the image that features are taken from. Of the scan every slice is looked at
once, and at most 24 slices are cut into patches; of the ROI's image the part around the ROIs is read.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from radloom.calibrate import Calibration
from radloom.duplicates import Fingerprint
from radloom.images import Array, Box, Geometry, Volume, bounding_box, widen, within_box
from radloom.quality_artefacts import (
    Surveyor,
    find_body,
    motion_jump,
    streak_anisotropy,
    streak_metal,
    truncated_share,
)
from radloom.quality_noise import (
    SLICES,
    air_noise,
    cut_patches,
    global_noise,
    sampled,
    tissue_noise,
)
from radloom.quality_rois import SHIFT_MARGIN_MM, RoiView, measure_roi

Figures = dict[str, float | None]
_BLOOD_RIM_MM = 2.0
_LEAST_BLOOD_MM3 = 1000.0


@dataclass(frozen=True)
class ScanQuality:
    """The figures of a scan, and what its duplicates are found by (`radloom.duplicates`)."""

    figures: Figures
    voxels: str
    picture: str
    body: Volume | None
    """Where the body is, on a coarse grid (`quality_artefacts.find_body`)."""


def measure_scan(
    planes: Iterable[Array],
    geometry: Geometry,
    valid: Iterable[Array] | None,
    calibration: Calibration,
) -> ScanQuality:
    """Measure a scan slice by slice: `planes` (y, x) in HU before calibration, and `valid`, 0 in padding, or None."""
    spacing, shape = geometry.spacing, geometry.shape
    surveyor, fingerprint = Surveyor(geometry, calibration), Fingerprint(shape)
    chosen = set(sampled(shape[0], SLICES))
    kept, kept_valid = [], []
    masks: Iterable[Array | None] = itertools.repeat(None) if valid is None else valid
    for z, (plane, mask) in enumerate(zip(planes, masks, strict=False)):
        seen = None if mask is None else mask > 0
        surveyor.look(z, plane, seen)
        fingerprint.look(z, plane)
        if z in chosen:
            kept.append(plane.copy())
            kept_valid.append(seen)
    found = surveyor.result()
    there = None if valid is None else np.stack([seen for seen in kept_valid if seen is not None])
    patches = cut_patches(np.stack(kept), there, spacing, calibration)
    streak = None
    if found.metallic is not None:
        streak = streak_metal(cut_patches(found.metallic, None, spacing, calibration), spacing)
    figures: Figures = {
        "slices": float(shape[0]),
        "slice_spacing_mm": spacing[2],
        "coverage_mm": shape[0] * spacing[2],
        "noise_air_sd": air_noise(patches),
        "noise_tissue_sd": tissue_noise(patches),
        "noise_global_sd": global_noise(patches),
        "hu_blood": None,
        "streak_anisotropy": streak_anisotropy(patches, spacing),
        "streak_metal": streak,
        "metal_ml": float(found.metal.sum()) * geometry.voxel_mm3 / 1000,
        "saturated_voxels": float(found.saturated),
        "motion_jump_mm": motion_jump(found, spacing),
        "truncated_share": truncated_share(found),
    }
    return ScanQuality(figures, fingerprint.voxels(), fingerprint.picture(), find_body(found))


def box_of_rois(labels: Volume) -> Box | None:
    """The part (z, y, x) of an image that the figures of the ROIs need; None where there is no ROI."""
    tight = bounding_box(labels.array)
    if tight is None:
        return None
    return widen(tight, _margins(labels.geometry), labels.array.shape)


def _margins(geometry: Geometry) -> list[int]:
    """Voxels (z, y, x) around an ROI that the search for a shift reads."""
    return [math.ceil(SHIFT_MARGIN_MM / step) for step in geometry.spacing[::-1]]


def read_box(planes: Iterable[Array], box: Box) -> Array:
    """What lies within `box` (z, y, x) of a volume whose planes come in order; those after it are not asked for."""
    wanted = itertools.islice(planes, box[0].start, box[0].stop)
    return np.stack([plane[box[1:]].copy() for plane in wanted])


def measure_rois(
    image: Array,
    box: Box,
    labels: Volume,
    names: Mapping[int, str],
    valid: Array | None,
    wanted: Iterable[str | int] = (),
    body: Volume | None = None,
) -> dict[str, Figures]:
    """The figures of the ROIs of a label volume by name, of all of them where `wanted` has no name or number of theirs.

    `image` (z, y, x; true HU) and `valid` are what lies within `box` (`box_of_rois`) on the labels' grid, `body` is the
    scan's. An ROI without a voxel has a volume of 0 and no other figure.
    """
    import cc3d

    inner = np.ascontiguousarray(labels.array[box])
    # The boxes of all labels at once: there may be a hundred.
    known = cc3d.statistics(inner)
    asked = {names.get(int(one), "") if str(one).isdigit() else one for one in wanted}
    chosen = asked & set(names.values()) or set(names.values())
    found: dict[str, Figures] = {}
    margins = _margins(labels.geometry)
    for number, name in sorted(names.items()):
        if name not in chosen:
            continue
        if number >= len(known["voxel_counts"]) or not known["voxel_counts"][number]:
            found[name] = {"roi_volume_ml": 0.0}
            continue
        part = widen(known["bounding_boxes"][number], margins, inner.shape)
        known_there = None if valid is None else valid[part]
        view = RoiView(inner[part] == number, image[part], known_there, within_box(box, part), labels.geometry, body)
        found[name] = measure_roi(view)
    return found


def blood_hu(image: Array, box: Box, labels: Volume, names: Mapping[int, str], called: Iterable[str]) -> float | None:
    """Median HU of the first ROI with one of the names in `called`, in any case; None where there is none.

    The outer 2 mm are left out, which are wall and partial volume; 1 ml at least must be left.
    """
    wanted = {name.lower() for name in called}
    for number, name in sorted(names.items()):
        if name.lower() not in wanted:
            continue
        from radloom.morphology import erosion

        values = image[erosion(labels.array[box] == number, _BLOOD_RIM_MM, labels.geometry.spacing)]
        if values.size * labels.geometry.voxel_mm3 >= _LEAST_BLOOD_MM3:
            return float(np.median(values))
    return None
