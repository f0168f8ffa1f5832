"""Writes the report (one self-contained HTML file) and the documentation of the folder of tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from radloom.assembly import read_stability
from radloom.checklists import checklist_table
from radloom.codebook import codebook_rows
from radloom.datapackage import datapackage, datapackage_json, describe, import_r
from radloom.engine.step import CohortResult, CohortTask
from radloom.extractions import extraction_of
from radloom.methods_text import methods_markdown
from radloom.model_tables import MODEL_TABLES
from radloom.report_harmonisation import confounding_section, harmonisation_section
from radloom.report_methods import METHODS, methods_section
from radloom.report_models import model_section, plan_hashes
from radloom.report_quality import scans_section
from radloom.report_sections import (
    MODELS,
    Material,
    cohort_section,
    exclusions_section,
    files_section,
    overlays_section,
    provenance_section,
    quality_section,
    stability_section,
    voxel_maps_section,
)
from radloom.report_sensitivity import sensitivity_section
from radloom.report_summary import headline
from radloom.report_training import trained_net, training_section
from radloom.report_view import Section, count
from radloom.run_facts import RunFacts

FILES_IN_ORDER = [
    "cohort",
    "clinical",
    "features_raw",
    "features_harmonized",
    "exclusions",
    "acquisition",
    "qc",
    "confounding",
    "combat_parameters",
    "combat_summary",
    "combat_rows",
    "combat_diagnostics",
    "combat_batches",
    "combat_covariates",
    "stability",
    "sensitivity",
    "coefficients",
    "performance",
    "predictions",
    "calibration_curve",
    "decision_curve",
    "inference",
    "ph_test",
    "cumulative_incidence",
    "sample_size",
    "checklist",
    "codebook",
]


OWN_FILES = frozenset(
    f"tables/{name}"
    for name in (
        *(f"{table}.csv" for table in MODEL_TABLES),
        *("checklist.csv", "codebook.csv", "datapackage.json", "import.R"),
    )
)
"""What this step writes beside the report."""


def read_text_table(path: Path | None, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV table as text, empty cells as empty text; a table that isn't there has the columns and no
    rows.
    """
    if path is None:
        return pd.DataFrame({name: pd.Series(dtype=str) for name in columns})
    return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")


def join_model_tables(inputs: Mapping[str, Path], name: str) -> pd.DataFrame:
    """One table of all models, the cells as they are written in the models' own tables."""
    parts = [read_text_table(inputs.get(f"models/{model}/{name}.csv"), MODEL_TABLES[name]) for model in MODELS]
    columns = list(dict.fromkeys([*MODEL_TABLES[name], *(column for part in parts for column in part.columns)]))
    return pd.concat([part.reindex(columns=columns) for part in parts], ignore_index=True).fillna("")


def gather(task: CohortTask) -> Material:
    """Read all tables that the report is made from."""
    inputs = task.inputs
    harmonized = inputs.get("tables/features_harmonized.parquet")
    diagnostics = inputs.get("tables/combat_diagnostics.csv")
    cohort = read_text_table(inputs["tables/cohort.csv"])
    models = {model: _read_json(inputs.get(f"models/{model}/model.json")) for model in MODELS}
    return Material(
        params=task.params,
        cohort=cohort,
        clinical=read_text_table(inputs["tables/clinical.csv"]),
        features=pd.read_parquet(inputs["tables/features_raw.parquet"]),
        exclusions=read_text_table(inputs["tables/exclusions.csv"]),
        acquisition=read_text_table(inputs["tables/acquisition.csv"]),
        qc=read_text_table(inputs["tables/qc.csv"]),
        harmonized=None if harmonized is None else pd.read_parquet(harmonized),
        sensitivity=read_text_table(inputs.get("tables/sensitivity.csv"), ("roi",)),
        diagnostics=None if diagnostics is None else read_text_table(diagnostics),
        **{name: join_model_tables(inputs, name) for name in MODEL_TABLES},
        overlays=_pictures(task, "overlay", cohort),
        voxel_maps=_pictures(task, "voxel_maps", cohort),
        provenance=task.provenance,
        stability=read_stability(inputs.get("tables/stability.csv")),
        filters={model: told.get("feature_filter", []) for model, told in models.items()},
        confounding=_text_or_none(inputs, "confounding"),
        combat_summary=_text_or_none(inputs, "combat_summary"),
        combat_covariates=_text_or_none(inputs, "combat_covariates"),
        further_extractions=sorted({extraction_of(Path(name).stem) for name in inputs} - {""}),
        models=models,
        trained=trained_net(inputs)[1],
        combat=_read_json(inputs.get("tables/combat_parameters.json")),
    )


def _read_json(path: Path | None) -> dict[str, Any]:
    """A JSON file of a mapping; empty without a path."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path is not None else {}


def _text_or_none(inputs: Mapping[str, Path], table: str) -> pd.DataFrame | None:
    """A table of the folder as text, if its step has written it."""
    path = inputs.get(f"tables/{table}.csv")
    return None if path is None else read_text_table(path)


def _pictures(task: CohortTask, step: str, cohort: pd.DataFrame) -> list[tuple[str, Path]]:
    """The pictures `<step>.png` of a step in the order of the cohort."""
    files = {case: entry.files for case, entry in task.entries.get(step, {}).items()}
    return [(case, files[case][f"{step}.png"]) for case in cohort["case_id"] if f"{step}.png" in files.get(case, {})]


def document_tables(inputs: Mapping[str, Path], folder: Path, extraction: str = "", plan: str = "") -> list[str]:
    """Write codebook.csv, datapackage.json and import.R for the tables of `inputs` and those that `folder`
    already holds.

    `extraction` names the one of several that features_raw has, `plan` is the analysis plan's hash. Returns the paths
    of all files of the folder, below results/.
    """
    files = {key.removeprefix("tables/"): path for key, path in inputs.items() if key.startswith("tables/")}
    # What an earlier report by hand left there is written anew below.
    described = ("codebook.csv", "datapackage.json", "import.R")
    files |= {path.name: path for path in folder.iterdir() if path.name not in described}
    order = {name: position for position, name in enumerate(FILES_IN_ORDER)}
    order |= {stem: order["features_raw"] for stem in (Path(name).stem for name in files) if extraction_of(stem)}
    names = sorted(files, key=lambda name: (order.get(Path(name).stem, len(order)), name))
    tables = [describe(files[name]) for name in names if name.endswith(".csv")]
    rows = [row for one in tables for row in codebook_rows(one.name, list(one.types))]
    rows += codebook_rows("codebook", list(rows[0]))
    codebook = folder / "codebook.csv"
    with codebook.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    tables.append(describe(codebook))
    others = [files[name] for name in names if not name.endswith(".csv")]
    meanings = {(row["table"], row["column"]): {"description": row["meaning"], "unit": row["unit"]} for row in rows}
    package = datapackage(tables, others, meanings, extraction, plan)
    (folder / "datapackage.json").write_text(datapackage_json(package), encoding="utf-8")
    (folder / "import.R").write_text(import_r(tables), encoding="utf-8")
    return [f"tables/{name}" for name in [*names, "codebook.csv", "datapackage.json", "import.R"]]


def render(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The report as HTML: styles, figures and pictures inside, everything that comes from data escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("radloom"), autoescape=True, undefined=StrictUndefined, trim_blocks=False
    )
    page = environment.get_template("report.html.j2")
    return page.render(title=title, subtitle=subtitle, sections=sections, version=version("radloom")) + "\n"


def build_report(task: CohortTask) -> CohortResult:
    """Write report.html and the joined and describing tables into `task.out`."""
    material = gather(task)
    facts = RunFacts(material)
    folder = task.out / "tables"
    folder.mkdir(parents=True, exist_ok=True)
    for name in MODEL_TABLES:
        frame: pd.DataFrame = getattr(material, name)
        frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", encoding="utf-8")
    checklist = checklist_table(facts)
    checklist.to_csv(folder / "checklist.csv", index=False, lineterminator="\n", encoding="utf-8")
    plans = ", ".join(plan_hashes(material))
    paths = document_tables(task.inputs, folder, material.extraction, plans)
    sections = [
        headline(material),
        cohort_section(material),
        exclusions_section(material),
        overlays_section(material),
        *([voxel_maps_section(material)] if material.voxel_maps else []),
        quality_section(material),
        scans_section(material),
        *training_section(task.inputs),
        *([sensitivity_section(material.sensitivity, material.main_roi)] if len(material.sensitivity) else []),
        *confounding_section(material),
        harmonisation_section(material),
        *stability_section(material),
        *(model_section(material, model) for model in MODELS),
        methods_section(facts, checklist),
        files_section(paths, material.extraction),
        provenance_section(material),
    ]
    included = material.included
    subtitle = (
        f"{count(len(included), 'case')} of {count(included['centre'].nunique(), 'centre')}, "
        f"{count(len(material.feature_names), 'feature')} per ROI"
    )
    title: Any = material.setting("report", "title", "Radloom report")
    (task.out / "report.html").write_text(render(str(title), subtitle, sections), encoding="utf-8")
    (task.out / METHODS).write_text(methods_markdown(facts, str(title)), encoding="utf-8")
    return CohortResult(facts={"pictures": len(material.overlays)})
