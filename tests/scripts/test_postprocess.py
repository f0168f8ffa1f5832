"""The script of the step `postprocess`: as a case of the workflow, and by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from radloom.engine.step import CaseTask
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, read_nifti, write_nifti
from radloom.uncertainty_scores import ClassUncertainty, write_scores


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("postprocess_script", repo / "workflow/scripts/postprocess.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def case(tmp_path: Path) -> Path:
    array = np.zeros((10, 12, 14), np.uint8)
    array[1:9, 1:9, 1:9] = 1
    array[4, 4, 4] = 0
    array[6, 6, 6] = 2
    array[2, 10, 12] = 1
    write_nifti(tmp_path / "labels.nii.gz", Volume(array, Geometry((14, 12, 10), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "organ", "2": "tumour"}))
    return tmp_path


def test_a_case_of_the_workflow(script: ModuleType, case: Path) -> None:
    out = case / "out"
    out.mkdir()
    settings = {
        "closing_mm": 0,
        "opening_mm": 0,
        "fill_holes": True,
        "components": "largest",
        "min_volume_mm3": 0,
        "labels": {"tumour": {"min_volume_mm3": 100}},
    }
    inputs = {"segment/labels.nii.gz": case / "labels.nii.gz", "segment/labels.json": case / "labels.json"}
    result = script.run_case(CaseTask("case", inputs, settings, {}, out))
    before, after = read_nifti(case / "labels.nii.gz"), read_nifti(out / "roi.nii.gz")
    assert after.geometry == before.geometry
    # The stray voxel goes, the hole and the place of the tumour that is too small are filled.
    assert (after.array == 1).sum() == 512
    assert not (after.array == 2).any()
    assert json.loads((out / "labels.json").read_text()) == {"1": "organ", "2": "tumour"}
    assert result.facts == {
        "volume_mm3": {"organ": 1024.0, "tumour": 0.0},
        "change": {"organ": 512 / 511, "tumour": 0.0},
        "components": {"organ": 1, "tumour": 0},
        "change_by_step": {
            "organ": {"components": 510 / 511, "holes": 512 / 510},
            "tumour": {"components": 0.0},
        },
    }
    assert result.warnings == ["tumour: components changed the volume by -100 %, from 0.002 to 0 ml"]


def test_a_case_whose_rois_are_cut_to_the_body(script: ModuleType, case: Path) -> None:
    labels = read_nifti(case / "labels.nii.gz")
    ct = np.full(labels.array.shape, -1000, np.int16)
    ct[:, :7] = 40
    write_nifti(case / "image.nii.gz", Volume(ct, labels.geometry))
    out = case / "out"
    out.mkdir()
    inputs = {name: case / name.split("/")[1] for name in ("segment/labels.nii.gz", "segment/labels.json")}
    inputs["calibrate/image.nii.gz"] = case / "image.nii.gz"
    result = script.run_case(CaseTask("case", inputs, {"labels": {"organ": {"inside_body": True}}}, {}, out))
    after = read_nifti(out / "roi.nii.gz").array
    assert np.array_equal(after, np.where((ct < 0) & (labels.array == 1), 0, labels.array))
    assert list(result.facts["change_by_step"]["organ"]) == ["body"]
    assert [warning.split(" by")[0] for warning in result.warnings] == ["organ: body changed the volume"]


def test_a_case_whose_samples_disagree_is_excluded(script: ModuleType, case: Path) -> None:
    scores = {
        "organ": ClassUncertainty(10.0, 0.1, 0.01, 0.98, 0.001),
        "tumour": ClassUncertainty(1, 0.5, 0.5, 0.6, 0.1),
    }
    write_scores(case / "uncertainty.json", scores)
    out = case / "out"
    out.mkdir()
    files = ("segment/labels.nii.gz", "segment/labels.json", "segment/uncertainty.json")
    inputs = {name: case / name.split("/")[1] for name in files}
    limits = {"max_volume_cv": 0.2, "min_pairwise_dice": 0.7, "rois": []}
    with pytest.raises(
        CaseError, match=r"tumour: coefficient of variation of the volume 0.5 is above 0.2; tumour: mean"
    ):
        script.run_case(CaseTask("case", inputs, {"segment.uncertainty": limits}, {}, out))
    limits["rois"] = ["organ"]
    script.run_case(CaseTask("case", inputs, {"segment.uncertainty": limits}, {}, out))
    assert (out / "roi.nii.gz").exists()


def test_by_hand(case: Path, repo: Path) -> None:
    (case / "config.yaml").write_text("results: out\npostprocess:\n  components: largest\n")
    command = [sys.executable, repo / "workflow/scripts/postprocess.py", case / "labels.nii.gz"]
    command += ["--out", case / "roi.nii.gz", "--config", case / "config.yaml", "--names", case / "labels.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (read_nifti(case / "roi.nii.gz").array == 1).sum() == 510
    assert done.stdout.splitlines() == ["organ: 1.02 ml in 1 components", "tumour: 0.00 ml in 1 components"]


def test_by_hand_without_names_and_settings_keeps_the_labels(case: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/postprocess.py", case / "labels.nii.gz"]
    done = subprocess.run([*command, "--out", case / "roi.nii.gz"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (case / "roi.nii.gz").read_bytes() == (case / "labels.nii.gz").read_bytes()
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["label_1", "label_2"]


def test_by_hand_with_an_image(case: Path, repo: Path) -> None:
    labels = read_nifti(case / "labels.nii.gz")
    (case / "config.yaml").write_text("postprocess: {inside_body: true, body_hu: -200}")
    command = [sys.executable, repo / "workflow/scripts/postprocess.py", case / "labels.nii.gz"]
    command += ["--out", case / "roi.nii.gz", "--config", case / "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "error: inside_body asks for the image: --image image.nii.gz\n"
    ct = np.where(np.arange(14) < 7, 40, -250).astype(np.int16) + np.zeros(labels.array.shape, np.int16)
    write_nifti(case / "image.nii.gz", Volume(ct[:-1], Geometry((14, 12, 9), (1.0, 1.0, 2.0), (0.0, 0.0, 0.0))))
    command += ["--image", case / "image.nii.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == "error: the image is on another grid than the labels\n"
    write_nifti(case / "image.nii.gz", Volume(ct, labels.geometry))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: label_1: body changed the volume by -25 %")
    assert np.array_equal(read_nifti(case / "roi.nii.gz").array, np.where(ct == 40, labels.array, 0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("postprocess: {closing: 1}", "error: the section postprocess of the configuration"),
        ("postprocess: {opening_mm: 50}", "error: no ROI is left after the postprocessing"),
        ("postprocess: [", "error: "),
    ],
)
def test_by_hand_errors(case: Path, repo: Path, config: str, message: str) -> None:
    (case / "config.yaml").write_text(config)
    command = [sys.executable, repo / "workflow/scripts/postprocess.py", case / "labels.nii.gz"]
    command += ["--out", case / "roi.nii.gz", "--config", case / "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
    assert not (case / "roi.nii.gz").exists()
