"""Training of a segmentation net on a cohort: which cases, in which part, with which labels, and what came of it.

Labels of different cases are matched by the names of their ROIs, never by their numbers.
"""

from __future__ import annotations

import csv
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.engine.files import sha256_file, sha256_json
from radloom.errors import CaseError, CohortError
from radloom.images import Volume, read_nifti, reorient, same_grid
from radloom.patient_split import draw_split, read_split, write_split

if TYPE_CHECKING:
    from radloom.nets.dataset import CachedCase, Preparation
    from radloom.nets.distributed import Team
    from radloom.nets.fit import Fit
    from radloom.nets.folder import ModelDescription

GRID_TOLERANCE_MM = 1e-3
LARGEST_PATCH = 128
"""Voxels along an axis of a patch of 3 dimensions, where the configuration names none."""
NO_MATTER = ("workers", "name", "licence", "surface_tolerance_mm", "overlays")
"""Settings that change no weight: they describe and judge the net that was trained."""
OVERLAY_WINDOW = (-160.0, 240.0)


@dataclass(frozen=True)
class TrainingCase:
    """A case with labels, on files of one grid."""

    case_id: str
    patient_id: str
    centre: str
    image: Path
    labels: Path
    names: dict[int, str]
    """ROI names of the label numbers."""


@dataclass(frozen=True)
class Exclusion:
    """Why a case, or one of its labels (`roi`), isn't trained on, and what can be done about it."""

    case_id: str
    roi: str
    reason: str
    advice: str


@dataclass(frozen=True)
class Trained:
    """What a training has to say beside its files."""

    facts: dict[str, Any]
    warnings: list[str]


def train_segmentation(
    cases: Sequence[TrainingCase],
    excluded: Iterable[Exclusion],
    settings: Mapping[str, Any],
    out: Path,
    cache: Path,
    code: str = "",
    split_file: Path | None = None,
    team: Team | None = None,
    say: Callable[[str], None] = print,
) -> Trained:
    """Train a net by the section `train_segmentation` of a configuration, and write `models/NAME` and `training`.

    `cache` takes the cases on the net's grid, and the checkpoints of this training, which is told from others by its
    settings, its cases' contents and `code`; those of other trainings are removed. In a team of processes the first one
    writes. Raises CohortError where this can't be trained.
    """
    import torch

    from radloom.nets.architecture import build_net
    from radloom.nets.calibration import draw_reliability
    from radloom.nets.dataset import Sampling
    from radloom.nets.determinism import be_deterministic
    from radloom.nets.distributed import Team, wait
    from radloom.nets.fit import fit
    from radloom.nets.folder import save_model
    from radloom.nets.history import draw_history, write_history
    from radloom.nets.priors import class_shares, start_at_prior
    from radloom.nets.validation import calibrate_net

    team = team or Team()
    classes, cases, found = choose_cases(cases, settings["classes"])
    exclusions = [*excluded, *found]
    split, cases, found = split_cases(cases, settings, split_file)
    exclusions += found
    prints = {case.case_id: [sha256_file(case.image), sha256_file(case.labels)] for case in cases}
    cached, found = cache_cases(cases, prints, classes, settings, cache / "cases", team)
    exclusions += found
    patch, found = choose_patch(cached, settings)
    exclusions += found
    small = {exclusion.case_id for exclusion in found}
    cases = [case for case in cases if case.case_id not in small]
    cached = [case for case in cached if case.case_id not in small]
    part_of = {case.case_id: split[case.patient_id] for case in cases}
    learned = [case for case in cached if part_of[case.case_id] == "train"]
    judged = [case for case in cached if part_of[case.case_id] == "validation"]
    _check_training(learned, classes)

    description, preparation, loss, fitted = _described(settings, classes, patch)
    be_deterministic(settings["deterministic"], settings["threads"])
    torch.manual_seed(settings["seed"])
    net = build_net(description.architecture, description.channels_out)
    if description.outputs == "sigmoid":
        start_at_prior(net, class_shares(learned))
    identity = training_identity(settings, classes, cases, part_of, prints)
    place = cache / "checkpoints" / sha256_json([identity, list(patch), code, team.world, torch.__version__])[:16]
    if team.leads and place.parent.is_dir():
        for other in place.parent.iterdir():
            if other != place:
                shutil.rmtree(other)
    wait(team)
    made = fit(
        net,
        learned,
        preparation,
        Sampling(preparation.patch, settings["samples"], settings["foreground"]),
        loss,
        fitted,
        partial(_validate, cases=judged, description=description, team=team) if judged else None,
        place,
        team,
        lambda row: say(_epoch_line(row, settings["epochs"])),
    )
    lost = len({exclusion.case_id for exclusion in exclusions if not exclusion.roi})
    warnings = [f"{lost} cases were left out of the training, see training/exclusions.csv"] if lost else []
    facts = {
        "model": settings["name"],
        "classes": list(classes.values()),
        "cases": dict(sorted(Counter(part_of.values()).items())),
        "epochs": len(made.history),
        "best_epoch": made.best_epoch,
    }
    if not team.leads:
        return Trained(facts, [])
    folder = out / "models" / settings["name"]
    training = out / "training"
    training.mkdir(parents=True, exist_ok=True)
    description = replace(description, training=_told(settings, cases, part_of, prints, made))
    if judged:
        calibration = calibrate_net(net, judged, description, team.device, settings["seed"])
        description = replace(description, temperature=calibration.temperature)
        _write_rows(training / "calibration.csv", calibration.rows(), list(calibration.rows()[0]))
        draw_reliability(calibration, training / "reliability.png")
        if calibration.reason:
            warnings.append(f"no temperature was fitted: {calibration.reason}")
    save_model(folder, net, description)
    rows = judge_cases(
        [c for c in cases if part_of[c.case_id] != "train"], part_of, folder, classes, settings, training
    )
    description = replace(description, dice=_mean_dice(rows, classes))
    save_model(folder, net, description)
    centres = {case.patient_id: case.centre for case in cases}
    write_split(training / "split.csv", {patient: split[patient] for patient in centres}, centres)
    write_history(training / "history.csv", made.history)
    draw_history(training / "history.png", made.history, made.best_epoch)
    _write_rows(training / "exclusions.csv", [asdict(e) for e in exclusions], ["case_id", "roi", "reason", "advice"])
    _write_rows(training / "validation_metrics.csv", rows, METRICS)
    _write_rows(training / "dice_by_centre.csv", dice_by_centre(rows), BY_CENTRE)
    facts["dice"] = description.dice
    if not judged:
        warnings.append("nobody was left for validation: the last epoch was taken, and nothing says how well it does")
    elif not math.isfinite(made.best_dice):
        warnings.append("no case for validation has any of the classes: the last epoch was taken")
    false = sum(row["status"] == "false_positive" for row in rows)
    if false:
        warnings.append(f"{false} times a class was found in a case that has none of it, see validation_metrics.csv")
    return Trained(facts, warnings)


def training_identity(
    settings: Mapping[str, Any],
    classes: Mapping[int, str],
    cases: Sequence[TrainingCase],
    part_of: Mapping[str, str],
    prints: Mapping[str, list[str]],
) -> str:
    """A hash of what decides the weights, whatever describes and judges the net: settings, classes and cases."""
    decides = {name: value for name, value in settings.items() if name not in NO_MATTER}
    learned = [
        [case.case_id, case.centre, part_of[case.case_id], prints[case.case_id], sorted(case.names.items())]
        for case in cases
    ]
    return sha256_json([decides, list(classes.values()), learned])


def choose_cases(
    cases: Sequence[TrainingCase], wanted: Sequence[str]
) -> tuple[dict[int, str], list[TrainingCase], list[Exclusion]]:
    """The classes by number from 1 on, the cases whose labels name all of them, and what is left out.

    Without `wanted` names the classes are all that some case names, by the lowest of their numbers. A case that names
    only some of the classes is left out: where the others are isn't known, and training would take them for background.
    """
    if not cases:
        raise CohortError("training: no case has labels; give the cohort masks")
    first: dict[str, int] = {}
    for case in cases:
        for number, name in case.names.items():
            first[name] = min(number, first.get(name, number))
    names = list(wanted) or sorted(first, key=lambda name: (first[name], name))
    unknown = [name for name in names if name not in first]
    if unknown:
        raise CohortError(
            f"training: no case has the labels {', '.join(unknown)}; known are {', '.join(sorted(first))}"
        )
    if len(names) > 255:
        raise CohortError(f"training: {len(names)} classes are more than the 255 that a label volume holds")
    kept, exclusions = [], []
    for case in cases:
        missing = [name for name in names if name not in case.names.values()]
        if missing:
            exclusions.append(
                Exclusion(
                    case.case_id,
                    "",
                    f"its labels don't name {', '.join(missing)}, which would count as background",
                    "Complete its mask, or name fewer train_segmentation.classes",
                )
            )
            continue
        kept.append(case)
        for name in sorted(set(case.names.values()) - set(names)):
            exclusions.append(
                Exclusion(
                    case.case_id, name, "is none of the classes: background", "Name it in train_segmentation.classes"
                )
            )
    if not kept:
        raise CohortError(
            f"training: no case has labels of all the classes {', '.join(names)}; name fewer of them in "
            "train_segmentation.classes"
        )
    return dict(enumerate(names, start=1)), kept, exclusions


def split_cases(
    cases: Sequence[TrainingCase], settings: Mapping[str, Any], split_file: Path | None
) -> tuple[dict[str, str], list[TrainingCase], list[Exclusion]]:
    """The part of each patient, from the file or drawn, and the cases that have one. A patient is of one centre."""
    centres: dict[str, str] = {}
    for case in cases:
        centres[case.patient_id] = min(case.centre, centres.get(case.patient_id, case.centre))
    if split_file is None:
        return draw_split(centres, settings["validation"], settings["test"], settings["seed"]), list(cases), []
    split = read_split(split_file)
    kept = [case for case in cases if case.patient_id in split]
    exclusions = [
        Exclusion(case.case_id, "", "its patient is not in the split's file", "Add the patient to it")
        for case in cases
        if case.patient_id not in split
    ]
    if not any(split[case.patient_id] == "train" for case in kept):
        raise CohortError("training: none of the patients in the split's file to train on has a case with labels")
    return split, kept, exclusions


def cache_cases(
    cases: Sequence[TrainingCase],
    prints: Mapping[str, list[str]],
    classes: Mapping[int, str],
    settings: Mapping[str, Any],
    folder: Path,
    team: Team,
) -> tuple[list[CachedCase], list[Exclusion]]:
    """The cases on the net's grid, each made by one process of the team, and which classes they have no voxel of.

    Cases of the cache that aren't among these are removed.
    """
    from radloom.nets.dataset import cache_case
    from radloom.nets.distributed import wait

    def cached(case: TrainingCase) -> CachedCase:
        key = sha256_json(
            [
                prints[case.case_id],
                {str(n): name for n, name in case.names.items()},
                dict(enumerate(classes.values())),
                settings["spacing"],
            ]
        )
        return cache_case(
            folder / case.case_id,
            key,
            case.case_id,
            case.centre,
            settings["spacing"],
            len(classes),
            lambda: read_case(case, classes),
        )

    for case in cases[team.rank :: team.world]:
        cached(case)
    wait(team)
    if team.leads:
        for other in folder.iterdir():
            if other.name not in prints:
                shutil.rmtree(other)
    found = [cached(case) for case in cases]
    exclusions = [
        Exclusion(
            case.case_id, classes[number], "empty: no voxel of it on the net's grid", "Nothing, where it has none"
        )
        for case in found
        for number in (np.flatnonzero(case.counts.sum(axis=0)[1:] == 0) + 1).tolist()
    ]
    return found, exclusions


def read_case(
    case: TrainingCase, classes: Mapping[int, str]
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Image (z, y, x; HU), labels (uint8, numbers of `classes`) and spacing (x, y, z; mm) of a case, in LPS."""
    image, labels = read_nifti(case.image), read_nifti(case.labels)
    if not same_grid(image.geometry, labels.geometry, GRID_TOLERANCE_MM):
        raise CohortError(f"training: image and labels of case {case.case_id} don't lie on one grid")
    if labels.array.dtype.kind not in "ui" or labels.array.min(initial=0) < 0:
        raise CohortError(f"training: the labels of case {case.case_id} are no whole numbers from 0 on")
    image, labels = reorient(image), reorient(labels)
    return image.array, renumber(labels.array, case.names, classes), image.geometry.spacing


def renumber(labels: np.ndarray, names: Mapping[int, str], classes: Mapping[int, str]) -> np.ndarray:
    """Labels (z, y, x) of a case, whose numbers have `names`, with the numbers of `classes`; others are background."""
    number_of = {name: number for number, name in classes.items()}
    table = np.zeros(int(max(labels.max(initial=0), max(names))) + 1, np.uint8)
    for number, name in names.items():
        table[number] = number_of.get(name, 0)
    return table[labels]


def choose_patch(cases: Sequence[CachedCase], settings: Mapping[str, Any]) -> tuple[tuple[int, ...], list[Exclusion]]:
    """The patch ([z,] y, x) of the training, a multiple of what the net needs, and the cases that are too small for it.

    Too small is a case that doesn't fill half of the patch along an axis: most of what the net saw would be padding.
    """
    from radloom.nets.architecture import net_to_train, read_architecture

    try:
        architecture = read_architecture(settings["architecture"])
        steps = net_to_train(architecture, 2).multiple
    except ValueError as error:
        raise CohortError(f"training: {error}") from None
    if settings["patch"] is None:
        largest = np.max([case.shape[-architecture.dimensions :] for case in cases], axis=0).tolist()
        wanted = [min(n, LARGEST_PATCH) for n in largest] if architecture.dimensions == 3 else largest
        return tuple(-(-n // step) * step for n, step in zip(wanted, steps, strict=True)), []
    patch = tuple(settings["patch"])
    if any(n % step for n, step in zip(patch, steps, strict=True)):
        raise CohortError(f"training: the patch {list(patch)} is no multiple of {list(steps)}, which this net needs")
    exclusions = [
        Exclusion(
            case.case_id,
            "",
            f"its {' x '.join(map(str, case.shape))} voxels on the net's grid don't fill half of a patch of "
            f"{' x '.join(map(str, patch))}",
            "Set a smaller train_segmentation.patch or spacing",
        )
        for case in cases
        if any(2 * n < p for n, p in zip(case.shape[-len(patch) :], patch, strict=True))
    ]
    return patch, exclusions


def _check_training(learned: Sequence[CachedCase], classes: Mapping[int, str]) -> None:
    if not learned:
        raise CohortError("training: no case is left to train on; exclusions are named above each step's cases")
    voxels = np.sum([case.counts.sum(axis=0) for case in learned], axis=0)
    absent = [name for number, name in classes.items() if not voxels[number]]
    if absent:
        raise CohortError(
            f"training: none of the {len(learned)} cases to train on has a voxel of {', '.join(absent)}; change seed "
            "or split of train_segmentation, or leave it out of its classes"
        )


def _described(
    settings: Mapping[str, Any], classes: Mapping[int, str], patch: tuple[int, ...]
) -> tuple[ModelDescription, Preparation, Any, Any]:
    """What the configuration says, as the net's modules take it. Raises CohortError for what can't be."""
    from radloom.nets.architecture import read_architecture
    from radloom.nets.augment import Augmentation
    from radloom.nets.dataset import Preparation
    from radloom.nets.fit import FitSettings
    from radloom.nets.folder import ModelDescription
    from radloom.nets.losses import SegmentationLoss

    try:
        architecture = read_architecture(settings["architecture"])
        window = (float(settings["hu_window"][0]), float(settings["hu_window"][1]))
        scores = settings["normalisation"]
        normalisation = None if scores is None else (float(scores[0]), float(scores[1]))
        description = ModelDescription(
            name=settings["name"],
            classes=dict(classes),
            spacing=tuple(float(s) for s in settings["spacing"]),
            hu_window=window,
            architecture=architecture,
            outputs=settings["outputs"],
            normalisation=normalisation,
            patch=patch if settings["patch"] is not None or architecture.dimensions == 3 else (),
            overlap=settings["overlap"],
            precision=settings["precision"],
            licence=settings["licence"],
        )
        changes = settings["augmentation"]
        preparation = Preparation(
            patch,
            window,
            normalisation,
            architecture.slices,
            Augmentation(**{**changes, "flip": tuple(changes["flip"])}),
        )
        parts = dict(settings["loss"])
        weights = parts.pop("class_weights")
        unknown = set(weights) - {"background", *classes.values()}
        if unknown:
            raise ValueError(f"loss.class_weights names {', '.join(sorted(unknown))}, which is no class")
        named = [*(["background"] if settings["outputs"] == "softmax" else []), *classes.values()]
        loss = SegmentationLoss(
            settings["outputs"],
            dice_over_batch=parts.pop("dice_over") == "batch",
            class_weights=tuple(float(weights.get(name, 1)) for name in named) if weights else (),
            **parts,
        )
        fitted = FitSettings(**{name: settings[name] for name in FitSettings.__dataclass_fields__})
    except ValueError as error:
        raise CohortError(f"training: {error}") from None
    return description, preparation, loss, fitted


def _validate(net: Any, cases: Sequence[CachedCase], description: ModelDescription, team: Team) -> Any:
    from radloom.nets.validation import validate_cases

    return validate_cases(net, cases, description, team)


def _epoch_line(row: Mapping[str, Any], epochs: int) -> str:
    line = f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}"
    if "dice" in row:
        named = list(row["by_class"].items()) if len(row["by_class"]) <= 5 else []
        line += f", validation Dice {row['dice']:.3f}" + "".join(f", {name} {value:.3f}" for name, value in named)
    return line


def _told(
    settings: Mapping[str, Any],
    cases: Sequence[TrainingCase],
    part_of: Mapping[str, str],
    prints: Mapping[str, list[str]],
    made: Fit,
) -> dict[str, Any]:
    """What model.json says of the training: nothing that names a case or a patient."""
    here = {part: [case for case in cases if part_of[case.case_id] == part] for part in sorted(set(part_of.values()))}
    learned = here["train"]
    patients, centres = len({case.patient_id for case in learned}), len({case.centre for case in learned})
    return {
        "data": f"{len(learned)} cases, {patients} patients, {centres} centres",
        "data_sha256": sha256_json(sorted([*prints[case.case_id], part_of[case.case_id]] for case in cases)),
        "cases": {part: len(found) for part, found in here.items()},
        "patients": {part: len({case.patient_id for case in found}) for part, found in here.items()},
        "centres": {part: len({case.centre for case in found}) for part, found in here.items()},
        "epochs": len(made.history),
        "best_epoch": made.best_epoch,
        "settings": {
            key: value for key, value in settings.items() if key not in ("name", "split", "licence", "workers")
        },
    }


METRICS = [
    *("case_id", "part", "centre", "roi", "status", "dice", "iou", "hd95_mm", "surface_dice", "truth_ml", "found_ml")
]
BY_CENTRE = ["part", "centre", "roi", "cases", "mean_dice", "lowest_dice", "false_positives"]


def judge_cases(
    cases: Sequence[TrainingCase],
    part_of: Mapping[str, str],
    folder: Path,
    classes: Mapping[int, str],
    settings: Mapping[str, Any],
    training: Path,
) -> list[dict[str, Any]]:
    """Segment cases with the finished model as the segment step does, on their own grids, and compare with the truth.

    Returns a row a case and class, and draws the cases with the lowest mean Dice into `training`/overlays.
    """
    from radloom.nets.prediction import Settings
    from radloom.overlay import draw_overlay, stack_pictures, write_overlay
    from radloom.segment import segment_model
    from radloom.segmentation_metrics import compare_labels, mean_of, table_rows

    rows: list[dict[str, Any]] = []
    pictures: list[tuple[float, str]] = []
    overlays = training / "overlays"
    shutil.rmtree(overlays, ignore_errors=True)
    for case in cases:
        image, labels = reorient(read_nifti(case.image)), reorient(read_nifti(case.labels))
        truth = renumber(labels.array, case.names, classes)
        try:
            found = segment_model(image, folder, Settings(device=settings["device"])).labels.array
        except CaseError:  # it found nothing, which the metrics tell as well
            found = np.zeros_like(truth)
        metrics = compare_labels(truth, found, image.geometry.spacing, classes, settings["surface_tolerance_mm"])
        keys = {"case_id": case.case_id, "part": part_of[case.case_id], "centre": case.centre}
        for row in table_rows(metrics, **keys):
            rows.append({column: row["name"] if column == "roi" else row[column] for column in METRICS})
        pictures.append((mean_of(metrics), case.case_id))
        if settings["overlays"]:
            overlays.mkdir(parents=True, exist_ok=True)
            true = Volume(truth, image.geometry)
            drawn = [
                draw_overlay(image, Volume(array, image.geometry), classes, OVERLAY_WINDOW, planes_of=true)
                for array in (truth, found)
            ]
            write_overlay(overlays / f"{case.case_id}.png", stack_pictures(drawn))
            # Never more pictures than wanted: the best one goes.
            pictures.sort(key=lambda item: (math.isnan(item[0]), item))
            for _, other in pictures[settings["overlays"] :]:
                (overlays / f"{other}.png").unlink()
            pictures = pictures[: settings["overlays"]]
    return rows


def dice_by_centre(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean and lowest Dice of each class in each centre (and over all, centre empty), by part of the split."""
    made = []
    parts = sorted({row["part"] for row in rows})
    for part in parts:
        for centre in ["", *sorted({row["centre"] for row in rows if row["part"] == part})]:
            for roi in dict.fromkeys(row["roi"] for row in rows):
                here = [r for r in rows if r["part"] == part and r["roi"] == roi and centre in ("", r["centre"])]
                dice = [row["dice"] for row in here if not math.isnan(row["dice"])]
                made.append(
                    {
                        "part": part,
                        "centre": centre,
                        "roi": roi,
                        "cases": len(dice),
                        "mean_dice": float(np.mean(dice)) if dice else math.nan,
                        "lowest_dice": min(dice, default=math.nan),
                        "false_positives": sum(row["status"] == "false_positive" for row in here),
                    }
                )
    return made


def _mean_dice(rows: Sequence[Mapping[str, Any]], classes: Mapping[int, str]) -> dict[str, Any]:
    """Mean Dice of each class by part; a class that nobody there has is left out."""
    made: dict[str, Any] = {}
    for row in dice_by_centre(rows):
        if row["centre"] == "" and row["cases"] and row["roi"] in classes.values():
            made.setdefault(row["part"], {})[row["roi"]] = {
                key: row[key] for key in ("mean_dice", "lowest_dice", "cases")
            }
    return made


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
