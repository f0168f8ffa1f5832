r"""Validate and fit the penalised logistic model, with and without ComBat, harmonised inside each fold.

By hand: model_logistic.py features.csv clinical.csv --outcome response --batch centre \
             [--clinical-columns age sex] --out DIR
`features.csv` has a column case_id (or patient_id), `clinical.csv` the same column, the endpoint and further columns.
"""

import argparse

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Model the tables of the cohort."""
    from radloom.model_logistic import run_step

    return run_step(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    from radloom.by_hand import add_model_arguments

    parser.add_argument("--outcome", required=True, help="column with the binary outcome, 0 or 1")
    add_model_arguments(parser)


def by_hand(args: argparse.Namespace) -> None:
    """Model tables that were made elsewhere."""
    from radloom.by_hand import model_by_hand
    from radloom.model_logistic import model_logistic

    model_by_hand(args, "model_logistic", {"outcome": args.outcome}, model_logistic)


STEP = CohortStep("model_logistic", run_cohort)

if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
