"""Subgroups hold every case once, and missing values are a group of their own."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.errors import CohortError
from radloom.subgroups import AGE_CUTS, band_labels, subgroups


def as_lists(groups: dict[str, np.ndarray]) -> dict[str, list[int]]:
    return {label: positions.tolist() for label, positions in groups.items()}


def test_age_has_its_groups_by_default() -> None:
    ages = pd.Series([49.9, 50, 64.9, np.nan, 65, 74, 75, 91, 30])
    assert as_lists(subgroups(ages, "age")) == {
        "<50": [0, 8],
        "50-64": [1, 2],
        "65-74": [4, 5],
        ">=75": [6, 7],
        "not known": [3],
    }
    assert list(subgroups(ages, "Age", (60,))) == ["<60", ">=60", "not known"]
    assert list(subgroups(pd.Series(["40", " 70 ", ""]), "age")) == ["<50", "65-74", "not known"]
    assert list(subgroups(pd.Series([40, 41]), "age", ())) == ["40", "41"]


def test_words_and_codes_are_groups_in_order() -> None:
    scanners = pd.Series(["B", None, " A", "B ", "A", "  "], index=list("uvwxyz"))
    assert as_lists(subgroups(scanners, "scanner")) == {"A": [2, 4], "B": [0, 3], "not known": [1, 5]}
    assert as_lists(subgroups(pd.Series([10.0, 2.0, np.nan]), "sex")) == {"2": [1], "10": [0], "not known": [2]}
    # The words "not known" and an empty cell mean the same; the group stays the last.
    said = subgroups(pd.Series(["not known", "z", None]), "scanner")
    assert as_lists(said) == {"z": [1], "not known": [0, 2]}
    assert list(said) == ["z", "not known"]
    coded = pd.Series(pd.Categorical(["F", "M", None]))
    assert list(subgroups(coded, "sex")) == ["F", "M", "not known"]


@given(st.lists(st.one_of(st.none(), st.floats(0, 120), st.integers(0, 120)), max_size=40))
def test_every_case_is_in_one_group(ages: list[float | None]) -> None:
    groups = subgroups(pd.Series(ages, dtype=object), "age")
    together = np.concatenate([*groups.values(), np.empty(0)])
    assert sorted(together) == list(range(len(ages)))
    assert all(len(positions) for positions in groups.values())


def test_labels_of_bands() -> None:
    assert band_labels(AGE_CUTS) == ["<50", "50-64", "65-74", ">=75"]
    assert band_labels([1.5, 2.5]) == ["<1.5", "1.5 to <2.5", ">=2.5"]
    assert band_labels([2, 3, 5]) == ["<2", "2", "3-4", ">=5"]


def test_what_is_no_grouping_is_refused() -> None:
    with pytest.raises(CohortError, match=r"no number in c1, c3; correct it"):
        subgroups(pd.Series([50, "old", 60, np.inf], index=["c0", "c1", "c2", "c3"]), "age")
    with pytest.raises(CohortError, match="40 different values"):
        subgroups(pd.Series([f"scanner {number}" for number in range(40)]), "scanner")
    assert [len(rows) for rows in subgroups(pd.Series(np.arange(42)), "bmi").values()] == [14, 14, 14]
    with pytest.raises(ValueError, match="must ascend"):
        subgroups(pd.Series([1.0]), "age", (60, 50))
