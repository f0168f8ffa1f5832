"""What contours (RTSTRUCT) and segmentations (SEG) share: reading the file, choosing in it, belonging to the image.

The names of ROIs and segments are free text in which patients' names have been found, so no message shows one, nor what
the user asked for: a file's ROIs go by their numbers, as "#3", and can be asked for so.
"""

from __future__ import annotations

import fnmatch
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

from radloom.dicom.files import quiet, text
from radloom.errors import CaseError
from radloom.images import Volume

UNION = "union:"
_MOST_LISTED = 20
_HOW = "by its name, a shell pattern of it in any case, or its number as #1"


class NoSuchPart(CaseError):
    """No ROI or segment is what was asked for."""


@dataclass(frozen=True)
class MaskFound:
    """A mask on the image's grid (uint8, 1 inside), small facts for the record, and warnings."""

    volume: Volume
    facts: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """An ROI or a segment of a file: its number and name there, and in words how much of it there is ("" is none)."""

    number: int
    name: str
    content: str


def read_object(path: Path, classes: Sequence[str], what: str) -> Dataset:
    """Read a whole DICOM file of one of the SOP classes `classes`; `what` names it in messages.

    Raises CaseError where it is no DICOM, of another class, or cut short; OSError where it can't be opened.
    """
    damaged = CaseError(f"the {what} can't be read: truncated or damaged", "Copy or export the file again.")
    # From memory, where an element that claims four gigabytes gets what is there, and no memory for the rest.
    with io.BytesIO(path.read_bytes()) as file, quiet():
        if not file.getbuffer().nbytes:
            raise damaged
        try:
            dataset = pydicom.dcmread(file, force=True)
            whole = all(_complete(dataset.get_item(tag)) for tag in dataset.keys())  # noqa: SIM118
            found = text(dataset, "SOPClassUID")
        except MemoryError:
            raise
        except Exception:  # whatever pydicom stumbles over, and the message has the patient's values in it
            raise damaged from None
    if found not in classes:
        raise CaseError(
            f"the mask is DICOM, but no {what}" if found else f"the mask is no {what}",
            "Name an RTSTRUCT or a SEG of the image in the cohort sheet.",
        )
    if not whole:
        raise damaged
    return dataset


def choose_parts(parts: Sequence[Part], wanted: str | None, kind: str) -> list[Part]:
    """The ROIs or segments (`kind`) that were asked for: one, or with `union:` before a pattern all that match.

    The exact name wins, then the name in any case, then a shell pattern in any case, then a number (`#3`, or `3` where
    nothing has that name). One without content is chosen only if nothing with content matches. Without `wanted` it is
    the only one with content. Raises CaseError unless exactly one, or with `union:` at least one, is found.
    """
    if not parts:
        raise CaseError(f"the mask has no {kind}", "Export it again.")
    union = wanted is not None and wanted.casefold().startswith(UNION)
    pattern = None if wanted is None else wanted[len(UNION) :].strip() if union else wanted.strip()
    found = [part for part in parts if part.content] or list(parts) if pattern is None else _matching(parts, pattern)
    several = f"the mask has {len(parts)} {kind}s{_listed(parts)}"
    if not found:
        raise NoSuchPart(
            f"{several}, and none is what mask_roi asks for",
            f"Correct mask_roi in the cohort sheet: name the {kind} {_HOW}.",
        )
    found = [part for part in found if part.content] or found
    if len(found) > 1 and not union:
        asked = (
            "mask_roi doesn't say which" if pattern is None else f"mask_roi fits {len(found)} of them{_listed(found)}"
        )
        raise CaseError(
            f"{several}, and {asked}",
            f"Name one in mask_roi of the cohort sheet {_HOW}, or join several by {UNION}PATTERN.",
        )
    empty = [part for part in found if not part.content]
    if len(empty) == len(found):
        raise CaseError(
            f"the {kind} {' and '.join(f'#{part.number}' for part in empty)} of the mask is empty",
            "Draw it, or take the case out.",
        )
    return found


def check_frame_of_reference(mask: str | None, image: str | None, kind: str, named: bool) -> list[str]:
    """Warnings, where the mask's or the image's frame of reference isn't known; raises CaseError where they differ.

    Positions of two frames of reference can't be compared (DICOM PS3.3, C.7.4.1). `named` tells that the mask names
    slices of the image.
    """
    if mask and image:
        if mask != image:
            raise CaseError(
                f"the {kind} has another frame of reference than the image: it belongs to another series or patient",
                "Send the mask that was drawn on this series, or one registered to it.",
            )
        return []
    told = "the slices that the mask names" if named else "position only"
    return [f"the {'image' if mask else kind} names no frame of reference: that they belong together is told by {told}"]


def check_references(drawn: Sequence[tuple[str, float, float]], sop_uids: Sequence[str], kind: str) -> list[str]:
    """Warnings where contours or frames (`kind`) weren't drawn on the image's slices.

    `drawn` has of each the SOP instance that it names, and its lowest and highest z on the image's grid; `sop_uids` are
    the image's, one a slice in the order of z. Raises CaseError where most lie elsewhere than the slices they name.
    """
    places = {uid: z for z, uid in enumerate(sop_uids) if uid}
    if not places or not drawn:
        return []
    known = [(uid, low - places[uid], high - places[uid]) for uid, low, high in drawn if uid in places]
    if not known:
        return [f"the {kind} were drawn on another series of the same frame of reference"]
    warnings = []
    if len(known) < len(drawn):
        missing = len(drawn) - len(known)
        warnings.append(f"{missing} of {len(drawn)} {kind} were drawn on slices that the image doesn't have")
    away = sum(low > 1 or high < -1 for _, low, high in known)
    # One and the same slice for all is what some programs write that don't know better.
    if away > len(known) / 2 and len({uid for uid, _, _ in known}) > 1:
        raise CaseError(
            f"{away} of {len(known)} {kind} lie more than a slice from the slice that they were drawn on",
            "The image or the mask was moved after drawing: export both again from one system.",
        )
    if away:
        warnings.append(f"{away} {kind} lie more than a slice from the slice that they name; their position counts")
    return warnings


def _matching(parts: Sequence[Part], pattern: str) -> list[Part]:
    folded = pattern.casefold()
    tests = (
        lambda part: part.name.strip() == pattern,
        lambda part: part.name.strip().casefold() == folded,
        lambda part: fnmatch.fnmatchcase(part.name.strip().casefold(), folded),
        lambda part: str(part.number) == folded.removeprefix("#").strip(),
    )
    for test in tests:
        found = [part for part in parts if test(part)]
        if found:
            return found
    return []


def _listed(parts: Sequence[Part]) -> str:
    shown = [f"#{part.number}: {part.content or 'empty'}" for part in parts[:_MOST_LISTED]]
    more = [f"and {len(parts) - _MOST_LISTED} more"] if len(parts) > _MOST_LISTED else []
    return f" ({', '.join(shown + more)})"


def _complete(element: Any) -> bool:
    """Whether an element has all of its bytes: pydicom hands out what a file that was cut short still has."""
    if not isinstance(element, RawDataElement) or element.length == 0xFFFFFFFF:
        return True
    return len(element.value or b"") == element.length
