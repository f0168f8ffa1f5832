"""Synthetic CTs for the quality figures: a body of muscle in fat and air, with what a test puts into it."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from radloom.images import Array, Geometry, Volume

SHAPE = (32, 200, 200)
SPACING = (0.9, 0.9, 2.5)
MUSCLE, FAT, AIR = 55.0, -105.0, -1000.0


def geometry(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, float, float] = SPACING) -> Geometry:
    return Geometry((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0))


def body(shift: Array | float = 0.0, muscle: float = MUSCLE, fat: float = FAT) -> Array:
    """Muscle within a rim of fat in air (z, y, x), without noise; `shift` in pixels along x, of all or each slice."""
    _, y, x = np.indices(SHAPE, dtype=np.float32)
    middle = 100 + np.broadcast_to(np.asarray(shift, np.float32), SHAPE[0])[:, None, None]
    radius = np.hypot((y - 100) / 0.8, x - middle)
    return np.where(radius < 55, muscle, np.where(radius < 75, fat, AIR))


def noisy(image: Array, sd: float, seed: int = 1, blur: float = 0.0, floor: float = -1024.0) -> Volume:
    """The image with normal noise of this SD, correlated over `blur` pixels, as whole HU not below `floor`."""
    noise = np.random.default_rng(seed).standard_normal(image.shape, np.float32)
    if blur:
        noise = ndimage.gaussian_filter(noise, (0, blur, blur))
        noise /= noise.std()
    values = np.rint(image + sd * noise).clip(floor, 3071)
    return Volume(values.astype(np.int16), geometry(image.shape))
