"""Noise: closed forms on phantoms of known noise, and what must not be guessed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scans import SPACING, body, noisy

from radloom.calibrate import Calibration, drift_calibration
from radloom.images import Array, Volume
from radloom.quality_noise import (
    Patches,
    air_noise,
    air_patches,
    cut_patches,
    global_noise,
    inner_part,
    per_patch,
    sampled,
    tissue_noise,
)

AS_IS = Calibration("none")


def patches(scan: Volume, valid: Array | None = None, calibration: Calibration = AS_IS) -> Patches:
    chosen = sampled(len(scan.array), 24)
    return cut_patches(scan.array[chosen], None if valid is None else valid[chosen], scan.geometry.spacing, calibration)


@pytest.mark.parametrize("sd", [3.0, 12.0, 35.0])
def test_white_noise_is_found_within_3_percent(sd: float) -> None:
    found = patches(noisy(body(), sd))
    assert air_noise(found) == pytest.approx(sd, rel=0.03)
    assert global_noise(found) == pytest.approx(sd, rel=0.03)
    assert tissue_noise(found) == pytest.approx(sd, rel=0.03)


def test_noise_is_in_calibrated_hu() -> None:
    drifted = noisy(body(muscle=20.0), 12.0)
    found = patches(drifted, calibration=drift_calibration(0.05))
    assert air_noise(found) == pytest.approx(12 * 1.05, rel=0.03)
    assert global_noise(found) == pytest.approx(12 * 1.05, rel=0.03)


def test_trends_are_no_noise_and_correlated_noise_is_underestimated_a_little() -> None:
    """A patch of 6 mm can't see waves longer than itself: noise blurred over 0.6 mm comes out 5 to 10 % low."""
    trend = np.linspace(-20, 20, 200)[None, None, :] * np.ones((32, 200, 1))
    assert global_noise(patches(noisy(body() + trend * (body() > -500), 12.0))) == pytest.approx(12, rel=0.04)
    blurred = global_noise(patches(noisy(body(), 12.0, blur=0.7)))
    assert blurred is not None
    assert 0.88 * 12 < blurred < 12


def test_noise_in_air_that_is_cut_off() -> None:
    # At -1024 a SD of 25 HU loses 17 % of its pixels below -1024: the upper half still tells.
    assert air_noise(patches(noisy(body(), 25.0))) == pytest.approx(25, rel=0.04)
    # At -1000 half of all is cut off, and the median is the limit itself.
    assert air_noise(patches(noisy(body(), 25.0, floor=-1000.0))) is None


def test_nothing_is_guessed() -> None:
    lung = patches(noisy(np.full((32, 200, 200), -850.0), 12.0))
    assert air_noise(lung) is None
    assert (global_noise(lung), tissue_noise(lung)) == (None, None)
    # Without soft tissue the patches of its HU are the borders of others.
    borders = patches(noisy(np.where(body() > 0, 250.0, body()), 12.0))
    assert np.count_nonzero((borders.mean > 0) & (borders.mean < 100)) > 100
    assert global_noise(borders) is None
    still = patches(Volume(body().astype(np.int16), noisy(body(), 1.0).geometry))
    assert air_noise(still) is None, "an image without noise has no noise to measure"
    assert global_noise(still) is None


def test_padding_is_left_out() -> None:
    scan = noisy(body(), 12.0)
    y, x = np.indices(scan.array.shape[1:])
    outside = np.hypot(y - 100, x - 100) > 95
    padded = Volume(np.where(outside, np.int16(-1024), scan.array), scan.geometry)
    valid = np.broadcast_to(~outside, scan.array.shape).astype(np.uint8)
    for mask in (valid, None):
        found = patches(padded, mask)
        assert air_noise(found) == pytest.approx(12, rel=0.03)
        if mask is not None:
            columns = per_patch(np.logical_and, inner_part(~outside, found.side), found.side)
            assert not (air_patches(found) & ~columns).any()


def test_patches_against_brute_force() -> None:
    scan = noisy(body(), 12.0)
    found = patches(scan)
    rows, columns = found.mean.shape[1:]
    height, width = found.side
    top, left = (200 - rows * height) // 2, (200 - columns * width) // 2
    assert (200 - rows * height) % 2 == 0
    plane = scan.array[sampled(32, 24)[5]].astype(float)
    for row, column in [(0, 0), (3, 7), (rows - 1, columns - 1), (rows // 2, columns // 2)]:
        square = plane[top + row * height :, left + column * width :][:height, :width]
        assert found.mean[5, row, column] == pytest.approx(square.mean(), abs=1e-3)
        assert found.sd[5, row, column] == pytest.approx(square.std(ddof=1), rel=1e-4)
        assert (found.low[5, row, column], found.high[5, row, column]) == (square.min(), square.max())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_mirror_images_have_the_same_figures(axis: int) -> None:
    # An odd number of pixels along y, so that patches don't fit evenly.
    scan = noisy(body()[:, 1:], 12.0)
    mirrored = Volume(np.ascontiguousarray(np.flip(scan.array, axis)), scan.geometry)
    one, other = patches(scan), patches(mirrored)
    for figure in (air_noise, global_noise, tissue_noise):
        assert figure(one) == pytest.approx(figure(other), rel=1e-6)


@given(st.integers(1, 400), st.integers(1, 20).map(lambda half: 2 * half))
@settings(max_examples=100, deadline=None)
def test_sampled_slices_are_spread_and_mirror(count: int, most: int) -> None:
    found = sampled(count, most)
    assert found == sorted(set(found))
    assert len(found) == min(count, most)
    assert found == sorted(count - 1 - i for i in found)
    assert max(np.diff(found), default=0) <= count / len(found) + 1


def test_the_side_of_a_patch() -> None:
    for pixel, side in [(0.5, 13), (0.78, 7), (0.9, 7), (1.0, 7), (2.0, 5)]:
        found = cut_patches(np.zeros((1, 64, 64), np.int16), None, (pixel, pixel, 1.0), AS_IS)
        assert found.side == (side, side), pixel
    assert SPACING[0] == 0.9
