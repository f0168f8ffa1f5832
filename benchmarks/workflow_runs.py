"""Whole runs of the workflow as a user starts them, timed from outside."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Timing:
    """One run: wall seconds, seconds until the first job's first case, and Snakemake's own peak memory."""

    wall_s: float
    first_case_s: float | None
    peak_mb: float


def run(folder: Path, config: str, cores: int, first: Path | None = None) -> Timing:
    """Run the workflow in a folder with a configuration there; `first` is a file that is filled with the first case.

    Raises RuntimeError with the end of the output where the run fails.
    """
    command = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(REPO / "Snakefile")]
    command += ["--cores", str(cores), "--configfile", config]
    start = time.perf_counter()
    seen: list[float] = []
    peak = [0.0]
    with open(folder / "output.txt", "w+") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=dict(os.environ))

        def watch() -> None:
            while process.poll() is None:
                if first is not None and not seen and first.exists() and first.stat().st_size:
                    seen.append(time.perf_counter() - start)
                peak[0] = max(peak[0], high_water_mb(process.pid))
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        wall = time.perf_counter() - start
        watcher.join()
        if code:
            output.seek(0)
            raise RuntimeError(output.read()[-3000:])
    return Timing(wall, seen[0] if seen else None, peak[0])


def high_water_mb(pid: int) -> float:
    """Return the peak resident memory of a process in MB, 0 where it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)
