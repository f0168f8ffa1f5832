"""The script of the step `calibrate`: by hand and as a step."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from radloom.calibrate import read_calibration
from radloom.config import complete
from radloom.engine.step import CaseResult, CaseTask
from radloom.errors import CaseError
from radloom.images import Geometry, Volume, read_nifti, write_nifti


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script by hand."""
    command = [sys.executable, repo / "workflow/scripts/calibrate.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def settings(**section: Any) -> dict[str, Any]:
    """The section of a configuration with these settings, as the step gets it."""
    found: dict[str, Any] = complete({"results": "r", "calibrate": section})["calibrate"]
    return {key: value for key, value in found.items() if key not in ("centres", "phantom_table")} | {"centre": {}}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A block of 45 HU in air, seen through a drift of 0.005."""
    array = np.full((10, 40, 40), -1000.0, np.float32)
    array[:, 12:28, 12:28] = 45
    path = tmp_path / "image.nii.gz"
    write_nifti(path, Volume((array + 1000) / np.float32(1.005) - 1000, Geometry((40, 40, 10), (1, 1, 1), (0, 0, 0))))
    return path


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("calibrate_script", repo / "workflow/scripts/calibrate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_by_hand(repo: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    done = run(repo, image, "--out", out, "--drift", 0.005)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "drift: HU_true = 1.005 HU_observed +5"
    told = done.stdout.splitlines()
    assert told[1] == "standard deviation at -1000 HU: not known"
    assert told[4].startswith("air outside the body: -1000 HU, ")
    assert told[5:] == ["fat: not found", "muscle: not found"], "there are too few voxels"
    found = read_nifti(out)
    assert found.array.dtype == np.int16
    assert found.array[5, 20, 20] == 45
    done = run(repo, image, "--out", out, "--water-hu", -5, "--air-hu", -1000, "--no-round")
    assert done.stdout.startswith("phantom: ")
    assert read_nifti(out).array[5, 20, 20] == pytest.approx(45, abs=0.1)


def test_what_cannot_be_done_by_hand(repo: Path, image: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out.nii.gz")
    for arguments, message in [
        (("--water-hu", 5), "error: water_hu is given, but air_hu is not. Give both"),
        (("--drift", 0.5), "error: drift 0.5 would scale HU by 1.5"),
        (("--drift", 0.1, "--water-hu", 5), "error: give --water-hu and --air-hu, or --drift"),
        (("--drift-sd", 0.1), "error: --drift-sd needs --drift"),
    ]:
        done = run(repo, image, *out, *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith(message)
    assert "No such file" in run(repo, tmp_path / "none.nii.gz", *out).stderr


@pytest.mark.parametrize(
    ("row", "centre", "method", "warned"),
    [
        ({}, {}, "none", False),
        ({"water_hu": "", "air_hu": ""}, {"drift": 0.005}, "drift", False),
        ({"water_hu": "-5", "air_hu": "-1000"}, {"drift": 0.2}, "phantom", False),
        ({}, {"water_hu": 0, "air_hu": -940}, "phantom", True),
    ],
)
def test_as_a_step(
    script: ModuleType,
    image: Path,
    tmp_path: Path,
    row: dict[str, str],
    centre: dict[str, float],
    method: str,
    warned: bool,
) -> None:
    params = settings() | {"centre": centre}
    (tmp_path / "out").mkdir()
    result = script.run_case(CaseTask("case", {"resample/image.nii.gz": image}, params, row, tmp_path / "out"))
    assert result.facts["method"] == method
    found = read_nifti(tmp_path / "out/image.nii.gz").array
    expected = np.rint(read_nifti(image).array * result.facts["slope"] + result.facts["intercept"])
    assert np.abs(found - expected).max() <= 1
    assert result.facts["air_hu"] == pytest.approx(float(found[5, 2, 2]))
    assert result.facts["air_voxels"] > 1000
    assert bool(result.warnings) == warned


def body(padded: bool = False) -> np.ndarray:
    """Muscle in fat in air seen through a gain of 0.96, in HU; with padding of air's true value around it."""
    y, x = np.mgrid[:120, :120] - 60.0
    radius = np.hypot(x, y)
    plane = np.select([radius < 25, radius < 40], [55.0, -100.0], -1000.0) * 0.96
    array = np.repeat(plane[None], 20, axis=0) + np.random.default_rng(0).normal(0, 10, (20, 120, 120))
    if padded:
        array[:, radius > 55] = -1000
    return np.rint(array).astype(np.float32)


def test_references_and_the_mask_of_what_is_measured(script: ModuleType, tmp_path: Path) -> None:
    geometry = Geometry((120, 120, 20), (1, 1, 1), (0, 0, 0))
    y, x = np.mgrid[:120, :120] - 60.0
    valid = np.broadcast_to(np.hypot(x, y) <= 55, geometry.shape).astype(np.uint8)
    inputs = {}
    for name, array in (("image", body(padded=True)), ("valid", valid)):
        inputs[f"resample/{name}.nii.gz"] = tmp_path / f"{name}.nii.gz"
        write_nifti(tmp_path / f"{name}.nii.gz", Volume(array, geometry))
    (tmp_path / "out").mkdir()
    params = settings(references=["fat", "muscle"])
    result = script.run_case(CaseTask("case", inputs, params, {}, tmp_path / "out"))
    assert result.facts["air_hu"] == pytest.approx(-960, abs=1)
    assert result.facts["tissue_hu"] == {"fat": pytest.approx(-96, abs=2), "muscle": pytest.approx(53, abs=2)}
    assert (result.facts["method"], result.facts["source"]) == ("none", "none")
    assert result.facts["sd_hu"] == {"-1000": None, "0": None, "100": None}
    assert result.facts["observed_hu"] == {}, "only what a correction used"

    params |= {"correct_by_references": True}
    result = script.run_case(CaseTask("case", inputs, params, {}, tmp_path / "out"))
    assert (result.facts["method"], result.facts["source"]) == ("references", "image")
    assert result.facts["slope"] == pytest.approx(1 / 0.96, rel=5e-3)
    assert result.facts["air_hu"] == pytest.approx(-1000, abs=2)
    assert result.facts["tissue_hu"]["fat"] == pytest.approx(-100, abs=3)
    # What the correction used, and the same after it.
    observed, slope, intercept = (result.facts[name] for name in ("observed_hu", "slope", "intercept"))
    assert observed == {name: pytest.approx(hu, abs=2) for name, hu in (("air", -960), ("fat", -96), ("muscle", 53))}
    assert result.facts["tissue_hu"] == {n: slope * observed[n] + intercept for n in ("fat", "muscle")}
    assert result.facts["air_hu"] == pytest.approx(slope * observed["air"] + intercept, abs=1), "measured once rounded"
    assert 2 < result.facts["sd_hu"]["0"] < 5
    # What else is known comes first.
    result = script.run_case(CaseTask("case", inputs, params | {"centre": {"drift": 0.01}}, {}, tmp_path / "out"))
    assert (result.facts["method"], result.facts["source"]) == ("drift", "centre")

    inner = Volume(body()[:, 45:75, 45:75], Geometry((30, 30, 20), (1, 1, 1), (0, 0, 0)))
    write_nifti(tmp_path / "image.nii.gz", inner)
    alone = {"resample/image.nii.gz": tmp_path / "image.nii.gz"}
    result = script.run_case(CaseTask("case", alone, params, {}, tmp_path / "out"))
    assert result.facts["method"] == "none"
    assert result.warnings == ["no air around the body was found: not calibrated by references"]


def test_a_table_of_phantoms(script: ModuleType, image: Path, tmp_path: Path) -> None:
    table = tmp_path / "phantoms.tsv"
    table.write_text(
        "scanner\tday\tmaterial\thu_expected\thu_measured\tsd\nS\t5\tair\t-1000\t-1000\t2\nS\t5\twater\t0\t-4.975\t1\n"
    )
    inputs, resources = {"resample/image.nii.gz": image}, {"phantom_table": table}
    (tmp_path / "out").mkdir()

    def run_with(row: dict[str, str], centre: dict[str, float], **more: Any) -> CaseResult:
        params = settings(**more) | {"centre": centre}
        found: CaseResult = script.run_case(CaseTask("case", inputs, params, row, tmp_path / "out", resources))
        return found

    result = run_with({"scanner": "S", "calibration_day": "30"}, {"drift": 0.1})
    assert (result.facts["method"], result.facts["source"]) == ("phantom", "scanner")
    assert result.facts["slope"] == pytest.approx(1.005, rel=1e-5)
    assert result.facts["sd_hu"]["0"] == pytest.approx(1.005, rel=1e-2)
    assert read_nifti(tmp_path / "out/image.nii.gz").array[5, 20, 20] == 45
    assert read_calibration(tmp_path / "out/calibration.json").slope == result.facts["slope"]
    result = run_with({"scanner": "T", "calibration_day": "30"}, {"drift": 0.005})
    assert (result.facts["method"], result.facts["source"]) == ("drift", "centre")
    assert result.warnings == ["the table of phantom measurements has none of the scan's scanner"]
    result = run_with({"water_hu": "-5", "air_hu": "-1000"}, {})
    assert (result.facts["source"], result.warnings) == ("case", [])
    # The scanner by its header, where the sheet doesn't say.
    table.write_text("centre\t" + table.read_text().replace("\nS", "\nA\tForce"))
    inputs["ingest/acquisition.json"] = tmp_path / "acquisition.json"
    inputs["ingest/acquisition.json"].write_text('{"scanner_model": "Force", "kernel": null}')
    result = run_with({"centre": "A", "calibration_day": "30"}, {}, scanner_column="scanner_model")
    assert result.facts["source"] == "scanner"
    result = run_with({"centre": "B", "calibration_day": "30"}, {}, scanner_column="scanner_model")
    assert result.facts["source"] == "none"
    table.write_text(table.read_text().replace("Force", "S"))
    with pytest.raises(CaseError, match="is later than the scan"):
        run_with({"scanner": "S", "calibration_day": "4", "centre": "A"}, {})
