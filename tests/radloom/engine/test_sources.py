"""A source has changed when any of its files has, whatever it is made of."""

import os
from pathlib import Path

from radloom.engine.sources import source_hash, source_identity


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


def test_a_renamed_slice_changes_the_content(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "1.dcm").write_bytes(b"1")
    before = source_hash(tmp_path / "s")
    (tmp_path / "s" / "1.dcm").rename(tmp_path / "s" / "2.dcm")
    assert source_hash(tmp_path / "s") != before


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
