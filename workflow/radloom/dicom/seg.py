"""Segments of a DICOM SEG to a mask on the image's grid (DICOM PS3.3, A.51 and C.8.20).

Frames lie where their positions say, whatever their order; where a segment has no frame it is empty. Binary frames are
packed bits, without padding between frames; of fractional ones what is at least half of the maximum is inside; a label
map holds the segments' numbers. On the image's grid (or a part of it, axes permuted or flipped) the voxels are copied.
On another one the mask is interpolated linearly, and what is at least 0.5 is inside, as `radloom.resample` has it; so
are frames of a tilted gantry, which are shifted within their planes onto the grid that the CT was sheared onto.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from radloom.dicom.files import integer, items, number, numbers, quiet, read_header, text
from radloom.dicom.frames import Pixels
from radloom.dicom.masks import (
    MaskFound,
    Part,
    check_frame_of_reference,
    check_references,
    choose_parts,
    read_object,
)
from radloom.dicom.pixels import PixelReader
from radloom.errors import CaseError
from radloom.images import Array, Geometry, Volume, bounding_box, crop, crop_geometry, to_sitk

SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_TYPES = ("BINARY", "FRACTIONAL", "LABELMAP")
_ON_GRID = 0.05  # voxels; corners that lie further from voxels of the image are on another grid
_EVEN = 0.1  # parts of the distance of the frames
_LEAST_STEP_MM = 0.02
_SAME_DIRECTION = 1e-4
_SAME_PLACE_MM = 0.01
_MOST_VOXELS = 1 << 31
_ROUNDING = 1e-6  # at whole ratios of the spacings many weights are 0.5 but for rounding
_EXPORT = "Export the SEG again."


@dataclass(frozen=True)
class _Frame:
    """One frame: its place in the file, its segment (None in a label map), where it lies (mm), the image it is from."""

    place: int
    segment: int | None
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float | None
    step: float | None
    source_uid: str


@quiet()
def seg_mask(
    path: Path,
    segment: str | None,
    geometry: Geometry,
    frame_of_reference: str | None = None,
    sop_uids: Sequence[str] = (),
) -> MaskFound:
    """The mask of one segment (`choose_parts` tells how it is chosen) on the grid of an image.

    `frame_of_reference` and `sop_uids` are the image's UIDs, the latter one a slice in the order of z, if it has any.
    Raises CaseError if the file or the segment can't be used, or belongs to another image.
    """
    dataset = read_object(path, SOP_CLASSES, "SEG")
    kind = text(dataset, "SegmentationType").upper() or ("LABELMAP" if _is_label_map(dataset) else "")
    if kind not in _TYPES:
        raise CaseError("the SEG says of no known type that it is one of (binary, fractional, label map)", _EXPORT)
    frames = _frames(dataset, kind)
    chosen = choose_parts(_parts(dataset, frames), segment, "segment")
    numbers_chosen = {part.number for part in chosen}
    used = [frame for frame in frames if frame.segment in numbers_chosen or frame.segment is None]
    known = text(dataset, "FrameOfReferenceUID") or None
    named = not {frame.source_uid for frame in used}.isdisjoint(set(sop_uids) - {""})
    warnings = check_frame_of_reference(known, frame_of_reference, "SEG", named)
    top = integer(dataset, "MaximumFractionalValue") if kind == "FRACTIONAL" else 1
    if not top or top < 1:
        raise CaseError("the fractional SEG doesn't say what its maximum is", _EXPORT)
    grid, slots, drift = _grid_of(frames, used, dataset, geometry)
    z = [float(geometry.to_index(grid.to_physical((0, 0, slots[frame.place])))[2]) for frame in used]
    upright = abs(grid.axes[:, 2] @ geometry.axes[:, 2]) > 1 - _SAME_DIRECTION
    drawn = [(frame.source_uid, at, at) for frame, at in zip(used, z, strict=True) if frame.source_uid]
    warnings += check_references(drawn if upright else [], sop_uids, "frames")

    values = np.zeros(grid.shape, dtype=np.uint8 if top < 256 else np.uint16)
    seen: dict[tuple[int, int | None], _Frame] = {}
    for frame, pixels in _decoded(path, dataset, used):
        slot = (slots[frame.place], frame.segment)
        before = seen.setdefault(slot, frame)
        if before is not frame and not np.array_equal(next(_decoded(path, dataset, [before]))[1], pixels):
            raise CaseError("the SEG has two frames of a segment at one place, and they differ", _EXPORT)
        inside = np.isin(pixels, list(numbers_chosen)) if frame.segment is None else np.minimum(pixels, top)
        np.maximum(values[slot[0]], inside, out=values[slot[0]], casting="unsafe")
    if not values.any():
        chosen_ones = " and ".join(f"#{part.number}" for part in chosen)
        raise CaseError(f"the segment {chosen_ones} of the mask is empty", "Draw it, or take the case out.")

    facts = {"segments": len(chosen), "frames": len(used), "type": kind.lower(), "resampled": False}
    if drift.any():
        facts["resampled"] = True
        warnings.append("the frames of the SEG lie askew, as with a tilted gantry: they were sheared as the image was")
        mask: Array | None = _upright(Volume(values, grid), drift, geometry, top, warnings)
    else:
        mask = _copied(Volume(values, grid), geometry, top, warnings)
    if mask is None:
        if not (known and frame_of_reference):
            raise CaseError(
                "the SEG is on another grid than the image, and no frame of reference says that they belong together",
                "Send the SEG that was made on this series.",
            )
        facts["resampled"] = True
        warnings.append(
            f"the SEG is on another grid than the image, of {' x '.join(f'{s:.4g}' for s in grid.spacing)} mm: "
            "it was interpolated linearly"
        )
        mask = _interpolated(Volume(values, grid), geometry, top, warnings)
    if bridged := _bridge(mask, [z for z, uid in enumerate(sop_uids) if not uid], geometry):
        warnings.append(f"the SEG has nothing on {bridged} slices that the image was interpolated at: so was the mask")
    voxels = int(np.count_nonzero(mask))
    if not voxels:
        raise CaseError(
            "nothing of the segment is in the image", "Send the series on which it was drawn, or the SEG of this one."
        )
    return MaskFound(Volume(mask, geometry), {**facts, "voxels": voxels}, warnings)


def seg_parts(dataset: Dataset) -> list[Part]:
    """The segments of a SEG, each with the number of its frames; of a label map these aren't known."""
    return _parts(dataset, _frames(dataset, text(dataset, "SegmentationType").upper()))


def _parts(dataset: Dataset, frames: Sequence[_Frame]) -> list[Part]:
    counts: dict[int | None, int] = {}
    for frame in frames:
        counts[frame.segment] = counts.get(frame.segment, 0) + 1
    parts: list[Part] = []
    for item in items(dataset, "SegmentSequence"):
        own = integer(item, "SegmentNumber")
        if own is None or own in [part.number for part in parts]:
            raise CaseError("the segments of the SEG have no numbers that tell them apart", _EXPORT)
        if own == 0 and None in counts:
            continue  # the background of a label map
        count = counts.get(own, 0)
        content = "in a label map" if None in counts else f"{count} frame{'s' if count > 1 else ''}" if count else ""
        parts.append(Part(own, text(item, "SegmentLabel"), content))
    return parts


def _is_label_map(dataset: Dataset) -> bool:
    return text(dataset, "SOPClassUID") == SOP_CLASSES[1]


def _frames(dataset: Dataset, kind: str) -> list[_Frame]:
    """What the functional groups say of each frame: its own group wins over the shared one."""
    own = items(dataset, "PerFrameFunctionalGroupsSequence")
    count = integer(dataset, "NumberOfFrames") or 1
    if len(own) != count:
        raise CaseError(f"the SEG has {count} frames, but tells of {len(own)} where they lie", _EXPORT)
    shared = next(iter(items(dataset, "SharedFunctionalGroupsSequence")), Dataset())
    frames = []
    for place, group in enumerate(own):

        def of(sequence: str, groups: tuple[Dataset, ...] = (group, shared)) -> Dataset:
            return next((item for one in groups for item in items(one, sequence)[:1]), Dataset())

        measures = of("PixelMeasuresSequence")
        position = numbers(of("PlanePositionSequence"), "ImagePositionPatient", 3)
        orientation = numbers(of("PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        spacing = numbers(measures, "PixelSpacing", 2)
        if position is None or orientation is None or spacing is None or min(spacing) <= 0:
            raise CaseError("a frame of the SEG doesn't say where it lies in the patient", _EXPORT)
        segment = integer(of("SegmentIdentificationSequence"), "ReferencedSegmentNumber")
        if segment is None and kind != "LABELMAP":
            raise CaseError("a frame of the SEG doesn't say of which segment it is", _EXPORT)
        sources = [s for d in items(group, "DerivationImageSequence") for s in items(d, "SourceImageSequence")]
        frames.append(
            _Frame(
                place,
                None if kind == "LABELMAP" else segment,
                position,
                orientation,
                spacing,
                number(measures, "SliceThickness"),
                number(measures, "SpacingBetweenSlices"),
                text(sources[0], "ReferencedSOPInstanceUID") if len(sources) == 1 else "",
            )
        )
    return frames


def _grid_of(
    frames: Sequence[_Frame], used: Sequence[_Frame], dataset: Dataset, image: Geometry
) -> tuple[Geometry, dict[int, int], Array]:
    """The grid that the used frames span, the slice of each by its place in the file, and how far slices drift.

    All frames of the file tell how far apart slices are, if neither the image nor the file says it. The drift (x, y) is
    what each slice is shifted along its rows and columns against the one below, in mm: 0 but with a tilted gantry.
    """
    first = used[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    lengths = np.array([np.linalg.norm(row), np.linalg.norm(column), 1 + abs(row @ column)])
    if np.abs(lengths - 1).max() > 1e-3:
        raise CaseError("the direction cosines of the SEG are not orthonormal", _EXPORT)
    row = row / lengths[0]
    column = column - (column @ row) * row
    column = column / np.linalg.norm(column)
    normal = np.cross(row, column)
    for frame in frames:
        same = np.allclose(frame.orientation, first.orientation, atol=_SAME_DIRECTION, rtol=0)
        if not same or not np.allclose(frame.spacing, first.spacing, rtol=_SAME_DIRECTION, atol=0):
            raise CaseError("the frames of the SEG have different orientations or pixel spacings", _EXPORT)
    offsets = np.array([frame.position for frame in frames]) - np.array(first.position)
    height, sideways = offsets @ normal, offsets @ np.stack([row, column], axis=1)
    step = _step(height, first, image, normal)
    slices = np.round(height / step).astype(int)
    limit = max(_SAME_PLACE_MM, _ON_GRID * min(first.spacing))
    drift = np.zeros(2)
    if np.linalg.norm(sideways, axis=1).max() > limit:
        drift = slices @ sideways / max(int(slices @ slices), 1)  # least squares through the first frame
        aside = np.linalg.norm(sideways - np.outer(slices, drift), axis=1).max()
        if aside > limit:
            raise CaseError(
                f"the frames of the SEG are shifted against each other by up to {aside:.3g} mm, and not evenly as with "
                "a gantry tilt",
                "Send the mask on a rectangular grid, or as contours (RTSTRUCT).",
            )
    taken = slices[[frame.place for frame in used]]
    low, count = int(taken.min()), int(np.ptp(taken)) + 1
    rows, columns = integer(dataset, "Rows") or 0, integer(dataset, "Columns") or 0
    if rows < 1 or columns < 1 or rows * columns * count > _MOST_VOXELS:
        raise CaseError(f"the SEG would have {columns} x {rows} x {count} voxels", _EXPORT)
    origin = np.array(first.position) + low * (step * normal + drift @ np.stack([row, column]))
    grid = Geometry(
        (columns, rows, count),
        (first.spacing[1], first.spacing[0], step),
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(np.stack([row, column, normal], axis=1).ravel().tolist()),
    )
    return grid, {frame.place: int(slices[frame.place]) - low for frame in used}, drift


def _step(height: Array, first: _Frame, image: Geometry, normal: Array) -> float:
    """Distance of the slices in mm, of which all heights (mm) have to be multiples."""
    along = np.abs(normal @ image.axes)
    tries = []
    axis = int(along.argmax())
    if along[axis] > 1 - _SAME_DIRECTION:
        at = image.to_index(np.array(first.position))[axis]
        if abs(at - round(at)) <= _ON_GRID:
            tries.append(image.spacing[axis])
    tries.append(first.step or 0)
    apart = np.diff(np.sort(height))
    apart = apart[apart > _LEAST_STEP_MM]
    tries.append(float(apart.min()) if apart.size else first.thickness or 0)
    for step in tries:
        if step > _LEAST_STEP_MM:
            slices = np.round(height / step)
            if np.abs(height - step * slices).max() <= _EVEN * step:
                # Fitted to all frames: a distance that was rounded would add up over them.
                return float(height @ slices / (slices @ slices)) if slices.any() else float(step)
    raise CaseError(
        "the frames of the SEG are spaced unevenly, or it has one and doesn't say how thick it is",
        "Send the mask on a regular grid.",
    )


def _decoded(path: Path, dataset: Dataset, frames: Sequence[_Frame]) -> Iterator[tuple[_Frame, Array]]:
    """The pixels (y, x) of each frame as stored. Raises CaseError where they aren't all there or can't be decoded."""
    damaged = CaseError("the pixels of the SEG can't be read: cut short, damaged or of an unknown kind", _EXPORT)
    bits, rows, columns = (integer(dataset, key) or 0 for key in ("BitsAllocated", "Rows", "Columns"))
    samples, signed = integer(dataset, "SamplesPerPixel") or 1, integer(dataset, "PixelRepresentation") or 0
    count, size = integer(dataset, "NumberOfFrames") or 1, rows * columns
    if bits not in (1, 8, 16) or samples != 1 or signed or "PixelData" not in dataset:
        raise damaged
    if bits > 1:
        header = read_header(path)
        if isinstance(header, str):
            raise damaged
        reader = PixelReader(header, Pixels(rows, columns, bits, bits, False, count))
        for frame in frames:
            yield frame, reader.frame(frame.place)
        return
    data = np.frombuffer(dataset.PixelData, dtype=np.uint8)
    if dataset["PixelData"].is_undefined_length or data.size * 8 < count * size or not dataset.original_encoding[1]:
        raise damaged
    for frame in frames:
        # Frames follow each other bit by bit, the lowest bit of a byte first (PS3.5, 8.1.1).
        start = frame.place * size
        packed = data[start // 8 : -(-(start + size) // 8)]
        yield frame, np.unpackbits(packed, bitorder="little")[start % 8 :][:size].reshape(rows, columns)


def _copied(mask: Volume, image: Geometry, top: int, warnings: list[str]) -> Array | None:
    """The mask copied onto the image's grid; None if the corners of its voxels aren't voxels of the image."""
    steps = image.to_index(mask.geometry.to_physical(np.eye(3))) - image.to_index(
        mask.geometry.to_physical(np.zeros(3))
    )
    turns = np.round(steps)
    if not (np.abs(turns).sum(axis=0) == 1).all() or not (np.abs(turns).sum(axis=1) == 1).all():
        return None
    corners = image.to_index(mask.geometry.corners())
    own = np.array(list(itertools.product(*[(0, n - 1) for n in mask.geometry.size])))  # in the order of `corners`
    if not np.abs(np.round(corners[0]) + own @ turns - corners).max() <= _ON_GRID:
        return None
    # turns[a, b]: how far one voxel along the mask's axis a goes along the image's axis b.
    order = [int(np.abs(turns[:, b]).argmax()) for b in range(3)]
    array = 2 * mask.array.astype(np.uint32) >= top if top > 1 else mask.array > 0
    array = array.transpose([2 - order[2], 2 - order[1], 2 - order[0]])
    array = array[tuple(slice(None, None, int(turns[order[b], b])) for b in (2, 1, 0))]
    low = np.round(corners.min(axis=0)).astype(int)[::-1]
    result = np.zeros(image.shape, dtype=np.uint8)
    target, source = [], []
    for at, own, whole in zip(low.tolist(), array.shape, image.shape, strict=True):
        start, stop = max(at, 0), min(at + own, whole)
        target.append(slice(start, max(stop, start)))
        source.append(slice(start - at, max(stop, start) - at))
    part = array[tuple(source)]
    result[tuple(target)] = part
    _warn_of_loss(int(np.count_nonzero(array)) - int(np.count_nonzero(part)), int(np.count_nonzero(array)), warnings)
    return result


def _upright(mask: Volume, drift: Array, image: Geometry, top: int, warnings: list[str]) -> Array:
    """The mask of slices that drift sideways (x, y in mm a slice) on the grid of the image, sheared as that was.

    Each slice is shifted within its plane by linear interpolation, and at least 0.5 is inside. Raises CaseError unless
    the image has these planes, rows, columns and pixels.
    """
    grid = mask.geometry
    steps = image.to_index(grid.to_physical(np.eye(3))) - image.to_index(grid.to_physical(np.zeros(3)))
    first = image.to_index(grid.to_physical(np.zeros(3)))
    if (np.abs(steps - np.eye(3)) * np.array(grid.size)[:, None]).max() > _ON_GRID or abs(
        first[2] - round(first[2])
    ) > _ON_GRID:
        raise CaseError(
            "the frames of the SEG lie askew, as with a tilted gantry, and on other planes than the image's slices",
            "Send the mask on a rectangular grid, or as contours (RTSTRUCT).",
        )
    result = np.zeros(image.shape, dtype=np.uint8)
    kept = whole = 0
    for k, plane in enumerate(mask.array):
        if not plane.any():
            continue
        x, y = first[:2] + k * drift / grid.spacing[:2]
        moved, column = _moved(plane / top, x, 1)
        moved, row = _moved(moved, y, 0)
        inside = moved >= 0.5 - _ROUNDING
        whole += int(np.count_nonzero(inside))
        z = round(first[2]) + k
        if 0 <= z < len(result):
            left, up = max(column, 0), max(row, 0)
            part = result[z, up : max(row + len(inside), 0), left : max(column + inside.shape[1], 0)]
            part[:] = inside[up - row :, left - column :][: part.shape[0], : part.shape[1]]
            kept += int(np.count_nonzero(part))
    _warn_of_loss(whole - kept, whole, warnings)
    return result


def _moved(plane: Array, shift: float, axis: int) -> tuple[Array, int]:
    """A plane shifted along an axis by a number of pixels, linearly and with 0 around it, and where it begins then."""
    begin = int(np.floor(shift + _ROUNDING))
    part = max(shift - begin, 0.0)
    padded = np.pad(plane, [(1, 1) if other == axis else (0, 0) for other in (0, 1)])
    low, high = (np.take(padded, range(start, padded.shape[axis] - 1 + start), axis) for start in (0, 1))
    return part * low + (1 - part) * high, begin


def _interpolated(mask: Volume, image: Geometry, top: int, warnings: list[str]) -> Array:
    """The mask on the image's grid by linear interpolation; what it is interpolated to beyond its border is 0."""
    import SimpleITK as sitk

    box = bounding_box(mask.array)
    assert box is not None  # empty masks are refused before
    inner = crop(mask, box)
    padded = np.pad(inner.array, 1).astype(np.float32) / top
    x, y, z = inner.geometry.to_physical((-1, -1, -1)).tolist()
    size = (padded.shape[2], padded.shape[1], padded.shape[0])
    source = Volume(padded, Geometry(size, inner.geometry.spacing, (x, y, z), inner.geometry.direction))
    corners = image.to_index(source.geometry.corners())
    if (corners.min(axis=0) < -0.5).any() or (corners.max(axis=0) > np.array(image.size) - 0.5).any():
        inside = np.argwhere(2 * mask.array.astype(np.uint32) >= top)[:, ::-1]
        at = image.to_index(mask.geometry.to_physical(inside))
        out = int(np.count_nonzero(((at < -0.5) | (at > np.array(image.size) - 0.5)).any(axis=1)))
        _warn_of_loss(out, len(at), warnings)
    low = np.clip(np.floor(corners.min(axis=0)), 0, image.size).astype(int).tolist()
    high = np.clip(np.ceil(corners.max(axis=0)) + 1, low, image.size).astype(int).tolist()
    result = np.zeros(image.shape, dtype=np.uint8)
    if any(start == stop for start, stop in zip(low, high, strict=True)):
        return result
    part = (slice(low[2], high[2]), slice(low[1], high[1]), slice(low[0], high[0]))
    target = crop_geometry(image, part)
    filter_ = sitk.ResampleImageFilter()
    filter_.SetSize(target.size)
    filter_.SetOutputSpacing(target.spacing)
    filter_.SetOutputOrigin(target.origin)
    filter_.SetOutputDirection(target.direction)
    filter_.SetInterpolator(sitk.sitkLinear)
    filter_.SetDefaultPixelValue(0)
    filter_.SetOutputPixelType(sitk.sitkFloat32)
    result[part] = sitk.GetArrayFromImage(filter_.Execute(to_sitk(source))) >= 0.5 - _ROUNDING
    return result


def _bridge(mask: Array, made: Sequence[int], geometry: Geometry) -> int:
    """Fill empty slices at which the image itself was interpolated between filled ones; returns how many it filled.

    Nobody could draw there. The outline is that of the mean signed distance, as between contours (Raya and Udupa 1990).
    """
    import edt

    filled = 0
    x, y, _ = geometry.spacing
    real = sorted(set(range(len(mask))) - set(made))
    for before, after in itertools.pairwise(real):
        between = [z for z in range(before + 1, after) if not mask[z].any()]
        if not between or not mask[before].any() or not mask[after].any():
            continue
        low, high = (
            edt.edt(plane, anisotropy=(y, x)) - edt.edt(~plane, anisotropy=(y, x))
            for plane in (mask[before] > 0, mask[after] > 0)
        )
        for z in between:
            share = (z - before) / (after - before)
            mask[z] = (1 - share) * low + share * high > 0
            filled += bool(mask[z].any())
    return filled


def _warn_of_loss(lost: int, whole: int, warnings: list[str]) -> None:
    if lost:
        warnings.append(f"{100 * lost / whole:.3g} % of the segment lies outside of the image, and is cut off")
