"""The grid that slices make: order, step and gaps by position alone, and the shear that sets a tilted stack upright."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from radloom.dicom.geometry import lay_out, sheared
from radloom.errors import CaseError

PIXEL = (0.7, 0.8)


@settings(max_examples=60, deadline=None)
@given(
    there=st.lists(st.booleans(), min_size=6, max_size=40),
    step=st.floats(0.3, 12),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    seed=st.integers(0, 1000),
)
def test_slices_are_put_in_order_and_gaps_are_found(
    there: list[bool], step: float, turn: tuple[float, float, float], seed: int
) -> None:
    """For any orientation, order of files and missing slices, as long as two neighbours are there somewhere.

    Positions are off by up to 0.4 % of the step.
    """
    rng = np.random.default_rng(seed)
    kept = np.flatnonzero([True, True, *there, True])
    if np.sort(np.diff(kept))[(len(kept) - 2) // 2] > 1:
        return  # most slices are missing: then the wider step is taken for the even one, or nothing is even
    axes = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    along = kept * step + rng.uniform(-0.004, 0.004, len(kept)) * step
    order = rng.permutation(len(kept))
    positions = (along[:, None] * axes[:, 2] + (5, -7, 900))[order]
    found = lay_out(positions, axes[:, :2].T.ravel(), PIXEL)
    np.testing.assert_array_equal(found.index, kept)
    np.testing.assert_array_equal(order[[place[0] for place in found.places]], range(len(kept)))
    assert found.missing == sorted(set(range(kept[-1] + 1)) - set(kept.tolist()))
    assert found.step == pytest.approx(step, rel=0.01)
    assert found.drift == (0, 0)
    np.testing.assert_allclose(found.axes, axes, atol=1e-12)
    np.testing.assert_allclose(found.origin, along[0] * axes[:, 2] + (5, -7, 900))


@settings(max_examples=60, deadline=None)
@given(drift=st.tuples(st.floats(-2, 2), st.floats(-2, 2)), slices=st.integers(2, 30))
def test_a_drift_is_a_tilt_from_a_tenth_of_a_pixel_on(drift: tuple[float, float], slices: int) -> None:
    positions = np.arange(slices)[:, None] * np.array([*drift, 3.0])
    found = lay_out(positions, np.array([1.0, 0, 0, 0, 1, 0]), PIXEL)
    for given_mm, taken, pixel in zip(drift, found.drift, PIXEL, strict=True):
        small = abs(given_mm) * (slices - 1) <= 0.1 * pixel
        assert taken == (0 if small else pytest.approx(given_mm))
    if all(found.drift):
        assert found.tilt_degrees == pytest.approx(np.degrees(np.arctan2(np.hypot(*drift), 3)))


@settings(max_examples=40, deadline=None)
@given(drift=st.tuples(*[st.integers(-3000, 3000).map(lambda part: part / 1000)] * 2), seed=st.integers(0, 99))
def test_shearing_is_linear_interpolation_in_the_slice(drift: tuple[float, float], seed: int) -> None:
    """Against scipy at the same points: 1e-3 HU, for float32 holds values of 2,000 to 1e-4."""
    rng = np.random.default_rng(seed)
    array, valid = rng.integers(-1000, 2000, (5, 9, 8)).astype(np.int16), rng.random((5, 9, 8)) > 0.1
    found = sheared(array, valid, drift, -1024)
    y, x = np.mgrid[: found.array.shape[1], : found.array.shape[2]]
    for k in range(5):
        where = [y + found.start[1] - k * drift[1], x + found.start[0] - k * drift[0]]
        where = [one.round(6) for one in where]  # a whole shift is whole
        expected = map_coordinates(array[k].astype(float), where, order=1, cval=np.nan)
        known = map_coordinates((~valid[k]).astype(float), where, order=1, cval=1.0) < 1e-9
        np.testing.assert_array_equal(found.valid[k], known)
        np.testing.assert_allclose(found.array[k][known], expected[known], rtol=0, atol=1e-3 if any(drift) else 0)
        assert (found.array[k][~known] == -1024).all()


def test_all_slices_at_one_place_are_refused() -> None:
    with pytest.raises(CaseError, match="lie at one place"):
        lay_out(np.zeros((4, 3)), np.array([1.0, 0, 0, 0, 1, 0]), PIXEL)


@pytest.mark.parametrize("far", [1e6, 1e300])
def test_a_slice_far_away_is_refused_without_a_grid_of_a_million(far: float) -> None:
    positions = np.array([[0, 0, 0], [0, 0, 0.02], [0, 0, 0.04], [0, 0, far]])
    with pytest.raises(CaseError, match="spaced unevenly"):
        lay_out(positions, np.array([1.0, 0, 0, 0, 1, 0]), PIXEL)
