"""How far each feature and the ranks of the cases move under other settings, from the files of the step sensitivity.

By hand: sensitivity_table.py P001.csv P002.csv ... --out DIR
"""

import argparse
from pathlib import Path

from radloom.engine.step import CohortResult, CohortStep, CohortTask, Entry, main


def run_cohort(task: CohortTask) -> CohortResult:
    """Map the task onto radloom.sensitivity_table."""
    from radloom.sensitivity_table import build_sensitivity_table

    return build_sensitivity_table(task)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line by hand."""
    parser.add_argument("features", type=Path, nargs="+", help="files of sensitivity.py, one a case")
    parser.add_argument("--out", type=Path, required=True, help="folder in which tables/ is written")


def by_hand(args: argparse.Namespace) -> None:
    """Compare the files of some cases, whose baseline is what they say it is."""
    facts = {"baseline": {"bin_width": "", "spacing": ""}}
    entries = {str(path): Entry("ok", "", "", facts, [], {"features.csv": path}) for path in args.features}
    result = run_cohort(CohortTask({}, [], {"sensitivity": entries}, {}, args.out))
    print(f"{result.facts['cases']} cases, {result.facts['rows']} rows in {args.out / 'tables' / 'sensitivity.csv'}")


STEP = CohortStep("sensitivity_table", run_cohort)
if __name__ == "__main__":
    main(STEP, add_arguments, by_hand)
