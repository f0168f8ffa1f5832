"""Augmentation: what is drawn for an item of a training batch, and what it does to image and labels.

Arrays are ([z,] y, x) on the net's grid. All that is drawn comes from the generator that is handed over, so that an
item is the same whoever makes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Augmentation:
    """How much images may be changed; 0 (or no axis) leaves a change out. Raises ValueError for what can't be."""

    flip: tuple[str, ...] = ()
    """Axes among x, y and z along which half of the items are mirrored. Organs have sides: without good reason none."""
    rotate: float = 0.0
    """Largest rotation in the slice, in degrees, both ways."""
    scale: float = 0.0
    """Largest change of size, as a fraction, both ways."""
    shift: int = 0
    """Largest shift of the patch along y and x in voxels, both ways."""
    noise_hu: float = 0.0
    """Largest standard deviation of the white noise that is added, in HU."""
    blur: float = 0.0
    """Largest standard deviation of the Gaussian blur in the slice, in voxels; half of the items are blurred."""
    hu_shift: float = 0.0
    """Largest offset that is added to all HU of an item, both ways, so that an imperfect calibration doesn't matter."""

    def __post_init__(self) -> None:
        if set(self.flip) - {"x", "y", "z"}:
            raise ValueError(f"flip names axes among x, y and z, not {list(self.flip)}")
        if min(self.rotate, self.scale, self.shift, self.noise_hu, self.blur, self.hu_shift) < 0 or self.scale >= 1:
            raise ValueError("augmentation takes no negative size, and a scale below 1")


@dataclass(frozen=True)
class Placement:
    """Where in a case a patch is taken: voxel `centre` + `matrix` @ (voxel of the patch - its middle), axes [z,] y, x.

    `flipped` says for each axis whether the patch is mirrored afterwards.
    """

    centre: tuple[float, ...]
    matrix: np.ndarray | None
    """None: the patch is cut out voxel by voxel."""
    flipped: tuple[bool, ...]


def place_patch(
    shape: tuple[int, ...],
    patch: tuple[int, ...],
    at: tuple[int, ...] | None,
    spacing: tuple[float, ...],
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Placement:
    """Draw the place of a patch in an array of `shape`; all axes are ([z,] y, x), spacings in mm likewise.

    The patch lies around the voxel `at`, or anywhere (None), and inside the array where it fits; where it doesn't, the
    array lies in its middle. Rotation is in the plane of y and x, in mm.
    """
    dimensions = len(shape)
    start = np.empty(dimensions)
    for axis, (length, wanted) in enumerate(zip(shape, patch, strict=True)):
        drawn = int(rng.integers(0, max(length - wanted, 0) + 1))
        if length <= wanted:
            start[axis] = -((wanted - length) // 2)
        else:
            start[axis] = drawn if at is None else min(max(at[axis] - wanted // 2, 0), length - wanted)
    start[-2:] += rng.integers(-augmentation.shift, augmentation.shift + 1, 2)
    angle = math.radians(rng.uniform(-augmentation.rotate, augmentation.rotate))
    size = 1 + rng.uniform(-augmentation.scale, augmentation.scale)
    mirrored = rng.random(3) < 0.5
    flipped = tuple(
        bool(mirrored["zyx".index(axis)]) and axis in augmentation.flip for axis in ("zyx" if dimensions == 3 else "yx")
    )
    centre = start + (np.array(patch) - 1) / 2
    matrix = None
    if augmentation.rotate or augmentation.scale:
        turn = np.eye(dimensions)
        turn[-2:, -2:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        mm = np.array(spacing)
        # An object that shall look `size` times as large is sampled at steps `size` times as small.
        matrix = turn * mm[None, :] / mm[:, None] / size
    return Placement(tuple(float(c) for c in centre), matrix, flipped)


def change_hu(hu: np.ndarray, augmentation: Augmentation, rng: np.random.Generator) -> np.ndarray:
    """Blur, noise and offset of an image (float32, ([z,] y, x) or neighbouring slices as channels)."""
    sigma, blurred = rng.uniform(0, augmentation.blur), rng.random() < 0.5
    deviation, offset = rng.uniform(0, augmentation.noise_hu), rng.uniform(-1, 1) * augmentation.hu_shift
    if augmentation.blur and blurred:
        hu = ndimage.gaussian_filter(hu, (*[0.0] * (hu.ndim - 2), sigma, sigma), mode="nearest")
    if augmentation.noise_hu:
        hu = hu + np.float32(deviation) * rng.standard_normal(hu.shape, dtype=np.float32)
    return hu + np.float32(offset)
