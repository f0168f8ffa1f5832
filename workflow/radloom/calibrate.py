"""Calibration of observed to true HU, and the air around the patient as a check of it.

Every calibration is a line, HU_true = slope HU_observed + intercept. With the values that water and air were
measured at, it sends them to 0 and -1000; a drift e of the scanner is HU_true = (HU_observed + 1000)(1 + e)
- 1000; through several materials of a phantom, or references in the image, it is fitted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from radloom.cohort import HOUNSFIELD, PAIRS
from radloom.errors import CaseError
from radloom.images import Array, Volume
from radloom.phantom_table import Covariance, Line, fit_line
from radloom.tissue_peaks import TISSUES

_SLOPES = (0.8, 1.25)
_MOST_WATER_SHIFT = 100.0
_MOST_SD = 25.0  # HU; of the corrected value of water
# Standard deviations in HU, for the line through references in the image: of water, that a scanner is adjusted to (the
# tolerance of +-4 HU of IEC 61223-3-5), and of air, which nothing but noise and scatter moves.
_WATER_SD = 4.0
_AIR_SD = 3.0
SHOWN_HU = (-1000.0, 0.0, 100.0)
"""Corrected values whose uncertainty is told."""

# What ingest leaves in padding. It is also the lowest value that a 12-bit scanner stores, and a value of the
# noise like any other; only whole areas of it are padding.
_FLOOR_HU = -1024.0
_FLOOR_WIDTH = 1.0  # HU; of rounding, and of what is left of the step between padding and air after resampling
_PADDING_MARGIN = 1
_AIR_BELOW = -500.0
_PADDED_BELOW = -1500.0  # air times the largest slope is above it; images that ingest hasn't read have -2000, -3024
_AIR_SLICES = 32
_AIR_EROSION = 2
_AIR_VOXELS = 1000
_AIR_BIN = 20.0  # HU
_AIR_SHARE = 0.1  # least share of a bin that is a peak
_AIR_WIDTH = 40.0  # HU to each side of the peak
_NOISES = 2.5  # standard deviations of noise; where they are more, the HU to each side
_AIR_MOST_WIDTH = 120.0  # HU
_AIR_ROUNDS = 12
_AIR_FIT = 0.2  # standard deviations
_AIR_SAMPLE = 200_000  # values that tell the noise
_AIR_CUT_OFF = 0.05  # share of the lower half
_ONE_SIGMA, _TWO_SIGMA = 0.8413, 0.9772  # shares of a normal distribution below these
_AIR_SHARP = 0.75  # least share of the values below the end of the peak that lies within it
_LIGHTER_THAN_LUNG = -960.0  # a peak below it, however wide, is air with much noise


@dataclass(frozen=True)
class Calibration:
    """HU_true = slope HU_observed + intercept, where it comes from, and the covariance of the two where it is known.

    `method` is how the line came about, `source` who it was measured for: the case, its scanner (a table of phantom
    measurements), its centre, or the image itself.
    """

    method: Literal["phantom", "drift", "references", "none"]
    slope: float = 1.0
    intercept: float = 0.0
    source: Literal["case", "scanner", "centre", "image", "none"] = "none"
    covariance: Covariance | None = None

    def uncertainty(self) -> dict[str, float | None]:
        """Standard deviation in HU at the corrected values `SHOWN_HU`, by their text; None where it is not known."""
        line = Line(self.slope, self.intercept, self.covariance)
        return {f"{hu:g}": line.sd((hu - self.intercept) / self.slope) for hu in SHOWN_HU}


def read_calibration(path: Path) -> Calibration:
    """The calibration that the step `calibrate` has written for a case."""
    content = json.loads(path.read_text(encoding="utf-8"))
    covariance = content.get("covariance")
    return Calibration(**content | {"covariance": covariance and tuple(covariance)})


def phantom_calibration(
    water_hu: float, air_hu: float, water_hu_sd: float | None = None, air_hu_sd: float | None = None
) -> Calibration:
    """The line that sends the observed `water_hu` to 0 and `air_hu` to -1000; the SDs are those of the two readings.

    An error of the readings moves the corrected value at x by slope ((x - water) e_air - (x - air) e_water) / (water -
    air): with independent errors their covariance follows (delta method). Raises CaseError for absurd values.
    """
    shown = f"water_hu {water_hu:g} and air_hu {air_hu:g}"
    if not (math.isfinite(water_hu) and math.isfinite(air_hu)) or water_hu <= air_hu:
        raise CaseError(f"{shown} can't be: water must be denser than air", _ADVICE)
    slope = 1000 / (water_hu - air_hu)
    if abs(water_hu) > _MOST_WATER_SHIFT:
        raise CaseError(f"water_hu {water_hu:g} is more than {_MOST_WATER_SHIFT:g} HU from 0", _ADVICE)
    _check_slope(slope, shown)
    covariance = None
    if water_hu_sd is not None and air_hu_sd is not None:
        _check_sd(water_hu_sd, "water_hu_sd")
        _check_sd(air_hu_sd, "air_hu_sd")
        water, air = ((slope * sd / (water_hu - air_hu)) ** 2 for sd in (water_hu_sd, air_hu_sd))
        both = -air_hu * water - water_hu * air
        covariance = (water + air, both, air_hu**2 * water + water_hu**2 * air)
    return _known_well(Calibration("phantom", slope, -slope * water_hu, covariance=covariance), shown, _ADVICE)


def drift_calibration(drift: float, drift_sd: float | None = None) -> Calibration:
    """HU_true = (HU_observed + 1000)(1 + drift) - 1000, which is exact at -1000 whatever the SD of the drift.

    Raises CaseError for an absurd drift.
    """
    shown = f"drift {drift:g}"
    _check_slope(1 + drift, shown)
    covariance = None
    if drift_sd is not None:
        _check_sd(drift_sd, "drift_sd")
        covariance = (drift_sd**2, 1e3 * drift_sd**2, 1e6 * drift_sd**2)
    return _known_well(Calibration("drift", 1 + drift, 1000 * drift, covariance=covariance), shown, _ADVICE)


def line_calibration(line: Line, method: Literal["phantom", "references"]) -> Calibration:
    """A fitted line as a calibration. Raises CaseError for an absurd line, and for one that is hardly known."""
    source: Literal["scanner", "image"] = "scanner" if method == "phantom" else "image"
    found = Calibration(method, line.slope, line.intercept, source, line.covariance)
    what = "the line through the phantom measurements" if method == "phantom" else "the line through the references"
    advice = _TABLE_ADVICE if method == "phantom" else _REFERENCES_ADVICE
    _check_slope(line.slope, what, advice)
    water = -line.intercept / line.slope
    if not abs(water) <= _MOST_WATER_SHIFT:
        raise CaseError(f"{what} has water at {water:.0f} HU, more than {_MOST_WATER_SHIFT:g} from 0", advice)
    return _known_well(found, what, advice)


def references_calibration(found: Mapping[str, float]) -> Calibration:
    """The line through water, taken to be where the scanner is adjusted to, and the references found in the image.

    `found` has observed HU of `air`, which is needed, and of tissues. What tissues have differs between patients, so
    they count with their spread.
    """
    measured = [0.0, found["air"], *(found[name] for name in TISSUES if name in found)]
    expected = [0.0, -1000.0, *(tissue.expected for name, tissue in TISSUES.items() if name in found)]
    sd = [_WATER_SD, _AIR_SD, *(tissue.sd for name, tissue in TISSUES.items() if name in found)]
    return line_calibration(fit_line(measured, expected, sd), "references")


def choose_calibration(row: Mapping[str, str], centre: Mapping[str, Any], scanner: Line | None = None) -> Calibration:
    """The case's calibration: its own `water_hu` and `air_hu` (`row`, text), else the line of its scanner's phantom,
    else the values or the `drift` of its centre; each with the SDs that are given.

    Empty cells count as absent. Raises CaseError where only one of two is given that belong together, or where they are
    no numbers.
    """
    own = {name: row[name].strip() for name in HOUNSFIELD if row.get(name, "").strip()}
    for given, needed in PAIRS:
        if given in own and needed not in own:
            raise CaseError(f"{given} is given, but {needed} is not", "Give both in the cohort sheet, or neither.")
    if own:
        values = {name: _number(text, name) for name, text in own.items()}
        return replace(phantom_calibration(**values), source="case")
    if scanner is not None:
        return line_calibration(scanner, "phantom")
    if centre:
        of_centre = {name: float(value) for name, value in centre.items()}
        found = drift_calibration(**of_centre) if "drift" in centre else phantom_calibration(**of_centre)
        return replace(found, source="centre")
    return Calibration("none")


def calibrate_image(image: Volume, calibration: Calibration, *, round_hu: bool) -> tuple[Volume, list[str]]:
    """The image in true HU, and warnings: int16, rounded (halves to even), if `round_hu`, else float32.

    Without a calibration and without rounding the values stay bit for bit. Rounded values outside int16 are
    set to its ends and warned of.
    """
    result = np.empty(image.array.shape, dtype=np.int16 if round_hu else np.float32)
    limits = np.iinfo(np.int16)
    clipped = 0
    for source, target in zip(image.array, result, strict=True):
        plane = source
        if calibration.method != "none":
            plane = source.astype(np.float64) * calibration.slope + calibration.intercept
        if round_hu:
            plane = np.rint(plane)
            outside = (plane < limits.min) | (plane > limits.max)
            if outside.any():
                clipped += int(np.count_nonzero(outside))
                plane = plane.clip(limits.min, limits.max)
        target[...] = plane
    warnings = [f"{clipped} voxels beyond the range of 16-bit HU were set to its end"] if clipped else []
    return Volume(result, image.geometry), warnings


def measure_air(array: Array, calibration: Calibration, valid: Array | None = None) -> tuple[float | None, int]:
    """HU of the air around the body in a calibrated image (z, y, x), and of how many voxels; None without
    air.

    Looked at is what the four sides of at most 32 axial slices see before anything above -500 HU, two voxels
    off its edge: no lung or bowel. Padding is left out, with two voxels around it: where `valid` (z, y, x) is 0, or
    without it where all of 3 x 3 pixels were observed at -1024; single voxels of that value are noise and stay.
    Clothes, foam and partial volume are denser than air, so the first peak of the histogram is the air, and its median
    is returned. Fewer than 1000 voxels, no peak, or one above -960 HU that is wide on the side of the lower values too,
    as lung at the border of a crop makes it, are no air.
    """
    floor = calibration.slope * _FLOOR_HU + calibration.intercept
    count = min(_AIR_SLICES, array.shape[0])
    seen = []
    for z in np.unique(np.linspace(0, array.shape[0] - 1, count).round().astype(int)):
        plane = array[z]
        region = _seen_from_outside(plane < _AIR_BELOW) & (plane > _PADDED_BELOW)
        if valid is None:
            region &= ~_eroded(np.abs(plane - floor) <= _FLOOR_WIDTH, _PADDING_MARGIN)
        else:
            region &= valid[z] != 0
        seen.append(plane[_eroded(region, _AIR_EROSION)].astype(np.float64))
    around = np.concatenate(seen)
    if around.size < _AIR_VOXELS:
        return None, int(around.size)
    edges = np.arange(around.min(), _AIR_BELOW + 2 * _AIR_BIN, _AIR_BIN)
    shares = np.concatenate([[0], np.histogram(around, edges)[0] / around.size, [0]])
    peaks = (shares[1:-1] >= _AIR_SHARE) & (shares[1:-1] >= shares[:-2]) & (shares[1:-1] >= shares[2:])
    if not peaks.any():
        return None, int(around.size)
    peak = edges[np.argmax(peaks)] + _AIR_BIN / 2
    air = around[np.abs(around - peak) <= _AIR_WIDTH]
    sharp = air.size >= _AIR_SHARP * np.count_nonzero(around <= peak + _AIR_WIDTH)
    if not sharp and peak > _LIGHTER_THAN_LUNG:
        return None, int(around.size)
    air = _noisy_air(around, air)
    return float(np.median(air)), int(air.size)


def air_warning(air_hu: float | None, tolerance: float) -> list[str]:
    """A warning where the measured air lies further than `tolerance` HU from -1000."""
    if air_hu is None or abs(air_hu + 1000) <= tolerance:
        return []
    return [f"the air outside the body has {air_hu:.0f} HU, more than {tolerance:g} from -1000"]


_ADVICE = "Correct them in the cohort sheet or in calibrate: centres of the configuration."
_TABLE_ADVICE = "Correct them in the table of phantom measurements, or leave the scanner out of it."
_REFERENCES_ADVICE = "Look at the image; with calibrate: correct_by_references: false it stays as it is."


def _check_slope(slope: float, shown: str, advice: str = _ADVICE) -> None:
    if not _SLOPES[0] <= slope <= _SLOPES[1]:  # NaN too
        raise CaseError(f"{shown} would scale HU by {slope:.3g}, outside {_SLOPES[0]:g} to {_SLOPES[1]:g}", advice)


def _check_sd(sd: float, name: str) -> None:
    if not (math.isfinite(sd) and sd > 0):
        raise CaseError(f"{name} is not above 0", "Leave it out where it is not known: nothing is known exactly.")


def _known_well(found: Calibration, what: str, advice: str) -> Calibration:
    """The calibration itself. Raises CaseError where it hardly tells where water is."""
    sd = found.uncertainty()["0"]
    if sd is not None and sd > _MOST_SD:
        raise CaseError(f"{what} leaves water uncertain by {sd:.0f} HU (standard deviation)", advice)
    return found


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CaseError(f"{name} is no number", "Write it in HU with a decimal point.") from None


def _seen_from_outside(low: Array) -> Array:
    """Pixels of a 2D boolean image that a row or column reaches from a side through True alone."""
    rays = np.logical_and.accumulate
    return np.asarray(
        rays(low, axis=0) | rays(low[::-1], axis=0)[::-1] | rays(low, axis=1) | rays(low[:, ::-1], axis=1)[:, ::-1]
    )


def _noisy_air(around: Array, air: Array) -> Array:
    """The values of the air among those `around` the body, where its noise is wider than the window of `air`.

    A peak may then be no more than the values that a scanner cut off, and the median of a window about it lies too low.
    The window moves to its own median and widens to 2.5 SD of the noise, which the upper half tells, until it stays. It
    counts where what lies below fits that noise, or is cut off; else something denser is among it, and `air` stays.
    """
    some = around[:: max(1, around.size // _AIR_SAMPLE)]
    middle, sigma = _middle(air[:: max(1, air.size // _AIR_SAMPLE)])
    for _ in range(_AIR_ROUNDS):
        width = min(_NOISES * sigma, _AIR_MOST_WIDTH)
        if width <= _AIR_WIDTH:
            return air
        last = middle
        middle, sigma = _middle(some[np.abs(some - middle) <= width])
    # Nothing is lighter than air: all that lies below is the lower half of its noise, but for what is cut off.
    below, least = some[some <= middle], some.min()
    low, lower = np.quantile(below, [2 * (1 - _ONE_SIGMA), 2 * (1 - _TWO_SIGMA)])
    fits = [abs(one - max(middle - n * sigma, least)) <= _AIR_FIT * sigma for n, one in ((1, low), (2, lower))]
    cut_off = math.erfc((middle - least - 0.5) / sigma / math.sqrt(2))
    fits.append(abs(np.mean(below <= least) - cut_off) <= _AIR_CUT_OFF)
    return around[np.abs(around - last) <= width] if all(fits) else air


def _middle(values: Array) -> tuple[float, float]:
    """The median, and how far the 84 % quantile lies above it."""
    middle, above = np.quantile(values, [0.5, _ONE_SIGMA])
    return float(middle), float(above - middle)


def _eroded(region: Array, margin: int) -> Array:
    """Pixels of a 2D boolean image that are True with all pixels up to `margin` away along rows and columns.

    Pixels nearer than that to the rim of the image are out.
    """
    result = region
    for axis in (0, 1):
        window = np.lib.stride_tricks.sliding_window_view(result, 2 * margin + 1, axis=axis).all(axis=-1)
        result = np.zeros_like(region)
        inner = [slice(None), slice(None)]
        inner[axis] = slice(margin, margin + window.shape[axis])
        result[tuple(inner)] = window
    return result
