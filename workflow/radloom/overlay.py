"""One picture a case: three planes through the ROIs, with their outlines, for the report.

Axial as radiologists look at it (the patient's right on the left of the picture), coronal from the front,
sagittal from the left, all three at one scale and in true proportion, whatever the voxel spacing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from radloom.errors import CaseError, CohortError
from radloom.images import Volume, bounding_box, same_grid

PANEL = 240  # pixels of the longest side of the largest panel
GAP = 4
FONT_SIZE = 12
MARGIN_MM = 20.0  # kept above and below the ROIs where a long scan is shortened
GRID_TOLERANCE_MM = 1e-3
GREYS = 24  # noise hides the steps, and the file is a third smaller than with 48

# Okabe and Ito's colours, which colour-blind readers can tell apart, the best visible on grey first.
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)

Plane = NDArray[Any]


def draw_overlay(
    image: Volume,
    roi: Volume,
    labels: Mapping[int, str],
    window: tuple[float, float],
    planes_of: Volume | None = None,
) -> Image.Image:
    """The picture of a case, in palette colours.

    image, roi: HU and label numbers, (z, y, x), axes nearest to LPS (x to the left, y to the back, z to the
    head).
    labels: names of the ROIs by label number. window: HU shown as black and as white. planes_of: other labels on the
    same grid that choose the planes, so that two pictures can be compared.

    Each plane is the one in which the smallest ROI has its largest area: beside an organ, that is the lesion. A case
    without a labelled voxel shows the middle ones. Raises CaseError when image and ROI don't lie on one grid,
    CohortError when the window is empty.
    """
    low, high = window
    if not low < high:
        raise CohortError(f"overlay.window: black ({low:g} HU) must be below white ({high:g} HU)")
    if not same_grid(image.geometry, roi.geometry, GRID_TOLERANCE_MM):
        raise CaseError("image and ROI don't lie on one grid", "resample both together")
    numbers = sorted(labels)
    choosing = roi if planes_of is None else planes_of
    mask = np.isin(choosing.array, numbers)
    smallest = _smallest_roi(choosing.array, numbers)
    at = [widest_slice(smallest, axis) for axis in range(3)]
    sx, sy, sz = image.geometry.spacing
    part = _shorten(mask, sz, max(image.array.shape[2] * sx, image.array.shape[1] * sy))
    # Rows run downwards: to the back in the axial plane, and from head to feet (z reversed) in the others.
    slabs: list[tuple[Any, tuple[float, float], str]] = [
        (np.s_[at[0]], (sx, sy), "RLAP"),
        (np.s_[part, at[1]], (sx, sz), "RLHF"),
        (np.s_[part, :, at[2]], (sy, sz), "APHF"),
    ]
    longest = max(max(image.array[cut].shape[1] * mm[0], image.array[cut].shape[0] * mm[1]) for cut, mm, _ in slabs)
    panels = [
        _panel(image.array[cut], roi.array[cut], mm, PANEL / longest, numbers, letters, window)
        for cut, mm, letters in slabs
    ]
    return _compose(panels, [labels[number] for number in numbers])


def stack_pictures(pictures: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """Pictures (at least one) of one palette below each other, `gap` pixels of its first colour apart."""
    height = sum(picture.height + gap for picture in pictures) - gap
    stacked = Image.new("P", (max(picture.width for picture in pictures), height), 0)
    palette = pictures[0].getpalette()
    assert palette is not None
    stacked.putpalette(palette)
    top = 0
    for picture in pictures:
        stacked.paste(picture, (0, top))
        top += picture.height + gap
    return stacked


def write_overlay(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG without any text or time in it: the same picture gives the same bytes."""
    picture.save(path, format="PNG", optimize=True)


def _smallest_roi(array: Plane, numbers: list[int]) -> Plane:
    """Mask of the ROI with the fewest voxels that has any; empty where none has."""
    counts = np.bincount(array.ravel(), minlength=max(numbers, default=0) + 1)
    present = [number for number in numbers if counts[number]]
    return array == min(present, key=lambda number: int(counts[number])) if present else np.zeros_like(array, bool)


def widest_slice(mask: Plane, axis: int) -> int:
    """Index along an axis of the slice in which a mask has most voxels, the middle one of several."""
    others = tuple(other for other in range(3) if other != axis)
    areas = np.count_nonzero(mask, axis=others)
    widest = np.flatnonzero(areas == areas.max())  # all slices where there is no ROI
    return int(widest[len(widest) // 2])


def _shorten(mask: Plane, spacing_z: float, width_mm: float) -> slice:
    """The slices shown in the upright planes, from head to feet.

    No more than the scan is wide, or than the ROIs need, so that a scan of the whole body doesn't make them
    tiny.
    """
    total = mask.shape[0]
    box = bounding_box(mask)
    low, high = (box[0].start, box[0].stop) if box else (total // 2, total // 2)
    count = min(total, max(round(width_mm / spacing_z), round(high - low + 2 * MARGIN_MM / spacing_z)))
    start = min(max((low + high - count) // 2, 0), total - count)
    return slice(start + count - 1, start - 1 if start else None, -1)


def _panel(
    values: Plane,
    labels: Plane,
    spacing: tuple[float, float],
    pixels_per_mm: float,
    numbers: list[int],
    letters: str,
    window: tuple[float, float],
) -> Image.Image:
    """One plane (rows, columns) with outlines and letters left, right, top and bottom; `spacing` of columns
    and of rows in mm.
    """
    rows, columns = values.shape
    size = (
        max(round(columns * spacing[0] * pixels_per_mm), 1),
        max(round(rows * spacing[1] * pixels_per_mm), 1),
    )
    low, high = window
    grey = np.clip((values.astype(np.float32) - low) / (high - low), 0, 1)
    scaled = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR))
    pixels = np.clip(np.rint(scaled * (GREYS - 1)), 0, GREYS - 1).astype(np.uint8)
    for index, number in enumerate(numbers):
        pixels[_outline(labels == number, size)] = GREYS + index % len(COLOURS)
    panel = Image.fromarray(pixels)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(FONT_SIZE)
    draw.fontmode = "1"  # no in-between greys: the letters use the palette's white
    width, height = size
    places = [(2, height / 2, "lm"), (width - 2, height / 2, "rm"), (width / 2, 2, "mt"), (width / 2, height - 2, "mb")]
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        draw.text((x, y), letter, fill=GREYS - 1, font=font, anchor=anchor, stroke_width=1, stroke_fill=0)
    return panel


def _outline(mask: Plane, size: tuple[int, int]) -> Plane:
    """The pixels just outside of a mask that is scaled to `size` (width, height); a mask too small for that
    leaves a dot's ring.
    """
    if not mask.any():
        return np.zeros((size[1], size[0]), dtype=bool)
    covered = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    # Half of the strongest pixel: the usual 0.5, unless the ROI is smaller than a pixel of the picture.
    inside = np.pad(covered >= min(0.5, covered.max() / 2), 1)
    near = np.zeros_like(inside)
    near[1:] |= inside[:-1]
    near[:-1] |= inside[1:]
    near[:, 1:] |= inside[:, :-1]
    near[:, :-1] |= inside[:, 1:]
    outline: Plane = (near & ~inside)[1:-1, 1:-1]
    return outline


def _compose(panels: list[Image.Image], names: list[str]) -> Image.Image:
    """The panels side by side, and below them the ROIs' names in their colours."""
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + GAP
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    entries: list[tuple[float, int, int]] = []
    x, row = float(GAP), 0
    for index, name in enumerate(names):
        length = font.getlength(name)
        if x > GAP and x + length > width:
            x, row = float(GAP), row + 1
        entries.append((x, row, index))
        x += length + 3 * GAP
    height = max(panel.height for panel in panels)
    picture = Image.new("P", (width, height + (row + 1) * line if names else height), 0)
    greys = [(round(255 * step / (GREYS - 1)),) * 3 for step in range(GREYS)]
    picture.putpalette([part for colour in [*greys, *COLOURS] for part in colour])
    left = 0
    for panel in panels:
        picture.paste(panel, (left, (height - panel.height) // 2))
        left += panel.width + GAP
    draw = ImageDraw.Draw(picture)
    draw.fontmode = "1"
    for x, row, index in entries:
        draw.text((x, height + row * line), names[index], fill=GREYS + index % len(COLOURS), font=font)
    return picture
