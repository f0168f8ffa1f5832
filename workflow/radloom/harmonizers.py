"""Which harmonisation a `harmonize` section of the configuration, or a file of parameters, describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radloom.combat import FORMAT as COMBAT
from radloom.combat import ComBatHarmonizer
from radloom.harmonizer import HarmonizationError, Harmonizer

OPTIONS = (
    "parametric",
    "mean_only",
    "eb",
    "reference_batch",
    "min_batch_size",
    "small_batch",
    "new_batch",
    "missing_covariates",
    "exempt",
)
"""Keys of the section that are parameters of the estimators under the same name."""

FORMATS: dict[str, type[Harmonizer]] = {COMBAT: ComBatHarmonizer}


def batch_columns(settings: Mapping[str, Any]) -> list[str]:
    """The batch columns that a `harmonize` section names, in its order.

    The first is the batch by which others stratify.
    """
    batch = settings["batch"]
    return [batch] if isinstance(batch, str) else list(batch)


def harmonizer_of(settings: Mapping[str, Any]) -> Harmonizer:
    """The estimator that a `harmonize` section of the configuration describes.

    Keys that are absent, `batch` apart, have the estimator's defaults.
    """
    options = {name: settings[name] for name in OPTIONS if name in settings}
    return ComBatHarmonizer(batch_columns(settings)[0], list(settings.get("covariates", ())), **options)


def harmonizer_from_json(saved: Mapping[str, Any]) -> Harmonizer:
    """The estimator whose `to_json` is given, whichever it was. Raises HarmonizationError for anything else."""
    kind = FORMATS.get(str(saved.get("format"))) if isinstance(saved, Mapping) else None
    if kind is None:
        raise HarmonizationError(f"these are no parameters of a harmonisation: the formats are {', '.join(FORMATS)}")
    return kind.from_json(dict(saved))
