"""One cohort that has been through the imaging steps and the tables, and a copy of it for each test."""

import fcntl
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from harness import CASES, Workspace, write_case

FAST_FEATURES = {
    "imageType": {"Original": {}},
    "featureClass": {"firstorder": ["Mean", "Entropy"], "shape": ["MeshVolume"]},
    "setting": {"binWidth": 25},
}


def new_workspace(folder: Path) -> Workspace:
    """Return a workspace whose cohort has two centres, and whose chain ends at the harmonised tables and the report."""
    workspace = Workspace(folder)
    data = folder.parent / f"{folder.name}-data"
    data.mkdir(parents=True)
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (case_id, centre) in enumerate(CASES.items()):
        image, mask = write_case(data, case_id, seed)
        workspace.rows.append({"case_id": case_id, "centre": centre, "image": str(image), "mask": str(mask)})
    (folder / "features.yaml").write_text("# which features\n" + yaml.safe_dump(FAST_FEATURES))
    workspace.config = {
        "results": "results",
        "cohort": "cohort.tsv",
        "cases_per_job": 3,
        "extract": {"params": "features.yaml"},
        "resample": {"spacing": [1, 1, 1]},
        "harmonize": {"small_batch": "passthrough", "min_batch_size": 2},
    }
    return workspace


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose run is finished. Nobody changes it: take a copy. Processes side by side share it."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent
    made = place / "finished.pickle"
    with open(place / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            workspace = new_workspace(place / "finished" / "workspace")
            computed = workspace.run(whole=True)
            assert ("report", "cohort") in computed
            made.write_bytes(pickle.dumps(workspace))
    finished: Workspace = pickle.loads(made.read_bytes())
    return finished


@pytest.fixture
def workspace(finished: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished workspace."""
    return finished.copy(tmp_path / "workspace")


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Workspace]:
    """Make workspaces in which nothing has run."""
    made = 0

    def make() -> Workspace:
        nonlocal made
        made += 1
        return new_workspace(tmp_path / f"fresh{made}")

    return make
