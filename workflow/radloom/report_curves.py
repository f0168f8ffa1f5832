"""The pictures of a model's predictions: centres, calibration, net benefit, survival by predicted risk, ROC."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from radloom import figures
from radloom.report_estimates import (
    CROSS_VALIDATION,
    LEAVE_ONE_CENTRE_OUT,
    LOCKED_TEST,
    NOT_ESTIMABLE,
    POOLED,
    WORST,
    Estimates,
    Record,
    Remarks,
    horizon_text,
    metric_title,
    split_title,
    to_float,
)
from radloom.report_sections import Material
from radloom.report_view import Block, Picture, count, decimal, listed, note, numbers, p_value, text

LARGE_COHORT = 300
"""From this many cases on the curves are those of thirds of the predicted risk, not of halves."""

MOST_CENTRES = 40
"""A picture of more centres would not be read."""

CURVE_SPLITS = (CROSS_VALIDATION, LEAVE_ONE_CENTRE_OUT, LOCKED_TEST)
TITLES = {
    CROSS_VALIDATION: "out of fold",
    LEAVE_ONE_CENTRE_OUT: "centre left out",
    LOCKED_TEST: "locked test set",
}

# Arms whose risks are not comparable between batches, because the batch is a stratum.
STRATIFIED = ("features_centre",)


def centre_blocks(model: str, estimates: Estimates, remarks: Remarks) -> list[Block]:
    """A forest of the centres' estimates for each arm, by the primary validation where an arm has estimates there."""
    metric, horizon = estimates.metric, estimates.horizon
    if len(estimates.centres) < 2 or not metric:
        return []
    shown = sorted(estimates.centres)[:MOST_CENTRES]
    pictures, missing, told = [], [], set()
    for k, arm in enumerate(estimates.judged_arms):
        split = next((s for s in estimates.held_out if _centres_of(estimates, arm, s, metric, horizon, shown)), "")
        if not split:
            missing.append(arm)
            continue
        rows = _centres_of(estimates, arm, split, metric, horizon, shown)
        reasons = [
            f"{row.label}: {NOT_ESTIMABLE}{remarks.mark(found['note'])}"
            for row in rows
            if (found := estimates.find(arm, split, metric, horizon, row.label)) and found["status"] == NOT_ESTIMABLE
        ]
        told.add(split)
        svg = figures.centre_forest(
            f"centres-{model}{k}", f"{arm}, {TITLES[split]}", rows, metric_title(metric, horizon)
        )
        pictures.append(Picture("; ".join(reasons), svg=svg))
    blocks = [
        Block("heading", "By centre"),
        text(
            f"{metric_title(metric, horizon)} of each centre with its 95 % interval, "
            f"{' and '.join(split_title(split, '') for split in CURVE_SPLITS if split in told)}. Random effects: the "
            "centres' mean on the logit scale (REML, Hartung-Knapp interval); the thin line is the interval in which "
            "the estimate of a further centre is expected. The worst of several centres looks worse than it is, "
            "and its interval is one for caution.",
            f"The first {MOST_CENTRES} of {len(estimates.centres)} centres are drawn."
            if len(estimates.centres) > MOST_CENTRES
            else "",
        ),
    ]
    if missing:
        blocks.append(note(f"No centre has an estimate for {listed(missing)}."))
    return [*blocks, Block("pictures", pictures=pictures)] if pictures or missing else []


def _centres_of(
    estimates: Estimates, arm: str, split: str, metric: str, horizon: str, centres: Sequence[str]
) -> list[figures.ForestRow]:
    """The rows of a forest; none where no centre has an estimate."""
    found = [estimates.find(arm, split, metric, horizon, centre) for centre in centres]
    rows = [_forest_row(row, row["centre"], "centre") for row in found if row is not None]
    if not any(np.isfinite(row.estimate) for row in rows):
        return []
    worst, pooled = (estimates.find(arm, split, metric, horizon, centre) for centre in (WORST, POOLED))
    if worst is not None:
        name = str(worst["note"]).split("; ")[0] if worst["status"] != NOT_ESTIMABLE else ""
        rows.append(_forest_row(worst, f"worst{f' ({name})' if name else ''}", "worst"))
    if pooled is not None:
        rows.append(_forest_row(pooled, "random effects", "pooled"))
        ends = to_float(pooled["prediction_low"]), to_float(pooled["prediction_high"])
        if np.isfinite(ends).all():
            rows.append(figures.ForestRow("a further centre", float("nan"), *ends, "prediction"))
    return rows


def _forest_row(row: Record, label: str, kind: str) -> figures.ForestRow:
    estimate, low, high = (to_float(row[key]) for key in ("estimate", "ci_low", "ci_high"))
    return figures.ForestRow(label, estimate, low, high, kind)


def calibration_pictures(model: str, rows: pd.DataFrame) -> list[Picture]:
    """Observed against predicted risk of each arm, a panel a way of validation, a series a horizon."""
    pictures = []
    for k, (arm, mine) in enumerate(rows.groupby("arm", sort=False)):
        panels = []
        for split in CURVE_SPLITS:
            part = mine[mine["split"] == split]
            series = [
                figures.CalibrationGroups(
                    f"at {horizon_text(horizon)}" if horizon else "",
                    *(numbers(groups[column]) for column in ("predicted", "observed", "ci_low", "ci_high")),
                )
                for horizon, groups in part.groupby("horizon", sort=False)
            ]
            if series:
                panels.append((TITLES[split], series))
        if panels:
            pictures.append(Picture("", svg=figures.calibration(f"calibration-{model}{k}", str(arm), panels)))
    return pictures


def decision_blocks(model: str, estimates: Estimates, rows: pd.DataFrame) -> list[Block]:
    """Net benefit over the thresholds: the arms, treating everybody, treating nobody."""
    pictures: list[Picture] = []
    for split in estimates.held_out:
        for horizon, part in rows[rows["split"] == split].groupby("horizon", sort=False):
            models = part[part["strategy"] == "model"]
            largest = max(numbers(models["n"]), default=0.0)
            others = part[(part["strategy"] == "treat all") & (numbers(part["n"]) == largest)]
            if models.empty or others.empty:
                continue
            everybody = others[others["arm"] == others["arm"].iloc[0]]
            curves = [
                (str(arm), numbers(own["threshold"]), numbers(own["estimate"]))
                for arm, own in models.groupby("arm", sort=False)
            ]
            fewer = models[numbers(models["n"]) < largest].drop_duplicates("arm")
            title = f"{TITLES[split]}{f', at {horizon_text(horizon)}' if horizon else ''}"
            told = [f"{row['arm']} was judged in {row['n']} cases" for row in fewer.to_dict("records")]
            pictures.append(
                Picture(
                    f"{count(int(largest), 'case')}, {everybody['events'].iloc[0]} events."
                    + (f" {'; '.join(told)}: not quite comparable." if told else ""),
                    svg=figures.decision_curves(
                        f"benefit-{model}{len(pictures)}", title, curves,
                        (numbers(everybody["threshold"]), numbers(everybody["estimate"])),
                    ),
                )
            )  # fmt: skip
    if not pictures:
        return []
    return [
        Block("heading", "Decision curves"),
        text(
            "Net benefit: true positives less false positives, these weighted by the odds of the threshold, per case. "
            "A model is worth using at thresholds at which it lies above treating everybody and treating nobody. "
            "Intervals are in tables/decision_curve.csv; at high thresholds few cases decide."
        ),
        Block("pictures", pictures=pictures),
    ]


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
    """Kaplan-Meier curves by the risk that was predicted for held-out cases: out of fold, then centres left out."""
    blocks: list[Block] = []
    for split in CURVE_SPLITS:
        rows = predictions[predictions["split"] == split]
        pictures, alike = _survival_pictures(material, rows, split)
        if not pictures and not alike:
            continue
        blocks.append(Block("heading", f"Kaplan-Meier by predicted risk ({TITLES[split]})"))
        if alike:
            blocks.append(note(f"No groups can be formed for {listed(alike)}: the predicted risks are all alike."))
        blocks.append(Block("pictures", pictures=pictures))
    if blocks:
        blocks.insert(
            1,
            text(
                "Patients are grouped by the risk that was predicted for them while they were held out, cut within "
                "each fold (or left-out centre). Bands are 95 % intervals (log-log), ticks are censored patients. The "
                "groups share training cases, so the log-rank p is approximate: judge the models by the intervals "
                "above.",
                "Where another event can rule the event out, one minus the curve is not its risk: see the cumulative "
                "incidence."
                if material.setting("analysis_plan", "competing_event")
                else "",
            ),
        )
    return blocks


def _survival_pictures(material: Material, predictions: pd.DataFrame, split: str) -> tuple[list[Picture], list[str]]:
    pictures: list[Picture] = []
    alike: list[str] = []
    unit = str(material.setting("analysis_plan", "time", "time"))
    for k, (arm, rows) in enumerate(predictions.groupby("arm", sort=False)):
        rows = rows.assign(**{c: numbers(rows[c]) for c in ("risk", "time", "event")})
        people = rows.dropna(subset=["risk", "time", "event"])  # one case a patient: the models take no more
        if people.empty:
            continue
        within = people["fold"].astype(str)
        if arm in STRATIFIED:
            within = within + " / " + pd.Series(material.batches(people), index=people.index).astype(str)
        groups, labels = risk_groups(people["risk"].to_numpy(), within.to_numpy(dtype=str))
        placed = groups >= 0
        if len(np.unique(groups[placed])) < 2:
            alike.append(str(arm))
            continue
        times, events = (people[c].to_numpy()[placed] for c in ("time", "event"))
        chi2, p = figures.log_rank(times, events, groups[placed])
        left = int((~placed).sum())
        told = f" {count(left, 'patient')} of folds in which all predicted risks are equal are left out."
        cut = (
            " Cut within each batch too, since its risks are not comparable with others'." if arm in STRATIFIED else ""
        )
        caption = (
            f"{arm}: log-rank chi-square {decimal(chi2, 2)}, {len(np.unique(groups[placed])) - 1} df, p {p_value(p)}."
        )
        name = f"km-{CURVE_SPLITS.index(split)}-{k}"
        svg = figures.survival_by_group(name, str(arm), times, events, groups[placed], labels, unit)
        pictures.append(Picture(caption + (told if left else "") + cut, svg=svg))
    return pictures, alike


def roc_blocks(estimates: Estimates, predictions: pd.DataFrame) -> list[Block]:
    """ROC curves of all arms, out of fold and of centres left out."""
    pictures = []
    for split in CURVE_SPLITS:
        curves = []
        for arm, rows in predictions[predictions["split"] == split].groupby("arm", sort=False):
            probability, outcome = numbers(rows["probability"]), numbers(rows["outcome"])
            known = np.isfinite(probability) & np.isfinite(outcome)
            if len(np.unique(outcome[known])) == 2:
                row = estimates.find(str(arm), split, "auc")
                label = f"{arm}: AUC {Remarks().cell(row, mark=False)}" if row is not None else str(arm)
                curves.append((label, probability[known], outcome[known]))
        if curves:
            caption = f"ROC of the predictions, {TITLES[split]}, all cases pooled. The AUC counts pairs within folds"
            caption += " (left-out centres)." if split == LEAVE_ONE_CENTRE_OUT else "."
            pictures.append(Picture(caption, svg=figures.roc(f"roc-{CURVE_SPLITS.index(split)}", curves)))
    return [Block("heading", "ROC curves"), Block("pictures", pictures=pictures)] if pictures else []
