"""How a training is started: as a step of the workflow, by hand, and in several processes by torchrun."""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from radloom.cohort import NAME, read_sheet
from radloom.config import complete
from radloom.engine.files import read_json, write_json
from radloom.engine.step import CohortResult, CohortTask, Entry
from radloom.errors import CohortError
from radloom.labels import read_names
from radloom.train_segmentation import Exclusion, Trained, TrainingCase, train_segmentation

COLUMNS = ("case_id", "patient_id", "centre", "image", "labels", "names")


def run_step(task: CohortTask, script: Path) -> CohortResult:
    """Train on the cohort of a run; with several processes torchrun starts `script` by hand."""
    settings = task.params["train_segmentation"]
    cases, excluded = cases_of_run(task.cases, task.entries)
    cache = task.cache if task.cache is not None else task.out / "cache"
    if settings["processes"] == 1:
        from radloom.nets.distributed import join_team

        team = join_team(settings["device"])
        made = train_segmentation(cases, excluded, settings, task.out, cache, task.code, task.inputs.get("split"), team)
    else:
        made = _by_torchrun(cases, excluded, task, cache, script)
    return CohortResult(facts=made.facts, warnings=made.warnings)


def cases_of_run(
    rows: list[dict[str, str]], entries: Mapping[str, Mapping[str, Entry]]
) -> tuple[list[TrainingCase], list[Exclusion]]:
    """The cases of a run that have labels, and why the others have none: the first step that excluded them says it."""
    cases, excluded = [], []
    for row in rows:
        case_id = row["case_id"]
        of_steps = [of_step[case_id] for of_step in entries.values() if case_id in of_step]
        bad = next((entry for entry in of_steps if entry.status == "excluded"), None)
        if bad is not None:
            excluded.append(Exclusion(case_id, "", bad.reason, bad.advice))
            continue
        files = entries["postprocess"][case_id].files
        cases.append(
            TrainingCase(
                case_id,
                row.get("patient_id") or case_id,
                row["centre"],
                entries["calibrate"][case_id].files["image.nii.gz"],
                files["roi.nii.gz"],
                read_names(files["labels.json"]),
            )
        )
    return cases, excluded


def train_by_hand(args: argparse.Namespace) -> Trained | None:
    """Train on a table of cases; None in the processes of a team that don't lead."""
    from radloom.nets.distributed import join_team, leave_team

    settings = _settings(args)
    cases = read_cases(args.cases)
    team = join_team(settings["device"])
    try:
        split = args.split or (Path(settings["split"]) if settings["split"] else None)
        cache = args.cache if args.cache is not None else args.out / "cache"
        excluded = [Exclusion(**row) for row in settings.pop("excluded", [])]
        made = train_segmentation(cases, excluded, settings, args.out, cache, args.code, split, team)
    finally:
        leave_team(team)
    if not team.leads:
        return None
    if args.result is not None:
        write_json(args.result, asdict(made))
    return made


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The section of the configuration, or, from the workflow, the section itself as JSON."""
    if args.config is not None and args.config.suffix == ".json":
        found: dict[str, Any] = read_json(args.config)
        return found
    import yaml

    written = yaml.safe_load(args.config.read_text()) if args.config is not None else {}
    section = dict((written or {}).get("train_segmentation") or {})
    if args.name is not None:
        section["name"] = args.name
    settings: dict[str, Any] = complete({"results": str(args.out), "train_segmentation": section})["train_segmentation"]
    if settings["name"] is None:
        raise CohortError("training: give the model a --name, or train_segmentation.name in the configuration")
    return settings


def read_cases(path: Path) -> list[TrainingCase]:
    """The cases of a table by hand. Raises CohortError with all that is wrong; it never tells a path of the table."""
    sheet, problems = read_sheet(path, "the table of cases")
    missing = [column for column in COLUMNS if column not in sheet.columns]
    if not problems and missing:
        problems = [f"the table of cases has no column {', '.join(missing)}"]
    cases: dict[str, TrainingCase] = {}
    for row, line in zip(sheet.rows, sheet.lines, strict=True) if not problems else ():
        where = f"the table of cases, line {line}"
        files = [path.parent / row[column] for column in COLUMNS[3:]]
        if not NAME.fullmatch(row["case_id"]) or not NAME.fullmatch(row["centre"]):
            problems.append(f"{where}: case_id or centre is not made of up to 64 letters, digits, points, _ and -")
        elif row["case_id"] in cases:
            problems.append(f"{where}: the case_id is there twice")
        elif not all(file.is_file() for file in files):
            problems.append(f"{where}: image, labels or names can't be found")
        else:
            try:
                names = read_names(files[2])
            except (ValueError, AttributeError):
                problems.append(f"{where}: names is no JSON of label numbers and names")
                continue
            patient = row["patient_id"] or row["case_id"]
            cases[row["case_id"]] = TrainingCase(row["case_id"], patient, row["centre"], files[0], files[1], names)
    if problems:
        raise CohortError("training: " + "; ".join(problems[:10]))
    return list(cases.values())


def _by_torchrun(
    cases: list[TrainingCase], excluded: list[Exclusion], task: CohortTask, cache: Path, script: Path
) -> Trained:
    """Train in several processes. Raises CohortError where they fail; their own words are in the log above."""
    cache.mkdir(parents=True, exist_ok=True)
    table, section, result = cache / "cases.csv", cache / "settings.json", cache / "result.json"
    with open(table, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for case in cases:
            names = cache / f"names-{case.case_id}.json"
            names.write_text(json.dumps({str(n): name for n, name in case.names.items()}))
            files = [path.resolve() for path in (case.image, case.labels, names)]
            writer.writerow([case.case_id, case.patient_id, case.centre, *files])
    settings = task.params["train_segmentation"]
    write_json(section, {**settings, "excluded": [asdict(exclusion) for exclusion in excluded]})
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(settings["processes"]), str(script), str(table), "--config", str(section), "--out", str(task.out)]
    command += ["--cache", str(cache), "--code", task.code, "--result", str(result)]
    split = task.inputs.get("split")
    done = subprocess.run([*command, *(["--split", str(split)] if split else [])], env=dict(os.environ), check=False)
    made = read_json(result)
    if done.returncode != 0 or made is None:
        raise CohortError("training: its processes ended without a model; the log above says why")
    return Trained(**made)
