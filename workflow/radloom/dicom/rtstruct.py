"""Contours of an RTSTRUCT to a mask on the image's grid (DICOM PS3.3, C.8.8.5 and C.8.8.6).

A voxel is in the ROI if its centre is: contour points are never rounded to voxels. On one plane all closed contours
follow the even-odd rule (`radloom.dicom.polygons`), which is what CLOSEDPLANAR_XOR asks for, and how keyholes and what
programs write as nested CLOSED_PLANAR contours are meant.

Between two neighbouring planes the outline is interpolated by signed distance (Raya and Udupa, IEEE Trans Med Imaging
9(1):32, 1990), so contours may be finer or coarser than the slices, or lie between them. Planes are neighbours if they
are no more than 1.5 times the median distance of the planes apart (or 1.5 slices). A slice further from both is a gap:
whether the ROI is in two pieces or a contour was forgotten the file doesn't tell, so it stays empty, and that is said.
Beyond the outermost plane the ROI goes on for half the distance of the planes, since a contour stands for its slab.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from radloom.dicom.files import integer, items, numbers, quiet, text
from radloom.dicom.masks import MaskFound, Part, check_frame_of_reference, check_references, choose_parts, read_object
from radloom.dicom.polygons import Window, area, crossing_themselves, distance, inside, window_of
from radloom.errors import CaseError
from radloom.images import Array, Geometry, Volume

SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.481.3",)
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
# In parts of the distance of the slices. Contours that stray more from one plane cross the slices.
_FLAT = 0.25
_SAME_PLANE = 0.05
_TIE = 1e-4
_LEAST_AREA = 1e-6  # pixels
_SAME_POINT = 1e-6
_NEIGHBOURS = 1.5
_AXES = ("columns", "rows", "slices")


@dataclass(frozen=True)
class Contour:
    """One contour: points (n, 3) as fractional voxel indices (x, y, z), its kind, the SOP instance it was drawn on."""

    points: Array
    kind: str
    image_uid: str


@dataclass(frozen=True)
class _Plane:
    """The closed contours of one plane: where it lies on the stacking axis, and points (n, 2) of each on the plane."""

    at: float
    polygons: list[Array]


@quiet()
def rtstruct_mask(
    path: Path,
    roi: str | None,
    geometry: Geometry,
    frame_of_reference: str | None = None,
    sop_uids: Sequence[str] = (),
) -> MaskFound:
    """The mask of one ROI (`choose_parts` tells how it is chosen) on the grid of an image.

    `frame_of_reference` and `sop_uids` are the image's UIDs, the latter one a slice in the order of z, if it has any.
    Raises CaseError if the file or the ROI can't be used, or belongs to another image.
    """
    dataset = read_object(path, SOP_CLASSES, "RTSTRUCT")
    warnings: list[str] = []
    chosen = choose_parts(rtstruct_parts(dataset), roi, "ROI")
    mask = np.zeros(geometry.shape, dtype=np.uint8)
    facts: dict[str, int] = {"rois": len(chosen), "contours": 0, "slices_interpolated": 0, "slices_left_empty": 0}
    for part in chosen:
        known = frame_of_reference_of(dataset, part.number)
        contours = _closed(list(_contours(dataset, part.number, geometry)), warnings)
        named = not {contour.image_uid for contour in contours}.isdisjoint(set(sop_uids) - {""})
        warnings += check_frame_of_reference(known, frame_of_reference, "RTSTRUCT", named)
        tied = named or bool(known and frame_of_reference)
        drawn_on = [(c.image_uid, c.points[:, 2].min(), c.points[:, 2].max()) for c in contours if c.image_uid]
        warnings += check_references(drawn_on, sop_uids, "contours")
        axis = _stacking_axis(contours)
        if axis != 2:
            warnings.append(f"the contours lie on planes of the image's {_AXES[axis]}, not of its slices")
        planes = _planes(contours, axis, warnings)
        _check_place(contours, planes, geometry, tied, warnings)
        facts["contours"] += sum(len(plane.polygons) for plane in planes)
        made = {z for z, uid in enumerate(sop_uids) if not uid and axis == 2}
        _draw(planes, np.moveaxis(mask, 2 - axis, 0), geometry, axis, made, facts, warnings)
    voxels = int(np.count_nonzero(mask))
    if not voxels:
        raise CaseError(
            "no voxel's centre lies in the contours of the ROI",
            "Check the ROI: it is smaller than a voxel, or lies between slices.",
        )
    return MaskFound(Volume(mask, geometry), {**facts, "voxels": voxels}, list(dict.fromkeys(warnings)))


def rtstruct_parts(dataset: Dataset) -> list[Part]:
    """The ROIs of an RTSTRUCT, each with the number of its contours. Raises CaseError where they have no numbers."""
    counts: dict[int, int] = {}
    for item in items(dataset, "ROIContourSequence"):
        number = integer(item, "ReferencedROINumber")
        if number is not None:
            counts[number] = counts.get(number, 0) + len(items(item, "ContourSequence"))
    parts: list[Part] = []
    for item in items(dataset, "StructureSetROISequence"):
        number = integer(item, "ROINumber")
        if number is None or number in [part.number for part in parts]:
            raise CaseError("the ROIs of the RTSTRUCT have no numbers that tell them apart", "Export it again.")
        count = counts.get(number, 0)
        content = f"{count} contour{'s' if count > 1 else ''}" if count else ""
        parts.append(Part(number, text(item, "ROIName"), content))
    return parts


def frame_of_reference_of(dataset: Dataset, number: int) -> str | None:
    """The frame of reference of a ROI: its own, else the file's only one, else None."""
    for item in items(dataset, "StructureSetROISequence"):
        if integer(item, "ROINumber") == number and text(item, "ReferencedFrameOfReferenceUID"):
            return text(item, "ReferencedFrameOfReferenceUID")
    several = {text(item, "FrameOfReferenceUID") for item in items(dataset, "ReferencedFrameOfReferenceSequence")}
    several = several or {text(dataset, "FrameOfReferenceUID")}
    return next(iter(several)) or None if len(several) == 1 else None


def _contours(dataset: Dataset, number: int, geometry: Geometry) -> Iterator[Contour]:
    for roi in items(dataset, "ROIContourSequence"):
        if integer(roi, "ReferencedROINumber") != number:
            continue
        for item in items(roi, "ContourSequence"):
            points = _points(item)
            images = items(item, "ContourImageSequence")
            uid = text(images[0], "ReferencedSOPInstanceUID") if len(images) == 1 else ""
            yield Contour(geometry.to_index(points), text(item, "ContourGeometricType").upper(), uid)


def _points(item: Dataset) -> Array:
    """The points (n, 3) of a contour in mm. Raises CaseError unless they are finite, triples, and as many as said.

    They are read from the file's bytes: pydicom makes an object of each number, which takes twenty times as long.
    """
    damaged = CaseError("a contour of the ROI has no readable points", "Export the RTSTRUCT again.")
    element = item.get_item("ContourData") if "ContourData" in item else None
    try:
        if isinstance(element, RawDataElement):
            content = (element.value or b"").rstrip(b" \0")
            values = np.array(content.split(b"\\") if content else [], dtype=np.float64)
        else:
            values = np.array([] if element is None or element.value is None else element.value, dtype=np.float64)
    except (TypeError, ValueError):
        raise damaged from None
    count = integer(item, "NumberOfContourPoints")
    if values.size % 3 or not np.isfinite(values).all() or (count is not None and count != values.size // 3):
        raise damaged
    if "ContourOffsetVector" in item and numbers(item, "ContourOffsetVector", 3) != (0, 0, 0):
        raise CaseError("a contour of the ROI has an offset vector, which can't be read", "Export it without.")
    return values.reshape(-1, 3)


def _closed(contours: list[Contour], warnings: list[str]) -> list[Contour]:
    """The closed contours, each point once in turn; warns of those that are left out. Raises CaseError without any."""
    closed = [contour for contour in contours if contour.kind in _CLOSED]
    if len(closed) < len(contours):
        warnings.append(
            f"{len(contours) - len(closed)} contours of the ROI are points or open lines, and were left out"
        )
    kept = []
    for contour in closed:
        points = contour.points
        moved = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1, initial=0) > _SAME_POINT
        points = points[moved]
        flat = [points[:, [a, b]] for a, b in ((0, 1), (0, 2), (1, 2))] if len(points) > 2 else []
        # The two halves of a figure of eight cancel out in the area.
        if any(area(one) > _LEAST_AREA for one in flat) or (flat and crossing_themselves(flat)):
            kept.append(Contour(points, contour.kind, contour.image_uid))
    if len(kept) < len(closed):
        warnings.append(f"{len(closed) - len(kept)} contours of the ROI have no area, and were left out")
    if not kept:
        raise CaseError(
            f"the ROI has no closed contour with an area, only {len(contours)} points, open lines or dots",
            "Choose another ROI in mask_roi, or draw this one as closed contours.",
        )
    return kept


def _stacking_axis(contours: list[Contour]) -> int:
    """The axis of the image (0 x, 1 y, 2 z) that all contours are at right angles to; slices are tried first."""
    for axis in (2, 1, 0):
        across = [np.abs(c.points[:, axis] - c.points[:, axis].mean()).max() for c in contours]
        if max(across) <= _FLAT and any(np.ptp(c.points[:, axis]) < np.ptp(c.points, axis=0).max() for c in contours):
            return axis
    crossing = sum(float(np.ptp(contour.points[:, 2])) > 2 * _FLAT for contour in contours)
    raise CaseError(
        f"{crossing} of {len(contours)} contours are not parallel to the image's slices",
        "Draw the ROI on this very series, or send it as a mask (SEG, NIfTI) on the image's grid.",
    )


def _check_place(
    contours: list[Contour], planes: list[_Plane], geometry: Geometry, tied: bool, warnings: list[str]
) -> None:
    """Warn of contours that leave the image. Raises CaseError if none is in it.

    Where no UID ties them to the image (`tied`), one that leaves it or doesn't lie on its slices is refused too.
    """
    size = np.array(geometry.size)
    out = [bool(((c.points.max(axis=0) < -0.5) | (c.points.min(axis=0) > size - 0.5)).any()) for c in contours]
    part = [bool(((c.points < -0.5) | (c.points > size - 0.5)).any()) for c in contours]
    if all(out):
        raise CaseError(
            f"all {len(contours)} contours of the ROI lie outside of the image",
            "Send the series on which the ROI was drawn, or the RTSTRUCT of this one.",
        )
    between = sum(abs(plane.at - round(plane.at)) > _SAME_PLANE for plane in planes)
    if not tied and (any(part) or between):
        where = (
            f"{sum(part)} of {len(contours)} contours leave the image" if any(part) else "contours lie between slices"
        )
        raise CaseError(
            f"{where}, and no frame of reference ties them to it", "Send the RTSTRUCT that was drawn on this series."
        )
    if any(part):
        warnings.append(
            f"{sum(part)} of {len(contours)} contours lie outside of the image or leave it: the ROI is cut off there"
        )


def _planes(contours: list[Contour], axis: int, warnings: list[str]) -> list[_Plane]:
    """The contours plane by plane in ascending order, without those that are there twice; warns of tangled ones."""
    on_plane = [other for other in (0, 1, 2) if other != axis]
    order = sorted(contours, key=lambda contour: (float(contour.points[:, axis].mean()), contour.points.shape))
    groups: list[list[Contour]] = []
    last = -np.inf
    for contour in order:
        at = float(contour.points[:, axis].mean())
        if at - last > _SAME_PLANE:
            groups.append([])
        groups[-1].append(contour)
        last = at
    planes = []
    doubles = 0
    for group in groups:
        seen: set[bytes] = set()
        polygons = []
        for contour in group:
            polygon = np.ascontiguousarray(contour.points[:, on_plane])
            key = np.unique(np.round(polygon, 4), axis=0).tobytes() if len(group) > 1 else b""
            if key in seen and contour.kind != "CLOSEDPLANAR_XOR":
                doubles += 1  # drawn over itself it would cancel out
                continue
            seen.add(key)
            polygons.append(polygon)
        planes.append(_Plane(float(np.mean([c.points[:, axis].mean() for c in group])), polygons))
    if doubles:
        warnings.append(f"{doubles} contours are there twice, and count once")
    tangled = crossing_themselves([polygon for plane in planes for polygon in plane.polygons])
    if tangled:
        warnings.append(f"{tangled} contours cross themselves: what such a one surrounds twice counts as outside")
    return planes


def _draw(
    planes: list[_Plane],
    mask: Array,
    geometry: Geometry,
    axis: int,
    made: set[int],
    facts: dict[str, int],
    warnings: list[str],
) -> None:
    """Add the planes to `mask` (n, rows, columns), a view with the stacking axis first.

    `made` are slices that the image itself was interpolated at: nobody could draw on them, so they are no gap.
    """
    at = np.array([plane.at for plane in planes])
    apart = np.diff(at)
    # The median; of an even number the lower of both, so that one gap in three contours isn't usual.
    usual = float(np.sort(apart)[(len(apart) - 1) // 2]) if len(apart) > 1 else 1.0
    reach = max(usual, 1.0) * _NEIGHBOURS
    columns, rows = mask.shape[2], mask.shape[1]
    visible = Window(0, columns, 0, rows)
    x, y = (other for other in (0, 1, 2) if other != axis)
    pixel = (geometry.spacing[x], geometry.spacing[y])
    drawn: dict[int, tuple[Window, Array]] = {}
    crossed = 0

    def shape(number: int) -> tuple[Window, Array]:
        nonlocal crossed
        if number not in drawn:
            for old in [old for old in drawn if old < number - 1]:
                del drawn[old]
            drawn[number], twice = _fill(planes[number].polygons, visible)
            crossed += twice
        return drawn[number]

    first = max(int(np.ceil(at[0] - max(usual, 1.0))), 0)
    last = min(int(np.floor(at[-1] + max(usual, 1.0))), len(mask) - 1)
    empty = between = 0
    off = 0.0
    for z in range(first, last + 1):
        upper = int(np.searchsorted(at, z - _SAME_PLANE))
        if upper < len(at) and abs(at[upper] - z) <= _SAME_PLANE:
            window, filled = shape(upper)
        elif 0 < upper < len(at) and (apart[upper - 1] <= reach or _between_are(made, at[upper - 1], at[upper])):
            share = (z - at[upper - 1]) / apart[upper - 1]
            window, filled = _between(shape(upper - 1), shape(upper), (planes[upper - 1], planes[upper]), share, pixel)
            between += 1
            empty += not filled.any()  # outlines that don't overlap have nothing between them
            off = max(off, min(z - at[upper - 1], at[upper] - z))
        else:
            near = [n for n in (upper - 1, upper) if 0 <= n < len(at) and _stands_for(at[n], z, usual)]
            if not near:
                empty += at[0] < z < at[-1]
                continue
            window, filled = shape(near[0])
            off = max(off, abs(at[near[0]] - z))
        mask[z][visible.slices(window)] |= filled
    facts["slices_interpolated"] += between
    facts["slices_left_empty"] += int(empty)
    if between or off:
        warnings.append(
            f"the contours lie up to {off * geometry.spacing[axis]:.3g} mm from the slices that take them; "
            f"{between} slices were interpolated between two contours"
        )
    if empty:
        warnings.append(f"{empty} slices between contoured ones were left empty: no contour, or none that overlap")
    if crossed:
        warnings.append(f"contours of one plane cross each other: {crossed} pixels in both of two count as outside")


def _between_are(made: set[int], low: float, high: float) -> bool:
    """Whether all slices between two planes are among `made`."""
    return made.issuperset(range(math.ceil(low + _SAME_PLANE), math.ceil(high - _SAME_PLANE)))


def _stands_for(at: float, z: int, usual: float) -> bool:
    """Whether the outermost plane `at` stands for the slice z: if it is within half of the planes' distance.

    Of two slices exactly that far off it is the lower one where planes are as close as slices, so that as many slices
    come out as there are planes; else neither, so that contours on every other slice end with their last one.
    """
    half = usual / 2
    return -half - _TIE <= z - at < half - _TIE if usual <= 1 + _SAME_PLANE else abs(z - at) < half - _TIE


def _fill(polygons: list[Array], limit: Window) -> tuple[tuple[Window, Array], int]:
    """What lies inside the polygons of a plane, and how many pixels are in two of which neither contains the other."""
    window = window_of(polygons, limit)
    filled = inside(polygons, window)
    if len(polygons) == 1:
        return (window, filled), 0
    crossed = 0
    windows = [window_of([polygon], limit) for polygon in polygons]
    single = [inside([polygon], own) for polygon, own in zip(polygons, windows, strict=True)]
    counts = [int(np.count_nonzero(one)) for one in single]
    # As many islands as pixels may lie on a plane: all are compared at once, and few meet.
    left, right, top, bottom = np.array([(w.left, w.right, w.top, w.bottom) for w in windows]).T
    for first in range(1, len(single)):
        meets = (left[:first] < right[first]) & (right[:first] > left[first])
        meets &= (top[:first] < bottom[first]) & (bottom[:first] > top[first])
        for second in np.flatnonzero(meets).tolist():
            common = windows[first].common(windows[second])
            there = [single[one][windows[one].slices(common)] for one in (first, second)]
            both = int(np.count_nonzero(there[0] & there[1]))
            if both and both < min(counts[first], counts[second]):
                crossed += both
    return (window, filled), crossed


def _between(
    lower: tuple[Window, Array],
    upper: tuple[Window, Array],
    planes: tuple[_Plane, _Plane],
    share: float,
    pixel: tuple[float, float],
) -> tuple[Window, Array]:
    """The outline at `share` of the way from the lower to the upper plane: where the mean signed distance is inside.

    What is inside both is inside, what is inside neither is not, so distances are needed where they differ only.
    """
    window = lower[0].around(upper[0])
    low, high = (np.zeros(window.shape, dtype=bool) for _ in planes)
    low[window.slices(lower[0])] = lower[1]
    high[window.slices(upper[0])] = upper[1]
    y, x = np.nonzero(low ^ high)
    if y.size:
        points = np.stack([x + window.left, y + window.top], axis=1).astype(np.float64)
        depth = [distance(points, plane.polygons, pixel) for plane in planes]
        depth = [np.where(filled[y, x], d, -d) for filled, d in zip((low, high), depth, strict=True)]
        low[y, x] = (1 - share) * depth[0] + share * depth[1] > 0
    return window, low
