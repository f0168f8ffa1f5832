"""The Cox models of a cohort: penalised arms, validated and fitted to all cases, and the covariates' hazard ratios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sksurv.util import Surv

from radloom.analysis_plan import outcome_columns
from radloom.assembly import CohortTables, ModelData, assemble, binary, problem_messages, read_tables
from radloom.competing_risks import cause_specific_cox, incidence_at
from radloom.cox import fit_cox, proportional_hazards_test
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.harmonize import columns_of, refuse_outcome
from radloom.locked_test import in_test_set
from radloom.modelling import (
    ArmResult,
    Endpoint,
    Modelled,
    ModelTables,
    design_of_covariates,
    finish,
    run_endpoint,
    write_model,
)
from radloom.performance import SurvivalJudge
from radloom.pipeline import PenalisedCox
from radloom.validation import CROSS_VALIDATION

NAME = "cox"
TABLES = (
    *("coefficients", "performance", "predictions", "inference", "ph_test"),
    *("decision_curve", "calibration_curve", "cumulative_incidence", "sample_size"),
)
OUT_OF_FOLD = "risk (out of fold)"
TRANSFORMS = ("km", "rank")


def model_cox(
    tables: CohortTables, params: Mapping[str, Mapping[str, Any]], workers: int = 1, ledger: Path | None = None
) -> ModelTables:
    """Validate and fit the Cox models that a configuration describes.

    Raises CohortError where the tables can't carry any model; too few events give tables that say so.
    """
    named, plan = params["model_cox"], params["analysis_plan"]
    if not plan["time"] or not plan["event"]:
        raise CohortError("the Cox model needs both analysis_plan.time and analysis_plan.event")
    if not 0 < named["l1_ratio"] <= 1:
        raise CohortError("l1_ratio of the Cox model must be above 0 (no ridge without any selection) and at most 1")
    rows = tables.of_roi(params["model"]["roi"])
    refuse_outcome(tables, rows, columns_of(params), outcome_columns(params))
    time, event, competing, problems = read_endpoint(tables, rows, plan)
    data = assemble(tables, params, problems)
    t = time.loc[data.features.index].to_numpy()
    d = event.loc[data.features.index].to_numpy().astype(int)
    messages = [*problem_messages(problems), *data.notes]
    horizons = tuple(sorted(plan["horizons"]))
    chosen = tables.of_cases(params["model"]["roi"], data.features.index)
    early = t[(d == 1) & ~in_test_set(tables, chosen, plan["test_set"])]  # what is locked has no say in it
    if not horizons and len(early):
        horizons = (float(np.median(early)),)
        messages.append(f"no horizon is planned: the median time of the events, {horizons[0]:g}, was taken")
    families = frozenset(plan["metrics"])

    def judge(chosen: np.ndarray) -> SurvivalJudge:
        return SurvivalJudge(t[chosen], d[chosen], horizons or (1.0,), families, competing is not None)

    model = PenalisedCox(named["l1_ratio"], named["penalty"], named["recalibration"])
    endpoint = Endpoint(NAME, data, Surv.from_arrays(d.astype(bool), t), "events", judge, model)
    modelled = run_endpoint(endpoint, tables, params, workers, ledger)
    seen = modelled.data.features.index
    other = None if competing is None else competing.loc[seen].to_numpy().astype(int)
    ratios, more = inference_rows(modelled, tables, params, other)
    hazards, told = proportional_hazards(modelled)
    assert isinstance(modelled.judge, SurvivalJudge)
    incidence = incidence_rows(modelled.judge, other, modelled.data.centres.to_numpy(dtype=object))
    modelled.messages[:0] = messages
    modelled.messages.extend([*more, *told])
    further = {"inference": ratios, "ph_test": hazards, "cumulative_incidence": incidence}
    return finish(modelled, params, TABLES, further)


def read_endpoint(
    tables: CohortTables, rows: pd.DataFrame, plan: Mapping[str, Any]
) -> tuple[pd.Series, pd.Series, pd.Series | None, dict[str, list[str]]]:
    """Time, event and competing event (if there is one) by case, and the cases that they rule out, by problem."""
    time = pd.to_numeric(tables.column(plan["time"], rows), errors="coerce").astype(np.float64)
    given = tables.column(plan["event"], rows)
    event = pd.Series(binary(given), index=time.index)
    unknown = time.isna() | np.isinf(time) | given.isna()
    problems = {
        "without a time or an event": list(time.index[unknown]),
        "with an event other than 0 or 1": list(time.index[~unknown & event.isna()]),
        "with a time that is not above 0": list(time.index[~unknown & event.notna() & (time <= 0)]),
    }
    if not plan["competing_event"]:
        return time, event, None, problems
    told = tables.column(plan["competing_event"], rows)
    competing = pd.Series(binary(told), index=time.index)
    problems["without a competing event that is 0 or 1"] = list(time.index[~unknown & competing.isna()])
    problems["with both the event and a competing one"] = list(time.index[(event == 1) & (competing == 1)])
    return time, event, competing, problems


def labels_of(tables: CohortTables, data: ModelData, roi: str | None, columns: Sequence[str]) -> np.ndarray | None:
    """One label a case, of several columns together; None without columns."""
    if not columns:
        return None
    rows = tables.of_cases(roi, data.features.index)
    parts = [tables.column(name, rows).fillna("not known").astype(str).to_numpy() for name in columns]
    return np.array([" / ".join(row) for row in zip(*parts, strict=True)], dtype=object)


def inference_rows(
    modelled: Modelled, tables: CohortTables, params: Mapping[str, Mapping[str, Any]], competing: np.ndarray | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Hazard ratios of the covariates in an unpenalised model (Efron ties), stratified and clustered as planned.

    With competing events one model a cause: `competing` is 1 where another event ended the follow-up.
    """
    plan, data, judge = params["analysis_plan"], modelled.data, modelled.judge
    assert isinstance(judge, SurvivalJudge)
    if not data.clinical.shape[1] or not judge.event.any():
        return [], []
    design, n_filled = design_of_covariates(data)
    roi = params["model"]["roi"]
    strata = labels_of(tables, data, roi, plan["strata"])
    cluster = labels_of(tables, data, roi, [plan["cluster"]] if plan["cluster"] else [])
    told = f"{n_filled} missing cells filled with the median or the commonest word" if n_filled else ""
    cause = judge.event.astype(int) if competing is None else np.where(judge.event == 1, 1, 2 * competing.astype(int))
    try:
        table = cause_specific_cox(design, judge.time, cause, strata, cluster=cluster)
    except CohortError as error:
        return [], [f"no hazard ratios of the covariates: {error}"]
    names = {1: "Cox", 2: "Cox, competing event"} if competing is not None else {1: "Cox"}
    rows = []
    for row in table.to_dict("records"):
        how = [f"stratified by {', '.join(plan['strata'])}"] if plan["strata"] else []
        how += [f"robust standard errors by {plan['cluster']} ({row['clusters']:g} groups)"] if row["robust"] else []
        rows.append(
            {
                **row,
                "model": NAME,
                "hazard_or_odds_ratio": row["hazard_ratio"],
                "method": ", ".join([f"{names[row['cause']]}, Efron ties", *how]),
                "note": "; ".join(filter(None, [row["note"], told])),
            }
        )
    return rows, []


def incidence_rows(judge: SurvivalJudge, competing: np.ndarray | None, centres: np.ndarray) -> list[dict[str, Any]]:
    """Cumulative incidence of the event and of the competing one at the horizons, in all and by centre."""
    if competing is None:
        return []
    cause = np.where(judge.event == 1, 1, 2 * competing.astype(int))
    names = {1: "event", 2: "competing event"}
    found = [incidence_at(judge.time, cause, judge.horizons)]
    if len(set(centres)) > 1:
        found.append(incidence_at(judge.time, cause, judge.horizons, centres))
    table = pd.concat(found, ignore_index=True)
    return [
        {**row, "cause": names[row["cause"]], "time": row["horizon"], "at_risk": row["n_risk"]}
        for row in table.to_dict("records")
    ]


def proportional_hazards(modelled: Modelled) -> tuple[list[dict[str, Any]], list[str]]:
    """Tests of proportional hazards, on the Kaplan-Meier and the rank scale, of models that have a test.

    A penalised fit has none. So the clinical columns are tested in their own unpenalised Cox model (missing cells
    filled with the median), and each arm's out-of-fold risk as the only term of a model stratified by fold.
    """
    rows: list[dict[str, Any]] = []
    messages: list[str] = []
    judge = modelled.judge
    assert isinstance(judge, SurvivalJudge)
    for result in modelled.results:
        for design, strata in _tested(result, modelled.data):
            try:
                fitted = fit_cox(design, judge.time, judge.event, strata)
            except CohortError as error:
                messages.append(f"no test of proportional hazards for {result.arm.name}: {error}")
                continue
            coefficients = fitted["coefficient"].to_numpy()
            for transform in TRANSFORMS:
                test = proportional_hazards_test(design, judge.time, judge.event, coefficients, strata, transform)
                if strata is not None:
                    test = test[test["term"] != "GLOBAL"]  # the same as the only term's
                shared = {"model": NAME, "arm": result.arm.name, "transform": transform}
                rows += [{**shared, **row} for row in test.to_dict("records")]
    return rows, messages


def _tested(result: ArmResult, data: ModelData) -> list[tuple[pd.DataFrame, np.ndarray | None]]:
    models: list[tuple[pd.DataFrame, np.ndarray | None]] = []
    if result.arm.clinical and not result.arm.features and result.pipeline is not None:
        design, _ = design_of_covariates(data)
        models.append((design, None))
    found = result.predictions.get(CROSS_VALIDATION)
    if found is not None and len(found.known) == len(found.risk) and found.risk.std() > 0:
        # Where the batch is a stratum, risks of different batches have no common scale.
        strata = [f"{fold} {batch}" for fold, batch in zip(found.group, data.batches, strict=True)]
        by = np.array(strata, dtype=object) if result.arm.batch else found.group
        models.append((pd.DataFrame({OUT_OF_FOLD: found.risk}), by))
    return models


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the tables of the cohort, writes those of the model."""
    result = model_cox(read_tables(task.inputs), task.params, task.workers, task.ledger)
    write_model(task.out / "models" / NAME, result)
    return CohortResult(facts=result.facts, warnings=result.warnings)
