"""The script of the step `extract`: as a case of the workflow, and by hand."""

import csv
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
from radloom.images import Geometry, Volume, write_nifti


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("extract_script", repo / "workflow/scripts/extract.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def case(tmp_path: Path) -> Path:
    geometry = Geometry((20, 18, 16), (1.0, 1.0, 1.0), (-5.0, 0.0, 7.0))
    rng = np.random.default_rng(3)
    image = rng.normal(40, 25, geometry.shape).round().astype(np.int16)
    roi = np.zeros(geometry.shape, dtype=np.uint8)
    roi[3:11, 4:12, 5:13] = 1
    roi[14, 2:4, 2:4] = 2
    write_nifti(tmp_path / "image.nii.gz", Volume(image, geometry))
    write_nifti(tmp_path / "roi.nii.gz", Volume(roi, geometry))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "tumour", "2": "node"}))
    return tmp_path


def test_a_case_of_the_workflow(script: ModuleType, case: Path, repo: Path) -> None:
    out = case / "out"
    out.mkdir()
    inputs = {
        "calibrate/image.nii.gz": case / "image.nii.gz",
        "postprocess/roi.nii.gz": case / "roi.nii.gz",
        "postprocess/labels.json": case / "labels.json",
    }
    settings = {
        "params": "config/pyradiomics.yaml",
        "engine": "radloom",
        "rois": [],
        "derived_rois": {},
        "min_voxels": 64,
        "ibsi": False,
        "outlier_sigma": None,
    }
    resources = {"params": repo / "config/pyradiomics.yaml"}
    result = script.run_case(CaseTask("C1", inputs, settings, {}, out, resources))
    assert [path.name for path in out.iterdir()] == ["features.csv"]
    assert result.facts["rois"] == {"tumour": {"voxels": 512, "volume_mm3": 512.0}}
    assert [entry["roi"] for entry in result.facts["excluded_rois"]] == ["node"]
    assert json.loads(json.dumps(result.facts)) == result.facts
    assert result.warnings == []
    with open(out / "features.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["roi"] for line in lines] == ["tumour"]
    assert float(lines[0]["original_shape_VoxelVolume"]) == 512


def test_several_extractions_of_a_case(script: ModuleType, case: Path, repo: Path) -> None:
    out = case / "out"
    out.mkdir()
    inputs = {
        "calibrate/image.nii.gz": case / "image.nii.gz",
        "postprocess/roi.nii.gz": case / "roi.nii.gz",
        "postprocess/labels.json": case / "labels.json",
    }
    mean = "featureClass: {firstorder: [Mean]}\n"
    (case / "mean.yaml").write_text("imageType: {Original: {}}\n" + mean)
    (case / "bright.yaml").write_text("imageType: {Original: {}}\nsetting: {resegmentRange: [900, 999]}\n" + mean)
    settings = {"rois": [], "derived_rois": {}, "min_voxels": 4}
    resources = {"params.portal": repo / "config/pyradiomics.yaml", "params.fine": case / "mean.yaml"}
    result = script.run_case(CaseTask("C1", inputs, settings, {}, out, resources))
    assert sorted(path.name for path in out.iterdir()) == ["features_fine.csv", "features_portal.csv"]
    assert set(result.facts) == {"extractions"}
    assert {name: list(facts["rois"]) for name, facts in result.facts["extractions"].items()} == {
        "portal": ["tumour"],
        "fine": ["tumour", "node"],
    }
    (small,) = result.facts["extractions"]["portal"]["excluded_rois"]
    assert small["roi"] == "node", "its parameter file wants three dimensions"
    single = case / "single"
    single.mkdir()
    script.run_case(CaseTask("C1", inputs, settings, {}, single, {"params": case / "mean.yaml"}))
    assert (single / "features.csv").read_bytes() == (out / "features_fine.csv").read_bytes()

    some = case / "some"
    some.mkdir()
    resources = {"params.portal": case / "bright.yaml", "params.fine": case / "mean.yaml"}
    result = script.run_case(CaseTask("C1", inputs, settings, {}, some, resources))
    assert [path.name for path in some.iterdir()] == ["features_fine.csv"]
    assert "no ROI can be used" in result.facts["extractions"]["portal"]["reason"]
    assert result.facts["extractions"]["portal"]["advice"]
    with pytest.raises(CaseError, match=r"^no ROI can be used"):
        script.run_case(CaseTask("C1", inputs, settings, {}, some, {"params.portal": case / "bright.yaml"}))


def test_derived_rois_of_a_case(script: ModuleType, case: Path, repo: Path) -> None:
    out = case / "out"
    out.mkdir()
    inputs = {
        "calibrate/image.nii.gz": case / "image.nii.gz",
        "postprocess/roi.nii.gz": case / "roi.nii.gz",
        "postprocess/labels.json": case / "labels.json",
    }
    derived = {
        "rim": {"shell": {"of": 1, "outer_mm": 1}},
        "inside": {"core": {"of": "tumour", "depth_mm": 1}},
        "deep": {"core": {"of": "tumour", "depth_mm": 4}},
    }
    settings = {"rois": [1, "rim", "inside", "deep"], "derived_rois": derived, "min_voxels": 64}
    settings |= {"engine": "radloom", "ibsi": False, "outlier_sigma": None}
    resources = {"params": repo / "config/pyradiomics.yaml"}
    result = script.run_case(CaseTask("C1", inputs, settings, {}, out, resources))
    # A box of 8 voxels a side: its six faces, and what is left when a layer is taken off.
    assert {name: facts["voxels"] for name, facts in result.facts["rois"].items()} == {
        "tumour": 512,
        "rim": 6 * 64,
        "inside": 6**3,
    }
    assert [(entry["roi"], entry["reason"]) for entry in result.facts["excluded_rois"]] == [
        ("deep", "no voxel of tumour lies more than 4 mm inside it")
    ]
    with open(out / "features.csv", newline="") as file:
        lines = {line["roi"]: line for line in csv.DictReader(file)}
    assert float(lines["rim"]["original_shape_VoxelVolume"]) == 384


def run(repo: Path, *arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "workflow/scripts/extract.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_by_hand(case: Path, repo: Path) -> None:
    out = case / "features.csv"
    params = repo / "config/pyradiomics.yaml"
    done = run(repo, case / "image.nii.gz", case / "roi.nii.gz", "--params", params, "--out", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("excluded: label_2: the ROI has 4 voxels, at least 64 are needed")
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["roi", "label_1"]
    by_ibsi = case / "ibsi.csv"
    done = run(repo, case / "image.nii.gz", case / "roi.nii.gz", "--params", params, "--out", by_ibsi, "--ibsi")
    assert done.returncode == 0, done.stderr
    kurtosis = [float(next(csv.DictReader(path.open()))["original_firstorder_Kurtosis"]) for path in (out, by_ibsi)]
    assert kurtosis[1] == pytest.approx(kurtosis[0] - 3, rel=1e-9)


def test_by_hand_with_derived_rois(case: Path, repo: Path) -> None:
    out, derived = case / "features.csv", case / "derived.yaml"
    derived.write_text("rim: {shell: {of: 1, outer_mm: 1.5, minus: [label_2]}}\n")
    command = (case / "image.nii.gz", case / "roi.nii.gz", "--params", repo / "config/pyradiomics.yaml", "--out", out)
    done = run(repo, *command, "--roi-name", 1, "rim", "--derived", derived)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["roi", "label_1", "rim"]
    derived.write_text("rim: {shell: {of: 1}}\n")
    done = run(repo, *command, "--derived", derived)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: the derived ROIs can't be made:", "  rim: shell needs outer_mm"]


def test_by_hand_a_mistake_is_one_line(case: Path, repo: Path) -> None:
    params = case / "mine.yaml"
    params.write_text("setting: {resampledPixelSpacing: [1, 1, 1]}\n")
    out = case / "features.csv"
    done = run(repo, case / "image.nii.gz", case / "roi.nii.gz", "--params", params, "--out", out)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the PyRadiomics parameter file mine.yaml can't be used:")
    assert "set `resample.spacing`" in done.stderr
    assert not out.exists()
