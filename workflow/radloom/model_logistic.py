"""The logistic models of a cohort: penalised arms, validated and fitted to all cases, and covariates' odds ratios."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom.analysis_plan import outcome_columns
from radloom.assembly import CohortTables, assemble, binary, problem_messages, read_tables
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.firth import logistic_inference
from radloom.harmonize import columns_of, refuse_outcome
from radloom.modelling import Endpoint, Modelled, ModelTables, design_of_covariates, finish, run_endpoint, write_model
from radloom.performance import ClassJudge
from radloom.pipeline import PenalisedLogistic

NAME = "logistic"
TABLES = (
    *("coefficients", "performance", "predictions", "inference"),
    *("decision_curve", "calibration_curve", "sample_size"),
)


def model_logistic(
    tables: CohortTables, params: Mapping[str, Mapping[str, Any]], workers: int = 1, ledger: Path | None = None
) -> ModelTables:
    """Validate and fit the logistic models that a configuration describes.

    Raises CohortError where the tables can't carry any model; too few cases of a class give tables that say so.
    """
    named, plan = params["model_logistic"], params["analysis_plan"]
    if not plan["outcome"]:
        raise CohortError("the logistic model needs analysis_plan.outcome")
    if not 0 <= named["l1_ratio"] <= 1:
        raise CohortError("l1_ratio of the logistic model must lie between 0 and 1")
    rows = tables.of_roi(params["model"]["roi"])
    refuse_outcome(tables, rows, columns_of(params), outcome_columns(params))
    given = tables.column(plan["outcome"], rows)
    outcome = pd.Series(binary(given), index=given.index)
    problems = {
        "without an outcome": list(given.index[given.isna()]),
        "with an outcome other than 0 or 1": list(given.index[given.notna() & outcome.isna()]),
    }
    data = assemble(tables, params, problems)
    y = outcome.loc[data.features.index].to_numpy().astype(int)
    families = frozenset(plan["metrics"])

    def judge(chosen: np.ndarray) -> ClassJudge:
        return ClassJudge(y[chosen], families)

    model = PenalisedLogistic(named["l1_ratio"], named["penalty"], named["recalibration"])
    endpoint = Endpoint(NAME, data, y, "cases of the rarer class", judge, model)
    modelled = run_endpoint(endpoint, tables, params, workers, ledger)
    modelled.messages[:0] = [*problem_messages(problems), *data.notes]
    ratios, told = inference_rows(modelled)
    modelled.messages.extend(told)
    return finish(modelled, params, TABLES, {"inference": ratios})


def inference_rows(modelled: Modelled) -> tuple[list[dict[str, Any]], list[str]]:
    """Odds ratios of the covariates in an unpenalised model; Firth's where they separate the classes."""
    classes = modelled.judge.classes
    if not modelled.data.clinical.shape[1] or len(np.unique(classes)) < 2:
        return [], []
    design, n_filled = design_of_covariates(modelled.data)
    told = f"{n_filled} missing cells filled with the median or the commonest word" if n_filled else ""
    try:
        table = logistic_inference(design, classes)
    except CohortError as error:
        return [], [f"no odds ratios of the covariates: {error}"]
    return [
        {
            **row,
            "model": NAME,
            "hazard_or_odds_ratio": row["odds_ratio"],
            "note": "; ".join(filter(None, [row["note"], told])),
        }
        for row in table.to_dict("records")
    ], []


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the tables of the cohort, writes those of the model."""
    result = model_logistic(read_tables(task.inputs), task.params, task.workers, task.ledger)
    write_model(task.out / "models" / NAME, result)
    return CohortResult(facts=result.facts, warnings=result.warnings)
