"""What a tree of DICOM files holds, by headers alone: CT series that could be cases, and what was drawn on them."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from radloom.dicom import rtstruct, seg
from radloom.dicom.acquisition import acquisition_of
from radloom.dicom.ct import CtSettings, check_headers
from radloom.dicom.files import items, quiet, text
from radloom.dicom.masks import Part
from radloom.dicom.series import Series, find_series, why_no_slice
from radloom.errors import CaseError
from radloom.source_names import list_folder, suffix

COLUMNS = ("manufacturer", "scanner_model", "kernel", "slice_thickness")
_FILES_AT_ONCE = 1000
_HEADERS_ASKED = 3  # of a series, for what all of its slices say alike
# What (0008,0060) is printed of; whatever else stands there may be free text.
_MODALITIES = (
    *("AU", "CR", "DOC", "DX", "ECG", "IO", "KO", "MG", "MR", "NM", "OT", "PR", "PT", "REG", "RF", "RTDOSE", "RTIMAGE"),
    *("RTPLAN", "RTRECORD", "RWV", "SC", "SM", "SR", "US", "XA"),
)


@dataclass(frozen=True)
class Scan:
    """A CT series. Everything but `slices`, `acquisition` and `problem` is the patient's own and stays inside.

    `acquisition` has the `COLUMNS`; `problem` says why the series can't be a case, "" if it can by its headers.
    """

    uid: str
    patient_id: str
    birth_date: str
    study_uid: str
    study_date: str
    number: int
    institution: str
    frame_of_reference: str
    files: tuple[str, ...]
    sop_uids: tuple[str, ...]
    slices: int
    acquisition: dict[str, str]
    problem: str


@dataclass(frozen=True)
class Drawing:
    """An RTSTRUCT or a SEG (`kind`): its file, the series and frames of reference that it names, and its parts."""

    kind: str
    file: str
    sop_uid: str
    series: frozenset[str]
    frames: frozenset[str]
    parts: tuple[Part, ...]
    problem: str


@dataclass
class Tree:
    """All that was found: series and drawings, what was passed over by reason, folders with damaged DICOM."""

    files: int = 0
    seconds: float = 0.0
    scans: list[Scan] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)
    passed_over: Counter[str] = field(default_factory=Counter)
    damaged: set[str] = field(default_factory=set)

    def add(self, other: Tree) -> None:
        """Take in what was found elsewhere."""
        self.scans += other.scans
        self.drawings += other.drawings
        self.passed_over += other.passed_over
        self.damaged |= other.damaged


def read_tree(
    root: Path, settings: CtSettings, workers: int = 2, progress: Callable[[int, int], None] | None = None
) -> Tree:
    """Read the headers of all files below `root`, whatever their names, in several processes.

    `settings` say which series ingest will take; `progress` is told how many of how many files were read. Symbolic
    links are not followed. Raises OSError where the folder can't be listed.
    """
    started = time.monotonic()
    listed = [str(file) for file in list_folder(root).files]
    tree = Tree(files=len(listed))
    groups: dict[str, list[str]] = {}
    for file in listed:
        if suffix(file):
            tree.passed_over["files that are volumes or archives by their names: not looked into"] += 1
        else:
            groups.setdefault(os.path.dirname(file), []).append(file)
    pieces = [
        files[start : start + _FILES_AT_ONCE]
        for files in groups.values()
        for start in range(0, len(files), _FILES_AT_ONCE)
    ]
    done = 0
    with ProcessPoolExecutor(max_workers=max(workers, 1)) as pool:
        for part, count in pool.map(_look, _batches(pieces), [settings] * len(pieces)):
            tree.add(part)
            done += count
            if progress is not None:
                progress(done, len(listed))
        # A series that lies in several folders is one series: its slices are laid out together.
        by_uid: dict[str, list[Scan]] = {}
        for scan in tree.scans:
            by_uid.setdefault(scan.uid or scan.files[0], []).append(scan)
        tree.scans = [scans[0] for scans in by_uid.values() if len(scans) == 1]
        spread = [
            [file for scan in scans for file in _one_copy(scans, scan)] for scans in by_uid.values() if len(scans) > 1
        ]
        copies = sum(len(scan.files) for scans in by_uid.values() if len(scans) > 1 for scan in scans) - sum(
            map(len, spread)
        )
        if copies:
            tree.passed_over["files of a second copy of a series"] += copies
        for part, _ in pool.map(_look, [[files] for files in spread], [settings] * len(spread), chunksize=4):
            tree.scans += part.scans
    tree.scans.sort(key=lambda scan: (scan.study_date, scan.number, scan.uid))
    tree.drawings = _once(tree.drawings, tree.passed_over)
    tree.seconds = time.monotonic() - started
    return tree


def _batches(pieces: Sequence[list[str]]) -> Iterable[list[list[str]]]:
    """Pieces of folders put together to as many files as are worth a call."""
    batch: list[list[str]] = []
    for piece in pieces:
        batch.append(piece)
        if sum(map(len, batch)) >= _FILES_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch


def _look(folders: Sequence[list[str]], settings: CtSettings) -> tuple[Tree, int]:
    """What lies in pieces of folders, each looked at by itself, and how many files these are."""
    tree = Tree()
    for files in folders:
        readable, unreadable = _readable(files)
        if unreadable:
            tree.passed_over["files that can't be read"] += unreadable
        found = find_series(readable)
        tree.passed_over.update(found.ignored)
        if found.ignored.get("damaged DICOM"):
            tree.damaged.add(os.path.dirname(files[0]))
        with quiet():
            for series in found.series:
                _sort_in(series, settings, tree)
    return tree, sum(map(len, folders))


def _readable(files: Sequence[str]) -> tuple[list[Path], int]:
    readable = []
    for file in files:
        try:
            with open(file, "rb") as opened:
                opened.read(1)
            readable.append(Path(file))
        except OSError:
            pass
    return readable, len(files) - len(readable)


def _sort_in(series: Series, settings: CtSettings, tree: Tree) -> None:
    if series.modality in ("RTSTRUCT", "SEG"):
        tree.drawings += [_drawing(series, file) for file in series.files]
    elif series.modality != "CT":
        shown = series.modality if series.modality in _MODALITIES else "other"
        tree.passed_over[f"files of other modalities: {shown}"] += len(series.files)
    else:
        tree.scans.append(_scan(series, settings))


def _scan(series: Series, settings: CtSettings) -> Scan:
    slices = [header for header in series.headers if not why_no_slice(header)]
    kept = slices or list(series.headers)
    first = kept[0]
    problem = ""
    if not slices:
        problem = "only " + " and ".join(sorted({why_no_slice(header) for header in series.headers}))
    else:
        try:
            check_headers(series, settings)
        except CaseError as error:
            problem = error.reason
    asked = [header.dataset for header in kept[:: max(1, len(kept) // _HEADERS_ASKED)]]
    found = acquisition_of(asked)
    return Scan(
        uid=series.uid,
        patient_id=first.text("PatientID"),
        birth_date=first.text("PatientBirthDate"),
        study_uid=first.text("StudyInstanceUID"),
        study_date=first.text("StudyDate"),
        number=series.number or 0,
        institution=first.text("InstitutionName"),
        frame_of_reference=series.frame_of_reference,
        files=tuple(map(str, series.files)),
        sop_uids=tuple(header.text("SOPInstanceUID") for header in series.headers),
        slices=series.slices,
        acquisition={column: _cell(found[column]) for column in COLUMNS},
        problem=problem,
    )


def _cell(value: object) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float | int) else str(value)


def _drawing(series: Series, path: Path) -> Drawing:
    names: set[str] = set()
    frames = {series.frame_of_reference}
    parts: tuple[Part, ...] = ()
    problem = ""
    sop_uid = ""
    try:
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        sop_uid = text(dataset, "SOPInstanceUID")
        if series.modality == "RTSTRUCT":
            parts = tuple(rtstruct.rtstruct_parts(dataset))
            for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
                frames.add(text(frame, "FrameOfReferenceUID"))
                names |= {text(one, "SeriesInstanceUID") for one in _referenced_series(frame)}
            frames |= {text(roi, "ReferencedFrameOfReferenceUID") for roi in items(dataset, "StructureSetROISequence")}
        else:
            parts = tuple(seg.seg_parts(dataset))
            names = {text(one, "SeriesInstanceUID") for one in items(dataset, "ReferencedSeriesSequence")}
        problem = "" if any(part.content for part in parts) else "nothing is drawn in it"
    except CaseError as error:
        problem = error.reason
    except MemoryError:
        raise
    except Exception:  # whatever pydicom stumbles over, and the message has the patient's values in it
        problem = "it can't be read"
    return Drawing(
        series.modality, str(path), sop_uid, frozenset(names - {""}), frozenset(frames - {""}), parts, problem
    )


def _referenced_series(frame: Dataset) -> Iterable[Dataset]:
    for study in items(frame, "RTReferencedStudySequence"):
        yield from items(study, "RTReferencedSeriesSequence")


def _one_copy(scans: Sequence[Scan], scan: Scan) -> tuple[str, ...]:
    """The files of one folder of a series that lies in several: none where another folder has all of its images."""
    images = {uid for one in scans for uid in one.sop_uids}
    complete = [one for one in scans if set(one.sop_uids) == images]
    if complete and len(images) > 1:
        return scan.files if scan is min(complete, key=lambda one: (len(one.files), one.files)) else ()
    return scan.files


def _once(drawings: Sequence[Drawing], passed_over: Counter[str]) -> list[Drawing]:
    """The drawings by file, those with one SOP instance UID once."""
    kept: dict[str, Drawing] = {}
    for drawing in sorted(drawings, key=lambda one: one.file):
        if drawing.sop_uid and drawing.sop_uid in kept:
            passed_over["files of a second copy of an RTSTRUCT or SEG"] += 1
        else:
            kept[drawing.sop_uid or drawing.file] = drawing
    return list(kept.values())
