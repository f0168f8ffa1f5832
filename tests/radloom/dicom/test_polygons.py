"""Closed polygons on a plane, against matplotlib's point-in-polygon test and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from radloom.dicom.polygons import Window, area, crossing_themselves, distance, inside, window_of

WINDOW = Window(0, 40, 0, 30)


def star(seed, centre=(20.0, 15.0), radius=9.0, corners=None):
    """A polygon that doesn't cross itself: corners at rising angles."""
    rng = np.random.default_rng(seed)
    n = corners or int(rng.integers(3, 60))
    angle = (np.arange(n) + rng.random(n) * 0.9) * 2 * np.pi / n
    r = radius * rng.uniform(0.3, 1.3, n)
    return np.array(centre) + np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1)


def centres(window):
    y, x = np.mgrid[window.top : window.bottom, window.left : window.right]
    return np.stack([x.ravel(), y.ravel()], axis=1).astype(float)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_equal_to_matplotlib_at_every_centre(seed):
    polygon = star(seed)
    found = inside([polygon], WINDOW).ravel()
    # matplotlib's border rule is another one: centres within rounding of a side are left out of the comparison.
    clear = distance(centres(WINDOW), [polygon], (1, 1)) > 1e-5
    expected = Outline(polygon).contains_points(centres(WINDOW))
    np.testing.assert_array_equal(found[clear], expected[clear])
    assert clear.sum() > 0.99 * clear.size


@given(st.integers(0, 2**32 - 1), st.integers(-7, 7), st.integers(-7, 7), st.integers(0, 59))
@settings(max_examples=60, deadline=None)
def test_translation_by_whole_pixels_way_round_and_first_point_change_nothing(seed, dx, dy, first):
    polygon = np.round(star(seed) * 64) / 64  # translated without rounding
    base = inside([polygon], WINDOW)
    moved = inside([polygon + np.array([dx, dy])], Window(dx, 40 + dx, dy, 30 + dy))
    np.testing.assert_array_equal(moved, base)
    np.testing.assert_array_equal(inside([polygon[::-1]], WINDOW), base)
    np.testing.assert_array_equal(inside([np.roll(polygon, first, axis=0)], WINDOW), base)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=5), st.randoms())
@settings(max_examples=40, deadline=None)
def test_several_polygons_are_the_exclusive_or_of_each_in_any_order(seeds, random):
    polygons = [star(seed, centre=(12 + 3 * n, 15)) for n, seed in enumerate(seeds)]
    expected = np.logical_xor.reduce([inside([polygon], WINDOW) for polygon in polygons])
    random.shuffle(polygons)
    np.testing.assert_array_equal(inside(polygons, WINDOW), expected)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_adjacent_polygons_share_no_pixel_and_leave_none(seed):
    # A rectangle cut in two by a zigzag, with corners on pixel centres: each centre is in exactly one half.
    rng = np.random.default_rng(seed)
    y = np.arange(2, 27)
    x = 20 + rng.integers(-16, 16, len(y)) / 2
    zigzag = np.stack([x, y], axis=1).astype(float)
    left = np.concatenate([zigzag, [[3, 26], [3, 2]]])
    right = np.concatenate([zigzag[::-1], [[36, 2], [36, 26]]])
    both = [inside([left], WINDOW).astype(int), inside([right], WINDOW).astype(int)]
    whole = inside([np.array([[3, 2], [36, 2], [36, 26], [3, 26]])], WINDOW)
    np.testing.assert_array_equal(both[0] + both[1], whole)


def test_the_border_is_half_open():
    square = np.array([[3.0, 5], [9, 5], [9, 12], [3, 12]])
    found = np.zeros(WINDOW.shape, dtype=bool)
    found[5:12, 3:9] = True
    np.testing.assert_array_equal(inside([square], WINDOW), found)


@pytest.mark.parametrize(("low", "high", "first", "last"), [(2.4, 7.6, 3, 7), (2.6, 7.4, 3, 7), (2.999, 8.001, 3, 8)])
def test_edges_within_a_pixel_decide_by_its_centre(low, high, first, last):
    square = np.array([[low, low], [high, low], [high, high], [low, high]])
    found = np.argwhere(inside([square], WINDOW))
    assert found.min() == first
    assert found.max() == last
    assert len(found) == (last - first + 1) ** 2


def test_a_keyhole_is_the_outer_polygon_without_the_inner_one():
    outer, inner = star(1, radius=12, corners=30), star(2, radius=3, corners=12)
    keyhole = np.concatenate([outer, outer[:1], inner[::-1], inner[-1:]])
    np.testing.assert_array_equal(inside([keyhole], WINDOW), inside([outer, inner], WINDOW))
    assert inside([keyhole], WINDOW).sum() < inside([outer], WINDOW).sum()


@pytest.mark.parametrize("pixels_a_radius", [10, 40, 160])
def test_the_area_of_a_disc_converges(pixels_a_radius):
    # Gauss' circle problem: the error in pixels grows more slowly than the outline; 3 r^(2/3) holds at these sizes.
    r = pixels_a_radius
    t = np.linspace(0, 2 * np.pi, 20000, endpoint=False)
    disc = np.stack([r * np.cos(t) + r + 1.37, r * np.sin(t) + r + 1.71], axis=1)
    found = inside([disc], Window(0, 2 * r + 4, 0, 2 * r + 4)).sum()
    assert abs(found - math.pi * r**2) < 3 * r ** (2 / 3)
    assert area(disc) == pytest.approx(math.pi * r**2, rel=1e-6)


def test_what_leaves_the_window_is_cut_off():
    polygon = star(5, centre=(2, 2), radius=20)
    wide = inside([polygon], Window(-40, 60, -40, 60))
    np.testing.assert_array_equal(inside([polygon], WINDOW), wide[40:70, 40:80])
    assert not inside([polygon + 1000], WINDOW).any()
    assert inside([polygon], Window(0, 0, 0, 10)).shape == (10, 0)


def test_many_long_sides_are_taken_in_parts(monkeypatch):
    polygon = star(9, radius=14, corners=200)
    whole = inside([polygon], WINDOW)
    monkeypatch.setattr("radloom.dicom.polygons._CROSSINGS_AT_ONCE", 7)
    np.testing.assert_array_equal(inside([polygon], WINDOW), whole)


def test_the_window_of_polygons_holds_all_inside_and_no_more():
    polygon = star(11)
    window = window_of([polygon], Window(-100, 100, -100, 100))
    found = np.argwhere(inside([polygon], Window(-100, 100, -100, 100))) - 100
    assert window.top <= found[:, 0].min()
    assert found[:, 0].max() < window.bottom
    assert inside([polygon], window).sum() == len(found)
    assert window_of([(polygon - polygon.mean(axis=0)) * 1e30], WINDOW) == WINDOW
    assert window_of([polygon + 1e30], WINDOW).shape == (0, 0)


def test_distance_is_that_of_the_nearest_side_in_mm():
    polygons = [star(3), star(4, radius=3)]
    points = centres(WINDOW)[::7] + 0.3
    pixel = (0.5, 2.0)
    expected = np.full(len(points), np.inf)
    for polygon in polygons:
        for a, b in zip(polygon * pixel, np.roll(polygon, -1, axis=0) * pixel, strict=True):
            share = np.clip((points * pixel - a) @ (b - a) / ((b - a) @ (b - a)), 0, 1)
            expected = np.minimum(expected, np.linalg.norm(points * pixel - a - share[:, None] * (b - a), axis=1))
    # Samples of the sides are a tenth of the smaller spacing apart, 0.05 mm: at most 0.025^2 / 2 d too far.
    np.testing.assert_allclose(distance(points, polygons, pixel), expected, atol=2e-3, rtol=0)


def test_the_bridge_of_a_keyhole_is_no_outline():
    outer = np.array([[0.0, 0], [30, 0], [30, 30], [0, 30]])
    inner = np.array([[20.0, 20], [20, 22], [22, 22], [22, 20]])
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    on_the_bridge = np.array([[10.0, 10.0]])
    assert distance(on_the_bridge, [keyhole], (1, 1))[0] == pytest.approx(10)


def crossing_sides(polygon):
    """Whether two sides cross, pair by pair, in whole numbers."""

    def side_of(a, b, c):
        return np.sign((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    sides = list(zip(polygon, np.roll(polygon, -1, axis=0), strict=True))
    return any(
        side_of(a, b, c) * side_of(a, b, d) < 0 and side_of(c, d, a) * side_of(c, d, b) < 0
        for k, (a, b) in enumerate(sides)
        for c, d in sides[:k]
    )


@given(st.integers(0, 2**32 - 1), st.integers(3, 12), st.sampled_from([4, 30]))
@settings(max_examples=100, deadline=None)
def test_sides_that_cross_are_found_as_pair_by_pair(seed, corners, size):
    """Corners on whole numbers: they touch, coincide and are passed through, which is no crossing."""
    polygon = np.random.default_rng(seed).integers(0, size, (corners, 2))
    assert crossing_themselves([polygon.astype(float)]) == crossing_sides(polygon)


def test_one_crossing_among_thousands_of_sides_is_found(monkeypatch):
    """In every direction, of an outline whose sides run along the axes, too; and where pairs come in many parts."""
    monkeypatch.setattr("radloom.dicom.polygons._PAIRS_AT_ONCE", 1000)
    t = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    circle = np.stack([200 * np.cos(t), 200 * np.sin(t)], axis=1)
    stairs = np.round(circle[::5])
    stairs = np.stack([stairs, np.stack([np.roll(stairs[:, 0], -1), stairs[:, 1]], axis=1)], axis=1).reshape(-1, 2)
    stairs = stairs[(stairs != np.roll(stairs, 1, axis=0)).any(axis=1)]
    for outline in (circle, stairs):
        assert crossing_themselves([outline]) == 0
        for k in range(0, len(outline), 219):
            x, y = outline[k] * 1.05
            bow = np.array([[x - 0.03 * y, y + 0.03 * x], [x + 0.03 * y, y - 0.03 * x]])  # past it and back
            assert crossing_themselves([outline, np.insert(outline, k + 1, bow, axis=0), outline[::-1]]) == 1
