"""One job a card: locks that die with their holders, so that jobs side by side take different cards or wait."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

JOB_VARIABLE = "RADLOOM_JOB"

_held: dict[int, int] = {}
"""Cards of this process, and the descriptors that hold them until it ends."""


def card_names() -> list[str]:
    """What tells the cards that this process may use apart, whatever CUDA_VISIBLE_DEVICES calls them."""
    import torch

    return [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]


def claim_card(
    names: Sequence[str] | None = None,
    folder: Path | None = None,
    patience_s: float | None = None,
    job: str | None = None,
) -> int:
    """The index of a card that is this job's own until its last process ends; waits where all are taken.

    `names` are the cards (`card_names`), `folder` is where their lock files lie: one of the user's in the folder for
    temporary files, the same for all runs. Processes of one `job` (the environment variable RADLOOM_JOB; else a
    process is a job of its own) share a card. Raises TimeoutError after `patience_s` seconds.
    """
    if _held:
        return next(iter(_held))
    names = card_names() if names is None else names
    folder = Path(tempfile.gettempdir()) / f"radloom-{os.getuid()}" if folder is None else folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    job = job or os.environ.get(JOB_VARIABLE) or uuid.uuid4().hex
    until = None if patience_s is None else time.monotonic() + patience_s
    while True:
        # One process at a time looks for a card, so that two of a job don't take one each.
        with open(folder / "claims.lock", "w") as claims:
            fcntl.flock(claims, fcntl.LOCK_EX)
            for alone in (False, True):
                for index, name in enumerate(names):
                    descriptor = os.open(folder / f"card-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
                    if _take(descriptor, job) if alone else _join(descriptor, job):
                        _held[index] = descriptor
                        return index
                    os.close(descriptor)
        if until is not None and time.monotonic() > until:
            raise TimeoutError("all cards are taken")
        time.sleep(0.2)


def _join(descriptor: int, job: str) -> bool:
    """Take a share of a card where it is this job's."""
    if os.pread(descriptor, 64, 0) != job.encode():
        return False
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return True


def _take(descriptor: int, job: str) -> bool:
    """Take a card that nobody holds, and let the lock file tell whose it is."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, job.encode(), 0)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return True
