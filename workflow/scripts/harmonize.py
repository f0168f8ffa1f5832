"""Remove batch effects from a feature table with ComBat, keeping the effect of covariates.

By hand: harmonize.py features.csv batches.csv --batch center [--keep age sex] --out harmonized.csv --model combat.json
`features.csv` has a column case_id (or patient_id), `batches.csv` the same column, the batch and the covariates.
"""

import argparse
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Harmonise the tables of the cohort."""
    from radloom.harmonize import run_step

    return run_step(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("features", type=Path, help="feature table: CSV, TSV or Parquet, one row a case (and ROI)")
    parser.add_argument("batches", type=Path, help="table with the batch and the covariates, CSV or TSV")
    parser.add_argument("--batch", default="centre", help="column that names the batch (default: centre)")
    parser.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="covariates whose effect is kept")
    parser.add_argument("--out", type=Path, required=True, help="harmonised table, CSV or Parquet")
    parser.add_argument("--model", type=Path, help="where the parameters go, JSON")
    parser.add_argument("--diagnostics", type=Path, help="where the batch effects before and after go, CSV")
    parser.add_argument("--non-parametric", action="store_true", help="non-parametric priors")
    parser.add_argument("--mean-only", action="store_true", help="adjust the mean alone")
    parser.add_argument("--reference-batch", help="batch to which the others are moved")
    parser.add_argument("--min-batch-size", type=int, default=5, help="a batch with fewer cases is small (default: 5)")
    parser.add_argument("--small-batch", default="error", choices=["error", "exclude", "merge", "passthrough"])


def by_hand(args: argparse.Namespace) -> None:
    """Harmonise tables that were made elsewhere."""
    from radloom.assembly import read_by_hand
    from radloom.harmonize import harmonize_tables, write_parameters

    tables = read_by_hand(args.features, args.batches, args.batch, args.keep)
    settings = {
        "batch": args.batch,
        "covariates": args.keep,
        "parametric": not args.non_parametric,
        "mean_only": args.mean_only,
        "reference_batch": args.reference_batch,
        "min_batch_size": args.min_batch_size,
        "small_batch": args.small_batch,
    }
    result = harmonize_tables(tables, settings, outcomes=[])
    for message in result.warnings:
        print(f"warning: {message}")
    if args.out.suffix == ".parquet":
        result.features.to_parquet(args.out, index=False, compression="zstd")
    else:
        result.features.to_csv(args.out, index=False, lineterminator="\n")
    if args.model:
        write_parameters(args.model, result.parameters)
    if args.diagnostics:
        result.diagnostics.to_csv(args.diagnostics, index=False, lineterminator="\n")


STEP = CohortStep("harmonize", run_cohort)

if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
