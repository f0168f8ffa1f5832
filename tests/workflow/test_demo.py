"""The demo cohort through the whole chain, held against the truth that lies beside it."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from harness import REPO

from radloom.engine.files import read_json
from radloom.images import read_nifti

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo, made as `make demo` makes it."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("config", "resources"):
        (folder / name).symlink_to(REPO / name)
    script = REPO / "workflow" / "scripts" / "make_demo_cohort.py"
    subprocess.run([sys.executable, script, "--out", folder / "results" / "demo_cohort"], check=True)
    snakemake = Path(sys.executable).parent / "snakemake"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RADLOOM", "PYTEST"))}
    process = subprocess.run(
        [snakemake, "--snakefile", REPO / "Snakefile", "--cores", "2"],
        cwd=folder,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return folder / "results"


@pytest.fixture(scope="session")
def truth(demo: Path) -> pd.DataFrame:
    """What the generator knows of every case, by case_id."""
    return pd.read_csv(demo / "demo_cohort" / "truth" / "cases.tsv", sep="\t").set_index("case_id")


def table(demo: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(demo / "demo" / "tables" / f"{name}.csv", float_precision="round_trip")


def test_every_broken_case_is_excluded_and_no_good_one(demo: Path, truth: pd.DataFrame) -> None:
    with open(demo / "demo" / "tables" / "exclusions.csv") as stream:
        excluded = {row["case_id"]: row for row in csv.DictReader(stream)}
    broken = set(truth.index[truth["broken"].notna()])
    assert set(excluded) == broken
    assert all(row["reason"] and row["way_out"] for row in excluded.values())
    assert set(table(demo, "features_raw")["case_id"]) == set(truth.index) - broken


def test_calibration_recovers_the_drift(demo: Path, truth: pd.DataFrame) -> None:
    """Slope and intercept of every calibration undo those with which the generator distorted the case's HU."""
    for case_id, row in truth[truth["broken"].isna()].iterrows():
        record = read_json(demo / "demo" / "cases" / str(case_id) / "calibrate" / "record.json")
        # HU_observed = slope * HU_true + intercept; the calibration is its inverse, to what the sheet's digits allow.
        slope, intercept = record["facts"]["slope"], record["facts"]["intercept"]
        assert slope * row["hu_slope"] == pytest.approx(1, abs=1e-4), case_id
        assert slope * row["hu_intercept"] + intercept == pytest.approx(0, abs=0.1), case_id


def test_calibrated_images_show_the_organs_true_hu(demo: Path, truth: pd.DataFrame) -> None:
    differences = []
    for case_id, row in truth[truth["broken"].isna()].iterrows():
        folder = demo / "demo" / "cases" / str(case_id)
        image = read_nifti(folder / "calibrate" / "image.nii.gz").array
        labels = read_nifti(folder / "postprocess" / "roi.nii.gz").array
        differences.append(float(np.median(image[labels == 1])) - row["organ_hu"])
    assert np.median(np.abs(differences)) < 2
    assert np.max(np.abs(differences)) < 6


def test_the_unet_finds_organ_and_tumour(demo: Path, truth: pd.DataFrame) -> None:
    """Mean Dice on the chain's grid against the true masks, resampled as the chain resamples masks."""
    from radloom.images import from_sitk
    from radloom.resample import resample_mask

    dice: dict[int, list[float]] = {1: [], 2: []}
    for case_id in truth.index[truth["broken"].isna()]:
        found = read_nifti(demo / "demo" / "cases" / str(case_id) / "postprocess" / "roi.nii.gz")
        true = sitk.ReadImage(str(demo / "demo_cohort" / "truth" / f"{case_id}.nii.gz"))
        expected = resample_mask(from_sitk(true), (2.0, 2.0, 2.0))[0].array
        for label, values in dice.items():
            a, b = found.array == label, expected == label
            values.append(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))
    assert np.mean(dice[1]) > 0.93
    assert np.mean(dice[2]) > 0.80


def test_combat_removes_the_centre_and_keeps_the_tumour(demo: Path, truth: pd.DataFrame) -> None:
    raw = table(demo, "features_raw").set_index("case_id")
    harmonized = table(demo, "features_harmonized").set_index("case_id")
    diagnostics = table(demo, "combat_diagnostics")
    assert diagnostics["batch_r2_after"].median() < 0.02 < diagnostics["batch_r2_before"].median()
    # Volume and texture carry the hazard: both still follow the truth, and texture better than before.
    scores = truth.loc[harmonized.index]
    assert np.corrcoef(harmonized["original_shape_MeshVolume"], scores["volume_score"])[0, 1] > 0.85
    texture = "original_glcm_Contrast"
    before = np.corrcoef(raw.loc[harmonized.index, texture], scores["texture_score"])[0, 1]
    after = np.corrcoef(harmonized[texture], scores["texture_score"])[0, 1]
    assert after > before + 0.05
    assert after > 0.75


def test_the_penalised_cox_model_finds_the_hazards_sign(demo: Path, truth: pd.DataFrame) -> None:
    predictions = table(demo, "predictions")
    performance = table(demo, "performance")
    of_combat = (predictions["model"] == "cox") & (predictions["arm"] == "features_combat")
    cox = predictions[of_combat & (predictions["split"] == "cross-validation")]
    assert len(cox) == int(truth["broken"].isna().sum())
    hazard = truth.loc[cox["case_id"], "log_hazard"].to_numpy()
    within_fold = [
        np.corrcoef(group["risk"], hazard[cox["fold"].to_numpy() == fold])[0, 1] for fold, group in cox.groupby("fold")
    ]
    assert np.mean(within_fold) > 0.3
    leading = performance[
        (performance["model"] == "cox")
        & (performance["arm"] == "features_combat")
        & performance["metric"].isin(["c_index", "c_index_within_centre"])
        & (performance["leads"] == "yes")
    ].set_index("split")["estimate"]
    assert leading["cross-validation"] > 0.55
    assert leading["leave-one-centre-out"] > 0.55


def test_a_second_run_has_nothing_to_do(demo: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RADLOOM", "PYTEST"))}
    process = subprocess.run(
        [Path(sys.executable).parent / "snakemake", "--snakefile", REPO / "Snakefile", "--cores", "2"],
        cwd=demo.parent,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    assert "Nothing to be done" in process.stderr
