"""Parameter files in PyRadiomics' own format: what may stand in them here, and which feature columns follow
from them.

Imports neither NumPy nor `radiomics`, so that a configuration is checked in milliseconds before the first
job. The tests hold the names below against those that the installed PyRadiomics offers.
"""

from __future__ import annotations

import difflib
import importlib.util
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from radloom.errors import CohortError

Engine = Literal["radloom", "pyradiomics"]

# What PyRadiomics computes when a class is enabled as a whole, in the order in which it does.
FEATURES: dict[str, tuple[str, ...]] = {
    "firstorder": (
        "10Percentile",
        "90Percentile",
        "Energy",
        "Entropy",
        "InterquartileRange",
        "Kurtosis",
        "Maximum",
        "MeanAbsoluteDeviation",
        "Mean",
        "Median",
        "Minimum",
        "Range",
        "RobustMeanAbsoluteDeviation",
        "RootMeanSquared",
        "Skewness",
        "TotalEnergy",
        "Uniformity",
        "Variance",
    ),
    "glcm": (
        "Autocorrelation",
        "ClusterProminence",
        "ClusterShade",
        "ClusterTendency",
        "Contrast",
        "Correlation",
        "DifferenceAverage",
        "DifferenceEntropy",
        "DifferenceVariance",
        "Id",
        "Idm",
        "Idmn",
        "Idn",
        "Imc1",
        "Imc2",
        "InverseVariance",
        "JointAverage",
        "JointEnergy",
        "JointEntropy",
        "MCC",
        "MaximumProbability",
        "SumAverage",
        "SumEntropy",
        "SumSquares",
    ),
    "gldm": (
        "DependenceEntropy",
        "DependenceNonUniformity",
        "DependenceNonUniformityNormalized",
        "DependenceVariance",
        "GrayLevelNonUniformity",
        "GrayLevelVariance",
        "HighGrayLevelEmphasis",
        "LargeDependenceEmphasis",
        "LargeDependenceHighGrayLevelEmphasis",
        "LargeDependenceLowGrayLevelEmphasis",
        "LowGrayLevelEmphasis",
        "SmallDependenceEmphasis",
        "SmallDependenceHighGrayLevelEmphasis",
        "SmallDependenceLowGrayLevelEmphasis",
    ),
    "glrlm": (
        "GrayLevelNonUniformity",
        "GrayLevelNonUniformityNormalized",
        "GrayLevelVariance",
        "HighGrayLevelRunEmphasis",
        "LongRunEmphasis",
        "LongRunHighGrayLevelEmphasis",
        "LongRunLowGrayLevelEmphasis",
        "LowGrayLevelRunEmphasis",
        "RunEntropy",
        "RunLengthNonUniformity",
        "RunLengthNonUniformityNormalized",
        "RunPercentage",
        "RunVariance",
        "ShortRunEmphasis",
        "ShortRunHighGrayLevelEmphasis",
        "ShortRunLowGrayLevelEmphasis",
    ),
    "glszm": (
        "GrayLevelNonUniformity",
        "GrayLevelNonUniformityNormalized",
        "GrayLevelVariance",
        "HighGrayLevelZoneEmphasis",
        "LargeAreaEmphasis",
        "LargeAreaHighGrayLevelEmphasis",
        "LargeAreaLowGrayLevelEmphasis",
        "LowGrayLevelZoneEmphasis",
        "SizeZoneNonUniformity",
        "SizeZoneNonUniformityNormalized",
        "SmallAreaEmphasis",
        "SmallAreaHighGrayLevelEmphasis",
        "SmallAreaLowGrayLevelEmphasis",
        "ZoneEntropy",
        "ZonePercentage",
        "ZoneVariance",
    ),
    "ngtdm": ("Busyness", "Coarseness", "Complexity", "Contrast", "Strength"),
    "shape": (
        "Elongation",
        "Flatness",
        "LeastAxisLength",
        "MajorAxisLength",
        "Maximum2DDiameterColumn",
        "Maximum2DDiameterRow",
        "Maximum2DDiameterSlice",
        "Maximum3DDiameter",
        "MeshVolume",
        "MinorAxisLength",
        "Sphericity",
        "SurfaceArea",
        "SurfaceVolumeRatio",
        "VoxelVolume",
    ),
    "shape2D": (
        "Elongation",
        "MajorAxisLength",
        "MaximumDiameter",
        "MeshSurface",
        "MinorAxisLength",
        "Perimeter",
        "PerimeterSurfaceRatio",
        "PixelSurface",
        "Sphericity",
    ),
}

# Deprecated features which PyRadiomics still computes when they are asked for by name.
ON_REQUEST: dict[str, tuple[str, ...]] = {
    "firstorder": ("StandardDeviation",),
    "shape": ("Compactness1", "Compactness2", "SphericalDisproportion"),
    "shape2D": ("SphericalDisproportion",),
}

# Names which PyRadiomics still accepts, but for which it returns nothing; and what to ask for instead.
REMOVED: dict[tuple[str, str], str] = {
    ("glcm", "Dissimilarity"): "it equals DifferenceAverage",
    ("glcm", "Homogeneity1"): "it equals Id",
    ("glcm", "Homogeneity2"): "it equals Idm",
    ("glcm", "SumVariance"): "it equals ClusterTendency",
    ("gldm", "GrayLevelNonUniformityNormalized"): "it equals Uniformity of firstorder",
    ("gldm", "DependencePercentage"): "it is always 1",
}

SHAPE_CLASSES = ("shape", "shape2D")

IMAGE_TYPES = (
    "Original",
    "Wavelet",
    "LoG",
    "Square",
    "SquareRoot",
    "Logarithm",
    "Exponential",
    "Gradient",
    "LBP2D",
    "LBP3D",
)


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _positive(value: object) -> bool:
    return _number(value) and value > 0  # type: ignore[operator]


def _whole(low: int, high: int | None = None) -> Callable[[object], bool]:
    def check(value: object) -> bool:
        return (
            isinstance(value, int) and not isinstance(value, bool) and value >= low and (high is None or value <= high)
        )

    return check


def _list_of(check: Callable[[object], bool], most: int | None = None) -> Callable[[object], bool]:
    def check_list(value: object) -> bool:
        return isinstance(value, list) and 0 < len(value) <= (most or len(value)) and all(check(item) for item in value)

    return check_list


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _wavelet(value: object) -> bool:
    import pywt

    return isinstance(value, str) and value in pywt.wavelist(kind="discrete")


def _one_of(*values: str) -> Callable[[object], bool]:
    return lambda value: value in values


_Rule = tuple[Callable[[object], bool], str]
_BOOLEAN: _Rule = (_boolean, "true or false")
_POSITIVE: _Rule = (_positive, "a number above 0")
_FROM_0: _Rule = (_whole(0), "a whole number of at least 0")
_FROM_1: _Rule = (_whole(1), "a whole number of at least 1")

# PyRadiomics' settings with the values that it accepts.
SETTINGS: dict[str, _Rule] = {
    "minimumROIDimensions": (_whole(1, 3), "1, 2 or 3"),
    "minimumROISize": _FROM_1,
    "geometryTolerance": _POSITIVE,
    "correctMask": _BOOLEAN,
    "additionalInfo": _BOOLEAN,
    "binWidth": _POSITIVE,
    "binCount": _FROM_1,
    "normalize": _BOOLEAN,
    "normalizeScale": _POSITIVE,
    "removeOutliers": _POSITIVE,
    "padDistance": _FROM_0,
    "distances": (_list_of(_whole(1)), "a list of whole numbers of at least 1"),
    "force2D": _BOOLEAN,
    "force2Ddimension": (_whole(0, 2), "0, 1 or 2"),
    "resegmentRange": (_list_of(_number, 2), "a list of one or two numbers"),
    "resegmentMode": (_one_of("absolute", "relative", "sigma"), "absolute, relative or sigma"),
    "resegmentShape": _BOOLEAN,
    "preCrop": _BOOLEAN,
    "sigma": (_list_of(_positive), "a list of numbers above 0"),
    "start_level": _FROM_0,
    "level": _FROM_1,
    "wavelet": (_wavelet, "the name of a discrete wavelet of PyWavelets"),
    "gradientUseSpacing": _BOOLEAN,
    "lbp2DRadius": _POSITIVE,
    "lbp2DSamples": _FROM_1,
    "lbp2DMethod": (_one_of("default", "ror", "uniform", "var"), "default, ror, uniform or var"),
    "lbp3DLevels": _FROM_1,
    "lbp3DIcosphereRadius": _POSITIVE,
    "lbp3DIcosphereSubdivision": _FROM_0,
    "voxelArrayShift": (_whole(-(10**6)), "a whole number"),
    "symmetricalGLCM": _BOOLEAN,
    "weightingNorm": (
        _one_of("euclidean", "manhattan", "infinity", "no_weighting"),
        "euclidean, manhattan, infinity or no_weighting",
    ),
    "gldm_a": _FROM_0,
}

# What image types need beyond PyRadiomics' own requirements: module and package.
_PACKAGES = {"LBP2D": ("skimage", "scikit-image"), "LBP3D": ("trimesh", "trimesh")}

# Settings of PyRadiomics which another step of the workflow owns.
REFUSED: dict[str, str] = {
    "resampledPixelSpacing": "the image would be resampled twice; remove it, and set `resample.spacing` "
    "in the configuration",
    "interpolator": "the image is already resampled; remove it, and set `resample.interpolator` in the configuration",
    "label": "ROIs are chosen by name; remove it, and set `segment.labels` and `extract.rois` in the configuration",
    "label_channel": "masks have one channel here; remove it, and set `segment.labels` in the configuration",
}

# Settings with which a feature isn't the one that IBSI defines: the value that it takes, and why.
IBSI_SETTINGS: dict[str, tuple[Any, str]] = {
    "voxelArrayShift": (0, "IBSI's energy and root mean square are of the HU as they are"),
    "symmetricalGLCM": (True, "IBSI's co-occurrence matrices are symmetric"),
    "resegmentShape": (False, "IBSI's morphological mask is not re-segmented"),
}


@dataclass(frozen=True)
class FeatureParams:
    """A parameter file as it is used: settings that were given, image types with their own settings, features
    by class.

    ibsi: by IBSI's definitions where PyRadiomics departs from them, see `radloom.ibsi`.
    outlier_sigma: with `ibsi`, outlier re-segmentation beside `resegmentRange`.
    engine: what computes: `radloom` (PyRadiomics' numbers by `radloom.features`) or `pyradiomics` (itself).
    """

    setting: Mapping[str, Any]
    image_types: Mapping[str, Mapping[str, Any]]
    features: Mapping[str, tuple[str, ...]]
    ibsi: bool = False
    outlier_sigma: float | None = None
    engine: Engine = "radloom"

    def effective(self, image_type: str) -> dict[str, Any]:
        """The settings that hold for an image type: the common ones, overridden by its own."""
        return {**self.setting, **self.image_types[image_type]}


def validate_params(path: Path, ibsi: bool = False) -> list[str]:
    """Everything that is wrong with a parameter file (for features by IBSI's definitions), one sentence each; empty
    when it can be used.
    """
    return _parse(path, ibsi)[1]


def read_params(
    path: Path, ibsi: bool = False, outlier_sigma: float | None = None, engine: Engine = "radloom"
) -> FeatureParams:
    """Read a parameter file; raises CohortError that lists everything that is wrong with it."""
    if outlier_sigma is not None and not ibsi:
        raise CohortError("`outlier_sigma` needs `ibsi: true`: PyRadiomics has one re-segmentation only")
    if ibsi and engine == "pyradiomics":
        raise CohortError("`ibsi: true` needs `engine: radloom`: PyRadiomics can't bin as IBSI does")
    params, problems = _parse(path, ibsi)
    if params is None:
        raise CohortError(f"the PyRadiomics parameter file {path.name} can't be used:\n" + "\n".join(problems))
    return replace(params, outlier_sigma=outlier_sigma, engine=engine)


def feature_columns(params: FeatureParams) -> list[str]:
    """Names of the feature columns, in PyRadiomics' order: shape first, then image type by image type, class
    by class.
    """
    columns = [f"original_{name}_{feature}" for name in SHAPE_CLASSES for feature in params.features.get(name, ())]
    for image_type in params.image_types:
        for image in image_names(image_type, params.effective(image_type)):
            for name, features in params.features.items():
                if name not in SHAPE_CLASSES:
                    columns += [f"{image}_{name}_{feature}" for feature in features]
    return columns


def map_features(names: Sequence[str], params: FeatureParams) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """What to compute voxel by voxel: by image type the columns of each class; and what is wrong with `names`.

    A name is a column (`wavelet-LLH_glcm_Contrast`), or class and feature of the original image (`glcm_Contrast`).
    Shape has no maps, and an image type must be one of the parameter file's, whose settings it takes.
    """
    types = {"original": "Original"}
    for image_type in params.image_types:
        types |= dict.fromkeys(image_names(image_type, params.effective(image_type)), image_type)
    classes = {name: (*features, *ON_REQUEST.get(name, ())) for name, features in FEATURES.items()}
    known = [f"{name}_{feature}" for name, features in classes.items() for feature in features]
    found: dict[str, dict[str, list[str]]] = {}
    problems: list[str] = []
    for given in dict.fromkeys(names):
        image, _, rest = given.partition("_") if given.count("_") > 1 else ("original", "", given)
        name = rest.partition("_")[0]
        if image not in types:
            problems.append(f"{given}: the parameter file makes no image {image}{_suggest(image, list(types))}")
        elif rest not in known:
            problems.append(f"{given}: unknown feature{_suggest(rest, known)}")
        elif name in SHAPE_CLASSES:
            problems.append(f"{given}: shape is a feature of the whole ROI, it has no map")
        else:
            columns = found.setdefault(types[image], {}).setdefault(name, [])
            columns += [column for column in [f"{image}_{rest}"] if column not in columns]
    return found, problems


def image_names(image_type: str, setting: Mapping[str, Any]) -> list[str]:
    """The images which PyRadiomics derives for an image type under the given settings, as it names them in
    the columns.
    """
    if image_type == "LoG":
        widths = dict.fromkeys(str(sigma).replace(".", "-") for sigma in setting["sigma"])
        return [f"log-sigma-{width}-mm-3D" for width in widths]
    if image_type == "Wavelet":
        axes = 2 if setting.get("force2D") else 3
        bands = ["".join(letters) for letters in itertools.product("LH", repeat=axes)]
        levels = int(setting.get("level", 1))
        names = [f"wavelet{'' if level == 1 else level}-{band}" for level in range(1, levels + 1) for band in bands[1:]]
        return [*names, f"wavelet{'' if levels == 1 else levels}-{bands[0]}"]
    if image_type == "LBP2D":
        return ["lbp-2D"]
    if image_type == "LBP3D":
        return [f"lbp-3D-m{level + 1}" for level in range(int(setting.get("lbp3DLevels", 2)))] + ["lbp-3D-k"]
    return [image_type.lower()]


def _parse(path: Path, ibsi: bool) -> tuple[FeatureParams | None, list[str]]:
    # The parser that PyRadiomics uses as well (YAML 1.2, of which JSON is a part), so that a value means the
    # same to both.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return None, [f"the file can't be read: {error.strerror if isinstance(error, OSError) else 'not UTF-8'}"]
    except YAMLError as error:
        return None, [f"the file is not valid YAML: {' '.join(str(error).split())}"]
    content = {} if content is None else content
    if not isinstance(content, dict):
        return None, ["the file must hold the sections setting, imageType and featureClass"]
    problems: list[str] = []
    sections: dict[str, dict[Any, Any]] = {}
    for key, value in content.items():
        if key == "voxelSetting":
            problems.append("voxelSetting: voxel-based extraction is not part of this step; remove the section")
        elif key not in ("setting", "imageType", "featureClass"):
            problems.append(f"{key}: unknown section{_suggest(key, ['setting', 'imageType', 'featureClass'])}")
        elif value is not None and not isinstance(value, dict):
            problems.append(f"{key}: must be a mapping of names to values")
        else:
            sections[key] = value or {}
    setting = _check_settings("setting", sections.get("setting", {}), problems)
    image_types = _check_image_types(sections.get("imageType", {}), setting, problems)
    features = _check_features(sections.get("featureClass", {}), setting, problems)
    if ibsi:
        for where, own in {"setting": setting, **{f"imageType.{k}": v for k, v in image_types.items()}}.items():
            problems += [
                f"{where}.{key}: must be {str(wanted).lower()} with `extract.ibsi: true`: {why}"
                for key, (wanted, why) in IBSI_SETTINGS.items()
                if own.get(key, wanted) != wanted
            ]
    if problems:
        return None, problems
    return FeatureParams(setting, image_types, features, ibsi), []


def _suggest(word: object, known: list[str]) -> str:
    close = {name.lower(): name for name in known}
    found = difflib.get_close_matches(str(word).lower(), close, n=1)
    return f"; did you mean {close[found[0]]}?" if found else f"; known are {', '.join(known)}"


def _check_settings(where: str, given: dict[Any, Any], problems: list[str]) -> dict[str, Any]:
    setting: dict[str, Any] = {}
    for key, value in given.items():
        if value is None:
            # In PyRadiomics an empty value hides the default and fails later (binWidth) or is the default.
            continue
        if key in REFUSED:
            problems.append(f"{where}.{key}: {REFUSED[key]}")
        elif key not in SETTINGS:
            problems.append(f"{where}.{key}: unknown setting{_suggest(key, list(SETTINGS))}")
        else:
            check, meaning = SETTINGS[key]
            if check(value):
                setting[key] = value
            else:
                problems.append(f"{where}.{key}: must be {meaning}, not {value!r}")
    return setting


def _check_image_types(
    given: dict[Any, Any], setting: dict[str, Any], problems: list[str]
) -> dict[str, dict[str, Any]]:
    if not given:
        return {"Original": {}}
    image_types: dict[str, dict[str, Any]] = {}
    for name, own in given.items():
        where = f"imageType.{name}"
        if name not in IMAGE_TYPES:
            problems.append(f"{where}: unknown image type{_suggest(name, list(IMAGE_TYPES))}")
            continue
        if own is not None and not isinstance(own, dict):
            problems.append(f"{where}: must be a mapping of settings ({{}} for none)")
            continue
        image_types[name] = _check_settings(where, own or {}, problems)
        if name == "LoG" and "sigma" not in {**setting, **image_types[name]}:
            problems.append(f"{where}: needs `sigma`, a list of filter widths in mm")
        module, package = _PACKAGES.get(name, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            problems.append(f"{where}: needs the package {package}, which is not installed (see envs/requirements.txt)")
    return image_types


def _check_features(given: dict[Any, Any], setting: dict[str, Any], problems: list[str]) -> dict[str, tuple[str, ...]]:
    if not given:
        # As PyRadiomics without a parameter file: everything but the features of single-slice ROIs.
        return {name: features for name, features in FEATURES.items() if name != "shape2D"}
    enabled: dict[str, tuple[str, ...]] = {}
    for name, wanted in given.items():
        where = f"featureClass.{name}"
        if name not in FEATURES:
            problems.append(f"{where}: unknown feature class{_suggest(name, list(FEATURES))}")
            continue
        if name == "shape2D" and not setting.get("force2D"):
            problems.append(f"{where}: is for ROIs of one slice and needs `force2D: true`; use `shape` for volumes")
        if wanted is not None and not isinstance(wanted, list):
            problems.append(f"{where}: must be a list of feature names ([] for all of them)")
            continue
        known = [*FEATURES[name], *ON_REQUEST.get(name, ())]
        for feature in wanted or []:
            if not isinstance(feature, str):
                problems.append(f"{where}: {feature!r} is not the name of a feature")
            elif (name, feature) in REMOVED:
                problems.append(f"{where}: {feature} is no longer computed by PyRadiomics; {REMOVED[name, feature]}")
            elif feature not in known:
                problems.append(f"{where}: unknown feature {feature}{_suggest(feature, known)}")
        named = [feature for feature in wanted or [] if isinstance(feature, str)]
        enabled[name] = tuple(dict.fromkeys(named)) or FEATURES[name]
    return enabled
