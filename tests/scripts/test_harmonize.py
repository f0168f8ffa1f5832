"""The harmonize script by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from statistics_cohort import cohort_tables

from radloom.combat import ComBatHarmonizer


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repo / "workflow" / "scripts" / "harmonize.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def write(folder: Path) -> pd.DataFrame:
    tables = cohort_tables(60)
    features = tables.features.drop(columns=["patient_id", "centre", "roi"])
    features.to_csv(folder / "features.csv", index=False)
    batches = tables.patients.set_axis(features["case_id"]).assign(center=list(tables.features["centre"]))
    batches.rename_axis("case_id").to_csv(folder / "batches.csv")
    return features.set_index("case_id")


def test_by_hand(repo: Path, tmp_path: Path) -> None:
    features = write(tmp_path)
    done = run(
        repo, tmp_path / "features.csv", tmp_path / "batches.csv", "--batch", "center", "--keep", "age", "sex",
        "--out", tmp_path / "out.csv", "--model", tmp_path / "combat.json", "--diagnostics", tmp_path / "d.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    batches = pd.read_csv(tmp_path / "batches.csv", index_col="case_id")
    expected = ComBatHarmonizer("center", ["age", "sex"]).fit_transform(features, metadata=batches)
    result = pd.read_csv(tmp_path / "out.csv", index_col="case_id", float_precision="round_trip")
    np.testing.assert_allclose(result[features.columns], expected, rtol=1e-13)
    assert list(result["centre"]) == list(batches["center"])
    saved = json.loads((tmp_path / "combat.json").read_text())
    assert saved["ROI"]["settings"]["covariates"] == ["age", "sex"]
    assert len(pd.read_csv(tmp_path / "d.csv")) == 12


def test_saved_parameters_give_the_same_bytes_by_hand(repo: Path, tmp_path: Path) -> None:
    features = write(tmp_path)
    tables = (tmp_path / "features.csv", tmp_path / "batches.csv")
    batches = pd.read_csv(tables[1], index_col="case_id", dtype=str)
    batches = batches.assign(kernel=["soft", "sharp", "sharp"] * 20)
    batches.to_csv(tables[1])
    fitted = run(
        repo, *tables, "--batch", "center", "--batch", "kernel", "--method", "covbat", "--keep", "age",
        "--exempt", "f3", "--out", tmp_path / "out.csv", "--model", tmp_path / "combat.json",
        "--rows", tmp_path / "rows.csv",
    )  # fmt: skip
    assert fitted.returncode == 0, fitted.stderr
    applied = run(
        repo, *tables, "--apply", tmp_path / "combat.json", "--out", tmp_path / "again.csv",
        "--rows", tmp_path / "again_rows.csv",
    )  # fmt: skip
    assert applied.returncode == 0, applied.stderr
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    assert (tmp_path / "again_rows.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
    result = pd.read_csv(tmp_path / "out.csv", index_col="case_id", float_precision="round_trip")
    assert result["f3"].equals(features["f3"])
    assert not np.allclose(result["f0"], features["f0"])

    new = batches.assign(center="new")
    new.to_csv(tables[1])
    adapted = run(
        repo, *tables, "--apply", tmp_path / "combat.json", "--out", tmp_path / "new.csv", "--new-batch", "adapt",
        "--rows", tmp_path / "rows.csv",
    )  # fmt: skip
    assert adapted.returncode == 0, adapted.stderr
    assert "the unseen batch new was adapted from its own 60 cases" in adapted.stdout
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert set(rows["status"][rows["batch"] == "new"]) == {"adapted (unseen batch)"}

    both = run(repo, *tables, "--apply", tmp_path / "combat.json", "--keep", "age", "--out", tmp_path / "x.csv")
    assert both.returncode == 1
    assert "leave out --keep" in both.stderr


def test_says_what_is_wrong(repo: Path, tmp_path: Path) -> None:
    write(tmp_path)
    done = run(
        repo, tmp_path / "features.csv", tmp_path / "batches.csv", "--batch", "scanner", "--out", tmp_path / "out.csv"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no column 'scanner'")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.csv").exists()
