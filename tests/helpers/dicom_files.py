"""Synthetic DICOM: CT series of any grid, orientation, syntax and fault, written by pydicom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

Array = NDArray[Any]
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
Change = Callable[[int, Dataset], None]


def phantom(shape: tuple[int, int, int] = (6, 16, 20), seed: int = 0) -> Array:
    """HU as int16 (z, y, x): air around noisy tissue, every voxel different enough to be told apart."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 1500, shape).astype(np.int16)
    hu[:, 0], hu[:, -1] = -1000, -1000
    return hu


def ct_datasets(
    hu: Array,
    *,
    spacing: Sequence[float] = (0.8, 0.9, 2.5),
    origin: Sequence[float] = (-50.0, 30.0, 700.0),
    direction: Sequence[float] = IDENTITY,
    step: Sequence[float] | None = None,
    positions: Sequence[Sequence[float]] | None = None,
    slope: float | None = 1,
    intercept: float | None = -1024,
    bits_stored: int = 16,
    signed: bool = True,
    series: str | None = None,
    study: str | None = None,
    frame_of_reference: str | None = None,
    change: Change | None = None,
    **fields: Any,
) -> list[Dataset]:
    """One CT image a slice of `hu` (z, y, x), in ascending order along the normal; without file meta information.

    `spacing` is x, y, z in mm, `direction` by rows as ITK has it (columns: x, y, z axes), `step` the vector from slice
    to slice (default: along the z axis; another is a tilted gantry), `positions` overrides where each slice lies.
    What is stored is (hu - intercept) / slope, rounded. `fields` are set on every slice (None deletes one), and
    `change(k, dataset)` may do anything to slice k.
    """
    hu = np.asarray(hu)
    axes = np.array(direction, dtype=float).reshape(3, 3)
    along = axes[:, 2] * spacing[2] if step is None else np.array(step, dtype=float)
    uids = [series or generate_uid(), study or generate_uid(), frame_of_reference or generate_uid()]
    stored_type = np.dtype(f"{'i' if signed else 'u'}{1 if bits_stored <= 8 else 2}")
    datasets = []
    for k, plane in enumerate(hu):
        position = np.array(origin) + k * along if positions is None else positions[k]
        stored = np.rint((plane - float(intercept or 0)) / float(slope or 1)).astype(stored_type)
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = uids
        ds.Modality = "CT"
        ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientID, ds.PatientName = "ID-DOE-4711", "DOE^JOHN"
        ds.SeriesDescription = "Thorax DOE 1.0"
        ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = 3, 1, k + 1
        ds.Manufacturer, ds.ConvolutionKernel, ds.KVP = "NEUSOFT", "B30f", 120
        ds.ImagePositionPatient = [_decimal(value) for value in position]
        ds.ImageOrientationPatient = [_decimal(value) for value in axes[:, :2].T.ravel()]
        ds.PixelSpacing = [_decimal(spacing[1]), _decimal(spacing[0])]
        ds.SliceThickness = _decimal(spacing[2])
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = plane.shape
        ds.BitsAllocated = 8 * stored_type.itemsize
        ds.BitsStored, ds.HighBit, ds.PixelRepresentation = bits_stored, bits_stored - 1, int(signed)
        if slope is not None:
            ds.RescaleSlope = _decimal(slope)
        if intercept is not None:
            ds.RescaleIntercept = _decimal(intercept)
        ds.PixelData = stored.tobytes()
        ds["PixelData"].VR = "OW"
        set_fields(ds, fields)
        if change is not None:
            change(k, ds)
        datasets.append(ds)
    return datasets


def set_fields(ds: Dataset, fields: dict[str, Any]) -> None:
    """Set elements by keyword; None deletes one."""
    for keyword, value in fields.items():
        if value is not None:
            setattr(ds, keyword, value)
        elif keyword in ds:
            delattr(ds, keyword)


def write_datasets(
    folder: Path,
    datasets: Sequence[Dataset],
    *,
    syntax: str = ExplicitVRLittleEndian,
    names: Sequence[str] | None = None,
    preamble: bool = True,
) -> list[Path]:
    """Write datasets as files of the folder (made if missing), in their order; `names` default to numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / (names[k] if names else f"{k:04d}.dcm") for k in range(len(datasets))]
    for path, ds in zip(paths, datasets, strict=True):
        write_file(path, ds, syntax=syntax, preamble=preamble)
    return paths


def write_file(path: Path, ds: Dataset, *, syntax: str = ExplicitVRLittleEndian, preamble: bool = True) -> Path:
    """Write one dataset with native pixels (little endian) in the given transfer syntax, compressed losslessly."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.get("SOPClassUID") or CTImageStorage
    meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID") or generate_uid()
    meta.TransferSyntaxUID = syntax
    out = FileDataset(
        None,
        {},
        file_meta=meta,
        preamble=b"\0" * 128 if preamble else None,
        is_implicit_VR=syntax == ImplicitVRLittleEndian,
        is_little_endian=syntax != ExplicitVRBigEndian,
    )
    out.update(ds)
    if syntax == ExplicitVRBigEndian and ds.BitsAllocated == 16:
        out.PixelData = np.frombuffer(ds.PixelData, "<u2").byteswap().tobytes()
    elif syntax in (JPEG2000Lossless, JPEGLSLossless, RLELossless):
        out.PixelData = encapsulate([_compressed(frame, ds, syntax) for frame in _frames(ds)])
        out["PixelData"].VR = "OB"
        out["PixelData"].is_undefined_length = True
    out.save_as(
        path,
        enforce_file_format=preamble,
        implicit_vr=syntax == ImplicitVRLittleEndian,
        little_endian=syntax != ExplicitVRBigEndian,
    )
    return path


def write_series(
    folder: Path,
    hu: Array,
    *,
    syntax: str = ExplicitVRLittleEndian,
    names: Sequence[str] | None = None,
    preamble: bool = True,
    **series: Any,
) -> list[Path]:
    """Write a CT series of one file a slice; everything of `ct_datasets` can be given. Returns the files."""
    return write_datasets(folder, ct_datasets(hu, **series), syntax=syntax, names=names, preamble=preamble)


def enhanced_dataset(
    hu: Array, *, change_frame: Change | None = None, order: Sequence[int] | None = None, **series: Any
) -> Dataset:
    """The same series as one enhanced multi-frame CT; `order` of the frames, `change_frame(k, functional groups)`."""
    single = ct_datasets(hu, **series)
    out = Dataset()
    out.update(single[0])
    out.SOPClassUID, out.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        if keyword in out:
            delattr(out, keyword)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = [_picked(single[0], "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_picked(single[0], "PixelSpacing", "SliceThickness")]
    kept = [single[k] for k in (order if order is not None else range(len(single)))]
    for k, ds in enumerate(kept):
        groups = Dataset()
        groups.PlanePositionSequence = [_picked(ds, "ImagePositionPatient")]
        groups.PixelValueTransformationSequence = [_picked(ds, "RescaleSlope", "RescaleIntercept")]
        content = Dataset()
        content.TemporalPositionIndex = 1
        groups.FrameContentSequence = [content]
        if change_frame is not None:
            change_frame(k, groups)
        frames.append(groups)
    out.SharedFunctionalGroupsSequence = DicomSequence([shared])
    out.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    out.NumberOfFrames = len(kept)
    out.PixelData = b"".join(ds.PixelData for ds in kept)
    out["PixelData"].VR = "OW"
    return out


def _picked(ds: Dataset, *keywords: str) -> Dataset:
    out = Dataset()
    for keyword in keywords:
        if keyword in ds:
            out[keyword] = ds[keyword]
    return out


def _frames(ds: Dataset) -> list[Array]:
    kind = np.dtype(f"<{'i' if ds.PixelRepresentation else 'u'}{ds.BitsAllocated // 8}")
    return list(np.frombuffer(ds.PixelData, kind).reshape(-1, ds.Rows, ds.Columns))


def _compressed(frame: Array, ds: Dataset, syntax: str) -> bytes:
    """One frame compressed losslessly; JPEG 2000 and JPEG-LS keep the signedness as DICOM encoders do."""
    if syntax == JPEG2000Lossless:
        from openjpeg.utils import encode_array

        return bytes(encode_array(np.ascontiguousarray(frame), bits_stored=ds.BitsStored, photometric_interpretation=2))
    if syntax == JPEGLSLossless:
        import jpeg_ls

        # JPEG-LS knows no signs: the bits are stored as they are.
        return bytes(jpeg_ls.encode_array(frame.view(f"u{frame.itemsize}") & (2**ds.BitsStored - 1)))
    from pydicom.pixels.encoders import RLELosslessEncoder

    return RLELosslessEncoder.encode(
        frame.tobytes(), rows=ds.Rows, columns=ds.Columns, samples_per_pixel=1, number_of_frames=1,
        bits_allocated=ds.BitsAllocated, bits_stored=ds.BitsStored, photometric_interpretation="MONOCHROME2",
        pixel_representation=ds.PixelRepresentation, planar_configuration=0,
    )  # fmt: skip


def _decimal(value: float) -> str:
    """A number as a DICOM decimal string, which has at most 16 characters."""
    for digits in range(15, 0, -1):
        text = f"{float(value):.{digits}g}"
        if len(text) <= 16:
            return text
    raise ValueError(value)
