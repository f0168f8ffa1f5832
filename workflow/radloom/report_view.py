"""What a page of the report is made of, and how numbers are written in it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class TableView:
    """A table as text; `numeric` columns are set to the right."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Picture:
    """A picture with its caption: `svg` is the text of an inline SVG, `png` base64."""

    caption: str
    svg: str = ""
    png: str = ""
    alt: str = ""


@dataclass(frozen=True)
class Block:
    """One piece of a section: a paragraph, a note (something to beware of), a heading, a table, pictures,
    links to files.
    """

    kind: Literal["text", "note", "heading", "list", "table", "pictures", "grid", "cases", "tiles", "warnings", "files"]
    text: str = ""
    table: TableView | None = None
    pictures: list[Picture] = field(default_factory=list)
    pairs: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """A section of the report; `name` is its anchor."""

    name: str
    title: str
    blocks: list[Block]


def text(*sentences: str) -> Block:
    """A paragraph of the sentences that are not empty."""
    return Block("text", " ".join(sentence for sentence in sentences if sentence))


def note(sentence: str) -> Block:
    """A paragraph that the reader must not miss."""
    return Block("note", sentence)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> Block:
    """A table; a column whose cells are all numbers (or empty) is set to the right."""
    cells = [[number(c) if isinstance(c, float) else str(c) for c in row] for row in rows]
    numeric = frozenset(j for j in range(len(columns)) if cells and all(_is_figure(row[j]) for row in cells))
    return Block("table", table=TableView(list(columns), cells, caption, numeric))


def _is_figure(cell: str) -> bool:
    """Whether a cell is a number, a ratio or a range of numbers; 2.4.6 is a version."""
    words = any(c.isalpha() for c in cell.replace("e", ""))
    version = re.match(r"\d+\.\d+\.", cell)
    return not cell or (cell[0] in "0123456789-−<–." and not words and version is None)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, never fewer than the whole part needs; an en dash if it is
    missing.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if size >= 6 or size < -4:
        return f"{value:.{digits - 1}e}"
    rounded = f"{value:.{max(0, digits - 1 - size)}f}"
    return rounded.rstrip("0").rstrip(".") if "." in rounded and float(rounded) == int(float(rounded)) else rounded


def decimal(value: float, places: int = 3) -> str:
    """A number with so many decimals: for columns of like numbers; an en dash if it is missing."""
    return f"{value:.{places}f}" if value is not None and math.isfinite(value) else "–"


def p_value(p: float) -> str:
    """A p value as journals print it."""
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun: 1 case, 2 cases."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(names: Iterable[Any], most: int = 8) -> str:
    """Names in a row, the first few and how many more."""
    items = [str(name) for name in names]
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def numbers(column: pd.Series) -> np.ndarray:
    """A column of text as float64; what is no number is NaN."""
    return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)


def median_range(values: np.ndarray, digits: int = 3) -> str:
    """Median (smallest to largest) of the known values."""
    known = values[np.isfinite(values)]
    if not known.size:
        return "–"
    middle, low, high = (number(float(f(known)), digits) for f in (np.median, np.min, np.max))
    return middle if low == high else f"{middle} ({low} to {high})"


def median_quartiles(values: np.ndarray, digits: int = 3) -> str:
    """Median (lower to upper quartile) of the known values."""
    known = values[np.isfinite(values)]
    if not known.size:
        return "–"
    low, middle, high = (number(float(q), digits) for q in np.percentile(known, [25, 50, 75]))
    return f"{middle} ({low} to {high})"
