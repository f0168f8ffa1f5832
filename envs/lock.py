"""Pin everything that requirements.in and requirements-dev.in need: `make lock`. It asks the package index."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ENVS = Path(__file__).resolve().parent


def freeze(python: Path, requirements: str) -> list[str]:
    """Install a requirements file and return all that is then installed, pinned."""
    pip = [python, "-I", "-m", "pip"]  # isolated: packages on PYTHONPATH are none of the environment's
    subprocess.run([*pip, "install", "--quiet", "-r", ENVS / requirements], check=True)
    frozen = subprocess.run([*pip, "freeze"], check=True, text=True, capture_output=True).stdout
    # A build for CPU alone calls itself 2.13.0+cpu; the pin is for any build.
    return [line.split("+")[0] for line in frozen.splitlines() if "==" in line]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        run = freeze(python, "requirements.in")
        extra = [pin for pin in freeze(python, "requirements-dev.in") if pin not in run]
    (ENVS / "requirements.txt").write_text(
        "# Written by `make lock` from requirements.in: everything that a run needs, pinned.\n" + lines(run)
    )
    (ENVS / "requirements-dev.txt").write_text(
        "# Written by `make lock` from requirements-dev.in: what tests, linters and benchmarks need beside "
        "requirements.txt.\n-r requirements.txt\n" + lines(extra)
    )
    (ENVS / "radloom.yaml").write_text(
        "# For `snakemake --sdm conda`. Written by `make lock`: the pins of requirements.txt.\n"
        "name: radloom\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n"
        + lines(run, "      - ")
    )
    print(f"{len(run)} pins, {len(extra)} more for development", file=sys.stderr)


def lines(pins: list[str], prefix: str = "") -> str:
    return "".join(f"{prefix}{pin}\n" for pin in pins)


if __name__ == "__main__":
    main()
