"""Texture matrices of an ROI's grey levels: exact counts, by single passes of `kernels.c`.

Directions are PyRadiomics': offsets (z, y, x) whose largest component is one of `distances`, none as long as the
ROI's box, and none across the slices of `force2Ddimension` with `force2D`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from radloom.errors import CaseError
from radloom.features.discretise import GreyLevels
from radloom.features.kernels import count_values, library
from radloom.features.roi import Roi
from radloom.images import Array

# A square matrix of this many levels takes 64 MB as integers and 128 MB as probabilities.
MAX_PRESENT_LEVELS = 4096
# Co-occurrence matrices that are counted in one pass take this many entries at most, 64 MB.
_ENTRIES_AT_ONCE = 1 << 24


def directions(
    shape: Sequence[int], setting: Mapping[str, Any], both_ways: bool, distances: Sequence[int] | None = None
) -> list[tuple[int, int, int]]:
    """Return the offsets (z, y, x) to neighbours in a box of this shape, in PyRadiomics' order.

    `distances` default to those of the setting. Without `both_ways`, one of each pair of opposite directions, the one
    that leads forward in memory.
    """
    wanted = set(setting.get("distances", (1,)) if distances is None else distances)
    flat = int(setting.get("force2Ddimension", 0)) if setting.get("force2D", False) else None
    reach = [0 if axis == flat else min(max(wanted), size - 1) for axis, size in enumerate(shape)]
    ranges = (range(far, -far - 1, -1) for far in reach)
    found = [(z, y, x) for z, y, x in itertools.product(*ranges) if max(abs(z), abs(y), abs(x)) in wanted]
    return found if both_ways else found[: len(found) // 2]


@dataclass(frozen=True)
class Levels:
    """The grey levels of an ROI, laid out in its padded box."""

    roi: Roi
    grey: GreyLevels

    @cached_property
    def volume(self) -> Array:
        """Level of each voxel, 0 outside: (z, y, x) uint16 with the ROI's padding."""
        return self._laid_out(self.grey.level)

    @cached_property
    def ranks(self) -> Array:
        """As `volume`, with levels numbered over those that occur."""
        ranks = self.grey.ranks()
        return self.volume if ranks is self.grey.level else self._laid_out(ranks)

    def _laid_out(self, levels: Array) -> Array:
        volume = np.zeros(self.roi.padded_shape, np.uint16)
        library().scatter(levels, *self.roi.runs, volume)
        return volume

    def flat(self, offsets: Sequence[tuple[int, int, int]]) -> Array:
        """Return offsets (z, y, x) as steps in the flat padded volume."""
        _, ny, nx = self.roi.padded_shape
        return np.array([(z * ny + y) * nx + x for z, y, x in offsets], dtype=np.int64)


def _check_levels(levels: Levels) -> int:
    present = len(levels.grey.present)
    if present > MAX_PRESENT_LEVELS:
        raise CaseError(
            f"the ROI has {present} grey levels, more than {MAX_PRESENT_LEVELS}",
            "a larger `binWidth`, or a `resegmentRange` that leaves out implausible values",
        )
    return present


def cooccurrences(levels: Levels, offsets: Sequence[tuple[int, int, int]]) -> Iterator[Array]:
    """Yield for each offset how often each pair of present levels occurs at it: (level of a voxel, level of its
    neighbour), uint32.
    """
    side = _check_levels(levels) + 1
    steps = levels.flat(offsets)
    at_once = max(1, _ENTRIES_AT_ONCE // side**2)
    for first in range(0, len(steps), at_once):
        part = steps[first : first + at_once]
        matrix = np.zeros((len(part), side, side), np.uint32)
        library().cooccurrences(levels.ranks, *levels.roi.runs, part, len(part), side - 1, matrix)
        yield from matrix[:, 1:, 1:]


def run_lengths(levels: Levels, offsets: Sequence[tuple[int, int, int]]) -> Array:
    """Return the runs of each offset, present level and length, (offset, level, length), uint32.

    As in PyRadiomics an offset counts no runs if none of its lines through the box meets two voxels of the ROI.
    """
    present, longest = _check_levels(levels), max(levels.roi.mask.shape)
    counted = np.zeros((len(offsets), present + 1, longest + 1), np.uint32)
    steps, scratch = levels.flat(offsets), np.empty(levels.roi.padded_shape, np.uint16)
    library().run_lengths(levels.ranks, *levels.roi.runs, steps, len(steps), present, longest, scratch, counted)
    matrix = counted[:, 1:, 1:]
    for counts, offset in zip(matrix, offsets, strict=True):
        if not counts[:, 1:].any() and not _share_a_line(levels.roi.mask, offset):
            counts[:] = 0
    used = np.flatnonzero(matrix.any(axis=(0, 1)))
    return matrix[:, :, : used[-1] + 1] if len(used) else matrix[:, :, :1]


def _share_a_line(mask: Array, offset: tuple[int, int, int]) -> bool:
    """Tell whether two voxels of the mask lie on one line along the offset, whatever lies between them."""
    at = np.argwhere(mask)
    axis = next(axis for axis, step in enumerate(offset) if step)
    along = at[:, axis] * offset[axis]  # steps are 1 or -1
    foot = at - along[:, None] * np.array(offset)
    foot -= foot.min(axis=0)
    lines = np.ravel_multi_index(tuple(foot.T), tuple(foot.max(axis=0) + 1))
    return len(np.unique(lines)) < len(lines)


def zones(levels: Levels, offsets: Sequence[tuple[int, int, int]]) -> tuple[Array, Array]:
    """Return the zones of connected voxels of one level: counts (level, size) and the sizes that occur.

    `offsets` lead forward; the levels are the present ones.
    """
    present = _check_levels(levels)
    # Those that touch most others first: they settle the most.
    ordered = sorted(offsets, key=lambda offset: sum(map(abs, offset)))
    steps, near = -levels.flat(ordered), np.array([_touching(offset, ordered) for offset in ordered], np.uint32)
    zone = np.empty(levels.roi.padded_shape, np.int32)
    found = library().find_zones(levels.ranks, *levels.roi.runs, steps, near, len(steps), zone)
    level, size = np.empty(found, np.uint16), np.zeros(found, np.int32)
    library().measure_zones(levels.ranks, zone, *levels.roi.runs, level, size)
    # By size without sorting all zones, most of which are small.
    how_often = count_values(size, 0, int(size.max()))
    sizes = np.flatnonzero(how_often)
    column = np.zeros(len(how_often), np.int32)
    column[sizes] = np.arange(len(sizes))
    cells = (level.astype(np.int64) - 1) * len(sizes) + column[size]
    return count_values(cells, 0, present * len(sizes) - 1).reshape(present, len(sizes)), sizes


def _touching(offset: tuple[int, int, int], others: Sequence[tuple[int, int, int]]) -> int:
    """Bit m tells whether neighbour m touches the one at this offset, or is it."""
    touch = [max(abs(a - b) for a, b in zip(offset, other, strict=True)) <= 1 for other in others]
    return sum(1 << m for m, is_near in enumerate(touch) if is_near)


def neighbourhoods(levels: Levels, offsets: Sequence[tuple[int, int, int]], alpha: int) -> tuple[Array, Array]:
    """Return for each present level how many voxels have 0, 1, ... neighbours whose level differs by `alpha` at most,
    (level, neighbours), and the sum of the voxels' distances to the mean level of their neighbours, (level,).

    `offsets` lead both ways.
    """
    highest, steps = levels.grey.highest, levels.flat(offsets)
    dependence = np.zeros((highest, len(steps) + 1), np.uint32)
    difference = np.zeros(highest)
    library().neighbourhoods(levels.volume, *levels.roi.runs, steps, len(steps), int(alpha), dependence, difference)
    rows = levels.grey.present - 1
    return dependence[rows], difference[rows]
