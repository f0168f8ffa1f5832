"""The gate before any fit: what is bound up with the batch is measured, and a batch that is the outcome stops."""

import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats.contingency import association
from statistics_cohort import cohort_tables, configuration

from radloom.assembly import CohortTables
from radloom.confounding import (
    COLUMNS,
    LEAST_CASES,
    TABLE_COLUMNS,
    check_confounding,
    confounding_table,
    cramers_v,
    gate,
    gate_rois,
    independence_test,
    median_follow_up,
    overlap_of_levels,
    overlap_of_numbers,
)
from radloom.errors import CohortError

OUTCOMES = ["days", "died", "response"]


def _case(batch: list[str], **columns: list[object]) -> tuple[pd.Series, dict[str, pd.Series]]:
    index = pd.Index([f"K{number:03d}" for number in range(len(batch))], name="case_id")
    return (
        pd.Series(batch, index=index, name="centre", dtype=object),
        {name: pd.Series(values, index=index, name=name, dtype=object) for name, values in columns.items()},
    )


# ---------------------------------------------------------------- Cramer's V


@pytest.mark.parametrize("shape", [(2, 2), (3, 2), (4, 5)])
def test_cramers_v_and_chi_square_equal_scipy(shape: tuple[int, int]) -> None:
    counts = np.random.default_rng(3).integers(8, 40, shape)
    v, _ = cramers_v(counts)
    assert v == pytest.approx(association(counts, method="cramer"), abs=1e-12)
    name, statistic, p = independence_test(counts)
    expected = stats.chi2_contingency(counts, correction=False)
    assert name == "chi-square"
    assert (statistic, p) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-10)


def test_corrected_v_is_bergsmas() -> None:
    # By hand, 2 x 2 of 100 cases: chi2 = 36, phi2 = 0.36; 0.36 - 1/99 over (2 - 1/99) - 1.
    v, corrected = cramers_v(np.array([[40, 10], [10, 40]]))
    assert v == pytest.approx(0.6, abs=1e-12)
    assert corrected == pytest.approx(np.sqrt((0.36 - 1 / 99) / (1 - 1 / 99)), abs=1e-12)
    # Its point: under independence the mean of V is far from 0, that of the corrected one is small.
    rng = np.random.default_rng(0)
    drawn = np.array([cramers_v(table) for table in rng.multinomial(60, np.full(20, 1 / 20), 300).reshape(-1, 5, 4)])
    assert drawn[:, 0].mean() > 0.2
    assert drawn[:, 1].mean() < 0.1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=3, max_size=3), min_size=2, max_size=5))
def test_v_lies_between_0_and_1_and_is_1_where_one_tells_the_other(rows: list[list[int]]) -> None:
    counts = np.array(rows)
    v, corrected = cramers_v(counts)
    used = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    if min(used.shape, default=0) < 2:
        assert np.isnan(v)
        assert np.isnan(corrected)
        return
    assert 0 <= v <= 1
    assert np.isnan(corrected) or 0 <= corrected <= 1
    tells = ((used > 0).sum(axis=1) == 1).all() or ((used > 0).sum(axis=0) == 1).all()
    assert (v > 1 - 1e-9) == tells
    assert cramers_v(counts[::-1, ::-1]) == pytest.approx((v, corrected), nan_ok=True)
    assert cramers_v(counts.T)[0] == pytest.approx(v)


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_small_counts_equal_r() -> None:
    two, more = np.array([[7, 1], [2, 9]]), np.array([[5, 1, 0], [1, 4, 3], [0, 2, 6]])
    code = (
        "options(digits = 15); a <- fisher.test(matrix(c(7, 2, 1, 9), 2));"
        "b <- matrix(c(5, 1, 0, 1, 4, 2, 0, 3, 6), 3); set.seed(1);"
        "x <- suppressWarnings(chisq.test(b, simulate.p.value = TRUE, B = 200000));"
        "cat(a$p.value, x$statistic, x$p.value)"
    )
    done = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True, check=True)
    fisher, statistic, simulated = map(float, done.stdout.split())
    name, _, p = independence_test(two)
    assert name == "Fisher"
    assert p == pytest.approx(fisher, rel=1e-9)
    name, chi_square, p = independence_test(more)
    assert name == "permutation"
    assert chi_square == pytest.approx(statistic, rel=1e-9)
    # Two Monte Carlo estimates, of 200,000 and 9,999 tables: four standard errors of their difference.
    assert p == pytest.approx(simulated, abs=4 * np.sqrt(simulated * (1 / 9999 + 1 / 200000)))


# ------------------------------------------------------------------- overlap


def test_overlap_is_the_common_area_of_two_normal_distributions() -> None:
    # Inman and Bradley: two normals of equal variance, d apart, overlap by 2 Phi(-d / 2).
    rng = np.random.default_rng(5)
    for apart in (0.0, 1.0, 2.5):
        overlap, _ = overlap_of_numbers(rng.normal(0, 1, 20000), rng.normal(apart, 1, 20000))
        assert overlap == pytest.approx(2 * stats.norm.cdf(-apart / 2), abs=0.02)
    assert overlap_of_numbers(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == (0.0, 0.0)
    assert overlap_of_numbers(np.array([1.0, 2.0]), np.array([2.0, 4.0])) == (0.5, 0.5)
    assert overlap_of_levels(np.array([6, 4]), np.array([1, 3])) == pytest.approx(0.25 + 0.4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=1, max_size=20),
    st.lists(st.integers(-40, 40), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_overlap_ignores_order_and_monotone_transformations(
    first: list[int], second: list[int], random: object
) -> None:
    own, others = np.array(first, dtype=float), np.array(second, dtype=float)
    expected = overlap_of_numbers(own, others)
    random.shuffle(first)  # type: ignore[attr-defined]
    assert overlap_of_numbers(np.exp(np.array(first) / 10), np.exp(others / 10)) == pytest.approx(expected)
    grid = np.union1d(own, others)
    gap = max(abs(np.mean(own <= value) - np.mean(others <= value)) for value in grid)
    assert expected[0] == pytest.approx(1 - gap, abs=1e-12)


def test_follow_up_is_the_reverse_kaplan_meier_median() -> None:
    # By hand: censored at 2, 4 and 6, events at 3 and 4. An event comes before a censoring of the same time, so at 4
    # two are left that could be censored: 1 - 1/5 = 0.8, then 0.8 (1 - 1/2) = 0.4.
    time, event = np.array([2.0, 3.0, 4.0, 4.0, 6.0, np.nan, -1.0]), np.array([0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    assert median_follow_up(time, event) == 4.0
    assert np.isnan(median_follow_up(time, np.ones(7)))


# --------------------------------------------------------------------- table


def test_the_table_counts_by_batch_and_level() -> None:
    batch, columns = _case(
        ["A"] * 10 + ["B"] * 6 + ["C"] * 4,
        died=["1"] * 4 + ["0"] * 5 + [np.nan] + ["1"] * 1 + ["0"] * 5 + ["1.0"] * 3 + ["0"],
        age=[str(50 + k) for k in range(20)],
        days=[str(10 * (k + 1)) for k in range(20)],
    )
    days = columns.pop("days")
    table = confounding_table(batch, columns, {"died": "outcome", "age": "covariate"}, {"died": days})
    assert list(table.columns) == COLUMNS
    died = table[table["variable"] == "died"].set_index(["batch", "level"])
    assert died["n"].to_dict() == {
        ("A", "0"): 5, ("A", "1"): 4, ("B", "0"): 5, ("B", "1"): 1, ("C", "0"): 1, ("C", "1"): 3,
    }  # fmt: skip
    assert died.loc[("A", "1"), ["n_of_batch", "missing", "events"]].tolist() == [10, 1, 4]
    assert died.loc[("A", "1"), "share"] == pytest.approx(4 / 9)
    assert died["cramers_v"].unique() == pytest.approx(
        [association(np.array([[5, 4], [5, 1], [1, 3]]), method="cramer")]
    )
    assert (died["test"] == "permutation").all()
    # Events at 10 to 40, then all of batch A is censored: at 50, 60 and 70 (the third of five leaves 2/5).
    assert died.loc[("A", "1"), "median_follow_up"] == 70
    age = table[table["variable"] == "age"].set_index("batch")
    assert age["median"].to_dict() == {"A": 54.5, "B": 62.5, "C": 67.5}
    # Of the others of B, 10 of 14 lie below all of B: the distance is 10/14.
    assert age["overlap"].to_dict() == {"A": 0.0, "B": pytest.approx(4 / 14), "C": 0.0}
    assert age["in_range"].to_dict() == {"A": 0.0, "B": 1.0, "C": 0.0}
    groups = [np.arange(10), np.arange(10, 16), np.arange(16, 20)]
    assert age["p"].iloc[0] == pytest.approx(stats.kruskal(*groups).pvalue)
    means = sum(len(group) * (group.mean() - 9.5) ** 2 for group in groups)
    assert age["eta_squared"].iloc[0] == pytest.approx(means / (20 * np.var(np.arange(20))))


def test_the_order_of_the_cases_has_no_meaning() -> None:
    tables = cohort_tables(70)
    params = configuration(harmonize__covariates=["age", "sex"])
    table, warnings = gate(tables, tables.features, params, OUTCOMES)
    shuffled = tables.features.sample(frac=1, random_state=3)
    again, others = gate(tables, shuffled, params, OUTCOMES)
    pd.testing.assert_frame_equal(table, again, check_exact=True)
    assert warnings == others


def test_what_cannot_be_had_is_empty_with_a_reason() -> None:
    batch, columns = _case(["A"] * 4, died=["0", "1", "0", "1"], age=["1", "2", "3", "4"])
    table = confounding_table(batch, columns, {"died": "outcome", "age": "covariate"})
    assert table[["cramers_v", "eta_squared", "p", "overlap"]].isna().all(axis=None)
    assert set(table["note"]) == {"fewer than two batches with a known value"}
    batch, columns = _case(["A", "A", "B", "B"], sex=["F"] * 4, unknown=[np.nan] * 4, name=["a", "b", "c", "d"])
    table = confounding_table(batch, columns, dict.fromkeys(columns, "covariate")).groupby("variable").first()
    assert table.loc["sex", "note"] == "the same value in all batches"
    assert table.loc["unknown", ["n", "missing"]].tolist() == [0, 2]
    assert check_confounding(batch, columns, dict.fromkeys(columns, "covariate"))[0].startswith("the covariate unknown")
    many = {"name": pd.Series([f"n{k}" for k in range(30)])}
    table = confounding_table(pd.Series(["A", "B"] * 15), many, {"name": "covariate"})
    assert table["cramers_v"].isna().all()
    assert table["note"].str.contains("30 different words").all()


# ---------------------------------------------------------------------- stop


@pytest.mark.parametrize(
    ("batch", "outcome"),
    [
        ("AAAABBBB", "11110000"),
        ("AAAABBBBCCCC", "111100001111"),  # the outcome is a union of batches
        ("AAAABBBB", ["1", "1.0", "1", "1", "0", "0", "0.0", "0"]),
        ("AAAABBBBB", "000112222"),  # and each class is of one batch
        ("AAAABBBBC", "111100001"),  # a batch of one case changes nothing
    ],
)
def test_a_batch_that_is_the_outcome_stops(batch: str, outcome: str | list[str]) -> None:
    label, columns = _case(list(batch), died=list(outcome))
    if batch == "AAAABBBBB":
        columns["died"] = columns["died"].replace("0", "x").replace("1", "y").replace("2", "z")
        columns["died"].iloc[3] = "x"
    with pytest.raises(CohortError, match="centre and the outcome 'died' are the same thing") as caught:
        check_confounding(label, columns, {"died": "outcome"})
    assert "A: " in str(caught.value)
    assert "Add cases of the missing classes" in str(caught.value)
    assert check_confounding(label, columns, {"died": "covariate"})  # a covariate warns


def test_one_case_that_breaks_the_rule_turns_the_stop_into_a_warning() -> None:
    batch, columns = _case(["A"] * 20 + ["B"] * 20, died=["1"] * 19 + ["0"] + ["0"] * 20)
    strong, without = check_confounding(batch, columns, {"died": "outcome"})
    assert strong.startswith("the outcome died is strongly confounded with centre (Cramer's V 0.9")
    assert "A: 19 of 20, B: 0 of 20" in strong
    assert without.startswith("centre B (20) has no events of died")


def test_a_handful_of_cases_warns_and_does_not_stop() -> None:
    batch, columns = _case(list("AAABBBB"), died=list("1110000"))
    assert "strongly confounded" in check_confounding(batch, columns, {"died": "outcome"})[0]


def test_equal_shares_do_not_warn_and_one_class_is_told_once() -> None:
    batch, columns = _case(["A", "A", "B", "B"] * 10, died=["1", "0"] * 20, age=[str(k) for k in range(40)])
    kinds = {"died": "outcome", "age": "covariate"}
    assert check_confounding(batch, columns, kinds) == []
    columns["died"][:] = "0"
    assert check_confounding(batch, columns, kinds) == ["the outcome died is the same in all 40 cases: no events"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABC"), st.sampled_from("01")), min_size=4, max_size=30))
def test_it_stops_exactly_where_every_batch_has_one_class(cases: list[tuple[str, str]]) -> None:
    batch, columns = _case([b for b, _ in cases], died=[o for _, o in cases])
    counts = pd.crosstab(batch, columns["died"])
    counts = counts[counts.sum(axis=1) > 1]
    counts = counts.loc[:, counts.sum(axis=0) > 0]
    pure = bool(((counts > 0).sum(axis=1) == 1).all()) and min(counts.shape) > 1
    by_class = pd.crosstab(columns["died"], batch)
    by_class = by_class[by_class.sum(axis=1) > 1]
    by_class = by_class.loc[:, by_class.sum(axis=0) > 0]
    tells = bool(((by_class > 0).sum(axis=1) == 1).all()) and min(by_class.shape) > 1
    if (pure or tells) and len(cases) >= LEAST_CASES:
        with pytest.raises(CohortError, match="the same thing"):
            check_confounding(batch, columns, {"died": "outcome"})
    else:
        check_confounding(batch, columns, {"died": "outcome"})


# ---------------------------------------------------------------------- gate


def _with_died(tables: CohortTables, died: np.ndarray) -> CohortTables:
    tables.patients["died"] = np.where(died, "1", "0")
    return tables


def test_the_gate_reads_the_configured_columns() -> None:
    tables = cohort_tables(90, rois=("tumour", "liver"))
    params = configuration(harmonize__covariates=["age"], analysis_plan__covariates=["age", "sex"])
    table, _ = gate_rois(tables, params, OUTCOMES)
    assert list(table.columns) == TABLE_COLUMNS
    assert list(table["roi"].unique()) == ["tumour", "liver"]
    kinds = table.drop_duplicates("variable").set_index("variable")["kind"].to_dict()
    assert kinds == {"died": "outcome", "response": "outcome", "age": "covariate", "sex": "covariate"}
    died = table[table["variable"] == "died"]
    assert died["median_follow_up"].notna().all()
    assert died.drop_duplicates(["roi", "batch"])["events"].sum() == 2 * (tables.patients["died"] == "1").sum()


def test_the_gate_stops_before_the_fit_also_without_the_small_batches() -> None:
    tables = cohort_tables(62)
    centre = tables.features["centre"]
    _with_died(tables, (centre == "C0").to_numpy())
    with pytest.raises(CohortError, match="'died' are the same thing"):
        gate(tables, tables.features, configuration(), OUTCOMES)
    tables.features.loc[centre.index[-3:], "centre"] = "few"  # two of them died: only the larger centres are pure
    tables = _with_died(tables, (tables.features["centre"] == "C0").to_numpy())
    tables.patients.iloc[-2, tables.patients.columns.get_loc("died")] = "1"
    with pytest.raises(CohortError, match="'died' are the same thing"):
        gate(tables, tables.features, configuration(), OUTCOMES)


def test_a_patient_counts_once_in_a_batch() -> None:
    tables = cohort_tables(60)
    twice = tables.features.assign(case_id=tables.features["case_id"] + "b")
    both = CohortTables(pd.concat([tables.features, twice], ignore_index=True), tables.cases, tables.patients)
    once, _ = gate(tables, tables.features, configuration(), OUTCOMES)
    table, _ = gate(both, both.features, configuration(), OUTCOMES)
    pd.testing.assert_frame_equal(once, table)


def test_a_derived_roi_of_few_cases_does_not_stop_the_others() -> None:
    tables = cohort_tables(60, rois=("tumour", "lesion_3"))
    died = (tables.patients["died"] == "1").to_numpy()
    centre = tables.features.drop_duplicates("case_id")["centre"].to_numpy()
    kept = {f"K{k:03d}" for k in np.flatnonzero((died & (centre == "C0")) | (~died & (centre == "C1")))}
    rows = (tables.features["roi"] == "tumour") | tables.features["case_id"].isin(kept)
    tables = CohortTables(tables.features[rows], tables.cases, tables.patients)
    with pytest.raises(CohortError, match="ROI lesion_3: centre and the outcome 'died' are the same thing"):
        gate_rois(tables, configuration(), OUTCOMES)
    table, warnings = gate_rois(tables, configuration(), OUTCOMES, ["lesion"])
    assert set(table["roi"]) == {"tumour"}
    assert [w for w in warnings if w.startswith("ROI lesion_3: centre and the outcome 'died' are the same")]
