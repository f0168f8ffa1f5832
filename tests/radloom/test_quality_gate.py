"""Rules: what they find, what they can't find, and duplicates that only the cohort shows."""

from typing import Any

import numpy as np
import pytest

from radloom.config import complete
from radloom.engine.step import Entry
from radloom.errors import ConfigError
from radloom.quality_gate import Gate, pass_gate

RNG = np.random.default_rng(0)
PICTURES = [RNG.bytes(64).hex() for _ in range(8)]


def facts(n: int = 0, **changes: Any) -> dict[str, Any]:
    """What the step says of a case: of the n-th scan."""
    scan = {"noise_global_sd": 12.0, "slice_spacing_mm": 2.5}
    rois = {"tumour": {"roi_border_voxels": 0.0}, "node": {"roi_border_voxels": 7.0}}
    return {"scan": scan, "rois": rois, "voxels": f"digest {n}", "picture": PICTURES[n]} | changes


def gate(
    rules: list[dict[str, Any]],
    measured: dict[str, dict[str, Any]],
    rows: dict[str, dict[str, str]] | None = None,
    ingest: dict[str, dict[str, Any]] | None = None,
) -> Gate:
    cases = [{"case_id": case, "centre": "oak", **(rows or {}).get(case, {})} for case in measured]
    entries = {"quality": {case: Entry("ok", "", "", own, [], {}) for case, own in measured.items()}}
    entries["ingest"] = {case: Entry("ok", "", "", own, [], {}) for case, own in (ingest or {}).items()}
    return pass_gate(cases, entries, rules)


def values(found: Gate, case: str) -> dict[str, float | None]:
    return {one.figure: one.value for one in found.figures[case] if not one.roi}


def test_a_rule_is_held_against_its_figure() -> None:
    noise = {"figure": "noise_global_sd", "action": "warn"}
    assert gate([noise | {"above": 12}], {"a": facts()}).warnings == []
    assert gate([noise | {"below": 12}], {"a": facts()}).warnings == []
    (found,) = gate([noise | {"above": 11.5}], {"a": facts()}).warnings
    assert found.text == "global noise level is 12 HU, above 11.5 HU (noise_global_sd)"
    assert (found.case_id, found.roi) == ("a", "")
    (found,) = gate([noise | {"below": 13}], {"a": facts()}).warnings
    assert found.text.startswith("global noise level is 12 HU, below 13 HU")
    assert gate([{"figure": "hu_fat", "below": 0, "action": "exclude"}], {"a": facts()}).excluded == {}


def test_an_exclusion_names_figure_value_limit_and_way_out() -> None:
    rules = [
        {"figure": "roi_border_voxels", "above": 0, "action": "exclude"},
        {"figure": "noise_global_sd", "above": 1, "action": "exclude"},
    ]
    found = gate(rules, {"a": facts()})
    assert found.warnings == []
    reason = found.excluded["a"]
    assert reason.text == "node: voxels at the border of the image is 7 voxel, above 0 voxel (roi_border_voxels)"
    assert reason.advice.startswith("Look whether the scan ends within the ROI")
    assert reason.advice.endswith("change the rule in quality: rules.")
    assert gate([rules[0] | {"rois": ["tumour"]}], {"a": facts()}).excluded == {}
    assert list(gate([rules[0] | {"rois": ["node"]}], {"a": facts()}).excluded) == ["a"]


def test_cases_that_did_not_pass_the_step_are_not_judged() -> None:
    cases = [{"case_id": "a", "centre": "oak"}, {"case_id": "b", "centre": "oak"}]
    entries = {"quality": {"a": Entry("skipped", "", "", {}, [], {}), "b": Entry("ok", "", "", facts(), [], {})}}
    assert list(pass_gate(cases, entries, []).figures) == ["b"]
    assert pass_gate(cases, {}, []) == Gate()


SAME = [{"figure": "same_voxels", "above": 0, "action": "warn"}]


def test_the_same_voxels_in_two_cases() -> None:
    scans = {"a": facts(0), "b": facts(1), "c": facts(0)}
    found = gate(SAME, scans)
    assert [values(found, case)["same_voxels"] for case in scans] == [1, 0, 1]
    assert [(one.case_id, one.text) for one in found.warnings] == [
        ("a", "number of other cases with the same voxels is 1, above 0 (same_voxels): c"),
        ("c", "number of other cases with the same voxels is 1, above 0 (same_voxels): a"),
    ]
    own = {case: {"patient_id": "P1"} for case in "ac"}
    # Twice the same row is a mistake, two readers or two lesions of a patient are none.
    assert [values(gate(SAME, scans, own), case)["same_voxels"] for case in scans] == [1, 0, 1]
    for column in ("repeat_id", "roi_name"):
        rows = {case: {"patient_id": "P1", column: f"r{case}"} for case in "ac"}
        assert [values(gate(SAME, scans, rows), case)["same_voxels"] for case in scans] == [0, 0, 0]
        rows["c"]["patient_id"] = "P2"
        assert [values(gate(SAME, scans, rows), case)["same_voxels"] for case in scans] == [1, 0, 1]


def test_pictures_that_are_alike() -> None:
    rules = [{"figure": "nearest_picture", "below": 0.2, "action": "warn"}]
    near = bytearray(bytes.fromhex(PICTURES[0]))
    near[3] ^= 0b1010
    scans = {"a": facts(0), "b": facts(1), "c": facts(2, picture=near.hex())}
    found = gate(rules, scans)
    for case in "ac":
        assert values(found, case)["nearest_picture"] == pytest.approx(2 / 511, abs=1e-6)
    nearest = values(found, "b")["nearest_picture"]
    assert nearest is not None
    assert nearest > 0.35
    assert [one.text.rpartition(": ")[2] for one in found.warnings] == ["c", "a"]
    same = {case: {"patient_id": "P1"} for case in "ac"}
    assert gate(rules, scans, same).warnings == [], "follow-up scans of a patient look alike"
    assert values(gate(rules, {"a": facts(0)}), "a")["nearest_picture"] is None


def test_a_patient_in_two_centres() -> None:
    rules = [{"figure": "patient_centres", "above": 1, "action": "warn"}]
    scans = {"a": facts(0), "b": facts(1), "c": facts(2)}
    rows = {"a": {"patient_id": "P1", "centre": "oak"}, "b": {"patient_id": "P1", "centre": "elm"}}
    assert [one.case_id for one in gate(rules, scans, rows).warnings] == ["a", "b"]
    # The sheet has other names for them, but the files' patient id is one.
    rows = {"a": {"patient_id": "P1", "centre": "oak"}, "c": {"patient_id": "Q7", "centre": "elm"}}
    ingest = {"a": {"patient_hash": "ff"}, "b": {"patient_hash": "ee"}, "c": {"patient_hash": "ff"}}
    assert [one.case_id for one in gate(rules, scans, rows, ingest).warnings] == ["a", "c"]
    assert gate(rules, scans).warnings == []
    # An id that was made the same for everybody is none.
    many = {case: facts(n % 8) for n, case in enumerate("abcdef")}
    rows = {case: {"centre": f"c{n}"} for n, case in enumerate(many)}
    assert gate(rules, many, rows, {case: {"patient_hash": "ff"} for case in many}).warnings == []


def test_the_same_series_in_two_cases() -> None:
    scans = {"a": facts(0), "b": facts(1), "c": facts(2)}
    ingest = {"a": {"series": "ff"}, "b": {"series": "ee"}, "c": {"series": "ff"}}
    found = gate([{"figure": "same_series", "above": 0, "action": "warn"}], scans, ingest=ingest)
    assert [values(found, case)["same_series"] for case in scans] == [1, 0, 1]
    assert found.warnings[0].text == "number of other cases of the same series is 1, above 0 (same_series): c"


def test_the_gap_between_slices() -> None:
    ingest = {"a": {"acquisition": {"slice_thickness": 1.25}}, "b": {"acquisition": {"slice_thickness": None}}}
    found = gate([], {"a": facts(0), "b": facts(1), "c": facts(2)}, ingest=ingest)
    assert [values(found, case)["slice_gap_mm"] for case in "abc"] == [1.25, None, None]
    # The sheet knows better, or alone.
    rows = {"a": {"slice_thickness": "2"}, "b": {"slice_thickness": "NA"}, "c": {"slice_thickness": "3"}}
    found = gate([], {"a": facts(0), "b": facts(1), "c": facts(2)}, rows, ingest)
    assert [values(found, case)["slice_gap_mm"] for case in "abc"] == [0.5, None, -0.5]


def test_materials_are_those_of_the_calibration() -> None:
    entries = {
        "quality": {"a": Entry("ok", "", "", facts(), [], {})},
        "calibrate": {"a": Entry("ok", "", "", {"air_hu": -990.0, "tissue_hu": {"fat": -64.0}}, [], {})},
    }
    rule = {"figure": "hu_fat", "above": -70, "action": "warn"}
    found = pass_gate([{"case_id": "a", "centre": "oak"}], entries, [rule])
    assert [values(found, "a")[f"hu_{name}"] for name in ("air", "fat", "muscle")] == [-990.0, -64.0, None]
    assert found.warnings[0].text == "HU of fat is -64 HU, above -70 HU (hu_fat)"


def test_burnt_in_text_may_exclude() -> None:
    rules = [{"figure": "burned_in_slices", "above": 0, "action": "exclude"}]
    ingest = {"a": {"burned_in_slices": 3}, "b": {"burned_in_slices": 0}}
    found = gate(rules, {"a": facts(0), "b": facts(1), "c": facts(2)}, ingest=ingest)
    assert list(found.excluded) == ["a"]
    text = "number of slices with burnt-in text is 3, above 0 (burned_in_slices)"
    assert found.excluded["a"].text == text
    assert values(found, "c")["burned_in_slices"] is None


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"figure": "noise", "above": 1, "action": "warn"}, "'noise' is not one of"),
        ({"figure": "hu_fat", "action": "warn"}, "either above or below"),
        ({"figure": "hu_fat", "above": 1, "below": 2, "action": "warn"}, "either above or below"),
        ({"figure": "hu_fat", "above": 1, "action": "drop"}, "'drop' is not one of"),
        ({"figure": "hu_fat", "above": "high", "action": "warn"}, "'high' is not of type 'number'"),
        ({"figure": "hu_fat", "over": 1, "action": "warn"}, "unknown key quality.rules.0.over"),
    ],
)
def test_rules_that_can_not_be(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        complete({"results": "r", "cohort": "c.tsv", "quality": {"rules": [rule]}})
