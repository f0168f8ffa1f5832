"""The report's section on the methods, as methods.md has them, and on the checklists of tables/checklist.csv."""

from __future__ import annotations

import pandas as pd

from radloom.checklists import AUTHORS, read_checklists
from radloom.methods_text import SECTIONS
from radloom.references import without_citations
from radloom.report_view import Block, Section, listed, table, text
from radloom.run_facts import RunFacts

METHODS = "methods.md"


def methods_section(facts: RunFacts, checklist: pd.DataFrame) -> Section:
    """The methods in sentences, and of each checklist the items that the software answers, in part at least.

    `checklist` is the table of `checklist_table`.
    """
    blocks = [
        text(
            "What this run did, in sentences that a paper can use; methods.md has them with versions and references. "
            "The checklists below are answered from the same facts. They are not scored: which items matter, and "
            "whether an answer is good enough, is for authors and reviewers."
        ),
        Block(
            "files",
            pairs=[
                (METHODS, "The methods of this run with versions, code hashes and references."),
                ("tables/checklist.csv", "All items of the checklists, with answers or what is left to the authors."),
            ],
        ),
    ]
    for heading, tellers in SECTIONS:
        sentences = [without_citations(told).replace("`", "") for teller in tellers for told in teller(facts)]
        if sentences:
            blocks += [Block("heading", heading), text(*sentences)]
    for one in read_checklists():
        mine = checklist[checklist["checklist"] == one.name]
        answered = mine[mine["answered_by"] != AUTHORS]
        rest = mine[mine["answered_by"] == AUTHORS]
        blocks += [
            Block("heading", f"Checklist: {one.name}"),
            text(f"{one.reference} {one.numbering}"),
            table(
                ["item", "topic", "answered by", "answer", "where"],
                [
                    [r["item"], r["topic"], r["answered_by"], r["answer"].replace("`", ""), r["where"]]
                    for r in answered.to_dict("records")
                ],
            ),
        ]
        if len(rest):
            blocks.append(text(f"For the authors: items {listed(rest['item'], len(rest))}."))
    return Section("methods", "Methods and checklists", blocks)
