"""Harmonisation over several batch columns, one after the other.

Nested ComBat in a fixed order (Horng et al., Sci Rep 2022, 10.1038/s41598-022-08412-9, choose the order by the data;
here it is the configuration's, so that nothing is chosen by looking): each column's batch effects are removed from
what the column before left.

The last column's effect is gone in the end. Where columns are associated (a centre that uses mostly one kernel), taking
away the later one's effect can bring back a part of the earlier one's: the diagnostics show how much. The column that
matters most then belongs last, or the columns into one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from radloom.combat import ComBatHarmonizer
from radloom.covbat import CovBatHarmonizer
from radloom.harmonizer import EXCLUDED, HarmonizationError, HarmonizationWarning, Harmonizer

FORMAT = "radloom-nested-1"
METHODS = ("combat", "covbat")


class NestedHarmonizer(Harmonizer):
    """ComBat or CovBat over several batch columns in their order, keeping the effect of covariates.

    Parameters
    ----------
    batch
        Names of the batch columns, in the order in which their effects are removed.
    method, variance
        `combat`, or `covbat` with its share of the variance.
    covariates and all others
        As in ComBatHarmonizer, the same for every column. A reference batch there is none: the next column would
        move it. The rule for small batches holds for each column among the cases that are left.

    Attributes
    ----------
    steps_
        The fitted estimator of each column.
    """

    def __init__(
        self,
        batch: Sequence[str] = ("centre",),
        covariates: Sequence[str] = (),
        *,
        method: str = "combat",
        variance: float = 0.95,
        parametric: bool = True,
        mean_only: bool = False,
        eb: bool = True,
        min_batch_size: int = 5,
        small_batch: str = "error",
        new_batch: str = "error",
        missing_covariates: str = "error",
        exempt: Sequence[str] = (),
    ) -> None:
        self.batch = batch
        self.covariates = covariates
        self.method = method
        self.variance = variance
        self.parametric = parametric
        self.mean_only = mean_only
        self.eb = eb
        self.min_batch_size = min_batch_size
        self.small_batch = small_batch
        self.new_batch = new_batch
        self.missing_covariates = missing_covariates
        self.exempt = exempt

    @property
    def batch_columns(self) -> list[str]:
        """The batch columns, in the order in which their effects are removed."""
        return list(self.batch)

    @property
    def metadata_columns(self) -> list[str]:
        """The batch columns, then the covariates."""
        return [*self.batch, *self.covariates]

    def _step(self, batch: str) -> ComBatHarmonizer:
        options = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name not in ("batch", "covariates", "method", "variance")
        }
        if self.method == "covbat":
            return CovBatHarmonizer(batch, list(self.covariates), variance=self.variance, **options)
        return ComBatHarmonizer(batch, list(self.covariates), **options)

    def fit(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> Self:  # noqa: ARG002
        """Learn the effects of each batch column from what the one before left of X, cases x features.

        Raises HarmonizationError, with the column, where the data can't carry one of the fits.
        """
        if isinstance(self.batch, str) or not self.batch or len(set(self.batch)) < len(self.batch):
            raise HarmonizationError(f"batch must be a list of different columns, not {self.batch!r}")
        if self.method not in METHODS:
            raise HarmonizationError(f"method must be one of {', '.join(METHODS)}, not {self.method!r}")
        if both := [name for name in self.batch if name in self.covariates]:
            raise HarmonizationError(
                f"the batch {both[0]!r} can't be a covariate as well: its effect is what ComBat removes"
            )
        features, meta = self._separate(X, metadata)
        self.feature_names_in_ = np.array(features.columns, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        self.steps_: list[ComBatHarmonizer] = []
        self.warnings_ = []
        for batch in self.batch:
            step = self._step(batch)
            wanted = meta[step.metadata_columns]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", HarmonizationWarning)
                    features = step.fit(features, metadata=wanted).transform(features, wanted)
            except HarmonizationError as error:
                raise HarmonizationError(f"batch column {batch}: {error}") from None
            self.steps_.append(step)
            self.warnings_ += [f"batch column {batch}: {message}" for message in step.warnings_]
            left = (step.row_status(wanted) != EXCLUDED).to_numpy()
            features, meta = features[left], meta[left]
        for message in self.warnings_:
            warnings.warn(message, HarmonizationWarning, stacklevel=2)
        return self

    def _separate(self, X: pd.DataFrame, metadata: pd.DataFrame | None) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Features and metadata; what is wrong with their cases the first step says."""
        if not isinstance(X, pd.DataFrame):
            raise HarmonizationError("X must be a DataFrame, one row a case: ComBat matches rows by their index")
        source = X if metadata is None else metadata
        absent = [name for name in self.metadata_columns if name not in source.columns]
        if absent:
            raise HarmonizationError(
                f"there is no column {', '.join(absent)} to take the batch and the covariates from"
            )
        if metadata is None:
            return X.drop(columns=self.metadata_columns), X[self.metadata_columns]
        return X, metadata[self.metadata_columns]

    def transform(self, X: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """Remove the effects that `fit` learned from X, cases x features, one batch column after the other.

        As ComBatHarmonizer.transform; a case that one column excludes comes out as NaN.
        """
        check_is_fitted(self, "steps_")
        features, meta = self._separate(X, metadata)
        whole = features.index
        for step in self.steps_:
            wanted = meta[step.metadata_columns]
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always", HarmonizationWarning)
                    features = step.transform(features, wanted)
                left = (step.row_status(wanted) != EXCLUDED).to_numpy()
            except HarmonizationError as error:
                raise HarmonizationError(f"batch column {step.batch}: {error}") from None
            for warning in caught:
                warnings.warn(f"batch column {step.batch}: {warning.message}", HarmonizationWarning, stacklevel=2)
            features, meta = features[left], meta[left]
        return features if len(features) == len(whole) else features.reindex(whole)

    def row_statuses(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """What `transform` makes of each case (index), a column for each batch column, in words of ROW_STATUS.

        A case that one column excludes is excluded by those after it as well. Raises HarmonizationError where
        `transform` would, for the batches of these cases.
        """
        check_is_fitted(self, "steps_")
        result = pd.DataFrame(EXCLUDED, index=metadata.index, columns=self.batch_columns, dtype=object)
        left = np.ones(len(metadata), dtype=bool)
        for step in self.steps_:
            try:
                status = step.row_status(metadata[left])
            except HarmonizationError as error:
                raise HarmonizationError(f"batch column {step.batch}: {error}") from None
            result.loc[left, step.batch] = status.to_numpy()
            left[left] = (status != EXCLUDED).to_numpy()
        return result

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:  # noqa: ARG002
        """Names of the columns that `transform` returns; `input_features` is ignored, as the fit knows them."""
        check_is_fitted(self, "steps_")
        return self.feature_names_in_

    def to_json(self) -> dict[str, Any]:
        """Everything that `transform` needs: the settings, and under `steps` what each column's estimator saves."""
        check_is_fitted(self, "steps_")
        settings = self.get_params(deep=False)
        lists = {name: list(settings[name]) for name in ("batch", "covariates", "exempt")}
        return {
            "format": FORMAT,
            "settings": {**settings, **lists},
            "batch_columns": self.batch_columns,
            "batch_sizes": self.steps_[0].batch_sizes_,
            "features": [str(name) for name in self.feature_names_in_],
            "steps": [step.to_json() for step in self.steps_],
            "warnings": self.warnings_,
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described."""
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise HarmonizationError(f"these are no parameters of a nested harmonisation of the format {FORMAT}")
        made = cls(**saved["settings"])
        made.feature_names_in_ = np.array(saved["features"], dtype=object)
        made.n_features_in_ = len(made.feature_names_in_)
        kind = CovBatHarmonizer if made.method == "covbat" else ComBatHarmonizer
        made.steps_ = [kind.from_json(step) for step in saved["steps"]]
        made.warnings_ = saved["warnings"]
        return made
