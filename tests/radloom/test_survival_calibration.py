"""Calibration at a horizon against R's coxph and survfit, root finding by scipy, and physically repeated cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r
from scipy.optimize import brentq

from radloom.calibration_curve import risk_groups, spline_knots
from radloom.survival_calibration import (
    calibration_at,
    calibration_slope,
    cloglog,
    grouped_survival_calibration,
    kaplan_meier_interval,
    smooth_survival_calibration,
)
from radloom.survival_metrics import kaplan_meier_risk

HORIZON = 1.2


def cohort(n: int = 250, seed: int = 1, ties: bool = True, effect: float = 1.0) -> tuple[np.ndarray, ...]:
    """Times (tenths, with ties), events and a predicted risk by time 1.2; `effect` is the true slope of cloglog."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    failure, censoring = rng.exponential(1.5 * np.exp(-effect * x)), rng.uniform(0.2, 4.0, n)
    time, event = np.minimum(failure, censoring), (failure <= censoring).astype(int)
    if ties:
        time = np.ceil(time * 10) / 10
    return time, event, 1 - np.exp(-HORIZON / 1.5 * np.exp(x))


def bootstrap(n: int, rows: int = 20, seed: int = 3) -> np.ndarray:
    return np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rows)])


def test_slope_equals_weighted_coxph_within_strata(tmp_path: Path) -> None:
    """Efron ties, weights and strata as R has them, to the tolerance that its iterations are told to reach."""
    time, event, risk = cohort()
    groups = np.random.default_rng(0).integers(0, 5, 250)
    weights = bootstrap(250, 3)
    table = pd.DataFrame({"time": time, "event": event, "x": cloglog(risk), "g": groups})
    table = table.assign(**{f"w{row}": weights[row] for row in range(4)})
    code = """
    h <- 1.2
    data$event <- ifelse(data$time > h, 0, data$event); data$time <- pmin(data$time, h)
    tight <- coxph.control(eps = 1e-13, iter.max = 50)
    fit <- function(formula) sapply(0:3, function(row) {
      d <- data[data[[paste0("w", row)]] > 0, ]; d$w <- d[[paste0("w", row)]]
      coef(coxph(formula, data = d, weights = w, control = tight, ties = "efron"))
    })
    out <- list(pooled = fit(Surv(time, event) ~ x), within = fit(Surv(time, event) ~ x + strata(g)))"""
    expected = run_r(code, tmp_path, data=table)
    np.testing.assert_allclose(
        calibration_slope(time, event, cloglog(risk), HORIZON, weights), expected["pooled"], rtol=1e-8
    )
    within = calibration_at(time, event, cloglog(risk), HORIZON, weights, groups)
    np.testing.assert_allclose(within.slope, expected["within"], rtol=1e-8)


def test_shifts_make_the_mean_risk_the_kaplan_meier_risk() -> None:
    time, event, risk = cohort(effect=0.6)
    weights = bootstrap(250, 5)
    found = calibration_at(time, event, cloglog(risk), HORIZON, weights)
    observed = kaplan_meier_risk(time, event, HORIZON, weights)
    np.testing.assert_allclose(found.observed_expected, observed * 250 / (weights @ risk), rtol=1e-12)
    x = cloglog(risk)
    for row, drawn in enumerate(weights):
        for slope, shift in ((1.0, found.in_the_large[row]), (found.slope[row], found.intercept[row])):

            def excess(a: float, slope: float = slope, drawn: np.ndarray = drawn, goal: float = observed[row]) -> float:
                return float(np.average(-np.expm1(-np.exp(a + slope * x)), weights=drawn) - goal)

            assert shift == pytest.approx(brentq(excess, -5, 5, xtol=1e-13), abs=1e-10)


def test_a_true_model_is_calibrated_and_a_distorted_one_shows_how() -> None:
    time, event, risk = cohort(8000, 2, ties=False)
    one = np.ones((1, 8000))
    good = calibration_at(time, event, cloglog(risk), HORIZON, one)
    # Four standard errors of some 4000 events.
    assert good.slope[0] == pytest.approx(1, abs=0.08)
    assert good.in_the_large[0] == pytest.approx(0, abs=0.08)
    assert good.observed_expected[0] == pytest.approx(1, abs=0.05)
    # Many of these risks round to 1, which the scale of log hazards doesn't mind.
    bent = 2 * cloglog(risk) + 0.5
    found = calibration_at(time, event, bent, HORIZON, one)
    assert found.slope[0] == pytest.approx(good.slope[0] / 2, rel=1e-8)
    # cloglog(risk) = (bent - 0.5) / 2: the intercept undoes the shift at the slope that undoes the scale.
    assert found.intercept[0] == pytest.approx(good.intercept[0] - found.slope[0] * 0.5, abs=1e-9)
    assert smooth_survival_calibration(time, event, cloglog(risk), HORIZON, one).ici[0] < 0.02
    away = smooth_survival_calibration(time, event, bent, HORIZON, one)
    assert away.ici[0] == pytest.approx(np.abs(1 - np.exp(-np.exp(bent)) - risk).mean(), abs=0.02)


@given(seed=st.integers(0, 10_000), n=st.integers(20, 50))
@settings(max_examples=25, deadline=None)
def test_weighted_rows_equal_repeated_cases(seed: int, n: int) -> None:
    """The slope of a weighted row maximises Breslow's likelihood of the repeated cases.

    Repeated deaths are tied, and Efron's rule would count them as different ones; a weight is no tie.
    """
    time, event, risk = cohort(n, seed, ties=False)
    weights = bootstrap(n, 2, seed)
    found = calibration_at(time, event, cloglog(risk), HORIZON, weights)
    for row, drawn in enumerate(weights):
        rows = np.repeat(np.arange(n), drawn.astype(int))
        alone = calibration_at(time[rows], event[rows], cloglog(risk[rows]), HORIZON, np.ones((1, len(rows))))
        np.testing.assert_allclose(found.observed_expected[row], alone.observed_expected[0], rtol=1e-9)
        np.testing.assert_allclose(found.in_the_large[row], alone.in_the_large[0], atol=1e-9)
        if np.isfinite(found.slope[row]):
            x, t = cloglog(risk)[rows], time[rows]
            d = (event[rows] == 1) & (t <= HORIZON)
            eta = found.slope[row] * x
            behind = t[None, :] >= t[d][:, None]
            mean = (behind * np.exp(eta) * x).sum(axis=1) / (behind * np.exp(eta)).sum(axis=1)
            assert abs((x[d] - mean).sum()) < 1e-6 * max(1.0, np.abs(x).sum())


def test_smooth_curve_equals_survfit_of_a_spline_model(tmp_path: Path) -> None:
    time, event, risk = cohort(effect=0.7)
    weights = bootstrap(250, 1)
    found = smooth_survival_calibration(time, event, cloglog(risk), HORIZON, weights, n_knots=4, n_grid=6)
    table = pd.DataFrame({"time": time, "event": event, "x": cloglog(risk), "risk": risk})
    table = table.assign(w0=weights[0], w1=weights[1])
    code = """
    library(splines)
    h <- 1.2; k <- knots$k
    data$event <- ifelse(data$time > h, 0, data$event); data$time <- pmin(data$time, h)
    ask <- seq(min(data$risk), max(data$risk), length.out = 6)
    out <- list()
    for (row in 0:1) {
      d <- data[data[[paste0("w", row)]] > 0, ]; d$w <- d[[paste0("w", row)]]
      d <- cbind(d, ns(d$x, knots = k[2:3], Boundary.knots = k[c(1, 4)]))
      names(d)[(ncol(d) - 2):ncol(d)] <- c("a", "b", "c")
      fit <- coxph(Surv(time, event) ~ a + b + c, d, weights = w, ties = "efron",
        control = coxph.control(eps = 1e-13, iter.max = 50))
      at <- function(risk) {
        new <- as.data.frame(unclass(ns(log(-log(1 - risk)), knots = k[2:3], Boundary.knots = k[c(1, 4)])))
        names(new) <- c("a", "b", "c")
        1 - as.numeric(summary(survfit(fit, newdata = new), times = h, extend = TRUE)$surv)
      }
      out[[paste0("curve", row)]] <- at(ask)
      gap <- rep(abs(at(d$risk) - d$risk), d$w)
      out[[paste0("away", row)]] <- c(mean(gap), median(gap), quantile(gap, 0.9))
    }"""
    knots = pd.DataFrame({"k": spline_knots(cloglog(risk), 4)})
    expected = run_r(code, tmp_path, data=table, knots=knots)
    for row in (0, 1):
        np.testing.assert_allclose(found.observed[row], expected[f"curve{row}"], rtol=1e-7)
        away = [found.ici[row], found.e50[row], found.e90[row]]
        np.testing.assert_allclose(away, expected[f"away{row}"], rtol=1e-6)


def test_grouped_curve_equals_survfit(tmp_path: Path) -> None:
    time, event, risk = cohort()
    found = grouped_survival_calibration(time, event, risk, HORIZON, n_groups=5)
    groups = risk_groups(risk, 5)
    code = """
    fit <- survfit(Surv(time, event) ~ group, data, conf.type = "log-log")
    at <- summary(fit, times = 1.2)
    out <- list(observed = 1 - at$surv, low = 1 - at$upper, high = 1 - at$lower)"""
    expected = run_r(code, tmp_path, data=pd.DataFrame({"time": time, "event": event, "group": groups}))
    np.testing.assert_allclose(found["observed"], expected["observed"], rtol=1e-10)
    np.testing.assert_allclose(found["ci_low"], expected["low"], rtol=1e-8)
    np.testing.assert_allclose(found["ci_high"], expected["high"], rtol=1e-8)
    np.testing.assert_allclose(found["predicted"], [risk[groups == group].mean() for group in range(5)])
    assert found["n"].sum() == 250
    assert found["events"].sum() == ((event == 1) & (time <= HORIZON)).sum()


def test_what_cannot_be_estimated_is_nan() -> None:
    time, event, risk = cohort(60)
    one = np.ones((1, 60))
    nothing = calibration_at(time, np.zeros(60), cloglog(risk), HORIZON, one)
    assert np.isnan([nothing.slope, nothing.intercept, nothing.in_the_large]).all()
    nobody = calibration_at(np.empty(0), np.empty(0), np.empty(0), HORIZON, np.ones((2, 0)))
    assert np.isnan([nobody.slope, nobody.intercept, nobody.in_the_large, nobody.observed_expected]).all()
    flat = calibration_at(time, event, cloglog(np.full(60, 0.4)), HORIZON, one)
    assert np.isnan([flat.slope, flat.intercept]).all()
    assert np.isfinite([flat.in_the_large, flat.observed_expected]).all()
    assert np.isnan(smooth_survival_calibration(time, event, cloglog(np.full(60, 0.4)), HORIZON, one).ici).all()
    late, last = time.max() + 1, time.argmax()
    open_end = np.where(np.arange(60) == last, 0, event)
    beyond = calibration_at(time, open_end, cloglog(risk), late, one)
    assert np.isnan([beyond.observed_expected, beyond.in_the_large, beyond.intercept]).all()
    # The ratio of hazards is still there to be seen.
    assert np.isfinite(beyond.slope).all()
    curve = smooth_survival_calibration(time, open_end, cloglog(risk), late, one)
    assert np.isnan([curve.ici, curve.e50, curve.e90]).all()
    assert np.isnan(curve.observed).all()
    assert np.isfinite(smooth_survival_calibration(time, open_end, cloglog(risk), HORIZON, one).observed).all()
    # One death, and it had the highest risk: the slope has no finite value.
    one_death = np.zeros(60)
    one_death[np.argmin(time)] = 1
    certain = np.where(one_death == 1, 0.9, risk * 0.5)
    assert np.isnan(calibration_slope(time, one_death, cloglog(certain), HORIZON, one)).all()
    assert np.isnan(kaplan_meier_interval(np.array([1.0, 2.0]), np.array([0, 0]), 3.0)).all()
    with pytest.raises(ValueError, match="ends excluded"):
        cloglog(np.r_[1.0, risk[1:]])
    with pytest.raises(ValueError, match="1 of 60 predicted log hazards"):
        calibration_at(time, event, np.r_[np.inf, cloglog(risk)[1:]], HORIZON, one)
