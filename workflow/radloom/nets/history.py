"""How a training went, epoch by epoch: as a table and as a picture."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NESTED = {"by_class": "dice", "by_centre": "dice_centre", "weights": "weight"}


def flat_rows(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history with a column for each class, centre and weight; epochs without a validation lack them."""
    rows = []
    for epoch in history:
        row = {key: value for key, value in epoch.items() if key not in NESTED}
        for key, prefix in NESTED.items():
            row |= {f"{prefix}_{name}": value for name, value in epoch.get(key, {}).items()}
        rows.append(row)
    return rows


def write_history(path: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the history as CSV; what isn't known is an empty cell."""
    rows = flat_rows(history)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows
        )


def draw_history(path: Path, history: Sequence[dict[str, Any]], best_epoch: int) -> None:
    """Draw loss and learning rate, and below them the validation Dice of the classes, as PNG."""
    # Not pyplot: it would choose a screen for this process, and keep every figure.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] for row in history]
    upper.plot(epochs, [row["loss"] for row in history], color="#0072B2", label="loss")
    upper.set_ylabel("training loss")
    rate = upper.twinx()
    rate.plot(epochs, [row["learning_rate"] for row in history], color="#999999", linestyle=":", label="learning rate")
    rate.set_ylabel("learning rate")
    judged = [row for row in history if "dice" in row]
    names = list(judged[0]["by_class"]) if judged else []
    for name in names if len(names) <= 12 else []:  # more lines than that nobody can tell apart
        lower.plot([row["epoch"] for row in judged], [row["by_class"][name] for row in judged], label=name, linewidth=1)
    if judged:
        lower.plot([r["epoch"] for r in judged], [r["dice"] for r in judged], color="black", label="mean of classes")
        lower.axvline(best_epoch, color="#D55E00", linewidth=0.8, label=f"best epoch, {best_epoch}")
        lower.legend(fontsize=8, loc="lower right")
    else:
        lower.text(0.5, 0.5, "no validation", transform=lower.transAxes, ha="center")
    lower.set(xlabel="epoch", ylabel="validation Dice", ylim=(0, 1))
    figure.savefig(path, metadata={"Software": None})
