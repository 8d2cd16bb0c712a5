"""No result stands unlinked, and every linked number agrees with its measurement."""

import json
from pathlib import Path

import pytest

from companion.claims import Claim
from companion.claims.records import Record, read_claims
from tests.prose import disagreement, faults, idle, pages, paragraphs, shown

BOOK = Path(__file__).parent.parent / "book"
RECORDS = read_claims(BOOK)
CLAIMS = {record.claim.id: record.claim for record in RECORDS}


@pytest.mark.parametrize(("where", "markdown"), list(pages(BOOK)), ids=lambda part: part[:40])
def test_prose_leans_on_claims(where, markdown):
    assert faults(where, markdown, CLAIMS) == []


def test_every_claim_is_said_or_guards_a_figure_or_table():
    said = {id for _, text in pages(BOOK) for part in paragraphs(text) for _, id in part.links}
    there = {page.stem: shown(json.loads(page.read_text())) for page in BOOK.glob("*.ipynb")}
    assert idle(RECORDS, said, there) == []


def test_claim_that_guards_nothing_is_named():
    made = Claim("a", 1.0, spread=0.1, n_seeds=20)
    for guards, there, found in (
        ("", set(), ["a: stands in no sentence and guards nothing"]),
        ("fig-x", set(), ["a: guards 'fig-x', which page does not show"]),
        ("fig-x", {"fig-x"}, []),
    ):
        record = Record(made, "page", "", (), guards)
        assert idle([record], set(), {"page": there}) == found
        assert idle([Record(made, "page", "", ())], {"a"}, {"page": set()}) == []


def test_figures_and_labelled_tables_can_be_guarded():
    cells = [
        {"cell_type": "code", "metadata": {"mystnb": {"figure": {"name": "fig-a"}}}, "source": []},
        {"cell_type": "markdown", "metadata": {}, "source": ["(tab-b)=\n", "| a |"]},
    ]
    assert shown({"cells": cells}) == {"fig-a", "tab-b"}


MADE = {
    "share": Claim("share", 0.501, expect=0.5, within=0.02),
    "percent": Claim("percent", 97.4, above=95, spread=0.2, n_seeds=20, unit="%"),
    "factor": Claim("factor", 3.2, above=1, unit="×", varies="timing"),
    "small": Claim("small", 2.2e-16, below=1e-12, varies="rounding"),
    "negative": Claim("negative", -6, expect=-6, within=0),
    "apart": Claim("apart", 12.0, above=10, spread=1.0, n_seeds=20, unit="points"),
    "estimate": Claim("estimate", 12.0, spread=1.0, n_seeds=20, unit="%"),
}


@pytest.mark.parametrize(
    "text",
    [
        "About half, [50 %](claim:share) or [0.501](claim:share), of them ([half](claim:share)).",
        "Learned: [97.4 ± 0.2 %](claim:percent), so [97 %](claim:percent).",
        "It costs [3×](claim:factor) as much, [more than 1×](claim:factor).",
        "It gains [more than 10 points](claim:apart), [12 ± 1 points](claim:apart).",
        "They are [more than 10 %](claim:estimate) and [less than 14 %](claim:estimate).",
        "It is [less than 53 %](claim:share).",
        "Off by [less than 1e-12](claim:small), [2·10⁻¹⁶](claim:small).",
        "It prints [−6](claim:negative) and [$-6$](claim:negative), [a surprise](claim:negative).",
        "The rate is `0.03`, the bound $0.25^{10}$, and there are 64 units and 20 seeds.",
        "They report 97.3 % {cite:p}`he2015`.",
        "```python\nx = 0.25\n```",
        ":::{admonition} Solution\n:class: dropdown\nIt is [50 %](claim:share).\n:::",
        "Faster than the rest ([3×](claim:factor)).",
    ],
)
def test_honest_prose_passes(text):
    assert faults("here", text, MADE) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("About 50 % of them.", "result without a claim"),
        ("It is 0.25 at most.", "result without a claim"),
        ("It costs 3× as much.", "result without a claim"),
        ("It is ten times as slow.", "result without a claim"),
        ("Off by 1e-12.", "result without a claim"),
        ("- a list: 97.4 %", "result without a claim"),
        ("| a | 0.5 |\n|--|--|\n| b | c |", "result without a claim"),
        (":::{note}\nIt is 0.25.\n:::", "result without a claim"),
        ("```{admonition} Solution\nIt is 0.25.\n```", "result without a claim"),
        ("It is the fastest.", "leans on no claim"),
        ("[51 %](claim:share)", "measured 0.501"),
        ("[0.502](claim:share)", "measured 0.501"),
        ("[97.5 %](claim:percent)", "measured 97.4"),
        ("[97.40 %](claim:percent)", "more digits"),
        ("[50.12 %](claim:share)", "more digits"),
        ("[97.4 ± 0.3 %](claim:percent)", "measured 97.4"),
        ("[97.4](claim:percent)", "without"),
        ("[0.501 ± 0.1](claim:share)", "more numbers"),
        ("[more than 4×](claim:factor)", "measured 3.20"),
        ("[more than 2×](claim:factor)", "required above 1"),
        ("[more than 11 points](claim:apart)", "required above 10"),
        ("[less than 20 points](claim:apart)", "required above 10"),
        ("[more than 11.5 %](claim:estimate)", "measured 12"),
        ("[less than 51 %](claim:share)", "required expected"),
        ("[less than 1e-16](claim:small)", "measured 2.2"),
        ("[6](claim:negative)", "measured -6"),
        ("[none](claim:share)", "measured 0.501"),
        ("[50 %](claim:nowhere)", "nobody makes"),
    ],
)
def test_other_prose_is_refused(text, says):
    found = faults("here", text, MADE)
    assert len(found) == 1
    assert says in found[0]


def test_precision_is_the_writer_s():
    made = Claim("x", 0.954, above=0)
    assert disagreement("96 %", made) != ""
    assert disagreement("95 %", made) == ""
    assert disagreement("95.4 %", made) == ""
    assert disagreement("0.95", made) == ""
    assert disagreement("0.96", made) != ""
