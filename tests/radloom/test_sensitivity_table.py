"""What the table says of changes, ranks and concordance is what other formulas say."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from radloom.codebook import codebook_rows
from radloom.engine.step import CohortTask, Entry
from radloom.errors import CohortError
from radloom.sensitivity import Sensitivity, write_sensitivity
from radloom.sensitivity_table import (
    SENSITIVITY_COLUMNS,
    build_sensitivity_table,
    change_is_relative,
    compare,
    sensitivity_rows,
)

VALUES = st.lists(
    st.tuples(*[st.one_of(st.integers(-6, 6).map(float), st.floats(-1e6, 1e6), st.just(math.nan))] * 2),
    min_size=3,
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(VALUES)
def test_ranks_are_correlated_as_scipy_does(pairs: list[tuple[float, float]]) -> None:
    x, y = np.array(pairs).T
    found = compare(x, y, relative=False)
    known = np.isfinite(x) & np.isfinite(y)
    assert found.n == known.sum()
    if found.n < 3 or np.ptp(x[known]) == 0 or np.ptp(y[known]) == 0:
        assert math.isnan(found.spearman)
    else:
        # Both are sums of half-integers, divided once: equal but for rounding.
        assert found.spearman == pytest.approx(spearmanr(x[known], y[known]).statistic, abs=1e-12)


def test_concordance_is_one_minus_the_squares_over_those_of_unrelated_pairs() -> None:
    """Lin's own meaning of it: E(x - y)^2 against what it would be if x and y were independent."""
    rng = np.random.default_rng(3)
    for shift, scale in ((0, 1), (3, 1), (-1, 2), (100, 0.1)):
        x = rng.normal(5, 2, 40)
        y = shift + scale * x + rng.normal(0, 0.5, 40)
        expected = 1 - np.mean((x - y) ** 2) / np.mean((x[:, None] - y[None, :]) ** 2)
        assert compare(x, y, relative=True).concordance == pytest.approx(expected, rel=1e-10)
        assert compare(1e200 * x, 1e200 * y, relative=True).concordance == pytest.approx(expected, rel=1e-10)


def test_nothing_moved() -> None:
    x = np.array([3.0, 1.0, 2.0, 7.0])
    assert compare(x, x, relative=True) == compare(x, x, relative=False)
    same = compare(x, x, relative=True)
    assert (same.n, same.median, same.q1, same.q3, same.spearman) == (4, 0, 0, 0, 1)
    assert same.concordance == 1
    flat = compare(np.ones(4), np.ones(4), relative=True)
    assert (flat.median, math.isnan(flat.spearman), math.isnan(flat.concordance)) == (0, True, True)


def test_changes_are_relative_to_the_size_of_the_baseline() -> None:
    x, y = np.array([-4.0, -2.0, -1.0, math.nan, -8.0]), np.array([-2.0, -3.0, -1.0, 5.0, math.nan])
    found = compare(x, y, relative=True)
    assert found.n == 3
    assert (found.q1, found.median, found.q3) == (-0.25, 0, 0.25)  # of -0.5, 0, 0.5
    assert compare(x, y, relative=False).q3 == 1.0  # of -1, 0, 2
    assert change_is_relative(x)
    assert not change_is_relative(np.array([1.0, 0.0]))
    assert not change_is_relative(np.array([1.0, -1.0]))
    assert not change_is_relative(np.array([math.nan]))


def test_two_cases_say_nothing_of_ranks() -> None:
    found = compare(np.array([1.0, 2.0]), np.array([2.0, 4.0]), relative=True)
    assert (found.n, found.median) == (2, 1.0)
    assert math.isnan(found.spearman)
    assert math.isnan(found.concordance)
    assert compare(np.array([1.0]), np.array([math.nan]), relative=True).n == 0


def _entry(folder: Path, name: str, factor: float, status: str = "ok", columns: tuple[str, ...] = ("f", "g")) -> Entry:
    rows = {
        ("tumour", "baseline", ""): [factor, factor - 3],
        ("tumour", "bin_width", "10"): [2 * factor, factor - 3],
        ("tumour", "spacing", "2 x 2 x 2"): [10 - factor, math.nan],
    }
    write_sensitivity(folder / f"{name}.csv", Sensitivity(list(columns), rows, []))
    facts = {"baseline": {"bin_width": "25", "spacing": "1 x 1 x 1"}}
    warnings = ["spacing 2 x 2 x 2: too small"] if factor == 5 else []
    return Entry(status, "", "", facts, warnings, {"features.csv": folder / f"{name}.csv"})


def test_the_table_of_a_cohort(tmp_path: Path) -> None:
    entries = {f"c{k}": _entry(tmp_path, f"c{k}", float(k)) for k in (5, 1, 4, 2)}
    entries["c9"] = _entry(tmp_path, "c9", 1e9, status="skipped")
    result = build_sensitivity_table(CohortTask({}, [], {"sensitivity": entries}, {}, tmp_path))
    assert result.facts == {"cases": 4, "rows": 4, "cases_with_warnings": ["c5"]}
    table = pd.read_csv(tmp_path / "tables/sensitivity.csv", float_precision="round_trip", dtype={"setting": str})
    assert list(table.columns) == SENSITIVITY_COLUMNS
    assert table["feature"].tolist() == ["f", "g", "f", "g"]
    assert table["setting"].tolist() == ["10", "10", "2 x 2 x 2", "2 x 2 x 2"]
    assert table["baseline"].astype(str).tolist() == ["25", "25", "1 x 1 x 1", "1 x 1 x 1"]
    assert table["change"].tolist() == ["relative", "absolute", "relative", "absolute"]
    assert table["n"].tolist() == [4, 4, 4, 0]
    assert table["median_change"].tolist()[:2] == [1.0, 0.0]
    assert table["spearman"].tolist()[:3] == [1.0, 1.0, -1.0]
    assert table.iloc[3][["median_change", "spearman", "concordance"]].isna().all()
    # Neither the order of the cases nor how they are divided among jobs changes a byte.
    again = dict(sorted(entries.items()))
    build_sensitivity_table(CohortTask({}, [], {"sensitivity": again}, {}, tmp_path / "again"))
    assert (tmp_path / "tables/sensitivity.csv").read_bytes() == (
        tmp_path / "again/tables/sensitivity.csv"
    ).read_bytes()


def test_files_of_different_parameters_are_refused(tmp_path: Path) -> None:
    entries = {"a": _entry(tmp_path, "a", 1.0), "b": _entry(tmp_path, "b", 2.0, columns=("f", "h"))}
    with pytest.raises(CohortError, match="same features"):
        build_sensitivity_table(CohortTask({}, [], {"sensitivity": entries}, {}, tmp_path))


def test_a_case_without_the_roi_is_missing_there_alone() -> None:
    with_both = {("a", "baseline", ""): [1.0], ("a", "bin_width", "5"): [2.0]}
    cases = [with_both, {("b", "baseline", ""): [1.0], ("b", "bin_width", "5"): [3.0]}, with_both]
    rows = sensitivity_rows(["f"], cases, {"bin_width": "25"})
    assert [(row.roi, row.n, row.median_change) for row in rows] == [("a", 2, 1.0), ("b", 1, 2.0)]


def test_every_column_is_explained() -> None:
    assert all(len(row["meaning"]) > 10 for row in codebook_rows("sensitivity", SENSITIVITY_COLUMNS))
