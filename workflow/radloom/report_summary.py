"""The first lines of the report: what to beware of, the numbers that a reader looks for, and the headline table."""

from __future__ import annotations

import numpy as np
import pandas as pd

from radloom.report_estimates import Remarks, discrimination_table
from radloom.report_models import (
    estimates_of,
    extreme_note,
    is_override,
    messages_of,
    plan_hashes,
    prevalence_note,
    refusals,
)
from radloom.report_sections import MODELS, Material
from radloom.report_view import Block, Section, count, listed, numbers, text

FEW_IN_BATCH = 20
"""Below this many cases a batch's mean and variance are poorly known; about 20 to 30 are advised for ComBat."""

FIRST = {
    "locked test set had been opened": "Locked test set",
    "locked test set was opened": "Locked test set",
    "confounded": "Confounding",
    "nothing can be estimated there": "Confounding",
    "can't be told from that of the batch": "Confounding",
    "is the same in all": "Endpoint",
}
"""Words of the steps' warnings that a reader must know before any number, and what they are about."""

SIZE = ("Riley's criteria", "no horizon is planned", "no model was fitted to them")
"""And what belongs beside the models' own: sample size, horizons that were not planned, and cases that are locked."""


def warnings_of(material: Material) -> list[str]:
    """What a reader must know before any number: the first lines of the report."""
    told = {step["step"]: step.get("warnings", []) for step in material.provenance}
    messages = {model: messages_of(material, model) for model in MODELS}
    every = [*(message for own in messages.values() for message in own), *told.get("harmonize", [])]
    found = [f"{what}: {message}." for word, what in FIRST.items() for message in every if word in message]
    hashes = plan_hashes(material)
    if len(hashes) > 1:
        found.append(
            f"The models' tables come from different analysis plans ({listed(hashes)}): they don't belong together. "
            "Run the models again."
        )
    for model, (name, _) in MODELS.items():
        estimates = estimates_of(material, model)
        found += [f"{name}{refused}" for refused in refusals(estimates)]
        if is_override(material, model):
            found.append(
                f"{name}: fitted although there are too few events (override_sample_size). Its coefficients and its "
                "performance are not to be relied on."
            )
        if mixed := prevalence_note(estimates):
            found.append(f"{name}: {mixed[0].lower()}{mixed[1:]}")
        if extreme := extreme_note(material, model):
            found.append(f"{name}: {extreme}")
        found += [f"{name}: {message}." for word in SIZE for message in messages[model] if word in message]
    # ComBat's own messages are the more precise ones, where they are known.
    own = [message for message in told.get("harmonize", []) if not any(word in message for word in FIRST)]
    known = "harmonize" in told and bool(told["harmonize"])
    found += [f"harmonize: {warning}" for warning in own] if known else _batch_warnings(material)
    found += _image_warnings(material)
    return list(dict.fromkeys(found))


def _image_warnings(material: Material) -> list[str]:
    """What of images, features and exclusions a reader must know."""
    found = []
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
    return found


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
    found = warnings_of(material)
    blocks = [Block("heading", "Before you read on"), Block("warnings", pairs=[(one, "") for one in found])]
    blocks = [*(blocks if found else []), Block("tiles", pairs=tiles)]
    models = [(MODELS[model][0], estimates_of(material, model)) for model in MODELS]
    remarks = Remarks()
    headlines = discrimination_table([(name, one) for name, one in models if one.rows], remarks, every=False)
    if headlines:
        plans = listed(plan_hashes(material)) or "not known"
        blocks += [
            Block("heading", "Discrimination"),
            text(
                f"Analysis plan {plans}. Arms are sets of predictors that were compared as planned; none was chosen "
                "for its result. What the columns mean stands in the sections of the models."
            ),
            *headlines,
            *remarks.blocks(),
        ]
    return Section("summary", "In short", blocks)
