"""Splits, and that what is fitted in them has seen nothing but its training cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from statistics_cohort import Cohort, cohort, cohort_tables, configuration

from radloom.assembly import CohortTables
from radloom.combat import ComBatHarmonizer
from radloom.errors import CohortError
from radloom.folds import stratified_folds
from radloom.pipeline import METADATA, ArmPipeline, classes_of
from radloom.validation import (
    BATCH,
    LOCKED_TEST,
    PATIENT,
    Fitted,
    Problem,
    Split,
    arm_pipeline,
    arms_of,
    bootstrap_splits,
    centre_splits,
    fit_all_cases,
    fit_arms,
    fit_split,
    fit_splits,
    fold_splits,
    pose,
    settings_of,
    whole_split,
)

EVERYTHING: dict[str, Any] = {
    "analysis_plan__covariates": ["age", "sex"],
    "harmonize__covariates": ["age"],
    "harmonize__new_batch": "adapt",
    "model__transformation": "signed_log",
    "model__max_terms": 8,
    "model_cox__recalibration": "baseline",
    "model_logistic__recalibration": "platt",
}


def splits_of(found: Cohort) -> list[Split]:
    """One split of every kind."""
    folds, places = fold_splits(found.problem), centre_splits(found.centres)
    locked = Split(LOCKED_TEST, "", places[1].train, places[1].held)
    return [folds[0], places[2], bootstrap_splits(found.problem, found.centres)[0], locked]


@pytest.fixture(scope="module")
def cohorts() -> dict[str, Cohort]:
    """Cohorts in which features and clinical predictors carry a signal, so that no arm's model is empty."""
    tables = cohort_tables(effect=1.5)
    numbers = tables.patients[["days", "died", "response"]].astype(float)
    noise = np.random.default_rng(5).normal(0, 4, len(numbers))
    age = 60 - 6 * np.log(numbers["days"]) + 10 * numbers["died"] + 10 * numbers["response"] + noise
    tables.patients["age"] = np.round(age, 1).astype(str)
    return {kind: cohort(kind, tables, **EVERYTHING) for kind in ("cox", "logistic")}


# ----------------------------------------------------------- what a fit may not know


def everything_learned(fitted: Fitted, pipeline: ArmPipeline | None) -> dict[str, Any]:
    """All that a fit has learned, bit for bit."""
    assert pipeline is not None
    block, clinical = pipeline.feature_block_, pipeline.clinical_block_
    harmonizer = None if block is None else block.harmonizer_
    return {
        "terms": pipeline.terms_,
        "mean": pipeline.mean_.tobytes(),
        "sd": pipeline.sd_.tobytes(),
        "coefficients": pipeline.fit_.coefficients.tobytes(),
        "named": dict(fitted.coefficients),
        "intercept": fitted.intercept,
        "penalties": pipeline.fit_.penalties.tobytes(),
        "chosen": (fitted.penalty, pipeline.fit_.penalty_min, pipeline.fit_.penalty_1se, fitted.inner_folds),
        "curve": pipeline.fit_.cv_deviance.tobytes(),
        "model": repr(pipeline.model_.to_json()),
        "medians": None if block is None else block.medians_,
        "transformation": None if block is None else repr(block.transformation_json()),
        "harmoniser": None if harmonizer is None else repr(harmonizer.to_json()),
        "clinical": None if clinical is None else (clinical.medians_, clinical.commonest_),
    }


def made_wild(problem: Problem, hit: np.ndarray) -> Problem:
    """The same problem with everything that is known of some cases, the batch apart, turned into nonsense."""
    rng = np.random.default_rng(7)
    table, y = problem.table.copy(), problem.y.copy()
    for name in problem.features:
        table.loc[table.index[hit], name] = 1e6 * rng.standard_cauchy(int(hit.sum()))
    cells = rng.uniform(size=(int(hit.sum()), len(problem.features))) < 0.2
    values = table.loc[table.index[hit], list(problem.features)].to_numpy()
    table.loc[table.index[hit], list(problem.features)] = np.where(cells, np.nan, values)
    table.loc[table.index[hit], "age"] = 1e5
    table.loc[table.index[hit], "sex"] = "M"
    table.loc[table.index[hit], METADATA + "age"] = "999"
    table.loc[table.index[hit], PATIENT] = [f"someone {number}" for number in range(int(hit.sum()))]
    if y.dtype.names:
        y["time"][hit], y["event"][hit] = 1e4, ~y["event"][hit]
    else:
        y[hit] = 1 - y[hit]
    return replace(problem, table=table, y=y)


@pytest.mark.parametrize("kind", ["cox", "logistic"])
@pytest.mark.parametrize("number", range(4), ids=["fold", "centre", "bootstrap", "locked"])
def test_nothing_of_a_held_out_case_changes_the_fit(cohorts: dict[str, Cohort], kind: str, number: int) -> None:
    problem = cohorts[kind].problem
    assert len(problem.arms) == 5
    split = splits_of(cohorts[kind])[number]
    hit = ~np.isin(np.arange(len(problem.y)), split.train)
    assert hit.sum() >= 20
    assert set(np.flatnonzero(hit)) <= set(split.held)
    before, after = fit_arms(problem, split), fit_arms(made_wild(problem, hit), split)
    for arm, (fitted, pipeline) in before.items():
        assert not fitted.error, arm
        assert fitted.coefficients, arm
        known, found = everything_learned(fitted, pipeline), everything_learned(*after[arm])
        assert known == found, arm
        # And the nonsense got through to where it belongs.
        outside = np.isin(split.held, np.flatnonzero(hit))
        assert (after[arm][0].risk[outside] != fitted.risk[outside]).any(), arm
        np.testing.assert_array_equal(after[arm][0].risk[~outside], fitted.risk[~outside])


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_the_training_cases_do_change_the_fit(cohorts: dict[str, Cohort], kind: str) -> None:
    problem, split = cohorts[kind].problem, splits_of(cohorts[kind])[0]
    hit = np.isin(np.arange(len(problem.y)), split.train[:1])
    before, after = fit_arms(problem, split), fit_arms(made_wild(problem, hit), split)
    for arm, found in before.items():
        known, wild = everything_learned(*found), everything_learned(*after[arm])
        assert known["mean"] != wild["mean"], arm
        assert known["curve"] != wild["curve"], arm
    assert everything_learned(*before["features_combat"])["harmoniser"] is not None


def test_predictions_of_a_case_do_not_depend_on_the_others_that_are_held_out(cohorts: dict[str, Cohort]) -> None:
    problem, split = cohorts["cox"].problem, splits_of(cohorts["cox"])[0]
    alone = replace(split, held=split.held[3:4])
    for arm, fitted in fit_split(problem, split).items():
        # One row or many: the matrix product may sum in another order.
        np.testing.assert_allclose(fit_split(problem, alone)[arm].risk, fitted.risk[3:4], rtol=1e-12)


# -------------------------------------------------------------------------- order, workers


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_order_of_rows_changes_nothing(kind: str) -> None:
    tables = cohort_tables()
    order = np.random.default_rng(3).permutation(len(tables.features))
    turned = CohortTables(tables.features.iloc[order], tables.cases[::-1], tables.patients.iloc[order])
    first, second = cohort(kind, tables, **EVERYTHING), cohort(kind, turned, **EVERYTHING)
    for own, other in zip(splits_of(first), splits_of(second), strict=True):
        np.testing.assert_array_equal(own.train, other.train)
        again = fit_arms(second.problem, other)
        for arm, found in fit_arms(first.problem, own).items():
            assert everything_learned(*found) == everything_learned(*again[arm])
            np.testing.assert_array_equal(found[0].risk, again[arm][0].risk)


def test_any_number_of_workers_gives_the_same_bytes(cohorts: dict[str, Cohort]) -> None:
    for found in cohorts.values():
        splits = splits_of(found)
        alone, together = (fit_splits(found.problem, splits, workers) for workers in (1, 2))
        for one, other in zip(alone, together, strict=True):
            assert list(one) == list(other)
            assert [bytes_of(fitted) for fitted in one.values()] == [bytes_of(fitted) for fitted in other.values()]


def bytes_of(fitted: Fitted) -> tuple[Any, ...]:
    """All of a fit, arrays as their bytes."""
    parts = (getattr(fitted, part.name) for part in fields(fitted))
    return tuple(part.tobytes() if isinstance(part, np.ndarray) else repr(part) for part in parts)


# -------------------------------------------------------------------------------- splits


def doubled_patients() -> Cohort:
    """A cohort in which every second patient has two cases, of one centre."""
    found = cohort(analysis_plan__covariates=["age"])
    patients = found.data.patients.copy()
    for code in range(3):
        rows = np.flatnonzero(found.centres == f"C{code}")
        patients.iloc[rows[1::4]] = patients.iloc[rows[::4]].to_numpy()
    data = replace(found.data, patients=patients)
    settings = settings_of(found.params)
    problem = pose(data, found.y, found.problem.model, found.problem.arms, settings, ())
    return replace(found, data=data, problem=problem)


def test_all_cases_of_a_patient_share_a_fold() -> None:
    found = doubled_patients()
    patients = found.problem.table[PATIENT].to_numpy()
    assert len(set(patients)) == 90
    splits = fold_splits(found.problem)
    held = np.concatenate([split.held for split in splits])
    assert sorted(held) == list(range(120))
    for split in splits:
        assert not set(patients[split.train]) & set(patients[split.held])
        assert sorted([*split.train, *split.held]) == list(range(120))


def test_draws_of_a_patient_share_an_inner_fold_of_a_bootstrap_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Sequence[str], np.ndarray]] = []

    def watched(patients: Sequence[str], *rest: Any) -> np.ndarray:
        seen.append((patients, stratified_folds(patients, *rest)))
        return seen[-1][1]

    monkeypatch.setattr("radloom.pipeline.stratified_folds", watched)
    found = doubled_patients()
    split = bootstrap_splits(found.problem, found.centres)[1]
    fit_split(found.problem, split)
    assert len(seen) == len(found.problem.arms) == 5
    for patients, folds in seen:
        assert list(patients) == list(found.problem.table[PATIENT].iloc[split.train])
        assert len(set(patients)) < 0.7 * len(patients)
        table = pd.DataFrame({"patient": list(patients), "fold": folds})
        assert (table.groupby("patient")["fold"].nunique() == 1).all()
        assert table["fold"].nunique() == 10


def test_folds_share_out_outcomes_and_batches(cohorts: dict[str, Cohort]) -> None:
    for found in cohorts.values():
        classes, batches = found.problem.classes, found.problem.batches
        held = [split.held for split in fold_splits(found.problem)]
        for value in (0, 1):
            counts = [int((classes[rows] == value).sum()) for rows in held]
            assert max(counts) - min(counts) <= 1
            for batch in set(batches):
                inside = [int(((classes[rows] == value) & (batches[rows] == batch)).sum()) for rows in held]
                assert max(inside) - min(inside) <= 1


def test_two_centres_are_left_out_in_both_directions() -> None:
    names = np.array(["b", "a", "b", "a", "a"])
    splits = centre_splits(names)
    assert [split.label for split in splits] == ["a", "b"]
    np.testing.assert_array_equal(splits[0].held, [1, 3, 4])
    np.testing.assert_array_equal(splits[0].train, [0, 2])
    np.testing.assert_array_equal(splits[1].held, splits[0].train)
    assert centre_splits(np.array(["a", "a"])) == []


def test_bootstrap_samples_draw_within_centres_and_judge_all_cases(cohorts: dict[str, Cohort]) -> None:
    found = cohorts["cox"]
    splits = bootstrap_splits(found.problem, found.centres)
    assert len(splits) == found.problem.settings.refits == 5
    for split in splits:
        assert pd.Series(found.centres[split.train]).value_counts().to_dict() == {"C0": 40, "C1": 40, "C2": 40}
        np.testing.assert_array_equal(split.held, np.arange(120))
    assert len({split.train.tobytes() for split in splits}) == 5


def test_fewer_events_have_fewer_folds() -> None:
    tables = cohort_tables(60)
    tables.patients["died"] = ["1"] * 8 + ["0"] * 52
    problem = cohort("cox", tables).problem
    assert problem.settings.folds == 4
    fitted = [fit_split(problem, split)["features"] for split in fold_splits(problem)]
    assert [fit.inner_folds for fit in fitted] == [6] * 4
    assert fit_all_cases(problem)["features"][0].inner_folds == 8


# ------------------------------------------------------------------ settings, arms, batches


def test_settings_are_those_of_the_configuration() -> None:
    params = configuration(
        model__folds=7, model__seed=3, model__max_terms=4, model__override_sample_size=True,
        harmonize__new_batch="adapt", harmonize__reference_batch="C1",
    )  # fmt: skip
    settings = settings_of(params)
    assert (settings.folds, settings.seed, settings.max_terms, settings.override) == (7, 3, 4, True)
    assert settings.new_batch == "adapt"
    assert settings.harmonizer.get_params()["reference_batch"] == "C1"


def test_arms_that_the_data_can_not_have_are_left_out() -> None:
    plan = configuration()["analysis_plan"]["arms"]
    assert [arm.name for arm in arms_of(plan, cohort().data)] == ["features", "features_combat", "features_centre"]
    several = cohort(analysis_plan__covariates=["age"]).data
    assert [arm.name for arm in arms_of(reversed(plan), several)] == plan
    single = cohort(tables=cohort_tables(60, centres=1), analysis_plan__covariates=["age"]).data
    assert "features_centre" not in [arm.name for arm in arms_of(plan, single)]
    assert [arm.name for arm in arms_of(["clinical"], several)] == ["clinical"]


def with_batches(**changes: Any) -> Cohort:
    """Four cases of a batch `small` and three of `tiny`, in training and test alike."""
    tables = cohort_tables(90)
    tables.cases["scanner"] = [f"S{number % 3}" for number in range(90)]
    tables.cases.iloc[:4, tables.cases.columns.get_loc("scanner")] = "small"
    tables.cases.iloc[4:7, tables.cases.columns.get_loc("scanner")] = "tiny"
    return cohort("cox", tables, harmonize__batch="scanner", analysis_plan__arms=["features_combat"], **changes)


def test_small_batches_are_the_same_in_every_split() -> None:
    found = with_batches(harmonize__small_batch="passthrough")
    assert found.problem.unharmonised == ("small", "tiny")
    for split in [splits_of(found)[0], splits_of(found)[2], whole_split(90)]:
        pipeline = fit_arms(found.problem, split)["features_combat"][1]
        assert pipeline is not None
        assert pipeline.feature_block_ is not None
        assert pipeline.feature_block_.harmonizer_ is not None
        assert pipeline.feature_block_.harmonizer_.batches_ == ["S0", "S1", "S2"]
    fitted = fit_split(found.problem, fold_splits(found.problem)[0])["features_combat"]
    held = found.problem.batches[fold_splits(found.problem)[0].held]
    n = int(np.isin(held, ["small", "tiny"]).sum())
    assert n
    assert fitted.notes == (f"{n} held-out cases of small batches not harmonised",)


def test_small_batches_are_merged_on_request() -> None:
    found = with_batches(harmonize__small_batch="merge")
    assert found.problem.unharmonised == ()
    assert sorted(set(found.problem.batches)) == ["S0", "S1", "S2", "small+tiny"]
    fitted, pipeline = fit_all_cases(found.problem)["features_combat"]
    assert not fitted.error
    assert pipeline is not None
    assert pipeline.feature_block_ is not None
    assert pipeline.feature_block_.harmonizer_ is not None
    assert pipeline.feature_block_.harmonizer_.to_json()["batch_sizes"]["small+tiny"] == 7


def test_small_batches_may_be_left_out() -> None:
    found = with_batches(harmonize__small_batch="exclude")
    assert len(found.y) == 83
    assert sorted(set(found.problem.batches)) == ["S0", "S1", "S2"]


def test_a_batch_that_is_small_among_the_training_cases_is_told() -> None:
    found = with_batches(harmonize__min_batch_size=4, harmonize__small_batch="passthrough")
    assert found.problem.unharmonised == ("tiny",)
    split = replace(fold_splits(found.problem)[0], train=np.arange(2, 90), held=np.arange(2))
    fitted = fit_split(found.problem, split)["features_combat"]
    # Two of the four are in training, fewer than four fifths of the least size of four.
    assert fitted.notes == ("2 held-out cases of batches with too few training cases not harmonised",)
    assert np.isfinite(fitted.risk).all()


def test_all_cases_are_held_to_the_guards() -> None:
    found = with_batches()
    fitted, pipeline = fit_all_cases(found.problem)["features_combat"]
    assert pipeline is None
    assert fitted.error.startswith("batches with fewer than 5 cases: small (4), tiny (3). Set harmonize.small_batch to")


def test_a_covariate_that_a_fold_can_not_fit_is_left_out_there_and_refused_for_all() -> None:
    tables = cohort_tables(90)
    tables.patients["stage"] = ["rare"] + ["common"] * 89
    found = cohort("cox", tables, harmonize__covariates=["stage"], analysis_plan__arms=["features_combat"])
    train, held = np.arange(1, 90), np.arange(1)
    fitted = fit_split(found.problem, Split("cross-validation", "1", train, held))["features_combat"]
    assert "harmonised without covariates" in fitted.notes
    constant = replace(found.problem, table=found.problem.table.assign(**{METADATA + "stage": "common"}))
    refused, pipeline = fit_all_cases(constant)["features_combat"]
    assert pipeline is None
    assert "'stage' has the same value in all cases" in refused.error
    assert np.isnan(refused.risk).all()
    assert refused.link.shape == (90, len(found.problem.times))


# --------------------------------------------------------------------- unseen batches


@pytest.mark.filterwarnings("ignore::radloom.harmonizer.HarmonizationWarning")
@pytest.mark.parametrize("kind", ["cox", "logistic"])
@pytest.mark.parametrize("way", ["error", "passthrough", "adapt"])
def test_a_batch_that_the_training_cases_lack(kind: str, way: str) -> None:
    found = cohort(kind, harmonize__new_batch=way)
    split = centre_splits(found.centres)[1]
    fitted = fit_arms(found.problem, split)
    combat, pipeline = fitted["features_combat"]
    notes = {
        "error": "40 held-out cases of batches that the training cases lack "
        "not judged (harmonize.new_batch: adapt or passthrough would)",
        "passthrough": "40 held-out cases of batches that the training cases lack not harmonised",
        "adapt": "40 held-out cases of batches that the training cases lack harmonised by their own features",
    }
    assert combat.notes == (notes[way],)
    assert pipeline is not None
    train = found.data.features.iloc[split.train], found.data.metadata.iloc[split.train]
    held = found.data.features.iloc[split.held], found.data.metadata.iloc[split.held]
    if way == "error":
        assert np.isnan(combat.risk).all()
        assert np.isnan(combat.link).all()
    else:
        harmonizer = ComBatHarmonizer(new_batch=way, min_batch_size=4).fit(train[0], metadata=train[1])
        made = harmonizer.transform(*held)[pipeline.terms_]
        expected = pipeline.fit_.linear_predictor((made.to_numpy() - pipeline.mean_) / pipeline.sd_)
        np.testing.assert_allclose(combat.risk, expected, rtol=1e-9, atol=1e-9)
        assert np.isfinite(combat.link[:, 0]).all()
    # What isn't harmonised is judged as it is.
    assert np.isfinite(fitted["features"][0].risk).all()
    assert np.isfinite(fitted["features_centre"][0].risk).all()


@pytest.mark.parametrize("way", ["error", "passthrough", "adapt"])
def test_two_centres_give_both_directions(way: str) -> None:
    found = cohort(tables=cohort_tables(80, centres=2), harmonize__new_batch=way)
    fits = fit_splits(found.problem, centre_splits(found.centres))
    assert len(fits) == 2
    for fitted in fits:
        assert len(fitted["features_combat"].risk) == 40
        assert np.isfinite(fitted["features_combat"].risk).all() == (way != "error")
        assert np.isfinite(fitted["features"].risk).all()


def test_an_unseen_batch_is_the_average_one_of_a_logistic_model() -> None:
    found = cohort(analysis_plan__arms=["features_centre"])
    split = centre_splits(found.centres)[0]
    fitted, pipeline = fit_arms(found.problem, split)["features_centre"]
    assert pipeline is not None
    assert pipeline.terms_[-1] == "batch[C2]"
    features = found.data.features.iloc[split.held].to_numpy()[:, : len(pipeline.terms_) - 1]
    standard = (features - pipeline.mean_[:-1]) / pipeline.sd_[:-1]
    expected = standard @ pipeline.fit_.coefficients[:-1] + pipeline.fit_.intercept
    np.testing.assert_allclose(fitted.risk, expected, atol=1e-9)


def test_a_batch_of_one_class_is_pooled_and_told() -> None:
    tables = cohort_tables()
    tables.patients.loc[tables.patients.index[::3], "response"] = "0"
    found = cohort(tables=tables, analysis_plan__arms=["features_centre"])
    fitted, pipeline = fit_all_cases(found.problem)["features_centre"]
    assert fitted.notes == ("batches with fewer than two patients of a class share an intercept: C0",)
    assert pipeline is not None
    assert [term for term in pipeline.terms_ if term.startswith("batch")] == ["batch[C2]"]


# ------------------------------------------------------------------------ what can't be


@pytest.mark.parametrize(("kind", "what"), [("cox", "events"), ("logistic", "events")])
def test_training_cases_that_can_carry_no_model_are_told(kind: str, what: str) -> None:
    found = cohort(kind, analysis_plan__covariates=["age"])
    classes = classes_of(found.y)
    few = np.r_[np.flatnonzero(classes == 1)[:1], np.flatnonzero(classes == 0)]
    held = np.setdiff1d(np.arange(120), few)
    for fitted in fit_split(found.problem, Split("cross-validation", "1", few, held)).values():
        assert fitted.error == f"1 {what} among {len(few)} training cases"
        assert np.isnan(fitted.risk).all()
        assert not fitted.coefficients
        assert fitted.link.shape == (len(held), 1 if kind == "logistic" else 21)


def test_an_arm_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cohort(analysis_plan__covariates=["age"])

    def broken(*_: Any, **__: Any) -> None:
        raise CohortError("no way")

    monkeypatch.setattr("radloom.pipeline.BatchTerms.fit", broken)
    fits = fit_split(found.problem, fold_splits(found.problem)[0])
    assert {name for name, fitted in fits.items() if fitted.error} == {"features_centre"}
    assert fits["features_centre"].error == "no way"


def test_a_bug_is_not_taken_for_data(monkeypatch: pytest.MonkeyPatch) -> None:
    found = cohort()

    def broken(*_: Any, **__: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr("radloom.pipeline.prune_correlated", broken)
    with pytest.raises(TypeError, match="a bug"):
        fit_split(found.problem, fold_splits(found.problem)[0])


def test_the_pipeline_of_a_split_is_the_plans() -> None:
    found = cohort("cox", **EVERYTHING, harmonize__min_batch_size=10, model_cox__penalty="1se")
    arm = next(own for own in found.problem.arms if own.name == "features_combat+clinical")
    fold, whole = (arm_pipeline(found.problem, arm, kind) for kind in ("cross-validation", "all cases"))
    assert fold.max_terms == 8
    assert fold.model.rule == "1se"
    assert fold.feature_block is not None
    assert whole.feature_block is not None
    assert fold.feature_block.harmonizer is not None
    assert whole.feature_block.harmonizer is not None
    assert fold.feature_block.harmonizer.min_batch_size == 8
    assert fold.feature_block.harmonizer.new_batch == "passthrough"
    assert whole.feature_block.harmonizer.min_batch_size == 10
    assert whole.feature_block.strict
    assert not fold.feature_block.strict
    assert list(found.problem.table.columns[-2:]) == [PATIENT, BATCH]
