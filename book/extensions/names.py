"""What the book's parts are called in PyTorch, Keras and TensorFlow.

``{names} Layers`` makes a table of that part of ``names.yml``: for each thing its names in the
three libraries, and above them what differs. On phones each is a card.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import yaml
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

LIBRARIES = {"pytorch": "PyTorch", "keras": "Keras", "tensorflow": "TensorFlow"}


class Names(SphinxDirective):
    """``{names} Layers``: a table of names."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Make it."""
        path = Path(self.env.app.srcdir, "names.yml")
        self.env.note_dependency(str(path))
        parts: dict[str, list[dict[str, Any]]] = yaml.safe_load(path.read_text("utf-8"))
        if self.arguments[0] not in parts:
            raise self.error(f"names.yml has no part {self.arguments[0]!r}")
        heads = "".join(f'<th scope="col">{name}</th>' for name in LIBRARIES.values())
        made = [raw(f'<div class="ledger names"><table><thead><tr>{heads}</tr></thead>')]
        for row in parts[self.arguments[0]]:
            made += [raw('<tbody><tr><th colspan="3" scope="rowgroup">')]
            made += self.paragraph(row["what"], "what")
            made += self.paragraph(row["differs"], "differs") if "differs" in row else []
            made += [raw(f"</th></tr><tr>{cells(row)}</tr></tbody>")]
        return [*made, raw("</table></div>")]

    def paragraph(self, text: str, kind: str) -> list[nodes.Node]:
        """A paragraph of Markdown."""
        found, messages = self.state.inline_text(text, self.lineno)
        return [nodes.paragraph("", "", *found, classes=[kind]), *messages]


def cells(row: dict[str, Any]) -> str:
    """The names of one thing, a cell for each library."""
    made = ""
    for library, name in LIBRARIES.items():
        words = [escape(one).replace("(", "(<wbr>") for one in row.get(library, [])]
        said = " ".join(f"<code>{one}</code>" for one in words) or "–"
        made += f'<td data-name="{name}">{said}</td>'
    return made


def raw(html: str) -> nodes.Node:
    """HTML as it stands."""
    return nodes.raw("", html, format="html")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register it."""
    app.add_directive("names", Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
