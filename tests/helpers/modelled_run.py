"""The report's task for a run whose models were really fitted, to a simulated cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from statistics_cohort import write_tables

from radloom.assembly import CohortTables
from radloom.engine.step import CohortTask
from radloom.modelling import ModelTables, write_model

EMPTY = {
    "exclusions": ["case_id", "centre", "roi", "step", "reason", "way_out"],
    "acquisition": ["case_id", "centre", "format", "calibration_method", "air_hu"],
    "qc": ["case_id", "centre", "roi", "step", "item", "value", "warning"],
}


def report_task(
    folder: Path, tables: CohortTables, params: dict[str, dict[str, Any]], models: dict[str, ModelTables]
) -> CohortTask:
    """Write the tables of a run below `folder`/results, and say what its report is made from."""
    results = folder / "results"
    (results / "tables").mkdir(parents=True)
    write_tables(tables, results / "tables")
    rows = tables.features.drop_duplicates("case_id")
    cohort = rows[["case_id", "patient_id", "centre"]].merge(tables.cases, left_on="case_id", right_index=True)
    cohort.assign(status="included", n_rois=1).to_csv(results / "tables" / "cohort.csv", index=False)
    tables.features.to_csv(results / "tables" / "features_raw.csv", index=False)
    for name, columns in EMPTY.items():
        pd.DataFrame(columns=columns).to_csv(results / "tables" / f"{name}.csv", index=False)
    for name, fitted in models.items():
        write_model(results / "models" / name, fitted)
    inputs = {path.relative_to(results).as_posix(): path for path in sorted(results.rglob("*")) if path.is_file()}
    provenance = [
        {"step": f"model_{name}", "params": {}, "versions": {}, "code": "ab" * 32, "warnings": fitted.warnings}
        for name, fitted in models.items()
    ]
    return CohortTask(params, [], {"overlay": {}}, inputs, folder / "out", provenance)
