"""`make bench`: measure what the project claims, and write it into docs/benchmarks.md with the command that made it.

Without arguments it runs everything (about an hour and a half on 2 cores); `run.py NAME` runs one measurement.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "benchmarks.md"
MEASUREMENTS = (
    *("overhead", "scale", "resampling", "nifti", "dicom", "extraction"),
    *("combat", "penalised", "models", "morphology", "segmentation"),
)


def machine() -> str:
    """Describe the machine in a line: processor, cores, Python and the main packages."""
    from importlib.metadata import version

    names = ("snakemake", "pyradiomics-bhklab", "SimpleITK", "numpy", "torch")
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{os.cpu_count()} cores of {cpu}; Python {platform.python_version()}, {packages}"


def write_section(name: str, text: str) -> None:
    """Replace one section of the page, which stands between two comments."""
    begin, end = f"<!-- {name}: written by `make bench` -->\n", f"<!-- end of {name} -->\n"
    page = PAGE.read_text()
    before, rest = page.split(begin)
    PAGE.write_text(before + begin + "\n" + text.strip() + "\n\n" + end + rest.split(end)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"run these alone: {', '.join(MEASUREMENTS)}")
    parser.add_argument("--small", action="store_true", help="few cases, and nothing written: to see that it works")
    parser.add_argument(
        "--pyradiomics-data", type=Path, help="the folder `data` of PyRadiomics' sdist, for `extraction`"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(MEASUREMENTS):
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}")
    options = {"extraction": {"pyradiomics_data": args.pyradiomics_data}} if args.pyradiomics_data else {}
    for name in args.names or MEASUREMENTS:
        print(f"radloom bench: {name}", flush=True)
        with tempfile.TemporaryDirectory(prefix="radloom-bench-") as folder:
            text = importlib.import_module(f"benchmarks.{name}").measure(
                Path(folder), args.small, **options.get(name, {})
            )
        text += f"\n\nMachine: {machine()}. Command: `make bench`, or `python benchmarks/run.py {name}`."
        print(text)
        if not args.small:
            write_section(name, text)


if __name__ == "__main__":
    main()
