"""Closed polygons on one plane: which pixel centres lie inside, and how far points are from the outline.

Points are (x, y) in pixels of the plane, and pixel centres are whole numbers. Several polygons together follow the
even-odd rule: a centre is inside where an odd number of them surround it. So a polygon within another is a hole, one
within the hole an island, and the bridge of a keyhole contour, which is walked there and back, cancels out.

The border is half-open: a centre on the side of lower x or lower y is inside, one on the other side is not. So of two
polygons with a common side each centre belongs to one. To keep rounding errors from deciding, centres are looked at
1e-6 of a pixel up in x and y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from radloom.images import Array

_NUDGE = 1e-6
_CROSSINGS_AT_ONCE = 1 << 22
_PAIRS_AT_ONCE, _MOST_PAIRS = 1 << 20, 1 << 20
_TURN = np.array([[0.934, -0.357], [0.357, 0.934]])  # outlines run along rows, columns and diagonals; not along this
_CROSSES_BY = 0.01  # pixels
_FAR = 1e6  # pixels; no point that matters lies further off
_SAMPLES_APART = 0.1  # pixels
_MOST_SAMPLES = 100_000  # of one side


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels: x from `left` to `right`, y from `top` to `bottom`, the upper ends excluded."""

    left: int
    right: int
    top: int
    bottom: int

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of its array: (y, x)."""
        return max(self.bottom - self.top, 0), max(self.right - self.left, 0)

    def slices(self, part: Window) -> tuple[slice, slice]:
        """Where a window within this one lies in its array (y, x)."""
        return (
            slice(part.top - self.top, part.bottom - self.top),
            slice(part.left - self.left, part.right - self.left),
        )

    def around(self, other: Window) -> Window:
        """The least window that holds both."""
        left, top = min(self.left, other.left), min(self.top, other.top)
        return Window(left, max(self.right, other.right), top, max(self.bottom, other.bottom))

    def common(self, other: Window) -> Window:
        """The part of this window that lies in the other one; its sides may be 0."""
        left, right = sorted(min(max(side, self.left), self.right) for side in (other.left, other.right))
        top, bottom = sorted(min(max(side, self.top), self.bottom) for side in (other.top, other.bottom))
        return Window(left, right, top, bottom)


def window_of(polygons: Sequence[Array], limit: Window) -> Window:
    """The least window with all pixels whose centres can be inside, within `limit`."""
    points = np.concatenate(polygons)
    # Bounded before they are made whole numbers: a wild point may lie beyond all integers.
    low = np.clip(np.floor(points.min(axis=0)), -1e9, 1e9).astype(int)
    high = np.clip(np.floor(points.max(axis=0)), -1e9, 1e9).astype(int) + 1
    return limit.common(Window(int(low[0]), int(high[0]), int(low[1]), int(high[1])))


def inside(polygons: Sequence[Array], window: Window) -> Array:
    """Which pixels (y, x) of a window have their centre inside the polygons, (n, 2) points (x, y) each.

    Scan-line: every side that crosses a row switches the row's pixels from there on. The order of the polygons, the
    way round and the first point don't change a bit of the result.
    """
    rows, columns = window.shape
    switches = np.zeros((rows, columns + 1), dtype=np.uint8)
    start, stop = _sides(polygons)
    # A side owns its lower end and not its upper one, so that a corner is counted once, or twice where both go on.
    first = np.clip(np.ceil(start[:, 1]), window.top, window.bottom).astype(np.intp)
    last = np.clip(np.ceil(stop[:, 1]), window.top, window.bottom).astype(np.intp)
    crossing = np.flatnonzero(last > first)
    if not crossing.size or not switches.size:
        return np.zeros((rows, columns), dtype=bool)
    start, stop, first, counts = start[crossing], stop[crossing], first[crossing], (last - first)[crossing]
    slope = (stop[:, 0] - start[:, 0]) / (stop[:, 1] - start[:, 1])
    ends = np.cumsum(counts)
    begins = ends - counts
    cuts = np.searchsorted(ends, np.arange(_CROSSINGS_AT_ONCE, ends[-1], _CROSSINGS_AT_ONCE)).tolist()
    for low, high in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        if low == high:
            continue
        side = np.repeat(np.arange(low, high), counts[low:high])
        row = first[side] + np.arange(begins[low], ends[high - 1]) - begins[side]
        x = start[side, 0] + (row - start[side, 1]) * slope[side]
        column = np.clip(np.ceil(x), window.left, window.right).astype(np.intp)
        place = (row - window.top) * (columns + 1) + (column - window.left)
        switches ^= (np.bincount(place, minlength=switches.size) & 1).astype(np.uint8).reshape(switches.shape)
    return np.bitwise_xor.accumulate(switches[:, :columns], axis=1).astype(bool)


def distance(points: Array, polygons: Sequence[Array], pixel: tuple[float, float]) -> Array:
    """Distance in mm of points (n, 2) from the outline of the polygons; `pixel` is the spacing along x and y.

    Sides that are there an even number of times, as the bridge of a keyhole contour is, are no outline. The distance is
    the exact one to the side that has the nearest of samples a tenth of a pixel apart; no other is nearer by more than
    0.00125 / d of a pixel at a distance of d pixels.
    """
    from scipy.spatial import cKDTree

    scale = np.array(pixel)
    start, stop = _outline(polygons)
    start, way = start * scale, (stop - start) * scale
    length = np.sqrt((way**2).sum(axis=1))
    counts = np.ceil(length / (_SAMPLES_APART * min(pixel))).astype(np.intp).clip(1, _MOST_SAMPLES) + 1
    side = np.repeat(np.arange(len(start)), counts)
    share = (np.arange(side.size) - np.repeat(np.cumsum(counts) - counts, counts)) / (counts[side] - 1)
    nearest = side[cKDTree(start[side] + share[:, None] * way[side]).query(points * scale)[1]]
    offset, way = points * scale - start[nearest], way[nearest]
    share = np.clip((offset * way).sum(axis=1) / np.maximum((way**2).sum(axis=1), 1e-300), 0, 1)
    return np.asarray(np.sqrt(((offset - share[:, None] * way) ** 2).sum(axis=1)))


def area(polygon: Array) -> float:
    """Area of one polygon in pixels by the shoelace formula; of one that crosses itself, less than its inside."""
    x, y = (polygon - polygon[0]).T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def crossing_themselves(polygons: Sequence[Array]) -> int:
    """How many of the polygons have two sides that cross.

    The ends of each side lie 0.01 of a pixel or more on either side of the other: so sides that touch, or coincide as
    those of a keyhole contour's bridge, don't count. All sides are sorted along one line, each polygon's on a part of
    its own, and compared where they overlap, which they do with few others unless they are long. A polygon with more
    than a million such pairs isn't looked at.
    """
    owner = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
    start, stop = (
        np.clip(np.concatenate(points), -_FAR, _FAR) @ _TURN
        for points in (polygons, [np.roll(polygon, -1, axis=0) for polygon in polygons])
    )
    order = np.argsort(np.minimum(start[:, 0], stop[:, 0]) + 4 * _FAR * owner)
    start, stop, owner = start[order], stop[order], owner[order]
    low, high = np.minimum(start, stop), np.maximum(start, stop)
    place = 4 * _FAR * owner
    counts = np.searchsorted(low[:, 0] + place, high[:, 0] + place, "right") - np.arange(1, len(low) + 1)
    counts[np.bincount(owner, counts)[owner] > _MOST_PAIRS] = 0
    ends = np.cumsum(counts)
    begins = ends - counts
    cuts = np.searchsorted(ends, np.arange(_PAIRS_AT_ONCE, ends[-1], _PAIRS_AT_ONCE)).tolist()
    found = [owner[:0]]
    for first, last in zip([0, *cuts], [*cuts, len(counts)], strict=True):
        one = np.repeat(np.arange(first, last), counts[first:last])
        other = one + 1 + np.arange(len(one)) - (begins[one] - begins[first])
        near = (low[one, 1] <= high[other, 1]) & (high[one, 1] >= low[other, 1])
        one, other = one[near], other[near]
        found.append(owner[one[_parted(start, stop, one, other) & _parted(start, stop, other, one)]])
    return len(np.unique(np.concatenate(found)))


def _parted(start: Array, stop: Array, one: Array, other: Array) -> Array:
    """Whether the ends of the sides `other` lie on either side of the lines of the sides `one`."""
    x, y = (stop[one] - start[one]).T
    offsets = [(end[other] - start[one]).T for end in (start, stop)]
    left, right = np.sort([x * v - y * u for u, v in offsets], axis=0)
    limit = _CROSSES_BY * np.hypot(x, y)
    return np.asarray((left < -limit) & (right > limit))


def _sides(polygons: Sequence[Array]) -> tuple[Array, Array]:
    """Start and end (n, 2) of the sides, nudged, each from lower to higher y, so that both ways round are the same."""
    start = np.concatenate(polygons) - _NUDGE
    stop = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]) - _NUDGE
    up = (start[:, 1] <= stop[:, 1])[:, None]
    return np.where(up, start, stop), np.where(up, stop, start)


def _outline(polygons: Sequence[Array]) -> tuple[Array, Array]:
    """The sides without those that cancel out, not nudged; all of them where none would be left."""
    start = np.concatenate(polygons)
    stop = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    forward = (start[:, 0] < stop[:, 0]) | ((start[:, 0] == stop[:, 0]) & (start[:, 1] <= stop[:, 1]))
    sides = np.where(forward[:, None], np.hstack([start, stop]), np.hstack([stop, start]))
    sides, counts = np.unique(sides, axis=0, return_counts=True)
    if (counts % 2).any():
        sides = sides[counts % 2 == 1]
    return sides[:, :2], sides[:, 2:]
