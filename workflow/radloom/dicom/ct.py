"""One CT series as a volume in HU on a rectangular grid, or the reason why it can't be one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from radloom.dicom.acquisition import acquisition_of
from radloom.dicom.files import OVERLAYS, Header, integer, number, quiet
from radloom.dicom.frames import Frame, frames_of
from radloom.dicom.geometry import Layout, lay_out, sheared
from radloom.dicom.pixels import syntax_name
from radloom.dicom.series import Series, why_no_slice
from radloom.dicom.stack import Stack
from radloom.errors import CaseError
from radloom.images import Array, Geometry, Volume
from radloom.ingest import AIR_HU, padding_of

TILTS = ("shear", "refuse")
_SAME_COSINE = 1e-4
_SAME_LENGTH = 1e-4  # relative
_MOST_VOXELS = 1 << 31
_TILT_TOLD, _TILT_SHOWN = 1.0, 0.5  # degrees
_ONE_SERIES = "Send one reconstruction as one series."

# What headers say of a person to be seen in the pixels, by the fact (and figure of the quality gate) that counts it,
# and how ingest warns of it.
_PERSONAL: dict[str, tuple[Callable[[Header], bool], str]] = {
    "burned_in_slices": (
        lambda header: header.text("BurnedInAnnotation").upper() == "YES",
        "have text burnt into their pixels, by their header: it may name the patient, and stays there",
    ),
    "recognizable_slices": (
        lambda header: header.text("RecognizableVisualFeatures").upper() == "YES",
        "show by what a person may be recognised, by their header, as a face",
    ),
    "overlay_slices": (
        lambda header: any(tag in header.dataset for tag in OVERLAYS),
        "had overlay planes, which may hold text: they were left out",
    ),
}


@dataclass(frozen=True)
class CtSettings:
    """How a series is read; the keys of the configuration's section `ingest`.

    `tilt` (ingest: tilt): "shear" brings the slices of a tilted gantry onto a rectangular grid by linear
    interpolation within them, "refuse" excludes the case. `allow_gap` (ingest: allow_gap): how many slices in a row
    may be missing; they are interpolated linearly between their neighbours. With 0 a series with a gap is excluded.
    """

    tilt: str = "shear"
    allow_gap: int = 0

    def __post_init__(self) -> None:
        if self.tilt not in TILTS or self.allow_gap < 0:
            raise ValueError("tilt is shear or refuse, and allow_gap 0 or more")


@dataclass(frozen=True)
class CtSeries:
    """A CT as it was measured: axes x along the rows, y down the columns, z along the normal of the slices.

    `volume` is in HU: int16, or float32 where a rescale slope or intercept is fractional or a tilt was sheared back.
    `valid` (z, y, x) is False where nothing was measured, by the pixel padding value or outside of sheared slices
    (there the volume is -1024); None where all was. Padding that shows by its value alone (-3024) is left for
    `ingest.clean_hu`, which finds it in every format. `sop_uids` names the image of each slice ("" of an interpolated
    one), and is empty for a multi-frame series; it and `frame_of_reference` are the patient's own values, and none may
    reach an output.
    """

    volume: Volume
    valid: Array | None
    frame_of_reference: str
    sop_uids: tuple[str, ...]
    acquisition: dict[str, str | float | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


DEFAULTS = CtSettings()


def read_ct(series: Series, settings: CtSettings = DEFAULTS) -> CtSeries:
    """Read a series whose headers `find_series` has read. Raises CaseError for what can't be a CT volume in HU."""
    with quiet():
        return _read(series, settings)


def _read(series: Series, settings: CtSettings) -> CtSeries:
    frames, left_out, layout = check_headers(series, settings)
    stack = Stack(layout, frames)
    seen = {what: sum(told(frame.header) for frame in frames) for what, (told, _) in _PERSONAL.items()}
    warnings = [f"{count} slices {_PERSONAL[what][1]}" for what, count in seen.items() if count]
    warnings += [f"{count} {what} in the series were left out" for what, count in left_out.items() if count]
    warnings += stack.warnings + _warnings(layout, frames)
    array, valid = stack.array, stack.valid
    start = (0, 0)
    if layout.missing or layout.tilt_degrees:
        # Padding that isn't declared must not be mixed into its neighbours.
        padding, *_ = padding_of(array[: len(layout.places)])
        if padding is not None:
            valid = np.ones(array.shape, bool) if valid is None else valid
            valid[: len(padding)] &= ~padding
            array[: len(padding)][padding] = AIR_HU
    if layout.missing:
        _spread(array, valid, layout)
        warnings.append(f"{len(layout.missing)} missing slices were interpolated between their neighbours")
    if layout.tilt_degrees:
        drift = layout.drift[0] / frames[0].spacing[0], layout.drift[1] / frames[0].spacing[1]
        upright = sheared(array, valid, drift, AIR_HU)
        array, valid, start = upright.array, upright.valid, upright.start
        warnings.append(
            f"the gantry was tilted by {layout.tilt_degrees:.1f} degrees: "
            "the slices were sheared onto a rectangular grid"
        )
    (x, y), z = frames[0].spacing, layout.step
    origin = layout.origin + layout.axes[:, :2] @ (np.array(start) * (x, y))
    geometry = Geometry(
        (array.shape[2], array.shape[1], array.shape[0]),
        (x, y, z),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple((layout.axes + 0.0).ravel().tolist()),
    )
    headers = list({id(frame.header): frame.header for frame in frames}.values())
    acquisition = acquisition_of(
        [header.dataset for header in headers], warnings, sorted({header.syntax for header in headers})
    )
    facts = {
        "slices": layout.slices,
        "transfer_syntaxes": sorted({syntax_name(header.syntax) for header in headers}),
        "files_left_out": {what: count for what, count in left_out.items() if count},
        "duplicate_slices": len(frames) - len(layout.places),
        "interpolated_slices": layout.missing,
        "tilt_degrees": round(layout.tilt_degrees, 3),
        "position_error_mm": round(layout.error, 6),
        **seen,
    }
    return CtSeries(
        Volume(array, geometry),
        valid,
        frames[0].header.text("FrameOfReferenceUID"),
        _uids(layout, frames),
        acquisition,
        facts,
        warnings,
    )


def check_headers(series: Series, settings: CtSettings = DEFAULTS) -> tuple[list[Frame], Counter[str], Layout]:
    """The slices of a series, how many of its images are none for which reason, and where they lie; no pixel is read.

    Raises CaseError where that alone tells that it can't be a CT volume in HU. Call it within `quiet`.
    """
    if series.modality != "CT":
        raise CaseError("the series is not a CT, by its modality", "Name a CT series.")
    frames, left_out = _slices(series)
    _check_alike(frames)
    layout = lay_out(np.array([frame.position for frame in frames]), np.array(frames[0].orientation), frames[0].spacing)
    _check_layout(layout, frames, settings)
    return frames, left_out, layout


def _slices(series: Series) -> tuple[list[Frame], Counter[str]]:
    """The frames of the series that can be slices, and how many of its images were left out for which reason."""
    left_out = Counter(why for header in series.headers if (why := why_no_slice(header)))
    frames = [frame for header in series.headers if not why_no_slice(header) for frame in frames_of(header)]
    left_out["localizers"] += sum(frame.localizer for frame in frames)
    frames = [frame for frame in frames if not frame.localizer]
    if len(frames) < 2:
        raise CaseError("the series has fewer than 2 slices", "Name the series that holds the slices of a volume.")
    return frames, left_out


def _check_alike(frames: list[Frame]) -> None:
    """Raise CaseError unless slices share size, spacing, orientation, frame of reference, patient, kernel and kV."""
    sizes = Counter(f"{frame.pixels.columns} x {frame.pixels.rows}" for frame in frames)
    if len(sizes) > 1:
        raise CaseError(f"the slices have different sizes: {_counts(sizes)}", _ONE_SERIES)
    cosines = np.array([frame.orientation for frame in frames])
    other = int((np.abs(cosines - np.median(cosines, axis=0)).max(axis=1) > _SAME_COSINE).sum())
    if other:
        raise CaseError(f"{other} of {len(frames)} slices are oriented otherwise than the rest", _ONE_SERIES)
    spacings = np.array([frame.spacing for frame in frames])
    if not np.allclose(spacings, spacings[0], rtol=_SAME_LENGTH, atol=0):
        kinds = Counter(f"{frame.spacing[0]:g} x {frame.spacing[1]:g} mm" for frame in frames)
        raise CaseError(f"the slices have different pixel spacings: {_counts(kinds)}", _ONE_SERIES)
    places = {frame.header.text("FrameOfReferenceUID") for frame in frames}
    if len(places) > 1:
        raise CaseError(f"the slices have {len(places)} different frames of reference", _ONE_SERIES)
    patients = {frame.header.text("PatientID") for frame in frames}
    if len(patients) > 1:
        raise CaseError(f"the slices are of {len(patients)} patients, by their ids", "Send the scan of one patient.")
    for name in ("kernel", "kV"):
        found = {dict(frame.phase)[name] for frame in frames} - {""}
        if len(found) > 1:
            raise CaseError(f"the series mixes slices of {len(found)} values of {name}", _ONE_SERIES)


def _check_layout(layout: Layout, frames: list[Frame], settings: CtSettings) -> None:
    gaps = np.diff(layout.index) - 1
    if gaps.max() > settings.allow_gap:
        places = "1 place" if (gaps > 0).sum() == 1 else f"{(gaps > 0).sum()} places"
        raise CaseError(
            f"{gaps.sum()} slices are missing at {places}, up to {gaps.max()} in a row "
            f"(slice spacing {layout.step:.4g} mm)",
            "Send the missing slices; if the gap may be interpolated, set ingest: allow_gap in the configuration.",
        )
    if layout.tilt_degrees and settings.tilt == "refuse":
        raise CaseError(
            f"the gantry was tilted by {layout.tilt_degrees:.1f} degrees",
            "Set ingest: tilt to shear in the configuration, or send a reconstruction without tilt.",
        )
    if layout.slices * frames[0].pixels.rows * frames[0].pixels.columns > _MOST_VOXELS:
        raise CaseError(f"a volume of {layout.slices} slices of this size is too large", _ONE_SERIES)


def _spread(array: Array, valid: Array | None, layout: Layout) -> None:
    """Bring the slices that are there to their places, and interpolate the others linearly; int16 is rounded."""
    places = layout.index.tolist()
    for k, place in reversed(list(enumerate(places))):
        for one in (array, valid):
            if one is not None and place != k:
                one[place] = one[k]
    for before, after in pairwise(places):
        for k in range(before + 1, after):
            part = (k - before) / (after - before)
            between = array[before] * (1 - part) + array[after] * part
            array[k] = np.rint(between) if array.dtype.kind == "i" else between
            if valid is not None:
                valid[k] = valid[before] & valid[after]
                array[k][~valid[k]] = AIR_HU


def _warnings(layout: Layout, frames: list[Frame]) -> list[str]:
    found = []
    duplicates = len(frames) - len(layout.places)
    if duplicates:
        found.append(f"{duplicates} slices are there more than once, with the same values: one of each was taken")
    thick = {frame.thickness for frame in frames}
    if len(thick) > 1:
        found.append(f"the slices have {len(thick)} different thicknesses")
    elif (thickness := frames[0].thickness) and layout.step > 1.01 * thickness:
        found.append(f"slices of {thickness:g} mm lie {layout.step:.4g} mm apart: nothing was measured between them")
    for name in ("acquisition", "temporal position"):
        numbers = [dict(frames[place[0]].phase)[name] for place in layout.places]
        if len(set(numbers)) < 1 + sum(a != b for a, b in pairwise(numbers)):
            found.append(f"{name} numbers alternate along the stack, as if two acquisitions were interleaved")
    order = [integer(frames[place[0]].header.dataset, "InstanceNumber") for place in layout.places]
    steps = [abs(b - a) for a, b in pairwise(order) if a is not None and b is not None]
    if len(steps) == len(order) - 1 and min(steps) > 1:
        found.append(f"instance numbers count in steps of {min(steps)} or more, as if slices in between were missing")
    kinds = {frame.kind for frame in frames}
    if len(kinds) > 1:
        found.append(f"the slices have {len(kinds)} different image types, as if reconstructions were mixed")
    told = number(frames[0].header.dataset, "GantryDetectorTilt") or 0.0
    told = abs((told + 180) % 360 - 180)
    if told > _TILT_TOLD and not layout.tilt_degrees and abs(layout.axes[2, 2]) > np.cos(np.radians(_TILT_SHOWN)):
        found.append(
            f"the header names a gantry tilt of {told:g} degrees, which neither the orientation nor the positions of "
            "the slices show: they were taken as upright"
        )
    return found


def _uids(layout: Layout, frames: list[Frame]) -> tuple[str, ...]:
    if any(frame.pixels.frames > 1 for frame in frames):
        return ()
    uids = [""] * layout.slices
    for k, place in zip(layout.index.tolist(), layout.places, strict=True):
        uids[k] = frames[place[0]].header.text("SOPInstanceUID")
    return tuple(uids)


def _counts(kinds: Counter[str]) -> str:
    """Kinds with their counts, the most frequent first."""
    listed: Iterable[str] = (f"{count} of {kind}" for kind, count in kinds.most_common(5))
    return ", ".join(listed) + (" and others" if len(kinds) > 5 else "")
