"""Stock PyRadiomics, run as its users run it: the oracle of `radloom.features`, and `extract.engine: pyradiomics`.

Its numbers are left as they are. Around it stands what a batch of cases needs: warnings collected instead of printed,
no paths in them, and its settings kept from what concerns the whole process.
"""

from __future__ import annotations

import functools
import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from radloom.errors import CaseError, CohortError
from radloom.feature_params import SHAPE_CLASSES, FeatureParams
from radloom.features.filters import lbp3d_bridge
from radloom.images import Array, Volume, from_sitk, to_sitk

if TYPE_CHECKING:
    from radiomics.featureextractor import RadiomicsFeatureExtractor

# A co-occurrence matrix holds one float64 for each pair of grey levels and direction: 1.7 GB at this number
# of levels.
MAX_GREY_LEVELS = 4096

# PyRadiomics logs these as warnings for every ROI, although they follow from the parameter file and don't
# touch a number.
_CHATTER = ("GLCM is symmetrical", "is deprecated, use with caution", "Calculating Local Binary Pattern")


def normalized(image: Volume, setting: Mapping[str, Any]) -> Volume:
    """Return the image as PyRadiomics scales it by its own mean and standard deviation before anything else."""
    from radiomics.imageoperations import normalizeImage

    return from_sitk(normalizeImage(to_sitk(image), **setting))


def stock_shape(image: Volume, mask: Volume, params: FeatureParams, name: str) -> dict[str, float]:
    """Return the shape features of class `name` (`shape`, `shape2D`) of a mask, 1 inside, by column.

    On their own, because PyRadiomics crops to the box of the re-segmented mask, and so would cut off the shape
    of the whole ROI.
    """
    setting = {key: value for key, value in params.setting.items() if key not in ("resegmentRange", "normalize")}
    return _execute(_extractor(setting, {}, {name: params.features[name]}), image, mask)


def stock_textures(image: Volume, mask: Volume, params: FeatureParams) -> dict[str, float]:
    """Return the first order and texture features of all image types by column; the mask is 1 inside."""
    classes = {name: features for name, features in params.features.items() if name not in SHAPE_CLASSES}
    if not classes:
        return {}
    with lbp3d_bridge():
        return _execute(_extractor(params.setting, params.image_types, classes), image, mask)


def check_grey_levels(values: Array, params: FeatureParams) -> None:
    """Raise CaseError where PyRadiomics' matrices of the original image's grey levels would not fit into memory."""
    if "Original" not in params.image_types or not set(params.features) - {"firstorder", *SHAPE_CLASSES}:
        return
    setting = params.effective("Original")
    low, high, width = float(values.min()), float(values.max()), float(setting.get("binWidth", 25))
    levels = int(setting.get("binCount", high // width - low // width + 1))
    if levels > MAX_GREY_LEVELS:
        raise CaseError(
            f"the ROI's values from {low:g} to {high:g} make {levels} grey levels, more than {MAX_GREY_LEVELS}",
            "a larger `binWidth`, or a `resegmentRange` that leaves out implausible values",
        )


def _extractor(
    setting: Mapping[str, Any],
    image_types: Mapping[str, Mapping[str, Any]],
    features: Mapping[str, tuple[str, ...]],
) -> RadiomicsFeatureExtractor:
    """A stock extractor with just these settings, image types and features.

    Left to Radloom: the diagnostics (the case records hold them), the size limit (checked, see
    `extract_features`), and what concerns a mask on another grid (the grids are the same), which would change
    SimpleITK's tolerance for the whole process.
    """
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    ours = {"minimumROISize", "geometryTolerance", "correctMask", "additionalInfo"}
    extractor = RadiomicsFeatureExtractor(additionalInfo=False)
    extractor.settings.update({key: value for key, value in setting.items() if key not in ours})
    extractor.enabledImagetypes = {name: dict(own) for name, own in image_types.items()}
    extractor.enabledFeatures = {name: list(wanted) for name, wanted in features.items()}
    return extractor


def _execute(extractor: RadiomicsFeatureExtractor, image: Volume, mask: Volume) -> dict[str, float]:
    picture, inside = to_sitk(image), to_sitk(mask)
    # The grids agree within a tolerance; SimpleITK wants them equal.
    inside.CopyInformation(picture)
    return {name: float(value) for name, value in extractor.execute(picture, inside, label=1).items()}


def check_by_schema(params: FeatureParams) -> None:
    """Hold parameters against PyRadiomics' own schema; raises CohortError where they fail."""
    content = {
        "setting": dict(params.setting),
        "imageType": {name: dict(own) for name, own in params.image_types.items()},
        "featureClass": {name: list(features) for name, features in params.features.items()},
    }
    _check_by_schema(json.dumps(content))


@functools.lru_cache(maxsize=8)
def _check_by_schema(content: str) -> None:
    # Once a process: it takes 30 ms.
    import pykwalify.core
    from pykwalify.errors import PyKwalifyException
    from radiomics import getParameterValidationFiles

    schema, functions = getParameterValidationFiles()
    logging.getLogger(pykwalify.core.__name__).addHandler(logging.NullHandler())
    core = pykwalify.core.Core(source_data=json.loads(content), schema_files=[schema], extensions=[functions])
    try:
        core.validate()
    except (PyKwalifyException, TypeError, ValueError) as error:
        raise CohortError(f"PyRadiomics rejects the parameter file: {' '.join(str(error).split())}") from None


class _Listener(logging.Handler):
    def __init__(self, heard: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.heard = heard

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())
        if any(part in message for part in _CHATTER):
            return
        if message.startswith("FAILED:"):
            message = _failure(record)
        if message not in self.heard:
            self.heard.append(message)


def _failure(record: logging.LogRecord) -> str:
    """`glcm Contrast failed: ZeroDivisionError: ...` of the traceback that PyRadiomics logs (which holds
    paths of this machine).
    """
    text = record.getMessage()
    feature = re.search(r"\bget(\w+)FeatureValue\b", text)
    name = f"{record.name.rpartition('.')[2]} {feature.group(1) if feature else 'feature'}"
    return f"{name} failed: {text.strip().splitlines()[-1].strip()}"


@contextmanager
def listening() -> Iterator[list[str]]:
    """Collect what PyRadiomics logs as a warning or worse, and keep it and NumPy from printing."""
    import radiomics

    heard: list[str] = []
    listener = _Listener(heard)
    logger = radiomics.logger
    console, propagate = radiomics.handler.level, logger.propagate
    radiomics.handler.setLevel(logging.CRITICAL + 1)
    logger.propagate = False
    logger.addHandler(listener)
    try:
        # Every division by zero ends in a value that is not finite, and that is reported as an empty cell.
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield heard
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
        radiomics.handler.setLevel(console)
