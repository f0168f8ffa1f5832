"""Supervoxels: a partition into connected, compact pieces that follow the edges of the image."""

import numpy as np
from scipy import ndimage

from radloom.supervoxels import supervoxels

SPACING = (1.0, 1.0, 2.0)


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    values = ndimage.gaussian_filter(np.random.default_rng(5).normal(size=shape), 1)
    return (values - values.min()) / np.ptp(values)


def test_a_region_is_divided_into_connected_pieces_of_about_the_wanted_volume() -> None:
    image = noise((20, 40, 40))
    region = np.zeros(image.shape, dtype=bool)
    region[2:18, 3:37, 4:36] = True
    pieces = supervoxels(image, region, SPACING, 500, 0.05)
    np.testing.assert_array_equal(pieces >= 0, region)
    counts = np.bincount(pieces[region])
    assert counts.min() > 0
    assert 0.5 * region.sum() * 2 / 500 < len(counts) < 2 * region.sum() * 2 / 500
    parts = [ndimage.label(pieces == number)[1] for number in range(len(counts))]
    assert np.mean(np.array(parts) == 1) > 0.95


def test_in_a_flat_image_the_pieces_are_the_cells_of_the_grid() -> None:
    pieces = supervoxels(np.zeros((8, 16, 16)), np.ones((8, 16, 16), dtype=bool), SPACING, 512, 0.05)
    assert pieces.max() + 1 == 2 * 2 * 2
    for z, y, x in np.ndindex(2, 2, 2):
        cell = pieces[z * 4 : z * 4 + 4, y * 8 : y * 8 + 8, x * 8 : x * 8 + 8]
        assert len(np.unique(cell)) == 1


def test_the_pieces_do_not_cross_an_edge() -> None:
    image = np.zeros((12, 30, 30))
    image[:, :, 13:] = 1.0
    pieces = supervoxels(image, np.ones(image.shape, dtype=bool), SPACING, 500, 0.05)
    left, right = set(pieces[:, :, :13].ravel()), set(pieces[:, :, 13:].ravel())
    assert not left & right


def test_an_empty_region_has_no_pieces() -> None:
    pieces = supervoxels(noise((5, 6, 7)), np.zeros((5, 6, 7), dtype=bool), SPACING, 500, 0.05)
    assert (pieces == -1).all()


def test_a_region_smaller_than_a_cell_is_one_piece() -> None:
    region = np.zeros((5, 6, 7), dtype=bool)
    region[2, 3, 4] = True
    pieces = supervoxels(noise((5, 6, 7)), region, SPACING, 500, 0.05)
    assert pieces[region].tolist() == [0]
    assert (pieces[~region] == -1).all()
