"""Whatever is wrong with the files of a series: it ends as a sound volume or a CaseError, soon, and says no names."""

import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from dicom_fuzz import write_damaged

from radloom.dicom.ct import CtSettings, read_ct
from radloom.dicom.files import quiet
from radloom.dicom.series import choose_series, find_series
from radloom.errors import CaseError

SECRETS = ("DOE", "JOHN", "4711", "1.2.826")
LONGEST_S = 10.0  # 0.03 s as a rule; the machine may be busy
MOST_BYTES = 40 << 20  # the volume has 34 kB


def outcome(folder: Path, seed: int) -> str:
    """Damage a series and read it: "read", or why it was refused."""
    with quiet():
        damage = write_damaged(folder, seed)
    tracemalloc.start()
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning of pydicom's would carry values
        try:
            found = read_ct(choose_series(find_series(sorted(folder.iterdir()))), CtSettings(allow_gap=seed % 3))
        except CaseError as error:
            said, reason = str(error), error.reason
        else:
            said, reason = repr((found.warnings, found.facts, found.acquisition)), "read"
            assert np.isfinite(found.volume.array).all(), damage
            assert min(found.volume.geometry.spacing) > 0, damage
            assert found.valid is None or (found.volume.array[~found.valid] == -1024).all(), damage
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
    assert time.perf_counter() - start < LONGEST_S, damage
    assert most < MOST_BYTES, damage
    assert not any(secret in said for secret in (*SECRETS, str(folder))), damage
    return reason


def test_a_few_damaged_series(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a word on the terminal."""
    kinds = {outcome(tmp_path / str(seed), seed)[:20] for seed in range(60)}
    assert len(kinds) > 8
    assert "read" in kinds
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_many_damaged_series(tmp_path: Path) -> None:
    kinds = {outcome(tmp_path / str(seed), seed)[:20] for seed in range(60, 260)}
    assert len(kinds) > 20
