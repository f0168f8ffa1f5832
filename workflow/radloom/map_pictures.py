"""The pictures of voxel maps: three planes through the ROI, the map in colour over the image.

Planes as in the overlay (`radloom.overlay`), but of the ROI's surroundings alone, at one scale a row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from radloom.images import Volume, bounding_box
from radloom.overlay import widest_slice

PANEL = 180  # pixels of the longest side of a row's largest panel
GAP = 4
FONT_SIZE = 12
BAR_WIDTH = 10
LABEL_WIDTH = 60
MARGIN_MM = 10.0  # shown around the ROI
GREYS = 24
COLOURS = 64
SCALE = (2, 98)
"""Percentiles of the map that the colours' ends stand for: single voxels don't take the colours from the rest."""

# Viridis (CC0) at even steps: dark to light, also for readers who tell no red from green, and in print.
_VIRIDIS = (
    *((68, 1, 84), (72, 40, 120), (62, 74, 137), (49, 104, 142), (38, 130, 142)),
    *((31, 158, 137), (53, 183, 121), (110, 206, 88), (181, 222, 43), (253, 231, 37)),
)

Plane = NDArray[Any]


def draw_map(image: Volume, values: Plane, title: str, window: tuple[float, float]) -> Image.Image:
    """The picture of one map, in palette colours.

    image: HU (z, y, x), axes nearest to LPS; values: the map on its grid, NaN where there is none, which stays grey.
    window: HU shown as black and as white. The numbers beside the colours are the `SCALE` percentiles of the map.
    """
    inside = np.isfinite(values)
    sx, sy, sz = image.geometry.spacing
    box = bounding_box(inside) or tuple(slice(0, n) for n in values.shape)
    margins = [int(np.ceil(MARGIN_MM / spacing)) for spacing in (sz, sy, sx)]
    z, y, x = (
        slice(max(part.start - margin, 0), min(part.stop + margin, n))
        for part, margin, n in zip(box, margins, values.shape, strict=True)
    )
    at = [widest_slice(inside, axis) for axis in range(3)]
    head_first = slice(z.stop - 1, z.start - 1 if z.start else None, -1)
    cuts: list[tuple[Any, tuple[float, float], str]] = [
        (np.s_[at[0], y, x], (sx, sy), "RLAP"),
        (np.s_[head_first, at[1], x], (sx, sz), "RLHF"),
        (np.s_[head_first, y, at[2]], (sy, sz), "APHF"),
    ]
    longest = max(max(values[cut].shape[1] * mm[0], values[cut].shape[0] * mm[1]) for cut, mm, _ in cuts)
    limits = colour_range(values)
    panels = [
        _panel(image.array[cut], values[cut], mm, PANEL / longest, letters, window, limits) for cut, mm, letters in cuts
    ]
    return _compose(panels, title, limits)


def colour_range(values: Plane) -> tuple[float, float]:
    """The values that the first and the last colour stand for; 0 and 1 where no voxel has a value."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known.astype(np.float64), SCALE)
    return float(low), float(high)


def _panel(
    grey: Plane,
    values: Plane,
    spacing: tuple[float, float],
    pixels_per_mm: float,
    letters: str,
    window: tuple[float, float],
    limits: tuple[float, float],
) -> Image.Image:
    """One plane (rows, columns) with letters left, right, top and bottom; `spacing` of columns and of rows in mm."""
    rows, columns = values.shape
    size = (max(round(columns * spacing[0] * pixels_per_mm), 1), max(round(rows * spacing[1] * pixels_per_mm), 1))
    low, high = window
    shade = np.clip((grey.astype(np.float32) - low) / (high - low), 0, 1)
    scaled = np.asarray(Image.fromarray(shade).resize(size, Image.Resampling.BILINEAR))
    pixels = np.clip(np.rint(scaled * (GREYS - 1)), 0, GREYS - 1).astype(np.uint8)
    # Voxels as they are: interpolated values would be values that no voxel has.
    coloured = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.NEAREST))
    known = np.isfinite(coloured)
    pixels[known] = _colours(coloured[known], limits)
    panel = Image.fromarray(pixels)
    draw = ImageDraw.Draw(panel)
    draw.fontmode = "1"  # no in-between greys: the letters use the palette's white
    font = ImageFont.load_default(FONT_SIZE)
    width, height = size
    places = [(2, height / 2, "lm"), (width - 2, height / 2, "rm"), (width / 2, 2, "mt"), (width / 2, height - 2, "mb")]
    for letter, (x, y, anchor) in zip(letters, places, strict=True):
        draw.text((x, y), letter, fill=GREYS - 1, font=font, anchor=anchor, stroke_width=1, stroke_fill=0)
    return panel


def _colours(values: Plane, limits: tuple[float, float]) -> Plane:
    """Palette index of each value, the first colour where all are alike."""
    low, high = limits
    share = (values.astype(np.float64) - low) / (high - low) if high > low else np.zeros(values.shape)
    return (GREYS + np.clip(np.rint(share * (COLOURS - 1)), 0, COLOURS - 1)).astype(np.uint8)


def _compose(panels: list[Image.Image], title: str, limits: tuple[float, float]) -> Image.Image:
    """The panels side by side below the title, and right of them the colours with the values of their ends."""
    line = FONT_SIZE + GAP
    width = sum(panel.width + GAP for panel in panels) + BAR_WIDTH + LABEL_WIDTH
    height = max(max(panel.height for panel in panels), 4 * FONT_SIZE)
    font = ImageFont.load_default(FONT_SIZE)
    picture = Image.new("P", (max(width, int(font.getlength(title)) + 2 * GAP), height + line), 0)
    picture.putpalette(_palette())
    left = 0
    for panel in panels:
        picture.paste(panel, (left, line + (height - panel.height) // 2))
        left += panel.width + GAP
    bar = np.linspace(GREYS + COLOURS - 1, GREYS, height).round().astype(np.uint8)
    picture.paste(Image.fromarray(np.repeat(bar[:, None], BAR_WIDTH, axis=1)), (left, line))
    draw = ImageDraw.Draw(picture)
    draw.fontmode = "1"
    draw.text((GAP, 0), title, fill=GREYS - 1, font=font)
    draw.text((left + BAR_WIDTH + GAP, line), f"{limits[1]:.4g}", fill=GREYS - 1, font=font, anchor="lt")
    draw.text((left + BAR_WIDTH + GAP, line + height - 1), f"{limits[0]:.4g}", fill=GREYS - 1, font=font, anchor="lb")
    return picture


def _palette() -> list[int]:
    greys = [(round(255 * step / (GREYS - 1)),) * 3 for step in range(GREYS)]
    steps = np.linspace(0, len(_VIRIDIS) - 1, COLOURS)
    channels = [np.interp(steps, range(len(_VIRIDIS)), channel) for channel in zip(*_VIRIDIS, strict=True)]
    colours = np.rint(np.stack(channels, axis=1)).astype(int).tolist()
    return [part for colour in [*greys, *colours] for part in colour]
