"""The description of a folder of tables is the same, however often it was written there before."""

from __future__ import annotations

import json
from pathlib import Path

from radloom.report import document_tables

DESCRIPTIONS = ("codebook.csv", "datapackage.json", "import.R")


def test_a_folder_that_was_described_before_is_described_the_same(tmp_path: Path) -> None:
    given, folder = tmp_path / "results", tmp_path / "out"
    given.mkdir()
    folder.mkdir()
    (given / "cohort.csv").write_text("case_id,patient_id,centre\na,a,A\n")
    (folder / "performance.csv").write_text("model,arm,split\ncox,clinical,cross-validation\n")
    inputs = {"tables/cohort.csv": given / "cohort.csv"}
    first = document_tables(inputs, folder)
    content = {name: (folder / name).read_bytes() for name in DESCRIPTIONS}
    assert document_tables(inputs, folder) == first
    assert {name: (folder / name).read_bytes() for name in DESCRIPTIONS} == content
    assert len(set(first)) == len(first)
    paths = [resource["path"] for resource in json.loads(content["datapackage.json"])["resources"]]
    assert sorted(paths) == ["codebook.csv", "cohort.csv", "performance.csv"]
