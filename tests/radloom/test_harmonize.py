"""ComBat of a cohort's tables: per ROI, with what it refuses and what it reports."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom.assembly import CohortTables
from radloom.combat import ComBatHarmonizer, HarmonizationError
from radloom.engine.step import CohortTask
from radloom.errors import CohortError
from radloom.harmonize import apply_tables, harmonize_tables, read_parameters, run_step
from radloom.nested import NestedHarmonizer

OUTCOMES = ["days", "died", "response"]


def test_each_roi_by_itself() -> None:
    tables = cohort_tables(90, rois=("tumour", "liver"))
    result = harmonize_tables(tables, configuration(harmonize__covariates=["age"])["harmonize"], OUTCOMES)
    assert list(result.features.columns) == list(tables.features.columns)
    assert result.features[["case_id", "roi"]].equals(tables.features[["case_id", "roi"]])
    for roi in ("tumour", "liver"):
        rows = tables.features[tables.features["roi"] == roi]
        metadata = pd.DataFrame({"centre": rows["centre"], "age": tables.column("age", rows).to_numpy()})
        # Sums go over the cases in the order of their names, so equal bits need the same names.
        values = rows[tables.feature_names].set_axis(rows["case_id"])
        metadata = metadata.set_axis(rows["case_id"])
        expected = ComBatHarmonizer(covariates=["age"]).fit_transform(values, metadata=metadata)
        np.testing.assert_array_equal(result.features.loc[rows.index, tables.feature_names], expected)


def test_harmonisation_removes_the_centres_and_keeps_the_signal() -> None:
    tables = cohort_tables(150)
    result = harmonize_tables(tables, configuration()["harmonize"], OUTCOMES)
    shifted = result.diagnostics["batch_r2_before"] > 0.1
    assert shifted.sum() > 5
    assert (result.diagnostics["batch_r2_after"] < 0.02).all()
    assert (result.diagnostics["anova_q_after"] > 0.5).all()
    time = tables.patients["days"].astype(float).to_numpy()
    before = abs(stats.spearmanr(tables.features["f0"], time)[0])
    assert abs(stats.spearmanr(result.features["f0"], time)[0]) > before


def test_excluded_batches_are_left_out_and_named() -> None:
    tables = cohort_tables(60)
    tables.features.loc[:1, "centre"] = "small"
    result = harmonize_tables(tables, configuration(harmonize__small_batch="exclude")["harmonize"], OUTCOMES)
    assert result.excluded_cases == ["K000 (tumour)", "K001 (tumour)"]
    assert len(result.features) == 58
    assert result.features.notna().all(axis=None)
    assert any("small (2)" in message for message in result.warnings)
    fates = result.rows.set_index("case_id")["status"]
    assert list(fates[["K000", "K001"]]) == ["excluded (small batch)"] * 2
    assert fates.value_counts().to_dict() == {"harmonised": 58, "excluded (small batch)": 2}


def test_a_derived_roi_that_few_cases_have_does_not_stop_the_others() -> None:
    tables = cohort_tables(60, rois=("tumour", "lesion_3", "rim"))
    few = (tables.features["roi"] == "lesion_3") & ~tables.features["case_id"].isin(["K000", "K004", "K007"])
    tables = CohortTables(tables.features[~few].reset_index(drop=True), tables.cases, tables.patients)
    settings = configuration()["harmonize"]
    with pytest.raises(HarmonizationError, match="harmonisation of ROI lesion_3"):
        harmonize_tables(tables, settings, OUTCOMES)
    result = harmonize_tables(tables, settings, OUTCOMES, ["lesion", "rim"])
    assert list(result.parameters) == ["tumour", "rim"]
    assert set(result.features["roi"]) == {"tumour", "rim"}
    (message,) = [message for message in result.warnings if "lesion_3" in message]
    assert message.startswith("ROI lesion_3 is not in the harmonised table: ")
    alone = CohortTables(tables.features[tables.features["roi"] == "lesion_3"], tables.cases, tables.patients)
    with pytest.raises(HarmonizationError, match="harmonisation of ROI lesion_3"):
        harmonize_tables(alone, settings, OUTCOMES, ["lesion"])
    with pytest.raises(HarmonizationError, match="outcome"):
        harmonize_tables(tables, configuration(harmonize__batch="died")["harmonize"], OUTCOMES, ["tumour", "lesion"])


def test_the_outcome_is_refused_by_name_and_by_content() -> None:
    tables = cohort_tables(60)

    def attempt(covariate: str) -> None:
        harmonize_tables(tables, configuration(harmonize__covariates=[covariate])["harmonize"], OUTCOMES)

    for outcome in OUTCOMES:
        with pytest.raises(HarmonizationError, match=f"'{outcome}' is an outcome"):
            attempt(outcome)
    tables.patients["dead"] = np.where(tables.patients["died"] == "1", "yes", "no")
    with pytest.raises(HarmonizationError, match="'dead' says the same as the outcome 'died'"):
        attempt("dead")
    tables.patients["months"] = (tables.patients["days"].astype(float) / 30.4).astype(str)
    with pytest.raises(HarmonizationError, match="'months' says the same as the outcome 'days'"):
        attempt("months")
    tables.patients["late"] = np.where(tables.patients["days"].astype(float) > 20, "yes", "no")
    with pytest.raises(
        HarmonizationError, match="'late' is a recoding of the outcome 'days': each of its values has one"
    ):
        attempt("late")
    known = tables.patients["died"] == "1"
    tables.patients["grade_at_death"] = pd.Series("2", tables.patients.index, dtype=object).where(known)
    with pytest.raises(HarmonizationError, match="'grade_at_death' is filled in or empty as the outcome 'died' has it"):
        attempt("grade_at_death")
    attempt("age")
    attempt("sex")


def test_the_outcome_is_refused_as_batch() -> None:
    tables = cohort_tables(60)
    with pytest.raises(HarmonizationError, match="'died' is an outcome and can't be a batch of ComBat"):
        harmonize_tables(tables, configuration(harmonize__batch="died")["harmonize"], OUTCOMES)
    tables.patients["status"] = np.where(tables.patients["died"] == "1", "dead", "alive")
    with pytest.raises(HarmonizationError, match="the batch of ComBat 'status' says the same as the outcome 'died'"):
        harmonize_tables(tables, configuration(harmonize__batch="status")["harmonize"], OUTCOMES)


def test_a_missing_cell_stops_with_the_cases_and_features() -> None:
    tables = cohort_tables(60)
    tables.features.loc[7, "f3"] = np.nan
    with pytest.raises(HarmonizationError, match=r"ROI tumour: 1 feature values.*K007.*f3"):
        harmonize_tables(tables, configuration()["harmonize"], OUTCOMES)


def test_harmonises_one_batch_column_after_the_other() -> None:
    tables = cohort_tables(90)
    settings = configuration(harmonize__batch=["centre", "kernel"], harmonize__covariates=["age"])["harmonize"]
    result = harmonize_tables(tables, settings, OUTCOMES)
    rows = tables.features
    index = pd.Index(rows["case_id"], name="case_id")
    metadata = pd.DataFrame({name: tables.column(name, rows) for name in ("centre", "kernel", "age")}, index=index)
    nested = NestedHarmonizer(["centre", "kernel"], ["age"])
    expected = nested.fit_transform(rows[tables.feature_names].set_axis(index), metadata=metadata)
    np.testing.assert_array_equal(result.features[tables.feature_names], expected)
    assert list(result.rows["column"][:4]) == ["centre", "kernel"] * 2
    assert list(result.rows["case_id"][:4]) == ["K000", "K000", "K001", "K001"]
    assert set(result.rows["batch"]) == {"C0", "C1", "C2", "soft", "sharp"}
    with pytest.raises(HarmonizationError, match="'died' is an outcome and can't be a batch of ComBat"):
        harmonize_tables(tables, {**settings, "batch": ["centre", "died"]}, OUTCOMES)


def split(tables: CohortTables, chosen: list[bool]) -> CohortTables:
    return CohortTables(tables.features[chosen].reset_index(drop=True), tables.cases, tables.patients)


@pytest.mark.parametrize("batch", ["centre", ["centre", "kernel"]], ids=["one column", "two columns"])
@pytest.mark.parametrize("method", ["combat", "covbat"])
def test_saved_parameters_apply_to_new_cases(batch: object, method: str) -> None:
    tables = cohort_tables(120, rois=("tumour", "liver"))
    known = list(tables.features["centre"] != "C2")
    settings = configuration(harmonize__batch=batch, harmonize__covariates=["age"])["harmonize"] | {"method": method}
    fitted = harmonize_tables(split(tables, known), settings, OUTCOMES)
    saved = json.loads(json.dumps(fitted.parameters))
    again = apply_tables(split(tables, known), saved)
    pd.testing.assert_frame_equal(again.features, fitted.features, check_exact=True)
    assert again.warnings == []
    assert again.rows.equals(fitted.rows)
    with pytest.raises(HarmonizationError, match=r"ROI tumour: .*batches that the fit has not seen: C2, in K002"):
        apply_tables(tables, saved)
    passed = apply_tables(tables, saved, "passthrough")
    if batch == "centre":
        new = passed.features["centre"] == "C2"
        assert passed.features[new].equals(tables.features[new])
        assert set(passed.rows["status"][passed.rows["batch"] == "C2"]) == {"passed through (unseen batch)"}
    adapted = apply_tables(tables, saved, "adapt")
    assert any("unseen batch C2 was adapted from its own 40 cases" in message for message in adapted.warnings)
    assert set(adapted.rows["status"][adapted.rows["batch"] == "C2"]) == {"adapted (unseen batch)"}
    if (batch, method) == ("centre", "combat"):
        old = ~new
        pd.testing.assert_frame_equal(adapted.features[old], fitted.features.set_axis(adapted.features.index[old]))


def test_applying_brings_the_features_into_the_fits_order_and_names_what_is_missing() -> None:
    tables = cohort_tables(60)
    saved = harmonize_tables(tables, configuration()["harmonize"], OUTCOMES).parameters
    expected = apply_tables(tables, saved).features
    turned = tables.features[[*tables.features.columns[:4], *tables.feature_names[::-1]]]
    assert apply_tables(CohortTables(turned, tables.cases, tables.patients), saved).features.equals(expected)
    fewer = CohortTables(tables.features.drop(columns="f3"), tables.cases, tables.patients)
    with pytest.raises(HarmonizationError, match="missing: f3; new: none"):
        apply_tables(fewer, saved)
    more = CohortTables(tables.features.assign(f99=1.0), tables.cases, tables.patients)
    with pytest.raises(HarmonizationError, match="missing: none; new: f99"):
        apply_tables(more, saved)
    unnamed = CohortTables(tables.features.assign(roi="ROI"), tables.cases, tables.patients)
    applied = apply_tables(unnamed, saved).features
    assert applied[tables.feature_names].equals(expected[tables.feature_names])
    other = CohortTables(tables.features.assign(roi="liver"), tables.cases, tables.patients)
    with pytest.raises(HarmonizationError, match="no saved parameters of ROI liver; there are those of tumour"):
        apply_tables(other, saved)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "can't be read"),
        ("[]", "has no parameters"),
        ('{"ROI": {"format": "x"}}', "ROI ROI: these are no parameters"),
    ],
)
def test_other_files_are_no_parameters(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "combat.json").write_text(text)
    with pytest.raises(HarmonizationError, match=message):
        read_parameters(tmp_path / "combat.json")


def test_batch_may_be_any_column() -> None:
    tables = cohort_tables(80)
    result = harmonize_tables(tables, configuration(harmonize__batch="kernel")["harmonize"], OUTCOMES)
    assert set(result.parameters["tumour"]["batches"]) == {"sharp", "soft"}


def test_step_writes_its_tables(tmp_path: Path) -> None:
    inputs = write_tables(cohort_tables(60), tmp_path)
    task = CohortTask(configuration(harmonize__covariates=["age", "sex"]), [], {}, inputs, tmp_path / "out")
    result = run_step(task)
    written = tmp_path / "out" / "tables"
    csv = pd.read_csv(written / "features_harmonized.csv", float_precision="round_trip")
    pd.testing.assert_frame_equal(csv, pd.read_parquet(written / "features_harmonized.parquet"), check_exact=True)
    saved = json.loads((written / "combat_parameters.json").read_text())["tumour"]
    raw = pd.read_parquet(inputs["tables/features_raw.parquet"]).set_index("case_id")
    patients = pd.read_csv(inputs["tables/clinical.csv"]).set_index("patient_id")
    metadata = raw[["centre", "patient_id"]].join(patients, on="patient_id")
    again = ComBatHarmonizer.from_json(saved).transform(raw.filter(like="f"), metadata)
    np.testing.assert_array_equal(again, csv.filter(like="f"))
    assert len(pd.read_csv(written / "combat_diagnostics.csv")) == 12
    fates = pd.read_csv(written / "combat_rows.csv")
    assert list(fates.columns) == ["case_id", "roi", "column", "batch", "status"]
    assert list(fates["case_id"]) == list(csv["case_id"])
    assert list(fates["batch"]) == list(csv["centre"])
    assert set(fates["status"]) == {"harmonised"}
    assert set(fates["column"]) == {"centre"}
    assert len(pd.read_csv(written / "combat_batches.csv")) == 12 * 3
    assert set(pd.read_csv(written / "combat_covariates.csv")["term"]) == {"age", "sex[M]"}
    summary = pd.read_csv(written / "combat_summary.csv")
    assert {"batch_r2", "batch_auc", "features_anderson_darling"} <= set(summary["measure"])
    confounding = pd.read_csv(written / "confounding.csv", float_precision="round_trip")
    assert dict.fromkeys(confounding["variable"]) == dict.fromkeys(["died", "response", "age", "sex"])
    assert result.facts["batches"] == {"tumour": {"C0": 20, "C1": 20, "C2": 20}}
    assert result.facts["excluded_cases"] == []


def test_the_step_stops_before_the_fit_where_the_centre_is_the_outcome(tmp_path: Path) -> None:
    tables = cohort_tables(60)
    tables.patients["response"] = np.where((tables.features["centre"] == "C0").to_numpy(), "1", "0")
    task = CohortTask(configuration(), [], {}, write_tables(tables, tmp_path), tmp_path / "out")
    with pytest.raises(CohortError, match="centre and the outcome 'response' are the same thing"):
        run_step(task)
    assert not (tmp_path / "out").exists()


def test_strong_confounding_is_the_first_warning_of_the_step(tmp_path: Path) -> None:
    tables = cohort_tables(60)
    tables.patients["response"] = np.where((tables.features["centre"] == "C0").to_numpy(), "1", "0")
    tables.patients.loc["P001", "response"] = "1"
    task = CohortTask(configuration(), [], {}, write_tables(tables, tmp_path), tmp_path / "out")
    first, second, *_ = run_step(task).warnings
    assert first.startswith("the outcome response is strongly confounded with centre (Cramer's V 0.95; C0: 20 of 20")
    assert second.startswith("centre C2 (20) has no events of response")
