"""ComBat of the whole cohort, ROI by ROI, for description; with a table of what it did to every feature.

The models don't read its result: they harmonise anew in every fold, so that no test case takes part in the fit.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from radloom.analysis_plan import outcome_columns
from radloom.assembly import ID_COLUMNS, CohortTables, listed, read_tables
from radloom.batch_diagnostics import assess, diagnose
from radloom.batches import batch_columns
from radloom.confounding import gate_rois
from radloom.engine.step import CohortResult, CohortTask
from radloom.errors import CohortError
from radloom.harmonizer import EXCLUDED, HarmonizationError, HarmonizationWarning, Harmonizer
from radloom.harmonizers import harmonizer_of

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
    """Raise HarmonizationError if a column is an outcome, by name or as the same column under another name.

    `columns` gives the part of each. Keeping the outcome's effect, or removing that of a batch that is the outcome,
    writes the outcome into the harmonised features, and every model that reads them has seen the answer; so it has
    with the outcome as a predictor.
    """
    way_out = "Use columns that are known before the outcome"
    for name, part in columns.items():
        if name in outcomes:
            raise HarmonizationError(f"{name!r} is an outcome and can't be a {part}. {way_out}")
        own = tables.column(name, rows)
        for outcome in outcomes:
            pair = pd.DataFrame({"own": own, "outcome": tables.column(outcome, rows)}).dropna()
            levels = pair.nunique()
            if len(pair) < 8 or levels.min() < 2:
                continue
            same = len(pair.drop_duplicates()) == levels["own"] == levels["outcome"]
            if same and levels["own"] == len(pair):
                # Values that are all different always match one to one: here the order must agree as well.
                numbers = pair.apply(pd.to_numeric, errors="coerce").dropna()
                ranks = numbers.rank()
                same = len(numbers) == len(pair) and abs(ranks["own"].corr(ranks["outcome"])) > 1 - 1e-9
            if same:
                raise HarmonizationError(
                    f"the {part} {name!r} says the same as the outcome {outcome!r} in all cases. {way_out}"
                )


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
