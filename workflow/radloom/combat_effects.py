"""The numbers of ComBat: least squares, priors and empirical Bayes, from a table's sums.

Model (Johnson, Li & Rabinovic, Biostatistics 2007, 10.1093/biostatistics/kxj037): the value of feature f of case i in
batch b is y = alpha_f + C_i beta_f + gamma_bf + delta_bf * epsilon. Once least squares has given every batch its
intercept, all that the empirical Bayes needs of a feature is, for each batch, that intercept and the sum of squared
residuals: the standardised values themselves are never looked at again. That makes a fit one pass over the table, where
neuroCombat inverts the design's matrix once for each feature and forms the standardised table in every iteration. The
formulas of the priors and of the posterior are neuroCombat's own, called from there.

The non-parametric empirical Bayes is summed in logarithms: neuroCombat (as `sva`) multiplies likelihoods, which
underflows to 0/0 in a batch of some 500 cases or more.

Sums go over a batch's cases in one order (by name), and without BLAS: neither the order of the rows nor the number of
threads changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from neuroCombat.neuroCombat import aprior, bprior, postmean, postvar

BLOCK = 1 << 17
"""Numbers that are worked on at a time: they stay in the processor's cache."""

RELATIVE_SPREAD = 1e-12
"""A feature whose spread is below this share of its largest value is constant: what is left is rounding."""

CONVERGENCE = 1e-4
"""Relative change at which the iteration of the parametric empirical Bayes ends, as in `sva` and neuroCombat."""

MOST_ITERATIONS = 10_000


@dataclass(frozen=True)
class LeastSquares:
    """Least-squares fit of batches and covariates to every feature.

    `intercept` and `squares` (sum of squared residuals) are batches x features, `beta` covariate columns x features;
    `constant` marks features without spread in some batch.
    """

    intercept: np.ndarray
    squares: np.ndarray
    beta: np.ndarray
    constant: np.ndarray


@dataclass(frozen=True)
class Effects:
    """ComBat's estimates, names as in the model: level, variance and `beta` by feature, the batches' `gamma`, `delta`.

    `delta` is the square of the model's, a variance relative to `pooled_variance`.
    """

    grand_mean: np.ndarray
    pooled_variance: np.ndarray
    beta: np.ndarray
    gamma: np.ndarray
    delta: np.ndarray


def feature_blocks(n_rows: int, n_features: int) -> Iterator[slice]:
    """Slices of features whose rows make about BLOCK numbers."""
    width = max(1, BLOCK // max(n_rows, 1))
    for start in range(0, n_features, width):
        yield slice(start, min(start + width, n_features))


def least_squares(
    values: np.ndarray, rows_of: Sequence[np.ndarray], covariates: np.ndarray, n_batch: int
) -> LeastSquares:
    """Fit batches and covariates to all features.

    `values` is cases x features, `rows_of` the rows of each batch, `covariates` cases x columns, of which together
    with the batches none is a combination of others. The covariates' effect is found within the batches (Frisch and
    Waugh, Econometrica 1933, 10.2307/1907330), which keeps features of large mean and small spread exact.
    """
    n_features, n_columns = values.shape[1], covariates.shape[1]
    order = np.concatenate(rows_of)
    ends = np.cumsum([len(rows) for rows in rows_of])
    batches = [slice(end - len(rows), end) for end, rows in zip(ends, rows_of, strict=True)]
    design = covariates[order]
    centres = np.array([design[part].mean(axis=0) for part in batches]).reshape(n_batch, n_columns)
    for batch, part in enumerate(batches):
        design[part] -= centres[batch]
    q, r = np.linalg.qr(design) if n_columns else (design, np.empty((0, 0)))
    columns = np.ascontiguousarray(q.T)
    within = np.ascontiguousarray(design.T)

    intercept = np.empty((n_batch, n_features))
    squares = np.empty((n_batch, n_features))
    beta = np.zeros((n_columns, n_features))
    constant = np.zeros(n_features, dtype=bool)
    for part in feature_blocks(len(order), n_features):
        block = np.take(values[:, part].T, order, axis=1)
        largest = np.abs(block).max(axis=1)
        for batch, inside in enumerate(batches):
            some = block[:, inside]
            mean = some.mean(axis=1)
            constant[part] |= some.max(axis=1) - some.min(axis=1) <= RELATIVE_SPREAD * largest
            some -= mean[:, None]
            intercept[batch, part] = mean
        if n_columns:
            projected = np.array([np.einsum("fn,n->f", block, column) for column in columns])
            own = np.linalg.solve(r, projected)
            for effect, column in zip(own, within, strict=True):
                block -= effect[:, None] * column
            beta[:, part] = own
            intercept[:, part] -= _product(centres, own)
        for batch, inside in enumerate(batches):
            some = block[:, inside]
            squares[batch, part] = np.einsum("fn,fn->f", some, some)
            # A feature that the covariates explain without rest has residuals, too: those of rounding.
            constant[part] |= squares[batch, part] <= some.shape[1] * (RELATIVE_SPREAD * largest) ** 2
    return LeastSquares(intercept, squares, beta, constant)


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Matrix product of few columns with few rows, in an order of summation that no thread changes."""
    result = np.zeros((left.shape[0], right.shape[1]))
    for column in range(left.shape[1]):
        result += left[:, column, None] * right[column]
    return result


def estimate(
    fit: LeastSquares,
    sizes: np.ndarray,
    *,
    reference: int | None,
    eb: bool,
    parametric: bool,
    mean_only: bool,
) -> Effects:
    """ComBat's estimates from a least-squares fit without constant features, and the cases of each batch."""
    total = int(sizes.sum())
    if reference is None:
        grand_mean = (fit.intercept * (sizes / total)[:, None]).sum(axis=0)
        variance = fit.squares.sum(axis=0) / total
    else:
        grand_mean = fit.intercept[reference].copy()
        variance = fit.squares[reference] / sizes[reference]
    gamma_hat = (fit.intercept - grand_mean) / np.sqrt(variance)
    gamma, delta = np.zeros_like(gamma_hat), np.ones_like(gamma_hat)
    for batch, size in enumerate(sizes):
        if batch != reference:
            gamma[batch], delta[batch] = batch_effects(
                gamma_hat[batch],
                fit.squares[batch] / variance,
                int(size),
                eb=eb,
                parametric=parametric,
                mean_only=mean_only,
            )
    return Effects(grand_mean, variance, fit.beta, gamma, delta)


def batch_effects(
    gamma_hat: np.ndarray, squares: np.ndarray, n: int, *, eb: bool, parametric: bool, mean_only: bool
) -> tuple[np.ndarray, np.ndarray]:
    """gamma and delta (a variance) of every feature of one batch of n cases.

    `gamma_hat` is the mean of the standardised values, `squares` the sum of their squared distances from it. Without
    empirical Bayes (`eb`) these are the result, with delta = squares / (n - 1), or 1 if `mean_only`.
    """
    delta_hat = np.ones_like(gamma_hat) if mean_only else squares / (n - 1)
    if not eb:
        return gamma_hat, delta_hat
    with np.errstate(all="ignore"):  # priors of features that are alike are not finite; the caller looks
        if not parametric:
            return non_parametric(gamma_hat, delta_hat, squares, n)
        centre, spread = gamma_hat.mean(), np.var(gamma_hat, ddof=1)
        if mean_only:
            return postmean(gamma_hat, centre, 1, 1, spread), delta_hat
        return _parametric(gamma_hat, delta_hat, squares, n, centre, spread)


def _parametric(
    gamma_hat: np.ndarray, delta_hat: np.ndarray, squares: np.ndarray, n: int, centre: float, spread: float
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means by iteration (`it.sol` of R's sva), all features until the slowest has settled."""
    a, b = aprior(delta_hat), bprior(delta_hat)
    gamma, delta = gamma_hat, delta_hat
    for _ in range(MOST_ITERATIONS):
        new_gamma = postmean(gamma_hat, centre, n, delta, spread)
        new_delta = postvar(squares + n * (gamma_hat - new_gamma) ** 2, n, a, b)
        # Signed, as sva has it: a change relative to a negative gamma never counts. A gamma of 0 that stays is none.
        change = max(
            np.fmax.reduce(np.abs(new_gamma - gamma) / gamma), np.fmax.reduce(np.abs(new_delta - delta) / delta)
        )
        gamma, delta = new_gamma, new_delta
        if not change > CONVERGENCE:
            return gamma, delta
    return np.full_like(gamma, np.nan), delta


def non_parametric(
    gamma_hat: np.ndarray, delta_hat: np.ndarray, squares: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Non-parametric empirical Bayes (as `int.eprior` of R's sva); arguments as in `batch_effects`.

    A feature's posterior mean is the mean of all other features' estimates, weighted by the likelihood that they give
    to its values. Likelihoods are compared as logarithms.
    """
    n_features = len(gamma_hat)
    gamma, delta = np.empty(n_features), np.empty(n_features)
    constant = -0.5 * n * np.log(2 * np.pi * delta_hat)
    for part in feature_blocks(n_features, n_features):
        away = squares[part, None] + n * (gamma_hat[part, None] - gamma_hat) ** 2
        log_likelihood = constant - away / (2 * delta_hat)
        own = np.arange(part.start, part.stop)
        log_likelihood[own - part.start, own] = -np.inf
        weight = np.exp(log_likelihood - log_likelihood.max(axis=1, keepdims=True))
        total = weight.sum(axis=1)
        gamma[part] = np.einsum("fg,g->f", weight, gamma_hat) / total
        delta[part] = np.einsum("fg,g->f", weight, delta_hat) / total
    return gamma, delta


def levels(effects: Effects, covariates: np.ndarray, part: slice) -> np.ndarray:
    """alpha + C beta of some features, features x cases."""
    result = np.repeat(effects.grand_mean[part, None], len(covariates), axis=1)
    for effect, column in zip(effects.beta, covariates.T, strict=True):
        result += effect[part, None] * column
    return result


def adjust(
    values: np.ndarray, rows: np.ndarray, codes: np.ndarray, covariates: np.ndarray, effects: Effects, out: np.ndarray
) -> None:
    """Write some rows of `values`, cases x features, without their batch effects into the same rows of `out`.

    `codes` is the batch of each of these rows, `covariates` rows x columns. A case's result depends on that case alone,
    to the last bit; a feature of level 0, variance 1, gamma 0 and delta 1 comes out as it is.
    """
    spread = np.sqrt(effects.pooled_variance)
    everything = np.array_equal(rows, np.arange(len(values)))  # then nothing need be picked out
    for part in feature_blocks(len(rows), values.shape[1]):
        block = np.array(values[:, part].T, order="C") if everything else np.take(values[:, part].T, rows, axis=1)
        level = levels(effects, covariates, part)
        shift = np.ascontiguousarray((effects.gamma[:, part] * spread[part]).T)
        scale = np.ascontiguousarray((1.0 / np.sqrt(effects.delta[:, part])).T)
        block -= level
        block -= np.take(shift, codes, axis=1)
        block *= np.take(scale, codes, axis=1)
        block += level
        if everything:
            out[:, part] = block.T
        else:
            out[rows, part] = block.T


def batch_moments(values: np.ndarray, covariates: np.ndarray, effects: Effects) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the standardised values of one batch, and the sum of squared distances from it, of every feature."""
    mean, squares = np.empty(values.shape[1]), np.empty(values.shape[1])
    spread = np.sqrt(effects.pooled_variance)
    for part in feature_blocks(*values.shape):
        block = (np.ascontiguousarray(values[:, part].T) - levels(effects, covariates, part)) / spread[part, None]
        mean[part] = block.mean(axis=1)
        block -= mean[part, None]
        squares[part] = np.einsum("fn,fn->f", block, block)
    return mean, squares
