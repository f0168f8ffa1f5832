"""What R says: tests that ask skip where Rscript is absent."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


def run_r(code: str, folder: Path, **tables: pd.DataFrame) -> dict[str, np.ndarray]:
    """The numeric vectors in the list `out` that R code leaves; tables are there as data frames by name.

    Numbers go both ways with 17 digits, that is exactly.
    """
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    lines = ["suppressMessages(library(survival))"]
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
        lines.append(f'{name} <- read.csv("{name}.csv")')
    lines += [
        code,
        'for (name in names(out)) cat(name, formatC(as.numeric(out[[name]]), digits = 17, format = "g"), "\\n",'
        ' file = "out.txt", append = TRUE)',
    ]
    (folder / "code.R").write_text("\n".join(lines))
    done = subprocess.run(["Rscript", "code.R"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in (folder / "out.txt").read_text().splitlines()]
    return {name: np.array([float(value.replace("Inf", "inf")) for value in values]) for name, *values in found}
