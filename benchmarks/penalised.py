"""The cross-validated Cox path beside scikit-survival and R's cv.glmnet: 500 cases x 1000 columns."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from sksurv.linear_model import CoxnetSurvivalAnalysis
from sksurv.util import Surv

from benchmarks.workflow_runs import REPO
from radloom.penalised import cox_path, fit_penalised_cox, partial_log_likelihood

L1_RATIO = 0.9
FOLDS = 10
ROUNDS = 5

GLMNET = """
if (!requireNamespace("glmnet", quietly = TRUE)) quit(status = 3)
folder <- commandArgs(TRUE)[1]
read <- function(name) as.matrix(read.csv(file.path(folder, name), header = FALSE))
x <- read("x.csv"); y <- read("y.csv"); penalties <- read("penalties.csv")[, 1]
outcome <- survival::Surv(y[, 1], y[, 2])
seconds <- system.time(fit <- glmnet::cv.glmnet(x, outcome, family = "cox", alpha = 0.9, lambda = penalties,
  foldid = y[, 3] + 1, standardize = FALSE))
write.table(as.matrix(fit$glmnet.fit$beta), file.path(folder, "beta.csv"), sep = ",",
  row.names = FALSE, col.names = FALSE)
cat(sprintf('{"cpu": %f, "penalty": %.17g, "version": "%s"}',
  sum(seconds[1:2]), fit$lambda.min, as.character(packageVersion("glmnet"))))
"""


def cpu_seconds(work: Callable[[], object], rounds: int) -> float:
    """The least CPU time of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def sksurv_protocol(x: np.ndarray, t: np.ndarray, dead: np.ndarray, penalties: np.ndarray, folds: np.ndarray) -> tuple:
    """The path of all cases and of each fold's training cases, and the penalty of least deviance."""

    def path(rows: np.ndarray) -> np.ndarray:
        # A path that stops early (nothing more to explain) keeps its last coefficients.
        found = CoxnetSurvivalAnalysis(alphas=penalties, l1_ratio=L1_RATIO, tol=1e-7).fit(
            x[rows], Surv.from_arrays(dead[rows], t[rows])
        )
        return np.pad(found.coef_, ((0, 0), (0, len(penalties) - found.coef_.shape[1])), mode="edge")

    curve = np.zeros(len(penalties))
    for fold in range(FOLDS):
        train = folds != fold
        b = path(train)
        curve += partial_log_likelihood(x[train] @ b, t[train], dead[train]) - partial_log_likelihood(x @ b, t, dead)
    return path(np.ones(len(t), dtype=bool)), float(penalties[np.argmin(curve)])


def glmnet_protocol(folder: Path, x: np.ndarray, y: np.ndarray, penalties: np.ndarray) -> tuple[dict, np.ndarray] | str:
    """What cv.glmnet says of the same folds and penalties, or why it says nothing."""
    if not shutil.which("Rscript"):
        return "not measured: there is no Rscript"
    for name, values in (("x", x), ("y", y), ("penalties", penalties)):
        np.savetxt(folder / f"{name}.csv", values, delimiter=",", fmt="%.17g")
    (folder / "cv.R").write_text(GLMNET)
    done = subprocess.run(["Rscript", str(folder / "cv.R"), str(folder)], capture_output=True, text=True)
    if done.returncode == 3:
        return "not measured: R is there, its package glmnet is not"
    if done.returncode:
        return f"not measured: R says {done.stderr.strip().splitlines()[-1]}"
    return json.loads(done.stdout), pd.read_csv(folder / "beta.csv", header=None).to_numpy()


def measure(folder: Path, small: bool) -> str:
    """Fit the path and choose its penalty with each implementation; return the figures as Markdown."""
    source = REPO.parent / "shared" / "data" / "golden" / "cox"
    if not source.is_dir():
        return "Not measured: the reference data are not at ../shared/data."
    x = pd.read_csv(source / "X.csv.gz", header=None, float_precision="round_trip").to_numpy()[
        :, : 100 if small else None
    ]
    outcome = pd.read_csv(source / "y.csv", float_precision="round_trip")
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    t, dead = outcome["time"].to_numpy(), outcome["st"].to_numpy().astype(bool)
    folds, rounds = np.arange(len(t)) % FOLDS, 1 if small else ROUNDS
    penalties, ours = cox_path(x, t, dead, L1_RATIO)

    def objective(b: np.ndarray) -> np.ndarray:
        size = L1_RATIO * np.abs(b).sum(axis=0) + (1 - L1_RATIO) / 2 * (b**2).sum(axis=0)
        return np.asarray(-partial_log_likelihood(x @ b, t, dead) / len(t) + penalties * size)

    def row(name: str, seconds: float, b: np.ndarray, penalty: float) -> str:
        apart, above = np.abs(b - ours).max(), (objective(b) - objective(ours)).max()
        return f"| {name} | {seconds:.2f} s | {penalty:.4f} | {apart:.1e} | {above:.1e} |"

    fit = fit_penalised_cox(x, t, dead, L1_RATIO, folds)
    lines = [
        f"{len(t)} cases x {x.shape[1]} columns (simulated, {dead.sum()} events), {len(penalties)} penalties, "
        f"{FOLDS} folds with one path each and one of all cases; l1 ratio 0.9, the same folds and penalties for all, "
        f"one thread; least CPU time of {rounds}.",
        "",
        "| implementation | path and cross-validation | penalty chosen | largest difference in a coefficient "
        "| objective above Radloom's by at most |",
        "|---|---|---|---|---|",
        row(
            "**Radloom**",
            cpu_seconds(lambda: fit_penalised_cox(x, t, dead, L1_RATIO, folds), rounds),
            ours,
            fit.penalty_min,
        ),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        b, penalty = sksurv_protocol(x, t, dead, penalties, folds)
        seconds = cpu_seconds(lambda: sksurv_protocol(x, t, dead, penalties, folds), rounds)
    lines.append(row("scikit-survival (Coxnet, tol 1e-7)", seconds, b, penalty))
    found = glmnet_protocol(folder, x, np.column_stack([t, dead, folds]), penalties)
    if isinstance(found, str):
        lines.append(f"| R's cv.glmnet | {found} | | | |")
    else:
        lines.append(row(f"R's cv.glmnet {found[0]['version']}", found[0]["cpu"], found[1], found[0]["penalty"]))
    return "\n".join(lines)
