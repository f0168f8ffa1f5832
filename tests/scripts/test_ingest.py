"""The script of the step `ingest`: by hand and as a step."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

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
