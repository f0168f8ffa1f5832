"""Chunks: the lists of cases that one job works on."""

from __future__ import annotations

from dataclasses import dataclass

JOBS_WANTED = 32
MOST_CASES = 50


@dataclass(frozen=True)
class Chunk:
    """Some cases of one centre, named so that a person can tell which."""

    name: str
    case_ids: tuple[str, ...]


def chunk_size(cases: int, cases_per_job: int | str) -> int:
    """Return the cases in a job: a number as it is, `auto` as cases / 32 within 1 and 50.

    It follows from the cohort alone, never from the cores, so that the same cohort has the same jobs everywhere.
    """
    if isinstance(cases_per_job, int):
        return cases_per_job
    return min(max(round(cases / JOBS_WANTED), 1), MOST_CASES)


def make_chunks(cases: list[tuple[str, str]], cases_per_job: int | str) -> list[Chunk]:
    """Cut (case_id, centre) pairs, in the sheet's order, into chunks of one centre each."""
    size = chunk_size(len(cases), cases_per_job)
    by_centre: dict[str, list[str]] = {}
    for case_id, centre in cases:
        by_centre.setdefault(centre, []).append(case_id)
    return [
        Chunk(f"{centre}_{start // size + 1:04d}", tuple(ids[start : start + size]))
        for centre, ids in by_centre.items()
        for start in range(0, len(ids), size)
    ]
