"""Cox regression against R's survival, and concordance against scikit-survival."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from radloom.cox import (
    comparable_pairs,
    fit_cox,
    harrell_c,
    kaplan_meier_of_censoring,
    proportional_hazards_test,
    uno_c,
)
from radloom.errors import CohortError
from radloom.phantoms import simulate_survival

LUNG = ["age", "sex", "ph.ecog", "ph.karno", "pat.karno", "meal.cal", "wt.loss"]
GBSG = ["age", "meno", "size", "grade", "nodes", "pgr", "er", "hormon"]


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip")


@pytest.fixture(scope="module")
def folder(shared_data: Path) -> Path:
    return shared_data / "golden" / "cox"


def check_table(table: pd.DataFrame, expected: pd.DataFrame) -> None:
    np.testing.assert_allclose(table["coefficient"], expected["coef"], rtol=1e-10)
    np.testing.assert_allclose(table["se"], expected["se(coef)"], rtol=1e-10)
    np.testing.assert_allclose(table["hazard_ratio"], expected["exp(coef)"], rtol=1e-10)
    np.testing.assert_allclose(table["p"], expected["Pr(>|z|)"], rtol=1e-8)


@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_lung_equals_r(folder: Path, ties: str) -> None:
    lung = read(folder / "lung.csv")
    table = fit_cox(lung[LUNG], lung["time"].to_numpy(float), lung["status"].to_numpy(), ties=ties)
    check_table(table, read(folder / f"lung_{ties}.csv"))
    assert list(table["term"]) == LUNG
    assert ((table["ci_low"] < table["hazard_ratio"]) & (table["hazard_ratio"] < table["ci_high"])).all()


def test_gbsg_equals_r_with_and_without_strata(folder: Path) -> None:
    gbsg = read(folder / "gbsg.csv")
    time, event = gbsg["rfstime"].to_numpy(float), gbsg["status"].to_numpy()
    check_table(fit_cox(gbsg[GBSG], time, event), read(folder / "gbsg_efron.csv"))
    others = [name for name in GBSG if name != "grade"]
    stratified = fit_cox(gbsg[others], time, event, strata=gbsg["grade"].to_numpy())
    check_table(stratified, read(folder / "gbsg_strata.csv"))


@pytest.mark.parametrize("transform", ["km", "rank"])
def test_proportional_hazards_test_equals_r(folder: Path, transform: str) -> None:
    lung = read(folder / "lung.csv")
    time, event = lung["time"].to_numpy(float), lung["status"].to_numpy()
    coefficients = fit_cox(lung[LUNG], time, event)["coefficient"].to_numpy()
    test = proportional_hazards_test(lung[LUNG], time, event, coefficients, transform=transform)
    expected = read(folder / f"lung_zph_{transform}.csv")
    assert list(test["term"]) == [*LUNG, "GLOBAL"]
    np.testing.assert_allclose(test["chi2"], expected["chisq"], rtol=1e-10)
    np.testing.assert_allclose(test["p"], expected["p"], rtol=1e-10)
    assert list(test["df"]) == list(expected["df"])


def test_proportional_hazards_test_finds_an_effect_that_turns_round() -> None:
    rng = np.random.default_rng(6)
    n = 800
    x = rng.integers(0, 2, n)
    # Weibull shapes differ between the groups: their hazards cross.
    time = rng.weibull(np.where(x == 1, 0.6, 2.0))
    event = np.ones(n, dtype=int)
    design = pd.DataFrame({"group": x.astype(float), "noise": rng.normal(size=n)})
    strata = rng.integers(0, 3, n)
    for groups in (None, strata):
        coefficients = fit_cox(design, time, event, groups)["coefficient"].to_numpy()
        test = proportional_hazards_test(design, time, event, coefficients, groups).set_index("term")
        assert test.loc["group", "p"] < 1e-6
        assert test.loc["noise", "p"] > 0.01


def test_constant_strata_change_nothing(folder: Path) -> None:
    lung = read(folder / "lung.csv")
    time, event = lung["time"].to_numpy(float), lung["status"].to_numpy()
    coefficients = fit_cox(lung[LUNG], time, event)["coefficient"].to_numpy()
    plain = proportional_hazards_test(lung[LUNG], time, event, coefficients)
    one = proportional_hazards_test(lung[LUNG], time, event, coefficients, strata=np.full(len(time), "a"))
    pd.testing.assert_frame_equal(plain, one)


def test_separation_and_collinearity_are_refused() -> None:
    time = np.concatenate([np.arange(1.0, 21.0), np.arange(30.0, 50.0)])
    event = np.concatenate([np.ones(20), np.zeros(20)])
    group = np.concatenate([np.ones(20), np.zeros(20)])
    with pytest.raises(CohortError, match="no finite estimate"):
        fit_cox(pd.DataFrame({"group": group}), time, event)
    noise = np.random.default_rng(0).normal(size=40)
    with pytest.raises(CohortError, match="collinear"):
        fit_cox(pd.DataFrame({"a": noise, "b": 2 * noise + 1}), time, event)


def test_interval_covers_the_true_effect() -> None:
    truth = np.array([0.5, -0.4])
    rng = np.random.default_rng(20)
    covered = np.zeros(2)
    for _ in range(200):
        values = rng.normal(size=(120, 2))
        time, event = simulate_survival(
            values @ truth, rng, baseline_hazard=0.02, follow_up=60.0, shortest_follow_up=12.0
        )
        table = fit_cox(pd.DataFrame(values, columns=["a", "b"]), time, event)
        covered += (table["ci_low"] <= np.exp(truth)) & (np.exp(truth) <= table["ci_high"])
    assert (covered >= 0.91 * 200).all()
    assert (covered <= 0.98 * 200).all()


def test_concordance_equals_scikit_survival_with_ties() -> None:
    rng = np.random.default_rng(3)
    time = np.round(rng.exponential(10, 150)) + 1
    event = rng.integers(0, 2, 150)
    risk = np.round(rng.normal(size=150), 1)
    expected = concordance_index_censored(event.astype(bool), time, risk)[0]
    assert harrell_c(time, event, risk) == pytest.approx(expected, abs=1e-12)
    assert harrell_c(time, event, -risk) == pytest.approx(1 - expected, abs=1e-12)
    assert harrell_c(time, event, 0 * risk) == 0.5
    assert np.isnan(harrell_c(time, 0 * event, risk))
    assert np.trace(comparable_pairs(time, event)) == 0


def test_uno_c_equals_scikit_survival() -> None:
    rng = np.random.default_rng(5)
    risk = rng.normal(size=200)
    time, event = simulate_survival(0.8 * risk, rng, baseline_hazard=0.03, follow_up=60.0, shortest_follow_up=5.0)
    target = Surv.from_arrays(event.astype(bool), time)
    tau = float(np.quantile(time, 0.8))
    expected = concordance_index_ipcw(target, target, risk, tau=tau)[0]
    assert uno_c(time, event, risk, tau) == pytest.approx(expected, abs=1e-10)


def test_kaplan_meier_of_censoring_by_hand() -> None:
    times, uncensored = kaplan_meier_of_censoring(np.array([1.0, 2, 2, 3, 4]), np.array([1, 1, 0, 0, 1]))
    assert list(times) == [1, 2, 3, 4]
    # At 2 the event comes first: three are left, of whom one is censored.
    np.testing.assert_allclose(uncensored, [1, 2 / 3, 1 / 3, 1 / 3])
