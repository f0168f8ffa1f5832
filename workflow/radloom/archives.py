"""Unpacking zip and tar: numbered files into one folder, so that no name of a member matters, within limits.

What a centre packs is data, and may be damaged or hostile: no path of a member is ever used, links, devices and
encrypted members are refused, and bytes are counted as they come, whatever headers claim.
"""

from __future__ import annotations

import bz2
import errno
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from isal import igzip

from radloom.errors import CaseError, LimitError
from radloom.images import DAMAGED_GZIP
from radloom.source_names import ARCHIVES, suffix

MOST_MEMBERS = 50_000
# Voxels pack well: masks 1000 fold, and then they are small. What is large and packed like that is no scan.
_RATIO, _RATIO_FROM = 200, 1 << 30
_BLOCK = 1 << 20
_TAR_END = 1024
_ENCRYPTED = 0x1
_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(?:^|[/\\])\.\.(?:[/\\]|$)|\0")
_LITTER = re.compile(r"(?:^|/)(?:__MACOSX/|\._|\.DS_Store$|Thumbs\.db$)")
_DAMAGED: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    tarfile.TarError,
    *DAMAGED_GZIP,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    ValueError,
    IndexError,
    OverflowError,
)


class _Meter:
    """Counts the bytes that come out of an archive, and stops it where they are too many."""

    def __init__(self, packed: int, most: int, what: str) -> None:
        self._packed, self._most, self._what = packed, most, what
        self._bytes = 0

    def count(self, block: bytes) -> bytes:
        self._bytes += len(block)
        if self._bytes > self._most:
            raise LimitError(
                f"the archive of the {self._what} unpacks to more than {self._most / 2**30:g} GiB",
                "Look at the archive; if it is sound, raise ingest.max_unpacked_gb.",
            )
        if self._bytes > max(_RATIO_FROM, _RATIO * self._packed):
            raise CaseError(
                f"the archive of the {self._what} unpacks to more than {_RATIO} times its size, as no scan does",
                "Pack the series again.",
            )
        return block


class _Metered:
    """A stream whose bytes are counted as they are read, headers and all; `end` are the last ones so far."""

    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        self._stream, self._meter = stream, meter
        self.end = b""

    def read(self, size: int) -> bytes:
        block = self._meter.count(self._stream.read(size))
        self.end = (self.end + block)[-_TAR_END:]
        return block


def unpack(path: Path, folder: Path, max_bytes: int, what: str) -> tuple[Path, ...]:
    """Unpack an archive's files, numbered in its order, into an empty folder; return their paths.

    A file of a known format keeps its ending, nothing else of its name. Raises LimitError for more than `max_bytes`,
    and CaseError for what can't be unpacked, is encrypted, has members that lead out of it, links, devices or archives,
    has more than 50,000 members, or unpacks to much more than scans do.
    """
    meter = _Meter(path.stat().st_size, max_bytes, what)
    files: list[Path] = []
    try:
        members = _zip_members(path, meter, what) if suffix(path.name) == ".zip" else _tar_members(path, meter, what)
        for number, (name, content) in enumerate(members, 1):
            if number > MOST_MEMBERS:
                raise CaseError(
                    f"the archive of the {what} holds more than {MOST_MEMBERS:,} members",
                    "Pack the series that is meant, and no other.",
                )
            if content is None or _LITTER.search(name):
                continue
            kind = suffix(name)
            if kind in ARCHIVES:
                raise CaseError(
                    f"the archive of the {what} holds another archive", "Pack the files themselves, in one archive."
                )
            target = folder / f"{number:06d}{kind}"
            with open(target, "xb") as file:
                while block := content.read(_BLOCK):
                    file.write(block)
            files.append(target)
    except _DAMAGED:
        raise _damaged(what) from None
    except OSError as error:
        # bz2 says so of damaged data, without a number of the operating system's; a zip may point to before its start.
        if error.errno in (None, errno.EINVAL):
            raise _damaged(what) from None
        raise
    except (NotImplementedError, RuntimeError):
        raise CaseError(
            f"the archive of the {what} is packed by a method that is not read", "Pack it as plain zip or tar.gz."
        ) from None
    return tuple(files)


def _zip_members(path: Path, meter: _Meter, what: str) -> Iterator[tuple[str, _Metered | None]]:
    """Name and content of every member; None for a folder."""
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            _check_name(info.filename, what)
            # Only Unix writes a mode; 0 is a file.
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _special(what)
            if info.flag_bits & _ENCRYPTED:
                raise CaseError(f"the archive of the {what} is encrypted", "Pack it without a password.")
            if info.is_dir():
                yield info.filename, None
                continue
            with archive.open(info) as content:
                yield info.filename, _Metered(content, meter)


def _tar_members(path: Path, meter: _Meter, what: str) -> Iterator[tuple[str, _Metered | IO[bytes] | None]]:
    """Name and content of every member; None for a folder. The checksums of the packing are looked at."""
    with _unpacked(path) as stream:
        metered = _Metered(stream, meter)
        with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r|") as archive:
            for info in archive:
                _check_name(info.name, what)
                if info.isdir():
                    yield info.name, None
                    continue
                if not info.isreg() or info.issparse():
                    raise _special(what)
                yield info.name, archive.extractfile(info)
                archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header that it has seen
        while metered.read(_BLOCK):
            pass  # the checksum stands at the end
        # Two empty blocks end a tar file; tarfile takes one that broke off after a member for whole.
        if metered.end != bytes(_TAR_END):
            raise tarfile.ReadError


def _unpacked(path: Path) -> IO[bytes]:
    kind = suffix(path.name)
    if kind in (".tar.gz", ".tgz"):
        return cast(IO[bytes], igzip.open(path, "rb"))
    if kind in (".tar.bz2", ".tbz2"):
        return cast(IO[bytes], bz2.open(path, "rb"))
    if kind in (".tar.xz", ".txz"):
        return cast(IO[bytes], lzma.open(path, "rb"))
    return open(path, "rb")


def _check_name(name: str, what: str) -> None:
    if _OUTSIDE.search(name):
        raise CaseError(
            f"the archive of the {what} has a member whose path leads out of it", "Pack the files with plain paths."
        )


def _special(what: str) -> CaseError:
    return CaseError(f"the archive of the {what} holds a link, a device or a sparse file", "Pack the files themselves.")


def _damaged(what: str) -> CaseError:
    return CaseError(f"the archive of the {what} can't be unpacked: truncated or damaged", "Pack or copy it again.")
