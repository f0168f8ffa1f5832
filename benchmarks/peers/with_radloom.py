"""Radloom's step `extract`: what it reads of the volumes, its features, its table."""

import functools
import json
import tempfile
from pathlib import Path

from radloom.extract import extract_features, read_around, read_params, write_features

ENGINE = "radloom"
_FOLDER = tempfile.TemporaryDirectory()


def read(image, mask):
    return read_around(Path(image), Path(mask), [read_params(params_file(("firstorder",)), engine=ENGINE)], {})


@functools.cache
def params_file(classes):
    """A parameter file of PyRadiomics with these classes, on the original image."""
    path = Path(_FOLDER.name) / f"{'_'.join(classes)}.yaml"
    setting, features = {"binWidth": 25}, {name: [] for name in classes}
    path.write_text(json.dumps({"setting": setting, "imageType": {"Original": {}}, "featureClass": features}))
    return path


def compute(data, classes):
    image, mask = data
    # The step reads its parameter file for every case.
    return extract_features(image, mask, {1: "roi"}, read_params(params_file(tuple(classes)), engine=ENGINE))


def numbers(raw):
    return dict(zip(raw.columns, raw.rows["roi"], strict=True))


def write(raw, path):
    write_features(Path(path), raw)
