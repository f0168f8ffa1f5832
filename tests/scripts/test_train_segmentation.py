"""The script of the step `train_segmentation`: by hand, and in several processes for the workflow."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from training_material import SPACING, ball

from radloom.config import complete
from radloom.engine.step import CohortTask, Entry
from radloom.errors import CohortError
from radloom.images import Geometry, Volume, write_nifti
from radloom.training_run import read_cases

SECTION = {
    "name": "balls",
    "spacing": [2, 2],
    "architecture": {"channels": [4, 8]},
    "epochs": 1,
    "batch": 2,
    "validation": 0.25,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases of two centres as files, and the table that lists them."""
    folder = tmp_path_factory.mktemp("by_hand")
    geometry = Geometry((40, 32, 6), SPACING, (0.0, 0.0, 0.0))
    (folder / "names.json").write_text(json.dumps({"1": "ball", "2": "core"}))
    lines = ["case_id,patient_id,centre,image,labels,names"]
    for i in range(4):
        for name, array in zip(("image", "labels"), ball(i), strict=True):
            write_nifti(folder / f"{name}{i}.nii.gz", Volume(array, geometry))
        lines.append(f"case{i},patient{i},{'ab'[i % 2]},image{i}.nii.gz,labels{i}.nii.gz,names.json")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    return folder / "cases.csv"


def test_by_hand(table: Path, tmp_path: Path, repo: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"train_segmentation": SECTION}))
    script = repo / "workflow" / "scripts" / "train_segmentation.py"
    command = [sys.executable, str(script), str(table), "--out", str(tmp_path / "out"), "--name", "mine"]
    done = subprocess.run(
        [*command, "--config", str(tmp_path / "config.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "epoch 1/1: loss" in done.stdout
    assert (tmp_path / "out" / "models" / "mine" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "training" / "history.csv").is_file()


def test_several_processes_for_the_workflow(table: Path, tmp_path: Path, repo: Path) -> None:
    script = repo / "workflow" / "scripts" / "train_segmentation.py"
    spec = importlib.util.spec_from_file_location("train_segmentation_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    settings = complete({"results": "r", "train_segmentation": SECTION | {"processes": 2}})["train_segmentation"]
    rows = [{"case_id": case.case_id, "centre": case.centre} for case in read_cases(table)]
    images, labels = {}, {}
    for case in read_cases(table):
        images[case.case_id] = Entry("ok", "", "", {}, [], {"image.nii.gz": case.image})
        files = {"roi.nii.gz": case.labels, "labels.json": table.parent / "names.json"}
        labels[case.case_id] = Entry("ok", "", "", {}, [], files)
    rows.append({"case_id": "bare", "centre": "a"})
    images["bare"] = labels["bare"] = Entry("excluded", "no mask", "Give one", {}, [], {})
    task = CohortTask(
        {"train_segmentation": settings},
        rows,
        {"calibrate": images, "postprocess": labels},
        {},
        tmp_path / "out",
        cache=tmp_path / "cache",
        code="code",
    )
    result = module.run_cohort(task)
    assert result.facts["cases"] == {"train": 3, "validation": 1}
    assert (tmp_path / "out" / "models" / "balls" / "model.json").is_file()
    (left_out,) = csv.DictReader((tmp_path / "out" / "training" / "exclusions.csv").read_text().splitlines())
    assert (left_out["case_id"], left_out["reason"], left_out["advice"]) == ("bare", "no mask", "Give one")


def test_a_wrong_table_is_refused_with_all_that_is_wrong(table: Path) -> None:
    wrong = table.with_name("wrong.csv")
    lines = table.read_text().splitlines()
    wrong.write_text("\n".join([*lines, lines[1], "c9,p,a,none.nii.gz,none.nii.gz,names.json"]) + "\n")
    with pytest.raises(
        CohortError, match=r"line 6: the case_id is there twice; .*line 7: image, labels or names can't"
    ):
        read_cases(wrong)
    wrong.write_text("case_id,centre\na,b\n")
    with pytest.raises(CohortError, match="no column patient_id, image, labels, names"):
        read_cases(wrong)


def test_by_hand_a_wrong_setting_is_no_traceback(table: Path, tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/train_segmentation.py", table, "--out", tmp_path]
    done = subprocess.run([*command, "--name", "a/b"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: config: train_segmentation.name: 'a/b'")
    assert "Traceback" not in done.stderr
