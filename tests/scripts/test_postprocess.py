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
from radloom.images import Geometry, Volume, read_nifti, write_nifti


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
    }


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
