"""The report's sections of the models: what was asked, what a reader must beware of, and what came out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from radloom import figures
from radloom.model_tables import PLAN
from radloom.report_curves import calibration_pictures, centre_blocks, decision_blocks, roc_blocks, survival_blocks
from radloom.report_estimates import (
    CROSS_VALIDATION,
    LEAVE_ONE_CENTRE_OUT,
    LOCKED_TEST,
    NOT_ESTIMABLE,
    OPTIMISM,
    Estimates,
    Remarks,
    discrimination_table,
    horizon_text,
    metric_title,
    split_title,
    to_float,
    unjudged,
)
from radloom.report_sections import ARMS, MODELS, Material
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

MOST_TERMS = 25
MOST_LINES = 40
"""Tables of more rows than these end with a pointer to the file."""

FOLLOWS_VOLUME = 0.8
"""From this absolute rank correlation with the ROI's volume on a feature says little beside the volume."""

EXTREME = 10.0
"""A linear predictor of this size is a hazard or odds ratio of 22,000 to the average: no case is known that well."""

INTERCEPT = "(Intercept)"
INTERVALS = (
    "95 % intervals are percentiles of a bootstrap of the predictions, patients drawn with replacement within each "
    "centre. The models are not fitted again for them, so they leave out how much the estimates vary with the folds "
    "and with the cases that the models were fitted to: they are too narrow for a model fitted anew. Those of the "
    "optimism-corrected estimates come from the bootstrap samples in which everything was fitted again, and say "
    "little where the samples are few."
)
LEADS = (
    "Risks are compared between cases of one fold only, since every fold has its own model. Where centres differ in "
    "the share of events, pairs within centres lead: over all pairs a model gains by telling the centres apart."
)
HELD_OUT = (
    "In every split the whole chain saw the training cases only: filling of missing cells, ComBat, the removal of "
    "correlated features, the scale and the penalty. Every prediction is of a case that its model had not seen."
)


def model_rows(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    """The rows of one model."""
    return frame[frame["model"] == model]


def estimates_of(material: Material, model: str) -> Estimates:
    """The performance of one model."""
    return Estimates(model_rows(material.performance, model))


def messages_of(material: Material, model: str) -> list[str]:
    """What the step of a model warned of."""
    own = (step.get("warnings", []) for step in material.provenance if step["step"] == f"model_{model}")
    return list(dict.fromkeys(message for messages in own for message in messages))


def plan_hashes(material: Material) -> list[str]:
    """The hashes of the analysis plan in the tables of the models; more than one means that they don't belong
    together.
    """
    frames = (material.performance, material.coefficients, material.predictions)
    return sorted({cell for frame in frames if PLAN in frame for cell in frame[PLAN]} - {""})


def is_override(material: Material, model: str) -> bool:
    """Whether a model was fitted in spite of the sample size."""
    marked = model_rows(material.coefficients, model)["override"]
    return bool(marked.astype(str).str.strip().str.lower().isin(["true", "1", "yes"]).any())


def model_section(material: Material, model: str) -> Section:
    """One model: its question, what to beware of, its performance, its predictions and its coefficients."""
    name, ratio = MODELS[model]
    performance, coefficients = model_rows(material.performance, model), model_rows(material.coefficients, model)
    if performance.empty and coefficients.empty:
        reason = "no time and event are configured" if model == "cox" else "no outcome is configured"
        told = name if model == "cox" else name[0].lower() + name[1:]
        return Section(model, name, [text(f"The {told} is left out: {reason}.")])
    estimates, remarks = Estimates(performance), Remarks()
    predictions = model_rows(material.predictions, model)
    blocks = [*_question(material, model, estimates), *_warnings(material, model, estimates, name)]
    blocks += discrimination_table([("", estimates)], remarks, every=True)
    blocks += _how_to_read(material, estimates)
    blocks += centre_blocks(model, estimates, remarks)
    blocks += _error_blocks(estimates, remarks)
    blocks += _calibration_blocks(material, model, estimates, remarks)
    blocks += decision_blocks(model, estimates, model_rows(material.decision_curve, model))
    blocks += _subgroup_blocks(estimates, remarks)
    blocks += survival_blocks(material, predictions) if model == "cox" else roc_blocks(estimates, predictions)
    blocks += list(_coefficient_blocks(model, ratio, coefficients, material))
    blocks += _inference_blocks(material, model)
    if model == "cox":
        blocks += [*_ph_blocks(material), *_incidence_blocks(material)]
    blocks += _sample_size_blocks(material, model)
    if remarks.numbers:
        blocks += [Block("heading", "Remarks"), *remarks.blocks()]
    return Section(model, name, blocks)


# -------------------------------------------------------------------- the question


def _question(material: Material, model: str, estimates: Estimates) -> list[Block]:
    """Endpoint, numbers, plan and arms."""
    plan = dict(material.params.get("analysis_plan", {}))
    told = material.models.get(model, {})
    n, events = told.get("n"), told.get("events")
    if n is None and estimates.rows:
        largest = max(estimates.rows, key=lambda row: to_float(row["n"] or "0"))
        n, events = largest["n"], largest["events"]
    if model == "cox":
        endpoint = f"{plan.get('time') or '–'}, event {plan.get('event') or '–'}"
        competing = plan.get("competing_event")
        endpoint += f", competing event {competing}: the models are cause-specific" if competing else ""
    else:
        endpoint = str(plan.get("outcome") or "–")
    horizons = ", ".join(sorted({horizon_text(row["horizon"]) for row in estimates.rows} - {""}, key=float))
    lines = [
        ["endpoint", endpoint],
        ["cases", str(n)],
        ["events" if model == "cox" else "cases with the outcome", str(events)],
        *([["horizons", f"{horizons} (unit of {plan.get('time') or 'the time'})"]] if horizons else []),
        ["analysis plan", ", ".join(plan_hashes(material)) or "not known"],
        ["model", _model_of(material, model)],
        ["features", f"of the ROI {material.main_roi}"],
        ["validation", "; ".join(_validations(material, model, estimates)) or "none: no arm was fitted"],
    ]
    blocks = [table(["", ""], lines)]
    arms = [[arm, ARMS.get(arm, "")] for arm in estimates.arms]
    blocks.append(table(["arm", "predictors"], arms, "Arms"))
    return blocks


def _model_of(material: Material, model: str) -> str:
    section = f"model_{model}"
    rule = {"min": "of the least deviance", "1se": "one standard error from the least deviance"}
    penalty = rule.get(str(material.setting(section, "penalty", "")), "")
    chosen = f"penalty {penalty}, chosen by cross-validation in the training cases" if penalty else ""
    named = f"elastic net, l1_ratio {material.setting(section, 'l1_ratio', '–')}"
    again = str(material.setting(section, "recalibration", "none"))
    recalibrated = f"recalibrated ({again})" if again != "none" else ""
    return ", ".join(filter(None, [named, chosen, recalibrated]))


def _validations(material: Material, model: str, estimates: Estimates) -> list[str]:
    """The ways of validation that there were, each with its numbers."""
    predictions = model_rows(material.predictions, model)
    found = []
    for split in (*estimates.held_out, *([OPTIMISM] if OPTIMISM in estimates.splits else [])):
        rows = predictions[predictions["split"] == split]
        groups = int(rows["fold"].nunique())
        if split == CROSS_VALIDATION and groups:
            wanted = material.setting("model", "folds", groups)
            few = f" (not {wanted}-fold, for the number of events)" if groups != wanted else ""
            found.append(f"{groups}-fold cross-validation{few}, stratified by batch and outcome, grouped by patient")
        elif split == LEAVE_ONE_CENTRE_OUT and groups:
            of = "both directions of 2 centres" if groups == 2 else f"each of {groups} centres"
            found.append(f"{split_title(split, estimates.primary)}, {of}")
        elif split == LOCKED_TEST:
            found.append(f"locked test set of {count(int(rows['case_id'].nunique()), 'case')}, opened")
        elif split == OPTIMISM:
            refits = material.models.get(model, {}).get("refits")
            found.append(
                "optimism by " + (f"{refits} " if refits else "") + "bootstrap samples, everything fitted again"
            )
    return found


def _warnings(material: Material, model: str, estimates: Estimates, name: str) -> list[Block]:
    """What a reader must know before the numbers of this model."""
    blocks = [note(f"{name}{refused}") for refused in refusals(estimates)]
    if is_override(material, model):
        blocks.append(
            note(
                "override_sample_size was set: this model was fitted although there are too few events. Don't rely on "
                "it."
            )
        )
    blocks += [note(one) for one in (prevalence_note(estimates), extreme_note(material, model)) if one]
    told = [*messages_of(material, model), *(str(filtered) for filtered in material.filters.get(model, []))]
    pairs = [(f"{message}.", "") for message in dict.fromkeys(told)]
    if pairs:
        blocks += [text("What the step noted:"), Block("list", pairs=pairs)]
    if material.filters.get(model):
        blocks.append(text("The filter looks at all cases, those of the held-out folds too, but never at an outcome."))
    return blocks


def refusals(estimates: Estimates) -> list[str]:
    """What of a model's discrimination is not estimable, to stand behind its name: which arms, where, and why."""
    told: dict[tuple[str, str], dict[str, None]] = {}
    for arm in estimates.arms:
        fitted = arm in estimates.judged_arms
        splits = [s for s in estimates.held_out if s != LOCKED_TEST or fitted] if fitted else estimates.held_out[:1]
        for split in splits:
            row = estimates.leading(arm, split, estimates.metric, estimates.horizon)
            if row is not None and row["status"] == NOT_ESTIMABLE:
                where = f" by {split}" if fitted else ""
                told.setdefault((where, row["note"]), {})[arm] = None
    return [f": not estimable{where} ({listed(arms)}): {reason}." for (where, reason), arms in told.items()]


def extreme_note(material: Material, model: str) -> str:
    """That held-out cases have predictions beyond all belief, where there are such; empty otherwise."""
    rows = model_rows(material.predictions, model)
    size = np.nan_to_num(np.abs(numbers(rows["risk"])))
    if not (size > EXTREME).any():
        return ""
    rows = rows[size > EXTREME]
    cases, arms = listed(dict.fromkeys(rows["case_id"]), 4), listed(dict.fromkeys(rows["arm"]))
    return (
        f"{count(rows['case_id'].nunique(), 'held-out case')} ({cases}) have linear predictors of up to "
        f"{number(float(size.max()))} ({arms}): their features lie far outside those of the training cases. They rule "
        "the calibration slope and intercept; see model.transformation."
    )


def prevalence_note(estimates: Estimates) -> str:
    """That centres differ in the share of events, where the table says so; empty otherwise."""
    if not any("centres differ in prevalence" in row["note"] for row in estimates.rows):
        return ""
    return (
        "The share of events differs between centres. Discrimination within centres leads; what is counted over all "
        "pairs is marked, since part of it may be the centres themselves."
    )


def _how_to_read(material: Material, estimates: Estimates) -> list[Block]:
    told = []
    if estimates.primary == LEAVE_ONE_CENTRE_OUT:
        told.append("Leaving one centre out is the primary validation: it asks about a centre that no model has seen.")
    elif len(estimates.centres) == 2:
        told.append("With two centres, leaving one out is shown in both directions; cross-validation is primary.")
    elif estimates.judged_arms:
        told.append("There is one centre: nothing here tells how the models do elsewhere.")
    harmonised = [
        arm
        for arm in estimates.judged_arms
        if (row := estimates.find(arm, LEAVE_ONE_CENTRE_OUT, estimates.metric, estimates.horizon))
        and row["status"] == NOT_ESTIMABLE
        and "lack not judged" in row["note"]
    ]
    if harmonised:
        told.append(
            f"ComBat knows nothing of a batch that it has not seen, so {listed(harmonised)} can't be judged in a "
            "left-out centre, unless harmonize.new_batch is adapt (needs scans of the new centre, no outcomes) or "
            "passthrough."
        )
    if material.params.get("harmonize", {}).get("new_batch") == "adapt":
        told.append(
            "A left-out centre was harmonised by the features of all its held-out cases together (new_batch: adapt), "
            "never by their outcomes: a single new patient of a new centre could not be."
        )
    return [text(*told, LEADS, HELD_OUT), text(INTERVALS)] if estimates.judged_arms else []


# --------------------------------------------------------------------- performance


def _error_blocks(estimates: Estimates, remarks: Remarks) -> list[Block]:
    """Discrimination and Brier score by horizon; without horizons the Brier score."""
    names = {row["metric"] for row in estimates.rows}
    shown = [name for name in ("auc", "brier", "scaled_brier") if name in names]
    if not {"brier", "auc"} & names or not estimates.judged_arms:
        return []
    horizons = estimates.horizons("brier") or estimates.horizons("auc") or [""]
    if horizons == [""]:
        shown = [name for name in shown if name != "auc"]  # it stands above
    if not shown:
        return []
    blocks = [Block("heading", "Discrimination and error by horizon" if horizons != [""] else "Brier score")]
    columns = ["arm", *(["horizon", "events by then"] if horizons != [""] else [])]
    for split in estimates.held_out:
        lines = []
        for arm in estimates.judged_arms:
            for horizon in horizons:
                found = [
                    estimates.leading(arm, split, name, horizon)
                    if name == "auc"
                    else estimates.find(arm, split, name, horizon)
                    for name in shown
                ]
                counted = next((row for row in found if row is not None), None)
                if counted is None or not any(row and row["status"] != NOT_ESTIMABLE for row in found):
                    continue
                cells = [remarks.cell(row) for row in found]
                lines.append([arm, *([horizon, counted["events"]] if horizon else []), *cells])
            whole = next((estimates.find(arm, split, "integrated_brier", h) for h in horizons[::-1]), None)
            if whole is not None and horizons != [""] and whole["status"] != NOT_ESTIMABLE:
                cells = [remarks.cell(whole) if name == "brier" else "–" for name in shown]
                lines.append([arm, f"integrated to {horizons[-1]}", whole["events"], *cells])
        if lines:
            titles = [metric_title(name) for name in shown]
            blocks.append(table([*columns, *titles], lines, split_title(split, estimates.primary)))
            blocks += unjudged(estimates, split, remarks)
    if len(blocks) == 1:
        return []
    brier = (
        "The Brier score is the mean squared difference of predicted risk and outcome: 0 is best. The scaled one is "
        "its reduction relative to predicting everybody the same risk, that of all cases: 0 is no better than that."
    )
    told = [brier] if "brier" in shown else ["With competing events no absolute risk is judged, so no Brier score."]
    if horizons != [""]:
        told.append(
            "Censoring is weighted out (inverse probability of censoring). AUC: time-dependent, cumulative/dynamic."
        )
    return [blocks[0], text(*told), *blocks[1:]]


CALIBRATION = ("observed_expected", "calibration_in_the_large", "calibration_intercept", "calibration_slope", "ici")


def _calibration_blocks(material: Material, model: str, estimates: Estimates, remarks: Remarks) -> list[Block]:
    shown = [name for name in CALIBRATION if any(row["metric"] == name for row in estimates.rows)]
    horizons = estimates.horizons("calibration_slope") or [""]
    blocks: list[Block] = []
    for split in estimates.held_out if shown else []:
        lines = []
        for arm in estimates.judged_arms:
            for horizon in horizons:
                found = [estimates.find(arm, split, name, horizon) for name in shown]
                if any(row is not None for row in found):
                    lines.append([arm, *([horizon] if horizon else []), *(remarks.cell(row) for row in found)])
        if lines:
            columns = ["arm", *(["horizon"] if horizons != [""] else []), *(metric_title(name) for name in shown)]
            blocks.append(table(columns, lines, split_title(split, estimates.primary)))
            blocks += unjudged(estimates, split, remarks)
    pictures = calibration_pictures(model, model_rows(material.calibration_curve, model))
    if not blocks and not pictures:
        return []
    told = (
        "Observed over expected: 1 where as many events happen as are predicted. Calibration in the large: the shift "
        "of the predictions, as "
        + ("log cumulative hazards" if model == "cox" else "log odds")
        + ", that makes their mean right; 0 is best. The slope, within folds, is 1 where predictions spread as they "
        "should, below 1 where they are too extreme; the intercept is the shift after the slope was applied. "
        "ICI: mean distance of the predicted risks from a smooth calibration curve, 0 is best."
    )
    drawn = (
        "Pictures: cases in groups of predicted risk, with the observed risk "
        + ("(Kaplan-Meier)" if model == "cox" else "(share, Wilson interval)")
        + " and its 95 % interval; on the dotted line predictions are right."
        if pictures
        else "There are too few cases for a picture of calibration."
    )
    blocks = [Block("heading", "Calibration"), text(told, drawn), *blocks]
    return [*blocks, Block("pictures", pictures=pictures)] if pictures else blocks


def _subgroup_blocks(estimates: Estimates, remarks: Remarks) -> list[Block]:
    """The standing metric by subgroup, a column an arm."""
    metric, horizon = estimates.metric, estimates.horizon
    groups = list(dict.fromkeys(row["subgroup"] for row in estimates.rows if row["subgroup"]))
    if not groups or not metric:
        return []
    blocks = [
        Block("heading", "Subgroups"),
        text(
            f"{metric_title(metric, horizon)}. Subgroups are small and many: a difference between two of them is not "
            "tested here. All metrics are in tables/performance.csv."
        ),
    ]
    for split in estimates.held_out:
        arms = [
            a
            for a in estimates.judged_arms
            if any(estimates.find(a, split, metric, horizon, subgroup=g) for g in groups)
        ]
        lines = []
        for group in groups:
            found = [estimates.find(arm, split, metric, horizon, subgroup=group) for arm in arms]
            counted = next((row for row in found if row is not None), None)
            if counted is not None:
                lines.append([group, counted["n"], counted["events"], *(remarks.cell(row) for row in found)])
        if lines:
            caption = split_title(split, estimates.primary)
            blocks += _limited(["subgroup", "cases", "events", *arms], lines, caption, "performance")
            blocks += unjudged(estimates, split, remarks)
    return blocks if len(blocks) > 2 else []


def _limited(columns: Sequence[str], lines: list[list[str]], caption: str, name: str) -> Iterator[Block]:
    """A table, cut where it is long, with a pointer to the file that has all rows."""
    yield table(columns, lines[:MOST_LINES], caption)
    if len(lines) > MOST_LINES:
        yield text(f"{len(lines) - MOST_LINES} more rows are in tables/{name}.csv.")


# --------------------------------------------------------------------- coefficients


def _coefficient_blocks(model: str, ratio: str, coefficients: pd.DataFrame, material: Material) -> Iterator[Block]:
    """Coefficients of each arm, largest first, as table and forest plot."""
    if coefficients.empty:
        return
    refits = material.models.get(model, {}).get("refits")
    yield Block("heading", "Coefficients")
    yield text(
        "Of the model fitted to all cases, per standard deviation of the term. They are penalised: shrunk towards "
        "zero, and without intervals, since a penalised estimate has no valid standard error. How often a term was "
        "selected says how stable it is: in the folds, and in "
        + (f"{refits} " if refits else "")
        + "bootstrap samples, in each of which everything was fitted again. All terms are in tables/coefficients.csv."
    )
    volumes = coefficients["volume_correlation"] != ""
    if volumes.any():
        yield text(
            "Volume: Spearman's correlation of the feature, as extracted, with the volume of the ROI; from "
            f"{FOLLOWS_VOLUME:g} on, up or down, it follows the volume."
        )
    elif coefficients["arm"].str.contains("features").any():
        yield text("The volume of the ROI is not known, so neither is how far the features follow it.")
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
        columns = ["term", "coefficient per SD", ratio, "mean", "SD", "selected in folds", "selected in bootstraps"]
        yield table(
            [*columns, *(["correlation with the volume"] if volumes.any() else [])],
            [
                [
                    r["term"], decimal(to_float(r["coefficient"])), decimal(to_float(r["hazard_or_odds_ratio"])),
                    number(to_float(r["mean"])), number(to_float(r["sd"])), r["selected_in_folds"],
                    _percent(to_float(r["selection_frequency"])),
                    *([_with_volume(to_float(r["volume_correlation"]))] if volumes.any() else []),
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


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if np.isfinite(share) else "–"


def _with_volume(rho: float) -> str:
    if not np.isfinite(rho):
        return "–"
    return f"{rho:.2f}" + (" follows the volume" if abs(rho) >= FOLLOWS_VOLUME else "")


def _inference_blocks(material: Material, model: str) -> list[Block]:
    """The covariates' hazard or odds ratios in a model without a penalty."""
    rows = model_rows(material.inference, model)
    if rows.empty:
        return []
    ratio = "hazard ratio" if model == "cox" else "odds ratio"
    remarks: dict[str, int] = {}
    lines = []
    for r in rows.to_dict("records"):
        if r["term"] == INTERCEPT:
            continue
        mark = f" [{remarks.setdefault(r['note'], len(remarks) + 1)}]" if r["note"] else ""
        estimate = to_float(r["hazard_or_odds_ratio"])
        low, high = (number(to_float(r[end])) for end in ("ci_low", "ci_high"))
        told = f"{number(estimate)} ({low} to {high})" if np.isfinite(estimate) else NOT_ESTIMABLE
        lines.append([r["term"], told + mark, p_value(to_float(r["p"])), r["n"], r["events"], r["method"]])
    blocks = [
        Block("heading", "Covariates without a penalty"),
        text(
            "One model of the pre-specified covariates, fitted to all cases, no features in it: ratios of one unit of "
            "a number, or of a level against the first one, all others held equal. They describe associations in this "
            "cohort; p is two-sided and not adjusted for the number of terms."
        ),
        table(["term", f"{ratio} (95 % interval)", "p", "cases", "events", "method"], lines),
    ]
    pairs = [(f"[{mark}] {told}.", "") for told, mark in remarks.items()]
    return [*blocks, *([Block("list", pairs=pairs)] if pairs else [])]


def _ph_blocks(material: Material) -> list[Block]:
    """Tests of proportional hazards, both transforms of time side by side."""
    rows = material.ph_test
    if rows.empty:
        return []
    keys = ["arm", "term"]
    transforms = [name for name in dict.fromkeys(rows["transform"]) if name]
    titles = {"km": "Kaplan-Meier scale", "rank": "rank of time"}
    lines = []
    for (arm, term), part in rows.groupby(keys, sort=False):
        tests = {r["transform"]: r for r in part.to_dict("records")}
        cells: list[str] = []
        for name in transforms:
            found = tests.get(name)
            cells.append(decimal(to_float(found["chi2"]), 2) if found else "–")
            cells.append(p_value(to_float(found["p"])) if found else "–")
        lines.append([str(arm), str(term), part["df"].iloc[0], *cells])
    columns = ["arm", "term", "df"]
    for name in transforms:
        columns += [f"chi-square, {titles.get(name, name)}", f"p, {titles.get(name, name)}"]
    return [
        Block("heading", "Proportional hazards"),
        text(
            "Score test of each term's interaction with time (as cox.zph in R), on two scales of time. A small p "
            "speaks against a constant hazard ratio; a large one doesn't prove it. A penalised fit has no such test: "
            "the clinical columns are tested in their own unpenalised model, and each arm's out-of-fold risk as the "
            "only term of a model stratified by fold."
        ),
        *_limited(columns, lines, "", "ph_test"),
    ]


def _incidence_blocks(material: Material) -> list[Block]:
    """Cumulative incidence of the event and the competing one."""
    rows = material.cumulative_incidence
    if rows.empty:
        return []
    lines = [
        [
            r["group"], horizon_text(r["time"]), r["cause"],
            _share_with_interval(*(to_float(r[key]) for key in ("estimate", "ci_low", "ci_high"))), r["at_risk"],
        ]
        for r in rows.to_dict("records")
    ]  # fmt: skip
    return [
        Block("heading", "Cumulative incidence"),
        text(
            "Aalen-Johansen estimates: an event counts only for those who are still there to have it. The models above "
            "are cause-specific; they say nothing of these risks by themselves, so no absolute risk of them is judged."
        ),
        *_limited(["centre", "time", "event", "risk (95 % interval)", "at risk"], lines, "", "cumulative_incidence"),
    ]


def _share_with_interval(estimate: float, low: float, high: float) -> str:
    if not np.isfinite(estimate):
        return f"{NOT_ESTIMABLE}: follow-up ends before"
    return decimal(estimate) + (f" ({decimal(low)} to {decimal(high)})" if np.isfinite(low) else " (no interval)")


def _whole(cell: str) -> str:
    """A count, which may have been written as 3.0."""
    return f"{to_float(cell):.0f}" if cell else "–"


def _sample_size_blocks(material: Material, model: str) -> list[Block]:
    """What all criteria of sample size together need, by arm."""
    rows = model_rows(material.sample_size, model)
    rows = rows[rows["criterion"] == "all"]
    if rows.empty:
        return []
    lines = []
    for r in rows.to_dict("records"):
        needed = f"{_whole(r['needed_n'])} ({_whole(r['needed_events'])})" if r["needed_n"] else NOT_ESTIMABLE
        lines.append(
            [
                r["arm"], r["parameters"], number(to_float(r["events_per_parameter"])), needed,
                f"{r['available_n']} ({r['available_events']})", "yes" if r["met"] == "True" else "no",
                _whole(r["largest_parameters"]), r["note"],
            ]
        )  # fmt: skip
    columns = ["arm", "candidate parameters", "events per parameter", "needed: cases (events)", "there are"]
    return [
        Block("heading", "Sample size"),
        text(
            "Criteria of Riley et al. (BMJ 2020) for a new prediction model: an expected shrinkage of at most a tenth, "
            "an optimism of R² of at most 0.05, and an overall risk known to 0.05. All candidates count, also those "
            "that the penalty leaves out: they had their chance to fit noise. The criteria are for models without a "
            "penalty and are given unsoftened; each of them is in tables/sample_size.csv."
        ),
        table([*columns, "met", "parameters that these cases could carry", "note"], lines),
    ]
