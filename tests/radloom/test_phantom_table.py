"""Tables of phantom measurements: what is wrong with them, the line of a day, and its uncertainty."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from radloom.errors import CaseError
from radloom.phantom_table import Line, Measurement, fit_line, is_day, phantom_line, read_phantom_table

HEADER = "scanner\tday\tmaterial\thu_expected\thu_measured\tsd\n"
SETTINGS: dict[str, Any] = {
    "scanner_column": "scanner",
    "day_column": "calibration_day",
    "phantom_day": "last",
    "phantom_max_days": None,
}


def table(tmp_path: Path, text: str, header: str = HEADER) -> Path:
    path = tmp_path / "phantoms.tsv"
    path.write_text(header + text)
    return path


def drifting(*days: float | None) -> list[Measurement]:
    """A scanner whose water rises by 1 HU in 10 days, measured with two materials; and another one."""
    rows = []
    for day in days:
        shift = 0.0 if day is None else day / 10
        rows += [Measurement("A", day, name, hu, hu + shift, 2.0) for name, hu in (("air", -1000.0), ("water", 0.0))]
    return [*rows, Measurement("B", None, "air", -1000, -980, None), Measurement("B", None, "water", 0, 4, None)]


def test_a_table_is_read(tmp_path: Path) -> None:
    rows, problems = read_phantom_table(table(tmp_path, "S1\t10\tair\t-1000\t-990\t1.5\nS1\t10\twater\t0\t3\t1\n"))
    assert problems == []
    assert rows[0] == Measurement("S1", 10.0, "air", -1000.0, -990.0, 1.5)
    short = "scanner\tmaterial\thu_expected\thu_measured\n"
    rows, problems = read_phantom_table(table(tmp_path, "S1\tair\t-1000\t-990\nS1\twater\t0\t3\n", short))
    assert problems == []
    assert [(row.day, row.sd) for row in rows] == [(None, None), (None, None)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("S\t2024-03-01\tair\t-1000\t-990\t1\nS\t1\twater\t0\t3\t1\n", "line 2: day is not a number"),
        ("S\t1\tair\t-1000\t\t1\n", "line 2: hu_measured is not a number"),
        ("S\t1\tair\t-1000\tnan\t1\n", "line 2: hu_measured is not a number"),
        ("S\t1\tair\t-1000\t-990\t0\nS\t1\twater\t0\t3\t1\n", "line 2: sd is not above 0"),
        ("S\t1\tair\t-1000\t-9900\t1\nS\t1\twater\t0\t3\t1\n", "line 2: HU outside -1100 to 4000"),
        ("S\t1\tair\t-1000\t-990\t1\nS\t1\tair\t-1000\t-991\t1\n", "line 3: the same scanner, day and material as"),
        ("S\t1\tair\t-1000\t-990\t1\n", "need to lie at least 100 HU apart"),
        ("S\t1\tair\t-1000\t-990\t1\nS\t1\twater\t0\t3\t\n", "some measurements of a scanner have an sd and some"),
        ("S\t1\tair\t-1000\t-990\t1\nS\t\twater\t0\t3\t1\n", "some measurements of a scanner have a day and some"),
        ("\t1\tair\t-1000\t-990\t1\n\t1\twater\t0\t3\t1\n", "scanner, material or centre is missing"),
    ],
)
def test_what_is_wrong_with_a_table(tmp_path: Path, text: str, problem: str) -> None:
    _, problems = read_phantom_table(table(tmp_path, text))
    assert any(problem in one for one in problems), problems
    assert not any("2024" in one for one in problems), "a date is not repeated"


def test_a_table_without_its_columns(tmp_path: Path) -> None:
    assert read_phantom_table(table(tmp_path, "", "scanner\tmaterial\n"))[1] == [
        "phantom table: column missing: hu_expected, hu_measured"
    ]


@given(st.lists(st.tuples(st.floats(-1000, 1500), st.floats(-20, 20), st.floats(0.5, 20)), min_size=3, max_size=9))
def test_the_line_is_statsmodels_(points: list[tuple[float, float, float]]) -> None:
    """WLS, its covariance scaled by chi^2 over the degrees of freedom where that is above 1."""
    expected = np.array([p[0] for p in points])
    if np.ptp(expected) < 100:
        return
    measured, sd = expected + [p[1] for p in points], np.array([p[2] for p in points])
    found = fit_line(measured.tolist(), expected.tolist(), sd.tolist())
    # The line multiplies the errors of what was measured by its slope.
    theirs = sm.WLS(expected, sm.add_constant(measured), weights=1 / (found.slope * sd) ** 2).fit()
    assert (found.slope, found.intercept) == pytest.approx((theirs.params[1], theirs.params[0]), rel=1e-6, abs=1e-6)
    covariance = theirs.normalized_cov_params * max(1.0, theirs.scale)
    assert found.covariance == pytest.approx((covariance[1, 1], covariance[0, 1], covariance[0, 0]), rel=1e-5, abs=1e-9)
    for hu in (-1000.0, 0.0, 100.0):
        assert found.sd(hu) == pytest.approx(np.sqrt(np.array([1, hu]) @ covariance @ np.array([1, hu])), rel=1e-5)
    free = fit_line(measured.tolist(), expected.tolist(), None)
    plain = sm.OLS(expected, sm.add_constant(measured)).fit()
    assert free.slope == pytest.approx(plain.params[1], rel=1e-6)
    covariance = plain.normalized_cov_params * max(plain.scale, free.slope**2 / 12)
    assert free.sd(40) == pytest.approx(np.sqrt(np.array([1, 40]) @ covariance @ np.array([1, 40])), rel=1e-4)


def test_materials_that_lie_on_a_line_by_chance_leave_the_error_of_rounding() -> None:
    """Three whole numbers on a line are no measurement without error: 1 / sqrt(12) HU is left of each."""
    found = fit_line([-1000, 0, 120], [-1000, 0, 120], None)
    assert found.sd(0) == pytest.approx(fit_line([-1000, 0, 120], [-1000, 0, 120], [12**-0.5] * 3).sd(0))
    assert found.sd(0) == pytest.approx(0.2, abs=0.01)


def test_two_points_without_errors_tell_nothing_of_theirs() -> None:
    assert fit_line([-990, 3], [-1000, 0], None).covariance is None
    assert fit_line([-990, 3], [-1000, 0], None).sd(0) is None
    assert fit_line([-1000, 0], [-1000, 0], [2, 3]).sd(0) == pytest.approx(3)
    assert fit_line([-1000, 0], [-1000, 0], [2, 3]).sd(-1000) == pytest.approx(2)


@pytest.mark.parametrize("gain", [1.0, 0.85])
def test_the_uncertainty_is_what_repeated_phantoms_scatter_by(gain: float) -> None:
    """Also of a scanner that shows HU times 0.85, whose line stretches the errors: 2000 runs know an SD to 1.6 %."""
    rng = np.random.default_rng(0)
    expected, sd = np.array([-1000.0, -100, 0, 900]), np.array([3.0, 2, 1, 8])
    shown = expected * gain
    lines = [fit_line((shown + rng.normal(0, sd)).tolist(), expected.tolist(), sd.tolist()) for _ in range(2000)]
    at = [line.slope * 50 + line.intercept for line in lines]
    # Birge's factor only ever widens.
    told = fit_line(shown.tolist(), expected.tolist(), sd.tolist()).sd(50)
    assert told == pytest.approx(np.std(at), rel=0.05)


@pytest.mark.parametrize(
    ("day", "how", "water"),
    [
        (100, "last", 10),
        (149, "last", 10),
        (150, "last", 15),
        (999, "last", 15),
        (125, "interpolate", 12.5),
        (150, "interpolate", 15),
        (999, "interpolate", 15),
    ],
)
def test_the_line_of_a_day(day: float, how: str, water: float) -> None:
    rows = drifting(100, 150)
    line = phantom_line(rows, {"scanner": "A", "calibration_day": str(day)}, SETTINGS | {"phantom_day": how})
    assert line is not None
    assert line.slope * water + line.intercept == pytest.approx(0, abs=1e-9)
    sd = line.sd(water)
    # Between two days the mean of both is known better than either.
    assert sd == pytest.approx(2 / np.sqrt(2) if water == 12.5 else 2, rel=1e-4)


def test_scanners_without_days_and_without_measurements() -> None:
    rows = drifting(100)
    assert phantom_line(rows, {"scanner": "C", "calibration_day": "100"}, SETTINGS) is None
    assert phantom_line(rows, {}, SETTINGS) is None
    found = phantom_line(rows, {"scanner": "B"}, SETTINGS)
    assert found is not None
    assert found == Line(pytest.approx(1000 / 984), pytest.approx(-4000 / 984), None)


def test_two_centres_scanners_of_one_model(tmp_path: Path) -> None:
    text = "A\tM\tair\t-1000\t-990\nA\tM\twater\t0\t5\nB\tM\tair\t-1000\t-970\nB\tM\twater\t0\t8\n"
    rows, problems = read_phantom_table(table(tmp_path, text, "centre\tscanner\tmaterial\thu_expected\thu_measured\n"))
    assert problems == []
    for centre, water in (("A", 5), ("B", 8)):
        line = phantom_line(rows, {"scanner": "M", "centre": centre}, SETTINGS)
        assert line is not None
        assert line.slope * water + line.intercept == pytest.approx(0, abs=1e-9)
    assert phantom_line(rows, {"scanner": "M", "centre": "C"}, SETTINGS) is None


@pytest.mark.parametrize(
    ("cells", "settings", "reason"),
    [
        ({"scanner": "A"}, {}, "the day of the scan is not given"),
        ({"scanner": "A", "calibration_day": "2024-01-01"}, {}, "the day of the scan is not given"),
        ({"scanner": "A", "calibration_day": "99"}, {}, "the first phantom measurement of its scanner is later"),
        ({"scanner": "A", "calibration_day": "99"}, {"phantom_day": "interpolate"}, "is later than the scan"),
        ({"scanner": "A", "calibration_day": "140"}, {"phantom_max_days": 30}, "40 days older than the scan, over 30"),
    ],
)
def test_days_without_a_measurement(cells: dict[str, str], settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(CaseError, match=reason) as caught:
        phantom_line(drifting(100), cells, SETTINGS | settings)
    assert "2024" not in str(caught.value)


def test_days_are_numbers() -> None:
    assert [text for text in ("1", "-3.5", "1e3", "2024-01-01", "20240101x", "nan", "inf", "") if is_day(text)] == [
        "1",
        "-3.5",
        "1e3",
    ]
