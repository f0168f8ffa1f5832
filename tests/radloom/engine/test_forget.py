"""A withdrawn patient's traces go, also those of a training and of the texts that were made with them."""

import json
from pathlib import Path

from radloom.engine.forget import forget


def test_a_trainings_cache_pictures_net_and_all_texts_go(tmp_path: Path) -> None:
    gone = [
        "cases/a2/segment/labels.nii.gz",
        "cache/train_segmentation/cases/a2/image.npy",
        "cache/train_segmentation/checkpoints/0123/last.pt",
        "training/overlays/a2.png",
        "training/split.csv",
        "models/mine/model.safetensors",
        "logs/train_segmentation/cohort.log",
        "report.html",
        "methods.md",
    ]
    kept = ["cases/a1/segment/labels.nii.gz"]
    for name in gone + kept:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("a2")
    plans = {"segment/alpha_0001": ["a1", "a2"], "segment/alpha_0002": ["a1"], "train_segmentation/cohort": []}
    for name, cases in plans.items():
        plan = tmp_path / "plan" / f"{name}.json"
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"cases": cases}))
    assert forget(tmp_path, "a2") == len(gone) + 2
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {name for name in files if not name.startswith(".")} - {*kept, "plan/segment/alpha_0002.json"} == set()
    assert set(kept) <= files
