"""The section names what moves most and least, and leaves out what a setting can't move."""

import numpy as np
import pandas as pd

from radloom.report_sensitivity import sensitivity_section
from radloom.sensitivity import BASELINE
from radloom.sensitivity_table import SENSITIVITY_COLUMNS, sensitivity_rows

N = 30
FEATURES = ["original_shape_MeshVolume", *(f"original_glcm_f{k}" for k in range(25))]


def _table() -> pd.DataFrame:
    """Features that scatter the more, the higher their number; the shape moves with the spacing alone."""
    rng = np.random.default_rng(1)
    own = rng.normal(100, 10, (N, len(FEATURES)))
    noise = rng.normal(0, 1, own.shape) * np.arange(len(FEATURES))
    cases = []
    for base, moved in zip(own, own + noise, strict=True):
        cases.append(
            {
                ("tumour", BASELINE, ""): base.tolist(),
                ("tumour", "bin_width", "10"): moved.tolist(),
                ("tumour", "spacing", "2 x 2 x 2"): (1.5 * base).tolist(),
            }
        )
    rows = sensitivity_rows(FEATURES, cases, {"bin_width": "25", "spacing": "1 x 1 x 1"})
    cells = [[str(getattr(row, name)) for name in SENSITIVITY_COLUMNS] for row in rows]
    return pd.DataFrame(cells, columns=SENSITIVITY_COLUMNS).replace("nan", "")


def test_what_moves_most_and_least_is_named() -> None:
    section = sensitivity_section(_table(), "tumour")
    tables = [block.table for block in section.blocks if block.table]
    overview, most, least, by_spacing, _ = tables
    assert [row[:3] for row in overview.rows] == [
        ["tumour", "Bin width 10 HU (run: 25)", "25 of 26"],
        ["tumour", "Voxel spacing 2 x 2 x 2 mm (run: 1 x 1 x 1)", "26 of 26"],
    ]
    assert overview.rows[1][3:5] == ["50 %", "1.000"]
    assert most.caption.startswith("Features that move most, at the bin width")
    assert {row[0] for row in most.rows} <= set(FEATURES[12:])
    assert least.rows[0][0] in FEATURES[1:4]
    assert len(most.rows) == len(least.rows) == 10
    # The shape of the first feature can't move with the bins: it is not called the most stable one.
    shown = {row[0] for row in [*most.rows, *least.rows]}
    assert "original_shape_MeshVolume" not in shown
    assert by_spacing.rows[0][2] == "50 % (50 % to 50 %)"
    assert sum(bool(block.pictures) for block in section.blocks) == 2


def test_too_few_cases_are_said_to_be_too_few() -> None:
    table = _table()
    table[["spearman", "concordance"]] = ""
    section = sensitivity_section(table, "another ROI")
    assert [block.text for block in section.blocks].count("No feature moves, or there are too few cases to tell.") == 2
