"""Morphology of label volumes in mm: closing, opening, components and holes, label by label.

All operations see the volume as if it went on as background for ever, so that a closing never loses a voxel at the
border and an opening never gains one. Balls are exact on anisotropic grids: a voxel belongs to the dilation where its
centre lies within the radius of the centre of a voxel of the mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radloom.errors import CaseError, CohortError
from radloom.images import Box, Volume, bounding_box
from radloom.labels import count_labels
from radloom.morphology import RADIUS_TOLERANCE, ball_dilation, ball_erosion, label_components


@dataclass(frozen=True)
class Morphology:
    """What is done to one label; radii in mm, 0 leaves a step out."""

    closing_mm: float = 0.0
    opening_mm: float = 0.0
    fill_holes: bool = False
    components: str = "all"
    """`all` or `largest` (26-connected)."""
    min_volume_mm3: float = 0.0

    def __post_init__(self) -> None:
        if min(self.closing_mm, self.opening_mm, self.min_volume_mm3) < 0:
            raise ValueError("radii and volumes of the postprocessing must not be negative")
        if self.components not in ("all", "largest"):
            raise ValueError(f"components must be 'all' or 'largest', not {self.components!r}")


@dataclass(frozen=True)
class Postprocessed:
    """The labels after the morphology, and what it did to each ROI (keys are ROI names)."""

    labels: Volume
    volume_mm3: dict[str, float]
    """Volume afterwards; 0 for an ROI that isn't there."""
    change: dict[str, float | None] = field(default_factory=dict)
    """Volume afterwards over volume before; None for an ROI that wasn't there before."""
    components: dict[str, int] = field(default_factory=dict)
    """Number of 26-connected components afterwards."""


def read_settings(section: Mapping[str, Any], names: Iterable[str]) -> dict[str, Morphology]:
    """The settings of every ROI in `names` from the configuration's section `postprocess`.

    Keys of the section's `labels` override the common ones. Raises CohortError for an unknown key or a bad value.
    """
    common = {key: value for key, value in section.items() if key != "labels"}
    special = section.get("labels", {})
    try:
        return {name: Morphology(**{**common, **special.get(name, {})}) for name in names}
    except (TypeError, ValueError) as error:
        raise CohortError(f"the section postprocess of the configuration: {error}") from None


def closing(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Closing of `mask` (z, y, x, bool) by a ball; `spacing` is (x, y, z) in mm. Never loses a voxel."""
    padded, inner = _padded(mask, radius_mm, spacing)
    return ball_erosion(ball_dilation(padded, radius_mm, spacing), radius_mm, spacing)[inner]


def opening(mask: np.ndarray, radius_mm: float, spacing: tuple[float, float, float]) -> np.ndarray:
    """Opening of `mask` (z, y, x, bool) by a ball; `spacing` is (x, y, z) in mm. Never gains a voxel."""
    padded, inner = _padded(mask, radius_mm, spacing)
    return ball_dilation(ball_erosion(padded, radius_mm, spacing), radius_mm, spacing)[inner]


def keep_components(mask: np.ndarray, largest: bool, min_voxels: float) -> tuple[np.ndarray, int]:
    """The 26-connected components of `mask` (z, y, x, bool) with at least `min_voxels`, and how many they are.

    `largest` keeps the largest one of them; of equally large ones the first in the order of the array.
    """
    components, count = label_components(mask)
    if count == 0:
        return mask.copy(), 0
    sizes = count_labels(components)
    wanted = sizes >= min_voxels
    wanted[0] = False
    if largest and wanted.any():
        wanted &= sizes == sizes[wanted].max()
        # Numbers of components are the library's affair, places in the array aren't.
        first = components.reshape(-1)[int(np.argmax(wanted[components]))]
        wanted[:] = False
        wanted[first] = True
    return wanted[components], int(np.count_nonzero(wanted))


def postprocess(labels: Volume, names: Mapping[int, str], settings: Mapping[str, Morphology]) -> Postprocessed:
    """Clean a label volume (z, y, x, unsigned); `names` maps its numbers to ROI names, `settings` has one entry an ROI.

    Closing, opening, choice of components and filling of holes follow each other in this order; components come
    before holes, so that a speck of one label inside another that is dropped is filled by the other. A label never
    takes another one's voxels: closing and filling grow into background alone. Background that two labels would
    close over goes to the lower number; a hole within a hole goes to the label next around it.
    Raises CaseError where no ROI is left.
    """
    array = labels.array.copy()
    spacing = labels.geometry.spacing
    voxel_mm3 = labels.geometry.voxel_mm3
    before = _counts(array, names)
    # No step lets a label grow beyond its box, so that one look for the boxes is enough.
    boxes: dict[int, Box] = {}
    for number in sorted(names):
        box = bounding_box(array == number) if before[names[number]] else None
        if box is not None:
            boxes[number] = box

    claims = []
    for number, box in boxes.items():
        radius = settings[names[number]].closing_mm
        if radius > 0:
            claims.append((number, box, closing(array[box] == number, radius, spacing)))
    for number, box, closed in claims:
        view = array[box]
        view[closed & (view == 0)] = number

    for number, box in boxes.items():
        chosen = settings[names[number]]
        view = array[box]
        mask = view == number
        kept = opening(mask, chosen.opening_mm, spacing) if chosen.opening_mm > 0 else mask
        least = chosen.min_volume_mm3 / voxel_mm3 * (1 - 1e-9)
        if chosen.components == "largest" or least > 1:
            kept, _ = keep_components(kept, chosen.components == "largest", least)
        view[mask & ~kept] = 0

    fill_holes(array, {n: box for n, box in boxes.items() if settings[names[n]].fill_holes})

    after = _counts(array, names)
    if not any(after.values()):
        gone = ", ".join(f"{name} {before[name] * voxel_mm3:.6g} mm3" for name in names.values())
        raise CaseError(
            f"no ROI is left after the postprocessing (before: {gone})",
            "Look at the labels of the step segment, or make opening_mm and min_volume_mm3 smaller",
        )
    components = dict.fromkeys(names.values(), 0)
    for number, box in boxes.items():
        _, components[names[number]] = keep_components(array[box] == number, False, 0)
    return Postprocessed(
        labels=Volume(array, labels.geometry),
        volume_mm3={name: after[name] * voxel_mm3 for name in names.values()},
        change={name: after[name] / before[name] if before[name] else None for name in names.values()},
        components=components,
    )


def fill_holes(array: np.ndarray, boxes: Mapping[int, Box]) -> None:
    """Fill the cavities of the labels that are keys of `boxes` in a label volume (z, y, x), in place.

    A cavity is a 6-connected part of what isn't the label that doesn't reach the border of the array. Only its
    background is filled; background within the cavities of several labels goes to the one whose cavity is the
    smallest, then to the lower number. The slices (z, y, x) in `boxes` hold all of a label.
    """
    import cc3d

    holes: list[tuple[int, int, Box, np.ndarray]] = []
    for number, box in boxes.items():
        # What isn't the label outside its box is one outside; a frame of one voxel joins it up.
        outside = np.pad(array[box] != number, 1, constant_values=True)
        parts = cc3d.connected_components(outside, connectivity=6)
        parts[parts == parts[0, 0, 0]] = 0
        parts = parts[1:-1, 1:-1, 1:-1]
        if not parts.any():
            continue
        statistics = cc3d.statistics(parts)
        for part, size in enumerate(statistics["voxel_counts"].tolist()):
            if part == 0 or size == 0:
                continue
            inner = statistics["bounding_boxes"][part]
            place = tuple(
                slice(outer.start + i.start, outer.start + i.stop) for outer, i in zip(box, inner, strict=True)
            )
            holes.append((size, number, (place[0], place[1], place[2]), parts[inner] == part))
    for _, number, place, cavity in sorted(holes, key=lambda hole: hole[:2]):
        view = array[place]
        view[cavity & (view == 0)] = number


def _padded(
    mask: np.ndarray, radius_mm: float, spacing: tuple[float, float, float]
) -> tuple[np.ndarray, tuple[slice, ...]]:
    """`mask` within background that is wider than the radius, and where it lies there."""
    margins = [int(radius_mm * (1 + RADIUS_TOLERANCE) / s) + 1 for s in reversed(spacing)]
    inner = tuple(slice(m, m + n) for m, n in zip(margins, mask.shape, strict=True))
    return np.pad(mask, [(m, m) for m in margins]), inner


def _counts(array: np.ndarray, names: Mapping[int, str]) -> dict[str, int]:
    """Voxels of every ROI."""
    counts = dict(enumerate(count_labels(array).tolist()))
    return {name: counts.get(number, 0) for number, name in names.items()}
