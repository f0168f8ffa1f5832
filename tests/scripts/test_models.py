"""The two model scripts by hand."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from statistics_cohort import cohort_tables

from radloom.assembly import read_by_hand
from radloom.config import complete
from radloom.model_cox import TABLES
from radloom.model_logistic import model_logistic
from radloom.model_tables import MODEL_TABLES
from radloom.validation import ARMS


def run(repo: Path, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repo / "workflow" / "scripts" / script, *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    made = cohort_tables(90)
    made.features.drop(columns=["case_id", "roi"]).to_csv(folder / "features.csv", index=False)
    made.patients.to_csv(folder / "clinical.tsv", sep="\t")
    return folder


def test_cox_by_hand(repo: Path, tables: Path, tmp_path: Path) -> None:
    done = run(
        repo, "model_cox.py", tables / "features.csv", tables / "clinical.tsv", "--time", "days", "--event", "died",
        "--clinical-columns", "age", "sex", "--keep", "age", "--bootstraps", 20, "--refits", 2, "--horizons", 20,
        "--subgroups", "sex", "--new-batch", "adapt", "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "90 cases" in done.stdout
    performance = pd.read_csv(tmp_path / "performance.csv")
    assert set(performance["arm"]) == set(ARMS)
    assert set(performance["centre"]) == {"all", "C0", "C1", "C2", "random effects", "worst"}
    assert set(performance["split"]) == {"cross-validation", "leave-one-centre-out", "optimism-corrected"}
    assert set(performance["subgroup"].dropna()) == {"sex: F", "sex: M"}
    assert set(performance["horizon"].dropna()) == {20}
    model = json.loads((tmp_path / "model.json").read_text())
    assert (model["model"], model["refits"], model["bootstraps"]) == ("cox", 2, 20)
    plan = model["analysis_plan"]
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert set(tables) == set(TABLES)
    for name, table in tables.items():
        assert list(table.columns) == MODEL_TABLES[name]
        assert (table["analysis_plan"] == plan).all()


def test_by_hand_is_the_step_with_the_schemas_defaults(repo: Path, tables: Path, tmp_path: Path) -> None:
    done = run(
        repo, "model_logistic.py", tables / "features.csv", tables / "clinical.tsv", "--outcome", "response",
        "--clinical-columns", "age", "--bootstraps", 20, "--refits", 2, "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    params = complete({"results": "results"})
    params["analysis_plan"] |= {"outcome": "response", "covariates": ["age"]}
    params["model"] |= {"bootstraps": 20, "refits": 2}
    read = read_by_hand(tables / "features.csv", tables / "clinical.tsv", "centre", ["response", "age"])
    expected = model_logistic(read, params)
    for name, table in expected.tables.items():
        assert (tmp_path / f"{name}.csv").read_text() == table.to_csv(index=False, lineterminator="\n"), name
    assert json.loads((tmp_path / "model.json").read_text()) == expected.description


def test_the_endpoint_in_the_feature_table_is_no_predictor(repo: Path, tables: Path, tmp_path: Path) -> None:
    features = pd.read_csv(tables / "features.csv", dtype=str)
    clinical = pd.read_csv(tables / "clinical.tsv", sep="\t", dtype=str)
    features.merge(clinical[["patient_id", "days", "died"]]).to_csv(tmp_path / "features.csv", index=False)
    clinical[["patient_id", "age"]].to_csv(tmp_path / "clinical.csv", index=False)
    done = run(
        repo, "model_cox.py", tmp_path / "features.csv", tmp_path / "clinical.csv", "--time", "days", "--event", "died",
        "--bootstraps", 10, "--refits", 0, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    model = json.loads((tmp_path / "out" / "model.json").read_text())
    assert set(model["arms"]["features"]["medians"]) == {f"f{number}" for number in range(12)}


def test_a_ridge_is_refused_by_hand(repo: Path, tables: Path, tmp_path: Path) -> None:
    done = run(
        repo, "model_cox.py", tables / "features.csv", tables / "clinical.tsv", "--time", "days", "--event", "died",
        "--l1-ratio", 0, "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: l1_ratio of the Cox model must be above 0")


def test_logistic_by_hand_with_too_few_cases(repo: Path, tables: Path, tmp_path: Path) -> None:
    done = run(
        repo, "model_logistic.py", tables / "features.csv", tables / "clinical.tsv", "--outcome", "response",
        "--min-events", 80, "--out", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the model was not fitted" in done.stdout
    assert set(pd.read_csv(tmp_path / "performance.csv")["status"]) == {"not estimable"}
    assert (tmp_path / "predictions.csv").read_text().strip() == ",".join(MODEL_TABLES["predictions"])


def test_says_what_is_wrong(repo: Path, tables: Path, tmp_path: Path) -> None:
    done = run(
        repo, "model_cox.py", tables / "features.csv", tables / "clinical.tsv", "--time", "weeks", "--event", "died",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: there is no column 'weeks'")
