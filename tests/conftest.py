"""What all tests share."""

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# One thread for every numerical library: the tests run side by side, and results must not depend on threads.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
    os.environ[variable] = "1"

# Property tests try the same examples each time, so that a red suite is red again for whoever looks into it. New
# examples are looked for by hand: HYPOTHESIS_PROFILE=explore make test.
settings.register_profile("same", derandomize=True)
settings.register_profile("explore", derandomize=False)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

REPO = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files, which run the whole workflow, first: short ones fill the processes evenly at the end."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the project."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Reference data beside the project; it is no part of it, so tests that need it skip where it is absent."""
    folder = REPO.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the reference data are not at ../shared/data")
    return folder


@pytest.fixture(scope="session")
def pyradiomics_data() -> Path:
    """PyRadiomics' own scans and baseline values, which `make test` unpacks; tests skip where they couldn't be had."""
    folder = Path(sys.prefix) / "pyradiomics-data"
    if not folder.is_dir():
        pytest.skip("PyRadiomics' own data are not in the environment (tests/helpers/pyradiomics_data.py)")
    return folder


@pytest.fixture(scope="session")
def liver_wheel() -> Path:
    """The wheel with the trained liver net, which `make test` downloads; tests skip where it couldn't be had."""
    wheels = list((Path(sys.prefix) / "liver-wheel").glob("*.whl"))
    if not wheels:
        pytest.skip("the liver net's wheel is not in the environment (tests/helpers/liver_wheel.py)")
    return wheels[0]
