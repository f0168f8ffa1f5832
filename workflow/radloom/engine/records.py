"""What a step did with a case: the record beside its files, and how it is checked and replaced.

A record lies at `results/cases/<case_id>/<step>/record.json`, the step's files beside it. It is written last, so
a record whose files are whole is the proof that the step finished.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from radloom.engine.files import read_json, sha256_file, write_json

RECORD = "record.json"
SCRATCH = ".scratch"


@dataclass(frozen=True)
class OutputFile:
    """Content and place in time of a file that a step made."""

    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> OutputFile:
        stat = os.stat(path)
        return cls(sha256_file(path), stat.st_size, stat.st_mtime_ns)

    def whole(self, path: Path) -> bool:
        """Tell whether the file is still what was made: by size and mtime, else by its content.

        A file that is the same but for its time (a copied folder) gets the time back, so that it is read only once.
        """
        try:
            stat = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        if stat.st_size != self.size:
            return False
        if stat.st_mtime_ns != self.mtime_ns:
            if sha256_file(path) != self.sha256:
                return False
            os.utime(path, ns=(self.mtime_ns, self.mtime_ns))
        return True


def as_listed(made: dict[str, Any], path: Path) -> bool:
    """Tell whether a file is what a manifest lists of it."""
    return OutputFile(made["sha256"], made["size"], made["mtime_ns"]).whole(path)


@dataclass
class Record:
    """The sidecar record of one case (or of the cohort) and one step."""

    step: str
    case_id: str
    key: str
    status: str  # "ok" or "excluded"
    reason: str = ""
    advice: str = ""
    inputs: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    row: dict[str, str] = field(default_factory=dict)
    resources: dict[str, str] = field(default_factory=dict)
    code: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, OutputFile] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0
    # Peak memory of the worker until now: of this case, or of a larger one before it in the chunk.
    peak_mb: float = 0.0
    # Size and identity of the raw sources with their sha256, so that an untouched source isn't read again.
    sources: dict[str, list[Any]] = field(default_factory=dict)
    # The limits of time and memory that excluded the case; with other limits it is tried again.
    limits: dict[str, float] | None = None
    # The `force` request that this result answered.
    force: str = ""
    # Its volumes were removed because nothing needed them any more (`keep: final`).
    tidied: bool = False

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """Return the record in a step's folder, or None where there is none that can be used."""
        content = read_json(folder / RECORD)
        try:
            content["outputs"] = {name: OutputFile(**file) for name, file in content["outputs"].items()}
            return cls(**content)
        except (TypeError, KeyError, AttributeError):
            return None

    def write(self, folder: Path) -> None:
        write_json(folder / RECORD, asdict(self))

    def whole(self, folder: Path) -> bool:
        """Tell whether every file that the record lists is there and unaltered."""
        return not self.tidied and all(file.whole(folder / name) for name, file in self.outputs.items())


def scratch(folder: Path) -> Path:
    """Return an empty folder beside a step's files; what a killed run left in it is removed."""
    path = folder / SCRATCH
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def cache_path(results: Path, step: str) -> Path:
    """Return the folder in which a step of the whole cohort keeps what a stop shall not cost."""
    return results / "cache" / step


def fetched_path(folder: Path) -> Path:
    """Return where a case keeps what a server sent, beside the folder of the step: a stop shall not cost it."""
    return folder.parent / ".fetched"


def adopt(source: Path, target: Path) -> OutputFile:
    """Move a new file into place; where the old one has the same content it stays, with its mtime."""
    new = OutputFile.of(source)
    try:
        same = os.stat(target).st_size == new.size and sha256_file(target) == new.sha256
    except (FileNotFoundError, IsADirectoryError):
        same = False
    if same:
        source.unlink()
        stat = os.stat(target)
        return OutputFile(new.sha256, stat.st_size, stat.st_mtime_ns)
    os.replace(source, target)
    return new


def clear(folder: Path) -> None:
    """Remove a step's files for a case, record first, so that nothing stale can be taken for a result."""
    (folder / RECORD).unlink(missing_ok=True)
    if folder.is_dir():
        shutil.rmtree(folder)
