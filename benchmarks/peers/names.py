"""Which feature of another implementation is which of PyRadiomics': `names.tsv`.

pictologics is known by IBSI's permanent codes, which end its names; MIRP by its names without the settings that end
them (IBSI's tags). Features of one name and different meaning stay in: that difference is what the bench is to show.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping
from pathlib import Path

# How a column is found in the table: by itself, or by a part of it.
KEYS: dict[str, Callable[[str], str]] = {
    "pictologics": lambda column: column.rpartition("_")[2],
    "mirp": lambda column: re.sub(r"(_d1)?(_a0\.0)?(_3d)?(_avg)?(_fbsp_w25\.0)?$", "", column),
}


def to_pyradiomics(naming: str, raw: Mapping[str, float]) -> dict[str, float]:
    """Return features under PyRadiomics' names (`original_...`), those alone that PyRadiomics has too.

    naming: a column of `names.tsv`, or `same` where the names are PyRadiomics' own.
    """
    with open(Path(__file__).with_name("names.tsv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    if naming == "same":
        known = {f"original_{row['pyradiomics']}" for row in rows}
        return {name: value for name, value in raw.items() if name in known}
    key = KEYS.get(naming, str)
    by_key = {key(name): value for name, value in raw.items()}
    return {f"original_{row['pyradiomics']}": by_key[row[naming]] for row in rows if row[naming] in by_key}
