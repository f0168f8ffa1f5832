"""The body in a CT: the table, the air in it, and what isn't a CT."""

import numpy as np
import pytest
from scipy import ndimage

from radloom.body import body_mask
from radloom.errors import CaseError


def scan() -> np.ndarray:
    """A body with lungs that reach the first slice, an airway open to the right, a table and a line of a mattress."""
    image = np.full((12, 40, 40), -1000, np.int16)
    image[:, 5:30, 5:35] = 40
    image[:8, 10:20, 8:18] = -850
    image[4, 12:14, 18:40] = -1000
    image[:, 33:36, 2:38] = 200
    return image


def test_the_body_holds_its_air_and_not_the_table() -> None:
    found = body_mask(scan(), -300)
    expected = np.zeros((12, 40, 40), bool)
    expected[:, 5:30, 5:35] = True
    expected[4, 12:14, 18:35] = False  # an airway that is open within its slice is outside there, as is what it opens
    lung = np.zeros_like(expected)
    lung[4, 10:20, 8:18] = True
    expected &= ~lung
    assert np.array_equal(found, expected)


def test_each_slice_is_filled_as_scipy_fills_it() -> None:
    rng = np.random.default_rng(3)
    image = ndimage.gaussian_filter(rng.normal(size=(6, 30, 34)), 1.2) * 5000
    dense = image > -300
    parts, count = ndimage.label(dense)
    sizes = ndimage.sum_labels(dense, parts, range(1, count + 1))
    expected = np.stack([ndimage.binary_fill_holes(plane) for plane in parts == np.argmax(sizes) + 1])
    assert expected.sum() > (parts == np.argmax(sizes) + 1).sum(), "there was something to fill"
    assert np.array_equal(body_mask(image, -300), expected)


def test_of_two_equal_parts_the_first_is_the_body() -> None:
    image = np.full((3, 5, 11), -1000.0, np.float32)
    image[1, 1:4, 1:4] = image[1, 1:4, 7:10] = 0
    assert np.flatnonzero(body_mask(image, -300).any(axis=(0, 1))).tolist() == [1, 2, 3]


def test_an_image_without_a_body_is_a_reason() -> None:
    with pytest.raises(CaseError, match="no voxel above -300 HU"):
        body_mask(np.full((3, 4, 5), -300, np.int16), -300)
