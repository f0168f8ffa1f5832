"""A simulated cohort for the statistical steps: tables as the workflow hands them over, and a configuration."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.assembly import CohortTables
from radloom.phantoms import simulate_outcome, simulate_survival


def cohort_tables(
    n: int = 120,
    features: int = 12,
    effect: float = 0.9,
    centres: int = 3,
    seed: int = 0,
    rois: tuple[str, ...] = ("tumour",),
) -> CohortTables:
    """Cases of several centres, whose first feature carries the hazard and the outcome; all others are noise."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % centres
    signal = rng.normal(size=n)
    time, event = simulate_survival(effect * signal, rng, baseline_hazard=0.03, follow_up=60.0, shortest_follow_up=20.0)
    outcome = simulate_outcome(effect * signal, rng)
    parts = []
    for roi in rois:
        values = rng.normal(size=(n, features))
        values[:, 0] = signal
        values = values * rng.uniform(0.7, 1.5, (centres, features))[codes]
        values += rng.normal(0, 1.5, (centres, features))[codes]
        part = pd.DataFrame(values, columns=[f"f{number}" for number in range(features)])
        part.insert(0, "roi", roi)
        part.insert(0, "centre", [f"C{code}" for code in codes])
        part.insert(0, "patient_id", [f"P{number:03d}" for number in range(n)])
        part.insert(0, "case_id", [f"K{number:03d}" for number in range(n)])
        parts.append(part)
    table = pd.concat(parts).sort_values("case_id", kind="stable", ignore_index=True)
    patients = pd.DataFrame(
        {
            "age": np.round(rng.normal(60, 9, n), 1).astype(str),
            "sex": np.where(rng.uniform(size=n) < 0.5, "F", "M"),
            "days": time.astype(str),
            "died": event.astype(str),
            "response": outcome.astype(str),
        },
        index=pd.Index([f"P{number:03d}" for number in range(n)], name="patient_id"),
        dtype=object,
    )
    cases = pd.DataFrame(
        {"kernel": np.where(rng.uniform(size=n) < 0.5, "sharp", "soft")},
        index=pd.Index([f"K{number:03d}" for number in range(n)], name="case_id"),
    )
    return CohortTables(table, cases, patients)


def configuration(**changes: Any) -> dict[str, dict[str, Any]]:
    """A configuration with its defaults; `section__key=value` changes one of them."""
    params: dict[str, dict[str, Any]] = {
        "harmonize": {
            "batch": "centre",
            "covariates": [],
            "parametric": True,
            "mean_only": False,
            "reference_batch": None,
            "min_batch_size": 5,
            "small_batch": "error",
            "new_batch": "error",
        },
        "model": {
            "roi": None,
            "features": ["*"],
            "transformation": "none",
            "max_correlation": 0.9,
            "max_terms": None,
            "folds": 5,
            "seed": 1,
            "bootstraps": 60,
            "refits": 5,
            "min_events": 20,
            "override_sample_size": False,
        },
        "analysis_plan": {
            "time": "days",
            "event": "died",
            "competing_event": None,
            "outcome": "response",
            "horizons": [20.0],
            "covariates": [],
            "strata": [],
            "cluster": None,
            "arms": ["clinical", "features", "features_combat", "features_centre", "features_combat+clinical"],
            "metrics": ["c_index", "uno_c", "auc", "brier", "calibration", "net_benefit"],
            "thresholds": [0.1, 0.3, 0.5],
            "subgroups": [],
            "test_set": None,
            "open_test_set": False,
        },
        "model_cox": {"l1_ratio": 0.9, "penalty": "min", "recalibration": "none"},
        "model_logistic": {"l1_ratio": 0.9, "penalty": "min", "recalibration": "none"},
    }
    for name, value in changes.items():
        section, key = name.split("__")
        params[section][key] = value
    return params


def write_tables(tables: CohortTables, folder: Path) -> dict[str, Path]:
    """The tables as the step before writes them."""
    tables.features.to_parquet(folder / "features_raw.parquet", index=False)
    tables.cases.to_csv(folder / "cohort.csv")
    tables.patients.to_csv(folder / "clinical.csv")
    names = ("features_raw.parquet", "cohort.csv", "clinical.csv")
    return {f"tables/{name}": folder / name for name in names}
