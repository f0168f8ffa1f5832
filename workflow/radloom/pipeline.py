"""The pipeline of one model: impute, drop constant, transform, harmonise, prune correlated, scale, select, fit.

Every step is an estimator that learns from the rows of its `fit` alone: a pipeline that is fitted to the training cases
of a fold has seen nothing of the others. The steps before `scale` make up a `FeatureBlock` (radiomics) or a
`ClinicalBlock`; arms that share a block fit it once. (Which features are stable enough is settled before, by
`assemble`: that table knows no outcome.)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import logit
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.preprocessing import PowerTransformer
from sklearn.utils.validation import check_is_fitted

from radloom.assembly import code_words
from radloom.errors import CohortError
from radloom.folds import limiting_count, stratified_folds
from radloom.harmonizer import PASSED_UNSEEN, HarmonizationError, HarmonizationWarning, Harmonizer
from radloom.penalised import PenalisedFit, cox_path, fit_penalised_cox, fit_penalised_logistic, logistic_path
from radloom.recalibration import RECALIBRATIONS, baseline_hazard

INNER_FOLDS = 10
METADATA = "batch: "
"""Begins the names of the columns that the harmoniser reads, which may be predictors under their own names."""

TRANSFORMATIONS = ("none", "signed_log", "yeo-johnson")


def varies(values: np.ndarray) -> np.ndarray:
    """Which columns of values, cases x columns, are not constant up to rounding."""
    return np.asarray(np.ptp(values, axis=0) > 1e-12 * np.abs(values).max(axis=0))


def prune_correlated(values: np.ndarray, limit: float) -> np.ndarray:
    """Positions of the columns that stay: a column goes if |Spearman's rho| with one that stays exceeds the limit.

    `values` is cases x columns, without missing values or constant columns; the earlier column stays.
    """
    ranks = rankdata(values, axis=0)
    ranks = ranks - ranks.mean(axis=0)
    ranks = ranks / np.sqrt((ranks**2).sum(axis=0))
    close = np.abs(ranks.T @ ranks) > limit
    goes = np.zeros(values.shape[1], dtype=bool)
    for column in range(values.shape[1]):
        if not goes[column]:
            goes[column + 1 :] |= close[column, column + 1 :]
    return np.flatnonzero(~goes)


class FeatureBlock(TransformerMixin, BaseEstimator):
    """Radiomics features, made ready for a model: filled, transformed, harmonised, pruned of near copies.

    Parameters
    ----------
    harmonizer
        A harmoniser such as `ComBatHarmonizer`, or None.
    transformation
        `none`; `signed_log`: sign(x) log(1 + |x| / s) with s the training median of |x|; `yeo-johnson` (Yeo & Johnson,
        Biometrika 2000, 10.1093/biomet/87.4.954; scikit-learn's).
    max_correlation
        Of two features whose |Spearman's rho| is above this, the later one goes.
    strict
        Whether what the harmoniser refuses is an error. Otherwise its covariates, and then the harmonisation, are left
        out, and `notes_` says so: one fold must not stop the validation.
    keep_unseen
        Whether cases of a batch that the fit has not seen keep their values; otherwise they come out as NaN.
    unharmonised
        Batches (of the harmoniser's first column) that take no part in the harmonisation and keep their values.

    Attributes
    ----------
    medians_
        What fills a missing cell, for each feature that has a value and varies.
    terms_
        The features that are left.
    harmonizer_, notes_
        The fitted harmoniser or None, and what the reader must know.
    """

    def __init__(
        self,
        harmonizer: Harmonizer | None = None,
        *,
        transformation: str = "none",
        max_correlation: float = 0.9,
        strict: bool = False,
        keep_unseen: bool = True,
        unharmonised: Sequence[str] = (),
    ) -> None:
        self.harmonizer = harmonizer
        self.transformation = transformation
        self.max_correlation = max_correlation
        self.strict = strict
        self.keep_unseen = keep_unseen
        self.unharmonised = unharmonised

    def fit(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> FeatureBlock:
        """Learn from X, cases x features, and the batches and covariates of the same cases (with a harmoniser)."""
        self.fit_transform(X, y, metadata)
        return self

    def fit_transform(
        self,
        X: pd.DataFrame,
        y: object = None,  # noqa: ARG002
        metadata: pd.DataFrame | None = None,
    ) -> pd.DataFrame:
        """`fit`, and `transform` of the same cases."""
        metadata = pd.DataFrame(index=X.index) if metadata is None else metadata
        self.notes_: list[str] = []
        self.feature_names_in_ = np.array(X.columns, dtype=object)
        values = X.to_numpy(dtype=np.float64)
        values = np.where(np.isfinite(values), values, np.nan)
        known = np.flatnonzero(np.isfinite(values).any(axis=0))
        medians = np.nanmedian(values[:, known], axis=0) if len(known) else np.empty(0)
        kept = varies(np.where(np.isnan(values[:, known]), medians, values[:, known])) if len(known) else known
        self.columns_ = known[kept]
        names = X.columns[self.columns_]
        self.medians_ = {str(name): float(middle) for name, middle in zip(names, medians[kept], strict=True)}
        self.n_filled_ = int(np.isnan(values[:, self.columns_]).sum())
        filled = self._fill(values)
        self._learn_transformation(filled)
        table = pd.DataFrame(self._transformed(filled), index=X.index, columns=names)
        self.harmonizer_ = None
        if self.harmonizer is not None and len(names):
            self.harmonizer_ = self._fitted_harmonizer(table, metadata)
        if self.harmonizer_ is not None:
            table = self._harmonised(table, metadata)
        made = table.to_numpy()
        stays = np.flatnonzero(varies(made)) if len(names) else np.empty(0, dtype=int)
        if len(stays):
            stays = stays[prune_correlated(made[:, stays], self.max_correlation)]
        self._stays = stays
        self.terms_ = [str(name) for name in names[stays]]
        return table.iloc[:, stays]

    def transform(self, X: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """The features that stay, of any cases; a case that could not be harmonised is NaN or as it was extracted.

        Raises ValueError where the features are not those of the fit, in their order.
        """
        check_is_fitted(self, "terms_")
        if list(X.columns) != list(self.feature_names_in_):
            raise ValueError("the features, or their order, differ from those of the fit")
        metadata = pd.DataFrame(index=X.index) if metadata is None else metadata
        values = X.to_numpy(dtype=np.float64)
        filled = self._fill(np.where(np.isfinite(values), values, np.nan))
        table = pd.DataFrame(self._transformed(filled), index=X.index, columns=list(self.medians_))
        if self.harmonizer_ is not None:
            table = self._harmonised(table, metadata)
        return table.iloc[:, self._stays]

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns."""
        check_is_fitted(self, "terms_")
        return np.array(self.terms_, dtype=object)

    def row_status(self, metadata: pd.DataFrame) -> pd.Series:
        """What the harmonisation makes of each case of a table of batches; empty for cases that have no part in it."""
        status = pd.Series("", index=metadata.index, dtype=object)
        if self.harmonizer_ is not None:
            part = self._takes_part(metadata)
            status[part] = self.harmonizer_.row_status(metadata[part])
        return status

    def _fill(self, values: np.ndarray) -> np.ndarray:
        own = values[:, self.columns_]
        return np.where(np.isnan(own), np.array(list(self.medians_.values())), own)

    def _learn_transformation(self, filled: np.ndarray) -> None:
        if self.transformation not in TRANSFORMATIONS:
            raise ValueError(f"transformation must be one of {', '.join(TRANSFORMATIONS)}, not {self.transformation!r}")
        self._scale = np.median(np.abs(filled), axis=0)
        self._scale[self._scale == 0] = 1.0
        self._power = None
        if self.transformation == "yeo-johnson" and filled.shape[1]:
            self._power = PowerTransformer(method="yeo-johnson", standardize=True).fit(filled)

    def _transformed(self, filled: np.ndarray) -> np.ndarray:
        if self.transformation == "signed_log":
            return np.sign(filled) * np.log1p(np.abs(filled) / self._scale)
        return filled if self._power is None else np.asarray(self._power.transform(filled))

    def transformation_json(self) -> dict[str, Any]:
        """The transformation with what it learned of each feature of `medians_`."""
        saved: dict[str, Any] = {"kind": self.transformation}
        if self.transformation == "signed_log":
            saved["scale"] = dict(zip(self.medians_, self._scale.tolist(), strict=True))
        if self._power is not None:
            scaler = self._power._scaler
            learned = zip(self._power.lambdas_.tolist(), scaler.mean_.tolist(), scaler.scale_.tolist(), strict=True)
            saved["lambda_mean_sd"] = {name: list(three) for name, three in zip(self.medians_, learned, strict=True)}
        return saved

    def _takes_part(self, metadata: pd.DataFrame) -> np.ndarray:
        if self.harmonizer is None or not len(self.unharmonised):
            return np.ones(len(metadata), dtype=bool)
        return ~metadata[self.harmonizer.batch_columns[0]].isin(list(self.unharmonised)).to_numpy()

    def _fitted_harmonizer(self, table: pd.DataFrame, metadata: pd.DataFrame) -> Harmonizer | None:
        assert self.harmonizer is not None
        part = self._takes_part(metadata)
        table, metadata = table[part], metadata[part]
        covariates = list(self.harmonizer.covariates)
        reason = ""
        for kept in [covariates] if self.strict or not covariates else [covariates, []]:
            made: Harmonizer = clone(self.harmonizer).set_params(covariates=kept)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", HarmonizationWarning)
                    made.fit(table, metadata=metadata)
            except HarmonizationError as error:
                if self.strict:
                    raise
                reason = str(error)
                continue
            if len(kept) < len(covariates):
                self.notes_.append("harmonised without covariates")
            return made
        self.notes_.append(f"not harmonised ({reason})")
        return None

    def _harmonised(self, table: pd.DataFrame, metadata: pd.DataFrame) -> pd.DataFrame:
        assert self.harmonizer_ is not None
        part = self._takes_part(metadata)
        result = table.to_numpy(copy=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HarmonizationWarning)
            result[part] = self.harmonizer_.transform(table[part], metadata[part]).to_numpy()
        if not self.keep_unseen:
            unseen = self.row_status(metadata).str.contains(PASSED_UNSEEN, regex=False)
            result[unseen.to_numpy()] = np.nan
        return pd.DataFrame(result, index=table.index, columns=table.columns)


class ClinicalBlock(TransformerMixin, BaseEstimator):
    """Clinical predictors as numbers: missing cells take the training median or commonest word, words are coded.

    `medians_` and `commonest_` are what fills a missing number and a missing word of each column; a column without
    spread in the training cases is dropped. Words are coded against the first of those that the training cases have; a
    word that they lack counts as that one.
    """

    def fit(self, X: pd.DataFrame, y: object = None) -> ClinicalBlock:  # noqa: ARG002
        """Learn from X, cases x columns: float64, or categories whose levels are those of the whole cohort."""
        self.commonest_: dict[str, str] = {}
        self._levels: dict[str, list[str]] = {}
        self._columns: list[str] = []
        for name in X.columns:
            column = X[name]
            if isinstance(column.dtype, pd.CategoricalDtype):
                codes = column.cat.codes.to_numpy()
                counts = np.bincount(codes[codes >= 0], minlength=len(column.cat.categories))
                if np.count_nonzero(counts) < 2:
                    continue
                self.commonest_[str(name)] = str(column.cat.categories[int(np.argmax(counts))])
                self._levels[str(name)] = [str(column.cat.categories[code]) for code in np.flatnonzero(counts)]
            self._columns.append(str(name))
        coded = self._coded(X)
        values = coded.to_numpy(dtype=np.float64)
        known = np.isfinite(values).any(axis=0)
        medians = np.array([np.nanmedian(values[:, j]) if known[j] else np.nan for j in range(values.shape[1])])
        filled = np.where(np.isnan(values), medians, values)
        keep = known & varies(np.nan_to_num(filled)) if values.size else known
        self.terms_ = [str(name) for name in coded.columns[keep]]
        self._fill = medians[keep]
        self.medians_ = {
            term: float(middle) for term, middle in zip(self.terms_, self._fill, strict=True) if term in X.columns
        }
        self.n_filled_ = int(X[self._columns].isna().sum().sum())
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """The predictors of any cases, without gaps."""
        check_is_fitted(self, "terms_")
        values = self._coded(X)[self.terms_].to_numpy(dtype=np.float64)
        return pd.DataFrame(np.where(np.isnan(values), self._fill, values), index=X.index, columns=self.terms_)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns."""
        check_is_fitted(self, "terms_")
        return np.array(self.terms_, dtype=object)

    def _coded(self, X: pd.DataFrame) -> pd.DataFrame:
        filled = {name: self._words(X[name]) if name in self._levels else X[name] for name in self._columns}
        return code_words(pd.DataFrame(filled, index=X.index))

    def _words(self, column: pd.Series) -> pd.Series:
        levels = self._levels[str(column.name)]
        known = column.isna() | column.isin(levels)
        words = column.astype(object).where(known, levels[0]).fillna(self.commonest_[str(column.name)])
        return words.astype(pd.CategoricalDtype(levels))


class BatchTerms(TransformerMixin, BaseEstimator):
    """The batch as centred indicator columns, one less than there are batches; a batch not seen is the average one.

    A batch of the training cases of which fewer than two patients have a class of `y` can't have a coefficient of its
    own, for it would have no finite one in an inner fold that holds that patient out: it counts to the first batch
    (`pooled_`).
    """

    def fit(self, X: pd.Series, y: np.ndarray, patients: Sequence[str] | None = None) -> BatchTerms:
        """Learn the batches of the training cases; y is 0 or 1. Without `patients` each case is one."""
        names = sorted(set(X))
        table = pd.DataFrame({"batch": X.to_numpy(), "y": y, "of": range(len(X)) if patients is None else patients})
        sizes = table.drop_duplicates().groupby(["batch", "y"]).size().unstack(fill_value=0)
        counts = sizes.reindex(columns=[0, 1], fill_value=0)
        both = [name for name in names if counts.loc[name].min() >= 2]
        self.pooled_ = [name for name in names if name not in both]
        self.levels_ = both[1:]
        self._known = names
        self._share = np.array([float((name == X).mean()) for name in self.levels_])
        return self

    def transform(self, X: pd.Series) -> pd.DataFrame:
        """Indicators less their training share, cases x levels; all zero for a batch that `fit` has not seen."""
        check_is_fitted(self, "levels_")
        known = X.isin(self._known).to_numpy()
        columns = {
            f"batch[{name}]": np.where(known, (name == X).to_numpy() - share, 0.0)
            for name, share in zip(self.levels_, self._share, strict=True)
        }
        return pd.DataFrame(columns, index=X.index)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns."""
        check_is_fitted(self, "levels_")
        return np.array([f"batch[{name}]" for name in self.levels_], dtype=object)


class PenalisedCox(BaseEstimator):
    """Elastic-net Cox model whose penalty is chosen by cross-validated deviance, with its baseline hazard.

    `rule` is `min` (least deviance) or `1se` (the largest penalty within one standard error of it). `recalibration` is
    `none` or `baseline`: then the baseline hazard is that of the inner folds' predictions for cases that they held out.
    y has the fields `event` and `time` (as scikit-survival's).
    """

    needs_both = False

    def __init__(self, l1_ratio: float = 0.9, rule: str = "min", recalibration: str = "none") -> None:
        self.l1_ratio = l1_ratio
        self.rule = rule
        self.recalibration = recalibration

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        folds: np.ndarray,
        strata: np.ndarray | None = None,
        penalty_factor: np.ndarray | None = None,
    ) -> PenalisedCox:
        """Fit to X, cases x standardised columns; `folds` is the inner fold of each case."""
        time, event = np.asarray(y["time"], dtype=np.float64), np.asarray(y["event"]).astype(int)
        options = {"strata": strata, "penalty_factor": penalty_factor}
        self.fit_ = fit_penalised_cox(X, time, event, self.l1_ratio, folds, rule=self.rule, **options)
        risk = self.fit_.linear_predictor(X)
        if self.recalibration == "baseline" and self.fit_.coefficients.any():
            risk = np.empty(len(X))
            penalties = self.fit_.penalties[self.fit_.penalties >= self.fit_.penalty]
            for fold in np.unique(folds):
                train = folds != fold
                own = None if strata is None else strata[train]
                _, path = cox_path(
                    X[train], time[train], event[train], self.l1_ratio, penalties, strata=own,
                    penalty_factor=penalty_factor,
                )  # fmt: skip
                risk[~train] = X[~train] @ path[:, -1]
        self.baseline_ = {None: baseline_hazard(time, event, risk)}
        if strata is not None:
            for stratum in np.unique(strata):
                rows = strata == stratum
                self.baseline_[stratum] = baseline_hazard(time[rows], event[rows], risk[rows])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Linear predictor (log hazard ratio) of each row."""
        check_is_fitted(self, "fit_")
        return self.fit_.linear_predictor(X)

    def predict_log_hazard(self, X: np.ndarray, times: Sequence[float], strata: np.ndarray | None = None) -> np.ndarray:
        """Logarithm of the cumulative hazard at each time, rows x times; -inf before the first event.

        A stratum that `fit` has not seen has the baseline of all.
        """
        risk = self.predict(X)
        labels = np.full(len(X), None, dtype=object) if strata is None else strata
        found = np.empty((len(X), len(times)))
        for label in set(labels):
            rows = np.array([own == label for own in labels], dtype=bool)
            moments, hazard = self.baseline_.get(label, self.baseline_[None])
            at = np.concatenate([[0.0], hazard])[np.searchsorted(moments, times, side="right")]
            with np.errstate(divide="ignore"):
                found[rows] = risk[rows, None] + np.log(at)
        return found

    def to_json(self) -> dict[str, Any]:
        """The baseline hazards by stratum ("" is that of all cases), for the risk of new cases."""
        return {
            "baseline": {
                "" if stratum is None else str(stratum): {"times": t.tolist(), "cumulative_hazard": h.tolist()}
                for stratum, (t, h) in self.baseline_.items()
            }
        }


class PenalisedLogistic(BaseEstimator):
    """Elastic-net logistic model whose penalty is chosen by cross-validated deviance.

    `recalibration` is `none`, `temperature`, `platt` or `isotonic`, learned from the inner folds' predictions for cases
    that they held out. Where they can't carry it, the predictions stay as they are, and `note_` says why: dropping the
    fold would keep those in which the model looks better. y is 0 or 1.
    """

    needs_both = True

    def __init__(self, l1_ratio: float = 0.9, rule: str = "min", recalibration: str = "none") -> None:
        self.l1_ratio = l1_ratio
        self.rule = rule
        self.recalibration = recalibration

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        *,
        folds: np.ndarray,
        strata: np.ndarray | None = None,  # noqa: ARG002
        penalty_factor: np.ndarray | None = None,
    ) -> PenalisedLogistic:
        """Fit to X, cases x standardised columns; `folds` is the inner fold of each case, `strata` mean nothing."""
        y = np.asarray(y).astype(int)
        self.fit_ = fit_penalised_logistic(X, y, self.l1_ratio, folds, rule=self.rule, penalty_factor=penalty_factor)
        self.recalibrator_, self.note_ = None, ""
        if self.recalibration != "none" and self.fit_.coefficients.any():
            held_out = np.empty(len(X))
            penalties = self.fit_.penalties[self.fit_.penalties >= self.fit_.penalty]
            for fold in np.unique(folds):
                train = folds != fold
                _, intercepts, path = logistic_path(
                    X[train], y[train], self.l1_ratio, penalties, penalty_factor=penalty_factor
                )
                held_out[~train] = X[~train] @ path[:, -1] + intercepts[-1]
            try:
                self.recalibrator_ = RECALIBRATIONS[self.recalibration]().fit(held_out, y)
            except CohortError as error:
                self.note_ = f"not recalibrated ({error})"
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Linear predictor (log odds) of each row, before any recalibration."""
        check_is_fitted(self, "fit_")
        return self.fit_.linear_predictor(X)

    def predict_log_odds(self, X: np.ndarray) -> np.ndarray:
        """Log odds of the outcome for each row, recalibrated where that is asked for."""
        score = self.predict(X)
        return score if self.recalibrator_ is None else logit(self.recalibrator_.predict_proba(score)[:, 1])

    def to_json(self) -> dict[str, Any]:
        """The recalibration, for the probability of new cases."""
        return {"recalibration": None if self.recalibrator_ is None else self.recalibrator_.to_json()}


class ArmPipeline(BaseEstimator):
    """All steps of an arm: blocks of predictors, scale, selection, penalised model.

    Parameters
    ----------
    model
        `PenalisedCox` or `PenalisedLogistic`.
    features, clinical, metadata
        Names of X's columns that are radiomics features, clinical predictors, and (after METADATA) the harmoniser's.
    patient, batch
        X's columns with the patient (whose cases share an inner fold) and with the batch.
    feature_block, clinical_block
        The blocks, or None for an arm without them.
    batch_in_model
        Whether the batch is a stratum (Cox) or an unpenalised covariate (logistic).
    max_terms
        Keep this many columns of the features, those with the largest score statistics in the training cases; None
        leaves the selection to the penalty.
    inner_folds, seed
        Folds that choose the penalty (fewer where events are few), and their seed.
    """

    def __init__(
        self,
        model: PenalisedCox | PenalisedLogistic,
        *,
        features: Sequence[str] = (),
        clinical: Sequence[str] = (),
        metadata: Sequence[str] = (),
        patient: str = "patient_id",
        batch: str = "batch",
        feature_block: FeatureBlock | None = None,
        clinical_block: ClinicalBlock | None = None,
        batch_in_model: bool = False,
        max_terms: int | None = None,
        inner_folds: int = INNER_FOLDS,
        seed: int = 1,
    ) -> None:
        self.model = model
        self.features = features
        self.clinical = clinical
        self.metadata = metadata
        self.patient = patient
        self.batch = batch
        self.feature_block = feature_block
        self.clinical_block = clinical_block
        self.batch_in_model = batch_in_model
        self.max_terms = max_terms
        self.inner_folds = inner_folds
        self.seed = seed

    def fit(self, X: pd.DataFrame, y: np.ndarray, fitted: FittedBlock | None = None) -> ArmPipeline:
        """Fit to the cases of X; `fitted` is this arm's feature block, where another arm has fitted it to them.

        Raises CohortError where the penalty can't be chosen, and HarmonizationError from a strict feature block.
        """
        classes = classes_of(y)
        blocks: list[pd.DataFrame] = []
        self.feature_block_ = self.clinical_block_ = self.batch_terms_ = None
        if self.feature_block is not None:
            fitted = fitted or fit_feature_block(self.feature_block, X, self.features, self.metadata)
            self.feature_block_, table = fitted.block, fitted.train
            if self.max_terms is not None:
                table = table.iloc[:, best_by_score(table.to_numpy(), y, self.max_terms)]
            blocks.append(table)
        if self.clinical_block is not None:
            self.clinical_block_ = clone(self.clinical_block).fit(X[list(self.clinical)])
            blocks.append(self.clinical_block_.transform(X[list(self.clinical)]))
        free = 0
        strata = None
        if self.batch_in_model and self.model.needs_both:
            self.batch_terms_ = BatchTerms().fit(X[self.batch], classes, list(X[self.patient]))
            blocks.append(self.batch_terms_.transform(X[self.batch]))
            free = blocks[-1].shape[1]
        elif self.batch_in_model:
            strata = X[self.batch].to_numpy(dtype=object)
        table = pd.concat(blocks, axis=1) if len(blocks) > 1 else blocks[0]
        self.terms_ = [str(name) for name in table.columns]
        values = table.to_numpy(dtype=np.float64)
        self.mean_, self.sd_ = values.mean(axis=0), values.std(axis=0)
        self.sd_[self.sd_ == 0] = 1.0
        factor = np.r_[np.ones(len(self.terms_) - free), np.zeros(free)] if free else None
        self.n_inner_ = max(2, min(self.inner_folds, limiting_count(classes, self.model.needs_both)))
        inner = stratified_folds(
            list(X[self.patient]), list(zip(classes, X[self.batch], strict=True)), self.n_inner_, self.seed
        )
        design = (values - self.mean_) / self.sd_
        self.model_ = clone(self.model).fit(design, y, folds=inner, strata=strata, penalty_factor=factor)
        return self

    @property
    def fit_(self) -> PenalisedFit:
        """The penalised fit on the standardised columns `terms_`."""
        return self.model_.fit_

    def design(self, X: pd.DataFrame, features: pd.DataFrame | None = None) -> np.ndarray:
        """Standardised columns of any cases, NaN in rows that could not be harmonised.

        `features` are what the feature block makes of X, where that is known.
        """
        check_is_fitted(self, "model_")
        blocks = []
        if self.feature_block_ is not None:
            if features is None:
                features = self.feature_block_.transform(X[list(self.features)], metadata_of(X, self.metadata))
            blocks.append(features)
        if self.clinical_block_ is not None:
            blocks.append(self.clinical_block_.transform(X[list(self.clinical)]))
        if self.batch_terms_ is not None:
            blocks.append(self.batch_terms_.transform(X[self.batch]))
        table = pd.concat(blocks, axis=1) if len(blocks) > 1 else blocks[0]
        return (table[self.terms_].to_numpy(dtype=np.float64) - self.mean_) / self.sd_

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Linear predictor of each case, NaN for those that could not be harmonised."""
        design = self.design(X)
        good = np.isfinite(design).all(axis=1)
        risk = np.full(len(design), np.nan)
        risk[good] = self.model_.predict(design[good])
        return risk

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns of `design`."""
        check_is_fitted(self, "model_")
        return np.array(self.terms_, dtype=object)

    @property
    def notes_(self) -> list[str]:
        """What the reader must know of this fit."""
        notes = [] if self.feature_block_ is None else list(self.feature_block_.notes_)
        if self.batch_terms_ is not None and self.batch_terms_.pooled_:
            named = ", ".join(self.batch_terms_.pooled_)
            notes.append(f"batches with fewer than two patients of a class share an intercept: {named}")
        if isinstance(self.model_, PenalisedLogistic) and self.model_.note_:
            notes.append(self.model_.note_)
        return notes


@dataclass(frozen=True)
class FittedBlock:
    """A fitted feature block, and what it makes of its training cases and of cases that are held out."""

    block: FeatureBlock
    train: pd.DataFrame
    held: pd.DataFrame | None = None


def fit_feature_block(
    block: FeatureBlock,
    X: pd.DataFrame,
    features: Sequence[str],
    metadata: Sequence[str],
    held: pd.DataFrame | None = None,
) -> FittedBlock:
    """A block fitted to the cases of X, and its tables of them and of the cases held out."""
    made: FeatureBlock = clone(block)
    train = made.fit_transform(X[list(features)], metadata=metadata_of(X, metadata))
    if held is None:
        return FittedBlock(made, train)
    return FittedBlock(made, train, made.transform(held[list(features)], metadata_of(held, metadata)))


def metadata_of(X: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The harmoniser's columns of a table, under their own names."""
    return X[[METADATA + name for name in names]].set_axis(list(names), axis=1)


def classes_of(y: np.ndarray) -> np.ndarray:
    """0 or 1 of each case: the event, or the outcome."""
    return np.asarray(y["event"] if y.dtype.names else y).astype(int)


def best_by_score(values: np.ndarray, y: np.ndarray, most: int) -> np.ndarray:
    """Positions, ascending, of the columns with the largest score statistics of a model of their own.

    For survival the score test of a Cox model (Breslow ties), else of a logistic one (its square is n r^2). The
    statistic is invariant to a column's scale.
    """
    if values.shape[1] <= most:
        return np.arange(values.shape[1])
    if not y.dtype.names:
        x = values - values.mean(axis=0)
        outcome = y - y.mean()
        statistic = (x.T @ outcome) ** 2 / (x**2).sum(axis=0)
    else:
        order = np.argsort(-y["time"], kind="stable")
        x, t, dead = values[order] - values.mean(axis=0), y["time"][order], y["event"][order].astype(bool)
        last = np.searchsorted(-t, -t[dead], side="right") - 1
        count = (last + 1)[:, None]
        mean = np.cumsum(x, axis=0)[last] / count
        spread = np.cumsum(x**2, axis=0)[last] / count - mean**2
        statistic = (x[dead] - mean).sum(axis=0) ** 2 / spread.sum(axis=0)
    return np.sort(np.argsort(-statistic, kind="stable")[:most])
