"""ComBat against sva and neuroCombat, and every guard that keeps a wrong fit from looking right."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from neuroCombat import neuroCombat
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from radloom.combat import ComBatHarmonizer, HarmonizationError, HarmonizationWarning
from radloom.combat_effects import non_parametric
from radloom.harmonizer import (
    ADAPTED,
    EXCLUDED,
    HARMONISED,
    MERGED,
    NO_FEATURE,
    PASSED_SMALL,
    PASSED_UNSEEN,
    REFERENCE,
    ROW_STATUS,
    SINGLE_BATCH,
)

KEPT = ["age", "sex", "stage"]
GOLDEN = {
    "par": {"covariates": KEPT},
    "np": {"covariates": KEPT, "parametric": False},
    "mo": {"covariates": KEPT, "mean_only": True},
    "ref": {"covariates": KEPT, "reference_batch": "S1"},
    "nomod": {},
}


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, index_col=0, float_precision="round_trip")


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> tuple[pd.DataFrame, pd.DataFrame, Path]:
    folder = shared_data / "golden" / "combat"
    return read(folder / "features.csv"), read(folder / "covariates.csv"), folder


def simulated(
    sizes: tuple[int, ...] = (30, 25, 40), features: int = 20, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features with a shift and a scale of each batch, and an effect of age on the first ten."""
    rng = np.random.default_rng(seed)
    batch = np.repeat([f"B{number}" for number in range(len(sizes))], sizes)
    n = len(batch)
    age = np.round(rng.normal(60, 10, n))
    codes = pd.Categorical(batch).codes
    values = rng.normal(size=(n, features))
    values = values * rng.uniform(0.5, 2, (len(sizes), features))[codes]
    values += rng.normal(0, 2, (len(sizes), features))[codes]
    values[:, :10] += 0.1 * (age - 60)[:, None]
    index = pd.Index([f"case{number:03d}" for number in range(n)], name="case_id")
    frame = pd.DataFrame(values, index=index, columns=[f"f{number}" for number in range(features)])
    sex = np.where(rng.uniform(size=n) < 0.5, "F", "M")
    return frame, pd.DataFrame({"centre": batch, "age": age, "sex": sex}, index=index)


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_sva(golden: tuple[pd.DataFrame, pd.DataFrame, Path], name: str) -> None:
    features, metadata, folder = golden
    harmonizer = ComBatHarmonizer("site", **GOLDEN[name])
    result = harmonizer.fit_transform(features, metadata=metadata)
    expected = read(folder / f"sva_{name}.csv")
    np.testing.assert_allclose(result.to_numpy(), expected.to_numpy(), rtol=0, atol=1e-9)


VARIANTS: dict[str, dict[str, bool]] = {
    "parametric": {},
    "non-parametric": {"parametric": False},
    "mean only": {"mean_only": True},
    "mean only, non-parametric": {"mean_only": True, "parametric": False},
    "without empirical Bayes": {"eb": False},
    "without empirical Bayes, mean only": {"eb": False, "mean_only": True},
}


def neurocombat(
    features: pd.DataFrame, metadata: pd.DataFrame, kept: list[str], options: dict[str, bool], reference: str | None
) -> np.ndarray:
    """What neuroCombat itself returns, cases x features; it gets back the name that NumPy 2 has no more."""
    words = [name for name in kept if name == "sex"]
    numbers = [name for name in kept if name == "age"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setattr(np, "int", int, raising=False)
        result = neuroCombat(
            features.to_numpy().T.copy(), metadata, "centre", words, numbers, ref_batch=reference, **options
        )
    return np.asarray(result["data"]).T


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kept", [["age", "sex"], []], ids=["covariates", "no covariates"])
@pytest.mark.parametrize("reference", [None, "B1"])
def test_transform_of_training_rows_equals_neurocombats_own_output(
    name: str, kept: list[str], reference: str | None
) -> None:
    # Whole years, because neuroCombat casts covariates to float32, which holds them exactly.
    features, metadata = simulated()
    theirs = neurocombat(features, metadata, kept, VARIANTS[name], reference)
    ours = ComBatHarmonizer(covariates=kept, reference_batch=reference, **VARIANTS[name]).fit(
        features, metadata=metadata
    )
    np.testing.assert_allclose(ours.transform(features, metadata), theirs, rtol=0, atol=1e-10)


def test_features_of_large_mean_keep_their_digits() -> None:
    features, metadata = simulated()
    plain = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    raised = ComBatHarmonizer(covariates=["age"]).fit_transform(features + 1e6, metadata=metadata)
    # Adding 1e6 rounds a value to 1e-10, and nothing may make that much worse.
    np.testing.assert_allclose(raised - 1e6, plain, rtol=0, atol=1e-8)


def test_removes_the_batch_effect_and_keeps_the_covariates() -> None:
    features, metadata = simulated((200, 200))
    result = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    means = result.groupby(metadata["centre"]).mean()
    assert (means.loc["B0"] - means.loc["B1"]).abs().max() < 0.2
    slope = np.polyfit(metadata["age"], result["f0"], 1)[0]
    assert slope == pytest.approx(0.1, abs=0.02)


def test_new_rows_use_their_own_covariates_and_batch() -> None:
    features, metadata = simulated()
    harmonizer = ComBatHarmonizer(covariates=["age"]).fit(features, metadata=metadata)
    whole = harmonizer.transform(features, metadata)
    some = features.index[[70, 3, 40]]
    part = harmonizer.transform(features.loc[some], metadata.loc[some])
    assert part.equals(whole.loc[some])
    older = metadata.loc[some].assign(age=90.0)
    assert not np.allclose(harmonizer.transform(features.loc[some], older), part)


def test_non_parametric_likelihoods_of_large_batches_do_not_underflow() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 1500))
    # What the function gets: each feature's mean, variance and squares, of which mean and variance are its priors, too.
    mean = values.mean(axis=1)
    squares = ((values - mean[:, None]) ** 2).sum(axis=1)
    gamma, delta = non_parametric(mean, squares / 1499, squares, 1500)
    gamma_hat, delta_hat = mean[None], squares[None] / 1499
    # The textbook's formula in numbers with a wider range.
    g, d = gamma_hat[0].astype(np.longdouble), delta_hat[0].astype(np.longdouble)
    for feature in range(4):
        squares = ((values[feature] - g[:, None]) ** 2).sum(axis=1)
        likelihood = (2 * np.pi * d) ** -750 * np.exp(-squares / (2 * d))
        assert float(likelihood.max()) == 0.0  # underflows in double precision
        likelihood[feature] = 0
        assert gamma[feature] == pytest.approx(float((g * likelihood).sum() / likelihood.sum()), rel=1e-9)
        assert delta[feature] == pytest.approx(float((d * likelihood).sum() / likelihood.sum()), rel=1e-9)


def test_conditioning_does_not_depend_on_the_unit_of_a_covariate() -> None:
    features, metadata = simulated()
    shifted = metadata.assign(age=metadata["age"] * 365.25 + 1e6)
    first = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    second = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=shifted)
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_order_of_rows_does_not_matter() -> None:
    features, metadata = simulated()
    straight = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    turned = ComBatHarmonizer(covariates=["age"]).fit_transform(features[::-1], metadata=metadata[::-1])
    assert straight.equals(turned[::-1])
    mixed = np.random.default_rng(3).permutation(len(features))
    shuffled = ComBatHarmonizer(covariates=["age"]).fit(features.iloc[mixed], metadata=metadata.iloc[mixed])
    assert shuffled.transform(features, metadata).equals(straight)


def test_keeps_the_reference_batch_exactly() -> None:
    features, metadata = simulated()
    result = ComBatHarmonizer(reference_batch="B1").fit_transform(features, metadata=metadata)
    inside = metadata["centre"] == "B1"
    assert result[inside].equals(features[inside])
    assert not np.allclose(result[~inside], features[~inside])


def test_json_gives_the_same_bits() -> None:
    features, metadata = simulated((30, 25, 3))
    features["constant"] = 7.0
    harmonizer = ComBatHarmonizer(covariates=["age", "sex"], small_batch="passthrough", exempt=["f3"])
    with pytest.warns(HarmonizationWarning):
        harmonizer.fit(features, metadata=metadata)
    again = ComBatHarmonizer.from_json(json.loads(json.dumps(harmonizer.to_json())))
    assert again.transform(features, metadata).equals(harmonizer.transform(features, metadata))
    assert again.get_params() == harmonizer.get_params()
    with pytest.raises(HarmonizationError, match="no ComBat parameters"):
        ComBatHarmonizer.from_json({"format": "other"})


def test_scikit_learn_contract() -> None:
    features, metadata = simulated()
    table = features.join(metadata)
    untouched = table.copy()
    harmonizer = ComBatHarmonizer("centre", ["age"])
    copy = clone(harmonizer)
    assert copy.get_params() == harmonizer.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(table)
    table = table.drop(columns="sex")
    result = harmonizer.fit_transform(table, y=np.zeros(len(table)))
    assert list(harmonizer.get_feature_names_out()) == list(features.columns) == list(result.columns)
    assert harmonizer.n_features_in_ == features.shape[1]
    separate = ComBatHarmonizer("centre", ["age"]).fit_transform(features, metadata=metadata)
    assert result.equals(separate)
    assert table.equals(untouched.drop(columns="sex"))
    chained = make_pipeline(ComBatHarmonizer("centre", ["age"]), StandardScaler()).fit(table)
    assert np.abs(chained.transform(table).mean(axis=0)).max() < 1e-12


def test_the_outcome_has_no_way_in() -> None:
    features, metadata = simulated()
    rng = np.random.default_rng(1)
    first = ComBatHarmonizer().fit_transform(features, rng.integers(0, 2, len(features)), metadata)
    second = ComBatHarmonizer().fit_transform(features, rng.integers(0, 2, len(features)), metadata)
    assert first.equals(second)


def test_small_batches() -> None:
    features, metadata = simulated((30, 25, 3, 4))
    small = metadata["centre"].isin(["B2", "B3"])
    with pytest.raises(HarmonizationError, match=r"B2 \(3\), B3 \(4\).*small_batch"):
        ComBatHarmonizer().fit(features, metadata=metadata)

    with pytest.warns(HarmonizationWarning, match=r"excluded: B2 \(3\), B3 \(4\)"):
        left = ComBatHarmonizer(small_batch="exclude").fit(features, metadata=metadata)
    result = left.transform(features, metadata)
    assert result[small].isna().all(axis=None)
    alone = ComBatHarmonizer().fit_transform(features[~small], metadata=metadata[~small])
    np.testing.assert_allclose(result[~small], alone)

    with pytest.warns(HarmonizationWarning, match="not harmonised"):
        kept = ComBatHarmonizer(small_batch="passthrough").fit(features, metadata=metadata)
    result = kept.transform(features, metadata)
    assert result[small].equals(features[small])
    np.testing.assert_allclose(result[~small], alone)

    with pytest.warns(HarmonizationWarning) as caught:
        merged = ComBatHarmonizer(small_batch="merge").fit(features, metadata=metadata)
    assert any("merged" in str(warning.message) for warning in caught)
    assert merged.batch_sizes_ == {"B0": 30, "B1": 25, "B2+B3": 7}
    renamed = metadata.replace({"centre": {"B2": "B2+B3", "B3": "B2+B3"}})
    with pytest.warns(HarmonizationWarning, match="fewer than 20"):
        expected = ComBatHarmonizer().fit_transform(features, metadata=renamed)
    np.testing.assert_allclose(merged.transform(features, metadata), expected)


def test_merging_needs_enough_cases_together() -> None:
    features, metadata = simulated((30, 25, 3))
    with pytest.raises(HarmonizationError, match=r"together have 3: B2 \(3\)"):
        ComBatHarmonizer(small_batch="merge").fit(features, metadata=metadata)


def test_no_batch_is_large_enough() -> None:
    features, metadata = simulated((3, 4))
    with pytest.raises(HarmonizationError, match="no batch has 5 cases or more"):
        ComBatHarmonizer(small_batch="exclude").fit(features, metadata=metadata)


def test_warns_of_batches_below_twenty() -> None:
    features, metadata = simulated((30, 12))
    with pytest.warns(HarmonizationWarning, match=r"fewer than 20 cases: B1 \(12\)"):
        ComBatHarmonizer().fit(features, metadata=metadata)


def test_missing_cells_are_named() -> None:
    features, metadata = simulated()
    features.loc["case007", "f3"] = np.nan
    features.loc["case009", "f4"] = np.inf
    with pytest.raises(HarmonizationError, match=r"2 feature values .*case007, case009.*f3, f4"):
        ComBatHarmonizer().fit(features, metadata=metadata)


@pytest.mark.parametrize("empty", [np.nan, "", " "])
def test_missing_batch_and_covariate_are_named(empty: object) -> None:
    features, metadata = simulated()
    for column in ("centre", "sex"):
        broken = metadata.astype(object)
        broken.loc["case011", column] = empty
        with pytest.raises(HarmonizationError, match=f"{column}.*case011"):
            ComBatHarmonizer(covariates=["sex"]).fit(features, metadata=broken)


def test_constant_features_are_set_aside_and_put_back() -> None:
    features, metadata = simulated()
    alone = ComBatHarmonizer().fit_transform(features, metadata=metadata)
    more = features.copy()
    more.insert(2, "everywhere", 0.1)
    more.insert(0, "inside", np.where(metadata["centre"] == "B1", 3.0, np.arange(len(more))))
    with pytest.warns(HarmonizationWarning, match="inside, everywhere"):
        result = ComBatHarmonizer().fit_transform(more, metadata=metadata)
    assert list(result.columns) == list(more.columns)
    assert result[["inside", "everywhere"]].equals(more[["inside", "everywhere"]])
    np.testing.assert_allclose(result[features.columns], alone)


def test_single_feature_is_adjusted_without_shrinkage() -> None:
    features, metadata = simulated()
    with pytest.warns(HarmonizationWarning, match="only one feature"):
        result = ComBatHarmonizer().fit_transform(features[["f1"]], metadata=metadata)
    spread = result["f1"].groupby(metadata["centre"]).agg(["mean", "std"])
    assert np.ptp(spread["mean"]) < 1e-10
    assert np.ptp(spread["std"]) < 1e-10


def test_single_batch_is_identity_with_a_warning() -> None:
    features, metadata = simulated((30,))
    with pytest.warns(HarmonizationWarning, match=r"only one batch \(B0\)"):
        result = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    assert result.equals(features)


def test_refuses_covariates_that_can_not_be_told_from_the_batch() -> None:
    features, metadata = simulated()
    confounded = metadata.assign(scanner=metadata["centre"].map({"B0": "x", "B1": "y", "B2": "y"}))
    with pytest.raises(HarmonizationError, match="'scanner' is confounded with the batch"):
        ComBatHarmonizer(covariates=["age", "scanner"]).fit(features, metadata=confounded)
    with pytest.raises(HarmonizationError, match="'flat' has the same value"):
        ComBatHarmonizer(covariates=["flat"]).fit(features, metadata=metadata.assign(flat=3))
    double = metadata.assign(months=metadata["age"] * 12)
    with pytest.raises(HarmonizationError, match="collinear"):
        ComBatHarmonizer(covariates=["age", "months"]).fit(features, metadata=double)
    with pytest.raises(HarmonizationError, match="can't be a covariate"):
        ComBatHarmonizer(covariates=["centre"]).fit(features, metadata=metadata)


def test_refuses_covariates_of_numbers_and_words_or_of_many_words() -> None:
    features, metadata = simulated()
    mistyped = metadata.astype(object)
    mistyped.loc["case012", "age"] = "6O"
    with pytest.raises(HarmonizationError, match=r"'age' has numbers and words.*in case012"):
        ComBatHarmonizer(covariates=["age"]).fit(features, metadata=mistyped)
    many = metadata.assign(site=[f"word {number % 11}" for number in range(len(metadata))])
    with pytest.raises(HarmonizationError, match="11 different words"):
        ComBatHarmonizer(covariates=["site"]).fit(features, metadata=many)


def test_refuses_tables_that_are_not_aligned() -> None:
    features, metadata = simulated()
    with pytest.raises(HarmonizationError, match="another order"):
        ComBatHarmonizer().fit(features, metadata=metadata[::-1])
    with pytest.raises(HarmonizationError, match="only with features: case004"):
        ComBatHarmonizer().fit(features, metadata=metadata.drop(index="case004"))
    with pytest.raises(HarmonizationError, match="occur twice: case000"):
        ComBatHarmonizer().fit(features.iloc[[0, 0, 1]], metadata=metadata.iloc[[0, 0, 1]])
    with pytest.raises(HarmonizationError, match="no column kernel"):
        ComBatHarmonizer("kernel").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="not numbers"):
        ComBatHarmonizer().fit(features.assign(word="a"), metadata=metadata)
    with pytest.raises(HarmonizationError, match="must be a DataFrame"):
        ComBatHarmonizer().fit(features.to_numpy(), metadata=metadata)


def test_transform_refuses_what_the_fit_has_not_seen() -> None:
    features, metadata = simulated()
    harmonizer = ComBatHarmonizer(covariates=["sex"]).fit(features, metadata=metadata)
    new = metadata.copy()
    new.loc["case002", "centre"] = "B9"
    with pytest.raises(HarmonizationError, match=r"B9, in case002"):
        harmonizer.transform(features, new)
    new = metadata.copy()
    new.loc["case002", "sex"] = "X"
    with pytest.raises(HarmonizationError, match=r"\(X\), in case002"):
        harmonizer.transform(features, new)
    with pytest.raises(HarmonizationError, match="missing: f0; new: none"):
        harmonizer.transform(features.drop(columns="f0"), metadata)


def unseen(features: pd.DataFrame, metadata: pd.DataFrame, batch: str = "B2") -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases of one batch, under a name that no fit knows."""
    own = metadata["centre"] == batch
    return features[own], metadata[own].assign(centre="new")


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("kept", [["age", "sex"], []], ids=["covariates", "no covariates"])
@pytest.mark.parametrize("reference", [None, "B1"])
def test_adapting_a_batch_of_the_fit_under_another_name_gives_what_the_fit_gave(
    name: str, kept: list[str], reference: str | None
) -> None:
    # Level, covariates and variance of the fit being given, a batch's own estimates are the fit's, up to rounding.
    features, metadata = simulated()
    harmonizer = ComBatHarmonizer(covariates=kept, reference_batch=reference, new_batch="adapt", **VARIANTS[name])
    known = harmonizer.fit_transform(features, metadata=metadata)
    rows, renamed = unseen(features, metadata)
    with pytest.warns(HarmonizationWarning, match="the unseen batch new was adapted from its own 40 cases"):
        adapted = harmonizer.transform(rows, renamed)
    np.testing.assert_allclose(adapted, known.loc[rows.index], rtol=0, atol=1e-10)


def test_adapting_moves_an_unseen_batch_and_changes_nothing_else() -> None:
    features, metadata = simulated((150, 150, 150))
    rows, renamed = unseen(features, metadata)
    known = metadata["centre"] != "B2"
    harmonizer = ComBatHarmonizer(covariates=["age"], new_batch="adapt")
    before = harmonizer.fit_transform(features[known], metadata=metadata[known])
    saved = json.dumps(harmonizer.to_json())
    together = pd.concat([features[known], rows]), pd.concat([metadata[known], renamed])
    with pytest.warns(HarmonizationWarning, match="adapted from its own 150 cases"):
        result = harmonizer.transform(*together)
    assert result[known.reindex(result.index)].equals(before)
    assert json.dumps(harmonizer.to_json()) == saved
    centres = result.groupby(together[1]["centre"])
    # Ages differ between the centres by chance: by 1 year or so, whose effect of 0.1 a year is kept.
    assert np.ptp(centres.mean(), axis=0).max() < 0.35
    assert np.ptp(features.groupby(metadata["centre"]).mean(), axis=0).max() > 2
    assert (centres.std().max() / centres.std().min()).max() < 1.25
    turned = together[0].iloc[::-1], together[1].iloc[::-1]
    with pytest.warns(HarmonizationWarning):
        assert harmonizer.transform(*turned).iloc[::-1].equals(result)


def test_a_few_wild_features_do_not_rule_the_others_of_an_adapted_batch() -> None:
    rng = np.random.default_rng(4)
    features = pd.DataFrame(rng.normal(size=(160, 60)), columns=[f"f{number}" for number in range(60)])
    metadata = pd.DataFrame({"centre": ["A"] * 80 + ["B"] * 80})
    features.iloc[80:] = 1.5 * features.iloc[80:] + 2
    # Nearly constant where the fit learned, a thousand times as wide in the new batch: the prior's mean and variance
    # of the variances would be theirs alone.
    features.iloc[80:, :2] *= 1e3
    harmonizer = ComBatHarmonizer(new_batch="adapt").fit(features[:80], metadata=metadata[:80])
    with pytest.warns(HarmonizationWarning, match="adapted feature by feature"):
        adapted = harmonizer.transform(features, metadata)
    # ComBat divides the pooled sum of squares by n, the SD of a batch by n - 1.
    np.testing.assert_allclose(adapted[80:].std() / features[:80].std(), np.sqrt(79 / 80), rtol=1e-9)
    np.testing.assert_allclose(adapted[80:].mean(), features[:80].mean(), atol=1e-9)
    with pytest.warns(HarmonizationWarning, match="adapted from its own 80 cases"):
        tame = harmonizer.transform(features.assign(f0=features["f2"], f1=features["f3"]), metadata)
    assert (tame[80:].std() / features[:80].std()).iloc[2:].between(0.8, 1.25).all()


def test_adapting_to_the_only_batch_of_the_fit() -> None:
    features, metadata = simulated((200, 200))
    first = metadata["centre"] == "B0"
    with pytest.warns(HarmonizationWarning, match="only one batch"):
        harmonizer = ComBatHarmonizer(covariates=["age"], new_batch="adapt").fit(
            features[first], metadata=metadata[first]
        )
    with pytest.warns(HarmonizationWarning, match="unseen batch B1 was adapted"):
        result = harmonizer.transform(features, metadata)
    assert result[first].equals(features[first])
    reference = ComBatHarmonizer(covariates=["age"], reference_batch="B0").fit_transform(features, metadata=metadata)
    # The covariates' effect is learned from the one batch here, from both there.
    assert np.abs(result - reference).to_numpy().mean() < 0.1
    assert harmonizer.row_status(metadata).value_counts().to_dict() == {SINGLE_BATCH: 200, ADAPTED: 200}


def test_too_few_cases_of_an_unseen_batch_are_named() -> None:
    features, metadata = simulated((40, 40, 9, 4, 3))
    known = metadata["centre"].isin(["B0", "B1"])
    harmonizer = ComBatHarmonizer(new_batch="adapt").fit(features[known], metadata=metadata[known])
    with pytest.raises(HarmonizationError, match=r"fewer than 5 cases: B3 \(4\), B4 \(3\)\."):
        harmonizer.transform(features, metadata)
    with pytest.raises(HarmonizationError, match=r"B3 \(4\)"):
        harmonizer.row_status(metadata)
    enough = ~metadata["centre"].isin(["B3", "B4"])
    with pytest.warns(HarmonizationWarning, match="B2 was adapted from its own 9 cases, which is uncertain below 20"):
        harmonizer.transform(features[enough], metadata[enough])


def test_a_feature_that_is_constant_in_an_unseen_batch_stays_and_has_no_part_in_its_priors() -> None:
    features, metadata = simulated()
    rows, renamed = unseen(features, metadata)
    known = metadata["centre"] != "B2"
    harmonizer = ComBatHarmonizer(new_batch="adapt").fit(features[known], metadata=metadata[known])
    flat = rows.assign(f4=3.0)
    with pytest.warns(HarmonizationWarning, match="constant in the unseen batch new were left as they are: f4"):
        result = harmonizer.transform(flat, renamed)
    assert (result["f4"] == 3.0).all()
    others = [name for name in features if name != "f4"]
    alone = ComBatHarmonizer(new_batch="adapt").fit(features.loc[known, others], metadata=metadata[known])
    with pytest.warns(HarmonizationWarning):
        np.testing.assert_allclose(result[others], alone.transform(rows[others], renamed), rtol=0, atol=1e-12)


def test_unseen_batches_pass_through_on_request() -> None:
    features, metadata = simulated()
    rows, renamed = unseen(features, metadata)
    known = metadata["centre"] != "B2"
    harmonizer = ComBatHarmonizer(new_batch="passthrough").fit(features[known], metadata=metadata[known])
    assert harmonizer.transform(rows, renamed).equals(rows)
    assert set(harmonizer.row_status(renamed)) == {PASSED_UNSEEN}


def test_row_status_says_what_became_of_each_case() -> None:
    features, metadata = simulated((30, 25, 30, 3, 4))

    def statuses(cases: pd.DataFrame = metadata, **options: object) -> dict[str, str]:
        harmonizer = ComBatHarmonizer(**options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HarmonizationWarning)
            harmonizer.fit(features, metadata=metadata)
        status = harmonizer.row_status(cases)
        assert status.index.equals(cases.index)
        assert set(status) <= set(ROW_STATUS)
        table = pd.DataFrame({"batch": cases["centre"], "status": status}).drop_duplicates()
        assert table["batch"].is_unique
        return dict(zip(table["batch"], table["status"], strict=True))

    large = dict.fromkeys(["B0", "B1", "B2"], HARMONISED)
    assert statuses(small_batch="exclude") == {**large, "B3": EXCLUDED, "B4": EXCLUDED}
    assert statuses(small_batch="passthrough") == {**large, "B3": PASSED_SMALL, "B4": PASSED_SMALL}
    assert statuses(small_batch="merge") == {**large, "B3": MERGED, "B4": MERGED}
    referred = statuses(small_batch="exclude", reference_batch="B1")
    assert referred == {**large, "B1": REFERENCE, "B3": EXCLUDED, "B4": EXCLUDED}
    new = metadata[["centre"]].replace({"B0": "X"})
    assert statuses(new, small_batch="passthrough", new_batch="adapt")["X"] == ADAPTED
    assert set(statuses(small_batch="passthrough", exempt=["*"]).values()) == {NO_FEATURE, PASSED_SMALL}
    with pytest.raises(HarmonizationError, match="batches that the fit has not seen: X, in case000"):
        statuses(new, small_batch="exclude")


def test_exempt_features_are_returned_untouched_and_have_no_part_in_the_priors() -> None:
    features, metadata = simulated()
    more = features.rename(columns={"f3": "original_shape_Volume", "f11": "original_shape_Sphericity"})
    more.loc["case004", "original_shape_Sphericity"] = np.nan  # not looked at, so it may be missing
    shapes = [name for name in more if "shape" in name]
    harmonizer = ComBatHarmonizer(covariates=["age"], exempt=["*shape*"]).fit(more, metadata=metadata)
    result = harmonizer.transform(more, metadata)
    assert list(result) == list(more)
    assert result[shapes].equals(more[shapes])
    assert harmonizer.exempt_features_ == shapes
    others = [name for name in more if name not in shapes]
    alone = ComBatHarmonizer(covariates=["age"]).fit_transform(more[others], metadata=metadata)
    assert result[others].equals(alone)
    again = ComBatHarmonizer.from_json(json.loads(json.dumps(harmonizer.to_json())))
    assert again.transform(more, metadata).equals(result)
    with pytest.warns(HarmonizationWarning, match=r"no feature matches the exempt patterns \*Shape\*"):
        ComBatHarmonizer(exempt=["*Shape*"]).fit(features, metadata=metadata)
    with pytest.warns(HarmonizationWarning, match="all are exempt or constant"):
        nothing = ComBatHarmonizer(exempt=["*"]).fit(features, metadata=metadata)
    assert nothing.transform(features, metadata).equals(features)


def test_missing_covariates_are_imputed_from_the_fits_cases_on_request() -> None:
    features, metadata = simulated()
    holes = metadata.astype(object)
    holes.loc[["case003", "case050"], "age"] = np.nan
    holes.loc["case070", "sex"] = " "
    filled = metadata.copy()
    median = metadata["age"].drop(["case003", "case050"]).median()
    commonest = metadata["sex"].drop("case070").mode()[0]
    filled.loc[["case003", "case050"], "age"] = median
    filled.loc["case070", "sex"] = commonest
    harmonizer = ComBatHarmonizer(covariates=["age", "sex"], missing_covariates="impute")
    with pytest.warns(HarmonizationWarning) as caught:
        harmonizer.fit(features, metadata=holes)
    told = " ".join(str(warning.message) for warning in caught)
    assert f"'age' was missing in 2 of 95 cases and was filled with the median, {median:g}" in told
    assert f"'sex' was missing in 1 of 95 cases and was filled with the commonest word, {commonest}" in told
    expected = ComBatHarmonizer(covariates=["age", "sex"]).fit(features, metadata=filled)
    with pytest.warns(HarmonizationWarning, match="'age' was missing in 2 of 95"):
        result = harmonizer.transform(features, holes)
    assert result.equals(expected.transform(features, filled))
    # New rows are filled with the fit's values, also after a round trip, and where all of them are missing.
    again = ComBatHarmonizer.from_json(json.loads(json.dumps(harmonizer.to_json())))
    some = features.index[:6]
    with pytest.warns(HarmonizationWarning, match="'age' was missing in 6 of 6"):
        part = again.transform(features.loc[some], holes.loc[some].assign(age=np.nan))
    assert part.equals(expected.transform(features.loc[some], filled.loc[some].assign(age=median)))
    with pytest.raises(HarmonizationError, match="'age' is empty in all cases"):
        harmonizer.fit(features, metadata=holes.assign(age=np.nan))


def test_a_feature_that_the_covariates_explain_without_rest_is_left_alone() -> None:
    features, metadata = simulated()
    with pytest.warns(HarmonizationWarning, match="explain without rest.*: months"):
        result = ComBatHarmonizer(covariates=["age"]).fit_transform(
            features.assign(months=metadata["age"] * 12.0), metadata=metadata
        )
    assert (result["months"] == metadata["age"] * 12).all()
    alone = ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    assert result[features.columns].equals(alone)


def test_copies_of_one_feature_are_refused_and_not_divided_by_nothing() -> None:
    features, metadata = simulated()
    copies = pd.DataFrame({f"copy{number}": features["f0"] for number in range(4)})
    with pytest.raises(HarmonizationError, match="copies of one another"):
        ComBatHarmonizer().fit(copies, metadata=metadata)
    alone = ComBatHarmonizer(eb=False).fit_transform(copies, metadata=metadata)
    assert np.ptp(alone.groupby(metadata["centre"]).mean(), axis=0).max() < 1e-10


def test_single_feature_of_an_unseen_batch_is_adapted_without_shrinkage() -> None:
    features, metadata = simulated()
    known = metadata["centre"] != "B2"
    with pytest.warns(HarmonizationWarning, match="only one feature"):
        harmonizer = ComBatHarmonizer(new_batch="adapt").fit(features.loc[known, ["f1"]], metadata=metadata[known])
    with pytest.warns(HarmonizationWarning, match="B2 was adapted"):
        result = harmonizer.transform(features[["f1"]], metadata)["f1"]
    spread = result.groupby(metadata["centre"]).agg(["mean", "std"])
    assert np.ptp(spread["mean"]) < 1e-10
    assert np.ptp(spread["std"]) < 1e-10


@pytest.mark.parametrize("value", [np.inf, "inf"])
def test_a_covariate_that_is_not_finite_is_named(value: object) -> None:
    features, metadata = simulated()
    broken = metadata.astype(object)
    broken.loc["case020", "age"] = value
    with pytest.raises(HarmonizationError, match="'age' is not a finite number for case020"):
        ComBatHarmonizer(covariates=["age"]).fit(features, metadata=broken)
    harmonizer = ComBatHarmonizer(covariates=["age"]).fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="'age' is not a finite number for case020"):
        harmonizer.transform(features, broken)


def test_more_covariates_than_cases_carry_are_refused() -> None:
    features, metadata = simulated((6, 6))
    rng = np.random.default_rng(0)
    many = metadata.assign(**{f"c{number}": rng.normal(size=12) for number in range(10)})
    with pytest.raises(HarmonizationError, match="12 cases can't carry 2 batches and 10 covariate columns"):
        ComBatHarmonizer(covariates=[f"c{number}" for number in range(10)]).fit(features, metadata=many)


def test_threads_do_not_change_a_bit() -> None:
    features, metadata = simulated((200, 150, 250), features=300)
    saved = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            saved.append(ComBatHarmonizer(covariates=["age", "sex"]).fit(features, metadata=metadata).to_json())
    assert saved[0] == saved[1]


@given(
    sizes=st.lists(st.integers(8, 30), min_size=2, max_size=4),
    seed=st.integers(0, 10_000),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
@settings(max_examples=25, deadline=None)
def test_units_of_a_feature_do_not_matter_and_reference_rows_stay(sizes: list[int], seed: int, scale: float) -> None:
    features, metadata = simulated(tuple(sizes), features=6, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HarmonizationWarning)
        plain = ComBatHarmonizer(reference_batch="B1").fit_transform(features, metadata=metadata)
        other = features * scale + 3 * scale
        moved = ComBatHarmonizer(reference_batch="B1").fit_transform(other, metadata=metadata)
    np.testing.assert_allclose(moved / scale - 3, plain, rtol=0, atol=1e-9)
    stays = metadata["centre"] == "B1"
    assert moved[stays].equals(other[stays])


def test_refuses_settings_that_make_no_sense() -> None:
    features, metadata = simulated((30, 25, 3))
    with pytest.raises(HarmonizationError, match="doesn't occur"):
        ComBatHarmonizer(reference_batch="B7").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="has 3 cases"):
        ComBatHarmonizer(reference_batch="B2", small_batch="exclude").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="small_batch must be"):
        ComBatHarmonizer(small_batch="ignore").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="new_batch must be one of error, passthrough, adapt, not 'guess'"):
        ComBatHarmonizer(new_batch="guess").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="missing_covariates must be"):
        ComBatHarmonizer(missing_covariates="drop").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="exempt must be a list"):
        ComBatHarmonizer(exempt="*shape*").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="features occur twice: f0"):
        ComBatHarmonizer().fit(features.join(features["f0"].rename("x")).rename(columns={"x": "f0"}), metadata=metadata)
    taken = metadata.assign(centre=metadata["centre"].replace({"B0": "B1+B2"}))
    taken.loc[taken.index[32:55], "centre"] = "B3"
    with pytest.raises(HarmonizationError, match="a batch is called 'B1\\+B2' already"):
        ComBatHarmonizer(small_batch="merge").fit(features, metadata=taken)
    with pytest.raises(HarmonizationError, match="at least 2"):
        ComBatHarmonizer(min_batch_size=1).fit(features, metadata=metadata)


def test_is_silent_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    features, metadata = simulated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    assert capsys.readouterr().out == ""
