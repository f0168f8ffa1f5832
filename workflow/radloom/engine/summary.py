"""The last lines of a run: where report and tables are, how many cases made it, and how many were excluded."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from radloom.engine.files import read_json
from radloom.engine.steps import STEPS
from radloom.extractions import facts_of


def count_cases(results: Path) -> tuple[int, Counter[str]]:
    """Return how many cases have features, and how many each step excluded."""
    included = 0
    excluded: Counter[str] = Counter()
    plan = read_json(results / "plan" / "tables" / "cohort.json") or {"params": {}}
    main = plan["params"].get("model", {}).get("extraction") or ""
    # The steps that a case must pass to be in the tables.
    for step in STEPS["tables"].after:
        for path in sorted((results / "manifests" / step).glob("*.json")):
            entries = read_json(path)["cases"]
            statuses = Counter(entry["status"] for entry in entries)
            excluded[step] += statuses["excluded"]
            if step == "extract":
                # Of several extractions the one that the feature table has may have nothing of a case.
                lost = sum("reason" in facts_of(e["facts"], main) for e in entries if main and e["status"] == "ok")
                excluded[step] += lost
                included += statuses["ok"] - lost
    return included, +excluded


def summary(results: Path) -> str:
    """Return the summary of a results folder as text."""
    included, excluded = count_cases(results)
    lines = []
    if included or excluded:
        by_step = ", ".join(f"{step} {count}" for step, count in excluded.items())
        lines.append(
            f"cases:   {included} in the feature table, {excluded.total()} excluded"
            + (f" ({by_step}; why: {results}/tables/exclusions.csv)" if excluded else "")
        )
    lines += [f"report:  {results}/report.html", f"tables:  {results}/tables/"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    print(summary(parser.parse_args().results))


if __name__ == "__main__":
    main()
