"""Reading what the centres sent: volumes and DICOM, checked and brought to one orientation and type."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.errors import CaseError
from radloom.images import Array, Geometry, Volume, reorient
from radloom.source_cells import Contents, Selection, Sources
from radloom.volume_files import match_mask, not_finite, read_source

if TYPE_CHECKING:
    from radloom.dicom.source import DicomImage

NO_CHOICE = Selection()
AIR_HU = -1024  # the lowest value that a 12-bit CT scanner stores
# Noise and sharp kernels reach some way below -1024; what lies below this is padding or no HU at all.
_PADDING_BELOW = -1200
_PADDING_SHARE = 0.05  # least share of the voxels that a constant from -1200 to -1024 HU has as padding
_SOLID_SHARE = 0.5  # least share of them with that value in the four neighbours too
_AIR_BELOW = -900
_AIR_SHARE = 0.05  # least share of the voxels that air has beside such padding
_LOWEST_HU, _HIGHEST_HU = -8192, 32767  # photon-counting scanners write -8192 outside of the field of view
_LEAST_RANGE_HU = 50


@dataclass(frozen=True)
class Scan:
    """A checked case: image (int16, float32), mask (uint8, uint16) and validity on one grid, axes nearest to LPS.

    `valid` (uint8) is 1 where a value was measured and 0 where it is padding; None where all of it was measured.
    """

    image: Volume
    mask: Volume | None
    valid: Volume | None
    facts: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class _Read:
    """An image as it was read; `dicom` is what a mask that is DICOM has to fit, None for other formats."""

    volume: Volume
    valid: Array | None
    facts: dict[str, Any]
    warnings: list[str]
    dicom: DicomImage | None = None


def ingest_case(
    image: Path | str,
    mask: Path | str | None = None,
    *,
    min_spacing: float = 0.05,
    max_spacing: float = 10.0,
    geometry_tolerance: float = 0.01,
    selection: Selection = NO_CHOICE,
    dicom: Mapping[str, Any] = MappingProxyType({}),
    max_unpacked_gb: float = 4,
    web: Mapping[str, Any] = MappingProxyType({}),
    work: Path | None = None,
    fetched: Path | None = None,
) -> Scan:
    """Read an image and its mask, check them, and bring both to the axes nearest to LPS.

    Each is a path (a volume, a DICOM file, a folder, an archive) or the URL of a series on a DICOMweb server. Spacings
    and the tolerance are in mm. `dicom` are the settings of the section `ingest` that DICOM is read by (`series_rule`
    and those of `CtSettings`). Archives are unpacked to a folder in `work` that is removed. `web` and
    `fetched` are as in `Sources`. Raises CaseError for everything that makes the case unusable.
    """
    with Sources(work or Path(tempfile.gettempdir()), max_unpacked_gb, web, fetched) as sources:
        contents = sources.open(image, "image")
        if contents.volume is not None:
            read = _read_volume(contents.volume)
        else:
            read = _read_dicom(contents, selection, dicom)
        check_grid(read.volume.geometry, min_spacing, max_spacing)
        array, padding, facts, warnings = clean_hu(read.volume.array)
        valid = _measured(read.valid, padding)
        facts["padding_voxels"] = 0 if valid is None else int(valid.size - np.count_nonzero(valid))
        found = Volume(array, read.volume.geometry)
        warnings = read.warnings + warnings
        matched = None
        if mask is not None:
            given, told, more = _read_mask(sources.open(mask, "mask"), read, selection)
            matched, labels = match_mask(given, found.geometry, geometry_tolerance)
            if matched.array.all():
                raise CaseError("the mask fills the whole image", "Send a mask that is 0 outside of the ROI.")
            facts = {**facts, **told, "mask_labels": labels}
            warnings += more
    geometry = reorient(found).geometry
    facts = {
        **{key: value for key, value in read.facts.items() if key in ("format", "dtype")},
        "size": list(geometry.size),
        "spacing": list(geometry.spacing),
        "origin": list(geometry.origin),
        "direction": list(geometry.direction),
        **facts,
        **{key: value for key, value in read.facts.items() if key not in ("format", "dtype")},
    }
    return Scan(
        reorient(found),
        None if matched is None else reorient(matched),
        None if valid is None else reorient(Volume(valid.view(np.uint8), found.geometry)),
        facts,
        warnings,
    )


def _read_volume(path: Path) -> _Read:
    source = read_source(path, "image")
    return _Read(source.volume, None, {"format": source.format, "dtype": source.dtype}, source.warnings)


def _read_dicom(contents: Contents, selection: Selection, settings: Mapping[str, Any]) -> _Read:
    # pydicom is imported only for cases that are DICOM.
    from radloom.dicom.source import read_image

    read = read_image(contents.dicom, selection, settings)
    return _Read(read.ct.volume, read.ct.valid, read.facts, read.warnings, read)


def _read_mask(contents: Contents, image: _Read, selection: Selection) -> tuple[Volume, dict[str, Any], list[str]]:
    """The mask as it was read or drawn, with what is to be said of it."""
    if contents.volume is not None:
        source = read_source(contents.volume, "mask")
        return source.volume, {}, source.warnings
    if image.dicom is None:
        raise CaseError(
            "the mask is DICOM and the image is not, so that nothing tells whether they belong together",
            "Name the DICOM series as image, or convert the mask to a volume on the image's grid.",
        )
    from radloom.dicom.source import read_mask

    drawn = read_mask(contents.dicom, image.dicom, selection)
    return drawn.volume, {"mask": drawn.facts}, drawn.warnings


def _measured(valid: Array | None, padding: Array | None) -> Array | None:
    """Where values were measured, of what the series says and what the values show; None where all were."""
    if padding is not None:
        valid = ~padding if valid is None else valid & ~padding
    return None if valid is None or valid.all() else valid


def check_grid(geometry: Geometry, min_spacing: float, max_spacing: float) -> None:
    """Raise CaseError unless spacing (mm) and size are those of a volume that features can be taken from."""
    shown = " x ".join(f"{value:g}" for value in geometry.spacing)
    if not all(np.isfinite(geometry.spacing)) or not all(np.isfinite(geometry.origin)):
        raise CaseError("the voxel spacing or the origin of the image is not finite", "Correct the file's header.")
    if min(geometry.spacing) < min_spacing or max(geometry.spacing) > max_spacing:
        raise CaseError(
            f"the voxel spacing {shown} mm is outside {min_spacing:g} to {max_spacing:g} mm",
            "Correct the header, or set ingest: min_spacing and max_spacing in the configuration.",
        )
    size = sorted(geometry.size)
    if size[0] < 2 or size[1] < 8:
        raise CaseError(
            f"the image of {' x '.join(map(str, geometry.size))} voxels is too small to be a CT scan",
            "At least 2 slices of 8 x 8 voxels are needed.",
        )


def clean_hu(array: Array) -> tuple[Array, Array | None, dict[str, Any], list[str]]:
    """Check that values are HU, and set padding (`padding_of`) to -1024; noise between -1200 and -1024 stays.

    Returns the values as int16, or float32 where some are fractional, where the padding was (None without any), the
    facts `hu_min` and `hu_max` (as read), and warnings. Raises CaseError for values that aren't finite, are constant,
    or are not HU.
    """
    padding, facts, warnings = padding_of(array)
    if padding is not None:
        array = np.where(padding, array.dtype.type(AIR_HU), array)
    if array.dtype.kind == "f" and not all(np.array_equal(np.rint(plane), plane) for plane in array):
        return array.astype(np.float32, copy=False), padding, facts, warnings
    return array.astype(np.int16, copy=False), padding, facts, warnings


def padding_of(array: Array) -> tuple[Array | None, dict[str, Any], list[str]]:
    """Where values (z, y, x) are padding, None if nowhere, with the facts and warnings, and the errors, of `clean_hu`.

    Padding is what lies below -1200, and a constant below -1024 that fills whole areas beside the air
    (`_find_padding`).
    """
    not_hu = "Send the image in HU: stored values x rescale slope + rescale intercept."
    low, high = array.min().item(), array.max().item()
    if not np.isfinite(low) or not np.isfinite(high):
        raise not_finite(array.size - int(np.count_nonzero(np.isfinite(array))), "image")
    if low == high:
        raise CaseError(f"all voxels of the image have the same value {low:g}", "Send the image again.")
    if low < _LOWEST_HU or high > _HIGHEST_HU:
        raise CaseError(
            f"values from {low:g} to {high:g} are no HU, which lie within {_LOWEST_HU} and {_HIGHEST_HU}",
            f"{not_hu} Set padding outside the field of view to {AIR_HU}.",
        )
    if low >= 0 and high <= 1:
        raise CaseError(f"values from {low:g} to {high:g} look scaled to 0..1, not HU", not_hu)
    if low >= 0 and high <= 255:
        raise CaseError(f"values from {low:g} to {high:g} look like an 8-bit picture, not HU", not_hu)
    if low >= 0:
        raise CaseError(
            f"values from {low:g} to {high:g}, none negative, look like stored values without the rescale intercept",
            not_hu,
        )
    if high - low < _LEAST_RANGE_HU:
        raise CaseError(f"values from {low:g} to {high:g} look normalised, not HU", not_hu)
    facts: dict[str, Any] = {"hu_min": low, "hu_max": high}
    warnings: list[str] = []
    padding = _find_padding(array, low)
    if padding is not None:
        warnings += _check_padding(array, padding, not_hu)
    return padding, facts, warnings


def _find_padding(array: Array, low: float) -> Array | None:
    """Where the padding is in an image whose lowest value is `low`; None without any.

    From -1200 to -1024 HU only the most frequent value can be padding: if it fills areas instead of being
    scattered, as the lower end of clipped noise is, and if it isn't the air, as in an image without noise.
    """
    if low >= AIR_HU:
        return None
    far = np.asarray(array < _PADDING_BELOW) if low < _PADDING_BELOW else None
    near = array[(array < AIR_HU) & (array >= _PADDING_BELOW)]
    if near.size < _PADDING_SHARE * array.size:
        return far
    values, counts = np.unique(near, return_counts=True)
    count = int(counts.max())
    air = int(np.count_nonzero((array < _AIR_BELOW) & (array >= _PADDING_BELOW))) - count
    if count < _PADDING_SHARE * array.size or air < _AIR_SHARE * array.size:
        return far
    same = np.asarray(array == values[counts.argmax()])
    solid = same[:, 1:-1, 1:-1] & same[:, :-2, 1:-1] & same[:, 2:, 1:-1] & same[:, 1:-1, :-2]
    solid &= same[:, 1:-1, 2:]
    if np.count_nonzero(solid) < _SOLID_SHARE * count:
        return far
    return same if far is None else same | far


def _check_padding(array: Array, padding: Array, not_hu: str) -> list[str]:
    """Tell padding, mostly one constant below air, from values that are shifted as a whole."""
    far = array[padding]
    values, counts = np.unique(far, return_counts=True)
    stray = (far.size - int(counts.max())) / array.size
    if stray > 0.05:
        raise CaseError(
            f"{100 * stray:.0f} % of the voxels lie below {_PADDING_BELOW} HU with many different values, as "
            "if the rescale intercept had been applied twice",
            not_hu,
        )
    if far.size == array.size:
        raise CaseError(f"all voxels of the image lie below {_PADDING_BELOW} HU", not_hu)
    lowest = array.min(where=~padding, initial=array.max())
    if lowest > -200:
        raise CaseError(
            f"apart from padding the values start at {lowest:g}, without air in the field of view: "
            "they look like stored values without the rescale intercept",
            not_hu,
        )
    value = values[counts.argmax()].item()
    return [f"{far.size} voxels of padding (mostly {value:g}) were set to {AIR_HU} HU"]
