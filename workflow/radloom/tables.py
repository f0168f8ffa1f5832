"""Joins all cases into the tables for the statistician: cohort, clinical, features, exclusions, acquisition,
QC.

Every case, and every case x ROI, ends up in exactly one of the feature table and the exclusions.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from radloom import acquisition
from radloom.analysis_plan import columns_by_key
from radloom.cohort import HOUNSFIELD, is_missing
from radloom.engine.step import CohortResult, CohortTask, Entries, Entry, facts_of_case
from radloom.errors import CohortError
from radloom.extractions import facts_of, features_file, table_name
from radloom.quality_gate import STEP as GATE
from radloom.quality_gate import Finding, Gate, pass_gate
from radloom.table_entry import ID_COLUMNS, Clinical, FeatureTable, read_clinical, read_feature_table

FEATURE_PATH = ("ingest", "resample", "calibrate", "segment", "postprocess", "extract")
"""The steps that a case must pass to have features, in their order."""

NOT_IN_COHORT = frozenset({"image", "mask", "roi_name", *HOUNSFIELD, "status", "n_rois"})
EXCLUSION_COLUMNS = ["case_id", "centre", "roi", "step", "reason", "way_out"]
NAMED_EXCLUSION_COLUMNS = ["case_id", "centre", "roi", "extraction", "step", "reason", "way_out"]
"""With several extractions: from which one; empty for what is excluded from all of them."""
QC_COLUMNS = ["case_id", "centre", "roi", "step", "item", "value", "warning"]
UNCERTAINTY_ITEMS = ("pairwise_dice", "volume_cv", "volume_ml", "volume_sd_ml", "epistemic")
"""Scores of the samples of a net, as `segmentation_<item>`; empty where they can't be estimated."""
MATCHED = ("psf_fwhm_mm", "slice_thickness_mm", "matched_sigma_xy_mm", "matched_sigma_z_mm")
"""Facts of the step resample where the point spread or the slice thickness is matched."""
ACQUISITION_COLUMNS = [
    "case_id",
    "centre",
    "format",
    "dtype",
    *acquisition.NAMED,
    *(f"spacing_{axis}" for axis in "xyz"),
    *(f"size_{axis}" for axis in "xyz"),
    "hu_min",
    "hu_max",
    *(f"resampled_spacing_{axis}" for axis in "xyz"),
    *(f"resampled_size_{axis}" for axis in "xyz"),
    "calibration_method",
    "calibration_source",
    "calibration_slope",
    "calibration_intercept",
    "calibration_sd_hu",
    "air_hu",
    "air_voxels",
]
Row = dict[str, Any]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as CSV: UTF-8, comma, `\\n`; floats by repr, so that they read back bit-exact; None and NaN
    as empty cells.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: Any) -> str:
    """One value as the text of a cell; breaks of line become blanks, so that a row stays a line."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return repr(value) if isinstance(value, float) else " ".join(str(value).split())


def read_case_features(path: Path) -> tuple[list[str], list[str], np.ndarray]:
    """Read one case's features (header `roi,<feature>,...`): feature names, ROI names, values (ROIs,
    features), NaN if empty.
    """
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    values = [[float(cell) if cell else math.nan for cell in row[1:]] for row in rows]
    return (
        header[1:],
        [row[0] for row in rows],
        np.array(values, dtype=np.float64).reshape(len(rows), len(header) - 1),
    )


def exclusion_rows(
    cases: Sequence[Mapping[str, str]], entries: Entries, gated: Mapping[str, Finding] | None = None
) -> list[Row]:
    """Whole cases with the step that excluded them, and ROIs that the extraction excluded, in the order of
    the cohort sheet. `gated` are the cases that the quality gate excludes.

    Raises RuntimeError if a case has no entry for a step that it should have passed: the manifests
    contradict each other.
    """
    rows: list[Row] = []
    for case in cases:
        case_id, centre = case["case_id"], case["centre"]
        for step in FEATURE_PATH:
            entry = entries.get(step, {}).get(case_id)
            if entry is None or entry.status not in ("ok", "excluded"):
                raise RuntimeError(
                    f"case {case_id} is neither ok nor excluded after {step}, nor was it excluded before"
                )
            if entry.status == "excluded":
                rows.append(_exclusion(case_id, centre, "", step, entry.reason, entry.advice))
                break
        else:
            if gated and case_id in gated:
                rows.append(_exclusion(case_id, centre, "", GATE, gated[case_id].text, gated[case_id].advice))
                continue
            found = entries["extract"][case_id].facts.get("excluded_rois", [])
            rows += [
                _exclusion(case_id, centre, roi["roi"], "extract", roi["reason"], roi.get("advice", ""))
                for roi in found
            ]
    return rows


def of_extraction(entries: Entries, name: str) -> Entries:
    """The cases' entries as if the extraction `name` were the only one; with an empty name they are as they are."""
    if not name:
        return entries
    extracted = {case_id: _entry_of(entry, name) for case_id, entry in entries["extract"].items()}
    return {**entries, "extract": extracted}


def _entry_of(entry: Entry, name: str) -> Entry:
    if entry.status != "ok":
        return entry
    facts = dict(facts_of(entry.facts, name))
    if "reason" in facts:
        return replace(entry, status="excluded", reason=facts["reason"], advice=facts["advice"], facts={}, files={})
    return replace(entry, facts=facts, files={"features.csv": entry.files[features_file(name)]})


def name_extraction(rows: Sequence[Row], name: str, entries: Entries) -> list[Row]:
    """Exclusions with the column `extraction`, which stays empty where a case was excluded from all of them."""
    return [
        {
            **row,
            "extraction": name if entries["extract"][row["case_id"]].status == "ok" and row["step"] != GATE else "",
        }
        for row in rows
    ]


def _exclusion(case_id: str, centre: str, roi: str, step: str, reason: str, way_out: str) -> Row:
    return dict(zip(EXCLUSION_COLUMNS, (case_id, centre, roi, step, reason, way_out), strict=True))


def collect_features(cases: Sequence[Mapping[str, str]], entries: Entries, excluded: set[str]) -> FeatureTable:
    """Stack the features of all cases that are not excluded, in the order of the cohort sheet.

    The columns are those of the first case; one that only later cases have is appended, empty for the
    others, with a warning.
    """
    ids: list[dict[str, str]] = []
    parts: list[tuple[list[str], np.ndarray]] = []
    position: dict[str, int] = {}
    for case in cases:
        case_id = case["case_id"]
        if case_id in excluded:
            continue
        names, rois, values = read_case_features(entries["extract"][case_id].files["features.csv"])
        for name in names:
            position.setdefault(name, len(position))
        parts.append((names, values))
        ids += [
            {"case_id": case_id, "patient_id": _patient(case), "centre": case["centre"], "roi": roi} for roi in rois
        ]
    stacked = np.full((len(ids), len(position)), np.nan)
    start = 0
    ragged = 0
    for names, values in parts:
        stacked[start : start + len(values), [position[name] for name in names]] = values
        start += len(values)
        ragged += len(names) != len(position)
    warnings = []
    if ragged:
        warnings.append(f"{ragged} cases lack some of the {len(position)} feature columns; their cells are empty")
    return FeatureTable(ids, list(position), stacked, warnings)


def _patient(case: Mapping[str, str]) -> str:
    return case.get("patient_id") or case["case_id"]


def check_complete(
    cases: Sequence[Mapping[str, str]], exclusions: Sequence[Row], table: FeatureTable, entries: Entries
) -> None:
    """Raise RuntimeError unless every case and case x ROI is in exactly one of the feature table and the
    exclusions.
    """
    whole = {row["case_id"] for row in exclusions if not row["roi"]}
    out = {(row["case_id"], row["roi"]) for row in exclusions if row["roi"]}
    kept = [(row["case_id"], row["roi"]) for row in table.ids]
    with_features = {case_id for case_id, _ in kept}
    everybody = {case["case_id"] for case in cases}
    expected = {
        (case_id, roi)
        for case_id in everybody - whole
        for roi in entries.get("extract", {}).get(case_id, _NO_ENTRY).facts.get("rois", {})
    }
    wrong: dict[str, set[Any]] = {
        "listed twice": {pair for pair, n in Counter(kept).items() if n > 1} | (set(kept) & out),
        "in the features and the exclusions": with_features & whole,
        "in neither the features nor the exclusions": (everybody - with_features - whole) | (expected - set(kept)),
        "not of this cohort": (with_features | whole) - everybody,
    }
    found = "; ".join(f"{what}: {sorted(str(one) for one in which)[:5]}" for what, which in wrong.items() if which)
    if found:
        raise RuntimeError(f"the cases don't add up ({found})")


_NO_ENTRY = Entry("ok", "", "", {}, [], {})


def acquisition_rows(
    cases: Sequence[Mapping[str, str]], entries: Entries, acquired: Mapping[str, Mapping[str, Any]]
) -> list[Row]:
    """How every readable case was acquired (`acquired`, by case), resampled and calibrated: spacing in mm (x, y, z),
    size in voxels, HU.
    """
    rows: list[Row] = []
    for case in cases:
        entry = entries.get("ingest", {}).get(case["case_id"])
        if entry is None or entry.status != "ok":
            continue
        row: Row = {"case_id": case["case_id"], "centre": case["centre"]}
        row |= {name: entry.facts.get(name) for name in ("format", "dtype", "hu_min", "hu_max")}
        row |= {name: acquisition.cell(value) for name, value in acquired[case["case_id"]].items()}
        resampled = facts_of_case(entries, "resample", case["case_id"])
        for prefix, facts in (("", entry.facts), ("resampled_", resampled)):
            for name in ("spacing", "size"):
                values = facts.get(name) or (None, None, None)
                row |= {f"{prefix}{name}_{axis}": value for axis, value in zip("xyz", values, strict=True)}
        calibrated = facts_of_case(entries, "calibrate", case["case_id"])
        row |= {f"calibration_{name}": calibrated.get(name) for name in ("method", "source", "slope", "intercept")}
        row["calibration_sd_hu"] = calibrated.get("sd_hu", {}).get("0")
        row |= {name: calibrated.get(name) for name in ("air_hu", "air_voxels")}
        rows.append(row)
    return rows


def with_acquisition(
    cases: Sequence[Mapping[str, str]],
    acquired: Mapping[str, Mapping[str, Any]],
    filled: Collection[str],
    wanted: Collection[str],
) -> list[dict[str, str]]:
    """The cases with the columns of the acquisition table that the configuration names, so that they can be a batch.

    A column of the sheet without a gap stays as it was given. One that isn't there, or has gaps that headers fill, is
    the acquisition table's, so that one scanner isn't spelled in two ways. `wanted` are the named columns, `filled`
    those of them that headers may fill: the others are the clinical table's.
    """
    rows = [{name: cell for name, cell in case.items() if name not in acquisition.NAMED} for case in cases]
    for name in acquisition.NAMED:
        given = [case.get(name, "") for case in cases]
        known = [_cell(acquisition.cell(acquired[case["case_id"]].get(name))) for case in cases]
        there = any(name in case for case in cases)
        fills = name in filled and any(is_missing(old) and new for old, new in zip(given, known, strict=True))
        if name in wanted and (there or fills):
            for row, cell in zip(rows, known if fills else given, strict=True):
                row[name] = cell
    return rows


def qc_rows(
    cases: Sequence[Mapping[str, str]],
    entries: Entries,
    tables: Mapping[str, FeatureTable],
    gate: Gate | None = None,
) -> list[Row]:
    """What is worth checking, long: one row a measured item (volumes in mm3, counts in voxels) or a step's
    warning. `tables` has the main feature table under an empty name, and those of further extractions;
    `gate` the figures of the step quality and what the rules found.
    """
    empty: dict[str, list[tuple[str, str, int]]] = {}
    for name, one in tables.items():
        item = f"features_not_computed_{name}" if name else "features_not_computed"
        for row, n in zip(one.ids, np.isnan(one.values).sum(axis=1), strict=True):
            empty.setdefault(row["case_id"], []).append((row["roi"], item, int(n)))
    warned: dict[str, list[Finding]] = {}
    for finding in gate.warnings if gate else ():
        warned.setdefault(finding.case_id, []).append(finding)
    rows: list[Row] = []
    for case in cases:
        case_id = case["case_id"]

        def add(step: str, roi: str, item: str, value: Any, warning: str = "", case: Mapping[str, str] = case) -> None:
            cells = (case["case_id"], case["centre"], roi, step, item, value, warning)
            rows.append(dict(zip(QC_COLUMNS, cells, strict=True)))

        if calibrated := facts_of_case(entries, "calibrate", case_id):
            if calibrated.get("source", "none") != "none":  # or every case would seem to have a warning
                add("calibrate", "", "calibration_source", None, calibrated["source"])
            for name in ("slope", "intercept"):
                add("calibrate", "", f"calibration_{name}", calibrated[name])
            for hu, sd in calibrated.get("sd_hu", {}).items():
                add("calibrate", "", f"calibration_sd_at_{hu}_hu", sd)
            for name, hu in calibrated.get("observed_hu", {}).items():
                add("calibrate", "", f"observed_{name}_hu", hu)
        for name in MATCHED:
            if (value := facts_of_case(entries, "resample", case_id).get(name)) is not None:
                add("resample", "", name, value)
        for step, fact, item in (
            ("segment", "voxels", "segmented_voxels"),
            ("postprocess", "volume_mm3", "volume_mm3"),
            ("postprocess", "change", "volume_after_over_before"),
            ("postprocess", "components", "components"),
        ):
            for roi, value in facts_of_case(entries, step, case_id).get(fact, {}).items():
                add(step, roi, item, value)
        for roi, scores in facts_of_case(entries, "segment", case_id).get("uncertainty", {}).items():
            for name in UNCERTAINTY_ITEMS:
                add("segment", roi, f"segmentation_{name}", scores[name])
        segmented = facts_of_case(entries, "postprocess", case_id).get("volume_mm3", {})
        for roi, facts in facts_of_case(entries, "extract", case_id).get("rois", {}).items():
            add("extract", roi, "voxels", facts.get("voxels"))
            if roi not in segmented:  # a derived ROI
                add("extract", roi, "volume_mm3", facts.get("volume_mm3"))
        for measured in gate.figures.get(case_id, []) if gate else ():
            add(GATE, measured.roi, measured.figure, measured.value)
        for finding in warned.get(case_id, []):
            add(GATE, finding.roi, "warning", None, finding.text)
        for roi, item, n in empty.get(case_id, []):
            add("extract" if "extract" in entries else "tables", roi, item, n)
        for step, by_case in entries.items():
            if (entry := by_case.get(case_id)) is None:
                continue
            for warning in entry.warnings:
                add(step, "", "warning", None, warning)
            # A picture that could not be drawn costs the case nothing, but should not vanish.
            if entry.status == "excluded" and step not in FEATURE_PATH:
                add(step, "", "warning", None, entry.reason)
    return rows


def wanted_columns(params: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The columns of cohort sheet and clinical table that the configuration names, each with the keys that
    name it.
    """
    wanted: dict[str, list[str]] = {}
    for key, columns in columns_by_key(params).items():
        for column in columns:
            wanted.setdefault(column, []).append(key)
    return wanted


def clinical_rows(
    cases: Sequence[Mapping[str, str]],
    cohort_columns: Sequence[str],
    clinical: Clinical | None,
    wanted: Mapping[str, list[str]],
) -> tuple[list[str], list[Row], list[str]]:
    """The wanted columns of the clinical table, one row a patient of the cohort, and the patients who have
    no row.

    A wanted column that the cohort sheet has is not repeated. Raises CohortError for a wanted column that is
    nowhere, for one that both tables have with different values, and for a patient whose cases' rows
    contradict each other.
    """
    known = [*cohort_columns, *(clinical.columns if clinical else [])]
    problems = []
    for column, keys in wanted.items():
        if column not in known:
            near = difflib.get_close_matches(column, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            problems.append(
                f"column {column!r} ({', '.join(keys)}) is neither in the cohort nor in the clinical table{hint}"
            )
    if clinical is None:
        _complain(problems)
        return ["patient_id"], [], []
    shared = [column for column in wanted if column in clinical.columns]
    found: dict[str, dict[str, str]] = {}
    without: list[str] = []
    for case in cases:
        patient = _patient(case)
        row = clinical.rows.get(patient if clinical.key == "patient_id" else case["case_id"])
        if row is None:
            if patient not in without:
                without.append(patient)
            continue
        for column in shared:
            if column in cohort_columns and case.get(column, "") != row[column]:
                problems.append(f"case {case['case_id']}: column {column!r} differs in cohort and clinical table")
        mine = {column: row[column] for column in shared if column not in cohort_columns}
        if found.setdefault(patient, mine) != mine:
            problems.append(f"patient {patient}: the rows of the patient's cases differ in the clinical table")
    _complain(problems)
    columns = [column for column in shared if column not in cohort_columns]
    rows: list[Row] = [{"patient_id": patient, **row} for patient, row in found.items()]
    return ["patient_id", *columns], rows, [patient for patient in without if patient not in found]


def _complain(problems: list[str]) -> None:
    if problems:
        more = [f"... and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise CohortError("\n  ".join(["the clinical data can't be joined:", *problems[:20], *more]))


def check_excluded_fraction(n_cases: int, exclusions: Sequence[Row], allowed: float) -> None:
    """Raise CohortError, with the reasons and their cases, if no case is left or more than `allowed` of them
    are excluded.
    """
    whole = [row for row in exclusions if not row["roi"]]
    if len(whole) < n_cases and len(whole) <= allowed * n_cases:
        return
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in whole:
        reasons.setdefault((row["step"], row["reason"]), []).append(row["case_id"])
    steps = Counter(row["step"] for row in whole)
    lines = [
        f"{len(whole)} of {n_cases} cases are excluded ("
        + ", ".join(f"{step} {steps[step]}" for step in (*FEATURE_PATH, GATE) if steps[step])
        + (
            "): no case is left."
            if len(whole) == n_cases
            else f"), max_excluded_fraction allows {allowed:g}. Repair the cases, or raise it."
        )
    ]
    ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
    for (step, reason), case_ids in ordered[:15]:
        names = ", ".join(case_ids[:8]) + (f" and {len(case_ids) - 8} more" if len(case_ids) > 8 else "")
        lines.append(f"{step}: {reason} ({len(case_ids)}: {names})")
    if len(ordered) > 15:
        lines.append(f"... and {len(ordered) - 15} more reasons")
    raise CohortError("\n  ".join(lines))


def feature_frame(table: FeatureTable) -> pd.DataFrame:
    """The feature table as it is written: case_id, patient_id, centre, roi, then float64 features."""
    ids = pd.DataFrame(table.ids, columns=list(ID_COLUMNS), dtype=str)
    return pd.concat([ids, pd.DataFrame(table.values, columns=table.features)], axis=1)


def write_features(folder: Path, name: str, frame: pd.DataFrame) -> None:
    """Write a feature table as `name`.csv and `name`.parquet, both bit-exact."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n", encoding="utf-8")
    frame.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")


def _cases_of(table: FeatureTable) -> list[dict[str, str]]:
    """The cohort of a feature table that was made elsewhere, in the order of its rows."""
    cases: dict[str, dict[str, str]] = {}
    for row in table.ids:
        cases.setdefault(row["case_id"], {name: cell for name, cell in row.items() if name != "roi"})
    return list(cases.values())


def build_tables(task: CohortTask) -> CohortResult:
    """Write all tables of the step into `task.out`, from the cases' manifests or from features extracted
    elsewhere.

    Raises CohortError if too many cases are excluded, or if cohort, clinical table and configuration don't
    fit together.
    """
    clinical = read_clinical(task.inputs["clinical"]) if "clinical" in task.inputs else None
    wanted = wanted_columns(task.params)
    exclusions: list[Row] = []
    tables: dict[str, FeatureTable] = {}
    gate = pass_gate(task.cases, task.entries, task.params.get(GATE, {}).get("rules", []))
    if "features" in task.inputs:
        main = ""
        tables[main] = read_feature_table(task.inputs["features"], clinical, [*wanted, "repeat_id"])
        cases: Sequence[Mapping[str, str]] = _cases_of(tables[main])
        entries: Entries = {}
        check_complete(cases, exclusions, tables[main], entries)
    else:
        cases = task.cases
        names = task.params["run"].get("extractions") or [""]
        main = task.params["model"]["extraction"] if names != [""] else ""
        entries = of_extraction(task.entries, main)
        for name in [main, *(name for name in names if name != main)]:
            own = of_extraction(task.entries, name)
            rows = exclusion_rows(cases, own, gate.excluded)
            if name == main:
                check_excluded_fraction(len(cases), rows, float(task.params["run"]["max_excluded_fraction"]))
            tables[name] = collect_features(cases, own, {row["case_id"] for row in rows if not row["roi"]})
            check_complete(cases, rows, tables[name], own)
            named = name_extraction(rows, name, task.entries)
            exclusions += [row for row in named if name == main or row["extraction"]]
        place = {case["case_id"]: position for position, case in enumerate(cases)}
        exclusions.sort(key=lambda row: place[row["case_id"]])
    table = tables[main]

    headers = {
        case["case_id"]: facts_of_case(entries, "ingest", case["case_id"]).get("acquisition") or {} for case in cases
    }
    acquired, doubts = acquisition.join_sheet(cases, headers)
    cases = with_acquisition(cases, acquired, set(wanted) - set(clinical.columns if clinical else ()), wanted)
    sheet_columns = list(dict.fromkeys(name for case in cases for name in case))
    columns = ["case_id", "patient_id", "centre"]
    columns += [name for name in sheet_columns if name not in columns and name not in NOT_IN_COHORT]
    n_rois = Counter(row["case_id"] for row in table.ids)
    cohort: list[Row] = [
        {
            **case,
            "patient_id": _patient(case),
            "status": "included" if n_rois[case["case_id"]] else "excluded",
            "n_rois": n_rois[case["case_id"]],
        }
        for case in cases
    ]
    clinical_columns, patients, without = clinical_rows(cases, columns, clinical, wanted)
    qc = qc_rows(cases, entries, {name if name != main else "": one for name, one in tables.items()}, gate)
    centres = {case["case_id"]: case["centre"] for case in cases}
    for case_id, text in doubts:
        qc.append(dict(zip(QC_COLUMNS, (case_id, centres[case_id], "", "tables", "warning", None, text), strict=True)))
    warnings = [f"{name}: {text}" if name else text for name, one in tables.items() for text in one.warnings]
    if without:
        shown = ", ".join(without[:10]) + (f" and {len(without) - 10} more" if len(without) > 10 else "")
        warnings.append(
            f"{len(without)} patients have no row in the clinical table, the models leave them out: {shown}"
        )
        lonely = set(without)
        message = "the patient has no row in the clinical table; the models leave the case out"
        for case in cases:
            if _patient(case) in lonely:
                cells = (case["case_id"], case["centre"], "", "tables", "warning", None, message)
                qc.append(dict(zip(QC_COLUMNS, cells, strict=True)))

    folder = task.out / "tables"
    write_table(folder / "cohort.csv", [*columns, "status", "n_rois"], cohort)
    write_table(folder / "clinical.csv", clinical_columns, patients)
    for name, one in tables.items():
        write_features(folder, table_name(name, main), feature_frame(one))
    write_table(folder / "exclusions.csv", NAMED_EXCLUSION_COLUMNS if main else EXCLUSION_COLUMNS, exclusions)
    write_table(folder / "acquisition.csv", ACQUISITION_COLUMNS, acquisition_rows(cases, entries, acquired))
    write_table(folder / "qc.csv", QC_COLUMNS, qc)
    excluded = sum(row["status"] == "excluded" for row in cohort)
    facts = {
        "cases": len(cases),
        "included": len(cases) - excluded,
        "excluded": excluded,
        "rows": len(table.ids),
        "features": len(table.features),
        "rois": list(dict.fromkeys(row["roi"] for row in table.ids)),
    }
    if main:
        sizes = {name: {"rows": len(one.ids), "features": len(one.features)} for name, one in tables.items()}
        facts["extractions"] = sizes
    return CohortResult(facts=facts, warnings=warnings)
