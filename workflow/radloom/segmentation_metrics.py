"""How well labels that were found agree with true ones: Dice, IoU, Hausdorff 95 and surface Dice per class.

**Overlap.** With T voxels of the truth, F found and B of both, Dice is 2 B / (T + F), IoU is B / (T + F - B).

**Surface.** A voxel of a mask is on its surface where one of its 6 face neighbours isn't of the mask; what lies beyond
the image counts as not of the mask, so that an organ that the scan cuts off has a surface there too. Distances are
Euclidean, in mm, between centres of surface voxels, exact in float64.

**Hausdorff 95** (hd95_mm) is the larger one of two 95th percentiles: of the distances from each surface voxel of the
truth to the nearest one found, and the other way round, interpolated linearly between ranks (numpy's default). This is
the convention of MONAI and of Nikolov et al.; MedPy takes one percentile of both sets together, which is smaller where
one mask has an island that the other lacks.

**Surface Dice** (Nikolov et al., J Med Internet Res 2021, 10.2196/26151, first arXiv:1809.04430) is the share of the
voxels of both surfaces that lie within `tolerance_mm` of the other surface. Every surface voxel counts alike, as in
MONAI's default; Nikolov et al. weigh each by the area of its piece of the surface, which differs where voxels are much
longer along one axis.

**Classes that are empty** are what they are, and never a score of 0 or 1 that a mean takes in silently. `ABSENT`:
neither true nor found, nothing can be estimated (NaN). `FALSE_POSITIVE`: found and not true, nothing can be estimated
either, and the volume found says how wrong it is. `MISSED`: true and not found, the scores are 0, and there is no
distance (NaN).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from radloom.images import Box

ESTIMATED = "estimated"
ABSENT = "absent"
MISSED = "missed"
FALSE_POSITIVE = "false_positive"

TOLERANCE_MM = 2.0
"""Distance in mm up to which surfaces count as the same where nobody says otherwise: about a voxel of a CT."""

PERCENTILE = 95.0
ROUNDING = 1e-9
"""Relative error up to which a distance counts as within the tolerance: 1.2 and 1.6 mm make 2.0000000000000004."""


@dataclass(frozen=True)
class ClassMetrics:
    """Agreement of one class in one case; NaN is what can't be estimated."""

    label: int
    name: str
    status: str
    """`estimated`, `absent`, `missed` or `false_positive`."""
    dice: float
    iou: float
    hd95_mm: float
    surface_dice: float
    truth_ml: float
    found_ml: float


def compare_labels(
    truth: np.ndarray,
    found: np.ndarray,
    spacing: tuple[float, float, float],
    classes: Mapping[int, str],
    tolerance_mm: float = TOLERANCE_MM,
    surfaces: bool = True,
) -> list[ClassMetrics]:
    """Compare two label volumes (z, y, x; whole numbers) class by class, in ascending order of their numbers.

    `spacing` is (x, y, z) in mm; `classes` are numbers from 1 on and names, other numbers are background. Without
    `surfaces` Hausdorff 95 and surface Dice are NaN, and only the voxels are counted. Raises ValueError for volumes of
    different shapes or of values that are no labels.
    """
    numbers = sorted(classes)
    true, got = _ranks(truth, numbers), _ranks(found, numbers)
    counts = confusion(true, got, len(numbers) + 1)
    boxes = _boxes(true, len(numbers)), _boxes(got, len(numbers))
    voxel_ml = float(np.prod(spacing)) / 1000
    rows = []
    for rank, number in enumerate(numbers, start=1):
        t, f, both = int(counts[rank].sum()), int(counts[:, rank].sum()), int(counts[rank, rank])
        dice = iou = hd95 = surface_dice = float("nan")
        if t:
            dice, iou = 2 * both / (t + f), both / (t + f - both)
        if t and f:
            status = ESTIMATED
            if surfaces:
                points = (
                    _surface_points(a, rank, box[rank - 1], spacing) for a, box in zip((true, got), boxes, strict=True)
                )
                to_found, to_truth = surface_distances(*points)
                hd95 = hausdorff(to_found, to_truth)
                surface_dice = share_within(to_found, to_truth, tolerance_mm)
        elif t:
            status = MISSED
            surface_dice = 0.0 if surfaces else surface_dice
        else:
            status = FALSE_POSITIVE if f else ABSENT
        rows.append(
            ClassMetrics(number, classes[number], status, dice, iou, hd95, surface_dice, t * voxel_ml, f * voxel_ml)
        )
    return rows


def confusion(truth: np.ndarray, found: np.ndarray, length: int) -> np.ndarray:
    """Voxels of every pair of labels 0 .. `length` - 1, (true, found), of two arrays of one shape and of such labels.

    Confusions of slabs or cases add up.
    """
    if truth.shape != found.shape:
        raise ValueError(f"the shapes {truth.shape} and {found.shape} differ")
    counts = np.zeros(length * length, np.int64)
    # Plane by plane: the pair's number needs eight bytes a voxel.
    for true, got in zip(truth, found, strict=True):
        counts += np.bincount((true.astype(np.intp) * length + got).reshape(-1), minlength=length * length)
    return counts.reshape(length, length)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of `mask` (bool, any dimensions) with a face neighbour that is not of the mask or beyond the array."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        along, here = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)
        here[1:] &= along[:-1]
        here[:-1] &= along[1:]
        here[0] = here[-1] = False
    return mask & ~inside


def surface_distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm of each of the points `first` (n, 3; mm) to the nearest of `second`, and the other way round."""
    # Trees of the surfaces' points and no distance transform of the box around both: a single wrong voxel far away
    # makes the box as large as the scan. Points of a grid need no balanced tree, which takes longer to grow.
    trees = [cKDTree(points, balanced_tree=False, compact_nodes=False) for points in (first, second)]
    return trees[1].query(first)[0], trees[0].query(second)[0]


def hausdorff(first: np.ndarray, second: np.ndarray, percentile: float = PERCENTILE) -> float:
    """The larger one of the percentiles of two sets of directed distances."""
    return float(max(np.percentile(first, percentile), np.percentile(second, percentile)))


def share_within(first: np.ndarray, second: np.ndarray, tolerance_mm: float) -> float:
    """Share of the directed distances of both sets that are at most `tolerance_mm`."""
    limit = tolerance_mm * (1 + ROUNDING)
    near = int(np.count_nonzero(first <= limit)) + int(np.count_nonzero(second <= limit))
    return near / (len(first) + len(second))


def mean_of(metrics: Iterable[ClassMetrics], name: str = "dice") -> float:
    """Mean of a score over the classes (or cases) where it can be estimated; NaN where there is none.

    A missed class counts with its 0; one that is absent or a false positive has no score, look at the statuses.
    """
    values = [value for value in (float(getattr(row, name)) for row in metrics) if not np.isnan(value)]
    return float(np.mean(values)) if values else float("nan")


def table_rows(metrics: Iterable[ClassMetrics], **keys: Any) -> list[dict[str, Any]]:
    """Rows of a table, `keys` (of the case, say) first."""
    return [{**keys, **asdict(row)} for row in metrics]


def _ranks(labels: np.ndarray, numbers: list[int]) -> np.ndarray:
    """The volume with the label numbers[k] as k + 1 and all others as 0, in as few bytes as that needs."""
    if labels.dtype.kind not in "bui" or labels.ndim != 3:
        raise ValueError(f"{labels.dtype} in {labels.ndim} dimensions is no label volume")
    if not numbers or numbers[0] < 1:
        raise ValueError(f"classes are numbered from 1 on, not {numbers}")
    least, largest = int(labels.min(initial=0)), max(int(labels.max(initial=0)), numbers[-1])
    if least < 0 or largest > np.iinfo(np.uint16).max:
        raise ValueError(f"labels from {least} to {largest} are not within 0 .. {np.iinfo(np.uint16).max}")
    table = np.zeros(largest + 1, np.uint8 if len(numbers) <= np.iinfo(np.uint8).max else np.uint16)
    table[numbers] = np.arange(1, len(numbers) + 1)
    return table[labels.astype(np.uint8) if labels.dtype == bool else labels]


def _boxes(labels: np.ndarray, length: int) -> list[Box | None]:
    """The tight box of every label from 1 to `length`; None for one that isn't there."""
    found: list[Box | None] = ndimage.find_objects(labels, max_label=length)
    return found


def _surface_points(labels: np.ndarray, label: int, box: Box | None, spacing: tuple[float, float, float]) -> np.ndarray:
    """Centres of the surface voxels of a label, (n, 3) as (z, y, x) in mm; `box` is the label's."""
    assert box is not None, "only of labels that are there"
    # Beyond its tight box nothing is of the label, so that the box's border is as good as the image's.
    index = np.argwhere(surface(labels[box] == label)) + [part.start for part in box]
    return index * np.array(spacing[::-1])
