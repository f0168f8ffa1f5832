"""Figures of ROIs: against scipy and brute force, and shifts that are found where a border shows them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from radloom.calibrate import Calibration
from radloom.images import Array, Geometry, Volume
from radloom.quality import blood_hu, box_of_rois, measure_rois, measure_scan
from radloom.quality_rois import outside_share

SPACING = (0.8, 1.2, 2.5)


def volume(array: Array, spacing: tuple[float, float, float] = SPACING) -> Volume:
    z, y, x = array.shape
    return Volume(array, Geometry((x, y, z), spacing, (0.0, 0.0, 0.0)))


def figures(
    mask: Array, image: Array | None = None, valid: Array | None = None, spacing: tuple[float, float, float] = SPACING
) -> dict[str, float | None]:
    labels = volume(mask.astype(np.uint8), spacing)
    box = box_of_rois(labels)
    assert box is not None
    image = np.zeros(mask.shape, np.int16) if image is None else image
    found = measure_rois(image[box], box, labels, {1: "tumour"}, None if valid is None else valid[box])
    return found["tumour"]


masks = arrays.arrays(bool, arrays.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=9)).filter(np.any)


@given(masks, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_counts_against_scipy_and_brute_force(mask: Array, random: object) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    image = rng.choice(np.array([-1000, -900, -899, 40, 2500, 2501], np.int16), mask.shape)
    valid = (rng.random(mask.shape) > 0.1).astype(np.uint8)
    found = figures(mask, image, valid)
    assert found["roi_volume_ml"] == pytest.approx(mask.sum() * 0.8 * 1.2 * 2.5 / 1000)
    assert found["roi_components"] == ndimage.label(mask, np.ones((3, 3, 3)))[1]
    inner = np.zeros_like(mask)
    inner[1:-1, 1:-1, 1:-1] = True
    assert found["roi_border_voxels"] == np.count_nonzero(mask & ~inner)
    beside = ndimage.binary_dilation(valid == 0, np.ones((3, 3, 3)))
    assert found["roi_padding_voxels"] == np.count_nonzero(mask & beside)
    slices = np.flatnonzero(mask.any(axis=(1, 2)))
    assert found["roi_to_first_slice_mm"] == pytest.approx(2.5 * slices[0])
    assert found["roi_to_last_slice_mm"] == pytest.approx(2.5 * (len(mask) - 1 - slices[-1]))
    assert found["roi_metal_share"] == pytest.approx(np.mean(image[mask] > 2500))
    assert found["roi_air_share"] == pytest.approx(np.mean(image[mask] < -900))


@given(masks)
@settings(max_examples=30, deadline=None)
def test_mirror_images_have_the_same_figures(mask: Array) -> None:
    one = figures(mask)
    for axis in range(3):
        other = figures(np.ascontiguousarray(np.flip(mask, axis)))
        if axis == 0:
            ends = ("roi_to_first_slice_mm", "roi_to_last_slice_mm")
            other[ends[0]], other[ends[1]] = other[ends[1]], other[ends[0]]
        assert other == pytest.approx(one)


def ball(centre: tuple[float, float, float], radius: float, shape: tuple[int, int, int], spacing: Array) -> Array:
    """A ball (mm) in a volume (z, y, x)."""
    grid = np.indices(shape) * spacing[:, None, None, None]
    return np.sqrt(((grid - np.array(centre)[:, None, None, None]) ** 2).sum(axis=0)) <= radius


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (0.98, 0.98, 3.27)])
def test_shifts_of_a_ball_are_found(spacing: tuple[float, float, float]) -> None:
    steps = np.array(spacing[::-1])
    shape = tuple(int(np.ceil(90 / step)) for step in steps)
    middle = (np.array(shape) // 2) * steps
    organ = ball(tuple(middle), 15.0, shape, steps)
    noise = np.random.default_rng(0).normal(0, 12, shape)
    image = np.rint(ndimage.gaussian_filter(np.where(organ, 100.0, 0.0), 0.6 / steps) + noise).astype(np.int16)
    grid = float(np.linalg.norm(np.maximum(1, np.rint(2 / steps)) * steps))
    for shift in [(0, 0, 0), (0, 0, 6), (0, -6, 0), (6.54, 0, 0), (3.27, 4, -4)]:
        voxels = np.rint(np.array(shift) / steps).astype(int)
        found = figures(np.roll(organ, voxels, (0, 1, 2)), image, spacing=spacing)
        wanted = float(np.linalg.norm(voxels * steps))
        assert found["roi_shift_mm"] == pytest.approx(wanted, abs=0.75 * grid), shift
        gain = found["roi_shift_gain"]
        assert gain is not None
        assert gain < 1.2 if wanted == 0 else gain > 1.5, shift


def test_no_shift_is_told_without_a_border() -> None:
    steps = np.array([2.0, 2.0, 2.0])
    organ = ball((44, 44, 44), 15.0, (45, 45, 45), steps)
    noise = np.random.default_rng(0).normal(0, 30, organ.shape)
    plain = figures(organ, np.rint(noise).astype(np.int16), spacing=(2.0, 2.0, 2.0))
    assert (plain["roi_shift_mm"], plain["roi_shift_gain"]) == (None, None)
    # Layers look the same after a shift along them or by their period: no shift stands out.
    layers = np.broadcast_to(100.0 * (np.arange(45) // 3 % 2)[None, None, :], organ.shape)
    layered = figures(organ, np.rint(layers + noise / 3).astype(np.int16), spacing=(2.0, 2.0, 2.0))
    assert (layered["roi_shift_mm"], layered["roi_shift_gain"]) == (None, None)
    # Further away than the search reaches.
    image = np.rint(np.where(organ, 100, 0) + noise / 3).astype(np.int16)
    far = figures(np.roll(organ, 11, 2), image, spacing=(2.0, 2.0, 2.0))
    assert (far["roi_shift_mm"], far["roi_shift_gain"]) == (None, None)
    tiny = figures(np.ones((2, 2, 2), bool))
    assert (tiny["roi_shift_mm"], tiny["roi_shift_gain"]) == (None, None)


def test_only_what_was_measured_shows_a_shift() -> None:
    """The border of the field of view is a steep one, at which no ROI has its place."""
    steps = np.array([2.0, 2.0, 2.0])
    view = ball((44, 44, 44), 21.0, (45, 45, 45), steps)
    noise = np.random.default_rng(0).normal(0, 12, view.shape)
    image = np.where(view, np.rint(noise + 50), -1024).astype(np.int16)
    roi = np.roll(ball((44, 44, 44), 17.0, (45, 45, 45), steps), 1, 2)
    seen = figures(roi, image, view.astype(np.uint8), spacing=(2.0, 2.0, 2.0))
    assert seen["roi_shift_mm"] is None


def test_blood_is_the_inner_part_of_its_roi() -> None:
    """A vessel of 250 HU with a wall and partial volume of 1.6 mm around it, more than half of the ROI."""
    y, x = np.mgrid[:40, :40] - 20.0
    array = np.repeat((np.hypot(x, y) < 7)[None], 12, axis=0).astype(np.uint8) * 5
    image = np.repeat(np.where(np.hypot(x, y) < 5, 250, 60)[None], 12, axis=0).astype(np.int16)
    labels = volume(array, (0.8, 0.8, 2.5))
    box = box_of_rois(labels)
    assert box is not None
    assert np.median(image[array > 0]) == 60
    names = {2: "tumour", 5: "Aorta"}
    assert blood_hu(image[box], box, labels, names, ["aorta", "blood"]) == 250.0
    assert blood_hu(image[box], box, labels, names, ["blood"]) is None
    small = volume(np.where(np.hypot(x, y) < 4, array, 0), (0.8, 0.8, 2.5))
    assert blood_hu(image[box], box, small, names, ["aorta"]) is None, "less than 1 ml is left of it"


def test_what_lies_outside_the_body() -> None:
    """A body of 160 x 120 mm over a table, and ROIs on a finer grid: in the lung, at the skin, in the table, in air."""
    scan = Geometry((128, 110, 20), (2.0, 2.0, 3.0), (-100.0, 50.0, 7.0))
    y, x = np.mgrid[:110, :128] * 2.0
    body = np.hypot((x - 128) / 80, (y - 80) / 60) < 1
    lung = np.hypot((x - 128) / 40, (y - 80) / 30) < 1
    table = (np.abs(x - 128) < 110) & (np.abs(y - 160) < 4)
    plane = np.select([lung, body, table], [-850, 40, -150], -1000).astype(np.int16)
    found = measure_scan([plane.copy() for _ in range(20)], scan, None, Calibration("none")).body
    grid = Geometry((256, 220, 60), (1.0, 1.0, 1.0), (-100.5, 49.5, 6.0))
    yy, xx = np.mgrid[:220, :256] * 1.0
    for what, centre, share in [
        ("lung", (80, 128), 0),
        ("skin", (22, 128), 0),
        ("table", (160, 60), 1),
        ("air", (20, 20), 1),
        ("half in air", (14, 128), 0.5),
    ]:
        # The body's border at the middle column is at y = 20, told with a margin of a voxel of 4 mm.
        disc = np.hypot(yy - centre[0], xx - centre[1]) < (12 if what in ("lung", "half in air") else 2)
        mask = np.broadcast_to(disc, (10, 220, 256))
        box = (slice(20, 30), slice(0, 220), slice(0, 256))
        assert outside_share(mask, box, grid, found) == pytest.approx(share, abs=0.25 if share == 0.5 else 0), what
    turned = Geometry((256, 220, 60), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (0, 1, 0, -1, 0, 0, 0, 0, 1))
    assert outside_share(mask, box, turned, found) is None

    def body_of(image: Array) -> Volume | None:
        return measure_scan([image.copy() for _ in range(20)], scan, None, Calibration("none")).body

    assert body_of(plane[15:95, 40:85].repeat(3, 0)[:110].repeat(3, 1)[:, :128]) is None, "cut out of the body"
    legs = np.where(np.minimum(np.hypot(x - 60, y - 80), np.hypot(x - 180, y - 80)) < 40, 40, -1000).astype(np.int16)
    assert body_of(legs) is None, "two legs"
    assert body_of(np.full_like(plane, -1000)) is None, "air alone"


def test_several_rois_of_one_volume() -> None:
    array = np.zeros((20, 30, 30), np.uint8)
    array[2:6, 3:9, 3:9], array[10:20, 20:30, 20:30] = 2, 5
    image = np.where(array == 5, 180, 40).astype(np.int16)
    labels, names = volume(array), {2: "tumour", 5: "Aorta", 7: "none"}
    box = box_of_rois(labels)
    assert box is not None
    found = measure_rois(image[box], box, labels, names, None)
    assert {name: own["roi_volume_ml"] for name, own in found.items()} == pytest.approx(
        {"tumour": 144 * 2.4e-3, "Aorta": 1000 * 2.4e-3, "none": 0.0}
    )
    assert found["none"] == {"roi_volume_ml": 0.0}
    # One face of 100 voxels along each axis, whose edges count once.
    assert found["Aorta"]["roi_border_voxels"] == 1000 - 9**3
    assert found["Aorta"]["roi_to_first_slice_mm"] == 25.0
    assert set(measure_rois(image[box], box, labels, names, None, ["tumour"])) == {"tumour"}
    assert set(measure_rois(image[box], box, labels, names, None, [5])) == {"Aorta"}
    assert set(measure_rois(image[box], box, labels, names, None, ["rim"])) == set(names.values())
    assert box_of_rois(volume(np.zeros((4, 4, 4), np.uint8))) is None


def test_shifted_masks_of_real_organs(shared_data: Path) -> None:
    """Of 46 organs in a real torso: none is said to be out of place, and those that show a border tell its shift."""
    from radloom.ingest import ingest_case

    folder = shared_data / "segmentation"
    scan = ingest_case(folder / "torso_ct.nii.gz", folder / "torso_labels.nii.gz")
    assert scan.mask is not None
    numbers, counts = np.unique(scan.mask.array, return_counts=True)
    organs = [int(n) for n, count in zip(numbers, counts, strict=True) if n and 1000 < count < 20_000][::3]
    told = {"as it is": 0, "shifted": 0}
    for number in organs:
        for name, moved in (("as it is", (0, 0, 0)), ("shifted", (0, 0, 2))):
            mask = np.roll(scan.mask.array == number, moved, (0, 1, 2))
            found = figures(mask, scan.image.array, spacing=scan.image.geometry.spacing)
            if found["roi_shift_mm"] is None:
                continue
            told[name] += 1
            assert found["roi_shift_mm"] == pytest.approx(6 if any(moved) else 0, abs=3.01), (number, name)
            gain = found["roi_shift_gain"]
            assert gain is not None
            assert (gain > 2) == (name == "shifted"), (number, name)
    assert told["as it is"] >= 5
    assert told["shifted"] >= 5
    assert len(list(itertools.product(organs, told))) <= 30
