"""The report's section on the quality of the scans: figures by centre, and the cases that the rules found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from radloom import figures
from radloom.quality_figures import FIGURES
from radloom.quality_gate import STEP
from radloom.report_sections import MOST_ROWS, Material
from radloom.report_view import Block, Picture, Section, count, median_range, number, numbers, table, text

SCAN = (
    "slices",
    "slice_spacing_mm",
    "coverage_mm",
    "noise_global_sd",
    "noise_tissue_sd",
    "noise_air_sd",
    "hu_air",
    "hu_fat",
    "hu_muscle",
    "hu_blood",
    "streak_anisotropy",
    "streak_metal",
    "motion_jump_mm",
    "truncated_share",
)
ROI = ("roi_volume_ml", "roi_components", "roi_to_first_slice_mm", "roi_to_last_slice_mm", "roi_shift_gain")
COUNTED = ("roi_border_voxels", "roi_padding_voxels", "roi_metal_share", "roi_air_share", "roi_outside_body_share")
"""Figures of ROIs of which it counts how many cases have any."""
DRAWN = ("noise_global_sd", "hu_fat", "hu_muscle")


def scans_section(material: Material) -> Section:
    """What the step quality measured, by centre, and every case that a rule warned of or excluded."""
    title = "Quality of the scans"
    rows = material.qc[material.qc["step"] == STEP]
    measured = rows[rows["item"] != "warning"].assign(number=lambda part: numbers(part["value"]))
    if measured.empty:
        told = "Nothing was measured in the scans: the features were extracted elsewhere, or the step was not run."
        return Section("scans", title, [text(told)])
    centres = list(dict.fromkeys(measured["centre"]))
    blocks = [
        text(
            "Figures of every scan as it was sent, in calibrated HU (air, fat and muscle after resampling), and of the "
            "ROIs that features were taken from: "
            "median (smallest to largest) of the cases in which they could be measured, whose number follows where it "
            "is not all. Streaks, jumps and shifts are hints that say where to look. The codebook defines each figure; "
            "tables/qc.csv has them case by case."
        ),
        table(["figure", "unit", *centres], _by_centre(measured, centres, SCAN), "Scans"),
    ]
    for roi in dict.fromkeys(measured.loc[measured["roi"] != "", "roi"]):
        part = measured[measured["roi"] == roi]
        lines = _by_centre(part, centres, ROI)
        lines += [
            [f"{FIGURES[name].title}: cases with any", "", *(_any(part, name, centre) for centre in centres)]
            for name in COUNTED
        ]
        blocks.append(table(["figure", "unit", *centres], lines, f"ROI {roi}"))
    blocks.append(Block("grid", pictures=_pictures(measured, centres)))
    return Section("scans", title, [*blocks, *_flagged(material, rows)])


def _by_centre(measured: pd.DataFrame, centres: list[str], names: tuple[str, ...]) -> list[list[str]]:
    """A line for each figure that was measured anywhere."""
    lines = []
    for name in names:
        part = measured[measured["item"] == name]
        if not np.isfinite(part["number"]).any():
            continue
        unit = FIGURES[name].unit
        cells = [_summary(part.loc[part["centre"] == centre, "number"].to_numpy()) for centre in centres]
        lines.append([FIGURES[name].title, "" if unit == "1" else unit, *cells])
    return lines


def _summary(values: np.ndarray) -> str:
    known = int(np.isfinite(values).sum())
    return median_range(values) + (f"; {known} of {len(values)}" if 0 < known < len(values) else "")


def _any(part: pd.DataFrame, name: str, centre: str) -> str:
    values = part.loc[(part["item"] == name) & (part["centre"] == centre), "number"].dropna()
    return f"{int((values > 0).sum())} of {len(values)}"


def _pictures(measured: pd.DataFrame, centres: list[str]) -> list[Picture]:
    pictures = []
    for name in DRAWN:
        part = measured[(measured["item"] == name) & np.isfinite(measured["number"])]
        if len(part) < 3:
            continue
        values = [part.loc[part["centre"] == centre, "number"].to_numpy() for centre in centres]
        title = f"{FIGURES[name].title[0].upper()}{FIGURES[name].title[1:]}, {FIGURES[name].unit}"
        svg = figures.distribution(f"quality-{name}", title, [("", values)], centres)
        pictures.append(Picture(f"{title}, by centre.", svg=svg))
    return pictures


def _flagged(material: Material, rows: pd.DataFrame) -> list[Block]:
    """The cases that rules warned of or excluded, the excluded ones first."""
    out = material.exclusions
    excluded = out[out["step"] == STEP]
    lines: list[list[Any]] = [
        [row["case_id"], row["centre"], "excluded", row["reason"]] for row in excluded.to_dict("records")
    ]
    warned = rows[rows["item"] == "warning"]
    lines += [[row["case_id"], row["centre"], "warning", row["warning"]] for row in warned.to_dict("records")]
    rules = material.setting(STEP, "rules", [])
    asked = f"{count(len(rules), 'rule')} of the configuration" if rules else "The configuration's rules"
    if not lines:
        return [text(f"{asked} found nothing in any case.")]
    cases = len({line[0] for line in lines})
    blocks = [
        text(f"{asked} found something in {count(cases, 'case')}, of which {number(float(len(excluded)))} excluded."),
        table(["case", "centre", "", "finding"], lines[:MOST_ROWS], "Cases to look at"),
    ]
    if len(lines) > MOST_ROWS:
        blocks.append(text(f"{len(lines) - MOST_ROWS} more are in tables/qc.csv and tables/exclusions.csv."))
    return blocks
