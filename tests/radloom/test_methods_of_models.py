"""The methods text of models that were really fitted: what it says is what their tables hold."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from run_material import features_elsewhere
from statistics_cohort import cohort_tables, configuration

from radloom.methods_text import methods_markdown
from radloom.model_cox import model_cox
from radloom.model_logistic import model_logistic
from radloom.model_tables import MODEL_TABLES
from radloom.modelling import ModelTables, write_model
from radloom.report import join_model_tables
from radloom.run_facts import RunFacts


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The text's paragraphs by heading, of a Cox and a logistic model with everything on."""
    tables = cohort_tables(n=160, centres=4, seed=5)
    died = tables.patients["died"].astype(int)
    other = np.where((died == 0) & (np.arange(len(died)) % 5 == 0), "1", "0")
    tables = replace(tables, patients=tables.patients.assign(other=other))
    tables.patients.loc["P002", "age"] = np.nan
    params = configuration(
        analysis_plan__covariates=["age", "sex"],
        analysis_plan__competing_event="other",
        analysis_plan__subgroups=["sex"],
        analysis_plan__strata=["kernel"],
        analysis_plan__test_set={"column": "centre", "value": "C3"},
        analysis_plan__open_test_set=True,
        model__transformation="signed_log",
        model__max_terms=6,
        model__bootstraps=30,
        model__refits=2,
        model_logistic__recalibration="platt",
        harmonize__new_batch="adapt",
    )
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, ModelTables] = {"cox": model_cox(tables, params), "logistic": model_logistic(tables, params)}
    inputs = {}
    for name, model in made.items():
        write_model(folder / name, model)
        inputs |= {f"models/{name}/{path.name}": path for path in sorted((folder / name).iterdir())}
    joined = {name: join_model_tables(inputs, name) for name in MODEL_TABLES}
    ids = tables.features[["case_id", "patient_id", "centre", "roi"]]
    cohort = ids.drop(columns="roi").assign(status="included", n_rois="1")
    material = replace(
        features_elsewhere(),
        params=params,
        cohort=cohort.merge(tables.cases.reset_index(), on="case_id"),
        clinical=tables.patients.reset_index().fillna(""),
        features=tables.features,
        models={name: json.loads((folder / name / "model.json").read_text()) for name in made},
        **joined,
    )
    text = methods_markdown(RunFacts(material), "A cohort")
    parts = pd.Series(text.split("\n## ")[1:]).str.partition("\n\n")
    return dict(zip(parts[0], parts[2], strict=True))


def test_the_models_are_told_as_they_were_fitted(told: dict[str, str]) -> None:
    models = told["Models"]
    assert "Cause-specific Cox model of `days`, event `died` (120 of 160 included patients" in models
    assert "A competing event (`other`) ends the follow-up" in models
    assert "Aalen-Johansen estimates" in models
    assert "Predicted probabilities were recalibrated by slope and intercept" in models
    assert "the batch as stratum of the Cox model" in models
    assert "unpenalised indicators of the batch in the logistic model" in models
    assert "sign(x) log(1 + |x| / s)" in models
    assert "keeping the 6 features" in models
    assert "stratified by kernel" in models
    assert "Cox model of the competing event" in models
    assert "1 missing cell took the median" in models
    assert "Riley's criteria" in models
    assert "Wald" in models


def test_validation_is_told_as_it_was(told: dict[str, str]) -> None:
    validation = told["Validation"]
    assert "each of 3 centres was left out in turn" in validation
    assert "A locked test set (`centre` C3) was opened (Cox model: 40 cases; Logistic model: 40 cases)" in validation
    assert "in 2 bootstrap samples" in validation
    assert "ComBat estimated the batch's effect from these cases' own features" in validation
    assert "Performance was also estimated for each centre (C0, C1, C2)." in validation
    assert (
        "By group are also given discrimination, Brier scores and observed over expected risk: sex (F, M)."
        in validation
    )
    cox, _, logistic = validation.partition("The performance of the logistic model was measured by")
    # Absolute risks of a cause-specific model are not judged, probabilities are.
    assert "Brier score" not in cox.split("The performance of the Cox model")[1]
    for name in ("Brier score", "calibration slope", "integrated calibration index", "observed over expected risk"):
        assert name in logistic
    assert "random effects" in validation
    for lost in ("nan", "None"):
        assert lost not in validation.split()
