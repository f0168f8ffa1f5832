"""Firth's logistic regression against closed forms, direct optimisation and published estimates."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit

from radloom.errors import CohortError
from radloom.firth import fit_firth, logistic_inference
from radloom.logistic import fit_logistic

CHI2 = 3.841458820694124  # 95 % quantile of chi-squared with 1 degree of freedom


def penalised(beta: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """log L + 1/2 log det I, written out."""
    eta = x @ beta
    p = expit(eta)
    sign, logdet = np.linalg.slogdet(x.T @ ((p * expit(-eta))[:, None] * x))
    return float((y * eta - np.logaddexp(0, eta)).sum() + 0.5 * logdet) if sign > 0 else -np.inf


def best_with(term: int, value: float, start: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Largest penalised likelihood with one coefficient held, by Nelder and Mead's method and then BFGS."""
    rest = np.delete(np.arange(len(start)), term)

    def loss(free: np.ndarray) -> float:
        beta = np.empty(len(start))
        beta[rest], beta[term] = free, value
        return -penalised(beta, x, y)

    rough = minimize(loss, start[rest], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12, "maxiter": 9000})
    return -float(minimize(loss, rough.x, method="BFGS", options={"gtol": 1e-9}).fun)


@pytest.fixture
def separated() -> tuple[pd.DataFrame, np.ndarray]:
    """70 cases; whoever has the marker has the outcome."""
    rng = np.random.default_rng(9)
    marker = (rng.uniform(size=70) < 0.15) * 1.0
    age = rng.normal(60, 8, 70)
    y = (rng.uniform(size=70) < expit(0.06 * (age - 62))).astype(int)
    y[marker == 1] = 1
    return pd.DataFrame({"marker": marker, "age": age}), y


@pytest.mark.parametrize("cells", [(10, 5, 3, 12), (0, 9, 7, 4), (0, 20, 11, 0), (1, 1, 1, 1)])
def test_two_by_two_table_is_half_a_case_more_in_each_cell(cells: tuple[int, int, int, int]) -> None:
    # Jeffreys' prior of a saturated model is that of two binomials: each with 1/2 added to both counts.
    a, b, c, d = cells
    group = pd.DataFrame({"group": np.repeat([1.0, 1.0, 0.0, 0.0], cells)})
    y = np.repeat([1, 0, 1, 0], cells)
    table = fit_firth(group, y)
    a, b, c, d = a + 0.5, b + 0.5, c + 0.5, d + 0.5
    assert table["coefficient"].iloc[0] == pytest.approx(np.log(c / d), abs=1e-9)
    assert table["coefficient"].iloc[1] == pytest.approx(np.log(a * d / (b * c)), abs=1e-9)
    assert (table["ci_low"] < table["odds_ratio"]).all()
    assert (table["odds_ratio"] < table["ci_high"]).all()
    assert np.isfinite(table[["ci_low", "ci_high", "p"]].to_numpy()).all()


def test_intercept_alone_has_a_closed_form() -> None:
    y = np.array([1] * 3 + [0] * 14)
    table = fit_firth(pd.DataFrame(index=range(17)), y)
    assert table["coefficient"].iloc[0] == pytest.approx(np.log(3.5 / 14.5), abs=1e-10)

    def drop(b: float) -> float:
        return 2 * (3.5 * np.log(expit(b)) + 14.5 * np.log(expit(-b)))

    top = drop(np.log(3.5 / 14.5))
    low, high = (brentq(lambda b: top - drop(b) - CHI2, *ends) for ends in ((-6, -1.42), (-1.43, 3)))
    np.testing.assert_allclose(np.log(table[["ci_low", "ci_high"]].iloc[0].to_numpy(float)), [low, high], atol=1e-8)
    assert table["z"].iloc[0] == pytest.approx(-np.sqrt(top - drop(0.0)), abs=1e-9)


def test_score_equations_of_jeffreys_prior_hold(separated: tuple[pd.DataFrame, np.ndarray]) -> None:
    design, y = separated
    table = fit_firth(design, y)
    x = np.column_stack([np.ones(len(y)), design])
    p = expit(x @ table["coefficient"].to_numpy())
    inverse = np.linalg.inv(x.T @ ((p * (1 - p))[:, None] * x))
    hat = p * (1 - p) * np.einsum("ij,jk,ik->i", x, inverse, x)
    score = x.T @ (y - p + hat * (0.5 - p))
    np.testing.assert_allclose(score / np.sqrt(np.diag(x.T @ x)), 0, atol=1e-10)
    np.testing.assert_allclose(table["se"], np.sqrt(np.diag(inverse)), rtol=1e-8)


def test_estimate_interval_and_test_equal_direct_optimisation(separated: tuple[pd.DataFrame, np.ndarray]) -> None:
    design, y = separated
    design = (design - design.mean()) / design.std()  # for the simplex; the package itself is not asked to
    table = fit_firth(design, y)
    x = np.column_stack([np.ones(len(y)), design])
    beta = table["coefficient"].to_numpy()
    found = minimize(lambda b: -penalised(b, x, y), np.zeros(3), method="BFGS", options={"gtol": 1e-9})
    np.testing.assert_allclose(beta, found.x, atol=1e-6)  # BFGS with differences gets no closer
    top = penalised(beta, x, y)
    assert top >= -found.fun - 1e-10
    for term in range(3):
        for side in ("ci_low", "ci_high"):
            bound = float(np.log(table[side].iloc[term]))
            assert 2 * (top - best_with(term, bound, beta, x, y)) == pytest.approx(CHI2, abs=1e-6)
        statistic = 2 * (top - best_with(term, 0.0, beta, x, y))
        assert table["z"].iloc[term] ** 2 == pytest.approx(statistic, abs=1e-6)


def test_bioassay_equals_brglm() -> None:
    # Racine et al. 1986, as standardised by Gelman et al. (Ann Appl Stat 2008, 10.1214/08-AOAS191): 5 animals a dose,
    # of which 0, 1, 3, 5 died. R's brglm prints -0.2032 and 5.4207, glm -0.08328 and 10.23079.
    dose = np.array([-0.86, -0.30, -0.05, 0.73])
    design = pd.DataFrame({"dose": np.repeat((dose - dose.mean()) / (2 * dose.std(ddof=1)), 5)})
    died = np.concatenate([[1] * k + [0] * (5 - k) for k in (0, 1, 3, 5)])
    np.testing.assert_allclose(fit_firth(design, died)["coefficient"], [-0.2032, 5.4207], atol=5e-5)
    likely = logistic_inference(design, died)
    assert set(likely["method"]) == {"maximum likelihood"}
    np.testing.assert_allclose(likely["coefficient"], [-0.08328, 10.23079], atol=5e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(-1, 3), shift=st.floats(-50, 50))
def test_units_order_and_coding_only_rename(seed: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(40, 2))
    y = (rng.uniform(size=40) < expit(values[:, 0])).astype(int)
    y[:2] = 0, 1
    table = fit_firth(pd.DataFrame(values), y)
    order = rng.permutation(40)
    unit = 10.0**scale
    moved = fit_firth(pd.DataFrame(values * unit + shift * unit).iloc[order], 1 - y[order])
    np.testing.assert_allclose(-moved["coefficient"][1:] * unit, table["coefficient"][1:], rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(-moved["z"][1:], table["z"][1:], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(-np.log(moved["ci_low"][1:]) * unit, np.log(table["ci_high"][1:]), rtol=1e-5, atol=1e-7)


def test_large_samples_agree_with_maximum_likelihood() -> None:
    rng = np.random.default_rng(4)
    design = pd.DataFrame(rng.normal(size=(3000, 3)), columns=["a", "b", "c"])
    y = (rng.uniform(size=3000) < expit(design["a"] - 0.5)).astype(int)
    firth, likely = fit_firth(design, y), fit_logistic(design, y)
    # The correction is of the order 1 / n, a fiftieth of the standard error here.
    np.testing.assert_allclose(firth["coefficient"], likely["coefficient"], atol=0.01)
    np.testing.assert_allclose(firth["se"], likely["se"], rtol=0.01)
    np.testing.assert_allclose(np.log(firth["ci_low"]), np.log(likely["ci_low"]), atol=0.01)


def test_separation_chooses_the_method(separated: tuple[pd.DataFrame, np.ndarray]) -> None:
    design, y = separated
    table = logistic_inference(design, y)
    assert set(table["method"]) == {"Firth"}
    assert table["note"].iloc[0].endswith("separated by marker")
    assert np.isfinite(table[["odds_ratio", "ci_low", "ci_high"]].to_numpy()).all()
    assert table.set_index("term").loc["marker", "p"] < 0.05
    pd.testing.assert_frame_equal(table.drop(columns="note"), fit_firth(design, y).drop(columns="note"))
    # One contradiction, and the maximum is finite.
    mixed = y.copy()
    mixed[np.flatnonzero(design["marker"] == 1)[0]] = 0
    table = logistic_inference(design, mixed)
    assert set(table["method"]) == {"maximum likelihood"}
    expected = fit_logistic(design, mixed)
    pd.testing.assert_frame_equal(table[list(expected.columns)], expected)
    assert list(table[["n", "events"]].iloc[0]) == [70, mixed.sum()]
    # Separated with room to spare: other columns could help a linear program, but the culprit alone is named.
    wide = design.assign(marker=10.0 * y + np.arange(70) / 70)
    assert logistic_inference(wide, y)["note"].iloc[0].endswith("separated by marker")
    # Two columns that separate only together are both named.
    score = np.random.default_rng(1).normal(size=70)
    both = pd.DataFrame({"a": y + score, "b": score})
    assert logistic_inference(both, y)["note"].iloc[0].endswith("separated by a, b")


def test_interval_covers_the_true_odds_ratio_in_small_samples() -> None:
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(100):
        x = rng.normal(size=40)
        y = (rng.uniform(size=40) < expit(logit(0.25) + 1.0 * x)).astype(int)
        y[:2] = 0, 1
        row = fit_firth(pd.DataFrame({"x": x}), y).iloc[1]
        covered += row["ci_low"] <= np.e <= row["ci_high"]
    # 95 % of 100 with a Monte-Carlo standard error of 2.2 %.
    assert 88 <= covered <= 99


def test_what_no_method_can_use_is_refused() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=30)
    y = np.arange(30) % 2
    for call in (fit_firth, logistic_inference):
        with pytest.raises(CohortError, match="cases of both"):
            call(pd.DataFrame({"a": a}), np.ones(30))
        with pytest.raises(CohortError, match="collinear, among a, b"):
            call(pd.DataFrame({"a": a, "b": 3 - 2 * a}), y)
        with pytest.raises(CohortError, match="constant: b"):
            call(pd.DataFrame({"a": a, "b": 0.1}), y)
        with pytest.raises(CohortError, match="lack a covariate or the outcome: 4"):
            call(pd.DataFrame({"a": a}).mask(np.arange(30)[:, None] == 4), y)
