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
from radloom.config import schema
from radloom.extract import extract_features
from radloom.feature_params import FEATURES, ON_REQUEST, REMOVED, FeatureParams, feature_columns
from radloom.ibsi_codes import IBSI_CODES
from radloom.images import Geometry, Volume, from_sitk, to_sitk
from radloom.model_codebook import METRIC_DEFINITIONS, MODEL_COLUMNS
from radloom.model_tables import MODEL_TABLES
from radloom.performance import DISCRIMINATION, ClassJudge, SurvivalJudge
from radloom.report_sections import METRICS as NAMES

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
RESERVED = {
    "na_integer_",
    "if",
    "in",
    "using",
    "with",
    "double",
    "float",
    "long",
    "all",
    "and",
    "by",
    "true",
    "next",
    "str12",
    "strl",
}


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
        ("log-sigma-3-0-mm-3D_firstorder_Mean", "log-sigma-3-0-mm-3D", "HU", "Laplacian of Gaussian (3.0 mm wide,"),
        ("log.sigma.3.0.mm.3D_firstorder_Mean", "log-sigma-3-0-mm-3D", "HU", "Laplacian of Gaussian (3.0 mm wide,"),
        ("wavelet-LLH_firstorder_Energy", "wavelet-LLH", "HU^2", "LLH band of the image's wavelet"),
        ("Energy.wavelet.LLH", "wavelet-LLH", "HU^2", "LLH band of the image's wavelet"),
        ("wavelet2-HH_firstorder_Skewness", "wavelet2-HH", "1", "HH band"),
        ("lbp-3D-m2_firstorder_Median", "lbp-3D-m2", "1", "level 2"),
        ("squareroot_firstorder_TotalEnergy", "squareroot", "a.u.^2 mm^3", "square root of the image"),
        ("gradient_firstorder_Variance", "gradient", "HU^2 mm^-2", "gradient magnitude of the image"),
        ("log-sigma-1-5e-05-mm-3D_firstorder_Mean", "log-sigma-1-5e-05-mm-3D", "HU", "(1.5e-05 mm wide,"),
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


# IBSI 1 has no such features: (class, feature).
NOT_IN_IBSI = {
    ("firstorder", "StandardDeviation"),
    ("firstorder", "TotalEnergy"),
    ("glcm", "MCC"),
    ("shape", "Maximum2DDiameterColumn"),
    ("shape", "Maximum2DDiameterRow"),
    ("shape", "Maximum2DDiameterSlice"),
}
SPACE = [
    {"sigma": [0.5, 1, 2.0, 3.25, 10], "level": 1},
    {"sigma": [1e-05], "level": 4, "lbp3DLevels": 3},
    {"sigma": [1], "level": 9, "force2D": True},
]


@pytest.mark.parametrize("setting", SPACE)
def test_the_whole_feature_space_is_described(setting: dict[str, object]) -> None:
    columns = feature_columns(FeatureParams(setting, EVERYTHING.image_types, EVERYTHING.features))
    rows = codebook_rows("features_raw", columns)
    assert len({row["short_name"].lower() for row in rows}) == len(columns)
    for row in rows:
        assert all(row[key] for key in ("class", "image_type", "unit", "formula", "meaning")), row
        feature = row["class"], row["column"].rpartition("_")[2]
        outside = feature in NOT_IN_IBSI or feature[0] == "shape2D"
        assert bool(row["ibsi_tag"]) is bool(row["ibsi_code"]) is not outside, row
        assert LEGAL.fullmatch(row["short_name"])
        alone = codebook_rows("features_raw", [row["column"]])[0]
        assert alone == row


def test_names_of_images_are_those_that_pyradiomics_gives_them() -> None:
    import SimpleITK as sitk
    from radiomics import imageoperations

    image = sitk.GetImageFromArray(np.random.default_rng(1).normal(0, 100, (12, 12, 12)))
    setting = {"sigma": [0.5, 1, 2.25], "level": 2}
    types = {name: {} for name in EVERYTHING.image_types if not name.startswith("LBP")}
    params = FeatureParams(setting, types, {"firstorder": ("Mean",)})
    made = []
    for wavelet in ("coif1", "haar", "bior3.1"):
        ours = {**setting, "wavelet": wavelet}
        made = [
            name for kind in types for _, name, _ in getattr(imageoperations, f"get{kind}Image")(image, image, **ours)
        ]
        assert {f"{name}_firstorder_Mean" for name in made} == set(feature_columns(params))
    assert {describe(f"{name}_firstorder_Mean").image_type for name in made} == set(made)


def test_codes_are_four_characters_and_one_a_tag() -> None:
    assert all(re.fullmatch("[0-9A-Z]{4}", code) for code in IBSI_CODES.values())
    assert len(set(IBSI_CODES.values())) == len(IBSI_CODES)
    tags = {definition.ibsi_tag for features in DEFINITIONS.values() for definition in features.values()} - {""}
    assert tags == set(IBSI_CODES)
    # One of each family, as they stand in the reference manual.
    manual = {"morph_volume": "RNU0", "stat_mean": "Q4LE", "ih_entropy": "TLU2", "cm_contrast": "ACUI"}
    manual |= {"rlm_sre": "22OV", "szm_sze": "5QRC", "ngt_busyness": "NQ30", "ngl_lde": "SODN"}
    assert {tag: IBSI_CODES[tag] for tag in manual} == manual


def test_formulas_lead_to_what_computes_the_feature() -> None:
    import radiomics
    from radiomics import imageoperations

    assert describe("original_glcm_Id").formula == (
        "https://pyradiomics.readthedocs.io/en/v3.0.1/features.html#radiomics.glcm.RadiomicsGLCM.getIdFeatureValue"
    )
    classes = radiomics.getFeatureClasses()
    for column in feature_columns(EVERYTHING):
        feature, *image = re.findall(r"#radiomics\.(\S+?)(?:;|$)", describe(column).formula)
        module, name, method = feature.split(".")
        assert (classes[module].__module__, classes[module].__name__) == (f"radiomics.{module}", name)
        assert hasattr(classes[module], method)
        assert method == f"get{column.rpartition('_')[2]}FeatureValue"
        assert bool(image) is not column.startswith("original_")
        for function in image:
            assert hasattr(imageoperations, function.removeprefix("imageoperations."))


def _cube(factor: float, spacing: float, bright: float = 0) -> tuple[Volume, Volume]:
    """An image with an ROI in it, its values times `factor`, and a `bright` voxel outside the ROI."""
    size = (18, 18, 18)
    z, y, x = np.indices(size)
    values = np.random.default_rng(7).normal(0, 40, size) + 300 * np.exp(-((x - 8) ** 2 + (y - 9) ** 2) / 30)
    values[0, 0, 0] = bright
    roi = ((x - 8) ** 2 + 2 * (y - 9) ** 2 + (z - 9) ** 2 < 20).astype(np.uint8)
    geometry = Geometry(size, (spacing, spacing, spacing), (0.0, 0.0, 0.0))
    return Volume(values * factor, geometry), Volume(roi, geometry)


def _features(image: Volume, roi: Volume, params: FeatureParams) -> dict[str, float]:
    result = extract_features(image, roi, {1: "ROI"}, params)
    return dict(zip(result.columns, result.rows["ROI"], strict=True))


def test_units_are_those_in_which_the_features_scale() -> None:
    """A feature in HU^a mm^b grows by k^a s^b when all values grow by k and all lengths by s."""

    def params(hu: float, mm: float) -> FeatureParams:
        types = {"Original": {}, "LoG": {"sigma": [2.0 * mm]}, "Wavelet": {"level": 2}, "Gradient": {}}
        types["Gradient"] = {"binWidth": 25 * hu / mm}
        everything = {name: (*names, *ON_REQUEST.get(name, ())) for name, names in FEATURES.items() if "2D" not in name}
        return FeatureParams({"binWidth": 25 * hu}, types, everything)

    before = list(_features(*_cube(1, 1), params(1, 1)).values())
    after = list(_features(*_cube(4, 2), params(4, 2)).values())
    columns = feature_columns(params(1, 1))
    assert len(columns) == len(before) > 1500
    powers = set()
    for column, old, new in zip(columns, before, after, strict=True):
        unit = describe(column).unit
        power = {base: int(n or 1) for base, n in re.findall(r"(HU|mm)(?:\^(-?\d))?", unit)}
        assert power or unit in ("1", "bit")
        powers.add(unit)
        # All factors are powers of two, so all is exact but for the order of sums.
        expected = 4.0 ** power.get("HU", 0) * 2.0 ** power.get("mm", 0)
        assert new == pytest.approx(old * expected, rel=1e-9, abs=1e-9), column
    assert powers == {
        *("1", "bit", "HU", "HU^2", "HU^2 mm^3", "mm", "mm^2", "mm^3", "mm^-1"),
        *("HU mm^-1", "HU^2 mm^-2", "HU^2 mm"),
    }


def test_arbitrary_units_are_those_of_images_that_one_voxel_can_stretch() -> None:
    kinds = ("Original", "LoG", "Wavelet", "Square", "SquareRoot", "Logarithm", "Exponential", "Gradient")
    types: dict[str, dict[str, object]] = {name: {} for name in kinds}
    params = FeatureParams({"sigma": [1.0], "binWidth": 1e3}, types, {"firstorder": ("Mean",)})
    alone, beside = _features(*_cube(1, 1), params), _features(*_cube(1, 1, 3000), params)
    stretched = {name for name in alone if alone[name] != pytest.approx(beside[name], rel=1e-2)}
    assert stretched == {name for name in alone if describe(name).unit == "a.u."}


def test_a_low_pass_of_a_wavelet_multiplies_by_the_square_root_of_two() -> None:
    from radiomics.imageoperations import getWaveletImage

    flat = to_sitk(Volume(np.full((16, 16, 16), 10.0), Geometry((16, 16, 16), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))))
    for wavelet in ("coif1", "haar", "db4", "bior2.2", "rbio3.1"):
        images = {name: image for image, name, _ in getWaveletImage(flat, flat, level=2, wavelet=wavelet)}
        assert from_sitk(images["wavelet2-LLL"]).array == pytest.approx(10 * 2**3)
        assert from_sitk(images["wavelet-LLH"]).array == pytest.approx(0, abs=1e-9)


def test_a_feature_keeps_its_short_name_beside_any_column() -> None:
    column = "wavelet-LLH_firstorder_Mean"
    assert short_names([column]) == {column: "wav_llh_fo_mean"}
    beside = ["wav_llh_fo_mean", "wav llh fo mean", "wavelet.LLH_firstorder_Mean", "Mean.wavelet.LLH", column]
    for columns in (beside, beside[::-1]):
        names = short_names(columns)
        assert list(names) == columns
        assert names[column] == "wav_llh_fo_mean"
        assert len(set(names.values())) == len(columns)


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
    from radloom import batch_diagnostics, confounding, harmonize, stability, tables

    frame = pd.DataFrame({"f": [1.0, 2.0, 4.0, 7.0]})
    diagnostics = batch_diagnostics.diagnose(frame, frame, pd.Series(["a", "a", "b", "b"]))
    expected = {
        "cohort": ["case_id", "patient_id", "centre", "status", "n_rois"],
        "clinical": ["patient_id"],
        "features_raw": ["case_id", "patient_id", "centre", "roi"],
        "features_harmonized": ["case_id", "patient_id", "centre", "roi"],
        "exclusions": tables.EXCLUSION_COLUMNS,
        "acquisition": tables.ACQUISITION_COLUMNS,
        "qc": tables.QC_COLUMNS,
        "confounding": confounding.TABLE_COLUMNS,
        "combat_diagnostics": ["roi", *diagnostics.columns],
        "combat_batches": batch_diagnostics.BATCH_COLUMNS,
        "combat_covariates": batch_diagnostics.COVARIATE_COLUMNS,
        "combat_summary": batch_diagnostics.SUMMARY_COLUMNS,
        "combat_rows": list(harmonize.ROW_COLUMNS),
        "stability": stability.COLUMNS,
        **MODEL_TABLES,
        "codebook": list(codebook_rows("cohort", ["case_id"])[0]),
    }
    for table, columns in expected.items():
        for row in codebook_rows(table, columns):
            assert len(row["meaning"]) > 10, (table, row["column"])
            assert list(row) == expected["codebook"]


def test_columns_of_the_models_tables_are_those_that_are_defined() -> None:
    assert set(MODEL_COLUMNS) == set(MODEL_TABLES)
    shared = set.intersection(*map(set, MODEL_COLUMNS.values()))
    for table, columns in MODEL_TABLES.items():
        assert set(MODEL_COLUMNS[table]) - shared <= set(columns), table
        assert all(row["meaning"].endswith(".") for row in codebook_rows(table, columns)), table


def test_every_metric_is_defined() -> None:
    weights, everyone = np.ones((1, 40)), np.arange(40)
    rng = np.random.default_rng(0)
    families = frozenset(schema()["properties"]["analysis_plan"]["properties"]["metrics"]["default"])
    time, event, outcome = rng.uniform(1, 9, 40), np.arange(40) % 2, np.arange(40) % 2
    risk, groups = rng.normal(size=40), np.zeros(40, dtype=int)
    judges = [SurvivalJudge(time, event, (5.0,), families), ClassJudge(outcome, families)]
    found: set[str] = set()
    for judge in judges:
        link = np.repeat(risk[:, None] - 1, len(judge.times) or 1, axis=1)
        found |= {name for name, _ in judge.ranks(risk, groups, everyone, weights)}
        found |= {name for name, _ in judge.absolute(link, groups, everyone, weights)}
        found |= {name for name, _ in judge.curves(link, everyone, weights)}
    assert found == set(METRIC_DEFINITIONS)
    (metric,) = codebook_rows("performance", ["metric"])
    assert all(f"{name}: " in metric["meaning"] for name in found)
    assert set(NAMES) == found | {f"{name}_within_centre" for name in DISCRIMINATION}


def test_columns_that_headers_may_fill_are_said_to_be_so() -> None:
    (row,) = codebook_rows("cohort", ["kvp"])
    assert row["unit"] == "kV"
    assert row["meaning"].startswith("Tube voltage")
    assert row["meaning"].endswith("From the cohort sheet, or DICOM headers where it has gaps.")


def test_columns_of_the_users_own_sheets_are_said_to_be_theirs() -> None:
    rows = codebook_rows("cohort", ["case_id", "ward"])
    assert rows[1] == {
        "table": "cohort",
        "column": "ward",
        "short_name": "ward",
        "class": "",
        "image_type": "",
        "ibsi_tag": "",
        "ibsi_code": "",
        "unit": "",
        "formula": "",
        "meaning": "Column of the cohort sheet, as it was given.",
    }
