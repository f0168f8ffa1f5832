"""Clean values of the acquisition table, what the cohort sheet adds to headers, days from a patient's first scan."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.acquisition import (
    COLUMNS,
    NAMED,
    RANGES,
    SCAN_DAY,
    SHIFTED_DAY,
    cell,
    clean,
    contrast_given,
    join_sheet,
)


@pytest.mark.parametrize(
    ("column", "raw", "expected"),
    [
        ("manufacturer", "SIEMENS", "Siemens"),
        ("manufacturer", "Siemens Healthineers", "Siemens"),
        ("manufacturer", "GE MEDICAL SYSTEMS", "GE"),
        ("manufacturer", "General Electric Company", "GE"),
        ("manufacturer", "Philips Medical Systems", "Philips"),
        ("manufacturer", "TOSHIBA", "Canon"),
        ("manufacturer", "CANON_MEDICAL", "Canon"),
        ("manufacturer", "Gentle Scanners", "Gentle Scanners"),
        ("scanner_model", " Discovery  ST ", "Discovery ST"),
        ("kernel", "STD+", "STD+"),
        ("kernel", "B30f\nsecond line", "B30f second line"),
        ("kernel", "Doe^John", None),
        ("kernel", "x" * 33, None),
        ("kernel", "N/A", None),
        ("software", "1.2.840.113619.2.55.3", None),
        ("software", "syngo CT 2012B", "syngo CT 2012B"),
        ("kvp", "120", 120.0),
        ("kvp", "120 kV", None),
        ("kvp", "1200", None),
        ("kvp", "nan", None),
        ("kvp", "inf", None),
        ("slice_thickness", "3.26999999999998", 3.27),
        ("slice_thickness", "-1", None),
        ("gantry_tilt", "-0.0", 0.0),
        ("contrast", "YES", "yes"),
        ("contrast", "Omnipaque 350 given by Dr. Doe", None),
    ],
)
def test_values_are_cleaned(column: str, raw: object, expected: object) -> None:
    assert clean(column, raw) == expected


def test_a_column_that_the_table_has_not_is_an_error() -> None:
    with pytest.raises(KeyError):
        clean("patient_name", "x")


@given(st.sampled_from(COLUMNS), st.text(max_size=60) | st.floats() | st.integers())
def test_whatever_is_cleaned_is_short_and_plain_or_within_its_range(column: str, raw: object) -> None:
    value = clean(column, raw)
    if isinstance(value, float):
        least, largest = RANGES[column]
        assert least - 1e-3 <= value <= largest + 1e-3
    elif value is not None:
        assert len(value) <= 32
        assert value.isascii()
        assert value.isprintable()
        assert clean(column, value) == value


@pytest.mark.parametrize("agent", ["NONE", "no", "w/o", "Without contrast", "native."])
def test_words_that_say_there_was_no_contrast(agent: str) -> None:
    assert contrast_given(agent) == "no"


@pytest.mark.parametrize("agent", ["APPLIED", "Omnipaque 350", "oral & iv", "GASTRO"])
def test_any_other_agent_is_one(agent: str) -> None:
    assert contrast_given(agent) == "yes"


def _case(name: str, patient: str = "", **cells: str) -> dict[str, str]:
    return {"case_id": name, "patient_id": patient or name, "centre": "A", **cells}


def test_the_sheet_fills_and_corrects_headers_and_a_difference_is_told_without_its_values() -> None:
    cases = [
        _case("same", kernel="b30F", kvp="120.0"),
        _case("other", kernel="B70s"),
        _case("nifti", kernel="B40f", manufacturer="siemens ag"),
        _case("odd", kernel="name: Doe, John", kvp="NA"),
    ]
    headers: dict[str, dict[str, Any]] = {name: {"kernel": "B30f", "kvp": 120.0} for name in ("same", "other", "odd")}
    found, warnings = join_sheet(cases, headers)
    assert {name: row["kernel"] for name, row in found.items()} == {
        "same": "B30f", "other": "B70s", "nifti": "B40f", "odd": "B30f",
    }  # fmt: skip
    assert found["nifti"]["manufacturer"] == "Siemens"
    assert found["odd"]["kvp"] == 120.0
    assert all(set(row) == set(NAMED) for row in found.values())
    assert [case for case, _ in warnings] == ["other", "odd"]
    assert "kernel differs" in warnings[0][1]
    assert "no possible value" in warnings[1][1]
    assert not any(word in text for _, text in warnings for word in ("Doe", "B70s", "B30f"))


def test_days_count_from_each_patients_first_scan() -> None:
    cases = [_case("a2", "a"), _case("a1", "a"), _case("a3", "a"), _case("b1", "b"), _case("c1", "c")]
    days = {"a2": 1_000_031, "a1": 1_000_000, "b1": 55}
    found, warnings = join_sheet(cases, {name: {SHIFTED_DAY: day} for name, day in days.items()})
    assert {name: row[SCAN_DAY] for name, row in found.items()} == {"a2": 31, "a1": 0, "a3": None, "b1": 0, "c1": None}
    assert not warnings
    assert all(SHIFTED_DAY not in row for row in found.values())


def test_days_of_the_sheet_count_only_for_a_patient_without_dates() -> None:
    cases = [
        _case("a1", "a", scan_day="5"), _case("a2", "a", scan_day="12"), _case("a3", "a", scan_day="2005-04-15"),
        _case("b1", "b", scan_day="3"), _case("b2", "b"),
    ]  # fmt: skip
    found, warnings = join_sheet(cases, {"b2": {SHIFTED_DAY: 77}})
    assert [found[name][SCAN_DAY] for name in ("a1", "a2", "a3", "b1", "b2")] == [0, 7, None, None, 0]
    assert [case for case, _ in warnings] == ["a3", "b1"]
    assert "2005" not in str(warnings)


def test_whole_numbers_are_written_without_a_point() -> None:
    assert [cell(value) for value in (120.0, 0.938, None, "B30f")] == [120, 0.938, None, "B30f"]
