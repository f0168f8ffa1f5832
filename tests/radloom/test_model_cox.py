"""The Cox step as a whole: its tables, its refusals, and that order leaks nowhere."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom.assembly import CohortTables
from radloom.combat import HarmonizationError
from radloom.engine.step import CohortTask
from radloom.errors import CohortError
from radloom.model_cox import PH_COLUMNS, PREDICTION_COLUMNS, model_cox, run_step
from radloom.validation import COEFFICIENT_COLUMNS, PERFORMANCE_COLUMNS, ModelTables


@pytest.fixture(scope="module")
def tables() -> CohortTables:
    return cohort_tables()


@pytest.fixture(scope="module")
def fitted(tables: CohortTables) -> ModelTables:
    return model_cox(tables, configuration(analysis_plan__covariates=["age", "sex"], harmonize__covariates=["age"]))


def test_finds_the_planted_effect(fitted: ModelTables) -> None:
    coefficients = fitted.coefficients.set_index(["arm", "term"])
    for arm in ("features", "features_combat", "features_combat+clinical"):
        assert coefficients.loc[(arm, "f0"), "coefficient"] > 0.3
        assert coefficients.loc[(arm, "f0"), "selected_in_folds"] == 5
    c = fitted.performance.set_index(["arm", "metric", "centre"])["estimate"]
    assert c["features_combat", "c_index", "all"] > 0.65
    assert c["features_combat", "c_index", "all"] > c["clinical", "c_index", "all"] + 0.1
    assert c["features_combat", "uno_c", "all"] > 0.65


def test_tables_have_their_columns(fitted: ModelTables, tables: CohortTables) -> None:
    assert list(fitted.coefficients.columns) == COEFFICIENT_COLUMNS
    assert list(fitted.performance.columns) == PERFORMANCE_COLUMNS
    assert list(fitted.predictions.columns) == PREDICTION_COLUMNS
    assert fitted.ph_test is not None
    assert list(fitted.ph_test.columns) == PH_COLUMNS
    predictions = fitted.predictions
    for _, arm in predictions.groupby("arm"):
        assert list(arm["case_id"]) == list(tables.features["case_id"])
        assert set(arm["fold"]) == {1, 2, 3, 4, 5}
        assert arm["risk"].notna().all()
    estimable = fitted.performance[fitted.performance["status"] == "estimable"]
    assert (estimable["ci_low"] <= estimable["estimate"]).all()
    assert (estimable["estimate"] <= estimable["ci_high"]).all()
    clinical = fitted.ph_test[fitted.ph_test["arm"] == "clinical"]
    assert list(clinical["term"])[:3] == ["age", "sex[M]", "GLOBAL"]
    assert fitted.ph_test["p"].between(0, 1).all()
    assert (fitted.coefficients["override"] == "false").all()


def test_order_of_rows_changes_nothing(tables: CohortTables, fitted: ModelTables) -> None:
    order = np.random.default_rng(3).permutation(len(tables.features))
    turned = CohortTables(tables.features.iloc[order], tables.cases[::-1], tables.patients[::-1])
    again = model_cox(turned, configuration(analysis_plan__covariates=["age", "sex"], harmonize__covariates=["age"]))
    pd.testing.assert_frame_equal(again.performance, fitted.performance, check_exact=True)
    pd.testing.assert_frame_equal(again.coefficients, fitted.coefficients, check_exact=True)
    assert again.ph_test is not None
    pd.testing.assert_frame_equal(again.ph_test, fitted.ph_test, check_exact=True)
    keys = ["arm", "case_id"]
    pd.testing.assert_frame_equal(
        again.predictions.sort_values(keys, ignore_index=True),
        fitted.predictions.sort_values(keys, ignore_index=True),
        check_exact=True,
    )
    assert list(again.predictions["case_id"][:120]) == list(turned.features["case_id"])


def test_too_few_events_are_refused_and_marked_on_request() -> None:
    tables = cohort_tables(60)
    refused = model_cox(tables, configuration(model__min_events=200))
    events = int(tables.patients["died"].astype(int).sum())
    assert set(refused.performance["status"]) == {"not estimable"}
    assert f"{events} events among 60 cases, 200 needed" in refused.performance["note"].iloc[0]
    assert refused.performance["estimate"].isna().all()
    assert refused.predictions.empty
    assert list(refused.predictions.columns) == PREDICTION_COLUMNS
    assert refused.coefficients.empty
    assert refused.facts["status"] == "not estimable"
    marked = model_cox(tables, configuration(model__min_events=200, model__override_sample_size=True))
    assert (marked.coefficients["override"] == "true").all()
    assert marked.performance["note"].str.contains("in spite of the sample size").all()
    assert marked.facts["override"]


def test_unusable_cases_are_named() -> None:
    tables = cohort_tables()
    tables.patients.loc["P000", "days"] = "0"
    tables.patients.loc["P001", "died"] = "2"
    tables.patients.loc["P002", "days"] = ""
    result = model_cox(tables, configuration(model__bootstraps=50))
    assert result.facts["n"] == 117
    text = "\n".join(result.warnings)
    assert "1 cases left out of the model, with a time that is not above 0: K000" in text
    assert "with an event other than 0 or 1: K001" in text
    assert "without a time or an event: K002" in text


def test_the_outcome_can_not_be_kept_by_combat(tables: CohortTables) -> None:
    with pytest.raises(HarmonizationError, match="'died' is an outcome"):
        model_cox(tables, configuration(harmonize__covariates=["died"]))
    with pytest.raises(CohortError, match=r"analysis_plan\.time"):
        model_cox(tables, configuration(analysis_plan__time=None))


@pytest.mark.parametrize("part", ["harmonize__batch", "analysis_plan__covariates"])
def test_the_outcome_under_another_name_is_refused(part: str) -> None:
    tables = cohort_tables(60)
    tables.patients["status"] = np.where(tables.patients["died"] == "1", "dead", "alive")
    for name, message in (("died", "is an outcome"), ("status", "says the same as the outcome 'died'")):
        value = name if part == "harmonize__batch" else [name]
        with pytest.raises(HarmonizationError, match=f"'{name}' {message}"):
            model_cox(tables, configuration(**{part: value}))


@pytest.mark.parametrize("l1_ratio", [0, 1.5])
def test_a_ridge_is_refused(tables: CohortTables, l1_ratio: float) -> None:
    with pytest.raises(CohortError, match="l1_ratio of the Cox model must be above 0"):
        model_cox(tables, configuration(model_cox__l1_ratio=l1_ratio))


def test_noise_selects_next_to_nothing(fitted: ModelTables) -> None:
    selected, in_folds = [], []
    for seed in range(5, 9):
        result = model_cox(cohort_tables(effect=0.0, seed=seed), configuration(model__bootstraps=50))
        terms = result.coefficients[result.coefficients["arm"] == "features_combat"]
        selected.append(int((terms["coefficient"] != 0).sum()))
        in_folds.append(terms["selected_in_folds"].sum() / 5)
        c = result.performance[result.performance["metric"] == "c_index"]
        assert c[c["centre"] == "all"]["estimate"].between(0.35, 0.65).all()
    # Of 12 features; the same cohort with an effect selects more.
    assert np.mean(selected) <= 2
    assert np.mean(in_folds) <= 2
    planted = fitted.coefficients[fitted.coefficients["arm"] == "features_combat"]
    assert (planted["coefficient"] != 0).sum() > np.mean(selected)


def test_the_model_file_says_what_fills_a_gap_and_how_many_folds_there_were(fitted: ModelTables) -> None:
    arm = fitted.description["arms"]["features_combat+clinical"]
    assert {"f0", "f11", "age"} <= set(arm["medians"])
    assert list(arm["commonest_words"]) == ["sex"]
    assert arm["inner_folds"] == 10
    assert {fold["inner_folds"] for fold in arm["folds"]} == {10}
    few = cohort_tables(60)
    few.patients["died"] = ["1"] * 8 + ["0"] * 52
    description = model_cox(few, configuration(model__override_sample_size=True, model__bootstraps=50)).description
    arm = description["arms"]["features"]
    assert [fold["inner_folds"] for fold in arm["folds"]] == [6] * 4
    assert arm["inner_folds"] == 8


def test_step_writes_its_files(tmp_path: Path) -> None:
    inputs = write_tables(cohort_tables(60), tmp_path)
    task = CohortTask(configuration(model__bootstraps=50), [], {}, inputs, tmp_path / "out")
    result = run_step(task)
    folder = tmp_path / "out" / "models" / "cox"
    names = {"coefficients.csv", "performance.csv", "predictions.csv", "ph_test.csv", "model.json"}
    assert {path.name for path in folder.iterdir()} == names
    model = json.loads((folder / "model.json").read_text())
    assert model["n"] == result.facts["n"] == 60
    assert sum(fold["n"] for fold in model["arms"]["features"]["folds"]) == 60
    assert model["arms"]["features_combat"]["combat"]["batches"] == ["C0", "C1", "C2"]
