"""RTSTRUCT files of given contours, for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

FRAME = "1.2.826.0.1.3680043.8.498.1"
RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"


@dataclass(frozen=True)
class Drawn:
    """A contour to write: points (n, 3) in mm, kind, SOP instance that it names ("" names none)."""

    points: NDArray[Any]
    kind: str = "CLOSED_PLANAR"
    image_uid: str = ""


def rtstruct(
    rois: Mapping[str, Sequence[Drawn]],
    frame: str | None = FRAME,
    series_uid: str = "1.2.3",
    digits: int = 10,
) -> Dataset:
    """An RTSTRUCT whose ROIs have the numbers 1, 2, ... in the order of `rois`."""
    dataset = Dataset()
    dataset.SOPClassUID = RTSTRUCT_CLASS
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality = "RTSTRUCT"
    dataset.SeriesInstanceUID = "1.2.3.5"
    dataset.StructureSetLabel = "test"
    if frame is not None:
        series = Dataset()
        series.SeriesInstanceUID = series_uid
        study = Dataset()
        study.RTReferencedSeriesSequence = Items([series])
        reference = Dataset()
        reference.FrameOfReferenceUID = frame
        reference.RTReferencedStudySequence = Items([study])
        dataset.ReferencedFrameOfReferenceSequence = Items([reference])
    names, drawings = [], []
    for number, (name, contours) in enumerate(rois.items(), start=1):
        roi = Dataset()
        roi.ROINumber = number
        roi.ROIName = name
        if frame is not None:
            roi.ReferencedFrameOfReferenceUID = frame
        names.append(roi)
        drawing = Dataset()
        drawing.ReferencedROINumber = number
        if contours:
            drawing.ContourSequence = Items([_contour(contour, digits) for contour in contours])
        drawings.append(drawing)
    dataset.StructureSetROISequence = Items(names)
    dataset.ROIContourSequence = Items(drawings)
    return dataset


def save(dataset: Dataset, path: Path, implicit: bool = False) -> Path:
    """Write a dataset as a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.save_as(path, enforce_file_format=True)
    return path


def _contour(drawn: Drawn, digits: int) -> Dataset:
    item = Dataset()
    item.ContourGeometricType = drawn.kind
    item.NumberOfContourPoints = len(drawn.points)
    if drawn.image_uid:
        image = Dataset()
        image.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        image.ReferencedSOPInstanceUID = drawn.image_uid
        item.ContourImageSequence = Items([image])
    text = "\\".join([f"{value:.{digits}g}" for value in np.asarray(drawn.points, dtype=float).ravel().tolist()])
    content = (text + " " * (len(text) % 2)).encode()
    if len(content) < 20000:
        item.ContourData = text
    else:
        # As UN, whose bytes are written as they are: of DS pydicom makes values and text, at 20 us a number. In an
        # implicit file no VR is written, and in an explicit one contours of over 64 kB have to be UN.
        known, pydicom.config.replace_un_with_known_vr = pydicom.config.replace_un_with_known_vr, False
        item.add_new("ContourData", "UN", content)
        pydicom.config.replace_un_with_known_vr = known
    return item


def write_seg(
    path: Path,
    sources: Sequence[Dataset],
    masks: NDArray[Any],
    *,
    labels: Sequence[str] = ("tumour",),
    kind: str = "BINARY",
    **options: Any,
) -> Path:
    """Write a DICOM SEG by highdicom: `masks` (frames, y, x) with labels 1, 2, ..., or with a last axis of segments.

    `sources` are the images of the frames, in their order. `options` are those of highdicom's Segmentation.
    """
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    descriptions = [
        SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.Neoplasm,
            algorithm_type="MANUAL",
        )
        for number, label in enumerate(labels, start=1)
    ]
    seg = Segmentation(
        source_images=[complete(source) for source in sources],
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid="1.2.3.6",
        series_number=100,
        sop_instance_uid="1.2.3.7",
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
        **options,
    )
    seg.save_as(path)
    return path


def complete(source: Dataset) -> Dataset:
    """A copy of an image with what highdicom copies from it and a test series may lack."""
    out = Dataset()
    out.update(source)
    needed = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")
    for keyword in (*needed, "AccessionNumber", "ReferringPhysicianName", "ContentDate", "ContentTime"):
        if keyword not in out:
            setattr(out, keyword, None)
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return out
