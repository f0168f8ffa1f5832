"""The project's secret: what makes hashes of identifiers, and shifted days, that nobody can undo without it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

from radloom.errors import ConfigError

SALT_BYTES = 32
_HASHED_DIGITS = 32


def project_salt(path: Path) -> bytes:
    """Return the project's salt (32 bytes) from a file of its own, which is made where there is none.

    The file has 64 hexadecimal digits and may be read by its owner alone. Of several processes that make it at once
    all get the same salt. Raises ConfigError where the file is no salt or can't be read or made.
    """
    try:
        if not path.exists():
            _make(path)
        if path.stat().st_mode & 0o077:
            # A copy or an unpacked archive may have lost it; some disks know no permissions.
            with contextlib.suppress(OSError):
                path.chmod(0o600)
        salt = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise ConfigError([f"the project's salt can't be read or made: {error.strerror}"]) from None
    except ValueError:
        salt = b""
    if len(salt) != SALT_BYTES:
        raise ConfigError(
            [
                "the project's salt is no salt (64 hexadecimal digits): put the file back, or remove it for a new one, "
                "by which every hashed identifier changes"
            ]
        )
    return salt


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_hex(SALT_BYTES) + "\n")
        # A link fails where somebody else was first, whose salt then counts.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def hashed(salt: bytes, text: str) -> str:
    """Return 32 hexadecimal digits that stand for an identifier: HMAC-SHA256 of its UTF-8 text, keyed by the salt."""
    return hmac.new(salt, text.encode(), hashlib.sha256).hexdigest()[:_HASHED_DIGITS]
