"""PyRadiomics' own test data, out of its source package: `python pyradiomics_data.py FOLDER` puts them there.

They are scans with ROIs and the values that PyRadiomics' developers hold its releases to. Without them the tests that
need them are skipped, so a failure is told and no more.
"""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

PACKAGE = "pyradiomics-bhklab"


def main(folder: Path) -> None:
    """Download the source package of the installed version and unpack its folder `data`."""
    if (folder / "baseline").is_dir():
        return
    with tempfile.TemporaryDirectory() as scratch:
        pinned = f"{PACKAGE}=={version(PACKAGE)}"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE]
        done = subprocess.run([*command, "--dest", scratch, pinned], capture_output=True, text=True)
        archives = list(Path(scratch).glob("*.tar.gz"))
        if done.returncode or not archives:
            print(f"radloom: PyRadiomics' own data can't be had, its baseline is not tested: {done.stderr.strip()}")
            return
        unpacked = Path(scratch) / "data"
        with tarfile.open(archives[0]) as archive:
            # File by file, since `extractall` takes no filter before Python 3.11.4.
            for member in archive:
                _, inside, name = member.name.partition("/data/")
                if inside and member.isfile() and ".." not in Path(name).parts:
                    target = unpacked / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(archive.extractfile(member).read())
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpacked.rename(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
