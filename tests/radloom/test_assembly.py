"""How the tables are joined for harmonisation and models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statistics_cohort import cohort_tables, configuration

from radloom.assembly import (
    assemble,
    binary,
    code_words,
    is_numeric,
    levels_of,
    listed,
    read_by_hand,
    read_text_table,
    stable_features,
    type_predictors,
)
from radloom.errors import CohortError


def test_columns_come_from_the_clinical_table_then_from_the_cohort() -> None:
    tables = cohort_tables(20)
    rows = tables.features
    assert list(tables.column("kernel", rows)) == list(tables.cases["kernel"])
    assert list(tables.column("age", rows[::-1])) == list(tables.patients["age"][::-1])
    assert list(tables.column("centre", rows)) == list(rows["centre"])
    with pytest.raises(CohortError, match=r"no column 'weight'.*age"):
        tables.column("weight", rows)


def test_the_roi_must_be_clear() -> None:
    tables = cohort_tables(20, rois=("tumour", "liver"))
    with pytest.raises(CohortError, match=r"model\.roi.*tumour, liver"):
        tables.of_roi(None)
    with pytest.raises(CohortError, match="no features of the ROI 'lung'"):
        tables.of_roi("lung")
    assert set(tables.of_roi("liver")["roi"]) == {"liver"}


def test_one_case_a_patient_sorted_and_counted() -> None:
    tables = cohort_tables(20)
    tables.features.loc[3, "patient_id"] = "P001"
    problems = {"without an outcome": ["K000"]}
    data = assemble(type(tables)(tables.features[::-1], tables.cases, tables.patients), configuration(), problems)
    assert list(data.features.index) == sorted(data.features.index)
    # The sheet is read upside down here: K003 comes before K001.
    assert "K001" not in data.features.index
    assert "K000" not in data.features.index
    assert problems["further cases of a patient, of whom the first in the cohort sheet is used"] == ["K001"]


def test_excluded_batches_leave_the_model() -> None:
    tables = cohort_tables(40)
    tables.features.loc[:1, "centre"] = "small"
    problems: dict[str, list[str]] = {}
    data = assemble(tables, configuration(harmonize__small_batch="exclude"), problems)
    assert len(data.features) == 38
    assert problems["cases of small batches (harmonize.small_batch: exclude)"] == ["K000", "K001"]


def test_features_by_pattern() -> None:
    data = assemble(cohort_tables(20), configuration(model__features=["f1*", "f3"]), {})
    assert list(data.features.columns) == ["f1", "f3", "f10", "f11"]
    with pytest.raises(CohortError, match="no feature matches"):
        assemble(cohort_tables(20), configuration(model__features=["g*"]), {})
    with pytest.raises(CohortError, match="no case is left"):
        assemble(cohort_tables(20), configuration(), {"gone": [f"K{number:03d}" for number in range(20)]})


def stability_of(**lows: float) -> pd.DataFrame:
    """The table of the step `stability`: ROI tumour, perturbations, lower end and estimate of each feature."""
    rows = [("tumour", "perturbation", "ICC(1,1)", "all", name, low, low + 0.1) for name, low in lows.items()]
    # What the filter must not look at.
    rows += [("tumour", "perturbation", "ICC(1,1)", "centre", name, 0.0, 0.0) for name in lows]
    rows += [("liver", "perturbation", "ICC(1,1)", "all", name, 0.0, 0.0) for name in lows]
    return pd.DataFrame(rows, columns=["roi", "source", "icc", "scope", "feature", "ci_low", "estimate"])


def test_the_filter_by_stability() -> None:
    names = ["a", "b", "c", "d", "e"]
    table = stability_of(a=0.9, b=0.74, c=0.75, d=np.nan)
    kept, told = stable_features(table, "tumour", names, 0.75, "lower")
    assert kept == ["a", "c"]
    assert told == (
        "3 of 5 features left out by model.min_icc 0.75 (the lower end of the 95 % interval of ICC(1,1) "
        "(perturbation)): 1 below, 2 without a coefficient"
    )
    assert stable_features(table, "tumour", names, 0.75, "estimate")[0] == ["a", "b", "c"]
    # With real repeats a feature must pass both; the consistency form doesn't count.
    repeats = stability_of(a=0.5, b=0.9, c=0.9).assign(source="repeats", icc="ICC(2,1)")
    consistent = stability_of(a=0.99, b=0.99, c=0.99, d=0.99).assign(source="repeats", icc="ICC(3,1)")
    both = pd.concat([table, repeats, consistent])
    kept, told = stable_features(both, "tumour", names, 0.75, "lower")
    assert kept == ["c"]
    assert "ICC(1,1) (perturbation) and ICC(2,1) (repeats)): 2 below, 2 without a coefficient" in told


def test_the_filter_refuses_what_it_cannot_judge() -> None:
    with pytest.raises(CohortError, match="needs the table"):
        stable_features(None, "tumour", ["a"], 0.75, "lower")
    with pytest.raises(CohortError, match="nothing of the ROI 'lung'"):
        stable_features(stability_of(a=0.9), "lung", ["a"], 0.75, "lower")
    with pytest.raises(CohortError, match="no feature is stable enough for the model: 2 of 2"):
        stable_features(stability_of(a=0.5), "tumour", ["a", "b"], 0.75, "lower")


def test_a_model_starts_from_stable_features_alone() -> None:
    tables = cohort_tables(20)
    table = stability_of(f1=0.95, f3=0.8, f4=0.2).replace({"roi": {"tumour": tables.features["roi"].iloc[0]}})
    tables = replace(tables, stability=table)
    data = assemble(tables, configuration(model__min_icc=0.75, model__icc_bound="lower"), {})
    assert list(data.features.columns) == ["f1", "f3"]
    assert data.notes[0].startswith("10 of 12 features left out by model.min_icc 0.75")
    assert assemble(tables, configuration(), {}).notes == ()


def test_predictors_are_coded() -> None:
    table = pd.DataFrame({"age": ["60", np.nan, "61.5"], "stage": ["II", "I", np.nan], "flag": [True, False, True]})
    typed = type_predictors(table)
    np.testing.assert_array_equal(typed["age"], [60, np.nan, 61.5])
    assert typed["stage"].isna().tolist() == [False, False, True]
    coded = code_words(typed.fillna({"stage": "II"}))
    assert list(coded.columns) == ["age", "stage[II]", "flag[True]"]
    np.testing.assert_array_equal(coded["stage[II]"], [1, 0, 1])
    np.testing.assert_array_equal(coded["flag[True]"], [1, 0, 1])
    with pytest.raises(CohortError, match="'empty'"):
        type_predictors(pd.DataFrame({"empty": [np.nan, np.nan]}))


@pytest.mark.parametrize("part", ["analysis_plan__covariates", "harmonize__covariates"])
def test_a_mistyped_cell_names_its_case_and_not_its_value(part: str) -> None:
    tables = cohort_tables(40)
    tables.patients.loc["P007", "age"] = "6O.1"
    with pytest.raises(
        CohortError, match="'age' has numbers and words: 1 of 40 values are no numbers, in K007"
    ) as told:
        assemble(tables, configuration(**{part: ["age"]}), {})
    assert "6O" not in str(told.value)


@pytest.mark.parametrize("part", ["analysis_plan__covariates", "harmonize__covariates"])
def test_a_column_of_many_words_is_refused(part: str) -> None:
    tables = cohort_tables(40)
    tables.patients["site"] = [f"word {number % 11}" for number in range(40)]
    with pytest.raises(CohortError, match="'site' has 11 different words"):
        assemble(tables, configuration(**{part: ["site"]}), {})
    tables.patients["site"] = [f"word {number % 10}" for number in range(40)]
    assert len(assemble(tables, configuration(**{part: ["site"]}), {}).features) == 40


def test_small_helpers() -> None:
    np.testing.assert_array_equal(binary(pd.Series(["1", "0.0", "2", "yes", np.nan])), [1, 0, np.nan, np.nan, np.nan])
    assert listed(range(7), 3) == "0, 1, 2, ... (7 in all)"
    assert is_numeric(pd.Series(["1", np.nan, "2e3"]))
    assert not is_numeric(pd.Series(["y", np.nan, "x"]))
    with pytest.raises(CohortError, match="1 of 3 values are numbers, in b"):
        is_numeric(pd.Series(["T2", "1", "T4a"], index=["a", "b", "c"], name="stage"))
    assert levels_of(pd.Series(["b", np.nan, "a", "b"])) == ["a", "b"]
    assert not is_numeric(pd.Series([np.nan]))


def test_tables_made_elsewhere(tmp_path: Path) -> None:
    value = 0.1 + 0.2
    (tmp_path / "f.csv").write_text(f"case_id,scanner,x.a\n007,A,{value!r}\nb,B,2\n")
    (tmp_path / "c.tsv").write_text("case_id\tcentre\tage\nb\tN\t50\n007\tM\tNA\n")
    tables = read_by_hand(tmp_path / "f.csv", tmp_path / "c.tsv", "centre")
    assert list(tables.features["centre"]) == ["M", "N"]
    assert tables.feature_names == ["x.a"]
    assert tables.features["x.a"].iloc[0] == value
    assert list(tables.column("scanner", tables.features)) == ["A", "B"]
    assert tables.column("age", tables.features).isna().tolist() == [True, False]
    assert read_text_table(tmp_path / "c.tsv")["case_id"].tolist() == ["b", "007"]


def test_what_describes_a_case_by_hand_is_no_feature(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("case_id,died,days,scanner,x\na,1,10.5,3,0.5\nb,0,20,4,0.25\n")
    (tmp_path / "c.csv").write_text("case_id,site\na,M\nb,N\n")
    described = ["days", "died", "scanner"]
    tables = read_by_hand(tmp_path / "f.csv", tmp_path / "c.csv", "site", described)
    assert tables.feature_names == ["x"]
    assert list(tables.column("died", tables.features)) == ["1", "0"]
    assert list(tables.column("days", tables.features)) == ["10.5", "20.0"]
    assert list(tables.column("scanner", tables.features)) == ["3", "4"]
    (tmp_path / "f.csv").write_text("case_id,roi,died,x\na,r,1,0.5\na,s,0,0.25\n")
    with pytest.raises(CohortError, match="'died' of the feature table differs between ROIs of a"):
        read_by_hand(tmp_path / "f.csv", None, None, ["died"])


def test_a_feature_that_is_a_clinical_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("case_id,died,x,age,word\na,1,2,50,u\nb,0,3,60,v\n")
    (tmp_path / "c.csv").write_text("case_id,centre,died,age,word\na,M,1,50,u\nb,N,0,60,v\n")
    with pytest.raises(CohortError, match="both in the feature table and in the clinical table: died, age"):
        read_by_hand(tmp_path / "f.csv", tmp_path / "c.csv", "centre")
    tables = read_by_hand(tmp_path / "f.csv", tmp_path / "c.csv", "centre", ["died", "age"])
    assert tables.feature_names == ["x"]


@pytest.mark.parametrize(
    ("features", "clinical", "message"),
    [
        ("x\n1\n", "case_id,c\na,1\n", "needs a column case_id or patient_id"),
        ("case_id,x\na,1\na,2\n", "case_id,c\na,1\n", "cases occur twice in the feature table: a"),
        ("case_id,x\na,1\n", "name,c\na,1\n", "table needs a column"),
        ("case_id,x\na,1\n", "case_id,c\na,1\na,2\n", "case_id occurs twice"),
        ("case_id,x\na,1\nb,1\n", "case_id,c\na,1\n", "no row .* is for b"),
    ],
)
def test_tables_that_do_not_join(tmp_path: Path, features: str, clinical: str, message: str) -> None:
    (tmp_path / "f.csv").write_text(features)
    (tmp_path / "c.csv").write_text(clinical)
    with pytest.raises(CohortError, match=message):
        read_by_hand(tmp_path / "f.csv", tmp_path / "c.csv", "c")
