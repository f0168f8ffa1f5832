"""ComBat of the whole cohort, ROI by ROI, for description; with a table of what it did to every feature.

The models don't read its result: they harmonise anew in every fold, so that no test case takes part in the fit.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from radloom import outcome_guard
from radloom.analysis_plan import outcome_columns
from radloom.assembly import ANY_ROI, ID_COLUMNS, CohortTables, listed, read_tables
from radloom.batch_diagnostics import assess, diagnose
from radloom.batches import batch_columns
from radloom.confounding import gate_rois
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.harmonizer import EXCLUDED, HarmonizationError, HarmonizationWarning, Harmonizer
from radloom.harmonizers import harmonizer_from_json, harmonizer_of

ROW_COLUMNS = ("case_id", "roi", "column", "batch", "status")
"""Of combat_rows: `column` names the batch column, `batch` the case's batch in it."""


@dataclass(frozen=True)
class Harmonized:
    """Harmonised features (rows of excluded batches left out), parameters and diagnostics by ROI, and messages.

    `rows` tells what became of each case: a row a case, ROI and batch column, with the columns of ROW_COLUMNS.
    """

    features: pd.DataFrame
    rows: pd.DataFrame
    parameters: dict[str, dict[str, Any]]
    diagnostics: pd.DataFrame
    excluded_cases: list[str]
    warnings: list[str]


def columns_of(params: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The columns that ComBat and the models learn from, with the part that each has."""
    combat = params["harmonize"]
    return {
        **dict.fromkeys(params.get("analysis_plan", {}).get("covariates", []), "clinical predictor"),
        **dict.fromkeys(combat["covariates"], "covariate of ComBat"),
        **dict.fromkeys(batch_columns(combat), "batch of ComBat"),
    }


def refuse_outcome(
    tables: CohortTables, rows: pd.DataFrame, columns: Mapping[str, str], outcomes: Sequence[str]
) -> None:
    """Raise HarmonizationError if a column is an outcome, by name or as a recoding (the rule is in `outcome_guard`).

    `columns` gives the part of each. Keeping the outcome's effect, or removing that of a batch that is the outcome,
    writes the outcome into the harmonised features, and every model that reads them has seen the answer; so it has
    with the outcome as a predictor.
    """
    way_out = "Use columns that are known before the outcome"
    there = {name: tables.column(name, rows) for name in outcomes}
    for name, part in columns.items():
        if name in outcomes:
            raise HarmonizationError(f"{name!r} is an outcome and can't be a {part}. {way_out}")
        found = outcome_guard.relation(tables.column(name, rows), there)
        if found is None:
            continue
        how, outcome = found
        if how == outcome_guard.SAME:
            told = f"says the same as the outcome {outcome!r} in all cases"
        elif how == outcome_guard.RECODED:
            told = f"is a recoding of the outcome {outcome!r}: each of its values has one value or range of it"
        else:
            told = f"is filled in or empty as the outcome {outcome!r} has it, which gives the outcome away"
        raise HarmonizationError(f"the {part} {name!r} {told}. {way_out}")


def harmonize_tables(
    tables: CohortTables, settings: Mapping[str, Any], outcomes: Sequence[str], derived: Sequence[str] = ()
) -> Harmonized:
    """Fit ComBat to the features of each ROI and apply it to the same cases.

    Raises HarmonizationError where that can't be right, naming the ROI, the cases and the way out. An ROI of those that
    are named as `derived` is then left out with a message instead, as long as another one is left: a third lesion,
    which few cases have, must not stop the cohort.
    """
    names = tables.feature_names
    parts: list[pd.DataFrame] = []
    fates: list[pd.DataFrame] = []
    parameters: dict[str, dict[str, Any]] = {}
    diagnostics: list[pd.DataFrame] = []
    messages: list[str] = []
    excluded: list[str] = []
    refused: HarmonizationError | None = None
    for roi in dict.fromkeys(tables.features["roi"]):
        rows = tables.features[tables.features["roi"] == roi]
        values = rows[names].set_axis(pd.Index(rows["case_id"], name="case_id"), axis=0)
        metadata = pd.DataFrame({name: tables.column(name, rows) for name in _columns(settings)})
        harmonizer = harmonizer_of(settings)
        try:
            refuse_outcome(tables, rows, columns_of({"harmonize": settings}), outcomes)
        except HarmonizationError as error:
            raise HarmonizationError(f"harmonisation of ROI {roi}: {error}") from None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HarmonizationWarning)
                after = harmonizer.fit(values, metadata=metadata).transform(values, metadata)
        except HarmonizationError as error:
            refused = HarmonizationError(f"harmonisation of ROI {roi}: {error}")
            if not _is_derived(str(roi), derived):
                raise refused from None
            messages.append(f"ROI {roi} is not in the harmonised table: {error}")
            continue
        messages += [f"ROI {roi}: {message}" for message in harmonizer.warnings_]
        batch = metadata[batch_columns(settings)[0]].astype(str).str.strip()
        gone = (harmonizer.row_status(metadata) == EXCLUDED).to_numpy()
        excluded += [f"{case} ({roi})" for case in values.index[gone]]
        fates.append(row_table(harmonizer, metadata, str(roi)))
        ids = rows[list(ID_COLUMNS)]
        parts.append(pd.concat([ids, after.set_axis(rows.index, axis=0)], axis=1)[~gone])
        parameters[str(roi)] = harmonizer.to_json()
        table = diagnose(values[~gone], after[~gone], batch[~gone])
        table.insert(0, "roi", roi)
        diagnostics.append(table)
    if refused is not None and not parts:
        raise refused
    features = pd.concat(parts).sort_index(kind="stable")
    told = pd.concat(diagnostics, ignore_index=True)
    return Harmonized(features, pd.concat(fates, ignore_index=True), parameters, told, excluded, messages)


@dataclass(frozen=True)
class Applied:
    """Features with saved parameters applied (rows of excluded batches left out), what became of each case, messages.

    `rows` has the columns of ROW_COLUMNS.
    """

    features: pd.DataFrame
    rows: pd.DataFrame
    excluded_cases: list[str]
    warnings: list[str]


def saved_columns(saved: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str]]:
    """The batch columns and the covariates that saved parameters (by ROI) need."""
    batches = dict.fromkeys(name for one in saved.values() for name in one["batch_columns"])
    covariates = dict.fromkeys(name for one in saved.values() for name in one["settings"]["covariates"])
    return list(batches), list(covariates)


def read_parameters(path: Path) -> dict[str, dict[str, Any]]:
    """The parameters of each ROI, as `write_parameters` wrote them. Raises HarmonizationError for any other file."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HarmonizationError(f"{path.name} can't be read as parameters of a harmonisation: {error}") from None
    if not isinstance(saved, dict) or not saved:
        raise HarmonizationError(f"{path.name} has no parameters of a harmonisation")
    for roi, one in saved.items():
        try:
            harmonizer_from_json(one)
        except (HarmonizationError, KeyError, TypeError, ValueError) as error:
            raise HarmonizationError(f"{path.name}, ROI {roi}: {error}") from None
    return saved


def apply_tables(tables: CohortTables, saved: Mapping[str, Mapping[str, Any]], new_batch: str | None = None) -> Applied:
    """Apply saved parameters (by ROI) to new cases, nothing of which takes part in a fit.

    `new_batch` replaces what was saved for batches that the fit has not seen. Columns of features are brought into the
    fit's order. A table without ROIs takes the parameters of the only one. Raises HarmonizationError where it can't be
    done, naming the ROI, the cases and the way out.
    """
    parts: list[pd.DataFrame] = []
    fates: list[pd.DataFrame] = []
    messages: list[str] = []
    excluded: list[str] = []
    for roi in dict.fromkeys(tables.features["roi"]):
        key = next(iter(saved)) if roi == ANY_ROI and len(saved) == 1 else str(roi)
        if key not in saved:
            raise HarmonizationError(f"there are no saved parameters of ROI {roi}; there are those of {listed(saved)}")
        rows = tables.features[tables.features["roi"] == roi]
        harmonizer = harmonizer_from_json(saved[key], new_batch)
        index = pd.Index(rows["case_id"], name="case_id")
        names = [str(name) for name in harmonizer.feature_names_in_]
        if set(names) == set(tables.feature_names):
            values = rows[names].set_axis(index, axis=0)
        else:
            values = rows[tables.feature_names].set_axis(index, axis=0)  # `transform` says what is wrong
        metadata = pd.DataFrame({name: tables.column(name, rows) for name in harmonizer.metadata_columns})
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", HarmonizationWarning)
                after = harmonizer.transform(values, metadata)
            gone = (harmonizer.row_status(metadata) == EXCLUDED).to_numpy()
        except HarmonizationError as error:
            raise HarmonizationError(f"harmonisation of ROI {roi}: {error}") from None
        messages += [f"ROI {roi}: {warning.message}" for warning in caught]
        excluded += [f"{case} ({roi})" for case in index[gone]]
        fates.append(row_table(harmonizer, metadata, str(roi)))
        ids = rows[list(ID_COLUMNS)]
        parts.append(pd.concat([ids, after.set_axis(rows.index, axis=0)], axis=1)[~gone])
    features = pd.concat(parts).sort_index(kind="stable")
    return Applied(features, pd.concat(fates, ignore_index=True), excluded, messages)


def row_table(harmonizer: Harmonizer, metadata: pd.DataFrame, roi: str) -> pd.DataFrame:
    """What a fitted harmonisation makes of the cases of an ROI (index of `metadata`), with the columns of ROW_COLUMNS.

    Cases in the order in which they come, each with its batch columns in the order in which they are harmonised.
    """
    statuses = harmonizer.row_statuses(metadata)
    parts = [
        pd.DataFrame(
            {
                "case_id": metadata.index,
                "roi": roi,
                "column": column,
                "batch": metadata[column].astype(str).str.strip().to_numpy(),
                "status": statuses[column].to_numpy(),
            }
        )
        for column in harmonizer.batch_columns
    ]
    return pd.concat(parts).sort_index(kind="stable").reset_index(drop=True)


def _is_derived(roi: str, derived: Sequence[str]) -> bool:
    """Whether an ROI is one of those that the configuration derives, or a component of one."""
    return roi in derived or re.sub(r"_[1-9][0-9]*$", "", roi) in derived


def _columns(settings: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*batch_columns(settings), *settings["covariates"]]))


# ---------------------------------------------------------------------------- step


def run_step(task: CohortTask) -> CohortResult:
    """The step of the workflow: reads the tables of the cohort, writes the harmonised ones and what was done."""
    tables = read_tables(task.inputs)
    if tables.features.empty:
        raise CohortError("there are no features to harmonise: all cases were excluded")
    derived = task.params.get("rois", {}).get("derived", [])
    outcomes = outcome_columns(task.params)
    confounding, found = gate_rois(tables, task.params, outcomes, derived)
    result = harmonize_tables(tables, task.params["harmonize"], outcomes, derived)
    folder = task.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    confounding.to_csv(folder / "confounding.csv", index=False, lineterminator="\n")
    result.features.to_csv(folder / "features_harmonized.csv", index=False, lineterminator="\n")
    result.features.to_parquet(folder / "features_harmonized.parquet", index=False, compression="zstd")
    result.diagnostics.to_csv(folder / "combat_diagnostics.csv", index=False, lineterminator="\n")
    result.rows.to_csv(folder / "combat_rows.csv", index=False, lineterminator="\n")
    write_parameters(folder / "combat_parameters.json", result.parameters)
    batches = batch_columns(task.params["harmonize"])
    described = [name for name in columns_of(task.params) if name not in batches]
    found_after = assess(
        tables, result.features, result.parameters, result.diagnostics, task.params["harmonize"], described
    )
    for name in ("batches", "covariates", "summary"):
        table: pd.DataFrame = getattr(found_after, name)
        table.to_csv(folder / f"combat_{name}.csv", index=False, lineterminator="\n")
    messages = [*found, *result.warnings]
    if result.excluded_cases:
        messages.append(f"left out of the harmonised table: {listed(result.excluded_cases, 20)}")
    sizes = {roi: saved["batch_sizes"] for roi, saved in result.parameters.items()}
    facts = {"batches": sizes, "excluded_cases": result.excluded_cases, "features": len(tables.feature_names)}
    return CohortResult(facts=facts, warnings=messages)


def write_parameters(path: Any, parameters: Mapping[str, Any]) -> None:
    """Write the parameters of each ROI as JSON."""
    path.write_text(json.dumps(parameters, indent=1, allow_nan=False) + "\n", encoding="utf-8")
