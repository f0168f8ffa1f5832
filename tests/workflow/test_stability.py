"""Perturbations and repeats through the whole workflow: what is computed, what comes out, and what a rerun does."""

import csv
import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from harness import CASES, IMAGING, Workspace, write_case

from radloom.icc import icc_1_1, icc_2_1

COHORT = {("stability", "cohort"), ("report", "cohort")}
REPEATED = {"a1": "a1b", "a2": "a2b", "b1": "b1b"}


@pytest.fixture
def repeated(fresh: Callable[[], Workspace]) -> Workspace:
    """Five patients of two centres, three of them scanned twice, with two perturbations a case."""
    workspace = fresh()
    data = workspace.folder.parent / f"{workspace.folder.name}-data"
    for row in workspace.rows:
        row["patient_id"] = row["case_id"]
        row["repeat_id"] = "test"
    for seed, (first, second) in enumerate(REPEATED.items()):
        image, mask = write_case(data, second, list(CASES).index(first), radius=4.6 + 0.2 * seed)
        workspace.rows.append(
            {
                "case_id": second,
                "centre": CASES[first],
                "image": str(image),
                "mask": str(mask),
                "patient_id": first,
                "repeat_id": "retest",
            }
        )
    workspace.set("perturb", count=2)
    workspace.config["cases_per_job"] = 8
    return workspace


def stability(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(
        workspace.results / "tables" / "stability.csv", float_precision="round_trip", keep_default_na=False
    )


def perturbed(workspace: Workspace, cases: list[str], feature: str) -> np.ndarray:
    """Values (cases, perturbations, 1) of a feature, read without the code under test."""
    values = []
    for case in cases:
        with open(workspace.results / "cases" / case / "perturb" / "features.csv", newline="") as stream:
            values.append([float(row[feature]) for row in csv.DictReader(stream)])
    return np.array(values)[:, :, None]


@pytest.mark.slow
def test_perturbations_and_repeats(repeated: Workspace) -> None:
    everybody = [*CASES, *REPEATED.values()]
    computed = repeated.run(whole=True)
    wanted = {(step, case) for step in (*IMAGING, "perturb") for case in everybody}
    assert computed == wanted | COHORT | {("tables", "cohort"), ("harmonize", "cohort")}

    table = stability(repeated)
    chosen = table[(table["feature"] == "original_firstorder_Entropy")]
    found = {(row.source, row.icc, row.scope, row.centre): row for row in chosen.itertuples()}
    # Over perturbations each patient counts once, with the first scan.
    values = perturbed(repeated, list(CASES), "original_firstorder_Entropy")
    whole = found["perturbation", "ICC(1,1)", "all", ""]
    assert float(whole.estimate) == icc_1_1(values).estimate[0]
    assert (whole.n_cases, whole.n_repeats) == (5, 2)
    assert float(found["perturbation", "ICC(1,1)", "centre", "alpha"].estimate) == icc_1_1(values[:3]).estimate[0]
    # Over repeats the three patients who have two scans.
    features = pd.read_csv(
        repeated.results / "tables" / "features_raw.csv", float_precision="round_trip", index_col="case_id"
    )["original_firstorder_Entropy"]
    pairs = np.array([[features[first], features[second]] for first, second in REPEATED.items()])[:, :, None]
    agreed = found["repeats", "ICC(2,1)", "all", ""]
    assert float(agreed.ci_low) == icc_2_1(pairs).low[0]
    assert agreed.n_cases == 3
    assert found["repeats", "ICC(2,1)", "centre", "beta"].note == "fewer than 2 cases have all repeats"
    assert set(table["icc"]) == {"ICC(1,1)", "ICC(2,1)", "ICC(3,1)"}
    codebook = pd.read_csv(repeated.results / "tables" / "codebook.csv")
    described = codebook[codebook["table"] == "stability"]
    assert list(described["column"]) == list(table.columns)
    assert described["meaning"].notna().all()
    assert ">Stability of the features</h2>" in (repeated.results / "report.html").read_text()

    repeated.config["cases_per_job"] = 3
    assert repeated.run(whole=True) == set(), "the chunk decides nothing"
    before = perturbed(repeated, everybody, "original_firstorder_Entropy")
    repeated.set("perturb", count=3)
    assert repeated.run(until={"stability"}) == {("perturb", case) for case in everybody} | {("stability", "cohort")}
    after = perturbed(repeated, everybody, "original_firstorder_Entropy")
    np.testing.assert_array_equal(after[:, :2], before)

    repeated.set("perturb", count=0)
    assert repeated.run(whole=True) == COHORT, "real repeats alone"
    assert set(stability(repeated)["source"]) == {"repeats"}
    repeated.set("stability", repeats=False)
    assert repeated.run(whole=True) == {("report", "cohort")}
    assert not (repeated.results / "tables" / "stability.csv").exists()
    assert ">Stability of the features</h2>" not in (repeated.results / "report.html").read_text()


@pytest.mark.slow
def test_tidied_volumes_are_made_again_when_perturbations_are_asked_for(workspace: Workspace) -> None:
    workspace.config["keep"] = "final"
    workspace.run()
    image = workspace.results / "cases" / "a1" / "ingest" / "image.nii.gz"
    assert not image.exists()
    assert workspace.run() == set(), "a step that is left out needs no volumes"
    workspace.set("perturb", count=1)
    computed = workspace.run()
    assert {("perturb", case) for case in CASES} <= computed
    assert not {("extract", case) for case in CASES} & computed
    assert not image.exists()
    assert workspace.run() == set()


def test_repeats_of_a_patient_are_not_independent_cases_of_a_model(repeated: Workspace) -> None:
    """The models use the first scan of each patient, whatever the number of repeats."""
    from radloom.assembly import CohortTables, select_model_rows

    rows = [
        {"case_id": row["case_id"], "patient_id": row["patient_id"], "centre": row["centre"], "roi": "ROI", "f": 1.0}
        for row in repeated.rows
    ]
    problems: dict[str, list[str]] = {}
    chosen = select_model_rows(CohortTables(pd.DataFrame(rows), pd.DataFrame(), pd.DataFrame()), None, problems)
    assert list(chosen["case_id"]) == sorted(CASES)
    assert list(problems.values()) == [list(REPEATED.values())]
    assert not math.isnan(chosen["f"].sum())
