r"""Validate and fit the penalised Cox model, with and without ComBat, harmonised inside each fold.

By hand: model_cox.py features.csv clinical.csv --time os_days --event os_event --batch centre \
             [--clinical-columns age sex] --out DIR
`features.csv` has a column case_id (or patient_id), `clinical.csv` the same column, the endpoint and further columns.
"""

import argparse

from radloom.engine.step import CohortResult, CohortStep, CohortTask, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Model the tables of the cohort."""
    from radloom.model_cox import run_step

    return run_step(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    from radloom.by_hand import add_model_arguments

    parser.add_argument("--time", required=True, help="column with the time to event or censoring")
    parser.add_argument("--event", required=True, help="column with 1 for an event, 0 for censoring")
    add_model_arguments(parser)


def by_hand(args: argparse.Namespace) -> None:
    """Model tables that were made elsewhere."""
    from radloom.by_hand import model_by_hand
    from radloom.model_cox import model_cox

    model_by_hand(args, "model_cox", {"time": args.time, "event": args.event}, model_cox)


STEP = CohortStep("model_cox", run_cohort)

if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
