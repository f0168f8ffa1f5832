"""Cases of a job side by side: they overlap, and nothing else changes."""

import faulthandler
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from radloom.engine import job
from radloom.engine.files import sha256_file, write_json
from radloom.engine.job import SystemFailure, run_chunk
from radloom.engine.step import CaseResult, CaseStep, CaseTask
from radloom.engine.steps import cases_at_once
from radloom.errors import CaseError

CASES = ("a", "b", "c", "d", "e")
PATIENCE_S = 30


def plan_of(results: Path, cases: tuple[str, ...] = CASES) -> dict[str, Any]:
    """A plan of the step resample for cases whose images were made by the step ingest."""
    entries = []
    for case in cases:
        path = results / "cases" / case / "ingest" / "image.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(case)
        stat = path.stat()
        file = {"path": f"cases/{case}/ingest/image.nii.gz", "sha256": sha256_file(path), "size": stat.st_size}
        entries.append(
            {"case_id": case, "status": "ok", "outputs": {"image.nii.gz": file | {"mtime_ns": stat.st_mtime_ns}}}
        )
    write_json(results / "manifests" / "ingest" / "all.json", {"cases": entries})
    return {
        "step": "resample",
        "chunk": "all",
        "results": str(results),
        "files": ["ingest/image.nii.gz"],
        "params": {"do": "it"},
        "limits": {},
        "resources": {},
        "code": "code",
        "versions": {},
        "force": "",
        "cases": [{"case_id": case, "row": {}, "sources": {}} for case in cases],
    }


def write(task: CaseTask) -> CaseResult:
    """Write what the image says, in capitals."""
    (task.out / "image.nii.gz").write_text(task.inputs["ingest/image.nii.gz"].read_text().upper())
    return CaseResult(facts={"case": task.case_id})


def run_with(
    monkeypatch: pytest.MonkeyPatch, lanes: int, plan: dict[str, Any], run: Callable[[CaseTask], CaseResult]
) -> list[dict[str, Any]]:
    monkeypatch.setattr(job, "cases_at_once", lambda *_: lanes)
    return run_chunk(CaseStep("resample", run), plan)


def without_times(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        entry | {"outputs": {n: {k: v for k, v in f.items() if k != "mtime_ns"} for n, f in entry["outputs"].items()}}
        for entry in entries
    ]


def test_the_manifest_is_the_same_for_any_number_of_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def uneven(task: CaseTask) -> CaseResult:
        time.sleep(0.2 if task.case_id in "ac" else 0)
        if task.case_id == "d":
            raise CaseError("no good", "do better")
        return write(task)

    found = []
    for lanes in (1, 2, 3, 9):
        results = tmp_path / str(lanes)
        found.append(without_times(run_with(monkeypatch, lanes, plan_of(results), uneven)))
        assert (results / "cases/c/resample/image.nii.gz").read_text() == "C"
        assert not list(results.rglob(".scratch"))
    assert [entry["case_id"] for entry in found[0]] == list(CASES)
    assert [entry["status"] for entry in found[0]] == ["ok", "ok", "ok", "excluded", "ok"]
    assert found[1:] == found[:1] * 3


def test_two_cases_are_at_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def meet(task: CaseTask) -> CaseResult:
        """Each of the first two waits until the other is there: one after the other they would never end."""
        (tmp_path / f"{task.case_id}.here").touch()
        other = tmp_path / {"a": "b.here", "b": "a.here"}.get(task.case_id, "a.here")
        until = time.monotonic() + PATIENCE_S
        while not other.exists():
            if time.monotonic() > until:
                raise CaseError("nobody came", "work side by side")
            time.sleep(0.01)
        return write(task)

    entries = run_with(monkeypatch, 2, plan_of(tmp_path), meet)
    assert [entry["status"] for entry in entries] == ["ok"] * len(CASES)


def test_a_second_run_computes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count(task: CaseTask) -> CaseResult:
        with open(tmp_path / "computed", "a") as stream:
            stream.write(task.case_id)
        return write(task)

    plan = plan_of(tmp_path)
    first = run_with(monkeypatch, 2, plan, count)
    assert sorted((tmp_path / "computed").read_text()) == list(CASES)
    assert run_with(monkeypatch, 2, plan, count) == first
    (tmp_path / "cases/b/resample/image.nii.gz").unlink()
    run_with(monkeypatch, 2, plan, count)
    assert (tmp_path / "computed").read_text()[len(CASES) :] == "b"


def test_a_case_that_kills_its_worker_twice_is_excluded_and_no_other_suffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(task: CaseTask) -> CaseResult:
        marks = len(list(tmp_path.glob(f"{task.case_id}.died.*")))
        # b dies always, d once.
        if task.case_id == "b" or (task.case_id == "d" and marks == 0):
            (tmp_path / f"{task.case_id}.died.{marks}").touch()
            faulthandler.disable()  # pytest has switched it on
            os.kill(os.getpid(), signal.SIGABRT)
        return write(task)

    entries = run_with(monkeypatch, 2, plan_of(tmp_path), die)
    assert [entry["status"] for entry in entries] == ["ok", "excluded", "ok", "ok", "ok"]
    assert "crashed" in entries[1]["reason"]
    assert len(list(tmp_path.glob("b.died.*"))) == 2


def test_a_bug_fails_the_job_after_the_other_cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(task: CaseTask) -> CaseResult:
        if task.case_id == "b":
            raise ValueError("a value")
        return write(task)

    with pytest.raises(SystemFailure, match="case b: ValueError"):
        run_with(monkeypatch, 2, plan_of(tmp_path), fail)
    made = sorted(path.parent.parent.name for path in tmp_path.glob("cases/*/resample/image.nii.gz"))
    assert made == ["a", "c", "d", "e"]
    assert not list(tmp_path.rglob(".scratch"))


def test_lanes_are_for_nets_on_cards() -> None:
    plan = {"params": {"source": "model", "device": "cuda"}, "limits": {"cases_at_once": 3}}
    assert cases_at_once("segment", plan) == 3
    for other in ({"device": "cpu"}, {"source": "mask"}, {"source": "command"}):
        assert cases_at_once("segment", plan | {"params": {**plan["params"], **other}}) == 1
    assert cases_at_once("resample", {"params": {}, "limits": {}}) == 1
