"""Reading and writing .nii.gz beside nibabel and SimpleITK."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from radloom.images import Geometry, Volume, from_sitk, read_nifti, to_sitk, write_nifti

SIZE = (512, 512, 300)
SMALL = (128, 128, 30)


def measure(folder: Path, small: bool) -> str:
    """Write and read one scan by each library; return the figures as Markdown."""
    size = SMALL if small else SIZE
    repeats = 1 if small else 3
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    volume = scan(size)
    image, affine = to_sitk(volume), np.diag([-0.8, -0.8, 1.0, 1.0])
    array = volume.array.transpose(2, 1, 0)
    writers: dict[str, Callable[[Path], object]] = {
        "**Radloom** (isal, level 2)": lambda path: write_nifti(path, volume),
        "nibabel (zlib, level 1)": lambda path: nibabel.save(nibabel.Nifti1Image(array, affine), path),
        "SimpleITK (zlib, its default level)": lambda path: sitk.WriteImage(image, str(path), useCompression=True),
    }
    readers: dict[str, Callable[[Path], np.ndarray]] = {
        "**Radloom** (isal, level 2)": lambda path: read_nifti(path).array,
        "nibabel (zlib, level 1)": lambda path: np.asarray(nibabel.load(path).dataobj).transpose(2, 1, 0),
        "SimpleITK (zlib, its default level)": lambda path: from_sitk(sitk.ReadImage(str(path))).array,
    }
    paths = {name: folder / f"{number}.nii.gz" for number, name in enumerate(writers)}
    ours = next(iter(paths.values()))
    lines = [
        f"A scan of {' x '.join(map(str, size))} voxels of int16 ({volume.array.nbytes / 1e6:.0f} MB: an ellipse of "
        f"tissue with noise of 15 HU in air), one core; median processor time of {repeats} runs. All read the same "
        "file, that of Radloom, and get the same values.",
        "",
        "| library | write | times Radloom's | file | read | times Radloom's |",
        "|---|---|---|---|---|---|",
    ]
    times: dict[str, tuple[float, float]] = {}
    for name, path in paths.items():
        write = stopwatch(lambda name=name, path=path: writers[name](path), repeats)  # type: ignore[misc]
        read = stopwatch(lambda name=name: readers[name](ours), repeats)  # type: ignore[misc]
        if not np.array_equal(readers[name](ours), volume.array):
            raise RuntimeError(f"{name} reads other values")
        times[name] = write, read
        first = next(iter(times.values()))
        lines.append(
            f"| {name} | {write:.2f} s | {write / first[0]:.1f} | {path.stat().st_size / 1e6:.0f} MB | {read:.2f} s | "
            f"{read / first[1]:.1f} |"
        )
        print(lines[-1], flush=True)
    return "\n".join(lines)


def scan(size: tuple[int, int, int]) -> Volume:
    """An ellipse of tissue in air, with noise as CT has it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[1], : size[0]]
    inside = ((x / size[0] - 0.5) / 0.4) ** 2 + ((y / size[1] - 0.5) / 0.3) ** 2 < 1
    plane = np.where(inside, 40.0, -1000.0)
    array = np.empty(size[::-1], dtype=np.int16)
    for target in array:
        target[...] = np.rint(plane + rng.normal(0, 15, plane.shape)).clip(-1024)
    return Volume(array, Geometry(size, (0.8, 0.8, 1.0), (0.0, 0.0, 0.0)))


def stopwatch(work: Callable[[], object], repeats: int) -> float:
    """Median processor time in seconds."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return statistics.median(found)
