"""Types and descriptions of the tables of the folder, for machines and for R."""

from pathlib import Path

import pytest

from radloom.datapackage import (
    DESCRIPTIONS,
    IDENTIFIERS,
    NUMBERS,
    TEXT_IN,
    datapackage,
    describe,
    description,
    import_r,
)
from radloom.model_codebook import MODEL_COLUMNS
from radloom.model_tables import MODEL_TABLES, PLAN


def _table(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.csv"
    path.write_text(text)
    return path


def test_every_table_of_the_models_has_a_description() -> None:
    for name in MODEL_TABLES:
        assert DESCRIPTIONS[name].endswith("."), name
        assert description(name) == DESCRIPTIONS[name]


@pytest.mark.parametrize("name", sorted(MODEL_TABLES))
def test_a_table_without_rows_has_the_types_of_one_with_rows(name: str, tmp_path: Path) -> None:
    columns = MODEL_TABLES[name]
    kinds = describe(_table(tmp_path, name, ",".join(columns) + "\n")).types
    text = IDENTIFIERS | TEXT_IN.get(name, frozenset())
    for column in columns:
        assert kinds[column] == ("number" if column in NUMBERS - text else "string"), column


def test_numbers_are_columns_of_the_models() -> None:
    there = {column for columns in MODEL_COLUMNS.values() for column in columns}
    assert there >= NUMBERS
    assert not NUMBERS & IDENTIFIERS


def test_a_hash_of_digits_is_text(tmp_path: Path) -> None:
    table = describe(_table(tmp_path, "ph_test", f"model,df,{PLAN}\ncox,1,012345678901\ncox,2,123456789012\n"))
    assert table.types == {"model": "string", "df": "integer", PLAN: "string"}
    assert 'c("character", "integer", "character")' in import_r([table])


def test_a_centre_called_by_a_number_is_a_name(tmp_path: Path) -> None:
    table = describe(_table(tmp_path, "cumulative_incidence", "cause,group,time\nevent,001,20.0\nevent,all,20.0\n"))
    assert table.types == {"cause": "string", "group": "string", "time": "number"}
    numbered = describe(_table(tmp_path, "calibration_curve", "group,predicted\n1,0.2\n2,0.4\n"))
    assert numbered.types == {"group": "integer", "predicted": "number"}


def test_the_kind_of_an_outcome_is_a_word_where_it_is_one(tmp_path: Path) -> None:
    assert describe(_table(tmp_path, "sample_size", "outcome,met\nbinary,True\n")).types == {
        "outcome": "string",
        "met": "boolean",
    }
    assert describe(_table(tmp_path, "predictions", "outcome,fold\n1,2\n0,C1\n")).types == {
        "outcome": "integer",
        "fold": "string",
    }


@pytest.mark.parametrize("plan", ["", "8744d652ce15"])
def test_the_package_names_the_plan_of_the_models(plan: str, tmp_path: Path) -> None:
    table = describe(_table(tmp_path, "inference", "model,term\ncox,age\n"))
    meanings = {("inference", "term"): {"description": "Predictor.", "unit": ""}}
    package = datapackage([table], [], meanings, "", plan)
    assert package.get("analysis_plan", "") == plan
    (resource,) = package["resources"]
    assert resource["description"] == DESCRIPTIONS["inference"]
    assert resource["schema"]["fields"][1] == {"name": "term", "type": "string", "description": "Predictor."}


def test_the_acquisition_has_the_same_types_whatever_is_known(tmp_path: Path) -> None:
    path = tmp_path / "acquisition.csv"
    path.write_text("case_id,kernel,kvp,scan_day,contrast\nc1,30,,,\n")
    assert list(describe(path).types.values()) == ["string", "string", "number", "number", "string"]
