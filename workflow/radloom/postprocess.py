"""Morphology of label volumes in mm, label by label.

The steps follow each other in one order (`STEPS`), whatever the order in the configuration: cut to the body, closing,
opening, erosion, dilation, smoothing, choice of components, filling of holes. Components come after all that can break
a label up or bring specks along, and before the holes, so that a speck of one label inside another that is dropped is
filled by the other.

A label never takes another one's voxels: it grows into background alone, and into what another label gave up before
it, or in the same smoothing. Background that several labels claim in one step goes to the one of the highest priority.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from radloom.body import body_mask
from radloom.errors import CaseError, CohortError
from radloom.images import Box, Volume, bounding_box, same_grid, widen, within_box
from radloom.labels import count_labels
from radloom.morphology import (
    cavities,
    closing,
    dilation,
    erosion,
    gaussian_reach,
    keep_components,
    keep_cores,
    label_components,
    opening,
    reach,
    smoothing,
)

STEPS = ("body", "closing", "opening", "erosion", "dilation", "smoothing", "components", "holes")
"""What is done, in this order, and how the record calls it."""

GRID_TOLERANCE_MM = 0.01


@dataclass(frozen=True)
class Morphology:
    """What is done to one label; radii in mm, 0 leaves a step out."""

    inside_body: bool = False
    closing_mm: float = 0.0
    opening_mm: float = 0.0
    erosion_mm: float = 0.0
    dilation_mm: float = 0.0
    smoothing_mm: float = 0.0
    """Sigma of the Gaussian."""
    components: str | int = "all"
    """`all`, `largest`, or how many of the largest ones (26-connected)."""
    neck_mm: float = 0.0
    """Where not all components are kept: what hangs together through less than a ball of this radius is apart."""
    min_volume_mm3: float = 0.0
    fill_holes: bool = False
    warn_volume_change: float | None = 0.2
    """A step that changes the volume by more than this fraction is warned about; None never warns."""

    def __post_init__(self) -> None:
        lengths = (
            *(self.closing_mm, self.opening_mm, self.erosion_mm, self.dilation_mm, self.smoothing_mm),
            self.neck_mm,
        )
        if min(*lengths, self.min_volume_mm3, self.warn_volume_change or 0) < 0:
            raise ValueError("radii, volumes and limits of the postprocessing must not be negative")
        if not all(map(math.isfinite, (*lengths, self.min_volume_mm3))):
            raise ValueError("radii and volumes of the postprocessing must be finite")
        if isinstance(self.components, bool) or (
            self.components not in ("all", "largest") and (not isinstance(self.components, int) or self.components < 1)
        ):
            raise ValueError(f"components must be 'all', 'largest' or a number from 1, not {self.components!r}")

    @property
    def most(self) -> int | None:
        """How many components stay; None for all."""
        if isinstance(self.components, int):
            return self.components
        return 1 if self.components == "largest" else None


@dataclass(frozen=True)
class Settings:
    """What is done to a label volume."""

    rois: dict[str, Morphology]
    """By ROI name."""
    priority: tuple[str, ...] = ()
    """ROI names, the one first that wins contested background; the others follow by their numbers."""
    body_hu: float = -300.0
    """What is denser belongs to the body."""

    @property
    def needs_image(self) -> bool:
        """Whether an ROI is cut to the body."""
        return any(chosen.inside_body for chosen in self.rois.values())


@dataclass(frozen=True)
class Postprocessed:
    """The labels after the morphology, and what it did to each ROI (keys are ROI names)."""

    labels: Volume
    volume_mm3: dict[str, float]
    """Volume afterwards; 0 for an ROI that isn't there."""
    change: dict[str, float | None] = field(default_factory=dict)
    """Volume afterwards over volume before; None for an ROI that wasn't there before."""
    components: dict[str, int] = field(default_factory=dict)
    """Number of 26-connected components afterwards."""
    steps: dict[str, dict[str, float]] = field(default_factory=dict)
    """By ROI and step (of `STEPS`) that was asked for: volume after the step over volume before it."""
    warnings: list[str] = field(default_factory=list)
    """Which steps changed a volume by more than `warn_volume_change`."""


def read_settings(section: Mapping[str, Any], names: Iterable[str]) -> Settings:
    """The settings of every ROI in `names` from the configuration's section `postprocess`.

    Keys of the section's `labels` override the common ones. Raises CohortError for an unknown key or a bad value.
    """
    common = dict(section)
    special = common.pop("labels", {})
    priority, body_hu = common.pop("priority", ()), common.pop("body_hu", -300.0)
    try:
        rois = {name: Morphology(**{**common, **special.get(name, {})}) for name in names}
    except (TypeError, ValueError) as error:
        raise CohortError(f"the section postprocess of the configuration: {error}") from None
    return Settings(rois, tuple(priority), body_hu)


def postprocess(
    labels: Volume, names: Mapping[int, str], settings: Settings, image: Volume | None = None
) -> Postprocessed:
    """Clean a label volume (z, y, x, unsigned); `names` maps its numbers to ROI names, `settings` has each of them.

    `image` is the CT in HU on the same grid, which only `settings.needs_image` asks for. Raises CaseError where no ROI
    is left, or no body is found.
    """
    spacing = labels.geometry.spacing
    order = sorted(names, key=lambda number: (_rank(names[number], settings.priority), number))
    work = _Work(labels.array.copy(), {number: settings.rois[names[number]] for number in order})
    before = dict(work.voxels)
    if settings.needs_image:
        if image is None or not same_grid(image.geometry, labels.geometry, GRID_TOLERANCE_MM):
            raise ValueError("inside_body asks for the image on the grid of the labels")
        work.body = body_mask(image.array, settings.body_hu)
        for number, _ in work.asked("inside_body"):
            work.drop("body", number, work.body[work.boxes[number]])

    claims = []
    for number, radius in work.asked("closing_mm"):
        claims.append((number, work.boxes[number], closing(work.mask(number), radius, spacing)))
    work.grow("closing", claims)

    for number, radius in work.asked("opening_mm"):
        work.drop("opening", number, opening(work.mask(number), radius, spacing))
    for number, radius in work.asked("erosion_mm"):
        work.drop("erosion", number, erosion(work.mask(number), radius, spacing))

    claims = []
    for number, radius in work.asked("dilation_mm"):
        box = widen(work.boxes[number], reach(radius, spacing), work.array.shape)
        claims.append((number, box, dilation(work.array[box] == number, radius, spacing)))
    work.grow("dilation", claims)

    claims = []
    for number, sigma in work.asked("smoothing_mm"):
        box = widen(work.boxes[number], gaussian_reach(sigma, spacing), work.array.shape)
        claims.append((number, box, smoothing(work.array[box] == number, sigma, spacing)))
    for number, box, smooth in claims:  # all of them let go before one takes
        view = work.array[box]
        view[(view == number) & ~smooth] = 0
    work.grow("smoothing", claims)

    voxel_mm3 = labels.geometry.voxel_mm3
    for number, own in work.rois.items():
        least = own.min_volume_mm3 / voxel_mm3 * (1 - 1e-9)
        if number in work.boxes and (own.most is not None or least > 1):
            mask = work.mask(number)
            if own.neck_mm and own.most is not None:
                mask = keep_cores(mask, own.most, own.neck_mm, spacing)
            work.drop("components", number, keep_components(mask, own.most, least)[0])

    work.fill_holes()
    return _told(work, before, labels, names)


def _rank(name: str, priority: Sequence[str]) -> int:
    return priority.index(name) if name in priority else len(priority)


class _Work:
    """A label volume between two steps: where each label is, how large, and what the steps have done to it."""

    def __init__(self, array: np.ndarray, rois: Mapping[int, Morphology]) -> None:
        """Take over `array` (z, y, x); `rois` says what each label asks for, the one of the highest priority first."""
        from scipy import ndimage

        self.array = array
        self.rois = rois
        self.body: np.ndarray | None = None
        counts = count_labels(array)
        self.voxels = {number: int(counts[number]) if number < len(counts) else 0 for number in rois}
        # All boxes in one look at the volume.
        found = ndimage.find_objects(array)
        self.boxes: dict[int, Box] = {number: found[number - 1] for number in rois if self.voxels[number]}
        self.changes: dict[int, dict[str, tuple[int, int]]] = {number: {} for number in rois}

    def asked(self, key: str) -> list[tuple[int, Any]]:
        """The labels that are there and have something to do by a key of `Morphology`, and its value."""
        return [(n, getattr(own, key)) for n, own in self.rois.items() if n in self.boxes and getattr(own, key)]

    def mask(self, number: int) -> np.ndarray:
        """A label within its box."""
        return np.asarray(self.array[self.boxes[number]] == number)

    def drop(self, step: str, number: int, kept: np.ndarray) -> None:
        """Leave of a label what `kept` holds, a mask of its box."""
        view = self.array[self.boxes[number]]
        view[(view == number) & ~kept] = 0
        self._note(step, number, self.boxes[number])

    def grow(self, step: str, claims: Iterable[tuple[int, Box, np.ndarray]]) -> None:
        """Give background to the labels that claim it, the first of them first: number, slices, mask within them."""
        done = list(claims)
        for number, box, mask in done:
            self._take(number, box, mask)
        for number, box, _ in done:
            self._note(step, number, box)

    def fill_holes(self) -> None:
        """Fill the cavities of the labels that ask for it.

        A cavity is a 6-connected part of what isn't the label that doesn't reach the border of the array. Only its
        background is filled; background within the cavities of several labels goes to the one whose cavity is the
        smallest, then to the one of the higher priority.
        """
        asked = self.asked("fill_holes")
        holes = [
            (cavity.sum(), rank, number, place, cavity)
            for rank, (number, _) in enumerate(asked)
            for place, cavity in cavities(self.mask(number), self.boxes[number])
        ]
        for _, _, number, place, cavity in sorted(holes, key=lambda hole: hole[:2]):
            self._take(number, place, cavity)
        for number, _ in asked:
            self._note("holes", number, self.boxes[number])

    def _take(self, number: int, box: Box, mask: np.ndarray) -> None:
        view = self.array[box]
        free = mask & (view == 0)
        if self.body is not None and self.rois[number].inside_body:
            free &= self.body[box]
        view[free] = number

    def _note(self, step: str, number: int, box: Box) -> None:
        """Look at a label, which lies in `box` wholly, and write down what the step did."""
        mask = self.array[box] == number
        inner = bounding_box(mask)
        after = int(np.count_nonzero(mask))
        self.changes[number][step] = self.voxels[number], after
        self.voxels[number] = after
        if inner is None:
            del self.boxes[number]
        else:
            self.boxes[number] = within_box(box, inner)


def _told(work: _Work, before: Mapping[int, int], labels: Volume, names: Mapping[int, str]) -> Postprocessed:
    """What came of it; raises CaseError where nothing did."""
    voxel_mm3 = labels.geometry.voxel_mm3
    if not work.boxes:
        gone = ", ".join(f"{name} {before[number] * voxel_mm3:.6g} mm3" for number, name in names.items())
        raise CaseError(
            f"no ROI is left after the postprocessing (before: {gone})",
            "Look at the labels of the step segment, or make opening_mm, erosion_mm and min_volume_mm3 smaller",
        )
    warnings = []
    for number, name in names.items():
        limit = work.rois[number].warn_volume_change
        for step, (old, new) in work.changes[number].items():
            if limit is not None and abs(new - old) > limit * old * (1 + 1e-9):
                warnings.append(
                    f"{name}: {step} changed the volume by {(new / old - 1) * 100:+.0f} %, "
                    f"from {old * voxel_mm3 / 1000:.4g} to {new * voxel_mm3 / 1000:.4g} ml"
                )
    return Postprocessed(
        labels=Volume(work.array, labels.geometry),
        volume_mm3={name: work.voxels[number] * voxel_mm3 for number, name in names.items()},
        change={n: work.voxels[number] / before[number] if before[number] else None for number, n in names.items()},
        components={
            name: label_components(work.mask(number))[1] if number in work.boxes else 0
            for number, name in names.items()
        },
        steps={
            name: {step: new / old for step, (old, new) in work.changes[number].items()}
            for number, name in names.items()
        },
        warnings=warnings,
    )
