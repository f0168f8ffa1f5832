"""Recalibration of a fitted model's predictions: what a model says is kept, the scale on which it says it is corrected.

All estimators follow scikit-learn's contract. They are fitted on predictions for cases that the model was not trained
on (out-of-fold predictions, or another cohort): a model's predictions for its own training cases look better calibrated
than they are, and less extreme than they should be made. Where `fit` is told the fold of each case and the fold that
the model behind its prediction was trained without, it refuses the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.utils.validation import check_is_fitted
from sksurv.util import check_y_survival

from radloom import cox
from radloom.calibration_curve import logistic_newton
from radloom.errors import CohortError

NAMED = 5
"""A message names this many cases, and counts the rest."""


def _column(X: Any) -> np.ndarray:
    """The linear predictors as a vector; they come as one, or as a table of one column."""
    values = np.asarray(X, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"recalibration takes one linear predictor a case, not a table of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of {len(values)} linear predictors are not finite")
    return values


def refuse_training_cases(X: Any, fold: Sequence[Any] | None, predicted_without: Sequence[Any] | None) -> None:
    """Raise CohortError where a case's prediction comes from a model that was trained on it.

    `fold` is the fold of each case, `predicted_without` the fold that its model was trained without. Both or neither
    are given; without them the caller answers for it that the model saw none of the cases.
    """
    if fold is None and predicted_without is None:
        return
    if fold is None or predicted_without is None:
        raise ValueError("give both the fold of each case and the fold that its model was trained without, or neither")
    own, without = np.asarray(fold), np.asarray(predicted_without)
    if len(own) != len(X) or len(without) != len(X):
        raise ValueError(f"{len(own)} and {len(without)} folds were given for {len(X)} cases")
    seen = np.flatnonzero(own != without)
    if len(seen):
        names = X.index if isinstance(X, pd.Series | pd.DataFrame) else np.arange(len(X))
        listed = ", ".join(str(names[place]) for place in seen[:NAMED])
        more = f" and {len(seen) - NAMED} more" if len(seen) > NAMED else ""
        raise CohortError(
            f"recalibration on training cases: the model behind the prediction of {listed}{more} was trained on them;"
            " take the predictions of the cross-validation"
        )


class _LogisticRecalibration(ClassifierMixin, BaseEstimator):
    """What recalibrations of a logistic model share."""

    FORMAT: ClassVar[str] = ""

    def fit(
        self,
        X: Any,
        y: Any,
        fold: Sequence[Any] | None = None,
        predicted_without: Sequence[Any] | None = None,
    ) -> Self:
        """Fit to linear predictors X (cases, or cases x 1) and outcomes y of 0 and 1.

        `fold` and `predicted_without` guard against training cases (`refuse_training_cases`). Raises CohortError where
        there is no finite estimate.
        """
        refuse_training_cases(X, fold, predicted_without)
        x, outcome = _column(X), np.asarray(y)
        if len(x) != len(outcome):
            raise ValueError(f"{len(x)} linear predictors, but {len(outcome)} outcomes")
        if not np.isin(outcome, (0, 1)).all():
            raise ValueError("outcomes must be 0 or 1")
        if len(np.unique(outcome)) < 2:
            raise CohortError(f"recalibration needs both classes: all {len(outcome)} cases have outcome {outcome[0]}")
        self.classes_ = np.array([0, 1])
        self.n_features_in_ = 1
        self._fit(x, outcome.astype(np.float64))
        return self

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        raise NotImplementedError

    def _probability(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of outcome 0 and 1, cases x 2."""
        check_is_fitted(self, "classes_")
        probability = self._probability(_column(X))
        return np.column_stack([1.0 - probability, probability])

    def predict(self, X: Any) -> np.ndarray:
        """The more probable class of each case."""
        return np.asarray(self.classes_[(self.predict_proba(X)[:, 1] >= 0.5).astype(int)])

    def _parameters(self) -> dict[str, Any]:
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Everything that `predict_proba` needs, as JSON-able values that give the same numbers bit for bit."""
        check_is_fitted(self, "classes_")
        return {"format": self.FORMAT, **self._parameters()}

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described."""
        if saved.get("format") != cls.FORMAT:
            raise CohortError(f"these are no parameters of {cls.__name__}")
        made = cls()
        made.classes_ = np.array([0, 1])
        made.n_features_in_ = 1
        made._restore(saved)
        return made

    def _restore(self, saved: dict[str, Any]) -> None:
        raise NotImplementedError


class _LinearRecalibration(_LogisticRecalibration):
    """An intercept and a slope on the linear predictor."""

    intercept_: float
    slope_: float

    def _probability(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(expit(self.intercept_ + self.slope_ * x))

    def _parameters(self) -> dict[str, Any]:
        return {"intercept": self.intercept_, "slope": self.slope_}

    def _restore(self, saved: dict[str, Any]) -> None:
        self.intercept_, self.slope_ = float(saved["intercept"]), float(saved["slope"])


class TemperatureScaling(_LinearRecalibration):
    """Divides the linear predictor by the temperature of greatest likelihood (Guo et al., ICML 2017, arXiv:1706.04599).

    Attributes: `temperature_`, `slope_` (its inverse), `intercept_` (0). Ranks, and whether a risk is above 1/2, stay.
    """

    FORMAT = "radloom temperature scaling 1"

    @property
    def temperature_(self) -> float:
        """Above 1 where the model was too certain."""
        return 1.0 / self.slope_

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        if ((x * (2 * y - 1)) >= 0).all():
            raise CohortError("no finite temperature: every case lies on its own side of 1/2")
        slope = float(logistic_newton(x[:, None], y, np.ones((1, len(x))))[0, 0])
        if not slope > 0:
            raise CohortError(
                "no temperature makes these predictions better: the outcome is no likelier where the risk is higher"
            )
        self.intercept_, self.slope_ = 0.0, slope


class PlattScaling(_LinearRecalibration):
    """Logistic regression of the outcome on the linear predictor, by maximum likelihood.

    Cox's recalibration (Biometrika 1958, 10.1093/biomet/45.3-4.562); Platt (1999) moved the outcomes a little from 0
    and 1, which this doesn't. Attributes: `intercept_`, `slope_`. A slope of 0 or less turns the ranks round: that is
    said, not hidden.
    """

    FORMAT = "radloom Platt scaling 1"

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        if np.ptp(x) == 0:
            raise CohortError(f"recalibration has no slope: the linear predictor is {x[0]:.3g} for every case")
        zero, one = x[y == 0], x[y == 1]
        if zero.max() <= one.min() or one.max() <= zero.min():
            raise CohortError("recalibration has no finite estimate: the linear predictor separates the two classes")
        centre, scale = float(x.mean()), float(x.std())
        design = np.column_stack([np.ones(len(x)), (x - centre) / scale])
        found = logistic_newton(design, y, np.ones((1, len(x))))[0]
        if not np.isfinite(found).all():
            raise CohortError("recalibration has no finite estimate")
        self.slope_ = float(found[1] / scale)
        self.intercept_ = float(found[0] - self.slope_ * centre)


class IsotonicRecalibration(_LogisticRecalibration):
    """The non-decreasing step function of the linear predictor that is closest to the outcomes (scikit-learn's).

    Between its steps it is interpolated, beyond the cases seen it stays constant. It follows the cases closely: with
    few of them (scikit-learn advises 1000) it overfits, and it gives probabilities of 0 and 1, whose log odds are
    infinite. (Zadrozny & Elkan, KDD 2002, 10.1145/775047.775151.) Attributes: `x_`, `probability_`.
    """

    FORMAT = "radloom isotonic recalibration 1"

    def _fit(self, x: np.ndarray, y: np.ndarray) -> None:
        fit = IsotonicRegression(y_min=0.0, y_max=1.0, increasing=True, out_of_bounds="clip").fit(x, y)
        self.x_, self.probability_ = np.asarray(fit.X_thresholds_), np.asarray(fit.y_thresholds_)

    def _probability(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.interp(x, self.x_, self.probability_))

    def _parameters(self) -> dict[str, Any]:
        return {"x": self.x_.tolist(), "probability": self.probability_.tolist()}

    def _restore(self, saved: dict[str, Any]) -> None:
        self.x_, self.probability_ = np.array(saved["x"]), np.array(saved["probability"])


RECALIBRATIONS: dict[str, type[_LogisticRecalibration]] = {
    "temperature": TemperatureScaling,
    "platt": PlattScaling,
    "isotonic": IsotonicRecalibration,
}
"""Recalibrations of a logistic model by their name in the configuration."""


class BaselineHazardRecalibration(BaseEstimator):
    """A baseline hazard for the linear predictor of a Cox model, estimated anew with the linear predictor as offset.

    Parameters
    ----------
    slope
        Estimate a coefficient of the linear predictor too; else it is 1.

    Attributes
    ----------
    slope_, centre_
        The coefficient, and the linear predictor (mean of the cases) to which the hazard belongs.
    times_, cumulative_hazard_
        Times of events, and the cumulative baseline hazard from there on (Efron's estimate, as R's `survfit`).
    follow_up_
        The end of follow-up; infinite where the last one seen had an event.
    """

    FORMAT: ClassVar[str] = "radloom baseline hazard 1"

    def __init__(self, slope: bool = False) -> None:
        self.slope = slope

    def fit(
        self,
        X: Any,
        y: np.ndarray,
        fold: Sequence[Any] | None = None,
        predicted_without: Sequence[Any] | None = None,
    ) -> Self:
        """Fit to linear predictors X (cases, or cases x 1) and survival times y (`sksurv.util.Surv`).

        `fold` and `predicted_without` guard against training cases (`refuse_training_cases`). Raises CohortError
        without events, or where the slope has no finite estimate.
        """
        refuse_training_cases(X, fold, predicted_without)
        x = _column(X)
        event, time = check_y_survival(y, allow_all_censored=True)
        if len(x) != len(time):
            raise ValueError(f"{len(x)} linear predictors, but {len(time)} survival times")
        if not event.any():
            raise CohortError(f"a baseline hazard needs events: none among {len(x)} cases")
        self.n_features_in_ = 1
        self.slope_ = 1.0
        if self.slope:
            table = cox.fit_cox(pd.DataFrame({"linear predictor": x}), time, event.astype(int))
            self.slope_ = float(table["coefficient"].iloc[0])
        self.centre_ = float(x.mean())
        self.times_, self.cumulative_hazard_ = baseline_hazard(time, event, self.slope_ * (x - self.centre_))
        last = time.max()
        self.follow_up_ = float(last) if (~event[time == last]).any() else float("inf")
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Linear predictors times the slope: higher is a higher hazard."""
        check_is_fitted(self, "times_")
        return self.slope_ * _column(X)

    def predict_log_hazard(self, X: Any, horizon: float) -> np.ndarray:
        """Logarithm of the cumulative hazard of each case at a horizon; NaN beyond the follow-up, -inf before any
        event."""
        check_is_fitted(self, "times_")
        x = _column(X)
        if horizon > self.follow_up_:
            return np.full(len(x), np.nan)
        reached = np.r_[0.0, self.cumulative_hazard_][np.searchsorted(self.times_, horizon, side="right")]
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(reached) + self.slope_ * (x - self.centre_))

    def predict_risk(self, X: Any, horizons: Sequence[float]) -> np.ndarray:
        """Predicted probability of an event by each horizon, cases x horizons; NaN beyond the follow-up."""
        return np.column_stack([-np.expm1(-np.exp(self.predict_log_hazard(X, horizon))) for horizon in horizons])

    def to_json(self) -> dict[str, Any]:
        """Everything that `predict_risk` needs, as JSON-able values that give the same numbers bit for bit."""
        check_is_fitted(self, "times_")
        return {
            "format": self.FORMAT,
            "settings": {"slope": self.slope},
            "slope": self.slope_,
            "centre": self.centre_,
            "times": self.times_.tolist(),
            "cumulative_hazard": self.cumulative_hazard_.tolist(),
            "follow_up": self.follow_up_ if np.isfinite(self.follow_up_) else None,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described."""
        if saved.get("format") != cls.FORMAT:
            raise CohortError(f"these are no parameters of {cls.__name__}")
        made = cls(**saved["settings"])
        made.n_features_in_ = 1
        made.slope_, made.centre_ = float(saved["slope"]), float(saved["centre"])
        made.times_, made.cumulative_hazard_ = np.array(saved["times"]), np.array(saved["cumulative_hazard"])
        made.follow_up_ = float("inf") if saved["follow_up"] is None else float(saved["follow_up"])
        return made


def baseline_hazard(time: np.ndarray, event: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Times of events and the cumulative hazard at offset 0 from there on, with Efron's rule for ties."""
    found = cox.baseline_hazard(offset, time, event)
    table = found.table
    cumulative = table["cumulative_hazard"].to_numpy(dtype=np.float64) * np.exp(-found.centre)
    return table["time"].to_numpy(dtype=np.float64), cumulative
