"""A model folder as an ONNX file, for programs without torch (an extra: onnx, onnxscript, onnxruntime)."""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from radloom.errors import CohortError
from radloom.nets.folder import DESCRIPTION_FILE, load_model

INPUT, OUTPUT = "images", "logits"
METADATA = "radloom"
"""Key of the file's metadata under which the folder's `model.json` stands, as it is."""
LARGEST = 2 * 10**9
"""Bytes of weights that fit into one file: protobuf ends at 2 GiB."""
INSTALL = "it needs the packages onnx, onnxscript and onnxruntime; run pip install -e '.[onnx]' in Radloom's folder"


def export_onnx(folder: Path, out: Path, size: Sequence[int] | None = None) -> None:
    """Write the net of a model folder to `out`, its input `images` and its output `logits`, with `model.json` inside.

    Both are float32, (batch, channels, [z,] y, x). Batch and spatial axes are free, the latter as multiples of
    `net.multiple`; or, with `size`, fixed to it, for nets of MONAI that can't be exported otherwise. Only the net is
    in the file: resampling, windows, normalisation, sigmoid or softmax, and the temperature are up to whoever runs
    it, and the metadata say what they are. Dropout is off, so that Monte Carlo samples can't be had from it.
    Raises CohortError for a model that can't be used or exported, and where a package is missing.
    """
    onnx = _package("onnx")
    _package("onnxscript")
    net, description = load_model(folder)
    if sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values()) > LARGEST:
        raise CohortError(f"the model {description.name!r} has more than the 2 GB that an ONNX file can hold")
    shapes: dict[int, Any] | None = None
    if size is None:
        size = [3 * multiple for multiple in net.multiple]  # neither 1 nor 2, which the export would take for fixed
        parts = ["z_parts", "y_parts", "x_parts"][-len(size) :]
        shapes = {0: torch.export.Dim("batch", min=1, max=1 << 16)}
        for axis, (multiple, name) in enumerate(zip(net.multiple, parts, strict=True), start=2):
            shapes[axis] = multiple * torch.export.Dim(name, min=1, max=1 << 16)
    example = torch.zeros(2 if shapes else 1, description.architecture.inputs, *size)
    try:
        net.check_size(example)
        with warnings.catch_warnings():
            # Of the exporter's own making, not of the model's.
            warnings.simplefilter("ignore")
            level = logging.root.manager.disable
            logging.disable(logging.WARNING)
            try:
                program = torch.onnx.export(
                    net,
                    (example,),
                    dynamo=True,
                    dynamic_shapes=(shapes,) if shapes else None,
                    input_names=[INPUT],
                    output_names=[OUTPUT],
                    verbose=False,
                )
            finally:
                logging.disable(level)
    except Exception as error:  # whatever the exporter makes of a net
        advice = "" if shapes is None else "; with a fixed size it may be"
        reason = (str(error).splitlines() or [""])[0]
        raise CohortError(f"the model {description.name!r} can't be exported ({reason}){advice}") from None
    assert program is not None
    document = program.model_proto
    entry = document.metadata_props.add()
    entry.key, entry.value = METADATA, (folder / DESCRIPTION_FILE).read_text(encoding="utf-8")
    onnx.checker.check_model(document)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(document.SerializeToString())
        os.replace(temporary, out)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def largest_difference(folder: Path, exported: Path, parts: Sequence[int] | None = None) -> float:
    """The largest difference between the logits of the folder's net and of its ONNX file in onnxruntime on the CPU.

    On two images of standard normal noise whose axes are `parts` times the net's multiples (unless given: 2, 3 and 2);
    on one of the file's own size where that is fixed. Raises CohortError where onnxruntime is missing, and for a file
    that was exported from another folder.
    """
    session = _package("onnxruntime").InferenceSession(exported, providers=["CPUExecutionProvider"])
    net, description = load_model(folder)
    described = session.get_modelmeta().custom_metadata_map.get(METADATA, "null")
    if json.loads(described) != json.loads((folder / DESCRIPTION_FILE).read_text(encoding="utf-8")):
        raise CohortError(f"{exported.name} was exported from another model than {description.name!r}")
    shape = session.get_inputs()[0].shape
    if not isinstance(shape[0], int):
        parts = (2, 3, 2)[-len(net.multiple) :] if parts is None else parts
        size = [part * multiple for part, multiple in zip(parts, net.multiple, strict=True)]
        shape = [2, description.architecture.inputs, *size]
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = net(images)
    (found,) = session.run([OUTPUT], {INPUT: images.numpy()})
    return float((torch.from_numpy(found) - expected).abs().max())


def _package(name: str) -> Any:
    """A package of the extra `onnx`. Raises CohortError saying how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise CohortError(f"the export to ONNX can't import {name}: {INSTALL}") from None
