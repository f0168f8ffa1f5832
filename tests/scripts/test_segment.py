"""The script of the step `segment`: as a case of the workflow, and by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from radloom.engine.step import CaseTask
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, read_nifti, write_nifti
from radloom.phantoms import Scanner, draw_anatomy, make_phantom

SETTINGS: dict[str, Any] = {
    "labels": {},
    "model": None,
    "device": "cpu",
    "batch": "auto",
    "tta": [],
    "cpu_precision": "float32",
}


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("segment_script", repo / "workflow/scripts/segment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    rng = np.random.default_rng([40_000, 1])
    made = make_phantom(draw_anatomy(rng), Scanner((2.0, 2.0, 4.0), 2.0, 8.0), rng)
    nz, ny, nx = made.image.shape
    geometry = Geometry((nx, ny, nz), made.spacing, (-99.0, -79.0, -46.0))
    write_nifti(folder / "image.nii.gz", Volume(np.rint(made.image).astype(np.int16), geometry))
    write_nifti(folder / "mask.nii.gz", Volume(made.labels, geometry))
    return folder


def task(folder: Path, out: Path, row: dict[str, str] | None = None, **settings: Any) -> CaseTask:
    out.mkdir()
    inputs = {"calibrate/image.nii.gz": folder / "image.nii.gz", "resample/mask.nii.gz": folder / "mask.nii.gz"}
    repo = Path(__file__).parents[2]
    return CaseTask(
        case_id="case",
        inputs={key: path for key, path in inputs.items() if path.exists()},
        params={**SETTINGS, **settings},
        row=row or {},
        out=out,
        resources={"model": repo / "resources/models/demo_unet"},
    )


def test_a_mask_of_the_cohort_sheet(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    case = task(phantom, tmp_path / "out", source="mask", labels={"2": "tumour", "5": "node"})
    result = script.run_case(case)
    mask, labels = read_nifti(phantom / "mask.nii.gz"), read_nifti(case.out / "labels.nii.gz")
    assert np.array_equal(labels.array, np.where(mask.array == 2, 2, 0))
    assert labels.geometry == mask.geometry
    assert json.loads((case.out / "labels.json").read_text()) == {"2": "tumour", "5": "node"}
    tumour = int((mask.array == 2).sum())
    assert result.facts == {"source": "mask", "voxels": {"tumour": tumour, "node": 0}}
    assert result.warnings == ["the mask's labels 1 are not in segment.labels and are ignored"]


def test_the_column_roi_name_names_the_only_roi(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    case = task(phantom, tmp_path / "out", {"roi_name": "liver"}, source="mask")
    assert list(script.run_case(case).facts["voxels"]) == ["liver"]
    assert json.loads((case.out / "labels.json").read_text()) == {"1": "liver"}


def test_a_case_without_a_mask(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/image.nii.gz").symlink_to(phantom / "image.nii.gz")
    with pytest.raises(CaseError, match="no mask in the cohort sheet"):
        script.run_case(task(tmp_path / "bare", tmp_path / "out", source="mask"))


def test_a_model_gives_the_same_labels_as_by_hand(
    script: ModuleType, phantom: Path, tmp_path: Path, repo: Path
) -> None:
    case = task(phantom, tmp_path / "out", source="model")
    result = script.run_case(case)
    assert result.facts["source"] == "model"
    assert (result.facts["device"], result.facts["precision"]) == ("cpu", ["float32"])
    assert min(result.facts["voxels"].values()) > 50
    assert json.loads((case.out / "labels.json").read_text()) == {"1": "organ", "2": "tumour"}
    command = [sys.executable, repo / "workflow/scripts/segment.py", phantom / "image.nii.gz", "--device", "cpu"]
    command += ["--model", repo / "resources/models/demo_unet", "--out", tmp_path / "by_hand.nii.gz"]
    command += ["--labels-out", tmp_path / "by_hand.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "by_hand.nii.gz").read_bytes() == (case.out / "labels.nii.gz").read_bytes()
    assert (tmp_path / "by_hand.json").read_bytes() == (case.out / "labels.json").read_bytes()
    litres = result.facts["voxels"]["tumour"] * 16 / 1000
    assert f"2 tumour: {litres:.2f} ml" in done.stdout


def test_by_hand_errors_are_one_line(phantom: Path, tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/segment.py", phantom / "image.nii.gz"]
    command += ["--model", tmp_path, "--out", tmp_path / "labels.nii.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the model folder")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "labels.nii.gz").exists()
