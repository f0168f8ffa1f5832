"""The quality gate in the whole workflow: a changed rule computes no figure again, and excludes what it says."""

import csv
import shutil
from pathlib import Path

from harness import CASES, Workspace

STATISTICS = {("tables", "cohort"), ("harmonize", "cohort"), ("report", "cohort")}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_changed_rule_runs_the_tables_alone(workspace: Workspace) -> None:
    tables = workspace.results / "tables"
    noise = {row["case_id"]: float(row["value"]) for row in rows(tables / "qc.csv") if row["item"] == "coverage_mm"}
    assert noise == dict.fromkeys(CASES, 28.0)
    assert not rows(tables / "exclusions.csv")
    volumes = {row["case_id"]: float(row["value"]) for row in rows(tables / "qc.csv") if row["item"] == "roi_volume_ml"}
    smallest = min(volumes, key=lambda case: volumes[case])
    largest = max(volumes, key=lambda case: volumes[case])
    assert volumes[smallest] <= volumes[largest]

    every = {"figure": "coverage_mm", "above": 20, "action": "warn"}
    workspace.set("quality", rules=[every])
    assert workspace.run(whole=True) <= STATISTICS
    warned = [row for row in rows(tables / "qc.csv") if row["step"] == "quality" and row["item"] == "warning"]
    assert [row["case_id"] for row in warned] == list(CASES)
    assert warned[0]["warning"] == "coverage is 28 mm, above 20 mm (coverage_mm)"
    assert "coverage is 28 mm, above 20 mm" in (workspace.results / "report.html").read_text()

    # One scan gets a hole of metal, and only it is computed again and then excluded.
    workspace.set("quality", rules=[every, {"figure": "metal_ml", "above": 0.01, "action": "exclude"}])
    assert workspace.run() <= STATISTICS
    assert not rows(tables / "exclusions.csv")
    from radloom.images import read_nifti, write_nifti

    # In a copy of its own: the sources are shared by all tests.
    place = Path(shutil.copy(workspace.row("a2")["image"], workspace.folder))
    workspace.row("a2")["image"] = str(place)
    scan = read_nifti(place)
    scan.array[5:8, 5:8, 5:8] = 3000
    write_nifti(place, scan)
    assert {case for step, case in workspace.run() if case != "cohort"} == {"a2"}
    (excluded,) = rows(tables / "exclusions.csv")
    assert (excluded["case_id"], excluded["roi"], excluded["step"]) == ("a2", "", "quality")
    assert excluded["reason"] == "volume of metal is 0.054 ml, above 0.01 ml (metal_ml)"
    assert excluded["way_out"].endswith("change the rule in quality: rules.")
    assert {row["case_id"] for row in rows(tables / "features_raw.csv")} == set(CASES) - {"a2"}
    status = {row["case_id"]: row["status"] for row in rows(tables / "cohort.csv")}
    assert status == {case: "excluded" if case == "a2" else "included" for case in CASES}
    workspace.set("quality", rules=[])
    assert workspace.run() <= STATISTICS
    assert not rows(tables / "exclusions.csv")
