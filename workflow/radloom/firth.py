"""Firth's penalised logistic regression, for outcomes that the covariates separate.

Where a covariate predicts an outcome without exception, maximum likelihood runs to infinity. Firth's estimate maximises
the likelihood times Jeffreys' prior, log L + 1/2 log det I, which has a finite maximum for every design of full rank
(Firth, Biometrika 1993, 10.1093/biomet/80.1.27; Heinze & Schemper, Stat Med 2002, 10.1002/sim.1047). Arrays are cases x
columns; `outcome` is 0 or 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from radloom.errors import CohortError
from radloom.logistic import fit_logistic
from radloom.separation import STRICT, logistic_direction

MOST_STEPS = 100
LONGEST_STEP = 5.0
"""No step moves a linear predictor by more than this."""

NEAR = 0.1
"""Starts whose linear predictors differ by no more than this lead to the same maximum."""

GRADIENT = 1e-11
"""The modified score ends at most this far from 0, for orthonormal columns."""

TABLE = ["term", "coefficient", "se", "odds_ratio", "ci_low", "ci_high", "z", "p", "n", "events", "method", "note"]


@dataclass(frozen=True)
class _Maximum:
    coordinates: np.ndarray
    eta: np.ndarray
    value: float


@dataclass(frozen=True)
class _Point:
    """The penalised log-likelihood at linear predictors, and what its derivatives are made of."""

    eta: np.ndarray
    probability: np.ndarray
    weight: np.ndarray
    hat: np.ndarray
    inverse: np.ndarray
    value: float

    def residual(self, y: np.ndarray) -> np.ndarray:
        """Residuals whose product with the columns is the modified score."""
        return y - self.probability + self.hat * (0.5 - self.probability)


def _point(full: np.ndarray, y: np.ndarray, eta: np.ndarray) -> _Point:
    probability = expit(eta)
    weight = probability * expit(-eta)
    orthonormal, triangle = np.linalg.qr(np.sqrt(weight)[:, None] * full)
    value = -np.logaddexp(0.0, np.where(y == 1, -eta, eta)).sum()
    with np.errstate(divide="ignore"):
        value = float(value + np.log(np.abs(np.diag(triangle))).sum())
    try:
        root = np.linalg.inv(triangle)
    except np.linalg.LinAlgError:  # so far out that all probabilities are 0 or 1
        return _Point(eta, probability, weight, (orthonormal**2).sum(axis=1), np.empty((0, 0)), -np.inf)
    return _Point(eta, probability, weight, (orthonormal**2).sum(axis=1), root @ root.T, value)


def _curvature(free: np.ndarray, full: np.ndarray, point: _Point) -> np.ndarray:
    """Minus the second derivative of the penalised likelihood along the free columns."""
    skew = point.weight * (1 - 2 * point.probability)
    pull = 0.5 - point.probability
    own = point.weight * (1 + point.hat) - pull * point.hat * (1 - 2 * point.probability)
    # The hat values move with every weight: the squares of x_i' I^-1 x_k, without a table of cases x cases.
    n, p = full.shape
    squares = (full[:, :, None] * full[:, None, :]).reshape(n, p * p)
    left = (free * (pull * point.weight)[:, None]).T @ squares
    right = (free * skew[:, None]).T @ squares
    turned = point.inverse @ right.reshape(-1, p, p) @ point.inverse
    return np.asarray(free.T @ (own[:, None] * free) + left @ turned.reshape(-1, p * p).T)


def _maximise(
    free: np.ndarray, full: np.ndarray, y: np.ndarray, offset: np.ndarray, start: np.ndarray | None = None
) -> _Maximum:
    """Maximum of the penalised likelihood over eta = offset + free @ coordinates, by Newton's method.

    The penalty is always that of the whole design, also where one coefficient is held (as in the profile).
    """
    coordinates = np.zeros(free.shape[1]) if start is None else start
    point = _point(full, y, offset + free @ coordinates)
    for _ in range(MOST_STEPS if np.isfinite(point.value) else 0):
        gradient = free.T @ point.residual(y)
        if np.abs(gradient).max(initial=0.0) < GRADIENT:
            return _Maximum(coordinates, point.eta, point.value)
        curvature = _curvature(free, full, point)
        if np.linalg.eigvalsh(curvature)[0] <= 0:
            # Far from the maximum it may curve the wrong way; the information never does.
            curvature = free.T @ (np.maximum(point.weight, 1e-12)[:, None] * free)
        step = np.linalg.solve(curvature, gradient)
        step = step * min(1.0, LONGEST_STEP / max(float(np.abs(free @ step).max()), 1e-300))
        for _ in range(40):
            new = _point(full, y, offset + free @ (coordinates + step))
            # Close to the maximum the value says nothing any more: there the score alone counts.
            if new.value >= point.value - 1e-12 * (1 + abs(point.value)):
                coordinates, point = coordinates + step, new
                break
            step = step / 2
        else:
            break
    if (
        np.isfinite(point.value) and np.abs(free.T @ point.residual(y)).max() < 1e3 * GRADIENT
    ):  # as near as rounding lets it come
        return _Maximum(coordinates, point.eta, point.value)
    raise CohortError("Firth's logistic regression did not converge: check the scale of its covariates")


def _design(design: pd.DataFrame, outcome: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The columns as numbers and the outcome; refuses what no logistic model can use."""
    values = design.to_numpy(dtype=np.float64)
    y = np.asarray(outcome, dtype=np.float64)
    missing = ~(np.isfinite(values).all(axis=1) & np.isfinite(y))
    if missing.any():
        some = ", ".join(str(case) for case in design.index[missing][:5])
        raise CohortError(f"{missing.sum()} case(s) of the logistic model lack a covariate or the outcome: {some}")
    if set(np.unique(y)) != {0.0, 1.0}:
        raise CohortError("the logistic model needs an outcome of 0 and 1 with cases of both")
    spread = values.std(axis=0)
    names = [str(name) for name in design.columns]
    constant = [n for n, s, v in zip(names, spread, np.abs(values).max(axis=0), strict=True) if s <= 1e-12 * v]
    if constant:
        raise CohortError(f"a covariate of the logistic model is constant: {', '.join(constant)}; leave it out")
    scaled = (values - values.mean(axis=0)) / spread
    if np.linalg.matrix_rank(scaled, tol=1e-8 * np.sqrt(len(y))) < scaled.shape[1]:
        raise CohortError(f"covariates of the logistic model are collinear, among {', '.join(names)}; leave some out")
    return values, y


def fit_firth(design: pd.DataFrame, outcome: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Firth's logistic regression with profile penalised-likelihood intervals and tests, as R's `logistf`.

    The test of a coefficient compares the penalised likelihood with that of the model in which it is held at 0, the
    penalty being that of the whole design in both (Heinze & Schemper 2002); the interval holds the values that this
    test doesn't reject. `se` is from the inverse information at the estimate; an interval from it would be wrong
    where there is separation. Returns one row a term, the intercept first: term, coefficient, se, odds_ratio, ci_low,
    ci_high, z (signed root of the test's statistic), p, n, events, method, note. Raises CohortError where a cell is
    missing, a class is empty, or columns are constant or collinear.

    Predicted risks from this fit are drawn towards 1/2 and don't add up to the number of events: it is for odds
    ratios, not for predictions.
    """
    values, y = _design(design, outcome)
    n, p = values.shape
    mean, spread = values.mean(axis=0), values.std(axis=0)
    ones = np.ones((n, 1))
    x = np.column_stack([ones, (values - mean) / spread])
    full, triangle = np.linalg.qr(x)
    best = _maximise(full, full, y, np.zeros(n))
    # From the coordinates of the orthonormal columns to those of the centred and scaled ones, to the design's own.
    back = np.diag(np.concatenate([[1.0], 1.0 / spread]))
    back[0, 1:] = -mean / spread
    back = back @ np.linalg.inv(triangle)
    coefficient = back @ best.coordinates
    weight = expit(best.eta) * expit(-best.eta)
    information = full.T @ (weight[:, None] * full)
    se = np.sqrt(np.einsum("ij,ij->i", back, np.linalg.solve(information, back.T).T))
    width = float(np.sqrt(stats.chi2.ppf(level, 1)))
    low, high, root = np.empty(p + 1), np.empty(p + 1), np.empty(p + 1)
    for term in range(p + 1):
        profile = _Profile(back[term], full, y, best)
        for bound, side in ((low, -1), (high, 1)):
            bound[term] = profile.crossing(coefficient[term], se[term], side, width)
        root[term] = np.sign(coefficient[term]) * profile.root(0.0)
    with np.errstate(over="ignore"):
        ratio, ci_low, ci_high = np.exp(coefficient), np.exp(low), np.exp(high)
    return pd.DataFrame(
        {
            "term": ["(Intercept)", *map(str, design.columns)],
            "coefficient": coefficient,
            "se": se,
            "odds_ratio": ratio,
            "ci_low": ci_low,
            "ci_high": ci_high,
            "z": root,
            "p": stats.chi2.sf(root**2, 1),
            "n": n,
            "events": int(y.sum()),
            "method": "Firth",
            "note": ["a bound of the interval could not be found" if lost else "" for lost in np.isnan(low + high)],
        }
    )[TABLE]


class _Profile:
    """The penalised likelihood maximised with one coefficient held."""

    def __init__(self, combination: np.ndarray, full: np.ndarray, y: np.ndarray, best: _Maximum) -> None:
        """`combination` gives the coefficient from the coordinates of the orthonormal columns `full`."""
        self.full, self.y, self.best = full, y, best
        # Along `held` the coefficient changes by 1 a unit; the directions in which it doesn't change stay free.
        self.held = full @ (combination / (combination @ combination))
        self.free = full @ np.linalg.qr(combination[:, None], mode="complete")[0][:, 1:]
        self.estimate = float(combination @ best.coordinates)
        weight = expit(best.eta) * expit(-best.eta)
        along = np.linalg.solve(full.T @ (weight[:, None] * full), combination)
        self.tangent = full @ (along / (combination @ along))
        self.slope = self.tangent
        self.known: dict[float, float] = {}

    def root(self, value: float) -> float:
        """Root of twice the fall of the profile from its top, at a value of the coefficient.

        Away from the estimate there may be two maxima. So it is sought from two starts, the way that the information
        points and the way that led to the last one, and the higher counts.
        """
        if value not in self.known:
            offset, away = self.held * value, value - self.estimate
            found = []
            slopes = [self.slope]
            if np.abs(away * (self.slope - self.tangent)).max() > NEAR:
                slopes.append(self.tangent)
            for slope in slopes:
                start = self.free.T @ (self.best.eta + away * slope - offset)
                try:
                    found.append(_maximise(self.free, self.full, self.y, offset, start))
                except CohortError as error:
                    failure = error
            if not found:
                raise failure
            highest = max(found, key=lambda maximum: maximum.value)
            if away:
                self.slope = (highest.eta - self.best.eta) / away
            self.known[value] = float(np.sqrt(2 * max(self.best.value - highest.value, 0.0)))
        return self.known[value]

    def crossing(self, estimate: float, se: float, side: int, width: float) -> float:
        """Where the root reaches a width, below (side -1) or above (1) the estimate.

        The root is nearly straight in the coefficient, so the secant needs few fits.
        """
        self.slope = self.tangent
        near, step = 0.0, 1.1 * width * se
        for _ in range(40):
            try:
                if self.root(estimate + side * step) >= width:
                    break
                near, step = step, 2 * step
            except CohortError:  # too far out for numbers of this size
                step = (near + step) / 2
        else:
            return float("nan")
        near, far = estimate + side * near, estimate + side * step
        return float(brentq(lambda value: self.root(value) - width, near, far, xtol=1e-9 * se, rtol=1e-12))


def _with_note(table: pd.DataFrame, note: str) -> pd.DataFrame:
    return table.assign(note=[f"{note}; {own}" if own else note for own in table["note"]])


def logistic_inference(design: pd.DataFrame, outcome: np.ndarray, level: float = 0.95) -> pd.DataFrame:
    """Odds ratios by maximum likelihood where it has a finite maximum, by Firth's method where there is separation.

    Separation is decided by linear programming, not by whether an iteration stopped. Columns as of `fit_firth`;
    `method` is `maximum likelihood` (Wald intervals and tests) or `Firth` (profile penalised-likelihood intervals and
    tests), and `note` names the terms that separate the outcome.
    """
    values, y = _design(design, outcome)
    scaled = np.column_stack([np.ones(len(y)), (values - values.mean(axis=0)) / values.std(axis=0)])
    direction = logistic_direction(scaled, y)
    if direction is not None:
        parts = zip(design.columns, direction[1:], strict=True)
        separating = [str(name) for name, part in parts if abs(part) > STRICT]
        note = f"maximum likelihood has no finite estimate: the two classes are separated by {', '.join(separating)}"
        return _with_note(fit_firth(design, outcome, level), note)
    try:
        table = fit_logistic(design, y, level)
    except CohortError:
        # There is a maximum, but so far out that the iteration gave up before it.
        note = "maximum likelihood did not converge: the covariates come close to separating the two classes"
        return _with_note(fit_firth(design, outcome, level), note)
    return table.assign(n=len(y), events=int(y.sum()), method="maximum likelihood", note="")[TABLE]
