"""Recalibration against scipy, scikit-learn, statsmodels and R; and the guard against training cases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from r_oracle import run_r
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sksurv.util import Surv

from radloom.errors import CohortError
from radloom.logistic import calibration
from radloom.recalibration import (
    BaselineHazardRecalibration,
    IsotonicRecalibration,
    PlattScaling,
    TemperatureScaling,
)
from radloom.survival_calibration import calibration_at

LOGISTIC = [TemperatureScaling, PlattScaling, IsotonicRecalibration]


def binary(n: int = 200, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Linear predictors twice too extreme and too high, and outcomes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(0.4, 2, n)
    return x, (rng.uniform(size=n) < expit(0.5 * x - 0.6)).astype(int)


def survival(n: int = 200, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear predictors, times in tenths and events."""
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 1, n)
    failure, censoring = rng.exponential(3 * np.exp(-0.6 * (x - 3))), rng.uniform(1, 6, n)
    return x, np.ceil(10 * np.minimum(failure, censoring)) / 10, failure <= censoring


def test_temperature_has_the_least_deviance() -> None:
    x, y = binary()
    fit = TemperatureScaling().fit(x, y)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -(2 * y - 1) * x / np.exp(log_temperature)).sum())

    found = minimize_scalar(loss, bounds=(-3, 4), method="bounded", options={"xatol": 1e-10})
    # The deviance is flat at its minimum: scipy finds the place to the root of the rounding error.
    assert np.log(fit.temperature_) == pytest.approx(found.x, abs=1e-6)
    assert fit.temperature_ > 1.3
    # The score of the likelihood is zero there.
    assert abs((x * (y - fit.predict_proba(x)[:, 1])).sum()) < 1e-8


def test_platt_equals_statsmodels_scikit_learn_and_the_calibration_of_the_model() -> None:
    x, y = binary()
    fit = PlattScaling().fit(x, y)
    by_statsmodels = sm.Logit(y, sm.add_constant(x)).fit(disp=False, tol=1e-14, maxiter=100).params
    np.testing.assert_allclose([fit.intercept_, fit.slope_], by_statsmodels, rtol=1e-9)
    other = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x[:, None], y)
    np.testing.assert_allclose(fit.predict_proba(x), other.predict_proba(x[:, None]), rtol=1e-4)
    table = calibration(x, y, np.ones((1, len(x))))
    np.testing.assert_allclose([fit.intercept_, fit.slope_], [table.intercept[0], table.slope[0]], rtol=1e-9)
    # What was recalibrated is calibrated on the cases it was fitted to.
    again = calibration(fit.intercept_ + fit.slope_ * x, y, np.ones((1, len(x))))
    np.testing.assert_allclose([again.slope[0], again.in_the_large[0]], [1, 0], atol=1e-8)


def test_isotonic_equals_scikit_learn_and_r(tmp_path: Path) -> None:
    x, y = binary()
    x = np.round(x, 1)
    fit = IsotonicRecalibration().fit(x, y)
    new = np.linspace(-8, 8, 301)
    expected = IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(new)
    np.testing.assert_allclose(fit.predict_proba(new)[:, 1], expected, atol=1e-12)
    # R's isoreg has no rule for ties: it is given distinct values.
    distinct = np.unique(binary()[0])[:200]
    outcome = binary()[1]
    code = "out <- list(fit = isoreg(data$x, data$y)$yf)"
    found = run_r(code, tmp_path, data=pd.DataFrame({"x": distinct, "y": outcome}))
    mine = IsotonicRecalibration().fit(distinct, outcome).predict_proba(distinct)[:, 1]
    np.testing.assert_allclose(mine, found["fit"], atol=1e-12)
    assert (np.diff(fit.predict_proba(new)[:, 1]) >= 0).all()


def test_baseline_equals_survfit(tmp_path: Path) -> None:
    """R's curve of a model of an offset alone belongs to the mean offset; basehaz of a slope to 0 when not centred."""
    x, time, event = survival()
    y = Surv.from_arrays(event, time)
    offset, slope = BaselineHazardRecalibration().fit(x, y), BaselineHazardRecalibration(slope=True).fit(x, y)
    code = """
    curve <- survfit(coxph(Surv(time, event) ~ offset(x), data))
    fit <- coxph(Surv(time, event) ~ x, data, control = coxph.control(eps = 1e-13, iter.max = 50))
    pick <- function(t, h) c(0, h)[findInterval(c(0.5, 1, 2.5), t) + 1]
    base <- basehaz(fit, centered = FALSE)
    out <- list(offset = pick(curve$time, curve$cumhaz), slope = coef(fit),
      risk = 1 - exp(-outer(exp(coef(fit) * data$x), pick(base$time, base$hazard))))"""
    expected = run_r(code, tmp_path, data=pd.DataFrame({"time": time, "event": event.astype(int), "x": x}))
    at = [offset.predict_log_hazard([x.mean()], horizon)[0] for horizon in (0.5, 1, 2.5)]
    np.testing.assert_allclose(np.exp(at), expected["offset"], rtol=1e-10)
    assert slope.slope_ == pytest.approx(expected["slope"][0], rel=1e-9)
    np.testing.assert_allclose(slope.predict_risk(x, [0.5, 1, 2.5]).ravel(order="F"), expected["risk"], rtol=1e-8)


def test_recalibrated_risks_are_calibrated_at_every_horizon() -> None:
    """With the slope estimated too, calibration at the end of follow-up is perfect on the same cases."""
    x, time, event = survival(400)
    fit = BaselineHazardRecalibration(slope=True).fit(x, Surv.from_arrays(event, time))
    end = float(time.max())
    found = calibration_at(time, event, fit.predict_log_hazard(x, end), end, np.ones((1, 400)))
    assert found.slope[0] == pytest.approx(1, abs=1e-7)
    found = calibration_at(time, event, fit.predict_log_hazard(x, 2.0), 2.0, np.ones((1, 400)))
    # The hazard is Efron's, the observed risk Kaplan-Meier's: they meet in large samples.
    assert found.observed_expected[0] == pytest.approx(1, abs=0.03)


def test_no_risk_beyond_the_follow_up_and_none_before_the_first_event() -> None:
    time, event = np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False])
    fit = BaselineHazardRecalibration().fit(np.zeros(4), Surv.from_arrays(event, time))
    np.testing.assert_allclose(fit.predict_risk([0.0], [0.5, 4.0]), [[0, 1 - np.exp(-(1 / 4 + 1 / 2))]], rtol=1e-12)
    assert np.isnan(fit.predict_risk([0.0], [4.5])).all()


@pytest.mark.parametrize("kind", LOGISTIC)
def test_contract_and_json_of_logistic_recalibration(kind: Any) -> None:
    x, y = binary()
    with pytest.raises(NotFittedError):
        kind().predict_proba(x)
    fit = kind().fit(x, y)
    assert clone(fit).get_params() == fit.get_params() == {}
    probability = fit.predict_proba(x[:, None])
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(fit.predict(x), (probability[:, 1] >= 0.5).astype(int))
    assert 0.5 < fit.score(x, y) < 1
    again = kind.from_json(json.loads(json.dumps(fit.to_json())))
    np.testing.assert_array_equal(again.predict_proba(x), probability)
    with pytest.raises(CohortError, match=f"no parameters of {kind.__name__}"):
        kind.from_json({"format": "other"})


def test_contract_and_json_of_the_baseline() -> None:
    x, time, event = survival()
    y = Surv.from_arrays(event, time)
    with pytest.raises(NotFittedError):
        BaselineHazardRecalibration().predict(x)
    fit = BaselineHazardRecalibration(slope=True).fit(pd.Series(x), y)
    assert clone(fit).get_params() == {"slope": True}
    again = BaselineHazardRecalibration.from_json(json.loads(json.dumps(fit.to_json(), allow_nan=False)))
    np.testing.assert_array_equal(again.predict_risk(x, [1.0, 2.0]), fit.predict_risk(x, [1.0, 2.0]))
    np.testing.assert_array_equal(again.predict(x), fit.slope_ * x)
    with pytest.raises(CohortError, match="no parameters"):
        BaselineHazardRecalibration.from_json(PlattScaling().fit(*binary()).to_json())


@pytest.mark.parametrize("kind", [*LOGISTIC, BaselineHazardRecalibration])
def test_training_cases_are_refused_by_name(kind: Any) -> None:
    x, time, event = survival(40)
    y = Surv.from_arrays(event, time) if kind is BaselineHazardRecalibration else event.astype(int)
    fold = np.arange(40) % 4
    named = pd.Series(x, index=[f"case{place}" for place in range(40)])
    kind().fit(named, y, fold=fold, predicted_without=fold)
    seen = fold.copy()
    seen[[3, 7]] = 0
    with pytest.raises(CohortError, match="case3, case7 was trained on them; take the predictions"):
        kind().fit(named, y, fold=fold, predicted_without=seen)
    with pytest.raises(CohortError, match="and 25 more"):
        kind().fit(x, y, fold=fold, predicted_without=np.full(40, 1))
    with pytest.raises(ValueError, match="or neither"):
        kind().fit(x, y, fold=fold)
    with pytest.raises(ValueError, match="3 folds"):
        kind().fit(x, y, fold=fold, predicted_without=fold[:3])


def test_what_has_no_estimate_is_refused() -> None:
    x, y = binary()
    for kind in LOGISTIC:
        with pytest.raises(CohortError, match="needs both classes"):
            kind().fit(x, np.ones(len(x)))
        with pytest.raises(ValueError, match="0 or 1"):
            kind().fit(x, y + 1)
        with pytest.raises(ValueError, match="1 of 200 linear predictors"):
            kind().fit(np.r_[np.nan, x[1:]], y)
        with pytest.raises(ValueError, match="one linear predictor a case"):
            kind().fit(np.column_stack([x, x]), y)
    with pytest.raises(CohortError, match="separates"):
        PlattScaling().fit([1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1])
    with pytest.raises(CohortError, match="is 1 for every case"):
        PlattScaling().fit(np.ones(4), [0, 0, 1, 1])
    with pytest.raises(CohortError, match="its own side"):
        TemperatureScaling().fit([-1.0, -2.0, 3.0, 4.0], [0, 0, 1, 1])
    with pytest.raises(CohortError, match="no likelier"):
        TemperatureScaling().fit(-x, y)
    with pytest.raises(CohortError, match="needs events"):
        BaselineHazardRecalibration().fit(x[:3], Surv.from_arrays(np.zeros(3, dtype=bool), np.ones(3)))
