"""A model on disk: a folder with `model.safetensors` (the weights) and `model.json` (all that is needed to use them).

Nothing is unpickled, so that a model from elsewhere can hold wrong numbers but no program.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from radloom.errors import CohortError
from radloom.labels import ROI_NAME
from radloom.nets.architecture import Architecture, build_net, read_architecture
from radloom.nets.net import Net

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
FORMAT = 2
ORIENTATION = "LPS"


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
    patch: tuple[int, ...] = ()
    """Voxels ([z,] y, x) of a window of the prediction; empty: whole slices (2 dimensions)."""
    overlap: float = 0.5
    """Share of a window that the next one covers again."""
    precision: str = "float32"
    """What the net is computed in: `float32`, `bfloat16` or `float16` (CUDA alone)."""
    temperature: float = 1.0
    """What logits are divided by for calibrated probabilities (Guo et al., ICML 2017)."""
    licence: str = ""
    """Licence of the weights."""
    training: dict[str, Any] = field(default_factory=dict)
    """Data with their fingerprint, seeds and settings of the training."""
    dice: dict[str, Any] = field(default_factory=dict)
    """Dice coefficients on data that the training hasn't seen."""

    def __post_init__(self) -> None:
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
        if self.outputs not in ("softmax", "sigmoid"):
            raise ValueError(f"its outputs are {self.outputs!r}, not 'softmax' or 'sigmoid'")
        if self.normalisation is not None and not 0 < self.normalisation[1] < math.inf:
            raise ValueError(f"its normalisation {self.normalisation} has no positive standard deviation")
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
    """Write the net's weights and its description into `folder`, the description with the weights' sha256 last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({name: tensor.contiguous().cpu() for name, tensor in net.state_dict().items()})
    document = {
        "format": FORMAT,
        "orientation": ORIENTATION,
        **asdict(description),
        "weights": {"file": WEIGHTS_FILE, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    (folder / WEIGHTS_FILE).write_bytes(weights)
    (folder / DESCRIPTION_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def read_description(folder: Path) -> tuple[ModelDescription, str]:
    """Read and check `model.json`; returns the description and the sha256 that the weights must have.

    Raises CohortError saying what is wrong with the folder.
    """

    def refuse(problem: str) -> CohortError:
        return CohortError(f"the model folder {folder.name!r} can't be used: {problem}")

    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise refuse(f"it has no {DESCRIPTION_FILE}")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise refuse(f"{DESCRIPTION_FILE} is no JSON ({error})") from None
    if not isinstance(document, dict):
        raise refuse(f"{DESCRIPTION_FILE} is no JSON object")
    if document.get("format") != FORMAT:
        raise refuse(f"its format is {document.get('format')!r}, this version reads {FORMAT}")
    if document.get("orientation") != ORIENTATION:
        raise refuse(f"its orientation is {document.get('orientation')!r}, not {ORIENTATION!r}")
    try:
        sha256 = str(document["weights"]["sha256"])
        values = {field.name: document[field.name] for field in fields(ModelDescription)}
        normalisation = values["normalisation"]
        values |= {
            "classes": {int(number): str(name) for number, name in document["classes"].items()},
            "spacing": tuple(float(s) for s in document["spacing"]),
            "hu_window": (float(document["hu_window"][0]), float(document["hu_window"][1])),
            "architecture": read_architecture(document["architecture"]),
            "normalisation": None if normalisation is None else (float(normalisation[0]), float(normalisation[1])),
            "patch": tuple(int(p) for p in document["patch"]),
            "training": dict(document["training"]),
            "dice": dict(document["dice"]),
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise refuse(f"{DESCRIPTION_FILE} lacks or misstates something ({type(error).__name__}: {error})") from None
    try:
        return ModelDescription(**values), sha256
    except (TypeError, ValueError) as error:
        raise refuse(str(error)) from None


def load_model(folder: Path, device: str = "cpu") -> tuple[Net, ModelDescription]:
    """Load a net, ready to predict, onto `device`. Raises CohortError saying what is wrong with the folder."""
    description, sha256 = read_description(folder)
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise CohortError(f"the model folder {folder.name!r} can't be used: it has no {WEIGHTS_FILE}")
    weights = path.read_bytes()
    found = hashlib.sha256(weights).hexdigest()
    if found != sha256:
        raise CohortError(
            f"the model folder {folder.name!r} can't be used: the sha256 of {WEIGHTS_FILE} is {found}, "
            f"{DESCRIPTION_FILE} says {sha256}; copy the folder again from where it came"
        )
    net = build_net(description.architecture, description.channels_out)
    try:
        net.load_state_dict(load_tensors(weights))
    except (RuntimeError, SafetensorError) as error:
        raise CohortError(
            f"the model folder {folder.name!r} can't be used: the weights don't fit the architecture in "
            f"{DESCRIPTION_FILE} ({str(error).splitlines()[0]})"
        ) from None
    if not all(torch.isfinite(tensor).all() for tensor in net.state_dict().values()):
        raise CohortError(f"the model folder {folder.name!r} can't be used: some of its weights are not finite")
    return net.eval().requires_grad_(False).to(device), description
