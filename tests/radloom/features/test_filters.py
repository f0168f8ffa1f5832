"""Image types on a box against PyRadiomics' own filters on the whole image.

Bit for bit, type included: that is what the margins are chosen for.
"""

import itertools
import math
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from radloom.feature_params import IMAGE_TYPES, image_names
from radloom.features import filters
from radloom.features.filters import FilteredImage, filtered_images, lbp3d_bridge
from radloom.images import Array, Box, Geometry, Volume, bounding_box, from_sitk, to_sitk

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*local_binary_pattern:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*`scipy.ndimage.interpolation`:DeprecationWarning"),
    # What the oracle computes outside the box, and casts of its NaN to whole numbers.
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
]

ALL: dict[str, dict[str, Any]] = {name: {} for name in IMAGE_TYPES} | {"LoG": {"sigma": [0.5, 1.0]}}
POINTWISE = ("Original", "Square", "SquareRoot", "Logarithm", "Exponential")
DTYPES = ("int16", "float32", "float64")


def oracle(
    image: Volume, mask: Array, image_types: Mapping[str, Mapping[str, Any]], setting: Mapping[str, Any]
) -> Iterator[tuple[str, Array]]:
    """PyRadiomics' images of the whole volume, cut out by the box later, in the way its extractor gets them."""
    from radiomics import imageoperations

    label = to_sitk(Volume((mask != 0).astype(np.uint8), image.geometry))
    with lbp3d_bridge(), np.errstate(all="ignore"):
        for image_type, own in image_types.items():
            derive = getattr(imageoperations, f"get{image_type}Image")
            for result, name, _ in derive(to_sitk(image), label, **{**setting, **own}):
                yield name, sitk.GetArrayFromImage(result)


def assert_same(
    image: Volume,
    mask: Array,
    image_types: Mapping[str, Mapping[str, Any]] = ALL,
    setting: Mapping[str, Any] | None = None,
    box: Box | None = None,
) -> list[FilteredImage]:
    setting = setting or {}
    box = box or bounding_box(mask)
    assert box is not None
    expected = oracle(image, mask, image_types, setting)
    found = []
    for ours in filtered_images(image, mask, box, image_types, setting):
        found.append(ours)
        if ours.note:
            assert np.isnan(ours.array).all()
            continue
        name, whole = next(expected)
        assert ours.name == name
        assert ours.array.dtype == whole.dtype
        # Outside the ROI, PyRadiomics' LBP3D holds what was in memory.
        where = mask[box] != 0 if ours.image_type == "LBP3D" else np.ones(ours.array.shape, dtype=bool)
        np.testing.assert_array_equal(ours.array[where], whole[box][where], err_msg=f"{name} {setting}")
    assert next(expected, None) is None
    return found


def scan(shape: tuple[int, int, int], dtype: str, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    """HU of texture on both sides of 0, with a flat part, on which rounding would show in the LBP."""
    rng = np.random.default_rng(7)
    values = gaussian_filter(rng.normal(0, 1, shape), 1.0) * 800 + 30
    values[:, : shape[1] // 2, : shape[2] // 3] = -1000.0
    if dtype == "int16":
        values = values.round()
    return Volume(values.astype(dtype), Geometry((shape[2], shape[1], shape[0]), spacing, (-20.0, 7.5, 100.0)))


def ball(shape: tuple[int, int, int], centre: tuple[int, int, int], radius: float) -> Array:
    """An ROI with parts outside the image cut off."""
    squares = [(index - middle) ** 2 for index, middle in zip(np.ogrid[tuple(map(slice, shape))], centre, strict=True)]
    return (squares[0] + squares[1] + squares[2] <= radius**2).astype(np.uint8)


SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "slices": {"force2D": True, "gradientUseSpacing": False},
    "across y": {
        "force2D": True,
        "force2Ddimension": 1,
        "level": 2,
        "lbp2DMethod": "default",
        "lbp2DRadius": 1.3,
        "lbp2DSamples": 12,
        "lbp3DLevels": 3,
        "lbp3DIcosphereRadius": 2.5,
        "lbp3DIcosphereSubdivision": 0,
    },
    "across x": {"force2Ddimension": 2, "wavelet": "bior2.2", "start_level": 1, "level": 2, "lbp2DMethod": "ror"},
    "variance": {"wavelet": "haar", "lbp2DMethod": "var", "lbp2DRadius": 2, "lbp3DLevels": 2},
}


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "spacing", "centre"),
    [
        ((44, 72, 80), (1.0, 1.0, 1.0), (22, 36, 40)),  # inside, even sizes
        ((45, 73, 81), (0.7, 0.9, 2.5), (22, 33, 27)),  # inside, odd sizes, anisotropic
        ((45, 72, 81), (0.8, 0.8, 3.0), (1, 70, 41)),  # at the first slice and the last row
        ((20, 33, 30), (1.5, 1.0, 5.0), (18, 1, 28)),  # in a corner of a small image
    ],
    ids=["inside", "odd", "border", "corner"],
)
def test_every_image_type_is_that_of_the_whole_image(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    centre: tuple[int, int, int],
    dtype: str,
    setting: dict[str, Any],
) -> None:
    found = assert_same(scan(shape, dtype, spacing), ball(shape, centre, 6), setting=setting)
    assert [image.name for image in found] == [
        name for image_type, own in ALL.items() for name in image_names(image_type, {**setting, **own})
    ]
    assert not any(image.note for image in found)


@given(
    shape=st.tuples(*[st.integers(1, 26)] * 3),
    spacing=st.tuples(*[st.sampled_from((0.5, 0.9765625, 1.0, 3.27))] * 3),
    dtype=st.sampled_from(DTYPES),
    corners=st.tuples(*[st.tuples(st.floats(0, 1), st.floats(0, 1))] * 3),
    wavelet=st.sampled_from(("haar", "coif1", "coif3", "db4", "sym5", "bior1.3", "rbio2.6", "dmey")),
    levels=st.tuples(st.integers(0, 1), st.integers(1, 2)),
    flat=st.sampled_from((None, None, None, 0, 1, -1000)),
    sigma=st.sampled_from((0.3, 1, 1.5, 4.0)),
    force_2d=st.sampled_from((None, 0, 1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None)
def test_any_box_of_any_image(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    dtype: str,
    corners: tuple[tuple[float, float], ...],
    wavelet: str,
    levels: tuple[int, int],
    flat: int | None,
    sigma: float,
    force_2d: int | None,
    seed: int,
) -> None:
    values = np.random.default_rng(seed).normal(0, 300, shape) if flat is None else np.full(shape, flat)
    image = Volume(values.round().astype(dtype), Geometry((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0)))
    mask = np.zeros(shape, dtype=np.uint8)
    spans = [sorted(int(end * (size - 1)) for end in ends) for ends, size in zip(corners, shape, strict=True)]
    mask[tuple(slice(low, high + 1) for low, high in spans)] = 1
    setting: dict[str, Any] = {"wavelet": wavelet, "start_level": levels[0], "level": levels[1], "sigma": [sigma]}
    if force_2d is not None:
        setting |= {"force2D": True, "force2Ddimension": force_2d}
    assert_same(image, mask, {name: {} for name in IMAGE_TYPES if name != "LBP3D"}, setting)


def test_a_real_tumour_in_a_real_ct(shared_data: Path) -> None:
    image = from_sitk(sitk.ReadImage(str(shared_data / "sts/images/STS_035.nii.gz")))
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / "sts/masks/STS_035.nii.gz")))
    box = bounding_box(mask)
    assert box is not None
    # The tumour's middle slice: LBP3D of all of it would cost the oracle 0.5 GB.
    thin = np.zeros_like(mask)
    middle = (box[0].start + box[0].stop) // 2
    thin[middle] = mask[middle]
    types = {name: {} for name in IMAGE_TYPES if name != "LBP3D"} | {"LoG": {"sigma": [1.0, 2.0, 3.0, 5.0]}}
    assert_same(image, mask, types)
    assert_same(image, thin, {"LBP3D": {}})


def test_the_margin_of_log_is_needed_and_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    # Large enough that the margins stay inside the image, with the strongest edge that CT has outside the box.
    shape = (150, 150, 150)
    rng = np.random.default_rng(3)
    image = Volume(
        rng.normal(40, 20, shape).round().astype(np.int16), Geometry(shape, (1.0, 0.8, 1.2), (0.0, 0.0, 0.0))
    )
    image.array[:, :, 95:] = -1024
    image.array[:, 100:] = 3071
    mask = ball(shape, (75, 75, 75), 8)
    box = bounding_box(mask)
    assert box is not None
    types = {"LoG": {"sigma": [1, 1.5]}}
    assert_same(image, mask, types)
    exact = [found.array for found in filtered_images(image, mask, box, types, {})]
    off = []
    for margin in (4, 8, 12):
        monkeypatch.setattr(filters, "LOG_MARGIN_SIGMA", margin)
        short = [found.array for found in filtered_images(image, mask, box, types, {})]
        off.append(max(float(np.abs(a - b).max()) for a, b in zip(exact, short, strict=True)))
    assert off[0] > off[1] > off[2] > 0


def test_one_call_serves_all_rois_of_a_case() -> None:
    shape = (40, 60, 64)
    image = scan(shape, "int16", (0.9, 0.9, 2.0))
    first, second = ball(shape, (12, 15, 20), 5), ball(shape, (25, 44, 40), 7)
    both = bounding_box(first | second)
    assert both is not None
    together = {found.name: found.array for found in filtered_images(image, first | second, both, ALL, {})}
    for roi in (first, second):
        box = bounding_box(roi)
        assert box is not None
        part = tuple(
            slice(side.start - outer.start, side.stop - outer.start) for side, outer in zip(box, both, strict=True)
        )
        for alone in filtered_images(image, roi, box, ALL, {}):
            inside = roi[box] > 0
            np.testing.assert_array_equal(together[alone.name][part][inside], alone.array[inside], err_msg=alone.name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_of_the_values(dtype: str) -> None:
    shape = (40, 40, 40)
    types = {
        found.image_type: found.array.dtype.name
        for found in filtered_images(scan(shape, dtype), ball(shape, (20, 20, 20), 4), (slice(16, 25),) * 3, ALL, {})
    }
    assert types == {
        **dict.fromkeys(("Square", "SquareRoot", "Logarithm", "Exponential", "LBP3D"), "float64"),
        **dict.fromkeys(("LoG", "Gradient"), "float32"),
        **dict.fromkeys(("Original", "LBP2D"), dtype),
        "Wavelet": "float32" if dtype == "float32" else "float64",
    }


def test_whole_numbers_in_another_type_give_the_same_values() -> None:
    # Where PyRadiomics doesn't round: everything but the samples of LBP3D, and LBP2D's variance. Wavelets of float32
    # are computed in float32.
    shape = (40, 40, 40)
    image, mask = scan(shape, "int16"), ball(shape, (20, 20, 20), 4)
    box = (slice(16, 25),) * 3
    types = {name: own for name, own in ALL.items() if name != "LBP3D"}
    integer = list(filtered_images(image, mask, box, types, {}))
    for dtype in ("float32", "float64"):
        real = Volume(image.array.astype(dtype), image.geometry)
        for one, other in zip(integer, filtered_images(real, mask, box, types, {}), strict=True):
            tolerance = 2e-6 * 1000 if (one.image_type, dtype) == ("Wavelet", "float32") else 0
            np.testing.assert_allclose(other.array, one.array, rtol=0, atol=tolerance, err_msg=one.name)


def test_signs() -> None:
    values = np.array([-100.0, -1.0, 0.0, 1.0, 50.0]).reshape(1, 1, 5)
    image = Volume(values, Geometry((5, 1, 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    box = (slice(0, 1), slice(0, 1), slice(0, 5))
    found = {
        each.name: each.array.ravel()
        for each in filtered_images(image, np.ones((1, 1, 5)), box, {name: {} for name in POINTWISE}, {})
    }
    # The formulas of PyRadiomics' documentation, scaled to the largest absolute value, 100.
    np.testing.assert_allclose(found["square"], [100, 0.01, 0, 0.01, 25], rtol=1e-14)
    np.testing.assert_allclose(found["squareroot"], [-100, -10, 0, 10, math.sqrt(5000)], rtol=1e-14)
    logs = np.log([101.0, 2.0, 1.0, 2.0, 51.0]) * [-1, -1, 0, 1, 1]
    np.testing.assert_allclose(found["logarithm"], logs * 100 / math.log(101), rtol=1e-14)
    np.testing.assert_allclose(found["exponential"], 100 ** (values.ravel() / 100), rtol=1e-14)


@pytest.mark.parametrize("shape", [(3, 20, 20), (6, 20, 20)])
def test_an_image_too_small_for_log_is_no_missing_column(shape: tuple[int, int, int]) -> None:
    image, mask = scan(shape, "int16", (1.0, 1.0, 1.0)), ball(shape, (1, 10, 10), 3)
    found = assert_same(image, mask, {"LoG": {"sigma": [1.0, 7.5]}, "Original": {}})
    assert [each.name for each in found] == ["log-sigma-1-0-mm-3D", "log-sigma-7-5-mm-3D", "original"]
    assert "at least 9 x 9 x 9 voxels" in found[1].note
    assert f"this one has 20 x 20 x {shape[0]}" in found[1].note
    assert bool(found[0].note) == (shape[0] < 4)
    assert not found[2].note


@pytest.mark.parametrize("pad", [None, 0, 2, 9])
def test_precrop_filters_what_pyradiomics_leaves_of_the_image(pad: int | None) -> None:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    shape = (30, 41, 50)
    image, mask = scan(shape, "int16", (0.9, 1.0, 1.7)), ball(shape, (3, 20, 25), 5)
    image.array[0, 0, 0] = 3000  # sets the scale of the whole image only
    box = bounding_box(mask)
    assert box is not None
    setting: dict[str, Any] = {"preCrop": True} | ({} if pad is None else {"padDistance": pad})
    loader = RadiomicsFeatureExtractor(additionalInfo=False)
    loader.settings.update(setting)
    left, label = loader.loadImage(to_sitk(image), to_sitk(Volume(mask, image.geometry)), None, **loader.settings)
    roi = sitk.GetArrayFromImage(label)
    types = ALL | {"LoG": {"sigma": [1.0, 12.0]}}
    expected = dict(oracle(from_sitk(left), roi, types, setting))
    inside = bounding_box(roi)
    assert inside is not None
    for found in filtered_images(image, mask, box, types, setting):
        if found.note:
            assert found.name not in expected
            assert "`preCrop` leaves no more" in found.note
            continue
        where = mask[box] > 0
        np.testing.assert_array_equal(found.array[where], expected.pop(found.name)[inside][where], err_msg=found.name)
    assert not expected


@pytest.mark.filterwarnings("error")
def test_an_image_without_values_to_scale_by_is_not_finite_and_quiet() -> None:
    geometry = Geometry((9, 9, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    image, mask = Volume(np.zeros((9, 9, 9)), geometry), np.ones((9, 9, 9), dtype=np.uint8)
    box = (slice(0, 9),) * 3
    found = {each.name: each.array for each in filtered_images(image, mask, box, ALL, {})}
    for name in ("square", "logarithm", "exponential", "lbp-3D-k"):
        assert not np.isfinite(found[name]).any(), name
    assert found["squareroot"].max() == found["gradient"].max() == 0
    # Nor does a flat image of another value make a noise, in which samples differ by rounding.
    flat = Volume(np.full((9, 9, 9), 40.7), geometry)
    assert len(list(filtered_images(flat, mask, box, ALL, {}))) == len(found)


def test_memory_is_that_of_a_few_boxes() -> None:
    shape = (90, 160, 160)
    image, mask = scan(shape, "int16"), ball(shape, (45, 80, 80), 30)
    box = bounding_box(mask)
    assert box is not None
    boxes = 8 * math.prod(side.stop - side.start for side in box)
    types = {name: {} for name in IMAGE_TYPES if name not in ("LoG", "LBP2D", "LBP3D")}
    list(filtered_images(image, mask, box, types, {}))  # imports
    tracemalloc.start()
    try:
        for _ in filtered_images(image, mask, box, types, {}):
            pass
        assert tracemalloc.get_traced_memory()[1] < 10 * boxes
    finally:
        tracemalloc.stop()


# --- spherical harmonics ---------------------------------------------------------------------------------------------


def closed_forms(polar: Array, azimuth: Array) -> dict[tuple[int, int], Array]:
    """Y of (degree, order), e.g. Jackson, Classical Electrodynamics, 3.5; Condon-Shortley phase.

    PyRadiomics also passes negative polar angles, which mean to SciPy (1.11, 1.14, 1.16 and 1.17 alike) what their
    absolute values mean: it goes by the cosine alone.
    """
    sin, cos, turn = np.abs(np.sin(polar)), np.cos(polar), np.exp(1j * azimuth)
    forms = {
        (0, 0): np.full(polar.shape, math.sqrt(1 / (4 * math.pi)), dtype=complex),
        (1, 0): math.sqrt(3 / (4 * math.pi)) * cos + 0j,
        (1, 1): -math.sqrt(3 / (8 * math.pi)) * sin * turn,
        (2, 0): math.sqrt(5 / (16 * math.pi)) * (3 * cos**2 - 1) + 0j,
        (2, 1): -math.sqrt(15 / (8 * math.pi)) * sin * cos * turn,
        (2, 2): math.sqrt(15 / (32 * math.pi)) * sin**2 * turn**2,
    }
    return forms | {(n, -m): (-1) ** m * np.conj(y) for (n, m), y in forms.items() if m}


def test_the_bridge_is_the_former_function_of_scipy() -> None:
    # Both signs of both angles: PyRadiomics passes azimuths for polar angles.
    polar, azimuth = np.meshgrid(np.linspace(-math.pi, math.pi, 21), np.linspace(-math.pi, math.pi, 17))
    with lbp3d_bridge():
        for (degree, order), expected in closed_forms(polar, azimuth).items():
            found = scipy.special.sph_harm(order, degree, azimuth, polar)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


def test_the_bridge_leaves_no_patch_behind() -> None:
    before = dict(vars(scipy.special))
    with lbp3d_bridge():
        assert hasattr(scipy.special, "sph_harm")
    assert dict(vars(scipy.special)) == before
    with pytest.raises(KeyError), lbp3d_bridge():
        {}["a failure inside"]
    assert dict(vars(scipy.special)) == before


def test_the_sphere_is_an_icosahedron_whose_edges_are_halved() -> None:
    from trimesh.creation import icosphere

    vertices = np.array(icosphere(1, 2.0).vertices)
    assert vertices.shape == (42, 3)
    np.testing.assert_allclose(np.linalg.norm(vertices, axis=1), 2, rtol=1e-15)
    np.testing.assert_allclose(sorted(map(tuple, -vertices)), sorted(map(tuple, vertices)), atol=1e-15)
    golden = (1 + math.sqrt(5)) / 2
    corners = [(0, one, other) for one in (-1, 1) for other in (-golden, golden)]
    corners = [tuple(np.roll(corner, turn)) for corner in corners for turn in range(3)]
    unit = np.array(corners) / math.hypot(1, golden)
    distances = np.linalg.norm(vertices[:, None] / 2 - unit[None], axis=2)
    assert (distances.min(axis=0) < 1e-15).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_lbp3d_of_a_ramp_by_hand(axis: int) -> None:
    """On a ramp the samples are known: cubic splines reproduce it, so those on the upper half of the sphere count."""
    from trimesh.creation import icosphere

    size = 61
    ramp = np.moveaxis(np.broadcast_to(np.arange(size) * 10.0, (size, size, size)), -1, axis)
    image = Volume(np.ascontiguousarray(ramp), Geometry((size,) * 3, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    mask = np.zeros(image.array.shape)
    mask[30, 30, 30] = 1
    box = (slice(30, 31),) * 3
    found = [
        float(each.array[0, 0, 0]) for each in filtered_images(image, mask, box, {"LBP3D": {"lbp3DLevels": 3}}, {})
    ]
    sphere = np.array(icosphere(1, 1).vertices)
    steps = sphere[:, axis]
    # The sign of the samples in the plane of the voxel is rounding's, by a spline of values of 600 or so.
    undecided = np.flatnonzero(np.abs(steps) < 1e-9)
    harmonics = closed_forms(np.arctan2(sphere[:, 1], sphere[:, 0]), np.arccos(sphere[:, 2]))
    possible = []
    for signs in itertools.product((False, True), repeat=len(undecided)):
        pattern = steps > 0
        pattern[undecided] = signs
        levels = []
        for degree in range(3):
            series = sum((pattern @ y) * y for (n, _), y in harmonics.items() if n == degree)
            levels.append(np.sqrt(np.sum(np.asarray(series) ** 2)).real)
        possible.append(levels)
    assert np.abs(np.array(possible) - found[:3]).max(axis=1).min() < 1e-12
    # The area of a sphere between two planes is that of the cylinder around: uniform steps, with a kurtosis of -1.2,
    # by the 42 samples exactly in the fourth moment as well (they are a design of strength 5).
    assert found[3] == pytest.approx(np.mean(steps**4) / np.mean(steps**2) ** 2 - 3, abs=1e-9)


def test_lbp3d_of_one_level_is_the_first_of_two() -> None:
    # PyRadiomics itself fails at one level.
    shape = (30, 30, 30)
    image, mask = scan(shape, "int16"), ball(shape, (15, 15, 15), 3)
    box = bounding_box(mask)
    assert box is not None
    one = {each.name: each.array for each in filtered_images(image, mask, box, {"LBP3D": {"lbp3DLevels": 1}}, {})}
    two = {each.name: each.array for each in filtered_images(image, mask, box, {"LBP3D": {}}, {})}
    assert list(one) == ["lbp-3D-m1", "lbp-3D-k"]
    for name, array in one.items():
        # NumPy sums up the vertices in pairs where they are the only axis left.
        np.testing.assert_allclose(array, two[name], rtol=1e-14)


def test_lbp3d_is_defined_where_the_cosine_at_the_pole_is_rounded_up() -> None:
    from trimesh.creation import icosphere

    radii = np.random.default_rng(0).uniform(0.3, 6, 400)
    radius = next(float(r) for r in radii if np.abs(np.array(icosphere(1, r).vertices)[:, 2] / r).max() > 1)
    shape = (16, 16, 16)
    image, mask = scan(shape, "float32"), ball(shape, (8, 8, 8), 2)
    box = bounding_box(mask)
    assert box is not None
    setting = {"lbp3DIcosphereRadius": radius}
    for found in filtered_images(image, mask, box, {"LBP3D": setting}, {}):
        assert np.isfinite(found.array[mask[box] > 0]).all()


def test_chunks_of_lbp3d_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (30, 30, 30)
    image, mask = scan(shape, "float32"), ball(shape, (15, 15, 15), 5)
    box = bounding_box(mask)
    assert box is not None
    at_once = list(filtered_images(image, mask, box, {"LBP3D": {}}, {}))
    monkeypatch.setattr(filters, "_SAMPLES_AT_A_TIME", 300)
    for one, other in zip(at_once, filtered_images(image, mask, box, {"LBP3D": {}}, {}), strict=True):
        np.testing.assert_array_equal(one.array, other.array)
