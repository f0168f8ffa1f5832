"""What a run says of its models: plan, endpoints, penalty, arms, steps of the pipeline, inference, sample size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from radloom.phrases import and_, quoted
from radloom.references import cite
from radloom.report_sections import MODELS
from radloom.report_view import count, listed, numbers
from radloom.run_facts import MOST_NAMES, RunFacts, many
from radloom.sample_size import MARGIN, OPTIMISM, SHRINKAGE

ARMS = {
    "clinical": "the clinical predictors alone",
    "features": "features as extracted",
    "features_combat": "features, harmonised in every split",
    "features_combat+clinical": "features, harmonised in every split, and clinical predictors",
}
CENTRE_ARM = "features_centre"
IN_MODEL = {
    "cox": "the batch as stratum of the Cox model, each with its own baseline hazard",
    "logistic": "unpenalised indicators of the batch in the logistic model",
}
OUT_OF_FOLD = "risk (out of fold)"
TRANSFORMS = {"km": "Kaplan-Meier", "rank": "rank"}
RECALIBRATIONS = {
    "temperature": "one slope (temperature scaling)",
    "platt": f"slope and intercept (Platt's scaling){cite('cox1958')}",
    "isotonic": f"isotonic regression{cite('zadrozny2002')}",
}


def name_of(model: str) -> str:
    """A model's name in a sentence."""
    return MODELS[model][0] if model in MODELS else model


def counted(model: str) -> str:
    """What is counted of a model beside its patients."""
    return "events" if model == "cox" else "with the outcome"


def endpoint(facts: RunFacts, model: str) -> str:
    """The endpoint of a model as the plan names it; empty where it isn't known."""
    if model == "cox":
        time, event = facts.planned("time"), facts.planned("event")
        return f"`{time}`, event `{event}`" if time and event else f"`{time}`" if time else ""
    outcome = facts.planned("outcome")
    return f"`{outcome}`" if outcome else ""


def plan(facts: RunFacts) -> list[str]:
    """The hash by which the tables name the analysis plan that they follow."""
    hashes = facts.plan_hashes
    if len(hashes) > 1:
        return [
            f"The tables of the models follow different analysis plans ({listed(hashes)}): they don't belong together."
        ]
    if not hashes:
        return []
    return [
        "Endpoint, horizons, covariates, arms and metrics are those of the section analysis_plan of the configuration; "
        f"every table of the models has its hash, {hashes[0]} (the first digits of a SHA-256)."
    ]


def is_competing(facts: RunFacts) -> bool:
    """Whether another event may rule the event of the Cox model out."""
    return bool(facts.planned("competing_event")) or len(facts.table("cumulative_incidence")) > 0


def models(facts: RunFacts) -> list[str]:
    """Each model: endpoint, size and penalty; and the models that were not fitted."""
    sentences = []
    people = facts.included["patient_id"].nunique()
    for model in facts.fitted:
        size = facts.size(model)
        what = "events" if model == "cox" else "cases with the outcome"
        told = f" ({size[0]} of {count(people, 'included patient')}, {size[1]} {what})" if size else ""
        end = endpoint(facts, model)
        kind = "Cause-specific Cox model" if model == "cox" and is_competing(facts) else name_of(model)
        sentences.append(f"{kind}{f' of {end}' if end else ''}{told}: {penalty(facts, model)}")
        sentences += recalibration(facts, model)
    for model, reason in facts.refused.items():
        end = endpoint(facts, model)
        sentences.append(f"{name_of(model)}{f' of {end}' if end else ''}: not fitted, {facts.without_names(reason)}.")
    overridden = facts.material.coefficients
    if len(overridden) and overridden["override"].str.lower().isin(["true", "1"]).any():
        sentences.append(
            "A model was fitted although it has fewer events than required (override_sample_size): don't rely on it."
        )
    return [*sentences, *competing(facts)]


def penalty(facts: RunFacts, model: str) -> str:
    """The penalty of a model and how it was chosen, as a sentence's end."""
    section = f"model_{model}"
    ratio = facts.setting(section, "l1_ratio")
    kind = {None: "penalised", 0: "ridge", 1: "lasso"}.get(ratio, "elastic net")
    mixing = f" (l1_ratio {float(ratio):g})" if ratio not in (None, 0, 1) else ""
    own = {"lasso": ["tibshirani1996"], "elastic net": ["zou2005"]}.get(kind, [])
    source = cite(*own, "simon2011" if model == "cox" else "friedman2010")
    ties = f", ties after Breslow{cite('breslow1974')}" if model == "cox" else ""
    inner = facts.inner_folds(model)
    folds = f"{'-'.join(map(str, dict.fromkeys([inner[0], inner[-1]])))}-fold " if inner else ""
    where = f"in {folds}cross-validation inside the training cases"
    deviance = "partial-likelihood deviance" if model == "cox" else "deviance"
    rule = facts.setting(section, "penalty")
    if rule == "min":
        chosen = f", the penalty that of the least {deviance} {where}"
    elif rule == "1se":
        chosen = f", the penalty the largest whose {deviance} is within one standard error of the least {where}"
    else:
        chosen = f", the penalty chosen {where.replace('in ', 'by ', 1)}" if inner else ""
    grouped = " (folds stratified by outcome and batch)" if chosen else ""
    return f"{kind}{mixing}{source}{ties}{chosen}{grouped}."


def recalibration(facts: RunFacts, model: str) -> list[str]:
    """Where absolute risks come from, and what was done to them."""
    told = facts.setting(f"model_{model}", "recalibration")
    if model == "cox":
        if is_competing(facts):
            return []
        efron = f"The baseline hazard for absolute risks has Efron's rule for ties{cite('efron1977')}"
        if told == "baseline":
            return [
                f"{efron}, and was estimated with the linear predictors of cases that inner folds had held out "
                "(recalibration of the baseline)."
            ]
        return [f"{efron}.", *(["Predicted risks were not recalibrated."] if told == "none" else [])]
    told = told or _recorded_recalibration(facts, model)
    if told == "none":
        return ["Predicted probabilities were not recalibrated."]
    if told not in RECALIBRATIONS:
        return []
    sentences = [
        f"Predicted probabilities were recalibrated by {RECALIBRATIONS[told]}, learned from predictions for cases that "
        "inner folds had held out."
    ]
    if any("not recalibrated (" in note for note in facts.notes(model)):
        sentences.append(
            "Where these could not carry it, the probabilities stayed as they were (tables/performance.csv)."
        )
    return sentences


def _recorded_recalibration(facts: RunFacts, model: str) -> str:
    """The recalibration that a model's description holds; empty where it holds none."""
    arms: Iterable[Mapping[str, Mapping[str, str]]] = facts.material.models.get(model, {}).get("arms", {}).values()
    for arm in arms:
        saved = (arm.get("recalibration") or {}).get("format", "")
        for kind in RECALIBRATIONS:
            if kind in saved.lower():
                return kind
    return ""


def competing(facts: RunFacts) -> list[str]:
    """Competing events: cause-specific models, cumulative incidence, and no absolute risk."""
    if "cox" not in facts.fitted or not is_competing(facts):
        return []
    event = facts.planned("competing_event")
    sentences = [
        f"A competing event{f' (`{event}`)' if event else ''} ends the follow-up in the cause-specific models"
        f"{cite('prentice1978', 'putter2007')}, as censoring does. The absolute risks of such a model are those of a "
        "world without the competing event: they were not judged."
    ]
    rows = facts.table("cumulative_incidence")
    if (rows["estimate"] != "").any():
        at = list(dict.fromkeys(rows["time"]))
        sentences.append(
            f"Cumulative incidences of both events are Aalen-Johansen estimates{cite('putter2007')} at "
            f"{and_([f'{float(time):g}' for time in at])}."
        )
    return sentences


# -------------------------------------------------------------------------------- arms


def arms(facts: RunFacts) -> list[str]:
    """The sets of predictors that were compared, and those of the plan that there are not."""
    found = facts.arms()
    if not found:
        return []
    told = [f"{arm} ({_arm(facts, arm)})" if _arm(facts, arm) else arm for arm in found]
    predictors = many(facts.planned("covariates"))
    clinical = (
        f" Clinical predictors: {quoted(predictors)}" if predictors and any("clinical" in a for a in found) else ""
    )
    penalised = f"{clinical}, penalised as the features are." if clinical else ""
    return [f"Sets of predictors (arms), side by side: {'; '.join(told)}.{penalised}", *_arms_left_out(facts)]


def _arm(facts: RunFacts, arm: str) -> str:
    if arm != CENTRE_ARM:
        return ARMS.get(arm, "")
    own = [IN_MODEL[model] for model in facts.fitted if model in IN_MODEL and arm in facts.arms(model)]
    return f"features as extracted, and {and_(own)}"


def _arms_left_out(facts: RunFacts) -> list[str]:
    """Arms that can't be estimated, with the reason, and planned ones that the data can't have."""
    sentences = []
    for model in facts.fitted:
        rows = facts.performance(model)
        for arm in dict.fromkeys(rows["arm"]):
            if arm not in facts.arms(model):
                reason = str(rows[rows["arm"] == arm]["note"].iloc[0])
                sentences.append(f"{name_of(model)}, {arm}: not estimable, {facts.without_names(reason)}.")
        absent = [arm for arm in many(facts.planned("arms")) if arm not in set(rows["arm"])]
        if absent:
            sentences.append(
                f"{name_of(model)}: planned, but there is nothing to make it of (no clinical predictor, or a single "
                f"batch): {listed(absent)}."
            )
    return sentences


def pipeline(facts: RunFacts) -> list[str]:
    """What was learned from the training cases, in its order."""
    if not facts.fitted:
        return []
    found = facts.arms()
    parts = _of_features(facts) if any("features" in arm for arm in found) else []
    if any("clinical" in arm for arm in found):
        parts.append(
            "filling missing clinical numbers by the median and words by the commonest, and coding words by indicators"
        )
    parts += ["scaling every column to mean 0 and standard deviation 1", "choosing the penalty", "fitting"]
    sentences = [f"In every split the training cases alone decided, in this order: {'; '.join(parts)}."]
    settled = []
    if facts.setting("model", "min_icc") is not None:
        settled.append("which features are stable")
    if facts.harmonised_arms:
        settled.append("which batches are small")
    if len(facts.material.coefficients):
        sentences.append("The models whose coefficients are reported were made by the same steps of all their cases.")
    if settled:
        sentences.append(f"Before the splits, of all cases but without outcomes, it was settled {and_(settled)}.")
    return sentences


def _of_features(facts: RunFacts) -> list[str]:
    parts = ["filling missing feature values by the median", "dropping constant features"]
    transformation = facts.setting("model", "transformation")
    if transformation == "signed_log":
        parts.append("transforming every feature x to sign(x) log(1 + |x| / s), s the median of |x|")
    elif transformation == "yeo-johnson":
        parts.append(f"transforming every feature after Yeo and Johnson{cite('yeo2000')}")
    if facts.harmonised_arms:
        parts.append("harmonising (in the arms that say so)")
    limit = facts.setting("model", "max_correlation")
    if limit is not None:
        parts.append(f"dropping the later of two features with an absolute Spearman correlation above {float(limit):g}")
    most = facts.setting("model", "max_terms")
    if most is not None:
        parts.append(
            f"keeping the {count(int(most), 'feature')} with the largest score statistic of a model of its own"
        )
    return parts


# --------------------------------------------------------------------------- inference


def inference(facts: RunFacts) -> list[str]:
    """The covariates' own models without a penalty, which have intervals and tests."""
    sentences = []
    if len(facts.material.coefficients):
        sentences.append("Penalised coefficients are per standard deviation, and have no intervals and no tests.")
    for model in facts.fitted:
        rows = facts.table("inference", model)
        if rows.empty:
            continue
        ratio = "Hazard" if model == "cox" else "Odds"
        own = rows[rows["method"] == rows["method"].iloc[0]].iloc[0]
        size = f" ({own['n']} cases, {own['events']} {counted(model)})" if own["n"] else ""
        how = and_([_method(str(method)) for method in dict.fromkeys(rows["method"])])
        sentences.append(
            f"{ratio} ratios of the clinical predictors with intervals and tests are of their own model without a "
            f"penalty{size}: {how}."
        )
        if model == "cox" and any("competing event" in method for method in rows["method"]):
            sentences.append("There is one such model for each kind of event, in which the other censors.")
        filled = re.search(r"(\d+) missing cells filled with the median", " ".join(rows["note"]))
        if filled:
            sentences.append(f"In it {count(int(filled[1]), 'missing cell')} took the median or the commonest word.")
        lost = int((~np.isfinite(numbers(rows["coefficient"]))).sum())
        if lost:
            verb = "is" if lost == 1 else "are"
            sentences.append(f"{lost} of its {count(len(rows), 'coefficient')} {verb} not estimable.")
    return sentences


def _method(method: str) -> str:
    """A method of the table `inference` with its sources."""
    told = {
        "maximum likelihood": "maximum likelihood with Wald intervals",
        "Firth": f"Firth's penalised likelihood{cite('firth1993', 'heinze2002')} with profile intervals, as the "
        "predictors separate the outcome or come close to it",
    }.get(method)
    if told is not None:
        return told
    first, _, rest = method.partition(", Efron ties")
    kind = {"Cox": "Cox model", "Cox, competing event": "Cox model of the competing event"}.get(first, first)
    robust = rest.replace("robust standard errors", f"cluster-robust standard errors{cite('linwei1989')}")
    return f"{kind}, ties after Efron{cite('efron1977')}{robust}"


def hazards(facts: RunFacts) -> list[str]:
    """The test of proportional hazards: of what, and on which scales of time."""
    rows = facts.material.ph_test
    if rows.empty:
        return []
    scales = [TRANSFORMS.get(name, name) for name in dict.fromkeys(rows["transform"])] if "transform" in rows else []
    on = f", on the {and_(scales)} scale of time" if scales else ""
    tested = []
    if (rows["term"] != OUT_OF_FOLD).any():
        tested.append("the clinical predictors in their own model without a penalty")
    if (rows["term"] == OUT_OF_FOLD).any():
        tested.append("each arm's out-of-fold risk as the only term of a model stratified by fold")
    return [
        f"Proportional hazards: score test of each term's interaction with time{on}{cite('grambsch1994')}, of "
        f"{and_(tested)}; a penalised fit itself has no such test."
    ]


# ------------------------------------------------------------------------- sample size


def sample_size(facts: RunFacts) -> list[str]:
    """The least number of events that a model was fitted with, the numbers there were, and Riley's criteria."""
    sentences = []
    least = facts.setting("model", "min_events")
    if least is not None and (facts.fitted or facts.refused):
        sentences.append(f"The least number of events (or cases of the rarer class) to fit a model with was {least}.")
    for model in facts.fitted:
        size = facts.size(model)
        n = facts.candidates(model)
        if size:
            per = f", {n} candidate terms at most after pruning" if n else ""
            sentences.append(f"{name_of(model)}: {count(size[0], 'patient')}, {size[1]} {counted(model)}{per}.")
    return [*sentences, *riley(facts)]


def _whole(cell: str) -> str:
    return f"{int(float(cell)):,}"


def riley(facts: RunFacts) -> list[str]:
    """Riley's criteria with the figures of the table of sample sizes."""
    rows = facts.table("sample_size")
    rows = rows[rows["criterion"] == "all"] if len(rows) else rows
    if rows.empty:
        return []
    told = []
    for model, own in rows.groupby("model", sort=False):
        arms_: dict[str, list[str]] = {}
        for row in own.to_dict("records"):
            if row["needed_n"] == "":
                figures = f"can't be computed ({row['note']})"
            else:
                met = str(row["met"]).lower() in ("true", "1")
                figures = (
                    f"{_whole(row['needed_n'])} cases with {_whole(row['needed_events'])} events needed for "
                    f"{_whole(row['parameters'])} candidate parameters, {'' if met else 'not '}met"
                )
            arms_.setdefault(figures, []).append(str(row["arm"]))
        there = own.iloc[0]
        by_arm = "; ".join(f"{and_(names)}: {figures}" for figures, names in arms_.items())
        told.append(
            f"{name_of(str(model))}, of {_whole(there['available_n'])} cases with {_whole(there['available_events'])} "
            f"events, {by_arm}"
        )
    assumed = " ".join(rows["note"])
    r2 = ", R2 assumed to be 15 % of its largest possible value" if "assumed: 15% of" in assumed else ""
    return [
        f"Riley's criteria of sample size{cite('riley2019', 'riley2020')} (shrinkage {SHRINKAGE:g}, optimism of R2 "
        f"{OPTIMISM:g}, overall risk to {MARGIN:g}{r2}; every candidate counts, also one that the penalty leaves out): "
        f"{'. '.join(told)}."
    ]


def missing_data(facts: RunFacts) -> list[str]:
    """How much of the covariates was missing, and what was done about it."""
    sentences = []
    lost = facts.missing_covariates
    if lost:
        told = listed((f"{name} in {n}" for name, n in lost.items()), MOST_NAMES)
        sentences.append(f"Of the included patients' covariates, missing: {told}.")
    elif facts.planned("covariates"):
        sentences.append("No clinical predictor is missing in an included patient.")
    without = facts.material.qc
    lonely = without[(without["step"] == "tables") & (without["item"] == "warning")] if len(without) else without
    if len(lonely):
        sentences.append(
            f"{count(len(lonely), 'scan')} had no row in the clinical table or another gap that the models leave out."
        )
    if facts.fitted and (facts.empty_cells or lost):
        sentences.append(
            "In the models missing numbers took the median and missing words the commonest value of the training cases."
        )
    return sentences
