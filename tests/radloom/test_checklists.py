"""The checklists have each item once, and answers that follow the run and never claim what was not done."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from run_material import (
    HASH,
    PARAMS,
    SPLITS,
    estimate,
    facts,
    features_elsewhere,
    material,
    performance_with,
    planned,
    provenance,
    with_settings,
)

from radloom.checklist_answers import ANSWERS, NOT_APPLICABLE
from radloom.checklists import (
    AUTHORS,
    CHECKLIST_COLUMNS,
    FOR_AUTHORS,
    IN_PART,
    MOST_CHARACTERS,
    SOFTWARE,
    Item,
    answered,
    checklist_table,
    fit,
    read_checklists,
)
from radloom.datapackage import DESCRIPTIONS, IDENTIFIERS
from radloom.methods_text import SECTIONS
from radloom.run_facts import RunFacts

SIZES = {"CLEAR": 58, "METRICS": 30, "TRIPOD+AI": 52, "IBSI": 104}
RUNS: dict[str, Any] = {
    "everything": facts(),
    "a table of features": RunFacts(features_elsewhere()),
    "by hand": facts(provenance=[], models={}, combat={}, filters={}),
    "no settings at all": facts(provenance=[], params={}),
}


@cache
def _plain_table() -> pd.DataFrame:
    return checklist_table(facts()).set_index(["checklist", "item"])


def _table(**changes: Any) -> pd.DataFrame:
    return checklist_table(facts(**changes)).set_index(["checklist", "item"]) if changes else _plain_table()


def _answer(table: pd.DataFrame, checklist: str, item: str) -> str:
    return str(table.loc[(checklist, item), "answer"])


def _with(step: str, **settings: Any) -> list[dict[str, Any]]:
    return [one | {"params": one["params"] | settings} if one["step"] == step else one for one in provenance()]


def test_every_item_is_there_once_in_its_order() -> None:
    assert {one.name: len(one.items) for one in read_checklists()} == SIZES
    for one in read_checklists():
        names = [item.item for item in one.items]
        assert len(set(names)) == len(names)
        order = [(int(re.match(r"\d+", name)[0]), name) for name in names]  # type: ignore[index]
        assert order == sorted(order)
        assert order[0][0] == 1
        assert {n for n, _ in order} == set(range(1, order[-1][0] + 1))
    table = checklist_table(facts())
    assert list(table.columns) == CHECKLIST_COLUMNS
    assert len(table) == sum(SIZES.values())
    assert not table.duplicated(["checklist", "item"]).any()


def test_every_item_has_an_answer_or_says_what_authors_write() -> None:
    used = set()
    for one in read_checklists():
        assert "doi:10." in one.reference
        for item in one.items:
            assert item.answer or item.authors, f"{one.name} {item.item}"
            assert item.topic
            assert item.section
            assert item.answer == "" or item.answer in ANSWERS, f"{one.name} {item.item}: {item.answer}"
            used |= {item.answer} - {""}
            if not item.answer:
                assert not item.where
    assert used == set(ANSWERS)


def test_every_place_that_an_item_names_exists() -> None:
    parts = {heading for heading, _ in SECTIONS}
    for one in read_checklists():
        for item in one.items:
            kind, _, part = item.where.partition(", ")
            if kind == "methods.md":
                assert part in parts, item.where
            elif item.where.startswith("tables/") and item.where != "tables/":
                assert item.where.removeprefix("tables/").removesuffix(".csv") in DESCRIPTIONS, item.where
            else:
                assert item.where in ("", "tables/", "models/<model>/model.json") or kind == "report", item.where


@pytest.mark.parametrize("run", RUNS)
def test_answers_are_short_and_marked_by_who_answers(run: str) -> None:
    for row in checklist_table(RUNS[run]).to_dict("records"):
        where = f"{row['checklist']} {row['item']}"
        assert 0 < len(row["answer"]) <= MOST_CHARACTERS, where
        assert row["answered_by"] in (SOFTWARE, AUTHORS, IN_PART)
        assert (FOR_AUTHORS in row["answer"]) == (row["answered_by"] != SOFTWARE), where
        assert row["answer"].startswith(FOR_AUTHORS) == (row["answered_by"] == AUTHORS), where
        if row["answered_by"] == AUTHORS:
            assert row["where"] == "", where
        assert not re.search(r"\[@|None|\bnan\b|(?i:\byes\b)", row["answer"].replace("symmetricalGLCM yes", "")), where
        assert not re.search(r"(scan|patient)-\d", row["answer"]), where
        assert "\n" not in row["answer"]


def test_the_table_is_the_same_twice() -> None:
    pd.testing.assert_frame_equal(checklist_table(facts()), checklist_table(facts()))


def test_columns_are_texts_of_the_data_package() -> None:
    assert set(CHECKLIST_COLUMNS) <= IDENTIFIERS
    assert "checklist" in DESCRIPTIONS


def test_no_score_is_made() -> None:
    table = checklist_table(facts())
    assert not table["answer"].str.contains(r"score of|points|%\s*of items", regex=True).any()
    assert not {"score", "weight"} & set(table.columns)


def test_answers_have_the_figures_of_the_run() -> None:
    table = _table()
    assert "12 events" in _answer(table, "CLEAR", "9")
    assert "features_combat 0.70 (0.60 to 0.80)" in _answer(table, "CLEAR", "47")
    assert "bins of 20 HU" in _answer(table, "CLEAR", "23")
    assert "A (11), B (11)" in _answer(table, "METRICS", "4")
    assert "1 of 2 centres" in _answer(table, "TRIPOD+AI", "12d")
    assert "Kernel: soft (14), sharp (8)" in _answer(table, "IBSI", "31a")
    assert "1 x 1 x 3 mm" in _answer(table, "IBSI", "51")
    assert "in 10 of 22 patients" not in _answer(table, "CLEAR", "18")
    assert "event `died`: in 11 of 22 patients" in _answer(table, "CLEAR", "18")


def test_without_combat_no_answer_claims_it() -> None:
    performance = material().performance
    plain = _table(
        harmonized=None, diagnostics=None, combat={}, performance=performance[performance["arm"] != "features_combat"],
        coefficients=material().coefficients.assign(arm="features"),
    )  # fmt: skip
    for item in (("CLEAR", "32"), ("METRICS", "19"), ("TRIPOD+AI", "12b")):
        assert "Features were harmonised by ComBat" in _answer(_table(), *item)
        assert "Features were not harmonised." in _answer(plain, *item)
    assert not plain["answer"].str.contains("harmonised by|warned: small").any()


def test_without_models_no_answer_claims_a_fit_a_test_or_an_interval() -> None:
    full = material()
    none = _table(
        performance=full.performance.iloc[:0], coefficients=full.coefficients.iloc[:0], models={}, filters={},
        predictions=full.predictions.iloc[:0], ph_test=full.ph_test.iloc[:0],
    )  # fmt: skip
    for item in ("15", "34", "35", "37", "38", "40", "42", "47", "48"):
        assert _answer(none, "CLEAR", item).startswith("No model was fitted in this run."), item
    for item in ("26", "27", "22", "18"):
        assert _answer(none, "METRICS", item).startswith("No model was fitted in this run."), item
    assert not none["answer"].str.contains(r"cross-validation|percentiles of|elastic net|0\.70").any()
    assert "was dropped" not in _answer(none, "METRICS", "15")


def test_a_refused_model_is_told_with_its_reason() -> None:
    full = material()
    only = full.performance[full.performance["model"] == "logistic"]
    table = _table(performance=only, coefficients=full.coefficients.iloc[:0], models={})
    assert "not fitted, 3 events among 22 cases, 6 needed" in _answer(table, "CLEAR", "34")


def test_external_validation_is_claimed_only_where_a_centre_was_left_out() -> None:
    assert "Each of 2 centres was left out in turn" in _answer(_table(), "METRICS", "27")
    performance = material().performance
    inside = _table(performance=performance[performance["split"] == SPLITS[0]])
    assert _answer(inside, "METRICS", "27").startswith("No external test")
    assert "left out in turn" not in _answer(inside, "CLEAR", "38")
    assert "the same centres" in _answer(inside, "TRIPOD+AI", "16")


def test_stability_is_claimed_only_where_it_was_measured_and_used() -> None:
    assert "ICC(1,1) of 22 cases" in _answer(_table(), "IBSI", "60")
    assert "1 of 4 features left out" in _answer(_table(), "METRICS", "14")
    steps = [one | {"params": {k: v for k, v in one["params"].items() if k != "model"}} for one in provenance()]
    params = PARAMS | {"model": PARAMS["model"] | {"min_icc": None}}
    measured = _table(params=params, provenance=steps)
    assert _answer(measured, "METRICS", "14").startswith("Stability was measured, but no feature was left out")
    nothing = _table(params=params, provenance=steps, stability=None, sensitivity=pd.DataFrame(columns=["roi"]))
    assert _answer(nothing, "METRICS", "14").startswith("No feature was left out for its stability")
    assert _answer(nothing, "CLEAR", "31") == "Stability of the features was not assessed in this run."
    assert nothing.loc[("CLEAR", "31"), "where"] == ""


def test_masks_and_nets_have_their_own_answers() -> None:
    assert "U-Net" in _answer(_table(), "METRICS", "8")
    assert "no reader drew regions" in _answer(_table(), "CLEAR", "20")
    masks = _table(provenance=_with("segment", source="mask", labels={}))
    assert not masks["answer"].str.contains("U-Net|net segmented").any()
    assert masks.loc[("CLEAR", "20"), "answered_by"] == AUTHORS
    assert masks.loc[("METRICS", "9"), "answered_by"] == AUTHORS
    program = {"source": "command", "command": "seg {image} {labels}", "labels": {"1": "tumour"}}
    outside = _table(provenance=_with("segment", **program))
    assert not outside["answer"].str.contains("U-Net|net segmented").any()
    assert "a program segmented all of them" in _answer(outside, "CLEAR", "20")


def test_calibration_of_models_is_claimed_only_where_it_was_measured() -> None:
    assert _answer(_table(), "METRICS", "22").startswith("Calibration was not assessed")
    performance = material().performance
    slope = performance.iloc[:1].assign(metric="calibration_slope")
    with_slope = _table(performance=pd.concat([performance, slope], ignore_index=True))
    assert "calibration slope" in _answer(with_slope, "METRICS", "22")


def test_a_table_of_features_leaves_images_to_the_authors() -> None:
    table = checklist_table(RunFacts(features_elsewhere())).set_index(["checklist", "item"])
    for item in ("8", "10", "14", "28", "46", "50a", "51", "52", "53", "55", "56a", "57", "59", "62", "16", "27"):
        assert table.loc[("IBSI", item), "answered_by"] == AUTHORS, item
    assert "extracted elsewhere" in _answer(table, "CLEAR", "25")


def test_what_does_not_apply_leaves_nothing_to_the_authors() -> None:
    table = _table()
    for item in ("3a", "23", "67"):
        assert _answer(table, "IBSI", item).startswith(NOT_APPLICABLE)
        assert table.loc[("IBSI", item), "answered_by"] == SOFTWARE
    assert _answer(table, "IBSI", "66").startswith(NOT_APPLICABLE)  # no size zones in this run
    assert _answer(table, "IBSI", "65") == "Chebyshev distance 1, in voxels."


def test_an_unknown_answer_falls_to_the_authors() -> None:
    item = Item("1", "Methods", "the tube current", answer="tube_current", where="tables/cohort.csv")
    told = answered(item, facts())
    assert told == {"answered_by": AUTHORS, "answer": "For the authors: this run doesn't know it.", "where": ""}


@given(
    st.lists(st.text(alphabet="abc ", min_size=1, max_size=80).map(lambda s: s.strip() + "."), min_size=1, max_size=12),
    st.integers(min_value=60, max_value=300),
)
def test_sentences_fit_whole_and_in_order(sentences: list[str], most: int) -> None:
    fitted = fit(sentences, most, "a table")
    assert len(fitted) <= most
    if len(" ".join(sentences)) <= most:
        assert fitted == " ".join(sentences)
    else:
        assert fitted.endswith("More: a table.")
        kept = fitted.removesuffix(" More: a table.").removesuffix(" ...")
        assert " ".join(sentences).startswith(kept)


def test_what_the_plan_of_the_analysis_says_may_be_one_value_or_several() -> None:
    table = _table(**planned(horizons=730, covariates="age", competing_event="other"))
    assert "Planned horizons: 730. Competing event: `other`." in _answer(table, "TRIPOD+AI", "8a")
    assert "Columns of the clinical table: `age`." in _answer(table, "CLEAR", "17")


def test_the_plan_is_answered_by_its_hash() -> None:
    assert HASH in _answer(_table(), "TRIPOD+AI", "18c")
    assert _table().loc[("TRIPOD+AI", "18c"), "answered_by"] == IN_PART
    full = material()
    bare = {
        name: getattr(full, name).assign(analysis_plan="") for name in ("performance", "coefficients", "predictions")
    }
    none = _table(**bare, ph_test=full.ph_test.iloc[:0], models={})
    assert none.loc[("TRIPOD+AI", "18c"), "answered_by"] == AUTHORS


def test_groups_of_patients_are_claimed_only_where_they_have_an_estimate() -> None:
    assert _answer(_table(), "TRIPOD+AI", "14").startswith("No performance by sex, age or other groups")
    asked = planned(subgroups=["sex"])
    assert "Performance by sex was asked for, but is not estimable." in _answer(_table(**asked), "TRIPOD+AI", "14")
    rows = performance_with(estimate("c_index", subgroup="sex: female"))
    assert "By group are also given discrimination: sex (female)" in _answer(
        _table(performance=rows, **asked), "TRIPOD+AI", "14"
    )


def test_results_are_of_pairs_within_centres_where_these_lead() -> None:
    rows = performance_with(estimate("c_index_within_centre", estimate=0.61, leads="yes"))
    told = _answer(_table(performance=rows), "CLEAR", "47")
    assert "Harrell's C, pairs within centres, cross-validation: features 0.61 (0.60 to 0.80)" in told
    at = performance_with(
        estimate("auc", estimate=0.99, horizon=200.0), estimate("c_index", centre="worst", estimate=0.11)
    )
    assert not _table(performance=at)["answer"].str.contains(r"0\.99|0\.11").any()


def test_pooled_and_worst_are_no_centres() -> None:
    rows = performance_with(
        estimate("c_index", centre="random effects", estimate=0.01), estimate("c_index", centre="worst", estimate=0.02)
    )
    told = _answer(_table(performance=rows), "TRIPOD+AI", "12d")
    assert "features, cross-validation: 0.70 to 0.70 (1 of 2 centres)" in told
    assert "random effects" not in told.split(";")[0]
    assert not _table(performance=rows)["answer"].str.contains(r"0\.01|0\.02").any()


def test_recalibration_and_locked_test_are_answered_as_they_were() -> None:
    assert "Predicted risks were not recalibrated." in _answer(_table(), "TRIPOD+AI", "12f")
    done = _table(**with_settings("model_cox", recalibration="baseline"))
    assert "recalibration of the baseline" in _answer(done, "TRIPOD+AI", "12f")
    assert not done["answer"].str.contains("not recalibrated").any()
    lock = _table(**planned(test_set={"column": "centre", "value": "B"}))
    assert "it was not opened" in _answer(lock, "METRICS", "26")
    assert not _table()["answer"].str.contains("locked").any()
