"""Other settings give what a run with these settings would have given, and the run's own settings what it gave."""

import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from radloom.calibrate import Calibration, calibrate_image
from radloom.errors import CaseError
from radloom.extract import extract_features, read_params
from radloom.feature_params import FeatureParams, feature_columns
from radloom.images import Geometry, Vector, Volume, same_grid, to_sitk
from radloom.resample import mask_on_grid, new_grid, resample_image, resample_mask
from radloom.sensitivity import binned_params, read_keyed, spacing_text, vary_settings, write_sensitivity

RUN: Vector = (1.0, 1.0, 1.0)
CLASSES: dict[str, tuple[str, ...]] = {
    "firstorder": ("Mean", "Entropy", "Kurtosis", "Uniformity"),
    "shape": ("MeshVolume", "Sphericity"),
    "glcm": ("Contrast", "Idn"),
    "glrlm": ("RunEntropy",),
    "glszm": ("ZoneEntropy",),
    "gldm": ("DependenceEntropy",),
    "ngtdm": ("Coarseness",),
}
TYPES: dict[str, dict[str, object]] = {
    "Original": {},
    "LoG": {"sigma": [2.0], "binWidth": 5},
    "Gradient": {},
    "Square": {"binCount": 16},
}
PARAMS = FeatureParams({"binWidth": 25}, TYPES, CLASSES)
NAMES = {1: "tumour", 2: "node"}


@pytest.fixture(scope="module")
def source() -> tuple[Volume, Volume]:
    """An ingested image of 0.9 x 0.9 x 2.7 mm in HU, and a mask with two labels."""
    size = (31, 33, 15)
    z, y, x = np.indices(size[::-1])
    rng = np.random.default_rng(4)
    smooth = 60 * np.sin(x / 3) * np.cos(y / 4 + z / 2)
    image = np.rint(smooth + rng.normal(30, 15, smooth.shape)).astype(np.int16)
    mask = ((x - 13) ** 2 + (y - 15) ** 2 + 6 * (z - 7) ** 2 < 90).astype(np.uint8)
    mask[6:8, 26:29, 24:28] = 2
    geometry = Geometry(size, (0.9, 0.9, 2.7), (-10.0, 4.0, 3.0))
    return Volume(image, geometry), Volume(mask, geometry)


def calibrated(source: Volume, spacing: Vector) -> Volume:
    """The image as the run makes it at a spacing."""
    image = resample_image(source, spacing, "bspline")
    return calibrate_image(image, Calibration("drift", 1.02, 20.0), round_hu=True)[0]


@pytest.fixture(scope="module")
def run(source: tuple[Volume, Volume]) -> tuple[Volume, Volume, dict[str, list[float]]]:
    """Image, ROI and features of the run."""
    image, roi = calibrated(source[0], RUN), resample_mask(source[1], RUN)[0]
    return image, roi, extract_features(image, roi, NAMES, PARAMS).rows


def test_the_runs_own_settings_give_the_runs_own_numbers(
    source: tuple[Volume, Volume], run: tuple[Volume, Volume, dict[str, list[float]]]
) -> None:
    image, roi, features = run
    result = vary_settings(image, roi, NAMES, PARAMS, features, [25], [RUN], lambda s: calibrated(source[0], s), 1)
    assert result.columns == feature_columns(PARAMS)
    assert result.warnings == []
    assert list(result.rows) == [
        *(("tumour", "baseline", ""), ("node", "baseline", "")),
        *(("tumour", "bin_width", "25"), ("node", "bin_width", "25")),
        *(("tumour", "spacing", "1 x 1 x 1"), ("node", "spacing", "1 x 1 x 1")),
    ]
    for (name, _, _), values in result.rows.items():
        assert values == features[name]


@pytest.mark.parametrize("width", [7.5, 60])
def test_a_bin_width_gives_what_the_whole_extraction_would(
    run: tuple[Volume, Volume, dict[str, list[float]]], width: float
) -> None:
    image, roi, features = run
    result = vary_settings(image, roi, NAMES, PARAMS, features, [width], [], lambda _: image, 1)
    whole = extract_features(image, roi, NAMES, FeatureParams({"binWidth": width}, TYPES, CLASSES))
    for name, values in whole.rows.items():
        assert result.rows[name, "bin_width", f"{width:g}"] == values
    moved = {
        column
        for column, old, new in zip(whole.columns, features["tumour"], whole.rows["tumour"], strict=True)
        if old != new
    }
    binned = binned_params(PARAMS, width)
    assert binned is not None
    # Everything that moves is computed anew, and what is computed anew moves.
    assert moved == set(feature_columns(binned))
    assert not any(column.startswith(("log", "square")) for column in moved)


def test_without_textures_a_bin_width_moves_nothing(run: tuple[Volume, Volume, dict[str, list[float]]]) -> None:
    image, roi, _ = run
    params = FeatureParams({}, {"Original": {}}, {"shape": ("MeshVolume",), "firstorder": ("Mean",)})
    assert binned_params(params, 10) is None
    features = extract_features(image, roi, NAMES, params).rows
    result = vary_settings(image, roi, NAMES, params, features, [10], [], lambda _: image, 1)
    assert result.rows["node", "bin_width", "10"] == features["node"]


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.8, 0.0, 3.0)])
def test_a_spacing_gives_what_the_chain_would(
    source: tuple[Volume, Volume], run: tuple[Volume, Volume, dict[str, list[float]]], spacing: Vector
) -> None:
    image, roi, features = run
    result = vary_settings(image, roi, NAMES, PARAMS, features, [], [spacing], lambda s: calibrated(source[0], s), 1)
    other = calibrated(source[0], spacing)
    expected = extract_features(other, _by_itk(roi, other.geometry), NAMES, PARAMS).rows
    for name, values in expected.items():
        assert result.rows[name, "spacing", spacing_text(spacing)] == pytest.approx(values, rel=1e-12)


def _by_itk(roi: Volume, grid: Geometry) -> Volume:
    """Each label interpolated linearly by ITK at the physical points of a grid, >= 0.5; the labels don't touch here."""
    result = np.zeros(grid.shape, dtype=np.uint8)
    # The border's value holds beyond the outer centres, as it does in radloom.resample.
    padded = Volume(np.pad(roi.array, 4, mode="edge"), _padded(roi.geometry, 4))
    reference = to_sitk(Volume(result, grid))
    for label in NAMES:
        part = to_sitk(Volume((padded.array == label).astype(np.float64), padded.geometry))
        weight = sitk.GetArrayFromImage(sitk.Resample(part, reference, sitk.Transform(), sitk.sitkLinear, 0.0))
        result[weight >= 0.5 - 1e-6] = label
    return Volume(result, grid)


def _padded(geometry: Geometry, width: int) -> Geometry:
    x, y, z = geometry.to_physical([-width] * 3)
    n = [part + 2 * width for part in geometry.size]
    return Geometry((n[0], n[1], n[2]), geometry.spacing, (x, y, z), geometry.direction)


def test_the_roi_lies_on_the_images_grid_whatever_the_sizes(source: tuple[Volume, Volume]) -> None:
    """At 4 mm the grid of the run (28 voxels) would become 7 voxels wide, and that of the source 7 or 8."""
    for run in ((1.0, 1.0, 1.0), (5.0, 5.0, 5.0)):
        roi = resample_mask(source[1], run)[0]
        for spacing in ((4.0, 4.0, 4.0), (1.3, 0.7, 2.1), (0.0, 1.0, 5.0)):
            grid = new_grid(source[0].geometry, spacing)
            moved = mask_on_grid(roi, grid)[0]
            assert same_grid(moved.geometry, grid, 1e-9)
            assert np.array_equal(moved.array, _by_itk(roi, grid).array)


def test_an_roi_that_is_too_small_in_a_setting_is_empty_there_and_said_so(
    source: tuple[Volume, Volume], run: tuple[Volume, Volume, dict[str, list[float]]]
) -> None:
    image, roi, features = run
    spacings: list[Vector] = [(3.0, 3.0, 3.0), (30.0, 30.0, 30.0)]
    result = vary_settings(image, roi, NAMES, PARAMS, features, [], spacings, lambda s: calibrated(source[0], s), 10)
    assert all(math.isnan(value) for value in result.rows["node", "spacing", "3 x 3 x 3"])
    assert not any(math.isnan(value) for value in result.rows["tumour", "spacing", "3 x 3 x 3"])
    assert all(math.isnan(value) for value in result.rows["tumour", "spacing", "30 x 30 x 30"])
    small, lost = result.warnings
    assert small.startswith("spacing 3 x 3 x 3: node: the ROI has ")
    assert lost.startswith("spacing 30 x 30 x 30: ")


def test_an_image_that_can_not_be_made_costs_only_its_setting(
    run: tuple[Volume, Volume, dict[str, list[float]]],
) -> None:
    def fail(_: Vector) -> Volume:
        raise CaseError("the image would have 10^12 voxels", "a coarser one")

    image, roi, features = run
    result = vary_settings(image, roi, NAMES, PARAMS, features, [50], [(0.01, 0.01, 0.01)], fail, 1)
    assert result.warnings == ["spacing 0.01 x 0.01 x 0.01: the image would have 10^12 voxels. a coarser one"]
    assert not any(math.isnan(value) for value in result.rows["tumour", "bin_width", "50"])


def test_files_read_back_bit_for_bit(tmp_path: Path, run: tuple[Volume, Volume, dict[str, list[float]]]) -> None:
    image, roi, features = run
    result = vary_settings(image, roi, NAMES, PARAMS, features, [10], [], lambda _: image, 1)
    result.rows["node", "bin_width", "10"][0] = math.nan
    write_sensitivity(tmp_path / "features.csv", result)
    columns, rows = read_keyed(tmp_path / "features.csv", 3)
    assert columns == result.columns
    assert list(rows) == list(result.rows)
    for key, values in rows.items():
        assert np.array_equal(values, result.rows[key[0], key[1], key[2]], equal_nan=True)


def test_the_shipped_parameters_have_features_that_depend_on_the_bins(repo: Path) -> None:
    binned = binned_params(read_params(repo / "config/pyradiomics.yaml"), 10)
    assert binned is not None
    assert set(binned.features) == {"firstorder", "glcm"}
    assert spacing_text([0, 1, 2.5]) == "original x 1 x 2.5"
    assert spacing_text([0, 0, 0]) == "original"
