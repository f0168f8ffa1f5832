"""ComBat as a scikit-learn estimator: learned on some cases, applied to others, refused where it can't be right.

Johnson, Li & Rabinovic, Biostatistics 2007, 10.1093/biostatistics/kxj037; for imaging Fortin et al., NeuroImage 2018,
10.1016/j.neuroimage.2017.11.024. The numbers are made in `combat_effects`, equal to neuroCombat's and to `sva`'s; here
are the guards, the coding of the covariates, what becomes of each case, and JSON. neuroCombat's front door is not used:
it prints, casts covariates to float32, builds its reference level with a name that NumPy 2 no longer has, takes the
rows' order for their identity, and is wrong for new cases.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from radloom import combat_effects
from radloom.assembly import is_numeric, levels_of, listed
from radloom.combat_effects import Effects
from radloom.errors import CohortError
from radloom.harmonizer import (
    ADAPTED,
    EXCLUDED,
    HARMONISED,
    MERGED,
    NO_FEATURE,
    PASSED_SMALL,
    PASSED_UNSEEN,
    REFERENCE,
    SINGLE_BATCH,
    HarmonizationError,
    HarmonizationWarning,
    Harmonizer,
)

__all__ = ["ComBatHarmonizer", "HarmonizationError", "HarmonizationWarning"]

CHOICES = {
    "small_batch": ("error", "exclude", "merge", "passthrough"),
    "new_batch": ("error", "passthrough", "adapt"),
    "missing_covariates": ("error", "impute"),
}
ADVISED_BATCH_SIZE = 20
MOST_ERRORS = 4.0
"""Standard errors by which shrinkage may move the variance of the typical feature of an adapted batch."""

FORMAT = "radloom-combat-2"


class ComBatHarmonizer(Harmonizer):
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
    eb
        Empirical Bayes; without it every feature's location and scale are its own (neuroCombat's `eb=False`).
    reference_batch
        The batch that stays as it is and to which the others are moved.
    min_batch_size, small_batch
        A batch of fewer cases is an `error`; or `exclude`: its rows come out as NaN; or `merge`: all such batches
        count as one; or `passthrough`: its rows come out unchanged.
    new_batch
        What `transform` does with a batch that `fit` never saw: `error`; `passthrough`: its rows come out unchanged; or
        `adapt`: its gamma and delta are estimated from its own rows in that call (`min_batch_size` of them at least),
        standardised with the fit's level, covariate effects and pooled variance, with priors over its own features.
        That is transductive: the rows of the new batch inform their own adjustment, so one row's result depends on
        which others come with it. No outcome takes part, and the fit doesn't change.
    missing_covariates
        A missing cell is an `error`; or `impute`: it is filled with the median, or the commonest word, of the fit's
        cases, also in new rows.
    exempt
        Shell-style patterns of features that are returned untouched and have no part in the priors.

    Attributes
    ----------
    batches_, batch_sizes_
        What was harmonised, in sorted order, and how many cases each had.
    excluded_batches_, passthrough_batches_, merged_batches_
        What `small_batch` did.
    exempt_features_, untouched_features_
        Features that match `exempt`; features that are constant, overall or within a batch, or that the covariates
        explain without rest (returned as they came).
    imputed_
        What fills missing cells of each covariate, and `n_imputed_`, how many cells the fit filled.
    warnings_
        What the reader must know; the same texts are issued as `HarmonizationWarning`.

    The outcome has no way in: `y` is ignored. The order of the rows changes nothing.
    """

    def __init__(
        self,
        batch: str = "centre",
        covariates: Sequence[str] = (),
        *,
        parametric: bool = True,
        mean_only: bool = False,
        eb: bool = True,
        reference_batch: str | None = None,
        min_batch_size: int = 5,
        small_batch: str = "error",
        new_batch: str = "error",
        missing_covariates: str = "error",
        exempt: Sequence[str] = (),
    ) -> None:
        self.batch = batch
        self.covariates = covariates
        self.parametric = parametric
        self.mean_only = mean_only
        self.eb = eb
        self.reference_batch = reference_batch
        self.min_batch_size = min_batch_size
        self.small_batch = small_batch
        self.new_batch = new_batch
        self.missing_covariates = missing_covariates
        self.exempt = exempt

    @property
    def batch_columns(self) -> list[str]:
        """The batch column."""
        return [self.batch]

    @property
    def metadata_columns(self) -> list[str]:
        """The batch column, then the covariates."""
        return [self.batch, *self.covariates]

    # ------------------------------------------------------------------ fit

    def fit(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> Self:  # noqa: ARG002
        """Learn the batch effects of X, cases x features.

        Raises HarmonizationError where the data can't carry the fit, naming the cases and the way out.
        """
        self._check_settings()
        features, meta = self._separate(X, metadata)
        if features.shape[1] == 0:
            raise HarmonizationError("there is no feature to harmonise")
        if features.columns.has_duplicates:
            twice = features.columns[features.columns.duplicated()].unique()
            raise HarmonizationError(f"features occur twice: {listed(twice)}")
        self.feature_names_in_ = np.array(features.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.warnings_ = []
        self._set_exempt()
        values = self._checked_values(features)
        labels = self._resolve_batches(self._checked_batch(meta))

        rows = np.flatnonzero(labels.isin(self.batches_).to_numpy())
        # In the order of their names: then the order in which the cases come doesn't change a bit of the sums.
        rows = rows[np.argsort(labels.index[rows].astype(str), kind="stable")]
        labels, meta = labels.iloc[rows], meta.iloc[rows]
        covariates = self._learn_encoding(meta)
        codes = pd.Categorical(labels, categories=self.batches_).codes.astype(int)
        self.identity_ = len(self.batches_) == 1
        if self.identity_:
            self._warn(
                f"there is only one batch ({self.batches_[0]}), so nothing was harmonised and the features are "
                "unchanged"
            )
        self._check_rank(codes, covariates)
        self._learn_effects(values, rows, codes, covariates)
        for message in self.warnings_:
            warnings.warn(message, HarmonizationWarning, stacklevel=2)
        return self

    def _warn(self, message: str) -> None:
        self.warnings_.append(message)

    def _check_settings(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise HarmonizationError(f"{name} must be one of {', '.join(choices)}, not {getattr(self, name)!r}")
        if self.min_batch_size < 2:
            raise HarmonizationError("min_batch_size must be at least 2: one case has no variance")
        for name in ("covariates", "exempt"):
            if isinstance(getattr(self, name), str):
                raise HarmonizationError(f"{name} must be a list, not the text {getattr(self, name)!r}")

    def _separate(self, X: pd.DataFrame, metadata: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Feature table and the table of batch and covariates, on the same index."""
        if not isinstance(X, pd.DataFrame):
            raise HarmonizationError("X must be a DataFrame, one row a case: ComBat matches rows by their index")
        if X.index.has_duplicates:
            raise HarmonizationError(f"cases occur twice: {listed(X.index[X.index.duplicated()].unique())}")
        wanted = self.metadata_columns
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

    def _set_exempt(self) -> None:
        names = [str(name) for name in self.feature_names_in_]
        self._exempt = np.array([any(fnmatchcase(name, pattern) for pattern in self.exempt) for name in names])
        self.exempt_features_ = [name for name, own in zip(names, self._exempt, strict=True) if own]
        idle = [pattern for pattern in self.exempt if not any(fnmatchcase(name, pattern) for name in names)]
        if idle:
            self._warn(f"no feature matches the exempt patterns {listed(idle)}")

    def _checked_values(self, features: pd.DataFrame) -> np.ndarray:
        """Features as float64, finite where they are not exempt."""
        if not all(pd.api.types.is_numeric_dtype(kind) for kind in set(features.dtypes)):
            wrong = [str(name) for name, kind in features.dtypes.items() if not pd.api.types.is_numeric_dtype(kind)]
            raise HarmonizationError(f"columns that are not numbers can't be harmonised: {listed(wrong)}")
        values: np.ndarray = features.to_numpy(dtype=np.float64)
        broken = ~np.isfinite(values)
        broken[:, self._exempt] = False
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
        text = _text(meta[self.batch])
        missing = text.isna().to_numpy()
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
            if self.merged_name_ in sizes.index:
                raise HarmonizationError(
                    f"the small batches {counts} can't be merged: a batch is called {self.merged_name_!r} already. "
                    "Rename it"
                )
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

    # ----------------------------------------------------------- covariates

    def _learn_encoding(self, meta: pd.DataFrame) -> np.ndarray:
        """Learn levels, origin, unit and fill of each covariate; return the coded covariates, cases x columns."""
        self.levels_: dict[str, list[str] | None] = {}
        self.centering_: dict[str, tuple[float, float]] = {}
        self.imputed_: dict[str, float | str] = {}
        self.n_imputed_: dict[str, int] = {}
        for name in self.covariates:
            column = _text(meta[name], keep_numbers=True)
            there = column.notna().to_numpy()
            if self.missing_covariates == "error":
                self._refuse_missing(name, there, meta.index)
            if not there.any():
                raise HarmonizationError(f"the covariate {name!r} is empty in all cases. Leave it out")
            present = column[there]
            try:
                levels = None if is_numeric(present) else levels_of(present)
            except CohortError as error:
                raise HarmonizationError(str(error)) from None
            self.levels_[name] = levels
            if levels is None:
                self.imputed_[name] = 0.0
                number = self._numbers(name, column)
                self.imputed_[name] = float(np.median(number[there]))
                constant = np.ptp(number[there]) == 0
                number[~there] = self.imputed_[name]
                # The fit doesn't change with origin and unit of a covariate; the conditioning of its equations does.
                self.centering_[name] = (float(number.mean()), float(number.std()) or 1.0)
            else:
                counts = [int((present == level).sum()) for level in levels]
                self.imputed_[name] = levels[counts.index(max(counts))]  # of equals the first
                constant = len(levels) < 2
            if constant:
                raise HarmonizationError(
                    f"the covariate {name!r} has the same value in all cases, so it has no effect to keep. Leave it out"
                )
            if n_missing := int((~there).sum()):
                self.n_imputed_[name] = n_missing
                self._warn(self._told_imputed(name, n_missing, len(column)))
        return self._encode(meta)

    def _told_imputed(self, name: str, n_missing: int, n: int) -> str:
        fill = self.imputed_[name]
        what = f"the median, {fill:g}" if isinstance(fill, float) else f"the commonest word, {fill}"
        return f"the covariate {name!r} was missing in {n_missing} of {n} cases and was filled with {what}"

    @staticmethod
    def _refuse_missing(name: str, there: np.ndarray, index: pd.Index) -> None:
        if not there.all():
            raise HarmonizationError(
                f"the covariate {name!r} is missing for {listed(index[~there])}. Fill it in, leave the "
                "cases out, leave the covariate out of harmonize.covariates, or set harmonize.missing_covariates "
                "to impute"
            )

    def _numbers(self, name: str, column: pd.Series) -> np.ndarray:
        """A covariate of numbers, filled."""
        there = column.notna().to_numpy()
        number = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, copy=True)
        number[~there] = self.imputed_[name]
        bad = ~np.isfinite(number)
        if bad.any():
            raise HarmonizationError(f"the covariate {name!r} is not a finite number for {listed(column.index[bad])}")
        return number

    def _encode(self, meta: pd.DataFrame, told: list[str] | None = None) -> np.ndarray:
        """Covariates as numbers, cases x columns: treatment coding of text, standardised numbers.

        What was filled is added to the messages `told`.
        """
        columns: list[np.ndarray] = []
        for name in self.covariates:
            column = _text(meta[name], keep_numbers=self.levels_[name] is None)
            there = column.notna().to_numpy()
            if self.missing_covariates == "error":
                self._refuse_missing(name, there, meta.index)
            elif told is not None and not there.all():
                told.append(self._told_imputed(name, int((~there).sum()), len(column)))
            levels = self.levels_[name]
            if levels is None:
                mean, scale = self.centering_[name]
                columns.append((self._numbers(name, column) - mean) / scale)
                continue
            text = column.to_numpy(dtype=object)
            text[~there] = self.imputed_[name]
            coded = [(text == level) for level in levels]
            unknown = ~np.logical_or.reduce(coded)
            if unknown.any():
                raise HarmonizationError(
                    f"the covariate {name!r} has levels that the fit has not seen "
                    f"({listed(sorted(set(text[unknown])))}), in "
                    f"{listed(meta.index[unknown])}"
                )
            columns += [own.astype(np.float64) for own in coded[1:]]
        return np.column_stack(columns) if columns else np.empty((len(meta), 0))

    def _terms(self) -> list[str]:
        """The covariate behind each column of `_encode`."""
        return [name for name in self.covariates for _ in range(max(len(self.levels_[name] or []) - 1, 1))]

    def _check_rank(self, codes: np.ndarray, covariates: np.ndarray) -> None:
        """Refuse covariates that the batches, or each other, explain without rest."""
        if covariates.shape[1] == 0:
            return
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
        if len(codes) <= design.shape[1] + covariates.shape[1]:
            raise HarmonizationError(
                f"{len(codes)} cases can't carry {design.shape[1]} batches and {covariates.shape[1]} covariate columns"
            )
        if np.linalg.matrix_rank(np.hstack([design, covariates])) < design.shape[1] + covariates.shape[1]:
            raise HarmonizationError(
                f"batch {self.batch!r} and the covariates {listed(self.covariates)} are collinear: together they "
                "explain one "
                "another without rest. Leave a covariate out"
            )

    # -------------------------------------------------------------- effects

    def _learn_effects(self, values: np.ndarray, rows: np.ndarray, codes: np.ndarray, covariates: np.ndarray) -> None:
        """Estimate the effects from some rows of `values`, whose batches and covariates are given."""
        n_batch, n_features = len(self.batches_), values.shape[1]
        rows_of = [rows[codes == batch] for batch in range(n_batch)]
        # Values of exempt features may be missing; they are in no sum.
        chosen = np.flatnonzero(~self._exempt)
        coded = np.zeros((values.shape[0], covariates.shape[1]))
        coded[rows] = covariates
        some = values if len(chosen) == n_features else values[:, chosen]
        fit = combat_effects.least_squares(some, rows_of, coded, n_batch)
        good = ~fit.constant
        self._set_effects(
            Effects(
                np.zeros(n_features),
                np.ones(n_features),
                np.zeros((covariates.shape[1], n_features)),
                np.zeros((n_batch, n_features)),
                np.ones((n_batch, n_features)),
            ),
            [str(name) for name in self.feature_names_in_[chosen[~good]]],
        )
        if self.untouched_features_ and not self.identity_:
            self._warn(
                "features that are constant, overall or within a batch, or that the covariates explain without rest, "
                f"were left as they are: {listed(self.untouched_features_)}"
            )
        if not good.any():
            self._warn("there is no feature to harmonise: all are exempt or constant")
            return
        if good.sum() == 1 and self.eb and not self.identity_:
            self._warn("there is only one feature that varies: its batch effects were not shrunk (no empirical Bayes)")
        reference = None if self.reference_batch is None else self.batches_.index(self.reference_batch)
        learned = combat_effects.estimate(
            combat_effects.LeastSquares(
                fit.intercept[:, good], fit.squares[:, good], fit.beta[:, good], fit.constant[good]
            ),
            np.array([len(own) for own in rows_of]),
            # A single batch is what new ones are moved to, and stays as it is.
            reference=0 if self.identity_ else reference,
            **self._how(int(good.sum())),
        )
        self._refuse_without_end(learned.gamma, learned.delta)
        varies = self._varies
        self.grand_mean_[varies], self.pooled_variance_[varies] = learned.grand_mean, learned.pooled_variance
        self.beta_[:, varies] = learned.beta
        self.gamma_[:, varies], self.delta_[:, varies] = learned.gamma, learned.delta

    def _how(self, n_features: int) -> dict[str, bool]:
        """How batch effects are estimated; a single feature has no others to learn priors from."""
        return {"eb": self.eb and n_features > 1, "parametric": self.parametric, "mean_only": self.mean_only}

    @staticmethod
    def _refuse_without_end(gamma: np.ndarray, delta: np.ndarray) -> None:
        if not (np.isfinite(gamma).all() and np.isfinite(delta).all() and (delta > 0).all()):
            raise HarmonizationError(
                "ComBat did not arrive at finite batch effects. Look for features that are copies of one "
                "another, or set "
                "harmonize.mean_only"
            )

    def _set_effects(self, effects: Effects, untouched: list[str]) -> None:
        self.grand_mean_, self.pooled_variance_ = effects.grand_mean, effects.pooled_variance
        self.beta_, self.gamma_, self.delta_ = effects.beta, effects.gamma, effects.delta
        self.untouched_features_ = untouched
        self._varies = ~self._exempt & ~np.isin(self.feature_names_in_.astype(str), untouched)

    def _effects(self) -> Effects:
        return Effects(self.grand_mean_, self.pooled_variance_, self.beta_, self.gamma_, self.delta_)

    # ------------------------------------------------------------ transform

    def transform(self, X: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """Remove the batch effects that `fit` learned from X, cases x features; each row uses its own covariates.

        Rows of passed-through batches come back unchanged, rows of excluded ones as NaN; those of batches that `fit`
        never saw as `new_batch` says. What the reader must know is issued as HarmonizationWarning. Raises
        HarmonizationError for other features than the fit's, cells that can't be used, and a batch that is neither
        known nor can be adapted.
        """
        check_is_fitted(self, "gamma_")
        features, meta = self._separate(X, metadata)
        self._refuse_other_features(features)
        values = self._checked_values(features)
        status, labels = self._status(meta)
        result = np.empty(values.shape[::-1]).T  # each feature's cells side by side, as pandas keeps them
        told: list[str] = []
        moved = np.flatnonzero((status == HARMONISED) | (status == MERGED))
        if len(moved) < len(values):
            result[:] = values
            result[status == EXCLUDED] = np.nan
        if len(moved):
            place = {name: code for code, name in enumerate(self.batches_)}
            codes = np.array([place[label] for label in labels[moved]])
            self._adjust(values, moved, codes, self._encode(meta.iloc[moved], told), result)
        adapted = status == ADAPTED
        for name in sorted(set(labels[adapted])):
            own = np.flatnonzero(adapted & (labels == name))
            own = own[np.argsort(meta.index[own].astype(str), kind="stable")]
            self._adapt(values, own, self._encode(meta.iloc[own], told), name, result, told)
        for message in told:
            warnings.warn(message, HarmonizationWarning, stacklevel=2)
        return pd.DataFrame(result, index=features.index, columns=features.columns)

    def _refuse_other_features(self, features: pd.DataFrame) -> None:
        if not np.array_equal(features.columns.to_numpy(dtype=object), self.feature_names_in_):
            absent = [name for name in self.feature_names_in_ if name not in features.columns]
            more = [name for name in features.columns if name not in set(self.feature_names_in_)]
            raise HarmonizationError(
                f"the features differ from those of the fit (missing: {listed(absent) or 'none'}; new: "
                f"{listed(more) or 'none'}; "
                "the order counts as well)"
            )

    def _adjust(
        self, values: np.ndarray, rows: np.ndarray, codes: np.ndarray, covariates: np.ndarray, out: np.ndarray
    ) -> None:
        """Write rows of known batches, without their batch effects, into `out`."""
        combat_effects.adjust(values, rows, codes, covariates, self._effects(), out)

    def _adapt(
        self,
        values: np.ndarray,
        rows: np.ndarray,
        covariates: np.ndarray,
        name: str,
        out: np.ndarray,
        told: list[str],
    ) -> None:
        """The same for all rows of one unseen batch."""
        effects, _ = self._effects_of_new(values[rows], covariates, name, told)
        combat_effects.adjust(values, rows, np.zeros(len(rows), dtype=int), covariates, effects, out)

    def _effects_of_new(
        self, values: np.ndarray, covariates: np.ndarray, name: str, told: list[str]
    ) -> tuple[Effects, np.ndarray]:
        """The fit's effects with those of one unseen batch in place of the known ones', and which features they change.

        `values` are the rows of the batch. What the reader must know is added to `told`.
        """
        own = self._effects()
        mean, squares = combat_effects.batch_moments(values, covariates, own)
        largest = np.abs(values).max(axis=0) / np.sqrt(own.pooled_variance)
        flat = self._varies & (squares <= len(values) * (combat_effects.RELATIVE_SPREAD * largest) ** 2)
        varies = self._varies & ~flat
        grand_mean, variance, beta = own.grand_mean.copy(), own.pooled_variance.copy(), own.beta.copy()
        if flat.any():
            grand_mean[flat], variance[flat], beta[:, flat] = 0.0, 1.0, 0.0
            names = listed(self.feature_names_in_[flat])
            told.append(f"features that are constant in the unseen batch {name} were left as they are: {names}")
        gamma, delta = np.zeros(len(mean)), np.ones(len(mean))
        if varies.any():
            how = self._how(int(varies.sum()))
            found = combat_effects.batch_effects(mean[varies], squares[varies], len(values), **how)
            if how["eb"] and not how["mean_only"] and _ruled_by_few(found[1], squares[varies], len(values)):
                found = combat_effects.batch_effects(mean[varies], squares[varies], len(values), **{**how, "eb": False})
                told.append(
                    f"the unseen batch {name} was adapted feature by feature: a few features whose spread in it is far "
                    "from that of the fit would have ruled the priors of empirical Bayes (a transformation of the "
                    "features may help)"
                )
            gamma[varies], delta[varies] = found
            self._refuse_without_end(gamma, delta)
        few = "" if len(values) >= ADVISED_BATCH_SIZE else f", which is uncertain below {ADVISED_BATCH_SIZE}"
        told.append(f"the unseen batch {name} was adapted from its own {len(values)} cases{few}")
        return Effects(grand_mean, variance, beta, gamma[None], delta[None]), varies

    # -------------------------------------------------------------- status

    def _status(self, meta: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """What becomes of each case, and its batch, merged ones renamed; arrays of words."""
        labels = self._checked_batch(meta)
        codes, names = pd.factorize(labels.to_numpy())
        unseen = [str(name) for name in names if self._fate(str(name)) is None]
        if unseen:
            self._refuse_unseen(labels[labels.isin(unseen)])
        harmonises = bool(self._varies.any())
        new = PASSED_UNSEEN if self.new_batch == "passthrough" else ADAPTED if harmonises else NO_FEATURE
        fates = [self._fate(str(name)) or new for name in names]
        renamed = [self.merged_name_ if name in self.merged_batches_ else str(name) for name in names]
        return np.array(fates, dtype=object)[codes], np.array(renamed, dtype=object)[codes]

    def _fate(self, batch: str) -> str | None:
        """What becomes of the cases of a batch, None for one that the fit has not seen."""
        if batch in self.excluded_batches_:
            return EXCLUDED
        if batch in self.passthrough_batches_:
            return PASSED_SMALL
        if batch not in self.batches_ and batch not in self.merged_batches_:
            return None
        if not self._varies.any():
            return NO_FEATURE
        if self.identity_:
            return SINGLE_BATCH
        if batch == self.reference_batch:
            return REFERENCE
        return MERGED if batch in self.merged_batches_ else HARMONISED

    def _refuse_unseen(self, unseen: pd.Series) -> None:
        if self.new_batch not in CHOICES["new_batch"]:
            raise HarmonizationError(f"new_batch must be one of {', '.join(CHOICES['new_batch'])}")
        if self.new_batch == "error":
            raise HarmonizationError(
                f"batches that the fit has not seen: {listed(sorted(unseen.unique()))}, in "
                f"{listed(unseen.index)}. Fit again with cases of these batches, leave them out, or set "
                "harmonize.new_batch to passthrough or adapt"
            )
        if self.new_batch == "adapt":
            sizes = unseen.value_counts()
            few = sorted(f"{name} ({size})" for name, size in sizes.items() if size < self.min_batch_size)
            if few:
                raise HarmonizationError(
                    f"batches that the fit has not seen can't be adapted from fewer than {self.min_batch_size} cases: "
                    f"{listed(few)}. Collect more scans of them, leave them out, or set harmonize.new_batch to "
                    "passthrough"
                )

    def row_statuses(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """What `transform` makes of each case (index), in one column of the batch's name, in words of ROW_STATUS.

        `metadata` needs no other column than the batch. Raises HarmonizationError where `transform` would, for the
        batches of these cases.
        """
        check_is_fitted(self, "gamma_")
        if self.batch not in metadata.columns:
            raise HarmonizationError(f"there is no column {self.batch} to take the batch from")
        return pd.DataFrame({self.batch: self._status(metadata[[self.batch]])[0]}, index=metadata.index, dtype=object)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns; `input_features` is ignored, as the fit knows them."""
        check_is_fitted(self, "gamma_")
        return self.feature_names_in_

    # ----------------------------------------------------------------- JSON

    _format = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Everything that `transform` needs, as JSON-able values that give the same numbers bit for bit."""
        check_is_fitted(self, "gamma_")
        settings = self.get_params(deep=False)
        return {
            "format": self._format,
            "settings": {**settings, "covariates": list(self.covariates), "exempt": list(self.exempt)},
            "batch_columns": self.batch_columns,
            "features": [str(name) for name in self.feature_names_in_],
            "untouched_features": self.untouched_features_,
            "exempt_features": self.exempt_features_,
            "batches": self.batches_,
            "batch_sizes": self.batch_sizes_,
            "excluded_batches": self.excluded_batches_,
            "passthrough_batches": self.passthrough_batches_,
            "merged_batches": self.merged_batches_,
            "merged_name": self.merged_name_,
            "identity": self.identity_,
            "covariate_levels": self.levels_,
            "covariate_centering": {name: list(pair) for name, pair in self.centering_.items()},
            "covariate_imputed": self.imputed_,
            "covariate_n_imputed": self.n_imputed_,
            "grand_mean": self.grand_mean_.tolist(),
            "pooled_variance": self.pooled_variance_.tolist(),
            "beta": self.beta_.tolist(),
            "gamma": self.gamma_.tolist(),
            "delta": self.delta_.tolist(),
            "warnings": self.warnings_,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described."""
        if not isinstance(saved, dict) or saved.get("format") != cls._format:
            raise HarmonizationError(f"these are no ComBat parameters of the format {cls._format}")
        made = cls(**saved["settings"])
        made.feature_names_in_ = np.array(saved["features"], dtype=object)
        made.n_features_in_ = len(made.feature_names_in_)
        made.exempt_features_ = saved["exempt_features"]
        made._exempt = np.isin(made.feature_names_in_.astype(str), made.exempt_features_)
        made.batches_ = saved["batches"]
        made.batch_sizes_ = saved["batch_sizes"]
        made.excluded_batches_ = saved["excluded_batches"]
        made.passthrough_batches_ = saved["passthrough_batches"]
        made.merged_batches_ = saved["merged_batches"]
        made.merged_name_ = saved["merged_name"]
        made.identity_ = saved["identity"]
        made.levels_ = saved["covariate_levels"]
        made.centering_ = {name: (pair[0], pair[1]) for name, pair in saved["covariate_centering"].items()}
        made.imputed_ = saved["covariate_imputed"]
        made.n_imputed_ = saved["covariate_n_imputed"]
        beta = np.array(saved["beta"], dtype=np.float64).reshape(len(made._terms()), made.n_features_in_)
        gamma, delta = np.array(saved["gamma"]), np.array(saved["delta"])
        grand_mean, variance = np.array(saved["grand_mean"]), np.array(saved["pooled_variance"])
        made._set_effects(Effects(grand_mean, variance, beta, gamma, delta), saved["untouched_features"])
        made.warnings_ = saved["warnings"]
        return made


def _ruled_by_few(delta: np.ndarray, squares: np.ndarray, n: int) -> bool:
    """Whether empirical Bayes moved the variances of a batch of n cases by more than their sampling error explains.

    Shrinkage takes away sampling error: the logarithm of a variance has a standard error of about sqrt(2 / (n - 1)).
    Where the typical feature moves by MOST_ERRORS of them, the prior describes a few other features, not it.
    """
    moved = np.abs(np.log(delta / (squares / (n - 1))))
    return bool(np.median(moved) > MOST_ERRORS * np.sqrt(2 / (n - 1)))


def _text(column: pd.Series, keep_numbers: bool = False) -> pd.Series:
    """A column as text without blanks around it, NaN where it is missing or blank; numbers stay so on request."""
    if keep_numbers and pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column
    codes, different = pd.factorize(column)
    words: list[object] = [str(value).strip() or np.nan for value in different]
    texts = np.array([*words, np.nan], dtype=object)[codes]
    return pd.Series(texts, index=column.index, name=column.name, dtype=object)
