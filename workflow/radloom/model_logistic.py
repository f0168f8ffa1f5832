"""The penalised logistic model of a cohort: validated arm by arm, then fitted to all cases, with the tables of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from radloom.assembly import CohortTables, ModelData, assemble, binary, problem_messages, read_tables
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.harmonize import columns_of, outcome_columns, refuse_outcome
from radloom.logistic import calibration, class_pairs
from radloom.model_tables import MODEL_TABLES
from radloom.penalised import PenalisedFit, fit_penalised_logistic
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
    limiting_count,
    performance_row,
    prediction_rows,
    refused_rows,
    refused_tables,
    settings_of,
    write_model,
)

NAME = "logistic"
PREDICTION_COLUMNS = [column for column in MODEL_TABLES["predictions"] if column not in ("time", "event")]


def model_logistic(tables: CohortTables, params: Mapping[str, Mapping[str, Any]]) -> ModelTables:
    """Validate and fit the penalised logistic model that a configuration describes.

    Raises CohortError where the tables can't carry any model; too few cases of a class give tables that say so.
    """
    named = params["model_logistic"]
    if not named["outcome"]:
        raise CohortError("the logistic model needs model_logistic.outcome")
    if not 0 <= named["l1_ratio"] <= 1:
        raise CohortError("l1_ratio of the logistic model must lie between 0 and 1")
    rows = tables.of_roi(params["model"]["roi"])
    refuse_outcome(tables, rows, columns_of(params), outcome_columns(params))
    given = tables.column(named["outcome"], rows)
    outcome = pd.Series(binary(given), index=given.index)
    problems = {
        "without an outcome": list(given.index[given.isna()]),
        "with an outcome other than 0 or 1": list(given.index[given.notna() & outcome.isna()]),
    }
    data = assemble(tables, params, problems)
    y = outcome.loc[data.features.index].to_numpy().astype(int)
    settings = settings_of(params)
    messages = [*problem_messages(problems), *data.notes]
    refusal, mark = check_events(len(y), limiting_count(y, True), "cases of the rarer class", settings)
    if refusal:
        return refused_tables(NAME, data, y, "auc", refusal, PREDICTION_COLUMNS, messages)

    def fit(design: np.ndarray, positions: np.ndarray, folds: np.ndarray) -> PenalisedFit:
        return fit_penalised_logistic(design, y[positions], named["l1_ratio"], folds)

    results, refused = cross_validate(data, y, settings, fit, needs_both=True)
    predictions = [
        {**row, "probability": float(expit(row["risk"])), "outcome": y[position]}
        for result in results
        for position, row in prediction_rows(NAME, result, data, tables)
    ]
    performance = _performance(results, data, y, settings, mark)
    without = pd.DataFrame(refused_rows(NAME, refused, "auc", len(y), int(y.sum())), columns=PERFORMANCE_COLUMNS)
    return ModelTables(
        coefficients=coefficient_rows(NAME, results, bool(mark)),
        performance=pd.concat([performance, without], ignore_index=True) if refused else performance,
        predictions=pd.DataFrame(predictions, columns=PREDICTION_COLUMNS),
        ph_test=None,
        description=describe_model(NAME, results, refused, data, y, settings, named["l1_ratio"], mark),
        facts={
            "status": "fitted",
            "n": len(y),
            "events": int(y.sum()),
            "override": bool(mark),
            "arms": [result.arm.name for result in results],
        },
        warnings=[*messages, *([mark] if mark else []), *arm_messages(refused), *filled_cells(results)],
    )


def _performance(
    results: list[ArmResult], data: ModelData, outcome: np.ndarray, settings: Settings, mark: str
) -> pd.DataFrame:
    """AUC (pairs within folds), Brier score and calibration of each arm.

    Brier score and calibration in the large take the out-of-fold probabilities of all folds as they are: a probability
    means the same in every fold. The slope compares risks within folds (see `calibration`).
    """
    weights = bootstrap_weights(data.batches, settings.bootstraps, settings.seed)
    centres = data.centres.to_numpy(dtype=object)
    names = sorted(set(centres))
    everyone = np.arange(len(outcome))
    places = [("all", everyone)]
    if len(names) > 1:
        places += [(str(name), np.flatnonzero(centres == name)) for name in names]

    def pairs(rows: np.ndarray) -> np.ndarray:
        return class_pairs(outcome[rows])

    table: list[dict[str, Any]] = []
    for result in results:
        arm = result.arm.name
        note = "; ".join(filter(None, [mark, *result.notes]))
        table += concordance_rows(NAME, "auc", result, data, outcome, pairs, weights, True, note)
        squares = (expit(result.risk) - outcome) ** 2
        for centre, rows in places:
            n, events = len(rows), int(outcome[rows].sum())
            drawn = weights[:, rows]
            # A stratified bootstrap keeps each batch's size, but a centre may have several batches or a part of one.
            total = drawn.sum(axis=1)
            samples = np.divide(drawn @ squares[rows], total, out=np.full(len(drawn), np.nan), where=total > 0)
            estimate = float(squares[rows].mean())
            table.append(performance_row(NAME, arm, "brier", estimate, samples, n, events, centre=centre, note=note))
        found = calibration(result.risk, outcome, np.vstack([np.ones(len(outcome)), weights]), result.fold)
        constant = all(np.ptp(result.risk[result.fold == fold]) == 0 for fold in np.unique(result.fold))
        equal = "the predicted risks are equal within every fold" if constant else ""
        for metric, values, how, refusal in (
            ("calibration_in_the_large", found.in_the_large, "", ""),
            ("calibration_intercept", found.intercept, "at the slope within folds", equal),
            ("calibration_slope", found.slope, "within folds: an intercept for each fold", equal),
        ):
            n, events = len(outcome), int(outcome.sum())
            told = "; ".join(filter(None, [how, note]))
            table.append(
                performance_row(NAME, arm, metric, float(values[0]), values[1:], n, events, note=told, refusal=refusal)
            )
    return pd.DataFrame(table)


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the tables of the cohort, writes those of the model."""
    result = model_logistic(read_tables(task.inputs), task.params)
    write_model(task.out / "models" / NAME, result)
    return CohortResult(facts=result.facts, warnings=result.warnings)
