"""The training of a cohort: who is in which part, who is left out and why, and what is written."""

import csv
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from training_material import SPACING, ball, cached_balls

from radloom.config import complete
from radloom.errors import CohortError
from radloom.images import Geometry, Volume, write_nifti
from radloom.nets.folder import read_description
from radloom.train_segmentation import (
    Exclusion,
    TrainingCase,
    choose_cases,
    choose_patch,
    dice_by_centre,
    read_case,
    renumber,
    split_cases,
    train_segmentation,
    training_identity,
)


def settings_of(**changes: Any) -> dict[str, Any]:
    section = {
        "name": "balls",
        "spacing": [2, 2],
        "architecture": {"channels": [4, 8]},
        "epochs": 6,
        "batch": 4,
        "learning_rate": 0.03,
        "validation": 0.34,
        "device": "cpu",
    }
    made: dict[str, Any] = complete({"results": "r", "train_segmentation": section | changes})["train_segmentation"]
    return made


def named(names: dict[int, str], case_id: str = "c0", patient: str = "") -> TrainingCase:
    return TrainingCase(case_id, patient or case_id, "a", Path("image"), Path("labels"), names)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingCase]:
    """Six cases of three patients a centre; in every second the labels have other numbers."""
    folder = tmp_path_factory.mktemp("cohort")
    cases = []
    for i in range(6):
        image, labels = ball(i)
        names = {1: "ball", 2: "core"}
        if i % 2:
            labels, names = np.array([0, 7, 3], np.uint8)[labels], {3: "core", 5: "other", 7: "ball"}
            labels[0, 0, 0] = 5
        geometry = Geometry((40, 32, 6), SPACING, (0.0, 0.0, 0.0))
        paths = folder / f"image{i}.nii.gz", folder / f"labels{i}.nii.gz"
        for path, array in zip(paths, (image, labels), strict=True):
            write_nifti(path, Volume(array, geometry))
        cases.append(TrainingCase(f"case{i}", f"patient{i}", "ab"[i % 2], *paths, names))
    return cases


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def test_labels_are_matched_by_name() -> None:
    classes, kept, exclusions = choose_cases(
        [named({1: "liver", 2: "tumour"}), named({5: "tumour", 9: "liver", 7: "spleen"}, "c1")], ["tumour", "liver"]
    )
    assert classes == {1: "tumour", 2: "liver"}
    assert len(kept) == 2
    assert [(e.case_id, e.roi, e.reason) for e in exclusions] == [
        ("c1", "spleen", "is none of the classes: background")
    ]
    labels = np.array([[[0, 5, 9, 7, 3]]], np.uint8)
    assert renumber(labels, kept[1].names, classes).tolist() == [[[0, 1, 2, 0, 0]]]


def test_a_case_that_names_only_some_classes_is_left_out() -> None:
    cases = [named({1: "liver", 2: "tumour"}), named({1: "liver"}, "c1")]
    classes, kept, exclusions = choose_cases(cases, [])
    assert classes == {1: "liver", 2: "tumour"}
    assert [case.case_id for case in kept] == ["c0"]
    assert exclusions[0].case_id == "c1"
    assert "don't name tumour, which would count as background" in exclusions[0].reason
    assert len(choose_cases(cases, ["liver"])[1]) == 2
    with pytest.raises(CohortError, match="no case has the labels spleen; known are liver, tumour"):
        choose_cases(cases, ["spleen"])
    with pytest.raises(CohortError, match="no case has labels of all the classes"):
        choose_cases([named({1: "a"}), named({1: "b"}, "c1")], [])
    with pytest.raises(CohortError, match="no case has labels; give the cohort masks"):
        choose_cases([], [])


def test_a_patients_cases_are_never_in_two_parts() -> None:
    cases = [named({1: "a"}, f"case{i}", f"patient{i // 3}") for i in range(30)]
    split, kept, _ = split_cases(cases, settings_of(validation=0.3, test=0.2), None)
    assert len(kept) == 30
    assert sorted(split) == sorted({case.patient_id for case in cases})
    assert set(split.values()) == {"train", "validation", "test"}


def test_a_given_split_decides_and_tells_of_those_that_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text("patient_id,part\npatient0,train\npatient1,test\n")
    cases = [named({1: "a"}, f"case{i}", f"patient{i}") for i in range(3)]
    split, kept, exclusions = split_cases(cases, settings_of(), tmp_path / "split.csv")
    assert [split[case.patient_id] for case in kept] == ["train", "test"]
    assert [(e.case_id, e.reason) for e in exclusions] == [("case2", "its patient is not in the split's file")]


def test_patches_follow_the_net_and_small_cases_are_left_out(tmp_path: Path) -> None:
    cases = [*cached_balls(tmp_path / "a", 1), *cached_balls(tmp_path / "b", 1, (3, 9, 50))]
    assert choose_patch(cases, settings_of(architecture={"channels": [4, 8, 16]})) == ((32, 52), [])
    patch, exclusions = choose_patch(cases, settings_of(patch=[32, 32]))
    assert patch == (32, 32)
    assert [e.reason for e in exclusions] == [
        "its 3 x 9 x 50 voxels on the net's grid don't fill half of a patch of 32 x 32"
    ]
    with pytest.raises(CohortError, match=r"\[33, 32\] is no multiple of \[2, 2\]"):
        choose_patch(cases, settings_of(patch=[33, 32]))
    volume = settings_of(architecture={"channels": [4, 8], "dimensions": 3}, spacing=[2, 2, 4])
    assert choose_patch(cases, volume)[0] == (6, 32, 50)


def test_a_cohort_becomes_a_model_and_a_second_run_of_it_the_same_one(
    cohort: list[TrainingCase], tmp_path: Path
) -> None:
    said: list[str] = []
    left_out = Exclusion("case9", "", "no mask in the cohort sheet", "Give the case a mask")
    settings = settings_of(overlays=1, classes=["ball", "core"])
    made = train_segmentation(cohort, [left_out], settings, tmp_path / "a", tmp_path / "cache", say=said.append)
    assert made.facts["classes"] == ["ball", "core"]
    assert made.facts["cases"] == {"train": 4, "validation": 2}
    assert len(said) == 6
    assert "validation Dice" in said[0]
    assert made.facts["dice"]["validation"]["ball"]["mean_dice"] > 0.7

    training = tmp_path / "a" / "training"
    description, _ = read_description(tmp_path / "a" / "models" / "balls")
    assert description.classes == {1: "ball", 2: "core"}
    assert description.dice == made.facts["dice"]
    assert description.training["patients"] == {"train": 4, "validation": 2}
    assert description.temperature != 1
    # Nothing of a patient is in a folder that is handed on.
    assert "case0" not in json.dumps(description.training)
    assert "patient0" not in json.dumps(description.training)

    split = {row["patient_id"]: row["part"] for row in rows(training / "split.csv")}
    metrics = rows(training / "validation_metrics.csv")
    judged = sorted({row["case_id"].replace("case", "patient") for row in metrics})
    assert judged == sorted(p for p, part in split.items() if part == "validation")
    assert {row["roi"] for row in metrics} == {"ball", "core"}
    assert list(metrics[0])[4:9] == ["status", "dice", "iou", "hd95_mm", "surface_dice"]
    by_centre = rows(training / "dice_by_centre.csv")
    assert {row["centre"] for row in by_centre} == {"", "a", "b"}
    exclusions = rows(training / "exclusions.csv")
    assert exclusions[0] == {"case_id": "case9", "roi": "", "reason": left_out.reason, "advice": left_out.advice}
    assert [(row["case_id"], row["roi"]) for row in exclusions[1:]] == [(f"case{i}", "other") for i in (1, 3, 5)]
    assert len(rows(training / "history.csv")) == 6
    (picture,) = (training / "overlays").iterdir()
    assert Image.open(picture).size[1] > 200  # the truth, and below it what was found
    assert Image.open(training / "history.png").size[0] > 400

    # The cache is used again; other trainings' checkpoints and other cohorts' cases don't stay.
    (tmp_path / "cache" / "checkpoints" / "old").mkdir()
    (tmp_path / "cache" / "cases" / "old").mkdir()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "cases").rglob("*.npy")}
    helped = settings | {"workers": 1}  # which changes no byte
    train_segmentation(cohort, [left_out], helped, tmp_path / "b", tmp_path / "cache", "other key", say=said.append)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache" / "cases").rglob("*.npy")} == before
    assert len(list((tmp_path / "cache" / "checkpoints").iterdir())) == 1
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes(), path.name

    # What only judges or names the net doesn't train it again.
    epochs = len(said)
    judged_otherwise = helped | {"overlays": 0, "surface_tolerance_mm": 5.0, "name": "other"}
    train_segmentation(
        cohort, [left_out], judged_otherwise, tmp_path / "c", tmp_path / "cache", "other key", say=said.append
    )
    assert len(said) == epochs
    weights = [tmp_path / place / "model.safetensors" for place in ("b/models/balls", "c/models/other")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert not (tmp_path / "c" / "training" / "overlays").exists()
    tolerant = rows(tmp_path / "c" / "training" / "validation_metrics.csv")
    assert [row["surface_dice"] for row in tolerant] != [row["surface_dice"] for row in metrics]
    shutil.rmtree(tmp_path / "cache")


def test_a_checkpoint_is_of_what_decides_the_weights() -> None:
    cases = [named({1: "a", 2: "b"}, f"case{i}", f"patient{i}") for i in range(2)]
    parts, prints = {"case0": "train", "case1": "validation"}, {"case0": ["0", "1"], "case1": ["2", "3"]}

    def identity(
        settings: Mapping[str, Any] = settings_of(),
        classes: Mapping[int, str] = {1: "a", 2: "b"},
        cases: list[TrainingCase] = cases,
        parts: Mapping[str, str] = parts,
    ) -> str:
        return training_identity(settings, classes, cases, parts, prints)

    same = settings_of(name="other", licence="MIT", overlays=0, surface_tolerance_mm=9.0, workers=3)
    assert identity(same) == identity()
    others = [
        identity(settings_of(epochs=99)),
        identity(classes={1: "b", 2: "a"}),
        identity(cases=cases[::-1]),
        identity(cases=[replace(cases[0], names={1: "b", 2: "a"}), cases[1]]),
        identity(cases=[replace(cases[0], centre="other"), cases[1]]),
        identity(parts=parts | {"case1": "train"}),
    ]
    assert len({identity(), *others}) == 7


@pytest.mark.parametrize("array", [np.full((2, 3, 4), -1, np.int16), np.full((2, 3, 4), 0.5, np.float32)])
def test_labels_that_are_no_numbers_of_classes_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    geometry = Geometry((4, 3, 2), SPACING, (0.0, 0.0, 0.0))
    paths = tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz"
    write_nifti(paths[0], Volume(np.zeros((2, 3, 4), np.int16), geometry))
    write_nifti(paths[1], Volume(array, geometry))
    with pytest.raises(CohortError, match="labels of case c are no whole numbers"):
        read_case(TrainingCase("c", "p", "a", *paths, {1: "ball"}), {1: "ball"})


def test_a_class_that_nobody_to_train_on_has_is_refused(cohort: list[TrainingCase], tmp_path: Path) -> None:
    cases = [replace(case, names={**case.names, 9: "ghost"}) for case in cohort]
    with pytest.raises(CohortError, match="none of the 4 cases to train on has a voxel of ghost"):
        train_segmentation(cases, [], settings_of(classes=["ball", "ghost"]), tmp_path, tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 500}, "fewer than a batch of 500"),
        ({"loss": {"class_weights": {"liver": 2}}}, "class_weights names liver, which is no class"),
        ({"architecture": {"kind": "nonet"}}, "nonet"),
        ({"robust": "group_dro"}, "dice_over to item"),
    ],
)
def test_what_cant_be_trained_stops_with_a_reason(
    changes: dict[str, Any], message: str, cohort: list[TrainingCase], tmp_path: Path
) -> None:
    settings = settings_of(classes=["ball", "core"], **changes)
    with pytest.raises(CohortError, match=message):
        train_segmentation(cohort, [], settings, tmp_path, tmp_path / "cache")


def test_dice_by_centre_counts_false_positives_and_leaves_out_what_cant_be_estimated() -> None:
    def row(case: str, centre: str, status: str, dice: float) -> dict[str, Any]:
        return {"case_id": case, "part": "test", "centre": centre, "roi": "r", "status": status, "dice": dice}

    nan = float("nan")
    made = dice_by_centre(
        [row("1", "a", "estimated", 0.8), row("2", "a", "missed", 0.0), row("3", "b", "false_positive", nan)]
    )
    assert [(m["centre"], m["cases"], m["mean_dice"], m["lowest_dice"], m["false_positives"]) for m in made[:2]] == [
        ("", 2, 0.4, 0.0, 1),
        ("a", 2, 0.4, 0.0, 0),
    ]
    assert made[2]["cases"] == 0
    assert np.isnan(made[2]["mean_dice"])
