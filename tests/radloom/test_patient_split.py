"""The split is by patient, within centres, fixed, and refused where it can't be."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radloom.errors import CohortError
from radloom.patient_split import draw_split, read_split, write_split


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(2, 40), min_size=1, max_size=5), st.floats(0.1, 0.4), st.floats(0.1, 0.4), st.integers(0, 9)
)
def test_every_centre_gives_its_share(sizes: list[int], validation: float, test: float, seed: int) -> None:
    centres = {f"p{c}-{i}": f"centre{c}" for c, size in enumerate(sizes) for i in range(size)}
    try:
        split = draw_split(centres, validation, test, seed)
    except CohortError:
        assert len(centres) * min(validation, test) < 1.5
        return
    assert set(split) == set(centres)
    counts = Counter(split.values())
    total = len(centres)
    assert abs(counts["test"] - total * test) <= 0.5 + 1e-9
    assert abs(counts["validation"] - total * validation) <= 1
    for centre, size in zip(sorted(set(centres.values())), sizes, strict=True):
        here = Counter(part for patient, part in split.items() if centres[patient] == centre)
        assert abs(here["test"] - size * test) <= 1
        assert abs(here["validation"] - size * validation) <= 2.5
    # Neither the order of the patients nor anything but the seed matters.
    assert draw_split(dict(reversed(centres.items())), validation, test, seed) == split


def test_another_seed_is_another_split() -> None:
    centres = {f"p{i}": "c" for i in range(40)}
    assert draw_split(centres, 0.3, 0, 0) != draw_split(centres, 0.3, 0, 1)


def test_a_part_without_patients_is_refused() -> None:
    with pytest.raises(CohortError, match="of 2 patients none is left for validation"):
        draw_split({"a": "c", "b": "c"}, 0.1, 0, 0)
    assert set(draw_split({"a": "c"}, 0, 0, 0).values()) == {"train"}


def test_a_file_is_read_back(tmp_path: Path) -> None:
    split = {"b": "train", "a": "validation", "c": "test"}
    write_split(tmp_path / "split.csv", split, {"a": "x", "b": "y", "c": "y"})
    assert (tmp_path / "split.csv").read_text() == "patient_id,centre,part\na,x,validation\nb,y,train\nc,y,test\n"
    assert read_split(tmp_path / "split.csv") == split


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,part\na,train\na,test\n", "line 3: the patient is in two parts"),
        ("patient_id,part\na,training\n", "line 2: part is none of train, validation, test"),
        ("patient_id\na\n", "no column part"),
        ("patient_id,part\na,test\n", "nobody to train on"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(CohortError, match=message):
        read_split(tmp_path / "split.csv")
