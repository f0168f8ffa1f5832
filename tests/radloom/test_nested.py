"""Harmonisation over several batch columns, and which estimator a configuration asks for."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from radloom.combat import ComBatHarmonizer, HarmonizationError, HarmonizationWarning
from radloom.covbat import CovBatHarmonizer
from radloom.harmonizer import ADAPTED, EXCLUDED, HARMONISED, PASSED_UNSEEN, SINGLE_BATCH, Harmonizer
from radloom.harmonizers import batch_columns, harmonizer_from_json, harmonizer_of
from radloom.nested import NestedHarmonizer

BOTH = ["centre", "kernel"]


def simulated(n: int = 240, features: int = 15, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Features with effects of centre, kernel and age, which are independent of one another."""
    rng = np.random.default_rng(seed)
    centre, kernel = rng.integers(0, 3, n), rng.integers(0, 2, n)
    age = np.round(rng.normal(60, 10, n))
    values = rng.normal(size=(n, features)) * rng.uniform(0.6, 1.6, (3, features))[centre]
    values += rng.normal(0, 2, (3, features))[centre] + rng.normal(0, 2, (2, features))[kernel]
    values += 0.05 * (age - 60)[:, None]
    index = pd.Index([f"case{number:03d}" for number in range(n)], name="case_id")
    words = {"centre": [f"C{code}" for code in centre], "kernel": np.where(kernel, "sharp", "soft"), "age": age}
    return pd.DataFrame(values, index, [f"f{number}" for number in range(features)]), pd.DataFrame(words, index)


@pytest.mark.parametrize("method", ["combat", "covbat"])
def test_is_one_harmonisation_after_the_other(method: str) -> None:
    features, metadata = simulated()
    kind = {"combat": ComBatHarmonizer, "covbat": CovBatHarmonizer}[method]
    for order in (BOTH, BOTH[::-1]):
        expected = features
        for batch in order:
            expected = kind(batch, ["age"]).fit_transform(expected, metadata=metadata)
        nested = NestedHarmonizer(order, ["age"], method=method).fit(features, metadata=metadata)
        assert nested.transform(features, metadata).equals(expected)
        some = features.index[5:40]
        part = nested.transform(features.loc[some], metadata.loc[some])
        np.testing.assert_allclose(part, expected.loc[some], rtol=0, atol=1e-12)


def test_removes_the_effects_of_both_columns() -> None:
    features, metadata = simulated(1200)
    result = NestedHarmonizer(BOTH, ["age"]).fit_transform(features, metadata=metadata)
    for batch in BOTH:
        before = np.ptp(features.groupby(metadata[batch]).mean(), axis=0).max()
        after = np.ptp(result.groupby(metadata[batch]).mean(), axis=0).max()
        assert after < 0.35 < 2 < before
    assert np.polyfit(metadata["age"], result["f0"], 1)[0] == pytest.approx(0.05, abs=0.02)


def test_excluded_cases_are_left_out_of_the_next_column() -> None:
    features, metadata = simulated()
    metadata.loc[metadata.index[:3], "centre"] = "small"
    metadata.loc[metadata.index[3:6], "kernel"] = "rare"
    nested = NestedHarmonizer(BOTH, small_batch="exclude")
    with pytest.warns(HarmonizationWarning) as caught:
        result = nested.fit_transform(features, metadata=metadata)
    told = [str(warning.message) for warning in caught]
    assert any(text.startswith("batch column centre: ") and "excluded: small (3)" in text for text in told)
    assert any(text.startswith("batch column kernel: ") and "excluded: rare (3)" in text for text in told)
    assert result.index.equals(features.index)
    assert list(result.isna().all(axis=1)) == [True] * 6 + [False] * 234
    assert result.iloc[6:].notna().all(axis=None)
    status = nested.row_status(metadata)
    assert list(status.iloc[:6]) == [EXCLUDED] * 6
    assert set(status.iloc[6:]) == {HARMONISED}
    table = nested.row_statuses(metadata)
    assert list(table.iloc[0]) == [EXCLUDED, EXCLUDED]
    assert list(table.iloc[3]) == [HARMONISED, EXCLUDED]
    left = metadata.index[3:]
    first = ComBatHarmonizer("centre").fit_transform(features.loc[left], metadata=metadata.loc[left])
    second = ComBatHarmonizer("kernel").fit_transform(first.iloc[3:], metadata=metadata.iloc[6:])
    assert result.iloc[6:].equals(second)


def test_row_status_names_the_column_where_they_differ() -> None:
    features, metadata = simulated()
    constant = metadata.assign(kernel="soft")
    with pytest.warns(HarmonizationWarning, match=r"batch column kernel: there is only one batch \(soft\)"):
        nested = NestedHarmonizer(BOTH, new_batch="passthrough").fit(features, metadata=constant)
    assert set(nested.row_status(constant)) == {f"centre: {HARMONISED}; kernel: {SINGLE_BATCH}"}
    new = constant.assign(centre="X", kernel="Y")
    assert set(nested.row_status(new)) == {PASSED_UNSEEN}
    assert nested.transform(features, new).equals(features)


def test_unseen_batches_of_one_column() -> None:
    features, metadata = simulated()
    known = metadata["centre"] != "C2"
    refusing = NestedHarmonizer(BOTH).fit(features[known], metadata=metadata[known])
    with pytest.raises(HarmonizationError, match="batch column centre: batches that the fit has not seen: C2"):
        refusing.transform(features, metadata)
    with pytest.raises(HarmonizationError, match="batch column centre: "):
        refusing.row_status(metadata)
    adapting = NestedHarmonizer(BOTH, new_batch="adapt").fit(features[known], metadata=metadata[known])
    with pytest.warns(HarmonizationWarning, match="batch column centre: the unseen batch C2 was adapted"):
        adapting.transform(features, metadata)
    status = adapting.row_status(metadata)
    assert set(status[~known]) == {f"centre: {ADAPTED}; kernel: {HARMONISED}"}
    assert set(status[known]) == {HARMONISED}


@pytest.mark.parametrize("method", ["combat", "covbat"])
def test_json_gives_the_same_bits(method: str) -> None:
    features, metadata = simulated()
    nested = NestedHarmonizer(BOTH, ["age"], method=method, exempt=["f3"]).fit(features, metadata=metadata)
    again = harmonizer_from_json(json.loads(json.dumps(nested.to_json())))
    assert isinstance(again, NestedHarmonizer)
    assert again.transform(features, metadata).equals(nested.transform(features, metadata))
    assert again.get_params() == {**nested.get_params(), "batch": BOTH}
    assert again.row_status(metadata).equals(nested.row_status(metadata))
    assert [step["format"] for step in nested.to_json()["steps"]] == [
        f"radloom-{method}-{2 if method == 'combat' else 1}"
    ] * 2
    with pytest.raises(HarmonizationError, match="no parameters of a harmonisation"):
        harmonizer_from_json({"format": "other"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch": "centre"}, "batch must be a list"),
        ({"batch": []}, "batch must be a list"),
        ({"batch": ["centre", "centre"]}, "different columns"),
        ({"batch": BOTH, "covariates": ["kernel"]}, "'kernel' can't be a covariate as well"),
        ({"batch": ["centre", "slice"]}, "no column slice"),
        ({"batch": BOTH, "method": "other"}, "method must be one of combat, covbat"),
    ],
)
def test_refuses_settings_that_make_no_sense(arguments: dict[str, object], message: str) -> None:
    features, metadata = simulated()
    with pytest.raises(HarmonizationError, match=message):
        NestedHarmonizer(**arguments).fit(features, metadata=metadata)


def test_the_guards_of_each_column_name_it() -> None:
    features, metadata = simulated()
    broken = metadata.copy()
    broken.loc["case007", "kernel"] = None
    with pytest.raises(HarmonizationError, match="batch column kernel: no kernel is given for case007"):
        NestedHarmonizer(BOTH).fit(features, metadata=broken)
    told = metadata.assign(word=metadata["kernel"].map({"soft": "a", "sharp": "b"}))
    with pytest.raises(HarmonizationError, match="batch column kernel: the covariate 'word' is confounded"):
        NestedHarmonizer(BOTH, ["word"]).fit(features, metadata=told)
    with pytest.raises(HarmonizationError, match="another order"):
        NestedHarmonizer(BOTH).fit(features, metadata=metadata[::-1])


def test_the_section_of_the_configuration_says_which_estimator() -> None:
    assert batch_columns({"batch": "centre"}) == ["centre"]
    assert batch_columns({"batch": BOTH}) == BOTH
    plain = harmonizer_of({"batch": ["scanner"], "covariates": ["age"], "eb": False, "min_batch_size": 7})
    assert type(plain) is ComBatHarmonizer
    assert plain.get_params() == ComBatHarmonizer("scanner", ["age"], eb=False, min_batch_size=7).get_params() | {
        "exempt": ()
    }
    covbat = harmonizer_of({"batch": "centre", "method": "covbat", "covbat_variance": 0.8, "exempt": ["*shape*"]})
    assert isinstance(covbat, CovBatHarmonizer)
    assert (covbat.variance, covbat.exempt) == (0.8, ["*shape*"])
    nested = harmonizer_of({"batch": BOTH, "method": "covbat", "reference_batch": None, "new_batch": "adapt"})
    assert isinstance(nested, NestedHarmonizer)
    assert (nested.batch, nested.method, nested.new_batch) == (BOTH, "covbat", "adapt")
    with pytest.raises(HarmonizationError, match="reference_batch"):
        harmonizer_of({"batch": BOTH, "reference_batch": "C1"})
    with pytest.raises(HarmonizationError, match="must be one of combat, covbat"):
        harmonizer_of({"batch": BOTH, "method": "gam"})


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": "centre"},
        {"batch": "centre", "method": "covbat"},
        {"batch": BOTH},
        {"batch": BOTH, "method": "covbat"},
    ],
    ids=["combat", "covbat", "nested combat", "nested covbat"],
)
def test_all_estimators_keep_one_contract(settings: dict[str, object]) -> None:
    features, metadata = simulated()
    harmonizer = harmonizer_of({**settings, "covariates": ["age"]})
    assert isinstance(harmonizer, Harmonizer)
    copy = clone(harmonizer).set_params(min_batch_size=6)
    assert copy.get_params() == {**harmonizer.get_params(), "min_batch_size": 6}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = copy.fit(features, metadata=metadata).transform(features, metadata)
    assert copy.warnings_ == []
    assert copy.batch_columns == batch_columns(settings)
    assert copy.metadata_columns == [*copy.batch_columns, "age"]
    assert list(copy.get_feature_names_out()) == list(features.columns) == list(result.columns)
    assert result.index.equals(features.index)
    assert set(copy.row_status(metadata)) == {HARMONISED}
    assert copy.to_json()["batch_columns"] == copy.batch_columns
    inside = features.join(metadata[copy.metadata_columns])
    assert clone(copy).fit_transform(inside).equals(result)
    shuffled = np.random.default_rng(0).permutation(len(features))
    other = clone(copy).fit(features.iloc[shuffled], metadata=metadata.iloc[shuffled])
    assert other.to_json() == copy.to_json()
