"""The statements of the source documents: what they say, whether it is right, and why.

``{sources}`` makes a card for each document, ``{source} S0`` the head of a document's page, and
``{statements} S0 1.背景介绍`` lists what the document says under that heading of its own, from
``sources.yml``. A verdict is a word and a sign; the choice of verdicts and topics needs no script.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

VERDICTS = {
    "true": ("✓", "right"),
    "true-with-condition": ("◐", "right, with a condition"),
    "imprecise": ("≈", "imprecise"),
    "false": ("✗", "wrong"),
    "untestable-outlook": ("…", "open"),
}
TOPICS = {
    "introduction": "introduction",
    "activations": "activations",
    "gradient-descent": "gradient descent",
    "vanishing-exploding-gradients": "vanishing and exploding gradients",
    "xavier-init": "initialization",
    "batch-norm": "batch norm",
    "dead-relu-problem": "dead units",
    "dead-relu-fixes": "remedies",
    "errata-and-references": "errata and references",
    "outlook": "outlook",
}
WORDS = """
A verdict is about the clause as it stands. **Right, with a condition**: it holds in some nets and
not in others; the answer names the condition. **Imprecise**: right in one part, wrong in another;
the answer says in which. **Wrong**: its own point does not hold. **Open**: a wish, a forecast, or
what we did not try to decide. A line of code is right if it does what the document says or wants of
it. What is plainly true, or was said before, waits in a fold.

The nets of the answers are small. Most read digits, of ten kinds, so that a net that *guesses* gets
about one of ten right. Others learn *XOR*, whether two numbers differ in sign. A number with a tick
was measured by a cell of this book, and leads to it. A ± is the $95\\,\\%$ interval of a mean over
several nets; *points* are the difference of two percentages; a change by −12 *powers of ten* is a
factor of $10^{-12}$.

- *Steps.* Plain descent (SGD) steps against the gradient, usually at a rate of about $0.1$.
  Momentum adds up past steps. Adam divides the gradient by the root of a running mean of its
  squares, and RMSprop does nearly the same, so that where gradients are small their steps are no
  shorter; Adam's usual rate is $0.001$.
- *Weights.* Xavier's rule draws them with a variance of one over a layer's width, He's with twice
  that, PyTorch's default with a third of Xavier's ([Initialization](initialization.ipynb)). L1 and
  L2 penalties draw them to zero in training.
- *Layers.* Batch norm takes from a unit's sums their mean over the batch, and divides by their
  deviation; layer norm does so over the units of a layer. Dropout sets random outputs to zero in
  training. A residual connection adds to a layer's output what the layer got.
- *Activations.* Leaky ReLU has a slope of $0.01$ left of zero, PReLU learns that slope; ELU, SELU,
  GELU and SiLU (or Swish) are curved there. A unit is *dead* if its slope is zero for every
  example.
"""
"""What a reader of any of these pages has to know."""

NAMED = re.compile(r"\b(S\d)-\d\d\b")
ROW = re.compile(r'<article class="statement [^"]*" id="([^"]+)">')
Row = dict[str, Any]


class Sources(SphinxDirective):
    """What the three directives share: the rows, and text with its links."""

    @property
    def contents(self) -> dict[str, Any]:
        """What ``sources.yml`` holds, read once in a build."""
        app: Any = self.env.app
        if not hasattr(app, "sources"):
            text = Path(app.srcdir, "sources.yml").read_text("utf-8")
            app.sources = yaml.safe_load(text)
            app.source_pages = pages(Path(app.srcdir))
        self.env.note_dependency(str(Path(app.srcdir, "sources.yml")))
        found: dict[str, Any] = app.sources
        return found

    def rows(self, document: str) -> dict[str, Row]:
        """The statements of one document, in its order."""
        if document not in self.contents["documents"]:
            raise self.error(f"{document} is no source document")
        statements = self.contents["statements"].items()
        return {id: row for id, row in statements if id.startswith(document)}

    def home(self, document: str) -> str:
        """Address of a document's page."""
        return f"{self.contents['documents'][document]['stem']}.html"

    def linked(self, text: str) -> str:
        """Markdown with a link for each statement that it names, as "S1-20"."""
        stems = {document: about["stem"] for document, about in self.contents["documents"].items()}
        return NAMED.sub(lambda id: f"[{id[0]}]({stems[id[1]]}.ipynb#{id[0]})", text)

    def paragraph(self, text: str, kind: str) -> list[nodes.Node]:
        """A paragraph of Markdown."""
        found, messages = self.state.inline_text(self.linked(text), self.lineno)
        return [nodes.paragraph("", "", *found, classes=[kind]), *messages]

    def clause(self, row: Row) -> list[nodes.Node]:
        """The document's own words."""
        says = row["says"]
        whole = says.count("\\begin") == says.count("\\end")
        if "$" in says or ("\\" in says and whole):
            return self.paragraph(says if "$" in says else f"${says}$", "says")
        words = nodes.inline("", says, classes=["language-zh"])
        return [nodes.paragraph("", "", words, classes=["says"])]


class Cards(Sources):
    """``{sources}``: a card for each document."""

    def run(self) -> list[nodes.Node]:
        """Make them."""
        made: list[nodes.Node] = []
        for document, about in self.contents["documents"].items():
            rows, page = self.rows(document), self.home(document)
            link = f'<a href="{page}">{escape(about["title"])}</a>'
            subject = f'<span lang="zh">{escape(about["subject"])}</span>'
            made += [
                raw(f'<section class="source-card"><h2>{link} {subject}</h2>'),
                *self.paragraph(about["origin"], "origin"),
                raw(strip(rows)),
                *self.worst(about["worst"], page),
                raw("</section>"),
            ]
        return made

    def worst(self, worst: dict[str, str], page: str) -> list[nodes.Node]:
        """The three worst errors."""
        made: list[nodes.Node] = [raw('<p class="head">Its worst errors</p><ul>')]
        for id, says in worst.items():
            found, _ = self.state.inline_text(says, self.lineno)
            link = f' <a class="id" href="{page}#{id}">{id}</a></li>'
            made += [raw("<li>"), nodes.inline("", "", *found), raw(link)]
        return [*made, raw("</ul>")]


class Head(Cards):
    """``{source} S0``: what is known of a document, where to read on, and the choice of rows."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Make it."""
        document = self.arguments[0]
        about, rows = self.contents["documents"][document], self.rows(document)
        made: list[nodes.Node] = [raw(strip(rows))]
        words = nodes.container()
        self.state.nested_parse(StringList(WORDS.strip().splitlines()), 0, words)
        start = '<details class="fold more" open><summary>Verdicts and words</summary>'
        made += [raw(start), *words.children, raw("</details>")]
        made += self.advice(about)
        made += self.worst(about["worst"], "")
        made.append(raw('<p class="head">Chapters that teach what it is about</p><ol>'))
        for page, why in about["path"].items():
            found, _ = self.state.inline_text(why, self.lineno)
            title = self.env.app.source_pages[page][""]
            link = f'<li><a href="{page}.html">{escape(title)}</a>: '
            made += [raw(link), nodes.inline("", "", *found), raw("</li>")]
        return [*made, raw("</ol>"), raw(choices(rows))]

    def advice(self, about: dict[str, Any]) -> list[nodes.Node]:
        """A table of what a document recommends: where it helps and where not, and the row."""
        heads = {"what": "Remedy", "helps": about["helps"], "fails": about["fails"]}
        titles = "".join(f'<th scope="col">{title}</th>' for title in heads.values())
        start = '<div class="pst-scrollable-table-container advice"><table><thead>'
        made: list[nodes.Node] = [raw(f"{start}<tr>{titles}</tr></thead><tbody>")]
        for id, parts in about["advice"].items():
            made.append(raw("<tr>"))
            for key, title in heads.items():
                found, _ = self.state.inline_text(self.linked(parts[key]), self.lineno)
                tag = 'th scope="row"' if key == "what" else f'td data-name="{title}"'
                link = f' <a class="id" href="#{id}">{id}</a>' if key == "what" else ""
                made += [raw(f"<{tag}>"), nodes.inline("", "", *found), raw(f"{link}</{tag[:2]}>")]
            made.append(raw("</tr>"))
        return [*made, raw("</tbody></table></div>")]


class Statements(Sources):
    """``{statements} S0 1.背景介绍``: what a document says under a heading."""

    required_arguments = 2
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make a row for each; plain truths and repeats fold where they stand."""
        document, heading = self.arguments
        rows = self.rows(document)
        here = [(id, row) for id, row in rows.items() if row["under"] == heading]
        if not here:
            raise self.error(f"{document} says nothing under {heading!r}")
        made: list[nodes.Node] = []
        for folds, group in groupby(here, lambda pair: "same_as" in pair[1] or "plain" in pair[1]):
            part = dict(group)
            made += self.summary(part) if folds else []
            for id, row in part.items():
                again = [other for other, r in rows.items() if r.get("same_as") == id]
                made += self.row(id, row, again)
            made += [raw("</details>")] if folds else []
        return made

    def row(self, id: str, row: Row, again: list[str]) -> Iterator[nodes.Node]:
        """One statement: clause, translation, verdict, answer, and where it is taught."""
        sign, word = VERDICTS[row["verdict"]]
        first = row.get("same_as")
        as_in = f' · as in <a href="#{first}">{first}</a>' if first else ""
        badge = f'<span class="badge">{sign} {word}</span>'
        yield raw(f'<article class="statement {row["verdict"]} {row["topic"]}" id="{id}">')
        yield from self.clause(row)
        yield from self.paragraph(row["means"], "means")
        yield raw(f'<p class="verdict">{badge} <a class="id" href="#{id}">{id}</a>{as_in}</p>')
        if "answer" in row:
            yield from self.paragraph(row["answer"], "answer")
        where = self.where(row)
        if again:
            links = ", ".join(f'<a href="#{other}">{other}</a>' for other in again)
            where += [raw(f"{' · ' * bool(where)}said again: {links}")]
        yield nodes.paragraph("", "", *where, classes=["where"])
        yield raw("</article>")

    def where(self, row: Row) -> list[nodes.Node]:
        """A link to the section that teaches it."""
        if "page" not in row:
            return []
        section, titles = row["section"], self.env.app.source_pages[row["page"]]
        if row["page"] == self.env.docname:
            what = "the run stands" if "](claim:" in row.get("answer", "") else "more"
            link = f"[{what} on this page](#{section})"
        else:
            title = titles[section]
            name = title if title == titles[""] else f"{titles['']}: {title}"
            link = f"[{name}]({titles['file']}#{section})"
        found: list[nodes.Node] = self.state.inline_text(link, self.lineno)[0]
        return found

    def summary(self, rows: dict[str, Row]) -> list[nodes.Node]:
        """What stands on a fold of rows that need no answer of their own."""
        repeats = sum("same_as" in row for row in rows.values())
        plain = len(rows) - repeats
        said = [f"{plain} plain truth{'s' * (plain > 1)}"] * bool(plain)
        said += [f"{repeats} said before"] * bool(repeats)
        return [raw(f'<details class="fold also"><summary>{", ".join(said)}</summary>')]


def raw(html: str) -> nodes.raw:
    """HTML as it stands."""
    return nodes.raw("", html, format="html")


def strip(rows: dict[str, Row]) -> str:
    """A bar of the verdicts, each as wide as its number, with the numbers below in words."""
    counts = Counter(row["verdict"] for row in rows.values())
    bar = "".join(f'<i class="{v}" style="flex:{counts[v]}"></i>' for v in VERDICTS if counts[v])
    said = ", ".join(
        f"<span>{VERDICTS[v][0]} {counts[v]} {VERDICTS[v][1]}</span>" for v in VERDICTS if counts[v]
    )
    return f'<div class="verdicts" aria-hidden="true">{bar}</div><p class="counts">{said}</p>'


def choices(rows: dict[str, Row]) -> str:
    """The choice of verdicts and of topics."""
    made = '<div class="choices">'
    hidden = []
    for legend, key, names in (
        ("Verdict", "verdict", {v: f"{sign} {word}" for v, (sign, word) in VERDICTS.items()}),
        ("Topic", "topic", TOPICS),
    ):
        counts = Counter(row[key] for row in rows.values())
        labels = f'<label><input type="radio" name="{key}" value="all" checked/> all</label>'
        for value, name in names.items():
            if counts[value]:
                box = f'<input type="radio" name="{key}" value="{value}"/>'
                labels += f"<label>{box} {name} {counts[value]}</label>"
                shown = f'.bd-article:has(.choices [value="{value}"]:checked)'
                hidden += [
                    f"{shown} .statement:not(.{value})",
                    f"{shown} .also:not(:has(.{value}))",
                ]
        made += f"<fieldset><legend>{legend}</legend>{labels}</fieldset>"
    return f"{made}</div><style>@media screen{{{','.join(hidden)}{{display:none}}}}</style>"


def pages(book: Path) -> dict[str, dict[str, str]]:
    """Titles of all sections, by page and anchor; under "" the page's own, and its file."""
    found: dict[str, dict[str, str]] = {}
    for path in (*book.glob("*.ipynb"), *book.glob("*.md")):
        text = path.read_text("utf-8")
        if path.suffix == ".ipynb":
            cells = json.loads(text)["cells"]
            text = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        titles = re.findall(r"^#{1,3} (.+)$", text, re.MULTILINE)
        plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)|[*`$]", r"\1", title) for title in titles]
        anchors = [re.sub(r"[^\w\- ]", "", t.lower().strip()).replace(" ", "-") for t in titles]
        found[path.stem] = dict(zip(anchors, plain, strict=True))
        found[path.stem] |= {"": (plain or [""])[0], "file": path.name}
    return found


def offer_rows(app: Sphinx, doctree: nodes.document) -> None:
    """Let pages link to a row as they do to a heading: ``[so](source_choice.ipynb#S4-12)``."""
    ids = [tag for raw in doctree.findall(nodes.raw) for tag in ROW.findall(raw.astext())]
    slugs = app.env.metadata[app.env.docname].setdefault("myst_slugs", {})
    slugs |= {id: (0, id, id) for id in ids}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.add_directive("sources", Cards)
    app.add_directive("source", Head)
    app.add_directive("statements", Statements)
    app.connect("doctree-read", offer_rows)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
