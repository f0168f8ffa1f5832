"""The chain: what every step reads, which settings and packages decide its result, and after which steps it runs."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from radloom.acquisition import TEXTS as ACQUISITION_TEXTS
from radloom.cohort import HOUNSFIELD
from radloom.engine.files import sha256_file, sha256_json
from radloom.extractions import features_file, parameter_files


@dataclass(frozen=True)
class StepSpec:
    """One step of the chain.

    `files` are what it takes of earlier steps (`<step>/<file>` of a case; of cohort-level steps the path below
    `results`), `optional` those of them that a case may lack. `sections` are the sections of the configuration,
    `columns` the columns of the cohort sheet and `packages` the distributions that decide its
    result. `resources` are configuration keys that name a file or folder, or several by name, whose content decides
    too. `limits` are keys of the section that can exclude a case or cost time, and never change its numbers. `settings`
    are keys of other steps' sections (`section.key`) that a case-level step has to follow, because it does over what
    they do.
    """

    name: str
    by_case: bool
    after: tuple[str, ...]
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


# What computes features (scikit-image and trimesh: the image types LBP2D and LBP3D), and what derives ROIs.
_FEATURES = ("numpy", "scipy", "SimpleITK", "pyradiomics-bhklab", "PyWavelets", "scikit-image", "trimesh")
_DERIVED = ("connected-components-3d", "edt")
_STATISTICS = ("numpy", "pandas", "scipy", "scikit-learn", "scikit-survival", "statsmodels", "neuroCombat")
_IMAGING = ("ingest", "resample", "calibrate", "segment", "postprocess", "extract")
_TABLES = ("tables/features_raw.parquet", "tables/cohort.csv", "tables/clinical.csv")
# What of the section `segment` can only exclude a case: it is applied after the net has run, which need not run again.
_UNCERTAINTY_LIMITS = ("max_volume_cv", "min_pairwise_dice", "rois")
# What a step that computes features follows of the section `extract`.
_AS_EXTRACTED = tuple(f"extract.{key}" for key in ("rois", "min_voxels", "engine", "ibsi", "outlier_sigma"))
# What of the section `segment` is for other sources of labels.
_MODEL_KEYS = ("cpu_precision", "tta", "uncertainty", "saliency")
_COMMAND_KEYS = ("command", "command_version")
# What of the section `calibrate` is for a table of phantom measurements.
_OF_PHANTOM_TABLE = ("scanner_column", "day_column", "phantom_day", "phantom_max_days")
# What of the section `quality` judges the figures: the tables do, for the whole cohort, and no figure changes by it.
_QUALITY_RULES = ("rules",)
_IDLE_IN_SEGMENT = {
    "mask": ("device", *_MODEL_KEYS, *_COMMAND_KEYS),
    "model": ("labels", *_COMMAND_KEYS),
    "command": _MODEL_KEYS,
}
STABILITY = "tables/stability.csv"

STEPS: dict[str, StepSpec] = {
    spec.name: spec
    for spec in (
        StepSpec(
            "ingest",
            by_case=True,
            after=(),
            sections=("ingest",),
            packages=("numpy", "SimpleITK", "pydicom", "pylibjpeg-openjpeg", "pyjpegls"),
            limits=("memory_gb", "timeout_s", "max_unpacked_gb", "dicomweb"),
        ),
        StepSpec(
            "resample",
            by_case=True,
            after=("ingest",),
            files=("ingest/image.nii.gz", "ingest/mask.nii.gz", "ingest/valid.nii.gz", "ingest/acquisition.json"),
            optional=("ingest/mask.nii.gz", "ingest/valid.nii.gz", "ingest/acquisition.json"),
            sections=("resample",),
            packages=("numpy",),
        ),
        StepSpec(
            "calibrate",
            by_case=True,
            after=("ingest", "resample"),
            files=("resample/image.nii.gz", "resample/valid.nii.gz", "ingest/acquisition.json"),
            optional=("resample/valid.nii.gz", "ingest/acquisition.json"),
            sections=("calibrate",),
            columns=(*HOUNSFIELD, "centre"),
            packages=("numpy",),
            resources=("calibrate.phantom_table",),
        ),
        StepSpec(
            "segment",
            by_case=True,
            after=("calibrate", "resample"),
            files=("calibrate/image.nii.gz", "resample/mask.nii.gz"),
            optional=("resample/mask.nii.gz",),
            sections=("segment",),
            columns=("roi_name",),
            packages=("numpy", "torch"),
            resources=("segment.model",),
            # The batch never decides a label on a CPU, and on CUDA no more than the card does (docs/segmentation.md).
            limits=("batch", "cases_at_once", "command_timeout_s"),
        ),
        StepSpec(
            "postprocess",
            by_case=True,
            after=("calibrate", "segment"),
            files=(
                "segment/labels.nii.gz",
                "segment/labels.json",
                "calibrate/image.nii.gz",
                "segment/uncertainty.json",
            ),
            sections=("postprocess",),
            packages=("numpy", "scipy", "connected-components-3d", "edt"),
        ),
        StepSpec(
            "quality",
            by_case=True,
            after=("ingest", "resample", "calibrate", "postprocess"),
            files=(
                "ingest/image.nii.gz",
                "ingest/valid.nii.gz",
                "resample/valid.nii.gz",
                "calibrate/image.nii.gz",
                "calibrate/calibration.json",
                "postprocess/roi.nii.gz",
                "postprocess/labels.json",
            ),
            optional=("ingest/valid.nii.gz", "resample/valid.nii.gz"),
            sections=("quality",),
            settings=("extract.rois",),
            packages=("numpy", "connected-components-3d"),
        ),
        StepSpec(
            "train_segmentation",
            by_case=False,
            after=("ingest", "resample", "calibrate", "segment", "postprocess"),
            files=("calibrate/image.nii.gz", "postprocess/roi.nii.gz", "postprocess/labels.json"),
            sections=("train_segmentation",),
            packages=("numpy", "scipy", "torch", "safetensors", "pillow", "matplotlib"),
            limits=("workers",),
        ),
        StepSpec(
            "extract",
            by_case=True,
            after=("calibrate", "postprocess"),
            files=("calibrate/image.nii.gz", "postprocess/roi.nii.gz", "postprocess/labels.json"),
            sections=("extract",),
            packages=(*_FEATURES, *_DERIVED),
            resources=("extract.params",),
        ),
        StepSpec(
            "perturb",
            by_case=True,
            after=("ingest", "resample", "calibrate", "postprocess"),
            files=(
                "ingest/image.nii.gz",
                "resample/sampling.json",
                "calibrate/calibration.json",
                "postprocess/roi.nii.gz",
                "postprocess/labels.json",
            ),
            sections=("perturb",),
            settings=("calibrate.round_hu", *_AS_EXTRACTED),
            packages=(*_FEATURES, *_DERIVED),
            resources=("extract.params",),
        ),
        StepSpec(
            "overlay",
            by_case=True,
            after=("calibrate", "postprocess"),
            files=("calibrate/image.nii.gz", "postprocess/roi.nii.gz", "postprocess/labels.json"),
            sections=("overlay",),
            packages=("numpy", "pillow"),
        ),
        StepSpec(
            "sensitivity",
            by_case=True,
            after=("ingest", "resample", "calibrate", "postprocess", "extract"),
            files=(
                "ingest/image.nii.gz",
                "resample/sampling.json",
                "calibrate/calibration.json",
                "calibrate/image.nii.gz",
                "postprocess/roi.nii.gz",
                "postprocess/labels.json",
                "extract/features.csv",
            ),
            sections=("sensitivity",),
            settings=("resample.spacing", "calibrate.round_hu", "extract.derived_rois", *_AS_EXTRACTED),
            packages=(*_FEATURES, *_DERIVED),
            resources=("extract.params",),
        ),
        StepSpec(
            "voxel_maps",
            by_case=True,
            after=("calibrate", "postprocess"),
            files=("calibrate/image.nii.gz", "postprocess/roi.nii.gz", "postprocess/labels.json"),
            sections=("voxel_maps",),
            settings=("overlay.window", "extract.rois"),
            packages=(*_FEATURES, "pillow"),
            resources=("extract.params",),
        ),
        StepSpec(
            "tables",
            by_case=False,
            after=(*_IMAGING, "quality"),
            files=("extract/features.csv",),  # of each extraction, see `step_files`
            sections=("tables", "quality", "run", "harmonize", "model", "analysis_plan"),
            packages=("numpy", "pandas", "pyarrow"),
        ),
        StepSpec(
            "stability",
            by_case=False,
            after=("tables", "perturb"),
            files=("tables/features_raw.parquet", "tables/cohort.csv", "perturb/features.csv"),
            packages=("numpy", "pandas", "scipy"),
        ),
        StepSpec(
            "harmonize",
            by_case=False,
            after=("tables",),
            files=_TABLES,
            sections=("harmonize", "analysis_plan", "rois"),
            packages=_STATISTICS,
        ),
        StepSpec(
            "model_cox",
            by_case=False,
            after=("tables", "stability"),
            files=(*_TABLES, STABILITY),
            sections=("model_cox", "model", "harmonize", "analysis_plan"),
            packages=_STATISTICS,
        ),
        StepSpec(
            "model_logistic",
            by_case=False,
            after=("tables", "stability"),
            files=(*_TABLES, STABILITY),
            sections=("model_logistic", "model", "harmonize", "analysis_plan"),
            packages=_STATISTICS,
        ),
        StepSpec(
            "sensitivity_table",
            by_case=False,
            after=("sensitivity", "tables"),
            files=("sensitivity/features.csv", "tables/cohort.csv"),
            packages=("numpy", "scipy"),
        ),
        StepSpec(
            "report",
            by_case=False,
            after=(
                *(*_IMAGING, "train_segmentation", "overlay", "voxel_maps", "tables", "stability", "harmonize"),
                *("model_cox", "model_logistic", "sensitivity_table"),
            ),
            files=("overlay/overlay.png", "voxel_maps/voxel_maps.png"),
            sections=("report", "quality", "harmonize", "model", "model_cox", "model_logistic", "analysis_plan"),
            packages=("numpy", "pandas", "scipy", "scikit-survival", "matplotlib", "jinja2"),
        ),
    )
}

CASE_STEPS = tuple(name for name, spec in STEPS.items() if spec.by_case)
COHORT_STEPS = tuple(name for name, spec in STEPS.items() if not spec.by_case)
# Steps whose files are volumes that nobody reads once the features and the picture are there.
VOLUME_STEPS = ("ingest", "resample", "calibrate", "segment")
# The steps after which nothing needs them any more.
VOLUME_READERS = ("quality", "extract", "perturb", "overlay", "sensitivity", "voxel_maps")


def active_steps(config: dict[str, Any]) -> list[str]:
    """Return the steps that a configuration asks for, in the chain's order."""
    steps = list(COHORT_STEPS) if config["features"] else list(STEPS)
    off = set()
    if config["analysis_plan"]["time"] is None:
        off.add("model_cox")
    if config["analysis_plan"]["outcome"] is None:
        off.add("model_logistic")
    if config["features"] or not (config["sensitivity"]["bin_widths"] or config["sensitivity"]["spacings"]):
        off |= {"sensitivity", "sensitivity_table"}
    if config["features"] or config["train_segmentation"]["name"] is None:
        off.add("train_segmentation")
    if not config["voxel_maps"]["features"]:
        off.add("voxel_maps")
    perturbed = not config["features"] and config["perturb"]["count"] > 0
    if not perturbed:
        off.add("perturb")
    if not perturbed and config["stability"]["repeats"] is not True:
        off.add("stability")
    return [step for step in steps if step not in off]


def step_files(spec: StepSpec, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the files of earlier steps that a step takes under this configuration."""
    if spec.name == "segment":
        # A net doesn't look at the mask, nor does a program, and a mask is taken whatever the image.
        return (spec.files[1],) if config["segment"]["source"] == "mask" else (spec.files[0],)
    if spec.name == "resample":
        match = config["resample"]["match"]
        asked = match["fwhm_mm"] is not None or match["thickness_mm"] is not None
        return spec.files if asked else spec.files[:-1]
    if spec.name == "calibrate":
        section = config["calibrate"]
        asked = section["phantom_table"] is not None and section["scanner_column"] in ACQUISITION_TEXTS
        return spec.files if asked else spec.files[:-1]
    if spec.name == "postprocess":
        # The image tells where the body is, and nothing else.
        section = config["postprocess"]
        cut = section["inside_body"] or any(own.get("inside_body") for own in section["labels"].values())
        idle = set() if cut else {"calibrate/image.nii.gz"}
        idle |= set() if _uncertainty_limits(config) else {"segment/uncertainty.json"}
        return tuple(file for file in spec.files if file not in idle)
    if spec.name in ("model_cox", "model_logistic") and config["model"]["min_icc"] is None:
        return tuple(file for file in spec.files if file != STABILITY)
    if spec.name == "tables":
        return tuple(f"extract/{features_file(name)}" for name in parameter_files(config["extract"]["params"]))
    if spec.name == "sensitivity":
        main = f"extract/{features_file(config['model']['extraction'] or '')}"
        return tuple(main if file == "extract/features.csv" else file for file in spec.files)
    return spec.files


def step_params(spec: StepSpec, config: dict[str, Any]) -> dict[str, Any]:
    """Return what of the configuration decides a step's result.

    A case-level step has one section and gets what of it counts: not the limits, and not where a model or parameter
    file lies, whose content counts by itself; and, as `section.key`, the settings of other steps that it follows. A
    cohort-level step gets its sections by name.
    """
    if spec.by_case:
        idle = {key.split(".")[1] for key in spec.resources} | set(spec.limits)
        if spec.name == "segment":
            idle |= {*_IDLE_IN_SEGMENT[config["segment"]["source"]]}
        if spec.name == "quality":
            idle |= {*_QUALITY_RULES}
        if spec.name == "calibrate" and config["calibrate"]["phantom_table"] is None:
            idle |= {*_OF_PHANTOM_TABLE}
        own = {key: value for key, value in config[spec.sections[0]].items() if key not in idle}
        if "uncertainty" in own:
            asked = own["uncertainty"].items()
            own["uncertainty"] = {key: value for key, value in asked if key not in _UNCERTAINTY_LIMITS}
        if spec.name == "postprocess" and (limits := _uncertainty_limits(config)):
            own["segment.uncertainty"] = limits
        return own | {name: config[name.split(".")[0]][name.split(".")[1]] for name in spec.settings}
    general = {
        "run": {
            "max_excluded_fraction": config["max_excluded_fraction"],
            "extractions": [] if config["features"] else [n for n in parameter_files(config["extract"]["params"]) if n],
        },
        "rois": {"derived": [] if config["features"] else list(config["extract"]["derived_rois"])},
    }
    params = {section: general[section] if section in general else config[section] for section in spec.sections}
    if spec.limits:
        own = params[spec.sections[0]]
        params[spec.sections[0]] = {key: value for key, value in own.items() if key not in spec.limits}
    return params


def _uncertainty_limits(config: dict[str, Any]) -> dict[str, Any]:
    """Return the thresholds of uncertainty beyond which a case is excluded; empty where there are none."""
    section = config["segment"]["uncertainty"]
    sampled = config["segment"]["source"] == "model" and section["samples"] > 0
    limited = section["max_volume_cv"] is not None or section["min_pairwise_dice"] is not None
    return {key: section[key] for key in _UNCERTAINTY_LIMITS} if sampled and limited else {}


def case_params(spec: StepSpec, params: dict[str, Any], row: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings and the sheet's cells that decide one case, so that another case's don't.

    The table of centres becomes the entry of the case's own centre, and not even that where the sheet has the case's
    own values: a case that moves to another centre computes again only if its HU change, or where a table of phantoms
    may tell scanners apart by centre.
    """
    if spec.name != "calibrate":
        return params, row
    own = {key: row[key] for key in HOUNSFIELD if row.get(key)}
    entry = {} if own else params["centres"].get(row.get("centre", ""), {})
    with_table = "scanner_column" in params
    rest = own or {key: value for key, value in row.items() if key != "centre" or with_table}
    return {**{key: value for key, value in params.items() if key != "centres"}, "centre": entry}, rest


def step_columns(spec: StepSpec, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the columns of the cohort sheet that decide a step's result, those that the configuration names too."""
    named: list[str] = []
    if spec.name == "calibrate" and config["calibrate"]["phantom_table"]:
        named = [config["calibrate"][key] for key in ("scanner_column", "day_column")]
    if spec.name == "resample":
        match = config["resample"]["match"]
        if match["fwhm_mm"] is not None:
            named += [match["fwhm_column"], match["kernel_column"]]
        if match["thickness_mm"] is not None and match["thickness_column"] is not None:
            named.append(match["thickness_column"])
    return (*spec.columns, *named)


def resource_hash(path: Path) -> str:
    """Return the hash of a model folder or parameter file; a YAML file counts by what it says, without its comments.

    A model's folder counts with the folders in it: there is the model that finds its region.
    """
    if path.is_dir():
        files = (p for p in sorted(path.rglob("*")) if p.is_file())
        return sha256_json({p.relative_to(path).as_posix(): sha256_file(p) for p in files})
    if path.suffix in (".yaml", ".yml"):
        import yaml

        return sha256_json(yaml.safe_load(path.read_text()))
    return sha256_file(path)


@cache
def package_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of Python and of the distributions named, "absent" where one is not installed."""
    # Imported late: it is a third of what a job with nothing to do costs, and only the run's process needs it.
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def segmentation_minutes(config: dict[str, Any]) -> float:
    """Return the minutes that segmenting one case may take."""
    segment = config["segment"]
    return float(segment["command_timeout_s"]) / 60 if segment["source"] == "command" else 10.0


def uses_gpu(config: dict[str, Any]) -> int:
    """Return the GPUs that a segmentation job asks for: 1 where a net or an outside segmenter will run on one."""
    segment = config["segment"]
    return int(segment["source"] != "mask" and _takes_gpu(segment["device"]))


def cases_at_once(step: str, plan: dict[str, Any]) -> int:
    """Return how many cases a job has at work at once: several where a card would wait for reading and writing.

    Each has a process of its own, and they share the job's card; on a CPU nothing would be gained.
    """
    params = plan["params"]
    on_card = step == "segment" and params["source"] == "model" and _takes_gpu(params["device"])
    return int(plan["limits"]["cases_at_once"]) if on_card else 1


def segmentation_mb(config: dict[str, Any]) -> int:
    """Return the memory in MB that a segmentation job may take: that of a case for each that is at work at once.

    Samples for the uncertainty go through the net side by side; of each a row of windows and a slab of classes is held.
    """
    segment = config["segment"]
    if segment["source"] != "model":
        return 8000
    members = len(segment["model"]) if isinstance(segment["model"], dict) else 1
    samples = members * int(segment["uncertainty"]["samples"])
    case = 8000 + 1500 * max(0, samples - 1)
    return case * (int(segment["cases_at_once"]) if _takes_gpu(segment["device"]) else 1)


def trains_on_gpus(config: dict[str, Any]) -> int:
    """Return the GPUs that the training asks the scheduler for: one a process where it runs on them."""
    training = config["train_segmentation"]
    return training["processes"] if _takes_gpu(training["device"]) else 0


def training_threads(config: dict[str, Any]) -> int:
    """Return the cores that the training takes: those of its nets, and of the processes that make its batches."""
    training = config["train_segmentation"]
    return int(training["processes"] * (training["threads"] + training["workers"]))


def _takes_gpu(device: str) -> bool:
    return device == "cuda" or (device == "auto" and os.path.exists("/proc/driver/nvidia/version"))
