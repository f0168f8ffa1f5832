"""What the software can answer of the items of reporting checklists: a function for each kind of item.

Every function gets the facts of a run and returns sentences; none where the run doesn't know. They state what was done
or that it was not done, with figures; whether that is good is not theirs to say. `ANSWERS` has them by the name that
the lists in `templates/checklist_*.yaml` use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from radloom import methods_harmonisation as batches
from radloom import methods_models as built
from radloom import methods_text as text
from radloom import methods_validation as judged
from radloom.confounding import median_follow_up
from radloom.phrases import first_upper
from radloom.report_sections import MODELS
from radloom.report_summary import warnings_of
from radloom.report_view import count, decimal, listed, median_quartiles, median_range, number, numbers
from radloom.run_facts import NOT_ESTIMABLE, RunFacts, by_count, many

Answer = Callable[[RunFacts], list[str]]
ANSWERS: dict[str, Answer] = {}
PRIMARY = {"cox": "c_index", "logistic": "auc"}
"""The metric that stands for a model in a sentence."""

FEW_WARNINGS = 4
NOT_APPLICABLE = "Does not apply:"
"""How an answer begins that leaves nothing to the authors."""


def answer(function: Answer) -> Answer:
    """Register a function under its own name."""
    ANSWERS[getattr(function, "__name__", "")] = function
    return function


def _as_told(name: str, *tellers: Callable[[RunFacts], list[str]]) -> None:
    """Register an answer that is what the methods text says."""
    ANSWERS[name] = lambda facts: [sentence for teller in tellers for sentence in teller(facts)]


_as_told("sample_size", built.sample_size)
_as_told("resampling", text.resampling)
_as_told("discretisation", text.discretisation)
_as_told("image_types", text.image_types)
_as_told("resegmentation", text.resegmentation)
_as_told("rounding", text.rounding)
_as_told("feature_numbers", text.feature_numbers)
_as_told("missing_data", text.empty_features, built.missing_data)
_as_told("metrics", judged.metrics)
_as_told("segmentation_quality", text.segmentation_quality)
_as_told("segmentation", text.segmentation, text.postprocessing, text.derived_regions)
_as_told("extraction", text.extraction, text.compliance)
_as_told("calibration", text.calibration)
_as_told("exclusions", text.cohort_out)


# ------------------------------------------------------------------------- the study


@answer
def checklists_kept(_: RunFacts) -> list[str]:
    return ["tables/checklist.csv goes through CLEAR, METRICS, TRIPOD+AI and IBSI's guideline, without a score."]


@answer
def abstract_figures(facts: RunFacts) -> list[str]:
    return [*text.cohort_left(facts), *performance(facts)]


@answer
def steps(facts: RunFacts) -> list[str]:
    names = [step["step"] for step in facts.material.provenance]
    return [f"The steps of the run were, in their order: {', '.join(names)}."] if names else []


@answer
def centres(facts: RunFacts) -> list[str]:
    """How many centres the scans are from."""
    return [f"The included scans are from {facts.told_centres()}."]


@answer
def outcome(facts: RunFacts) -> list[str]:
    """The columns that are the outcome, and how often it happened."""
    sentences = []
    people = facts.included.drop_duplicates("patient_id")
    for model, key in (("cox", "event"), ("logistic", "outcome")):
        end, column = built.endpoint(facts, model), facts.planned(key)
        if not end:
            continue
        told = ""
        if column in people:
            values = numbers(people[column])
            known = np.isfinite(values)
            told = f": in {int((values[known] == 1).sum())} of {int(known.sum())} patients of whom it is known"
        sentences.append(f"{MODELS[model][0]}, {end}{told}.")
    horizons = facts.planned("horizons")
    if horizons:
        sentences.append(f"Planned horizons: {listed(many(horizons))}.")
    competing = facts.planned("competing_event")
    if competing:
        sentences.append(f"Competing event: `{competing}`.")
    return sentences


@answer
def plan(facts: RunFacts) -> list[str]:
    """Whether the configuration has a plan of the analysis."""
    told = built.plan(facts)
    changed = judged.ledger(facts)
    return [*told, *(f"{first_upper(one)}." for one in changed)] if told else []


@answer
def flow(facts: RunFacts) -> list[str]:
    """Cases in and out, outcomes, follow-up."""
    sentences = [*text.cohort_in(facts), *text.cohort_out(facts), *text.cohort_left(facts), *outcome(facts)]
    return [*sentences, *_follow_up(facts)]


def _follow_up(facts: RunFacts) -> list[str]:
    people = facts.included.drop_duplicates("patient_id")
    time, event = facts.planned("time"), facts.planned("event")
    if time not in people or event not in people:
        return []
    median = median_follow_up(numbers(people[time]), numbers(people[event]))
    if not np.isfinite(median):
        return ["The median follow-up (reverse Kaplan-Meier) is not reached."]
    return [f"Median follow-up (reverse Kaplan-Meier): {number(median)}, in the unit of `{time}`."]


@answer
def baseline(facts: RunFacts) -> list[str]:
    """Characteristics by centre: where they stand, and the numbers of the covariates."""
    people = facts.included.drop_duplicates("patient_id")
    columns = [*many(facts.planned("covariates")), *many(facts.setting("harmonize", "covariates"))]
    told = []
    for column in dict.fromkeys(columns):
        if column not in people:
            continue
        known = people[column][people[column] != ""]
        values = numbers(known)
        numeric = len(known) > 0 and np.isfinite(values).all() and known.nunique() > 5
        told.append(f"{column} {median_quartiles(values) if numeric else by_count(sorted(known), 6)}")
    sentences = [f"{count(len(people), 'patient')} are included, by centre in the report."]
    sentences += [f"Covariates, median (quartiles) or counts: {'; '.join(told)}."] if told else []
    return [*sentences, *outcome(facts), *_follow_up(facts), *built.missing_data(facts)]


@answer
def warnings(facts: RunFacts) -> list[str]:
    """What the report warns of in its first lines, without the names of cases."""
    found = [facts.without_names(warning) for warning in warnings_of(facts.material)]
    if not found:
        return ["The run has no warning of its own."]
    more = f" There are {len(found) - FEW_WARNINGS} more." if len(found) > FEW_WARNINGS else ""
    return [f"The report warns: {' '.join(found[:FEW_WARNINGS])}{more}"]


# ---------------------------------------------------------------------------- images


@answer
def protocol(facts: RunFacts) -> list[str]:
    """Voxel sizes, and what is known of scanners."""
    known = text.scanners(facts)
    lacking = [] if known or not facts.imaging else ["The tables have no scanner, kernel or tube voltage."]
    return [*text.images(facts), *known, *lacking]


def _acquired(name: str, what: str) -> None:
    def told(facts: RunFacts) -> list[str]:
        found = facts.acquired(what)
        return [f"{what[0].upper()}{what[1:]}: {found}."] if found else []

    ANSWERS[name] = told


for _name, _what in (
    ("scanner", "scanner"),
    ("tube_voltage", "tube voltage"),
    ("tube_current", "tube current"),
    ("exposure", "exposure"),
    ("kernel", "kernel"),
    ("reconstruction", "reconstruction"),
    ("slice_thickness", "slice thickness"),
    ("contrast", "contrast"),
):
    _acquired(_name, _what)


@answer
def in_plane(facts: RunFacts) -> list[str]:
    rows = facts.material.acquisition
    if rows.empty:
        return []
    x, y = (median_range(numbers(rows[f"spacing_{axis}"])) for axis in "xy")
    sizes = ", ".join(median_range(numbers(rows[f"size_{axis}"])) for axis in "xy")
    told = x if x == y else f"{x} and {y}"
    return [f"Pixel spacing {told} mm, matrix {sizes}: median (smallest to largest) of {count(len(rows), 'scan')}."]


@answer
def between_slices(facts: RunFacts) -> list[str]:
    rows = facts.material.acquisition
    if rows.empty:
        return []
    told = median_range(numbers(rows["spacing_z"]))
    return [f"{told} mm, median (smallest to largest) of {count(len(rows), 'scan')}."]


def _of_images(name: str, sentence: str) -> None:
    """Register a sentence that holds of every run that reads images, and says nothing of others."""
    ANSWERS[name] = lambda facts: [sentence] if facts.imaging else []


_of_images("not_pet", f"{NOT_APPLICABLE} the item is of PET or SPECT, and this workflow is for CT.")
_of_images("not_mri", f"{NOT_APPLICABLE} the item is of MRI, and this workflow is for CT.")
_of_images("modality", "The workflow takes every image as CT in Hounsfield units.")
_of_images("registration", "This run registered no images to each other.")
_of_images("denoising", "This run suppressed no noise.")
_of_images("no_deep_learning", f"{NOT_APPLICABLE} features are computed by formulas, not by a network.")


@answer
def one_image(facts: RunFacts) -> list[str]:
    """Whether each region has one image, and how many patients have several scans."""
    if not facts.imaging:
        return []
    several = int((facts.included["patient_id"].value_counts() > 1).sum())
    more = f"; {count(several, 'patient')} have several scans, of which models use one" if several else ""
    return [f"Features of a scan come from one image, on which its region lies{more}."]


@answer
def preprocessing(facts: RunFacts) -> list[str]:
    """Resampling, calibration and normalisation."""
    return [*text.resampling(facts)[:1], *text.calibration(facts), *normalisation(facts)]


@answer
def conversion(facts: RunFacts) -> list[str]:
    return text.calibration(facts)[:1]


@answer
def normalisation(facts: RunFacts) -> list[str]:
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params:
        return []
    if not params["setting"].get("normalize"):
        return ["Intensities were not normalised: they are HU."]
    scale = number(float(params["setting"].get("normalizeScale", 1)))
    return [f"Intensities were normalised over the whole image to mean 0 and standard deviation {scale}."]


@answer
def interpolator(facts: RunFacts) -> list[str]:
    how = text.interpolation(facts)
    told = text.resampling(facts)
    return [f"{how[0].upper()}{how[1:]}."] if how and len(told) > 1 else told[:1]


def _of_grid(name: str, sentence: Callable[[RunFacts], str]) -> None:
    """Register a sentence that holds where images were resampled; otherwise that they weren't."""

    def told(facts: RunFacts) -> list[str]:
        found = text.resampling(facts)
        return [sentence(facts)] if len(found) > 1 else found

    ANSWERS[name] = told


_of_grid("grid_position", lambda facts: f"The grid {text.GRID_PLACES[facts.setting('resample', 'align', 'centre')]}.")
_of_grid("grid_size", lambda _: text.GRID_SIZE)
_of_grid("grid_border", lambda _: text.GRID_BORDER)
_of_grid("aliasing", text.low_pass)
_of_grid("mask_grid", lambda _: text.MASK_GRID)


@answer
def voxels(facts: RunFacts) -> list[str]:
    rows = facts.material.acquisition
    if rows.empty:
        return []
    spacings = [numbers(rows[f"resampled_spacing_{axis}"]) for axis in "xyz"]
    if not all(np.isfinite(values).any() for values in spacings):
        return []
    return [f"{' x '.join(median_range(values) for values in spacings)} mm."]


# --------------------------------------------------------------------------- regions


@answer
def regions(facts: RunFacts) -> list[str]:
    names = list(dict.fromkeys(facts.material.features["roi"]))
    return [f"Regions of interest with features: {listed(names)}."]


@answer
def readers(facts: RunFacts) -> list[str]:
    """Whether readers drew the regions at all."""
    source = facts.setting("segment", "source")
    if not facts.imaging or source not in ("model", "command"):
        return []
    return [f"In this run no reader drew regions: a {'net' if source == 'model' else 'program'} segmented all of them."]


@answer
def automatic(facts: RunFacts) -> list[str]:
    source = facts.setting("segment", "source")
    if not facts.imaging or source is None:
        return []
    if source == "mask":
        return ["This run segmented nothing: the masks came with the scans.", *text.postprocessing(facts)]
    return [*text.segmentation(facts), *text.postprocessing(facts)]


@answer
def to_voxels(facts: RunFacts) -> list[str]:
    source = facts.setting("segment", "source")
    if not facts.imaging or source is None:
        return []
    if source in ("model", "command"):
        return [f"{NOT_APPLICABLE} the {'net' if source == 'model' else 'program'} labels voxels."]
    return ["The masks came as voxels; this run converted no contours."]


# -------------------------------------------------------------------------- features


@answer
def compliance(facts: RunFacts) -> list[str]:
    return [*text.compliance(facts), *text.extraction(facts)[:1]] if facts.imaging else []


@answer
def defaults(facts: RunFacts) -> list[str]:
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params:
        return []
    digest = str(params.get("sha256", ""))[:16]
    return [
        "All settings that the parameter file doesn't name were PyRadiomics' defaults.",
        f"Its content has the SHA-256 {digest}... .",
    ]


@answer
def extraction_settings(facts: RunFacts) -> list[str]:
    tellers = (text.feature_numbers, text.discretisation, text.image_types, text.texture_settings)
    if not facts.resource("extract", "params").get("setting"):
        return []
    return [*(sentence for teller in tellers for sentence in teller(facts)), *defaults(facts)]


def _texture(facts: RunFacts, *classes: str) -> Mapping[str, Any] | None:
    """The parameter file's settings where the run has a class of textures; None where it isn't known."""
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params:
        return None
    if not any(facts.has_class(name) for name in classes):
        return {"absent": True}
    setting: Mapping[str, Any] = params["setting"]
    return setting


def _texture_answer(name: str, classes: tuple[str, ...], told: Callable[[Mapping[str, Any]], str]) -> None:
    def function(facts: RunFacts) -> list[str]:
        setting = _texture(facts, *classes)
        if setting is None:
            return []
        if setting.get("absent"):
            return [f"{NOT_APPLICABLE} this run has no such features."]
        return [told(setting)]

    ANSWERS[name] = function


def _aggregation(setting: Mapping[str, Any]) -> str:
    directions = "4 directions in plane, slice by slice" if setting.get("force2D") else "13 directions in 3D"
    if setting.get("weightingNorm") is None:
        return f"A matrix for each of {directions}; features are averaged over them."
    return f"The matrices of {directions} are added up before features are computed."


def _distances(setting: Mapping[str, Any]) -> str:
    return f"Chebyshev distance {', '.join(map(str, setting.get('distances', [1])))}, in voxels."


_texture_answer("aggregation", ("glcm", "glrlm"), _aggregation)
_texture_answer(
    "weighting",
    text.TEXTURES,
    lambda setting: f"Weighting norm: {setting.get('weightingNorm') or 'none, all directions count alike'}.",
)
_texture_answer(
    "symmetry",
    ("glcm",),
    lambda s: f"Co-occurrence matrices are {'' if s.get('symmetricalGLCM', True) else 'not '}symmetric.",
)
_texture_answer("glcm_distance", ("glcm",), _distances)
_texture_answer(
    "glszm_linkage",
    ("glszm",),
    lambda s: f"Voxels are of one zone at a Chebyshev distance of 1 ({8 if s.get('force2D') else 26} neighbours).",
)
_texture_answer("ngtdm_distance", ("ngtdm",), _distances)
_texture_answer("gldm_distance", ("gldm",), _distances)
_texture_answer("gldm_coarseness", ("gldm",), lambda s: f"Coarseness (gldm_a): {s.get('gldm_a', 0)}.")
_of_images("no_distance_zones", f"{NOT_APPLICABLE} this software computes no distance-zone features.")


@answer
def reliability(facts: RunFacts) -> list[str]:
    """Perturbations, repeats and sensitivity: what was done, or that nothing was."""
    done = [*text.perturbations(facts), *text.stability_filter(facts), *text.sensitivity(facts)]
    return done or ["Stability of the features was not assessed in this run."]


@answer
def robust_features(facts: RunFacts) -> list[str]:
    """Whether unstable features were left out."""
    left_out = text.stability_filter(facts)
    if left_out:
        return [*left_out, *text.perturbations(facts)]
    if text.perturbations(facts):
        return ["Stability was measured, but no feature was left out for it (model.min_icc)."]
    return ["No feature was left out for its stability, which was not assessed in this run."]


@answer
def feature_statistics(facts: RunFacts) -> list[str]:
    """How many terms were selected, and where their stability stands."""
    return [*_selected(facts), *text.perturbations(facts), *batches.harmonisation_effect(facts)[:1]]


def _selected(facts: RunFacts) -> list[str]:
    table = facts.material.coefficients
    if table.empty:
        return []
    chosen = table[(table["term"] != "(Intercept)") & (np.nan_to_num(numbers(table["coefficient"])) != 0)]
    told = [f"{model}, {arm}: {len(part)}" for (model, arm), part in chosen.groupby(["model", "arm"], sort=False)]
    return [f"Terms in the models of all cases: {'; '.join(told)}."] if told else ["No term was selected."]


# ---------------------------------------------------------------------------- models


def _of_models(facts: RunFacts, *sentences: str) -> list[str]:
    """Sentences that hold where a model was fitted; otherwise that none was."""
    return list(sentences) if facts.fitted else ["No model was fitted in this run.", *built.models(facts)]


@answer
def models(facts: RunFacts) -> list[str]:
    return _of_models(facts, *built.models(facts), *text.software(facts))


@answer
def model_building(facts: RunFacts) -> list[str]:
    return _of_models(
        facts, *built.models(facts), *built.pipeline(facts), *judged.validation(facts), *built.inference(facts)
    )


@answer
def tuning(facts: RunFacts) -> list[str]:
    names = [f"{MODELS[m][0] if m in MODELS else m}: {built.penalty(facts, m)}" for m in facts.fitted]
    seed = facts.setting("model", "seed")
    return _of_models(facts, *names, *([f"Seed {seed}."] if seed is not None and names else []))


@answer
def splits(facts: RunFacts) -> list[str]:
    """How data were split, and that the training cases alone decided."""
    return _of_models(facts, *judged.validation(facts), *built.pipeline(facts))


@answer
def scaling(facts: RunFacts) -> list[str]:
    """Standardisation and harmonisation."""
    scaled = "Predictors were scaled to mean 0 and standard deviation 1 of the training cases."
    return [*([scaled] if facts.fitted else []), *batches.harmonisation(facts)]


@answer
def reduction(facts: RunFacts) -> list[str]:
    """What reduced the number of features."""
    return _of_models(facts, *text.stability_filter(facts), *redundancy(facts), *_selected(facts))


@answer
def redundancy(facts: RunFacts) -> list[str]:
    """Correlated features that were dropped."""
    if not facts.fitted:
        return ["No feature was left out as redundant: no model was fitted in this run."]
    limit, most = facts.setting("model", "max_correlation"), facts.setting("model", "max_terms")
    told = []
    if limit is not None:
        told.append(
            f"Of two features with an absolute Spearman correlation above {float(limit):g} the later one was dropped."
        )
    if most is not None:
        told.append(f"Of the others the {most} with the largest score statistics were kept.")
    return [*told, "The training cases alone decided.", "The penalty then chose among those that were left."]


@answer
def dimensions(facts: RunFacts) -> list[str]:
    """Features, terms and patients."""
    n = len(facts.material.feature_names)
    return [f"{count(n, 'feature')} of each region.", *_of_models(facts, *built.sample_size(facts), *_selected(facts))]


@answer
def confounders(facts: RunFacts) -> list[str]:
    """Batches as confounders: what was done about them."""
    within = any(metric.endswith(judged.WITHIN) for metric in facts.metrics)
    told = ["Performance is also given of pairs within centres, which differences between centres can't raise."]
    return [
        *batches.confounding(facts),
        *(told if within else []),
        *judged.leading(facts),
        *batches.harmonisation(facts),
        *batches.harmonisation_effect(facts),
    ]


@answer
def selection(facts: RunFacts) -> list[str]:
    arms = facts.arms()
    told = f"No set of predictors was chosen over the others: all {len(arms)} are reported." if len(arms) > 1 else ""
    return _of_models(facts, *tuning(facts), *([told] if told else []))


@answer
def clinical_predictors(facts: RunFacts) -> list[str]:
    named = many(facts.planned("covariates"))
    if not named:
        return ["The models had no predictor beside features."] if facts.fitted else []
    return [f"Columns of the clinical table: {listed(f'`{name}`' for name in named)}.", *built.missing_data(facts)[:1]]


@answer
def predictors(facts: RunFacts) -> list[str]:
    patterns = facts.setting("model", "features") or []
    chosen = [] if patterns in ([], ["*"]) else [f"Features that could enter the models: {listed(patterns)}."]
    return [*text.feature_numbers(facts), *chosen, *text.stability_filter(facts), *clinical_predictors(facts)]


@answer
def predictor_definitions(facts: RunFacts) -> list[str]:
    told = ["tables/codebook.csv defines every feature, with unit, formula and IBSI tag where there is one."]
    return [*told, *clinical_predictors(facts)]


@answer
def imbalance(facts: RunFacts) -> list[str]:
    """Balance of the outcome, and that nothing was done about it."""
    if not facts.fitted:
        return outcome(facts)
    return [*outcome(facts), "No case was weighted, drawn again or made up to balance the classes."]


@answer
def fairness(facts: RunFacts) -> list[str]:
    told = judged.subgroups(facts)
    if told or not facts.fitted:
        return told
    asked = many(facts.planned("subgroups"))
    if asked:
        return [f"Performance by {listed(asked)} was asked for, but is not estimable."]
    return ["No performance by sex, age or other groups of patients was asked for in this run."]


@answer
def output(facts: RunFacts) -> list[str]:
    """What the models give; no thresholds."""
    absolute = (
        "" if built.is_competing(facts) else ", and with its baseline hazard the probability of an event by a time"
    )
    kinds = {
        "cox": f"The Cox model gives a risk (linear predictor){absolute}.",
        "logistic": "The logistic model gives a probability of the outcome.",
    }
    told = [kinds[model] for model in facts.fitted if model in kinds]
    net = judged.has_net_benefit(facts)
    thresholds = " Net benefit was computed over a range of thresholds, none of which was chosen." if net else ""
    return _of_models(
        facts,
        *told,
        f"No threshold turns it into classes; the report's curves group by it for display.{thresholds}",
        *(sentence for model in facts.fitted for sentence in built.recalibration(facts, model)),
    )


@answer
def predictions(facts: RunFacts) -> list[str]:
    if facts.material.predictions.empty:
        return _of_models(facts)
    return [
        "Each prediction is of a case that its model had not seen, from that model's own filling, harmonisation, scale "
        "and coefficients; tables/predictions.csv has all of them."
    ]


@answer
def preparation(facts: RunFacts) -> list[str]:
    """Quality checks and pre-processing."""
    qc = facts.material.qc
    warned = qc[qc["item"] == "warning"] if len(qc) else qc
    told = [f"The steps warned of {count(warned['case_id'].nunique(), 'scan')} (tables/qc.csv)."] if len(warned) else []
    none = ["No step warned of a scan."] if facts.imaging and not len(warned) else []
    return [*text.cohort_out(facts), *told, *none, *preprocessing(facts), *text.empty_features(facts)]


# ------------------------------------------------------------------------ performance


@answer
def testing(facts: RunFacts) -> list[str]:
    return _of_models(facts, *judged.validation(facts))


@answer
def internal_test(facts: RunFacts) -> list[str]:
    """Tests on cases of the same centres."""
    inside = [judged.SPLITS[split] for split in (judged.CROSS_VALIDATION, judged.OPTIMISM) if split in facts.splits]
    locked = judged.locked_test(facts)
    if not inside and not locked:
        return _of_models(facts, "No internal test was made.")
    return [*([f"Internal validation by {' and '.join(inside)}."] if inside else []), *locked]


@answer
def external_test(facts: RunFacts) -> list[str]:
    """Tests on cases of other centres."""
    if not facts.fitted:
        return _of_models(facts)
    if judged.LEAVE_ONE_CENTRE_OUT in facts.splits:
        n = count(len(judged.left_out(facts)) or len(facts.centres), "centre")
        return [
            f"Each of {n} was left out in turn and predicted by models of the others; no data from elsewhere.",
            *batches.unseen_batches(facts),
        ]
    return ["No external test: no model was tried on a centre that it had not seen."]


@answer
def uncertainty(facts: RunFacts) -> list[str]:
    told = [*judged.intervals(facts), *judged.not_estimable(facts)]
    none = [] if told else ["No interval was estimated."]
    return _of_models(facts, *told, *none, *text.sensitivity(facts))


@answer
def calibration_of_models(facts: RunFacts) -> list[str]:
    """Measures of calibration that were estimated."""
    told = []
    for model in facts.fitted:
        rows = facts.estimates(model)
        held_out = set(rows[rows["split"] != judged.OPTIMISM]["metric"])
        found = [metric for metric in judged.OF_CALIBRATION if metric in held_out]
        if found:
            told.append(f"{built.name_of(model)}: {'; '.join(judged.metric_name(metric, model) for metric in found)}.")
    if not told:
        return _of_models(facts, "Calibration was not assessed in this run.")
    updated = [sentence for model in facts.fitted for sentence in built.recalibration(facts, model)]
    return ["Assessed on cases that the models had not seen.", *told, *judged.calibration_curves(facts), *updated]


@answer
def comparison_test(facts: RunFacts) -> list[str]:
    differences = [metric for metric in facts.metrics if "difference" in metric]
    if differences:
        return [f"Sets of predictors are compared by {listed(differences)}."]
    return _of_models(facts, "No test compares the sets of predictors: each has its own interval.")


@answer
def comparison(facts: RunFacts) -> list[str]:
    """Clinical arms beside those with features."""
    clinical = [arm for arm in facts.arms() if arm.startswith("clinical")]
    both = [arm for arm in facts.arms() if "+clinical" in arm]
    if not clinical and not both:
        return _of_models(facts, "No model without features was fitted for comparison.")
    told = built.arms(facts)
    return [*told, *judged.net_benefit(facts)]


@answer
def simple_model(facts: RunFacts) -> list[str]:
    kinds = [MODELS[model][0] for model in facts.fitted if model in MODELS]
    return _of_models(facts, f"The models are regressions themselves ({listed(kinds)}).", *comparison(facts))


@answer
def performance(facts: RunFacts) -> list[str]:
    """The primary metric of each model, arm and validation over all centres."""
    return _results(facts, facts.arms())


@answer
def comparison_results(facts: RunFacts) -> list[str]:
    if not any("clinical" in arm for arm in facts.arms()):
        return _of_models(facts, "No model without features was fitted for comparison.")
    return _results(facts, facts.arms())


def _results(facts: RunFacts, arms: list[str]) -> list[str]:
    rows = _primary(facts, judged.overall(facts.estimates()))
    rows = rows[rows["arm"].isin(arms)]
    told = []
    for (model, metric, split), part in rows.groupby(["model", "metric", "split"], sort=False):
        found = "; ".join(f"{row['arm']} {_estimate(row)}" for row in part.to_dict("records"))
        name, what = built.name_of(str(model)), judged.metric_name(str(metric))
        told.append(f"{name}, {what}, {judged.SPLITS.get(str(split), split)}: {found}.")
    return _of_models(facts, *told)


def _primary(facts: RunFacts, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of each model's primary metric: of pairs within centres where these lead, else of all pairs."""
    kept = []
    for model in facts.fitted:
        own = rows[(rows["model"] == model) & rows["metric"].str.startswith(PRIMARY.get(model, "-"))]
        own = own[own["metric"].isin([PRIMARY.get(model, ""), PRIMARY.get(model, "") + judged.WITHIN])]
        lead = own[own["leads"] == "yes"]
        kept.append(lead if len(lead) else own[~own["metric"].str.endswith(judged.WITHIN)])
    return pd.concat(kept) if kept else rows.iloc[:0]


def _estimate(row: Mapping[Any, Any]) -> str:
    value = decimal(float(row["estimate"]), 2) if row["estimate"] else "-"
    if not row["ci_low"] or not row["ci_high"]:
        return value
    return f"{value} ({decimal(float(row['ci_low']), 2)} to {decimal(float(row['ci_high']), 2)})"


@answer
def heterogeneity(facts: RunFacts) -> list[str]:
    """Performance by centre: how many centres have an estimate, and the range of the primary metric."""
    rows = judged.by_centre(facts.performance())
    rows = rows[rows["metric"] == rows["model"].map(PRIMARY)]
    if rows.empty:
        return _of_models(facts, "Performance was not estimated by centre.")
    told = []
    for (model, arm, split), part in rows.groupby(["model", "arm", "split"], sort=False):
        known = part[part["status"] != NOT_ESTIMABLE]
        values = numbers(known["estimate"])
        spread = f"{decimal(values.min(), 2)} to {decimal(values.max(), 2)}" if len(known) else "none"
        of = part["centre"].nunique()
        told.append(f"{model}, {arm}, {judged.SPLITS.get(str(split), split)}: {spread} ({len(known)} of {of} centres)")
    first = f"Performance is given for each centre; lowest to highest: {'; '.join(told)}."
    return [first, *judged.centres(facts)[1:], *batches.confounding(facts)[:1]]


@answer
def updating(facts: RunFacts) -> list[str]:
    """Whether predictions were recalibrated."""
    told = [sentence for model in facts.fitted for sentence in built.recalibration(facts, model)]
    return _of_models(facts, *(sentence for sentence in told if "recalibrat" in sentence))


@answer
def training_and_test(facts: RunFacts) -> list[str]:
    """Differences between training and test cases that the tables show."""
    if "leave-one-centre-out" in facts.splits:
        told = "Each centre was predicted by models of the others; the report compares the centres' patients."
        return [told, *batches.confounding(facts)]
    if not facts.fitted:
        return _of_models(facts)
    return ["Training and test cases are drawn from the same centres."] if facts.splits else []


@answer
def analysed(facts: RunFacts) -> list[str]:
    """Patients and events of each model."""
    told = []
    for model in facts.fitted:
        size = facts.size(model)
        if size:
            name = MODELS[model][0] if model in MODELS else model
            told.append(f"{name}: {count(size[0], 'patient')}, {size[1]} {built.counted(model)}.")
    refused = [
        f"{built.name_of(model)}: not fitted, {facts.without_names(why)}." for model, why in facts.refused.items()
    ]
    return _of_models(facts, *told, *refused, *judged.locked_test(facts))


@answer
def interpretability(facts: RunFacts) -> list[str]:
    told = ["The models are linear: coefficients per standard deviation, and in how many folds each was selected."]
    table = facts.material.coefficients
    if "selection_frequency" in table and np.isfinite(numbers(table["selection_frequency"])).any():
        told.append("How often each was selected in bootstrap samples stands beside them.")
    if "volume_correlation" in table and np.isfinite(numbers(table["volume_correlation"])).any():
        told.append("So does each feature's rank correlation with the region's volume.")
    maps = ["Voxel maps of features are shown in the report."] if facts.material.voxel_maps else []
    return _of_models(facts, *told, *_selected(facts), *maps)


@answer
def use_with_gaps(facts: RunFacts) -> list[str]:
    """What a model's description holds for input that is missing."""
    if not facts.fitted:
        return _of_models(facts)
    return ["A model's description has the median or commonest word of each predictor, which fills what is missing."]


@answer
def see_tripod(_: RunFacts) -> list[str]:
    return ["The rows of TRIPOD+AI in this table."]


# ------------------------------------------------------------------------------ sharing


@answer
def share_features(_: RunFacts) -> list[str]:
    return ["tables/ holds features, codebook and a Frictionless description (datapackage.json), ready to be shared."]


@answer
def share_settings(facts: RunFacts) -> list[str]:
    if not facts.material.provenance:
        return []
    return ["The report lists every setting as it was used, methods.md the hashes of code, parameter file and net."]


@answer
def share_code(facts: RunFacts) -> list[str]:
    told = text.software(facts)
    return [*told, "Hashes of each step's code are in methods.md."] if facts.material.provenance else told


@answer
def share_model(facts: RunFacts) -> list[str]:
    if not facts.fitted:
        return _of_models(facts)
    return [
        "models/<model>/model.json has of each arm coefficients, scale, filling of gaps, transformation, ComBat's "
        "parameters, and the baseline hazard or recalibration."
    ]
