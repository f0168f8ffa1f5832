"""How long it takes to validate the Cox models of a real table of two centres, every repetition the whole pipeline."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd

REPO = Path(__file__).resolve().parent.parent
DATA = REPO.parent / "shared" / "data" / "tables" / "hn_two_centres"
REFITS = 500
HORIZONS = [730.0, 1825.0]
COVARIATES = ["age", "sex"]
SCENES = (("one arm (features_combat)", ["features_combat"]), ("all five arms", None))


def parameters(arms: list[str] | None, refits: int) -> dict[str, Any]:
    """The configuration of a scene: the defaults, with the endpoint and the covariates of the table."""
    from radloom.config import complete

    params = complete({"results": "."})
    params["harmonize"] |= {"batch": "center", "covariates": COVARIATES, "new_batch": "adapt"}
    params["model"] |= {"refits": refits, "bootstraps": max(refits, 50)}
    params["analysis_plan"] |= {
        "time": "os_days",
        "event": "os_event",
        "horizons": HORIZONS,
        "covariates": COVARIATES,
        **({"arms": arms} if arms else {}),
    }
    return params


def timed(tables: Any, arms: list[str] | None, refits: int, workers: int) -> tuple[float, dict[str, pd.DataFrame]]:
    """Wall seconds of the Cox step, and its tables."""
    from radloom.model_cox import model_cox

    start = time.perf_counter()
    made = model_cox(tables, parameters(arms, refits), workers)
    return time.perf_counter() - start, made.tables


def measure(folder: Path, small: bool) -> str:  # noqa: ARG001
    """Time the validation with two workers, and see that one worker gives the same bytes."""
    from radloom.assembly import read_by_hand

    if not DATA.is_dir():
        return f"Not measured: {DATA.name} is not there."
    described = ["os_days", "os_event", "center", *COVARIATES]
    tables = read_by_hand(DATA / "features.csv.gz", DATA / "clinical.csv", "center", described)
    refits = 4 if small else REFITS
    lines = ["| models | refits | workers | wall seconds | rows of performance |", "|---|---|---|---|---|"]
    for name, arms in SCENES:
        seconds, made = timed(tables, arms, refits, 2)
        lines.append(f"| {name} | {refits} | 2 | {seconds:.0f} | {len(made['performance'])} |")
    few = 4
    one, two = (timed(tables, ["features_combat"], few, workers)[1] for workers in (1, 2))
    same = all(one[table].to_csv() == two[table].to_csv() for table in one)
    lines.append("")
    lines.append(
        f"Cox model of {tables.features.shape[0]} patients and {len(tables.feature_names)} features of two centres: "
        "5-fold cross-validation with the penalty chosen by 10 inner folds, each centre left out, a bootstrap of "
        f"{refits} samples in each of which missing cells, ComBat, pruning, scale and penalty are done anew, and "
        "the metrics at two horizons with their intervals. One worker and two write "
        f"{'the same' if same else 'DIFFERENT'} bytes (compared on {few} refits, all tables)."
    )
    return "\n".join(lines)
