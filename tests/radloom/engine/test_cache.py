"""The folder in which a step of the whole cohort keeps what a stop shall not cost."""

from pathlib import Path

import pytest

from radloom.config import complete
from radloom.engine import job
from radloom.engine.forget import MADE_WITH_ALL
from radloom.engine.plans import Run, clear_abandoned
from radloom.engine.records import cache_path
from radloom.engine.step import CohortResult, CohortStep, CohortTask
from radloom.engine.steps import STEPS, active_steps, training_threads, trains_on_gpus


def test_a_step_finds_its_cache_again_after_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "check_run", lambda _: None)
    seen: list[tuple[str, bool]] = []

    def run(task: CohortTask) -> CohortResult:
        assert task.cache is not None
        seen.append((task.code, (task.cache / "checkpoint").exists()))
        task.cache.mkdir(parents=True, exist_ok=True)
        (task.cache / "checkpoint").write_text("half way")
        (task.out / "half").write_text("")
        if len(seen) == 1:
            raise RuntimeError("a stop")
        assert [path.name for path in task.out.iterdir()] == ["half"]  # the scratch folder begins empty
        return CohortResult()

    plan = {"results": str(tmp_path), "after": [], "chunks": [], "files": [], "sources": {}, "cohort": None}
    plan |= {"step": "train_segmentation", "params": {}, "versions": {}, "code": "c", "force": ""}
    step = CohortStep("train_segmentation", run)
    with pytest.raises(RuntimeError):
        job.run_cohort(step, plan)
    job.run_cohort(step, plan)
    assert [found for _, found in seen] == [False, True]
    assert seen[0][0] == seen[1][0] != ""
    assert cache_path(tmp_path, "train_segmentation").is_dir()


def test_a_step_that_is_no_more_asked_for_keeps_nothing(tmp_path: Path) -> None:
    config = complete({"results": str(tmp_path)})
    cache_path(tmp_path, "train_segmentation").mkdir(parents=True)
    clear_abandoned(Run(config, tmp_path, ("train_segmentation",), ()))
    assert cache_path(tmp_path, "train_segmentation").is_dir()
    clear_abandoned(Run(config, tmp_path, (), ()))
    assert not cache_path(tmp_path, "train_segmentation").exists()


def test_a_withdrawn_patients_volumes_and_what_learned_from_them_go() -> None:
    assert {"cache", "models", "training"} <= set(MADE_WITH_ALL)


def test_when_a_net_is_trained_and_what_it_takes() -> None:
    off = complete({"results": "r"})
    assert "train_segmentation" not in active_steps(off)
    section = {"name": "net", "device": "cuda", "processes": 2, "threads": 3, "workers": 1}
    on = complete({"results": "r", "train_segmentation": section})
    assert "train_segmentation" in active_steps(on)
    assert (trains_on_gpus(on), training_threads(on)) == (2, 8)
    assert trains_on_gpus(complete({"results": "r", "train_segmentation": section | {"device": "cpu"}})) == 0
    assert {"calibrate/image.nii.gz", "postprocess/roi.nii.gz"} <= set(STEPS["train_segmentation"].files)
