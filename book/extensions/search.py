"""A search that finds sections, by the book's words and by those that students type.

Sphinx indexes whole pages, code included. Here each section is an entry: its title, its page, its
prose without cells and formulas, and the words of `search.yml`. MiniSearch ranks them in the
browser (`assets/search.js`); the entries are a script, so that it works from a file as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.util import logging

LONGEST = 4000
"""Characters of a section's prose that are searched."""

SILENT = (nodes.literal_block, nodes.math, nodes.math_block, nodes.raw, nodes.comment, nodes.table)
logger = logging.getLogger(__name__)


def replace_index(app: Sphinx) -> None:
    """Keep Sphinx from making an index of its own, and make the search page nevertheless."""
    app.builder.search = False  # type: ignore[attr-defined]
    app.config.html_additional_pages["search"] = "search.html"


def entries(doctree: nodes.document, page: str) -> Iterator[dict[str, str]]:
    """Yield what is searched of a page: an entry for each section and each documented name."""
    whole = next(doctree.findall(nodes.title), nodes.title()).astext()
    for section in doctree.findall(nodes.section):
        title = section[0].astext() if len(section) else ""
        top = isinstance(section.parent, nodes.document)
        yield {
            "url": page + ".html" + ("" if top else f"#{section['ids'][0]}"),
            "title": title,
            "page": "" if top else whole,
            "text": prose(section),
        }
    for name in doctree.findall(addnodes.desc_signature):
        if name.get("ids") and isinstance(name.parent, addnodes.desc):
            yield {
                "url": f"{page}.html#{name['ids'][0]}",
                "title": name["ids"][0].rpartition(".")[2],
                "page": whole,
                "text": " ".join(p.astext() for p in name.parent.findall(nodes.paragraph))[
                    :LONGEST
                ],
            }


def prose(section: nodes.Element) -> str:
    """The words of a section, without those of its subsections, cells and formulas."""
    words: list[str] = []

    def read(node: nodes.Node) -> None:
        if isinstance(node, nodes.Text):
            words.append(node.astext())
        elif isinstance(node, addnodes.pending_xref) and node.get("refdomain") == "cite":
            return
        elif not isinstance(node, (nodes.section, nodes.title, addnodes.desc, *SILENT)):
            for child in node.children:
                read(child)
            if isinstance(node, nodes.TextElement) and not isinstance(node, nodes.Inline):
                words.append(" ")

    for child in section.children:
        read(child)
    return re.sub(r"\s+", " ", "".join(words)).strip()[:LONGEST]


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the entries of all pages."""
    if exception or app.builder.name != "html":
        return
    known = Path(app.srcdir, "search.yml")
    words: dict[str, str] = yaml.safe_load(known.read_text("utf-8")) if known.exists() else {}
    found = []
    for page in sorted(app.env.found_docs):
        if not page.startswith("claims/"):
            found += entries(app.env.get_doctree(page), page)
    urls = {entry["url"].replace(".html", ""): entry for entry in found}
    for place, extra in words.items():
        if place in urls:
            urls[place]["words"] = extra
        else:
            logger.warning("search.yml has words for a section that is not there: %s", place)
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    (Path(app.outdir) / "_static" / "search-entries.js").write_text(
        f"var ENTRIES={text};\n", "utf-8"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Register it."""
    app.connect("builder-inited", replace_index)
    app.connect("build-finished", write, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
