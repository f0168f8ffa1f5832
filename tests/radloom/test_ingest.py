"""Reading: formats, damage, what is no CT, and masks that stay with their image."""

import itertools
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from radloom.errors import CaseError
from radloom.images import Geometry, Volume, from_sitk, read_nifti, to_sitk, write_nifti
from radloom.ingest import AIR_HU, clean_hu, ingest_case
from radloom.source_names import source_files
from radloom.volume_files import match_mask, read_source, to_labels

SIZE = (14, 12, 10)
SPACING = (0.8, 0.9, 2.5)
ORIGIN = (-50.0, 30.0, 700.0)
# Every name of a source carries this; no message may.
PATIENT = "DOE_JOHN"


def ct(seed: int = 0) -> NDArray[np.int16]:
    """Air and tissue, every voxel different enough to be told apart."""
    rng = np.random.default_rng(seed)
    array = rng.integers(-1000, 1500, SIZE[::-1]).astype(np.int16)
    array[0, 0, 0] = -1000
    return array


def image(array: NDArray[np.generic] | None = None, **geometry: tuple[float, ...]) -> sitk.Image:
    """A SimpleITK image on the grid of these tests."""
    found = sitk.GetImageFromArray(ct() if array is None else array)
    found.SetSpacing(geometry.get("spacing", SPACING))
    found.SetOrigin(geometry.get("origin", ORIGIN))
    if "direction" in geometry:
        found.SetDirection(geometry["direction"])
    return found


def ball() -> NDArray[np.uint8]:
    """A mask with the labels 1 and 3."""
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[3:6, 4:8, 5:9] = 1
    mask[7, 2, 3] = 3
    return mask


def write(folder: Path, content: sitk.Image, suffix: str = ".nii.gz", packed: bool = True, name: str = "image") -> Path:
    """Write a source file whose name carries the patient's."""
    path = folder / f"{PATIENT}_{name}{suffix}"
    sitk.WriteImage(content, str(path), packed)
    return path


def refused(path: Path, mask: Path | None = None) -> str:
    """The message with which a case is refused; it names no patient."""
    with pytest.raises(CaseError) as caught:
        ingest_case(path, mask)
    message = str(caught.value)
    assert PATIENT not in message
    assert str(path.parent) not in message
    assert caught.value.advice
    return message


@pytest.mark.parametrize(
    ("suffix", "packed", "kind"),
    [
        (".nii", False, "nifti"),
        (".nii.gz", True, "nifti"),
        (".nrrd", True, "nrrd"),
        (".nrrd", False, "nrrd"),
        (".nhdr", False, "nrrd"),
        (".mha", True, "mha"),
        (".mha", False, "mha"),
        (".mhd", True, "mha"),
    ],
)
def test_all_formats_give_the_same_case(tmp_path: Path, suffix: str, packed: bool, kind: str) -> None:
    path = write(tmp_path, image(), suffix, packed)
    mask = write(tmp_path, image(ball()), suffix, packed, "mask")
    scan = ingest_case(path, mask)
    np.testing.assert_array_equal(scan.image.array, ct())
    assert scan.image.array.dtype == np.int16
    assert scan.image.geometry == Geometry(SIZE, SPACING, ORIGIN)
    assert scan.mask is not None
    assert scan.mask.geometry == scan.image.geometry
    np.testing.assert_array_equal(scan.mask.array, ball())
    assert scan.mask.array.dtype == np.uint8
    assert scan.warnings == []
    assert scan.facts == {
        "format": kind,
        "dtype": "int16",
        "size": list(SIZE),
        "spacing": list(SPACING),
        "origin": list(ORIGIN),
        "direction": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "hu_min": -1000,
        "hu_max": int(ct().max()),
        "padding_voxels": 0,
        "mask_labels": [1, 3],
    }


ORIENTATIONS = ["".join(word) for word in itertools.product("LR", "AP", "SI")] + ["PIR", "ASL", "SAR", "ILA"]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_image_and_mask_come_out_in_lps_together(tmp_path: Path, orientation: str, suffix: str) -> None:
    """However the two are stored, also each in its own way, the same case comes out, left-handed axes among them."""
    path = write(tmp_path, sitk.DICOMOrient(image(), orientation), suffix)
    mask = write(tmp_path, sitk.DICOMOrient(image(ball()), orientation), suffix, name="mask")
    other = write(tmp_path, image(ball()), suffix, name="other_mask")
    for source in (mask, other):
        scan = ingest_case(path, source)
        np.testing.assert_array_equal(scan.image.array, ct())
        assert scan.mask is not None
        np.testing.assert_array_equal(scan.mask.array, ball())
        np.testing.assert_allclose(scan.image.geometry.corners(), Geometry(SIZE, SPACING, ORIGIN).corners(), atol=1e-4)
        assert scan.mask.geometry == scan.image.geometry


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.floats(-3.1, 3.1)] * 3))
def test_oblique_axes_stay_oblique(tmp_path_factory: pytest.TempPathFactory, angles: tuple[float, ...]) -> None:
    axes = sitk.Euler3DTransform((0, 0, 0), *angles).GetMatrix()
    source = image(direction=axes)
    scan = ingest_case(write(tmp_path_factory.mktemp("oblique"), source))
    expected = from_sitk(source).geometry
    found = scan.image.geometry
    order = np.lexsort(np.round(expected.corners(), 1).T), np.lexsort(np.round(found.corners(), 1).T)
    np.testing.assert_allclose(found.corners()[order[1]], expected.corners()[order[0]], atol=1e-3)
    index = np.array(list(np.ndindex(*found.shape)))
    before = np.rint(expected.to_index(found.to_physical(index[:, ::-1]))).astype(int)
    np.testing.assert_array_equal(scan.image.array.ravel(), ct()[tuple(before[:, ::-1].T)])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".raw.nrrd", ".raw.mha"])
def test_a_cut_file_is_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, image(), suffix, "raw" not in suffix and suffix != ".nii")
    content = path.read_bytes()
    for share in (0.9, 0.5, 0.01, 0):
        path.write_bytes(content[: int(len(content) * share)])
        assert "truncated or damaged" in refused(path)
    assert capfd.readouterr() == ("", ""), "ITK prints paths"


def test_a_detached_header_and_its_data_are_one_source(tmp_path: Path) -> None:
    for suffix, data in [(".mhd", ".zraw"), (".nhdr", ".raw.gz")]:
        header = write(tmp_path, image(), suffix)
        packed = tmp_path / f"{PATIENT}_image{data}"
        assert source_files(header) == [header, packed]
        content = bytearray(packed.read_bytes())
        content[-300] ^= 0x04
        packed.write_bytes(content)
        assert "truncated or damaged" in refused(header)
    header = tmp_path / "local.mhd"
    header.write_bytes(write(tmp_path, image(), ".mha").read_bytes())
    assert source_files(header) == [header]
    assert ingest_case(header).facts["format"] == "mha"
    assert source_files(tmp_path / "none.mhd") == [tmp_path / "none.mhd"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_a_damaged_packed_file_is_refused(tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One bit changed anywhere in the packed voxels is seen."""
    path = write(tmp_path, image(), suffix)
    content = path.read_bytes()
    start = len(content) // 2 if suffix == ".nii.gz" else len(content) - 1500
    for place in range(start, len(content) - 20, 97):
        damaged = bytearray(content)
        damaged[place] ^= 0x04
        path.write_bytes(damaged)
        assert "truncated or damaged" in refused(path)
    assert capfd.readouterr() == ("", "")


def test_garbage_and_missing_files_are_refused(tmp_path: Path) -> None:
    for suffix in (".nii.gz", ".nii", ".nrrd", ".mha"):
        path = tmp_path / f"{PATIENT}{suffix}"
        assert "does not exist" in refused(path)
        assert source_files(path) == [path]
        path.write_bytes(b"\x93PNG\r\n" * 200)
        assert "damaged" in refused(path) or "no NIfTI-1 file" in refused(path)
    header = write(tmp_path, image(), ".mhd")
    (tmp_path / f"{PATIENT}_image.zraw").unlink()
    assert "data file that its header names, does not exist" in refused(header)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, image())
    path.chmod(0)
    assert "may not be read" in refused(path)


def test_unknown_suffixes_are_refused(tmp_path: Path) -> None:
    (tmp_path / f"{PATIENT}.png").touch()
    assert ".nii.gz, .nrrd" in refused(tmp_path / f"{PATIENT}.png")
    (tmp_path / f"{PATIENT}.nii").mkdir()
    assert "is a folder whose name ends as" in refused(tmp_path / f"{PATIENT}.nii")


def test_other_dimensions_and_colours_are_refused(tmp_path: Path) -> None:
    array = ct()
    path = tmp_path / f"{PATIENT}.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([array.T, array.T], axis=-1), np.eye(4)), path)
    assert "4 dimensions (14 x 12 x 10 x 2), not 3" in refused(path)
    nib.save(nib.Nifti1Image(array[0].T, np.eye(4)), path)
    assert "2 dimensions" in refused(path)
    colours = sitk.GetImageFromArray(np.zeros((10, 10, 10, 3), np.uint8), isVector=True)
    assert "3 values a voxel" in refused(write(tmp_path, colours, ".nrrd"))
    one_volume = sitk.JoinSeries([image()])
    assert "4 dimensions" in refused(write(tmp_path, one_volume, ".nrrd"))


def changed(
    array: NDArray[np.int16], change: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Values of a CT after a mishap."""
    return change(array.astype(np.float64))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a * 0 + 7, "same value 7"),
        (lambda a: np.where(a > 1400, np.nan, a), "are not finite"),
        (lambda a: np.where(a > 1400, np.inf, a), "are not finite"),
        (lambda a: a + 1024, "stored values without the rescale intercept"),
        (lambda a: np.where(a < -990, -2000, a + 1024), "stored values without the rescale intercept"),
        (lambda a: a - 1024, "rescale intercept had been applied twice"),
        (lambda a: (a + 1000) / 2500, "scaled to 0..1"),
        (lambda a: np.rint((a + 1000) / 10), "8-bit picture"),
        (lambda a: (a - 200) / 700, "look normalised"),
        (lambda a: a * 10, "are no HU"),
        (lambda a: a * 40 + 50000, "are no HU"),
    ],
)
def test_what_is_no_hu_is_refused(tmp_path: Path, change: Callable[..., NDArray[np.float64]], reason: str) -> None:
    assert reason in refused(write(tmp_path, image(changed(ct(), change)), ".nrrd"))


def test_whole_numbers_become_int16_and_others_float32(tmp_path: Path) -> None:
    for dtype in (np.int32, np.float32, np.float64):
        scan = ingest_case(write(tmp_path, image(ct().astype(dtype))))
        assert scan.image.array.dtype == np.int16
        np.testing.assert_array_equal(scan.image.array, ct())
        assert scan.facts["dtype"] == np.dtype(dtype).name
    scan = ingest_case(write(tmp_path, image(ct() + 0.25)))
    assert scan.image.array.dtype == np.float32
    np.testing.assert_array_equal(scan.image.array, ct() + np.float32(0.25))


def test_a_scaled_nifti_is_read_with_its_scale(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    stored = nib.Nifti1Image((ct().T + 1024).astype(np.int16), np.eye(4))
    stored.header.set_slope_inter(1, -1024)
    nib.save(stored, path)
    scan = ingest_case(path)
    np.testing.assert_array_equal(scan.image.array, ct()[:, ::-1, ::-1])
    assert scan.image.array.dtype == np.int16


def test_padding_is_set_to_air_and_said(tmp_path: Path) -> None:
    array = ct()
    array[:, :3] = -3024
    array[:, 3, :5] = -1100
    scan = ingest_case(write(tmp_path, image(array)))
    np.testing.assert_array_equal(scan.image.array, np.where(array == -3024, AIR_HU, array))
    assert scan.facts["padding_voxels"] == 10 * 3 * 14
    assert scan.facts["hu_min"] == -3024
    assert scan.warnings == ["420 voxels of padding (mostly -3024) were set to -1024 HU"]
    assert scan.valid is not None
    assert (scan.valid.array.dtype, scan.valid.geometry) == (np.dtype(np.uint8), scan.image.geometry)
    np.testing.assert_array_equal(scan.valid.array, array != -3024)
    assert ingest_case(write(tmp_path, image())).valid is None


def test_validity_turns_with_the_image(tmp_path: Path) -> None:
    array = ct()
    array[:2] = -3024
    turned = sitk.DICOMOrient(image(array), "RAS")
    scan = ingest_case(write(tmp_path, turned, ".nrrd"))
    assert scan.valid is not None
    np.testing.assert_array_equal(scan.valid.array == 0, scan.image.array == AIR_HU)
    assert scan.facts["padding_voxels"] == 2 * 12 * 14


def scan_in_air(air_hu: float, noise: float) -> NDArray[np.int16]:
    """A round body in air, 12 slices of 60 x 60."""
    y, x = np.mgrid[:60, :60] - 29.5
    plane = np.where(x**2 + y**2 < 20**2, 40.0, air_hu)
    return np.rint(np.random.default_rng(0).normal(0, noise, (12, 60, 60)) + plane).astype(np.int16)


@pytest.mark.parametrize(("air_hu", "noise"), [(-1000, 25), (-1080, 10), (-1080, 0)])
def test_noise_below_minus_1024_is_no_padding(air_hu: float, noise: float) -> None:
    """Also air that a drifted scanner shows at -1080, and that without any noise."""
    array = scan_in_air(air_hu, noise)
    assert (array < AIR_HU).sum() > 3000
    found, padding, _, warnings = clean_hu(array)
    np.testing.assert_array_equal(found, array)
    assert (padding, warnings) == (None, [])


@pytest.mark.parametrize("value", [-1100, -1500, -2000, -3024, -8192])
def test_the_corners_of_a_round_field_of_view_are_padding(value: int) -> None:
    array = scan_in_air(-1000, 25)
    y, x = np.mgrid[:60, :60] - 29.5
    corners = np.broadcast_to(x**2 + y**2 > 30**2, array.shape)
    assert array.min() < -1100, "the noise reaches below the padding"
    found, padding, _, warnings = clean_hu(np.where(corners, np.int16(value), array))
    np.testing.assert_array_equal(found, np.where(corners, AIR_HU, array))
    assert found.dtype == np.int16
    np.testing.assert_array_equal(padding, corners)
    assert warnings == [f"{corners.sum()} voxels of padding (mostly {value}) were set to -1024 HU"]


def test_the_end_of_clipped_noise_is_no_padding() -> None:
    """A quarter of the voxels have the lowest value, but scattered among the others."""
    array = np.maximum(scan_in_air(-1040, 40), -1050)
    assert (array == -1050).mean() > 0.2
    found, padding, _, _ = clean_hu(array)
    np.testing.assert_array_equal(found, array)
    assert padding is None


def test_nothing_but_padding_is_refused() -> None:
    array = np.full((10, 10, 10), -3024, np.int16)
    array[0, 0, 0] = -2000
    with pytest.raises(CaseError, match="all voxels of the image lie below -1200 HU"):
        clean_hu(array)


def test_spacing_and_size_are_checked(tmp_path: Path) -> None:
    assert "0.01 x 0.9 x 2.5 mm is outside 0.05 to 10" in refused(write(tmp_path, image(spacing=(0.01, 0.9, 2.5))))
    thick = write(tmp_path, image(spacing=(0.8, 0.9, 12)))
    assert "outside 0.05 to 10" in refused(thick)
    assert ingest_case(thick, max_spacing=15).facts["spacing"] == [0.8, 0.9, 12]
    assert "too small" in refused(write(tmp_path, image(ct()[:1])))
    assert "too small" in refused(write(tmp_path, image(ct()[:, :5, :7])))


def nifti(path: Path, sform: NDArray[np.float64] | None, qform: NDArray[np.float64] | None) -> Path:
    """A NIfTI file with these forms."""
    stored = nib.Nifti1Image(ct().T, None)
    stored.header.set_zooms(SPACING)
    if qform is not None:
        stored.header.set_qform(qform, 1)
    if sform is not None:
        stored.header.set_sform(sform, 1)
    stored.header["sform_code"] = int(sform is not None)
    stored.header["qform_code"] = int(qform is not None)
    nib.save(stored, path)
    return path


def test_axes_off_by_rounding_are_read_and_skewed_ones_refused(tmp_path: Path) -> None:
    for shear in (1e-6, 1e-4, 5e-4):
        affine = np.diag([*SPACING, 1.0])
        affine[0, 1] = shear
        scan = ingest_case(nifti(tmp_path / "a.nii.gz", affine, None))
        axes = scan.image.geometry.axes
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-12)
    affine[1, 2] = 0.3
    assert "not at right angles" in refused(nifti(tmp_path / "a.nii.gz", affine, None))
    header = write(tmp_path, image(), ".nrrd", False)
    content = header.read_bytes()
    assert b"(0.8,0,0)" in content.replace(b"0.80000000000000004", b"0.8")
    header.write_bytes(content.replace(b"0,0) (0", b"0.1,0) (0"))
    assert "not at right angles" in refused(header)


def test_contradicting_or_missing_orientation_is_warned_of(tmp_path: Path) -> None:
    straight = np.diag([*SPACING, 1.0])
    moved = straight.copy()
    moved[0, 3] = 50
    path = tmp_path / "a.nii.gz"
    assert ingest_case(nifti(path, straight, straight)).warnings == []
    assert ingest_case(nifti(path, straight, None)).warnings == []
    assert ingest_case(nifti(path, None, straight)).warnings == []
    scan = ingest_case(nifti(path, straight, moved))
    assert scan.warnings == ["sform and qform of the image disagree by up to 50 mm; the sform was taken"]
    assert "no orientation" in ingest_case(nifti(path, None, None)).warnings[0]
    header = write(tmp_path, image(), ".nrrd", False)
    content = header.read_bytes()
    for pattern, new in [
        (b"space: .*", b"# "),
        (b"space directions: .*", b"spacings: 1 1 2"),
        (b"space origin", b"# "),
    ]:
        content = re.sub(pattern, new, content, count=1)
    header.write_bytes(content)
    assert "no orientation" in ingest_case(header).warnings[0]


def test_a_header_without_spacing_is_refused(tmp_path: Path) -> None:
    header = write(tmp_path, image(), ".nrrd", False)
    header.write_bytes(header.read_bytes().replace(b"space directions", b"# directions"))
    assert "no voxel spacing" in refused(header)
    header = write(tmp_path, image(), ".mha", False)
    header.write_bytes(header.read_bytes().replace(b"ElementSpacing", b"ElementComment"))
    assert "no voxel spacing" in refused(header)
    path = write(tmp_path, image(), ".nii", False)
    content = bytearray(path.read_bytes())
    content[84:88] = bytes(4)
    path.write_bytes(content)
    assert "spacing is not positive" in refused(path)


def test_a_mask_on_another_grid_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, image())

    def of(mask: sitk.Image) -> str:
        return refused(path, write(tmp_path, mask, name="mask"))

    assert "10 x 12 x 10 voxels, the image 14 x 12 x 10" in of(image(ball()[:, :, :10]))
    assert "lies up to 0.5 mm" in of(image(ball(), origin=(-49.5, 30, 700)))
    # The corner far from the origin is off, though the origin is not.
    assert "more than 0.01 mm" in of(image(ball(), spacing=(0.8, 0.9, 2.52)))
    near = write(tmp_path, image(ball(), origin=(-49.995, 30, 700)), name="near")
    scan = ingest_case(path, near)
    assert scan.mask is not None
    assert scan.mask.geometry == scan.image.geometry
    far = write(tmp_path, image(ball(), origin=(-49, 30, 700)), name="far")
    assert ingest_case(path, far, geometry_tolerance=2).mask is not None


def test_masks_must_hold_labels(tmp_path: Path) -> None:
    path = write(tmp_path, image())

    def of(mask: NDArray[np.generic]) -> str:
        return refused(path, write(tmp_path, image(mask), name="mask"))

    assert "mask is empty" in of(ball() * 0)
    assert "not whole numbers" in of(ball() * 0.5)
    assert "48 voxels of the mask are not finite" in of(np.where(ball() == 1, np.nan, 0.0))
    assert "values from -1 to 3" in of(np.where(ball() == 0, -1, ball().astype(np.int16)))
    assert "values from 0 to 70000" in of(ball().astype(np.int32) // 3 * 70000)
    assert "the mask can't be read" in refused(path, _cut(write(tmp_path, image(ball()), name="mask")))


def _cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-20])
    return path


def test_float_and_large_labels_are_taken() -> None:
    geometry = Geometry(SIZE, SPACING, ORIGIN)
    found, labels = match_mask(Volume(ball().astype(np.float32), geometry), geometry, 0.01)
    assert (found.array.dtype, labels) == (np.dtype(np.uint8), [1, 3])
    large = ball().astype(np.int32)
    large[large == 3] = 1000
    found, labels = match_mask(Volume(large, geometry), geometry, 0.01)
    assert (found.array.dtype, labels) == (np.dtype(np.uint16), [1, 1000])
    np.testing.assert_array_equal(found.array, large)
    assert to_labels(np.full((2, 2, 2), np.int16(255))).dtype == np.uint8


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    scan = ingest_case(write(tmp_path, sitk.DICOMOrient(image(), "RAS")))
    write_nifti(tmp_path / "out.nii.gz", scan.image)
    found = read_nifti(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(found.array, scan.image.array)
    assert found.geometry.spacing == tuple(scan.facts["spacing"])
    assert list(found.geometry.origin) == pytest.approx(scan.facts["origin"], abs=1e-4)
    assert to_sitk(found).GetSize() == SIZE


def test_real_scans(shared_data: Path) -> None:
    for path in sorted((shared_data / "sts" / "images").glob("*.nii.gz"))[:3]:
        scan = ingest_case(path, shared_data / "sts" / "masks" / path.name)
        assert scan.mask is not None
        assert scan.image.array.dtype == np.int16
        assert scan.facts["mask_labels"] == [1]
        assert -1024 <= scan.image.array.min() < -900
    labels = read_source(shared_data / "segmentation" / "torso_labels.nii.gz", "mask")
    torso = ingest_case(shared_data / "segmentation" / "torso_ct.nii.gz", None)
    assert len(match_mask(labels.volume, labels.volume.geometry, 0.01)[1]) > 50
    assert torso.facts["spacing"] == [3, 3, 3]
