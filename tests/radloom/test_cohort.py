"""Everything that is wrong with the sheets is found at once, with its line, and without a patient's name."""

from pathlib import Path

import pytest

from radloom.cohort import read_cohort, read_sheet, repeated_patients, source_path

HEADER = "case_id\tcentre\timage\tmask\troi_name\twater_hu\tair_hu\n"


def cohort(tmp_path: Path, text: str) -> tuple[list[dict[str, str]], str]:
    path = tmp_path / "cohort.tsv"
    path.write_text(text)
    sheet, problems = read_cohort(path)
    return sheet.rows, "\n".join(problems)


def test_a_good_sheet_has_no_problem_and_patients_are_filled_in(tmp_path: Path) -> None:
    rows, problems = cohort(
        tmp_path, "# a comment\n" + HEADER + "P1\tA\tp1.nii.gz\t\t\t-3.5\t-990\n\nP2\tA\tp2.mha\t\t\t\t\n"
    )
    assert problems == ""
    assert [row["patient_id"] for row in rows] == ["P1", "P2"]
    assert rows[0]["water_hu"] == "-3.5"


def test_csv_is_read_by_its_ending(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('\ufeffa,b\n"1,5",2\n', encoding="utf-8")
    sheet, problems = read_sheet(tmp_path / "t.csv", "table")
    assert not problems
    assert sheet.rows == [{"a": "1,5", "b": "2"}]
    assert sheet.lines == [2]


REPEATS = "case_id\tpatient_id\tcentre\timage\trepeat_id\n"


def test_repeats_of_a_patient_are_found(tmp_path: Path) -> None:
    rows, problems = cohort(
        tmp_path,
        REPEATS + "A1\tA\tX\ti\ttest\nA2\tA\tX\ti\tretest\nB1\tB\tX\ti\ttest\nC1\tC\tX\ti\t\nC2\tC\tX\ti\t\n",
    )
    assert problems == ""
    assert {p: [r["case_id"] for r in own] for p, own in repeated_patients(rows).items()} == {"A": ["A1", "A2"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("A1\tA\tX\ti\t1\nA2\tA\tX\ti\t1\n", "line 3: the patient has this repeat_id already, line 2"),
        ("A1\tA\tX\ti\t1\nA2\tA\tX\ti\t\n", "line 3: some rows of the patient have a repeat_id and some don't"),
        ("A1\tA\tX\ti\t\nA2\tA\tX\ti\t2\n", "line 3: some rows of the patient have a repeat_id and some don't"),
        ("A1\tA\tX\ti\tJane Doe\n", "line 2: repeat_id is not"),
        ("A1\tA\tX\ti\tNA\n", "line 2: repeat_id is not"),
    ],
)
def test_a_mistake_in_the_repeats_is_named_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    _, problems = cohort(tmp_path, REPEATS + row)
    assert message in problems
    assert "Jane" not in problems


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("Jane Doe\tA\ti\n", "line 2: case_id is not"),
        ("-P\tA\ti\n", "line 2: case_id is not"),
        ("P" * 65 + "\tA\ti\n", "line 2: case_id is not"),
        ("P1\t../x\ti\n", "line 2: centre is not"),
        ("P1\tA\ti\nP1\tA\tj\n", "line 3: duplicate case_id, first on line 2"),
        ("P1\tA\ti\np1\tA\tj\n", "line 3: duplicate case_id, first on line 2"),
        ("P1\tSite_A\ti\nP2\tsite-a\ti\n", "a centre written 2 ways: Site_A (line 2), site-a (line 3)"),
        ("P1\tA\t\n", "line 2: no image"),
        ("NA\tA\ti\n", "line 2: case_id reads like a missing value"),
        ("P1\tnan\ti\n", "line 2: centre reads like a missing value"),
        ("P1\tA\ti\tm\t\t3\t\n", "line 2: water_hu without air_hu"),
        ("P1\tA\ti\tm\t\tx\t-1000\n", "line 2: water_hu is not a number"),
        ("P1\tA\ti\tm\t\t0\tnan\n", "air_hu is further than"),
        ("P1\tA\ti\tm\t\t0\t-400\n", "further than 200 HU from -1000"),
        ("P1\tA\ti\tm\t1 2\t\t\n", "line 2: roi_name"),
        ("P1\tA\ti\tm\tr\t0\t-1000\textra\n", "line 2: 8 cells, but 7 columns"),
    ],
)
def test_each_mistake_is_named_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    _, problems = cohort(tmp_path, HEADER + row)
    assert message in problems
    assert "Jane" not in problems


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("0\t-1000\t1\t", "line 2: water_hu_sd without air_hu_sd"),
        ("\t\t1\t1", "line 2: water_hu_sd without water_hu"),
        ("0\t-1000\t0\t1", "line 2: water_hu_sd is not above 0"),
        ("0\t-1000\t1\tnan", "line 2: air_hu_sd is not above 0"),
        ("0\t-1000\t1\tJane", "line 2: air_hu_sd is not a number"),
    ],
)
def test_sds_of_water_and_air_are_numbers_with_their_values(tmp_path: Path, cells: str, message: str) -> None:
    header = "case_id\tcentre\timage\twater_hu\tair_hu\twater_hu_sd\tair_hu_sd\n"
    _, problems = cohort(tmp_path, f"{header}P1\tA\ti\t{cells}\n")
    assert message in problems
    assert "Jane" not in problems
    assert cohort(tmp_path, f"{header}P1\tA\ti\t0\t-1000\t1.5\t2\n")[1] == ""


def test_a_sheet_without_its_columns_says_which(tmp_path: Path) -> None:
    assert "column missing: centre, image" in cohort(tmp_path, "case_id\nP1\n")[1]
    assert "is empty" in cohort(tmp_path, "")[1]
    assert "no case" in cohort(tmp_path, HEADER)[1]
    assert "does not exist" in "".join(read_cohort(tmp_path / "none.tsv")[1])


def test_paths_count_from_the_sheet(tmp_path: Path) -> None:
    assert source_path(tmp_path / "cohort.tsv", "images/a.nii") == tmp_path / "images/a.nii"
    assert source_path(tmp_path / "cohort.tsv", "/data/a.nii") == Path("/data/a.nii")


@pytest.mark.parametrize("note", ['"5 mm slab', 'a "quoted" word', '"two\nlines"'])
def test_a_stray_quote_is_told_and_swallows_no_case(tmp_path: Path, note: str) -> None:
    text = f"case_id\tcentre\timage\tnote\nP1\tA\ti\t{note}\nP2\tA\tj\t\nP3\tA\tk\t\n"
    rows, problems = cohort(tmp_path, text)
    assert len(rows) == 3 or "line 2: a quot" in problems


def test_names_that_stand_in_the_wrong_place_are_not_repeated(tmp_path: Path) -> None:
    _, problems = cohort(tmp_path, "Jane\tJane\tDoe\n")
    assert "number 2" in problems
    _, problems = cohort(tmp_path, HEADER + "P1\tJane Doe\ti\nP2\tjane doe\ti\n")
    assert "Jane" not in problems


def test_one_patient_written_two_ways_would_be_two(tmp_path: Path) -> None:
    (tmp_path / "c.tsv").write_text("case_id\tpatient_id\tcentre\timage\nA1\tP1\tA\ti\nA2\tp1\tA\tj\n")
    assert "a patient_id written 2 ways: P1 (line 2), p1 (line 3)" in "".join(read_cohort(tmp_path / "c.tsv")[1])
