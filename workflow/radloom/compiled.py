"""Build and load the C files of the package, for what would be too slow in Python.

The files are plain C99, so all that they take is a C compiler, which the installation of PyRadiomics needs already. A
library's name carries the machine and the hash of its source: a changed source is a new library, and an old one is
never loaded. It is built where it is first needed (`python -m radloom.compiled`, part of `make setup`, builds all
beforehand; seconds), beside the source or, where that folder can't be written to, in the user's cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from radloom.errors import CohortError

# No option may let the compiler reorder or fuse floating point operations: the same numbers on every machine.
OPTIONS = ("-std=c99", "-O3", "-fPIC", "-shared", "-ffp-contract=off")
WAY_OUT = "install a C compiler or name it in CC"


def build(source: Path, what: str, way_out: str = WAY_OUT) -> Path:
    """Return the compiled library of a C file as it is now, which is built if it isn't there.

    `what` names what the library does, `way_out` what helps where it can't be built. Raises CohortError with the
    compiler's or the system's own words.
    """
    # Machines that share the folder may have another processor or another C library.
    machine = "-".join(filter(None, [platform.machine(), *platform.libc_ver()]))
    digest = hashlib.sha256(source.read_bytes() + " ".join(OPTIONS).encode()).hexdigest()[:16]
    name = f"_{source.stem}-{machine}-{digest}.so"
    beside = source.parent
    if (beside / name).exists():
        return beside / name
    refusal = f"the library of {what} ({source.parent.name}/{source.name}) can't be built"
    try:
        folder = beside if os.access(beside, os.W_OK) else _cache()
        if not (folder / name).exists():
            _compile(source, folder / name, refusal, way_out)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
        raise CohortError(f"{refusal}: {getattr(error, 'strerror', None) or error}; {way_out}") from None
    if folder == beside:
        for former in folder.glob(f"_{source.stem}-{machine}-*.so"):
            if former.name != name:
                former.unlink(missing_ok=True)
    return folder / name


def _cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "radloom"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _compile(source: Path, library: Path, refusal: str, way_out: str) -> None:
    handle, scratch = tempfile.mkstemp(prefix=f"_{source.stem}-", suffix=".so.part", dir=library.parent)
    os.close(handle)
    compiler = _compiler()
    try:
        command = [*compiler, *OPTIONS, str(source), "-o", scratch, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise CohortError(f"{refusal}: `{compiler[0]}` says {done.stderr.strip()}; {way_out}")
        os.chmod(scratch, 0o755)
        os.replace(scratch, library)  # whoever builds at the same time makes the same file
    except FileNotFoundError:
        raise CohortError(f"{refusal}: there is no C compiler `{compiler[0]}`; {way_out}") from None
    finally:
        Path(scratch).unlink(missing_ok=True)


def _compiler() -> list[str]:
    """The command in CC; else the compiler that Python was built with, or whichever there is."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    known = [*shlex.split(sysconfig.get_config_var("CC") or "")[:1], "cc", "gcc", "clang"]
    return [next(filter(shutil.which, known), "cc")]


def array_of(dtype: type, dimensions: int) -> Any:
    """Return the type of an argument that is a contiguous array, so that another one is a TypeError."""
    return np.ctypeslib.ndpointer(dtype=dtype, ndim=dimensions, flags="C_CONTIGUOUS")


def load(path: Path, functions: Sequence[tuple[str, Any, Sequence[Any]]]) -> ctypes.CDLL:
    """Return a loaded library, its functions declared: name, type of the result, types of the arguments."""
    loaded = ctypes.CDLL(str(path))
    for name, result, arguments in functions:
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


if __name__ == "__main__":
    for file in sorted(Path(__file__).parent.rglob("*.c")):
        print("radloom: compiled", build(file, "compiled functions").name)
