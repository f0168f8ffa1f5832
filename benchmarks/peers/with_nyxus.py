"""Nyxus in 3D. It reads files itself, and bins by number only: it gets as many bins as a width of 25 makes."""

import gzip
import math
import struct

import numpy as np
from nyxus import Nyxus3D

GROUPS = {
    "firstorder": "*3D_ALL_INTENSITY*",
    "shape": "*3D_ALL_MORPHOLOGY*",
    "glcm": "*3D_GLCM*",
    "glrlm": "*3D_GLRLM*",
    "glszm": "*3D_GLSZM*",
    "gldm": "*3D_GLDM*",
    "ngtdm": "*3D_NGTDM*",
}
_bins: dict[str, int] = {}


def read(image, mask):
    if image not in _bins:
        values = _voxels(image)[_voxels(mask) > 0]
        _bins[image] = math.floor(values.max() / 25) - math.floor(values.min() / 25) + 1
    return image, mask


def compute(data, classes):
    nyxus = Nyxus3D([GROUPS[name] for name in classes], n_feature_calc_threads=1)
    for name in classes:
        if name not in ("firstorder", "shape"):
            nyxus.set_metaparam(f"3{name}/greydepth={-_bins[data[0]]}")  # negative: bins from the ROI's minimum on
    return nyxus.featurize_files([data[0]], [data[1]], False)


def numbers(raw):
    return {name: float(raw[name].iloc[0]) for name in raw.columns if name[0].isdigit()}


def _voxels(path):
    """The voxels of a NIfTI-1 file as Radloom writes it."""
    with gzip.open(path) as file:
        content = file.read()
    dtype = {2: "<u1", 4: "<i2", 16: "<f4"}[struct.unpack_from("<h", content, 70)[0]]
    return np.frombuffer(content, dtype, offset=352)
