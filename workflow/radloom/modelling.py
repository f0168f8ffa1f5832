"""What the two model steps share: from the cohort's tables to validated arms and the tables that report them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from radloom.analysis_plan import outcome_columns, plan_hash
from radloom.assembly import CohortTables, ModelData
from radloom.confounding import gate
from radloom.curves import calibration_rows, decision_rows
from radloom.folds import LEAST_EVENTS, bootstrap_weights, limiting_count
from radloom.locked_test import in_test_set, ledger_warnings, read_ledger, refuse_shared_patients, write_opening
from radloom.model_tables import MODEL_TABLES, PLAN
from radloom.performance import (
    Judge,
    Predictions,
    Setting,
    SurvivalJudge,
    keys_of,
    optimism_rows,
    performance_row,
    prediction_rows,
)
from radloom.pipeline import ArmPipeline, ClinicalBlock, PenalisedCox, PenalisedLogistic
from radloom.sample_size import WHOLE_NUMBERS as COUNTS_OF_SAMPLE_SIZE
from radloom.sample_size import Cohort as SampleSizeCohort
from radloom.sample_size import sample_size
from radloom.subgroups import subgroups
from radloom.validation import (
    CROSS_VALIDATION,
    LEAVE_ONE_CENTRE_OUT,
    LOCKED_TEST,
    Arm,
    Fitted,
    Problem,
    Settings,
    Split,
    arms_of,
    bootstrap_splits,
    centre_splits,
    fit_all_cases,
    fit_splits,
    fold_splits,
    pose,
    settings_of,
)

OPTIMISM, APPARENT = "optimism-corrected", "apparent"
INTERCEPT = "(Intercept)"
CURVES_AND_PERFORMANCE = ("performance", "decision_curve", "calibration_curve")


@dataclass(frozen=True)
class ModelTables:
    """What a model step writes: tables by name (those of MODEL_TABLES that it has), the model, facts, and warnings."""

    tables: dict[str, pd.DataFrame]
    description: dict[str, Any]
    facts: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class ArmResult:
    """An arm: its predictions by each way of validation, its model of all cases, and those of bootstrap samples."""

    arm: Arm
    predictions: dict[str, Predictions]
    folds: list[Fitted]
    whole: Fitted
    pipeline: ArmPipeline | None
    refits: list[Fitted] = field(default_factory=list)


def check_events(n: int, n_events: int, what: str, settings: Settings) -> tuple[str, str]:
    """Why the model is refused for its sample size, and how it is marked where it is fitted all the same.

    At most one of the two is not empty.
    """
    if n_events >= settings.min_events and n_events >= LEAST_EVENTS:
        return "", ""
    short = f"{n_events} {what} among {n} cases, {max(settings.min_events, LEAST_EVENTS)} needed"
    if settings.override and n_events >= LEAST_EVENTS:
        return "", f"fitted in spite of the sample size: {short} (model.override_sample_size)"
    if settings.override:
        return f"{short}; fewer than {LEAST_EVENTS} can't be cross-validated at all", ""
    return f"{short} (model.min_events)", ""


# ------------------------------------------------------------------------ validation


def validate(problem: Problem, centres: np.ndarray, workers: int = 1) -> tuple[list[ArmResult], np.ndarray]:
    """Every arm by cross-validation, by leaving centres out, by bootstrap samples, and fitted to all cases.

    Returns the arms, and how often each bootstrap sample holds each case (samples x cases).
    """
    folds, places, samples = fold_splits(problem), centre_splits(centres), bootstrap_splits(problem, centres)
    whole = fit_all_cases(problem)
    # An arm that the cohort as a whole can't carry is not validated either.
    arms = tuple(arm for arm in problem.arms if not whole[arm.name][0].error)
    fits = fit_splits(replace(problem, arms=arms), [*folds, *places, *samples], workers) if arms else []
    n, n_folds, n_outside = len(problem.y), len(folds), len(folds) + len(places)
    results = []
    for arm in problem.arms:
        own = [fitted[arm.name] for fitted in fits] if arm in arms else []
        predictions = {}
        if own:
            predictions[CROSS_VALIDATION] = gathered(CROSS_VALIDATION, folds, own[:n_folds], n)
        if own and places:
            outside = own[n_folds:n_outside]
            predictions[LEAVE_ONE_CENTRE_OUT] = gathered(LEAVE_ONE_CENTRE_OUT, places, outside, n)
        results.append(ArmResult(arm, predictions, own[:n_folds], *whole[arm.name], refits=own[n_outside:]))
    counts = np.array([np.bincount(split.train, minlength=n) for split in samples], dtype=np.float64).reshape(-1, n)
    return results, counts


def gathered(kind: str, splits: Sequence[Split], fits: Sequence[Fitted], n: int) -> Predictions:
    """The predictions of splits whose held-out cases don't overlap, one for each case."""
    width = fits[0].link.shape[1]
    risk, link, group = np.full(n, np.nan), np.full((n, width), np.nan), np.zeros(n, dtype=int)
    told: dict[str, list[str]] = {}
    for number, (split, fitted) in enumerate(zip(splits, fits, strict=True), start=1):
        risk[split.held], link[split.held], group[split.held] = fitted.risk, fitted.link, number
        for note in [*fitted.notes, *([fitted.error] if fitted.error else [])]:
            told.setdefault(note, []).append(split.label)
        if not fitted.coefficients and not fitted.error:
            told.setdefault("nothing selected (equal risks count 1/2)", []).append(split.label)
    what = "fold" if kind == CROSS_VALIDATION else "without"
    notes = [f"{what} {', '.join(labels)}: {note}" for note, labels in told.items()]
    return Predictions(kind, risk, link, group, tuple(notes))


def open_test_set(problem: Problem, train: np.ndarray, workers: int = 1) -> dict[str, Fitted]:
    """Every arm fitted to the training cases (a mask), and what it predicts for all others."""
    split = Split(LOCKED_TEST, "", np.flatnonzero(train), np.flatnonzero(~train))
    return fit_splits(problem, [split], workers)[0]


# ----------------------------------------------------------------------------- tables


def performance_tables(
    results: Sequence[ArmResult], counts: np.ndarray, setting: Setting, thresholds: Sequence[float], workers: int = 1
) -> dict[str, list[dict[str, Any]]]:
    """Rows of performance, decision curves and calibration curves of all arms; `counts` are those of `validate`."""
    judged = partial(judge_arm, counts=counts, setting=setting, thresholds=thresholds)
    # What is fitted stays here: the workers need the predictions alone.
    light = [replace(result, pipeline=None, folds=[]) for result in results]
    if workers <= 1 or len(light) < 2:
        found = [judged(result) for result in light]
    else:
        with ProcessPoolExecutor(min(workers, len(light))) as pool:
            found = list(pool.map(judged, light))
    return {name: [row for rows in found for row in rows[name]] for name in CURVES_AND_PERFORMANCE}


def judge_arm(
    result: ArmResult, counts: np.ndarray, setting: Setting, thresholds: Sequence[float]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of performance, decision curves and calibration curves of one arm."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in CURVES_AND_PERFORMANCE}
    arm, judge, n = result.arm, setting.judge, len(setting.centres)
    if result.whole.error:
        rows["performance"] = refused_rows(judge, [arm.name], result.whole.error)
        return rows
    comparable = not (arm.batch and judge.name == "cox")
    with threadpool_limits(limits=1):  # the same sums on every machine, whatever its number of cores
        for found in result.predictions.values():
            rows["performance"] += prediction_rows(arm.name, found, setting, comparable)
            rows["decision_curve"] += decision_rows(arm.name, found, setting, thresholds)
            rows["calibration_curve"] += calibration_rows(arm.name, found, setting)
        apparent = Predictions(APPARENT, result.whole.risk, result.whole.link, np.zeros(n, dtype=int))
        refits = [
            (drawn, fitted.risk, fitted.link)
            for drawn, fitted in zip(counts, result.refits, strict=True)
            if not fitted.error and np.isfinite(fitted.risk).all()
        ]
        rows["performance"] += optimism_rows(arm.name, apparent, refits, setting, OPTIMISM, comparable)
    return rows


def refused_rows(judge: Judge, arms: Sequence[str], reason: str) -> list[dict[str, Any]]:
    """The row of each arm that was not fitted."""
    key = (keys_of(judge) or [("brier", None)])[0]
    counts = (len(judge.classes), int(judge.classes.sum()))
    return [
        performance_row(judge.name, arm, CROSS_VALIDATION, key, np.empty(0), *counts, refusal=reason) for arm in arms
    ]


def coefficient_rows(model: str, results: Sequence[ArmResult], data: ModelData, override: bool) -> list[dict[str, Any]]:
    """Coefficients per SD of the models of all cases: terms that are in one, or were in that of a fold.

    Coefficients are penalised: they are shrunk, and have no interval. The logistic intercept is the first row.
    """
    rows = []
    for result in results:
        pipeline, whole = result.pipeline, result.whole
        if pipeline is None:
            continue
        shared = {"model": model, "arm": result.arm.name, "override": str(override).lower()}
        n_refits = sum(not fitted.error for fitted in result.refits)
        places = {term: column for column, term in enumerate(pipeline.terms_)}
        in_folds = {term for fitted in result.folds for term in fitted.coefficients}
        if model == "logistic":
            rows.append(
                {
                    **shared, "term": INTERCEPT, "coefficient": whole.intercept, "selected_in_folds": len(result.folds),
                    "selection_frequency": 1.0 if n_refits else np.nan,
                }
            )  # fmt: skip
        for term in [*(t for t in places if t in whole.coefficients or t in in_folds), *sorted(in_folds - set(places))]:
            coefficient = whole.coefficients.get(term, 0.0)
            chosen = sum(term in fitted.coefficients for fitted in result.refits)
            rows.append(
                {
                    **shared,
                    "term": term,
                    "coefficient": coefficient,
                    "hazard_or_odds_ratio": np.exp(coefficient),
                    # A term that was pruned before the model of all cases has no scale there.
                    "mean": pipeline.mean_[places[term]] if term in places else np.nan,
                    "sd": pipeline.sd_[places[term]] if term in places else np.nan,
                    "selected_in_folds": sum(term in fitted.coefficients for fitted in result.folds),
                    "selection_frequency": chosen / n_refits if n_refits else np.nan,
                    "volume_correlation": volume_correlation(data, term),
                }
            )
    return rows


def volume_correlation(data: ModelData, term: str) -> float:
    """Spearman's rho of a feature as extracted with the ROI's volume; NaN for other terms and without a volume."""
    if data.volume is None or term not in data.features.columns:
        return float("nan")
    values, volume = data.features[term].to_numpy(dtype=np.float64), data.volume
    known = np.isfinite(values) & np.isfinite(volume)
    if known.sum() < 3 or np.ptp(values[known]) == 0 or np.ptp(volume[known]) == 0:
        return float("nan")
    return float(np.corrcoef(rankdata(values[known]), rankdata(volume[known]))[0, 1])


def case_rows(
    judge: Judge, arm: str, found: Predictions, data: ModelData, tables: CohortTables, labels: Sequence[str]
) -> list[dict[str, Any]]:
    """The predictions of an arm, in the cohort sheet's order; `labels` name the groups (folds, centres) from 1.

    `probability` is the predicted probability of the outcome, or of an event by the first horizon.
    """
    place = {case: order for order, case in enumerate(tables.features["case_id"])}
    probability = judge.probability(found.link[:, 0])
    if isinstance(judge, SurvivalJudge):
        own = [{"time": t, "event": int(d)} for t, d in zip(judge.time, judge.event, strict=True)]
        horizon = judge.horizons[0]
        if judge.competing:
            probability = np.full(len(probability), np.nan)
    else:
        own, horizon = [{"outcome": int(y)} for y in judge.outcome], np.nan
    rows = [
        {
            "model": judge.name,
            "arm": arm,
            "split": found.split,
            "case_id": case,
            "patient_id": data.patients.iloc[position],
            "centre": data.centres.iloc[position],
            "fold": labels[found.group[position] - 1] if labels else "",
            "risk": found.risk[position],
            "horizon": horizon,
            "probability": probability[position],
            **own[position],
        }
        for position, case in enumerate(data.features.index)
    ]
    return sorted(rows, key=lambda row: place[row["case_id"]])


# ---------------------------------------------------------------------------- a model


@dataclass(frozen=True)
class Endpoint:
    """What a model is of: its name, the outcome of each case, what is counted, and how it is judged and fitted."""

    name: str
    data: ModelData
    y: np.ndarray
    counted: str
    judge: Callable[[np.ndarray], Judge]
    model: PenalisedCox | PenalisedLogistic


@dataclass(frozen=True)
class Modelled:
    """What came of an endpoint: the cases that models may see, their arms, rows of the tables, and messages.

    `refusal` says why no arm was fitted, `mark` that they were fitted in spite of the sample size.
    """

    data: ModelData
    y: np.ndarray
    judge: Judge
    settings: Settings
    results: list[ArmResult]
    rows: dict[str, list[dict[str, Any]]]
    messages: list[str]
    refusal: str = ""
    mark: str = ""


def run_endpoint(
    endpoint: Endpoint,
    tables: CohortTables,
    params: Mapping[str, Mapping[str, Any]],
    workers: int = 1,
    ledger: Path | None = None,
) -> Modelled:
    """Validate and fit every arm of the plan, and judge the locked test set if it is to be opened.

    Raises CohortError where the batch is the outcome, or the locked test set can't be told from the rest.
    """
    plan, settings = params["analysis_plan"], settings_of(params)
    roi = params["model"]["roi"]
    refuse_shared_patients(tables, tables.of_roi(roi), plan["test_set"])
    rows = tables.of_cases(roi, endpoint.data.features.index)
    locked = in_test_set(tables, rows, plan["test_set"])
    data, y = endpoint.data.take(~locked), endpoint.y[~locked]
    judge = endpoint.judge(~locked)
    _, messages = gate(tables, rows[~locked].reset_index(drop=True), params, outcome_columns(params))
    if locked.any():
        messages.append(f"{int(locked.sum())} cases are in the locked test set: no model was fitted to them")
    classes = judge.classes
    limiting = limiting_count(classes, endpoint.model.needs_both)
    refusal, mark = check_events(len(y), limiting, endpoint.counted, settings)
    arms = arms_of(plan["arms"], data)
    sizes, told = sample_size_rows(endpoint.name, arms, data, judge)
    messages += told
    found: dict[str, list[dict[str, Any]]] = {"sample_size": sizes}
    if refusal:
        found["performance"] = refused_rows(judge, [arm.name for arm in arms], refusal)
        messages.append(f"the model was not fitted: {refusal}")
        messages[:0] = ledger_warnings(read_ledger(ledger), params)
        return Modelled(data, y, judge, settings, [], found, messages, refusal=refusal)
    problem = pose(data, y, endpoint.model, arms, settings, judge.times)
    centres = data.centres.to_numpy(dtype=object)
    results, counts = validate(problem, centres, workers)
    setting = setting_of(judge, data, tables, params, mark)
    found |= performance_tables(results, counts, setting, plan["thresholds"], workers)
    found["coefficients"] = coefficient_rows(endpoint.name, results, data, bool(mark))
    names = {CROSS_VALIDATION: [str(n) for n in range(1, problem.settings.folds + 1)]}
    names[LEAVE_ONE_CENTRE_OUT] = setting.names
    found["predictions"] = [
        row
        for result in results
        for split, predicted in result.predictions.items()
        for row in case_rows(judge, result.arm.name, predicted, data, tables, names[split])
    ]
    if locked.any() and plan["open_test_set"]:
        write_opening(ledger, params, int(locked.sum()), int(endpoint.judge(locked).classes.sum()))
        fitted = [result.arm for result in results if not result.whole.error]
        opened = _opened(endpoint, tables, params, locked, fitted, problem.settings, mark)
        for name, more in opened.items():
            found[name] = [*found[name], *more]
    messages = [*ledger_warnings(read_ledger(ledger), params), *messages, *([mark] if mark else [])]
    messages += [*arm_messages(results), *filled_cells(results)]
    return Modelled(data, y, judge, settings, results, found, messages, mark=mark)


def setting_of(
    judge: Judge, data: ModelData, tables: CohortTables, params: Mapping[str, Mapping[str, Any]], mark: str
) -> Setting:
    """Centres, subgroups and bootstrap of some cases."""
    centres = data.centres.to_numpy(dtype=object)
    settings = settings_of(params)
    rows = tables.of_cases(params["model"]["roi"], data.features.index)
    groups: dict[str, np.ndarray] = {}
    for name in params["analysis_plan"]["subgroups"]:
        found = subgroups(tables.column(name, rows), name)
        groups |= {f"{name}: {label}": positions for label, positions in found.items()}
    return Setting(judge, centres, groups, bootstrap_weights(centres, settings.bootstraps, settings.seed), mark)


def _opened(
    endpoint: Endpoint,
    tables: CohortTables,
    params: Mapping[str, Mapping[str, Any]],
    locked: np.ndarray,
    arms: Sequence[Arm],
    settings: Settings,
    mark: str,
) -> dict[str, list[dict[str, Any]]]:
    """Rows of every table for the locked test set, judged by models of all other cases."""
    judge, data = endpoint.judge(locked), endpoint.data.take(locked)
    problem = pose(endpoint.data, endpoint.y, endpoint.model, arms, settings, endpoint.judge(~locked).times)
    setting = setting_of(judge, data, tables, params, mark)
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("performance", "decision_curve", "calibration_curve", "predictions")
    }
    for name, fitted in open_test_set(problem, ~locked).items():
        notes = (*fitted.notes, *([fitted.error] if fitted.error else []))
        found = Predictions(LOCKED_TEST, fitted.risk, fitted.link, np.ones(len(fitted.risk), dtype=int), notes)
        comparable = not (endpoint.name == "cox" and next(arm for arm in arms if arm.name == name).batch)
        rows["performance"] += prediction_rows(name, found, setting, comparable)
        rows["decision_curve"] += decision_rows(name, found, setting, params["analysis_plan"]["thresholds"])
        rows["calibration_curve"] += calibration_rows(name, found, setting)
        rows["predictions"] += case_rows(judge, name, found, data, tables, [])
    return rows


def design_of_covariates(data: ModelData) -> tuple[pd.DataFrame, int]:
    """The clinical predictors as numbers, and how many missing cells were filled (median, commonest word)."""
    block = ClinicalBlock().fit(data.clinical)
    return block.transform(data.clinical), block.n_filled_


def sample_size_rows(
    model: str, arms: Sequence[Arm], data: ModelData, judge: Judge
) -> tuple[list[dict[str, Any]], list[str]]:
    """Riley's criteria of each arm (its candidates are all columns that it could take), and a sentence on the unmet."""
    classes = judge.classes
    coded = len(ClinicalBlock().fit(data.clinical).terms_)
    batches = len(set(data.batches)) - 1 if model == "logistic" else 0
    candidates = {
        arm.name: arm.features * data.features.shape[1] + arm.clinical * coded + arm.batch * batches for arm in arms
    }
    known: dict[str, float] = {}
    if isinstance(judge, SurvivalJudge):
        known = {"mean_follow_up": float(judge.time.mean()), "horizon": judge.horizons[0]}
    table = sample_size(model, candidates, SampleSizeCohort(len(classes), int(classes.sum()), **known))
    unmet = table[(table["criterion"] == "all") & ~table["met"]]
    told = [
        f"{row['arm']} ({row['parameters']} candidates: {row['needed_n']} cases with {row['needed_events']} events)"
        for row in unmet.to_dict("records")
    ]
    there = f"{len(classes)} cases with {int(classes.sum())} events"
    message = f"Riley's criteria of sample size are not met by {', '.join(told)}; there are {there}"
    return table.to_dict("records"), [message] if told else []


def finish(
    modelled: Modelled, params: Mapping[str, Mapping[str, Any]], names: Sequence[str], further: Mapping[str, Any]
) -> ModelTables:
    """The tables of a model by name; `names` are those that it has, `further` the rows that it adds itself."""
    rows = {**modelled.rows, **further}
    judge, settings = modelled.judge, modelled.settings
    n, events = len(judge.classes), int(judge.classes.sum())
    status = "not estimable" if modelled.refusal else "fitted"
    if modelled.refusal:
        description: dict[str, Any] = {
            "model": judge.name, "status": status, "note": modelled.refusal, "n": n, "events": events, "arms": {},
            "analysis_plan": plan_hash(params), "feature_filter": list(modelled.data.notes),
        }  # fmt: skip
    else:
        description = describe_model(
            judge.name, modelled.results, modelled.data, judge.classes, settings, params, modelled.mark
        )
    return ModelTables(
        tables={name: table_of(name, rows.get(name, []), params) for name in names},
        description=description,
        facts={
            "status": status,
            "n": n,
            "events": events,
            "override": bool(modelled.mark),
            "arms": [result.arm.name for result in modelled.results if not result.whole.error],
            "analysis_plan": plan_hash(params),
        },
        warnings=modelled.messages,
    )


def table_of(name: str, rows: Sequence[Mapping[str, Any]], params: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A table of MODEL_TABLES, every row with the hash of the analysis plan."""
    table = pd.DataFrame(rows, columns=MODEL_TABLES[name]).assign(**{PLAN: plan_hash(params)})
    # Counts stay whole numbers also where one of them is missing.
    return table.astype(dict.fromkeys(COUNTS_OF_SAMPLE_SIZE, "Int64")) if name == "sample_size" else table


def arm_messages(results: Sequence[ArmResult]) -> list[str]:
    """One message a reason, with the arms that were not fitted for it."""
    arms: dict[str, list[str]] = {}
    for result in results:
        if result.whole.error:
            arms.setdefault(result.whole.error, []).append(result.arm.name)
    return [f"not fitted ({', '.join(names)}): {reason}" for reason, names in arms.items()]


def filled_cells(results: Sequence[ArmResult]) -> list[str]:
    """What the models of all cases say of missing cells, each once."""
    return list(dict.fromkeys(note for result in results for note in _filled(result)))


def _filled(result: ArmResult) -> list[str]:
    notes: list[str] = []
    if result.pipeline is None:
        return notes
    features, clinical = result.pipeline.feature_block_, result.pipeline.clinical_block_
    if features is not None and features.n_filled_:
        notes.append(f"{features.n_filled_} missing feature cells filled with the training median")
    if clinical is not None and clinical.n_filled_:
        notes.append(f"{clinical.n_filled_} missing clinical cells filled with the training median or commonest word")
    return notes


def describe_model(
    model: str,
    results: Sequence[ArmResult],
    data: ModelData,
    classes: np.ndarray,
    settings: Settings,
    params: Mapping[str, Mapping[str, Any]],
    mark: str,
) -> dict[str, Any]:
    """All that the risk of a new case needs, and how it came about; JSON-able."""
    section = params[f"model_{model}"]
    return {
        "model": model,
        "status": "fitted",
        "note": mark,
        "analysis_plan": plan_hash(params),
        "n": len(classes),
        "events": int(classes.sum()),
        "l1_ratio": section["l1_ratio"],
        "penalty_rule": section["penalty"],
        "seed": settings.seed,
        "transformation": settings.transformation,
        "max_correlation": settings.max_correlation,
        "bootstraps": settings.bootstraps,
        "refits": settings.refits,
        "batch": data.batch,
        "feature_filter": list(data.notes),
        "arms": {result.arm.name: _describe_arm(result, classes) for result in results if result.pipeline is not None},
        "not_estimable": {result.arm.name: result.whole.error for result in results if result.whole.error},
    }


def _describe_arm(result: ArmResult, classes: np.ndarray) -> dict[str, Any]:
    pipeline, whole = result.pipeline, result.whole
    assert pipeline is not None
    features, clinical = pipeline.feature_block_, pipeline.clinical_block_
    harmonizer = features.harmonizer_ if features is not None else None
    group = result.predictions[CROSS_VALIDATION].group if result.predictions else np.zeros(len(classes), dtype=int)
    places = {term: column for column, term in enumerate(pipeline.terms_)}
    return {
        "intercept": whole.intercept,
        "penalty": _number(whole.penalty),
        "penalty_min": _number(pipeline.fit_.penalty_min),
        "penalty_1se": _number(pipeline.fit_.penalty_1se),
        "terms": [
            {
                "term": term,
                "coefficient_per_sd": coefficient,
                "mean": float(pipeline.mean_[places[term]]),
                "sd": float(pipeline.sd_[places[term]]),
            }
            for term, coefficient in whole.coefficients.items()
        ],
        **pipeline.model_.to_json(),
        "candidates": len(pipeline.terms_),
        "medians": {**(features.medians_ if features else {}), **(clinical.medians_ if clinical else {})},
        "commonest_words": clinical.commonest_ if clinical else {},
        "transformation": features.transformation_json() if features else {},
        "combat": harmonizer.to_json() if harmonizer is not None else None,
        "inner_folds": whole.inner_folds,
        "folds": [
            {
                "fold": number,
                "n": int((group == number).sum()),
                "events": int(classes[group == number].sum()),
                "penalty": _number(fitted.penalty),
                "inner_folds": fitted.inner_folds,
                "selected": len(fitted.coefficients),
            }
            for number, fitted in enumerate(result.folds, start=1)
        ],
        "notes": [*_filled(result), *whole.notes],
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def write_model(folder: Path, tables: ModelTables) -> None:
    """Write the tables of a model as CSV, and its description as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    text = json.dumps(tables.description, indent=1, allow_nan=False)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")
