"""The methods text says what the run did, with its figures, and nothing of what it did not do."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import pandas as pd
import pytest
from run_material import (
    FEATURES,
    HASH,
    PARAMETER_FILE,
    PARAMS,
    SPLITS,
    estimate,
    facts,
    features_elsewhere,
    material,
    model_table,
    no_estimate,
    performance_with,
    planned,
    provenance,
    with_settings,
)

from radloom import methods_validation, references
from radloom.methods_text import methods_markdown
from radloom.recalibration import RECALIBRATIONS
from radloom.run_facts import RunFacts


@cache
def _plain_text() -> str:
    return methods_markdown(facts(), "A cohort")


def _text(**changes: Any) -> str:
    return methods_markdown(facts(**changes), "A cohort") if changes else _plain_text()


def _section(text: str, heading: str) -> str:
    found = re.search(rf"^## {heading}\n\n(.*?)\n\n#", text, re.DOTALL | re.MULTILINE)
    assert found, f"no section {heading}"
    return found[1]


def _with(step: str, **settings: Any) -> list[dict[str, Any]]:
    """The provenance with other settings of a step; of None the step is not there."""
    return [one | {"params": one["params"] | settings} if one["step"] == step else one for one in provenance()]


def test_the_cohort_is_counted_without_the_figures_of_single_cases() -> None:
    told = _section(_text(), "Patients")
    assert "24 scans of 24 patients from 2 centres: A (12), B (12)" in told
    assert "2 scans were excluded: 1 when the images were read, because the mask is empty (1)" in told
    assert "because the ROI of ... has ... voxels, at least ... are needed (1)" in told
    assert "22 scans of 22 patients from 2 centres: A (11), B (11)" in told
    assert "1 of 88 feature values could not be computed" in told
    assert "missing: age in 1" in told


def test_images_are_told_with_their_spacing_before_and_after() -> None:
    told = _section(_text(), "Images")
    assert "23 CT scans could be read (nifti (12), dicom (11))" in told
    assert "0.800 mm in plane and 4 (3 to 4) mm between slices" in told
    assert "Kernel: soft (14), sharp (8)." in told
    assert "to 1 x 1 x 3 mm voxels by cubic B-spline interpolation" in told
    assert "in 11 scans from the values of water and air measured in a phantom: A (11)" in told
    assert "in 12 scans from the drift that is given for the scanner: B (12)" in told
    assert "HU were then rounded to whole numbers." in told
    assert "not rounded" in _text(provenance=_with("calibrate", round_hu=False))
    assert "trilinear" in _text(provenance=_with("resample", interpolator="linear"))


def test_an_axis_that_keeps_its_spacing_is_said_to() -> None:
    acquisition = material().acquisition.assign(resampled_spacing_z=lambda t: t["spacing_z"])
    told = _text(provenance=_with("resample", spacing=[1, 1, 0]), acquisition=acquisition)
    assert "to 1 mm along x and 1 mm along y, the spacing along z being that of each scan by cubic" in told
    kept = _text(provenance=_with("resample", spacing=[0, 0, 0]), acquisition=acquisition)
    assert "Images were not resampled" in kept
    assert "interpolation" not in _section(kept, "Images")


def test_regions_are_told_by_where_they_came_from() -> None:
    told = _section(_text(), "Regions of interest")
    assert "2D U-Net, liver_net [" in told
    assert "tumour = label 1 at 1.50 x 1.50 mm in plane, in a window of -100 to 200 HU" in told
    assert "mean Dice of tumour 0.87" in told
    assert "tumour: closing with a ball of 4 mm radius, the largest 26-connected component kept and cavities" in told
    assert "tumour 0.970" in told
    masks = _text(provenance=_with("segment", source="mask", labels={2: "tumour"}))
    assert "the masks that came with the scans (tumour = label 2)" in masks
    assert "U-Net" not in masks
    assert "Ronneberger" not in masks
    volumes = [dict(one) for one in provenance()]
    for one in volumes:
        if one["step"] == "segment":
            net = one["resources"]["model"] | {"kind": "generalised_unet", "dimensions": 3, "spacing": [3, 3, 3]}
            one["resources"] = {"model": net}
    told = _section(_text(provenance=volumes), "Regions of interest")
    assert "a 3D U-Net, liver_net [" in told
    assert "in overlapping windows" in told
    assert "in plane" not in told
    outside = _with(
        "segment", source="command", command="/opt/seg/Total -i {image}", command_version="2.4", labels={5: "liver"}
    )
    told = _section(_text(provenance=outside), "Regions of interest")
    assert "by a program outside of Radloom, Total (2.4): liver = label 5." in told
    assert "/opt" not in told
    assert "U-Net" not in told
    more = _with("postprocess", labels={}, inside_body=True, body_hu=-250, erosion_mm=1, smoothing_mm=2, components=3)
    assert (
        "what lies outside the body (image above -250 HU) cut off, erosion with a ball of 1 mm radius, smoothing of "
        "each component by a Gaussian of 2 mm at unchanged volume, the 3 largest 26-connected components kept "
        "and cavities"
    ) in _text(provenance=more)
    parted = _with("postprocess", labels={}, components="largest", neck_mm=6)
    assert "component (parts between which a ball of 6 mm radius can't pass being apart) kept" in _text(
        provenance=parted
    )
    plain = _with("postprocess", labels={}, fill_holes=False, components="all")
    assert "Regions were not post-processed." in _text(provenance=plain)


def _with_nets(nets: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The provenance of a run whose segmentation used these nets."""
    hashed = {name: net | {"sha256": HASH} for name, net in nets.items()}
    return [one | {"resources": hashed} if one["step"] == "segment" else one for one in provenance()]


def test_a_net_of_our_own_training_is_told_by_part_with_its_licence() -> None:
    dice = {
        "test": {"liver": {"mean_dice": 0.91, "lowest_dice": 0.5, "cases": 2}},
        "validation": {"liver": {"mean_dice": 0.95, "lowest_dice": 0.9, "cases": 3}},
    }
    net = {"name": "mine", "kind": "unet", "dimensions": 2, "dice": dice, "licence": "CC-BY-4.0"}
    told = _section(_text(provenance=_with_nets({"model": net})), "Regions of interest")
    assert "a mean Dice of liver 0.91 on data that its training hadn't seen." in told
    assert "a mean Dice of liver 0.95 on the data by which the best epoch was chosen" in told
    assert "The licence of its weights is CC-BY-4.0." in told
    chosen = {"dice": {"validation": dice["validation"]}}
    told = _section(_text(provenance=_with_nets({"model": net | chosen})), "Regions of interest")
    assert "hadn't seen" not in told, "the validation chose the epoch"
    # A class may be called as a part is.
    odd = {"dice": {"test": {"mean": 0.8, "minimum": 0.1}}}
    told = _section(_text(provenance=_with_nets({"model": net | odd})), "Regions of interest")
    assert "a mean Dice of test 0.80 on data that its training hadn't seen." in told


def test_a_net_that_looks_at_a_region_tells_of_the_other_net() -> None:
    net = {
        "name": "lesion",
        "kind": "generalised_unet",
        "dimensions": 3,
        "classes": {"1": "lesion"},
        "region": {"label": "liver", "neck_mm": 6.0, "margin": 2, "outside_hu": -200.0},
        "region_net": {"name": "liver net", "weights_sha256": "ef" * 32},
    }
    told = _section(_text(provenance=_with_nets({"model": net})), "Regions of interest")
    assert (
        "the largest part of what another net liver net finds as liver, with a margin of 2 voxels; the rest of the box "
        "around it has -200 HU. liver = label 2, where the net finds nothing."
    ) in told
    assert "The weights of that net have the SHA-256 efefefefefefefef" in told


def test_a_training_is_told_with_its_figures() -> None:
    net = {
        "classes": {"1": "organ", "2": "tumour"},
        "spacing": [1.5, 1.5],
        "architecture": {"kind": "unet", "dimensions": 2},
        "dice": {
            "test": {"organ": {"mean_dice": 0.914, "lowest_dice": 0.5, "cases": 2}},
            "validation": {"organ": {"mean_dice": 0.95, "lowest_dice": 0.9, "cases": 3}},
        },
        "training": {
            "data": "7 cases, 6 patients, 2 centres",
            "cases": {"train": 7, "validation": 3, "test": 2},
            "epochs": 20,
            "best_epoch": 17,
            "settings": {"learning_rate": 0.001, "batch": 4, "accumulate": 2, "processes": 1},
        },
    }
    told = _section(_text(trained=net), "Regions of interest")
    assert "a 2D net (unet) was trained to find organ and tumour at 1.50 x 1.50 mm in plane, on 7 cases" in told
    assert "(3 for validation and 2 for test kept apart, by patient)" in told
    assert "learning rate 0.001, batches of 8, 20 epochs, of which number 17 was taken by the mean Dice" in told
    assert "Its mean Dice was organ 0.91 on data that its training hadn't seen." in told
    bare = net | {"dice": {}, "training": net["training"] | {"cases": {"train": 7}}}
    told = _section(_text(trained=bare), "Regions of interest")
    assert "of which number 17 was taken. No feature" in told
    assert "On these regions a" not in _text(), "in a run without a training"


def test_an_ensemble_and_its_samples_are_told() -> None:
    nets = {
        "model.a": {"name": "first", "kind": "unet", "dimensions": 2, "dice": {"liver": {"mean": 0.9}}},
        "model.b": {"name": "second", "kind": "transunet", "dimensions": 2, "licence": "MIT"},
    }
    run = _with_nets(nets)
    segment = {"uncertainty": {"samples": 3, "maps": False}, "tta": ["x", "y"]}
    limits = {"segment.uncertainty": {"max_volume_cv": 0.3, "min_pairwise_dice": None, "rois": ["liver"]}}
    of_step = {"segment": segment, "postprocess": limits}
    run = [one | {"params": one["params"] | of_step.get(one["step"], {})} for one in run]
    told = _section(_text(provenance=run), "Regions of interest")
    assert "by an ensemble of 2 nets" in told
    assert "Net 1 is a 2D U-Net, first" in told
    assert "Net 2 is a 2D net (transunet), second" in told
    assert "The description of first states a mean Dice of liver 0.90" in told
    assert "mirrored along x and y; the mean of all 4 images counts" in told
    assert "estimated from 3 draws of the dropout of each net" in told
    assert "a region (liver) whose volume's coefficient of variation is above 0.3" in told
    alone = _section(_text(), "Regions of interest")
    assert "uncertainty" not in alone
    assert "mirrored" not in alone


def test_features_are_counted_by_class_and_their_settings_are_told() -> None:
    told = _section(_text(), "Features")
    assert "4 features of each region: first order 1, grey-level co-occurrence (GLCM) 2, shape 1" in told
    assert "by image type: original 3, wavelet 1" in told
    assert "stationary wavelet transform (haar, 1 level, all bands)" in told
    assert "within -150 to 250 HU" in told
    assert "bins of 20 HU, with edges at multiples of the width" in told
    assert "Wavelet bins of 10." in told
    assert "depart from IBSI's" in told


def test_ibsi_definitions_are_told_only_where_they_were_used() -> None:
    told = _section(_text(provenance=_with("extract", ibsi=True, outlier_sigma=3)), "Features")
    assert "IBSI's definitions were used (extract.ibsi)" in told
    assert "depart from IBSI's" not in told
    assert "the first of which begins at -150 HU" in told
    assert "and within 3 standard deviations of the region's mean" in told


def test_a_number_of_bins_has_no_width() -> None:
    params = PARAMETER_FILE | {"setting": {"binCount": 32}, "image_types": {"Original": {}}}
    steps = [one | {"resources": {"params": params}} if one["step"] == "extract" else one for one in provenance()]
    told = _section(_text(provenance=steps), "Features")
    assert "32 bins of equal width over the region's range for textures" in told
    assert "multiples" not in told


def test_the_extraction_of_the_statistics_is_the_one_that_is_described() -> None:
    other = PARAMETER_FILE | {"setting": {"binWidth": 5}}
    steps = [
        one | {"resources": {"params.coarse": PARAMETER_FILE, "params.fine": other}}
        if one["step"] == "extract"
        else one
        for one in provenance()
    ]
    params = PARAMS | {"model": PARAMS["model"] | {"extraction": "fine"}}
    told = _text(provenance=steps, params=params, further_extractions=["coarse"])
    assert "bins of 5 HU" in told
    assert "The statistics use the extraction fine; others are coarse." in told


def test_stability_and_sensitivity_are_told_with_their_amplitudes() -> None:
    told = _section(_text(), "Stability of features")
    assert "extracted again 10 times from perturbed images" in told
    for part in ("rotation (within 13 degrees)", "shift (within 0.500 voxel)", "contour drawn anew", "22 cases"):
        assert part in told
    assert "ICC(2,1)" in told
    assert "below 0.75 (the lower end of the 95 % interval)" in told
    assert "1 of 4 features left out by model.min_icc 0.75" in told
    assert "bin widths of 10, 50 HU" in told
    without = _text(stability=None, sensitivity=material().sensitivity.iloc[:0], provenance=[], params={})
    assert "## Stability" not in without
    for gone in ("Zwanenburg A et al. Assessing", "Shrout", "Koo", "Lin LI"):
        assert gone not in without


def test_harmonisation_is_told_with_its_batches() -> None:
    told = _section(_text(), "Harmonisation")
    assert "2 batches by `kernel` (soft: 14, sharp: 8), with parametric priors" in told
    assert "keeping the effect of `age`" in told
    assert "Batches of fewer than 5 cases were merged into one." in told
    assert "training cases of every split alone" in told
    assert "a median of 40.0 % of the variance before and 5.0 % after" in told
    assert "ComBat warned: small batches" in told


def test_one_batch_and_no_harmonisation_are_said_plainly() -> None:
    one = material().cohort.assign(kernel="soft")
    assert "There is one batch by `kernel`: ComBat had nothing to harmonise." in _text(cohort=one)
    performance = material().performance
    plain = _text(harmonized=None, performance=performance[performance["arm"] != "features_combat"], diagnostics=None)
    assert _section(plain, "Harmonisation").startswith("Features were not harmonised.")
    assert "harmonising" not in plain
    assert "Johnson" not in plain


def test_models_are_told_with_endpoint_penalty_and_refusal() -> None:
    told = _section(_text(), "Models")
    assert (
        "Cox model of `days`, event `died` (22 of 22 included patients, 12 events): elastic net (l1_ratio 0.5)" in told
    )
    assert "the least partial-likelihood deviance in 9-10-fold cross-validation inside the training cases" in told
    assert "Logistic model of `remission`: not fitted, 3 events among 22 cases, 6 needed." in told
    assert "absolute Spearman correlation above 0.85" in told
    assert "harmonising (in the arms that say so)" in told
    assert "don't rely" not in told
    marked = material().coefficients.assign(override="true")
    assert "don't rely on it" in _section(_text(coefficients=marked), "Models")


def test_the_endpoint_is_that_of_the_analysis_plan_alone() -> None:
    told = _section(_text(**planned(time="months", event="relapse", covariates=["stage"])), "Models")
    assert "Cox model of `months`, event `relapse`" in told
    assert "Clinical predictors: `stage`" in told
    # What a section of a model may have said before there was a plan is not looked at.
    old = PARAMS | {"analysis_plan": {}, "model_cox": PARAMS["model_cox"] | {"time": "days", "event": "died"}}
    unknown = _text(params=old, provenance=[])
    assert "`days`" not in unknown
    assert "`died`" not in unknown


def test_validation_names_what_is_in_the_table_alone() -> None:
    told = _section(_text(), "Validation")
    assert "5-fold cross-validation" in told
    assert "each of the two centres was predicted by models of the other, in both directions" in told
    assert "The seed of the random splits and of the bootstrap was 7." in told
    assert "Harrell's C [" in told
    assert "200 bootstrap samples" in told
    assert "6 of 25 estimates were not estimable and are given as such: 0 events (6)." in told
    performance = material().performance
    inside = _text(performance=performance[performance["split"] == "cross-validation"])
    assert "in both directions" not in inside
    unknown = _text(performance=performance.assign(split="by the moon"))
    assert "Validation: by the moon." in unknown


def test_the_hash_of_the_plan_is_told_and_a_mixture_of_plans_is_not_hidden() -> None:
    assert f"every table of the models has its hash, {HASH} " in _section(_text(), "Models")
    other = material().coefficients.assign(analysis_plan="0123456789ab")
    mixed = _section(_text(coefficients=other), "Models")
    assert f"follow different analysis plans (0123456789ab, {HASH}): they don't belong together" in mixed


@pytest.mark.parametrize(
    ("section", "changes", "there", "gone"),
    [
        ("model", {"transformation": "signed_log"}, "sign(x) log(1 + |x| / s)", "Yeo"),
        ("model", {"transformation": "yeo-johnson"}, "after Yeo and Johnson [", "sign(x)"),
        ("model", {"max_terms": 12}, "keeping the 12 features with the largest score statistic", ""),
        ("model", {"min_icc": None}, "it was settled which batches are small", "which features are stable"),
        ("model", {"refits": 150}, "which features are stable and which batches are small", "rough figure"),
        ("model_cox", {"penalty": "1se"}, "within one standard error of the least in 9-10-fold", "that of the least"),
        ("model_cox", {"recalibration": "baseline"}, "(recalibration of the baseline)", "not recalibrated"),
        ("model_cox", {"recalibration": "none"}, "Predicted risks were not recalibrated.", "inner folds had held out"),
        ("model_cox", {"l1_ratio": 1}, "lasso [", "elastic net ("),
        ("harmonize", {"method": "covbat"}, "components that hold 95 % of the variance", "by ComBat ["),
        ("harmonize", {"eb": False}, "without empirical Bayes", "parametric priors"),
        ("harmonize", {"parametric": False}, "non-parametric priors", "with parametric"),
        ("harmonize", {"mean_only": True}, "means only", ""),
        ("harmonize", {"reference_batch": "soft"}, "to the batch soft", "pooled mean"),
        ("harmonize", {"exempt": ["*shape*"]}, "1 feature (*shape*) kept the values as extracted", ""),
        ("harmonize", {"missing_covariates": "error"}, "A missing covariate would have stopped", "took the median, of"),
        ("harmonize", {"missing_covariates": "impute"}, "A missing covariate took the median", "covariate would have"),
        ("harmonize", {"covariates": []}, "keeping no covariate's effect", "missing covariate"),
        ("harmonize", {"small_batch": "exclude"}, "fewer than 5 cases were left out", "merged"),
    ],
)
def test_a_setting_changes_its_sentence(section: str, changes: dict[str, Any], there: str, gone: str) -> None:
    told = _text(**with_settings(section, **changes)).split("## References")[0]
    assert there in told
    assert not gone or gone not in told


def test_the_pipeline_has_the_order_of_its_steps() -> None:
    changes = with_settings("model", transformation="yeo-johnson", max_terms=9)
    told = _section(_text(**changes), "Models")
    steps = [
        *("filling missing feature values", "dropping constant", "Yeo and Johnson", "harmonising (in"),
        *("dropping the later", "keeping the 9 features", "filling missing clinical", "scaling every column"),
        *("choosing the penalty", "fitting."),
    ]  # fmt: skip
    places = [told.index(step) for step in steps]
    assert places == sorted(places)
    clinical = material().performance[material().performance["arm"] == "clinical"]
    alone = _section(_text(performance=clinical, coefficients=material().coefficients.iloc[:0]), "Models")
    for step in steps[:6]:
        assert step not in alone


def test_several_batch_columns_are_told_in_their_order() -> None:
    told = _section(_text(**with_settings("harmonize", batch=["centre", "kernel"])), "Harmonisation")
    assert "2 batches by `centre` (A: 11, B: 11), then 2 by `kernel` (soft (14), sharp (8))" in told
    assert "one column after the other in an order that was set beforehand [" in told
    assert "one column after the other" not in _text()


def test_arms_say_how_the_batch_is_in_the_model() -> None:
    stratum = {"arm": "features_centre", "metric": "c_index_within_centre"}
    told = _section(_text(performance=performance_with(estimate("c_index") | stratum)), "Models")
    assert "features_centre (features as extracted, and the batch as stratum of the Cox model" in told
    assert "unpenalised indicators" not in told
    both = performance_with(estimate("auc", model="logistic", arm="features_centre"))
    told = _section(_text(performance=both), "Models")
    assert "unpenalised indicators of the batch in the logistic model" in told
    assert "stratum" not in told


def test_an_arm_without_an_estimate_is_told_with_its_reason() -> None:
    rows = performance_with(no_estimate("c_index", "ComBat refused scan-05", arm="features_combat+clinical"))
    told = _section(_text(performance=rows, **planned(arms=["clinical", "features_centre"])), "Models")
    assert "Cox model, features_combat+clinical: not estimable, ComBat refused ...." in told
    assert (
        "planned, but there is nothing to make it of (no clinical predictor, or a single batch): features_centre"
        in told
    )


def test_the_gate_is_told_with_its_figures() -> None:
    def of(batch: str, **changes: Any) -> dict[str, str]:
        row = {"roi": "tumour", "variable": "died", "kind": "outcome", "batch": batch, "cramers_v_corrected": "0.31",
               "eta_squared": "", "test": "chi-square", "p": "0.02", "note": ""}  # fmt: skip
        return row | changes

    age: dict[str, str] = {"variable": "age", "kind": "covariate", "cramers_v_corrected": "", "eta_squared": "0.004",
                           "test": "Kruskal-Wallis", "p": "0.0001"}  # fmt: skip
    table = pd.DataFrame([of("soft"), of("sharp"), of("soft", **age), of("sharp", **age)])
    told = _section(_text(confounding=table), "Harmonisation")
    assert "compared between the batches (`kernel`): outcome `died` Cramer's V 0.31, chi-square test p = 0.020" in told
    assert "covariate `age` eta squared 0.004, Kruskal-Wallis test p < 0.001" in told
    assert "V is corrected for bias [" in told
    numeric = _text(confounding=table.iloc[2:])
    assert "Cramer" not in numeric
    assert "Before anything was fitted" not in _text()
    single = _text(confounding=table[table["batch"] == "soft"])
    assert "Before anything was fitted" not in single


def _inference(method: str, model: str = "cox", **changes: Any) -> pd.DataFrame:
    row = {"model": model, "term": "age", "coefficient": 0.1, "n": 22, "events": 12, "method": method, "note": ""}
    return model_table("inference", row | changes)


@pytest.mark.parametrize(
    ("method", "there"),
    [
        ("Cox, Efron ties", "penalty (22 cases, 12 events): Cox model, ties after Efron ["),
        ("Cox, Efron ties, stratified by site", "ties after Efron [9], stratified by site."),
        (
            "Cox, Efron ties, robust standard errors by site (25 groups)",
            "cluster-robust standard errors [10] by site (25 groups).",
        ),
    ],
)
def test_hazard_ratios_are_told_with_their_method(method: str, there: str) -> None:
    told = _section(_text(inference=_inference(method)), "Models")
    assert re.sub(r"\[\d+\]", "[]", there) in re.sub(r"\[\d+\]", "[]", told)
    assert ("Lin DY" in _text(inference=_inference(method))) == ("robust" in method)
    assert "Hazard ratios" not in _text()


def test_odds_ratios_by_firth_are_said_to_be_so() -> None:
    performance = performance_with(estimate("auc", model="logistic"))
    plain = _text(performance=performance, inference=_inference("maximum likelihood", "logistic"))
    assert "Odds ratios of the clinical predictors" in plain
    assert "maximum likelihood with Wald intervals" in plain
    assert "Firth" not in plain
    firth = _text(performance=performance, inference=_inference("Firth", "logistic"))
    assert "Firth's penalised likelihood [" in firth
    assert "Heinze G, Schemper M." in firth
    assert "Wald" not in firth


@pytest.mark.parametrize(
    ("kind", "there"),
    [("temperature", "one slope"), ("platt", "slope and intercept"), ("isotonic", "isotonic regression [")],
)
def test_the_recalibration_of_probabilities_is_told(kind: str, there: str) -> None:
    performance = performance_with(estimate("auc", model="logistic"))
    told = _text(performance=performance, **with_settings("model_logistic", recalibration=kind))
    assert f"Predicted probabilities were recalibrated by {there}" in told
    assert "stayed as they were (tables" not in told
    lost = performance_with(estimate("auc", model="logistic", note="fold 2: not recalibrated (few cases)"))
    told = _text(performance=lost, **with_settings("model_logistic", recalibration=kind))
    assert "the probabilities stayed as they were" in told
    # By hand the description of the model has it.
    saved = {"logistic": {"arms": {"features": {"recalibration": {"format": RECALIBRATIONS[kind].FORMAT}}}}}
    told = _text(performance=performance, params={}, provenance=[], models=saved)
    assert f"Predicted probabilities were recalibrated by {there}" in told
    none = _text(performance=performance, params={}, provenance=[], models={})
    assert "recalibrated" not in none


def test_gaps_and_lost_coefficients_of_the_covariates_model_are_counted() -> None:
    note = "2 missing cells filled with the median or the commonest word"
    told = _text(inference=_inference("Cox, Efron ties", note=note, coefficient=""))
    assert "In it 2 missing cells took the median" in told
    assert "1 of its 1 coefficient is not estimable" in told


def test_competing_events_take_the_absolute_risks_away() -> None:
    rows = {"cause": "event", "group": "all", "time": 200, "at_risk": 9, "estimate": 0.3}
    changes = planned(competing_event="other_death")
    told = _text(cumulative_incidence=model_table("cumulative_incidence", rows), **changes)
    assert "Cause-specific Cox model of `days`" in told
    assert "A competing event (`other_death`) ends the follow-up" in told
    assert "Aalen-Johansen estimates [" in told
    assert "at 200." in told
    assert "baseline hazard" not in told
    none = _text(**changes)
    assert "Aalen-Johansen" not in none
    for word in ("Cause-specific", "competing", "Aalen"):
        assert word not in _text()


def test_horizons_are_said_to_be_planned_only_where_they_are() -> None:
    rows = performance_with(estimate("auc", horizon=200.0), estimate("integrated_brier", horizon=300.0))
    assert "judged at 200 (in the unit of `days`), the horizon of the plan." in _text(performance=rows)
    unplanned = _text(performance=rows, **planned(horizons=[]))
    assert "judged at 200 (in the unit of `days`), the median time of the events: no horizon was planned" in unplanned
    unknown = _text(performance=rows, params={}, provenance=[])
    assert "judged at 200." in unknown
    assert "judged at" not in _text()


SURVIVAL_METRICS = {
    "auc": "cumulative/dynamic AUC at the horizons",
    "brier": "Brier score at the horizons, weighted for censoring",
    "scaled_brier": "scaled Brier score",
    "integrated_brier": "Brier score integrated up to the last horizon",
    "observed_expected": "observed (Kaplan-Meier) over expected risk",
    "calibration_in_the_large": "calibration in the large",
    "calibration_intercept": "calibration intercept",
    "calibration_slope": "calibration slope",
    "ici": "integrated calibration index",
}


@pytest.mark.parametrize("metric", SURVIVAL_METRICS)
def test_a_metric_is_told_only_where_it_has_an_estimate(metric: str) -> None:
    there = _section(_text(performance=performance_with(estimate(metric, horizon=200.0))), "Validation")
    lost = _section(_text(performance=performance_with(no_estimate(metric, "0 events", horizon=200.0))), "Validation")
    assert SURVIVAL_METRICS[metric] in there
    assert SURVIVAL_METRICS[metric] not in lost
    assert SURVIVAL_METRICS[metric] not in _section(_text(), "Validation")


def test_pairs_within_centres_are_told_and_why_they_lead() -> None:
    within = estimate("c_index_within_centre", leads="yes")
    told = _section(_text(performance=performance_with(within)), "Validation")
    assert "Harrell's C, of all pairs and of pairs within centres" in told
    assert "Centres differ in the share of cases with the event" in told
    assert "stratified by batch" not in told
    stratum = _section(_text(performance=performance_with(within | {"arm": "features_centre"})), "Validation")
    assert "not comparable between batches" in stratum
    assert "Centres differ" not in stratum
    followed = _section(_text(performance=performance_with(within | {"leads": ""})), "Validation")
    assert "Centres differ" not in followed


def test_pooled_and_worst_centres_are_told_where_they_are_estimable() -> None:
    pooled = estimate("c_index", centre="random effects")
    told = _section(_text(performance=performance_with(pooled)), "Validation")
    assert "pooled by random effects [" in told
    assert "Hartung and Knapp [" in told
    assert "; C on the logit scale; standard errors" in told
    assert "Prediction intervals" not in told
    assert "worst" not in told
    more = performance_with(
        pooled | {"prediction_low": 0.4, "prediction_high": 0.9}, estimate("c_index", centre="worst")
    )
    told = _section(_text(performance=more), "Validation")
    assert "Prediction intervals are for a new centre [" in told
    assert "The worst centre's discrimination" in told
    refused = performance_with(no_estimate("c_index", "1 centre", centre="random effects"))
    assert "random effects" not in _section(_text(performance=refused), "Validation")
    assert "(A)" in told
    assert "random effects, worst" not in told


def test_optimism_is_told_with_its_refits_and_only_where_there_are_any() -> None:
    rows = performance_with(estimate("c_index", split="optimism-corrected"))
    told = _section(_text(performance=rows), "Validation")
    assert "Optimism of discrimination was estimated in 150 bootstrap samples of patients drawn within centre" in told
    assert "rough figure" not in told
    assert "after Noma et al. [" in told
    assert "selection frequency" not in told
    few = _text(performance=rows, **with_settings("model", refits=4))
    assert "in 4 bootstrap samples" in few
    assert "With 4 of them it is no more than a rough figure." in few
    frequency = material().coefficients.assign(selection_frequency="0.4")
    assert "A term's selection frequency" in _text(performance=rows, coefficients=frequency)
    slope = performance_with(estimate("calibration_slope", split="optimism-corrected", horizon=200.0))
    assert "Optimism of the calibration slope was" in _text(performance=slope)
    assert "Optimism" not in _text()
    assert "Noma" not in _text()


def test_subgroups_are_told_with_their_groups() -> None:
    groups = [estimate("c_index", subgroup=f"age: {band}") for band in ("<50", "50-64")]
    told = _section(_text(performance=performance_with(*groups)), "Validation")
    assert "By group are also given discrimination: age (<50, 50-64)." in told
    lost = _text(performance=performance_with(no_estimate("c_index", "0 events", subgroup="age: <50")))
    assert "By group" not in lost


@pytest.mark.parametrize(
    ("note", "there"),
    [
        ("without A: 3 held-out cases of batches that the training cases lack not judged", "new_batch: error"),
        (
            "without A: 3 held-out cases of batches that the training cases lack not harmonised",
            "new_batch: passthrough",
        ),
        (
            "without A: 3 held-out cases of batches that the training cases lack harmonised by their own features",
            "new_batch: adapt",
        ),
    ],
)
def test_unseen_batches_are_told_by_what_became_of_them(note: str, there: str) -> None:
    rows = performance_with(estimate("auc", split=SPLITS[1], arm="features_combat", note=note))
    told = _section(_text(performance=rows), "Validation")
    assert there in told
    assert told.count("new_batch") == 1
    assert "new_batch" not in _text()


def test_a_locked_test_set_is_never_said_to_be_unseen_once_it_was_opened() -> None:
    lock = {"column": "centre", "value": "B"}
    assert "locked" not in _text()
    closed = _section(_text(**planned(test_set=lock)), "Validation")
    assert "A locked test set (`centre` B) was set aside: no model saw it, and it was not opened in this run." in closed
    rows = performance_with(estimate("c_index", split="locked-test", n=9))
    opened = _section(_text(performance=rows, **planned(test_set=lock, open_test_set=True)), "Validation")
    assert "A locked test set (`centre` B) was opened (Cox model: 9 cases)" in opened
    assert "was not opened" not in opened
    lost = _section(_text(**planned(test_set=lock, open_test_set=True)), "Validation")
    assert "there is no estimate of it" in lost


def test_what_the_ledger_says_of_the_locked_test_set_is_told() -> None:
    message = (
        "the analysis plan (a) was changed after the locked test set had been opened on 2026-01-02 with plan b: no "
        "result of this run is confirmed by the test set"
    )
    changes = planned(test_set={"column": "centre", "value": "B"})
    steps = [one | {"warnings": [message, "7 cases are odd"]} if one["step"] == "model_cox" else one
             for one in changes["provenance"]]  # fmt: skip
    told = _section(_text(params=changes["params"], provenance=steps), "Validation")
    assert "The analysis plan (a) was changed after the locked test set had been opened on 2026-01-02" in told
    assert "odd" not in told


def test_sample_size_has_the_figures_of_its_table() -> None:
    row = {"model": "cox", "criterion": "all", "needed_n": 54697, "needed_events": 26824, "available_n": 22,
           "available_events": 12, "parameters": 797, "met": False, "arm": "features",
           "note": "R2 0.122 assumed: 15% of its largest value 0.814; decided by shrinkage"}  # fmt: skip
    small = row | {"arm": "clinical", "needed_n": 20, "needed_events": 10, "parameters": 1, "met": True}
    other = row | {"arm": "features_combat", "criterion": "shrinkage", "needed_n": 1}
    table = model_table("sample_size", small, row, row | {"arm": "features_combat"}, other)
    told = _section(_text(sample_size=table), "Models")
    assert "R2 assumed to be 15 % of its largest possible value" in told
    assert "clinical: 20 cases with 10 events needed for 1 candidate parameters, met" in told
    assert (
        "features and features_combat: 54,697 cases with 26,824 events needed for 797 candidate parameters, not met"
        in told
    )
    nothing = model_table("sample_size", row | {"needed_n": "", "met": "", "note": "no events"})
    assert "features: can't be computed (no events)" in _text(sample_size=nothing)
    assert "Riley" not in _text()


def test_net_benefit_and_curves_are_told_where_they_are() -> None:
    curve = [{"model": "cox", "threshold": t, "strategy": "model", "estimate": 0.1} for t in (0.1, 0.2)]
    told = _text(decision_curve=model_table("decision_curve", *curve))
    assert "was computed at 2 thresholds from 0.1 to 0.2" in told
    groups = [{"model": "cox", "group": n, "predicted": 0.1, "observed": 0.2} for n in (1, 2, 3)]
    told = _text(calibration_curve=model_table("calibration_curve", *groups))
    assert "observed risk of 3 groups of cases" in told
    for word in ("Net benefit", "Calibration curves"):
        assert word not in _text()


def test_proportional_hazards_say_what_was_tested() -> None:
    told = _section(_text(), "Models")
    assert "on the Kaplan-Meier scale of time" in told
    assert "out-of-fold risk" not in told
    rows = [
        {"model": "cox", "arm": "features", "term": "risk (out of fold)", "transform": name} for name in ("km", "rank")
    ]
    told = _section(_text(ph_test=model_table("ph_test", *rows)), "Models")
    assert "on the Kaplan-Meier and rank scale of time" in told
    assert "each arm's out-of-fold risk" in told
    assert "of the clinical predictors in" not in told


def test_intervals_are_told_only_where_there_are_any() -> None:
    assert "percentiles of 200 bootstrap samples of the predictions" in _text()
    assert "models were not fitted again" in _text()
    bare = material().performance.assign(ci_low="", ci_high="")
    assert "percentiles" not in _text(performance=bare)


def test_without_images_models_and_records_little_is_said_and_nothing_invented() -> None:
    text = methods_markdown(RunFacts(features_elsewhere()), "A table")
    assert "Features were extracted elsewhere" in text
    assert "4 features of each region. Regions: tumour." in text
    assert "Versions are not known: the report was made by hand." in text
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Patients", "Images", "Features", "Harmonisation", "Software", "References",
    ]  # fmt: skip
    # The cohort sheet's own column is all that is known of the images.
    assert _section(text, "Images") == "Kernel: soft (16), sharp (8)."
    for word in ("bins", "resampled", "calibrated", "U-Net", "fold", "interval", "penalty"):
        assert word not in text


@pytest.mark.parametrize("part", ["provenance", "models", "combat", "filters"])
def test_a_part_that_is_unknown_is_left_out_and_breaks_nothing(part: str) -> None:
    empty: Any = [] if part == "provenance" else {}
    text = _text(**{part: empty})
    assert "None" not in text
    assert "nan" not in text.lower().replace("finance", "")
    assert text.startswith("# Methods: A cohort\n")


def test_citations_are_numbered_by_first_use_and_all_are_listed_once() -> None:
    text = _text()
    cited = [int(n) for group in re.findall(r"\[(\d+(?:, \d+)*)\]", text) for n in group.split(", ")]
    listed = re.findall(r"^(\d+)\. .*doi:10\.\S+$", text, re.MULTILINE)
    assert listed == [str(n) for n in range(1, len(listed) + 1)]
    assert sorted(set(cited)) == list(range(1, len(listed) + 1))
    assert list(dict.fromkeys(cited)) == sorted(set(cited))
    assert "@" not in text


def test_every_reference_has_a_doi_and_every_source_exists() -> None:
    assert all(re.search(r"doi:10\.\d{4}", reference) for reference in references.REFERENCES.values())
    dois = [reference.rsplit("doi:", 1)[1] for reference in references.REFERENCES.values()]
    assert len(set(dois)) == len(dois)
    known = (*methods_validation.METRICS.values(), *methods_validation.OF_SURVIVAL.values())
    sources = {key for _, keys in known for key in keys}
    assert sources <= set(references.REFERENCES)
    with pytest.raises(KeyError):
        references.numbered("Somebody said so [@nobody1900].")


def test_the_text_is_the_same_twice_and_names_no_case_and_no_path() -> None:
    text = _text()
    assert methods_markdown(facts(), "A cohort") == text
    assert not re.search(r"(scan|patient)-\d", text)
    assert "/" not in text.replace("tables/checklist.csv", "").replace("docs/ibsi.md", "").split("## References")[0]


def test_the_order_of_rows_has_no_say() -> None:
    shuffled = material()
    shuffled = replace(shuffled, acquisition=shuffled.acquisition[::-1])
    one, other = (_section(methods_markdown(RunFacts(m), "A cohort"), "Features") for m in (material(), shuffled))
    assert one == other
    assert FEATURES[0] not in one


def test_a_report_by_hand_takes_settings_from_the_files_and_invents_none() -> None:
    combat = {
        "tumour": {
            "settings": {"batch": "kernel", "covariates": ["age"], "parametric": False, "small_batch": "exclude"},
            "batch_sizes": {"soft": 14, "sharp": 8},
        }
    }
    models = {
        "cox": {"n": 22, "events": 12, "l1_ratio": 0.3, "seed": 4, "max_correlation": 0.7, "penalty_rule": "1se",
                "transformation": "signed_log", "refits": 60, "bootstraps": 90, "arms": {}, "analysis_plan": "ab12"}
    }  # fmt: skip
    performance = performance_with(estimate("c_index", split="optimism-corrected"))
    text = _text(params={}, provenance=[], combat=combat, models=models, performance=performance)
    harmonisation = _section(text, "Harmonisation")
    assert "2 batches by `kernel` (soft: 14, sharp: 8), with non-parametric priors" in harmonisation
    assert "elastic net (l1_ratio 0.3)" in text
    assert "correlation above 0.7" in text
    assert "within one standard error of the least" in text
    assert "sign(x) log(1 + |x| / s)" in text
    assert "in 60 bootstrap samples" in text
    assert "percentiles of 90 bootstrap samples" in text
    assert "The seed of the random splits and of the bootstrap was 4." in text
    # What no file says is not said.
    assert "definitions" not in _section(text, "Features")
    assert "Features were computed by" not in text
    unknown = _text(params={}, provenance=[], combat={}, models={})
    assert "its batches and settings are not known to this report" in unknown
    assert "penalised [" in unknown
    for word in ("elastic net", "lasso", "centre`", "seed", "parametric"):
        assert word not in unknown.split("## References")[0], word
