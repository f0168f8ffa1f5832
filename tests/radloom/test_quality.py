"""All figures of a scan together: which there are, what they hold on to, and scans that are hardly any."""

import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scans import body, noisy

from radloom.calibrate import Calibration, drift_calibration
from radloom.codebook import codebook_rows
from radloom.config import complete, schema
from radloom.images import Array, Geometry, Volume
from radloom.quality import ScanQuality, measure_rois, measure_scan, read_box
from radloom.quality_figures import FIGURES

AS_IS = Calibration("none")


def measured(scan: Volume, valid: Array | None = None, calibration: Calibration = AS_IS) -> ScanQuality:
    return measure_scan(iter(scan.array), scan.geometry, None if valid is None else iter(valid), calibration)


def test_every_figure_is_described_and_may_stand_in_a_rule() -> None:
    scan = noisy(body(), 12.0)
    of_scan = set(measured(scan).figures)
    labels = Volume((scan.array > 0).astype(np.uint8), scan.geometry)
    whole = tuple(slice(0, length) for length in scan.array.shape)
    of_roi = set(measure_rois(scan.array, (whole[0], whole[1], whole[2]), labels, {1: "body"}, None)["body"])
    assert of_scan == {name for name, figure in FIGURES.items() if figure.of == "scan"}
    assert of_roi == {name for name, figure in FIGURES.items() if figure.of == "roi"}
    rule = schema()["properties"]["quality"]["properties"]["rules"]
    assert rule["items"]["properties"]["figure"]["enum"] == list(FIGURES)
    (item,) = (row for row in codebook_rows("qc", ["item"]) if row["column"] == "item")
    assert all(f"{name}: " in item["meaning"] for name in FIGURES)
    for figure in FIGURES.values():
        assert figure.meaning.endswith(".")
        assert figure.advice.endswith(".")


def test_the_page_lists_every_figure(repo: Path) -> None:
    page = (repo / "docs" / "quality.md").read_text()
    for name, figure in FIGURES.items():
        unit = "" if figure.unit == "1" else figure.unit
        assert f"| `{name}` | {unit} | {figure.meaning} |" in page, name


def test_the_defaults_only_warn() -> None:
    rules = complete({"results": "r", "cohort": "c.tsv"})["quality"]["rules"]
    assert {rule["action"] for rule in rules} == {"warn"}


def test_the_plain_figures() -> None:
    found = measured(noisy(body(), 12.0)).figures
    assert (found["slices"], found["slice_spacing_mm"], found["coverage_mm"]) == (32.0, 2.5, 80.0)
    assert found["metal_ml"] == found["saturated_voxels"] == found["truncated_share"] == 0.0
    assert found["streak_metal"] is None
    assert found["hu_blood"] is None


def test_figures_are_of_calibrated_hu() -> None:
    calibration = drift_calibration(0.02)
    true = body(muscle=40.0)
    seen = noisy((true - calibration.intercept) / calibration.slope, 12.0)
    found = measured(seen, calibration=calibration).figures
    assert found["noise_global_sd"] == pytest.approx(12 * calibration.slope, rel=0.03)
    assert found["noise_air_sd"] == pytest.approx(12 * calibration.slope, rel=0.03)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1, 2)])
def test_mirror_images_have_the_same_figures(axes: tuple[int, ...]) -> None:
    scan = noisy(body(np.where(np.arange(32) > 9, 3, 0))[:31, 1:], 12.0)
    other = Volume(np.ascontiguousarray(np.flip(scan.array, axes)), scan.geometry)
    one, two = (
        {name: math.nan if value is None else value for name, value in measured(which).figures.items()}
        for which in (scan, other)
    )
    assert two == pytest.approx(one, rel=1e-4, abs=1e-6, nan_ok=True)


volumes = arrays.arrays(
    np.int16,
    arrays.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=24),
    elements=st.sampled_from([-1024, -1000, -100, 40, 60, 3071]),
    fill=st.just(np.int16(-1000)),
)


@given(volumes, st.booleans(), st.floats(0.3, 5))
@settings(max_examples=60, deadline=None)
def test_whatever_it_is_given_it_says_something_finite_or_nothing(array: Array, padded: bool, step: float) -> None:
    z, y, x = array.shape
    scan = Volume(array, Geometry((x, y, z), (step, step, 2 * step), (0.0, 0.0, 0.0)))
    found = measured(scan, (array > -1024).astype(np.uint8) if padded else None)
    assert all(value is None or math.isfinite(value) for value in found.figures.values())
    assert len(found.picture) == 128


def test_a_box_is_read_no_further_than_it_goes() -> None:
    array = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    asked = []

    def planes() -> Iterator[Array]:
        buffer = np.empty_like(array[0])
        for z in range(6):
            asked.append(z)
            buffer[:] = array[z]
            yield buffer

    box = (slice(1, 4), slice(2, 5), slice(0, 8))
    assert np.array_equal(read_box(planes(), box), array[box])
    assert asked == [0, 1, 2, 3]


def test_a_scan_passes_slice_by_slice() -> None:
    """Of 200 slices only the sampled ones are kept: less than half of the volume."""
    plane = noisy(np.full((1, 512, 512), 40.0), 12.0).array[0]
    geometry = Geometry((512, 512, 200), (0.8, 0.8, 2.0), (0.0, 0.0, 0.0))

    def planes() -> Any:
        buffer = np.empty_like(plane)
        for z in range(200):
            np.add(plane, z % 3, out=buffer)
            yield buffer

    tracemalloc.start()
    try:
        measure_scan(planes(), geometry, None, AS_IS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 * 512 * 512 * 2 * 0.75
