"""The sections of the report: from the tables to sentences, tables and figures that a statistician can
check.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom import figures
from radloom.confounding import median_follow_up
from radloom.datapackage import description
from radloom.model_tables import MODEL_TABLES
from radloom.report_view import (
    Block,
    Picture,
    Section,
    count,
    decimal,
    listed,
    median_quartiles,
    median_range,
    note,
    number,
    numbers,
    table,
    text,
)
from radloom.stability import few_cases_warnings

FEW_IN_BATCH = 20
"""Below this many cases a batch's mean and variance are poorly known; about 20 to 30 are advised for ComBat."""

MOST_ROWS = 200
LEAST_CERTAIN = 10
"""Segmentations whose samples agree least that the report lists."""
ID_COLUMNS = ["case_id", "patient_id", "centre", "roi"]
METRICS = {
    "c_index": "Harrell's C",
    "c_index_within_centre": "Harrell's C, pairs within centres",
    "uno_c": "Uno's C",
    "uno_c_within_centre": "Uno's C, pairs within centres",
    "auc": "AUC",
    "auc_within_centre": "AUC, pairs within centres",
    "brier": "Brier score",
    "scaled_brier": "scaled Brier score",
    "integrated_brier": "integrated Brier score",
    "observed_expected": "observed over expected",
    "calibration_in_the_large": "calibration in the large",
    "calibration_intercept": "calibration intercept",
    "calibration_slope": "calibration slope, within folds",
    "ici": "distance from the calibration curve (ICI)",
}
ARMS = {
    "clinical": "the clinical columns alone",
    "features": "radiomics features as extracted",
    "features_combat": "radiomics features, harmonised inside each fold",
    "features_centre": "radiomics features as extracted, and the batch: stratum (Cox) or covariate (logistic)",
    "features_combat+clinical": "features harmonised inside each fold, and the clinical columns",
}
MODELS = {
    "cox": ("Cox model", "hazard ratio per SD"),
    "logistic": ("Logistic model", "odds ratio per SD"),
}


def no_rows(name: str) -> pd.DataFrame:
    """A table of the models without rows."""
    return pd.DataFrame({column: pd.Series(dtype=str) for column in MODEL_TABLES[name]})


@dataclass(frozen=True)
class Material:
    """All that the report is made from. Tables are text (empty = missing), but the features are float64."""

    params: Mapping[str, Mapping[str, Any]]
    cohort: pd.DataFrame
    clinical: pd.DataFrame
    features: pd.DataFrame
    exclusions: pd.DataFrame
    acquisition: pd.DataFrame
    qc: pd.DataFrame
    harmonized: pd.DataFrame | None
    diagnostics: pd.DataFrame | None
    coefficients: pd.DataFrame
    performance: pd.DataFrame
    predictions: pd.DataFrame
    ph_test: pd.DataFrame
    inference: pd.DataFrame = field(default_factory=lambda: no_rows("inference"))
    decision_curve: pd.DataFrame = field(default_factory=lambda: no_rows("decision_curve"))
    calibration_curve: pd.DataFrame = field(default_factory=lambda: no_rows("calibration_curve"))
    cumulative_incidence: pd.DataFrame = field(default_factory=lambda: no_rows("cumulative_incidence"))
    sample_size: pd.DataFrame = field(default_factory=lambda: no_rows("sample_size"))
    sensitivity: pd.DataFrame = field(default_factory=pd.DataFrame)
    overlays: list[tuple[str, Path]] = field(default_factory=list)
    voxel_maps: list[tuple[str, Path]] = field(default_factory=list)
    provenance: list[dict[str, Any]] = field(default_factory=list)
    stability: pd.DataFrame | None = None
    filters: Mapping[str, list[str]] = field(default_factory=dict)
    further_extractions: list[str] = field(default_factory=list)
    models: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What each model's own description (models/<model>/model.json) says."""
    trained: Mapping[str, Any] = field(default_factory=dict)
    """What the description of a net says that this run has trained; empty where none was."""
    combat: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """ComBat's parameters of each ROI (tables/combat_parameters.json)."""
    confounding: pd.DataFrame | None = None
    combat_summary: pd.DataFrame | None = None
    combat_covariates: pd.DataFrame | None = None

    def setting(self, section: str, key: str, default: Any = None) -> Any:
        """A setting of the configuration, or the default where the section was not given."""
        value = self.params.get(section, {}).get(key)
        return default if value is None else value

    @property
    def extraction(self) -> str:
        """The extraction of several that the statistics use; empty where there is only one."""
        return str(self.setting("model", "extraction", ""))

    @property
    def included(self) -> pd.DataFrame:
        """The cohort's rows of the included cases, with the patient's clinical columns."""
        rows = self.cohort[self.cohort["status"] == "included"]
        return rows.merge(self.clinical, on="patient_id", how="left").fillna("")

    @property
    def feature_names(self) -> list[str]:
        """The feature columns, in the table's order."""
        return [name for name in self.features.columns if name not in ID_COLUMNS]

    @property
    def batch_name(self) -> str:
        """The column by which the cases are in batches; the first, where there are several."""
        named = self.setting("harmonize", "batch", "centre")
        return named if isinstance(named, str) else str(named[0])

    def batches(self, rows: pd.DataFrame) -> np.ndarray:
        """The batch of every row of a table that has case_id; empty where it is not known."""
        name = self.batch_name
        every = self.cohort.merge(self.clinical, on="patient_id", how="left").fillna("")
        by_case = dict(zip(every["case_id"], every[name] if name in every else every["centre"], strict=True))
        return np.array([by_case.get(case, "") for case in rows["case_id"]], dtype=object)

    @property
    def main_roi(self) -> str:
        """The ROI that the figures show: the models' one, else the one that most cases have."""
        rois = self.features["roi"].value_counts(sort=True)
        configured = self.setting("model", "roi")
        return configured if configured in rois.index else str(rois.index[0])


def cohort_section(material: Material) -> Section:
    """Cases, patients and what is known of them, by centre."""
    cohort = material.cohort
    centres = list(dict.fromkeys(cohort["centre"]))
    included = material.included
    one_each = included.drop_duplicates("patient_id")
    columns = ["", *centres, "all"] if len(centres) > 1 else ["", *centres]

    def across(name: str, rows: pd.DataFrame, summary: Any) -> list[str]:
        parts = [rows[rows["centre"] == centre] for centre in centres] + ([rows] if len(centres) > 1 else [])
        return [name, *(str(summary(part)) for part in parts)]

    rows = [
        across("cases", cohort, len),
        across("excluded", cohort[cohort["status"] == "excluded"], len),
        across("included", included, len),
        across("patients included", included, lambda part: part["patient_id"].nunique()),
    ]
    outcome = material.setting("analysis_plan", "outcome")
    time, event = (material.setting("analysis_plan", key) for key in ("time", "event"))
    for column in dict.fromkeys((event, outcome)):
        if column in one_each:
            rows.append(
                across(f"{column}: positive / known", one_each, lambda part, c=column: positive(numbers(part[c])))
            )
    if time in one_each and event in one_each:
        rows.append(
            across(
                f"{time}: median follow-up", one_each,
                lambda part: number(median_follow_up(numbers(part[time]), numbers(part[event]))),
            )
        )  # fmt: skip
    described = [*material.setting("harmonize", "covariates", []), *material.setting("analysis_plan", "covariates", [])]
    for column in dict.fromkeys(described):
        if column in one_each:
            rows += _describe(column, one_each, across)
    blocks = [
        table(columns, rows),
        text(
            "Clinical rows count each included patient once.",
            "Numbers are median (quartiles), categories are counts; the median follow-up is the reverse Kaplan-Meier "
            "estimate."
            if len(rows) > 4
            else "",
        ),
    ]
    return Section("cohort", "Cohort by centre", blocks)


def positive(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{int((known == 1).sum())} / {len(known)}"


def _describe(column: str, rows: pd.DataFrame, across: Any) -> list[list[str]]:
    """A covariate by centre: quartiles of a number, counts of few categories, and how many are missing."""
    filled = rows[rows[column] != ""]
    levels = sorted(filled[column].unique())
    if np.isfinite(numbers(filled[column])).all() and len(levels) > 5:
        found = [across(column, rows, lambda part: median_quartiles(numbers(part[column])))]
    else:
        found = [
            across(f"{column}: {level}", rows, lambda part, level=level: int((part[column] == level).sum()))
            for level in levels[:12]
        ]
    if len(filled) < len(rows):
        found.append(across(f"{column}: missing", rows, lambda part: int((part[column] == "").sum())))
    return found


def exclusions_section(material: Material) -> Section:
    """Who is not in the tables, why, and the way out."""
    everything = material.exclusions
    if everything.empty:
        return Section("exclusions", "Exclusions", [text("No case and no ROI was excluded.")])
    named = "extraction" in everything
    of_others = everything["extraction"].isin(material.further_extractions) if named else everything["roi"].isna()
    rows = everything[~of_others]
    whole = rows[rows["roi"] == ""]
    parts = len(rows) - len(whole)
    single = f" and {count(parts, 'single ROI')}" if parts else ""
    excluded = f"{count(len(whole), 'case')}{single} {'was' if len(rows) == 1 else 'were'}"
    blocks = [
        text(
            f"{excluded} excluded. Every case, and every ROI "
            "of a case, is in "
            "exactly one of the feature tables and this list."
        )
    ]
    if of_others.any():
        others = everything[of_others]
        n = count(len(others), "row")
        blocks.append(text(f"{n} of the list {'is' if len(others) == 1 else 'are'} of further extractions alone."))
    steps = list(dict.fromkeys(rows["step"]))
    if len(rows) > 3:
        by_centre = [
            [centre, *(int(((rows["centre"] == centre) & (rows["step"] == step)).sum()) for step in steps)]
            for centre in dict.fromkeys(rows["centre"])
        ]
        blocks.append(table(["centre", *steps], by_centre, "Exclusions by centre and step"))
    shown = everything.head(MOST_ROWS)
    blocks.append(
        table(
            ["case", "centre", "ROI", *(["extraction"] if named else []), "step", "reason", "way out"],
            [
                [
                    r["case_id"],
                    r["centre"],
                    r["roi"] or "whole case",
                    *([r["extraction"] or "all"] if named else []),
                    r["step"],
                    r["reason"],
                    r["way_out"],
                ]
                for r in shown.to_dict("records")
            ],
        )
    )
    if len(everything) > len(shown):
        blocks.append(text(f"{len(everything) - len(shown)} more are in tables/exclusions.csv."))
    return Section("exclusions", "Exclusions", blocks)


def overlays_section(material: Material) -> Section:
    """A picture of every case with the outlines of its ROIs."""
    title = "Pictures of the cases"
    if not material.overlays:
        return Section("pictures", title, [text("There are no pictures: the features were extracted elsewhere.")])
    most = int(material.setting("report", "max_overlays", 500))
    shown = material.overlays[:most]
    centre = dict(zip(material.cohort["case_id"], material.cohort["centre"], strict=True))
    volumes: dict[str, list[str]] = {}
    measured = material.qc[material.qc["item"] == "volume_mm3"]
    for row in measured.to_dict("records"):
        if row["value"]:
            volumes.setdefault(row["case_id"], []).append(f"{row['roi']} {number(float(row['value']) / 1000)} mL")
    pictures = [
        Picture(
            f"{case} · {centre[case]}" + (f" · {', '.join(volumes[case])}" if case in volumes else ""),
            png=base64.b64encode(path.read_bytes()).decode("ascii"),
            alt=f"Outlines of the ROIs of case {case} on three planes",
        )
        for case, path in shown
    ]
    blocks = [
        text(
            "Three planes through the largest cross-section of each case's smallest ROI, with the outlines of the "
            "segmentation after post-processing, from which features were extracted and ROIs derived. Derived ROIs are "
            "not drawn. Look for outlines that miss the lesion, and for cases that were oriented wrongly."
        )
    ]
    if len(shown) < len(material.overlays):
        blocks.append(
            note(
                f"{len(shown)} of {len(material.overlays)} pictures are shown (report.max_overlays); all are in cases/."
            )
        )
    return Section("pictures", title, [*blocks, Block("cases", pictures=pictures)])


def voxel_maps_section(material: Material) -> Section:
    """The pictures of every case's voxel maps."""
    shown = material.voxel_maps[: int(material.setting("report", "max_overlays", 500))]
    pictures = [
        Picture(
            case,
            png=base64.b64encode(path.read_bytes()).decode("ascii"),
            alt=f"Voxel maps of case {case} on three planes",
        )
        for case, path in shown
    ]
    blocks = [
        text(
            "Every voxel of the ROI is coloured by the feature of its neighbourhood, over the image in grey, on three "
            "planes through the largest cross-section. The colours run from the 2nd to the 98th percentile of each "
            "map, so compare numbers, not colours, between cases. Voxels of the ROI that stay grey have no value. The "
            "maps are in cases/<case>/voxel_maps/ as NIfTI, NaN outside of the ROI (programs built on ITK show 0)."
        )
    ]
    if len(shown) < len(material.voxel_maps):
        blocks.append(note(f"{len(shown)} of {len(material.voxel_maps)} cases are shown (report.max_overlays)."))
    return Section("voxel-maps", "Voxel maps", [*blocks, Block("pictures", pictures=pictures)])


# The columns of the acquisition table that the report shows, as words counted or as numbers.
_SCANNER_WORDS = ("kernel", "reconstruction", "contrast", "kvp")
_SCANNER_NUMBERS = {"exposure": "exposure, mAs", "slice_thickness": "slice thickness, mm", "pitch": "pitch"}


def _scanner_blocks(rows: pd.DataFrame) -> list[Block]:
    """Scanners and protocols by centre, where headers or the cohort sheet tell of them."""
    names = ["manufacturer", "scanner_model", *_SCANNER_WORDS, *_SCANNER_NUMBERS]
    rows = rows.reindex(columns=[*dict.fromkeys([*rows.columns, *names])], fill_value="")
    if (rows[names] == "").all(axis=None):
        return []
    rows = rows.assign(scanner=(rows["manufacturer"] + " " + rows["scanner_model"]).str.strip())
    lines = []
    for centre, part in rows.groupby("centre", sort=False):
        cells: list[Any] = [centre]
        for name in ("scanner", *_SCANNER_WORDS):
            counts = part[name][part[name] != ""].value_counts(sort=False)
            told = listed((f"{value} {n}" for value, n in counts.items()), 6)
            missing = len(part) - int(counts.sum())
            cells.append((told + (f", not known {missing}" if missing else "")) if told else "–")
        cells += [median_range(numbers(part[name])) for name in _SCANNER_NUMBERS]
        lines.append(cells)
    heads = [
        "centre",
        "scanner",
        "kernel",
        "reconstruction",
        "contrast",
        "tube voltage, kV",
        *_SCANNER_NUMBERS.values(),
    ]
    return [table(heads, lines, "Scanners and protocols: counts, or median (smallest to largest)")]


def quality_section(material: Material) -> Section:
    """Acquisition, calibration and volumes by centre, and every warning of the steps."""
    rows = material.acquisition
    blocks: list[Block] = []
    if rows.empty:
        blocks.append(text("Nothing is known of the acquisition: the features were extracted elsewhere."))
    else:
        lines = []
        for centre, part in rows.groupby("centre", sort=False):
            methods = part["calibration_method"][part["calibration_method"] != ""].value_counts(sort=False)
            lines.append(
                [
                    centre,
                    len(part),
                    median_range(numbers(part["spacing_x"])),
                    median_range(numbers(part["spacing_z"])),
                    ", ".join(f"{method} {n}" for method, n in methods.items()) or "–",
                    median_range(numbers(part["air_hu"]), 4),
                ]
            )
        blocks.append(
            table(
                [
                    "centre",
                    "readable",
                    "in-plane spacing, mm",
                    "slice spacing, mm",
                    "calibration",
                    "air outside body, HU",
                ],
                lines,
                "Acquisition: median (smallest to largest)",
            )
        )
        blocks += _scanner_blocks(rows)
        first = rows.iloc[0]
        after = [first[f"resampled_spacing_{axis}"] for axis in "xyz"]
        if all(after):
            spread = (
                rows[[f"resampled_spacing_{axis}" for axis in "xyz"]].replace("", np.nan).dropna().drop_duplicates()
            )
            common = " x ".join(number(float(value)) for value in after)
            blocks.append(
                text(
                    f"All images were resampled to {common} mm before anything was measured."
                    if len(spread) == 1
                    else "Images were resampled; along axes with spacing 0 in the settings each kept its own."
                )
            )
    volume = material.qc[material.qc["item"] == "volume_mm3"]
    if len(volume):
        lines = []
        for (roi, centre), part in volume.groupby(["roi", "centre"], sort=False):
            change = material.qc[
                (material.qc["item"] == "volume_after_over_before")
                & (material.qc["roi"] == roi)
                & (material.qc["centre"] == centre)
            ]
            lines.append(
                [
                    roi, centre, len(part), median_range(numbers(part["value"]) / 1000),
                    median_range(numbers(change["value"])),
                ]
            )  # fmt: skip
        blocks.append(
            table(
                ["ROI", "centre", "cases", "volume, mL", "volume after / before post-processing"], lines,
                "ROI volumes: median (smallest to largest)",
            )
        )  # fmt: skip
    blocks += _uncertainty_blocks(material)
    # What the rules of the quality gate say has a section of its own.
    warned = material.qc[(material.qc["item"] == "warning") & (material.qc["step"] != "quality")]
    if warned.empty:
        blocks.append(text("No step had a warning about a case."))
    else:
        grouped = warned.groupby(["step", "warning"], sort=False)
        lines = [[step, warning, len(part), listed(part["case_id"], 6)] for (step, warning), part in grouped]
        blocks.append(table(["step", "warning", "cases", "which"], lines[:MOST_ROWS], "Warnings about cases"))
        if len(lines) > MOST_ROWS:
            blocks.append(text(f"{len(lines) - MOST_ROWS} more are in tables/qc.csv."))
    return Section("quality", "Acquisition and quality checks", blocks)


def _uncertainty_blocks(material: Material) -> list[Block]:
    """How far samples of the net agreed by ROI and centre, and the cases where they did least; nothing without any."""
    qc = material.qc
    # The table has both of a case and ROI next to each other, in one order.
    found = qc[qc["item"] == "segmentation_pairwise_dice"].reset_index(drop=True)
    if found.empty:
        return []
    dice, cv = numbers(found["value"]), numbers(qc.loc[qc["item"] == "segmentation_volume_cv", "value"])
    lines = [
        [roi, centre, len(at), median_range(dice[at]), median_range(cv[at])]
        for (roi, centre), at in found.groupby(["roi", "centre"], sort=False).indices.items()
    ]
    least = np.argsort(dice, kind="stable")[: min(LEAST_CERTAIN, int(np.isfinite(dice).sum()))]
    return [
        table(
            ["ROI", "centre", "cases", "mean pairwise Dice", "volume, coefficient of variation"], lines,
            "Samples of the net, how far they agree: median (smallest to largest)",
        ),
        table(
            ["case", "centre", "ROI", "mean pairwise Dice", "volume, coefficient of variation"],
            [[*found.loc[i, ["case_id", "centre", "roi"]], number(dice[i]), number(cv[i])] for i in least],
            "The least certain segmentations",
        ),
    ]  # fmt: skip


STABILITY = {
    "perturbation": "perturbations of image and ROI",
    "repeats": "real repeats (repeat_id)",
}
LEVELS = (0.75, 0.9)
"""Good and excellent reliability, of the lower end of the 95 % interval (Koo and Li, J Chiropr Med 15:155, 2016)."""


def stability_section(material: Material) -> list[Section]:
    """How many features are stable over perturbations and repeats; nothing where neither was computed."""
    found = material.stability
    if found is None:
        return []
    if found.empty:
        told = "There is no ROI with perturbations, and no patient with two repeats: nothing can be said of stability."
        return [Section("stability", "Stability of the features", [text(told)])]
    whole = found[found["scope"] == "all"]
    pictures: list[Picture] = []
    lines: list[list[Any]] = []
    for (roi, source, form), rows in whole.groupby(["roi", "source", "icc"], sort=False):
        low, estimate = rows["ci_low"].to_numpy(), rows["estimate"].to_numpy()
        counts = [f"{int((values >= level).sum())}" for values in (low, estimate) for level in LEVELS]
        middle = decimal(float(np.nanmedian(estimate)), 2) if np.isfinite(estimate).any() else "–"
        size = (int(rows["n_cases"].max()), number(float(rows["n_repeats"].max())))
        lines.append([roi, source, form, *size, len(rows), middle, *counts, int(np.isnan(estimate).sum())])
        if source == "perturbation" or form == "ICC(2,1)":
            name = f"stability-{len(pictures)}"
            svg = figures.stability(name, f"{form}, {source}", estimate, low)
            pictures.append(Picture(f"{roi}: {form} over {STABILITY[source]}, all cases.", svg=svg))
    columns = ["ROI", "source", "form", "cases", "repeats", "features", "median ICC"]
    columns += [f"{what} ≥ {level:g}" for what in ("interval", "ICC") for level in LEVELS]
    blocks = [
        text(
            "Intraclass correlations of a single measurement: the share of a feature's variance that lies between "
            "cases, not between repeats of one case. ICC(1,1): repeats are exchangeable; ICC(2,1): they must agree in "
            "value; ICC(3,1): a difference that is the same in all cases doesn't count.",
            "A coefficient over centres that differ is larger than within them, and all count on cases as different "
            "as these. tables/stability.csv has every feature, with its interval, in all and within centres.",
        ),
        *(note(f"{warning}.") for warning in few_cases_warnings(found)),
        table(
            [*columns, "no coefficient"], lines, "Features by stability; interval: the lower end of the 95 % interval"
        ),
        Block("grid", pictures=pictures),
    ]
    within = found[found["scope"] == "centre"]
    if len(within):
        shares = within.groupby(["roi", "source", "icc", "centre"], sort=False).agg(
            cases=("n_cases", "max"), median=("estimate", "median"), stable=("estimate", lambda e: (e >= 0.75).sum())
        )
        rows_within = [
            [*key, cases, decimal(middle, 2), stable] for key, cases, middle, stable in shares.itertuples(name=None)
        ]
        columns = ["ROI", "source", "form", "centre", "cases", "median ICC", "ICC ≥ 0.75"]
        blocks.append(table(columns, rows_within, "Within centres"))
    return [Section("stability", "Stability of the features", blocks)]


def files_section(paths: list[str], extraction: str = "") -> Section:
    """What lies in the folder beside the report; `extraction` names the one of several that features_raw has."""
    meanings = {
        "tables/combat_parameters.json": "ComBat's estimates for every feature, ROI and batch.",
        "tables/datapackage.json": "The folder for machines (Frictionless): columns, types, sizes, hashes.",
        "tables/import.R": "Reads every table into R with its column types (base R).",
    }
    pairs = []
    for path in paths:
        stem, _, kind = Path(path).name.partition(".")
        meaning = meanings.get(path, description(stem, extraction))
        if kind == "parquet":
            meaning = f"The same as {stem}.csv, for Python and R (arrow), exact to the bit and faster to read."
        pairs.append((path, meaning))
    terms = [
        ["case", "One scan of one patient: one row of the cohort sheet."],
        ["ROI", "Region of interest: a label of the segmentation, such as tumour."],
        ["batch", "Cases that were acquired alike (a centre, a scanner, a kernel), as ComBat understands it."],
        ["out of fold", "Predicted by a model that was fitted without the patient."],
        ["arm", "A set of predictors whose model is compared with the others'."],
        ["HU", "Hounsfield unit: water is 0, air is -1000."],
        ["R²", "Share of a feature's variance that lies between the batches' means."],
    ]
    return Section(
        "tables",
        "The tables, and words used here",
        [
            text(
                "CSV files are UTF-8 with commas; an empty cell is a missing value, never zero; numbers read back bit "
                "for bit."
            ),
            Block("files", pairs=pairs),
            table(["word", "meaning"], terms),
        ],
    )


def provenance_section(material: Material) -> Section:
    """Versions and settings of every step."""
    steps = material.provenance
    if not steps:
        return Section("settings", "Versions and settings", [text("Not known: the report was made by hand.")])
    versions: dict[tuple[str, str], list[str]] = {}
    for step in steps:
        for library, version in step.get("versions", {}).items():
            versions.setdefault((library, str(version)), []).append(step["step"])
    settings = [[step["step"], key, _setting(value)] for step in steps for key, value in _flat(step.get("params", {}))]
    libraries = [[*key, ", ".join(names)] for key, names in sorted(versions.items())]
    hashes = [[step["step"], str(step.get("code", ""))[:16]] for step in steps]
    return Section(
        "settings",
        "Versions and settings",
        [
            text("Every setting as it was used, defaults included, and the code and libraries that did the work."),
            table(["step", "setting", "value"], settings, "Settings"),
            table(["library", "version", "steps"], libraries, "Versions"),
            table(["step", "code hash"], hashes, "Code (first 16 digits of SHA-256)"),
        ],
    )


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as `section.key`."""
    for key, value in params.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _setting(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "(none)"
    return "(none)" if value is None or value == {} or value == "" else str(value)
