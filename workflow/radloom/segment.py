"""Labels of the ROIs: taken from a mask that came with the case, or found by a U-Net."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from radloom.errors import CaseError, CohortError
from radloom.images import Volume, reorient
from radloom.labels import ROI_NAME, count_labels

if TYPE_CHECKING:
    from radloom.nets.folder import ModelDescription
    from radloom.nets.net import Net

CPU_BATCH = 4


def segment_mask(
    mask: Volume, labels: Mapping[int, str] | None = None, roi_name: str = ""
) -> tuple[Volume, dict[int, str], list[str]]:
    """Choose the labels of a mask (z, y, x; unsigned whole numbers); returns the label volume, its names and warnings.

    `labels` maps the numbers to keep to ROI names; other numbers become background, with a warning. Without it all
    non-zero voxels are one ROI with label 1, named `roi_name`, else "ROI". The result is uint8, or uint16 where a
    number needs it. Raises CaseError where nothing is left, and for a name that no table could hold.
    """
    if not labels:
        name = roi_name or "ROI"
        if not ROI_NAME.fullmatch(name):
            raise CaseError(
                f"the ROI name {name!r} is not a letter followed by up to 31 letters, digits or underscores",
                "Change the column roi_name of the cohort sheet",
            )
        array = (mask.array != 0).astype(np.uint8)
        if not array.any():
            raise CaseError("the mask is empty", "Draw the ROI, or take the case out of the cohort sheet")
        return Volume(array, mask.geometry), {1: name}, []

    found = set(np.flatnonzero(count_labels(mask.array)).tolist()) - {0}
    kept = sorted(found & set(labels))
    if not kept:
        raise CaseError(
            f"the mask has the labels {_numbers(found)}, none of the configured {_numbers(labels)}",
            "Compare segment.labels in the configuration with the mask",
        )
    warnings = []
    if found - set(labels):
        warnings.append(f"the mask's labels {_numbers(found - set(labels))} are not in segment.labels and are ignored")
    array = np.zeros(mask.array.shape, np.uint8 if max(labels) <= 255 else np.uint16)
    for number in kept:
        array[mask.array == number] = number
    return Volume(array, mask.geometry), dict(labels), warnings


def segment_model(
    image: Volume, model: Path, device: str = "auto", slices_per_batch: int = 16
) -> tuple[Volume, dict[int, str]]:
    """Segment a CT image (z, y, x; HU) with the net in the folder `model`; returns labels (uint8) and their names.

    The labels lie on the image's own grid, whatever its orientation. `device` is auto, cpu or cuda; on CUDA
    `slices_per_batch` slices go through the net at once. Raises CohortError for a model or a device that can't be
    used, and CaseError where the net finds nothing.
    """
    net, description, place = _loaded(model.resolve(), device)
    upright = reorient(image)
    sx, sy, _ = upright.geometry.spacing
    labels = predict_labels(net, description, upright.array, (sx, sy), place, slices_per_batch)
    if not labels.any():
        raise CaseError(
            f"the model found none of {', '.join(description.classes.values())}",
            "Check that the scan shows the region, that its values are HU, and that its orientation is right",
        )
    found = Volume(labels, upright.geometry)
    return reorient(found, image.geometry.direction), dict(description.classes)


def predict_labels(
    net: Net,
    description: ModelDescription,
    array: np.ndarray,
    spacing: tuple[float, float],
    device: str = "cpu",
    slices_per_batch: int = 16,
) -> np.ndarray:
    """Labels (uint8) of an image (z, y, x; HU, LPS axes) with the in-plane `spacing` (x, y) in mm.

    Slices are resampled to the net's spacing, cut to its HU window and padded with the window's lower end; the
    logits are brought back to the image's grid before the largest one decides. A convolution sums in an order that
    depends on the size of the batch, so that on a CPU, where nothing is gained by large ones, slices always go four
    by four, and the labels are the same bit for bit.
    """
    import torch

    from radloom.nets.inplane import linear_matrix, pixels, to_window

    nz, ny, nx = array.shape
    (sx, sy), (tx, ty) = spacing, description.spacing
    mx, my = pixels(nx, sx, tx), pixels(ny, sy, ty)
    to_y, to_x = linear_matrix(ny, sy, my, ty).to(device), linear_matrix(nx, sx, mx, tx).T.contiguous().to(device)
    from_y, from_x = linear_matrix(my, ty, ny, sy).to(device), linear_matrix(mx, tx, nx, sx).T.contiguous().to(device)
    pad = (0, -mx % net.multiple[1], 0, -my % net.multiple[0])
    batch = CPU_BATCH if device == "cpu" else slices_per_batch
    labels = np.empty(array.shape, np.uint8)
    with torch.inference_mode():
        for start in range(0, nz, batch):
            part = slice(start, min(start + batch, nz))
            slices = torch.from_numpy(np.ascontiguousarray(array[part], dtype=np.float32)).to(device)
            slices = to_window(to_y @ slices @ to_x, description.hu_window)
            slices = torch.nn.functional.pad(slices, pad)[:, None].contiguous(memory_format=torch.channels_last)
            logits = net(slices)[:, :, :my, :mx].contiguous()
            labels[part] = (from_y @ logits @ from_x).argmax(dim=1).to(torch.uint8).cpu().numpy()
    return labels


def choose_device(wanted: str) -> str:
    """The device that `auto`, `cpu` or `cuda` stands for here. Raises CohortError for a CUDA that isn't there."""
    import torch

    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise CohortError(
            "segment.device is cuda, and torch finds no CUDA device here; install a torch built for CUDA and a driver, "
            "or set segment.device to cpu or auto"
        )
    return "cpu"


@lru_cache(maxsize=1)
def _loaded(folder: Path, device: str) -> tuple[Net, ModelDescription, str]:
    """The net of a folder, its description, and the device that it is on; once a process."""
    # cuBLAS is deterministic only with a workspace of fixed size, which is read when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from radloom.nets.folder import load_model

    place = choose_device(device)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    # Filling every fresh tensor takes a tenth of the time, and none is read before it is written here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    net, description = load_model(folder, place)
    return net.to(memory_format=torch.channels_last), description, place  # type: ignore[call-overload]


def _numbers(values: object) -> str:
    """Up to ten whole numbers in ascending order, for a message."""
    ordered = sorted(int(v) for v in values)  # type: ignore[attr-defined]
    text = ", ".join(map(str, ordered[:10]))
    return text + (f" and {len(ordered) - 10} more" if len(ordered) > 10 else "")
