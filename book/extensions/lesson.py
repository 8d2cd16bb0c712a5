"""Make a lesson of a chapter: what teaches stays in sight, what proves it folds.

Authors write plain Markdown and tag cells; GitHub and Jupyter show it as it stands.

- A block quote that begins with **Keep.** or **Predict.** becomes a box. Right behind a prediction,
  quotes that begin with **Answer.** and cells tagged ``answer`` wait behind a tap.
- A section whose title begins with "More:", or is "Solution", folds.
- Code cells fold, except those tagged ``open``. Their figures and tables stay; of each run of cells
  without words between them, one line below unfolds the code and the checks that it made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path

from companion.claims import Claim
from companion.figures.style import NARROW_PNG
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

BOX = re.compile(r"(Keep|Predict|Answer)\.")
FOLDED = re.compile(r"More: |Solution$")
CHECK = "✓ check: "
logger = logging.getLogger(__name__)


def details(kind: str, summary: str, content: list[nodes.Node], id: str = "") -> list[nodes.Node]:
    """Fold nodes by the browser's own means; `summary` is HTML."""
    anchor = f' id="{id}"' if id else ""
    start = f'<details class="fold {kind}"{anchor}><summary>{summary}</summary>'
    ends = [nodes.raw("", html, format="html") for html in (start, "</details>")]
    return [ends[0], *content, ends[1]]


def fold_dropdowns(doctree: nodes.document) -> None:
    """Fold admonitions of class `dropdown`, and the hidden cells right below them."""
    for box in list(doctree.findall(nodes.admonition)):
        if "dropdown" in box["classes"]:
            title, *content = box.children
            below = box.parent[box.parent.index(box) + 1 :]
            while below and "tag_hide-cell" in below[0].get("classes", []):
                cell = below.pop(0)
                cell.parent.remove(cell)
                cell.attributes.pop("hide_mode", None)
                cell["classes"].append("in-solution")
                content.append(cell)
            box["classes"] = []
            kind = "solution" if title.astext() == "Solution" else "more"
            box.replace_self(details(kind, escape(title.astext()), content))


def fold_sections(doctree: nodes.document) -> None:
    """Fold "More: …" and "Solution", with all that stands below their titles."""
    for section in list(doctree.findall(nodes.section)):
        title, *content = section.children
        if not FOLDED.match(title.astext()):
            continue
        kind = "solution" if title.astext() == "Solution" else "more"
        if kind == "solution":
            for cell in code_cells(section):
                cell["classes"].append("in-solution")
        for image in section.findall(nodes.image):
            if not captioned(image):
                logger.warning("a figure without a caption in a fold", location=section)
        if kind == "more":
            for figure in list(section.findall(nodes.figure)):
                figure.replace_self(unnumbered(figure))
        name = section["ids"][0] if kind == "more" else ""
        section.replace_self(details(kind, escape(title.astext()), content, name))


def captioned(node: nodes.Node | None) -> bool:
    """Whether an image stands in a figure with a caption."""
    while node is not None and not isinstance(node, nodes.figure):
        node = node.parent
    return node is not None and any(isinstance(child, nodes.caption) for child in node.children)


def unnumbered(figure: nodes.Element) -> nodes.Element:
    """A figure inside a fold: without a number, so that those in sight count without gaps."""
    box = nodes.container("", classes=["unnumbered"], ids=figure["ids"])
    for child in figure.children:
        if isinstance(child, nodes.caption):
            child = nodes.paragraph("", "", *child.children, classes=["caption"])
        box += child
    return box


def box_quotes(doctree: nodes.document) -> None:
    """Make boxes of the quotes that begin with a word of ours, and fold answers."""
    for quote in list(doctree.findall(nodes.block_quote)):
        if kind := quote_kind(quote):
            quote[0].remove(leading(quote[0]))
            if isinstance(follows := leading(quote[0]), nodes.Text):
                quote[0].replace(follows, nodes.Text(follows.lstrip()))
            title = nodes.paragraph("", kind, classes=["admonition-title"])
            box = nodes.container("", title, *quote.children, classes=["lesson", kind.lower()])
            quote.replace_self(box)
    for box in list(doctree.findall(nodes.container)):
        if "predict" not in box["classes"]:
            continue
        parent, at = box.parent, box.parent.index(box) + 1
        answer: list[nodes.Node] = []
        while at < len(parent) and is_answer(parent[at]):
            answer.append(parent[at])
            parent.remove(parent[at])
        for part in answer:
            part["classes"].append("in-answer")
        if answer:
            parent[at:at] = details("answer", "See the answer", answer)


def quote_kind(quote: nodes.block_quote) -> str:
    """Which box a quote makes: Keep, Predict, Answer, or none."""
    lead = leading(quote[0]) if isinstance(quote[0], nodes.paragraph) else None
    found = BOX.fullmatch(lead.astext()) if isinstance(lead, nodes.strong) else None
    return found[1] if found else ""


def leading(paragraph: nodes.Element) -> nodes.Node | None:
    """What a paragraph begins with; the parser may leave an empty text before it."""
    return next((child for child in paragraph.children if child.astext().strip()), None)


def is_answer(node: nodes.Node) -> bool:
    """Whether a node is an answer's words or one of its cells."""
    return isinstance(node, nodes.container) and bool({"answer", "tag_answer"} & {*node["classes"]})


def code_cells(node: nodes.Element) -> list[nodes.Element]:
    """The code cells below a node, in order."""
    return [cell for cell in node.findall(nodes.container) if cell.get("nb_element") == "cell_code"]


def part(cell: nodes.Element, name: str) -> nodes.Element | None:
    """The source or the output of a cell."""
    return next((c for c in cell.children if c.get("nb_element") == f"cell_code_{name}"), None)


def checks(output: nodes.Element | None) -> tuple[list[str], int]:
    """The names of the claims that an output prints, and the number of all its checks."""
    blocks = output.findall(nodes.literal_block) if output else ()
    lines = [line for block in blocks for line in block.astext().splitlines()]
    names = [made.id for line in lines if (made := Claim.parse(line))]
    return names, len(names) + sum(line.startswith(CHECK) for line in lines)


def fold_code(doctree: nodes.document) -> None:
    """Show what teaches; of each run of other cells fold the code and the checks into one line."""
    for cell in code_cells(doctree):
        cell["ids"] += [f"made-{name}" for name in checks(part(cell, "output"))[0]]
    for run in list(runs(doctree)):
        parent, at = run[0].parent, run[0].parent.index(run[0])
        for cell in run:
            parent.remove(cell)
        parent[at:at] = folded_run(run)


def runs(doctree: nodes.document) -> Iterator[list[nodes.Element]]:
    """Yield the runs of neighbouring code cells; those of solutions stay as they are."""
    run: list[nodes.Element] = []
    for cell in code_cells(doctree):
        if "in-solution" in cell["classes"] or part(cell, "source") is None:
            continue
        if run and not (
            cell.parent is run[-1].parent
            and cell.parent.index(run[-1]) == cell.parent.index(cell) - 1
        ):
            yield run
            run = []
        cell.attributes.pop("hide_mode", None)
        run.append(cell)
    if run:
        yield run


def folded_run(run: list[nodes.Element]) -> list[nodes.Node]:
    """What a reader sees of a run: open cells, figures, and the line that unfolds the rest."""
    shown: list[nodes.Node] = []
    folded: list[nodes.Node] = []
    n_lines = n_checks = 0
    for cell in run:
        if "tag_open" in cell["classes"]:
            shown.append(cell)
            continue
        source, output = part(cell, "source"), part(cell, "output")
        n_lines += source.astext().count("\n") + 1
        n_checks += checks(output)[1]
        folded.append(cell)
        seen = [one for one in (output.children if output else ()) if is_seen(one)]
        if seen:
            classes = ["cell", "shown", *(c for c in cell["classes"] if c.startswith("tag_"))]
            box = nodes.container("", classes=["cell_output"])
            for one in seen:
                output.remove(one)
                box += one
            if not output.children:
                cell.remove(output)
            shown.append(nodes.container("", box, classes=classes))
    if folded:
        says = f"Code, {n_lines} line{'s' if n_lines > 1 else ''}"
        says += f" · {n_checks} check{'s' if n_checks > 1 else ''} ✓" if n_checks else ""
        shown += details("checks", says, folded)
    return shown


def is_seen(output: nodes.Element) -> bool:
    """Whether an output is a figure or a table: all that is not plain text."""
    kinds = {box.get("mime_type", "text/plain") for box in output.findall(nodes.container)}
    return kinds > {"text/plain"}


def keep_narrow(app: Sphinx, doctree: nodes.document) -> None:
    """Write the pictures for phones, and remember for which others they stand."""
    page = Path(app.env.doc2path(app.env.docname))
    if page.suffix != ".ipynb":
        return
    cells = json.loads(page.read_text("utf-8"))["cells"]
    folder = Path(app.outdir, "_images")
    folder.mkdir(parents=True, exist_ok=True)
    known: dict[str, str] = app.env.__dict__.setdefault("narrow_pictures", {})
    for cell in code_cells(doctree):
        outputs = [o.get("data", {}) for o in cells[cell["cell_index"]]["outputs"]]
        pictures = [data.get(NARROW_PNG) for data in outputs if "image/png" in data]
        for image, picture in zip(cell.findall(nodes.image), pictures, strict=False):
            if picture:
                data = base64.b64decode("".join(picture))
                name = hashlib.sha256(data).hexdigest() + ".png"
                (folder / name).write_bytes(data)
                known[Path(image["uri"]).name] = name


def make_lesson(app: Sphinx, doctree: nodes.document) -> None:
    """Do all of it, folds of prose first: what stands in a solution is no run of code."""
    keep_narrow(app, doctree)
    fold_dropdowns(doctree)
    fold_sections(doctree)
    box_quotes(doctree)
    fold_code(doctree)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it, before Sphinx counts figures and collects titles."""
    app.connect("doctree-read", make_lesson, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
