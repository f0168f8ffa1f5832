"""The logistic step as a whole."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom.assembly import CohortTables
from radloom.engine.step import CohortTask
from radloom.errors import CohortError
from radloom.model_logistic import PREDICTION_COLUMNS, model_logistic, run_step
from radloom.validation import ModelTables


@pytest.fixture(scope="module")
def fitted() -> ModelTables:
    return model_logistic(cohort_tables(effect=1.5), configuration())


def test_finds_the_planted_effect(fitted: ModelTables) -> None:
    coefficients = fitted.coefficients.set_index(["arm", "term"])
    assert coefficients.loc[("features_combat", "f0"), "coefficient"] > 0.4
    assert ("features_combat", "(Intercept)") in coefficients.index
    performance = fitted.performance.set_index(["arm", "metric", "centre"])
    auc = performance.loc[("features_combat", "auc", "all")]
    assert auc["ci_low"] > 0.6
    assert auc["events"] == performance.loc[("features_combat", "auc", ["C0", "C1", "C2"]), "events"].sum()
    assert performance.loc[("features_combat", "brier", "all"), "estimate"] < 0.24
    assert 0.3 < performance.loc[("features_combat", "calibration_slope", "all"), "estimate"] < 3
    assert abs(performance.loc[("features_combat", "calibration_in_the_large", "all"), "estimate"]) < 0.3


def test_probabilities_belong_to_the_risks(fitted: ModelTables) -> None:
    predictions = fitted.predictions
    assert list(predictions.columns) == PREDICTION_COLUMNS
    np.testing.assert_allclose(predictions["probability"], expit(predictions["risk"]))
    for arm, rows in predictions.groupby("arm"):
        squares = (rows["probability"] - rows["outcome"]) ** 2
        brier = fitted.performance.set_index(["arm", "metric", "centre"]).loc[(arm, "brier", "all"), "estimate"]
        assert brier == pytest.approx(squares.mean())
    assert fitted.ph_test is None


def test_order_of_rows_changes_nothing(fitted: ModelTables) -> None:
    tables = cohort_tables(effect=1.5)
    turned = CohortTables(tables.features[::-1], tables.cases[::-1], tables.patients[::-1])
    again = model_logistic(turned, configuration())
    pd.testing.assert_frame_equal(again.performance, fitted.performance, check_exact=True)
    pd.testing.assert_frame_equal(again.coefficients, fitted.coefficients, check_exact=True)


def test_the_rarer_class_counts() -> None:
    tables = cohort_tables(60)
    tables.patients["response"] = ["0"] * 6 + ["1"] * 54
    refused = model_logistic(tables, configuration())
    assert "6 cases of the rarer class among 60 cases, 20 needed" in refused.performance["note"].iloc[0]
    marked = model_logistic(tables, configuration(model__override_sample_size=True))
    assert marked.performance["note"].str.contains("in spite of").any()
    assert set(marked.predictions["fold"]) == {1, 2, 3}


def test_constant_predictions_have_no_calibration_slope() -> None:
    tables = cohort_tables(60)
    tables.features[tables.feature_names] = np.tile([[0.0] * 11 + [1.0], [0.0] * 12], (30, 1))
    tables.patients["response"] = np.tile(["1", "1", "0", "0"], 15)
    result = model_logistic(tables, configuration(model__bootstraps=50))
    rows = result.performance[result.performance["arm"] == "features"].set_index("metric")
    for metric in ("calibration_slope", "calibration_intercept"):
        assert rows.loc[metric, "status"] == "not estimable"
        assert rows.loc[metric, "note"] == "the predicted risks are equal within every fold"
    assert rows.loc["calibration_in_the_large", "status"] == "estimable"


def test_the_slope_says_how_it_was_estimated(fitted: ModelTables) -> None:
    rows = fitted.performance[fitted.performance["metric"] == "calibration_slope"]
    assert rows["note"].str.startswith("within folds: an intercept for each fold").all()
    assert (rows["status"] == "estimable").all()


def test_a_batch_that_missing_outcomes_make_small_leaves_its_arms_unfitted() -> None:
    tables = cohort_tables(120)
    tables.features.loc[:5, "centre"] = "D"
    tables.patients.loc[["P000", "P001"], "response"] = ""
    result = model_logistic(tables, configuration(model__bootstraps=50, analysis_plan__covariates=["age"]))
    rows = result.performance[result.performance["centre"] == "all"].drop_duplicates("arm").set_index("arm")
    assert rows.loc[["clinical", "features"], "status"].eq("estimable").all()
    refused = rows.loc[["features_combat", "features_combat+clinical"]]
    assert refused["status"].eq("not estimable").all()
    assert refused["metric"].eq("auc").all()
    assert refused["note"].str.contains(r"ComBat of the 118 cases.*fewer than 5 cases: D \(4\)").all()
    assert any("not fitted (features_combat, features_combat+clinical)" in message for message in result.warnings)
    assert set(result.description["not_estimable"]) == set(refused.index)
    assert set(result.predictions["arm"]) == {"clinical", "features"}


@pytest.mark.parametrize("l1_ratio", [-0.1, 1.1])
def test_impossible_mixing_is_refused(l1_ratio: float) -> None:
    with pytest.raises(CohortError, match="between 0 and 1"):
        model_logistic(cohort_tables(40), configuration(model_logistic__l1_ratio=l1_ratio))


def test_unusable_cases_are_named() -> None:
    tables = cohort_tables()
    tables.patients.loc["P003", "response"] = "yes"
    tables.patients.loc["P004", "response"] = "NA"
    result = model_logistic(tables, configuration(model__bootstraps=50))
    assert result.facts["n"] == 118
    assert any("other than 0 or 1: K003" in message for message in result.warnings)
    assert any("without an outcome: K004" in message for message in result.warnings)
    with pytest.raises(CohortError, match="outcome"):
        model_logistic(tables, configuration(analysis_plan__outcome=None))


def test_step_writes_its_files(tmp_path: Path) -> None:
    inputs = write_tables(cohort_tables(60), tmp_path)
    run_step(CohortTask(configuration(model__bootstraps=50), [], {}, inputs, tmp_path / "out"))
    folder = tmp_path / "out" / "models" / "logistic"
    assert {path.name for path in folder.iterdir()} == {
        "coefficients.csv",
        "performance.csv",
        "predictions.csv",
        "model.json",
    }
    assert json.loads((folder / "model.json").read_text())["status"] == "fitted"
