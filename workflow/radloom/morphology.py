"""Morphology of masks in mm: what postprocessing and derived ROIs share.

Distances are between voxel centres. A voxel belongs to a dilation by r mm where its centre lies within r mm (r itself
included) of the centre of a voxel of the mask, and to an erosion where no voxel that isn't of the mask lies so near.
`ball_dilation` and `ball_erosion` take an array as it is. `dilation`, `erosion`, `closing` and `opening` take it as
part of a volume that goes on as background for ever, so that a closing never loses a voxel at the border and an
opening never gains one; and they work in boxes around what there is.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from radloom.images import Box, bounding_box, widen, within_box
from radloom.labels import count_labels

Spacing = tuple[float, float, float]

RADIUS_TOLERANCE = 1e-5
"""Relative tolerance of squared distances against squared radii: distances are computed in float32."""

SPARSE = 0.1
"""A mask that fills less of its box than this is looked at in pieces."""

MOST_PIECES = 2000
"""A mask of more components is taken as a whole: which of them are near each other is asked pair by pair."""

MOST_ROWS = 500
"""A ball of more rows of voxels is laid down by distances."""

LEVEL_TOLERANCE = 1e-6
"""Values of a smoothed mask (float32, 0 to 1) that are equal but for rounding."""


def squared_distance(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Squared distance in mm2 from each voxel of `mask` (z, y, x, bool) to the nearest voxel outside it.

    Exact up to float32 (Felzenszwalb and Huttenlocher 2012, package edt); `spacing` is (x, y, z) in mm. Infinite where
    nothing lies outside; what lies beyond the array doesn't count.
    """
    import edt

    sx, sy, sz = spacing
    return edt.edtsq(np.ascontiguousarray(mask), anisotropy=(sz, sy, sx), black_border=False, parallel=1)


def within(squared: np.ndarray, radius_mm: float) -> np.ndarray:
    """Where a squared distance in mm2 is at most that of `radius_mm`, but for float32."""
    return squared <= radius_mm**2 * (1 + RADIUS_TOLERANCE)


def ball_spans(radius_mm: float, spacing: Spacing) -> dict[int, list[tuple[int, int]]]:
    """The ball as rows along x: by half its length in voxels, the offsets (z, y) of the rows from the ball's middle.

    Of all offsets those of one quarter, with z and y from 0 on; `spacing` is (x, y, z) in mm.
    """
    z, y, x = np.ogrid[tuple(slice(0, n) for n in reach(radius_mm, spacing))]
    sx, sy, sz = spacing
    inside = within((z * sz) ** 2 + (y * sy) ** 2 + (x * sx) ** 2, radius_mm)
    spans: dict[int, list[tuple[int, int]]] = {}
    for (dz, dy), voxels in np.ndenumerate(np.count_nonzero(inside, axis=2)):
        if voxels:
            spans.setdefault(int(voxels) - 1, []).append((dz, dy))
    return dict(sorted(spans.items()))


def ball_dilation(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Voxels within `radius_mm` of a voxel of `mask` (z, y, x, bool), centre to centre; `spacing` is (x, y, z) in mm.

    What would lie outside the array is lost. A small ball is laid down row by row, 64 voxels in a word; a large one
    has so many rows that distances are faster.
    """
    if np.pi * radius_mm**2 > MOST_ROWS * spacing[1] * spacing[2]:
        return within(squared_distance(~mask, spacing), radius_mm)
    words = _packed(mask)
    result = np.zeros_like(words)
    row, reached = words, 0
    for half, offsets in ball_spans(radius_mm, spacing).items():
        for step in range(reached + 1, half + 1):
            row = row | _shifted(words, step) | _shifted(words, -step)
        reached = half
        for dz, dy in offsets:
            for oz in {dz, -dz}:
                for oy in {dy, -dy}:
                    (to_z, from_z), (to_y, from_y) = _overlap(oz), _overlap(oy)
                    result[to_z, to_y] |= row[from_z, from_y]
    return _unpacked(result, mask.shape[2])


def ball_erosion(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Voxels of `mask` (z, y, x, bool) with no background voxel within `radius_mm`; `spacing` is (x, y, z) in mm.

    Outside the array nothing is background; pad where it should be.
    """
    return ~ball_dilation(~mask, radius_mm, spacing)


def _packed(mask: np.ndarray) -> np.ndarray:
    """A mask (z, y, x, bool) as words (z, y, words) of 64 voxels along x, the first in the lowest bit."""
    bits = np.packbits(mask, axis=2, bitorder="little")
    wide = np.zeros((*mask.shape[:2], -(-mask.shape[2] // 64) * 8), np.uint8)
    wide[..., : bits.shape[2]] = bits
    return wide.view("<u8")


def _unpacked(words: np.ndarray, length: int) -> np.ndarray:
    """The mask whose words these are, `length` voxels along x."""
    return np.unpackbits(words.view(np.uint8), axis=2, count=length, bitorder="little").view(bool)


def _shifted(words: np.ndarray, voxels: int) -> np.ndarray:
    """Words of a mask that is moved along x; background comes in."""
    whole, bits = divmod(abs(voxels), 64)
    count = words.shape[2] - whole
    result = np.zeros_like(words)
    if count <= 0:
        return result
    if voxels > 0:
        result[..., whole:] = words[..., :count] << bits
        if bits:
            result[..., whole + 1 :] |= words[..., : count - 1] >> (64 - bits)
    else:
        result[..., :count] = words[..., whole:] >> bits
        if bits:
            result[..., : count - 1] |= words[..., whole + 1 :] << (64 - bits)
    return result


def _overlap(offset: int) -> tuple[slice, slice]:
    """Where along an axis what is moved by `offset` comes to lie, and where it lay."""
    if offset >= 0:
        return slice(offset, None), slice(None, -offset or None)
    return slice(None, offset), slice(-offset, None)


def dilation(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Dilation of `mask` (z, y, x, bool) by a ball, as far as the array goes; `spacing` is (x, y, z) in mm."""
    return _within_background(mask, reach(radius_mm, spacing), lambda part: ball_dilation(part, radius_mm, spacing))


def erosion(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Erosion of `mask` (z, y, x, bool) by a ball; `spacing` is (x, y, z) in mm."""
    return _within_background(mask, (1, 1, 1), lambda part: ball_erosion(part, radius_mm, spacing))


def closing(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Closing of `mask` (z, y, x, bool) by a ball; `spacing` is (x, y, z) in mm. Never loses a voxel."""
    return _within_background(
        mask,
        reach(radius_mm, spacing),
        lambda part: ball_erosion(ball_dilation(part, radius_mm, spacing), radius_mm, spacing),
    )


def opening(mask: np.ndarray, radius_mm: float, spacing: Spacing) -> np.ndarray:
    """Opening of `mask` (z, y, x, bool) by a ball; `spacing` is (x, y, z) in mm. Never gains a voxel."""
    return _within_background(
        mask, (1, 1, 1), lambda part: ball_dilation(ball_erosion(part, radius_mm, spacing), radius_mm, spacing)
    )


def smoothing(mask: np.ndarray, sigma_mm: float, spacing: Spacing) -> np.ndarray:
    """Round off `mask` (z, y, x, bool) by a Gaussian of `sigma_mm`; `spacing` is (x, y, z) in mm.

    Each 26-connected component is blurred by itself, and as many voxels of the highest values are taken as it had. A
    fixed level of one half would shrink whatever is convex, a ball of one and a half sigma's radius to nothing. Voxels
    of equal value come together, so that what is symmetrical stays so, and the number can differ by a few; a single
    voxel stays one. At the border of the array the mask goes on as its mirror image: an organ that the scan cuts keeps
    its face.
    """
    from scipy import ndimage

    components, count = label_components(mask)
    margins = gaussian_reach(sigma_mm, spacing)
    result = np.zeros_like(mask)
    for number, box in enumerate(ndimage.find_objects(components, count), 1):
        place = widen(box, margins, mask.shape)
        part = components[place] == number
        size = int(np.count_nonzero(part))
        if size > 1:
            sigma = [sigma_mm / s for s in reversed(spacing)]
            part = _highest(ndimage.gaussian_filter(part.astype(np.float32), sigma, mode="reflect"), size)
        result[place] |= part
    return result


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Where the `count` highest values are, equal ones all or none, whichever number is nearer to `count`."""
    level = np.partition(values, values.size - count, axis=None)[values.size - count]
    above, from_here = values > level + LEVEL_TOLERANCE, values >= level - LEVEL_TOLERANCE
    fewer, more = int(np.count_nonzero(above)), int(np.count_nonzero(from_here))
    return above if fewer and count - fewer < more - count else from_here


def reach(radius_mm: float, spacing: Spacing) -> tuple[int, int, int]:
    """Voxels along z, y and x that hold a ball of `radius_mm`, and one more; `spacing` is (x, y, z) in mm."""
    x, y, z = (int(radius_mm * (1 + RADIUS_TOLERANCE) / s) + 1 for s in spacing)
    return z, y, x


def gaussian_reach(sigma_mm: float, spacing: Spacing) -> tuple[int, int, int]:
    """Voxels along z, y and x beyond which a smoothing by `sigma_mm` sees nothing; `spacing` is (x, y, z) in mm."""
    x, y, z = (round(4 * sigma_mm / s) + 1 for s in spacing)  # scipy cuts the kernel at 4 sigma
    return z, y, x


def pieces(mask: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """Parts of `mask` (z, y, x, bool) whose cavities are those of the mask: slices, and the part within them.

    One 26-connected component encloses a cavity, and what lies in the cavity lies in the component's box: components
    are one part where their boxes overlap or touch. A compact mask is one part, since telling its components costs
    more than it saves.
    """
    from scipy import ndimage
    from scipy.sparse import csgraph

    around = bounding_box(mask)
    if around is None:
        return []
    whole = mask[around]
    if np.count_nonzero(whole) > SPARSE * whole.size:
        return [(around, whole)]
    components, count = label_components(whole)
    if not 1 < count <= MOST_PIECES:
        return [(around, whole)]
    found = ndimage.find_objects(components, count)
    low = np.array([[side.start for side in box] for box in found])
    high = np.array([[side.stop for side in box] for box in found])
    near = (low[:, None] <= high[None]).all(axis=2)
    groups, group = csgraph.connected_components(near & near.T, directed=False)
    first = np.array([low[group == g].min(axis=0) for g in range(groups)])
    last = np.array([high[group == g].max(axis=0) for g in range(groups)])
    if np.prod(last - first, axis=1).sum() >= whole.size:
        return [(around, whole)]
    wanted = np.zeros(count + 1, np.int32)
    wanted[1:] = group + 1
    parts = []
    for g, (start, stop) in enumerate(zip(first.tolist(), last.tolist(), strict=True), 1):
        inner = slice(start[0], stop[0]), slice(start[1], stop[1]), slice(start[2], stop[2])
        parts.append((within_box(around, inner), wanted[components[inner]] == g))
    return parts


def _within_background(
    mask: np.ndarray, margins: tuple[int, int, int], operation: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Do `operation` to what there is of `mask`, within `margins` voxels of background."""
    result = np.zeros_like(mask)
    box = bounding_box(mask)
    if box is None:
        return result
    done = operation(np.pad(mask[box], [(n, n) for n in margins]))
    place = widen(box, margins, mask.shape)
    inner = tuple(
        slice(to.start - (side.start - n), to.stop - (side.start - n))
        for to, side, n in zip(place, box, margins, strict=True)
    )
    result[place] = done[inner]
    return result


def label_components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The 26-connected components of `mask` (z, y, x, bool), numbered from 1 in no certain order, and how many."""
    import cc3d

    # As bytes: of booleans cc3d 4.1 reserves too few labels for a line of single voxels, and raises RuntimeError.
    components, count = cc3d.connected_components(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=26, return_N=True
    )
    return components, int(count)


def components_by_size(mask: np.ndarray) -> list[tuple[Box, np.ndarray]]:
    """The 26-connected components of `mask` (z, y, x, bool), the largest first: slices, and the mask within them.

    Of equally large ones the one comes first whose first voxel does, in the order of the array.
    """
    import cc3d

    components, count = label_components(mask)
    if count == 0:
        return []
    flat = components.reshape(-1)
    at = np.flatnonzero(flat)
    statistics = cc3d.statistics(components)
    sizes, boxes = statistics["voxel_counts"].tolist(), statistics["bounding_boxes"]
    # Numbers of components are the library's affair, places in the array aren't: the last one written stays.
    first = np.zeros(count + 1, np.int64)
    first[flat[at[::-1]]] = at[::-1]
    order = sorted(range(1, count + 1), key=lambda number: (-sizes[number], first[number]))
    return [(boxes[number], components[boxes[number]] == number) for number in order]


def cavities(mask: np.ndarray, box: Box) -> list[tuple[Box, np.ndarray]]:
    """The cavities of a mask that lies in the slices `box` of a volume: slices of the volume, and the part within them.

    A cavity is a 6-connected part of what isn't `mask` (z, y, x, bool) that doesn't reach what lies around the box.
    """
    import cc3d

    found = []
    for place, part in pieces(mask):
        outside = np.pad(~part, 1, constant_values=True)
        parts = cc3d.connected_components(outside, connectivity=6)
        parts[parts == parts[0, 0, 0]] = 0
        parts = parts[1:-1, 1:-1, 1:-1]
        if not parts.any():
            continue
        statistics = cc3d.statistics(parts)
        for number, size in enumerate(statistics["voxel_counts"].tolist()):
            if number and size:
                inner = statistics["bounding_boxes"][number]
                found.append((within_box(box, within_box(place, inner)), parts[inner] == number))
    return found


def keep_cores(mask: np.ndarray, most: int, neck_mm: float, spacing: Spacing) -> np.ndarray:
    """The `most` largest parts of `mask` (z, y, x, bool) that a ball of `neck_mm` can't pass between; x, y, z in mm.

    Parts are 26-connected components of the mask's erosion, and come back as far as the ball reaches: what is thinner
    goes. A mask without a place for the ball stays as it is.
    """
    cores = erosion(mask, neck_mm, spacing)
    if not cores.any():
        return mask
    return dilation(keep_components(cores, most, 1)[0], neck_mm, spacing) & mask


def keep_components(mask: np.ndarray, most: int | None, min_voxels: float) -> tuple[np.ndarray, int]:
    """The 26-connected components of `mask` (z, y, x, bool) with at least `min_voxels`, and how many they are.

    With `most` the so many largest of them; of equally large ones those that come first in the order of the array.
    """
    components, count = label_components(mask)
    if count == 0:
        return mask.copy(), 0
    sizes = count_labels(components)
    wanted = sizes >= min_voxels
    wanted[0] = False
    if most is not None and np.count_nonzero(wanted) > most:
        least = np.sort(sizes[wanted])[-most]
        equal = wanted & (sizes == least)
        wanted &= sizes > least
        # Numbers of components are the library's affair, places in the array aren't.
        found, first = np.unique(components[equal[components]], return_index=True)
        wanted[found[np.argsort(first)][: most - np.count_nonzero(wanted)]] = True
    return wanted[components], int(np.count_nonzero(wanted))
