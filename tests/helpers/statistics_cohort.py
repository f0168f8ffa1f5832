"""A simulated cohort for the statistical steps: tables as the workflow hands them over, and a configuration."""

import copy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sksurv.util import Surv

from radloom.assembly import CohortTables, ModelData, assemble
from radloom.config import complete
from radloom.performance import ClassJudge, Judge, SurvivalJudge
from radloom.phantoms import simulate_outcome, simulate_survival
from radloom.pipeline import PenalisedCox, PenalisedLogistic
from radloom.validation import Problem, arms_of, pose, settings_of


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


SECTIONS = ("harmonize", "model", "analysis_plan", "model_cox", "model_logistic")


@cache
def _defaults() -> dict[str, dict[str, Any]]:
    whole = complete({"results": "results"})
    params = {section: whole[section] for section in SECTIONS}
    params["model"] |= {"bootstraps": 60, "refits": 5}
    params["analysis_plan"] |= {
        "time": "days",
        "event": "died",
        "outcome": "response",
        "horizons": [20.0],
        "thresholds": [0.1, 0.3, 0.5],
        "subgroups": [],
    }
    return params


def configuration(**changes: Any) -> dict[str, dict[str, Any]]:
    """The defaults of the schema, with an endpoint and few repetitions; `section__key=value` changes one of them."""
    params = copy.deepcopy(_defaults())
    for name, value in changes.items():
        section, key = name.split("__")
        params[section][key] = value
    return params


@dataclass(frozen=True)
class Cohort:
    """A cohort on its way into a model: what the functions between its tables and its results take."""

    tables: CohortTables
    params: dict[str, dict[str, Any]]
    data: ModelData
    y: np.ndarray
    judge: Judge
    problem: Problem

    @property
    def centres(self) -> np.ndarray:
        """The centre of each case."""
        return self.data.centres.to_numpy(dtype=object)


def cohort(kind: str = "logistic", tables: CohortTables | None = None, **changes: Any) -> Cohort:
    """A simulated cohort as a problem of a `cox` or a `logistic` model."""
    params = configuration(**changes)
    tables = cohort_tables() if tables is None else tables
    data = assemble(tables, params, {})
    plan, families = params["analysis_plan"], frozenset(params["analysis_plan"]["metrics"])
    named = params[f"model_{kind}"]
    options = (named["l1_ratio"], named["penalty"], named["recalibration"])
    patients = tables.patients.loc[data.patients]
    judge: Judge
    model: PenalisedCox | PenalisedLogistic
    if kind == "cox":
        time, event = patients["days"].to_numpy(dtype=np.float64), patients["died"].to_numpy(dtype=np.int64)
        y, model = Surv.from_arrays(event.astype(bool), time), PenalisedCox(*options)
        judge = SurvivalJudge(time, event, tuple(plan["horizons"]), families)
    else:
        y, model = patients["response"].to_numpy(dtype=np.int64), PenalisedLogistic(*options)
        judge = ClassJudge(y, families)
    problem = pose(data, y, model, arms_of(plan["arms"], data), settings_of(params), judge.times)
    return Cohort(tables, params, data, y, judge, problem)


def write_tables(tables: CohortTables, folder: Path) -> dict[str, Path]:
    """The tables as the step before writes them."""
    tables.features.to_parquet(folder / "features_raw.parquet", index=False)
    tables.cases.to_csv(folder / "cohort.csv")
    tables.patients.to_csv(folder / "clinical.csv")
    names = ("features_raw.parquet", "cohort.csv", "clinical.csv")
    return {f"tables/{name}": folder / name for name in names}
