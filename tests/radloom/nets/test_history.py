"""The history as a table and a picture."""

import csv
import math
from pathlib import Path

from radloom.nets.history import draw_history, write_history

HISTORY = [
    {"epoch": 1, "loss": 1.5, "learning_rate": 0.1},
    {
        "epoch": 2,
        "loss": 0.5,
        "learning_rate": 0.01,
        "dice": 0.8,
        "by_class": {"organ": 0.8, "tumour": math.nan},
        "by_centre": {"a": 0.8},
        "weights": {"a": 1.0},
    },
]


def test_the_table_has_a_row_an_epoch_and_empty_cells_for_what_isnt_known(tmp_path: Path) -> None:
    write_history(tmp_path / "history.csv", HISTORY)
    first, second = csv.DictReader((tmp_path / "history.csv").read_text().splitlines())
    assert first["dice"] == first["dice_organ"] == second["dice_tumour"] == ""
    assert (second["dice_organ"], second["dice_centre_a"], second["weight_a"]) == ("0.8", "0.8", "1.0")
    assert float(first["loss"]) == 1.5


def test_the_picture_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        draw_history(tmp_path / f"{name}.png", HISTORY, 2)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    draw_history(tmp_path / "c.png", HISTORY[:1], 1)  # no validation
