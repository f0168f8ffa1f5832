"""The report's section on what other bin widths and spacings do to the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from radloom import figures
from radloom.report_view import Block, Picture, Section, count, decimal, number, numbers, table, text

SHOWN = 10
MOVED_BELOW = 0.9
"""Lower concordance is poor agreement (McBride, NIWA report HAM2005-062, 2005)."""

PARAMETERS = {"bin_width": ("Bin width", "HU"), "spacing": ("Voxel spacing", "mm")}
FIGURES = ("median_change", "q1_change", "q3_change", "spearman", "concordance", "n")


def sensitivity_section(found: pd.DataFrame, main_roi: str) -> Section:
    """What moves how far, from tables/sensitivity.csv (text) and for the ROI of the figures."""
    rows = found.copy()
    for name in FIGURES:
        rows[name] = numbers(rows[name])
    blocks = [
        text(
            "The features of all cases were computed again with one setting changed at a time. The concordance (Lin) "
            "compares each case's value with that of the run: 1 where none moves. Spearman's correlation is 1 where "
            "the cases keep their ranks, however far their values move. A feature with a low rank correlation says "
            "something else under the other setting; one with a high rank correlation and a low concordance needs "
            "the same setting in every study that is compared. All rows are in tables/sensitivity.csv."
        ),
        _overview(rows),
    ]
    mine = rows[rows["roi"] == (main_roi if (rows["roi"] == main_roi).any() else rows["roi"].iloc[0])]
    for parameter, part in mine.groupby("parameter", sort=False):
        blocks += _parameter(str(parameter), part)
    return Section("sensitivity", "Sensitivity to bin width and spacing", blocks)


def _overview(rows: pd.DataFrame) -> Block:
    lines: list[list[Any]] = []
    for (roi, parameter, setting), part in rows.groupby(["roi", "parameter", "setting"], sort=False):
        title, unit = PARAMETERS[str(parameter)]
        moving = part[_moves(part)]
        relative = moving[moving["change"] == "relative"]
        known = moving["concordance"].dropna()
        lines.append(
            [
                roi,
                f"{title} {setting}{f' {unit}' if any(c.isdigit() for c in str(setting)) else ''} "
                f"(run: {part['baseline'].iloc[0]})",
                f"{len(moving)} of {len(part)}",
                _percent(float(relative["median_change"].abs().median())) if len(relative) else "–",
                decimal(float(moving["spearman"].median()), 3) if moving["spearman"].notna().any() else "–",
                f"{int((known < MOVED_BELOW).sum())} of {len(known)}",
            ]
        )
    columns = [
        *("ROI", "setting", "features that move", "median size of their change"),
        *("median Spearman", f"concordance below {MOVED_BELOW:g}"),
    ]
    return table(columns, lines, "Each setting against the run's own (medians over the features that move)")


def _parameter(parameter: str, rows: pd.DataFrame) -> list[Block]:
    """The features that move most and least when a parameter changes, each at the setting that moves it most."""
    title, unit = PARAMETERS[parameter]
    moving = rows[_moves(rows) & rows["concordance"].notna()]
    still = rows["feature"].nunique() - moving["feature"].nunique()
    blocks = [Block("heading", f"{title}, ROI {rows['roi'].iloc[0]}")]
    if moving.empty:
        return [*blocks, text("No feature moves, or there are too few cases to tell.")]
    worst = moving.loc[moving.groupby("feature", sort=False)["concordance"].idxmin()]
    ordered = worst.sort_values(["concordance", "spearman"], kind="stable")
    most = ordered.head(SHOWN)
    least = ordered.tail(min(SHOWN, len(ordered) - len(most))).iloc[::-1]
    values = [part["concordance"].to_numpy() for _, part in moving.groupby("setting", sort=False)]
    names = [f"{setting}" for setting in dict.fromkeys(moving["setting"])]
    figure = figures.distribution(
        f"sensitivity-{parameter}", f"{title} ({unit}), run: {rows['baseline'].iloc[0]}", [("", values)], names
    )
    picture = Picture("Concordance with the run's own setting; a dot is a feature that moves.", svg=figure)
    blocks.append(Block("pictures", pictures=[picture]))
    if still:
        one = still == 1
        blocks.append(
            text(
                f"{count(still, 'feature')} {'does' if one else 'do'} not move at all, or "
                f"{'is' if one else 'are'} not known in enough cases, and {'is' if one else 'are'} left out here."
            )
        )
    blocks.append(_features(most, f"Features that move most, at the {title.lower()} that moves them most"))
    if len(least):
        blocks.append(_features(least, f"Features that move least, at the {title.lower()} that moves them most"))
    return blocks


def _features(rows: pd.DataFrame, caption: str) -> Block:
    lines = [
        [
            r["feature"],
            r["setting"],
            _change(r),
            decimal(r["spearman"]),
            decimal(r["concordance"]),
            str(int(r["n"])),
        ]
        for r in rows.to_dict("records")
    ]
    return table(
        ["feature", "setting", "median change (quartiles)", "Spearman", "concordance", "cases"], lines, caption
    )


def _moves(rows: pd.DataFrame) -> pd.Series:
    """Which rows have any change at all: not those of features that a setting can't touch."""
    changed = (rows[["median_change", "q1_change", "q3_change"]].abs() > 0).any(axis=1)
    return changed | (rows["concordance"] < 1)


def _change(row: dict[Any, Any]) -> str:
    write = _percent if row["change"] == "relative" else number
    middle, low, high = (write(row[key]) for key in ("median_change", "q1_change", "q3_change"))
    return f"{middle} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{number(100 * share)} %" if np.isfinite(share) else "–"
