"""The ROIs of a case as masks: those of the segmentation, and those derived from them (`radloom.roi_definitions`).

Distances are in mm between voxel centres, exact on anisotropic grids. A shell takes a voxel outside the ROI where
inner < d <= outer, d being the distance of its centre from the nearest centre of the ROI's voxels; a core takes a voxel
of the ROI where every centre outside is further than the depth. So shell and core are the ball dilation and erosion of
the postprocessing: a dilation by r is the ROI and its shell from 0 to r. Beyond the volume all is background: a
shell ends there, and a core keeps its depth from there too.

Every mask is kept within the slices of its own box: a shell of a small lesion costs as little in a large scan as in a
small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from radloom.images import Array, Box, Vector, bounding_box, widen
from radloom.morphology import ball_erosion, components_by_size, squared_distance, within
from radloom.roi_definitions import (
    Core,
    Definition,
    Each,
    Intersection,
    Shell,
    Union,
    family_of,
    sources_of,
)

SPARSE = 0.1
"""Below this part of its box that an ROI fills, its components are looked at one by one."""


@dataclass(frozen=True)
class Region:
    """The voxels of an ROI: a mask (z, y, x, bool) within the slices `box` of a volume; of no voxel, no slice."""

    box: Box
    mask: Array

    @property
    def empty(self) -> bool:
        return self.mask.size == 0

    def full(self, shape: tuple[int, ...]) -> Array:
        """The mask (z, y, x, bool) of the whole volume of this shape."""
        array = np.zeros(shape, dtype=bool)
        array[self.box] = self.mask
        return array


NOWHERE = Region((slice(0, 0), slice(0, 0), slice(0, 0)), np.zeros((0, 0, 0), dtype=bool))


@dataclass(frozen=True)
class CaseRois:
    """The ROIs of a case by name, why others are left out (roi, reason, advice), and notes on those that there are."""

    regions: dict[str, Region]
    excluded: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_rois(
    array: Array,
    spacing: Vector,
    labels: Mapping[int, str],
    derived: Mapping[str, Definition] | None = None,
    wanted: Iterable[str | int] = (),
) -> CaseRois:
    """The wanted ROIs of a label volume (z, y, x), all of them where none is named.

    `spacing` is (x, y, z) in mm, `labels` names the label numbers, `derived` defines further ROIs, `wanted` has names,
    label numbers, or the name of an `each`, which stands for all its components. They come in the order of the
    label numbers, then of the derived ones' names, components by size. What has no voxel is excluded.
    """
    case = _Case(array, spacing, labels, derived or {})
    chosen = list(dict.fromkeys(case.name_of(str(one)) for one in wanted))
    excluded = [
        {
            "roi": name,
            "reason": f"the case has no {'label of this number' if name.isdigit() else 'ROI of this name'} "
            f"(it has: {case.known})",
            "advice": "check `segment.labels` and `extract.rois`",
        }
        for name in chosen
        if not case.knows(name)
    ]
    regions: dict[str, Region] = {}
    notes: list[str] = []
    for name in case.names(chosen):
        region = case.region(name)
        if region.empty:
            reason, advice = case.why_empty(name)
            excluded.append({"roi": name, "reason": reason, "advice": advice})
        else:
            regions[name] = region
            notes += case.notes.get(name, [])
    return CaseRois(regions, excluded, notes)


class _Case:
    """The label volume of a case, and what was found in it so far."""

    def __init__(
        self, array: Array, spacing: Vector, labels: Mapping[int, str], definitions: Mapping[str, Definition]
    ) -> None:
        self.array = array
        self.spacing = spacing
        self.labels = labels
        self.numbers = {labels[number]: number for number in sorted(labels, reverse=True)}
        # By name: a configuration that went through a plan has lost the order in which it was written.
        self.definitions = {name: definitions[name] for name in sorted(definitions)}
        self.notes: dict[str, list[str]] = {}
        self._regions: dict[str, Region] = {}
        self._components: dict[str, list[Region]] = {}

    @property
    def known(self) -> str:
        """All names, for a message."""
        return ", ".join([*(self.labels[number] for number in sorted(self.labels)), *self.definitions]) or "none"

    def name_of(self, reference: str) -> str:
        """The name of the ROI that is meant by its name or by its label number."""
        return self.labels.get(int(reference), reference) if reference.isdigit() else reference

    def knows(self, name: str) -> bool:
        """Whether the name is one of the segmentation or of the definitions."""
        return name in self.numbers or name in self.definitions or family_of(name, self.definitions) is not None

    def names(self, chosen: list[str]) -> list[str]:
        """The names of the chosen ROIs in order, components one by one; a family without any by its own name."""
        found = [self.labels[number] for number in sorted(self.labels)]
        found = [name for name in found if not chosen or name in chosen]
        for name, definition in self.definitions.items():
            whole = not chosen or name in chosen
            if isinstance(definition, Each):
                members = {member: family_of(member, self.definitions) for member in chosen}
                asked = sorted(family[1] for family in members.values() if family and family[0] == name)
                if whole:
                    # A component that is asked for by itself and isn't there is excluded by itself.
                    there = range(1, len(self.components(name)) + 1)
                    asked = [*there, *(number for number in asked if number > len(there))]
                found += [f"{name}_{number}" for number in asked] if asked or not whole else [name]
            elif whole:
                found.append(name)
        return list(dict.fromkeys(found))

    def region(self, reference: str) -> Region:
        """The voxels of an ROI, given by name or label number; of one that isn't there, none."""
        name = self.name_of(reference)
        if name not in self._regions:
            self._regions[name] = self._find(name)
        return self._regions[name]

    def components(self, name: str) -> list[Region]:
        """The components of an `each`, the largest first."""
        if name not in self._components:
            definition = self.definitions[name]
            assert isinstance(definition, Each)
            least = definition.min_volume_mm3 / math.prod(self.spacing) * (1 - 1e-9)
            parts = _components(self.region(definition.of))
            self._components[name] = [part for part in parts if np.count_nonzero(part.mask) >= least]
        return self._components[name]

    def _find(self, name: str) -> Region:
        if name in self.numbers:
            return _tight(self.array == self.numbers[name])
        if family := family_of(name, self.definitions):
            parts = self.components(family[0])
            return parts[family[1] - 1] if family[1] <= len(parts) else NOWHERE
        definition = self.definitions.get(name)
        if definition is None or isinstance(definition, Each):
            return NOWHERE
        made = self._derive(definition)
        if isinstance(definition, Shell | Union):
            optional = definition.minus if isinstance(definition, Shell) else definition.of
            lost = [source for source in optional if self.region(source).empty]
            self.notes[name] = [f"{name}: {', '.join(lost)} {_is(lost)} empty in this case"] if lost else []
        return made

    def _derive(self, definition: Definition) -> Region:
        if isinstance(definition, Union | Intersection):
            regions = [self.region(source) for source in definition.of]
            return _union(regions) if isinstance(definition, Union) else _intersection(regions)
        source = self.region(definition.of)
        if source.empty:
            return NOWHERE
        if isinstance(definition, Shell):
            shell = _shell(source, definition.inner_mm, definition.outer_mm, self.spacing, self.array.shape)
            return _minus(shell, [self.region(other) for other in definition.minus])
        if isinstance(definition, Core):
            return _core(source, definition.depth_mm, self.spacing)
        return _components(source)[0]

    def why_empty(self, name: str) -> tuple[str, str]:
        """Why an ROI has no voxel, and what to do about it."""
        family = family_of(name, self.definitions)
        definition = self.definitions.get(name)
        check = "check the segmentation and the volume limits of the post-processing"
        if name in self.numbers or (definition is None and family is None):
            return "the ROI is empty", check
        advice = f"check {name if family is None else family[0]} in `extract.derived_rois`, and the segmentation"
        if family is not None and self.components(family[0]):
            return f"{family[0]} has only {len(self.components(family[0]))} component(s) in this case", advice
        definition = definition if family is None else self.definitions[family[0]]
        assert definition is not None
        lost = [source for source in sources_of(definition) if self.region(source).empty]
        if isinstance(definition, Union):
            return f"{', '.join(lost)}, which it is the union of, {_is(lost)} empty in this case", check
        if isinstance(definition, Intersection):
            if lost:
                return f"{', '.join(lost)}, which it is the intersection of, {_is(lost)} empty in this case", check
            return f"{', '.join(definition.of)} have no voxel in common", advice
        if self.region(definition.of).empty:
            return f"{definition.of}, which it is derived from, is empty in this case", check
        if isinstance(definition, Shell):
            off = f", without {', '.join(definition.minus)}," if definition.minus else ""
            reach = f"more than {definition.inner_mm:g} and at most {definition.outer_mm:g} mm"
            return f"no voxel outside {definition.of}{off} lies {reach} from it", advice
        if isinstance(definition, Core):
            return f"no voxel of {definition.of} lies more than {definition.depth_mm:g} mm inside it", advice
        assert isinstance(definition, Each)
        largest = np.count_nonzero(_components(self.region(definition.of))[0].mask) * math.prod(self.spacing)
        return (
            f"no component of {definition.of} has {definition.min_volume_mm3:g} mm3 (the largest has {largest:.4g})",
            advice,
        )


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _tight(mask: Array, low: tuple[int, ...] = (0, 0, 0)) -> Region:
    """The region of a mask (z, y, x, bool) whose first voxel is the voxel `low` of the volume."""
    box = bounding_box(mask) if mask.size else None
    if box is None:
        return NOWHERE
    z, y, x = (slice(part.start + start, part.stop + start) for part, start in zip(box, low, strict=True))
    return Region((z, y, x), np.ascontiguousarray(mask[box]))


def _starts(box: Box) -> tuple[int, ...]:
    return tuple(part.start for part in box)


def _shell(region: Region, inner_mm: float, outer_mm: float, spacing: Vector, shape: tuple[int, ...]) -> Region:
    # One voxel more than the distance needs: it costs little, and rounding can't cut anything off.
    margins = [int(outer_mm / s) + 2 for s in reversed(spacing)]
    near, too_near = [], []
    for part in _apart(region):
        z, y, x = widen(part.box, margins, shape)
        squared = squared_distance(~_part(part, (z, y, x)), spacing)
        near.append(_tight(within(squared, outer_mm), (z.start, y.start, x.start)))
        too_near.append(_tight(within(squared, inner_mm), (z.start, y.start, x.start)))
    return _minus(_union(near), too_near)


def _core(region: Region, depth_mm: float, spacing: Vector) -> Region:
    # Of what isn't the component's, the voxel nearest to one of it is never of another component: the two would touch
    # there. The box is the component's own, so the nearest background beyond it lies in a frame of one voxel.
    kept = [
        _tight(ball_erosion(np.pad(part.mask, 1), depth_mm, spacing)[1:-1, 1:-1, 1:-1], _starts(part.box))
        for part in _apart(region)
    ]
    return _union(kept)


def _apart(region: Region) -> list[Region]:
    """The region, or its components where most of its box is empty, and each one's box far smaller."""
    return _components(region) if np.count_nonzero(region.mask) < SPARSE * region.mask.size else [region]


def _components(region: Region) -> list[Region]:
    """The 26-connected components of a region, the largest first, of equally large ones the first in the volume."""
    return [_tight(mask, _starts(_shifted(box, region.box))) for box, mask in components_by_size(region.mask)]


def _shifted(box: Box, outer: Box) -> Box:
    z, y, x = (slice(i.start + o.start, i.stop + o.start) for i, o in zip(box, outer, strict=True))
    return z, y, x


def _union(regions: list[Region]) -> Region:
    regions = [region for region in regions if not region.empty]
    if not regions:
        return NOWHERE
    axes = zip(*(region.box for region in regions), strict=True)
    z, y, x = (slice(min(part.start for part in axis), max(part.stop for part in axis)) for axis in axes)
    mask = np.zeros((z.stop - z.start, y.stop - y.start, x.stop - x.start), dtype=bool)
    for region in regions:
        into, out_of = _common((z, y, x), region.box)
        mask[into] |= region.mask[out_of]
    return Region((z, y, x), mask)


def _intersection(regions: list[Region]) -> Region:
    axes = zip(*(region.box for region in regions), strict=True)
    z, y, x = (slice(max(part.start for part in axis), min(part.stop for part in axis)) for axis in axes)
    if any(part.stop <= part.start for part in (z, y, x)):
        return NOWHERE
    return _tight(np.logical_and.reduce([_part(region, (z, y, x)) for region in regions]), (z.start, y.start, x.start))


def _minus(region: Region, others: list[Region]) -> Region:
    mask = region.mask.copy()
    for other in others:
        into, out_of = _common(region.box, other.box)
        mask[into] &= ~other.mask[out_of]
    return _tight(mask, _starts(region.box))


def _part(region: Region, box: Box) -> Array:
    """The mask (z, y, x, bool) of a region within other slices of the volume."""
    mask = np.zeros([part.stop - part.start for part in box], dtype=bool)
    into, out_of = _common(box, region.box)
    mask[into] = region.mask[out_of]
    return mask


def _common(first: Box, second: Box) -> tuple[Box, Box]:
    """Where what two boxes of a volume have in common lies within the one and within the other; empty where nothing."""
    limits = [(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(first, second, strict=True)]
    limits = [(low, max(low, high)) for low, high in limits]
    fz, fy, fx = (slice(low - a.start, high - a.start) for (low, high), a in zip(limits, first, strict=True))
    sz, sy, sx = (slice(low - b.start, high - b.start) for (low, high), b in zip(limits, second, strict=True))
    return (fz, fy, fx), (sz, sy, sx)
