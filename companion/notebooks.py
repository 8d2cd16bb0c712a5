"""Run the book's notebooks, read the claims back from them, and list them.

``make notebooks`` and ``make replicate`` call this module; the chapter `claims` calls `ledger`.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from companion.claims import Claim

__all__ = [
    "Record",
    "execute",
    "fingerprint",
    "ledger",
    "read_claims",
    "replicate",
    "stored_figure",
    "toc",
]

_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\(claim:(?P<id>[^)\s]*)\)")
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


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
    statement : str
        The sentence of the book that leans on it, in Markdown; empty if there is none.
    """

    claim: Claim
    page: str
    section: str
    statement: str


def toc(book: Path) -> list[Path]:
    """List the book's pages in reading order, as ``_toc.yml`` beside its folder gives them."""
    contents = yaml.safe_load((book.resolve().parent / "_toc.yml").read_text())
    stems = [contents["root"]]
    for part in contents.get("parts", [contents]):
        stems += [chapter["file"] for chapter in part.get("chapters", [])]
    pages = [page for stem in stems for page in sorted(book.glob(f"{Path(stem).stem}.*"))]
    if missing := [stem for stem in stems if Path(stem).stem not in {page.stem for page in pages}]:
        raise FileNotFoundError(f"_toc.yml names pages that {book} lacks: {', '.join(missing)}")
    return pages


def fingerprint(source: str) -> str:
    """Digest of a code cell, stored beside its outputs: an edited cell no longer matches."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:12]


def execute(path: Path, *, seed: int = 0, record: bool = False) -> dict[str, Any]:
    """Run a notebook in a fresh kernel and return it, cleaned, without writing it.

    Parameters
    ----------
    path : Path
        The notebook; it runs in its own folder.
    seed : int, default 0
        ``COMPANION_SEED`` of the run.
    record : bool, default False
        Go on at a claim that fails, and print it marked ✗.

    Returns
    -------
    dict
        The notebook as JSON, with outputs; without times, with a fingerprint for each cell.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    environment = dict(os.environ, COMPANION_SEED=str(seed), TQDM_DISABLE="1")
    environment["COMPANION_CLAIMS"] = "record" if record else ""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(path.resolve().parent)}},
    )
    client.execute(env=environment)
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.metadata["ran"] = fingerprint(cell.source)
    return json.loads(nbformat.writes(notebook))


def _write(path: Path, notebook: dict[str, Any]) -> None:
    """Replace a notebook at once, so that none is ever half written."""
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n")
    beside.replace(path)


def _claims(notebook: dict[str, Any]) -> Iterator[tuple[Claim, str]]:
    """Yield each claim that a notebook's stored outputs print, with the title of its section."""
    section = ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            titles = re.findall(r"^#+ (.+)$", "".join(cell["source"]), re.MULTILINE)
            section = titles[-1] if titles else section
        for output in cell.get("outputs", []):
            for line in "".join(output.get("text", "")).splitlines():
                if found := Claim.parse(line):
                    yield found, section


def _statements(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield each claim id that a text links to, with the sentence that links; its link is bold."""
    prose = re.sub(r"^(?::::|```|:\w+:).*$", "\n", markdown, flags=re.MULTILINE)  # directives
    for paragraph in re.split(r"\n\s*\n", prose):
        text = re.sub(r"\s*\{cite:?\w*\}`[^`]*`", "", " ".join(paragraph.split()))
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z\[*$`])", text):
            for link in _LINK.finditer(sentence):
                bold = sentence[: link.start()] + f"**{link['text']}**" + sentence[link.end() :]
                yield link["id"], _LINK.sub(r"\g<text>", bold).lstrip("#>-0123456789. ")


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
    statements: dict[str, str] = {}
    for page, text in pages.items():
        cells = notebooks[page]["cells"] if page in notebooks else [{"source": text}]
        for cell in cells:
            if cell.get("cell_type", "markdown") == "markdown":
                for id, sentence in _statements("".join(cell["source"])):
                    statements.setdefault(id, sentence)
    records: dict[str, Record] = {}
    for page, notebook in notebooks.items():
        for found, section in _claims(notebook):
            record = Record(found, page.stem, section, statements.get(found.id, ""))
            if earlier := records.get(found.id):
                where = f"{earlier.page}, '{earlier.section}' and {page.stem}, '{section}'"
                raise ValueError(f"claim id {found.id!r} is used twice: in {where}")
            records[found.id] = record
    return list(records.values())


def ledger(book: Path = Path(".")) -> str:
    """Tabulate every claim of the book, in Markdown, a table for each page that makes claims.

    Parameters
    ----------
    book : Path, default the current folder
        The folder of the notebooks.
    """
    replication = book / "replication.json"
    runs = json.loads(replication.read_text()) if replication.exists() else {}
    lines: list[str] = []
    page = None
    for record in read_claims(book):
        if record.page != page:
            page = record.page
            title = re.search(r'"# ([^"\\]+)', (book / f"{page}.ipynb").read_text())
            lines += ["", f"**[{title[1] if title else page}]({page}.ipynb)**", ""]
            lines += ["| claim | measured | required | held |", "|:--|:--|:--|:--|"]
        lines.append(_row(record, runs))
    return "\n".join(lines).strip()


def _row(record: Record, runs: dict[str, Any]) -> str:
    """One line of the ledger; its anchor is the claim's id."""
    made = record.claim
    math = re.compile(r"\$[^$]+\$")
    statement = math.sub(lambda found: found[0].replace("|", r"\vert "), record.statement)
    source = f" ({made.source})" if made.source else ""
    varies = f"; varies: {made.varies}" if made.varies else ""
    held = "{} of {}".format(*runs[made.id]) if made.id in runs else "–"
    slug = re.sub(r"[^\w\- ]", "", record.section.lower().strip()).replace(" ", "-")
    place = f"[{record.section}]({record.page}.ipynb#{slug})"
    name = f'<a id="{made.id}"></a>`{made.id}`'
    return (
        f"| {name}<br>{statement} *{place}* | {made.measured} "
        f"| {made.required}{varies}{source} | {held} |"
    )


def stored_figure(notebook: dict[str, Any], name: str) -> bytes:
    """Find the PNG that a notebook stores under a figure's name.

    Raises
    ------
    ValueError
        If no cell of that name stores one.
    """
    for cell in notebook["cells"]:
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == name:
            for output in cell["outputs"]:
                if picture := output.get("data", {}).get("image/png"):
                    return base64.b64decode("".join(picture))
    raise ValueError(f"name must be that of a stored figure, not {name!r}")


def replicate(book: Path, seeds: int, names: Sequence[str] = ()) -> None:
    """Run notebooks under the seed shifts 1 … `seeds` and write how often their claims held.

    The counts go to ``replication.json`` in the book's folder, which the ledger shows: for each
    claim, in how many of how many runs it held. Without `names` all notebooks are run.
    """
    pages = [page for page in _notebooks(book) if page.stem in names or not names]
    made = [record for record in read_claims(book) if record.page in {page.stem for page in pages}]
    held = {record.claim.id: 0 for record in made}
    for seed in range(1, seeds + 1):
        for page in pages:
            for found, _ in _claims(execute(page, seed=seed, record=True)):
                held[found.id] += found.holds
                if not found.holds:
                    print(f"COMPANION_SEED={seed}: {found}", flush=True)
        print(f"COMPANION_SEED={seed}: {sum(held.values())} of {seed * len(held)} held", flush=True)
    stored = book / "replication.json"
    before = json.loads(stored.read_text()) if names and stored.exists() else {}
    counts = before | {id: [count, seeds] for id, count in held.items()}
    text = ",\n".join(f' "{id}": {json.dumps(count)}' for id, count in counts.items())
    stored.write_text(f"{{\n{text}\n}}\n")


def _notebooks(book: Path) -> list[Path]:
    """The notebooks that make claims, in reading order: all but the ledger."""
    return [page for page in toc(book) if page.suffix == ".ipynb" and page.stem != "claims"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute the named notebooks (default: all, the ledger last), or replicate the book."""
    parser = argparse.ArgumentParser(prog="python -m companion.notebooks", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="stems of notebooks in book/, e.g. activations")
    parser.add_argument("--book", type=Path, default=Path("book"))
    parser.add_argument("--replicate", type=int, metavar="SEEDS", default=0)
    options = parser.parse_args(arguments)
    if options.replicate:
        replicate(options.book, options.replicate, options.names)
        options.names = ["claims"]
    names = options.names or [p.stem for p in _notebooks(options.book)]
    for name in [*(name for name in names if name != "claims"), "claims"]:
        path = options.book / f"{name}.ipynb"
        _write(path, ran := execute(path))
        print(f"ran {path}", flush=True)
        if name == "intro":
            readme = options.book / "assets" / "readme-figure.png"
            readme.write_bytes(stored_figure(ran, "fig-living"))


if __name__ == "__main__":
    main()
