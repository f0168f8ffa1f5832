"""Orchestration overhead: what the chain costs beyond the seconds in which its steps compute."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import yaml

from benchmarks.workflow_runs import REPO, run
from radloom.engine.files import read_json
from radloom.engine.steps import STEPS

CASES = 200
CORES = 2


def measure(folder: Path, small: bool) -> str:
    """Run the chain on 200 cases of the size of real soft-tissue sarcomas; return the figures as Markdown."""
    source = REPO.parent / "shared" / "data" / "sts"
    if not source.is_dir():
        return "Not measured: the reference data are not at ../shared/data."
    images = sorted((source / "images").glob("*.nii.gz"))
    cases = 8 if small else CASES
    with open(folder / "cohort.tsv", "w") as stream:
        sheet = csv.writer(stream, delimiter="\t")
        sheet.writerow(["case_id", "centre", "image", "mask"])
        for n in range(cases):
            image = images[n % len(images)]
            sheet.writerow([f"case_{n:03d}", f"centre_{n % 4}", image, source / "masks" / image.name])
    config = {
        "results": "results",
        "cohort": "cohort.tsv",
        "extract": {"params": str(REPO / "config" / "pyradiomics.yaml")},
        "harmonize": {"min_batch_size": 2},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    timing = run(folder, "config.yaml", CORES)
    again = run(folder, "config.yaml", CORES)
    seconds: defaultdict[str, float] = defaultdict(float)
    peaks: defaultdict[str, float] = defaultdict(float)
    for path in [*folder.glob("results/cases/*/*/record.json"), *folder.glob("results/steps/*/record.json")]:
        record = read_json(path)
        seconds[record["step"]] += record["seconds"]
        peaks[record["step"]] = max(peaks[record["step"]], record["peak_mb"])
    total = sum(seconds.values())
    ratio = timing.wall_s / (total / CORES)
    lines = [
        f"{cases} cases of the size of `sts` (23 real tumour CTs, repeated), {CORES} cores, all steps to the report.",
        "",
        "| figure | value |",
        "|---|---|",
        f"| wall time of the chain | {timing.wall_s:.0f} s |",
        f"| sum of the steps' own seconds / cores | {total / CORES:.0f} s |",
        f"| **ratio** (aim: at most 1.05) | **{ratio:.3f}** |",
        f"| run again with nothing to do | {again.wall_s:.1f} s |",
        f"| peak memory of Snakemake | {timing.peak_mb:.0f} MB |",
        "",
        "| step | seconds a case | peak memory of a case (MB) |",
        "|---|---|---|",
    ]
    for step, spec in STEPS.items():
        if step in seconds and spec.by_case:
            lines.append(f"| {step} | {seconds[step] / cases:.2f} | {peaks[step]:.0f} |")
    whole = {step: s for step, s in seconds.items() if not STEPS[step].by_case}
    lines.append("")
    lines.append("Whole-cohort steps: " + ", ".join(f"{step} {s:.1f} s" for step, s in whole.items()) + ".")
    return "\n".join(lines)
