"""Extraction: stock PyRadiomics as the oracle, columns and reasons for everything that can't be computed.

The engine `pyradiomics` gives PyRadiomics' numbers to the last bit; `radloom` within the tolerance of `agreement`.
"""

import csv
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agreement import disagreements

from radloom.errors import CaseError, CohortError
from radloom.extract import Extraction, extract_features, read_around, write_features
from radloom.feature_params import FEATURES, Engine, FeatureParams, feature_columns, read_params
from radloom.features.filters import lbp3d_bridge
from radloom.images import Geometry, Volume, from_sitk, to_sitk, write_nifti
from radloom.roi_definitions import Core, Shell, Union

# pykwalify, which PyRadiomics uses, loads its extensions in an old way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

ALL_CLASSES = {name: features for name, features in FEATURES.items() if name != "shape2D"}
SPACING = (0.8, 0.9, 2.5)
ENGINES: tuple[Engine, ...] = ("radloom", "pyradiomics")


def volume(array: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Volume:
    size = (array.shape[2], array.shape[1], array.shape[0])
    return Volume(np.ascontiguousarray(array), Geometry(size, spacing, (-20.0, 5.0, 100.0)))


def params(
    features: dict[str, tuple[str, ...]] | None = None,
    image_types: dict[str, dict[str, Any]] | None = None,
    engine: Engine = "radloom",
    **setting: Any,
) -> FeatureParams:
    return FeatureParams(setting, image_types or {"Original": {}}, features or ALL_CLASSES, engine=engine)


def stock(image: Volume, roi: Volume, label: int, used: FeatureParams, **setting: Any) -> dict[str, float]:
    """What PyRadiomics itself gives for the whole, uncropped volumes: feature columns in its order."""
    import radiomics
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    extractor = RadiomicsFeatureExtractor(
        {
            "setting": {**used.setting, **setting},
            "imageType": {name: dict(own) for name, own in used.image_types.items()},
            "featureClass": {name: list(features) for name, features in used.features.items()},
        }
    )
    result = extractor.execute(to_sitk(image), to_sitk(roi), label=label)
    radiomics.setVerbosity(logging.WARNING)
    return {name: float(value) for name, value in result.items() if not name.startswith("diagnostics")}


def row(extraction: Extraction, roi: str) -> dict[str, float]:
    return dict(zip(extraction.columns, extraction.rows[roi], strict=True))


@pytest.fixture(scope="module")
def case() -> tuple[Volume, Volume]:
    """A noisy gradient of int16 HU with an ellipsoid (label 1) and a box (label 4) in it."""
    rng = np.random.default_rng(7)
    z, y, x = np.mgrid[:22, :30, :33]
    image = (4 * x + rng.normal(0, 30, z.shape)).round().astype(np.int16)
    labels = np.zeros(z.shape, dtype=np.uint8)
    labels[((z - 9) / 5) ** 2 + ((y - 13) / 8) ** 2 + ((x - 12) / 7) ** 2 <= 1] = 1
    labels[4:12, 20:27, 22:31] = 4
    return volume(image), volume(labels)


@pytest.mark.parametrize(
    "setting",
    [
        {},
        {"binWidth": 10, "voxelArrayShift": 1000},
        {"binCount": 16, "weightingNorm": "euclidean"},
        {"force2D": True, "distances": [1, 2]},
        {"symmetricalGLCM": False, "gldm_a": 1},
        {"normalize": True, "normalizeScale": 100, "removeOutliers": 3.0},
        {"resegmentRange": [0, 80], "resegmentShape": True},
        {"resegmentRange": [-1.5, 1.5], "resegmentMode": "sigma", "resegmentShape": True},
        {
            "normalize": True,
            "normalizeScale": 100,
            "resegmentRange": [-120, 50],
            "resegmentShape": True,
        },
    ],
)
def test_numbers_are_stock_pyradiomics(case: tuple[Volume, Volume], setting: dict[str, Any]) -> None:
    image, roi = case
    used = params(**setting)
    for engine in ENGINES:
        extraction = extract_features(image, roi, {1: "tumour", 4: "box"}, replace(used, engine=engine))
        assert list(extraction.rows) == ["tumour", "box"]
        assert extraction.excluded == []
        for name, label in (("tumour", 1), ("box", 4)):
            expected = stock(image, roi, label, used)
            assert list(expected) == extraction.columns
            if engine == "pyradiomics":
                assert row(extraction, name) == expected
            else:
                assert disagreements(row(extraction, name), expected) == {}
        # Asymmetric matrices draw warnings from PyRadiomics; the rest is silent.
        assert all("symmetrical" in warning for warning in extraction.warnings)


@pytest.mark.parametrize("dtype", ["int16", "float32"])
@pytest.mark.parametrize("force2d", [False, True])
def test_filtered_images_are_stock_pyradiomics(case: tuple[Volume, Volume], dtype: str, force2d: bool) -> None:
    image = Volume(case[0].array.astype(dtype), case[0].geometry)
    image_types: dict[str, dict[str, Any]] = {
        "Wavelet": {"level": 2, "binWidth": 10},
        "LoG": {"sigma": [2, 3.5]},
        "Original": {},
        **{name: {} for name in ("Square", "SquareRoot", "Logarithm", "Exponential", "Gradient")},
        "LBP2D": {"binWidth": 1},
        "LBP3D": {"binWidth": 1},
    }
    used = params(image_types=image_types, force2D=force2d)
    with lbp3d_bridge():
        expected = stock(image, case[1], 1, used)
    for engine in ENGINES:
        extraction = extract_features(image, case[1], {1: "tumour"}, replace(used, engine=engine))
        # PyRadiomics orders wavelet bands as PyWavelets happens to; here they are sorted.
        assert sorted(expected) == sorted(extraction.columns)
        assert disagreements(row(extraction, "tumour"), expected) == {}
        assert extraction.warnings == []


def test_a_real_tumour_is_stock_pyradiomics(shared_data: Path, repo: Path) -> None:
    import SimpleITK as sitk

    image = from_sitk(sitk.ReadImage(str(shared_data / "sts/images/STS_035.nii.gz")))
    roi = from_sitk(sitk.ReadImage(str(shared_data / "sts/masks/STS_035.nii.gz")))
    used = read_params(repo / "config" / "pyradiomics.yaml")
    extraction = extract_features(image, roi, {1: "tumour"}, used, min_voxels=64)
    expected = stock(image, roi, 1, used)
    assert list(expected) == extraction.columns
    assert disagreements(row(extraction, "tumour"), expected) == {}
    assert extraction.warnings == []
    assert extraction.rois["tumour"]["volume_mm3"] == pytest.approx(expected["original_shape_VoxelVolume"], rel=1e-12)


def test_the_ibsi_digital_phantom_is_within_tolerance(shared_data: Path) -> None:
    import SimpleITK as sitk

    folder = shared_data / "ibsi"
    image = from_sitk(sitk.ReadImage(str(folder / "digital_phantom/image.nii.gz")))
    roi = from_sitk(sitk.ReadImage(str(folder / "digital_phantom/mask.nii.gz")))
    with open(folder / "mapping_phantom.csv", encoding="utf-8") as file:
        tags = {line["tag"]: line["pyradiomics_feature"] for line in csv.DictReader(file)}
    with open(folder / "reference_values/ibsi_1_dig_phantom.csv", encoding="utf-8-sig") as file:
        consensus = {line["tag"]: line for line in csv.DictReader(file, delimiter=";")}
    extraction = extract_features(image, roi, {1: "ROI"}, params(binWidth=1))
    values = row(extraction, "ROI")
    values["original_firstorder_Kurtosis"] -= 3  # IBSI's is the excess
    voxels = extraction.rois["ROI"]["voxels"]
    for axis in ("Major", "Minor", "Least"):  # IBSI's covariance is over n - 1, PyRadiomics' over n
        values[f"original_shape_{axis}AxisLength"] *= math.sqrt(voxels / (voxels - 1))
    checked = 0
    for tag, feature in tags.items():
        column = feature.removeprefix("3D_")
        if feature.startswith("3D_original") and column in values and tag in consensus:
            reference = float(consensus[tag]["reference value"])
            rounding = 0.501 * 10.0 ** (math.floor(math.log10(abs(reference))) - 2)  # three digits are printed
            assert values[column] == pytest.approx(reference, abs=float(consensus[tag]["tolerance"]) + rounding), tag
            checked += 1
    # All consensus values of three-dimensional, direction-averaged features in the seven classes.
    assert checked == 105


def test_shape_is_of_the_whole_roi_when_grey_levels_are_cut_off(case: tuple[Volume, Volume]) -> None:
    image, roi = case
    used = params(resegmentRange=[0, 60])
    extraction = extract_features(image, roi, {1: "tumour"}, used)
    plain = stock(image, roi, 1, params())
    cut = stock(image, roi, 1, used)
    values = row(extraction, "tumour")
    assert disagreements(values, {name: (plain if "_shape_" in name else cut)[name] for name in values}) == {}
    # What PyRadiomics does by itself: the box of the re-segmented mask cuts the ROI's ends off.
    assert cut["original_shape_VoxelVolume"] < plain["original_shape_VoxelVolume"]
    inside = image.array[roi.array == 1]
    assert extraction.rois["tumour"]["voxels"] == inside.size
    assert extraction.rois["tumour"]["voxels_in_range"] == int(((inside >= 0) & (inside <= 60)).sum())


def test_filters_have_the_whole_image_read(case: tuple[Volume, Volume], tmp_path: Path) -> None:
    write_nifti(tmp_path / "image.nii.gz", case[0])
    write_nifti(tmp_path / "roi.nii.gz", case[1])
    paths = tmp_path / "image.nii.gz", tmp_path / "roi.nii.gz"
    plain, filtered = params(), params(image_types={"Original": {}, "Gradient": {}})
    assert read_around(*paths, [plain, filtered], {})[0].array.shape == case[0].array.shape
    assert read_around(*paths, [plain], {})[0].array.size < case[0].array.size


def test_a_row_does_not_depend_on_other_rois(case: tuple[Volume, Volume]) -> None:
    image, roi = case
    both = extract_features(image, roi, {4: "box", 1: "tumour"}, params())
    alone = extract_features(image, roi, {4: "box", 1: "tumour"}, params(), rois=["box"])
    assert list(both.rows) == ["tumour", "box"]
    assert list(alone.rows) == ["box"]
    assert alone.rows["box"] == both.rows["box"]
    assert both.rois["box"] == {"voxels": 8 * 7 * 9, "volume_mm3": pytest.approx(8 * 7 * 9 * 1.8)}


def test_each_unusable_roi_is_excluded_with_its_reason(case: tuple[Volume, Volume]) -> None:
    image, roi = case
    array = roi.array.copy()
    array[0, 0, :3] = 2
    array[1, 0:10, 0] = 3
    array[20, 0:9, 0:9] = 5
    labels = {1: "tumour", 2: "tiny", 3: "line", 5: "slice", 9: "absent"}
    extraction = extract_features(
        image,
        Volume(array, roi.geometry),
        labels,
        params(minimumROIDimensions=3),
        rois=[*labels.values(), "liver"],
        min_voxels=8,
    )
    assert list(extraction.rows) == ["tumour"]
    reasons = {entry["roi"]: entry["reason"] for entry in extraction.excluded}
    assert reasons == {
        "liver": "the case has no ROI of this name (it has: tumour, tiny, line, slice, absent)",
        "tiny": "the ROI has 3 voxels, at least 8 are needed",
        "line": "the ROI is only 1 x 10 x 1 voxels (x, y, z), so it extends in 1 instead of 3 directions",
        "slice": "the ROI is only 9 x 9 x 1 voxels (x, y, z), so it extends in 2 instead of 3 directions",
        "absent": "the ROI is empty",
    }
    assert all(entry["advice"] for entry in extraction.excluded)


def test_a_case_without_a_usable_roi_is_excluded(case: tuple[Volume, Volume]) -> None:
    with pytest.raises(CaseError, match=r"no ROI can be used \(lesion: the ROI is empty") as caught:
        extract_features(*case, {7: "lesion"}, params())
    assert "segmentation" in caught.value.advice


def test_one_voxel_is_no_roi_whatever_is_allowed(case: tuple[Volume, Volume]) -> None:
    array = np.zeros_like(case[1].array)
    array[3, 3, 3] = 1
    with pytest.raises(CaseError, match="1 x 1 x 1 voxels"):
        extract_features(case[0], Volume(array, case[1].geometry), {1: "dot"}, params(minimumROIDimensions=1))


def test_minimum_roi_size_means_what_it_says(case: tuple[Volume, Volume]) -> None:
    size = int((case[1].array == 4).sum())
    assert extract_features(*case, {4: "box"}, params(minimumROISize=size)).excluded == []
    with pytest.raises(ValueError, match="too small"):  # PyRadiomics takes it as too small
        stock(*case, 4, params(minimumROISize=size))
    with pytest.raises(CaseError, match=f"has {size} voxels, at least {size + 1} are needed"):
        extract_features(*case, {4: "box"}, params(minimumROISize=size + 1))


def test_too_few_voxels_in_the_range_exclude_the_roi(case: tuple[Volume, Volume]) -> None:
    with pytest.raises(CaseError, match=r"inside `resegmentRange` \[5000, 6000\] has at most one voxel"):
        extract_features(*case, {1: "tumour"}, params(resegmentRange=[5000, 6000]))
    with pytest.raises(CaseError, match=r"the part of the ROI inside .* has \d+ voxels, at least 1000 are needed"):
        extract_features(*case, {1: "tumour"}, params(resegmentRange=[0, 40]), min_voxels=1000)


def test_image_and_roi_on_different_grids_are_refused(case: tuple[Volume, Volume]) -> None:
    image, roi = case
    g = roi.geometry
    moved = Volume(roi.array, Geometry(g.size, g.spacing, (g.origin[0] + 0.5, *g.origin[1:])))
    with pytest.raises(CaseError, match=r"0\.5 mm away"):
        extract_features(image, moved, {1: "tumour"}, params())
    with pytest.raises(CaseError, match=r"the ROI has .* voxels, the image"):
        extract_features(image, volume(roi.array[1:]), {1: "tumour"}, params())
    nearly = Volume(roi.array, Geometry(g.size, g.spacing, (g.origin[0] + 1e-5, *g.origin[1:])))
    assert extract_features(image, nearly, {1: "tumour"}, params()).rows.keys() == {"tumour"}


def test_a_failing_feature_is_an_empty_cell_and_a_warning(
    case: tuple[Volume, Volume],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from radiomics.glcm import RadiomicsGLCM

    def getMCCFeatureValue(_: object) -> float:
        raise FloatingPointError("no such luck")

    monkeypatch.setattr(RadiomicsGLCM, "getMCCFeatureValue", getMCCFeatureValue)
    monkeypatch.setattr(RadiomicsGLCM, "getIdFeatureValue", lambda _: np.array([np.inf]))
    extraction = extract_features(
        *case, {1: "tumour"}, params({"glcm": ("Contrast", "MCC", "Id")}, engine="pyradiomics")
    )
    assert extraction.warnings == [
        "tumour: glcm MCC failed: FloatingPointError: no such luck",
        "tumour: 2 features could not be computed and are empty: original_glcm_MCC, original_glcm_Id",
    ]
    write_features(tmp_path / "features.csv", extraction)
    header, line = (tmp_path / "features.csv").read_text().splitlines()
    assert header == "roi,original_glcm_Contrast,original_glcm_MCC,original_glcm_Id"
    assert line == f"tumour,{extraction.rows['tumour'][0]!r},,"
    assert capfd.readouterr() == ("", "")


def test_a_filter_that_does_not_fit_leaves_its_columns_empty(case: tuple[Volume, Volume]) -> None:
    used = params({"firstorder": ("Mean",)}, {"LoG": {"sigma": [1.0, 90.0]}, "Original": {}})
    extraction = extract_features(*case, {1: "tumour"}, used)
    assert extraction.columns == feature_columns(used)
    values = row(extraction, "tumour")
    assert math.isnan(values["log-sigma-90-0-mm-3D_firstorder_Mean"])
    assert not math.isnan(values["log-sigma-1-0-mm-3D_firstorder_Mean"])
    assert len(extraction.warnings) == 2
    assert "log-sigma-90-0-mm-3D" in extraction.warnings[0]


def test_2d_shape_of_a_slice_and_of_a_volume(case: tuple[Volume, Volume]) -> None:
    used = params({"shape2D": FEATURES["shape2D"], "firstorder": ("Mean",)}, force2D=True)
    array = case[1].array.copy()
    array[:9] = 0
    array[10:] = 0
    flat = Volume(array, case[1].geometry)
    extraction = extract_features(case[0], flat, {1: "slice"}, used)
    assert row(extraction, "slice") == stock(case[0], flat, 1, used)
    assert extraction.warnings == []
    thick = extract_features(*case, {1: "tumour"}, used)
    assert [math.isnan(value) for value in thick.rows["tumour"]] == [True] * 9 + [False]
    assert "shape2D is for ROIs of one slice, this one has 11" in thick.warnings[0]


@pytest.mark.parametrize(
    ("values", "note"), [((40, 40), "all voxels have the value 40"), ((30, 49), "one bin of width 25")]
)
def test_an_roi_without_contrast_is_said(case: tuple[Volume, Volume], values: tuple[int, int], note: str) -> None:
    array = np.where(np.indices(case[0].array.shape).sum(axis=0) % 2, *values).astype(np.int16)
    image = Volume(array, case[0].geometry)
    extraction = extract_features(image, case[1], {1: "tumour"}, params())
    assert note in extraction.warnings[0]
    assert disagreements(row(extraction, "tumour"), stock(image, case[1], 1, params())) == {}


def test_voxels_without_a_value_exclude_the_roi(case: tuple[Volume, Volume]) -> None:
    array = case[0].array.astype(np.float32)
    array[9, 13, 12] = np.nan
    with pytest.raises(CaseError, match="without a finite value"):
        extract_features(Volume(array, case[0].geometry), case[1], {1: "tumour"}, params())


def test_implausibly_many_grey_levels_exclude_the_roi_before_memory_runs_out(
    case: tuple[Volume, Volume],
) -> None:
    array = case[0].array.astype(np.int16)
    array[9, 13, 12] = 32000
    image = Volume(array, case[0].geometry)
    only_mean = params({"firstorder": ("Mean",)}, binWidth=0.1)
    for engine, too_many in (("pyradiomics", 1), ("radloom", 0.1)):
        with pytest.raises(CaseError, match=r"grey levels, more than \d+|more than 65535 grey levels"):
            extract_features(image, case[1], {1: "tumour"}, params(binWidth=too_many, engine=engine))
        assert extract_features(image, case[1], {1: "tumour"}, replace(only_mean, engine=engine)).rows
    # Levels that don't occur cost Radloom nothing.
    assert extract_features(image, case[1], {1: "tumour"}, params(binWidth=1)).rows


def test_numbers_are_written_bit_for_bit(case: tuple[Volume, Volume], tmp_path: Path) -> None:
    extraction = extract_features(*case, {1: "tumour", 4: "box"}, params())
    write_features(tmp_path / "a.csv", extraction)
    write_features(tmp_path / "b.csv", extract_features(*case, {1: "tumour", 4: "box"}, params()))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    with open(tmp_path / "a.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["roi", *extraction.columns]
    assert {line[0]: [float(cell) for cell in line[1:]] for line in lines[1:]} == extraction.rows


def test_pyradiomics_own_schema_has_the_last_word(case: tuple[Volume, Volume]) -> None:
    with pytest.raises(CohortError, match="PyRadiomics rejects the parameter file"):
        extract_features(*case, {1: "tumour"}, params(binWidth=-1, engine="pyradiomics"))


def test_logging_is_left_as_it_was(case: tuple[Volume, Volume]) -> None:
    import radiomics

    before = (list(radiomics.logger.handlers), radiomics.handler.level, radiomics.logger.propagate)
    extract_features(*case, {1: "tumour"}, params({"firstorder": ("Mean",)}, engine="pyradiomics"))
    assert (list(radiomics.logger.handlers), radiomics.handler.level, radiomics.logger.propagate) == before


@pytest.mark.parametrize("corner", [(0, 0, 0), (2, 5, 7), (8, 14, 20)])
def test_what_is_read_around_the_rois_is_all_that_counts(tmp_path: Path, corner: tuple[int, int, int]) -> None:
    """In the middle and at each end of the image: the bits of the whole volumes, of derived ROIs too."""
    rng = np.random.default_rng(sum(corner))
    image = volume(rng.normal(0, 60, (14, 22, 31)).astype(np.float32))
    labels = np.zeros(image.array.shape, np.uint8)
    z, y, x = corner
    labels[z : z + 6, y : y + 8, x : x + 11] = rng.random((6, 8, 11)) < 0.9
    roi = volume(labels)
    write_nifti(tmp_path / "image.nii.gz", image)
    write_nifti(tmp_path / "roi.nii.gz", roi)
    derived = {"rim": Shell("all", 3), "halo": Shell("rim", 4, 0.5), "core": Core("tumour", 0.9)}
    derived["all"] = Union(("tumour", "core"))
    used = params()
    part = read_around(tmp_path / "image.nii.gz", tmp_path / "roi.nii.gz", [used], derived)
    found = extract_features(*part, {1: "tumour"}, used, derived=derived)
    assert found == extract_features(image, roi, {1: "tumour"}, used, derived=derived)
    assert len(found.rows) == 5


def test_grids_that_part_far_from_the_roi_are_refused_there_too(case: tuple[Volume, Volume], tmp_path: Path) -> None:
    g = case[1].geometry
    x, y, z = g.spacing
    labels = np.zeros_like(case[1].array)
    labels[:3, :3, :3] = 1
    write_nifti(tmp_path / "image.nii.gz", case[0])
    write_nifti(tmp_path / "roi.nii.gz", Volume(labels, Geometry(g.size, (x + 1e-4, y, z), g.origin)))
    part = read_around(tmp_path / "image.nii.gz", tmp_path / "roi.nii.gz", [params()], {})
    with pytest.raises(CaseError, match="mm away from the image's"):
        extract_features(*part, {1: "tumour"}, params())
