"""A model folder gives back what was saved, and everything else is refused with its reason."""

import dataclasses
import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from radloom.errors import CohortError
from radloom.nets.architecture import Architecture, build_net
from radloom.nets.folder import ModelDescription, load_model, read_description, save_model

DESCRIPTION = ModelDescription(
    name="tiny",
    classes={1: "organ", 2: "tumour"},
    spacing=(2.0, 1.5),
    hu_window=(-100.0, 200.0),
    architecture=Architecture(channels=(2, 4)),
    training={"seed": 3},
    dice={"organ": {"mean": 0.5}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(tmp_path / "tiny", build_net(Architecture(channels=(2, 4)), 3), DESCRIPTION)
    return tmp_path / "tiny"


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "model.json").read_text())
    change(document)
    (folder / "model.json").write_text(json.dumps(document))


def replace_weights(folder: Path, content: bytes) -> None:
    """Weights that the sha256 in the description vouches for."""
    (folder / "model.safetensors").write_bytes(content)
    edit(folder, lambda d: d["weights"].update(sha256=hashlib.sha256(content).hexdigest()))


def test_a_folder_gives_back_what_was_saved(folder: Path) -> None:
    torch.manual_seed(0)
    original = build_net(Architecture(channels=(2, 4)), 3)
    net, description = load_model(folder)
    assert description == DESCRIPTION
    assert not net.training
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in net.state_dict().items())
    assert sorted(p.name for p in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_saving_is_deterministic(folder: Path, tmp_path: Path) -> None:
    net, description = load_model(folder)
    save_model(tmp_path / "again", net, description)
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.update(format=1), "its format is 1"),
        (lambda d: d["architecture"].update(kind="resnet"), "the architecture 'resnet' is none of"),
        (lambda d: d.update(orientation="RAS"), "its orientation is 'RAS'"),
        (lambda d: d.pop("hu_window"), "lacks or misstates something"),
        (lambda d: d.update(spacing=[2.0]), "is not 2 positive numbers"),
        (lambda d: d.update(spacing=[2.0, 0]), "is not 2 positive numbers"),
        (lambda d: d.update(hu_window=[100, 100]), "is empty"),
        (lambda d: d.update(classes={"1": "organ", "3": "tumour"}), "numbered"),
        (lambda d: d.update(classes={"1": "organ", "2": "organ"}), "same name"),
        (lambda d: d.update(classes={"1": "left lung", "2": "x"}), "class 'left lung' is not a letter"),
        (lambda d: d.update(classes=["organ"]), "lacks or misstates something"),
        (lambda d: d.update(classes={"1": "organ"}), "don't fit the architecture"),
        (lambda d: d["architecture"].update(channels=[2, 8]), "don't fit the architecture"),
        (lambda d: d["architecture"].update(channels=[2, 0]), "must be positive numbers"),
        (lambda d: d["weights"].update(sha256="0" * 64), "sha256 of model.safetensors"),
    ],
)
def test_a_wrong_description_is_refused(folder: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    edit(folder, change)
    with pytest.raises(CohortError, match=reason):
        load_model(folder)


def test_a_tampered_file_is_refused(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(CohortError, match="copy the folder again"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CohortError, match=f"it has no {name}"):
        load_model(folder)


def test_no_json_is_refused(folder: Path) -> None:
    (folder / "model.json").write_text("{")
    with pytest.raises(CohortError, match="is no JSON"):
        read_description(folder)


def test_a_pickle_is_never_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    replace_weights(folder, pickle.dumps(Bomb()))
    with pytest.raises(CohortError, match="can't be used"):
        load_model(folder)
    assert not (tmp_path / "exploded").exists()


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["last.bias"][0] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    replace_weights(folder, (tmp_path / "nan.safetensors").read_bytes())
    with pytest.raises(CohortError, match="not finite"):
        load_model(folder)


def test_messages_hold_no_path(folder: Path) -> None:
    (folder / "model.json").unlink()
    with pytest.raises(CohortError) as caught:
        load_model(folder)
    assert "'tiny'" in str(caught.value)
    assert str(folder.parent) not in str(caught.value)


def test_a_description_is_a_value(folder: Path) -> None:
    description, sha256 = read_description(folder)
    assert sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert dataclasses.replace(description, name="other") != description
