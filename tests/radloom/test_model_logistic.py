"""The logistic step as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.special import expit
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom.analysis_plan import plan_hash
from radloom.assembly import CohortTables
from radloom.engine.step import CohortTask
from radloom.errors import CohortError
from radloom.model_logistic import TABLES, model_logistic, run_step
from radloom.model_tables import MODEL_TABLES
from radloom.modelling import ModelTables

PLAN: dict[str, Any] = {
    "analysis_plan__covariates": ["age", "sex"],
    "harmonize__new_batch": "passthrough",
    "model__refits": 3,
    "model__bootstraps": 30,
}
QUICK: dict[str, Any] = {
    "model__refits": 0,
    "model__bootstraps": 10,
    "analysis_plan__metrics": ["auc"],
    "analysis_plan__arms": ["clinical", "features", "features_combat"],
}


@pytest.fixture(scope="module")
def fitted() -> ModelTables:
    return model_logistic(cohort_tables(effect=1.5), configuration(**PLAN))


def quick(tables: CohortTables, **changes: Any) -> ModelTables:
    return model_logistic(tables, configuration(**{**QUICK, **changes}))


def whole(table: pd.DataFrame, split: str = "cross-validation") -> pd.DataFrame:
    return table[(table["split"] == split) & (table["subgroup"] == "")].set_index(["arm", "metric", "centre"])


def test_finds_the_planted_effect(fitted: ModelTables) -> None:
    coefficients = fitted.tables["coefficients"].set_index(["arm", "term"])
    assert coefficients.loc[("features_combat", "f0"), "coefficient"] > 0.4
    assert ("features_combat", "(Intercept)") in coefficients.index
    performance = whole(fitted.tables["performance"])
    auc = performance.loc[("features_combat", "auc", "all")]
    assert auc["ci_low"] > 0.6
    assert auc["events"] == performance.loc[("features_combat", "auc", ["C0", "C1", "C2"]), "events"].sum()
    assert performance.loc[("features_combat", "brier", "all"), "estimate"] < 0.24
    assert 0.3 < performance.loc[("features_combat", "calibration_slope", "all"), "estimate"] < 3
    assert abs(performance.loc[("features_combat", "calibration_in_the_large", "all"), "estimate"]) < 0.3
    left_out = whole(fitted.tables["performance"], "leave-one-centre-out")
    assert left_out.loc[("features_combat", "auc", "all"), "ci_low"] > 0.6


def test_tables_have_their_columns_and_the_plans_hash(fitted: ModelTables) -> None:
    assert set(fitted.tables) == set(TABLES)
    for name, table in fitted.tables.items():
        assert list(table.columns) == MODEL_TABLES[name]
        assert (table["analysis_plan"] == plan_hash(configuration(**PLAN))).all()
    assert not set(fitted.tables["performance"]["metric"]) & {"c_index", "uno_c"}
    assert set(fitted.tables["decision_curve"]["strategy"]) == {"model", "treat all"}
    assert not fitted.tables["calibration_curve"].empty


def test_probabilities_belong_to_the_risks(fitted: ModelTables) -> None:
    predictions = fitted.tables["predictions"]
    np.testing.assert_allclose(predictions["probability"].astype(float), expit(predictions["risk"].astype(float)))
    for (arm, split), rows in predictions.groupby(["arm", "split"]):
        squares = (rows["probability"] - rows["outcome"]) ** 2
        brier = whole(fitted.tables["performance"], split).loc[(arm, "brier", "all"), "estimate"]
        assert brier == pytest.approx(squares.mean(), rel=1e-12)


def test_order_of_rows_and_workers_change_nothing(fitted: ModelTables) -> None:
    tables = cohort_tables(effect=1.5)
    turned = CohortTables(tables.features[::-1], tables.cases[::-1], tables.patients[::-1])
    again = model_logistic(turned, configuration(**PLAN), workers=2)
    for name, table in fitted.tables.items():
        own, other = table, again.tables[name]
        if name == "predictions":
            keys = ["arm", "split", "case_id"]
            own, other = (part.sort_values(keys, ignore_index=True) for part in (own, other))
        pd.testing.assert_frame_equal(other, own, check_exact=True, obj=name)
    assert json.dumps(again.description) == json.dumps(fitted.description)


def test_odds_ratios_are_statsmodels(fitted: ModelTables) -> None:
    tables = cohort_tables(effect=1.5)
    design = pd.DataFrame(
        {"age": tables.patients["age"].astype(float), "sex[M]": (tables.patients["sex"] == "M").astype(float)}
    )
    expected = sm.Logit(tables.patients["response"].astype(int), sm.add_constant(design)).fit(disp=0, tol=1e-12)
    table = fitted.tables["inference"].set_index("term")
    for name in ("age", "sex[M]"):
        assert table.loc[name, "hazard_or_odds_ratio"] == pytest.approx(np.exp(expected.params[name]), rel=1e-8)
        assert table.loc[name, "p"] == pytest.approx(expected.pvalues[name], rel=1e-7)
    assert set(table["method"]) == {"maximum likelihood"}


def test_separation_is_met_by_firths_penalty() -> None:
    tables = cohort_tables(60)
    # Nobody with the marker is without the outcome.
    tables.patients["marker"] = np.where((tables.patients["response"] == "1") & (np.arange(60) % 3 == 0), "1", "0")
    table = quick(tables, analysis_plan__covariates=["marker"], analysis_plan__arms=["clinical"]).tables["inference"]
    row = table.set_index("term").loc["marker"]
    assert "Firth" in row["method"]
    assert np.isfinite(row["hazard_or_odds_ratio"])
    assert row["hazard_or_odds_ratio"] > 1


def test_the_rarer_class_counts() -> None:
    tables = cohort_tables(60)
    tables.patients["response"] = ["0"] * 6 + ["1"] * 54
    refused = quick(tables)
    assert "6 cases of the rarer class among 60 cases, 20 needed" in refused.tables["performance"]["note"].iloc[0]
    assert set(refused.tables["performance"]["metric"]) == {"auc"}
    assert set(refused.tables) == set(TABLES)
    marked = quick(tables, model__override_sample_size=True)
    assert marked.tables["performance"]["note"].str.contains("in spite of").any()
    predictions = marked.tables["predictions"]
    assert set(predictions.loc[predictions["split"] == "cross-validation", "fold"]) == {"1", "2", "3"}


def test_constant_predictions_have_no_calibration_slope() -> None:
    tables = cohort_tables(60)
    tables.features[tables.feature_names] = np.tile([[0.0] * 11 + [1.0], [0.0] * 12], (30, 1))
    tables.patients["response"] = np.tile(["1", "1", "0", "0"], 15)
    result = quick(tables, analysis_plan__metrics=["auc", "calibration"], analysis_plan__arms=["features"])
    rows = whole(result.tables["performance"]).loc["features"].xs("all", level="centre")
    for metric in ("calibration_slope", "calibration_intercept"):
        assert rows.loc[metric, "status"] == "not estimable"
        assert rows.loc[metric, "note"] == "the predicted risks are equal within every fold"
    assert rows.loc["calibration_in_the_large", "status"] == "estimable"


def test_a_batch_that_missing_outcomes_make_small_leaves_its_arms_unfitted() -> None:
    tables = cohort_tables(120)
    tables.features.loc[:5, "centre"] = "D"
    tables.patients.loc[["P000", "P001"], "response"] = ""
    arms = ["clinical", "features", "features_combat", "features_combat+clinical"]
    result = quick(tables, analysis_plan__covariates=["age"], analysis_plan__arms=arms)
    table = result.tables["performance"]
    rows = table[table["centre"] == "all"].drop_duplicates("arm").set_index("arm")
    assert rows.loc[["clinical", "features"], "status"].eq("estimable").all()
    refused = rows.loc[["features_combat", "features_combat+clinical"]]
    assert refused["status"].eq("not estimable").all()
    assert refused["metric"].eq("auc").all()
    assert refused["note"].str.contains(r"fewer than 5 cases: D \(4\)").all()
    assert any("not fitted (features_combat, features_combat+clinical)" in message for message in result.warnings)
    assert set(result.description["not_estimable"]) == set(refused.index)
    assert set(result.tables["predictions"]["arm"]) == {"clinical", "features"}
    assert result.facts["arms"] == ["clinical", "features"]


@pytest.mark.parametrize("l1_ratio", [-0.1, 1.1])
def test_impossible_mixing_is_refused(l1_ratio: float) -> None:
    with pytest.raises(CohortError, match="between 0 and 1"):
        quick(cohort_tables(40), model_logistic__l1_ratio=l1_ratio)


def test_a_ridge_is_possible() -> None:
    result = quick(cohort_tables(60), model_logistic__l1_ratio=0, analysis_plan__arms=["features"])
    table = result.tables["coefficients"]
    assert (table["coefficient"] != 0).all()


def test_unusable_cases_are_named() -> None:
    tables = cohort_tables()
    tables.patients.loc["P003", "response"] = "yes"
    tables.patients.loc["P004", "response"] = "NA"
    result = quick(tables, analysis_plan__arms=["features"])
    assert result.facts["n"] == 118
    assert any("other than 0 or 1: K003" in message for message in result.warnings)
    assert any("without an outcome: K004" in message for message in result.warnings)
    with pytest.raises(CohortError, match="outcome"):
        quick(tables, analysis_plan__outcome=None)


@pytest.mark.parametrize("way", ["temperature", "platt", "isotonic"])
def test_recalibration_changes_probabilities_and_no_rank(way: str) -> None:
    tables = cohort_tables(effect=1.5)
    changes = {"analysis_plan__arms": ["features"], "analysis_plan__metrics": ["auc", "brier", "calibration"]}
    changes |= {"model__refits": 4}
    plain = quick(tables, **changes)
    found = quick(tables, **changes, model_logistic__recalibration=way)
    one, other = plain.tables["predictions"], found.tables["predictions"]
    pd.testing.assert_series_equal(one["risk"], other["risk"], check_exact=True)
    assert not np.allclose(one["probability"].astype(float), other["probability"].astype(float), atol=1e-3)
    assert other["probability"].between(0, 1).all()
    rows, known = whole(found.tables["performance"]), whole(plain.tables["performance"])
    assert rows.loc[("features", "auc", "all"), "estimate"] == known.loc[("features", "auc", "all"), "estimate"]
    squares = (other["probability"] - other["outcome"]) ** 2
    brier = squares[other["split"] == "cross-validation"].mean()
    assert rows.loc[("features", "brier", "all"), "estimate"] == pytest.approx(brier, rel=1e-12)
    saved = found.description["arms"]["features"]["recalibration"]
    assert saved["format"].startswith("radloom")
    slope = rows.loc[("features", "calibration_slope", "all")]
    assert (slope["status"] == "estimable") == (way != "isotonic" or "0 or 1" not in slope["note"])
    # Some risks of an isotonic fit are 0 or 1: what can't be had of them is told, and nothing stops.
    optimism = whole(found.tables["performance"], "optimism-corrected")
    assert optimism.loc[("features", "brier", "all"), "status"] == "estimable"
    assert ("features", "calibration_slope", "all") in optimism.index


def test_a_centre_that_is_its_outcome_has_its_reasons_everywhere() -> None:
    tables = cohort_tables()
    tables.patients.loc[tables.patients.index[::3], "response"] = "0"
    result = quick(
        tables, harmonize__new_batch="adapt", analysis_plan__arms=["features", "features_combat", "features_centre"]
    )
    assert any("C0" in message and "no events" in message for message in result.warnings)
    for split in ("cross-validation", "leave-one-centre-out"):
        rows = whole(result.tables["performance"], split)
        for arm in ("features", "features_combat", "features_centre"):
            row = rows.loc[(arm, "auc", "C0")]
            assert row["note"] == "0 events among 40 cases"
            assert np.isnan(row["estimate"])
            assert rows.loc[(arm, "auc", "C1"), "status"] == "estimable"
            assert "1 of 3 centres not estimable" in rows.loc[(arm, "auc", "random effects"), "note"]
    centre = whole(result.tables["performance"]).loc[("features_centre", "auc", "all"), "note"]
    assert "batches with fewer than two patients of a class share an intercept: C0" in centre


def test_step_writes_its_files(tmp_path: Path) -> None:
    inputs = write_tables(cohort_tables(60), tmp_path)
    run_step(CohortTask(configuration(**QUICK), [], {}, inputs, tmp_path / "out"))
    folder = tmp_path / "out" / "models" / "logistic"
    assert {path.name for path in folder.iterdir()} == {"model.json", *(f"{name}.csv" for name in TABLES)}
    assert json.loads((folder / "model.json").read_text())["status"] == "fitted"
