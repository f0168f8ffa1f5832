"""Performance of predicted probabilities of a binary outcome, for many bootstrap samples at once.

`outcome` is 0 or 1, `weights` are rows x cases: how often each bootstrap sample (row) holds each case. Functions of
weights give one value a row, the one that physically repeating the cases would give; NaN where a row can't tell.
"""

from __future__ import annotations

import numpy as np

from radloom.ranking import rows_of_weights, share, weighted_auc
from radloom.survival_metrics import Brier


def auc_rows(
    score: np.ndarray, outcome: np.ndarray, weights: np.ndarray, groups: np.ndarray | None = None
) -> np.ndarray:
    """AUC for each row of weights; only pairs within `groups` (folds) count, equal scores 1/2."""
    y = np.asarray(outcome) == 1
    table = rows_of_weights(weights, len(y))
    return weighted_auc(score, table * y, table * ~y, groups)


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
