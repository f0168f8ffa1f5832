"""ComBat as a scikit-learn estimator: learned on some cases, applied to others, refused where it can't be right.

Model (Johnson, Li & Rabinovic, Biostatistics 2007, 10.1093/biostatistics/kxj037; for imaging Fortin et al., NeuroImage
2018, 10.1016/j.neuroimage.2017.11.024): the value of feature f of case i in batch b is

    y = alpha_f + C_i beta_f + gamma_bf + delta_bf * epsilon,

with C the covariates whose effect is kept, and gamma, delta shrunk over the features by empirical Bayes.

Who does what: the fit is neuroCombat's (standardisation, least squares, priors, the parametric empirical Bayes),
called function by function rather than by its front door. The front door prints, casts covariates to float32, builds
its reference level with a name that NumPy 2 no longer has, and takes the rows' order for their identity. The design
matrix, the guards and the application to new cases are ours. So is the non-parametric empirical Bayes: neuroCombat
multiplies likelihoods, which underflows to 0/0 in a batch of some 500 cases or more, and loops over the features;
here it is summed in logarithms.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from neuroCombat.neuroCombat import (
    find_non_eb_adjustments,
    find_parametric_adjustments,
    fit_LS_model_and_find_priors,
    standardize_across_features,
)
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from radloom.assembly import is_numeric, levels_of, listed
from radloom.errors import CohortError

SMALL_BATCH_POLICIES = ("error", "exclude", "merge", "passthrough")
ADVISED_BATCH_SIZE = 20
FORMAT = "radloom-combat-1"


class HarmonizationError(CohortError, ValueError):
    """Data or settings with which ComBat would give numbers that look right and are not."""


class HarmonizationWarning(UserWarning):
    """ComBat went on, and the reader of its results must know how."""


class ComBatHarmonizer(TransformerMixin, BaseEstimator):
    """ComBat over the batches of one column, keeping the effect of covariates.

    Parameters
    ----------
    batch, covariates
        Names of the columns with the batch and with the covariates to keep. They are looked up in the table
        `metadata` of `fit` and `transform`, or, if none is given, in `X` itself. Text is coded against its first
        level in sorted order, numbers enter as they are.
    parametric
        Parametric priors, else non-parametric ones.
    mean_only
        Adjust the mean alone.
    reference_batch
        The batch that stays as it is and to which the others are moved.
    min_batch_size, small_batch
        A batch of fewer cases is an `error`; or `exclude`: its rows come out as NaN; or `merge`: all such batches
        count as one; or `passthrough`: its rows come out unchanged.

    Attributes
    ----------
    batches_, batch_sizes_
        What was harmonised, in sorted order, and how many cases each had.
    excluded_batches_, passthrough_batches_, merged_batches_
        What `small_batch` did.
    untouched_features_
        Features that are constant, overall or within a batch (as `sva` does, they are returned as they came).
    warnings_
        What the reader must know; the same texts are issued as `HarmonizationWarning`.

    The outcome has no way in: `y` is ignored.
    """

    def __init__(
        self,
        batch: str = "centre",
        covariates: Sequence[str] = (),
        *,
        parametric: bool = True,
        mean_only: bool = False,
        reference_batch: str | None = None,
        min_batch_size: int = 5,
        small_batch: str = "error",
    ) -> None:
        self.batch = batch
        self.covariates = covariates
        self.parametric = parametric
        self.mean_only = mean_only
        self.reference_batch = reference_batch
        self.min_batch_size = min_batch_size
        self.small_batch = small_batch

    # ------------------------------------------------------------------ fit

    def fit(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> ComBatHarmonizer:  # noqa: ARG002
        """Learn the batch effects of X, cases x features.

        Raises HarmonizationError where the data can't carry the fit, naming the cases and the way out.
        """
        if self.small_batch not in SMALL_BATCH_POLICIES:
            raise HarmonizationError(
                f"small_batch must be one of {', '.join(SMALL_BATCH_POLICIES)}, not {self.small_batch!r}"
            )
        if self.min_batch_size < 2:
            raise HarmonizationError("min_batch_size must be at least 2: one case has no variance")
        features, meta = self._separate(X, metadata)
        if features.shape[1] == 0:
            raise HarmonizationError("there is no feature to harmonise")
        values = self._checked_values(features)
        labels = self._checked_batch(meta)

        self.feature_names_in_ = np.array(features.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.warnings_: list[str] = []
        labels = self._resolve_batches(labels)
        rows = labels.isin(self.batches_).to_numpy()
        values, labels, meta = values[rows], labels[rows], meta.loc[rows]

        self._learn_encoding(meta)
        covariates = self._encode(meta)
        codes = pd.Categorical(labels, categories=self.batches_).codes.astype(int)
        self.identity_ = len(self.batches_) == 1
        if self.identity_:
            self._warn(
                f"there is only one batch ({self.batches_[0]}), so nothing was harmonised and the features are "
                "unchanged"
            )
        else:
            self._check_rank(codes, covariates)
        self._learn_effects(values, codes, covariates)
        for message in self.warnings_:
            warnings.warn(message, HarmonizationWarning, stacklevel=2)
        return self

    def _warn(self, message: str) -> None:
        self.warnings_.append(message)

    def _separate(self, X: pd.DataFrame, metadata: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Feature table and the table of batch and covariates, on the same index."""
        if not isinstance(X, pd.DataFrame):
            raise HarmonizationError("X must be a DataFrame, one row a case: ComBat matches rows by their index")
        if X.index.has_duplicates:
            raise HarmonizationError(f"cases occur twice: {listed(X.index[X.index.duplicated()].unique())}")
        wanted = [self.batch, *self.covariates]
        source = X if metadata is None else metadata
        absent = [name for name in wanted if name not in source.columns]
        if absent:
            raise HarmonizationError(f"there is no column {listed(absent)} to take the batch and the covariates from")
        if self.batch in self.covariates:
            raise HarmonizationError(
                f"the batch {self.batch!r} can't be a covariate as well: its effect is what ComBat removes"
            )
        if metadata is None:
            return X.drop(columns=wanted), X[wanted]
        if not X.index.equals(metadata.index):
            only_x, only_meta = X.index.difference(metadata.index), metadata.index.difference(X.index)
            if len(only_x) or len(only_meta):
                detail = (
                    f"only with features: {listed(only_x) or 'none'}; only with a batch: {listed(only_meta) or 'none'}"
                )
            else:
                detail = "they hold the same cases in another order"
            raise HarmonizationError(
                f"features and batches are not aligned ({detail}). Give both the same index, in the same order"
            )
        return X, metadata[wanted]

    @staticmethod
    def _checked_values(features: pd.DataFrame) -> np.ndarray:
        wrong = [str(name) for name, kind in features.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
        if wrong:
            raise HarmonizationError(f"columns that are not numbers can't be harmonised: {listed(wrong)}")
        values = features.to_numpy(dtype=np.float64)
        broken = ~np.isfinite(values)
        if broken.any():
            raise HarmonizationError(
                f"{int(broken.sum())} feature values are missing or infinite, in the cases "
                f"{listed(features.index[broken.any(axis=1)])}, in the features "
                f"{listed(features.columns[broken.any(axis=0)])}. "
                "Leave these cases out of the cohort or these features out of the extraction, or fill the cells "
                "on purpose"
            )
        return values

    def _checked_batch(self, meta: pd.DataFrame) -> pd.Series:
        column = meta[self.batch]
        text = column.astype(str).str.strip()
        missing = column.isna() | (text == "")
        if missing.any():
            raise HarmonizationError(
                f"no {self.batch} is given for {listed(meta.index[missing])}. Fill in the column or leave the cases out"
            )
        return text

    def _resolve_batches(self, labels: pd.Series) -> pd.Series:
        """Apply the rule for small batches, and return the labels with merged ones renamed."""
        sizes = labels.value_counts()
        small = sorted(str(name) for name, size in sizes.items() if size < self.min_batch_size)
        self.excluded_batches_: list[str] = []
        self.passthrough_batches_: list[str] = []
        self.merged_batches_: list[str] = []
        self.merged_name_: str | None = None
        counts = listed(f"{name} ({sizes[name]})" for name in small)
        if self.reference_batch is not None and self.reference_batch not in sizes.index:
            raise HarmonizationError(
                f"the reference batch {self.reference_batch!r} doesn't occur; there are {listed(sorted(sizes.index))}"
            )
        if small and self.reference_batch in small:
            raise HarmonizationError(
                f"the reference batch {self.reference_batch!r} has {sizes[self.reference_batch]} cases, fewer than "
                f"{self.min_batch_size}. Choose a larger one"
            )
        if small and self.small_batch == "error":
            raise HarmonizationError(
                f"batches with fewer than {self.min_batch_size} cases: {counts}. Set harmonize.small_batch to "
                "exclude, merge or "
                "passthrough, choose a coarser batch column, or lower harmonize.min_batch_size"
            )
        if small and self.small_batch == "exclude":
            self.excluded_batches_ = small
            self._warn(f"cases of batches with fewer than {self.min_batch_size} cases were excluded: {counts}")
        if small and self.small_batch == "passthrough":
            self.passthrough_batches_ = small
            self._warn(f"cases of batches with fewer than {self.min_batch_size} cases were not harmonised: {counts}")
        if small and self.small_batch == "merge":
            total = int(sizes[small].sum())
            if total < self.min_batch_size:
                raise HarmonizationError(
                    f"all batches with fewer than {self.min_batch_size} cases together have {total}: {counts}. Set "
                    "harmonize.small_batch to exclude or passthrough, or choose a coarser batch column"
                )
            self.merged_batches_ = small
            self.merged_name_ = "+".join(small)
            labels = labels.where(~labels.isin(small), self.merged_name_)
            self._warn(f"batches with fewer than {self.min_batch_size} cases were merged into one: {counts}")
        left_out = {*self.excluded_batches_, *self.passthrough_batches_}
        used = labels[~labels.isin(left_out)].value_counts()
        self.batches_ = sorted(str(name) for name in used.index)
        if not self.batches_:
            raise HarmonizationError(
                f"no batch has {self.min_batch_size} cases or more: {counts}. Choose a coarser batch column, "
                "or lower harmonize.min_batch_size"
            )
        self.batch_sizes_ = {name: int(used[name]) for name in self.batches_}
        few = [f"{name} ({size})" for name, size in self.batch_sizes_.items() if size < ADVISED_BATCH_SIZE]
        if few and len(self.batches_) > 1:
            self._warn(
                f"batch effects are uncertain in batches of fewer than {ADVISED_BATCH_SIZE} cases: {listed(few)}"
            )
        return labels

    def _learn_encoding(self, meta: pd.DataFrame) -> None:
        self._check_covariates_present(meta)
        self.levels_: dict[str, list[str] | None] = {}
        self.centering_: dict[str, tuple[float, float]] = {}
        for name in self.covariates:
            column = meta[name]
            try:
                levels = None if is_numeric(column) else levels_of(column)
            except CohortError as error:
                raise HarmonizationError(str(error)) from None
            self.levels_[name] = levels
            if levels is None:
                number = pd.to_numeric(column).to_numpy(dtype=np.float64)
                constant = np.ptp(number) == 0
                # The fit doesn't change with origin and unit of a covariate; the conditioning of its equations does.
                self.centering_[name] = (float(number.mean()), float(number.std()) or 1.0)
            else:
                constant = len(levels) < 2
            if constant:
                raise HarmonizationError(
                    f"the covariate {name!r} has the same value in all cases, so it has no effect to keep. Leave it out"
                )

    def _check_covariates_present(self, meta: pd.DataFrame) -> None:
        for name in self.covariates:
            column = meta[name]
            missing = column.isna() | (column.astype(str).str.strip() == "")
            if missing.any():
                raise HarmonizationError(
                    f"the covariate {name!r} is missing for {listed(meta.index[missing])}. Fill it in, leave the "
                    "cases out, or "
                    "leave the covariate out of harmonize.covariates"
                )

    def _encode(self, meta: pd.DataFrame) -> np.ndarray:
        """Covariates as numbers, cases x columns: treatment coding of text, standardised numbers."""
        self._check_covariates_present(meta)
        columns: list[np.ndarray] = []
        for name in self.covariates:
            levels = self.levels_[name]
            if levels is None:
                number = pd.to_numeric(meta[name], errors="coerce")
                bad = number.isna() | np.isinf(number)
                if bad.any():
                    raise HarmonizationError(
                        f"the covariate {name!r} is not a finite number for {listed(meta.index[bad])}"
                    )
                mean, scale = self.centering_[name]
                columns.append((number.to_numpy(dtype=np.float64) - mean) / scale)
                continue
            text = meta[name].astype(str)
            unknown = ~text.isin(levels)
            if unknown.any():
                raise HarmonizationError(
                    f"the covariate {name!r} has levels that the fit has not seen "
                    f"({listed(sorted(text[unknown].unique()))}), in "
                    f"{listed(meta.index[unknown])}"
                )
            columns += [(text == level).to_numpy(dtype=np.float64) for level in levels[1:]]
        return np.column_stack(columns) if columns else np.empty((len(meta), 0))

    def _terms(self) -> list[str]:
        """The covariate behind each column of `_encode`."""
        return [name for name in self.covariates for _ in range(max(len(self.levels_[name] or []) - 1, 1))]

    def _check_rank(self, codes: np.ndarray, covariates: np.ndarray) -> None:
        """Refuse covariates that the batches, or each other, explain without rest."""
        design = np.eye(len(self.batches_))[codes]
        terms = self._terms()
        for name in self.covariates:
            own = covariates[:, [term == name for term in terms]]
            if np.linalg.matrix_rank(np.hstack([design, own])) < design.shape[1] + own.shape[1]:
                raise HarmonizationError(
                    f"the covariate {name!r} is confounded with the batch {self.batch!r}: the batches explain a "
                    "level or a value "
                    "of it without rest, so one effect can't be told from the other. Leave the covariate out"
                )
        if np.linalg.matrix_rank(np.hstack([design, covariates])) < design.shape[1] + covariates.shape[1]:
            raise HarmonizationError(
                f"batch {self.batch!r} and the covariates {listed(self.covariates)} are collinear: together they "
                "explain one "
                "another without rest. Leave a covariate out"
            )
        if len(codes) <= design.shape[1] + covariates.shape[1]:
            raise HarmonizationError(
                f"{len(codes)} cases can't carry {design.shape[1]} batches and {covariates.shape[1]} covariate columns"
            )

    def _learn_effects(self, values: np.ndarray, codes: np.ndarray, covariates: np.ndarray) -> None:
        n_batch, n_features = len(self.batches_), values.shape[1]
        scale = np.abs(values).max(axis=0)
        varies = np.ptp(values, axis=0) > 1e-12 * scale
        for batch in range(n_batch):
            inside = values[codes == batch]
            varies &= np.ptp(inside, axis=0) > 1e-12 * scale
        self.untouched_features_ = [str(name) for name in self.feature_names_in_[~varies]]
        if self.untouched_features_ and not self.identity_:
            self._warn(
                "features that are constant, overall or within a batch, were left as they are: "
                f"{listed(self.untouched_features_)}"
            )
        self._varies = varies
        self.grand_mean_ = np.zeros(n_features)
        self.pooled_variance_ = np.ones(n_features)
        self.beta_ = np.zeros((covariates.shape[1], n_features))
        self.gamma_ = np.zeros((n_batch, n_features))
        self.delta_ = np.ones((n_batch, n_features))
        if self.identity_ or not varies.any():
            return

        reference = None if self.reference_batch is None else self.batches_.index(self.reference_batch)
        batches = np.eye(n_batch)[codes]
        if reference is not None:
            batches[:, reference] = 1.0
        design = np.hstack([batches, covariates])
        batch_rows = [np.flatnonzero(codes == batch) for batch in range(n_batch)]
        info = {
            "n_batch": n_batch,
            "n_sample": len(codes),
            "sample_per_batch": np.bincount(codes, minlength=n_batch),
            "batch_info": batch_rows,
            "ref_level": reference,
        }
        data = np.ascontiguousarray(values[:, varies].T)
        standardised, mean, variance, _ = standardize_across_features(data, design, info)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a single feature has no spread to learn priors from
            estimates = fit_LS_model_and_find_priors(standardised, design, info, self.mean_only)
        if data.shape[0] == 1:
            self._warn("there is only one feature that varies: its batch effects were not shrunk (no empirical Bayes)")
            gamma, delta = find_non_eb_adjustments(standardised, estimates, info)
        elif self.parametric:
            gamma, delta = find_parametric_adjustments(standardised, estimates, info, self.mean_only)
        else:
            gamma, delta = _non_parametric(standardised, estimates, batch_rows, self.mean_only)
            if reference is not None:
                gamma[reference], delta[reference] = 0.0, 1.0
        gamma, delta = np.asarray(gamma, dtype=np.float64), np.asarray(delta, dtype=np.float64)
        if not (np.isfinite(gamma).all() and np.isfinite(delta).all() and (delta > 0).all()):
            raise HarmonizationError(
                "ComBat did not arrive at finite batch effects. Look for features that are copies of one "
                "another, or set "
                "harmonize.mean_only"
            )
        self.grand_mean_[varies] = np.asarray(mean)[:, 0]
        self.pooled_variance_[varies] = np.asarray(variance)[:, 0]
        self.beta_[:, varies] = np.linalg.lstsq(design, data.T, rcond=None)[0][n_batch:]
        self.gamma_[:, varies], self.delta_[:, varies] = gamma, delta

    # ------------------------------------------------------------ transform

    def transform(self, X: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """Remove the batch effects that `fit` learned from X, cases x features; each row uses its own covariates.

        Rows of passed-through batches come back unchanged, rows of excluded ones as NaN. A batch that `fit` never saw
        is a HarmonizationError.
        """
        check_is_fitted(self, "gamma_")
        features, meta = self._separate(X, metadata)
        if list(features.columns) != list(self.feature_names_in_):
            absent = [name for name in self.feature_names_in_ if name not in features.columns]
            more = [name for name in features.columns if name not in set(self.feature_names_in_)]
            raise HarmonizationError(
                f"the features differ from those of the fit (missing: {listed(absent) or 'none'}; new: "
                f"{listed(more) or 'none'}; "
                "the order counts as well)"
            )
        values = self._checked_values(features)
        labels = self._checked_batch(meta)
        if self.merged_name_ is not None:
            labels = labels.where(~labels.isin(self.merged_batches_), self.merged_name_)
        known = {*self.batches_, *self.excluded_batches_, *self.passthrough_batches_}
        unseen = ~labels.isin(known)
        if unseen.any():
            raise HarmonizationError(
                f"batches that the fit has not seen: {listed(sorted(labels[unseen].unique()))}, in "
                f"{listed(labels.index[unseen])}. Fit again with cases of these batches, or leave them out"
            )
        result = values.copy()
        result[labels.isin(self.excluded_batches_).to_numpy()] = np.nan
        rows = labels.isin(self.batches_).to_numpy()
        if rows.any() and not self.identity_:
            covariates = self._encode(meta.loc[rows])
            codes = pd.Categorical(labels[rows], categories=self.batches_).codes.astype(int)
            level = self.grand_mean_ + covariates @ self.beta_
            spread = np.sqrt(self.pooled_variance_)
            residual = (values[rows] - level) / spread
            adjusted = (residual - self.gamma_[codes]) / np.sqrt(self.delta_[codes]) * spread + level
            if self.reference_batch is not None:
                stays = codes == self.batches_.index(self.reference_batch)
                adjusted[stays] = values[rows][stays]
            adjusted[:, ~self._varies] = values[rows][:, ~self._varies]
            result[rows] = adjusted
        return pd.DataFrame(result, index=features.index, columns=features.columns)

    def fit_transform(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """`fit`, then `transform` of the same cases."""
        return self.fit(X, y, metadata).transform(X, metadata)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns; `input_features` is ignored, as the fit knows them."""
        check_is_fitted(self, "gamma_")
        return self.feature_names_in_

    # ----------------------------------------------------------------- JSON

    def to_json(self) -> dict[str, Any]:
        """Everything that `transform` needs, as JSON-able values that give the same numbers bit for bit."""
        check_is_fitted(self, "gamma_")
        return {
            "format": FORMAT,
            "settings": {
                "batch": self.batch,
                "covariates": list(self.covariates),
                "parametric": self.parametric,
                "mean_only": self.mean_only,
                "reference_batch": self.reference_batch,
                "min_batch_size": self.min_batch_size,
                "small_batch": self.small_batch,
            },
            "features": [str(name) for name in self.feature_names_in_],
            "untouched_features": self.untouched_features_,
            "batches": self.batches_,
            "batch_sizes": self.batch_sizes_,
            "excluded_batches": self.excluded_batches_,
            "passthrough_batches": self.passthrough_batches_,
            "merged_batches": self.merged_batches_,
            "merged_name": self.merged_name_,
            "identity": self.identity_,
            "covariate_levels": self.levels_,
            "covariate_centering": {name: list(pair) for name, pair in self.centering_.items()},
            "grand_mean": self.grand_mean_.tolist(),
            "pooled_variance": self.pooled_variance_.tolist(),
            "beta": self.beta_.tolist(),
            "gamma": self.gamma_.tolist(),
            "delta": self.delta_.tolist(),
            "warnings": self.warnings_,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> ComBatHarmonizer:
        """The estimator that `to_json` described."""
        if saved.get("format") != FORMAT:
            raise HarmonizationError(f"these are no ComBat parameters of the format {FORMAT}")
        made = cls(**saved["settings"])
        made.feature_names_in_ = np.array(saved["features"], dtype=object)
        made.n_features_in_ = len(made.feature_names_in_)
        made.untouched_features_ = saved["untouched_features"]
        made._varies = ~np.isin(made.feature_names_in_, made.untouched_features_)
        made.batches_ = saved["batches"]
        made.batch_sizes_ = saved["batch_sizes"]
        made.excluded_batches_ = saved["excluded_batches"]
        made.passthrough_batches_ = saved["passthrough_batches"]
        made.merged_batches_ = saved["merged_batches"]
        made.merged_name_ = saved["merged_name"]
        made.identity_ = saved["identity"]
        made.levels_ = saved["covariate_levels"]
        made.centering_ = {name: (pair[0], pair[1]) for name, pair in saved["covariate_centering"].items()}
        made.grand_mean_ = np.array(saved["grand_mean"])
        made.pooled_variance_ = np.array(saved["pooled_variance"])
        made.beta_ = np.array(saved["beta"], dtype=np.float64).reshape(len(made._terms()), made.n_features_in_)
        made.gamma_ = np.array(saved["gamma"])
        made.delta_ = np.array(saved["delta"])
        made.warnings_ = saved["warnings"]
        return made


def harmonizer_of(settings: Mapping[str, Any]) -> ComBatHarmonizer:
    """The estimator that a `harmonize` section of the configuration describes."""
    return ComBatHarmonizer(
        settings["batch"],
        list(settings["covariates"]),
        parametric=settings["parametric"],
        mean_only=settings["mean_only"],
        reference_batch=settings["reference_batch"],
        min_batch_size=settings["min_batch_size"],
        small_batch=settings["small_batch"],
    )


def _non_parametric(
    standardised: np.ndarray, estimates: dict[str, Any], batch_rows: list[np.ndarray], mean_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Non-parametric empirical Bayes of gamma and delta, batches x features (as `int.eprior` of R's sva).

    A feature's posterior mean is the mean of all other features' estimates, weighted by the likelihood that they give
    to its values. Likelihoods are compared as logarithms.
    """
    n_features = standardised.shape[0]
    gamma = np.empty((len(batch_rows), n_features))
    delta = np.empty_like(gamma)
    for batch, rows in enumerate(batch_rows):
        values = standardised[:, rows]
        n = len(rows)
        g = np.asarray(estimates["gamma_hat"][batch], dtype=np.float64)
        d = np.ones(n_features) if mean_only else np.asarray(estimates["delta_hat"][batch], dtype=np.float64)
        centre = values.mean(axis=1)
        scatter = ((values - centre[:, None]) ** 2).sum(axis=1)
        for start in range(0, n_features, 512):  # bounds the memory of features x features
            part = slice(start, min(start + 512, n_features))
            squares = scatter[part, None] + n * (centre[part, None] - g[None, :]) ** 2
            log_likelihood = -0.5 * n * np.log(2 * np.pi * d) - squares / (2 * d)
            own = np.arange(part.start, part.stop)
            log_likelihood[own - part.start, own] = -np.inf
            weight = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            gamma[batch, part], delta[batch, part] = weight @ g, weight @ d
    return gamma, delta
