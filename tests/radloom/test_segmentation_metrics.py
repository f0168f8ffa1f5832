"""Dice, IoU, Hausdorff 95 and surface Dice: closed forms, brute force, MONAI, and what an empty class is."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from radloom import segmentation_metrics
from radloom.segmentation_metrics import (
    ABSENT,
    ESTIMATED,
    FALSE_POSITIVE,
    MISSED,
    ClassMetrics,
    compare_labels,
    confusion,
    mean_of,
    surface,
    table_rows,
)

ONE = {1: "organ"}


def blobs(seed: int, shape: tuple[int, int, int] = (9, 14, 12), share: float = 0.35) -> np.ndarray:
    """Random smooth masks that reach the image's border."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.2)
    return (noise > np.quantile(noise, 1 - share)).astype(np.uint8)


def one(truth: np.ndarray, found: np.ndarray, spacing: tuple[float, float, float], **more: float) -> ClassMetrics:
    return compare_labels(truth, found, spacing, ONE, **more)[0]


def brute_force(truth: np.ndarray, found: np.ndarray, spacing: tuple[float, float, float], tolerance: float):
    """Hausdorff 95 and surface Dice by scipy's erosion and all pairs of surface voxels."""
    points = [
        np.argwhere(mask & ~ndimage.binary_erosion(mask)) * np.array(spacing[::-1])
        for mask in (truth.astype(bool), found.astype(bool))
    ]
    pairs = cdist(*points)
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    near = (there <= tolerance + 1e-9).sum() + (back <= tolerance + 1e-9).sum()
    return max(np.percentile(there, 95), np.percentile(back, 95)), near / (len(there) + len(back))


seeds = st.integers(0, 10_000)
lengths = st.sampled_from([0.5, 0.8, 1.0, 1.5, 2.5, 5.0])
spacings = st.tuples(lengths, lengths, lengths)


@given(seeds, seeds, spacings, st.sampled_from([0.5, 1.0, 2.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_brute_force_over_all_pairs_gives_the_same(a, b, spacing, tolerance) -> None:
    truth, found = blobs(a), blobs(b, share=0.2)
    row = one(truth, found, spacing, tolerance_mm=tolerance)
    hd95, surface_dice = brute_force(truth, found, spacing, tolerance)
    assert row.hd95_mm == pytest.approx(hd95, rel=1e-12)
    assert row.surface_dice == pytest.approx(surface_dice, rel=1e-12)


@given(seeds, st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_the_surface_is_the_mask_less_its_erosion_by_faces(seed, dimensions) -> None:
    mask = np.random.default_rng(seed).random((5,) * dimensions) < 0.8
    assert np.array_equal(surface(mask), mask & ~ndimage.binary_erosion(mask))


@given(seeds, seeds, spacings)
@settings(max_examples=25, deadline=None)
def test_truth_and_prediction_may_be_swapped(a, b, spacing) -> None:
    there, back = one(blobs(a), blobs(b), spacing), one(blobs(b), blobs(a), spacing)
    assert (there.dice, there.iou, there.hd95_mm, there.surface_dice) == (
        back.dice,
        back.iou,
        back.hd95_mm,
        back.surface_dice,
    )
    assert (there.truth_ml, there.found_ml) == (back.found_ml, back.truth_ml)


@given(seeds, spacings)
@settings(max_examples=15, deadline=None)
def test_equal_masks_agree_wholly(seed, spacing) -> None:
    row = one(blobs(seed), blobs(seed), spacing)
    assert (row.dice, row.iou, row.hd95_mm, row.surface_dice, row.status) == (1.0, 1.0, 0.0, 1.0, ESTIMATED)


@given(seeds, seeds, spacings, st.sampled_from([0.1, 3.0, 10.0]))
@settings(max_examples=25, deadline=None)
def test_distances_scale_with_the_voxel(a, b, spacing, factor) -> None:
    small = one(blobs(a), blobs(b), spacing, tolerance_mm=2.0)
    scaled = tuple(s * factor for s in spacing)
    large = one(blobs(a), blobs(b), scaled, tolerance_mm=2.0 * factor)
    assert large.hd95_mm == pytest.approx(factor * small.hd95_mm, rel=1e-9)
    assert (large.dice, large.surface_dice) == (small.dice, small.surface_dice)
    assert large.truth_ml == pytest.approx(factor**3 * small.truth_ml)


@given(seeds, spacings, st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_shifting_both_changes_nothing(seed, spacing, dy, dx) -> None:
    truth, found = (np.pad(blobs(s), 4) for s in (seed, seed + 1))
    shifted = [np.roll(mask, (dy, dx), axis=(1, 2)) for mask in (truth, found)]
    before, after = one(truth, found, spacing), one(*shifted, spacing)
    assert after.hd95_mm == pytest.approx(before.hd95_mm, rel=1e-9)
    assert after.surface_dice == before.surface_dice


def test_two_boxes_shifted_along_z_are_known() -> None:
    """Boxes of 10 x 8 x 6 voxels, 2 slices of 2.5 mm apart; each has 288 voxels of surface.

    The first slice of each (48 voxels) is 5 mm from the other box, the rim of the second (24) 2.5 mm; of the inner 24
    of the last, which lies inside the other box, 16 are 1 mm and 8 are 2 mm from its side. All others are on both.
    """
    truth, found = np.zeros((2, 20, 16, 16), np.uint8)
    truth[2:12, 4:12, 4:10] = 1
    found[4:14, 4:12, 4:10] = 1
    assert surface(truth == 1).sum() == 288
    for tolerance, near in ((0.0, 192), (1.0, 208), (2.0, 216), (2.5, 240), (5.0, 288)):
        row = one(truth, found, (1.0, 1.0, 2.5), tolerance_mm=tolerance)
        assert row.surface_dice == near / 288
    assert (row.dice, row.iou) == (0.8, 8 / 12)
    assert row.hd95_mm == 5.0
    assert row.truth_ml == pytest.approx(480 * 2.5 / 1000)


def test_two_single_voxels_are_as_far_as_their_centres() -> None:
    truth, found = np.zeros((2, 4, 6, 8), np.uint8)
    truth[0, 0, 0] = found[2, 3, 4] = 1
    row = one(truth, found, (0.5, 2.0, 3.0))
    assert row.hd95_mm == pytest.approx(math.hypot(4 * 0.5, 3 * 2.0, 2 * 3.0))
    assert (row.dice, row.iou, row.surface_dice, row.status) == (0.0, 0.0, 0.0, ESTIMATED)


def test_a_distance_that_equals_the_tolerance_is_within_it() -> None:
    truth, found = np.zeros((2, 1, 3, 3), np.uint8)
    truth[0, 0, 0] = found[0, 1, 1] = 1
    assert math.hypot(1.2, 1.6) > 2.0 - 1e-15
    assert one(truth, found, (1.2, 1.6, 5.0), tolerance_mm=2.0).surface_dice == 1.0
    assert one(truth, found, (1.2, 1.6, 5.0), tolerance_mm=1.999).surface_dice == 0.0


def test_the_percentile_is_of_each_direction_and_the_larger_counts() -> None:
    """A prediction with an island that is 10 % of its surface: the truth's own distances are all 0."""
    truth, found = np.zeros((2, 1, 1, 200), np.uint8)
    truth[0, 0, :18] = 1
    found[0, 0, :18] = 1
    found[0, 0, [100, 102]] = 1
    row = one(truth, found, (1.0, 1.0, 1.0))
    distances = [0.0] * 18 + [83.0, 85.0]
    assert row.hd95_mm == pytest.approx(np.percentile(distances, 95))
    assert row.hd95_mm > np.percentile(distances + [0.0] * 18, 95)


def test_empty_classes_are_what_they_are() -> None:
    truth, found = np.zeros((2, 4, 5, 6), np.uint8)
    truth[1, 1:3, 1:3] = 2
    found[2, 2, 2:4] = 3
    absent, missed, false_positive = compare_labels(truth, found, (1.0, 1.0, 2.0), {1: "a", 2: "b", 3: "c"})
    assert [absent.status, missed.status, false_positive.status] == [ABSENT, MISSED, FALSE_POSITIVE]
    for row in (absent, false_positive):
        assert all(math.isnan(v) for v in (row.dice, row.iou, row.hd95_mm, row.surface_dice))
    assert (missed.dice, missed.iou, missed.surface_dice) == (0.0, 0.0, 0.0)
    assert math.isnan(missed.hd95_mm)
    assert (missed.truth_ml, false_positive.found_ml) == (pytest.approx(0.008), pytest.approx(0.004))
    assert mean_of([absent, missed, false_positive]) == 0.0
    assert math.isnan(mean_of([absent, false_positive]))


def test_numbers_that_are_no_class_are_background() -> None:
    truth, found = np.full((2, 2, 3, 4), 60000, np.uint16)
    truth[0, 0] = found[0, 0] = 700
    row = compare_labels(truth, found, (1.0, 1.0, 1.0), {700: "part"})[0]
    assert (row.label, row.name, row.dice) == (700, "part", 1.0)
    assert row.truth_ml == pytest.approx(0.004)


def test_many_classes_are_those_one_by_one() -> None:
    generator = np.random.default_rng(3)
    truth = generator.integers(0, 8, (6, 10, 10)).astype(np.uint16)
    found = np.where(generator.random(truth.shape) < 0.7, truth, generator.integers(0, 8, truth.shape)).astype(
        np.uint16
    )
    classes = {number: f"c{number}" for number in (7, 1, 3)}
    rows = compare_labels(truth, found, (0.9, 1.1, 3.0), classes)
    assert [row.label for row in rows] == [1, 3, 7]
    for row in rows:
        alone = one((truth == row.label).astype(np.uint8), (found == row.label).astype(np.uint8), (0.9, 1.1, 3.0))
        assert (row.dice, row.hd95_mm, row.surface_dice) == (alone.dice, alone.hd95_mm, alone.surface_dice)


def test_voxels_alone_are_counted_where_surfaces_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation_metrics, "surface_distances", None)
    row = compare_labels(blobs(1), blobs(2), (1.0, 1.0, 1.0), ONE, surfaces=False)[0]
    assert math.isnan(row.hd95_mm)
    assert math.isnan(row.surface_dice)
    assert 0 < row.dice < 1


def test_confusions_of_slabs_add_up() -> None:
    generator = np.random.default_rng(0)
    truth, found = generator.integers(0, 5, (2, 6, 7, 8)).astype(np.uint8)
    whole = confusion(truth, found, 5)
    assert np.array_equal(whole, confusion(truth[:2], found[:2], 5) + confusion(truth[2:], found[2:], 5))
    assert whole[3, 1] == np.count_nonzero((truth == 3) & (found == 1))
    assert whole.sum() == truth.size


def test_rows_carry_the_case() -> None:
    row = table_rows(compare_labels(blobs(1), blobs(1), (1.0, 1.0, 1.0), ONE), case_id="c1", centre="A")[0]
    assert list(row)[:5] == ["case_id", "centre", "label", "name", "status"]
    assert row["dice"] == 1.0


@pytest.mark.parametrize(
    ("truth", "found", "classes", "problem"),
    [
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 5), np.uint8), ONE, "differ"),
        (np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), ONE, "no label volume"),
        (np.full((2, 3, 4), -1), np.zeros((2, 3, 4), np.uint8), ONE, "from -1"),
        (np.zeros((3, 4), np.uint8), np.zeros((3, 4), np.uint8), ONE, "dimensions"),
        (np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8), {0: "air"}, "from 1 on"),
    ],
)
def test_what_is_no_pair_of_label_volumes_is_refused(truth, found, classes, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        compare_labels(truth, found, (1.0, 1.0, 1.0), classes)


@pytest.mark.filterwarnings("ignore")
def test_monai_finds_the_same() -> None:
    """MONAI's surfaces, percentile and shares are ours; its float32 distances and quantiles leave 1e-6."""
    import torch
    from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU, SurfaceDiceMetric

    for seed, spacing in enumerate([(1.0, 1.0, 1.0), (0.7, 0.8, 5.0), (3.0, 0.5, 1.25)]):
        generator = np.random.default_rng(seed)
        truth = blobs(seed) + blobs(seed + 50, share=0.1)
        found = np.where(generator.random(truth.shape) < 0.9, truth, blobs(seed + 70)).astype(np.uint8)
        onehot = [torch.from_numpy(np.stack([m == k for k in (0, 1, 2)])[None]).float() for m in (found, truth)]
        options = {"spacing": list(spacing[::-1])}
        expected = {
            "dice": DiceMetric(include_background=False)(*onehot),
            "iou": MeanIoU(include_background=False)(*onehot),
            "hd95_mm": HausdorffDistanceMetric(percentile=95)(*onehot, **options),
            "surface_dice": SurfaceDiceMetric(class_thresholds=[1.5, 1.5])(*onehot, **options),
        }
        rows = compare_labels(truth, found, spacing, {1: "a", 2: "b"}, tolerance_mm=1.5)
        for name, values in expected.items():
            assert [getattr(row, name) for row in rows] == pytest.approx(values[0].tolist(), rel=1e-6), name


def test_117_classes_take_seconds() -> None:
    """Not a benchmark: that no class is looked for in the whole volume."""
    generator = np.random.default_rng(0)
    truth = np.zeros((60, 128, 128), np.uint8)
    for number in range(1, 118):
        z, y, x = generator.integers(0, (50, 110, 110))
        truth[z : z + 10, y : y + 18, x : x + 18] = number
    found = np.roll(truth, 1, axis=2)
    start = time.process_time()
    rows = compare_labels(truth, found, (1.0, 1.0, 2.0), {n: f"c{n}" for n in range(1, 118)})
    assert time.process_time() - start < 5
    assert {row.hd95_mm for row in rows} == {1.0}
