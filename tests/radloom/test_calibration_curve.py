"""Calibration curves of binary outcomes against R's glm with natural splines, statsmodels and numpy."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r
from scipy.special import expit, logit
from statsmodels.stats.proportion import proportion_confint

from radloom.calibration_curve import (
    grouped_calibration,
    restricted_spline,
    risk_groups,
    smooth_calibration,
    spline_knots,
    weighted_quantiles,
    wilson_interval,
)


def cohort(n: int = 300, seed: int = 1, slope: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Predicted risks that are too extreme, and outcomes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.5, 1.2, n)
    return expit(x), (rng.uniform(size=n) < expit(slope * x + 0.2)).astype(int)


def bootstrap(n: int, rows: int = 20, seed: int = 3) -> np.ndarray:
    return np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rows)])


def test_smooth_curve_equals_glm_with_natural_splines(tmp_path: Path) -> None:
    """The restricted cubic spline spans what splines::ns does with the same knots."""
    risk, outcome = cohort()
    weights = bootstrap(300, 2)
    code = """
    library(splines)
    ask <- seq(min(data$risk), max(data$risk), length.out = 7)
    out <- list()
    for (n in 3:5) for (row in 1:2) {
      k <- knots$k[knots$n == n]; inner <- k[2:(n - 1)]; ends <- range(k)
      w <- data[[paste0("w", row)]]
      fit <- suppressWarnings(glm(y ~ ns(qlogis(risk), knots = inner, Boundary.knots = ends), binomial, data,
        weights = w, control = glm.control(epsilon = 1e-14, maxit = 50)))
      out[[paste0("curve", n, row)]] <- predict(fit, data.frame(risk = ask), type = "response")
      gap <- rep(abs(fitted(fit) - data$risk), w)
      out[[paste0("away", n, row)]] <- c(mean(gap), median(gap), quantile(gap, 0.9))
    }"""
    table = pd.DataFrame({"risk": risk, "y": outcome, "w1": weights[0], "w2": weights[1]})
    knots = pd.concat([pd.DataFrame({"n": n, "k": spline_knots(logit(risk), n)}) for n in (3, 4, 5)])
    expected = run_r(code, tmp_path, data=table, knots=knots)
    for n in (3, 4, 5):
        found = smooth_calibration(logit(risk), outcome, weights, n, n_grid=7)
        for row in (0, 1):
            np.testing.assert_allclose(found.observed[row], expected[f"curve{n}{row + 1}"], rtol=1e-8)
            away = [found.ici[row], found.e50[row], found.e90[row]]
            np.testing.assert_allclose(away, expected[f"away{n}{row + 1}"], rtol=1e-7)


def test_spline_is_linear_beyond_the_outer_knots_and_smooth_within() -> None:
    knots = np.array([-1.0, 0.2, 1.5])
    left, right = (restricted_spline(np.linspace(*ends, 5), knots) for ends in ((-4, -1), (1.5, 4)))
    np.testing.assert_allclose(np.diff(left, 2, axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(np.diff(right, 2, axis=0), 0, atol=1e-12)
    fine = restricted_spline(np.linspace(-2, 3, 5001), knots)[:, 1]
    assert np.abs(np.diff(fine, 2)).max() < 1e-5  # no jump in the slope: the step of the grid is 1e-3


def test_perfect_predictions_lie_near_their_curve_and_extreme_ones_don_t() -> None:
    rng = np.random.default_rng(0)
    risk = expit(rng.normal(size=20_000))
    outcome = (rng.uniform(size=20_000) < risk).astype(int)
    good = smooth_calibration(logit(risk), outcome, np.ones((1, 20_000)))
    extreme = smooth_calibration(2 * logit(risk), outcome, np.ones((1, 20_000)))
    assert good.ici[0] < 0.01
    # The curve of predictions with twice the log odds is known: its distance is that of the two risks.
    assert extreme.ici[0] == pytest.approx(np.abs(expit(2 * logit(risk)) - risk).mean(), abs=0.01)
    assert extreme.e50[0] < extreme.e90[0]


def test_rows_without_an_estimate_are_nan() -> None:
    risk, outcome = cohort(60)
    weights = bootstrap(60, 1)
    weights[1] = outcome
    found = smooth_calibration(logit(risk), outcome, weights)
    assert np.isfinite(found.ici[0])
    assert np.isnan([found.ici[1], found.e50[1], found.e90[1]]).all()
    assert np.isnan(found.observed[1]).all()
    assert np.isnan(smooth_calibration(np.full(60, -1.0), outcome, weights).ici).all()
    with pytest.raises(ValueError, match="1 of 60 linear predictors"):
        smooth_calibration(np.r_[-np.inf, logit(risk)[1:]], outcome, weights)


@given(seed=st.integers(0, 10_000), probability=st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]))
@settings(max_examples=60, deadline=None)
def test_weighted_quantiles_are_those_of_repeated_values(seed: int, probability: float) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(size=(3, 12)), 1)
    weights = rng.integers(0, 4, (3, 12)).astype(float)
    weights[:, 0] += 1
    expected = [np.quantile(np.repeat(v, w.astype(int)), probability) for v, w in zip(values, weights, strict=True)]
    np.testing.assert_allclose(weighted_quantiles(values, weights, probability), expected, atol=1e-12)


def test_wilson_equals_statsmodels() -> None:
    events, n = np.array([0, 1, 7, 20, 40]), np.array([10, 12, 30, 40, 40])
    low, high = wilson_interval(events, n)
    expected_low, expected_high = proportion_confint(events, n, method="wilson")
    np.testing.assert_allclose(low, expected_low, atol=1e-12)
    np.testing.assert_allclose(high, expected_high, atol=1e-12)
    assert low[0] == 0
    assert high[-1] == 1


def test_groups_hold_all_cases_once_and_keep_ties_together() -> None:
    risk, outcome = cohort(203)
    table = grouped_calibration(risk, outcome, 10)
    assert len(table) == 10
    assert table["n"].between(20, 21).all()
    assert table["n"].sum() == 203
    assert table["events"].sum() == outcome.sum()
    assert table["predicted"].is_monotonic_increasing
    groups = risk_groups(risk, 10)
    assert table["observed"].iloc[3] == pytest.approx(outcome[groups == 3].mean())
    assert set(risk_groups(np.repeat([0.1, 0.2], [50, 5]), 10)) == {0, 1}
    assert len(grouped_calibration(np.full(9, 0.4), np.ones(9))) == 1
    with pytest.raises(ValueError, match="needs cases"):
        grouped_calibration(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match="needs cases"):
        smooth_calibration(np.empty(0), np.empty(0), np.ones((2, 0)))
