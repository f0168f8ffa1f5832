"""Build, load and call the compiled passes over voxels of `kernels.c`.

The C file is plain C99, so all that it takes is a C compiler, which the installation of PyRadiomics needs already.
The library's name carries the machine and the hash of its source: a changed source is a new library, and an old one is
never loaded. It is built where it is first needed (`make setup` does it beforehand; two seconds), beside the source or,
where that folder can't be written to, in the user's cache.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from radloom.errors import CohortError
from radloom.images import Array

_CANNOT_BUILD = "the library of compiled passes over voxels (features/kernels.c) can't be built"
_WAY_OUT = "install a C compiler, name it in CC, or set `extract.engine: pyradiomics`"
SOURCE = Path(__file__).with_name("kernels.c")
# No option may let the compiler reorder or fuse floating point operations: the same numbers on every machine.
OPTIONS = ("-std=c99", "-O3", "-fPIC", "-shared", "-ffp-contract=off")
_BLOCK = 1 << 18


def build() -> Path:
    """Return the compiled library of the present source, which is built if it isn't there.

    Raises CohortError with the compiler's or the system's own words where it can't be built.
    """
    # Machines that share the folder may have another processor or another C library.
    machine = "-".join(filter(None, [platform.machine(), *platform.libc_ver()]))
    source = hashlib.sha256(SOURCE.read_bytes() + " ".join(OPTIONS).encode()).hexdigest()[:16]
    name = f"_kernels-{machine}-{source}.so"
    beside = SOURCE.parent
    if (beside / name).exists():
        return beside / name
    try:
        folder = beside if os.access(beside, os.W_OK) else _cache()
        if not (folder / name).exists():
            _compile(folder, name)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise CohortError(f"{_CANNOT_BUILD}: {getattr(error, 'strerror', None) or error}; {_WAY_OUT}") from None
    if folder == beside:
        for former in folder.glob(f"_kernels-{machine}-*.so"):
            if former.name != name:
                former.unlink(missing_ok=True)
    return folder / name


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radloom"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(folder: Path, name: str) -> None:
    handle, scratch = tempfile.mkstemp(prefix="_kernels-", suffix=".so.part", dir=folder)
    os.close(handle)
    compiler = _compiler()
    try:
        command = [*compiler, *OPTIONS, str(SOURCE), "-o", scratch, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CohortError(f"{_CANNOT_BUILD}: `{compiler[0]}` says {done.stderr.strip()}; {_WAY_OUT}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, folder / name)  # whoever builds at the same time makes the same file
    except FileNotFoundError:
        raise CohortError(f"{_CANNOT_BUILD}: there is no C compiler `{compiler[0]}`; {_WAY_OUT}") from None
    finally:
        Path(scratch).unlink(missing_ok=True)


def _compiler() -> list[str]:
    """The command in CC; else the compiler that Python was built with, or whichever there is."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    known = [*shlex.split(sysconfig.get_config_var("CC") or "")[:1], "cc", "gcc", "clang"]
    return [next(filter(shutil.which, known), "cc")]


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
