"""What is refused as an outcome in another guise, and what is not."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from radloom.outcome_guard import KNOWN_WHERE, RECODED, SAME, _log_chance, relation


def endpoints(n: int = 80, seed: int = 0) -> dict[str, pd.Series]:
    rng = np.random.default_rng(seed)
    days = rng.integers(20, 3000, n)
    event = (rng.uniform(size=n) < 0.5).astype(int)
    return {"days": pd.Series(days.astype(str)), "died": pd.Series(event.astype(str))}


def days_of(outcomes: dict[str, pd.Series]) -> pd.Series:
    return outcomes["days"].astype(float)


def dead(outcomes: dict[str, pd.Series]) -> pd.Series:
    return outcomes["died"] == "1"


GUISES = {
    "the event as words": (lambda o: dead(o).map({True: "dead", False: "alive"}), SAME, "died"),
    "1 - event": (lambda o: 1 - o["died"].astype(int), SAME, "died"),
    "the event with a cause": (
        lambda o: pd.Series(np.where(dead(o), np.where(np.arange(80) % 3, "tumour", "heart"), "alive")),
        RECODED,
        "died",
    ),
    "the event with a cause, as codes": (
        lambda o: pd.Series(np.where(dead(o), np.where(np.arange(80) % 3, 1, 3), 2)),
        RECODED,
        "died",
    ),
    "days of death, else 9999": (lambda o: pd.Series(np.where(dead(o), days_of(o), 9999)), RECODED, "died"),
    "months, rounded": (lambda o: (days_of(o) / 30.4).round(), RECODED, "days"),
    "minus the logarithm of the time": (lambda o: -np.log(days_of(o)), SAME, "days"),
    "time in three classes": (
        lambda o: pd.cut(days_of(o), [0, 365, 730, 4000], labels=["short", "medium", "long"]).astype(object),
        RECODED,
        "days",
    ),
    "time in two classes": (lambda o: (days_of(o) > 1000).astype(int), RECODED, "days"),
    "died within three years": (
        lambda o: pd.Series(np.where(dead(o) & (days_of(o) < 1095), "yes", "no")),
        RECODED,
        "days",
    ),
    "date of death": (
        lambda o: (
            pd.Series(pd.Timestamp("2020-01-01") + pd.to_timedelta(days_of(o), unit="D")).astype(str).where(dead(o))
        ),
        KNOWN_WHERE,
        "died",
    ),
}


@pytest.mark.parametrize("name", GUISES)
def test_finds_an_outcome_in_another_guise(name: str) -> None:
    make, kind, outcome = GUISES[name]
    outcomes = endpoints()
    own = make(outcomes)
    found = relation(own, outcomes)
    # Of two outcomes that a column gives away either may be named.
    assert found is not None
    assert found == (kind, outcome) or name == "days of death, else 9999"
    words = own.map(str).where(own.notna())  # tables come as text
    assert relation(words, outcomes) is not None
    order = np.random.default_rng(1).permutation(80)
    shuffled = {key: column.iloc[order].reset_index(drop=True) for key, column in outcomes.items()}
    assert relation(own.iloc[order].reset_index(drop=True), shuffled) == found


@pytest.mark.parametrize("seed", range(40))
def test_honest_covariates_are_let_through_however_strong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.choice([12, 30, 80, 400]))
    signal = rng.normal(size=n)
    died = (rng.uniform(size=n) < 1 / (1 + np.exp(-4 * signal))).astype(int)
    days = np.round(1000 * np.exp(-0.9 * signal + 0.3 * rng.normal(size=n))) + 1
    outcomes = {"days": pd.Series(days), "died": pd.Series(died)}
    wrong = np.where(rng.uniform(size=n) < 0.5, died, 1 - died)
    wrong[: n // 10 + 1] = 1 - died[: n // 10 + 1]
    covariates = {
        "strong": signal + 0.3 * rng.normal(size=n),
        "in classes": np.digitize(signal + 0.3 * rng.normal(size=n), [-1, 0, 1]),
        "in words": np.array(["I", "II", "III"])[np.digitize(signal + 0.3 * rng.normal(size=n), [-0.7, 0.7])],
        "many values": rng.permutation(n),
        "a name each": np.array([f"P{number}" for number in rng.permutation(n)]),
        "rounded age": np.round(rng.normal(60, 9, n)),
        "two values": rng.integers(0, 2, n),
        "rare": (np.arange(n) == 3).astype(int),
        "holes": np.where(rng.uniform(size=n) < 0.1 + 0.5 * died, np.nan, rng.normal(size=n)),
        "nearly the event": wrong,
    }
    for name, values in covariates.items():
        assert relation(pd.Series(values), outcomes) is None, name


def test_a_low_and_a_high_stratum_without_exception_are_no_recoding_while_one_between_is_mixed() -> None:
    died = pd.Series([0] * 100 + [0, 1] * 100 + [1] * 100)
    stage = pd.Series(["I"] * 100 + ["II"] * 200 + ["III"] * 100)
    assert relation(stage, {"died": died}) is None
    assert relation(stage.replace({"II": "I"}), {"died": died}) is None
    assert relation(stage[:100].reset_index(drop=True), {"died": died[:100]}) is None


def test_one_case_against_the_trend_is_enough() -> None:
    outcomes = endpoints()
    groups = (days_of(outcomes) > 1000).astype(int)
    assert relation(groups, outcomes) == (RECODED, "days")
    groups.iloc[days_of(outcomes).argmin()] = 1
    assert relation(groups, {"days": outcomes["days"]}) is None


def test_few_cases_tell_nothing() -> None:
    died = pd.Series([0, 1] * 3)
    assert relation(died, {"died": died}) is None


def test_columns_of_a_real_cohort_are_let_through(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "tables" / "hn_two_centres" / "clinical.csv", dtype=str)
    outcomes = {name: table[name] for name in ("os_days", "os_event")}
    for name in ("center", "age", "sex", "hpv_p16"):
        assert relation(table[name], outcomes) is None, name
    months = (table["os_days"].astype(float) / 30.44).round(1)
    assert relation(months, outcomes) == (RECODED, "os_days")
    assert relation(months // 12, outcomes) == (RECODED, "os_days")


@given(st.lists(st.integers(0, 2), min_size=5, max_size=7), st.lists(st.integers(0, 1), min_size=7, max_size=7))
@settings(max_examples=40, deadline=None)
def test_the_probability_of_a_table_is_the_share_of_the_permutations_that_give_it(
    own: list[int], other: list[int]
) -> None:
    x, y = np.unique(own, return_inverse=True)[1], np.array(other[: len(own)])

    def table(order: tuple[int, ...]) -> bytes:
        counts = np.zeros((3, 2), dtype=int)
        np.add.at(counts, (x[list(order)], y), 1)
        return counts.tobytes()

    orders = list(permutations(range(len(x))))
    wanted = table(orders[0])
    share = np.mean([table(order) == wanted for order in orders])
    counts = np.unique(np.column_stack([x, y]), axis=0, return_counts=True)[1]
    assert np.exp(_log_chance(x, y, counts)) == pytest.approx(share, rel=1e-9)


def test_the_probability_of_a_two_by_two_table_is_the_hypergeometric_one() -> None:
    x, y = np.repeat([0, 1], [30, 20]), np.repeat([0, 1, 0, 1], [25, 5, 2, 18])
    counts = np.array([25, 5, 2, 18])
    assert np.exp(_log_chance(x, y, counts)) == pytest.approx(stats.hypergeom(50, 27, 30).pmf(25), rel=1e-9)
