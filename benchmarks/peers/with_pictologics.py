"""pictologics on images that its `load_image` read, in bins that begin where PyRadiomics' begin."""

import math

from pictologics import RadiomicsPipeline, load_image

FAMILIES = {"firstorder": ["intensity", "histogram"], "shape": ["morphology"], "gldm": ["ngldm"]}
_first_edge: dict[str, float] = {}


def read(image, mask):
    data = load_image(image), load_image(mask, stored_type=True)
    if image not in _first_edge:
        _first_edge[image] = 25.0 * math.floor(data[0].array[data[1].array == 1].min() / 25)
    return *data, _first_edge[image]


def compute(data, classes):
    image, mask, first_edge = data
    pipeline = RadiomicsPipeline()
    steps = [
        {"step": "discretise", "params": {"method": "FBS", "bin_width": 25.0, "min_val": first_edge}},
        {
            "step": "extract_features",
            "params": {"families": [family for name in classes for family in FAMILIES.get(name, [name])]},
        },
    ]
    pipeline.add_config("bench", steps)
    return pipeline.run(image, mask, config_names=["bench"])["bench"]


def numbers(raw):
    return {name: float(value) for name, value in raw.items()}
