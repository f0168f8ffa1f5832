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
    p_value,
    table,
    text,
)
from radloom.stability import few_cases_warnings

FEW_IN_BATCH = 20
"""Below this many cases a batch's mean and variance are poorly known; about 20 to 30 are advised for ComBat."""

LARGE_COHORT = 300
MOST_ROWS = 200
MOST_TERMS = 25
ID_COLUMNS = ["case_id", "patient_id", "centre", "roi"]
METRICS = {
    "c_index": "Harrell's C",
    "c_index_within_centre": "Harrell's C, pairs within centres",
    "uno_c": "Uno's C",
    "auc": "AUC",
    "auc_within_centre": "AUC, pairs within centres",
    "brier": "Brier score",
    "calibration_in_the_large": "calibration in the large",
    "calibration_intercept": "calibration intercept",
    "calibration_slope": "calibration slope, within folds",
}
DISCRIMINATION = ("c_index", "c_index_within_centre", "auc", "auc_within_centre")
ARMS = {
    "clinical": "the clinical columns alone",
    "features": "radiomics features as extracted",
    "features_combat": "radiomics features, harmonised inside each fold",
    "features_combat+clinical": "both together",
}
INTERCEPT = "(Intercept)"
INTERVALS = (
    "The 95 % intervals are percentiles of a bootstrap of the out-of-fold predictions, patients drawn with replacement "
    "within each batch. The models are not fitted again, so the intervals leave out how much the estimates vary with "
    "the folds and with the cases that the models were fitted to: they are too narrow for a model fitted anew."
)
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


def _refused(performance: pd.DataFrame) -> list[str]:
    """What of a model's discrimination is not estimable, to stand behind its name: all of it, or a metric of it."""
    shown = performance[performance["metric"].isin(DISCRIMINATION)]
    told = []
    for reason, rows in shown[shown["status"] == "not estimable"].groupby("note", sort=False):
        arms = list(dict.fromkeys(rows["arm"]))
        missing = set(rows["metric"])
        other = shown[shown["arm"].isin(arms) & ~shown["metric"].isin(missing) & (shown["status"] != "not estimable")]
        what = f", {listed(METRICS[metric] for metric in METRICS if metric in missing)}:" if len(other) else ""
        told.append(f"{what} not estimable ({listed(arms)}): {reason}.")
    return told


def warnings_of(material: Material) -> list[str]:
    """What a reader must know before any number: the first lines of the report."""
    found: list[str] = []
    performance, coefficients = material.performance, material.coefficients
    for model, (name, _) in MODELS.items():
        mine = performance[(performance["model"] == model) & _everywhere(performance)]
        found += [f"{name}{refused}" for refused in _refused(mine)]
        marked = coefficients[(coefficients["model"] == model) & coefficients["override"].map(_is_true)]
        if len(marked):
            found.append(
                f"{name}: fitted although there are too few events (override_sample_size). Its coefficients and its "
                "performance are not to be relied on."
            )
    told = {step["step"]: step.get("warnings", []) for step in material.provenance}
    # ComBat's own messages are the more precise ones, where they are known.
    found += [f"harmonize: {warning}" for warning in told.get("harmonize", [])] or _batch_warnings(material)
    if material.harmonized is not None:
        there = set(material.harmonized["roi"])
        without = [roi for roi in dict.fromkeys(material.features["roi"]) if roi not in there]
        if without:
            found.append(
                f"ComBat refused the derived ROIs {listed(without)}, which are not in features_harmonized: too few "
                "cases have them, or cells are empty (the reasons are in steps/harmonize/record.json)."
            )
    methods = material.acquisition["calibration_method"]
    uncalibrated = int((methods == "none").sum())
    if uncalibrated:
        found.append(
            f"HU were not calibrated in {uncalibrated} of {count(int((methods != '').sum()), 'case')}: neither a "
            "phantom's water "
            "and air value nor a drift was given."
        )
    air = material.qc[(material.qc["step"] == "calibrate") & (material.qc["item"] == "warning")]
    if len(air):
        found.append(
            f"Calibration warned of {count(air['case_id'].nunique(), 'case')} "
            f"({listed(dict.fromkeys(air['case_id']))}): see "
            "the quality checks."
        )
    excluded = int((material.cohort["status"] == "excluded").sum())
    if excluded > 0.1 * len(material.cohort):
        found.append(f"{excluded} of {count(len(material.cohort), 'case')} were excluded: see the reasons below.")
    empty = int(np.isnan(material.features[material.feature_names].to_numpy()).sum())
    if empty:
        found.append(f"{count(empty, 'cell')} of the feature table could not be computed and are empty.")
    joined = material.qc[(material.qc["step"] == "tables") & (material.qc["item"] == "warning")]
    for warning, rows in joined.groupby("warning", sort=False):
        found.append(f"{count(len(rows), 'case')} ({listed(rows['case_id'])}): {warning}.")
    return list(dict.fromkeys(found))


def _everywhere(performance: pd.DataFrame) -> pd.Series:
    """The rows of all centres together."""
    return performance["centre"].str.lower().isin(["", "all"])


def _is_true(cell: str) -> bool:
    return str(cell).strip().lower() in ("true", "1", "yes")


def _batch_warnings(material: Material) -> list[str]:
    """Small batches of the models' ROI, and a batch that is alone."""
    rows = material.features[material.features["roi"] == material.main_roi]
    sizes = pd.Series(material.batches(rows)).value_counts(sort=False)
    name = material.batch_name
    least = int(material.setting("harmonize", "min_batch_size", 5))
    if len(sizes) == 1:
        return [f"There is only one batch ({name} {sizes.index[0]}): nothing was harmonised."]
    found = []
    for low, high, consequence in (
        (0, least, f"too small for ComBat; small_batch: {material.setting('harmonize', 'small_batch', 'error')}"),
        (least, FEW_IN_BATCH, f"ComBat's estimates for them are uncertain below about {FEW_IN_BATCH} cases"),
    ):
        small = [f"{batch or 'not known'} ({n})" for batch, n in sizes.items() if low <= n < high]
        if small:
            found.append(f"Small batches by {name}: {listed(small)}; {consequence}.")
    return found


def headline(material: Material) -> Section:
    """The numbers that a reader looks for first, and what to beware of."""
    cohort = material.cohort
    included = material.included
    tiles = [
        ("cases included", f"{len(included)} of {len(cohort)}"),
        ("patients included", str(included["patient_id"].nunique())),
        ("centres", str(included["centre"].nunique())),
        # The models' ROI first: a list that is cut short names it.
        ("ROIs", listed(dict.fromkeys([material.main_roi, *material.features["roi"]]), 4)),
        ("features per ROI", str(len(material.feature_names))),
    ]
    if material.further_extractions:
        others = listed(f"{name} (features_raw_{name})" for name in material.further_extractions)
        tiles.append(("extraction shown here", material.extraction or "features_raw"))
        tiles.append(("further extractions", others))
    one_each = included.drop_duplicates("patient_id")
    endpoints = (material.setting("analysis_plan", "event"), material.setting("analysis_plan", "outcome"))
    for column in dict.fromkeys(endpoints):
        if column in one_each:
            values = numbers(one_each[column])
            tiles.append((f"{column}, patients", f"{int(np.nansum(values))} of {int(np.isfinite(values).sum())}"))
    blocks = [Block("tiles", pairs=tiles)]
    found = warnings_of(material)
    if found:
        blocks += [Block("heading", "Before you read on"), Block("warnings", pairs=[(one, "") for one in found])]
    rows = _headline_rows(material.performance[_everywhere(material.performance)])
    if rows:
        columns = ["model", "arm", "metric", "all pairs (95 % interval)", "pairs within centres", "cases", "events"]
        blocks += [Block("heading", "Discrimination out of fold"), table(columns, rows)]
    return Section("summary", "In short", blocks)


def _headline_rows(performance: pd.DataFrame) -> list[list[str]]:
    """C-index and AUC of each arm, over all pairs and over pairs within centres."""
    rows = []
    for (model, arm), mine in performance.groupby(["model", "arm"], sort=False):
        by_metric = {r["metric"]: r for r in mine.to_dict("records") if r["status"] == "estimable"}
        for metric in ("c_index", "auc"):
            if metric in by_metric:
                within = by_metric.get(f"{metric}_within_centre")
                main = by_metric[metric]
                estimates = [_interval(main), _interval(within) if within else "–"]
                rows.append([MODELS[model][0], arm, METRICS[metric], *estimates, main["n"], main["events"]])
    return rows


def _interval(row: Mapping[Any, Any]) -> str:
    """Estimate with its interval, to three decimals."""
    estimate, low, high = (float(row[key]) if row[key] else float("nan") for key in ("estimate", "ci_low", "ci_high"))
    if not np.isfinite(estimate):
        return "–"
    return decimal(estimate) + (f" ({decimal(low)} to {decimal(high)})" if np.isfinite(low) else "")


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
    warned = material.qc[material.qc["item"] == "warning"]
    if warned.empty:
        blocks.append(text("No step had a warning about a case."))
    else:
        grouped = warned.groupby(["step", "warning"], sort=False)
        lines = [[step, warning, len(part), listed(part["case_id"], 6)] for (step, warning), part in grouped]
        blocks.append(table(["step", "warning", "cases", "which"], lines[:MOST_ROWS], "Warnings about cases"))
        if len(lines) > MOST_ROWS:
            blocks.append(text(f"{len(lines) - MOST_ROWS} more are in tables/qc.csv."))
    return Section("quality", "Acquisition and quality checks", blocks)


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


def model_section(material: Material, model: str) -> Section:
    """One model: how it was made, its performance, figures of its out-of-fold predictions, and its
    coefficients.
    """
    name, ratio = MODELS[model]
    performance = material.performance[material.performance["model"] == model]
    coefficients = material.coefficients[material.coefficients["model"] == model]
    predictions = material.predictions[material.predictions["model"] == model]
    endpoint = material.setting("analysis_plan", "time" if model == "cox" else "outcome")
    if performance.empty and coefficients.empty:
        reason = "no time and event are configured" if model == "cox" else "no outcome is configured"
        told = name if model == "cox" else name[0].lower() + name[1:]
        return Section(model, name, [text(f"The {told} is left out: {reason}.")])
    event = f" with event {material.setting('analysis_plan', 'event')}" if model == "cox" else ""
    arms = [f"{arm} ({ARMS[arm]})" if arm in ARMS else str(arm) for arm in dict.fromkeys(performance["arm"])]
    blocks = [
        text(
            f"Endpoint: {endpoint}{event}. Elastic net (l1_ratio "
            f"{material.setting(f'model_{model}', 'l1_ratio', '–')}) in "
            f"{_folds(material, predictions)}cross-validation, stratified by batch and outcome and grouped by "
            f"patient. Arms: {listed(arms)}. Features are of the ROI {material.main_roi}.",
            "Harmonised inside each fold: ComBat, the standardisation, the removal of correlated features and the "
            "choice of "
            "the penalty see the training cases only. Every prediction is of a case that its model had not seen.",
        )
    ]
    if material.filters.get(model):
        blocks.append(
            text(
                *(f"{told}." for told in material.filters[model]),
                "The filter looks at all cases, those of the held-out folds too, but never at an outcome.",
            )
        )
    everywhere = performance[_everywhere(performance)]
    blocks += [note(f"{name}{refused}") for refused in _refused(everywhere)]
    if coefficients["override"].map(_is_true).any():
        blocks.append(
            note(
                "override_sample_size was set: this model was fitted although there are too few events. Don't rely on "
                "it."
            )
        )
    remarks: dict[str, int] = {}
    lines = []
    for r in performance.to_dict("records"):
        # The same long remark stands in many rows: it is written once, below.
        mark = str(remarks.setdefault(r["note"], len(remarks) + 1)) if r["note"] else ""
        status = r["status"] if r["status"] != "estimable" else ""
        estimate = status or _interval(r)
        metric = METRICS.get(r["metric"], r["metric"])
        lines.append([r["arm"], metric, r["centre"] or "all", estimate, r["n"], r["events"], mark])
    columns = ["arm", "metric", "centre", "estimate (95 % interval)", "cases", "events", "remark"]
    blocks.append(table(columns, lines, "Performance in cross-validation"))
    blocks.append(text(INTERVALS))
    blocks += [Block("list", pairs=[(f"Remark {mark}: {remark}.", "") for remark, mark in remarks.items()])] * bool(
        remarks
    )
    if not predictions.empty:
        blocks += (
            survival_blocks(material, predictions) if model == "cox" else probability_blocks(material, predictions)
        )
    blocks += list(_coefficient_blocks(model, ratio, coefficients))
    if model == "cox":
        blocks += _ph_blocks(material)
    return Section(model, name, blocks)


def _folds(material: Material, predictions: pd.DataFrame) -> str:
    """How many folds there were, which may be fewer than configured; nothing where no model was fitted."""
    used = int(predictions["fold"].nunique())
    if not used:
        return ""
    wanted = material.setting("model", "folds", used)
    return f"{used}-fold " + (f"(not {wanted}-fold, for the number of events) " if used != wanted else "")


def risk_groups(risk: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Groups of predicted risk, cut within each fold: at the median, in a large cohort at the thirds.

    Predictions of different folds come from different models, so only those of one fold are ranked. A fold whose
    predictions are all alike can't be cut: group -1.
    """
    thirds = len(risk) >= LARGE_COHORT
    labels = ["low risk", "middle", "high risk"] if thirds else ["low risk", "high risk"]
    groups = np.full(len(risk), -1)
    for fold in np.unique(folds):
        mine = folds == fold
        if np.ptp(risk[mine]) > 0:
            cuts = np.quantile(risk[mine], [1 / 3, 2 / 3] if thirds else [0.5])
            groups[mine] = np.searchsorted(cuts, risk[mine], side="left")
    return groups, labels


def survival_blocks(material: Material, predictions: pd.DataFrame) -> list[Block]:
    """Kaplan-Meier curves by out-of-fold risk, an arm a figure."""
    pictures, alike = [], []
    unit = str(material.setting("analysis_plan", "time", "time"))
    for k, (arm, rows) in enumerate(predictions.groupby("arm", sort=False)):
        rows = rows.assign(**{c: numbers(rows[c]) for c in ("risk", "time", "event")})
        people = rows.dropna(subset=["risk", "time", "event"])  # one case a patient: the models take no more
        groups, labels = risk_groups(people["risk"].to_numpy(), people["fold"].to_numpy())
        placed = groups >= 0
        if len(np.unique(groups[placed])) < 2:
            alike.append(str(arm))
            continue
        times, events = (people[c].to_numpy()[placed] for c in ("time", "event"))
        chi2, p = figures.log_rank(times, events, groups[placed])
        left = int((~placed).sum())
        pictures.append(
            Picture(
                f"{arm}: log-rank chi-square {decimal(chi2, 2)}, {len(np.unique(groups[placed])) - 1} df, p "
                f"{p_value(p)}."
                + (
                    f" {count(left, 'patient')} of folds in which all predicted risks are equal are left out."
                    if left
                    else ""
                ),
                svg=figures.survival_by_group(f"km{k}", str(arm), times, events, groups[placed], labels, unit),
            )
        )
    blocks = [
        Block("heading", "Kaplan-Meier by predicted risk (out of fold)"),
        text(
            "Patients are grouped by the risk that was predicted for them while they were held out, cut within each "
            "fold. "
            "Bands are 95 % intervals (log-log), ticks are censored patients. The groups share training cases, so the "
            "log-rank p is approximate: judge the models by the intervals above."
        ),
    ]
    if alike:
        blocks.append(note(f"No groups can be formed for {listed(alike)}: the predicted risks are all alike."))
    return [*blocks, Block("pictures", pictures=pictures)] if pictures or alike else []


def probability_blocks(material: Material, predictions: pd.DataFrame) -> list[Block]:
    """ROC curves of all arms, and a calibration plot for each."""
    curves, plots = [], []
    for k, (arm, rows) in enumerate(predictions.groupby("arm", sort=False)):
        probability, outcome = numbers(rows["probability"]), numbers(rows["outcome"])
        known = np.isfinite(probability) & np.isfinite(outcome)
        probability, outcome = probability[known], outcome[known]
        if len(np.unique(outcome)) < 2:
            continue
        curves.append((_auc_label(material, str(arm)), probability, outcome))
        plots.append(Picture(f"{arm}: calibration", svg=figures.calibration(f"cal{k}", str(arm), probability, outcome)))
    if not curves:
        return []
    roc = Picture(
        "ROC of the out-of-fold predictions, folds pooled. The AUC counts pairs within folds.",
        svg=figures.roc("roc", curves),
    )
    return [
        Block("heading", "Discrimination and calibration (out of fold)"),
        text(
            "Calibration: cases in groups of equal size by predicted probability, with 95 % Wilson intervals of the "
            "observed share; on the dotted line "
            "predictions are right. The strip below shows how the predictions spread, by outcome."
        ),
        Block("pictures", pictures=[roc, *plots]),
    ]


def _auc_label(material: Material, arm: str) -> str:
    """The arm with its AUC as the performance table has it, so that the figure says nothing else."""
    rows = material.performance[_everywhere(material.performance)]
    mine = rows[(rows["model"] == "logistic") & (rows["arm"] == arm) & (rows["metric"] == "auc")]
    return f"{arm}: AUC {_interval(mine.iloc[0].to_dict())}" if len(mine) else arm


def _coefficient_blocks(model: str, ratio: str, coefficients: pd.DataFrame) -> Iterator[Block]:
    """Coefficients of each arm, largest first, as table and forest plot."""
    if coefficients.empty:
        return
    yield Block("heading", "Coefficients")
    yield text(
        "Of the model fitted to all cases, per standard deviation of the term. They are penalised: shrunk towards "
        "zero, and without "
        "intervals, since a penalised estimate has no valid standard error. How often a term was selected in the "
        "folds says how "
        "stable it is. All terms are in tables/coefficients.csv."
    )
    pictures = []
    for k, (arm, rows) in enumerate(coefficients.groupby("arm", sort=False)):
        rows = rows[rows["term"] != INTERCEPT]
        size = np.abs(numbers(rows["coefficient"]))
        chosen = rows.iloc[np.argsort(-np.nan_to_num(size), kind="stable")]
        chosen = chosen[np.abs(numbers(chosen["coefficient"])) > 0]
        if chosen.empty:
            yield text(f"{arm}: no term was selected; the model predicts the same for everybody.")
            continue
        shown = chosen.head(MOST_TERMS)
        yield table(
            ["term", "coefficient per SD", ratio, "mean", "SD", "selected in folds"],
            [
                [
                    r["term"], decimal(_float(r["coefficient"])), decimal(_float(r["hazard_or_odds_ratio"])),
                    number(_float(r["mean"])), number(_float(r["sd"])), r["selected_in_folds"],
                ]
                for r in shown.to_dict("records")
            ],
            f"{arm}: {count(len(chosen), 'term')} selected"
            + (f", the largest {len(shown)} shown" if len(shown) < len(chosen) else ""),
        )  # fmt: skip
        ratios = np.exp(numbers(shown["coefficient"]))
        pictures.append(
            Picture("", svg=figures.forest(f"forest-{model}{k}", str(arm), shown["term"].tolist(), ratios, ratio))
        )
    if pictures:
        yield Block("pictures", pictures=pictures)


def _float(cell: str) -> float:
    return float(cell) if cell else float("nan")


def _ph_blocks(material: Material) -> list[Block]:
    rows = material.ph_test
    if rows.empty:
        return []
    ordered = rows.iloc[np.argsort(np.nan_to_num(numbers(rows["p"]), nan=2), kind="stable")].head(MOST_TERMS)
    return [
        Block("heading", "Proportional hazards"),
        text(
            "Score test of each term's interaction with time (as cox.zph in R). A small p speaks against a constant "
            "hazard ratio. A penalised fit has no such test: the clinical columns are tested in their own unpenalised "
            "model, and "
            "each arm's out-of-fold risk as the only term of a model stratified by fold."
        ),
        table(
            ["arm", "term", "chi-square", "df", "p"],
            [
                [r["arm"], r["term"], decimal(_float(r["chi2"]), 2), r["df"], p_value(_float(r["p"]))]
                for r in ordered.to_dict("records")
            ],
        ),
    ]


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
