"""What a run says of how its models were judged: splits, metrics, intervals, centres, subgroups, locked test set."""

from __future__ import annotations

import numpy as np
import pandas as pd

from radloom.methods_harmonisation import unseen_batches
from radloom.methods_models import CENTRE_ARM, name_of
from radloom.phrases import and_, first_upper
from radloom.references import cite
from radloom.report_view import count, listed, numbers
from radloom.run_facts import COMBINED, MOST_NAMES, NOT_ESTIMABLE, POOLED, WORST, RunFacts, by_count, many

CROSS_VALIDATION, LEAVE_ONE_CENTRE_OUT = "cross-validation", "leave-one-centre-out"
OPTIMISM, LOCKED_TEST = "optimism-corrected", "locked-test"
SPLITS = {
    CROSS_VALIDATION: "cross-validation",
    LEAVE_ONE_CENTRE_OUT: "leaving one centre out",
    OPTIMISM: "optimism-corrected bootstrap",
    LOCKED_TEST: "a locked test set",
}
WITHIN = "_within_centre"
METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "c_index": ("Harrell's C", ("harrell1996",)),
    "uno_c": ("Uno's C, of event times at which a tenth or more would still be uncensored", ("uno2011",)),
    "auc": ("AUC", ()),
    "brier": ("Brier score", ("brier1950",)),
    "scaled_brier": ("scaled Brier score (1 less its ratio to that of the same risk for all)", ("kattan2018",)),
    "integrated_brier": ("integrated Brier score", ("graf1999",)),
    "observed_expected": ("observed over expected risk", ("vancalster2019",)),
    "calibration_in_the_large": ("calibration in the large", ("vancalster2019",)),
    "calibration_intercept": ("calibration intercept", ("vancalster2019",)),
    "calibration_slope": ("calibration slope, within folds", ("vancalster2019",)),
    "ici": ("integrated calibration index (ICI)", ("austin2019",)),
}
"""Metrics in words and their sources; what survival has otherwise is in OF_SURVIVAL."""

OF_SURVIVAL: dict[str, tuple[str, tuple[str, ...]]] = {
    "auc": ("cumulative/dynamic AUC at the horizons, weighted for censoring", ("uno2007", "blanche2013")),
    "brier": ("Brier score at the horizons, weighted for censoring", ("graf1999",)),
    "integrated_brier": ("Brier score integrated up to the last horizon", ("graf1999",)),
    "observed_expected": ("observed (Kaplan-Meier) over expected risk at the horizons", ("debray2017",)),
    "calibration_in_the_large": ("calibration in the large on the complementary log-log scale", ("crowson2016",)),
    "calibration_intercept": ("calibration intercept on the complementary log-log scale", ("crowson2016",)),
    "calibration_slope": ("calibration slope on that scale, within folds", ("crowson2016",)),
    "ici": ("integrated calibration index (ICI)", ("austin2020",)),
}
OF_CALIBRATION = ("observed_expected", "calibration_in_the_large", "calibration_intercept", "calibration_slope", "ici")


def metric_name(metric: str, model: str = "") -> str:
    """A metric in words, without its sources."""
    base = metric.removesuffix(WITHIN)
    known = {**METRICS, **(OF_SURVIVAL if model == "cox" else {})}
    told = known[base][0] if base in known else base.replace("_", " ")
    return f"{told}, pairs within centres" if metric.endswith(WITHIN) else told


def by_centre(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of single centres."""
    return rows[~rows["centre"].isin(COMBINED) & (rows["subgroup"] == "")]


def overall(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of all cases together."""
    return rows[rows["centre"].isin(COMBINED[:2]) & (rows["subgroup"] == "")]


# ------------------------------------------------------------------------------ splits


def validation(facts: RunFacts) -> list[str]:
    """How predictions of cases that a model had not seen came about."""
    sentences = []
    for split in facts.splits:
        if split == CROSS_VALIDATION:
            sentences += _cross_validation(facts)
        elif split == LEAVE_ONE_CENTRE_OUT:
            sentences += _centres_left_out(facts)
        elif split == OPTIMISM:
            sentences += _optimism(facts)
        elif split != LOCKED_TEST:
            sentences.append(f"Validation: {split}.")
    if sentences:
        sentences += unseen_batches(facts)
    sentences += locked_test(facts)
    seed = facts.setting("model", "seed")
    if sentences and seed is not None:
        sentences.append(f"The seed of the random splits and of the bootstrap was {seed}.")
    return sentences


def _cross_validation(facts: RunFacts) -> list[str]:
    folds = {model: facts.folds(model) for model in facts.fitted if facts.folds(model)}
    k = " and ".join(dict.fromkeys(f"{n}-fold" for n in folds.values()))
    return [
        f"Internal validation: {f'{k} ' if k else ''}cross-validation, patients kept together, stratified by outcome "
        "and batch.",
        "Every fold has its own model: what compares risks of cases compares them within folds only.",
    ]


def left_out(facts: RunFacts) -> list[str]:
    """The centres that were left out in turn."""
    rows = facts.performance()
    return list(dict.fromkeys(by_centre(rows[rows["split"] == LEAVE_ONE_CENTRE_OUT])["centre"]))


def _centres_left_out(facts: RunFacts) -> list[str]:
    n = len(left_out(facts)) or len(facts.centres)
    told = (
        "each of the two centres was predicted by models of the other, in both directions"
        if n == 2
        else f"each of {count(n, 'centre')} was left out in turn, and predicted by models of the others"
    )
    sentences = [f"Internal-external validation{cite('steyerberg2016')}: {told}."]
    rows = facts.estimates()
    rows = rows[(rows["split"] == LEAVE_ONE_CENTRE_OUT) & (rows["arm"] == CENTRE_ARM)]
    if "cox" in set(rows["model"]) and rows["horizon"].ne("").any():
        sentences.append("A centre that a stratified model has not seen has the baseline hazard of all training cases.")
    if "logistic" in set(rows["model"]):
        sentences.append("A batch that a model with indicators has not seen counts as the average one.")
    return sentences


def _optimism(facts: RunFacts) -> list[str]:
    refits = facts.setting("model", "refits")
    often = f"{count(int(refits), 'bootstrap sample')}" if refits else "bootstrap samples"
    rows = facts.estimates()
    of = and_(kinds_of(rows[rows["split"] == OPTIMISM])) or "the performance"
    told = [
        f"Optimism of {of} was estimated in {often} of patients drawn within centre, to each of which "
        f"the whole pipeline was fitted anew, and taken off the apparent performance{cite('harrell1996')}.",
    ]
    if refits and int(refits) < 100:
        told.append(f"With {refits} of them it is no more than a rough figure.")
    table = facts.material.coefficients
    if "selection_frequency" in table and np.isfinite(numbers(table["selection_frequency"])).any():
        told.append("A term's selection frequency is the share of these models that have it.")
    return told


def kinds_of(rows: pd.DataFrame) -> list[str]:
    """The kinds of metrics that rows of the performance table have."""
    found = {metric.removesuffix(WITHIN) for metric in rows["metric"]}
    kinds = {
        "discrimination": found & {"c_index", "uno_c", "auc"},
        "Brier scores": {metric for metric in found if "brier" in metric},
        "observed over expected risk": found & {"observed_expected"},
        "the calibration slope": found & {"calibration_slope"},
    }
    return [kind for kind, own in kinds.items() if own]


def locked_test(facts: RunFacts) -> list[str]:
    """The locked test set: who is in it, whether it was opened, and what its ledger says."""
    planned = facts.planned("test_set")
    rows = facts.performance()
    opened = rows[rows["split"] == LOCKED_TEST]
    named = ""
    if isinstance(planned, dict) and {"column", "value"} <= set(planned):
        named = f" (`{planned['column']}` {planned['value']})"
    if opened.empty and not planned:
        return []
    sentences = []
    if len(opened):
        own = overall(opened)
        own = own[own["horizon"] == ""] if (own["horizon"] == "").any() else own
        sizes = []
        for model, part in own.groupby("model", sort=False):
            most = part.iloc[int(np.nan_to_num(numbers(part["n"])).argmax())]
            sizes.append(f"{name_of(str(model))}: {most['n']} cases")
        told = f" ({'; '.join(sizes)})" if sizes else ""
        sentences.append(
            f"A locked test set{named} was opened{told}: models of all other cases predicted it, and no model that is "
            "reported was fitted to it."
        )
    elif facts.planned("open_test_set"):
        sentences.append(f"A locked test set{named} was set aside; there is no estimate of it.")
    else:
        sentences.append(f"A locked test set{named} was set aside: no model saw it, and it was not opened in this run.")
    return [*sentences, *(f"{first_upper(told)}." for told in ledger(facts))]


def ledger(facts: RunFacts) -> list[str]:
    """What the ledger of the locked test set makes the model steps warn of."""
    told = [message for model in ("cox", "logistic") for message in facts.warned(f"model_{model}")]
    marks = ("after the locked test set had been opened", "the locked test set was opened with")
    return [message for message in dict.fromkeys(told) if any(mark in message for mark in marks)]


# ----------------------------------------------------------------------------- metrics


def horizons(facts: RunFacts) -> list[str]:
    """The times at which survival predictions were judged, and whether they were planned."""
    rows = facts.estimates("cox")
    at = sorted({float(cell) for cell in rows[rows["metric"] != "integrated_brier"]["horizon"] if cell})
    if not at:
        return []
    time = facts.planned("time")
    unit = f" (in the unit of `{time}`)" if time else ""
    told = f"Survival predictions were judged at {and_([f'{value:g}' for value in at])}{unit}"
    planned = facts.planned("horizons")
    if many(planned):
        return [f"{told}, the horizon{'s' if len(many(planned)) > 1 else ''} of the plan."]
    if planned is not None:
        return [f"{told}, the median time of the events: no horizon was planned, so this one follows from the data."]
    return [f"{told}."]


def metrics(facts: RunFacts) -> list[str]:
    """What performance was measured by, and its intervals."""
    if not facts.metrics:
        return []
    sentences = list(horizons(facts))
    for model in facts.fitted:
        told = _metrics_of(facts, model)
        if told:
            sentences.append(f"The performance of the {_lower(name_of(model))} was measured by {'; '.join(told)}.")
    return [*sentences, *leading(facts), *curves(facts), *centres(facts), *subgroups(facts), *intervals(facts),
            *not_estimable(facts)]  # fmt: skip


def _lower(name: str) -> str:
    return name if name.startswith("Cox") else name[:1].lower() + name[1:]


def _metrics_of(facts: RunFacts, model: str) -> list[str]:
    known = {**METRICS, **(OF_SURVIVAL if model == "cox" else {})}
    found = set(facts.estimates(model)["metric"])
    told = []
    for metric in [*known, *sorted({name.removesuffix(WITHIN) for name in found} - set(known))]:
        if metric not in found and metric + WITHIN not in found:
            continue
        pairs = ""
        if metric + WITHIN in found:
            pairs = ", of all pairs and of pairs within centres" if metric in found else ", of pairs within centres"
        keys = known.get(metric, ("", ()))[1]
        told.append(f"{metric_name(metric, model)}{pairs}{cite(*keys) if keys else ''}")
    return told


def leading(facts: RunFacts) -> list[str]:
    """Which of all pairs and pairs within centres leads, and why."""
    rows = facts.estimates()
    rows = rows[(rows["leads"] == "yes") & rows["metric"].str.endswith(WITHIN)]
    sentences = []
    if (rows["arm"] != CENTRE_ARM).any():
        sentences.append(
            "Centres differ in the share of cases with the event, and a model gains over all pairs by telling centres "
            "apart: pairs within centres lead."
        )
    if ((rows["arm"] == CENTRE_ARM) & (rows["model"] == "cox")).any():
        sentences.append(
            "Risks of a model that is stratified by batch are not comparable between batches: only pairs within "
            "centres count for it."
        )
    return sentences


def curves(facts: RunFacts) -> list[str]:
    """Decision curves and calibration curves."""
    return [*net_benefit(facts), *calibration_curves(facts)]


def has_net_benefit(facts: RunFacts) -> bool:
    """Whether there is an estimate of the net benefit."""
    return bool((facts.table("decision_curve")["estimate"] != "").any())


def net_benefit(facts: RunFacts) -> list[str]:
    """Decision curves: thresholds and what the models are compared with."""
    if not has_net_benefit(facts):
        return []
    rows = facts.table("decision_curve")
    rows = rows[rows["estimate"] != ""]
    at = sorted({float(cell) for cell in rows["threshold"]})
    source = ["vickers2006", *(["vickers2008"] if "cox" in set(rows["model"]) else [])]
    return [
        f"Net benefit (decision curve){cite(*source)} was computed at {count(len(at), 'threshold')} from {at[0]:g} to "
        f"{at[-1]:g}, beside that of treating everybody and nobody."
    ]


def calibration_curves(facts: RunFacts) -> list[str]:
    """Curves of observed over predicted risk."""
    rows = facts.table("calibration_curve")
    if not (rows["observed"] != "").any():
        return []
    n = rows["group"].nunique()
    return [f"Calibration curves have the mean predicted and the observed risk of {n} groups of cases."]


def centres(facts: RunFacts) -> list[str]:
    """Performance by centre, pooled over centres, and of the worst."""
    rows = facts.estimates()
    own = by_centre(rows)
    if own.empty:
        return []
    sentences = [
        f"Performance was also estimated for each centre ({listed(dict.fromkeys(own['centre']), MOST_NAMES)})."
    ]
    pooled = rows[rows["centre"] == POOLED]
    if len(pooled):
        sentences.append(
            f"Centres were pooled by random effects{cite('debray2017')} (variance between centres by restricted "
            f"maximum likelihood{cite('viechtbauer2005')}, intervals after Hartung and Knapp"
            f"{cite('hartung2001', 'roever2015')}; {_scales(pooled)}standard errors from the bootstrap)."
        )
        if (pooled["prediction_low"] != "").any():
            sentences.append(f"Prediction intervals are for a new centre{cite('higgins2009')}.")
    if (rows["centre"] == WORST).any():
        sentences.append(
            "The worst centre's discrimination is the lowest of the centres; its interval takes the lowest of every "
            "bootstrap sample, and lies too low rather than too high."
        )
    return sentences


def _scales(pooled: pd.DataFrame) -> str:
    """The scales on which estimates were pooled, where these are not their own."""
    on: dict[str, dict[str, tuple[str, ...]]] = {
        "logit": {
            "C": ("c_index", "uno_c"),
            "AUC": ("auc",),
            "(integrated) Brier score": ("brier", "integrated_brier"),
        },
        "logarithmic": {"observed over expected risk": ("observed_expected",)},
    }
    found = set(pooled["metric"])
    told = []
    for scale, names in on.items():
        own = [name for name, metrics_ in names.items() if found & set(metrics_)]
        if own:
            told.append(f"{and_(own)} on the {scale} scale")
    return "".join(f"{part}; " for part in told)


def subgroups(facts: RunFacts) -> list[str]:
    """The groups of patients by which performance was judged."""
    rows = facts.estimates()
    groups: dict[str, list[str]] = {}
    for cell in dict.fromkeys(rows["subgroup"]):
        name, _, group = cell.partition(": ")
        if group:
            groups.setdefault(name, []).append(group)
    if not groups:
        return []
    told = "; ".join(f"{name} ({listed(own)})" for name, own in groups.items())
    kinds = and_(kinds_of(rows[rows["subgroup"] != ""])) or "performance"
    return [f"By group are also given {kinds}: {told}."]


def intervals(facts: RunFacts) -> list[str]:
    """Where the intervals of the performance came from."""
    rows = facts.performance()
    rows = rows[(rows["ci_low"] != "") & (rows["centre"] != POOLED)]
    n = facts.setting("model", "bootstraps")
    sentences = []
    if (rows["split"] != OPTIMISM).any():
        often = f"{n} bootstrap samples" if n else "bootstrap samples"
        sentences.append(
            f"95 % intervals are percentiles of {often} of the predictions, patients drawn with replacement within "
            "centres; the models were not fitted again, so that the intervals leave out how much the fits vary."
        )
    if (rows["split"] == OPTIMISM).any():
        sentences.append(
            "Intervals of optimism-corrected estimates are percentiles of the performance of the refitted models in "
            f"their own samples, moved to the corrected estimate (after Noma et al.{cite('noma2021')})."
        )
    return sentences


def not_estimable(facts: RunFacts) -> list[str]:
    """How many estimates the data didn't allow."""
    rows = facts.performance()
    missing = rows[(rows["status"] == NOT_ESTIMABLE) & rows["model"].isin(facts.fitted)]
    if missing.empty:
        return []
    reasons = by_count([facts.without_names(note) for note in missing["note"]], 3)
    return [f"{len(missing)} of {len(rows)} estimates were not estimable and are given as such: {reasons}."]
