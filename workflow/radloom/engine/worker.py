"""The process in which cases are computed: replaced when it dies, killed when it takes too long.

It is forked from the job's process, which has imported no numerical library and started no thread, so that a
fork is safe and a new worker costs milliseconds until it imports what its step needs.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from radloom.engine.step import CaseResult, CaseStep, CaseTask
from radloom.errors import CaseError, CohortError, LimitError

PR_SET_PDEATHSIG = 1
FRONT_DOOR = "ingest"
"""The step that reads what the centres sent; what comes after it sees no value of a patient's."""


@dataclass(frozen=True)
class Answer:
    """What became of a case: a result, an exclusion, a bug or system error, or the death of the worker."""

    kind: str  # "ok", "excluded", "memory", "error", "died", "timeout"
    seconds: float = 0.0
    result: CaseResult | None = None
    reason: str = ""
    advice: str = ""
    signal: int = 0
    peak_mb: float = 0.0
    limited: bool = False


class Worker:
    """Runs cases of one step in a child process, one after the other: `send` a task, then `receive` its answer."""

    def __init__(self, step: CaseStep, memory_gb: float | None = None, timeout_s: float | None = None) -> None:
        self.step = step
        self.memory_gb = memory_gb
        self.timeout_s = timeout_s
        self._process: Any = None
        self._connection: Connection | None = None

    def send(self, task: CaseTask) -> None:
        """Let the process compute a case; one that died or took too long is replaced."""
        # A process that is gone already is noticed by `receive`.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            self._connect().send(task)

    def receive(self) -> Answer:
        """Wait for what became of the case."""
        connection = self._connect()
        try:
            if not connection.poll(self.timeout_s):
                self.stop(kill=True)
                return Answer("timeout")
            answer: Answer = connection.recv()
            return answer
        except (EOFError, ConnectionResetError, BrokenPipeError):
            code = self.stop()
            return Answer("died", signal=-code if code < 0 else 0)

    def _connect(self) -> Connection:
        if self._connection is None:
            context = multiprocessing.get_context("fork")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve,
                args=(theirs, self._connection, self.step, self.memory_gb, os.getpid()),
                daemon=True,
            )
            sys.stdout.flush()
            sys.stderr.flush()
            self._process.start()
            theirs.close()
        return self._connection

    def stop(self, kill: bool = False) -> int:
        """End the worker and return its exit code (negative: the signal that ended it)."""
        if self._process is None:
            return 0
        if kill:
            self._process.kill()
        if self._connection is not None:
            # A word, not the closed end alone: workers forked after this one hold that end, too.
            with contextlib.suppress(OSError):
                self._connection.send(None)
            self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        code = int(self._process.exitcode or 0)
        self._process = self._connection = None
        return code


def first_to_answer(workers: Sequence[Worker]) -> Worker:
    """The first of several workers, each with a case, to answer or to die; of several ready ones the first listed.

    Of one worker nothing is waited for here, so that its time limit holds in `receive`.
    """
    if len(workers) == 1:
        return workers[0]
    connections = [worker._connect() for worker in workers]
    ready = wait(connections)
    return next(worker for worker, its in zip(workers, connections, strict=True) if its in ready)


def _serve(connection: Connection, parents: Connection, step: CaseStep, memory_gb: float | None, parent: int) -> None:
    parents.close()
    _die_with(parent)
    if memory_gb is not None:
        limit = int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    # Imports are no part of a case's seconds. What the module itself imports late is.
    importlib.import_module(f"radloom.{step.name}")
    if step.name == FRONT_DOOR:
        _be_silent()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        if task is None:
            return
        connection.send(_answer(step, task))


def _answer(step: CaseStep, task: CaseTask) -> Answer:
    start = time.perf_counter()
    try:
        result = step.run(task)
    except CaseError as error:
        limited = isinstance(error, LimitError)
        return Answer(
            "excluded", time.perf_counter() - start, reason=error.reason, advice=error.advice, limited=limited
        )
    except CohortError as error:
        # A setting or a file of the run is wrong, and the message was written to be read.
        return Answer("error", reason=str(error))
    except MemoryError:
        return Answer("memory", reason="out of memory")
    except Exception as error:
        return Answer("error", reason=f"{type(error).__name__} in\n{trace(error)}{_system_reason(error)}")
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Answer("ok", time.perf_counter() - start, result=result, peak_mb=peak_mb)


def _system_reason(error: Exception) -> str:
    # The operating system's own words for an OSError hold no path; the exception's text does.
    return f"  {error.strerror}" if isinstance(error, OSError) and error.strerror else ""


def trace(error: Exception) -> str:
    """Return where it happened, without the exception's text or its values, which may hold a path or a name."""
    frames = traceback.extract_tb(error.__traceback__)
    return "".join(
        f"  {os.path.basename(frame.filename)}:{frame.lineno} {frame.name}: {frame.line}\n" for frame in frames
    )


def _be_silent() -> None:
    """Let nothing that Python or native code prints reach the log: readers of raw sources print paths and values."""
    sys.stdout.flush()
    sys.stderr.flush()
    nowhere = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    for descriptor in (1, 2):
        os.dup2(nowhere.fileno(), descriptor)
    sys.stdout = sys.stderr = nowhere


def _die_with(parent: int) -> None:
    """Let the kernel kill this process when the job's process dies (Linux; elsewhere its lock makes others wait)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
