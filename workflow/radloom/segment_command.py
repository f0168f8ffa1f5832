"""Labels of the ROIs from a program outside of Radloom: TotalSegmentator, nnU-Net, or any that reads and writes files.

The program gets the image under a name that says nothing of the patient, and a folder of its own; nothing is run
through a shell. What it writes is trusted only as far as it can be checked.
"""

from __future__ import annotations

import ctypes
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from radloom.errors import CaseError, CohortError, LimitError

if TYPE_CHECKING:
    from radloom.images import Volume

PLACEHOLDERS = ("image", "image_folder", "labels", "labels_folder", "device")
# nnU-Net takes a folder whose files end in the number of their channel; others don't mind.
IMAGE_FILE = "scan_0000.nii.gz"
LABELS_FILE = "labels.nii.gz"
KEPT_BYTES = 1 << 16
SHOWN_LINES = 5
SHOWN_CHARACTERS = 160
DRAIN_S = 0.2
GRACE_S = 5.0
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
# A path: in quotes, with whatever spaces it has, or as a word.
_PATH = re.compile(r"""'[^']*[/\\][^']*'|"[^"]*[/\\][^"]*"|[^\s'"=(:,;]*[/\\][^'"\s]*""")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\t\n\r]")
_PR_SET_PDEATHSIG = 1
_SECRETS = "RADLOOM_DICOMWEB"  # the login of an image server, which a program that fails might print


@dataclass(frozen=True)
class Outcome:
    """How a program ended: exit code (negative: a signal), or None where it took too long; the end of its output."""

    code: int | None
    output: bytes


def command_problems(command: str | None, labels: Mapping[str, str]) -> list[str]:
    """What is wrong with `segment.command` and the labels that belong to it, for the configuration's check."""
    if not command or not command.strip():
        return ["config: segment.source is command, but segment.command is empty"]
    problems = []
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"config: segment.command can't be split into words as a shell does it ({error})"]
    used = {name for word in words for name in _PLACEHOLDER.findall(word)}
    for name in sorted(used - set(PLACEHOLDERS)):
        problems.append(f"config: segment.command: {{{name}}} is none of {', '.join(f'{{{p}}}' for p in PLACEHOLDERS)}")
    for name in ("image", "labels"):
        if not used & {name, f"{name}_folder"}:
            problems.append(f"config: segment.command has neither {{{name}}} nor {{{name}_folder}}")
    if not labels:
        problems.append("config: segment.source is command: segment.labels must name the labels that come back")
    return problems


def segment_command(
    image: Path,
    command: str,
    labels: Mapping[int, str],
    *,
    device: str = "auto",
    timeout_s: float = 3600.0,
    tolerance_mm: float = 0.01,
    work: Path | None = None,
) -> tuple[Volume, dict[int, str], list[str]]:
    """Run a program on an image (.nii.gz); returns the label volume on the image's grid, its names and warnings.

    `labels` maps the numbers to keep to ROI names; other numbers become background, with a warning. Axes that come
    back permuted or flipped are turned back, voxel by voxel; a grid whose corners lie further than `tolerance_mm` from
    the image's is refused. `work` is the folder in which the program's files lie (default: that for temporary ones).
    Raises CaseError where the program fails, takes longer than `timeout_s` or returns what can't be used, and
    CohortError where it can't be started.
    """
    from radloom.images import read_nifti_geometry
    from radloom.segment import segment_mask
    from radloom.volume_files import match_mask, read_source

    with tempfile.TemporaryDirectory(prefix="radloom-", dir=work) as scratch:
        places = {
            "image_folder": Path(scratch, "image"),
            "image": Path(scratch, "image", IMAGE_FILE),
            "labels_folder": Path(scratch, "labels"),
            "labels": Path(scratch, "labels", LABELS_FILE),
        }
        places["image_folder"].mkdir()
        places["labels_folder"].mkdir()
        places["image"].write_bytes(image.read_bytes())
        texts = {**{name: str(path) for name, path in places.items()}, "device": chosen_device(device)}
        outcome = run_command(_filled(command, texts), timeout_s)
        _check_outcome(outcome, timeout_s)
        written = _written(places["labels"], outcome)
        geometry = read_nifti_geometry(image)
        try:
            found = read_source(written, "segmentation", shape=geometry.shape).volume
            mask, _ = match_mask(found, geometry, tolerance_mm)
        except CaseError as error:
            raise CaseError(
                f"what segment.command wrote can't be used: {error.reason}{_told(outcome.output)}",
                "It has to write whole numbers on the grid of the image that it gets. Run it on this case's "
                "calibrate/image.nii.gz by hand, or take the case out of the cohort sheet",
            ) from None
    return segment_mask(mask, labels)


def run_command(words: Sequence[str], timeout_s: float) -> Outcome:
    """Run a program in a process group of its own, which is killed with all its children when the time is over.

    Of what it prints the last 64 KiB are kept. Raises CohortError where it can't be started.
    """
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={key: value for key, value in os.environ.items() if not key.startswith(_SECRETS)},
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()),
        )
    except (OSError, ValueError) as error:
        name = os.path.basename(words[0])
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise CohortError(
            f"segment.command can't be started: {name}: {reason}. Install the program where the run can find it, or "
            "give its whole path"
        ) from None
    assert process.stdout is not None
    kept = bytearray()
    deadline = time.monotonic() + timeout_s
    try:
        with process.stdout, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (left := deadline - time.monotonic()) > 0:
                # A child that was left behind may hold the pipe open and print on: its end is not the program's end.
                if process.poll() is not None:
                    deadline = min(deadline, time.monotonic() + DRAIN_S)
                if selector.select(min(left, DRAIN_S)):
                    part = os.read(process.stdout.fileno(), KEPT_BYTES)
                    kept = (kept + part)[-KEPT_BYTES:]
                    if not part:
                        break
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        return Outcome(process.returncode, bytes(kept))
    finally:
        _end_group(process)


def chosen_device(wanted: str) -> str:
    """What {device} stands for: cpu or cuda; `auto` is cuda where there is a driver for it."""
    if wanted == "auto":
        return "cuda" if os.path.exists("/proc/driver/nvidia/version") else "cpu"
    return wanted


def _filled(command: str, texts: Mapping[str, str]) -> list[str]:
    """The command's words with their placeholders filled in; a word stays one whatever is filled in."""
    return [_PLACEHOLDER.sub(lambda m: texts.get(m[1], m[0]), word) for word in shlex.split(command)]


def _check_outcome(outcome: Outcome, timeout_s: float) -> None:
    if outcome.code is None:
        raise LimitError(
            f"segment.command took longer than {timeout_s:g} s and was ended{_told(outcome.output)}",
            "If it needs the time, raise segment.command_timeout_s; else look for what it waits for",
        )
    if outcome.code < 0:
        raise CaseError(
            f"segment.command was killed by {_signal_name(-outcome.code)}{_told(outcome.output)}",
            "SIGKILL is often a lack of memory: give the job more, or run fewer at a time. Then use "
            "`force: [segment]`, or change segment.command_version",
        )
    if outcome.code > 0:
        raise CaseError(
            f"segment.command ended with the exit code {outcome.code}{_told(outcome.output)}",
            "Run it on this case's calibrate/image.nii.gz by hand; once it works, use `force: [segment]`, or change "
            "segment.command_version",
        )


def _written(wanted: Path, outcome: Outcome) -> Path:
    """The one volume that the program wrote: where it should, with another suffix, or in a folder of that name."""
    from radloom.source_names import VOLUMES

    if wanted.is_file():
        return wanted
    volumes = [path for path in sorted(wanted.parent.rglob("*")) if path.is_file() and path.name.endswith((*VOLUMES,))]
    if not volumes:
        raise CaseError(
            f"segment.command wrote no label volume{_told(outcome.output)}",
            "It has to write one to {labels}, or one into {labels_folder}, as NIfTI, NRRD or MetaImage",
        )
    if len(volumes) > 1:
        raise CaseError(
            f"segment.command wrote {len(volumes)} volumes where one with all labels is needed",
            "Let it write one file (TotalSegmentator: --ml)",
        )
    return volumes[0]


def _told(output: bytes) -> str:
    """The last lines of what a program printed, with nothing in them that looks like a path."""
    # A progress bar returns to the start of its line.
    lines = [line.split("\r")[-1] for line in output.decode("utf-8", "replace").replace("\r\n", "\n").split("\n")]
    clean = [_PATH.sub("<path>", _ESCAPES.sub("", line)).strip() for line in lines]
    shown = [line[-SHOWN_CHARACTERS:] for line in clean if line][-SHOWN_LINES:]
    return f"; it said last: {' | '.join(shown)}" if shown else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a program and its children: first asking, then by force."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _dying_with(parent: int) -> Callable[[], None] | None:
    """What a new process does first on Linux: it asks the kernel to be killed when `parent` dies."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return ask
