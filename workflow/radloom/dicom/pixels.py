"""The stored values of DICOM images: found in the file, decompressed, exact to the bit.

What the decoders raise and print is not passed on. Each is told from the compressed frame's own header how large its
result will be before it decodes, so that a damaged or hostile frame can't claim memory.
"""

from __future__ import annotations

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydicom.config import IGNORE
from pydicom.uid import UID

from radloom.dicom.files import UNDEFINED_LENGTH, Header, file_bytes
from radloom.dicom.frames import Pixels
from radloom.errors import CaseError
from radloom.images import Array

_DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", _DEFLATED, "1.2.840.10008.1.2.2")
_JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_HTJ2K = ("1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203")
_JPEG_LS = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81")
# Baseline, extended, lossless, lossless first order
_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
_RLE = "1.2.840.10008.1.2.5"
_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
_ITEM, _DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
# Start-of-frame markers of JPEG, JPEG lossless and JPEG-LS; C4, C8 and CC are others.
_FRAME_MARKERS = (*(0xC0 + k for k in range(16) if k not in (4, 8, 12)), 0xF7)


class PixelReader:
    """The frames of one file, as they are stored."""

    def __init__(self, header: Header, pixels: Pixels) -> None:
        """Raise CaseError where the transfer syntax can't be read, or the pixels are not all there."""
        self.header, self.pixels = header, pixels
        syntax = header.syntax
        if syntax not in (*_NATIVE, *_JPEG_2000, *_HTJ2K, *_JPEG_LS, *_JPEG, _RLE):
            raise CaseError(
                f"the transfer syntax {syntax_name(syntax)} can't be read",
                "Export the series uncompressed, or compressed by JPEG 2000 or JPEG-LS.",
            )
        if header.pixel_offset is None:
            raise truncated()
        self._offset = header.pixel_offset
        self._content: bytes | None = None
        self._frames: list[bytes] = []
        if syntax not in _NATIVE:
            if header.pixel_length != UNDEFINED_LENGTH or pixels.bits_allocated not in (8, 16):
                raise truncated()
            with open(header.path, "rb") as file:
                file.seek(self._offset)
                self._frames = _encapsulated(file.read(), pixels.frames)
            return
        if pixels.bits_allocated == 8 and not header.little_endian:
            raise CaseError("big endian slices of 8 bits are not read", "Export the series little endian.")
        order = "<" if header.little_endian else ">"
        self._stored = np.dtype(f"{order}u{pixels.bits_allocated // 8}")
        if syntax == _DEFLATED:
            self._content = file_bytes(header)
        size = len(self._content) if self._content is not None else os.stat(header.path).st_size
        there = size - self._offset
        promised = pixels.frame_bytes * pixels.frames
        if header.pixel_length == UNDEFINED_LENGTH or not promised <= header.pixel_length <= there:
            raise truncated()
        if header.pixel_length > promised + 1:  # one byte makes the length even
            raise CaseError(
                "a slice has more pixel data than its size and number of frames need",
                "Export the series again as the scanner made it.",
            )

    def frame(self, index: int, buffer: Array | None = None) -> Array:
        """Frame `index` (rows, columns) as unsigned words of the allocated bits, native byte order.

        It may lie in `buffer`, an earlier frame that is not needed any more.
        """
        pixels = self.pixels
        if self._frames:
            return self._decoded(self._frames[index])
        offset = self._offset + index * pixels.frame_bytes
        count = pixels.rows * pixels.columns
        if self._content is not None:
            words: Array = np.frombuffer(self._content, self._stored, count, offset)
        else:
            if buffer is None or buffer.size != count or buffer.dtype != self._stored or not buffer.flags.writeable:
                buffer = np.empty(count, self._stored)
            with open(self.header.path, "rb", buffering=0) as file:
                file.seek(offset)
                if file.readinto(buffer.view(np.uint8).data) != buffer.nbytes:
                    raise truncated()
            words = buffer
        return words.reshape(pixels.rows, pixels.columns).astype(self._stored.newbyteorder("="), copy=False)

    def is_lossy(self, index: int) -> bool:
        """Whether frame `index` was compressed with loss, now or before; a JPEG 2000 code stream tells it itself."""
        header = self.header
        if header.syntax in _LOSSY or header.text("LossyImageCompression") == "01":
            return True
        return header.syntax in (*_JPEG_2000, *_HTJ2K) and _irreversible(self._frames[index])

    def _decoded(self, packed: bytes) -> Array:
        syntax = self.header.syntax
        try:
            if syntax == _RLE:
                found = _rle(packed, self.pixels)
            elif syntax in (*_JPEG_2000, *_HTJ2K):
                found = _jpeg_2000(packed, self.pixels)
            elif syntax in _JPEG_LS:
                found = _jpeg_ls(packed, self.pixels)
            else:
                found = _jpeg(packed, self.pixels, syntax)
        except (CaseError, MemoryError):
            raise
        except Exception:
            raise truncated() from None
        if found.size != self.pixels.rows * self.pixels.columns or found.itemsize > self.pixels.bits_allocated // 8:
            raise truncated()
        words = found.reshape(self.pixels.rows, self.pixels.columns)
        width = self.pixels.bits_allocated // 8
        return words.astype(f"{words.dtype.kind}{width}", copy=False).view(f"u{width}")


def stored_values(words: Array, pixels: Pixels) -> tuple[Array, int, int]:
    """The stored values of unsigned words, and the least and the largest of them.

    Bits beyond the stored ones (old overlays) are dropped, signs are extended.
    """
    values = words.view(f"i{words.itemsize}") if pixels.signed else words
    bottom, top = (-1 << pixels.bits_stored - 1, 1 << pixels.bits_stored - 1) if pixels.signed else (
        0, 1 << pixels.bits_stored)  # fmt: skip
    low, high = int(values.min()), int(values.max())
    if bottom <= low and high < top:
        return values, low, high
    unused = 8 * words.itemsize - pixels.bits_stored
    values = np.asarray((words << unused).view(values.dtype) >> unused)  # to the right the sign is extended
    return values, int(values.min()), int(values.max())


def syntax_name(syntax: str) -> str:
    """The name of a transfer syntax of the standard; nothing else that a file has in its place."""
    uid = UID(syntax, validation_mode=IGNORE)
    return str(uid.name) if not uid.is_private and uid.is_valid and uid.name != syntax else "of a private kind"


def truncated() -> CaseError:
    """The error for pixels that aren't all there, or are damaged."""
    return CaseError("the pixel data of a slice are truncated or damaged", "Copy or export the series again.")


def _encapsulated(data: bytes, frames: int) -> list[bytes]:
    """The compressed frames in an encapsulated pixel data element's value (DICOM PS3.5, A.4)."""
    fragments, starts, at = [], [], 0
    while data[at : at + 4] == _ITEM:
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        starts.append(at)
        fragments.append(data[at + 8 : at + 8 + length])
        if len(fragments[-1]) != length:
            raise truncated()
        at += 8 + length
    if data[at : at + 4] != _DELIMITER or len(fragments) < 2:
        raise truncated()
    table, *fragments = fragments
    if frames == 1:
        return [b"".join(fragments)]
    if len(fragments) == frames:
        return fragments
    # Several fragments a frame: the table says where each frame begins, counted from the first fragment.
    places = {start - starts[1]: k for k, start in enumerate(starts[1:])}
    offsets = np.frombuffer(table[: len(table) // 4 * 4], "<u4").tolist()
    first = [places.get(offset, -1) for offset in offsets]
    if len(first) != frames or first[0] != 0 or any(b <= a for a, b in pairwise(first)):
        raise truncated()
    ends = [*first[1:], len(fragments)]
    return [b"".join(fragments[start:end]) for start, end in zip(first, ends, strict=True)]


def _jpeg_2000(packed: bytes, pixels: Pixels) -> Array:
    """Decode by OpenJPEG, high-throughput code streams (ISO 15444-15) too."""
    from openjpeg import decode_pixel_data, get_parameters

    claimed = get_parameters(packed)
    shape = claimed["rows"], claimed["columns"], claimed["samples_per_pixel"]
    if shape != (pixels.rows, pixels.columns, 1):
        raise truncated()
    precision, kind = int(claimed["precision"]), "i" if claimed["is_signed"] else "u"
    if precision > pixels.bits_allocated:
        raise truncated()
    words = np.frombuffer(decode_pixel_data(packed, version=2), f"<{kind}{1 if precision <= 8 else 2}")
    if kind == "u" and pixels.signed and precision < pixels.bits_stored and words.max() >> (precision - 1):
        raise CaseError(
            f"a slice has signed values of {pixels.bits_stored} bits, and {precision} bits without sign in JPEG 2000",
            "Export the series uncompressed.",
        )
    return words


def _irreversible(packed: bytes) -> bool:
    """Whether a code stream has the wavelet that rounds (ISO 15444-1, A.6.1: the last byte of its marker COD)."""
    at = packed.find(b"\xff\x52")
    return at > 0 and packed[at + 13 : at + 14] == b"\0"


def _jpeg_ls(packed: bytes, pixels: Pixels) -> Array:
    """Decode by CharLS; the code stream knows no signs, and its words are extended by the stored bits later."""
    import jpeg_ls

    precision = _jpeg_precision(packed, pixels)
    decoded, _ = jpeg_ls.decode_pixel_data(packed)
    return np.frombuffer(decoded, f"<u{1 if precision <= 8 else 2}")


def _jpeg(packed: bytes, pixels: Pixels, syntax: str) -> Array:
    """Decode by the GDCM inside SimpleITK, which reads files only: one with this frame and nothing of the patient."""
    import SimpleITK as sitk
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import SecondaryCaptureImageStorage, generate_uid

    from radloom.volume_files import captured

    _jpeg_precision(packed, pixels)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = SecondaryCaptureImageStorage, UID(syntax)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    frame = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    frame.SOPClassUID, frame.SOPInstanceUID = SecondaryCaptureImageStorage, meta.MediaStorageSOPInstanceUID
    frame.Rows, frame.Columns, frame.SamplesPerPixel = pixels.rows, pixels.columns, 1
    frame.PhotometricInterpretation = "MONOCHROME2"
    frame.BitsAllocated, frame.BitsStored = pixels.bits_allocated, pixels.bits_stored
    frame.HighBit, frame.PixelRepresentation = pixels.bits_stored - 1, int(pixels.signed)
    frame.PixelData = encapsulate([packed])
    with tempfile.TemporaryDirectory() as folder, captured():
        path = Path(folder) / "frame.dcm"
        frame.save_as(path, enforce_file_format=True)
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return np.asarray(array)


def _jpeg_precision(packed: bytes, pixels: Pixels) -> int:
    """Bits of a JPEG or JPEG-LS frame, whose header must speak of the image's size (ISO 10918-1 B.2.2)."""
    at = 2
    while at + 10 <= len(packed) and packed[at] == 0xFF:
        if packed[at + 1] == 0xFF:  # fill byte
            at += 1
            continue
        length = int.from_bytes(packed[at + 2 : at + 4], "big")
        if packed[at + 1] in _FRAME_MARKERS:
            rows, columns = (int.from_bytes(packed[at + k : at + k + 2], "big") for k in (5, 7))
            if (rows, columns, packed[at + 9]) != (pixels.rows, pixels.columns, 1):
                raise truncated()
            return packed[at + 4]
        at += 2 + length
    raise truncated()


def _rle(packed: bytes, pixels: Pixels) -> Array:
    """Decode by pydicom (PS3.5 annex G): one segment a byte of the words, the most significant first."""
    from pydicom.pixels.decoders.rle import _rle_decode_frame

    decoded = _rle_decode_frame(packed, pixels.rows, pixels.columns, 1, pixels.bits_allocated)
    return np.frombuffer(decoded, f"<u{pixels.bits_allocated // 8}")
