"""Which (step, case) pairs a rerun computes: what changed and what follows from it, nothing else."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import SimpleITK as sitk
from harness import CASES, IMAGING, Pairs, Workspace, write_case

TABLES = {("tables", "cohort")}
ALL_COHORT = TABLES | {("harmonize", "cohort"), ("report", "cohort")}


def pairs(steps: tuple[str, ...], *cases: str) -> Pairs:
    return {(step, case) for step in steps for case in cases}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, path
    path.write_text(text.replace(old, new))


def own_copy(workspace: Workspace, case_id: str, column: str) -> Path:
    """Give a case a source of its own, with the same content, so that a test may change it."""
    old = Path(workspace.row(case_id)[column])
    new = workspace.folder / old.name
    shutil.copy(old, new)
    workspace.row(case_id)[column] = str(new)
    return new


def rewrite_image(path: Path, change: float) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    array[5:8, 8:11, 8:11] += int(change)
    new = sitk.GetImageFromArray(array)
    new.CopyInformation(image)
    sitk.WriteImage(new, str(path))


def test_the_first_run_computes_every_pair_once(finished: Workspace) -> None:
    assert finished.computed() == pairs(IMAGING, *CASES) | ALL_COHORT


def test_nothing_changed(workspace: Workspace) -> None:
    assert workspace.run(whole=True) == set()


def test_a_column_of_the_acquisition_is_told_and_changes_no_number(workspace: Workspace) -> None:
    for row in workspace.rows:
        row["ward"] = "nobody asks for it"
    assert workspace.run(whole=True) == set()
    workspace.row("a1")["kernel"] = "B30f"
    assert workspace.run(whole=True) == TABLES | {("report", "cohort")}
    assert b"B30f" in workspace.tables()["acquisition.csv"]
    # As the batch it counts, for what harmonises by it.
    for row in workspace.rows:
        row["kernel"] = "B30f" if row["centre"] == "alpha" else "B70s"
    workspace.set("harmonize", batch="kernel")
    assert workspace.run(whole=True) == ALL_COHORT


def test_a_file_touched(workspace: Workspace) -> None:
    image = own_copy(workspace, "a1", "image")
    assert workspace.run() == set()
    os.utime(image)
    assert workspace.run() == set()


def test_a_file_renamed_to_what_it_is(workspace: Workspace) -> None:
    image = own_copy(workspace, "a1", "image")
    wrong = image.rename(image.with_name("a1.scan"))
    workspace.row("a1")["image"] = str(wrong)
    workspace.run()
    assert b"a1,alpha,,ingest" in workspace.tables()["exclusions.csv"]
    workspace.row("a1")["image"] = str(wrong.rename(image))
    assert workspace.run() == pairs(IMAGING, "a1") | TABLES


def test_results_copied_without_their_times_and_without_snakemakes_records(workspace: Workspace) -> None:
    workspace.set("overlay", window=[-200, 200])
    copy = Workspace(workspace.folder.parent / "copy", workspace.snakefile, workspace.rows, workspace.config)
    shutil.copytree(workspace.folder, copy.folder, copy_function=shutil.copy)
    shutil.rmtree(copy.folder / ".snakemake")
    assert copy.run() == pairs(("overlay",), *CASES), "the changed setting is seen, whatever the times say"


def test_a_setting_changed_while_the_clock_goes_back(workspace: Workspace) -> None:
    for path in (workspace.results / "manifests" / "overlay").rglob("*.json"):
        os.utime(path, (4e9, 4e9))
    workspace.set("overlay", window=[-200, 200])
    assert workspace.run() == pairs(("overlay",), *CASES)


def test_two_runs_at_once(workspace: Workspace) -> None:
    hold = "import sys, time; from pathlib import Path; from radloom.engine.locks import hold_results; "
    hold += f"assert hold_results(Path({str(workspace.results)!r})); print(1, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    try:
        workspace.set("overlay", window=[-200, 200])
        result = workspace.run_command()
    finally:
        other.kill()
        other.wait()
    assert result.returncode != 0
    assert "another run is at work" in result.stderr
    assert workspace.run() == pairs(("overlay",), *CASES)


def test_a_parameter_file_edited_while_a_job_runs(workspace: Workspace) -> None:
    root = workspace.own_code()
    script = root / "workflow" / "scripts" / "extract.py"
    edit(
        script,
        "def run_case(task: CaseTask) -> CaseResult:\n",
        "def run_case(task: CaseTask) -> CaseResult:\n"
        "    task.resources['params'].write_text('setting: {binWidth: 5}')\n",
    )
    parameters = (workspace.folder / "features.yaml").read_text()
    assert workspace.run_command().returncode != 0
    assert ("extract", "a1") not in workspace.computed()
    (workspace.folder / "features.yaml").write_text(parameters)


def test_a_fresh_clone_of_the_code(workspace: Workspace) -> None:
    workspace.own_code()
    assert workspace.run() == set()


def test_the_content_of_one_image_changed(workspace: Workspace) -> None:
    image = own_copy(workspace, "a2", "image")
    rewrite_image(image, 50)
    # The labels come from the mask, whatever the image.
    expected = pairs(("ingest", "resample", "calibrate", "quality", "extract", "overlay"), "a2")
    assert workspace.run() == expected | TABLES
    assert workspace.run() == set()


def test_one_mask_changed(workspace: Workspace) -> None:
    own_copy(workspace, "b1", "mask")
    _, mask = write_case(workspace.folder, "other", 3, radius=4.0)
    shutil.copy(mask, workspace.row("b1")["mask"])
    steps = ("ingest", "resample", "segment", "postprocess", "quality", "extract", "overlay")
    assert workspace.run() == pairs(steps, "b1") | TABLES


def test_a_case_added(workspace: Workspace) -> None:
    image, mask = write_case(workspace.folder, "b0", 9)
    workspace.rows.insert(3, {"case_id": "b0", "centre": "beta", "image": str(image), "mask": str(mask)})
    assert workspace.run() == pairs(IMAGING, "b0") | TABLES


def test_a_case_removed(workspace: Workspace) -> None:
    workspace.rows.remove(workspace.row("a1"))
    assert workspace.run(whole=True) == ALL_COHORT
    assert b"a1" not in workspace.tables()["features_raw.csv"]


def test_a_case_moved_to_another_centre(workspace: Workspace) -> None:
    workspace.row("a1")["centre"] = "beta"
    assert workspace.run() == TABLES
    assert b"a1,a1,beta" in workspace.tables()["features_raw.csv"]


@pytest.mark.parametrize(
    ("section", "values", "steps"),
    [
        ("ingest", {"geometry_tolerance": 0.02}, ("ingest",)),
        ("resample", {"spacing": [1.5, 1.5, 1.5]}, IMAGING[1:]),
        ("calibrate", {"air_tolerance": 60}, ("calibrate",)),
        ("segment", {"labels": {"1": "tumour"}}, ("segment", "postprocess", "quality", "extract", "overlay")),
        ("postprocess", {"min_volume_mm3": 1e9, "labels": {"ROI": {"min_volume_mm3": 0}}}, ("postprocess",)),
        ("extract", {"min_voxels": 32}, ("extract",)),
        ("overlay", {"window": [-200, 200]}, ("overlay",)),
    ],
)
def test_a_parameter_of_an_imaging_step_changed_and_changed_back(
    workspace: Workspace, section: str, values: dict[str, object], steps: tuple[str, ...]
) -> None:
    before = {**workspace.config.get(section, {})}
    tables = workspace.tables()
    workspace.set(section, **values)
    first = {pair for pair in workspace.run() if pair[1] != "cohort"}
    assert first == pairs(steps, *CASES)
    workspace.config[section] = before
    second = {pair for pair in workspace.run() if pair[1] != "cohort"}
    assert second == first
    assert workspace.tables() == tables


@pytest.mark.parametrize(
    ("section", "values", "steps"),
    [
        ("harmonize", {"mean_only": True}, ("harmonize", "report")),
        ("report", {"title": "Another title"}, ("report",)),
    ],
)
def test_a_parameter_of_a_cohort_step_changed_and_changed_back(
    workspace: Workspace, section: str, values: dict[str, object], steps: tuple[str, ...]
) -> None:
    before = {**workspace.config.get(section, {})}
    workspace.set(section, **values)
    computed = workspace.run(whole=True)
    assert {step for step, _ in computed} >= set(steps)
    assert {case for _, case in computed} == {"cohort"}
    workspace.config[section] = before
    assert workspace.run(whole=True) == computed


def test_two_values_swapped(workspace: Workspace) -> None:
    workspace.set("resample", spacing=[1.0, 1.0, 1.5])
    workspace.run(until={"resample"})
    workspace.set("resample", spacing=[1.5, 1.0, 1.0])
    assert workspace.run(until={"resample"}) == pairs(("resample",), *CASES)


def test_a_helper_module_edited_runs_only_the_steps_that_import_it(workspace: Workspace) -> None:
    root = workspace.own_code()
    with open(root / "workflow" / "radloom" / "overlay.py", "a") as module:
        module.write("\nSOMETHING_NEW = 1\n")
    # The segmentation draws its saliency maps with it.
    assert workspace.run() == pairs(("segment", "overlay"), *CASES)


def test_a_comment_in_a_script_or_in_the_feature_parameters_edited(workspace: Workspace) -> None:
    root = workspace.own_code()
    with open(root / "workflow" / "scripts" / "resample.py", "a") as script:
        script.write("\n# a comment\n")
    edit(workspace.folder / "features.yaml", "# which features", "# these features")
    assert workspace.run() == set()


def test_a_postprocessing_parameter_that_leaves_the_mask_identical(workspace: Workspace) -> None:
    workspace.set("postprocess", min_volume_mm3=1.0)
    computed = workspace.run()
    assert {pair for pair in computed if pair[1] != "cohort"} == pairs(("postprocess",), *CASES)


def test_snakemakes_own_records_deleted_and_then_a_parameter_changed(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / ".snakemake")
    workspace.set("calibrate", air_tolerance=70)
    assert {p for p in workspace.run() if p[1] != "cohort"} == pairs(("calibrate",), *CASES)


@pytest.mark.parametrize("damage", ["deleted", "truncated", "altered"])
def test_an_intermediate_damaged_by_hand(workspace: Workspace, damage: str) -> None:
    tables = workspace.tables()
    victim = workspace.results / "cases" / "a3" / "resample" / "image.nii.gz"
    content = victim.read_bytes()
    if damage == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(content[:100] if damage == "truncated" else gzip.compress(b"x" * 10))
    assert workspace.run() == {("resample", "a3")}
    assert victim.read_bytes() == content
    assert workspace.tables() == tables


def test_a_table_altered_by_hand(workspace: Workspace) -> None:
    victim = workspace.results / "tables" / "features_raw.csv"
    content = victim.read_bytes()
    victim.write_bytes(content.replace(b"a1", b"zz"))
    assert ("tables", "cohort") in workspace.run()
    assert victim.read_bytes() == content


def test_cases_per_job_changed(workspace: Workspace) -> None:
    tables = workspace.tables()
    workspace.config["cases_per_job"] = 1
    assert workspace.run() == set()
    assert workspace.tables() == tables
    assert len(list((workspace.results / "manifests" / "ingest").glob("*.json"))) == len(CASES)


def test_a_case_that_crashes_its_worker_is_excluded_alone(workspace: Workspace) -> None:
    root = workspace.own_code()
    edit(
        root / "workflow" / "scripts" / "ingest.py",
        "def run_case(task: CaseTask) -> CaseResult:\n",
        "def run_case(task: CaseTask) -> CaseResult:\n"
        "    if task.case_id == 'a2':\n        import os\n\n        os.kill(os.getpid(), 11)\n",
    )
    workspace.run()
    exclusions = workspace.tables()["exclusions.csv"].decode()
    assert exclusions.count("\n") == 2
    assert "a2,alpha,,ingest,crashed" in exclusions
    features = workspace.tables()["features_raw.csv"].decode()
    assert [line.split(",")[0] for line in features.splitlines()[1:]] == ["a1", "a3", "b1", "b2"]
    assert not (workspace.results / "cases" / "a2" / "extract").exists(), "an excluded case leaves no old result"


def test_an_excluded_case_repaired(workspace: Workspace) -> None:
    tables = workspace.tables()
    image = own_copy(workspace, "b2", "image")
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert ("ingest", "b2") in workspace.run()
    exclusions = workspace.tables()["exclusions.csv"].decode()
    assert "b2,beta,,ingest," in exclusions
    image.write_bytes(content)
    assert workspace.run() == pairs(IMAGING, "b2") | TABLES
    assert workspace.tables() == tables


def test_force_computes_a_step_anew(workspace: Workspace) -> None:
    workspace.config["force"] = ["segment"]
    assert workspace.run() == pairs(("segment",), *CASES)
    workspace.config["force"] = []
    assert workspace.run() == set()


def test_keep_final_removes_the_volumes_and_brings_them_back_when_they_are_needed(workspace: Workspace) -> None:
    tables = workspace.tables()
    workspace.config["keep"] = "final"
    assert workspace.run() == set()
    cases = workspace.results / "cases"
    left = {path.parent.name for path in cases.rglob("*.nii.gz")}
    assert left == {"postprocess"}
    assert workspace.run() == set()
    own_copy(workspace, "a1", "image")
    workspace.config["cases_per_job"] = 2
    workspace.row("b1")["centre"] = "alpha"
    assert workspace.run() == TABLES, "nothing needs the volumes"
    workspace.row("b1")["centre"] = "beta"
    workspace.run()
    workspace.set("overlay", window=[-200, 200])
    volumes = ("ingest", "resample", "calibrate", "segment")
    assert workspace.run() == pairs((*volumes, "overlay"), *CASES)
    assert workspace.tables() == tables
    assert {path.parent.name for path in cases.rglob("*.nii.gz")} == {"postprocess"}
    _, mask = write_case(workspace.folder, "other", 3, radius=4.0)
    own_copy(workspace, "b1", "mask")
    shutil.copy(mask, workspace.row("b1")["mask"])
    assert workspace.run() == pairs(IMAGING, "b1") | TABLES


def test_a_system_error_fails_the_job_and_is_tried_again(workspace: Workspace) -> None:
    root = workspace.own_code()
    workspace.set("overlay", window=[-200, 200])
    script = root / "workflow" / "scripts" / "overlay.py"
    original = script.read_text()
    edit(
        script,
        "def run_case(task: CaseTask) -> CaseResult:\n",
        "def run_case(task: CaseTask) -> CaseResult:\n"
        "    if task.case_id == 'a1':\n        raise OSError(5, 'Input/output error')\n",
    )
    result = workspace.run_command()
    assert result.returncode != 0
    assert "case a1: OSError" in result.stderr
    assert ("overlay", "b1") in workspace.computed()
    script.write_text(original)
    assert {("overlay", "a1")} <= workspace.run()


def test_parameters_of_tables_and_models_changed_and_changed_back(workspace: Workspace) -> None:
    lines = [f"{case},{100 + n},{n % 2},{n % 2}" for n, case in enumerate(CASES)]
    (workspace.folder / "clinical.csv").write_text("\n".join(["patient_id,days,event,outcome", *lines]) + "\n")
    workspace.config["clinical"] = "clinical.csv"
    workspace.set("analysis_plan", time="days", event="event", outcome="outcome")
    # Five patients: both models are refused, which is a result too, and the run ends well.
    models = {("model_cox", "cohort"), ("model_logistic", "cohort")}
    assert workspace.run(whole=True) == ALL_COHORT | models
    assert b"not estimable" in workspace.tables()["performance.csv"]
    tables = workspace.tables()

    workspace.config["max_excluded_fraction"] = 0.6
    # The tables come out identical, so the statistics stop there; the report lists the settings of every step.
    assert workspace.run(whole=True) == {("tables", "cohort"), ("report", "cohort")}
    for section in ("model_cox", "model_logistic"):
        workspace.set(section, l1_ratio=0.5)
        assert workspace.run(until={"model_cox", "model_logistic"}) == {(section, "cohort")}
    for section in ("model_cox", "model_logistic"):
        del workspace.config[section]
    del workspace.config["max_excluded_fraction"]
    assert workspace.run(whole=True) >= TABLES | models
    assert workspace.tables() == tables

    text = (workspace.folder / "clinical.csv").read_text()
    (workspace.folder / "clinical.csv").write_text(text.replace(",100,", ",99,"))
    assert workspace.run(until={"model_cox", "model_logistic"}) >= TABLES | models
