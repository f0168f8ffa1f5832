"""Features of every ROI of a case under other bin widths and voxel spacings than those of the run.

One setting changes at a time: every bin width at the run's spacing, every spacing at the run's bin width. The image
at another spacing is what the run would have made: resampled from the ingested image and calibrated alike. The ROI
is in all settings the one that the run extracted from, brought onto the other grid as masks are (linear, >= 0.5).
So it is the same region, whether it came from a mask or a U-Net, and what moves a feature is the voxels alone: the
segmentation run again, or the morphology at another spacing, would change the region too. Spacings finer than the
run's keep the steps of the ROI's outline.
"""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from radloom.errors import CaseError
from radloom.extract import extract_features
from radloom.feature_params import SHAPE_CLASSES, FeatureParams, feature_columns
from radloom.images import Vector, Volume
from radloom.resample import mask_on_grid
from radloom.roi_definitions import Definition

BASELINE = "baseline"
BIN_WIDTH = "bin_width"
SPACING = "spacing"
KEYS = ("roi", "parameter", "setting")
"""Columns of a case's file before its features."""

DEFAULT_BIN_WIDTH = 25  # PyRadiomics'
# All other features of the first order are computed from the values as they are.
_BINNED_FIRST_ORDER = ("Entropy", "Uniformity")


Volumes = Callable[[], tuple[Volume, Volume]]


@dataclass(frozen=True)
class Sensitivity:
    """Features by (ROI, parameter, setting), the baseline first; NaN where a feature can't be computed."""

    columns: list[str]
    rows: dict[tuple[str, str, str], list[float]]
    warnings: list[str]


def binned_params(params: FeatureParams, bin_width: float) -> FeatureParams | None:
    """The parameters with another bin width, and with those features alone that depend on it; None without any.

    Image types that have a bin width or count of their own keep it.
    """
    features = {name: names for name, names in params.features.items() if name not in ("firstorder", *SHAPE_CLASSES)}
    first = tuple(name for name in params.features.get("firstorder", ()) if name in _BINNED_FIRST_ORDER)
    if first:
        features["firstorder"] = first
    types = {name: own for name, own in params.image_types.items() if not {"binWidth", "binCount"} & set(own)}
    if not features or not types:
        return None
    setting = {**params.setting, "binWidth": bin_width}
    return dataclasses.replace(params, setting=setting, image_types=types, features=features)


def vary_settings(
    image: Volume,
    roi: Volume,
    labels: Mapping[int, str],
    params: FeatureParams,
    baseline: Mapping[str, Sequence[float]],
    bin_widths: Sequence[float],
    spacings: Sequence[Vector],
    image_at: Callable[[Vector], Volume],
    min_voxels: int,
    derived: Mapping[str, Definition] | None = None,
) -> Sensitivity:
    """Compute the features of the ROIs of `baseline` under each bin width (HU) and each spacing (x, y, z; mm).

    image, roi: HU and label numbers on one grid, (z, y, x), at the run's spacing; `labels` names the numbers.
    baseline: the run's own features of each ROI, in the order of `feature_columns(params)`. What a bin width can't
        change (shape, most of the first order, images with a bin width of their own) is taken from it.
    image_at: the calibrated image at a spacing, on a grid that shares the centre with `roi`.
    min_voxels: an ROI with fewer voxels in a setting has no features there.
    derived: definitions of further ROIs, derived anew on each grid.

    A setting in which an ROI can't be used has a warning, and no values for that ROI.
    """

    def at(spacing: Vector) -> tuple[Volume, Volume]:
        other = image_at(spacing)
        return other, mask_on_grid(roi, other.geometry)[0]

    # The volumes of a setting are made when it is its turn: one at a time.
    settings: list[tuple[str, str, FeatureParams | None, Volumes]] = []
    for width in bin_widths:
        settings.append((BIN_WIDTH, f"{width:g}", binned_params(params, width), lambda: (image, roi)))
    for spacing in spacings:
        settings.append((SPACING, spacing_text(spacing), params, partial(at, spacing)))

    columns = feature_columns(params)
    rows = {(name, BASELINE, ""): list(values) for name, values in baseline.items()}
    warnings: list[str] = []
    for parameter, setting, own, volumes in settings:
        changed = set(feature_columns(own)) if own else set()
        values, notes = _features(volumes, labels, own, list(baseline), min_voxels, derived) if own else ({}, [])
        warnings += [f"{parameter.replace('_', ' ')} {setting}: {note}" for note in notes]
        for name, run in baseline.items():
            found = {column: value for column, value in zip(columns, run, strict=True) if column not in changed}
            found |= values.get(name, {})
            rows[name, parameter, setting] = [found.get(column, math.nan) for column in columns]
    return Sensitivity(columns, rows, warnings)


def spacing_text(spacing: Sequence[float]) -> str:
    """A spacing as it stands in tables: 2 x 2 x 2; 0 is the spacing that the image came with."""
    return " x ".join(f"{part:g}" if part else "original" for part in spacing) if any(spacing) else "original"


def _features(
    volumes: Volumes,
    labels: Mapping[int, str],
    params: FeatureParams,
    rois: list[str],
    min_voxels: int,
    derived: Mapping[str, Definition] | None,
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Values by ROI and column, and notes."""
    try:
        extraction = extract_features(*volumes(), labels, params, rois, min_voxels, derived)
    except CaseError as error:
        return {}, [str(error)]
    values = {name: dict(zip(extraction.columns, row, strict=True)) for name, row in extraction.rows.items()}
    return values, [*(f"{e['roi']}: {e['reason']}" for e in extraction.excluded), *extraction.warnings]


def write_sensitivity(path: Path, result: Sensitivity) -> None:
    """Write `roi,parameter,setting,<feature>,...`; floats by repr, so that they read back bit for bit; NaN is empty."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*KEYS, *result.columns])
        for keys, values in result.rows.items():
            writer.writerow([*keys, *("" if math.isnan(value) else repr(value) for value in values)])


def read_keyed(path: Path, keys: int) -> tuple[list[str], dict[tuple[str, ...], list[float]]]:
    """Read a case's features: their names, and the values (NaN if empty) by the first `keys` cells of each row."""
    with open(path, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    values = {tuple(row[:keys]): [float(cell) if cell else math.nan for cell in row[keys:]] for row in rows}
    return header[keys:], values
