"""Morphology of label volumes: what each label keeps, who wins, and what the record says."""

from typing import Any

import numpy as np
import pytest
from balls import Spacing, ball, masks, on_infinite_grid, spacings
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume
from radloom.morphology import smoothing
from radloom.postprocess import STEPS, Morphology, Settings, postprocess, read_settings

NAMES = {1: "organ", 2: "tumour"}


def volume(array: np.ndarray, spacing: Spacing = (1.0, 1.0, 1.0)) -> Volume:
    nz, ny, nx = array.shape
    return Volume(array, Geometry((nx, ny, nz), spacing, (0.0, 0.0, 0.0)))


def both(**common: Any) -> Settings:
    return Settings({name: Morphology(**common) for name in NAMES.values()})


choices = st.builds(
    Morphology,
    closing_mm=st.sampled_from([0.0, 1.0, 2.5]),
    opening_mm=st.sampled_from([0.0, 0.0, 1.0]),
    erosion_mm=st.sampled_from([0.0, 0.0, 0.75]),
    dilation_mm=st.sampled_from([0.0, 1.0, 2.0]),
    smoothing_mm=st.sampled_from([0.0, 1.0]),
    fill_holes=st.booleans(),
    components=st.sampled_from(["all", "largest", 2]),
    min_volume_mm3=st.sampled_from([0.0, 5.0]),
)


def by_definition(array: np.ndarray, spacing: Spacing, rois: dict[str, Morphology], order: list[int]) -> np.ndarray:
    """The whole postprocessing without boxes, by scipy; `order` has the labels by priority."""
    array = array.copy()
    own = {number: rois[NAMES[number]] for number in order}

    def award(claims: dict[int, np.ndarray]) -> None:
        for number, claim in claims.items():
            array[claim & (array == 0)] = number

    def scipy(operation: Any, number: int, radius: float) -> np.ndarray:
        return on_infinite_grid(operation, array == number, ball(radius, spacing))

    award({n: scipy(ndimage.binary_closing, n, m.closing_mm) for n, m in own.items() if m.closing_mm})
    for operation, key in ((ndimage.binary_opening, "opening_mm"), (ndimage.binary_erosion, "erosion_mm")):
        for n, m in own.items():
            if getattr(m, key):
                array[(array == n) & ~scipy(operation, n, getattr(m, key))] = 0
    award({n: scipy(ndimage.binary_dilation, n, m.dilation_mm) for n, m in own.items() if m.dilation_mm})
    smooth = {n: smoothing(array == n, m.smoothing_mm, spacing) for n, m in own.items() if m.smoothing_mm}
    for n, mask in smooth.items():
        array[(array == n) & ~mask] = 0
    award(smooth)
    for n, m in own.items():
        parts, count = ndimage.label(array == n, np.ones((3, 3, 3)))
        sizes = ndimage.sum_labels(array == n, parts, range(1, count + 1))
        kept = [k for k in range(1, count + 1) if sizes[k - 1] * np.prod(spacing) >= m.min_volume_mm3]
        most = {"all": None, "largest": 1}.get(str(m.components), m.components)
        kept = sorted(kept, key=lambda k: (-sizes[k - 1], k))[:most]
        array[(array == n) & ~np.isin(parts, kept)] = 0
    holes = []
    for rank, (n, m) in enumerate(own.items()):
        parts, count = ndimage.label(ndimage.binary_fill_holes(array == n) & (array != n))
        holes += [((parts == k).sum(), rank, n, parts == k) for k in range(1, count + 1) if m.fill_holes]
    for _, _, n, hole in sorted(holes, key=lambda hole: hole[:2]):
        award({n: hole})
    return array


@given(masks(labels=2), choices, choices, spacings, st.sampled_from([[1, 2], [2, 1]]))
@settings(deadline=None, max_examples=120)
def test_labels_are_what_the_definition_says(
    array: np.ndarray, organ: Morphology, tumour: Morphology, spacing: Spacing, order: list[int]
) -> None:
    rois = {"organ": organ, "tumour": tumour}
    expected = by_definition(array, spacing, rois, order)
    if not expected.any():
        with pytest.raises(CaseError, match="no ROI is left"):
            postprocess(volume(array, spacing), NAMES, Settings(rois))
        return
    result = postprocess(volume(array, spacing), NAMES, Settings(rois, () if order == [1, 2] else ("tumour",)))
    assert np.array_equal(result.labels.array, expected)
    assert result.labels.array.dtype == array.dtype
    voxel = float(np.prod(spacing))
    for number, name in NAMES.items():
        found = expected == number
        assert result.volume_mm3[name] == pytest.approx(found.sum() * voxel)
        assert result.components[name] == ndimage.label(found, np.ones((3, 3, 3)))[1]
        before = (array == number).sum()
        assert result.change[name] == (pytest.approx(found.sum() / before) if before else None)
        assert np.prod(list(result.steps[name].values())) == pytest.approx(result.change[name] or 0 if before else 1)
        assert [step for step in STEPS if step in result.steps[name]] == list(result.steps[name])


@given(masks(labels=2), choices, choices, spacings)
@settings(deadline=None, max_examples=60)
def test_a_label_never_takes_another_ones_voxels(
    array: np.ndarray, organ: Morphology, tumour: Morphology, spacing: Spacing
) -> None:
    """What a label drops another may fill or grow into; a label that has no dropping step keeps all its voxels."""
    try:
        result = postprocess(volume(array, spacing), NAMES, Settings({"organ": organ, "tumour": tumour}))
    except CaseError:
        return
    for number, own in ((1, organ), (2, tumour)):
        drops = own.opening_mm or own.erosion_mm or own.smoothing_mm or own.min_volume_mm3
        if not drops and own.components == "all":
            assert (result.labels.array[array == number] == number).all(), NAMES[number]


@given(masks(labels=2), st.sampled_from([1.0, 2.5]), spacings)
@settings(deadline=None, max_examples=60)
def test_closing_of_labels_is_each_ones_own_up_to_the_other(array: np.ndarray, radius: float, spacing: Spacing) -> None:
    if not array.any():
        return
    found = postprocess(volume(array, spacing), NAMES, both(closing_mm=radius)).labels.array
    expected = array.copy()
    for number in (2, 1):  # the lower number last: it wins
        grown = on_infinite_grid(ndimage.binary_closing, array == number, ball(radius, spacing))
        expected[grown & (array == 0)] = number
    assert np.array_equal(found, expected)


@given(masks(labels=2))
@settings(deadline=None, max_examples=60)
def test_one_labels_holes_equal_scipys(array: np.ndarray) -> None:
    if not (array == 1).any():
        return
    own = Settings({"organ": Morphology(fill_holes=True), "tumour": Morphology()})
    found = postprocess(volume(array), NAMES, own).labels.array
    expected = np.where(ndimage.binary_fill_holes(array == 1) & (array == 0), 1, array)
    assert np.array_equal(found, expected)


def test_nothing_configured_changes_nothing() -> None:
    array = np.random.default_rng(0).integers(0, 3, (6, 7, 8)).astype(np.uint8)
    result = postprocess(volume(array), NAMES, both())
    assert np.array_equal(result.labels.array, array)
    assert result.change == {"organ": 1.0, "tumour": 1.0}


def test_the_input_is_left_alone() -> None:
    array = np.zeros((5, 5, 5), np.uint8)
    array[1:4, 1:4, 1:4] = 1
    array[2, 2, 2] = 0
    before = array.copy()
    assert postprocess(volume(array), NAMES, both(fill_holes=True)).labels.array[2, 2, 2] == 1
    assert np.array_equal(array, before)


def test_nested_holes_go_to_the_label_next_around_them() -> None:
    array = np.zeros((15, 15, 15), np.uint8)
    array[1:14, 1:14, 1:14] = 1
    array[3:12, 3:12, 3:12] = 0
    array[5:10, 5:10, 5:10] = 2
    array[7, 7, 7] = 0
    result = postprocess(volume(array), NAMES, both(fill_holes=True)).labels.array
    assert result[7, 7, 7] == 2
    assert (result[3:5, 3:12, 3:12] == 1).all()
    # With the numbers the other way round the answer is the same.
    swapped = np.array([0, 2, 1], np.uint8)[array]
    again = postprocess(volume(swapped), NAMES, both(fill_holes=True)).labels.array
    assert np.array_equal(again, np.array([0, 2, 1])[result])


def test_a_cavity_that_reaches_the_border_is_no_hole() -> None:
    array = np.ones((5, 5, 5), np.uint8)
    array[0:3, 2, 2] = 0
    result = postprocess(volume(array), NAMES, both(fill_holes=True)).labels.array
    assert np.array_equal(result, array)


def test_a_dropped_speck_of_tumour_is_filled_by_the_organ() -> None:
    array = np.zeros((12, 12, 12), np.uint8)
    array[1:11, 1:11, 1:11] = 1
    array[2, 2, 2] = 2
    array[5:8, 5:8, 5:8] = 2
    own = Settings({"organ": Morphology(fill_holes=True), "tumour": Morphology(components="largest")})
    result = postprocess(volume(array), NAMES, own)
    assert result.labels.array[2, 2, 2] == 1
    assert result.components == {"organ": 1, "tumour": 1}
    assert result.volume_mm3 == {"organ": 1000.0 - 27, "tumour": 27.0}


def test_the_minimum_volume_is_in_mm3_and_belongs_to_what_stays() -> None:
    array = np.zeros((3, 3, 9), np.uint8)
    array[1, 1, 0:2] = 1
    array[1, 1, 4:7] = 1
    spacing = (0.7, 0.7, 3.0)
    exactly = 3 * float(np.prod(spacing))
    result = postprocess(volume(array, spacing), NAMES, both(min_volume_mm3=exactly))
    assert np.flatnonzero(result.labels.array).size == 3
    with pytest.raises(CaseError, match=r"no ROI is left .* organ 7\.35 mm3"):
        postprocess(volume(array, spacing), NAMES, both(min_volume_mm3=exactly * 1.01))


def dumbbell(spacing: Spacing) -> np.ndarray:
    """Balls of 8 and 6 mm on a rod of 2.5 mm radius."""
    grid = np.ogrid[tuple(slice(0, round(60 / s)) for s in reversed(spacing))]
    z, y, x = (axis * s for axis, s in zip(grid, reversed(spacing), strict=True))
    around = (z - 30) ** 2 + (y - 30) ** 2
    balls = (around + (x - 16) ** 2 <= 64) | (around + (x - 44) ** 2 <= 36)
    return (balls | ((around <= 2.5**2) & (x > 4) & (x < 56))).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.0, 2.0)])
def test_a_neck_that_the_ball_does_not_pass_parts_components(spacing: Spacing) -> None:
    array = dumbbell(spacing)
    names = {1: "organ"}
    joined = postprocess(volume(array, spacing), names, Settings({"organ": Morphology(components="largest")}))
    assert np.array_equal(joined.labels.array, array)
    for most in ("largest", 2):
        own = Morphology(components=most, neck_mm=3.5)
        kept = postprocess(volume(array, spacing), names, Settings({"organ": own})).labels.array
        # The oracle: scipy, with explicit balls and on a grid that goes on.
        cores = on_infinite_grid(ndimage.binary_erosion, array > 0, ball(3.5, spacing))
        parts, _ = ndimage.label(cores, np.ones((3, 3, 3)))
        numbers = np.argsort(np.bincount(parts.ravel())[1:])[::-1][: 1 if most == "largest" else 2] + 1
        expected = on_infinite_grid(ndimage.binary_dilation, np.isin(parts, numbers), ball(3.5, spacing)) & (array > 0)
        assert np.array_equal(kept > 0, expected)
        assert 0 < np.count_nonzero(kept) < np.count_nonzero(array)


def test_a_neck_wider_than_the_label_leaves_it_as_it_is() -> None:
    array = dumbbell((1.0, 1.0, 1.0))
    own = Morphology(components="largest", neck_mm=30)
    found = postprocess(volume(array), {1: "organ"}, Settings({"organ": own})).labels.array
    assert np.array_equal(found, array)


def test_a_lost_roi_is_recorded_and_the_others_stay() -> None:
    array = np.zeros((8, 8, 8), np.uint8)
    array[1:7, 1:7, 1:7] = 1
    array[3, 3, 3] = 2
    own = Settings({"organ": Morphology(), "tumour": Morphology(opening_mm=2.0), "node": Morphology()})
    result = postprocess(volume(array), {**NAMES, 3: "node"}, own)
    assert result.volume_mm3 == {"organ": 215.0, "tumour": 0.0, "node": 0.0}
    assert result.change == {"organ": 1.0, "tumour": 0.0, "node": None}
    assert result.components == {"organ": 1, "tumour": 0, "node": 0}


def two_balls() -> np.ndarray:
    """Organ and tumour, two cubes with four voxels of background between them."""
    array = np.zeros((11, 11, 20), np.uint8)
    array[3:8, 3:8, 3:8] = 1
    array[3:8, 3:8, 12:17] = 2
    return array


@pytest.mark.parametrize(
    ("priority", "boundary"), [((), 11), (("organ",), 11), (("tumour",), 9), (("tumour", "organ"), 9)]
)
def test_contested_background_goes_by_priority(priority: tuple[str, ...], boundary: int) -> None:
    wanted = Settings(both(dilation_mm=3).rois, priority)
    line = postprocess(volume(two_balls()), NAMES, wanted).labels.array[5, 5]
    assert line.tolist() == [1] * boundary + [2] * (20 - boundary)


def test_a_bump_that_one_label_smooths_off_goes_to_its_neighbour() -> None:
    array = np.zeros((16, 16, 16), np.uint8)
    array[:, :, :8], array[:, :, 8:] = 1, 2
    array[8, 8, 8], array[3, 3, 7] = 1, 2
    flat = np.where(np.arange(16) < 8, 1, 2)
    result = postprocess(volume(array), NAMES, both(smoothing_mm=2)).labels.array
    assert (result == flat).all()
    alone = Settings({"organ": Morphology(smoothing_mm=2), "tumour": Morphology()})
    assert postprocess(volume(array), NAMES, alone).labels.array[8, 8, 8] == 0, "the other one keeps what it has"


def test_an_roi_is_cut_to_the_body_and_stays_in_it() -> None:
    array = np.zeros((10, 20, 20), np.uint8)
    array[2:8, 8:18, 4:14] = 1
    array[2:8, 12:19, 16:19] = 2
    ct = np.full(array.shape, -1000, np.int16)
    ct[:, 2:15, 2:18] = 30
    ct[:, 9:12, 6:9] = -800  # lung
    image = Volume(ct, volume(array).geometry)
    own = {"organ": Morphology(inside_body=True, dilation_mm=2), "tumour": Morphology()}
    result = postprocess(volume(array), NAMES, Settings(own), image)
    organ = result.labels.array == 1
    assert not organ[:, 15:].any(), "neither what was outside nor what the dilation would add there"
    assert organ[5, 10, 7], "air in the body is body"
    assert organ[5, 6, 8], "the dilation went on inside"
    assert np.array_equal(result.labels.array == 2, array == 2), "an ROI that doesn't ask is left alone"
    assert result.steps["organ"]["body"] == pytest.approx(0.7)
    assert "body" not in result.steps["tumour"]
    with pytest.raises(ValueError, match="asks for the image"):
        postprocess(volume(array), NAMES, Settings(own))
    with pytest.raises(CaseError, match="no voxel above 500 HU"):
        postprocess(volume(array), NAMES, Settings(own, body_hu=500), image)


def test_a_step_that_changes_a_volume_much_is_warned_about() -> None:
    array = two_balls()
    array[5, 5, 1] = 1
    own = {
        "organ": Morphology(components="largest", dilation_mm=1.0),
        "tumour": Morphology(dilation_mm=1.0, warn_volume_change=None),
    }
    result = postprocess(volume(array), NAMES, Settings(own))
    assert result.steps["organ"] == {"dilation": 281 / 126, "components": 1.0}
    assert result.steps["tumour"] == {"dilation": 275 / 125}
    assert result.warnings == ["organ: dilation changed the volume by +123 %, from 0.126 to 0.281 ml"]
    own = {"organ": Morphology(opening_mm=9.0), "tumour": Morphology()}
    lost = postprocess(volume(array), NAMES, Settings(own))
    assert lost.warnings == ["organ: opening changed the volume by -100 %, from 0.126 to 0 ml"]
    exactly = {"organ": Morphology(components="largest", warn_volume_change=1 / 126), "tumour": Morphology()}
    assert postprocess(volume(array), NAMES, Settings(exactly)).warnings == [], "up to the limit is no reason to warn"


def test_uint16_labels_keep_their_type() -> None:
    array = np.zeros((4, 4, 4), np.uint16)
    array[1:3, 1:3, 1:3] = 400
    result = postprocess(volume(array), {400: "organ"}, Settings({"organ": Morphology(closing_mm=2)}))
    assert result.labels.array.dtype == np.uint16
    assert np.unique(result.labels.array).tolist() == [0, 400]


def test_settings_of_a_roi_override_the_common_ones() -> None:
    section = {"closing_mm": 3, "fill_holes": True, "labels": {"tumour": {"closing_mm": 0, "components": "largest"}}}
    found = read_settings(section, NAMES.values()).rois
    assert found["organ"] == Morphology(closing_mm=3, fill_holes=True)
    assert found["tumour"] == Morphology(closing_mm=0, fill_holes=True, components="largest")


@pytest.mark.parametrize(
    "section",
    [
        {"closing": 3},
        {"opening_mm": -1},
        {"components": "biggest"},
        {"components": 0},
        {"components": True},
        {"dilation_mm": float("inf")},
        {"neck_mm": -1},
        {"warn_volume_change": -0.1},
        {"labels": {"organ": {"closing": 1}}},
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(CohortError, match="section postprocess"):
        read_settings(section, NAMES.values())
