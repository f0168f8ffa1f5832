"""The perturbations: none is the chain itself, each part does what it says, and all follow from the case alone."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from radloom.calibrate import Calibration, calibrate_image
from radloom.errors import CaseError
from radloom.extract import extract_features, read_params
from radloom.feature_params import FeatureParams
from radloom.images import Array, Geometry, Volume
from radloom.perturb import (
    Amplitudes,
    Chain,
    Perturbation,
    Scene,
    change_volume,
    draw,
    estimate_noise,
    filter_margin,
    interpolate,
    move_mask,
    perturb_features,
    perturbed_grid,
    randomise_contour,
    write_perturbed,
)
from radloom.resample import Sampling, resample_image, resample_mask

ALL = Amplitudes(rotation=13, shift=0.5, volume=0.2, noise=1, contour=True)
NONE = Amplitudes()
CHAIN = Chain(Sampling(), Calibration("drift", 1.01, 10.0), round_hu=True)
OBLIQUE = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)


def source_and_roi(direction: tuple[float, ...] = OBLIQUE, seed: int = 0) -> tuple[Volume, Volume]:
    """A textured ball in fat with noise of 8 HU, and its mask; anisotropic, with turned axes."""
    geometry = Geometry((60, 50, 20), (0.8, 0.8, 2.5), (-3.0, 5.0, 7.0), direction)
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[0:20, 0:50, 0:60]
    distance = np.sqrt(((z - 10) * 2.5) ** 2 + ((y - 25) * 0.8) ** 2 + ((x - 30) * 0.8) ** 2)
    texture = ndimage.gaussian_filter(rng.normal(size=distance.shape), [1, 3, 3])
    image = np.where(distance < 11, 60 + 20 * texture / texture.std(), -80) + rng.normal(0, 8, distance.shape)
    return (
        Volume(np.rint(image).astype(np.int16), geometry),
        Volume((distance < 11).astype(np.uint8), geometry),
    )


def chain(source: Volume, mask: Volume, how: Chain = CHAIN) -> tuple[Volume, Volume]:
    """Image and ROI as resample and calibrate make them at 1 mm."""
    image = resample_image(source, (1, 1, 1), how.sampling)
    return calibrate_image(image, how.calibration, round_hu=how.round_hu)[0], resample_mask(mask, (1, 1, 1))[0]


def part_of(volume: Volume, grid: Geometry) -> Array:
    """The voxels of a volume that lie on a grid of the same axes and spacing."""
    x, y, z = np.rint(volume.geometry.to_index(grid.origin)).astype(int)
    nx, ny, nz = grid.size
    return volume.array[z : z + nz, y : y + ny, x : x + nx]


@pytest.fixture(scope="module")
def params(repo: Path) -> FeatureParams:
    return read_params(repo / "config" / "pyradiomics.yaml")


# ------------------------------------------------------------------ no perturbation


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling("linear"),
        Sampling(order=5),
        Sampling("sinc", radius=3),
        Sampling(antialias=True),
        Sampling(sigma_mm=(0.6, 0.6, 0.9)),
    ],
    ids=["bspline", "linear", "order5", "sinc", "antialias", "filtered"],
)
@pytest.mark.parametrize("round_hu", [True, False])
def test_without_amplitudes_it_is_the_chains_own_image_and_roi(sampling: Sampling, round_hu: bool) -> None:
    how = Chain(sampling, CHAIN.calibration, round_hu)
    source, mask = source_and_roi()
    image, roi = chain(source, mask, how)
    scene = Scene(source, roi, 1, how, NONE)
    made = scene.perturbed(draw(scene.seed, 1, NONE), 3.0)
    # Where the spline's prefilter ends 16 voxels off, and float32: 1e-3 HU; rounded, a tie may fall either way.
    difference = np.abs(part_of(image, made.image.geometry).astype(np.float64) - made.image.array)
    assert difference.max() <= (1 if round_hu else 1e-3)
    assert np.count_nonzero(difference > 1e-3) <= 5
    np.testing.assert_array_equal(part_of(roi, made.roi.geometry), made.roi.array)
    assert made.roi.array.sum() == roi.array.sum()
    assert made.facts["dice"] == 1


def test_without_amplitudes_the_features_are_those_of_extract(params: FeatureParams) -> None:
    source, mask = source_and_roi()
    image, roi = chain(source, mask)
    expected = extract_features(image, roi, {1: "tumour"}, params).rows["tumour"]
    found = perturb_features(source, roi, {1: "tumour"}, params, CHAIN, NONE, 1)
    np.testing.assert_allclose(found.rows[0][2], expected, rtol=1e-9)


def test_filters_see_enough_of_the_image_around_the_roi(params: FeatureParams) -> None:
    filtered = FeatureParams(
        params.setting, {"LoG": {"sigma": [2.0]}, "Wavelet": {}}, {"firstorder": ("Mean", "Entropy", "Energy")}
    )
    source, mask = source_and_roi()
    image, roi = chain(source, mask)
    expected = extract_features(image, roi, {1: "tumour"}, filtered).rows["tumour"]
    found = perturb_features(source, roi, {1: "tumour"}, filtered, CHAIN, NONE, 1)
    # Beyond the image the perturbed grid goes on with the border's values, extract with the filter's own rule.
    np.testing.assert_allclose(found.rows[0][2], expected, rtol=2e-2, atol=0.05)
    assert filter_margin(filtered, image.geometry) == 20
    assert filter_margin(params, image.geometry) == 1


# ------------------------------------------------------------------ determinism


def test_the_draws_follow_from_the_case_alone(params: FeatureParams) -> None:
    source, mask = source_and_roi()
    roi = chain(source, mask)[1]
    few = perturb_features(source, roi, {1: "a"}, params, CHAIN, ALL, 2)
    more = perturb_features(source, roi, {1: "b"}, params, CHAIN, ALL, 3)
    assert [values for _, _, values in few.rows] == [values for _, _, values in more.rows[:2]]
    assert few.done[0][2] != few.done[1][2]
    # Another number of the label, and another ROI beside it, change nothing.
    other = Volume(np.where(roi.array == 1, 7, 0).astype(np.uint8), roi.geometry)
    other.array[0, 0, 0] = 3
    again = perturb_features(source, other, {3: "dot", 7: "a"}, params, CHAIN, ALL, 1, rois=["a"])
    assert again.rows[0] == few.rows[0]
    # Another image does.
    elsewhere = perturb_features(source_and_roi(seed=1)[0], roi, {1: "a"}, params, CHAIN, ALL, 1)
    assert elsewhere.done[0][2]["angle_deg"] != few.done[0][2]["angle_deg"]


def test_parts_have_random_numbers_of_their_own() -> None:
    """Without noise the contour stays as it was, and the other way round."""
    source, mask = source_and_roi()
    roi = chain(source, mask)[1]
    scenes = [Scene(source, roi, 1, CHAIN, a) for a in (ALL, Amplitudes(13, 0.5, 0.2, 0, True))]
    noisy, quiet = (scene.perturbed(draw(scene.seed, 4, scene.amplitudes), 1.0) for scene in scenes)
    np.testing.assert_array_equal(noisy.roi.array, quiet.roi.array)
    assert (noisy.image.array != quiet.image.array).any()


def test_draws_fill_the_amplitudes() -> None:
    drawn = [draw(b"case", n, ALL) for n in range(1, 2001)]
    for values, most in (
        ([p.angle_deg for p in drawn], 13),
        ([p.shift[0] for p in drawn], 0.5),
        ([p.volume_change for p in drawn], 0.2),
    ):
        assert -most <= min(values) < -0.98 * most
        assert 0.98 * most < max(values) <= most
        # The mean of 2000 uniform numbers: within 4 standard errors of 0.
        assert abs(np.mean(values)) < 4 * most / np.sqrt(3 * 2000)


# ------------------------------------------------------------------ noise


@pytest.mark.parametrize("deviation", [2.0, 12.0, 50.0])
def test_the_level_of_noise_on_a_smooth_image(deviation: float) -> None:
    rng = np.random.default_rng(2)
    z, y, x = np.mgrid[0:12, 0:100, 0:100]
    smooth = 200 * np.sin(x / 15) * np.cos(y / 20) + 10 * z
    image = np.rint(smooth + rng.normal(0, deviation, smooth.shape))
    assert estimate_noise(image) == pytest.approx(deviation, rel=0.03)
    image[:, :, :40] = -1024
    assert estimate_noise(image) == pytest.approx(deviation, rel=0.08), "padding doesn't count"


def test_an_image_without_noise_gets_none(params: FeatureParams) -> None:
    assert estimate_noise(np.full((4, 20, 20), -1024, dtype=np.int16)) == 0
    source, mask = source_and_roi()
    flat = Volume(np.full_like(source.array, 40), source.geometry)
    found = perturb_features(flat, chain(source, mask)[1], {1: "t"}, params, CHAIN, ALL, 1)
    assert found.facts["t"]["noise_hu"] == 0
    assert "no noise could be measured" in found.warnings[0]


def test_the_noise_that_is_added_has_the_measured_level() -> None:
    source, mask = source_and_roi()
    roi = chain(source, mask)[1]
    how = Chain(Sampling(), Calibration("none"), round_hu=False)
    scene = Scene(source, Volume(mask.array, source.geometry), 1, how, Amplitudes(noise=1))
    # 8 HU of noise, and the edge of the ball in the finest detail.
    assert scene.noise_sd == pytest.approx(8, rel=0.1)
    quiet = Scene(source, Volume(mask.array, source.geometry), 1, how, NONE)
    # On the source's own grid nothing is interpolated.
    difference = (
        scene.perturbed(draw(scene.seed, 1, NONE), 4.0).image.array
        - quiet.perturbed(draw(scene.seed, 1, NONE), 4.0).image.array
    )
    assert difference.std() == pytest.approx(scene.noise_sd, rel=0.05)
    assert abs(difference.mean()) < 4 * scene.noise_sd / np.sqrt(difference.size)
    assert Scene(source, roi, 1, CHAIN, NONE).noise_sd == pytest.approx(8, rel=0.1)


# ------------------------------------------------------------------ rotation and shift


def polynomial(points: Array) -> Array:
    """A smooth function of the place in mm that a cubic spline follows closely."""
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.asarray(40 + 3 * x - 2 * y + z + 0.05 * x * y - 0.03 * y**2)


@pytest.mark.parametrize("interpolator", ["bspline", "linear", "sinc"])
def test_a_turned_grid_shows_the_same_place(interpolator) -> None:
    """Values at the new grid's physical points equal the function there: rotation, shift and axes are right."""
    geometry = Geometry((40, 44, 16), (0.9, 0.8, 2.0), (10.0, -4.0, 3.0), OBLIQUE)
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij")[::-1], axis=-1)
    image = Volume(polynomial(geometry.to_physical(index)), geometry)
    roi = np.zeros((18, 34, 32), dtype=bool)
    roi[6:12, 12:22, 10:22] = True
    mask = Volume(
        roi, Geometry((32, 34, 18), (1.0, 1.0, 1.5), tuple(geometry.to_physical([2, 2, 2]).tolist()), OBLIQUE)
    )
    grid = perturbed_grid(mask, Perturbation(1, 11.0, (0.3, -0.4, 0.2), 0.0), 1.0)
    points = grid.to_physical(np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij")[::-1], axis=-1))
    inside = np.all((image.geometry.to_index(points) > 6) & (image.geometry.to_index(points) < [33, 37, 13]), axis=-1)
    assert inside.mean() > 0.3
    found = interpolate(image, grid, Sampling(interpolator))
    # A straight line between voxels misses a parabola by its second derivative times h^2 / 8 along each axis; and
    # Lanczos' window lets the sinc miss polynomials.
    tolerance = {"bspline": 0.01, "linear": 0.06, "sinc": 0.1}[interpolator]
    assert np.abs(found - polynomial(points))[inside].max() < tolerance
    np.testing.assert_allclose(grid.axes.T @ grid.axes, np.eye(3), atol=1e-12)
    cosine = float(grid.axes[:, 0] @ geometry.axes[:, 0])
    assert np.degrees(np.arccos(cosine)) == pytest.approx(11)
    assert grid.axes[:, 2] == pytest.approx(geometry.axes[:, 2])


def test_the_grid_holds_the_whole_roi_and_its_margin() -> None:
    roi = np.zeros((10, 30, 40), dtype=bool)
    roi[3:8, 4:26, 5:38] = True
    mask = Volume(roi, Geometry((40, 30, 10), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0)))
    for angle in (0.0, 13.0, -45.0, 90.0):
        grid = perturbed_grid(mask, Perturbation(1, angle, (0.4, -0.4, 0.3), 0.0), 3.0)
        z, y, x = np.nonzero(roi)
        at = grid.to_index(mask.geometry.to_physical(np.stack([x, y, z], axis=-1)))
        assert (at >= [3, 3, 1.5]).all()
        assert (at <= np.array(grid.size) - 1 - np.array([3, 3, 1.5])).all()
        moved = move_mask(mask, grid)
        assert moved.sum() == pytest.approx(roi.sum(), rel=0.05)
        # Right angles and no shift move voxels onto voxels.
        exact = perturbed_grid(mask, Perturbation(1, angle, (0.0, 0.0, 0.0), 0.0), 3.0)
        if angle in (0.0, 90.0):
            assert move_mask(mask, exact).sum() == roi.sum()


def test_an_roi_at_the_border_of_the_image_stays_whole(params: FeatureParams) -> None:
    source, _ = source_and_roi()
    roi = np.zeros((50, 40, 48), dtype=np.uint8)
    roi[:12, 28:, 36:] = 1
    volume = Volume(roi, Geometry((48, 40, 50), (1.0, 1.0, 1.0), source.geometry.origin, OBLIQUE))
    found = perturb_features(source, volume, {1: "t"}, params, CHAIN, ALL, 3)
    assert all(0.6 * roi.sum() < facts["voxels"] < 1.5 * roi.sum() for _, _, facts in found.done)
    assert np.isfinite([values for _, _, values in found.rows]).all()


# ------------------------------------------------------------------ volume and contour


def ball(radius: float, spacing: tuple[float, float, float] = (1.0, 1.0, 2.0)) -> tuple[Array, Array]:
    """A ball (z, y, x) and the signed distance to its surface in mm, negative inside."""
    z, y, x = np.mgrid[-12:13, -24:25, -24:25]
    r = np.sqrt((z * spacing[2]) ** 2 + (y * spacing[1]) ** 2 + (x * spacing[0]) ** 2)
    return r < radius, r - radius


@pytest.mark.parametrize("change", [-0.28, -0.05, 0.0, 0.1, 0.28])
def test_the_volume_is_changed_exactly_and_evenly(change: float) -> None:
    mask, distance = ball(15)
    wanted = round((1 + change) * mask.sum())
    grown = change_volume(distance, wanted, np.random.default_rng(0))
    assert grown.sum() == wanted
    # Ball into ball: no voxel nearer to the middle is left out for a farther one, but for the last layer's ties.
    assert distance[grown].max() <= distance[~grown].min() + 2e-4
    assert (grown >= mask).all() if change >= 0 else (grown <= mask).all()


def test_the_smallest_volume_is_a_voxel() -> None:
    mask, distance = ball(3)
    assert change_volume(distance, 0, np.random.default_rng(0)).sum() == 1
    assert change_volume(distance, 10**9, np.random.default_rng(0)).all()
    assert mask.any()


def test_supervoxels_are_taken_with_the_probability_of_their_part_inside() -> None:
    """Pieces of 20 voxels with 0, 3, 10, 17, 18 and 20 of them inside, over 4000 draws."""
    inside = [0, 3, 10, 17, 18, 20]
    pieces = np.repeat(np.arange(6), 20).reshape(1, 6, 20).astype(np.int32)
    mask = np.arange(20)[None, None, :] < np.array(inside)[None, :, None]
    pieces, mask = np.pad(pieces, ((0, 0), (1, 0), (0, 0)), constant_values=-1), np.pad(mask, ((0, 0), (1, 0), (0, 0)))
    mask[0, 0, :7] = True
    drawn = np.array([randomise_contour(mask, pieces, np.random.default_rng(seed)) for seed in range(4000)])
    assert (drawn[:, 0, 0] == mask[0, 0]).all(), "beyond the pieces nothing changes"
    assert (drawn[:, 0, 1:].min(axis=2) == drawn[:, 0, 1:].max(axis=2)).all(), "a piece is taken whole"
    rates = drawn[:, 0, 1:, 0].mean(axis=0)
    assert rates[[0, 1, 4, 5]].tolist() == [0, 0, 1, 1]
    for rate, part in zip(rates[2:4], (0.5, 0.85), strict=True):
        assert rate == pytest.approx(part, abs=4 * np.sqrt(part * (1 - part) / 4000))


def test_the_piece_with_the_largest_part_is_always_taken() -> None:
    pieces = np.repeat(np.arange(3), 10).reshape(1, 1, 30).astype(np.int32)
    mask = np.zeros((1, 1, 30), dtype=bool)
    mask[0, 0, 12] = True
    for seed in range(20):
        assert randomise_contour(mask, pieces, np.random.default_rng(seed))[0, 0, 10:20].all()


def test_contours_vary_around_the_roi() -> None:
    source, mask = source_and_roi()
    roi = chain(source, mask)[1]
    scene = Scene(source, roi, 1, CHAIN, Amplitudes(contour=True))
    made = [scene.perturbed(draw(scene.seed, n, scene.amplitudes), 1.0) for n in range(1, 21)]
    dice = [one.facts["dice"] for one in made]
    assert 0.75 < min(dice) < max(dice) < 1
    assert len({one.facts["voxels"] for one in made}) > 10
    assert np.mean([one.facts["voxels"] for one in made]) == pytest.approx(roi.array.sum(), rel=0.1)


# ------------------------------------------------------------------ ROIs that can't be used, and the files


def test_what_cannot_be_perturbed(params: FeatureParams) -> None:
    source, mask = source_and_roi()
    roi = chain(source, mask)[1]
    roi.array[0, 0, :5] = 2
    found = perturb_features(source, roi, {1: "big", 2: "small", 3: "absent"}, params, CHAIN, ALL, 1, min_voxels=64)
    assert [row[0] for row in found.rows] == ["big"]
    with pytest.raises(CaseError, match=r"no ROI can be perturbed \(small: the ROI has 5 voxels, at least 64"):
        perturb_features(source, roi, {2: "small"}, params, CHAIN, ALL, 1, min_voxels=64)


def test_a_perturbation_without_features_is_empty(params: FeatureParams, tmp_path: Path) -> None:
    picky = FeatureParams({**params.setting, "minimumROISize": 10**6}, params.image_types, params.features)
    source, mask = source_and_roi()
    found = perturb_features(source, chain(source, mask)[1], {1: "t"}, picky, CHAIN, NONE, 2)
    assert np.isnan([values for _, _, values in found.rows]).all()
    assert found.warnings[0].startswith("t: 2 of 2 perturbations have no features: no ROI can be used")
    write_perturbed(tmp_path, found)
    lines = (tmp_path / "features.csv").read_text().splitlines()
    assert lines[1] == "t,1" + "," * len(found.columns)


def test_the_files_read_back_bit_for_bit(params: FeatureParams, tmp_path: Path) -> None:
    source, mask = source_and_roi()
    found = perturb_features(source, chain(source, mask)[1], {1: "t"}, params, CHAIN, ALL, 1)
    write_perturbed(tmp_path, found)
    header, row = (tmp_path / "features.csv").read_text().splitlines()
    assert header.split(",") == ["roi", "perturbation", *found.columns]
    assert [float(cell) for cell in row.split(",")[2:]] == found.rows[0][2]
    header, row = (tmp_path / "perturbations.csv").read_text().splitlines()
    told = dict(zip(header.split(",")[2:], map(float, row.split(",")[2:]), strict=True))
    assert told == found.done[0][2]
