"""Net benefit against its definition in R, without and with censoring."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r

from radloom.decision_curve import decision_curve, survival_decision_curve
from radloom.survival_metrics import kaplan_meier_risk

THRESHOLDS = np.array([0.0, 0.05, 0.2, 0.35, 0.5, 0.8])


def cohort(n: int = 200, seed: int = 1) -> tuple[np.ndarray, ...]:
    """Times in tenths, events, predicted risks (rounded, so that some meet a threshold) by time 1, and a 0/1
    outcome."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    failure, censoring = rng.exponential(2.0 * np.exp(-x)), rng.uniform(0.2, 4.0, n)
    time, event = np.ceil(10 * np.minimum(failure, censoring)) / 10, (failure <= censoring).astype(int)
    return time, event, np.round(1 - np.exp(-np.exp(x) / 2), 2), (failure < 1).astype(int)


def bootstrap(n: int, rows: int = 20, seed: int = 3) -> np.ndarray:
    return np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rows)])


def test_by_hand() -> None:
    """Ten cases, four treated at 0.25, three of them with the outcome: (3 - 1 / 3) / 10."""
    risk = np.array([0.9, 0.8, 0.25, 0.3, 0.2, 0.1, 0.1, 0.2, 0.0, 0.24])
    outcome = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0])
    found = decision_curve(risk, outcome, np.array([0.25]), np.ones((1, 10)))
    assert found.model[0, 0] == pytest.approx((3 - 1 / 3) / 10, rel=1e-12)
    assert found.treat_all[0, 0] == pytest.approx(0.4 - 0.6 / 3, rel=1e-12)
    # Without censoring before the horizon the survival version is the same.
    time = np.where(outcome == 1, 1.0, 5.0)
    other = survival_decision_curve(time, outcome, risk, 2.0, np.array([0.25]), np.ones((1, 10)))
    np.testing.assert_allclose(other.model, found.model, rtol=1e-12)
    np.testing.assert_allclose(other.treat_all, found.treat_all, rtol=1e-12)


def test_equals_the_definition_in_r(tmp_path: Path) -> None:
    time, event, risk, outcome = cohort()
    weights = bootstrap(200, 1)
    binary = decision_curve(risk, outcome, THRESHOLDS, weights)
    survival = survival_decision_curve(time, event, risk, 1.0, THRESHOLDS, weights)
    table = pd.DataFrame({"time": time, "event": event, "risk": risk, "y": outcome, "w1": weights[0], "w2": weights[1]})
    code = """
    thresholds <- c(0, 0.05, 0.2, 0.35, 0.5, 0.8)
    out <- list()
    for (row in 1:2) {
      d <- data[rep(seq_len(nrow(data)), data[[paste0("w", row)]]), ]; n <- nrow(d)
      out[[paste0("binary", row)]] <- sapply(thresholds, function(t)
        sum(d$y[d$risk >= t]) / n - sum(1 - d$y[d$risk >= t]) / n * t / (1 - t))
      out[[paste0("survival", row)]] <- sapply(thresholds, function(t) {
        treated <- d[d$risk >= t, ]
        s <- summary(survfit(Surv(time, event) ~ 1, treated), times = 1, extend = TRUE)$surv
        if (max(treated$time) < 1 && s > 0) s <- NaN
        (1 - s) * nrow(treated) / n - s * nrow(treated) / n * t / (1 - t)
      })
      s <- summary(survfit(Surv(time, event) ~ 1, d), times = 1)$surv
      out[[paste0("all", row)]] <- 1 - s - s * thresholds / (1 - thresholds)
    }"""
    expected = run_r(code, tmp_path, data=table)
    for row in (0, 1):
        np.testing.assert_allclose(binary.model[row], expected[f"binary{row + 1}"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(survival.model[row], expected[f"survival{row + 1}"], rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(survival.treat_all[row], expected[f"all{row + 1}"], rtol=1e-10, atol=1e-12)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_at_threshold_0_everybody_is_treated_with_the_prevalence(seed: int) -> None:
    time, event, risk, outcome = cohort(60, seed)
    weights = bootstrap(60, 4, seed)
    none = np.array([0.0])
    binary = decision_curve(risk, outcome, none, weights)
    np.testing.assert_allclose(binary.treat_all[:, 0], (weights @ outcome) / 60, rtol=1e-12)
    np.testing.assert_allclose(binary.model, binary.treat_all, rtol=1e-12)
    survival = survival_decision_curve(time, event, risk, 0.8, none, weights)
    np.testing.assert_allclose(survival.treat_all[:, 0], kaplan_meier_risk(time, event, 0.8, weights), rtol=1e-12)
    np.testing.assert_allclose(survival.model, survival.treat_all, rtol=1e-12)


def test_perfect_predictions_have_the_prevalence_at_every_threshold() -> None:
    _, _, _, outcome = cohort()
    found = decision_curve(outcome.astype(float), outcome, THRESHOLDS[1:], bootstrap(200))
    expected = (bootstrap(200) @ outcome) / 200
    np.testing.assert_allclose(found.model, np.repeat(expected[:, None], 5, axis=1), rtol=1e-12)
    assert (found.model >= found.treat_all).all()


def test_weighted_rows_equal_repeated_cases() -> None:
    time, event, risk, _ = cohort(80)
    weights = bootstrap(80, 5)
    found = survival_decision_curve(time, event, risk, 1.0, THRESHOLDS, weights)
    for row, drawn in enumerate(weights):
        rows = np.repeat(np.arange(80), drawn.astype(int))
        alone = survival_decision_curve(time[rows], event[rows], risk[rows], 1.0, THRESHOLDS, np.ones((1, 80)))
        np.testing.assert_allclose(found.model[row], alone.model[0], rtol=1e-10, atol=1e-14)


def test_nobody_treated_is_0_and_nobody_followed_is_nan() -> None:
    time, event = np.array([3.0, 3.0, 0.5, 0.7]), np.array([0, 0, 1, 0])
    risk = np.array([0.1, 0.1, 0.4, 0.6])
    found = survival_decision_curve(time, event, risk, 1.0, np.array([0.05, 0.5, 0.7]), np.ones((1, 4)))
    assert np.isfinite(found.model[0, 0])
    assert np.isnan(found.model[0, 1])
    assert found.model[0, 2] == 0
    assert np.isnan(decision_curve(risk, event, THRESHOLDS, np.zeros((1, 4))).model).all()


def test_impossible_values_are_refused() -> None:
    time, event, risk, outcome = cohort(20)
    with pytest.raises(ValueError, match="risks must lie"):
        decision_curve(risk - 1, outcome, THRESHOLDS, np.ones((1, 20)))
    with pytest.raises(ValueError, match="1 excluded"):
        survival_decision_curve(time, event, risk, 1.0, np.array([0.5, 1.0]), np.ones((1, 20)))
