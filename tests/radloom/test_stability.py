"""The table of stability: who counts, in which scope, and what is said of few cases."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from radloom.engine.step import CohortTask, Entry
from radloom.errors import CohortError
from radloom.icc import icc_1_1, icc_2_1, icc_3_1
from radloom.stability import (
    COLUMNS,
    few_cases_warnings,
    perturbation_values,
    repeat_values,
    run_step,
    stability_rows,
)

FEATURES = ["original_firstorder_Mean", "original_shape_MeshVolume"]


def write_perturbed(path: Path, rows: list[tuple[str, int, list[float | None]]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["roi", "perturbation", *FEATURES])
        writer.writerows([roi, n, *("" if v is None else repr(v) for v in values)] for roi, n, values in rows)
    return path


def case(case_id: str, patient: str = "", centre: str = "A", repeat: str = "") -> dict[str, str]:
    return {"case_id": case_id, "patient_id": patient or case_id, "centre": centre, "repeat_id": repeat}


def test_perturbations_are_stacked_by_number_and_a_patient_counts_once(tmp_path: Path) -> None:
    files = {
        "a": write_perturbed(tmp_path / "a", [("t", 1, [1.0, 2.0]), ("t", 2, [3.0, None]), ("n", 1, [9.0, 9.0])]),
        "a2": write_perturbed(tmp_path / "a2", [("t", 1, [50.0, 50.0]), ("u", 1, [7.0, 8.0])]),
        "b": write_perturbed(tmp_path / "b", [("t", 2, [6.0, 7.0])]),
    }
    cases = [case("b", centre="B"), case("x"), case("a", "P"), case("a2", "P")]
    found = perturbation_values(cases, files)
    assert list(found) == ["t", "n", "u"]
    features, centres, values = found["t"]
    assert (features, centres) == (FEATURES, ["B", "A"])
    nan = np.nan
    np.testing.assert_array_equal(values, [[[nan, nan], [6, 7]], [[1, 2], [3, nan]]])
    # The second scan of a patient stands for an ROI that the first one lacks.
    np.testing.assert_array_equal(found["u"][2], [[[7, 8]]])


def features_of(values: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [[c, c, "A", roi, *v] for (c, roi), v in values.items()]
    return pd.DataFrame(rows, columns=["case_id", "patient_id", "centre", "roi", *FEATURES])


def test_repeats_are_matched_by_their_name_not_by_their_place() -> None:
    cases = [
        case("p1a", "p1", repeat="reader1"),
        case("p2b", "p2", repeat="reader2"),
        case("p2a", "p2", repeat="reader1"),
        case("p1b", "p1", "B", repeat="reader2"),
        case("p3a", "p3", repeat="reader1"),
        case("p3b", "p3", repeat="reader2"),
        case("lonely", repeat="reader1"),
        case("plain"),
    ]
    table = features_of({(c["case_id"], "t"): [i, 10.0 + i] for i, c in enumerate(cases) if c["case_id"] != "p3b"})
    features, centres, values = repeat_values(cases, table)["t"]
    assert features == FEATURES
    assert centres == ["", "A", "A"], "the first patient's repeats are of two centres"
    np.testing.assert_array_equal(values[:, :, 0], [[0, 3], [2, 1], [4, np.nan]])
    assert repeat_values(cases[-2:], table) == {}
    with pytest.raises(CohortError, match="patient p1 has the same repeat_id twice"):
        repeat_values([case("p1a", "p1", repeat="r"), case("p1b", "p1", repeat="r")], table)


def test_rows_over_all_and_within_centres() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 1, 2)) * [2, 0] + rng.normal(size=(9, 3, 2))
    centres = ["B"] * 4 + ["A"] * 4 + [""]
    table = pd.DataFrame(stability_rows("repeats", "t", FEATURES, centres, values), columns=COLUMNS)
    assert len(table) == 3 * 3 * 2
    assert list(dict.fromkeys(zip(table["scope"], table["centre"], strict=True))) == [
        ("all", ""),
        ("centre", "B"),
        ("centre", "A"),
    ]
    for form, rows, scope, centre in (
        (icc_1_1, slice(None), "all", ""),
        (icc_2_1, slice(0, 4), "centre", "B"),
        (icc_3_1, slice(4, 8), "centre", "A"),
    ):
        expected = form(values[rows])
        mine = table[(table["icc"] == expected.form) & (table["scope"] == scope) & (table["centre"] == centre)]
        np.testing.assert_array_equal(mine["estimate"], expected.estimate)
        np.testing.assert_array_equal(mine["ci_low"], expected.low)
        np.testing.assert_array_equal(mine["ci_high"], expected.high)
    one_centre = stability_rows("perturbation", "t", FEATURES, ["A"] * 9, values)
    assert [row[4] for row in one_centre] == ["all", "all"], "within the only centre it is the same"


def test_few_cases_and_perturbations_are_warned_of() -> None:
    values = np.random.default_rng(0).normal(size=(29, 2, 2))
    table = pd.DataFrame(stability_rows("perturbation", "t", FEATURES, ["A"] * 29, values), columns=COLUMNS)
    messages = few_cases_warnings(table)
    assert messages[0].startswith("stability of ROI t, perturbation, ICC(1,1): 29 cases, fewer than 30")
    assert messages[1] == "stability of ROI t: 2 perturbations a case, fewer than 3"
    many = np.random.default_rng(0).normal(size=(30, 3, 2))
    table = pd.DataFrame(stability_rows("perturbation", "t", FEATURES, ["A"] * 30, many), columns=COLUMNS)
    assert few_cases_warnings(table) == []


def test_the_step_reads_what_the_workflow_gives_it(tmp_path: Path) -> None:
    cases = [case(f"c{i}", f"p{i // 2}", repeat="ab"[i % 2]) for i in range(8)]
    pd.DataFrame(cases).to_csv(tmp_path / "cohort.csv", index=False)
    rng = np.random.default_rng(3)
    kept = cases[:7]
    features_of({(c["case_id"], "t"): rng.normal(size=2).tolist() for c in kept}).to_parquet(tmp_path / "raw.parquet")
    entries = {}
    for i, c in enumerate(cases):
        path = write_perturbed(tmp_path / c["case_id"], [("t", n, rng.normal(size=2).tolist()) for n in (1, 2, 3)])
        entries[c["case_id"]] = Entry("ok", "", "", {}, ["t: something"] if i == 0 else [], {"features.csv": path})
    entries["c2"] = Entry("excluded", "the ROI is empty", "", {}, [], {})
    inputs = {"tables/cohort.csv": tmp_path / "cohort.csv", "tables/features_raw.parquet": tmp_path / "raw.parquet"}
    result = run_step(CohortTask({}, [], {"perturb": entries}, inputs, tmp_path / "out"))
    table = pd.read_csv(tmp_path / "out" / "tables" / "stability.csv", keep_default_na=False)
    assert list(table.columns) == COLUMNS
    whole = table[table["feature"] == FEATURES[0]].set_index(["source", "icc"])["n_cases"]
    # c2 is excluded: c3 stands for its patient; c7 has no features.
    assert whole.to_dict() == {
        ("perturbation", "ICC(1,1)"): 4,
        ("repeats", "ICC(1,1)"): 4,
        ("repeats", "ICC(2,1)"): 3,
        ("repeats", "ICC(3,1)"): 3,
    }
    assert "c0: t: something" in result.warnings
    assert "1 cases have features but could not be perturbed: the ROI is empty" in result.warnings
    assert result.facts["sources"] == ["perturbation", "repeats"]


def test_nothing_to_compare_gives_an_empty_table(tmp_path: Path) -> None:
    pd.DataFrame([case("c0")]).to_csv(tmp_path / "cohort.csv", index=False)
    features_of({("c0", "t"): [1.0, 2.0]}).to_parquet(tmp_path / "raw.parquet")
    inputs = {"tables/cohort.csv": tmp_path / "cohort.csv", "tables/features_raw.parquet": tmp_path / "raw.parquet"}
    run_step(CohortTask({}, [], {}, inputs, tmp_path / "out"))
    assert (tmp_path / "out" / "tables" / "stability.csv").read_text() == ",".join(COLUMNS) + "\n"
