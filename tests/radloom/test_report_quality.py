"""The section on the quality of the scans: what a reader sees of figures and findings."""

from typing import Any

import pandas as pd
from run_material import features_elsewhere, material

from radloom.report_quality import scans_section
from radloom.report_sections import quality_section
from radloom.report_view import Section


def row(case: str, centre: str, item: str, value: str, roi: str = "", warning: str = "") -> dict[str, str]:
    return {
        "case_id": case, "centre": centre, "roi": roi, "step": "quality", "item": item, "value": value,
        "warning": warning,
    }  # fmt: skip


ROWS = [
    row("scan-02", "A", "noise_global_sd", "10.0"),
    row("scan-03", "B", "noise_global_sd", "30.0"),
    row("scan-04", "A", "noise_global_sd", "14.0"),
    row("scan-06", "A", "noise_global_sd", ""),
    row("scan-02", "A", "hu_blood", ""),
    row("scan-02", "A", "roi_border_voxels", "4.0", "tumour"),
    row("scan-04", "A", "roi_border_voxels", "0.0", "tumour"),
    row("scan-02", "A", "roi_volume_ml", "2.5", "tumour"),
    row("scan-03", "B", "warning", "", "", "global noise level is 30 HU, above 25 HU <b>"),
]


def section(rows: list[dict[str, str]], **changes: Any) -> Section:
    run = material(**changes)
    return scans_section(material(**changes, qc=pd.concat([run.qc, pd.DataFrame(rows)], ignore_index=True)))


def tables(found: Section) -> dict[str, list[list[str]]]:
    return {block.table.caption: block.table.rows for block in found.blocks if block.table is not None}


def texts(found: Section) -> str:
    return " ".join(block.text for block in found.blocks)


def test_figures_by_centre() -> None:
    found = tables(section(ROWS))
    assert found["Scans"] == [["global noise level", "HU", "12 (10 to 14); 2 of 3", "30"]]
    assert found["ROI tumour"][0] == ["volume", "ml", "2.50", "–"]
    assert found["ROI tumour"][1] == ["voxels at the border of the image: cases with any", "", "1 of 2", "0 of 0"]
    pictures = [picture for block in section(ROWS).blocks for picture in block.pictures]
    assert [picture.caption for picture in pictures] == ["Global noise level, HU, by centre."]


def test_cases_to_look_at() -> None:
    out = material().exclusions
    gated = {
        "case_id": "scan-05", "centre": "B", "roi": "", "step": "quality", "reason": "volume of metal is 9 ml, above 1",
        "way_out": "look",
    }  # fmt: skip
    found = section(ROWS, exclusions=pd.concat([out, pd.DataFrame([gated])], ignore_index=True))
    assert tables(found)["Cases to look at"] == [
        ["scan-05", "B", "excluded", "volume of metal is 9 ml, above 1"],
        ["scan-03", "B", "warning", "global noise level is 30 HU, above 25 HU <b>"],
    ]
    assert "found something in 2 cases, of which 1 excluded." in texts(found)
    assert "found nothing in any case." in texts(section(ROWS[:-1]))


def test_what_the_rules_say_stands_in_one_place() -> None:
    run = material()
    other = row("scan-02", "A", "warning", "", warning="a drift") | {"step": "calibrate"}
    full = material(qc=pd.concat([run.qc, pd.DataFrame([*ROWS, other])], ignore_index=True))
    warned = tables(quality_section(full))["Warnings about cases"]
    assert warned == [["calibrate", "a drift", "1", "scan-02"]]


def test_features_from_elsewhere() -> None:
    found = scans_section(features_elsewhere())
    assert "Nothing was measured in the scans" in texts(found)
    assert not tables(found)
