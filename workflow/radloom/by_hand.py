"""What the two model scripts share when they are run by hand, without a configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radloom.assembly import CohortTables
    from radloom.modelling import ModelTables


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of both model scripts, named as the keys of the configuration."""
    parser.add_argument("features", type=Path, help="feature table: CSV, TSV or Parquet, one row a case (and ROI)")
    parser.add_argument("clinical", type=Path, help="clinical table: CSV or TSV")
    parser.add_argument("--out", type=Path, required=True, help="folder that takes the tables")
    parser.add_argument("--batch", default="centre", help="column that names the batch (default: centre)")
    parser.add_argument("--centre", help="column that names the centre (default: the batch)")
    parser.add_argument("--keep", nargs="*", default=[], metavar="COLUMN", help="covariates that ComBat keeps")
    parser.add_argument("--clinical-columns", nargs="*", default=[], metavar="COLUMN", help="clinical predictors")
    parser.add_argument("--roi", help="the ROI whose features are used, where there are several")
    parser.add_argument("--l1-ratio", type=float, default=0.9, help="elastic net mixing, 1 is the lasso")
    parser.add_argument("--max-correlation", type=float, default=0.9)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bootstraps", type=int, default=500)
    parser.add_argument("--refits", type=int, default=200, help="bootstrap samples to which the arms are fitted anew")
    parser.add_argument("--horizons", type=float, nargs="*", default=[], help="times at which survival is judged")
    parser.add_argument("--subgroups", nargs="*", default=[], metavar="COLUMN", help="columns to judge the models by")
    parser.add_argument("--workers", type=int, default=1, help="processes; they change no number")
    parser.add_argument("--min-events", type=int, default=20)
    parser.add_argument("--min-batch-size", type=int, default=5)
    parser.add_argument("--small-batch", default="error", choices=["error", "exclude", "merge", "passthrough"])
    parser.add_argument("--new-batch", default="error", choices=["error", "passthrough", "adapt"])
    parser.add_argument("--stability", type=Path, help="stability.csv of the features, for --min-icc")
    parser.add_argument("--min-icc", type=float, help="leave out features whose ICC is lower than this")
    parser.add_argument("--icc-bound", choices=["lower", "estimate"], default="lower", help="what is held against it")
    parser.add_argument("--override-sample-size", action="store_true", help="fit with too few events, and mark it")


def model_by_hand(
    args: argparse.Namespace,
    section: str,
    endpoint: Mapping[str, str],
    run: Callable[[CohortTables, Mapping[str, Mapping[str, Any]], int], ModelTables],
) -> None:
    """Run a model on tables that were made elsewhere, and say where its tables are."""
    from radloom.assembly import read_by_hand, read_stability
    from radloom.config import complete
    from radloom.modelling import write_model

    described = [*endpoint.values(), args.batch, *args.keep, *args.clinical_columns, *args.subgroups]
    tables = read_by_hand(args.features, args.clinical, args.centre or args.batch, described)
    tables = replace(tables, stability=read_stability(args.stability))
    params = complete({"results": str(args.out)})
    params["harmonize"] |= {
        "batch": args.batch,
        "covariates": args.keep,
        "min_batch_size": args.min_batch_size,
        "small_batch": args.small_batch,
        "new_batch": args.new_batch,
    }
    same = ("roi", "max_correlation", "folds", "seed", "bootstraps", "refits", "min_events", "min_icc", "icc_bound")
    params["model"] |= {key: getattr(args, key) for key in same}
    params["model"]["override_sample_size"] = args.override_sample_size
    params["analysis_plan"] |= {
        **endpoint,
        "covariates": args.clinical_columns,
        "horizons": args.horizons,
        "subgroups": args.subgroups,
    }
    params[section]["l1_ratio"] = args.l1_ratio
    result = run(tables, params, args.workers)
    write_model(args.out, result)
    for message in result.warnings:
        print(f"warning: {message}")
    print(f"{result.facts['n']} cases, {result.facts['events']} events: {result.facts['status']}; tables in {args.out}")
