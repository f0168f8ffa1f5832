"""AUC, DeLong's variance and Brier scores against scikit-learn, R and their definitions."""

import numpy as np
import pytest
from concordance import class_pairs, fold_concordance
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import brier_score_loss, roc_auc_score

from radloom.binary_metrics import auc_rows, brier_rows


def cohort(n: int = 150, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two scores with ties, and outcomes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    outcome = (rng.uniform(size=n) < 1 / (1 + np.exp(0.5 - x))).astype(int)
    outcome[:2] = 0, 1
    return np.round(x + rng.normal(0, 1, n), 1), np.round(x + rng.normal(0, 0.5, n), 1), outcome


def bootstrap(n: int, rows: int = 20, seed: int = 3) -> np.ndarray:
    return np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rows)])


@given(seed=st.integers(0, 10_000), n=st.integers(6, 50))
@settings(max_examples=60, deadline=None)
def test_auc_equals_mann_whitney_and_scikit_learn_with_weights(seed: int, n: int) -> None:
    score, _, outcome = cohort(n, seed)
    weights = bootstrap(n, 4, seed)
    found = auc_rows(score, outcome, weights)
    u = mannwhitneyu(score[outcome == 1], score[outcome == 0]).statistic
    assert found[0] == pytest.approx(u / (outcome.sum() * (1 - outcome).sum()), rel=1e-12)
    for value, row in zip(found, weights, strict=True):
        if len(np.unique(outcome[row > 0])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(outcome, score, sample_weight=row), rel=1e-10)


def test_auc_within_folds_equals_the_matrix_of_pairs() -> None:
    score, _, outcome = cohort()
    folds, weights = np.arange(150) % 5, bootstrap(150)
    _, expected, _ = fold_concordance(lambda rows: class_pairs(outcome[rows]), score, folds, weights)
    np.testing.assert_allclose(auc_rows(score, outcome, weights, folds), expected, rtol=1e-12)


def test_one_class_is_not_estimable() -> None:
    score, _, _ = cohort(20)
    assert np.isnan(auc_rows(score, np.zeros(20), np.ones((1, 20)))).all()
    assert np.isnan(brier_rows(np.full(20, 0.2), np.zeros(20), np.ones((1, 20))).scaled).all()


def test_brier_equals_scikit_learn() -> None:
    score, _, outcome = cohort()
    risk, weights = 1 / (1 + np.exp(-score)), bootstrap(150)
    found = brier_rows(risk, outcome, weights)
    expected = [brier_score_loss(outcome, risk, sample_weight=row) for row in weights]
    np.testing.assert_allclose(found.score, expected, rtol=1e-12)
    prevalence = weights @ outcome / 150
    reference = [
        brier_score_loss(outcome, np.full(150, p), sample_weight=w) for p, w in zip(prevalence, weights, strict=True)
    ]
    np.testing.assert_allclose(found.scaled, 1 - np.array(expected) / reference, rtol=1e-10)
