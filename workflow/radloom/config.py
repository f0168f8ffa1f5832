"""The configuration: what the user wrote is validated as it is, and only then completed with the defaults."""

from __future__ import annotations

import copy
import difflib
import json
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from radloom.acquisition import NAMED as ACQUISITION
from radloom.acquisition import TEXTS as ACQUISITION_TEXTS
from radloom.analysis_plan import columns_by_key, outcome_columns
from radloom.cohort import (
    NAME,
    REQUIRED,
    ROI_NAME,
    Sheet,
    is_missing,
    read_cohort,
    read_sheet,
    repeated_patients,
    source_path,
    summarise,
)
from radloom.engine.files import sha256_file
from radloom.errors import CohortError, ConfigError
from radloom.extractions import parameter_files
from radloom.patient_split import read_split
from radloom.roi_definitions import Each, family_of, parse_definitions, reached_from
from radloom.source_names import is_volume

LEARNED_FROM = ("harmonize.covariates", "analysis_plan.covariates", "analysis_plan.strata", "analysis_plan.subgroups")
"""Keys of columns that must be known before the outcome."""

SCHEMA = Path(__file__).resolve().parent.parent / "schemas" / "config.schema.yaml"


@cache
def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration."""
    content: dict[str, Any] = yaml.safe_load(SCHEMA.read_text())
    return content


def load_config(path: Path) -> dict[str, Any]:
    """Read, validate and complete a configuration file; raise ConfigError with all that is wrong."""
    return complete(yaml.safe_load(path.read_text()) or {})


def complete(written: dict[str, Any]) -> dict[str, Any]:
    """Validate what the user wrote against the schema, then fill in the defaults; raise ConfigError."""
    problems = schema_problems(_text_keys(written))
    if problems:
        raise ConfigError(problems)
    config: dict[str, Any] = _with_defaults(_text_keys(written), schema())
    params = config["extract"]["params"]
    if isinstance(params, dict) and not config["features"] and config["model"]["extraction"] is None:
        config["model"]["extraction"] = next(iter(params))
    return config


def _text_keys(value: Any) -> Any:
    # YAML reads `1: tumour` with a number as key; in JSON, and so in records and plans, keys are text.
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value


def schema_problems(written: Any) -> list[str]:
    """List everything in a configuration that the schema doesn't allow, unknown keys with the nearest known one."""
    from jsonschema import Draft202012Validator

    problems = []
    errors = sorted(
        Draft202012Validator(schema()).iter_errors(written), key=lambda e: [str(p) for p in e.absolute_path]
    )
    for error in errors:
        where = ".".join(str(part) for part in error.absolute_path)
        if error.validator == "additionalProperties" and "properties" in error.schema:
            known = list(error.schema["properties"])
            for key in sorted(set(error.instance) - set(known)):
                nearest = difflib.get_close_matches(key, known, 1, 0.5)
                hint = f"; did you mean {nearest[0]}?" if nearest else f"; known: {', '.join(sorted(known))}"
                problems.append(f"config: unknown key {f'{where}.{key}' if where else key}{hint}")
        elif error.validator in ("minProperties", "maxProperties") and "properties" in error.schema:
            problems.append(f"config: {where}: it needs exactly one of {', '.join(error.schema['properties'])}")
        elif error.validator == "pattern" and "description" in error.schema:
            problems.append(f"config: {where}: {error.instance!r}: {error.schema['description']}")
        elif error.validator == "required":
            problems.append(f"config: {error.message}" + (f" in {where}" if where else ""))
        elif error.validator in ("oneOf", "anyOf"):
            wanted = str(error.schema.get("description", "see config/README.md")).split(". ")[0]
            problems.append(f"config: {where} is {error.instance!r}: {wanted}")
        else:
            problems.append(f"config: {where or 'the file'}: {error.message}")
    return problems


def _with_defaults(value: Any, rule: dict[str, Any]) -> Any:
    if not isinstance(value, dict):
        return value
    completed = {key: value[key] for key in value}
    for key, sub in rule.get("properties", {}).items():
        if key not in completed and "default" in sub:
            completed[key] = copy.deepcopy(sub["default"])
        # Overrides (postprocess.labels.<roi>) stay as written: what isn't there follows the common settings.
        if key in completed and sub.get("type") == "object" and "properties" in sub:
            completed[key] = _with_defaults(completed[key], sub)
    return completed


def check_run(config: dict[str, Any]) -> Sheet:
    """Check a completed configuration against the files that it names, before anything runs.

    Returns the cohort sheet (empty where the features come from elsewhere). Raises ConfigError with one list of
    everything that is wrong: cases, centres, files, columns, values.
    """
    problems: list[str] = []
    cohort = Sheet([], [], [])
    if config["features"]:
        if not Path(config["features"]).is_file():
            problems.append(f"config: features: the file {config['features']} does not exist")
        if config["cohort"]:
            problems.append(
                "config: cohort and features exclude each other: give the sheet, or features extracted elsewhere"
            )
    elif not config["cohort"]:
        problems.append("config: cohort is missing (or features, for a table that was extracted elsewhere)")
    else:
        cohort, found = read_cohort(Path(config["cohort"]))
        problems += found
        if all(column in cohort.columns for column in REQUIRED):
            problems += _source_problems(cohort, Path(config["cohort"]))
            problems += _centre_problems(config, cohort)
    clinical = Sheet([], [], [])
    if config["clinical"]:
        clinical, found = read_sheet(Path(config["clinical"]), "clinical table")
        problems += found + _clinical_problems(config, clinical)
    problems += _column_problems(config, cohort, clinical)
    problems += _file_problems(config)
    problems += _extraction_problems(config)
    problems += _roi_problems(config, cohort)
    problems += _stability_problems(config, cohort)
    problems += _resampling_problems(config, cohort)
    problems += _phantom_problems(config, cohort)
    problems += _training_problems(config, cohort)
    if problems:
        raise ConfigError(summarise(problems))
    return cohort


def _source_problems(cohort: Sheet, sheet: Path) -> list[str]:
    problems = []
    for row, line in zip(cohort.rows, cohort.lines, strict=True):
        for column in ("image", "mask"):
            cell = row.get(column)
            if not cell:
                continue
            source = source_path(sheet, cell)
            if isinstance(source, str):  # a URL: only the server knows
                continue
            try:
                source.stat()
            except (OSError, ValueError) as error:
                # Of the system's message only its own words: the rest is the path.
                reason = getattr(error, "strerror", None) or "no possible path"
                problems.append(f"cohort sheet, line {line}: {_case(row)}the {column} can't be found: {reason}")
    return problems


def _case(row: dict[str, str]) -> str:
    # An id that is not well formed may be a name that stands there by mistake.
    return f"case {row['case_id']}: " if NAME.fullmatch(row["case_id"]) else ""


def _centre_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    centres = sorted({row["centre"] for row in cohort.rows if "centre" in row})
    return [
        f"config: calibrate.centres: no case of the cohort sheet is of centre {centre}"
        for centre in config["calibrate"]["centres"]
        if centre not in centres
    ]


def _resampling_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    """List what is missing for cropping and for matching the point spread."""
    section, match = config["resample"], config["resample"]["match"]
    problems = []
    if section["crop_mm"] is not None and config["segment"]["source"] != "mask":
        problems.append("config: resample.crop_mm: the segmentation needs whole scans: set it to null")
    if not cohort.columns:
        return problems
    known = (*cohort.columns, *ACQUISITION)  # the latter may be filled by headers
    if match["fwhm_mm"] is not None and match["fwhm_column"] not in cohort.columns:
        if not match["kernels"]:
            problems.append(
                f"config: resample.match: the sheet has no column {match['fwhm_column']}, and there are no kernels"
                + _nearest(match["fwhm_column"], cohort.columns)
            )
        elif match["kernel_column"] not in known:
            problems.append(
                f"config: resample.match.kernel_column: the sheet has no column {match['kernel_column']}"
                + _nearest(match["kernel_column"], cohort.columns)
            )
    thickness = match["thickness_column"]
    if match["thickness_mm"] is not None and thickness is not None and thickness not in known:
        problems.append(
            f"config: resample.match.thickness_column: the sheet has no column {thickness}"
            + _nearest(thickness, cohort.columns)
        )
    return problems


def _phantom_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    """List what is wrong with the table of phantom measurements and with the columns that lead into it."""
    section = config["calibrate"]
    if section["phantom_table"] is None or config["features"]:
        return []
    from radloom.phantom_table import is_day, read_phantom_table  # numpy, which most runs don't need here

    rows, problems = read_phantom_table(Path(section["phantom_table"]))
    if not cohort.columns:
        return problems

    def by_header(row: dict[str, str]) -> bool:
        return is_missing(row.get(section["scanner_column"], "")) and not is_volume(row.get("image", ""))

    wanted = ["scanner_column"] + ["day_column"] * any(row.day is not None for row in rows)
    for key in wanted:
        if key == "scanner_column" and section[key] in ACQUISITION_TEXTS and any(map(by_header, cohort.rows)):
            # Two hospitals' scanners of one model can't be told apart by it.
            if any(row.centre is None for row in rows):
                problems.append(
                    f"phantom table: column missing: centre (calibrate.scanner_column: {section[key]} comes from DICOM "
                    "headers, and other centres may have the like)"
                )
        elif section[key] not in cohort.columns:
            nearest = _nearest(section[key], cohort.columns)
            problems.append(f"config: calibrate.{key}: the sheet has no column {section[key]}{nearest}")
        elif key == "day_column":
            for row, line in zip(cohort.rows, cohort.lines, strict=True):
                if not is_missing(row[section[key]]) and not is_day(row[section[key]]):
                    # Not the value: it may be a date.
                    problems.append(
                        f"cohort sheet, line {line}: {section[key]} is no number of days; write days since a day of "
                        "your choice, not a date"
                    )
    return problems


def _clinical_problems(config: dict[str, Any], clinical: Sheet) -> list[str]:
    if not clinical.columns:
        return []
    keys = [key for key in ("patient_id", "case_id") if key in clinical.columns]
    if not keys:
        return ["clinical table: column missing: patient_id (or case_id)"]
    problems = []
    seen: dict[str, int] = {}
    plan = config["analysis_plan"]
    time = plan["time"]
    for row, line in zip(clinical.rows, clinical.lines, strict=True):
        where = f"clinical table, line {line}"
        patient = row[keys[0]]
        if not patient:
            problems.append(f"{where}: no {keys[0]}")
        elif patient in seen:
            problems.append(f"{where}: duplicate {keys[0]}, first on line {seen[patient]}")
        seen.setdefault(patient, line)
        for column in (plan["event"], plan["competing_event"], plan["outcome"]):
            cell = row.get(column, "") if column else ""
            if not is_missing(cell) and cell not in ("0", "1", "0.0", "1.0"):
                problems.append(f"{where}: {column} is neither 0 nor 1")
        if time and not is_missing(row.get(time, "")):
            try:
                good = 0 < float(row[time]) < float("inf")
            except ValueError:
                good = False
            if not good:
                problems.append(f"{where}: {time} is not a time above 0")
    return problems


def _column_problems(config: dict[str, Any], cohort: Sheet, clinical: Sheet) -> list[str]:
    problems = []
    plan, outcomes = config["analysis_plan"], outcome_columns(config)
    if (plan["time"] is None) != (plan["event"] is None):
        problems.append("config: analysis_plan needs both time and event, or neither")
    if plan["competing_event"] and not plan["event"]:
        problems.append("config: analysis_plan.competing_event: there is no event that it competes with")
    if plan["open_test_set"] and not plan["test_set"]:
        problems.append("config: analysis_plan.open_test_set: there is no test_set")
    wanted = {
        f"{key}: {column}": column
        for key, columns in columns_by_key(config).items()
        for column in columns
        if key != "harmonize.batch"
    }
    for key, column in wanted.items():
        if column in outcomes and key.startswith(LEARNED_FROM):
            problems.append(f"config: {key} is an outcome: as a covariate it would leak into what it should predict")
    named = config["harmonize"]["batch"]
    batches = [named] if isinstance(named, str) else named
    for batch in batches:
        if batch in outcomes:
            problems.append(f"config: harmonize.batch: {batch} is an outcome: harmonising by it would leak it")
        if batch in config["harmonize"]["covariates"]:
            problems.append(
                f"config: harmonize.covariates: {batch} is a batch as well: its effect can't be removed and kept"
            )
    if config["harmonize"]["method"] == "covbat" and config["harmonize"]["mean_only"]:
        problems.append("config: harmonize.mean_only: covbat adjusts variances; set it to false, or method to combat")
    if len(batches) > 1 and config["harmonize"]["reference_batch"] is not None:
        problems.append(
            "config: harmonize.reference_batch: with several batch columns no batch can stay as it is; "
            "set it to null, or name one column"
        )
    columns = [*cohort.columns, *clinical.columns]
    if any(not is_volume(row.get("image", "")) for row in cohort.rows):
        columns += ACQUISITION  # ingest may find these in DICOM headers
    # A feature table made elsewhere may carry columns itself; the tables step looks for them there.
    if not config["features"]:
        if wanted and not config["clinical"] and any(column not in columns for column in wanted.values()):
            problems.append(f"config: clinical is missing, but {', '.join(sorted(wanted))} asks for its columns")
        elif clinical.columns:
            for key, column in wanted.items():
                if column not in columns:
                    problems.append(f"config: {key}: the clinical table has no such column{_nearest(column, columns)}")
    for batch in batches:
        if cohort.columns and batch not in columns:
            problems.append(
                f"config: harmonize.batch: {batch} is no column of the cohort sheet or the clinical table"
                + _nearest(batch, columns)
            )
    return problems


def _label_names(config: dict[str, Any], cohort: Sheet) -> dict[int, list[str]] | None:
    """Return the names that each label number can have (a case's own, without configured labels), None if unknown."""
    segment = config["segment"]
    if segment["source"] == "model":
        try:
            model = _read_models(segment)[0]
            classes = {int(number): [name] for number, name in model["classes"].items()}
            region = model.get("region")  # its label comes after the classes
            return classes | ({len(classes) + 1: [region["label"]]} if region else {})
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
            return None  # said elsewhere, or by the step that loads the model
    if segment["labels"]:
        return {int(number): [name] for number, name in segment["labels"].items()}
    given = {row.get("roi_name") or "ROI" for row in cohort.rows}
    return {1: sorted(name for name in given if ROI_NAME.fullmatch(name))}


def _roi_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    """List ROIs in the settings that no mask, model or definition can give, and definitions that can't be made."""
    labels = None if config["features"] else _label_names(config, cohort)
    if labels is None:
        return []
    extract, roi = config["extract"], config["model"]["roi"]
    labelled = [name for names in labels.values() for name in names]
    problems = [
        f"config: segment.labels: {labelled.count(name)} labels are called {name}: "
        "give each a name of its own, and join them by a `union` of extract.derived_rois"
        for name in dict.fromkeys(labelled)
        if labelled.count(name) > 1
    ]
    derived, found = parse_definitions(extract["derived_rois"], labels)
    problems += [f"config: extract.derived_rois.{problem}" for problem in found]

    named = [
        (f"postprocess.{key}", name, labelled) for key in ("labels", "priority") for name in config["postprocess"][key]
    ]
    wanted: list[str] = []
    if not found:  # else what can be extracted is not certain
        known = [*labelled, *derived]
        for one in map(str, extract["rois"]):
            wanted += labels.get(int(one), [one]) if one.isdigit() else [one]
        named += [("extract.rois", name, known) for name in wanted]
        named += [
            (f"{step}.rois", name, labelled) for step in ("perturb", "voxel_maps") for name in config[step]["rois"]
        ]
        named += [("model.roi", name, known) for name in [roi] if name]
    named += [("quality.rules", name, labelled) for rule in config["quality"]["rules"] for name in rule.get("rois", [])]
    for key, name, there in named:
        made = name in derived or family_of(name, derived)
        if made and there is labelled:
            problems.append(
                f"config: {key}: {name} is a derived ROI, and this step takes those of the segmentation alone"
            )
        elif not made and name not in there:
            nearest = _nearest(name, there) or f"; known: {', '.join(there)}"
            problems.append(f"config: {key}: there is no ROI {name}{nearest}")
    if isinstance(derived.get(roi), Each):
        problems.append(f"config: model.roi: {roi} stands for {roi}_1, {roi}_2, ...: name one of them")
    if wanted:
        reached = reached_from(wanted, derived)
        problems += [
            f"config: extract.derived_rois.{name}: extract.rois names neither it nor what is made of it"
            for name in derived
            if name not in reached
        ]
        family = family_of(roi or "", derived)
        if roi and roi not in wanted and not (family and family[0] in wanted):
            problems.append(f"config: model.roi: extract.rois doesn't name {roi}, so it has no features")
        asked = {"perturb": config["perturb"]["count"] > 0, "voxel_maps": bool(config["voxel_maps"]["features"])}
        problems += [
            f"config: {step}.rois: extract.rois names derived ROIs alone, and this step takes those of the "
            f"segmentation alone: name some of {', '.join(labelled)}"
            for step, on in asked.items()
            if on and not config[step]["rois"] and not set(wanted) & set(labelled)
        ]
    modelled = config["analysis_plan"]["time"] or config["analysis_plan"]["outcome"]
    extracted = list(dict.fromkeys(wanted or [*labelled, *derived]))
    if modelled and not roi and not found and (len(extracted) > 1 or isinstance(derived.get(extracted[0]), Each)):
        problems.append(f"config: model.roi is missing: the models use one ROI, and there are {', '.join(extracted)}")
    return problems


def _stability_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    """List what is missing for the stability of features that the configuration asks for."""
    problems = []
    repeats, found = config["stability"]["repeats"], bool(repeated_patients(cohort.rows))
    if repeats is True and cohort.rows and not found:
        problems.append("config: stability.repeats: no patient of the cohort sheet has two rows with a repeat_id")
    if config["model"]["min_icc"] is None:
        return problems
    perturbed, rois = not config["features"] and config["perturb"]["count"] > 0, config["perturb"]["rois"]
    repeated, roi = repeats is True or (repeats == "auto" and found), config["model"]["roi"]
    if not perturbed and not repeated:
        problems.append(
            "config: model.min_icc needs the stability of the features: set perturb.count, or give repeats of patients "
            "(repeat_id in the cohort sheet; with a feature table made elsewhere also stability.repeats: true)"
        )
    derived = parse_definitions(config["extract"]["derived_rois"])[0]
    if perturbed and not repeated and roi and (roi in derived or family_of(roi, derived)):
        problems.append(
            f"config: model.min_icc: model.roi {roi} is a derived ROI, which isn't perturbed, so that nothing is known "
            "of its stability: take an ROI of the segmentation, or leave min_icc out"
        )
    elif perturbed and rois and roi not in (None, *rois):
        problems.append(f"config: model.min_icc: model.roi {roi} is not among perturb.rois")
    return problems


def _nearest(word: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(word, known, 1, 0.5)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _training_problems(config: dict[str, Any], cohort: Sheet) -> list[str]:
    training = config["train_segmentation"]
    if training["name"] is None or config["features"]:
        return []
    dimensions = training["architecture"]["dimensions"]
    checks = {
        "name: the labels to train on come from masks: set segment.source to mask": config["segment"]["source"]
        != "mask",
        "name: the training reads the volumes: set keep to all": config["keep"] != "all",
        f"spacing: a net of {dimensions} dimensions needs {dimensions} numbers": len(training["spacing"]) != dimensions,
        f"patch: a net of {dimensions} dimensions needs {dimensions} numbers": (
            training["patch"] is not None and len(training["patch"]) != dimensions
        ),
        "hu_window: its first value must be below its second": not training["hu_window"][0] < training["hu_window"][1],
        "normalisation: its standard deviation must be above 0": (
            training["normalisation"] is not None and training["normalisation"][1] <= 0
        ),
        "validation: with test it leaves nobody to train on": training["validation"] + training["test"] >= 1,
        f"split: the file {training['split']} does not exist": (
            training["split"] is not None and not Path(training["split"]).is_file()
        ),
        "robust: it looks at single items: set loss.dice_over to item": (
            training["robust"] != "none" and training["loss"]["dice_over"] != "item" and training["loss"]["dice"] > 0
        ),
        "loss: dice_of present needs cross_entropy or focal, which teach what isn't there": (
            training["loss"]["dice_of"] == "present"
            and not training["loss"]["cross_entropy"] + training["loss"]["focal"]
        ),
        "loss: it is a sum of nothing": not any(training["loss"][k] for k in ("cross_entropy", "dice", "focal")),
        "augmentation.flip: a net of slices has no z": dimensions == 2 and "z" in training["augmentation"]["flip"],
        "architecture: slices is an odd number, and 1 in 3 dimensions": (
            training["architecture"]["slices"] % 2 == 0 or (dimensions == 3 and training["architecture"]["slices"] != 1)
        ),
    }
    problems = [problem for problem, wrong in checks.items() if wrong]
    labels = _label_names(config, cohort) or {}
    known = [name for names in labels.values() for name in names]
    problems += [
        f"{key}: no label is called {name}{_nearest(name, known)}"
        for key, names in (("classes", training["classes"]), ("loss.class_weights", training["loss"]["class_weights"]))
        for name in names
        if name not in known and not (key != "classes" and name == "background")
    ]
    if not problems:
        problems += _split_problems(training["split"], cohort)
    return [f"config: train_segmentation.{problem}" for problem in problems]


def _split_problems(split: str | None, cohort: Sheet) -> list[str]:
    """List what is wrong with the table of parts; patients in it who aren't in the cohort do no harm."""
    if split is None:
        return []
    try:
        part_of = read_split(Path(split))
    except CohortError as error:
        return [f"split: {str(error).removeprefix('training: ')}"]
    patients = {row.get("patient_id") or row["case_id"] for row in cohort.rows}
    if not any(part_of.get(patient) == "train" for patient in patients):
        return ["split: no patient of the cohort sheet is there to train on"]
    return []


def _file_problems(config: dict[str, Any]) -> list[str]:
    problems = []
    segment = config["segment"]
    if segment["source"] == "command" and not config["features"]:
        from radloom.segment_command import command_problems

        problems += command_problems(segment["command"], segment["labels"])
    if segment["source"] == "model" and not config["features"]:
        if not segment["model"]:
            problems.append("config: segment.source is model, but segment.model names no folder")
        else:
            problems += [
                f"config: segment.model: {folder} holds no {name}"
                for folder in _model_folders(segment)
                for name in ("model.json", "model.safetensors")
                if not (folder / name).is_file()
            ]
            models = _read_models(segment)
            problems += _model_problems(segment, models)
            problems += _sampling_problems(segment, models)
    if not config["features"]:
        for params in sorted({Path(path) for path in parameter_files(config["extract"]["params"]).values()}):
            if not params.is_file():
                problems.append(f"config: extract.params: the file {params} does not exist")
            else:
                problems += _params_problems(config, params)
        if config["extract"]["ibsi"] and config["extract"]["engine"] != "radloom":
            problems.append("config: extract.ibsi: needs `engine: radloom`; PyRadiomics can't bin as IBSI does")
        if config["extract"]["outlier_sigma"] is not None and not config["extract"]["ibsi"]:
            problems.append(
                "config: extract.outlier_sigma: needs `ibsi: true`; PyRadiomics has one re-segmentation only"
            )
    return problems


def _model_folders(segment: dict[str, Any]) -> list[Path]:
    """Return the folders of the model, or of the models of an ensemble; none where none is named."""
    named = segment["model"] or {}
    return [Path(named)] if isinstance(named, str) else [Path(folder) for folder in named.values()]


def _read_models(segment: dict[str, Any]) -> list[Any]:
    """Return what the models' descriptions say; nothing where one can't be read, which is said elsewhere."""
    try:
        return [json.loads((folder / "model.json").read_text()) for folder in _model_folders(segment)]
    except (OSError, ValueError):
        return []


def _model_problems(segment: dict[str, Any], models: list[Any]) -> list[str]:
    """List models that are damaged, don't fit each other, or can't be mirrored as is asked for."""
    if not models:
        return []
    try:
        folders = _model_folders(segment)
        stated = [model["weights"]["sha256"] for model in models]
        found = [sha256_file(folder / "model.safetensors") for folder in folders]
        answers = [(list(model["classes"].items()), model["outputs"]) for model in models]
        flat = [folder for folder, m in zip(folders, models, strict=True) if m["architecture"]["dimensions"] == 2]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # said elsewhere, or by the step that loads the model
    problems = [
        f"config: segment.model: {folder}: the sha256 of model.safetensors isn't that of model.json: "
        "copy the folder again from where it came"
        for folder, says, has in zip(folders, stated, found, strict=True)
        if says != has
    ]
    problems += [
        f"config: segment.model: {folder} has other classes or outputs than {folders[0]}, which an ensemble can't mix"
        for folder, answer in zip(folders, answers, strict=True)
        if answer != answers[0]
    ]
    if len(set(found)) < len(found):
        problems.append(
            "config: segment.model: two models have the same weights: "
            "they would agree with each other, and the uncertainty would look too small"
        )
    regions = [folder for folder, model in zip(folders, models, strict=True) if model.get("region")]
    problems += [
        f"config: segment.model: {folder} holds no region/{name}, the model that finds what it looks at"
        for folder in regions
        for name in ("model.json", "model.safetensors")
        if not (folder / "region" / name).is_file()
    ]
    if regions and len(folders) > 1:
        problems.append(f"config: segment.model: {regions[0]} looks at a region and can't be one of an ensemble")
    if "z" in segment["tta"]:
        problems += [f"config: segment.tta: {folder} sees slices, which can't be mirrored along z" for folder in flat]
    return problems


def _sampling_problems(segment: dict[str, Any], models: list[Any]) -> list[str]:
    """List what keeps the models from giving the samples and saliency maps that are asked for."""
    if not models:
        return []
    try:
        dropout = [float(model["architecture"]["dropout"]) for model in models]
        classes = list(models[0]["classes"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # said elsewhere, or by the step that loads the model
    problems = []
    wanted, limits = segment["uncertainty"]["samples"], segment["uncertainty"]
    samples = sum(wanted if share > 0 and wanted > 1 else 1 for share in dropout)
    if wanted and samples < 2:
        has = "has no dropout" if not dropout[0] else "is sampled once"
        problems.append(
            f"config: segment.uncertainty.samples is {wanted}, and the only model {has}, so that there is one sample: "
            "name several models, or one with dropout and samples of 2 or more"
        )
    if not wanted and any(limits[key] is not None for key in ("max_volume_cv", "min_pairwise_dice")):
        problems.append("config: segment.uncertainty: its thresholds need samples of 1 (an ensemble) or more")
    problems += [
        f"config: segment.{key}: the model has no class {name}{_nearest(name, classes)}"
        for key, names in (
            ("uncertainty.rois", segment["uncertainty"]["rois"]),
            ("saliency.classes", segment["saliency"]["classes"]),
        )
        for name in names
        if name not in classes
    ]
    return problems


def _params_problems(config: dict[str, Any], path: Path) -> list[str]:
    from radloom.feature_params import map_features, read_params, validate_params

    found = validate_params(path, config["extract"]["ibsi"])
    if found:
        return [f"{path}: {problem}" for problem in found]
    main = parameter_files(config["extract"]["params"]).get(config["model"]["extraction"] or "")
    if main is None or path != Path(main):  # the optional steps follow the main extraction
        return []
    problems = []
    if config["sensitivity"]["bin_widths"]:
        from radloom.sensitivity import binned_params

        params = read_params(path)
        if "binCount" in params.setting:
            problems.append(
                f"config: sensitivity.bin_widths: {path} sets binCount, which a bin width can't be compared with"
            )
        elif binned_params(params, 1) is None:
            problems.append(
                f"config: sensitivity.bin_widths: nothing in {path} depends on its binWidth: "
                "no feature has bins, or every image type has bins of its own"
            )
    if config["voxel_maps"]["features"]:
        _, wrong = map_features(config["voxel_maps"]["features"], read_params(path))
        problems += [f"config: voxel_maps.features: {problem}" for problem in wrong]
    return problems


def _extraction_problems(config: dict[str, Any]) -> list[str]:
    names = [name for name in parameter_files(config["extract"]["params"]) if name]
    main = config["model"]["extraction"]
    if config["features"] or not names:
        why = "the features come from a table" if config["features"] else "extract.params is one file"
        return [f"config: model.extraction: {why}, so there are no extractions to choose from"] if main else []
    problems = []
    if main not in names:
        problems.append(f"config: model.extraction: extract.params has no {main}{_nearest(main, names)}")
    if len({name.lower() for name in names}) < len(names):
        problems.append("config: extract.params: two names differ in capitals only, as files they would be one")
    return problems
