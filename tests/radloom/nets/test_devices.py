"""One process a card: the next takes another, waits where all are taken, and a dead one's card is free."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HOLDER = """
import sys, time
from pathlib import Path
from radloom.nets.devices import claim_card
print(claim_card(sys.argv[2:], Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


@pytest.fixture
def start(tmp_path: Path, repo: Path) -> object:
    """Start a process that claims one of the cards named, the last `words`, and holds it."""
    started: list[subprocess.Popen[str]] = []

    def begin(*words: str, code: str = HOLDER) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, str(tmp_path), *words]
        environment = {**os.environ, "PYTHONPATH": str(repo / "workflow")}
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def index_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_processes_take_different_cards_and_wait_for_one(start: object) -> None:
    first = start("a", "b")  # type: ignore[operator]
    assert index_of(first) == "0"
    second = start("a", "b")  # type: ignore[operator]
    assert index_of(second) == "1"
    # The same card by another number, as another CUDA_VISIBLE_DEVICES would have it.
    third = start("b", "a")  # type: ignore[operator]
    time.sleep(0.5)
    assert third.poll() is None
    first.send_signal(signal.SIGKILL)
    assert index_of(third) == "1"


def test_a_process_keeps_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from radloom.nets import devices

    monkeypatch.setattr(devices, "_held", {})
    assert devices.claim_card(["a", "b"], tmp_path) == 0
    assert devices.claim_card(["a", "b"], tmp_path) == 0
    (descriptor,) = devices._held.values()
    monkeypatch.setattr(devices, "_held", {})
    with pytest.raises(TimeoutError):
        devices.claim_card(["a"], tmp_path, patience_s=0.1)
    os.close(descriptor)
    assert devices.claim_card(["a"], tmp_path, patience_s=0.1) == 0
    for descriptor in devices._held.values():
        os.close(descriptor)


def test_processes_of_one_job_share_a_card(start: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADLOOM_JOB", "first")
    lanes = [start("a", "b") for _ in range(3)]  # type: ignore[operator]
    assert [index_of(lane) for lane in lanes] == ["0", "0", "0"]
    monkeypatch.setenv("RADLOOM_JOB", "second")
    other = start("a", "b")  # type: ignore[operator]
    assert index_of(other) == "1"
    monkeypatch.setenv("RADLOOM_JOB", "third")
    third = start("a", "b")  # type: ignore[operator]
    for lane in lanes[:2]:
        lane.kill()
        lane.wait()
    time.sleep(0.5)
    assert third.poll() is None, "the card is the first job's until its last process ends"
    lanes[2].kill()
    assert index_of(third) == "0"


TEAM_MEMBER = """
import sys, time
from pathlib import Path
from radloom.nets.devices import claim_card_of_team
rank, ranks, team = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
print(claim_card_of_team(rank, ranks, team, sys.argv[5:], Path(sys.argv[1])), flush=True)
time.sleep(60)
"""


def test_processes_of_a_team_have_a_card_each_or_wait_together(start: object) -> None:
    def member(rank: int, team: str) -> subprocess.Popen[str]:
        return start(str(rank), "2", team, "a", "b", "c", code=TEAM_MEMBER)  # type: ignore[operator,no-any-return]

    other = start("b")  # type: ignore[operator]
    assert index_of(other) == "0"
    second = member(1, "first")
    time.sleep(0.3)
    assert second.poll() is None, "it waits for the first process of its team"
    first = member(0, "first")
    assert [index_of(first), index_of(second)] == ["0", "2"]
    # Another team holds none of the cards until it has as many as it needs.
    waiting = [member(0, "next"), member(1, "next")]
    other.kill()
    time.sleep(0.5)
    assert [one.poll() for one in waiting] == [None, None]
    alone = start("a", "b", "c")  # type: ignore[operator]
    assert index_of(alone) == "1"
    first.kill()
    second.kill()
    assert sorted(map(index_of, waiting)) == ["0", "2"]


def test_more_processes_than_cards_are_refused(tmp_path: Path) -> None:
    from radloom.errors import CohortError
    from radloom.nets.devices import claim_card_of_team

    with pytest.raises(CohortError, match="3 processes need a card each, and there are 2"):
        claim_card_of_team(0, 3, "team", ["a", "b"], tmp_path)
