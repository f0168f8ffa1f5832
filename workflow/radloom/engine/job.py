"""One job of the workflow: a chunk of cases through one step, or the whole cohort through one.

A case whose record matches what the plan asks for, and whose files are whole, is not computed again. The manifest is
written when every case has its record; a system error or a bug leaves no manifest, so that the job runs again.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from radloom.engine.codehash import code_hash
from radloom.engine.files import read_json, sha256_file, sha256_json, write_json
from radloom.engine.locks import Superseded, check_run, hold_case
from radloom.engine.progress import report_case, report_failure
from radloom.engine.records import SCRATCH, Record, adopt, as_listed, cache_path, clear, fetched_path, scratch
from radloom.engine.sources import choice, private_cells, source_hash, source_identity
from radloom.engine.step import CaseStep, CaseTask, CohortStep, CohortTask, Entry
from radloom.engine.steps import CASE_STEPS, STEPS, VOLUME_STEPS, case_params, cases_at_once, resource_hash
from radloom.engine.worker import Answer, Worker, first_to_answer, trace
from radloom.errors import CohortError, ConfigError
from radloom.source_names import suffix

THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


# Signals with which a library that meets a damaged file dies; others come from outside.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGFPE, signal.SIGILL)


class SystemFailure(Exception):
    """Something that is not the case's fault: the job fails and is tried again with the next run."""


class Resources:
    """The models and parameter files of a plan, which must be what was planned for as long as a job uses them."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.hashes = {name: entry["sha256"] for name, entry in plan["resources"].items()}
        self.paths = {name: Path(entry["path"]) for name, entry in plan["resources"].items()}
        self._identities = self._identify()
        if any(resource_hash(path) != self.hashes[name] for name, path in self.paths.items()):
            raise SystemFailure("a model or parameter file has changed since this run was planned: start the run again")

    def check(self) -> None:
        """Raise SystemFailure where a file was touched since the job began."""
        if self._identify() != self._identities:
            raise SystemFailure("a model or parameter file changed while the job ran: start the run again")

    def _identify(self) -> list[list[int]]:
        return [source_identity(path) for path in self.paths.values()]


def job_main(step: CaseStep | CohortStep, argv: Sequence[str]) -> int:
    """Run a step's script as a job: `--plan PLAN --manifest MANIFEST [--workers N]`."""
    # One thread for every numerical library, set before any is imported: results must not depend on threads,
    # and Snakemake already runs as many jobs as there are cores.
    os.environ.update(dict.fromkeys(THREADS, "1"))
    # A crash, of a worker too, must not leave a core dump with patients' pixels, paths or the salt in it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The processes of one job share a card (`radloom.nets.devices`).
    os.environ["RADLOOM_JOB"] = uuid.uuid4().hex
    parser = argparse.ArgumentParser()
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that a step of the whole cohort may use")
    args = parser.parse_args(argv)
    plan = read_json(args.plan)
    if plan is None:
        print(f"{args.plan} is no plan: Snakemake writes it before the job starts", file=sys.stderr)
        return 2
    workflow = Path(sys.modules["__main__"].__file__ or "").resolve().parent.parent
    try:
        known = read_json(Path(plan["results"]) / "plan" / "code.json") or {}
        if code_hash(workflow, step.name, known) != plan["code"]:
            raise SystemFailure("the code has changed since this run was planned: start the run again")
        if isinstance(step, CaseStep):
            entries = run_chunk(step, plan)
        else:
            entries = [run_cohort(step, plan, args.workers)]
        check_run(Path(plan["results"]))
    except (SystemFailure, Superseded, CohortError) as error:
        print(f"{step.name} {plan['chunk']}: {error}", file=sys.stderr)
        report_failure(Path(plan["results"]), step.name, plan["chunk"], str(error))
        return 1
    except Exception as error:
        # The exception's own text may hold a path or a value: where it happened is enough to find the bug.
        reason = f"{type(error).__name__}, a bug or a system error, in\n{trace(error)}"
        print(reason, file=sys.stderr)
        report_failure(Path(plan["results"]), step.name, plan["chunk"], reason)
        return 1
    write_json(args.manifest, {"step": step.name, "chunk": plan["chunk"], "plan": sha256_json(plan), "cases": entries})
    return 0


def run_chunk(step: CaseStep, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Bring every case of a chunk up to date with its plan; return the entries of the manifest.

    Raises SystemFailure, after the other cases, when one failed for a reason that is not its own.
    """
    results = Path(plan["results"])
    upstream = {name: _entries_by_case(results, name, plan["chunk"]) for name in STEPS[step.name].after}
    resources = Resources(plan)
    raw = _raw_sources(plan)
    lanes = [
        _Lane(Worker(step, plan["limits"].get("memory_gb"), plan["limits"].get("timeout_s")))
        for _ in range(cases_at_once(step.name, plan))
    ]
    entries: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    waiting = iter(plan["cases"])

    def done(case_id: str, record: Record | None, computed: bool) -> None:
        entries[case_id] = _entry(record, case_id, f"cases/{case_id}/{step.name}")
        report_case(results, step.name, case_id, entries[case_id]["status"], computed)

    def failed(case_id: str, folder: Path, failure: SystemFailure) -> None:
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        failures.append(f"case {case_id}: {failure}")

    def give_work(lane: _Lane) -> None:
        """Give a lane the next case that has to be computed; those before it are done here."""
        full = any("No space left" in failure for failure in failures)
        for case in () if full else waiting:
            check_run(results)
            folder = results / "cases" / case["case_id"] / step.name
            with ExitStack() as held:
                held.enter_context(hold_case(folder))
                # An orphan may have had the case until now, and the run may have been superseded meanwhile.
                check_run(results)
                try:
                    found = _prepare(step, plan, case, folder, upstream, raw, resources)
                except SystemFailure as failure:
                    failed(case["case_id"], folder, failure)
                    continue
                if not isinstance(found, _Computation):
                    done(case["case_id"], found, False)
                    continue
                lane.computation, lane.held = found, held.pop_all()
            lane.worker.send(found.task)
            return

    try:
        while True:
            for lane in lanes:
                if lane.computation is None:
                    give_work(lane)
            busy = [lane for lane in lanes if lane.computation is not None]
            if not busy:
                break
            worker = first_to_answer([lane.worker for lane in busy])
            lane = next(lane for lane in busy if lane.worker is worker)
            computation, answer = lane.computation, worker.receive()
            assert computation is not None
            if answer.kind == "died" and not computation.again:
                computation.again = True
                scratch(computation.folder)
                worker.send(computation.task)
                continue
            with lane.held:
                lane.computation = None
                try:
                    _finish(computation, answer, plan, resources)
                except SystemFailure as failure:
                    failed(computation.record.case_id, computation.folder, failure)
                    continue
            done(computation.record.case_id, computation.record, True)
    finally:
        for lane in lanes:
            lane.worker.stop()
            lane.held.close()
    if failures:
        raise SystemFailure("\n".join(["not the cases' fault, tried again with the next run:", *failures]))
    return [entries[case["case_id"]] for case in plan["cases"]]


@dataclass(frozen=True)
class _Raw:
    """What a row of the cohort sheet says of a case's sources: paths or URLs, and what to choose in them."""

    sources: dict[str, Path | str] = field(default_factory=dict)
    private: dict[str, str] = field(default_factory=dict, repr=False)


def _raw_sources(plan: dict[str, Any]) -> dict[str, _Raw]:
    """Return where the sources of the plan's cases are, read from the cohort sheet: that stands nowhere else."""
    if plan["step"] != "ingest":
        return {}
    from radloom.cohort import PATHS, read_cohort, source_path
    from radloom.salt import project_salt

    sheet = Path(plan["cohort"])
    rows, problems = read_cohort(sheet)
    try:
        salt = project_salt(Path(plan["salt"])) if plan["salt"] else b""
    except ConfigError as error:
        raise SystemFailure(str(error)) from None
    planned = {case["case_id"]: case["row"] for case in plan["cases"]}
    own = [row for row in rows.rows if row["case_id"] in planned]
    if problems or any(choice(row, salt) != planned[row["case_id"]] for row in own):
        raise SystemFailure(
            "the cohort sheet or the project's salt has changed since this run was planned: start the run again"
        )
    return {
        row["case_id"]: _Raw(
            {column: source_path(sheet, row[column]) for column in PATHS if row.get(column)}, private_cells(row, salt)
        )
        for row in own
    }


def _entries_by_case(results: Path, step: str, chunk: str) -> dict[str, dict[str, Any]]:
    manifest = read_json(results / "manifests" / step / f"{chunk}.json")
    if manifest is None:
        raise SystemFailure(f"the manifest of {step} is missing")
    return {entry["case_id"]: entry for entry in manifest["cases"]}


@dataclass
class _Computation:
    """A case that has to be computed: what the worker gets, and the record that the answer completes."""

    record: Record
    task: CaseTask
    folder: Path
    again: bool = False
    """Its worker died once."""


@dataclass
class _Lane:
    """A worker, the case that it computes, and that case's lock."""

    worker: Worker
    computation: _Computation | None = None
    held: ExitStack = field(default_factory=ExitStack)


def _prepare(
    step: CaseStep,
    plan: dict[str, Any],
    case: dict[str, Any],
    folder: Path,
    upstream: dict[str, dict[str, dict[str, Any]]],
    raw: dict[str, _Raw],
    resources: Resources,
) -> _Computation | Record | None:
    """What has to be computed of a case; or its record, which is up to date (None: excluded by an earlier step)."""
    case_id = case["case_id"]
    results = Path(plan["results"])
    old = Record.read(folder)
    sources: dict[str, list[Any]] = {}
    if step.name == "ingest":
        inputs, hashes, sources = _source_inputs(case, raw.get(case_id, _Raw()), old)
    else:
        if any(entries[case_id]["status"] != "ok" for entries in upstream.values()):
            clear(folder)
            return None
        inputs, hashes = _upstream_inputs(plan, case_id, results, upstream)
    params, row = case_params(STEPS[step.name], plan["params"], case["row"])
    decides = {
        "step": step.name,
        "inputs": hashes,
        "params": params,
        "row": row,
        "resources": resources.hashes,
        "code": plan["code"],
        "versions": plan["versions"],
    }
    key = sha256_json(decides)
    if old is not None and old.key == key and _still_good(old, plan, case, folder):
        if old.sources != sources:
            old.sources = sources
            old.write(folder)
        # What a run left that was killed while it tried another setting: unpacked archives may be among it.
        shutil.rmtree(folder / SCRATCH, ignore_errors=True)
        _forget_fetched(plan, folder)
        return old
    record = Record(
        step=step.name,
        case_id=case_id,
        key=key,
        status="excluded",
        inputs=hashes,
        params=params,
        row=row,
        resources=resources.hashes,
        code=plan["code"],
        versions=plan["versions"],
        sources=sources,
        force=plan["force"],
    )
    for file in _altered(inputs, upstream, case_id):
        raise SystemFailure(f"{file} was altered or removed after it was made: start the run again")
    private = raw[case_id].private if case_id in raw else {}
    task = CaseTask(case_id, inputs, params, row, scratch(folder), resources.paths, plan["limits"], private)
    return _Computation(record, task, folder)


def _finish(computation: _Computation, answer: Answer, plan: dict[str, Any], resources: Resources) -> None:
    """Complete the record of a case by the worker's answer, and put its files in their place."""
    record, folder = computation.record, computation.folder
    _judge(record, answer, plan["limits"])
    resources.check()
    _forget_fetched(plan, folder)
    if record.step in VOLUME_STEPS:
        _untidy(folder, record.step)
    _commit(record, folder)


def _forget_fetched(plan: dict[str, Any], folder: Path) -> None:
    """Remove what a server sent for a case that ingest is done with, unless the configuration keeps it."""
    if plan["step"] == "ingest" and not plan["limits"]["dicomweb"]["keep"]:
        shutil.rmtree(fetched_path(folder), ignore_errors=True)


def _still_good(record: Record, plan: dict[str, Any], case: dict[str, Any], folder: Path) -> bool:
    if plan["force"] and record.force != plan["force"]:
        return False
    if record.limits is not None and record.limits != plan["limits"]:
        return False
    if record.tidied:
        return not _needed_again(plan, case, folder)
    return record.whole(folder)


def _needed_again(plan: dict[str, Any], case: dict[str, Any], folder: Path) -> bool:
    """Tell whether a later step has to compute the case anew, and so needs the volumes that were tidied away."""
    results = Path(plan["results"])
    for name in CASE_STEPS[CASE_STEPS.index(plan["step"]) + 1 :]:
        later = read_json(results / "plan" / name / f"{plan['chunk']}.json")
        record = Record.read(folder.parent / name)
        if later is None:
            continue  # a step that the configuration leaves out has no plan
        if record is None:
            return True
        (planned,) = (entry for entry in later["cases"] if entry["case_id"] == case["case_id"])
        params, row = case_params(STEPS[name], later["params"], planned["row"])
        hashes = {key: entry["sha256"] for key, entry in later["resources"].items()}
        now = (params, row, hashes, later["code"], later["versions"])
        if now != (record.params, record.row, record.resources, record.code, record.versions):
            return True
        if later["force"] and record.force != later["force"]:
            return True
        if name not in VOLUME_STEPS and record.status == "ok" and not record.whole(folder.parent / name):
            return True
    return False


def _untidy(folder: Path, step: str) -> None:
    """Let the later steps of a case that is computed anew make their tidied volumes again: something will read them."""
    for name in VOLUME_STEPS[VOLUME_STEPS.index(step) + 1 :]:
        record = Record.read(folder.parent / name)
        if record is not None and record.tidied:
            clear(folder.parent / name)


def _source_inputs(
    case: dict[str, Any], raw: _Raw, old: Record | None
) -> tuple[dict[str, Path], dict[str, str], dict[str, list[Any]]]:
    """Return paths, content hashes and identities of raw sources; one that was not touched is not read for its hash."""
    if set(raw.sources) != set(case["sources"]):
        raise SystemFailure("the cohort sheet has changed since this run was planned: start the run again")
    hashes: dict[str, str] = {}
    sources: dict[str, list[Any]] = {}
    salt = bytes.fromhex(raw.private.get("salt", ""))
    for name, source in raw.sources.items():
        try:
            now = source_identity(source, salt)
            known = old.sources.get(name) if old is not None else None
            digest = str(known[1]) if known is not None and known[0] == now else source_hash(source, salt)
        except OSError as error:
            raise SystemFailure(f"the {name} can't be read: {error.strerror}") from None
        sources[name] = [now, digest]
        # The ending decides how a file is read, so it counts with the content.
        hashes[name] = f"{digest}{suffix(source.name)}" if isinstance(source, Path) else digest
    return {name: source for name, source in raw.sources.items() if isinstance(source, Path)}, hashes, sources


def _upstream_inputs(
    plan: dict[str, Any], case_id: str, results: Path, upstream: dict[str, dict[str, dict[str, Any]]]
) -> tuple[dict[str, Path], dict[str, str]]:
    spec = STEPS[plan["step"]]
    inputs: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    for file in plan["files"]:
        earlier, name = file.split("/", 1)
        made = upstream[earlier][case_id]["outputs"].get(name)
        if made is None:
            if file not in spec.optional:
                raise SystemFailure(f"{file} is missing in the manifest of {earlier}")
            continue
        inputs[file] = results / made["path"]
        hashes[file] = made["sha256"]
    return inputs, hashes


def _altered(inputs: dict[str, Path], upstream: dict[str, dict[str, dict[str, Any]]], case_id: str) -> list[str]:
    """Return the inputs that are no more what the manifests of the steps before say."""
    found = []
    for file, path in inputs.items():
        if "/" in file:
            earlier, name = file.split("/", 1)
            if not as_listed(upstream[earlier][case_id]["outputs"][name], path):
                found.append(file)
    return found


def _judge(record: Record, answer: Answer, limits: dict[str, float]) -> None:
    """Turn the worker's answer into the record's status; raise SystemFailure where the case is not to blame."""
    record.seconds, record.peak_mb = answer.seconds, answer.peak_mb
    if answer.kind == "ok":
        assert answer.result is not None
        record.status, record.facts, record.warnings = "ok", answer.result.facts, answer.result.warnings
    elif answer.kind == "excluded":
        record.reason, record.advice = answer.reason, answer.advice
        record.limits = limits if answer.limited else None
    elif answer.kind == "timeout":
        record.reason = f"took longer than {limits['timeout_s']:g} s"
        record.advice = "Look at the file; if it is sound, raise ingest.timeout_s"
        record.limits = limits
    elif answer.kind == "memory" and "memory_gb" in limits:
        record.reason = f"needs more than {limits['memory_gb']:g} GiB of memory"
        record.advice = "Look at the file's size; if it is sound, raise ingest.memory_gb"
        record.limits = limits
    elif answer.kind == "died" and answer.signal == 0:
        raise SystemFailure("the process ended by itself; the log above says why")
    elif answer.kind == "died" and (
        answer.signal in CRASHES or ("memory_gb" in limits and answer.signal == signal.SIGKILL)
    ):
        record.reason = f"crashed: reading or computing it killed the process twice (signal {answer.signal})"
        record.advice = "The file is probably damaged: write it anew with another program, or leave the case out"
        record.limits = limits or None
    elif answer.kind == "died":
        raise SystemFailure(f"the process was killed from outside (signal {answer.signal}); did the memory run out?")
    else:
        raise SystemFailure(answer.reason)


def _commit(record: Record, folder: Path) -> None:
    """Put a case's new files in place of the old ones, the record last."""
    made = folder / SCRATCH
    if record.status == "ok":
        record.outputs = {path.name: adopt(path, folder / path.name) for path in sorted(made.iterdir())}
    shutil.rmtree(made)
    for path in folder.iterdir():
        if path.name not in record.outputs and path.name != "record.json":
            path.unlink()
    record.write(folder)


def _entry(record: Record | None, case_id: str, place: str) -> dict[str, Any]:
    """Return a case's entry in the manifest: nothing in it tells when or how fast it was made."""
    if record is None:
        return {"case_id": case_id, "status": "skipped", "outputs": {}}
    return {
        "case_id": case_id,
        "status": record.status,
        "key": record.key,
        "reason": record.reason,
        "advice": record.advice,
        "facts": record.facts,
        "warnings": record.warnings,
        "outputs": {
            name: {
                "path": f"{place}/{name}" if place else name,
                "sha256": file.sha256,
                "size": file.size,
                "mtime_ns": file.mtime_ns,
            }
            for name, file in record.outputs.items()
        },
    }


def run_cohort(step: CohortStep, plan: dict[str, Any], workers: int = 1) -> dict[str, Any]:
    """Bring a step that sees the whole cohort up to date with its plan; return the entry of its manifest.

    Its record and scratch folder are at `results/steps/<step>/`, its files anywhere below `results/`.
    """
    results = Path(plan["results"])
    folder = results / "steps" / step.name
    with hold_case(folder):
        check_run(results)
        entries = {name: _merged(results, name, plan["chunks"]) for name in plan["after"] if STEPS[name].by_case}
        inputs, hashes = _cohort_inputs(plan, results)
        cases = _public_rows(plan)
        provenance = _with_warnings(plan, results)
        decides = {
            "step": step.name,
            "inputs": hashes,
            "params": plan["params"],
            "cases": cases,
            "entries": {name: _content(spec_entries, name, plan) for name, spec_entries in entries.items()},
            "provenance": provenance,
            "code": plan["code"],
            "versions": plan["versions"],
        }
        key = sha256_json(decides)
        old = Record.read(folder)
        if (
            old is not None
            and old.key == key
            and (not plan["force"] or old.force == plan["force"])
            and old.whole(results)
        ):
            report_case(results, step.name, "cohort", "ok", computed=False)
            return _entry(old, "cohort", "")
        record = Record(step.name, "cohort", key, "ok", inputs=hashes, params=plan["params"], code=plan["code"])
        record.versions, record.force = plan["versions"], plan["force"]
        out = scratch(folder)
        _check_taken(entries, plan, results)
        ledger = results / f"{step.name}.ledger.jsonl"
        typed = _typed(entries, results)
        cache = cache_path(results, step.name)
        params = plan["params"]
        if plan.get("limits"):
            section = STEPS[step.name].sections[0]
            params = params | {section: params[section] | plan["limits"]}
        code = sha256_json([plan["code"], plan["versions"]])
        task = CohortTask(params, cases, typed, inputs, out, provenance or [], workers, ledger, cache, code)
        start = time.perf_counter()
        result = step.run(task)
        record.seconds = time.perf_counter() - start
        record.facts, record.warnings = result.facts, result.warnings
        check_run(results)
        for path in sorted(p for p in out.rglob("*") if p.is_file()):
            name = path.relative_to(out).as_posix()
            (results / name).parent.mkdir(parents=True, exist_ok=True)
            record.outputs[name] = adopt(path, results / name)
        for name in set(old.outputs if old is not None else {}) - set(record.outputs):
            (results / name).unlink(missing_ok=True)
        shutil.rmtree(out)
        record.write(folder)
        report_case(results, step.name, "cohort", "ok", computed=True)
        return _entry(record, "cohort", "")


def _with_warnings(plan: dict[str, Any], results: Path) -> list[dict[str, Any]] | None:
    """Return the plan's provenance (the report's plan has one) with what cohort-level steps warned of."""
    if plan.get("provenance") is None:
        return None
    told = {
        name: [warning for entry in _merged(results, name, ["cohort"]).values() for warning in entry["warnings"]]
        for name in plan["after"]
        if not STEPS[name].by_case
    }
    return [{**step, "warnings": told.get(step["step"], [])} for step in plan["provenance"]]


def _merged(results: Path, step: str, chunks: list[str]) -> dict[str, dict[str, Any]]:
    merged: dict[str, dict[str, Any]] = {}
    for chunk in chunks:
        merged |= _entries_by_case(results, step, chunk)
    return merged


def _content(entries: dict[str, dict[str, Any]], step: str, plan: dict[str, Any]) -> dict[str, Any]:
    """Return what of a step's entries can decide a cohort-level result: of files only those that it takes."""
    taken = {file.split("/", 1)[1] for file in plan["files"] if file.split("/", 1)[0] == step}
    kept = ("status", "reason", "advice", "facts", "warnings")
    return {
        case_id: {k: entry.get(k) for k in kept}
        | {"files": {n: f["sha256"] for n, f in entry["outputs"].items() if n in taken}}
        for case_id, entry in entries.items()
    }


def _check_taken(entries: dict[str, dict[str, dict[str, Any]]], plan: dict[str, Any], results: Path) -> None:
    """Raise SystemFailure where a file that a step takes of a case is no more what its manifest says."""
    for taken in plan["files"]:
        step, name = taken.split("/", 1)
        for entry in entries.get(step, {}).values():
            file = entry["outputs"].get(name)
            if file is not None and not as_listed(file, results / file["path"]):
                raise SystemFailure(f"{file['path']} was altered or removed after it was made: start the run again")


def _typed(entries: dict[str, dict[str, dict[str, Any]]], results: Path) -> dict[str, dict[str, Entry]]:
    return {
        step: {
            case_id: Entry(
                entry["status"],
                entry.get("reason", ""),
                entry.get("advice", ""),
                entry.get("facts", {}),
                entry.get("warnings", []),
                {name: results / file["path"] for name, file in entry["outputs"].items()},
            )
            for case_id, entry in of_step.items()
        }
        for step, of_step in entries.items()
    }


def _cohort_inputs(plan: dict[str, Any], results: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """Return the user's own tables and all files of the earlier cohort-level steps, with their content hashes."""
    inputs: dict[str, Path] = {}
    hashes: dict[str, str] = {}
    for name, source in plan["sources"].items():
        inputs[name] = Path(source["path"])
        try:
            hashes[name] = sha256_file(inputs[name])
        except OSError as error:
            raise SystemFailure(f"{source['path']} can't be read: {error.strerror}") from None
    for step in plan["after"]:
        if STEPS[step].by_case:
            continue
        made = _entries_by_case(results, step, "cohort")["cohort"]["outputs"]
        wanted = set(plan["files"])
        for name, file in made.items():
            # The report takes all that was made; the others only what they name.
            if plan["step"] == "report" or name in wanted:
                inputs[name] = results / file["path"]
                hashes[name] = file["sha256"]
                if not as_listed(file, inputs[name]):
                    raise SystemFailure(f"{name} was altered or removed after it was made: start the run again")
    return inputs, hashes


def _public_rows(plan: dict[str, Any]) -> list[dict[str, str]]:
    if not plan["cohort"] or "cohort_sha256" not in plan:
        return []
    from radloom.cohort import read_cohort
    from radloom.engine.plans import public_row

    sheet, problems = read_cohort(Path(plan["cohort"]))
    rows = [public_row(row, plan["columns"]) for row in sheet.rows]
    if problems or sha256_json(rows) != plan["cohort_sha256"]:
        raise SystemFailure("the cohort sheet has changed since this run was planned: start the run again")
    return rows
