"""Whether a likelihood has no maximum because covariates separate the outcomes, decided by linear programming.

A coefficient that grows without bound makes a likelihood rise without end just where some combination of the columns
orders the outcomes without a single contradiction. That is a question of linear inequalities, so the answer doesn't
depend on where an iteration happened to stop (Konis, Linear programming algorithms for detecting separated data in
binary logistic regression models, University of Oxford 2007).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from radloom.risk_sets import RiskSets

FEASIBLE = 1e-9
"""Tolerance of the linear program, for columns of unit standard deviation."""

STRICT = 1e-6
"""A direction separates where it violates no inequality by more than this and gains more than this in one."""


def _solve(gain: np.ndarray, constraints: sparse.csr_matrix, n_columns: int) -> np.ndarray | None:
    """Direction within the unit box that gains most subject to constraints <= 0; the columns' variables come first."""
    free = constraints.shape[1] - n_columns
    bounds = [(-1.0, 1.0)] * n_columns + [(None, None)] * free
    found = linprog(
        -np.concatenate([gain, np.zeros(free)]),
        A_ub=constraints,
        b_ub=np.zeros(constraints.shape[0]),
        bounds=bounds,
        method="highs",
        options={"primal_feasibility_tolerance": FEASIBLE, "dual_feasibility_tolerance": FEASIBLE},
    )
    return np.asarray(found.x[:n_columns]) if found.status == 0 else None


def logistic_direction(values: np.ndarray, outcome: np.ndarray) -> np.ndarray | None:
    """Direction of the coefficients in which a logistic likelihood rises for ever, or None where it has a maximum.

    `values` are cases x columns: that of the intercept first, the others of unit standard deviation. Where single
    columns separate the classes the direction holds just those; else it is not 0 for the columns that do together.
    """
    y = np.asarray(outcome) == 1
    alone = np.zeros(values.shape[1])
    for column in range(1, values.shape[1]):
        x = values[:, column]
        for sign in (1.0, -1.0):
            if (sign * x[y]).min() > (sign * x[~y]).max() - STRICT:
                alone[column] = sign
    if alone.any():
        return alone
    signed = np.where(y, 1.0, -1.0)[:, None] * values
    direction = _solve(signed.sum(axis=0), sparse.csr_matrix(-signed), values.shape[1])
    if direction is None:
        return None
    margin = signed @ direction
    return direction if margin.min() > -STRICT and margin.max() > STRICT else None


def _monotone(eta: np.ndarray, sets: list[RiskSets]) -> bool:
    """Whether at every event the linear predictor is the largest of the risk set, and somewhere strictly."""
    violation, room = 0.0, 0.0
    for group in sets:
        if len(group.dead):
            ordered = eta[group.rows]
            own = ordered[group.dead]
            violation = max(violation, float((np.maximum.accumulate(ordered)[group.last] - own).max()))
            room = max(room, float((own - np.minimum.accumulate(ordered)[group.last]).max()))
    return violation < STRICT < room


def cox_direction(values: np.ndarray, sets: list[RiskSets]) -> np.ndarray | None:
    """Direction of the coefficients in which a partial likelihood rises for ever, or None where it has a maximum.

    `values` are cases x columns of unit standard deviation. The likelihood is monotone where some linear predictor is
    the largest of its risk set at every event (Heinze & Schemper, Biometrics 2001,
    10.1111/j.0006-341X.2001.00114.x). A running maximum over the cases, latest first, says that in as many
    inequalities as there are cases. Where single columns do so the direction holds just those; else it is not 0 for
    the columns that do together.
    """
    n_columns = values.shape[1]
    up, down = (np.array([_monotone(sign * x, sets) for x in values.T], dtype=np.float64) for sign in (1, -1))
    if (up - down).any():
        return np.asarray(up - down)
    gain = np.zeros(n_columns)
    blocks, start = [], n_columns
    n_cases = sum(len(group.rows) for group in sets)
    for group in sets:
        n = len(group.rows)
        x = values[group.rows]
        gain += (x[group.dead] - (np.cumsum(x, axis=0)[group.last] / (group.last + 1.0)[:, None])).sum(axis=0)
        largest = sparse.hstack(
            [
                sparse.csr_matrix((n, start - n_columns)),
                sparse.eye(n),
                sparse.csr_matrix((n, n_cases - n - start + n_columns)),
            ],
            format="csr",
        )
        blocks += [
            sparse.hstack([sparse.csr_matrix(x), -largest]),
            sparse.hstack([sparse.csr_matrix((n - 1, n_columns)), largest[:-1] - largest[1:]]),
            sparse.hstack([sparse.csr_matrix(-x[group.dead]), largest[group.last]]),
        ]
        start += n
    direction = _solve(gain, sparse.vstack(blocks, format="csr"), n_columns)
    if direction is None:
        return None
    return direction if _monotone(values @ direction, sets) else None
