"""A cohort sheet out of a tree of DICOM: a row for every CT series that could be a case, and why others are none.

The sheet holds pseudonyms and technical columns; beside them only paths and series UIDs, without which nothing could be
read, and which the workflow keeps to itself. What is printed has neither.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import secrets
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from radloom.cohort import NAME, is_missing
from radloom.dicom.masks import UNION, Part, choose_parts
from radloom.dicom.tree import COLUMNS, Drawing, Scan, Tree
from radloom.errors import CaseError, CohortError
from radloom.source_names import suffix

SHEET_COLUMNS = ("case_id", "patient_id", "centre", "image", "series", "mask", "mask_roi", *COLUMNS, "slices")
KEY_COLUMNS = ("kind", "pseudonym", "identifier", "birth_date")
LEFT_OUT_COLUMNS = ("reason", "file")
CHOICES = ("all", "most_slices", "thinnest")
UNKNOWN_CENTRE = "unknown"
_NUMBER = re.compile(r"\d[\d.]*")

Key = dict[tuple[str, str, str], str]
"""Pseudonyms by kind (patient, centre, case), identifier (patient id, institution, series UID) and birth date."""


@dataclass
class Proposal:
    """Rows of the sheet, the key of their pseudonyms, and what was left out: counts by reason, and (reason, file)."""

    rows: list[dict[str, str]] = field(default_factory=list)
    key: Key = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, what: str, reason: str, file: str) -> None:
        """Count a series or a drawing as left out; numbers in the reason are for `left_out` only."""
        self.counts[f"{what}: {_NUMBER.sub('N', reason)}"] += 1
        self.left_out.append((f"{what}: {reason}", file))


def propose(
    tree: Tree,
    root: Path,
    sheet: Path,
    *,
    centre: str = "institution",
    roi: str | None = None,
    choose: str = "all",
    min_slices: int = 10,
    key: Mapping[tuple[str, str, str], str] | None = None,
) -> Proposal:
    """Propose the rows of a cohort sheet that will lie at `sheet`.

    `centre` is "institution", "folder" (the first one below `root`) or the name of the only one; `roi` the ROI or
    segment that is meant where a drawing has several (`choose_parts`); `choose` which of a patient's series are taken;
    `key` the pseudonyms of an earlier proposal, which stay. Raises CohortError for settings that can't be.
    """
    if choose not in CHOICES:
        raise CohortError(f"series are chosen by {', '.join(CHOICES)}")
    if centre not in ("institution", "folder") and (not NAME.fullmatch(centre) or is_missing(centre)):
        raise CohortError("a centre's name is a letter or digit and up to 63 more letters, digits, '.', '_' or '-'")
    found = Proposal(key=dict(key or {}))
    places = _Places(tree, sheet)
    scans = _patients(_usable(tree, places, min_slices, found), found)
    scans = _chosen(scans, choose, found)
    masks = _masks(scans, tree, roi, found)
    _name(found.key, "patient", {_patient(scan) for scan in scans}, "P{:04d}")
    if centre in ("institution", "folder"):
        centres = {_centre(scan, root, centre) for scan in scans} - {UNKNOWN_CENTRE}
        _name(found.key, "centre", {(one, "") for one in centres}, "C{:02d}")
    several = Counter(map(_patient, scans))
    taken = {name for (kind, _, _), name in found.key.items() if kind == "case"}
    for scan in sorted(scans, key=lambda scan: found.key["patient", *_patient(scan)]):
        pseudonym = found.key["patient", *_patient(scan)]
        place = places.of(scan)
        drawing, wanted = masks.get(scan.files[0], (None, ""))
        own_centre = _centre(scan, root, centre)
        found.rows.append(
            {
                "case_id": _case(found.key, scan, pseudonym, several[_patient(scan)] > 1, taken),
                "patient_id": pseudonym,
                "centre": found.key.get(("centre", own_centre, ""), own_centre),
                "image": place.image,
                "series": place.series,
                "mask": "" if drawing is None else places.cell(drawing.file) or "",
                "mask_roi": wanted,
                **scan.acquisition,
                "slices": str(scan.slices),
            }
        )
    _note(found, scans, several, centre)
    return found


def sheet_text(rows: Iterable[Mapping[str, str]], columns: Sequence[str]) -> str:
    """A table as tab-separated text."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, delimiter="\t", lineterminator="\n", extrasaction="raise")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def key_text(key: Key) -> str:
    """The key of pseudonyms as a table."""
    rows = [dict(zip(KEY_COLUMNS, (kind, name, who, born), strict=True)) for (kind, who, born), name in key.items()]
    return sheet_text(sorted(rows, key=lambda row: (row["kind"], row["pseudonym"])), KEY_COLUMNS)


def read_key(path: Path) -> Key:
    """Read a key that was written before. Raises CohortError where it is none."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", strict=True))
        if tuple(rows[0]) != KEY_COLUMNS or any(len(row) != len(KEY_COLUMNS) for row in rows):
            raise ValueError
    except (UnicodeDecodeError, csv.Error, ValueError, IndexError):
        raise CohortError("the key file is none that this script wrote: name another one") from None
    return {(kind, who, born): name for kind, name, who, born in rows[1:]}


def write_private(path: Path, content: str) -> None:
    """Write a file that nobody but its owner may read, or leave the old one."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Place:
    """The cells that name a series: the folder it lies in, and its UID where others lie there."""

    image: str
    series: str
    problem: str
    files_beside: int


class _Places:
    """Where series lie among the others."""

    def __init__(self, tree: Tree, sheet: Path) -> None:
        self._from = os.path.realpath(sheet.parent)
        self._damaged = sorted(tree.damaged)
        here: dict[str, set[str]] = {}
        self._counts: Counter[str] = Counter()
        for scan in tree.scans:
            for folder in set(map(os.path.dirname, scan.files)):
                here.setdefault(folder, set()).add(scan.uid or scan.files[0])
            self._counts.update(map(os.path.dirname, scan.files))
        self._folders = sorted(here)
        self._here = here

    def of(self, scan: Scan) -> _Place:
        """Where a series lies, and why a cell can't name it."""
        folder = os.path.commonpath(list(map(os.path.dirname, scan.files)))
        below = self._below(folder, self._folders)
        others = set().union(*(self._here[one] for one in below)) - {scan.uid or scan.files[0]}
        beside = sum(self._counts[one] for one in below) - len(scan.files)
        image = self.cell(folder)
        problem = ""
        if image is None:
            problem = "the name of its folder can't stand in a sheet: line breaks, or spaces at an end"
        elif suffix(folder):
            problem = "its folder has the name of a volume or an archive"
        elif others and not scan.uid:
            problem = "it has no series UID, and other series lie in its folder"
        elif self._below(folder, self._damaged):
            problem = "damaged DICOM files lie in its folder, and may be slices of it"
        return _Place(image or "", scan.uid if others else "", problem, beside)

    def cell(self, path: str) -> str | None:
        """A path as a cell of the sheet: relative to the sheet's folder; None where it can't stand there."""
        cell = os.path.relpath(os.path.realpath(path), self._from)
        # As the sheet's reader takes a cell: one line, no spaces around it, UTF-8.
        try:
            cell.encode("utf-8")
        except UnicodeEncodeError:
            return None
        return cell if cell == cell.strip() and len(cell.splitlines()) == 1 and "\t" not in cell else None

    @staticmethod
    def _below(folder: str, folders: Sequence[str]) -> list[str]:
        """Which of the sorted folders are `folder` or lie in it."""
        at = bisect_left(folders, folder)
        found = [folder] if at < len(folders) and folders[at] == folder else []
        inner = folder.rstrip(os.sep) + os.sep
        start = bisect_left(folders, inner)
        while start < len(folders) and folders[start].startswith(inner):
            found.append(folders[start])
            start += 1
        return found


def _usable(tree: Tree, places: _Places, min_slices: int, found: Proposal) -> list[Scan]:
    """The series that could be cases."""
    without_uid = Counter(os.path.dirname(scan.files[0]) for scan in tree.scans if not scan.uid)
    usable = []
    large = 0
    for scan in tree.scans:
        place = places.of(scan)
        # Damaged files first: they may be the slices that a series lacks.
        problem = place.problem or scan.problem
        if not problem and scan.slices < min_slices:
            problem = f"it has fewer than the {min_slices} slices that were asked for"
        if not problem and not scan.uid and without_uid[os.path.dirname(scan.files[0])] > 1:
            problem = "it has no series UID, and other series lie in its folder"
        if problem:
            found.leave_out("CT series", problem, scan.files[0])
            continue
        large += place.files_beside > 4 * len(scan.files)
        usable.append(scan)
    if large:
        found.notes.append(
            f"{large} series lie among more than four times as many files of others: ingest reads all of their headers"
        )
    return usable


def _patients(scans: Sequence[Scan], found: Proposal) -> list[Scan]:
    """The scans with a patient id and a birth date that tell patients apart.

    A patient is who has the patient id; with two birth dates to one id these are two people. Without an id it is the
    study that tells.
    """
    born: dict[str, set[str]] = {}
    for scan in scans:
        born.setdefault(scan.patient_id, set()).add(scan.birth_date)
    shared = sum(len(dates - {""}) > 1 for who, dates in born.items() if who)
    nobody = sum(not scan.patient_id for scan in scans)
    if shared:
        found.notes.append(f"{shared} patient ids are used with several birth dates: taken for several patients")
    if nobody:
        found.notes.append(f"{nobody} series have no patient id: each study was taken for a patient of its own")
    out = []
    for scan in scans:
        who = scan.patient_id or f"study {scan.study_uid or scan.files[0]}"
        date = scan.birth_date if scan.patient_id and len(born[scan.patient_id] - {""}) > 1 else ""
        out.append(replace(scan, patient_id=who, birth_date=date))
    return out


def _patient(scan: Scan) -> tuple[str, str]:
    return scan.patient_id, scan.birth_date


def _chosen(scans: Sequence[Scan], choose: str, found: Proposal) -> list[Scan]:
    if choose == "all":
        return list(scans)
    best: dict[tuple[str, str], Scan] = {}

    def rank(scan: Scan) -> tuple[float, ...]:
        thick = float(scan.acquisition["slice_thickness"] or "inf")
        return (-scan.slices,) if choose == "most_slices" else (thick, -scan.slices)

    for scan in scans:
        first = best.setdefault(_patient(scan), scan)
        if rank(scan) < rank(first):
            best[_patient(scan)] = scan
    for scan in scans:
        if best[_patient(scan)] is not scan:
            found.leave_out("CT series", f"another one of the patient was chosen ({choose})", scan.files[0])
    return [scan for scan in scans if best[_patient(scan)] is scan]


def _masks(scans: Sequence[Scan], tree: Tree, roi: str | None, found: Proposal) -> dict[str, tuple[Drawing, str]]:
    """The drawing and its `mask_roi` by the first file of the scan that they belong to."""
    by_uid = {scan.uid: scan for scan in scans if scan.uid}
    all_uids = {scan.uid for scan in tree.scans if scan.uid}
    frames: dict[str, list[Scan]] = {}
    for scan in scans:
        frames.setdefault(scan.frame_of_reference, []).append(scan)
    fitting: dict[str, list[tuple[Drawing, str]]] = {}
    for drawing in tree.drawings:
        owners = [by_uid[uid] for uid in drawing.series if uid in by_uid]
        if not owners and not drawing.series & all_uids:
            owners = [scan for frame in drawing.frames for scan in frames.get(frame, ())]
        problem = drawing.problem
        if not problem and not owners:
            left = " is left out" if drawing.series & all_uids else " is not here, by series UID and frame of reference"
            problem = f"the series that it was drawn on{left}"
        if not problem and len(owners) > 1:
            problem = "it fits several series"
        if not problem and drawing.frames and owners[0].frame_of_reference not in drawing.frames:
            problem = "it names a series, but has another frame of reference"
        wanted = ""
        if not problem:
            wanted, problem = _wanted(drawing.parts, roi)
        if problem:
            found.leave_out(drawing.kind, problem, drawing.file)
        else:
            fitting.setdefault(owners[0].files[0], []).append((drawing, wanted))
    masks = {}
    for first, choices in fitting.items():
        # A SEG is on voxels already.
        best = [one for one in choices if one[0].kind == "SEG"] or choices
        for drawing, _ in choices:
            if len(best) > 1:
                found.leave_out(drawing.kind, "several fit the series: name one in the column mask", drawing.file)
            elif drawing is not best[0][0]:
                found.leave_out(drawing.kind, "there is a SEG of the series as well", drawing.file)
        if len(best) == 1:
            masks[first] = best[0]
    return masks


def _wanted(parts: Sequence[Part], roi: str | None) -> tuple[str, str]:
    """The cell `mask_roi` for a drawing's parts, or why none can be chosen."""
    full = [part for part in parts if part.content]
    if roi is None:
        return ("", "") if len(full) == 1 else ("", "it has several ROIs or segments: ask for one by --roi")
    try:
        chosen = choose_parts(parts, roi, "ROI")
    except CaseError:
        return "", "none of its ROIs or segments, or several, are what --roi asks for"
    if roi.casefold().startswith(UNION):
        return roi, ""
    return "" if len(full) == 1 else f"#{chosen[0].number}", ""


def _centre(scan: Scan, root: Path, centre: str) -> str:
    if centre == "institution":
        return " ".join(re.findall(r"\w+", scan.institution.casefold())) or UNKNOWN_CENTRE
    if centre == "folder":
        parts = Path(os.path.relpath(scan.files[0], root)).parts
        return parts[0] if len(parts) > 1 else UNKNOWN_CENTRE
    return centre


def _name(key: Key, kind: str, people: set[tuple[str, str]], pattern: str) -> None:
    """Give pseudonyms to those that the key doesn't know yet: the numbers that are free, in an order of chance.

    In order of the identifiers, or of their hashes, the numbers would tell who is who to anybody with a list of them.
    """
    taken = {name for (other, _, _), name in key.items() if other == kind}
    numbers = (name for name in map(pattern.format, itertools.count(1)) if name not in taken)
    fresh = sorted(one for one in people if (kind, *one) not in key)
    secrets.SystemRandom().shuffle(fresh)
    for one, name in zip(fresh, numbers, strict=False):
        key[kind, *one] = name


def _case(key: Key, scan: Scan, patient: str, several: bool, taken: set[str]) -> str:
    """A case's name: the patient's, with a number where the patient has several series; one in the key stays."""
    who = ("case", scan.uid or scan.files[0], "")
    if who not in key:
        numbered = (f"{patient}-{number}" for number in itertools.count(1))
        names = numbered if several else itertools.chain([patient], numbered)
        key[who] = next(name for name in names if name not in taken)
        taken.add(key[who])
    return key[who]


def _note(found: Proposal, scans: Sequence[Scan], several: Counter[tuple[str, str]], centre: str) -> None:
    many = sum(count > 1 for count in several.values())
    if many:
        found.notes.append(
            f"{many} patients have several series, a row each: keep one by --choose, or mark repeats by repeat_id"
        )
    if centre != "institution":
        return
    unknown = sum(not scan.institution.strip() for scan in scans)
    if unknown:
        found.notes.append(f"{unknown} series name no institution: their centre is {UNKNOWN_CENTRE}; see --centre")
