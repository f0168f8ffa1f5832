"""The script of the step `segment`: as a case of the workflow, and by hand."""

import argparse
import dataclasses
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from radloom.engine.step import CaseTask, main
from radloom.errors import CaseError, CohortError
from radloom.images import Geometry, Volume, read_nifti, write_nifti
from radloom.phantoms import Scanner, draw_anatomy, make_phantom
from radloom.uncertainty_scores import read_scores

SETTINGS: dict[str, Any] = {
    "labels": {},
    "model": None,
    "device": "cpu",
    "batch": "auto",
    "tta": [],
    "cpu_precision": "float32",
    "uncertainty": {"samples": 0, "maps": False},
    "saliency": {"classes": [], "tau": 0.5},
}


@pytest.fixture(scope="module")
def script(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("segment_script", repo / "workflow/scripts/segment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    rng = np.random.default_rng([40_000, 1])
    made = make_phantom(draw_anatomy(rng), Scanner((2.0, 2.0, 4.0), 2.0, 8.0), rng)
    nz, ny, nx = made.image.shape
    geometry = Geometry((nx, ny, nz), made.spacing, (-99.0, -79.0, -46.0))
    write_nifti(folder / "image.nii.gz", Volume(np.rint(made.image).astype(np.int16), geometry))
    write_nifti(folder / "mask.nii.gz", Volume(made.labels, geometry))
    return folder


def task(folder: Path, out: Path, row: dict[str, str] | None = None, **settings: Any) -> CaseTask:
    out.mkdir()
    inputs = {"calibrate/image.nii.gz": folder / "image.nii.gz", "resample/mask.nii.gz": folder / "mask.nii.gz"}
    repo = Path(__file__).parents[2]
    return CaseTask(
        case_id="case",
        inputs={key: path for key, path in inputs.items() if path.exists()},
        params={**SETTINGS, **settings},
        row=row or {},
        out=out,
        resources={"model": repo / "resources/models/demo_unet"},
    )


@pytest.fixture(scope="module")
def dropout_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net that nobody trained, with dropout: it finds something, and its samples differ."""
    import torch

    from radloom.nets.architecture import Architecture, build_net
    from radloom.nets.folder import ModelDescription, save_model

    folder = tmp_path_factory.mktemp("models") / "untrained"
    architecture = Architecture(channels=(4, 8), dropout=0.3)
    description = ModelDescription("untrained", {1: "organ", 2: "tumour"}, (4.0, 4.0), (-160.0, 240.0), architecture)
    torch.manual_seed(3)
    net = build_net(architecture, 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(2)  # the logits of a net that was just drawn are all alike
    save_model(folder, net, description)
    return folder


def test_samples_and_saliency_are_written(
    script: ModuleType, phantom: Path, tmp_path: Path, dropout_model: Path
) -> None:
    import nibabel as nib

    plain = task(phantom, tmp_path / "plain", source="model")
    plain.resources["model"] = dropout_model
    script.run_case(plain)
    more = {"uncertainty": {"samples": 3, "maps": True}, "saliency": {"classes": ["organ"], "tau": 0.4}}
    case = task(phantom, tmp_path / "out", source="model", **more)
    case.resources["model"] = dropout_model
    result = script.run_case(case)
    # What is asked beside the labels doesn't change them.
    assert (case.out / "labels.nii.gz").read_bytes() == (plain.out / "labels.nii.gz").read_bytes()

    image = read_nifti(phantom / "image.nii.gz")
    maps = {}
    for name in ("mean", "total", "aleatoric", "epistemic"):
        stored = nib.load(case.out / f"uncertainty_{name}.nii.gz")
        assert stored.get_data_dtype() == np.uint16
        maps[name] = np.asarray(stored.dataobj).T
        assert maps[name].shape == image.array.shape
    assert 0.5 < maps["mean"].max() <= 1
    assert 0 < maps["epistemic"].max() <= 0.25
    # Each of the three is rounded to a step of 0.25 / 65535.
    assert np.abs(maps["total"] - maps["aleatoric"] - maps["epistemic"]).max() <= 3 * 0.25 / 65535
    scores = read_scores(case.out / "uncertainty.json")
    assert 0 < scores["organ"].pairwise_dice < 1
    assert result.facts["uncertainty"]["organ"]["volume_cv"] == scores["organ"].volume_cv > 0

    saliency = read_nifti(case.out / "saliency_organ.nii.gz")
    roi = read_nifti(case.out / "saliency_organ_roi.nii.gz")
    assert saliency.geometry == roi.geometry == image.geometry
    assert saliency.array.max() == 1
    assert np.array_equal(roi.array, saliency.array >= 0.4)
    assert result.facts["saliency_ml"]["organ"] == pytest.approx(roi.array.sum() * 16 / 1000)
    assert (case.out / "saliency.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_samples_by_hand(
    script: ModuleType, phantom: Path, tmp_path: Path, dropout_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = task(phantom, tmp_path / "out", source="model", uncertainty={"samples": 2, "maps": False})
    case.resources["model"] = dropout_model
    script.run_case(case)
    command = ["segment.py", phantom / "image.nii.gz", "--model", dropout_model, "--out", tmp_path / "labels.nii.gz"]
    command += ["--device", "cpu", "--uncertainty", tmp_path / "by_hand.json", "--samples", 2]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    main(script.STEP, script.add_arguments, script.by_hand)
    assert (tmp_path / "by_hand.json").read_bytes() == (case.out / "uncertainty.json").read_bytes()


def test_an_ensemble_needs_no_dropout(script: ModuleType, phantom: Path, tmp_path: Path, dropout_model: Path) -> None:
    case = task(phantom, tmp_path / "out", source="model", uncertainty={"samples": 1, "maps": False})
    demo = case.resources.pop("model")
    case.resources.update({"model.a": dropout_model, "model.b": demo})
    with pytest.raises(CohortError, match="one spacing"):
        script.run_case(case)
    case.resources["model.b"] = dropout_model
    scores = script.run_case(case).facts["uncertainty"]
    # The same net twice, without dropout: samples that agree.
    assert (scores["organ"]["pairwise_dice"], scores["organ"]["volume_cv"]) == (1.0, 0.0)
    assert sorted(path.name for path in case.out.iterdir()) == ["labels.json", "labels.nii.gz", "uncertainty.json"]


def test_a_mask_of_the_cohort_sheet(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    case = task(phantom, tmp_path / "out", source="mask", labels={"2": "tumour", "5": "node"})
    result = script.run_case(case)
    mask, labels = read_nifti(phantom / "mask.nii.gz"), read_nifti(case.out / "labels.nii.gz")
    assert np.array_equal(labels.array, np.where(mask.array == 2, 2, 0))
    assert labels.geometry == mask.geometry
    assert json.loads((case.out / "labels.json").read_text()) == {"2": "tumour", "5": "node"}
    tumour = int((mask.array == 2).sum())
    assert result.facts == {"source": "mask", "voxels": {"tumour": tumour, "node": 0}}
    assert result.warnings == ["the mask's labels 1 are not in segment.labels and are ignored"]


def test_the_column_roi_name_names_the_only_roi(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    case = task(phantom, tmp_path / "out", {"roi_name": "liver"}, source="mask")
    assert list(script.run_case(case).facts["voxels"]) == ["liver"]
    assert json.loads((case.out / "labels.json").read_text()) == {"1": "liver"}


def test_a_case_without_a_mask(script: ModuleType, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/image.nii.gz").symlink_to(phantom / "image.nii.gz")
    with pytest.raises(CaseError, match="no mask in the cohort sheet"):
        script.run_case(task(tmp_path / "bare", tmp_path / "out", source="mask"))


def test_a_model_gives_the_same_labels_as_by_hand(
    script: ModuleType, phantom: Path, tmp_path: Path, repo: Path
) -> None:
    case = task(phantom, tmp_path / "out", source="model")
    result = script.run_case(case)
    assert result.facts["source"] == "model"
    assert (result.facts["device"], result.facts["precision"]) == ("cpu", ["float32"])
    assert min(result.facts["voxels"].values()) > 50
    assert json.loads((case.out / "labels.json").read_text()) == {"1": "organ", "2": "tumour"}
    command = [sys.executable, repo / "workflow/scripts/segment.py", phantom / "image.nii.gz", "--device", "cpu"]
    command += ["--model", repo / "resources/models/demo_unet", "--out", tmp_path / "by_hand.nii.gz"]
    command += ["--labels-out", tmp_path / "by_hand.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "by_hand.nii.gz").read_bytes() == (case.out / "labels.nii.gz").read_bytes()
    assert (tmp_path / "by_hand.json").read_bytes() == (case.out / "labels.json").read_bytes()
    litres = result.facts["voxels"]["tumour"] * 16 / 1000
    assert f"2 tumour: {litres:.2f} ml" in done.stdout


def test_by_hand_errors_are_one_line(phantom: Path, tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/segment.py", phantom / "image.nii.gz"]
    command += ["--model", tmp_path, "--out", tmp_path / "labels.nii.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the model folder")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "labels.nii.gz").exists()


def test_by_hand_a_folder_that_is_not_there_is_one_line(phantom: Path, tmp_path: Path, repo: Path) -> None:
    command = [sys.executable, repo / "workflow/scripts/segment.py", phantom / "image.nii.gz", "--device", "cpu"]
    command += ["--model", repo / "resources/models/demo_unet", "--out", tmp_path / "none" / "labels.nii.gz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_several_models_are_an_ensemble(script: ModuleType, phantom: Path, tmp_path: Path, repo: Path) -> None:
    model = repo / "resources/models/demo_unet"
    alone = task(phantom, tmp_path / "alone", source="model")
    script.run_case(alone)
    pair = dataclasses.replace(
        task(phantom, tmp_path / "pair", source="model", tta=["y"]), resources={"model.b": model, "model.a": model}
    )
    result = script.run_case(pair)
    assert result.facts["precision"] == ["float32"]
    first, second = (read_nifti(case.out / "labels.nii.gz").array for case in (alone, pair))
    # Mirroring moves the rim of the ROIs here and there.
    assert 0 < np.mean(first != second) < 0.03


def test_by_hand_a_batch_is_a_positive_number(script: ModuleType) -> None:
    assert script._batch("auto") == "auto"
    assert script._batch("3") == 3
    for word in ("0", "-1", "two"):
        with pytest.raises(argparse.ArgumentTypeError):
            script._batch(word)


def by_command(repo: Path, image: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, repo / "workflow/scripts/segment.py", image, "--out", out, *options],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_outside_segmenter_by_hand(repo: Path, phantom: Path, tmp_path: Path) -> None:
    stand_in = shlex.join([sys.executable, str(repo / "tests/helpers/stand_in_segmenter.py"), "good"])
    command = f"{stand_in} {{image}} {{labels}}"
    image, out = phantom / "image.nii.gz", tmp_path / "labels.nii.gz"
    done = by_command(repo, image, out, "--command", command, "--label", "3=soft", "--label", "4=other")
    assert done.returncode == 0, done.stderr
    array = read_nifti(image).array
    expected = (array > 0) & (array <= 500)
    assert np.array_equal(read_nifti(out).array == 3, expected)
    assert done.stdout.startswith("3 soft: ")
    assert "warning: the mask's labels 9" in done.stderr or array.max() <= 500
    for options, reason in ((("--label", "soft"), "NUMBER=NAME"), ((), "must name the labels")):
        refused = by_command(repo, image, tmp_path / "none.nii.gz", "--command", command, *options)
        assert refused.returncode == 1
        assert refused.stderr.startswith("error: ")
        assert reason in refused.stderr
    assert not (tmp_path / "none.nii.gz").exists()
