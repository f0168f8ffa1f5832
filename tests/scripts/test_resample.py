"""The script of the step `resample`: by hand and as a step."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from radloom.config import complete
from radloom.engine.step import CaseResult, CaseTask
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, read_nifti, write_nifti
from radloom.resample import read_sampling, resample_image


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


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("resample_script", repo / "workflow/scripts/resample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_by_hand_and_as_a_step(script: ModuleType, repo: Path, case: Path) -> None:
    image, mask = case / "image.nii.gz", case / "mask.nii.gz"
    spacing = ("--spacing", 2, 2, 1.5)
    done = run(repo, image, "--out", case / "i.nii.gz", *spacing, "--mask", mask, "--mask-out", case / "m.nii.gz")
    warning = "label 5 is too small to be left after the resampling"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"warning: {warning}\n", "")
    found = read_nifti(case / "i.nii.gz")
    assert found.array.dtype == np.float32
    assert found.geometry.size == (6, 5, 20)
    assert read_nifti(case / "m.nii.gz").geometry == found.geometry

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


def step(script: ModuleType, case: Path, row: dict[str, str], **section: Any) -> CaseResult:
    """The step on the case, into its folder `out`."""
    shutil.rmtree(case / "out", ignore_errors=True)
    (case / "out").mkdir()
    inputs = {f"ingest/{path.name}": path for path in case.glob("*.nii.gz")}
    found: CaseResult = script.run_case(CaseTask("case", inputs, settings(**section), row, case / "out"))
    return found


def test_what_is_measured_is_resampled_with_the_image(script: ModuleType, case: Path) -> None:
    image = read_nifti(case / "image.nii.gz")
    valid = np.ones(image.array.shape, np.uint8)
    write_nifti(case / "valid.nii.gz", Volume(valid, image.geometry))
    step(script, case, {}, spacing=[1, 1, 1])
    assert not (case / "out/valid.nii.gz").exists(), "all is measured"
    valid[:, :, :5] = 0
    write_nifti(case / "valid.nii.gz", Volume(valid, image.geometry))
    step(script, case, {}, spacing=[1, 1, 1])
    found, new = read_nifti(case / "out/valid.nii.gz"), read_nifti(case / "out/image.nii.gz")
    assert found.geometry == new.geometry
    x = new.geometry.to_physical([[i, 0, 0] for i in range(new.geometry.size[0])])[:, 0]
    edge = image.geometry.to_physical([5, 0, 0])[0]
    np.testing.assert_array_equal(found.array[3, 3], x >= edge - 1e-6)


def test_a_box_around_the_roi(script: ModuleType, case: Path) -> None:
    """Image, mask and what is measured are on one grid, and have there what the whole has."""
    image = read_nifti(case / "image.nii.gz")
    valid = np.ones(image.array.shape, np.uint8)
    valid[:, :, :5] = 0
    write_nifti(case / "valid.nii.gz", Volume(valid, image.geometry))
    mask = read_nifti(case / "mask.nii.gz")
    write_nifti(case / "mask.nii.gz", Volume(np.where(mask.array == 1, mask.array, 0), mask.geometry))
    whole = {}
    for crop_mm in (None, 1.0):
        result = step(script, case, {}, spacing=[1, 1, 1], crop_mm=crop_mm)
        found = {path.name: read_nifti(path) for path in (case / "out").glob("*.nii.gz")}
        if crop_mm is None:
            whole = found
            continue
        geometry = found["image.nii.gz"].geometry
        assert list(geometry.size) == result.facts["size"]
        assert geometry.size < whole["image.nii.gz"].geometry.size
        low = np.rint(whole["image.nii.gz"].geometry.to_index(geometry.origin)).astype(int)[::-1]
        part = tuple(slice(start, start + n) for start, n in zip(low, geometry.shape, strict=True))
        assert len(found) == 3
        for name, volume in found.items():
            assert volume.geometry == geometry
            np.testing.assert_allclose(volume.array, whole[name].array[part], atol=1e-3)
        assert found["mask.nii.gz"].array.sum() == whole["mask.nii.gz"].array.sum()


def test_a_scan_is_brought_to_the_common_point_spread(script: ModuleType, case: Path) -> None:
    match = {"fwhm_mm": 2.0, "kernels": {"sharp": 0.8, "soft": 2.0, "softer": 2.5}, "thickness_mm": 5.0}
    result = step(script, case, {"kernel": "sharp"}, spacing=[1, 1, 1], match=match)
    fwhm = np.sqrt(8 * np.log(2))
    expected = {
        "psf_fwhm_mm": 0.8,
        "slice_thickness_mm": 3.0,
        "matched_sigma_xy_mm": pytest.approx(np.sqrt(4 - 0.64) / fwhm),
        "matched_sigma_z_mm": pytest.approx(4 / fwhm),
    }
    assert {name: result.facts[name] for name in expected} == expected
    sampling = read_sampling(case / "out/sampling.json")
    again = resample_image(read_nifti(case / "image.nii.gz"), (1, 1, 1), sampling)
    np.testing.assert_array_equal(read_nifti(case / "out/image.nii.gz").array, again.array)
    sharp = again.array.std()
    result = step(script, case, {"kernel": "soft", "psf_fwhm_mm": ""}, spacing=[1, 1, 1], match=match)
    assert result.facts["matched_sigma_xy_mm"] == 0
    assert read_nifti(case / "out/image.nii.gz").array.std() > sharp
    with pytest.raises(CaseError, match=r"point spread of 2\.5 mm is wider than the 2 mm"):
        step(script, case, {"kernel": "softer"}, spacing=[1, 1, 1], match=match)
    result = step(script, case, {"kernel": "softer"}, spacing=[1, 1, 1], match=match | {"blurrier": "warn"})
    assert result.warnings[0].endswith("that scans are matched to: left as it is")
    # The scan's own value comes before its kernel's.
    result = step(script, case, {"kernel": "softer", "psf_fwhm_mm": "1.0"}, spacing=[1, 1, 1], match=match)
    assert result.facts["psf_fwhm_mm"] == 1.0
