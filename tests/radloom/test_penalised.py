"""Penalised paths against their optimality conditions, scikit-survival, scikit-learn, statsmodels and R's glmnet."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv
from statsmodels.duration.hazard_regression import PHReg

from radloom.errors import CohortError
from radloom.logistic import fit_logistic
from radloom.penalised import (
    cox_path,
    deviance,
    fit_penalised_cox,
    fit_penalised_logistic,
    logistic_path,
    partial_log_likelihood,
)
from radloom.phantoms import simulate_survival

LUNG = ["age", "sex", "ph.ecog", "ph.karno", "pat.karno", "meal.cal", "wt.loss"]

Survival = tuple[np.ndarray, np.ndarray, np.ndarray]


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip")


def standardised(values: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and variance 1; constant ones are 0."""
    centred = values - values.mean(axis=0)
    sd = values.std(axis=0)
    return np.where(sd > 1e-9, centred / np.where(sd > 1e-9, sd, 1), 0.0)


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> tuple[Survival, np.ndarray, np.ndarray]:
    """500 simulated cases of 1000 columns, standardised, time and event; the penalties and coefficients of glmnet."""
    folder = shared_data / "golden" / "cox"
    x = pd.read_csv(folder / "X.csv.gz", header=None, float_precision="round_trip").to_numpy()
    y = read(folder / "y.csv")
    beta = pd.read_csv(folder / "beta.csv", header=None, float_precision="round_trip").to_numpy()
    cases = standardised(x), y["time"].to_numpy(), y["st"].to_numpy()
    return cases, read(folder / "lambda.csv")["x"].to_numpy(), beta * x.std(axis=0)[:, None]


@pytest.fixture(scope="module")
def survival() -> Survival:
    """160 cases of 40 correlated columns of which the first two count, with tied times."""
    rng = np.random.default_rng(4)
    x = standardised(rng.normal(size=(160, 40)) + 0.6 * rng.normal(size=(160, 1)))
    time, event = simulate_survival(0.8 * (x[:, 0] - x[:, 1]), rng, baseline_hazard=0.03, follow_up=60.0)
    return x, np.round(time) + 1, event


@pytest.fixture(scope="module")
def binary() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    x = standardised(rng.normal(size=(150, 60)) + 0.5 * rng.normal(size=(150, 1)))
    return x, (rng.uniform(size=150) < 1 / (1 + np.exp(1 - x[:, 0] + x[:, 1]))).astype(int)


def cox_score(x: np.ndarray, time: np.ndarray, event: np.ndarray, b: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Derivative of Breslow's log partial likelihood, over the cases' number, from its definition."""
    eta = x @ b
    risk = np.exp(eta - eta.max())
    at_risk = (time[None, :] >= time[:, None]) & (strata[None, :] == strata[:, None])
    mean = (at_risk @ (risk[:, None] * x)) / (at_risk @ risk)[:, None]
    return np.asarray((x - mean)[event.astype(bool)].sum(axis=0) / len(time))


def worst_violation(score: np.ndarray, b: np.ndarray, penalty: float, l1_ratio: float, factor: np.ndarray) -> float:
    """By how much the conditions of an optimum are missed, in units of the score."""
    cut = penalty * l1_ratio * factor
    rest = score - penalty * (1 - l1_ratio) * factor * b
    miss = np.where(b == 0, np.maximum(np.abs(rest) - cut, 0), np.abs(rest - cut * np.sign(b)))
    return float(miss.max())


# ------------------------------------------------------------------------------- Cox


def test_cox_path_is_nearer_to_the_optimum_than_glmnets(
    golden: tuple[Survival, np.ndarray, np.ndarray],
) -> None:
    """The saved path of glmnet ends a penalty when coefficients move by less than 1e-5, and is so far off."""
    (x, time, event), penalties, expected = golden
    _, path = cox_path(x, time, event, 0.9, penalties)
    np.testing.assert_allclose(path, expected, atol=5e-5)
    ours, theirs = (
        -partial_log_likelihood(x @ b, time, event) / len(time)
        + penalties * (0.9 * np.abs(b).sum(axis=0) + 0.05 * (b**2).sum(axis=0))
        for b in (path, expected)
    )
    assert (ours <= theirs + 1e-15).all()
    everyone = np.zeros(len(time))
    for step in (1, 20, 49):
        score = cox_score(x, time, event, path[:, step], everyone)
        assert worst_violation(score, path[:, step], penalties[step], 0.9, np.ones(1000)) < 1e-9


@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_cox_path_equals_scikit_survival(survival: Survival, l1_ratio: float) -> None:
    """Where scikit-survival is made to go on until coefficients move by less than 1e-8; its own stop is at 1e-3.5."""
    x, time, event = survival
    penalties, path = cox_path(x, time, event, l1_ratio)
    assert len(penalties) == 50
    assert penalties[-1] == pytest.approx(0.05 * penalties[0])
    assert not path[:, 0].any()
    assert path[:, 1].any()
    theirs = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=l1_ratio, tol=1e-16, max_iter=1_000_000)
    theirs.fit(x, Surv.from_arrays(event.astype(bool), time))
    found = theirs.coef_.shape[1]  # it may stop early, where the deviance stops falling
    assert found > 30
    np.testing.assert_allclose(path[:, :found], theirs.coef_, atol=1e-6)


@st.composite
def survival_data(draw: st.DrawFn) -> tuple[np.ndarray, ...]:
    """Cases with ties, strata, columns that are constant, repeated or collinear, more columns than cases or fewer."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p = draw(st.integers(4, 60)), draw(st.integers(1, 80))
    x = rng.normal(size=(n, p))
    if draw(st.booleans()):
        x = x + rng.normal(size=(n, 1))
    if p > 3:
        x[:, 1] = 3.0
        x[:, 2] = -x[:, 0]
        x[:, 3] = x[:, 0] + (x[:, 4] if p > 4 else 0)
    if draw(st.booleans()):
        x[:, -1] = x[:, -1] > 0
    time = rng.exponential(size=n) * np.exp(-x[:, 0])
    if draw(st.booleans()):
        time = np.ceil(2 * time)
    event = (rng.uniform(size=n) < draw(st.sampled_from([0.0, 0.2, 0.7, 1.0]))).astype(int)
    event[rng.integers(n)] = 1  # at the least a single event
    strata = rng.integers(0, draw(st.integers(1, 4)), n)
    factor = rng.choice([0.3, 1.0, 2.5], p)
    return standardised(x), time, event, strata, factor


@given(survival_data(), st.sampled_from([0.05, 0.5, 1.0]))
@settings(max_examples=150, deadline=None)
def test_cox_path_is_optimal_whatever_the_data(data: tuple[np.ndarray, ...], l1_ratio: float) -> None:
    x, time, event, strata, factor = data
    penalties, path = cox_path(x, time, event, l1_ratio, strata=strata, penalty_factor=factor)
    assert np.isfinite(path).all()
    assert not path[:, 0].any()
    scale = max(float(np.abs(cox_score(x, time, event, path[:, 0], strata)).max()), 1e-6)
    for step in range(0, 50, 7):
        score = cox_score(x, time, event, path[:, step], strata)
        assert worst_violation(score, path[:, step], penalties[step], l1_ratio, factor) < 1e-8 * scale


@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_unpenalised_columns_fulfil_the_conditions_too(seed: int, free: int) -> None:
    rng = np.random.default_rng(seed)
    x = standardised(rng.normal(size=(80, 30)))
    x[:, 1] = np.where(x[:, 1] > 0, 1.0, -1.0)
    time, event = np.ceil(10 * rng.exponential(size=80)), rng.integers(0, 2, 80)
    strata = rng.integers(0, 2, 80)
    factor = np.where(np.arange(30) < free, 0.0, 1.0)
    penalties, path = cox_path(x, time, event, 0.7, strata=strata, penalty_factor=factor)
    for step in (0, 25, 49):
        score = cox_score(x, time, event, path[:, step], strata)
        assert worst_violation(score, path[:, step], penalties[step], 0.7, factor) < 1e-9
    # At the first penalty the unpenalised columns are alone: their own fit.
    assert not path[free:, 0].any()
    alone = PHReg(time, x[:, :free], status=event, strata=strata, ties="breslow").fit().params
    np.testing.assert_allclose(path[:free, 0], alone, atol=1e-7)


def test_cox_path_ends_at_the_unpenalised_stratified_fit(shared_data: Path) -> None:
    lung = read(shared_data / "golden" / "cox" / "lung.csv")
    time, event = lung["time"].to_numpy(float), lung["status"].to_numpy()
    columns = [name for name in LUNG if name != "sex"]
    design, sex = standardised(lung[columns].to_numpy(float)), lung["sex"].to_numpy()
    for strata in (None, sex):
        expected = PHReg(time, design, status=event, strata=strata, ties="breslow").fit().params
        for penalties in (np.array([0.1, 1e-9]), np.array([0.0])):
            _, path = cox_path(design, time, event, 0.9, penalties, strata=strata)
            np.testing.assert_allclose(path[:, -1], expected, atol=1e-6)
        _, path = cox_path(design, time, event, 0.9, strata=strata, penalty_factor=np.zeros(len(columns)))
        np.testing.assert_allclose(path, np.repeat(expected[:, None], 50, axis=1), atol=1e-6)


def test_strata_are_a_sum_of_their_likelihoods(survival: Survival) -> None:
    x, time, event = survival
    strata = np.arange(len(time)) % 3
    one = cox_path(x, time, event, 0.9, strata=np.full(len(time), "a"))
    np.testing.assert_array_equal(one[1], cox_path(x, time, event, 0.9)[1])
    _, path = cox_path(x, time, event, 0.9, strata=strata)
    # A stratum for each case has no pair to compare.
    assert not cox_path(x, time, event, 0.9, strata=np.arange(len(time)))[1].any()
    shifted = x + 7.0 * strata[:, None]  # a constant of a stratum changes nothing
    np.testing.assert_allclose(cox_path(shifted, time, event, 0.9, strata=strata)[1], path, atol=1e-9)


def test_partial_likelihood_equals_statsmodels_with_ties_and_strata(shared_data: Path) -> None:
    lung = read(shared_data / "golden" / "cox" / "lung.csv")
    time, event = lung["time"].to_numpy(float), lung["status"].to_numpy()
    values = lung[LUNG].to_numpy(float)
    beta = np.linspace(-0.02, 0.02, len(LUNG))
    for strata in (None, lung["ph.ecog"].to_numpy()):
        model = PHReg(time, values, status=event, strata=strata, ties="breslow")
        # statsmodels leaves out the ties' count, which no coefficient changes: compare differences.
        expected = model.loglike(beta) - model.loglike(0 * beta)
        ours = partial_log_likelihood(np.column_stack([values @ beta, 0 * time]), time, event, strata)
        assert ours[0] - ours[1] == pytest.approx(expected, rel=1e-10)


def test_a_fit_that_runs_away_is_nan_from_there_on() -> None:
    time, event = np.arange(1.0, 41.0), np.repeat([1, 0], 20)
    x = standardised(np.column_stack([np.repeat([1.0, 0.0], 20), np.random.default_rng(0).normal(size=40)]))
    _, path = cox_path(x, time, event, 0.9, np.array([1.0, 0.1, 0.01, 0.0, 1e-3]))
    assert np.isfinite(path[:, :3]).all()
    assert np.isnan(path[:, 3:]).all()
    with pytest.raises(CohortError, match="no finite estimate"):
        cox_path(x, time, event, 0.9, penalty_factor=np.array([0.0, 1.0]))


def test_path_goes_to_any_penalty_in_any_order(survival: Survival) -> None:
    x, time, event = survival
    largest = cox_path(x, time, event, 0.9)[0][0]
    penalties = np.geomspace(10, 1e-3, 60)
    _, path = cox_path(x, time, event, 0.9, penalties)
    assert not path[:, penalties >= largest].any()
    assert path[:, penalties < 0.99 * largest].any(axis=0).all()
    single = [cox_path(x, time, event, 0.9, penalties[[step]])[1][:, 0] for step in (20, 40, 50)]
    np.testing.assert_allclose(path[:, [20, 40, 50]].T, single, atol=1e-7)
    upward = cox_path(x, time, event, 0.9, penalties[[50, 40, 20]])[1]
    np.testing.assert_allclose(upward, path[:, [50, 40, 20]], atol=1e-7)


def test_order_of_rows_and_repetition_change_no_bit(survival: Survival) -> None:
    x, time, event = survival
    strata, folds = np.arange(len(time)) % 2, np.arange(len(time)) % 5
    order = np.random.default_rng(0).permutation(len(time))
    first = fit_penalised_cox(x, time, event, 0.9, folds, strata=strata)
    for rows in (np.arange(len(time)), order):
        again = fit_penalised_cox(x[rows], time[rows], event[rows], 0.9, folds[rows], strata=strata[rows])
        np.testing.assert_array_equal(again.coefficients, first.coefficients)
        np.testing.assert_array_equal(again.cv_deviance, first.cv_deviance)
        np.testing.assert_array_equal(again.cv_se, first.cv_se)
    one = fit_penalised_logistic(x, event, 0.5, folds)
    two = fit_penalised_logistic(x[order], event[order], 0.5, folds[order])
    np.testing.assert_array_equal(one.coefficients, two.coefficients)
    np.testing.assert_array_equal(one.cv_deviance, two.cv_deviance)


@pytest.mark.parametrize("stratified", [False, True])
def test_cox_cross_validation_by_its_definition(survival: Survival, stratified: bool) -> None:
    x, time, event = survival
    folds = np.arange(len(time)) % 5
    strata = np.arange(len(time)) // 40 if stratified else None
    factor = np.where(np.arange(x.shape[1]) == 3, 0.0, 1.0)
    fit = fit_penalised_cox(x, time, event, 0.9, folds, strata=strata, penalty_factor=factor)
    penalties, path = cox_path(x, time, event, 0.9, strata=strata, penalty_factor=factor)
    np.testing.assert_array_equal(fit.penalties, penalties)
    deviances, weights = [], []
    for fold in range(5):
        train = folds != fold
        inside = None if strata is None else strata[train]
        _, b = cox_path(x[train], time[train], event[train], 0.9, penalties, strata=inside, penalty_factor=factor)
        whole = partial_log_likelihood(x @ b, time, event, strata)
        part = partial_log_likelihood(x[train] @ b, time[train], event[train], inside)
        weights.append(event[~train].sum())
        deviances.append(-2 * (whole - part) / weights[-1])
    check_choice(fit, np.array(deviances), np.array(weights), path)
    again = fit_penalised_cox(x, time, event, 0.9, folds, strata=strata, penalty_factor=factor, rule="1se")
    assert again.penalty == again.penalty_1se > again.penalty_min
    np.testing.assert_array_equal(again.coefficients, path[:, np.flatnonzero(penalties == again.penalty)[0]])


def check_choice(fit, deviances: np.ndarray, weights: np.ndarray, path: np.ndarray) -> None:
    """The choice of cv.glmnet from each fold's deviance: cvm, cvsd, lambda.min, lambda.1se (getOptcv.glmnet)."""
    curve = (weights[:, None] * deviances).sum(axis=0) / weights.sum()
    error = np.sqrt((weights[:, None] * (deviances - curve) ** 2).sum(axis=0) / weights.sum() / (len(weights) - 1))
    np.testing.assert_allclose(fit.cv_deviance, curve, rtol=1e-8)
    np.testing.assert_allclose(fit.cv_se, error, rtol=1e-6)
    least = int(np.argmin(curve))
    assert fit.penalty == fit.penalty_min == fit.penalties[least]
    assert fit.penalty_1se == fit.penalties[curve <= curve[least] + error[least]].max()
    np.testing.assert_array_equal(fit.coefficients, path[:, least])


def test_penalty_by_cross_validation_finds_the_planted_effects(
    golden: tuple[Survival, np.ndarray, np.ndarray],
) -> None:
    (x, time, event), _, _ = golden
    fit = fit_penalised_cox(x[:, :200], time, event, 0.9, np.arange(500) % 5)
    assert (fit.coefficients[:5] > 0).all()
    assert (fit.coefficients[5:10] < 0).all()
    assert np.abs(fit.coefficients[10:]).max() < np.abs(fit.coefficients[:10]).min()
    assert fit.penalties[0] > fit.penalty > fit.penalties[-1]
    assert fit.penalty == fit.penalties[np.argmin(fit.cv_deviance)]


def test_folds_that_say_nothing(survival: Survival) -> None:
    x, time, event = survival
    assert fit_penalised_cox(np.empty((160, 0)), time, event, 0.9, np.arange(160) % 2).coefficients.size == 0
    with pytest.raises(CohortError, match="lie in one fold"):
        fit_penalised_cox(x, time, event, 0.9, np.where(event == 1, "b", "a"))
    # Folds without events are trained with, and held out in vain.
    folds = np.where(event == 1, np.arange(160) % 3, 7 + np.arange(160) % 2)
    fit = fit_penalised_cox(x, time, event, 0.9, folds)
    assert np.isfinite(fit.cv_deviance).all()
    with pytest.raises(CohortError, match="without events"):
        fit_penalised_cox(x, time, 0 * event, 0.9, folds)


# -------------------------------------------------------------------------- logistic


@pytest.mark.parametrize("l1_ratio", [0.0, 0.3, 0.9, 1.0])
def test_logistic_path_is_optimal(binary: tuple[np.ndarray, np.ndarray], l1_ratio: float) -> None:
    x, y = binary
    penalties, intercepts, path = logistic_path(x, y, l1_ratio)
    if l1_ratio:
        assert not path[:, 0].any()
    assert path[:, -1].any()
    check_logistic(x, y, l1_ratio, np.ones(60), penalties, intercepts, path)


def check_logistic(x, y, l1_ratio, factor, penalties, intercepts, path) -> None:
    for penalty, b0, b in list(zip(penalties, intercepts, path.T, strict=True))[::7]:
        residual = y - 1 / (1 + np.exp(-(x @ b + b0)))
        assert abs(residual.mean()) < 1e-9
        assert worst_violation(x.T @ residual / len(y), b, penalty, l1_ratio, factor) < 1e-9


@given(survival_data(), st.sampled_from([0.0, 0.05, 0.5, 1.0]))
@settings(max_examples=100, deadline=None)
def test_logistic_path_is_optimal_whatever_the_data(data: tuple[np.ndarray, ...], l1_ratio: float) -> None:
    x, _, y, _, factor = data
    y = y.copy()
    y[0], y[1] = 0, 1
    check_logistic(x, y, l1_ratio, factor, *logistic_path(x, y, l1_ratio, penalty_factor=factor))


@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_one_penalty_equals_scikit_learn(binary: tuple[np.ndarray, np.ndarray], l1_ratio: float) -> None:
    x, y = binary
    penalties, intercepts, path = logistic_path(x, y, l1_ratio)
    step = 25
    theirs = LogisticRegression(
        l1_ratio=l1_ratio, solver="saga", C=1 / (len(y) * penalties[step]), tol=1e-12, max_iter=100_000
    ).fit(x, y)
    np.testing.assert_allclose(path[:, step], theirs.coef_[0], atol=1e-7)
    assert intercepts[step] == pytest.approx(theirs.intercept_[0], abs=1e-7)


def test_unpenalised_columns_of_a_logistic_path_are_the_fit_without_a_penalty(
    binary: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = binary
    x = x + 5.0  # the intercept takes up what columns aren't centred
    factor = np.where(np.arange(60) < 2, 0.0, 1.0)
    _, intercepts, path = logistic_path(x, y, 0.9, penalty_factor=factor)
    table = fit_logistic(pd.DataFrame(x[:, :2]), y)
    np.testing.assert_allclose([intercepts[0], *path[:2, 0]], table["coefficient"], atol=1e-7)
    assert not path[2:, 0].any()
    assert path[2:, -1].any()
    with pytest.raises(CohortError, match="no finite estimate"):
        logistic_path(np.column_stack([y, x]), y, 0.9, penalty_factor=np.append(0.0, factor))


def test_logistic_cross_validation_by_its_definition(binary: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = binary
    folds = np.arange(len(y)) % 7  # of unequal sizes
    fit = fit_penalised_logistic(x, y, 0.9, folds)
    penalties, intercepts, path = logistic_path(x, y, 0.9)
    deviances = []
    for fold in range(7):
        train = folds != fold
        _, free, b = logistic_path(x[train], y[train], 0.9, penalties)
        deviances.append(deviance(x[~train] @ b + free, y[~train]) / (~train).sum())
    check_choice(fit, np.array(deviances), np.bincount(folds), path)
    assert fit.intercept == intercepts[np.argmin(fit.cv_deviance)]
    assert fit.coefficients[0] > 0 > fit.coefficients[1]
    empty = fit_penalised_logistic(np.empty((len(y), 0)), y, 0.9, folds)
    assert empty.linear_predictor(np.empty((2, 0))) == pytest.approx(np.log(y.mean() / (1 - y.mean())))
    with pytest.raises(CohortError, match="one class lies in one fold"):
        fit_penalised_logistic(x, y, 0.9, y)


def test_deviance_by_hand() -> None:
    p = np.array([0.2, 0.7, 0.9])
    y = np.array([0, 1, 0])
    expected = -2 * (np.log(0.8) + np.log(0.7) + np.log(0.1))
    assert deviance(np.log(p / (1 - p))[:, None], y)[0] == pytest.approx(expected)


def test_what_does_not_fit_together_is_refused(survival: Survival, binary: tuple[np.ndarray, np.ndarray]) -> None:
    x, time, event = survival
    for l1_ratio in (0.0, 1.1):
        with pytest.raises(ValueError, match="l1_ratio"):
            cox_path(x, time, event, l1_ratio)
    with pytest.raises(ValueError, match="time must have one value"):
        cox_path(x, time[1:], event, 0.9)
    with pytest.raises(ValueError, match="not finite"):
        cox_path(np.where(x == x[3, 3], np.nan, x), time, event, 0.9)
    with pytest.raises(ValueError, match="penalty_factor"):
        cox_path(x, time, event, 0.9, penalty_factor=-np.ones(40))
    with pytest.raises(ValueError, match="penalties"):
        cox_path(x, time, event, 0.9, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="rule"):
        fit_penalised_cox(x, time, event, 0.9, np.arange(160) % 4, rule="max")
    with pytest.raises(CohortError, match="one class"):
        logistic_path(binary[0], np.ones(150), 0.9)
