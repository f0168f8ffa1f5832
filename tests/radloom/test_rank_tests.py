"""Rank tests of many columns at once against scipy's, one at a time, and against closed forms where scipy stops."""

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from radloom.rank_tests import adjust_fdr, anderson_darling_p, ks_statistic, rank_tests


def _groups(sizes: list[int]) -> list[np.ndarray]:
    return np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])


@pytest.mark.parametrize("sizes", [[20, 30], [10, 15, 40], [50, 6, 70, 8, 90]])
@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.filterwarnings("ignore:p-value")
def test_statistics_equal_scipy_with_and_without_ties(sizes: list[int], decimals: int | None) -> None:
    rng = np.random.default_rng(len(sizes))
    groups = _groups(sizes)
    values = rng.normal(size=(sum(sizes), 12))
    values[groups[0]] += np.linspace(0, 1, 12)
    if decimals is not None:
        values = np.round(values, decimals)
    found = rank_tests(values, groups)
    for column in range(12):
        own = values[:, column]
        expected = stats.anderson_ksamp([own[rows] for rows in groups], variant="midrank")
        # The same formula, in another order of summation.
        assert found.ad[column] == pytest.approx(expected.statistic, abs=1e-9)
        if 0.0011 < expected.pvalue < 0.249:
            # Scipy fits a parabola through tabled quantiles, which themselves have three digits.
            assert found.ad_p[column] == pytest.approx(expected.pvalue, rel=0.05)
        else:
            assert (found.ad_p[column] > 0.2) if expected.pvalue > 0.2 else (found.ad_p[column] < 0.0012)
        for k, rows in enumerate(groups):
            rest = np.setdiff1d(np.arange(len(own)), rows)
            one = stats.anderson_ksamp([own[rows], own[rest]], variant="midrank")
            assert found.one_ad[k, column] == pytest.approx(one.statistic, abs=1e-9)
            distance = stats.ks_2samp(own[rows], own[rest], method="asymp").statistic
            assert found.one_ks[k, column] == pytest.approx(distance, abs=1e-12)
            n = len(rows) * len(rest) / len(own)
            assert found.one_ks_p[k, column] == pytest.approx(stats.kstwobign.sf(np.sqrt(n) * distance), rel=1e-9)


def test_small_p_of_three_groups_is_the_closed_form() -> None:
    # For k = 3 the limit is a sum of exponentials of rates j (j + 1) / 2, whose tail is a known alternating series.
    j = np.arange(1, 60)
    x = np.array([0.6, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 300.0])
    series = (np.where(j % 2, 1, -1) * (2 * j + 1) * np.exp(-j * (j + 1) / 2 * x[:, None])).sum(axis=1)
    standardised = (x - 2) / np.sqrt(4 * (np.pi**2 / 3 - 3))
    # Interpolated between places that are computed to 1e-10: a thousandth, over 130 decades.
    np.testing.assert_allclose(anderson_darling_p(standardised, 3), series, rtol=1e-3)


def test_p_of_two_groups_is_the_table_of_anderson_and_darling() -> None:
    # Anderson and Darling 1954, table 1: the 5 % and 1 % points of their statistic.
    standardised = (np.array([2.492, 3.857]) - 1) / np.sqrt(2 * (np.pi**2 / 3 - 3))
    np.testing.assert_allclose(anderson_darling_p(standardised, 2), [0.05, 0.01], rtol=0.03)
    assert np.isnan(anderson_darling_p(np.array([np.nan]), 2)[0])
    assert anderson_darling_p(np.array([-10.0]), 2)[0] == 1


@pytest.mark.parametrize("sizes", [[10, 10], [12, 8, 20], [30] * 5])
def test_equal_distributions_are_rejected_as_often_as_they_should(sizes: list[int]) -> None:
    values = np.random.default_rng(4).normal(size=(sum(sizes), 20000))
    p = rank_tests(values, _groups(sizes)).ad_p
    for level in (0.25, 0.1, 0.05):
        # 13 % is what the limit misses with 8 to 20 a group; the Monte Carlo error is under 3 %.
        assert np.mean(p < level) / level == pytest.approx(1, abs=0.16)
    assert np.mean(p < 0.001) < 0.0014


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(-6, 6)), min_size=6, max_size=40),
    st.sampled_from([np.exp, np.cbrt, lambda x: 3 * x - 2]),
    st.randoms(use_true_random=False),
)
def test_order_and_monotone_transformations_change_nothing(
    cases: list[tuple[int, int]], transform: Callable[[np.ndarray], np.ndarray], random: object
) -> None:
    def tests(cases: list[tuple[int, int]], change: Callable[[np.ndarray], np.ndarray]) -> list[np.ndarray]:
        codes, values = np.array(cases).T
        groups = [np.flatnonzero(codes == code) for code in range(3)]
        found = rank_tests(change(values[:, None].astype(float)), [rows for rows in groups if len(rows)])
        return [found.ad, found.ad_p, found.one_ks, found.one_ks_p, found.one_ad, found.one_ad_p]

    first = tests(cases, lambda x: x)
    random.shuffle(cases)  # type: ignore[attr-defined]
    for a, b in zip(first, tests(cases, transform), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
    if len({value for _, value in cases}) == 1:
        assert all(np.isnan(part).all() for part in first)


def test_what_cannot_be_tested_is_empty() -> None:
    values = np.array([[1.0, 2.0], [1.0, 5.0], [1.0, 3.0], [1.0, 1.0], [1.0, 0.0]])
    found = rank_tests(values, _groups([2, 3]))
    assert np.isnan([found.ad[0], found.ad_p[0], found.one_ks[0, 0], found.one_ad_p[1, 0]]).all()
    assert np.isfinite(found.ad_p[1])
    assert np.isnan(rank_tests(values, _groups([5])).ad_p).all()
    assert np.isnan(rank_tests(values[:3], _groups([1, 2])).ad_p).all()


def test_chunks_of_columns_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 9))
    whole = rank_tests(values, _groups([10, 20]))
    monkeypatch.setattr("radloom.rank_tests._CELLS", 60)
    np.testing.assert_array_equal(rank_tests(values, _groups([10, 20])).one_ad, whole.one_ad)


def test_distance_of_two_samples_equals_scipy() -> None:
    rng = np.random.default_rng(2)
    first, second = np.round(rng.normal(size=(13, 4)), 1), np.round(rng.normal(0.5, 1, (29, 4)), 1)
    expected = [stats.ks_2samp(a, b, method="asymp").statistic for a, b in zip(first.T, second.T, strict=True)]
    np.testing.assert_allclose(ks_statistic(first, second), expected, atol=1e-12)


def test_fdr_equals_statsmodels() -> None:
    p = np.random.default_rng(0).uniform(size=50) ** 3
    np.testing.assert_allclose(adjust_fdr(p), multipletests(p, method="fdr_bh")[1])
    withheld = np.insert(p, 10, np.nan)
    np.testing.assert_allclose(np.delete(adjust_fdr(withheld), 10), adjust_fdr(p))
    assert np.isnan(adjust_fdr(withheld)[10])


@pytest.mark.slow
def test_two_thousand_features_of_a_thousand_cases_take_seconds() -> None:
    values = np.random.default_rng(1).normal(size=(1000, 2000))
    groups = _groups([200] * 5)
    start = time.process_time()
    rank_tests(values, groups)
    assert time.process_time() - start < 5  # before and after harmonisation: 10 s; scipy takes minutes
