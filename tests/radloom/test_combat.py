"""ComBat against sva and neuroCombat, and every guard that keeps a wrong fit from looking right."""

import contextlib
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from neuroCombat import neuroCombat
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from radloom.combat import ComBatHarmonizer, HarmonizationError, HarmonizationWarning, _non_parametric

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


@pytest.mark.parametrize(
    "options", [{}, {"parametric": False}, {"mean_only": True}], ids=["parametric", "non-parametric", "mean only"]
)
def test_transform_of_training_rows_equals_neurocombats_own_output(options: dict[str, bool]) -> None:
    features, metadata = simulated()
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = neuroCombat(features.to_numpy().T, metadata, "centre", ["sex"], ["age"], **options)["data"].T
    ours = ComBatHarmonizer(covariates=["age", "sex"], **options).fit(features, metadata=metadata)
    np.testing.assert_allclose(ours.transform(features, metadata), theirs, rtol=0, atol=1e-10)


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
    np.testing.assert_allclose(part, whole.loc[some], rtol=1e-13)
    older = metadata.loc[some].assign(age=90.0)
    assert not np.allclose(harmonizer.transform(features.loc[some], older), part)


def test_non_parametric_likelihoods_of_large_batches_do_not_underflow() -> None:
    rng = np.random.default_rng(2)
    values = rng.normal(size=(4, 1500))
    gamma_hat, delta_hat = rng.normal(0, 0.02, (1, 4)), rng.uniform(0.95, 1.05, (1, 4))
    gamma, delta = _non_parametric(
        values, {"gamma_hat": gamma_hat, "delta_hat": delta_hat}, [np.arange(1500)], mean_only=False
    )
    # The textbook's formula in numbers with a wider range.
    g, d = gamma_hat[0].astype(np.longdouble), delta_hat[0].astype(np.longdouble)
    for feature in range(4):
        squares = ((values[feature] - g[:, None]) ** 2).sum(axis=1)
        likelihood = (2 * np.pi * d) ** -750 * np.exp(-squares / (2 * d))
        assert float(likelihood.max()) == 0.0  # underflows in double precision
        likelihood[feature] = 0
        assert gamma[0, feature] == pytest.approx(float((g * likelihood).sum() / likelihood.sum()), rel=1e-9)
        assert delta[0, feature] == pytest.approx(float((d * likelihood).sum() / likelihood.sum()), rel=1e-9)


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
    np.testing.assert_allclose(straight, turned[::-1], atol=1e-11)


def test_keeps_the_reference_batch_exactly() -> None:
    features, metadata = simulated()
    result = ComBatHarmonizer(reference_batch="B1").fit_transform(features, metadata=metadata)
    inside = metadata["centre"] == "B1"
    assert result[inside].equals(features[inside])
    assert not np.allclose(result[~inside], features[~inside])


def test_json_gives_the_same_bits() -> None:
    features, metadata = simulated((30, 25, 3))
    features["constant"] = 7.0
    harmonizer = ComBatHarmonizer(covariates=["age", "sex"], small_batch="passthrough")
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


def test_refuses_settings_that_make_no_sense() -> None:
    features, metadata = simulated((30, 25, 3))
    with pytest.raises(HarmonizationError, match="doesn't occur"):
        ComBatHarmonizer(reference_batch="B7").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="has 3 cases"):
        ComBatHarmonizer(reference_batch="B2", small_batch="exclude").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="small_batch must be"):
        ComBatHarmonizer(small_batch="ignore").fit(features, metadata=metadata)
    with pytest.raises(HarmonizationError, match="at least 2"):
        ComBatHarmonizer(min_batch_size=1).fit(features, metadata=metadata)


def test_is_silent_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    features, metadata = simulated()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ComBatHarmonizer(covariates=["age"]).fit_transform(features, metadata=metadata)
    assert capsys.readouterr().out == ""
