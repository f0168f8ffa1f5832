"""A model on disk: a folder with `model.safetensors` (the weights) and `model.json` (all that is needed to use them).

Nothing is unpickled, so that a model from elsewhere can hold wrong numbers but no program. What the description and
the weights say is checked against each other before memory is taken for the net.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from radloom.errors import CohortError
from radloom.labels import ROI_NAME
from radloom.nets.architecture import NETS, Architecture, build_net, read_architecture
from radloom.nets.net import Net

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
FORMAT = 2
ORIENTATION = "LPS"
DESCRIPTION_BYTES = 1 << 20
"""A longer description is none."""
HEADER_BYTES = 1 << 20
"""What a file of weights may be longer than its numbers, for their names and shapes."""
REGION_FOLDER = "region"
"""Within a model's folder, the folder of the model that finds its region."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,63}")


@dataclass(frozen=True)
class Region:
    """Where a net looks: what another model, in `REGION_FOLDER`, finds. Raises ValueError for what can't be.

    The largest part of a label counts, resampled to the net's grid; the scan is cut to its box.
    """

    label: str
    """Name of the label."""
    neck_mm: float
    """Parts between which a ball of this radius can't pass are apart."""
    margin: int
    """How many times the label is grown on the net's grid, each time by the 18 neighbours of a voxel."""
    outside_hu: float
    """HU that voxels of the box get that aren't in the grown label."""

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not ROI_NAME.fullmatch(self.label):
            raise ValueError("region.label is no name of a label")
        if type(self.margin) is not int or not 0 <= self.margin <= 100:
            raise ValueError("region.margin is not a whole number from 0 to 100")
        if _number(self.neck_mm, "region.neck_mm") < 0:
            raise ValueError("region.neck_mm is negative")
        _number(self.outside_hu, "region.outside_hu")


@dataclass(frozen=True)
class ModelDescription:
    """What a net needs to be used rightly, and where it comes from. Raises ValueError for one that can't be."""

    name: str
    classes: dict[int, str]
    """Class number to ROI name, from 1 on without a gap; 0 is the background and isn't named."""
    spacing: tuple[float, ...]
    """Voxel spacing in mm along x, y and, for a net of 3 dimensions, z that the net works at."""
    hu_window: tuple[float, float]
    """HU that values are cut off at."""
    architecture: Architecture = field(default_factory=Architecture)
    outputs: str = "softmax"
    """`softmax`: a channel for the background and one a class; the largest decides. `sigmoid`: a channel a class; the
    largest decides where it is above one half, so that a voxel has one label."""
    normalisation: tuple[float, float] | None = None
    """Mean and standard deviation in HU of which the cut values become standard scores; None: the window becomes
    0 .. 1."""
    outside_hu: float | None = None
    """HU that a window has where it reaches beyond the image; None: the window's lower end."""
    patch: tuple[int, ...] = ()
    """Voxels ([z,] y, x) of a window of the prediction; empty: whole slices (2 dimensions)."""
    overlap: float = 0.5
    """Share of a window that the next one covers again."""
    precision: str = "float32"
    """What the net is computed in: `float32`, `bfloat16` or `float16` (CUDA alone)."""
    region: Region | None = None
    """What the scan is cut to; None: nothing."""
    temperature: float = 1.0
    """What logits are divided by for calibrated probabilities (Guo et al., ICML 2017)."""
    licence: str = ""
    """Licence of the weights."""
    training: dict[str, Any] = field(default_factory=dict)
    """Data with their fingerprint, seeds and settings of the training."""
    dice: dict[str, Any] = field(default_factory=dict)
    """Dice coefficients on data that the training hasn't seen."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"its name {self.name[:80]!r} is not up to 64 letters, digits, dots, dashes and spaces")
        if sorted(self.classes) != list(range(1, len(self.classes) + 1)) or not 1 <= len(self.classes) <= 255:
            raise ValueError(f"its classes are numbered {sorted(self.classes)}, not 1, 2, 3 ... up to 255")
        for name in self.classes.values():
            if not ROI_NAME.fullmatch(name):
                raise ValueError(
                    f"the class {name!r} is not a letter followed by up to 31 letters, digits or underscores"
                )
        if len(set(self.classes.values())) != len(self.classes):
            raise ValueError("two of its classes have the same name")
        dimensions = self.architecture.dimensions
        if len(self.spacing) != dimensions or not all(0 < s < math.inf for s in self.spacing):
            raise ValueError(f"its spacing {self.spacing} is not {dimensions} positive numbers")
        if not -math.inf < self.hu_window[0] < self.hu_window[1] < math.inf:
            raise ValueError(f"its HU window {self.hu_window} is empty")
        if self.region is not None and self.region.label in self.classes.values():
            raise ValueError(f"its region {self.region.label!r} has the name of one of its classes")
        if self.region is not None and len(self.classes) == 255:
            raise ValueError("with a region it has 254 classes at most")
        if self.outputs not in ("softmax", "sigmoid"):
            raise ValueError(f"its outputs are {self.outputs!r}, not 'softmax' or 'sigmoid'")
        if self.normalisation is not None and not (
            math.isfinite(self.normalisation[0]) and 0 < self.normalisation[1] < math.inf
        ):
            raise ValueError(f"its normalisation {self.normalisation} has no mean or no positive standard deviation")
        if self.outside_hu is not None and not self.hu_window[0] <= self.outside_hu <= self.hu_window[1]:
            raise ValueError(f"its outside_hu {self.outside_hu} is not within its HU window")
        if self.patch and (len(self.patch) != dimensions or min(self.patch) < 1):
            raise ValueError(f"its patch {self.patch} is not {dimensions} positive numbers")
        if dimensions == 3 and not self.patch:
            raise ValueError("a net of 3 dimensions needs a patch")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"its overlap {self.overlap} is not a share below 1")
        if self.precision not in ("float32", "bfloat16", "float16"):
            raise ValueError(f"its precision is {self.precision!r}, not float32, bfloat16 or float16")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"its temperature {self.temperature} is not positive")

    @property
    def channels_out(self) -> int:
        """Channels of the net's logits."""
        return len(self.classes) + (1 if self.outputs == "softmax" else 0)


def save_model(folder: Path, net: nn.Module, description: ModelDescription) -> None:
    """Write the net's weights and its description into `folder`, each whole or not at all, the description last.

    A kill between the two leaves a folder whose description doesn't vouch for its weights, which `load_model` refuses.
    Raises ValueError for a net that `load_model` would refuse, and where `training` or `dice` hold a NaN (None is
    what isn't estimable).
    """
    state = {name: tensor.detach().contiguous().cpu() for name, tensor in net.state_dict().items()}
    if problem := _misfit(_empty_net(description), state, description):
        raise ValueError(f"the net can't be saved: {problem}")
    weights = save_tensors(state)
    document = {
        "format": FORMAT,
        "orientation": ORIENTATION,
        **asdict(description),
        "weights": {"file": WEIGHTS_FILE, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    if description.region is None:
        del document["region"]
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    contents = {WEIGHTS_FILE: weights, DESCRIPTION_FILE: text.encode()}
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    try:
        for name, content in contents.items():
            temporary[name].write_bytes(content)
        for name, path in temporary.items():
            os.replace(path, folder / name)
    except BaseException:
        for path in temporary.values():
            path.unlink(missing_ok=True)
        raise


def read_description(folder: Path) -> tuple[ModelDescription, str]:
    """Read and check `model.json`; returns the description and the sha256 that the weights must have.

    Raises CohortError saying what is wrong with the folder.
    """
    content = _read(folder, DESCRIPTION_FILE, DESCRIPTION_BYTES)
    try:
        document = json.loads(content.decode(), object_pairs_hook=_without_doubles, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        _refuse(folder, f"{DESCRIPTION_FILE} is no JSON ({str(error)[:200]})")
    try:
        return _described(document)
    except (ValueError, TypeError) as error:
        _refuse(folder, str(error))


def _described(document: Any) -> tuple[ModelDescription, str]:
    """The description in a JSON document and the sha256 of its weights. Raises ValueError for what is none."""
    if not isinstance(document, dict):
        raise ValueError(f"{DESCRIPTION_FILE} is no JSON object")
    if document.get("format") != FORMAT:
        raise ValueError(f"its format is {document.get('format')!r}, this version reads {FORMAT}")
    if document.get("orientation") != ORIENTATION:
        raise ValueError(f"its orientation is {document.get('orientation')!r}, not {ORIENTATION!r}")
    document.setdefault("region", None)
    keys = [field.name for field in fields(ModelDescription)]
    _same_keys(document, {"format", "orientation", "weights", *keys}, DESCRIPTION_FILE)
    _same_keys(document["weights"], {"file", "sha256"}, "weights")
    file, sha256 = document["weights"]["file"], document["weights"]["sha256"]
    if file != WEIGHTS_FILE:
        raise ValueError(f"weights.file is {file!r}, not {WEIGHTS_FILE!r}")
    if not (isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)):
        raise ValueError("weights.sha256 is not 64 hexadecimal digits")
    for key in ("classes", "architecture", "training", "dice"):
        if not isinstance(document[key], dict):
            raise ValueError(f"{key} is no JSON object")
    for key in ("name", "outputs", "precision", "licence"):
        if not isinstance(document[key], str):
            raise ValueError(f"{key} is no text")
    classes = document["classes"]
    if not all(isinstance(name, str) and re.fullmatch("[1-9][0-9]{0,2}", number) for number, name in classes.items()):
        raise ValueError("classes doesn't map numbers from 1 to 255 to names")
    window = _numbers(document, "hu_window")
    normalisation = None if document["normalisation"] is None else _numbers(document, "normalisation")
    if len(window) != 2 or len(normalisation or window) != 2:
        raise ValueError("hu_window and normalisation are two numbers")
    if document["region"] is not None:
        _same_keys(document["region"], {field.name for field in fields(Region)}, "region")
    patch = tuple(int(length) for length in _numbers(document, "patch"))
    if list(patch) != document["patch"]:
        raise ValueError("patch is not whole numbers")
    description = ModelDescription(
        **{key: document[key] for key in ("name", "outputs", "precision", "licence", "training", "dice")},
        classes={int(number): name for number, name in classes.items()},
        spacing=_numbers(document, "spacing"),
        hu_window=(window[0], window[1]),
        architecture=read_architecture(document["architecture"]),
        normalisation=None if normalisation is None else (normalisation[0], normalisation[1]),
        outside_hu=None if document["outside_hu"] is None else _number(document["outside_hu"], "outside_hu"),
        region=None if document["region"] is None else Region(**document["region"]),
        patch=patch,
        overlap=_number(document["overlap"], "overlap"),
        temperature=_number(document["temperature"], "temperature"),
    )
    return description, sha256


def region_folders(folder: Path) -> list[Path]:
    """The folder of a model, of the one that finds its region, of the one that finds that one's ...

    Raises CohortError for a description that can't be used, and for a region's model without its label.
    """
    description, _ = read_description(folder)
    if description.region is None:
        return [folder]
    found = region_folders(folder / REGION_FOLDER)
    classes = read_description(found[0])[0].classes.values()
    if description.region.label not in classes:
        _refuse(folder, f"the model of its region finds {', '.join(classes)}, and not {description.region.label}")
    return [folder, *found]


def load_model(folder: Path, device: str = "cpu") -> tuple[Net, ModelDescription]:
    """Load a net, ready to predict, onto `device`. Raises CohortError saying what is wrong with the folder."""
    description, sha256 = read_description(folder)
    try:
        net = _empty_net(description)
    except ValueError as error:
        _refuse(folder, str(error))
    needed = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    weights = _read(folder, WEIGHTS_FILE, needed + HEADER_BYTES)
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        _refuse(
            folder,
            f"the sha256 of {WEIGHTS_FILE} is {found}, {DESCRIPTION_FILE} says {sha256}; "
            "copy the folder again from where it came",
        )
    try:
        tensors = load_tensors(weights)
    except (SafetensorError, ValueError, KeyError) as error:
        _refuse(folder, f"{WEIGHTS_FILE} is no safetensors file ({str(error).splitlines()[0]})")
    if problem := _misfit(net, tensors, description):
        _refuse(folder, problem)
    if any(tensor.is_meta for tensor in net.state_dict().values()):
        net.to_empty(device="cpu")
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False).to(device), description


def _empty_net(description: ModelDescription) -> Net:
    """The net of a description without numbers in it; with random ones where it is MONAI's, which may need them."""
    architecture = description.architecture
    with torch.device("meta" if architecture.kind in NETS else "cpu"):
        return build_net(architecture, description.channels_out)


def _misfit(net: Net, tensors: dict[str, torch.Tensor], description: ModelDescription) -> str:
    """Why tensors can't be the weights of a net; empty if they can."""
    expected = net.state_dict()
    for problem, names in (
        ("lack", [name for name in expected if name not in tensors]),
        ("have more than the net:", [name for name in tensors if name not in expected]),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            return f"the weights don't fit the architecture in {DESCRIPTION_FILE}: they {problem} {names[0]}{more}"
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype:
            return (
                f"the weights don't fit the architecture in {DESCRIPTION_FILE}: {name} is {tensor.dtype} "
                f"{list(tensor.shape)}, the net has {expected[name].dtype} {list(expected[name].shape)}"
            )
        if not torch.isfinite(tensor).all():
            return f"some of its weights are not finite: {name}"
        if name.endswith("running_var") and (tensor < 0).any():
            return f"a variance among its weights is negative: {name}"
    if any(net.border) and description.overlap:
        return f"its overlap is {description.overlap:g}, but windows of an unpadded net lie side by side: it must be 0"
    if any(length % multiple for length, multiple in zip(description.patch, net.multiple, strict=False)):
        return f"its patch {list(description.patch)} is no multiple of the net's {list(net.multiple)}"
    return ""


def _refuse(folder: Path, problem: str) -> NoReturn:
    raise CohortError(f"the model folder {folder.name!r} can't be used: {problem[:500]}") from None


def _read(folder: Path, name: str, limit: int) -> bytes:
    """The content of a file of the folder, of at most `limit` bytes, that is no link to elsewhere."""
    path = folder / name
    if path.is_symlink():
        _refuse(folder, f"{name} is a link; copy the file itself")
    if not path.is_file():
        _refuse(folder, f"it has no {name}")
    with open(path, "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        _refuse(folder, f"{name} has {path.stat().st_size} bytes, more than the {limit} that it can need")
    return content


def _without_doubles(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for key, value in pairs:
        if key in document:
            raise ValueError(f"the key {key[:40]!r} is there twice")
        document[key] = value
    return document


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _same_keys(found: Any, expected: set[str], where: str) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{where} is no JSON object")
    if missing := sorted(expected - set(found)):
        raise ValueError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(set(found) - expected):
        raise ValueError(f"{where} has keys that this version doesn't know: {', '.join(unknown)[:200]}")


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e9:
        raise ValueError(f"{key} has {str(value)[:40]!r}, which is no usable number")
    return float(value)


def _numbers(document: dict[str, Any], key: str) -> tuple[float, ...]:
    if not isinstance(document[key], list):
        raise ValueError(f"{key} is no list of numbers")
    return tuple(_number(value, key) for value in document[key])
