"""IBSI: its consensus values through our steps, and its definitions against NumPy, SciPy and stock PyRadiomics."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import ibsi_conformance as conformance
import numpy as np
import pytest
from ibsi_conformance import CONFIGURATIONS, Configuration
from scipy import stats

from radloom.codebook import DEFINITIONS
from radloom.errors import CaseError, CohortError
from radloom.extract import extract_features
from radloom.feature_params import FEATURES, FeatureParams, read_params, validate_params
from radloom.features.discretise import discretise, fixed_bin_number
from radloom.ibsi import bin_setting, ibsi_values, intensity_range
from radloom.images import Geometry, Volume, bounding_box, crop, to_sitk

# Consensus values of features that PyRadiomics has, by configuration.
COMPARED = {"phantom": 385, "A": 327, "B": 327, "C": 209, "D": 209, "E": 209}


@pytest.fixture(scope="module")
def data(shared_data: Path) -> Path:
    return shared_data / "ibsi"


@pytest.fixture(scope="module")
def phantom() -> tuple[Volume, Volume]:
    """A noisy ellipsoid of int16 HU with some air in it."""
    rng = np.random.default_rng(11)
    z, y, x = np.mgrid[:14, :20, :22]
    image = rng.normal(30, 40, z.shape)
    image[rng.random(z.shape) < 0.03] = -700
    inside = ((z - 7) / 6) ** 2 + ((y - 10) / 8) ** 2 + ((x - 11) / 9) ** 2 <= 1
    geometry = Geometry((22, 20, 14), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))
    return Volume(image.round().astype(np.int16), geometry), Volume(inside.astype(np.uint8), geometry)


def named(name: str) -> Configuration:
    return next(configuration for configuration in CONFIGURATIONS if configuration.name == name)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda configuration: configuration.name)
def test_every_consensus_value_is_met_and_the_page_says_so(
    configuration: Configuration, data: Path, repo: Path
) -> None:
    rows = conformance.compare(configuration, data)
    assert len(rows) == COMPARED[configuration.name]
    assert [row for row in rows if not row.passes and not row.reason] == []
    page = (repo / "docs" / "ibsi.md").read_text(encoding="utf-8")
    missing = [line for line in conformance._table(rows) if line not in page]
    assert missing == [], "docs/ibsi.md is old: run `make docs`"


def test_the_comparison_sees_what_ibsi_true_changes(data: Path) -> None:
    configuration = named("C")
    case = conformance.prepare(configuration, data)
    plain = conformance.features(configuration, case, ibsi=False, slices=False)
    failed = [row.tag for row in conformance._rows(configuration, plain, data) if not row.passes]
    # Levels numbered from another bin move the features that weigh by level; those that compare levels stay.
    assert {"stat_kurt", "cm_joint_avg_3D_avg", "rlm_hgre_3D_comb", "ngl_lgce_3D", "szm_lgze_3D"} <= set(failed)
    assert not {"cm_contrast_3D_avg", "rlm_sre_3D_avg", "stat_mean"} & set(failed)
    assert len(failed) == 32


def test_a_value_off_by_more_than_the_tolerance_fails() -> None:
    def row(value: float, consensus: str, tolerance: str) -> bool:
        return conformance.Row("A", "tag", "feature", value, consensus, tolerance).passes

    assert row(0.7226, "0.723", "0.003")
    assert row(0.7264, "0.723", "0.003")
    assert not row(0.7266, "0.723", "0.003")
    assert row(-0.35463, "-0.355", "0")
    assert not row(-0.3544, "-0.355", "0")
    assert row(367499, "367000", "0")  # three digits are printed
    assert not row(125257, "125256", "0")
    assert not row(60.6, "60", "0")
    assert row(0, "0", "")


def test_the_maps_point_at_the_features_that_the_codebook_says(data: Path) -> None:
    tags = {f"{c}_{f}": d.ibsi_tag for c, features in DEFINITIONS.items() for f, d in features.items()}
    # Features that are one number by definition have two tags.
    same = {"cm_dissimilarity": "cm_diff_avg", "cm_sum_var": "cm_clust_tend", "ngl_glnu_norm": "ih_uniformity"}
    aggregation = {
        "_2D_avg": "Slice_",
        "_2D_comb": "Slice_Combined_",
        "_2D": "Slice_",
        "_2_5D_avg": "2D_",
        "_2_5D_comb": "2D_Combined_",
        "_2_5D": "2D_",
        "_3D_avg": "3D_",
        "_3D_comb": "3D_Combined_",
        "_3D": "3D_",
    }
    for configuration in CONFIGURATIONS:
        for tag, name in conformance.feature_names(configuration, data).items():
            if "diagnostics" in name:
                continue
            base = re.sub(r"_(2D|2_5D|3D)(_avg|_comb)?$", "", tag)
            prefix, feature = name.split("original_")
            assert tags[feature] == same.get(base, base), tag
            if base != tag and not feature.startswith("firstorder"):
                assert prefix == aggregation[tag.removeprefix(base)], tag


@pytest.mark.parametrize("name", ["C", "E"])
def test_features_are_those_of_stock_classes_given_ibsis_grey_levels(
    name: str, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from radiomics import getFeatureClasses, imageoperations

    configuration = named(name)
    case = conformance.prepare(configuration, data)
    ours = conformance.features(configuration, case, slices=False)
    box = bounding_box(case.intensity_mask)
    assert box is not None
    level = crop(conformance.levels(configuration, case), box)
    monkeypatch.setattr(imageoperations, "binImage", lambda *_, **__: (level.array, None))
    image = to_sitk(crop(case.image, box))
    mask = to_sitk(crop(Volume(case.intensity_mask.astype(np.uint8), case.image.geometry), box))
    checked = 0
    for prefix, classes, setting in (
        ("3D_", conformance.TEXTURES, {}),
        ("3D_Combined_", conformance.MATRICES, {"weightingNorm": "no_weighting"}),
    ):
        for class_name, features in classes.items():
            stock = getFeatureClasses()[class_name](image, mask, **setting)
            for feature in features:
                stock.enableFeatureByName(feature)
            for feature, value in stock.execute().items():
                expected = float(np.squeeze(value)) - 3 * (feature == "Kurtosis")
                # Both add up some 45,000 voxels or fewer runs in another order.
                assert ours[f"{prefix}original_{class_name}_{feature}"] == pytest.approx(expected, rel=1e-9), feature
                checked += 1
    assert checked == 93 + 40


def test_range_and_outliers_are_intersected() -> None:
    values = np.array([-1000.0, -100, 0, 0, 0, 0, 0, 0, 100, 800])
    assert intensity_range(values, {}) == (-np.inf, np.inf)
    assert intensity_range(values, {"resegmentRange": [400, -500]}) == (-500, 400)
    assert intensity_range(values, {"resegmentRange": [-500]}) == (-500, np.inf)
    # Of all ten values, not of the eight within the range.
    mean, deviation = values.mean(), np.sqrt(((values - values.mean()) ** 2).mean())
    low, high = intensity_range(values, {"resegmentRange": [-500, 1000]}, outlier_sigma=2)
    assert (low, high) == pytest.approx((-500, mean + 2 * deviation), rel=1e-12)
    by_mode = intensity_range(values, {"resegmentRange": [-2, 2], "resegmentMode": "sigma"})
    assert by_mode == pytest.approx((mean - 2 * deviation, mean + 2 * deviation), rel=1e-12)
    assert intensity_range(values, {}, outlier_sigma=2) == by_mode
    assert intensity_range(values, {"resegmentRange": [0.1, 0.5], "resegmentMode": "relative"}) == (80, 400)
    with pytest.raises(CaseError, match="no value can be in the re-segmentation's range"):
        intensity_range(values, {"resegmentRange": [2000, 3000]}, outlier_sigma=1)


def test_bins_of_a_fixed_size_begin_where_the_range_does() -> None:
    values = np.array([-939, -926, -925, 393], np.int16)
    ranged = {"binWidth": 25, "resegmentRange": [400, -1000]}
    assert bin_setting(values, ranged)["binAnchor"] == -1000
    assert discretise(values, bin_setting(values, ranged)).level.tolist() == [3, 3, 4, 56]
    # Without an absolute range, and on filtered images, at the lowest value.
    for setting, image_type in (
        ({"binWidth": 25}, "Original"),
        ({"binWidth": 25, "resegmentRange": [-3, 3], "resegmentMode": "sigma"}, "Original"),
        (ranged, "LoG"),
    ):
        used = bin_setting(values, setting, image_type)
        assert used["binAnchor"] == -939
        assert discretise(values, used).level.tolist() == [1, 1, 1, 54]
    with pytest.raises(CaseError, match="1 voxels of the ROI lie below the first bin"):
        discretise(values, {"binWidth": 25, "binAnchor": -930})


def test_a_fixed_number_of_bins_is_exact_for_whole_hu() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        low, span, bins = int(rng.integers(-1000, 200)), int(rng.integers(1, 1500)), int(rng.integers(1, 129))
        values = np.arange(low, low + span + 1, dtype=np.int16)
        exact = [min(bins * (int(value) - low) // span + 1, bins) for value in values]
        assert fixed_bin_number(values, bins).tolist() == exact
    # Here the rounded edges of PyRadiomics put a value that lies on one into the bin below.
    values = np.arange(-500, -500 + 332 + 1, dtype=np.int16)
    ours = discretise(values, bin_setting(values, {"binCount": 20})).level
    assert np.flatnonzero(ours != discretise(values, {"binCount": 20}).level).size == 1
    assert fixed_bin_number(np.full(5, 7), 32).tolist() == [1] * 5


def test_the_step_uses_them(phantom: tuple[Volume, Volume], repo: Path) -> None:
    image, roi = phantom
    inside = image.array[roi.array > 0]
    low, high = inside.mean() - 2 * inside.std(), min(inside.mean() + 2 * inside.std(), 100)
    setting = {"resegmentRange": [-800, 100], "binWidth": 20}
    assert low > -800
    features = {"firstorder": ("Minimum", "Maximum", "Kurtosis"), "shape": FEATURES["shape"], "glcm": ("JointAverage",)}
    images: dict[str, dict[str, Any]] = {"Original": {}, "Square": {}}
    params = FeatureParams(setting, images, features, ibsi=True, outlier_sigma=2)
    extraction = extract_features(image, roi, {1: "ROI"}, params)
    found = dict(zip(extraction.columns, extraction.rows["ROI"], strict=True))
    kept = inside[(inside >= low) & (inside <= high)]
    assert extraction.rois["ROI"]["voxels_in_range"] == kept.size
    assert (found["original_firstorder_Minimum"], found["original_firstorder_Maximum"]) == (kept.min(), kept.max())
    for name, values in (("original", kept), ("square", kept.astype(float) ** 2)):
        assert found[f"{name}_firstorder_Kurtosis"] == pytest.approx(stats.kurtosis(values.astype(float)), rel=1e-9)
    # Bins begin at -800, not at the lowest value.
    assert found["original_glcm_JointAverage"] > (kept.min() + 800) // 20 + 1
    plain = extract_features(image, roi, {1: "ROI"}, replace(params, ibsi=False, outlier_sigma=None))
    other = dict(zip(plain.columns, plain.rows["ROI"], strict=True))
    n = np.count_nonzero(roi.array)
    for name in FEATURES["shape"]:
        factor = np.sqrt(n / (n - 1)) if name.endswith("AxisLength") else 1
        assert found[f"original_shape_{name}"] == pytest.approx(other[f"original_shape_{name}"] * factor, rel=1e-12)
    with pytest.raises(CohortError, match="needs `engine: radloom`"):
        read_params(repo / "config/pyradiomics.yaml", ibsi=True, engine="pyradiomics")


def test_kurtosis_is_the_excess_and_axes_are_of_the_unbiased_covariance() -> None:
    rng = np.random.default_rng(5)
    sample = rng.gamma(2, size=500)
    points = np.argwhere(rng.random((6, 7, 8)) < 0.4) * [2.0, 1.0, 0.5]
    n = len(points)
    lengths = 4 * np.sqrt(np.linalg.eigvalsh(np.cov(points.T, bias=True))[::-1])
    names = ("Major", "Minor", "Least")
    values = {f"original_shape_{name}AxisLength": float(v) for name, v in zip(names, lengths, strict=True)}
    values |= {
        "original_firstorder_Kurtosis": float(stats.kurtosis(sample, fisher=False)),
        "wavelet-LLH_firstorder_Kurtosis": 3.0,
        "square_firstorder_Kurtosis": 0.0,
        "logarithm_firstorder_Kurtosis": np.nan,
        "original_shape_Elongation": 0.5,
        "original_shape2D_MajorAxisLength": 4.0,
    }
    found = ibsi_values(values, n)
    assert list(found) == list(values)
    unbiased = 4 * np.sqrt(np.linalg.eigvalsh(np.cov(points.T))[::-1])
    assert [found[f"original_shape_{name}AxisLength"] for name in names] == pytest.approx(unbiased, rel=1e-12)
    assert found["original_firstorder_Kurtosis"] == pytest.approx(stats.kurtosis(sample), rel=1e-12)
    assert found["wavelet-LLH_firstorder_Kurtosis"] == 0
    assert found["square_firstorder_Kurtosis"] == 0  # a flat ROI
    assert np.isnan(found["logarithm_firstorder_Kurtosis"])
    assert found["original_shape_Elongation"] == 0.5
    assert found["original_shape2D_MajorAxisLength"] == 4.0


def test_settings_that_contradict_ibsi_are_named(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "setting: {voxelArrayShift: 1000, resegmentShape: true}\nimageType: {Original: {symmetricalGLCM: false}}\n"
    )
    assert validate_params(path) == []
    problems = validate_params(path, ibsi=True)
    assert [problem.split(":")[0] for problem in problems] == [
        "setting.voxelArrayShift",
        "setting.resegmentShape",
        "imageType.Original.symmetricalGLCM",
    ]
    assert "must be true with `extract.ibsi: true`" in problems[2]
    path.write_text("setting: {voxelArrayShift: 0, symmetricalGLCM: true, binWidth: 25}\n")
    params = read_params(path, ibsi=True, outlier_sigma=3)
    assert (params.ibsi, params.outlier_sigma) == (True, 3)
    with pytest.raises(CohortError, match="`outlier_sigma` needs `ibsi: true`"):
        read_params(path, outlier_sigma=3)
