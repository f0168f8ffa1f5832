"""One job a card: locks that die with their holders, so that jobs side by side take different cards or wait."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from radloom.errors import CohortError

JOB_VARIABLE = "RADLOOM_JOB"

LONGEST = 256
"""Bytes that the name of a job may have."""

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
    job = job or os.environ.get(JOB_VARIABLE) or uuid.uuid4().hex
    return _claim(lambda cards: _joined(cards, job) or _taken(cards, [job]), names, folder, patience_s)


def claim_card_of_team(
    rank: int,
    ranks: int,
    team: str,
    names: Sequence[str] | None = None,
    folder: Path | None = None,
    patience_s: float | None = None,
) -> int:
    """As `claim_card`, for process `rank` of `ranks` of a `team` on one machine, each of which has a card of its own.

    The first process takes the cards of all at once, and the others join: so no two teams wait for each other's cards.
    Raises CohortError where there are fewer cards than processes.
    """
    names = card_names() if names is None else names
    if len(names) < ranks:
        raise CohortError(f"{ranks} processes need a card each, and there are {len(names)}; start fewer processes")
    jobs = [f"{team}-{number}" for number in range(ranks)]
    return _claim(
        lambda cards: _taken(cards, jobs) if rank == 0 else _joined(cards, jobs[rank]), names, folder, patience_s
    )


Cards = list[tuple[int, Path]]
"""Indices of cards, and their lock files."""


def _claim(
    attempt: Callable[[Cards], dict[int, int]],
    names: Sequence[str] | None,
    folder: Path | None,
    patience_s: float | None,
) -> int:
    """Try until an attempt gives cards and their descriptors, which are held from then on; the first one's index."""
    if not _held:
        names = card_names() if names is None else names
        folder = Path(tempfile.gettempdir()) / f"radloom-{os.getuid()}" if folder is None else folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        cards = [(index, folder / f"card-{name}.lock") for index, name in enumerate(names)]
        until = None if patience_s is None else time.monotonic() + patience_s
        while not _held:
            # One process at a time looks for a card, so that two of a job don't take one each.
            with open(folder / "claims.lock", "w") as claims:
                fcntl.flock(claims, fcntl.LOCK_EX)
                _held.update(attempt(cards))
            if not _held:
                if until is not None and time.monotonic() > until:
                    raise TimeoutError("all cards are taken")
                time.sleep(0.2)
    return next(iter(_held))


def _joined(cards: Cards, job: str) -> dict[int, int]:
    """The card that is this job's already, with its descriptor; none where it has none."""
    for index, path in cards:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        if _join(descriptor, job):
            return {index: descriptor}
        os.close(descriptor)
    return {}


def _taken(cards: Cards, jobs: Sequence[str]) -> dict[int, int]:
    """A free card for each job, with their descriptors; none where there are too few."""
    found: dict[int, int] = {}
    for index, path in cards:
        if len(found) < len(jobs):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            if _take(descriptor, jobs[len(found)]):
                found[index] = descriptor
            else:
                os.close(descriptor)
    if len(found) == len(jobs):
        return found
    for descriptor in found.values():
        os.ftruncate(descriptor, 0)  # or another process of the team would join it
        os.close(descriptor)
    return {}


def _join(descriptor: int, job: str) -> bool:
    """Take a share of a card where it is this job's."""
    if os.pread(descriptor, LONGEST, 0) != job.encode():
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
