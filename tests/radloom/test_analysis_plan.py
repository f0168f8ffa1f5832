"""The analysis plan: what it names, and its hash."""

import copy
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from statistics_cohort import configuration

from radloom.analysis_plan import columns_by_key, outcome_columns, plan_hash
from radloom.config import schema
from radloom.validation import ARMS


def test_the_hash_is_that_of_the_plan_alone() -> None:
    params = configuration()
    known = plan_hash(params)
    assert len(known) == 12
    assert set(known) <= set(string.hexdigits)
    assert plan_hash(configuration(analysis_plan__open_test_set=True)) == known
    assert plan_hash(configuration(model__seed=9, harmonize__covariates=["age"])) == known
    turned = copy.deepcopy(params)
    turned["analysis_plan"] = dict(reversed(turned["analysis_plan"].items()))
    assert plan_hash(turned) == known


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("time", "months"),
        ("event", "relapsed"),
        ("competing_event", "other_death"),
        ("outcome", "benefit"),
        ("horizons", [20.0, 30.0]),
        ("covariates", ["age"]),
        ("strata", ["sex"]),
        ("cluster", "centre"),
        ("arms", ["features"]),
        ("metrics", ["auc"]),
        ("thresholds", [0.2]),
        ("subgroups", ["sex"]),
        ("test_set", {"column": "set", "value": "test"}),
    ],
)
def test_every_part_of_the_plan_changes_the_hash(key: str, value: object) -> None:
    assert plan_hash(configuration(**{f"analysis_plan__{key}": value})) != plan_hash(configuration())


def test_no_part_of_the_plan_is_left_out_above() -> None:
    assert set(configuration()["analysis_plan"]) == {
        *("time", "event", "competing_event", "outcome", "horizons", "covariates", "strata", "cluster", "arms"),
        *("metrics", "thresholds", "subgroups", "test_set", "open_test_set"),
    }


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=5))
def test_equal_plans_have_equal_hashes_whatever_they_hold(plan: dict[str, object]) -> None:
    shuffled = dict(sorted(plan.items(), reverse=True))
    assert plan_hash({"analysis_plan": plan}) == plan_hash({"analysis_plan": shuffled})
    assert plan_hash({"analysis_plan": {**plan, "further": 1}}) != plan_hash({"analysis_plan": {**plan, "further": 2}})


def test_outcomes_and_columns() -> None:
    params = configuration(analysis_plan__competing_event="other", analysis_plan__outcome="died")
    assert outcome_columns(params) == ["days", "died", "other"]
    assert outcome_columns({}) == []
    found = columns_by_key(
        configuration(
            harmonize__batch=["centre", "kernel"],
            harmonize__covariates=["age"],
            analysis_plan__cluster="clinic",
            analysis_plan__test_set={"column": "set", "value": "test"},
        )
    )
    assert found["harmonize.batch"] == ["centre", "kernel"]
    assert found["harmonize.covariates"] == ["age"]
    assert found["analysis_plan.time"] == ["days"]
    assert found["analysis_plan.cluster"] == ["clinic"]
    assert found["analysis_plan.test_set"] == ["set"]
    assert found["analysis_plan.competing_event"] == []


def test_arms_of_the_schema_are_those_of_the_validation() -> None:
    plan = schema()["properties"]["analysis_plan"]["properties"]
    assert plan["arms"]["items"]["enum"] == list(ARMS)
