"""The Gaussian that takes a scan to the common point spread."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psf_phantom import SHARP, SOFT, TARGET, features, scan

from radloom.acquisition import with_headers
from radloom.config import complete
from radloom.errors import CaseError
from radloom.match import matched_widths, matching_gaussian
from radloom.resample import Sampling, resample_image

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


@pytest.mark.parametrize("target", [2.0, 3.0, 5.0])
def test_scans_stay_matched_where_aliasing_is_filtered_too(target: float) -> None:
    """Slices of 1, 1.5 and 2 mm on a grid of 4 mm: one width in the end, that of the grid or what is wider."""
    settings = asked(thickness_mm=target)
    for own in (1.0, 1.5, 2.0):
        sigma, *_ = matching_gaussian({}, settings, own)
        sampling = Sampling(antialias=True, sigma_mm=sigma, width_mm=matched_widths(settings))
        assert np.hypot(sampling.sigma(2, own, 4.0) * own * FWHM, own) == pytest.approx(max(target, 4))
        assert sampling.sigma(0, 1.0, 2.0) == Sampling(antialias=True).sigma(0, 1.0, 2.0), "not matched"


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


@pytest.mark.parametrize("noise_seed", [0, 1])
def test_matching_takes_back_what_blur_does_to_textures(noise_seed: int) -> None:
    """A texture through point spreads of 1.4 and 2.2 mm: the difference falls by ten times and more."""
    sharp, matched = (features(SHARP, target, noise_seed=10 + noise_seed) for target in (None, TARGET))
    soft = features(SOFT, None, noise_seed=20 + noise_seed)
    contrast, energy, homogeneity = (f"original_glcm_{name}" for name in ("Contrast", "JointEnergy", "Idm"))
    # Blur lowers contrast and raises energy and homogeneity.
    assert soft[contrast] < 0.7 * sharp[contrast]
    assert soft[energy] > 1.3 * sharp[energy]
    assert soft[homogeneity] > 1.15 * sharp[homogeneity]
    for name in (contrast, energy, homogeneity):
        assert abs(matched[name] / soft[name] - 1) < 0.1 * abs(sharp[name] / soft[name] - 1)


def test_a_matched_scan_is_the_one_that_the_softer_kernel_would_have_made() -> None:
    """Without noise, 10 voxels from the border: within a HU, both being rounded to whole HU."""
    (sharp, _), (soft, _) = scan(SHARP, 0.0, 0), scan(SOFT, 0.0, 0)
    sigma = matching_gaussian({"psf_fwhm_mm": str(SHARP)}, asked(fwhm_mm=SOFT), 1.0)[0]
    matched = resample_image(sharp, (0, 0, 0), Sampling(sigma_mm=sigma)).array
    inner = (slice(None), slice(10, -10), slice(10, -10))
    assert np.abs(matched - soft.array)[inner].max() < 1.5
    assert np.abs(sharp.array - soft.array)[inner].max() > 30


def test_headers_fill_the_cells_that_are_empty() -> None:
    headers = {"kernel": "B30f", "slice_thickness": 3.0, "kvp": None}
    cells = with_headers({"kernel": "", "slice_thickness": "5"}, headers)
    assert cells == {"kernel": "B30f", "slice_thickness": "5"}
    settings = asked(fwhm_mm=2, kernels={"B30f": 1.0}, thickness_mm=5, thickness_column="slice_thickness")
    _, facts, _ = matching_gaussian(cells, settings, 1.0)
    assert (facts["psf_fwhm_mm"], facts["slice_thickness_mm"]) == (1.0, 5.0)
