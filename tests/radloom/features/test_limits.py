"""Values, boxes and settings beyond what the passes over voxels hold are refused, and never counted wrongly."""

import numpy as np
import pytest
from agreement import disagreements

from radloom.errors import CaseError
from radloom.feature_params import FEATURES, SHAPE_CLASSES
from radloom.features import compute_features
from radloom.features.discretise import GreyLevels, discretise
from radloom.features.matrices import Levels, directions, neighbourhoods, zones
from radloom.features.roi import make_roi


@pytest.mark.parametrize("value", [1e9, 3e11])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("setting", [{}, {"binCount": 16}])
def test_bins_finer_than_the_values_digits_are_refused(value: float, dtype: type, setting: dict[str, int]) -> None:
    values = np.full(30, value, dtype)
    values[3] = np.nextafter(values[3], np.inf, dtype=dtype)
    if dtype is np.float64 and not setting:
        assert discretise(values, setting).highest == 1
        return
    with pytest.raises(CaseError, match=f"finer than the digits of {np.dtype(dtype).name}"):
        discretise(values, setting)


def test_more_neighbours_than_can_be_added_up_are_refused() -> None:
    mask = np.ones((31, 31, 31), bool)
    setting = {"distances": list(range(1, 18))}
    with pytest.raises(CaseError, match="42874 neighbours"):
        compute_features(mask.astype(np.int16), mask, (1, 1, 1), {"gldm": ("DependenceEntropy",)}, setting)


def test_as_many_neighbours_as_are_allowed_are_added_up() -> None:
    mask = np.ones((31, 31, 31), bool)
    offsets = directions(mask.shape, {"distances": list(range(1, 16))}, both_ways=True)
    assert len(offsets) == 31**3 - 1
    grey = GreyLevels(np.full(mask.size, 65535, np.uint16), np.array([65535], np.int32), np.array([mask.size]))
    levels = Levels(make_roi(mask, (1, 1, 1), 15), grey)
    dependence, difference = neighbourhoods(levels, offsets, alpha=0)
    assert dependence[0, -1] == 1  # the voxel in the middle has them all
    assert difference[0] == 0


def test_a_box_whose_voxels_32_bits_do_not_number_is_refused() -> None:
    grey = GreyLevels(np.array([1, 1], np.uint16), np.array([1], np.int32), np.array([2]))
    levels = Levels(make_roi(np.ones((1, 1, 2), bool), (1, 1, 1), 700), grey)
    with pytest.raises(CaseError, match="more than 2\\^31 voxels"):
        zones(levels, [(0, 0, 1)])


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u4", "i8", ">i2", ">i4", ">f4", ">f8", "f4", "f8"])
def test_features_do_not_depend_on_how_whole_numbers_are_stored(dtype: str) -> None:
    rng = np.random.default_rng(5)
    hu = rng.integers(0, 120, (6, 7, 8))
    mask = rng.random(hu.shape) < 0.7
    classes = {name: features for name, features in FEATURES.items() if name not in SHAPE_CLASSES}
    expected = compute_features(hu.astype(np.int16), mask, (3, 1, 1), classes, {"binWidth": 10})
    found = compute_features(np.asfortranarray(hu.astype(dtype)), mask, (3, 1, 1), classes, {"binWidth": 10})
    assert disagreements(found, expected) == {}
