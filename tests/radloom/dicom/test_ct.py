"""Series to HU volumes: what is exact, what is refused, and what ITK reads."""

from pathlib import Path

import numpy as np
from dicom_files import phantom, write_series

from radloom.dicom.ct import read_ct
from radloom.dicom.series import choose_series, find_series


def test_a_plain_series_is_read_as_it_was_written(tmp_path: Path) -> None:
    hu = phantom()
    write_series(tmp_path, hu, names=[f"slice{k}" for k in (3, 1, 5, 0, 2, 4)])
    found = read_ct(choose_series(find_series(sorted(tmp_path.iterdir()))))
    np.testing.assert_array_equal(found.volume.array, hu)
    assert found.volume.geometry.spacing == (0.8, 0.9, 2.5)
    assert found.volume.geometry.origin == (-50.0, 30.0, 700.0)
    assert len(found.sop_uids) == 6
