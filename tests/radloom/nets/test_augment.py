"""Augmentation: what is drawn lies within its bounds, and does what its name says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.nets.augment import Augmentation, change_hu, place_patch
from radloom.nets.dataset import cut

NONE = Augmentation()
LENGTH = st.integers(1, 12)


@settings(max_examples=60, deadline=None)
@given(st.tuples(LENGTH, LENGTH, LENGTH), st.tuples(LENGTH, LENGTH, LENGTH), st.integers(0, 2**31))
def test_a_patch_lies_inside_or_around_the_array(shape: tuple[int, ...], patch: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    array = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(1, *shape)
    at = tuple(int(rng.integers(n)) for n in shape)
    made = cut(array, place_patch(shape, patch, at, (1.0, 1.0, 1.0), NONE, rng), patch, 0.0)[0]
    # As many voxels as fit, each once, in their order, and the wanted one among them.
    fits = [min(n, p) for n, p in zip(shape, patch, strict=True)]
    assert made.shape == patch
    assert np.count_nonzero(made) == np.prod(fits)
    assert array[(0, *at)] in made
    values = made[made > 0]
    assert (np.diff(values) > 0).all()


def test_a_small_array_lies_in_the_middle_of_its_patch() -> None:
    placement = place_patch((2, 4), (6, 8), None, (1.0, 1.0), NONE, np.random.default_rng(0))
    made = cut(np.ones((1, 2, 4), np.float32), placement, (6, 8), -5.0)[0]
    assert (made[2:4, 2:6] == 1).all()
    assert (made == -5).sum() == 48 - 8


@pytest.mark.parametrize("axes", [(), ("x",), ("y",), ("x", "y")])
def test_flips_are_of_half_of_the_items_and_along_the_named_axes_alone(axes: tuple[str, ...]) -> None:
    flips = np.array(
        [
            place_patch((5, 5), (5, 5), None, (1, 1), Augmentation(flip=axes), np.random.default_rng(s)).flipped
            for s in range(400)
        ]
    )
    for column, axis in enumerate("yx"):
        # Binomial: 5 standard deviations of 400 throws are 50.
        assert abs(flips[:, column].sum() - (200 if axis in axes else 0)) <= (50 if axis in axes else 0)


def test_a_flip_mirrors() -> None:
    array = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    for seed in range(40):
        placement = place_patch((2, 3), (2, 3), None, (1, 1), Augmentation(flip=("x",)), np.random.default_rng(seed))
        expected = array[:, :, ::-1] if placement.flipped[1] else array
        assert np.array_equal(cut(array, placement, (2, 3), 0.0), expected)


def test_rotation_turns_in_mm_and_scale_enlarges() -> None:
    # A rod of 24 x 4 mm on voxels of 1 x 2 mm (y, x), turned by about 90 degrees, is a rod of 4 x 24 mm.
    array = np.zeros((1, 41, 41), np.float32)
    array[0, 8:33, 19:22] = 1
    turned, sizes = 0, []
    for seed in range(60):
        placement = place_patch(
            (41, 41), (41, 41), None, (1.0, 2.0), Augmentation(rotate=90), np.random.default_rng(seed)
        )
        made = cut(array, placement, (41, 41), 0.0)[0]
        sizes.append(made.sum() / array.sum())
        tall, wide = np.ptp(np.argwhere(made > 0.5), axis=0) * [1.0, 2.0]
        turned += tall < 9 and 20 < wide < 30
    assert turned > 0
    assert np.mean(sizes) == pytest.approx(1, abs=0.03)  # in mm a rotation keeps areas

    for seed in range(5):
        scaled = Augmentation(scale=0.5)
        placement = place_patch((41, 41), (41, 41), None, (1.0, 2.0), scaled, np.random.default_rng(seed))
        assert placement.matrix is not None
        factor = 1 / placement.matrix[0, 0]
        made = cut(array, placement, (41, 41), 0.0)[0]
        assert made.sum() / array.sum() == pytest.approx(factor**2, rel=0.1)


def test_the_identity_interpolated_is_the_plain_patch() -> None:
    array = np.random.default_rng(3).normal(size=(2, 7, 9, 8)).astype(np.float32)
    plain = place_patch((7, 9, 8), (4, 6, 12), None, (3, 1, 1), NONE, np.random.default_rng(1))
    moved = type(plain)(plain.centre, np.eye(3), plain.flipped)
    # Positions in float32 are off by 1e-6 voxels of values of size 3.
    np.testing.assert_allclose(cut(array, moved, (4, 6, 12), -9.0), cut(array, plain, (4, 6, 12), -9.0), atol=2e-5)
    labels = (array[:1] > 0).astype(np.uint8)
    assert np.array_equal(cut(labels, moved, (4, 6, 12), 0, nearest=True), cut(labels, plain, (4, 6, 12), 0))


def test_a_patch_beside_the_array_is_air() -> None:
    placement = place_patch((3, 3), (2, 2), None, (1, 1), Augmentation(shift=30), np.random.default_rng(0))
    assert (cut(np.ones((1, 3, 3), np.float32), placement, (2, 2), -1000.0) == -1000).all()


def test_hu_change_by_no_more_than_they_may() -> None:
    hu = np.zeros((200, 200), np.float32)
    changes = Augmentation(noise_hu=6, hu_shift=12)
    offsets, noises = [], []
    for seed in range(60):
        made = change_hu(hu, changes, np.random.default_rng(seed))
        offsets.append(made.mean())
        noises.append(made.std())
    # 200 x 200 voxels know their mean to 6 / 200.
    assert 8 < max(np.abs(offsets)) < 12.1
    assert 4 < max(noises) < 6.1
    assert change_hu(hu, NONE, np.random.default_rng(0)).any() == np.False_


def test_blur_is_in_the_slice_alone() -> None:
    volume = np.zeros((3, 25, 25), np.float32)
    volume[1, 12, 12] = 1
    made = [change_hu(volume, Augmentation(blur=2), np.random.default_rng(seed)) for seed in range(20)]
    blurred = [one for one in made if one[1, 12, 12] < 0.99]
    assert 3 < len(blurred) < 17
    assert all(not one[[0, 2]].any() and one.sum() == pytest.approx(1, abs=0.02) for one in blurred)


def test_what_cant_be() -> None:
    with pytest.raises(ValueError, match="axes among"):
        Augmentation(flip=("w",))
    with pytest.raises(ValueError, match="negative"):
        Augmentation(noise_hu=-1)
