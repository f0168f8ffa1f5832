"""The matrices of one axis: SciPy's splines of every order, Lanczos' weights, and the response of the Gaussian."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from radloom.axis_matrices import bspline_matrix, gaussian_matrix, linear_matrix, sinc_matrix
from radloom.resample import Sampling

SAMPLINGS = [*(Sampling(order=order) for order in range(6)), Sampling("linear"), Sampling("sinc", radius=4)]
IDS = [*(f"order{order}" for order in range(6)), "linear", "sinc"]


def samples(n: int, seed: int = 0) -> NDArray[np.float64]:
    """CT values with metal."""
    values = np.random.default_rng(seed).uniform(-1024, 1500, n)
    values[n // 2] = 3071
    return values


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("n", [2, 3, 4, 5, 9, 200])
def test_splines_are_scipy_s_up_to_the_borders(order: int, n: int) -> None:
    at = np.concatenate([np.arange(n), np.random.default_rng(1).uniform(0, n - 1, 300)])
    values = samples(n)
    expected = ndimage.map_coordinates(values, [at], order=order, mode="mirror")
    # SciPy begins its prefilter with a truncated sum, 1e-15 of what is left out at each end.
    np.testing.assert_allclose(bspline_matrix(n, at, order) @ values, expected, atol=1e-7)


def test_order_1_is_linear() -> None:
    at = np.linspace(0, 19, 57)
    np.testing.assert_allclose(bspline_matrix(20, at, 1), linear_matrix(20, at), atol=1e-12)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=IDS)
@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 40), count=st.integers(1, 30), sigma=st.just(0.0) | st.floats(0.05, 4), data=st.data())
def test_constants_samples_and_mirror_images(
    sampling: Sampling, n: int, count: int, sigma: float, data: st.DataObject
) -> None:
    at = np.array(data.draw(st.lists(st.floats(0, n - 1), min_size=count, max_size=count)))
    if sampling.order == 0:
        at = at[np.abs(at % 1 - 0.5) > 1e-6]  # half-way between two samples it is the later one, in a mirror too
    matrix = sampling.matrix(n, at, sigma)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-10)
    mirrored = sampling.matrix(n, n - 1 - at, sigma)[:, ::-1]
    np.testing.assert_allclose(matrix, mirrored, atol=1e-8)
    np.testing.assert_allclose(sampling.matrix(n, np.arange(n, dtype=float)), np.eye(n), atol=1e-10)


@pytest.mark.parametrize("sampling", SAMPLINGS[1:7], ids=IDS[1:7])
def test_ramps_away_from_the_borders(sampling: Sampling) -> None:
    """A mirrored ramp bends at the border, and the prefilter carries that inwards: by 0.43^25 for the order 5."""
    n, at = 100, np.linspace(30, 69, 200)
    np.testing.assert_allclose(sampling.matrix(n, at) @ np.arange(n), at, atol=1e-7)
    np.testing.assert_allclose(sampling.matrix(n, at, 1.3) @ np.arange(n), at, atol=1e-7)


def test_lanczos_weights_are_the_formula_s_over_their_sum() -> None:
    at, radius = 7.3, 3
    away = at - np.arange(5, 11)
    plain = np.sinc(away) * np.sinc(away / radius)
    found = sinc_matrix(20, np.array([at]), radius)[0]
    np.testing.assert_allclose(found[5:11], plain / plain.sum(), atol=1e-12)
    assert np.count_nonzero(found) == 6
    assert plain.sum() != pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("sigma", [0.15, 0.3, 0.6, 1.0, 2.5])
def test_the_gaussian_has_the_response_that_it_should(sigma: float) -> None:
    """exp(-(2 pi f sigma)^2 / 2) within 0.2 % up to a quarter of the sampling frequency, and exactly its variance."""
    n = 161
    kernel, away = gaussian_matrix(n, sigma)[80], np.arange(n) - 80
    for frequency in (0.01, 0.05, 0.1, 0.2, 0.25):
        response = float(kernel @ np.cos(2 * np.pi * frequency * away))
        assert response == pytest.approx(np.exp(-((2 * np.pi * frequency * sigma) ** 2) / 2), rel=2e-3)
    assert float(kernel @ away**2) == pytest.approx(sigma**2, rel=1e-6)


def test_gaussians_add_up_by_their_variances() -> None:
    """Of frequencies that the samples can show: within 1e-3 of a step of 1000 HU that is smooth over a voxel."""
    step = 1000 / (1 + np.exp(-(np.arange(120) - 60) / 1.5))
    twice = gaussian_matrix(120, 0.8) @ gaussian_matrix(120, 0.6) @ step
    np.testing.assert_allclose(twice, gaussian_matrix(120, 1.0) @ step, atol=0.05)


def test_a_wide_gaussian_of_few_slices_is_their_mean() -> None:
    np.testing.assert_allclose(gaussian_matrix(5, 40.0) @ [1.0, 2, 3, 4, 5], 3, atol=1e-3)
