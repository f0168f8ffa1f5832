"""The configuration: validated as written, all problems in one message, defaults filled in last."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from radloom.config import check_run, complete, schema
from radloom.engine.reference import config_table
from radloom.errors import ConfigError


def problems_of(written: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        check_run(complete(written))
    return str(caught.value)


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repo: Path) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p1.nii.gz").write_text("")
    (tmp_path / "cohort.tsv").write_text("case_id\tcentre\timage\tkernel\nP1\tA\tp1.nii.gz\tsoft\n")
    (tmp_path / "clinical.csv").write_text("patient_id,age,days,event,outcome\nP1,60,12,1,0\n")
    return {
        "results": "results",
        "cohort": "cohort.tsv",
        "clinical": "clinical.csv",
        "extract": {"params": str(repo / "config" / "pyradiomics.yaml")},
    }


def test_bin_widths_are_not_compared_with_a_bin_count(good: dict[str, Any]) -> None:
    Path("count.yaml").write_text("setting: {binCount: 32}")
    good["extract"] = {"params": "count.yaml"}
    check_run(complete({**good, "sensitivity": {"spacings": [[2, 2, 2]]}}))
    message = problems_of({**good, "sensitivity": {"bin_widths": [10]}})
    assert "sensitivity.bin_widths: count.yaml sets binCount" in message


@pytest.mark.parametrize(
    "params",
    ["imageType: {LoG: {sigma: [2], binWidth: 5}}", "featureClass: {shape: [], firstorder: [Mean]}"],
)
def test_bin_widths_must_matter(good: dict[str, Any], params: str) -> None:
    Path("own.yaml").write_text(params)
    good["extract"] = {"params": "own.yaml"}
    check_run(complete(good))
    assert "nothing in own.yaml depends on its binWidth" in problems_of({**good, "sensitivity": {"bin_widths": [10]}})


def test_a_column_of_dicom_headers_can_be_the_batch(good: dict[str, Any]) -> None:
    own = {**good, "harmonize": {"batch": "manufacturer"}}
    assert "harmonize.batch: manufacturer is no column" in problems_of(own)
    Path("scan").mkdir()
    Path("cohort.tsv").write_text("case_id\tcentre\timage\tkernel\nP1\tA\tscan\tsoft\n")
    assert check_run(complete(own))
    assert "did you mean manufacturer?" in problems_of({**good, "harmonize": {"batch": "manufaturer"}})


def test_a_good_configuration_passes_with_its_defaults(good: dict[str, Any]) -> None:
    config = complete(good)
    assert check_run(config).rows[0]["case_id"] == "P1"
    assert config["resample"]["spacing"] == [1, 1, 1]
    assert config["max_excluded_fraction"] == 0.5


def test_defaults_are_not_shared_between_configurations(good: dict[str, Any]) -> None:
    complete(good)["resample"]["spacing"].append(9)
    assert complete(good)["resample"]["spacing"] == [1, 1, 1]


def test_overrides_of_one_roi_are_not_completed(good: dict[str, Any]) -> None:
    labels = complete({**good, "postprocess": {"labels": {"tumour": {"fill_holes": True}}}})["postprocess"]["labels"]
    assert labels == {"tumour": {"fill_holes": True}}


def test_numbers_as_keys_become_text(good: dict[str, Any]) -> None:
    assert complete({**good, "segment": {"labels": {1: "tumour"}}})["segment"]["labels"] == {"1": "tumour"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resmple": {}}, "unknown key resmple; did you mean resample?"),
        ({"resample": {"spacng": [1, 1, 1]}}, "unknown key resample.spacng; did you mean spacing?"),
        ({"resample": {"spacing": [1, 1]}}, "resample.spacing"),
        ({"resample": {"spacing": [1, 1, -1]}}, "resample.spacing.2"),
        ({"resample": {"interpolator": "nearest"}}, "resample.interpolator"),
        ({"cases_per_job": 0}, "cases_per_job"),
        ({"max_excluded_fraction": 2}, "max_excluded_fraction"),
        ({"keep": "some"}, "keep"),
        ({"force": ["ingst"]}, "force.0"),
        ({"calibrate": {"centres": {"A": {"water_hu": 0}}}}, "calibrate.centres.A"),
        ({"segment": {"labels": {"x": "tumour"}}}, "segment.labels"),
        ({"segment": {"source": "model"}}, "segment.model names no folder"),
        ({"segment": {"source": "model", "model": "nowhere"}}, "holds no model.json"),
        ({"calibrate": {"centres": {"B": {"drift": 0.01}}}}, "no case of the cohort sheet is of centre B"),
        ({"cohort": "none.tsv"}, "none.tsv does not exist"),
        ({"cohort": None}, "cohort is missing"),
        ({"features": "f.csv"}, "exclude each other"),
        ({"clinical": None, "analysis_plan": {"time": "days", "event": "event"}}, "clinical is missing"),
        ({"analysis_plan": {"time": "days"}}, "needs both time and event"),
        ({"analysis_plan": {"time": "dys", "event": "event"}}, "no such column; did you mean days?"),
        (
            {"harmonize": {"covariates": ["sex"]}},
            "harmonize.covariates: sex: the clinical table has no such column",
        ),
        ({"harmonize": {"batch": "kernl"}}, "did you mean kernel?"),
        ({"harmonize": {"batch": "outcome"}, "analysis_plan": {"outcome": "outcome"}}, "batch: outcome is an outcome"),
        (
            {"harmonize": {"covariates": ["event"]}, "analysis_plan": {"time": "days", "event": "event"}},
            "event is an outcome",
        ),
        (
            {"analysis_plan": {"covariates": ["outcome"], "outcome": "outcome"}},
            "outcome is an outcome",
        ),
        ({"extract": {"params": "none.yaml"}}, "none.yaml does not exist"),
        ({"extract": {"rois": ["tumor"]}}, "extract.rois: there is no ROI tumor; known: ROI"),
        ({"extract": {"outlier_sigma": 3}}, "extract.outlier_sigma: needs `ibsi: true`"),
        ({"extract": {"ibsi": True, "engine": "pyradiomics"}}, "extract.ibsi: needs `engine: radloom`"),
        (
            {"segment": {"labels": {1: "tumour"}}, "postprocess": {"labels": {"tumor": {"fill_holes": True}}}},
            "postprocess.labels: there is no ROI tumor; did you mean tumour?",
        ),
        (
            {"segment": {"labels": {1: "tumour"}}, "postprocess": {"priority": ["liver"]}},
            "postprocess.priority: there is no ROI liver; known: tumour",
        ),
        ({"postprocess": {"components": 0}}, "postprocess.components"),
        ({"postprocess": {"labels": {"ROI": {"body_hu": 0}}}}, "postprocess.labels.ROI"),
        ({"voxel_maps": {"rois": ["liver"]}}, "voxel_maps.rois: there is no ROI liver"),
        ({"voxel_maps": {"features": ["glcm_Kontrast"]}}, "voxel_maps.features: glcm_Kontrast: unknown feature"),
        ({"voxel_maps": {"kernel_radius": 0}}, "voxel_maps.kernel_radius"),
        ({"sensitivity": {"bin_widths": [0]}}, "sensitivity.bin_widths.0"),
        ({"sensitivity": {"spacings": [[1, 1]]}}, "sensitivity.spacings.0"),
        ({"model": {"roi": "liver"}}, "model.roi: there is no ROI liver"),
        ({"extract": {"rois": [2]}}, "extract.rois: there is no ROI 2; known: ROI"),
        (
            {"segment": {"labels": {1: "node", 2: "node"}}},
            "segment.labels: 2 labels are called node: give each a name of its own",
        ),
        (
            {"extract": {"derived_rois": {"rim": {"shel": {"of": "ROI", "outer_mm": 2}}}}},
            "unknown key extract.derived_rois.rim.shel; did you mean shell?",
        ),
        ({"extract": {"derived_rois": {"rim": {"shell": {"of": "ROI"}}}}}, "'outer_mm' is a required property"),
        (
            {"extract": {"derived_rois": {"rim": {"core": {"of": "ROI", "depth_mm": -2}}}}},
            "extract.derived_rois.rim.core.depth_mm: -2 is less than the minimum of 0",
        ),
        (
            {"extract": {"derived_rois": {"rim": {"shell": {"of": "ROI", "outer_mm": 2, "inner_mm": 3}}}}},
            "extract.derived_rois.rim: inner_mm (3) must be smaller than outer_mm (2)",
        ),
        (
            {"extract": {"derived_rois": {"rim": {"shell": {"of": "tumour", "outer_mm": 2}}}}},
            "extract.derived_rois.rim: there is no ROI tumour; known: 1, ROI, rim",
        ),
        (
            {"extract": {"derived_rois": {"a": {"union": ["ROI", "b"]}, "b": {"largest": {"of": "a"}}}}},
            "extract.derived_rois.a: it is derived from itself (a -> b -> a)",
        ),
        (
            {"extract": {"rois": ["ROI"], "derived_rois": {"rim": {"shell": {"of": "ROI", "outer_mm": 2}}}}},
            "extract.derived_rois.rim: extract.rois names neither it nor what is made of it",
        ),
        (
            {
                "extract": {"rois": [1], "derived_rois": {"rim": {"shell": {"of": "ROI", "outer_mm": 2}}}},
                "model": {"roi": "rim"},
            },
            "model.roi: extract.rois doesn't name rim, so it has no features",
        ),
        (
            {"extract": {"derived_rois": {"lesion": {"each": {"of": "ROI"}}}}, "model": {"roi": "lesion"}},
            "model.roi: lesion stands for lesion_1, lesion_2, ...: name one of them",
        ),
        (
            {"extract": {"derived_rois": {"rim": {"largest": {"of": "ROI"}, "core": {"of": "ROI", "depth_mm": 2}}}}},
            "extract.derived_rois.rim: it needs exactly one of shell, core, union, intersection, largest, each",
        ),
        (
            {"extract": {"derived_rois": {"rim": {"largest": {"of": "ROI"}}}}, "voxel_maps": {"rois": ["rim"]}},
            "voxel_maps.rois: rim is a derived ROI, and this step takes those of the segmentation alone",
        ),
        (
            {
                "extract": {"derived_rois": {"rim": {"largest": {"of": "ROI"}}}, "rois": ["rim"]},
                "perturb": {"count": 2},
            },
            "perturb.rois: extract.rois names derived ROIs alone, and this step takes those of the segmentation",
        ),
    ],
)
def test_each_mistake_is_named(good: dict[str, Any], change: dict[str, Any], message: str) -> None:
    assert message in problems_of({**good, **change})


def test_several_extractions_and_the_main_one(good: dict[str, Any]) -> None:
    path = good["extract"]["params"]
    several = {"extract": {"params": {"portal": path, "fine": path}}}
    config = complete({**good, **several})
    check_run(config)
    assert config["model"]["extraction"] == "portal", "the first"
    assert complete({**good, **several, "model": {"extraction": "fine"}})["model"]["extraction"] == "fine"
    assert complete(good)["model"]["extraction"] is None
    for change, message in (
        ({**several, "model": {"extraction": "port"}}, "extract.params has no port; did you mean portal?"),
        ({"model": {"extraction": "fine"}}, "model.extraction: extract.params is one file"),
        ({"extract": {"params": {"a": path, "A": path}}}, "two names differ in capitals only"),
        ({"extract": {"params": {"a": path, "b": "none.yaml"}}}, "extract.params: the file none.yaml does not exist"),
        (
            {"extract": {"params": {"a-b": path}}},
            "config: extract.params: 'a-b': a name is a letter followed by up to 31 letters",
        ),
        ({"extract": {"params": {}}}, "config: extract.params: "),
        ({"extract": {"params": 3}}, "config: extract.params: 3 is not of type 'string', 'object'"),
    ):
        assert message in problems_of({**good, **change})


@pytest.mark.parametrize("roi", ["rim", "lesion_1", "lesion_3", "ROI"])
@pytest.mark.parametrize("rois", [[], [1, "rim", "lesion"]])
def test_derived_rois_are_rois_like_any_other(good: dict[str, Any], roi: str, rois: list[str | int]) -> None:
    derived = {
        "outer": {"shell": {"of": 1, "outer_mm": 9}},
        "rim": {"intersection": ["outer", "inner"]},
        "inner": {"shell": {"of": "ROI", "outer_mm": 5, "minus": ["lesion_1"]}},
        "lesion": {"each": {"of": "ROI", "min_volume_mm3": 100}},
    }
    extract = {**good["extract"], "derived_rois": derived, "rois": rois}
    config = complete({**good, "extract": extract, "model": {"roi": roi}})
    check_run(config)
    assert config["extract"]["derived_rois"] == derived


@pytest.mark.parametrize(
    "extract",
    [
        {},
        {"rois": ["tumour", 2]},
        {"rois": ["tumour", "rim"], "derived_rois": {"rim": {"core": {"of": "tumour", "depth_mm": 2}}}},
        {"rois": ["lesion"], "derived_rois": {"lesion": {"each": {"of": "tumour"}}}},
    ],
)
def test_models_of_several_rois_need_to_know_which(good: dict[str, Any], extract: dict[str, Any]) -> None:
    good |= {"segment": {"labels": {1: "tumour", 2: "node"}}, "extract": {**good["extract"], **extract}}
    check_run(complete(good))
    modelled = {**good, "analysis_plan": {"outcome": "outcome"}}
    assert "model.roi is missing: the models use one ROI" in problems_of(modelled)
    roi = "lesion_1" if "lesion" in extract.get("rois", []) else "tumour"
    check_run(complete({**modelled, "model": {"roi": roi}}))
    check_run(complete({**modelled, "extract": {**good["extract"], "rois": ["node"], "derived_rois": {}}}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("P1,60,12,1,0\n", "line 3: duplicate patient_id, first on line 2"),
        ("P2,60,0,1,0\n", "line 3: days is not a time above 0"),
        ("P2,60,abc,1,0\n", "line 3: days is not a time above 0"),
        ("P2,60,inf,1,0\n", "line 3: days is not a time above 0"),
        ("P2,60,12,2,0\n", "line 3: event is neither 0 nor 1"),
        ("P2,60,12,1,yes\n", "line 3: outcome is neither 0 nor 1"),
        (",60,12,1,0\n", "line 3: no patient_id"),
    ],
)
def test_each_bad_clinical_value_is_named_with_its_line(good: dict[str, Any], row: str, message: str) -> None:
    with open("clinical.csv", "a") as table:
        table.write(row)
    models = {"analysis_plan": {"time": "days", "event": "event", "outcome": "outcome"}}
    assert message in problems_of({**good, **models})


def test_several_batch_columns(good: dict[str, Any]) -> None:
    Path("cohort.tsv").write_text("case_id\tcentre\tkernel\timage\nP1\tA\tsoft\tp1.nii.gz\n")
    assert check_run(complete({**good, "harmonize": {"batch": ["centre", "kernel"]}}))
    assert check_run(complete({**good, "harmonize": {"batch": ["kernel"]}}))

    def problems(**harmonize: Any) -> str:
        return problems_of({**good, "harmonize": {"batch": ["centre", "kernel"], **harmonize}})

    assert "harmonize.batch: kernl is no column" in problems(batch=["centre", "kernl"])
    assert "with several batch columns no batch can stay as it is" in problems(reference_batch="A")
    assert "harmonize.covariates: kernel is a batch as well" in problems(covariates=["kernel"])
    assert "harmonize.mean_only: covbat adjusts variances" in problems(method="covbat", mean_only=True)
    outcome = {"analysis_plan": {"outcome": "outcome"}}
    leaking = problems_of({**good, **outcome, "harmonize": {"batch": ["centre", "outcome"]}})
    assert "harmonize.batch: outcome is an outcome: harmonising by it would leak it" in leaking


def test_a_sheet_without_a_column_says_so(good: dict[str, Any]) -> None:
    Path("cohort.tsv").write_text("case_id\tcentre\nP1\tA\n")
    assert "cohort sheet: column missing: image" in problems_of(good)


def test_all_problems_come_in_one_message(good: dict[str, Any]) -> None:
    Path("cohort.tsv").write_text("case_id\tcentre\timage\nP1\tA\tJane_Doe.nii.gz\nP1\ta\tp1.nii.gz\n")
    message = problems_of({**good, "harmonize": {"batch": "scanner"}})
    for part in (
        "line 2: case P1: the image can't be found: No such file",
        "line 3: duplicate",
        "a centre written 2 ways",
        "harmonize.batch",
    ):
        assert part in message
    assert "Jane" not in message


def test_every_key_is_described_and_the_page_about_them_is_current(repo: Path) -> None:
    page = (repo / "config" / "README.md").read_text()
    assert config_table() in page, "run `make docs`"
    for name, rule in schema()["properties"].items():
        assert rule["description"], name
        for key, sub in rule.get("properties", {}).items():
            assert sub.get("description"), f"{name}.{key}"


def test_the_demos_configuration_has_every_key_with_its_meaning(repo: Path) -> None:
    written = (repo / "config" / "config.yaml").read_text()
    text = " ".join(line.strip().removeprefix("# ") for line in written.splitlines() if line.strip().startswith("#"))
    config = yaml.safe_load(written)
    for name, rule in schema()["properties"].items():
        assert name in config
        assert " ".join(rule["description"].split()) in text, name
        for key, sub in rule.get("properties", {}).items():
            assert key in config[name], f"{name}.{key}"
            assert " ".join(sub["description"].split()) in text, f"{name}.{key}"


def test_what_a_filter_by_stability_needs(good: dict[str, Any]) -> None:
    filtered = {**good, "model": {"min_icc": 0.75, "roi": "ROI"}}
    assert "model.min_icc needs the stability of the features: set perturb.count" in problems_of(filtered)
    assert check_run(complete({**filtered, "perturb": {"count": 2}}))
    problems = problems_of({**filtered, "perturb": {"count": 2, "rois": ["other"]}})
    assert "perturb.rois: there is no ROI other" in problems
    assert "model.roi ROI is not among perturb.rois" in problems
    extract = {**good["extract"], "derived_rois": {"rim": {"core": {"of": "ROI", "depth_mm": 2}}}}
    derived = {**good, "extract": extract, "model": {"min_icc": 0.75, "roi": "rim"}}
    assert "model.roi rim is a derived ROI, which isn't perturbed" in problems_of({**derived, "perturb": {"count": 2}})
    assert "no patient of the cohort sheet has two rows" in problems_of({**good, "stability": {"repeats": True}})
    Path("cohort.tsv").write_text(
        "case_id\tpatient_id\tcentre\timage\trepeat_id\nP1\tP1\tA\tp1.nii.gz\t1\nP2\tP1\tA\tp1.nii.gz\t2\n"
    )
    assert check_run(complete({**good, "model": {"min_icc": 0.75}, "stability": {"repeats": True}}))
    assert check_run(complete({**good, "model": {"min_icc": 0.75}}))
    assert check_run(complete({**derived, "perturb": {"count": 2}})), "the repeats tell of derived ROIs, too"
    assert "model.min_icc needs" in problems_of({**filtered, "stability": {"repeats": False}})


def test_what_a_training_needs(good: dict[str, Any]) -> None:
    training = {"name": "net"}
    check_run(complete({**good, "train_segmentation": training}))

    def message(**changes: Any) -> str:
        return problems_of({**good, "train_segmentation": training | changes})

    assert "the training reads the volumes: set keep to all" in problems_of(
        {**good, "keep": "final", "train_segmentation": training}
    )
    assert "spacing: a net of 3 dimensions needs 3 numbers" in message(architecture={"dimensions": 3})
    assert "patch: a net of 2 dimensions needs 2 numbers" in message(patch=[1, 2, 3])
    assert "hu_window: its first value must be below its second" in message(hu_window=[5, 5])
    assert "it leaves nobody to train on" in message(validation=0.5, test=0.5)
    assert "split: the file none.csv does not exist" in message(split="none.csv")
    assert "set loss.dice_over to item" in message(robust="group_dro")
    assert "it is a sum of nothing" in message(loss={"cross_entropy": 0, "dice": 0})
    assert "augmentation.flip: a net of slices has no z" in message(augmentation={"flip": ["x", "z"]})
    assert "slices is an odd number" in message(architecture={"slices": 2})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("P1,train\nP1,test", "the patient is in two parts"),
        ("P1,learn", "part is none of train, validation, test"),
        ("P1,test", "the split has nobody to train on"),
        ("NOBODY,train", "split: no patient of the cohort sheet is there to train on"),
    ],
)
def test_a_split_that_leaves_nobody_or_says_two_things(good: dict[str, Any], rows: str, message: str) -> None:
    Path("split.csv").write_text(f"patient_id,part\n{rows}\n")
    assert message in problems_of({**good, "train_segmentation": {"name": "net", "split": "split.csv"}})


def test_what_a_net_to_train_must_be(good: dict[str, Any]) -> None:
    def message(**changes: Any) -> str:
        return problems_of({**good, "train_segmentation": {"name": "net"} | changes})

    assert "classes: no label is called ROl; did you mean ROI?" in message(classes=["ROl"])
    assert "loss.class_weights: no label is called liver" in message(loss={"class_weights": {"liver": 2}})
    settings = {"name": "net", "patch": [32, 48], "classes": ["ROI"], "loss": {"class_weights": {"background": 2}}}
    check_run(complete({**good, "train_segmentation": settings}))


def test_models_that_are_damaged_or_do_not_fit_each_other(good: dict[str, Any]) -> None:
    def write(name: str, weights: bytes, dimensions: int = 2, **changes: Any) -> str:
        folder = Path(name)
        folder.mkdir(exist_ok=True)
        (folder / "model.safetensors").write_bytes(weights)
        described = {
            "architecture": {"dropout": 0.1, "dimensions": dimensions},
            "classes": {"1": "liver"},
            "outputs": "softmax",
            "weights": {"sha256": hashlib.sha256(weights).hexdigest()},
        }
        (folder / "model.json").write_text(json.dumps(described | changes))
        return name

    def segment(*models: str, **changes: Any) -> dict[str, Any]:
        named = {f"m{number}": model for number, model in enumerate(models)}
        return {**good, "segment": {"source": "model", "model": named, **changes}}

    first, second = write("first", b"1"), write("second", b"2")
    check_run(complete(segment(first, second)))
    assert "two models have the same weights" in problems_of(segment(first, write("copy", b"1")))
    other = write("other", b"3", classes={"1": "spleen"})
    assert "other has other classes or outputs than first" in problems_of(segment(first, other))
    assert "second sees slices, which can't be mirrored along z" in problems_of(segment(second, tta=["z"]))
    check_run(complete(segment(write("volumes", b"4", dimensions=3), tta=["z"])))
    looking = write("looking", b"6", region={"label": "liver"}, classes={"1": "lesion"})
    assert "looking holds no region/model.json" in problems_of(segment(looking))
    write("looking/region", b"7")
    morphology = {"labels": {"liver": {"fill_holes": True}, "lesion": {}}}
    check_run(complete(segment(looking) | {"postprocess": morphology}))
    also = write("also", b"8", region={"label": "liver"}, classes={"1": "lesion"})
    assert "looking looks at a region and can't be one of an ensemble" in problems_of(segment(looking, also))
    Path("second/model.safetensors").write_bytes(b"5")
    assert "second: the sha256 of model.safetensors isn't that of model.json" in problems_of(segment(second))


def _models(dropout: list[float]) -> dict[str, str]:
    """Descriptions of models with these shares of dropout, as much of them as the configuration looks at."""
    named = {}
    for number, share in enumerate(dropout):
        folder = Path(f"model{number}")
        folder.mkdir()
        described = {"architecture": {"dropout": share}, "classes": {"1": "liver", "2": "spleen"}}
        (folder / "model.json").write_text(json.dumps(described))
        (folder / "model.safetensors").write_text("")
        named[f"m{number}"] = str(folder)
    return named


@pytest.mark.parametrize(
    ("dropout", "section", "message"),
    [
        ([0.0], {"uncertainty": {"samples": 8}}, "samples is 8, and the only model has no dropout"),
        ([0.2], {"uncertainty": {"samples": 1}}, "samples is 1, and the only model is sampled once"),
        ([0.2], {"uncertainty": {"max_volume_cv": 0.1}}, "its thresholds need samples"),
        (
            [0.2],
            {"uncertainty": {"samples": 3, "rois": ["livr"]}},
            "uncertainty.rois: the model has no class livr",
        ),
        ([0.0], {"saliency": {"classes": ["colon"]}}, "segment.saliency.classes: the model has no class colon"),
    ],
)
def test_samples_and_saliency_that_the_models_cannot_give(
    good: dict[str, Any], dropout: list[float], section: dict[str, Any], message: str
) -> None:
    models = _models(dropout)
    assert message in problems_of({**good, "segment": {"source": "model", "model": models, **section}})
    (only,) = models.values()
    assert message in problems_of({**good, "segment": {"source": "model", "model": only, **section}})


@pytest.mark.parametrize(("dropout", "samples"), [([0.2], 2), ([0.0, 0.0], 1), ([0.2, 0.0], 5)])
def test_samples_that_the_models_can_give(good: dict[str, Any], dropout: list[float], samples: int) -> None:
    section = {"uncertainty": {"samples": samples, "max_volume_cv": 0.2}, "saliency": {"classes": ["liver"]}}
    check_run(complete({**good, "segment": {"source": "model", "model": _models(dropout), **section}}))


def test_what_matching_cropping_and_phantoms_need(good: dict[str, Any]) -> None:
    match = {"fwhm_mm": 2}
    assert "the sheet has no column psf_fwhm_mm, and there are no kernels" in problems_of(
        {**good, "resample": {"match": match}}
    )
    check_run(complete({**good, "resample": {"match": {**match, "kernels": {"soft": 1.5}}}}))
    message = problems_of({**good, "resample": {"match": {"thickness_mm": 3, "thickness_column": "thick"}}})
    assert "resample.match.thickness_column: the sheet has no column thick" in message
    # Headers may have it.
    check_run(complete({**good, "resample": {"match": {"thickness_mm": 3, "thickness_column": "slice_thickness"}}}))
    cropped = {**good, "resample": {"crop_mm": 20}, "segment": {"source": "command", "command": "x {image} {labels}"}}
    assert "resample.crop_mm: the segmentation needs whole scans" in problems_of(cropped)

    calibrate = {"phantom_table": "phantoms.tsv", "scanner_column": "kernel", "day_column": "day"}
    assert "phantom table: the file phantoms.tsv does not exist" in problems_of({**good, "calibrate": calibrate})
    lines = ["scanner\tday\tmaterial\thu_expected\thu_measured", "soft\t0\tair\t-1000\t-990", "soft\t0\twater\t0\t2"]
    Path("phantoms.tsv").write_text("\n".join(lines) + "\n")
    assert "calibrate.day_column: the sheet has no column day" in problems_of({**good, "calibrate": calibrate})
    Path("cohort.tsv").write_text("case_id\tcentre\timage\tkernel\tday\nP1\tA\tp1.nii.gz\tsoft\t2024-05-06\n")
    message = problems_of({**good, "calibrate": calibrate})
    assert "cohort sheet, line 2: day is no number of days" in message
    assert "2024" not in message
    Path("cohort.tsv").write_text("case_id\tcentre\timage\tkernel\tday\nP1\tA\tp1.nii.gz\tsoft\t12\n")
    check_run(complete({**good, "calibrate": calibrate}))
    calibrate |= {"scanner_column": "scanner_model"}
    assert "the sheet has no column scanner_model" in problems_of({**good, "calibrate": calibrate}), "nor have headers"
    # The model of headers needs the centre beside it.
    Path("p1").mkdir()
    Path("cohort.tsv").write_text("case_id\tcentre\timage\tkernel\tday\nP1\tA\tp1\tsoft\t12\n")
    assert "phantom table: column missing: centre" in problems_of({**good, "calibrate": calibrate})
    Path("phantoms.tsv").write_text("\n".join(["centre\t" + lines[0], *("A\t" + line for line in lines[1:])]) + "\n")
    check_run(complete({**good, "calibrate": calibrate}))


@pytest.mark.parametrize(
    "centre",
    [
        {"water_hu": 0, "air_hu": -1000, "water_hu_sd": 1},
        {"water_hu": 0, "air_hu": -1000, "drift_sd": 1},
        {"drift": 0.1, "drift_sd": 0},
        {"drift": 0.1, "water_hu_sd": 1, "air_hu_sd": 1},
    ],
)
def test_sds_of_calibrations_go_with_their_values(good: dict[str, Any], centre: dict[str, float]) -> None:
    assert "calibrate.centres.A" in problems_of({**good, "calibrate": {"centres": {"A": centre}}})
