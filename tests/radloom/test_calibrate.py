"""HU calibration and the air around the body."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from radloom.calibrate import (
    Calibration,
    air_warning,
    calibrate_image,
    choose_calibration,
    drift_calibration,
    line_calibration,
    measure_air,
    phantom_calibration,
    read_calibration,
    references_calibration,
)
from radloom.errors import CaseError
from radloom.images import Geometry, Volume
from radloom.ingest import AIR_HU, clean_hu
from radloom.phantom_table import Line, fit_line
from radloom.resample import resample_image


def volume(array: np.ndarray) -> Volume:
    """A volume at 1 mm."""
    z, y, x = array.shape
    return Volume(array, Geometry((x, y, z), (1, 1, 1), (0, 0, 0)))


@given(st.floats(-60, 60), st.floats(-1100, -900))
def test_a_phantom_sends_water_to_0_and_air_to_minus_1000(water: float, air: float) -> None:
    line = phantom_calibration(water, air)
    assert line.slope * water + line.intercept == pytest.approx(0, abs=1e-9)
    assert line.slope * air + line.intercept == pytest.approx(-1000)


def test_drift_of_the_test_vector() -> None:
    """True 45 HU at e = 0.005 is observed 5.199 HU too low, and the calibration gives it back."""
    observed = 1045 / 1.005 - 1000
    assert 45 - observed == pytest.approx(5.199, abs=5e-4)
    line = drift_calibration(0.005)
    assert line.slope * observed + line.intercept == pytest.approx(45)
    assert line.slope * -1000 + line.intercept == pytest.approx(-1000)


@given(st.floats(-0.1, 0.1), st.floats(-1000, 3000))
def test_a_drift_is_the_phantom_that_shows_it(drift: float, true: float) -> None:
    """Water observed through a drift, with air at -1000, gives the same line."""
    water = 1000 / (1 + drift) - 1000
    by_drift, by_phantom = drift_calibration(drift), phantom_calibration(water, -1000) if abs(water) < 100 else None
    if by_phantom is not None:
        assert by_phantom.slope == pytest.approx(by_drift.slope)
        assert by_phantom.slope * true + by_phantom.intercept == pytest.approx(
            by_drift.slope * true + by_drift.intercept, abs=1e-6
        )


def test_the_case_s_own_values_come_before_its_centre_s() -> None:
    row = {"water_hu": "5", "air_hu": "-990"}
    own, drift, of_centre = phantom_calibration(5, -990), drift_calibration(0.01), phantom_calibration(3, -1003)
    assert choose_calibration(row, {"drift": 0.01}) == replace(own, source="case")
    assert choose_calibration({"water_hu": "", "air_hu": " "}, {"drift": 0.01}) == replace(drift, source="centre")
    assert choose_calibration({}, {"water_hu": 3, "air_hu": -1003}) == replace(of_centre, source="centre")
    assert choose_calibration({}, {}) == Calibration("none", 1.0, 0.0)
    # The scanner's phantom stands between them.
    line = Line(1.01, 2.0, None)
    assert choose_calibration({}, {"drift": 0.01}, line) == Calibration("phantom", 1.01, 2.0, "scanner")
    assert choose_calibration(row, {}, line).source == "case"


@pytest.mark.parametrize(
    ("row", "centre", "reason"),
    [
        ({"water_hu": "5"}, {"drift": 0.01}, "water_hu is given, but air_hu is not"),
        ({"air_hu": "-1000", "water_hu": ""}, {}, "air_hu is given, but water_hu is not"),
        ({"water_hu": "5,2", "air_hu": "-1000"}, {}, "water_hu is no number"),
        ({"water_hu": "nan", "air_hu": "-1000"}, {}, "can't be"),
        ({"water_hu": "-1000", "air_hu": "0"}, {}, "denser"),
        ({"water_hu": "300", "air_hu": "-700"}, {}, "more than 100 HU from 0"),
        ({"water_hu": "0", "air_hu": "-500"}, {}, "would scale HU by 2"),
        ({}, {"drift": 0.5}, "would scale HU by 1.5"),
        ({}, {"drift": float("nan")}, "would scale HU by nan"),
        ({"water_hu": "0", "air_hu": "-1000", "water_hu_sd": "1"}, {}, "water_hu_sd is given, but air_hu_sd is not"),
        ({"water_hu_sd": "1", "air_hu_sd": "1"}, {}, "water_hu_sd is given, but water_hu is not"),
        ({"water_hu": "0", "air_hu": "-1000", "water_hu_sd": "0", "air_hu_sd": "1"}, {}, "water_hu_sd is not above 0"),
        ({}, {"water_hu": 0, "air_hu": -1000, "water_hu_sd": 30, "air_hu_sd": 1}, "leaves water uncertain by 30 HU"),
        ({}, {"drift": 0.0, "drift_sd": 0.03}, "leaves water uncertain by 30 HU"),
    ],
)
def test_values_that_cannot_be_are_refused(row: dict[str, str], centre: dict[str, float], reason: str) -> None:
    with pytest.raises(CaseError, match=reason):
        choose_calibration(row, centre)


def test_rounding_goes_to_the_even_neighbour_and_stays_in_int16() -> None:
    array = np.array([[[-1.5, -0.5, 0.5, 1.5, 2.49, 40000, -40000]]], dtype=np.float32)
    found, warnings = calibrate_image(volume(array), Calibration("none"), round_hu=True)
    assert found.array.dtype == np.int16
    assert found.array.ravel().tolist() == [-2, 0, 0, 2, 2, 32767, -32768]
    assert warnings == ["2 voxels beyond the range of 16-bit HU were set to its end"]


def test_without_calibration_and_rounding_no_bit_changes() -> None:
    array = np.random.default_rng(0).normal(0, 300, (3, 4, 5)).astype(np.float32)
    found, warnings = calibrate_image(volume(array), Calibration("none"), round_hu=False)
    np.testing.assert_array_equal(found.array, array)
    assert warnings == []


def test_the_line_is_applied_in_float64() -> None:
    array = np.random.default_rng(0).uniform(-1024, 3071, (3, 40, 50)).astype(np.float32)
    line = phantom_calibration(7.3, -985.1)
    expected = (array.astype(np.float64) - 7.3) / (7.3 + 985.1) * 1000
    found, _ = calibrate_image(volume(array), line, round_hu=False)
    np.testing.assert_allclose(found.array, expected, atol=3e-4)
    found, _ = calibrate_image(volume(array), line, round_hu=True)
    assert np.abs(found.array - expected).max() <= 0.5 + 1e-9


def body(air_hu: float, noise: float = 15, lung: bool = True) -> np.ndarray:
    """An elliptic body with lungs in air: 40 slices of 120 x 120, smoothed as a scanner would."""
    y, x = np.mgrid[:120, :120] - 60.0
    plane = np.where((x / 50) ** 2 + (y / 35) ** 2 < 1, 30.0, air_hu)
    if lung:
        plane[(np.abs(x) - 22) ** 2 / 14**2 + (y / 22) ** 2 < 1] = -850
    plane = ndimage.gaussian_filter(plane, 1)
    array = np.repeat(plane[None], 40, axis=0) + np.random.default_rng(0).normal(0, noise, (40, 120, 120))
    return np.rint(array).astype(np.int16)


@pytest.mark.parametrize("air_hu", [-1000, -960, -880])
def test_the_air_outside_is_measured_and_not_the_lung(air_hu: float) -> None:
    found, voxels = measure_air(body(air_hu), Calibration("none"))
    assert found == pytest.approx(air_hu, abs=1)
    assert voxels > 100_000


def test_padding_is_no_air() -> None:
    """-1024 beyond a round field of view, moved by the calibration as the rest is."""
    line = drift_calibration(0.02)
    array = body(-1000)
    y, x = np.mgrid[:120, :120] - 60.0
    array[:, x**2 + y**2 > 58**2] = -1024
    found, _ = calibrate_image(volume(array.astype(np.float32)), line, round_hu=True)
    # Most of the border is padding, which would pull the median to -1024.5.
    assert measure_air(found.array, line)[0] == pytest.approx(-1000, abs=1.5)


@pytest.mark.parametrize(("air_hu", "noise"), [(-1080, 10), (-1000, 25), (-1000, 60), (-930, 20)])
@pytest.mark.parametrize("padding", [None, -1024, -2000])
@pytest.mark.parametrize("spacing", [1.0, 1.4])
def test_noisy_air_from_the_source_to_the_check(
    air_hu: float, noise: float, padding: int | None, spacing: float
) -> None:
    """Calibrated by its own air value it is at -1000, and measured there, whatever lies beyond the field of view."""
    array = body(air_hu, noise)
    y, x = np.mgrid[:120, :120] - 60.0
    if padding is not None:
        array[:, x**2 + y**2 > 59**2] = padding
    clean, *_ = clean_hu(array)
    image = resample_image(volume(clean), (spacing, spacing, 0.0), "bspline")
    found, _ = calibrate_image(image, phantom_calibration(0, air_hu), round_hu=True)
    py, px = np.meshgrid(*[np.linspace(-1, 1, n) * (n * spacing - spacing) / 2 for n in found.array.shape[1:]])
    ring = (np.hypot(px, py) < 56) & (np.hypot(px, py) > 53)
    assert found.array[:, ring].mean() == pytest.approx(-1000, abs=1)
    measured, voxels = measure_air(found.array, phantom_calibration(0, air_hu))
    assert measured == pytest.approx(-1000, abs=3 if noise < 30 else 10)
    assert voxels > 10_000


def test_noise_clipped_by_the_scanner_is_not_taken_for_padding() -> None:
    """A sixth of the air is at -1024 exactly, in single voxels, and belongs to it."""
    whole = body(-1000, 25)
    expected, voxels = measure_air(whole, Calibration("none"))
    found, clipped_voxels = measure_air(np.maximum(whole, -1024), Calibration("none"))
    assert expected == pytest.approx(-1000, abs=1)
    assert found == pytest.approx(-1000, abs=6)
    assert clipped_voxels > 0.9 * voxels


@pytest.mark.parametrize("noise", [30, 40, 60])
@pytest.mark.parametrize("air_hu", [-1000, -975])
def test_much_noise_that_is_cut_off_leaves_the_air_where_it_is(air_hu: float, noise: float) -> None:
    """At -1024 a quarter of all values and more may pile up: the first peak of the histogram, and not the air's."""
    whole = body(air_hu, noise)
    found, _ = measure_air(np.maximum(whole, -1024), Calibration("none"))
    assert found == pytest.approx(air_hu, abs=3)
    assert measure_air(whole, Calibration("none"))[0] == pytest.approx(air_hu, abs=6)


@pytest.mark.parametrize("noise", [30, 50])
def test_foam_is_not_taken_for_noise(noise: float) -> None:
    """Foam of -900 HU over most of what surrounds the body, which would widen the air and raise it by 70 HU."""
    array = body(-1000, noise)
    array[:, 75:] = np.where(array[:, 75:] < -500, array[:, 75:] + 100, array[:, 75:])
    array[:, :20] += 70
    found, _ = measure_air(np.maximum(array, -1024), Calibration("none"))
    assert found == pytest.approx(-1000, abs=20)


def test_resampling_does_not_ring_at_what_was_padding() -> None:
    """From -1024 to the air a B-spline swings over by a fraction of the step; from -3024 it would by hundreds of HU."""
    array = body(-1000, 0)
    y, x = np.mgrid[:120, :120] - 60.0
    array[:, x**2 + y**2 > 59**2] = -3024
    clean, *_ = clean_hu(array)
    found = resample_image(volume(clean), (0.7, 0.7, 0.7), "bspline").array
    whole = resample_image(volume(body(-1000, 0)), (0.7, 0.7, 0.7), "bspline").array
    assert found.min() > AIR_HU - 6
    assert found.max() == pytest.approx(whole.max(), abs=1)
    assert np.abs(found - whole).max() < 30


def test_a_crop_without_air_has_none() -> None:
    inside = body(-1000)[:, 40:80, 40:80]
    assert (inside < -500).any(), "there is lung in the crop"
    tissue = body(-1000, lung=False)[:, 40:80, 40:80]
    assert measure_air(tissue, Calibration("none")) == (None, 0)


def test_a_crop_in_the_lung_has_no_air() -> None:
    lung = np.random.default_rng(1).normal(-830, 70, (40, 40, 40)).astype(np.int16)
    found, voxels = measure_air(lung, Calibration("none"))
    assert found is None
    assert voxels > 1000


def test_clothes_and_a_table_are_no_air() -> None:
    """Foam of -900 HU over more than half of what surrounds the body leaves the median alone."""
    array = body(-1000)
    array[:, 75:] = np.where(array[:, 75:] < -500, array[:, 75:] + 100, array[:, 75:])
    array[:, :20] += 70
    found, _ = measure_air(array, Calibration("none"))
    assert found == pytest.approx(-1000, abs=3)


def test_warning_of_air_far_from_minus_1000() -> None:
    assert air_warning(-960.0, 50) == []
    assert air_warning(None, 50) == []
    assert air_warning(-949.0, 50) == ["the air outside the body has -949 HU, more than 50 from -1000"]


def test_padding_that_is_known_is_no_air() -> None:
    """Whatever its value: -1000 here, so that only the mask tells it from the air, which is 30 HU off."""
    array = body(-970)
    y, x = np.mgrid[:120, :120] - 60.0
    outside = x**2 + y**2 > 55**2
    array[:, outside] = -1000
    valid = np.broadcast_to(~outside, array.shape).astype(np.uint8)
    assert measure_air(array, Calibration("none"), valid)[0] == pytest.approx(-970, abs=1)
    assert measure_air(array, Calibration("none"))[0] == pytest.approx(-1000, abs=1)
    assert measure_air(array, Calibration("none"), valid * 0) == (None, 0)


@pytest.mark.parametrize("padding", [-1024, -2000, -3024])
def test_padding_of_an_image_that_ingest_has_not_read(padding: int) -> None:
    array = body(-985)
    y, x = np.mgrid[:120, :120] - 60.0
    array[:, x**2 + y**2 > 58**2] = padding
    assert measure_air(array, Calibration("none"))[0] == pytest.approx(-985, abs=1)


def test_a_valid_image_has_the_air_that_it_has_without_a_mask() -> None:
    array = body(-1000, 25)
    without = measure_air(array, Calibration("none"))
    assert measure_air(array, Calibration("none"), np.ones(array.shape, np.uint8)) == without


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (Line(0.7, 0, None), "would scale HU by 0.7"),
        (Line(float("nan"), 0, None), "would scale HU by nan"),
        (Line(1.0, 150, None), "has water at -150 HU, more than 100 from 0"),
        (Line(1.0, 0, (0, 0, 900)), r"leaves water uncertain by 30 HU \(standard deviation\)"),
    ],
)
@pytest.mark.parametrize("method", ["phantom", "references"])
def test_lines_outside_sane_limits_are_refused(
    line: Line, reason: str, method: Literal["phantom", "references"]
) -> None:
    with pytest.raises(CaseError, match=reason):
        line_calibration(line, method)


def test_the_uncertainty_is_told_at_corrected_values() -> None:
    """Of 3 HU at observed -1010 and 1 HU at observed 5, which become -1000 and 0."""
    line = fit_line([-1010, 5], [-1000, 0], [3, 1])
    found = line_calibration(line, "phantom").uncertainty()
    assert list(found) == ["-1000", "0", "100"]
    assert found["-1000"] == pytest.approx(3 * line.slope)
    assert found["0"] == pytest.approx(1 * line.slope)
    unknown = {"-1000": None, "0": None, "100": None}
    for without in (Calibration("none"), phantom_calibration(5, -990), drift_calibration(0.01)):
        assert without.uncertainty() == unknown, "not known, never 0"


def test_the_uncertainty_of_water_and_air_readings() -> None:
    """Closed form: slope times the SDs weighted by 1 + t / 1000 and t / 1000 at the corrected value t.

    And 200,000 readings, which know an SD to 0.16 %; the delta method leaves out terms of (SD / 1000)^2.
    """
    found = phantom_calibration(12, -880, 4, 6)
    told = found.uncertainty()
    rng = np.random.default_rng(0)
    water, air = rng.normal(12, 4, 200_000), rng.normal(-880, 6, 200_000)
    for t in (-1000.0, 0.0, 100.0):
        exact = found.slope * np.hypot((1 + t / 1000) * 4, t / 1000 * 6)
        assert told[f"{t:g}"] == pytest.approx(exact, rel=1e-6)
        observed = (t - found.intercept) / found.slope
        assert np.std(1000 * (observed - water) / (water - air)) == pytest.approx(exact, rel=0.01)
    # As the line through a phantom of the two materials.
    line = fit_line([12, -880], [0, -1000], [4, 6])
    assert found.covariance == pytest.approx(line.covariance)
    assert (found.slope, found.intercept) == pytest.approx((line.slope, line.intercept))


def test_the_uncertainty_of_a_drift() -> None:
    """(t + 1000) / (1 + drift) times the drift's; a drift leaves -1000 where it is by definition."""
    told = drift_calibration(0.02, 0.003).uncertainty()
    drifts = np.random.default_rng(0).normal(0.02, 0.003, 200_000)
    for t in (0.0, 100.0):
        observed = (t + 1000) / 1.02 - 1000
        assert told[f"{t:g}"] == pytest.approx((t + 1000) / 1.02 * 0.003, rel=1e-6)
        assert told[f"{t:g}"] == pytest.approx(np.std((observed + 1000) * (1 + drifts) - 1000), rel=0.01)
    assert told["-1000"] == pytest.approx(0, abs=1e-6)


def test_every_source_tells_the_uncertainty_that_is_given() -> None:
    row = {"water_hu": "5", "air_hu": "-990", "water_hu_sd": "2", "air_hu_sd": "3"}
    for found in (
        choose_calibration(row, {}),
        choose_calibration({}, {name: float(cell) for name, cell in row.items()}),
    ):
        assert found.uncertainty()["0"] == pytest.approx(2 * 1000 / 995)
        assert found.uncertainty()["-1000"] == pytest.approx(3 * 1000 / 995)
    assert choose_calibration({}, {"drift": 0.01, "drift_sd": 0.002}).uncertainty()["0"] == pytest.approx(2 / 1.01)


def test_a_calibration_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    for found in (phantom_calibration(5, -990, 2, 3), Calibration("none")):
        path.write_text(json.dumps(asdict(found)))
        assert read_calibration(path) == found


def test_references_correct_a_scanner_whose_air_is_off() -> None:
    """A gain of 0.95: air at -950, fat at -95, muscle at 47.5."""
    found = references_calibration({"air": -950.0, "fat": -95.0, "muscle": 47.5})
    assert (found.method, found.source) == ("references", "image")
    assert found.slope == pytest.approx(1 / 0.95, rel=1e-3)
    assert found.intercept == pytest.approx(0, abs=0.5)
    told = found.uncertainty()
    assert told["-1000"] == pytest.approx(3, abs=0.5)
    assert told["0"] == pytest.approx(3.9, abs=0.3), "water's own 4 HU, and what fat and muscle add"
    # Without tissues water stays where it is.
    alone = references_calibration({"air": -950.0})
    assert alone.slope * 0 + alone.intercept == pytest.approx(0)
    assert alone.uncertainty()["0"] == pytest.approx(4 / 0.95), "what water may be off by is stretched too"
    with pytest.raises(CaseError, match="would scale HU by"):
        references_calibration({"air": -700.0})
