"""Peaks of fat and muscle in synthetic and real images."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from radloom.images import read_nifti
from radloom.tissue_peaks import tissue_hu


def thigh(fat: float = -105, muscle: float = 58, noise: float = 20) -> NDArray[np.int16]:
    """Muscle and bone in fat in air, blurred as a scanner does it: 20 slices of 120 x 120."""
    y, x = np.mgrid[:120, :120] - 60.0
    radius = np.hypot(x, y)
    plane = np.select([radius < 8, radius < 35, radius < 52], [900.0, muscle, fat], -1000.0)
    plane = ndimage.gaussian_filter(plane, 1)
    array = np.repeat(plane[None], 20, axis=0) + np.random.default_rng(0).normal(0, noise, (20, 120, 120))
    return np.rint(array).astype(np.int16)


@pytest.mark.parametrize("noise", [0, 10, 25, 40])
@pytest.mark.parametrize(("fat", "muscle"), [(-105, 58), (-85, 40), (-120, 70)])
def test_fat_and_muscle_are_found(fat: float, muscle: float, noise: float) -> None:
    """Within 2 HU, and 4 where the noise of a pixel is 40 HU."""
    array = thigh(fat, muscle, noise)
    tolerance = 2 if noise <= 25 else 4
    assert tissue_hu(array)["fat"] == pytest.approx(fat, abs=tolerance)
    assert tissue_hu(array)["muscle"] == pytest.approx(muscle, abs=tolerance)


def test_what_is_not_there_is_not_found() -> None:
    lean = thigh(fat=58)
    assert tissue_hu(lean)["fat"] is None
    assert tissue_hu(lean)["muscle"] == pytest.approx(58, abs=2)
    assert tissue_hu(np.full((20, 120, 120), -1000, np.int16))["fat"] is None
    assert tissue_hu(thigh()[:1, 20:60, 20:60])["fat"] is None, "too few voxels"
    # A peak outside its range is none: its flank lies inside.
    assert tissue_hu(thigh(fat=-40))["fat"] is None
    noise = np.random.default_rng(0).uniform(-300, 300, (20, 120, 120))
    assert tissue_hu(noise)["fat"] is None


def test_a_plain_is_no_peak() -> None:
    """A flat histogram is no tissue, and where it stops is no valley."""
    # Blocks of 2 x 2 equal pixels, so that their means are spread as evenly as they are.
    rng = np.random.default_rng(3)
    blocks = np.sort(rng.uniform(-300, 300, (60, 40, 40)), axis=None).reshape(60, 40, 40)
    flat = np.repeat(np.repeat(blocks, 2, axis=1), 2, axis=2)
    assert tissue_hu(flat) == {"fat": None, "muscle": None}


def test_padding_does_not_count() -> None:
    array = thigh()
    array[:, :40] = -100
    valid = np.ones(array.shape, np.uint8)
    valid[:, :40] = 0
    assert tissue_hu(array, valid)["fat"] == pytest.approx(-105, abs=2)
    assert tissue_hu(array)["fat"] == pytest.approx(-100, abs=2)


def test_real_legs(shared_data: Path) -> None:
    """Soft-tissue sarcomas: where a peak is found it is where fat and muscle are."""
    found: dict[str, list[float]] = {"fat": [], "muscle": []}
    paths = sorted((shared_data / "sts" / "images").glob("*.nii.gz"))[:6]
    for path in paths:
        array = read_nifti(path).array
        for name, hu in tissue_hu(array).items():
            if hu is not None:
                found[name].append(hu)
    assert len(found["fat"]) >= 5
    assert len(found["muscle"]) >= 5
    assert -120 < np.median(found["fat"]) < -90
    assert 40 < np.median(found["muscle"]) < 75
