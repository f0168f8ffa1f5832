"""What the name of a source tells: its format, a URL; the files that belong to a volume, and those of a folder.

The engine looks at every source with this before a run starts, so nothing heavy is imported.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

VOLUMES = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "mha",
    ".mhd": "mha",
}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ENDINGS = sorted((*VOLUMES, *ARCHIVES), key=len, reverse=True)
_DETACHED = (".mhd", ".nhdr")
_DATA_FILE = re.compile(r"^(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*(\S.*?)[ \t\r]*$", re.MULTILINE | re.IGNORECASE)
_HEADER_BYTES = 1 << 20
_URL = re.compile(r"https?://", re.IGNORECASE)
# In the listings of archives made on a Mac, and on every disk that one has looked at.
_LITTER = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Folder:
    """A folder's files of every depth, in a fixed order, and what of it was not taken."""

    files: tuple[Path, ...]
    links_inside: int
    links_outside: int


def is_url(cell: str) -> bool:
    """Tell whether a cell names a series on a DICOMweb server."""
    return _URL.match(cell) is not None


def suffix(name: str) -> str:
    """Return the format of a volume or archive that a file's name claims, such as `.nii.gz`, and nothing else of it."""
    return next((ending for ending in _ENDINGS if name.lower().endswith(ending)), "")


def is_volume(cell: str) -> bool:
    """Tell whether a cell names a single volume file, for which there is no series or ROI to choose."""
    return not is_url(cell) and suffix(cell) in VOLUMES


def source_files(path: Path) -> list[Path]:
    """The files of a volume: itself, and the data file that a detached header (.mhd, .nhdr) names."""
    if not path.name.lower().endswith(_DETACHED):
        return [path]
    try:
        with open(path, "rb") as file:
            text = file.read(_HEADER_BYTES).decode("latin-1")
    except OSError:
        return [path]
    data = _DATA_FILE.search(text)
    return [path] if data is None or data[1].upper() == "LOCAL" else [path, path.parent / data[1]]


def list_folder(path: Path) -> Folder:
    """List a folder's files of every depth. Symbolic links are not followed: they are counted by where they lead."""
    files: list[str] = []
    links: list[str] = []
    waiting = [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    links.append(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    if entry.name.lower() not in _LITTER:
                        waiting.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and entry.name.lower() not in _LITTER:
                    files.append(entry.path)
    root = os.path.realpath(path)
    inside = sum(os.path.exists(link) and os.path.realpath(link).startswith(root + os.sep) for link in links)
    return Folder(tuple(Path(file) for file in sorted(files)), inside, len(links) - inside)
