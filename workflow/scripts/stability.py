"""Intraclass correlations of each feature over perturbations and over real repeats.

By hand, for real repeats: stability.py features.csv repeats.csv --out DIR
`features.csv` has a row a case (and ROI), `repeats.csv` the columns case_id, patient_id, centre and repeat_id.
"""

import argparse
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Map the task onto radloom.stability."""
    from radloom.stability import run_step

    return run_step(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("features", type=Path, help="feature table (CSV, TSV or Parquet), one row a case and ROI")
    parser.add_argument("repeats", type=Path, help="CSV or TSV with case_id, patient_id, centre and repeat_id")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes stability.csv")


def by_hand(args: argparse.Namespace) -> None:
    """Write the stability of features that were made elsewhere."""
    import pandas as pd

    from radloom.assembly import read_by_hand
    from radloom.cohort import read_sheet
    from radloom.errors import CohortError
    from radloom.stability import COLUMNS, REPEATS, few_cases_warnings, repeat_values, stability_rows

    sheet, problems = read_sheet(args.repeats, "table of repeats")
    missing = [name for name in ("case_id", "patient_id", "centre", "repeat_id") if name not in sheet.columns]
    problems += [f"the table of repeats lacks the column {name}" for name in missing]
    if problems:
        raise CohortError("\n".join(problems))
    tables = read_by_hand(args.features, None, None)
    rows = []
    for roi, values in repeat_values(sheet.rows, tables.features).items():
        rows += stability_rows(REPEATS, roi, *values)
    if not rows:
        raise CohortError("no patient has two rows with a repeat_id")
    table = pd.DataFrame(rows, columns=COLUMNS)
    args.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(args.out / "stability.csv", index=False, lineterminator="\n", encoding="utf-8")
    for warning in few_cases_warnings(table):
        print(f"warning: {warning}")


STEP = CohortStep("stability", run_cohort)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
