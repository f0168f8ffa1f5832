"""Canaries: distinct values in every element of DICOM, in names and headers, and how they are searched for."""

from __future__ import annotations

import base64
import binascii
import datetime
import gzip
import re
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import PIL.Image
import pydicom
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from radloom.dicom.acquisition_elements import DATES, DESCRIPTIONS, IDENTIFIERS
from radloom.dicom.acquisition_elements import KEYWORDS as ACQUISITION
from radloom.dicom.files import KEYWORDS

WORD = "ZQCanary"
# Of 16 bits, and a tag: too small to tell which element has them.
US, SS, AT = 54321, -23917, 0x5A514321
UID = "1.2.826.0.1.3680043.77"
# What a reader has to look at, or may tell: these keep their values, and all others carry a canary.
TAKEN = (
    {*KEYWORDS, *ACQUISITION} - {*IDENTIFIERS, *DESCRIPTIONS, *DATES, "ContentDate", "SeriesNumber", "AcquisitionUID"}
    | {"SpecificCharacterSet", "FloatPixelData", "DoubleFloatPixelData", "PixelData", "ExtendedOffsetTable"}
    | {"ExtendedOffsetTableLengths", "DirectoryRecordSequence", "DataSetTrailingPadding"}
)
_WORDS = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_SMALL = ("US", "SS", "AT")
_BYTES = ("OB", "OW", "OD", "OF", "OL", "OV", "UN")
_PRIVATE = 0x0099
_NUMBERS = ("AS", "DA", "DS", "DT", "FD", "FL", "IS", "SL", "SV", "TM", "UL", "UV")
_PRIVATE_VRS = (*_WORDS, *_BYTES, *_SMALL, *_NUMBERS, "UI", "SQ")  # all that there are


class Canaries:
    """Makes canaries, each once, and knows all that it made."""

    def __init__(self) -> None:
        self._made = 0
        self.numbers: dict[str, str] = {str(US): "US", str(SS).strip("-"): "SS", str(AT): "AT"}

    def word(self, kind: str = "LO") -> str:
        """A text that tells itself apart in any case."""
        self._made += 1
        text = f"{WORD}{self._made:05d}"
        return text.upper() if kind in ("CS", "AE") else f"{text}^Jo" if kind == "PN" else text

    def uid(self) -> str:
        self._made += 1
        return f"{UID}.{self._made}"

    def value(self, vr: str, where: str) -> object:
        """A value of a VR (DICOM PS3.5, 6.2); what is a number is looked for as a word of its own."""
        self._made += 1
        n = self._made
        if vr in _WORDS:
            return self.word(vr)
        if vr == "UI":
            return self.uid()
        if vr in _BYTES:
            return (self.word() + "   ").encode()[: 16 if vr in ("OD", "OV") else 12].ljust(16)
        if vr in _SMALL:
            return {"US": US, "SS": SS, "AT": AT}[vr]
        if vr in ("DA", "DT"):
            day = datetime.date(1985, 1, 1) + datetime.timedelta(days=n)
            self.numbers[day.isoformat()] = where
            text = f"{day:%Y%m%d}" + (f"1732{n % 60:02d}.{n:06d}" if vr == "DT" else "")
        elif vr == "TM":
            text = f"1732{n % 60:02d}.{n:06d}"
        elif vr == "AS":
            text = f"{700 + n % 300}Y"
        elif vr in ("DS", "FD", "FL", "OF"):
            text = f"7351.94{n:06d}"
        else:
            text = f"19073{n:05d}"
        self.numbers[text] = where
        return float(text) if vr in ("FD", "FL") else int(text) if vr in ("SL", "UL", "SV", "UV") else text

    def plant(self, dataset: Dataset) -> None:
        """Give every element of the dictionary that the dataset lacks and nobody needs a canary; private ones too.

        Text that identifies is overwritten.
        """
        for number, (vrs, _, _, _, keyword) in DicomDictionary.items():
            tag = Tag(number)
            if tag.group < 8 or keyword in TAKEN or not keyword or tag.element == 0:
                continue
            if keyword in dataset and keyword not in (*IDENTIFIERS, *DESCRIPTIONS, *DATES):
                continue
            if keyword.endswith("InstanceUID") and keyword in dataset:
                continue
            self._add(dataset, tag, vrs.split(" ")[0], keyword)
        block = dataset.private_block(_PRIVATE, self.word(), create=True)
        for offset, vr in enumerate(_PRIVATE_VRS, 1):
            value = [self._nested()] if vr == "SQ" else self.value(vr, f"private {vr}")
            block.add_new(offset, vr, value)
        for element, vr in ((0x0010, "US"), (0x0022, "LO"), (0x1500, "LO"), (0x4000, "LT"), (0x3000, "OW")):
            dataset.add_new(0x60000000 | element, vr, self.value(vr, "overlay"))

    def _add(self, dataset: Dataset, tag: int, vr: str, keyword: str) -> None:
        if vr == "SQ":
            # Deep ones are dear to write: in the sequences of the commonest groups.
            item = self._nested() if tag >> 16 in (0x0010, 0x0040) else Dataset()
            item.PatientName = self.word("PN")
            dataset[tag] = DataElement(tag, "SQ", [item])
        elif vr != "NONE":
            dataset[tag] = DataElement(tag, vr, self.value(vr, keyword), validation_mode=pydicom.config.IGNORE)

    def _nested(self) -> Dataset:
        inner, outer = Dataset(), Dataset()
        inner.PatientName, inner.PatientComments = self.word("PN"), self.word()
        inner.private_block(_PRIVATE, self.word(), create=True).add_new(1, "LO", self.word())
        outer.PatientID, outer.RequestAttributesSequence = self.word(), [inner]
        return outer

    def mark_file(self, path: Path) -> None:
        """Put canaries into the preamble and the file meta information."""
        dataset = pydicom.dcmread(path)
        dataset.preamble = self.word().encode().ljust(128)
        meta = dataset.file_meta
        meta.SourceApplicationEntityTitle = self.word("AE")
        meta.ImplementationVersionName = self.word("SH")
        meta.PrivateInformationCreatorUID, meta.PrivateInformation = self.uid(), self.word().encode().ljust(16)
        dataset.save_as(path)

    def found_in(self, content: bytes) -> list[str]:
        """The canaries in a text or binary: as UTF-8 or UTF-16, in any case; numbers as words of their own."""
        lowered = content.lower()
        found = [
            f"...{word}... at {lowered.index(coded)}: {content[max(0, lowered.index(coded) - 60) :][:160]!r}"
            for word in (WORD.lower(), UID, f"{AT:08x}", f"{AT >> 16:04x},{AT & 0xFFFF:04x}")
            for coded in (word.encode(), word.encode("utf-16-le"), word.encode("utf-16-be"))
            if coded in lowered
        ]
        tokens = set(re.findall(rb"(?<![0-9A-Za-z.])[0-9][0-9.-]*[0-9Y](?![0-9A-Za-z])", content))
        return found + [f"{text} of {where}" for text, where in self.numbers.items() if text.encode() in tokens]


def everything_in(*folders: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of every file, packed ones and Parquet unpacked."""
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            yield f"name of {path.name}", path.relative_to(folder.parent).as_posix().encode()
            if not path.is_file():
                continue
            content = path.read_bytes()
            yield str(path), content
            for part in _unpacked(path, content):
                yield f"{path}, unpacked", part


def _unpacked(path: Path, content: bytes) -> Iterator[bytes]:
    """What a file's bytes don't show: of packed ones, Parquet, pictures' texts, data in HTML, Snakemake's names."""
    if path.suffix == ".gz":
        yield gzip.decompress(content)
    elif path.suffix == ".parquet":
        table = pd.read_parquet(path)
        yield table.to_csv().encode() + repr(table.attrs).encode()
    elif path.suffix in (".zip", ".xlsx"):
        with zipfile.ZipFile(path) as packed:
            yield from (name.encode() + packed.read(name) for name in packed.namelist())
    elif path.suffix == ".png":
        with PIL.Image.open(path) as picture:
            yield repr(picture.info).encode()
    elif path.suffix == ".html":
        yield from map(base64.b64decode, re.findall(rb"base64,([A-Za-z0-9+/]+=*)", content))
    elif path.parent.parent.name == ".snakemake":
        with suppress(binascii.Error):
            yield base64.b64decode(path.name, validate=True)
