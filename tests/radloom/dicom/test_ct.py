"""Series to HU volumes: what is exact, what is refused and why, and that no message names the patient."""

import itertools
import shutil
import struct
import subprocess
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import ct_datasets, enhanced_dataset, phantom, set_fields, write_datasets, write_file, write_series
from dicom_masks import complete
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from scipy.spatial.transform import Rotation

from radloom.dicom.ct import CtSeries, CtSettings, check_headers, read_ct
from radloom.dicom.series import choose_series, find_series
from radloom.errors import CaseError
from radloom.images import to_sitk

DATA = Path(__file__).parents[4] / "shared/data"
REAL = ["sts/dicom/STS_003/ct", "sts/dicom/STS_019/ct", "sts/dicom/STS_025/ct", "segmentation/liver_ct_dicom",
        "dicom_edge/jpeg2000_20_slices"]  # fmt: skip
TILTED = DATA / "dicom_edge/variable_tilt_and_gaps"
SECRETS = ("DOE", "4711", "1.2.826")
AIR = -1024
HU = phantom()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the reference data are not here")


def read(folder: Path, **given: Any) -> CtSeries:
    """Read the only series in a folder."""
    found = read_ct(choose_series(find_series(sorted(folder.rglob("*.*")))), CtSettings(**given))
    for warning in found.warnings:
        assert not any(secret in warning for secret in SECRETS)
    return found


def refused(folder: Path, **given: Any) -> str:
    """The message with which a series is refused: with a way out, and without a word of the patient's."""
    with pytest.raises(CaseError) as caught:
        read(folder, **given)
    message = str(caught.value)
    assert caught.value.advice
    assert caught.value.__cause__ is None
    assert not any(secret in message for secret in (*SECRETS, str(folder)))
    return message


def with_itk(folder: Path) -> sitk.Image:
    """The series as ITK reads it."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


# What is read, and exactly


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_series_are_those_of_itk(name: str) -> None:
    """Every voxel of a real series but the declared padding, and its grid to 1e-4 mm."""
    found, itk = read(DATA / name) if "jpeg2000" not in name else read_any(DATA / name), with_itk(DATA / name)
    expected = sitk.GetArrayFromImage(itk)
    if found.valid is not None:
        assert (expected[~found.valid] == -3024).all()
        assert (found.volume.array[~found.valid] == AIR).all()
        expected[~found.valid] = AIR
    np.testing.assert_array_equal(found.volume.array, expected)
    geometry = found.volume.geometry
    assert geometry.size == itk.GetSize()
    corner = np.array(itk.GetSize()) - 1
    for index in (np.zeros(3), corner):
        there = itk.TransformIndexToPhysicalPoint([int(value) for value in index])
        np.testing.assert_allclose(geometry.to_physical(index), there, rtol=0, atol=1e-4)
    np.testing.assert_allclose(geometry.direction, itk.GetDirection(), rtol=0, atol=1e-6)
    assert found.volume.array.dtype == np.int16


def read_any(folder: Path) -> CtSeries:
    """Read a folder whose files have no suffix."""
    return read_ct(choose_series(find_series(sorted(folder.iterdir()))))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(4)), turn=st.tuples(*[st.floats(-180, 180)] * 3), seed=st.integers(0, 5))
def test_any_order_and_orientation_keep_every_voxel_in_its_place(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], turn: tuple[float, float, float], seed: int
) -> None:
    """Voxel k of slice i, wherever the file lies in the folder, keeps value and world position (1e-4 mm: 16 digits)."""
    folder = tmp_path_factory.mktemp("series")
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    hu = phantom((4, 5, 6), seed)
    write_series(folder, hu, direction=axes.ravel(), names=[f"{order[k]}.dcm" for k in range(4)],
                 change=lambda k, ds: set_fields(ds, {"InstanceNumber": order[k]}))  # fmt: skip
    found = read(folder)
    geometry = found.volume.geometry
    for z, y, x in itertools.product((0, 3), (0, 4), (0, 5)):
        expected = axes @ (np.array([x, y, z]) * (0.8, 0.9, 2.5)) + (-50, 30, 700)
        index = geometry.to_index(expected)
        np.testing.assert_allclose(index, np.rint(index), atol=1e-4)
        i, j, k = np.rint(index).astype(int)
        assert found.volume.array[k, j, i] == hu[z, y, x]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize(("slope", "intercept"), [(1, -1024), (2, -1000), (-1, 1500)])
def test_bits_signs_and_whole_rescales_give_exact_int16(
    tmp_path: Path, signed: bool, bits: int, slope: int, intercept: int
) -> None:
    low = -(1 << (bits - 1)) if signed else 0
    stored = np.clip(np.arange(low, low + 4 * 40 * 30).reshape(4, 40, 30), low, low + (1 << bits) - 1)
    hu = np.clip(stored * slope + intercept, -32768, 32767)
    write_series(tmp_path, hu, slope=slope, intercept=intercept, signed=signed, bits_stored=bits)
    expected = np.rint((hu - intercept) / slope).astype(int) * slope + intercept
    found = read(tmp_path).volume.array
    assert found.dtype == np.int16
    np.testing.assert_array_equal(found, expected)


def test_slices_of_8_bits(tmp_path: Path) -> None:
    """17 x 21 pixels are an odd number of bytes, which one more makes even."""
    stored = np.arange(3 * 17 * 21).reshape(3, 17, 21) % 256
    write_series(tmp_path, stored * 16 - 1024, slope=16, bits_stored=8, signed=False,
                 change=lambda _, ds: set_fields(ds, {"PixelData": ds.PixelData + b"\0"}))  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path).volume.array, stored * 16 - 1024)


def test_slices_of_32_bits(tmp_path: Path) -> None:
    def widen(_: int, ds: Dataset) -> None:
        ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype("<i4").tobytes()
        set_fields(ds, {"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31})

    write_series(tmp_path, HU, change=widen)
    np.testing.assert_array_equal(read(tmp_path).volume.array, HU)


def test_a_fractional_slope_gives_the_float32_nearest_to_each_value(tmp_path: Path) -> None:
    write_series(tmp_path, HU, slope=0.5371, intercept=-1000.25)
    found = read(tmp_path).volume.array
    stored = np.rint((HU + 1000.25) / 0.5371)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (stored * 0.5371 - 1000.25).astype(np.float32))


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    datasets = [ct_datasets(HU, slope=1 + k % 2, intercept=-1000 - 24 * k)[k] for k in range(len(HU))]
    for ds in datasets:
        set_fields(ds, {key: datasets[0][key].value for key in ("SeriesInstanceUID", "FrameOfReferenceUID")})
    write_datasets(tmp_path, datasets)
    expected = [np.rint((plane + 1000.0 + 24 * k) / (1 + k % 2)) * (1 + k % 2) - 1000 - 24 * k
                for k, plane in enumerate(HU)]  # fmt: skip
    np.testing.assert_array_equal(read(tmp_path).volume.array, expected)


def test_old_overlays_in_the_unused_bits_are_dropped(tmp_path: Path) -> None:
    def draw(_: int, ds: Dataset) -> None:
        words = np.frombuffer(ds.PixelData, "<u2").copy()
        words[::7] |= 0xF000
        ds.PixelData = words.tobytes()

    write_series(tmp_path, HU, bits_stored=12, signed=False, change=draw)
    np.testing.assert_array_equal(read(tmp_path).volume.array, HU)


def test_the_result_tells_images_and_frame_of_reference(tmp_path: Path) -> None:
    datasets = ct_datasets(HU)
    write_datasets(tmp_path, datasets[::-1])
    found = read(tmp_path)
    assert found.sop_uids == tuple(ds.SOPInstanceUID for ds in datasets)
    assert found.frame_of_reference == datasets[0].FrameOfReferenceUID
    assert (found.facts["slices"], found.warnings) == (6, [])
    assert (found.acquisition["kernel"], found.acquisition["kvp"]) == ("B30f", 120)
    assert found.acquisition["transfer_syntax"] == "explicit little endian"


# Padding


def padded(value: int, where: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """HU with a value outside of a circle, and where that is."""
    hu = phantom((3, 36, 36))
    y, x = np.mgrid[:36, :36] - 17.5
    outside = np.broadcast_to(x**2 + y**2 > 16**2, hu.shape) if where is None else where
    return np.where(outside, value, hu), outside


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("marked_as", ["signed", "unsigned"])
@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"])
def test_declared_padding_is_air_and_not_valid(tmp_path: Path, signed: bool, marked_as: str, syntax: str) -> None:
    """The value is that of the stored bits, however its own element is marked."""
    stored = -2000 if signed else 63536
    hu, outside = padded(stored - 1024)
    datasets = ct_datasets(hu.astype(np.int32), signed=signed)
    for ds in datasets:
        vr, value = ("SS", -2000) if marked_as == "signed" else ("US", 63536)
        ds.add_new("PixelPaddingValue", vr, value)
    write_datasets(tmp_path, datasets, syntax=syntax)
    found = read(tmp_path)
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, ~outside)
    np.testing.assert_array_equal(found.volume.array, np.where(outside, AIR, hu))
    assert found.volume.array.dtype == np.int16
    assert found.warnings == [f"{outside.sum()} voxels of declared padding ({stored - 1024} HU) were set to -1024 HU"]


def test_a_range_of_padding(tmp_path: Path) -> None:
    hu, outside = padded(-3000)
    hu[outside] -= np.arange(outside.sum()) % 20
    write_series(tmp_path, hu, PixelPaddingValue=-1976, PixelPaddingRangeLimit=-1995)
    found = read(tmp_path)
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, ~outside)


def test_padding_beyond_the_stored_bits(tmp_path: Path) -> None:
    """63536 in 12 bits would be 2096, as bright as bone."""
    hu, outside = padded(0)

    def pad(k: int, ds: Dataset) -> None:
        words = np.frombuffer(ds.PixelData, "<u2").copy()
        words[outside[k].ravel()] = 63536
        ds.PixelData = words.tobytes()
        ds.add_new("PixelPaddingValue", "US", 63536)

    write_series(tmp_path, hu, bits_stored=12, signed=False, change=pad)
    found = read(tmp_path)
    assert found.valid is not None
    np.testing.assert_array_equal(found.valid, ~outside)
    np.testing.assert_array_equal(found.volume.array, np.where(outside, AIR, hu))


def test_a_padding_value_that_tissue_has_counts_only_where_it_fills_areas(tmp_path: Path) -> None:
    """0 stored is 0 HU here: water in the body, or what is around the field of view."""
    scattered, _ = padded(0, where=np.random.default_rng(1).random((3, 36, 36)) < 0.1)
    write_series(tmp_path / "water", scattered, intercept=0, PixelPaddingValue=0)
    found = read(tmp_path / "water")
    np.testing.assert_array_equal(found.volume.array, scattered)
    assert found.valid is None or found.valid.all()
    assert "taken as measured" in found.warnings[0]
    around, outside = padded(0)
    write_series(tmp_path / "around", around, intercept=0, PixelPaddingValue=0)
    found = read(tmp_path / "around")
    assert (found.volume.array[outside] == AIR).all()


def test_a_declared_value_that_no_voxel_has_changes_nothing(tmp_path: Path) -> None:
    write_series(tmp_path, HU, PixelPaddingValue=-3000)
    found = read(tmp_path)
    assert (found.valid, found.warnings) == (None, [])


# Duplicates, phases, gaps, uneven slices


def test_the_same_slice_twice_counts_once(tmp_path: Path) -> None:
    datasets = ct_datasets(HU)
    write_datasets(tmp_path, [*datasets, datasets[2], datasets[5]])
    found = read(tmp_path)
    np.testing.assert_array_equal(found.volume.array, HU)
    assert found.warnings == ["2 slices are there more than once, with the same values: one of each was taken"]
    assert found.facts["duplicate_slices"] == 2


def test_two_phases_in_one_series_are_refused_and_listed(tmp_path: Path) -> None:
    one = ct_datasets(HU, AcquisitionNumber=4)
    two = ct_datasets(HU + 1, AcquisitionNumber=5)
    for ds in two:
        set_fields(ds, {key: one[0][key].value for key in ("SeriesInstanceUID", "FrameOfReferenceUID")})
    write_datasets(tmp_path, [*one, *two])
    message = refused(tmp_path)
    assert "different images lie at the same place, 12 at 6 places" in message
    assert "acquisition 4 (6 slices), acquisition 5 (6 slices)" in message


def test_a_free_text_in_place_of_a_number_is_not_told(tmp_path: Path) -> None:
    datasets = ct_datasets(np.concatenate([HU[:2], HU[1:2] + 1]), positions=[(0, 0, 0), (0, 0, 3), (0, 0, 3)])
    datasets[2].add_new("ConvolutionKernel", "SH", "B30f")
    for ds, value in zip(datasets, ("1", "2", "3"), strict=True):
        ds.add_new("TriggerTime", "DS", value)
    write_datasets(tmp_path, datasets)
    assert "trigger time 2 (1 slices)" in refused(tmp_path)


def missing(gone: set[int], count: int = 9) -> list[Dataset]:
    """A series of slices that grow brighter by 30 HU each, without some of them."""
    hu = np.broadcast_to(np.arange(count)[:, None, None] * 30 - 1000, (count, 10, 10)) + phantom((1, 10, 10)) // 10
    return [ds for k, ds in enumerate(ct_datasets(hu)) if k not in gone]


def test_missing_slices_are_refused_unless_the_gap_may_be_interpolated(tmp_path: Path) -> None:
    write_datasets(tmp_path, missing({3, 4, 6}))
    assert "3 slices are missing at 2 places, up to 2 in a row (slice spacing 2.5 mm)" in refused(tmp_path)
    assert "3 slices are missing" in refused(tmp_path, allow_gap=1)
    found = read(tmp_path, allow_gap=2)
    np.testing.assert_array_equal(np.diff(found.volume.array.astype(int), axis=0), 30)
    assert found.warnings == ["3 missing slices were interpolated between their neighbours"]
    assert found.facts["interpolated_slices"] == [3, 4, 6]
    assert [k for k, uid in enumerate(found.sop_uids) if not uid] == [3, 4, 6]


def test_interpolated_slices_are_valid_where_both_neighbours_are(tmp_path: Path) -> None:
    """Also against padding that shows by its value alone."""
    datasets = missing({2}, 4)
    hu = np.frombuffer(datasets[1].PixelData, "<i2").reshape(10, 10).copy()
    hu[:3] = -2000
    datasets[1].PixelData = hu.tobytes()
    write_datasets(tmp_path, datasets)
    found = read(tmp_path, allow_gap=1)
    assert found.valid is not None
    expected = np.ones((4, 10, 10), bool)
    expected[1:3, :3] = False
    np.testing.assert_array_equal(found.valid, expected)
    assert (found.volume.array[~expected] == AIR).all()


def test_uneven_slices_are_refused_with_their_steps(tmp_path: Path) -> None:
    places = [0, 4, 8, 12, 13, 20, 27]
    write_series(tmp_path, phantom((7, 10, 10)), positions=[(0, 0, z) for z in places])
    assert "spaced unevenly: steps 3 of 4 mm, 2 of 7 mm, 1 of 1 mm" in refused(tmp_path)


@pytest.mark.parametrize("step", [0.625, 0.7, 1.25])
def test_positions_rounded_to_a_tenth_are_even(tmp_path: Path, step: float) -> None:
    places = [(0, 0, round(k * step, 1)) for k in range(41)]
    write_series(tmp_path, phantom((41, 8, 8)), positions=places)
    found = read(tmp_path, allow_gap=0)
    assert found.volume.geometry.spacing[2] == pytest.approx(step, abs=0.0013)
    assert 0 <= found.facts["position_error_mm"] <= 0.051


def test_slices_that_do_not_touch_are_told(tmp_path: Path) -> None:
    write_series(tmp_path, HU, spacing=(1, 1, 10), SliceThickness="5")
    assert read(tmp_path).warnings == ["slices of 5 mm lie 10 mm apart: nothing was measured between them"]


@pytest.mark.parametrize("name", ["AcquisitionNumber", "TemporalPositionIdentifier"])
def test_alternating_acquisitions_are_told(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, HU, change=lambda k, ds: set_fields(ds, {name: k % 2}))
    assert "interleaved" in read(tmp_path).warnings[0]


def test_a_series_of_which_every_other_slice_is_missing_is_told(tmp_path: Path) -> None:
    """What is left is even; without the thickness, too, only the numbers tell."""
    write_series(tmp_path, HU, SliceThickness=None, change=lambda k, ds: set_fields(ds, {"InstanceNumber": 40 - 2 * k}))
    assert read(tmp_path).warnings == [
        "instance numbers count in steps of 2 or more, as if slices in between were missing"
    ]


def test_image_types_that_differ_are_told(tmp_path: Path) -> None:
    write_series(tmp_path, HU, change=lambda k, ds: set_fields(ds, {"ImageType": ["DERIVED"]} if k == 2 else {}))
    assert read(tmp_path).warnings == ["the slices have 2 different image types, as if reconstructions were mixed"]


# Tilt


@pytest.mark.parametrize(("told", "shown"), [("15", True), ("345", True), ("0.5", False), ("360", False)])
def test_a_tilt_that_only_the_header_names_is_told(tmp_path: Path, told: str, shown: bool) -> None:
    write_series(tmp_path, HU, GantryDetectorTilt=told)
    assert any("a gantry tilt of 15 degrees, which neither" in warning for warning in read(tmp_path).warnings) == shown


def test_a_tilt_that_header_and_positions_name_needs_no_word(tmp_path: Path) -> None:
    tilted(tmp_path / "sheared", 15, HU, GantryDetectorTilt="15")
    turned = Rotation.from_euler("x", 15, degrees=True).as_matrix()
    write_series(tmp_path / "upright", HU, direction=turned.ravel(), GantryDetectorTilt="15")
    for name in ("sheared", "upright"):
        assert not any("which neither" in warning for warning in read(tmp_path / name).warnings)


def tilted(folder: Path, degrees: float, hu: np.ndarray, **fields: Any) -> np.ndarray:
    """A series whose table moves along z while its slices are tilted about x; returns the axes of the slices."""
    axes = Rotation.from_euler("x", -degrees, degrees=True).as_matrix()
    write_series(folder, hu, direction=axes.ravel(), step=(0, 0, 4.22), **fields)
    return axes


def as_itk_sees_it(hu: np.ndarray, axes: np.ndarray, spacing: tuple[float, float], step: np.ndarray) -> sitk.Image:
    """The tilted stack as ITK image with a skewed direction, which its interpolation handles."""
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    length = float(np.linalg.norm(step))
    image.SetSpacing((*spacing, length))
    image.SetOrigin((-50.0, 30.0, 700.0))
    image.SetDirection(np.column_stack([axes[:, 0], axes[:, 1], step / length]).ravel())
    return image


@pytest.mark.parametrize("degrees", [18.5, -12.0, 0.6])
def test_a_tilt_is_sheared_back_as_itk_interpolates_the_skewed_stack(tmp_path: Path, degrees: float) -> None:
    """Linear within slices: 1e-3 HU at all voxels that slices cover (float32 of values up to 1500)."""
    hu = phantom((7, 24, 20)) // 10
    axes = tilted(tmp_path, degrees, hu)
    found = read(tmp_path)
    array, geometry, valid = found.volume.array, found.volume.geometry, found.valid
    assert array.dtype == np.float32
    assert found.facts["tilt_degrees"] == pytest.approx(abs(degrees), abs=1e-3)
    assert valid is not None
    grid = sitk.Image(list(geometry.size), sitk.sitkFloat32)
    grid.SetSpacing(geometry.spacing)
    grid.SetOrigin(geometry.origin)
    grid.SetDirection(geometry.direction)
    source = as_itk_sees_it(hu, axes, (0.8, 0.9), np.array([0, 0, 4.22]))
    expected = sitk.GetArrayFromImage(sitk.Resample(source, grid, sitk.Transform(), sitk.sitkLinear, -9999.0))
    inside = valid & (expected > -9000)
    # ITK leaves out voxels that lie on the border by rounding, and takes those up to half a pixel outside as the edge.
    assert inside.sum() > 0.95 * valid.sum()
    np.testing.assert_allclose(array[inside], expected[inside], rtol=0, atol=1e-3)
    assert (array[~valid] == AIR).all()
    assert valid.sum() > 0.9 * hu.size
    np.testing.assert_allclose(geometry.axes, axes, atol=1e-9)


def test_a_tilt_is_refused_by_the_setting(tmp_path: Path) -> None:
    tilted(tmp_path, 18.5, HU)
    assert "tilted by 18.5 degrees" in refused(tmp_path, tilt="refuse")


def test_padding_is_not_mixed_into_sheared_slices(tmp_path: Path) -> None:
    hu = np.full((6, 24, 24), -1000)
    hu[:, 8:16, 8:16] = phantom((6, 8, 8)) // 10 + 40
    hu[:, :4] = -3024
    tilted(tmp_path, 15, hu)
    found = read(tmp_path)
    assert found.volume.array.min() == AIR
    assert found.valid is not None
    inside = found.volume.array[found.valid]
    assert inside.min() >= -1000


@needs_data
def test_a_real_tilted_series_whose_spacing_changes_is_refused() -> None:
    assert "spaced unevenly: steps 13 of 4 mm, 13 of 7 mm, 1 of 1.08 mm" in refused(TILTED)


@needs_data
@pytest.mark.parametrize(("part", "spacing"), [(slice(0, 14), 4.0), (slice(14, 28), 7.0)])
def test_the_halves_of_a_real_tilted_series_are_sheared(part: slice, spacing: float) -> None:
    """Against ITK's interpolation in the skewed stack: 0.05 HU.

    Cosines of 7 decimals, which are made orthonormal, move points by 1e-5 mm where HU change by 4000 a mm.
    """
    files = sorted(TILTED.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])[part]
    found = read_ct(choose_series(find_series(files)))
    first, last = (dcmread(path) for path in (files[0], files[-1]))
    step = (np.array(last.ImagePositionPatient) - np.array(first.ImagePositionPatient)) / (len(files) - 1)
    hu = np.array([dcmread(path).pixel_array for path in files])
    hu[hu == -1500] = AIR
    axes = np.array(first.ImageOrientationPatient).reshape(2, 3)
    source = as_itk_sees_it(hu, np.column_stack([*axes, np.cross(*axes)]), tuple(first.PixelSpacing), step)
    source.SetOrigin([float(value) for value in first.ImagePositionPatient])
    geometry, valid = found.volume.geometry, found.valid
    assert valid is not None
    assert geometry.spacing[2] == pytest.approx(spacing, abs=2e-3)
    assert found.facts["tilt_degrees"] == pytest.approx(18.5, abs=0.01)
    grid = sitk.Image(list(geometry.size), sitk.sitkFloat32)
    grid.SetSpacing(geometry.spacing)
    grid.SetOrigin(geometry.origin)
    grid.SetDirection(geometry.direction)
    expected = sitk.GetArrayFromImage(sitk.Resample(source, grid, sitk.Transform(), sitk.sitkLinear, -9999.0))
    inside = valid & (expected > -9000)
    assert inside.sum() > 0.98 * valid.sum()
    np.testing.assert_allclose(found.volume.array[inside], expected[inside], rtol=0, atol=0.05)


@needs_data
@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_a_real_tilt_is_sheared_as_dcm2niix_does(tmp_path: Path) -> None:
    """The same grid; values within the rounding of dcm2niix to whole HU, twice where both interpolate."""
    files = sorted(TILTED.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])[:14]
    (tmp_path / "in").mkdir()
    for path in files:
        shutil.copy(path, tmp_path / "in")
    command = ["dcm2niix", "-o", tmp_path, "-f", "x", tmp_path / "in"]
    subprocess.run(command, check=True, capture_output=True)
    theirs = sitk.ReadImage(str(tmp_path / "x_Tilt_1.nii"))
    found = read_ct(choose_series(find_series(files)))
    assert found.volume.geometry.size == theirs.GetSize()
    np.testing.assert_allclose(found.volume.geometry.spacing, theirs.GetSpacing(), atol=1e-5)
    ours = sitk.Resample(to_sitk(found.volume), theirs, sitk.Transform(), sitk.sitkLinear, -9999.0)
    array, expected = sitk.GetArrayFromImage(ours), sitk.GetArrayFromImage(theirs)
    inside = (array > -9000) & (expected > AIR + 24)
    assert inside.sum() > 1e6
    assert np.quantile(np.abs(array - expected)[inside], [0.5, 0.95]) == pytest.approx([0.25, 0.5], abs=0.06)


def test_slices_shifted_sideways_without_order_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, HU, positions=[(3.0 * (k == 4), 0, 2.5 * k) for k in range(6)])
    assert "shifted sideways against each other" in refused(tmp_path)


@pytest.mark.parametrize(("kind", "volumes"), [("gap", 0.3), ("tilt", 1.6)])
def test_reading_takes_little_more_memory_than_the_volume(tmp_path: Path, kind: str, volumes: float) -> None:
    """Beside the decoded stack, in volumes as they come out; of float32 ones validity is another quarter."""
    datasets = ct_datasets(phantom((100, 128, 128)), step=(0.1, 0, 2.5) if kind == "tilt" else None)
    write_datasets(tmp_path, [ds for k, ds in enumerate(datasets) if kind != "gap" or k not in (4, 5, 11)])
    series = choose_series(find_series(sorted(tmp_path.iterdir())))
    tracemalloc.start()
    try:
        found = read_ct(series, CtSettings(allow_gap=2))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < volumes * found.volume.array.nbytes


def test_too_little_memory_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the case is excluded by ingest's limit of memory, and no system error stops the run."""
    write_series(tmp_path, HU)
    layout = replace(
        check_headers(choose_series(find_series(sorted(tmp_path.iterdir()))))[2], index=np.array([0, 1 << 44])
    )
    monkeypatch.setattr("radloom.dicom.ct.check_headers", lambda series, _: (*check_headers(series)[:2], layout))
    with pytest.raises(MemoryError):
        read(tmp_path)


# What does not belong together


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "1 of 6 slices are oriented otherwise"),
        ({"PixelSpacing": [1, 1]}, "different pixel spacings: 5 of 0.8 x 0.9 mm, 1 of 1 x 1 mm"),
        ({"ConvolutionKernel": "B70f"}, "mixes slices of 2 values of kernel"),
        ({"ConvolutionKernel": ["B30f", "3"]}, "mixes slices of 2 values of kernel"),
        ({"KVP": "80"}, "mixes slices of 2 values of kV"),
        ({"PatientID": "ID-DOE-4712"}, "the slices are of 2 patients"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "EFF_ATOMIC_NUM"]}, "something else than HU, by its image"),
        ({"ImageType": ["DERIVED", "SECONDARY", "PROJECTION IMAGE"]}, "something else than HU, by its image type"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 different frames of reference"),
        ({"RescaleSlope": None}, "no rescale slope or no intercept"),
        ({"RescaleIntercept": None}, "no rescale slope or no intercept"),
        ({"RescaleSlope": "0"}, "can't be that of HU"),
        ({"RescaleType": "Z_EFF"}, "something else than HU"),
        ({"ImagePositionPatient": None}, "no readable position"),
        ({"ImagePositionPatient": ["1", "2"]}, "no readable position"),
        ({"PixelSpacing": None}, "no readable pixel spacing"),
        ({"PixelSpacing": ["-1", "1"]}, "not positive"),
        ({"Rows": None}, "doesn't tell its Rows"),
        ({"Rows": 60000}, "is no CT"),
        ({"BitsStored": 17}, "slices of 17 bits in 16 are not read"),
        ({"HighBit": 11}, "end at bit 11"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour picture"),
        ({"Rows": 17}, "different sizes"),
        ({"PixelData": b"\0\0"}, "truncated or damaged"),
        ({"PixelData": bytes(16 * 20 * 2 + 2)}, "more pixel data than its size"),
    ],
)
def test_one_odd_slice_is_refused(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    write_series(tmp_path, HU, change=lambda k, ds: set_fields(ds, fields if k == 3 else {}))
    assert reason in refused(tmp_path)


def test_skewed_rows_and_columns_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, HU, ImageOrientationPatient=[1, 0, 0, 0.1, 0.9, 0])
    assert "not at right angles" in refused(tmp_path)


def test_another_modality_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, HU, Modality="MR", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    assert "no CT series" in refused(tmp_path)
    series = find_series(sorted(tmp_path.iterdir())).series[0]
    with pytest.raises(CaseError, match="not a CT"):
        read_ct(series)


def test_localizers_captures_and_colour_pictures_are_left_out_and_counted(tmp_path: Path) -> None:
    datasets = ct_datasets(HU)
    extra = ct_datasets(phantom((4, 30, 30)))
    for ds in extra:
        ds.SeriesInstanceUID = datasets[0].SeriesInstanceUID
    extra[0].ImageType = extra[1].ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    extra[2].SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    extra[3].SamplesPerPixel = 3
    write_datasets(tmp_path, [*extra, *datasets])
    found = read(tmp_path)
    np.testing.assert_array_equal(found.volume.array, HU)
    assert found.warnings == [
        "2 localizers in the series were left out",
        "1 secondary captures or other objects in the series were left out",
        "1 colour pictures in the series were left out",
    ]


def test_values_beyond_int16_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path, np.full((3, 8, 8), 40000) + phantom((3, 8, 8)), signed=False)
    assert "are no HU" in refused(tmp_path)


def test_lossy_compression_is_told(tmp_path: Path) -> None:
    write_series(tmp_path, HU, LossyImageCompression="01")
    assert "6 slices were compressed with loss" in read(tmp_path).warnings[0]


# Multi-frame


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"])
def test_enhanced_ct_is_read_frame_by_frame(tmp_path: Path, syntax: str) -> None:
    hu = phantom((6, 64, 64))
    order = [4, 2, 0, 5, 1, 3]
    slopes = [1, 2, 1, 1, 2, 1]

    def change(k: int, groups: Dataset) -> None:
        groups.PixelValueTransformationSequence[0].RescaleSlope = slopes[k]

    write_file(tmp_path / "a.dcm", enhanced_dataset(hu, order=order, change_frame=change), syntax=syntax)
    found = read(tmp_path)
    expected = np.empty(hu.shape)
    for k, slope in zip(order, slopes, strict=True):
        expected[k] = (hu[k] + 1024.0) * slope - 1024
    np.testing.assert_array_equal(found.volume.array, expected)
    assert found.volume.geometry.spacing == (0.8, 0.9, 2.5)
    assert found.sop_uids == ()


def test_enhanced_ct_that_lies_about_its_frames_is_refused(tmp_path: Path) -> None:
    ds = enhanced_dataset(HU)
    ds.NumberOfFrames = 7
    write_file(tmp_path / "a.dcm", ds)
    assert "speaks of 7 frames, and describes 6" in refused(tmp_path)


def test_a_phase_of_an_enhanced_ct_is_told_apart(tmp_path: Path) -> None:
    def change(k: int, groups: Dataset) -> None:
        groups.FrameContentSequence[0].TemporalPositionIndex = 1 + k // 6
        groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 3.0 * (k % 6)]

    write_file(tmp_path / "a.dcm", enhanced_dataset(phantom((12, 10, 10)), change_frame=change))
    assert "temporal position 1 (6 slices), temporal position 2 (6 slices)" in refused(tmp_path)


@pytest.mark.parametrize(
    ("sequence", "keyword", "values", "name"),
    [
        ("CTReconstructionSequence", "ConvolutionKernel", ("B30f", "B70f"), "kernel"),
        ("CTXRayDetailsSequence", "KVP", (80, 140), "kV"),
    ],
)
def test_frames_of_two_kernels_or_voltages_are_refused(
    tmp_path: Path, sequence: str, keyword: str, values: tuple[Any, Any], name: str
) -> None:
    """They stand in the frames' functional groups; where these agree, what they say counts."""

    def change(k: int, groups: Dataset) -> None:
        item = Dataset()
        setattr(item, keyword, values[mixed and k > 3])
        setattr(groups, sequence, [item])

    for mixed in (False, True):
        ds = enhanced_dataset(HU, change_frame=change)
        delattr(ds, keyword)
        (tmp_path / str(mixed)).mkdir()
        write_file(tmp_path / str(mixed) / "a.dcm", ds)
    assert read(tmp_path / "False").acquisition["kernel" if name == "kernel" else "kvp"] == values[0]
    assert f"mixes slices of 2 values of {name}" in refused(tmp_path / "True")


@pytest.mark.filterwarnings("ignore")
def test_single_slices_that_were_converted_to_one_file_are_read_as_such(tmp_path: Path) -> None:
    """highdicom converts; what no functional group is there for stands apart, and counts: here the kernel."""
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    for mixed in (False, True):
        datasets = [complete(ds) for ds in ct_datasets(HU)]
        datasets[4].ConvolutionKernel = "B70f" if mixed else "B30f"
        out = LegacyConvertedEnhancedCTImage(
            datasets, series_instance_uid="1.2", series_number=1, sop_instance_uid="1.3", instance_number=1
        )
        (tmp_path / str(mixed)).mkdir()
        out.save_as(tmp_path / str(mixed) / "a.dcm")
    found = read(tmp_path / "False")
    np.testing.assert_array_equal(found.volume.array, HU)
    assert found.volume.geometry.spacing == (0.8, 0.9, 2.5)
    assert (found.acquisition["kernel"], found.acquisition["kvp"]) == ("B30f", 120)
    assert "mixes slices of 2 values of kernel" in refused(tmp_path / "True")


def test_frames_that_are_no_attenuation_are_refused(tmp_path: Path) -> None:
    def change(k: int, groups: Dataset) -> None:
        item = Dataset()
        item.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "NONE"]
        item.VolumeBasedCalculationTechnique = "MAX_IP" if k == 4 else "NONE"
        groups.CTImageFrameTypeSequence = [item]

    write_file(tmp_path / "a.dcm", enhanced_dataset(HU, change_frame=change))
    assert "something else than HU, by its image type" in refused(tmp_path)


# Files


def test_a_series_without_preamble_in_implicit_vr_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, HU, preamble=False, syntax="1.2.840.10008.1.2")
    np.testing.assert_array_equal(read(tmp_path).volume.array, HU)


def test_a_truncated_slice_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, HU)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    assert "truncated or damaged" in refused(tmp_path)


def test_a_length_beyond_the_file_is_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path, HU)
    data = paths[2].read_bytes()
    at = data.rindex(struct.pack("<HH2sH", 0x7FE0, 0x10, b"OW", 0)) + 8
    paths[2].write_bytes(data[:at] + struct.pack("<L", 0xFFFFFFF0) + data[at + 4 :])
    assert "truncated or damaged" in refused(tmp_path)


def test_what_a_header_says_of_a_person_to_be_seen_is_told_and_overlays_are_not_read(tmp_path: Path) -> None:
    def change(k: int, ds: Dataset) -> None:
        if k < 2:
            ds.BurnedInAnnotation = "YES"
        if k == 0:
            ds.RecognizableVisualFeatures = "YES"
        ds.add_new(0x60020010, "US", ds.Rows)
        ds.add_new(0x60020011, "US", ds.Columns)
        ds.add_new(0x60020022, "LO", "DOE^JOHN")
        ds.add_new(0x60023000, "OW", b"\xff" * (ds.Rows * ds.Columns // 8))
        # A plane in a bit beyond the stored ones.
        ds.add_new(0x60000010, "US", ds.Rows)
        ds.add_new(0x60000102, "US", 15)
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0x8000).tobytes()

    write_series(tmp_path / "plain", HU, signed=False, bits_stored=12, intercept=-1024)
    write_series(tmp_path / "overlaid", HU, signed=False, bits_stored=12, intercept=-1024, change=change)
    plain, found = read(tmp_path / "plain"), read(tmp_path / "overlaid")
    np.testing.assert_array_equal(found.volume.array, plain.volume.array)
    told = ("burned_in_slices", "recognizable_slices", "overlay_slices")
    assert [plain.facts[name] for name in told] == [0, 0, 0]
    assert [found.facts[name] for name in told] == [2, 1, len(HU)]
    assert [text.split(",")[0] for text in found.warnings] == [
        "2 slices have text burnt into their pixels",
        "1 slices show by what a person may be recognised",
        f"{len(HU)} slices had overlay planes",
    ]
    assert plain.warnings == []
