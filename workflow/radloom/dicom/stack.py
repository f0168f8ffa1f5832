"""The slices of a series, decoded into one array in HU."""

from __future__ import annotations

import math
import mmap
from collections import Counter
from typing import Any

import numpy as np

from radloom.dicom.frames import Frame
from radloom.dicom.geometry import Layout
from radloom.dicom.pixels import PixelReader, stored_values
from radloom.errors import CaseError
from radloom.images import Array
from radloom.ingest import AIR_HU

_TISSUE_HU = (-900.0, 4000.0)  # a padding value that stands for HU in here may as well be tissue
_SOLID_SHARE = 0.5  # least share of such padding's pixels with four neighbours of the same value


class Stack:
    """The slices decoded into one array (z, y, x) in HU, int16 or float32, those that are there first, in their order.

    As many slices as are missing lie behind them, and hold nothing yet.
    """

    def __init__(self, layout: Layout, frames: list[Frame]) -> None:
        first = frames[0].pixels
        whole = all(frame.slope.is_integer() and frame.intercept.is_integer() for frame in frames)
        self.array = _empty((layout.slices, first.rows, first.columns), np.dtype(np.int16 if whole else np.float32))
        self.valid: Array | None = None
        self._readers: dict[int, PixelReader] = {}
        self._buffer: Array | None = None
        self._padding: Counter[float] = Counter()
        self._ignored: Counter[float] = Counter()
        self._lossy = 0
        for k, place in enumerate(layout.places):
            outside = self._decode(frames[place[0]], self.array[k])
            if outside is not None:
                if self.valid is None:
                    self.valid = np.ones(self.array.shape, bool)
                self.valid[k] = ~outside
            for other in place[1:]:
                second = np.empty_like(self.array[k])
                self._decode(frames[other], second)
                if not np.array_equal(second, self.array[k]):
                    raise _several_phases(frames, layout)

    @property
    def warnings(self) -> list[str]:
        """What was done with the values that are declared as padding, and what was lost before."""
        lossy = f"{self._lossy} slices were compressed with loss: their values are not those that were measured"
        return (
            [lossy] * (self._lossy > 0)
            + [
                f"{count} voxels of declared padding ({hu:g} HU) were set to {AIR_HU} HU"
                for hu, count in sorted(self._padding.items())
            ]
            + [
                f"the pixel padding value stands for {hu:g} HU, as tissue has, and its {count} voxels are scattered: "
                "they were taken as measured"
                for hu, count in sorted(self._ignored.items())
            ]
        )

    def _decode(self, frame: Frame, out: Array) -> Array | None:
        """Write one slice in HU; returns where it is padding (rows, columns), None if nowhere."""
        if frame.pixels.frames == 1:
            reader = PixelReader(frame.header, frame.pixels)
        else:
            reader = self._readers.get(id(frame.header)) or PixelReader(frame.header, frame.pixels)
            self._readers[id(frame.header)] = reader
        words = reader.frame(frame.index, self._buffer)
        self._lossy += reader.is_lossy(frame.index)
        self._buffer = words.reshape(-1)
        values, low, high = stored_values(words, frame.pixels)
        padding = self._where_padding(frame, words, values)
        if padding is not None:
            inside = values[~padding]
            low, high = (int(inside.min()), int(inside.max())) if inside.size else (0, 0)
        if out.dtype == np.int16:
            ends = [end * frame.slope + frame.intercept for end in (low, high)]
            if min(ends) < -32768 or max(ends) > 32767:
                raise CaseError(
                    f"values from {min(ends):g} to {max(ends):g} are no HU",
                    "Export the series again as the scanner made it.",
                )
            # Modulo 2^16 all steps are exact where the result fits, and others are padding.
            small = values.view(np.int16) if values.itemsize == 2 else values.astype(np.int16)
            if frame.slope != 1:
                small = small * np.int64(frame.slope).astype(np.int16)
            np.add(small, np.int64(frame.intercept).astype(np.int16), out=out)
        else:
            out[:] = values * frame.slope + frame.intercept
        if padding is not None:
            out[padding] = AIR_HU
        return padding

    def _where_padding(self, frame: Frame, words: Array, values: Array) -> Array | None:
        """Where the stored values are in the range of the padding; writers store the value beyond the bits, too."""
        if frame.padding is None:
            return None
        low, high = frame.padding
        found = (values >= low) & (values <= high)
        for end in {low, high}:
            found |= words == words.dtype.type(end & ((1 << frame.pixels.bits_allocated) - 1))
        count = int(np.count_nonzero(found))
        if not count:
            return None
        hu = low * frame.slope + frame.intercept
        if _TISSUE_HU[0] < max(hu, high * frame.slope + frame.intercept) < _TISSUE_HU[1]:
            solid = found[1:-1, 1:-1] & found[:-2, 1:-1] & found[2:, 1:-1] & found[1:-1, :-2] & found[1:-1, 2:]
            if np.count_nonzero(solid) < _SOLID_SHARE * count:
                self._ignored[hu] += count
                return None
        self._padding[hu] += count
        return np.asarray(found)


def _empty(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """An array of nothing yet, in pages of the usual size.

    numpy asks for huge ones, for which the kernel moves other memory about where it is fragmented: that can take as
    long as all the reading. Raises MemoryError where there is none.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise MemoryError from None
    return np.frombuffer(pages, dtype).reshape(shape)


def _several_phases(frames: list[Frame], layout: Layout) -> CaseError:
    """The error for different images at one place, with what tells them apart."""
    double = [frames[k] for place in layout.places if len(place) > 1 for k in place]
    parts = []
    for name, _ in double[0].phase:
        kinds = Counter(dict(frame.phase)[name] for frame in double)
        if len(kinds) > 1:
            listed = [f"{name} {_harmless(value)} ({count} slices)" for value, count in sorted(kinds.items())[:6]]
            parts.append(", ".join(listed) + (" and others" if len(kinds) > 6 else ""))
    reason = f"different images lie at the same place, {len(double)} at {sum(len(p) > 1 for p in layout.places)} places"
    return CaseError(reason + (f": {'; '.join(parts)}" if parts else ""), "Send one acquisition (phase) as one series.")


def _harmless(value: str) -> str:
    """A number too short to be a date or an id, or "?" for whatever else a header has in its place."""
    return value if value.replace(".", "", 1).isdigit() and len(value) <= 5 else "?"
