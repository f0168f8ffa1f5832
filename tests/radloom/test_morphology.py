"""Morphology of masks in mm: equal to scipy with explicit balls, lawful, and round on any grid."""

import itertools

import numpy as np
import pytest
from balls import Spacing, ball, masks, on_infinite_grid, radii, spacings, specks
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from radloom import morphology
from radloom.images import bounding_box
from radloom.morphology import (
    ball_dilation,
    ball_erosion,
    cavities,
    closing,
    dilation,
    erosion,
    keep_components,
    opening,
    pieces,
    reach,
    smoothing,
)

GRIDS = [(1.0, 1.0, 1.0), (0.5, 0.8, 3.0), (2.0, 0.7, 1.25)]
many = settings(deadline=None, max_examples=60)


def around_the_middle(radius: float, spacing: Spacing, margin: float = 12.0) -> np.ndarray:
    """A ball about the middle voxel of an array that is `margin` mm wider on each side."""
    size = [2 * int((radius + margin) / s) + 1 for s in reversed(spacing)]
    point = np.zeros(size, bool)
    point[tuple(n // 2 for n in size)] = True
    z, y, x = np.ogrid[tuple(slice(-(n // 2), n // 2 + 1) for n in size)]
    sx, sy, sz = spacing
    return point | ((z * sz) ** 2 + (y * sy) ** 2 + (x * sx) ** 2 <= radius**2)


@given(masks(), radii, spacings)
@many
def test_all_operations_equal_scipy_with_an_explicit_ball(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    element = ball(radius, spacing)
    assert np.array_equal(ball_dilation(mask, radius, spacing), ndimage.binary_dilation(mask, element))
    assert np.array_equal(ball_erosion(mask, radius, spacing), ndimage.binary_erosion(mask, element, border_value=1))
    assert np.array_equal(dilation(mask, radius, spacing), on_infinite_grid(ndimage.binary_dilation, mask, element))
    assert np.array_equal(erosion(mask, radius, spacing), on_infinite_grid(ndimage.binary_erosion, mask, element))
    assert np.array_equal(closing(mask, radius, spacing), on_infinite_grid(ndimage.binary_closing, mask, element))
    assert np.array_equal(opening(mask, radius, spacing), on_infinite_grid(ndimage.binary_opening, mask, element))


@given(specks(), st.sampled_from([0.5, 1.0, 1.5, 2.25]), spacings)
@many
def test_operations_on_specks_equal_scipy(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    element = ball(radius, spacing)
    assert np.array_equal(dilation(mask, radius, spacing), on_infinite_grid(ndimage.binary_dilation, mask, element))
    assert np.array_equal(erosion(mask, radius, spacing), on_infinite_grid(ndimage.binary_erosion, mask, element))
    assert np.array_equal(closing(mask, radius, spacing), on_infinite_grid(ndimage.binary_closing, mask, element))
    assert np.array_equal(opening(mask, radius, spacing), on_infinite_grid(ndimage.binary_opening, mask, element))


@given(st.one_of(masks(), specks()), radii, spacings)
@many
def test_rows_and_distances_make_the_same_ball(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(morphology, "MOST_ROWS", 0)
        by_distance = [ball_dilation(mask, radius, spacing), ball_erosion(mask, radius, spacing)]
        patch.setattr(morphology, "MOST_ROWS", 1e9)
        by_rows = [ball_dilation(mask, radius, spacing), ball_erosion(mask, radius, spacing)]
    assert np.array_equal(by_rows, by_distance)


@given(st.integers(1, 200), st.floats(1, 150), st.integers(0, 1000))
@many
def test_rows_cross_words(length: int, radius: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((2, 3, length)) < 0.02
    near = np.abs(np.subtract.outer(np.arange(length), np.arange(length))) <= radius
    line = mask[:1, :1]
    expected = (near & line[0, 0]).any(axis=1)
    # Along x alone: a ball on a grid of high thin voxels.
    assert np.array_equal(ball_dilation(line, radius, (1.0, 1000.0, 1000.0))[0, 0], expected)


@given(specks())
@many
def test_pieces_make_up_the_mask_and_keep_their_distance(mask: np.ndarray) -> None:
    found = pieces(mask)
    again = np.zeros(mask.shape, int)
    for box, part in found:
        again[box] += part
    assert np.array_equal(again, mask.astype(int)), "each voxel in one piece"
    for (one, first), (two, second) in itertools.combinations(found, 2):
        places = [np.argwhere(part) + [side.start for side in box] for box, part in ((one, first), (two, second))]
        assert np.abs(places[0][:, None] - places[1][None]).max(axis=2).min() > 1, "no two pieces touch"


def test_blobs_apart_are_pieces_and_a_compact_mask_is_one() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[2:5, 2:5, 2:5] = mask[30:36, 30:36, 30:36] = mask[2:5, 2:5, 8:9] = True
    assert len(pieces(mask)) == 3
    assert len(pieces(np.ones((5, 5, 5), bool))) == 1
    assert pieces(np.zeros((5, 5, 5), bool)) == []


@given(masks(), radii, spacings)
@many
def test_closing_and_opening_are_lawful(mask: np.ndarray, radius: float, spacing: Spacing) -> None:
    closed, opened = closing(mask, radius, spacing), opening(mask, radius, spacing)
    assert not (mask & ~closed).any(), "a closing is extensive"
    assert not (opened & ~mask).any(), "an opening is anti-extensive"
    assert np.array_equal(closing(closed, radius, spacing), closed)
    assert np.array_equal(opening(opened, radius, spacing), opened)
    smaller = mask.copy()
    smaller[::2] = False
    for operation in (closing, opening, dilation, erosion):
        assert not (operation(smaller, radius, spacing) & ~operation(mask, radius, spacing)).any(), operation.__name__


@given(masks(), masks(), radii, spacings)
@many
def test_erosion_and_dilation_are_dual_and_adjoint(
    mask: np.ndarray, other: np.ndarray, radius: float, spacing: Spacing
) -> None:
    assert np.array_equal(ball_erosion(mask, radius, spacing), ~ball_dilation(~mask, radius, spacing))
    common = tuple(slice(0, min(a, b)) for a, b in zip(mask.shape, other.shape, strict=True))
    first, second = mask[common], mask[common] | other[common]
    margins = [(n, n) for n in reach(radius, spacing)]
    wide, wider = np.pad(first, margins), np.pad(second, margins)
    grown_lies_in = not (dilation(wide, radius, spacing) & ~wider).any()
    lies_in_shrunk = not (wide & ~erosion(wider, radius, spacing)).any()
    assert grown_lies_in == lies_in_shrunk


@given(masks(), radii, spacings, st.permutations(range(3)))
@many
def test_no_axis_is_special(mask: np.ndarray, radius: float, spacing: Spacing, order: list[int]) -> None:
    along = spacing[::-1]  # z, y, x
    turned = (along[order[2]], along[order[1]], along[order[0]])
    for operation in (closing, opening, dilation, erosion):
        found = operation(np.ascontiguousarray(mask.transpose(order)), radius, turned)
        assert np.array_equal(found, operation(mask, radius, spacing).transpose(order)), operation.__name__


@pytest.mark.parametrize("spacing", GRIDS)
def test_a_ball_is_round_in_mm(spacing: Spacing) -> None:
    point = around_the_middle(0.0, spacing)
    grown = dilation(point, 10.0, spacing)
    for axis, s in enumerate(reversed(spacing)):
        span = np.ptp(np.flatnonzero(grown.any(axis=tuple(a for a in range(3) if a != axis)))) / 2
        assert span == int(10 / s)
    assert grown.sum() * np.prod(spacing) == pytest.approx(4 / 3 * np.pi * 1000, rel=0.05)


@pytest.mark.parametrize("spacing", GRIDS)
def test_a_ball_stays_a_ball(spacing: Spacing) -> None:
    start = around_the_middle(8.0, spacing)

    def same_grid_ball(radius: float) -> np.ndarray:
        return around_the_middle(radius, spacing, 20.0 - radius)

    grown, shrunk = dilation(start, 4.0, spacing), erosion(start, 4.0, spacing)
    # By the triangle inequality, exactly; the other way a voxel's diagonal may be missing.
    slack = float(np.linalg.norm(spacing))
    assert not (grown & ~same_grid_ball(12.0)).any()
    assert not (same_grid_ball(12.0 - slack) & ~grown).any()
    assert not (same_grid_ball(4.0) & ~shrunk).any()
    assert not (shrunk & ~same_grid_ball(4.0 + slack)).any()
    assert not (closing(start, 4.0, spacing) & ~same_grid_ball(8.0 + slack)).any()
    assert not (same_grid_ball(8.0 - slack) & ~opening(start, 4.0, spacing)).any()


def smoothed_by_definition(mask: np.ndarray, sigma: float, spacing: Spacing) -> np.ndarray:
    """Each component blurred in the whole array in float64; equal values are told apart from 1e-6 on, as documented."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    result = np.zeros_like(mask)
    for number in range(1, count + 1):
        part = parts == number
        values = ndimage.gaussian_filter(part.astype(float), [sigma / s for s in reversed(spacing)], mode="reflect")
        level = np.sort(values, axis=None)[-part.sum()]
        above, from_here = values > level + 1e-6, values >= level - 1e-6
        fewer, more = above.sum(), from_here.sum()
        chosen = above if fewer and part.sum() - fewer < more - part.sum() else from_here
        result |= chosen if part.sum() > 1 else part
    return result


# No sigma so large beside the array that its mirror images make it flat to float32.
@given(st.one_of(masks(), specks()), st.sampled_from([0.5, 0.8, 1.2]), spacings)
@many
def test_smoothing_is_what_it_says(mask: np.ndarray, sigma: float, spacing: Spacing) -> None:
    assert np.array_equal(smoothing(mask, sigma, spacing), smoothed_by_definition(mask, sigma, spacing))


@pytest.mark.parametrize("spacing", GRIDS)
@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_smoothing_keeps_a_ball_and_its_volume(spacing: Spacing, sigma: float) -> None:
    """A level of one half would leave of this ball, at a sigma of 3 mm, a third."""
    start = around_the_middle(6.0, spacing, 14.0)
    found = smoothing(start, sigma, spacing)
    assert found.sum() == pytest.approx(start.sum(), abs=12)
    slack = float(np.linalg.norm(spacing))
    inner, outer = (around_the_middle(r, spacing, 20.0 - r) for r in (6.0 - slack, 6.0 + slack))
    assert not (inner & ~found).any()
    assert not (found & ~outer).any()
    for axis in range(3):
        assert np.array_equal(found, np.flip(found, axis)), "what is symmetrical stays so"
    half = ndimage.gaussian_filter(start.astype(float), [sigma / s for s in reversed(spacing)]) >= 0.5
    if sigma == 3.0:
        assert half.sum() < 0.75 * start.sum()


def test_smoothing_takes_noise_off_a_surface_and_leaves_the_face_of_a_cut_organ() -> None:
    rng = np.random.default_rng(0)
    start = around_the_middle(12.0, (1.0, 1.0, 1.0), 8.0)
    shell = ball_dilation(start, 1.5, (1.0, 1.0, 1.0)) & ~start
    rough, _ = keep_components(start | (shell & (rng.random(start.shape) < 0.4)), 1, 0)
    smooth = smoothing(rough, 1.5, (1.0, 1.0, 1.0))

    def faces(mask: np.ndarray) -> int:
        return sum(int(np.count_nonzero(np.diff(mask.astype(np.int8), axis=axis))) for axis in range(3))

    assert faces(smooth) < 0.75 * faces(rough)
    assert smooth.sum() == pytest.approx(rough.sum(), abs=12)
    slab = np.zeros((12, 9, 9), bool)
    slab[:5] = True
    assert np.array_equal(smoothing(slab, 2.0, (1.0, 1.0, 1.0)), slab)


def test_smoothing_neither_drops_nor_feeds_a_speck() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[3:12, 3:12, 3:12] = True
    mask[16, 16, 16] = True
    found = smoothing(mask, 3.0, (1.0, 1.0, 1.0))
    assert found[16, 16, 16]
    assert found[14:, 14:, 14:].sum() == 1


@given(st.one_of(masks(), specks()))
@many
def test_cavities_are_scipys(mask: np.ndarray) -> None:
    box = bounding_box(mask)
    if box is None:
        return
    again = mask.astype(int)
    for place, cavity in cavities(mask[box], box):
        again[place] += cavity
    assert np.array_equal(again, ndimage.binary_fill_holes(mask).astype(int)), "each cavity once, and nothing else"


def test_a_cavity_in_a_sparse_mask_with_an_island_in_it() -> None:
    mask = np.zeros((40, 40, 40), bool)
    mask[5:16, 5:16, 5:16] = True
    mask[6:15, 6:15, 6:15] = False
    mask[10, 10, 10] = mask[35, 35, 35] = True
    ((place, cavity),) = cavities(mask, (slice(0, 40),) * 3)
    assert place == (slice(6, 15),) * 3
    assert cavity.sum() == 9**3 - 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_line_of_single_voxels_is_that_many_components(axis: int) -> None:
    line = (np.arange(9) % 2 == 0).reshape([9 if a == axis else 1 for a in range(3)])
    kept, count = keep_components(line, None, 0)
    assert count == 5
    assert np.array_equal(kept, line)


def test_diagonal_neighbours_are_one_component() -> None:
    mask = np.zeros((2, 2, 2), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = True
    assert keep_components(mask, None, 0)[1] == 1


def test_of_equal_components_the_first_stay() -> None:
    mask = np.zeros((1, 1, 17), bool)
    mask[..., [1, 4, 5, 8, 9, 12, 13, 14, 16]] = True
    for most, places in ((1, [12, 13, 14]), (2, [4, 5, 12, 13, 14]), (3, [4, 5, 8, 9, 12, 13, 14])):
        kept, count = keep_components(mask, most, 0)
        assert np.flatnonzero(kept).tolist() == places
        assert count == most
    assert keep_components(mask, 9, 0)[1] == 5
    assert keep_components(mask, 9, 2)[1] == 3


@given(st.one_of(masks(), specks()), st.integers(1, 4), st.sampled_from([0, 2, 5]))
@many
def test_components_are_chosen_by_size_then_by_place(mask: np.ndarray, most: int, least: int) -> None:
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))  # numbered by the first voxel, in the order of the array
    sizes = ndimage.sum_labels(mask, parts, range(1, count + 1))
    chosen = sorted((n for n in range(1, count + 1) if sizes[n - 1] >= least), key=lambda n: (-sizes[n - 1], n))[:most]
    kept, found = keep_components(mask, most, least)
    assert found == len(chosen)
    assert np.array_equal(kept, np.isin(parts, chosen))
