"""Morphology in mm beside scipy and SimpleITK: hundreds of blobs, one organ, and a volume of many labels."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import SimpleITK
from scipy import ndimage

from radloom.images import Geometry, Volume, bounding_box
from radloom.morphology import cavities, closing, dilation, erosion, keep_components, opening, smoothing
from radloom.postprocess import Morphology, Settings, postprocess

SPACING = (0.8, 0.8, 1.5)
RADIUS = 3.0
SIGMA = 2.0
CLEAN = Morphology(closing_mm=2.0, opening_mm=1.0, components="largest", fill_holes=True)


def timed(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """CPU seconds of a piece of work, and its result."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ball(radius: float) -> np.ndarray:
    """The ball on the grid of `SPACING`, as a structuring element (z, y, x)."""
    reach = [int(radius / s) for s in reversed(SPACING)]
    z, y, x = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    sx, sy, sz = SPACING
    return (z * sz) ** 2 + (y * sy) ** 2 + (x * sx) ** 2 <= radius**2


def ellipsoids(shape: tuple[int, int, int], count: int, radii_mm: tuple[float, float], seed: int) -> np.ndarray:
    """A label volume (z, y, x, uint8 or uint16) of `count` ellipsoids with rough surfaces, holes and specks."""
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.uint8 if count < 256 else np.uint16)
    steps = np.array(SPACING[::-1])
    for number in range(1, count + 1):
        axes = rng.uniform(*radii_mm, 3)
        reach = axes / steps * 1.4
        centre = rng.uniform(np.minimum(reach, np.array(shape) / 2), np.maximum(shape - reach, np.array(shape) / 2))
        low = np.maximum((centre - reach).astype(int), 0)
        high = np.minimum((centre + reach).astype(int) + 2, shape)
        place = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        z, y, x = np.ogrid[place]
        distance = sum(((p - c) * s / a) ** 2 for p, c, s, a in zip((z, y, x), centre, steps, axes, strict=True))
        bumps = ndimage.gaussian_filter(rng.normal(size=high - low).astype(np.float32), 2.0 / steps)
        inside = np.sqrt(distance) + 0.15 * bumps / bumps.std() < 1
        inside &= rng.random(inside.shape) > 0.002
        array[place][inside & (array[place] == 0)] = number
    return array


def scipy_fill(mask: np.ndarray) -> np.ndarray:
    """What scipy fills."""
    return np.asarray(ndimage.binary_fill_holes(mask))


def scipy_largest(mask: np.ndarray) -> np.ndarray:
    """The largest component by scipy."""
    parts, count = ndimage.label(mask, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def itk_image(mask: np.ndarray) -> SimpleITK.Image:
    """A mask as an ITK image of `SPACING`."""
    image = SimpleITK.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing(SPACING)
    return image


def itk(mask: np.ndarray, work: Callable[[SimpleITK.Image], SimpleITK.Image]) -> np.ndarray:
    """What ITK makes of a mask."""
    return np.asarray(SimpleITK.GetArrayFromImage(work(itk_image(mask))), dtype=bool)


def itk_largest(image: SimpleITK.Image) -> SimpleITK.Image:
    """The largest component by ITK."""
    parts = SimpleITK.RelabelComponent(SimpleITK.ConnectedComponent(image, True), sortByObjectSize=True)
    return SimpleITK.Equal(parts, 1)


def itk_ball(operation: Callable[..., SimpleITK.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """A binary operation of ITK with the ball of voxels nearest to `RADIUS`: ITK's radii are whole voxels."""
    radius = [round(RADIUS / s) for s in SPACING]
    return lambda mask: itk(mask, lambda image: operation(image, radius, SimpleITK.sitkBall))


def maurer(*passes: str) -> Callable[[np.ndarray], np.ndarray]:
    """An operation by ITK's exact distances in mm: each pass grows or shrinks the mask by `RADIUS`."""

    def grow(image: SimpleITK.Image) -> SimpleITK.Image:
        found = SimpleITK.SignedMaurerDistanceMap(image, False, squaredDistance=True, useImageSpacing=True)
        return SimpleITK.LessEqual(found, RADIUS**2 * (1 + 1e-5))

    def work(image: SimpleITK.Image) -> SimpleITK.Image:
        margins = [int(RADIUS / s) + 2 for s in SPACING]
        image = SimpleITK.ConstantPad(image, margins, margins, 0)
        for one in passes:
            image = grow(image) if one == "grow" else SimpleITK.Equal(grow(SimpleITK.Equal(image, 0)), 0)
        return SimpleITK.Crop(image, margins, margins)

    return lambda mask: itk(mask, work)


def by_scipy(operation: Callable[..., np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A binary operation of scipy with the ball, on the array within as much background as it needs."""
    element = ball(RADIUS)
    pad = [(n // 2 + 1,) * 2 for n in element.shape]
    inner = tuple(slice(a, -a) for a, _ in pad)
    return lambda mask: operation(np.pad(mask, pad), element)[inner]


def in_box(work: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The same within the mask's box, as far as a ball or a Gaussian goes."""

    def boxed(mask: np.ndarray) -> np.ndarray:
        box = bounding_box(mask, margin=int(4 * SIGMA / min(SPACING)) + 2)
        result = np.zeros_like(mask)
        if box is not None:
            result[box] = work(np.ascontiguousarray(mask[box]))
        return result

    return boxed


def filled(mask: np.ndarray) -> np.ndarray:
    """Radloom's filling of holes, as a mask."""
    result = mask.copy()
    box = bounding_box(mask)
    assert box is not None
    for place, cavity in cavities(mask[box], box):
        result[place] |= cavity
    return result


def blurred(mask: np.ndarray) -> np.ndarray:
    """Smoothing at an unchanged volume by scipy's Gaussian and a partition, of a mask that is one component."""
    values = ndimage.gaussian_filter(mask.astype(np.float32), [SIGMA / s for s in reversed(SPACING)], mode="reflect")
    count = int(mask.sum())
    return np.asarray(values >= np.partition(values, values.size - count, axis=None)[values.size - count])


Work = Callable[[np.ndarray], np.ndarray]
OPERATIONS: dict[str, tuple[Work, dict[str, Work]]] = {
    f"closing by {RADIUS:g} mm": (
        lambda mask: closing(mask, RADIUS, SPACING),
        {
            "scipy": by_scipy(ndimage.binary_closing),
            "SimpleITK, distances": maurer("grow", "shrink"),
            "SimpleITK, ball of voxels": itk_ball(SimpleITK.BinaryMorphologicalClosing),
        },
    ),
    f"opening by {RADIUS:g} mm": (
        lambda mask: opening(mask, RADIUS, SPACING),
        {
            "scipy": by_scipy(ndimage.binary_opening),
            "SimpleITK, distances": maurer("shrink", "grow"),
            "SimpleITK, ball of voxels": itk_ball(SimpleITK.BinaryMorphologicalOpening),
        },
    ),
    f"erosion by {RADIUS:g} mm": (
        lambda mask: erosion(mask, RADIUS, SPACING),
        {"scipy": by_scipy(ndimage.binary_erosion), "SimpleITK, distances": maurer("shrink")},
    ),
    f"dilation by {RADIUS:g} mm": (
        lambda mask: dilation(mask, RADIUS, SPACING),
        {"scipy": by_scipy(ndimage.binary_dilation), "SimpleITK, distances": maurer("grow")},
    ),
    "largest component": (
        lambda mask: in_box(lambda part: keep_components(part, 1, 0)[0])(mask),
        {"scipy": scipy_largest, "SimpleITK": lambda mask: itk(mask, itk_largest)},
    ),
    "holes": (
        filled,
        {"scipy": scipy_fill, "SimpleITK": lambda mask: itk(mask, lambda i: SimpleITK.BinaryFillhole(i, False))},
    ),
    f"smoothing by {SIGMA:g} mm": (lambda mask: smoothing(mask, SIGMA, SPACING), {"scipy": blurred}),
}


def cleaned_by_scipy(array: np.ndarray) -> np.ndarray:
    """What `CLEAN` does, written with scipy in the boxes of its find_objects; the lower number wins."""
    array = array.copy()
    reach = [int(max(CLEAN.closing_mm, CLEAN.opening_mm) / s) + 2 for s in reversed(SPACING)]
    boxes = {n: box for n, box in enumerate(ndimage.find_objects(array), 1) if box is not None}  # none grows out of it

    def padded(number: int) -> np.ndarray:
        return np.pad(array[boxes[number]] == number, [(n, n) for n in reach])

    inner = tuple(slice(n, -n) for n in reach)
    claims = [(n, box, ndimage.binary_closing(padded(n), ball(CLEAN.closing_mm))[inner]) for n, box in boxes.items()]
    for number, box, mask in claims:
        array[box][mask & (array[box] == 0)] = number
    for number, box in boxes.items():
        kept = scipy_largest(ndimage.binary_opening(padded(number), ball(CLEAN.opening_mm)))[inner]
        array[box][(array[box] == number) & ~kept] = 0
    for number, box in boxes.items():
        array[box][scipy_fill(padded(number))[inner] & (array[box] == 0)] = number
    return array


def rows(mask: np.ndarray, rounds: int, boxed: bool) -> Iterator[str]:
    """One row an operation and implementation: seconds, how much faster Radloom is, voxels that differ."""
    for name, (ours, peers) in OPERATIONS.items():
        if "smoothing" in name and not boxed:  # a Gaussian of many components at once is another thing
            continue
        taken, expected = min((timed(lambda ours=ours: ours(mask)) for _ in range(rounds)), key=lambda found: found[0])
        yield f"| {name} | **Radloom** | {taken:.2f} s | | |"
        for peer, work in peers.items():
            given = in_box(work) if boxed else work
            seconds, found = timed(lambda given=given: given(mask))
            differ = int(np.count_nonzero(found != expected))
            yield f"| | {peer} | {seconds:.2f} s | {seconds / taken:.1f} x | {differ:,} |"


def measure(_folder: Path, small: bool) -> str:
    """Time the operations; return the figures as Markdown."""
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    shape = (40, 96, 96) if small else (300, 512, 512)
    scale, rounds = (0.3, 1) if small else (1.0, 3)
    blobs = ellipsoids(shape, 8 if small else 400, (3.0 * scale + 2, 11.0 * scale + 2), 1) > 0
    organ = keep_components(ellipsoids(shape, 1, (65.0 * scale, 85.0 * scale), 2) > 0, 1, 0)[0]
    many = ellipsoids(shape, 6 if small else 100, (10.0 * scale + 2, 40.0 * scale + 2), 3)
    millilitres = float(np.prod(SPACING)) / 1000
    header = [
        "| operation | implementation | CPU seconds | over Radloom's | voxels that differ |",
        "|---|---|---|---|---|",
    ]
    volume = Volume(many, Geometry(shape[::-1], SPACING, (0.0, 0.0, 0.0)))
    names = {int(n): f"label_{n}" for n in np.unique(many) if n}
    settings = Settings(dict.fromkeys(names.values(), CLEAN))
    ours, cleaned = min(
        (timed(lambda: postprocess(volume, names, settings).labels.array) for _ in range(rounds)), key=lambda f: f[0]
    )
    peer, expected = timed(lambda: cleaned_by_scipy(many))
    size = " x ".join(str(n) for n in reversed(shape))
    return "\n".join(
        [
            f"{size} voxels of {' x '.join(map(str, SPACING))} mm, one thread; Radloom: least of {rounds}, the others "
            f"once; load of the machine before: {os.getloadavg()[0]:.1f}. ITK's own ball has whole voxels as radii, so "
            "that it is another ball; its distances are Maurer's.",
            "",
            f"**{keep_components(blobs, None, 0)[1]} blobs** all over the volume, {blobs.sum() * millilitres:.0f} ml.",
            "",
            *header,
            *rows(blobs, rounds, boxed=False),
            "",
            f"**One organ**, {organ.sum() * millilitres:.0f} ml. The others are given the box of the organ, which "
            "Radloom has to find.",
            "",
            *header,
            *rows(organ, rounds, boxed=True),
            "",
            f"**{len(names)} labels**, {np.count_nonzero(many) * millilitres:.0f} ml: closing by {CLEAN.closing_mm:g} "
            f"mm, opening by {CLEAN.opening_mm:g} mm, largest component and holes of each, as the step does it with "
            "its record, beside the same written with scipy in boxes.",
            "",
            "| implementation | CPU seconds | over Radloom's | voxels that differ |",
            "|---|---|---|---|",
            f"| **Radloom** | {ours:.2f} s | | |",
            f"| scipy | {peer:.2f} s | {peer / ours:.1f} x | {int(np.count_nonzero(cleaned != expected)):,} |",
        ]
    )
