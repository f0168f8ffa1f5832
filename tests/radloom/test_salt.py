"""The project's salt: made once, the same for all processes, and what is hashed by it."""

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from radloom.errors import ConfigError
from radloom.salt import hashed, project_salt


def test_the_salt_is_made_once_and_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "project" / "salt"
    salt = project_salt(path)
    assert len(salt) == 32
    assert project_salt(path) == salt
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["salt"]
    assert project_salt(tmp_path / "another") != salt


def test_processes_that_make_it_at_once_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(project_salt, [tmp_path / "salt"] * 64))) == 1


def test_a_salt_that_others_may_read_is_shut(tmp_path: Path) -> None:
    salt = project_salt(tmp_path / "salt")
    (tmp_path / "salt").chmod(0o644)
    assert project_salt(tmp_path / "salt") == salt
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", ["", "00" * 31, "not a salt", "\u00e9" * 64])
def test_a_file_that_is_no_salt_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    path = tmp_path / "salt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match="no salt"):
        project_salt(path)
    assert path.read_text(encoding="utf-8") == content


def test_a_salt_that_cannot_be_made_says_so_without_the_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        project_salt(tmp_path / "file" / "DOE_JOHN")
    assert "DOE" not in str(caught.value)


def test_a_hash_is_hmac_sha256() -> None:
    expected = hmac.new(b"s" * 32, b"1.2.840.1", hashlib.sha256).hexdigest()[:32]
    assert hashed(b"s" * 32, "1.2.840.1") == expected
    assert hashed(b"t" * 32, "1.2.840.1") != expected
