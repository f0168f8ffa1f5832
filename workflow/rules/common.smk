# Configuration, plans and what all rules share. Nothing else writes plans.
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
ENVIRONMENT = "../../envs/radloom.yaml"

# Also where the package is not installed.
sys.path.insert(0, str(ROOT / "workflow"))

from radloom.engine.environment import set_environment
from radloom.engine.plans import COHORT, clear_abandoned, prepare
from radloom.engine.progress import Progress, hide_scheduling
from radloom.engine.steps import (
    segmentation_mb,
    segmentation_minutes,
    training_threads,
    trains_on_gpus,
    uses_gpu,
)
from radloom.engine.worker import trace
from radloom.errors import ConfigError

set_environment(ROOT)

# Not as a `configfile:` of the workflow: a file given by --configfile would be merged over it, key by key.
if not workflow.overwrite_configfiles:
    import yaml

    with open("config/config.yaml") as stream:
        config = {**yaml.safe_load(stream), **config}

try:
    RUN = prepare(config, ROOT / "workflow", workflow.is_main_process)
except ConfigError as error:
    raise WorkflowError(f"the run can't start:\n{error}")
except Exception as error:
    # The text of any other error may hold a path with a patient's name: say where it happened.
    raise WorkflowError(
        f"the run can't start: {type(error).__name__} in\n{trace(error)}"
    ) from None

CASES_IN = {chunk.name: len(chunk.case_ids) for chunk in RUN.chunks}
PROGRESS = []  # the display of the run, once it has started


wildcard_constraints:
    chunk=r"[A-Za-z0-9][A-Za-z0-9._-]*",


def minutes(per_case):
    """Return a runtime in minutes that grows with the cases of a chunk."""
    return lambda wildcards: 10 + round(per_case * CASES_IN.get(wildcards.chunk, 1))


hide_scheduling(logger)


onstart:
    clear_abandoned(RUN)
    jobs = [
        job
        for job in workflow.dag.needrun_jobs()
        if job.rule.name not in ("all", "tidy")
    ]
    PROGRESS.append(
        Progress(
            RUN.results,
            sum(CASES_IN.get(job.wildcards_dict.get("chunk"), 1) for job in jobs),
        )
    )


onsuccess:
    PROGRESS.pop().stop()
    print(f"radloom: done. What was made is in {RUN.results}/.", file=sys.stderr)


onerror:
    PROGRESS.pop().stop()
    print(
        f"radloom: stopped. What is done is kept; the logs are in {RUN.results}/logs/.",
        file=sys.stderr,
    )
