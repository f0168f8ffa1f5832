"""The report on models that were really fitted: every number is that of the tables, and what is missing is said."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from modelled_run import report_task
from statistics_cohort import cohort_tables, configuration

from radloom import modelling, performance, validation
from radloom import report_estimates as told
from radloom.analysis_plan import plan_hash
from radloom.assembly import CohortTables
from radloom.engine.step import CohortTask
from radloom.model_cox import model_cox
from radloom.model_logistic import model_logistic
from radloom.model_tables import MODEL_TABLES
from radloom.modelling import ModelTables
from radloom.report import build_report, read_text_table
from radloom.report_curves import STRATIFIED
from radloom.report_estimates import Estimates, Remarks, discrimination_table, interval
from radloom.report_models import extreme_note
from radloom.report_view import decimal, number

CENTRES = ["C0", "C1", "C2"]


@dataclass(frozen=True)
class Run:
    """A report, and what it was made from."""

    task: CohortTask
    params: dict[str, dict[str, Any]]
    models: dict[str, ModelTables]
    page: str

    def section(self, name: str) -> str:
        """The text of a section."""
        found = re.search(rf'<section id="{name}">(.*?)</section>', self.page, re.DOTALL)
        assert found
        return unescape(found.group(1))

    def part(self, name: str, heading: str) -> str:
        """What stands below a heading of a section."""
        return self.section(name).split(f"<h3>{heading}</h3>")[1].split("<h3>")[0]

    def table(self, model: str, name: str) -> pd.DataFrame:
        """A table of a model as text."""
        return read_text_table(self.task.inputs[f"models/{model}/{name}.csv"])


def rows_of(part: str) -> list[list[str]]:
    """The rows of all tables in a part of the page."""
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", part, re.DOTALL)
    ]


def _with_volume(tables: CohortTables) -> CohortTables:
    signal = tables.features["f0"]
    tables.features["original_shape_MeshVolume"] = 3000 * np.exp(signal / 2)
    return tables


def _run(folder: Path, tables: CohortTables, params: dict[str, dict[str, Any]], **models: ModelTables) -> Run:
    task = report_task(folder, tables, params, models)
    build_report(task)
    return Run(task, params, models, (task.out / "report.html").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Both models of three centres: one arm can't be judged in a centre that ComBat never saw."""
    params = configuration(
        analysis_plan__covariates=["age", "sex"],
        analysis_plan__arms=["clinical", "features", "features_combat", "features_centre"],
        analysis_plan__horizons=[10.0, 20.0],
        analysis_plan__subgroups=["sex", "age"],
        harmonize__new_batch="error",
        model__bootstraps=50,
        model__folds=3,
    )
    tables = _with_volume(cohort_tables(n=90, features=5))
    return _run(
        tmp_path_factory.mktemp("run"), tables, params,
        cox=model_cox(tables, params), logistic=model_logistic(tables, params),
    )  # fmt: skip


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A Cox model with competing events whose locked test set was opened under another plan before."""
    params = configuration(
        analysis_plan__covariates=["age"],
        analysis_plan__arms=["features"],
        analysis_plan__competing_event="other",
        analysis_plan__test_set={"column": "kernel", "value": "soft"},
        analysis_plan__open_test_set=True,
        model__bootstraps=50,
        model__folds=3,
    )
    tables = cohort_tables(n=100, features=3, centres=2)
    dead = tables.patients["died"] == "1"
    tables.patients["other"] = np.where(~dead & (np.arange(len(dead)) % 3 == 0), "1", "0")
    folder = tmp_path_factory.mktemp("opened")
    ledger = folder / "ledger.jsonl"
    first = {"opened": "2026-01-02 10:00 UTC", "analysis_plan": "012345678901", "settings": "x", "n": 40, "events": 20}
    ledger.write_text(json.dumps(first) + "\n")
    return _run(folder, tables, params, cox=model_cox(tables, params, ledger=ledger))


# ------------------------------------------------------------------ names of the tables


def test_names_are_those_that_the_models_write() -> None:
    assert told.CROSS_VALIDATION == validation.CROSS_VALIDATION
    assert told.LEAVE_ONE_CENTRE_OUT == validation.LEAVE_ONE_CENTRE_OUT
    assert told.LOCKED_TEST == validation.LOCKED_TEST
    assert told.OPTIMISM == modelling.OPTIMISM
    assert (told.POOLED, told.WORST, told.WITHIN) == (performance.POOLED, performance.WORST, performance.WITHIN)
    assert told.DISCRIMINATION == performance.DISCRIMINATION
    assert {arm.name for arm in validation.ARMS.values() if arm.batch} == set(STRATIFIED)


# ------------------------------------------------------------------------ the question


def test_the_question_stands_before_every_number(run: Run) -> None:
    facts = dict(row for row in rows_of(run.section("cox"))[:9] if len(row) == 2)
    fitted = run.models["cox"].facts
    assert facts["endpoint"] == "days, event died"
    assert (facts["cases"], facts["events"]) == (str(fitted["n"]), str(fitted["events"]))
    assert facts["horizons"] == "10, 20 (unit of days)"
    assert facts["analysis plan"] == plan_hash(run.params)
    assert facts["validation"].startswith("leave one centre out (primary), each of 3 centres; 3-fold cross-validation")
    assert "optimism by 5 bootstrap samples" in facts["validation"]
    arms = [row[0] for row in rows_of(run.section("cox").split("<caption>Arms</caption>")[1])[1:5]]
    assert arms == ["clinical", "features", "features_combat", "features_centre"]


def test_first_lines_say_what_could_not_be_judged(run: Run) -> None:
    summary = run.section("summary")
    assert summary.index("Before you read on") < summary.index("cases included")
    assert "Cox model: not estimable by leave-one-centre-out (features_combat): without C0, C1, C2" in summary
    assert "Cox model: Riley's criteria of sample size are not met by" in summary
    assert f"Analysis plan {plan_hash(run.params)}." in summary
    assert "unless harmonize.new_batch is adapt" in run.section("cox")


def test_first_lines_tell_of_the_locked_test_set(opened: Run) -> None:
    summary = opened.section("summary")
    first = re.findall(r"<li>(.*?)</li>", summary)[:2]
    assert first[0].startswith(f"Locked test set: the analysis plan ({plan_hash(opened.params)}) was changed after")
    assert "opened with 2 different plans or settings" in first[1]
    assert "no model was fitted to them" in summary
    columns = re.findall(r"<th[^>]*>(.*?)</th>", opened.section("summary"))
    assert "locked test set" in columns
    assert "leave one centre out (primary)" not in columns  # there are two centres
    assert "With two centres" in opened.section("cox")


def test_tables_of_different_plans_are_told(tmp_path: Path) -> None:
    params = configuration(model__min_events=500)
    other = configuration(model__min_events=500, analysis_plan__horizons=[30.0])
    tables = cohort_tables(n=40, features=3)
    run = _run(tmp_path, tables, params, cox=model_cox(tables, params), logistic=model_logistic(tables, other))
    plans = ", ".join(sorted([plan_hash(params), plan_hash(other)]))
    assert f"come from different analysis plans ({plans})" in run.section("summary")
    package = json.loads((run.task.out / "tables/datapackage.json").read_text())
    assert package["analysis_plan"] == plans


# ------------------------------------------------------------------------ performance


@pytest.mark.parametrize("model", ["cox", "logistic"])
def test_the_headline_has_the_leading_row_of_each_validation(run: Run, model: str) -> None:
    rows = run.table(model, "performance")
    standing = "c_index" if model == "cox" else "auc"
    lines = [row for row in rows_of(run.section("summary")) if row and row[0] == f"{model.capitalize()} model"]
    assert [line[1] for line in lines] == list(dict.fromkeys(rows["arm"]))
    whole = rows[(rows["centre"] == "all") & (rows["subgroup"] == "") & rows["metric"].str.startswith(standing)]
    for line in lines:
        splits = ("leave-one-centre-out", "cross-validation", "optimism-corrected")
        for cell, split in zip(line[3:6], splits, strict=True):
            mine = whole[(whole["arm"] == line[1]) & (whole["split"] == split)]
            leading = mine[mine["leads"] == "yes"]
            if leading.empty:
                assert set(mine["status"]) == {"not estimable"}
                assert cell.startswith("not estimable [")
                continue
            (row,) = leading.to_dict("records")
            assert cell.startswith(interval(row))
            assert cell.endswith("†") == row["metric"].endswith("_within_centre")
        noted = whole[(whole["arm"] == line[1]) & (whole["split"] == "optimism-corrected") & (whole["leads"] == "yes")]
        apparent = re.search(r"apparent ([\d.]+)", noted["note"].iloc[0])
        assert apparent
        assert line[6] == decimal(float(apparent[1]))


def test_every_centre_the_worst_and_the_pooled_estimate_are_drawn(run: Run) -> None:
    rows = run.table("cox", "performance")
    pictures = run.part("cox", "By centre").split("<figure>")[1:]
    assert len(pictures) == 4
    for picture, arm in zip(pictures, ("clinical", "features", "features_combat", "features_centre"), strict=True):
        texts = re.findall(r"<text[^>]*>([^<]+)</text>", picture)
        split = "cross-validation" if arm == "features_combat" else "leave-one-centre-out"
        mine = rows[(rows["arm"] == arm) & (rows["split"] == split) & (rows["metric"] == "c_index")]
        assert f"{arm}, {'out of fold' if arm == 'features_combat' else 'centre left out'}" in texts
        for centre in (*CENTRES, "worst", "random effects"):
            (row,) = mine[(mine["centre"] == centre) & (mine["subgroup"] == "")].to_dict("records")
            name = f"worst ({row['note'].split('; ')[0]})" if centre == "worst" else centre
            assert name in texts
            assert (interval(row) if row["status"] == "estimable" else "not estimable") in texts
            if row["prediction_low"]:
                ends = (float(row[key]) for key in ("prediction_low", "prediction_high"))
                assert " to ".join(f"{end:.3f}" for end in ends) in texts


def test_errors_and_calibration_are_those_of_the_table(run: Run) -> None:
    rows = run.table("cox", "performance")
    lines = {
        (line[0], line[1]): line for line in rows_of(run.part("cox", "Discrimination and error by horizon")) if line
    }
    where = (rows["split"] == "cross-validation") & (rows["centre"] == "all") & (rows["subgroup"] == "")
    mine = rows[where & (rows["arm"] == "features_combat")]
    for horizon in ("10", "20"):
        for column, metric in ((4, "brier"), (5, "scaled_brier")):
            (row,) = mine[(mine["metric"] == metric) & (mine["horizon"] == f"{horizon}.0")].to_dict("records")
            assert lines["features_combat", horizon][column].startswith(interval(row))
            assert lines["features_combat", horizon][2] == row["events"]
    (whole,) = mine[mine["metric"] == "integrated_brier"].to_dict("records")
    assert lines["features_combat", "integrated to 20"][4].startswith(interval(whole))
    calibration = {(line[0], line[1]): line for line in rows_of(run.part("cox", "Calibration")) if line}
    (slope,) = mine[(mine["metric"] == "calibration_slope") & (mine["horizon"] == "20.0")].to_dict("records")
    assert calibration["features_combat", "20"][5].startswith(interval(slope))
    assert run.part("cox", "Calibration").count("<svg") == 4
    assert "Not estimable, leave one centre out: features_combat [" in run.part("cox", "Calibration")


def test_decision_curves_have_every_arm_that_was_judged(run: Run) -> None:
    part = run.part("cox", "Decision curves")
    pictures = part.split("<figure>")[1:]
    assert len(pictures) == 4  # two horizons by two validations
    for picture in pictures:
        texts = set(re.findall(r"<text[^>]*>([^<]+)</text>", picture))
        arms = {"clinical", "features", "features_centre"}
        assert {"treat all", "treat none", *arms} <= texts
        assert ("features_combat" in texts) == any(text.startswith("out of fold") for text in texts)


def test_subgroups_have_a_column_for_each_arm(run: Run) -> None:
    rows = run.table("logistic", "performance")
    part = run.part("logistic", "Subgroups")
    lines = rows_of(part.split("<caption>cross-validation</caption>")[1])[1:]
    where = (rows["split"] == "cross-validation") & (rows["metric"] == "auc") & (rows["subgroup"] != "")
    assert [line[0] for line in lines if line] == list(dict.fromkeys(rows[where]["subgroup"]))
    for line in (line for line in lines if line):
        for cell, arm in zip(line[3:], ("clinical", "features", "features_combat", "features_centre"), strict=True):
            (row,) = rows[where & (rows["subgroup"] == line[0]) & (rows["arm"] == arm)].to_dict("records")
            assert cell.startswith("not estimable [" if row["status"] == "not estimable" else interval(row))


def test_survival_by_risk_takes_one_prediction_a_patient(run: Run) -> None:
    out_of_fold = run.part("cox", "Kaplan-Meier by predicted risk (out of fold)")
    left_out = run.part("cox", "Kaplan-Meier by predicted risk (centre left out)")
    for part, arms in ((out_of_fold, 4), (left_out, 3)):
        for picture in part.split("<figure>")[1:]:
            counted = [int(n) for n in re.findall(r"risk \(n = (\d+)", picture)]
            missing = re.search(r"(\d+) patients? of folds in which", picture)
            assert sum(counted) + (int(missing.group(1)) if missing else 0) == 90
        assert len(part.split("<figure>")[1:]) + part.count("No groups can be formed") == arms
    assert "Cut within each batch too" in out_of_fold


# ---------------------------------------------------------------- coefficients and tests


def test_coefficients_tell_what_is_stable_and_what_follows_the_volume(run: Run) -> None:
    rows = run.table("cox", "coefficients")
    part = run.part("cox", "Coefficients")
    lines = [line for line in rows_of(part.split("<caption>features:")[1].split("</table>")[0]) if line]
    mine = rows[(rows["arm"] == "features") & (rows["coefficient"].astype(float) != 0)]
    assert [line[0] for line in lines] == sorted(
        mine["term"], key=lambda term: -abs(float(mine.set_index("term").loc[term, "coefficient"]))
    )
    assert {"f0", "original_shape_MeshVolume"} & {line[0] for line in lines}
    for line in lines:
        (row,) = mine[mine["term"] == line[0]].to_dict("records")
        rho = float(row["volume_correlation"])
        assert line[1] == decimal(float(row["coefficient"]))
        assert line[6] == f"{100 * float(row['selection_frequency']):.0f} %"
        assert line[7] == f"{rho:.2f}" + (" follows the volume" if abs(rho) >= 0.8 else "")
    assert "follows the volume" in part


def test_inference_and_proportional_hazards_are_those_of_the_tables(run: Run) -> None:
    rows = run.table("cox", "inference")
    lines = [line for line in rows_of(run.part("cox", "Covariates without a penalty")) if line]
    assert [line[0] for line in lines] == list(rows["term"]) == ["age", "sex[M]"]
    for line, row in zip(lines, rows.to_dict("records"), strict=True):
        ends = " to ".join(number(float(row[key])) for key in ("ci_low", "ci_high"))
        assert line[1] == f"{number(float(row['hazard_or_odds_ratio']))} ({ends})"
        assert line[5] == "Cox, Efron ties"
    tests = run.table("cox", "ph_test")
    lines = [line for line in rows_of(run.part("cox", "Proportional hazards")) if line]
    assert len(lines) == len(tests) / 2
    for line in lines:
        mine = tests[(tests["arm"] == line[0]) & (tests["term"] == line[1])].set_index("transform")
        assert line[3] == decimal(float(mine.loc["km", "chi2"]), 2)
        assert line[5] == decimal(float(mine.loc["rank", "chi2"]), 2)
    logistic = [line[0] for line in rows_of(run.part("logistic", "Covariates without a penalty")) if line]
    assert logistic == ["age", "sex[M]"]  # the intercept is no covariate


def test_competing_events_have_their_incidence_and_no_absolute_risk(opened: Run) -> None:
    part = opened.part("cox", "Cumulative incidence")
    rows = opened.table("cox", "cumulative_incidence")
    lines = [line for line in rows_of(part) if line]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.to_dict("records"), strict=True):
        assert line[:3] == [row["group"], f"{float(row['time']):g}", row["cause"]]
        assert line[3].startswith(decimal(float(row["estimate"])))
        assert line[4] == row["at_risk"]
    section = opened.section("cox")
    assert "no absolute risk is judged" in section
    assert "<h3>Calibration</h3>" not in section
    assert "<h3>Decision curves</h3>" not in section


def test_sample_size_is_told_by_arm(run: Run) -> None:
    rows = run.table("logistic", "sample_size")
    rows = rows[rows["criterion"] == "all"]
    lines = [line for line in rows_of(run.part("logistic", "Sample size")) if line]
    assert [line[0] for line in lines] == list(rows["arm"])
    for line, row in zip(lines, rows.to_dict("records"), strict=True):
        assert line[1] == row["parameters"]
        assert line[3] == f"{float(row['needed_n']):.0f} ({float(row['needed_events']):.0f})"
        assert line[5] == ("yes" if row["met"] == "True" else "no")


def test_a_prediction_beyond_belief_is_warned_of(run: Run) -> None:
    told = "2 held-out cases (K001, K002) have linear predictors of up to 844 (features)"
    risk = ["0.5", "843.9", "-12", "", "9.9"]
    rows = pd.DataFrame({"model": "cox", "arm": "features", "case_id": [f"K00{k}" for k in range(5)], "risk": risk})
    material = SimpleNamespace(predictions=rows)
    assert extreme_note(material, "cox").startswith(told)  # type: ignore[arg-type]
    assert extreme_note(material, "logistic") == ""  # type: ignore[arg-type]
    assert "linear predictors of up to" not in run.page


# ------------------------------------------------------------------------- not estimable


def test_a_refused_model_says_why_and_shows_nothing_else(tmp_path: Path) -> None:
    params = configuration(analysis_plan__arms=["clinical", "features"], analysis_plan__covariates=["age"])
    params["model"]["min_events"] = 500
    tables = cohort_tables(n=40, features=3)
    refused = model_logistic(tables, params)
    run = _run(tmp_path, tables, params, logistic=refused)
    events = refused.facts["events"]
    reason = f"{min(events, 40 - events)} cases of the rarer class among 40 cases, 500 needed (model.min_events)"
    assert f"Logistic model: not estimable (clinical, features): {reason}." in run.section("summary")
    section = run.section("logistic")
    assert "none: no arm was fitted" in section
    assert section.count("not estimable [1]") == 2
    assert f"Remark 1: {reason}." in section
    assert "<h3>Sample size</h3>" in section
    assert "<svg" not in section
    assert "The Cox model is left out" in run.section("cox")


def _estimates(*rows: dict[str, str]) -> Estimates:
    shared = {"model": "cox", "arm": "a", "split": "cross-validation", "centre": "all", "metric": "c_index",
              "estimate": "0.7", "ci_low": "0.6", "ci_high": "0.8", "n": "9", "events": "5",
              "status": "estimable"}  # fmt: skip
    return Estimates(pd.DataFrame([shared | row for row in rows]).fillna(""))


def test_a_row_that_may_not_lead_is_no_headline() -> None:
    refusal = {"metric": "c_index_within_centre", "status": "not estimable", "note": "3 pairs", "estimate": ""}
    found = _estimates({"leads": ""}, refusal).leading("a", "cross-validation", "c_index")
    assert found is not None
    assert found["note"] == "3 pairs"
    found = _estimates({"leads": "yes"}, refusal).leading("a", "cross-validation", "c_index")
    assert found is not None
    assert found["metric"] == "c_index"


@pytest.mark.parametrize(
    ("centres", "primary"), [(1, "cross-validation"), (2, "cross-validation"), (3, "leave-one-centre-out")]
)
def test_centres_left_out_are_primary_from_three_on(centres: int, primary: str) -> None:
    named = [{"centre": f"C{k}", "split": "leave-one-centre-out"} for k in range(centres)]
    estimates = _estimates({}, {"split": "leave-one-centre-out"}, *named)
    assert estimates.primary == primary
    (block,) = discrimination_table([("", estimates)], Remarks(), every=False)
    assert block.table is not None
    expected = "leave one centre out (primary)" if centres >= 3 else "cross-validation"
    assert block.table.columns[2] == expected


def test_remarks_are_written_once_and_say_nothing_twice() -> None:
    remarks = Remarks()
    spread = "95 % prediction interval 0.2 to 0.9"
    assert remarks.mark("") == remarks.mark(spread) == remarks.mark("pairs within centres") == ""
    assert remarks.mark(f"one centre lost; {spread}") == " [1]"
    assert remarks.mark("another") == " [2]"
    assert remarks.mark("one centre lost") == " [1]"
    (block,) = remarks.blocks()
    assert [words for words, _ in block.pairs] == ["Remark 1: one centre lost.", "Remark 2: another."]


def test_an_estimate_without_an_interval_says_so() -> None:
    (row,) = _estimates({"ci_low": "", "ci_high": ""}).rows
    assert interval(row) == "0.700 (no interval)"
    assert interval(row | {"estimate": ""}) == "–"


# ------------------------------------------------------------------------------- words


@pytest.mark.parametrize("model", ["cox", "logistic"])
def test_nothing_is_claimed_that_was_not_shown(run: Run, model: str) -> None:
    words = re.sub(r"<svg.*?</svg>", "", run.section(model), flags=re.DOTALL)
    words = re.sub(r"<[^>]+>", " ", words).lower()
    for word in ("significant", "because of", "effect of", "predicts better", "outperform", "superior", "best arm"):
        assert word not in words, word
    assert not re.search(r"\bcaus(es|ed|al|ality)\b", words)


# --------------------------------------------------------------------- tables and their R


def test_joined_tables_are_those_of_the_models_to_the_last_digit(run: Run) -> None:
    for name, columns in MODEL_TABLES.items():
        joined = read_text_table(run.task.out / "tables" / f"{name}.csv")
        assert list(joined.columns) == columns, name
        parts = [run.table(model, name) for model in ("cox", "logistic") if name in run.models[model].tables]
        pd.testing.assert_frame_equal(
            joined, pd.concat(parts, ignore_index=True)[columns].fillna(""), check_dtype=False
        )
        assert set(joined["analysis_plan"]) <= {plan_hash(run.params)}


def test_the_data_package_has_the_plan_and_types_of_every_column(run: Run) -> None:
    package = json.loads((run.task.out / "tables/datapackage.json").read_text())
    assert package["analysis_plan"] == plan_hash(run.params)
    tables = {resource["name"]: resource for resource in package["resources"]}
    assert set(MODEL_TABLES) <= set(tables)
    for name, columns in MODEL_TABLES.items():
        fields = {field["name"]: field for field in tables[name]["schema"]["fields"]}
        assert list(fields) == columns
        assert all(field["description"] for field in fields.values())
        assert tables[name]["description"]
        assert fields["analysis_plan"]["type"] == "string"
        for column in ("estimate", "ci_low", "ci_high", "prediction_low", "horizon", "volume_correlation", "p"):
            assert fields.get(column, {"type": "number"})["type"] == "number", (name, column)
    kinds = {field["name"]: field["type"] for field in tables["sample_size"]["schema"]["fields"]}
    assert (kinds["outcome"], kinds["met"], kinds["parameters"]) == ("string", "boolean", "integer")
    order = list(tables)
    assert (
        order.index("coefficients") < order.index("performance") < order.index("sample_size") < order.index("codebook")
    )


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_r_reads_the_tables_of_the_models(run: Run, tmp_path: Path) -> None:
    for path in (run.task.out / "tables").iterdir():
        shutil.copy(path, tmp_path)
    for key, path in run.task.inputs.items():
        if key.startswith("tables/"):
            shutil.copy(path, tmp_path)
    code = (
        'source("import.R", chdir = TRUE); stopifnot(is.numeric(performance$estimate), is.numeric(inference$p),'
        "is.character(performance$analysis_plan), is.character(cumulative_incidence$group),"
        "is.numeric(cumulative_incidence$estimate), is.logical(sample_size$met), is.character(predictions$fold));"
        'lead <- subset(performance, leads == "yes" & split == "cross-validation" & model == "logistic");'
        "cat(nrow(performance), nrow(lead), sum(is.na(decision_curve$estimate)))"
    )
    done = subprocess.run(["Rscript", "-e", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = pd.concat([run.table(model, "performance") for model in ("cox", "logistic")])
    lead = (rows["leads"] == "yes") & (rows["split"] == "cross-validation") & (rows["model"] == "logistic")
    assert done.stdout == f"{len(rows)} {int(lead.sum())} 0"
