"""Judges, rows of performance, and what is not estimable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import roc_auc_score
from sksurv.metrics import concordance_index_censored
from statistics_cohort import cohort, cohort_tables

from radloom.cox import harrell_c
from radloom.folds import bootstrap_weights
from radloom.modelling import performance_tables, validate
from radloom.performance import (
    LEAST_PAIRS,
    TRANSFORMS,
    ClassJudge,
    Predictions,
    Setting,
    SurvivalJudge,
    interval,
    keys_of,
    optimism_rows,
    performance_row,
    prediction_rows,
    unequal_prevalence,
)
from radloom.pipeline import ArmPipeline, FeatureBlock
from radloom.pooling import bootstrap_error, pool, worst_of
from radloom.validation import BATCH, PATIENT, bootstrap_splits

ALL = frozenset({"c_index", "uno_c", "auc", "brier", "calibration", "net_benefit"})


def survival_judge(n: int = 90, seed: int = 0, **options: Any) -> SurvivalJudge:
    rng = np.random.default_rng(seed)
    time, event = np.ceil(30 * rng.exponential(size=n)), rng.integers(0, 2, n)
    return SurvivalJudge(time, event, options.pop("horizons", (20.0,)), options.pop("families", ALL), **options)


def class_judge(n: int = 90, seed: int = 0) -> ClassJudge:
    return ClassJudge(np.random.default_rng(seed).integers(0, 2, n), ALL)


def predictions(judge: SurvivalJudge | ClassJudge, split: str = "cross-validation", seed: int = 1) -> Predictions:
    n = len(judge.classes)
    rng = np.random.default_rng(seed)
    risk = rng.normal(size=n) + judge.classes
    width = len(judge.times) or 1
    link = (risk - 1)[:, None] + np.linspace(-0.5, 0.5, width)
    return Predictions(split, risk, link, np.arange(n) % 5 + 1)


def setting(judge: SurvivalJudge | ClassJudge, names: str = "abc", n_samples: int = 40, **parts: Any) -> Setting:
    centres = np.array([f"C{names[number % len(names)]}" for number in range(len(judge.classes))], dtype=object)
    return Setting(judge, centres, parts.pop("subgroups", {}), bootstrap_weights(centres, n_samples, 1), **parts)


def table_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).set_index(["metric", "centre", "subgroup"]).sort_index()


# -------------------------------------------------------------------- rank statistics


def test_concordance_of_one_group_is_harrells() -> None:
    judge = survival_judge(70)
    risk = np.round(np.random.default_rng(0).normal(size=70), 1)
    weights = bootstrap_weights(np.array(["a"] * 40 + ["b"] * 30), 20, 1)
    everyone = np.arange(70)
    draws = np.vstack([np.ones(70), weights])
    found = judge.ranks(risk, np.zeros(70), everyone, draws)["c_index", None]
    assert found[0] == pytest.approx(harrell_c(judge.time, judge.event, risk), rel=1e-13)
    drawn = np.repeat(everyone, weights[3].astype(int))
    # Copies of a case have equal times and are no pair where they are events; a copy is never compared.
    expected = concordance_index_censored(judge.event[drawn].astype(bool), judge.time[drawn], risk[drawn])[0]
    assert found[4] == pytest.approx(harrell_c(judge.time[drawn], judge.event[drawn], risk[drawn]), rel=1e-13)
    # sksurv takes a death and a censoring at one time for a pair as well; its ties of risk are within 1e-8.
    assert found[4] == pytest.approx(expected, abs=1e-12)


@settings(max_examples=25)
@given(st.integers(0, 100))
def test_auc_of_a_bootstrap_sample_is_that_of_its_copies(seed: int) -> None:
    judge = class_judge(40, seed)
    risk = np.round(np.random.default_rng(seed).normal(size=40), 1)
    weights = bootstrap_weights(np.repeat(["a", "b"], 20), 3, seed)
    found = judge.ranks(risk, np.zeros(40), np.arange(40), weights)["auc", None]
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(40), row.astype(int))
        assert value == pytest.approx(roc_auc_score(judge.outcome[drawn], risk[drawn]), rel=1e-12)


def test_pairs_are_compared_within_folds() -> None:
    outcome = np.array([1, 0, 1, 0] * 5)
    fold = np.repeat([1, 2], 10)
    # Right within each fold, but fold 2 is on a scale of its own.
    risk = outcome + np.where(fold == 2, 100.0, 0.0)
    judge = ClassJudge(outcome, ALL)
    assert judge.ranks(risk, fold, np.arange(20), np.ones((1, 20)))["auc", None] == 1.0
    assert judge.ranks(risk, np.zeros(20), np.arange(20), np.ones((1, 20)))["auc", None] < 0.8
    assert judge.pairs(fold, np.arange(20), None) == 50
    same_time = SurvivalJudge(np.r_[np.arange(1.0, 11), np.arange(1.0, 11)], outcome, (5.0,), ALL)
    by_hand = sum(
        same_time.event[i] and fold[i] == fold[j] and same_time.time[j] > same_time.time[i]
        for i in range(20)
        for j in range(20)
    )
    assert same_time.pairs(fold, np.arange(20), None) == by_hand


@settings(max_examples=40)
@given(st.integers(0, 300))
def test_pairs_are_those_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    judge = SurvivalJudge(rng.integers(1, 8, 25).astype(float), rng.integers(0, 2, 25), (4.0,), ALL)
    fold, rows = rng.integers(0, 3, 25), np.flatnonzero(rng.uniform(size=25) < 0.8)
    t, d = judge.time, judge.event
    pairs = [(i, j) for i in rows for j in rows if fold[i] == fold[j] and d[i] and t[j] > t[i]]
    # A case that is censored at the horizon is known to be free of the event by then.
    free = [j for j in rows if t[j] > 4 or (t[j] == 4 and not d[j])]
    at_horizon = [(i, j) for i in rows for j in free if fold[i] == fold[j] and d[i] and t[i] <= 4]
    assert judge.pairs(fold, rows, None) == len(pairs)
    assert judge.pairs(fold, rows, 4.0) == len(at_horizon)


# --------------------------------------------------------------------- rows of a table


def test_intervals_and_refusals() -> None:
    low, high = interval(np.linspace(0, 1, 1001))
    assert (low, high) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.array([0.5] * 8 + [np.nan] * 2))[0])
    assert np.isfinite(interval(np.array([0.5] * 9 + [np.nan]))[0])
    assert np.isnan(interval(np.empty(0))[0])
    row = performance_row("cox", "features", "cross-validation", ("c_index", None), np.empty(0), 5, 1)
    assert (row["status"], row["note"]) == ("not estimable", "no finite estimate")
    row = performance_row("cox", "features", "x", ("c_index", None), np.r_[0.5, [0.4] * 5, [np.nan] * 5], 5, 1)
    assert (row["estimate"], row["status"]) == (0.5, "estimable")
    assert np.isnan([row["ci_low"], row["ci_high"]]).all()
    assert "too many bootstrap samples without an estimate" in row["note"]


def test_an_estimate_that_no_bootstrap_sample_moves_has_no_interval() -> None:
    row = performance_row("cox", "clinical", "cross-validation", ("c_index", None), np.full(100, 0.5), 23, 13)
    assert row["estimate"] == 0.5
    assert np.isnan(row["ci_low"])
    assert np.isnan(row["ci_high"])
    assert "every bootstrap sample gives the same" in row["note"]


def test_what_is_refused_has_no_number_and_does_not_lead() -> None:
    samples = np.linspace(0.4, 0.6, 11)
    row = performance_row("cox", "a", "s", ("auc", 2.0), samples, 5, 1, leads=True, note="told", refusal="why")
    assert np.isnan([row["estimate"], row["ci_low"], row["ci_high"]]).all()
    assert (row["status"], row["note"], row["leads"], row["horizon"]) == ("not estimable", "why", "", 2.0)


@pytest.mark.parametrize("kind", ["survival", "class"])
def test_each_metric_is_there_for_all_for_each_centre_and_pooled(kind: str) -> None:
    judge = survival_judge() if kind == "survival" else class_judge()
    found = table_of(
        prediction_rows("features", predictions(judge), setting(judge, subgroups={"sex: F": np.arange(45)}))
    )
    ranks = ["auc", "c_index", "uno_c"] if kind == "survival" else ["auc"]
    absolute = ["brier", "scaled_brier", "observed_expected", "calibration_intercept", "calibration_slope"]
    absolute += ["calibration_in_the_large", *(["integrated_brier"] if kind == "survival" else [])]
    for metric in [*ranks, *absolute]:
        for centre in ("all", "Ca", "Cb", "Cc", "random effects"):
            assert (metric, centre, "") in found.index, (metric, centre)
        assert ((metric, "worst", "") in found.index) == (metric in ranks)
    for metric in ranks:
        assert (metric + "_within_centre", "all", "") in found.index
    of_subgroup = found.xs("sex: F", level="subgroup").reset_index()["metric"]
    assert set(of_subgroup) == {*ranks, "brier", "scaled_brier", "observed_expected"}
    assert set(found.index.get_level_values("metric")) <= {*TRANSFORMS, *(name + "_within_centre" for name in ranks)}
    good = found[found["status"] == "estimable"]
    assert len(good) > 0.9 * len(found)
    assert not (good["ci_low"] > good["ci_high"]).any()
    assert found.loc[("auc", "all", ""), "n"] == 90
    assert found.loc[("auc", "Ca", ""), "n"] == 30
    assert found.loc[("auc", "all", "sex: F"), "n"] == 45
    horizon = 20.0 if kind == "survival" else np.nan
    np.testing.assert_equal(found.loc[("auc", "all", ""), "horizon"], horizon)


def test_rows_are_the_metrics_of_their_cases() -> None:
    judge = class_judge(300)
    found, own = predictions(judge), setting(judge)
    table = table_of(prediction_rows("features", found, own))
    samples: dict[str, list[float]] = {}
    for name in ("all", "Ca", "Cb", "Cc"):
        rows = np.flatnonzero((own.centres == name) | (name == "all"))
        values = judge.ranks(found.risk, found.group, rows, np.vstack([np.ones(300), own.weights]))["auc", None]
        row = table.loc[("auc", name, "")]
        assert row["estimate"] == values[0]
        assert (row["ci_low"], row["ci_high"]) == tuple(np.percentile(values[1:], [2.5, 97.5]))
        assert row["events"] == judge.outcome[rows].sum()
        samples[name] = list(values)
    centres = np.array([samples[name] for name in ("Ca", "Cb", "Cc")]).T
    pooled = pool(centres[0], bootstrap_error(centres[1:], "logit"), "logit")
    row = table.loc[("auc", "random effects", "")]
    assert (row["estimate"], row["ci_low"], row["ci_high"]) == (pooled.estimate, pooled.ci_low, pooled.ci_high)
    assert "95 % prediction interval" in row["note"]
    worst = worst_of(["Ca", "Cb", "Cc"], centres[0], centres[1:])
    row = table.loc[("auc", "worst", "")]
    assert (row["estimate"], row["ci_low"], row["ci_high"]) == (min(centres[0]), worst.ci_low, worst.ci_high)
    assert row["note"].startswith(worst.name)
    assert worst.name == ("Ca", "Cb", "Cc")[int(np.argmin(centres[0]))]
    brier = np.mean((expit(found.link[:, 0]) - judge.outcome) ** 2)
    assert table.loc[("brier", "all", ""), "estimate"] == pytest.approx(brier, rel=1e-13)


def test_pairs_within_centres_and_folds_are_those_of_a_loop() -> None:
    judge = class_judge()
    found, own = predictions(judge), setting(judge)
    table = table_of(prediction_rows("features", found, own))
    right = total = 0.0
    for i in np.flatnonzero(judge.outcome == 1):
        for j in np.flatnonzero(judge.outcome == 0):
            if own.centres[i] == own.centres[j] and found.group[i] == found.group[j]:
                right, total = right + float(found.risk[i] > found.risk[j]), total + 1
    assert table.loc[("auc_within_centre", "all", ""), "estimate"] == pytest.approx(right / total, rel=1e-13)


# ------------------------------------------------------------------ what is not estimable


def test_a_centre_of_one_class_is_not_estimable() -> None:
    outcome = np.arange(90) % 2
    outcome[1::3], outcome[2::3] = 0, 1
    judge = ClassJudge(outcome, ALL)
    table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
    assert table.loc[("auc", "Cb", ""), ["status", "note"]].tolist() == ["not estimable", "0 events among 30 cases"]
    assert table.loc[("auc", "Cc", ""), "note"] == "all 30 cases have the outcome"
    for metric in ("auc", "brier", "observed_expected", "calibration_slope"):
        gone = table.loc[[(metric, "Cb", ""), (metric, "Cc", "")], ["estimate", "ci_low", "ci_high"]]
        assert gone.isna().all(axis=None), metric
    assert table.loc[("auc", "Ca", ""), "status"] == "estimable"
    assert table.loc[("auc_within_centre", "all", ""), "estimate"] == table.loc[("auc", "Ca", ""), "estimate"]
    pooled = table.loc[("auc", "random effects", "")]
    assert pooled["status"] == "not estimable"
    assert "1 of 1 centres have an estimate" in pooled["note"]
    assert "2 of 3 centres not estimable" in pooled["note"]
    assert ("auc", "worst", "") not in table.index


def test_a_centre_without_events_and_one_that_nobody_followed() -> None:
    judge = survival_judge(120)
    judge.event[1::3] = 0
    judge.time[2::3] = np.minimum(judge.time[2::3], 19.0)
    judge.event[2::6] = 1
    table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
    assert table.loc[("c_index", "Cb", ""), "note"] == "0 events among 40 cases"
    assert table.loc[("auc", "Cb", ""), "note"] == "0 events among 40 cases by 20"
    for metric in ("auc", "brier", "observed_expected", "calibration_slope", "integrated_brier"):
        assert table.loc[(metric, "Cc", ""), "note"] == "none of 40 cases was followed to 20", metric
        assert np.isnan(table.loc[(metric, "Cc", ""), "estimate"])
    assert table.loc[("c_index", "Cc", ""), "status"] == "estimable"
    assert table.loc[("auc", "all", ""), "status"] == "estimable"


def test_few_pairs_events_or_cases_are_not_enough() -> None:
    judge = class_judge(90, 4)
    judge.outcome[:] = 0
    judge.outcome[[0, 3, 1]] = 1
    table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
    # Within five folds the one event of a centre meets five others.
    note = table.loc[("auc", "Cb", ""), "note"]
    assert note == f"5 comparable pairs within folds (1 events), {LEAST_PAIRS} needed"
    assert table.loc[("calibration_slope", "all", ""), "note"] == "3 events among 90 cases, 5 needed"
    assert table.loc[("brier", "all", ""), "status"] == "estimable"
    few = table_of(prediction_rows("f", predictions(class_judge(24)), setting(class_judge(24))))
    assert few.loc[("brier", "Ca", ""), "note"] == "8 cases, 10 needed"


def test_equal_risks_have_no_slope_and_an_auc_of_one_half() -> None:
    judge = class_judge()
    flat = Predictions("cross-validation", np.zeros(90), np.zeros((90, 1)), np.arange(90) % 5 + 1)
    table = table_of(prediction_rows("features", flat, setting(judge)))
    for metric in ("calibration_slope", "calibration_intercept"):
        assert table.loc[(metric, "all", ""), "note"] == "the predicted risks are equal within every fold"
        assert np.isnan(table.loc[(metric, "all", ""), "estimate"])
    assert table.loc[("calibration_in_the_large", "all", ""), "status"] == "estimable"
    row = table.loc[("auc", "all", "")]
    assert row["estimate"] == 0.5
    assert np.isnan(row["ci_low"])


@pytest.mark.parametrize("kind", ["survival", "class"])
def test_risks_of_zero_and_one_are_judged_where_that_can_be(kind: str) -> None:
    judge = survival_judge() if kind == "survival" else class_judge()
    found = predictions(judge)
    endless = found.link.copy()
    endless[[4, 8]] = -np.inf
    table = table_of(prediction_rows("f", Predictions(found.split, found.risk, endless, found.group), setting(judge)))
    for metric in ("calibration_slope", "calibration_intercept", "calibration_in_the_large"):
        row = table.loc[(metric, "all", "")]
        assert row["note"] == "the predicted risk of 2 of 90 cases is 0 or 1, which has no place on the scale"
        assert np.isnan(row["estimate"])
        assert table.loc[(metric, "Ca", ""), "status"] == "estimable"  # the two are of the other centres
    for metric in ("brier", "observed_expected", "auc"):
        assert table.loc[(metric, "all", ""), "status"] == "estimable"


def test_cases_without_a_prediction_are_counted_and_told() -> None:
    judge = class_judge()
    found = predictions(judge)
    lost = np.arange(90) % 5 == 0
    risk, link = np.where(lost, np.nan, found.risk), np.where(lost[:, None], np.nan, found.link)
    some = Predictions("cross-validation", risk, link, found.group, ("fold 1: why",))
    table = table_of(prediction_rows("features", some, setting(judge, mark="marked")))
    row = table.loc[("auc", "all", "")]
    assert (row["n"], row["events"]) == (72, judge.outcome[~lost].sum())
    assert row["note"].endswith("marked; 18 cases without a prediction; fold 1: why")
    nothing = Predictions("x", np.full(90, np.nan), np.full((90, 1), np.nan), found.group, ("without a: no way",))
    rows = prediction_rows("features", nothing, setting(judge))
    assert [(row["metric"], row["status"], row["note"]) for row in rows] == [
        ("auc", "not estimable", "without a: no way")
    ]


def test_a_centre_without_predictions_says_why() -> None:
    judge, own = class_judge(), setting(class_judge())
    found = predictions(judge)
    group = np.unique(own.centres, return_inverse=True)[1] + 1
    gone = own.centres == "Cb"
    risk, link = np.where(gone, np.nan, found.risk), np.where(gone[:, None], np.nan, found.link)
    some = Predictions("leave-one-centre-out", risk, link, group, ("without Cb: not judged",))
    table = table_of(prediction_rows("features", some, own))
    row = table.loc[("auc", "Cb", "")]
    assert (row["status"], row["note"], row["n"]) == ("not estimable", "without Cb: not judged", 30)
    assert table.loc[("auc", "random effects", ""), "n"] == 60


def test_what_is_asked_is_what_is_judged() -> None:
    judge = survival_judge(families=frozenset({"uno_c", "brier"}), horizons=(10.0, 20.0))
    table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
    names = set(table.index.get_level_values("metric"))
    assert names == {"uno_c", "uno_c_within_centre", "brier", "scaled_brier", "integrated_brier"}
    assert keys_of(judge) == [("uno_c", None)]
    assert keys_of(survival_judge(horizons=(10.0, 20.0)))[2:] == [("auc", 10.0), ("auc", 20.0)]
    assert set(table.loc["brier"]["horizon"]) == {10.0, 20.0}


# ----------------------------------------------------------- prevalence, strata, competing


def with_prevalence(shares: list[float], n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    centre = np.arange(n) % len(shares)
    place = np.arange(n) // len(shares) / (n / len(shares))
    return (place < np.array(shares)[centre]).astype(int), centre


def test_unequal_prevalence_marks_the_pooled_metric_and_lets_the_within_centre_one_lead() -> None:
    for shares, unequal in (([0.2, 0.8, 0.3], True), ([0.5, 0.5, 0.5], False)):
        outcome, centre = with_prevalence(shares)
        assert unequal_prevalence(outcome, centre) == unequal
        judge = ClassJudge(outcome, ALL)
        table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
        pooled, within = table.loc[("auc", "all", "")], table.loc[("auc_within_centre", "all", "")]
        assert (pooled["leads"], within["leads"]) == (("", "yes") if unequal else ("yes", ""))
        assert ("centres differ in prevalence" in pooled["note"]) == unequal
        assert (table["leads"] == "yes").sum() == 1


def test_leaving_centres_out_compares_within_centres_only() -> None:
    outcome, _ = with_prevalence([0.2, 0.8, 0.3])
    judge = ClassJudge(outcome, ALL)
    own = setting(judge)
    found = predictions(judge)
    group = np.unique(own.centres, return_inverse=True)[1] + 1
    table = table_of(prediction_rows("f", Predictions("leave-one-centre-out", found.risk, found.link, group), own))
    row = table.loc[("auc", "all", "")]
    assert row["leads"] == "yes"
    assert row["note"] == "pairs within centres"
    assert ("auc_within_centre", "all", "") not in table.index


def test_risks_of_strata_are_not_compared_between_them() -> None:
    judge = survival_judge(120)
    table = table_of(prediction_rows("features_centre", predictions(judge), setting(judge), comparable=False))
    for metric in ("c_index", "uno_c", "auc"):
        row = table.loc[(metric, "all", "")]
        assert row["note"] == "risks of different batches are not comparable: the batch is a stratum"
        assert np.isnan(row["estimate"])
        assert table.loc[(metric + "_within_centre", "all", ""), "leads"] == "yes"
        assert table.loc[(metric, "Ca", ""), "status"] == "estimable"
    assert table.loc[("brier", "all", ""), "status"] == "estimable"


def test_subgroups_of_strata_are_judged_within_centres() -> None:
    judge = survival_judge(120)
    own = setting(judge, subgroups={"sex: F": np.arange(0, 120, 2)})
    found = predictions(judge)
    shifted = found.risk + 50.0 * np.unique(own.centres, return_inverse=True)[1]
    moved = Predictions(found.split, shifted, found.link, found.group)
    plain, other = (
        table_of(prediction_rows("f", some, own, comparable=False)).loc[("c_index", "all", "sex: F"), "estimate"]
        for some in (found, moved)
    )
    assert plain == other


def test_absolute_risks_are_not_judged_beside_a_competing_event() -> None:
    judge = survival_judge(competing=True)
    table = table_of(prediction_rows("features", predictions(judge), setting(judge)))
    assert set(table.index.get_level_values("metric")) == {
        *("c_index", "uno_c", "auc", "c_index_within_centre", "uno_c_within_centre", "auc_within_centre")
    }


def test_two_centres_are_pooled_without_a_prediction_interval() -> None:
    judge = class_judge()
    table = table_of(prediction_rows("features", predictions(judge), setting(judge, "ab")))
    row = table.loc[("auc", "random effects", "")]
    assert row["status"] == "estimable"
    assert "no prediction interval: 2 centres, 3 needed" in row["note"]
    one = table_of(prediction_rows("features", predictions(judge), setting(judge, "a")))
    assert set(one.index.get_level_values("centre")) == {"all"}
    assert one.loc[("auc", "all", ""), "leads"] == "yes"


# ---------------------------------------------------------------------------- optimism


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_optimism_is_that_of_a_slow_loop(kind: str) -> None:
    found = cohort(
        kind, cohort_tables(90), analysis_plan__arms=["features"], model__refits=6,
    )  # fmt: skip
    results, counts = validate(found.problem, found.centres)
    own = Setting(found.judge, found.centres, {}, bootstrap_weights(found.centres, 20, 1))
    rows = performance_tables(results, counts, own, [0.5])["performance"]
    table = table_of([row for row in rows if row["split"] == "optimism-corrected"])

    def fitted(rows: np.ndarray) -> ArmPipeline:
        names = [str(name) for name in found.data.features.columns]
        block = FeatureBlock()
        pipeline = ArmPipeline(
            found.problem.model, features=names, patient=PATIENT, batch=BATCH, feature_block=block, seed=2
        )
        return pipeline.fit(found.problem.table.iloc[rows].reset_index(drop=True), found.y[rows])

    def metrics(pipeline: ArmPipeline, rows: np.ndarray) -> dict[str, float]:
        """Each metric of some cases, taken as often as they come."""
        risk = pipeline.predict(found.problem.table)[rows]
        if kind == "cox":
            time, event = found.y["time"][rows], found.y["event"][rows]
            return {"c_index": concordance_index_censored(event, time, risk)[0]}
        y = found.y[rows]
        brier = float(np.mean((expit(risk) - y) ** 2))
        scaled = 1 - brier / (y.mean() * (1 - y.mean()))
        return {"auc": roc_auc_score(y, risk), "brier": brier, "scaled_brier": scaled}

    everyone = np.arange(90)
    apparent = metrics(fitted(everyone), everyone)
    samples = [split.train for split in bootstrap_splits(found.problem, found.centres)]
    assert len(samples) == 6
    pairs = [(metrics(model, rows), metrics(model, everyone)) for rows in samples for model in [fitted(rows)]]
    for metric, value in apparent.items():
        optimism = np.mean([inside[metric] - outside[metric] for inside, outside in pairs])
        row = table.loc[(metric, "all", "")]
        assert row["estimate"] == pytest.approx(value - optimism, rel=1e-10), metric
        assert row["note"].startswith(f"apparent {value:.4g}, optimism {optimism:.4g} in 6 of 6 refits")
        inside = np.array([pair[0][metric] for pair in pairs])
        moved = inside - inside.mean() + value - optimism
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(np.percentile(moved, [2.5, 97.5])), rel=1e-9)
    assert results[0].pipeline is not None
    assert {row["split"] for row in rows} == {"cross-validation", "leave-one-centre-out", "optimism-corrected"}


def test_optimism_leads_where_the_cross_validation_leads() -> None:
    outcome, _ = with_prevalence([0.2, 0.8, 0.3])
    judge = ClassJudge(outcome, ALL)
    own, found = setting(judge), predictions(judge)
    refits = [(row, found.risk, found.link) for row in own.weights[:8]]
    table = table_of(optimism_rows("f", found, refits, own, "optimism-corrected", True))
    assert table.loc[("auc_within_centre", "all", ""), "leads"] == "yes"
    assert table.loc[("auc", "all", ""), "leads"] == ""
    strata = table_of(optimism_rows("f", found, refits, own, "optimism-corrected", False))
    assert ("auc", "all", "") not in strata.index
    assert strata.loc[("auc_within_centre", "all", ""), "leads"] == "yes"


def test_optimism_of_a_model_that_was_not_chosen_by_the_cases_is_none() -> None:
    judge = class_judge(300)
    own, found = setting(judge, n_samples=400), predictions(judge)
    refits = [(row, found.risk, found.link) for row in own.weights]
    table = table_of(optimism_rows("f", found, refits, own, "optimism-corrected", True))
    row = table.loc[("auc", "all", "")]
    apparent = roc_auc_score(judge.outcome, found.risk)
    # A sample's AUC has a standard deviation of about 0.03: the mean of 400 is known to 0.0015.
    assert row["estimate"] == pytest.approx(apparent, abs=0.005)
    assert row["ci_low"] < apparent < row["ci_high"]


def test_optimism_without_enough_refits_is_refused() -> None:
    judge = class_judge()
    own, found = setting(judge), predictions(judge)
    endless = np.where(np.arange(90)[:, None] == 3, np.inf, found.link)
    refits = [(row, found.risk, endless if number < 3 else found.link) for number, row in enumerate(own.weights[:10])]
    table = table_of(optimism_rows("f", found, refits, own, "optimism-corrected", True))
    row = table.loc[("calibration_slope", "all", "")]
    assert (row["status"], row["note"]) == ("not estimable", "only 7 of 10 refits have an estimate")
    assert table.loc[("brier", "all", ""), "status"] == "estimable"
    assert optimism_rows("f", found, [], own, "optimism-corrected", True) == []
    lost = Predictions("apparent", np.where(np.arange(90) < 2, np.nan, found.risk), found.link, found.group)
    assert optimism_rows("f", lost, refits, own, "optimism-corrected", True) == []
