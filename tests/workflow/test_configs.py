"""The configurations for real data run to their end, and what comes out is what their data allow."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from harness import REPO

pytestmark = pytest.mark.slow


def run(name: str, results: Path, **sections: Any) -> Path:
    """Run a configuration of tests/configs, with its results elsewhere and perhaps other sections."""
    config = yaml.safe_load((REPO / "tests" / "configs" / f"{name}.yaml").read_text())
    config |= {"results": str(results), **sections}
    path = results.parent / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RADLOOM", "PYTEST"))}
    # Snakemake's own records stay out of the project, and the paths of the configuration still lead to the data.
    for folder in ("tests", "config", "resources"):
        (results.parent / folder).symlink_to(REPO / folder)
    snakemake = Path(sys.executable).parent / "snakemake"
    command = [snakemake, "--snakefile", REPO / "Snakefile", "--cores", "2", "--configfile", path]
    process = subprocess.run(
        [*command, "--directory", results.parent], env=environment, text=True, capture_output=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return results


@pytest.fixture
def place(tmp_path: Path, shared_data: Path) -> Path:
    """Return where results go, in a folder from which ../shared/data is found."""
    (tmp_path / "shared").symlink_to(shared_data.parent)
    (tmp_path / "project").mkdir()
    return tmp_path / "project" / "results"


def test_real_tumours_run_through_the_whole_chain(place: Path) -> None:
    # At 2 mm an eighth of the voxels, and few starts of jobs: the same chain in a third of the time.
    tables = run("sts", place, resample={"spacing": [2, 2, 2]}, cases_per_job=7) / "tables"
    assert pd.read_csv(tables / "exclusions.csv").empty
    features = pd.read_csv(tables / "features_raw.csv", float_precision="round_trip")
    assert len(features) == 26
    assert features.notna().all(axis=None)
    assert features["original_shape_VoxelVolume"].between(1e4, 3e6).all()
    acquisition = pd.read_csv(tables / "acquisition.csv").set_index("case_id")
    assert list(acquisition.loc[["STS_003", "STS_019", "STS_025"], "manufacturer"]) == ["GE"] * 3
    performance = pd.read_csv(tables / "performance.csv")
    assert set(performance["model"]) == {"cox", "logistic"}
    estimated = performance[performance["status"] == "estimable"]
    assert len(estimated)
    assert estimated["note"].str.contains("spite of the sample size").all()
    assert (place / "report.html").stat().st_size > 1e6


def test_features_extracted_elsewhere_enter_at_the_tables(place: Path) -> None:
    results = run("hn_two_centres", place)
    table = pd.read_csv(results / "tables" / "features_raw.csv")
    assert len(table) == 469
    assert (results / "tables" / "features_harmonized.parquet").exists()
    performance = pd.read_csv(results / "tables" / "performance.csv")
    c_index = performance[(performance["metric"] == "c_index") & performance["subgroup"].isna()]
    estimate = c_index.set_index(["split", "arm", "centre"])["estimate"]
    # Age, sex and features of 469 patients: far from chance, and far from too good.
    for split in ("cross-validation", "leave-one-centre-out", "optimism-corrected"):
        assert 0.6 < estimate[split, "clinical", "all"] < 0.8
        assert 0.55 < estimate[split, "features_combat", "all"] < 0.75
    assert (results / "report.html").exists()
