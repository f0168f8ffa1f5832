"""Archives: unpacked into numbered files, and nothing that a hostile or damaged one may hold gets further."""

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from radloom import archives
from radloom.archives import unpack
from radloom.errors import CaseError, LimitError

MOST = 1 << 30
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Names may carry a patient's; no message may.
PATIENT = "DOE_JOHN"
FILES = {f"{PATIENT}/ct/1.dcm": b"one" * 5000, f"{PATIENT}/ct/2": b"two" * 5000, "Scan.NII.GZ": b"three"}


def zipped(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir(f"{PATIENT}/")
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes], *special: tarfile.TarInfo) -> Path:
    packing = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "tbz2": "bz2", "xz": "xz", "txz": "xz"}.get(path.suffix[1:], "")
    with tarfile.open(path, f"w:{packing}") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for info in special:
            archive.addfile(info)
    return path


def made(tmp_path: Path, suffix: str, files: dict[str, bytes]) -> Path:
    return (zipped if suffix.lower() == ".zip" else tarred)(tmp_path / f"{PATIENT}{suffix}", files)


def into(path: Path, most: int = MOST) -> tuple[Path, ...]:
    folder = path.parent / f"unpacked {len(os.listdir(path.parent))}"
    folder.mkdir()
    return unpack(path, folder, most, "image")


def refused(path: Path, most: int = MOST) -> str:
    """The reason for which an archive is refused; it names nobody."""
    with pytest.raises(CaseError) as caught:
        into(path, most)
    assert "DOE" not in str(caught.value)
    assert caught.value.advice
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".zip", ".ZIP", *TARS])
def test_files_are_unpacked_under_numbers(tmp_path: Path, suffix: str) -> None:
    litter = {"__MACOSX/._1.dcm": b"x", "ct/.DS_Store": b"x", "ct/._2": b"x"}
    found = into(made(tmp_path, suffix, {**litter, **FILES}))
    assert [path.read_bytes() for path in found] == list(FILES.values())
    assert [path.suffix for path in found] == ["", "", ".gz"]
    assert found[-1].name.endswith(".nii.gz")
    assert all(path.name.split(".")[0].isdigit() for path in found)
    assert stat.S_ISREG(found[0].stat().st_mode)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/etc/out", "..", "C:\\out", "..\\out", "a\\..\\..\\out", "\\\\host\\out"]
)
def test_a_path_that_leads_out_is_refused_and_nothing_is_written_there(tmp_path: Path, suffix: str, name: str) -> None:
    inner = tmp_path / "deep" / "deeper"
    inner.mkdir(parents=True)
    path = made(inner, suffix, {"ct/1.dcm": b"1", name: b"hostile"})
    assert "leads out of it" in refused(path)
    unpacked = "000002" if suffix == ".zip" else "000001"  # a zip has its folder first
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {path.name, unpacked}
    assert not Path("/etc/out").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.GNUTYPE_SPARSE],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("ct/3.dcm")
    info.type, info.linkname = kind, "ct/1.dcm"
    assert "holds a link, a device" in refused(tarred(tmp_path / "a.tar", {"ct/1.dcm": b"1"}, info))


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("ct/1.dcm")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/hostname")
    assert "holds a link, a device" in refused(path)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"1.dcm": b"1"}).read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.rindex(mark) + flags] |= 1
    path = tmp_path / f"{PATIENT}.zip"
    path.write_bytes(content)
    assert "is encrypted" in refused(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
@pytest.mark.parametrize("inner", ["inner.zip", "ct/inner.tar.gz", "INNER.TGZ"])
def test_an_archive_in_an_archive_is_refused(tmp_path: Path, suffix: str, inner: str) -> None:
    assert "holds another archive" in refused(made(tmp_path, suffix, {"1.dcm": b"1", inner: b"2"}))


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_too_many_bytes_are_refused_as_they_come(tmp_path: Path, suffix: str) -> None:
    path = made(tmp_path, suffix, {f"{n}.dcm": bytes(1 << 20) for n in range(8)})
    assert "unpacks to more than" in refused(path, 3 << 20)
    folder = max(tmp_path.glob("unpacked*"))
    assert sum(p.stat().st_size for p in folder.iterdir()) <= 3 << 20
    with pytest.raises(LimitError):
        into(path, 3 << 20)
    assert len(into(path, 9 << 20)) == 8


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_more_than_scans_unpack_to_is_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_RATIO_FROM", 1 << 20)
    path = made(tmp_path, suffix, {f"{n}.dcm": bytes(1 << 20) for n in range(8)})
    assert "more than 200 times its size, as no scan does" in refused(path)


def test_what_a_zip_claims_of_its_sizes_is_not_believed(tmp_path: Path) -> None:
    """Central directory and local header claim 10 bytes; it unpacks to a mebibyte."""
    content = bytearray(zipped(tmp_path / "a.zip", {"1.dcm": bytes(1 << 20)}).read_bytes())
    for mark, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        start = content.rindex(mark) + size
        content[start : start + 4] = (10).to_bytes(4, "little")
    path = tmp_path / "claims.zip"
    path.write_bytes(content)
    assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_too_many_members_are_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_MEMBERS", 20)
    assert "more than 20 members" in refused(made(tmp_path, suffix, {f"{n}": b"1" for n in range(25)}))


@pytest.mark.parametrize("suffix", [".zip", *TARS[1:]])
def test_one_changed_bit_of_the_packed_bytes_is_seen(tmp_path: Path, suffix: str) -> None:
    content = np.random.default_rng(0).integers(0, 4, 20000).astype(np.uint8).tobytes()
    path = made(tmp_path, suffix, {"1.dcm": content})
    whole = path.read_bytes()
    for place in range(len(whole) // 4, 3 * len(whole) // 4, 211):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        path.write_bytes(damaged)
        assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_a_truncated_or_foreign_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = made(tmp_path, suffix, FILES)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:10], b"", b"\x93PNG" * 300):
        path.write_bytes(content)
        assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize("suffix", TARS)
def test_a_tar_that_ends_after_a_member_is_truncated(tmp_path: Path, suffix: str) -> None:
    """tarfile takes it for whole, and a series would lose its last slices."""
    whole = tarred(tmp_path / "a.tar", {f"{n}.dcm": bytes([n + 1]) * 1024 for n in range(9)}).read_bytes()
    path = tmp_path / f"b{suffix}"
    opener: Callable[..., IO[bytes]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}.get(
        suffix.replace("tgz", "gz").replace("tbz2", "bz2").replace("txz", "xz").rpartition(".")[2], open
    )
    for size, complete in ((9 * 1536 + 1024, True), (9 * 1536, False), (5 * 1536, False), (5 * 1536 + 512, False)):
        with opener(path, "wb") as file:
            file.write(whole[:size])
        if complete:
            assert len(into(path)) == 9
        else:
            assert "truncated or damaged" in refused(path)


def test_a_packing_that_is_not_read_is_said(tmp_path: Path) -> None:
    content = bytearray(zipped(tmp_path / "a.zip", {"1.dcm": b"1" * 100}).read_bytes())
    for mark, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.rindex(mark) + method] = 98  # PPMd
    path = tmp_path / "b.zip"
    path.write_bytes(content)
    assert "packed by a method that is not read" in refused(path)


def test_a_full_disk_is_nobodys_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.zip", FILES)
    opened: Callable[..., object] = open

    def full(file: object, mode: str = "r", *rest: object) -> object:
        if mode == "xb":
            raise OSError(28, "No space left on device", str(file))
        return opened(file, mode, *rest)

    monkeypatch.setattr("builtins.open", full)
    with pytest.raises(OSError, match="No space"):
        into(path)


def test_fuzzed_archives_unpack_or_are_refused(tmp_path: Path) -> None:
    """Nothing but CaseError, whatever bytes change; the longer run is tests/helpers/fuzz_readers.py."""
    rng = np.random.default_rng(0)
    for suffix, n in itertools.product((".zip", ".tar", ".tar.gz", ".tar.xz"), range(60)):
        content = bytearray(made(tmp_path, suffix, FILES).read_bytes())
        for place in rng.integers(0, len(content), rng.integers(1, 8)):
            content[place] = rng.integers(0, 256)
        path = tmp_path / f"fuzz{n}{suffix}"
        path.write_bytes(content[: rng.integers(1, 2 * len(content))])
        with contextlib.suppress(CaseError):
            into(path)
