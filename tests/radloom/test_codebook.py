"""The codebook: every feature, every fixed column, tags as IBSI has them, short names legal everywhere."""

import csv
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.codebook import DEFINITIONS, codebook_rows, describe, short_names
from radloom.feature_params import FEATURES, ON_REQUEST, REMOVED, FeatureParams, feature_columns

EVERYTHING = FeatureParams(
    {"sigma": [1, 2.5], "level": 3},
    {
        name: {}
        for name in ("Original", "Wavelet", "LoG", "Square", "SquareRoot", "Logarithm", "Exponential", "Gradient")
    }
    | {"LBP2D": {}, "LBP3D": {}},
    {name: (*features, *ON_REQUEST.get(name, ())) for name, features in FEATURES.items()},
)
LEGAL = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
RESERVED = {"if", "in", "using", "with", "double", "float", "long", "all", "and", "by", "true", "next", "str12", "strl"}


def test_every_feature_of_pyradiomics_is_defined_and_no_other() -> None:
    import radiomics

    offered = {name: set(features.getFeatureNames()) for name, features in radiomics.getFeatureClasses().items()}
    assert {name: set(features) for name, features in DEFINITIONS.items()} == offered
    for name, features in DEFINITIONS.items():
        assert set(FEATURES[name]) <= set(features)
        shorts = [definition.short for definition in features.values()]
        assert len(set(shorts)) == len(shorts), name
        assert all(definition.meaning.endswith(".") for definition in features.values())
    assert all(feature in DEFINITIONS[name] for name, feature in REMOVED)


def test_tags_are_those_of_the_ibsi_reference_values(shared_data: Path) -> None:
    folder = shared_data / "ibsi"
    suffix = re.compile(r"_(2D|2_5D|3D)(_avg|_comb|_mrg|_smrg|_vmrg|_dmrg)?$")
    tags: dict[str, set[str]] = {}
    with open(folder / "mapping_phantom.csv", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            column = line["pyradiomics_feature"].split("original_")[1]
            tags.setdefault(column, set()).add(suffix.sub("", line["tag"]))
    with open(folder / "reference_values/ibsi_1_dig_phantom.csv", encoding="utf-8-sig") as file:
        known = {suffix.sub("", line["tag"]) for line in csv.DictReader(file, delimiter=";")}
    ours = {f"{c}_{f}": d.ibsi_tag for c, features in DEFINITIONS.items() for f, d in features.items() if d.ibsi_tag}
    assert {name: tag for name, tag in ours.items() if name in tags and tag not in tags[name]} == {}
    assert set(tags) <= set(ours)
    assert set(ours.values()) <= known


def test_meanings_of_the_planar_diameters_hold() -> None:
    from radloom.extract import extract_features
    from radloom.images import Geometry, Volume

    roi = np.zeros((9, 14, 24), dtype=np.uint8)
    roi[2:7, 2:12, 2:22] = 1  # 5 mm from foot to head, 10 mm from front to back, 20 mm from right to left
    volume = Volume(roi, Geometry((24, 14, 9), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    names = ("Maximum2DDiameterColumn", "Maximum2DDiameterRow", "Maximum2DDiameterSlice")
    result = extract_features(volume, volume, {1: "ROI"}, FeatureParams({}, {"Original": {}}, {"shape": names}))
    coronal, sagittal, axial = result.rows["ROI"]
    assert coronal == pytest.approx(np.hypot(20, 5), abs=1)
    assert sagittal == pytest.approx(np.hypot(10, 5), abs=1)
    assert axial == pytest.approx(np.hypot(20, 10), abs=1)


def test_meanings_of_the_axis_lengths_hold() -> None:
    from radloom.extract import extract_features
    from radloom.images import Geometry, Volume

    z, y, x = np.mgrid[:25, :37, :53] - np.array([12, 18, 26])[:, None, None, None]
    roi = ((x / 24) ** 2 + (y / 16) ** 2 + (z / 10) ** 2 <= 1).astype(np.uint8)
    eigenvalues = np.linalg.eigvalsh(np.cov(np.argwhere(roi).T, ddof=0))
    volume = Volume(roi, Geometry((53, 37, 25), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    names = ("LeastAxisLength", "MinorAxisLength", "MajorAxisLength")
    result = extract_features(volume, volume, {1: "ROI"}, FeatureParams({}, {"Original": {}}, {"shape": names}))
    columns = feature_columns(FeatureParams({}, {"Original": {}}, {"shape": names}))
    lengths = dict(zip(columns, result.rows["ROI"], strict=True))
    for name, eigenvalue, axis in zip(names, eigenvalues, (20, 32, 48), strict=True):
        length = lengths[f"original_shape_{name}"]
        assert length == pytest.approx(4 * np.sqrt(eigenvalue))
        assert length == pytest.approx(0.894 * axis, rel=0.01)
        meaning = DEFINITIONS["shape"][name].meaning
        assert meaning.startswith("4 x square root of the ")
        assert "for a solid ellipsoid 89 % of its" in meaning


def test_a_feature_of_the_image_itself() -> None:
    info = describe("original_glcm_Contrast")
    assert (info.feature_class, info.image_type, info.feature) == ("glcm", "original", "Contrast")
    assert (info.ibsi_tag, info.unit) == ("cm_contrast", "1")
    assert info.meaning == (
        "Pairs of neighbouring voxels (GLCM). Mean squared difference of the grey levels of neighbours."
    )
    assert describe("original_firstorder_Variance").unit == "HU^2"
    assert describe("original_shape_SurfaceVolumeRatio").unit == "mm^-1"


@pytest.mark.parametrize(
    ("column", "image_type", "unit", "words"),
    [
        ("log-sigma-3-0-mm-3D_firstorder_Mean", "log-sigma-3-0-mm-3D", "a.u.", "Laplacian of Gaussian (3.0 mm wide)"),
        ("log.sigma.3.0.mm.3D_firstorder_Mean", "log-sigma-3-0-mm-3D", "a.u.", "Laplacian of Gaussian (3.0 mm wide)"),
        ("wavelet-LLH_firstorder_Energy", "wavelet-LLH", "a.u.^2", "LLH band of the image's wavelet"),
        ("Energy.wavelet.LLH", "wavelet-LLH", "a.u.^2", "LLH band of the image's wavelet"),
        ("wavelet2-HH_firstorder_Skewness", "wavelet2-HH", "1", "HH band"),
        ("lbp-3D-m2_firstorder_Median", "lbp-3D-m2", "a.u.", "level 2"),
        ("squareroot_firstorder_TotalEnergy", "squareroot", "a.u.^2 mm^3", "square root of the image"),
    ],
)
def test_a_feature_of_a_filtered_image(column: str, image_type: str, unit: str, words: str) -> None:
    info = describe(column)
    assert (info.feature_class, info.image_type, info.unit) == ("firstorder", image_type, unit)
    assert words in info.meaning


def test_names_made_elsewhere() -> None:
    assert describe("Elongation.original").ibsi_tag == "morph_pca_elongation"
    assert describe("10Percentile.wavelet.HHH").feature_class == "firstorder"
    # Two classes have a Contrast: which one is meant isn't said.
    assert describe("Contrast.original") == describe("Contrast.original").__class__("", "Contrast", "original")
    for unknown in ("age", "tumour_volume", "original_glcm_Beauty", "sepia_glcm_Contrast", "Elongation.sepia"):
        assert describe(unknown) == describe("")


def test_real_foreign_tables_are_recognised(shared_data: Path) -> None:
    columns = list(pd.read_csv(shared_data / "tables/hn_two_centres/features.csv.gz", nrows=1).columns)[1:]
    infos = [describe(column) for column in columns]
    assert all(info.image_type for info in infos)
    assert sum(bool(info.ibsi_tag) for info in infos) > 0.9 * len(columns) - 9 * 5
    rows = codebook_rows("features_raw", ["case_id", "patient_id", "centre", "roi", *columns])
    assert len({row["short_name"].lower() for row in rows}) == len(rows) == 801
    assert all(LEGAL.fullmatch(row["short_name"]) for row in rows)
    assert all(row["meaning"] for row in rows)


def test_short_names_of_all_features_are_plain_abbreviations() -> None:
    columns = feature_columns(EVERYTHING)
    assert len(columns) > 3000
    names = short_names(columns)
    assert len({name.lower() for name in names.values()}) == len(columns)
    assert all(LEGAL.fullmatch(name) for name in names.values())
    assert not any(re.search(r"_[0-9a-f]{6}$", name) for name in names.values())  # no checksum was needed
    assert names["original_shape_MeshVolume"] == "orig_shape_volume_mesh"
    assert names["wavelet2-LLH_gldm_LargeDependenceHighGrayLevelEmphasis"] == "wav2_llh_gldm_ldhgle"
    assert names["log-sigma-2-5-mm-3D_firstorder_RobustMeanAbsoluteDeviation"] == "log2_5_fo_rmad"
    # Another selection or order of columns changes no name.
    assert short_names(columns[::-7]) == {column: names[column] for column in columns[::-7]}


def test_short_names_of_other_columns() -> None:
    long = "a_column_with_a_name_that_is_much_too_long"
    columns = ["case_id", "Age", "AGE", "hpv p16 (%)", "größe", "if", "str12", "10th", "_n", "体積", long, long + "er"]
    names = short_names(columns)
    assert [names[column] for column in columns[:2]] == ["case_id", "Age"]
    assert names["AGE"].startswith("AGE_")
    assert names["hpv p16 (%)"] == "hpv_p16"
    assert names["größe"] == "groe"
    assert (names["if"], names["str12"], names["10th"], names["_n"]) == ("if_v", "str12_v", "v_10th", "n")
    assert names["体積"] == "v"
    assert names[long] != names[long + "er"]
    assert len({name.lower() for name in names.values()}) == len(columns)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=45) | st.sampled_from(sorted(RESERVED)), unique=True, max_size=12))
def test_any_columns_get_legal_and_unique_short_names(columns: list[str]) -> None:
    names = short_names(columns)
    assert list(names) == columns
    assert len({name.lower() for name in names.values()}) == len(columns)
    for name in names.values():
        assert LEGAL.fullmatch(name)
        assert name.lower() not in RESERVED


def test_every_fixed_column_has_a_meaning() -> None:
    from radloom import harmonize, model_cox, stability, tables, validation

    frame = pd.DataFrame({"f": [1.0, 2.0, 4.0, 7.0]})
    diagnostics = harmonize.diagnose(frame, frame, pd.Series(["a", "a", "b", "b"]))
    expected = {
        "cohort": ["case_id", "patient_id", "centre", "status", "n_rois"],
        "clinical": ["patient_id"],
        "features_raw": ["case_id", "patient_id", "centre", "roi"],
        "features_harmonized": ["case_id", "patient_id", "centre", "roi"],
        "exclusions": tables.EXCLUSION_COLUMNS,
        "acquisition": tables.ACQUISITION_COLUMNS,
        "qc": tables.QC_COLUMNS,
        "combat_diagnostics": ["roi", *diagnostics.columns],
        "stability": stability.COLUMNS,
        "coefficients": validation.COEFFICIENT_COLUMNS,
        "performance": validation.PERFORMANCE_COLUMNS,
        "predictions": [*model_cox.PREDICTION_COLUMNS, "probability", "outcome"],
        "ph_test": model_cox.PH_COLUMNS,
    }
    for table, columns in expected.items():
        for row in codebook_rows(table, columns):
            assert len(row["meaning"]) > 10, (table, row["column"])
            assert list(row) == ["table", "column", "short_name", "class", "image_type", "ibsi_tag", "unit", "meaning"]


def test_columns_of_the_users_own_sheets_are_said_to_be_theirs() -> None:
    rows = codebook_rows("cohort", ["case_id", "kernel"])
    assert rows[1] == {
        "table": "cohort",
        "column": "kernel",
        "short_name": "kernel",
        "class": "",
        "image_type": "",
        "ibsi_tag": "",
        "unit": "",
        "meaning": "Column of the cohort sheet, as it was given.",
    }
