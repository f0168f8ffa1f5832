"""The locked test set: who is in it, and the ledger of its openings, which outlives every result."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.analysis_plan import SHOWN_DIGITS, plan_hash
from radloom.assembly import CohortTables, listed
from radloom.errors import CohortError

SECTIONS = ("harmonize", "model", "model_cox", "model_logistic")
"""Beside the plan, what decides the models."""


def settings_hash(params: Mapping[str, Mapping[str, Any]]) -> str:
    """The first digits of the SHA-256 of the settings that decide the models, the plan aside."""
    chosen = {section: params[section] for section in SECTIONS if section in params}
    text = json.dumps(chosen, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:SHOWN_DIGITS]


def in_test_set(tables: CohortTables, rows: pd.DataFrame, test_set: Mapping[str, Any] | None) -> np.ndarray:
    """Which rows of the feature table are of the locked test set.

    Raises CohortError where a case's cell is empty, where no or every case is in it, and where a patient is on both
    sides.
    """
    if test_set is None:
        return np.zeros(len(rows), dtype=bool)
    column, value = test_set["column"], str(test_set["value"])
    cells = tables.column(column, rows)
    if cells.isna().any():
        raise CohortError(
            f"analysis_plan.test_set: {column} is empty for {listed(cells.index[cells.isna()])}: it must say of every "
            "case whether it is of the test set"
        )
    inside = (cells.astype(str).str.strip() == value).to_numpy()
    if not inside.any() or inside.all():
        raise CohortError(
            f"analysis_plan.test_set: {'every' if inside.all() else 'no'} case has {column} {value!r}. There are: "
            f"{listed(sorted(set(cells.astype(str))))}"
        )
    refuse_shared_patients(tables, rows, test_set)
    return inside


def refuse_shared_patients(tables: CohortTables, rows: pd.DataFrame, test_set: Mapping[str, Any] | None) -> None:
    """Raise CohortError where a patient has rows of the feature table on both sides of the lock.

    For models, which use one case a patient, give all rows: which side a patient is on must not hang on their order.
    """
    if test_set is None:
        return
    cells = tables.column(test_set["column"], rows)
    known = cells.notna().to_numpy()
    inside = known & (cells.astype(str).str.strip() == str(test_set["value"])).to_numpy()
    patients = rows["patient_id"].to_numpy(dtype=object)
    both = sorted(set(patients[inside]) & set(patients[known & ~inside]))
    if both:
        raise CohortError(f"analysis_plan.test_set: patients are on both sides of the lock: {listed(both)}")


def read_ledger(ledger: Path | None) -> list[dict[str, Any]]:
    """The openings that were written down, oldest first."""
    if ledger is None or not ledger.exists():
        return []
    return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_opening(ledger: Path | None, params: Mapping[str, Mapping[str, Any]], n: int, events: int) -> None:
    """Write down that the test set is opened with this plan and these settings, unless that was written down before."""
    opening = {"analysis_plan": plan_hash(params), "settings": settings_hash(params), "n": n, "events": events}
    if ledger is None or any(opening.items() <= known.items() for known in read_ledger(ledger)):
        return
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with ledger.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"opened": now, **opening}) + "\n")


def ledger_warnings(openings: list[dict[str, Any]], params: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader must know of the openings, compared with the plan and settings of this run."""
    if not openings:
        return []
    first, found = openings[0], []
    if first["analysis_plan"] != plan_hash(params):
        found.append(
            f"the analysis plan ({plan_hash(params)}) was changed after the locked test set had been opened on "
            f"{first['opened']} with plan {first['analysis_plan']}: no result of this run is confirmed by the test set"
        )
    elif first["settings"] != settings_hash(params):
        found.append(
            f"settings of the models were changed after the locked test set had been opened on {first['opened']}: no "
            "result of this run is confirmed by the test set"
        )
    # The Cox and the logistic model of one run open it once each, with other numbers of events.
    different = len({(opening["analysis_plan"], opening["settings"]) for opening in openings})
    if different > 1:
        found.append(
            f"the locked test set was opened with {different} different plans or settings, first on "
            f"{first['opened']}: only the first opening is a test"
        )
    return found
