"""Folds and bootstrap samples."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.folds import bootstrap_weights, limiting_count, n_folds_for, stratified_folds


@given(st.integers(2, 6), st.integers(0, 5), st.integers(0, 1000))
def test_folds_are_balanced_and_keep_patients_together(n_folds: int, seed: int, data_seed: int) -> None:
    rng = np.random.default_rng(data_seed)
    n = 60
    patients = np.array([f"P{number}" for number in rng.integers(0, 45, n)])
    event = {name: int(rng.uniform() < 0.3) for name in patients}
    batch = {name: f"B{rng.integers(0, 3)}" for name in patients}
    strata = [(event[name], batch[name]) for name in patients]
    fold = stratified_folds(list(patients), strata, n_folds, seed)
    table = pd.DataFrame({"patient": patients, "fold": fold, "event": [event[name] for name in patients]})
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    single = table.drop_duplicates("patient")
    for part in (single, single[single["event"] == 1], single[single["event"] == 0]):
        sizes = part["fold"].value_counts().reindex(range(1, n_folds + 1), fill_value=0)
        assert sizes.max() - sizes.min() <= 1
    order = rng.permutation(n)
    again = stratified_folds(list(patients[order]), [strata[row] for row in order], n_folds, seed)
    assert (again == fold[order]).all()


@given(st.integers(0, 200))
def test_cases_of_a_patient_share_a_fold_though_their_strata_differ(seed: int) -> None:
    rng = np.random.default_rng(seed)
    patients = [f"P{number}" for number in rng.integers(0, 30, 50)]
    strata = [(int(rng.integers(0, 2)), f"B{rng.integers(0, 3)}") for _ in patients]
    fold = stratified_folds(patients, strata, 4, 1)
    table = pd.DataFrame({"patient": patients, "fold": fold, "event": [stratum[0] for stratum in strata]})
    assert (table.groupby("patient")["fold"].nunique() == 1).all()
    # A patient counts as one with the event where any of the cases has it.
    by_patient = table.groupby("patient").max()
    sizes = by_patient[by_patient["event"] == 1]["fold"].value_counts().reindex(range(1, 5), fill_value=0)
    assert sizes.max() - sizes.min() <= 1


def test_folds_depend_on_the_seed() -> None:
    names = [f"P{number}" for number in range(50)]
    strata = [(number % 2,) for number in range(50)]
    assert (stratified_folds(names, strata, 5, 1) != stratified_folds(names, strata, 5, 2)).any()


@given(st.integers(0, 10_000), st.integers(2, 20))
def test_outer_folds_have_two_events_or_there_are_two(n_events: int, wanted: int) -> None:
    found = n_folds_for(n_events, wanted)
    assert 2 <= found <= wanted
    assert found == 2 or n_events >= 2 * found


def test_number_of_folds_and_what_limits_a_model() -> None:
    assert [n_folds_for(count, 5) for count in (4, 7, 9, 40)] == [2, 3, 4, 5]
    assert limiting_count(np.array([1, 1, 1, 0]), True) == 1
    assert limiting_count(np.array([1, 1, 1, 0]), False) == 3


def test_bootstrap_draws_within_strata() -> None:
    strata = np.array(["b"] * 30 + ["a"] * 40)
    weights = bootstrap_weights(strata, 400, 1)
    assert weights.shape == (400, 70)
    assert (weights == np.round(weights)).all()
    assert (weights[:, :30].sum(axis=1) == 30).all()
    assert (weights[:, 30:].sum(axis=1) == 40).all()
    # A case is left out of a sample with probability (1 - 1/n)^n; 400 x 40 draws, five standard errors.
    left_out = (weights[:, 30:] == 0).mean()
    assert left_out == pytest.approx((1 - 1 / 40) ** 40, abs=5 * 0.48 / np.sqrt(400 * 40))
    np.testing.assert_array_equal(bootstrap_weights(strata, 400, 1), weights)
    assert (bootstrap_weights(strata, 400, 2) != weights).any()
