"""Named extractions: several parameter files in one run, each with features and a table of its own.

One of them is the main one (`model.extraction`): its table is features_raw, from which harmonisation and models start.
With a single parameter file there is one extraction, whose name is empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def parameter_files(params: str | Mapping[str, str]) -> dict[str, str]:
    """The parameter file of each extraction, by name, of `extract.params`: one path, or paths by name."""
    return {"": params} if isinstance(params, str) else dict(params)


def main_file(config: Mapping[str, Any]) -> str:
    """The parameter file of the main extraction of a run, which the optional steps follow."""
    return parameter_files(config["extract"]["params"])[config["model"]["extraction"] or ""]


def features_file(extraction: str) -> str:
    """The file of a case that has the features of an extraction."""
    return f"features_{extraction}.csv" if extraction else "features.csv"


def table_name(extraction: str, main: str) -> str:
    """The name of an extraction's table among the tables of the cohort."""
    return "features_raw" if extraction == main else f"features_raw_{extraction}"


def extraction_of(table: str) -> str:
    """The name of the extraction, where a table is that of a further one; else empty."""
    return table.removeprefix("features_raw_") if table.startswith("features_raw_") else ""


def facts_of(facts: Mapping[str, Any], extraction: str) -> Mapping[str, Any]:
    """What the step extract says of one extraction of a case: its ROIs, or the `reason` why the case has none."""
    found: Mapping[str, Any] = facts["extractions"][extraction] if extraction else facts
    return found
