"""What the features tell of the batch and of the patients: against scipy, statsmodels, and planted effects."""

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import roc_auc_score
from statistics_cohort import cohort_tables, configuration
from statsmodels.stats.multitest import multipletests

from radloom import batch_diagnostics
from radloom.assembly import CohortTables
from radloom.batch_diagnostics import (
    BATCH_COLUMNS,
    COVARIATE_COLUMNS,
    STAGES,
    SUMMARY_COLUMNS,
    Assessment,
    assess,
    compare_batches,
    covariate_effects,
    diagnose,
    guess_batch,
    refit_combat,
    shuffle_batches,
)
from radloom.combat import ComBatHarmonizer
from radloom.harmonize import harmonize_tables

OUTCOMES = ["days", "died", "response"]


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.filterwarnings("ignore:p-value")
def test_diagnostics_equal_scipy(groups: int) -> None:
    rng = np.random.default_rng(1)
    batch = pd.Series(rng.integers(0, groups, 120)).map(lambda number: f"B{number}")
    values = pd.DataFrame({"a": np.round(rng.normal(size=120), 1), "flat": 1.0, "b": rng.normal(size=120)})
    values.loc[batch == "B0", "b"] += 1
    table = diagnose(values, values, batch).set_index("feature")
    for name in ("a", "b"):
        parts = [values.loc[batch == label, name] for label in sorted(set(batch))]
        assert table.loc[name, "anova_p_before"] == pytest.approx(stats.f_oneway(*parts).pvalue)
        assert table.loc[name, "kruskal_p_before"] == pytest.approx(stats.kruskal(*parts).pvalue)
        tests = [
            stats.ks_2samp(values.loc[batch == label, name], values.loc[batch != label, name], method="asymp")
            for label in sorted(set(batch))
        ]
        assert table.loc[name, "ks_before"] == pytest.approx(max(test.statistic for test in tests))
        expected = stats.anderson_ksamp(parts, variant="midrank").statistic
        assert table.loc[name, "ad_before"] == pytest.approx(expected, abs=1e-9)
    assert table.loc["b", "ks_p_before"] < 0.01 < table.loc["a", "ks_p_before"]
    assert table.loc["b", "ad_q_before"] < 0.01 < table.loc["a", "ad_q_before"]
    assert table.loc["flat"].isna().all()
    assert table.filter(like="_after").to_numpy() == pytest.approx(table.filter(like="_before").to_numpy(), nan_ok=True)


def test_each_batch_is_compared_with_the_others() -> None:
    rng = np.random.default_rng(2)
    batch = pd.Series(np.repeat(["A", "B", "C", "alone"], [30, 25, 20, 1]))
    before = pd.DataFrame(rng.normal(size=(76, 6)), columns=list("uvwxyz"))
    before.loc[batch == "C", ["u", "v"]] += 2
    before["z"] = 0.1 + 0.2  # rounding, not variance
    before.loc[::2, "z"] = 0.3
    table = compare_batches(before, before - 1, batch)
    assert list(table.columns) == BATCH_COLUMNS[1:]
    assert list(table["batch"].unique()) == ["A", "B", "C"]
    assert table[table["feature"] == "z"].filter(regex="ks|ad").isna().all(axis=None)
    own = table[(table["batch"] == "C") & (table["feature"] != "z")]
    np.testing.assert_allclose(own["ad_q_before"], multipletests(own["ad_p_before"], method="fdr_bh")[1])
    np.testing.assert_allclose(own["ks_q_before"], multipletests(own["ks_p_before"], method="fdr_bh")[1])
    differ = own["feature"].isin(["u", "v"])
    assert (own["ad_q_before"] < 0.001).tolist() == differ.tolist()
    assert own["n"].unique() == [20]
    assert (table["ad_p_before"].dropna() == table["ad_p_after"].dropna()).all()
    assert compare_batches(before, before, pd.Series(["A"] * 76)).empty


# ------------------------------------------------------------- guessing the batch


def _noise(seed: int, n: int = 120, p: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), np.repeat(["A", "B", "C"], n // 3), np.arange(n).astype(str)


def test_guessing_is_chance_on_noise_and_sure_on_a_large_shift() -> None:
    areas = []
    for seed in range(12):
        values, batch, patients = _noise(seed)
        areas.append(guess_batch(values, batch, patients, bootstraps=0).batches["all"][0])
    # Twelve areas of some 120 cases, each with a standard error of about 0.04.
    assert np.mean(areas) == pytest.approx(0.5, abs=0.04)
    values[batch == "B"] += 1.5
    found = guess_batch(values, batch, patients).batches
    auc, low, high = found["B"]
    assert auc > 0.99
    assert low <= auc <= high <= 1
    assert found["all"][0] == pytest.approx(np.mean([found[name][0] for name in "ABC"]))


def test_a_difference_in_spread_alone_is_found() -> None:
    values, batch, patients = _noise(1, 240, 6)
    values[batch == "C"] *= 2.5
    assert guess_batch(values, batch, patients).batches["C"][0] > 0.8


def test_the_area_is_that_of_scikit_learn_within_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    values, batch, patients = _noise(3)
    values[batch == "A"] += 0.3
    seen: dict[str, np.ndarray] = {}
    inner = batch_diagnostics._areas

    def areas(scores: np.ndarray, *rest: object) -> object:
        seen["scores"], seen["fold"] = scores, rest[3]  # type: ignore[assignment]
        return inner(scores, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batch_diagnostics, "_areas", areas)
    found = guess_batch(values, batch, patients).batches
    assert np.bincount(seen["fold"]).tolist() == [24] * 5
    for k, name in enumerate("ABC"):
        parts = [(seen["fold"] == fold) for fold in range(5)]
        area = [roc_auc_score(batch[part] == name, seen["scores"][part, k]) for part in parts]
        pairs = [np.sum(batch[part] == name) * np.sum(batch[part] != name) for part in parts]
        assert found[name][0] == pytest.approx(np.average(area, weights=pairs), abs=1e-12)


def test_the_cases_of_a_patient_are_in_one_fold() -> None:
    # Two scans of each patient that hardly differ: split between folds they would tell the batch of the other one.
    areas = []
    for seed in range(6):
        values, batch, patients = _noise(seed, 60, 40)
        twice = np.vstack([values, values + 1e-3])
        areas.append(guess_batch(twice, np.tile(batch, 2), np.tile(patients, 2), bootstraps=0).batches["all"][0])
    assert np.mean(areas) == pytest.approx(0.5, abs=0.08)


def test_the_same_numbers_twice_and_in_any_order() -> None:
    values, batch, patients = _noise(5)
    values[batch == "A"] += 0.3
    first = guess_batch(values, batch, patients).batches
    assert guess_batch(values, batch, patients).batches == first
    order = np.random.default_rng(0).permutation(len(values))
    again = guess_batch(values[order], batch[order], patients[order]).batches
    for name, numbers in first.items():
        assert again[name][0] == pytest.approx(numbers[0], abs=1e-3)  # sums in another order may turn a near tie


def test_harmonising_all_cases_hides_the_batch_more_than_new_cases_show() -> None:
    inside, refitted = [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        index = pd.Index([f"K{k:03d}" for k in range(90)], name="case_id")
        batch = np.repeat(["A", "B", "C"], 30)
        values = pd.DataFrame(rng.normal(size=(90, 40)), index=index)
        values[batch == "B"] += rng.normal(0, 1, 40)
        metadata = pd.DataFrame({"centre": batch}, index=index)
        settings = configuration()["harmonize"]
        harmonizer = ComBatHarmonizer()
        after = harmonizer.fit_transform(values, metadata=metadata)
        refit = refit_combat(values, metadata, settings, harmonizer.to_json())
        people = index.to_numpy()
        assert guess_batch(values.to_numpy(), batch, people, bootstraps=0).batches["B"][0] > 0.95
        inside.append(guess_batch(after.to_numpy(), batch, people, bootstraps=0).batches["all"][0])
        refitted.append(guess_batch(values.to_numpy(), batch, people, refit, bootstraps=0).batches["all"][0])
    # No batch effect is left to find, and yet the area is not 0.5: the cases were moved by their own mean.
    assert np.mean(inside) < 0.45
    # What 15 cases a batch could not tell of its effect stays in new cases, of the two batches without one as well.
    assert 0.52 < np.mean(refitted) < 0.75


def test_heavy_tails_bring_a_batch_into_new_cases_where_there_was_none() -> None:
    index = pd.Index([f"K{k:03d}" for k in range(160)], name="case_id")
    metadata = pd.DataFrame({"centre": np.repeat(["A", "B"], 80)}, index=index)
    settings = configuration()["harmonize"]
    areas: dict[str, list[float]] = {"normal": [], "log-normal": []}
    for seed in range(3):
        rng = np.random.default_rng(seed)
        # Features that go together, as those of radiomics do: one extreme case moves the scale of many at once.
        normal = 1.2 * rng.normal(size=(160, 6)) @ rng.normal(size=(6, 60)) + 0.5 * rng.normal(size=(160, 60))
        for name, values in (("normal", normal), ("log-normal", np.exp(normal))):
            table = pd.DataFrame(values, index=index)
            saved = ComBatHarmonizer().fit(table, metadata=metadata).to_json()
            shuffled = metadata.assign(centre=shuffle_batches(metadata["centre"], index.to_numpy(), saved, seed))
            refit = refit_combat(table, shuffled, settings, saved)
            guess = guess_batch(values, shuffled["centre"].to_numpy(), index.to_numpy(), refit, bootstraps=0)
            areas[name].append(guess.batches["all"][0])
    assert np.mean(areas["normal"]) == pytest.approx(0.5, abs=0.1)
    assert np.mean(areas["log-normal"]) > 0.7


def test_shuffled_batches_keep_their_sizes_and_each_patient_in_one() -> None:
    batch = pd.Series(["A"] * 20 + ["B"] * 16 + ["tiny"] * 2, index=[f"K{k}" for k in range(38)])
    people = np.array([f"P{k // 2}" for k in range(38)])
    shuffled = shuffle_batches(batch, people, {"batches": ["A", "B"]}, 1)
    assert shuffled.value_counts().to_dict() == {"A": 20, "B": 16, "tiny": 2}
    assert (shuffled[-2:] == "tiny").all()
    assert pd.Series(shuffled.to_numpy()).groupby(people).nunique().max() == 1
    assert 4 < (shuffled.to_numpy() != batch.to_numpy()).sum() < 32
    order = np.random.default_rng(0).permutation(38)
    again = shuffle_batches(batch.iloc[order], people[order], {"batches": ["A", "B"]}, 1)
    assert again.sort_index().equals(shuffled.sort_index())


def test_what_cannot_be_guessed_has_a_reason() -> None:
    values, batch, patients = _noise(1)
    assert "fewer than two batches" in guess_batch(values, np.full(120, "A"), patients).reason
    assert guess_batch(np.ones((120, 3)), batch, patients).reason == "no feature varies"
    few = np.where(np.arange(120) < 4, "few", batch)
    assert set(guess_batch(values, few, patients).batches) == {"all", "A", "B", "C"}


# --------------------------------------------------------------- covariate effects


def test_effects_equal_statsmodels_and_partial_correlations() -> None:
    rng = np.random.default_rng(7)
    n = 80
    batch = np.array(["A", "B"])[rng.integers(0, 2, n)]
    age, stage = rng.normal(60, 9, n), np.array(["I", "II", "III"])[rng.integers(0, 3, n)]
    before = rng.normal(size=(n, 3)) + np.outer(age / 20, [1, 0, -0.3]) + (batch == "B")[:, None]
    before[:, 2] = 4.0
    covariates = pd.DataFrame({"age": [repr(float(a)) for a in age], "stage": stage})
    records = {record["term"]: record for record in covariate_effects(before, before, batch, covariates)}
    assert list(records) == ["age", "stage[II]", "stage[III]"]
    levels = np.column_stack([stage == "II", stage == "III"]).astype(float)
    for stage_name, design in (
        ("before", np.column_stack([age, levels, np.ones(n), batch == "B"])),
        ("after", np.column_stack([age, levels, np.ones(n)])),
    ):
        fits = [sm.OLS(before[:, j], design).fit() for j in range(2)]
        for position, term in enumerate(records):
            own = records[term]
            for j, fit in enumerate(fits):
                assert own[f"p_{stage_name}"][j] == pytest.approx(fit.pvalues[position], rel=1e-6)
                t = fit.tvalues[position]
                r = t / np.sqrt(t**2 + fit.df_resid)
                assert own[f"effect_{stage_name}"][j] == pytest.approx(r, abs=1e-9)
                # Scipy's interval of a correlation, whose standard error is 1 / sqrt(n - 3), of as many free cases.
                low, high = np.tanh(np.arctanh(r) + np.array([-1, 1]) * 1.959964 / np.sqrt(fit.df_resid - 1))
                assert own[f"ci_low_{stage_name}"][j] == pytest.approx(low, abs=1e-6)
                assert own[f"ci_high_{stage_name}"][j] == pytest.approx(high, abs=1e-6)
            assert np.isnan(own[f"effect_{stage_name}"][2])
    simple = covariate_effects(before, before, np.full(n, "A"), covariates[["age"]])[0]
    expected = stats.pearsonr(age, before[:, 0])
    assert simple["effect_before"][0] == pytest.approx(expected.statistic)
    interval = expected.confidence_interval()
    assert (simple["ci_low_before"][0], simple["ci_high_before"][0]) == pytest.approx(tuple(interval), abs=1e-9)


def _aged(seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cases whose age differs between two centres, and whose features follow age and the centre's scanner."""
    rng = np.random.default_rng(seed)
    index = pd.Index([f"K{k:03d}" for k in range(160)], name="case_id")
    batch = np.repeat(["A", "B"], 80)
    age = rng.normal(60, 6, 160) + np.where(batch == "B", 14, 0)
    effect = np.r_[np.full(15, 0.055), np.zeros(15)]
    values = pd.DataFrame(rng.normal(size=(160, 30)) + np.outer(age - 60, effect), index=index)
    values[batch == "B"] += rng.normal(0, 2, 30)
    return values, pd.DataFrame({"centre": batch, "age": [repr(float(a)) for a in age]}, index=index)


def test_an_effect_survives_where_combat_knows_it_and_not_where_it_does_not() -> None:
    values, metadata = _aged()
    kept = {}
    for name, covariates in (("known", ["age"]), ("unknown", [])):
        after = ComBatHarmonizer(covariates=covariates).fit_transform(
            values, metadata=metadata[["centre", *covariates]]
        )
        (record,) = covariate_effects(
            values.to_numpy(), after.to_numpy(), metadata["centre"].to_numpy(), metadata[["age"]]
        )
        with_effect = np.isfinite(record["kept"])
        assert with_effect[:15].mean() > 0.7
        kept[name] = float(np.nanmean(record["kept"]))
        size = np.abs(record["effect_after"][:15]).mean()
        if name == "known":
            assert size > np.abs(record["effect_before"][:15]).mean()
        else:
            assert size < np.abs(record["effect_before"][:15]).mean() - 0.05
    assert kept["known"] > 0.9
    assert kept["unknown"] < kept["known"] - 0.1


# -------------------------------------------------------------------------- assess


def _assessed(tables: CohortTables, covariates: list[str], **changes: object) -> Assessment:
    settings = configuration(**changes)["harmonize"]
    done = harmonize_tables(tables, settings, OUTCOMES)
    return assess(tables, done.features, done.parameters, done.diagnostics, settings, covariates, bootstraps=100)


def test_the_summary_says_what_the_tables_hold() -> None:
    tables = cohort_tables(120, rois=("tumour", "liver"))
    rng = np.random.default_rng(1)
    age = tables.patients["age"].astype(float).reindex(tables.features["patient_id"]).to_numpy()
    for name in ("f1", "f2", "f3"):
        tables.features[name] += 0.15 * (age - 60) + rng.normal(0, 0.1, len(age))
    found = _assessed(tables, ["age", "sex"], harmonize__covariates=["age"])
    assert list(found.summary.columns) == SUMMARY_COLUMNS
    assert list(found.batches.columns) == BATCH_COLUMNS
    assert list(found.covariates.columns) == COVARIATE_COLUMNS
    assert len(found.batches) == 2 * 12 * 3
    assert len(found.covariates) == 2 * 12 * 2
    rows = found.summary[found.summary["roi"] == "tumour"].set_index(["measure", "stage", "batch"])
    assert rows.index.is_unique
    assert rows.loc[("batch_auc", "before", "all"), "estimate"] > 0.9
    assert rows.loc[("batch_auc", "after", "all"), "estimate"] < 0.6
    honest = rows.loc[("batch_auc", "after, new cases", "all")]
    assert honest["ci_low"] < honest["estimate"] < honest["ci_high"]
    assert rows.loc[("batch_auc", "after", "all"), "estimate"] < honest["estimate"] < 0.8
    own = found.batches[(found.batches["roi"] == "tumour") & (found.batches["batch"] == "C1")]
    share = rows.loc[("features_anderson_darling", "before", "C1")]
    assert share["estimate"] == pytest.approx((own["ad_q_before"] < 0.05).mean())
    assert share["note"].startswith(f"{(own['ad_q_before'] < 0.05).sum()} of 12 features with q < 0.05")
    assert rows.loc[("features_anderson_darling", "after", "all"), "estimate"] == 0
    kept = rows.loc[("covariate_kept: age", "after", "all")]
    assert kept["estimate"] == 1
    assert kept["note"].startswith("3 of 3 features")
    # Words are terms against the first level; a covariate without an effect has nothing to keep.
    sex = rows.loc[("covariate_kept: sex[M]", "after", "all")]
    assert np.isnan(sex["estimate"])
    assert "no feature has a significant effect before" in sex["note"]


def test_the_same_tables_from_rows_in_another_order() -> None:
    tables = cohort_tables(60)
    shuffled = CohortTables(tables.features.sample(frac=1, random_state=1), tables.cases, tables.patients)
    settings = configuration()["harmonize"]
    done = harmonize_tables(tables, settings, OUTCOMES)
    arguments = (done.parameters, done.diagnostics, settings, ["age"])
    first = assess(tables, done.features, *arguments, bootstraps=50)
    again = assess(shuffled, done.features.sample(frac=1, random_state=2), *arguments, bootstraps=50)
    for name in ("batches", "covariates", "summary"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(again, name), check_exact=True)


def test_what_is_not_estimable_is_a_row_with_a_reason() -> None:
    tables = cohort_tables(40, centres=1)
    tables.patients["site"] = "one"
    tables.patients["name"] = [f"n{k}" for k in range(40)]
    found = _assessed(tables, ["age", "site", "name"])
    rows = found.summary.set_index(["measure", "stage", "batch"])
    assert found.batches.empty
    for stage in ("before", "after", "after, new cases", "after, shuffled"):
        row = rows.loc[("batch_auc", stage, "all")]
        assert np.isnan(row["estimate"])
        least = 5 if stage in STAGES else 10
        assert row["note"] == f"not estimable: fewer than two batches with {least} patients"
    assert "it has one value" in rows.loc[("covariate_kept: site", "", "all"), "note"]
    assert "40 different words" in rows.loc[("covariate_kept: name", "", "all"), "note"]


def test_batches_that_were_merged_or_left_alone_are_so_in_every_fold() -> None:
    tables = cohort_tables(90)
    tables.features["centre"] = tables.features["centre"].astype(object)
    tables.features.loc[tables.features.index[:6], "centre"] = "X"
    tables.features.loc[tables.features.index[6:13], "centre"] = "Y"
    for policy in ("merge", "passthrough", "exclude"):
        found = _assessed(tables, ["age"], harmonize__small_batch=policy, harmonize__min_batch_size=10)
        rows = found.summary.set_index(["measure", "stage", "batch"])
        assert np.isfinite(rows.loc[("batch_auc", "after, new cases", "all"), "estimate"])
        assert (("batch_auc", "before", "X") in rows.index) == (policy != "exclude")
