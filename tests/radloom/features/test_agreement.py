"""Every feature of every class against stock PyRadiomics, on random ROIs, images and settings."""

import itertools
import logging
import math
from typing import Any

import numpy as np
import pytest
from agreement import disagreements
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from radloom.extract import extract_features
from radloom.feature_params import FEATURES, ON_REQUEST, FeatureParams
from radloom.features import compute_features
from radloom.features.discretise import discretise
from radloom.features.glcm import _matrices, _sums
from radloom.features.matrices import Levels, directions
from radloom.features.roi import make_roi
from radloom.images import Geometry, Volume, bounding_box, to_sitk

pytestmark = pytest.mark.filterwarnings("ignore")

ALL = {name: (*features, *ON_REQUEST.get(name, ())) for name, features in FEATURES.items() if name != "shape2D"}
# Eigenvalues of a matrix of probabilities are exact to about 1e-15; MCC is the root of one, and so good to 1e-12 where
# it is above 1e-3, and not at all where it is nothing but rounding.
SMALLEST_EIGENVALUE = 1e-6
# Entropies are exact to about 1e-15, and Imc2 is the root of a difference of two.
SMALLEST_GAIN = 1e-12


def stock(image: Volume, roi: Volume, label: int, setting: dict[str, Any]) -> dict[str, float]:
    import radiomics
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    radiomics.setVerbosity(60)
    extractor = RadiomicsFeatureExtractor(additionalInfo=False, minimumROIDimensions=1, **setting)
    extractor.disableAllFeatures()
    extractor.enableFeaturesByName(**{name: list(features) for name, features in ALL.items()})
    try:
        with np.errstate(all="ignore"):
            found = extractor.execute(to_sitk(image), to_sitk(roi), label=label)
    finally:
        radiomics.setVerbosity(logging.WARNING)
    return {name: float(value) for name, value in found.items()}


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Boolean (z, y, x): scattered voxels, solid boxes, a plane, shells with holes, several components."""
    shape = draw(hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=7))
    kind = draw(st.sampled_from(["scattered", "solid", "plane", "hollow", "two parts", "diagonal"]))
    mask = np.zeros(shape, bool)
    if kind == "scattered":
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        mask = rng.random(shape) < draw(st.sampled_from([0.1, 0.4, 0.8, 0.97]))
    elif kind == "solid":
        mask[:] = True
    elif kind == "plane":
        axis = draw(st.integers(0, 2))
        mask[tuple(slice(0, 1) if a == axis else slice(None) for a in range(3))] = True
    elif kind == "hollow":
        mask[:] = True
        mask[1:-1, 1:-1, 1:-1] = False
    elif kind == "two parts":
        mask[:1], mask[-1:] = True, True
    else:
        for k in range(min(shape)):
            mask[k, k, k] = True
    return mask


@st.composite
def cases(draw: st.DrawFn) -> tuple[Volume, Volume, int]:
    """Image and label volume (z, y, x) with or without a margin around the ROI, and the ROI's label number."""
    mask = draw(masks())
    margins = [(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(3)]
    mask = np.pad(mask, margins)
    label = draw(st.sampled_from([1, 2, 200]))
    other = 3
    roi = np.where(mask, label, np.where(np.indices(mask.shape).sum(0) % 5 == 0, other, 0)).astype(np.uint8)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["hu", "flat", "two-valued", "negative", "single", "double", "fine"]))
    if kind == "hu":
        image = rng.normal(40, 60, mask.shape).round().astype(np.int16)
    elif kind == "flat":
        image = np.full(mask.shape, draw(st.sampled_from([-1000, 0, 37])), np.int16)
    elif kind == "two-valued":
        image = rng.choice([-100, 60], mask.shape).astype(np.int16)
    elif kind == "negative":
        image = rng.integers(-1000, -700, mask.shape).astype(np.int32)
    elif kind == "fine":
        image = rng.choice([0.1, 0.2, 25.0, 49.999, 50.0], mask.shape)
    else:
        image = rng.normal(0, 90, mask.shape).astype(np.float32 if kind == "single" else np.float64)
    spacing = draw(st.sampled_from([(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (0.9765625, 1.1, 2.5)]))
    geometry = Geometry((mask.shape[2], mask.shape[1], mask.shape[0]), spacing, (0.0, 0.0, 0.0))
    return Volume(image, geometry), Volume(roi, geometry), label


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "binWidth": st.sampled_from([1, 5, 25, 12.5, 0.3]),
        "binCount": st.sampled_from([1, 2, 16]),
        "force2D": st.booleans(),
        "force2Ddimension": st.integers(0, 2),
        "distances": st.sampled_from([[1], [2], [1, 3]]),
        "weightingNorm": st.sampled_from(["euclidean", "manhattan", "infinity", "no_weighting"]),
        "symmetricalGLCM": st.booleans(),
        "gldm_a": st.integers(0, 3),
        "voxelArrayShift": st.sampled_from([0, 1000]),
    },
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases(), setting=SETTINGS)
def test_every_feature_agrees_with_pyradiomics(case: tuple[Volume, Volume, int], setting: dict[str, Any]) -> None:
    image, roi, label = case
    if setting.get("binCount"):
        setting.pop("binWidth", None)
    mask = roi.array == label
    box = bounding_box(mask)
    if box is None or max(side.stop - side.start for side in box) < 2:
        return  # an ROI of one voxel is refused by both
    note(f"{image.array[mask].tolist()} {setting}")
    params = FeatureParams({"minimumROIDimensions": 1, **setting}, {"Original": {}}, ALL)
    extraction = extract_features(image, roi, {label: "ROI"}, params)
    found = dict(zip(extraction.columns, extraction.rows["ROI"], strict=True))
    lacking = not directions(mask[box].shape, setting, both_ways=True)
    if lacking:  # PyRadiomics stops with an error where no direction is left; here the cells are empty
        with pytest.raises(RuntimeError):
            stock(image, roi, label, setting)
        textures = [name for name in found if name.split("_")[1] not in ("firstorder", "shape")]
        assert all(math.isnan(found[name]) for name in textures)
        return
    expected = {
        name: value if math.isfinite(value) else math.nan for name, value in stock(image, roi, label, setting).items()
    }
    # Where nothing is counted PyRadiomics leaves some at 0 if there is one matrix; here they are empty like the rest.
    if math.isnan(expected["original_glrlm_RunPercentage"]):
        expected |= dict.fromkeys(("original_glrlm_RunEntropy", "original_glrlm_RunVariance"), math.nan)
    if math.isnan(expected["original_glcm_Contrast"]):
        expected["original_glcm_InverseVariance"] = math.nan
    for column in _only_rounding(image.array[box][mask[box]], mask[box], setting):
        found.pop(column)
        expected.pop(column)
    assert disagreements(found, expected) == {}


def _only_rounding(values: np.ndarray, mask: np.ndarray, setting: dict[str, Any]) -> list[str]:
    """Columns whose value in PyRadiomics is the root or ratio of what is nothing but rounding error."""
    columns = []
    if values.min() == values.max() and values.dtype.kind == "f":
        # The mean of equal fractions may differ from them in the last digit; third and fourth moments of that
        # difference over its variance are -1, 0 or 1. Here they are 0.
        columns += ["original_firstorder_Skewness", "original_firstorder_Kurtosis"]
    levels = Levels(make_roi(mask, (1, 1, 1), 3), discretise(values, setting))
    sums = _sums(_matrices(levels, directions(mask.shape, setting, both_ways=False), setting), levels, True, True)
    if (sums.product_entropy - sums.entropy < SMALLEST_GAIN).any():
        columns.append("original_glcm_Imc2")
    if (sums.second < SMALLEST_EIGENVALUE).any():
        columns.append("original_glcm_MCC")
    return columns


@pytest.mark.parametrize("distances", [(1,), (2,), (1, 3), (4,)])
@pytest.mark.parametrize("flat", [None, 0, 1, 2])
def test_directions_are_pyradiomics(distances: tuple[int, ...], flat: int | None) -> None:
    from radiomics import cMatrices

    for shape, both in itertools.product([(5, 6, 7), (1, 4, 3), (2, 2, 9)], [True, False]):
        setting = {"distances": distances, "force2D": flat is not None, "force2Ddimension": flat or 0}
        found = directions(shape, setting, both)
        if not found:
            continue
        expected = cMatrices.generate_angles(
            np.array(shape), np.array(distances), both, flat is not None, 0 if flat is None else flat
        )
        assert found == [tuple(row) for row in expected.tolist()]


@pytest.mark.parametrize("levels", [300, 3000])
def test_many_grey_levels_agree_with_pyradiomics(levels: int) -> None:
    """More levels than fit into one pass, with gaps between them."""
    rng = np.random.default_rng(levels)
    image = (rng.integers(0, levels, (7, 8, 9)) * 3).astype(np.int16)
    mask = rng.random(image.shape) < 0.8
    wanted = {"glcm": ("Contrast", "Imc1", "ClusterShade"), "glszm": ("ZoneEntropy",), "ngtdm": ALL["ngtdm"]}
    found = compute_features(image, mask, (1.0, 1.0, 1.0), wanted, {"binWidth": 1})
    geometry = Geometry((9, 8, 7), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    if levels > 1000:  # 1.8 GB by PyRadiomics: the numbers of fewer, wider bins must come out alike instead
        coarse = compute_features((image // 3).astype(np.int16), mask, (1.0, 1.0, 1.0), wanted, {"binWidth": 1})
        assert found["glszm_ZoneEntropy"] == coarse["glszm_ZoneEntropy"]
        assert found["glcm_Contrast"] == pytest.approx(9 * coarse["glcm_Contrast"], rel=1e-12)
        return
    expected = stock(Volume(image, geometry), Volume(mask.astype(np.uint8), geometry), 1, {"binWidth": 1})
    names = {f"original_{name}": value for name, value in found.items()}
    assert disagreements(names, {name: expected[name] for name in names}) == {}
