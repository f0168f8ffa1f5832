"""ComBat: learning and applying batch effects, beside neuroCombat, with the agreement of the numbers."""

from __future__ import annotations

import contextlib
import io
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from neuroCombat import neuroCombat
from threadpoolctl import threadpool_limits

from radloom.combat import ComBatHarmonizer, HarmonizationWarning
from radloom.covbat import CovBatHarmonizer

SIZE = (10_000, 2_000)
BATCHES = 8
REPEATS = 5
COHORT = Path(__file__).resolve().parents[2] / "shared" / "data" / "tables" / "hn_two_centres"


def measure(folder: Path, small: bool) -> str:  # noqa: ARG001
    """Time ComBat on a large simulated table and on a real cohort; return the figures as Markdown."""
    cases, features = (300, 50) if small else SIZE
    rows = timings(f"simulated, {BATCHES} batches", *simulated(cases, features), "centre", 1 if small else 3)
    cohort = read_cohort()
    if cohort is not None:
        rows += timings("head and neck, 2 centres", *cohort, "center", 3 if small else 50)
    lines = [
        "Fit and transform of the same cases, two covariates (sex, and age in whole years, because neuroCombat casts "
        "it to float32), parametric priors; median of wall (processor) time. *difference*: the largest between a "
        "value and neuroCombat's, over that feature's standard deviation. Aims: 10,000 cases x 2,000 features under "
        "10 s, 469 x 797 under 60 ms.",
        "",
        "| table | what | threads | fit | transform | both | difference |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        f"Peak memory of all this: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB.",
    ]
    if cohort is None:
        lines.insert(-1, "The reference data of the head and neck cohort were not there.\n")
    return "\n".join(lines)


def simulated(cases: int, features: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A table with shifts and scales of batches, and its cases' batch, age and sex."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, BATCHES, cases)
    values = rng.normal(size=(cases, features)) * rng.uniform(0.5, 2, (BATCHES, features))[codes]
    values += rng.normal(0, 1, (BATCHES, features))[codes]
    index = pd.Index([f"case{number:05d}" for number in range(cases)], name="case_id")
    described = pd.DataFrame(
        {
            "centre": [f"B{code}" for code in codes],
            "age": np.round(rng.normal(60, 10, cases)),
            "sex": np.where(rng.uniform(size=cases) < 0.5, "F", "M"),
        },
        index=index,
    )
    return pd.DataFrame(values, index, [f"f{number}" for number in range(features)]), described


def read_cohort() -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Features and description of the real cohort, ages in whole years; None where it is absent."""
    if not COHORT.is_dir():
        return None
    features = pd.read_csv(COHORT / "features.csv.gz", index_col="case_id", float_precision="round_trip")
    described = pd.read_csv(COHORT / "clinical.csv", index_col="case_id").loc[features.index]
    return features.select_dtypes("number"), described.assign(age=described["age"].round())


def timings(name: str, features: pd.DataFrame, described: pd.DataFrame, batch: str, repeats: int) -> list[str]:
    """Lines of the table, for ComBat with one and two threads, CovBat, and neuroCombat."""
    size = f"{name}, {features.shape[0]:,} x {features.shape[1]:,}"
    theirs: list[np.ndarray] = []
    peer = stopwatch(lambda: theirs.append(front_door(features, described, batch)), 1 if len(features) > 1_000 else 3)
    spread = features.to_numpy().std(axis=0)
    spread[spread == 0] = 1.0
    lines = []
    for threads in (1, 2):
        harmonizer = ComBatHarmonizer(batch, ["age", "sex"])
        with threadpool_limits(limits=threads), warnings.catch_warnings():
            warnings.simplefilter("ignore", HarmonizationWarning)
            fit, transform, ours = both(harmonizer, features, described, repeats)
        away = np.abs(ours.to_numpy() - theirs[-1]) / spread
        # neuroCombat moves features that are constant within a batch; they are left alone here.
        away = away[:, [column not in set(harmonizer.untouched_features_) for column in features.columns]]
        lines.append(row(size, "**Radloom, ComBat**", threads, fit, transform, f"{away.max():.0e}"))
        print(lines[-1], flush=True)
    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", HarmonizationWarning)
        covbat = CovBatHarmonizer(batch, ["age", "sex"])
        fit, transform, _ = both(covbat, features, described, REPEATS if len(features) < 1_000 else 1)
    lines.append(row(size, "Radloom, CovBat", 1, fit, transform, ""))
    print(lines[-1], flush=True)
    lines.append(f"| {size} | neuroCombat 0.2.12 | all | | | {shown(peer)} | |")
    print(lines[-1], flush=True)
    return lines


def both(
    harmonizer: ComBatHarmonizer, features: pd.DataFrame, described: pd.DataFrame, repeats: int
) -> tuple[tuple[float, float], tuple[float, float], pd.DataFrame]:
    """Times of fit and transform, and what transform gives."""
    fit = stopwatch(lambda: harmonizer.fit(features, metadata=described), repeats)
    results: list[pd.DataFrame] = []

    def apply() -> None:
        results[:] = [harmonizer.transform(features, described)]

    return fit, stopwatch(apply, repeats), results[0]


def front_door(features: pd.DataFrame, described: pd.DataFrame, batch: str) -> np.ndarray:
    """neuroCombat's own result, cases x features; it wants an array of features x cases."""
    columns = described[[batch, "age", "sex"]]
    with contextlib.redirect_stdout(io.StringIO()):
        result = neuroCombat(features.to_numpy().T.copy(), columns, batch, ["sex"], ["age"])
    return np.asarray(result["data"]).T


def stopwatch(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median of wall time and of processor time, in seconds."""
    wall, processor = [], []
    for _ in range(repeats):
        start, spent = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - spent)
    return statistics.median(wall), statistics.median(processor)


def shown(seconds: tuple[float, float]) -> str:
    """Wall and processor time, in ms below a second."""
    wall, processor = seconds
    return f"{wall:.1f} ({processor:.1f}) s" if wall >= 1 else f"{1000 * wall:.0f} ({1000 * processor:.0f}) ms"


def row(
    table: str, what: str, threads: int, fit: tuple[float, float], transform: tuple[float, float], difference: str
) -> str:
    """A line of the table."""
    together = (fit[0] + transform[0], fit[1] + transform[1])
    return f"| {table} | {what} | {threads} | {shown(fit)} | {shown(transform)} | {shown(together)} | {difference} |"
