"""The methods text says what the run did, with its figures, and nothing of what it did not do."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from run_material import FEATURES, PARAMETER_FILE, PARAMS, facts, features_elsewhere, material, provenance

from radloom import methods_text, references
from radloom.methods_text import methods_markdown
from radloom.run_facts import RunFacts


def _text(**changes: Any) -> str:
    return methods_markdown(facts(**changes), "A cohort")


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
    plain = _with("postprocess", labels={}, fill_holes=False, components="all")
    assert "Regions were not post-processed." in _text(provenance=plain)


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
    assert "Cox model of `days`, event `died` (22 patients, 12 events): elastic net (l1_ratio 0.5)" in told
    assert "chosen by 9-10-fold cross-validation inside the training cases" in told
    assert "Logistic model of `remission`: not fitted, 3 events among 22 cases, 6 needed." in told
    assert "absolute Spearman correlation above 0.85" in told
    assert "harmonising (in the arms that say so)" in told
    assert "don't rely" not in told
    marked = material().coefficients.assign(override="true")
    assert "don't rely on it" in _section(_text(coefficients=marked), "Models")


def test_the_plan_of_the_analysis_comes_before_the_models_own_sections() -> None:
    plan = {"analysis_plan": {"time": "months", "event": "relapse", "covariates": ["stage"]}}
    told = _section(_text(params=PARAMS | plan), "Models")
    assert "Cox model of `months`, event `relapse`" in told
    assert "Clinical predictors: `stage`." in told


def test_validation_names_what_is_in_the_table_alone() -> None:
    told = _section(_text(), "Validation")
    assert "5-fold cross-validation" in told
    assert "each of 2 centres was left out in turn" in told
    assert "The seed of the random splits and of the bootstrap was 7." in told
    assert "Harrell's C [" in told
    assert "200 bootstrap samples" in told
    assert "6 of 25 estimates were not estimable and are given as such: 0 events (6)." in told
    performance = material().performance
    inside = _text(performance=performance[performance["split"] == "cross-validation"])
    assert "left out in turn" not in inside
    unknown = _text(performance=performance.assign(split="by the moon"))
    assert "Validation: by the moon." in unknown


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
    sources = {key for keys in methods_text.METRIC_SOURCES.values() for key in keys}
    assert sources <= set(references.REFERENCES)
    with pytest.raises(KeyError):
        references.numbered("Somebody said so [@nobody1900].")


def test_the_text_is_the_same_twice_and_names_no_case_and_no_path() -> None:
    assert _text() == _text()
    text = _text()
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
    models = {"cox": {"n": 22, "events": 12, "l1_ratio": 0.3, "seed": 4, "max_correlation": 0.7, "arms": {}}}
    text = _text(params={}, provenance=[], combat=combat, models=models)
    harmonisation = _section(text, "Harmonisation")
    assert "2 batches by `kernel` (soft: 14, sharp: 8), with non-parametric priors" in harmonisation
    assert "elastic net (l1_ratio 0.3)" in text
    assert "correlation above 0.7" in text
    assert "The seed of the random splits and of the bootstrap was 4." in text
    # What no file says is not said.
    assert "definitions" not in _section(text, "Features")
    assert "Features were computed by" not in text
    unknown = _text(params={}, provenance=[], combat={}, models={})
    assert "its batches and settings are not known to this report" in unknown
    assert "penalised [" in unknown
    for word in ("elastic net", "lasso", "centre`", "seed", "parametric"):
        assert word not in unknown.split("## References")[0], word
