"""A source has changed when any of its files has, whatever it is made of."""

import os
from pathlib import Path

import pytest

from radloom.engine import sources
from radloom.engine.sources import choice, private_cells, source_hash, source_identity


def test_one_edited_slice_in_a_folder_is_seen(tmp_path: Path) -> None:
    for n in range(3):
        (tmp_path / "series" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "series" / "a" / f"{n}.dcm").write_bytes(bytes([n]))
    before = source_identity(tmp_path / "series"), source_hash(tmp_path / "series")
    assert before == (source_identity(tmp_path / "series"), source_hash(tmp_path / "series"))
    victim = tmp_path / "series" / "a" / "1.dcm"
    time = os.stat(victim).st_mtime_ns
    victim.write_bytes(b"x")
    os.utime(victim, ns=(time + 10**9, time + 10**9))
    assert source_identity(tmp_path / "series") != before[0]
    assert source_hash(tmp_path / "series") != before[1]


def test_the_names_of_slices_are_no_content_but_links_are(tmp_path: Path) -> None:
    """A link excludes a case, so that taking it away must be another content."""
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "1.dcm").write_bytes(b"1")
    (tmp_path / "s" / "2.dcm").write_bytes(b"2")
    before = source_hash(tmp_path / "s"), source_identity(tmp_path / "s")
    (tmp_path / "s" / "1.dcm").rename(tmp_path / "s" / "3.dcm")
    assert (source_hash(tmp_path / "s"), source_identity(tmp_path / "s")) == before
    (tmp_path / "s" / "4.dcm").symlink_to("/etc/hostname")
    assert source_hash(tmp_path / "s") != before[0]
    assert source_identity(tmp_path / "s") != before[1]


def test_a_url_counts_by_a_digest_that_needs_the_salt() -> None:
    url = "https://pacs/dicom-web/studies/1.2/series/1.2.3"
    assert source_identity(url, b"s") == source_identity(url, b"s") != source_identity(url, b"t")
    assert source_hash(url, b"s") == source_hash(url, b"s") != source_hash(url, b"t")
    assert source_hash(url, b"s") != source_hash(url + "4", b"s")


def test_the_code_that_fetches_counts_for_urls_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://pacs/dicom-web/studies/1.2/series/1.2.3"
    (tmp_path / "a.nrrd").write_bytes(b"1")
    seen = []
    for code in ("1", "2"):
        monkeypatch.setattr(sources, "_transport", lambda code=code: code)
        told = [(source_identity(one, b"s"), source_hash(one, b"s")) for one in (url, tmp_path / "a.nrrd")]
        seen.append(told)
    assert [a == b for a, b in zip(*seen, strict=True)] == [False, True]


def test_an_identity_tells_no_time(tmp_path: Path) -> None:
    """A file that was copied with its time has the day of the scan."""
    path = tmp_path / "scan.nii"
    path.write_bytes(b"1234")
    os.utime(path, ns=(1, 1_113_523_200_000_000_000))
    for source in (path, tmp_path):
        size, digest = source_identity(source)
        assert size == 4
        assert "11135" not in str(digest)


def test_what_a_row_chooses_is_told_by_a_hash_alone() -> None:
    row = {"image": "DOE/", "mask": "DOE/", "series": "Thorax DOE*", "mask_roi": "GTV DOE", "patient_id": "P1"}
    told = choice(row, b"s" * 32)
    assert list(told) == ["choice"]
    assert "DOE" not in str(told)
    for column in ("series", "mask_roi", "roi_name", "patient_id"):
        assert choice({**row, column: "other"}, b"s" * 32) != told
    assert choice(row, b"t" * 32) != told
    assert choice({"image": "a.nii.gz", "mask": "b.nrrd", "roi_name": "x"}, b"s" * 32) == {}
    private = private_cells({**row, "mask": "https://pacs/1.2.3"}, b"s" * 32)
    assert private["mask_url"] == "https://pacs/1.2.3"
    assert private["salt"] == (b"s" * 32).hex()
    assert private_cells({"image": "a.nii.gz"}, b"") == {}


def test_the_data_file_of_a_detached_header_counts(tmp_path: Path) -> None:
    header, data = tmp_path / "scan.mhd", tmp_path / "scan.raw"
    header.write_text("ObjectType = Image\nElementDataFile = scan.raw\n")
    data.write_bytes(b"1234")
    before = source_identity(header), source_hash(header)
    data.write_bytes(b"12345")
    assert source_identity(header) != before[0]
    assert source_hash(header) != before[1]


def test_a_touched_file_has_another_identity_and_the_same_content(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(b"1")
    before = source_identity(path), source_hash(path)
    os.utime(path, ns=(1, 1))
    assert source_identity(path) != before[0]
    assert source_hash(path) == before[1]
