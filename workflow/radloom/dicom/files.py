"""The headers of DICOM files, read by pydicom once, without their pixels and within bounds of time and memory.

What pydicom raises, warns of and logs contains values of the patient's and paths, so none of it is passed on.
"""

from __future__ import annotations

import io
import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pydicom.config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import _read_file_meta_info, read_partial, read_preamble
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from radloom.dicom import acquisition_elements

CT_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.2",  # CT
    "1.2.840.10008.5.1.4.1.1.2.1",  # enhanced CT
    "1.2.840.10008.5.1.4.1.1.2.2",  # legacy converted enhanced CT
)
UNDEFINED_LENGTH = 0xFFFFFFFF
_FIRST_BYTES = (1 << 16, 1 << 22)  # hold the header of most CT slices, and of most multi-frame files
_LARGEST_FILE = 1 << 31
_PIXEL_DATA = 0x7FE00010
_PIXEL_TAGS = frozenset((0x7FE00008, 0x7FE00009, _PIXEL_DATA))  # float, double and integer pixels
_NOT_DICOM, _DAMAGED, _EMPTY = "not DICOM", "damaged DICOM", "empty"
_DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_DICOM_SUFFIXES = ("", ".dcm", ".ima", ".dicom")

_DEFLATED = str(DeflatedExplicitVRLittleEndian).encode()
_EXPLICIT = str(ExplicitVRLittleEndian).encode().ljust(len(_DEFLATED), b"\0")

# All that is kept of a header, beside `acquisition_elements`: what the modules of this package look at.
KEYWORDS = (
    # What it is, and what it belongs to
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "PatientID",
    "Modality", "ImageType", "SeriesDescription", "SeriesNumber", "InstanceNumber", "AcquisitionNumber",
    "AcquisitionUID", "TemporalPositionIdentifier", "TemporalPositionIndex", "TriggerTime", "StudyDate", "SeriesDate",
    "AcquisitionDate", "ContentDate", "AcquisitionTime", "ContentTime", "AcquisitionDateTime",
    # Where it lies
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "GantryDetectorTilt", "NumberOfFrames", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    # What its pixels mean
    "Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "LossyImageCompression",
    # How it was acquired
    "Manufacturer", "ManufacturerModelName", "StationName", "DeviceSerialNumber", "SoftwareVersions",
    "ConvolutionKernel", "KVP", "XRayTubeCurrent", "Exposure", "ExposureTime", "ExposureInuAs", "ExposureInmAs",
    "CTDIvol", "SpiralPitchFactor", "TableSpeed", "TableHeight", "SingleCollimationWidth", "TotalCollimationWidth",
    "ReconstructionDiameter", "DataCollectionDiameter", "FilterType", "RotationDirection", "PatientPosition",
    "ContrastBolusAgent", "ContrastBolusAgentSequence", "ContrastBolusRoute", "ContrastBolusVolume",
    "ReconstructionAlgorithm", "ReconstructionMethod", "AcquisitionType", "BodyPartExamined",
    "MultienergyCTAcquisition",
    # What of a person may be seen in its pixels
    "BurnedInAnnotation", "RecognizableVisualFeatures",
)  # fmt: skip
_TAG = {keyword: Tag(keyword) for keyword in (*KEYWORDS, *acquisition_elements.KEYWORDS)}
# Rows of an overlay plane, which tell that there is one: its bits and texts are never read.
OVERLAYS = tuple((group << 16) | 0x0010 for group in range(0x6000, 0x6020, 2))
_TAGS: list[BaseTag | int] = [*_TAG.values(), *acquisition_elements.VENDOR_TAGS, *OVERLAYS]
_VR = {keyword: dictionary_VR(tag) for keyword, tag in _TAG.items()}
_PLAIN_VR = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "SH", "TM", "UI")  # text of one or more values


@dataclass(frozen=True)
class Header:
    """One DICOM file without its pixels: elements of `KEYWORDS`, transfer syntax, where the pixel data lie.

    `pixel_offset` and `pixel_length` are bytes, in a deflated file of its inflated content (`file_bytes`);
    `pixel_offset` is None without integer pixel data, and the length `UNDEFINED_LENGTH` of encapsulated ones.
    """

    path: Path
    dataset: Dataset
    syntax: str
    little_endian: bool
    pixel_offset: int | None
    pixel_length: int

    def text(self, keyword: str) -> str:
        """The element's value as text, "" if it is missing, empty or unreadable."""
        return text(self.dataset, keyword)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from checking values, warning and logging while the block runs."""
    logger = logging.getLogger("pydicom")
    mode, disabled = pydicom.config.settings.reading_validation_mode, logger.disabled
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        pydicom.config.settings.reading_validation_mode = mode
        logger.disabled = disabled


def read_header(path: Path) -> Header | str:
    """The header of one file, or why it is passed over: not DICOM, damaged DICOM, empty, DICOMDIR.

    An empty file that is named as DICOM files are counts as damaged, as does a CT image without pixels: copies that
    broke off leave such files.
    Call it within `quiet`. Raises OSError where the file can't be read.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        data = file.read(_FIRST_BYTES[0])
        if not size:
            return _DAMAGED if path.suffix.lower() in _DICOM_SUFFIXES else _EMPTY
        marked = data[128:132] == b"DICM"
        if not marked and not _looks_like_dicom(data):
            return _NOT_DICOM
        header = None
        for length in (*_FIRST_BYTES, size):
            length = size if _deflated(data) else min(length, size)
            if header is None and length <= _LARGEST_FILE:
                file.seek(0)
                data = file.read(length)
                header = _parse(path, data, length == size)
            if length == size:
                break
    if header is None:
        return _DAMAGED if marked else _NOT_DICOM
    if header.text("SOPClassUID") == _DICOMDIR_CLASS:
        return "DICOMDIR"
    if not any(header.text(keyword) for keyword in ("SeriesInstanceUID", "SOPClassUID", "Modality")):
        return _DAMAGED if marked else _NOT_DICOM
    is_ct = header.text("SOPClassUID") in CT_CLASSES or header.text("Modality") == "CT"
    return _DAMAGED if is_ct and header.pixel_offset is None else header


def file_bytes(header: Header) -> bytes:
    """The file's content into which `pixel_offset` points."""
    data = header.path.read_bytes()
    return inflated(data) if header.syntax == DeflatedExplicitVRLittleEndian else data


def text(dataset: Dataset, keyword: str) -> str:
    """An element's value as text (of several values the first), "" if it is missing, empty or unreadable."""
    found = texts(dataset, keyword)
    return found[0] if found else ""


def texts(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """All values of an element as texts; none if it is missing, empty or unreadable."""
    try:
        raw = dataset.get_item(_TAG.get(keyword) or Tag(keyword))
        if raw is None:
            return ()
        if isinstance(raw, RawDataElement) and (plain := _plain_texts(raw, keyword)) is not None:
            return plain
        with quiet():
            value = dataset.get(keyword)
            if value is None or value == "":
                return ()
            several = value if isinstance(value, MultiValue | list | tuple) else [value]
            return tuple(str(one).strip(" \0") for one in several)
    except MemoryError:
        raise
    except Exception:  # pydicom converts a value when it is asked for
        return ()


def _plain_texts(raw: RawDataElement, keyword: str) -> tuple[str, ...] | None:
    """The values of an element as it lies in the file, if that is plain; pydicom takes fifty times as long for them."""
    vr, value = raw.VR, raw.value
    if vr is None or vr == "UN":
        vr = _VR.get(keyword)
    if not isinstance(value, bytes):
        return None
    if vr == "US" and len(value) == 2:
        return (str(int.from_bytes(value, "little" if raw.is_little_endian else "big")),)
    if vr not in _PLAIN_VR or not value.isascii() or b"\x1b" in value:
        return None
    found = value.decode("ascii").strip(" \0")
    return tuple(part.strip(" \0") for part in found.split("\\")) if found else ()


def numbers(dataset: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """The `count` finite numbers of an element; None if it is missing, unreadable or has another number of them."""
    try:
        found = tuple(float(one) for one in texts(dataset, keyword))
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def number(dataset: Dataset, keyword: str) -> float | None:
    """The one finite number of an element; None if it is missing, unreadable or has several."""
    found = numbers(dataset, keyword, 1)
    return found[0] if found else None


def integer(dataset: Dataset, keyword: str) -> int | None:
    """The one whole number of an element; None if it is missing, unreadable or not whole."""
    found = number(dataset, keyword)
    return int(found) if found is not None and found == int(found) else None


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """The items of a sequence; none if it is missing or unreadable."""
    try:
        value = dataset.get(keyword)
        return list(value) if isinstance(value, Sequence) else []
    except MemoryError:
        raise
    except Exception:
        return []


def inflated(data: bytes) -> bytes:
    """A deflated file's content as an explicit little endian one of the same length of header.

    Raises ValueError where it can't be inflated, or is beyond all bounds.
    """
    file = io.BytesIO(data)
    read_preamble(file, True)
    _read_file_meta_info(file)
    start = file.tell()
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = unpack.decompress(data[start:], _LARGEST_FILE)
    except zlib.error:
        raise ValueError("the deflated content is damaged") from None
    if unpack.unconsumed_tail:
        raise ValueError("the deflated content is too large")
    return data[:start].replace(_DEFLATED, _EXPLICIT) + body


def _deflated(data: bytes) -> bool:
    """Whether a file's first bytes name the deflated transfer syntax."""
    return _DEFLATED in data[:1024]


def _looks_like_dicom(data: bytes) -> bool:
    """Whether a file without preamble begins with an element of group 2 or 8, of either byte order and VR."""
    group, element = data[:2], data[2:4]
    little, big = (b"\x02\x00", b"\x08\x00"), (b"\x00\x02", b"\x00\x08")
    return len(data) > 8 and ((group in little and element[1:] == b"\0") or (group in big and element[:1] == b"\0"))


def _parse(path: Path, data: bytes, complete: bool) -> Header | None:
    """The header in a file's first bytes; None if it is not all there, or damaged."""
    found: list[int] = []
    deflated = _deflated(data)

    def at_pixels(tag: int, vr: str | None, length: int) -> bool:  # noqa: ARG001
        if tag in _PIXEL_TAGS:
            found[:] = [tag, file.tell(), length]
        return bool(found)

    try:
        file = io.BytesIO(inflated(data) if deflated else data)
        dataset = read_partial(file, at_pixels, force=True, specific_tags=_TAGS)
        if not (found or complete):
            return None
        meta = dataset.file_meta
        syntax = _DEFLATED.decode() if deflated else str(meta.get("TransferSyntaxUID") or "")
        implicit, little = dataset.original_encoding
        if "SOPClassUID" not in dataset and meta.get("MediaStorageSOPClassUID"):
            dataset.SOPClassUID = meta.MediaStorageSOPClassUID
    except MemoryError:
        raise
    except Exception:  # whatever pydicom stumbles over, and the message has the patient's values in it
        return None
    if not syntax:
        syntax = str(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian)
    dataset.buffer = None  # the file's bytes
    tag, offset, length = found or (0, 0, 0)
    return Header(path, dataset, syntax, bool(little), offset if tag == _PIXEL_DATA else None, length)
