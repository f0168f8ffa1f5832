"""An outside segmenter through the whole chain: tables, exclusions, and what a change computes."""

import io
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import yaml
from harness import Workspace, write_case

STAND_IN = Path(__file__).parents[1] / "helpers/stand_in_segmenter.py"
FEATURES = {"imageType": {"Original": {}}, "featureClass": {"firstorder": ["Mean"]}, "setting": {"binWidth": 25}}


def table(workspace: Workspace, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(workspace.tables()[f"{name}.csv"]), keep_default_na=False)


def test_an_outside_segmenter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(tmp_path / "workspace")
    workspace.folder.mkdir()
    for seed, case_id in enumerate(("a1", "a2")):
        path, _ = write_case(tmp_path, case_id, seed)
        workspace.rows.append({"case_id": case_id, "centre": "alpha", "image": str(path)})
    # One case has something as dense as bone, with which the program waits for ever.
    image = sitk.ReadImage(workspace.row("a2")["image"])
    array = sitk.GetArrayFromImage(image)
    array[7, 10, 10] = 900
    dense = sitk.GetImageFromArray(array)
    dense.CopyInformation(image)
    sitk.WriteImage(dense, workspace.row("a2")["image"])
    (workspace.folder / "features.yaml").write_text(yaml.safe_dump(FEATURES))
    words = shlex.join([sys.executable, str(STAND_IN), "waits_with_bone"])
    (tmp_path / "waits").touch()
    monkeypatch.setenv("STAND_IN_WAITS", str(tmp_path / "waits"))
    workspace.config = {
        "results": "results",
        "cohort": "cohort.tsv",
        "max_excluded_fraction": 0.5,
        "extract": {"params": "features.yaml", "rois": ["soft"]},
        "segment": {
            "source": "command",
            "command": f"{words} {{image}} {{labels}}",
            "labels": {"3": "soft"},
            "command_timeout_s": 6,
        },
    }
    assert {("segment", "a1"), ("segment", "a2")} <= workspace.run()
    assert table(workspace, "features_raw")["case_id"].tolist() == ["a1"]
    exclusions = table(workspace, "exclusions")
    assert exclusions["case_id"].tolist() == ["a2"]
    assert exclusions["reason"].str.startswith("segment.command took longer than 6 s").all()
    # A ball of 40 HU, somewhat lower at its edge, where the resampling mixes it with fat.
    assert np.isclose(table(workspace, "features_raw")["original_firstorder_Mean"], 37, atol=2).all()

    # More time: the case that had too little is tried again, and no other.
    (tmp_path / "waits").unlink()
    workspace.set("segment", command_timeout_s=60)
    computed = workspace.run()
    assert {case for step, case in computed if step == "segment"} == {"a2"}
    assert table(workspace, "features_raw")["case_id"].tolist() == ["a1", "a2"]

    # The user says that it is another program now; what it finds is the same, so that the wave stops there.
    workspace.set("segment", command_version="2")
    assert workspace.run() == {("segment", "a1"), ("segment", "a2")}
