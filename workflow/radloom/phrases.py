"""Pieces of sentences that the texts on a run share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from radloom.report_view import number


def and_(items: Sequence[str]) -> str:
    """Items as they stand in a sentence: `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def quoted(names: Sequence[Any]) -> str:
    """Names of columns as they stand in a sentence."""
    return and_([f"`{name}`" for name in names])


def plain(value: Any) -> str:
    """A setting in words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " and ".join(plain(part) for part in value)
    return number(value) if isinstance(value, float) else str(value)


def first_upper(text: str) -> str:
    """A text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
