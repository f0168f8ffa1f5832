"""One process a card: locks that die with their holder, so that jobs side by side take different cards or wait."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

_held: dict[int, int] = {}
"""Cards of this process, and the descriptors that hold them until it ends."""


def card_names() -> list[str]:
    """What tells the cards that this process may use apart, whatever CUDA_VISIBLE_DEVICES calls them."""
    import torch

    return [str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]


def claim_card(names: Sequence[str] | None = None, folder: Path | None = None, patience_s: float | None = None) -> int:
    """The index of a card that is this process's own until it ends; waits where all are taken.

    `names` are the cards (`card_names`), `folder` is where their lock files lie: one of the user's in the folder for
    temporary files, the same for all runs. Raises TimeoutError after `patience_s` seconds.
    """
    names = card_names() if names is None else names
    folder = Path(tempfile.gettempdir()) / f"radloom-{os.getuid()}" if folder is None else folder
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if _held:
        return next(iter(_held))
    until = None if patience_s is None else time.monotonic() + patience_s
    while True:
        for index, name in enumerate(names):
            descriptor = os.open(folder / f"card-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            _held[index] = descriptor
            return index
        if until is not None and time.monotonic() > until:
            raise TimeoutError("all cards are taken")
        time.sleep(0.2)
