"""Who trains and who is held out: folds and bootstrap samples. Names and a seed decide, never the order of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

LEAST_EVENTS = 4
"""Fewer can't be split so that every training part of the nested folds has two."""


def stratified_folds(patients: Sequence[str], strata: Sequence[tuple[Any, ...]], n_folds: int, seed: int) -> np.ndarray:
    """The fold, 1 to n_folds, of each case: all cases of a patient in one fold, strata spread evenly.

    Strata are tuples, the most important part first (the outcome); a patient's stratum is the largest of its
    cases'. The result depends on the patients' names and strata and on the seed, not on the order of rows.
    """
    of_patient: dict[str, tuple[str, ...]] = {}
    for patient, stratum in zip(patients, strata, strict=True):
        key = tuple(str(part) for part in stratum)
        of_patient[patient] = max(of_patient.get(patient, key), key)
    members: dict[tuple[str, ...], list[str]] = {}
    for patient in sorted(of_patient):
        members.setdefault(of_patient[patient], []).append(patient)
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    dealt = 0
    # Dealt round and round without a break, most important part of the stratum first: each value of that part
    # comes to each fold equally often, up to one.
    for stratum in sorted(members, reverse=True):
        names = members[stratum]
        for position in rng.permutation(len(names)):
            fold_of[names[position]] = 1 + dealt % n_folds
            dealt += 1
    return np.array([fold_of[patient] for patient in patients])


def n_folds_for(n_events: int, wanted: int) -> int:
    """Outer folds that leave at least two events to each."""
    return max(2, min(wanted, n_events // 2))


def limiting_count(classes: np.ndarray, needs_both: bool) -> int:
    """What limits a model: the events (Cox), or the cases of the rarer class (logistic)."""
    events = int(np.sum(classes))
    return min(events, len(classes) - events) if needs_both else events


def bootstrap_weights(strata: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each case is drawn, samples x cases: as many as there are, with replacement, within each stratum."""
    rng = np.random.default_rng([seed, 2])
    weights = np.zeros((n, len(strata)))
    for stratum in sorted(set(strata)):
        rows = np.flatnonzero(strata == stratum)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=n)
    return weights
