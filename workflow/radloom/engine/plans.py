"""What happens while the workflow is parsed: plans are written, and manifests that don't hold any more are removed.

A plan, `results/plan/<step>/<chunk>.json`, holds all that decides a chunk's result except the content of earlier steps'
files. A manifest, `results/manifests/<step>/<chunk>.json`, is what the chunk's job made of it. Plans are only
written where their content differs: so Snakemake sees by their time, or their content, what has to run.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from radloom.acquisition import NAMED as ACQUISITION
from radloom.analysis_plan import columns_by_key
from radloom.cohort import KNOWN, PATHS, PRIVATE, Sheet, read_cohort, repeated_patients, source_path
from radloom.config import check_run, complete
from radloom.engine.chunks import Chunk, make_chunks
from radloom.engine.codehash import code_hash
from radloom.engine.files import (
    canonical_json,
    identity,
    read_json,
    sha256_json,
    write_if_changed,
)
from radloom.engine.locks import clear_dead_locks, hold_results
from radloom.engine.net_to_train import check_net
from radloom.engine.records import Record, as_listed, cache_path, clear
from radloom.engine.sources import choice, needs_salt, source_identity
from radloom.engine.steps import (
    COHORT_STEPS,
    STEPS,
    VOLUME_READERS,
    VOLUME_STEPS,
    StepSpec,
    active_steps,
    package_versions,
    resource_hash,
    step_columns,
    step_files,
    step_params,
)
from radloom.errors import ConfigError
from radloom.extractions import main_file
from radloom.resource_facts import resource_facts
from radloom.salt import project_salt
from radloom.source_names import suffix

COHORT = "cohort"  # the name of the one chunk of a step that sees the whole cohort
TIDY = "tidy"
LOOKING_AT_ONCE = 8  # sources
CODE = "code.json"  # what is known of the code's files, for jobs to see quickly that they run what was planned


@dataclass(frozen=True)
class Run:
    """A configured run: what the rules ask for paths, chunks and settings."""

    config: dict[str, Any]
    results: Path
    steps: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    def has(self, step: str) -> bool:
        return step in self.steps

    def plan(self, step: str, chunk: str = "{chunk}") -> str:
        return str(plan_path(self.results, step, chunk))

    def manifest(self, step: str, chunk: str = "{chunk}") -> str:
        return str(manifest_path(self.results, step, chunk))

    def log(self, step: str, chunk: str = "{chunk}") -> str:
        return str(self.results / "logs" / step / f"{chunk}.log")

    def before(self, step: str) -> list[str]:
        """Return a chunk's manifests of the steps before a case-level step."""
        return [self.manifest(earlier) for earlier in STEPS[step].after]

    def before_cohort(self, step: str) -> list[str]:
        """Return all manifests of the steps before a cohort-level step."""
        return self._manifests(s for s in STEPS[step].after if self.has(s))

    def before_tidy(self) -> list[str]:
        """Return a chunk's manifests of the steps that read volumes last."""
        return [self.manifest(step) for step in VOLUME_READERS if self.has(step)]

    def targets(self) -> list[str]:
        """Return every manifest of the run, so that one that was removed is made again."""
        tidy = [self.manifest(TIDY, chunk.name) for chunk in self.chunks] if self.config["keep"] == "final" else []
        return [*self._manifests(self.steps), *tidy]

    def _manifests(self, steps: Iterable[str]) -> list[str]:
        return [
            self.manifest(step, chunk)
            for step in steps
            for chunk in ([c.name for c in self.chunks] if STEPS[step].by_case else [COHORT])
        ]


def plan_path(results: Path, step: str, chunk: str) -> Path:
    return results / "plan" / step / f"{chunk}.json"


def manifest_path(results: Path, step: str, chunk: str) -> Path:
    return results / "manifests" / step / f"{chunk}.json"


def prepare(written: dict[str, Any], workflow: Path, main_process: bool) -> Run:
    """Check the configuration, write the plans and remove manifests that don't hold; return the run.

    `workflow` is the folder of scripts and package. A process that only executes jobs (`main_process` False) neither
    checks nor writes. Raises ConfigError with everything that is wrong, before anything runs, also where another run
    is at work in the results folder: its plans must stay as they are, so nothing could be said of this one.
    """
    config = complete(written)
    results = Path(config["results"])
    if main_process:
        cohort = check_run(config)
        check_net(config)
    else:
        cohort = read_cohort(Path(config["cohort"]))[0] if config["cohort"] else Sheet([], [], [])
    rows, lines = cohort.rows, cohort.lines
    if config["stability"]["repeats"] == "auto":
        config["stability"]["repeats"] = bool(repeated_patients(rows))
    chunks = make_chunks([(row["case_id"], row["centre"]) for row in rows], config["cases_per_job"])
    run = Run(config, results, tuple(active_steps(config)), tuple(chunks))
    if not main_process:
        return run
    if not hold_results(results):
        raise ConfigError([f"another run is at work in {results}: wait for its end, or stop it"])
    clear_dead_locks(Path(".snakemake"), str(results))
    salt = project_salt(salt_path(config)) if any(map(needs_salt, rows)) else b""
    sources = _sources(config, rows, lines, salt)
    if config["check_disk"]:
        _check_disk(run, sources)
    plans = _plans(run, workflow, rows, sources, salt)
    _write_plans(run, plans)
    _drop_broken(run, plans)
    return run


def salt_path(config: dict[str, Any]) -> Path:
    """Return where the project's salt lies: what the configuration names, or beside the results folder."""
    results = Path(config["results"])
    return Path(config["uid_salt"]) if config["uid_salt"] else results.with_name(f"{results.name}.salt")


def _sources(
    config: dict[str, Any], rows: list[dict[str, str]], lines: list[int], salt: bytes
) -> dict[str, dict[str, list[int]]]:
    """Return what tells of every case's sources that they may have changed (`source_identity`)."""
    sheet = Path(config["cohort"] or ".")

    def identify(row: dict[str, str]) -> dict[str, list[int]] | OSError:
        try:
            return {
                column: source_identity(source_path(sheet, row[column]), salt) for column in PATHS if row.get(column)
            }
        except OSError as error:
            return error

    found: dict[str, dict[str, list[int]]] = {}
    problems = []
    # Threads, for disks on a network, where every file that is looked at is waited for.
    with ThreadPoolExecutor(LOOKING_AT_ONCE) as pool:
        for row, line, made in zip(rows, lines, pool.map(identify, rows), strict=True):
            if isinstance(made, OSError):
                problems.append(
                    f"cohort sheet, line {line}: case {row['case_id']}: a source can't be read: {made.strerror}"
                )
            else:
                found[row["case_id"]] = made
    if problems:
        raise ConfigError(problems)
    return found


def _check_disk(run: Run, sources: dict[str, dict[str, list[int]]]) -> None:
    """Stop when three volumes for every case that has none yet, each as large as the source, won't fit."""
    if run.has("ingest"):
        fresh = [s["image"][0] for case, s in sources.items() if not (run.results / "cases" / case / "ingest").exists()]
        need = 3 * sum(fresh)
        free = shutil.disk_usage(run.results).free
        if need > free:
            raise ConfigError(
                [
                    f"disk: the run needs about {need / 1e9:.1f} GB in {run.results}; {free / 1e9:.1f} GB are free. "
                    "Free some, put `results` elsewhere, or set `keep: final` and `check_disk: false`"
                ]
            )


def _resources(spec: StepSpec, config: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return path and content hash of the files that a step's configuration names and that it uses."""
    found: dict[str, dict[str, str]] = {}
    for key in spec.resources:
        section, name = key.split(".")
        if spec.name != "segment" or config["segment"]["source"] == "model":
            # All extractions are the step extract's; the steps that do it over follow the main one.
            given = main_file(config) if key == "extract.params" and spec.name != "extract" else config[section][name]
            if given is None:
                continue
            # Several files by name: `params.portal`, `params.fine`.
            paths = {name: given} if isinstance(given, str) else {f"{name}.{k}": path for k, path in given.items()}
            found |= {k: {"path": str(Path(p)), "sha256": resource_hash(Path(p))} for k, p in paths.items()}
    return found


def _plans(
    run: Run, workflow: Path, rows: list[dict[str, str]], sources: dict[str, dict[str, list[int]]], salt: bytes
) -> dict[tuple[str, str], dict[str, Any]]:
    config = run.config
    code = run.results / "plan" / CODE
    known = read_json(code) or {}
    plans: dict[tuple[str, str], dict[str, Any]] = {}
    by_id = {row["case_id"]: row for row in rows}
    common: dict[str, dict[str, Any]] = {}
    for name in run.steps:
        spec = STEPS[name]
        common[name] = {
            "step": name,
            "params": step_params(spec, config),
            "limits": {key: config[spec.sections[0]][key] for key in spec.limits},
            "files": list(step_files(spec, config)),
            "resources": _resources(spec, config),
            "versions": package_versions(spec.packages),
            "code": code_hash(workflow, name, known),
            # A forced step gets a new request with every run; records don't keep it in their key.
            "force": uuid.uuid4().hex if name in config["force"] else "",
            "results": str(run.results),
        }
        if spec.by_case:
            columns = step_columns(spec, config)
            for chunk in run.chunks:
                cases = []
                for case_id in chunk.case_ids:
                    row = {c: by_id[case_id][c] for c in columns if by_id[case_id].get(c)}
                    entry: dict[str, Any] = {"case_id": case_id, "row": row}
                    if name == "ingest":
                        entry["row"] = choice(by_id[case_id], salt)
                        entry["sources"] = sources[case_id]
                        # A file that is renamed, so that it is read as another format, is another source.
                        entry["formats"] = {c: suffix(by_id[case_id][c]) for c in sources[case_id]}
                    cases.append(entry)
                plan = {**common[name], "chunk": chunk.name, "cases": cases}
                if name == "ingest":
                    plan["cohort"] = config["cohort"]
                    plan["salt"] = str(salt_path(config)) if any(entry["row"] for entry in cases) else ""
                plans[name, chunk.name] = plan
        else:
            plans[name, COHORT] = {**common[name], **_cohort_plan(run, spec, rows)}
    write_if_changed(code, canonical_json(known) + "\n")
    if run.has("report"):
        plans["report", COHORT]["provenance"] = [
            {key: common[name][key] for key in ("step", "params", "versions", "code")}
            | {"resources": resource_facts(common[name]["resources"])}
            for name in run.steps
            if name != "report"
        ]
    return plans


def _cohort_plan(run: Run, spec: StepSpec, rows: list[dict[str, str]]) -> dict[str, Any]:
    config = run.config
    plan: dict[str, Any] = {
        "chunk": COHORT,
        "after": [step for step in spec.after if run.has(step)],
        "chunks": [chunk.name for chunk in run.chunks],
        "cohort": config["cohort"],
        "sources": {},
    }
    if spec.name == "tables":
        for key in ("clinical", "features"):
            if config[key]:
                plan["sources"][key] = {"path": config[key], "identity": identity(Path(config[key]))}
    split = config["train_segmentation"]["split"]
    if spec.name == "train_segmentation" and split:
        plan["sources"]["split"] = {"path": split, "identity": identity(Path(split))}
    if spec.name in ("tables", "report", "train_segmentation"):
        plan["columns"] = [] if spec.name == "train_segmentation" else named_columns(config)
        if spec.name == "tables":
            plan["columns"] = sorted({*plan["columns"], *ACQUISITION})
        plan["cohort_sha256"] = sha256_json([public_row(row, plan["columns"]) for row in rows])
    return plan


def public_row(row: dict[str, str], named: list[str]) -> dict[str, str]:
    """Return what of a row of the sheet may leave it: the chain's columns but the private ones, and those named."""
    allowed = (set(KNOWN) | set(named)) - set(PRIVATE)
    return {column: value for column, value in row.items() if column in allowed}


def named_columns(config: dict[str, Any]) -> list[str]:
    """Return the columns of sheet and clinical table that a configuration names."""
    return sorted({column for columns in columns_by_key(config).values() for column in columns})


def _write_plans(run: Run, plans: dict[tuple[str, str], dict[str, Any]]) -> None:
    wanted = set()
    for (step, chunk), plan in plans.items():
        path = plan_path(run.results, step, chunk)
        write_if_changed(path, canonical_json(plan) + "\n")
        wanted.add((step, path.name))
    # A chunk or step that is no more has neither plan nor manifest.
    chunks = {f"{chunk.name}.json" for chunk in run.chunks}
    for kind in ("plan", "manifests"):
        for path in (run.results / kind).glob("*/*.json"):
            step = path.parent.name
            if (step, path.name) not in wanted and not (step == TIDY and path.name in chunks):
                path.unlink()


def clear_abandoned(run: Run) -> None:
    """Remove the tables of steps that the configuration doesn't ask for any more.

    Not while the workflow is parsed, but when a run starts: `snakemake -n` only looks.
    """
    for step in set(COHORT_STEPS) - set(run.steps):
        folder = run.results / "steps" / step
        record = Record.read(folder)
        for name in record.outputs if record is not None else ():
            (run.results / name).unlink(missing_ok=True)
        clear(folder)
        shutil.rmtree(cache_path(run.results, step), ignore_errors=True)


def _drop_broken(run: Run, plans: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Remove every manifest of another plan, or that lists a lost or altered file, so that its chunk runs again."""
    for (step, chunk), plan in plans.items():
        manifest = manifest_path(run.results, step, chunk)
        if manifest.exists() and not _holds(run, read_json(manifest), plan):
            manifest.unlink()
    for chunk in (chunk.name for chunk in run.chunks):
        made = [manifest_path(run.results, step, chunk) for step in run.steps if STEPS[step].by_case]
        if manifest_path(run.results, TIDY, chunk).exists() and not all(manifest.exists() for manifest in made):
            # Some step has to run: those that made the tidied volumes look case by case whether it needs them.
            for step in VOLUME_STEPS:
                manifest_path(run.results, step, chunk).unlink(missing_ok=True)


def _holds(run: Run, manifest: Any, plan: dict[str, Any]) -> bool:
    """Tell whether a manifest is what a job made of this plan, and all its files are there and unaltered.

    Volumes that `keep: final` removed count as there: each case's record knows of it.
    """
    try:
        if manifest["plan"] != sha256_json(plan):
            return False
        tidied = plan["step"] in VOLUME_STEPS and manifest_path(run.results, TIDY, plan["chunk"]).exists()
        for case in manifest["cases"]:
            for file in case["outputs"].values():
                path = run.results / file["path"]
                if tidied and not path.exists():
                    continue
                if not as_listed(file, path):
                    return False
    except (KeyError, TypeError, AttributeError):
        return False
    return True
