"""One CT series as a volume in HU on a rectangular grid, or the reason why it can't be one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radloom.dicom.frames import Frame, frames_of
from radloom.dicom.geometry import lay_out
from radloom.dicom.files import quiet
from radloom.dicom.pixels import PixelReader, signed_values
from radloom.dicom.series import Series, why_no_slice
from radloom.errors import CaseError
from radloom.images import Array, Geometry, Volume


@dataclass(frozen=True)
class CtSettings:
    """How a series is read; the keys of the configuration's section `ingest`.

    `tilt` (ingest: tilt): "shear" brings the slices of a tilted gantry onto a rectangular grid by linear
    interpolation within them, "refuse" excludes the case. `allow_gap` (ingest: allow_gap): how many slices in a row
    may be missing; they are interpolated linearly between their neighbours. With 0 a series with a gap is excluded.
    """

    tilt: str = "shear"
    allow_gap: int = 0


@dataclass(frozen=True)
class CtSeries:
    """A CT as it was measured: axes x along the rows, y down the columns, z along the normal of the slices.

    `volume` is in HU, int16, or float32 where a rescale slope is fractional or a tilt was sheared back. `valid`
    (z, y, x) is False where nothing was measured (there the volume is -1024); None where all was. `sop_uids` names
    the image of each slice ("" of an interpolated one), and is empty for a multi-frame series; it and
    `frame_of_reference` are the patient's own values, and none may reach an output.
    """

    volume: Volume
    valid: Array | None
    frame_of_reference: str
    sop_uids: tuple[str, ...]
    acquisition: dict[str, str | float | None] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def read_ct(series: Series, settings: CtSettings = CtSettings()) -> CtSeries:
    """Read a series whose headers `find_series` has read. Raises CaseError for what can't be a CT volume in HU."""
    if series.modality != "CT":
        raise CaseError("the series is not a CT, by its modality", "Name a CT series.")
    with quiet():
        frames, warnings = _slices(series)
        layout = lay_out(
            np.array([frame.position for frame in frames]), np.array(frames[0].orientation), frames[0].spacing
        )
        if layout.missing or layout.tilt_degrees or settings.allow_gap < 0:
            raise CaseError("the series has a tilt or missing slices, which can't be read yet")
        array = np.empty((layout.slices, frames[0].pixels.rows, frames[0].pixels.columns), np.int16)
        for k, place in zip(layout.index, layout.places, strict=True):
            array[k] = _hu(frames[place[0]])
    (x, y), z = frames[0].spacing, layout.step
    geometry = Geometry(
        (array.shape[2], array.shape[1], array.shape[0]),
        (x, y, z),
        (float(layout.origin[0]), float(layout.origin[1]), float(layout.origin[2])),
        tuple((layout.axes + 0.0).ravel().tolist()),
    )
    uids = tuple(frames[place[0]].header.text("SOPInstanceUID") for place in layout.places)
    return CtSeries(Volume(array, geometry), None, series.frame_of_reference, uids, {}, {}, warnings)


def _slices(series: Series) -> tuple[list[Frame], list[str]]:
    """The frames of the series that can be slices, and warnings of what was left out."""
    left_out = Counter(why for header in series.headers if (why := why_no_slice(header)))
    frames = [frame for header in series.headers if not why_no_slice(header) for frame in frames_of(header)]
    left_out["localizers"] += sum(frame.localizer for frame in frames)
    frames = [frame for frame in frames if not frame.localizer]
    if len(frames) < 2:
        raise CaseError("the series has fewer than 2 slices", "Name the series that holds the slices of a volume.")
    return frames, [f"{count} {what} in the series were left out" for what, count in left_out.items() if count]


def _hu(frame: Frame) -> Array:
    words = PixelReader(frame.header, frame.pixels).frame(frame.index)
    values = signed_values(words, frame.pixels)
    return values * frame.slope + frame.intercept
