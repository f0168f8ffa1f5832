"""Training data: cases on the net's grid as memory maps on disk, and the items that are cut out of them.

A case is resampled once. Its folder then holds `image.npy` ((z, y, x), int16, HU), `labels.npy` (uint8, class
numbers), and `counts.npy` (slices x classes with the background: voxels), which says what is where without a look at
the labels. An item is drawn from (seed, epoch, position in the epoch) alone: no number of loader workers, no stop and
no process changes it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import DataLoader, Dataset

from radloom.errors import CohortError
from radloom.nets.augment import Augmentation, Placement, change_hu, place_patch
from radloom.nets.inplane import net_grid, on_grid, to_grid, to_input
from radloom.nets.windows import neighbour_slices

CACHE_FORMAT = 1
INFO_FILE = "case.json"


@dataclass(frozen=True)
class CachedCase:
    """A case in the cache. The arrays are mapped, not read."""

    folder: Path
    case_id: str
    centre: str
    spacing: tuple[float, float, float]
    """Voxel spacing in mm along x, y and z."""

    @property
    def image(self) -> np.ndarray:
        """HU (z, y, x), int16."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @property
    def labels(self) -> np.ndarray:
        """Class numbers (z, y, x), uint8, 0 for background."""
        return np.load(self.folder / "labels.npy", mmap_mode="r")

    @cached_property
    def counts(self) -> np.ndarray:
        """Voxels of each class (columns, the background first) in each slice (rows)."""
        return np.load(self.folder / "counts.npy")

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x)."""
        nz, ny, nx = self.image.shape
        return nz, ny, nx


def cache_case(
    folder: Path,
    key: str,
    case_id: str,
    centre: str,
    target: Sequence[float],
    classes: int,
    read: Callable[[], tuple[np.ndarray, np.ndarray, tuple[float, float, float]]],
) -> CachedCase:
    """The case in `folder`, made there if it isn't yet.

    `key` says what the content depends on; a folder of another key is made anew. `read` gives image (z, y, x; HU),
    labels (class numbers up to `classes`) and spacing (x, y, z) in mm, and is called only where the case has to be
    made. `target` is the net's spacing (x, y) or (x, y, z) in mm; slices stay as thick as they are with the former.
    """
    info = _read_info(folder)
    if info is None or info.get("key") != key or info.get("format") != CACHE_FORMAT:
        shutil.rmtree(folder, ignore_errors=True)
        image, labels, spacing = read()
        made = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        labels = resample_labels(labels, spacing, target)
        np.save(made / "image.npy", resample_image(image, spacing, target))
        np.save(made / "labels.npy", labels)
        counts = [np.bincount(plane.reshape(-1), minlength=classes + 1) for plane in labels]
        np.save(made / "counts.npy", np.array(counts))
        info = {"key": key, "format": CACHE_FORMAT, "spacing": [*target, *spacing[len(target) :]]}
        (made / INFO_FILE).write_text(json.dumps(info), encoding="utf-8")
        os.replace(made, folder)
    x, y, z = info["spacing"]
    return CachedCase(folder, case_id, centre, (x, y, z))


def _read_info(folder: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def resample_image(array: np.ndarray, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """HU (z, y, x) at the spacing `target` (x, y[, z]) in mm, linearly, as whole numbers (int16)."""
    made = on_grid(array, to_grid(array.shape, spacing, net_grid(array.shape, spacing, target)))
    return np.rint(made.numpy()).clip(-32768, 32767).astype(np.int16)


def resample_labels(labels: np.ndarray, spacing: Sequence[float], target: Sequence[float]) -> np.ndarray:
    """Class numbers (z, y, x) up to 255 at the spacing `target` (x, y[, z]) in mm, as uint8.

    Each class is interpolated linearly in its bounding box, and the largest share of a voxel decides; the background's
    share is what the classes leave, and it has a tie, else the lower number.
    """
    grid = net_grid(labels.shape, spacing, target)
    matrices = [None if m is None else m.numpy() for m in to_grid(labels.shape, spacing, grid)]
    shape = tuple(count for count, _ in grid)
    found = np.zeros(shape, np.uint8)
    best, total = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        share = (labels[box] == number).astype(np.float32)
        place: list[slice] = []
        for axis, (matrix, inside) in enumerate(zip(matrices, box, strict=True)):
            if matrix is None:
                place.append(inside)
                continue
            part = matrix[:, inside]
            rows = np.flatnonzero(part.any(axis=1))
            reached = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) else slice(0, 0)
            place.append(reached)
            share = np.moveaxis(np.tensordot(part[reached], share, axes=(1, axis)), 0, axis)
        there = tuple(place)
        more = share > best[there] + 1e-6
        found[there][more] = number
        best[there][more] = share[more]
        total[there] += share
    found[1 - total >= best - 1e-6] = 0
    return found


class Sample(NamedTuple):
    """What has to be known to make an item: its case, slice, the class that it shall show (0: any), and its seed."""

    case: int
    slice: int
    label: int
    seed: tuple[int, int, int]


@dataclass(frozen=True)
class Sampling:
    """Which items an epoch has. Raises ValueError for what can't be."""

    patch: tuple[int, ...]
    """Voxels ([z,] y, x) of an item."""
    samples: int | None = None
    """Items an epoch; None: every slice once, or with patches of 3 dimensions 8 a case."""
    foreground: float = 0.5
    """Share of the items of which a class is drawn first, then a case that has it, then a place in it; the others are
    drawn anywhere. Not used where every slice is taken once."""

    def __post_init__(self) -> None:
        if not 0 <= self.foreground <= 1:
            raise ValueError("foreground is a share between 0 and 1")
        if self.samples is not None and self.samples < 1:
            raise ValueError("an epoch needs at least one item")


def plan_epoch(cases: Sequence[CachedCase], sampling: Sampling, seed: int, epoch: int) -> list[Sample]:
    """The items of an epoch, in the order in which they go through the net. Decided by the arguments alone."""
    rng = np.random.default_rng([seed, epoch])
    if sampling.samples is None and len(sampling.patch) == 2:
        slices = [(number, z) for number, case in enumerate(cases) for z in range(case.shape[0])]
        order = rng.permutation(len(slices)).tolist()
        return [Sample(slices[i][0], slices[i][1], 0, (seed, epoch, at)) for at, i in enumerate(order)]
    counts = [case.counts[:, 1:].sum(axis=0) for case in cases]
    present = [label for label in range(1, cases[0].counts.shape[1]) if any(count[label - 1] for count in counts)]
    plan = []
    for at in range(sampling.samples if sampling.samples is not None else 8 * len(cases)):
        label = 0
        if present and rng.random() < sampling.foreground:
            label = present[int(rng.integers(len(present)))]
            number = int(rng.choice([n for n, count in enumerate(counts) if count[label - 1]]))
            voxels = np.cumsum(cases[number].counts[:, label])
            z = int(np.searchsorted(voxels, rng.integers(voxels[-1]), side="right"))
        else:
            number = int(rng.integers(len(cases)))
            z = int(rng.integers(cases[number].shape[0]))
        plan.append(Sample(number, z, label, (seed, epoch, at)))
    return plan


@dataclass(frozen=True)
class Preparation:
    """How an item is made of a case: what the net expects, and how images are changed."""

    patch: tuple[int, ...]
    hu_window: tuple[float, float]
    normalisation: tuple[float, float] | None = None
    slices: int = 1
    """Neighbouring slices as channels (2.5D)."""
    augmentation: Augmentation = field(default_factory=Augmentation)


class Patches(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Items of some cases: input (channels, [z,] y, x) float32, labels ([z,] y, x) uint8, and the centre's number."""

    def __init__(self, cases: Sequence[CachedCase], preparation: Preparation) -> None:
        self.cases = list(cases)
        self.preparation = preparation
        self.centres = sorted({case.centre for case in cases})

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Make the item of a sample."""
        case, wanted = self.cases[sample.case], self.preparation
        rng = np.random.default_rng(sample.seed)
        image, labels = case.image, case.labels
        voxel = _voxel(labels, sample, rng)
        x, y, z = case.spacing
        flat = len(wanted.patch) == 2
        shape, spacing = (image.shape[1:], (y, x)) if flat else (image.shape, (z, y, x))
        at = voxel[1:] if voxel is not None and flat else voxel
        placement = place_patch(shape, wanted.patch, at, spacing, wanted.augmentation, rng)
        if flat:
            channels = image[neighbour_slices(len(image), wanted.slices)[sample.slice].tolist()]
            truth = labels[sample.slice]
        else:
            channels, truth = image[None], labels
        hu = cut(channels, placement, wanted.patch, wanted.hu_window[0])
        truth = cut(truth[None], placement, wanted.patch, 0, nearest=True)[0].astype(np.uint8)
        hu = change_hu(hu if flat else hu[0], wanted.augmentation, rng)
        values = to_input(torch.from_numpy(np.ascontiguousarray(hu)), wanted.hu_window, wanted.normalisation)
        return (values if flat else values[None]), torch.from_numpy(truth), self.centres.index(case.centre)


def _voxel(labels: np.ndarray, sample: Sample, rng: np.random.Generator) -> tuple[int, int, int] | None:
    """A voxel of the sample's class in its slice; None where any place will do (in 3 dimensions around the slice)."""
    if not sample.label:
        return None
    plane = np.asarray(labels[sample.slice])
    found = np.flatnonzero(plane == sample.label)
    y, x = divmod(int(found[rng.integers(len(found))]), plane.shape[1])
    return sample.slice, y, x


def cut(
    array: np.ndarray, placement: Placement, patch: tuple[int, ...], fill: float, *, nearest: bool = False
) -> np.ndarray:
    """The patch of an array (channels, [z,] y, x) as float32 (channels, *patch); `fill` is what lies around it.

    Only the box that the patch reaches is read. A turned or scaled patch is interpolated linearly, labels by the
    `nearest` voxel.
    """
    middle = (np.array(patch) - 1) / 2
    centre = np.array(placement.centre)
    matrix = placement.matrix
    reach = middle if matrix is None else np.abs(matrix) @ middle + 1
    low, high = np.floor(centre - reach).astype(int), np.ceil(centre + reach).astype(int) + 1
    inside = [slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(low, high, array.shape[1:], strict=True)]
    box = np.asarray(array[(slice(None), *inside)], dtype=np.float32)
    made = np.full((len(array), *patch), fill, np.float32)
    if 0 in box.shape:  # all of the patch lies beside the array
        return made
    if matrix is None:
        offset = np.rint(centre - middle).astype(int)
        there = tuple(slice(part.start - o, part.stop - o) for part, o in zip(inside, offset, strict=True))
        made[(slice(None), *there)] = box
    else:
        made = _sampled(box - np.float32(fill), centre - [part.start for part in inside], matrix, patch, nearest)
        made += np.float32(fill)
    return np.flip(made, tuple(axis + 1 for axis, mirrored in enumerate(placement.flipped) if mirrored))


def _sampled(
    box: np.ndarray, centre: np.ndarray, matrix: np.ndarray, patch: tuple[int, ...], nearest: bool
) -> np.ndarray:
    """The box (channels, [z,] y, x) at centre + matrix @ (voxel - middle of the patch), zeros around it."""
    axes = np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij")
    places = np.stack(axes, axis=-1) @ matrix.T + centre
    # grid_sample wants x first, and voxel i of n at (2 i + 1) / n - 1.
    grid = ((2 * places + 1) / np.array(box.shape[1:]) - 1)[..., ::-1]
    found = torch.nn.functional.grid_sample(
        torch.from_numpy(box)[None],
        torch.from_numpy(grid.astype(np.float32))[None],
        mode="nearest" if nearest else "bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    return found[0].numpy()


class EpochBatches:
    """The batches of an epoch for the loader: those of process `rank` of `world`, which share every batch evenly.

    What doesn't fill a batch of all processes is left out, so that every batch has the same size. Raises CohortError
    where an epoch has fewer items than one batch.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        sampling: Sampling,
        batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.cases, self.sampling, self.batch, self.seed, self.rank, self.world = (
            cases,
            sampling,
            batch,
            seed,
            rank,
            world,
        )
        self.epoch = 0
        items = len(plan_epoch(cases, sampling, seed, 0))
        self.steps = items // (batch * world)
        if self.steps == 0:
            raise CohortError(
                f"training: an epoch has {items} items, fewer than a batch of {batch * world}: lower it, or set samples"
            )

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[list[Sample]]:
        plan = plan_epoch(self.cases, self.sampling, self.seed, self.epoch)
        for step in range(self.steps):
            start = (step * self.world + self.rank) * self.batch
            yield plan[start : start + self.batch]


def make_loader(patches: Patches, batches: EpochBatches, workers: int = 0, *, cuda: bool = False) -> DataLoader[Any]:
    """A loader of the batches; on CUDA it pins memory, and with workers it prefetches two batches each."""
    return DataLoader(
        patches,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=cuda,
        persistent_workers=workers > 0,
        prefetch_factor=2 if workers else None,
        # A loader draws seeds, with lasting workers once, else each epoch: from torch's own generator, which also
        # decides dropout, workers or a resume would change the net.
        generator=torch.Generator(),
    )
