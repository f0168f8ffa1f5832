"""Metrics at a horizon against scikit-survival, R's survival, their definitions, and physically repeated cases."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from concordance import fold_concordance
from hypothesis import given, settings
from hypothesis import strategies as st
from r_oracle import run_r
from sksurv.metrics import brier_score, cumulative_dynamic_auc, integrated_brier_score
from sksurv.util import Surv

from radloom.cox import RISK_TIE, comparable_pairs, harrell_c, uno_c, uno_weights
from radloom.ranking import count_pairs, weighted_auc
from radloom.survival_metrics import (
    brier_at,
    harrell_c_rows,
    horizon_status,
    horizon_weights,
    integrated_brier,
    kaplan_meier_risk,
    time_dependent_auc,
    uno_c_rows,
)

Cohort = tuple[np.ndarray, np.ndarray, np.ndarray]


def cohort(n: int = 200, seed: int = 1, ties: bool = False) -> Cohort:
    """Times, events and a predicted risk by time 1 of a cohort with a third censored; with ties, times in tenths."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    failure, censoring = rng.exponential(1.5 * np.exp(-x)), rng.uniform(0.2, 4.0, n)
    time, event = np.minimum(failure, censoring), (failure <= censoring).astype(int)
    if ties:
        time, x = np.ceil(time * 10) / 10, np.round(x, 1)
    return time, event, 1 - np.exp(-np.exp(0.8 * x - 0.5))


def ones(n: int) -> np.ndarray:
    return np.ones((1, n))


def bootstrap(n: int, rows: int = 20, seed: int = 3) -> np.ndarray:
    return np.vstack([np.ones(n), np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=rows)])


# --------------------------------------------------------------------- censoring weights


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(5, 60),
    horizon=st.sampled_from([0.3, 0.55, 1.0, 1.7]),
    ties=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_weights_give_back_the_kaplan_meier_risk(seed: int, n: int, horizon: float, ties: bool) -> None:
    """Known cases stand for all, and the weighted share of events is the Kaplan-Meier risk (Satten & Datta 2001)."""
    time, event, _ = cohort(n, seed, ties)
    weights = bootstrap(n, 5, seed)
    known = horizon_weights(time, event, horizon, weights)
    risk = kaplan_meier_risk(time, event, horizon, weights)
    assert (np.isnan(known.case).all(axis=1) == np.isnan(risk)).all()
    there = np.isfinite(risk)
    np.testing.assert_allclose((known.case + known.control).sum(axis=1)[there], n, rtol=1e-12)
    np.testing.assert_allclose(known.case.sum(axis=1)[there] / n, risk[there], rtol=1e-12, atol=1e-14)


def test_weights_equal_rttright_and_risk_equals_survfit(tmp_path: Path) -> None:
    """R redistributes the censored to the right; it too knows those who are censored at the horizon."""
    time, event, _ = cohort(120, 7, ties=True)
    assert ((time == 1.0) & (event == 0)).sum() == 3
    weights = bootstrap(120, 2)
    table = pd.DataFrame({"time": time, "event": event, **{f"w{row}": weights[row] for row in range(3)}})
    code = """
    out <- list()
    for (row in 0:2) {
      data$w <- data[[paste0("w", row)]]
      out[[paste0("weights", row)]] <- rttright(Surv(time, event) ~ 1, data, weights = w, times = 1.0)
      fit <- survfit(Surv(time, event) ~ 1, data = data[data$w > 0, ], weights = w)
      out[[paste0("risk", row)]] <- 1 - summary(fit, times = 1.0)$surv
    }"""
    expected = run_r(code, tmp_path, data=table)
    known = horizon_weights(time, event, 1.0, weights)
    risk = kaplan_meier_risk(time, event, 1.0, weights)
    for row in range(3):
        np.testing.assert_allclose((known.case + known.control)[row], expected[f"weights{row}"], atol=1e-12)
        np.testing.assert_allclose(risk[row], expected[f"risk{row}"], rtol=1e-12)


def test_censoring_within_strata_is_that_of_each_stratum_alone() -> None:
    time, event, _ = cohort(90)
    strata = np.repeat(["a", "b", "c"], 30)
    weights = bootstrap(90)
    together = horizon_weights(time, event, 1.0, weights, strata)
    for name in "abc":
        rows = strata == name
        alone = horizon_weights(time[rows], event[rows], 1.0, weights[:, rows])
        kept = np.isfinite(together.case).all(axis=1)
        np.testing.assert_array_equal(together.case[kept][:, rows], alone.case[kept])
        np.testing.assert_array_equal(together.control[kept][:, rows], alone.control[kept])


def test_follow_up_cut_at_the_horizon_leaves_those_at_risk_known() -> None:
    """Where all are censored at the horizon itself, all outcomes are known and no weight is needed."""
    time, event = np.array([1.0, 2.0, 5.0, 5.0, 5.0]), np.array([1, 1, 0, 0, 1])
    known = horizon_weights(time, event, 5.0, ones(5))
    np.testing.assert_array_equal(known.case[0], [1, 1, 0, 0, 1])
    np.testing.assert_array_equal(known.control[0], [0, 0, 1, 1, 0])


def test_horizon_beyond_follow_up_is_not_estimable_but_one_after_the_last_death_is() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1, 0, 1, 0])
    risk = np.array([0.9, 0.5, 0.4, 0.1])
    assert np.isnan(kaplan_meier_risk(time, event, 4.5, ones(4))).all()
    assert np.isnan(time_dependent_auc(time, event, risk, 4.5, ones(4))).all()
    assert np.isnan(brier_at(time, event, risk, 4.5, ones(4)).score).all()
    # The last one seen has died: the risk is 1 for ever after, the AUC has nobody to compare with.
    assert kaplan_meier_risk(time, np.array([1, 0, 1, 1]), 4.5, ones(4))[0] == 1
    assert np.isfinite(brier_at(time, np.array([1, 0, 1, 1]), risk, 4.5, ones(4)).score).all()
    assert np.isnan(time_dependent_auc(time, np.array([1, 0, 1, 1]), risk, 4.5, ones(4))).all()


# ------------------------------------------------------------------------ discrimination


@pytest.mark.parametrize("horizon", [0.4, 1.0, 2.5])
def test_auc_equals_scikit_survival(horizon: float) -> None:
    time, event, risk = cohort()
    target = Surv.from_arrays(event.astype(bool), time)
    expected, _ = cumulative_dynamic_auc(target, target, risk, [horizon])
    np.testing.assert_allclose(time_dependent_auc(time, event, risk, horizon, ones(200)), expected, rtol=1e-10)


def slow_auc(
    time: np.ndarray, event: np.ndarray, risk: np.ndarray, horizon: float, weights: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """The definition, pair by pair."""
    known = horizon_weights(time, event, horizon, weights)
    gap = risk[:, None] - risk[None, :]
    higher = np.where(np.abs(gap) <= RISK_TIE, 0.5, gap > 0) * (groups[:, None] == groups[None, :])
    same = (groups[:, None] == groups[None, :]).astype(float)
    right = np.einsum("ri,ij,rj->r", known.case, higher, known.control)
    return right / np.einsum("ri,ij,rj->r", known.case, same, known.control)


def test_auc_within_groups_with_ties_equals_its_definition() -> None:
    time, event, risk = cohort(150, 4, ties=True)
    groups = np.random.default_rng(0).integers(0, 6, 150)
    weights = bootstrap(150)
    found = time_dependent_auc(time, event, risk, 1.0, weights, groups)
    np.testing.assert_allclose(found, slow_auc(time, event, risk, 1.0, weights, groups), rtol=1e-10)
    case, control = horizon_status(time, event, 1.0)
    same = groups[:, None] == groups[None, :]
    assert count_pairs(case, control, groups) == (case[:, None] & control[None, :] & same).sum()


def test_auc_with_tied_times_equals_weights_of_survfit(tmp_path: Path) -> None:
    """Censoring survival just before each event, with R's survfit: scikit-survival takes it just after."""
    time, event, risk = cohort(120, 7, ties=True)
    code = """
    # Events first where times are tied: censoring moves behind them by less than the distance of two times.
    later <- data$time + ifelse(data$event == 0, 1e-6, 0)
    g <- survfit(Surv(later, 1 - data$event) ~ 1)
    before <- function(t) c(1, g$surv)[findInterval(t, g$time, left.open = TRUE) + 1]
    h <- 1.0; case <- data$event == 1 & data$time <= h; free <- later > h
    w <- case / before(data$time)
    conc <- outer(data$risk, data$risk, ">") + 0.5 * outer(data$risk, data$risk, "==")
    auc <- sum(outer(w, free) * conc) / sum(outer(w, free))
    brier <- mean(w * (1 - data$risk)^2 + free / before(h + 1e-9) * data$risk^2)
    out <- list(auc = auc, brier = brier)"""
    found = run_r(code, tmp_path, data=pd.DataFrame({"time": time, "event": event, "risk": risk}))
    np.testing.assert_allclose(time_dependent_auc(time, event, risk, 1.0, ones(120)), found["auc"], rtol=1e-12)
    np.testing.assert_allclose(brier_at(time, event, risk, 1.0, ones(120)).score, found["brier"], rtol=1e-12)


def repeated(weights: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    rows = np.repeat(np.arange(len(weights)), weights.astype(int))
    return [column[rows] for column in columns]


@given(seed=st.integers(0, 10_000), n=st.integers(8, 40), ties=st.booleans())
@settings(max_examples=40, deadline=None)
def test_weighted_rows_equal_repeated_cases(seed: int, n: int, ties: bool) -> None:
    """Also Harrell's C: two draws of one case share their time, so they are no comparable pair when repeated either."""
    time, event, risk = cohort(n, seed, ties)
    weights = bootstrap(n, 3, seed)
    for row in weights:
        t, e, r = repeated(row, time, event, risk)
        one = ones(len(t))
        for metric in (
            lambda t, e, r, w: time_dependent_auc(t, e, r, 0.8, w),
            lambda t, e, r, w: brier_at(t, e, r, 0.8, w).score,
            lambda t, e, r, w: brier_at(t, e, r, 0.8, w).scaled,
            lambda t, e, r, w: integrated_brier(t, e, np.outer(r, [0.5, 1.0]), np.array([0.4, 0.8]), w).scaled,
            lambda t, e, _, w: kaplan_meier_risk(t, e, 0.8, w),
            lambda t, e, r, w: harrell_c_rows(t, e, r, w),
            lambda t, e, r, w: uno_c_rows(t, e, r, w),
        ):
            np.testing.assert_allclose(metric(time, event, risk, row[None, :]), metric(t, e, r, one), rtol=1e-9)


def test_concordance_equals_the_matrices_of_pairs() -> None:
    time, event, risk = cohort(160, 2, ties=True)
    weights = bootstrap(160)
    groups = np.random.default_rng(1).integers(0, 5, 160)

    def pairs(rows: np.ndarray) -> np.ndarray:
        return comparable_pairs(time[rows], event[rows])

    _, expected, _ = fold_concordance(pairs, risk, groups, weights)
    np.testing.assert_allclose(harrell_c_rows(time, event, risk, weights, groups), expected, rtol=1e-12)
    np.testing.assert_allclose(harrell_c_rows(time, event, risk, ones(160)), harrell_c(time, event, risk), rtol=1e-12)
    for tau in (None, 1.5):
        expected = uno_c(time, event, risk, tau)
        np.testing.assert_allclose(uno_c_rows(time, event, risk, ones(160), tau), expected, rtol=1e-12)
        assert (uno_weights(time, event, tau) > 0).sum() > 50


def test_nothing_to_compare_is_nan() -> None:
    time, event, risk = np.array([3.0, 4.0, 5.0]), np.array([0, 0, 0]), np.array([0.1, 0.2, 0.3])
    assert np.isnan(time_dependent_auc(time, event, risk, 2.0, ones(3))).all()
    assert np.isnan(harrell_c_rows(time, event, risk, ones(3))).all()
    assert np.isnan(uno_c_rows(time, event, risk, ones(3))).all()
    assert np.isnan(brier_at(time, event, risk, 2.0, np.zeros((1, 3))).score).all()
    # Each of two groups holds one kind only.
    found = weighted_auc(risk, np.array([[1.0, 0, 0]]), np.array([[0.0, 1, 1]]), np.array([0, 1, 1]))
    assert np.isnan(found).all()


def test_missing_scores_and_impossible_risks_are_refused() -> None:
    time, event, risk = cohort(20)
    with pytest.raises(ValueError, match="1 of 20 risk scores are missing"):
        time_dependent_auc(time, event, np.r_[np.nan, risk[1:]], 1.0, ones(20))
    with pytest.raises(ValueError, match="between 0 and 1"):
        brier_at(time, event, risk + 1, 1.0, ones(20))
    with pytest.raises(ValueError, match="rows x 20 cases"):
        harrell_c_rows(time, event, risk, np.ones((1, 19)))


# -------------------------------------------------------------------------------- Brier


def test_brier_equals_scikit_survival() -> None:
    time, event, risk = cohort()
    target = Surv.from_arrays(event.astype(bool), time)
    horizons = np.linspace(0.2, 2.0, 15)
    risks = 1 - (1 - risk[:, None]) ** horizons[None, :]
    _, expected = brier_score(target, target, 1 - risks, horizons)
    found = [brier_at(time, event, risks[:, column], h, ones(200)).score[0] for column, h in enumerate(horizons)]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    expected = integrated_brier_score(target, target, 1 - risks, horizons)
    found = integrated_brier(time, event, risks, horizons, bootstrap(200)).score
    np.testing.assert_allclose(found[0], expected, rtol=1e-10)
    assert found.std() > 0


def test_brier_of_the_kaplan_meier_risk_is_its_variance() -> None:
    """With the weights of the same cases the reference is S (1 - S), and the scaled score of it is 0."""
    time, event, _ = cohort(150, 9, ties=True)
    weights = bootstrap(150)
    risk = kaplan_meier_risk(time, event, 1.0, weights)
    constant = brier_at(time, event, np.full(150, risk[0]), 1.0, weights)
    np.testing.assert_allclose(constant.reference, risk * (1 - risk), rtol=1e-12)
    assert constant.scaled[0] == pytest.approx(0, abs=1e-12)
    assert (constant.scaled[1:] <= 1e-12).all()


def test_without_censoring_the_brier_score_is_a_mean_of_squares() -> None:
    time, _, risk = cohort(80)
    weights, event = bootstrap(80), np.ones(80)
    expected = (weights @ (risk - (time <= 1.0)) ** 2) / weights.sum(axis=1)
    np.testing.assert_allclose(brier_at(time, event, risk, 1.0, weights).score, expected, rtol=1e-12)
    strata = np.arange(80) % 3
    np.testing.assert_allclose(brier_at(time, event, risk, 1.0, weights, strata).score, expected, rtol=1e-12)


def test_blocks_of_rows_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    time, event, risk = cohort(60, 3, ties=True)
    weights = bootstrap(60, 30)

    def all_of_it() -> list[np.ndarray]:
        return [
            time_dependent_auc(time, event, risk, 1.0, weights),
            brier_at(time, event, risk, 1.0, weights).scaled,
            uno_c_rows(time, event, risk, weights),
            kaplan_meier_risk(time, event, 1.0, weights),
        ]

    whole = all_of_it()
    monkeypatch.setattr("radloom.ranking.BLOCK", 100)
    for one, other in zip(whole, all_of_it(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)
