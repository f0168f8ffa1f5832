"""Remove a withdrawn patient's case from a results folder: its files, its records, and all that was computed with it.

The tables, models and report were made with the case, so they go too, and the next run makes them without it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from radloom.cohort import NAME
from radloom.engine.files import read_json
from radloom.engine.locks import hold_results
from radloom.engine.steps import COHORT_STEPS

# What was made with the whole cohort, and logs, which name cases.
MADE_WITH_ALL = ("steps", "tables", "models", "training", "cache", "logs")


def forget(results: Path, case_id: str) -> int:
    """Remove every file of a case and all that may name it; return how many files went.

    Raises ValueError for a case or folder that isn't there, and while a run is at work in the folder.
    """
    if not NAME.fullmatch(case_id):
        raise ValueError("CASE must be one case_id of the cohort sheet")
    if not (results / "plan").is_dir():
        raise ValueError("RESULTS must be a results folder of Radloom")
    if not hold_results(results):
        raise ValueError("a run is at work in this folder: stop it first")
    known = (results / "cases" / case_id).is_dir()
    for path in (results / "plan").glob("*/*.json"):
        known = known or any(_case_id(entry) == case_id for entry in (read_json(path) or {}).get("cases", []))
    if not known:
        raise ValueError("these results know of no such case")
    removed = 0
    for folder in [results / "cases" / case_id, *(results / name for name in MADE_WITH_ALL)]:
        removed += sum(1 for path in folder.rglob("*") if path.is_file())
        shutil.rmtree(folder, ignore_errors=True)
    for path in [*(results / "plan").glob("*/*.json"), *(results / "manifests").glob("*/*.json")]:
        content = read_json(path) or {}
        entries = content.get("cases", [])
        if path.parent.name in COHORT_STEPS or any(_case_id(entry) == case_id for entry in entries):
            path.unlink()
            removed += 1
    for report in (results / "report.html", results / "methods.md"):
        if report.exists():
            report.unlink()
            removed += 1
    return removed


def _case_id(entry: str | dict[str, str]) -> str:
    return entry if isinstance(entry, str) else entry["case_id"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()
    try:
        removed = forget(args.results, args.case)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    print(
        f"{removed} files removed. Take the case out of the cohort sheet and run again: the tables are made without it."
    )


if __name__ == "__main__":
    main()
