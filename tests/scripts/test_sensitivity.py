"""The scripts of `sensitivity` and `sensitivity_table` by hand."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np

from radloom.images import Geometry, Volume, write_nifti


def test_by_hand(repo: Path, tmp_path: Path) -> None:
    geometry = Geometry((20, 18, 16), (1.0, 1.0, 1.0), (-5.0, 0.0, 7.0))
    roi = np.zeros(geometry.shape, dtype=np.uint8)
    roi[3:11, 4:12, 5:13] = 1
    write_nifti(tmp_path / "roi.nii.gz", Volume(roi, geometry))
    (tmp_path / "params.yaml").write_text("featureClass: {firstorder: [Entropy], shape: [VoxelVolume]}\n")
    scripts = repo / "workflow/scripts"
    files = []
    for k in range(3):
        image = np.random.default_rng(k).normal(40, 20 + 5 * k, geometry.shape).round().astype(np.int16)
        write_nifti(tmp_path / "image.nii.gz", Volume(image, geometry))
        files.append(tmp_path / f"c{k}.csv")
        command = [scripts / "sensitivity.py", tmp_path / "image.nii.gz", tmp_path / "roi.nii.gz", "--bin-width", "5"]
        command += ["--params", tmp_path / "params.yaml", "--out", files[-1]]
        command += ["--spacing", "2", "2", "2", "--spacing", "9", "9", "9"]
        done = subprocess.run([sys.executable, *map(str, command)], check=True, text=True, capture_output=True)
        assert "spacing 9 x 9 x 9" in done.stderr
    command = [scripts / "sensitivity_table.py", *files, "--out", tmp_path]
    done = subprocess.run([sys.executable, *map(str, command)], check=True, text=True, capture_output=True)
    assert done.stdout.startswith("3 cases, 6 rows in ")
    with open(tmp_path / "tables/sensitivity.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["setting"], r["n"]) for r in rows[::2]] == [("5", "3"), ("2 x 2 x 2", "3"), ("9 x 9 x 9", "0")]
    volume, entropy = rows[0], rows[1]
    assert (volume["feature"], float(volume["median_change"])) == ("original_shape_VoxelVolume", 0)
    assert float(entropy["median_change"]) > 0.5
