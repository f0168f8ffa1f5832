"""Resampling within a slice: linear interpolation that keeps points where they are and averages fine noise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radloom.nets.inplane import linear_matrix, pixels, to_window

spacings = st.floats(0.3, 5.0)
counts = st.integers(1, 40)


def positions(count: int, spacing: float) -> np.ndarray:
    return (np.arange(count) - (count - 1) / 2) * spacing


@given(counts, spacings, spacings)
def test_the_new_grid_covers_the_old_one(count: int, spacing: float, target: float) -> None:
    number = pixels(count, spacing, target)
    assert number * target >= count * spacing - 1e-5 * target
    assert number == 1 or (number - 1) * target < count * spacing


@given(counts, spacings, spacings)
def test_rows_are_weights(count: int, spacing: float, target: float) -> None:
    matrix = linear_matrix(count, spacing, pixels(count, spacing, target), target)
    assert matrix.min() >= 0
    assert matrix.sum(dim=1).numpy() == pytest.approx(1.0, abs=1e-6)


@given(counts, spacings, st.floats(0.1, 1.0))
def test_finer_grids_are_interpolated_linearly(count: int, spacing: float, ratio: float) -> None:
    target = ratio * spacing
    number = pixels(count, spacing, target)
    values = np.random.default_rng(count).normal(size=count)
    expected = np.interp(positions(number, target), positions(count, spacing), values)
    found = linear_matrix(count, spacing, number, target).double().numpy() @ values
    assert found == pytest.approx(expected, abs=1e-5)


@given(st.integers(8, 40), st.floats(0.5, 1.0), st.floats(1.0, 3.0))
def test_a_ramp_stays_where_it_is_on_a_coarser_grid(count: int, spacing: float, ratio: float) -> None:
    target = ratio * spacing
    number = pixels(count, spacing, target)
    ramp = linear_matrix(count, spacing, number, target).double().numpy() @ positions(count, spacing)
    there = positions(number, target)
    inside = np.abs(there) < positions(count, spacing)[-1] - target
    assert ramp[inside] == pytest.approx(there[inside], abs=0.2 * spacing)
    assert ramp == pytest.approx(-ramp[::-1], abs=1e-5)


def test_the_same_spacing_changes_nothing() -> None:
    assert torch.equal(linear_matrix(13, 0.7, 13, 0.7), torch.eye(13))


def test_fine_noise_is_averaged() -> None:
    noise = np.random.default_rng(0).normal(size=4000)
    coarse = linear_matrix(4000, 0.5, 1000, 2.0).numpy() @ noise
    # Triangle of half width 4 pixels: variance sum(w^2) = 11 / 64 of the noise's for pixels midway.
    assert coarse.std() == pytest.approx(np.sqrt(0.17), rel=0.07)


def test_the_window_cuts_off() -> None:
    hu = torch.tensor([-1000.0, -160.0, 40.0, 240.0, 3000.0])
    assert to_window(hu, (-160.0, 240.0)).tolist() == [0.0, 0.0, 0.5, 1.0, 1.0]
