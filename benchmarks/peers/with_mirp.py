"""MIRP as near to PyRadiomics as its settings go: bins of PyRadiomics' kind, means over directions. It reads files."""

import logging

from mirp import extract_features

logging.disable(logging.WARNING)
FAMILIES = {
    "firstorder": ["statistical", "intensity_histogram"],
    "shape": ["morphological"],
    "glcm": ["glcm"],
    "glrlm": ["glrlm"],
    "glszm": ["glszm"],
    "gldm": ["ngldm"],
    "ngtdm": ["ngtdm"],
}


def read(image, mask):
    return image, mask


def compute(data, classes):
    (table,) = extract_features(
        image=data[0],
        mask=data[1],
        base_feature_families=[family for name in classes for family in FAMILIES[name]],
        base_discretisation_method="fixed_bin_size_pyradiomics",
        base_discretisation_bin_width=25.0,
        ibsi_compliant=False,
        glcm_spatial_method="3d_average",
        glrlm_spatial_method="3d_average",
    )
    return table


def numbers(raw):
    return {name: float(raw[name].iloc[0]) for name in raw.columns if raw[name].dtype.kind in "fi"}
