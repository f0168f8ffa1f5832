"""One case's DICOM: its CT series and the mask that was drawn on it, out of the files that the sheet's cells name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from radloom.dicom.acquisition import scan_day
from radloom.dicom.ct import CtSeries, CtSettings, read_ct
from radloom.dicom.masks import MaskFound, NoSuchPart
from radloom.dicom.series import Found, Series, choose_series, find_series
from radloom.errors import CaseError
from radloom.salt import hashed
from radloom.source_cells import Selection

_STRUCTURES, _SEGMENTATION = "RTSTRUCT", "SEG"


@dataclass(frozen=True)
class DicomImage:
    """A CT series that was read: its voxels and facts, and the files among which it was found."""

    ct: CtSeries
    files: tuple[Path, ...]
    found: Found
    facts: dict[str, Any]
    warnings: list[str]


def read_image(files: tuple[Path, ...], selection: Selection, settings: Mapping[str, Any]) -> DicomImage:
    """Find the series in the files, choose the one that is meant, and read it.

    `settings` are those of the section `ingest`. UIDs reach the facts hashed by the project's salt, or not at all.
    Raises CaseError.
    """
    found = find_series(files)
    series = choose_series(found, selection.series, settings.get("series_rule", "only"))
    known = {field.name for field in fields(CtSettings)}
    ct = read_ct(series, CtSettings(**{key: value for key, value in settings.items() if key in known}))
    acquisition = dict(ct.acquisition)
    facts: dict[str, Any] = {
        "format": "dicom",
        "dtype": ct.volume.array.dtype.name,
        "series_found": len(found.series),
        "acquisition": acquisition,
        **ct.facts,
    }
    if found.ignored:
        facts["files_passed_over"] = dict(found.ignored)
    if selection.salt:
        headers = [header.dataset for header in series.headers]
        acquisition["shifted_day"] = scan_day(headers, selection.salt, selection.patient_id)
        facts["series"] = hashed(selection.salt, series.uid)
        # By it the quality gate finds a patient whom two centres sent under different names.
        if patient := series.headers[0].text("PatientID"):
            facts["patient_hash"] = hashed(selection.salt, f"patient id {patient.casefold()}")
        if ct.frame_of_reference:
            facts["frame_of_reference"] = hashed(selection.salt, ct.frame_of_reference)
    return DicomImage(ct, files, found, facts, list(ct.warnings))


def read_mask(files: tuple[Path, ...], image: DicomImage, selection: Selection) -> MaskFound:
    """Bring the ROI of an RTSTRUCT, or the segment of a SEG, among the files to the image's grid.

    It is the one that `mask_roi` names; without it, the one of the name `roi_name`, else the only one. Raises CaseError
    if there is not just one object of the image's frame of reference, or no such ROI.
    """
    series, path = _mask_object(image.found if files == image.files else find_series(files), image.ct)
    if selection.mask_roi or not selection.roi_name:
        return _convert(series, path, image.ct, selection.mask_roi or None)
    try:
        return _convert(series, path, image.ct, selection.roi_name)
    except NoSuchPart:
        # A name of the tables' own, which the person who drew didn't know.
        return _convert(series, path, image.ct, None)


def _mask_object(found: Found, ct: CtSeries) -> tuple[Series, Path]:
    objects = [
        (one, path) for one in found.series if one.modality in (_STRUCTURES, _SEGMENTATION) for path in one.files
    ]
    if not objects:
        raise CaseError(
            "there is neither an RTSTRUCT nor a SEG in what the mask names",
            "Name the file, or the folder or archive that holds it.",
        )
    own = _of_frame(objects, ct.frame_of_reference)
    if len(own) > 1:
        counts = [sum(one.modality == kind for one, _ in own) for kind in (_STRUCTURES, _SEGMENTATION)]
        raise CaseError(
            f"there are several masks to choose from ({counts[0]} RTSTRUCT, {counts[1]} SEG)",
            "Name the file that is meant in the cohort sheet.",
        )
    # One of another frame of reference is refused by who reads it, with the reason.
    return own[0] if own else objects[0]


def _of_frame(objects: Sequence[tuple[Series, Path]], frame: str) -> list[tuple[Series, Path]]:
    """Those of the image's frame of reference, or that name none in their own header (an RTSTRUCT need not)."""
    if len(objects) == 1 or not frame:
        return list(objects)
    return [(one, path) for one, path in objects if one.frame_of_reference in ("", frame)]


def _convert(series: Series, path: Path, ct: CtSeries, wanted: str | None) -> MaskFound:
    if series.modality == _SEGMENTATION:
        from radloom.dicom.seg import seg_mask

        return seg_mask(path, wanted, ct.volume.geometry, ct.frame_of_reference, ct.sop_uids)
    from radloom.dicom.rtstruct import rtstruct_mask

    return rtstruct_mask(path, wanted, ct.volume.geometry, ct.frame_of_reference, ct.sop_uids)
