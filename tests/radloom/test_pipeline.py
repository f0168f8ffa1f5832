"""The steps of a model's pipeline, each by itself and all in a row."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, logit
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from statistics_cohort import Cohort, cohort

from radloom.combat import ComBatHarmonizer, HarmonizationError
from radloom.folds import stratified_folds
from radloom.penalised import cox_path, fit_penalised_cox, fit_penalised_logistic, logistic_path
from radloom.pipeline import (
    METADATA,
    ArmPipeline,
    BatchTerms,
    ClinicalBlock,
    FeatureBlock,
    PenalisedCox,
    PenalisedLogistic,
    best_by_score,
    classes_of,
    fit_feature_block,
    metadata_of,
    prune_correlated,
    varies,
)
from radloom.recalibration import RECALIBRATIONS, baseline_hazard
from radloom.validation import Arm, arm_pipeline, fit_all_cases


def features(n: int = 60, p: int = 6, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).normal(size=(n, p))
    return pd.DataFrame(values, columns=[f"f{number}" for number in range(p)])


def batches(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame({"centre": [f"C{number % 3}" for number in range(n)]})


# ---------------------------------------------------------------------------- pruning


def test_pruning_keeps_the_earlier_of_two() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 80))
    values = np.column_stack([a, b, np.exp(a), -b + 0.01 * rng.normal(size=80), a + b])
    assert list(prune_correlated(values, 0.9)) == [0, 1, 4]
    assert list(prune_correlated(values, 1.0)) == [0, 1, 2, 3, 4]


@given(st.integers(0, 500), st.floats(0.1, 0.99))
def test_what_pruning_leaves_is_not_correlated_and_what_goes_is(seed: int, limit: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(25, 3)) @ rng.normal(size=(3, 8)) + 0.3 * rng.normal(size=(25, 8))
    stays = prune_correlated(values, limit)
    rho = np.abs(stats.spearmanr(values).statistic)
    inside = rho[np.ix_(stays, stays)] - np.eye(len(stays))
    assert (inside <= limit + 1e-12).all()
    for column in set(range(8)) - set(stays):
        earlier = stays[stays < column]
        assert (rho[column, earlier] > limit - 1e-12).any()


def test_a_column_that_differs_by_rounding_alone_is_constant() -> None:
    values = np.column_stack([[0.1 + 0.2, 0.3, 0.3], [0.0, 0.0, 0.0], [1e-30, 0.0, 0.0], [1.0, 1.0 + 1e-9, 1.0]])
    assert list(varies(values)) == [False, False, True, True]


# ---------------------------------------------------------------------- feature block


def test_missing_cells_take_the_training_median() -> None:
    table = features(90, 12)
    table.iloc[[40, 45], 3] = [np.nan, np.inf]
    table["empty"], table["flat"] = np.nan, 2.0
    train, held = table.iloc[30:], table.iloc[:30].copy()
    held.iloc[0, 3] = np.nan
    block = FeatureBlock().fit(train)
    median = float(np.median(train["f3"][np.isfinite(train["f3"])]))
    assert block.medians_["f3"] == median
    assert list(block.medians_) == block.terms_ == [f"f{number}" for number in range(12)]
    assert block.n_filled_ == 2
    assert block.transform(held)["f3"].iloc[0] == median
    np.testing.assert_array_equal(block.transform(held).iloc[1:], held.iloc[1:, :12])
    assert block.notes_ == []


def test_a_column_whose_known_cells_are_alike_says_nothing() -> None:
    table = features()
    table["f1"] = [3.0] * 40 + [np.nan] * 20  # the fill would be the same value
    assert "f1" not in FeatureBlock().fit(table).terms_


def test_transform_of_the_training_cases_is_what_the_fit_gave() -> None:
    for transformation in ("none", "signed_log", "yeo-johnson"):
        block = FeatureBlock(ComBatHarmonizer(), transformation=transformation)
        table, metadata = features(), batches()
        first = block.fit_transform(table, metadata=metadata)
        pd.testing.assert_frame_equal(block.transform(table, metadata), first, check_exact=True)
        again = FeatureBlock(ComBatHarmonizer(), transformation=transformation).fit(table, metadata=metadata)
        pd.testing.assert_frame_equal(again.transform(table, metadata), first, check_exact=True)


def test_signed_log_is_its_formula() -> None:
    table = features()
    table["f2"] = np.r_[np.zeros(40), np.exp(np.arange(20))]  # its median is 0: the scale is then 1
    train, held = table.iloc[:50], table.iloc[50:]
    block = FeatureBlock(transformation="signed_log").fit(train)
    scale = train.abs().median()
    scale["f2"] = 1.0
    expected = np.sign(held) * np.log1p(held.abs() / scale)
    np.testing.assert_allclose(block.transform(held), expected, rtol=1e-15)
    assert block.transformation_json() == {"kind": "signed_log", "scale": scale.to_dict()}


def test_yeo_johnson_is_scipys() -> None:
    table = np.exp(features())
    train, held = table.iloc[:40], table.iloc[40:]
    block = FeatureBlock(transformation="yeo-johnson", max_correlation=1.0).fit(train)
    saved = block.transformation_json()["lambda_mean_sd"]
    for name in table.columns:
        own, exponent = stats.yeojohnson(train[name].to_numpy())
        # Two searches for the maximum of the same likelihood: they stop at about the root of the machine's precision.
        assert saved[name][0] == pytest.approx(exponent, abs=1e-5)
        assert saved[name][1:] == pytest.approx([own.mean(), own.std()], rel=1e-4)
        expected = (stats.yeojohnson(held[name].to_numpy(), saved[name][0]) - saved[name][1]) / saved[name][2]
        np.testing.assert_allclose(block.transform(held)[name], expected, rtol=1e-10, atol=1e-12)


def test_an_unknown_transformation_is_refused() -> None:
    with pytest.raises(ValueError, match="signed_log"):
        FeatureBlock(transformation="log").fit(features())


def test_other_features_than_those_of_the_fit_are_refused() -> None:
    block = FeatureBlock().fit(features())
    with pytest.raises(ValueError, match="differ from those of the fit"):
        block.transform(features()[["f1", "f0", "f2", "f3", "f4", "f5"]])
    with pytest.raises(ValueError, match="differ from those of the fit"):
        block.transform(features().rename(columns={"f5": "g5"}))


def test_nothing_is_left_of_constant_features() -> None:
    table = pd.DataFrame({"f0": np.ones(20), "f1": np.full(20, np.nan)})
    block = FeatureBlock(ComBatHarmonizer())
    assert block.fit_transform(table, metadata=batches(20)).shape == (20, 0)
    assert block.transform(table, batches(20)).shape == (20, 0)


@pytest.mark.filterwarnings("ignore::radloom.harmonizer.HarmonizationWarning")
def test_covariates_that_can_not_be_fitted_are_left_out_and_told() -> None:
    table, metadata = features(), batches().assign(stage=["rare"] + ["common"] * 59)
    train = np.arange(60) > 0
    block = FeatureBlock(ComBatHarmonizer(covariates=["stage"]))
    found = block.fit_transform(table[train], metadata=metadata[train])
    assert block.notes_ == ["harmonised without covariates"]
    expected = ComBatHarmonizer().fit_transform(table[train], metadata=metadata[train])
    np.testing.assert_array_equal(found, expected)
    strict = FeatureBlock(ComBatHarmonizer(covariates=["stage"]), strict=True)
    with pytest.raises(HarmonizationError, match="'stage'"):
        strict.fit(table[train], metadata=metadata[train])


def test_harmonisation_may_be_impossible() -> None:
    table, metadata = features(9), batches(9)
    block = FeatureBlock(ComBatHarmonizer())
    pd.testing.assert_frame_equal(block.fit_transform(table, metadata=metadata), table)
    assert block.harmonizer_ is None
    assert len(block.notes_) == 1
    assert block.notes_[0].startswith("not harmonised (batches with fewer than 5 cases: C0 (3), C1 (3), C2 (3)")
    assert set(block.row_status(metadata)) == {""}
    with pytest.raises(HarmonizationError, match="fewer than 5 cases"):
        FeatureBlock(ComBatHarmonizer(), strict=True).fit(table, metadata=metadata)


@pytest.mark.filterwarnings("ignore::radloom.harmonizer.HarmonizationWarning")
def test_batches_that_take_no_part_keep_their_values() -> None:
    table, metadata = features(), batches()
    metadata.iloc[:4, 0] = "small"
    part = metadata["centre"] != "small"
    block = FeatureBlock(ComBatHarmonizer(), unharmonised=("small",), max_correlation=1.0)
    found = block.fit_transform(table, metadata=metadata)
    pd.testing.assert_frame_equal(found[~part], table[~part])
    assert block.harmonizer_ is not None
    assert block.harmonizer_.batches_ == ["C0", "C1", "C2"]
    expected = ComBatHarmonizer().fit_transform(table[part], metadata=metadata[part])
    np.testing.assert_array_equal(found[part], expected)
    assert list(block.row_status(metadata)[:5]) == [""] * 4 + ["harmonised"]


@pytest.mark.parametrize("kept", [True, False])
def test_batches_that_the_fit_has_not_seen(kept: bool) -> None:
    table, metadata = features(), batches()
    train = (metadata["centre"] != "C2").to_numpy()
    block = FeatureBlock(ComBatHarmonizer(new_batch="passthrough"), keep_unseen=kept, max_correlation=1.0)
    block.fit(table[train], metadata=metadata[train])
    found = block.transform(table, metadata)
    if kept:
        pd.testing.assert_frame_equal(found[~train], table[~train])
    else:
        assert found[~train].isna().all(axis=None)
    assert found[train].notna().all(axis=None)
    assert set(block.row_status(metadata[~train])) == {"passed through (unseen batch)"}


def test_an_infinite_value_is_a_missing_one() -> None:
    table = features()
    holes = table.copy()
    holes.iloc[3, 2], holes.iloc[7, 4] = np.inf, -np.inf
    gaps = holes.replace([np.inf, -np.inf], np.nan)
    pd.testing.assert_frame_equal(FeatureBlock().fit_transform(holes), FeatureBlock().fit_transform(gaps))


# --------------------------------------------------------------------- clinical block


def clinical() -> pd.DataFrame:
    sex = pd.Categorical(["M"] * 40 + ["F"] * 20, categories=["F", "M"])
    return pd.DataFrame({"age": np.linspace(40, 80, 60), "sex": sex})


def test_missing_words_take_the_commonest_of_the_training_cases() -> None:
    table = clinical()
    table.loc[[20, 50], "sex"] = np.nan
    table.loc[1, "age"] = np.nan
    block = ClinicalBlock().fit(table)
    made = block.transform(table)
    assert block.terms_ == ["age", "sex[M]"]
    np.testing.assert_array_equal(made["sex[M]"], [1.0] * 40 + [0.0] * 10 + [1.0] + [0.0] * 9)
    assert made.loc[1, "age"] == np.nanmedian(table["age"])
    assert block.commonest_ == {"sex": "M"}
    assert set(block.medians_) == {"age"}
    # A gap in a word is one cell, however many columns code the word.
    assert block.n_filled_ == 3


def test_held_out_words_are_filled_by_the_training_cases() -> None:
    block = ClinicalBlock().fit(clinical())
    held = pd.DataFrame({"age": [np.nan], "sex": pd.Categorical([None], categories=["F", "M"])})
    np.testing.assert_array_equal(block.transform(held), [[np.median(clinical()["age"]), 1.0]])


def test_words_of_held_out_cases_alone_change_no_coding() -> None:
    def coded(levels: list[str]) -> tuple[ClinicalBlock, np.ndarray]:
        words = pd.Categorical(["b", "c", "d", "b", "c", "d", None, "c"], categories=levels)
        block = ClinicalBlock().fit(pd.DataFrame({"stage": words}))
        return block, block.transform(pd.DataFrame({"stage": words})).to_numpy()

    block, expected = coded(["b", "c", "d"])
    assert block.terms_ == ["stage[c]", "stage[d]"]
    wide, found = coded(["a", "b", "c", "cc", "d", "e"])
    assert wide.terms_ == block.terms_
    np.testing.assert_array_equal(found, expected)
    unknown = pd.DataFrame({"stage": pd.Categorical(["a", "e", "b"], categories=["a", "b", "c", "cc", "d", "e"])})
    np.testing.assert_array_equal(wide.transform(unknown), np.zeros((3, 2)))


def test_columns_without_spread_are_dropped() -> None:
    table = pd.DataFrame(
        {
            "same": np.full(10, 3.0),
            "unknown": np.full(10, np.nan),
            "word": pd.Categorical(["a"] * 10, categories=["a", "b"]),
            "good": np.arange(10.0),
        }
    )
    block = ClinicalBlock().fit(table)
    assert block.terms_ == ["good"]
    assert list(block.transform(table).columns) == ["good"]


# ------------------------------------------------------------------------- batch terms


def test_batches_are_centred_indicators() -> None:
    batch = pd.Series(["a"] * 4 + ["b"] * 6 + ["c"] * 10)
    y = np.tile([0, 1], 10)
    terms = BatchTerms().fit(batch, y)
    table = terms.transform(batch)
    assert list(table.columns) == ["batch[b]", "batch[c]"]
    np.testing.assert_allclose(table.mean(), 0, atol=1e-15)
    np.testing.assert_allclose(table["batch[c]"] + 0.5, batch == "c", atol=1e-15)
    # The average batch is the one in which each indicator is at its mean.
    np.testing.assert_array_equal(terms.transform(pd.Series(["z"])), [[0.0, 0.0]])


def test_a_batch_of_one_class_counts_to_the_first() -> None:
    batch = pd.Series(["a"] * 4 + ["b"] * 6 + ["c"] * 10)
    y = np.array([1] * 4 + [0, 1] * 8)
    terms = BatchTerms().fit(batch, y)
    assert terms.pooled_ == ["a"]
    assert terms.levels_ == ["c"]
    made = terms.transform(batch)
    assert made[:4].equals(made[4:8].set_axis(range(4)))


def test_a_batch_with_one_patient_of_a_class_counts_to_the_first_as_well() -> None:
    batch = pd.Series(["a"] * 6 + ["b"] * 6 + ["c"] * 6)
    y = np.array([0, 1] * 3 + [0, 0, 0, 0, 1, 1] + [0, 1] * 3)
    patients = [str(number) for number in range(18)]
    assert BatchTerms().fit(batch, y, patients).pooled_ == []
    patients[11] = patients[10]  # the two cases of batch b with the outcome, as a bootstrap sample draws them
    assert BatchTerms().fit(batch, y, patients).pooled_ == ["b"]
    assert BatchTerms().fit(batch, y, patients).levels_ == ["c"]


# -------------------------------------------------------------------- penalised models


def survival(n: int = 80, p: int = 5, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    time = np.ceil(20 * rng.exponential(size=n) / np.exp(0.8 * x[:, 0]))  # with ties
    event = rng.uniform(size=n) < 0.7
    y = np.array(list(zip(event, time, strict=True)), dtype=[("event", bool), ("time", float)])
    return x, y


def test_penalised_cox_takes_the_penalty_by_its_rule() -> None:
    x, y = survival()
    folds = np.arange(80) % 5
    arguments = (x, y["time"], y["event"].astype(int), 0.9, folds)
    for rule in ("min", "1se"):
        model = PenalisedCox(0.9, rule).fit(x, y, folds=folds)
        expected = fit_penalised_cox(*arguments, rule=rule)
        np.testing.assert_array_equal(model.fit_.coefficients, expected.coefficients)
        assert model.fit_.penalty == (expected.penalty_min if rule == "min" else expected.penalty_1se)
    simple = PenalisedCox(0.9, "1se").fit(x, y, folds=folds).fit_
    assert simple.penalty_1se > simple.penalty_min
    assert np.abs(simple.coefficients).sum() < np.abs(PenalisedCox(0.9).fit(x, y, folds=folds).fit_.coefficients).sum()


def test_baseline_hazard_of_the_training_cases_gives_the_risk() -> None:
    x, y = survival()
    model = PenalisedCox().fit(x, y, folds=np.arange(80) % 5)
    times, hazard = baseline_hazard(y["time"], y["event"].astype(int), x @ model.fit_.coefficients)
    first = y["time"][y["event"]].min()
    found = model.predict_log_hazard(x[:4], [first / 2, 10.0, 1e9])
    assert (found[:, 0] == -np.inf).all()
    at_ten = np.log(hazard[times <= 10.0][-1])
    np.testing.assert_allclose(found[:, 1], x[:4] @ model.fit_.coefficients + at_ten, rtol=1e-13)
    np.testing.assert_allclose(found[:, 2] - found[:, 1], np.log(hazard[-1]) - at_ten, rtol=1e-10)


def test_recalibrated_baseline_hazard_is_of_predictions_for_cases_held_out() -> None:
    x, y = survival()
    folds = np.arange(80) % 5
    time, event = y["time"], y["event"].astype(int)
    model = PenalisedCox(0.9, recalibration="baseline").fit(x, y, folds=folds)
    plain = PenalisedCox(0.9).fit(x, y, folds=folds)
    np.testing.assert_array_equal(model.predict(x), plain.predict(x))
    risk = np.empty(80)
    for fold in range(5):
        own, rest = folds == fold, folds != fold
        _, path = cox_path(x[rest], time[rest], event[rest], 0.9, np.array([model.fit_.penalty]))
        risk[own] = x[own] @ path[:, 0]
    times, hazard = baseline_hazard(time, event, risk)
    np.testing.assert_array_equal(model.baseline_[None][0], times)
    # A path from above and a single penalty meet in the same optimum, to the accuracy of the optimiser (1e-10 of the
    # largest derivative).
    np.testing.assert_allclose(model.baseline_[None][1], hazard, rtol=1e-6)
    assert not np.allclose(model.baseline_[None][1], plain.baseline_[None][1], rtol=1e-3)


def test_strata_have_baseline_hazards_of_their_own() -> None:
    x, y = survival()
    strata = np.array(["a", "b"] * 40, dtype=object)
    model = PenalisedCox().fit(x, y, folds=np.arange(80) % 5, strata=strata)
    assert set(model.baseline_) == {None, "a", "b"}
    same = np.zeros((3, 5))
    at = model.predict_log_hazard(same, [15.0], np.array(["a", "b", "new"], dtype=object))[:, 0]
    own = strata == "b"
    times, hazard = baseline_hazard(y["time"][own], y["event"][own].astype(int), x[own] @ model.fit_.coefficients)
    assert at[1] == pytest.approx(np.log(hazard[times <= 15.0][-1]))
    assert at[2] == model.predict_log_hazard(same[:1], [15.0])[0, 0]
    assert at[0] != at[1]
    expected = fit_penalised_cox(x, y["time"], y["event"].astype(int), 0.9, np.arange(80) % 5, strata=strata)
    np.testing.assert_array_equal(model.fit_.coefficients, expected.coefficients)


def classes(n: int = 120, p: int = 5, effect: float = 1.5, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, p))
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    return x, (rng.uniform(size=n) < expit(effect * x[:, 0])).astype(int)


@pytest.mark.parametrize("name", ["temperature", "platt", "isotonic"])
def test_logistic_recalibration_is_learned_from_cases_held_out(name: str) -> None:
    x, y = classes()
    folds = np.arange(120) % 6
    model = PenalisedLogistic(0.9, recalibration=name).fit(x, y, folds=folds)
    penalty = fit_penalised_logistic(x, y, 0.9, folds).penalty
    held = np.empty(120)
    for fold in range(6):
        own, rest = folds == fold, folds != fold
        _, intercepts, path = logistic_path(x[rest], y[rest], 0.9, np.array([penalty]))
        held[own] = x[own] @ path[:, 0] + intercepts[0]
    expected = RECALIBRATIONS[name]().fit(held, y).predict_proba(model.predict(x))[:, 1]
    np.testing.assert_allclose(expit(model.predict_log_odds(x)), expected, atol=1e-6)
    # The linear predictor, by which cases are ranked, stays as it was.
    np.testing.assert_array_equal(model.predict(x), PenalisedLogistic(0.9).fit(x, y, folds=folds).predict(x))
    saved = RECALIBRATIONS[name].from_json(model.to_json()["recalibration"])
    # Through the logit and back: the last digit.
    np.testing.assert_allclose(
        saved.predict_proba(model.predict(x))[:, 1], expit(model.predict_log_odds(x)), rtol=1e-15, atol=1e-15
    )


def test_platt_scaling_is_a_logistic_regression_on_the_held_out_predictor() -> None:
    x, y = classes()
    folds = np.arange(120) % 6
    model = PenalisedLogistic(0.9, recalibration="platt").fit(x, y, folds=folds)
    held = np.empty(120)
    for fold in range(6):
        own, rest = folds == fold, folds != fold
        _, intercepts, path = logistic_path(x[rest], y[rest], 0.9, np.array([model.fit_.penalty]))
        held[own] = x[own] @ path[:, 0] + intercepts[0]
    fitted = sm.Logit(y, sm.add_constant(held)).fit(disp=0, tol=1e-12)
    log_odds = model.predict_log_odds(x)
    np.testing.assert_allclose(log_odds, fitted.params[0] + fitted.params[1] * model.predict(x), rtol=1e-5, atol=1e-6)


def test_a_recalibration_that_can_not_be_had_leaves_the_predictions_and_says_so() -> None:
    found = []
    for seed in range(30):
        x, y = classes(40, 3, effect=0.0, seed=seed)
        model = PenalisedLogistic(0.5, recalibration="temperature").fit(x, y, folds=np.arange(40) % 5)
        if not model.fit_.coefficients.any():
            assert model.note_ == ""  # nothing to recalibrate
        elif model.recalibrator_ is None:
            np.testing.assert_array_equal(model.predict_log_odds(x), model.predict(x))
            assert model.to_json() == {"recalibration": None}
            found.append(model.note_)
    assert found
    assert all(note.startswith("not recalibrated (no ") for note in found)


# ------------------------------------------------------------------------ arm pipeline


def test_selection_by_score_is_the_score_test_of_each_column() -> None:
    x, y = survival(p=8)
    found = best_by_score(x, y, 3)
    statistic = []
    for column in range(8):
        model = sm.PHReg(y["time"], x[:, [column]], y["event"].astype(int), ties="breslow")
        score, information = model.score(np.zeros(1))[0], -model.hessian(np.zeros(1))[0, 0]
        statistic.append(score**2 / information)
    assert list(found) == sorted(np.argsort(statistic)[-3:])
    outcome = classes_of(y)
    correlation = [abs(np.corrcoef(x[:, column], outcome)[0, 1]) for column in range(8)]
    assert list(best_by_score(x, outcome, 3)) == sorted(np.argsort(correlation)[-3:])
    assert list(best_by_score(x * np.geomspace(1e-3, 1e3, 8) + 5, y, 3)) == list(found)
    assert list(best_by_score(x, y, 8)) == list(range(8))


@pytest.fixture(scope="module")
def two_kinds() -> dict[str, Cohort]:
    changes: dict[str, Any] = {"analysis_plan__covariates": ["age", "sex"], "harmonize__covariates": ["age"]}
    return {kind: cohort(kind, **changes) for kind in ("cox", "logistic")}


def pipeline_of(found: Cohort, arm: str) -> ArmPipeline:
    posed = next(own for own in found.problem.arms if own.name == arm)
    return arm_pipeline(found.problem, posed, "all cases")


@pytest.mark.parametrize("kind", ["cox", "logistic"])
def test_a_pipeline_is_its_steps_one_after_the_other(two_kinds: dict[str, Cohort], kind: str) -> None:
    found = two_kinds[kind]
    data, y = found.data, found.y
    table = found.problem.table.reset_index(drop=True)
    pipeline = pipeline_of(found, "features_combat+clinical").fit(table, y)
    made = ComBatHarmonizer(covariates=["age"]).fit_transform(data.features, metadata=data.metadata)
    made = made.iloc[:, prune_correlated(made.to_numpy(), 0.9)]
    age = pd.to_numeric(data.clinical["age"])
    sex = (data.clinical["sex"] == "M").astype(float)
    values = np.column_stack([made, age, sex])
    assert list(pipeline.get_feature_names_out()) == pipeline.terms_ == [*made.columns, "age", "sex[M]"]
    design = (values - values.mean(axis=0)) / values.std(axis=0)
    np.testing.assert_allclose(pipeline.design(table), design, rtol=1e-9, atol=1e-9)
    strata = list(zip(classes_of(y), data.centres, strict=True))
    folds = stratified_folds(list(data.patients), strata, 10, found.problem.settings.seed + 1)
    assert pipeline.n_inner_ == 10
    if kind == "cox":
        expected = fit_penalised_cox(design, y["time"], y["event"].astype(int), 0.9, folds)
    else:
        expected = fit_penalised_logistic(design, y, 0.9, folds)
    np.testing.assert_allclose(pipeline.fit_.coefficients, expected.coefficients, atol=1e-7)
    assert pipeline.fit_.penalty == pytest.approx(expected.penalty, rel=1e-7)
    np.testing.assert_allclose(pipeline.predict(table), expected.linear_predictor(design), atol=1e-6)


def test_at_most_so_many_features_but_all_clinical_columns(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["cox"]
    table = found.problem.table.reset_index(drop=True)
    pipeline = pipeline_of(found, "features_combat+clinical").set_params(max_terms=2).fit(table, found.y)
    assert len(pipeline.terms_) == 4
    assert pipeline.terms_[0] == "f0"
    assert pipeline.terms_[2:] == ["age", "sex[M]"]


def test_a_block_that_another_arm_has_fitted_gives_the_same(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["logistic"]
    problem, table = found.problem, found.problem.table.reset_index(drop=True)
    pipeline = pipeline_of(found, "features_combat")
    assert pipeline.feature_block is not None
    shared = fit_feature_block(pipeline.feature_block, table, problem.features, problem.metadata)
    first, second = clone(pipeline).fit(table, found.y), clone(pipeline).fit(table, found.y, shared)
    np.testing.assert_array_equal(first.predict(table), second.predict(table))
    assert second.feature_block_ is shared.block


def test_the_batch_is_not_penalised_in_a_logistic_model(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["logistic"]
    pipeline = pipeline_of(found, "features_centre").set_params(max_terms=1)
    table = found.problem.table.reset_index(drop=True)
    fitted = pipeline.fit(table, found.y)
    assert fitted.terms_[1:] == ["batch[C1]", "batch[C2]"]
    # At the largest penalty of the path the features are out, and the batches are at their maximum likelihood.
    _, intercepts, path = logistic_path(
        fitted.design(table), found.y, 0.9, np.array([1e6]), penalty_factor=np.array([1.0, 0.0, 0.0])
    )
    risk = fitted.design(table) @ path[:, 0] + intercepts[0]
    share = pd.Series(found.y).groupby(found.centres).mean()
    np.testing.assert_allclose(risk, logit(share[found.centres]), atol=1e-6)
    assert (fitted.fit_.coefficients[1:] != 0).all()


def test_the_batch_is_a_stratum_of_a_cox_model(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["cox"]
    table = found.problem.table.reset_index(drop=True)
    pipeline = pipeline_of(found, "features_centre").fit(table, found.y)
    assert pipeline.terms_ == list(found.problem.features)
    assert set(pipeline.model_.baseline_) == {None, "C0", "C1", "C2"}


def test_cases_that_could_not_be_harmonised_have_no_prediction(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["logistic"]
    table = found.problem.table.reset_index(drop=True)
    held = (found.centres == "C2").copy()
    arm = Arm("features_combat", features=True, harmonise=True)
    pipeline = arm_pipeline(found.problem, arm, "leave-one-centre-out")
    pipeline.fit(table[~held].reset_index(drop=True), found.y[~held])
    risk = pipeline.predict(table)
    np.testing.assert_array_equal(np.isnan(risk), held)


# ------------------------------------------------------------------ contract of sklearn


def estimators() -> list[BaseEstimator]:
    block = FeatureBlock(ComBatHarmonizer(covariates=["age"]), transformation="signed_log", unharmonised=("x",))
    arm = ArmPipeline(PenalisedCox(0.5), features=["f0"], feature_block=block, clinical_block=ClinicalBlock())
    return [block, ClinicalBlock(), BatchTerms(), PenalisedCox(0.5, "1se", "baseline"), PenalisedLogistic(0.5), arm]


@pytest.mark.parametrize("estimator", estimators(), ids=lambda own: type(own).__name__)
def test_estimators_are_scikit_learns(estimator: BaseEstimator) -> None:
    params = estimator.get_params()
    copy = clone(estimator)
    assert type(copy) is type(estimator)
    assert repr(copy.get_params()) == repr(params)
    assert copy is not estimator
    for name, value in estimator.get_params(deep=False).items():
        assert getattr(estimator, name) is value  # __init__ keeps its arguments as they are
        assert copy.set_params(**{name: value}) is copy
        assert copy.get_params(deep=False)[name] is value
    with pytest.raises(ValueError, match="Invalid parameter"):
        copy.set_params(nonsense=1)


def test_parameters_of_parts_are_reached_from_the_whole() -> None:
    arm = ArmPipeline(PenalisedCox(), feature_block=FeatureBlock(ComBatHarmonizer()))
    arm.set_params(model__l1_ratio=0.3, feature_block__harmonizer__mean_only=True)
    assert arm.model.l1_ratio == 0.3
    assert arm.get_params()["feature_block__harmonizer__mean_only"] is True


def test_what_is_not_fitted_says_so() -> None:
    table = features()
    series = pd.Series(["a"] * 60)
    calls = [
        lambda: FeatureBlock().transform(table),
        lambda: ClinicalBlock().transform(table),
        lambda: BatchTerms().transform(series),
        lambda: PenalisedCox().predict(table.to_numpy()),
        lambda: PenalisedLogistic().predict_log_odds(table.to_numpy()),
        lambda: ArmPipeline(PenalisedCox()).predict(table),
        lambda: FeatureBlock().get_feature_names_out(),
        lambda: ClinicalBlock().get_feature_names_out(),
        lambda: BatchTerms().get_feature_names_out(),
        lambda: ArmPipeline(PenalisedCox()).get_feature_names_out(),
    ]
    for call in calls:
        with pytest.raises(NotFittedError):
            call()


def test_names_out_are_those_of_the_columns() -> None:
    table = features()
    table["f5"] = table["f0"] * 2
    block = FeatureBlock().fit(table)
    assert list(block.get_feature_names_out()) == list(block.transform(table).columns) == [f"f{n}" for n in range(5)]
    words = ClinicalBlock().fit(clinical())
    assert list(words.get_feature_names_out()) == list(words.transform(clinical()).columns) == ["age", "sex[M]"]
    batch = pd.Series(["a", "b", "c"] * 20)
    terms = BatchTerms().fit(batch, np.arange(60) // 3 % 2)
    assert list(terms.get_feature_names_out()) == list(terms.transform(batch).columns) == ["batch[b]", "batch[c]"]


def test_fitting_leaves_the_parameters_and_the_tables_alone(two_kinds: dict[str, Cohort]) -> None:
    found = two_kinds["logistic"]
    table = found.problem.table.reset_index(drop=True)
    before = table.copy(deep=True)
    pipeline = pipeline_of(found, "features_combat+clinical")
    told = repr(pipeline.get_params())
    pipeline.fit(table, found.y)
    pipeline.predict(table)
    pd.testing.assert_frame_equal(table, before, check_exact=True)
    assert repr(pipeline.get_params()) == told
    assert not hasattr(pipeline.feature_block, "terms_")


def test_metadata_have_their_own_names() -> None:
    table = pd.DataFrame({METADATA + "centre": ["a"], "centre": ["predictor"], METADATA + "age": [3]})
    assert metadata_of(table, ["centre", "age"]).to_dict("list") == {"centre": ["a"], "age": [3]}


def test_no_warning_of_a_library_leaks(two_kinds: dict[str, Cohort]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for found in two_kinds.values():
            fit_all_cases(found.problem)
