"""Fits every arm to the training cases of every split, and keeps what it predicts for the cases held out.

Splits are the folds of a cross-validation, centres left out one at a time, bootstrap samples, all cases (for the model
that is reported), and a locked test set. In each of them the whole pipeline is fitted anew: missing cells,
harmonisation, pruning, scale, penalty (`radloom.pipeline`). Only which batches are small is counted on all cases.
Splits are independent of one another: any number of worker processes gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from radloom.assembly import ModelData
from radloom.errors import CohortError
from radloom.folds import bootstrap_weights, limiting_count, n_folds_for, stratified_folds
from radloom.harmonizer import ADAPTED, PASSED_SMALL, PASSED_UNSEEN, HarmonizationError, Harmonizer
from radloom.harmonizers import harmonizer_of
from radloom.pipeline import (
    METADATA,
    ArmPipeline,
    ClinicalBlock,
    FeatureBlock,
    FittedBlock,
    PenalisedCox,
    PenalisedLogistic,
    classes_of,
    fit_feature_block,
    metadata_of,
)

CROSS_VALIDATION = "cross-validation"
LEAVE_ONE_CENTRE_OUT = "leave-one-centre-out"
BOOTSTRAP = "bootstrap"
ALL_CASES = "all cases"
LOCKED_TEST = "locked-test"
BATCH = "batch"
UNJUDGED = "not judged (harmonize.new_batch: adapt or passthrough would)"
PATIENT = "patient_id"


@dataclass(frozen=True)
class Arm:
    """A set of predictors to be compared with others; `batch` says that the batch is in the model."""

    name: str
    features: bool = False
    harmonise: bool = False
    clinical: bool = False
    batch: bool = False


ARMS = {
    arm.name: arm
    for arm in (
        Arm("clinical", clinical=True),
        Arm("features", features=True),
        Arm("features_combat", features=True, harmonise=True),
        Arm("features_centre", features=True, batch=True),
        Arm("features_combat+clinical", features=True, harmonise=True, clinical=True),
    )
}


@dataclass(frozen=True)
class Settings:
    """What the sections `model` and `harmonize` of the configuration say."""

    harmonizer: Harmonizer
    new_batch: str = "error"
    transformation: str = "none"
    max_correlation: float = 0.9
    max_terms: int | None = None
    folds: int = 5
    seed: int = 1
    bootstraps: int = 500
    refits: int = 100
    min_events: int = 20
    override: bool = False


def settings_of(params: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings that a validated configuration describes."""
    model = params["model"]
    return Settings(
        harmonizer=harmonizer_of(params["harmonize"]),
        new_batch=params["harmonize"]["new_batch"],
        transformation=model["transformation"],
        max_correlation=model["max_correlation"],
        max_terms=model["max_terms"],
        folds=model["folds"],
        seed=model["seed"],
        bootstraps=model["bootstraps"],
        refits=model["refits"],
        min_events=model["min_events"],
        override=model["override_sample_size"],
    )


def arms_of(names: Iterable[str], data: ModelData) -> list[Arm]:
    """The arms of the plan that the data can have: none of clinical predictors without any, none of a single batch."""
    wanted = set(names)
    clinical = data.clinical.shape[1] > 0
    several = len(set(data.batches)) > 1
    return [
        arm
        for arm in ARMS.values()
        if arm.name in wanted and (clinical or not arm.clinical) and (several or not arm.batch)
    ]


@dataclass(frozen=True)
class Split:
    """Positions of the training cases (a case of a bootstrap sample as often as it was drawn) and of those held out."""

    kind: str
    label: str
    train: np.ndarray
    held: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """An arm fitted to the training cases of a split; arrays follow the split's held-out cases.

    `risk` is the linear predictor, NaN for cases that the arm can't judge; `link` the log cumulative hazard at each of
    the problem's times (cases x times), or the log odds of the outcome (cases x 1). `coefficients` are those that are
    not zero, per SD.
    `error` says why there is none.
    """

    risk: np.ndarray
    link: np.ndarray
    coefficients: Mapping[str, float] = field(default_factory=dict)
    intercept: float = 0.0
    penalty: float = math.nan
    inner_folds: int = 0
    notes: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Problem:
    """All that a worker needs to fit any split: the cases' table, the outcome, arms and settings.

    `y` is 0 or 1, or a structured array with `event` and `time`; `times` are those at which risks are predicted.
    """

    table: pd.DataFrame
    y: np.ndarray
    model: PenalisedCox | PenalisedLogistic
    arms: tuple[Arm, ...]
    features: tuple[str, ...]
    clinical: tuple[str, ...]
    metadata: tuple[str, ...]
    settings: Settings
    times: tuple[float, ...] = ()
    unharmonised: tuple[str, ...] = ()

    @property
    def classes(self) -> np.ndarray:
        """0 or 1 of each case."""
        return classes_of(self.y)

    @property
    def batches(self) -> np.ndarray:
        """The batch of each case, small ones merged where that is configured."""
        return self.table[BATCH].to_numpy(dtype=object)


def pose(
    data: ModelData,
    y: np.ndarray,
    model: PenalisedCox | PenalisedLogistic,
    arms: Iterable[Arm],
    settings: Settings,
    times: Iterable[float] = (),
) -> Problem:
    """The problem of some data: one table, and what is to be done about batches that are small among all cases.

    Small batches are merged, or left as they are, as configured, and in every split the same ones: no outcome and no
    feature takes part in that. (With `exclude` there are none; with `error` the fit to all cases refuses them.)
    """
    settings = replace(settings, folds=n_folds_for(limiting_count(classes_of(y), model.needs_both), settings.folds))
    metadata = data.metadata.copy()
    first = settings.harmonizer.batch_columns[0]
    labels = data.metadata[first].astype(str).str.strip()
    sizes = labels.value_counts()
    small = sorted(str(name) for name, size in sizes.items() if size < settings.harmonizer.min_batch_size)
    unharmonised: tuple[str, ...] = ()
    if small and settings.harmonizer.small_batch == "merge":
        labels = labels.where(~labels.isin(small), "+".join(small))
    elif small and settings.harmonizer.small_batch == "passthrough":
        unharmonised = tuple(small)
    metadata[first] = labels
    table = pd.concat([data.features, data.clinical, metadata.add_prefix(METADATA)], axis=1)
    table[PATIENT], table[BATCH] = data.patients, data.batches if first != data.batch else labels
    return Problem(
        table=table,
        y=y,
        model=model,
        arms=tuple(arms),
        features=tuple(map(str, data.features.columns)),
        clinical=tuple(map(str, data.clinical.columns)),
        metadata=tuple(map(str, metadata.columns)),
        settings=settings,
        times=tuple(times),
        unharmonised=unharmonised,
    )


# ---------------------------------------------------------------------------- splits


def fold_splits(problem: Problem) -> list[Split]:
    """The folds of the cross-validation, stratified by outcome and batch and grouped by patient."""
    strata = list(zip(problem.classes, problem.batches, strict=True))
    fold = stratified_folds(list(problem.table[PATIENT]), strata, problem.settings.folds, problem.settings.seed)
    return [
        Split(CROSS_VALIDATION, str(number), np.flatnonzero(fold != number), np.flatnonzero(fold == number))
        for number in range(1, problem.settings.folds + 1)
    ]


def centre_splits(centres: np.ndarray) -> list[Split]:
    """Each centre held out by itself, where there are two or more; with two that is both directions."""
    names = sorted(set(centres))
    if len(names) < 2:
        return []
    return [
        Split(LEAVE_ONE_CENTRE_OUT, str(name), np.flatnonzero(centres != name), np.flatnonzero(centres == name))
        for name in names
    ]


def bootstrap_splits(problem: Problem, centres: np.ndarray) -> list[Split]:
    """Patients drawn with replacement within each centre; what is fitted to them judges all cases."""
    counts = bootstrap_weights(centres, problem.settings.refits, problem.settings.seed + 1).astype(int)
    everyone = np.arange(len(centres))
    return [Split(BOOTSTRAP, str(number), np.repeat(everyone, row), everyone) for number, row in enumerate(counts, 1)]


def whole_split(n: int) -> Split:
    """All cases train, and are judged: the model that is reported, and its apparent performance."""
    return Split(ALL_CASES, "", np.arange(n), np.arange(n))


# ------------------------------------------------------------------------------ fits


def fit_split(problem: Problem, split: Split) -> dict[str, Fitted]:
    """Every arm fitted to the training cases of a split, by name. Arms of the same features share their block."""
    with threadpool_limits(limits=1):  # the same sums on every machine, whatever its number of cores
        return {name: found for name, (found, _) in fit_arms(problem, split).items()}


def fit_all_cases(problem: Problem) -> dict[str, tuple[Fitted, ArmPipeline | None]]:
    """Every arm fitted to all cases, with its pipeline; the harmoniser's guards hold as they are configured."""
    with threadpool_limits(limits=1):
        return fit_arms(problem, whole_split(len(problem.y)))


def fit_arms(problem: Problem, split: Split) -> dict[str, tuple[Fitted, ArmPipeline | None]]:
    """Every arm fitted to the training cases of a split, with its pipeline; None where there is none, and why."""
    train = problem.table.iloc[split.train].reset_index(drop=True)
    held = problem.table.iloc[split.held].reset_index(drop=True)
    y = problem.y[split.train]
    found: dict[str, tuple[Fitted, ArmPipeline | None]] = {}
    shared: dict[bool, FittedBlock | HarmonizationError] = {}
    for arm in problem.arms:
        pipeline = arm_pipeline(problem, arm, split.kind)
        try:
            _check_trainable(y, problem.model.needs_both)
            if arm.features and arm.harmonise not in shared:
                assert pipeline.feature_block is not None
                try:
                    shared[arm.harmonise] = fit_feature_block(
                        pipeline.feature_block, train, problem.features, problem.metadata, held
                    )
                except HarmonizationError as error:
                    shared[arm.harmonise] = error
            block = shared[arm.harmonise] if arm.features else None
            if isinstance(block, HarmonizationError):
                raise block
            pipeline.fit(train, y, block)
            found[arm.name] = (_predicted(problem, pipeline, held, block), pipeline)
        except (CohortError, ArithmeticError) as error:
            nothing = np.full(len(split.held), np.nan)
            width = len(problem.times) if not problem.model.needs_both else 1
            empty = Fitted(nothing, np.full((len(nothing), width), np.nan), error=str(error))
            found[arm.name] = (empty, None)
    return found


def _check_trainable(y: np.ndarray, needs_both: bool) -> None:
    classes = classes_of(y)
    if limiting_count(classes, needs_both) < 2:
        raise CohortError(f"{int(classes.sum())} events among {len(classes)} training cases")


def arm_pipeline(problem: Problem, arm: Arm, kind: str) -> ArmPipeline:
    """The unfitted pipeline of an arm for splits of a kind."""
    settings = problem.settings
    harmonizer = settings.harmonizer if arm.harmonise else None
    if harmonizer is not None and kind != ALL_CASES:
        # A batch that is large enough as a whole may be small among the training cases of a split: there the least size
        # is the share of it that a fold's training cases hold.
        least = max(2, math.floor(harmonizer.min_batch_size * (settings.folds - 1) / settings.folds))
        harmonizer = clone(harmonizer).set_params(
            min_batch_size=least,
            small_batch="passthrough",
            missing_covariates="impute",
            new_batch="adapt" if _adapts(kind, settings) else "passthrough",
        )
    features = FeatureBlock(
        harmonizer,
        transformation=settings.transformation,
        max_correlation=settings.max_correlation,
        strict=kind == ALL_CASES,
        keep_unseen=kind not in (LEAVE_ONE_CENTRE_OUT, LOCKED_TEST) or settings.new_batch == "passthrough",
        unharmonised=problem.unharmonised,
    )
    return ArmPipeline(
        problem.model,
        features=problem.features,
        clinical=problem.clinical,
        metadata=problem.metadata,
        patient=PATIENT,
        batch=BATCH,
        feature_block=features if arm.features else None,
        clinical_block=ClinicalBlock() if arm.clinical else None,
        batch_in_model=arm.batch,
        max_terms=settings.max_terms,
        seed=settings.seed + 1,
    )


def _adapts(kind: str, settings: Settings) -> bool:
    return kind in (LEAVE_ONE_CENTRE_OUT, LOCKED_TEST) and settings.new_batch == "adapt"


def _predicted(problem: Problem, pipeline: ArmPipeline, held: pd.DataFrame, block: FittedBlock | None) -> Fitted:
    design = pipeline.design(held, None if block is None else block.held)
    good = np.isfinite(design).all(axis=1)
    risk = np.full(len(held), np.nan)
    fit, model = pipeline.fit_, pipeline.model_
    risk[good] = model.predict(design[good])
    if isinstance(model, PenalisedLogistic):
        link = np.full((len(held), 1), np.nan)
        link[good, 0] = model.predict_log_odds(design[good])
    else:
        link = np.full((len(held), len(problem.times)), np.nan)
        strata = held[BATCH].to_numpy(dtype=object)[good] if pipeline.batch_in_model else None
        link[good] = model.predict_log_hazard(design[good], problem.times, strata)
    used = np.flatnonzero(fit.coefficients)
    return Fitted(
        risk=risk,
        link=link,
        coefficients={pipeline.terms_[column]: float(fit.coefficients[column]) for column in used},
        intercept=float(fit.intercept),
        penalty=float(fit.penalty),
        inner_folds=pipeline.n_inner_,
        notes=(*pipeline.notes_, *_left_out(pipeline, held)),
    )


def _left_out(pipeline: ArmPipeline, held: pd.DataFrame) -> list[str]:
    """How many held-out cases were not harmonised as the others, and why."""
    if pipeline.feature_block_ is None or pipeline.feature_block is None or pipeline.feature_block.harmonizer is None:
        return []
    status = pipeline.feature_block_.row_status(metadata_of(held, pipeline.metadata))
    kept = pipeline.feature_block.keep_unseen
    told = {
        PASSED_SMALL: "of batches with too few training cases not harmonised",
        PASSED_UNSEEN: f"of batches that the training cases lack {'not harmonised' if kept else UNJUDGED}",
        ADAPTED: "of batches that the training cases lack harmonised by their own features",
    }
    counts = {words: int(status.str.contains(word, regex=False).sum()) for word, words in told.items()}
    if pipeline.feature_block_.harmonizer_ is not None:
        counts["of small batches not harmonised"] = int((status == "").sum())
    return [f"{count} held-out cases {words}" for words, count in counts.items() if count]


def fit_splits(problem: Problem, splits: list[Split], workers: int = 1) -> list[dict[str, Fitted]]:
    """`fit_split` of every split, in their order, by worker processes where there is more than one."""
    if workers <= 1 or len(splits) < 2:
        return [fit_split(problem, split) for split in splits]
    with ProcessPoolExecutor(min(workers, len(splits)), initializer=_take, initargs=(problem,)) as pool:
        return list(pool.map(_fit_taken, splits, chunksize=max(1, len(splits) // (8 * workers))))


_taken: list[Problem] = []


def _take(problem: Problem) -> None:
    _taken[:] = [problem]


def _fit_taken(split: Split) -> dict[str, Fitted]:
    return fit_split(_taken[0], split)
