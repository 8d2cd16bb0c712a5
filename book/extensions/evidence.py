"""The way from a number to what it rests on: cards on the page, a ledger for each chapter.

`[50 %](claim:id)` becomes a link to the claim's row in its chapter's ledger. With scripts the link
opens a card: what was measured, what it must be, how it came out at other seeds, and the ways to
the cell and to the row. Cards and rows are made here, from the outputs that the notebooks store.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from html import escape
from pathlib import Path
from typing import Any

from companion.claims import Claim
from companion.claims.records import Record, Replication, read_claims, replications
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

SCHEME = "claims.html#"
"""What `_config.yml` makes of ``claim:``."""

KINDS = {"theory": "theories", "estimate": "estimates", "order": "orders"}
LINK = re.compile(r"\[([^\[\]]+)\]\([^)]*\)")
logger = logging.getLogger(__name__)


class Evidence:
    """All claims of the book, and what they came to at other seeds."""

    def __init__(self, book: Path) -> None:
        self.records = {record.claim.id: record for record in read_claims(book)}
        self.runs = replications(book)

    def rows(self, id: str) -> list[tuple[str, str]]:
        """What a card says: names and texts."""
        claim, run = self.records[id].claim, self.runs.get(id)
        said = [("measured", claim.measured)]
        if claim.kind != "estimate":
            source = f" ({claim.source})" if claim.source else ""
            said.append(("must be", claim.required + source))
        if run and (text := at_other_seeds(run)):
            said.append(("other seeds", text))
        if claim.varies:
            said.append(("varies", f"with {claim.varies}"))
        return said


def at_other_seeds(run: Replication) -> str:
    """Smallest and largest of a claim's replicated values, and the number of the runs."""
    there = [value for value in run.values if value is not None]
    if not there:
        return ""
    ends = dict.fromkeys(f"{end:.4g}" for end in (min(there), max(there)))
    fell = f"; did not hold in {len(run.fell)}" if run.fell else ""
    return f"{' to '.join(ends)} in {len(there)} run{'s' if len(there) > 1 else ''}{fell}"


def read(app: Sphinx) -> None:
    """Read the claims once for the whole build."""
    app.evidence = Evidence(Path(app.srcdir))  # type: ignore[attr-defined]


def outdated(
    app: Sphinx, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> list[str]:
    """Read the ledgers again when any page is."""
    return [name for name in env.found_docs if name.startswith("claims")] if added | changed else []


def link_claims(app: Sphinx, doctree: nodes.document) -> None:
    """Lead each linked number to its row; the first of a claim can be led back to."""
    records, here = app.evidence.records, app.env.docname  # type: ignore[attr-defined]
    seen: Counter[str] = Counter()
    for link in list(doctree.findall(nodes.reference)):
        if not link.get("refuri", "").startswith(SCHEME):
            continue
        id = link["refuri"].removeprefix(SCHEME)
        if id not in records:
            logger.warning("a number is linked to a claim that nobody makes: %s", id, location=link)
            continue
        link["refuri"] = f"{'../' * here.count('/')}claims/{records[id].page}.html#{id}"
        link["classes"].append("claim")
        if re.match(r"[−\d].{,15}$", link.astext()):
            link["classes"].append("quantity")  # stays on one line
        seen[id] += 1
        if seen[id] == 1:
            link["ids"].append(f"said-{id}")


def add_cards(app: Sphinx, pagename: str, template: str, context: dict[str, Any], *_: Any) -> None:
    """Store with a page what the cards of its numbers say, and where its claims are made."""
    evidence: Evidence = app.evidence  # type: ignore[attr-defined]
    body = context.get("body", "")
    ids = re.findall(r'href="claims/[\w-]+\.html#([a-z0-9-]+)"', body)
    if not ids:
        return
    cards = {}
    for id in dict.fromkeys(ids):
        page = evidence.records[id].page
        cell = f"{'' if page == pagename else page + '.html'}#made-{id}"
        cards[id] = {"rows": evidence.rows(id), "cell": cell}
    text = json.dumps(cards, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    context["body"] = f'{body}<script type="application/json" id="cards">{text}</script>'


# ---- the ledger -----------------------------------------------------------------------------


class Ledger(SphinxDirective):
    """``{ledger} page`` lists a page's claims; without a page, all pages with their numbers."""

    optional_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make the table."""
        evidence: Evidence = self.env.app.evidence
        if not self.arguments:
            return [nodes.raw("", self.contents(evidence), format="html")]
        page = self.arguments[0]
        records = [record for record in evidence.records.values() if record.page == page]
        if not records:
            raise self.error(f"{page} makes no claims")
        made: list[nodes.Node] = [nodes.raw("", head(page, records), format="html")]
        for record in records:
            made += self.row(record, evidence.runs.get(record.claim.id))
        return [*made, nodes.raw("", "</tbody></table></div>", format="html")]

    def contents(self, evidence: Evidence) -> str:
        """All pages with claims, and how many of each kind."""
        pages = dict.fromkeys(record.page for record in evidence.records.values())
        rows = ""
        for page in pages:
            kinds = Counter(r.claim.kind for r in evidence.records.values() if r.page == page)
            numbers = "".join(f"<td>{kinds[kind]}</td>" for kind in KINDS)
            rows += f'<tr><td><a href="claims/{page}.html">{title(self.env.srcdir, page)}</a></td>'
            rows += f"{numbers}<td>{sum(kinds.values())}</td></tr>"
        names = "".join(f"<th>{name}</th>" for name in ("page", *KINDS.values(), "all"))
        table = f"<table><thead><tr>{names}</tr></thead><tbody>{rows}</tbody></table>"
        return f'<div class="pst-scrollable-table-container">{table}</div>'

    def row(self, record: Record, run: Replication | None) -> list[nodes.Node]:
        """One claim: its sentence, what was measured and asked of it, how it came out elsewhere."""
        claim, page = record.claim, f"../{record.page}.html"
        id = escape(claim.id)
        start = f'<tr id="{id}" class="{claim.kind}"><th scope="row"><code>{id}</code>'
        sentence = LINK.sub(r"\1", "".join(record.statements[:1]))
        said, messages = self.state.inline_text(sentence, self.lineno)
        ways = f'<a href="{page}#made-{id}" aria-label="the cell of {id}">the cell</a>'
        if not record.statements and record.guards:
            ways = f'<a href="{page}#{record.guards}">what it guards</a> · {ways}'
        if record.statements:
            ways = (
                f'<a href="{page}#said-{id}" aria-label="{id} in the text">in the text</a> · {ways}'
            )
        kind = f"<b>{claim.kind}</b> "
        asked = "" if claim.kind == "estimate" else escape(claim.required)
        asked += f" ({escape(claim.source)})" if claim.source else ""
        asked += f"; varies with {claim.varies}" if claim.varies else ""
        seeds = f"{at_other_seeds(run)} {mark(claim, run)}" if run else "–"
        end = f'<span class="ways">{ways}</span></th><td data-name="measured">'
        end += f'{escape(claim.measured)}</td><td data-name="kind">{kind}{asked}</td>'
        end += f'<td data-name="other seeds">{seeds}</td></tr>'
        words = nodes.paragraph("", "", *said) if said else nodes.paragraph("", "In no sentence.")
        return [
            nodes.raw("", start, format="html"),
            words,
            *messages,
            nodes.raw("", end, format="html"),
        ]


def title(book: str | Path, page: str) -> str:
    """Title of a notebook, as HTML."""
    cells = json.loads((Path(book) / f"{page}.ipynb").read_text())["cells"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    found = re.search(r"^# (.+)$", text, re.MULTILINE)
    return escape(found[1] if found else page)


def head(page: str, records: list[Record]) -> str:
    """The choice of kinds, which needs no script, and the head of the table."""
    kinds = Counter(record.claim.kind for record in records)
    choices = ""
    for kind, name in {"all": "all", **KINDS}.items():
        n = len(records) if kind == "all" else kinds[kind]
        on = " checked" if kind == "all" else ""
        choices += f'<label><input type="radio" name="kind" value="{kind}"{on}/> {name} {n}</label>'
    names = ("claim", "measured", "kind", "other seeds")
    cells = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<div class="ledger"><fieldset><legend>Show</legend>{choices}</fieldset>'
        f"<table><thead><tr>{cells}</tr></thead><tbody>"
    )


def mark(claim: Claim, run: Replication) -> str:
    """A small picture: what other seeds gave (strokes), what is stored (dot), what is asked."""
    there = [value for value in run.values if value is not None]
    half = claim.spread or 0.0
    asked = [b for b in (claim.above, claim.below) if b is not None]
    if claim.expect is not None and claim.within is not None:
        asked = [claim.expect - claim.within, claim.expect + claim.within]
    low, high = min(*there, claim.value - half), max(*there, claim.value + half)
    for bound in asked:  # a bound out of all proportion would leave no room for the values
        if abs(bound - claim.value) <= 6 * max(high - low, abs(claim.value) / 100):
            low, high = min(low, bound), max(high, bound)
    room = (high - low) or abs(high) or 1.0

    def x(value: float) -> str:
        return f"{4 + 112 * (value - low) / room:.1f}"

    drawn = '<path class="axis" d="M0 9H120"/>'
    drawn += "".join(f'<path class="bound" d="M{x(b)} 1V17"/>' for b in asked if low <= b <= high)
    drawn += "".join(f'<path class="seed" d="M{x(value)} 4V14"/>' for value in there)
    drawn += (
        f'<path class="half" d="M{x(claim.value - half)} 9H{x(claim.value + half)}"/>'
        if half
        else ""
    )
    drawn += f'<circle cx="{x(claim.value)}" cy="9" r="3"/>'
    return f'<svg viewBox="0 0 120 18" width="120" height="18" aria-hidden="true">{drawn}</svg>'


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.add_directive("ledger", Ledger)
    app.connect("builder-inited", read)
    app.connect("env-get-outdated", outdated)
    app.connect("doctree-read", link_claims, priority=410)
    app.connect("html-page-context", add_cards, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
