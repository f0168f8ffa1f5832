"""Temperature scaling and calibration errors: known temperatures, closed forms, scikit-learn's curve."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from radloom.nets.calibration import Reliability, decide, draw, draw_reliability, fit_temperature

CLASSES = ["liver", "spleen"]


def softmax_data(seed: int, n: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits (3, n) that are `temperature` times those which the labels (n,) were drawn from."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=2, size=(3, n))
    cumulated = softmax(logits, axis=0).cumsum(axis=0)
    return temperature * logits, (generator.random(n) > cumulated).sum(axis=0).clip(max=2)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_a_softmax_temperature_is_found_again(true) -> None:
    """Of 40,000 voxels the standard error of the temperature is below 1 %; four of them are allowed."""
    logits, labels = softmax_data(0, 40_000, true)
    fit = fit_temperature([logits], [labels], CLASSES, per_array=100_000)
    assert fit.temperature == pytest.approx(true, rel=0.04)
    assert fit.nll_after <= fit.nll_before
    # A net whose probabilities are right is calibrated also where it finds something.
    assert fit.after.ece()[:2].max() < 0.012
    if true != 1:
        assert fit.before.ece()[0] > 4 * fit.after.ece()[0]


@pytest.mark.parametrize("true", [0.5, 3.0])
def test_a_sigmoid_temperature_is_found_again(true) -> None:
    """One class: its logits are those of a logistic model."""
    generator = np.random.default_rng(1)
    logits = generator.normal(scale=2, size=(1, 40_000))
    labels = (generator.random(40_000) < expit(logits[0])).astype(int)
    fit = fit_temperature([true * logits], [labels], ["liver"], "sigmoid", per_array=100_000)
    assert fit.temperature == pytest.approx(true, rel=0.05)


def test_two_logits_have_a_closed_form() -> None:
    """Logits +-a, right in the share q: the likelihood is greatest where sigma(2 a / T) = q."""
    a, right = 3.0, 0.8
    labels = np.r_[np.ones(800, int), np.zeros(200, int)]
    logits = np.stack([np.full(1000, -a), np.full(1000, a)])
    fit = fit_temperature([logits], [labels], ["liver"])
    assert fit.temperature == pytest.approx(2 * a / math.log(right / (1 - right)), rel=1e-4)
    assert fit.before.ece()[0] == pytest.approx(expit(2 * a) - right)
    assert fit.after.ece()[0] == pytest.approx(0, abs=1e-5)


@given(st.integers(0, 1000), st.floats(0.2, 5.0), st.sampled_from(["softmax", "sigmoid"]))
@settings(max_examples=20, deadline=None)
def test_likelihood_is_convex_in_the_inverse_and_least_at_the_fit(seed, scale, outputs) -> None:
    logits, labels = softmax_data(seed, 300, scale)
    names = CLASSES if outputs == "softmax" else ["a", "b", "c"]
    sample = draw([logits], [labels], outputs, 1000)
    inverse = np.linspace(0.05, 3, 60)
    values = np.array([sample.nll(1 / b) for b in inverse])
    assert (np.diff(values, 2) > -1e-9).all()
    fit = fit_temperature([logits], [labels], names, outputs, 1000)
    if not fit.reason:
        assert fit.nll_after <= values.min() + 1e-9


def test_the_likelihood_is_scikit_learns() -> None:
    logits, labels = softmax_data(3, 500, 1.5)
    sample = draw([logits], [labels], "softmax", 1000)
    assert sample.nll(2.0) == pytest.approx(log_loss(sample.labels, sample.probabilities(2.0)))


def test_labels_that_are_all_right_have_no_temperature() -> None:
    logits = np.stack([np.r_[4.0, -4.0], np.r_[-4.0, 4.0]])
    fit = fit_temperature([logits], [np.array([0, 1])], ["liver"])
    assert fit.temperature == 1.0
    assert "every voxel drawn right" in fit.reason
    noise = fit_temperature([logits], [np.array([1, 0])], ["liver"])
    assert noise.temperature == 1.0
    assert "not within" in noise.reason


def test_a_class_has_scikit_learns_curve_and_brier_score() -> None:
    logits, labels = softmax_data(5, 4000, 2.0)
    values = softmax(logits, axis=0).T
    reliability = Reliability(CLASSES, "softmax", 10)
    for part in np.array_split(np.arange(4000), 3):
        reliability.add(values[part], labels[part])
    for channel, name in enumerate(["background", *CLASSES]):
        observed, predicted = calibration_curve(labels == channel, values[:, channel], n_bins=10)
        ours = reliability.curve(name)
        assert ours[0] == pytest.approx(predicted)
        assert ours[1] == pytest.approx(observed)
        row = next(row for row in reliability.rows() if row["class"] == name)
        assert row["brier"] == pytest.approx(brier_score_loss(labels == channel, values[:, channel]))
        assert row["ece"] == pytest.approx(np.average(np.abs(ours[0] - ours[1]), weights=ours[2]))
    right, confidence = calibration_curve(values.argmax(1) == labels, values.max(1), n_bins=10)
    assert reliability.curve("all")[0] == pytest.approx(confidence)
    assert reliability.curve("all")[1] == pytest.approx(right)


def test_foreground_is_what_the_net_calls_so() -> None:
    values = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 1, 1, 0])
    reliability = Reliability(["liver"], "softmax", 10)
    reliability.add(values, labels)
    predicted, observed, weight = reliability.curve("foreground")
    assert predicted == pytest.approx([0.7, 0.8])
    assert (observed.tolist(), weight.tolist()) == ([0, 1], [1, 1])


def test_a_sigmoid_background_has_the_rest_of_the_largest() -> None:
    label, confidence = decide(np.array([[0.2, 0.3], [0.6, 0.9], [0.5, 0.1]]), "sigmoid")
    assert label.tolist() == [0, 2, 0]
    assert confidence == pytest.approx([0.7, 0.9, 0.5])


def test_a_sample_stands_for_all_voxels() -> None:
    """A volume of 97 % background: the sample's weighted means are those of all voxels, half of it is foreground."""
    generator = np.random.default_rng(7)
    logits = generator.normal(size=(3, 20, 50, 50))
    logits[0] += 4
    labels = (generator.random((20, 50, 50)) < 0.02).astype(int)
    whole = draw([logits], [labels], "softmax", 10**6)
    sample = draw([logits, logits], [labels, labels], "softmax", 4000, seed=1)
    assert len(sample.labels) == 8000
    assert sample.weights.sum() == pytest.approx(2 * labels.size)
    foreground = (sample.labels > 0) | (sample.logits.argmax(1) > 0)
    # The foreground, about 2700 voxels, is taken whole where it has fewer than it may.
    assert (
        foreground.sum() >= 2 * 2000
        or foreground.sum() == 2 * ((whole.labels > 0) | (whole.logits.argmax(1) > 0)).sum()
    )
    assert np.average(sample.labels, weights=sample.weights) == pytest.approx(whole.labels.mean(), rel=0.1)
    assert sample.nll(1.5) == pytest.approx(whole.nll(1.5), rel=0.03)


def test_the_same_seed_draws_the_same() -> None:
    logits, labels = softmax_data(0, 9000, 1.0)
    first, again, other = (draw([logits], [labels], "softmax", 100, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, other.logits)


def test_rows_hold_all_foreground_and_each_class() -> None:
    logits, labels = softmax_data(0, 2000, 3.0)
    rows = fit_temperature([logits], [labels], CLASSES).rows()
    assert [row["class"] for row in rows] == ["all", "foreground", "background", "liver", "spleen"]
    assert all(row["ece_after"] < row["ece_before"] for row in rows)
    assert math.isnan(rows[1]["brier_after"])
    assert rows[0]["brier_after"] == pytest.approx(sum(row["brier_after"] for row in rows[2:]))


@pytest.mark.parametrize(
    ("logits", "labels", "outputs", "problem"),
    [
        (np.zeros((3, 4)), np.full(4, 3), "softmax", "not those of 3 channels"),
        (np.zeros((3, 4)), np.zeros(5, int), "softmax", "don't fit"),
        (np.full((3, 4), np.nan), np.zeros(4, int), "softmax", "finite"),
        (np.zeros((4, 4)), np.zeros(4, int), "softmax", "not those of 2 classes"),
        (np.zeros((2, 0)), np.zeros(0, int), "sigmoid", "no voxels"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, outputs, problem) -> None:
    with pytest.raises(ValueError, match=problem):
        fit_temperature([logits], [labels], CLASSES, outputs)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    logits, labels = softmax_data(0, 2000, 3.0)
    fit = fit_temperature([logits], [labels], CLASSES)
    draw_reliability(fit, tmp_path / "reliability.svg")
    text = (tmp_path / "reliability.svg").read_text()
    assert "ECE" in text
    assert f"Temperature {fit.temperature:.3g}" in text
    draw_reliability(fit, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text
