"""A small real cohort, and runs of the whole workflow on it that tell which (step, case) pairs were computed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import yaml

from radloom.engine.progress import read_journal

REPO = Path(__file__).resolve().parents[2]
IMAGING = ("ingest", "resample", "calibrate", "segment", "postprocess", "quality", "extract", "overlay")
CASES = {"a1": "alpha", "a2": "alpha", "a3": "alpha", "b1": "beta", "b2": "beta"}
Pairs = set[tuple[str, str]]


def write_case(folder: Path, case_id: str, seed: int, radius: float = 5.0) -> tuple[Path, Path]:
    """Write a ball of 40 HU in fat with air around it, and its mask; return their paths."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[0:14, 0:20, 0:20]
    distance = np.sqrt((2 * (z - 6.5)) ** 2 + (y - 9.5) ** 2 + (x - 9.5) ** 2)
    image = np.where(distance < 9.5, -100.0, -1000.0)
    image[distance < radius] = 40.0 + seed
    image += rng.normal(0, 8, image.shape)
    paths = folder / f"{case_id}.nii.gz", folder / f"{case_id}-mask.nii.gz"
    for array, path in zip((np.rint(image).astype(np.int16), (distance < radius).astype(np.uint8)), paths, strict=True):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing((1.0, 1.0, 2.0))
        sitk.WriteImage(volume, str(path))
    return paths


@dataclass
class Workspace:
    """A working directory with a cohort, a configuration and results."""

    folder: Path
    snakefile: Path = REPO / "Snakefile"
    rows: list[dict[str, str]] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def write(self) -> None:
        """Write the sheet and the configuration as they are now."""
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        lines = ["\t".join(columns)] + ["\t".join(row.get(c, "") for c in columns) for row in self.rows]
        (self.folder / "cohort.tsv").write_text("\n".join(lines) + "\n")
        (self.folder / "config.yaml").write_text(yaml.safe_dump(self.config))

    def set(self, section: str, **values: Any) -> None:
        """Change settings of a section of the configuration."""
        self.config[section] = {**self.config.get(section, {}), **values}

    def row(self, case_id: str) -> dict[str, str]:
        return next(row for row in self.rows if row["case_id"] == case_id)

    def run(self, cores: int = 2, whole: bool = False, until: set[str] | None = None) -> Pairs:
        """Run the workflow through Snakemake's API with the default profile; return the pairs that were computed.

        It ends at the tables or at the rules of `until`, or runs the `whole` chain.
        """
        self.write()
        (self.results / "logs" / "journal.jsonl").unlink(missing_ok=True)
        last = "tidy" if self.config.get("keep") == "final" else "overlay"
        run_api(self.snakefile, self.folder, cores, set() if whole else until or {"tables", last})
        return self.computed()

    def computed(self) -> Pairs:
        return {(e["step"], e["case_id"]) for e in read_journal(self.results) if e["computed"]}

    def command(self, cores: int = 2) -> list[str]:
        return [
            str(Path(sys.executable).parent / "snakemake"),
            *("--snakefile", str(self.snakefile), "--cores", str(cores), "--configfile", "config.yaml"),
        ]

    def run_command(self, *options: str, cores: int = 2) -> subprocess.CompletedProcess[str]:
        """Run the workflow by its command line, with further options of Snakemake."""
        self.write()
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RADLOOM", "PYTEST"))}
        return subprocess.run(
            [*self.command(cores), *options],
            cwd=self.folder,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )

    def tables(self) -> dict[str, bytes]:
        """Return every file that a statistician gets, by name."""
        found = {p.name: p.read_bytes() for p in sorted((self.results / "tables").iterdir())}
        assert found, "no tables"
        return found

    def copy(self, folder: Path) -> Workspace:
        """Return a copy with all results; the sources stay where they are."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Workspace(
            folder, self.snakefile, [dict(row) for row in self.rows], yaml.safe_load(yaml.safe_dump(self.config))
        )

    def own_code(self) -> Path:
        """Give the workspace its own clone of the code, to edit; return its root."""
        root = self.folder / "clone"
        for name in ("workflow", "profiles", "envs", "config"):
            shutil.copytree(
                REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
            )
        shutil.copy(REPO / "Snakefile", root / "Snakefile")
        self.snakefile = root / "Snakefile"
        return root


def run_api(snakefile: Path, folder: Path, cores: int, until: set[str]) -> None:
    """Run Snakemake in this process with the settings of profiles/default."""
    from snakemake.api import (
        ConfigSettings,
        DAGSettings,
        DeploymentSettings,
        ExecutionSettings,
        OutputSettings,
        ResourceSettings,
        SchedulingSettings,
        SnakemakeApi,
        StorageSettings,
        WorkflowSettings,
    )
    from snakemake.scheduling.greedy import SchedulerSettings as GreedySettings
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import RerunTrigger

    profile = yaml.safe_load((REPO / "profiles" / "default" / "config.yaml").read_text())
    before = Path.cwd()
    try:
        with SnakemakeApi(OutputSettings(quiet=Quietness.parse_choices_set(profile["quiet"]))) as api:
            workflow = api.workflow(
                resource_settings=ResourceSettings(cores=cores, resources=profile["resources"]),
                config_settings=ConfigSettings(configfiles=[folder / "config.yaml"]),
                storage_settings=StorageSettings(),
                workflow_settings=WorkflowSettings(),
                deployment_settings=DeploymentSettings(),
                snakefile=snakefile,
                workdir=folder,
            )
            dag = workflow.dag(
                DAGSettings(
                    until=until,
                    rerun_triggers=RerunTrigger.parse_choices_set(profile["rerun-triggers"]),
                    force_incomplete=profile["rerun-incomplete"],
                )
            )
            dag.execute_workflow(
                executor="local",
                execution_settings=ExecutionSettings(keep_going=profile["keep-going"]),
                scheduling_settings=SchedulingSettings(
                    scheduler=profile["scheduler"], subsample=profile["scheduler-subsample"]
                ),
                scheduler_settings=GreedySettings(),
            )
    finally:
        os.chdir(before)
