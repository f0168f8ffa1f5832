"""An exported net gives the folder's logits at every size, and says what it is."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from living_nets import enliven

from radloom.errors import CohortError
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription, load_model, save_model
from radloom.nets.onnx_export import export_onnx, largest_difference

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TRANSFORMER = {"width": 16, "heads": 2, "layers": 1, "mlp": 2, "grid": [4, 6]}


def saved(folder: Path, architecture: Architecture, seed: int = 0) -> Path:
    size = (16,) * architecture.dimensions
    description = ModelDescription("m", {1: "x", 2: "y"}, size, (-1.0, 1.0), architecture, patch=size)
    torch.manual_seed(seed)
    save_model(folder, enliven(build_net(architecture, 3), torch.randn(2, architecture.inputs, *size)), description)
    return folder


def test_logits_are_the_folders_at_two_sizes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", Architecture(channels=(4, 8), slices=3, dropout=0.3, deep_supervision=True))
    export_onnx(folder, tmp_path / "out" / "m.onnx")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["m.onnx"]
    # float32 sums in another order, logits of order 1.
    assert largest_difference(folder, tmp_path / "out" / "m.onnx") <= 1e-4
    assert largest_difference(folder, tmp_path / "out" / "m.onnx", (20, 7)) <= 1e-4

    session = onnxruntime.InferenceSession(tmp_path / "out" / "m.onnx", providers=["CPUExecutionProvider"])
    described = json.loads(session.get_modelmeta().custom_metadata_map["radloom"])
    assert described == json.loads((folder / "model.json").read_text())
    images = torch.rand(5, 3, 6, 34)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), load_model(folder)[0](images), rtol=0, atol=1e-4)

    other = saved(tmp_path / "other", Architecture(channels=(4, 8), slices=3), seed=1)
    with pytest.raises(CohortError, match="exported from another model"):
        largest_difference(other, tmp_path / "out" / "m.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(dimensions=3, channels=(4, 8), norm="instance", residual=True),
        Architecture("unetplusplus", channels=(4, 8, 12), norm="group", dilation=(1, 2, 1)),
        Architecture("transunet", channels=(4, 8, 12), options=TRANSFORMER),
    ],
    ids=lambda a: a.kind,
)
def test_every_kind_can_be_exported(tmp_path: Path, architecture: Architecture) -> None:
    folder = saved(tmp_path / "m", architecture)
    export_onnx(folder, tmp_path / "m.onnx")
    for parts in ((4, 2, 5), (3, 6, 3)):
        assert largest_difference(folder, tmp_path / "m.onnx", parts[-architecture.dimensions :]) <= 1e-4


def test_a_fixed_size(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", Architecture(channels=(2, 4)))
    export_onnx(folder, tmp_path / "m.onnx", (8, 6))
    assert largest_difference(folder, tmp_path / "m.onnx") <= 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [1, 1, 8, 6]
    with pytest.raises(CohortError, match=r"can't be exported \(images of \(8, 5\) are not multiples"):
        export_onnx(folder, tmp_path / "m.onnx", (8, 5))


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = saved(tmp_path / "m", Architecture(channels=(2, 4)))
    monkeypatch.setitem(sys.modules, name, None)
    call: Any = largest_difference if name == "onnxruntime" else export_onnx
    with pytest.raises(CohortError, match=rf"can't import {name}: .*-e .\.\[onnx\]"):
        call(folder, tmp_path / "m.onnx")


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match=r"it has no model\.json"):
        export_onnx(tmp_path, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
