"""The script of the step `perturb`: as a case of the workflow, and by hand."""

import csv
import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from radloom.engine.step import CaseTask
from radloom.images import Geometry, Volume, write_nifti
from radloom.resample import Sampling

SETTINGS = {
    "count": 3,
    "rotation": 13,
    "shift": 0.5,
    "volume": 0.2,
    "noise": 1,
    "contour": True,
    "rois": [],
    "calibrate.round_hu": True,
    "extract.rois": ["tumour"],
    "extract.min_voxels": 64,
    "extract.engine": "radloom",
    "extract.ibsi": False,
    "extract.outlier_sigma": None,
}


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("perturb_script", repo / "workflow/scripts/perturb.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def case(tmp_path: Path) -> Path:
    rng = np.random.default_rng(3)
    source = Geometry((25, 23, 10), (0.8, 0.8, 1.6), (-5.0, 0.0, 7.0))
    write_nifti(tmp_path / "image.nii.gz", Volume(rng.normal(40, 25, source.shape).round().astype(np.int16), source))
    grid = Geometry((20, 18, 16), (1.0, 1.0, 1.0), (-4.9, 0.3, 6.7))
    roi = np.zeros(grid.shape, dtype=np.uint8)
    roi[3:11, 4:12, 5:13] = 1
    roi[12:, 10:, 10:] = 2
    write_nifti(tmp_path / "roi.nii.gz", Volume(roi, grid))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "tumour", "2": "node"}))
    (tmp_path / "sampling.json").write_text(json.dumps(asdict(Sampling())))
    (tmp_path / "calibration.json").write_text(json.dumps({"method": "drift", "slope": 1.01, "intercept": 10.0}))
    return tmp_path


def test_a_case_of_the_workflow(script: ModuleType, case: Path, repo: Path) -> None:
    out = case / "out"
    out.mkdir()
    inputs = {
        "ingest/image.nii.gz": case / "image.nii.gz",
        "resample/sampling.json": case / "sampling.json",
        "calibrate/calibration.json": case / "calibration.json",
        "postprocess/roi.nii.gz": case / "roi.nii.gz",
        "postprocess/labels.json": case / "labels.json",
    }
    resources = {"params": repo / "config/pyradiomics.yaml"}
    result = script.run_case(CaseTask("C1", inputs, SETTINGS, {}, out, resources))
    assert sorted(path.name for path in out.iterdir()) == ["features.csv", "perturbations.csv"]
    assert list(result.facts["rois"]) == ["tumour"]
    # White noise of 25 HU is what the estimator measures; 512 voxels are few.
    assert result.facts["rois"]["tumour"]["noise_hu"] == pytest.approx(25, rel=0.1)
    assert json.loads(json.dumps(result.facts)) == result.facts
    with open(out / "features.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["roi"], line["perturbation"]) for line in lines] == [("tumour", str(n)) for n in (1, 2, 3)]
    assert len({line["original_firstorder_Mean"] for line in lines}) == 3
    first = (out / "features.csv").read_bytes()
    node = script.run_case(CaseTask("C2", inputs, {**SETTINGS, "rois": ["node"]}, {}, out, resources))
    assert list(node.facts["rois"]) == ["node"]
    script.run_case(CaseTask("C3", inputs, SETTINGS, {}, out, resources))
    assert (out / "features.csv").read_bytes() == first, "the name of the case decides nothing"


def test_by_hand(case: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/perturb.py", case / "image.nii.gz", case / "roi.nii.gz"]
    command += ["--params", repo / "config/pyradiomics.yaml", "--out", case / "out", "--count", 2, "--no-contour"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    with open(case / "out" / "perturbations.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["roi"] for line in lines] == ["label_1", "label_1", "label_2", "label_2"]
    assert all(abs(float(line["angle_deg"])) <= 13 for line in lines)
