"""No name of a folder or file reaches anything that a run writes, also when cases fail."""

import gzip
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Workspace

from radloom.engine.forget import forget

CANARY = "Jane_Doe_1957"


def everything_written(workspace: Workspace, process: subprocess.CompletedProcess[str]) -> dict[str, bytes]:
    found = {"stdout": process.stdout.encode(), "stderr": process.stderr.encode()}
    for folder in (workspace.results, workspace.folder / ".snakemake"):
        for path in folder.rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                found[str(path)] = gzip.decompress(content) if path.suffix == ".gz" else content
    return found


def test_a_patients_name_in_paths_stays_in_the_sheet(fresh: Callable[[], Workspace]) -> None:
    workspace = fresh()
    private = workspace.folder / "scans" / CANARY
    private.mkdir(parents=True)
    for row in workspace.rows:
        for column in ("image", "mask"):
            row[column] = str(shutil.copy(row[column], private / f"{CANARY}_{Path(row[column]).name}"))
    # One case is truncated, one is no image at all, one is a folder.
    broken = {row["case_id"]: Path(row["image"]) for row in workspace.rows}
    broken["a1"].write_bytes(broken["a1"].read_bytes()[:500])
    broken["a2"].write_bytes(b"not an image")
    broken["b1"].unlink()
    broken["b1"].mkdir()
    workspace.config["max_excluded_fraction"] = 0.9
    workspace.config["harmonize"] = {"small_batch": "passthrough", "min_batch_size": 2}
    process = workspace.run_command()
    exclusions = workspace.tables()["exclusions.csv"].decode()
    assert [line.split(",")[0] for line in exclusions.splitlines()[1:]] == ["a1", "a2", "b1"]
    for name, content in everything_written(workspace, process).items():
        assert CANARY.encode() not in content, name
        assert CANARY not in name


@pytest.mark.parametrize("case", ["zz", "../a2", ""])
def test_a_case_that_is_not_there_forgets_nothing(workspace: Workspace, case: str) -> None:
    before = workspace.tables()
    with pytest.raises(ValueError, match="case"):
        forget(workspace.results, case)
    with pytest.raises(ValueError, match="RESULTS"):
        forget(workspace.folder, "a2")
    assert workspace.tables() == before


def test_a_forgotten_case_leaves_no_trace(workspace: Workspace) -> None:
    assert forget(workspace.results, "a2") > 0
    workspace.rows.remove(workspace.row("a2"))
    workspace.run(whole=True)
    for path in workspace.results.rglob("*"):
        assert path.name != "a2"
        if path.is_file() and path.suffix in (".json", ".csv", ".html", ".log", ".jsonl"):
            assert b'"a2"' not in path.read_bytes(), path
            assert b"a2," not in path.read_bytes(), path
