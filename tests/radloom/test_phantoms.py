"""Phantoms and the survival that follows from them have the truth that they claim."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from radloom.phantoms import (
    ORGAN,
    TUMOUR,
    Scanner,
    draw_anatomy,
    draw_scanner,
    drift_line,
    make_phantom,
    simulate_outcome,
    simulate_survival,
    water_air_line,
)

SHARP = Scanner(spacing=(2.0, 2.0, 2.0), psf_fwhm_mm=0.1, noise_hu=0.0)


def test_the_same_seed_gives_the_same_phantom() -> None:
    def once() -> np.ndarray:
        rng = np.random.default_rng(3)
        return make_phantom(draw_anatomy(rng), draw_scanner(rng), rng).image

    first = once()
    assert first.dtype == np.float32
    assert first.tobytes() == once().tobytes()


def test_drift_line_holds_the_reference_value() -> None:
    # True 45 HU at e = 0.005 is observed 5.199 HU too low.
    slope, intercept = drift_line(0.005)
    assert slope * 45 + intercept == pytest.approx(45 - 5.199, abs=5e-4)
    assert slope * -1000 + intercept == pytest.approx(-1000)


def test_water_air_line_sends_water_and_air_to_what_was_measured() -> None:
    slope, intercept = water_air_line(-8.5, -981.0)
    assert slope * 0 + intercept == pytest.approx(-8.5)
    assert slope * -1000 + intercept == pytest.approx(-981.0)


@pytest.mark.parametrize("seed", range(4))
def test_organ_and_tumour_have_the_anatomys_hu_and_volume(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(rng)
    phantom = make_phantom(anatomy, SHARP, rng)
    organ, tumour = phantom.image[phantom.labels == ORGAN], phantom.image[phantom.labels == TUMOUR]
    assert np.median(organ) == pytest.approx(anatomy.organ_hu, abs=0.01)
    assert np.mean(tumour) == pytest.approx(anatomy.tumour_hu, abs=3)
    # Averaging over thin slices takes some of the texture away, and only some.
    assert 0.8 * anatomy.tumour_texture_hu < np.std(tumour) < 1.2 * anatomy.tumour_texture_hu + 5
    assert tumour.size * 8.0 == pytest.approx(anatomy.tumour_volume_mm3, rel=0.15)


def test_a_threshold_cannot_tell_the_decoy_from_the_organ() -> None:
    rng = np.random.default_rng(5)
    anatomy = draw_anatomy(rng)
    phantom = make_phantom(anatomy, SHARP, rng)
    decoy = (phantom.labels == 0) & (np.abs(phantom.image - anatomy.organ_hu) < 0.5)
    assert decoy.sum() > 0.2 * (phantom.labels == ORGAN).sum()


def test_a_patient_without_tumour_has_none() -> None:
    rng = np.random.default_rng(6)
    anatomy = draw_anatomy(rng, with_tumour=False)
    phantom = make_phantom(anatomy, SHARP, rng)
    assert np.unique(phantom.labels).tolist() == [0, ORGAN]
    assert (anatomy.tumour_volume_mm3, anatomy.volume_score, anatomy.texture_score) == (0, 0, 0)


def test_the_scanner_decides_grid_noise_and_drift() -> None:
    rng = np.random.default_rng(7)
    anatomy = draw_anatomy(rng)
    slope, intercept = water_air_line(-12.0, -970.0)
    scanner = Scanner((2.5, 2.0, 4.0), 2.0, 11.0, hu_slope=slope, hu_intercept=intercept)
    phantom = make_phantom(anatomy, scanner, rng)
    assert phantom.image.shape == phantom.labels.shape == (24, 80, 80)
    noise = (phantom.image - intercept) / slope - phantom.clean
    assert noise[phantom.labels == ORGAN].std() == pytest.approx(11.0, rel=0.1)
    assert phantom.image[:, :4, :4].mean() == pytest.approx(-970.0, abs=0.5)


def test_a_wider_point_spread_takes_texture_away() -> None:
    rng = np.random.default_rng(8)
    anatomy = dataclasses.replace(draw_anatomy(rng), tumour_radius=18.0, tumour_texture_hu=40.0)
    spread = []
    for fwhm in (1.0, 4.0, 7.0):
        phantom = make_phantom(anatomy, Scanner((2.0, 2.0, 3.0), fwhm, 0.0), rng)
        # The rim is blurred with the organ: the tumour's middle alone.
        core = (phantom.labels == TUMOUR) & (np.abs(phantom.clean - anatomy.tumour_hu) < 150)
        spread.append(phantom.clean[core].std())
    assert spread[0] > spread[1] > spread[2]


def test_scores_are_standardised_in_the_population() -> None:
    anatomies = [draw_anatomy(np.random.default_rng([1, seed])) for seed in range(1500)]
    for scores in ([a.volume_score for a in anatomies], [a.texture_score for a in anatomies]):
        # Cutting radius and texture off at their limits takes a few per cent of the spread.
        assert np.mean(scores) == pytest.approx(0, abs=0.1)
        assert np.std(scores) == pytest.approx(1, abs=0.12)
    assert abs(np.corrcoef([(a.volume_score, a.texture_score) for a in anatomies], rowvar=False)[0, 1]) < 0.08


def test_event_times_are_exponential_with_the_given_hazard() -> None:
    rng = np.random.default_rng(9)
    time, event = simulate_survival(np.full(4000, 0.7), rng, baseline_hazard=0.01, follow_up=1e9)
    assert event.all()
    assert stats.kstest(time, "expon", args=(0, 100 / np.exp(0.7))).pvalue > 0.01


def test_censoring_is_administrative_or_uniform() -> None:
    rng = np.random.default_rng(10)
    time, event = simulate_survival(np.zeros(4000), rng, baseline_hazard=0.01, follow_up=50.0)
    assert time.max() == 50.0
    assert set(time[event == 0]) == {50.0}
    assert np.mean(event) == pytest.approx(1 - np.exp(-0.5), abs=0.03)
    time, event = simulate_survival(np.zeros(4000), rng, baseline_hazard=1e-9, shortest_follow_up=20.0, follow_up=60.0)
    assert not event.any()
    assert stats.kstest(time, "uniform", args=(20, 40)).pvalue > 0.01
    with pytest.raises(ValueError, match="longer than follow_up"):
        simulate_survival(np.zeros(3), rng, baseline_hazard=1.0, follow_up=5.0, shortest_follow_up=6.0)


def test_a_hazard_of_each_patient_is_respected() -> None:
    hazard = np.repeat([0.001, 0.1], 3000)
    time, _ = simulate_survival(np.zeros(6000), np.random.default_rng(1), baseline_hazard=hazard, follow_up=1e9)
    assert time[:3000].mean() / time[3000:].mean() == pytest.approx(100, rel=0.1)


def test_outcomes_follow_the_log_odds() -> None:
    outcome = simulate_outcome(np.repeat([-1.5, 0.0, 2.0], 4000), np.random.default_rng(11))
    assert outcome.reshape(3, -1).mean(axis=1) == pytest.approx([0.182, 0.5, 0.881], abs=0.025)
