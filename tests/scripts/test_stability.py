"""The script of the step `stability` by hand, on real repeats."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

SHROUT_FLEISS = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repo / "workflow/scripts/stability.py", *arguments]
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


def test_by_hand(repo: Path, tmp_path: Path) -> None:
    rows = [(f"p{i}r{j}", f"p{i}", "A", f"judge{j}", x) for (i, j), x in np.ndenumerate(SHROUT_FLEISS)]
    table = pd.DataFrame(rows, columns=["case_id", "patient_id", "centre", "repeat_id", "score"])
    table[["case_id", "score"]].to_csv(tmp_path / "features.csv", index=False)
    table.drop(columns="score").to_csv(tmp_path / "repeats.tsv", index=False, sep="\t")
    done = run(repo, tmp_path / "features.csv", tmp_path / "repeats.tsv", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "6 cases, fewer than 30" in done.stdout
    found = pd.read_csv(tmp_path / "out" / "stability.csv").set_index("icc")["estimate"]
    # As published: .17, .29, .71.
    assert found.round(2).to_dict() == {"ICC(1,1)": 0.17, "ICC(2,1)": 0.29, "ICC(3,1)": 0.71}


def test_what_is_missing_is_named(repo: Path, tmp_path: Path) -> None:
    pd.DataFrame({"case_id": ["a", "b"], "f": [1.0, 2.0]}).to_csv(tmp_path / "features.csv", index=False)
    (tmp_path / "repeats.csv").write_text("case_id,patient_id,centre\na,p,A\nb,p,A\n")
    done = run(repo, tmp_path / "features.csv", tmp_path / "repeats.csv", "--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: the table of repeats lacks the column repeat_id"
