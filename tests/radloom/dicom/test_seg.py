"""DICOM SEG to masks; highdicom writes the files and is the oracle, SimpleITK the one of resampling."""

import math

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import ct_datasets, phantom, write_datasets, write_file
from dicom_masks import save, write_seg
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless
from scipy.spatial.transform import Rotation

from radloom.dicom.ct import read_ct
from radloom.dicom.seg import seg_mask
from radloom.dicom.series import choose_series, find_series
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, nearest_rotation, to_sitk

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (7, 11, 13)  # 143 pixels a frame: 17 bytes and 7 bits
FRAME = "1.2.840.99.1"
SPACING, ORIGIN = (0.8, 0.9, 2.5), (-50.0, 30.0, 700.0)
GRID = Geometry(SHAPE[::-1], SPACING, ORIGIN)


def series(geometry=GRID, frame=FRAME):
    return ct_datasets(
        phantom(geometry.shape),
        spacing=geometry.spacing,
        origin=geometry.origin,
        direction=geometry.direction,
        frame_of_reference=frame,
    )


def uids(images):
    return [image.SOPInstanceUID for image in images]


def blobs(shape=SHAPE, segments=1, seed=0):
    """Random masks (z, y, x, segment), each slice of a segment filled with some chance only."""
    rng = np.random.default_rng(seed)
    array = (rng.random((*shape, segments)) < 0.4) & (rng.random((shape[0], 1, 1, segments)) < 0.7)
    array[shape[0] // 2, 3, 4] = True
    return array.astype(np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "seg.dcm"


# What is in the file


@given(st.integers(1, 3), st.integers(3, 12), st.integers(5, 12), st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_bits_are_unpacked_whatever_the_size_of_a_frame(tmp_path_factory, segments, rows, columns, seed):
    path = tmp_path_factory.mktemp("bits") / "seg.dcm"
    shape = (4, rows, columns)
    geometry = Geometry(shape[::-1], SPACING, ORIGIN)
    images = series(geometry)
    masks = blobs(shape, segments, seed) if columns > 4 and rows > 3 else np.ones((*shape, segments), np.uint8)
    write_seg(path, images, masks, labels=[f"s{n}" for n in range(segments)])
    for n in range(segments):
        found = seg_mask(path, f"#{n + 1}", geometry, FRAME, uids(images))
        np.testing.assert_array_equal(found.volume.array, masks[..., n])
        assert found.warnings == []
        assert found.facts["frames"] == masks[..., n].any(axis=(1, 2)).sum()


def test_equal_to_what_highdicom_reads(path):
    import highdicom

    images = series()
    write_seg(path, images, blobs(segments=3), labels=["a", "b", "c"])
    other = highdicom.seg.segread(path).get_pixels_by_source_instance(
        uids(images), assert_missing_frames_are_empty=True
    )
    for n, label in enumerate("abc"):
        np.testing.assert_array_equal(seg_mask(path, label, GRID, FRAME).volume.array, other[..., n])


def test_frames_lie_where_their_positions_say_in_any_order(path):
    images, masks = series(), blobs()
    order = [4, 0, 6, 2, 5, 1, 3]
    write_seg(path, [images[k] for k in order], masks[order])
    dataset = pydicom.dcmread(path)
    groups = list(dataset.PerFrameFunctionalGroupsSequence)
    bits = np.unpackbits(np.frombuffer(dataset.PixelData, np.uint8), bitorder="little")
    frames = bits[: len(groups) * 143].reshape(-1, 143)
    shuffled = np.random.default_rng(1).permutation(len(groups))
    dataset.PerFrameFunctionalGroupsSequence = [groups[k] for k in shuffled]
    dataset.PixelData = np.packbits(frames[shuffled].ravel(), bitorder="little").tobytes() + b"\0" * 3
    save(dataset, path)
    np.testing.assert_array_equal(seg_mask(path, None, GRID, FRAME, uids(images)).volume.array, masks[..., 0])


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless, JPEG2000Lossless])
def test_label_maps_and_fractions_in_compressed_syntaxes(path, syntax):
    shape = (4, 33, 35)  # encoders of JPEG 2000 want 32
    grid = Geometry(shape[::-1], SPACING, ORIGIN)
    images = series(grid)
    labels = np.random.default_rng(3).integers(0, 4, shape).astype(np.uint8)
    write_seg(path, images, labels, labels=["a", "b", "c"], kind="LABELMAP")
    write_file(path, pydicom.dcmread(path), syntax=syntax)
    for n, label in enumerate("abc", start=1):
        np.testing.assert_array_equal(seg_mask(path, label, grid, FRAME).volume.array, labels == n)
    np.testing.assert_array_equal(seg_mask(path, "union:[ac]", grid, FRAME).volume.array, (labels == 1) | (labels == 3))
    fractions = np.round(np.random.default_rng(4).random(shape), 2).astype(np.float32)
    write_seg(path, images, fractions, kind="FRACTIONAL", max_fractional_value=100)
    write_file(path, pydicom.dcmread(path), syntax=syntax)
    found = seg_mask(path, None, grid, FRAME)
    np.testing.assert_array_equal(found.volume.array, np.round(fractions * 100) >= 50)
    assert found.facts["type"] == "fractional"


def test_label_maps_of_sixteen_bits(path):
    labels = np.zeros(SHAPE, dtype=np.uint16)
    labels[2:4, 3:7, 2:9] = 300
    write_seg(path, series(), labels, labels=[f"s{n}" for n in range(1, 301)], kind="LABELMAP")
    assert pydicom.dcmread(path).BitsAllocated == 16
    np.testing.assert_array_equal(seg_mask(path, "s300", GRID, FRAME).volume.array, labels == 300)
    with pytest.raises(CaseError, match="#7 of the mask is empty"):
        seg_mask(path, "s7", GRID, FRAME)


def test_segments_are_chosen_by_label_pattern_or_number(path):
    masks = blobs(segments=3)
    write_seg(path, series(), masks, labels=["Doe^John", "GTV primary", "gtv node"])
    for wanted, n in (("gtv prim*", 1), ("#3", 2), ("3", 2), ("GTV NODE", 2), ("doe*", 0)):
        np.testing.assert_array_equal(seg_mask(path, wanted, GRID, FRAME).volume.array, masks[..., n])
    both = seg_mask(path, "union:gtv*", GRID, FRAME)
    np.testing.assert_array_equal(both.volume.array, masks[..., 1] | masks[..., 2])
    for wanted, reason in ((None, "doesn't say which"), ("gtv*", "fits 2 of them"), ("liver", "none is what")):
        with pytest.raises(CaseError, match=reason) as caught:
            seg_mask(path, wanted, GRID, FRAME)
        assert "Doe" not in str(caught.value)
        assert "3 segments" in str(caught.value)


# Where it lies


@given(st.permutations([0, 1, 2]), st.tuples(*[st.booleans()] * 3), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_other_axes_and_a_part_of_the_grid_are_copied(tmp_path_factory, order, flips, seed):
    # The image is the SEG's series with axes permuted and flipped, and some planes more or less on each side.
    path = tmp_path_factory.mktemp("axes") / "seg.dcm"
    turned = nearest_rotation(np.random.default_rng(seed).normal(size=(3, 3)))
    turned[:, 2] *= np.sign(np.linalg.det(turned))
    drawn = Geometry(SHAPE[::-1], SPACING, ORIGIN, tuple(turned.ravel()))
    masks = blobs(seed=seed)
    write_seg(path, series(drawn), masks)
    rng = np.random.default_rng(seed)
    margins = rng.integers(-2, 4, (3, 2))
    first = np.array([drawn.size[a] - 1 + margins[a, 0] if flips[a] else -margins[a, 0] for a in range(3)])
    axes = turned * np.where(flips, -1, 1)
    image = Geometry(
        tuple(int(drawn.size[a] + margins[a].sum()) for a in order),
        tuple(drawn.spacing[a] for a in order),
        tuple(drawn.to_physical(first)),
        tuple(axes[:, order].ravel()),
    )
    expected = np.zeros(image.shape, dtype=np.uint8)
    for z, y, x in np.argwhere(masks[..., 0]):
        at = np.round(image.to_index(drawn.to_physical((x, y, z)))).astype(int)[::-1]
        if (at >= 0).all() and (at < image.shape).all():
            expected[tuple(at)] = 1
    if not expected.any():
        return
    found = seg_mask(path, None, image, FRAME)
    np.testing.assert_array_equal(found.volume.array, expected)
    lost = masks.sum(dtype=int) - expected.sum(dtype=int)
    assert [f"{100 * lost / masks.sum():.3g} % of the segment" in warning for warning in found.warnings] == [
        True
    ] * int(lost > 0)
    assert not found.facts["resampled"]


@pytest.mark.parametrize("angle", [0, 0.2])
def test_another_grid_is_interpolated_as_itk_does(path, angle):
    axes = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    image = Geometry((40, 30, 20), (0.5, 0.4, 1.1), (-51, 29, 699), tuple(axes.ravel()))
    z, y, x = np.mgrid[:7, :11, :13]
    ball = ((z - 3) ** 2 + ((y - 5) / 2) ** 2 + ((x - 6) / 2) ** 2 < 4.5).astype(np.uint8)
    write_seg(path, series(), ball)
    found = seg_mask(path, None, image, FRAME)
    grid = sitk.GetImageFromArray(np.zeros(image.shape, np.uint8))
    grid.SetOrigin(image.origin)
    grid.SetSpacing(image.spacing)
    grid.SetDirection(image.direction)
    other = sitk.Resample(to_sitk(Volume(ball.astype(np.float64), GRID)), grid, sitk.Transform(), sitk.sitkLinear, 0.0)
    np.testing.assert_array_equal(found.volume.array, sitk.GetArrayFromImage(other) >= 0.5 - 1e-6)
    assert found.facts["resampled"]
    assert "0.8 x 0.9 x 2.5 mm" in found.warnings[0]
    # Voxel by voxel it may differ by rounding; the volume may not.
    assert found.volume.array.sum() * image.voxel_mm3 == pytest.approx(ball.sum() * GRID.voxel_mm3, rel=0.1)


def test_an_almost_equal_spacing_is_not_taken_for_the_same_grid(path):
    # The last column lies exactly one voxel off: near voxels of the image, but of other ones.
    image = Geometry((13, 11, 7), (0.8 * 12 / 13, 0.9, 2.5), ORIGIN)
    write_seg(path, series(), blobs())
    assert seg_mask(path, None, image, FRAME).facts["resampled"]


def test_what_lies_outside_of_the_image_is_said_or_refused(path):
    write_seg(path, series(), np.ones(SHAPE, np.uint8))
    for shift, resampled in ((0, False), (0.3, True)):
        half = Geometry((13, 11, 7), SPACING, tuple(GRID.to_physical((6 + shift, 0, 0))))
        found = seg_mask(path, None, half, FRAME)
        assert found.facts["resampled"] == resampled
        assert f"{100 * 6 / 13:.3g} % of the segment lies outside" in found.warnings[-1]
        with pytest.raises(CaseError, match="nothing of the segment is in the image"):
            seg_mask(path, None, Geometry((13, 11, 7), SPACING, (500 + shift, 30, 700)), FRAME)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_slices_without_a_frame_are_empty(path, step):
    # Frames on every other slice only: the image's planes, or the distance that the file names, tell of the empty ones.
    images, masks = series(), np.zeros(SHAPE, np.uint8)
    masks[::step, 2:9, 3:8] = 1
    write_seg(path, images, masks)
    np.testing.assert_array_equal(seg_mask(path, None, GRID, FRAME, uids(images)).volume.array, masks)


# A tilted gantry


@pytest.mark.parametrize("degrees", [18.5, -12.0])
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL"])
def test_a_mask_of_a_tilted_series_is_sheared_as_its_ct_is(tmp_path, path, degrees, kind):
    """The CT is the mask, 0 as -1000 HU and 1 as 0 HU, so that half a mask is -500 HU where slices cover it.

    The mask begins at the CT's third slice, which lies between the pixels of the upright grid.
    """
    shape = (8, 30, 26)
    rng = np.random.default_rng(5)
    masks = np.zeros(shape)
    masks[2:7, 6:24, 5:21] = (
        rng.random((5, 18, 16)) < 0.6 if kind == "BINARY" else rng.integers(0, 201, (5, 18, 16)) / 200
    )
    axes = Rotation.from_euler("x", -degrees, degrees=True).as_matrix()
    images = ct_datasets(
        1000 * masks - 1000, direction=axes.ravel(), step=(0.13, 0, 3.07), frame_of_reference=FRAME, slope=0.25
    )
    write_datasets(tmp_path / "ct", images)
    ct = read_ct(choose_series(find_series((tmp_path / "ct").iterdir())))
    assert ct.facts["tilt_degrees"] == pytest.approx(abs(degrees), abs=0.3)
    options = {"max_fractional_value": 200} if kind == "FRACTIONAL" else {}
    drawn = masks[2:].astype(np.uint8 if kind == "BINARY" else np.float32)
    write_seg(path, images[2:], drawn, kind=kind, **options)
    found = seg_mask(path, None, ct.volume.geometry, FRAME, ct.sop_uids)
    sure = np.abs(ct.volume.array + 500) > 1e-3  # a tie may go either way by rounding
    assert sure.mean() > 0.99
    expected = ct.volume.array >= -500
    assert expected.sum() > 400
    np.testing.assert_array_equal(found.volume.array[sure], expected[sure])
    assert found.facts["resampled"]
    assert found.warnings == [
        "the frames of the SEG lie askew, as with a tilted gantry: they were sheared as the image was"
    ]


def test_what_of_a_tilted_mask_leaves_the_image_is_said(path):
    masks = np.ones(SHAPE, np.uint8)
    write_seg(path, ct_datasets(phantom(SHAPE), step=(0.2, 0, 2.5), frame_of_reference=FRAME), masks)
    found = seg_mask(path, None, Geometry((10, 11, 5), SPACING, ORIGIN), FRAME)
    # Slice k is shifted by k / 4 pixels; at a half both sides count.
    assert found.volume.array.sum(axis=(1, 2)).tolist() == [110, 110, 110, 99, 99]
    assert "% of the segment lies outside" in found.warnings[-1]


# An interpolated image


def test_slices_that_the_image_was_interpolated_at_are_filled_between_their_neighbours(path):
    """Discs of 10 and 4 mm: half way there is one of 7 mm; what is empty in the image's own slices stays so."""
    grid = Geometry((40, 40, 8), (0.8, 0.9, 2.5), ORIGIN)
    y, x = np.mgrid[:40, :40]
    masks = np.zeros(grid.shape, np.uint8)
    for z, radius in ((1, 10), (3, 4), (5, 4), (7, 4)):
        masks[z] = ((x - 19.5) * 0.8) ** 2 + ((y - 19.5) * 0.9) ** 2 < radius**2
    images = series(grid)
    made = [2, 6]
    kept = [z for z in range(8) if z not in made]
    write_seg(path, [images[z] for z in kept], masks[kept])
    names = ["" if z in made else uid for z, uid in enumerate(uids(images))]
    found = seg_mask(path, None, grid, FRAME, names)
    np.testing.assert_array_equal(found.volume.array[kept], masks[kept])
    np.testing.assert_array_equal(found.volume.array[6], masks[5])
    assert math.sqrt(found.volume.array[2].sum() * 0.72 / math.pi) == pytest.approx(7, abs=0.4)  # half a pixel
    assert found.warnings == ["the SEG has nothing on 2 slices that the image was interpolated at: so was the mask"]
    assert not seg_mask(path, None, grid, FRAME, uids(images)).volume.array[made].any()


# Belonging to the image


def test_another_frame_of_reference_is_refused_and_a_missing_one_said(path):
    write_seg(path, series(), blobs())
    with pytest.raises(CaseError, match="the SEG has another frame of reference") as caught:
        seg_mask(path, None, GRID, "9.9.9")
    assert "9.9.9" not in str(caught.value)
    assert "by position only" in seg_mask(path, None, GRID, None).warnings[0]
    with pytest.raises(CaseError, match="another grid than the image, and no frame of reference"):
        seg_mask(path, None, Geometry((13, 11, 7), (0.7, 0.9, 2.5), ORIGIN), None)


def test_frames_of_another_series_are_said(path):
    write_seg(path, series(), blobs())
    assert "another series" in seg_mask(path, None, GRID, FRAME, ["1.2"] * 7).warnings[0]


def test_frames_elsewhere_than_the_slices_they_were_drawn_on_are_refused(path):
    images = series()
    write_seg(path, images, np.ones(SHAPE, np.uint8))
    moved = [*uids(images)[3:], "1.1", "1.2", "1.3"]
    with pytest.raises(CaseError, match="4 of 4 frames lie more than a slice"):
        seg_mask(path, None, GRID, FRAME, moved)


# Bad input


def positions(dataset):
    return [group.PlanePositionSequence[0] for group in dataset.PerFrameFunctionalGroupsSequence]


def uneven(dataset):
    positions(dataset)[3].ImagePositionPatient[2] += 1.0


def shifted(dataset):
    positions(dataset)[3].ImagePositionPatient[1] += 0.4


def tilted_elsewhere(dataset):
    for k, position in enumerate(positions(dataset)):
        position.ImagePositionPatient[1] += 0.4 * k
        position.ImagePositionPatient[2] += 1.2


def two_frames(dataset):
    positions(dataset)[3].ImagePositionPatient = positions(dataset)[2].ImagePositionPatient


def skewed(dataset):
    dataset.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0.1, 1, 0]


def far(dataset):
    positions(dataset)[3].ImagePositionPatient[2] += 2.5e9


BROKEN = {
    "uneven": (uneven, "spaced unevenly"),
    "shifted": (shifted, "shifted against each other by up to 0.3"),
    "tilted elsewhere": (tilted_elsewhere, "askew, as with a tilted gantry, and on other planes"),
    "two frames": (two_frames, "two frames of a segment at one place"),
    "skewed": (skewed, "not orthonormal"),
    "far": (far, "voxels"),
    "no position": (lambda d: positions(d)[1].__delattr__("ImagePositionPatient"), "where it lies"),
    "more frames": (lambda d: d.__setattr__("NumberOfFrames", 9), "9 frames, but tells of 7"),
    "short": (lambda d: d.__setattr__("PixelData", d.PixelData[:60]), "cut short"),
    "no pixels": (lambda d: d.__delattr__("PixelData"), "can't be read"),
    "colour": (lambda d: d.__setattr__("SamplesPerPixel", 3), "can't be read"),
    "no type": (lambda d: d.__setattr__("SegmentationType", "DOE^JOHN"), "no known type"),
    "no size": (lambda d: d.__setattr__("Rows", 0), "voxels"),
    "huge size": (lambda d: d.__setattr__("Rows", 65535), "can't be read"),
    "no segments": (lambda d: d.__delattr__("SegmentSequence"), "has no segment"),
    "one number": (lambda d: d.SegmentSequence.append(d.SegmentSequence[0]), "tell them apart"),
    "no groups": (lambda d: d.__delattr__("PerFrameFunctionalGroupsSequence"), "7 frames, but tells of 0"),
    "other class": (lambda d: d.__setattr__("SOPClassUID", "1.2.840.10008.5.1.4.1.1.66.5"), "no SEG"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused_with_the_reason(path, name):
    change, reason = BROKEN[name]
    write_seg(path, series(), np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8), labels=["DOE^JANE"])
    dataset = pydicom.dcmread(path)
    change(dataset)
    save(dataset, path)
    with pytest.raises(CaseError, match=reason) as caught:
        seg_mask(path, None, GRID, FRAME)
    assert "DOE" not in str(caught.value)


def test_every_truncated_file_is_refused(path, tmp_path):
    write_seg(path, series(), np.ones(SHAPE, np.uint8))
    whole = path.read_bytes()
    cut = tmp_path / "cut.dcm"
    for length in [*range(0, len(whole) - 1, 37), len(whole) - 1]:
        cut.write_bytes(whole[:length])
        with pytest.raises(CaseError):
            seg_mask(cut, None, GRID, FRAME)
