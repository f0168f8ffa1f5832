"""Tiny cases that a net can learn: a bright ball (class 1) with a dark core (class 2) in fat, in two centres."""

from pathlib import Path

import numpy as np

from radloom.nets.dataset import CachedCase, cache_case

SPACING = (2.0, 2.0, 4.0)
CLASSES = {1: "ball", 2: "core"}


def ball(seed: int, shape: tuple[int, int, int] = (6, 32, 40)) -> tuple[np.ndarray, np.ndarray]:
    """Image (z, y, x; HU, int16) and labels of a ball whose place depends on the seed."""
    rng = np.random.default_rng([77, seed])
    z, y, x = np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij")
    cz, cy, cx = (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3) * [0.5, 5, 7]
    distance = np.sqrt((2 * (z - cz)) ** 2 + (y - cy) ** 2 + (x - cx) ** 2)
    labels = (distance < 8).astype(np.uint8) + (distance < 4)
    image = np.array([-100.0, 150.0, 40.0])[labels] + rng.normal(0, 15, shape)
    return np.rint(image).astype(np.int16), labels.astype(np.uint8)


def cached_balls(folder: Path, count: int, shape: tuple[int, int, int] = (6, 32, 40)) -> list[CachedCase]:
    """Cases in a cache, on their own grid, of the centres a and b in turn."""
    return [
        cache_case(
            folder / f"c{i}", str(i), f"c{i}", "ab"[i % 2], SPACING[:2], 2, lambda i=i: (*ball(i, shape), SPACING)
        )
        for i in range(count)
    ]
