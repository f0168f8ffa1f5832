"""The report says what the tables say, stands alone, and is the same file twice."""

import csv
import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image
from statistics_cohort import cohort_tables, configuration, write_tables

from radloom import figures
from radloom.datapackage import describe
from radloom.engine.step import CohortTask, Entry
from radloom.harmonize import run_step
from radloom.model_tables import MODEL_TABLES
from radloom.report import OWN_FILES, build_report
from radloom.report_curves import risk_groups
from radloom.report_harmonisation import choose_features
from radloom.report_view import number, p_value
from radloom.stability import COLUMNS as STABILITY_COLUMNS
from radloom.stability import stability_rows
from radloom.tables import build_tables

N = 24
FEATURES = ["original_shape_MeshVolume", "original_firstorder_Mean", "original_glcm_Contrast", "original_x_<b>"]
FACTS: dict[str, dict[str, Any]] = {
    "ingest": {
        "spacing": [0.98, 0.98, 3.0],
        "size": [64, 64, 20],
        "hu_min": -1000,
        "hu_max": 900,
        "format": "nifti",
        "dtype": "int16",
    },
    "resample": {"spacing": [1, 1, 1], "size": [62, 62, 60]},
    "calibrate": {"method": "none", "slope": 1.0, "intercept": 0.0, "air_hu": -998.5, "air_voxels": 1000},
    "segment": {
        "source": "model",
        "voxels": {"tumour": 500},
        "uncertainty": {
            "tumour": {
                "volume_ml": 4.8,
                "volume_sd_ml": 0.6,
                "volume_cv": 0.125,
                "pairwise_dice": 0.875,
                "epistemic": 0.01,
            }
        },
    },
    "postprocess": {"volume_mm3": {"tumour": 4800.0}, "change": {"tumour": 0.96}, "components": {"tumour": 1}},
    "extract": {"rois": {"tumour": {"voxels": 480, "volume_mm3": 4800.0}}},
}
PARAMS: dict[str, Any] = {
    "run": {"max_excluded_fraction": 0.5},
    "report": {"title": "Cohort <one> & two", "max_overlays": 500},
    "harmonize": {"batch": "centre", "covariates": ["age"], "min_batch_size": 5, "small_batch": "error"},
    "model": {"roi": "tumour", "folds": 2},
    "analysis_plan": {"time": "days", "event": "died", "outcome": "meta", "covariates": ["age"]},
    "model_cox": {"l1_ratio": 0.9},
    "model_logistic": {"l1_ratio": 0.5},
    "tables": {"clinical_columns": []},
}


def _write(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows, columns=columns).to_csv(path, index=False)


def _models(folder: Path, override: bool) -> None:
    """Tables as the two models write them: a fitted Cox model with two arms, and a logistic one that was refused."""
    rng = np.random.default_rng(5)
    performance, coefficients, predictions = [], [], []
    for arm in ("features", "features_combat"):
        shared = {
            "model": "cox",
            "arm": arm,
            "split": "cross-validation",
            "n": N - 2,
            "events": 12,
            "status": "estimable",
        }
        performance.append(
            shared | {"centre": "all", "metric": "c_index", "estimate": 0.6789, "ci_low": 0.5, "ci_high": 0.8}
        )
        performance.append(shared | {"centre": "B", "metric": "c_index", "status": "not estimable", "note": "2 events"})
        coefficients += [
            {"model": "cox", "arm": arm, "term": name, "coefficient": b, "hazard_or_odds_ratio": np.exp(b), "mean": 1.0,
             "sd": 2.0, "selected_in_folds": 2, "override": str(override).lower()}
            for name, b in zip(FEATURES, (0.4, -0.2, 0.0, 0.1), strict=True)
        ]  # fmt: skip
        predictions += [
            {"model": "cox", "arm": arm, "split": "cross-validation", "case_id": f"c{i}", "patient_id": f"p{i}",
             "centre": "AB"[i % 2],
             "fold": 1 + i % 2,
             "risk": float(rng.normal()), "time": float(50 + 10 * i), "event": i % 2}
            for i in range(2, N)
        ]  # fmt: skip
    columns = MODEL_TABLES
    cox = folder / "models/cox"
    _write(cox / "performance.csv", performance, columns["performance"])
    _write(cox / "coefficients.csv", coefficients, columns["coefficients"])
    _write(
        cox / "predictions.csv", predictions, [c for c in columns["predictions"] if c not in ("probability", "outcome")]
    )
    _write(
        cox / "ph_test.csv",
        [
            {
                "model": "cox",
                "arm": "features",
                "term": "risk (out of fold)",
                "transform": "km",
                "chi2": 4.5,
                "df": 1,
                "p": 0.0339,
            }
        ],
        columns["ph_test"],
    )
    refused = {"model": "logistic", "arm": "features", "split": "cross-validation", "centre": "all", "metric": "auc",
               "n": 22, "events": 4, "status": "not estimable",
               "note": "4 events among 22 cases, 20 needed"}  # fmt: skip
    logistic = folder / "models/logistic"
    _write(logistic / "performance.csv", [refused], columns["performance"])
    _write(logistic / "coefficients.csv", [], columns["coefficients"])
    _write(logistic / "predictions.csv", [], columns["predictions"])


@pytest.fixture
def real_figures() -> None:
    """For tests that look at figures: all others have empty ones, which are drawn in no time."""


@pytest.fixture(autouse=True)
def _quick_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(figure: Figure, name: str, title: str) -> str:
        plt.close(figure)
        return f'<svg role="img" id="{name}"><title>{escape(title)}</title></svg>'

    if "real_figures" not in request.fixturenames:
        monkeypatch.setattr(figures, "_svg", empty)


@pytest.fixture
def results(tmp_path: Path) -> CohortTask:
    """The report's task for a cohort of two centres in which c0 and c1 are excluded, with everything configured."""
    folder = tmp_path / "results"
    cases = [{"case_id": f"c{i}", "patient_id": f"p{i}", "centre": "AB"[i % 2]} for i in range(N)]
    entries: dict[str, dict[str, Entry]] = {step: {} for step in (*FACTS, "overlay")}
    rng = np.random.default_rng(0)
    picture = io.BytesIO()
    Image.new("RGB", (30, 10), (90, 90, 90)).save(picture, "png")
    for i, case in enumerate(cases):
        for step, facts in (*FACTS.items(), ("overlay", {})):
            status = "ok" if i > 1 else "excluded" if step == "ingest" else "skipped"
            files = {}
            if status == "ok" and step == "extract":
                files["features.csv"] = tmp_path / f"{case['case_id']}.csv"
                values = rng.normal(size=4) + 3 * (i % 2)
                files["features.csv"].write_text(
                    f"roi,{','.join(FEATURES)}\ntumour,{','.join(map(repr, map(float, values)))}\n"
                )
            if status == "ok" and step == "overlay":
                files["overlay.png"] = tmp_path / f"{case['case_id']}.png"
                files["overlay.png"].write_bytes(picture.getvalue())
            reason, advice = ("the mask is <empty>", "draw it again") if status == "excluded" else ("", "")
            warned = ["the air is far from -1000 HU"] if status == "ok" and step == "calibrate" and i == 5 else []
            entries[step][case["case_id"]] = Entry(
                status, reason, advice, facts if status == "ok" else {}, warned, files
            )
    clinical = tmp_path / "clinical.csv"
    clinical.write_text(
        "patient_id,age,days,died,meta\n"
        + "".join(f"p{i},{50 + i},{50 + 10 * i},{i % 2},{int(i < 6)}\n" for i in range(N) if i != 9)
    )
    build_tables(CohortTask(PARAMS, cases, entries, {"clinical": clinical}, folder))
    raw = pd.read_parquet(folder / "tables/features_raw.parquet")
    harmonized = raw.copy()
    harmonized[FEATURES] -= raw.groupby("centre")[FEATURES].transform("mean")
    harmonized.to_csv(folder / "tables/features_harmonized.csv", index=False)
    harmonized.to_parquet(folder / "tables/features_harmonized.parquet", index=False)
    diagnostics = [
        {"roi": "tumour", "feature": name, "batch_r2_before": 0.7, "batch_r2_after": 0.0, "anova_p_before": 0.001,
         "anova_p_after": 1.0, "anova_q_before": 0.002, "anova_q_after": 1.0}
        for name in FEATURES
    ]  # fmt: skip
    _write(folder / "tables/combat_diagnostics.csv", diagnostics, list(diagnostics[0]))
    (folder / "tables/combat_parameters.json").write_text("{}\n")
    _models(folder, override=True)
    inputs = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    provenance = [
        {"step": "ingest", "params": {"max_spacing": 10}, "versions": {"numpy": "2.4.6"}, "code": "ab" * 32},
        {"step": "postprocess", "params": {"labels": {"tumour": {"closing_mm": 2}}, "fill_holes": False},
         "versions": {"numpy": "2.4.6"}, "code": "cd" * 32},
    ]  # fmt: skip
    return CohortTask(PARAMS, cases, {"overlay": entries["overlay"]}, inputs, tmp_path / "out", provenance)


def _page(task: CohortTask) -> str:
    build_report(task)
    return (task.out / "report.html").read_text()


def _section(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, re.DOTALL)
    assert found
    return found.group(1)


@pytest.mark.usefixtures("real_figures")
def test_report_stands_alone_escapes_what_comes_from_data_and_is_the_same_twice(
    results: CohortTask, tmp_path: Path
) -> None:
    page = _page(results)
    outside = [u for u in re.findall(r'(?:src|href)\s*=\s*"([^"]+)"', page) if not u.startswith(("#", "data:"))]
    assert outside
    assert all(re.fullmatch(r"tables/[A-Za-z_.]+|methods\.md", url) for url in outside)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "<script" not in page
    assert "Cohort &lt;one&gt; &amp; two" in page
    assert "the mask is &lt;empty&gt;" in page
    assert "<b>" not in page
    assert str(results.out.parent) not in page
    for url in outside:
        assert (results.out / url).exists() or url in results.inputs
    build_report(replace(results, out=tmp_path / "again"))
    first = {p.relative_to(results.out): p.read_bytes() for p in results.out.rglob("*") if p.is_file()}
    second = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert first == second
    assert set(map(Path.as_posix, first)) == {"report.html", "methods.md", *OWN_FILES}


def test_headline_carries_what_a_reader_must_know(results: CohortTask) -> None:
    summary = _section(_page(results), "summary")
    assert "22 of 24" in summary
    assert "Logistic model: not estimable (features): 4 events among 22 cases, 20 needed." in summary
    assert "Cox model: fitted although there are too few events (override_sample_size)" in summary
    assert "Small batches by centre: A (11), B (11)" in summary
    assert "HU were not calibrated in 22 of 22 cases" in summary
    assert "Calibration warned of 1 case (c5)" in summary
    assert "0.679 (0.500 to 0.800)" in summary
    assert "1 case (c9): the patient has no row in the clinical table" in summary
    # One centre's missing estimate is a row of the table, not a headline.
    assert "2 events" not in summary


def _stability(task: CohortTask) -> CohortTask:
    """The same task with a table of stability, and a Cox model that was filtered by it."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(40, 1, 3)) * [3.0, 1.0, 0.0] + rng.normal(size=(40, 5, 3))
    values = np.concatenate([values, np.ones((40, 5, 1))], axis=2)
    rows = stability_rows("perturbation", "tumour", FEATURES, ["A"] * 25 + ["B"] * 15, values)
    rows += stability_rows("repeats", "tumour", FEATURES, ["A"] * 6 + ["B"] * 6, values[:12, :2])
    path = task.out.parent / "results" / "tables" / "stability.csv"
    pd.DataFrame(rows, columns=STABILITY_COLUMNS).to_csv(path, index=False)
    model = task.out.parent / "results" / "models" / "cox" / "model.json"
    model.write_text(json.dumps({"feature_filter": ["2 of 4 features left out by model.min_icc 0.75"]}))
    inputs = {**task.inputs, "tables/stability.csv": path, "models/cox/model.json": model}
    return replace(task, inputs=inputs, out=task.out.parent / "with_stability")


def test_stability_is_counted_and_the_filter_is_told(results: CohortTask) -> None:
    assert 'id="stability"' not in _page(results)
    results = _stability(results)
    page = _page(results)
    section = _section(page, "stability")
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)]
    whole = {tuple(row[1:3]): row for row in rows if len(row) > 8}
    # True values 0.9, 0.5 and 0; the fourth feature is constant.
    assert whole["perturbation", "ICC(1,1)"][3:6] == ["40", "5", "4"]
    assert whole["perturbation", "ICC(1,1)"][-1] == "1"
    assert whole["perturbation", "ICC(1,1)"][7] == "1"
    assert {form for source, form in whole if source == "repeats"} == {"ICC(1,1)", "ICC(2,1)", "ICC(3,1)"}
    assert "stability of ROI tumour, repeats, ICC(2,1): 12 cases, fewer than 30" in section
    assert "perturbation, ICC(1,1): 40 cases" not in section
    assert section.count("<svg") == 2
    assert "2 of 4 features left out by model.min_icc 0.75." in _section(page, "cox")
    codebook = pd.read_csv(results.out / "tables" / "codebook.csv")
    assert codebook[codebook["table"] == "stability"]["meaning"].notna().all()


def _with_diagnostics(results: CohortTask, tmp_path: Path, centres: int = 3) -> CohortTask:
    """The same task with the tables on batches that the step harmonize writes, of a cohort of its own."""
    folder = tmp_path / "cohort"
    folder.mkdir()
    tables = cohort_tables(90, centres=centres)
    tables.patients["response"] = np.where((tables.features["centre"] == "C0").to_numpy(), "1", "0")
    tables.patients.loc["P001", "response"] = "1"
    age = tables.patients["age"].astype(float).reindex(tables.features["patient_id"]).to_numpy()
    tables.features["f1"] += 0.2 * (age - 60)
    params = configuration(harmonize__covariates=["age", "sex"])
    done = run_step(CohortTask(params, [], {}, write_tables(tables, folder), folder / "out"))
    names = ("confounding", "combat_summary", "combat_batches", "combat_covariates")
    own = {f"tables/{name}.csv": folder / "out" / "tables" / f"{name}.csv" for name in names}
    provenance = [*results.provenance, {"step": "harmonize", "warnings": done.warnings}]
    return replace(results, inputs={**results.inputs, **own}, provenance=provenance, out=tmp_path / "with_diagnostics")


def test_what_is_confounded_comes_first(results: CohortTask, tmp_path: Path) -> None:
    assert 'id="confounding"' not in _page(results)
    results = _with_diagnostics(results, tmp_path)
    page = _page(results)
    told = re.findall(r"<li>(.*?)</li>", _section(page, "summary"))
    assert any("the outcome response is strongly confounded with centre (Cramer&#39;s V" in line for line in told)
    section = _section(page, "confounding")
    assert page.index('id="confounding"') < page.index('id="harmonisation"')
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)]
    assert ["C0", "30", "0", "30", "100%"] in rows
    assert ["C2", "30", "0", "0", "0%"] in rows
    table = pd.read_csv(results.inputs["tables/confounding.csv"])
    response = table[table["variable"] == "response"].iloc[0]
    v, plain = (f"{response[name]:.2f}" for name in ("cramers_v_corrected", "cramers_v"))
    assert f"response: Cramer&#39;s V {v} ({plain} uncorrected), chi-square test p &lt; 0.001." in section
    followed = table[(table["variable"] == "died") & (table["batch"] == "C0")]["median_follow_up"].iloc[0]
    lines = [row for row in rows if len(row) == 6 and row[0] == "C0"]
    assert float(lines[0][5]) == pytest.approx(followed, rel=5e-3)
    assert {row[0] for row in rows if row} >= {"age", "sex: F", "sex: M"}
    assert section.count("<svg") == 2
    codebook = pd.read_csv(results.out / "tables" / "codebook.csv")
    for name in ("confounding", "combat_summary", "combat_batches", "combat_covariates"):
        assert codebook[codebook["table"] == name]["meaning"].notna().all()
    package = json.loads((results.out / "tables/datapackage.json").read_text())
    (schema,) = [r["schema"]["fields"] for r in package["resources"] if r["name"] == "confounding"]
    types = {field["name"]: field["type"] for field in schema}
    assert types["level"] == "string"
    assert types["cramers_v"] == "number"


@pytest.mark.usefixtures("real_figures")
def test_the_summary_of_combat_is_told_in_sentences(results: CohortTask, tmp_path: Path) -> None:
    results = _with_diagnostics(results, tmp_path)
    section = _section(_page(results), "harmonisation")
    summary = pd.read_csv(results.inputs["tables/combat_summary.csv"]).set_index(["measure", "stage", "batch"])
    areas = [summary.loc[("batch_auc", stage, "all")] for stage in ("before", "after, new cases")]
    first, second = (f"{a['estimate']:.2f} ({a['ci_low']:.2f} to {a['ci_high']:.2f})" for a in areas)
    assert f"could be guessed with an AUC of {first} before, and of {second} after a ComBat" in section
    differ = summary.loc[("features_anderson_darling", "before", "all"), "note"].split(" features")[0]
    assert f"tumour: {differ} features were distributed differently between the batches before" in section
    assert "Effect of age: 1 of 1 features with an effect within batches before keep its sign" in section
    assert "Whether the effect of sex[M] was kept is not estimable: no feature has a significant effect" in section
    assert section.index("What harmonisation did") < section.index("All features")
    assert 'aria-label="AUC of guessing the batch, before and after harmonisation"' in section
    assert 'aria-label="Effects of covariates before and after harmonisation"' in section


def test_one_batch_is_described_without_comparisons(results: CohortTask, tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    folder.mkdir()
    inputs = write_tables(cohort_tables(40, centres=1), folder)
    run_step(CohortTask(configuration(harmonize__covariates=["age"]), [], {}, inputs, folder / "out"))
    names = ("confounding", "combat_summary", "combat_batches", "combat_covariates")
    own = {f"tables/{name}.csv": folder / "out" / "tables" / f"{name}.csv" for name in names}
    page = _page(replace(results, inputs={**results.inputs, **own}))
    assert "Not compared: fewer than two batches with a known value." in _section(page, "confounding")
    assert "not estimable: fewer than two batches with 5 patients" in _section(page, "harmonisation")


def test_scanners_are_shown_by_centre_where_they_are_known(results: CohortTask, tmp_path: Path) -> None:
    assert "Scanners and protocols" not in _page(results)
    table = pd.read_csv(results.inputs["tables/acquisition.csv"], dtype=str, keep_default_na=False)
    table = table.assign(manufacturer="Siemens", scanner_model="Edge", kernel="B30f", kvp="120", slice_thickness="3")
    table.loc[table.index[0], ["kernel", "slice_thickness"]] = ["B70s", ""]
    table.to_csv(tmp_path / "own.csv", index=False)
    page = _page(replace(results, inputs={**results.inputs, "tables/acquisition.csv": tmp_path / "own.csv"}))
    quality = _section(page, "quality")
    assert "Scanners and protocols" in quality
    first = table["centre"].iloc[0]
    n = int((table["centre"] == first).sum())
    assert re.search(rf"<td>{first}</td><td[^>]*>Siemens Edge {n}</td><td[^>]*>B70s 1, B30f {n - 1}</td>", quality)


@pytest.mark.usefixtures("real_figures")
def test_sections_show_the_tables(results: CohortTask) -> None:
    page = _page(results)
    cohort = _section(page, "cohort")
    assert re.search(
        r"<td>died: positive / known</td><td[^>]*>0 / 11</td><td[^>]*>10 / 10</td><td[^>]*>10 / 21</td>", cohort
    )
    exclusions = _section(page, "exclusions")
    assert "2 cases were excluded." in exclusions
    assert re.search(r"<td>c1</td><td>B</td><td>whole case</td><td>ingest</td>.*draw it again", exclusions)
    pictures = _section(page, "pictures")
    assert pictures.count("data:image/png;base64,") == 22
    assert "c2 · A · tumour 4.80 mL" in pictures
    quality = _section(page, "quality")
    assert "none 11" in quality
    assert "resampled to 1 x 1 x 1 mm" in quality
    assert "the air is far from -1000 HU" in quality
    assert re.search(r"<td>tumour</td><td>A</td><td[^>]*>11</td><td[^>]*>0.875</td><td[^>]*>0.125</td>", quality)
    assert len(re.findall(r"<td>c\d+</td><td>[AB]</td><td>tumour</td><td[^>]*>0.875</td>", quality)) == 10
    harmonisation = _section(page, "harmonisation")
    assert "0.700 / 0.000" in harmonisation
    assert "of the ROI tumour" in _section(page, "cox")
    assert "4 / 0" in harmonisation
    assert "after ComBat" in harmonisation
    cox = _section(page, "cox")
    assert cox.count("<svg") == 4
    assert "features_combat: log-rank chi-square" in cox
    assert "0.034" in cox
    assert "original_x_&lt;b&gt;" in cox
    assert "3 terms selected" in cox
    settings = _section(page, "settings")
    assert re.search(r"<td>postprocess</td><td>labels.tumour.closing_mm</td><td[^>]*>2</td>", settings)
    assert "<td>numpy</td><td>2.4.6</td><td>ingest, postprocess</td>" in settings


def test_the_report_says_which_folds_and_intervals_there_were(results: CohortTask, tmp_path: Path) -> None:
    page = _page(results)
    cox = _section(page, "cox")
    assert "2-fold cross-validation, stratified" in cox
    assert "percentiles of a bootstrap of the predictions" in cox
    assert "-fold cross-validation" not in _section(page, "logistic")  # it was refused
    wanted = results.params | {"model": {"roi": "tumour", "folds": 5}}
    again = replace(results, params=wanted, out=tmp_path / "again")
    assert "2-fold cross-validation (not 5-fold, for the number of events)" in _section(_page(again), "cox")
    codebook = list(csv.DictReader((results.out / "tables/codebook.csv").open()))
    told = [row["meaning"] for row in codebook if row["table"] == "performance" and row["column"].startswith("ci_")]
    assert len(told) == 2
    assert all("bootstrap of the predictions of held-out cases" in meaning for meaning in told)


def test_methods_and_checklists_stand_beside_the_report_and_in_it(results: CohortTask) -> None:
    page = _page(results)
    section = _section(page, "methods")
    text = (results.out / "methods.md").read_text()
    assert "24 scans of 24 patients from 2 centres: A (12), B (12)" in text
    assert "the mask is &lt;empty&gt;" in section
    assert "the mask is <empty>" in text
    assert "Logistic model of `meta`: not fitted, 4 events among 22 cases, 20 needed." in text
    assert not re.search(r"\b[cp]\d+\b", text)
    assert str(results.out.parent) not in text
    table = list(csv.DictReader((results.out / "tables/checklist.csv").open()))
    assert len(table) == 244
    titles = set(re.findall(r"<h2>(.*?)</h2>", page))
    for row in table:
        kind, _, part = row["where"].partition(", ")
        assert kind != "report" or part in titles, row["where"]
        assert kind != "methods.md" or f"## {part}\n" in text, row["where"]
        assert not re.search(r"\b[cp]\d+\b", row["answer"]), row
    assert 'href="methods.md"' in section
    assert section.count("<table>") == 4


def test_few_pictures_when_asked(results: CohortTask) -> None:
    params = results.params | {"report": {"title": "t", "max_overlays": 3}}
    page = _page(replace(results, params=params))
    assert _section(page, "pictures").count("data:image/png;base64,") == 3
    assert "3 of 22 pictures are shown" in page


@pytest.mark.parametrize("single_centre", [False, True])
def test_without_models_harmonisation_and_pictures(results: CohortTask, tmp_path: Path, single_centre: bool) -> None:
    keep = {
        k: p
        for k, p in results.inputs.items()
        if k.startswith("tables/") and "harmonized" not in k and "combat" not in k
    }
    if single_centre:
        features = pd.read_parquet(keep["tables/features_raw.parquet"]).assign(centre="A")
        keep["tables/features_raw.parquet"] = tmp_path / "one.parquet"
        features.to_parquet(keep["tables/features_raw.parquet"])
        cohort = pd.read_csv(keep["tables/cohort.csv"], dtype=str).assign(centre="A")
        keep["tables/cohort.csv"] = tmp_path / "cohort.csv"
        cohort.to_csv(keep["tables/cohort.csv"], index=False)
    page = _page(replace(results, params={}, entries={}, inputs=keep, provenance=[]))
    assert "The Cox model is left out: no time and event are configured." in _section(page, "cox")
    assert "The logistic model is left out: no outcome is configured." in _section(page, "logistic")
    assert "There are no pictures" in _section(page, "pictures")
    assert "Not known" in _section(page, "settings")
    assert "The features were not harmonised" in _section(page, "harmonisation")
    assert ("There is only one batch (centre A)" in page) == single_centre
    assert (results.out / "tables/performance.csv").read_text() == ",".join(MODEL_TABLES["performance"]) + "\n"


def test_model_tables_keep_every_digit(results: CohortTask) -> None:
    build_report(results)
    for name in ("performance", "predictions", "coefficients"):
        joined = list(csv.DictReader((results.out / f"tables/{name}.csv").open()))
        cox = list(csv.DictReader(results.inputs[f"models/cox/{name}.csv"].open()))
        assert len(joined) == len(cox) + (name == "performance")
        assert all({k: row[k] for k in want} == want for row, want in zip(joined, cox, strict=False))


def test_datapackage_describes_the_folder(results: CohortTask) -> None:
    build_report(results)
    package = json.loads((results.out / "tables/datapackage.json").read_text())
    files = {k.removeprefix("tables/"): p for k, p in results.inputs.items() if k.startswith("tables/")}
    files |= {p.name: p for p in (results.out / "tables").glob("*.csv")}
    assert {r["path"] for r in package["resources"]} == set(files)
    for resource in package["resources"]:
        content = files[resource["path"]].read_bytes()
        assert resource["bytes"] == len(content)
        assert resource["hash"] == "sha256:" + hashlib.sha256(content).hexdigest()
    by_name = {r["name"]: r for r in package["resources"]}
    fields = {f["name"]: f["type"] for f in by_name["features_raw"]["schema"]["fields"]}
    assert fields == dict.fromkeys(("case_id", "patient_id", "centre", "roi"), "string") | dict.fromkeys(
        FEATURES, "number"
    )
    assert by_name["features_raw"]["schema"]["primaryKey"] == ["case_id", "roi"]
    clinical = {f["name"]: f["type"] for f in by_name["clinical"]["schema"]["fields"]}
    assert clinical == {
        "patient_id": "string",
        "age": "integer",
        "days": "integer",
        "died": "integer",
        "meta": "integer",
    }
    assert {f["name"]: f["type"] for f in by_name["coefficients"]["schema"]["fields"]}["override"] == "boolean"
    codebook = list(csv.DictReader((results.out / "tables/codebook.csv").open()))
    described = {(row["table"], row["column"]) for row in codebook}
    for resource in package["resources"]:
        for field in resource.get("schema", {}).get("fields", []):
            assert (resource["name"], field["name"]) in described


def test_types_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("case_id,a,b,c,d,e,f,g\n007,1,1,1,True,,007,x\n1,2,2.5,True,False,,2,1\n2,,1e3,,,,3,2\n")
    assert list(describe(path).types.values()) == [
        "string", "integer", "number", "string", "boolean", "string", "string", "string",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("Rscript") is None, reason="R is not installed")
def test_import_r_reads_every_table_with_its_types(results: CohortTask) -> None:
    build_report(results)
    folder = results.out / "tables"
    for key, path in results.inputs.items():
        if key.startswith("tables/"):
            shutil.copy(path, folder)
    code = (
        'source("import.R", chdir = TRUE); stopifnot(nrow(features_raw) == 22, is.character(cohort$case_id));'
        "stopifnot(is.logical(coefficients$override), is.integer(clinical$age), all(is.na(exclusions$roi)));"
        'stopifnot(sum(sapply(features_raw, is.numeric)) == 4, "original_x_<b>" %in% names(features_raw));'
        'short <- names(short_names(features_raw, "features_raw")); stopifnot(all(make.names(short) == short));'
        "cat(nrow(predictions))"
    )
    done = subprocess.run(["Rscript", "-e", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "44"


def test_risk_groups_are_cut_within_folds() -> None:
    risk = np.array([1, 2, 3, 4, 101, 102, 103, 104, 5, 5], dtype=float)
    groups, labels = risk_groups(risk, np.array([1] * 4 + [2] * 4 + [3] * 2))
    assert labels == ["low risk", "high risk"]
    assert groups.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, -1, -1]


def test_features_are_chosen_by_name_then_by_batch_effect() -> None:
    rng = np.random.default_rng(0)
    names = ["wavelet-LLH_firstorder_Mean", "original_firstorder_Mean", "original_glcm_Contrast", "q1", "q1_copy", "q2"]
    values = rng.normal(size=(50, 6))
    values[:, 4] = values[:, 3] ** 3
    shares = np.array([0.1, 0.1, 0.2, 0.9, 0.8, 0.7])
    chosen = choose_features(names, shares, values)
    assert chosen[:4] == ["original_firstorder_Mean", "original_glcm_Contrast", "q1", "q2"]
    assert "q1_copy" not in chosen


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (12345.6, "12346"),
        (0.00012345, "0.000123"),
        (1.5e9, "1.50e+09"),
        (float("nan"), "–"),
        (1000, "1000"),
    ],
)
def test_numbers_for_reading(value: float, text: str) -> None:
    assert number(value) == text


def test_p_values_for_reading() -> None:
    formatted: list[str] = [p_value(p) for p in (0.5, 0.00099, 0.001, float("nan"))]
    assert formatted == ["0.500", "< 0.001", "0.001", "–"]


@pytest.mark.usefixtures("results")
def test_by_hand(repo: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    command = [sys.executable, str(repo / "workflow/scripts/report.py"), str(folder), "--out", str(tmp_path / "hand")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "22 of 24" in (tmp_path / "hand/report.html").read_text()


@pytest.mark.parametrize("roi", ["tumour", "lesion_2"])
def test_a_derived_roi_that_was_not_harmonised_is_said(results: CohortTask, roi: str) -> None:
    raw = pd.read_parquet(results.inputs["tables/features_raw.parquet"])
    lesion = raw.head(5).assign(roi="lesion_2")
    both = pd.concat([raw, lesion], ignore_index=True)
    both.to_parquet(results.inputs["tables/features_raw.parquet"])
    params = results.params | {"model": {**results.params["model"], "roi": roi}}
    page = _page(replace(results, params=params))
    assert "ComBat refused the derived ROIs lesion_2, which are not in features_harmonized" in page
    said = "The features of lesion_2 were not harmonised" in _section(page, "harmonisation")
    assert said == (roi == "lesion_2")


def test_the_sensitivity_has_its_section_where_it_was_asked_for(results: CohortTask, tmp_path: Path) -> None:
    build_report(results)
    assert 'id="sensitivity"' not in (results.out / "report.html").read_text()
    path = tmp_path / "sensitivity.csv"
    path.write_text(
        "roi,feature,parameter,baseline,setting,n,change,median_change,q1_change,q3_change,spearman,concordance\n"
        "tumour,original_glcm_Contrast,bin_width,25,10,22,relative,5.25,5.0,5.5,0.95,0.11\n"
    )
    again = replace(results, inputs={**results.inputs, "tables/sensitivity.csv": path}, out=tmp_path / "again")
    build_report(again)
    page = (again.out / "report.html").read_text()
    assert 'id="sensitivity"' in page
    assert "525 % (500 % to 550 %)" in page


def test_voxel_maps_are_shown_where_they_were_asked_for(results: CohortTask, tmp_path: Path) -> None:
    picture = tmp_path / "voxel_maps.png"
    Image.new("P", (5, 5), 3).save(picture)
    entry = Entry("ok", "", "", {}, [], {"voxel_maps.png": picture, "tumour_x.nii.gz": picture})
    maps = {"c7": entry, "c3": entry, "c4": Entry("ok", "", "", {}, [], {})}
    build_report(replace(results, entries={**results.entries, "voxel_maps": maps}))
    page = (results.out / "report.html").read_text()
    assert page.index("Voxel maps of case c3") < page.index("Voxel maps of case c7")
    assert "Voxel maps of case c4" not in page


def test_further_extractions_are_documented(results: CohortTask, tmp_path: Path) -> None:
    raw = pd.read_parquet(results.inputs["tables/features_raw.parquet"])
    further = {
        f"tables/features_raw_fine.{kind}": tmp_path / f"features_raw_fine.{kind}" for kind in ("csv", "parquet")
    }
    fine = raw[["case_id", "patient_id", "centre", "roi", "original_glcm_Contrast"]]
    fine.to_csv(tmp_path / "features_raw_fine.csv", index=False)
    fine.to_parquet(tmp_path / "features_raw_fine.parquet")
    exclusions = pd.read_csv(results.inputs["tables/exclusions.csv"], dtype=str, keep_default_na=False)
    exclusions.insert(3, "extraction", "")
    exclusions.loc[len(exclusions)] = ["c2", "A", "", "fine", "extract", "no ROI in range", "check the range"]
    exclusions.to_csv(results.inputs["tables/exclusions.csv"], index=False)
    params = results.params | {"model": {**results.params["model"], "extraction": "portal"}}
    page = _page(replace(results, params=params, inputs={**results.inputs, **further}))
    assert "fine (features_raw_fine)" in _section(page, "summary")
    assert "portal" in _section(page, "summary")
    section = _section(page, "exclusions")
    assert "2 cases were excluded" in section
    assert "1 row of the list is of further extractions alone." in section
    assert "no ROI in range" in section
    files = _section(page, "tables")
    assert "Features of the extraction fine as extracted" in files
    assert "Models start from these. Of the extraction portal." in files

    out = results.out / "tables"
    codebook = list(csv.DictReader((out / "codebook.csv").open()))
    (contrast,) = [r for r in codebook if (r["table"], r["column"]) == ("features_raw_fine", "original_glcm_Contrast")]
    assert (contrast["class"], contrast["ibsi_tag"]) == ("glcm", "cm_contrast")
    described = {row["column"]: row["meaning"] for row in codebook if row["table"] == "exclusions"}
    assert described["extraction"].startswith("Extraction from which it is excluded")
    assert all(row["meaning"] for row in codebook if row["table"] == "features_raw_fine")
    package = json.loads((out / "datapackage.json").read_text())
    resource = next(r for r in package["resources"] if r["name"] == "features_raw_fine")
    assert resource["schema"]["primaryKey"] == ["case_id", "roi"]
    assert resource["schema"]["foreignKeys"][0]["reference"]["resource"] == "cohort"
    order = [r["path"] for r in package["resources"] if r["path"].endswith(".csv")]
    assert order.index("features_raw.csv") + 1 == order.index("features_raw_fine.csv")
    assert 'features_raw_fine <- read_table("features_raw_fine.csv"' in (out / "import.R").read_text()
