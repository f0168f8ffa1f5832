"""Inputs that are broken, each in its own way: the case is excluded with the reason, the others are unharmed.

One job of the step ingest reads the whole table in its worker, with its limits of memory and time.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from dicom_files import ct_datasets, enhanced_dataset, phantom, write_datasets, write_file, write_series
from dicom_masks import Drawn, rtstruct, save, write_seg
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless

from radloom.engine.plans import prepare

Array = NDArray[Any]
Cells = dict[str, str]
Make = Callable[[Path], Cells]
TABLE: dict[str, tuple[Make, str]] = {}
"""Of each case what makes its files in a folder and returns its cells, and the reason expected."""

NAME = "DOE_JOHN"  # every file's name begins with it; no reason may hold it
MEMORY_GB, SECONDS = 2.0, 30
SIZE = (10, 12, 14)  # z, y, x
HU = phantom(SIZE)
SPACING = (0.8, 0.9, 2.5)
FRAME, SERIES = "1.2.826.0.1.3680043.8.498.1", "1.2.3"


def broken(reason: str) -> Callable[[Make], Make]:
    """Enter a case into the table, under the function's name."""

    def enter(make: Make) -> Make:
        TABLE[make.__name__.strip("_")] = make, reason
        return make

    return enter


def enter(case_id: str, reason: str, make: Make) -> None:
    """Enter a case of one line into the table."""
    assert case_id not in TABLE
    TABLE[case_id] = make, reason


# Volumes


def volume(folder: Path, array: Array = HU, suffix: str = ".nii.gz", name: str = "image", **given: Any) -> Path:
    """Write a volume; its `spacing`, `origin` and `direction` can be given."""
    image = sitk.GetImageFromArray(array, isVector=given.get("colour", False))
    if image.GetDimension() == 3:
        image.SetSpacing(given.get("spacing", SPACING))
        image.SetOrigin(given.get("origin", (0, 0, 0)))
    path = folder / f"{NAME}_{name}{suffix}"
    sitk.WriteImage(image, str(path), given.get("packed", suffix == ".nii.gz"))
    return path


def image(**given: Any) -> Make:
    """A case whose image is a volume of these values."""
    return lambda folder: {"image": str(volume(folder, **given))}


def bytes_of(suffix: str, change: Callable[[bytearray], bytes], array: Array = HU, column: str = "image") -> Make:
    """A case whose file's bytes are changed."""

    def make(folder: Path) -> Cells:
        path = volume(folder, array, suffix, name=column)
        path.write_bytes(change(bytearray(path.read_bytes())))
        good = {} if column == "image" else {"image": str(volume(folder))}
        return {**good, column: str(path)}

    return make


def put(place: int, content: bytes) -> Callable[[bytearray], bytes]:
    """Overwrite bytes."""
    return lambda data: bytes(data[:place]) + content + bytes(data[place + len(content) :])


def swap(pattern: bytes, new: bytes) -> Callable[[bytearray], bytes]:
    """Replace what a pattern finds in the bytes."""

    def change(data: bytearray) -> bytes:
        changed, count = re.subn(pattern, new, bytes(data), count=1)
        assert count
        return changed

    return change


def cut(path: Path) -> None:
    """Leave the first half of a file."""
    path.write_bytes(half(bytearray(path.read_bytes())))


def half(data: bytearray) -> bytes:
    """The first half."""
    return bytes(data[: len(data) // 2])


def floats(value: float) -> Array:
    """Values of a CT as float, one of them another."""
    array = HU.astype(np.float32)
    array[3, 4, 5] = value
    return array


TRUNCATED = "truncated or damaged"
for _suffix, _kind in ((".nii", "NIfTI"), (".nii.gz", "NIfTI"), (".nrrd", "NRRD"), (".mha", "MetaImage")):
    _id = _suffix[1:].replace(".", "-")
    enter(f"{_id}-truncated", f"can't be read as {_kind}: {TRUNCATED}", bytes_of(_suffix, half))
    enter(f"{_id}-no-bytes", TRUNCATED, bytes_of(_suffix, lambda _: b""))
    enter(f"{_id}-zeros", f"{TRUNCATED}|no NIfTI-1", bytes_of(_suffix, lambda data: bytes(len(data))))
    enter(f"{_id}-png", f"{TRUNCATED}|no NIfTI-1", bytes_of(_suffix, lambda _: b"\x89PNG\r\n\x1a\n" * 99))
enter("nii-gz-one-bit", TRUNCATED, bytes_of(".nii.gz", lambda d: put(len(d) // 2, bytes([d[len(d) // 2] ^ 4]))(d)))
enter("nii-huge-claims", TRUNCATED, bytes_of(".nii", put(42, b"\xff\x7f\xff\x7f\xff\x7f")))
enter("nrrd-huge-claims", TRUNCATED, bytes_of(".nrrd", swap(b"sizes: [0-9 ]+", b"sizes: 32767 32767 32767")))
enter("mha-huge-claims", TRUNCATED, bytes_of(".mha", swap(b"DimSize = [0-9 ]+", b"DimSize = 32767 32767 32767")))
enter("nii-other-byte-order", TRUNCATED, bytes_of(".nii", put(0, b"\x00\x00\x01\x5c")))
enter("nrrd-other-byte-order", "are no HU|look", bytes_of(".nrrd", swap(b"endian: little", b"endian: big")))
enter("mha-other-byte-order", "are no HU|look", bytes_of(".mha", swap(b"MSB = False", b"MSB = True ")))
enter("nifti-2", "no NIfTI-1 file", bytes_of(".nii", put(0, (540).to_bytes(4, "little"))))
enter("negative-spacing", "spacing is not positive", bytes_of(".nii", put(80, np.float32(-0.8).tobytes())))
enter("zero-spacing", "spacing is not positive", bytes_of(".nii", put(84, bytes(4))))
enter("nan-spacing", "spacing is not positive", bytes_of(".nii", put(88, np.float32(np.nan).tobytes())))
enter("nan-cosine", "not at right angles", bytes_of(".nii", put(280, np.float32(np.nan).tobytes())))
enter("skewed-cosines", "not at right angles", bytes_of(".nii", put(284, np.float32(0.2).tobytes())))
enter("nrrd-no-spacing", "no voxel spacing", bytes_of(".nrrd", swap(b"space directions", b"# directions")))
enter("mha-no-spacing", "no voxel spacing", bytes_of(".mha", swap(b"ElementSpacing", b"ElementComment")))
enter("nan-voxel", "1 voxels of the image are not finite", image(array=floats(np.nan)))
enter("infinity", "1 voxels of the image are not finite", image(array=floats(np.inf), suffix=".nrrd"))
enter("constant", "same value 7", image(array=np.full(SIZE, 7, np.int16)))
enter("stored-values", "without the rescale intercept", image(array=HU + 1024))
enter("eight-bits", "8-bit picture", image(array=((HU.astype(int) + 1000) // 10).astype(np.uint8)))
enter("scaled", "scaled to 0..1", image(array=(HU + np.float32(1000)) / 2500))
enter("large-values", "are no HU", image(array=HU.astype(np.int32) * 40))
enter("fine-spacing", "outside 0.05 to 10 mm", image(spacing=(0.01, 0.9, 2.5)))
enter("one-slice", "too small", image(array=HU[:1]))
enter("four-dimensions", "4 dimensions", lambda f: {"image": str(nib_saved(f, np.stack([HU.T, HU.T], -1)))})
enter("two-dimensions", "2 dimensions", lambda f: {"image": str(nib_saved(f, HU[0].T))})
enter("rgb", "3 values a voxel", image(array=np.zeros((*SIZE, 3), np.uint8), colour=True, suffix=".nrrd"))
enter("rgb-nifti", "3 values a voxel", lambda f: {"image": str(nib_saved(f, rgb()))})
enter("unknown-suffix", "no DICOM file, and has no suffix", lambda f: {"image": str(written(f / f"{NAME}.png", b"x"))})
enter("folder-named-nifti", "is a folder whose name ends as", lambda f: {"image": str(made(f / f"{NAME}.nii.gz"))})
enter("non-ascii-name", TRUNCATED, lambda f: {"image": str(written(f / f"{NAME}_é_日本\u202e.nii", b"x"))})


def nib_saved(folder: Path, array: Array) -> Path:
    nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{NAME}.nii.gz")
    return folder / f"{NAME}.nii.gz"


def rgb() -> Array:
    return np.zeros(SIZE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@broken("the data file that its header names, does not exist")
def header_without_data(folder: Path) -> Cells:
    path = volume(folder, suffix=".mhd")
    (folder / f"{NAME}_image.raw").unlink()
    return {"image": str(path)}


@broken("names another file, or one outside its folder")
def header_of_another_file(folder: Path) -> Cells:
    path = volume(folder, suffix=".mhd")
    path.write_bytes(swap(rb"ElementDataFile = \S+", b"ElementDataFile = /etc/hostname")(bytearray(path.read_bytes())))
    return {"image": str(path)}


for _kind, _pattern, _new in (
    ("mha", b"ElementDataFile = LOCAL", b"ElementDataFile = /etc/hostname"),
    ("nrrd", b"encoding: raw", b"encoding: raw\ndata file: /etc/hostname"),
):
    enter(f"{_kind}-names-another-file", "names another file", bytes_of(f".{_kind}", swap(_pattern, _new)))
enter("mha-fewer-axes", TRUNCATED, bytes_of(".mha", swap(b"NDims = 3", b"NDims = 2")))
enter("mha-binary-header", TRUNCATED, bytes_of(".mha", swap(b"BinaryData", b"Binary\xf6\0ta")))
enter("nrrd-fewer-axes", TRUNCATED, bytes_of(".nrrd", swap(b"dimension: 3", b"dimension: 9")))


@broken(TRUNCATED)
def gzip_bomb(folder: Path) -> Cells:
    """The header claims 3 GiB, and 60 MB unpack."""
    data = bytearray(volume(folder, suffix=".nii").read_bytes())
    content = put(42, np.array([1024, 1024, 1536], "<i2").tobytes())(data)
    return {"image": str(written(folder / f"{NAME}.nii.gz", gzip.compress(content + bytes(60 << 20))))}


# Masks


def ball() -> Array:
    mask = np.zeros(SIZE, np.uint8)
    mask[3:6, 4:8, 5:9] = 1
    return mask


def mask(array: Array, **given: Any) -> Make:
    """A case whose image is good and whose mask has these values."""
    return lambda f: {"image": str(volume(f)), "mask": str(volume(f, array, name="mask", **given))}


enter("mask-empty", "the mask is empty", mask(ball() * 0))
enter("mask-all-ones", "the mask fills the whole image", mask(ball() * 0 + 1))
enter("mask-float-labels", "not whole numbers", mask(ball() * np.float32(0.5)))
enter("mask-nan", "of the mask are not finite", mask(np.where(ball(), np.float32(np.nan), np.float32(0))))
enter("mask-negative", "values from -1 to 1", mask(ball() * np.int16(2) - np.int16(1)))
enter("mask-large-labels", "values from 0 to 70000", mask(ball() * np.int32(70000)))
enter("mask-of-another-patient", "14 x 12 x 8 voxels, the image 14 x 12 x 10", mask(ball()[1:9]))
enter("mask-shifted", "grid lies up to 5 mm", mask(ball(), origin=(5, 0, 0)))
enter("mask-other-spacing", "more than 0.01 mm", mask(ball(), spacing=(0.8, 0.9, 2.6)))
enter("mask-rgb", "3 values a voxel", mask(np.zeros((*SIZE, 3), np.uint8), colour=True, suffix=".nrrd"))
enter("mask-truncated", f"the mask can't be read as NIfTI: {TRUNCATED}", bytes_of(".nii.gz", half, ball(), "mask"))


@broken("the mask is DICOM and the image is not")
def mask_dicom_of_a_volume(folder: Path) -> Cells:
    return {"image": str(volume(folder)), "mask": str(drawn(folder, [circle()]))}


# DICOM


def series(folder: Path, hu: Array = HU, **given: Any) -> Path:
    """Write a series to a folder; everything of `ct_datasets` can be given."""
    place = folder / f"{NAME} series"
    write_series(place, hu, **{"series": SERIES, "frame_of_reference": FRAME, **given})
    return place


def dicom(hu: Array = HU, cells: Cells | None = None, **given: Any) -> Make:
    """A case of a series that is written like this."""
    return lambda folder: {"image": str(series(folder, hu, **given)), **(cells or {})}


def files_of(change: Callable[[list[Path]], object]) -> Make:
    """A case of a series of whose files something happens to some."""

    def make(folder: Path) -> Cells:
        place = series(folder)
        change(sorted(place.iterdir()))
        return {"image": str(place)}

    return make


def at(k: int, **fields: Any) -> Callable[[int, Dataset], None]:
    """Set elements of one slice."""

    def change(n: int, ds: Dataset) -> None:
        for keyword, value in fields.items() if n == k else ():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)

    return change


def positions(*z: float, x: tuple[float, ...] = ()) -> list[tuple[float, float, float]]:
    return [(x[n] if x else 0.0, 0.0, value) for n, value in enumerate(z)]


_EVEN = [2.5 * n for n in range(10)]
enter("folder-empty", "the folder of the image is empty", lambda f: {"image": str(made(f / NAME))})
enter("folder-no-dicom", "no CT series", lambda f: {"image": str(written(made(f / NAME) / "a.txt", b"a").parent)})
enter("one-slice-dicom", "no CT series of at least 2", dicom(HU[:1]))
enter("slice-truncated", "DICOM files are damaged|pixel data", files_of(lambda fs: cut(fs[3])))
enter("slice-of-no-bytes", "1 of the DICOM files are damaged", files_of(lambda fs: fs[0].write_bytes(b"")))
enter("slice-missing", "1 slices are missing", files_of(lambda fs: fs[4].unlink()))
enter("uneven-spacing", "spaced unevenly", dicom(positions=positions(*_EVEN[:5], 10.9, 14, 18, 22, 30)))
enter("one-place", "all slices of the series lie at one place", dicom(positions=positions(*[5] * 10)))
enter("two-phases", "two|several|more than one|same place", dicom(positions=positions(*_EVEN[:5], *_EVEN[:5])))
enter("shifted-sideways", "shifted sideways", dicom(positions=positions(*_EVEN, x=(0, 0, 9, 0, 0, 3, 0, 0, 0, 0))))
enter("mixed-sizes", "different sizes", dicom(change=at(3, Rows=6, Columns=28)))
enter("mixed-orientation", "oriented otherwise", dicom(change=at(3, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])))
enter("mixed-spacing", "different pixel spacings", dicom(change=at(3, PixelSpacing=[0.5, 0.5])))
enter("mixed-frames", "different frames of reference", dicom(change=at(3, FrameOfReferenceUID="1.2.9")))
enter("mixed-kernels", "values of kernel", dicom(change=at(3, ConvolutionKernel="B70f")))
enter("skewed-rows", "not at right angles", dicom(ImageOrientationPatient=[1, 0, 0, 0.3, 0.95, 0]))
enter("no-position", "no readable", dicom(change=at(3, ImagePositionPatient=None)))
enter("no-pixel-spacing", "no readable", dicom(PixelSpacing=None))
enter("negative-pixel-spacing", "not positive", dicom(PixelSpacing=[-0.9, 0.8]))
enter("no-rescale", "no rescale slope or no intercept", dicom(slope=None, intercept=None))
enter("slope-zero", "can't be that of HU", dicom(change=at(3, RescaleSlope=0)))
enter("density", "something else than HU", dicom(RescaleType="ED"))
enter("magnetic-resonance", "no CT series", dicom(Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4"))
enter("localizers", "no CT series", dicom(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
enter("secondary-capture", "no CT series", dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
enter("colour-slices", "colour|no CT series", dicom(PhotometricInterpretation="RGB"))
enter("bits", "are not read", dicom(change=at(3, BitsStored=20)))
enter("huge-rows", "of 65535 x 65535 pixels, 1 frames, is no CT", dicom(Rows=65535, Columns=65535))
enter("unknown-syntax", "transfer syntax .* can't be read", lambda f: {"image": str(transferred(f))})
enter("wrong-series", "none of the CT series is the wanted one", dicom(cells={"series": "Abdomen*"}))
enter("frames-nowhere", "doesn't tell where|no readable", lambda f: {"image": str(frames(f))})


def transferred(folder: Path) -> Path:
    """A series that says it is MPEG-4."""
    place = series(folder)
    for path in place.iterdir():
        new = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.102\0", 1)
        path.write_bytes(new.replace(b"UI\x14\x001.2.840.10008.1.2.4.102", b"UI\x18\x001.2.840.10008.1.2.4.102", 1))
    return place


def frames(folder: Path) -> Path:
    """An enhanced CT without the positions of its frames."""
    ds = enhanced_dataset(HU)
    for item in ds.PerFrameFunctionalGroupsSequence:
        del item.PlanePositionSequence
    return write_file(folder / NAME, ds)


@broken("2 CT series to choose from")
def two_series(folder: Path) -> Cells:
    series(folder)
    write_series(folder / f"{NAME} series" / "other", HU, series="1.2.4")
    return {"image": str(folder / f"{NAME} series")}


@broken("links to places outside")
def link_out_of_the_tree(folder: Path) -> Cells:
    place = series(folder)
    (place / "more").symlink_to("/etc")
    return {"image": str(place)}


@broken("pixel data of a slice are truncated or damaged")
def damaged_jpeg(folder: Path) -> Cells:
    place = series(folder, syntax=JPEGLSLossless)
    path = max(place.iterdir())
    data = bytearray(path.read_bytes())
    start = data.index(b"\xff\xd8\xff\xf7")
    path.write_bytes(put(start + 4, b"\x55" * 40)(data))
    return {"image": str(place)}


# Drawn masks


def circle(z: float = 10, radius: float = 3, centre: tuple[float, ...] = (5, 5), kind: str = "CLOSED_PLANAR") -> Drawn:
    angles = np.linspace(0, 2 * np.pi, 30, endpoint=False)
    x, y = centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)
    return Drawn(np.column_stack([x, y, np.full(30, z)]), kind)


def drawn(folder: Path, contours: list[Drawn], name: str = "rs", **given: Any) -> Path:
    rois = given.pop("rois", {"GTV DOE": contours})
    return save(rtstruct(rois, given.pop("frame", FRAME), SERIES, **given), folder / f"{NAME}_{name}")


def nothing(_: object) -> None:
    """Leave it as it is."""


def rois(contours: list[Drawn], change: Callable[[Dataset], None] = nothing, roi: str = "", **given: Any) -> Make:
    """A case of a good series and an RTSTRUCT."""

    def make(folder: Path) -> Cells:
        dataset = rtstruct(given.get("rois", {"GTV DOE": contours}), given.get("frame", FRAME), SERIES)
        change(dataset)
        path = save(dataset, folder / f"{NAME}_rs")
        return {"image": str(series(folder, origin=(0, 0, 0))), "mask": str(path), "mask_roi": roi}

    return make


def first_contour(dataset: Dataset) -> Dataset:
    found: Dataset = dataset.ROIContourSequence[0].ContourSequence[0]
    return found


def uncounted(dataset: Dataset) -> None:
    first_contour(dataset).ContourData = [1.0, 2.0, 3.0, 4.0]


def without_numbers(dataset: Dataset) -> None:
    del dataset.StructureSetROISequence[0].ROINumber


_OBLIQUE = Drawn(np.array([[2.0, 5, 2], [8, 6, 4], [8, 3, 12], [2, 9, 10]]))
enter("roi-wrong-name", "none is what mask_roi asks for", rois([circle()], roi="liver*"))
enter("roi-several", "mask_roi doesn't say which", rois([], rois={"a": [circle()], "b": [circle(7.5)]}))
enter("roi-empty", "ROI #1 of the mask is empty", rois([], roi="gtv*"))
enter("roi-none", "the mask has no ROI", rois([], rois={}))
enter("roi-open", "no closed contour", rois([circle(kind="OPEN_PLANAR")]))
enter("roi-other-frame", "another frame of reference", rois([circle()], frame="1.2.826.0.1.3680043.8.498.9"))
enter("roi-outside", "lie outside of the image|leave the image", rois([circle(centre=(500, 500))]))
enter("roi-across", "not parallel", rois([_OBLIQUE]))
enter("roi-unreadable", "no readable points", rois([circle()], uncounted))
enter("roi-no-numbers", "no numbers that tell them apart|no ROI", rois([circle()], without_numbers))
enter("roi-too-small", "no voxel's centre lies", rois([circle(radius=0.05, centre=(5.2, 5.4))]))


@broken("truncated or damaged|neither an RTSTRUCT nor a SEG")
def roi_truncated(folder: Path) -> Cells:
    cells = rois([circle()])(folder)
    cut(Path(cells["mask"]))
    return cells


@broken("neither an RTSTRUCT nor a SEG")
def roi_is_a_ct(folder: Path) -> Cells:
    place = str(series(folder))
    return {"image": place, "mask": place}


@broken("several masks to choose from")
def roi_of_two_files(folder: Path) -> Cells:
    place = series(folder, origin=(0, 0, 0))
    for n in range(2):
        dataset = rtstruct({"GTV": [circle()]}, FRAME, SERIES)
        dataset.SOPInstanceUID = f"1.2.3.4.{n}"
        save(dataset, place / f"rs{n}")
    return {"image": str(place), "mask": str(place)}


def segmented(change: Callable[[Dataset], None] = nothing, roi: str = "", mask: Array | None = None) -> Make:
    """A case of a good series and a SEG."""

    def make(folder: Path) -> Cells:
        images = ct_datasets(HU, series=SERIES, frame_of_reference=FRAME)
        write_datasets(folder / NAME, images)
        path = folder / f"{NAME}_seg"
        dataset = pydicom.dcmread(write_seg(path, images, ball() if mask is None else mask, omit_empty_frames=False))
        change(dataset)
        dataset.save_as(path)
        return {"image": str(folder / NAME), "mask": str(path), "mask_roi": roi}

    return make


def other_frame(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = "1.2.826.0.1.3680043.8.498.9"


def unknown_type(dataset: Dataset) -> None:
    dataset.SegmentationType = "GREY"


def nowhere(dataset: Dataset) -> None:
    for item in dataset.PerFrameFunctionalGroupsSequence:
        del item.PlanePositionSequence


def fewer_pixels(dataset: Dataset) -> None:
    dataset.PixelData = dataset.PixelData[:100]


enter("seg-wrong-segment", "none is what mask_roi asks for", segmented(roi="liver"))
enter("seg-empty", "of the mask is empty", segmented(mask=ball() * 0))
enter("seg-other-frame", "another frame of reference", segmented(other_frame))
enter("seg-unknown-type", "of no known type", segmented(unknown_type))
enter("seg-nowhere", "doesn't say where it lies", segmented(nowhere))
enter("seg-fewer-pixels", "can't be read", segmented(fewer_pixels))


# Archives


def zipped(folder: Path, files: dict[str, bytes], suffix: str = ".zip") -> Path:
    path = folder / f"{NAME}{suffix}"
    if suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def good_files(folder: Path) -> dict[str, bytes]:
    return {f"{NAME}/{path.name}": path.read_bytes() for path in sorted(series(folder).iterdir())}


def packed(suffix: str, more: dict[str, bytes] | None = None, change: Callable[[bytearray], bytes] = bytes) -> Make:
    """A case whose image is an archive of a good series and something more, with its bytes changed."""

    def make(folder: Path) -> Cells:
        path = zipped(folder, {**good_files(folder), **(more or {})}, suffix)
        path.write_bytes(change(bytearray(path.read_bytes())))
        return {"image": str(path)}

    return make


def encrypted(data: bytearray) -> bytes:
    """The bits that say of the last member that it is."""
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(mark) + flags] |= 1
    return bytes(data)


for _suffix in (".zip", ".tar.gz"):
    _id = _suffix[1:].replace(".", "-")
    enter(f"{_id}-truncated", f"can't be unpacked: {TRUNCATED}", packed(_suffix, change=half))
    enter(f"{_id}-png", f"can't be unpacked: {TRUNCATED}", packed(_suffix, change=lambda _: b"\x89PNG" * 99))
    enter(f"{_id}-path-out", "leads out of it", packed(_suffix, {"../../out.dcm": b"x"}))
    enter(f"{_id}-absolute-path", "leads out of it", packed(_suffix, {"/tmp/out.dcm": b"x"}))
    enter(f"{_id}-nested", "holds another archive", packed(_suffix, {"inner.zip": b"PK"}))
    enter(f"{_id}-bomb", "unpacks to more than 0.05 GiB", packed(_suffix, {"a.dcm": bytes(80 << 20)}))
enter("zip-encrypted", "is encrypted", packed(".zip", change=encrypted))
enter("zip-empty", "the archive of the image is empty", lambda f: {"image": str(zipped(f, {}))})


@broken("holds 2 volumes and no DICOM")
def zip_of_two_volumes(folder: Path) -> Cells:
    content = volume(folder).read_bytes()
    return {"image": str(zipped(folder, {"a.nii.gz": content, "b.nii.gz": content}))}


@broken("holds a link, a device")
def tar_link(folder: Path) -> Cells:
    path = folder / f"{NAME}.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("1.dcm")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(info)
    return {"image": str(path)}


# The run

GOOD: dict[str, Make] = {
    "good-nifti": lambda f: {"image": str(volume(f)), "mask": str(volume(f, ball(), name="mask"))},
    "good-non-ascii": lambda f: {"image": str(volume(f, name="é_日本 \u202e"))},
    "good-dicom": rois([circle(), circle(12.5)]),
    "good-zip": packed(".zip"),
    "good-seg": segmented(),
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory, repo: Path) -> dict[str, dict[str, Any]]:
    """What the manifest says of each case; good cases stand between the broken ones."""
    folder = tmp_path_factory.mktemp("broken")
    makers = {case_id: make for case_id, (make, _) in TABLE.items()} | GOOD
    rows = []
    for number, case_id in enumerate(sorted(makers, key=lambda one: one[::-1])):
        place = folder / f"{NAME} {number}"
        place.mkdir()
        cells = makers[case_id](place)
        rows.append([case_id, "x", *(cells.get(column, "") for column in ("image", "mask", "series", "mask_roi"))])
    sheet = ["case_id\tcentre\timage\tmask\tseries\tmask_roi", *("\t".join(row) for row in rows)]
    (folder / "cohort.tsv").write_text("\n".join(sheet) + "\n", encoding="utf-8")
    limits = {"memory_gb": MEMORY_GB, "timeout_s": SECONDS, "max_unpacked_gb": 0.05}
    config = {"cohort": "cohort.tsv", "results": "results", "cases_per_job": 1000, "ingest": limits}
    config["extract"] = {"params": str(repo / "config" / "pyradiomics.yaml")}
    with inside(folder):
        run = prepare(config, repo / "workflow", main_process=True)
        (chunk,) = run.chunks
        arguments = ["--plan", run.plan("ingest", chunk.name), "--manifest", "manifest.json"]
        done = subprocess.run(
            [sys.executable, str(repo / "workflow" / "scripts" / "ingest.py"), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    assert not list((folder / "results").rglob(".scratch"))
    assert not Path("/tmp/out.dcm").exists()
    manifest = json.loads((folder / "manifest.json").read_text())
    records = {path.parents[1].name: json.loads(path.read_text()) for path in (folder / "results").rglob("record.json")}
    return {one["case_id"]: {**one, **records[one["case_id"]]} for one in manifest["cases"]}


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize("case_id", TABLE)
def test_a_broken_input_is_excluded_with_its_reason(entries: dict[str, dict[str, Any]], case_id: str) -> None:
    entry = entries[case_id]
    assert entry["status"] == "excluded", entry["facts"]
    assert re.search(TABLE[case_id][1], entry["reason"]), entry["reason"]
    assert entry["advice"]
    assert not entry["outputs"]
    assert "DOE" not in json.dumps(entry)
    assert entry["seconds"] < SECONDS / 2
    assert entry["peak_mb"] < 1024 * MEMORY_GB / 2


@pytest.mark.parametrize("case_id", GOOD)
def test_the_other_cases_are_unharmed(entries: dict[str, dict[str, Any]], case_id: str) -> None:
    entry = entries[case_id]
    assert entry["status"] == "ok", entry["reason"]
    assert "image.nii.gz" in entry["outputs"]
    assert entry["peak_mb"] < 1024 * MEMORY_GB / 2


def test_the_table_is_long_enough() -> None:
    assert len(TABLE) >= 60
    yaml.safe_dump(sorted(TABLE))  # every id is a plain word
