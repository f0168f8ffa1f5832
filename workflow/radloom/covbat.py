"""CovBat: ComBat, and thereafter the batches' correlations between features.

Chen et al., Hum Brain Mapp 2022, 10.1002/hbm.25688. The residuals that ComBat leaves are standardised, as the authors'
package does (`std.var`), and projected on their principal components. The scores of those components that together
hold a share of the variance get each batch's mean and variance removed, without empirical Bayes and without
covariates, and are put back. What the other components hold stays as ComBat left it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from threadpoolctl import threadpool_limits

from radloom import combat_effects
from radloom.combat import ComBatHarmonizer
from radloom.combat_effects import Effects, LeastSquares
from radloom.harmonizer import HarmonizationError

FORMAT = "radloom-covbat-1"

RELATIVE_VARIANCE = 1e-12
"""A component of less variance than this share of the first one's is rounding."""


class CovBatHarmonizer(ComBatHarmonizer):
    """CovBat over the batches of one column, keeping the effect of covariates.

    All parameters and attributes but these are those of ComBatHarmonizer; of an unseen batch that is adapted the mean
    and the variance of the scores are its own as well. A row's result can differ in the last bits with the rows that
    come with it, as a matrix product does.

    Parameters
    ----------
    variance
        Share of the variance of the residuals that the harmonised principal components hold, above 0, at most 1.

    Attributes
    ----------
    n_components_
        How many components are harmonised.
    """

    def __init__(
        self,
        batch: str = "centre",
        covariates: Sequence[str] = (),
        *,
        variance: float = 0.95,
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
        super().__init__(
            batch,
            covariates,
            parametric=parametric,
            mean_only=mean_only,
            eb=eb,
            reference_batch=reference_batch,
            min_batch_size=min_batch_size,
            small_batch=small_batch,
            new_batch=new_batch,
            missing_covariates=missing_covariates,
            exempt=exempt,
        )
        self.variance = variance

    def _check_settings(self) -> None:
        super()._check_settings()
        if not 0 < self.variance <= 1:
            raise HarmonizationError(f"the share of the variance must be above 0 and at most 1, not {self.variance}")
        if self.mean_only:
            raise HarmonizationError(
                "CovBat adjusts variances, so it can't be mean_only. Set harmonize.method to combat, or "
                "harmonize.mean_only to false"
            )

    # ------------------------------------------------------------------ fit

    def _learn_effects(self, values: np.ndarray, rows: np.ndarray, codes: np.ndarray, covariates: np.ndarray) -> None:
        super()._learn_effects(values, rows, codes, covariates)
        n_features = int(self._varies.sum())
        self.centre_, self.scale_ = np.zeros(n_features), np.ones(n_features)
        self.loadings_ = np.empty((n_features, 0))
        self._scores = Effects(np.empty(0), np.empty(0), np.empty((0, 0)), np.empty((0, 0)), np.empty((0, 0)))
        if n_features == 0:
            return
        harmonised = np.empty(values.shape[::-1]).T
        super()._adjust(values, rows, codes, covariates, harmonised)
        residuals = self._residuals(harmonised[rows], covariates)
        self.centre_, self.scale_ = residuals.mean(axis=0), residuals.std(axis=0, ddof=1)
        with threadpool_limits(limits=1):
            self.loadings_ = principal_axes((residuals - self.centre_) / self.scale_, self.variance)
            scores = self._project(residuals)
        self._scores = self._score_effects(scores, codes)

    def _residuals(self, harmonised: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        """What is left of ComBat's result without level and covariates, in units of the pooled spread.

        Cases x features that vary.
        """
        result = np.empty((harmonised.shape[1], len(harmonised)))
        spread = np.sqrt(self.pooled_variance_)
        for part in combat_effects.feature_blocks(*harmonised.shape):
            level = combat_effects.levels(self._effects(), covariates, part)
            result[part] = (harmonised[:, part].T - level) / spread[part, None]
        return np.ascontiguousarray(result[self._varies].T)

    def _project(self, residuals: np.ndarray) -> np.ndarray:
        """Scores of the harmonised components, cases x components."""
        return np.asarray(((residuals - self.centre_) / self.scale_) @ self.loadings_)

    def _score_effects(self, scores: np.ndarray, codes: np.ndarray) -> Effects:
        """Mean and variance of the scores of each batch, without empirical Bayes."""
        n_batch = len(self.batches_)
        rows_of = [np.flatnonzero(codes == batch) for batch in range(n_batch)]
        fit = combat_effects.least_squares(scores, rows_of, np.empty((len(scores), 0)), n_batch)
        # A score without spread in some batch can't be given one.
        safe = LeastSquares(fit.intercept, np.where(fit.constant, 1.0, fit.squares), fit.beta, fit.constant)
        reference = None if self.reference_batch is None else self.batches_.index(self.reference_batch)
        learned = combat_effects.estimate(
            safe,
            np.array([len(own) for own in rows_of]),
            reference=0 if self.identity_ else reference,
            eb=False,
            parametric=True,
            mean_only=False,
        )
        learned.delta[:, fit.constant] = 1.0
        return learned

    # ------------------------------------------------------------ transform

    def _adjust(
        self, values: np.ndarray, rows: np.ndarray, codes: np.ndarray, covariates: np.ndarray, out: np.ndarray
    ) -> None:
        super()._adjust(values, rows, codes, covariates, out)
        residuals = self._residuals(out[rows], covariates)
        with threadpool_limits(limits=1):
            scores = self._project(residuals)
            self._put_back(scores, self._moved(scores, codes, self._scores), rows, np.ones(residuals.shape[1]), out)

    def _adapt(
        self,
        values: np.ndarray,
        rows: np.ndarray,
        covariates: np.ndarray,
        name: str,
        out: np.ndarray,
        told: list[str],
    ) -> None:
        effects, changed = self._effects_of_new(values[rows], covariates, name, told)
        codes = np.zeros(len(rows), dtype=int)
        combat_effects.adjust(values, rows, codes, covariates, effects, out)
        residuals = self._residuals(out[rows], covariates)
        own = changed[self._varies]
        residuals[:, ~own] = self.centre_[~own]  # features that are constant in this batch take no part
        with threadpool_limits(limits=1):
            scores = self._project(residuals)
            mean, squares = combat_effects.batch_moments(scores, np.empty((len(rows), 0)), self._scores)
            flat = squares <= len(rows) * combat_effects.RELATIVE_SPREAD**2
            delta = np.where(flat, 1.0, squares / (len(rows) - 1))
            known = self._scores
            of_new = Effects(known.grand_mean, known.pooled_variance, known.beta, mean[None], delta[None])
            self._put_back(scores, self._moved(scores, codes, of_new), rows, own.astype(np.float64), out)

    @staticmethod
    def _moved(scores: np.ndarray, codes: np.ndarray, effects: Effects) -> np.ndarray:
        """Scores without the batches' means and variances."""
        moved = np.empty_like(scores)
        none = np.empty((len(scores), 0))
        combat_effects.adjust(scores, np.arange(len(scores)), codes, none, effects, moved)
        return moved

    def _put_back(
        self, scores: np.ndarray, moved: np.ndarray, rows: np.ndarray, weight: np.ndarray, out: np.ndarray
    ) -> None:
        """Add to some rows of `out` what the change of the scores means for each feature that varies."""
        unit = weight * self.scale_ * np.sqrt(self.pooled_variance_[self._varies])
        change = ((moved - scores) @ self.loadings_.T) * unit
        columns = np.flatnonzero(self._varies)
        out[np.ix_(rows, columns)] += change

    @property
    def n_components_(self) -> int:
        """How many components are harmonised."""
        return int(self.loadings_.shape[1])

    # ----------------------------------------------------------------- JSON

    _format = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Everything that `transform` needs, as JSON-able values that give the same numbers bit for bit."""
        return {
            **super().to_json(),
            "score_centre": self.centre_.tolist(),
            "score_scale": self.scale_.tolist(),
            "loadings": self.loadings_.T.tolist(),
            "score_grand_mean": self._scores.grand_mean.tolist(),
            "score_pooled_variance": self._scores.pooled_variance.tolist(),
            "score_gamma": self._scores.gamma.tolist(),
            "score_delta": self._scores.delta.tolist(),
        }

    @classmethod
    def from_json(cls, saved: dict[str, Any]) -> Self:
        """The estimator that `to_json` described."""
        made = super().from_json(saved)
        made.centre_, made.scale_ = np.array(saved["score_centre"]), np.array(saved["score_scale"])
        n_components = len(saved["loadings"])
        loadings = np.array(saved["loadings"], dtype=np.float64).reshape(n_components, len(made.centre_))
        made.loadings_ = np.ascontiguousarray(loadings.T)
        made._scores = Effects(
            np.array(saved["score_grand_mean"]),
            np.array(saved["score_pooled_variance"]),
            np.empty((0, n_components)),
            np.array(saved["score_gamma"]).reshape(-1, n_components),
            np.array(saved["score_delta"]).reshape(-1, n_components),
        )
        return made


def principal_axes(table: np.ndarray, share: float) -> np.ndarray:
    """Axes of the principal components that together hold a share of the variance, features x components.

    `table` is cases x features, centred. The fewest components that reach the share are taken; those whose variance is
    rounding never are.
    """
    wide = len(table) < table.shape[1]
    squares, axes = np.linalg.eigh(table @ table.T if wide else table.T @ table)
    squares, axes = squares[::-1], axes[:, ::-1]
    real = squares > RELATIVE_VARIANCE * squares[0]
    reached = np.cumsum(squares[real]) / squares[real].sum() >= share - RELATIVE_VARIANCE
    count = int(np.argmax(reached)) + 1
    if wide:
        axes = (table.T @ axes[:, :count]) / np.sqrt(squares[:count])
    return np.ascontiguousarray(axes[:, :count])
