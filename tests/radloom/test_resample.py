"""Resampling: the grid of IBSI, B-splines against SciPy and ITK, and points that stay where they were."""

import math

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from radloom.axis_matrices import bspline_matrix
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, crop, from_sitk, to_sitk
from radloom.resample import (
    Alignment,
    Sampling,
    crop_box,
    new_grid,
    passage,
    resample_image,
    resample_mask,
    resample_valid,
)

Vector = tuple[float, float, float]


@st.composite
def geometries(draw: st.DrawFn, least: int = 2, spacing_range: tuple[float, float] = (0.4, 5)) -> Geometry:
    """Grids of any direction, also left-handed."""
    size = draw(st.tuples(*[st.integers(least, 24)] * 3))
    spacing = draw(st.tuples(*[st.floats(*spacing_range)] * 3))
    origin = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    turn = draw(st.tuples(*[st.floats(-3, 3)] * 3))
    axes = Rotation.from_rotvec(turn).as_matrix() * draw(st.sampled_from([1, -1]))
    return Geometry(size, spacing, origin, tuple(axes.ravel().tolist()))


spacings = st.tuples(*[st.just(0.0) | st.floats(0.5, 4)] * 3)


def points_of(geometry: Geometry) -> NDArray[np.float64]:
    """Physical points of all voxels, (z, y, x, 3)."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)[..., ::-1]
    return geometry.to_physical(index)


def noise(size: tuple[int, int, int], spacing: Vector, seed: int = 0) -> Volume:
    """Smoothed noise over the whole range of CT, with a piece of metal."""
    rng = np.random.default_rng(seed)
    array = ndimage.gaussian_filter(rng.normal(0, 1, size[::-1]), 0.7) * 1500
    array[4:7, 5:9, 5:9] = 3071
    return Volume(np.rint(array).clip(-1024, 3071).astype(np.int16), Geometry(size, spacing, (-100.0, 50.0, 7.0)))


@settings(max_examples=150, deadline=None)
@given(geometries(), spacings)
def test_the_grid_is_that_of_ibsi(geometry: Geometry, spacing: Vector) -> None:
    grid = new_grid(geometry, spacing)
    np.testing.assert_allclose(grid.centre(), geometry.centre(), atol=1e-9)
    assert grid.direction == geometry.direction
    for axis in range(3):
        extent = geometry.size[axis] * geometry.spacing[axis]
        if spacing[axis] == 0:
            assert (grid.size[axis], grid.spacing[axis]) == (geometry.size[axis], geometry.spacing[axis])
        else:
            assert grid.spacing[axis] == pytest.approx(
                spacing[axis], rel=1e-6
            )  # a hair from the old one keeps the old one
            assert extent / spacing[axis] - 2e-3 <= grid.size[axis] < extent / spacing[axis] + 1


def test_rounding_in_a_header_adds_no_voxel() -> None:
    geometry = Geometry((100, 100, 10), (float(np.float32(0.3)), 0.3, 3.0), (0, 0, 0))
    assert new_grid(geometry, (0.1, 0.1, 1.0)).size == (300, 300, 30)


@pytest.mark.parametrize("interpolator", ["bspline", "linear"])
@settings(max_examples=60, deadline=None)
@given(geometry=geometries(), spacing=spacings, slope=st.tuples(*[st.floats(-3, 3)] * 3))
def test_points_stay_where_they_were(interpolator: str, geometry: Geometry, spacing: Vector, slope: Vector) -> None:
    """A ramp in physical space is still that ramp on the new grid, wherever the new point is inside the old ones."""
    ramp = (points_of(geometry) - geometry.centre()) @ np.array(slope)
    image = resample_image(Volume(ramp, geometry), spacing, interpolator)  # type: ignore[arg-type]
    points = points_of(image.geometry)
    index = geometry.to_index(points)
    last = np.array(geometry.size) - 1
    # The mirrored border bends a ramp; the prefilter carries that inwards, a quarter of it from voxel to voxel.
    margin = np.where(last > 20, 9.0, np.inf) if interpolator == "bspline" else np.zeros(3)
    margin = np.where([a == b for a, b in zip(image.geometry.spacing, geometry.spacing, strict=True)], 0, margin)
    inside = ((index >= margin - 1e-9) & (index <= last - margin + 1e-9)).all(axis=-1)
    expected = (points - geometry.centre()) @ np.array(slope)
    scale = max(1.0, float(np.abs(ramp).max()))
    np.testing.assert_allclose(image.array[inside], expected[inside], atol=2e-5 * scale)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(least=14, spacing_range=(0.8, 1.6)), data=st.data())
def test_a_ball_of_the_mask_stays_where_it_was(geometry: Geometry, data: st.DataObject) -> None:
    """Its centre of mass and its surface move by less than a quarter of a voxel; image and mask are on one grid."""
    spacing = tuple(s * data.draw(st.floats(0.5, 1.4)) for s in geometry.spacing)
    assert len(spacing) == 3
    radius = min(n * s for n, s in zip(geometry.size, geometry.spacing, strict=True)) * 0.4
    old = points_of(geometry)
    ball = np.linalg.norm(old - geometry.centre() - 0.3, axis=-1) < radius
    mask, warnings = resample_mask(Volume(ball.astype(np.uint8), geometry), spacing)
    image = resample_image(Volume(ball.astype(np.int16), geometry), spacing, "linear")
    assert mask.geometry == image.geometry
    assert warnings == []
    before, after = old[ball].mean(axis=0), points_of(mask.geometry)[mask.array > 0].mean(axis=0)
    assert np.linalg.norm(after - before) < 0.25 * max(*spacing, *geometry.spacing)
    volume, surface = ball.sum() * geometry.voxel_mm3, 4 * np.pi * radius**2
    found = (mask.array > 0).sum() * mask.geometry.voxel_mm3
    assert abs(found - volume) < surface * 0.25 * max(*spacing, *geometry.spacing)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.5, 0.6, 0.9), (2.3, 2.3, 5.0), (0.0, 1.0, 0.0)])
def test_bspline_is_scipy_s_on_the_whole_volume(spacing: Vector) -> None:
    image = noise((70, 61, 40), (0.8, 0.9, 1.5))
    found = resample_image(image, spacing, "bspline")
    index = image.geometry.to_index(points_of(found.geometry))[..., ::-1]
    index = np.clip(index, 0, np.array(image.geometry.shape) - 1)
    coefficients = ndimage.spline_filter(image.array.astype(np.float64), 3, mode="mirror")
    expected = ndimage.map_coordinates(coefficients, np.moveaxis(index, -1, 0), order=3, mode="mirror", prefilter=False)
    assert found.array.dtype == np.float32
    assert np.abs(found.array).max() > 3000, "metal is in it"
    assert np.abs(found.array - expected).max() < 1e-3


@pytest.mark.parametrize(("name", "itk"), [("bspline", sitk.sitkBSpline), ("linear", sitk.sitkLinear)])
def test_both_interpolators_are_itk_s_within_the_borders_on_oblique_axes(name: str, itk: int) -> None:
    axes = Rotation.from_euler("xyz", [12, -7, 30], degrees=True).as_matrix()
    plain = noise((50, 44, 30), (0.8, 0.9, 2.0))
    geometry = Geometry(plain.geometry.size, plain.geometry.spacing, (10.0, 20.0, -300.0), tuple(axes.ravel()))
    image = Volume(plain.array.astype(np.float32), geometry)
    found = resample_image(image, (1.0, 1.0, 1.0), name)  # type: ignore[arg-type]
    expected = from_sitk(sitk.Resample(to_sitk(image), to_sitk(found), sitk.Transform(), itk, -5000.0))
    # Beyond the centres of the outer voxels ITK goes on with the mirrored spline, where here the border's value stays.
    index = geometry.to_index(points_of(found.geometry))
    inside = ((index >= 0) & (index <= np.array(geometry.size) - 1)).all(axis=-1)
    assert inside.mean() > 0.9
    assert np.abs(found.array - expected.array)[inside].max() < 2e-3


def test_own_spacing_changes_no_bit() -> None:
    image = noise((20, 18, 12), (0.7, 0.7, 3.0))
    for spacing in [(0.7, 0.7, 3.0), (0.0, 0.0, 0.0), (0.7, 0.0, 3.0)]:
        found = resample_image(image, spacing, "bspline")
        assert found.geometry == image.geometry
        np.testing.assert_array_equal(found.array, image.array.astype(np.float32))
    mask = Volume((image.array > 500).astype(np.uint8), image.geometry)
    found, _ = resample_mask(mask, (0.7, 0.7, 3.0))
    np.testing.assert_array_equal(found.array, mask.array)


def test_bspline_interpolates_its_samples_and_a_single_one() -> None:
    for n in (2, 3, 7, 40):
        np.testing.assert_allclose(bspline_matrix(n, np.arange(n, dtype=float)), np.eye(n), atol=1e-12)
        at = np.linspace(0, n - 1, 31)
        np.testing.assert_allclose(bspline_matrix(n, at).sum(axis=1), 1, atol=1e-12)
    np.testing.assert_array_equal(bspline_matrix(1, np.zeros(3)), np.ones((3, 1)))


def test_a_half_shared_voxel_goes_to_the_lower_label() -> None:
    """Two voxels become one: each label has half of the one between them, and the background half of the last."""
    array = np.array([2, 2, 2, 1, 1, 1, 1, 0, 0, 0], dtype=np.uint16)
    mask = Volume(np.tile(array, (2, 2, 1)), Geometry((10, 2, 2), (1, 1, 1), (0, 0, 0)))
    found, warnings = resample_mask(mask, (2.0, 1.0, 1.0))
    assert found.array.dtype == np.uint16
    np.testing.assert_array_equal(found.array[0, 0], [2, 1, 1, 1, 0])
    assert warnings == []


def digitized_noise(shape: tuple[int, int, int], seed: int) -> NDArray[np.uint8]:
    """Three labels in layers around each other: half is background."""
    blobs = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return np.digitize(blobs, np.quantile(blobs, [0.5, 0.7, 0.9])).astype(np.uint8)


def plain_labels(mask: Volume, grid: Geometry) -> NDArray[np.uint8]:
    """Largest weight within the union's half, each weight by SciPy over the whole volume."""
    index = np.clip(mask.geometry.to_index(points_of(grid))[..., ::-1], 0, np.array(mask.array.shape) - 1)
    numbers = np.unique(mask.array[mask.array > 0])
    weights = np.stack(
        [ndimage.map_coordinates((mask.array == n).astype(float), np.moveaxis(index, -1, 0), order=1) for n in numbers]
    )
    chosen = numbers[np.argmax(np.round(weights, 6), axis=0)]  # the first, and so the lowest, of equal ones
    return np.where(weights.sum(axis=0) >= 0.5 - 1e-6, chosen, 0).astype(np.uint8)


@pytest.mark.parametrize("spacing", [(1.3, 1.1, 1.7), (0.5, 0.0, 0.9), (1.8, 1.8, 0.0), (3.1, 2.9, 4.0)])
def test_labels_are_the_largest_weights_within_the_union(spacing: Vector) -> None:
    for labels in (
        digitized_noise((24, 30, 28), 3),
        np.random.default_rng(1).integers(0, 4, (24, 30, 28)).astype(np.uint8),
    ):
        mask = Volume(labels, Geometry((28, 30, 24), (0.9, 0.9, 2.0), (0, 0, 0)))
        found, _ = resample_mask(mask, spacing)
        np.testing.assert_array_equal(found.array, plain_labels(mask, found.geometry))
        assert set(np.unique(found.array)) == {0, 1, 2, 3}


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(least=6), spacing=spacings, seed=st.integers(0, 9), data=st.data())
def test_the_union_is_the_same_however_it_is_divided(
    geometry: Geometry, spacing: Vector, seed: int, data: st.DataObject
) -> None:
    """Into layers, checkers or noise."""
    union = digitized_noise(geometry.shape, seed) > 0
    whole, _ = resample_mask(Volume(union.astype(np.uint8), geometry), spacing)
    kind = data.draw(st.sampled_from(["layers", "checkers", "noise"]))
    if kind == "layers":
        labels = digitized_noise(geometry.shape, seed)
    elif kind == "checkers":
        labels = np.where(union, 1 + np.indices(union.shape).sum(axis=0) % 3, 0).astype(np.uint8)
    else:
        labels = np.where(union, np.random.default_rng(seed).integers(1, 6, union.shape), 0).astype(np.uint8)
    divided, _ = resample_mask(Volume(labels, geometry), spacing)
    np.testing.assert_array_equal(divided.array > 0, whole.array > 0)


def test_interleaved_labels_lose_nothing_of_a_ball() -> None:
    geometry = Geometry((40, 40, 20), (0.8, 0.8, 2.0), (0, 0, 0))
    ball = np.linalg.norm(points_of(geometry) - geometry.centre(), axis=-1) < 14
    one, _ = resample_mask(Volume(ball.astype(np.uint8), geometry), (1.0, 1.0, 1.0))
    labels = np.where(ball, np.random.default_rng(0).integers(1, 4, ball.shape), 0).astype(np.uint8)
    many, _ = resample_mask(Volume(labels, geometry), (1.0, 1.0, 1.0))
    alone = [resample_mask(Volume((labels == n).astype(np.uint8), geometry), (1.0, 1.0, 1.0))[0] for n in (1, 2, 3)]
    np.testing.assert_array_equal(many.array > 0, one.array > 0)
    # Label by label a good part of the same ball would be lost.
    assert sum(int((part.array > 0).sum()) for part in alone) < 0.95 * (one.array > 0).sum()


def test_labels_apart_are_resampled_as_if_each_were_alone() -> None:
    geometry = Geometry((40, 24, 20), (0.8, 0.8, 2.0), (0, 0, 0))
    labels = np.zeros(geometry.shape, np.uint8)
    labels[3:15, 4:18, 3:17] = digitized_noise((12, 14, 14), 5) > 0
    labels[4:16, 5:19, 20:36] = 2 * (digitized_noise((12, 14, 16), 6) > 0)
    both, _ = resample_mask(Volume(labels, geometry), (1.1, 1.1, 1.1))
    for n in (1, 2):
        alone, _ = resample_mask(Volume(np.where(labels == n, labels, 0), geometry), (1.1, 1.1, 1.1))
        np.testing.assert_array_equal(both.array == n, alone.array == n)


def test_no_hole_where_several_labels_meet() -> None:
    """Four labels have a quarter of each new voxel: none has half of it, and the lowest gets it."""
    array = np.tile(np.array([[4, 3], [2, 1]], np.uint8), (3, 5, 5))
    found, warnings = resample_mask(Volume(array, Geometry((10, 10, 3), (1, 1, 1), (0, 0, 0))), (2.0, 2.0, 1.0))
    np.testing.assert_array_equal(found.array, np.ones((3, 5, 5)))
    assert warnings == [f"label {n} is too small to be left after the resampling" for n in (2, 3, 4)]


def test_a_label_that_vanishes_is_warned_of_and_an_empty_mask_excluded() -> None:
    array = np.zeros((20, 20, 20), np.uint8)
    array[5:15, 5:15, 5:15] = 1
    array[2, 2, 2] = 7
    geometry = Geometry((20, 20, 20), (1, 1, 1), (0, 0, 0))
    found, warnings = resample_mask(Volume(array, geometry), (3.0, 3.0, 3.0))
    assert warnings == ["label 7 is too small to be left after the resampling"]
    assert set(np.unique(found.array)) == {0, 1}
    with pytest.raises(CaseError, match="nothing of the mask is left at a spacing of 3 x 3 x 3 mm"):
        resample_mask(Volume(np.where(array == 7, array, 0), geometry), (3.0, 3.0, 3.0))
    # At 8 mm no sample of the new grid is within reach of the voxel at all.
    with pytest.raises(CaseError, match="nothing of the mask is left"):
        resample_mask(Volume(np.where(array == 7, array, 0), geometry), (8.0, 8.0, 8.0))


def test_a_grid_beyond_memory_is_refused() -> None:
    with pytest.raises(CaseError, match="would have 2700000000 voxels"):
        new_grid(Geometry((300, 300, 30), (1, 1, 1), (0, 0, 0)), (0.1, 0.1, 0.1))


def test_labels_that_fall_between_the_samples_of_a_coarse_grid_are_lost_with_a_reason() -> None:
    array = np.zeros((12, 12, 12), dtype=np.uint8)
    array[2, 2, 2], array[2, 2, 3] = 1, 2
    mask = Volume(array, Geometry((12, 12, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    with pytest.raises(CaseError, match="nothing of the mask is left"):
        resample_mask(mask, (30.0, 30.0, 30.0))


# ------------------------------------------------------------------ orders, windowed sinc, filters, grids


@pytest.mark.parametrize("order", range(6))
@pytest.mark.parametrize("spacing", [(1.03, 1.01, 1.0), (0.5, 0.62, 0.9), (2.3, 2.3, 5.0)])
def test_every_order_is_scipy_s_on_the_whole_volume(order: int, spacing: Vector) -> None:
    """Within 1e-3 HU: SciPy's coefficients in float64, here sums in float64 and planes between the axes in float32."""
    image = noise((50, 41, 30), (0.8, 0.9, 1.5))
    found = resample_image(image, spacing, Sampling(order=order))
    index = np.clip(image.geometry.to_index(points_of(found.geometry))[..., ::-1], 0, np.array(image.array.shape) - 1)
    # What lies half-way between two voxels is rounding's to decide for the order 0.
    clear = (np.abs(index % 1 - 0.5) > 1e-6).all(axis=-1) if order == 0 else np.ones(index.shape[:3], bool)
    values = image.array.astype(np.float64)
    expected = ndimage.map_coordinates(values, np.moveaxis(index, -1, 0), order=order, mode="mirror")
    assert clear.mean() > 0.3
    assert np.abs(found.array - expected)[clear].max() < 1e-3


@pytest.mark.parametrize(("order", "itk"), [(n, getattr(sitk, f"sitkBSpline{n}")) for n in range(1, 6)])
def test_every_order_is_itk_s_within_the_borders(order: int, itk: int) -> None:
    """Within 5e-3 HU: ITK's coefficients are float32 of values up to three times those of the image."""
    image = noise((44, 40, 30), (0.8, 0.9, 2.0))
    plain = Volume(image.array.astype(np.float32), image.geometry)
    found = resample_image(plain, (1.0, 1.0, 1.0), Sampling(order=order))
    expected = from_sitk(sitk.Resample(to_sitk(plain), to_sitk(found), sitk.Transform(), itk, -5000.0))
    index = plain.geometry.to_index(points_of(found.geometry))
    inside = ((index >= 0) & (index <= np.array(plain.geometry.size) - 1)).all(axis=-1)
    assert inside.mean() > 0.9
    assert np.abs(found.array - expected.array)[inside].max() < 5e-3


def test_the_sinc_is_itk_s_over_the_sum_of_its_weights() -> None:
    """Five voxels from the borders, where ITK repeats the outer voxel; within 5e-3 HU, ITK working in float32 sums."""
    image = noise((26, 24, 18), (0.8, 0.9, 2.0))
    plain = Volume(image.array.astype(np.float32), image.geometry)
    found = resample_image(plain, (1.0, 1.0, 1.0), Sampling("sinc", radius=5))
    ones = Volume(np.ones_like(plain.array), plain.geometry)
    theirs, sums = (
        from_sitk(
            sitk.Resample(to_sitk(v), to_sitk(found), sitk.Transform(), sitk.sitkLanczosWindowedSinc, -5000.0)
        ).array
        for v in (plain, ones)
    )
    index = plain.geometry.to_index(points_of(found.geometry))
    inside = ((index >= 5) & (index <= np.array(plain.geometry.size) - 6)).all(axis=-1)
    assert inside.mean() > 0.1
    assert np.abs(found.array - theirs / sums)[inside].max() < 5e-3
    assert np.abs(found.array - theirs)[inside].max() > 0.5, "without the division ITK's own values are others"


@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(order=2), Sampling("linear"), Sampling("sinc"), Sampling(antialias=True)],
    ids=["bspline", "order2", "linear", "sinc", "antialias"],
)
@settings(max_examples=15, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3), flips=st.tuples(*[st.booleans()] * 3), order=st.permutations([0, 1, 2])
)
def test_mirrored_and_permuted_images_give_mirrored_and_permuted_results(
    sampling: Sampling, spacing: Vector, flips: tuple[bool, bool, bool], order: list[int]
) -> None:
    image = noise((14, 17, 20), (0.8, 0.9, 1.5))
    found = resample_image(image, spacing, sampling).array
    part = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    moved = np.ascontiguousarray(image.array[part].transpose(order))
    old = image.geometry.spacing[::-1]
    steps = tuple(old[axis] for axis in order)
    geometry = Geometry(moved.shape[::-1], steps[::-1], (0.0, 0.0, 0.0))
    wanted = tuple(spacing[::-1][axis] for axis in order)[::-1]
    again = resample_image(Volume(moved, geometry), wanted, sampling).array
    # The axes come one after the other, with float32 in between.
    np.testing.assert_allclose(again, found[part].transpose(order), atol=2e-3)


def test_antialiasing_takes_out_what_the_coarse_grid_cannot_show() -> None:
    """A ripple of 2.5 voxels on a grid of 4: without the filter it comes back as another one of most of its height."""
    geometry = Geometry((120, 6, 6), (1.0, 1.0, 1.0), (0, 0, 0))
    ripple = np.broadcast_to(100 * np.sin(2 * np.pi * np.arange(120) / 2.5), geometry.shape)
    plain, filtered = (
        resample_image(Volume(ripple, geometry), (4.0, 0.0, 0.0), Sampling(antialias=on)).array[:, :, 8:-8]
        for on in (False, True)
    )
    assert np.abs(plain).max() > 60
    # exp(-(2 pi sigma / 2.5)^2 / 2) at sigma^2 = 15 / (8 ln 2).
    assert np.abs(filtered).max() < 100 * np.exp(-((2 * np.pi / 2.5) ** 2) * (15 / (8 * np.log(2))) / 2) * 1.1
    # What the grid can show is damped by the same formula and no more.
    slow = np.broadcast_to(100 * np.sin(2 * np.pi * np.arange(120) / 40), geometry.shape)
    shown = resample_image(Volume(slow, geometry), (4.0, 0.0, 0.0), Sampling(antialias=True)).array[0, 0, 8:-8]
    at = 59.5 + (np.arange(30) - 14.5) * 4
    damping = np.exp(-((2 * np.pi / 40) ** 2) * (15 / (8 * np.log(2))) / 2)
    np.testing.assert_allclose(shown, (100 * damping * np.sin(2 * np.pi * at / 40))[8:-8], atol=0.05)


def test_antialiasing_leaves_axes_that_do_not_become_coarser() -> None:
    image = noise((20, 18, 12), (0.8, 0.9, 3.0))
    for spacing in ((0.8, 0.9, 1.0), (0.5, 0.5, 3.0)):
        plain, filtered = (resample_image(image, spacing, Sampling(antialias=on)).array for on in (False, True))
        np.testing.assert_array_equal(plain, filtered)


@pytest.mark.parametrize("align", ["centre", "origin", "corner"])
@settings(max_examples=40, deadline=None)
@given(geometry=geometries(), spacing=st.tuples(*[st.floats(0.5, 4)] * 3))
def test_grids_share_what_they_should(align: Alignment, geometry: Geometry, spacing: Vector) -> None:
    grid = new_grid(geometry, spacing, align)
    assert grid.size == new_grid(geometry, spacing).size
    first = {"centre": None, "origin": (0, 0, 0), "corner": (-0.5, -0.5, -0.5)}[align]
    if first is None:
        np.testing.assert_allclose(grid.centre(), geometry.centre(), atol=1e-9)
    else:
        np.testing.assert_allclose(grid.to_physical(first), geometry.to_physical(first), atol=1e-9)
    ramp = (points_of(geometry) - geometry.centre()) @ np.array([0.5, -2.0, 1.0])
    image = resample_image(Volume(ramp, geometry), spacing, Sampling("linear", align=align))
    assert image.geometry == grid
    points = points_of(grid)
    index = geometry.to_index(points)
    inside = ((index >= 0) & (index <= np.array(geometry.size) - 1)).all(axis=-1)
    expected = (points - geometry.centre()) @ np.array([0.5, -2.0, 1.0])
    np.testing.assert_allclose(image.array[inside], expected[inside], atol=2e-4 * max(1.0, np.abs(ramp).max()))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(order=5, align="corner"),
        Sampling("linear"),
        Sampling("sinc"),
        Sampling(antialias=True, sigma_mm=(1.0, 1.0, 2.0)),
    ],
    ids=["bspline", "order5", "linear", "sinc", "filtered"],
)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.0, 4.0), (0.0, 0.0, 0.0)])
def test_a_box_has_the_values_of_the_whole(sampling: Sampling, spacing: Vector) -> None:
    image = noise((60, 51, 40), (0.8, 0.9, 1.5))
    whole = resample_image(image, spacing, sampling)
    box = tuple(slice(n // 3, n // 3 + max(n // 5, 1)) for n in whole.array.shape)
    assert len(box) == 3
    part = resample_image(image, spacing, sampling, box)
    expected = crop(whole, box)
    assert part.geometry == expected.geometry
    # A digit of float32 at 3000 HU, in the result and in the planes between the axes.
    np.testing.assert_allclose(part.array, expected.array, atol=1e-3)
    way = passage(image.geometry, new_grid(image.geometry, spacing, sampling.align), sampling, box)
    if sampling == Sampling():
        seen = math.prod(side.stop - side.start for side in way.seen)
        assert seen < 0.7 * image.array.size, "only what decides the box is looked at"


def test_the_box_of_an_roi() -> None:
    labels = np.zeros((30, 40, 50), np.uint8)
    labels[10:12, 20:25, 1:5] = 3
    mask = Volume(labels, Geometry((50, 40, 30), (1.0, 1.0, 2.0), (0, 0, 0)))
    assert crop_box(mask, 5) == (slice(7, 15), slice(15, 30), slice(0, 10))
    assert crop_box(mask, 0) == (slice(8, 14), slice(18, 27), slice(0, 7))
    with pytest.raises(CaseError, match="empty"):
        crop_box(Volume(labels * 0, mask.geometry), 5)


@settings(max_examples=40, deadline=None)
@given(geometry=geometries(least=3), spacing=spacings, seed=st.integers(0, 9))
def test_a_voxel_is_valid_where_all_that_it_is_made_of_is(geometry: Geometry, spacing: Vector, seed: int) -> None:
    """Against the linear interpolation of the invalid ones: any share of them makes it invalid."""
    valid = (np.random.default_rng(seed).random(geometry.shape) > 0.1).astype(np.uint8)
    grid = new_grid(geometry, spacing)
    found = resample_valid(Volume(valid, geometry), grid)
    assert found.geometry == grid
    assert found.array.dtype == np.uint8
    share = resample_image(Volume(1.0 - valid, geometry), spacing, "linear").array
    clear = (share < 1e-7) | (share > 1e-4)
    np.testing.assert_array_equal(found.array[clear] == 1, (share < 1e-7)[clear])
