"""Describes the folder of tables to machines and to R: datapackage.json (Frictionless) and import.R."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radloom import acquisition
from radloom.extractions import extraction_of
from radloom.model_tables import MODEL_TABLES

IDENTIFIERS = frozenset(
    [
        "case_id",
        "patient_id",
        "centre",
        "roi",
        "extraction",
        "step",
        "reason",
        "way_out",
        "item",
        "warning",
        "status",
        "format",
        "dtype",
        "calibration_method",
        "calibration_source",
        "model",
        "arm",
        "term",
        "split",
        "metric",
        "subgroup",
        "leads",
        "transform",
        "strategy",
        "cause",
        "criterion",
        "method",
        "analysis_plan",
        "note",
        "feature",
        "roi_name",
        "repeat_id",
        "batch",
        "fold",
        "table",
        "column",
        "short_name",
        "source",
        "icc",
        "scope",
        "ibsi_code",
        "parameter",
        "baseline",
        "setting",
        "change",
        "level",
        "checklist",
        "topic",
        "answered_by",
        "answer",
        "where",
    ]
)
"""Columns that are text, whatever they look like: a centre called 1 or 007 is a name."""

DESCRIPTIONS = {
    "cohort": "One row a case of the cohort sheet: centre, further columns of the sheet, included or excluded.",
    "clinical": "One row a patient: the configured columns of the clinical table, as they were given.",
    "features_raw": "Features as extracted, one row a case and ROI. Models start from these.",
    "features_harmonized": "Features after ComBat over the whole cohort, one row a case and ROI. Descriptive: the "
    "models harmonise inside each fold.",
    "exclusions": "What is not in the feature tables: case or ROI, the step that excluded it, why, and the way out.",
    "acquisition": "One row a readable case: format, scanner and protocol, spacing (mm), size (voxels), HU range, "
    "calibration, air outside.",
    "qc": "Long table of measured items worth checking (volumes, voxel counts, noise, HU of materials, hints of "
    "artefacts, duplicates) and of the steps' warnings.",
    "confounding": "Outcomes and covariates by batch, before anything was fitted: counts, events, overlap, and how far "
    "each is confounded with the batch. A patient counts once in each batch.",
    "combat_diagnostics": "Per feature and ROI: how much the batch explains before and after harmonisation.",
    "combat_batches": "Per feature, ROI and batch: how far the batch's distribution is from that of all others, before "
    "and after harmonisation.",
    "combat_covariates": "Per feature, ROI and covariate: the effect before and after harmonisation, and whether it is "
    "still there.",
    "combat_summary": "What harmonisation did, in a few rows an ROI: differences between batches, guessing the batch, "
    "and effects of covariates, before and after.",
    "combat_rows": "What became of each case and ROI in the harmonisation of features_harmonized, by batch column.",
    "stability": "Per feature and ROI: intraclass correlations over perturbations and over real repeats, with 95 % "
    "intervals, over all cases and within centres.",
    "sensitivity": "How far each feature and the ranks of the cases move under other bin widths and voxel spacings.",
    "coefficients": "Coefficients of the penalised models fitted to all cases, per standard deviation of the term, and "
    "how often each term was selected in folds and bootstrap samples.",
    "performance": "Performance of the models in cases that they were not fitted to, with 95 % intervals, long: by way "
    "of validation, centre and subgroup; what was not estimable, and why.",
    "predictions": "Predictions of held-out cases, one row a model, arm, way of validation and case.",
    "calibration_curve": "Mean predicted and observed risk in groups of predicted risk, by horizon.",
    "decision_curve": "Net benefit of the models and of treating everybody, by threshold and horizon.",
    "inference": "Hazard and odds ratios of the pre-specified covariates in models without a penalty.",
    "ph_test": "Tests of proportional hazards of the Cox models, on two scales of time.",
    "cumulative_incidence": "Cumulative incidence of the event and of the competing one at the horizons, in all and by "
    "centre; empty without a competing event.",
    "sample_size": "Criteria of sample size of each arm: what its candidate parameters would need, and what there is.",
    "checklist": "Items of CLEAR, METRICS, TRIPOD+AI and IBSI: what the run answers, and what authors must write.",
    "codebook": "Every column of every table: meaning, unit, class, IBSI tag, formula, name for Stata, SPSS and R.",
}
TEXT_IN = {
    "cumulative_incidence": frozenset(["group"]),
    "sample_size": frozenset(["outcome"]),
    "acquisition": frozenset(acquisition.TEXTS),
}
"""Columns that are text in one table, and numbers in another."""

NUMBERS = frozenset(
    [
        *(
            "estimate",
            "ci_low",
            "ci_high",
            "prediction_low",
            "prediction_high",
            "horizon",
            "probability",
            "risk",
            "time",
        ),
        *("coefficient", "hazard_or_odds_ratio", "mean", "sd", "se", "z", "p", "chi2", "selection_frequency"),
        *("volume_correlation", "threshold", "predicted", "observed", "events_per_parameter", "r2"),
    ]
)
"""Columns of the models' tables that are numbers, also where a run has no value in them."""

PRIMARY_KEYS = {
    "cohort": ["case_id"],
    "clinical": ["patient_id"],
    "features_raw": ["case_id", "roi"],
    "features_harmonized": ["case_id", "roi"],
    "acquisition": ["case_id"],
    "combat_rows": ["case_id", "roi", "column"],
}
R_TYPES = {"string": "character", "number": "numeric", "integer": "integer", "boolean": "logical"}


def description(table: str, extraction: str = "") -> str:
    """What a table of the folder is; `extraction` names the one of several that features_raw has."""
    if further := extraction_of(table):
        return f"Features of the extraction {further} as extracted, one row a case and ROI. No statistics use them."
    own = f" Of the extraction {extraction}." if extraction and table in ("features_raw", "features_harmonized") else ""
    return DESCRIPTIONS.get(table, "") + own


@dataclass(frozen=True)
class Table:
    """One CSV file of the folder: its columns with their Frictionless types (string, number, integer,
    boolean).
    """

    name: str
    path: Path
    types: dict[str, str]
    rows: int


def describe(path: Path) -> Table:
    """Read a CSV table of the folder and find each column's type; a column without any value is text."""
    with path.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        columns = next(reader)
        fixed = "number" if path.stem.startswith("features_") else None
        text = IDENTIFIERS | TEXT_IN.get(path.stem, frozenset())
        found: list[list[str]] = [["string"] if n in text else [fixed] if fixed else [] for n in columns]
        open_columns = [j for j, kinds in enumerate(found) if not kinds]
        rows = 0
        for row in reader:
            rows += 1
            for j in open_columns:
                # An integer can still turn out to be a number; a first cell that is neither can't.
                if row[j] and not (found[j] and _is(row[j], found[j][0])):
                    left = found[j] or ["integer", "number", "boolean"]
                    found[j] = [kind for kind in left if _is(row[j], kind)] or ["string"]
    empty: Collection[str] = NUMBERS if path.stem in MODEL_TABLES else ()
    if path.stem == "acquisition":
        empty = (*acquisition.RANGES, acquisition.SCAN_DAY)
    types = {
        name: kinds[0] if kinds else "number" if name in empty else "string"
        for name, kinds in zip(columns, found, strict=True)
    }
    return Table(path.stem, path, types, rows)


def _is(cell: str, kind: str) -> bool:
    """Whether a cell can be read as the type; 007 and 1e400 are no numbers."""
    if kind == "string":
        return True
    if kind == "boolean":
        return cell in ("True", "False", "true", "false")
    if kind == "integer":
        return re.fullmatch(r"-?(0|[1-9]\d*)", cell) is not None and abs(int(cell)) < 2**31
    decimal = re.fullmatch(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][-+]?\d+)?", cell)
    return decimal is not None and math.isfinite(float(cell))


def datapackage(
    tables: Sequence[Table],
    others: Iterable[Path],
    meanings: Mapping[tuple[str, str], Mapping[str, str]],
    extraction: str = "",
    plan: str = "",
) -> dict[str, Any]:
    """The Frictionless description of a folder: every table with schema, size and hash, and further files
    without schema.

    `meanings` maps (table, column) to `description` and `unit`, from the codebook; `extraction` names the one of
    several that features_raw has, `plan` is the hash of the analysis plan that the models' tables were made by. Source:
    Data Package v1.
    """
    case_tables = {"features_raw", "features_harmonized", "exclusions", "acquisition", "qc", "predictions"}
    resources: list[dict[str, Any]] = []
    for table in tables:
        fields = []
        for name, kind in table.types.items():
            field: dict[str, Any] = {"name": name, "type": kind}
            meaning = meanings.get((table.name, name), {})
            field |= {key: meaning[key] for key in ("description", "unit") if meaning.get(key)}
            fields.append(field)
        schema: dict[str, Any] = {"fields": fields, "missingValues": [""]}
        kind = "features_raw" if extraction_of(table.name) else table.name
        if kind in PRIMARY_KEYS:
            schema["primaryKey"] = PRIMARY_KEYS[kind]
        if kind in case_tables:
            reference = {"resource": "cohort", "fields": ["case_id"]}
            schema["foreignKeys"] = [{"fields": ["case_id"], "reference": reference}]
        resources.append(
            _resource(table.path)
            | {
                "profile": "tabular-data-resource",
                "description": description(table.name, extraction),
                "encoding": "utf-8",
                "dialect": {"delimiter": ",", "lineTerminator": "\n", "header": True},
                "schema": schema,
            }
        )
    resources += [_resource(path) for path in others]
    return {
        "profile": "data-package",
        "name": "radloom-tables",
        "title": "Radiomics tables",
        "description": "Tables written by Radloom. Empty cells are missing values; numbers read back bit-exact.",
        **({"analysis_plan": plan} if plan else {}),
        "resources": resources,
    }


def _resource(path: Path) -> dict[str, Any]:
    """Name, path, format, size and hash of a file of the folder."""
    content = path.read_bytes()
    kind = path.suffix.lstrip(".")
    name = path.stem if kind == "csv" else f"{path.stem}-{kind}"
    media = {"csv": "text/csv", "json": "application/json", "parquet": "application/vnd.apache.parquet"}[kind]
    return {
        "name": name.lower(),
        "path": path.name,
        "format": kind,
        "mediatype": media,
        "bytes": len(content),
        "hash": f"sha256:{hashlib.sha256(content).hexdigest()}",
    }


def datapackage_json(package: Mapping[str, Any]) -> str:
    """The description as the text of datapackage.json."""
    return json.dumps(package, indent=1, ensure_ascii=False) + "\n"


def import_r(tables: Sequence[Table]) -> str:
    """An R script (base R) that reads every table with its column types; empty cells become NA."""
    lines = [
        "# Reads the tables of this folder with their column types. Base R, no package needed.",
        "#",
        '#   source("import.R", chdir = TRUE)   # then: features_raw, cohort, clinical, ...',
        "#",
        '# Column names are kept as they are in the files: features_raw[["original_shape_MeshVolume"]].',
        '# short_names(features_raw, "features_raw") renames the columns to the codebook\'s short names.',
        "# R's own reading of decimals may differ from the file in the last bit; the .parquet files, read",
        "# with the package arrow, are exact to the bit.",
        "",
        "read_table <- function(file, types) {",
        '  utils::read.csv(file, colClasses = types, na.strings = "", check.names = FALSE,',
        '                  encoding = "UTF-8", stringsAsFactors = FALSE)',
        "}",
        "",
    ]
    for table in tables:
        lines.append(f'{table.name} <- read_table("{table.path.name}", {_r_types(list(table.types.values()))})')
    if any(table.name == "codebook" for table in tables):
        lines += [
            "",
            "short_names <- function(table, name) {",
            "  mine <- codebook[codebook$table == name, ]",
            '  short <- mine[["short_name"]][match(names(table), mine$column)]',
            "  names(table) <- ifelse(is.na(short), names(table), short)",
            "  table",
            "}",
        ]
    return "\n".join(lines) + "\n"


def _r_types(types: Sequence[str]) -> str:
    """The R expression of a vector of column classes, runs written with rep()."""
    parts: list[tuple[str, int]] = []
    for kind in types:
        if parts and parts[-1][0] == R_TYPES[kind]:
            parts[-1] = (parts[-1][0], parts[-1][1] + 1)
        else:
            parts.append((R_TYPES[kind], 1))
    text = [f'"{kind}"' if n == 1 else f'rep("{kind}", {n})' for kind, n in parts]
    return f"c({', '.join(text)})"
