"""Every statement of the source documents is answered, where it says and by what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import yaml

from companion.claims.records import read_claims
from tests.website import article

BOOK = Path(__file__).parent.parent / "book"
CONTENTS: dict[str, dict[str, Any]] = yaml.safe_load((BOOK / "sources.yml").read_text())
DOCUMENTS, STATEMENTS = CONTENTS["documents"], CONTENTS["statements"]
VERDICTS = {"true", "true-with-condition", "imprecise", "false", "untestable-outlook"}
NEEDED = {"topic", "verdict", "lines", "under", "says", "means"}
KEYS = NEEDED | {"answer", "page", "section", "same_as", "plain"}
KEYS |= {"reconsidered", "looked_up", "needs"}
LINK = re.compile(r"\]\(claim:([a-z0-9-]+)\)")


def sections(page: Path) -> dict[str, str]:
    """Text of each section of a page, those within it too, by the anchor that MyST gives it."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    heads = [*re.finditer(r"^(#{1,3}) (.+)$", text, re.MULTILINE)]
    found = {}
    for place, head in enumerate(heads):
        ends = [h.start() for h in heads[place + 1 :] if len(h[1]) <= len(head[1])]
        anchor = re.sub(r"[^\w\- ]", "", head[2].lower().strip()).replace(" ", "-")
        found[anchor] = text[head.start() : min(ends, default=len(text))]
    return found


PAGES = {page.stem: sections(page) for page in (*BOOK.glob("*.ipynb"), *BOOK.glob("*.md"))}
CLAIMS = {record.claim.id: record.page for record in read_claims(BOOK)}


def fault(
    id: str, rows: Mapping[str, Any], pages: Mapping[str, Mapping[str, str]],
    claims: Mapping[str, str],
) -> str:  # fmt: skip
    """Say what is wrong with a statement's row, or nothing."""
    row = rows[id]
    if (missing := NEEDED - row.keys()) or (row.keys() - KEYS):
        return f"missing {sorted(missing)}, unknown {sorted(row.keys() - KEYS)}"
    if row["verdict"] not in VERDICTS:
        return f"verdict {row['verdict']!r} is none"
    if first := row.get("same_as"):
        earlier = [*rows][: [*rows].index(id)]
        if first not in earlier or first[:2] != id[:2] or "same_as" in rows[first]:
            return f"same_as {first!r} is no earlier statement with an answer"
        return "" if rows[first]["verdict"] == row["verdict"] else f"verdict is not that of {first}"
    if not row.get("answer"):
        return "no answer"
    linked = LINK.findall(row["answer"])
    if len(linked) > 2:
        return "more than two claims"
    decided = linked or row.keys() & {"looked_up", "needs"}
    if row["verdict"] in {"false", "imprecise"} and not decided:
        return "nothing decides it"
    if "page" not in row:
        return "a claim without a page" if linked or "section" in row else ""
    if row["page"] not in pages:
        return f"page {row['page']!r} does not exist"
    if row.get("section") not in pages[row["page"]]:
        return f"section {row.get('section')!r} does not exist in {row['page']}"
    for claim in linked:
        if claims.get(claim) != row["page"]:
            return f"claim {claim!r} is not made in {row['page']}"
        if claim not in LINK.findall(pages[row["page"]][row["section"]]):
            return f"claim {claim!r} is not linked in {row['section']}"
    return ""


def test_all_statements_are_listed():
    counts = {n: sum(id.startswith(n) for id in STATEMENTS) for n in DOCUMENTS}
    assert counts == {"S0": 78, "S1": 63, "S2": 57, "S3": 46, "S4": 61}
    assert all(re.fullmatch(r"S[0-4]-\d\d", id) for id in STATEMENTS)


@pytest.mark.parametrize("id", STATEMENTS)
def test_statement_is_answered_where_it_says(id):
    assert fault(id, STATEMENTS, PAGES, CLAIMS) == ""


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_statement_stands_once_on_its_documents_page_with_its_verdict(document):
    rows = {id: row for id, row in STATEMENTS.items() if id.startswith(document)}
    shown = article(DOCUMENTS[document]["stem"]).select("article.statement")
    assert [tag["id"] for tag in shown] == [*rows]
    for tag, row in zip(shown, rows.values(), strict=True):
        folded = tag.find_parent("details") is not None
        assert folded == ("plain" in row or "same_as" in row), tag["id"]
        assert row["verdict"] in tag["class"]
        assert tag.select_one(".answer") is not None or "same_as" in row
        linked = {a["href"].rpartition("#")[2] for a in tag.select("a.claim")}
        assert linked == {*LINK.findall(row.get("answer", ""))}
        if first := row.get("same_as"):
            assert tag.select(f'.verdict a[href="#{first}"]')


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_point_to_their_advice_to_their_worst_errors_and_to_pages(document):
    about = DOCUMENTS[document]
    needed = {"stem", "subject", "title", "origin", "helps", "fails", "advice", "worst", "path"}
    assert about.keys() == needed
    assert all(id in STATEMENTS and id.startswith(document) for id in about["advice"])
    assert all(part.keys() == {"what", "helps", "fails"} for part in about["advice"].values())
    assert len(about["worst"]) == 3
    wrong = {STATEMENTS[id]["verdict"] for id in about["worst"]}
    assert wrong <= {"false", "imprecise"}
    assert all(id.startswith(document) for id in about["worst"])
    assert {*about["path"]} <= {*PAGES}


@pytest.mark.parametrize(
    ("start", "pages"),
    [
        ("**How a unit dies.**", 3),
        ("**Two factors in every layer.**", 2),
        ("**A second trouble", 2),
    ],
)
def test_passages_that_several_pages_share_are_the_same(start, pages):
    """But for the name of a page in its own links."""
    told = []
    for about in DOCUMENTS.values():
        cells = json.loads((BOOK / f"{about['stem']}.ipynb").read_text())["cells"]
        texts = ["".join(cell["source"]) for cell in cells]
        told += [text.partition("```{source}")[0] for text in texts if text.startswith(start)]
    assert len(told) == pages
    assert len({re.sub(r"\(\w+\.ipynb#", "(#", text) for text in told}) == 1


ROW_LINK = re.compile(r"\((source_\w+)\.ipynb#(S\d-\d\d)\)")


def test_chapters_that_speak_of_a_source_link_to_what_it_says():
    linked = {name: ROW_LINK.findall("".join(page.values())) for name, page in PAGES.items()}
    for name, links in linked.items():
        for stem, id in links:
            assert id in STATEMENTS, f"{name} links to {id}"
            assert DOCUMENTS[id[:2]]["stem"] == stem, f"{name} links to {id} on another's page"
    spoken = re.compile(r"\b([Aa]|[Oo]ne|[Tt]he same|[Oo]ur|[Tt]his book's) sources?\b")
    for name in linked.keys() - {about["stem"] for about in DOCUMENTS.values()}:
        text = re.sub(r"\[[^\]]*\]" + ROW_LINK.pattern, "", "".join(PAGES[name].values()))
        assert not spoken.search(text), f"{name} speaks of a source without a link"


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("choice_tensorflow1", "d3ab8c4481a5105c"),
        ("dead_cnns_torch", "0f8e97458c3a9705"),
        ("dead_nodes_keras", "06105451dc4f0bdf"),
        ("dead_relu_torch", "2f2d37c569c1fa3a"),
        ("gradients_numpy", "6b71bfb36b902ac0"),
    ],
)
def test_listings_are_those_of_the_documents_byte_for_byte(name, digest):
    code = (BOOK / "listings" / f"{name}.py").read_bytes()
    assert sha256(code).hexdigest()[:16] == digest


ROWS = {
    "S0-01": {
        "topic": "a", "verdict": "false", "lines": [1], "under": "1", "says": "b", "means": "c",
        "answer": "No: [2](claim:holds).", "page": "one", "section": "first",
    },
    "S0-02": {
        "topic": "a", "verdict": "false", "lines": [9], "under": "2", "says": "b", "means": "c",
        "same_as": "S0-01",
    },
}  # fmt: skip
SECTIONS = {"one": {"first": "It is [2](claim:holds).", "second": "More."}}


@pytest.mark.parametrize(
    ("id", "change", "says"),
    [
        ("S0-01", {"verdict": "maybe"}, "verdict"),
        ("S0-01", {"page": "two"}, "page 'two' does not exist"),
        ("S0-01", {"section": "third"}, "section 'third' does not exist"),
        ("S0-01", {"section": "second"}, "claim 'holds' is not linked in second"),
        ("S0-01", {"answer": "No: [2](claim:fails)."}, "claim 'fails' is not made"),
        ("S0-01", {"answer": "No: [2](claim:holds)." * 3}, "more than two"),
        ("S0-01", {"answer": "No."}, "nothing decides it"),
        ("S0-01", {"answer": ""}, "no answer"),
        ("S0-01", {"chapter": "one"}, "unknown"),
        ("S0-02", {"same_as": "S0-03"}, "no earlier"),
        ("S0-02", {"same_as": "S0-02"}, "no earlier"),
        ("S0-02", {"verdict": "true"}, "verdict is not that of"),
    ],
)
def test_a_row_that_answers_nothing_is_refused(id, change, says):
    assert fault(id, ROWS, SECTIONS, {"holds": "one"}) == ""
    assert says in fault(id, ROWS | {id: ROWS[id] | change}, SECTIONS, {"holds": "one"})
