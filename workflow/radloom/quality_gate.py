"""The quality gate: rules of the configuration turn the figures of all cases into warnings and exclusions.

The figures are made case by case (`radloom.quality`); what only the whole cohort shows, duplicates, is added here. A
changed rule computes no figure again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from radloom.acquisition import clean
from radloom.engine.step import Entries, facts_of_case
from radloom.quality_figures import FIGURES

STEP = "quality"
MOST_NAMES = 3
"""Names in the sheet that one patient may have; an id in the files that more share is no patient's."""
PERSONAL = ("burned_in_slices", "recognizable_slices", "overlay_slices")
"""What the headers of a series say of a person to be seen in it; ingest counts it, and warns."""
SAME_PICTURE = 0.1
"""Share of bits by which picture hashes of one picture differ at most (docs/quality.md)."""


@dataclass(frozen=True)
class Measured:
    """A figure of a case, or of one of its ROIs (`roi` empty: of the case); None where it can't be had."""

    roi: str
    figure: str
    value: float | None
    others: tuple[str, ...] = ()
    """The cases that a duplicate is one of."""


@dataclass(frozen=True)
class Finding:
    """What a rule has to say of a case."""

    case_id: str
    roi: str
    text: str
    advice: str


@dataclass(frozen=True)
class Gate:
    """The figures of every case that has passed the step, and what the rules found: at most one exclusion a case."""

    figures: dict[str, list[Measured]] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)
    excluded: dict[str, Finding] = field(default_factory=dict)


def pass_gate(cases: Sequence[Mapping[str, str]], entries: Entries, rules: Sequence[Mapping[str, Any]]) -> Gate:
    """Gather the figures of the cases (rows of the cohort sheet) and hold them against the rules.

    A rule has `figure`, `above` or `below`, `action` (warn or exclude) and perhaps `rois`. A figure that could not be
    measured breaks no rule.
    """
    measured = {case_id: entry.facts for case_id, entry in entries.get(STEP, {}).items() if entry.status == "ok"}
    rows = [case for case in cases if case["case_id"] in measured]
    gate = Gate()
    alike = _alike(rows, entries, measured)
    for case in rows:
        case_id = case["case_id"]
        facts = measured[case_id]
        figures = [Measured("", name, value) for name, value in facts["scan"].items()]
        figures += [Measured(roi, name, value) for roi, own in facts["rois"].items() for name, value in own.items()]
        figures += [Measured("", name, value) for name, value in _materials(entries, case_id).items()]
        figures += [Measured("", "slice_gap_mm", _slice_gap(facts, entries, case))]
        figures += [Measured("", name, facts_of_case(entries, "ingest", case_id).get(name)) for name in PERSONAL]
        figures += alike[case_id]
        gate.figures[case_id] = figures
        for rule in rules:
            for found in (_broken(rule, case_id, one) for one in figures):
                if found is None:
                    continue
                if rule["action"] == "exclude":
                    gate.excluded.setdefault(case_id, found)
                else:
                    gate.warnings.append(found)
    return gate


def _broken(rule: Mapping[str, Any], case_id: str, one: Measured) -> Finding | None:
    if one.figure != rule["figure"] or one.value is None or (rule.get("rois") and one.roi not in rule["rois"]):
        return None
    above = "above" in rule
    limit = float(rule["above"] if above else rule["below"])
    if not (one.value > limit if above else one.value < limit):
        return None
    figure = FIGURES[one.figure]
    unit = "" if figure.unit == "1" else f" {figure.unit}"
    what = f"{one.roi}: {figure.title}" if one.roi else figure.title
    text = f"{what} is {one.value:.4g}{unit}, {'above' if above else 'below'} {limit:g}{unit} ({one.figure})"
    if one.others:
        listed = ", ".join(one.others[:5]) + (f" and {len(one.others) - 5} more" if len(one.others) > 5 else "")
        text += f": {listed}"
    return Finding(case_id, one.roi, text, f"{figure.advice} If all is sound, change the rule in quality: rules.")


def _materials(entries: Entries, case_id: str) -> dict[str, float | None]:
    """Air, fat and muscle as the calibration found them: there is but one measurement of each."""
    facts = facts_of_case(entries, "calibrate", case_id)
    tissues = facts.get("tissue_hu", {})
    return {"hu_air": facts.get("air_hu"), "hu_fat": tissues.get("fat"), "hu_muscle": tissues.get("muscle")}


def _slice_gap(facts: Mapping[str, Any], entries: Entries, case: Mapping[str, str]) -> float | None:
    acquisition = facts_of_case(entries, "ingest", case["case_id"]).get("acquisition") or {}
    # The sheet's before the header's, as in the acquisition table.
    given = clean("slice_thickness", case.get("slice_thickness", ""))
    thickness = acquisition.get("slice_thickness") if given is None else given
    return facts["scan"]["slice_spacing_mm"] - thickness if isinstance(thickness, int | float) else None


def _alike(
    rows: Sequence[Mapping[str, str]], entries: Entries, measured: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[Measured]]:
    """What of each case only the others tell: same scan, most similar picture, its patient in other centres."""
    if not rows:
        return {}
    import numpy as np

    from radloom.duplicates import hash_distances

    ids = [row["case_id"] for row in rows]
    facts = [facts_of_case(entries, "ingest", case_id) for case_id in ids]
    by_sheet = _groups(row.get("patient_id") or row["case_id"] for row in rows)
    by_files = _groups(own.get("patient_hash") for own in facts)
    by_digest = _groups(measured[case_id]["voxels"] for case_id in ids)
    by_series = _groups(own.get("series") for own in facts)
    distances = hash_distances([measured[case_id]["picture"] for case_id in ids])
    result = {}
    for i, (case_id, row) in enumerate(zip(ids, rows, strict=True)):
        # Another look at a scan of the patient (a reader, another ROI) is meant to be the same scan.
        looks = {j for j in by_sheet[i] if _another_look(row, rows[j])}
        digest, series = (sorted(group[i] - looks - {i}) for group in (by_digest, by_series))
        distances[i, sorted(by_sheet[i])] = np.nan
        nearest = float(np.nanmin(distances[i])) if np.isfinite(distances[i]).any() else None
        close = np.flatnonzero(distances[i] < SAME_PICTURE).tolist()
        named = {rows[j].get("patient_id") or ids[j] for j in by_files[i]}
        # Files whose id was made the same for everybody tell nothing.
        patient = by_sheet[i] | (by_files[i] if len(named) <= MOST_NAMES else set())
        elsewhere = sorted(j for j in patient if rows[j]["centre"] != row["centre"])
        centres = float(len({rows[j]["centre"] for j in patient}))
        found = {
            "same_voxels": (float(len(digest)), digest),
            "same_series": (float(len(series)), series),
            "nearest_picture": (nearest, close),
            "patient_centres": (centres, elsewhere),
        }
        result[case_id] = [
            Measured("", name, value, tuple(ids[j] for j in others)) for name, (value, others) in found.items()
        ]
    return result


def _groups(keys: Iterable[str | None]) -> list[set[int]]:
    """For each key the positions that have it; of an empty one its own alone."""
    every = list(keys)
    places: dict[str, set[int]] = {}
    for i, key in enumerate(every):
        if key:
            places.setdefault(key, set()).add(i)
    return [places[key] if key else {i} for i, key in enumerate(every)]


def _another_look(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether two rows of a patient are meant to have one scan: repeats (readers), or ROIs of other names."""
    return any(one.get(column, "") != other.get(column, "") for column in ("repeat_id", "roi_name"))
