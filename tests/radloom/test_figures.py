"""The numbers under the figures against known values, and figures that are the same bytes twice."""

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from radloom import figures

# Freireich et al. 1963, 6-MP against placebo: the textbook example of the log-rank test.
TREATED = np.array([6, 6, 6, 7, 10, 13, 16, 22, 23, 6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35], dtype=float)
TREATED_EVENT = np.array([1] * 9 + [0] * 12)
PLACEBO = np.array([1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23], dtype=float)


def test_kaplan_meier_of_the_textbook() -> None:
    curve = figures.kaplan_meier(TREATED, TREATED_EVENT)
    expected = {0: 1, 6: 0.857, 7: 0.807, 10: 0.753, 13: 0.690, 16: 0.627, 22: 0.538, 23: 0.448}
    for time, survival in expected.items():
        assert curve.survival[curve.times == time][0] == pytest.approx(survival, abs=5e-4)
    assert np.isnan(curve.low[0])
    inner = np.isfinite(curve.low)
    assert (curve.low[inner] < curve.survival[inner]).all()
    assert (curve.survival[inner] < curve.high[inner]).all()


def test_log_rank_of_the_textbook() -> None:
    times, events = np.r_[TREATED, PLACEBO], np.r_[TREATED_EVENT, np.ones(21, dtype=int)]
    chi2, p = figures.log_rank(times, events, np.repeat([0, 1], 21))
    assert chi2 == pytest.approx(16.79, abs=0.005)
    assert p == pytest.approx(4.17e-5, rel=0.01)
    assert np.isnan(figures.log_rank(times, events, np.zeros(42))[1])
    assert np.isnan(figures.log_rank(times, 0 * events, np.repeat([0, 1], 21))[1])


def test_roc_moves_ties_together() -> None:
    rng = np.random.default_rng(3)
    outcome = rng.integers(0, 2, 60)
    score = np.round(outcome + rng.normal(0, 1.2, 60), 0)
    x, y = figures.roc_points(score, outcome)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert len(x) == len(np.unique(score)) + 1
    assert np.trapezoid(y, x) == pytest.approx(roc_auc_score(outcome, score))


def test_explained_by_batch() -> None:
    groups = np.array(["a", "a", "b", "b"])
    values = np.array([[0, 0, 5, 1], [0, 1, 5, np.nan], [2, 0, 5, 3], [2, 1, 5, 3]], dtype=float)
    shares = figures.explained_by(values, groups)
    assert shares[:2] == pytest.approx([1, 0])
    assert np.isnan(shares[2])
    assert shares[3] == pytest.approx(1)


def test_principal_components_ignore_what_has_no_spread_and_outliers() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 6))
    values[:20, :4] += 4
    values[3, 2] = 1e9
    values[:, 5] = 7
    scores, shares, used = figures.principal_components(values)
    assert used == 5
    assert shares[0] > shares[1] > 0
    assert scores[:20, 0].min() > scores[20:, 0].max() or scores[:20, 0].max() < scores[20:, 0].min()
    assert figures.principal_components(values[:2])[0].shape == (0, 2)


GROUPS = figures.CalibrationGroups(
    "at 20", np.array([0.1, 0.5]), np.array([0.2, 0.4]), np.array([0.1, np.nan]), np.array([0.3, np.nan])
)
FOREST = [
    figures.ForestRow("A", 0.7, 0.6, 0.8),
    figures.ForestRow("B", float("nan"), float("nan"), float("nan")),
    figures.ForestRow("C", 0.5, float("nan"), float("nan")),
    figures.ForestRow("worst (C)", 0.5, 0.3, 0.6, "worst"),
    figures.ForestRow("random effects", 0.66, 0.41, 0.84, "pooled"),
    figures.ForestRow("a further centre", float("nan"), 0.1, 0.97, "prediction"),
]
BENEFIT = (np.array([0.1, 0.3, 0.5]), np.array([0.2, 0.05, -0.9]))


def _figures() -> list[str]:
    rng = np.random.default_rng(1)
    times, events, groups = rng.exponential(300, 40), rng.integers(0, 2, 40), rng.integers(0, 2, 40)
    values = rng.normal(size=(40, 5))
    batches = np.array(["A", "B & C"])[groups]
    parts = [values[groups == k, 0] for k in (0, 1)]
    return [
        figures.distribution("a", "x<y", [("before", parts), ("after", parts)], ["A", "B & C"]),
        figures.explained_by_batch("b", rng.uniform(size=9), rng.uniform(size=9)),
        figures.components("c", [("before", values), ("after", values)], batches),
        figures.survival_by_group("d", "arm", times, events, groups, ["low", "high"], "days"),
        figures.roc("e", [("arm", values[:, 0], groups)]),
        figures.calibration("f", "arm", [("out of fold", [GROUPS, GROUPS]), ("centre left out", [GROUPS])]),
        figures.forest("g", "arm", ["x_$1", "y"], np.array([1.4, 0.98]), "odds ratio per SD"),
        figures.centre_forest("h", "arm <1>", FOREST, "Harrell's C"),
        figures.decision_curves("i", "out of fold", [("arm", *BENEFIT)], BENEFIT),
    ]


def test_figures_are_the_same_bytes_twice_and_share_no_ids() -> None:
    first, second = _figures(), _figures()
    assert first == second
    ids: list[str] = []
    for svg in first:
        assert svg.startswith("<svg")
        assert svg.endswith("</svg>")
        assert "<metadata" not in svg
        own = re.findall(r'\bid="([^"]+)"', svg)
        ids += own
        assert set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)) <= {
            pair for one in own for pair in ((one, ""), ("", one))
        }
    assert len(ids) == len(set(ids))


def test_number_at_risk_counts_who_is_still_there() -> None:
    times, events = np.array([1.0, 2, 3, 4, 1, 2, 3, 4]), np.ones(8, dtype=int)
    svg = figures.survival_by_group("k", "arm", times, events, np.repeat([0, 1], 4), ["low", "high"], "days")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    position = texts.index("number at risk")
    # The axis has a tick every half day from 0 to 4.
    assert texts[position + 1 : position + 10] == ["4", "4", "4", "3", "3", "2", "2", "1", "1"]
    assert "low (n = 4, events = 4)" in texts


def test_a_forest_writes_every_number_and_what_is_missing() -> None:
    svg = figures.centre_forest("k", "arm", FOREST, "AUC")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    told = ["0.700 (0.600 to 0.800)", "not estimable", "0.500 (no interval)", "0.660 (0.410 to 0.840)"]
    assert [words for words in texts if words in told] == told
    assert "0.100 to 0.970" in texts  # the prediction interval has no estimate of its own
    assert [words for words in texts if words in {row.label for row in FOREST}] == [row.label for row in FOREST]


def _line_at(svg: str, colour: str) -> list[float]:
    """Heights of the points of the first line of a colour, in the figure's units (downwards)."""
    path = re.search(rf'<path d="([^"]+)"[^>]*style="[^"]*stroke: {colour}', svg)
    assert path
    return [float(y) for y in re.findall(r"[ML] [\d.-]+ ([\d.-]+)", path.group(1))]


def test_decision_curves_are_drawn_where_they_belong() -> None:
    thresholds = np.array([0.1, 0.3, 0.5])
    high, low = np.array([0.2, 0.18, 0.1]), np.array([0.2, 0.05, -0.02])
    svg = figures.decision_curves("m", "out of fold", [("good", thresholds, high)], (thresholds, low))
    good, everybody = _line_at(svg, figures.COLOURS[0].lower()), _line_at(svg, "#777777")
    assert good[0] == pytest.approx(everybody[0], abs=0.1)
    assert all(up < down for up, down in zip(good[1:], everybody[1:], strict=True))
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    assert {"treat all", "treat none", "good", "net benefit", "threshold probability"} <= set(texts)


def test_figures_without_a_value_are_still_drawn() -> None:
    nothing = np.full(3, np.nan)
    assert figures.decision_curves("n", "t", [("arm", BENEFIT[0], nothing)], (BENEFIT[0], nothing)).endswith("</svg>")
    one = [figures.ForestRow("A", float("nan"), float("nan"), float("nan"))]
    assert "not estimable" in figures.centre_forest("o", "t", one, "AUC")
