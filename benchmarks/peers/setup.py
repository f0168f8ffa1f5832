"""Installs the other public implementations that `make bench` compares with, each in an environment of its own.

`python benchmarks/peers/setup.py` makes `.venv-peers/<name>` for all of them, or for those named. They are used by the
benchmark alone; what isn't there is left out of it, with the reason.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parent.parent / ".venv-peers"


@dataclass(frozen=True)
class Peer:
    """A public implementation: its module here, how its columns are named, what to install, what is known of it."""

    name: str
    module: str
    naming: str
    requirements: tuple[str, ...]
    without_its_own: tuple[str, ...] = field(default=())  # installed without the requirements that it declares
    differs: str = ""

    def python(self) -> Path:
        """Return its interpreter, whether it is there or not."""
        return FOLDER / self.name / "bin" / "python"

    def absent(self) -> str | None:
        """Return why it can't be run, or None where it can."""
        if (FOLDER / self.name / "ready").is_file():
            return None
        failed = FOLDER / f"{self.name}.failed"
        return failed.read_text().strip() if failed.is_file() else "not installed"


PEERS = (
    Peer(
        "pyradiomics-cuda",
        "with_pyradiomics",
        "same",
        ("pyradiomics-cuda==1.0.4", "numpy==2.5.5", "SimpleITK==2.5.7", "PyWavelets==1.10.0", "pykwalify==1.8.0"),
        differs="a fork of PyRadiomics with CUDA kernels; without a GPU it is PyRadiomics",
    ),
    Peer(
        "fastrad",
        "with_fastrad",
        "fastrad",
        ("torch==2.13.0", "numpy==2.5.5", "scipy==1.18.1", "SimpleITK==2.5.7", "pydicom==3.0.2", "loguru==0.7.3"),
        # It asks for `pyradiomics`, which can't be built on its Python (>= 3.12), and never imports it.
        without_its_own=("fastrad==1.2.0",),
        differs="the image is held as float32, and percentiles are formed in it",
    ),
    Peer(
        "flash-radiomics",
        "with_flash",
        "same",
        (
            "numpy==2.5.5",
            "scipy==1.18.1",
            "SimpleITK==2.5.7",
            "PyWavelets==1.10.0",
            "pykwalify==1.8.0",
            "h5py",
            "scikit-image==0.26.0",
            "scikit-learn",
            "trimesh",
            "flash-radiomics==1.0.0",
        ),
        differs="kurtosis is IBSI's (3 less)",
    ),
    Peer(
        "pictologics",
        "with_pictologics",
        "pictologics",
        ("pictologics==0.9.0", "numba==0.68.1", "numpy==2.5.5", "scipy==1.18.1"),
        differs="IBSI's definitions: kurtosis 3 less, percentiles by nearest rank; principal axes from a covariance "
        "over n - 1 voxels; GLCM and GLRLM of one matrix of all directions, not means over 13 matrices",
    ),
    Peer(
        "nyxus",
        "with_nyxus",
        "nyxus",
        ("nyxus==0.11.0", "numpy==2.5.5", "pandas==3.1.1"),
        differs="made for microscopy: intensities are truncated to integers and shifted by the image's minimum, bins "
        "are given by number alone; its shape features are off at 1 mm too, why was not looked into",
    ),
    Peer(
        "mirp",
        "with_mirp",
        "mirp",
        ("mirp==2.7.0", "numpy==2.5.5", "scipy==1.18.1", "pandas==3.1.1"),
        differs="IBSI's kurtosis (3 less), principal axes from a covariance over n - 1 voxels, 2D diameters that are "
        "counts of voxels along an axis; why MCC is off by 1e-4 was not looked into",
    ),
)


def newest_python() -> str:
    """Return a Python that all peers have wheels for: 3.12, else 3.13, else the one that runs this."""
    for version in ("3.12", "3.13"):
        pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for candidate in (f"python{version}", *map(str, pyenv)):
            # pyenv puts a name on the path for versions that aren't switched on; it fails when it is run.
            if shutil.which(candidate) and subprocess.run([candidate, "-V"], capture_output=True).returncode == 0:
                return candidate
    return sys.executable


def install(peer: Peer, python: str) -> None:
    """Make a peer's environment; where that fails, note why in `.venv-peers/<name>.failed`."""
    place, failed = FOLDER / peer.name, FOLDER / f"{peer.name}.failed"
    shutil.rmtree(place, ignore_errors=True)
    failed.unlink(missing_ok=True)
    pip = [str(peer.python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [[python, "-m", "venv", str(place)], [*pip, *peer.requirements]]
    if peer.without_its_own:
        commands.append([*pip, "--no-deps", *peer.without_its_own])
    # The first import compiles what is to be compiled, which takes minutes for pictologics.
    commands.append([str(peer.python()), "-c", f"import {peer.module}"])
    for command in commands:
        done = subprocess.run(command, cwd=HERE, capture_output=True, text=True)
        if done.returncode:
            said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            reason = next((line for line in reversed(said) if "rror" in line), said[-1] if said else "no word")
            failed.write_text(f"`{' '.join(command[1:4])} ...` failed: {reason}\n")
            return
    (place / "ready").touch()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"which, by default all: {', '.join(peer.name for peer in PEERS)}")
    parser.add_argument("--python", help="Python to make the environments of (default: 3.12 where it is found)")
    args = parser.parse_args()
    python = args.python or newest_python()
    unknown = set(args.names) - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    FOLDER.mkdir(exist_ok=True)
    for peer in PEERS:
        if not args.names or peer.name in args.names:
            print(f"radloom: installing {peer.name} in {FOLDER / peer.name}", flush=True)
            install(peer, python)
            print(f"radloom: {peer.absent() or 'ready'}", flush=True)


if __name__ == "__main__":
    main()
