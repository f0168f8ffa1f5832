"""Hints of artefacts: silent without the artefact, and growing with it."""

import numpy as np
import pytest
from scans import SPACING, body, geometry, noisy
from scipy import ndimage

from radloom.calibrate import Calibration
from radloom.images import Array, Volume
from radloom.quality_artefacts import (
    Survey,
    Surveyor,
    gaussian,
    motion_jump,
    streak_anisotropy,
    streak_metal,
    truncated_share,
)
from radloom.quality_noise import cut_patches

AS_IS = Calibration("none")
PIXEL = SPACING[0]


def surveyed(scan: Volume, valid: Array | None = None, calibration: Calibration = AS_IS) -> Survey:
    surveyor = Surveyor(scan.geometry, calibration)
    for z, plane in enumerate(scan.array):
        surveyor.look(z, plane, None if valid is None else valid[z] > 0)
    return surveyor.result()


def jump(shift: Array | float) -> float:
    found = motion_jump(surveyed(noisy(body(shift), 12.0)), SPACING)
    assert found is not None
    return found


def test_a_sudden_shift_is_motion_and_a_slow_one_is_not() -> None:
    slices = np.arange(32)
    assert jump(0.0) < 0.2
    assert jump(0.5 * slices) < 0.3, "a body that lies askew moves as far in every slice"
    assert jump(4 * np.sin(slices / 6)) < 0.7
    for pixels in (1, 2, 5, 12):
        moved = jump(np.where(slices >= 17, pixels, 0))
        assert moved == pytest.approx(pixels * PIXEL, abs=0.25), pixels


def test_the_jump_is_the_same_in_mirror_images() -> None:
    scan = noisy(body(np.where(np.arange(32) >= 12, 3, 0)), 12.0)
    wanted = motion_jump(surveyed(scan), SPACING)
    for axis in range(3):
        flipped = Volume(np.ascontiguousarray(np.flip(scan.array, axis)), scan.geometry)
        assert motion_jump(surveyed(flipped), SPACING) == pytest.approx(wanted, abs=1e-6)


def test_no_jump_is_told_of_a_body_that_is_cut_off() -> None:
    scan = noisy(body(), 12.0)
    part = Volume(np.ascontiguousarray(scan.array[:, 60:140, 60:140]), geometry((32, 80, 80)))
    found = surveyed(part)
    assert motion_jump(found, SPACING) is None
    assert truncated_share(found) == 1.0
    half = Volume(np.ascontiguousarray(scan.array[:, :100]), geometry((32, 100, 200)))
    # The body's muscle and fat, 150 pixels wide, lie at one side of the rim.
    assert truncated_share(surveyed(half)) == pytest.approx(150 / (2 * 200 + 2 * 98), abs=0.01)
    assert truncated_share(surveyed(scan)) == 0.0


def test_the_rim_is_that_of_the_field_of_view() -> None:
    scan = noisy(body(), 12.0)
    y, x = np.indices(scan.array.shape[1:])
    valid = np.broadcast_to(np.hypot(y - 100, x - 100) < 65, scan.array.shape)
    share = truncated_share(surveyed(scan, valid.astype(np.uint8)))
    # The body is an ellipse of 75 by 60 pixels: the circle of 65 leaves it above and below.
    angle = np.linspace(0, 2 * np.pi, 100_000)
    inside = np.hypot(65 * np.sin(angle) / 0.8, 65 * np.cos(angle)) < 75
    assert share == pytest.approx(inside.mean(), abs=0.03)


def streaky(strength: float, seed: int = 3) -> Volume:
    """Noise of 12 HU and horizontal streaks of this SD, as of photon starvation."""
    lines = np.random.default_rng(seed).standard_normal((32, 200, 1)) * strength
    return noisy(body() + np.where(body() > -500, lines, 0), 12.0)


def test_streaks_across_a_slice() -> None:
    found = []
    for strength in (0.0, 4.0, 8.0, 16.0):
        scan = streaky(strength)
        patches = cut_patches(scan.array, None, SPACING, AS_IS)
        found.append(streak_anisotropy(patches, SPACING))
        turned = cut_patches(np.ascontiguousarray(scan.array.transpose(0, 2, 1)), None, SPACING, AS_IS)
        assert streak_anisotropy(turned, SPACING) == pytest.approx(found[-1], rel=1e-5)
    assert found[0] < 0.06
    assert found[1] > found[0]
    assert found[2] > 2 * found[0]
    assert found[3] > 0.3
    assert found == sorted(found)
    outside = cut_patches(np.full((4, 60, 60), -1000, np.int16), None, SPACING, AS_IS)
    assert streak_anisotropy(outside, SPACING) is None


def with_metal(strength: float) -> Volume:
    """A rod of metal off the middle, and 14 rays of this amplitude from it that fade over 54 mm."""
    image = body()
    y, x = np.indices(image.shape[1:])
    distance, angle = np.hypot(y - 90, x - 110), np.arctan2(y - 90, x - 110)
    rays = strength * np.sin(14 * angle) * np.exp(-distance / 60)
    image[8:24] += np.where(image[8:24] > -500, rays, 0)
    image[8:24][:, distance < 4] = 3071
    return noisy(image, 12.0)


def test_streaks_from_metal() -> None:
    found = []
    for strength in (0.0, 30.0, 60.0, 120.0):
        survey = surveyed(with_metal(strength))
        assert survey.metallic is not None
        assert len(survey.metallic) == 8
        found.append(streak_metal(cut_patches(survey.metallic, None, SPACING, AS_IS), SPACING))
    assert found[0] < 0.1
    assert found[1] > found[0] + 0.05
    assert found[3] > 0.4
    assert found == sorted(found)
    assert surveyed(noisy(body(), 12.0)).metallic is None


def test_smoothing_is_scipys() -> None:
    image = np.random.default_rng(0).normal(size=(9, 12, 30)).astype(np.float32)
    for sigmas in [(0.5, 0.5, 0.31), (2.2, 1.0, 3.0)]:
        wanted = ndimage.gaussian_filter(image, sigmas, mode="nearest")
        assert gaussian(image, sigmas) == pytest.approx(wanted, abs=1e-6)


def test_metal_and_saturation_are_counted() -> None:
    scan = with_metal(0.0)
    found = surveyed(scan)
    assert found.metal.sum() == np.count_nonzero(scan.array > 2500)
    assert found.saturated == np.count_nonzero(scan.array == 3071) > 100
    beyond = scan.array.copy()
    beyond[10, 90, 110] = 5000
    assert surveyed(Volume(beyond, scan.geometry)).saturated == 0, "this scanner goes on beyond 12 bits"
    hot = Calibration("phantom", 0.8, 0.0)
    assert surveyed(scan, calibration=hot).metal.sum() == np.count_nonzero(scan.array * 0.8 > 2500)
