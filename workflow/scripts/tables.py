"""Join all cases into the tables for the statistician.

By hand, for features that were extracted elsewhere:
tables.py features.csv --out DIR [--clinical clinical.csv --columns age sex ...]
"""

import argparse
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Map the task onto radloom.tables."""
    from radloom.tables import build_tables

    return build_tables(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line by hand."""
    parser.add_argument("features", type=Path, help="feature table (CSV, TSV or Parquet), one row a case and ROI")
    parser.add_argument("--clinical", type=Path, help="clinical table, keyed by patient_id or case_id")
    parser.add_argument("--columns", nargs="*", default=[], help="columns of the clinical table to keep")
    parser.add_argument("--out", type=Path, required=True, help="folder in which tables/ is written")


def by_hand(args: argparse.Namespace) -> None:
    """Write the tables of a feature table that was made elsewhere."""
    inputs = {"features": args.features} | ({"clinical": args.clinical} if args.clinical else {})
    params = {"run": {"max_excluded_fraction": 1.0}, "tables": {"clinical_columns": args.columns}}
    result = run_cohort(CohortTask(params, [], {}, inputs, args.out))
    for warning in result.warnings:
        print(f"warning: {warning}")
    print(f"{result.facts['included']} cases, {result.facts['features']} features in {args.out / 'tables'}")


STEP = CohortStep("tables", run_cohort)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
