"""Random-effects meta-analysis against the BCG trials of metafor, formulas in R and scipy; the worst centre."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r
from scipy.linalg import null_space
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

from radloom.pooling import (
    back_transformed,
    bootstrap_error,
    delta_error,
    dersimonian_laird,
    pool,
    restricted_log_likelihood,
    restricted_maximum_likelihood,
    transformed,
    worst_of,
)

# Cases and others among vaccinated and not, of 13 trials (Colditz et al., JAMA 1994; dat.bcg of R's metafor).
BCG = np.array(
    [
        [4, 119, 11, 128],
        [6, 300, 29, 274],
        [3, 228, 11, 209],
        [62, 13536, 248, 12619],
        [33, 5036, 47, 5761],
        [180, 1361, 372, 1079],
        [8, 2537, 10, 619],
        [505, 87886, 499, 87892],
        [29, 7470, 45, 7232],
        [17, 1699, 65, 1600],
        [186, 50448, 141, 27197],
        [5, 2493, 3, 2338],
        [27, 16886, 29, 17825],
    ]
)


def bcg() -> tuple[np.ndarray, np.ndarray]:
    """Log risk ratios and their variances."""
    a, b, c, d = BCG.T.astype(float)
    return np.log(a / (a + b)) - np.log(c / (c + d)), 1 / a - 1 / (a + b) + 1 / c - 1 / (c + d)


def trials(k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    v = rng.uniform(0.01, 0.3, k)
    return rng.normal(0.5, np.sqrt(v + rng.choice([0, 0.1, 0.5]))), v


def test_bcg_trials_are_those_of_metafor() -> None:
    """The figures printed in the help of metafor's rma.uni, to their last digit."""
    y, v = bcg()
    found = pool(y, np.sqrt(v))
    assert found.estimate == pytest.approx(-0.7145, abs=5e-5)
    assert found.tau2 == pytest.approx(0.3132, abs=5e-5)
    assert found.i2 == pytest.approx(92.22, abs=5e-3)
    assert found.q == pytest.approx(152.2330, abs=5e-5)
    assert found.n_centres == 13
    assert found.q_p < 1e-4
    # Without Hartung and Knapp's factor the standard error is the one of Wald's test.
    assert np.sqrt(1 / (1 / (v + found.tau2)).sum()) == pytest.approx(0.1798, abs=5e-5)
    # Ratios go in and come out as ratios.
    ratio = pool(np.exp(y), np.sqrt(v), "log")
    np.testing.assert_allclose(np.log([ratio.estimate, ratio.ci_low]), [found.estimate, found.ci_low], rtol=1e-10)


def test_equals_formulas_in_r(tmp_path: Path) -> None:
    tables = [bcg(), *(trials(k, seed) for k, seed in ((4, 1), (3, 5), (6, 2), (2, 3)))]
    code = """
    one <- function(y, v) {
      k <- length(y); f <- 1 / v
      restricted <- function(t) { w <- 1 / (v + t); m <- sum(w * y) / sum(w)
        0.5 * sum(log(w)) - 0.5 * log(sum(w)) - 0.5 * sum(w * (y - m)^2) }
      grid <- c(0, exp(seq(log(1e-8), log(100), length.out = 4000)))
      best <- which.max(sapply(grid, restricted))
      reml <- if (best == 1) 0 else
        optimize(restricted, grid[c(best - 1, best + 1)], maximum = TRUE, tol = 1e-12)$maximum
      q <- sum(f * (y - sum(f * y) / sum(f))^2)
      dl <- max(0, (q - (k - 1)) / (sum(f) - sum(f^2) / sum(f)))
      whole <- function(t) { w <- 1 / (v + t); m <- sum(w * y) / sum(w)
        s <- sqrt(sum(w * (y - m)^2) / ((k - 1) * sum(w)))
        p <- if (k > 2) qt(0.975, k - 2) * sqrt(t + s^2) else NaN
        c(m, m - qt(0.975, k - 1) * s, m + qt(0.975, k - 1) * s, m - p, m + p, s, t,
          100 * t / (t + (k - 1) * sum(f) / (sum(f)^2 - sum(f^2))), q, pchisq(q, k - 1, lower.tail = FALSE)) }
      list(REML = whole(reml), DL = whole(dl))
    }
    out <- unlist(lapply(split(data, data$table), function(d) one(d$y, d$v)), recursive = FALSE)"""
    data = pd.concat([pd.DataFrame({"table": i, "y": y, "v": v}) for i, (y, v) in enumerate(tables)])
    expected = run_r(code, tmp_path, data=data)
    # R's `optimize` finds the maximum of REML to the root of the rounding error.
    for method, tolerance in (("REML", 1e-5), ("DL", 1e-10)):
        for number, (y, v) in enumerate(tables):
            f = pool(y, np.sqrt(v), method=method, modified=False)
            mine = [
                f.estimate,
                f.ci_low,
                f.ci_high,
                f.prediction_low,
                f.prediction_high,
                f.se,
                f.tau2,
                f.i2,
                f.q,
                f.q_p,
            ]
            np.testing.assert_allclose(mine, expected[f"{number}.{method}"], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("tau2", [0.0, 0.05, 0.3132, 2.0])
def test_restricted_likelihood_is_that_of_contrasts(tau2: float) -> None:
    """What the mean doesn't touch: the density of contrasts of the estimates (Patterson & Thompson 1971)."""
    y, v = bcg()
    contrasts = null_space(np.ones((1, 13)))

    def density(at: float) -> float:
        spread = contrasts.T @ np.diag(v + at) @ contrasts
        return float(multivariate_normal(cov=spread).logpdf(contrasts.T @ y))

    # The two differ by a constant.
    found = restricted_log_likelihood(tau2, y, v) - restricted_log_likelihood(1.0, y, v)
    assert found == pytest.approx(density(tau2) - density(1.0), abs=1e-9)


@given(seed=st.integers(0, 100_000), k=st.integers(2, 12))
@settings(max_examples=60, deadline=None)
def test_reml_is_the_maximum_of_its_likelihood(seed: int, k: int) -> None:
    y, v = trials(k, seed)
    tau2 = restricted_maximum_likelihood(y, v)
    assert tau2 >= 0
    best = restricted_log_likelihood(tau2, y, v)
    other = minimize_scalar(lambda t: -restricted_log_likelihood(t, y, v), bounds=(0, 20), method="bounded")
    assert best >= -other.fun - 1e-10
    for nearby in (0.0, tau2 * 0.99, tau2 * 1.01 + 1e-9):
        assert best >= restricted_log_likelihood(nearby, y, v) - 1e-13


@given(seed=st.integers(0, 100_000), k=st.integers(2, 12), method=st.sampled_from(["REML", "DL"]))
@settings(max_examples=40, deadline=None)
def test_order_and_shift_change_nothing_else(seed: int, k: int, method: str) -> None:
    y, v = trials(k, seed)
    found = pool(y, np.sqrt(v), method=method)
    moved = pool(y[::-1] + 3, np.sqrt(v[::-1]), method=method)
    assert moved.estimate == pytest.approx(found.estimate + 3, abs=1e-8)
    assert moved.tau2 == pytest.approx(found.tau2, rel=1e-5, abs=1e-8)
    assert found.ci_low < found.estimate < found.ci_high
    if k > 2:
        assert found.prediction_low <= found.ci_low < found.ci_high <= found.prediction_high


def test_equal_variances_have_a_closed_form() -> None:
    """REML and DL are then the variance of the estimates less that of one."""
    y, v = np.array([0.1, 0.9, 0.4, 1.3, 0.2]), np.full(5, 0.04)
    expected = y.var(ddof=1) - 0.04
    assert restricted_maximum_likelihood(y, v) == pytest.approx(expected, rel=1e-10)
    assert dersimonian_laird(y, v) == pytest.approx(expected, rel=1e-10)
    assert pool(y, np.sqrt(v)).se == pytest.approx(y.std(ddof=1) / np.sqrt(5), rel=1e-10)


def test_centres_that_agree_too_well_get_no_narrow_interval() -> None:
    y, se = np.array([0.70, 0.70, 0.701]), np.full(3, 0.3)
    plain, modified = pool(y, se, modified=False), pool(y, se)
    assert plain.tau2 == modified.tau2 == 0
    assert plain.ci_high - plain.ci_low < 0.01
    assert modified.se == pytest.approx(0.3 / np.sqrt(3), rel=1e-12)


def test_coverage_of_the_interval() -> None:
    """500 meta-analyses of 5 centres: the 95 % interval covers the mean, to four Monte-Carlo standard errors."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(500):
        v = rng.uniform(0.02, 0.08, 5)
        y = rng.normal(1.0, np.sqrt(v + 0.05))
        found = pool(y, np.sqrt(v), method="DL", modified=False)
        inside += found.ci_low < 1.0 < found.ci_high
    assert abs(inside / 500 - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 500)


def test_centres_without_an_estimate_are_named_and_one_centre_is_refused() -> None:
    found = pool([0.7, 1.0, np.nan, 0.8], [0.2, 0.1, 0.2, 0.3], "logit", names=["A", "B", "C", "D"])
    assert found.n_centres == 2
    assert found.notes == [
        "B: the estimate 1 has no logit",
        "C: no estimate",
        "no prediction interval: 2 centres, 3 needed",
    ]
    assert 0.7 < found.estimate < 0.8
    assert np.isnan([found.prediction_low, found.prediction_high]).all()
    alone = pool([0.7, 0.9], [0.2, 0.0], "logit", names=["A", "B"])
    assert alone.refusal == "1 of 2 centres have an estimate with a standard error, 2 needed"
    assert alone.notes == ["B: no standard error"]
    assert np.isnan([alone.estimate, alone.ci_low, alone.tau2, alone.q]).all()
    for wrong in ({"method": "ML"}, {"transform": "sqrt"}, {"names": ["A"]}):
        with pytest.raises(ValueError, match=r"must be|names for"):
            pool([0.1, 0.2], [0.1, 0.1], **wrong)


@pytest.mark.parametrize("transform", ["identity", "logit", "log"])
def test_transforms_and_errors(transform: str) -> None:
    rng = np.random.default_rng(1)
    x = np.array([0.3, 0.6, 0.8])
    np.testing.assert_allclose(back_transformed(transformed(x, transform), transform), x, rtol=1e-12)
    step = 1e-6
    slope = (transformed(x + step, transform) - transformed(x - step, transform)) / (2 * step)
    np.testing.assert_allclose(delta_error(x, np.full(3, 0.05), transform), 0.05 * slope, rtol=1e-6)
    samples = rng.normal(x, 0.005, (4000, 3))
    found = bootstrap_error(samples, transform)
    np.testing.assert_allclose(found, transformed(samples, transform).std(axis=0, ddof=1), rtol=1e-12)
    # Small errors: the delta method holds to second order, the SD of 4000 samples to 1.1 %.
    np.testing.assert_allclose(found, delta_error(x, np.full(3, 0.005), transform), rtol=0.05)
    samples[:500, 1] = np.nan
    assert np.isnan(bootstrap_error(samples, transform)).tolist() == [False, True, False]


def test_worst_centre_by_hand() -> None:
    samples = np.array([[0.9, 0.6, 0.7], [0.5, 0.8, 0.7], [0.8, 0.6, 0.9], [0.7, 0.75, 0.8]])
    found = worst_of(["A", "B", "C"], [0.75, 0.7, 0.8], samples)
    assert (found.name, found.estimate, found.n_centres) == ("B", 0.7, 3)
    assert found.share == 0.5
    low, high = np.percentile([0.6, 0.5, 0.6, 0.7], [2.5, 97.5])
    np.testing.assert_allclose([found.ci_low, found.ci_high], [low, high], rtol=1e-12)
    highest = worst_of(["A", "B", "C"], [0.75, 0.7, 0.8], samples, worst="highest")
    assert highest.name == "C"
    np.testing.assert_allclose(highest.ci_high, np.percentile([0.9, 0.8, 0.9, 0.8], 97.5))
    slope = worst_of(["A", "B"], [0.8, 1.5], np.array([[0.4, 1.1], [1.0, 1.7]]), worst="farthest", ideal=1.0)
    assert slope.name == "B"
    np.testing.assert_allclose([slope.ci_low, slope.ci_high], np.percentile([0.4, 1.7], [2.5, 97.5]))


def test_a_sample_that_lacks_a_centre_does_not_make_the_worst_one_better() -> None:
    samples = np.tile([0.9, 0.5], (20, 1))
    samples[:2, 1] = np.nan
    found = worst_of(["A", "B"], [0.9, 0.5], samples)
    assert (found.ci_low, found.ci_high, found.share) == (0.5, 0.5, 1.0)
    samples[:3, 1] = np.nan
    gone = worst_of(["A", "B"], [0.9, 0.5], samples)
    assert np.isnan([gone.ci_low, gone.ci_high]).all()
    assert gone.notes == ["no interval: 3 of 20 bootstrap samples lack a centre's estimate"]
    # A centre that has no estimate at all is named, and doesn't take the others' interval away.
    samples = np.column_stack([np.full(20, 0.9), np.full(20, 0.6), np.full(20, np.nan)])
    found = worst_of(["A", "B", "C"], [0.9, 0.6, np.nan], samples)
    assert (found.name, found.ci_low, found.notes) == ("B", 0.6, ["C: no estimate"])
    assert worst_of(["A", "C"], [0.9, np.nan], samples[:, [0, 2]]).refusal.startswith("1 of 2 centres")
    with pytest.raises(ValueError, match="ideal"):
        worst_of(["A", "B"], [0.9, 0.6], samples[:, :2], worst="farthest")
