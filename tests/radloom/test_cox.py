"""Cox regression against R's survival, and concordance against scikit-survival."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from radloom.cox import (
    baseline_hazard,
    comparable_pairs,
    dfbeta,
    fit_cox,
    harrell_c,
    kaplan_meier_of_censoring,
    predict_survival,
    proportional_hazards_test,
    score_residuals,
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


def test_lung_with_clusters_equals_r(folder: Path) -> None:
    lung, expected = read(folder / "lung.csv"), read(folder / "lung_cluster.csv")
    time, event, terms = lung["time"].to_numpy(float), lung["status"].to_numpy(), ["age", "sex", "ph.ecog"]
    table = fit_cox(lung[terms], time, event, cluster=lung["inst"].to_numpy())
    # 1e-8 is what the project promises; the difference is rounding (4e-15 when written).
    for ours, theirs in {"coefficient": "coef", "se": "robust se", "se_model": "se(coef)", "p": "Pr(>|z|)"}.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-8)
    assert table["robust"].all()
    assert (table["clusters"] == lung["inst"].nunique()).all()
    assert list(table[["n", "events"]].iloc[0]) == [len(lung), event.sum()]
    np.testing.assert_allclose(table["ci_high"], np.exp(table["coefficient"] + 1.959963984540054 * table["se"]))
    plain = fit_cox(lung[terms], time, event)
    assert not plain["robust"].any()
    assert plain["clusters"].isna().all()
    pd.testing.assert_series_equal(plain["se"], table["se_model"], check_names=False)


def test_survival_of_gbsg_equals_r(folder: Path) -> None:
    gbsg = read(folder / "gbsg.csv")
    time, event = gbsg["rfstime"].to_numpy(float), gbsg["status"].to_numpy()
    eta = gbsg[GBSG].to_numpy(float) @ fit_cox(gbsg[GBSG], time, event)["coefficient"].to_numpy()
    found = predict_survival(baseline_hazard(eta, time, event), eta[:3], [365, 730, 1825])
    np.testing.assert_allclose(found.T, read(folder / "gbsg_surv.csv").iloc[:, 1:], atol=1e-8)


R_CODE = """
library(survival)
d <- read.csv("data.csv")
d$stratum <- factor(d$stratum)
put <- function(x, name) write.csv(format(as.data.frame(x), digits = 17), name, row.names = FALSE, quote = FALSE)
for (ties in c("efron", "breslow")) for (how in c("plain", "strata")) {
  f <- if (how == "plain") Surv(time, event) ~ a + b + c else Surv(time, event) ~ a + b + c + strata(stratum)
  control <- coxph.control(eps = 1e-13, toler.chol = 1e-14, iter.max = 50)
  fit <- coxph(f, d, ties = ties, control = control)
  robust <- coxph(f, d, ties = ties, cluster = patient, control = control)
  tag <- paste(ties, how, sep = "_")
  put(cbind(coef = coef(fit), se = sqrt(diag(vcov(fit))), robust = sqrt(diag(vcov(robust)))), paste0(tag, "_fit.csv"))
  put(residuals(fit, "score"), paste0(tag, "_score.csv"))
  put(residuals(fit, "dfbeta"), paste0(tag, "_dfbeta.csv"))
  if (ties == "efron") for (g in c("km", "rank", "identity", "log"))
    put(cox.zph(fit, g)$table, paste0(tag, "_zph_", g, ".csv"))
  for (i in 1:6) {
    s <- summary(survfit(fit, newdata = d[i, ]), times = c(3, 8, 15), extend = TRUE)
    put(cbind(survival = s$surv), paste0(tag, "_surv_", i, ".csv"))
  }
}
"""


@pytest.fixture(scope="module")
def in_r(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Simulated cases with ties (events and censorings at whole months), strata and clusters, and R's results."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    folder = tmp_path_factory.mktemp("r")
    rng = np.random.default_rng(41)
    n = 240
    data = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    data["b"] = (data["b"] > 0.3) * 1.0
    data["c"] = 1000 + 50 * data["c"]
    data["stratum"] = rng.choice(["x", "y", "z"], n)
    data["patient"] = rng.integers(0, 60, n)
    eta = 0.6 * data["a"] - 0.5 * data["b"] + 0.5 * rng.normal(size=60)[data["patient"]]
    hazard = data["stratum"].map({"x": 0.03, "y": 0.06, "z": 0.1}).to_numpy()
    time, event = simulate_survival(
        eta.to_numpy(), rng, baseline_hazard=hazard, follow_up=24.0, shortest_follow_up=10.0
    )
    data["time"], data["event"] = np.ceil(time), event
    data.to_csv(folder / "data.csv", index=False)
    done = subprocess.run(["Rscript", "-e", R_CODE], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return data, folder


@pytest.mark.parametrize("how", ["plain", "strata"])
@pytest.mark.parametrize("ties", ["efron", "breslow"])
def test_ties_strata_and_clusters_equal_r(in_r: tuple[pd.DataFrame, Path], ties: str, how: str) -> None:
    data, folder = in_r
    design, time, event = data[["a", "b", "c"]], data["time"].to_numpy(), data["event"].to_numpy()
    strata = data["stratum"].to_numpy() if how == "strata" else None
    expected = read(folder / f"{ties}_{how}_fit.csv")
    table = fit_cox(design, time, event, strata, ties, cluster=data["patient"].to_numpy())
    for ours, theirs in {"coefficient": "coef", "se": "robust", "se_model": "se"}.items():
        np.testing.assert_allclose(table[ours], expected[theirs], rtol=1e-8)
    coefficients = table["coefficient"].to_numpy()
    ours = score_residuals(design, time, event, coefficients, strata, ties)
    theirs = read(folder / f"{ties}_{how}_score.csv").to_numpy()
    # The columns' scales differ by 50, and R's own maximum is known to about 1e-9 of them.
    np.testing.assert_allclose(ours / design.std().to_numpy(), theirs / design.std().to_numpy(), atol=1e-8)
    np.testing.assert_allclose(ours.sum(axis=0) / design.std(), 0, atol=1e-9)
    ours = dfbeta(design, time, event, strata, ties)
    np.testing.assert_allclose(ours, read(folder / f"{ties}_{how}_dfbeta.csv").to_numpy(), atol=1e-9)
    eta = design.to_numpy() @ coefficients
    baseline = baseline_hazard(eta, time, event, ties, strata)
    found = predict_survival(baseline, eta[:6], [3, 8, 15], None if strata is None else strata[:6])
    for row in range(6):
        theirs = read(folder / f"{ties}_{how}_surv_{row + 1}.csv")["survival"]
        np.testing.assert_allclose(found[row], theirs, atol=1e-8)
    if ties == "efron":
        for transform in ("km", "rank", "identity", "log"):
            test = proportional_hazards_test(design, time, event, coefficients, strata, transform)
            theirs = read(folder / f"efron_{how}_zph_{transform}.csv")
            np.testing.assert_allclose(test["chi2"], theirs["chisq"], rtol=1e-6)
            np.testing.assert_allclose(test["p"], theirs["p"], rtol=1e-6)


def test_clusters_of_one_and_repeated_cases() -> None:
    rng = np.random.default_rng(2)
    design = pd.DataFrame(rng.normal(size=(100, 2)), columns=["a", "b"])
    time, event = simulate_survival(design["a"].to_numpy(), rng, baseline_hazard=0.05, follow_up=30.0)
    alone = fit_cox(design, time, event, ties="breslow", cluster=np.arange(100))
    twice = fit_cox(
        pd.concat([design, design]),
        np.tile(time, 2),
        np.tile(event, 2),
        ties="breslow",
        cluster=np.tile(np.arange(100), 2),
    )
    # Every case twice tells nothing new: with Breslow's ties neither the estimate nor its robust error moves.
    np.testing.assert_allclose(twice["coefficient"], alone["coefficient"], rtol=1e-9)
    np.testing.assert_allclose(twice["se"], alone["se"], rtol=1e-9)
    np.testing.assert_allclose(twice["se_model"], alone["se_model"] / np.sqrt(2), rtol=1e-9)
    with pytest.raises(CohortError, match="at least two clusters"):
        fit_cox(design, time, event, cluster=np.zeros(100))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(-4, 4), shift=st.floats(-1e3, 1e3), grid=st.sampled_from([0.1, 3.0]))
def test_fit_doesnt_depend_on_units_or_order(seed: int, scale: float, shift: float, grid: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(90, 2))
    time, event = simulate_survival(values[:, 0], rng, baseline_hazard=0.05, follow_up=40.0)
    time = np.ceil(time / grid) * grid
    strata = rng.integers(0, 2, 90)
    table = fit_cox(pd.DataFrame(values), time, event, strata)
    order = rng.permutation(90)
    unit = 10.0**scale
    moved = fit_cox(
        pd.DataFrame(values * unit + shift * unit)[::1].iloc[order], 7 * time[order], event[order], strata[order]
    )
    np.testing.assert_allclose(moved["coefficient"] * unit, table["coefficient"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(moved["z"], table["z"], rtol=1e-6, atol=1e-8)


def test_baseline_is_the_kaplan_meier_or_nelson_aalen_estimate_without_covariates() -> None:
    rng = np.random.default_rng(12)
    time, event = np.ceil(rng.exponential(10, 80)), rng.integers(0, 2, 80)
    event[time == time.max()] = 0
    table = baseline_hazard(np.zeros(80), time, event, ties="breslow").table
    at_risk = (time[None, :] >= table["time"].to_numpy()[:, None]).sum(axis=1)
    deaths = ((time[None, :] == table["time"].to_numpy()[:, None]) & (event == 1)).sum(axis=1)
    np.testing.assert_array_equal(table["n_risk"], at_risk)
    np.testing.assert_array_equal(table["n_event"], deaths)
    np.testing.assert_allclose(table["hazard"], deaths / at_risk, rtol=1e-12)
    efron = baseline_hazard(np.zeros(80), time, event).table["hazard"]
    parts = [sum(1 / (r - k) for k in range(d)) for r, d in zip(at_risk, deaths, strict=True)]
    np.testing.assert_allclose(efron, parts, rtol=1e-12)
    # Any constant in the linear predictor is taken up by the baseline, even where its exponential would overflow.
    eta = rng.normal(size=80)
    at = [5.0, 10.0]
    near = predict_survival(baseline_hazard(eta, time, event), eta, at)
    far = predict_survival(baseline_hazard(eta + 5000, time, event), eta + 5000, at)
    np.testing.assert_allclose(near, far, rtol=1e-9)
    assert (np.diff(near, axis=1) <= 0).all()


def test_survival_that_nobody_can_know_is_nan() -> None:
    time, event = np.array([1.0, 2, 3, 4, 5, 6]), np.array([1, 0, 1, 0, 0, 0])
    strata = np.array(["a", "a", "a", "b", "b", "b"])
    baseline = baseline_hazard(np.zeros(6), time, event, strata=strata)
    assert baseline.problems == ("stratum b: no event among 3 cases, so no baseline hazard",)
    found = predict_survival(baseline, np.zeros(2), [0.5, 1.0, 3.0, 3.5], np.array(["a", "b"]))
    np.testing.assert_allclose(found[0], [1.0, np.exp(-1 / 3), np.exp(-4 / 3), np.nan])
    assert np.isnan(found[1]).all()
    with pytest.raises(CohortError, match="stratum c: the model was fitted to a, b"):
        predict_survival(baseline, np.zeros(1), [1.0], np.array(["c"]))


def test_separation_and_collinearity_are_refused() -> None:
    time = np.concatenate([np.arange(1.0, 21.0), np.arange(30.0, 50.0)])
    event = np.concatenate([np.ones(20), np.zeros(20)])
    group = np.concatenate([np.ones(20), np.zeros(20)])
    noise = np.random.default_rng(0).normal(size=40)
    with pytest.raises(CohortError, match="no finite estimate: by group the case"):
        fit_cox(pd.DataFrame({"noise": noise, "group": group}), time, event)
    with pytest.raises(CohortError, match="no finite estimate: by a, b the case"):
        fit_cox(pd.DataFrame({"a": group + noise, "b": noise}), time, event)
    # Ranks of time with room to spare: other columns could help a linear program, but the culprit alone is named.
    with pytest.raises(CohortError, match="no finite estimate: by late the case"):
        fit_cox(pd.DataFrame({"noise": noise, "late": -time}), time, event)
    with pytest.raises(CohortError, match="collinear: a, b"):
        fit_cox(pd.DataFrame({"a": noise, "b": 2 * noise + 1, "c": noise**2}), time, event)
    with pytest.raises(CohortError, match="constant: a"):
        fit_cox(pd.DataFrame({"a": np.full(40, 0.1), "b": noise}), time, event)
    with pytest.raises(CohortError, match=r"group can't be estimated .* .within each stratum"):
        fit_cox(pd.DataFrame({"group": group, "b": noise}), time, event, strata=group)
    with pytest.raises(CohortError, match="no events among its 40 cases"):
        fit_cox(pd.DataFrame({"b": noise}), time, 0 * event)
    holes = pd.DataFrame({"b": noise}, index=[f"c{i}" for i in range(40)]).mask(np.arange(40)[:, None] == 7)
    with pytest.raises(CohortError, match="case c7 of the Cox model"):
        fit_cox(holes, time, event)
    with pytest.raises(CohortError, match="must be 1"):
        fit_cox(pd.DataFrame({"b": noise}), time, event + 1)


def test_a_rare_category_that_has_a_finite_estimate_is_fitted() -> None:
    # One contradiction is enough for a maximum, however far out it lies: the exact test must not refuse it.
    n = 2000
    time = np.arange(1.0, n + 1)
    event = np.zeros(n)
    event[:100] = 1
    rare = np.zeros(n)
    rare[:100] = 1
    design = pd.DataFrame({"rare": rare})
    with pytest.raises(CohortError, match="by rare the"):
        fit_cox(design, time, event)
    event[n - 2], rare[n - 1] = 1, 1
    design = pd.DataFrame({"rare": rare})
    table = fit_cox(design, time, event)
    assert np.isfinite(table["se"]).all()
    assert table["coefficient"].iloc[0] > 5


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
