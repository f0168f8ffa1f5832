"""The last lines of a run."""

from pathlib import Path

from radloom.engine.files import write_json
from radloom.engine.summary import count_cases, summary


def manifest(results: Path, step: str, chunk: str, **statuses: str) -> None:
    cases = [{"case_id": case, "status": status} for case, status in statuses.items()]
    write_json(results / "manifests" / step / f"{chunk}.json", {"cases": cases})


def test_cases_are_counted_where_they_ended(tmp_path: Path) -> None:
    manifest(tmp_path, "ingest", "A_0001", p1="ok", p2="excluded")
    manifest(tmp_path, "ingest", "B_0001", p3="ok")
    manifest(tmp_path, "extract", "A_0001", p1="ok", p2="skipped")
    manifest(tmp_path, "extract", "B_0001", p3="excluded")
    included, excluded = count_cases(tmp_path)
    assert included == 1
    assert dict(excluded) == {"ingest": 1, "extract": 1}
    assert "1 in the feature table, 2 excluded (ingest 1, extract 1" in summary(tmp_path)


def test_a_case_without_the_main_extraction_is_not_in_the_feature_table(tmp_path: Path) -> None:
    facts = {"extractions": {"a": {"reason": "too few voxels", "advice": ""}, "b": {"rois": {}, "excluded_rois": []}}}
    cases = [{"case_id": "p1", "status": "ok", "facts": facts}]
    write_json(tmp_path / "manifests" / "extract" / "A_0001.json", {"cases": cases})
    for main, expected in (("a", (0, {"extract": 1})), ("b", (1, {}))):
        write_json(tmp_path / "plan" / "tables" / "cohort.json", {"params": {"model": {"extraction": main}}})
        included, excluded = count_cases(tmp_path)
        assert (included, dict(excluded)) == expected


def test_a_run_from_the_tables_names_the_report_alone(tmp_path: Path) -> None:
    assert summary(tmp_path).splitlines()[0].startswith("report:")
