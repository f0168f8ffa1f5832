"""Labels of the ROIs: taken from a mask that came with the case, or found by a U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.errors import CaseError
from radloom.images import Volume, reorient
from radloom.labels import ROI_NAME, count_labels

if TYPE_CHECKING:
    from radloom.nets.prediction import Predictor, Settings
    from radloom.uncertainty_scores import ClassUncertainty


def segment_mask(
    mask: Volume, labels: Mapping[int, str] | None = None, roi_name: str = ""
) -> tuple[Volume, dict[int, str], list[str]]:
    """Choose the labels of a mask (z, y, x; unsigned whole numbers); returns the label volume, its names and warnings.

    `labels` maps the numbers to keep to ROI names; other numbers become background, with a warning. Without it all
    non-zero voxels are one ROI with label 1, named `roi_name`, else "ROI". The result is uint8, or uint16 where a
    number needs it. Raises CaseError where nothing is left, and for a name that no table could hold.
    """
    if not labels:
        name = roi_name or "ROI"
        if not ROI_NAME.fullmatch(name):
            raise CaseError(
                f"the ROI name {name!r} is not a letter followed by up to 31 letters, digits or underscores",
                "Change the column roi_name of the cohort sheet",
            )
        array = (mask.array != 0).astype(np.uint8)
        if not array.any():
            raise CaseError("the mask is empty", "Draw the ROI, or take the case out of the cohort sheet")
        return Volume(array, mask.geometry), {1: name}, []

    found = set(np.flatnonzero(count_labels(mask.array)).tolist()) - {0}
    kept = sorted(found & set(labels))
    if not kept:
        raise CaseError(
            f"the mask has the labels {_numbers(found)}, none of the configured {_numbers(labels)}",
            "Compare segment.labels in the configuration with the mask",
        )
    warnings = []
    if found - set(labels):
        warnings.append(f"the mask's labels {_numbers(found - set(labels))} are not in segment.labels and are ignored")
    array = np.zeros(mask.array.shape, np.uint8 if max(labels) <= 255 else np.uint16)
    for number in kept:
        array[mask.array == number] = number
    return Volume(array, mask.geometry), dict(labels), warnings


@dataclass(frozen=True)
class Segmentation:
    """What nets found in an image."""

    labels: Volume
    """uint8, on the image's own grid."""
    names: dict[int, str]
    facts: dict[str, Any]
    """Device and precision of the computation."""
    warnings: list[str]


def segment_model(image: Volume, models: Path | Mapping[str, Path], settings: Settings | None = None) -> Segmentation:
    """Segment a CT image (z, y, x; HU), whatever its orientation, with the net in a folder or the mean of several.

    `settings` are a `radloom.nets.prediction.Settings`. Raises CohortError for a model or a device that can't be used,
    and CaseError where the net finds nothing. A net that looks at a region gives it the number after its classes, where
    none of them is.
    """
    predictor = loaded_predictor(models, settings)
    upright = reorient(image)
    labels = predictor.labels(upright.array, upright.geometry.spacing)
    names = dict(predictor.classes)
    region = predictor.members[0].description.region
    if region is not None and predictor.found is not None:
        names[len(names) + 1] = region.label
        labels[predictor.found & (labels == 0)] = len(names)
    if not labels.any():
        raise CaseError(
            f"the model found none of {', '.join(predictor.classes.values())}",
            "Check that the scan shows the region, that its values are HU, and that its orientation is right",
        )
    found = reorient(Volume(labels, upright.geometry), image.geometry.direction)
    return Segmentation(found, names, predictor.facts(), list(predictor.warnings))


def assess_model(
    image: Volume, models: Path | Mapping[str, Path], samples: int, maps: bool, settings: Settings | None = None
) -> tuple[dict[str, ClassUncertainty], dict[str, Volume]]:
    """How far samples of the nets agree on an image (z, y, x; HU): scores by ROI, and maps (uint16) where wanted.

    What is a sample, a score and a map, and what a step of a map is worth: `radloom.nets.uncertainty`, whose errors
    are raised.
    """
    from radloom.nets.uncertainty import assess

    upright = reorient(image)
    predictor = loaded_predictor(models, settings)
    scores, arrays = assess(predictor, upright.array, upright.geometry.spacing, samples, maps)
    return scores, {name: _back(array, upright, image) for name, array in arrays.items()}


def saliency_model(
    image: Volume, models: Path | Mapping[str, Path], names: Sequence[str], settings: Settings | None = None
) -> dict[str, Volume]:
    """Saliency maps (float32, 0 .. 1; `radloom.nets.saliency`) of classes of an image (z, y, x; HU), by name."""
    from radloom.nets.saliency import find_saliency

    upright = reorient(image)
    predictor = loaded_predictor(models, settings)
    numbers = {name: number for number, name in predictor.classes.items()}
    found = find_saliency(predictor, upright.array, upright.geometry.spacing, [numbers[name] for name in names])
    return {name: _back(found[numbers[name]], upright, image) for name in names}


def _back(array: np.ndarray, upright: Volume, image: Volume) -> Volume:
    """An array on the grid of `upright` in the image's own orientation."""
    return reorient(Volume(array, upright.geometry), image.geometry.direction)


def loaded_predictor(models: Path | Mapping[str, Path], settings: Settings | None = None) -> Predictor:
    """The predictor of a model folder, or of several by name; loaded once a process, and again when one is altered."""
    from radloom.nets.folder import read_description, region_folders
    from radloom.nets.prediction import Settings

    folders = models if isinstance(models, Mapping) else {models.name: models}
    contents = tuple(
        (name, folder.resolve(), repr([read_description(part) for part in region_folders(folder)]))
        for name, folder in folders.items()
    )
    return _loaded(contents, settings or Settings())


@lru_cache(maxsize=1)
def _loaded(contents: tuple[tuple[str, Path, str], ...], settings: Settings) -> Predictor:
    """The predictor of models by name, folder and what their descriptions say, which names the weights' sha256."""
    from radloom.nets.prediction import load_predictor

    return load_predictor({name: folder for name, folder, _ in contents}, settings)


def _numbers(values: object) -> str:
    """Up to ten whole numbers in ascending order, for a message."""
    ordered = sorted(int(v) for v in values)  # type: ignore[attr-defined]
    text = ", ".join(map(str, ordered[:10]))
    return text + (f" and {len(ordered) - 10} more" if len(ordered) > 10 else "")
