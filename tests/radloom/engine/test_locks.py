"""Locks end with their holder, and orphans give way."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from radloom.engine.locks import Superseded, check_run, clear_dead_locks, hold_case, hold_results

HOLD = """
import sys, time
from pathlib import Path
from radloom.engine.locks import hold_results, hold_case
{take}
print("held", flush=True)
time.sleep(60)
"""


def holder(take: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(take=take)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_results_folder_has_one_holder_and_is_free_when_it_is_killed(tmp_path: Path) -> None:
    process = holder(f"assert hold_results(Path({str(tmp_path)!r}))")
    try:
        assert not hold_results(tmp_path)
    finally:
        process.kill()
        process.wait()
    assert hold_results(tmp_path)
    assert hold_results(tmp_path), "the same process may take it again"


def test_a_job_of_an_older_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RADLOOM_RUN", raising=False)
    check_run(tmp_path)
    assert hold_results(tmp_path)
    check_run(tmp_path)
    monkeypatch.setenv("RADLOOM_RUN", "an older run")
    with pytest.raises(Superseded):
        check_run(tmp_path)


def test_a_case_waits_for_the_orphan_that_is_at_work_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "P1" / "ingest"
    process = holder(f"held = hold_case(Path({str(folder)!r})); held.__enter__()")
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(1); os.kill({process.pid}, 9)"])
    start = time.monotonic()
    with hold_case(folder):
        waited = time.monotonic() - start
    killer.wait()
    process.wait()
    assert waited > 0.5


def test_only_the_locks_of_this_results_folder_are_cleared(tmp_path: Path) -> None:
    locks = tmp_path / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("results/a/plan/x.json\n")
    (locks / "0.output.lock").write_text("results/a/manifests/x.json\n")
    (locks / "1.output.lock").write_text("results/ab/manifests/x.json\n")
    assert clear_dead_locks(tmp_path / ".snakemake", "results/a") == 2
    assert [path.name for path in locks.iterdir()] == ["1.output.lock"]
