"""Subgroups of the cases by sex, age and scanner, or any other column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from radloom.errors import CohortError

UNKNOWN = "not known"
"""The group of the cases without a value."""

AGE_CUTS = (50.0, 65.0, 75.0)
"""Years at which age groups begin, below the first, and so on: <50, 50-64, 65-74, >=75."""

MOST_GROUPS = 30
"""A column of more different words is no grouping."""

MOST_CODES = 10
"""A number of more different values is no code of groups, and is cut at its thirds."""

NAMED = 5
"""A message names this many cases, and counts the rest."""


def subgroups(column: pd.Series, name: str, cuts: Sequence[float] | None = None) -> dict[str, np.ndarray]:
    """Positions of the cases of each group of a column, groups in ascending order.

    With ascending `cuts` the groups are bands of a number: below the first, from each up to below the next, from the
    last on. A column called `age` has AGE_CUTS unless told otherwise, a number of more than MOST_CODES values is cut at
    its thirds; `()` takes values as they are. Cases without a value (missing or blank) are a group of their own, `not
    known`, the last; groups without cases are left out. Raises CohortError where cuts meet something that is no finite
    number, or where the words are too many to be groups.
    """
    values = column.astype(object).map(lambda value: value.strip() if isinstance(value, str) else value)
    missing = (values.isna() | (values == "")).to_numpy()
    if cuts is None and name.lower() == "age":
        cuts = AGE_CUTS
    numbers = pd.to_numeric(values.where(~missing), errors="coerce")
    if cuts is None and numbers[~missing].notna().all() and numbers.nunique() > MOST_CODES:
        cuts = [float(cut) for cut in np.unique(np.quantile(numbers[~missing], [1 / 3, 2 / 3]))]
    groups: dict[str, np.ndarray]
    if cuts:
        groups = _bands(numbers, missing, name, cuts)
    else:
        labels = np.array([_label(value) for value in values], dtype=object)
        distinct = sorted(set(labels[~missing]), key=_order)
        if len(distinct) > MOST_GROUPS:
            raise CohortError(
                f"subgroups by {name}: {len(distinct)} different values are too many for groups;"
                " give cuts for a number, or a coarser column"
            )
        groups = {label: np.flatnonzero(~missing & (labels == label)) for label in distinct}
    if missing.any():
        groups[UNKNOWN] = np.sort(np.r_[groups.get(UNKNOWN, np.empty(0, dtype=np.int64)), np.flatnonzero(missing)])
        groups[UNKNOWN] = groups.pop(UNKNOWN)  # the last
    return groups


def _label(value: object) -> str:
    """Numbers as people write them: a code 1.0 is 1."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _order(label: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _bands(numbers: pd.Series, missing: np.ndarray, name: str, cuts: Sequence[float]) -> dict[str, np.ndarray]:
    edges = np.asarray(cuts, dtype=np.float64)
    if not (np.isfinite(edges).all() and (np.diff(edges) > 0).all()):
        raise ValueError(f"cuts of {name} must ascend: {list(cuts)}")
    values = numbers.to_numpy(dtype=np.float64)
    wrong = np.flatnonzero(~missing & ~np.isfinite(values))
    if len(wrong):
        listed = ", ".join(str(case) for case in numbers.index[wrong[:NAMED]])
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise CohortError(f"subgroups by {name}: no number in {listed}{more}; correct it or leave the cell empty")
    band = np.searchsorted(edges, np.where(missing, 0.0, values), side="right")
    return {
        label: positions
        for place, label in enumerate(band_labels(cuts))
        if len(positions := np.flatnonzero(~missing & (band == place)))
    }


def band_labels(cuts: Sequence[float]) -> list[str]:
    """Names of the bands between cuts: <50, 50-64, >=65 for whole numbers, else <1.5, 1.5 to <2.5, >=2.5."""
    texts = [f"{cut:g}" for cut in cuts]
    whole = all(float(cut).is_integer() for cut in cuts)
    between = [
        f"{low}-{high - 1:g}" if whole and high - float(low) > 1 else low if whole else f"{low} to <{high:g}"
        for low, high in zip(texts, cuts[1:], strict=False)
    ]
    return [f"<{texts[0]}", *between, f">={texts[-1]}"]
