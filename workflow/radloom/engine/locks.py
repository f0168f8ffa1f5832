"""Locks that die with their holder: one a results folder, one a case and step.

They are `flock`s, which the kernel gives back when a process ends, however it ends. A file that merely exists
(as Snakemake's own locks are) would outlive a kill.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_VARIABLE = "RADLOOM_RUN"
RUN_LOCK = ".run"

# Folders that this process already holds: a second open of the same file would be refused its own lock.
_held: dict[Path, int] = {}


class Superseded(Exception):
    """A newer run has taken the results folder over: this process is an orphan and must write nothing more."""


def hold_results(results: Path) -> bool:
    """Take the results folder for this process until it ends; False where a living process has it.

    The lock file's content is the run's name. Jobs inherit it in an environment variable and stop when it changes:
    so the orphans of a killed run never race the run that follows it.
    """
    results.mkdir(parents=True, exist_ok=True)
    path = (results / RUN_LOCK).resolve()
    if path not in _held:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        _held[path] = descriptor
    run = uuid.uuid4().hex
    os.ftruncate(_held[path], 0)
    os.pwrite(_held[path], run.encode(), 0)
    os.environ[RUN_VARIABLE] = run
    return True


def check_run(results: Path) -> None:
    """Raise Superseded when a newer run has taken the results folder over from the run that started this job."""
    mine = os.environ.get(RUN_VARIABLE)
    if mine is None:
        return
    try:
        current = (results / RUN_LOCK).read_text()
    except FileNotFoundError:
        return
    if current and current != mine:
        raise Superseded("a newer run has taken over this results folder; this job stops")


def clear_dead_locks(snakemake_folder: Path, results: str) -> int:
    """Remove Snakemake's locks on a results folder that no living process holds; return how many.

    Call it only while `hold_results` holds the folder: then whoever wrote these locks is dead.
    """
    cleared = 0
    prefix = os.path.normpath(results) + os.sep
    for lock in sorted((snakemake_folder / "locks").glob("*.lock")):
        try:
            lines = lock.read_text().splitlines()
        except FileNotFoundError:
            continue
        if any(os.path.normpath(line).startswith(prefix) for line in lines):
            lock.unlink(missing_ok=True)
            cleared += 1
    return cleared


@contextmanager
def hold_case(folder: Path) -> Iterator[None]:
    """Hold one case's folder of one step; wait where an orphan of a killed run is still at work in it."""
    path = folder.with_name(f".{folder.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
