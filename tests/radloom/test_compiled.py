"""A compiled library: built once, by whatever compiler there is, and a failure is said in words."""

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radloom import compiled
from radloom.errors import CohortError


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source in a folder of its own, and a user's cache beside it."""
    path = tmp_path / "package" / "kernels.c"
    path.parent.mkdir()
    path.write_text("int answer(void) { return 42; }")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    return path


def test_a_changed_source_is_a_new_library_and_the_former_one_goes(source: Path) -> None:
    first = compiled.build(source, "answers")
    assert ctypes.CDLL(str(first)).answer() == 42
    built = first.stat().st_mtime_ns
    assert compiled.build(source, "answers") == first
    assert first.stat().st_mtime_ns == built
    other_machine = first.with_name("_kernels-vax-1.so")
    other_machine.touch()
    source.write_text("int answer(void) { return 43; }")
    second = compiled.build(source, "answers")
    assert ctypes.CDLL(str(second)).answer() == 43
    assert {path.name for path in source.parent.iterdir()} == {"kernels.c", second.name, other_machine.name}


def test_a_folder_that_cannot_be_written_to_is_left_alone(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.os, "access", lambda *_: False)
    built = compiled.build(source, "answers")
    assert built.parent == source.parents[1] / "cache" / "radloom"
    assert compiled.build(source, "answers") == built
    assert list(source.parent.iterdir()) == [source]


def test_several_may_build_at_once(source: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        built = {path.result() for path in [pool.submit(compiled.build, source, "answers") for _ in range(4)]}
    assert len(built) == 1
    assert ctypes.CDLL(str(built.pop())).answer() == 42
    assert len(list(source.parent.iterdir())) == 2


def test_the_compiler_may_be_a_command_with_options(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", f"env {shutil.which('cc') or shutil.which('gcc')} -g0")
    assert ctypes.CDLL(str(compiled.build(source, "answers"))).answer() == 42


@pytest.mark.parametrize(
    ("compiler", "text", "message"),
    [
        ("no-such-compiler", "int x;", "there is no C compiler `no-such-compiler`"),
        ("", "int answer(void) { return }", "error: expected expression"),
    ],
)
def test_what_cannot_be_built_says_why_and_leaves_nothing(
    source: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, text: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    source.write_text(text)
    with pytest.raises(CohortError, match=message) as caught:
        compiled.build(source, "answers", "ask somebody")
    assert str(caught.value).startswith("the library of answers (package/kernels.c) can't be built: ")
    assert str(caught.value).endswith("; ask somebody")
    assert list(source.parent.iterdir()) == [source]


def test_a_full_disk_is_said(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    monkeypatch.setattr(compiled.tempfile, "mkstemp", full)
    with pytest.raises(CohortError, match="can't be built: No space left on device; install"):
        compiled.build(source, "answers")
