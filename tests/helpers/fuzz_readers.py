"""Fuzz the readers: bytes of good files are changed, cut, doubled, and the file is read or refused.

    python tests/helpers/fuzz_readers.py [--rounds 20000] [--seed 1] [--formats nii zip ...]

Every round follows from seed and number alone. Anything but a read scan or a CaseError without the file's name is a
finding: it is printed with its round, and the exit status is 1. After a crash the last line tells the round.
"""

from __future__ import annotations

import argparse
import io
import resource
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from dicom_files import phantom, write_series
from dicom_masks import Drawn, rtstruct, save

from radloom.engine.worker import trace
from radloom.errors import CaseError
from radloom.ingest import ingest_case
from radloom.source_cells import Selection

NAME = "DOE_JOHN"
MEMORY = 3 << 30
SECONDS = 10
HU = phantom((6, 10, 12))
FORMATS = ("nii", "nii.gz", "nrrd", "mha", "packed.nrrd", "packed.mha", "dcm", "rtstruct", "zip", "tar.gz", "tar.xz")


class Material:
    """Good files of every format, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        image = sitk.GetImageFromArray(HU)
        for kind in FORMATS[:6]:
            ending = kind.removeprefix("packed.")
            sitk.WriteImage(image, str(folder / f"{NAME}.{kind}"), kind.startswith("packed") or ending == "nii.gz")
        self.series = folder / "series"
        self.slices = write_series(self.series, HU, spacing=(1, 1, 1), origin=(0, 0, 0), frame_of_reference="1.2.9")
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        circle = np.column_stack([5 + 3 * np.cos(angles), 5 + 3 * np.sin(angles), np.full(20, 2.0)])
        save(rtstruct({"GTV": [Drawn(circle)]}, "1.2.9"), folder / f"{NAME}.rtstruct")
        with zipfile.ZipFile(folder / f"{NAME}.zip", "w", zipfile.ZIP_DEFLATED) as packed:
            for path in self.slices:
                packed.write(path, path.name)
        for kind in ("tar.gz", "tar.xz"):
            with tarfile.open(folder / f"{NAME}.{kind}", f"w:{kind[4:]}") as archive:
                for path in self.slices:
                    info = tarfile.TarInfo(path.name)
                    info.size = path.stat().st_size
                    archive.addfile(info, io.BytesIO(path.read_bytes()))

    def good(self, kind: str) -> bytes:
        return (self.slices[2] if kind == "dcm" else self.folder / f"{NAME}.{kind}").read_bytes()

    def read(self, kind: str, content: bytes) -> None:
        """Ingest the case in which one file has this content."""
        if kind == "dcm":
            self.slices[2].write_bytes(content)
            ingest_case(self.series, work=self.folder)
            return
        ending = kind.removeprefix("packed.")
        path = self.folder / f"{NAME} fuzzed.{'dcm' if kind == 'rtstruct' else ending}"
        path.write_bytes(content)
        if kind == "rtstruct":
            ingest_case(self.series, path, work=self.folder, selection=Selection(mask_roi="GTV"))
        else:
            ingest_case(path, work=self.folder)


def changed(good: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes, mostly of the header, of its text or its numbers; sometimes cut or double a part."""
    data = bytearray(good)
    for _ in range(int(rng.integers(1, 6))):
        end = min(len(data), 400 if rng.random() < 0.7 else len(data))
        place = int(rng.integers(0, max(end, 1)))
        way = rng.random()
        if way < 0.4:
            data[place : place + 1] = bytes([int(rng.integers(0, 256))])
        elif way < 0.6:
            data[place : place + 4] = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 65535]).astype("<i4").tobytes()
        elif way < 0.75:
            data[place : place + 1] = bytes(rng.choice(list(b"0123456789-+.eE nainf\n,()")).astype(np.uint8).tobytes())
        elif way < 0.85:
            del data[place : place + int(rng.integers(1, 200))]
        elif way < 0.95:
            data[place:place] = data[place : place + int(rng.integers(1, 200))]
        else:
            del data[place:]
    return bytes(data)


def fuzz(rounds: int, seed: int, formats: tuple[str, ...]) -> int:
    """Run the rounds; return the number of findings."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    outcomes: Counter[str] = Counter()
    findings = 0
    with tempfile.TemporaryDirectory() as folder:
        material = Material(Path(folder))
        good = {kind: material.good(kind) for kind in formats}
        for number in range(rounds):
            kind = formats[number % len(formats)]
            content = changed(good[kind], np.random.default_rng([seed, number]))
            print(f"\r{number} {kind}   ", end="", file=sys.stderr, flush=True)
            start = time.perf_counter()
            problem = ""
            try:
                material.read(kind, content)
                outcomes["read"] += 1
            except CaseError as error:
                outcomes["refused"] += 1
                problem = "the message has the file's name" if "DOE" in str(error) or folder in str(error) else ""
            except Exception as error:
                problem = f"{type(error).__name__} in\n{trace(error)}"
            if time.perf_counter() - start > SECONDS:
                problem += f" took {time.perf_counter() - start:.1f} s"
            if kind == "dcm":
                material.slices[2].write_bytes(good["dcm"])
            left = [path.name for path in material.folder.iterdir() if path.name.startswith(".source-")]
            if problem or left:
                findings += 1
                print(f"\nround {number} of seed {seed}, {kind}: {problem} {left or ''}")
    print(f"\n{rounds} rounds: {dict(outcomes)}, {findings} findings")
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    args = parser.parse_args()
    raise SystemExit(1 if fuzz(args.rounds, args.seed, tuple(args.formats)) else 0)


if __name__ == "__main__":
    main()
