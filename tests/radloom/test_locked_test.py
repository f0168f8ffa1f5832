"""The locked test set: nobody sees it before it is opened, and the ledger remembers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statistics_cohort import cohort_tables, configuration

from radloom.analysis_plan import plan_hash
from radloom.assembly import CohortTables
from radloom.errors import CohortError
from radloom.locked_test import in_test_set, ledger_warnings, read_ledger, settings_hash, write_opening
from radloom.model_cox import model_cox
from radloom.model_logistic import model_logistic
from radloom.modelling import ModelTables

TEST_SET = {"column": "set", "value": "test"}
QUICK: dict[str, Any] = {
    "model__refits": 2,
    "model__bootstraps": 10,
    "analysis_plan__metrics": ["c_index", "auc"],
    "analysis_plan__arms": ["clinical", "features_combat"],
    "analysis_plan__covariates": ["age", "stage"],
    "harmonize__covariates": ["age"],
    "harmonize__new_batch": "adapt",
}


def locked_tables(n: int = 90) -> tuple[CohortTables, np.ndarray]:
    """A cohort of which every fifth case is locked, and which ones."""
    tables = cohort_tables(n, effect=1.5)
    locked = np.arange(n) % 5 == 4
    tables.cases["set"] = np.where(locked, "test", "train")
    tables.patients["stage"] = np.repeat(["I", "II", "III"], n // 3 + 1)[:n]
    return tables, locked


def run(kind: str, tables: CohortTables, ledger: Path | None = None, **changes: Any) -> ModelTables:
    step = model_cox if kind == "cox" else model_logistic
    plan = {"analysis_plan__test_set": TEST_SET, **QUICK, **changes}
    return step(tables, configuration(**plan), 1, ledger)


# ------------------------------------------------------------------------------ who is in it


def test_who_is_in_it() -> None:
    tables, locked = locked_tables()
    np.testing.assert_array_equal(in_test_set(tables, tables.features, TEST_SET), locked)
    assert not in_test_set(tables, tables.features, None).any()
    tables.cases["number"] = np.where(locked, "1", "0")
    np.testing.assert_array_equal(in_test_set(tables, tables.features, {"column": "number", "value": 1}), locked)


def test_a_set_that_is_nobody_or_everybody_is_refused() -> None:
    tables, _ = locked_tables()
    with pytest.raises(CohortError, match=r"no case has set 'later'\. There are: test, train"):
        in_test_set(tables, tables.features, {"column": "set", "value": "later"})
    with pytest.raises(CohortError, match="every case has roi"):
        in_test_set(tables, tables.features, {"column": "roi", "value": "tumour"})
    tables.cases.loc["K003", "set"] = ""
    with pytest.raises(CohortError, match="set is empty for K003: it must say of every case"):
        in_test_set(tables, tables.features, TEST_SET)


def test_a_patient_on_both_sides_is_refused() -> None:
    tables, _ = locked_tables()
    tables.features.loc[4, "patient_id"] = "P007"
    with pytest.raises(CohortError, match="patients are on both sides of the lock: P007"):
        in_test_set(tables, tables.features, TEST_SET)


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_a_patient_on_both_sides_is_refused_though_models_use_one_case_of_them(kind: str) -> None:
    tables, _ = locked_tables()
    tables.features.loc[9, "patient_id"] = "P007"
    with pytest.raises(CohortError, match="patients are on both sides of the lock: P007"):
        run(kind, tables)


# ------------------------------------------------------------------------------- nobody sees it


@pytest.mark.parametrize("kind", ["cox", "logistic"])
@pytest.mark.parametrize("planned", [True, False], ids=["horizon", "no horizon"])
def test_what_is_locked_changes_nothing(kind: str, planned: bool) -> None:
    tables, locked = locked_tables()
    changes = {} if planned else {"analysis_plan__horizons": []}
    before = run(kind, tables, **changes)
    rng = np.random.default_rng(0)
    names = tables.feature_names
    tables.features.loc[locked, names] = 1e6 * rng.standard_cauchy((int(locked.sum()), len(names)))
    tables.features.loc[4, names[0]] = np.nan
    patients = tables.patients.index[locked]
    tables.patients.loc[patients, "age"] = "1000"
    tables.patients.loc[patients[::2], "stage"] = "A"  # a word that sorts before all others
    tables.patients.loc[patients[1::2], "stage"] = "IV"
    tables.patients.loc[patients, "days"] = [f"{number}.5" for number in range(1, len(patients) + 1)]
    for name in ("died", "response"):
        told = tables.patients.loc[patients, name]
        tables.patients.loc[patients, name] = np.where(told == "1", "0", "1")
    after = run(kind, tables, **changes)
    assert before.facts["n"] == int((~locked).sum())
    for name, table in before.tables.items():
        pd.testing.assert_frame_equal(after.tables[name], table, check_exact=True, obj=name)
    assert json.dumps(after.description) == json.dumps(before.description)
    assert after.facts == before.facts
    assert after.warnings == before.warnings
    assert "18 cases are in the locked test set: no model was fitted to them" in before.warnings


def test_cases_that_are_not_locked_do_change_the_results() -> None:
    tables, _ = locked_tables()
    before = run("logistic", tables)
    tables.features.loc[0, tables.feature_names] = 50.0
    after = run("logistic", tables)
    assert not after.tables["predictions"].equals(before.tables["predictions"])


def test_locked_cases_are_in_no_table_before() -> None:
    tables, locked = locked_tables()
    found = run("cox", tables)
    names = set(tables.features["case_id"][locked])
    assert not names & set(found.tables["predictions"]["case_id"])
    assert "locked-test" not in set(found.tables["performance"]["split"])


# ---------------------------------------------------------------------------------- opened


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_opened_it_judges_models_of_all_the_others(kind: str, tmp_path: Path) -> None:
    tables, locked = locked_tables()
    ledger = tmp_path / "ledger" / "openings.jsonl"
    closed = run(kind, tables, ledger)
    assert not ledger.exists()
    found = run(kind, tables, ledger, analysis_plan__open_test_set=True)
    table = found.tables["performance"]
    rows = table[table["split"] == "locked-test"]
    assert set(rows["arm"]) == {"clinical", "features_combat"}
    own = rows[(rows["centre"] == "all") & (rows["arm"] == "features_combat")].set_index("metric")
    metric = "c_index" if kind == "cox" else "auc"
    assert own.loc[metric, "n"] == locked.sum()
    assert own.loc[metric, "status"] == "estimable"
    predictions = found.tables["predictions"]
    opened = predictions[predictions["split"] == "locked-test"]
    assert sorted(opened[opened["arm"] == "clinical"]["case_id"]) == sorted(tables.features["case_id"][locked])
    assert opened["fold"].eq("").all()
    # The lines of what was known before are the same to the last bit.
    for name, before in closed.tables.items():
        after = found.tables[name]
        kept = after[after["split"] != "locked-test"].reset_index(drop=True) if "split" in after else after
        pd.testing.assert_frame_equal(kept, before, check_exact=True, check_dtype=False, obj=name)


def test_the_model_that_is_opened_is_the_reported_one() -> None:
    tables, _ = locked_tables()
    found = run("logistic", tables, analysis_plan__open_test_set=True, analysis_plan__arms=["features"])
    arm = found.description["arms"]["features"]
    predictions = found.tables["predictions"]
    opened = predictions[predictions["split"] == "locked-test"].set_index("case_id")
    features = tables.features.set_index("case_id").loc[opened.index]
    risk = np.full(len(opened), arm["intercept"])
    assert arm["terms"]
    for term in arm["terms"]:
        risk += term["coefficient_per_sd"] * (features[term["term"]] - term["mean"]) / term["sd"]
    np.testing.assert_allclose(opened["risk"].astype(float), risk, rtol=1e-10)


def test_the_ledger_has_one_line_a_plan(tmp_path: Path) -> None:
    tables, locked = locked_tables()
    ledger = tmp_path / "openings.jsonl"
    quick = {"analysis_plan__open_test_set": True, "analysis_plan__arms": ["clinical"], "model__refits": 0}
    first = run("logistic", tables, ledger, **quick)
    assert len(read_ledger(ledger)) == 1
    line = read_ledger(ledger)[0]
    assert line["n"] == locked.sum()
    assert line["events"] == int((tables.patients["response"][locked] == "1").sum())
    assert line["analysis_plan"] == first.facts["analysis_plan"]
    assert not [message for message in first.warnings if "opened" in message]
    content = ledger.read_bytes()
    run("logistic", tables, ledger, **quick)
    assert ledger.read_bytes() == content
    second = run("logistic", tables, ledger, **quick, analysis_plan__thresholds=[0.4])
    assert len(read_ledger(ledger)) == 2
    told = "\n".join(second.warnings)
    assert "was changed after the locked test set had been opened" in told
    assert "opened with 2 different plans or settings" in told
    again = run("logistic", tables, ledger, **{**quick, "analysis_plan__open_test_set": False})
    assert any("2 different plans" in message for message in again.warnings)


def test_a_refused_model_tells_of_the_ledger_as_well(tmp_path: Path) -> None:
    tables, _ = locked_tables()
    ledger = tmp_path / "openings.jsonl"
    write_opening(ledger, configuration(analysis_plan__thresholds=[0.4]), 5, 2)
    refused = run("logistic", tables, ledger, model__min_events=80)
    assert any("was changed after the locked test set" in message for message in refused.warnings)


# ---------------------------------------------------------------------------------- ledger


def test_ledger_compares_plan_and_settings(tmp_path: Path) -> None:
    ledger = tmp_path / "deep" / "openings.jsonl"
    params = configuration()
    assert read_ledger(None) == read_ledger(ledger) == []
    assert ledger_warnings([], params) == []
    write_opening(None, params, 5, 2)
    write_opening(ledger, params, 5, 2)
    openings = read_ledger(ledger)
    assert set(openings[0]) == {"opened", "analysis_plan", "settings", "n", "events"}
    assert openings[0]["analysis_plan"] == plan_hash(params)
    assert ledger_warnings(openings, params) == []
    changed = configuration(model_cox__l1_ratio=0.5)
    assert settings_hash(changed) != settings_hash(params)
    told = ledger_warnings(openings, changed)
    assert len(told) == 1
    assert told[0].startswith("settings of the models were changed after the locked test set had been opened on")
    other = configuration(analysis_plan__covariates=["age"])
    told = ledger_warnings(openings, other)
    assert len(told) == 1
    assert f"the analysis plan ({plan_hash(other)}) was changed" in told[0]
    write_opening(ledger, other, 5, 2)
    assert len(ledger_warnings(read_ledger(ledger), params)) == 1
    assert len(ledger_warnings(read_ledger(ledger), other)) == 2
    with ledger.open("a") as stream:
        stream.write("\n")
    assert len(read_ledger(ledger)) == 2
