"""When a feature agrees with PyRadiomics': |a - b| <= 1e-9 max(|a|, |b|) + 1e-12 x scale.

The scale of a feature is the size of the terms it is a sum of, which counts where they cancel: the mean of values from
-1000 to 1000 may be 1e-14. Two features are roots of a difference that may be nothing but rounding, so their squares
are compared: Imc2 (of 1 - exp(-2 (HXY2 - HXY))) and the axis lengths and ratios of shape (of an eigenvalue).
"""

import math
from collections.abc import Mapping

RELATIVE = 1e-9
ABSOLUTE = 1e-12

_SQUARED = {
    "Imc2",
    "Elongation",
    "Flatness",
    "LeastAxisLength",
    "MinorAxisLength",
    "MajorAxisLength",
}


def scale_of(feature: str, name: str, values: Mapping[str, float]) -> float:
    """Return the scale of `<image>_<class>_<Feature>` of class `name`, from other features in the same row."""
    prefix = feature.rpartition("_")[0]
    if name == "firstorder":
        largest = max((abs(values.get(f"{prefix}_{end}", 0.0)) for end in ("Minimum", "Maximum")), default=0.0)
        power = 2 if feature.endswith(("Variance",)) else 1
        return max(largest, 1.0) ** power if not feature.endswith(("Skewness", "Kurtosis")) else 1.0
    if name == "shape":
        # Squares of lengths are compared: what is lost of the longest axis' variance.
        return max(1.0, values.get(f"{prefix}_MajorAxisLength", 1.0) ** 2)
    if feature.endswith("ClusterShade"):
        return max(1.0, values.get(f"{prefix}_ClusterProminence", 1.0))
    return 1.0


def disagreements(
    found: Mapping[str, float], expected: Mapping[str, float], absolute: float = ABSOLUTE
) -> dict[str, tuple[float, float]]:
    """Return the features that don't agree, with both values; empty where all do, and the names are the same."""
    assert sorted(found) == sorted(expected)
    wrong = {}
    for column, b in expected.items():
        a = found[column]
        name, feature = column.split("_")[-2:]
        scale = scale_of(column, name, expected)
        x, y = (a * a, b * b) if feature in _SQUARED else (a, b)
        same = math.isnan(a) and math.isnan(b)
        if not same and not abs(x - y) <= RELATIVE * max(abs(x), abs(y)) + absolute * scale:
            wrong[column] = (a, b)
    return wrong
