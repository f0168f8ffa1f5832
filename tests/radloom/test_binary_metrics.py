"""AUC, DeLong's variance and Brier scores against scikit-learn, R and their definitions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from concordance import fold_concordance
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r
from scipy.stats import mannwhitneyu
from sklearn.metrics import brier_score_loss, roc_auc_score

from radloom.binary_metrics import auc_rows, brier_rows, delong
from radloom.logistic import class_pairs


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


def test_delong_equals_placements_in_r(tmp_path: Path) -> None:
    """The paper's definition, pair by pair, for two scores of the same cases."""
    one, two, outcome = cohort()
    found = delong(np.column_stack([one, two]), outcome)
    code = """
    placed <- function(s) {
      x <- s[data$y == 1]; z <- s[data$y == 0]
      psi <- outer(x, z, ">") + 0.5 * outer(x, z, "==")
      list(v10 = rowMeans(psi), v01 = colMeans(psi))
    }
    a <- placed(data$one); b <- placed(data$two)
    v <- cov(cbind(a$v10, b$v10)) / sum(data$y == 1) + cov(cbind(a$v01, b$v01)) / sum(data$y == 0)
    out <- list(auc = c(mean(a$v10), mean(b$v10)), v = v)"""
    expected = run_r(code, tmp_path, data=pd.DataFrame({"one": one, "two": two, "y": outcome}))
    np.testing.assert_allclose(found.auc, expected["auc"], rtol=1e-12)
    np.testing.assert_allclose(found.covariance.ravel(), expected["v"], rtol=1e-10)
    np.testing.assert_allclose(delong(one, outcome).se, found.se[:1], rtol=1e-12)


def test_delong_variance_is_that_of_repeated_samples() -> None:
    """The mean of the squared standard errors of 2000 samples is the variance of their AUC, to four of its errors."""
    rng = np.random.default_rng(0)
    fits = []
    for _ in range(2000):
        outcome = np.repeat([0, 1], [40, 30])
        fit = delong(rng.normal(size=70) + outcome, outcome)
        fits.append((fit.auc[0], fit.se[0] ** 2))
    aucs, variances = np.array(fits).T
    # The relative error of a variance from 2000 normal values is sqrt(2 / 2000), 3.2 %.
    assert variances.mean() == pytest.approx(aucs.var(), rel=0.13)


def test_one_class_is_not_estimable() -> None:
    score, _, outcome = cohort(20)
    assert np.isnan(delong(score, np.ones(20)).auc).all()
    single = delong(score, np.r_[1, np.zeros(19)])
    assert np.isfinite(single.auc).all()
    assert np.isnan(single.se).all()
    assert np.isnan(auc_rows(score, np.zeros(20), np.ones((1, 20)))).all()
    assert np.isnan(brier_rows(np.full(20, 0.2), np.zeros(20), np.ones((1, 20))).scaled).all()
    with pytest.raises(ValueError, match="1 of 20 cases"):
        delong(np.r_[np.nan, score[1:]], outcome)


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
