"""The script of the step `ingest`: by hand and as a step."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_files import phantom, write_series
from dicom_masks import Drawn, rtstruct, save

from radloom.images import read_nifti


def run(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script by hand."""
    command = [sys.executable, repo / "workflow/scripts/ingest.py", *arguments]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A folder with an image and a mask in MetaImage."""
    array = np.random.default_rng(0).integers(-1000, 1000, (10, 12, 14)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "DOE_JOHN.mha"))
    sitk.WriteImage(sitk.GetImageFromArray((array > 0).astype(np.uint8)), str(tmp_path / "mask.mha"))
    return tmp_path


def test_by_hand(repo: Path, sources: Path) -> None:
    source, out, meta = sources / "DOE_JOHN.mha", sources / "image.nii.gz", sources / "acquisition.json"
    mask = ("--mask", sources / "mask.mha", "--mask-out", sources / "mask.nii.gz", "--roi", "tumour")
    done = run(repo, source, "--out", out, *mask, "--meta", meta)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    image = read_nifti(out)
    assert image.array.dtype == np.int16
    np.testing.assert_array_equal(read_nifti(sources / "mask.nii.gz").array, image.array > 0)
    facts = json.loads(meta.read_text())
    assert (facts["format"], facts["mask_labels"], facts["roi"], facts["warnings"]) == ("mha", [1], "tumour", [])
    assert "DOE" not in meta.read_text()


def test_a_folder_of_dicom_by_hand(repo: Path, tmp_path: Path) -> None:
    hu = phantom((6, 16, 20))
    hu[:, :, :4] = -2000
    place = {"origin": (0, 0, 0), "spacing": (1, 1, 1), "frame_of_reference": "1.2.9", "series": "1.2.3"}
    write_series(tmp_path / "DOE_JOHN", hu, **place)
    write_series(tmp_path / "DOE_JOHN" / "thin", hu[:4], **{**place, "series": "1.2.4"}, SeriesDescription="Lung")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = Drawn(np.column_stack([10 + 4 * np.cos(angles), 8 + 4 * np.sin(angles), np.full(40, 2.0)]))
    save(rtstruct({"GTV": [circle], "liver": [circle]}, "1.2.9", "1.2.3"), tmp_path / "DOE_JOHN" / "rs")
    out = [tmp_path / f"{name}.nii.gz" for name in ("image", "mask", "valid")]
    meta = tmp_path / "meta.json"
    arguments = ("--out", out[0], "--mask-out", out[1], "--valid-out", out[2], "--meta", meta)
    source = tmp_path / "DOE_JOHN"
    done = run(repo, source, *arguments, "--mask", source, "--series", "thorax*", "--roi", "gtv")
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(read_nifti(out[0]).array, np.where(hu == -2000, -1024, hu))
    np.testing.assert_array_equal(read_nifti(out[2]).array, hu != -2000)
    # A disc of radius 4 on whole voxels, on the one slice that was drawn on.
    x, y = np.meshgrid(np.arange(20) - 10, np.arange(16) - 8)
    mask = read_nifti(out[1]).array
    assert mask.sum() == pytest.approx((x**2 + y**2 < 16).sum(), abs=4)
    assert set(np.flatnonzero(mask.any(axis=(1, 2)))) == {2}
    assert not {"DOE", "1.2.9", "1.2.3", "GTV"} & set(meta.read_text().split('"'))
    assert "DOE" not in meta.read_text() + done.stdout
    done = run(repo, source, *arguments, "--mask", source, "--roi", "gtv")
    assert done.returncode == 1
    assert "2 CT series to choose from" in done.stderr
    assert "DOE" not in done.stderr


def test_a_damaged_file_by_hand(repo: Path, sources: Path) -> None:
    source = sources / "DOE_JOHN.mha"
    source.write_bytes(source.read_bytes()[:900])
    done = run(repo, source, "--out", sources / "image.nii.gz")
    assert done.returncode == 1
    assert done.stderr == (
        "error: the image can't be read as MetaImage: truncated or damaged. Copy or export the file again.\n"
    )
    assert not (sources / "image.nii.gz").exists()


def test_arguments_that_do_not_fit(repo: Path, sources: Path) -> None:
    source = sources / "DOE_JOHN.mha"
    for extra, message in [(("--mask", source), "go together"), (("--roi", "tumour"), "give --mask as well")]:
        done = run(repo, source, "--out", sources / "image.nii.gz", *extra)
        assert done.returncode == 1
        assert message in done.stderr
    done = run(repo, "--help")
    assert done.returncode == 0
    assert "--mask-out mask.nii.gz" in done.stdout
