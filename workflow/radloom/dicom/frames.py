"""What each image of a series says of itself: where it lies, and what its stored values mean; one frame or many."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom.dataset import Dataset

from radloom.dicom.files import Header, integer, items, number, numbers, text, texts
from radloom.errors import CaseError
from radloom.images import Vector

# Where a file that was converted from single slices has what it found no functional group for (PS3.3 A.70).
UNASSIGNED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_EXPORT_AGAIN = "Export the series again as the scanner made it."
_LARGEST_MATRIX = 4096  # rows or columns; CT has up to 2048
_MOST_FRAMES = 20000
# Words of the image or frame type, and of the volume based calculation technique, of pixels that aren't the attenuation
# of a voxel (PS3.3 C.8.2.1.1.1, C.8.15.2.1.1.5, C.8.16.1.4, C.8.16.2.1.3), with what vendors write for projections.
_NO_ATTENUATION = frozenset((
    "DIVISION", "MAXIMUM", "MINIMUM", "MULTIPLICATION", "STD_DEVIATION", "SUBTRACTION", "T_TEST", "Z_SCORE",
    "MTT", "RCBF", "RCBV", "TTP", "MAX_IP", "MIN_IP", "VOLUME_RENDER", "SURFACE_RENDER", "MIP", "MINIP",
    "PROJECTION IMAGE", "EFF_ATOMIC_NUM", "ELECTRON_DENSITY", "MAT_SPECIFIC", "MAT_FRACTIONAL", "MAT_VALUE_BASED",
))  # fmt: skip


@dataclass(frozen=True)
class Pixels:
    """How the stored values of a file are laid down."""

    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    signed: bool
    frames: int

    @property
    def frame_bytes(self) -> int:
        """Bytes of a frame that isn't compressed."""
        return self.rows * self.columns * self.bits_allocated // 8


@dataclass(frozen=True)
class Frame:
    """One image: frame `index` of the file `header`.

    `position` is the centre of the first voxel (LPS, mm), `orientation` the unit vectors along a row and down a
    column, `spacing` the distance in mm of columns and of rows (x, y). HU = stored x slope + intercept; `padding` is
    the range of stored values that stands for no measurement (both ends included). `phase` are the values that tell
    acquisitions at one place apart, by the element's name; `kind` are the words of the image or frame type.
    """

    header: Header
    index: int
    pixels: Pixels
    position: Vector
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    phase: tuple[tuple[str, str], ...]
    kind: tuple[str, ...]

    @property
    def localizer(self) -> bool:
        """Whether it is a projection for planning."""
        return "LOCALIZER" in self.kind


def frames_of(header: Header) -> list[Frame]:
    """The frames of a file, single- or multi-frame (DICOM PS3.3 C.7.6.16). Raises CaseError for what it lacks."""
    dataset = header.dataset
    pixels = _pixels(header)
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    each = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not shared and not each:
        if pixels.frames != 1:
            raise CaseError("a multi-frame file doesn't tell where its frames lie", _EXPORT_AGAIN)
        return [_frame(header, 0, pixels, [dataset])]
    if len(each) != pixels.frames:
        raise CaseError(
            f"a multi-frame file speaks of {pixels.frames} frames, and describes {len(each)}", _EXPORT_AGAIN
        )
    return [_frame(header, k, pixels, [group, *shared[:1], dataset]) for k, group in enumerate(each)]


def _frame(header: Header, index: int, pixels: Pixels, levels: list[Dataset]) -> Frame:
    """One frame by its functional groups, the nearest level first, the file's own elements last."""

    def holder(sequence: str, keyword: str) -> Dataset:
        for name in (sequence, *UNASSIGNED):
            for level in levels[:-1]:
                for item in items(level, name):
                    if keyword in item:
                        return item
        return levels[-1]

    position = numbers(holder("PlanePositionSequence", "ImagePositionPatient"), "ImagePositionPatient", 3)
    plane = holder("PlaneOrientationSequence", "ImageOrientationPatient")
    orientation = numbers(plane, "ImageOrientationPatient", 6)
    measures = holder("PixelMeasuresSequence", "PixelSpacing")
    spacing = numbers(measures, "PixelSpacing", 2)
    rescale = holder("PixelValueTransformationSequence", "RescaleSlope")
    slope, intercept = number(rescale, "RescaleSlope"), number(rescale, "RescaleIntercept")
    for value, name in ((position, "position"), (orientation, "orientation"), (spacing, "pixel spacing")):
        if value is None:
            raise CaseError(f"a slice has no readable {name}", _EXPORT_AGAIN)
    assert position is not None
    assert orientation is not None
    assert spacing is not None
    if slope is None or intercept is None:
        # Type 1 in CT (PS3.3 C.8.2.1): without it nobody knows what 0 stands for, and values of -1000 and 0 can be
        # offset by 1024 or a calibration. A guess by the histogram would be right until it is wrong.
        raise CaseError(
            "a slice has no rescale slope or no intercept, so its values are not known to be HU", _EXPORT_AGAIN
        )
    if slope == 0 or abs(slope) > 1e4 or abs(intercept) > 1e6:
        raise CaseError("the rescale slope or intercept of a slice can't be that of HU", _EXPORT_AGAIN)
    unit = text(rescale, "RescaleType").upper()
    if unit not in ("", "HU", "US") or items(levels[-1], "ModalityLUTSequence"):
        raise CaseError("the values of a slice stand for something else than HU, by its rescale type", _EXPORT_AGAIN)
    if min(spacing) <= 0:
        raise CaseError("the pixel spacing of a slice is not positive", _EXPORT_AGAIN)
    frame_type = holder("CTImageFrameTypeSequence", "FrameType")
    kind = tuple(word.upper() for word in texts(frame_type, "FrameType") or texts(levels[-1], "ImageType"))
    if not _NO_ATTENUATION.isdisjoint((*kind, text(frame_type, "VolumeBasedCalculationTechnique").upper())):
        raise CaseError(
            "the values of a slice stand for something else than HU, by its image type: a projection, a difference or "
            "a map of materials",
            "Send the reconstruction that was made of the scan itself.",
        )
    content = holder("FrameContentSequence", "FrameAcquisitionNumber")
    timing = holder("FrameContentSequence", "TemporalPositionIndex")
    kernel = holder("CTReconstructionSequence", "ConvolutionKernel")
    voltage = number(holder("CTXRayDetailsSequence", "KVP"), "KVP")
    phase = {
        "acquisition": text(levels[-1], "AcquisitionNumber") or text(content, "FrameAcquisitionNumber"),
        "temporal position": text(levels[-1], "TemporalPositionIdentifier") or text(timing, "TemporalPositionIndex"),
        "trigger time": text(levels[-1], "TriggerTime"),
        "kernel": "\\".join(texts(kernel, "ConvolutionKernel")),  # with the strength of an iterative reconstruction
        "kV": "" if voltage is None else f"{voltage:g}",
    }
    return Frame(
        header=header,
        index=index,
        pixels=pixels,
        position=(position[0], position[1], position[2]),
        orientation=orientation,
        spacing=(spacing[1], spacing[0]),
        thickness=number(holder("PixelMeasuresSequence", "SliceThickness"), "SliceThickness"),
        slope=slope,
        intercept=intercept,
        padding=_padding(header, pixels),
        phase=tuple(phase.items()),
        kind=kind,
    )


def _pixels(header: Header) -> Pixels:
    found = {
        name: integer(header.dataset, name)
        for name in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation")
    }
    for name, value in found.items():
        if value is None:
            raise CaseError(f"a slice doesn't tell its {name}", _EXPORT_AGAIN)
    rows, columns, allocated, stored, sign = (value or 0 for value in found.values())
    high = integer(header.dataset, "HighBit")
    frames = integer(header.dataset, "NumberOfFrames") or 1
    if not (0 < rows <= _LARGEST_MATRIX and 0 < columns <= _LARGEST_MATRIX and 0 < frames <= _MOST_FRAMES):
        raise CaseError(f"a slice of {columns} x {rows} pixels, {frames} frames, is no CT", _EXPORT_AGAIN)
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or sign not in (0, 1):
        raise CaseError(f"slices of {stored} bits in {allocated} are not read", _EXPORT_AGAIN)
    if high is not None and high != stored - 1:
        raise CaseError(f"slices whose {stored} bits end at bit {high} are not read", _EXPORT_AGAIN)
    if not header.text("PhotometricInterpretation").upper().startswith("MONOCHROME"):
        raise CaseError("a slice is a colour picture, or doesn't tell whether it is one", _EXPORT_AGAIN)
    return Pixels(rows, columns, allocated, stored, bool(sign), frames)


def _padding(header: Header, pixels: Pixels) -> tuple[int, int] | None:
    """The range of stored values that are padding (PS3.3 C.7.5.1.1.2).

    Writers mark the value as signed or unsigned at will, so its bits are taken as those of the pixels.
    """
    ends = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        value = integer(header.dataset, keyword)
        if value is not None:
            value &= (1 << pixels.bits_allocated) - 1
            if pixels.signed and value >> (pixels.bits_allocated - 1):
                value -= 1 << pixels.bits_allocated
            ends.append(value)
        elif not ends:
            return None
    return min(ends), max(ends)
