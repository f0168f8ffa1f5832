"""Which harmonisation a `harmonize` section of the configuration, or a file of parameters, describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radloom.batches import batch_columns
from radloom.combat import FORMAT as COMBAT
from radloom.combat import ComBatHarmonizer
from radloom.covbat import FORMAT as COVBAT
from radloom.covbat import CovBatHarmonizer
from radloom.harmonizer import HarmonizationError, Harmonizer
from radloom.nested import FORMAT as NESTED
from radloom.nested import METHODS, NestedHarmonizer

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

FORMATS: dict[str, type[Harmonizer]] = {COMBAT: ComBatHarmonizer, COVBAT: CovBatHarmonizer, NESTED: NestedHarmonizer}


def harmonizer_of(settings: Mapping[str, Any]) -> Harmonizer:
    """The estimator that a `harmonize` section of the configuration describes.

    Keys that are absent, `batch` apart, have the estimator's defaults. Raises HarmonizationError for an unknown method,
    and for a reference batch among several batch columns.
    """
    columns = batch_columns(settings)
    covariates = list(settings.get("covariates", ()))
    options = {name: settings[name] for name in OPTIONS if name in settings}
    method, variance = settings.get("method", "combat"), settings.get("covbat_variance", 0.95)
    if method not in METHODS:
        raise HarmonizationError(f"harmonize.method must be one of {', '.join(METHODS)}, not {method!r}")
    if len(columns) > 1:
        if options.pop("reference_batch", None) is not None:
            raise HarmonizationError(
                "with several batch columns no batch can stay as it is: the next column would move it. Set "
                "harmonize.reference_batch to null, or name one column"
            )
        return NestedHarmonizer(columns, covariates, method=method, variance=variance, **options)
    if method == "covbat":
        return CovBatHarmonizer(columns[0], covariates, variance=variance, **options)
    return ComBatHarmonizer(columns[0], covariates, **options)


def harmonizer_from_json(saved: Mapping[str, Any], new_batch: str | None = None) -> Harmonizer:
    """The estimator whose `to_json` is given, whichever it was.

    `new_batch` replaces what was saved for batches that the fit has not seen. Raises HarmonizationError for anything
    else than parameters.
    """
    kind = FORMATS.get(str(saved.get("format"))) if isinstance(saved, Mapping) else None
    if kind is None:
        raise HarmonizationError(f"these are no parameters of a harmonisation: the formats are {', '.join(FORMATS)}")
    return kind.from_json(dict(saved) if new_batch is None else _with_new_batch(saved, new_batch))


def _with_new_batch(saved: Mapping[str, Any], new_batch: str) -> dict[str, Any]:
    changed = {**saved, "settings": {**saved["settings"], "new_batch": new_batch}}
    if "steps" in saved:
        changed["steps"] = [_with_new_batch(step, new_batch) for step in saved["steps"]]
    return changed
