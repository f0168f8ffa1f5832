"""Duplicates: the same voxels whatever the header says, and pictures that are nearly the same."""

import itertools

import numpy as np
import pytest
from scans import body, geometry, noisy
from scipy import fft

from radloom.duplicates import Fingerprint, hash_distances
from radloom.images import Array, Volume
from radloom.quality_gate import SAME_PICTURE
from radloom.resample import resample_image


def taken(array: Array) -> Fingerprint:
    fingerprint = Fingerprint(array.shape)
    for z, plane in enumerate(array):
        fingerprint.look(z, plane)
    return fingerprint


def patient(seed: int) -> Array:
    """A body with organs of its own."""
    rng = np.random.default_rng(seed)
    image = body(float(rng.uniform(-8, 8)))
    z, y, x = np.indices(image.shape)
    for _ in range(14):
        middle, radius = rng.uniform((0, 60, 50), (32, 140, 150)), rng.uniform(8, 25)
        inside = ((z - middle[0]) * 2.5) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2 < radius**2
        image[inside & (image > -500)] = rng.choice([-800.0, -100.0, 150.0, 280.0])
    return noisy(image, 12.0, seed).array


@pytest.fixture(scope="module")
def patients() -> list[Array]:
    return [patient(seed) for seed in range(6)]


def distance(one: Array, other: Array) -> float:
    return float(hash_distances([taken(one).picture(), taken(other).picture()])[0, 1])


def test_the_digest_is_that_of_the_voxels(patients: list[Array]) -> None:
    one = patients[0]
    assert taken(one).voxels() == taken(one.copy()).voxels()
    assert taken(one).voxels() == taken(np.asfortranarray(one)).voxels()
    changed = one.copy()
    changed[3, 4, 5] += 1
    digests = [taken(array).voxels() for array in (one, changed, one.reshape(16, 400, 200), one[:-1])]
    assert len(set(digests)) == 4


def test_the_hash_is_the_signs_of_a_cosine_transform(patients: list[Array]) -> None:
    """Against scipy on a size that the cells divide, where the thumbnail is a mean of blocks."""
    array = patients[0][:24, :192, :192]
    cells = array.clip(-500, 300).reshape(24, 1, 24, 8, 24, 8).mean(axis=(1, 3, 5))
    waves = fft.dctn(cells, type=2)[:8, :8, :8].reshape(-1)[1:]
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(taken(array).picture()), np.uint8))[:511]
    sure = np.abs(waves) > 1e-3 * np.abs(waves).max()
    assert sure.mean() > 0.5
    assert (bits[sure] == (waves > 0)[sure]).all()


def test_near_duplicates_are_near_and_others_are_not(patients: list[Array]) -> None:
    rng = np.random.default_rng(0)
    others = hash_distances([taken(array).picture() for array in patients])
    assert np.isnan(np.diag(others)).all()
    assert np.array_equal(others, others.T, equal_nan=True)
    assert np.nanmin(others) > SAME_PICTURE + 0.05
    for array in patients[:3]:
        scan = Volume(array, geometry())
        near = {
            "noise": np.rint(array + rng.normal(0, 20, array.shape)).astype(np.int16),
            "another calibration": np.rint(array * 1.03 - 10).astype(np.int16),
            "rounded": (array // 8 * 8).astype(np.int16),
            "a slice less": array[1:],
            "resampled": resample_image(scan, (2.0, 2.0, 2.0), "linear").array,
        }
        for name, changed in near.items():
            assert distance(array, changed) < SAME_PICTURE, name
        for axes in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
            assert distance(array, np.ascontiguousarray(np.flip(array, axes))) < 0.02, axes


def test_a_small_scan_has_a_hash() -> None:
    tiny = np.arange(2 * 8 * 8, dtype=np.int16).reshape(2, 8, 8)
    assert len(taken(tiny).picture()) == 128
    assert hash_distances([taken(tiny).picture()]).shape == (1, 1)
