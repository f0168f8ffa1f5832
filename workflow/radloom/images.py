"""Volumes, their geometry, and the NIfTI files in which they pass from step to step.

The geometry is kept as ITK keeps it: LPS axes (x to the patient's left, y to the back, z to the head),
millimetres, and size, spacing and origin in the order x, y, z. Arrays are (z, y, x) in C order, which is also
the order of the voxels in a NIfTI file (x fastest), so that reading and writing need no transposition.

The 348 bytes of the NIfTI-1 header are written here instead of by nibabel: every job of every image step pays
for its imports. On top of numpy (0.11 s) this module and isal cost 0.01 s, nibabel 0.08 s, SimpleITK 0.08 s.
The tests hold the files against nibabel and SimpleITK.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import igzip, isal_zlib
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import SimpleITK

Array = NDArray[Any]
Vector = tuple[float, float, float]
Box = tuple[slice, slice, slice]

IDENTITY: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
GZIP_LEVEL = 2
# isal's type stubs declare the error as an instance.
DAMAGED_GZIP: tuple[type[Exception], ...] = (EOFError, igzip.BadGzipFile, isal_zlib.error)  # type: ignore[assignment]
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 31  # zlib's way to ask for a gzip header and trailer around 32 kB of window
_HEADER_BYTES = 348
_DATA_OFFSET = 352
_UNIT_MM = 2
_SCANNER_COORDINATES = 1

# NIfTI-1 (https://nifti.nimh.nih.gov/nifti-1), in the order and with the names of nifti1.h.
_HEADER = np.dtype(
    [
        ("sizeof_hdr", "<i4"),
        ("unused_1", "V35"),
        ("dim_info", "u1"),
        ("dim", "<i2", 8),
        ("intent_p", "<f4", 3),
        ("intent_code", "<i2"),
        ("datatype", "<i2"),
        ("bitpix", "<i2"),
        ("slice_start", "<i2"),
        ("pixdim", "<f4", 8),
        ("vox_offset", "<f4"),
        ("scl_slope", "<f4"),
        ("scl_inter", "<f4"),
        ("slice_end", "<i2"),
        ("slice_code", "u1"),
        ("xyzt_units", "u1"),
        ("cal_max", "<f4"),
        ("cal_min", "<f4"),
        ("slice_duration", "<f4"),
        ("toffset", "<f4"),
        ("unused_2", "V8"),
        ("descrip", "S80"),
        ("aux_file", "S24"),
        ("qform_code", "<i2"),
        ("sform_code", "<i2"),
        ("quatern", "<f4", 3),
        ("qoffset", "<f4", 3),
        ("srow", "<f4", (3, 4)),
        ("intent_name", "S16"),
        ("magic", "S4"),
    ]
)
_TYPE_CODES = {
    "uint8": 2,
    "int16": 4,
    "int32": 8,
    "float32": 16,
    "float64": 64,
    "int8": 256,
    "uint16": 512,
    "uint32": 768,
}
_TYPES = {code: np.dtype(name).newbyteorder("<") for name, code in _TYPE_CODES.items()}
_WRITTEN_TYPES = ("uint8", "uint16", "int16", "float32")
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Geometry:
    """Where the voxels lie, as ITK has it: LPS, mm; size, spacing, origin as (x, y, z), direction by rows."""

    size: tuple[int, int, int]
    spacing: Vector
    origin: Vector
    direction: tuple[float, ...] = IDENTITY

    def __post_init__(self) -> None:
        if len(self.size) != 3 or len(self.spacing) != 3 or len(self.origin) != 3 or len(self.direction) != 9:
            raise ValueError("a geometry has 3 sizes, spacings and origin coordinates, and 9 direction cosines")

    @property
    def axes(self) -> Array:
        """3 x 3 matrix whose columns are the unit vectors of the x, y and z index axes."""
        return np.array(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the array: (z, y, x)."""
        return self.size[2], self.size[1], self.size[0]

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm3."""
        return math.prod(self.spacing)

    def to_physical(self, index: ArrayLike) -> Array:
        """Physical points (..., 3) in mm of the (fractional) indices (..., 3), both in the order x, y, z."""
        scaled = np.asarray(index, dtype=np.float64) * np.array(self.spacing)
        return np.asarray(scaled @ self.axes.T + np.array(self.origin))

    def to_index(self, point: ArrayLike) -> Array:
        """Fractional indices (..., 3) of physical points (..., 3) in mm, both in the order x, y, z."""
        offset = np.asarray(point, dtype=np.float64) - np.array(self.origin)
        return np.asarray(offset @ np.linalg.inv(self.axes).T / np.array(self.spacing))

    def centre(self) -> Array:
        """Physical point in the middle of the grid, mm."""
        return self.to_physical((np.array(self.size) - 1) / 2)

    def corners(self) -> Array:
        """Centres of the 8 corner voxels, (8, 3), mm."""
        return self.to_physical(list(itertools.product(*[(0, n - 1) for n in self.size])))


@dataclass(frozen=True)
class Volume:
    """An image or a mask: array (z, y, x) in C order, and where it lies."""

    array: Array
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(
                f"the array has the shape {self.array.shape}, its geometry {self.geometry.shape} (z, y, x)"
            )


def same_grid(first: Geometry, second: Geometry, tolerance_mm: float) -> bool:
    """Whether two grids have one size, and no corner of theirs is further apart than `tolerance_mm`."""
    return first.size == second.size and corner_distance(first, second) <= tolerance_mm


def corner_distance(first: Geometry, second: Geometry) -> float:
    """Largest distance in mm between a corner voxel of one grid and the same corner voxel of the other."""
    return float(np.linalg.norm(first.corners() - second.corners(), axis=1).max())


def reorient(volume: Volume, direction: tuple[float, ...] = IDENTITY) -> Volume:
    """Permute and flip a volume's axes to lie as near as they can to `direction` (default: LPS).

    No value is interpolated; every voxel stays at its physical point. Left-handed axes come out with the
    handedness of `direction`.
    """
    geometry = volume.geometry
    axes = geometry.axes
    cosines = np.array(direction, dtype=np.float64).reshape(3, 3).T @ axes
    # All six are tried: the largest cosine taken axis by axis could be the same axis twice at 45 degrees.
    order = max(
        itertools.permutations(range(3)),
        key=lambda p: sum(abs(cosines[new, old]) for new, old in enumerate(p)),
    )
    signs = [1.0 if cosines[new, old] >= 0 else -1.0 for new, old in enumerate(order)]
    if order == (0, 1, 2) and min(signs) > 0:
        return volume
    first_voxel = [0 if sign > 0 else geometry.size[old] - 1 for sign, old in zip(signs, order, strict=True)]
    index = np.zeros(3)
    index[list(order)] = first_voxel
    array = volume.array.transpose([2 - order[2], 2 - order[1], 2 - order[0]])
    array = array[tuple(slice(None, None, int(sign)) for sign in reversed(signs))]
    return Volume(
        np.ascontiguousarray(array),
        Geometry(
            size=(geometry.size[order[0]], geometry.size[order[1]], geometry.size[order[2]]),
            spacing=(geometry.spacing[order[0]], geometry.spacing[order[1]], geometry.spacing[order[2]]),
            origin=_vector(geometry.to_physical(index)),
            direction=tuple((axes[:, list(order)] * signs).ravel().tolist()),
        ),
    )


def bounding_box(mask: Array, margin: int = 0) -> Box | None:
    """Slices (z, y, x) around the non-zero voxels of `mask` (z, y, x), or None where it is empty.

    They are `margin` voxels wider on each side, but stay within the array.
    """
    box: list[slice] = []
    for axis in range(3):
        if axis == 0:
            hit = mask.reshape(mask.shape[0], -1).any(axis=1)
        else:  # within the slices found so far, which is less to read
            part = mask[tuple(box)]
            hit = part.any(axis=tuple(other for other in range(3) if other != axis))
        found = np.flatnonzero(hit)
        if not found.size:
            return None
        box.append(slice(max(int(found[0]) - margin, 0), min(int(found[-1]) + 1 + margin, mask.shape[axis])))
    return box[0], box[1], box[2]


def within_box(outer: Box, inner: Box) -> Box:
    """The slices `inner` of what the slices `outer` cut out, as slices of the whole."""
    z, y, x = (slice(o.start + i.start, o.start + i.stop) for o, i in zip(outer, inner, strict=True))
    return z, y, x


def widen(box: Box, margins: Iterable[int], shape: Iterable[int]) -> Box:
    """`box` with `margins` more voxels (z, y, x) on both sides, as far as an array of `shape` goes."""
    z, y, x = (
        slice(max(side.start - margin, 0), min(side.stop + margin, length))
        for side, margin, length in zip(box, margins, shape, strict=True)
    )
    return z, y, x


def crop_geometry(geometry: Geometry, box: Box) -> Geometry:
    """Geometry of the part of a grid that the slices `box` (z, y, x; start and stop given) cut out."""
    low = (box[2].start, box[1].start, box[0].start)
    size = (box[2].stop - low[0], box[1].stop - low[1], box[0].stop - low[2])
    return Geometry(size, geometry.spacing, _vector(geometry.to_physical(low)), geometry.direction)


def crop(volume: Volume, box: Box) -> Volume:
    """The part of a volume that the slices `box` (z, y, x; start and stop given) cut out, where it lies."""
    return Volume(np.ascontiguousarray(volume.array[box]), crop_geometry(volume.geometry, box))


def nearest_rotation(matrix: Array) -> Array:
    """The orthonormal 3 x 3 matrix nearest to `matrix` (polar decomposition); its handedness is kept."""
    left, _, right = np.linalg.svd(np.asarray(matrix, dtype=np.float64))
    return np.asarray(left @ right)


def write_nifti(path: Path, volume: Volume, slope: float | None = None) -> None:
    """Write a volume as gzipped NIfTI-1: sform and qform alike, no scale, no file name, no time.

    With a `slope` the values that readers see are the array's times the slope (`read_nifti` reads no such file).

    The same content gives the same bytes on the same kind of machine (the compressor picks its code by the
    CPU). Raises ValueError for a type other than uint8, uint16, int16 and float32, and for axes that are not
    orthonormal.
    """
    array = np.ascontiguousarray(volume.array)
    if array.dtype.name not in _WRITTEN_TYPES:
        raise ValueError(f"volumes are written as {', '.join(_WRITTEN_TYPES)}, not as {array.dtype.name}")
    compressor = isal_zlib.compressobj(level=GZIP_LEVEL, wbits=_GZIP_WINDOW)
    with open(path, "wb") as file:
        # The header and the four bytes which say that no extension follows.
        header = _header(volume.geometry, array.dtype)
        if slope is not None:
            header["scl_slope"] = slope
        file.write(compressor.compress(header.tobytes().ljust(_DATA_OFFSET, b"\0")))
        file.write(compressor.compress(array.reshape(-1).view(np.uint8)))
        file.write(compressor.flush())


def read_nifti(path: Path, box: Box | None = None) -> Volume:
    """Read a three-dimensional NIfTI-1 file as `write_nifti` writes it, gzipped or not; with `box`, slices (z, y, x)
    within it, only that part is held in memory.

    For the files between the steps; what the world sends is read by `radloom.volume_files`. Spacing and origin come
    back as the shortest decimal numbers that the file's float32 stand for (0.7, not 0.699999988). Raises
    ValueError, without the path in its text, for what is no such file: another format or byte order, scaled
    values, sform and qform that disagree, a file that is cut short.
    """
    with _opened(path) as (dtype, geometry, file):
        if box is None:
            array = np.empty(geometry.shape, dtype=dtype)
            _fill(array, file)
        else:
            array = np.empty(tuple(side.stop - side.start for side in box), dtype=dtype)
            plane = np.empty(geometry.shape[1:], dtype=dtype)
            for z in range(geometry.shape[0]):
                _fill(plane, file)
                if box[0].start <= z < box[0].stop:
                    array[z - box[0].start] = plane[box[1:]]
        file.read(1)  # gzip checks its sum only when the end of the file is reached
    place = geometry if box is None else crop_geometry(geometry, box)
    return Volume(array.astype(array.dtype.newbyteorder("="), copy=False), place)


def read_nifti_planes(path: Path) -> Iterator[Array]:
    """Read a file as `read_nifti` does, one plane (y, x) after the other: each is overwritten by the next."""
    with _opened(path) as (dtype, geometry, file):
        plane = np.empty(geometry.shape[1:], dtype=dtype)
        for _ in range(geometry.shape[0]):
            _fill(plane, file)
            yield plane
        file.read(1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[np.dtype[Any], Geometry, Any]]:
    """Type and grid of a NIfTI-1 file, and its bytes from the first voxel on; errors as `read_nifti` says."""
    with open(path, "rb") as raw:
        packed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        file = igzip.IGzipFile(fileobj=raw, mode="rb") if packed else raw
        try:
            header = np.frombuffer(file.read(_HEADER_BYTES).ljust(_HEADER_BYTES, b"\0"), dtype=_HEADER)[0]
            dtype, geometry = _parse(header)
            skip = int(header["vox_offset"]) - _HEADER_BYTES
            if len(file.read(skip)) != skip:
                raise EOFError
            yield dtype, geometry, file
        except DAMAGED_GZIP as error:
            raise ValueError("the NIfTI file is truncated or damaged") from error


def read_nifti_geometry(path: Path) -> Geometry:
    """Where the voxels of a NIfTI-1 file lie that `read_nifti` can read; raises ValueError as it does."""
    with _opened(path) as (_, geometry, _):
        return geometry


def _fill(array: Array, file: Any) -> None:
    buffer = array.reshape(-1).view(np.uint8)
    done = 0
    while done < len(buffer):
        count = file.readinto(buffer[done:].data)
        if not count:
            raise EOFError
        done += count


def to_sitk(volume: Volume) -> SimpleITK.Image:
    """A SimpleITK image with a copy of the volume's values, in the same place."""
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(volume.array)
    image.SetSpacing(volume.geometry.spacing)
    image.SetOrigin(volume.geometry.origin)
    image.SetDirection(volume.geometry.direction)
    return image


def from_sitk(image: SimpleITK.Image) -> Volume:
    """The volume of a scalar three-dimensional SimpleITK image, its values copied."""
    import SimpleITK as sitk

    return Volume(
        sitk.GetArrayFromImage(image),
        Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()),
    )


def nifti_forms(header: bytes) -> tuple[Array | None, Array | None]:
    """The sform and the qform of a NIfTI-1 header of any byte order, as 4 x 4 RAS matrices in mm.

    None stands for a form that isn't coded, and for both where `header` is no NIfTI-1 header.
    """
    if len(header) < _HEADER_BYTES:
        return None, None
    for order in ("<", ">"):
        fields = np.frombuffer(header[:_HEADER_BYTES], dtype=_HEADER.newbyteorder(order))[0]
        if int(fields["sizeof_hdr"]) == _HEADER_BYTES:
            break
    else:
        return None, None
    sform = qform = None
    if fields["sform_code"] > 0:
        sform = np.vstack([fields["srow"].astype(np.float64), [0, 0, 0, 1]])
    if fields["qform_code"] > 0:
        axes, spacing, offset = _quaternion_axes(fields)
        qform = np.eye(4)
        qform[:3, :3], qform[:3, 3] = axes * spacing, offset
    return sform, qform


def forms_agree(sform: Array, qform: Array) -> bool:
    """Whether sform and qform (4 x 4) say the same, within what a quaternion of float32 can hold."""
    lengths = np.linalg.norm(sform[:3, :3], axis=0), np.linalg.norm(qform[:3, :3], axis=0)
    if min(lengths[0].min(), lengths[1].min()) <= 0 or not np.allclose(*lengths, rtol=1e-3):
        return False
    cosines_agree = np.abs(sform[:3, :3] / lengths[0] - qform[:3, :3] / lengths[1]).max() <= 2e-3
    return bool(cosines_agree and np.abs(sform[:3, 3] - qform[:3, 3]).max() <= 1e-3)


def _vector(values: Array) -> Vector:
    x, y, z = np.asarray(values, dtype=np.float64).tolist()
    return x, y, z


def _header(geometry: Geometry, dtype: np.dtype[Any]) -> Array:
    if np.abs(geometry.axes.T @ geometry.axes - np.eye(3)).max() > 1e-4:
        raise ValueError("the axes of the volume are not orthonormal")
    if max(geometry.size) > np.iinfo(np.int16).max:
        raise ValueError(f"NIfTI-1 holds at most {np.iinfo(np.int16).max} voxels along an axis")
    header = np.zeros((), dtype=_HEADER)
    header["sizeof_hdr"] = _HEADER_BYTES
    header["dim"] = (3, *geometry.size, 1, 1, 1, 1)
    header["datatype"] = _TYPE_CODES[dtype.name]
    header["bitpix"] = dtype.itemsize * 8
    header["vox_offset"] = _DATA_OFFSET
    header["xyzt_units"] = _UNIT_MM
    header["qform_code"] = header["sform_code"] = _SCANNER_COORDINATES
    header["magic"] = b"n+1"
    axes = nearest_rotation(geometry.axes) * _LPS_TO_RAS[:, None]
    origin = np.array(geometry.origin) * _LPS_TO_RAS
    # A quaternion can only turn: left-handed axes have the third one reversed, and pixdim[0] = -1 says so.
    handedness = 1.0 if np.linalg.det(axes) > 0 else -1.0
    header["pixdim"] = (handedness, *geometry.spacing, 0, 0, 0, 0)
    header["quatern"] = _quaternion(axes * [1, 1, handedness])
    header["qoffset"] = origin
    header["srow"] = np.column_stack([axes * geometry.spacing, origin])
    return header


def _parse(header: Any) -> tuple[np.dtype[Any], Geometry]:
    advice = "read it with ingest.py first"
    if header["sizeof_hdr"] != _HEADER_BYTES or header["magic"] != b"n+1":
        raise ValueError(f"this is no little-endian NIfTI-1 file; {advice}")
    dim = header["dim"].tolist()
    if not (3 <= dim[0] <= 7 and min(dim[1:4]) >= 1 and all(n <= 1 for n in dim[4 : dim[0] + 1])):
        raise ValueError("the NIfTI file is not three-dimensional")
    dtype = _TYPES.get(int(header["datatype"]))
    if dtype is None:
        raise ValueError(f"NIfTI data type {int(header['datatype'])} is not a scalar type that is read here; {advice}")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if slope != 0 and math.isfinite(slope) and (slope, intercept) != (1, 0):
        raise ValueError(f"the values of the NIfTI file are stored scaled; {advice}")
    if header["vox_offset"] < _HEADER_BYTES:
        raise ValueError("the NIfTI file is truncated or damaged")
    if int(header["xyzt_units"]) & 7 not in (0, _UNIT_MM) or header["pixdim"][1:4].min() <= 0:
        raise ValueError(f"the voxel spacing of the NIfTI file is not in mm; {advice}")
    sform, qform = nifti_forms(header.tobytes())
    if qform is None or sform is None or not forms_agree(sform, qform):
        raise ValueError(f"the NIfTI file does not give its geometry by sform and qform alike; {advice}")
    # The sform: just the axes of a supine patient are half a turn in RAS, where a quaternion of float32 is
    # least exact (a degree of tilt comes back with an error of 1e-4).
    spacing = header["pixdim"][1:4].astype(np.float64)
    axes = nearest_rotation(sform[:3, :3] / spacing)
    geometry = Geometry(
        size=(dim[1], dim[2], dim[3]),
        spacing=_shortest(spacing),
        origin=_shortest(sform[:3, 3] * _LPS_TO_RAS),
        direction=tuple((axes * _LPS_TO_RAS[:, None] + 0.0).ravel().tolist()),
    )
    return dtype, geometry


def _shortest(values: Array) -> Vector:
    """Float32 values as the float64 of their shortest decimal form; + 0.0 makes -0.0 plain."""
    x, y, z = (float(str(np.float32(value))) + 0.0 for value in values)
    return x, y, z


def _quaternion(rotation: Array) -> Array:
    """(b, c, d) of the unit quaternion of a rotation matrix, with a >= 0 (Bar-Itzhack's eigenvector)."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] + r[1, 1] + r[2, 2], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 0] - r[1, 1] - r[2, 2], r[0, 1] + r[1, 0], r[0, 2] + r[2, 0]],
            [r[0, 2] - r[2, 0], r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], r[1, 2] + r[2, 1]],
            [r[1, 0] - r[0, 1], r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1]],
        ]
    )
    a, *bcd = np.linalg.eigh(k / 3)[1][:, -1]
    # a >= 0 is the convention; where a is 0 up to rounding, the first part that isn't is made positive.
    leading = next(part for part in (a, *bcd) if abs(part) > 1e-9)
    return np.array(bcd) * math.copysign(1.0, leading) + 0.0


def _quaternion_axes(header: Any) -> tuple[Array, Array, Array]:
    """Axes (3 x 3, RAS), spacing and offset of a header's qform, in float64."""
    b, c, d = header["quatern"].astype(np.float64)
    square = b * b + c * c + d * d
    if square > 1 - 1e-7:
        # As nifti1_io.c: here `a` is lost in the rounding of b, c and d.
        norm = math.sqrt(square)
        a, b, c, d = 0.0, b / norm, c / norm, d / norm
    else:
        a = math.sqrt(1 - square)
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    if header["pixdim"][0] < 0:
        axes[:, 2] *= -1
    return axes, header["pixdim"][1:4].astype(np.float64), header["qoffset"].astype(np.float64)
