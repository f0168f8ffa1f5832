"""Folds, the pipeline of a fold, and metrics."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statistics_cohort import cohort_tables, configuration

from radloom.assembly import ModelData, assemble
from radloom.combat import ComBatHarmonizer, HarmonizationError
from radloom.cox import comparable_pairs, harrell_c
from radloom.logistic import class_pairs
from radloom.penalised import PenalisedFit, logistic_path
from radloom.validation import (
    Arm,
    ArmResult,
    Settings,
    bootstrap_weights,
    check_events,
    concordance_rows,
    cross_validate,
    fold_concordance,
    harmonise_fold,
    interval,
    limiting_count,
    n_folds_for,
    performance_row,
    prepare,
    prune_correlated,
    stratified_folds,
)

COMBAT = Arm("features_combat", True, True, False)
PLAIN = Arm("features", True, False, False)
BOTH = Arm("features_combat+clinical", True, True, True)


def data_of(n: int = 90, **changes: object) -> ModelData:
    return assemble(cohort_tables(n), configuration(**changes), {})


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 1000))
def test_folds_are_balanced_and_keep_patients_together(n_folds: int, seed: int, data_seed: int) -> None:
    rng = np.random.default_rng(data_seed)
    n = 60
    patients = np.array([f"P{number}" for number in rng.integers(0, 45, n)])
    event = {name: int(rng.uniform() < 0.3) for name in patients}
    batch = {name: f"B{rng.integers(0, 3)}" for name in patients}
    strata = [(event[name], batch[name]) for name in patients]
    fold = stratified_folds(patients, strata, n_folds, seed)
    table = pd.DataFrame({"patient": patients, "fold": fold, "event": [event[name] for name in patients]})
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    single = table.drop_duplicates("patient")
    for part in (single, single[single["event"] == 1], single[single["event"] == 0]):
        sizes = part["fold"].value_counts().reindex(range(1, n_folds + 1), fill_value=0)
        assert sizes.max() - sizes.min() <= 1
    order = rng.permutation(n)
    again = stratified_folds(patients[order], [strata[row] for row in order], n_folds, seed)
    assert (again == fold[order]).all()


def test_folds_depend_on_the_seed() -> None:
    names = [f"P{number}" for number in range(50)]
    strata = [(number % 2,) for number in range(50)]
    assert (stratified_folds(names, strata, 5, 1) != stratified_folds(names, strata, 5, 2)).any()


def test_pruning_keeps_the_earlier_of_two() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 80))
    values = np.column_stack([a, b, np.exp(a), -b + 0.01 * rng.normal(size=80), a + b])
    assert list(prune_correlated(values, 0.9)) == [0, 1, 4]
    assert list(prune_correlated(values, 1.0)) == [0, 1, 2, 3, 4]


def test_preparation_sees_the_training_cases_alone() -> None:
    data = data_of(90, analysis_plan__covariates=["age", "sex"], harmonize__covariates=["age"])
    features = data.features.copy()
    features.iloc[4, 2] = np.nan
    data = replace(data, features=features)
    train = np.arange(len(features)) % 4 != 0
    settings = Settings(ComBatHarmonizer(covariates=["age"]))
    before = prepare(data, train, BOTH, settings, whole=False)
    # Anything may happen to the other test cases: nothing changes for the training cases and this test case.
    kept = train | (np.arange(len(features)) == 8)
    wild = features.copy()
    wild[~kept] = 1e3 * np.random.default_rng(0).normal(size=(int((~kept).sum()), features.shape[1]))
    after = prepare(replace(data, features=wild), train, BOTH, settings, whole=False)
    assert after.terms == before.terms
    np.testing.assert_array_equal(after.design[kept], before.design[kept])
    np.testing.assert_allclose(before.design[train].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(before.design[train].std(axis=0), 1, atol=1e-12)


def test_missing_cells_take_the_training_median() -> None:
    data = data_of()
    features = data.features.copy()
    features.iloc[[0, 5], 3] = [np.nan, np.inf]
    features["empty"] = np.nan
    features["flat"] = 2.0
    train = np.arange(len(features)) >= 30
    prepared = prepare(replace(data, features=features), train, PLAIN, Settings(ComBatHarmonizer()), whole=False)
    median = float(np.median(features.iloc[30:, 3]))
    assert prepared.medians["f3"] == median
    assert set(prepared.medians) == {f"f{number}" for number in range(12)}
    column = prepared.terms.index("f3")
    assert prepared.design[0, column] * prepared.sd[column] + prepared.mean[column] == pytest.approx(median)
    assert {"empty", "flat"}.isdisjoint(prepared.terms)
    assert prepared.notes == ["2 missing feature cells filled with the training median"]


def test_harmonisation_of_a_fold_states_what_it_leaves() -> None:
    data = data_of()
    metadata = data.metadata.copy()
    metadata.iloc[:6, 0] = "small"
    metadata.iloc[6:8, 0] = "only tested"
    train = np.arange(90) >= 4  # two of "small" are in training, fewer than four fifths of five
    train[6:8] = False
    result, fitted, notes = harmonise_fold(data.features, metadata, train, ComBatHarmonizer(), 5)
    assert notes == [
        "2 test cases of small batches not harmonised",
        "4 test cases of batches with fewer than 4 training cases not harmonised",
    ]
    assert fitted is not None
    assert fitted.batches_ == ["C0", "C1", "C2"]
    assert result.iloc[:8].equals(data.features.iloc[:8])
    assert not np.allclose(result.iloc[8:], data.features.iloc[8:])


def test_small_batches_are_the_same_in_every_fold() -> None:
    data = data_of()
    metadata = data.metadata.copy()
    metadata.iloc[:4, 0] = "small"  # below five, but not below the four that a fold asks for
    metadata.iloc[4:7, 0] = "tiny"
    train = np.arange(90) >= 0
    train[5:20:5] = False
    passed, fitted, notes = harmonise_fold(
        data.features, metadata, train, ComBatHarmonizer(small_batch="passthrough"), 5
    )
    assert fitted is not None
    assert fitted.batches_ == ["C0", "C1", "C2"]
    assert passed.iloc[:7].equals(data.features.iloc[:7])
    assert notes == ["1 test cases of small batches not harmonised"]
    _, fitted, notes = harmonise_fold(data.features, metadata, train, ComBatHarmonizer(small_batch="merge"), 5)
    assert fitted is not None
    assert fitted.batch_sizes_["small+tiny"] == 6
    assert notes == []


def test_missing_words_take_the_commonest_of_the_training_cases() -> None:
    data = data_of(analysis_plan__covariates=["age", "sex"])
    clinical = data.clinical.copy()
    train = np.arange(90) >= 30
    clinical["sex"] = pd.Categorical(["F"] * 30 + ["M"] * 40 + ["F"] * 20, categories=["F", "M"])
    clinical.iloc[[0, 50], 1] = np.nan
    clinical.iloc[1, 0] = np.nan
    arm = Arm("clinical", False, False, True)
    prepared = prepare(replace(data, clinical=clinical), train, arm, Settings(ComBatHarmonizer()), whole=False)
    assert prepared.terms == ["age", "sex[M]"]
    raw = prepared.design[:, 1] * prepared.sd[1] + prepared.mean[1]
    np.testing.assert_allclose(raw, [1] + [0] * 29 + [1] * 40 + [0] * 20, atol=1e-12)
    assert prepared.commonest == {"sex": "M"}
    assert set(prepared.medians) == {"age"}
    # A gap in a word is one cell, however many columns code the word.
    assert prepared.notes == ["3 missing clinical cells filled with the training median or commonest word"]


def test_harmonisation_of_a_fold_drops_covariates_that_it_can_not_fit() -> None:
    data = data_of()
    metadata = data.metadata.assign(stage=["rare"] + ["common"] * 89)
    train = np.arange(90) > 0
    harmonizer = ComBatHarmonizer(covariates=["stage"])
    result, fitted, notes = harmonise_fold(data.features, metadata, train, harmonizer, 5)
    assert notes == ["without covariates"]
    expected = ComBatHarmonizer(min_batch_size=4).fit(data.features[train], metadata=data.metadata[train])
    np.testing.assert_allclose(result, expected.transform(data.features, data.metadata))
    assert fitted is not None


def test_harmonisation_of_a_fold_may_be_impossible() -> None:
    data = data_of(9)
    result, fitted, notes = harmonise_fold(data.features, data.metadata, np.ones(9, bool), ComBatHarmonizer(), 5)
    assert fitted is None
    assert result.equals(data.features)
    assert notes[0].startswith("not harmonised (no batch has 5 cases")


def test_all_cases_are_held_to_the_guards() -> None:
    data = data_of(14)
    with pytest.raises(HarmonizationError, match="fewer than 5 cases: C2"):
        prepare(data, np.ones(14, bool), COMBAT, Settings(ComBatHarmonizer()), whole=True)


def test_concordance_of_one_group_is_harrells() -> None:
    rng = np.random.default_rng(0)
    time, event, risk = rng.exponential(size=70), rng.integers(0, 2, 70), np.round(rng.normal(size=70), 1)
    weights = bootstrap_weights(np.array(["a"] * 40 + ["b"] * 30), 20, 1)

    def pairs(rows: np.ndarray) -> np.ndarray:
        return comparable_pairs(time[rows], event[rows])

    found = fold_concordance(pairs, risk, np.zeros(70, int), weights)
    assert found.estimate == pytest.approx(harrell_c(time, event, risk))
    counts = weights[3].astype(int)
    drawn = np.repeat(np.arange(70), counts)
    # Copies of a case have equal times and are no pair where they are events; a copy is never compared.
    assert found.samples[3] == pytest.approx(harrell_c(time[drawn], event[drawn], risk[drawn]))
    assert weights[:, :40].sum(axis=1) == pytest.approx(40)
    assert weights[:, 40:].sum(axis=1) == pytest.approx(30)


def test_pairs_are_compared_within_folds() -> None:
    outcome = np.array([1, 0, 1, 0] * 5)
    fold = np.repeat([1, 2], 10)
    # Right within each fold, but fold 2 is on a scale of its own.
    risk = outcome + np.where(fold == 2, 100.0, 0.0)
    found = fold_concordance(lambda rows: class_pairs(outcome[rows]), risk, fold, np.ones((1, 20)))
    assert found.estimate == 1.0
    assert found.n_pairs == 50


def arm_result(risk: np.ndarray, fold: np.ndarray, data: ModelData) -> ArmResult:
    fit = PenalisedFit(np.zeros(1), 0.0, 1.0)
    prepared = prepare(data, np.ones(len(risk), bool), PLAIN, Settings(ComBatHarmonizer()), whole=True)
    return ArmResult(PLAIN, fold, risk, [fit], prepared, fit, {}, [2, 2])


def test_a_centre_without_events_is_not_estimable() -> None:
    data = data_of(90)
    outcome = np.arange(90) % 2
    outcome[data.centres.to_numpy() == "C1"] = 0
    outcome[data.centres.to_numpy() == "C2"] = 1
    result = arm_result(np.random.default_rng(0).normal(size=90), np.arange(90) % 5 + 1, data)
    rows = concordance_rows(
        "logistic",
        "auc",
        result,
        data,
        outcome,
        lambda some: class_pairs(outcome[some]),
        bootstrap_weights(data.batches, 50, 1),
        True,
        "",
    )
    table = pd.DataFrame(rows).set_index(["metric", "centre"])
    assert table.loc[("auc", "C1"), ["status", "note"]].tolist() == ["not estimable", "0 events among 30 cases"]
    assert table.loc[("auc", "C2"), "note"] == "all 30 cases have the outcome"
    assert table.loc[[("auc", "C1"), ("auc", "C2")], ["estimate", "ci_low", "ci_high"]].isna().all(axis=None)
    assert table.loc[("auc", "C0"), "status"] == "estimable"
    assert table.loc[("auc_within_centre", "all"), "estimate"] == table.loc[("auc", "C0"), "estimate"]


def test_intervals_and_refusals() -> None:
    low, high = interval(np.linspace(0, 1, 1001))
    assert (low, high) == pytest.approx((0.025, 0.975))
    assert np.isnan(interval(np.array([0.5] * 8 + [np.nan] * 2))[0])
    row = performance_row("cox", "features", "c_index", float("nan"), np.empty(0), 5, 1)
    assert (row["status"], row["note"]) == ("not estimable", "no finite estimate")


def test_sample_size() -> None:
    settings = Settings(ComBatHarmonizer(), min_events=20)
    assert check_events(100, 20, "events", settings) == ("", "")
    assert check_events(100, 9, "events", settings)[0] == "9 events among 100 cases, 20 needed (model.min_events)"
    refusal, mark = check_events(100, 9, "events", replace(settings, override=True))
    assert not refusal
    assert "9 events" in mark
    assert "can't be cross-validated" in check_events(100, 3, "events", replace(settings, override=True))[0]
    assert check_events(100, 3, "events", replace(settings, min_events=2))[0]
    assert limiting_count(np.array([1, 1, 1, 0]), True) == 1
    assert limiting_count(np.array([1, 1, 1, 0]), False) == 3
    assert [n_folds_for(count, 5) for count in (4, 7, 9, 40)] == [2, 3, 4, 5]


def noise_data(seed: int) -> tuple[ModelData, np.ndarray]:
    """Features without signal from four centres of prevalence 20, 80, 30 and 70 %."""
    rng = np.random.default_rng(seed)
    centre = np.repeat(np.arange(4), 30)
    outcome = (rng.uniform(size=120) < np.array([0.2, 0.8, 0.3, 0.7])[centre]).astype(int)
    index = pd.Index([f"K{number:03d}" for number in range(120)], name="case_id")
    values = rng.normal(size=(120, 100)) + rng.normal(size=(4, 100))[centre]
    centres = pd.Series([f"C{number}" for number in centre], index=index)
    data = ModelData(
        patients=pd.Series(index, index=index),
        centres=centres,
        features=pd.DataFrame(values, index=index, columns=[f"f{number}" for number in range(100)]),
        clinical=pd.DataFrame(index=index),
        metadata=pd.DataFrame({"centre": centres}),
        batch="centre",
    )
    return data, outcome


def within_centre_auc(data: ModelData, outcome: np.ndarray) -> dict[str, float]:
    # The penalty is fixed: choosing it takes most of the time and is not what is tested.
    def fit(design: np.ndarray, rows: np.ndarray, _: np.ndarray) -> PenalisedFit:
        _, intercepts, path = logistic_path(design, outcome[rows], 0.1, np.array([0.3]))
        return PenalisedFit(path[:, 0], intercepts[0], 0.3)

    places = pd.factorize(data.centres)[0]
    results, refused = cross_validate(data, outcome, Settings(ComBatHarmonizer()), fit, needs_both=True)
    assert not refused
    return {
        result.arm.name: fold_concordance(
            lambda rows: class_pairs(outcome[rows]), result.risk, result.fold * 4 + places, np.ones((1, 120))
        ).estimate
        for result in results
    }


def test_noise_has_no_auc_within_centres_and_keeping_the_outcome_would_make_one() -> None:
    honest, leaked = [], []
    for seed in range(16):
        data, outcome = noise_data(seed)
        honest.append(within_centre_auc(data, outcome))
        metadata = data.metadata.assign(outcome=outcome)
        seen = ComBatHarmonizer(covariates=["outcome"]).fit_transform(data.features, metadata=metadata)
        leaked.append(within_centre_auc(replace(data, features=seen), outcome)["features"])
    for arm, values in pd.DataFrame(honest).items():
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - 0.5) < 3 * error, arm
    assert np.mean(leaked) > 0.6


def test_an_estimate_that_no_bootstrap_sample_moves_has_no_interval() -> None:
    row = performance_row("cox", "clinical", "c_index", 0.5, np.full(100, 0.5), 23, 13)
    assert row["estimate"] == 0.5
    assert np.isnan(row["ci_low"])
    assert np.isnan(row["ci_high"])
    assert "every bootstrap sample gives the same" in row["note"]
