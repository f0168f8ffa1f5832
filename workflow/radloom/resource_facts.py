"""What the files that a configuration names say of the run: parameter files of the extraction, and the net's folder.

The report knows settings from its plan, which has no paths. So the plan also has what such a file holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from radloom.errors import CohortError
from radloom.feature_params import read_params

_OF_MODEL = ("name", "classes", "spacing", "hu_window", "dice", "licence", "region")


def resource_facts(resources: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """By resource (`params`, `params.<extraction>`, `model`): its sha256 and what of its content tells what was done.

    `resources` are those of a step's plan, with `path` and `sha256`. A parameter file gives `setting`, `image_types`
    and `features` as they are used; a net's folder gives name, kind, classes, spacing, window, Dice and licence, what
    it was trained on, and its region with the same of the net that finds it (`region_net`). A file that can't be read
    gives its hash alone: the step that uses it is what complains.
    """
    found: dict[str, Any] = {}
    for name, resource in resources.items():
        path = Path(resource["path"])
        content = _of_params(path) if name.partition(".")[0] == "params" else _of_model(path)
        found[name] = {"sha256": resource["sha256"], **content}
    return found


def _of_params(path: Path) -> dict[str, Any]:
    try:
        params = read_params(path)
    except CohortError:
        return {}
    return {
        "setting": dict(params.setting),
        "image_types": {name: dict(own) for name, own in params.image_types.items()},
        "features": {name: list(features) for name, features in params.features.items()},
    }


def _of_model(path: Path) -> dict[str, Any]:
    try:
        document = json.loads((path / "model.json").read_text(encoding="utf-8"))
        data = document.get("training", {}).get("data")
        weights = document.get("weights", {}).get("sha256")
        architecture = document.get("architecture", {})
        built = {key: architecture[key] for key in ("kind", "dimensions") if key in architecture}
    except (OSError, ValueError, AttributeError):
        return {}
    chosen = {key: document[key] for key in _OF_MODEL if key in document}
    region = {"region_net": _of_model(path / "region")} if document.get("region") else {}
    return chosen | built | {"trained_on": data, "weights_sha256": weights} | region
