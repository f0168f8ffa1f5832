"""The liver net and the lesion net of the package pyliverlesionseg (KU Leuven, Apache-2.0), out of its wheel.

The package itself needs Python 3.6, TensorFlow 1.12 and Keras 2.2 and isn't run: its wheel holds the weights as HDF5,
which h5py reads, and the structure is that of its functions `unet_liver_predict` and `unet_lesion_predict`.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from radloom.nets.architecture import Architecture
from radloom.nets.folder import REGION_FOLDER, ModelDescription, Region, save_model
from radloom.nets.generalised_unet import GeneralisedUNet, Structure

LICENCE = re.compile(r"(^|/)pyliverlesionseg-[^/]*\.dist-info/LICENSE$")

_FLAT_FIRST = [[1, 3, 3], [3, 3, 3]]
_FLAT_LAST = [[3, 3, 3], [1, 3, 3]]
_MAPS: dict[str, Any] = {
    "down": [[20, 40], [40, 80], [80, 160], [160, 160]],
    "up": [[40, 20], [80, 40], [160, 80], []],
    "up_kernels": [_FLAT_LAST, _FLAT_LAST, _FLAT_LAST, []],
}


@dataclass(frozen=True)
class Source:
    """A net of the package."""

    weights: re.Pattern[str]
    """Its file."""
    spacing: tuple[float, float, float]
    """mm along x, y, z."""
    options: dict[str, Any]
    region: Region | None = None
    overlap: float = 0.5

    @property
    def architecture(self) -> Architecture:
        """The net's."""
        channels = tuple(maps[-1] for maps in self.options["down"])
        return Architecture(
            kind="generalised_unet", dimensions=3, channels=channels, norm="instance", options=self.options
        )


SOURCES = {
    "liver": Source(
        re.compile(r"(^|/)model_unet_ct_mr_liv_seg_[^/]*\.hdf5$"),
        (3.0, 3.0, 3.0),
        {
            **_MAPS,
            "down_kernels": [_FLAT_FIRST, _FLAT_FIRST, _FLAT_FIRST, [[3, 3, 3], [3, 3, 3]]],
            "pool": 3,
            "field": [136, 136, 163],
        },
    ),
    "lesion": Source(
        re.compile(r"(^|/)model_unet_ct_mr_lesion_seg_[^/]*\.hdf5$"),
        (1.0, 1.0, 3.0),
        {
            **_MAPS,
            "down_kernels": [_FLAT_FIRST] * 4,
            "pool": 2,
            "field": [42, 84, 92],
            "padding": "valid",
            "residual": True,
        },
        # The package erodes the liver at 3 mm, keeps the largest part and dilates it again.
        Region("liver", neck_mm=6.0, margin=2, outside_hu=-200.0),
        # It lays windows side by side.
        overlap=0.0,
    ),
}


def import_model(source: Path, out: Path, net: str = "liver") -> ModelDescription:
    """Write the net `liver` or `lesion` of a wheel, or of the folder that one was unpacked into, as a model folder.

    The lesion net's folder also has the liver net's, which finds its region. Raises ValueError for a source that isn't
    what this code knows, and ModuleNotFoundError without h5py.
    """
    known = SOURCES[net]
    if known.region is not None:
        import_model(source, out / REGION_FOLDER, known.region.label)
    files, origin = _source_files(source, known.weights)
    read = read_keras(files["weights"], known)
    description = ModelDescription(
        name=net,
        classes={1: net},
        spacing=known.spacing,
        hu_window=(-200.0, 200.0),
        architecture=known.architecture,
        outputs="sigmoid",
        # clip(HU / 1000, -0.2, 0.2) * 2.5 in the original
        normalisation=(0.0, 400.0),
        outside_hu=0.0,
        patch=tuple(known.options["field"]),
        overlap=known.overlap,
        region=known.region,
        licence="Apache-2.0",
        training={
            "source": "PyPI: pyliverlesionseg, Tang and Schramm, KU Leuven; Tang et al., EJNMMI 47, 2020",
            "script": "workflow/scripts/import_liver_model.py",
            **origin,
        },
    )
    save_model(out, read, description)
    (out / "LICENSE").write_bytes(files["licence"])
    return description


def read_keras(content: bytes, known: Source) -> GeneralisedUNet:
    """The net whose weights a Keras HDF5 file holds, with axes turned from RAS (x, y, z) to LPS (z, y, x).

    Every convolution of the file is used once, and the file's list of layers has to be that of the structure. Raises
    ValueError where it isn't.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading Keras weights needs h5py: python -m pip install h5py") from error

    net = GeneralisedUNet(known.architecture, 1)
    try:
        with h5py.File(io.BytesIO(content), "r") as file, torch.no_grad():
            _fill(net, file, known.spacing)
    except (OSError, KeyError) as error:
        raise ValueError(f"the weights are no HDF5 file of Keras, or lack something ({error})") from None
    return net.eval()


def _fill(net: GeneralisedUNet, file: Any, expected_spacing: tuple[float, ...]) -> None:
    layers = _texts(file.attrs["layer_names"])
    kinds = [name.rsplit("_", 1)[0] for name in layers]
    told = [kind for kind in kinds if kind in ("conv3d", "lambda", "leaky_re_lu", "concatenate", "add")]
    # An average pooling (of 1) before each level on the way up, and maybe one that makes its upsampling linear.
    poolings = (2 if net.structure.padding == "same" else 1) * (len(net.structure.down) + 1)
    if told != _layers(net.structure) or kinds.count("average_pooling3d") != poolings:
        raise ValueError("the file's layers are not those of the net that this script knows")
    spacing = tuple(np.asarray(file["header/voxel_size"]).tolist())
    if spacing != expected_spacing:
        raise ValueError(f"the net works at {spacing} mm, not at {expected_spacing}")
    names = [name for name, kind in zip(layers, kinds, strict=True) if kind == "conv3d"]
    for name in layers:
        expected = [f"{name}/kernel:0", f"{name}/bias:0"] if name in names else []
        if _texts(file[name].attrs["weight_names"]) != expected:
            raise ValueError(f"the layer {name} has other weights than {expected}")
    for name, convolution in zip(names, net.convolutions(), strict=True):
        kernel, bias = (np.asarray(file[f"{name}/{name}/{part}:0"]) for part in ("kernel", "bias"))
        weight = _turned(kernel)
        if weight.shape != tuple(convolution.weight.shape) or bias.shape != weight.shape[:1]:
            raise ValueError(f"the kernel of {name} has the shape {kernel.shape} (x, y, z, in, out), which doesn't fit")
        convolution.weight.copy_(torch.from_numpy(weight))
        convolution.bias.copy_(torch.from_numpy(bias))


def _turned(kernel: np.ndarray) -> np.ndarray:
    """A Keras kernel (x, y, z, in, out) on RAS axes as torch's (out, in, z, y, x) on LPS axes.

    Turning x and y around in the kernels is the same as in the image, because all else in the net is symmetric.
    """
    return kernel.transpose(4, 3, 2, 1, 0)[..., ::-1, ::-1].copy(order="C")


def _texts(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _layers(structure: Structure) -> list[str]:
    """Kinds of the layers that a file has to list in this order."""
    before = ["lambda", "leaky_re_lu", "conv3d"]  # normalisation, activation, convolution
    layers: list[str] = []
    maps = 1
    for level in structure.down:
        layers += [*before * len(level), *_shortcut_layers(structure, maps, level[-1])]
        maps = level[-1]
    for down, level in zip(structure.down[-2::-1], structure.up[-2::-1], strict=True):
        shortcut = _shortcut_layers(structure, maps + down[-1], level[-1])
        layers += ["concatenate", *before * len(level), *shortcut]
        maps = level[-1]
    return [*layers, *before][2:]


def _shortcut_layers(structure: Structure, maps: int, made: int) -> list[str]:
    if not structure.residual:
        return []
    return ["add"] if maps == made else ["conv3d", "add"]


def _source_files(source: Path, weights: re.Pattern[str]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Weights and licence of a wheel or an unpacked one, and the sha256 that tell which they are."""
    origin = {}
    if source.is_dir():
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        files = {part: (source / name).read_bytes() for part, name in _chosen(source.name, names, weights).items()}
    elif zipfile.is_zipfile(source):
        origin["wheel_sha256"] = hashlib.sha256(source.read_bytes()).hexdigest()
        with zipfile.ZipFile(source) as archive:
            files = {
                part: archive.read(name) for part, name in _chosen(source.name, archive.namelist(), weights).items()
            }
    else:
        raise ValueError(f"{source.name} is no wheel and no folder")
    return files, {**origin, "weights_sha256": hashlib.sha256(files["weights"]).hexdigest()}


def _chosen(source: str, names: list[str], weights: re.Pattern[str]) -> dict[str, str]:
    chosen = {}
    for part, pattern in (("weights", weights), ("licence", LICENCE)):
        found = [name for name in names if pattern.search(name)]
        if len(found) != 1:
            raise ValueError(f"{source} holds {len(found)} files of the kind {pattern.pattern!r}, not one")
        chosen[part] = found[0]
    return chosen
