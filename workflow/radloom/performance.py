"""The table of performance: what predictions of held-out cases are worth, in all, by centre and by subgroup.

Scales of folds differ (another penalty, another selection), so risks are compared between cases of one fold only:
concordance and AUC count the pairs within folds, and the calibration slope has an intercept for each fold. That also
keeps out the bias of pooled folds, in which a class that is rarer in training is commoner in the test fold. A model
that selects nothing gives equal risks, and its pairs count 1/2.

Intervals are percentiles of a bootstrap of the predictions, patients drawn within their centre. The models are not
fitted again for them; where they are, see `optimism_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from radloom.binary_metrics import auc_rows, brier_rows
from radloom.calibration_curve import smooth_calibration
from radloom.confounding import cramers_v, independence_test
from radloom.cox import kaplan_meier_of_censoring
from radloom.logistic import Calibration, calibration
from radloom.pooling import bootstrap_error, pool, worst_of
from radloom.ranking import count_pairs, share
from radloom.survival_calibration import SurvivalCalibration, calibration_at, smooth_survival_calibration
from radloom.survival_metrics import (
    brier_at,
    harrell_c_rows,
    horizon_status,
    integrated_brier,
    kaplan_meier_risk,
    time_dependent_auc,
    uno_c_rows,
)

OPTIMISTIC = ("brier", "scaled_brier", "integrated_brier", "calibration_slope")
"""Beside discrimination what a model is too good at among its own cases."""

ALL_CENTRES, POOLED, WORST = "all", "random effects", "worst"
WITHIN = "_within_centre"
DISCRIMINATION = ("c_index", "uno_c", "auc")
GRID = 20
"""Times, evenly spaced up to the last horizon, over which the Brier score is integrated."""

TRANSFORMS = {
    **dict.fromkeys(("c_index", "uno_c", "auc", "brier", "integrated_brier"), "logit"),
    **dict.fromkeys(("scaled_brier", "calibration_intercept", "calibration_slope"), "identity"),
    "calibration_in_the_large": "identity",
    "observed_expected": "log",
}
"""Scales on which centres are pooled (Debray et al., BMJ 2017, 10.1136/bmj.i6460)."""

LEAST_PAIRS = 10
"""A metric of fewer comparable pairs is not estimable."""

LEAST_EVENTS, LEAST_CASES = 5, 10
"""Calibration and Brier score of fewer events, or of fewer cases, are not estimable."""

LEAST_CENSORING_SURVIVAL = 0.1
"""Uno's C ends where fewer than this fraction would still be uncensored: its weights grow with 1 / this squared."""

NO_WIDTH = 1e-9
"""An interval that is narrower is none: all bootstrap samples give the same estimate, but for rounding."""

UNEQUAL_V, UNEQUAL_P = 0.1, 0.05
"""Centres differ in their prevalence where Cramer's V (Bergsma) is above the one or the test's p is below the other."""

Key = tuple[str, float | None]
Values = dict[Key, np.ndarray]


@dataclass(frozen=True)
class Predictions:
    """What a way of validation predicted: arrays of all cases, NaN where a case has no prediction.

    `risk` is the linear predictor; `link`, cases x columns, the log cumulative hazard at each of the judge's times or
    the log odds; `group` is the model that judged a case (fold, centre).
    """

    split: str
    risk: np.ndarray
    link: np.ndarray
    group: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """Positions of the cases that have a prediction."""
        return np.flatnonzero(np.isfinite(self.risk))


def interval(samples: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap estimates; NaN if more than a tenth of them could not be had."""
    good = samples[np.isfinite(samples)]
    if len(good) < 0.9 * len(samples) or not len(good):
        return float("nan"), float("nan")
    low, high = np.percentile(good, [2.5, 97.5])
    return float(low), float(high)


# --------------------------------------------------------------------------- judges


@dataclass(frozen=True)
class SurvivalJudge:
    """Metrics of survival predictions; `times`, the horizons and a grid up to the last, are those of `link`'s columns.

    `competing` says that another event may rule the event out: absolute risks of a cause-specific model are then too
    high, and are not judged.
    """

    time: np.ndarray
    event: np.ndarray
    horizons: tuple[float, ...]
    families: frozenset[str]
    competing: bool = False
    name: str = "cox"
    tau: float | None = field(init=False)

    def __post_init__(self) -> None:
        times, uncensored = kaplan_meier_of_censoring(self.time, self.event)
        late = times[uncensored < LEAST_CENSORING_SURVIVAL]
        object.__setattr__(self, "tau", float(late[0]) if len(late) else None)

    @property
    def classes(self) -> np.ndarray:
        """1 for cases with an event."""
        return np.asarray(self.event).astype(int)

    @property
    def grid(self) -> tuple[float, ...]:
        """Times at which the integrated Brier score needs the risk, up to the last horizon."""
        last = max(self.horizons)
        return tuple(float(x) for x in np.linspace(last / GRID, last, GRID))

    @property
    def times(self) -> tuple[float, ...]:
        """Times at which risks are predicted."""
        return (*self.horizons, *self.grid)

    @staticmethod
    def probability(link: np.ndarray) -> np.ndarray:
        """Risk of an event of a log cumulative hazard."""
        with np.errstate(over="ignore"):  # a hazard beyond all numbers is a risk of 1
            return -np.expm1(-np.exp(link))

    def ranks(self, risk: np.ndarray, groups: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> Values:
        """Discrimination of the cases at `rows`, pairs within groups, for each row of weights (samples x all cases)."""
        t, d, r, g, w = self.time[rows], self.event[rows], risk[rows], groups[rows], weights[:, rows]
        found: Values = {}
        if "c_index" in self.families:
            found["c_index", None] = harrell_c_rows(t, d, r, w, g)
        if "uno_c" in self.families:
            found["uno_c", None] = uno_c_rows(t, d, r, w, self.tau, g)
        if "auc" in self.families:
            for horizon in self.horizons:
                found["auc", horizon] = time_dependent_auc(t, d, r, horizon, w, g)
        return found

    def absolute(
        self, link: np.ndarray, groups: np.ndarray, rows: np.ndarray, weights: np.ndarray, slopes: bool = True
    ) -> Values:
        """Brier scores and calibration of the cases at `rows` for each row of weights (samples x all cases).

        Without `slopes` only what few cases can tell: Brier scores, and the observed over the expected risk.
        """
        t, d, g, w = self.time[rows], self.event[rows], groups[rows], weights[:, rows]
        found: Values = {}
        if self.competing:
            return found
        own = link[rows]
        for column, horizon in enumerate(self.horizons):
            if "brier" in self.families:
                brier = brier_at(t, d, self.probability(own[:, column]), horizon, w)
                found["brier", horizon], found["scaled_brier", horizon] = brier.score, brier.scaled
            if "calibration" in self.families:
                expected = share(w @ self.probability(own[:, column]), w.sum(axis=1))
                found["observed_expected", horizon] = share(kaplan_meier_risk(t, d, horizon, w), expected)
                if slopes:
                    finite = np.isfinite(own[:, column]).all()
                    agreement = calibration_at(t, d, own[:, column], horizon, w, g) if finite else None
                    found |= calibration_values(agreement, horizon, len(w))
        if "brier" in self.families and slopes:
            grid = own[:, len(self.horizons) :]
            both = integrated_brier(t, d, self.probability(grid), np.array(self.grid), w)
            found["integrated_brier", self.grid[-1]] = both.score
        return found

    def curves(self, link: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> Values:
        """Distance of the predictions from a smooth calibration curve (ICI), for each row of weights."""
        found: Values = {}
        for column, horizon in enumerate(
            self.horizons if "calibration" in self.families and not self.competing else ()
        ):
            x, found["ici", horizon] = link[rows, column], np.full(len(weights), np.nan)
            if np.isfinite(x).all() and np.ptp(x) > 0:
                curve = smooth_survival_calibration(self.time[rows], self.event[rows], x, horizon, weights[:, rows])
                found["ici", horizon] = curve.ici
        return found

    def pairs(self, groups: np.ndarray, rows: np.ndarray, horizon: float | None) -> int:
        """Comparable pairs within groups."""
        t, d, g = self.time[rows], self.event[rows].astype(bool), groups[rows]
        if horizon is not None:
            return count_pairs(*horizon_status(t, d, horizon), g)
        count = 0
        for group in np.unique(g):
            own, dead = np.sort(t[g == group]), t[(g == group) & d]
            count += int((len(own) - np.searchsorted(own, dead, side="right")).sum())
        return count

    def events_by(self, rows: np.ndarray, horizon: float | None) -> int:
        """Events among the cases at `rows`, up to a horizon if there is one."""
        dead = self.event[rows].astype(bool)
        return int((dead if horizon is None else dead & (self.time[rows] <= horizon)).sum())

    def refusal(self, rows: np.ndarray, horizon: float | None) -> str:
        """Why nothing can be said of the cases at `rows`, or nothing."""
        events = self.events_by(rows, horizon)
        if not events:
            return f"0 events among {len(rows)} cases{'' if horizon is None else f' by {horizon:g}'}"
        if horizon is not None and not (self.time[rows] >= horizon).any():
            return f"none of {len(rows)} cases was followed to {horizon:g}"
        return ""


@dataclass(frozen=True)
class ClassJudge:
    """Metrics of predicted probabilities of a binary outcome; `link` has one column, the log odds."""

    outcome: np.ndarray
    families: frozenset[str]
    name: str = "logistic"
    horizons: tuple[float, ...] = ()
    times: tuple[float, ...] = ()

    @property
    def classes(self) -> np.ndarray:
        """1 for cases with the outcome."""
        return np.asarray(self.outcome).astype(int)

    @staticmethod
    def probability(link: np.ndarray) -> np.ndarray:
        """Probability of log odds."""
        return np.asarray(expit(link))

    def ranks(self, risk: np.ndarray, groups: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> Values:
        """AUC of the cases at `rows`, pairs within groups, for each row of weights (samples x all cases)."""
        if "auc" not in self.families:
            return {}
        return {("auc", None): auc_rows(risk[rows], self.outcome[rows], weights[:, rows], groups[rows])}

    def absolute(
        self, link: np.ndarray, groups: np.ndarray, rows: np.ndarray, weights: np.ndarray, slopes: bool = True
    ) -> Values:
        """Brier score and calibration of the cases at `rows` for each row of weights (samples x all cases).

        Without `slopes` only what few cases can tell: Brier scores, and the observed over the expected share.
        """
        y, x, g, w = self.outcome[rows], link[rows, 0], groups[rows], weights[:, rows]
        found: Values = {}
        if "brier" in self.families:
            brier = brier_rows(self.probability(x), y, w)
            found["brier", None], found["scaled_brier", None] = brier.score, brier.scaled
        if "calibration" in self.families:
            found["observed_expected", None] = share(w @ y, w @ self.probability(x))
            if slopes:
                found |= calibration_values(calibration(x, y, w, g) if np.isfinite(x).all() else None, None, len(w))
        return found

    def curves(self, link: np.ndarray, rows: np.ndarray, weights: np.ndarray) -> Values:
        """Distance of the predictions from a smooth calibration curve (ICI), for each row of weights."""
        x = link[rows, 0]
        if "calibration" not in self.families:
            return {}
        if not np.isfinite(x).all() or np.ptp(x) == 0:
            return {("ici", None): np.full(len(weights), np.nan)}
        return {("ici", None): smooth_calibration(x, self.outcome[rows], weights[:, rows]).ici}

    def pairs(self, groups: np.ndarray, rows: np.ndarray, horizon: float | None) -> int:  # noqa: ARG002
        """Pairs of a case with and one without the outcome within groups."""
        y = self.outcome[rows] == 1
        return count_pairs(y, ~y, groups[rows])

    def events_by(self, rows: np.ndarray, horizon: float | None) -> int:  # noqa: ARG002
        """Cases with the outcome among those at `rows`."""
        return int(self.outcome[rows].sum())

    def refusal(self, rows: np.ndarray, horizon: float | None) -> str:  # noqa: ARG002
        """Why nothing can be said of the cases at `rows`, or nothing."""
        events = int(self.outcome[rows].sum())
        if not events:
            return f"0 events among {len(rows)} cases"
        return f"all {len(rows)} cases have the outcome" if events == len(rows) else ""


Judge = SurvivalJudge | ClassJudge


def calibration_values(found: Calibration | SurvivalCalibration | None, horizon: float | None, n: int) -> Values:
    """Intercept and slope of a calibration, n values each, by the names that they have in the table.

    NaN without a calibration: a risk of 0 or 1 has no place on their scale.
    """
    gone = np.full(n, np.nan)
    return {
        ("calibration_intercept", horizon): gone if found is None else found.intercept,
        ("calibration_slope", horizon): gone if found is None else found.slope,
        ("calibration_in_the_large", horizon): gone if found is None else found.in_the_large,
    }


# ------------------------------------------------------------------------------ rows


def performance_row(
    model: str,
    arm: str,
    split: str,
    key: Key,
    samples: np.ndarray,
    n: int,
    events: int,
    *,
    centre: str = ALL_CENTRES,
    subgroup: str = "",
    leads: bool = False,
    note: str = "",
    refusal: str = "",
) -> dict[str, Any]:
    """A row of performance.csv; `samples` are the estimate, then those of the bootstrap.

    With a refusal, or without a finite estimate, it is not estimable.
    """
    estimate = float(samples[0]) if len(samples) else np.nan
    if not refusal and not np.isfinite(estimate):
        refusal = "no finite estimate"
    low, high = (np.nan, np.nan) if refusal or len(samples) < 2 else interval(samples[1:])
    if not refusal and len(samples) > 1 and not np.isfinite(low):
        note = joined(note, "no interval: too many bootstrap samples without an estimate")
    elif not refusal and high - low < NO_WIDTH:
        # An interval without width would claim a certainty that such a model doesn't have.
        low = high = np.nan
        note = joined(note, "no interval: every bootstrap sample gives the same estimate")
    return {
        "model": model,
        "arm": arm,
        "split": split,
        "centre": centre,
        "subgroup": subgroup,
        "metric": key[0],
        "horizon": np.nan if key[1] is None else key[1],
        "estimate": np.nan if refusal else estimate,
        "ci_low": low,
        "ci_high": high,
        "n": n,
        "events": events,
        "leads": "yes" if leads and not refusal else "",
        "status": "not estimable" if refusal else "estimable",
        "note": refusal or note,
    }


def joined(*words: str) -> str:
    """Remarks that are not empty, one after the other."""
    return "; ".join(filter(None, words))


def unequal_prevalence(classes: np.ndarray, centres: np.ndarray) -> bool:
    """Whether the share of cases with the event differs between centres (see UNEQUAL_V and UNEQUAL_P)."""
    table = pd.crosstab(pd.Series(centres), pd.Series(classes)).to_numpy()
    _, _, p = independence_test(table)
    return bool(p < UNEQUAL_P or cramers_v(table)[1] > UNEQUAL_V)


@dataclass(frozen=True)
class Setting:
    """What all arms are judged in: centres, subgroups (positions by label), and the bootstrap (samples x cases)."""

    judge: Judge
    centres: np.ndarray
    subgroups: Mapping[str, np.ndarray]
    weights: np.ndarray
    mark: str = ""

    @property
    def names(self) -> list[str]:
        """The centres, sorted."""
        return sorted(set(map(str, self.centres)))


def prediction_rows(arm: str, found: Predictions, setting: Setting, comparable: bool = True) -> list[dict[str, Any]]:
    """Rows of an arm's predictions: all cases, pairs within centres, each centre, the worst, pooled centres, subgroups.

    `comparable` says that risks of different centres are on one scale (they are not where the batch is a stratum).
    """
    judge, centres = setting.judge, setting.centres.astype(str)
    rows = found.known
    several = len(setting.names) > 1
    by_centre = several and all(len(set(centres[found.group == group])) == 1 for group in np.unique(found.group))
    place = np.unique(centres, return_inverse=True)[1]
    within = np.unique(found.group, return_inverse=True)[1] * (place.max() + 1) + place
    draws = np.vstack([np.ones(len(centres)), setting.weights])
    unequal = several and unequal_prevalence(judge.classes[rows], centres[rows])
    lost = len(centres) - len(rows)
    note = joined(setting.mark, f"{lost} cases without a prediction" if lost else "", *found.notes)
    table: list[dict[str, Any]] = []

    def add(values: Values, members: np.ndarray, groups: np.ndarray, **where: Any) -> None:
        suffix, told, refused = (where.pop(key, "") for key in ("suffix", "told", "refused"))
        for key, samples in values.items():
            refusal = refused or _refusal(judge, key, found, groups, members)
            named = (key[0] + suffix, key[1])
            counts = (len(members), judge.events_by(members, key[1]))
            leads = key[0] in DISCRIMINATION and where.get("leads", False)
            table.append(
                performance_row(
                    judge.name, arm, found.split, named, samples, *counts,
                    **{**where, "leads": leads}, note=joined(told, note), refusal=refusal,
                )
            )  # fmt: skip

    if not len(rows):
        nothing: Values = {key: np.empty(0) for key in keys_of(judge)}
        add(nothing, np.arange(len(centres)), found.group, refused=joined(*found.notes) or "no case has a prediction")
        return table
    pooled = "" if comparable else "risks of different batches are not comparable: the batch is a stratum"
    told = "pairs within centres" if by_centre else ""
    mixed = "centres differ in prevalence: part of it may be the centres themselves"
    ranks = judge.ranks(found.risk, found.group, rows, draws)
    add(
        ranks, rows, found.group, refused="" if by_centre else pooled, leads=by_centre or not (unequal or pooled),
        told=told or (mixed if unequal else ""),
    )  # fmt: skip
    if several and not by_centre:
        inside = judge.ranks(found.risk, within, rows, draws)
        add(inside, rows, within, suffix=WITHIN, leads=unequal or bool(pooled))
    absolute = {**judge.absolute(found.link, found.group, rows, draws), **judge.curves(found.link, rows, draws)}
    add(absolute, rows, found.group)
    parts: dict[str, Values] = {}
    for name in setting.names if several else []:
        members = rows[centres[rows] == name]
        if len(members):
            ranks = judge.ranks(found.risk, found.group, members, draws)
            parts[name] = {**ranks, **judge.absolute(found.link, found.group, members, draws)}
            add(parts[name], members, found.group, centre=name)
        else:
            why = joined(*found.notes) or "no case has a prediction"
            empty: Values = {key: np.empty(0) for key in keys_of(judge)}
            add(empty, np.flatnonzero(centres == name), found.group, centre=name, refused=why)
    if several:
        table += _over_centres(arm, found, setting, parts, note)
    for label, members in setting.subgroups.items():
        members = np.intersect1d(members, rows)
        if len(members):
            groups = found.group if comparable or by_centre else within
            ranks = judge.ranks(found.risk, groups, members, draws)
            # Slopes of a handful of cases say nothing.
            add({**ranks, **judge.absolute(found.link, groups, members, draws, False)}, members, groups, subgroup=label)
    return table


def keys_of(judge: Judge) -> list[Key]:
    """The metrics of discrimination of a judge, for rows that say why there is none."""
    horizons: Iterable[float | None] = judge.horizons or (None,)
    of_survival = ("c_index", "uno_c") if isinstance(judge, SurvivalJudge) else ()
    keys: list[Key] = [(name, None) for name in of_survival if name in judge.families]
    return keys + [("auc", horizon) for horizon in horizons if "auc" in judge.families]


def _refusal(judge: Judge, key: Key, found: Predictions, groups: np.ndarray, members: np.ndarray) -> str:
    """Why a metric is not estimable for some cases, or nothing."""
    metric, horizon = key
    if reason := judge.refusal(members, horizon):
        return reason
    if metric in DISCRIMINATION:
        pairs = judge.pairs(groups, members, horizon)
        if pairs < LEAST_PAIRS:
            events = judge.events_by(members, horizon)
            return f"{pairs} comparable pairs within folds ({events} events), {LEAST_PAIRS} needed"
        return ""
    events = judge.events_by(members, horizon)
    least = min(events, len(members) - events) if judge.name == "logistic" else events
    constant = all(np.ptp(found.risk[members[groups[members] == group]]) == 0 for group in np.unique(groups[members]))
    if metric in ("calibration_slope", "calibration_intercept") and constant:
        return "the predicted risks are equal within every fold"
    if "brier" not in metric and least < LEAST_EVENTS:
        return f"{events} events among {len(members)} cases, {LEAST_EVENTS} needed"
    if metric.startswith("calibration") or metric == "ici":
        link = found.link[members, 0 if horizon is None else judge.times.index(horizon)]
        if endless := int((~np.isfinite(link)).sum()):
            return f"the predicted risk of {endless} of {len(members)} cases is 0 or 1, which has no place on the scale"
        if metric == "ici" and np.ptp(link) == 0:
            return "the predicted risks are equal: there is no curve"
    if len(members) < LEAST_CASES:
        return f"{len(members)} cases, {LEAST_CASES} needed"
    return ""


def _over_centres(
    arm: str, found: Predictions, setting: Setting, parts: Mapping[str, Values], note: str
) -> list[dict[str, Any]]:
    """The centres' estimates pooled by random effects, and for discrimination the worst centre."""
    judge, centres = setting.judge, setting.centres.astype(str)
    table = []
    for key in dict.fromkeys(key for values in parts.values() for key in values):
        usable = {
            name: values[key]
            for name, values in parts.items()
            if key in values
            and np.isfinite(values[key][0])
            and not _refusal(judge, key, found, found.group, found.known[centres[found.known] == name])
        }
        members = found.known[np.isin(centres[found.known], list(usable))]
        counts = (len(members), judge.events_by(members, key[1]))
        left = f"{len(parts) - len(usable)} of {len(parts)} centres not estimable" if len(usable) < len(parts) else ""
        names, samples = list(usable), np.array([usable[name] for name in usable] or np.empty((0, 1))).T
        estimates = samples[0]
        pooled = pool(estimates, bootstrap_error(samples[1:], TRANSFORMS[key[0]]), TRANSFORMS[key[0]], names=names)
        spread = (
            f"95 % prediction interval {pooled.prediction_low:.3g} to {pooled.prediction_high:.3g}"
            if np.isfinite(pooled.prediction_low)
            else ""
        )
        told = joined(left, *pooled.notes, spread, note)
        row = performance_row(
            judge.name, arm, found.split, key, np.array([pooled.estimate]), *counts,
            centre=POOLED, note=told, refusal=joined(pooled.refusal, left if pooled.refusal else ""),
        )  # fmt: skip
        if row["status"] == "estimable":
            row |= {"ci_low": pooled.ci_low, "ci_high": pooled.ci_high}
            row |= {"prediction_low": pooled.prediction_low, "prediction_high": pooled.prediction_high}
        table.append(row)
        if key[0] in DISCRIMINATION and len(usable) > 1:
            worst = worst_of(names, estimates, samples[1:])
            told = joined(worst.name, *worst.notes, left, note)
            row = performance_row(
                judge.name, arm, found.split, key, np.array([worst.estimate]), *counts,
                centre=WORST, note=told, refusal=worst.refusal,
            )  # fmt: skip
            if not worst.refusal and not worst.ci_high - worst.ci_low < NO_WIDTH:
                row |= {"ci_low": worst.ci_low, "ci_high": worst.ci_high}
            table.append(row)
    return table


def optimism_rows(
    arm: str,
    apparent: Predictions,
    refits: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    setting: Setting,
    split: str,
    comparable: bool,
) -> list[dict[str, Any]]:
    """Apparent performance less its optimism (Harrell, Lee & Mark, Stat Med 1996).

    `refits` are the models of bootstrap samples: how often each case was drawn, risk and link of all cases. A model's
    optimism is its performance in its own sample less that in all cases. The interval is that of the performance in
    the samples, moved so that its mean is the corrected one (after Noma et al., Stat Med 2021, 10.1002/sim.9148, who
    move it by the optimism: where penalised models fit samples better than the cohort, that would miss the estimate).
    """
    judge, centres = setting.judge, setting.centres.astype(str)
    rows = np.arange(len(centres))
    one = np.zeros(len(centres), dtype=int)
    place = np.unique(centres, return_inverse=True)[1]
    several = len(setting.names) > 1
    unequal = several and unequal_prevalence(judge.classes, centres)

    def metrics(risk: np.ndarray, link: np.ndarray, weights: np.ndarray) -> Values:
        found: Values = judge.ranks(risk, one, rows, weights) if comparable else {}
        if several:
            found |= {(key[0] + WITHIN, key[1]): v for key, v in judge.ranks(risk, place, rows, weights).items()}
        absolute = judge.absolute(link, one, rows, weights).items()
        return found | {key: values for key, values in absolute if key[0] in OPTIMISTIC}

    if not len(refits) or not np.isfinite(apparent.risk).all():
        return []
    own = metrics(apparent.risk, apparent.link, np.ones((1, len(centres))))
    pairs = [metrics(risk, link, np.vstack([drawn, np.ones(len(centres))])) for drawn, risk, link in refits]
    table = []
    for key, value in own.items():
        both = np.array([found[key] for found in pairs])
        good = np.isfinite(both).all(axis=1)
        optimism = float((both[good, 0] - both[good, 1]).mean()) if good.any() else float("nan")
        corrected = value[0] - optimism
        samples = np.r_[corrected, both[:, 0] - (both[good, 0].mean() if good.any() else np.nan) + corrected]
        told = f"apparent {value[0]:.4g}, optimism {optimism:.4g} in {int(good.sum())} of {len(refits)} refits"
        base = (key[0].removesuffix(WITHIN), key[1])
        inside = key[0].endswith(WITHIN)
        leads = base[0] in DISCRIMINATION and (inside == (unequal or not comparable))
        refusal = _refusal(judge, base, apparent, place if inside else one, rows)
        if not refusal and good.sum() < 0.9 * len(refits):
            refusal = f"only {int(good.sum())} of {len(refits)} refits have an estimate"
        table.append(
            performance_row(
                judge.name, arm, split, key, samples, len(rows), judge.events_by(rows, key[1]),
                leads=leads, note=joined(told, setting.mark), refusal=refusal,
            )
        )  # fmt: skip
    return table
