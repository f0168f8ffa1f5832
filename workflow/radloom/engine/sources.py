"""Raw sources: what tells that one may have changed, and the hash of its content. Their paths are never kept."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from radloom.engine.codehash import TRANSPORT, module_digest
from radloom.engine.files import canonical_json, identity, sha256_file, sha256_json
from radloom.salt import hashed
from radloom.source_names import is_url, is_volume, list_folder, source_files

_DETACHED = (".mhd", ".nhdr")
# The cells of the sheet that choose in DICOM, or go into what is told of it.
_CHOOSING = ("series", "mask_roi", "roi_name", "patient_id")


def source_identity(source: Path | str, salt: bytes = b"") -> list[int]:
    """Return what tells cheaply that a source may have changed: the size of all its files, and a digest.

    The digest is of inode, size and mtime of all files, so that one edited slice is seen; no time stands there by
    itself, for a copied file has the day of the scan. Of a URL it is a digest by the project's salt, with the code that
    fetches it: what a server has under a UID stays as it is.
    """
    if isinstance(source, str):
        return [0, int(_url_digest(source, salt)[:12], 16)]
    try:
        parts = _folder_identities(source)
    except NotADirectoryError:
        parts = [(ino, size, mtime) for size, mtime, ino in map(identity, _header_and_data(source))]
    parts.sort()
    return [sum(part[1] for part in parts), int(hashlib.sha256(repr(parts).encode()).hexdigest()[:12], 16)]


def _folder_identities(path: Path) -> list[tuple[int, int, int]]:
    """Inode, size and mtime of every file and link in a folder, of every depth.

    No file's path is put together: at 10,000 folders of 300 slices every microsecond a file is three seconds a start.
    """
    found = []
    waiting = [str(path)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    stat = entry.stat(follow_symlinks=False)
                    found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return found


def _url_digest(url: str, salt: bytes) -> str:
    return hashed(salt, f"{_transport()} {url}")


@cache
def _transport() -> str:
    """The digest of the code that fetches series."""
    return module_digest(Path(__file__).parents[2], TRANSPORT)


def _header_and_data(path: Path) -> list[Path]:
    if path.suffix.lower() not in _DETACHED:
        return [path]
    try:
        # A header that names data which aren't there is ingest's to exclude.
        return [file for file in source_files(path) if file.exists()]
    except (OSError, ValueError):
        return [path]


def source_hash(source: Path | str, salt: bytes = b"") -> str:
    """Return the sha256 of a source's content.

    Of a folder of DICOM the names of its files don't count, nor where in it they lie; of a header with its data apart
    the data's place does. A URL has the digest of its identity.
    """
    if isinstance(source, str):
        return _url_digest(source, salt)
    if source.is_dir():
        folder = list_folder(source)
        return sha256_json([*sorted(map(sha256_file, folder.files)), folder.links_inside, folder.links_outside])
    files = _header_and_data(source)
    if files == [source]:
        return sha256_file(source)
    return sha256_json([[os.path.relpath(file, source.parent), sha256_file(file)] for file in files])


def needs_salt(row: dict[str, str]) -> bool:
    """Tell whether a row of the cohort sheet has a source other than a volume file: UIDs and choices to be hashed."""
    return any(row.get(column) and not is_volume(row[column]) for column in ("image", "mask"))


def choice(row: dict[str, str], salt: bytes) -> dict[str, str]:
    """Return, hashed, what a row of the sheet chooses in its DICOM; nothing for volume files."""
    if not needs_salt(row):
        return {}
    return {"choice": hashed(salt, canonical_json([row.get(column, "") for column in _CHOOSING]))}


def private_cells(row: dict[str, str], salt: bytes) -> dict[str, str]:
    """Return what ingest needs of a row and no record may hold: URLs, what to choose, and the salt itself."""
    if not needs_salt(row):
        return {}
    urls = {f"{column}_url": row[column] for column in ("image", "mask") if is_url(row.get(column, ""))}
    chosen = {column: row[column] for column in _CHOOSING if row.get(column)}
    return {**urls, **chosen, "salt": salt.hex()}
