"""Derived ROIs and several extractions through the whole chain: tables, what a change computes, and the way back."""

import io

import pandas as pd
from harness import CASES, IMAGING, Workspace

COHORT = {(step, "cohort") for step in ("tables", "harmonize", "report")}
EXTRACT = {("extract", case) for case in CASES}
TABLES = {("tables", "cohort")}


def table(workspace: Workspace, name: str) -> pd.DataFrame:
    return pd.read_csv(io.BytesIO(workspace.tables()[f"{name}.csv"]), keep_default_na=False)


def test_derived_rois_and_two_extractions(workspace: Workspace) -> None:
    before = workspace.tables()
    fine = workspace.folder / "fine.yaml"
    fine.write_text("imageType: {Original: {}}\nsetting: {binWidth: 5}\nfeatureClass: {firstorder: [Entropy]}\n")
    derived = {
        "rim": {"shell": {"of": "ROI", "outer_mm": 2}},
        "inside": {"core": {"of": 1, "depth_mm": 2}},
        "lesion": {"each": {"of": "ROI"}},
        "nothing": {"intersection": ["rim", "inside"]},
    }
    workspace.set("extract", params={"coarse": "features.yaml", "fine": "fine.yaml"}, derived_rois=derived)
    workspace.set("model", roi="rim")
    assert workspace.run(whole=True) == EXTRACT | COHORT

    rows = table(workspace, "features_raw").set_index(["case_id", "roi"])
    rois = ["ROI", "inside", "lesion_1", "rim"]
    assert list(rows.index) == [(case, roi) for case in CASES for roi in rois]
    for case in CASES:
        volume = rows.loc[case]["original_shape_MeshVolume"]
        # One component: it is the ROI. A ball of about 5 mm, and 2 mm more or less.
        assert volume["lesion_1"] == volume["ROI"]
        assert volume["inside"] < 0.4 * volume["ROI"]
        assert 1.2 < volume["rim"] / volume["ROI"] < 2.5
        # The rim is fat, the inside is tumour.
        mean = rows.loc[case]["original_firstorder_Mean"]
        assert mean["rim"] < 0 < mean["inside"]
    old = pd.read_csv(io.BytesIO(before["features_raw.csv"]))
    assert rows.xs("ROI", level="roi")["original_firstorder_Mean"].tolist() == old["original_firstorder_Mean"].tolist()
    other = table(workspace, "features_raw_fine").set_index(["case_id", "roi"])
    assert list(other.index) == list(rows.index)
    assert list(other.columns) == ["patient_id", "centre", "original_firstorder_Entropy"]
    assert (other["original_firstorder_Entropy"] > rows["original_firstorder_Entropy"]).all(), "narrower bins"
    exclusions = table(workspace, "exclusions")
    assert set(exclusions["roi"]) == {"nothing"}
    assert exclusions["extraction"].tolist() == ["coarse", "fine"] * len(CASES)
    assert set(table(workspace, "features_harmonized")["roi"]) <= set(rois)
    assert set(table(workspace, "codebook")["table"]) >= {"features_raw", "features_raw_fine"}
    page = (workspace.results / "report.html").read_text()
    assert "features_raw_fine" in page
    assert "rim" in page

    # Another bin width of the further extraction: the main table comes out identical, and the statistics stop there.
    fine.write_text(fine.read_text().replace("binWidth: 5", "binWidth: 2"))
    assert workspace.run(until={"harmonize"}) == EXTRACT | TABLES
    finer = table(workspace, "features_raw_fine").set_index(["case_id", "roi"])
    assert (finer["original_firstorder_Entropy"] > other["original_firstorder_Entropy"]).all()
    assert workspace.run(until={"harmonize"}) == set()

    # The main one changes places: nothing is extracted again.
    workspace.set("model", extraction="fine")
    assert workspace.run(until={"harmonize"}) == TABLES | {("harmonize", "cohort")}
    assert table(workspace, "features_raw").set_index(["case_id", "roi"]).equals(finer)
    assert "features_raw_coarse.parquet" in workspace.tables()
    assert "features_raw_fine.csv" not in workspace.tables()

    # And back to one parameter file: the same files as at first, bit for bit, and none that is left over.
    workspace.config["extract"] = {"params": "features.yaml"}
    del workspace.config["model"]
    assert workspace.run(whole=True) == EXTRACT | COHORT
    assert workspace.tables() == before
    extracted = {path.name for path in workspace.results.glob("cases/*/extract/*")}
    assert extracted == {"features.csv", "record.json"}
    assert {path.parent.name for path in workspace.results.glob("cases/a1/*/record.json")} == set(IMAGING)
