"""Reading volume files, NIfTI, NRRD and MetaImage, and checking what they hold; masks on the grid of their image.

ITK decodes the files, but it lets much pass: it hands out a truncated NIfTI file as if nothing were missing,
turns NaN in one into 0, and looks at no checksum of packed voxels. These are checked here. What ITK prints
and raises contains paths, which may carry patients' names, so none of it is passed on.
"""

from __future__ import annotations

import math
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
from isal import igzip, isal_zlib

from radloom.errors import CaseError
from radloom.images import (
    DAMAGED_GZIP,
    Array,
    Geometry,
    Volume,
    corner_distance,
    forms_agree,
    nearest_rotation,
    nifti_forms,
    reorient,
)
from radloom.source_names import VOLUMES, source_files, suffix

_FORMAT_NAMES = {"nifti": "NIfTI", "nrrd": "NRRD", "mha": "MetaImage"}
_ORTHONORMAL = 1e-3
_HEADER_BYTES = 348
_CHUNK_BYTES = 1 << 20
# MetaIO and NRRD's library have been seen to write beyond their memory for lines that are none.
_META_LINE = re.compile(r"[A-Za-z][A-Za-z0-9_]*[ \t]*=[^\0]*$")
_NRRD_LINE = re.compile(r"[A-Za-z][A-Za-z0-9 _./-]*:=?[^\0]*$")
_PACKED_BYTES = 1 << 16  # unpack to 64 MB at most
_ZLIB_OR_GZIP = 47
_LARGEST_OFFSET = 1 << 28  # extensions of a NIfTI header are small


@dataclass(frozen=True)
class Source:
    """A file as it was read: its volume in its own orientation, and what the record says of it."""

    volume: Volume
    format: str
    dtype: str
    warnings: list[str] = field(default_factory=list)


def read_source(path: Path, what: str, shape: tuple[int, ...] | None = None) -> Source:
    """Read one three-dimensional scalar file; `what` ("image" or "mask") names it in the messages.

    With `shape`, one whose axes have other lengths, in whatever order, is refused before its voxels are in memory.
    Raises CaseError if it is in another format, damaged, not three-dimensional, not scalar, or without a
    geometry.
    """
    try:
        return _read_source(path, what, shape)
    except PermissionError:
        raise CaseError(f"the {what} file may not be read", "Give its permission to the user of the run.") from None
    except OSError as error:
        # Python puts the path into the error.
        raise OSError(error.errno, f"reading the {what}: {error.strerror}") from None


def _read_source(path: Path, what: str, shape: tuple[int, ...] | None) -> Source:
    import SimpleITK as sitk

    kind = source_format(path, what)
    if any(file.parent != path.parent for file in source_files(path)):
        raise _elsewhere(what)
    if path.is_dir():
        raise CaseError(
            f"the {what} is a folder whose name ends as a {_FORMAT_NAMES[kind]} file's does",
            "Name the file in it, or give a folder of DICOM another name.",
        )
    if not all(file.is_file() for file in source_files(path)):
        raise CaseError(
            f"the {what} file, or the data file that its header names, does not exist",
            "Correct its path in the cohort sheet, or send header and data together, as one file each.",
        )
    name = _FORMAT_NAMES[kind]
    damaged = CaseError(f"the {what} can't be read as {name}: truncated or damaged", "Copy or export the file again.")
    warnings: list[str] = []
    if kind == "nifti":
        header = _check_nifti_file(path, what, damaged)
    elif kind == "nrrd":
        warnings += _check_nrrd_file(path, what, damaged)
    else:
        _check_meta_file(path, what, damaged)

    # By itself ITK refuses cosines that are off by 2e-4; `_check_nifti_file` has a limit of its own.
    os.environ["ITK_NIFTI_SFORM_PERMISSIVE"] = "1"
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with captured() as printed:
        try:
            reader.ReadImageInformation()
            _check_pixels(reader.GetDimension(), reader.GetNumberOfComponents(), reader.GetSize(), what)
            if shape is not None and sorted(reader.GetSize()) != sorted(shape):
                sizes = [" x ".join(map(str, size)) for size in (reader.GetSize(), shape[::-1])]
                raise CaseError(f"the {what} has {sizes[0]} voxels, the image {sizes[1]}")
            read = reader.Execute()
        except RuntimeError as error:
            if "orthonormal" in str(error):
                raise _skewed(what) from None
            if "Failed to allocate memory" in str(error):
                raise MemoryError from None
            raise damaged from None
    if b"failed" in printed or b"not read completely" in printed:
        raise damaged
    _check_pixels(read.GetDimension(), read.GetNumberOfComponentsPerPixel(), read.GetSize(), what)
    axes = np.array(read.GetDirection()).reshape(3, 3)
    if not np.isfinite(axes).all() or np.abs(axes.T @ axes - np.eye(3)).max() > _ORTHONORMAL:
        raise _skewed(what)
    x, y, z = read.GetSize()
    geometry = Geometry(
        (x, y, z),
        _decimals(read.GetSpacing(), kind),
        _decimals(read.GetOrigin(), kind),
        tuple((nearest_rotation(axes) + 0.0).ravel().tolist()),
    )
    if kind == "nifti":
        warnings += _compare_forms(header, geometry, what)
    return Source(Volume(sitk.GetArrayFromImage(read), geometry), kind, _type_name(read), warnings)


def source_format(path: Path, what: str) -> str:
    """The format of a volume by its name: "nifti", "nrrd" or "mha". Raises CaseError for any other."""
    kind = VOLUMES.get(suffix(path.name))
    if kind is None:
        raise CaseError(
            f"the {what} has no suffix of a format that can be read", f"Formats are told by {', '.join(VOLUMES)}."
        )
    return kind


def match_mask(mask: Volume, image: Geometry, tolerance_mm: float) -> tuple[Volume, list[int]]:
    """The mask on the image's very grid, as uint8 or uint16, and its labels in ascending order.

    The mask's axes may be permuted or flipped against the image's. Raises CaseError if a corner is further
    than `tolerance_mm` from the image's, if the values are not labels, or if all are 0.
    """
    turned = reorient(mask, image.direction)
    same_export = "Export image and mask from the same series."
    if turned.geometry.size != image.size:
        sizes = [" x ".join(map(str, size)) for size in (turned.geometry.size, image.size)]
        raise CaseError(f"the mask has {sizes[0]} voxels, the image {sizes[1]}", same_export)
    distance = corner_distance(turned.geometry, image)
    if not distance <= tolerance_mm:
        raise CaseError(
            f"the mask's grid lies up to {distance:.3g} mm from the image's, more than {tolerance_mm:g} mm",
            f"{same_export} If it is only rounding, set ingest: geometry_tolerance in the configuration.",
        )
    labels = to_labels(turned.array)
    counts = np.zeros(int(labels.max()) + 1, dtype=np.int64)
    for plane in labels:  # plane by plane, since bincount takes a copy of 8 bytes a voxel
        counts += np.bincount(plane.ravel(), minlength=counts.size)
    found = [int(label) for label in np.flatnonzero(counts) if label > 0]
    if not found:
        raise CaseError("the mask is empty", "Draw the ROI, or take the case out of the cohort sheet.")
    return Volume(labels, image), found


def to_labels(array: Array) -> Array:
    """Mask values as uint8, or uint16 where a label is above 255.

    Raises CaseError unless they are whole numbers from 0 to 65535.
    """
    advice = "Send a label mask: 0 outside, whole numbers inside."
    if array.dtype.kind == "f" and not np.array_equal(np.rint(array), array):  # NaN is not equal to itself
        raise CaseError("the mask has values that are not whole numbers", advice)
    low, high = array.min().item(), array.max().item()
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise CaseError(f"the mask has values from {low:g} to {high:g}", advice)
    return array.astype(np.uint8 if high <= np.iinfo(np.uint8).max else np.uint16, copy=False)


def _check_pixels(dimension: int, components: int, size: tuple[int, ...], what: str) -> None:
    if dimension != 3:
        raise CaseError(
            f"the {what} has {dimension} dimensions ({' x '.join(map(str, size))}), not 3",
            "Send one volume: of a 4D series the wanted time point or phase, of 2D slices the stack.",
        )
    if components != 1:
        raise CaseError(f"the {what} has {components} values a voxel, as a colour picture", "Send one value a voxel.")


def not_finite(count: int, what: str) -> CaseError:
    return CaseError(
        f"{count} voxels of the {what} are not finite numbers", "Set them to the value of air, or of outside."
    )


def _skewed(what: str) -> CaseError:
    return CaseError(
        f"the axes of the {what} are not at right angles (by more than {_ORTHONORMAL:g}), as with a gantry tilt",
        "Resample it to a rectangular grid, for example by dcm2niix, which corrects the tilt.",
    )


def _check_nifti_file(path: Path, what: str, damaged: CaseError) -> bytes:
    """Raise CaseError unless the file holds the finite voxels that its header promises; returns the header.

    ITK fills missing voxels with what it likes, never gets to the checksum at the end of a gzip stream, and
    reads NaN as 0.
    """
    with open(path, "rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        file = cast(IO[bytes], igzip.IGzipFile(fileobj=raw, mode="rb") if packed else raw)
        try:
            header = file.read(_HEADER_BYTES)
            dtype, count, offset = _promised(header, what, damaged)
            if len(file.read(offset - _HEADER_BYTES)) != offset - _HEADER_BYTES:
                raise damaged
            missing, bad = count * dtype.itemsize, 0
            while chunk := file.read(_CHUNK_BYTES):
                chunk = chunk[:missing]  # bytes after the last voxel are none of ours, but their checksum counts
                missing -= len(chunk)
                if dtype.kind == "f" and len(chunk) % dtype.itemsize == 0:
                    bad += int(np.count_nonzero(~np.isfinite(np.frombuffer(chunk, dtype))))
        except DAMAGED_GZIP:
            raise damaged from None
    if missing:
        raise damaged
    if bad:
        raise not_finite(bad, what)
    sform, _ = nifti_forms(header)
    if sform is not None:
        lengths = np.linalg.norm(sform[:3, :3], axis=0)
        axes = sform[:3, :3] / np.where(lengths > 0, lengths, 1)
        if not np.abs(axes.T @ axes - np.eye(3)).max() <= _ORTHONORMAL:
            raise _skewed(what)
    return header


def _promised(header: bytes, what: str, damaged: CaseError) -> tuple[np.dtype[Any], int, int]:
    """Type (plain bytes but for floats), number and offset of the voxels that a NIfTI-1 header speaks of."""
    if len(header) < _HEADER_BYTES:
        raise damaged
    marks: dict[Literal["little", "big"], str] = {"little": "<", "big": ">"}
    mark = next((marks[order] for order in marks if int.from_bytes(header[:4], order) == _HEADER_BYTES), None)
    if mark is None:
        raise CaseError(
            f"the {what} is no NIfTI-1 file",
            "Save it as NIfTI-1 (.nii or .nii.gz); NIfTI-2 and Analyze are not read.",
        )
    dim = np.frombuffer(header, f"{mark}i2", 8, 40).astype(np.int64)
    kind, bits = np.frombuffer(header, f"{mark}i2", 2, 70).tolist()
    pixdim = np.frombuffer(header, f"{mark}f4", 3, 80)
    offset = float(np.frombuffer(header, f"{mark}f4", 1, 108)[0])
    if not 1 <= dim[0] <= 7 or dim[1 : dim[0] + 1].min() < 1 or bits % 8 or bits < 8:
        raise damaged
    if not _HEADER_BYTES <= offset <= _LARGEST_OFFSET:
        raise damaged
    if dim[0] >= 3 and not (np.isfinite(pixdim).all() and (pixdim > 0).all()):
        raise CaseError(f"the {what}'s voxel spacing is not positive", "Correct the file's header.")
    float_types = {16: f"{mark}f4", 64: f"{mark}f8"}
    return np.dtype(float_types.get(kind, f"V{bits // 8}")), math.prod(dim[1 : dim[0] + 1].tolist()), int(offset)


def _compare_forms(header: bytes, geometry: Geometry, what: str) -> list[str]:
    """Warnings where a NIfTI header contradicts itself or says nothing of the orientation."""
    sform, qform = nifti_forms(header)
    if sform is None and qform is None:
        return [f"the {what}'s header gives no orientation: left and right are as stored"]
    if sform is None or qform is None or forms_agree(sform, qform):
        return []
    ends = np.array(geometry.size) - 1
    index = np.array([[(k >> axis & 1) * ends[axis] for axis in range(3)] + [1] for k in range(8)])
    points = {name: (index @ form.T)[:, :3] for name, form in (("sform", sform), ("qform", qform))}
    apart = float(np.linalg.norm(points["sform"] - points["qform"], axis=1).max())
    taken = geometry.to_physical(index[:, :3]) * [-1, -1, 1]
    used = min(points, key=lambda name: float(np.abs(points[name] - taken).max()))
    return [f"sform and qform of the {what} disagree by up to {apart:.3g} mm; the {used} was taken"]


def _check_nrrd_file(path: Path, what: str, damaged: CaseError) -> list[str]:
    """Raise CaseError if a NRRD file has no spacing or fails its checksum; warn if it has no orientation."""
    text, start = _text_header(path, re.compile(rb"\r?\n\r?\n"), damaged)
    lines = [line for line in text.split("\n")[1:] if line.strip() and line[:1] != "#"]
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    detached = path.suffix.lower() == ".nhdr"
    if not text.startswith("NRRD") or not all(map(_NRRD_LINE.match, lines)) or (start is None and not detached):
        raise damaged
    if fields.get("dimension", "") != str(len(fields.get("sizes", "").split())):
        raise damaged
    if not detached and fields.keys() & {"data file", "datafile"}:
        raise _elsewhere(what)
    if not fields.keys() & {"space directions", "spacings"}:
        raise CaseError(f"the {what}'s header gives no voxel spacing", "Export it with its geometry.")
    packed = {"gzip": True, "gz": True, "raw": False}.get(fields.get("encoding", "").lower())
    _check_voxels(path, start or 0, fields.get("sizes", ""), packed, damaged)
    if "space" not in fields:
        return [f"the {what}'s header gives no orientation: left and right are as stored"]
    return []


def _check_meta_file(path: Path, what: str, damaged: CaseError) -> None:
    """Raise CaseError where a MetaImage has no spacing or fails its checksum."""
    text, start = _text_header(path, re.compile(rb"^ElementDataFile\s*=[^\n]*\n?", re.MULTILINE), damaged)
    lines = [line for line in text.split("\n") if line.strip()]
    fields = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    if start is None or not all(map(_META_LINE.match, lines)):
        raise damaged
    # MetaIO writes beyond its memory where these don't agree.
    axes = len(fields.get("DimSize", "").split())
    counts = {"ElementSpacing": 1, "ElementSize": 1, "Offset": 1, "Origin": 1, "Position": 1, "CenterOfRotation": 1}
    counts |= {"TransformMatrix": axes, "Orientation": axes, "Rotation": axes}
    if fields.get("NDims", "") != str(axes) or any(
        len(fields[name].split()) != axes * count for name, count in counts.items() if name in fields
    ):
        raise damaged
    if path.suffix.lower() == ".mha" and fields["ElementDataFile"].upper() != "LOCAL":
        raise _elsewhere(what)
    if not fields.keys() & {"ElementSpacing", "ElementSize"}:
        raise CaseError(f"the {what}'s header gives no voxel spacing", "Export it with its geometry.")
    _check_voxels(path, start, fields.get("DimSize", ""), fields.get("CompressedData", "").lower() == "true", damaged)


def _elsewhere(what: str) -> CaseError:
    return CaseError(
        f"the {what} names another file, or one outside its folder, for its voxels",
        "Send header and voxels in one file, or a detached header (.mhd, .nhdr) with its data beside it.",
    )


def _text_header(path: Path, end: re.Pattern[bytes], damaged: CaseError) -> tuple[str, int | None]:
    """The text before the data of a NRRD or MetaImage file, and where the data start (None: nowhere)."""
    with open(path, "rb") as file:
        start = file.read(_CHUNK_BYTES)
    found = end.search(start)
    if not start or (found is None and b"\0" in start):
        raise damaged
    return start[: found.end() if found else None].decode("latin-1"), found.end() if found else None


def _check_voxels(path: Path, start: int, sizes: str, packed: bool | None, damaged: CaseError) -> None:
    """Raise `damaged` unless there is at least a byte for each voxel that the header speaks of.

    ITK takes the memory for all that a header claims before it looks for them, and at no checksum of packed ones.
    The voxels lie behind the header, from the byte `start`, or in a file of their own; `packed` is None where that
    isn't known.
    """
    *_, data = source_files(path)
    if data != path:
        path, start = data, 0
    try:
        voxels = math.prod(int(size) for size in sizes.split())
    except ValueError:
        raise damaged from None
    held = _unpacked_bytes(path, start, damaged) if packed else path.stat().st_size - start
    if voxels < 1 or (packed is not None and held < voxels):
        raise damaged


def _unpacked_bytes(path: Path, start: int, damaged: CaseError) -> int:
    """The number of bytes that packed voxels unpack to; raises `damaged` unless they match their checksum."""
    count = 0
    unpack = isal_zlib.decompressobj(wbits=_ZLIB_OR_GZIP)
    with open(path, "rb") as file:
        file.seek(start)
        try:
            while not unpack.eof and (chunk := file.read(_PACKED_BYTES)):
                count += len(unpack.decompress(chunk))
        except DAMAGED_GZIP:
            raise damaged from None
    if not unpack.eof:
        raise damaged
    return count


def _decimals(values: tuple[float, ...], kind: str) -> tuple[float, float, float]:
    """NIfTI holds float32: take the shortest decimal number that each stands for (0.7, not 0.699999988)."""
    x, y, z = (float(str(np.float32(value))) + 0.0 if kind == "nifti" else float(value) + 0.0 for value in values)
    return x, y, z


def _type_name(image: Any) -> str:
    words: str = image.GetPixelIDTypeAsString()
    bits = re.search(r"(\d+)-bit", words)
    if bits is None:
        return words
    base = "float" if "float" in words else ("uint" if "unsigned" in words else "int")
    return base + bits.group(1)


@contextmanager
def captured() -> Iterator[bytearray]:
    """Catch what native code prints to stdout and stderr; the bytes are there when the block has ended."""
    printed = bytearray()
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            yield printed
        finally:
            for kept, number in zip(saved, (1, 2), strict=True):
                os.dup2(kept, number)
                os.close(kept)
            file.seek(0)
            printed += file.read()
