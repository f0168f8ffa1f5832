"""Whether a cohort is large enough to develop a prediction model, before anything is fitted.

Criteria of Riley et al. (Stat Med 2019, 10.1002/sim.7992; BMJ 2020, 10.1136/bmj.m441), as in the package pmsampsize,
for a binary outcome and for the time to an event:

1. shrinkage: the coefficients are expected to need shrinking by no more than a tenth (factor at least 0.9);
2. optimism: the apparent R2 (Nagelkerke's) is expected to exceed the true one by no more than 0.05;
3. overall_risk: the mean risk (at the horizon, for the time to an event) is known to 0.05 either way.

They take the R2 (Cox and Snell's) that the model is expected to reach, without optimism. Where nothing is known the
papers advise 15 % of its largest possible value, and so do we. All of a model's *candidate* parameters count, also
those that a selection or a penalty leaves at 0: they had their chance to fit noise. For hundreds of features that asks
for thousands of events. A penalty softens the overfitting, but its own strength is then estimated from too few events
and varies widely (Riley et al., J Clin Epidemiol 2021, 10.1016/j.jclinepi.2020.12.005): the criteria are reported for
penalised models too, unsoftened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, exp, expm1, floor, inf, log, log1p, nan, sqrt

import pandas as pd

from radloom.errors import CohortError

SHRINKAGE = 0.9
OPTIMISM = 0.05
MARGIN = 0.05
Z = 1.96
"""The quantile as rounded in the papers and in pmsampsize."""

SHARE_OF_MAXIMUM = 0.15
"""Of the largest possible R2: what the papers advise to expect where nothing is known."""

FEWEST_EVENTS = 10
"""With fewer events (or fewer cases without, for a binary outcome) no model is fitted, with a penalty or without.

A convention, not a theorem: ten events spread over five folds leave two to choose a penalty by.
"""

BINARY, SURVIVAL = "binary", "time to event"

WHOLE_NUMBERS = ("needed_n", "needed_events", "largest_parameters")
COLUMNS = [
    "model", "outcome", "arm", "criterion", "needed_n", "needed_events", "available_n", "available_events",
    "parameters", "events_per_parameter", "r2", "largest_parameters", "met", "note",
]  # fmt: skip


@dataclass(frozen=True)
class Cohort:
    """What is there: cases and events; for the time to an event also the mean follow-up and the horizon, in its unit.

    Without `horizon` and `mean_follow_up` the outcome is binary.
    """

    n: int
    events: int
    mean_follow_up: float | None = None
    horizon: float | None = None

    @property
    def survival(self) -> bool:
        """Whether the outcome is the time to an event."""
        return self.mean_follow_up is not None

    @property
    def rate(self) -> float:
        """Events per unit of follow-up."""
        if self.mean_follow_up is None:
            raise ValueError("a binary outcome has no rate")
        return self.events / (self.n * self.mean_follow_up)


def _check(cohort: Cohort) -> None:
    if not 0 <= cohort.events <= cohort.n:
        raise CohortError(f"{cohort.events} events among {cohort.n} cases are impossible")
    if (cohort.mean_follow_up is None) != (cohort.horizon is None):
        raise CohortError("the time to an event needs both a mean follow-up and a horizon")
    if cohort.survival and not (cohort.mean_follow_up > 0 and cohort.horizon > 0):  # type: ignore[operator]
        raise CohortError("mean follow-up and horizon must be above 0")


def largest_r2(prevalence: float, survival: bool = False) -> float:
    """Largest value that Cox and Snell's R2 can take.

    `prevalence` is the fraction of cases with the event. A binary outcome: 1 - (p^p (1 - p)^(1 - p))^2. The time to an
    event: from the likelihood of an exponential model with the mean follow-up as unit, as in pmsampsize.
    """
    if not 0 < prevalence <= 1 or (prevalence == 1 and not survival):
        return nan
    if survival:
        return -expm1(2 * prevalence * (log(prevalence) - 1))
    return -expm1(2 * (prevalence * log(prevalence) + (1 - prevalence) * log1p(-prevalence)))


def needed_for_shrinkage(parameters: int, r2: float, shrinkage: float = SHRINKAGE) -> float:
    """Cases needed for an expected shrinkage factor (not rounded): p / ((S - 1) log(1 - R2 / S))."""
    if not 0 < r2 < shrinkage < 1:
        raise ValueError(f"an R2 of {r2:g} must lie between 0 and the shrinkage factor {shrinkage:g}")
    return parameters / ((shrinkage - 1) * log1p(-r2 / shrinkage))


def needed_for_optimism(parameters: int, r2: float, maximum: float, optimism: float = OPTIMISM) -> float:
    """Cases needed for an optimism of Nagelkerke's R2 (not rounded), through the shrinkage that goes with it."""
    return needed_for_shrinkage(parameters, r2, r2 / (r2 + optimism * maximum))


def needed_for_risk(cohort: Cohort, margin: float = MARGIN) -> float:
    """Cases needed to know the overall risk to a margin either way (not rounded).

    Binary: the prevalence's 95 % interval. Time to an event: the risk at the horizon under a constant rate, whose
    interval must lie within the margin on its wider, lower side.
    """
    if cohort.mean_follow_up is None or cohort.horizon is None:
        risk = cohort.events / cohort.n
        return (Z / margin) ** 2 * risk * (1 - risk)
    surviving = exp(-cohort.rate * cohort.horizon)
    slack = log1p(margin / surviving) / cohort.horizon
    return cohort.rate * (Z / slack) ** 2 / cohort.mean_follow_up


def risk_interval(cohort: Cohort) -> tuple[float, float, float]:
    """Overall risk and its 95 % interval: of a binary outcome, or at the horizon by a constant rate (as pmsampsize)."""
    if cohort.mean_follow_up is None or cohort.horizon is None:
        risk = cohort.events / cohort.n
        half = Z * sqrt(risk * (1 - risk) / cohort.n)
        return risk, max(risk - half, 0.0), min(risk + half, 1.0)
    half = Z * sqrt(cohort.rate / (cohort.n * cohort.mean_follow_up))
    low, mid, high = (-expm1(-(cohort.rate + side * half) * cohort.horizon) for side in (-1, 0, 1))
    return mid, max(low, 0.0), high


def sample_size(
    model: str,
    arms: Mapping[str, int],
    cohort: Cohort,
    r2: float | None = None,
    shrinkage: float = SHRINKAGE,
    optimism: float = OPTIMISM,
    margin: float = MARGIN,
) -> pd.DataFrame:
    """Riley's criteria for each arm of a model, given what is there.

    `arms` are the candidate parameters of each set of predictors (for features: all that enter, not those that are
    chosen). `r2` is the Cox-Snell R2 that the model is expected to reach in new cases; 15 % of its largest possible
    value if not given.

    Returns one row for each arm and criterion (shrinkage, optimism, overall_risk, and all): model, arm, criterion,
    needed_n, needed_events, available_n, available_events, parameters, events_per_parameter, r2, largest_parameters
    (that the cohort could carry by the criterion), met, note. Where a number can't be had (no events, no cases without)
    it is missing and the note says why, and `met` is False. Raises CohortError for an R2 that the outcome can't reach.
    """
    _check(cohort)
    share = cohort.events / cohort.n if cohort.n else nan
    maximum = largest_r2(share, cohort.survival) if cohort.n else nan
    guessed = r2 is None
    expected = SHARE_OF_MAXIMUM * maximum if r2 is None else r2
    rows = []
    for arm, parameters in arms.items():
        if parameters < 0:
            raise CohortError(f"arm {arm} has {parameters} candidate parameters")
        needs = _needs(cohort, parameters, expected, maximum, shrinkage, optimism, margin)
        source = (
            f"R2 {expected:.3g} assumed: {SHARE_OF_MAXIMUM:.0%} of its largest value {maximum:.3g}"
            if guessed
            else f"R2 {expected:.3g} given; its largest value is {maximum:.3g}"
        )
        for criterion, (needed, largest, note) in needs.items():
            known = needed == needed
            n = ceil(needed - 1e-9) if known else None
            uses_r2 = criterion in ("shrinkage", "optimism", "all")
            rows.append(
                {
                    "model": model,
                    "outcome": SURVIVAL if cohort.survival else BINARY,
                    "arm": arm,
                    "criterion": criterion,
                    "needed_n": n,
                    "needed_events": ceil(n * share - 1e-9) if n is not None else None,
                    "available_n": cohort.n,
                    "available_events": cohort.events,
                    "parameters": parameters,
                    "events_per_parameter": cohort.events / parameters if parameters else nan,
                    "r2": expected,
                    "largest_parameters": floor(largest + 1e-9) if known and largest < inf else None,
                    "met": bool(n is not None and cohort.n >= n),
                    "note": "; ".join(filter(None, [source if uses_r2 and known else "", note])),
                }
            )
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(WHOLE_NUMBERS, "Int64"))


def _needs(
    cohort: Cohort, parameters: int, r2: float, maximum: float, shrinkage: float, optimism: float, margin: float
) -> dict[str, tuple[float, float, str]]:
    """Cases needed, largest number of parameters, and a note, by criterion."""
    names = ("shrinkage", "optimism", "overall_risk", "all")
    if maximum != maximum:
        why = "no events" if not cohort.events else "no cases without the event"
        return dict.fromkeys(names, (nan, nan, f"{why}: nothing can be said"))
    if not 0 < r2 < maximum:
        raise CohortError(f"an R2 of {r2:g} is expected, but this outcome allows one between 0 and {maximum:.3g}")
    if r2 >= shrinkage:
        raise CohortError(f"an R2 of {r2:g} is above the shrinkage factor {shrinkage:g}: the criteria don't apply")
    first, second = needed_for_shrinkage(1, r2, shrinkage), needed_for_optimism(1, r2, maximum, optimism)
    third = needed_for_risk(cohort, margin)
    risk, low, high = risk_interval(cohort)
    at = "" if cohort.horizon is None else f" at {cohort.horizon:g}"
    enough = cohort.n >= ceil(third - 1e-9)
    found = {
        "shrinkage": (first * parameters, cohort.n / first, ""),
        "optimism": (second * parameters, cohort.n / second, ""),
        "overall_risk": (third, inf, f"risk{at} {risk:.3f} (95 % interval {low:.3f} to {high:.3f}) in this cohort"),
    }
    leading = max(found, key=lambda name: found[name][0])
    carried = min(cohort.n / first, cohort.n / second) if enough else 0.0
    found["all"] = (found[leading][0], carried, f"decided by {leading}")
    return found


@dataclass(frozen=True)
class Judgement:
    """What the numbers allow: `estimable` is False where no model can be fitted; `sentences` give the figures."""

    arm: str
    estimable: bool
    met: bool
    sentences: tuple[str, ...]


def judge(table: pd.DataFrame, penalised: Mapping[str, bool] | None = None) -> list[Judgement]:
    """Say, arm by arm of `sample_size`, what can't be estimated at all and which criteria are merely not met.

    A model can't be estimated with fewer than 10 events (or, of a binary outcome, 10 cases without), nor without a
    penalty with fewer of them than parameters + 2: then the likelihood has no maximum, or one that fits each event by
    itself. `penalised` says which arms have a penalty (none if not given). Criteria that are not met don't forbid a
    fit; they say how much of it will be noise.
    """
    judgements = []
    for arm, rows in table.groupby("arm", sort=False):
        of = rows.set_index("criterion")
        n, events, p = (int(of.iloc[0][name]) for name in ("available_n", "available_events", "parameters"))
        by_events = of.iloc[0]["outcome"] == SURVIVAL or events <= n - events
        fewer, what = (events, "events") if by_events else (n - events, "cases without the event")
        has_penalty = bool((penalised or {}).get(str(arm), False))
        sentences = []
        estimable = True
        if fewer < FEWEST_EVENTS:
            estimable = False
            sentences.append(
                f"{arm}: can't be estimated, with {fewer} {what} among {n} cases (at least {FEWEST_EVENTS})."
            )
        elif not has_penalty and fewer < p + 2:
            estimable = False
            sentences.append(
                f"{arm}: can't be estimated without a penalty, with {fewer} {what} for {p} candidate parameters "
                f"(at least {p + 2})."
            )
        met = bool(of.loc["all", "met"])
        if pd.notna(of.loc["all", "needed_n"]):
            if met:
                sentences.append(
                    f"{arm}: {n} cases and {events} events meet all criteria for {p} candidate parameters "
                    f"({int(of.loc['all', 'needed_n'])} cases needed)."
                )
            else:
                sentences += _shortfalls(str(arm), of, n, events, p)
            if has_penalty and not met:
                sentences.append(
                    f"{arm}: the penalty shrinks the coefficients of this model, but too few events leave its "
                    "strength uncertain: read the optimism-corrected performance, not the coefficients."
                )
        else:
            sentences.append(f"{arm}: {of.loc['all', 'note']}.")
        judgements.append(Judgement(str(arm), estimable, met and estimable, tuple(sentences)))
    return judgements


def _shortfalls(arm: str, of: pd.DataFrame, n: int, events: int, parameters: int) -> list[str]:
    meaning = {
        "shrinkage": "an expected shrinkage of at most a tenth",
        "optimism": "an optimism of R2 of at most 0.05",
        "overall_risk": "an overall risk known to 0.05",
    }
    sentences = []
    for criterion, goal in meaning.items():
        row = of.loc[criterion]
        if row["met"]:
            continue
        sentences.append(
            f"{arm}: criterion {criterion} not met: {goal} with {parameters} candidate parameters needs "
            f"{int(row['needed_n'])} cases and {int(row['needed_events'])} events; there are {n} and {events}"
            + (
                f", enough for {int(row['largest_parameters'])} parameter(s)."
                if pd.notna(row["largest_parameters"])
                else "."
            )
        )
    return sentences
