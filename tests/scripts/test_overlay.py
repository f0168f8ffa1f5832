"""The script of the step `overlay`: as a case of the workflow, and by hand."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from radloom.engine.step import CaseTask
from radloom.images import Geometry, Volume, write_nifti


@pytest.fixture
def case(tmp_path: Path) -> Path:
    geometry = Geometry((30, 24, 20), (1.0, 1.0, 1.5), (0.0, 0.0, 0.0))
    image = np.full(geometry.shape, 40, dtype=np.int16)
    roi = np.zeros(geometry.shape, dtype=np.uint8)
    roi[8:14, 8:16, 10:20] = 1
    write_nifti(tmp_path / "image.nii.gz", Volume(image, geometry))
    write_nifti(tmp_path / "roi.nii.gz", Volume(roi, geometry))
    (tmp_path / "labels.json").write_text(json.dumps({"1": "label_1"}))
    return tmp_path


def test_the_workflow_and_the_command_line_draw_the_same(case: Path, repo: Path) -> None:
    path = repo / "workflow/scripts/overlay.py"
    spec = importlib.util.spec_from_file_location("overlay_script", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = case / "out"
    out.mkdir()
    inputs = {
        "calibrate/image.nii.gz": case / "image.nii.gz",
        "postprocess/roi.nii.gz": case / "roi.nii.gz",
        "postprocess/labels.json": case / "labels.json",
    }
    result = script.run_case(CaseTask("C1", inputs, {"window": [-160, 240]}, {}, out))
    assert (result.facts, result.warnings) == ({}, [])
    assert [file.name for file in out.iterdir()] == ["overlay.png"]
    with Image.open(out / "overlay.png") as picture:
        assert picture.width > 500

    command = [sys.executable, path, case / "image.nii.gz", case / "roi.nii.gz", "--out", case / "mine.png"]
    subprocess.run(list(map(str, command)), check=True)
    assert (case / "mine.png").read_bytes() == (out / "overlay.png").read_bytes()
