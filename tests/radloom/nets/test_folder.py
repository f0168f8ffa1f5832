"""A model folder gives back what was saved, and everything else is refused with its reason."""

import dataclasses
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

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
        (lambda d: d.pop("hu_window"), "model.json lacks hu_window"),
        (lambda d: d.update(spacing=[2.0]), "is not 2 positive numbers"),
        (lambda d: d.update(spacing=[2.0, 0]), "is not 2 positive numbers"),
        (lambda d: d.update(hu_window=[100, 100]), "is empty"),
        (lambda d: d.update(classes={"1": "organ", "3": "tumour"}), "numbered"),
        (lambda d: d.update(classes={"1": "organ", "2": "organ"}), "same name"),
        (lambda d: d.update(classes={"1": "left lung", "2": "x"}), "class 'left lung' is not a letter"),
        (lambda d: d.update(classes=["organ"]), "classes is no JSON object"),
        (lambda d: d.update(classes={"1": "organ"}), "don't fit the architecture"),
        (lambda d: d["architecture"].update(channels=[2, 8]), "don't fit the architecture"),
        (lambda d: d["architecture"].update(channels=[2, 0]), "must be positive numbers"),
        (lambda d: d["weights"].update(sha256="0" * 64), "sha256 of model.safetensors"),
        (lambda d: d["weights"].update(sha256=None), "is not 64 hexadecimal digits"),
        (lambda d: d["weights"].update(file="../elsewhere.safetensors"), "weights.file is '../elsewhere"),
        (lambda d: d["weights"].update(url="http://x"), "weights has keys that this version doesn't know: url"),
        (lambda d: d.update(weights="model.safetensors"), "weights is no JSON object"),
        (lambda d: d.update(hook="os.system"), "keys that this version doesn't know: hook"),
        (lambda d: d["architecture"].update(width=3), "a key or a value that is none"),
        (lambda d: d["architecture"].update(options={"width": 3}), "has only strides, not width"),
        (lambda d: d["architecture"].update(channels=[2, 10**12]), "must be positive numbers up to 4096"),
        (lambda d: d["architecture"].update(kind="monai:Nonsense"), "channels does nothing in a net of kind 'monai:"),
        (lambda d: d.update(name="../../etc"), "its name '../../etc'"),
        (lambda d: d.update(name=3), "name is no text"),
        (lambda d: d.update(spacing=[2.0, "1.5"]), "spacing has '1.5', which is no usable number"),
        (lambda d: d.update(spacing=[2.0, True]), "spacing has 'True'"),
        (lambda d: d.update(spacing=[2.0, 10**400]), "which is no usable number"),
        (lambda d: d.update(spacing=2.0), "spacing is no list of numbers"),
        (lambda d: d.update(hu_window=[-100]), "are two numbers"),
        (lambda d: d.update(hu_window=[-1e300, 1e300]), "hu_window has"),
        (lambda d: d.update(normalisation=[40.0, 0]), "no positive standard deviation"),
        (lambda d: d.update(normalisation=[40.0]), "are two numbers"),
        (lambda d: d.update(patch=[16, 16.5]), "patch is not whole numbers"),
        (lambda d: d.update(patch=[16, 0]), "is not 2 positive numbers"),
        (lambda d: d.update(patch=[16, 15]), r"patch \[16, 15\] is no multiple of the net's \[2, 2\]"),
        (lambda d: d.update(overlap=1.0), "overlap 1.0 is not a share below 1"),
        (lambda d: d.update(temperature=0), "temperature 0.0 is not positive"),
        (lambda d: d.update(precision="float8"), "its precision is 'float8'"),
        (lambda d: d.update(outputs="logits"), "its outputs are 'logits'"),
        (lambda d: d.update(classes={"01": "organ", "2": "tumour"}), "map numbers from 1 to 255"),
        (lambda d: d.update(classes={"1": ["organ"], "2": "tumour"}), "map numbers from 1 to 255"),
        (lambda d: d.update(training=[]), "training is no JSON object"),
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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "is no JSON"),
        ("[]", "is no JSON object"),
        ('{"format": 2, "format": 2}', "'format' is there twice"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ('{"format": -Infinity}', "-Infinity is no number of JSON"),
        ('{"format": 1e999}', "its format is inf"),
        ('{"format": ' + "9" * 5000 + "}", "is no JSON"),
        ("[" * 200_000, "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        ('"' + "x" * (1 << 20) + '"', "more than the 1048576 that it can need"),
    ],
    ids=range(10),
)
def test_no_json_is_refused(folder: Path, text: str | bytes, reason: str) -> None:
    (folder / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CohortError, match=reason):
        read_description(folder)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "-1e999"])
def test_numbers_that_are_none_are_refused_in_spacing(folder: Path, value: str) -> None:
    text = (folder / "model.json").read_text().replace("1.5", value)
    (folder / "model.json").write_text(text)
    with pytest.raises(CohortError, match=r"no number of JSON|no usable number"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_link_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(CohortError, match=f"{name} is a link"):
        load_model(folder)


def test_a_file_longer_than_the_net_needs_is_not_read(folder: Path) -> None:
    with open(folder / "model.safetensors", "r+b") as stream:
        stream.truncate(1 << 40)  # a terabyte with a hole
    with pytest.raises(CohortError, match="has 1099511627776 bytes, more than the"):
        load_model(folder)


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.pop("last.bias"), "they lack last.bias"),
        (lambda t: [t.pop(name) for name in list(t)[:5]], "they lack .* and 4 more"),
        (lambda t: t.update(extra=torch.zeros(1)), "they have more than the net: extra"),
        (lambda t: t.update({"last.bias": torch.zeros(4)}), r"last.bias is torch.float32 \[4\], the net has .* \[3\]"),
        (lambda t: t.update({"last.bias": torch.zeros(3, dtype=torch.float64)}), "last.bias is torch.float64"),
        (lambda t: t.update({"last.bias": torch.zeros(3, dtype=torch.int32)}), "last.bias is torch.int32"),
        (lambda t: t["last.bias"].fill_(float("nan")), "not finite: last.bias"),
        (lambda t: t["up.0.weight"].fill_(float("inf")), "not finite: up.0.weight"),
        (lambda t: t["first.1.running_var"].fill_(-1.0), "variance among its weights is negative: first.1"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, change: Callable[[Tensors], object], reason: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    replace_weights(folder, save(tensors))
    with pytest.raises(CohortError, match=reason):
        load_model(folder)


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\xff" * 8, b"\x02" + b"\x00" * 7 + b"{}" + b"x", b"PK\x03\x04" + b"0" * 99]
)
def test_what_is_no_safetensors_is_refused(folder: Path, content: bytes) -> None:
    replace_weights(folder, content)
    with pytest.raises(CohortError, match="is no safetensors file"):
        load_model(folder)


@pytest.mark.parametrize("step", ["write", "first", "second"])
def test_a_crash_leaves_the_old_model_or_one_that_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = []

    def crash(*_: object) -> None:
        calls.append(1)
        if step != "second" or len(calls) == 2:
            raise KeyboardInterrupt
        replace(*_)

    replace = os.replace
    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", crash)
    else:
        monkeypatch.setattr(os, "replace", crash)
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        save_model(folder, build_net(Architecture(channels=(2, 4)), 3), DESCRIPTION)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.iterdir()) == sorted(before)
    if step == "second":
        with pytest.raises(CohortError, match="copy the folder again"):
            load_model(folder)
    else:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("net", "changes", "reason"),
    [
        (Architecture(channels=(2, 5)), {}, "don't fit the architecture"),
        (Architecture(channels=(2, 4)), {"patch": (16, 15)}, "no multiple"),
        (Architecture(channels=(2, 4)), {"dice": {"organ": float("nan")}}, "not JSON compliant"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(
    tmp_path: Path, net: Architecture, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        save_model(tmp_path / "x", build_net(net, 3), dataclasses.replace(DESCRIPTION, **changes))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(dimensions=3, channels=(2, 4), norm="group", residual=True, dropout=0.1, deep_supervision=True),
        Architecture("unetplusplus", channels=(2, 4, 4), deep_supervision=True, options={"pruned_to": 1}),
        Architecture("transunet", channels=(2, 4), options={"width": 8, "heads": 2, "layers": 1, "grid": [3, 4]}),
    ],
    ids=lambda a: a.kind,
)
@pytest.mark.parametrize("outputs", ["softmax", "sigmoid"])
def test_every_kind_comes_back_with_the_same_logits(tmp_path: Path, architecture: Architecture, outputs: str) -> None:
    size = (8, 8, 8)[: architecture.dimensions]
    description = ModelDescription(
        "a b", {1: "x", 2: "y"}, size, (-1.0, 1.0), architecture, outputs, normalisation=(40.0, 120.0), patch=size
    )
    torch.manual_seed(0)
    net = build_net(architecture, description.channels_out).eval()
    save_model(tmp_path, net, description)
    state = torch.get_rng_state()
    again, read = load_model(tmp_path)
    assert torch.equal(torch.get_rng_state(), state), "loading a model must not draw random numbers"
    assert read == description
    images = torch.rand(2, 1, *size)
    assert torch.equal(again(images), net(images))
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_a_pickle_is_never_run(folder: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "exploded",)

    replace_weights(folder, pickle.dumps(Bomb()))
    with pytest.raises(CohortError, match="can't be used"):
        load_model(folder)
    assert not (tmp_path / "exploded").exists()


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
