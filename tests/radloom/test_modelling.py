"""What the two model steps share: validation of all arms, rows of the tables, descriptions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from statistics_cohort import Cohort, cohort, cohort_tables, configuration

from radloom.analysis_plan import plan_hash
from radloom.combat import ComBatHarmonizer
from radloom.folds import bootstrap_weights
from radloom.harmonizers import harmonizer_from_json
from radloom.model_tables import MODEL_TABLES, PLAN
from radloom.modelling import (
    INTERCEPT,
    ArmResult,
    ModelTables,
    arm_messages,
    case_rows,
    check_events,
    coefficient_rows,
    describe_model,
    design_of_covariates,
    filled_cells,
    gathered,
    refused_rows,
    table_of,
    validate,
    volume_correlation,
    write_model,
)
from radloom.performance import Predictions
from radloom.validation import ARMS, Fitted, Settings, Split, fit_split, fold_splits

PLANNED: dict[str, Any] = {
    "analysis_plan__covariates": ["age", "sex"],
    "analysis_plan__arms": ["clinical", "features_combat+clinical"],
    "harmonize__covariates": ["age"],
    "harmonize__new_batch": "adapt",
    "model__refits": 8,
}


def with_gaps() -> Cohort:
    tables = cohort_tables(90, effect=1.5)
    tables.features["original_shape_MeshVolume"] = np.exp(tables.features["f0"] + 1)
    tables.features.loc[[3, 9], "f2"] = [np.nan, np.inf]
    tables.patients.loc[["P004", "P005"], "age"] = ["", "NA"]
    tables.patients.loc["P010", "sex"] = ""
    changes = {**PLANNED, "harmonize__missing_covariates": "impute", "model__max_correlation": 1.0}
    return cohort("logistic", tables, **changes)


@pytest.fixture(scope="module")
def found() -> Cohort:
    return with_gaps()


@pytest.fixture(scope="module")
def validated(found: Cohort) -> tuple[list[ArmResult], np.ndarray]:
    return validate(found.problem, found.centres)


# ------------------------------------------------------------------------------ sample size


def test_sample_size() -> None:
    settings = Settings(ComBatHarmonizer(), min_events=20)
    assert check_events(100, 20, "events", settings) == ("", "")
    assert check_events(100, 9, "events", settings)[0] == "9 events among 100 cases, 20 needed (model.min_events)"
    refusal, mark = check_events(100, 9, "events", replace(settings, override=True))
    assert not refusal
    assert "9 events" in mark
    assert "can't be cross-validated" in check_events(100, 3, "events", replace(settings, override=True))[0]
    assert check_events(100, 3, "events", replace(settings, min_events=2))[0]
    assert check_events(100, 4, "events", replace(settings, min_events=2)) == ("", "")


# ------------------------------------------------------------------------------- validation


def test_every_case_is_predicted_once_by_a_model_that_has_not_seen_it(
    found: Cohort, validated: tuple[list[ArmResult], np.ndarray]
) -> None:
    results, counts = validated
    assert [result.arm.name for result in results] == ["clinical", "features_combat+clinical"]
    folds = fold_splits(found.problem)
    for result in results:
        assert set(result.predictions) == {"cross-validation", "leave-one-centre-out"}
        predicted = result.predictions["cross-validation"]
        for number, split in enumerate(folds, start=1):
            np.testing.assert_array_equal(np.flatnonzero(predicted.group == number), split.held)
            fitted = fit_split(found.problem, split)[result.arm.name]
            np.testing.assert_array_equal(predicted.risk[split.held], fitted.risk)
        left_out = result.predictions["leave-one-centre-out"]
        assert [int(name[1]) + 1 for name in found.centres] == left_out.group.tolist()
        assert np.isfinite(left_out.risk).all()
        assert len(result.folds) == 5
        assert len(result.refits) == 8
    assert counts.shape == (8, 90)
    np.testing.assert_array_equal(counts, bootstrap_weights(found.centres, 8, found.problem.settings.seed + 1))


def test_an_arm_that_all_cases_can_not_carry_is_not_validated() -> None:
    tables = cohort_tables(60)
    tables.cases["scanner"] = ["A"] * 57 + ["B"] * 3
    found = cohort(tables=tables, harmonize__batch="scanner", analysis_plan__arms=["features", "features_combat"])
    results, _ = validate(found.problem, found.centres)
    good, bad = results
    assert good.predictions
    assert bad.predictions == {}
    assert bad.folds == bad.refits == []
    assert bad.pipeline is None
    assert arm_messages(results) == [f"not fitted (features_combat): {bad.whole.error}"]
    assert "B (3)" in bad.whole.error


def test_one_message_a_reason() -> None:
    empty = Fitted(np.empty(0), np.empty((0, 1)), error="why")
    results = [ArmResult(ARMS[name], {}, [], empty, None) for name in ("features_combat", "features_combat+clinical")]
    assert arm_messages(results) == ["not fitted (features_combat, features_combat+clinical): why"]


def test_notes_name_their_folds() -> None:
    splits = [Split("cross-validation", str(number), np.arange(0), np.array([number - 1])) for number in (1, 2, 3)]
    fits = [
        Fitted(np.array([1.0]), np.ones((1, 2)), {"f0": 1.0}, notes=("without covariates",)),
        Fitted(np.array([2.0]), np.ones((1, 2)), {}, notes=("without covariates",)),
        Fitted(np.array([np.nan]), np.full((1, 2), np.nan), error="no way"),
    ]
    predicted = gathered("cross-validation", splits, fits, 4)
    np.testing.assert_array_equal(predicted.risk, [1.0, 2.0, np.nan, np.nan])
    assert predicted.group.tolist() == [1, 2, 3, 0]
    assert predicted.known.tolist() == [0, 1]
    assert predicted.notes == (
        "fold 1, 2: without covariates",
        "fold 2: nothing selected (equal risks count 1/2)",
        "fold 3: no way",
    )
    assert gathered("leave-one-centre-out", splits, fits, 4).notes[0].startswith("without 1, 2: ")


# ------------------------------------------------------------------------------ coefficients


def test_selection_is_counted_over_folds_and_refits(
    found: Cohort, validated: tuple[list[ArmResult], np.ndarray]
) -> None:
    results, _ = validated
    table = pd.DataFrame(coefficient_rows("logistic", results, found.data, False)).set_index(["arm", "term"])
    for result in results:
        own = table.loc[result.arm.name]
        intercept = own.loc[INTERCEPT]
        assert intercept["coefficient"] == result.whole.intercept
        assert intercept["selected_in_folds"] == 5
        terms = set(own.index) - {INTERCEPT}
        assert terms == {*result.whole.coefficients, *(term for fold in result.folds for term in fold.coefficients)}
        for term in terms:
            row = own.loc[term]
            assert row["coefficient"] == result.whole.coefficients.get(term, 0.0)
            assert row["hazard_or_odds_ratio"] == np.exp(row["coefficient"])
            assert row["selected_in_folds"] == sum(term in fold.coefficients for fold in result.folds)
            chosen = np.mean([term in refit.coefficients for refit in result.refits])
            assert row["selection_frequency"] == chosen
    frequency = table["selection_frequency"].drop(INTERCEPT, level="term")
    assert frequency.between(0, 1).all()
    assert frequency.nunique() > 1
    assert table.loc[("features_combat+clinical", "f0"), "selection_frequency"] == 1.0


def test_frequency_is_that_of_the_refits_that_were_fitted(
    found: Cohort, validated: tuple[list[ArmResult], np.ndarray]
) -> None:
    result = validated[0][1]
    failed = replace(result.refits[0], error="no way", coefficients={})
    rows = coefficient_rows("logistic", [replace(result, refits=[failed, *result.refits[1:]])], found.data, True)
    table = pd.DataFrame(rows).set_index("term")
    assert table.loc["f0", "selection_frequency"] == 1.0
    assert (table["override"] == "true").all()
    without = pd.DataFrame(coefficient_rows("logistic", [replace(result, refits=[])], found.data, False))
    assert without["selection_frequency"].isna().all()


def test_volume_correlation_is_spearmans(found: Cohort, validated: tuple[list[ArmResult], np.ndarray]) -> None:
    features = found.data.features
    volume = features["original_shape_MeshVolume"]
    for name in ("f0", "f1", "f2"):
        finite = np.isfinite(features[name])
        expected = spearmanr(features[name][finite], volume[finite]).statistic
        assert volume_correlation(found.data, name) == pytest.approx(expected, rel=1e-12)
    assert volume_correlation(found.data, "f0") == pytest.approx(1.0)
    assert np.isnan(volume_correlation(found.data, "age"))
    assert np.isnan(volume_correlation(replace(found.data, volume=None), "f0"))
    assert np.isnan(volume_correlation(replace(found.data, volume=np.ones(90)), "f0"))
    table = pd.DataFrame(coefficient_rows("logistic", validated[0], found.data, False)).set_index(["arm", "term"])
    row = table.loc[("features_combat+clinical", "f0")]
    assert row["volume_correlation"] == pytest.approx(1.0)
    assert np.isnan(table.loc[("clinical", "age"), "volume_correlation"])


# ------------------------------------------------------------------------------------- cases


def test_predictions_stand_in_the_order_of_the_sheet() -> None:
    tables = cohort_tables(60)
    order = np.random.default_rng(1).permutation(60)
    turned = replace(tables, features=tables.features.iloc[order].reset_index(drop=True))
    found = cohort("cox", turned, analysis_plan__covariates=["age"])
    risk = np.arange(60.0)
    link = np.log(np.linspace(0.1, 2, 60))[:, None] * np.ones((1, 21))
    predicted = Predictions("cross-validation", risk, link, np.arange(60) % 2 + 1)
    table = pd.DataFrame(case_rows(found.judge, "clinical", predicted, found.data, turned, ["first", "second"]))
    assert list(table["case_id"]) == list(turned.features["case_id"])
    own = table.set_index("case_id").loc[found.data.features.index]
    np.testing.assert_array_equal(own["risk"], risk)
    np.testing.assert_allclose(own["probability"], 1 - np.exp(-np.linspace(0.1, 2, 60)), rtol=1e-12)
    np.testing.assert_array_equal(own["fold"], ["first", "second"] * 30)
    np.testing.assert_array_equal(own["time"], found.y["time"])
    assert set(own["horizon"]) == {20.0}
    competing = replace(found.judge, competing=True)
    rows = case_rows(competing, "clinical", predicted, found.data, turned, ["first", "second"])
    assert pd.DataFrame(rows)["probability"].isna().all()


def test_arms_that_were_not_fitted_have_a_row_that_says_so(found: Cohort) -> None:
    rows = refused_rows(found.judge, ["clinical", "features"], "too few")
    assert [(row["arm"], row["metric"], row["status"], row["note"]) for row in rows] == [
        ("clinical", "auc", "not estimable", "too few"),
        ("features", "auc", "not estimable", "too few"),
    ]
    assert {row["n"] for row in rows} == {90}
    survival = refused_rows(cohort("cox").judge, ["features"], "too few")
    assert survival[0]["metric"] == "c_index"


def test_tables_have_their_columns_and_the_plans_hash() -> None:
    params = configuration()
    for name, columns in MODEL_TABLES.items():
        for rows in ([], [{columns[0]: "x", "nonsense": 1}]):
            table = table_of(name, rows, params)
            assert list(table.columns) == columns
            assert columns[-1] == PLAN
            assert list(table[PLAN]) == [plan_hash(params)] * len(rows)


# ------------------------------------------------------------------------------- description


@pytest.mark.filterwarnings("ignore::radloom.harmonizer.HarmonizationWarning")
def test_the_description_predicts_new_cases(found: Cohort, validated: tuple[list[ArmResult], np.ndarray]) -> None:
    results, _ = validated
    described = describe_model(
        "logistic", results, found.data, found.y, found.problem.settings, found.params, mark="marked"
    )
    described = json.loads(json.dumps(described, allow_nan=False))
    assert (described["n"], described["events"], described["note"]) == (90, int(found.y.sum()), "marked")
    assert described["analysis_plan"] == plan_hash(found.params)
    arm = described["arms"]["features_combat+clinical"]
    # Nothing but the file: fill, harmonise, standardise, add up.
    features = found.data.features.where(np.isfinite(found.data.features))
    medians = pd.Series(arm["medians"])
    filled = features.fillna(medians)[[name for name in features.columns if name in medians.index]]
    harmonised = harmonizer_from_json(arm["combat"]).transform(filled, found.data.metadata)
    age = pd.to_numeric(found.data.clinical["age"]).fillna(medians["age"])
    sex = found.data.clinical["sex"].astype(object).fillna(arm["commonest_words"]["sex"])
    columns = harmonised.assign(age=age, **{"sex[M]": (sex == "M").astype(float)})
    risk = np.full(90, arm["intercept"])
    assert arm["terms"]
    for term in arm["terms"]:
        risk += term["coefficient_per_sd"] * (columns[term["term"]] - term["mean"]) / term["sd"]
    np.testing.assert_allclose(risk, results[1].whole.risk, rtol=1e-10, atol=1e-10)
    assert sum(fold["n"] for fold in arm["folds"]) == 90
    assert sum(fold["events"] for fold in arm["folds"]) == found.y.sum()
    assert arm["penalty"] == arm["penalty_min"] <= arm["penalty_1se"]
    assert "2 missing feature cells filled with the training median" in arm["notes"]


def test_filled_cells_are_told_once(validated: tuple[list[ArmResult], np.ndarray]) -> None:
    assert filled_cells(validated[0]) == [
        "3 missing clinical cells filled with the training median or commonest word",
        "2 missing feature cells filled with the training median",
    ]


def test_covariates_of_the_inference_are_filled_and_counted(found: Cohort) -> None:
    design, n_filled = design_of_covariates(found.data)
    assert list(design.columns) == ["age", "sex[M]"]
    assert n_filled == 3
    assert design.notna().all(axis=None)


def test_files_are_written_bit_exactly(tmp_path: Path) -> None:
    table = pd.DataFrame({"x": [1 / 3, np.nan], "note": ["a; b", ""]})
    write_model(tmp_path / "deep", ModelTables({"some": table}, {"model": "cox", "x": 1 / 3}, {}, []))
    read = pd.read_csv(tmp_path / "deep" / "some.csv", float_precision="round_trip", keep_default_na=False)
    assert float(read["x"].iloc[0]) == 1 / 3
    assert b"\r" not in (tmp_path / "deep" / "some.csv").read_bytes()
    assert json.loads((tmp_path / "deep" / "model.json").read_text())["x"] == 1 / 3
    with pytest.raises(ValueError, match="Out of range float"):
        write_model(tmp_path / "bad", ModelTables({}, {"x": float("nan")}, {}, []))
