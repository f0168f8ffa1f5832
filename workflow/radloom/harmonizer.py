"""What every harmonisation has in common, so that a pipeline needn't know which one it holds.

Each is a scikit-learn estimator that learns batch effects with `fit(X, metadata=...)`, removes them with
`transform(X, metadata)`, says with `row_status(metadata)` what became of every case, and goes to JSON and back without
losing a bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin

from radloom.errors import CohortError

HARMONISED = "harmonised"
MERGED = "harmonised (merged small batches)"
PASSED_SMALL = "passed through (small batch)"
PASSED_UNSEEN = "passed through (unseen batch)"
ADAPTED = "adapted (unseen batch)"
EXCLUDED = "excluded (small batch)"
SINGLE_BATCH = "unchanged (single batch)"
REFERENCE = "unchanged (reference batch)"
NO_FEATURE = "unchanged (no feature to harmonise)"
ROW_STATUS = (
    HARMONISED,
    MERGED,
    PASSED_SMALL,
    PASSED_UNSEEN,
    ADAPTED,
    EXCLUDED,
    SINGLE_BATCH,
    REFERENCE,
    NO_FEATURE,
)
"""What `row_status` can say of a case and a batch column."""


class HarmonizationError(CohortError, ValueError):
    """Data or settings with which harmonisation would give numbers that look right and are not."""


class HarmonizationWarning(UserWarning):
    """Harmonisation went on, and the reader of its results must know how."""


class Harmonizer(ABC, TransformerMixin, BaseEstimator):
    """The contract of all harmonisations.

    Tables are cases x features, pandas, matched by their index. `metadata` holds the columns of `metadata_columns` on
    the same index in the same order; without it they are looked up in `X`. Cases of excluded batches come out as NaN.
    There is no way in for the outcome: `y` is ignored.

    Attributes
    ----------
    warnings_
        What the reader of the fit must know; the same texts are issued as `HarmonizationWarning`.
    feature_names_in_, n_features_in_
        As scikit-learn has them, without the columns of the metadata.
    """

    warnings_: list[str]
    feature_names_in_: np.ndarray
    n_features_in_: int

    @property
    @abstractmethod
    def batch_columns(self) -> list[str]:
        """The batch columns, in the order in which their effects are removed."""

    @property
    @abstractmethod
    def metadata_columns(self) -> list[str]:
        """All columns that `fit` and `transform` look up, batches first."""

    @abstractmethod
    def fit(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> Self:
        """Learn the batch effects of X. Raises HarmonizationError where the data can't carry the fit."""

    @abstractmethod
    def transform(self, X: pd.DataFrame, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """Remove the batch effects that `fit` learned. Raises HarmonizationError where it can't be done."""

    @abstractmethod
    def row_statuses(self, metadata: pd.DataFrame) -> pd.DataFrame:
        """What `transform` makes of each case (index), a column for each batch column, in words of ROW_STATUS.

        Raises HarmonizationError where `transform` would, for the batches of these cases.
        """

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Everything that `transform` needs, as JSON-able values that give the same numbers bit for bit."""

    @classmethod
    @abstractmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described. Raises HarmonizationError for anything else."""

    def fit_transform(self, X: pd.DataFrame, y: object = None, metadata: pd.DataFrame | None = None) -> pd.DataFrame:
        """`fit`, then `transform` of the same cases."""
        return self.fit(X, y, metadata).transform(X, metadata)

    def row_status(self, metadata: pd.DataFrame) -> pd.Series:
        """What `transform` makes of each case (index), in words of ROW_STATUS.

        Where there are several batch columns: the word that they share; or EXCLUDED if one of them says so; or each
        with its column, such as "centre: harmonised; kernel: unchanged (single batch)".
        """
        table = self.row_statuses(metadata)
        joined = [_joined(table.columns, words) for words in table.to_numpy(dtype=object)]
        return pd.Series(joined, index=table.index, name="status", dtype=object)

    @abstractmethod
    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the columns that `transform` returns; `input_features` is ignored, as the fit knows them."""


def _joined(columns: Sequence[str], words: Sequence[str]) -> str:
    if len(set(words)) == 1:
        return words[0]
    if EXCLUDED in words:
        return EXCLUDED
    return "; ".join(f"{column}: {word}" for column, word in zip(columns, words, strict=True))
