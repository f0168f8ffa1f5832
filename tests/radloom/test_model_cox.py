"""The Cox step as a whole: its tables, its refusals, and that order leaks nowhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sksurv.nonparametric import cumulative_incidence_competing_risks
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom.analysis_plan import plan_hash
from radloom.assembly import CohortTables
from radloom.combat import HarmonizationError
from radloom.cox import fit_cox
from radloom.engine.step import CohortTask
from radloom.errors import CohortError
from radloom.model_cox import OUT_OF_FOLD, TABLES, model_cox, read_endpoint, run_step
from radloom.model_tables import MODEL_TABLES
from radloom.modelling import ModelTables

PLAN: dict[str, Any] = {
    "analysis_plan__covariates": ["age", "sex"],
    "analysis_plan__subgroups": ["sex"],
    "harmonize__covariates": ["age"],
    "harmonize__new_batch": "adapt",
    "model__refits": 3,
    "model__bootstraps": 30,
}
QUICK: dict[str, Any] = {
    "model__refits": 0,
    "model__bootstraps": 10,
    "analysis_plan__metrics": ["c_index"],
    "analysis_plan__arms": ["clinical", "features_combat"],
}


@pytest.fixture(scope="module")
def tables() -> CohortTables:
    return cohort_tables()


@pytest.fixture(scope="module")
def fitted(tables: CohortTables) -> ModelTables:
    return model_cox(tables, configuration(**PLAN))


def quick(tables: CohortTables, **changes: Any) -> ModelTables:
    return model_cox(tables, configuration(**{**QUICK, **changes}))


def test_finds_the_planted_effect(fitted: ModelTables) -> None:
    coefficients = fitted.tables["coefficients"].set_index(["arm", "term"])
    for arm in ("features", "features_combat", "features_centre", "features_combat+clinical"):
        assert coefficients.loc[(arm, "f0"), "coefficient"] > 0.3
        assert coefficients.loc[(arm, "f0"), "selected_in_folds"] == 5
        assert coefficients.loc[(arm, "f0"), "selection_frequency"] == 1
    performance = fitted.tables["performance"]
    c = performance[performance["subgroup"] == ""].set_index(["split", "arm", "metric", "centre"])["estimate"]
    for split in ("cross-validation", "leave-one-centre-out"):
        assert c[split, "features_combat", "c_index", "all"] > 0.65
        assert c[split, "features_combat", "c_index", "all"] > c[split, "clinical", "c_index", "all"] + 0.1
        assert c[split, "features_combat", "uno_c", "all"] > 0.65
        assert c[split, "features_combat", "c_index", "random effects"] > 0.65
        assert c[split, "features_combat", "c_index", "worst"] <= c[split, "features_combat", "c_index", "C0"]


def test_tables_have_their_columns(fitted: ModelTables, tables: CohortTables) -> None:
    assert set(fitted.tables) == set(TABLES)
    known = plan_hash(configuration(**PLAN))
    for name, table in fitted.tables.items():
        assert list(table.columns) == MODEL_TABLES[name]
        assert (table["analysis_plan"] == known).all()
    assert fitted.facts["analysis_plan"] == fitted.description["analysis_plan"] == known
    predictions = fitted.tables["predictions"]
    for (_, split), arm in predictions.groupby(["arm", "split"]):
        assert list(arm["case_id"]) == list(tables.features["case_id"])
        expected = {"1", "2", "3", "4", "5"} if split == "cross-validation" else {"C0", "C1", "C2"}
        assert set(arm["fold"]) == expected
        assert arm["risk"].notna().all()
    left_out = predictions[predictions["split"] == "leave-one-centre-out"]
    assert (left_out["fold"] == left_out["centre"]).all()
    performance = fitted.tables["performance"]
    assert set(performance["split"]) == {"cross-validation", "leave-one-centre-out", "optimism-corrected"}
    estimable = performance[(performance["status"] == "estimable") & performance["ci_low"].notna()]
    assert (estimable["ci_low"] <= estimable["estimate"] + 1e-12).mean() > 0.97
    gone = performance[performance["status"] == "not estimable"]
    assert gone[["estimate", "ci_low", "ci_high"]].isna().all(axis=None)
    assert gone["note"].ne("").all()
    assert (fitted.tables["coefficients"]["override"] == "false").all()
    assert {"sex: F", "sex: M"} <= set(performance["subgroup"])
    keys = ["arm", "split", "centre", "subgroup", "metric", "horizon"]
    assert not performance.duplicated(keys).any()


def test_one_row_of_each_way_leads(fitted: ModelTables) -> None:
    performance = fitted.tables["performance"]
    leading = performance[performance["leads"] == "yes"]
    counts = leading.groupby(["arm", "split", "metric", "horizon"], dropna=False).size()
    assert (counts == 1).all()
    for (_, split), rows in performance.groupby(["arm", "split"]):
        names = set(rows.loc[rows["leads"] == "yes", "metric"].str.removesuffix("_within_centre"))
        assert names == {"c_index", "uno_c", "auc"}, split


def test_a_stratum_is_not_compared_with_another(fitted: ModelTables) -> None:
    performance = fitted.tables["performance"]
    own = performance[(performance["arm"] == "features_centre") & (performance["split"] == "cross-validation")]
    own = own[(own["centre"] == "all") & (own["subgroup"] == "")].set_index("metric")
    assert own.loc["c_index", "status"] == "not estimable"
    assert own.loc["c_index", "note"].startswith("risks of different batches are not comparable")
    assert own.loc["c_index_within_centre", "leads"] == "yes"
    # Left out, a centre has the baseline of all others, and pairs are within centres anyway.
    outside = performance[(performance["arm"] == "features_centre") & (performance["centre"] == "all")]
    outside = outside[(outside["split"] == "leave-one-centre-out") & (outside["subgroup"] == "")].set_index("metric")
    assert outside.loc["c_index", "leads"] == "yes"
    assert outside.loc["brier", "status"] == "estimable"


def test_order_of_rows_and_workers_change_nothing(tables: CohortTables, fitted: ModelTables) -> None:
    order = np.random.default_rng(3).permutation(len(tables.features))
    turned = CohortTables(tables.features.iloc[order], tables.cases[::-1], tables.patients[::-1])
    again = model_cox(turned, configuration(**PLAN), workers=2)
    for name, table in fitted.tables.items():
        own, other = table, again.tables[name]
        if name == "predictions":
            keys = ["arm", "split", "case_id"]
            assert list(other["case_id"][:120]) == list(turned.features["case_id"])
            own, other = (part.sort_values(keys, ignore_index=True) for part in (own, other))
        pd.testing.assert_frame_equal(other, own, check_exact=True, obj=name)
    assert json.dumps(again.description) == json.dumps(fitted.description)
    assert again.warnings == fitted.warnings


def test_test_of_proportional_hazards_has_its_rows(fitted: ModelTables) -> None:
    test = fitted.tables["ph_test"]
    terms = test.groupby(["arm", "transform"])["term"].agg(list)
    for transform in ("km", "rank"):
        assert terms["clinical", transform] == ["age", "sex[M]", "GLOBAL", OUT_OF_FOLD]
        for arm in ("features", "features_combat", "features_centre", "features_combat+clinical"):
            assert terms[arm, transform] == [OUT_OF_FOLD]
    assert len(terms) == 10
    assert test["p"].between(0, 1).all()


def test_hazard_ratios_are_those_of_an_unpenalised_model(tables: CohortTables, fitted: ModelTables) -> None:
    design = pd.DataFrame(
        {"age": tables.patients["age"].astype(float), "sex[M]": (tables.patients["sex"] == "M").astype(float)}
    )
    time, event = tables.patients["days"].astype(float).to_numpy(), tables.patients["died"].astype(int).to_numpy()
    expected = fit_cox(design, time, event)
    table = fitted.tables["inference"]
    assert list(table["term"]) == ["age", "sex[M]"]
    np.testing.assert_allclose(table["coefficient"], expected["coefficient"], rtol=1e-10)
    np.testing.assert_allclose(table["hazard_or_odds_ratio"], np.exp(expected["coefficient"]), rtol=1e-10)
    assert set(table["method"]) == {"Cox, Efron ties"}
    assert set(table["n"]) == {120}


def test_hazard_ratios_by_strata_and_cluster(tables: CohortTables) -> None:
    clustered = replace(tables, cases=tables.cases.assign(clinic=[f"H{number % 30}" for number in range(120)]))
    plan = {"analysis_plan__strata": ["centre"], "analysis_plan__cluster": "clinic", **PLAN, **QUICK}
    table = model_cox(clustered, configuration(**{**plan, "analysis_plan__covariates": ["age"]})).tables["inference"]
    assert set(table["method"]) == {
        "Cox, Efron ties, stratified by centre, robust standard errors by clinic (30 groups)"
    }
    time, event = tables.patients["days"].astype(float).to_numpy(), tables.patients["died"].astype(int).to_numpy()
    age = pd.DataFrame({"age": tables.patients["age"].astype(float)})
    expected = fit_cox(age, time, event, tables.features["centre"].to_numpy(dtype=object))
    np.testing.assert_allclose(table["coefficient"], expected["coefficient"], rtol=1e-10)
    assert not np.allclose(table["se"], expected["se"], rtol=1e-3)


# ------------------------------------------------------------------------ competing events


def with_competing(n: int = 120) -> CohortTables:
    tables = cohort_tables(n)
    other = (tables.patients["died"] == "0") & (np.arange(n) % 2 == 0)
    tables.patients["died_otherwise"] = np.where(other, "1", "0")
    return tables


def test_competing_events_have_incidences_and_models_of_their_cause() -> None:
    tables = with_competing()
    changes = {**QUICK, "analysis_plan__metrics": ["c_index", "brier", "calibration", "net_benefit"]}
    changes |= {"analysis_plan__covariates": ["age"], "analysis_plan__competing_event": "died_otherwise"}
    changes |= {"analysis_plan__horizons": [40.0]}
    found = model_cox(tables, configuration(**changes))
    metrics = set(found.tables["performance"]["metric"])
    assert metrics == {"c_index", "c_index_within_centre"}
    assert found.tables["decision_curve"].empty
    assert found.tables["calibration_curve"].empty
    assert found.tables["predictions"]["probability"].isna().all()
    inference = found.tables["inference"].set_index("method")
    assert list(inference.index) == ["Cox, Efron ties", "Cox, competing event, Efron ties"]
    assert list(inference["events"]) == [
        int((tables.patients[name] == "1").sum()) for name in ("died", "died_otherwise")
    ]
    incidence = found.tables["cumulative_incidence"]
    time = tables.patients["days"].astype(float).to_numpy()
    cause = (tables.patients["died"].astype(int) + 2 * tables.patients["died_otherwise"].astype(int)).to_numpy()
    times, curves = cumulative_incidence_competing_risks(cause, time)
    at = np.searchsorted(times, 40.0, side="right") - 1
    everyone = incidence[~incidence["group"].isin(["C0", "C1", "C2"])].set_index("cause")
    for row, name in ((1, "event"), (2, "competing event")):
        assert everyone.loc[name, "estimate"] == pytest.approx(curves[row][at], rel=1e-12)
        assert everyone.loc[name, "ci_low"] < everyone.loc[name, "estimate"] < everyone.loc[name, "ci_high"]
    assert set(incidence["group"]) >= {"C0", "C1", "C2"}
    assert set(incidence["time"]) == {40.0}


def test_without_competing_events_there_is_no_incidence(fitted: ModelTables) -> None:
    assert fitted.tables["cumulative_incidence"].empty


def test_both_events_at_once_are_left_out_and_named() -> None:
    tables = with_competing()
    name = tables.patients.index[tables.patients["died"] == "1"][0]
    tables.patients.loc[name, "died_otherwise"] = "1"
    tables.patients.loc["P111", "died_otherwise"] = "maybe"
    rows = tables.of_roi(None)
    plan = {**configuration()["analysis_plan"], "competing_event": "died_otherwise"}
    _, _, competing, problems = read_endpoint(tables, rows, plan)
    assert competing is not None
    assert problems["with both the event and a competing one"] == [name.replace("P", "K")]
    assert problems["without a competing event that is 0 or 1"] == ["K111"]


# ----------------------------------------------------------------------------- refusals


def test_too_few_events_are_refused_and_marked_on_request() -> None:
    tables = cohort_tables(60)
    refused = quick(tables, model__min_events=200, analysis_plan__covariates=["age"])
    events = int(tables.patients["died"].astype(int).sum())
    performance = refused.tables["performance"]
    assert set(refused.tables) == set(TABLES)
    assert set(performance["status"]) == {"not estimable"}
    assert set(performance["arm"]) == {"clinical", "features_combat"}
    assert f"{events} events among 60 cases, 200 needed" in performance["note"].iloc[0]
    assert performance["estimate"].isna().all()
    for name in ("predictions", "coefficients", "decision_curve", "calibration_curve", "ph_test"):
        assert refused.tables[name].empty
        assert list(refused.tables[name].columns) == MODEL_TABLES[name]
    assert list(refused.tables["inference"]["term"]) == ["age"]
    assert (performance["analysis_plan"] == refused.facts["analysis_plan"]).all()
    assert refused.facts["status"] == refused.description["status"] == "not estimable"
    assert any(message.startswith("the model was not fitted: ") for message in refused.warnings)
    marked = quick(tables, model__min_events=200, model__override_sample_size=True)
    assert (marked.tables["coefficients"]["override"] == "true").all()
    judged = marked.tables["performance"]
    judged = judged[judged["status"] == "estimable"]
    assert judged["note"].str.contains("in spite of the sample size").all()
    assert marked.facts["override"]


def test_a_cohort_without_events_gives_tables_all_the_same() -> None:
    tables = cohort_tables(60)
    tables.patients["died"] = "0"
    found = quick(tables, analysis_plan__horizons=[], analysis_plan__covariates=["age"])
    assert found.facts["events"] == 0
    assert set(found.tables["performance"]["status"]) == {"not estimable"}
    assert found.tables["inference"].empty


def test_unusable_cases_are_named() -> None:
    tables = cohort_tables()
    tables.patients.loc["P000", "days"] = "0"
    tables.patients.loc["P001", "died"] = "2"
    tables.patients.loc["P002", "days"] = ""
    tables.patients.loc["P003", "days"] = "inf"
    result = quick(tables)
    assert result.facts["n"] == 116
    text = "\n".join(result.warnings)
    assert "1 cases left out of the model, with a time that is not above 0: K000" in text
    assert "with an event other than 0 or 1: K001" in text
    assert "2 cases left out of the model, without a time or an event: K002, K003" in text


def test_a_horizon_that_was_not_planned_is_told() -> None:
    tables = cohort_tables()
    result = quick(tables, analysis_plan__horizons=[], analysis_plan__metrics=["auc"])
    dead = tables.patients["died"] == "1"
    median = float(np.median(tables.patients["days"][dead].astype(float)))
    assert set(result.tables["performance"]["horizon"]) == {median}
    assert f"no horizon is planned: the median time of the events, {median:g}, was taken" in result.warnings


def test_the_outcome_can_not_be_kept_by_combat(tables: CohortTables) -> None:
    with pytest.raises(HarmonizationError, match="'died' is an outcome"):
        quick(tables, harmonize__covariates=["died"])
    with pytest.raises(CohortError, match=r"analysis_plan\.time"):
        quick(tables, analysis_plan__time=None)


@pytest.mark.parametrize("part", ["harmonize__batch", "analysis_plan__covariates"])
def test_the_outcome_under_another_name_is_refused(part: str) -> None:
    tables = cohort_tables(60)
    tables.patients["status"] = np.where(tables.patients["died"] == "1", "dead", "alive")
    for name, message in (("died", "is an outcome"), ("status", "says the same as the outcome 'died'")):
        value = name if part == "harmonize__batch" else [name]
        with pytest.raises(HarmonizationError, match=f"'{name}' {message}"):
            quick(tables, **{part: value})


def test_a_batch_that_is_the_outcome_stops() -> None:
    tables = cohort_tables(60)
    codes = np.arange(60) % 3
    tables.patients["died"] = np.where(codes == 0, "1", "0")
    with pytest.raises(CohortError, match="are the same thing"):
        quick(tables)


@pytest.mark.parametrize("l1_ratio", [0, 1.5])
def test_a_ridge_is_refused(tables: CohortTables, l1_ratio: float) -> None:
    with pytest.raises(CohortError, match="l1_ratio of the Cox model must be above 0"):
        quick(tables, model_cox__l1_ratio=l1_ratio)


def test_noise_selects_next_to_nothing(fitted: ModelTables) -> None:
    selected, in_folds = [], []
    for seed in range(5, 9):
        result = quick(cohort_tables(effect=0.0, seed=seed), analysis_plan__arms=["features_combat"])
        terms = result.tables["coefficients"]
        selected.append(int((terms["coefficient"] != 0).sum()))
        in_folds.append(terms["selected_in_folds"].sum() / 5)
        c = result.tables["performance"].set_index(["split", "metric", "centre"])["estimate"]
        assert 0.35 < c["cross-validation", "c_index", "all"] < 0.65
    # Of 12 features; the same cohort with an effect selects more.
    assert np.mean(selected) <= 2
    assert np.mean(in_folds) <= 2
    planted = fitted.tables["coefficients"]
    planted = planted[planted["arm"] == "features_combat"]
    assert (planted["coefficient"] != 0).sum() > np.mean(selected)


def test_two_centres_are_left_out_in_both_directions() -> None:
    result = quick(cohort_tables(80, centres=2), harmonize__new_batch="passthrough")
    performance = result.tables["performance"]
    rows = performance[performance["split"] == "leave-one-centre-out"].set_index(["arm", "centre"])
    for centre in ("C0", "C1", "random effects", "worst", "all"):
        assert rows.loc[("features_combat", centre), "status"] == "estimable"
    assert rows.loc[("features_combat", "all"), "note"].startswith("pairs within centres")


def test_a_new_batch_is_not_judged_unless_asked(tables: CohortTables) -> None:
    result = quick(tables, analysis_plan__arms=["features", "features_combat"])
    performance = result.tables["performance"]
    rows = performance[performance["split"] == "leave-one-centre-out"]
    refused = rows[rows["arm"] == "features_combat"]
    assert refused["status"].eq("not estimable").all()
    assert refused["note"].str.contains("of batches that the training cases lack not judged").all()
    assert rows[rows["arm"] == "features"]["status"].eq("estimable").all()


def test_settings_reach_the_models(tables: CohortTables) -> None:
    arms = {"analysis_plan__arms": ["features_combat"]}
    plain = quick(tables, **arms).description["arms"]["features_combat"]
    simple = quick(tables, **arms, model_cox__penalty="1se").description["arms"]["features_combat"]
    assert simple["penalty"] == plain["penalty_1se"] > plain["penalty"]
    few = quick(tables, **arms, model__max_terms=2).description["arms"]["features_combat"]
    assert few["candidates"] == 2
    power = quick(tables, **arms, model__transformation="yeo-johnson").description["arms"]["features_combat"]
    assert power["transformation"]["kind"] == "yeo-johnson"
    # Another baseline changes the absolute risks and no rank.
    changes = {**arms, "analysis_plan__metrics": ["c_index", "brier"]}
    one, other = quick(tables, **changes), quick(tables, **changes, model_cox__recalibration="baseline")
    pd.testing.assert_series_equal(one.tables["predictions"]["risk"], other.tables["predictions"]["risk"])
    assert not one.tables["predictions"]["probability"].equals(other.tables["predictions"]["probability"])


def test_the_model_file_says_what_fills_a_gap_and_how_many_folds_there_were(fitted: ModelTables) -> None:
    arm = fitted.description["arms"]["features_combat+clinical"]
    assert {"f0", "f11", "age"} <= set(arm["medians"])
    assert list(arm["commonest_words"]) == ["sex"]
    assert arm["inner_folds"] == 10
    assert {fold["inner_folds"] for fold in arm["folds"]} == {10}
    assert set(arm["baseline"]) == {""}
    assert set(fitted.description["arms"]["features_centre"]["baseline"]) == {"", "C0", "C1", "C2"}


def test_step_writes_its_files(tmp_path: Path) -> None:
    inputs = write_tables(cohort_tables(60), tmp_path)
    task = CohortTask(configuration(**QUICK), [], {}, inputs, tmp_path / "out")
    result = run_step(task)
    folder = tmp_path / "out" / "models" / "cox"
    assert {path.name for path in folder.iterdir()} == {"model.json", *(f"{name}.csv" for name in TABLES)}
    model = json.loads((folder / "model.json").read_text())
    assert model["n"] == result.facts["n"] == 60
    assert sum(fold["n"] for fold in model["arms"]["features_combat"]["folds"]) == 60
    assert model["arms"]["features_combat"]["combat"]["batches"] == ["C0", "C1", "C2"]
