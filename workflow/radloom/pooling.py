"""Performance across centres: pooled by random effects, and of the worst centre.

Each centre is a study: its estimate with a standard error, both on the scale on which such estimates are about normal
(Debray et al., BMJ 2017, 10.1136/bmj.i6460): the logit for what lies between 0 and 1 (AUC, C, Brier score), the
logarithm for ratios (observed over expected), as they are for slopes and intercepts of calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit, logit

LEAST_CENTRES = 2
LEAST_FOR_PREDICTION = 3
"""The prediction interval has degrees of freedom two fewer than the centres."""

MOST_MISSING = 0.1
"""No standard error or interval from bootstrap samples of which a larger part has no estimate."""

TRANSFORMS = ("identity", "logit", "log")


def transformed(values: np.ndarray, transform: str) -> np.ndarray:
    """Values on the scale of the transform: identity, logit or log; NaN where they have none there (0 and 1, below
    0)."""
    x = np.asarray(values, dtype=np.float64)
    if transform == "identity":
        return np.where(np.isfinite(x), x, np.nan)
    if transform == "logit":
        inside = (x > 0) & (x < 1)
        return np.where(inside, logit(np.where(inside, x, 0.5)), np.nan)
    if transform == "log":
        inside = (x > 0) & np.isfinite(x)
        return np.where(inside, np.log(np.where(inside, x, 1.0)), np.nan)
    raise ValueError(f"the transform must be one of {', '.join(TRANSFORMS)}, not {transform!r}")


def back_transformed(values: np.ndarray, transform: str) -> np.ndarray:
    """The inverse of `transformed`."""
    if transform not in TRANSFORMS:
        raise ValueError(f"the transform must be one of {', '.join(TRANSFORMS)}, not {transform!r}")
    inverse = {"identity": np.asarray, "logit": expit, "log": np.exp}[transform]
    return np.asarray(inverse(np.asarray(values, dtype=np.float64)))


def delta_error(estimates: np.ndarray, standard_errors: np.ndarray, transform: str) -> np.ndarray:
    """Standard errors on the scale of the transform from those of the estimates themselves (delta method)."""
    x, se = np.asarray(estimates, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    there = np.isfinite(transformed(x, transform))
    slope = {"identity": np.ones_like(x), "logit": x * (1 - x), "log": x}[transform]
    return np.divide(se, slope, out=np.full(x.shape, np.nan), where=there)


def bootstrap_error(samples: np.ndarray, transform: str) -> np.ndarray:
    """Standard error of each column of bootstrap estimates, samples x centres, on the scale of the transform.

    NaN where more than a tenth of the samples has no value there.
    """
    values = transformed(np.atleast_2d(np.asarray(samples, dtype=np.float64).T).T, transform)
    found = np.full(values.shape[1], np.nan)
    for column, drawn in enumerate(values.T):
        good = drawn[np.isfinite(drawn)]
        if len(good) >= 2 and len(good) >= (1 - MOST_MISSING) * len(drawn):
            found[column] = good.std(ddof=1)
    return found


@dataclass(frozen=True)
class Pooled:
    """A random-effects meta-analysis; estimate and ends are on the original scale, `se` and `tau2` on the transform's.

    `refusal` says why there is no estimate, `notes` which centres were left out and why, and why an interval is
    missing.
    """

    estimate: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    prediction_low: float = float("nan")
    prediction_high: float = float("nan")
    se: float = float("nan")
    tau2: float = float("nan")
    i2: float = float("nan")
    q: float = float("nan")
    q_p: float = float("nan")
    n_centres: int = 0
    refusal: str = ""
    notes: list[str] = field(default_factory=list)


def dersimonian_laird(effects: np.ndarray, variances: np.ndarray) -> float:
    """Moment estimate of the variance between studies (DerSimonian & Laird, Control Clin Trials 1986).

    10.1016/0197-2456(86)90046-2.
    """
    weight = 1 / variances
    mean = weight @ effects / weight.sum()
    excess = weight @ (effects - mean) ** 2 - (len(effects) - 1)
    return float(max(0.0, excess / (weight.sum() - (weight**2).sum() / weight.sum())))


def restricted_log_likelihood(tau2: float, effects: np.ndarray, variances: np.ndarray) -> float:
    """Restricted log-likelihood of the variance between studies, less its constant."""
    weight = 1 / (variances + tau2)
    mean = weight @ effects / weight.sum()
    return float(0.5 * (np.log(weight).sum() - np.log(weight.sum()) - weight @ (effects - mean) ** 2))


def _restricted_score(tau2: float, effects: np.ndarray, variances: np.ndarray) -> float:
    """Derivative of `restricted_log_likelihood`."""
    weight = 1 / (variances + tau2)
    mean = weight @ effects / weight.sum()
    squares = weight**2
    return float(0.5 * (squares @ (effects - mean) ** 2 - weight.sum() + squares.sum() / weight.sum()))


def restricted_maximum_likelihood(effects: np.ndarray, variances: np.ndarray) -> float:
    """REML estimate of the variance between studies (Viechtbauer, J Educ Behav Stat 2005, 10.3102/10769986030003261).

    The likelihood may have more than one maximum: the best point of a grid is refined.
    """
    scale = max(float(np.var(effects)), float(variances.min()))
    grid = np.r_[0.0, scale * np.geomspace(1e-6, 1e3, 400)]
    best = int(np.argmax([restricted_log_likelihood(tau2, effects, variances) for tau2 in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    at_low, at_high = (_restricted_score(tau2, effects, variances) for tau2 in (low, high))
    if at_low <= 0:
        return float(low)
    if at_high >= 0:
        return float(high)
    root = brentq(_restricted_score, low, high, args=(effects, variances), xtol=1e-14 * max(1.0, high), rtol=1e-14)
    return float(root)


def pool(
    estimates: Sequence[float] | np.ndarray,
    standard_errors: Sequence[float] | np.ndarray,
    transform: str = "identity",
    *,
    method: str = "REML",
    modified: bool = True,
    level: float = 0.95,
    names: Sequence[str] | None = None,
) -> Pooled:
    """Random-effects meta-analysis of the estimates of centres.

    `estimates` are on the original scale, `standard_errors` on that of the transform (`bootstrap_error`,
    `delta_error`). The variance between centres is estimated by `REML` or `DL`. The interval is that of Hartung & Knapp
    (Stat Med 2001, 10.1002/sim.1009) with Student's t; `modified`, it is never narrower than the same t interval
    without their factor, as happens by chance where few centres agree too well (Röver et al., BMC Med Res Methodol
    2015, 10.1186/s12874-015-0091-1). The prediction interval, for a new centre, has t of centres - 2 degrees of freedom
    (Higgins et al., J R Stat Soc A 2009, 10.1111/j.1467-985X.2008.00552.x). I2 is the share of tau2 in the variance of
    a typical centre (Higgins & Thompson, Stat Med 2002, 10.1002/sim.1186), in percent.

    A centre without an estimate on that scale (an AUC of 1, say) or without a standard error is left out, by name in
    `notes`; with fewer than two left nothing is estimable, and `refusal` says so.
    """
    if method not in ("REML", "DL"):
        raise ValueError(f"the method must be REML or DL, not {method!r}")
    raw, given = np.asarray(estimates, dtype=np.float64), np.asarray(standard_errors, dtype=np.float64)
    if raw.shape != given.shape or raw.ndim != 1:
        raise ValueError(f"{raw.shape} estimates, but {given.shape} standard errors")
    labels = [str(number + 1) for number in range(len(raw))] if names is None else [str(name) for name in names]
    if len(labels) != len(raw):
        raise ValueError(f"{len(labels)} names for {len(raw)} centres")
    effects = transformed(raw, transform)
    usable = np.isfinite(effects) & np.isfinite(given) & (given > 0)
    notes = []
    for label, value, effect, error in zip(labels, raw, effects, given, strict=True):
        if np.isnan(value):
            notes.append(f"{label}: no estimate")
        elif np.isnan(effect):
            notes.append(f"{label}: the estimate {value:.3g} has no {transform}")
        elif not (np.isfinite(error) and error > 0):
            notes.append(f"{label}: no standard error")
    k = int(usable.sum())
    if k < LEAST_CENTRES:
        refusal = f"{k} of {len(raw)} centres have an estimate with a standard error, {LEAST_CENTRES} needed"
        return Pooled(n_centres=k, refusal=refusal, notes=notes)
    y, v = effects[usable], given[usable] ** 2
    tau2 = restricted_maximum_likelihood(y, v) if method == "REML" else dersimonian_laird(y, v)
    weight = 1 / (v + tau2)
    mean = float(weight @ y / weight.sum())
    factor = float(weight @ (y - mean) ** 2 / (k - 1))
    se = float(np.sqrt((max(factor, 1.0) if modified else factor) / weight.sum()))
    fixed = 1 / v
    q = float(fixed @ (y - fixed @ y / fixed.sum()) ** 2)
    # sum(w)^2 - sum(w^2), without the loss of digits that makes it 0 where one centre outweighs all others.
    products = 2 * float((fixed * (np.cumsum(fixed) - fixed)).sum())
    typical = (k - 1) * fixed.sum() / products
    half = float(stats.t.ppf(0.5 + level / 2, k - 1)) * se
    ends = [mean - half, mean + half]
    if k >= LEAST_FOR_PREDICTION:
        wide = float(stats.t.ppf(0.5 + level / 2, k - 2)) * float(np.sqrt(tau2 + se**2))
        ends += [mean - wide, mean + wide]
    else:
        ends += [float("nan")] * 2
        notes.append(f"no prediction interval: {k} centres, {LEAST_FOR_PREDICTION} needed")
    estimate, low, high, new_low, new_high = back_transformed(np.array([mean, *ends]), transform).tolist()
    return Pooled(
        estimate=estimate,
        ci_low=low,
        ci_high=high,
        prediction_low=new_low,
        prediction_high=new_high,
        se=se,
        tau2=tau2,
        i2=100 * tau2 / (tau2 + typical),
        q=q,
        q_p=float(stats.chi2.sf(q, k - 1)),
        n_centres=k,
        notes=notes,
    )


# --------------------------------------------------------------------- the worst centre


@dataclass(frozen=True)
class Worst:
    """The worst centre, with a bootstrap interval of the worst centre's estimate.

    `share` is the fraction of the bootstrap samples in which this centre is the worst one: near 1 the worst centre is
    known, near 1 / n_centres any may be it.
    """

    name: str = ""
    estimate: float = float("nan")
    ci_low: float = float("nan")
    ci_high: float = float("nan")
    share: float = float("nan")
    n_centres: int = 0
    refusal: str = ""
    notes: list[str] = field(default_factory=list)


def worst_of(
    names: Sequence[str],
    estimates: Sequence[float] | np.ndarray,
    samples: np.ndarray,
    *,
    worst: str = "lowest",
    ideal: float | None = None,
    level: float = 0.95,
) -> Worst:
    """The centre with the worst estimate, and the percentile interval of the worst estimate over bootstrap samples.

    `samples` are bootstrap estimates, samples x centres, of one and the same resampling. `worst` is the `lowest` (AUC,
    C), the `highest` (Brier score) or the `farthest` from the `ideal` (1 for slopes, 0 for intercepts; for ratios give
    logarithms). In each sample the worst of all centres is taken, whichever it is; a sample in which a centre with an
    estimate has none doesn't count, and with more than a tenth of such samples there is no interval.

    The worst of several noisy estimates is worse than the worst centre really is, and that of the bootstrap samples,
    which are noisier, is worse again: the interval lies too far on the bad side, the more so the smaller and the more
    alike the centres are. It is a bound for caution, not an unbiased estimate.
    """
    if worst not in ("lowest", "highest", "farthest"):
        raise ValueError(f"the worst is the lowest, the highest or the farthest, not {worst!r}")
    if (worst == "farthest") != (ideal is not None):
        raise ValueError("an ideal value belongs to the farthest centre, and only to it")
    values, drawn = np.asarray(estimates, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if drawn.ndim != 2 or drawn.shape[1] != len(values) or len(names) != len(values):
        raise ValueError(f"{len(names)} names and {len(values)} estimates, but samples of shape {drawn.shape}")
    there = np.flatnonzero(np.isfinite(values))
    notes = [f"{name}: no estimate" for name, value in zip(names, values, strict=True) if not np.isfinite(value)]
    if len(there) < LEAST_CENTRES:
        refusal = f"{len(there)} of {len(values)} centres have an estimate, {LEAST_CENTRES} needed"
        return Worst(n_centres=len(there), refusal=refusal, notes=notes)

    def badness(table: np.ndarray) -> np.ndarray:
        if worst == "lowest":
            return -table
        return table if worst == "highest" else np.abs(table - (ideal or 0.0))

    place = int(there[np.argmax(badness(values[there]))])
    whole = drawn[np.isfinite(drawn[:, there]).all(axis=1)][:, there]
    low = high = fraction = float("nan")
    if len(whole) and len(whole) >= (1 - MOST_MISSING) * len(drawn):
        columns = np.argmax(badness(whole), axis=1)
        found = whole[np.arange(len(whole)), columns]
        low, high = (float(end) for end in np.quantile(found, [0.5 - level / 2, 0.5 + level / 2]))
        fraction = float((there[columns] == place).mean())
    else:
        lost = len(drawn) - len(whole)
        notes.append(f"no interval: {lost} of {len(drawn)} bootstrap samples lack a centre's estimate")
    return Worst(str(names[place]), float(values[place]), low, high, fraction, len(there), "", notes)
