"""Large cohorts of tiny scans: what the engine costs where there is nothing, or little, to compute."""

from __future__ import annotations

import csv
import shutil
import statistics
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import yaml

from benchmarks.workflow_runs import run
from radloom.engine.sources import source_identity

SIZES = (1_000, 10_000)
CORES = 2
REPEATS = 3
SLICES = 100


def measure(folder: Path, small: bool) -> str:
    """Run cohorts of 1,000 and 10,000 tiny NIfTI files; return the figures as Markdown."""
    rows = []
    for cases in (20, 40) if small else SIZES:
        place = folder / str(cases)
        make_cohort(place, cases)
        first = run(place, "config.yaml", CORES, place / "results" / "logs" / "journal.jsonl")
        again = [run(place, "config.yaml", CORES) for _ in range(REPEATS)]
        nothing = statistics.median(timing.wall_s for timing in again)
        one = change_one(place)
        rows.append(
            f"| {cases:,} | {first.first_case_s or float('nan'):.1f} s | {first.wall_s:.0f} s | {nothing:.1f} s "
            f"| {one:.1f} s | {max(t.peak_mb for t in [first, *again]):.0f} MB |"
        )
        print(rows[-1], flush=True)
        shutil.rmtree(place / "results")
    lines = [
        f"Scans of 10 x 10 x 6 voxels, {CORES} cores, all steps to the report; nothing to do: median of {REPEATS} runs "
        "(aim: at most 3 s and 10 s).",
        "",
        "| cases | first case done after | first run | nothing to do | one image changed | peak memory of Snakemake |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
        dicom_tree(folder, 20 if small else 1_000),
    ]
    return "\n".join(lines)


def make_cohort(folder: Path, cases: int) -> None:
    """Write tiny phantoms, their masks, a sheet and a configuration."""
    rng = np.random.default_rng(1)
    (folder / "data").mkdir(parents=True)
    z, y, x = np.mgrid[0:6, 0:10, 0:10]
    mask = ((z - 2.5) ** 2 + (y - 4.5) ** 2 + (x - 4.5) ** 2 < 9).astype(np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(mask), str(folder / "data" / "mask.nii.gz"))
    with open(folder / "cohort.tsv", "w") as stream:
        sheet = csv.writer(stream, delimiter="\t")
        sheet.writerow(["case_id", "centre", "image", "mask"])
        for n in range(cases):
            image = np.where(mask, 40, -100) + rng.normal(0, 10, mask.shape)
            sitk.WriteImage(sitk.GetImageFromArray(image.astype(np.int16)), str(folder / "data" / f"{n}.nii.gz"))
            sheet.writerow([f"case_{n:05d}", f"centre_{n % 10}", f"data/{n}.nii.gz", "data/mask.nii.gz"])
    features = {"imageType": {"Original": {}}, "featureClass": {"firstorder": ["Mean", "Variance"]}}
    (folder / "features.yaml").write_text(yaml.safe_dump(features))
    config = {
        "results": "results",
        "cohort": "cohort.tsv",
        "resample": {"spacing": [1, 1, 1]},
        "extract": {"params": "features.yaml", "min_voxels": 8},
        "harmonize": {"min_batch_size": 2},
        "report": {"max_overlays": 50},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def change_one(folder: Path) -> float:
    """Change one image and run again; return the wall seconds."""
    path = folder / "data" / "3.nii.gz"
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image + 1, str(path))
    return run(folder, "config.yaml", CORES).wall_s


def dicom_tree(folder: Path, cases: int) -> str:
    """Time what finding changes costs where a source is a folder of slices; return a sentence."""
    import time

    tree = folder / "tree"
    for n in range(cases):
        (tree / str(n)).mkdir(parents=True)
        for slice_ in range(SLICES):
            (tree / str(n) / f"{slice_}.dcm").write_bytes(b"")
    start = time.perf_counter()
    for n in range(cases):
        source_identity(tree / str(n))
    seconds = time.perf_counter() - start
    shutil.rmtree(tree)
    return (
        f"A source that is a folder of {SLICES} slices adds {seconds / cases * 1000:.2f} ms a case to every start "
        f"({cases:,} folders: {seconds:.1f} s), because every slice's size and time are looked at."
    )
