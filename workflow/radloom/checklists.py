"""The checklists of CLEAR, METRICS, TRIPOD+AI and IBSI, item by item: what the run answers, and what authors must.

The lists are in `templates/checklist_*.yaml`: number of the item, its section, its topic in own words, the function of
`checklist_answers` that answers it, and what is left to the authors. No item is judged and none is counted: METRICS'
score, like every other, is its readers' to give.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import pandas as pd

from radloom.checklist_answers import ANSWERS, NOT_APPLICABLE
from radloom.methods_text import SECTIONS
from radloom.references import REFERENCES, without_citations
from radloom.run_facts import RunFacts

LISTS = ("clear", "metrics", "tripod", "ibsi")
CHECKLIST_COLUMNS = ["checklist", "item", "topic", "answered_by", "answer", "where"]
SOFTWARE, AUTHORS, IN_PART = "software", "authors", "software in part"
MOST_CHARACTERS = 600
FOR_AUTHORS = "For the authors: "


@dataclass(frozen=True)
class Item:
    """An item of a checklist: `answer` names a function of `checklist_answers`, `authors` what they have to write."""

    item: str
    section: str
    topic: str
    answer: str = ""
    authors: str = ""
    where: str = ""


@dataclass(frozen=True)
class Checklist:
    """A checklist with its reference (author, title, journal, DOI) and where its numbering comes from."""

    name: str
    reference: str
    numbering: str
    items: tuple[Item, ...]


@cache
def read_checklists() -> tuple[Checklist, ...]:
    """All checklists, in the order of `LISTS`."""
    import yaml

    found = []
    for name in LISTS:
        path = files("radloom").joinpath("templates", f"checklist_{name}.yaml")
        content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
        items = tuple(Item(**entry) for entry in content["items"])
        found.append(Checklist(content["checklist"], REFERENCES[content["reference"]], content["numbering"], items))
    return tuple(found)


def checklist_table(facts: RunFacts, checklists: Iterable[Checklist] | None = None) -> pd.DataFrame:
    """One row an item, with the columns of tables/checklist.csv."""
    rows = [
        {"checklist": one.name, "item": item.item, "topic": f"{item.section}: {item.topic}", **answered(item, facts)}
        for one in (read_checklists() if checklists is None else checklists)
        for item in one.items
    ]
    return pd.DataFrame(rows, columns=CHECKLIST_COLUMNS)


def answered(item: Item, facts: RunFacts) -> dict[str, str]:
    """Who answers an item, the answer, and where it can be seen (nowhere, where only the authors can answer)."""
    told = [without_citations(sentence) for sentence in ANSWERS[item.answer](facts)] if item.answer else []
    left = f"{FOR_AUTHORS}{item.authors}." if item.authors else ""
    if not told:
        unknown = left or f"{FOR_AUTHORS}this run doesn't know it."
        return {"answered_by": AUTHORS, "answer": unknown, "where": ""}
    if told[0].startswith(NOT_APPLICABLE):
        return {"answered_by": SOFTWARE, "answer": " ".join(told), "where": ""}
    where = item.where if is_there(item.where, facts) else ""
    found = fit(told, MOST_CHARACTERS - len(left) - bool(left), where)
    return {
        "answered_by": IN_PART if left else SOFTWARE,
        "answer": " ".join(filter(None, [found, left])),
        "where": where,
    }


def is_there(where: str, facts: RunFacts) -> bool:
    """Whether this run has the place that an item names: a table that may be missing, or a part of methods.md."""
    kind, _, part = where.partition(", ")
    if kind == "methods.md":
        return any(teller(facts) for heading, tellers in SECTIONS if heading == part for teller in tellers)
    if where == "tables/stability.csv":
        return facts.material.stability is not None
    if where == "tables/acquisition.csv":
        return facts.imaging
    if where.startswith("models/"):
        return bool(facts.fitted)
    if where in ("tables/performance.csv", "tables/coefficients.csv", "tables/predictions.csv"):
        return bool(facts.fitted or facts.refused)
    return True


def fit(sentences: list[str], most: int, where: str) -> str:
    """Sentences as long as they fit in so many characters, whole ones, and `where` there are more.

    The first is cut where even it doesn't fit.
    """
    whole = " ".join(sentences)
    if len(whole) <= most:
        return whole
    cut = f"More: {where}." if where else "More is in the report."
    kept = ""
    for sentence in sentences:
        longer = f"{kept} {sentence}".strip()
        if len(longer) + 1 + len(cut) > most:
            break
        kept = longer
    if not kept:
        kept = sentences[0][: most - len(cut) - 5].rsplit(" ", 1)[0] + " ..."
    return f"{kept} {cut}"
