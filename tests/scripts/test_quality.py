"""The script of the step `quality`: by hand and as a step."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scans import body, noisy

from radloom.calibrate import drift_calibration
from radloom.engine.step import CaseTask
from radloom.images import Geometry, Volume, write_nifti
from radloom.quality_figures import FIGURES


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("quality_script", repo / "workflow/scripts/quality.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A scan of 32 slices, an ROI in it, a validity mask without its first 40 columns, and an image on another grid."""
    folder = tmp_path_factory.mktemp("quality")
    scan = noisy(body(), 12.0)
    roi = np.zeros(scan.array.shape, np.uint8)
    roi[10:15, 80:90, 80:90] = 3
    valid = np.ones_like(roi)
    valid[:, :, :40] = 0
    small = Volume(np.zeros((4, 9, 9), np.uint8), Geometry((9, 9, 4), (1, 1, 1), (0, 0, 0)))
    volumes = {
        "scan": scan,
        "roi": Volume(roi, scan.geometry),
        "valid": Volume(valid, scan.geometry),
        "other": small,
    }
    for name, volume in volumes.items():
        write_nifti(folder / f"{name}.nii.gz", volume)
    return {name: folder / f"{name}.nii.gz" for name in volumes}


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repo / "workflow/scripts/quality.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def test_by_hand(repo: Path, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    done = run(repo, files["scan"], files["roi"], "--out", out, "--valid", files["valid"])
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(out.read_text())
    assert set(found) == {"scan", "rois", "voxels", "picture"}
    assert set(found["rois"]) == {"label_3"}
    assert found["rois"]["label_3"]["roi_volume_ml"] == pytest.approx(500 * 0.9 * 0.9 * 2.5 / 1000)
    assert found["scan"]["noise_global_sd"] == pytest.approx(12, rel=0.03)
    assert found["scan"]["truncated_share"] > 0.05, "the measured part cuts the body"
    lines = done.stdout.splitlines()
    assert "slices 32" in lines
    assert "coverage_mm 80 mm" in lines
    assert "hu_blood -" in lines
    assert "label_3: roi_components 1" in lines
    assert len(lines) == sum(figure.of in ("scan", "roi") for figure in FIGURES.values())


def test_what_cannot_be_done_by_hand(repo: Path, files: dict[str, Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "quality.json")
    text = tmp_path / "text.nii.gz"
    text.write_text("no image")
    for arguments, message in [
        ((files["scan"], files["other"]), "error: image, ROI and validity mask are not on one grid"),
        (
            (files["scan"], files["roi"], "--valid", files["other"]),
            "error: image, ROI and validity mask are not on one",
        ),
        ((files["scan"], files["roi"], "--scan-valid", files["valid"]), "error: --scan-valid needs --scan"),
        ((text, files["roi"]), "error: this is no little-endian NIfTI-1 file"),
    ]:
        done = run(repo, *arguments, *out)
        assert done.returncode == 1, message
        assert done.stderr.startswith(message)
        assert "Traceback" not in done.stderr


def task(folder: Path, files: dict[str, Path], **more: Path) -> CaseTask:
    calibration = drift_calibration(0.02)
    (folder / "calibration.json").write_text(json.dumps(dataclasses.asdict(calibration)))
    (folder / "labels.json").write_text('{"3": "tumour"}')
    inputs = {
        "ingest/image.nii.gz": files["scan"],
        "calibrate/image.nii.gz": files["scan"],
        "calibrate/calibration.json": folder / "calibration.json",
        "postprocess/roi.nii.gz": files["roi"],
        "postprocess/labels.json": folder / "labels.json",
    }
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return CaseTask("a", inputs | more, {"extract.rois": [], "blood_rois": ["blood"]}, {}, out)


def test_as_a_step(script: ModuleType, files: dict[str, Path], tmp_path: Path) -> None:
    result = script.STEP.run(task(tmp_path, files))
    facts: dict[str, Any] = result.facts
    assert facts == json.loads((tmp_path / "out/quality.json").read_text())
    assert set(facts["rois"]) == {"tumour"}
    assert facts["scan"]["noise_global_sd"] == pytest.approx(12 * 1.02, rel=0.03), "in calibrated HU"
    assert facts["scan"]["truncated_share"] == 0
    assert facts["rois"]["tumour"]["roi_padding_voxels"] == 0
    masks = {"ingest/valid.nii.gz": files["valid"], "resample/valid.nii.gz": files["valid"]}
    cut = script.STEP.run(task(tmp_path, files, **masks)).facts
    assert cut["scan"]["truncated_share"] > 0.05
    assert cut["voxels"] == facts["voxels"]
    assert cut["rois"]["tumour"]["roi_padding_voxels"] == 0


def test_an_empty_roi_has_no_figures(script: ModuleType, files: dict[str, Path], tmp_path: Path) -> None:
    from radloom.images import read_nifti

    empty = read_nifti(files["roi"])
    empty.array[:] = 0
    write_nifti(tmp_path / "empty.nii.gz", empty)
    given = task(tmp_path, files, **{"postprocess/roi.nii.gz": tmp_path / "empty.nii.gz"})
    facts = script.STEP.run(given).facts
    assert facts["rois"] == {}
    assert facts["scan"]["slices"] == 32
