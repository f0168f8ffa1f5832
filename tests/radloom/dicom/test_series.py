"""Finding series among other files, and choosing the one that is meant."""

from pathlib import Path

import pytest
from dicom_files import ct_datasets, phantom, write_datasets, write_file, write_series
from pydicom.uid import MediaStorageDirectoryStorage

from radloom.dicom.series import Found, choose_series, find_series
from radloom.errors import CaseError

THICK, THIN, SHORT = phantom((4, 10, 10)), phantom((8, 10, 10)), phantom((3, 10, 10))


def found(folder: Path) -> Found:
    """What is found in a folder and all below."""
    return find_series(sorted(path for path in folder.rglob("*") if path.is_file()))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A scout, a thick, a thin and a short series, whose descriptions name the patient."""
    write_series(tmp_path / "a", phantom((1, 9, 9)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], SeriesNumber=1)
    write_series(tmp_path / "b", THICK, spacing=(1, 1, 5), SeriesNumber=2, SeriesDescription="Thorax 5.0 DOE",
                 series="1.2.3.4")  # fmt: skip
    write_series(tmp_path / "c", THIN, spacing=(1, 1, 1.25), SeriesNumber=3, SeriesDescription="THORAX 1.25 LUNG DOE",
                 ConvolutionKernel=["B70f", "2"])  # fmt: skip
    write_series(tmp_path / "c" / "d", SHORT, spacing=(1, 1, 1.25), SeriesNumber=4, SeriesDescription="other DOE")
    return tmp_path


def test_series_are_grouped_wherever_their_files_lie(study: Path) -> None:
    series = found(study).series
    assert [(one.number, one.slices) for one in series] == [(1, 0), (2, 4), (3, 8), (4, 3)]
    assert series[2].summary() == "CT, 8 slices of 1.25 mm, kernel B70f, 10 x 10"
    assert (series[1].uid, series[1].modality, series[1].thickness) == ("1.2.3.4", "CT", 5)
    assert len(series[1].files) == 4


def test_by_default_several_series_are_listed_without_their_names(study: Path) -> None:
    with pytest.raises(CaseError) as caught:
        choose_series(found(study))
    assert caught.value.reason == (
        "3 CT series to choose from: series 2 of 4: CT, 4 slices of 5 mm, kernel B30f, 10 x 10; "
        "series 3 of 4: CT, 8 slices of 1.25 mm, kernel B70f, 10 x 10; "
        "series 4 of 4: CT, 3 slices of 1.25 mm, kernel B30f, 10 x 10"
    )
    assert "series_rule" in caught.value.advice


@pytest.mark.parametrize(
    ("wanted", "rule", "number"),
    [("1.2.3.4", "only", 2), ("thorax 5*", "only", 2), ("*lung*", "only", 3), ("", "most_slices", 3),
     ("", "thinnest", 3), ("thorax*", "most_slices", 3), ("other*", "thinnest", 4)],
)  # fmt: skip
def test_the_wanted_series_is_chosen(study: Path, wanted: str, rule: str, number: int) -> None:
    assert choose_series(found(study), wanted, rule).number == number


def test_no_match_and_several_matches_are_refused(study: Path) -> None:
    with pytest.raises(CaseError, match="none of the CT series is the wanted one"):
        choose_series(found(study), "abdomen*")
    with pytest.raises(CaseError, match="2 CT series to choose from"):
        choose_series(found(study), "thorax*")


def test_copies_of_slices_do_not_make_a_series_the_longest(tmp_path: Path) -> None:
    thick = ct_datasets(THICK)
    for name in ("a", "b", "c"):
        write_datasets(tmp_path / name, thick)
    write_series(tmp_path / "d", THIN, SeriesNumber=7)
    assert choose_series(found(tmp_path), rule="most_slices").number == 7


def test_a_tie_is_nobodys(tmp_path: Path) -> None:
    write_series(tmp_path / "a", THIN)
    write_series(tmp_path / "b", THIN)
    for rule in ("most_slices", "thinnest"):
        with pytest.raises(CaseError, match="2 CT series"):
            choose_series(found(tmp_path), rule=rule)


def test_a_folder_without_ct_tells_what_is_there(tmp_path: Path) -> None:
    write_series(tmp_path, THIN, Modality="PT", SOPClassUID="1.2.840.10008.5.1.4.1.1.128")
    with pytest.raises(CaseError, match=r"series 1 of 1: PT, \d slices of 2\.5 mm"):
        choose_series(found(tmp_path))
    with pytest.raises(CaseError, match="no series at all"):
        choose_series(find_series([]))


def test_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    write_series(tmp_path, THICK)
    (tmp_path / "notes.txt").write_text("DOE")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" + bytes(300))
    (tmp_path / ".nothing.txt").write_bytes(b"")
    directory = ct_datasets(THICK)[0]
    directory.SOPClassUID = MediaStorageDirectoryStorage
    directory.SeriesInstanceUID = ""
    write_file(tmp_path / "DICOMDIR", directory)
    heap = found(tmp_path)
    assert heap.ignored == {"DICOMDIR": 1, "empty": 1, "not DICOM": 2}
    assert choose_series(heap).slices == 4


@pytest.mark.parametrize("content", [b"", bytes(128) + b"DICM", bytes(128) + b"DICM" + b"\xff" * 40])
def test_a_damaged_dicom_file_may_be_a_slice_and_is_no_matter_of_course(tmp_path: Path, content: bytes) -> None:
    write_series(tmp_path, THICK)
    (tmp_path / "0009.dcm").write_bytes(content)
    heap = found(tmp_path)
    assert heap.ignored == {"damaged DICOM": 1}
    with pytest.raises(CaseError, match="1 of the DICOM files are damaged"):
        choose_series(heap)


def test_series_whose_uids_were_emptied_are_told_apart_by_the_rest(tmp_path: Path) -> None:
    write_series(tmp_path / "a", THICK, SeriesInstanceUID="", SOPInstanceUID="")
    write_series(tmp_path / "b", THIN, SeriesInstanceUID="", SOPInstanceUID="", SeriesNumber=9)
    write_series(tmp_path / "c", SHORT, SeriesInstanceUID="", SOPInstanceUID="", SeriesNumber=9, PatientID="other")
    assert sorted(one.slices for one in found(tmp_path).series) == [3, 4, 8]


def test_a_kernel_that_is_free_text_is_not_told(tmp_path: Path) -> None:
    write_series(tmp_path, THICK, ConvolutionKernel="J\u00f6hn")
    assert found(tmp_path).series[0].summary() == "CT, 4 slices of 2.5 mm, 10 x 10"


def test_the_order_of_files_changes_nothing(study: Path) -> None:
    files = sorted(path for path in study.rglob("*") if path.is_file())
    assert [one.uid for one in find_series(files).series] == [one.uid for one in find_series(files[::-1]).series]


def test_a_large_header_is_read_whole(tmp_path: Path) -> None:
    """Vendors put whole protocols into private elements."""
    datasets = ct_datasets(THICK)
    for ds in datasets:
        block = ds.private_block(0x0019, "DOE", create=True)
        block.add_new(1, "OB", bytes(200_000))
    write_datasets(tmp_path, datasets)
    assert choose_series(found(tmp_path)).slices == 4
