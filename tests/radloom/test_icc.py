"""Intraclass correlations against R's psych (2.2.9, R 4.2.2) and the table of Shrout and Fleiss (1979).

The golden numbers are those of `ICC(x, lmer = FALSE)$results[1:3, c("ICC", "lower bound", "upper bound")]`, printed
with 15 digits; the unbalanced ones of `anova(lm(y ~ case))` and `qf` in base R. Tolerance 1e-9: both sides compute in
double precision, and R prints 15 digits.
"""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.icc import NO_SPREAD, NO_VARIANCE, TOO_FEW, TOO_FEW_COMPLETE, Icc, icc_1_1, icc_2_1, icc_3_1

TOLERANCE = 1e-9
Form = Callable[[np.ndarray], Icc]
FORMS = (icc_1_1, icc_2_1, icc_3_1)
SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
GOOD = np.array(
    [
        [101.3, 102.9, 100.7],
        [95.2, 94.8, 96.1],
        [120.4, 119.2, 121.5],
        [87.7, 88.1, 86.9],
        [110.0, 111.3, 109.4],
        [99.5, 98.2, 100.8],
        [105.1, 104.4, 106.3],
    ]
)
NONE = np.array([[1.2, -0.4], [0.3, 0.9], [-1.1, 0.7], [0.5, -0.8], [0.1, 0.2]])
BIASED = GOOD + np.array([0.0, 15.0, 30.0])
GOLDEN = {
    "shrout-fleiss": (
        SHROUT_FLEISS,
        [
            (0.165741768405476, -0.132932324874751, 0.722560062328121),
            (0.289763779527559, 0.018786513374712, 0.761084369648953),
            (0.714840714840715, 0.342464765033925, 0.94585825995536),
        ],
    ),
    "good": (
        GOOD,
        [
            (0.991103579450508, 0.969305748463401, 0.998312299733176),
            (0.991100668121832, 0.968428709818683, 0.99832190543724),
            (0.990128617681434, 0.963845741150529, 0.998150564168879),
        ],
    ),
    "none": (
        NONE,
        [
            (-0.534407027818448, -0.921096747932027, 0.479371294662826),
            (-0.889423076923077, -1.54581122084175, 0.456324342531536),
            (-0.608052588331964, -0.950500867362194, 0.401379008186535),
        ],
    ),
    "biased": (
        BIASED,
        [
            (0.129638339820638, -0.243150980671744, 0.68955844291901),
            (0.324636252135503, 0.0110974295251219, 0.777110508552413),
            (0.990128617681433, 0.963845741150529, 0.998150564168879),
        ],
    ),
}
# x <- list(c(9,2,5,8), c(6,1,3), c(8,4), c(7,1,2,6), c(10), c(6,2,4,7))
UNBALANCED = (0.0467450283242899, -0.320356148488522, 0.689218238901471)


def one(values: np.ndarray) -> np.ndarray:
    """Cases x repeats of one feature as the functions take it."""
    return np.asarray(values, dtype=np.float64)[:, :, None]


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("which", range(3))
def test_estimate_and_interval_equal_psych(name: str, which: int) -> None:
    values, expected = GOLDEN[name]
    found = FORMS[which](one(values))
    assert (found.estimate[0], found.low[0], found.high[0]) == pytest.approx(expected[which], abs=TOLERANCE)
    assert found.form == f"ICC({which + 1},1)"
    assert (found.cases[0], found.repeats[0], found.note) == (*values.shape, [""])


def test_the_table_of_shrout_and_fleiss() -> None:
    """The published values have two digits: .17, .29 and .71."""
    assert [round(float(form(one(SHROUT_FLEISS)).estimate[0]), 2) for form in FORMS] == [0.17, 0.29, 0.71]


def test_unbalanced_repeats_equal_the_one_way_analysis_of_variance_of_r() -> None:
    values = SHROUT_FLEISS.copy()
    values[1, 3] = values[2, 1] = values[2, 3] = values[4, 1] = values[4, 2] = values[4, 3] = np.nan
    # The third case of R's list is (8, 4), here its first value and its third: which of them 4 is doesn't matter.
    values[2, 2] = 4
    found = icc_1_1(one(values))
    assert (found.estimate[0], found.low[0], found.high[0]) == pytest.approx(UNBALANCED, abs=TOLERANCE)
    assert found.cases[0] == 6
    assert found.repeats[0] == 18 / 6


def test_features_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(4)
    values = rng.normal(size=(9, 4, 30)) + rng.normal(size=(9, 1, 30)) * np.linspace(0, 5, 30)
    values[3, 1, 4], values[:, :, 7], values[5, :, 11] = np.nan, 3.0, np.nan
    for form in FORMS:
        together = form(values)
        for feature in range(30):
            alone = form(values[:, :, [feature]])
            for part in ("estimate", "low", "high", "cases", "repeats"):
                np.testing.assert_allclose(
                    getattr(together, part)[feature], getattr(alone, part)[0], rtol=1e-12, atol=1e-14
                )
            assert together.note[feature] == alone.note[0]


def test_two_way_forms_leave_out_cases_that_lack_a_repeat() -> None:
    values = np.concatenate([one(SHROUT_FLEISS), one(SHROUT_FLEISS[:2] + 40)])
    values[6, 2], values[7, :] = np.nan, np.nan
    for form in (icc_2_1, icc_3_1):
        found, expected = form(values), form(one(SHROUT_FLEISS))
        assert found.estimate[0] == pytest.approx(expected.estimate[0], abs=1e-12)
        assert found.cases[0] == 6
    assert icc_1_1(values).cases[0] == 7


@pytest.mark.parametrize("form", FORMS)
def test_without_variance_there_is_no_coefficient(form: Form) -> None:
    for value in (0.0, 5.5, 0.1):
        found = form(np.full((5, 3, 1), value))
        assert np.isnan([found.estimate[0], found.low[0], found.high[0]]).all()
        assert found.note == [NO_VARIANCE]
    noise = 7.3 + np.random.default_rng(1).normal(size=(5, 3, 1)) * 1e-14
    assert form(noise).note == [NO_VARIANCE], "differences by rounding alone are none"


@pytest.mark.parametrize("form", FORMS)
def test_cases_that_differ_and_repeats_that_do_not(form: Form) -> None:
    found = form(one(np.repeat([[1.0], [2.0], [4.0]], 3, axis=1)))
    assert [found.estimate[0], found.low[0], found.high[0]] == [1, 1, 1]
    assert found.note == [NO_SPREAD]


def test_a_constant_difference_between_repeats_counts_in_the_absolute_form_alone() -> None:
    values = one(np.array([1.0, 2.0, 4.0, 7.0])[:, None] + np.array([0.0, 3.0]))
    assert icc_3_1(values).estimate[0] == 1
    # Mean squares of cases and repeats by hand: 14 and 18, n = 4, k = 2, no residuals: 14 / (14 + 2 * 18 / 4).
    assert icc_2_1(values).estimate[0] == pytest.approx(14 / 23, abs=1e-12)
    assert icc_2_1(values).high[0] < 1


@pytest.mark.parametrize(
    ("form", "why"), [(icc_1_1, TOO_FEW), (icc_2_1, TOO_FEW_COMPLETE), (icc_3_1, TOO_FEW_COMPLETE)]
)
def test_too_few_values(form: Form, why: str) -> None:
    alone = np.array([[1.0, 2.0], [3.0, np.nan], [4.0, np.nan]])
    for values in (alone, np.empty((0, 2)), np.full((4, 2), np.nan), np.arange(4.0)[:, None]):
        found = form(one(values))
        assert np.isnan([found.estimate[0], found.low[0], found.high[0]]).all()
        assert found.note == [why]


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(3, 12),
    st.integers(2, 5),
    st.floats(1e-3, 1e3),
    st.floats(-1e3, 1e3),
)
def test_scale_shift_and_order_of_cases_do_not_matter(seed: int, n: int, k: int, scale: float, shift: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, k, 2)) + 2 * rng.normal(size=(n, 1, 2))
    for form in FORMS:
        found, moved = form(values), form((values * scale + shift)[rng.permutation(n)])
        # At worst the shift leaves ten of sixteen digits.
        np.testing.assert_allclose(moved.estimate, found.estimate, atol=1e-7)
        np.testing.assert_allclose(moved.low, found.low, atol=1e-7)
        assert (found.low <= found.estimate + 1e-12).all()
        assert (found.estimate <= found.high + 1e-12).all()


def test_the_interval_of_the_one_way_form_covers_the_truth() -> None:
    """95 % intervals of 4000 simulated features with a true ICC of 0.6: within 4 standard errors of 95 %."""
    rng = np.random.default_rng(8)
    values = np.sqrt(0.6) * rng.normal(size=(15, 1, 4000)) + np.sqrt(0.4) * rng.normal(size=(15, 6, 4000))
    found = icc_1_1(values)
    covered = np.mean((found.low <= 0.6) & (found.high >= 0.6))
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))
