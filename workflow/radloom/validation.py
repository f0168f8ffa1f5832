"""Cross-validation in which nothing of a test case is seen before its prediction, and metrics with intervals.

A fold's training cases alone determine, in this order: the medians and commonest words that fill missing cells, which
columns are constant, ComBat, which of two correlated features stays, the scale, the penalty, the coefficients. The
penalty is chosen by an inner cross-validation of the training cases, for which ComBat is not fitted again. Only which
batches are small is counted on all cases.

Scales of folds differ (another penalty, another selection), so risks are compared between cases of one fold only:
concordance and AUC count the pairs within folds. That also keeps out the bias of pooled folds, in which a class that is
rarer in training is commoner in the test fold. A model that selects nothing gives equal risks, and its pairs
count 1/2.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from threadpoolctl import threadpool_limits

from radloom.assembly import CohortTables, ModelData, code_words
from radloom.combat import ComBatHarmonizer, HarmonizationError, HarmonizationWarning, harmonizer_of
from radloom.cox import concordance_of_pairs
from radloom.model_tables import MODEL_TABLES
from radloom.penalised import PenalisedFit

INNER_FOLDS = 10
LEAST_EVENTS = 4
"""Fewer can't be split so that every training part of the nested folds has two."""

LEAST_PAIRS = 10
"""A metric of fewer comparable pairs is not estimable."""

PERFORMANCE_COLUMNS = MODEL_TABLES["performance"]
COEFFICIENT_COLUMNS = MODEL_TABLES["coefficients"]
SPLIT = "cross-validation"
ALL_CENTRES = "all"


@dataclass(frozen=True)
class Settings:
    """What the sections `model` and `harmonize` of the configuration say."""

    harmonizer: ComBatHarmonizer
    max_correlation: float = 0.9
    folds: int = 5
    seed: int = 1
    bootstraps: int = 500
    min_events: int = 20
    override: bool = False


def settings_of(params: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings that a validated configuration describes."""
    model = params["model"]
    return Settings(
        harmonizer=harmonizer_of(params["harmonize"]),
        max_correlation=model["max_correlation"],
        folds=model["folds"],
        seed=model["seed"],
        bootstraps=model["bootstraps"],
        min_events=model["min_events"],
        override=model["override_sample_size"],
    )


@dataclass(frozen=True)
class Arm:
    """A set of predictors to be compared with others."""

    name: str
    features: bool
    harmonise: bool
    clinical: bool


@dataclass(frozen=True)
class Prepared:
    """Standardised predictors of all cases, as the training cases determine them.

    `medians` and `commonest` are what fills a missing number and a missing word of each column.
    """

    design: np.ndarray
    terms: list[str]
    mean: np.ndarray
    sd: np.ndarray
    medians: dict[str, float]
    commonest: dict[str, str]
    combat: dict[str, Any] | None
    notes: list[str]


@dataclass(frozen=True)
class ArmResult:
    """Out-of-fold risks of an arm, and its model of all cases.

    `inner_folds` says how many chose the penalty in each fold, then in the model of all cases.
    """

    arm: Arm
    fold: np.ndarray
    risk: np.ndarray
    fits: list[PenalisedFit]
    prepared: Prepared
    final: PenalisedFit
    selected_in_folds: dict[str, int]
    inner_folds: list[int]
    notes: list[str] = field(default_factory=list)


Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], PenalisedFit]
"""Fits a penalised model: design of some cases, their positions among all, the inner fold of each."""


def arms_of(data: ModelData) -> list[Arm]:
    """The arms that run side by side: clinical alone, features without and with ComBat, both together."""
    clinical = data.clinical.shape[1] > 0
    arms = [Arm("features", True, False, False), Arm("features_combat", True, True, False)]
    if clinical:
        arms = [
            Arm("clinical", False, False, True),
            *arms,
            Arm("features_combat+clinical", True, True, True),
        ]
    return arms


# --------------------------------------------------------------------------- folds


def stratified_folds(patients: Sequence[str], strata: Sequence[tuple[Any, ...]], n_folds: int, seed: int) -> np.ndarray:
    """The fold, 1 to n_folds, of each case: all cases of a patient in one fold, strata spread evenly.

    Strata are tuples, the most important part first (the outcome); a patient's stratum is the largest of its
    cases'. The result depends on the patients' names and strata and on the seed, not on the order of rows.
    """
    of_patient: dict[str, tuple[str, ...]] = {}
    for patient, stratum in zip(patients, strata, strict=True):
        key = tuple(str(part) for part in stratum)
        of_patient[patient] = max(of_patient.get(patient, key), key)
    members: dict[tuple[str, ...], list[str]] = {}
    for patient in sorted(of_patient):
        members.setdefault(of_patient[patient], []).append(patient)
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    dealt = 0
    # Dealt round and round without a break, most important part of the stratum first: each value of that part
    # comes to each fold equally often, up to one.
    for stratum in sorted(members, reverse=True):
        names = members[stratum]
        for position in rng.permutation(len(names)):
            fold_of[names[position]] = 1 + dealt % n_folds
            dealt += 1
    return np.array([fold_of[patient] for patient in patients])


# ------------------------------------------------------------------- preprocessing


def prune_correlated(values: np.ndarray, limit: float) -> np.ndarray:
    """Positions of the columns that stay: a column goes if |Spearman's rho| with one that stays exceeds the limit.

    `values` is cases x columns, without missing values or constant columns; the earlier column stays.
    """
    p = values.shape[1]
    ranks = rankdata(values, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    ranks = ranks / np.sqrt((ranks**2).sum(axis=0))
    correlation = np.abs(ranks.T @ ranks)
    stays = np.zeros(p, dtype=bool)
    for column in range(p):
        stays[column] = not (correlation[column, :column][stays[:column]] > limit).any()
    return np.flatnonzero(stays)


def _varies(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0))


def _fill(table: pd.DataFrame, train: np.ndarray) -> tuple[pd.DataFrame, dict[str, float], int]:
    """Missing cells replaced by the median of the training cases; columns without any value or spread dropped.

    Returns the table, the median of each of its columns, and how many cells were filled.
    """
    values = table.to_numpy(dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(values[train]).any(axis=0)
    values, names = values[:, known], table.columns[known]
    if not len(names):
        return table.iloc[:, :0], {}, 0
    missing = np.isnan(values)
    medians = np.nanmedian(values[train], axis=0)
    values = np.where(missing, medians, values)
    keep = _varies(values[train])
    kept = {str(name): float(middle) for name, middle in zip(names[keep], medians[keep], strict=True)}
    filled = pd.DataFrame(values[:, keep], index=table.index, columns=names[keep])
    return filled, kept, int(missing[:, keep].sum())


def _fill_words(table: pd.DataFrame, train: np.ndarray) -> tuple[pd.DataFrame, dict[str, str], int]:
    """Missing categories replaced by the commonest of the training cases (the first in order, of equally common ones).

    Categories without any spread in the training cases are dropped; other columns are left as they are. Returns
    the table, the commonest level of each category, and how many cells were filled.
    """
    columns: dict[str, pd.Series] = {}
    commonest: dict[str, str] = {}
    n_filled = 0
    for name in table.columns:
        column = table[name]
        if isinstance(column.dtype, pd.CategoricalDtype):
            codes = column.cat.codes.to_numpy()[train]
            counts = np.bincount(codes[codes >= 0], minlength=len(column.cat.categories))
            if np.count_nonzero(counts) < 2:
                continue
            commonest[str(name)] = str(column.cat.categories[int(np.argmax(counts))])
            n_filled += int(column.isna().sum())
            column = column.fillna(commonest[str(name)])
        columns[str(name)] = column
    return pd.DataFrame(columns, index=table.index), commonest, n_filled


def harmonise_fold(
    features: pd.DataFrame, metadata: pd.DataFrame, train: np.ndarray, harmonizer: ComBatHarmonizer, n_folds: int
) -> tuple[pd.DataFrame, ComBatHarmonizer | None, list[str]]:
    """ComBat learned from the training cases and applied to all; what can't be harmonised stays, and is noted.

    Which batches are small is counted on all cases of the model, where no outcome and no feature takes part: in every
    fold they are merged, or left as they are, as configured. (With `error` or `exclude` a model has none.) A batch that
    is large enough as a whole may be small in a fold: there the least size is the share of it that a fold's
    training cases hold, and a batch below that stays as it is. So do cases of a batch that the training cases lack.
    Covariates with which the training cases can't be fitted are left out.
    """
    labels = metadata[harmonizer.batch].astype(str).str.strip()
    sizes = labels.value_counts()
    small = labels.isin(sizes.index[sizes < harmonizer.min_batch_size]).to_numpy()
    if harmonizer.small_batch == "merge" and small.any():
        labels = labels.where(~small, "+".join(sorted(set(labels[small]))))
        small = np.zeros(len(labels), dtype=bool)
    if not (train & ~small).any():
        return features, None, [f"not harmonised (no batch has {harmonizer.min_batch_size} cases or more)"]
    metadata = metadata.assign(**{harmonizer.batch: labels})
    least = max(2, math.floor(harmonizer.min_batch_size * (n_folds - 1) / n_folds))
    reason = ""
    for covariates in dict.fromkeys([tuple(harmonizer.covariates), ()]):
        fold = ComBatHarmonizer(**harmonizer.get_params()).set_params(
            covariates=list(covariates), min_batch_size=least, small_batch="passthrough"
        )
        wanted = metadata[[harmonizer.batch, *covariates]]
        learned = train & ~small
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HarmonizationWarning)
                fold.fit(features[learned], metadata=wanted[learned])
            moved = labels.isin(fold.batches_).to_numpy() & ~small
            result = features.copy()
            result.loc[moved] = fold.transform(features[moved], wanted[moved])
        except HarmonizationError as error:
            reason = str(error)
            continue
        notes = ["without covariates"] if len(covariates) < len(harmonizer.covariates) else []
        for untouched, which in (
            (small, "of small batches"),
            (~moved & ~small, f"of batches with fewer than {least} training cases"),
        ):
            count = int((untouched & ~train).sum())
            notes += [f"{count} test cases {which} not harmonised"] if count else []
        return result, fold, notes
    return features, None, [f"not harmonised ({reason})"]


def prepare(data: ModelData, train: np.ndarray, arm: Arm, settings: Settings, whole: bool) -> Prepared:
    """Predictors of all cases as the training cases (a mask) determine them.

    `whole` says that the training cases are all cases: then ComBat's guards hold as they are set
    (HarmonizationError).
    """
    blocks: list[pd.DataFrame] = []
    medians: dict[str, float] = {}
    commonest: dict[str, str] = {}
    notes: list[str] = []
    combat: ComBatHarmonizer | None = None
    if arm.features:
        block, kept, n_filled = _fill(data.features, train)
        medians |= kept
        if n_filled:
            notes.append(f"{n_filled} missing feature cells filled with the training median")
        if arm.harmonise and whole and block.shape[1]:
            combat = ComBatHarmonizer(**settings.harmonizer.get_params())
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HarmonizationWarning)
                block = combat.fit_transform(block, metadata=data.metadata)
        elif arm.harmonise and block.shape[1]:
            block, combat, more = harmonise_fold(block, data.metadata, train, settings.harmonizer, settings.folds)
            notes += more
        block = block.loc[:, _varies(block.to_numpy()[train])]
        if block.shape[1]:
            block = block.iloc[:, prune_correlated(block.to_numpy()[train], settings.max_correlation)]
        blocks.append(block)
    if arm.clinical:
        words, commonest, n_words = _fill_words(data.clinical, train)
        block, kept, n_filled = _fill(code_words(words), train)
        medians |= {name: middle for name, middle in kept.items() if name in words.columns}
        if n_filled + n_words:
            notes.append(
                f"{n_filled + n_words} missing clinical cells filled with the training median or commonest word"
            )
        blocks.append(block)
    table = pd.concat(blocks, axis=1)
    values = table.to_numpy(dtype=np.float64)
    mean, sd = values[train].mean(axis=0), values[train].std(axis=0)
    terms = [str(name) for name in table.columns]
    saved = combat.to_json() if combat is not None else None
    return Prepared((values - mean) / sd, terms, mean, sd, medians, commonest, saved, notes)


# --------------------------------------------------------------------------- models


def n_folds_for(n_events: int, wanted: int) -> int:
    """Outer folds that leave at least two events to each."""
    return max(2, min(wanted, n_events // 2))


def limiting_count(classes: np.ndarray, needs_both: bool) -> int:
    """What limits a model: the events (Cox), or the cases of the rarer class (logistic)."""
    events = int(np.sum(classes))
    return min(events, len(classes) - events) if needs_both else events


def cross_validate(
    data: ModelData, classes: np.ndarray, settings: Settings, fit: Fit, needs_both: bool
) -> tuple[list[ArmResult], dict[str, str]]:
    """Out-of-fold risks and the final model of every arm, and why an arm has none (ComBat's guards, on all cases).

    `classes` is the outcome (0 or 1) by which the folds are stratified, together with the batch; `needs_both` says
    that a model can't be fitted to one class alone. Numerical libraries run on one thread, so that the same data give
    the same numbers on every machine's number of cores.
    """
    with threadpool_limits(limits=1):
        return _cross_validate(data, classes, settings, fit, needs_both)


def _cross_validate(
    data: ModelData, classes: np.ndarray, settings: Settings, fit: Fit, needs_both: bool
) -> tuple[list[ArmResult], dict[str, str]]:
    settings = replace(settings, folds=n_folds_for(limiting_count(classes, needs_both), settings.folds))
    patients = data.patients.to_numpy(dtype=object)
    strata = list(zip(classes, data.batches, strict=True))
    fold = stratified_folds(patients, strata, settings.folds, settings.seed)

    def fit_rows(prepared: Prepared, train: np.ndarray) -> tuple[PenalisedFit, int]:
        rows = np.flatnonzero(train)
        n_inner = max(2, min(INNER_FOLDS, limiting_count(classes[rows], needs_both)))
        inner = stratified_folds(patients[rows], [strata[row] for row in rows], n_inner, settings.seed + 1)
        return fit(prepared.design[rows], rows, inner), n_inner

    results = []
    everything = np.ones(len(patients), dtype=bool)
    whole: dict[str, Prepared] = {}
    refused: dict[str, str] = {}
    for arm in arms_of(data):
        try:
            whole[arm.name] = prepare(data, everything, arm, settings, whole=True)
        except HarmonizationError as error:
            refused[arm.name] = f"ComBat of the {len(patients)} cases of the model: {error}"
            continue
        risk = np.full(len(patients), np.nan)
        fits: list[PenalisedFit] = []
        notes: list[str] = list(dict.fromkeys(whole[arm.name].notes))
        selected: dict[str, int] = {}
        inner_folds: list[int] = []
        for number in range(1, settings.folds + 1):
            train = fold != number
            prepared = prepare(data, train, arm, settings, whole=False)
            fitted, n_inner = fit_rows(prepared, train)
            inner_folds.append(n_inner)
            risk[~train] = fitted.linear_predictor(prepared.design[~train])
            for term, coefficient in zip(prepared.terms, fitted.coefficients, strict=True):
                if coefficient != 0:
                    selected[term] = selected.get(term, 0) + 1
            filled = [note for note in prepared.notes if "cells filled" not in note]
            notes += [f"fold {number}: {note}" for note in filled]
            fits.append(fitted)
        none = sum(not fitted.coefficients.any() for fitted in fits)
        if none:
            notes.append(f"nothing selected in {none} of {settings.folds} folds (equal risks count 1/2)")
        final, n_inner = fit_rows(whole[arm.name], everything)
        inner_folds.append(n_inner)
        if not final.coefficients.any():
            notes.append("nothing selected in the model of all cases")
        results.append(ArmResult(arm, fold, risk, fits, whole[arm.name], final, selected, inner_folds, notes))
    return results, refused


# -------------------------------------------------------------------------- metrics


def bootstrap_weights(batches: np.ndarray, n: int, seed: int) -> np.ndarray:
    """How often each case is drawn, samples x cases: as many as there are, with replacement, within each batch."""
    rng = np.random.default_rng([seed, 2])
    weights = np.zeros((n, len(batches)))
    for batch in sorted(set(batches)):
        rows = np.flatnonzero(batches == batch)
        weights[:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=n)
    return weights


def interval(samples: np.ndarray) -> tuple[float, float]:
    """95 % percentile interval of bootstrap estimates; NaN if more than a tenth of them could not be had."""
    good = samples[np.isfinite(samples)]
    if len(good) < 0.9 * len(samples):
        return float("nan"), float("nan")
    low, high = np.percentile(good, [2.5, 97.5])
    return float(low), float(high)


PairsOf = Callable[[np.ndarray], np.ndarray]
"""Weight of each comparable pair among some cases (positions), cases x cases."""


@dataclass(frozen=True)
class Concordance:
    """A concordance with its bootstrap estimates and the number of pairs behind it."""

    estimate: float
    samples: np.ndarray
    n_pairs: int


def fold_concordance(
    pairs_of: PairsOf, risk: np.ndarray, groups: np.ndarray, weights: np.ndarray, rows: np.ndarray | None = None
) -> Concordance:
    """Fraction of concordant pairs among the comparable pairs within groups (folds), pooled over the groups.

    `weights` are samples x cases. Two draws of one case are no pair. `rows` restricts the cases. NaN without a
    pair.
    """
    chosen = np.arange(len(risk)) if rows is None else rows
    right, total, n_pairs = np.zeros(len(weights) + 1), np.zeros(len(weights) + 1), 0
    for group in np.unique(groups[chosen]):
        members = chosen[groups[chosen] == group]
        pairs = pairs_of(members)
        n_pairs += int((pairs > 0).sum())
        drawn = np.vstack([np.ones(len(members)), weights[:, members]])
        right += ((drawn @ (pairs * concordance_of_pairs(risk[members]))) * drawn).sum(axis=1)
        total += ((drawn @ pairs) * drawn).sum(axis=1)
    share = np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)
    return Concordance(float(share[0]), share[1:], n_pairs)


def performance_row(
    model: str,
    arm: str,
    metric: str,
    estimate: float,
    samples: np.ndarray,
    n: int,
    events: int,
    *,
    centre: str = ALL_CENTRES,
    note: str = "",
    refusal: str = "",
) -> dict[str, Any]:
    """A row of performance.csv; with a refusal, or without a finite estimate, it is not estimable."""
    if not refusal and not np.isfinite(estimate):
        refusal = "no finite estimate"
    low, high = (np.nan, np.nan) if refusal else interval(samples)
    if not refusal and not np.isfinite(low):
        note = "; ".join(filter(None, [note, "no interval: too many bootstrap samples without an estimate"]))
    elif not refusal and low == high:
        # An interval without width would claim a certainty that such a model doesn't have.
        low = high = np.nan
        note = "; ".join(filter(None, [note, "no interval: every bootstrap sample gives the same estimate"]))
    return {
        "model": model,
        "arm": arm,
        "split": SPLIT,
        "centre": centre,
        "metric": metric,
        "estimate": np.nan if refusal else estimate,
        "ci_low": low,
        "ci_high": high,
        "n": n,
        "events": events,
        "status": "not estimable" if refusal else "estimable",
        "note": refusal or note,
    }


def refused_rows(model: str, refused: Mapping[str, str], metric: str, n: int, events: int) -> list[dict[str, Any]]:
    """A row for each arm that was not fitted, with the reason."""
    return [
        performance_row(model, arm, metric, float("nan"), np.empty(0), n, events, refusal=reason)
        for arm, reason in refused.items()
    ]


def concordance_rows(
    model: str,
    metric: str,
    result: ArmResult,
    data: ModelData,
    classes: np.ndarray,
    pairs_of: PairsOf,
    weights: np.ndarray,
    needs_both: bool,
    note: str,
) -> list[dict[str, Any]]:
    """Rows of a concordance: all cases, pairs within centres only, and each centre.

    `needs_both` says that a centre needs cases of both classes (AUC), not events alone (C).
    """
    centres = data.centres.to_numpy(dtype=object)
    names = sorted(set(centres))
    rows = []

    def refusal(members: np.ndarray, n_pairs: int) -> str:
        events = int(classes[members].sum())
        if events == 0:
            return f"0 events among {len(members)} cases"
        if needs_both and events == len(members):
            return f"all {len(members)} cases have the outcome"
        if n_pairs < LEAST_PAIRS:
            return f"{n_pairs} comparable pairs within folds ({events} events), {LEAST_PAIRS} needed"
        return ""

    everyone = np.arange(len(centres))
    places = np.unique(centres.astype(str), return_inverse=True)[1]
    within = result.fold * (places.max() + 1) + places
    for name, groups in ((metric, result.fold), (f"{metric}_within_centre", within)):
        if name != metric and len(names) < 2:
            continue
        found = fold_concordance(pairs_of, result.risk, groups, weights)
        rows.append(
            performance_row(
                model,
                result.arm.name,
                name,
                found.estimate,
                found.samples,
                len(everyone),
                int(classes.sum()),
                note=note,
                refusal=refusal(everyone, found.n_pairs),
            )
        )
    for centre in names if len(names) > 1 else []:
        members = np.flatnonzero(centres == centre)
        found = fold_concordance(pairs_of, result.risk, result.fold, weights, members)
        rows.append(
            performance_row(
                model,
                result.arm.name,
                metric,
                found.estimate,
                found.samples,
                len(members),
                int(classes[members].sum()),
                centre=str(centre),
                note=note,
                refusal=refusal(members, found.n_pairs),
            )
        )
    return rows


def check_events(n: int, n_events: int, what: str, settings: Settings) -> tuple[str, str]:
    """Why the model is refused for its sample size, and how it is marked where it is fitted all the same.

    At most one of the two is not empty.
    """
    if n_events >= settings.min_events and n_events >= LEAST_EVENTS:
        return "", ""
    short = f"{n_events} {what} among {n} cases, {max(settings.min_events, LEAST_EVENTS)} needed"
    if settings.override and n_events >= LEAST_EVENTS:
        return "", f"fitted in spite of the sample size: {short} (model.override_sample_size)"
    if settings.override:
        return f"{short}; fewer than {LEAST_EVENTS} can't be cross-validated at all", ""
    return f"{short} (model.min_events)", ""


# ------------------------------------------------------------------- tables of a model


def filled_cells(results: list[ArmResult]) -> list[str]:
    """What the models of all cases say of missing cells, each once."""
    return list(dict.fromkeys(note for result in results for note in result.prepared.notes))


@dataclass(frozen=True)
class ModelTables:
    """What a model step writes; `ph_test` is None for models that have no such test."""

    coefficients: pd.DataFrame
    performance: pd.DataFrame
    predictions: pd.DataFrame
    ph_test: pd.DataFrame | None
    description: dict[str, Any]
    facts: dict[str, Any]
    warnings: list[str]


def coefficient_rows(model: str, results: list[ArmResult], override: bool) -> pd.DataFrame:
    """Coefficients per SD of the models of all cases: terms that are in it, or were in that of a fold.

    Coefficients are penalised: they are shrunk, and have no interval. The logistic intercept is the first row.
    """
    rows = []
    for result in results:
        prepared, final = result.prepared, result.final
        shared = {"model": model, "arm": result.arm.name, "override": str(override).lower()}
        if model == "logistic":
            rows.append(
                {
                    **shared,
                    "term": "(Intercept)",
                    "coefficient": final.intercept,
                    "hazard_or_odds_ratio": np.nan,
                    "mean": np.nan,
                    "sd": np.nan,
                    "selected_in_folds": len(result.fits),
                }
            )
        in_final = set(prepared.terms)
        for term, coefficient, mean, sd in zip(
            prepared.terms, final.coefficients, prepared.mean, prepared.sd, strict=True
        ):
            if coefficient != 0 or term in result.selected_in_folds:
                rows.append(
                    {
                        **shared,
                        "term": term,
                        "coefficient": coefficient,
                        "hazard_or_odds_ratio": np.exp(coefficient),
                        "mean": mean,
                        "sd": sd,
                        "selected_in_folds": result.selected_in_folds.get(term, 0),
                    }
                )
        for term in sorted(set(result.selected_in_folds) - in_final):
            # Pruned before the model of all cases: it has no scale there.
            rows.append(
                {
                    **shared,
                    "term": term,
                    "coefficient": 0.0,
                    "hazard_or_odds_ratio": 1.0,
                    "mean": np.nan,
                    "sd": np.nan,
                    "selected_in_folds": result.selected_in_folds[term],
                }
            )
    return pd.DataFrame(rows, columns=COEFFICIENT_COLUMNS)


def prediction_rows(
    model: str, result: ArmResult, data: ModelData, tables: CohortTables
) -> list[tuple[int, dict[str, Any]]]:
    """Out-of-fold risks of an arm, each with the position of its case in the data, in the cohort sheet's order."""
    place = {case: order for order, case in enumerate(tables.features["case_id"])}
    rows = [
        (
            position,
            {
                "model": model,
                "arm": result.arm.name,
                "case_id": case,
                "patient_id": data.patients.iloc[position],
                "centre": data.centres.iloc[position],
                "fold": int(result.fold[position]),
                "risk": float(result.risk[position]),
            },
        )
        for position, case in enumerate(data.features.index)
    ]
    return sorted(rows, key=lambda row: place[row[1]["case_id"]])


def arm_messages(refused: Mapping[str, str]) -> list[str]:
    """One message a reason, with the arms that were not fitted for it."""
    arms: dict[str, list[str]] = {}
    for arm, reason in refused.items():
        arms.setdefault(reason, []).append(arm)
    return [f"not fitted ({', '.join(names)}): {reason}" for reason, names in arms.items()]


def describe_model(
    model: str,
    results: list[ArmResult],
    refused: Mapping[str, str],
    data: ModelData,
    classes: np.ndarray,
    settings: Settings,
    l1_ratio: float,
    mark: str,
) -> dict[str, Any]:
    """All that the risk of a new case needs (linear predictor; no baseline hazard), and how it came about; JSON-able.

    `refused` are the arms that were not fitted, with the reason.
    """
    arms = {}
    for result in results:
        prepared, final = result.prepared, result.final
        used = np.flatnonzero(final.coefficients)
        arms[result.arm.name] = {
            "intercept": final.intercept,
            "penalty": _number(final.penalty),
            "terms": [
                {
                    "term": prepared.terms[column],
                    "coefficient_per_sd": float(final.coefficients[column]),
                    "mean": float(prepared.mean[column]),
                    "sd": float(prepared.sd[column]),
                }
                for column in used
            ],
            "candidates": len(prepared.terms),
            "medians": prepared.medians,
            "commonest_words": prepared.commonest,
            "combat": prepared.combat,
            "inner_folds": result.inner_folds[-1],
            "folds": [
                {
                    "fold": number,
                    "n": int((result.fold == number).sum()),
                    "events": int(classes[result.fold == number].sum()),
                    "penalty": _number(fitted.penalty),
                    "inner_folds": n_inner,
                    "selected": int(np.count_nonzero(fitted.coefficients)),
                }
                for number, (fitted, n_inner) in enumerate(
                    zip(result.fits, result.inner_folds[:-1], strict=True), start=1
                )
            ],
            "notes": result.notes,
        }
    return {
        "model": model,
        "status": "fitted",
        "note": mark,
        "n": len(classes),
        "events": int(classes.sum()),
        "l1_ratio": l1_ratio,
        "seed": settings.seed,
        "max_correlation": settings.max_correlation,
        "bootstraps": settings.bootstraps,
        "batch": data.batch,
        "feature_filter": list(data.notes),
        "arms": arms,
        "not_estimable": dict(refused),
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def refused_tables(
    model: str,
    data: ModelData,
    classes: np.ndarray,
    metric: str,
    refusal: str,
    prediction_columns: list[str],
    messages: list[str],
) -> ModelTables:
    """Tables of a model that was not fitted: each arm's metric is not estimable, the other tables are empty."""
    n, events = len(classes), int(classes.sum())
    rows = refused_rows(model, {arm.name: refusal for arm in arms_of(data)}, metric, n, events)
    return ModelTables(
        coefficients=pd.DataFrame(columns=COEFFICIENT_COLUMNS),
        performance=pd.DataFrame(rows, columns=PERFORMANCE_COLUMNS),
        predictions=pd.DataFrame(columns=prediction_columns),
        ph_test=pd.DataFrame(columns=["model", "arm", "term", "chi2", "df", "p"]) if model == "cox" else None,
        description={"model": model, "status": "not estimable", "note": refusal, "n": n, "events": events, "arms": {}},
        facts={"status": "not estimable", "n": n, "events": events, "override": False, "arms": []},
        warnings=[*messages, f"the model was not fitted: {refusal}"],
    )


def write_model(folder: Path, tables: ModelTables) -> None:
    """Write the tables of a model as CSV, and its description as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {
        "coefficients": tables.coefficients,
        "performance": tables.performance,
        "predictions": tables.predictions,
        "ph_test": tables.ph_test,
    }
    for name, table in named.items():
        if table is not None:
            table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    text = json.dumps(tables.description, indent=1, allow_nan=False)
    (folder / "model.json").write_text(text + "\n", encoding="utf-8")
