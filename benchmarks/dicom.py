"""Reading a DICOM series beside SimpleITK: processor time and memory, uncompressed and in JPEG 2000."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless

from benchmarks.nifti import scan

REPO = Path(__file__).resolve().parent.parent
SIZE = (512, 512, 300)
SMALL = (128, 128, 12)
SYNTAXES = {"uncompressed": ExplicitVRLittleEndian, "JPEG 2000": JPEG2000Lossless}
# Run in a process of their own. VmHWM is its own peak, in kB; ru_maxrss would start from that of its parent. The sum of
# the voxels tells that both read the same.
_START = """
import re, sys, time
from pathlib import Path
def peak(): return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""
_END = """
print(time.process_time() - start, peak() - before, int(array.sum(dtype="i8")))
"""
READERS = {
    "**Radloom**": """
import openjpeg
from radloom.dicom.ct import read_ct
from radloom.dicom.series import choose_series, find_series
before, start = peak(), time.process_time()
array = read_ct(choose_series(find_series(sorted(Path(sys.argv[1]).iterdir())))).volume.array
""",
    "SimpleITK (GDCM)": """
import SimpleITK as sitk
before, start = peak(), time.process_time()
reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(sys.argv[1]))
image = reader.Execute()
array = sitk.GetArrayViewFromImage(image)
""",
}


def measure(folder: Path, small: bool) -> str:
    """Write a series in each syntax and read it by each library; return the figures as Markdown."""
    sys.path.insert(0, str(REPO / "tests" / "helpers"))
    from dicom_files import write_series

    size, repeats = (SMALL, 1) if small else (SIZE, 5)
    hu = scan(size).array
    lines = [
        f"A series of {size[2]} slices of {size[0]} x {size[1]} pixels of 16 bits ({hu.nbytes / 2**20:.0f} MiB), from "
        f"listing the folder to the volume in HU; median processor time of {repeats} runs, one thread; peak memory "
        "above that after the imports, the volume itself included. All get the same values.",
        "",
        "| pixels | library | time | peak memory | of the volume |",
        "|---|---|---|---|---|",
    ]
    for kind, syntax in SYNTAXES.items():
        write_series(folder / kind, hu, spacing=(0.8, 0.8, 1.0), syntax=syntax)
        # In turns, so that what else the machine does meets both.
        runs = [{name: read(code, folder / kind) for name, code in READERS.items()} for _ in range(repeats)]
        for name in READERS:
            seconds, mib = (statistics.median(run[name][k] for run in runs) for k in (0, 1))
            lines.append(f"| {kind} | {name} | {seconds:.2f} s | {mib:.0f} MiB | {mib / (hu.nbytes / 2**20):.2f} |")
            print(lines[-1], flush=True)
        if len({run[name][2] for run in runs for name in READERS}) != 1:
            raise RuntimeError("the libraries read different values")
    return "\n".join(lines)


def read(code: str, folder: Path) -> list[float]:
    """Processor seconds, MiB above the imports, and the sum of the voxels of one run."""
    command = [sys.executable, "-c", _START + code + _END, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [float(value) for value in done.stdout.split()]
