"""Masks, spacings and radii for the tests of the morphology, and the ball by its definition."""

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from scipy import ndimage

Spacing = tuple[float, float, float]

# Quarters of a mm, so that distances are equal to a radius or clearly not.
_lengths = st.integers(2, 16).map(lambda n: n / 4)
spacings = st.tuples(_lengths, _lengths, _lengths)
radii = st.integers(1, 20).map(lambda n: n / 4)


@st.composite
def masks(draw: st.DrawFn, labels: int = 1) -> np.ndarray:
    """Smooth shapes (z, y, x, bool), or with more `labels` their numbers, which may touch the border or be absent."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    smooth = ndimage.gaussian_filter(rng.normal(size=(labels + 1, *shape)), (0, 1, 1, 1))
    smooth[0] += draw(st.sampled_from([-0.2, 0.0, 0.2]))
    array = smooth.argmax(axis=0).astype(np.uint8)
    return array if labels > 1 else array.astype(bool)


@st.composite
def specks(draw: st.DrawFn) -> np.ndarray:
    """A few small blobs (z, y, x, bool) in a wide array, some of them near each other."""
    shape = draw(st.tuples(st.integers(1, 30), st.integers(10, 30), st.integers(10, 30)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    mask = np.zeros(shape, bool)
    for _ in range(draw(st.integers(1, 8))):
        low = rng.integers(0, shape)
        mask[tuple(slice(a, a + n) for a, n in zip(low, rng.integers(1, 5, 3), strict=True))] = True
    return mask


def ball(radius: float, spacing: Spacing) -> np.ndarray:
    """The ball as a structuring element (z, y, x), by the definition."""
    reach = [int(radius / s) for s in reversed(spacing)]
    z, y, x = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    sx, sy, sz = spacing
    return (z * sz) ** 2 + (y * sy) ** 2 + (x * sx) ** 2 <= radius**2


def on_infinite_grid(operation: Callable[..., np.ndarray], mask: np.ndarray, element: np.ndarray) -> np.ndarray:
    """A morphological operation of scipy on a mask that lies in endless background."""
    pad = max(element.shape)
    return operation(np.pad(mask, pad), element)[(slice(pad, -pad),) * 3]
