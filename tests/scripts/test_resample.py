"""The script of the step `resample`: by hand and as a step."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from radloom.config import complete
from radloom.engine.step import CaseTask
from radloom.images import Geometry, Volume, read_nifti, write_nifti


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script by hand."""
    command = [sys.executable, repo / "workflow/scripts/resample.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def settings(**section: Any) -> dict[str, Any]:
    """The section of a configuration with these settings."""
    found: dict[str, Any] = complete({"results": "r", "resample": section})["resample"]
    return found


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """A folder with the image and the mask of an ingested case."""
    geometry = Geometry((14, 12, 10), (0.8, 0.8, 3.0), (-5.0, 2.0, 30.0))
    array = np.random.default_rng(0).integers(-1000, 1000, geometry.shape).astype(np.int16)
    write_nifti(tmp_path / "image.nii.gz", Volume(array, geometry))
    mask = np.zeros(geometry.shape, np.uint8)
    mask[3:7, 4:9, 4:9] = 1
    mask[8, 1, 1] = 5
    write_nifti(tmp_path / "mask.nii.gz", Volume(mask, geometry))
    return tmp_path


def test_by_hand_and_as_a_step(repo: Path, case: Path) -> None:
    image, mask = case / "image.nii.gz", case / "mask.nii.gz"
    spacing = ("--spacing", 2, 2, 1.5)
    done = run(repo, image, "--out", case / "i.nii.gz", *spacing, "--mask", mask, "--mask-out", case / "m.nii.gz")
    warning = "label 5 is too small to be left after the resampling"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"warning: {warning}\n", "")
    found = read_nifti(case / "i.nii.gz")
    assert found.array.dtype == np.float32
    assert found.geometry.size == (6, 5, 20)
    assert read_nifti(case / "m.nii.gz").geometry == found.geometry

    spec = importlib.util.spec_from_file_location("resample_script", repo / "workflow/scripts/resample.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    (case / "out").mkdir()
    result = script.run_case(
        CaseTask(
            "case",
            {"ingest/image.nii.gz": image, "ingest/mask.nii.gz": mask},
            settings(spacing=[2, 2, 1.5]),
            {},
            case / "out",
        )
    )
    assert result.facts == {"spacing": [2.0, 2.0, 1.5], "size": [6, 5, 20]}
    assert result.warnings == [warning]
    assert (case / "out/image.nii.gz").read_bytes() == (case / "i.nii.gz").read_bytes()
    assert (case / "out/mask.nii.gz").read_bytes() == (case / "m.nii.gz").read_bytes()


def test_what_cannot_be_done_by_hand(repo: Path, case: Path) -> None:
    image, mask = case / "image.nii.gz", case / "mask.nii.gz"
    out = ("--out", case / "i.nii.gz")
    masks = ("--mask", mask, "--mask-out", case / "m.nii.gz")
    done = run(repo, image, *out, "--spacing", 9, 9, 9, *masks)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nothing of the mask is left at a spacing of 9 x 9 x 9 mm. Set a finer")
    for arguments, message in [
        (("--spacing", 1, 1, 1, "--mask", mask), "go together"),
        (("--spacing", -1, 1, 1), "negative"),
        (("--spacing", 1, 1, 1, "--mask", case / "none.nii.gz", "--mask-out", mask), "No such file"),
    ]:
        done = run(repo, image, *out, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
    moved = read_nifti(mask)
    write_nifti(mask, Volume(moved.array, Geometry(moved.geometry.size, moved.geometry.spacing, (0, 0, 0))))
    assert "not on one grid" in run(repo, image, *out, "--spacing", 1, 1, 1, *masks).stderr
