"""Estimates of the table of performance as the report writes them: which one leads, its interval, and its remarks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from radloom.model_tables import MODEL_TABLES
from radloom.report_sections import METRICS
from radloom.report_view import Block, decimal, listed, table, text

CROSS_VALIDATION = "cross-validation"
LEAVE_ONE_CENTRE_OUT = "leave-one-centre-out"
OPTIMISM = "optimism-corrected"
LOCKED_TEST = "locked-test"
ALL_CENTRES, POOLED, WORST = "all", "random effects", "worst"
WITHIN = "_within_centre"
"""As the tables have them (radloom.validation, radloom.modelling, radloom.performance)."""

DISCRIMINATION = ("c_index", "uno_c", "auc")
LEAST_FOR_PRIMARY = 3
"""Leaving centres out is the primary validation from this many centres on."""

NOT_ESTIMABLE = "not estimable"
WITHIN_MARK = " †"

# What a column or a picture of its own says is no remark.
_SAID_ELSEWHERE = re.compile(r"95 % prediction interval .*|apparent .* refits|pairs within centres")

Record = Mapping[Any, Any]


def to_float(cell: Any) -> float:
    """A cell of text as a number; NaN where it is empty."""
    return float(cell) if cell not in ("", None) else float("nan")


def horizon_text(cell: Any) -> str:
    """A horizon as people write it: 20.0 is 20; empty stays empty."""
    return f"{to_float(cell):g}" if cell not in ("", None) else ""


def interval(row: Record) -> str:
    """Estimate with its interval, to three decimals; an en dash where there is none."""
    estimate, low, high = (to_float(row[key]) for key in ("estimate", "ci_low", "ci_high"))
    if estimate != estimate:
        return "–"
    return decimal(estimate) + (f" ({decimal(low)} to {decimal(high)})" if low == low else " (no interval)")


@dataclass
class Remarks:
    """Long remarks of a section's tables, each written once: cells point to them by number."""

    numbers: dict[str, int] = field(default_factory=dict)

    def mark(self, note: str) -> str:
        """The pointers to what a note says, ` [1, 2]`; empty where it says nothing of its own."""
        found = [part for part in note.split("; ") if part and not _SAID_ELSEWHERE.fullmatch(part)]
        marks = [str(self.numbers.setdefault("; ".join(found), len(self.numbers) + 1))] if found else []
        return f" [{', '.join(marks)}]" if marks else ""

    def cell(self, row: Record | None, mark: bool = True) -> str:
        """An estimate with its interval and the pointer to its remark; `not estimable` points to the reason."""
        if row is None:
            return "–"
        told = NOT_ESTIMABLE if row["status"] == NOT_ESTIMABLE else interval(row)
        return told + (self.mark(row["note"]) if mark else "")

    def blocks(self) -> list[Block]:
        """The list of the remarks."""
        pairs = [(f"Remark {number}: {remark}.", "") for remark, number in self.numbers.items()]
        return [Block("list", pairs=pairs)] if pairs else []


class Estimates:
    """The rows of performance of one model."""

    def __init__(self, rows: pd.DataFrame) -> None:
        """`rows` are text, as read from the table; columns that it lacks are empty."""
        whole = rows.reindex(columns=MODEL_TABLES["performance"], fill_value="")
        self.rows: list[dict[Any, Any]] = whole.to_dict("records")
        self.arms: list[str] = list(dict.fromkeys(row["arm"] for row in self.rows))
        self.splits: list[str] = list(dict.fromkeys(row["split"] for row in self.rows))
        self._places: dict[tuple[str, ...], dict[Any, Any]] = {}
        for row in self.rows:
            keys = (row["arm"], row["split"], row["centre"] or ALL_CENTRES, row["subgroup"], row["metric"])
            self._places.setdefault((*keys, horizon_text(row["horizon"])), row)

    def find(
        self, arm: str, split: str, metric: str, horizon: str = "", centre: str = ALL_CENTRES, subgroup: str = ""
    ) -> dict[Any, Any] | None:
        """The row of a metric, if there is one."""
        return self._places.get((arm, split, centre, subgroup, metric, horizon))

    def leading(self, arm: str, split: str, metric: str, horizon: str = "") -> dict[Any, Any] | None:
        """The row of all cases that leads: pairs within centres or all pairs, as the table says.

        Where none leads, because it is not estimable, that of the pairs within centres, which says why.
        """
        both = [self.find(arm, split, metric + suffix, horizon) for suffix in ("", WITHIN)]
        found = [row for row in both if row is not None]
        led = [row for row in found if row["leads"] == "yes"]
        refused = [row for row in found if row["status"] == NOT_ESTIMABLE]
        return next(iter(led or refused[::-1] or found), None)

    def horizons(self, metric: str) -> list[str]:
        """The horizons at which a metric is given, in ascending order."""
        found = {horizon_text(row["horizon"]) for row in self.rows if row["metric"] == metric} - {""}
        return sorted(found, key=float)

    @property
    def metric(self) -> str:
        """The metric of discrimination that stands for the model: Harrell's C, else Uno's, else the AUC."""
        there = {row["metric"] for row in self.rows}
        return next((name for name in DISCRIMINATION if name in there), "")

    @property
    def horizon(self) -> str:
        """The last horizon of `metric` where it needs one."""
        return next(reversed(self.horizons(self.metric)), "")

    @property
    def centres(self) -> list[str]:
        """The centres that have rows of their own."""
        named = (row["centre"] for row in self.rows)
        return [name for name in dict.fromkeys(named) if name not in ("", ALL_CENTRES, POOLED, WORST)]

    @property
    def primary(self) -> str:
        """The way of validation that counts most: leaving centres out where there are three or more."""
        several = LEAVE_ONE_CENTRE_OUT in self.splits and len(self.centres) >= LEAST_FOR_PRIMARY
        return LEAVE_ONE_CENTRE_OUT if several else CROSS_VALIDATION

    @property
    def held_out(self) -> list[str]:
        """The ways of validation by held-out cases, the primary one first."""
        order = dict.fromkeys([self.primary, CROSS_VALIDATION, LEAVE_ONE_CENTRE_OUT, LOCKED_TEST])
        return [split for split in order if split in self.splits]

    @property
    def judged_arms(self) -> list[str]:
        """Arms of which something is estimable."""
        known = {row["arm"] for row in self.rows if row["status"] != NOT_ESTIMABLE}
        return [arm for arm in self.arms if arm in known]


def split_title(split: str, primary: str) -> str:
    """A way of validation as a column's title."""
    titles = {LEAVE_ONE_CENTRE_OUT: "leave one centre out", LOCKED_TEST: "locked test set"}
    return titles.get(split, split) + (" (primary)" if split == primary == LEAVE_ONE_CENTRE_OUT else "")


def metric_title(metric: str, horizon: str = "") -> str:
    """A metric's name, with the time up to which it is."""
    name = METRICS.get(metric, metric)
    return f"{name} at {horizon}" if horizon else name


def leading_metrics(estimates: Estimates) -> list[tuple[str, str]]:
    """The metrics of discrimination over all of the follow-up, or where there are none the AUC, each with its horizon.

    A survival model's AUC at each horizon has its own table.
    """
    there = {row["metric"] for row in estimates.rows}
    whole = [(metric, "") for metric in DISCRIMINATION if metric in there and not estimates.horizons(metric)]
    return whole or [(estimates.metric, estimates.horizon)]


def discrimination_table(models: Sequence[tuple[str, Estimates]], remarks: Remarks, every: bool) -> list[Block]:
    """The leading discrimination of each arm by each way of validation; `models` holds (title, estimates).

    With `every` metric of discrimination, else the one that stands for the model. Titles that are empty are left out.
    """
    there = {split for _, estimates in models for split in estimates.splits}
    primary = LEAVE_ONE_CENTRE_OUT if any(e.primary == LEAVE_ONE_CENTRE_OUT for _, e in models) else CROSS_VALIDATION
    order = dict.fromkeys([primary, CROSS_VALIDATION, LEAVE_ONE_CENTRE_OUT, LOCKED_TEST, OPTIMISM])
    splits = [split for split in order if split in there]
    rows = []
    for title, estimates in models:
        for arm in estimates.arms:
            metrics = leading_metrics(estimates) if every else [(estimates.metric, estimates.horizon)]
            # An arm that was not fitted has one row, which says why.
            for metric, horizon in metrics if arm in estimates.judged_arms else metrics[:1]:
                found = [estimates.leading(arm, split, metric, horizon) for split in splits]
                cells = [_leading_cell(row, remarks) for row in found]
                cells += [_apparent(found[-1])] * (OPTIMISM in splits)
                counted = next((row for row in found if row is not None), None)
                counts = ["–", "–"] if counted is None else [counted["n"], counted["events"]]
                named = [*([title] if title else []), arm, metric_title(metric, horizon)]
                rows.append([*named, *cells, *counts])
    if not rows:
        return []
    columns = ["model"] * any(title for title, _ in models) + ["arm", "metric"]
    columns += [split_title(split, primary) for split in splits] + ["apparent"] * (OPTIMISM in splits)
    within = any(WITHIN_MARK in cell for row in rows for cell in row)
    caption = "Estimate (95 % interval)" + (f"; {WITHIN_MARK} pairs within centres only" if within else "")
    return [table([*columns, "cases", "events"], rows, caption)]


def _leading_cell(row: Record | None, remarks: Remarks) -> str:
    if row is None:
        return "not computed"
    mark = WITHIN_MARK if row["metric"].endswith(WITHIN) and row["status"] != NOT_ESTIMABLE else ""
    return remarks.cell(row) + mark


def _apparent(row: Record | None) -> str:
    """The apparent performance that the optimism was taken off."""
    found = re.search(r"apparent (-?[\d.e+-]+), optimism", row["note"]) if row is not None else None
    return decimal(float(found[1])) if found else "–"


def unjudged(estimates: Estimates, split: str, remarks: Remarks) -> list[Block]:
    """Which arms have no estimate at all by a way of validation, and why."""
    told: dict[str, list[str]] = {}
    for arm in estimates.judged_arms:
        own = [row for row in estimates.rows if row["arm"] == arm and row["split"] == split]
        if own and all(row["status"] == NOT_ESTIMABLE for row in own):
            told.setdefault(remarks.mark(own[0]["note"]), []).append(arm)
    where = split_title(split, "")
    return [text(f"Not estimable, {where}: {listed(arms)}{mark}.") for mark, arms in told.items()]
