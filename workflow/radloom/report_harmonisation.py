"""The report on batches: what is confounded with them, what ComBat was asked to do, and what it did to the features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from radloom import figures
from radloom.confounding import STRONG
from radloom.report_sections import ID_COLUMNS, Material, positive
from radloom.report_view import (
    Block,
    Picture,
    Section,
    count,
    decimal,
    listed,
    note,
    number,
    numbers,
    p_value,
    table,
    text,
)

MOST_TERMS = 6
"""Covariates whose effects are drawn; the tables have all."""

SHOWN_FEATURES = 12

# A choice that most readers know, if the table has them: size, shape, brightness, first-order and GLCM texture.
FAMILIAR = (
    r"(mesh|voxel)_?volume",
    r"sphericity",
    r"(firstorder_|^)mean($|\.)",
    r"(firstorder_|^)entropy($|\.)",
    r"(glcm_|^)contrast($|\.)",
    r"(glcm_|^)jointentropy($|\.)",
    r"(glcm_|^)correlation($|\.)",
)
TESTS = {"anova": "ANOVA", "kruskal": "Kruskal-Wallis", "ks": "Kolmogorov-Smirnov", "ad": "Anderson-Darling"}


def choose_features(names: list[str], shares: np.ndarray, values: np.ndarray) -> list[str]:
    """About a dozen features to show: familiar ones, then those that the batch explains most and that say
    something new.

    `shares` is the batch's R2 of each feature, `values` (cases, features) serves to skip near copies.
    """
    preferred = [n for n in names if "original" in n.lower()] or names
    chosen: list[str] = []
    for pattern in FAMILIAR:
        match = next(
            (n for n in preferred if re.search(pattern, re.sub(r"^original_|_?original$", "", n), re.IGNORECASE)), None
        )
        if match and match not in chosen:
            chosen.append(match)
    position = {name: j for j, name in enumerate(names)}
    ranks = pd.DataFrame(values).rank().to_numpy()
    for j in np.argsort(-np.nan_to_num(shares, nan=-1), kind="stable")[:200]:
        if len(chosen) >= SHOWN_FEATURES or not np.isfinite(shares[j]):
            break
        with np.errstate(invalid="ignore", divide="ignore"):
            alike = [abs(np.corrcoef(ranks[:, j], ranks[:, position[name]])[0, 1]) for name in chosen]
        if names[j] not in chosen and not any(value > 0.95 for value in alike):
            chosen.append(names[j])
    return chosen


def harmonisation_section(material: Material) -> Section:
    """What ComBat was asked to do, and what the features look like by batch before and after it."""
    batch_name = material.batch_name
    roi = material.main_roi
    before = material.features[material.features["roi"] == roi]
    batches = material.batches(before)
    order = [b for b in dict.fromkeys(material.batches(material.cohort)) if b and b in set(batches)]
    names = material.feature_names
    after = material.harmonized
    if after is not None and roi not in set(after["roi"]):
        after = None
    blocks: list[Block] = []
    covariates = material.setting("harmonize", "covariates", [])
    if after is None:
        of_roi = "" if material.harmonized is None else f" of {roi}"
        blocks.append(text(f"The features{of_roi} were not harmonised. The figures show them as they were extracted."))
    elif len(order) < 2:
        blocks.append(
            text(
                f"There is only one batch ({batch_name}): ComBat leaves the features as they are, and there is "
                "nothing to compare."
            )
        )
    else:
        reference = material.setting("harmonize", "reference_batch")
        blocks.append(
            text(
                f"Batches are the values of {batch_name}. ComBat "
                f"({'parametric' if material.setting('harmonize', 'parametric', True) else 'non-parametric'} priors"
                f"{', mean only' if material.setting('harmonize', 'mean_only', False) else ''}) moved them to "
                f"{f'batch {reference}' if reference else 'their pooled mean and variance'}, each ROI by itself,",
                f"keeping the effect of {listed(covariates)}." if covariates else "keeping no covariate's effect.",
                "The outcome was never a covariate: keeping it would leak it into the features.",
            )
        )
        blocks.append(
            note(
                "The table features_harmonized was fitted to all cases at once and is descriptive. The models did not "
                "read it: in every "
                "fold ComBat was learned from the training cases alone and applied to the cases held out."
            )
        )
    used = before
    if after is not None:
        after = before[ID_COLUMNS].merge(
            after.drop(columns=["patient_id", "centre"]), on=["case_id", "roi"], how="inner"
        )
        used = before[before["case_id"].isin(after["case_id"])]
        left_out = len(before) - len(used)
        if left_out:
            blocks.append(note(f"{count(left_out, 'case')} of small batches are not in features_harmonized."))
    blocks.append(_batch_sizes(batch_name, order, batches, roi, material))
    if len(order) < 2:
        return Section("harmonisation", "Harmonisation", blocks)

    groups = material.batches(used)
    stages = [("before", used[names].to_numpy(np.float64))]
    if after is not None:
        stages.append(("after ComBat", after.set_index("case_id").loc[used["case_id"], names].to_numpy(np.float64)))
    shares = [figures.explained_by(values, groups) for _, values in stages]
    overview = [
        Picture(
            "How much of each feature's variance lies between the batches (R² of a one-way analysis of variance, "
            f"{roi}, "
            f"{count(len(used), 'case')}). Further to the left is less.",
            svg=figures.explained_by_batch("r2", shares[0], shares[1] if len(shares) > 1 else None),
        ),
        Picture(
            "All features at once: first two principal components of the features' ranks (so that outliers don't rule "
            "them), each stage by itself. Batches that form clouds of their own differ by more than their patients do.",
            svg=figures.components("pca", stages, groups),
        ),
    ]
    blocks += _summary_blocks(material) if after is not None else []
    blocks += [Block("heading", "All features"), *_diagnostics(material), Block("pictures", pictures=overview)]
    chosen = choose_features(names, shares[0], stages[0][1])
    pictures = []
    for k, name in enumerate(chosen):
        j = names.index(name)
        split = [(title, [values[groups == b, j] for b in order]) for title, values in stages]
        r2 = " to ".join(decimal(share[j], 2) for share in shares)
        pictures.append(
            Picture(f"{name} (R² of the batch {r2})", svg=figures.distribution(f"d{k}", name, split, order))
        )
    blocks += [
        Block("heading", f"Single features by {batch_name}"),
        text(
            "Features that most readers know, then those that the batch explains most before harmonisation. Boxes are "
            "quartiles, whiskers reach "
            "to 1.5 interquartile ranges, dots are cases. A difference between centres that remains may be one "
            "between their patients."
        ),
        Block("grid" if len(order) <= 6 else "pictures", pictures=pictures),
    ]
    return Section("harmonisation", "Harmonisation", blocks)


def _batch_sizes(name: str, order: list[str], batches: np.ndarray, roi: str, material: Material) -> Block:
    """Sizes of the batches, with the events in each where they are known."""
    rows = material.features[material.features["roi"] == roi][["case_id"]].merge(
        material.included, on="case_id", how="left"
    )
    columns = [name, "cases"]
    endpoints = [material.setting("analysis_plan", "event"), material.setting("analysis_plan", "outcome")]
    endpoints = [column for column in dict.fromkeys(endpoints) if column in rows]
    lines = []
    for batch in order:
        mine = batches == batch
        lines.append([batch, int(mine.sum()), *(positive(numbers(rows[mine][c])) for c in endpoints)])
    return table([*columns, *(f"{c}: positive / known" for c in endpoints)], lines, f"Batches, {roi}")


def _diagnostics(material: Material) -> list[Block]:
    """The number of features that differ between batches, before and after, by ROI."""
    found = material.diagnostics
    if found is None or found.empty:
        return []
    pairs = [
        (c, c.replace("before", "after")) for c in found if "before" in c and c.replace("before", "after") in found
    ]
    tests = [pair for pair in pairs if re.search(r"(^|_)(q|fdr|p)(_|$)|fdr|adjusted", pair[0])]
    # The p values adjusted for the number of features are the ones to count, where there are any.
    tests = [pair for pair in tests if re.search(r"(^|_)q(_|$)|fdr|adjusted", pair[0])] or tests
    shares = [pair for pair in pairs if "r2" in pair[0]]
    lines = []
    for roi, part in found.groupby("roi", sort=False):
        cells: list[Any] = [roi, len(part)]
        for before, after in shares:
            cells.append(" / ".join(decimal(float(np.nanmedian(numbers(part[c])))) for c in (before, after)))
        for before, after in tests:
            cells.append(" / ".join(str(int((numbers(part[c]) < 0.05).sum())) for c in (before, after)))
        lines.append(cells)
    names = {"batch_r2": "R² of the batch"}
    names |= {f"{test}_q": f"{title} q" for test, title in TESTS.items()}
    columns = ["ROI", "features"]
    columns += [f"median {_without_stage(before, names)}: before / after" for before, _ in shares]
    columns += [f"{_without_stage(before, names)} < 0.05: before / after" for before, _ in tests]
    return [
        table(columns, lines, "How many features tell the batches apart (tables/combat_diagnostics.csv)"),
        text(
            "q is the p value adjusted for the number of features (Benjamini-Hochberg). ComBat moves mean and "
            "variance: "
            "differences in the shape of a distribution remain."
        ),
    ]


def _without_stage(column: str, names: Mapping[str, str]) -> str:
    bare = column.replace("_before", "")
    return names.get(bare, bare)


# ---------------------------------------------------------------------- confounding


def confounding_section(material: Material) -> list[Section]:
    """Outcomes and covariates by batch, before anything was fitted; nothing where the table wasn't made."""
    found = material.confounding
    if found is None or found.empty:
        return []
    roi = material.main_roi
    rows = found[found["roi"] == roi] if roi in set(found["roi"]) else found[found["roi"] == found["roi"].iloc[0]]
    name = material.batch_name
    blocks = [
        text(
            f"Before any fit, every outcome and covariate was compared between the values of {name} "
            f"({rows['roi'].iloc[0]}; a patient counts once in each).",
            f"Had every {name} one class of an outcome, the run would have stopped there: nothing could have told the "
            "scanner from the patients. Cramer's V, corrected for its bias in small tables, is 0 for independence and "
            f"1 where one tells the other; from {STRONG:g} it is called strong, as is for a number an eta squared "
            f"(share of the variance between batches) of {STRONG**2:g}.",
        )
    ]
    outcomes = rows[rows["kind"] == "outcome"]
    pictures = []
    for k, (variable, own) in enumerate(outcomes.groupby("variable", sort=False)):
        blocks += [Block("heading", f"{variable} by {name}"), _outcome_table(str(variable), own, name)]
        if own["batch"].nunique() > 1 and own["levels"].iloc[0] not in ("", "0"):
            pictures.append(_outcome_picture(f"outcome{k}", str(variable), own, name))
    if pictures:
        blocks.append(Block("grid", pictures=pictures))
    covariates = rows[rows["kind"] == "covariate"]
    if len(covariates):
        blocks += [Block("heading", f"Covariates by {name}"), *_covariate_tables(covariates, name)]
    return [Section("confounding", "Outcomes by batch", blocks)]


def _association(own: pd.DataFrame) -> str:
    """A sentence on how far a variable is bound up with the batch."""
    first = own.iloc[0]
    if first["note"]:
        return f"Not compared: {first['note']}."
    if first["scale"] == "number":
        measure = f"eta squared {decimal(_float(first['eta_squared']), 2)}"
    else:
        measure = f"Cramer's V {decimal(_float(first['cramers_v_corrected']), 2)}"
        measure += f" ({decimal(_float(first['cramers_v']), 2)} uncorrected)"
    return f"{measure}, {first['test']} test p {_p(first['p'])}."


def _p(cell: str) -> str:
    """A p value behind its name."""
    told = p_value(_float(cell))
    return told if told.startswith("<") else f"= {told}"


def _float(cell: str) -> float:
    return float(cell) if cell else float("nan")


def _whole(cell: str) -> str:
    """A count as it is written, without the decimals that a column with empty cells gets."""
    return str(int(float(cell))) if cell else "–"


def _outcome_table(variable: str, own: pd.DataFrame, name: str) -> Block:
    """Cases, events and follow-up of each batch."""
    batches = own.drop_duplicates("batch")
    followed = bool((batches["median_follow_up"] != "").any())
    coded = bool((batches["events"] != "").all())
    lines = []
    for row in batches.to_dict("records"):
        known = int(row["n_of_batch"]) - int(row["missing"])
        line: list[Any] = [row["batch"], row["n_of_batch"], row["missing"]]
        if coded:
            events = int(float(row["events"]))
            line += [events, f"{events / known:.0%}" if known else "–"]
        else:
            mine = own[(own["batch"] == row["batch"]) & (own["n"] != "0")]
            line.append(listed(f"{level} {n}" for level, n in zip(mine["level"], mine["n"], strict=True)))
        lines.append(line + ([number(_float(row["median_follow_up"]))] if followed else []))
    columns = [name, "patients", "not known", *(["events", "share"] if coded else ["classes"])]
    return table(columns + (["median follow-up"] if followed else []), lines, f"{variable}: {_association(own)}")


def _outcome_picture(anchor: str, variable: str, own: pd.DataFrame, name: str) -> Picture:
    batches = list(dict.fromkeys(own["batch"]))
    levels = list(dict.fromkeys(own["level"]))
    counts = own.pivot(index="batch", columns="level", values="n").loc[batches, levels].astype(float).to_numpy()
    svg = figures.shares_by_batch(anchor, variable, batches, levels, counts)
    return Picture(f"{variable}: share of each class by {name}; numbers are patients.", svg=svg)


def _covariate_tables(rows: pd.DataFrame, name: str) -> list[Block]:
    """One table of the covariates by batch, with how far each overlaps between them."""
    batches = list(dict.fromkeys(rows["batch"]))
    lines = []
    for variable, own in rows.groupby("variable", sort=False):
        first = own.iloc[0]
        least = own.drop_duplicates("batch")["overlap"].map(_float).min()
        numeric = first["scale"] == "number"
        strength = _float(first["eta_squared" if numeric else "cramers_v_corrected"])
        ends: list[Any] = [
            f"{'eta squared' if numeric else 'V'} {decimal(strength, 2)}",
            p_value(_float(first["p"])),
            first["test"] or "–",
            decimal(float(least), 2),
        ]
        if first["note"]:
            ends = [first["note"], "–", "–", "–"]
        for k, (level, part) in enumerate(own.groupby("level", sort=False)):
            by_batch = {row["batch"]: row for row in part.to_dict("records")}
            cells = [_covariate_cell(by_batch.get(batch), numeric) for batch in batches]
            lines.append([f"{variable}: {level}" if level else variable, *cells, *(ends if k == 0 else [""] * 4)])
        missing = own.drop_duplicates("batch")["missing"].tolist()
        if any(cell != "0" for cell in missing):
            lines.append([f"{variable}: not known", *missing, *[""] * 4])
    columns = ["", *batches, "association", "p", "test", "least overlap"]
    return [
        table(columns, lines, "Numbers are median (quartiles), categories are counts"),
        text(
            f"Overlap compares the distribution in one {name} with that in the others: 0 where they share no value, 1 "
            "where they are the same. Without overlap no adjustment can tell the covariate's effect from the batch's.",
        ),
    ]


def _covariate_cell(row: Mapping[Any, Any] | None, numeric: bool) -> str:
    if row is None:
        return "0"
    if not numeric:
        return str(row["n"])
    if row["n"] == "0":
        return "–"
    middle, low, high = (number(_float(row[key])) for key in ("median", "q1", "q3"))
    return f"{middle} ({low} to {high})"


# -------------------------------------------------------------------- what ComBat did


def _summary_blocks(material: Material) -> list[Block]:
    """What harmonisation did, in sentences, a table and figures; nothing where no summary was made."""
    found = material.combat_summary
    if found is None or found.empty:
        return []
    main = found[found["roi"] == material.main_roi]
    sentences = _summary_sentences(main if len(main) else found[found["roi"] == found["roi"].iloc[0]], material)
    pictures = []
    guessed = main[(main["measure"] == "batch_auc") & (main["estimate"] != "")]
    if len(guessed):
        pictures.append(
            Picture(
                "Guessing the batch of a case that was not seen, from all features together: area under the curve, "
                "each batch against the others, and the mean of the batches. Bars are 95 % intervals (bootstrap of "
                "patients within batches, without fitting anew). 0.5 is chance. Small remains add up over many "
                "features: the area can be near 1 where the batch explains little of any one of them.",
                svg=figures.batch_guess("batchauc", *_guess_arrays(guessed)),
            )
        )
    effects = material.combat_covariates
    if effects is not None and material.main_roi in set(effects["roi"]):
        own = effects[effects["roi"] == material.main_roi]
        panels = [
            (str(term), numbers(part["effect_before"]), numbers(part["effect_after"]), numbers(part["q_before"]))
            for term, part in own.groupby("term", sort=False)
            if np.isfinite(numbers(part["effect_before"])).any()
        ]
        if panels:
            pictures.append(
                Picture(
                    "Effect of each covariate on each feature (partial correlation), before harmonisation within "
                    "batches and after it without regard to them. Dots on the line kept their effect; filled dots had "
                    "a significant one before (q < 0.05)."
                    f"{' Only the first covariates are shown.' if len(panels) > MOST_TERMS else ''}",
                    svg=figures.covariate_effects("effects", panels[:MOST_TERMS]),
                )
            )
    blocks = [Block("heading", "What harmonisation did"), Block("list", pairs=[(one, "") for one in sentences])]
    return [*blocks, _summary_table(found), Block("pictures", pictures=pictures)]


def _summary_sentences(rows: pd.DataFrame, material: Material) -> list[str]:
    """The main rows of the summary of one ROI as sentences."""
    roi = rows["roi"].iloc[0]
    name = material.batch_name
    whole = {(r["measure"], r["stage"]): r for r in rows[rows["batch"] == "all"].to_dict("records")}

    def value(measure: str, stage: str) -> float:
        return _float(whole.get((measure, stage), {}).get("estimate", ""))

    told = []
    differ = [whole.get(("features_anderson_darling", stage)) for stage in ("before", "after")]
    if differ[0] and differ[1] and differ[0]["estimate"] and differ[1]["estimate"]:
        first, second = (str(row["note"]).split(" features")[0] for row in differ if row)
        told.append(
            f"{roi}: {first} features were distributed differently between the batches before harmonisation, "
            f"{second} after it (Anderson-Darling, q < 0.05); of a feature's variance {name} explained a median of "
            f"{_percent(value('batch_r2', 'before'))} before and {_percent(value('batch_r2', 'after'))} after."
        )
    auc = {stage: whole.get(("batch_auc", stage)) for stage in STAGES}
    before, inside, honest, shuffled = auc.values()
    if before and before["estimate"]:
        sentence = f"The {name} of a case that was not seen could be guessed with an AUC of {_auc(before)} before"
        if honest and honest["estimate"]:
            sentence += f", and of {_auc(honest)} after a ComBat that had learned from other cases"
        elif honest:
            sentence += f"; after a ComBat that learned from other cases it is {honest['note']}"
        sentence += " (0.5 is chance)."
        if inside and inside["estimate"]:
            sentence += (
                f" The {decimal(_float(inside['estimate']), 2)} of the harmonised table itself is too low: its ComBat "
                "has seen the cases that are guessed."
            )
        if shuffled and shuffled["estimate"] and _float(shuffled["ci_low"]) > 0.5:
            sentence += (
                f" With the {name}s shuffled, so that there is nothing to remove, it is {_auc(shuffled)} in new cases: "
                "that much ComBat brings in itself, by means and scales learned from few or heavy-tailed values."
            )
        told.append(sentence)
    elif before:
        told.append(f"How well the {name} can be guessed from the features is {before['note']}.")
    for (measure, _), row in whole.items():
        if str(measure).startswith("covariate_kept: "):
            term = str(measure).removeprefix("covariate_kept: ")
            if row["estimate"]:
                told.append(f"Effect of {term}: {row['note']} (q < 0.05).")
            else:
                told.append(f"Whether the effect of {term} was kept is {row['note']}.")
    return told


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "–"


def _auc(row: Mapping[Any, Any]) -> str:
    """An area with its interval, to two decimals."""
    estimate, low, high = (_float(row[key]) for key in ("estimate", "ci_low", "ci_high"))
    return decimal(estimate, 2) + (f" ({decimal(low, 2)} to {decimal(high, 2)})" if np.isfinite(low) else "")


STAGES = ("before", "after", "after, new cases", "after, shuffled")
MEASURES = {
    "batch_r2": "R² of the batch, median over the features",
    "features_anderson_darling": "features that differ between batches (Anderson-Darling, q < 0.05)",
    "batch_auc": "AUC of guessing the batch (95 % interval)",
    "covariate_significant": "features with an effect of {} (q < 0.05)",
    "covariate_effect": "median absolute partial correlation with {}",
    "covariate_kept": "effects of {} that were kept",
}


def _summary_table(found: pd.DataFrame) -> Block:
    """The rows of the summary over all batches, a column a stage."""
    lines = []
    for (roi, measure), rows in found[found["batch"] == "all"].groupby(["roi", "measure"], sort=False):
        kind, _, term = str(measure).partition(": ")
        if kind not in MEASURES:
            continue
        by_stage = {row["stage"]: row for row in rows.to_dict("records")}
        cells = [_summary_cell(kind, by_stage.get(stage)) for stage in STAGES]
        lines.append([roi, MEASURES[kind].format(term), *cells])
    columns = ["ROI", "measure", *STAGES]
    caption = (
        "Over all batches (tables/combat_summary.csv has each batch, and the notes). New cases: each half of the cases "
        "was harmonised by a ComBat that learned from the other half; shuffled: the same without a batch effect"
    )
    return table(columns, lines, caption)


def _summary_cell(kind: str, row: Mapping[Any, Any] | None) -> str:
    if row is None:
        return ""
    if not row["estimate"]:
        return "not estimable"
    if kind == "batch_auc":
        return _auc(row)
    value = _float(row["estimate"])
    if kind in ("features_anderson_darling", "covariate_significant", "covariate_kept"):
        return f"{value:.0%} ({str(row['note']).split(' features')[0]})"
    return decimal(value)


def _guess_arrays(rows: pd.DataFrame) -> tuple[list[str], list[tuple[str, np.ndarray]]]:
    """Names of the batches, and for each stage (estimate, low, high) of each, NaN where there is none."""
    batches = ["all", *sorted(set(rows["batch"]) - {"all"})]
    stages = []
    for stage, title in (
        ("before", "before"),
        ("after", "after, all cases"),
        ("after, new cases", "after, new cases"),
    ):
        own = rows[rows["stage"] == stage].set_index("batch").reindex(batches)
        if own["estimate"].notna().any():
            columns = [pd.to_numeric(own[c], errors="coerce").to_numpy() for c in ("estimate", "ci_low", "ci_high")]
            stages.append((title, np.column_stack(columns)))
    return batches, stages
