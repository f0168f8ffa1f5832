"""The scores of a segmentation's uncertainty: as a file from step to step, and when they exclude a case.

How they are computed is said in `radloom.nets.uncertainty`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from radloom.errors import CaseError


@dataclass(frozen=True)
class ClassUncertainty:
    """The scores of a class in a case; NaN where no sample has found the class."""

    volume_ml: float
    """Mean over the samples."""
    volume_sd_ml: float
    """Standard deviation over the samples (of n - 1)."""
    volume_cv: float
    """Standard deviation over mean."""
    pairwise_dice: float
    """Mean Dice of the samples' labels, two by two; pairs that both lack the class don't count."""
    epistemic: float
    """Mean epistemic variance where any sample has found the class."""


Scores = Mapping[str, ClassUncertainty]
"""By the name of the ROI."""


def score_facts(scores: Scores) -> dict[str, dict[str, float | None]]:
    """Scores as a record holds them: None for what can't be estimated."""
    return {
        roi: {name: None if math.isnan(value) else value for name, value in asdict(found).items()}
        for roi, found in scores.items()
    }


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores as JSON."""
    path.write_text(json.dumps(score_facts(scores), indent=2) + "\n", encoding="utf-8")


def read_scores(path: Path) -> dict[str, ClassUncertainty]:
    """Read what `write_scores` wrote."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return {
        roi: ClassUncertainty(**{name: math.nan if value is None else value for name, value in found.items()})
        for roi, found in document.items()
    }


def check_scores(
    scores: Scores, max_volume_cv: float | None, min_pairwise_dice: float | None, rois: Sequence[str] = ()
) -> None:
    """Raise CaseError where an ROI, of `rois` if there are any, is beyond a threshold.

    A score that can't be estimated is beyond none.
    """
    problems = []
    for roi, score in scores.items():
        if rois and roi not in rois:
            continue
        if max_volume_cv is not None and score.volume_cv > max_volume_cv:
            problems.append(
                f"{roi}: coefficient of variation of the volume {score.volume_cv:.3g} is above {max_volume_cv:g}"
            )
        if min_pairwise_dice is not None and score.pairwise_dice < min_pairwise_dice:
            problems.append(f"{roi}: mean pairwise Dice {score.pairwise_dice:.3g} is below {min_pairwise_dice:g}")
    if problems:
        raise CaseError(
            f"the net's samples disagree too much ({'; '.join(problems)})",
            "Look at the picture and at what is unusual about the scan; give the case a mask by hand, or loosen "
            "segment.uncertainty",
        )
