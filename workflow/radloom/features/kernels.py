"""Call the compiled passes over voxels of `kernels.c` (built and loaded by `radloom.compiled`)."""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path

import numpy as np

from radloom.compiled import array_of, load
from radloom.compiled import build as build_library
from radloom.images import Array

SOURCE = Path(__file__).with_name("kernels.c")
_BLOCK = 1 << 18


def build() -> Path:
    """Return the compiled library of the present source; CohortError where it can't be built."""
    way_out = "install a C compiler, name it in CC, or set `extract.engine: pyradiomics`"
    return build_library(SOURCE, "compiled passes over voxels", way_out)


@functools.cache
def library() -> ctypes.CDLL:
    """Return the loaded library, its functions' arguments declared, so that a wrong array is a TypeError."""
    i64, f64, pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    mask, volume, ints = array_of(np.uint8, 3), array_of(np.uint16, 3), array_of(np.int64, 1)
    runs = (ints, ints, i64)
    functions = (
        ("find_runs", i64, (mask, ints, ints, pointer, pointer)),
        ("index_moments", None, (mask, ints, ints)),
        ("digitize", None, (array_of(np.float64, 1), i64, array_of(np.float64, 1), i64, array_of(np.int32, 1))),
        ("scatter", None, (array_of(np.uint16, 1), *runs, volume)),
        ("cooccurrences", None, (volume, *runs, ints, i64, i64, array_of(np.uint32, 3))),
        ("run_lengths", None, (volume, *runs, ints, i64, i64, i64, volume, array_of(np.uint32, 3))),
        ("find_zones", i64, (volume, *runs, ints, array_of(np.uint32, 1), i64, array_of(np.int32, 3))),
        ("measure_zones", None, (volume, array_of(np.int32, 3), *runs, array_of(np.uint16, 1), array_of(np.int32, 1))),
        ("neighbourhoods", None, (volume, *runs, ints, i64, i64, array_of(np.uint32, 2), array_of(np.float64, 1))),
        (
            "cooccurrence_sums",
            None,
            (array_of(np.float64, 2), array_of(np.int32, 1), i64, ctypes.c_int, *[array_of(np.float64, 1)] * 5),
        ),
        ("cubes", i64, (mask, ints, ints, array_of(np.int64, 2), pointer)),
        (
            "plane_hulls",
            f64,
            (array_of(np.int32, 2), i64, ctypes.c_int, i64, array_of(np.float64, 1), array_of(np.uint8, 1)),
        ),
        ("farthest_pair", f64, (array_of(np.float64, 2), array_of(np.float64, 1), i64)),
    )
    return load(build(), functions)


def shape_of(array: Array) -> Array:
    """Return an array's shape as the kernels take it."""
    return np.array(array.shape, dtype=np.int64)


def count_values(values: Array, low: int, high: int) -> Array:
    """Return how often each whole number from `low` to `high` occurs among values within; block by block, since NumPy
    would make a copy of all of them in 64 bits.
    """
    counts = np.zeros(high - low + 1, np.int64)
    for first in range(0, len(values), _BLOCK):
        block = values[first : first + _BLOCK].astype(np.int64) - low
        counts += np.bincount(block, minlength=len(counts))
    return counts
