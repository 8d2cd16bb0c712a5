"""Every statement of the source documents has a home in the book, or is known to wait for one."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from companion.claims.records import read_claims

BOOK = Path(__file__).parent.parent / "book"
SOURCES: dict[str, dict[str, str]] = yaml.safe_load((BOOK / "sources.yml").read_text())
VERDICTS = {"true", "true-with-condition", "imprecise", "false", "untestable-outlook"}
TOPICS_TOLD = {
    "gradient-descent",
    "vanishing-exploding-gradients",
    "activations",
    "batch-norm",
    "xavier-init",
    "dead-relu-problem",
    "dead-relu-fixes",
}
"""Topics whose chapter is written: each of their statements must be at home."""
REGULARIZERS = {
    "S0-27", "S0-28", "S0-29", "S0-30", "S0-67", "S0-75", "S1-38", "S1-39", "S1-40", "S2-13",
    "S2-18", "S2-19", "S2-20", "S2-28", "S2-29", "S2-30", "S2-48", "S2-51", "S4-46",
}  # fmt: skip
"""Statements on L1, L2, dropout and spectral norm: at home, while their topics wait."""


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as MyST makes them."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower().strip()).replace(" ", "-") for title in titles}


SLUGS = {page.stem: slugs(page) for page in (*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"))}
CLAIMS = {record.claim.id: record.page for record in read_claims(BOOK)}


def fault(entry: dict[str, str], slugs: dict[str, set[str]], claims: dict[str, str]) -> str:
    """Say what is wrong with an entry of sources.yml, or nothing."""
    if entry.keys() - {"topic", "verdict", "page", "section", "claim"}:
        return f"unknown keys in {sorted(entry)}"
    if entry.get("verdict") not in VERDICTS:
        return f"verdict {entry.get('verdict')!r} is none"
    if "page" not in entry:
        return "section or claim without a page" if {"section", "claim"} & entry.keys() else ""
    if entry["page"] not in slugs:
        return f"page {entry['page']!r} does not exist"
    if entry.get("section") not in slugs[entry["page"]]:
        return f"section {entry.get('section')!r} does not exist in {entry['page']}"
    if "claim" in entry and claims.get(entry["claim"]) != entry["page"]:
        return f"claim {entry['claim']!r} is not made in {entry['page']}"
    return ""


def test_all_statements_are_listed():
    counts = {f"S{n}": sum(id.startswith(f"S{n}-") for id in SOURCES) for n in range(5)}
    assert sum(counts.values()) == len(SOURCES) == 305
    assert all(re.fullmatch(r"S[0-4]-\d\d", id) for id in SOURCES)


@pytest.mark.parametrize("id", SOURCES)
def test_statement_is_answered_where_it_says(id):
    assert fault(SOURCES[id], SLUGS, CLAIMS) == ""


def test_topics_whose_chapter_is_written_are_at_home():
    waiting = [id for id, e in SOURCES.items() if e["topic"] in TOPICS_TOLD and "page" not in e]
    assert waiting == []


def test_what_is_said_of_regularizers_is_at_home():
    assert {id for id in REGULARIZERS if "page" not in SOURCES[id]} == set()


GOOD = {"topic": "a", "verdict": "false", "page": "one", "section": "first", "claim": "holds"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({"page": "two"}, "page 'two' does not exist"),
        ({"section": "second"}, "section 'second' does not exist"),
        ({"claim": "fails"}, "claim 'fails' is not made"),
        ({"chapter": "one"}, "unknown keys"),
    ],
)
def test_link_to_nothing_is_refused(change, says):
    assert fault(GOOD, {"one": {"first"}}, {"holds": "one"}) == ""
    assert says in fault(GOOD | change, {"one": {"first"}}, {"holds": "one"})
    assert fault({"topic": "a", "verdict": "true", "claim": "holds"}, {}, {}) != ""
