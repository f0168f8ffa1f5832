"""Which steps a configuration asks for, and what decides them."""

from typing import Any

import pytest

from radloom.config import complete
from radloom.engine.steps import STABILITY, STEPS, active_steps, step_files, step_params


def config(**sections: Any) -> dict[str, Any]:
    return complete({"results": "results", "cohort": "cohort.tsv", **sections})


@pytest.mark.parametrize(
    ("sections", "found"),
    [
        ({}, set()),
        ({"perturb": {"count": 1}}, {"perturb", "stability"}),
        ({"stability": {"repeats": True}}, {"stability"}),
        ({"features": "f.csv", "perturb": {"count": 1}}, set()),
        ({"features": "f.csv", "stability": {"repeats": True}}, {"stability"}),
    ],
)
def test_stability_is_left_out_where_there_is_nothing_to_compare(sections: dict[str, Any], found: set[str]) -> None:
    assert {"perturb", "stability"} & set(active_steps(config(**sections))) == found


def test_perturbations_follow_what_the_steps_that_they_repeat_do() -> None:
    params = step_params(STEPS["perturb"], config(extract={"min_voxels": 65}, resample={"interpolator": "linear"}))
    assert params["extract.min_voxels"] == 65
    assert params["resample.interpolator"] == "linear"
    assert params["calibrate.round_hu"] is True
    assert params["rotation"] == 13
    assert "params" not in params


@pytest.mark.parametrize("model", ["model_cox", "model_logistic"])
def test_a_model_reads_the_stability_where_it_filters_by_it(model: str) -> None:
    assert STABILITY not in step_files(STEPS[model], config())
    assert STABILITY in step_files(STEPS[model], config(model={"min_icc": 0.75}))


@pytest.mark.parametrize("step", ["perturb", "sensitivity"])
def test_steps_that_extract_again_depend_on_the_packages_of_extract(step: str) -> None:
    assert set(STEPS["extract"].packages) <= set(STEPS[step].packages)
    assert {"edt", "connected-components-3d", "scipy", "trimesh", "scikit-image"} <= set(STEPS["extract"].packages)


def test_postprocessing_reads_the_image_only_where_an_roi_is_cut_to_the_body() -> None:
    image = "calibrate/image.nii.gz"
    assert image not in step_files(STEPS["postprocess"], config())
    own = {"inside_body": True, "labels": {"liver": {"closing_mm": 1}}}
    for section in (own, {"labels": {"liver": {"inside_body": True}}}):
        assert image in step_files(STEPS["postprocess"], config(postprocess=section))
