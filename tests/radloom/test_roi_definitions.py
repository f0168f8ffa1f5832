"""Definitions of derived ROIs: read as written, and every mistake is named before anything runs."""

from typing import Any

import pytest

from radloom.errors import CohortError
from radloom.roi_definitions import (
    Core,
    Each,
    Intersection,
    Largest,
    Shell,
    Union,
    parse_definitions,
    reached_from,
    read_definitions,
)

LABELS = {1: ["tumour"], 2: ["liver"], 7: ["node"]}


def test_each_kind_is_read() -> None:
    section = {
        "peritumour": {"shell": {"of": "tumour", "outer_mm": 5, "minus": ["liver", 7]}},
        "far": {"shell": {"of": 1, "outer_mm": 9.5, "inner_mm": 5}},
        "inside": {"core": {"of": "tumour", "depth_mm": 3}},
        "disease": {"union": ["tumour", "node"]},
        "both": {"intersection": ["peritumour", 2]},
        "main": {"largest": {"of": "disease"}},
        "lesion": {"each": {"of": "disease", "min_volume_mm3": 100}},
        "rim": {"shell": {"of": "lesion_2", "outer_mm": 2}},
    }
    definitions, problems = parse_definitions(section, LABELS)
    assert problems == []
    assert definitions == {
        "peritumour": Shell("tumour", 5.0, 0.0, ("liver", "7")),
        "far": Shell("1", 9.5, 5.0),
        "inside": Core("tumour", 3.0),
        "disease": Union(("tumour", "node")),
        "both": Intersection(("peritumour", "2")),
        "main": Largest("disease"),
        "lesion": Each("disease", 100.0),
        "rim": Shell("lesion_2", 2.0),
    }
    assert list(definitions) == list(section)
    assert reached_from(["rim", "liver"], definitions) == {"rim", "lesion", "disease"}


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"shel": {"of": "tumour"}}, "x: it needs one of shell, core, union, intersection, largest, each"),
        ({}, "x: it needs one of shell"),
        ({"core": {"of": "tumour", "depth_mm": 1}, "largest": {"of": "tumour"}}, "x: it needs one of shell"),
        ("tumour", "x: it needs one of shell"),
        ({"core": "tumour"}, "x: core needs keys"),
        ({"core": {"of": "tumour"}}, "x: core needs depth_mm"),
        ({"core": {"of": "tumour", "depth": 1, "depth_mm": 1}}, "x: core has no key depth; did you mean depth_mm?"),
        ({"core": {"of": "tumour", "depth_mm": -1}}, "x: depth_mm is -1, not a number of at least 0"),
        ({"core": {"of": "tumour", "depth_mm": True}}, "x: depth_mm is True, not a number"),
        ({"core": {"of": "tumour", "depth_mm": float("nan")}}, "x: depth_mm is nan, not a number"),
        ({"core": {"of": ["tumour"], "depth_mm": 1}}, "x: ['tumour'] is no name or number of an ROI"),
        (
            {"shell": {"of": "tumour", "outer_mm": 2, "inner_mm": 2}},
            "x: inner_mm (2) must be smaller than outer_mm (2)",
        ),
        ({"shell": {"of": "tumour", "outer_mm": 0}}, "x: inner_mm (0) must be smaller than outer_mm (0)"),
        ({"shell": {"of": "tumour", "outer_mm": 2, "minus": [0]}}, "x: 0 is no name or number of an ROI"),
        ({"union": ["tumour"]}, "x: union needs a list of at least two ROIs"),
        ({"intersection": "tumour"}, "x: intersection needs a list of at least two ROIs"),
        ({"each": {"of": "tumour", "min_volume_mm3": "1"}}, "x: min_volume_mm3 is '1', not a number"),
        ({"largest": {"of": "tumor"}}, "x: there is no ROI tumor; did you mean tumour?"),
        ({"largest": {"of": 3}}, "x: there is no ROI 3"),
        ({"largest": {"of": "lesion"}}, "x: lesion stands for lesion_1, lesion_2, ...: name one of them"),
        ({"largest": {"of": "x"}}, "x: it is derived from itself (x -> x)"),
    ],
)
def test_each_mistake_is_named(entry: Any, problem: str) -> None:
    section = {"lesion": {"each": {"of": "tumour"}}, "x": entry}
    found = parse_definitions(section, LABELS)[1]
    assert len(found) == 1
    assert found[0].startswith(problem)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ({"2x": {"largest": {"of": "node"}}}, "2x: a name is a letter followed by"),
        ({"n" * 28: {"each": {"of": "node"}}}, "a name of components has at most 27 characters"),
        ({"liver": {"largest": {"of": "node"}}}, "liver: the segmentation has an ROI of this name already"),
        (
            {"a": {"each": {"of": "node"}}, "a_1": {"largest": {"of": "node"}}},
            "a_1: this is the name of a component of a",
        ),
        (
            {"a": {"union": ["node", "b"]}, "b": {"largest": {"of": "c_1"}}, "c": {"each": {"of": "a"}}},
            "a: it is derived from itself (a -> b -> c -> a)",
        ),
    ],
)
def test_names_and_circles(section: dict[str, Any], problem: str) -> None:
    found = parse_definitions(section, LABELS)[1]
    assert len(found) == 1
    assert problem in found[0]


def test_a_component_named_like_a_label() -> None:
    found = parse_definitions({"node": {"each": {"of": "all"}}}, {1: ["all"], 2: ["node_2"]})[1]
    assert found == ["node: its component node_2 would have the name of an ROI of the segmentation"]


def test_without_known_labels_names_are_taken_as_they_are() -> None:
    assert read_definitions({"x": {"largest": {"of": "anything"}}}) == {"x": Largest("anything")}
    with pytest.raises(CohortError) as caught:
        read_definitions({"x": {"largest": {}}, "y": {"core": {"of": "x", "depth_mm": -2}}})
    assert "x: largest needs of" in str(caught.value)
    assert "y: depth_mm is -2" in str(caught.value)
