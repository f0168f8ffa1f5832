"""A case that dies, hangs, or eats memory takes nobody with it."""

import faulthandler
import logging
import multiprocessing
import os
import resource
import signal
import time
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from radloom.engine.job import SystemFailure, _judge, job_main
from radloom.engine.records import Record
from radloom.engine.step import CaseResult, CaseStep, CaseTask
from radloom.engine.worker import Answer, Worker
from radloom.errors import CaseError


def run(task: CaseTask) -> CaseResult:
    what = task.params["do"]
    if what == "die":
        faulthandler.disable()  # pytest has switched it on
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        time.sleep(60)
    if what == "eat":
        bytearray(3 << 30)
    if what == "exclude":
        raise CaseError("no tumour", "draw one")
    if what == "talk":
        print(task.params["name"])
        warnings.warn(task.params["name"], stacklevel=1)
        logging.getLogger("reader").error(task.params["name"])
        os.write(1, task.params["name"].encode())
        os.write(2, task.params["name"].encode())
    if what == "bug":
        raise ValueError(task.params["name"])
    return CaseResult(facts={"pid": os.getpid()})


def task(what: str) -> CaseTask:
    return CaseTask("P1", {}, {"do": what, "name": "/data/Jane_Doe"}, {}, Path("."))


def computed(worker: Worker, what: str) -> Answer:
    worker.send(task(what))
    return worker.receive()


@pytest.fixture
def worker():
    worker = Worker(CaseStep("ingest", run), memory_gb=2, timeout_s=3)
    yield worker
    worker.stop()


def test_a_worker_serves_case_after_case(worker: Worker) -> None:
    first, second = computed(worker, "good"), computed(worker, "good")
    assert first.kind == second.kind == "ok"
    assert first.result is not None
    assert first.result == second.result
    assert first.result.facts["pid"] != os.getpid()


@pytest.mark.parametrize(
    ("what", "kind"),
    [("die", "died"), ("hang", "timeout"), ("eat", "memory"), ("exclude", "excluded"), ("bug", "error")],
)
def test_whatever_a_case_does_the_next_one_is_computed(worker: Worker, what: str, kind: str) -> None:
    assert computed(worker, what).kind == kind
    assert computed(worker, "good").kind == "ok"


def test_a_bug_is_told_with_its_place_but_without_its_values(worker: Worker) -> None:
    answer = computed(worker, "bug")
    assert "ValueError" in answer.reason
    assert "test_worker.py" in answer.reason
    assert "Jane" not in answer.reason


def test_nothing_that_a_reader_prints_gets_into_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    reader = Worker(CaseStep("ingest", run))
    assert computed(reader, "talk").kind == "ok"
    reader.stop()
    assert "".join(capfd.readouterr()) == ""
    # What comes after the front door has nothing to hide, and its words help.
    later = Worker(CaseStep("resample", run))
    assert computed(later, "talk").kind == "ok"
    later.stop()
    assert "Jane" in "".join(capfd.readouterr())


def record() -> Record:
    return Record("ingest", "P1", "key", "excluded")


LIMITS = {"memory_gb": 8.0, "timeout_s": 600.0}


@pytest.mark.parametrize(
    ("answer", "limits", "reason"),
    [
        (Answer("died", signal=11), {}, "crashed"),
        (Answer("died", signal=9), LIMITS, "crashed"),
        (Answer("timeout"), LIMITS, "longer than 600 s"),
        (Answer("memory"), LIMITS, "more than 8 GiB"),
        (Answer("excluded", reason="why", advice="how"), {}, "why"),
    ],
)
def test_what_is_the_cases_fault_excludes_it(answer: Answer, limits: dict[str, float], reason: str) -> None:
    judged = record()
    _judge(judged, answer, limits)
    assert judged.status == "excluded"
    assert reason in judged.reason
    assert judged.advice


@pytest.mark.parametrize("answer", [Answer("died", signal=9), Answer("died"), Answer("memory"), Answer("error")])
def test_what_is_not_the_cases_fault_fails_the_job(answer: Answer) -> None:
    with pytest.raises(SystemFailure):
        _judge(record(), answer, {})


def _limit_of_a_job(told: Connection) -> None:
    job_main(CaseStep("ingest", run), ["--plan", "none.json", "--manifest", "none.json"])
    told.send(resource.getrlimit(resource.RLIMIT_CORE))


def test_a_job_and_its_workers_leave_no_core_dump() -> None:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_limit_of_a_job, args=(theirs,))
    process.start()
    assert ours.poll(10)
    assert ours.recv() == (0, 0)
    process.join()
