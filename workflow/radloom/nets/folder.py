"""A model on disk: a folder with `model.safetensors` (the weights) and `model.json` (all that is needed to use them).

Nothing is unpickled, so that a model from elsewhere can hold wrong numbers but no program.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from radloom.errors import CohortError
from radloom.labels import ROI_NAME
from radloom.nets.unet import UNet2D

WEIGHTS_FILE = "model.safetensors"
DESCRIPTION_FILE = "model.json"
FORMAT = 1
ORIENTATION = "LPS"


@dataclass(frozen=True)
class ModelDescription:
    """What a net needs to be used rightly, and where it comes from."""

    name: str
    classes: dict[int, str]
    """Class number to ROI name; 0 is the background and isn't named."""
    spacing: tuple[float, float]
    """In-plane pixel spacing in mm along x and y that the net works at."""
    hu_window: tuple[float, float]
    """HU that become 0 and 1; beyond them values are cut off."""
    channels: tuple[int, ...]
    """Feature maps of the U-Net's levels from full resolution down."""
    training: dict[str, Any] = field(default_factory=dict)
    """Data, seeds and settings of the training."""
    dice: dict[str, Any] = field(default_factory=dict)
    """Dice coefficients on data that the training hasn't seen."""


def save_model(folder: Path, net: UNet2D, description: ModelDescription) -> None:
    """Write the net's weights and its description into `folder`, the description with the weights' sha256 last."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save_tensors({name: tensor.contiguous().cpu() for name, tensor in net.state_dict().items()})
    document = {
        "format": FORMAT,
        "architecture": "unet2d",
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
    try:
        if document["format"] != FORMAT:
            raise refuse(f"its format is {document['format']!r}, this version reads {FORMAT}")
        if document["architecture"] != "unet2d":
            raise refuse(f"its architecture is {document['architecture']!r}, not 'unet2d'")
        if document["orientation"] != ORIENTATION:
            raise refuse(f"its orientation is {document['orientation']!r}, not {ORIENTATION!r}")
        description = ModelDescription(
            name=str(document["name"]),
            classes={int(number): str(name) for number, name in document["classes"].items()},
            spacing=(float(document["spacing"][0]), float(document["spacing"][1])),
            hu_window=(float(document["hu_window"][0]), float(document["hu_window"][1])),
            channels=tuple(int(c) for c in document["channels"]),
            training=dict(document["training"]),
            dice=dict(document["dice"]),
        )
        sha256 = str(document["weights"]["sha256"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise refuse(f"{DESCRIPTION_FILE} lacks or misstates something ({type(error).__name__}: {error})") from None
    if sorted(description.classes) != list(range(1, len(description.classes) + 1)) or len(description.classes) > 255:
        raise refuse(f"its classes are numbered {sorted(description.classes)}, not 1, 2, 3 ... up to 255")
    for name in description.classes.values():
        if not ROI_NAME.fullmatch(name):
            raise refuse(f"the class {name!r} is not a letter followed by up to 31 letters, digits or underscores")
    if len(set(description.classes.values())) != len(description.classes):
        raise refuse("two of its classes have the same name")
    if not description.channels or min(description.channels) < 1:
        raise refuse(f"its channels are {list(description.channels)}, not positive numbers")
    if min(description.spacing) <= 0:
        raise refuse(f"its spacing {description.spacing} is not positive")
    if not description.hu_window[0] < description.hu_window[1]:
        raise refuse(f"its HU window {description.hu_window} is empty")
    return description, sha256


def load_model(folder: Path, device: str = "cpu") -> tuple[UNet2D, ModelDescription]:
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
    net = UNet2D(len(description.classes) + 1, description.channels)
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
