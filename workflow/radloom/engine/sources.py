"""Raw sources: what tells that one may have changed, and the hash of its content. Their paths are never kept."""

from __future__ import annotations

import os
from pathlib import Path

from radloom.engine.files import identity, sha256_file, sha256_json


def source_identity(path: Path) -> list[int]:
    """Return what tells cheaply that a source may have changed: size, mtime in ns, inode.

    Of a folder, or a header with its data in a file of its own: the total size, the latest mtime, and a digest of the
    identities of all files, so that one edited slice is seen.
    """
    files = source_parts(path)
    if files == [path]:
        return identity(path)
    parts = [identity(file) for file in files]
    digest = int(sha256_json(parts)[:12], 16)
    return [sum(part[0] for part in parts), max((part[1] for part in parts), default=0), digest]


def source_parts(path: Path) -> list[Path]:
    """Return every file of a source: itself, a header and its data, or all files of a folder, in a fixed order."""
    if path.is_dir():
        return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    if path.suffix.lower() in (".mhd", ".nhdr"):
        from radloom.ingest import source_files

        try:
            # A header that names data which aren't there is ingest's to exclude.
            return [file for file in source_files(path) if file.exists()]
        except (OSError, ValueError):
            return [path]
    return [path]


def source_hash(path: Path) -> str:
    """Return the sha256 of a source's content: of the file, or of all its files with their places in it."""
    files = source_parts(path)
    if files == [path]:
        return sha256_file(path)
    base = path if path.is_dir() else path.parent
    return sha256_json([[os.path.relpath(file, base), sha256_file(file)] for file in files])


def suffix(name: str) -> str:
    """Return the format that a file's name claims, such as `.nii.gz`, and nothing else of the name."""
    known = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
    return next((ending for ending in known if name.lower().endswith(ending)), "")
