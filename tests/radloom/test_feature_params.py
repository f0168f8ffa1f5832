"""Parameter files: names and settings against the installed PyRadiomics, and every kind of mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from radloom.errors import CohortError
from radloom.feature_params import (
    FEATURES,
    IMAGE_TYPES,
    ON_REQUEST,
    REFUSED,
    REMOVED,
    SETTINGS,
    FeatureParams,
    feature_columns,
    read_params,
    validate_params,
)


def write(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_features_are_those_that_pyradiomics_offers() -> None:
    import radiomics

    assert list(FEATURES) == list(radiomics.getFeatureClasses())
    for name, features in FEATURES.items():
        offered = radiomics.getFeatureClasses()[name].getFeatureNames()
        assert list(features) == [feature for feature, deprecated in offered.items() if not deprecated]
        removed = {feature for in_class, feature in REMOVED if in_class == name}
        assert removed | set(ON_REQUEST.get(name, ())) == {
            feature for feature, deprecated in offered.items() if deprecated
        }


def test_image_types_and_settings_are_those_of_pyradiomics() -> None:
    import radiomics
    from ruamel.yaml import YAML

    assert sorted(IMAGE_TYPES) == sorted(radiomics.getImageTypes())
    schema = YAML(typ="safe").load(Path(radiomics.getParameterValidationFiles()[0]).read_text())
    assert {*SETTINGS, *REFUSED} == set(schema["mapping"]["setting"]["mapping"])


def test_the_shipped_file_is_valid_and_enables_56_features(repo: Path) -> None:
    path = repo / "config" / "pyradiomics.yaml"
    assert validate_params(path) == []
    columns = feature_columns(read_params(path))
    assert len(columns) == len(set(columns)) == 14 + 18 + 24
    assert columns[0] == "original_shape_Elongation"


def test_what_the_shipped_file_has_commented_out_is_valid_too(repo: Path, tmp_path: Path) -> None:
    text = (repo / "config" / "pyradiomics.yaml").read_text(encoding="utf-8")
    for name in (
        "resegmentRange",
        "LoG",
        "Wavelet",
        "Square:",
        "SquareRoot",
        "Logarithm",
        "Exponential",
        "Gradient",
        "LBP2D",
        "LBP3D",
    ):
        assert f"  # {name}" in text
        text = text.replace(f"  # {name}", f"  {name}")
    for name in ("glrlm", "glszm", "gldm", "ngtdm"):
        text = text.replace(f"  # {name}: []", f"  {name}: []")
    path = write(tmp_path, text)
    assert validate_params(path) == []
    # 93 features but shape, of the original image, two LoG, eight wavelet, five other and four LBP images.
    assert len(feature_columns(read_params(path))) == 14 + 93 * (1 + 2 + 8 + 5 + 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("setting: {resampledPixelSpacing: [1, 1, 1]}", "set `resample.spacing`"),
        ("setting: {interpolator: sitkBSpline}", "set `resample.interpolator`"),
        ("setting: {label: 2}", "set `segment.labels`"),
        ("setting: {label_channel: 1}", "set `segment.labels`"),
        (
            "imageType: {Wavelet: {resampledPixelSpacing: [1, 1, 1]}}",
            "imageType.Wavelet.resampledPixelSpacing",
        ),
        ("voxelSetting: {kernelRadius: 2}", "voxel-based extraction"),
        ("setting: {binwidth: 25}", "did you mean binWidth?"),
        ("setting: {binWidth: wide}", "binWidth: must be a number above 0, not 'wide'"),
        ("setting: {binWidth: 0}", "must be a number above 0"),
        ("setting: {binWidth: true}", "must be a number above 0"),
        ("setting: {force2D: 1}", "true or false"),
        ("setting: {minimumROIDimensions: 4}", "1, 2 or 3"),
        ("setting: {resegmentRange: [1, 2, 3]}", "one or two numbers"),
        ("setting: {resegmentMode: percent}", "absolute, relative or sigma"),
        ("setting: {weightingNorm: l2}", "euclidean, manhattan"),
        ("imageType: {Wavelet: {wavelet: coif99}}", "discrete wavelet"),
        ("imageType: {LoG: {}}", "needs `sigma`"),
        ("imageType: {log: {sigma: [1]}}", "did you mean LoG?"),
        ("imageType: {Square: 3}", "must be a mapping"),
        ("featureClass: {firstOrder: []}", "did you mean firstorder?"),
        ("featureClass: {glcm: [Contrst]}", "unknown feature Contrst; did you mean Contrast?"),
        ("featureClass: {glcm: [[Contrast]]}", "is not the name of a feature"),
        ("featureClass: {glcm: [Dissimilarity]}", "it equals DifferenceAverage"),
        ("featureClass: {glcm: Contrast}", "must be a list"),
        ("featureClass: {shape2D: []}", "needs `force2D: true`"),
        ("featureclass: {glcm: []}", "did you mean featureClass?"),
        ("featureClass: [glcm]", "must be a mapping"),
        ("- glcm", "must hold the sections"),
        ("setting: {binWidth: 25", "not valid YAML"),
        ("setting: {binWidth: 25, binWidth: 10}", "not valid YAML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    problems = validate_params(path)
    assert len(problems) == 1
    assert message in problems[0]
    with pytest.raises(CohortError, match=r"params\.yaml can't be used"):
        read_params(path)


@pytest.mark.parametrize(("name", "package"), [("LBP2D", "scikit-image"), ("LBP3D", "trimesh")])
def test_binary_patterns_need_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    path = write(tmp_path, f"imageType: {{{name}: {{}}}}")
    assert validate_params(path) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    [problem] = validate_params(path)
    assert f"imageType.{name}: needs the package {package}" in problem


def test_all_mistakes_come_at_once(tmp_path: Path) -> None:
    problems = validate_params(write(tmp_path, "setting: {label: 1, binWidth: -1}\nfeatureClass: {glcm: [A, Id]}"))
    assert [problem.split(":")[0] for problem in problems] == [
        "setting.label",
        "setting.binWidth",
        "featureClass.glcm",
    ]


def test_a_missing_file_is_said_without_its_folder(tmp_path: Path) -> None:
    problems = validate_params(tmp_path / "absent.yaml")
    assert problems == ["the file can't be read: No such file or directory"]


def test_defaults_are_those_of_pyradiomics_without_a_file(tmp_path: Path) -> None:
    params = read_params(write(tmp_path, ""))
    assert params.image_types == {"Original": {}}
    assert list(params.features) == [name for name in FEATURES if name != "shape2D"]


def test_an_empty_value_means_the_default(tmp_path: Path) -> None:
    text = "setting: {binWidth: null, interpolator: null}\nimageType: {Original: }\nfeatureClass: {ngtdm: }"
    params = read_params(write(tmp_path, text))
    assert params == FeatureParams({}, {"Original": {}}, {"ngtdm": FEATURES["ngtdm"]})


def test_numbers_mean_what_they_mean_to_pyradiomics(tmp_path: Path) -> None:
    # YAML 1.1 would read the first as text and the second as true.
    assert read_params(write(tmp_path, "setting: {binWidth: 1e1}")).setting == {"binWidth": 10.0}
    assert "not 'yes'" in validate_params(write(tmp_path, "setting: {normalize: yes}"))[0]


def test_a_json_file_will_do(tmp_path: Path) -> None:
    params = read_params(
        write(tmp_path, '{"setting": {"binCount": 32}, "featureClass": {"glcm": ["Idm", "Id", "Idm"]}}')
    )
    assert params.setting == {"binCount": 32}
    assert params.features == {"glcm": ("Idm", "Id")}


def test_the_check_imports_neither_radiomics_nor_numpy(repo: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from radloom.feature_params import validate_params;"
        "assert validate_params(Path(sys.argv[1])) == [];"
        "assert not {'radiomics', 'numpy', 'SimpleITK'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(repo / "config" / "pyradiomics.yaml")], check=True)
