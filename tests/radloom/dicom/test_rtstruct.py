"""Contours to masks, against the reference masks of real patients, plastimatch and closed forms."""

import math
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import ct_datasets, phantom, write_datasets
from dicom_masks import FRAME, Drawn, rtstruct, save
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.dicom.ct import read_ct
from radloom.dicom.polygons import Window, inside
from radloom.dicom.rtstruct import rtstruct_mask
from radloom.dicom.series import choose_series, find_series
from radloom.errors import CaseError
from radloom.images import Geometry, from_sitk, nearest_rotation, same_grid

STS = Path(__file__).parents[3].parent / "shared" / "data" / "sts"
GRID = Geometry((40, 30, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
SQUARE = np.array([[10.0, 8], [20, 8], [20, 18], [10, 18]])


def flat(points, z, kind="CLOSED_PLANAR", image_uid=""):
    """A contour of points (n, 2) on the plane z of GRID."""
    return Drawn(np.column_stack([points, np.full(len(points), float(z))]), kind, image_uid)


def square(side, z):
    """A square around (20.5, 15.5), with side ** 2 voxels where the side is even."""
    return flat(np.array([20.5, 15.5]) + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2, z)


def placed(contours, geometry):
    """The contours, given in voxel indices, in mm."""
    return [Drawn(geometry.to_physical(c.points), c.kind, c.image_uid) for c in contours]


@pytest.fixture
def convert(tmp_path):
    """Write contours (one ROI, or several by name), and make the mask."""

    def run(contours, roi=None, geometry=GRID, frame=FRAME, sop_uids=(), written_frame=FRAME, **options):
        rois = contours if isinstance(contours, dict) else {"tumour": contours}
        path = save(rtstruct(rois, frame=written_frame, **options), tmp_path / "rtstruct.dcm")
        return rtstruct_mask(path, roi, geometry, frame, sop_uids)

    return run


def planes(found):
    """How many voxels each slice of a mask has."""
    return found.volume.array.sum(axis=(1, 2), dtype=int).tolist()


# Real patients


def read_series(folder):
    reader = sitk.ImageSeriesReader()
    files = reader.GetGDCMSeriesFileNames(str(folder))
    reader.SetFileNames(files)
    heads = [
        pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID", "FrameOfReferenceUID"])
        for file in files
    ]
    return from_sitk(reader.Execute()).geometry, heads[0].FrameOfReferenceUID, [head.SOPInstanceUID for head in heads]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("patient", ["STS_003", "STS_019", "STS_025"])
def test_equals_the_reference_masks_voxel_by_voxel(patient):
    folder = STS / "dicom" / patient
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    geometry, frame, uids = read_series(folder / "ct")
    found = rtstruct_mask(folder / "rtstruct.dcm", "gtv_mass*", geometry, frame, uids)
    reference = from_sitk(sitk.ReadImage(str(STS / "masks" / f"{patient}.nii.gz")))
    assert same_grid(found.volume.geometry, reference.geometry, 1e-3)
    np.testing.assert_array_equal(found.volume.array, reference.array)
    assert found.warnings == ["the contours were drawn on another series of the same frame of reference"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tilt", [0.0, 18.0])
def test_contours_fit_the_series_as_it_is_read(tmp_path, tilt):
    # An oblique series, stored in another order than it lies, with a tilted gantry: slices stay on their planes.
    turned = nearest_rotation(np.array([[1, 0.2, -0.1], [-0.2, 1, 0.3], [0.1, -0.3, 1]]))
    lean = math.tan(math.radians(tilt))
    images = ct_datasets(
        phantom((9, 40, 44)),
        spacing=(0.8, 0.9, 2.5),
        direction=turned.ravel(),
        step=2.5 * (turned[:, 2] + lean * turned[:, 1]),
        frame_of_reference=FRAME,
    )
    t = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    contours = []
    for image in images[2:7]:
        first = np.array(image.ImagePositionPatient, dtype=float)
        across = (16.3 + 9 * np.cos(t))[:, None] * turned[:, 0] + (17.1 + 8 * np.sin(t))[:, None] * turned[:, 1]
        contours.append(Drawn(first + across, image_uid=image.SOPInstanceUID))
    write_datasets(tmp_path / "ct", [images[k] for k in (4, 0, 8, 2, 6, 1, 3, 7, 5)])
    ct = read_ct(choose_series(find_series((tmp_path / "ct").iterdir())))
    path = save(rtstruct({"roi": contours}), tmp_path / "rtstruct.dcm")
    found = rtstruct_mask(path, None, ct.volume.geometry, ct.frame_of_reference, ct.sop_uids)
    assert found.warnings == []
    assert [z for z, n in enumerate(planes(found)) if n] == [2, 3, 4, 5, 6]
    for z, y, x in np.argwhere(found.volume.array):
        offset = ct.volume.geometry.to_physical((x, y, z)) - np.array(images[z].ImagePositionPatient, dtype=float)
        a, b, c = turned.T @ offset
        assert ((a - 16.3) / 9) ** 2 + ((b - 17.1) / 8) ** 2 < 1
        assert abs(c) < 1e-6
    assert found.volume.array.sum() * 0.8 * 0.9 == pytest.approx(5 * math.pi * 72, rel=0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("patient", ["STS_003", "STS_019", "STS_025"])
def test_equals_plastimatch(patient, tmp_path):
    folder = STS / "dicom" / patient
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    geometry, frame, uids = read_series(folder / "ct")
    other = plastimatch(folder / "rtstruct.dcm", ["--referenced-ct", str(folder / "ct")], tmp_path)
    found = rtstruct_mask(folder / "rtstruct.dcm", "GTV_Mass_CT", geometry, frame, uids)
    np.testing.assert_array_equal(found.volume.array, other)


def plastimatch(path, grid, folder):
    program = shutil.which("plastimatch")
    if program is None:
        pytest.skip("plastimatch is not installed")
    out = folder / "plastimatch"
    command = [
        program,
        "convert",
        "--input",
        str(path),
        *grid,
        "--output-prefix",
        str(out),
        "--prefix-format",
        "nii.gz",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    (mask,) = out.glob("*.nii.gz")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))


def test_holes_and_islands_as_plastimatch_has_them(tmp_path):
    t = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    rings = [np.stack([20.3 + r * np.cos(t), 15.2 + 0.8 * r * np.sin(t)], axis=1) for r in (12.2, 7.4, 3.1)]
    contours = [flat(ring, z) for z in range(2, 9) for ring in rings]
    image = sitk.Image(40, 30, 12, sitk.sitkInt16)
    sitk.WriteImage(image, str(tmp_path / "image.nii.gz"))
    path = save(rtstruct({"tumour": contours}), tmp_path / "rtstruct.dcm")
    other = plastimatch(path, ["--fixed", str(tmp_path / "image.nii.gz"), "--xor-contours"], tmp_path)
    mask = rtstruct_mask(path, None, GRID, FRAME).volume.array
    assert 2 * (mask & other).sum() / (mask.sum() + other.sum()) > 0.999
    assert mask[5, 15, 20] == 1
    assert mask[5, 15, 25] == 0


# Closed forms


def test_a_ball_of_sub_pixel_contours_has_its_volume(convert):
    grid = Geometry((64, 64, 64), (0.5, 0.5, 0.5), (-15.9, -15.8, -15.7))
    t = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    contours = []
    for z in grid.to_physical([[0, 0, k] for k in range(64)])[:, 2]:
        if abs(z) < 12:
            r = math.sqrt(144 - z**2)
            contours.append(Drawn(np.stack([r * np.cos(t), r * np.sin(t), np.full(400, z)], axis=1)))
    found = convert(contours, geometry=grid)
    # 57,906 voxels, 10,857 of them touch the surface: as centres fall at random, some 50 to 100 too many or too few.
    assert found.volume.array.sum() == pytest.approx(4 / 3 * math.pi * 24**3, rel=2e-3)
    assert found.warnings == []


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_any_orientation_and_spacing_give_the_mask_of_the_index_space(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    axes = nearest_rotation(rng.normal(size=(3, 3)))
    grid = Geometry(GRID.size, tuple(rng.uniform(0.4, 5, 3)), tuple(rng.uniform(-900, 900, 3)), tuple(axes.ravel()))
    n = int(rng.integers(3, 30))
    angle = (np.arange(n) + rng.random(n) * 0.9) * 2 * np.pi / n
    outline = np.array([20, 15]) + (rng.uniform(2, 12, n) * [np.cos(angle), np.sin(angle)]).T
    contours = [flat(outline + 0.3 * z, z) for z in range(3, 8)]
    path = tmp_path_factory.mktemp("any") / "rtstruct.dcm"
    # 16 characters are all that DICOM gives a number: 1e-9 mm here.
    save(rtstruct({"roi": placed(contours, grid)}, digits=11), path)
    found = rtstruct_mask(path, None, grid, FRAME)
    expected = np.zeros(GRID.shape, dtype=np.uint8)
    for z in range(3, 8):
        expected[z] = inside([outline + 0.3 * z], Window(0, 40, 0, 30))
    np.testing.assert_array_equal(found.volume.array, expected)
    assert found.warnings == []


@pytest.mark.parametrize("axis", [0, 1])
def test_sagittal_and_coronal_contours_are_filled_on_their_own_planes(convert, axis):
    square = np.array([[2.5, 3.5], [9.5, 3.5], [9.5, 8.5], [2.5, 8.5]])
    contours = [Drawn(np.insert(square, axis, at, axis=1)) for at in range(5, 9)]
    found = convert(contours)
    expected = np.zeros(GRID.shape, dtype=np.uint8)
    expected[(slice(4, 9), slice(3, 10), slice(5, 9)) if axis == 0 else (slice(4, 9), slice(5, 9), slice(3, 10))] = 1
    np.testing.assert_array_equal(found.volume.array, expected)
    assert "planes of the image's" in found.warnings[0]


def test_implicit_and_explicit_files_and_undefined_lengths_give_the_same(tmp_path):
    dataset = rtstruct({"roi": [flat(SQUARE, 5)]})
    masks = []
    for implicit in (False, True):
        for undefined in (False, True):
            dataset["ROIContourSequence"].is_undefined_length = undefined
            path = save(dataset, tmp_path / f"{implicit}{undefined}.dcm", implicit)
            masks.append(rtstruct_mask(path, None, GRID, FRAME).volume.array)
    assert masks[0].sum() == 100
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


# Holes and doubles

INNER = np.array([[13.0, 11], [17, 11], [17, 15], [13, 15]])


@pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR"])
def test_a_contour_within_another_is_a_hole(convert, kind):
    found = convert([flat(INNER, 5, kind), flat(SQUARE, 5, kind)])
    assert planes(found)[5] == 100 - 16
    assert found.warnings == []


def test_a_keyhole_contour_has_its_hole(convert):
    keyhole = np.concatenate([SQUARE, SQUARE[:1], INNER, INNER[:1]])
    found = convert([flat(keyhole, 5)])
    assert planes(found)[5] == 100 - 16
    assert found.warnings == []


def test_a_contour_that_is_there_twice_counts_once(convert):
    found = convert([flat(SQUARE, 5), flat(np.roll(SQUARE[::-1], 1, axis=0), 5)])
    assert planes(found)[5] == 100
    assert found.warnings == ["1 contours are there twice, and count once"]


def test_contours_that_cross_are_warned_of(convert):
    found = convert([flat(SQUARE, 5), flat(SQUARE + 5, 5)])
    assert planes(found)[5] == 200 - 2 * 25
    assert "25 pixels" in found.warnings[0]


def test_contours_that_cross_themselves_are_counted(convert):
    """A figure of eight, and a walk of one and a half times around, whose overlap counts as outside."""
    eight = np.array([[5.0, 5], [15, 15], [15, 5], [5, 15]])
    twice = np.array([[5.0, 5], [25, 5], [25, 15], [15, 15], [15, 2], [20, 2], [20, 20], [5, 20]])
    found = convert([flat(eight, 4), flat(SQUARE, 5), flat(twice, 6)])
    assert planes(found)[4] == 50
    assert found.warnings == ["2 contours cross themselves: what such a one surrounds twice counts as outside"]


def test_separate_contours_of_a_slice_are_all_filled(convert):
    found = convert([flat(SQUARE, 5), flat(SQUARE + np.array([12, 0]), 5)])
    assert planes(found)[5] == 200
    assert found.warnings == []


# Between the slices


def test_contours_half_a_slice_off_keep_number_and_place(convert):
    found = convert([flat(SQUARE, z + 0.5) for z in (3, 4, 5)])
    assert planes(found) == [0, 0, 0, 100, 100, 100, *[0] * 6]
    assert "0.5 mm from the slices" in found.warnings[0]


def test_contours_within_a_twentieth_of_a_slice_are_on_it(convert):
    found = convert([flat(SQUARE, z + 0.04) for z in (3, 4, 5)])
    assert planes(found) == [0, 0, 0, 100, 100, 100, *[0] * 6]
    assert found.warnings == []


def test_contours_on_every_other_slice_are_interpolated(convert):
    squares = {3: 4.0, 5: 8.0, 7: 4.0}
    found = convert([square(side, z) for z, side in squares.items()])
    assert planes(found) == [0, 0, 0, 16, 36, 64, 36, 16, 0, 0, 0, 0]
    assert found.facts["slices_interpolated"] == 2
    assert "2 slices were interpolated" in found.warnings[0]


def test_a_cone_of_coarse_contours_has_its_volume(convert):
    # Between circles the mean signed distance is the circle of the mean radius: the cone itself.
    grid = Geometry((100, 100, 41), (0.5, 0.5, 1.0), (0, 0, 0))
    t = np.linspace(0, 2 * np.pi, 500, endpoint=False)
    rings = [
        Drawn(np.stack([25.1 + r * np.cos(t), 25.2 + r * np.sin(t), np.full(500, z)], axis=1))
        for z, r in ((0.3, 20), (10.3, 15), (20.3, 10), (30.3, 5))
    ]
    found = convert(rings, geometry=grid)
    for z in range(1, 31):
        assert planes(found)[z] * 0.25 == pytest.approx(math.pi * (20 - 0.5 * (z - 0.3)) ** 2, rel=0.02)


def test_contours_finer_than_the_slices_are_taken_where_the_slices_are(convert):
    # Half-slice distance, and a square that grows with z: each slice takes the square at its own height.
    contours = [square(2 * z, z) for z in np.arange(2, 6.1, 0.5)]
    assert planes(convert(contours)) == [0, 0, 16, 36, 64, 100, 144, *[0] * 5]


def test_gaps_stay_empty_and_are_warned_of(convert):
    found = convert([flat(SQUARE, z) for z in (2, 3, 4, 6, 7, 10)])
    assert [z for z, n in enumerate(planes(found)) if n] == [2, 3, 4, 6, 7, 10]
    assert found.warnings == ["3 slices between contoured ones were left empty: no contour, or none that overlap"]
    assert found.facts["slices_left_empty"] == 3


def test_one_gap_in_three_contours_is_a_gap(convert):
    assert [z for z, n in enumerate(planes(convert([flat(SQUARE, z) for z in (4, 5, 7)]))) if n] == [4, 5, 7]


def test_slices_that_the_image_was_interpolated_at_are_no_gap(convert):
    contours = [flat(SQUARE, z) for z in (2, 3, 5, 6, 8)]
    uids = [f"1.{z}" if z != 4 else "" for z in range(12)]
    found = convert(contours, sop_uids=uids)
    assert [z for z, n in enumerate(planes(found)) if n] == [2, 3, 4, 5, 6, 8]
    assert (found.facts["slices_interpolated"], found.facts["slices_left_empty"]) == (1, 1)


@pytest.mark.parametrize("z", [5.3, 4.6, 5.0])
def test_a_single_contour_is_the_nearest_slice(convert, z):
    assert [k for k, n in enumerate(planes(convert([flat(SQUARE, z)]))) if n] == [5]


@given(st.lists(st.floats(0.02, 3), min_size=2, max_size=12), st.floats(0, 2))
@settings(max_examples=60, deadline=None)
def test_no_slice_is_filled_away_from_contours(tmp_path_factory, steps, first):
    at = np.cumsum([first, *steps])
    path = tmp_path_factory.mktemp("steps") / "rtstruct.dcm"
    grid = Geometry((40, 30, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    at = np.append(at, np.ceil(at[-1]) + 2)  # on a slice, so that the mask isn't empty
    found = rtstruct_mask(save(rtstruct({"r": [flat(SQUARE, z) for z in at]}), path), None, grid, FRAME)
    counts = planes(found)
    assert set(counts) <= {0, 100}  # the same square on every plane, interpolated or not
    for z in np.flatnonzero(counts):
        assert at[0] - 1.5 <= z <= at[-1] + 1.5
    for z in np.round(at[np.abs(at - np.round(at)) <= 0.05]).astype(int):
        assert counts[z] == 100


# What is left out or refused


def test_points_and_open_lines_are_left_out_and_said(convert):
    line = flat(SQUARE + 1, 6, "OPEN_PLANAR")
    point = flat(SQUARE[:1], 6, "POINT")
    found = convert([flat(SQUARE, 5), line, point])
    assert planes(found)[5:7] == [100, 0]
    assert found.warnings == ["2 contours of the ROI are points or open lines, and were left out"]
    with pytest.raises(CaseError, match="no closed contour"):
        convert([line, point])


def test_degenerate_contours_are_left_out_and_said(convert):
    line = np.array([[3.0, 3], [9, 3], [15, 3]])
    found = convert([flat(SQUARE, 5), flat(line, 5), flat(line[:2], 5), flat(line[:1], 5)])
    assert planes(found)[5] == 100
    assert found.warnings == ["3 contours of the ROI have no area, and were left out"]


def test_repeated_points_change_nothing(convert):
    assert planes(convert([flat(np.repeat(np.vstack([SQUARE, SQUARE[:1]]), 3, axis=0), 5)]))[5] == 100


def test_contours_across_the_slices_are_refused(convert):
    tilted = np.column_stack([SQUARE, 5 + 0.2 * (SQUARE[:, 0] - 10)])
    with pytest.raises(CaseError, match="1 of 2 contours are not parallel"):
        convert([Drawn(tilted), flat(SQUARE, 5)])


def test_contours_outside_of_the_image_are_refused_or_cut_off(convert):
    with pytest.raises(CaseError, match="all 1 contours of the ROI lie outside"):
        convert([flat(SQUARE + 100, 5)])
    with pytest.raises(CaseError, match="all 1 contours"):
        convert([flat(SQUARE, 50)])
    found = convert([flat(SQUARE + np.array([25, 0]), 5), flat(SQUARE, 11), flat(SQUARE, 12)])
    assert planes(found)[5] == 50
    assert planes(found)[11] == 100
    assert "2 of 3 contours lie outside of the image or leave it" in found.warnings[0]
    with pytest.raises(CaseError, match="no frame of reference ties"):
        convert([flat(SQUARE + np.array([25, 0]), 5)], frame=None)


def test_wild_points_take_neither_time_nor_memory(convert):
    started = time.process_time()
    found = convert([flat(np.array([[0.2, 0.2], [1e12, 0.2], [1e12, 1e12]]), 5)])
    assert planes(found)[5] == sum(40 - max(y, 1) for y in range(1, 30))
    assert time.process_time() - started < 2


def test_an_roi_without_a_voxel_is_refused(convert):
    with pytest.raises(CaseError, match="no voxel's centre"):
        convert([flat(np.array([[10.1, 8.1], [10.9, 8.1], [10.9, 8.9]]), 5)])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda item: item.__setattr__("NumberOfContourPoints", 5), "no readable points"),
        (lambda item: item.__setattr__("ContourData", item.ContourData[:-1]), "no readable points"),
        (lambda item: item.__delattr__("ContourData"), "no readable points"),
    ],
)
def test_damaged_points_are_refused(tmp_path, damage, reason):
    dataset = rtstruct({"roi": [flat(SQUARE, 5), flat(SQUARE, 6)]})
    damage(dataset.ROIContourSequence[0].ContourSequence[1])
    with pytest.raises(CaseError, match=reason):
        rtstruct_mask(save(dataset, tmp_path / "a.dcm"), None, GRID, FRAME)


@pytest.mark.parametrize("text", [b"1.x", b"nan", b"inf", b"1e999"])
def test_points_that_are_no_numbers_are_refused(tmp_path, text):
    path = save(rtstruct({"roi": [flat(SQUARE + 0.123, 5)]}), tmp_path / "a.dcm")
    content = path.read_bytes()
    assert b"10.123" in content
    path.write_bytes(content.replace(b"10.123", text.ljust(6), 1))
    with pytest.raises(CaseError, match="no readable points"):
        rtstruct_mask(path, None, GRID, FRAME)


def test_every_truncated_file_is_refused(tmp_path):
    whole = save(rtstruct({"roi": [flat(SQUARE, 5)], "Doe^John": [flat(SQUARE, 6)]}), tmp_path / "a.dcm").read_bytes()
    path = tmp_path / "cut.dcm"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CaseError):
            rtstruct_mask(path, "roi", GRID, FRAME)


# Which ROI

SEVERAL = {
    "GTV": [flat(SQUARE, 5)],
    "GTV_nodes": [flat(SQUARE + 3, 5), flat(SQUARE + 3, 6)],
    "Doe^John": [],
    "gtv": [flat(SQUARE, 7)],
    "7": [flat(SQUARE, 8)],
}


@pytest.mark.parametrize(
    ("wanted", "slices"),
    [
        ("GTV", [5]),
        ("gtv", [7]),
        (" GTV ", [5]),
        ("gtv_NODES", [5, 6]),
        ("*_node?", [5, 6]),
        ("#2", [5, 6]),
        ("2", [5, 6]),
        ("7", [8]),
        ("#5", [8]),
        ("union:gtv*", [5, 6, 7]),
        ("UNION:*o*", [5, 6]),
    ],
)
def test_the_roi_is_chosen_by_name_pattern_or_number(convert, wanted, slices):
    assert [z for z, n in enumerate(planes(convert(SEVERAL, wanted))) if n] == slices


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (None, "mask_roi doesn't say which"),
        ("Gtv", "mask_roi fits 2 of them"),
        ("gtv*", "mask_roi fits 3 of them"),
        ("tumour", "none is what mask_roi asks for"),
        ("#9", "none is what mask_roi asks for"),
        ("Doe^John", "the ROI #3 of the mask is empty"),
    ],
)
def test_what_fits_none_or_several_is_refused_without_any_name(convert, wanted, reason):
    with pytest.raises(CaseError, match=reason) as caught:
        convert(SEVERAL, wanted)
    message = str(caught.value).replace("mask_roi", "")
    assert "Doe" not in message
    assert "GTV" not in message.upper()
    if "empty" not in reason:
        assert "5 ROIs (#1: 1 contour, #2: 2 contours, #3: empty, #4: 1 contour, #5: 1 contour)" in message


def test_the_only_roi_with_contours_needs_no_name(convert):
    assert planes(convert({"a": [], "b": [flat(SQUARE, 4)]}))[4] == 100


# Belonging to the image


def test_another_frame_of_reference_is_refused(convert):
    with pytest.raises(CaseError, match="another frame of reference") as caught:
        convert([flat(SQUARE, 5)], frame="9.8.7")
    assert "9.8.7" not in str(caught.value)
    assert FRAME not in str(caught.value)


def test_an_unknown_frame_of_reference_is_warned_of(convert):
    for frame, written in ((None, FRAME), (FRAME, None), (None, None), ("", FRAME)):
        found = convert([flat(SQUARE, 5)], frame=frame, written_frame=written)
        assert "by position only" in found.warnings[0]


def test_without_a_frame_of_reference_slices_that_are_named_tie_contours_to_the_image(convert):
    uids = [f"1.9.{z}" for z in range(12)]
    found = convert([flat(SQUARE, z, image_uid=f"1.9.{z}") for z in (4, 5)], frame=None, sop_uids=uids)
    assert "by the slices that the mask names" in found.warnings[0]
    with pytest.raises(CaseError, match="contours lie between slices, and no frame of reference ties"):
        convert([flat(SQUARE, z + 0.4) for z in (4, 5, 6)], frame=None)


def test_planes_whose_outlines_do_not_overlap_have_nothing_between_them(convert):
    found = convert([flat(SQUARE, 2), flat(SQUARE, 4), flat(SQUARE + np.array([15, 0]), 6)])
    assert [z for z, n in enumerate(planes(found)) if n] == [2, 3, 4, 6]
    assert "1 slices between contoured ones were left empty" in found.warnings[-1]


def test_thousands_of_islands_on_a_plane_take_seconds(convert):
    grid = Geometry((200, 200, 3), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    corner = np.array([[0.4, 0.4], [1.6, 0.4], [1.6, 1.6], [0.4, 1.6]])
    dots = [flat(corner + np.array([x, y]), 1) for x in range(0, 80, 2) for y in range(0, 80, 2)]
    started = time.process_time()
    found = convert(dots, geometry=grid)
    assert found.volume.array.sum() == 1600
    assert time.process_time() - started < 10


def test_contours_on_slices_of_the_series_are_silent_and_others_are_warned_of(convert):
    uids = [f"1.9.{z}" for z in range(12)]
    drawn = [flat(SQUARE, z, image_uid=f"1.9.{z}") for z in (4, 5, 6)]
    assert convert(drawn, sop_uids=uids).warnings == []
    assert (
        "1 of 4 contours were drawn on slices"
        in convert([*drawn, flat(SQUARE, 7, image_uid="1.8")], sop_uids=uids).warnings[0]
    )
    assert "another series" in convert([flat(SQUARE, 5, image_uid="1.8")], sop_uids=uids).warnings[0]


def test_contours_that_lie_elsewhere_than_the_slices_they_name_are_refused(convert):
    uids = [f"1.9.{z}" for z in range(12)]
    with pytest.raises(CaseError, match="3 of 3 contours lie more than a slice"):
        convert([flat(SQUARE, z, image_uid=f"1.9.{z + 3}") for z in (4, 5, 6)], sop_uids=uids)
    # A program that writes one slice for all of them says nothing by that.
    found = convert([flat(SQUARE, z, image_uid="1.9.0") for z in (4, 5, 6)], sop_uids=uids)
    assert "their position counts" in found.warnings[0]


def test_no_file_of_another_kind_is_taken(tmp_path):
    path = tmp_path / "Doe_John.dcm"
    for content in (b"", b"hello", b"\0" * 4000, bytes(range(256)) * 20):
        path.write_bytes(content)
        with pytest.raises(CaseError) as caught:
            rtstruct_mask(path, None, GRID, FRAME)
        assert "Doe" not in str(caught.value)
    dataset = rtstruct({"roi": [flat(SQUARE, 5)]})
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(CaseError, match="no RTSTRUCT"):
        rtstruct_mask(save(dataset, path), None, GRID, FRAME)


def test_a_body_contour_of_real_size_takes_less_than_three_cpu_seconds(tmp_path):
    grid = Geometry((512, 512, 300), (0.8, 0.8, 1.0), (-205.0, -205.0, -150.0))
    t = np.linspace(0, 2 * np.pi, 1000, endpoint=False)
    body = [
        Drawn(np.stack([170 * r * np.cos(t), 120 * r * np.sin(t), np.full(1000, z - 150.0)], axis=1))
        for z in range(300)
        for r in [1 + 0.05 * np.sin(7 * t) + 0.0002 * z]
    ]
    path = save(rtstruct({"BODY": body}), tmp_path / "body.dcm")
    started = time.process_time()
    found = rtstruct_mask(path, None, grid, FRAME)
    assert time.process_time() - started < 3
    assert found.volume.array.any(axis=(1, 2)).all()
