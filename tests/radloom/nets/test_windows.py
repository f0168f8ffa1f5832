"""Windows cover an axis evenly, their weights are MONAI's, and a slice beyond the ends is the last one again."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radloom.nets.windows import LEAST_WEIGHT, gaussian_weights, neighbour_slices, side_by_side, window_starts


@given(st.integers(1, 300), st.integers(1, 128), st.floats(0, 0.95))
def test_windows_cover_the_axis_evenly(room: int, window: int, overlap: float) -> None:
    length = window + room - 1
    starts = window_starts(length, window, overlap)
    assert starts[0] == 0
    assert starts[-1] == length - window
    steps = [b - a for a, b in itertools.pairwise(starts)]
    assert all(1 <= step <= max(1, int(window * (1 - overlap))) for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


@given(st.integers(2, 300), st.integers(1, 128), st.floats(0, 0.95))
def test_no_window_is_more_than_needed(length: int, window: int, overlap: float) -> None:
    window = min(window, length)
    step = max(1, int(window * (1 - overlap)))
    count = len(window_starts(length, window, overlap))
    assert (count - 1) * step >= length - window > (count - 2) * step or count == 1


def test_a_window_longer_than_the_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the axis"):
        window_starts(5, 6, 0.5)


@given(st.integers(1, 300), st.integers(1, 128), st.booleans())
def test_windows_side_by_side_count_once_everywhere(length: int, window: int, from_end: bool) -> None:
    window = min(window, length)
    owner = torch.full((length,), -1)
    count = torch.zeros(length)
    # DeepVoxNet lays windows one after the other, and a later one replaces what an earlier one gave.
    starts = [*range(0, length, window)]
    starts = [start for start in starts if start + window <= length] + [length - window] * (length % window > 0)
    for start in starts:
        owner[start : start + window] = start
    if from_end:
        owner = (length - window - owner).flip(0)
    for start, share in side_by_side(length, window, from_end=from_end).items():
        assert torch.equal(owner[start : start + window] == start, share > 0)
        count[start : start + window] += share
    assert (count == 1).all()


def test_the_weights_are_a_gaussian_that_no_voxel_falls_out_of() -> None:
    weights = gaussian_weights((16, 9))
    z, y = 3.0, 4.0
    expected = torch.exp(torch.tensor(-0.5 * ((z - 7.5) / 2) ** 2 - 0.5 * ((y - 4) / 1.125) ** 2))
    assert weights[3, 4] == pytest.approx(float(expected), rel=1e-6)
    assert weights.min() == LEAST_WEIGHT
    assert torch.equal(weights, weights.flip(0))
    assert torch.equal(weights, weights.flip(1))
    assert gaussian_weights((1, 1)).tolist() == [[1.0]]


def test_the_last_slice_stands_for_those_beyond() -> None:
    assert neighbour_slices(4, 5).tolist() == [[0, 0, 0, 1, 2], [0, 0, 1, 2, 3], [0, 1, 2, 3, 3], [1, 2, 3, 3, 3]]
    assert neighbour_slices(1, 3).tolist() == [[0, 0, 0]]
    assert neighbour_slices(3, 1).tolist() == [[0], [1], [2]]
