"""Derived ROIs: distances by their definition, the laws of sets, and a reason for what comes out empty."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from radloom import derived_rois
from radloom.derived_rois import CaseRois, find_rois
from radloom.roi_definitions import read_definitions

LABELS = {1: "tumour", 2: "node", 5: "bone"}
Spacing = tuple[float, float, float]

# Quarters of a mm, so that distances are equal to a limit or clearly not.
lengths = st.integers(2, 16).map(lambda n: n / 4)
spacings = st.tuples(lengths, lengths, lengths)
distances = st.integers(0, 20).map(lambda n: n / 4)


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    """Smooth or speckled labels 1, 2 and 5, which may touch the border, be absent, or fill the volume."""
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    noise = rng.normal(size=(4, *shape))
    if draw(st.booleans()):
        noise = ndimage.gaussian_filter(noise, (0, 1, 1, 1))
    noise[0] += draw(st.sampled_from([-1.0, 0.0, 0.3, 2.0]))
    return np.array([0, 1, 2, 5], dtype=np.uint8)[noise.argmax(axis=0)]


def derive(
    array: np.ndarray, spacing: Spacing, section: dict[str, Any], wanted: tuple[str | int, ...] = ()
) -> CaseRois:
    return find_rois(array, spacing, LABELS, read_definitions(section), wanted)


def mask(case: CaseRois, name: str, array: np.ndarray) -> np.ndarray:
    """The mask of an ROI in the whole volume, empty where it is excluded."""
    if name in case.regions:
        return case.regions[name].full(array.shape)
    assert name in [entry["roi"] for entry in case.excluded]
    return np.zeros(array.shape, dtype=bool)


def between(sources: np.ndarray, spacing: Spacing, outside: bool) -> np.ndarray:
    """Distance in mm of each voxel's centre from the nearest centre of `sources` (z, y, x, bool), pair by pair.

    `outside` puts a frame of background around the volume: the distance from the nearest voxel outside `sources`.
    """
    scale = np.array(spacing[::-1])
    pad = 1 if outside else 0
    chosen = np.argwhere(np.pad(~sources, pad, constant_values=True) if outside else sources) - pad
    if not len(chosen):
        return np.full(sources.shape, np.inf)
    every = np.argwhere(np.ones(sources.shape, dtype=bool))
    return cdist(every * scale, chosen * scale).min(axis=1).reshape(sources.shape)


@given(volumes(), spacings, distances, distances)
@settings(deadline=None, max_examples=150)
def test_shell_and_core_by_their_definition(array: np.ndarray, spacing: Spacing, inner: float, width: float) -> None:
    outer = inner + width + 0.25
    case = derive(
        array,
        spacing,
        {
            "around": {"shell": {"of": "tumour", "outer_mm": outer, "inner_mm": inner}},
            "soft": {"shell": {"of": 1, "outer_mm": outer, "inner_mm": inner, "minus": ["bone", "node"]}},
            "inside": {"core": {"of": "tumour", "depth_mm": inner}},
        },
    )
    tumour = array == 1
    far = between(tumour, spacing, outside=False)
    expected = (far > inner) & (far <= outer) & ~tumour
    around, soft, inside = (mask(case, name, array) for name in ("around", "soft", "inside"))
    assert np.array_equal(around, expected)
    assert np.array_equal(soft, expected & (array == 0))
    assert np.array_equal(inside, tumour & (between(tumour, spacing, outside=True) > inner))
    assert not (around & tumour).any()
    assert not (inside & ~tumour).any()


@given(volumes(), spacings, distances)
@settings(deadline=None, max_examples=100)
def test_component_by_component_gives_the_same(array: np.ndarray, spacing: Spacing, distance: float) -> None:
    section = {
        "around": {"shell": {"of": "tumour", "outer_mm": distance + 2, "inner_mm": distance}},
        "inside": {"core": {"of": "tumour", "depth_mm": distance}},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(derived_rois, "SPARSE", 0.0)
        whole = derive(array, spacing, section)
        patch.setattr(derived_rois, "SPARSE", 2.0)
        parts = derive(array, spacing, section)
    assert whole.excluded == parts.excluded
    for name in whole.regions:
        assert np.array_equal(mask(whole, name, array), mask(parts, name, array))


@given(volumes(), spacings)
@settings(deadline=None, max_examples=100)
def test_sets_and_components(array: np.ndarray, spacing: Spacing) -> None:
    case = derive(
        array,
        spacing,
        {
            "grown": {"shell": {"of": "node", "outer_mm": 3}},
            "either": {"union": ["tumour", "grown", "node"]},
            "other_way": {"union": ["node", "tumour", "grown"]},
            "both": {"intersection": ["tumour", "grown"]},
            "swapped": {"intersection": ["grown", "tumour"]},
            "itself": {"intersection": ["tumour", "either"]},
            "main": {"largest": {"of": "either"}},
            "lesion": {"each": {"of": "either"}},
        },
    )
    tumour, grown, node, either, both = (
        mask(case, name, array) for name in ("tumour", "grown", "node", "either", "both")
    )
    assert np.array_equal(either, tumour | grown | node)
    assert np.array_equal(either, mask(case, "other_way", array))
    assert np.array_equal(both, tumour & grown)
    assert np.array_equal(both, mask(case, "swapped", array))
    assert np.array_equal(mask(case, "itself", array), tumour)
    # Inclusion and exclusion.
    assert (tumour | grown).sum() == tumour.sum() + grown.sum() - both.sum()

    lesions = [region.full(array.shape) for name, region in case.regions.items() if name.startswith("lesion_")]
    components, count = ndimage.label(either, np.ones((3, 3, 3)))
    assert len(lesions) == count
    if count:
        # Each voxel is in exactly one, each lesion is one component, and they come by size, then by place.
        assert np.array_equal(sum(lesion.astype(int) for lesion in lesions), either.astype(int))
        assert all(len(np.unique(components[lesion])) == 1 for lesion in lesions)
        order = [(-int(lesion.sum()), int(np.flatnonzero(lesion)[0])) for lesion in lesions]
        assert order == sorted(order)
        assert np.array_equal(mask(case, "main", array), lesions[0])
        assert [name for name in case.regions if name.startswith("lesion_")] == [
            f"lesion_{number}" for number in range(1, count + 1)
        ]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.7, 3.0), (2.5, 1.0, 0.4)])
def test_a_box_in_closed_form(spacing: Spacing) -> None:
    array = np.zeros((40, 60, 50), dtype=np.uint8)
    array[15:22, 20:33, 18:30] = 1
    low, high = (15, 20, 18), (21, 32, 29)
    index = np.indices(array.shape)
    steps = [np.maximum(0, np.maximum(low[a] - index[a], index[a] - high[a])) * spacing[2 - a] for a in range(3)]
    far = np.sqrt(sum(step**2 for step in steps))
    depths = [(np.minimum(index[a] - low[a], high[a] - index[a]) + 1) * spacing[2 - a] for a in range(3)]
    case = derive(
        array,
        spacing,
        {
            "around": {"shell": {"of": "tumour", "inner_mm": 1.1, "outer_mm": 4.3}},
            "inside": {"core": {"of": "tumour", "depth_mm": 1.3}},
        },
    )
    assert np.array_equal(mask(case, "around", array), (far > 1.1) & (far <= 4.3))
    assert np.array_equal(mask(case, "inside", array), (array == 1) & (np.min(depths, axis=0) > 1.3))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 2.0)])
def test_a_ball_in_closed_form(spacing: Spacing) -> None:
    shape = tuple(int(64 / s) | 1 for s in reversed(spacing))
    grid = np.indices(shape)
    centre = [(n - 1) / 2 for n in shape]
    radius = np.sqrt(sum(((grid[a] - centre[a]) * spacing[2 - a]) ** 2 for a in range(3)))
    array = (radius <= 20).astype(np.uint8)
    case = derive(
        array,
        spacing,
        {
            "around": {"shell": {"of": "tumour", "inner_mm": 3, "outer_mm": 8}},
            "inside": {"core": {"of": "tumour", "depth_mm": 5}},
        },
    )
    # The nearest centre in the ball, or outside it, lies up to a voxel's diagonal behind its surface.
    diagonal = math.hypot(*spacing)
    around, inside = mask(case, "around", array), mask(case, "inside", array)
    assert around[(radius > 23) & (radius <= 28 - diagonal)].all()
    assert not around[(radius > 28.001) | (radius <= 23 - diagonal)].any()
    assert inside[radius <= 15].all()
    assert not inside[radius > 15 + diagonal].any()
    voxel = math.prod(spacing)
    # 5 %: the voxels' centres stay behind the surfaces by a part of a voxel, which is less than a fifth of a mm each.
    assert around.sum() * voxel == pytest.approx(4 / 3 * math.pi * (28**3 - 23**3), rel=0.05)
    assert inside.sum() * voxel == pytest.approx(4 / 3 * math.pi * 15**3, rel=0.05)


def test_what_lies_on_a_limit() -> None:
    array = np.zeros((1, 1, 12), dtype=np.uint8)
    array[0, 0, 1:4] = 1
    section = {
        "near": {"shell": {"of": "tumour", "outer_mm": 1.8}},
        "far": {"shell": {"of": "tumour", "inner_mm": 1.8, "outer_mm": 3.6}},
    }
    case = derive(array, (0.6, 1.0, 1.0), section)
    # 3 x 0.6 mm is the limit of both: the voxel on it belongs to the one that ends there.
    assert np.flatnonzero(mask(case, "near", array)).tolist() == [0, 4, 5, 6]
    assert np.flatnonzero(mask(case, "far", array)).tolist() == [7, 8, 9]


def test_components_of_equal_size_come_by_their_place() -> None:
    array = np.zeros((3, 9, 9), dtype=np.uint8)
    places = [(0, 6, 6), (0, 0, 7), (2, 2, 0), (0, 3, 0)]
    for z, y, x in places:
        array[z, y : y + 2, x] = 1
    array[2, 6:9, 5] = 1
    case = derive(array, (1.0, 1.0, 1.0), {"lesion": {"each": {"of": "tumour"}}}, ("lesion",))
    firsts = [tuple(np.argwhere(region.full(array.shape))[0].tolist()) for region in case.regions.values()]
    assert firsts == [(2, 6, 5), (0, 0, 7), (0, 3, 0), (0, 6, 6), (2, 2, 0)]
    assert list(case.regions) == [f"lesion_{n}" for n in range(1, 6)]
    again = derive(array, (1.0, 1.0, 1.0), {"lesion": {"each": {"of": "tumour"}}}, ("lesion_4", "lesion_2"))
    assert list(again.regions) == ["lesion_2", "lesion_4"]


def test_small_components_are_left_out_by_volume() -> None:
    array = np.zeros((5, 9, 9), dtype=np.uint8)
    array[0, 0, :5], array[2, 2, :4], array[4, 4, :3] = 1, 1, 1
    section = {"lesion": {"each": {"of": "tumour", "min_volume_mm3": 4 * 0.3}}}
    case = derive(array, (0.5, 0.6, 1.0), section)
    assert list(case.regions) == ["tumour", "lesion_1", "lesion_2"]
    section["lesion"]["each"]["min_volume_mm3"] = 2
    case = derive(array, (0.5, 0.6, 1.0), section, ("lesion",))
    assert case.regions == {}
    assert [(entry["roi"], entry["reason"]) for entry in case.excluded] == [
        ("lesion", "no component of tumour has 2 mm3 (the largest has 1.5)")
    ]


def test_rois_by_name_and_number_in_the_order_of_the_segmentation() -> None:
    array = np.zeros((4, 4, 4), dtype=np.uint8)
    array[0], array[2], array[3] = 1, 2, 5
    section = {"most": {"union": [5, "tumour"]}, "first": {"largest": {"of": "most"}}}
    assert list(derive(array, (1.0, 1.0, 1.0), section).regions) == ["tumour", "node", "bone", "first", "most"]
    case = derive(array, (1.0, 1.0, 1.0), section, ("first", 5, "1", "tumour"))
    assert list(case.regions) == ["tumour", "bone", "first"]
    assert np.array_equal(mask(case, "first", array), array == 1)


def test_every_empty_roi_has_its_reason() -> None:
    array = np.zeros((6, 8, 8), dtype=np.uint8)
    array[2:4, 2:5, 2:5] = 1
    array[:, 7, 7] = 5
    section = {
        "deep": {"core": {"of": "tumour", "depth_mm": 2}},
        "deeper": {"core": {"of": "deep", "depth_mm": 1}},
        "outside": {"shell": {"of": "tumour", "inner_mm": 50, "outer_mm": 60}},
        "node_around": {"shell": {"of": "node", "outer_mm": 2}},
        "around": {"shell": {"of": "tumour", "outer_mm": 1, "minus": ["node", "deep"]}},
        "bare": {"shell": {"of": "tumour", "outer_mm": 1, "minus": ["around"]}},
        "touching": {"intersection": ["tumour", "bone"]},
        "common": {"intersection": ["tumour", "node"]},
        "nothing": {"union": ["node", "deep"]},
        "something": {"union": ["node", "tumour"]},
        "lesion": {"each": {"of": "tumour"}},
        "dots": {"each": {"of": "node"}},
        "stranger": {"largest": {"of": "spleen"}},
    }
    case = derive(array, (1.0, 1.0, 1.0), section, (*section, "lesion_2", "liver", 9))
    assert list(case.regions) == ["around", "lesion_1", "something"]
    assert case.notes == ["around: node, deep are empty in this case", "something: node is empty in this case"]
    assert {entry["roi"]: entry["reason"] for entry in case.excluded} == {
        "liver": f"the case has no ROI of this name (it has: tumour, node, bone, {', '.join(sorted(section))})",
        "9": f"the case has no label of this number (it has: tumour, node, bone, {', '.join(sorted(section))})",
        "deep": "no voxel of tumour lies more than 2 mm inside it",
        "deeper": "deep, which it is derived from, is empty in this case",
        "outside": "no voxel outside tumour lies more than 50 and at most 60 mm from it",
        "node_around": "node, which it is derived from, is empty in this case",
        "bare": "no voxel outside tumour, without around, lies more than 0 and at most 1 mm from it",
        "touching": "tumour, bone have no voxel in common",
        "common": "node, which it is the intersection of, is empty in this case",
        "nothing": "node, deep, which it is the union of, are empty in this case",
        "lesion_2": "lesion has only 1 component(s) in this case",
        "dots": "node, which it is derived from, is empty in this case",
        "stranger": "spleen, which it is derived from, is empty in this case",
    }
    assert all(entry["advice"] for entry in case.excluded)


def test_only_the_neighbourhood_of_an_roi_is_looked_at() -> None:
    """A shell and its like in a large scan are made within boxes about the ROI, wherever it lies."""
    section = {
        "around": {"shell": {"of": "tumour", "outer_mm": 5, "minus": ["bone"]}},
        "inside": {"core": {"of": "tumour", "depth_mm": 2}},
        "lesion": {"each": {"of": "tumour"}},
    }
    small = np.zeros((30, 30, 30), dtype=np.uint8)
    small[10:18, 11:20, 9:21] = 1
    small[20:22] = 5
    for place in itertools.product((0, 60), repeat=3):
        large = np.zeros((90, 90, 90), dtype=np.uint8)
        corner = tuple(slice(start, start + 30) for start in place)
        large[corner] = small
        found, expected = derive(large, (1.0, 1.0, 1.5), section), derive(small, (1.0, 1.0, 1.5), section)
        assert list(found.regions) == list(expected.regions)
        for name, region in expected.regions.items():
            assert found.regions[name].mask.shape == region.mask.shape
            assert np.array_equal(found.regions[name].full(large.shape)[corner], region.full(small.shape))
