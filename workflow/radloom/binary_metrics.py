"""Performance of predicted probabilities of a binary outcome, for many bootstrap samples at once.

`outcome` is 0 or 1, `weights` are rows x cases: how often each bootstrap sample (row) holds each case. Functions of
weights give one value a row, the one that physically repeating the cases would give; NaN where a row can't tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from radloom.ranking import rows_of_weights, share, weighted_auc
from radloom.survival_metrics import Brier


@dataclass(frozen=True)
class DeLong:
    """AUCs of one or more scores of the same cases, and their covariance matrix, scores x scores."""

    auc: np.ndarray
    covariance: np.ndarray

    @property
    def se(self) -> np.ndarray:
        """Standard error of each AUC."""
        return np.sqrt(np.diag(self.covariance))


def auc_rows(
    score: np.ndarray, outcome: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """AUC for each row of weights; only pairs within `groups` (folds) count, equal scores 1/2."""
    y = np.asarray(outcome) == 1
    table = rows_of_weights(weights, len(y))
    return weighted_auc(score, table * y, table * ~y, groups)


def delong(scores: np.ndarray, outcome: np.ndarray) -> DeLong:
    """AUC and its covariance, from the placements of cases among controls and of controls among cases.

    `scores` are cases, or cases x scores to compare several. (DeLong et al., Biometrics 1988, 10.2307/2531595, with
    midranks as Sun & Xu, IEEE Signal Process Lett 2014, 10.1109/LSP.2014.2337313.) The covariance is NaN with fewer
    than two cases or controls, the AUC without any. An AUC of 1 has a standard error of 0, which says nothing: take a
    bootstrap or an exact interval there.
    """
    table = np.asarray(scores, dtype=np.float64)
    table = table[:, None] if table.ndim == 1 else table
    if np.isnan(table).any():
        raise ValueError(f"{int(np.isnan(table).any(axis=1).sum())} of {len(table)} cases have a missing score")
    y = np.asarray(outcome) == 1
    m, n = int(y.sum()), int((~y).sum())
    n_scores = table.shape[1]
    if m == 0 or n == 0:
        return DeLong(np.full(n_scores, np.nan), np.full((n_scores, n_scores), np.nan))
    among_all = rankdata(table, axis=0)
    of_cases = (among_all[y] - rankdata(table[y], axis=0)) / n
    of_controls = 1.0 - (among_all[~y] - rankdata(table[~y], axis=0)) / m
    if m < 2 or n < 2:
        covariance = np.full((n_scores, n_scores), np.nan)
    else:
        covariance = np.atleast_2d(np.cov(of_cases.T)) / m + np.atleast_2d(np.cov(of_controls.T)) / n
    return DeLong(of_cases.mean(axis=0), covariance)


def brier_rows(risk: np.ndarray, outcome: np.ndarray, weights: np.ndarray) -> Brier:
    """Brier score of predicted probabilities, that of the prevalence for everybody, and the scaled score, for each row.

    (Steyerberg et al., Epidemiology 2010, 10.1097/EDE.0b013e3181c30fb2.) `scaled` is NaN where a row holds one class.
    Raises ValueError for risks outside 0 to 1.
    """
    values, y = np.asarray(risk, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("predicted risks must lie between 0 and 1")
    table = rows_of_weights(weights, len(y))
    size = table.sum(axis=1)
    score, prevalence = share(table @ (values - y) ** 2, size), share(table @ y, size)
    reference = prevalence * (1 - prevalence)
    return Brier(score, reference, 1.0 - share(score, reference))
