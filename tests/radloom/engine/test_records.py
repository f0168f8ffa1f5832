"""Records prove that files are whole, and files are replaced only where their content changes."""

import os
from pathlib import Path

from radloom.engine.records import OutputFile, Record, adopt, clear, scratch


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    record = Record("ingest", "P1", "key", "ok", outputs={"a.txt": OutputFile.of(tmp_path / "a.txt")}, facts={"x": [1]})
    record.write(tmp_path)
    assert Record.read(tmp_path) == record
    assert record.whole(tmp_path)


def test_a_damaged_record_is_no_record(tmp_path: Path) -> None:
    for text in ("", "{", "[]", "null", '{"outputs": {}}', '{"outputs": {"a": {"size": 1}}}'):
        (tmp_path / "record.json").write_text(text)
        assert Record.read(tmp_path) is None, text
    assert Record.read(tmp_path / "nowhere") is None


def test_a_file_is_whole_by_its_content_when_its_time_differs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("abc")
    file = OutputFile.of(path)
    os.utime(path, ns=(1, 1))
    assert file.whole(path)
    path.write_text("abd")
    assert not file.whole(path)
    path.write_text("ab")
    assert not file.whole(path)
    path.unlink()
    assert not file.whole(path)


def test_adopting_the_same_content_keeps_the_old_file_and_its_time(tmp_path: Path) -> None:
    target, new = tmp_path / "a", tmp_path / "new"
    target.write_text("same")
    os.utime(target, ns=(5, 5))
    new.write_text("same")
    assert adopt(new, target).mtime_ns == 5
    assert not new.exists()
    new.write_text("other")
    assert adopt(new, target).mtime_ns != 5
    assert target.read_text() == "other"


def test_scratch_is_empty_and_clear_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "step"
    (scratch(folder) / "left").write_text("by a killed run")
    assert list(scratch(folder).iterdir()) == []
    clear(folder)
    assert not folder.exists()
    clear(folder)
