"""Every case ends up in the features or the exclusions, with every bit of its numbers."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from radloom.assembly import read_tables
from radloom.engine.step import CohortTask, Entry
from radloom.errors import CohortError
from radloom.table_entry import read_clinical, read_feature_table
from radloom.tables import FEATURE_PATH, build_tables, check_complete, collect_features, exclusion_rows

NASTY = [0.1 + 0.2, 1e-310, -0.0, 123456789.12345679, 2 / 3]
FACTS: dict[str, dict[str, Any]] = {
    "ingest": {
        "spacing": [0.9765625, 0.9765625, 3.27], "size": [64, 64, 20], "hu_min": -1000, "hu_max": 900,
        "format": "nifti",
        "dtype": "int16",
    },
    "resample": {"spacing": [1, 1, 1], "size": [62, 62, 65]},
    "calibrate": {"method": "phantom", "slope": 1.01, "intercept": 3.5, "air_hu": -998.5, "air_voxels": 1000},
    "segment": {"source": "mask", "voxels": {"tumour": 500, "liver": 9000}},
    "postprocess": {
        "volume_mm3": {"tumour": 480.0, "liver": 9000.0}, "change": {"tumour": 0.96, "liver": 1.0},
        "components": {"tumour": 1, "liver": 2},
    },
}  # fmt: skip


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _cohort(
    folder: Path, cases: list[dict[str, str]], excluded: dict[str, tuple[str, str]]
) -> dict[str, dict[str, Entry]]:
    """Entries of a cohort in which `excluded` names cases with (step, reason); every case has tumour and liver."""
    entries: dict[str, dict[str, Entry]] = {step: {} for step in (*FEATURE_PATH, "overlay")}
    for number, case in enumerate(cases):
        case_id = case["case_id"]
        status = "ok"
        for step in entries:
            if status != "ok":
                status = "skipped"
            elif excluded.get(case_id, ("", ""))[0] == step:
                status = "excluded"
            reason = excluded[case_id][1] if status == "excluded" else ""
            facts, files = (FACTS.get(step, {}) if status == "ok" else {}), {}
            if step == "extract" and status == "ok":
                files["features.csv"] = folder / f"{case_id}.csv"
                values = [NASTY[number % len(NASTY)], float(number)]
                files["features.csv"].write_text(f"roi,a,b\ntumour,{values[0]!r},{values[1]!r}\nliver,,{values[1]!r}\n")
                facts = {
                    "rois": {
                        "tumour": {"voxels": 480, "volume_mm3": 480.0},
                        "liver": {"voxels": 9, "volume_mm3": 9.0},
                    }
                }
            entries[step][case_id] = Entry(status, reason, "mend it" if reason else "", facts, [], files)
    return entries


@pytest.fixture
def cases() -> list[dict[str, str]]:
    return [
        {
            "case_id": f"c{i}",
            "patient_id": f"p{i // 2}",
            "centre": "AB"[i % 2],
            "scanner": f"s{i % 3}",
            "water_hu": "1",
        }
        for i in range(8)
    ]


def _task(folder: Path, cases: list[dict[str, str]], entries: Any, clinical: str = "", **params: Any) -> CohortTask:
    inputs = {}
    if clinical:
        inputs["clinical"] = folder / "clinical.tsv"
        inputs["clinical"].write_text(clinical)
    sections: dict[str, Any] = {"run": {"max_excluded_fraction": 0.5}, "tables": {"clinical_columns": []}}
    return CohortTask(sections | params, cases, entries, inputs, folder / "out")


def test_every_case_and_roi_is_in_exactly_one_table(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(
        tmp_path, cases, {"c1": ("ingest", "the mask is empty"), "c4": ("postprocess", "nothing is left")}
    )
    ok = entries["extract"]["c6"]
    ok.files["features.csv"].write_text("roi,a,b\ntumour,1.0,2.0\n")
    ok.facts.update(
        rois={"tumour": {"voxels": 1, "volume_mm3": 1.0}},
        excluded_rois=[{"roi": "liver", "reason": "9 voxels, at least 64 are needed", "advice": "check the mask"}],
    )
    result = build_tables(_task(tmp_path, cases, entries))

    out = tmp_path / "out/tables"
    features, exclusions, cohort = (_read(out / f"{n}.csv") for n in ("features_raw", "exclusions", "cohort"))
    assert exclusions.values.tolist() == [
        ["c1", "B", "", "ingest", "the mask is empty", "mend it"],
        ["c4", "A", "", "postprocess", "nothing is left", "mend it"],
        ["c6", "A", "liver", "extract", "9 voxels, at least 64 are needed", "check the mask"],
    ]
    assert features["case_id"].drop_duplicates().tolist() == ["c0", "c2", "c3", "c5", "c6", "c7"]
    pairs = list(zip(features["case_id"], features["roi"], strict=True))
    assert len(pairs) == len(set(pairs)) == 11
    assert ("c6", "liver") not in pairs
    assert list(cohort.columns) == ["case_id", "patient_id", "centre", "scanner", "status", "n_rois"]
    assert cohort["status"].tolist() == ["included", "excluded"] + ["included"] * 2 + ["excluded"] + ["included"] * 3
    assert cohort["n_rois"].tolist() == ["2", "0", "2", "2", "0", "2", "1", "2"]
    assert (result.facts["included"], result.facts["excluded"], result.facts["rows"]) == (6, 2, 11)


def test_features_are_bit_exact_in_csv_and_parquet(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    build_tables(_task(tmp_path, cases, _cohort(tmp_path, cases, {})))
    expected = np.array([NASTY[i % len(NASTY)] for i in range(8)])
    parquet = pd.read_parquet(tmp_path / "out/tables/features_raw.parquet")
    table = pd.read_csv(tmp_path / "out/tables/features_raw.csv", float_precision="round_trip")
    assert list(table.columns) == list(parquet.columns) == ["case_id", "patient_id", "centre", "roi", "a", "b"]
    for frame in (table, parquet):
        tumour = frame[frame["roi"] == "tumour"]["a"].to_numpy()
        assert tumour.tobytes() == expected.tobytes()
        assert frame[frame["roi"] == "liver"]["a"].isna().all()
    assert ",,0.0\n" in (tmp_path / "out/tables/features_raw.csv").read_text()


def test_columns_are_the_union_in_order_of_first_appearance(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    entries["extract"]["c1"].files["features.csv"].write_text("roi,b,z\ntumour,5.0,6.0\nliver,5.0,6.0\n")
    result = build_tables(_task(tmp_path, cases, entries))
    table = _read(tmp_path / "out/tables/features_raw.csv").set_index(["case_id", "roi"])
    assert list(table.columns) == ["patient_id", "centre", "a", "b", "z"]
    assert table.loc[("c1", "tumour"), ["a", "b", "z"]].tolist() == ["", "5.0", "6.0"]
    assert any("lack some of the 3 feature columns" in warning for warning in result.warnings)


def test_a_contradiction_of_the_manifests_is_a_bug_not_a_table(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    del entries["resample"]["c3"]
    with pytest.raises(RuntimeError, match="c3 is neither ok nor excluded after resample"):
        exclusion_rows(cases, entries)
    entries = _cohort(tmp_path, cases, {})
    entries["extract"]["c2"].files["features.csv"].write_text("roi,a,b\ntumour,1.0,2.0\n")
    with pytest.raises(RuntimeError, match=r"in neither.*c2.*liver"):
        build_tables(_task(tmp_path, cases, entries))


def test_a_case_in_both_tables_is_refused(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    table = collect_features(cases, entries, set())
    row = {"case_id": "c0", "centre": "A", "roi": "", "step": "ingest", "reason": "r", "way_out": "w"}
    with pytest.raises(RuntimeError, match="in the features and the exclusions"):
        check_complete(cases, [row], table, entries)


def test_too_many_exclusions_stop_with_reasons_and_cases(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    broken = {f"c{i}": ("ingest", "the mask is empty") for i in range(3)} | {
        "c3": ("extract", "flat"),
        "c4": ("extract", "flat"),
    }
    entries = _cohort(tmp_path, cases, broken)
    with pytest.raises(CohortError) as error:
        build_tables(_task(tmp_path, cases, entries))
    message = str(error.value)
    assert "5 of 8 cases are excluded (ingest 3, extract 2)" in message
    assert "ingest: the mask is empty (3: c0, c1, c2)" in message
    assert "extract: flat (2: c3, c4)" in message
    build_tables(_task(tmp_path, cases, entries, run={"max_excluded_fraction": 0.625}))

    everybody = _cohort(tmp_path, cases, {case["case_id"]: ("ingest", "unreadable") for case in cases})
    with pytest.raises(CohortError, match="no case is left"):
        build_tables(_task(tmp_path, cases, everybody, run={"max_excluded_fraction": 1}))


ACQUIRED = {"manufacturer": "Siemens", "kernel": "B30f", "kvp": 120.0, "slice_thickness": 3.27, "shifted_day": 10**12}


def _from_dicom(entries: dict[str, dict[str, Entry]], case_id: str, **changed: Any) -> None:
    facts = FACTS["ingest"] | {"acquisition": {**ACQUIRED, **changed}}
    entries["ingest"][case_id] = Entry("ok", "", "", facts, [], {})


def test_headers_and_the_sheet_make_the_acquisition(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    cases[2]["kernel"] = "B70s"
    cases[3]["kernel"] = "B40f"
    entries = _cohort(tmp_path, cases, {})
    for case_id in ("c0", "c2"):
        _from_dicom(entries, case_id)
    build_tables(_task(tmp_path, cases, entries))
    acquisition = _read(tmp_path / "out/tables/acquisition.csv").set_index("case_id")
    columns = ["manufacturer", "kernel", "kvp", "slice_thickness", "scan_day"]
    assert acquisition.loc["c0", columns].tolist() == ["Siemens", "B30f", "120", "3.27", "0"]
    assert acquisition.loc["c1", columns].tolist() == [""] * 5
    assert acquisition.loc["c2", columns].tolist() == ["Siemens", "B70s", "120", "3.27", "0"]
    assert acquisition.loc["c3", columns].tolist() == ["", "B40f", "", "", ""]
    qc = _read(tmp_path / "out/tables/qc.csv")
    told = qc[qc["step"] == "tables"]
    assert told["case_id"].tolist() == ["c2"]
    assert "kernel differs" in told["warning"].iloc[0]
    # Nobody named the columns, so they are in the acquisition table alone.
    assert "kernel" not in _read(tmp_path / "out/tables/cohort.csv")
    assert "1000000000000" not in (tmp_path / "out/tables/acquisition.csv").read_text()


def test_a_column_of_the_headers_can_be_the_batch(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    for number, case in enumerate(cases):
        _from_dicom(entries, case["case_id"], kvp=(100.0, 120.0)[number % 2])
    build_tables(_task(tmp_path, cases, entries, harmonize={"batch": ["kernel", "kvp"]}))
    cohort = _read(tmp_path / "out/tables/cohort.csv").set_index("case_id")
    assert set(cohort["kernel"]) == {"B30f"}
    assert cohort.loc[["c0", "c1"], "kvp"].tolist() == ["100", "120"]
    assert "manufacturer" not in cohort


def test_gaps_of_the_sheet_are_filled_and_a_whole_column_stays(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    for case in cases:
        case["manufacturer"] = "SIEMENS"
        case["kernel"] = "b30f"
    cases[0]["manufacturer"] = ""
    entries = _cohort(tmp_path, cases, {})
    for case in cases:
        _from_dicom(entries, case["case_id"])
    build_tables(_task(tmp_path, cases, entries, harmonize={"batch": ["manufacturer", "kernel"]}))
    cohort = _read(tmp_path / "out/tables/cohort.csv")
    assert set(cohort["manufacturer"]) == {"Siemens"}
    assert set(cohort["kernel"]) == {"b30f"}


def test_the_clinical_tables_own_column_is_not_filled(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    for case in cases:
        _from_dicom(entries, case["case_id"])
    clinical = "patient_id\tkernel\n" + "".join(f"p{number}\town\n" for number in range(4))
    build_tables(_task(tmp_path, cases, entries, clinical, harmonize={"batch": "kernel"}))
    assert "kernel" not in _read(tmp_path / "out/tables/cohort.csv")
    assert set(_read(tmp_path / "out/tables/clinical.csv")["kernel"]) == {"own"}


def test_acquisition_and_qc(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {"c1": ("ingest", "bad"), "c2": ("overlay", "the picture could not be drawn")})
    entries["calibrate"]["c3"] = Entry("ok", "", "", FACTS["calibrate"], ["air is at -870 HU"], {})
    build_tables(_task(tmp_path, cases, entries))
    acquisition = _read(tmp_path / "out/tables/acquisition.csv").set_index("case_id")
    assert "c1" not in acquisition.index
    assert acquisition.loc["c0", ["spacing_x", "spacing_z", "size_z", "resampled_size_z"]].tolist() == [
        "0.9765625", "3.27", "20", "65",
    ]  # fmt: skip
    assert acquisition.loc["c0", ["calibration_method", "calibration_slope", "air_hu"]].tolist() == [
        "phantom", "1.01", "-998.5",
    ]  # fmt: skip
    qc = _read(tmp_path / "out/tables/qc.csv")
    mine = qc[(qc["case_id"] == "c0") & (qc["roi"] == "liver")].set_index("item")["value"]
    assert mine.to_dict() == {
        "segmented_voxels": "9000", "volume_mm3": "9000.0", "volume_after_over_before": "1.0", "components": "2",
        "voxels": "9", "features_not_computed": "1",
    }  # fmt: skip
    warned = qc[qc["item"] == "warning"][["case_id", "step", "warning"]].values.tolist()
    assert warned == [
        ["c2", "overlay", "the picture could not be drawn"],
        ["c3", "calibrate", "air is at -870 HU"],
    ]


@pytest.mark.parametrize("sd", [1.5, None])
def test_every_calibration_has_the_same_items(tmp_path: Path, cases: list[dict[str, str]], sd: float | None) -> None:
    entries = _cohort(tmp_path, cases, {})
    at = {"sd_hu": {"-1000": 2.5, "0": sd}}
    told = {"source": "centre", **at, "tissue_hu": {"fat": -101.5, "muscle": None}}
    entries["calibrate"]["c0"] = Entry("ok", "", "", {**FACTS["calibrate"], **told}, [], {})
    none = {"method": "none", "source": "none", "slope": 1.0, "intercept": 0.0, "sd_hu": {"-1000": None, "0": None}}
    entries["calibrate"]["c2"] = Entry("ok", "", "", {**none, "air_hu": None, "observed_hu": {"fat": -90.0}}, [], {})
    figures = {"scan": {"slice_spacing_mm": 2.5}, "rois": {}, "voxels": "", "picture": "0" * 128}
    entries["quality"] = {case_id: Entry("ok", "", "", figures, [], {}) for case_id in ("c0", "c2")}
    build_tables(_task(tmp_path, cases, entries))
    qc = _read(tmp_path / "out/tables/qc.csv")
    found = {case: part.set_index("item")["value"].to_dict() for case, part in qc.groupby("case_id")}
    told = {
        case: {item: v for item, v in own.items() if item.startswith("calibration_")} for case, own in found.items()
    }
    items = ["calibration_source", "calibration_slope", "calibration_intercept"]
    items += ["calibration_sd_at_-1000_hu", "calibration_sd_at_0_hu"]
    assert told["c0"] == dict(zip(items, ["", "1.01", "3.5", "2.5", "" if sd is None else "1.5"], strict=True))
    assert told["c2"] == dict(zip(items[1:], ["1.0", "0.0", "", ""], strict=True))
    sources = qc[qc["item"] == "calibration_source"]
    assert sources[["case_id", "warning"]].values.tolist() == [["c0", "centre"]]
    # Air, fat and muscle once, as figures of the quality gate.
    assert [found["c0"][f"hu_{name}"] for name in ("air", "fat", "muscle")] == ["-998.5", "-101.5", ""]
    assert found["c2"]["observed_fat_hu"] == "-90.0"
    assert not set(qc["item"]) & {"air_hu", "fat_hu", "muscle_hu"}


def test_scores_of_samples_are_qc_items_and_stay_empty_where_there_are_none(
    tmp_path: Path, cases: list[dict[str, str]]
) -> None:
    entries = _cohort(tmp_path, cases, {})
    known = {"volume_ml": 9.0, "volume_sd_ml": 0.9, "volume_cv": 0.1, "pairwise_dice": 0.95, "epistemic": 0.01}
    scores = {"liver": known, "tumour": dict.fromkeys(known, None) | {"volume_ml": 0.0}}
    entries["segment"]["c3"] = Entry("ok", "", "", {**FACTS["segment"], "uncertainty": scores}, [], {})
    build_tables(_task(tmp_path, cases, entries))
    qc = _read(tmp_path / "out/tables/qc.csv")
    sampled = qc[qc["item"].str.startswith("segmentation_")]
    assert set(sampled["case_id"]) == {"c3"}
    assert sampled[["roi", "step", "item", "value"]].values.tolist() == [
        ["liver", "segment", "segmentation_pairwise_dice", "0.95"],
        ["liver", "segment", "segmentation_volume_cv", "0.1"],
        ["liver", "segment", "segmentation_volume_ml", "9.0"],
        ["liver", "segment", "segmentation_volume_sd_ml", "0.9"],
        ["liver", "segment", "segmentation_epistemic", "0.01"],
        ["tumour", "segment", "segmentation_pairwise_dice", ""],
        ["tumour", "segment", "segmentation_volume_cv", ""],
        ["tumour", "segment", "segmentation_volume_ml", "0.0"],
        ["tumour", "segment", "segmentation_volume_sd_ml", ""],
        ["tumour", "segment", "segmentation_epistemic", ""],
    ]


def test_clinical_table_keeps_only_configured_columns_and_misses_nobody_silently(
    tmp_path: Path, cases: list[dict[str, str]]
) -> None:
    clinical = "patient_id\tage\tname\tos\tdied\np0\t61\tJane Roe\t100.5\t1\np2\tNA\tJohn Roe\t20\t0\np9\t1\tX\t1\t1\n"
    task = _task(
        tmp_path, cases, _cohort(tmp_path, cases, {}), clinical,
        analysis_plan={"covariates": ["age"], "time": "os", "event": "died"},
        harmonize={"batch": "scanner", "covariates": []},
    )  # fmt: skip
    result = build_tables(task)
    assert (tmp_path / "out/tables/clinical.csv").read_text() == "patient_id,age,os,died\np0,61,100.5,1\np2,,20,0\n"
    assert any("2 patients have no row" in w and "p1, p3" in w for w in result.warnings)
    qc = _read(tmp_path / "out/tables/qc.csv")
    assert qc[qc["step"] == "tables"]["case_id"].tolist() == ["c2", "c3", "c6", "c7"]
    written = "".join(path.read_text() for path in (tmp_path / "out/tables").glob("*.csv"))
    assert "Roe" not in written


def test_missing_columns_and_contradictions_are_named_together(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    clinical = "case_id,age,scanner\n" + "".join(f"c{i},{i},s0\n" for i in range(8))
    task = _task(
        tmp_path, cases, _cohort(tmp_path, cases, {}), clinical.replace(",", "\t"),
        analysis_plan={"covariates": ["aeg"], "outcome": "meta"}, harmonize={"batch": "scanner"},
    )  # fmt: skip
    with pytest.raises(CohortError) as error:
        build_tables(task)
    message = str(error.value)
    assert "column 'aeg' (analysis_plan.covariates) is neither" in message
    assert "did you mean 'age'?" in message
    assert "'meta' (analysis_plan.outcome)" in message
    assert "case c1: column 'scanner' differs" in message
    # Two cases of one patient, two ages: which one would be the patient's?
    task = _task(
        tmp_path,
        cases,
        _cohort(tmp_path, cases, {}),
        clinical.replace(",", "\t"),
        analysis_plan={"covariates": ["age"]},
    )
    with pytest.raises(CohortError, match="patient p0: the rows of the patient's cases differ"):
        build_tables(task)


def test_clinical_duplicates_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "clinical.csv"
    path.write_text("patient_id,age\np0,1\np1,2\np0,3\n,4\n")
    with pytest.raises(CohortError) as error:
        read_clinical(path)
    assert "lines 2, 4" in str(error.value)
    assert "line 5: patient_id is empty" in str(error.value)


def test_feature_table_made_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "features.tsv.gz"
    path.write_bytes(
        gzip.compress(
            b"case_id\tcenter\troi\tscanner\tdiagnostics_Versions\tElongation.original\tx\n"
            b"c1\tB\ta\ts1\tv3\t0.1\t7\nc1\tB\tb\ts1\tv3\tNaN\t8\nc0\tA\ta\ts2\tv3\t\t9\n"
        )
    )
    task = CohortTask({"harmonize": {"batch": "scanner"}}, [], {}, {"features": path}, tmp_path / "out")
    result = build_tables(task)
    out = tmp_path / "out/tables"
    assert (out / "features_raw.csv").read_text() == (
        "case_id,patient_id,centre,roi,Elongation.original,x\nc1,c1,B,a,0.1,7.0\nc1,c1,B,b,,8.0\nc0,c0,A,a,,9.0\n"
    )
    assert (out / "cohort.csv").read_text() == (
        "case_id,patient_id,centre,scanner,status,n_rois\nc1,c1,B,s1,included,2\nc0,c0,A,s2,included,1\n"
    )
    for name in ("exclusions", "acquisition"):
        assert len((out / f"{name}.csv").read_text().splitlines()) == 1
    assert any("diagnostics_" in warning for warning in result.warnings)

    parquet = tmp_path / "features.parquet"
    pd.read_csv(path, sep="\t").to_parquet(parquet)
    same = read_feature_table(parquet, None, ["scanner"])
    np.testing.assert_array_equal(same.values, [[0.1, 7], [math.nan, 8], [math.nan, 9]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case_id,centre,x\nc1,A,1\nc2,A,tall\n", "line 3, case c2: column 'x' is not a finite number"),
        ("case_id,centre,x\nc1,A,inf\n", "line 2, case c1: column 'x' is not a finite number"),
        ("case_id,centre,x\nc1,A,1_000\n", "line 2, case c1: column 'x' is not a finite number"),
        ("case_id,centre,x\nc1,A,1\nc2,A,2\nc1,A,3\n", "lines 2 and 4: case c1, ROI ROI appears twice"),
        ("case_id,centre,x\nc1,A-1,1\nc2,a1,2\n", "line 3: case c2: centre a1 is elsewhere written A-1"),
        ("case_id,centre,x\nc1,,1\n", "line 2: case c1 has no centre"),
        (
            "case_id,centre,roi,x\nc1,A,a,1\nc1,B,b,1\n",
            "line 3: case c1: centre differs from the case's first row",
        ),
        ("case_id,centre,x\nJane Roe,A,1\n", "line 2: case_id, patient_id is not a letter or digit"),
        ("case_id,centre,x,x\nc1,A,1,2\n", "column 'x' appears twice"),
        ("case_id,centre,x\nc1,A\n", "line 2: 2 cells, the header has 3"),
        ("case_id,x\nc1,1\n", "neither the feature table nor the clinical table has a column 'centre'"),
        ("case,centre,x\nc1,A,1\n", "no column 'case_id'"),
        ("case_id,centre\nc1,A\n", "has no feature"),
        ("case_id,centre,x\n", "has no rows"),
    ],
)
def test_bad_feature_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "features.csv"
    path.write_text(text)
    with pytest.raises(CohortError) as error:
        read_feature_table(path, None)
    assert message in str(error.value)
    assert "Roe" not in str(error.value)


def test_a_feature_that_is_a_clinical_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("case_id,centre,x,died,days\nc1,A,1,0,5\nc2,A,2,1,6\n")
    (tmp_path / "c.csv").write_text("case_id,died,days,age\nc1,0,5,50\nc2,1,6,60\n")
    clinical = read_clinical(tmp_path / "c.csv")
    with pytest.raises(CohortError, match="both in the feature table and in the clinical table: died, days"):
        read_feature_table(tmp_path / "f.csv", clinical)
    with pytest.raises(CohortError, match="clinical table: days"):
        read_feature_table(tmp_path / "f.csv", clinical, ["died"])
    assert read_feature_table(tmp_path / "f.csv", clinical, ["died", "days"]).features == ["x"]


def test_real_table_of_two_centres(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "tables/hn_two_centres"
    params = {
        "tables": {"clinical_columns": ["hpv_p16"]}, "harmonize": {"batch": "centre", "covariates": ["age", "sex"]},
        "analysis_plan": {"time": "os_days", "event": "os_event"},
    }  # fmt: skip
    inputs = {"features": folder / "features.csv.gz", "clinical": folder / "clinical.csv"}
    result = build_tables(CohortTask(params, [], {}, inputs, tmp_path))
    assert (result.facts["cases"], result.facts["features"], result.facts["rois"]) == (469, 797, ["ROI"])
    assert not result.warnings
    source = pd.read_csv(folder / "features.csv.gz", float_precision="round_trip")
    ours = pd.read_parquet(tmp_path / "tables/features_raw.parquet")
    assert ours["case_id"].tolist() == source["case_id"].tolist()
    np.testing.assert_array_equal(ours.iloc[:, 4:].to_numpy(), source.iloc[:, 1:].to_numpy(dtype=float))
    assert sorted(ours["centre"].unique()) == sorted(pd.read_csv(folder / "clinical.csv")["center"].unique())
    clinical = _read(tmp_path / "tables/clinical.csv")
    assert list(clinical.columns) == ["patient_id", "age", "sex", "os_days", "os_event", "hpv_p16"]


def test_derived_rois_are_rows_like_any_other(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {})
    for number, case in enumerate(cases):
        entry = entries["extract"][case["case_id"]]
        lesions = [f"lesion_{n}" for n in range(1, 2 + number % 3)]
        rois = ["tumour", "rim", *lesions] if number else ["tumour", *lesions]
        entry.files["features.csv"].write_text("roi,a\n" + "".join(f"{roi},{number}.5\n" for roi in rois))
        missing = {"roi": "rim", "reason": "no voxel outside tumour lies that near", "advice": "check rim"}
        facts = {roi: {"voxels": 480 + number, "volume_mm3": 48.5} for roi in rois}
        entry.facts.update(rois=facts, excluded_rois=[] if number else [missing])
    result = build_tables(_task(tmp_path, cases, entries, model={"roi": "rim"}))
    assert result.facts["rois"] == ["tumour", "lesion_1", "rim", "lesion_2", "lesion_3"]
    out = tmp_path / "out/tables"
    features, exclusions, qc = (_read(out / f"{name}.csv") for name in ("features_raw", "exclusions", "qc"))
    assert features["roi"].value_counts().to_dict() == {
        "tumour": 8, "rim": 7, "lesion_1": 8, "lesion_2": 5, "lesion_3": 2,
    }  # fmt: skip
    assert exclusions[["case_id", "roi", "step"]].values.tolist() == [["c0", "rim", "extract"]]
    assert _read(out / "cohort.csv")["n_rois"].tolist()[:4] == ["2", "4", "5", "3"]
    rim = qc[(qc["case_id"] == "c1") & (qc["roi"] == "rim")].set_index("item")["value"].to_dict()
    assert rim == {"voxels": "481", "volume_mm3": "48.5", "features_not_computed": "0"}
    tumour = qc[(qc["case_id"] == "c1") & (qc["roi"] == "tumour") & (qc["item"] == "volume_mm3")]
    assert tumour["step"].tolist() == ["postprocess"], "once"

    inputs = {f"tables/{path.name}": path for path in out.iterdir()}
    tables = read_tables(inputs)
    assert tables.of_roi("rim")["case_id"].tolist() == [f"c{i}" for i in range(1, 8)]
    assert tables.of_roi("lesion_3")["a"].tolist() == [2.5, 5.5]
    with pytest.raises(CohortError, match=r"model\.roi must say which ROI the models use"):
        tables.of_roi(None)


def test_each_extraction_has_its_table_and_its_exclusions(tmp_path: Path, cases: list[dict[str, str]]) -> None:
    entries = _cohort(tmp_path, cases, {"c1": ("ingest", "the mask is empty"), "c5": ("extract", "no ROI can be used")})
    few = {"roi": "liver", "reason": "few voxels", "advice": "a finer spacing"}
    for number, case in enumerate(cases):
        entry = entries["extract"][case["case_id"]]
        if entry.status != "ok":
            continue
        rois = entry.facts.pop("rois")
        facts: dict[str, Any] = {
            "portal": {"rois": rois, "excluded_rois": []},
            "fine": {"rois": {"tumour": rois["tumour"]}, "excluded_rois": [few]},
        }
        entry.files["features_portal.csv"] = entry.files.pop("features.csv")
        entry.files["features_fine.csv"] = tmp_path / f"{case['case_id']}-fine.csv"
        entry.files["features_fine.csv"].write_text(f"roi,b,c\ntumour,,{number}.25\n")
        for failed in {"c2": ("portal",), "c3": ("fine",)}.get(case["case_id"], ()):
            facts[failed] = {"reason": "no ROI in range", "advice": "check the range"}
            del entry.files[f"features_{failed}.csv"]
        entry.facts["extractions"] = facts
    run = {"max_excluded_fraction": 0.5, "extractions": ["portal", "fine"]}
    task = _task(tmp_path, cases, entries, run=run, model={"extraction": "portal"})
    result = build_tables(task)
    out = tmp_path / "out/tables"
    assert {path.name for path in out.glob("features_*")} == {
        "features_raw.csv", "features_raw.parquet", "features_raw_fine.csv", "features_raw_fine.parquet",
    }  # fmt: skip
    main, fine, exclusions, cohort, qc = (
        _read(out / f"{name}.csv") for name in ("features_raw", "features_raw_fine", "exclusions", "cohort", "qc")
    )
    assert list(main.columns)[4:] == ["a", "b"]
    assert list(fine.columns)[4:] == ["b", "c"]
    assert main["case_id"].drop_duplicates().tolist() == ["c0", "c3", "c4", "c6", "c7"]
    assert fine["case_id"].tolist() == ["c0", "c2", "c4", "c6", "c7"]
    assert fine["c"].tolist() == ["0.25", "2.25", "4.25", "6.25", "7.25"]
    columns = ["case_id", "roi", "extraction", "step", "reason"]
    assert exclusions[columns].values.tolist() == [
        ["c0", "liver", "fine", "extract", "few voxels"],
        ["c1", "", "", "ingest", "the mask is empty"],
        ["c2", "", "portal", "extract", "no ROI in range"],
        ["c2", "liver", "fine", "extract", "few voxels"],
        ["c3", "", "fine", "extract", "no ROI in range"],
        ["c4", "liver", "fine", "extract", "few voxels"],
        ["c5", "", "", "extract", "no ROI can be used"],
        ["c6", "liver", "fine", "extract", "few voxels"],
        ["c7", "liver", "fine", "extract", "few voxels"],
    ]
    excluded = [case == "excluded" for case in cohort["status"]]
    assert excluded == [False, True, True, False, False, True, False, False]
    empty = qc[qc["item"].str.startswith("features_not_computed") & (qc["case_id"] == "c0")]
    assert empty[["roi", "item", "value"]].values.tolist() == [
        ["tumour", "features_not_computed", "0"],
        ["liver", "features_not_computed", "1"],
        ["tumour", "features_not_computed_fine", "1"],
    ]
    assert result.facts["extractions"] == {"portal": {"rows": 10, "features": 2}, "fine": {"rows": 5, "features": 2}}
    assert (result.facts["included"], result.facts["features"]) == (5, 2)
    # The other one as the main one: its own exclusions count.
    build_tables(_task(tmp_path, cases, entries, run=run, model={"extraction": "fine"}))
    assert _read(out / "features_raw.csv").equals(fine)
    assert _read(out / "features_raw_portal.csv").equals(main)
    again = _read(out / "exclusions.csv")
    assert sorted(again.values.tolist()) == sorted(exclusions.values.tolist())
    strict = {**run, "max_excluded_fraction": 0.2}
    with pytest.raises(CohortError, match="extract: no ROI in range"):
        build_tables(_task(tmp_path, cases, entries, run=strict, model={"extraction": "portal"}))
