"""The optional step: what it computes of a finished run, what it leaves alone, and when it needs volumes again."""

import csv
from pathlib import Path

import yaml
from harness import CASES, IMAGING, Workspace

from radloom.sensitivity import read_keyed

OWN = {("sensitivity", case) for case in CASES} | {("sensitivity_table", "cohort"), ("report", "cohort")}
VOLUMES = {(step, case) for step in IMAGING[:4] for case in CASES}


def volumes(workspace: Workspace) -> list[Path]:
    return sorted(workspace.results.glob("cases/*/[icrs]*/*.nii.gz"))


def test_it_is_computed_on_top_of_a_run_and_leaves_nothing_when_it_is_off(workspace: Workspace) -> None:
    before = workspace.tables()
    workspace.set("sensitivity", bin_widths=[25, 10], spacings=[[1, 1, 1], [2, 2, 2]])
    assert workspace.run(whole=True) == OWN
    after = workspace.tables()
    assert {name for name in after if after[name] != before.get(name)} == {
        *("sensitivity.csv", "checklist.csv", "codebook.csv", "datapackage.json", "import.R")
    }
    rows = list(csv.DictReader((workspace.results / "tables/sensitivity.csv").read_text().splitlines()))
    # The run's own settings are the baseline, and no row.
    assert [(r["feature"], r["parameter"], r["baseline"], r["setting"]) for r in rows] == [
        ("original_shape_MeshVolume", "bin_width", "25", "10"),
        ("original_firstorder_Mean", "bin_width", "25", "10"),
        ("original_firstorder_Entropy", "bin_width", "25", "10"),
        ("original_shape_MeshVolume", "spacing", "1 x 1 x 1", "2 x 2 x 2"),
        ("original_firstorder_Mean", "spacing", "1 x 1 x 1", "2 x 2 x 2"),
        ("original_firstorder_Entropy", "spacing", "1 x 1 x 1", "2 x 2 x 2"),
    ]
    assert [r["n"] for r in rows] == ["5"] * 6
    assert [float(r["median_change"]) for r in rows[:2]] == [0, 0]
    assert float(rows[2]["median_change"]) > 0.1
    assert 'id="sensitivity"' in (workspace.results / "report.html").read_text()
    assert workspace.run(whole=True) == set()

    workspace.set("calibrate", air_tolerance=60)
    assert workspace.run(until={"sensitivity_table"}) == {("calibrate", case) for case in CASES}

    workspace.set("calibrate", air_tolerance=50)
    workspace.set("sensitivity", bin_widths=[], spacings=[])
    workspace.run(whole=True)
    assert workspace.tables() == before
    assert 'id="sensitivity"' not in (workspace.results / "report.html").read_text()


def test_a_dry_run_keeps_the_tables_of_what_is_turned_off(workspace: Workspace) -> None:
    workspace.set("sensitivity", bin_widths=[10])
    assert workspace.run_command().returncode == 0
    made = workspace.tables()
    assert "sensitivity.csv" in made
    workspace.set("sensitivity", bin_widths=[])
    looked = workspace.run_command("-n")
    assert looked.returncode == 0, looked.stderr
    assert workspace.tables() == made
    assert workspace.run_command().returncode == 0
    assert "sensitivity.csv" not in workspace.tables()


def test_its_numbers_are_those_of_a_run_with_that_setting(workspace: Workspace) -> None:
    workspace.set("sensitivity", bin_widths=[10])
    workspace.run(until={"sensitivity"})
    varied = {
        case: read_keyed(workspace.results / f"cases/{case}/sensitivity/features.csv", 3)[1]["ROI", "bin_width", "10"]
        for case in CASES
    }
    parameters = yaml.safe_load((workspace.folder / "features.yaml").read_text())
    parameters["setting"]["binWidth"] = 10
    (workspace.folder / "features.yaml").write_text(yaml.safe_dump(parameters))
    workspace.run()
    for case, values in varied.items():
        _, rows = read_keyed(workspace.results / f"cases/{case}/extract/features.csv", 1)
        assert rows[("ROI",)] == values


def test_tidied_volumes_come_back_for_it_once(workspace: Workspace) -> None:
    workspace.config["keep"] = "final"
    workspace.run(whole=True)
    assert volumes(workspace) == []
    assert workspace.run(whole=True) == set()
    workspace.set("sensitivity", spacings=[[2, 2, 2]])
    assert workspace.run(whole=True) == VOLUMES | OWN
    assert volumes(workspace) == []
    assert workspace.run(whole=True) == set()
