"""The proposed cohort sheet is read by the workflow as it is, tells nobody's name, and accounts for every series."""

import csv
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import ct_datasets, phantom, write_datasets
from dicom_masks import Drawn, rtstruct, save, write_seg

from radloom.cohort import read_cohort, source_path
from radloom.dicom.source import read_image, read_mask
from radloom.dicom.tree import read_tree
from radloom.source_cells import Selection, Sources

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (12, 16, 20)
SQUARE = np.array([[-48.0, 33], [-42, 33], [-42, 40], [-48, 40]])  # mm; the image begins at (-50, 30, 700)


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = repo / "workflow/scripts/propose_cohort.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def ct(
    folder: Path, series: str, patient: str, *, frame: str = "1.9.1", shape=SHAPE, names=None, **fields: object
) -> list:
    """Write a series, and return its datasets."""
    common = {
        "PatientID": patient,
        "PatientName": "DOE^JANE",
        "StudyDate": "20200102",
        "ManufacturerModelName": "iCT 7",
    }
    datasets = ct_datasets(
        phantom(shape), series=series, study=f"{series}.99", frame_of_reference=frame, **{**common, **fields}
    )
    write_datasets(folder, datasets, names=names)
    return datasets


def drawn(path: Path, series: str, frame: str = "1.9.1", rois=("GTV",), uid: str = "1.2.3.4") -> None:
    contours = [Drawn(np.column_stack([SQUARE, np.full(4, 700 + 2.5 * z)])) for z in range(3, 7)]
    dataset = rtstruct(dict.fromkeys(rois, contours), frame=frame, series_uid=series)
    dataset.SOPInstanceUID = uid
    dataset.SeriesInstanceUID = f"{uid}.5"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six patients, with nearly everything that is found in trees of DICOM."""
    root = tmp_path_factory.mktemp("tree") / "dicom"
    # Alone in its folder, with an RTSTRUCT elsewhere.
    ct(root / "a_DOE_JANE" / "ct", "1.1", "DOE-1", InstitutionName="St. Elsewhere", SliceThickness="2.5")
    drawn(root / "a_DOE_JANE" / "plans" / "x.dcm", "1.1")
    # Two series in one folder, of two kernels; files without an ending; a SEG and an RTSTRUCT of the first.
    both = root / "b" / "all in one"
    images = ct(
        both, "1.2", "DOE-2", frame="1.9.2", names=[f"s{k}" for k in range(12)], InstitutionName="ST ELSEWHERE "
    )
    ct(both, "1.3", "DOE-2", frame="1.9.2", names=[f"t{k}" for k in range(12)], ConvolutionKernel="B70f",
       InstitutionName="st elsewhere")  # fmt: skip
    mask = np.zeros(SHAPE, np.uint8)
    mask[3:6, 4:9, 5:11] = 1
    write_seg(both / "seg", images, mask, labels=["Doe's tumour"])
    drawn(both / "rt", "1.2", "1.9.2", uid="1.2.3.44")
    # A localizer, few slices, another modality, a secondary capture, missing slices.
    ct(root / "c" / "scout", "1.4", "DOE-3", shape=(2, 16, 20), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    ct(root / "c" / "few", "1.5", "DOE-3", shape=(5, 16, 20))
    ct(root / "c" / "mr", "1.6", "DOE-3", Modality="MR")
    ct(root / "c" / "sc", "1.7", "DOE-3", shape=(1, 16, 20), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    holes = ct_datasets(phantom(SHAPE), series="1.8", PatientID="DOE-3")
    write_datasets(root / "c" / "holes", holes[:4] + holes[6:])
    # A second copy of the first patient's series, and of its RTSTRUCT.
    for file in (root / "a_DOE_JANE").rglob("*.dcm"):
        copy = root / "z copies" / file.relative_to(root / "a_DOE_JANE")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    # One series over two folders; an RTSTRUCT with two ROIs.
    spread = ct_datasets(
        phantom(SHAPE), series="1.10", frame_of_reference="1.9.4", PatientID="DOE-4", InstitutionName="Other"
    )
    write_datasets(root / "d" / "1", spread[:6])
    write_datasets(root / "d" / "2", spread[6:])
    drawn(root / "d" / "rt.dcm", "1.10", "1.9.4", rois=("GTV Doe", "lung"), uid="1.2.3.45")
    # An RTSTRUCT of nobody; no DICOM; a damaged file beside a series; a series without UIDs.
    drawn(root / "e" / "rt.dcm", "9.9", "1.9.9", uid="1.2.3.46")
    (root / "e" / "notes of Doe.txt").write_text("Jane Doe, born 1950")
    ct(root / "f", "1.11", "DOE-5")
    whole = (root / "f" / "0003.dcm").read_bytes()
    (root / "f" / "0003.dcm").write_bytes(whole[:300])
    ct(root / "g", "1.12", "", frame="1.9.7", SeriesInstanceUID=None, StudyInstanceUID=None)
    return root


@pytest.fixture(scope="module")
def proposed(repo: Path, tree: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    sheet = tree.parent / "sheets" / "cohort.tsv"
    sheet.parent.mkdir()
    done = run(
        repo, tree, "--out", sheet, "--key", sheet.with_name("key.tsv"), "--left-out", sheet.with_name("left.tsv")
    )
    assert done.returncode == 0, done.stderr
    return sheet, done


def by_series(sheet: Path) -> dict[str, dict[str, str]]:
    """The rows by what of the image's path tells them apart."""
    key = {row["pseudonym"]: row["identifier"] for row in table(sheet.with_name("key.tsv")) if row["kind"] == "case"}
    return {key[row["case_id"]]: row for row in table(sheet)}


def test_a_row_for_each_series_that_could_be_a_case(proposed):
    rows = by_series(proposed[0])
    assert sorted(uid for uid in rows if "/" not in uid) == ["1.1", "1.10", "1.2", "1.3"]
    assert len(rows) == 5  # and the one without UIDs
    first = rows["1.1"]
    assert (first["image"], first["series"]) == ("../dicom/a_DOE_JANE/ct", "")
    assert (first["mask"], first["mask_roi"]) == ("../dicom/a_DOE_JANE/plans/x.dcm", "")
    assert [first[c] for c in ("scanner_model", "kernel", "slice_thickness", "slices")] == [
        "iCT 7",
        "B30f",
        "2.5",
        "12",
    ]
    assert rows["1.2"]["series"] == "1.2"
    assert rows["1.2"]["mask"] == "../dicom/b/all in one/seg"
    assert (rows["1.3"]["mask"], rows["1.3"]["kernel"]) == ("", "B70f")
    assert rows["1.10"]["image"] == "../dicom/d"


def test_the_sheet_is_read_as_it_is_and_every_case_can_be_ingested(proposed, tmp_path):
    sheet, _ = proposed
    read, problems = read_cohort(sheet)
    assert problems == []
    masks = 0
    for row in read.rows:
        selection = Selection(series=row["series"], mask_roi=row["mask_roi"])
        with Sources(tmp_path, 1.0, {}) as sources:
            image = read_image(sources.open(source_path(sheet, row["image"]), "image").dicom, selection, {})
            assert image.ct.volume.array.shape == SHAPE
            if row["mask"]:
                found = read_mask(sources.open(source_path(sheet, row["mask"]), "mask").dicom, image, selection)
                assert found.volume.array.any()
                masks += 1
    assert masks == 2


def test_patients_and_centres_are_pseudonyms(proposed):
    rows = by_series(proposed[0])
    assert rows["1.2"]["patient_id"] == rows["1.3"]["patient_id"]
    assert len({row["patient_id"] for row in rows.values()}) == 4
    assert {rows["1.2"]["case_id"], rows["1.3"]["case_id"]} == {f"{rows['1.2']['patient_id']}-{n}" for n in (1, 2)}
    assert rows["1.1"]["case_id"] == rows["1.1"]["patient_id"]
    # One institution, spelled three ways.
    assert rows["1.1"]["centre"] == rows["1.2"]["centre"] == rows["1.3"]["centre"] != rows["1.10"]["centre"]
    assert all(re.fullmatch(r"P\d{4}(-\d)?", row["case_id"]) for row in rows.values())
    assert {row["centre"] for row in rows.values()} == {"C01", "C02", "unknown"}


def test_everything_left_out_is_said_with_the_reason(proposed):
    said = proposed[1].stdout
    for line in (
        "1  CT series: only localizers",
        "1  CT series: it has fewer than the N slices that were asked for",
        "1  CT series: only secondary captures or other objects",
        "1  CT series: N slices are missing at N place, up to N in a row (slice spacing N mm)",
        "1  CT series: damaged DICOM files lie in its folder, and may be slices of it",
        "1  RTSTRUCT: it has several ROIs or segments: ask for one by --roi",
        "1  RTSTRUCT: there is a SEG of the series as well",
        "1  RTSTRUCT: the series that it was drawn on is not here, by series UID and frame of reference",
        "12  files of a second copy of a series",
        "1  files of a second copy of an RTSTRUCT or SEG",
        "12  files of other modalities: MR",
        "1  damaged DICOM",
        "1  not DICOM",
        "1 patients have several series",
    ):
        assert line in said, line
    left = table(proposed[0].with_name("left.tsv"))
    assert any("2 slices are missing" in row["reason"] and "holes" in row["file"] for row in left)


def test_nothing_of_the_patients_is_said_or_stands_in_other_columns(proposed):
    sheet, done = proposed
    for text in (done.stdout, done.stderr, *(
        cell for row in table(sheet) for column, cell in row.items() if column not in ("image", "mask", "series")
    )):  # fmt: skip
        for secret in ("doe", "jane", "elsewhere", "1.1.99", "1.9.", "20200102", str(sheet.parent.parent).lower()):
            assert secret not in text.lower(), text


def test_key_and_list_are_for_the_owner_only(proposed):
    for name in ("key.tsv", "left.tsv", "cohort.tsv"):
        assert stat.S_IMODE(os.stat(proposed[0].with_name(name)).st_mode) == 0o600


def test_no_key_is_written_unless_asked_and_no_sheet_replaced(repo, tree, tmp_path):
    sheet = tmp_path / "a folder that is not there yet" / "cohort.tsv"
    assert run(repo, tree, "--out", sheet).returncode == 0
    assert [file.name for file in sheet.parent.iterdir()] == ["cohort.tsv"]
    again = run(repo, tree, "--out", sheet)
    assert again.returncode == 1
    assert "the sheet is there already" in again.stderr
    assert run(repo, tree, "--out", sheet, "--force").returncode == 0


def test_a_key_keeps_pseudonyms_when_the_tree_grows(repo, proposed, tree, tmp_path):
    sheet = tmp_path / "cohort.tsv"
    old = by_series(proposed[0])
    key = tmp_path / "key.tsv"
    key.write_bytes(proposed[0].with_name("key.tsv").read_bytes())
    grown = tmp_path / "dicom"
    grown.symlink_to(tree)
    new = tree / "h"
    ct(new, "1.13", "DOE-1", InstitutionName="A New One")
    try:
        assert run(repo, grown, "--out", sheet, "--key", key).returncode == 0
    finally:
        for file in new.iterdir():
            file.unlink()
        new.rmdir()
    rows = by_series(sheet)
    assert rows.keys() == old.keys() | {"1.13"}
    for uid, row in old.items():
        for column in ("case_id", "patient_id", "centre"):
            assert rows[uid][column] == row[column]
    assert rows["1.13"]["patient_id"] == old["1.1"]["patient_id"]
    assert rows["1.13"]["case_id"] == old["1.1"]["patient_id"] + "-1"
    assert rows["1.13"]["centre"] == "C03"


def test_an_roi_asked_for_chooses_in_drawings_with_several(repo, tree, tmp_path):
    sheet = tmp_path / "cohort.tsv"
    key = tmp_path / "key.tsv"
    assert run(repo, tree, "--out", sheet, "--key", key, "--roi", "gtv*", "--centre", "leeds").returncode == 0
    rows = by_series(sheet)
    assert rows["1.10"]["mask_roi"] == "#1"
    assert rows["1.1"]["mask_roi"] == ""
    assert rows["1.2"]["mask"].endswith("/rt")  # the SEG's segment is no GTV
    assert {row["centre"] for row in rows.values()} == {"leeds"}


def test_one_series_of_each_patient_and_first_folders_as_centres(repo, tree, tmp_path):
    sheet = tmp_path / "cohort.tsv"
    done = run(repo, tree, "--out", sheet, "--choose", "thinnest", "--centre", "folder")
    rows = table(sheet)
    assert len(rows) == len({row["patient_id"] for row in rows}) == 4
    assert len({row["centre"] for row in rows}) == 4
    assert "another one of the patient was chosen" in done.stdout


def test_one_or_two_processes_find_the_same(tree):
    from radloom.dicom.ct import CtSettings

    one, two = (read_tree(tree, CtSettings(), workers) for workers in (1, 2))
    assert one.scans == two.scans
    assert one.drawings == two.drawings
    assert one.passed_over == two.passed_over


def test_a_patient_id_with_two_birth_dates_is_two_patients(repo, tmp_path):
    for k, born in enumerate(("19500101", "19610203")):
        ct(tmp_path / "dicom" / str(k), f"1.{k}", "1", PatientBirthDate=born)
    done = run(repo, tmp_path / "dicom", "--out", tmp_path / "cohort.tsv")
    assert len({row["patient_id"] for row in table(tmp_path / "cohort.tsv")}) == 2
    assert "1 patient ids are used with several birth dates" in done.stdout
    assert "1950" not in done.stdout


def test_a_folder_of_more_files_than_are_looked_at_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("radloom.dicom.tree._FILES_AT_ONCE", 5)
    from radloom.dicom.ct import CtSettings

    ct(tmp_path, "1.1", "DOE-1")
    found = read_tree(tmp_path, CtSettings(), 1)
    assert [(scan.slices, scan.problem) for scan in found.scans] == [(12, "")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/Doe"], "DICOM_ROOT is no folder"),
        (["ROOT", "--centre", "St. Doe's"], "a centre's name is"),
        (["ROOT", "--key", "FILE"], "the key file is none"),
        (["EMPTY"], "no CT series could be a case"),
    ],
)
def test_what_can_t_be_is_refused_without_a_path(repo, tree, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("Jane Doe\n")
    known = {"ROOT": tree, "EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    done = run(repo, *[known.get(one, one) for one in arguments], "--out", tmp_path / "cohort.tsv")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Doe" not in done.stderr
    assert str(tmp_path) not in done.stderr
    assert not (tmp_path / "cohort.tsv").exists()


def test_folders_that_a_sheet_can_t_name_are_left_out(repo, tmp_path):
    for k, name in enumerate(("line\nbreak", "ends in space ", "scan.nii.gz", "fine")):
        ct(tmp_path / "dicom" / name, f"1.{k}", f"DOE-{k}")
    done = run(repo, tmp_path / "dicom", "--out", tmp_path / "cohort.tsv")
    assert [row["image"] for row in table(tmp_path / "cohort.tsv")] == ["dicom/fine"]
    assert "2  CT series: the name of its folder can't stand in a sheet" in done.stdout
    assert "1  CT series: its folder has the name of a volume" in done.stdout
