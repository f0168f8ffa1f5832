"""The report's section about a net that the run has trained on the cohort's masks."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from radloom.report_view import Block, Picture, Section, count, decimal, note, numbers, table, text

WEIGHTS = "model.safetensors"
PARTS = {"validation": "validation, which chose the epoch", "test": "test, which nothing was chosen by"}
PICTURES = {
    "training/history.png": "Loss, learning rate and Dice by epoch",
    "training/reliability.png": "Probabilities beside what was true, in the cases for validation",
}


def trained_net(inputs: Mapping[str, Path]) -> tuple[str, dict[str, Any]]:
    """The folder of the net that the run has trained, below results/, and its description; empty without one."""
    for key in inputs:
        if key.startswith("models/") and key.endswith("/" + WEIGHTS):
            folder = key.removesuffix(WEIGHTS)
            return folder, json.loads(inputs[f"{folder}model.json"].read_text(encoding="utf-8"))
    return "", {}


def training_section(inputs: Mapping[str, Path]) -> list[Section]:
    """What the net learned from and how well it does; nothing where none was trained. `inputs` are the run's files."""
    folder, told = trained_net(inputs)
    if not told or "training/dice_by_centre.csv" not in inputs:
        return []
    dice = pd.read_csv(inputs["training/dice_by_centre.csv"], dtype=str, keep_default_na=False, encoding="utf-8")
    blocks = _described(told, folder) + _agreement(dice)
    pictures = [
        Picture(caption, png=base64.b64encode(inputs[key].read_bytes()).decode("ascii"), alt=caption)
        for key, caption in PICTURES.items()
        if key in inputs
    ]
    return [Section("training", "Training of the segmentation net", [*blocks, Block("pictures", pictures=pictures)])]


def _described(told: Mapping[str, Any], folder: str) -> list[Block]:
    """The net, its cases and where it is."""
    training, architecture = told["training"], told["architecture"]
    parts = [f"{training['cases'][part]} for {part}" for part in ("validation", "test") if part in training["cases"]]
    classes = ", ".join(told["classes"].values())
    dimensions = architecture["dimensions"]
    spacing = " x ".join(f"{value:g}" for value in told["spacing"])
    return [
        text(
            f"A {dimensions}D net ({architecture['kind']}) was trained to find {classes} at {spacing} mm"
            f"{' in plane' if dimensions == 2 else ''}, on {training['data']}"
            + (f"; {' and '.join(parts)} were kept apart, by patient." if parts else ".")
            + f" It was trained for {count(training['epochs'], 'epoch')}, of which number {training['best_epoch']} "
            f"was taken. It lies in {folder}; training/ has the split, the history and the metrics of each case."
        ),
        text(
            "The features in this report come from the masks that were sent, and not from this net. Don't segment "
            "patients with it for an analysis that it was trained on: it knows their masks."
        ),
    ]


def _agreement(dice: pd.DataFrame) -> list[Block]:
    """Dice of the cases that the net didn't learn from, by part and centre."""
    known = dice[dice["cases"] != "0"]
    if known.empty:
        return [note("No case was kept apart that has any of the classes: nothing says how well this net does.")]
    lines = [
        [PARTS.get(row["part"], row["part"]), row["centre"] or "all", row["roi"], row["cases"], mean, lowest, wrong]
        for row, mean, lowest, wrong in zip(
            dice.to_dict("records"),
            map(decimal, numbers(dice["mean_dice"])),
            map(decimal, numbers(dice["lowest_dice"])),
            dice["false_positives"],
            strict=True,
        )
    ]
    columns = ["cases for", "centre", "ROI", "cases", "mean Dice", "lowest Dice", "found where there is none"]
    return [table(columns, lines, "Dice of the net and the masks, on the scans' own grids")]
