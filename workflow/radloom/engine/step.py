"""What a step's script and the engine exchange, and the command line that every script shares."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radloom.errors import CaseError, CohortError, ConfigError


@dataclass(frozen=True)
class CaseTask:
    """One case of one step: where its inputs are, with which settings, and the empty folder that takes the outputs.

    `limits` are settings that never change a case's numbers (`StepSpec.limits`); what exceeds one raises LimitError.
    `private` is what ingest gets of the sheet that no record may hold: URLs, patterns, the salt that hashes UIDs.
    """

    case_id: str
    inputs: dict[str, Path]
    params: dict[str, Any]
    row: dict[str, str]
    out: Path
    resources: dict[str, Path] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class CaseResult:
    """What a step has to say of a case beside its files: small JSON-able facts, and warnings for the record."""

    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CaseStep:
    """A step that works case by case."""

    name: str
    run: Callable[[CaseTask], CaseResult]


@dataclass(frozen=True)
class Entry:
    """What an earlier step's manifest says of a case."""

    status: str
    reason: str
    advice: str
    facts: dict[str, Any]
    warnings: list[str]
    files: dict[str, Path]


Entries = Mapping[str, Mapping[str, Entry]]
"""What the steps' manifests say of the cases, by step and case."""


def facts_of_case(entries: Entries, step: str, case_id: str) -> dict[str, Any]:
    """The facts of a step that has done the case, else none."""
    entry = entries.get(step, {}).get(case_id)
    return entry.facts if entry is not None and entry.status == "ok" else {}


@dataclass(frozen=True)
class CohortTask:
    """One run of a step that sees the whole cohort.

    `workers` is how many processes it may use, which never changes its result. `ledger` is a file beside the results
    (None by hand) in which it may write down what must be remembered whatever is computed later. `cache` is a folder
    beside the results (None by hand) in which it may keep what a stop or another setting shall not cost. `code` tells
    the code and the versions of the packages that compute it (empty by hand).
    """

    params: dict[str, dict[str, Any]]
    cases: list[dict[str, str]]
    entries: Mapping[str, Mapping[str, Entry]]
    inputs: dict[str, Path]
    out: Path
    provenance: list[dict[str, Any]] = field(default_factory=list)
    workers: int = 1
    ledger: Path | None = None
    cache: Path | None = None
    code: str = ""


CohortResult = CaseResult


@dataclass(frozen=True)
class CohortStep:
    """A step that works on the whole cohort at once."""

    name: str
    run: Callable[[CohortTask], CohortResult]


def main(
    step: CaseStep | CohortStep,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    by_hand: Callable[[argparse.Namespace], None],
) -> None:
    """Run a step's script: as a job of the workflow (`--plan`, `--manifest`), else by hand."""
    if "--plan" in sys.argv[1:]:
        from radloom.engine.job import job_main

        raise SystemExit(job_main(step, sys.argv[1:]))
    module = sys.modules["__main__"]
    parser = argparse.ArgumentParser(description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    args = parser.parse_args()
    try:
        by_hand(args)
    except (CaseError, CohortError, ConfigError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
