"""What a net looks at, where that is what another net finds: a label with a margin, in its box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from radloom.errors import CaseError
from radloom.images import bounding_box
from radloom.nets.inplane import on_grid

if TYPE_CHECKING:
    from radloom.nets.folder import Region
    from radloom.nets.prediction import Predictor, Scan


def find_region(
    predictor: Predictor, region: Region, array: np.ndarray, spacing: tuple[float, float, float]
) -> np.ndarray:
    """The largest part of a region's label in a scan (z, y, x; HU, LPS axes; `spacing` x, y, z in mm), as bool.

    Raises CaseError where the net that finds it finds nothing.
    """
    from radloom.morphology import keep_components, keep_cores  # not above: prediction alone needs no cc3d

    numbers = {name: number for number, name in predictor.classes.items()}
    mask = predictor.labels(array, spacing) == numbers[region.label]
    box = bounding_box(mask)
    if box is None:
        raise CaseError(
            f"no {region.label} was found, in which the model looks",
            "Check that the scan shows it, that its values are HU, and that its orientation is right",
        )
    part = keep_cores(mask[box], 1, region.neck_mm, spacing) if region.neck_mm else mask[box]
    mask[box] = keep_components(part, 1, 1)[0]
    return mask


def cut_to_region(
    scan: Scan, mask: np.ndarray, forth: Sequence[torch.Tensor | None], region: Region, outside: float
) -> Scan:
    """A scan on a net's grid, cut to the box of a mask (z, y, x; bool) on its own grid, grown by the region's margin.

    `forth` brings an image to the net's grid; `outside` is what the net takes beside the mask. A voxel of the own grid
    belongs to the box where more than half of what it is interpolated from does; for others the matrices are 0.
    """
    inside = on_grid(mask, forth).numpy() > 0.5
    box = bounding_box(inside, region.margin)
    if box is None:
        raise CaseError(
            f"the {region.label} that was found is smaller than a voxel of the model that looks into it",
            "Look at the scan, and at its spacing",
        )
    if region.margin:
        neighbours = ndimage.generate_binary_structure(3, 2)
        inside[box] = ndimage.binary_dilation(inside[box], neighbours, region.margin)
    box = bounding_box(inside)
    assert box is not None
    image = torch.where(torch.from_numpy(inside[box]), scan.image[box], outside)
    back = []
    for part, matrix, own in zip(box, scan.back, scan.shape, strict=True):
        kept = (torch.eye(own) if matrix is None else matrix)[:, part].clone()
        kept[kept.sum(dim=1) <= 0.5] = 0
        back.append(kept)
    return replace(scan, image=image, back=(back[0], back[1], back[2]))
