"""Remove a withdrawn patient's case from a results folder: its files, its records, and all that was computed with it.

The tables, models and report were made with the case, so they go too, and the next run makes them without it. What
names the case in Snakemake's own folder goes as well. The user's files are left alone, and those that still name the
case are listed.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radloom.cohort import NAME, read_cohort
from radloom.engine.files import read_json
from radloom.engine.locks import hold_case, hold_results
from radloom.engine.steps import COHORT_STEPS

# What was made with the whole cohort, and logs, which name cases.
MADE_WITH_ALL = ("steps", "tables", "models", "training", "cache", "logs")
_MADE_BY_CHUNK = ("plan", "manifests")
_TEXTS = ("report.html", "methods.md")
# What Snakemake installs, which no case has a part in.
_INSTALLED = ("conda", "conda-archive", "singularity")
_VOXELS = (".nii", ".nii.gz", ".nrrd", ".mha", ".dcm", ".npy", ".pt")


@dataclass(frozen=True)
class Forgotten:
    """How many files went, and what still names the case and isn't Radloom's to remove, in words."""

    removed: int
    left: tuple[str, ...]


def forget(results: Path, case_id: str, snakemake: Path) -> Forgotten:
    """Remove every file of a case and all that names it in the results and in Snakemake's folder (`.snakemake`).

    Waits for jobs of a killed run that are still at work. Raises ValueError for a case or folder that isn't there, and
    while a run is at work in the folder.
    """
    if not NAME.fullmatch(case_id):
        raise ValueError("CASE must be one case_id of the cohort sheet")
    if not (results / "plan").is_dir():
        raise ValueError("RESULTS must be a results folder of Radloom")
    if not hold_results(results):
        raise ValueError("a run is at work in this folder: stop it first")
    plans = _plans(results)
    if not _knows(results, case_id, plans):
        raise ValueError("these results know of no such case")
    case = results / "cases" / case_id
    with ExitStack() as held:
        for lock in [*case.glob(".*.lock"), *(results / "steps").glob(".*.lock")]:
            held.enter_context(hold_case(lock.with_name(lock.name[1:].removesuffix(".lock"))))
        removed = sum(map(_remove, [case, *(results / name for name in (*MADE_WITH_ALL, *_TEXTS))]))
    named = _naming(case_id)
    for path in _files_beside(snakemake, _INSTALLED):
        if _names(path, named):
            removed += _remove(path)
    # The plans last: after a kill they still tell that the case is known.
    for path in [path for name in _MADE_BY_CHUNK for path in _files(results / name)]:
        # A plan or manifest is written anew without computing anything.
        if path.parent.name in COHORT_STEPS or path.name.endswith(".tmp") or _names(path, named):
            removed += _remove(path)
    return Forgotten(removed, tuple(_left(results, snakemake, case_id, plans)))


def _plans(results: Path) -> list[dict[str, Any]]:
    return [content for path in (results / "plan").glob("*/*.json") if (content := read_json(path))]


def _knows(results: Path, case_id: str, plans: list[dict[str, Any]]) -> bool:
    if (results / "cases" / case_id).is_dir():
        return True
    return any(case["case_id"] == case_id for plan in plans for case in plan.get("cases", []))


def _remove(path: Path) -> int:
    """Remove a file, or a folder with all that is in it; return how many files went."""
    if path.is_symlink() and path.is_dir():  # to another disk
        count = _remove(path.resolve())
        path.unlink()
        return count
    if path.is_dir():
        count = len(_files(path))
        shutil.rmtree(path)
        return count
    if not path.exists():
        return 0
    path.unlink()
    return 1


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink())


def _files_beside(folder: Path, known: Iterable[str]) -> list[Path]:
    """All files of a folder but those in what lies in it under known names."""
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    unknown = [path for path in found if path.name not in known]
    return [file for path in unknown for file in (_files(path) if path.is_dir() else [path])]


def _naming(word: str) -> re.Pattern[bytes]:
    """A pattern of a word that no letter or digit touches: P1 is in `P1.png` and `case P1:`, and not in P10."""
    return re.compile(rb"(?<![A-Za-z0-9])" + re.escape(word.encode()) + rb"(?![A-Za-z0-9])")


def _names(path: Path, named: re.Pattern[bytes]) -> bool:
    """Tell whether a file has the word in its name, also as Snakemake codes names, or in its content, unpacked."""
    if path.is_symlink() or path.name.endswith(_VOXELS):
        return False
    return any(named.search(content) for content in _contents(path))


def _contents(path: Path) -> Iterator[bytes]:
    yield path.name.encode()
    with suppress(ValueError):
        yield base64.b64decode(path.name, validate=True)
    content = path.read_bytes()
    yield content
    # What can't be unpacked names nothing but what its bytes show.
    with suppress(OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile):
        if path.suffix == ".gz":
            yield gzip.decompress(content)
        elif path.suffix in (".zip", ".xlsx"):
            with zipfile.ZipFile(path) as packed:
                yield from (name.encode() + b"\n" + packed.read(name) for name in packed.namelist())
        elif path.suffix == ".parquet":
            import pandas as pd

            yield pd.read_parquet(path).to_csv().encode()


def _left(results: Path, snakemake: Path, case_id: str, plans: list[dict[str, Any]]) -> Iterator[str]:
    """What still names the case, or is its patient's, and was not Radloom's to remove."""
    named = _naming(case_id)
    for path in _files_beside(results, ("cases", *MADE_WITH_ALL, *_MADE_BY_CHUNK)):
        # The ledger of a locked test set counts openings.
        if not path.name.endswith(".ledger.jsonl") and _names(path, named):
            yield f"{path}, which Radloom didn't write"
    runs = snakemake.parent  # the folder in which runs are started, from which the plans' paths count
    sheets = {runs / plan["cohort"] for plan in plans if plan.get("cohort")}
    tables = {runs / own["path"] for plan in plans for own in plan.get("sources", {}).values() if "path" in own}
    for sheet in sorted(path for path in sheets if path.is_file()):
        found, problems = read_cohort(sheet)
        rows = [] if problems else found.rows
        if problems and _names(sheet, named):
            yield f"{sheet}, in which something is wrong beside"
        for row in (row for row in rows if row["case_id"] == case_id):
            yield f"{sheet}: the case's row, and the files that it names"
            others = [r["case_id"] for r in rows if r["patient_id"] == row["patient_id"] and r is not row]
            if others:
                yield f"other cases of the same patient: {', '.join(others)}"
            of_patient = _naming(row["patient_id"])
            for table in sorted(path for path in tables if path.is_file() and _names(path, of_patient)):
                yield f"{table}: the patient's row"
    for other in sorted(results.resolve().parent.iterdir()):
        with suppress(OSError):  # somebody else's
            if other != results.resolve() and (other / "plan").is_dir() and _knows(other, case_id, _plans(other)):
                yield f"{other.name}, other results that have a case of this name"
    if not snakemake.is_dir():
        yield "Snakemake's logs, if runs were started in another folder: do this again there"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", required=True)
    parser.add_argument("--results", type=Path, required=True)
    args = parser.parse_args()
    try:
        forgotten = forget(args.results, args.case, Path(".snakemake"))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    except OSError as error:
        raise SystemExit(f"error: not all of the case is removed: {error.filename}: {error.strerror}") from None
    print(f"{forgotten.removed} files removed. Take the case out of the cohort sheet and run again without it.")
    for trace in (*forgotten.left, "backups and copies, of which Radloom doesn't know"):
        print(f"Not removed: {trace}.")


if __name__ == "__main__":
    main()
