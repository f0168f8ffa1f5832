"""Cumulative incidence against R's multi-state survfit and hand counts, cause-specific models against coxph."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sksurv.nonparametric import kaplan_meier_estimator
from statsmodels.duration.survfunc import CumIncidenceRight

from radloom.competing_risks import cause_specific_cox, cumulative_incidence, incidence_at
from radloom.cox import fit_cox
from radloom.errors import CohortError

R_CODE = """
library(survival)
d <- read.csv("data.csv")
put <- function(x, name) write.csv(format(as.data.frame(x), digits = 17), name, row.names = FALSE, quote = FALSE)
fit <- survfit(Surv(time, factor(cause, 0:2)) ~ group, d, conf.type = "log-log")
curve <- function(f, group) data.frame(group = group, time = f$time, risk = f$n.risk[, 1], p1 = f$pstate[, 2],
  p2 = f$pstate[, 3], se1 = f$std.err[, 2], se2 = f$std.err[, 3], low1 = f$lower[, 2], high1 = f$upper[, 2],
  low2 = f$lower[, 3], high2 = f$upper[, 3])
put(rbind(curve(fit[1, ], "a"), curve(fit[2, ], "b")), "curve.csv")
s <- summary(fit, times = c(4, 9, 14), extend = TRUE)
put(data.frame(group = s$strata, time = s$time, risk = s$n.risk[, 1], p1 = s$pstate[, 2], p2 = s$pstate[, 3]), "at.csv")
for (k in 1:2) {
  cs <- coxph(Surv(time, cause == k) ~ x + y, d, control = coxph.control(eps = 1e-13))
  put(cbind(coef = coef(cs), se = sqrt(diag(vcov(cs)))), paste0("cox", k, ".csv"))
}
"""


def simulate(n: int, rng: np.random.Generator, grid: float = 1.0) -> pd.DataFrame:
    data = pd.DataFrame({"x": rng.normal(size=n), "y": rng.normal(size=n), "group": rng.choice(["a", "b"], n)})
    first = rng.exponential(1 / (0.06 * np.exp(0.5 * data["x"])))
    second = rng.exponential(1 / (0.05 * np.exp(0.4 * data["y"])))
    censoring = rng.uniform(3, 25, n)
    data["time"] = np.ceil(np.minimum(np.minimum(first, second), censoring) / grid) * grid
    data["cause"] = np.where(censoring < np.minimum(first, second), 0, np.where(first < second, 1, 2))
    return data


@pytest.fixture(scope="module")
def in_r(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, Path]:
    """Cases with many ties, of both causes and of censoring, and R's results."""
    if shutil.which("Rscript") is None:
        pytest.skip("R is not installed")
    folder = tmp_path_factory.mktemp("r")
    data = simulate(180, np.random.default_rng(17))
    data.to_csv(folder / "data.csv", index=False)
    done = subprocess.run(["Rscript", "-e", R_CODE], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return data, folder


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, float_precision="round_trip", skipinitialspace=True)


def test_curves_by_group_equal_r(in_r: tuple[pd.DataFrame, Path]) -> None:
    data, folder = in_r
    expected = read(folder / "curve.csv")
    found = cumulative_incidence(data["time"].to_numpy(), data["cause"].to_numpy(), data["group"].to_numpy())
    for cause in (1, 2):
        ours = found[found["cause"] == cause]
        both = ours.merge(expected, on=["group", "time"])
        assert len(both) == len(ours) > 20
        np.testing.assert_array_equal(both["n_risk"], both["risk"])
        np.testing.assert_allclose(both["estimate"], both[f"p{cause}"], atol=1e-12)
        # R sums squared influences, we their closed form: rounding alone.
        np.testing.assert_allclose(both["se"], both[f"se{cause}"], atol=1e-10)
        inside = both["estimate"] > 0
        for ours_name, theirs in (("ci_low", f"low{cause}"), ("ci_high", f"high{cause}")):
            np.testing.assert_allclose(both[ours_name][inside], both[theirs][inside].astype(float), atol=1e-9)
            assert both[ours_name][~inside].isna().all()


def test_horizons_equal_r(in_r: tuple[pd.DataFrame, Path]) -> None:
    data, folder = in_r
    expected = read(folder / "at.csv")
    expected["group"] = expected["group"].str.removeprefix("group=").str.strip()
    found = incidence_at(data["time"].to_numpy(), data["cause"].to_numpy(), [4, 9, 14], data["group"].to_numpy())
    for cause in (1, 2):
        both = found[found["cause"] == cause].merge(expected, left_on=["group", "horizon"], right_on=["group", "time"])
        assert len(both) == 6
        np.testing.assert_allclose(both["estimate"], both[f"p{cause}"], atol=1e-12)
        np.testing.assert_array_equal(both["n_risk"], both["risk"])
    assert (found.groupby("group")["n"].first() == data["group"].value_counts().sort_index()).all()


def test_cause_specific_models_equal_r(in_r: tuple[pd.DataFrame, Path]) -> None:
    data, folder = in_r
    table = cause_specific_cox(data[["x", "y"]], data["time"].to_numpy(), data["cause"].to_numpy())
    for cause in (1, 2):
        expected, own = read(folder / f"cox{cause}.csv"), table[table["cause"] == cause]
        np.testing.assert_allclose(own["coefficient"], expected["coef"], rtol=1e-8)
        np.testing.assert_allclose(own["se"], expected["se"], rtol=1e-8)
        assert (own["events"] == (data["cause"] == cause).sum()).all()


def test_estimate_equals_statsmodels() -> None:
    data = simulate(120, np.random.default_rng(3), grid=0.5)
    time, cause = data["time"].to_numpy(), data["cause"].to_numpy()
    reference = CumIncidenceRight(time, cause)
    found = cumulative_incidence(time, cause)
    for k in (1, 2):
        own = found[found["cause"] == k]
        np.testing.assert_allclose(own["estimate"], np.interp(own["time"], reference.times, reference.cinc[k - 1]))


def test_by_hand() -> None:
    time, cause = np.array([1.0, 2, 3, 4]), np.array([1, 2, 0, 1])
    table = cumulative_incidence(time, cause).set_index(["cause", "time"])
    # A quarter dies at 1, a third of three quarters at 2; the last one carries the half that is left.
    assert table.loc[(1, 1.0), "estimate"] == pytest.approx(1 / 4)
    assert table.loc[(2, 2.0), "estimate"] == pytest.approx(1 / 4)
    assert table.loc[(1, 4.0), "estimate"] == pytest.approx(3 / 4)
    assert table.loc[(1, 1.0), "se"] == pytest.approx(np.sqrt(1 / 4 * 3 / 4 / 4))
    assert table.loc[(2, 1.0), ["ci_low", "ci_high"]].isna().all()
    assert list(table.loc[1, "n_risk"]) == [4, 3, 1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), grid=st.sampled_from([1e-6, 0.7, 4.0]))
def test_incidences_add_up_and_one_minus_kaplan_meier_is_too_much(seed: int, grid: float) -> None:
    rng = np.random.default_rng(seed)
    data = simulate(60, rng, grid)
    time, cause = data["time"].to_numpy(), data["cause"].to_numpy()
    cause[:2] = 1, 2
    found = cumulative_incidence(time, cause)
    first, second = found[found["cause"] == 1], found[found["cause"] == 2]
    times, free = kaplan_meier_estimator(cause > 0, time)
    survival = free[np.searchsorted(times, first["time"])]
    np.testing.assert_allclose(first["estimate"].to_numpy() + second["estimate"].to_numpy(), 1 - survival, atol=1e-12)
    times, alone = kaplan_meier_estimator(cause == 1, time)
    naive = 1 - alone[np.searchsorted(times, first["time"])]
    assert (naive >= first["estimate"] - 1e-12).all()
    inside = first["ci_low"].notna()
    assert (first["ci_low"] <= first["estimate"])[inside].all()
    assert (first["estimate"] <= first["ci_high"])[inside].all()
    order = rng.permutation(60)
    pd.testing.assert_frame_equal(found, cumulative_incidence(time[order], cause[order]))


def test_with_one_cause_it_is_the_kaplan_meier_estimate_with_greenwoods_variance() -> None:
    rng = np.random.default_rng(8)
    time, cause = np.ceil(rng.exponential(8, 70)), rng.integers(0, 2, 70)
    found = cumulative_incidence(time, cause)
    times, survival = kaplan_meier_estimator(cause == 1, time)
    at = np.searchsorted(times, found["time"])
    np.testing.assert_allclose(found["estimate"], 1 - survival[at], atol=1e-12)
    left = found["n_risk"] - found["n_event"]
    greenwood = survival[at] * np.sqrt(np.cumsum(found["n_event"] / (found["n_risk"] * left.clip(lower=1))))
    np.testing.assert_allclose(found["se"][left > 0], greenwood[left > 0], atol=1e-12)


def test_interval_covers_the_true_incidence() -> None:
    rng = np.random.default_rng(30)
    truth = 0.06 / 0.11 * (1 - np.exp(-0.11 * 10))
    covered = 0
    for _ in range(300):
        first, second = rng.exponential(1 / 0.06, 150), rng.exponential(1 / 0.05, 150)
        time = np.minimum(np.minimum(first, second), rng.uniform(5, 25, 150))
        cause = np.where(time == first, 1, np.where(time == second, 2, 0))
        row = incidence_at(time, cause, [10.0]).iloc[0]
        covered += row["ci_low"] <= truth <= row["ci_high"]
    # 95 % of 300 with a Monte-Carlo standard error of 1.3 %.
    assert 0.91 * 300 <= covered <= 0.985 * 300


def test_what_can_not_be_estimated_says_why() -> None:
    time = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    cause = np.array([1, 2, 0, 1, 0, 2, 0, 0])
    groups = np.array(["a"] * 4 + ["b"] * 4)
    table = incidence_at(time, cause, [3.0, 6.5], groups).set_index(["group", "cause", "horizon"])
    assert np.isnan(table.loc[("a", 1, 6.5), "estimate"])
    assert table.loc[("a", 1, 6.5), "note"] == "follow-up ends at 4"
    assert table.loc[("b", 1, 6.5), "estimate"] == 0
    assert np.isnan(table.loc[("b", 1, 6.5), "ci_high"])
    assert table.loc[("b", 1, 6.5), "note"].startswith("no event of this cause")
    with pytest.raises(CohortError, match="no event of any cause among 8"):
        cumulative_incidence(time, 0 * cause)
    with pytest.raises(CohortError, match="causes must be 0"):
        cumulative_incidence(time, cause - 1)
    with pytest.raises(CohortError, match="1 case.s. lack a time"):  # noqa: RUF043
        incidence_at(np.where(time == 3, np.nan, time), cause, [1.0])
    design = pd.DataFrame({"x": (cause == 2) * 1.0, "y": np.arange(8) % 3 * 1.0})
    models = cause_specific_cox(design, time, cause)
    second = models[models["cause"] == 2]
    assert second["hazard_ratio"].isna().all()
    assert second["note"].str.contains("no finite estimate: by x the").all()
    assert (second["events"] == 2).all()


def test_other_causes_are_censored() -> None:
    data = simulate(100, np.random.default_rng(1), grid=1e-6)
    time, cause = data["time"].to_numpy(), data["cause"].to_numpy()
    table = cause_specific_cox(data[["x", "y"]], time, cause, cluster=np.arange(100) // 2)
    expected = fit_cox(data[["x", "y"]], time, cause == 1, cluster=np.arange(100) // 2)
    own = table[table["cause"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[list(expected.columns)], expected)
