"""Decision curves and calibration curves as rows of tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from radloom.calibration_curve import grouped_calibration
from radloom.curves import GROUPS, LEAST_CASES, calibration_rows, decision_rows
from radloom.folds import bootstrap_weights
from radloom.performance import ClassJudge, Judge, Predictions, Setting, SurvivalJudge
from radloom.survival_calibration import grouped_survival_calibration
from radloom.survival_metrics import kaplan_meier_risk

ALL = frozenset({"calibration", "net_benefit"})


def of(judge: Judge, seed: int = 0) -> tuple[Predictions, Setting]:
    n = len(judge.classes)
    rng = np.random.default_rng(seed)
    link = rng.normal(size=(n, len(judge.times) or 1)) + judge.classes[:, None] - 0.5
    centres = np.array([f"C{number % 2}" for number in range(n)], dtype=object)
    found = Predictions("cross-validation", link[:, 0], link, np.arange(n) % 5)
    return found, Setting(judge, centres, {}, bootstrap_weights(centres, 30, 1))


def outcomes(n: int = 80) -> ClassJudge:
    return ClassJudge(np.random.default_rng(3).integers(0, 2, n), ALL)


def survival(n: int = 80, families: frozenset[str] = ALL, competing: bool = False) -> SurvivalJudge:
    rng = np.random.default_rng(4)
    return SurvivalJudge(30 * rng.exponential(size=n), rng.integers(0, 2, n), (10.0, 20.0), families, competing)


def test_net_benefit_of_an_outcome_is_its_formula() -> None:
    judge = outcomes()
    found, own = of(judge)
    table = pd.DataFrame(decision_rows("features", found, own, [0.5, 0.2])).set_index(["strategy", "threshold"])
    assert list(table.loc["model"].index) == [0.2, 0.5]
    risk, y = expit(found.link[:, 0]), judge.outcome
    for threshold in (0.2, 0.5):
        odds = threshold / (1 - threshold)
        above = risk >= threshold
        benefit = (above & (y == 1)).mean() - odds * (above & (y == 0)).mean()
        row = table.loc[("model", threshold)]
        assert row["estimate"] == pytest.approx(benefit, abs=1e-14)
        assert row["ci_low"] < row["estimate"] < row["ci_high"]
        everybody = table.loc[("treat all", threshold), "estimate"]
        assert everybody == pytest.approx(y.mean() - odds * (1 - y.mean()), abs=1e-14)
    assert (table["n"] == 80).all()
    assert (table["events"] == y.sum()).all()
    assert table["horizon"].isna().all()


def test_net_benefit_of_survival_is_its_formula_at_each_horizon() -> None:
    judge = survival()
    found, own = of(judge)
    table = pd.DataFrame(decision_rows("features", found, own, [0.3])).set_index(["strategy", "horizon"])
    assert set(table.index) == {(name, at) for name in ("model", "treat all") for at in (10.0, 20.0)}
    for column, horizon in enumerate((10.0, 20.0)):
        risk = -np.expm1(-np.exp(found.link[:, column]))
        above = risk >= 0.3
        # Vickers et al. 2008: the Kaplan-Meier risk of those above the threshold.
        inside = kaplan_meier_risk(judge.time[above], judge.event[above], horizon, np.ones((1, above.sum())))[0]
        benefit = above.mean() * inside - 0.3 / 0.7 * above.mean() * (1 - inside)
        assert table.loc[("model", horizon), "estimate"] == pytest.approx(benefit, abs=1e-12)
        assert table.loc[("model", horizon), "events"] == judge.events_by(np.arange(80), horizon)


@pytest.mark.parametrize("kind", ["outcome", "survival"])
def test_calibration_curves_are_groups_of_the_cases_that_are_known(kind: str) -> None:
    judge: Judge = outcomes() if kind == "outcome" else survival()
    found, own = of(judge)
    known = np.arange(80) >= 10
    risk, link = np.where(known, found.risk, np.nan), np.where(known[:, None], found.link, np.nan)
    some = Predictions("cross-validation", risk, link, found.group)
    table = pd.DataFrame(calibration_rows("features", some, own))
    first = judge.probability(found.link[known, 0])
    if isinstance(judge, SurvivalJudge):
        expected = grouped_survival_calibration(judge.time[known], judge.event[known], first, 10.0, GROUPS)
        assert list(table["horizon"]) == [10.0] * GROUPS + [20.0] * GROUPS
    else:
        expected = grouped_calibration(first, judge.outcome[known], GROUPS)
        assert table["horizon"].isna().all()
    columns = ["group", "n", "events", "predicted", "observed", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(table[columns][:GROUPS], expected[columns], check_exact=True, check_dtype=False)
    assert table["n"][:GROUPS].sum() == 70


def test_few_cases_have_no_calibration_curve() -> None:
    for n, rows in ((LEAST_CASES - 1, 0), (LEAST_CASES, GROUPS)):
        assert len(calibration_rows("features", *of(outcomes(n)))) == rows


def test_what_is_not_asked_or_can_not_be_is_left_out() -> None:
    found, own = of(survival(families=frozenset({"c_index"})))
    assert decision_rows("features", found, own, [0.3]) == []
    assert calibration_rows("features", found, own) == []
    # Absolute risks of a cause-specific model are too high.
    found, own = of(survival(competing=True))
    assert decision_rows("features", found, own, [0.3]) == []
    assert calibration_rows("features", found, own) == []
    one_class = ClassJudge(np.zeros(80, dtype=int), ALL)
    found, own = of(one_class)
    assert decision_rows("features", found, own, [0.3]) == []
    assert calibration_rows("features", found, own) == []
    judge = survival()
    judge.time[:] = np.minimum(judge.time, 15.0)
    found, own = of(judge)
    assert {row["horizon"] for row in decision_rows("features", found, own, [0.3])} == {10.0}
    assert {row["horizon"] for row in calibration_rows("features", found, own)} == {10.0}
