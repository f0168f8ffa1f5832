"""The methods of a run in sentences that a paper can use, from the settings, records and tables of that run.

Every function tells one part, in sentences; nothing is told of a part that the run did not have, or of which nothing is
known. Citations stand as marks (`radloom.references`). `methods_markdown` is the whole text; `checklist_answers` uses
the same sentences, so that text and checklists can't contradict each other.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from radloom import methods_harmonisation, methods_models, methods_validation
from radloom.phrases import and_, plain
from radloom.references import cite, numbered, reference_list
from radloom.report_view import count, decimal, listed, median_range, number, numbers
from radloom.run_facts import MOST_NAMES, SCANNER_COLUMNS, RunFacts, by_count
from radloom.stability import PERTURBATION, REPEATS

STEPS = {
    "ingest": "when the images were read",
    "resample": "at the resampling",
    "calibrate": "at the HU calibration",
    "segment": "at the segmentation",
    "postprocess": "at the post-processing",
    "extract": "at the feature extraction",
    "tables": "when the tables were joined",
}
INTERPOLATORS = {
    "bspline": "cubic B-spline interpolation",
    "linear": "trilinear interpolation",
}
CLASSES = {
    "shape": "shape",
    "shape2D": "shape of single slices",
    "firstorder": "first order",
    "glcm": "grey-level co-occurrence (GLCM)",
    "glrlm": "grey-level run length (GLRLM)",
    "glszm": "grey-level size zone (GLSZM)",
    "gldm": "grey-level dependence (GLDM)",
    "ngtdm": "neighbouring grey-tone difference (NGTDM)",
    "": "of unknown class",
}
TEXTURES = ("glcm", "glrlm", "glszm", "gldm", "ngtdm")
# Families of image types as columns name them: what a column's image begins with, and its name in a text.
FAMILIES = {
    "wavelet": "wavelet",
    "log-sigma": "Laplacian of Gaussian",
    "lbp-2D": "local binary pattern (2D)",
    "lbp-3D": "local binary pattern (3D)",
    "squareroot": "square root",
}
_PHANTOM_DAYS = {
    "last": "the last measurement before the scan",
    "interpolate": "interpolated linearly between the measurements before and after the scan",
}
GRID_SIZE = "The grid has as many voxels along an axis as are needed to cover the image (rounded up)."
GRID_BORDER = "Beyond the centres of the outer voxels the value at the border was taken."
GRID_PLACES = {
    "centre": "shares its centre with the original image",
    "origin": "shares the centre of its first voxel with the original image",
    "corner": "shares the outer corner of its first voxel with the original image",
}
NO_LOW_PASS = "No low-pass filter came before the interpolation."
MASK_GRID = "Masks were interpolated linearly, and a voxel belongs to the region where the weight is at least 0.5."


def _mm(values: Sequence[float]) -> str:
    return " x ".join(number(float(value)) for value in values) + " mm"


def _one(n: int, single: str, several: str) -> str:
    return single if n == 1 else several


# ----------------------------------------------------------------------------- cohort


def cohort_in(facts: RunFacts) -> list[str]:
    """How many scans, patients and centres there were."""
    cohort = facts.material.cohort
    what = "The cohort sheet lists" if facts.imaging else "The feature table, which was made elsewhere, has"
    return [
        f"{what} {count(len(cohort), 'scan')} of {count(cohort['patient_id'].nunique(), 'patient')} from "
        f"{count(cohort['centre'].nunique(), 'centre')}: {by_count(cohort['centre'])}."
    ]


def cohort_out(facts: RunFacts) -> list[str]:
    """Who was excluded, at which step and why."""
    rows = facts.exclusions
    whole = rows[rows["roi"] == ""]
    if rows.empty:
        return ["No scan and no region of interest was excluded."]
    told = []
    if len(whole):
        steps = []
        for step, part in whole.groupby("step", sort=False):
            reasons = by_count([facts.reason(reason) for reason in part["reason"]], 4)
            steps.append(f"{len(part)} {STEPS.get(str(step), f'at the step {step}')}, because {reasons}")
        told.append(
            f"{count(len(whole), 'scan')} {_one(len(whole), 'was', 'were')} excluded: {'; '.join(steps)}. "
            f"By centre: {by_count(whole['centre'])}."
        )
    if len(whole) < len(rows):
        told.append(f"{count(len(rows) - len(whole), 'single region')} of interest of other scans had no features.")
    return told


def cohort_left(facts: RunFacts) -> list[str]:
    """Who is in the feature table."""
    people = facts.included["patient_id"].nunique()
    return [
        f"The feature table has {count(len(facts.included), 'scan')} of {count(people, 'patient')} from "
        f"{facts.told_centres()}."
    ]


# ----------------------------------------------------------------------------- images


def images(facts: RunFacts) -> list[str]:
    """Format and voxel spacing of the images as they came."""
    rows = facts.material.acquisition
    if rows.empty:
        return []
    in_plane = median_range(np.concatenate([numbers(rows["spacing_x"]), numbers(rows["spacing_y"])]))
    return [
        f"{count(len(rows), 'CT scan')} could be read ({by_count(rows['format'])}), with a voxel spacing of "
        f"{in_plane} mm in plane and {median_range(numbers(rows['spacing_z']))} mm between slices: median "
        "(smallest to largest)."
    ]


def scanners(facts: RunFacts) -> list[str]:
    """What the tables say of scanners and protocols."""
    found = [(what, facts.acquired(what)) for what in SCANNER_COLUMNS]
    return [f"{what[0].upper()}{what[1:]}: {told}." for what, told in found if told]


def resampling(facts: RunFacts) -> list[str]:
    """Interpolation of image and masks."""
    rows = facts.material.acquisition
    if rows.empty:
        return []
    after = rows[[f"resampled_spacing_{axis}" for axis in "xyz"]]
    known = after[(after != "").all(axis=1)].drop_duplicates()
    if known.empty:
        return []
    how = interpolation(facts) or "interpolation"
    place = GRID_PLACES[facts.setting("resample", "align", "centre")]
    asked = facts.setting("resample", "spacing")
    kept = [axis for axis, value in zip("xyz", asked, strict=True) if not float(value)] if asked else []
    if len(known) == 1:
        target = f"to {_mm([float(value) for value in known.iloc[0]])} voxels"
    elif asked:
        set_ones = [
            f"{number(float(value))} mm along {axis}" for axis, value in zip("xyz", asked, strict=True) if value
        ]
        target = f"to {and_(set_ones)}, the spacing along {and_(kept)} being that of each scan" if set_ones else ""
    else:
        target = "to spacings that differ between scans"
    if asked and len(kept) == 3:
        return ["Images were not resampled: each keeps its own voxel spacing."]
    first = f"Images were resampled {target} by {how}, on a grid that {place}{cite('zwanenburg2020')}."
    return [first, GRID_SIZE, GRID_BORDER, low_pass(facts), MASK_GRID]


def interpolation(facts: RunFacts) -> str:
    """The interpolation of images in words; empty where nothing is known of it."""
    name = str(facts.setting("resample", "interpolator", ""))
    order = int(facts.setting("resample", "order", 3))
    if name == "bspline" and order != 3:
        return f"B-spline interpolation of order {order}"
    if name == "sinc":
        return f"windowed sinc interpolation (Lanczos, radius {facts.setting('resample', 'sinc_radius', 5)} voxels)"
    return INTERPOLATORS.get(name, "")


def low_pass(facts: RunFacts) -> str:
    """What filters came before the interpolation."""
    told = []
    match = facts.setting("resample", "match", {}) or {}
    any_wanted = any(match.get(key) is not None for key in ("fwhm_mm", "thickness_mm"))
    if facts.setting("resample", "antialias", False):
        told.append(
            "along axes that became coarser, by a Gaussian of the variance (new spacing^2 - old spacing^2) / (8 ln 2)"
            + ", the old spacing being replaced by the wanted width where scans were brought to one" * any_wanted
        )
    for key, what in (("fwhm_mm", "point spread in plane"), ("thickness_mm", "slice thickness")):
        if match.get(key) is not None:
            told.append(
                f"to bring the {what} of all scans to {number(float(match[key]))} mm (full width at half maximum), "
                "by a Gaussian of the variance (wanted^2 - own^2) / (8 ln 2)"
            )
    return f"Before the interpolation images were filtered {'; '.join(told)}." if told else NO_LOW_PASS


def calibration(facts: RunFacts) -> list[str]:
    """Where HU calibrations came from, rounding, and the air as a check."""
    rows = facts.material.acquisition
    if rows.empty:
        return []
    sources = rows.get("calibration_source", rows["calibration_method"])  # which older tables lack
    methods = rows["calibration_method"]
    words = {
        ("phantom", ""): "from the values of water and air measured in a phantom",
        ("phantom", "scanner"): "by a weighted least squares line through the materials of a phantom that was measured "
        f"on the same scanner ({_PHANTOM_DAYS[facts.setting('calibrate', 'phantom_day', 'last')]})",
        ("drift", ""): "from the drift that is given for the scanner",
        ("references", ""): "by a weighted least squares line through water as observed, the air around the body and "
        "peaks of tissues in the image's histogram",
        ("none", ""): "not at all, as neither was given",
    }
    parts = []
    for (method, source), told in words.items():
        mine = rows[(methods == method) & ((sources == "scanner") == (source == "scanner"))]
        if len(mine):
            parts.append(f"in {count(len(mine), 'scan')} {told}: {by_count(mine['centre'])}")
    done = set(methods) & {"phantom", "drift", "references"}
    sentences = [f"HU were calibrated {'; '.join(parts)}."] if done else []
    if not sentences and (methods == "none").any():
        sentences = [f"HU were not calibrated ({count(int((methods == 'none').sum()), 'scan')})."]
    if "calibration_sd_hu" in rows and np.isfinite(sd := numbers(rows["calibration_sd_hu"])).any():
        sentences.append(
            f"The standard deviation of corrected values at 0 HU was {median_range(sd)} HU (median, smallest to "
            f"largest, {count(int(np.isfinite(sd).sum()), 'scan')})."
        )
    sentences += rounding(facts)
    air = numbers(rows["air_hu"])
    if np.isfinite(air).any():
        sentences.append(
            f"The air around the body then had {median_range(air, 4)} HU (median, smallest to largest, "
            f"{count(int(np.isfinite(air).sum()), 'scan')})."
        )
    return sentences


def rounding(facts: RunFacts) -> list[str]:
    """Whether interpolated HU were rounded."""
    rounded = facts.setting("calibrate", "round_hu")
    if rounded is None or not facts.imaging:
        return []
    return ["HU were then rounded to whole numbers." if rounded else "HU were not rounded to whole numbers."]


# ----------------------------------------------------------------------- segmentation


_UNETS = ("unet", "generalised_unet")


def segmentation(facts: RunFacts) -> list[str]:
    """Where the regions of interest came from."""
    source = facts.setting("segment", "source")
    if not facts.imaging or source is None:
        return []
    if source == "mask":
        names = _labels(facts.setting("segment", "labels", {}))
        return [f"Regions of interest are the masks that came with the scans{f' ({names})' if names else ''}."]
    if source == "command":
        program = os.path.basename(shlex.split(facts.setting("segment", "command", ""))[0])
        told = str(facts.setting("segment", "command_version", ""))[:120]
        found = _labels(facts.setting("segment", "labels", {}))
        return [
            f"Regions of interest were segmented by a program outside of Radloom, {program}"
            f"{f' ({told})' if told else ''}: {found}."
        ]
    nets = facts.resources("segment", "model") or [{}]
    sentences = []
    for place, net in enumerate(nets, start=1):
        kind, dimensions = str(net.get("kind", "unet")), int(net.get("dimensions", 2))
        name = f", {net['name']}" if net.get("name") else ""
        called = f"U-Net{name}{cite('ronneberger2015')}" if kind in _UNETS else f"net ({kind}){name}"
        manner = "slice by slice" if dimensions == 2 else "in overlapping windows"
        if len(nets) == 1:
            sentences.append(
                f"Regions of interest were segmented by a {dimensions}D {called}, with {facts.version('torch')}, "
                f"{manner}."
            )
        else:
            if place == 1:
                sentences.append(
                    f"Regions of interest were segmented by an ensemble of {len(nets)} nets, whose mean probability "
                    f"decides, with {facts.version('torch')}."
                )
            sentences.append(f"Net {place} is a {dimensions}D {called}, {manner}.")
        sentences += _net(net, dimensions)
    return [*sentences, *_mirrored(facts), *_samples(facts)]


def _net(net: Mapping[str, Any], dimensions: int) -> Iterator[str]:
    """What a net's description says of it."""
    if net.get("classes") and net.get("spacing") and net.get("hu_window"):
        low, high = net["hu_window"]
        yield (
            f"It finds {_labels(net['classes'])} at {_mm(net['spacing'])}{' in plane' if dimensions == 2 else ''}, "
            f"in a window of {number(low)} to {number(high)} HU."
        )
    region = net.get("region")
    if region:
        finder = net.get("region_net", {})
        named = f" {finder['name']}" if finder.get("name") else ""
        yield (
            f"It looks at the largest part of what another net{named} finds as {region['label']}, with a margin of "
            f"{count(region['margin'], 'voxel')}; the rest of the box around it has {number(region['outside_hu'])} HU. "
            f"{region['label']} = label {len(net.get('classes', {})) + 1}, where the net finds nothing."
        )
        if finder.get("weights_sha256"):
            yield f"The weights of that net have the SHA-256 {str(finder['weights_sha256'])[:16]}... ."
    if net.get("trained_on"):
        yield f"Its description says that it was trained on: {str(net['trained_on'])[:120]}."
    if net.get("weights_sha256"):
        yield f"The weights have the SHA-256 {str(net['weights_sha256'])[:16]}... ."
    if net.get("licence"):
        yield f"The licence of its weights is {str(net['licence'])[:60]}."


def _mirrored(facts: RunFacts) -> Iterator[str]:
    axes = facts.setting("segment", "tta") or []
    if axes:
        yield f"The nets also saw the scan mirrored along {and_(axes)}; the mean of all {2 ** len(axes)} images counts."


def _samples(facts: RunFacts) -> Iterator[str]:
    """How far samples of the nets agree was asked for, and what became of a case where they don't."""
    uncertainty: Mapping[str, Any] = facts.setting("segment", "uncertainty") or {}
    samples = uncertainty.get("samples", 0)
    if not samples:
        return
    drawn = "each net as it is" if samples == 1 else f"{samples} draws of the dropout of each net that has one"
    yield f"Its uncertainty was estimated from {drawn}, by the samples' pairwise Dice and volumes."
    # As `engine.steps.step_params` hands them to the step that excludes.
    limits: Mapping[str, Any] = facts.setting("postprocess", "segment.uncertainty") or {}
    scores = (
        ("max_volume_cv", "whose volume's coefficient of variation is above"),
        ("min_pairwise_dice", "whose mean pairwise Dice is below"),
    )
    told = [f"{words} {number(limits[key])}" for key, words in scores if limits.get(key) is not None]
    if told:
        rois = limits.get("rois") or []
        yield f"Cases were excluded with a region{f' ({and_(rois)})' if rois else ''} {' or '.join(told)}."


def segmentation_quality(facts: RunFacts) -> list[str]:
    """What is known of the nets' quality: the Dice coefficients that their descriptions state."""
    if facts.setting("segment", "source") not in ("model", "command"):
        return []
    sentences = ["The segmentation was not compared with drawn regions in this run."]
    nets = facts.resources("segment", "model")
    for net in nets:
        whose = f"The description of {net['name']}" if len(nets) > 1 and net.get("name") else "The net's description"
        sentences += [f"{whose} states a mean Dice of {stated}." for stated in _stated_dice(net.get("dice") or {})]
    return sentences


def training(facts: RunFacts) -> list[str]:
    """How a net was trained on the regions of this run, and how well it does."""
    net = facts.material.trained
    if not net:
        return []
    told, architecture = net["training"], net["architecture"]
    settings = told["settings"]
    batch = settings["batch"] * settings["accumulate"] * settings["processes"]
    apart = [f"{told['cases'][part]} for {part}" for part in ("validation", "test") if told["cases"].get(part)]
    flat = " in plane" if architecture["dimensions"] == 2 else ""
    return [
        f"On these regions a {architecture['dimensions']}D net ({architecture['kind']}) was trained to find "
        f"{and_(list(net['classes'].values()))} at {_mm(net['spacing'])}{flat}, on {told['data']}"
        f"{f' ({and_(apart)} kept apart, by patient)' if apart else ''}, with {facts.version('torch')}: AdamW, "
        f"learning rate {settings['learning_rate']:g}, batches of {batch}, "
        f"{count(told['epochs'], 'epoch')}, of which number {told['best_epoch']} was taken"
        f"{' by the mean Dice in validation' if net['dice'].get('validation') else ''}.",
        *(f"Its mean Dice was {stated}." for stated in _stated_dice(net["dice"])),
        "No feature of this run comes from it.",
    ]


_UNSEEN = "on data that its training hadn't seen"
_PARTS_OF_DICE = {
    "test": _UNSEEN,
    "validation": "on the data by which the best epoch was chosen, which is too favourable",
}
"""Parts of a cohort by which `train_segmentation` states the Dice of a net, as sentences tell them."""


def _stated_dice(dice: Mapping[str, Any]) -> Iterator[str]:
    """`liver 0.90 on ...`, by part where a description states it by part, else for what wasn't trained on."""
    by_part = {part: dice[part] for part in _PARTS_OF_DICE if isinstance(dice.get(part), Mapping)}
    nested = {part: value for part, value in by_part.items() if all(isinstance(v, Mapping) for v in value.values())}
    for words, means in [(_PARTS_OF_DICE[part], value) for part, value in nested.items()] or [(_UNSEEN, dice)]:
        stated = []
        for roi, value in means.items():
            mean = value.get("mean_dice", value.get("mean")) if isinstance(value, Mapping) else None
            if isinstance(mean, int | float):
                stated.append(f"{roi} {decimal(float(mean), 2)}")
        if stated:
            yield f"{and_(stated)} {words}"


def _labels(labels: Mapping[Any, Any]) -> str:
    return ", ".join(f"{name} = label {number_}" for number_, name in labels.items())


def postprocessing(facts: RunFacts) -> list[str]:
    """Morphology of the regions, and what it did to their volumes."""
    keys = (
        *("inside_body", "body_hu", "closing_mm", "opening_mm", "erosion_mm", "dilation_mm", "smoothing_mm"),
        *("components", "neck_mm", "min_volume_mm3", "fill_holes"),
    )
    common = {key: facts.setting("postprocess", key) for key in keys}
    if not facts.imaging or all(value is None for value in common.values()):
        return []
    special: Mapping[str, Mapping[str, Any]] = facts.setting("postprocess", "labels", {})
    done = list(_morphology(common))
    told = [f"{roi}: {and_(list(_morphology(common | dict(own)))) or 'none'}" for roi, own in special.items()]
    told += [f"{'all other' if special else 'all'} regions: {and_(done) or 'none'}"]
    if not any(list(_morphology(settings)) for settings in (common, *(common | dict(own) for own in special.values()))):
        return ["Regions were not post-processed."]
    sentences = [f"Post-processing, in the order given: {'; '.join(told)}."]
    change = facts.material.qc[facts.material.qc["item"] == "volume_after_over_before"]
    if len(change):
        moved = [
            f"{roi} {median_range(numbers(part['value']))}"
            for roi, part in list(change.groupby("roi", sort=False))[:MOST_NAMES]
        ]
        sentences.append(f"Volume afterwards over volume before, median (smallest to largest): {'; '.join(moved)}.")
    return sentences


def _morphology(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("inside_body"):
        yield f"what lies outside the body (image above {number(settings['body_hu'])} HU) cut off"
    for step in ("closing", "opening", "erosion", "dilation"):
        if settings.get(f"{step}_mm"):
            yield f"{step} with a ball of {number(settings[f'{step}_mm'])} mm radius"
    if settings.get("smoothing_mm"):
        yield f"smoothing of each component by a Gaussian of {number(settings['smoothing_mm'])} mm at unchanged volume"
    neck = settings.get("neck_mm")
    apart = f" (parts between which a ball of {number(neck)} mm radius can't pass being apart)" if neck else ""
    if settings.get("components") == "largest":
        yield f"the largest 26-connected component{apart} kept"
    elif isinstance(settings.get("components"), int):
        yield f"the {settings['components']} largest 26-connected components{apart} kept"
    if settings.get("min_volume_mm3"):
        yield f"components below {number(settings['min_volume_mm3'])} mm3 removed"
    if settings.get("fill_holes"):
        yield "cavities filled"


def derived_regions(facts: RunFacts) -> list[str]:
    """Regions that were made of others."""
    derived = facts.setting("extract", "derived_rois", {})
    if not facts.imaging or not derived:
        return []
    told = []
    for name, definition in derived.items():
        kind, given = next(iter(definition.items()), ("", {}))
        if isinstance(given, Mapping):
            given = ", ".join(f"{key} {plain(value)}" for key, value in given.items())
        told.append(f"{name} = {kind} of {plain(given).removeprefix('of ')}")
    return [f"Further regions were derived from these: {'; '.join(told)}."]


# --------------------------------------------------------------------------- features


def feature_numbers(facts: RunFacts) -> list[str]:
    """How many features there are, by class and by image type."""
    total = len(facts.material.feature_names)
    classes: dict[str, int] = {}
    families: dict[str, int] = {}
    for image, own in facts.feature_counts.items():
        family = next((name for start, name in FAMILIES.items() if image.startswith(start)), image or "not known")
        families[family] = families.get(family, 0) + sum(own.values())
        for name, n in own.items():
            classes[name] = classes.get(name, 0) + n
    by_class = ", ".join(f"{CLASSES.get(name, name)} {n}" for name, n in sorted(classes.items()) if name)
    unknown = classes.get("", 0)
    if unknown == total:
        told = f"{count(total, 'feature')} of each region"
    else:
        other = f", {unknown} of other names" if unknown else ""
        told = f"{count(total, 'feature')} of each region: {by_class}{other}"
    images_ = (
        ""
        if set(families) <= {"original", "not known"}
        else "; by image type: " + ", ".join(f"{name} {n}" for name, n in families.items())
    )
    roi = facts.material.main_roi if len(facts.material.features) else ""
    rois = list(dict.fromkeys(facts.material.features["roi"]))
    used = f" The statistics use those of {roi}." if len(rois) > 1 else ""
    return [f"There are {told}{images_}. Regions: {listed(rois)}.{used}"]


def extraction(facts: RunFacts) -> list[str]:
    """What computed the features."""
    if not facts.imaging:
        return ["Features were extracted elsewhere; this run began at their table."]
    engine = facts.setting("extract", "engine", "radloom" if facts.ran("extract") else "")
    package = facts.version("pyradiomics-bhklab")
    sentences = []
    if engine == "pyradiomics":
        sentences.append(f"Features were computed by PyRadiomics ({package}){cite('vangriethuysen2017')}.")
    elif engine == "radloom":
        sentences.append(
            f"Features were computed by Radloom {version('radloom')}, which follows PyRadiomics' definitions "
            f"({package}){cite('vangriethuysen2017')}."
        )
    least = facts.setting("extract", "min_voxels")
    if least is not None:
        sentences.append(f"A region of fewer than {least} voxels was excluded.")
    if facts.material.further_extractions:
        others = listed(facts.material.further_extractions)
        sentences.append(f"The statistics use the extraction {facts.material.extraction}; others are {others}.")
    return sentences


def compliance(facts: RunFacts) -> list[str]:
    """Whether IBSI's definitions were used."""
    if not facts.imaging:
        return []
    ibsi = facts.setting("extract", "ibsi", False if facts.ran("extract") else None)
    if ibsi is None:
        return []
    if ibsi:
        return [
            "Where PyRadiomics departs from the Image Biomarker Standardisation Initiative (IBSI), IBSI's definitions "
            f"were used (extract.ibsi){cite('zwanenburg2020')}; the software's documentation (docs/ibsi.md) compares "
            "the code, not this run, with IBSI's consensus values."
        ]
    return [
        "PyRadiomics' own definitions were used, which depart from IBSI's in where bins begin, in the kurtosis (by 3) "
        f"and in the axis lengths{cite('zwanenburg2020')}. The grid and the masks are IBSI's."
    ]


def discretisation(facts: RunFacts) -> list[str]:
    """Bins of the grey levels."""
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params:
        return []
    ibsi = bool(facts.setting("extract", "ibsi", False))
    told = []
    for image_type, own in params["image_types"].items():
        setting = {**params["setting"], **own}
        unit = " HU" if image_type == "Original" else ""
        if setting.get("binCount"):
            bins = f"{setting['binCount']} bins of equal width over the region's range"
        else:
            bins = f"bins of {number(float(setting.get('binWidth', 25)))}{unit}"
        told.append((image_type, bins))
    original = dict(told).get("Original", "")
    others = [f"{name} {bins}" for name, bins in told if name != "Original"]
    sentences = []
    if original:
        edge = _first_edge(params, ibsi) if "binCount" not in params["setting"] else ""
        sentences.append(f"Grey levels were put into {original}{edge} for textures, entropy and uniformity.")
    if others:
        sentences.append(f"Filtered images: {'; '.join(others)}.")
    return sentences


def _first_edge(params: Mapping[str, Any], ibsi: bool) -> str:
    if not ibsi:
        return ", with edges at multiples of the width,"
    limits = params["setting"].get("resegmentRange")
    if limits and params["setting"].get("resegmentMode", "absolute") == "absolute":
        return f", the first of which begins at {number(float(min(limits)))} HU,"
    return ", the first of which begins at the region's lowest value,"


def resegmentation(facts: RunFacts) -> list[str]:
    """Which voxels of a region count for intensities and textures."""
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params:
        return []
    parts = []
    limits = params["setting"].get("resegmentRange")
    if limits:
        mode = params["setting"].get("resegmentMode", "absolute")
        unit = {"absolute": "HU", "relative": "times the region's maximum", "sigma": "standard deviations of the mean"}[
            mode
        ]
        ends = (
            f"{number(float(limits[0]))} to {number(float(limits[1]))}"
            if len(limits) > 1
            else f"from {number(float(limits[0]))}"
        )
        parts.append(f"within {ends} {unit}")
    sigma = facts.setting("extract", "outlier_sigma")
    if sigma is not None:
        parts.append(f"within {number(float(sigma))} standard deviations of the region's mean")
    if not parts:
        return ["Regions were not re-segmented by intensity."]
    shape = "shape too" if params["setting"].get("resegmentShape") else "shape is of the whole region"
    return [f"Of a region only voxels {and_(parts)} count for first order and textures ({shape})."]


def image_types(facts: RunFacts) -> list[str]:
    """From which images features were computed, with the filters' settings."""
    params = facts.resource("extract", "params")
    if not facts.imaging or "image_types" not in params:
        return []
    told = []
    for name, own in params["image_types"].items():
        setting = {**params["setting"], **own}
        if name == "LoG":
            told.append(
                f"Laplacian of Gaussian (sigma {', '.join(number(float(s)) for s in setting.get('sigma', []))} mm)"
            )
        elif name == "Wavelet":
            told.append(
                f"stationary wavelet transform ({setting.get('wavelet', 'coif1')}, "
                f"{count(int(setting.get('level', 1)), 'level')}, all bands)"
            )
        else:
            extra = [f"{key} {plain(value)}" for key, value in own.items() if not key.startswith("bin")]
            told.append(f"{'the original image' if name == 'Original' else name}{f' ({and_(extra)})' if extra else ''}")
    return [f"Features were computed from {and_(told)}."]


def texture_settings(facts: RunFacts) -> list[str]:
    """Dimensions, distances and aggregation of the texture matrices."""
    params = facts.resource("extract", "params")
    if not facts.imaging or "setting" not in params or not any(facts.has_class(name) for name in TEXTURES):
        return []
    setting = params["setting"]
    flat = bool(setting.get("force2D"))
    distances = ", ".join(map(str, setting.get("distances", [1])))
    how = setting.get("weightingNorm")
    directions = "4 directions in plane" if flat else "13 directions in 3D"
    merged = (
        f"one matrix a direction ({directions}), features averaged over them"
        if how is None
        else f"matrices of the {directions} added up (weights: {how})"
    )
    matrices = " and ".join(
        name for key, name in (("glcm", "co-occurrence"), ("glrlm", "run length")) if facts.has_class(key)
    )
    sentences = [
        f"Textures were computed in {'2D, slice by slice' if flat else '3D'} at a distance of {distances} "
        f"{'voxel' if distances == '1' else 'voxels'} (Chebyshev){f'; {matrices} with {merged}' if matrices else ''}."
    ]
    others = _other_settings(setting)
    if others:
        sentences.append(f"Further settings: {', '.join(others)}.")
    return [*sentences, "All other settings were PyRadiomics' defaults."]


def _other_settings(setting: Mapping[str, Any]) -> list[str]:
    told_elsewhere = {
        *("binWidth", "binCount", "resegmentRange", "resegmentMode", "resegmentShape", "force2D", "distances"),
        *(
            "weightingNorm",
            "sigma",
            "wavelet",
            "level",
            "correctMask",
            "geometryTolerance",
            "additionalInfo",
            "preCrop",
        ),
    }
    return [f"{key} {plain(value)}" for key, value in setting.items() if key not in told_elsewhere]


def empty_features(facts: RunFacts) -> list[str]:
    """Cells of the feature table that could not be computed."""
    n = facts.empty_cells
    cells = facts.main_rows.shape[0] * len(facts.material.feature_names)
    return [f"{n} of {cells:,} feature values could not be computed and are empty."] if n else []


# -------------------------------------------------------------------------- stability


def perturbations(facts: RunFacts) -> list[str]:
    """How stability against perturbations and between repeats was measured."""
    table = facts.material.stability
    if table is None or table.empty:
        return []
    whole = table[table["scope"] == "all"]
    sentences = []
    n = facts.setting("perturb", "count")
    mine = whole[whole["source"] == PERTURBATION]
    if len(mine):
        parts = []
        for key, told in (
            ("noise", "noise ({} times that of the image)"),
            ("rotation", "rotation (within {} degrees)"),
            ("shift", "shift (within {} voxel)"),
            ("volume", "change of volume (within {} of it)"),
        ):
            value = facts.setting("perturb", key)
            if value:
                parts.append(told.format(number(float(value))))
        slic = facts.setting("perturb", "contour")
        parts += [f"a contour drawn anew along supervoxels{cite('achanta2012')}"] if slic else []
        often = f" {n} times" if n else ""
        how = f" ({and_(parts)})" if parts else ""
        sentences.append(
            f"Each region was extracted again{often} from perturbed images and contours{how}, after Zwanenburg et al."
            f"{cite('zwanenburg2019')}; ICC(1,1) of {count(int(mine['n_cases'].max()), 'case')}{cite('shrout1979')}."
        )
    real = whole[whole["source"] == REPEATS]
    if len(real):
        sentences.append(
            f"Repeated scans or readings of {count(int(real['n_cases'].max()), 'patient')} gave ICC(1,1), ICC(2,1) and "
            f"ICC(3,1){cite('shrout1979')}."
        )
    return [*sentences, f"95 % intervals are those of McGraw and Wong{cite('mcgraw1996')}."] if sentences else []


def stability_filter(facts: RunFacts) -> list[str]:
    """Which features the filter by stability left out."""
    least = facts.setting("model", "min_icc")
    if least is None or not facts.fitted:
        return []
    told = list(dict.fromkeys(sentence for model in facts.fitted for sentence in facts.material.filters.get(model, [])))
    bound = (
        "the lower end of the 95 % interval"
        if facts.setting("model", "icc_bound", "lower") == "lower"
        else "the estimate"
    )
    return [
        f"Features with an intraclass correlation below {float(least):g} ({bound}) were left out, without a look at "
        f"the outcome{cite('koo2016')}{': ' + '; '.join(told) if told else ''}.",
        "The coefficients are of all cases, those of the held-out parts too.",
    ]


def sensitivity(facts: RunFacts) -> list[str]:
    """Other bin widths and spacings that were tried."""
    table = facts.material.sensitivity
    if table.empty or "parameter" not in table:
        return []
    parts = []
    for parameter, name in (("bin_width", "bin widths"), ("spacing", "voxel spacings")):
        settings = list(dict.fromkeys(table[table["parameter"] == parameter]["setting"]))
        if settings:
            parts.append(f"{name} of {listed(settings)} {'HU' if parameter == 'bin_width' else 'mm'}")
    return [
        f"All features were computed again with {and_(parts)}, one changed at a time, and compared by Lin's concordance"
        f"{cite('lin1989')} and Spearman's correlation."
    ]


# --------------------------------------------------------------------------- the text


def software(facts: RunFacts) -> list[str]:
    """The software in a sentence."""
    known = ("python", "numpy", "scikit-learn", "scikit-survival", "statsmodels", "neuroCombat")
    packages = [facts.version(package) for package in known if package in facts.versions()]
    told = f" with {', '.join(packages)}" if packages else ""
    return [f"The analysis was run by Radloom {version('radloom')}, a Snakemake workflow{cite('moelder2021')}{told}."]


def software_table(facts: RunFacts) -> list[str]:
    """Versions and code hashes as two tables of Markdown; nothing where they aren't known."""
    versions = facts.versions()
    if not versions:
        return ["Versions are not known: the report was made by hand."]
    lines = ["| software | version | steps |", "|---|---|---|", f"| radloom | {version('radloom')} | all |"]
    for package in sorted(versions, key=str.lower):
        for number_, steps in versions[package].items():
            lines.append(f"| {package} | {number_} | {', '.join(dict.fromkeys(steps))} |")
    lines += ["", "| step | code (SHA-256, first 16 digits) |", "|---|---|"]
    lines += [f"| {step['step']} | {str(step.get('code', ''))[:16]} |" for step in facts.material.provenance]
    files = [
        (step["step"], name, value["sha256"])
        for step in facts.material.provenance
        for name, value in step.get("resources", {}).items()
        if step["step"] in ("segment", "extract")
    ]
    if files:
        lines += ["", "| step | file of settings or model | content (SHA-256, first 16 digits) |", "|---|---|---|"]
        lines += [f"| {step} | {name} | {str(digest)[:16]} |" for step, name, digest in files]
    return lines


SECTIONS = (
    ("Patients", (cohort_in, cohort_out, cohort_left, empty_features, methods_models.missing_data)),
    ("Images", (images, scanners, resampling, calibration)),
    ("Regions of interest", (segmentation, segmentation_quality, postprocessing, derived_regions, training)),
    (
        "Features",
        (extraction, feature_numbers, compliance, image_types, resegmentation, discretisation, texture_settings),
    ),
    ("Stability of features", (perturbations, stability_filter, sensitivity)),
    (
        "Harmonisation",
        (
            methods_harmonisation.confounding,
            methods_harmonisation.harmonisation,
            methods_harmonisation.harmonisation_effect,
        ),
    ),
    (
        "Models",
        (
            methods_models.plan,
            methods_models.sample_size,
            methods_models.models,
            methods_models.arms,
            methods_models.pipeline,
            methods_models.inference,
            methods_models.hazards,
        ),
    ),
    ("Validation", (methods_validation.validation, methods_validation.metrics)),
    ("Software", (software,)),
)
"""The text: its headings, and what each tells."""

PREFACE = (
    "Written by Radloom {version} from the settings, records and tables of this run. The sentences are meant for the "
    "methods of a paper: check them, and cut them to what it needs. They say what was done, not why; what software "
    'can\'t know (ethics, eligibility, protocol, readers, definition of the outcome) stands as "for the authors" in '
    "tables/checklist.csv."
)


def methods_markdown(facts: RunFacts, title: str) -> str:
    """The methods as Markdown: headings, a paragraph each, the software as tables, and the references cited."""
    parts = []
    for heading, tellers in SECTIONS:
        sentences = [sentence for teller in tellers for sentence in teller(facts)]
        if sentences:
            parts.append(f"## {heading}\n\n{' '.join(sentences)}")
    body, references = numbered("\n\n".join(parts))
    lines = [f"# Methods: {' '.join(title.split())}", "", PREFACE.format(version=version("radloom")), "", body, ""]
    lines += ["### Versions", "", *software_table(facts), "", "## References", "", *reference_list(references)]
    return "\n".join(lines) + "\n"
