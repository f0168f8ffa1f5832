"""The script of `voxel_maps` by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from radloom.images import Geometry, Volume, write_nifti


def test_by_hand(repo: Path, tmp_path: Path) -> None:
    geometry = Geometry((14, 12, 10), (1.0, 1.0, 1.0), (-5.0, 0.0, 7.0))
    image = np.random.default_rng(1).normal(40, 60, geometry.shape).round().astype(np.int16)
    roi = np.zeros(geometry.shape, dtype=np.uint8)
    roi[3:7, 4:8, 5:9] = 1
    write_nifti(tmp_path / "image.nii.gz", Volume(image, geometry))
    write_nifti(tmp_path / "roi.nii.gz", Volume(roi, geometry))
    command = [str(repo / "workflow/scripts/voxel_maps.py"), *(str(tmp_path / f"{n}.nii.gz") for n in ("image", "roi"))]
    command += ["--params", str(repo / "config/pyradiomics.yaml"), "--out", str(tmp_path / "out"), "--features"]
    done = subprocess.run([sys.executable, *command, "glcm_Idm"], check=True, text=True, capture_output=True)
    assert done.stderr == ""
    names = ["label_1_original_glcm_Idm.nii.gz", "voxel_maps.png"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    done = subprocess.run([sys.executable, *command, "shape_Flatness"], check=False, text=True, capture_output=True)
    assert done.returncode == 1
    assert "shape is a feature of the whole ROI" in done.stderr
