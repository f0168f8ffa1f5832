"""Remove batch effects from a feature table with ComBat or CovBat, keeping the effect of covariates.

By hand: harmonize.py features.csv batches.csv --batch center [--keep age sex] --out harmonized.csv --model combat.json
New cases: harmonize.py --apply combat.json features.csv batches.csv --out harmonized.csv [--new-batch adapt]
`features.csv` has a column case_id (or patient_id), `batches.csv` the same column, the batch and the covariates.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main

if TYPE_CHECKING:
    from radloom.harmonize import Applied, Harmonized


def run_cohort(task: CohortTask) -> CohortResult:
    """Harmonise the tables of the cohort."""
    from radloom.harmonize import run_step

    return run_step(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("features", type=Path, help="feature table: CSV, TSV or Parquet, one row a case (and ROI)")
    parser.add_argument("batches", type=Path, help="table with the batch and the covariates, CSV or TSV")
    parser.add_argument(
        "--batch",
        action="append",
        metavar="COLUMN",
        help="column that names the batch (default: centre); given again, one after the other is removed",
    )
    parser.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="covariates whose effect is kept")
    parser.add_argument("--out", type=Path, required=True, help="harmonised table, CSV or Parquet")
    parser.add_argument("--model", type=Path, help="where the parameters go, JSON")
    parser.add_argument("--apply", type=Path, metavar="MODEL", help="apply these parameters instead of fitting any")
    parser.add_argument("--rows", type=Path, help="where goes what became of each case, CSV")
    parser.add_argument("--diagnostics", type=Path, help="where the batch effects before and after go, CSV")
    parser.add_argument("--method", default="combat", choices=["combat", "covbat"])
    parser.add_argument("--covbat-variance", type=float, default=0.95, help="share of variance that covbat harmonises")
    parser.add_argument("--non-parametric", action="store_true", help="non-parametric priors")
    parser.add_argument("--mean-only", action="store_true", help="adjust the mean alone")
    parser.add_argument("--no-eb", action="store_true", help="no empirical Bayes: each feature by itself")
    parser.add_argument("--reference-batch", help="batch to which the others are moved")
    parser.add_argument("--min-batch-size", type=int, default=5, help="a batch with fewer cases is small (default: 5)")
    parser.add_argument("--small-batch", default="error", choices=["error", "exclude", "merge", "passthrough"])
    parser.add_argument(
        "--new-batch",
        choices=["error", "passthrough", "adapt"],
        help="batches that the fit has not seen (default: error; with --apply: as saved)",
    )
    parser.add_argument("--missing-covariates", default="error", choices=["error", "impute"])
    parser.add_argument(
        "--exempt", action="append", default=[], metavar="PATTERN", help="features that stay as they are, as '*shape*'"
    )


def by_hand(args: argparse.Namespace) -> None:
    """Harmonise tables that were made elsewhere."""
    from radloom.assembly import listed

    result: Applied | Harmonized = _applied(args) if args.apply else _fitted(args)
    for message in result.warnings:
        print(f"warning: {message}")
    if result.excluded_cases:
        print(f"warning: left out of the harmonised table: {listed(result.excluded_cases, 20)}")
    if args.out.suffix == ".parquet":
        result.features.to_parquet(args.out, index=False, compression="zstd")
    else:
        result.features.to_csv(args.out, index=False, lineterminator="\n")
    if args.rows:
        result.rows.to_csv(args.rows, index=False, lineterminator="\n")


def _applied(args: argparse.Namespace) -> "Applied":
    from radloom.assembly import read_by_hand
    from radloom.errors import CohortError
    from radloom.harmonize import apply_tables, read_parameters, saved_columns

    fitting = {"--batch": args.batch, "--keep": args.keep, "--model": args.model, "--diagnostics": args.diagnostics}
    if given := [name for name, value in fitting.items() if value]:
        raise CohortError(
            f"--apply takes batch and covariates as they were saved, and fits nothing: leave out {given[0]}"
        )
    saved = read_parameters(args.apply)
    batches, covariates = saved_columns(saved)
    tables = read_by_hand(args.features, args.batches, batches[0], [*batches, *covariates])
    return apply_tables(tables, saved, args.new_batch)


def _fitted(args: argparse.Namespace) -> "Harmonized":
    from radloom.assembly import read_by_hand
    from radloom.harmonize import harmonize_tables, write_parameters

    batches = args.batch or ["centre"]
    settings = {
        "method": args.method,
        "covbat_variance": args.covbat_variance,
        "batch": batches,
        "covariates": args.keep,
        "missing_covariates": args.missing_covariates,
        "parametric": not args.non_parametric,
        "mean_only": args.mean_only,
        "eb": not args.no_eb,
        "reference_batch": args.reference_batch,
        "min_batch_size": args.min_batch_size,
        "small_batch": args.small_batch,
        "new_batch": args.new_batch or "error",
        "exempt": args.exempt,
    }
    tables = read_by_hand(args.features, args.batches, batches[0], [*batches, *args.keep])
    result = harmonize_tables(tables, settings, outcomes=[])
    if args.model:
        write_parameters(args.model, result.parameters)
    if args.diagnostics:
        result.diagnostics.to_csv(args.diagnostics, index=False, lineterminator="\n")
    return result


STEP = CohortStep("harmonize", run_cohort)

if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
