"""A cohort with masks trains a net, a stop costs nothing, and a second run segments with what came out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from harness import Workspace
from training_material import SPACING, ball

from radloom.images import Geometry, Volume, write_nifti

FEATURES = {"imageType": {"Original": {}}, "featureClass": {"firstorder": ["Mean"]}, "setting": {"binWidth": 25}}


def workspace(folder: Path, config: dict) -> Workspace:
    """A cohort of ten patients of two centres with masks of two labels, and one without."""
    made = Workspace(folder)
    data = folder / "data"
    data.mkdir(parents=True)
    geometry = Geometry((40, 32, 6), SPACING, (0.0, 0.0, 0.0))
    for i in range(11):
        for name, array in zip(("image", "mask"), ball(i), strict=True):
            write_nifti(data / f"{name}{i}.nii.gz", Volume(array, geometry))
        row = {"case_id": f"case{i}", "centre": "ab"[i % 2], "image": f"data/image{i}.nii.gz"}
        made.rows.append(row | ({"mask": f"data/mask{i}.nii.gz"} if i != 10 else {"mask": ""}))
    (folder / "features.yaml").write_text(yaml.safe_dump(FEATURES))
    made.config = {
        "results": "results",
        "cohort": "cohort.tsv",
        "cases_per_job": 11,
        "extract": {"params": "features.yaml"},
        "resample": {"spacing": [0, 0, 0]},
        "harmonize": {"small_batch": "passthrough", "min_batch_size": 2},
        **config,
    }
    return made


@pytest.mark.slow
def test_a_run_trains_a_net_and_another_run_uses_it(tmp_path: Path) -> None:
    training = {
        "name": "balls",
        "spacing": [2, 2],
        "architecture": {"channels": [4, 8]},
        "epochs": 10,
        "batch": 4,
        "learning_rate": 0.03,
        "device": "cpu",
    }
    labels = {1: "ball", 2: "core"}
    first = workspace(
        tmp_path / "first",
        {"segment": {"source": "mask", "labels": labels}, "train_segmentation": training},
    )
    done = first.run_command()
    assert done.returncode == 0, done.stderr[-3000:]
    model = first.results / "models" / "balls"
    told = json.loads((model / "model.json").read_text())
    assert told["classes"] == {"1": "ball", "2": "core"}
    assert told["dice"]["validation"]["ball"]["mean_dice"] > 0.7
    exclusions = list(csv.DictReader((first.results / "training" / "exclusions.csv").read_text().splitlines()))
    assert [(e["case_id"], e["reason"]) for e in exclusions] == [("case10", "no mask in the cohort sheet")]
    page = (first.results / "report.html").read_text()
    dice = told["dice"]["validation"]["ball"]["mean_dice"]
    assert "Training of the segmentation net" in page
    assert f"{dice:.3f}" in page
    assert ("train_segmentation", "cohort") in first.computed()
    methods = (first.results / "methods.md").read_text()
    assert "On these regions a 2D net (unet) was trained to find ball and core at 2 x 2 mm in plane" in methods

    # What is lost is trained again, to the same bytes, from the cases in the cache.
    before = {path: path.read_bytes() for path in model.iterdir()}
    cached = {path: path.stat().st_mtime_ns for path in (first.results / "cache").rglob("*.npy")}
    assert len(cached) == 30
    (model / "model.safetensors").unlink()
    assert first.run(until={"train_segmentation"}) == {("train_segmentation", "cohort")}
    assert {path: path.read_bytes() for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in cached} == cached

    second = workspace(tmp_path / "second", {"segment": {"source": "model", "model": str(model), "device": "cpu"}})
    assert ("postprocess", "case10") in second.run(until={"postprocess"})
    from radloom.images import read_nifti

    overlap = []
    for i in (8, 9, 10):
        found = read_nifti(second.results / "cases" / f"case{i}" / "postprocess" / "roi.nii.gz").array
        truth = ball(i)[1]
        overlap.append(2 * np.sum((found > 0) & (truth > 0)) / (np.sum(found > 0) + np.sum(truth > 0)))
    assert min(overlap) > 0.7
