"""Scans that a cohort has twice: the same voxels, or nearly the same picture."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from radloom.images import Array
from radloom.quality_noise import sampled

_GRID = 24  # cells along each axis of the thumbnail
_SLICES = 96  # at most; four for each cell
_WAVES = 8  # lowest waves along each axis whose signs are kept
_WINDOW = (-500, 300)  # HU; noise in air and the level of padding stay out of the picture
_BITS = _WAVES**3 - 1
_BLOCK = 512


class Fingerprint:
    """The digest of a scan's voxels and the hash of its picture, taken slice by slice."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        """`shape` is that of the scan (z, y, x)."""
        self._digest = hashlib.sha256("x".join(map(str, shape)).encode())
        self._slices = {z: n for n, z in enumerate(sampled(shape[0], _SLICES))}
        self._across = [_cells(length) for length in (len(self._slices), *shape[1:])]
        self._cells = np.zeros((_GRID, _GRID, _GRID))

    def look(self, z: int, plane: Array) -> None:
        """Take in a slice (y, x) in HU as they were sent."""
        self._digest.update(np.ascontiguousarray(plane).data)
        if z not in self._slices:
            return
        in_z, in_y, in_x = self._across
        small = in_y @ np.clip(plane, *_WINDOW).astype(np.float32) @ in_x.T
        weights = in_z[:, self._slices[z]]
        for cell in np.flatnonzero(weights):
            self._cells[cell] += weights[cell] * small

    def voxels(self) -> str:
        """SHA-256 of the size and the voxels, whatever the header says of spacing and place."""
        return self._digest.hexdigest()

    def picture(self) -> str:
        """511 bits in hexadecimal that nearly equal pictures share: the signs of a thumbnail's lowest cosine waves.

        The thumbnail has 24 cells along each axis, each the mean of what it covers within -500 and 300 HU in at
        most 96 slices. The waves
        are those of the discrete cosine transform (type II, 8 along each axis, without the mean), as in perceptual
        hashes of pictures (Zauner 2010). Noise, rounding, a change of HU and resampling leave nearly all signs as they
        are, and a mirror image changes those of odd waves alone. A part cut off, or other anatomy, changes many.
        """
        waves = np.cos(np.pi / _GRID * np.outer(np.arange(_WAVES), np.arange(_GRID) + 0.5))
        found = np.einsum("az,by,cx,zyx->abc", waves, waves, waves, self._cells, optimize=True)
        return np.packbits(found.reshape(-1)[1:] > 0).tobytes().hex()


def _cells(length: int) -> Array:
    """Weights (cells, length) that average a line of voxels into cells of one length, parts of voxels counted."""
    edges = np.linspace(0, length, _GRID + 1)
    voxels = np.arange(length)
    overlap = np.minimum(edges[1:, None], voxels + 1) - np.maximum(edges[:-1, None], voxels)
    return (np.maximum(overlap, 0) * (_GRID / length)).astype(np.float32)


@functools.cache
def _mirrors() -> Array:
    """The signs (8, 511) that the eight mirror images of a scan give its waves."""
    odd = np.indices((_WAVES, _WAVES, _WAVES)).reshape(3, -1)[:, 1:] % 2
    flips = np.indices((2, 2, 2)).reshape(3, -1).T
    return np.asarray((1 - 2 * ((flips @ odd) % 2)).astype(np.float32))


def hash_distances(hashes: Sequence[str]) -> Array:
    """The share of bits (n, n; 0 to 1, NaN on the diagonal) in which every two picture hashes differ, at best over
    the eight ways in which one may be the other's mirror image.
    """
    packed = np.array([np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes]).reshape(len(hashes), -1)
    signs = np.unpackbits(packed, axis=1)[:, :_BITS].astype(np.float32) * 2 - 1
    best = np.full((len(hashes), len(hashes)), np.nan, np.float32)
    for start in range(0, len(hashes), _BLOCK):
        block = signs[start : start + _BLOCK]
        alike = np.max([(block * mirror) @ signs.T for mirror in _mirrors()], axis=0)
        best[start : start + _BLOCK] = (1 - alike / _BITS) / 2
    np.fill_diagonal(best, np.nan)
    return best
