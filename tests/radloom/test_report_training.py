"""The report's section about a trained net says what its files say."""

import json
from pathlib import Path

from PIL import Image

from radloom.report_training import training_section
from radloom.report_view import Section

ROWS = """part,centre,roi,cases,mean_dice,lowest_dice,false_positives
validation,,organ,3,0.91234,0.85,0
validation,,tumour,0,,,2
validation,north,organ,3,0.91234,0.85,0
"""


def files(folder: Path, rows: str = ROWS) -> dict[str, Path]:
    """What a training leaves."""
    told = {
        "classes": {"1": "organ", "2": "tumour"},
        "spacing": [1.5, 1.5],
        "architecture": {"kind": "unet", "dimensions": 2},
        "training": {
            "data": "7 cases, 6 patients, 2 centres",
            "cases": {"train": 7, "validation": 3},
            "epochs": 20,
            "best_epoch": 17,
        },
    }
    texts = {
        "models/net/model.json": json.dumps(told),
        "models/net/model.safetensors": "",
        "models/cox/model.json": "{}",
        "training/dice_by_centre.csv": rows,
    }
    for name, content in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    Image.new("L", (2, 2)).save(folder / "training/history.png")
    return {name: folder / name for name in [*texts, "training/history.png"]}


def words(section: Section) -> str:
    """All text of a section."""
    return " ".join(block.text for block in section.blocks)


def test_what_it_learned_from_and_how_well_it_does(tmp_path: Path) -> None:
    (section,) = training_section(files(tmp_path))
    told = words(section)
    assert "2D net (unet) was trained to find organ, tumour at 1.5 x 1.5 mm in plane" in told
    assert "7 cases, 6 patients, 2 centres; 3 for validation were kept apart, by patient" in told
    assert "20 epochs, of which number 17 was taken. It lies in models/net/" in told
    (table,) = [block.table for block in section.blocks if block.table is not None]
    assert [row[1:] for row in table.rows] == [
        ["all", "organ", "3", "0.912", "0.850", "0"],
        ["all", "tumour", "0", "–", "–", "2"],
        ["north", "organ", "3", "0.912", "0.850", "0"],
    ]
    (pictures,) = [block.pictures for block in section.blocks if block.pictures]
    assert [picture.caption for picture in pictures] == ["Loss, learning rate and Dice by epoch"]


def test_a_net_that_nothing_is_known_of_is_called_so(tmp_path: Path) -> None:
    (section,) = training_section(files(tmp_path, ROWS.splitlines()[0] + "\n"))
    assert "nothing says how well this net does" in words(section)


def test_a_run_without_a_training_has_no_such_section(tmp_path: Path) -> None:
    made = files(tmp_path)
    assert training_section({"models/cox/model.json": made["models/cox/model.json"]}) == []
