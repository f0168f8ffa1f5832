"""What a cell of the cohort sheet names: a volume, or DICOM as a file, a folder, an archive or a series on a server.

Formats of volumes and archives are told by the name's ending, DICOM by the file's preamble, since its files have any
name or none. No message repeats a path or a name of a file: they carry patients' names.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radloom.errors import CaseError
from radloom.source_names import ARCHIVES, VOLUMES, list_folder, suffix

DICOM = (".dcm", ".ima", ".dicom")


@dataclass(frozen=True)
class Selection:
    """What a row of the cohort sheet says beside the places of image and mask.

    `series` is a series UID or a pattern of the description; `mask_roi` the name or pattern of an ROI, or a segment's
    label or number; `roi_name` the ROI's name in the tables. `salt` hashes UIDs; without it (by hand) none is kept.
    """

    series: str = ""
    mask_roi: str = ""
    roi_name: str = ""
    patient_id: str = ""
    salt: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Contents:
    """What a source turned out to hold: one volume file, or files among which the DICOM ones are to be found."""

    volume: Path | None
    dicom: tuple[Path, ...] = ()


class Sources:
    """The sources of one case, opened: each archive is unpacked once, also where image and mask name the same one.

    Use it as a context: what was unpacked or fetched into the folder `work` is gone when it ends. What servers send
    goes into the folder `fetched` instead, where there is one, and stays: a fetch that was stopped is taken up again.
    `web` are the settings of `radloom.dicom.web.WebSettings`.
    """

    def __init__(self, work: Path, max_unpacked_gb: float, web: Mapping[str, Any], fetched: Path | None = None) -> None:
        self._work = work
        self._max_unpacked = int(max_unpacked_gb * 2**30)
        self._web = web
        self._fetched = fetched
        self._opened: dict[Path | str, Contents] = {}
        self._held = ExitStack()

    def __enter__(self) -> Sources:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def open(self, source: Path | str, what: str) -> Contents:
        """Return what a file, a folder, an archive or a URL holds; `what` ("image" or "mask") names it in messages.

        Raises CaseError if that is nothing which can be read.
        """
        if source not in self._opened:
            with _plain_errors(what):
                self._opened[source] = self._open(source, what)
        return self._opened[source]

    def _open(self, source: Path | str, what: str) -> Contents:
        if isinstance(source, str):
            from radloom.dicom.web import WebSettings, fetch_series

            # By a hash, since a URL has UIDs in it; what stands after a # only asks for the same series again.
            name = hashlib.sha256(source.partition("#")[0].encode()).hexdigest()[:32]
            into = self._folder() if self._fetched is None else self._fetched / name
            return Contents(None, tuple(fetch_series(source, into, WebSettings(**self._web))))
        if not source.exists():
            raise CaseError(f"the {what} file does not exist", "Correct its path in the cohort sheet.")
        kind = suffix(source.name)
        if kind in VOLUMES:
            return Contents(source)
        if source.is_dir():
            folder = list_folder(source)
            if folder.links_outside:
                raise CaseError(
                    f"the folder of the {what} holds {folder.links_outside} links to places outside of it, or to none",
                    "Put the files themselves into it, or name the folder in which they lie.",
                )
            return _contents(folder.files, what, "folder")
        if kind in ARCHIVES:
            from radloom.archives import unpack

            return _contents(unpack(source, self._folder(), self._max_unpacked, what), what, "archive")
        if source.name.lower().endswith(DICOM) or has_preamble(source):
            return Contents(None, (source,))
        raise CaseError(
            f"the {what} is no DICOM file, and has no suffix of another format that can be read",
            f"Formats are told by {', '.join((*VOLUMES, *ARCHIVES))}.",
        )

    def _folder(self) -> Path:
        # Of a neutral name: what is written below it is the patient's, and must not say so.
        return Path(self._held.enter_context(tempfile.TemporaryDirectory(prefix=".source-", dir=self._work)))


def _contents(files: tuple[Path, ...], what: str, place: str) -> Contents:
    """Tell a folder or archive of DICOM from one that holds a single volume."""
    volumes = [file for file in files if suffix(file.name) in VOLUMES]
    others = [file for file in files if suffix(file.name) not in VOLUMES]
    if not files:
        raise CaseError(f"the {place} of the {what} is empty", "Name the one that holds the series.")
    if not volumes or any(has_preamble(file) for file in others):
        return Contents(None, tuple(others))
    if len(volumes) > 1:
        raise CaseError(
            f"the {place} of the {what} holds {len(volumes)} volumes and no DICOM",
            "Name the one that is meant in the cohort sheet.",
        )
    return Contents(volumes[0])


def has_preamble(path: Path) -> bool:
    """Tell whether a file is DICOM by its preamble (PS3.10, section 7.1)."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


@contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Let no error of the operating system pass that holds a path."""
    try:
        yield
    except PermissionError:
        raise CaseError(f"the {what} may not be read", "Give its permission to the user of the run.") from None
    except OSError as error:
        raise OSError(error.errno, f"reading the {what}: {error.strerror}") from None
