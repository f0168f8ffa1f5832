"""Build, load and call the compiled passes over voxels of `kernels.c`.

The C file is plain C99, so all that it takes is a C compiler, which the installation of PyRadiomics needs already.
The library's name carries the hash of its source: a changed source is a new library, and an old one is never loaded.
It is built where it is first needed (`make setup` does it beforehand; two seconds), beside the source or, where that
folder can't be written to, in the user's cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from radloom.images import Array

SOURCE = Path(__file__).with_name("kernels.c")
# No option may let the compiler reorder or fuse floating point operations: the same numbers on every machine.
_BLOCK = 1 << 18
OPTIONS = ("-std=c99", "-O3", "-fPIC", "-shared", "-ffp-contract=off")


def build() -> Path:
    """Return the compiled library of the present source, which is built if it isn't there.

    Raises RuntimeError with the compiler's own words where it can't be built.
    """
    name = f"_kernels-{hashlib.sha256(SOURCE.read_bytes() + ' '.join(OPTIONS).encode()).hexdigest()[:16]}.so"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radloom"
    for folder in (SOURCE.parent, cache):
        if (folder / name).exists():
            return folder / name
    folder = SOURCE.parent if os.access(SOURCE.parent, os.W_OK) else cache
    folder.mkdir(parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    handle, scratch = tempfile.mkstemp(suffix=".so.part", dir=folder)
    os.close(handle)
    try:
        command = [*compiler, *OPTIONS, str(SOURCE), "-o", scratch, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{compiler[0]} could not compile {SOURCE.name}: {done.stderr.strip()}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, folder / name)  # whoever builds at the same time makes the same file
    except FileNotFoundError:
        raise RuntimeError(
            f"no C compiler `{compiler[0]}` to build {SOURCE.name}: install one, name it in CC, "
            "or set `extract.engine: pyradiomics`"
        ) from None
    finally:
        Path(scratch).unlink(missing_ok=True)
    return folder / name


def _array(dtype: type, dimensions: int) -> Any:
    return np.ctypeslib.ndpointer(dtype=dtype, ndim=dimensions, flags="C_CONTIGUOUS")


@functools.cache
def library() -> ctypes.CDLL:
    """Return the loaded library, its functions' arguments declared, so that a wrong array is a TypeError."""
    loaded = ctypes.CDLL(str(build()))
    i64, f64, pointer = ctypes.c_int64, ctypes.c_double, ctypes.c_void_p
    mask, volume, ints = _array(np.uint8, 3), _array(np.uint16, 3), _array(np.int64, 1)
    runs = (ints, ints, i64)
    for name, result, arguments in (
        ("find_runs", i64, (mask, ints, ints, pointer, pointer)),
        ("index_moments", None, (mask, ints, ints)),
        ("label_boxes", None, (volume, ints, i64, _array(np.int64, 2))),
        ("digitize", None, (_array(np.float64, 1), i64, _array(np.float64, 1), i64, _array(np.int32, 1))),
        ("scatter", None, (_array(np.uint16, 1), *runs, volume)),
        ("cooccurrences", None, (volume, *runs, ints, i64, i64, _array(np.uint32, 3))),
        ("run_lengths", None, (volume, *runs, ints, i64, i64, i64, volume, _array(np.uint32, 3))),
        ("find_zones", i64, (volume, *runs, ints, _array(np.uint32, 1), i64, _array(np.int32, 3))),
        ("measure_zones", None, (volume, _array(np.int32, 3), *runs, _array(np.uint16, 1), _array(np.int32, 1))),
        ("neighbourhoods", None, (volume, *runs, ints, i64, i64, _array(np.uint32, 2), _array(np.float64, 1))),
        (
            "cooccurrence_sums",
            None,
            (_array(np.float64, 2), _array(np.int32, 1), i64, ctypes.c_int, *[_array(np.float64, 1)] * 5),
        ),
        ("cubes", i64, (mask, ints, ints, _array(np.int64, 2), pointer)),
        (
            "plane_hulls",
            f64,
            (_array(np.int32, 2), i64, ctypes.c_int, i64, _array(np.float64, 1), _array(np.uint8, 1)),
        ),
        ("farthest_pair", f64, (_array(np.float64, 2), _array(np.float64, 1), i64)),
    ):
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


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


if __name__ == "__main__":
    print(f"radloom: compiled {build().name}", file=sys.stderr)
