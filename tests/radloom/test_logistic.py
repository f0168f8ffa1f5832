"""Logistic regression against R's glm and val.prob."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from concordance import class_pairs
from sklearn.metrics import roc_auc_score

from radloom.cox import concordance_of_pairs
from radloom.errors import CohortError
from radloom.logistic import (
    calibration,
    fit_logistic,
)


@pytest.fixture(scope="module")
def simulated(shared_data: Path) -> tuple[pd.DataFrame, np.ndarray]:
    folder = shared_data / "golden" / "cox"
    x = pd.read_csv(folder / "X.csv.gz", header=None, float_precision="round_trip")
    return x, pd.read_csv(folder / "yb.csv")["x"].to_numpy()


@pytest.fixture
def design() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(150, 60)) + 0.5 * rng.normal(size=(150, 1))
    y = (rng.uniform(size=150) < 1 / (1 + np.exp(1 - x[:, 0] + x[:, 1]))).astype(int)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def test_equals_glm(simulated: tuple[pd.DataFrame, np.ndarray], shared_data: Path) -> None:
    x, y = simulated
    expected = pd.read_csv(shared_data / "golden" / "cox" / "glm.csv", float_precision="round_trip")
    table = fit_logistic(x.iloc[:, :10], y)
    np.testing.assert_allclose(table["coefficient"], expected["Estimate"], atol=1e-9)
    np.testing.assert_allclose(table["se"], expected["Std. Error"], atol=1e-9)
    np.testing.assert_allclose(table["p"], expected["Pr(>|z|)"], atol=1e-9)
    assert table["term"].iloc[0] == "(Intercept)"


def test_performance_equals_val_prob(simulated: tuple[pd.DataFrame, np.ndarray], shared_data: Path) -> None:
    x, y = simulated
    saved = pd.read_csv(shared_data / "golden" / "cox" / "valprob.csv", index_col=0)["x"]
    eta = 0.7 * (0.5 * x.iloc[:, :5].sum(axis=1) - 0.5 * x.iloc[:, 5:10].sum(axis=1)).to_numpy()
    found = calibration(eta, y, np.ones((1, len(y))))
    assert found.intercept[0] == pytest.approx(saved["Intercept"], abs=1e-6)
    assert found.slope[0] == pytest.approx(saved["Slope"], abs=1e-5)
    assert np.mean((1 / (1 + np.exp(-eta)) - y) ** 2) == pytest.approx(saved["Brier"], abs=1e-12)
    pairs = class_pairs(y)
    auc = (pairs * concordance_of_pairs(eta)).sum() / pairs.sum()
    assert auc == pytest.approx(saved["C (ROC)"], abs=1e-12)
    assert auc == pytest.approx(roc_auc_score(y, eta), abs=1e-12)


def test_separation_is_refused() -> None:
    x = np.linspace(-1, 1, 40)
    with pytest.raises(CohortError, match="separate the two classes"):
        fit_logistic(pd.DataFrame({"x": x}), (x > 0).astype(int))
    with pytest.raises(CohortError, match="collinear"):
        fit_logistic(pd.DataFrame({"x": x, "y": -x}), np.arange(40) % 2)


def test_calibration_of_weights_equals_repeated_cases(design: tuple[np.ndarray, np.ndarray]) -> None:
    x, y = design
    counts = np.random.default_rng(0).integers(0, 4, len(y))
    weighted = calibration(x[:, 0], y, counts[None, :].astype(float))
    table = fit_logistic(pd.DataFrame({"x": np.repeat(x[:, 0], counts)}), np.repeat(y, counts))
    assert weighted.intercept[0] == pytest.approx(table["coefficient"][0], abs=1e-8)
    assert weighted.slope[0] == pytest.approx(table["coefficient"][1], abs=1e-8)


def test_calibration_slope_within_groups_equals_a_model_with_their_intercepts(
    design: tuple[np.ndarray, np.ndarray],
) -> None:
    x, y = design
    counts = np.random.default_rng(1).integers(0, 4, len(y))
    groups = np.arange(len(y)) % 3
    y = np.where(groups == 2, 1, y)  # a group of one class says nothing
    found = calibration(x[:, 0] + 5 * groups, y, counts[None, :].astype(float), groups)
    rows = np.repeat(np.arange(len(y)), counts)
    rows = rows[groups[rows] < 2]
    table = fit_logistic(pd.DataFrame({"x": x[rows, 0] + 5 * groups[rows], "group": groups[rows]}), y[rows])
    assert found.slope[0] == pytest.approx(table["coefficient"][1], abs=1e-8)


def test_calibration_slope_is_not_drawn_by_the_folds_prevalences() -> None:
    rng = np.random.default_rng(0)
    risk = rng.normal(size=4000)
    y = (rng.uniform(size=4000) < 1 / (1 + np.exp(-risk))).astype(int)
    # Two folds by outcome, unequally: a fold rich in events was predicted by a model of few, with a lower intercept.
    fold = (rng.uniform(size=4000) < np.where(y == 1, 0.7, 0.3)).astype(int)
    predicted = risk - 1.5 * fold
    one = np.ones((1, 4000))
    assert calibration(predicted, y, one).slope[0] < 0.8
    assert calibration(predicted, y, one, fold).slope[0] == pytest.approx(1, abs=0.1)


def test_calibration_without_an_estimate_is_nan(design: tuple[np.ndarray, np.ndarray]) -> None:
    _, y = design
    one = np.ones((1, len(y)))
    flat = calibration(np.zeros(len(y)), y, one)
    assert np.isnan(flat.slope[0])
    assert flat.in_the_large[0] == pytest.approx(np.log(y.mean() / (1 - y.mean())))
    constant = calibration(np.arange(len(y)) % 3 * 1.0, y, one, np.arange(len(y)) % 3)
    assert np.isnan([constant.slope[0], constant.intercept[0]]).all()
    assert np.isfinite(constant.in_the_large[0])
    single = calibration(np.arange(len(y)) / 100, np.ones(len(y)), one)
    assert np.isnan([single.intercept[0], single.slope[0], single.in_the_large[0]]).all()
    separated = calibration(np.where(y == 1, 1.0, -1.0), y, one)
    assert np.isnan(separated.slope[0])
