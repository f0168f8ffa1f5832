"""How a series was acquired, from its headers: clean values of known elements, and a day that is no date."""

from __future__ import annotations

import datetime
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pydicom.dataset import Dataset

from radloom.acquisition import COLUMNS, MIXED, RANGES, Value, clean, contrast_given, is_known_zero, manufacturer_name
from radloom.dicom.acquisition_elements import DATES, DESCRIPTIONS, IDENTIFIERS, VENDORS
from radloom.dicom.files import items, quiet, text, texts
from radloom.dicom.frames import UNASSIGNED
from radloom.dicom.scanner_words import is_kernel, is_scanner
from radloom.salt import hashed

FIRST_CT = 1971
"""No CT is older; headers from which the date was removed often have an earlier one."""

_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
# Functional groups of enhanced CT that have values of the table (PS3.3, C.8.15.3).
_MACROS = (
    *("CTExposureSequence", "CTXRayDetailsSequence", "CTReconstructionSequence", "PixelMeasuresSequence"),
    *("CTTableDynamicsSequence", "CTAcquisitionDetailsSequence", "ContrastBolusUsageSequence", *UNASSIGNED),
)
_SYNTAXES = {
    "1.2.840.10008.1.2": "implicit little endian",
    "1.2.840.10008.1.2.1": "explicit little endian",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "explicit big endian",
    "1.2.840.10008.1.2.4.50": "JPEG baseline (lossy)",
    "1.2.840.10008.1.2.4.51": "JPEG extended (lossy)",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS (lossy)",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.202": "HTJ2K lossless",
    "1.2.840.10008.1.2.4.203": "HTJ2K",
    "1.2.840.10008.1.2.5": "RLE lossless",
}
# ml, g or ml, ml/s; 0 is also what an injector that isn't connected writes.
_AMOUNTS = ("ContrastBolusVolume", "ContrastBolusTotalDose", "ContrastFlowRate")
_LEAST_WORD = 3
_LEAST_PART = 5


def acquisition_of(
    headers: Sequence[Dataset], warnings: list[str] | None = None, syntaxes: Iterable[str] = ()
) -> dict[str, Value]:
    """Return how a series was acquired, one value for each of `radloom.acquisition.COLUMNS`.

    `headers` are those of all slices, without pixels (`acquisition_elements` says what of them), or the one of a
    multi-frame image; `syntaxes` are the files' transfer syntaxes, where headers come without meta information. Of
    numbers that differ it is the median, of texts that differ "mixed"; None where nothing can be said. Lengths in mm,
    tube voltage in kV, current in mA, exposure in mAs, tilt in degrees. What is left out or differs is added to
    `warnings`, without the value. Meanings: DICOM PS3.3, C.7.5.1 (equipment), C.8.2.1 (CT image), C.8.15.3 (enhanced).
    """
    told: list[str] = [] if warnings is None else warnings
    with quiet():
        elements = [_Elements(header) for header in headers]
        found: dict[str, Value] = {}
        for column in COLUMNS:
            read = _READERS[column]
            values = [(value, one) for one in elements for value in read(one)]
            if column == "transfer_syntax" and not values:
                values = [(_SYNTAXES.get(str(uid), "other"), elements[0]) for uid in syntaxes if elements]
            found[column] = _median(column, values, told) if column in RANGES else _same(column, values, told)
    return found


class _Elements:
    """Values of a header as texts, by keyword, also of the functional groups of a multi-frame image."""

    def __init__(self, header: Dataset) -> None:
        self.header = header
        self._items: list[Dataset] = [header]
        for group in (group for name in _GROUPS for group in items(header, name)):
            self._items += [item for name in _MACROS for item in items(group, name)]

    def all(self, keyword: str) -> list[Any]:
        """The element's value wherever it is there and not empty; of one with several parts they are a list."""
        found = [texts(item, keyword) for item in self._items]
        return [list(value) if len(value) > 1 else value[0] for value in found if any(value)]

    def words(self, keyword: str) -> set[str]:
        """Every value of the element, wherever it is there."""
        return {value.casefold() for item in self._items for value in texts(item, keyword)}

    def private(self, what: str) -> str:
        """The text of a vendor's own element (of VENDORS), empty where there is none."""
        group, creator, element = VENDORS[what]
        try:
            value = self.header.private_block(group, creator)[element].value
        except Exception:
            return ""
        text = value.decode("ascii", "ignore") if isinstance(value, bytes) else str(value)
        return text.strip(" \0")


def _only(keyword: str) -> Callable[[_Elements], list[Any]]:
    return lambda elements: elements.all(keyword)


def _first_known(*options: list[Any]) -> list[Any]:
    """The first of several elements' values that aren't all 0, which stands for "not known"; else the last."""
    return next((values for values in options if any(not is_known_zero("kvp", value) for value in values)), options[-1])


def _exposure(elements: _Elements) -> list[Any]:
    """In mAs: as such, or from the element in microampere seconds."""
    micro = [_scaled(value) for value in elements.all("ExposureInuAs")]
    return _first_known(elements.all("ExposureInmAs"), micro, elements.all("Exposure"))


def _tube_current(elements: _Elements) -> list[Any]:
    micro = [_scaled(value) for value in elements.all("XRayTubeCurrentInuA")]
    return _first_known(elements.all("XRayTubeCurrentInmA"), micro, elements.all("XRayTubeCurrent"))


def _scaled(value: Any) -> Any:
    try:
        return float(str(value)) / 1000
    except ValueError:
        return value


def _pitch(elements: _Elements) -> list[Any]:
    """The spiral pitch factor; where only its parts are there, table feed a rotation by collimation (PS3.3 C.8.15.3.4).

    GE's own element has it as "1.375:1".
    """
    if found := elements.all("SpiralPitchFactor"):
        return found
    feeds, widths = elements.all("TableFeedPerRotation"), elements.all("TotalCollimationWidth")
    if feeds and len(feeds) == len(widths):
        try:
            return [float(str(feed)) / float(str(width)) for feed, width in zip(feeds, widths, strict=True)]
        except (ValueError, ZeroDivisionError):
            return []
    ratio = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?):1", elements.private("GE pitch"))
    return [ratio[1]] if ratio else []


def _kernel(elements: _Elements) -> list[Any]:
    """The kernel's name. Siemens writes the strength of the iterative reconstruction as a second value."""
    found = [value[0] if isinstance(value, list) else value for value in elements.all("ConvolutionKernel")]
    return [str(value).replace(",", " ") for value in found]  # "IMR1,Soft Tissue"


def _reconstruction(elements: _Elements) -> list[str]:
    """FBP or iterative, with its level where the header has one; nothing where it doesn't say.

    By (0018,9315) of enhanced CT. Classic headers have only the vendor's: the second value of Siemens' kernel (1 to 5),
    GE's level as SS50 in (0053,xx40), Philips' iDose level in (01F7,xx9B).
    """
    if any(manufacturer_name(str(name)) == "Siemens" for name in elements.all("Manufacturer")):
        kernels = [one for one in elements.all("ConvolutionKernel") if isinstance(one, list) and len(one) == 2]
        if levels := [f"iterative {level}" for _, level in kernels if re.fullmatch(r"[1-5]", level)]:
            return levels
    ge = elements.private("GE iterative")
    if re.fullmatch(r"[A-Z]{2}[0-9]{1,3}", ge):
        return [f"iterative {ge}"]
    philips = elements.private("Philips iterative")
    if re.fullmatch(r"[1-7]", philips):
        return [f"iterative {philips}"]
    words = {"FILTER_BACK_PROJ": "FBP", "ITERATIVE": "iterative"}
    return [words[str(value)] for value in elements.all("ReconstructionAlgorithm") if str(value) in words]


def _contrast(elements: _Elements) -> list[str]:
    """Yes where something says that an agent was given, no where something says that none was; else nothing.

    A header without the element says nothing: the standard asks for it only where an agent was used (PS3.3 C.7.6.4),
    but scanners know only what somebody enters, and programs that remove names empty it, put a word of theirs in its
    place, or remove it. An empty one says nothing for the same reasons.
    """
    told = [contrast_given(str(value)) for value in elements.all("ContrastBolusAgent")]
    if any(told):
        return [word for word in told if word]
    # Of enhanced CT, for each agent (C.7.6.16.2.12).
    if given := {str(value).upper() for value in elements.all("ContrastBolusAgentAdministered")} & {"YES", "NO"}:
        return ["yes" if "YES" in given else "no"]
    if elements.all("ContrastBolusAgentSequence"):
        return ["yes"]
    amounts = [str(value) for name in _AMOUNTS for value in elements.all(name)]
    return ["yes"] if any(clean("exposure", amount) is not None for amount in amounts) else []


def _software(elements: _Elements) -> list[str]:
    return [" ".join(value) if isinstance(value, list) else value for value in elements.all("SoftwareVersions")]


def _transfer_syntax(elements: _Elements) -> list[str]:
    meta = getattr(elements.header, "file_meta", None)
    uid = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    return [_SYNTAXES.get(uid, "other")] if uid else []


_READERS: dict[str, Callable[[_Elements], list[Any]]] = {
    "manufacturer": _only("Manufacturer"),
    "scanner_model": _only("ManufacturerModelName"),
    "software": _software,
    "kernel": _kernel,
    "reconstruction": _reconstruction,
    "kvp": _only("KVP"),
    "tube_current": _tube_current,
    "exposure": _exposure,
    "slice_thickness": _only("SliceThickness"),
    "pitch": _pitch,
    "contrast": _contrast,
    "table_height": _only("TableHeight"),
    "gantry_tilt": _only("GantryDetectorTilt"),
    "transfer_syntax": _transfer_syntax,
}
# Texts that this module words itself, whatever stands in the header.
_OWN_WORDS = ("reconstruction", "contrast", "transfer_syntax")


def _median(column: str, values: Sequence[tuple[Any, _Elements]], told: list[str]) -> float | None:
    numbers = []
    wrong = 0
    for value, _ in values:
        number = clean(column, value)
        if isinstance(number, float):
            numbers.append(number)
        elif not is_known_zero(column, value):
            wrong += 1
    if wrong:
        told.append(f"the header's {column} is no possible value in {wrong} of {len(values)} places and is left out")
    return round(statistics.median(numbers), 3) if numbers else None


def _same(column: str, values: Sequence[tuple[Any, _Elements]], told: list[str]) -> str | None:
    # Different texts, each with the first header that has it.
    first = {str(value).strip(): elements for value, elements in reversed(values)}
    kept = set()
    refused = False
    for written, elements in first.items():
        if column in _OWN_WORDS or (column == "manufacturer" and manufacturer_name(written) is not None):
            kept.add(str(written if column in _OWN_WORDS else manufacturer_name(written)))
        elif (value := _known(column, written)) is not None and not _is_private(column, value, elements):
            kept.add(value)
        else:
            refused = refused or bool(written)
    if refused:
        told.append(
            f"the header's {column} is left out: it is no name that is known, or has words of the patient's data; "
            f"where it counts, write it into a column {column} of the cohort sheet"
        )
        return None
    if len(kept) > 1:
        told.append(f"{column} differs between slices")
        return MIXED
    return next(iter(kept), None)


def _known(column: str, written: str) -> str | None:
    """A text that is nothing but a name of a kernel, or of a scanner and its software, as the table has it."""
    value = clean(column, written)
    known = is_kernel if column == "kernel" else is_scanner
    return value if isinstance(value, str) and known(value) else None


def _is_private(column: str, text: str, elements: _Elements) -> bool:
    """Tell whether a text has a word of an identifying element of the header, or is one of its descriptions.

    Many a series is called as its kernel is.
    """
    own = text.casefold()
    words = set(_words(own))
    for keyword in IDENTIFIERS if column == "kernel" else (*IDENTIFIERS, *DESCRIPTIONS):
        for other in elements.words(keyword):
            if other == own:
                return True
            if keyword in IDENTIFIERS and any(
                w in words or (len(w) >= _LEAST_PART and w in own) for w in _words(other)
            ):
                return True
    return False


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", text) if len(word) >= _LEAST_WORD]


def scan_day(headers: Iterable[Dataset], salt: bytes, patient_id: str) -> int | None:
    """Return the day of a scan, shifted by a number of days that only the salt tells; None without a date.

    Days of one patient differ as their dates do. The shift is HMAC-SHA256 of the patient's id by the project's salt, up
    to 2^40 days, so that the number says nothing of the date to who doesn't have the salt. `headers` are those of the
    scan's slices; the earliest counts.
    """
    with quiet():
        dates = [next((day for name in DATES if (day := _date(one, name)) is not None), None) for one in headers]
    known = [date for date in dates if date is not None]
    if not known:
        return None
    return min(known).toordinal() + int(hashed(salt, f"day of scan {patient_id}")[:10], 16)


def _date(header: Dataset, keyword: str) -> datetime.date | None:
    # Until 1993 dates were written with points.
    digits = text(header, keyword)[:10].replace(".", "")[:8]
    try:
        date = datetime.datetime.strptime(digits, "%Y%m%d").date()
    except ValueError:
        return None
    return date if date.year >= FIRST_CT else None
