"""Finding the series in a heap of DICOM files, and choosing one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from radloom.dicom.acquisition import acquisition_of
from radloom.dicom.files import CT_CLASSES, Header, integer, number, quiet, read_header, texts
from radloom.errors import CaseError

RULES = ("only", "most_slices", "thinnest")
# DICOM PS3.3 C.7.3.1.1.1, as far as they occur beside CT; another word in its place may be anything.
_MODALITIES = (
    *("CT", "MR", "PT", "NM", "US", "CR", "DX", "MG", "XA", "RF", "OT", "SC", "SR", "SEG", "REG", "KO", "PR", "DOC"),
    *("RTSTRUCT", "RTDOSE", "RTPLAN", "RTIMAGE", "RTRECORD"),
)
_FEWEST_SLICES = 2  # of what counts as a volume
_LISTED = 12


@dataclass(frozen=True)
class Series:
    """The files of one series and what they say of it.

    `uid`, `modality`, `description`, `frame_of_reference` and `headers` are the patient's own values: none may reach
    an output. `slices` counts the images (frames of multi-frame files) that can be slices of a CT; `thickness` is in
    mm, 0 where it isn't told. `headers` go with `files`, which are in the order in which they were found.
    """

    uid: str
    modality: str
    description: str
    number: int | None
    frame_of_reference: str
    files: tuple[Path, ...]
    slices: int
    thickness: float
    kernel: str
    rows: int
    columns: int
    headers: tuple[Header, ...] = field(repr=False)

    def summary(self) -> str:
        """What may be told of the series: "CT, 120 slices of 1.25 mm, kernel B30f, 512 x 512"."""
        modality = self.modality if self.modality in _MODALITIES else "another modality"
        parts = [f"{modality}, {self.slices} slices"]
        if self.thickness:
            parts[0] += f" of {self.thickness:g} mm"
        if self.kernel:
            parts.append(f"kernel {self.kernel}")
        if self.rows and self.columns:
            parts.append(f"{self.columns} x {self.rows}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Found:
    """The series of a heap of files, by number and UID, and how many files were passed over for which reason."""

    series: tuple[Series, ...]
    ignored: dict[str, int]


def find_series(files: Iterable[Path]) -> Found:
    """Read the headers of the files and group them by series, of whatever modality.

    Files that are no DICOM, damaged, empty or a DICOMDIR are counted. Raises CaseError where one can't be read.
    """
    ignored: Counter[str] = Counter()
    groups: dict[tuple[str, ...], list[Header]] = {}
    with quiet():
        for path in files:
            try:
                header = read_header(path)
            except OSError as error:
                raise _unreadable(error) from None
            if isinstance(header, str):
                ignored[header] += 1
            else:
                groups.setdefault(_group(header), []).append(header)
        series = [_series(headers) for headers in groups.values()]
    series.sort(key=lambda one: (one.number is None, one.number or 0, one.uid))
    return Found(tuple(series), dict(sorted(ignored.items())))


def choose_series(found: Found, wanted: str = "", rule: str = "only") -> Series:
    """The CT series that a case means.

    `wanted` is a series UID, or a pattern (shell wildcards, in any case) of the series description; "" takes them
    all. Of several the `rule` takes one: "only" none, "most_slices", or "thinnest" (then most slices); a tie is
    nobody's. Raises CaseError, which lists the candidates, unless just one is left.
    """
    if rule not in RULES:
        raise ValueError(f"no rule of choosing a series: {rule}")
    damaged = found.ignored.get("damaged DICOM", 0)
    if damaged:
        raise CaseError(
            f"{damaged} of the DICOM files are damaged, and may be slices of the series",
            "Copy or export the series again.",
        )
    candidates = [one for one in found.series if one.modality == "CT" and one.slices >= _FEWEST_SLICES]
    if not candidates:
        raise CaseError(
            f"no CT series of at least {_FEWEST_SLICES} slices among the files ({_listing(found.series, found)})",
            "Name the folder or archive that holds the slices of a CT.",
        )
    if wanted:
        pattern = wanted.lower()
        matching = [one for one in candidates if one.uid == wanted] or [
            one for one in candidates if fnmatchcase(one.description.lower(), pattern)
        ]
        if not matching:
            raise CaseError(
                f"none of the CT series is the wanted one ({_listing(candidates, found)})",
                "Correct the column `series` of the cohort sheet: a series UID, or a pattern of its description.",
            )
        candidates = matching
    best = candidates
    if rule != "only":
        thick = [one.thickness or float("inf") for one in candidates]
        if rule == "thinnest":
            best = [one for one, thickness in zip(candidates, thick, strict=True) if thickness == min(thick)]
        most = max(one.slices for one in best)
        best = [one for one in best if one.slices == most]
    if len(best) > 1:
        raise CaseError(
            f"{len(candidates)} CT series to choose from: {_listing(candidates, found)}",
            "Name one in the column `series` of the cohort sheet (a series UID, or a pattern of its description), "
            f"or set ingest: series_rule ({', '.join(RULES)}).",
        )
    return best[0]


def is_slice(header: Header) -> bool:
    """Whether an image can be a slice of a CT: no localizer, no secondary capture, no colour."""
    return not why_no_slice(header)


def why_no_slice(header: Header) -> str:
    """Why an image of a series is no slice of its volume; "" if it can be one."""
    dataset = header.dataset
    if header.text("SOPClassUID") not in ("", *CT_CLASSES):
        return "secondary captures or other objects"
    kind = [part.upper() for part in texts(dataset, "ImageType")]
    if "LOCALIZER" in kind:
        return "localizers"
    if (integer(dataset, "SamplesPerPixel") or 1) != 1:
        return "colour pictures"
    return ""


def _group(header: Header) -> tuple[str, ...]:
    """What files of one series share; some de-identifying tools empty the UIDs."""
    uid = header.text("SeriesInstanceUID")
    names = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "SeriesNumber", "SeriesDescription", "Modality")
    return (uid,) if uid else ("", *(header.text(name) for name in names))


def _series(headers: list[Header]) -> Series:
    slices = [one for one in headers if is_slice(one)]
    first = (slices or headers)[0]
    dataset = first.dataset
    return Series(
        uid=first.text("SeriesInstanceUID"),
        modality=first.text("Modality").upper(),
        description=first.text("SeriesDescription"),
        number=integer(dataset, "SeriesNumber"),
        frame_of_reference=first.text("FrameOfReferenceUID"),
        files=tuple(one.path for one in headers),
        slices=sum(max(1, integer(one.dataset, "NumberOfFrames") or 1) for one in _once(slices)),
        thickness=number(dataset, "SliceThickness") or 0.0,
        kernel=str(acquisition_of([dataset])["kernel"] or ""),
        rows=integer(dataset, "Rows") or 0,
        columns=integer(dataset, "Columns") or 0,
        headers=tuple(headers),
    )


def _once(headers: list[Header]) -> list[Header]:
    """Those headers without a second copy of an image."""
    return list({one.text("SOPInstanceUID") or str(one.path): one for one in headers}.values())


def _listing(series: Iterable[Series], found: Found) -> str:
    """The series by their numbers in the whole heap, without a name or UID."""
    numbers = {id(one): k for k, one in enumerate(found.series, 1)}
    lines = [f"series {numbers[id(one)]} of {len(numbers)}: {one.summary()}" for one in series]
    more = len(lines) - _LISTED
    return "; ".join(lines[:_LISTED]) + (f"; and {more} more" if more > 0 else "") if lines else "no series at all"


def _unreadable(error: OSError) -> Exception:
    if isinstance(error, PermissionError):
        return CaseError("a DICOM file may not be read", "Give its permission to the user of the run.")
    return OSError(error.errno, f"reading a DICOM file: {error.strerror}")
