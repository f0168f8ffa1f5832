"""Damaged RTSTRUCT and SEG files: whatever the bytes, there is a mask or a reason, soon, and no name in either."""

import time

import numpy as np
import pytest
from dicom_files import ct_datasets
from dicom_masks import Drawn, rtstruct, save, write_seg

from radloom.dicom.ct import CtSettings
from radloom.dicom.rtstruct import rtstruct_mask
from radloom.dicom.seg import seg_mask
from radloom.dicom.tree import _look
from radloom.errors import CaseError
from radloom.images import Geometry

pytestmark = pytest.mark.filterwarnings("ignore")
SHAPE = (7, 11, 13)
GRID = Geometry(SHAPE[::-1], (0.8, 0.9, 2.5), (-50.0, 30.0, 700.0))
SQUARE = np.array([[-48.0, 33], [-44, 33], [-44, 37], [-48, 37]])
FRAME = "1.2.9"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What reads it, the image's UIDs, and the bytes of some good files."""
    path = tmp_path_factory.mktemp("whole") / "a.dcm"
    images = ct_datasets(np.zeros(SHAPE, np.int16), frame_of_reference=FRAME)
    labels = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    contours = [
        Drawn(np.column_stack([SQUARE, np.full(4, 700 + 2.5 * k)]), image_uid=images[k].SOPInstanceUID)
        for k in range(1, 5)
    ]
    files = [
        (seg_mask, write_seg(path, images, (labels > 0).astype(np.uint8), labels=["DOE^JANE"]).read_bytes()),
        (seg_mask, write_seg(path, images, labels, labels=["DOE^JANE", "b"], kind="LABELMAP").read_bytes()),
    ]
    for implicit in (False, True):
        dataset = rtstruct({"DOE^JANE": contours, "b": []}, frame=FRAME)
        files.append((rtstruct_mask, save(dataset, path, implicit).read_bytes()))
    return files, [image.SOPInstanceUID for image in images]


@pytest.mark.parametrize("seed", range(4))
def test_damage_ends_in_a_mask_or_a_reason(whole, tmp_path, capfd, seed):
    files, uids = whole
    rng = np.random.default_rng(seed)
    path = tmp_path / "DOE^JANE.dcm"
    masks = 0
    for _ in range(150):
        read, content = files[rng.integers(len(files))]
        path.write_bytes(damaged(content, rng))
        started = time.process_time()
        try:
            found = read(path, "#1", GRID, FRAME, uids)
            assert found.volume.array.shape == SHAPE
            assert found.volume.array.any()
            said = " ".join(found.warnings) + str(found.facts)
            masks += 1
        except CaseError as error:
            said = str(error)
        assert "DOE" not in said
        assert "1.2.9" not in said
        _look([[str(path)]], CtSettings())
        assert time.process_time() - started < 5
    assert 0 < masks < 150
    assert capfd.readouterr() == ("", "")


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with up to five places changed, lost, put in, or overwritten by others of the file."""
    out = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        at, other, count = (int(number) for number in (*rng.integers(132, len(out) - 40, 2), rng.integers(1, 30)))
        kind = rng.integers(5)
        if kind == 0:
            out[at] = rng.integers(256)
        elif kind == 1:
            out[at : at + 4] = b"\xff\xff\xff\xff"
        elif kind == 2:
            del out[at : at + count]
        elif kind == 3:
            out[at:at] = rng.bytes(count)
        else:
            out[at : at + 8] = out[other : other + 8]
    return bytes(out)
