"""IBSI 1 through our own steps: every consensus value of a feature that PyRadiomics has, and what we get.

`python tests/helpers/ibsi_conformance.py` writes docs/ibsi.md from it (`make docs`); tests/radloom/test_ibsi.py asserts
it.
"""

from __future__ import annotations

import csv
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from radloom.calibrate import Calibration, calibrate_image
from radloom.extract import extract_features
from radloom.feature_params import FEATURES, ON_REQUEST, FeatureParams
from radloom.features.discretise import fixed_bin_number, fixed_bin_size
from radloom.ibsi import AXIS_LENGTHS, EXCESS, ibsi_values, intensity_range
from radloom.images import Array, Geometry, Volume, bounding_box, from_sitk, to_sitk
from radloom.resample import Interpolator, resample_image, resample_mask

REPO = Path(__file__).resolve().parents[2]
DATA = REPO.parent / "shared" / "data" / "ibsi"
PAGE = REPO / "docs" / "ibsi.md"

CLASSES = {
    name: (*features, *ON_REQUEST[name]) if name == "shape" else features
    for name, features in FEATURES.items()
    if name != "shape2D"
}
TEXTURES = {name: features for name, features in CLASSES.items() if name != "shape"}
MATRICES = {name: CLASSES[name] for name in ("glcm", "glrlm")}  # the classes with a matrix a direction


@dataclass(frozen=True)
class Configuration:
    """One of IBSI's: how the image is made, and the settings with which features are extracted from it."""

    name: str
    what: str
    phantom: str
    reference: str
    mapping: str
    setting: Mapping[str, Any]
    outlier_sigma: float | None = None
    spacing: tuple[float, float, float] | None = None  # None: not resampled, nor rounded
    interpolator: Interpolator = "linear"
    dimensions: tuple[str, ...] = ("3D",)
    stock: Mapping[str, Any] = field(default_factory=dict)


CONFIGURATIONS = (
    Configuration(
        "phantom",
        "digital phantom, grey levels as they are",
        "digital_phantom",
        "ibsi_1_dig_phantom.csv",
        "mapping_phantom.csv",
        {"binWidth": 1},
        dimensions=("2D", "3D"),
    ),
    Configuration(
        "A",
        "not resampled; range [-500, 400]; bins of 25 HU; in 2D",
        "ct_phantom",
        "ibsi_1_chest_config_a.csv",
        "mapping_case1.csv",
        {"resegmentRange": [-500, 400], "binWidth": 25},
        spacing=(0, 0, 0),
        dimensions=("2D",),
    ),
    Configuration(
        "B",
        "bilinear to 2 x 2 mm; range [-500, 400]; 32 bins; in 2D",
        "ct_phantom",
        "ibsi_1_chest_config_b.csv",
        "mapping_case2.csv",
        {"resegmentRange": [-500, 400], "binCount": 32},
        spacing=(2, 2, 0),
        dimensions=("2D",),
        stock={"interpolator": "sitkLinear", "resampledPixelSpacing": [2, 2, 0]},
    ),
    Configuration(
        "C",
        "trilinear to 2 mm; range [-1000, 400]; bins of 25 HU",
        "ct_phantom",
        "ibsi_1_chest_config_c.csv",
        "mapping_case3.csv",
        {"resegmentRange": [-1000, 400], "binWidth": 25},
        spacing=(2, 2, 2),
        stock={"interpolator": "sitkLinear", "resampledPixelSpacing": [2, 2, 2]},
    ),
    Configuration(
        "D",
        "trilinear to 2 mm; within 3 sigma; 32 bins",
        "ct_phantom",
        "ibsi_1_chest_config_d.csv",
        "mapping_case4.csv",
        {"resegmentRange": [-3, 3], "resegmentMode": "sigma", "binCount": 32},
        spacing=(2, 2, 2),
        stock={"interpolator": "sitkLinear", "resampledPixelSpacing": [2, 2, 2]},
    ),
    Configuration(
        "E",
        "tricubic spline to 2 mm; range [-1000, 400] and within 3 sigma; 32 bins",
        "ct_phantom",
        "ibsi_1_chest_config_e.csv",
        "mapping_case5.csv",
        {"resegmentRange": [-1000, 400], "binCount": 32},
        outlier_sigma=3,
        spacing=(2, 2, 2),
        interpolator="bspline",
        stock={"interpolator": "sitkBSpline", "resampledPixelSpacing": [2, 2, 2]},
    ),
)

# Why a value of ours is not the consensus, by (configuration, tag): a derivation or a citation.
REASONS: dict[tuple[str, str], str] = {}


@dataclass(frozen=True)
class Row:
    """One consensus value and ours. `feature` is PyRadiomics', with how its matrices are aggregated before it."""

    configuration: str
    tag: str
    feature: str
    value: float
    consensus: str
    tolerance: str

    @property
    def rounded(self) -> float:
        """Our value with the digits that the consensus is printed with: three, or more where more are printed."""
        digits = max(3, len(re.sub(r"e.*|[^0-9]", "", self.consensus.lower()).strip("0")))
        return float(f"{self.value:.{digits - 1}e}")

    @property
    def same_digits(self) -> bool:
        return self.rounded == float(self.consensus)

    @property
    def passes(self) -> bool:
        """Whether our value with the consensus' digits is within the tolerance."""
        reference = float(self.consensus)
        return abs(self.rounded - reference) <= float(self.tolerance or 0) + 1e-9 * abs(reference)

    @property
    def reason(self) -> str:
        return REASONS.get((self.configuration, self.tag), "")


@dataclass(frozen=True)
class Case:
    """The image and masks of a configuration after each of IBSI's steps."""

    first_image: Volume
    first_mask: Volume
    image: Volume
    mask: Volume
    intensity_mask: Array


def prepare(configuration: Configuration, data: Path = DATA, round_hu: bool = True) -> Case:
    """Read a phantom, and bring it to the configuration's grid by the functions of the steps resample and calibrate."""
    import SimpleITK as sitk

    image, mask = (
        from_sitk(sitk.ReadImage(str(data / configuration.phantom / f"{name}.nii.gz"))) for name in ("image", "mask")
    )
    # The CT phantom is float, as whole numbers.
    image = Volume(np.rint(image.array).astype(np.int16), image.geometry)
    mask = Volume((mask.array > 0).astype(np.uint8), mask.geometry)
    made, made_mask = image, mask
    if configuration.spacing is not None:
        made = resample_image(image, configuration.spacing, configuration.interpolator)
        made = calibrate_image(made, Calibration("none"), round_hu=round_hu)[0]
        made_mask = resample_mask(mask, configuration.spacing)[0]
    inside = made_mask.array > 0
    low, high = intensity_range(made.array[inside], configuration.setting, configuration.outlier_sigma)
    return Case(image, mask, made, made_mask, inside & (made.array >= low) & (made.array <= high))


def diagnostics(case: Case) -> dict[str, float]:
    """IBSI's values of image and masks (tags `img_dim_x_init_img`...) along the chain."""
    values: dict[str, float] = {}
    for stage, image in (("init", case.first_image), ("interp", case.image)):
        for axis, size, spacing in zip("xyz", image.geometry.size, image.geometry.spacing, strict=True):
            values[f"img_dim_{axis}_{stage}_img"] = size
            values[f"vox_dim_{axis}_{stage}_img"] = spacing
        for name, of in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            values[f"{name}_int_{stage}_img"] = float(of(image.array))
    first, last = case.first_mask.array > 0, case.mask.array > 0
    masks = (
        ("init", case.first_image, first, first),
        ("interp", case.image, last, last),
        ("reseg", case.image, last, case.intensity_mask),
    )
    for stage, image, morphological, intensity in masks:
        for kind, mask in (("morph", morphological), ("int", intensity)):
            box = bounding_box(mask)
            assert box is not None
            for axis, part, size in zip("zyx", box, mask.shape, strict=True):
                values[f"{kind}_mask_bb_dim_{axis}_{stage}_roi"] = part.stop - part.start
                values[f"{kind}_mask_dim_{axis}_{stage}_roi"] = size
            values[f"{kind}_mask_vox_count_{stage}_roi"] = int(mask.sum())
        for name, of in (("mean", np.mean), ("min", np.min), ("max", np.max)):
            values[f"int_mask_{name}_int_{stage}_roi"] = float(of(image.array[intensity]))
    return values


def extracted(
    image: Volume,
    mask: Volume,
    classes: Mapping[str, tuple[str, ...]],
    setting: Mapping[str, Any],
    ibsi: bool = True,
    outlier_sigma: float | None = None,
) -> dict[str, float]:
    """Features of one ROI by the function of the step extract: `original_<class>_<Feature>`."""
    params = FeatureParams(setting, {"Original": {}}, classes, ibsi, outlier_sigma if ibsi else None)
    found = extract_features(image, mask, {1: "ROI"}, params)
    return dict(zip(found.columns, found.rows["ROI"], strict=True))


def features(configuration: Configuration, case: Case, ibsi: bool = True, slices: bool = True) -> dict[str, float]:
    """All features under the names of IBSI's maps: 2D_ or 3D_, Combined_ for merged directions, then PyRadiomics'.

    `slices` adds what PyRadiomics has no setting for, with Slice_ in place of 2D_: the mean over the slices.
    """
    values: dict[str, float] = {}
    for dimension in configuration.dimensions:
        flat = {"force2D": dimension == "2D"}
        for prefix, classes, more in (
            (f"{dimension}_", CLASSES, {}),
            (f"{dimension}_Combined_", MATRICES, {"weightingNorm": "no_weighting"}),
        ):
            setting = {**configuration.setting, **flat, **more}
            found = extracted(case.image, case.mask, classes, setting, ibsi, configuration.outlier_sigma)
            values |= {prefix + name: value for name, value in found.items()}
    if slices and "2D" in configuration.dimensions:
        values |= slice_features(levels(configuration, case), case.intensity_mask)
    return values


def levels(configuration: Configuration, case: Case) -> Volume:
    """The image's grey levels in the intensity mask by IBSI's formulas, 0 elsewhere."""
    values = case.image.array[case.intensity_mask]
    if "binCount" in configuration.setting:
        level = fixed_bin_number(values, configuration.setting["binCount"])
    else:
        first = configuration.setting.get("resegmentRange", [values.min()])[0]
        level = fixed_bin_size(values, configuration.setting["binWidth"], first)
    result = np.zeros(case.image.array.shape, np.int16)
    result[case.intensity_mask] = level
    return Volume(result, case.image.geometry)


def slice_features(level: Volume, mask: Array) -> dict[str, float]:
    """Texture features of each slice alone, of grey levels that were made in the whole ROI; their mean.

    The inverse differences are normalised by the number of grey levels, which is the ROI's also in a slice that has
    fewer. PyRadiomics takes the highest level that it sees: for its co-occurrence matrices the slice gets a lone voxel
    of the ROI's highest level, which has no neighbour and so no part in any matrix.
    """
    highest = int(level.array.max())
    sums: dict[str, list[float]] = {}
    for z in np.flatnonzero(mask.any(axis=(1, 2))):
        values, inside = (np.pad(array[z : z + 1], ((0, 0), (2, 0), (2, 0))) for array in (level.array, mask))
        alone = _plane(values, inside)
        values[0, 0, 0], inside[0, 0, 0] = highest, True
        with_highest = _plane(values, inside)
        setting = {"force2D": True, "binWidth": 1, "resegmentRange": [1, highest], "minimumROIDimensions": 1}
        for prefix, planes, classes, more in (
            ("Slice_", alone, {name: TEXTURES[name] for name in TEXTURES if name != "glcm"}, {}),
            ("Slice_", with_highest, {"glcm": CLASSES["glcm"]}, {}),
            ("Slice_Combined_", alone, {"glrlm": CLASSES["glrlm"]}, {"weightingNorm": "no_weighting"}),
            ("Slice_Combined_", with_highest, {"glcm": CLASSES["glcm"]}, {"weightingNorm": "no_weighting"}),
        ):
            found = extracted(*planes, classes, {**setting, **more})
            for name, value in found.items():
                sums.setdefault(prefix + name, []).append(value)
    return {name: float(np.mean(each)) for name, each in sums.items()}


def _plane(values: Array, inside: Array) -> tuple[Volume, Volume]:
    geometry = Geometry((values.shape[2], values.shape[1], 1), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    return Volume(values.copy(), geometry), Volume(inside.astype(np.uint8), geometry)


def reference_values(configuration: Configuration, data: Path = DATA) -> dict[str, tuple[str, str]]:
    """Consensus value and tolerance by tag, those without a consensus left out."""
    with open(data / "reference_values" / configuration.reference, encoding="utf-8-sig") as file:
        lines = list(csv.DictReader(file, delimiter=";"))
    return {line["tag"]: (line["reference value"], line["tolerance"]) for line in lines if line["reference value"]}


def feature_names(configuration: Configuration, data: Path = DATA) -> dict[str, str]:
    """The feature of each tag: the maps of ../shared/data/ibsi, and the mean over slices, which they leave out.

    Shape and first order don't know `force2D`; the map of configuration C calls some of them 2D and some 3D.
    """
    with open(data / configuration.mapping, encoding="utf-8") as file:
        names = {line["tag"]: line["pyradiomics_feature"] for line in csv.DictReader(file)}
    dimension = configuration.dimensions[0]
    names = {tag: re.sub("^[23]D(?=_original_(shape|firstorder))", dimension, name) for tag, name in names.items()}
    names |= {
        tag.replace("_2_5D", "_2D"): re.sub("^2D_", "Slice_", name) for tag, name in names.items() if "_2_5D" in tag
    }
    return names


def compare(configuration: Configuration, data: Path = DATA) -> list[Row]:
    """Every consensus value of a configuration for which PyRadiomics has a feature, beside ours."""
    case = prepare(configuration, data)
    return _rows(configuration, {**features(configuration, case), **diagnostics(case)}, data)


def _rows(configuration: Configuration, values: Mapping[str, float], data: Path) -> list[Row]:
    reference = reference_values(configuration, data)
    return [
        Row(configuration.name, tag, name, values[key], *reference[tag])
        for tag, name in feature_names(configuration, data).items()
        if tag in reference and (key := tag if "diagnostics" in name else name) in values
    ]


def stock_values(configuration: Configuration, data: Path = DATA) -> dict[str, float]:
    """PyRadiomics alone, image and mask as they are and the nearest settings that it has."""
    import radiomics
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(logging.CRITICAL)
    case = prepare(configuration, data)
    values: dict[str, float] = {}
    for dimension in configuration.dimensions:
        for prefix, classes, more in (("", CLASSES, {}), ("Combined_", MATRICES, {"weightingNorm": "no_weighting"})):
            setting = {**configuration.setting, **configuration.stock, **more, "force2D": dimension == "2D"}
            extractor = RadiomicsFeatureExtractor(additionalInfo=False, **setting)
            extractor.enabledFeatures = {name: list(wanted) for name, wanted in classes.items()}
            found = extractor.execute(to_sitk(case.first_image), to_sitk(case.first_mask), label=1)
            values |= {f"{dimension}_{prefix}{name}": float(value) for name, value in found.items()}
    return values


def summary(configuration: Configuration, data: Path = DATA) -> dict[str, Any]:
    """All that the page says of a configuration: our rows, and those without each of the things that close a gap.

    `plain` is our chain with `ibsi: false`, `stock` PyRadiomics alone, both on the values of PyRadiomics' own settings.
    """
    case = prepare(configuration, data)
    ours = features(configuration, case)
    plain = features(configuration, case, ibsi=False, slices=False)
    voxels = int((case.mask.array > 0).sum())
    without: dict[str, Mapping[str, float]] = {
        "kurtosis": {k: v + EXCESS if k.endswith("Kurtosis") else v for k, v in ours.items()},
        "axes": {k: v * math.sqrt(1 - 1 / voxels) if k.endswith(AXIS_LENGTHS) else v for k, v in ours.items()},
    }
    if configuration.outlier_sigma is None:
        without["bins"] = {name: _as_ibsi(name, value, voxels) for name, value in plain.items()}
    else:
        without["outliers"] = features(replace(configuration, outlier_sigma=None), case, slices=False)
    if configuration.stock:
        without["rounding"] = features(configuration, prepare(configuration, data, round_hu=False), slices=False)
        without["resampling"] = features(configuration, _pyradiomics_resampling(configuration, case), slices=False)
    rows = _rows(configuration, {**ours, **diagnostics(case)}, data)
    return {
        "rows": rows,
        "plain": _rows(configuration, plain, data),
        "stock": _rows(configuration, stock_values(configuration, data), data),
        "without": {name: _rows(configuration, values, data) for name, values in without.items()},
        "beyond": sorted(set(reference_values(configuration, data)) - {row.tag for row in rows}),
    }


def _as_ibsi(name: str, value: float, voxels: int) -> float:
    column = name[name.index("original_") :]
    return ibsi_values({column: value}, voxels)[column]


def _pyradiomics_resampling(configuration: Configuration, case: Case) -> Case:
    """The case on PyRadiomics' grid, with its nearest-neighbour mask; all else as ours."""
    from radiomics.imageoperations import resampleImage

    image, mask = resampleImage(
        to_sitk(case.first_image), to_sitk(case.first_mask), label=1, padDistance=5, **configuration.stock
    )
    return replace(case, image=from_sitk(image), mask=from_sitk(mask))


def page(data: Path = DATA) -> str:
    """The text of docs/ibsi.md."""
    found = {configuration.name: summary(configuration, data) for configuration in CONFIGURATIONS}
    rows = [row for one in found.values() for row in one["rows"]]
    failed = [row for row in rows if not row.passes]
    unexplained = [row for row in failed if not row.reason]
    lost = Counter(
        (name, configuration)
        for configuration, one in found.items()
        for name, others in one["without"].items()
        for row in others
        if not row.passes
    )
    lines = [
        _HEAD.format(
            rows=len(rows),
            passed=len(rows) - len(failed),
            same=sum(row.same_digits for row in rows),
            explained=len(failed) - len(unexplained),
            unexplained=len(unexplained),
        ),
        "| configuration | what | values compared | pass | explained | unexplained |",
        "|---|---|---|---|---|---|",
    ]
    for configuration in CONFIGURATIONS:
        mine = found[configuration.name]["rows"]
        bad = [row for row in mine if not row.passes]
        counts = [len(mine), len(mine) - len(bad), sum(bool(row.reason) for row in bad), sum(not r.reason for r in bad)]
        lines.append(f"| {configuration.name} | {configuration.what} | {' | '.join(map(str, counts))} |")
    lines += [_WHAT_CLOSES, "| what | configuration | values that fail without it |", "|---|---|---|"]
    for name, text in _CLOSERS.items():
        counted = [(c.name, lost[name, c.name]) for c in CONFIGURATIONS if name in found[c.name]["without"]]
        shown = [f"{count} ({where})" for where, count in counted if count]
        lines.append(f"| {text} | {', '.join(where for where, _ in counted)} | {', '.join(shown) or 'none'} |")
    lines += [
        _WITHOUT,
        "| configuration | values | `ibsi: true` | `ibsi: false` | PyRadiomics alone |",
        "|---|---|---|---|---|",
    ]
    for name, one in found.items():
        tags = {row.tag for row in one["stock"]}
        parts = [[r for r in one["rows"] if r.tag in tags], [r for r in one["plain"] if r.tag in tags], one["stock"]]
        lines.append(f"| {name} | {len(tags)} | {' | '.join(str(sum(r.passes for r in part)) for part in parts)} |")
    lines += [_AGGREGATION, *_beyond(found)]
    for configuration in CONFIGURATIONS:
        lines += [f"\n## {configuration.name}: {configuration.what}\n", *_table(found[configuration.name]["rows"])]
    return "\n".join(lines) + "\n"


def _table(rows: Iterable[Row]) -> list[str]:
    lines = ["| tag | feature | value | consensus | tolerance | |", "|---|---|---|---|---|---|"]
    for row in rows:
        feature = re.sub("^.*(original|diagnostics)_", "", row.feature)
        result = "pass" if row.passes else row.reason or "**unexplained**"
        lines.append(
            f"| `{row.tag}` | {feature} | {row.value:.6g} | {row.consensus} | {row.tolerance or '0'} | {result} |"
        )
    return lines


def _beyond(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """IBSI's features that PyRadiomics doesn't have, by family."""
    tags = {re.sub(r"_(2D|2_5D|3D)(_avg|_comb)?$", "", tag) for one in found.values() for tag in one["beyond"]}
    counts = ", ".join(f"{len(one['beyond'])} ({name})" for name, one in found.items())
    families: dict[str, list[str]] = {}
    for tag in sorted(tags):
        families.setdefault(tag.split("_")[0], []).append(f"`{tag}`")
    lines = [_BEYOND.format(counts=counts), "| family | tags |", "|---|---|"]
    names = {
        "dzm": "distance zone matrix",
        "ih": "intensity histogram",
        "ivh": "intensity-volume histogram",
        "loc": "local intensity",
        "morph": "morphology",
        "ngl": "neighbouring grey level dependence",
        "stat": "statistics",
    }
    return [*lines, *(f"| {names[family]} | {', '.join(each)} |" for family, each in families.items())]


_HEAD = """# IBSI 1

Written by `make docs` from `tests/helpers/ibsi_conformance.py`; `tests/radloom/test_ibsi.py` asserts the same.

With `extract: {{ibsi: true}}` the steps resample, calibrate and extract give the consensus values of the
[Image Biomarker Standardisation Initiative](https://doi.org/10.1148/radiol.2020191145). Of **{rows}** consensus values
of features that PyRadiomics has **{passed}** are within IBSI's tolerance, {explained} are not for a reason given here,
and **{unexplained}** are unexplained.

A value passes if, rounded to the digits that the consensus is printed with (three, or more where more are printed, as
of voxel counts), it differs from it by no more than IBSI's tolerance; a tolerance of 0 means the same digits. {same}
have the same digits. Values of the image and the masks along the chain count too.
"""

_WHAT_CLOSES = """
## What closes the gap

PyRadiomics departs from IBSI in these points. The last column counts the consensus values that fail when one of them
alone is put back to PyRadiomics' way.
"""

_CLOSERS = {
    "resampling": "resample: the new grid shares its centre with the image, not the corner of its first voxel; "
    "masks by linear interpolation, then >= 0.5, not by the nearest neighbour",
    "rounding": "calibrate: interpolated HU are rounded to whole HU, also where the image was stored as float",
    "bins": "extract: bins of a fixed size begin at the lower bound of the re-segmentation range, and keep their "
    "numbers; PyRadiomics' begin at a multiple of the width and are numbered from the lowest that occurs. "
    "A fixed number of bins by IBSI's formula",
    "outliers": "extract: range and outliers together (`extract.outlier_sigma`); PyRadiomics has one `resegmentMode`. "
    "The mean and standard deviation are of the whole ROI, and the two intervals' intersection holds "
    "([IBSI, re-segmentation](https://ibsi.readthedocs.io/en/latest/02_Image_processing.html#re-segmentation))",
    "kurtosis": "extract: `Kurtosis` is the excess, 3 less than PyRadiomics' (as its own documentation says)",
    "axes": "extract: axis lengths from the covariance over n - 1, not n. Of the 74 voxels of the digital phantom "
    "n - 1 gives 11.4, 9.31 and 8.54 mm, the digits of the consensus, and n 11.3, 9.24 and 8.48",
}

_WITHOUT = """
Shape is of the whole ROI, with and without `ibsi: true`.

On the values that PyRadiomics' own settings give (no mean over slices, no values of image and masks), this many pass:
"""

_AGGREGATION = """
## Aggregation

| tags that end with | what | PyRadiomics' settings |
|---|---|---|
| `_3D_avg` | a matrix a direction (13), features averaged | none |
| `_3D_comb` | the 13 matrices added, then features | `weightingNorm: no_weighting` |
| `_3D` | one matrix | none |
| `_2_5D_avg` | a matrix a direction (4) over all slices, features averaged | `force2D: true` |
| `_2_5D_comb` | the 4 matrices over all slices added, then features | `force2D: true`, `weightingNorm: no_weighting` |
| `_2_5D` | one matrix over all slices | `force2D: true` |
| `_2D_avg`, `_2D_comb`, `_2D` | the same of each slice by itself, averaged over the slices | each slice alone |

PyRadiomics has no setting for the last row, and `extract` offers none; here each slice is extracted by itself, on the
grey levels of the ROI. One thing is to know: `Idn` and `Idmn` are normalised by the number of grey levels, which IBSI
takes of the ROI and PyRadiomics of what it is given. In a slice that lacks the highest level they come out too low
(0.954 instead of 0.961 in A), so the comparison gives each slice a lone voxel of the ROI's highest level, which has no
neighbours.

Pairs of IBSI's features are one number by definition: `DifferenceAverage` is its difference average and dissimilarity,
`ClusterTendency` its cluster tendency and sum variance, and `Uniformity` of first order its intensity histogram
uniformity and the normalised grey level non-uniformity of the dependence matrix.

The mesh of PyRadiomics isn't always closed where voxels meet diagonally, so that its volume depends on where the box
begins: by 2e-4 (A) and 4e-4 (B) between the ROI's box, which counts here and in PyRadiomics, and the whole image.
"""

_BEYOND = """## What PyRadiomics doesn't have

Consensus values without a feature of PyRadiomics, and so without one here: {counts}.
"""


def main() -> None:
    if not DATA.is_dir():
        print(f"{PAGE.name} stays as it is: the IBSI data are not at ../shared/data/ibsi", file=sys.stderr)
        return
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
