"""An implementation at work in a process of its own, watched for time and memory."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.workflow_runs import REPO

HERE = Path(__file__).resolve().parent
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "PICTOLOGICS_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
}


class Failed(Exception):
    """An implementation did not answer; the message says why."""


@dataclass(frozen=True)
class Limits:
    """What one repeat may take. The processor's seconds count, and the wall's only where next to nothing is done."""

    cpu_s: float
    wall_s: float
    memory_mb: float


class Process:
    """A running `runner.py`; `ask` has it do one repeat. A context manager, which ends the process."""

    def __init__(self, python: Path, module: str, limits: Limits) -> None:
        self.limits = limits
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed in __exit__
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(REPO / "workflow"), "PYTHONWARNINGS": "ignore"}
        self.process = subprocess.Popen(
            [str(python), str(HERE / "runner.py"), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env=environment,
        )

    def ask(self, image: Path, mask: Path, classes: list[str]) -> dict[str, Any]:
        """Return what `runner.py` answers to one request; raises Failed, and then the process is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"image": str(image), "mask": str(mask), "classes": classes}
        start, used = time.perf_counter(), self._cpu_s()
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Failed(self._last_words()) from None
        while not select.select([self.process.stdout], [], [], 0.05)[0]:
            if self._cpu_s() - used > self.limits.cpu_s:
                self.end()
                raise Failed(f"more than {self.limits.cpu_s:.0f} CPU seconds")
            if time.perf_counter() - start > self.limits.wall_s:
                self.end()
                raise Failed(f"no answer within {self.limits.wall_s:.0f} s")
            if self._memory_mb() > self.limits.memory_mb:
                self.end()
                raise Failed(f"more than {self.limits.memory_mb / 1024:.0f} GB of memory")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise Failed(self._last_words())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process, at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        self.errors.close()

    def _memory_mb(self) -> float:
        try:
            pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError, IndexError):
            return 0.0
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def _cpu_s(self) -> float:
        try:
            # The program's name stands in brackets and may hold spaces; user and system time are fields 14 and 15.
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        return lines[-1].strip() if lines else f"it ended with code {self.process.poll()}"
