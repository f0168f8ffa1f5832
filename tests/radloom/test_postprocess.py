"""Morphology in mm: equal to scipy with explicit balls, safe between labels, and lawful."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume
from radloom.postprocess import (
    Morphology,
    ball_dilation,
    ball_erosion,
    closing,
    keep_components,
    opening,
    postprocess,
    read_settings,
)

NAMES = {1: "organ", 2: "tumour"}
Spacing = tuple[float, float, float]

# Quarters of a mm, so that distances are equal to a radius or clearly not.
lengths = st.integers(2, 16).map(lambda n: n / 4)
spacings = st.tuples(lengths, lengths, lengths)
radii = st.integers(1, 20).map(lambda n: n / 4)


@st.composite
def masks(draw: st.DrawFn, labels: int = 1) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    smooth = ndimage.gaussian_filter(rng.normal(size=(labels + 1, *shape)), (0, 1, 1, 1))
    smooth[0] += draw(st.sampled_from([-0.2, 0.0, 0.2]))
    array = smooth.argmax(axis=0).astype(np.uint8)
    return array if labels > 1 else array.astype(bool)


def ball(radius: float, spacing: Spacing) -> np.ndarray:
    """The ball as a structuring element (z, y, x), by the definition."""
    reach = [int(radius / s) for s in reversed(spacing)]
    z, y, x = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    sx, sy, sz = spacing
    return (z * sz) ** 2 + (y * sy) ** 2 + (x * sx) ** 2 <= radius**2


def on_infinite_grid(operation: Any, mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    pad = max(element.shape)
    return operation(np.pad(mask, pad), element)[(slice(pad, -pad),) * 3]


@given(masks(), radii, spacings)
@settings(deadline=None, max_examples=60)
def test_all_operations_equal_scipy_with_an_explicit_ball(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    element = ball(radius, spacing)
    assert np.array_equal(ball_dilation(mask, radius, spacing), ndimage.binary_dilation(mask, element))
    assert np.array_equal(ball_erosion(mask, radius, spacing), ndimage.binary_erosion(mask, element, border_value=1))
    assert np.array_equal(closing(mask, radius, spacing), on_infinite_grid(ndimage.binary_closing, mask, element))
    assert np.array_equal(opening(mask, radius, spacing), on_infinite_grid(ndimage.binary_opening, mask, element))


@given(masks(), radii, spacings)
@settings(deadline=None, max_examples=60)
def test_closing_and_opening_are_lawful(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    closed, opened = closing(mask, radius, spacing), opening(mask, radius, spacing)
    assert not (mask & ~closed).any()
    assert not (opened & ~mask).any()
    assert np.array_equal(closing(closed, radius, spacing), closed)
    assert np.array_equal(opening(opened, radius, spacing), opened)
    smaller = mask.copy()
    smaller[::2] = False
    assert not (closing(smaller, radius, spacing) & ~closed).any()
    assert not (opening(smaller, radius, spacing) & ~opened).any()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.8, 3.0), (2.0, 0.7, 1.25)])
def test_a_ball_is_round_in_mm(spacing: Spacing) -> None:
    size = [2 * int(12 / s) + 1 for s in reversed(spacing)]
    point = np.zeros(size, bool)
    point[tuple(n // 2 for n in size)] = True
    grown = ball_dilation(point, 10.0, spacing)
    for axis, s in enumerate(reversed(spacing)):
        reach = np.ptp(np.flatnonzero(grown.any(axis=tuple(a for a in range(3) if a != axis)))) / 2
        assert reach == int(10 / s)
    assert grown.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 1000, rel=0.05)


def volume(array: np.ndarray, spacing: Spacing = (1.0, 1.0, 1.0)) -> Volume:
    nz, ny, nx = array.shape
    return Volume(array, Geometry((nx, ny, nz), spacing, (0.0, 0.0, 0.0)))


def both(**common: Any) -> dict[str, Morphology]:
    return {name: Morphology(**common) for name in NAMES.values()}


choices = st.builds(
    Morphology,
    closing_mm=st.sampled_from([0.0, 1.0, 2.5]),
    opening_mm=st.sampled_from([0.0, 1.0]),
    fill_holes=st.booleans(),
    components=st.sampled_from(["all", "largest"]),
    min_volume_mm3=st.sampled_from([0.0, 5.0]),
)


@given(masks(labels=2), choices, choices, spacings)
@settings(deadline=None, max_examples=60)
def test_a_label_never_takes_another_ones_voxels(
    array: np.ndarray, organ: Morphology, tumour: Morphology, spacing: Spacing
) -> None:
    try:
        result = postprocess(volume(array, spacing), NAMES, {"organ": organ, "tumour": tumour})
    except CaseError:
        return
    for label, other, settings_of_other in ((1, 2, tumour), (2, 1, organ)):
        # What a label drops (by opening, as a small or a further component) another one may fill as a hole of its own.
        dropped = settings_of_other.opening_mm or settings_of_other.min_volume_mm3
        if not dropped and settings_of_other.components == "all":
            assert not ((array == other) & (result.labels.array == label)).any()
    assert result.labels.array.dtype == array.dtype
    voxel = float(np.prod(spacing))
    for number, name in NAMES.items():
        found = result.labels.array == number
        assert result.volume_mm3[name] == pytest.approx(found.sum() * voxel)
        assert result.components[name] == ndimage.label(found, np.ones((3, 3, 3)))[1]
        before = (array == number).sum()
        assert result.change[name] == (pytest.approx(found.sum() / before) if before else None)


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
    own = {"organ": Morphology(fill_holes=True), "tumour": Morphology()}
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
    own = {"organ": Morphology(fill_holes=True), "tumour": Morphology(components="largest")}
    result = postprocess(volume(array), NAMES, own)
    assert result.labels.array[2, 2, 2] == 1
    assert result.components == {"organ": 1, "tumour": 1}
    assert result.volume_mm3 == {"organ": 1000.0 - 27, "tumour": 27.0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_line_of_single_voxels_is_that_many_components(axis: int) -> None:
    line = (np.arange(9) % 2 == 0).reshape([9 if a == axis else 1 for a in range(3)])
    kept, count = keep_components(line, False, 0)
    assert count == 5
    assert np.array_equal(kept, line)


def test_diagonal_neighbours_are_one_component() -> None:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert keep_components(mask, False, 0)[1] == 1


def test_of_equal_components_the_first_stays() -> None:
    mask = np.zeros((1, 1, 11), bool)
    mask[..., [1, 4, 5, 8, 9]] = True
    kept, count = keep_components(mask, True, 0)
    assert np.flatnonzero(kept).tolist() == [4, 5]
    assert count == 1


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


def test_a_lost_roi_is_recorded_and_the_others_stay() -> None:
    array = np.zeros((8, 8, 8), np.uint8)
    array[1:7, 1:7, 1:7] = 1
    array[3, 3, 3] = 2
    own = {"organ": Morphology(), "tumour": Morphology(opening_mm=2.0)}
    result = postprocess(volume(array), {**NAMES, 3: "node"}, {**own, "node": Morphology()})
    assert result.volume_mm3 == {"organ": 215.0, "tumour": 0.0, "node": 0.0}
    assert result.change == {"organ": 1.0, "tumour": 0.0, "node": None}
    assert result.components == {"organ": 1, "tumour": 0, "node": 0}


def test_uint16_labels_keep_their_type() -> None:
    array = np.zeros((4, 4, 4), np.uint16)
    array[1:3, 1:3, 1:3] = 400
    result = postprocess(volume(array), {400: "organ"}, {"organ": Morphology(closing_mm=2)})
    assert result.labels.array.dtype == np.uint16
    assert np.unique(result.labels.array).tolist() == [0, 400]


def test_settings_of_a_roi_override_the_common_ones() -> None:
    section = {"closing_mm": 3, "fill_holes": True, "labels": {"tumour": {"closing_mm": 0, "components": "largest"}}}
    found = read_settings(section, NAMES.values())
    assert found["organ"] == Morphology(closing_mm=3, fill_holes=True)
    assert found["tumour"] == Morphology(closing_mm=0, fill_holes=True, components="largest")


@pytest.mark.parametrize(
    "section", [{"closing": 3}, {"opening_mm": -1}, {"components": "biggest"}, {"labels": {"organ": {"closing": 1}}}]
)
def test_wrong_settings_are_refused(section: dict[str, Any]) -> None:
    with pytest.raises(CohortError, match="section postprocess"):
        read_settings(section, NAMES.values())
