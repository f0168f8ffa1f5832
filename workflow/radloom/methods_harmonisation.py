"""What a run says of its batches: what is confounded with them, how features were harmonised, and to what effect."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from radloom.phrases import first_upper, plain, quoted
from radloom.references import cite
from radloom.report_view import count, decimal, listed, number, numbers, p_value
from radloom.run_facts import MOST_NAMES, RunFacts, by_count, many

OUTCOME_BLIND = "The outcome was not a covariate of the harmonisation."
SMALL_BATCHES = {
    "error": ("would have stopped the run", ""),
    "exclude": ("were left out", "excluded_batches"),
    "merge": ("were merged into one", "merged_batches"),
    "passthrough": ("stayed as they were", "passthrough_batches"),
}
TOLD = frozenset(
    {
        *("method", "covbat_variance", "batch", "covariates", "missing_covariates", "parametric", "mean_only", "eb"),
        *("reference_batch", "min_batch_size", "small_batch", "new_batch", "exempt"),
    }
)
"""Settings of the harmonisation that a sentence knows."""


def confounding(facts: RunFacts) -> list[str]:
    """The gate before any fit: how far the batches differ in outcomes and covariates."""
    rows = facts.table("confounding")
    if rows.empty:
        return []
    rows = rows[rows["roi"] == facts.material.main_roi] if "roi" in rows else rows
    told, corrected = [], False
    for (variable, kind), own in rows.groupby(["variable", "kind"], sort=False):
        if own["batch"].nunique() < 2:
            continue
        one = own.iloc[0]
        v, eta, p = (numbers(own[name])[0] for name in ("cramers_v_corrected", "eta_squared", "p"))
        if np.isfinite(v):
            size, corrected = f"Cramer's V {decimal(v, 2)}", True
        elif np.isfinite(eta):
            size = f"eta squared {decimal(eta, 3)}"
        else:
            told.append(f"{kind} `{variable}` could not be compared")
            continue
        test = f", {one['test']} test p {_p(p)}" if one["test"] and np.isfinite(p) else ""
        told.append(f"{kind} `{variable}` {size}{test}")
    if not told:
        return []
    by = f" (`{facts.batch_columns[0]}`)" if facts.batch_columns else ""
    bias = f" V is corrected for bias{cite('bergsma2013')}." if corrected else ""
    return [
        f"Before anything was fitted, outcomes and covariates were compared between the batches{by}: {'; '.join(told)}."
        f"{bias}",
        "An outcome that is the same thing as the batch would have stopped the run.",
    ]


def _p(p: float) -> str:
    told = p_value(p)
    return told if told.startswith("<") else f"= {told}"


def harmonisation(facts: RunFacts) -> list[str]:
    """ComBat: batches, covariates, priors, what happened to small batches, exempt features and new batches."""
    done = facts.material.harmonized is not None or bool(facts.harmonised_arms)
    if not done:
        return ["Features were not harmonised."]
    sizes = facts.batch_sizes
    columns = facts.batch_columns
    if not sizes:
        return ["Features were harmonised by ComBat; its batches and settings are not known to this report."]
    several = len(columns) > 1
    if not several and len(sizes) < 2:
        return [f"There is one batch by {quoted(columns)}: ComBat had nothing to harmonise."]
    sentences = [_method(facts, sizes), OUTCOME_BLIND, *_covariates(facts), *_small_batches(facts), *_exempt(facts)]
    if facts.harmonised_arms:
        sentences.append(
            "In the models it was learned from the training cases of every split alone and applied to the cases held "
            "out; the harmonised table is of all cases and descriptive."
        )
        notes = " ".join(facts.notes(arm="combat"))
        if "harmonised without covariates" in notes or "not harmonised (" in notes:
            sentences.append(
                "In some splits it had to leave out its covariates, or could not be fitted and left the features as "
                "they were: the notes in tables/performance.csv say in which."
            )
        if "of batches with too few training cases not harmonised" in notes:
            sentences.append("Cases of a batch with too few training cases in a split stayed as they were there.")
    return [*sentences, *_further(facts)]


def _method(facts: RunFacts, sizes: Mapping[str, int]) -> str:
    """The first sentence: method, batches, priors, target, covariates."""
    columns = facts.batch_columns
    covbat = str(facts.setting("harmonize", "method", "")).lower() == "covbat"
    source = cite("johnson2007", "fortin2018", *(["chen2022"] if covbat else []))
    share = facts.setting("harmonize", "covbat_variance")
    components = (
        f" (after ComBat also the scores of the principal components that hold {number(100 * float(share))} % of the "
        "variance)"
        if covbat and share is not None
        else ""
    )
    one = f"{len(sizes)} batches by `{columns[0]}`" if columns else f"{len(sizes)} batches"
    batches = f"{one} ({listed((f'{k}: {v}' for k, v in sizes.items()), MOST_NAMES)})"
    for column in columns[1:]:
        cells = facts.values_of(column)
        batches += f", then {len(set(cells))} by `{column}`{f' ({by_count(cells)})' if cells else ''}"
    order = ""
    if len(columns) > 1:
        order = f", one column after the other in an order that was set beforehand{cite('horng2022')}"
    settings = facts.setting
    told = []
    if settings("harmonize", "eb") is False:
        told.append("without empirical Bayes")
    elif settings("harmonize", "parametric") is not None:
        told.append(f"with {'parametric' if settings('harmonize', 'parametric') else 'non-parametric'} priors")
    if settings("harmonize", "mean_only"):
        told.append("means only")
    reference = settings("harmonize", "reference_batch")
    told.append(f"to the batch {reference}" if reference else "to the pooled mean and variance")
    covariates = many(settings("harmonize", "covariates"))
    told.append(f"keeping the effect of {quoted(covariates)}" if covariates else "keeping no covariate's effect")
    name = "CovBat" if covbat else "ComBat"
    return f"Features were harmonised by {name}{source}{components} over {batches}{order}, {', '.join(told)}."


def _covariates(facts: RunFacts) -> list[str]:
    rule = facts.setting("harmonize", "missing_covariates")
    if not many(facts.setting("harmonize", "covariates")) or rule is None:
        return []
    if rule == "impute":
        return ["A missing covariate took the median, of words the commonest, of the cases of the fit."]
    return ["A missing covariate would have stopped the run."]


def _small_batches(facts: RunFacts) -> list[str]:
    least, rule = facts.setting("harmonize", "min_batch_size"), facts.setting("harmonize", "small_batch")
    if least is None or rule is None:
        return []
    told, key = SMALL_BATCHES.get(str(rule), ("were treated as configured", ""))
    saved = facts.material.combat.get(facts.material.main_roi, {})
    first: Mapping[str, Any] = next(iter(saved.get("steps", [])), saved)
    names = many(first.get(key)) if key else []
    concerned = f" ({listed(names)})" if names else ""
    return [f"Batches of fewer than {least} cases {told}{concerned}."]


def _exempt(facts: RunFacts) -> list[str]:
    patterns = many(facts.setting("harmonize", "exempt"))
    if not patterns:
        return []
    names = facts.material.feature_names
    n = sum(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
    return [f"{first_upper(count(n, 'feature'))} ({listed(patterns)}) kept the values as extracted."]


def _further(facts: RunFacts) -> list[str]:
    """Settings of the harmonisation that no sentence above knows, as they are."""
    section = facts.material.params.get("harmonize", {})
    others = [
        f"{key} {plain(value)}" for key, value in section.items() if key not in TOLD and value not in (None, [], {}, "")
    ]
    return [f"Further settings of the harmonisation: {', '.join(others)}."] if others else []


def unseen_batches(facts: RunFacts) -> list[str]:
    """What became of cases whose batch a model's training cases lack, in the arms with harmonisation."""
    told = " ".join(
        note for split in ("leave-one-centre-out", "locked-test") for note in facts.notes("", split, "combat")
    )
    sentences = []
    lacking = "of batches that the training cases lack"
    if f"{lacking} not judged" in told:
        sentences.append(
            "Harmonised arms made no prediction for cases of a batch that their training cases lack, since ComBat "
            "knows nothing of it (harmonize.new_batch: error)."
        )
    if f"{lacking} not harmonised" in told:
        sentences.append(
            "Cases of a batch that the training cases lack were predicted by harmonised arms from features as "
            "extracted (harmonize.new_batch: passthrough)."
        )
    if f"{lacking} harmonised by their own features" in told:
        sentences.append(
            "For cases of a batch that the training cases lack ComBat estimated the batch's effect from these cases' "
            "own features, without outcomes (harmonize.new_batch: adapt): such a prediction needs a group of cases of "
            "the new batch."
        )
    return sentences


def harmonisation_effect(facts: RunFacts) -> list[str]:
    """How much of the features' variance the batches explain before and after, and ComBat's warnings."""
    found = facts.material.diagnostics
    sentences = []
    if found is not None and {"batch_r2_before", "batch_r2_after"} <= set(found) and len(facts.batch_sizes) > 1:
        mine = found[found["roi"] == facts.material.main_roi]
        before, after = (
            np.nanmedian(v) if np.isfinite(v).any() else np.nan
            for v in (numbers(mine["batch_r2_before"]), numbers(mine["batch_r2_after"]))
        )
        if np.isfinite(before) and np.isfinite(after):
            sentences.append(
                f"Over the features the batch explained a median of {decimal(100 * before, 1)} % of the variance "
                f"before and {decimal(100 * after, 1)} % after the harmonisation of all cases."
            )
    told = [str(one) for one in facts.material.combat.get(facts.material.main_roi, {}).get("warnings", [])]
    if told:
        sentences.append(f"ComBat warned: {'; '.join(facts.without_names(one) for one in told[:3])}.")
    return sentences
