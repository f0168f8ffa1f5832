"""Progress over cases and steps: jobs write a line a case, the run's process shows a bar or plain lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

JOURNAL = "logs/journal.jsonl"
LINE_EVERY_S = 5.0
POLL_S = 0.2


def report_case(results: Path, step: str, case_id: str, status: str, computed: bool) -> None:
    """Add a line to the run's journal; one short write with O_APPEND, so that jobs side by side don't mix."""
    _append(results, {"step": step, "case_id": case_id, "status": status, "computed": computed})


def report_failure(results: Path, step: str, chunk: str, message: str) -> None:
    """Add to the run's journal that a job failed, and why."""
    _append(results, {"step": step, "chunk": chunk, "failed": message})


def _append(results: Path, entry: dict[str, Any]) -> None:
    line = json.dumps(entry) + "\n"
    path = results / JOURNAL
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def read_journal(results: Path) -> list[dict[str, Any]]:
    """Return what the last run's journal says of cases, in the order in which they were done."""
    try:
        entries = [json.loads(line) for line in (results / JOURNAL).read_text().splitlines()]
    except FileNotFoundError:
        return []
    return [entry for entry in entries if "case_id" in entry]


def hide_scheduling(logger: logging.Logger) -> None:
    """Drop the two lines that Snakemake writes with every scheduling decision: they would tear the bar apart."""
    logger.addFilter(lambda record: not str(record.msg).startswith(("Select jobs to execute", "Execute ")))


class Progress:
    """Follows the journal in a thread: a bar on a terminal, else a plain line every few seconds."""

    def __init__(self, results: Path, total: int) -> None:
        self.journal = (results / JOURNAL).resolve()
        self.total = total
        self._done = threading.Event()
        self.journal.parent.mkdir(parents=True, exist_ok=True)
        self.journal.write_text("")
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Show the last state and end."""
        self._done.set()
        self._thread.join(5)

    def _follow(self) -> None:
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        bar = tqdm(total=self.total, unit="case", disable=not terminal, dynamic_ncols=True, mininterval=0.2)
        seen = excluded = computed = 0
        shown_at = time.monotonic()
        shown = -1
        step = ""
        with open(self.journal) as journal:
            while True:
                last = self._done.is_set()
                while line := journal.readline():
                    entry = json.loads(line)
                    if "failed" in entry:
                        tqdm.write(f"radloom: {entry['step']} {entry['chunk']} failed: {entry['failed']}", sys.stderr)
                        continue
                    step = entry["step"]
                    seen += 1
                    excluded += entry["status"] == "excluded"
                    computed += entry["computed"]
                    bar.set_description(step, refresh=False)
                    bar.set_postfix({"computed": computed, "excluded": excluded}, refresh=False)
                    bar.update(1)
                due = time.monotonic() - shown_at >= LINE_EVERY_S
                if not terminal and seen != shown and (due or last):
                    shown_at, shown = time.monotonic(), seen
                    print(
                        f"radloom: {seen} of {self.total} cases x steps, "
                        f"{computed} computed, {excluded} excluded, now {step}",
                        file=sys.stderr,
                        flush=True,
                    )
                if last:
                    break
                self._done.wait(POLL_S)
        bar.close()
