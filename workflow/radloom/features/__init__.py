"""Radiomic features of one ROI on one image: PyRadiomics' numbers from single compiled passes.

`compute_features` is the whole of it; a class of features is a module of its name (`sizes` holds the three that count
grey level against size). PyRadiomics is the oracle of every one of them, see tests/radloom/features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from radloom.features.discretise import discretise
from radloom.features.firstorder import LEVEL_FEATURES, distribution, first_order_features
from radloom.features.glcm import glcm_features
from radloom.features.matrices import Levels, directions
from radloom.features.ngtdm import ToneDifference, ngtdm_features
from radloom.features.roi import make_roi
from radloom.features.shape import shape_features
from radloom.features.sizes import gldm_and_neighbours, gldm_features, glrlm_features, glszm_features
from radloom.images import Array

__all__ = ["TEXTURE_CLASSES", "compute_features", "shape_features"]

TEXTURE_CLASSES = ("glcm", "gldm", "glrlm", "glszm", "ngtdm")


def compute_features(
    image: Array,
    mask: Array,
    spacing: tuple[float, float, float],
    classes: Mapping[str, tuple[str, ...]],
    setting: Mapping[str, Any],
) -> dict[str, float]:
    """Compute first order and texture features of an ROI, as `<class>_<Feature>`; NaN where one has no value.

    image: (z, y, x), any real type, finite in the ROI. A box around the ROI is enough, and the quickest.
    mask: (z, y, x), nonzero inside, not empty.
    spacing: (z, y, x) in mm.
    classes: the features wanted, by class (`firstorder`, `glcm`, `gldm`, `glrlm`, `glszm`, `ngtdm`).
    setting: PyRadiomics' settings; others' defaults are PyRadiomics'. `binAnchor` as in `discretise`.

    Raises CaseError where the ROI makes more grey levels than fit.
    """
    inside = np.asarray(mask).astype(bool, copy=False)
    values = image[inside]
    with_textures = any(name in classes for name in TEXTURE_CLASSES)
    with_levels = with_textures or not LEVEL_FEATURES.isdisjoint(classes.get("firstorder", ()))
    grey = discretise(values, setting) if with_levels else None
    found: dict[str, dict[str, float]] = {}
    if "firstorder" in classes:
        d = distribution(values, None if grey is None else grey.counts, setting, float(np.prod(spacing)))
        found["firstorder"] = first_order_features(d, classes["firstorder"])
        del d
    del values  # of a large ROI they are millions, and nothing needs them any more
    if with_textures:
        assert grey is not None
        reach = max(setting.get("distances", (1,)))
        levels = Levels(make_roi(inside, spacing, max(1, min(reach, max(inside.shape) - 1))), grey)
        found |= _textures(levels, classes, setting)
    return {f"{name}_{feature}": value for name in classes for feature, value in found.get(name, {}).items()}


def _textures(
    levels: Levels, classes: Mapping[str, tuple[str, ...]], setting: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    if not directions(levels.roi.mask.shape, setting, both_ways=True):
        # One line of voxels across the slices of `force2D`: no voxel can have a neighbour.
        return {name: dict.fromkeys(classes[name], math.nan) for name in TEXTURE_CLASSES if name in classes}
    found = {}
    if "glcm" in classes:
        found["glcm"] = glcm_features(levels, setting, classes["glcm"])
    if "glrlm" in classes:
        found["glrlm"] = glrlm_features(levels, setting, classes["glrlm"])
    if "glszm" in classes:
        found["glszm"] = glszm_features(levels, setting, classes["glszm"])
    if "gldm" in classes or "ngtdm" in classes:
        dependence, difference = gldm_and_neighbours(levels, setting)
        if "gldm" in classes:
            found["gldm"] = gldm_features(levels, dependence, classes["gldm"])
        if "ngtdm" in classes:
            tones = ToneDifference(levels.grey.present.astype(float), levels.grey.counts.astype(float), difference)
            found["ngtdm"] = ngtdm_features(tones, classes["ngtdm"])
    return found
