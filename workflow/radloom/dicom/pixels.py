"""The stored values of DICOM images: found in the file, decompressed, exact to the bit."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from pydicom.uid import UID

from radloom.dicom.frames import Pixels
from radloom.dicom.files import UNDEFINED_LENGTH, Header, file_bytes
from radloom.errors import CaseError
from radloom.images import Array

_NATIVE = {
    "1.2.840.10008.1.2": "implicit VR little endian",
    "1.2.840.10008.1.2.1": "explicit VR little endian",
    "1.2.840.10008.1.2.1.99": "deflated explicit VR little endian",
    "1.2.840.10008.1.2.2": "explicit VR big endian",
}
_DEFLATED = "1.2.840.10008.1.2.1.99"
_COPY_AGAIN = "Copy or export the series again."


class PixelReader:
    """The frames of one file, as they are stored."""

    def __init__(self, header: Header, pixels: Pixels) -> None:
        """Raise CaseError where the transfer syntax can't be read, or the pixels are not all there."""
        self.header, self.pixels = header, pixels
        self.dtype = np.dtype(f"{'<' if header.little_endian else '>'}u{pixels.bits_allocated // 8}")
        self._content: bytes | None = None
        if header.syntax not in _NATIVE:
            raise CaseError(
                f"the transfer syntax {syntax_name(header.syntax)} can't be read",
                "Export the series uncompressed, or in JPEG 2000 or JPEG-LS.",
            )
        assert header.pixel_offset is not None
        promised = pixels.frame_bytes * pixels.frames
        if header.syntax == _DEFLATED:
            self._content = file_bytes(header)
        size = len(self._content) if self._content is not None else os.stat(header.path).st_size
        if header.pixel_length == UNDEFINED_LENGTH or not promised <= header.pixel_length <= size - header.pixel_offset:
            raise truncated()

    def frame(self, index: int) -> Array:
        """Frame `index` (rows, columns) as unsigned words of the allocated bits."""
        offset = (self.header.pixel_offset or 0) + index * self.pixels.frame_bytes
        count = self.pixels.rows * self.pixels.columns
        if self._content is not None:
            words = np.frombuffer(self._content, self.dtype, count, offset)
        else:
            words = np.fromfile(self.header.path, self.dtype, count, offset=offset)
        if words.size != count:
            raise truncated()
        return words.reshape(self.pixels.rows, self.pixels.columns).astype(self.dtype.newbyteorder("="), copy=False)


def signed_values(words: Array, pixels: Pixels) -> Array:
    """The stored values of unsigned words: bits beyond the stored ones (old overlays) dropped, signs extended."""
    unused = pixels.bits_allocated - pixels.bits_stored
    values = words.view(f"i{words.itemsize}") if pixels.signed else words
    if not unused:
        return values
    low, high = (-(1 << pixels.bits_stored - 1), (1 << pixels.bits_stored - 1) - 1) if pixels.signed else (
        0, (1 << pixels.bits_stored) - 1)  # fmt: skip
    if values.min() >= low and values.max() <= high:
        return values
    return (values << unused) >> unused  # shifting right extends the sign of signed values


def syntax_name(syntax: str) -> str:
    """The name of a transfer syntax that the standard knows; never a private UID."""
    name: Any = UID(syntax).name
    return name if UID(syntax).is_transfer_syntax and name != syntax else "of a private kind"


def truncated() -> CaseError:
    """The error for pixels that aren't all there, or are damaged."""
    return CaseError("the pixel data of a slice are truncated or damaged", _COPY_AGAIN)
