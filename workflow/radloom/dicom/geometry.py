"""Where the slices of a series lie, and the rectangular grid that they make."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from radloom.errors import CaseError
from radloom.images import Array, nearest_rotation

SAME_PLACE_MM = 0.01
_ORTHONORMAL = 1e-3
_ROUNDED_MM = 0.051  # positions are written with as few as one decimal
_UNEVEN = 0.02  # of the slice spacing
_LARGEST_GAP = 10_000  # slices
_WHOLE = 1e-6  # of a pixel: a shift this near to whole pixels needs no interpolation
_SIDEWAYS = 0.1  # of a pixel: a drift up to this across the stack is the rounding of the orientation


@dataclass(frozen=True)
class Layout:
    """The slices of a series in ascending order along their normal.

    `axes` has the unit vectors of x, y and z in its columns. `places` are the numbers of the frames at each distinct
    place, `index` the slice of the grid on which each place lies (0, 1, ... with gaps), `step` the slice spacing in
    mm, `origin` that of the first place (LPS, mm), `drift` how far each slice of the grid is shifted sideways against
    the first (x, y in mm a slice; 0 without a tilt), `error` how far places are from the even grid at most (mm).
    """

    axes: Array
    places: list[list[int]]
    index: Array
    step: float
    origin: Array
    drift: tuple[float, float]
    error: float

    @property
    def slices(self) -> int:
        """Slices of the grid, missing ones among them."""
        return int(self.index[-1]) + 1

    @property
    def missing(self) -> list[int]:
        """Slices of the grid at which there is no image."""
        return sorted(set(range(self.slices)) - set(self.index.tolist()))

    @property
    def tilt_degrees(self) -> float:
        """Angle between the stack and the normal of its slices."""
        return float(np.degrees(np.arctan2(np.hypot(*self.drift), self.step)))


@dataclass(frozen=True)
class Sheared:
    """An upright stack (float32), where it is known, and the pixel (x, y) of the slices at which it begins."""

    array: Array
    valid: Array
    start: tuple[int, int]


def lay_out(positions: Array, orientation: Array, pixel_mm: tuple[float, float]) -> Layout:
    """Sort the slices by their positions (n, 3), mm, along the normal of their `orientation` (6 cosines).

    `pixel_mm` is the pixel spacing (x, y). Raises CaseError if the orientation is not orthonormal, if there are fewer
    than 2 places, or if they are uneven or shifted sideways without an order.
    """
    x, y = orientation[:3], orientation[3:]
    if abs(x @ x - 1) > _ORTHONORMAL or abs(y @ y - 1) > _ORTHONORMAL or abs(x @ y) > _ORTHONORMAL:
        raise CaseError("the rows and columns of the slices are not at right angles", "Export the series again.")
    axes = nearest_rotation(np.stack([x, y, np.cross(x, y)], axis=1))
    along = positions @ axes[:, 2]
    order = np.argsort(along, kind="stable")
    fresh = np.concatenate([[True], np.diff(along[order]) > SAME_PLACE_MM])
    places = [part.tolist() for part in np.split(order, np.flatnonzero(fresh)[1:])]
    if len(places) < 2:
        raise CaseError("all slices of the series lie at one place", "Send the slices of a volume.")
    first = np.array([place[0] for place in places])
    index, step, error = _even(along[first])
    sideways = (positions[first] - positions[first[0]]) @ axes[:, :2]
    drift = np.array(index @ sideways / (index @ index))  # least squares through the first slice
    limit = _SIDEWAYS * np.array(pixel_mm)
    if (np.abs(sideways - np.outer(index, drift)) > limit).any():
        raise CaseError(
            f"the slices are shifted sideways against each other, by up to {np.abs(sideways).max():.3g} mm, "
            "and not evenly as with a gantry tilt",
            "Send the slices of one reconstruction.",
        )
    small = np.abs(drift) * index[-1] <= limit
    drift = np.where(small, 0.0, drift)
    return Layout(axes, places, index, step, positions[first[0]], (float(drift[0]), float(drift[1])), error)


def _even(along: Array) -> tuple[Array, float, float]:
    """The slice of an even grid for each ascending place, its step, and the largest distance (mm) from it."""
    steps = np.diff(along)
    usual = np.sort(steps)[(len(steps) - 1) // 2]  # the median; of an even number the lower of both
    whole = np.clip(np.rint(steps / usual), 1, _LARGEST_GAP)
    index = np.concatenate([[0], np.cumsum(whole)]).astype(int)
    step = float((along[-1] - along[0]) / index[-1])
    error = float(np.abs(along - along[0] - index * step).max())
    near = np.abs(steps - whole * step) <= max(2 * _ROUNDED_MM, _UNEVEN * step)
    if not near.all() or error > max(_ROUNDED_MM, _UNEVEN * step):
        kinds = Counter(f"{round(one, 2):g}" for one in steps)
        listed = ", ".join(f"{count} of {one} mm" for one, count in kinds.most_common(5))
        raise CaseError(
            f"the slices are spaced unevenly: steps {listed}{' and others' if len(kinds) > 5 else ''}",
            "Send the slices of one reconstruction, evenly spaced.",
        )
    return index, step, error


def sheared(array: Array, valid: Array | None, drift: tuple[float, float], outside: float) -> Sheared:
    """Slices (z, y, x), each shifted sideways by `drift` pixels (x, y) against the one below, on one upright grid.

    The grid is as much larger as the slices need; values between pixels are interpolated linearly within the slice
    (float32), and what no slice covers, or where a pixel that counts isn't valid, is `outside` and not valid. Along an
    axis without drift nothing is interpolated.
    """
    planes, rows, columns = array.shape
    shifts = np.arange(planes)[:, None] * np.array(drift)
    low = np.floor(np.minimum(shifts[-1], 0) + _WHOLE).astype(int)
    high = np.ceil(np.maximum(shifts[-1], 0) - _WHOLE).astype(int)
    wide, tall = (np.array([columns, rows]) + high - low).tolist()
    out = np.full((planes, tall, wide), outside, np.float32)
    kept = np.zeros(out.shape, bool)
    for k in range(planes):
        plane, sure = array[k].astype(np.float32), np.ones((rows, columns), bool) if valid is None else valid[k]
        for axis, size, shift in ((1, wide, shifts[k, 0] - low[0]), (0, tall, shifts[k, 1] - low[1])):
            plane, sure = _shifted(plane, sure, axis, size, float(shift))
        out[k][sure] = plane[sure]
        kept[k] = sure
    return Sheared(out, kept, (int(low[0]), int(low[1])))


def _shifted(plane: Array, valid: Array, axis: int, size: int, shift: float) -> tuple[Array, Array]:
    """A plane moved by `shift` >= 0 pixels along an axis into `size` pixels, and where it is known there."""
    count = plane.shape[axis]
    whole = int(np.floor(shift + _WHOLE))
    part = shift - whole
    if abs(part) < _WHOLE:
        part = 0.0
    shape = (size, plane.shape[1]) if axis == 0 else (plane.shape[0], size)
    out, known = np.zeros(shape, np.float32), np.zeros(shape, bool)

    def cut(start: int, length: int) -> tuple[slice, ...]:
        return (slice(start, start + length),) if axis == 0 else (slice(None), slice(start, start + length))

    if part:  # the value at pixel j comes from j - shift, between j - whole - 1 and j - whole
        length = count - 1
        before, after = cut(0, length), cut(1, length)
        out[cut(whole + 1, length)] = plane[before] * part + plane[after] * (1 - part)
        known[cut(whole + 1, length)] = valid[before] & valid[after]
    else:
        out[cut(whole, count)] = plane
        known[cut(whole, count)] = valid
    return out, known
