"""Write the report, and the documentation of the folder of tables.

By hand, for a folder of results (the settings of the steps are then not known to the report):
report.py results --out DIR [--config config.yaml]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, Entry, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Map the task onto radloom.report."""
    from radloom.report import build_report

    return build_report(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line by hand."""
    parser.add_argument(
        "results", type=Path, help="folder of results: tables/, and models/ and cases/ where there are any"
    )
    parser.add_argument("--config", type=Path, help="configuration that the results were made with")
    parser.add_argument("--out", type=Path, required=True, help="folder in which report.html and tables/ are written")


def by_hand(args: argparse.Namespace) -> None:
    """Make the report of a folder of results, whoever made it."""
    from radloom.config import load_config
    from radloom.report import OWN_FILES

    found = sorted(path for part in ("tables", "models") for path in (args.results / part).rglob("*") if path.is_file())
    inputs = {path.relative_to(args.results).as_posix(): path for path in found}
    pictures = {
        step: {
            path.parent.parent.name: Entry("ok", "", "", {}, [], {path.name: path})
            for path in sorted(args.results.glob(f"cases/*/{step}/{step}.png"))
        }
        for step in ("overlay", "voxel_maps")
    }
    task = CohortTask(
        params=load_config(args.config) if args.config else {},
        cases=[],
        entries=pictures,
        inputs={key: path for key, path in inputs.items() if key not in OWN_FILES},
        out=args.out,
    )
    run_cohort(task)
    print(args.out / "report.html")


STEP = CohortStep("report", run_cohort)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
