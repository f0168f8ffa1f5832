"""A withdrawn patient's traces go, wherever they lie; other cases, and what is the user's own, stay."""

import base64
import fcntl
import gzip
import json
import multiprocessing
import time
from pathlib import Path

import pandas as pd
import pytest

from radloom.engine.forget import forget
from radloom.engine.locks import hold_case

SHEET = """case_id\tpatient_id\tcentre\timage
P1\tpat1\tc\timages/p1.nii.gz
P10\tpat10\tc\timages/p10.nii.gz
P1.2\tpat1\tc\timages/p12.nii.gz
"""


def write(path: Path, content: str | bytes = "P1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of the cases P1, P10 and P1.2, with what a training and a locked test set leave."""
    folder = tmp_path / "results"
    write(tmp_path / "cohort.tsv", SHEET)
    chunks = {"segment/c_0001": ["P1", "P10"], "segment/c_0002": ["P1.2"], "train_segmentation/cohort": []}
    for name, cases in chunks.items():
        entries = [{"case_id": case} for case in cases]
        for kind in ("plan", "manifests"):
            write(folder / kind / f"{name}.json", json.dumps({"cases": entries}))
    clinical = {"cohort": str(tmp_path / "cohort.tsv"), "sources": {"clinical": {"path": str(tmp_path / "c.csv")}}}
    write(folder / "plan/tables/cohort.json", json.dumps(clinical))
    write(tmp_path / "c.csv", "patient_id,time\npat1,3\n")
    for case in ("P1", "P10", "P1.2"):
        write(folder / "cases" / case / "segment" / "record.json", json.dumps({"case_id": case}))
    return folder


GONE = (
    "cases/P1/.fetched/0/1.dcm",
    "cases/P1/ingest/.scratch/.source-killed/000001",
    "cache/train_segmentation/cases/P1/image.npy",
    "training/overlays/P1.png",
    "training/split.csv",
    "models/mine/model.safetensors",
    "tables/features_raw.parquet",
    "steps/tables/record.json",
    "logs/train_segmentation/cohort.log",
    "logs/journal.jsonl",
    "report.html",
    "methods.md",
    "manifests/segment/.c_0001.json.4711.tmp",
)


def test_all_that_names_the_case_goes_and_no_other_case(results: Path) -> None:
    snakemake = results.parent / ".snakemake"
    for name in GONE:
        write(results / name)
    coded = base64.b64encode(b"results/manifests/ingest/P1_0001.json").decode()
    gone = [
        write(snakemake / "log" / "1.snakemake.log", "case P1: took longer"),
        write(snakemake / "metadata" / coded, "{}"),
        write(snakemake / "incomplete" / coded, ""),
        write(snakemake / "auxiliary" / "names.csv.gz", gzip.compress(b"case_id\nP1\n")),
        write(snakemake / "slurm_logs" / "P1.log", ""),
    ]
    pd.DataFrame({"case_id": ["P1"]}).to_parquet(write(snakemake / "iocache" / "latest.parquet", ""))
    kept = [
        write(snakemake / "log" / "2.snakemake.log", "case P10 and case XP1"),
        write(snakemake / "metadata" / base64.b64encode(b"results/manifests/ingest/c_0001.json").decode(), "{}"),
        write(snakemake / "conda" / "P1.yaml"),
        write(results / "model_cox.ledger.jsonl", '{"n": 1}'),
        *(results / "cases" / case / "segment" / "record.json" for case in ("P10", "P1.2")),
    ]
    notes = write(results / "my notes" / "P1.txt", "call them")
    forgotten = forget(results, "P1", snakemake)
    assert [path for path in gone if path.exists()] == []
    assert [name for name in GONE if (results / name).exists()] == []
    assert [path for path in kept if not path.exists()] == []
    assert not (results / "cases" / "P1").exists()
    assert notes.exists()
    left = "\n".join(forgotten.left)
    assert f"{notes}, which Radloom didn't write" in left
    assert "cohort.tsv: the case's row" in left
    assert "other cases of the same patient: P1.2" in left
    assert "c.csv: the patient's row" in left
    with pytest.raises(ValueError, match="no such case"):
        forget(results, "P1", snakemake)


def test_another_results_folder_that_has_the_case_is_named(results: Path) -> None:
    other = results.parent / "other"
    write(other / "plan/ingest/c_0001.json", json.dumps({"cases": [{"case_id": "P1"}]}))
    assert any(text.startswith("other, other results") for text in forget(results, "P1", results / "none").left)
    assert any("Snakemake's logs" in text for text in forget(results, "P10", results / "none").left)


def test_what_a_kill_left_half_done_is_taken_up_again(results: Path) -> None:
    # The plan still knows the case when its folder is gone.
    write(results / "tables" / "qc.csv")
    (results / "cases" / "P1" / "segment" / "record.json").unlink()
    (results / "cases" / "P1" / "segment").rmdir()
    (results / "cases" / "P1").rmdir()
    forget(results, "P1", results / ".snakemake")
    assert not (results / "tables").exists()


def test_nothing_goes_while_a_run_is_on(results: Path) -> None:
    with open(results / ".run", "w") as run:
        fcntl.flock(run, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="a run is at work"):
            forget(results, "P1", results / ".snakemake")
    assert (results / "cases" / "P1" / "segment" / "record.json").exists()


def _orphan(folder: Path, began: object) -> None:
    with hold_case(folder):
        began.set()  # type: ignore[attr-defined]
        time.sleep(0.3)
        (folder / "late.json").write_text("P1")


def test_a_job_that_a_kill_left_at_work_is_waited_for(results: Path) -> None:
    context = multiprocessing.get_context("fork")
    began = context.Event()
    orphan = context.Process(target=_orphan, args=(results / "cases" / "P1" / "segment", began))
    orphan.start()
    began.wait()
    forget(results, "P1", results / ".snakemake")
    orphan.join()
    assert orphan.exitcode == 0
    assert not (results / "cases" / "P1").exists()
