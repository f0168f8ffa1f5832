"""Sample size against the worked examples of Riley's papers and of pmsampsize, and against closed forms."""

from math import ceil, exp, log

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from radloom.errors import CohortError
from radloom.sample_size import (
    Cohort,
    judge,
    largest_r2,
    needed_for_optimism,
    needed_for_risk,
    needed_for_shrinkage,
    risk_interval,
    sample_size,
)

# Cases by criterion and events per parameter that pmsampsize 1.1.3 (R) gives, in its own tests and its help page.
BINARY = [
    # r2, parameters, prevalence, shrinkage, optimism, overall risk, events per parameter of the largest
    (0.288, 24, 0.174, 623, 662, 221, 4.80),
    (0.55, 24, 0.174, 255, 532, 221, 3.86),
    (0.288, 36, 0.174, 934, 992, 221, 4.79),
    (0.288, 24, 0.25, 623, 590, 289, 6.49),
]
SURVIVAL = [
    # r2, parameters, rate, mean follow-up, shrinkage, optimism, events per parameter of the largest
    (0.051, 25, 0.065, 2.07, 4286, 866, 23.07),
    (0.065, 25, 0.065, 2.07, 3335, 859, 17.95),
    (0.051, 50, 0.065, 2.07, 8572, 1731, 23.07),
    (0.051, 25, 0.1, 2.07, 4286, 731, 35.49),
    (0.051, 25, 0.065, 4.0, 4286, 679, 44.57),
    (0.06, 40, 0.08, 5.0, 5798, 969, 57.98),
    (0.03, 10, 0.09, 3.0, 2950, 272, 79.65),
    (0.3, 80, 0.03, 5.0, 1974, 2272, 4.26),
]


@pytest.mark.parametrize("case", BINARY)
def test_binary_examples_equal_pmsampsize(case: tuple[float, ...]) -> None:
    r2, parameters, prevalence, first, second, third, per_parameter = case
    events = round(1000 * prevalence)
    table = sample_size("logistic", {"a": int(parameters)}, Cohort(1000, events), r2=r2).set_index("criterion")
    assert list(table["needed_n"]) == [first, second, third, max(first, second, third)]
    needed = table.loc["all", "needed_n"] * prevalence
    assert needed / parameters == pytest.approx(per_parameter, abs=0.005)
    assert table.loc["all", "needed_events"] == ceil(needed)
    assert list(table["met"]) == [bool(need <= 1000) for need in table["needed_n"]]


@pytest.mark.parametrize("case", SURVIVAL)
def test_survival_examples_equal_pmsampsize(case: tuple[float, ...]) -> None:
    r2, parameters, rate, follow_up, first, second, per_parameter = case
    # pmsampsize rounds the events of an imagined 10,000 cases up to a whole number: so do we, here, to the digit.
    events = ceil(round(rate * follow_up * 10000, 6))
    cohort = Cohort(10000, events, mean_follow_up=follow_up, horizon=2.0)
    table = sample_size("cox", {"a": int(parameters)}, cohort, r2=r2).set_index("criterion")
    assert list(table["needed_n"].iloc[:2]) == [first, second]
    largest = max(first, second)
    assert table.loc["all", "needed_n"] == largest
    assert largest * rate * follow_up / parameters == pytest.approx(per_parameter, abs=0.005)


def test_examples_of_the_papers() -> None:
    # Venous thromboembolism (pmsampsize's help page): 30 parameters, an R2 of 0.051, 5143 cases.
    assert ceil(needed_for_shrinkage(30, 0.051)) == 5143
    # Its overall risk at 2 years there: 0.122.
    cohort = Cohort(5143, round(5143 * 0.065 * 2.07), mean_follow_up=2.07, horizon=2.0)
    risk, low, high = risk_interval(cohort)
    assert risk == pytest.approx(1 - exp(-0.13), abs=1e-4)
    rate, half = cohort.rate, 1.96 * np.sqrt(cohort.rate / (5143 * 2.07))
    assert (low, high) == pytest.approx((1 - exp(-2 * (rate - half)), 1 - exp(-2 * (rate + half))), abs=1e-12)
    # Chagas disease (Stat Med 2019): largest R2 0.60 at a prevalence of 0.174.
    assert largest_r2(0.174) == pytest.approx(0.60, abs=0.005)
    # The BMJ's rule of 15 %: at a prevalence of 0.05 the largest R2 is 0.33 and 0.05 is expected.
    assert largest_r2(0.05) == pytest.approx(0.33, abs=0.005)
    table = sample_size("logistic", {"a": 30}, Cohort(10000, 500))
    assert table["r2"].iloc[0] == pytest.approx(0.15 * largest_r2(0.05), rel=1e-12)
    assert table["note"].iloc[0].startswith("R2 0.0492 assumed: 15% of its largest value 0.328")
    # With 0.05 for 0.0492 that is 5249 cases.
    assert ceil(needed_for_shrinkage(30, 0.05)) == 5249


def test_largest_r2_is_that_of_the_null_likelihoods() -> None:
    y = np.array([1] * 30 + [0] * 70)
    p = y.mean()
    null = (y * log(p) + (1 - y) * log(1 - p)).sum()
    assert largest_r2(0.3) == pytest.approx(1 - exp(2 * null / 100), rel=1e-12)
    assert largest_r2(0.5) == pytest.approx(0.75, rel=1e-12)
    # Exponential survival, follow-up of 1 on average: events * log(rate) - rate * person-time.
    assert largest_r2(0.3, survival=True) == pytest.approx(1 - exp(2 * (30 * log(0.3) - 0.3 * 100) / 100), rel=1e-12)
    assert np.isnan(largest_r2(0.0))
    assert np.isnan(largest_r2(1.0))


def test_precision_of_the_overall_risk() -> None:
    n = needed_for_risk(Cohort(1000, 174))
    half = 1.96 * np.sqrt(0.174 * 0.826 / n)
    assert half == pytest.approx(0.05, rel=1e-12)
    # By the time to an event: at the needed size the lower bound lies 0.05 away, the upper one nearer.
    cohort = Cohort(1000, 260, mean_follow_up=3.0, horizon=5.0)
    n = needed_for_risk(cohort)

    def width(size: float) -> float:
        half = 1.96 * np.sqrt(cohort.rate / (size * 3.0))
        return exp(-(cohort.rate - half) * 5) - exp(-cohort.rate * 5)

    assert n == pytest.approx(brentq(lambda size: width(size) - 0.05, 10, 1e5), rel=1e-9)
    # Against simulation: the estimated risk misses by more than 0.05 in about one of twenty cohorts of that size.
    rng = np.random.default_rng(5)
    size = ceil(n)
    events = rng.poisson(cohort.rate * 3.0 * size, 20000)
    missed = np.abs(np.exp(-events / (3.0 * size) * 5) - exp(-cohort.rate * 5)) > 0.05
    assert missed.mean() == pytest.approx(2 * norm.sf(1.96), abs=0.012)


@given(
    parameters=st.integers(1, 2000),
    n=st.integers(40, 20000),
    share=st.floats(0.05, 0.95),
    survival=st.booleans(),
)
def test_criteria_are_consistent(parameters: int, n: int, share: float, survival: bool) -> None:
    events = min(max(round(n * share), 1), n - 1)
    cohort = Cohort(n, events, 2.0, 3.0) if survival else Cohort(n, events)
    table = sample_size("m", {"few": parameters, "more": parameters + 1}, cohort)
    few, more = (table[table["arm"] == arm].set_index("criterion") for arm in ("few", "more"))
    assert (more["needed_n"] >= few["needed_n"]).all()
    assert few.loc["all", "needed_n"] == few["needed_n"].iloc[:3].max()
    for criterion in ("shrinkage", "optimism", "all"):
        row = few.loc[criterion]
        if criterion != "all" or few.loc["overall_risk", "met"]:
            # As many parameters as are said to be carried are met, one more is not.
            assert row["met"] == (parameters <= row["largest_parameters"])
    # What the formulas promise, put back in: S = 1 + p / (n log(1 - R2 / S)).
    r2, unrounded = few["r2"].iloc[0], needed_for_shrinkage(parameters, few["r2"].iloc[0])
    assert 1 + parameters / (unrounded * log(1 - r2 / 0.9)) == pytest.approx(0.9)
    maximum = r2 / 0.15
    unrounded = needed_for_optimism(parameters, r2, maximum)
    factor = r2 / (r2 + 0.05 * maximum)
    assert r2 / factor / maximum - r2 / maximum == pytest.approx(0.05)
    assert 1 + parameters / (unrounded * log(1 - r2 / factor)) == pytest.approx(factor)


def test_what_can_not_be_estimated_is_told_from_what_is_not_met() -> None:
    cohort = Cohort(469, 120, mean_follow_up=3.1, horizon=2.0)
    table = sample_size("cox", {"clinical": 5, "features": 797, "both": 3}, cohort)
    clinical, features, both = judge(table, {"features": True})
    assert features.estimable
    assert not features.met
    assert "797 candidate parameters needs" in features.sentences[0]
    assert "there are 469 and 120, enough for " in features.sentences[0]
    assert any("penalty" in sentence for sentence in features.sentences)
    unpenalised = judge(table)[1]
    assert not unpenalised.estimable
    assert "features: can't be estimated without a penalty, with 120 events for 797" in unpenalised.sentences[0]
    assert clinical.estimable
    assert both.estimable
    assert both.met
    assert both.sentences[0].startswith("both: 469 cases and 120 events meet all criteria for 3 candidate parameters")
    few = judge(sample_size("cox", {"a": 2}, Cohort(60, 7, 3.0, 2.0)), {"a": True})[0]
    assert not few.estimable
    assert few.sentences[0] == "a: can't be estimated, with 7 events among 60 cases (at least 10)."
    # Of a binary outcome the rarer class counts.
    rare = judge(sample_size("logistic", {"a": 2}, Cohort(60, 55)))[0]
    assert "with 5 cases without the event among 60" in rare.sentences[0]


def test_nothing_is_said_without_events() -> None:
    for cohort, why in (
        (Cohort(50, 0), "no events"),
        (Cohort(50, 50), "no cases without"),
        (Cohort(50, 0, 2, 1), "no ev"),
    ):
        table = sample_size("m", {"a": 3}, cohort)
        assert table["needed_n"].isna().all()
        assert not table["met"].any()
        assert table["note"].str.startswith(why).all()
        verdict = judge(table)[0]
        assert not verdict.estimable
        assert not verdict.met


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(CohortError, match="allows one between 0 and"):
        sample_size("m", {"a": 3}, Cohort(100, 50), r2=0.8)
    with pytest.raises(CohortError, match="both a mean follow-up and a horizon"):
        sample_size("m", {"a": 3}, Cohort(100, 50, mean_follow_up=2.0))
    with pytest.raises(CohortError, match="impossible"):
        sample_size("m", {"a": 3}, Cohort(100, 101))
    with pytest.raises(CohortError, match="must be above 0"):
        sample_size("m", {"a": 3}, Cohort(100, 50, 0.0, 1.0))


def test_table_has_one_row_a_criterion_and_types_that_files_keep() -> None:
    table = sample_size("cox", {"a": 3, "none": 0}, Cohort(200, 90, 4.0, 2.0))
    assert list(table["criterion"]) == ["shrinkage", "optimism", "overall_risk", "all"] * 2
    assert table["met"].dtype == bool
    assert str(table["needed_n"].dtype) == "Int64"
    assert table.loc[table["criterion"] == "overall_risk", "largest_parameters"].isna().all()
    assert table["note"].str.contains(r"risk at 2 0\.\d+ \(95 % interval").sum() == 2
    pd.testing.assert_frame_equal(table, sample_size("cox", {"a": 3, "none": 0}, Cohort(200, 90, 4.0, 2.0)))
