"""The journal and what is shown of it."""

from pathlib import Path

import pytest

from radloom.engine.progress import Progress, read_journal, report_case, report_failure


def test_plain_lines_count_cases_and_show_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(tmp_path, total=3)
    report_case(tmp_path, "ingest", "P1", "ok", computed=True)
    report_case(tmp_path, "ingest", "P2", "excluded", computed=False)
    report_failure(tmp_path, "resample", "A_0001", "the disk is full")
    progress.stop()
    shown = capsys.readouterr().err
    assert "2 of 3 cases x steps, 1 computed, 1 excluded, now ingest" in shown
    assert "resample A_0001 failed: the disk is full" in shown
    assert [entry["case_id"] for entry in read_journal(tmp_path)] == ["P1", "P2"]


def test_a_new_run_starts_a_new_journal(tmp_path: Path) -> None:
    report_case(tmp_path, "ingest", "P1", "ok", computed=True)
    Progress(tmp_path, total=1).stop()
    assert read_journal(tmp_path) == []
    assert read_journal(tmp_path / "nowhere") == []
