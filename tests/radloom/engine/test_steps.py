"""Which steps a configuration asks for, and what decides them."""

from typing import Any

import pytest

from radloom.config import complete
from radloom.engine.steps import (
    STABILITY,
    STEPS,
    active_steps,
    case_params,
    segmentation_mb,
    segmentation_minutes,
    step_columns,
    step_files,
    step_params,
    uses_gpu,
)


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
    params = step_params(STEPS["perturb"], config(extract={"min_voxels": 65}))
    assert params["extract.min_voxels"] == 65
    assert params["calibrate.round_hu"] is True
    assert params["rotation"] == 13
    assert "params" not in params


def test_a_threshold_of_uncertainty_runs_the_postprocessing_again_and_not_the_net() -> None:
    section = {"samples": 5, "maps": False}
    free, limited = (
        config(segment={"source": "model", "model": "m", "uncertainty": section | limits})
        for limits in ({}, {"max_volume_cv": 0.1, "rois": ["liver"]})
    )
    assert step_params(STEPS["segment"], free) == step_params(STEPS["segment"], limited)
    assert step_params(STEPS["segment"], free)["uncertainty"] == section
    expected = {"max_volume_cv": 0.1, "min_pairwise_dice": None, "rois": ["liver"]}
    assert step_params(STEPS["postprocess"], limited)["segment.uncertainty"] == expected
    assert "segment.uncertainty" not in step_params(STEPS["postprocess"], free)
    assert step_files(STEPS["postprocess"], limited)[-1] == "segment/uncertainty.json"
    assert step_files(STEPS["postprocess"], free) == ("segment/labels.nii.gz", "segment/labels.json")


def test_a_mask_is_not_sampled() -> None:
    asked = config(segment={"uncertainty": {"samples": 5, "max_volume_cv": 0.1}, "saliency": {"classes": ["liver"]}})
    assert step_params(STEPS["segment"], asked) == step_params(STEPS["segment"], config())
    assert step_files(STEPS["postprocess"], asked) == step_files(STEPS["postprocess"], config())


def test_what_decides_the_labels_of_an_outside_segmenter() -> None:
    segment = {"source": "command", "command": "seg {image} {labels}", "labels": {"5": "liver"}}
    base = config(segment=segment)
    for key, value in {"command": "seg -x {image} {labels}", "command_version": "2", "device": "cpu"}.items():
        assert step_params(STEPS["segment"], config(segment=segment | {key: value})) != step_params(
            STEPS["segment"], base
        )
    idle = {"command_timeout_s": 9, "batch": 2, "tta": ["x"], "model": "m", "uncertainty": {"samples": 5}}
    assert step_params(STEPS["segment"], config(segment=segment | idle)) == step_params(STEPS["segment"], base)
    assert step_files(STEPS["segment"], base) == ("calibrate/image.nii.gz",)
    for source in ("mask", "model"):
        other = config(segment={"source": source, "model": "m"})
        asked = config(segment={"source": source, "model": "m", "command": "seg", "command_version": "2"})
        assert step_params(STEPS["segment"], other) == step_params(STEPS["segment"], asked)


@pytest.mark.parametrize(
    ("source", "device", "gpus"),
    [("mask", "cuda", 0), ("model", "cuda", 1), ("model", "cpu", 0), ("command", "cuda", 1), ("command", "cpu", 0)],
)
def test_gpus_that_a_segmentation_job_asks_for(source: str, device: str, gpus: int) -> None:
    assert uses_gpu(config(segment={"source": source, "device": device})) == gpus


def test_minutes_that_a_segmentation_may_take() -> None:
    assert segmentation_mb(config(segment={"source": "model"})) == 8000
    samples = {"source": "model", "uncertainty": {"samples": 3}}
    assert segmentation_mb(config(segment=samples)) == 8000 + 2 * 1500
    ensemble = {**samples, "model": {"a": "x", "b": "y"}, "device": "cuda", "cases_at_once": 2}
    assert segmentation_mb(config(segment=ensemble)) == 2 * (8000 + 5 * 1500)
    assert segmentation_minutes(config(segment={"source": "command", "command_timeout_s": 1800})) == 30
    assert segmentation_minutes(config(segment={"source": "mask", "command_timeout_s": 1800})) == 10


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


def test_how_labels_are_predicted_is_in_the_key_and_the_batch_is_not() -> None:
    def params(**settings: object) -> dict[str, object]:
        return step_params(STEPS["segment"], config(segment={"source": "model", "model": "m", **settings}))

    assert params(batch=3) == params(batch="auto")
    for setting in ({"tta": ["x"]}, {"device": "cpu"}, {"cpu_precision": "model"}):
        assert params(**setting) != params()
    masks = {"source": "mask", "tta": ["x"], "device": "cpu", "cpu_precision": "model", "batch": 3}
    assert step_params(STEPS["segment"], config(segment=masks)) == step_params(STEPS["segment"], config())


def test_how_many_processes_make_batches_trains_no_net_again() -> None:
    def params(**settings: object) -> dict[str, object]:
        return step_params(STEPS["train_segmentation"], config(train_segmentation={"name": "net", **settings}))

    assert params(workers=3) == params()
    assert params(threads=3) != params()


def test_resampling_looks_at_headers_and_cells_only_where_scans_are_matched() -> None:
    spec = STEPS["resample"]
    assert "ingest/acquisition.json" not in step_files(spec, config())
    assert step_columns(spec, config()) == ()
    matched = config(resample={"match": {"fwhm_mm": 2, "thickness_mm": 5, "thickness_column": "slice_thickness"}})
    assert "ingest/acquisition.json" in step_files(spec, matched)
    assert step_columns(spec, matched) == ("psf_fwhm_mm", "kernel", "slice_thickness")


def test_calibration_looks_at_scanner_and_day_only_with_a_table_and_without_own_values() -> None:
    spec = STEPS["calibrate"]
    readings = ("water_hu", "air_hu", "water_hu_sd", "air_hu_sd")
    assert step_columns(spec, config()) == (*readings, "centre")
    assert "phantom_day" not in step_params(spec, config())
    with_table = config(calibrate={"phantom_table": "p.tsv", "centres": {"A": {"drift": 0.01}}})
    assert step_columns(spec, with_table)[5:] == ("scanner", "calibration_day")
    params = step_params(spec, with_table)
    assert "phantom_table" not in params, "its content counts, not where it lies"
    row = {"centre": "A", "scanner": "S", "calibration_day": "3"}
    assert case_params(spec, params, row)[1] == row, "with its centre: the table may tell scanners apart by it"
    assert case_params(spec, step_params(spec, config()), {"centre": "A"})[1] == {}
    assert case_params(spec, params, row)[0]["centre"] == {"drift": 0.01}
    own = row | {"water_hu": "1", "air_hu": "-1001"}
    assert case_params(spec, params, own)[1] == {"water_hu": "1", "air_hu": "-1001"}
    assert "ingest/acquisition.json" not in step_files(spec, with_table)
    by_header = config(calibrate={"phantom_table": "p.tsv", "scanner_column": "scanner_model"})
    assert "ingest/acquisition.json" in step_files(spec, by_header)
    assert "ingest/acquisition.json" not in step_files(spec, config(calibrate={"scanner_column": "scanner_model"}))
    assert case_params(spec, params, own)[0]["centre"] == {}
