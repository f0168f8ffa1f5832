"""The Gaussian that takes a scan to the common point spread."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.config import complete
from radloom.errors import CaseError
from radloom.match import matching_gaussian

FWHM = np.sqrt(8 * np.log(2))


def asked(**match: Any) -> dict[str, Any]:
    found: dict[str, Any] = complete({"results": "r", "resample": {"match": match}})["resample"]["match"]
    return found


def test_nothing_is_asked_for_by_default() -> None:
    assert matching_gaussian({"psf_fwhm_mm": "x"}, asked(), 3.0) == ((0, 0, 0), {}, [])


@given(own=st.floats(0.1, 5), target=st.floats(0.1, 5))
def test_the_widths_add_up_as_variances(own: float, target: float) -> None:
    if own > target:
        return
    (x, y, z), facts, warnings = matching_gaussian({"psf_fwhm_mm": str(own)}, asked(fwhm_mm=target), 3.0)
    assert np.hypot(x * FWHM, own) == pytest.approx(target)
    assert (y, z, warnings) == (x, 0, [])
    assert facts["psf_fwhm_mm"] == own


def test_slices_have_their_own_column_or_their_distance() -> None:
    settings = asked(thickness_mm=5.0, thickness_column="thickness")
    (x, _, z), facts, _ = matching_gaussian({"thickness": "3"}, settings, 1.0)
    assert (x, z * FWHM) == (0, pytest.approx(4))
    assert facts["slice_thickness_mm"] == 3
    assert matching_gaussian({}, asked(thickness_mm=5.0), 3.0)[0][2] * FWHM == pytest.approx(4)
    # Half a hair above the target is the target.
    assert matching_gaussian({}, asked(thickness_mm=5.0), 5.0001)[0][2] == 0


@pytest.mark.parametrize(
    ("row", "match", "reason"),
    [
        ({}, {"fwhm_mm": 2}, "the scan's point spread is not known"),
        ({"kernel": "B99"}, {"fwhm_mm": 2, "kernels": {"B30": 1}}, "the scan's point spread is not known"),
        ({"psf_fwhm_mm": "wide"}, {"fwhm_mm": 2}, "psf_fwhm_mm is not given, or no number"),
        ({"psf_fwhm_mm": "inf"}, {"fwhm_mm": 2}, "of inf mm is not within 0.1 to 20"),
        ({"psf_fwhm_mm": "0.01"}, {"fwhm_mm": 2}, "of 0.01 mm is not within 0.1 to 20"),
        ({"psf_fwhm_mm": "3"}, {"fwhm_mm": 2}, "point spread of 3 mm is wider than the 2 mm"),
        ({}, {"thickness_mm": 2}, "slice thickness of 3 mm is wider than the 2 mm"),
        ({}, {"thickness_mm": 4, "thickness_column": "t"}, "t is not given, or no number"),
    ],
)
def test_what_cannot_be_matched(row: dict[str, str], match: dict[str, Any], reason: str) -> None:
    with pytest.raises(CaseError, match=reason):
        matching_gaussian(row, asked(**match), 3.0)


def test_a_blurrier_scan_may_stay() -> None:
    sigma, facts, warnings = matching_gaussian({"psf_fwhm_mm": "3"}, asked(fwhm_mm=2, blurrier="warn"), 3.0)
    assert sigma == (0, 0, 0)
    assert facts["psf_fwhm_mm"] == 3
    assert warnings == ["its point spread of 3 mm is wider than the 2 mm that scans are matched to: left as it is"]
