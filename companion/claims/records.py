"""Claims read back from the stored pages, each with the sentences that lean on it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from companion.claims.stating import Claim

__all__ = ["Record", "Replication", "read_claims", "replications", "toc"]

_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\(claim:(?P<id>[^)\s]*)\)")
_MARKER = re.compile(r"\s*(?:#+|>|[-*]|\d+\.|\|)(?=\s)\s*")
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bet al)(?<!\b[Ff]ig)(?<!\beq)(?<!\bcf)(?<!\bvs)"
    r"[.!?][\"”’)*]*\s+(?=[\"“(*]*[A-Z$\[`])"
)
_GUARDS = "guards-"


@dataclass(frozen=True)
class Record:
    """A claim as a notebook stores it.

    Attributes
    ----------
    claim : Claim
        Read back from the printed line.
    page : str
        Stem of the notebook.
    section : str
        Title of the section whose cell makes the claim.
    statements : tuple of str
        The sentences of the book that lean on it, in Markdown.
    guards : str
        The figure or table that it guards, as its cell's tag ``guards-…`` says; else empty.
    """

    claim: Claim
    page: str
    section: str
    statements: tuple[str, ...]
    guards: str = ""


def toc(book: Path) -> list[Path]:
    """List the book's pages in reading order, as ``_toc.yml`` beside its folder gives them."""
    contents = yaml.safe_load((book.resolve().parent / "_toc.yml").read_text())
    stems = [contents["root"]]
    for part in contents.get("parts", [contents]):
        stems += [chapter["file"] for chapter in part.get("chapters", [])]
    found = [page for stem in stems for page in sorted(book.glob(f"{stem}.*"))]
    pages = [page for page in found if page.suffix in (".ipynb", ".md")]
    if missing := [stem for stem in stems if stem not in {page.stem for page in pages}]:
        raise FileNotFoundError(f"_toc.yml names pages that {book} lacks: {', '.join(missing)}")
    return pages


def read_claims(book: Path) -> list[Record]:
    """Read every claim of the book back from the stored outputs, in reading order.

    Parameters
    ----------
    book : Path
        The folder of the notebooks; ``_toc.yml`` stands beside it.

    Raises
    ------
    ValueError
        If a claim's id is used twice; both places are named.
    """
    pages = {page: page.read_text() for page in toc(book)}
    notebooks = {page: json.loads(text) for page, text in pages.items() if page.suffix == ".ipynb"}
    statements: dict[str, list[str]] = {}
    for page, text in pages.items():
        cells = notebooks[page]["cells"] if page in notebooks else [{"source": text}]
        for cell in cells:
            if cell.get("cell_type", "markdown") == "markdown":
                for id, sentence in _statements("".join(cell["source"])):
                    statements.setdefault(id, []).append(sentence)
    records: dict[str, Record] = {}
    for page, notebook in notebooks.items():
        for found, section, guards in _claims(notebook):
            record = Record(found, page.stem, section, tuple(statements.get(found.id, ())), guards)
            if earlier := records.get(found.id):
                where = f"{earlier.page}, '{earlier.section}' and {page.stem}, '{section}'"
                raise ValueError(f"claim id {found.id!r} is used twice: in {where}")
            records[found.id] = record
    return list(records.values())


@dataclass(frozen=True)
class Replication:
    """What a claim came to under the first seed shifts.

    Attributes
    ----------
    values : list of float or None
        Its value under each shift, six digits; None where it is not known, or no number.
    fell : list of int
        The shifts under which it did not hold.
    """

    values: list[float | None]
    fell: list[int]


def replications(book: Path) -> dict[str, Replication]:
    """Read what `replicate` has stored, by the claims' names."""
    stored = book / "replication.json"
    found = json.loads(stored.read_text()) if stored.exists() else {}
    return {id: Replication(row["values"], row.get("fell", [])) for id, row in found.items()}


def _claims(notebook: dict[str, Any]) -> Iterator[tuple[Claim, str, str]]:
    """Yield each claim that a notebook stores, the title of its section, and what it guards."""
    section = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            titles = re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE)
            section = titles[-1] if titles else section
        tags = [tag for tag in cell["metadata"].get("tags", []) if tag.startswith(_GUARDS)]
        guards = tags[0].removeprefix(_GUARDS) if tags else ""
        for output in cell.get("outputs", []):
            for line in "".join(output.get("text", "")).splitlines():
                if found := Claim.parse(line):
                    yield found, section, guards


def _statements(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield each claim id that a text links to, with the sentence that links; its link is bold."""
    prose = re.sub(r"^(?::::|```|:\w+:).*$", "\n", markdown, flags=re.MULTILINE)  # directives
    prose = re.sub(r"^\$\$.*?^\$\$", "\n", prose, flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(rf"\n\s*\n|\n(?={_MARKER.pattern})", prose):
        text = re.sub(r"\s*\{cite:?\w*\}`[^`]*`", "", " ".join(paragraph.split()))
        if text.startswith("|"):  # a row of a table
            text = " · ".join(cell.strip() for cell in re.split(r"(?<!\\)\|", text.strip("|")))
        marker = _MARKER.match(text)
        for sentence in _sentences(text[marker.end() :] if marker else text):
            for link in _LINK.finditer(sentence):
                bold = sentence[: link.start()] + f"**{link['text']}**" + sentence[link.end() :]
                yield link["id"], _LINK.sub(r"\g<text>", bold).strip()


def _sentences(text: str) -> Iterator[str]:
    """Cut a paragraph into sentences; a bracket, bold words or an abbreviation are never cut."""
    start = 0
    for end in _END.finditer(text):
        piece = _LINK.sub(r"\g<text>", text[start : end.end()])
        piece = re.sub(r"\$[^$]*\$", "", piece)
        if piece.count("(") == piece.count(")") and piece.count("**") % 2 == 0:
            yield text[start : end.end()].strip()
            start = end.end()
    if text[start:].strip():
        yield text[start:].strip()
