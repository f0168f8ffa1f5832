"""Matching of the point spread: the Gaussian that takes a scan's own resolution to one that all scans share.

Blur lowers GLCM contrast and raises energy and homogeneity, so scans of a sharp and of a soft kernel differ in their
textures whatever they show. Sharp scans can be blurred like the soft ones; the other way round would only raise noise.
With point spreads taken as Gaussians their variances add up, so sigma^2 = (target^2 - own^2) / (8 ln 2), where target
and own are full widths at half maximum in mm. docs/resolution.md shows what it does to a phantom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from radloom.axis_matrices import FWHM
from radloom.cohort import is_missing
from radloom.errors import CaseError
from radloom.images import Vector

# A point spread or a slice that is wider is a mistake in the sheet, and so is one that is narrower.
_SANE_MM = (0.1, 20.0)
# An own width that exceeds the target by no more than this part of it counts as the target.
_ROUNDING = 0.01


def matching_gaussian(
    row: Mapping[str, str], settings: Mapping[str, Any], spacing_z: float
) -> tuple[Vector, dict[str, float], list[str]]:
    """Standard deviations in mm (x, y, z) of the Gaussian for one scan, facts and warnings; zeros where none is asked.

    `row` are cells of the cohort sheet, `settings` the section `resample.match`, `spacing_z` the distance of slices in
    mm, which stands for their thickness where no column is named. Raises CaseError where the scan's own width isn't
    known, makes no sense, or, with `blurrier: exclude`, exceeds the target.
    """
    sigma_xy = sigma_z = 0.0
    facts: dict[str, float] = {}
    warnings: list[str] = []
    if settings["fwhm_mm"] is not None:
        facts["psf_fwhm_mm"] = own = own_fwhm(row, settings)
        sigma_xy, found = _sigma(own, settings["fwhm_mm"], "point spread", settings["blurrier"])
        warnings += found
    if settings["thickness_mm"] is not None:
        column = settings["thickness_column"]
        own = spacing_z if column is None else _number(row, column)
        facts["slice_thickness_mm"] = own
        sigma_z, found = _sigma(own, settings["thickness_mm"], "slice thickness", settings["blurrier"])
        warnings += found
    if facts:
        facts |= {"matched_sigma_xy_mm": sigma_xy, "matched_sigma_z_mm": sigma_z}
    return (sigma_xy, sigma_xy, sigma_z), facts, warnings


def matched_widths(settings: Mapping[str, Any]) -> Vector:
    """The full widths in mm (x, y, z) that scans are matched to; 0 where they are not."""
    in_plane, along = (float(settings[key] or 0) for key in ("fwhm_mm", "thickness_mm"))
    return in_plane, in_plane, along


def own_fwhm(row: Mapping[str, str], settings: Mapping[str, Any]) -> float:
    """The scan's own full width at half maximum in mm, of its cell or else of its kernel."""
    if not is_missing(row.get(settings["fwhm_column"], "")):
        return _number(row, settings["fwhm_column"])
    kernel = row.get(settings["kernel_column"], "").strip()
    if kernel in settings["kernels"]:
        return float(settings["kernels"][kernel])
    raise CaseError(
        "the scan's point spread is not known: the sheet has none, and none is given for its kernel",
        f"Fill in the column {settings['fwhm_column']}, or add the kernel to resample: match: kernels.",
    )


def _sigma(own: float, target: float, what: str, blurrier: str) -> tuple[float, list[str]]:
    if own > target * (1 + _ROUNDING):
        reason = f"its {what} of {own:g} mm is wider than the {target:g} mm that scans are matched to"
        if blurrier == "exclude":
            raise CaseError(reason, "Raise the target in resample: match, or set blurrier: warn to take it as it is.")
        return 0.0, [f"{reason}: left as it is"]
    return math.sqrt(max(target**2 - own**2, 0.0)) / FWHM, []


def _number(row: Mapping[str, str], column: str) -> float:
    """A width in mm of the sheet."""
    try:
        value = float(row.get(column, ""))
    except ValueError:
        raise CaseError(
            f"its {column} is not given, or no number", f"Write it in mm into the column {column}."
        ) from None
    if not _SANE_MM[0] <= value <= _SANE_MM[1]:  # NaN too
        raise CaseError(
            f"its {column} of {value:g} mm is not within {_SANE_MM[0]:g} to {_SANE_MM[1]:g}",
            f"Correct it in the column {column} of the cohort sheet; it is a full width in mm.",
        )
    return value
