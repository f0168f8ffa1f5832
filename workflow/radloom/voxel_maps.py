"""Maps of features: every voxel of an ROI has the feature of its neighbourhood, by PyRadiomics' voxel-based extraction.

Outside the ROI, and where a feature can't be computed, a map is NaN: 0 is a value that many features take. (Readers
built on ITK and niftilib show NaN as 0; the ROI's own file tells where the map is.) The grey levels are those of the
whole ROI, so that voxels can be compared; a feature that depends on the number of a grey level (JointAverage) is not
what the neighbourhood alone would give.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radloom.codebook import ONE, describe
from radloom.errors import CaseError
from radloom.feature_params import FeatureParams, map_features
from radloom.images import Volume, bounding_box, crop, from_sitk, same_grid, to_sitk, write_nifti
from radloom.map_pictures import GAP, draw_map
from radloom.overlay import stack_pictures, write_overlay

PICTURE = "voxel_maps.png"
GRID_TOLERANCE_MM = 1e-3
BATCH_BYTES = 128 * 2**20
"""Memory for the matrices of the voxels that are computed at once; features take about three times as much beside."""

MAX_GREY_LEVELS = 1024  # a voxel's co-occurrence matrices take 109 MB then
FILTERED_LEVELS = 256
# PyRadiomics gives these no value where one voxel of a batch lacks a direction that another one has (thin parts of an
# ROI): JointAverage is a mean over all directions, MCC the eigenvalues of all matrices at once.
_ALONE = {"JointAverage", "MCC"}


@dataclass(frozen=True)
class VoxelMap:
    """The map of a feature over an ROI: float32 (z, y, x) on the image's grid, NaN outside of the ROI."""

    roi: str
    column: str
    volume: Volume


def voxel_maps(
    image: Volume,
    roi: Volume,
    labels: Mapping[int, str],
    params: FeatureParams,
    features: Sequence[str],
    rois: Sequence[str] = (),
    kernel_radius: int = 1,
    masked_kernel: bool = True,
    batch: int | None = None,
) -> Iterator[VoxelMap | str]:
    """Yield the maps ROI by ROI, feature by feature, and a sentence for each that can't be made or has gaps.

    image, roi: HU and label numbers on one grid, (z, y, x); `labels` names the numbers, `rois` those to map (all).
    features: see `radloom.feature_params.map_features`. The settings are those of `params`.
    kernel_radius: voxels to each side; masked_kernel: only voxels of the ROI count, else the image around it too.
    batch: voxels at once; by default as many as fit into BATCH_BYTES. It changes no value. JointAverage and MCC of
        the GLCM are computed voxel by voxel, which is slow.

    Raises CaseError when image and ROI don't lie on one grid.
    """
    if not same_grid(image.geometry, roi.geometry, GRID_TOLERANCE_MM):
        raise CaseError("image and ROI don't lie on one grid", "resample both together")
    wanted, problems = map_features(features, params)
    assert not problems, problems  # the configuration was checked
    for number in sorted(labels):
        name = labels[number]
        if rois and name not in rois:
            continue
        mask = roi.array == number
        region = Volume(mask.astype(np.uint8), roi.geometry)
        box = bounding_box(mask, margin=kernel_radius)
        if box is None:
            yield f"{name}: the ROI is empty, it has no maps"
            continue
        for image_type, by_class in wanted.items():
            source, inside = image, region
            if not _sees_whole_image(image_type, params):
                source, inside = crop(image, box), crop(region, box)
            for feature_class, columns in _groups(by_class):
                try:
                    found = _execute(
                        source, inside, params, image_type, feature_class, columns, kernel_radius, masked_kernel, batch
                    )
                except (CaseError, ValueError) as error:  # PyRadiomics' way to refuse an ROI
                    yield f"{name}: {', '.join(columns)}: no map: {' '.join(str(error).split())}"
                    continue
                for column in columns:
                    values = found.get(column)
                    if values is None:
                        yield f"{name}: {column}: no map: PyRadiomics could not make the image"
                        continue
                    volume = _on_grid(values, image)
                    missing = int(np.count_nonzero(mask & ~np.isfinite(volume.array)))
                    if missing:
                        yield f"{name}: {column}: {missing} of {int(mask.sum())} voxels have no value"
                    yield VoxelMap(name, column, volume)


def write_maps(
    out: Path, image: Volume, maps: Iterable[VoxelMap | str], window: tuple[float, float]
) -> tuple[dict[str, dict[str, dict[str, float]]], list[str]]:
    """Write `<roi>_<column>.nii.gz` (float32) for every map into `out`, and PICTURE of all, if there are any.

    Takes what `voxel_maps` yields, one map after the other. Returns voxels with a value, minimum, median and maximum by
    ROI and column, and the sentences on what is missing. `window`: HU shown as black and as white.
    """
    facts: dict[str, dict[str, dict[str, float]]] = {}
    pictures, notes = [], []
    for found in maps:
        if isinstance(found, str):
            notes.append(found)
            continue
        values = found.volume.array
        known = values[np.isfinite(values)].astype(np.float64)
        if not known.size:
            continue
        write_nifti(out / f"{found.roi}_{found.column}.nii.gz", found.volume)
        summary = {"minimum": known.min(), "median": np.median(known), "maximum": known.max()}
        facts.setdefault(found.roi, {})[found.column] = {
            "voxels": known.size,
            **{k: float(v) for k, v in summary.items()},
        }
        unit = describe(found.column).unit
        title = f"{found.roi} · {found.column}" + ("" if unit == ONE else f" ({unit})")
        pictures.append(draw_map(image, values, title, window))
    if pictures:
        write_overlay(out / PICTURE, stack_pictures(pictures, GAP))
    return facts, notes


def _groups(by_class: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, list[str]]]:
    """Classes with the columns that are computed in one go."""
    for name, columns in by_class.items():
        alone = [column for column in columns if column.rpartition("_")[2] in _ALONE]
        for group in ([column for column in columns if column not in alone], alone):
            if group:
                yield name, group


def _sees_whole_image(image_type: str, params: FeatureParams) -> bool:
    """Whether more counts than the ROI's box and the kernel around it: for filters, and where the image is scaled."""
    return image_type != "Original" or bool(params.setting.get("normalize"))


def _execute(
    image: Volume,
    mask: Volume,
    params: FeatureParams,
    image_type: str,
    feature_class: str,
    columns: Sequence[str],
    kernel_radius: int,
    masked_kernel: bool,
    batch: int | None,
) -> dict[str, Volume]:
    """Maps by column of one class and image type, on the part of the grid that PyRadiomics crops to."""
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    setting = params.effective(image_type)
    if {column.rpartition("_")[2] for column in columns} <= _ALONE:
        batch = 1
    if batch is None:
        levels = FILTERED_LEVELS  # the values of a derived image are not known yet
        if not _sees_whole_image(image_type, params):
            levels = _grey_levels(image, mask, setting, masked_kernel)
        batch = max(1, BATCH_BYTES // bytes_per_voxel(feature_class, levels, kernel_radius, setting))
    extractor = RadiomicsFeatureExtractor(additionalInfo=False)
    ours = {"minimumROISize", "geometryTolerance", "correctMask"}
    extractor.settings.update({key: value for key, value in setting.items() if key not in ours})
    # NaN from the start: PyRadiomics leaves a voxel whose feature fails at the value that it began with.
    extractor.settings.update(
        kernelRadius=kernel_radius, maskedKernel=masked_kernel, initValue=math.nan, voxelBatch=batch
    )
    extractor.enabledImagetypes = {image_type: dict(params.image_types.get(image_type, {}))}
    extractor.enabledFeatures = {feature_class: sorted({column.rpartition("_")[2] for column in columns})}
    source, inside = to_sitk(image), to_sitk(mask)
    inside.CopyInformation(source)
    with _quiet():
        result = extractor.execute(source, inside, label=1, voxelBased=True)
    return {column: from_sitk(result[column]) for column in columns if column in result}


def _grey_levels(image: Volume, mask: Volume, setting: Mapping[str, object], masked_kernel: bool) -> int:
    """Grey levels of the voxels that count; raises CaseError where their matrices would not fit into memory."""
    values = image.array[mask.array > 0] if masked_kernel else image.array
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise CaseError("there are voxels without a finite value", "check the image for NaN and infinity")
    width = float(setting.get("binWidth", 25))  # type: ignore[arg-type]
    levels = int(setting.get("binCount", high // width - low // width + 1))  # type: ignore[call-overload]
    if levels > MAX_GREY_LEVELS:
        raise CaseError(
            f"the values from {low:g} to {high:g} make {levels} grey levels, more than {MAX_GREY_LEVELS}",
            "a larger `binWidth`, or a `masked_kernel`",
        )
    return levels


def bytes_per_voxel(feature_class: str, levels: int, kernel_radius: int, setting: Mapping[str, object]) -> int:
    """Bytes of the matrices that PyRadiomics holds for each voxel of a batch, float64."""
    side = 2 * kernel_radius + 1
    distances: Sequence[int] = setting.get("distances", [1])  # type: ignore[assignment]
    angles = sum((2 * d + 1) ** 3 - (2 * d - 1) ** 3 for d in distances) // 2
    cells = {
        "firstorder": 8 * side**3 + levels,
        "glcm": angles * levels**2 + 4 * angles * levels,
        "glrlm": 13 * levels * side,
        "glszm": levels * side**3,
        "gldm": levels * side**3,
        "ngtdm": 3 * levels + levels**2,  # of all pairs of levels, for Complexity
    }
    return 8 * cells[feature_class]


def _on_grid(values: Volume, image: Volume) -> Volume:
    """A map put into its place on the image's grid, NaN around it."""
    array = np.full(image.geometry.shape, np.nan, dtype=np.float32)
    first = np.rint(image.geometry.to_index(values.geometry.origin)).astype(int)
    place = tuple(slice(f, f + n) for f, n in zip(first[::-1].tolist(), values.array.shape, strict=True))
    array[place] = values.array
    return Volume(array, image.geometry)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyRadiomics and NumPy from printing: a voxel without a value is reported by its NaN."""
    import radiomics

    level, propagate = radiomics.handler.level, radiomics.logger.propagate
    radiomics.handler.setLevel(logging.CRITICAL + 1)
    radiomics.logger.propagate = False
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        radiomics.handler.setLevel(level)
        radiomics.logger.propagate = propagate
