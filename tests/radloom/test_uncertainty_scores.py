"""Scores of uncertainty: read back as written, and what excludes a case."""

import json
import math
from pathlib import Path

import pytest

from radloom.errors import CaseError
from radloom.uncertainty_scores import ClassUncertainty, check_scores, read_scores, score_facts, write_scores

SURE = ClassUncertainty(10.0, 0.1, 0.01, 0.98, 0.001)
UNSURE = ClassUncertainty(10.0, 4.0, 0.4, 0.55, 0.1)
NOWHERE = ClassUncertainty(0.0, 0.0, math.nan, math.nan, math.nan)


def test_scores_come_back_as_written(tmp_path: Path) -> None:
    write_scores(tmp_path / "u.json", {"liver": UNSURE, "spleen": NOWHERE})
    found = read_scores(tmp_path / "u.json")
    assert found["liver"] == UNSURE
    assert math.isnan(found["spleen"].volume_cv)
    assert json.loads((tmp_path / "u.json").read_text())["spleen"]["pairwise_dice"] is None
    assert score_facts({"spleen": NOWHERE})["spleen"]["volume_ml"] == 0


def test_what_is_beyond_a_threshold_is_named() -> None:
    with pytest.raises(CaseError) as caught:
        check_scores({"liver": SURE, "spleen": UNSURE}, 0.2, 0.8)
    assert caught.value.reason == (
        "the net's samples disagree too much (spleen: coefficient of variation of the volume 0.4 is above 0.2; "
        "spleen: mean pairwise Dice 0.55 is below 0.8)"
    )
    assert "by hand" in caught.value.advice


@pytest.mark.parametrize(
    ("scores", "thresholds"),
    [
        ({"spleen": UNSURE}, (None, None)),
        ({"spleen": UNSURE}, (0.4, 0.55)),
        ({"liver": SURE}, (0.2, 0.8)),
        ({"spleen": NOWHERE}, (0.0, 1.0)),
        ({"liver": SURE, "spleen": UNSURE}, (0.2, 0.8, ["liver"])),
    ],
)
def test_what_is_within_the_thresholds_stays(scores: dict[str, ClassUncertainty], thresholds) -> None:
    check_scores(scores, *thresholds)
