"""What a cell of the sheet may name: the same series as a folder, as archives of it, as one file, beside others."""

import multiprocessing
import os
import shutil
import signal
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import enhanced_dataset, phantom, write_file, write_series
from dicom_masks import Drawn, rtstruct, save

from radloom import archives
from radloom.errors import CaseError
from radloom.ingest import Scan, ingest_case
from radloom.salt import hashed
from radloom.source_cells import Selection, Sources

PATIENT = "DOE_JOHN"
SALT = b"s" * 32
HU = phantom((6, 16, 20))


def read(path: Path, mask: Path | None = None, **settings: Any) -> Scan:
    """Ingest a case with a work folder that is empty afterwards, whatever happens."""
    work = path.parent / "work"
    work.mkdir(exist_ok=True)
    try:
        return ingest_case(path, mask, work=work, **settings)
    finally:
        assert not list(work.iterdir())


def refused(path: Path, **settings: Any) -> str:
    """The message with which a case is refused; it names no patient."""
    with pytest.raises(CaseError) as caught:
        read(path, **settings)
    assert "DOE" not in str(caught.value)
    assert caught.value.advice
    return str(caught.value)


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """A folder with a series deep inside of it, and what else lies on disks."""
    folder = tmp_path / PATIENT
    write_series(folder / "1" / "2" / "IMAGES", HU, series="1.2.3", names=[f"IM{k}" for k in range(len(HU))])
    (folder / "README.txt").write_text("a letter")
    (folder / ".DS_Store").write_bytes(b"x")
    return folder


def packed(folder: Path, suffix: str) -> Path:
    """An archive of a folder's files, beside it."""
    path = folder.parent / f"{PATIENT}{suffix}"
    if suffix == ".zip":
        shutil.make_archive(str(folder.parent / PATIENT), "zip", folder)
        return path
    with tarfile.open(path, f"w:{suffix.rpartition('.')[2].removeprefix('t').replace('ar', '')}") as archive:
        archive.add(folder, PATIENT)
    return path


@pytest.mark.parametrize("suffix", ["", ".zip", ".tar", ".tgz", ".tar.bz2", ".tar.xz"])
def test_a_folder_and_archives_of_it_give_the_same_case(series: Path, suffix: str) -> None:
    scan = read(packed(series, suffix) if suffix else series)
    np.testing.assert_array_equal(scan.image.array, HU)
    assert scan.image.geometry.spacing == (0.8, 0.9, 2.5)
    assert (scan.facts["format"], scan.facts["series_found"]) == ("dicom", 1)
    assert scan.facts["files_passed_over"] == {"not DICOM": 1}
    assert "1.2.3" not in str(scan.facts)


def test_one_file_of_many_frames(tmp_path: Path) -> None:
    for name in ("scan.dcm", "SCAN.IMA", PATIENT):
        scan = read(write_file(tmp_path / name, enhanced_dataset(HU)))
        np.testing.assert_array_equal(scan.image.array, HU)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_archive_of_one_volume(tmp_path: Path, suffix: str) -> None:
    volume = sitk.GetImageFromArray(HU)
    sitk.WriteImage(volume, str(tmp_path / f"scan{suffix}"))
    path = tmp_path / f"{PATIENT}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / f"scan{suffix}", f"a/{PATIENT}{suffix}")
        archive.writestr("letter.txt", "x")
    np.testing.assert_array_equal(read(path, path_of_mask(tmp_path)).image.array, HU)
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(tmp_path / f"scan{suffix}", f"b/{PATIENT}{suffix}")
    assert "holds 2 volumes and no DICOM" in refused(path)


def path_of_mask(folder: Path) -> Path:
    """An archive with the mask of the volume above."""
    sitk.WriteImage(sitk.GetImageFromArray((HU > 0).astype(np.uint8)), str(folder / "mask.nii.gz"))
    with zipfile.ZipFile(folder / "mask.zip", "w") as archive:
        archive.write(folder / "mask.nii.gz")
    return folder / "mask.zip"


def test_one_archive_for_image_and_mask_is_unpacked_once(series: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = archives.unpack
    monkeypatch.setattr(archives, "unpack", lambda *given: calls.append(given) or real(*given))
    path = packed(series, ".zip")
    with Sources(series.parent, 1, {}) as sources:
        assert sources.open(path, "image") == sources.open(path, "mask")
    assert len(calls) == 1


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_what_a_killed_process_unpacked_is_never_taken_for_the_archive(tmp_path: Path, suffix: str) -> None:
    """Killed in the middle of its files; the next start unpacks all of them anew."""
    content = {f"{k}.dcm": bytes(128) + b"DICM" + bytes([k]) * (2 << 20) for k in range(5)}
    (tmp_path / "in").mkdir()
    for name, data in content.items():
        (tmp_path / "in" / name).write_bytes(data)
    archive = tmp_path / f"packed{suffix}"
    shutil.make_archive(str(tmp_path / "packed"), {".zip": "zip", ".tar.gz": "gztar"}[suffix], tmp_path / "in")
    work = tmp_path / "work"
    work.mkdir()

    def open_and_die() -> None:
        count, blocks = archives._Meter.count, []

        def die_at_the_eighth(meter: archives._Meter, block: bytes) -> bytes:
            blocks.append(block)
            if len(blocks) == 8:
                os.kill(os.getpid(), signal.SIGKILL)
            return count(meter, block)

        archives._Meter.count = die_at_the_eighth  # of the child process alone
        with Sources(work, 1, {}) as sources:
            sources.open(archive, "image")

    child = multiprocessing.get_context("fork").Process(target=open_and_die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    left = [file for file in work.rglob("*") if file.is_file()]
    assert 0 < len(left) < 5
    with Sources(work, 1, {}) as sources:
        files = sources.open(archive, "image").dicom
        assert not set(files) & set(left)
        assert sorted(file.read_bytes() for file in files) == sorted(content.values())


def test_of_several_series_the_sheet_chooses(series: Path) -> None:
    write_series(series / "thin", phantom((9, 16, 20)), series="1.2.4", SeriesDescription="Lung DOE", SliceThickness=1)
    message = refused(series)
    assert "2 CT series to choose from: series 1 of 2: CT, 6 slices of 2.5 mm, kernel B30f, 20 x 16; " in message
    assert "1.2.4" not in message
    for wanted, slices in (("1.2.3", 6), ("1.2.4", 9), ("lung*", 9), ("thorax*", 6)):
        assert read(series, selection=Selection(series=wanted)).image.array.shape[0] == slices
    for rule in ("most_slices", "thinnest"):
        assert read(series, dicom={"series_rule": rule}).image.array.shape[0] == 9
    assert "none of the CT series is the wanted one" in refused(series, selection=Selection(series="DOE"))


def test_uids_are_told_hashed(series: Path) -> None:
    scan = read(series, selection=Selection(salt=SALT))
    assert scan.facts["series"] == hashed(SALT, "1.2.3")
    assert len(scan.facts["frame_of_reference"]) == 32
    assert read(series, selection=Selection(salt=b"t" * 32)).facts["series"] != scan.facts["series"]
    assert "series" not in read(series).facts


def test_links_that_leave_a_folder_are_refused_and_others_passed_over(series: Path) -> None:
    inside = next(series.rglob("IM0"))
    (series / "again").symlink_to(inside)
    (series / "folder").symlink_to(series / "1")
    assert read(series).image.array.shape == HU.shape
    outside = shutil.copy(inside, series.parent / "outside.dcm")
    for target in (outside, series.parent, series.parent / "nowhere", Path("/etc")):
        (series / "link").symlink_to(target)
        assert "1 links to places outside of it, or to none" in refused(series)
        (series / "link").unlink()


def test_what_holds_nothing_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / PATIENT
    folder.mkdir()
    assert "the folder of the image is empty" in refused(folder)
    (folder / "a.txt").write_text("a letter")
    assert "no CT series" in refused(folder)
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    assert "the archive of the image is empty" in refused(tmp_path / "empty.zip")
    assert "does not exist" in refused(tmp_path / PATIENT / "none")
    assert "no DICOM file, and has no suffix" in refused(folder / "a.txt")


def test_the_work_folder_is_empty_after_a_refusal(series: Path) -> None:
    next(series.rglob("IM3")).unlink()
    assert "gap" in refused(packed(series, ".zip")).lower() or "slices" in refused(packed(series, ".zip"))
    assert "unpacks to more than" in refused(packed(series, ".zip"), max_unpacked_gb=1e-6)


def test_a_mask_that_is_dicom_needs_an_image_that_is(series: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(HU), str(tmp_path / "scan.nii.gz"))
    with pytest.raises(CaseError, match="the mask is DICOM and the image is not"):
        read(tmp_path / "scan.nii.gz", series)
    with pytest.raises(CaseError, match="neither an RTSTRUCT nor a SEG"):
        read(series, series)


def test_the_name_of_the_tables_is_tried_before_the_only_roi(tmp_path: Path) -> None:
    """`mask_roi` must be there; `roi_name`, which the person who drew may not know, need not if there is one ROI."""
    folder = tmp_path / PATIENT
    write_series(folder / "ct", HU, series="1.2.3", frame_of_reference="1.2.9", origin=(0, 0, 0), spacing=(1, 1, 1))
    square = np.array([[2.0, 2, 2], [9, 2, 2], [9, 9, 2], [2, 9, 2]])

    def mask(rois: tuple[str, ...], **choice: str) -> int:
        drawn = {name: [Drawn(square * [1, 1, 1] + [k, 0, 0])] for k, name in enumerate(rois)}
        save(rtstruct(drawn, "1.2.9", "1.2.3"), folder / "rs")
        scan = read(folder, folder, selection=Selection(**choice))
        assert scan.mask is not None
        return int(np.flatnonzero(scan.mask.array.any(axis=(0, 1)))[0])

    both = ("GTV", "liver")
    assert mask(both, mask_roi="liver") == mask(both, roi_name="liver") == 3
    assert mask(both, roi_name="x", mask_roi="LIV*") == 3
    assert mask(("GTV",), roi_name="tumour") == mask(("GTV",)) == 2
    with pytest.raises(CaseError, match="none is what mask_roi asks for"):
        mask(("GTV",), mask_roi="tumour")
    # One that is there and empty isn't another one.
    empty = rtstruct({"GTV": [], "liver": [Drawn(square)]}, "1.2.9", "1.2.3")
    save(empty, folder / "rs")
    with pytest.raises(CaseError, match="ROI #1 of the mask is empty"):
        read(folder, folder, selection=Selection(roi_name="GTV"))
    for choice in ({}, {"roi_name": "tumour"}):
        with pytest.raises(CaseError, match="mask_roi doesn't say which"):
            mask(both, **choice)


def test_a_volume_as_mask_of_dicom(series: Path) -> None:
    scan = read(series)
    from radloom.images import Volume, write_nifti

    write_nifti(series.parent / "mask.nii.gz", Volume((scan.image.array > 0).astype(np.uint8), scan.image.geometry))
    scan = read(series, series.parent / "mask.nii.gz")
    assert scan.mask is not None
    np.testing.assert_array_equal(scan.mask.array, HU > 0)
