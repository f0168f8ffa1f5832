"""Radloom's step `extract`: volumes as it reads them, its features, its table."""

import functools
import json
import tempfile
from pathlib import Path

from radloom.extract import extract_features, read_params, write_features
from radloom.images import read_nifti

ENGINE = "radloom"
_FOLDER = tempfile.TemporaryDirectory()


def read(image, mask):
    return read_nifti(Path(image)), read_nifti(Path(mask))


@functools.cache
def params_file(classes):
    path = Path(_FOLDER.name) / f"{'_'.join(classes)}.yaml"
    content = {
        "setting": {"binWidth": 25},
        "imageType": {"Original": {}},
        "featureClass": {name: [] for name in classes},
    }
    path.write_text(json.dumps(content))
    return path


def compute(data, classes):
    # The step reads its parameter file for every case.
    image, mask = data
    return extract_features(image, mask, {1: "roi"}, read_params(params_file(tuple(classes))), engine=ENGINE)


def numbers(raw):
    return dict(zip(raw.columns, raw.rows["roi"], strict=True))


def write(raw, path):
    write_features(Path(path), raw)
