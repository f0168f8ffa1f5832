"""The penalised Cox model of a cohort: validated arm by arm, then fitted to all cases, with the tables of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from radloom.assembly import CohortTables, ModelData, assemble, binary, problem_messages, read_tables
from radloom.cox import (
    comparable_pairs,
    fit_cox,
    kaplan_meier_of_censoring,
    proportional_hazards_test,
    uno_weights,
)
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.harmonize import columns_of, outcome_columns, refuse_outcome
from radloom.model_tables import MODEL_TABLES
from radloom.penalised import PenalisedFit, fit_penalised_cox
from radloom.validation import (
    PERFORMANCE_COLUMNS,
    ArmResult,
    ModelTables,
    Settings,
    arm_messages,
    bootstrap_weights,
    check_events,
    coefficient_rows,
    concordance_rows,
    cross_validate,
    describe_model,
    filled_cells,
    prediction_rows,
    refused_rows,
    refused_tables,
    settings_of,
    write_model,
)

NAME = "cox"
PREDICTION_COLUMNS = [column for column in MODEL_TABLES["predictions"] if column not in ("probability", "outcome")]
PH_COLUMNS = MODEL_TABLES["ph_test"]
OUT_OF_FOLD = "risk (out of fold)"

LEAST_CENSORING_SURVIVAL = 0.1
"""Uno's C ends where fewer than this fraction would still be uncensored: its weights grow with 1 / this squared."""


def model_cox(tables: CohortTables, params: Mapping[str, Mapping[str, Any]]) -> ModelTables:
    """Validate and fit the penalised Cox model that a configuration describes.

    Raises CohortError where the tables can't carry any model; too few events give tables that say so.
    """
    named = params["model_cox"]
    if not named["time"] or not named["event"]:
        raise CohortError("the Cox model needs both model_cox.time and model_cox.event")
    if not 0 < named["l1_ratio"] <= 1:
        raise CohortError("l1_ratio of the Cox model must be above 0 (no ridge without any selection) and at most 1")
    rows = tables.of_roi(params["model"]["roi"])
    refuse_outcome(tables, rows, columns_of(params), outcome_columns(params))
    time = pd.to_numeric(tables.column(named["time"], rows), errors="coerce").astype(np.float64)
    event = pd.Series(binary(tables.column(named["event"], rows)), index=time.index)
    unknown = time.isna() | np.isinf(time) | tables.column(named["event"], rows).isna()
    problems = {
        "without a time or an event": list(time.index[unknown]),
        "with an event other than 0 or 1": list(time.index[~unknown & event.isna()]),
        "with a time that is not above 0": list(time.index[~unknown & event.notna() & (time <= 0)]),
    }
    data = assemble(tables, params, problems)
    t = time.loc[data.features.index].to_numpy()
    d = event.loc[data.features.index].to_numpy().astype(int)
    settings = settings_of(params)
    messages = [*problem_messages(problems), *data.notes]
    refusal, mark = check_events(len(t), int(d.sum()), "events", settings)
    if refusal:
        return refused_tables(NAME, data, d, "c_index", refusal, PREDICTION_COLUMNS, messages)

    def fit(design: np.ndarray, positions: np.ndarray, folds: np.ndarray) -> PenalisedFit:
        return fit_penalised_cox(design, t[positions], d[positions], named["l1_ratio"], folds)

    results, refused = cross_validate(data, d, settings, fit, needs_both=False)
    performance = _performance(results, data, t, d, settings, mark)
    without = pd.DataFrame(refused_rows(NAME, refused, "c_index", len(t), int(d.sum())), columns=PERFORMANCE_COLUMNS)
    hazards, more = _proportional_hazards(results, t, d)
    predictions = [
        {**row, "time": t[position], "event": d[position]}
        for result in results
        for position, row in prediction_rows(NAME, result, data, tables)
    ]
    return ModelTables(
        coefficients=coefficient_rows(NAME, results, bool(mark)),
        performance=pd.concat([performance, without], ignore_index=True) if refused else performance,
        predictions=pd.DataFrame(predictions, columns=PREDICTION_COLUMNS),
        ph_test=hazards,
        description=describe_model(NAME, results, refused, data, d, settings, named["l1_ratio"], mark),
        facts={
            "status": "fitted",
            "n": len(t),
            "events": int(d.sum()),
            "override": bool(mark),
            "arms": [result.arm.name for result in results],
        },
        warnings=[*messages, *([mark] if mark else []), *arm_messages(refused), *filled_cells(results), *more],
    )


def _performance(
    results: list[ArmResult], data: ModelData, time: np.ndarray, event: np.ndarray, settings: Settings, mark: str
) -> pd.DataFrame:
    """Harrell's and Uno's C of each arm; pairs are compared within folds."""
    weights = bootstrap_weights(data.batches, settings.bootstraps, settings.seed)
    times, uncensored = kaplan_meier_of_censoring(time, event)
    late = times[uncensored < LEAST_CENSORING_SURVIVAL]
    tau = float(late[0]) if len(late) else None
    opened = uno_weights(time, event, tau)
    reach = "all times" if tau is None else f"event times below {tau:g}"

    def harrell(rows: np.ndarray) -> np.ndarray:
        return comparable_pairs(time[rows], event[rows])

    def uno(rows: np.ndarray) -> np.ndarray:
        return harrell(rows) * opened[rows, None]

    table: list[dict[str, Any]] = []
    for result in results:
        note = "; ".join(filter(None, [mark, *result.notes]))
        table += concordance_rows(NAME, "c_index", result, data, event, harrell, weights, False, note)
        with_tau = "; ".join(filter(None, [note, reach]))
        table += concordance_rows(NAME, "uno_c", result, data, event, uno, weights, False, with_tau)[:1]
    return pd.DataFrame(table)


def _proportional_hazards(
    results: list[ArmResult], time: np.ndarray, event: np.ndarray
) -> tuple[pd.DataFrame, list[str]]:
    """Tests of proportional hazards, on the Kaplan-Meier scale, of models that have a test.

    A penalised fit has none. So the clinical columns are tested in their own unpenalised Cox model (missing cells
    filled with the median), and each arm's out-of-fold risk as the only term of a model stratified by fold.
    """
    tests: list[pd.DataFrame] = []
    messages: list[str] = []
    for result in results:
        models: list[tuple[pd.DataFrame, np.ndarray | None]] = []
        if result.arm.clinical and not result.arm.features:
            design = pd.DataFrame(result.prepared.design, columns=result.prepared.terms)
            models.append((design, None))
        risk = pd.DataFrame({OUT_OF_FOLD: result.risk})
        if result.risk.std() > 0:
            models.append((risk, result.fold))
        for design, strata in models:
            try:
                fitted = fit_cox(design, time, event, strata)
            except CohortError as error:
                messages.append(f"no test of proportional hazards for {result.arm.name}: {error}")
                continue
            test = proportional_hazards_test(
                design, time, event, fitted["coefficient"].to_numpy(), strata, transform="km"
            )
            if strata is not None:
                test = test[test["term"] != "GLOBAL"]  # the same as the only term's
            tests.append(test.assign(model=NAME, arm=result.arm.name)[PH_COLUMNS])
    table = pd.concat(tests, ignore_index=True) if tests else pd.DataFrame(columns=PH_COLUMNS)
    return table, messages


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the tables of the cohort, writes those of the model."""
    result = model_cox(read_tables(task.inputs), task.params)
    write_model(task.out / "models" / NAME, result)
    return CohortResult(facts=result.facts, warnings=result.warnings)
