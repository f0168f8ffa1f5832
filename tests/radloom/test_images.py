"""Volumes and their NIfTI files, held against nibabel and SimpleITK."""

import gzip
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from radloom.images import (
    Geometry,
    Volume,
    bounding_box,
    corner_distance,
    crop,
    forms_agree,
    from_sitk,
    nearest_rotation,
    nifti_forms,
    read_nifti,
    read_nifti_geometry,
    reorient,
    same_grid,
    to_sitk,
    write_nifti,
)

LPS_TO_RAS = np.array([-1, -1, 1])
# Float32 in the header: a cosine is off by up to 6e-8, and a corner of these volumes is a few hundred mm away.
FLOAT32_MM = 1e-4


@st.composite
def directions(draw: st.DrawFn) -> tuple[float, ...]:
    """Orthonormal axes: turned by any angle (also by half a turn and nearly so), permuted, left-handed."""
    angle = draw(st.sampled_from([0.0, 1e-5, 1e-3, 0.3, np.pi / 2, np.pi - 1e-4, np.pi]) | st.floats(0, np.pi))
    axis = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: np.linalg.norm(v) > 0.1)))
    axes = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    axes = axes[:, draw(st.permutations(range(3)))] * draw(st.sampled_from([1, -1]))
    return tuple(axes.ravel().tolist())


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Any grid of 2 to 7 voxels along an axis."""
    size = draw(st.tuples(*[st.integers(2, 7)] * 3))
    spacing = draw(st.tuples(*[st.floats(0.2, 8)] * 3))
    origin = draw(st.tuples(*[st.floats(-900, 900)] * 3))
    return Geometry(size, spacing, origin, draw(directions()))


def numbered(geometry: Geometry, dtype: str = "int16") -> Volume:
    """A volume whose values tell the voxels apart."""
    return Volume(np.arange(np.prod(geometry.size)).reshape(geometry.shape).astype(dtype), geometry)


def nib_corners(affine: NDArray[np.float64], size: tuple[int, ...]) -> NDArray[np.float64]:
    """The corners in LPS, in the order of `Geometry.corners`."""
    index = np.array(list(itertools.product(*[(0, n - 1) for n in size])))
    return nib.affines.apply_affine(affine, index) * LPS_TO_RAS


@settings(max_examples=150, deadline=None)
@given(geometries(), st.sampled_from(["uint8", "uint16", "int16", "float32"]))
def test_files_open_alike_here_in_nibabel_and_in_simpleitk(
    tmp_path_factory: pytest.TempPathFactory, geometry: Geometry, dtype: str
) -> None:
    volume = numbered(geometry, dtype)
    path = tmp_path_factory.mktemp("images") / "volume.nii.gz"
    write_nifti(path, volume)
    read = read_nifti(path)
    assert read.array.dtype == volume.array.dtype
    assert read.array.flags.c_contiguous
    np.testing.assert_array_equal(read.array, volume.array)
    assert corner_distance(read.geometry, geometry) < FLOAT32_MM

    seen = nib.load(path)
    assert seen.get_data_dtype() == np.dtype(dtype)
    np.testing.assert_array_equal(np.asarray(seen.dataobj).T, volume.array)
    assert np.abs(nib_corners(seen.affine, geometry.size) - geometry.corners()).max() < FLOAT32_MM
    sform, qform = seen.get_sform(), seen.get_qform()
    assert (int(seen.header["sform_code"]), int(seen.header["qform_code"])) == (1, 1)
    assert forms_agree(sform, qform)

    image = sitk.ReadImage(str(path))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
    assert corner_distance(from_sitk(image).geometry, geometry) < FLOAT32_MM


@settings(max_examples=60, deadline=None)
@given(geometries(), st.sampled_from(["sform", "qform"]))
def test_readers_that_know_one_form_alone_see_the_same_place(
    tmp_path_factory: pytest.TempPathFactory, geometry: Geometry, kept: str
) -> None:
    """With the other form struck out of the header. A quaternion of float32 leaves cosines off by 2e-3 at worst."""
    folder = tmp_path_factory.mktemp("images")
    write_nifti(folder / "both.nii.gz", numbered(geometry))
    content = bytearray(gzip.decompress((folder / "both.nii.gz").read_bytes()))
    code = {"sform": 252, "qform": 254}[kept]  # the other one's code: qform_code at 252, sform_code at 254
    content[code : code + 2] = b"\0\0"
    path = folder / f"{kept}.nii"
    path.write_bytes(content)
    extent = float(np.linalg.norm(np.array(geometry.size) * geometry.spacing))
    allowed = FLOAT32_MM if kept == "sform" else 2e-3 * extent + FLOAT32_MM
    seen = nib.load(path)
    form = seen.get_sform() if kept == "sform" else seen.get_qform()
    assert np.abs(nib_corners(form, geometry.size) - geometry.corners()).max() < allowed
    assert np.abs(nib_corners(seen.affine, geometry.size) - geometry.corners()).max() < allowed
    assert corner_distance(from_sitk(sitk.ReadImage(str(path))).geometry, geometry) < allowed


def test_a_file_has_the_orientation_of_dcm2niix(tmp_path: Path, shared_data: Path) -> None:
    """The same DICOM series by ITK and our writer, and by dcm2niix, which flips rows: one image in nibabel's axes."""
    program = shutil.which("dcm2niix")
    if program is None:
        pytest.skip("dcm2niix is not installed")
    series = shared_data / "segmentation" / "liver_ct_dicom"
    command = [program, "-z", "n", "-f", "theirs", "-o", str(tmp_path), str(series)]
    subprocess.run(command, check=True, capture_output=True)
    theirs = nib.as_closest_canonical(nib.load(tmp_path / "theirs.nii"))
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(series))
    image = from_sitk(sitk.ReadImage(names))
    write_nifti(tmp_path / "ours.nii.gz", Volume(image.array.astype(np.int16), image.geometry))
    ours = nib.as_closest_canonical(nib.load(tmp_path / "ours.nii.gz"))
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))


@settings(max_examples=50, deadline=None)
@given(geometries())
def test_reading_and_writing_again_changes_nothing_more(
    tmp_path_factory: pytest.TempPathFactory, geometry: Geometry
) -> None:
    folder = tmp_path_factory.mktemp("images")
    write_nifti(folder / "a.nii.gz", numbered(geometry))
    first = read_nifti(folder / "a.nii.gz")
    write_nifti(folder / "b.nii.gz", first)
    second = read_nifti(folder / "b.nii.gz")
    assert second.geometry.spacing == first.geometry.spacing
    assert second.geometry.origin == first.geometry.origin
    assert corner_distance(first.geometry, second.geometry) < 1e-5


def test_same_content_same_bytes(tmp_path: Path) -> None:
    volume = numbered(Geometry((4, 5, 6), (0.7, 0.7, 3.0), (-10.0, 20.0, 5.5)))
    write_nifti(tmp_path / "a.nii.gz", volume)
    write_nifti(tmp_path / "other_name.nii.gz", volume)
    packed = (tmp_path / "a.nii.gz").read_bytes()
    assert packed == (tmp_path / "other_name.nii.gz").read_bytes()
    assert packed[4:8] == bytes(4), "no time in the gzip header"
    assert packed[3] == 0, "no file name in the gzip header"
    (tmp_path / "plain.nii").write_bytes(gzip.decompress(packed))
    np.testing.assert_array_equal(read_nifti(tmp_path / "plain.nii").array, volume.array)


def test_decimal_spacing_comes_back_as_written(tmp_path: Path) -> None:
    geometry = Geometry((4, 5, 6), (0.7, 0.9765625, 3.27), (-123.4, 56.7, 0.1))
    write_nifti(tmp_path / "a.nii.gz", numbered(geometry))
    assert read_nifti(tmp_path / "a.nii.gz").geometry == geometry


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
def test_a_part_of_a_file_is_what_a_crop_of_the_whole_is(tmp_path: Path, name: str) -> None:
    array = np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8)
    volume = Volume(array, Geometry((8, 7, 6), (0.7, 1.1, 2.5), (-3.0, 4.0, 5.5)))
    write_nifti(tmp_path / "v.nii.gz", volume)
    content = (tmp_path / "v.nii.gz").read_bytes()
    (tmp_path / "v.nii").write_bytes(gzip.decompress(content))
    assert read_nifti_geometry(tmp_path / name) == volume.geometry
    box = (slice(2, 4), slice(0, 7), slice(3, 8))
    part, expected = read_nifti(tmp_path / name, box), crop(volume, box)
    assert part.geometry == expected.geometry
    assert np.array_equal(part.array, expected.array)
    # What lies behind the box is read too, or damage there would go unnoticed.
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(ValueError, match="truncated"):
        read_nifti(tmp_path / name, box)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    geometry = Geometry((4, 5, 6), (1, 1, 1), (0, 0, 0))
    with pytest.raises(ValueError, match="not as int64"):
        write_nifti(tmp_path / "a.nii.gz", numbered(geometry, "int64"))
    sheared = Geometry((4, 5, 6), (1, 1, 1), (0, 0, 0), (1, 0.1, 0, 0, 1, 0, 0, 0, 1))
    with pytest.raises(ValueError, match="orthonormal"):
        write_nifti(tmp_path / "a.nii.gz", numbered(sheared))
    with pytest.raises(ValueError, match="shape"):
        Volume(np.zeros((4, 5, 6)), geometry)


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.nii.gz"
    write_nifti(good, numbered(Geometry((20, 20, 20), (1, 1, 1), (0, 0, 0))))
    packed = good.read_bytes()
    bad = tmp_path / "patient_name.nii.gz"

    def refused(content: bytes, reason: str) -> None:
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=reason) as caught:
            read_nifti(bad)
        assert "patient" not in str(caught.value)

    refused(packed[: len(packed) // 2], "truncated or damaged")
    refused(packed[:-8] + b"\0\0\0\0" + packed[-4:], "truncated or damaged")
    plain = gzip.decompress(packed)
    refused(plain[:3000], "truncated or damaged")
    refused(plain[:100], "no little-endian NIfTI-1")
    refused(b"not an image", "no little-endian NIfTI-1")

    array = np.zeros((5, 6, 7, 2), np.int16)
    for shape, change, reason in [
        (array, lambda _: None, "not three-dimensional"),
        (array[..., 0], lambda h: h.set_slope_inter(2, -1024), "scaled"),
        (array[..., 0], lambda h: h.set_sform(np.diag([1, 1, 1, 1]), 0), "sform and qform"),
        (array[..., 0], lambda h: h.set_qform(np.diag([2, 1, 1, 1]), 1), "sform and qform"),
        (array[..., 0], lambda h: h.set_xyzt_units("meter"), "not in mm"),
        (array[..., 0].astype(complex), lambda _: None, "data type"),
    ]:
        image = nib.Nifti1Image(shape, np.eye(4))
        image.header.set_qform(np.eye(4), 1)
        image.header.set_sform(np.eye(4), 1)
        change(image.header)
        image.to_filename(tmp_path / "foreign.nii")
        refused((tmp_path / "foreign.nii").read_bytes(), reason)


@settings(max_examples=100, deadline=None)
@given(geometries(), directions())
def test_reorienting_moves_no_voxel(geometry: Geometry, wanted: tuple[float, ...]) -> None:
    volume = numbered(geometry)
    for target in (None, wanted):
        turned = reorient(volume) if target is None else reorient(volume, target)
        index = np.array(list(np.ndindex(*turned.array.shape)))
        points = turned.geometry.to_physical(index[:, ::-1])
        before = np.rint(geometry.to_index(points)).astype(int)
        np.testing.assert_allclose(geometry.to_physical(before), points, atol=1e-6)
        np.testing.assert_array_equal(volume.array[tuple(before[:, ::-1].T)], turned.array.ravel())
        assert turned.array.flags.c_contiguous
    lps = reorient(volume).geometry.axes
    assert np.linalg.det(lps) == pytest.approx(1)
    assert lps.diagonal().min() >= -1e-9


def test_reorienting_gives_simpleitk_s_lps() -> None:
    geometry = Geometry((4, 5, 6), (1, 2, 3), (10, 20, 30), (0, 0, 1, -1, 0, 0, 0, 1, 0))
    volume = numbered(geometry)
    expected = from_sitk(sitk.DICOMOrient(to_sitk(volume), "LPS"))
    turned = reorient(volume)
    np.testing.assert_array_equal(turned.array, expected.array)
    assert same_grid(turned.geometry, expected.geometry, 1e-9)


def test_points_agree_with_simpleitk() -> None:
    axes = Rotation.from_euler("xyz", [20, -35, 70], degrees=True).as_matrix()
    geometry = Geometry((4, 5, 6), (0.7, 1.3, 2.9), (-5, 17, 400), tuple(axes.ravel()))
    image = to_sitk(numbered(geometry))
    for index in [(0, 0, 0), (1.5, 2.25, -1), (3, 4, 5)]:
        expected = image.TransformContinuousIndexToPhysicalPoint(index)
        np.testing.assert_allclose(geometry.to_physical(index), expected, atol=1e-9)
        np.testing.assert_allclose(geometry.to_index(expected), index, atol=1e-9)
    np.testing.assert_allclose(geometry.centre(), geometry.corners().mean(axis=0), atol=1e-9)
    assert from_sitk(image).geometry.spacing == geometry.spacing


def test_boxes_and_crops() -> None:
    geometry = Geometry((9, 8, 7), (1, 2, 3), (-4, 5, 6), (0, -1, 0, 1, 0, 0, 0, 0, 1))
    mask = np.zeros(geometry.shape, np.uint8)
    assert bounding_box(mask) is None
    mask[2, 3, 4] = mask[5, 3, 1] = 1
    assert bounding_box(mask) == (slice(2, 6), slice(3, 4), slice(1, 5))
    box = bounding_box(mask, margin=2)
    assert box == (slice(0, 7), slice(1, 6), slice(0, 7))
    assert box is not None
    part = crop(numbered(geometry), box)
    assert part.geometry.size == (7, 5, 7)
    index = np.array([2, 3, 4])
    np.testing.assert_allclose(part.geometry.to_physical(index), geometry.to_physical(index + np.array([0, 1, 0])))
    assert part.array[4, 3, 2] == numbered(geometry).array[4, 4, 2]


def test_nearest_rotation_keeps_the_hand() -> None:
    axes = np.diag([1.0, 1.0, -1.0])
    found = nearest_rotation(axes + 1e-4)
    np.testing.assert_allclose(found.T @ found, np.eye(3), atol=1e-12)
    assert np.linalg.det(found) == pytest.approx(-1)


def test_forms_of_a_header() -> None:
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([2, 3, 4, 1]))
    image.header.set_qform(np.diag([2, 3, 4, 1]), 0)
    sform, qform = nifti_forms(image.header.binaryblock)
    assert qform is None
    np.testing.assert_array_equal(sform, np.diag([2, 3, 4, 1]))
    sform, _ = nifti_forms(image.header.as_byteswapped(">").binaryblock)
    np.testing.assert_array_equal(sform, np.diag([2, 3, 4, 1]))
    assert nifti_forms(b"no header") == (None, None)
    assert nifti_forms(bytes(400)) == (None, None)


def test_importing_loads_no_imaging_library() -> None:
    code = "import sys, radloom.images; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"SimpleITK", "nibabel", "scipy", "pandas", "torch"} & set(loaded)


def test_a_slope_is_what_readers_multiply_by_and_the_next_step_refuses(tmp_path: Path) -> None:
    volume = Volume(np.arange(24, dtype=np.uint16).reshape(2, 3, 4), Geometry((4, 3, 2), (1.0, 1.0, 2.0), (0, 0, 0)))
    write_nifti(tmp_path / "v.nii.gz", volume, slope=0.25)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "v.nii.gz").dataobj).T, 0.25 * volume.array)
    with pytest.raises(ValueError, match="stored scaled"):
        read_nifti(tmp_path / "v.nii.gz")
