"""A run that is killed, at any moment and in any way, is taken up by the next plain run, and ends in the same bytes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import CASES, IMAGING, Workspace

from radloom.engine.progress import read_journal

ALL = {(step, case) for step in IMAGING for case in CASES} | {(s, "cohort") for s in ("tables", "harmonize", "report")}


def start(workspace: Workspace) -> subprocess.Popen[bytes]:
    workspace.write()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RADLOOM", "PYTEST"))}
    return subprocess.Popen(
        workspace.command(),
        cwd=workspace.folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for(workspace: Workspace, lines: int) -> None:
    end = time.monotonic() + 120
    while len(read_journal(workspace.results)) < lines:
        assert time.monotonic() < end, "the run made no progress"
        time.sleep(0.02)


def leftovers(results: Path) -> list[Path]:
    return [p for p in results.rglob("*") if p.name.startswith(".scratch") or p.name.endswith(".tmp")]


@pytest.mark.parametrize(("lines", "cores"), [(2, 1), (12, 2), (25, 2)])
def test_everything_killed(finished: Workspace, fresh: Callable[[], Workspace], lines: int, cores: int) -> None:
    """The bytes are those of a run of two cores that nobody stopped, also when one core does nearly all."""
    workspace = fresh()
    workspace.rows = [dict(row) for row in finished.rows]
    process = start(workspace)
    wait_for(workspace, lines)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {(e["step"], e["case_id"]) for e in read_journal(workspace.results)}
    time.sleep(0.3)
    result = workspace.run_command(cores=cores)
    assert result.returncode == 0, result.stderr
    assert workspace.computed() == ALL - done, "what was done is not done again, all else is"
    assert workspace.tables() == finished.tables()
    assert leftovers(workspace.results) == []


def test_snakemake_alone_killed_and_started_again_at_once(finished: Workspace, fresh: Callable[[], Workspace]) -> None:
    workspace = fresh()
    workspace.rows = [dict(row) for row in finished.rows]
    workspace.set("resample", spacing=[2, 2, 2])
    process = start(workspace)
    wait_for(workspace, 8)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    # Its jobs live on as orphans. The next run has other settings: what the orphans make must not get in.
    workspace.config["resample"] = finished.config["resample"]
    result = workspace.run_command()
    assert result.returncode == 0, result.stderr
    assert workspace.tables() == finished.tables()
    time.sleep(2)
    assert workspace.tables() == finished.tables()
    assert leftovers(workspace.results) == []
