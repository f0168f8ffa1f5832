"""Chunks follow from the cohort alone and keep its order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radloom.engine.chunks import chunk_size, make_chunks


@pytest.mark.parametrize(("cases", "size"), [(1, 1), (36, 1), (200, 6), (1000, 31), (10_000, 50), (100_000, 50)])
def test_auto_is_a_32nd_of_the_cohort_within_1_and_50(cases: int, size: int) -> None:
    assert chunk_size(cases, "auto") == size


@given(st.lists(st.sampled_from(["A", "B", "C"]), max_size=40), st.integers(1, 7))
def test_every_case_is_in_exactly_one_chunk_of_its_centre(centres: list[str], size: int) -> None:
    cases = [(f"case{n}", centre) for n, centre in enumerate(centres)]
    chunks = make_chunks(cases, size)
    assert sorted(c for chunk in chunks for c in chunk.case_ids) == sorted(c for c, _ in cases)
    assert len({chunk.name for chunk in chunks}) == len(chunks)
    centre_of = dict(cases)
    for chunk in chunks:
        assert 1 <= len(chunk.case_ids) <= size
        assert {centre_of[case] for case in chunk.case_ids} == {chunk.name.rsplit("_", 1)[0]}
