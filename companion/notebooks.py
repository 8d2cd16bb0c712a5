"""Run the book's notebooks, read the claims back from them, and list them.

``make notebooks`` and ``make replicate`` call this module; the site makes cards and ledgers of it.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from companion.claims import Claim

__all__ = [
    "Record",
    "Replication",
    "collapse",
    "execute",
    "fingerprint",
    "read_claims",
    "replicate",
    "replications",
    "stored_figure",
    "toc",
]

_LINK = re.compile(r"\[(?P<text>[^\[\]]+)\]\(claim:(?P<id>[^)\s]*)\)")
_MARKER = re.compile(r"\s*(?:#+|>|[-*]|\d+\.|\|)(?=\s)\s*")
_END = re.compile(
    r"(?<!\be\.g)(?<!\bi\.e)(?<!\bet al)(?<!\b[Ff]ig)(?<!\beq)(?<!\bcf)(?<!\bvs)"
    r"[.!?][\"”’)*]*\s+(?=[\"“(*]*[A-Z$\[`])"
)
_FOLDED = re.compile(r"#+ (?:More: |Solution$)", re.MULTILINE)
_GUARDS = "guards-"
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
    pages = [page for stem in stems for page in sorted(book.glob(f"{stem}.*"))]
    if missing := [stem for stem in stems if stem not in {page.stem for page in pages}]:
        raise FileNotFoundError(f"_toc.yml names pages that {book} lacks: {', '.join(missing)}")
    return pages


def fingerprint(source: str) -> str:
    """Digest of a code cell, stored beside its outputs: an edited cell no longer matches."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:12]


def execute(path: Path, *, seed: int = 0, notes: Path | None = None) -> dict[str, Any]:
    """Run a notebook in a fresh kernel and return it, cleaned, without writing it.

    Parameters
    ----------
    path : Path
        The notebook; it runs in its own folder.
    seed : int, default 0
        ``COMPANION_SEED`` of the run.
    notes : Path, optional
        File to which every claim adds its value, as a line of JSON; then the run goes on at a claim
        that fails.

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
    environment["COMPANION_CLAIMS"] = str(notes.resolve()) if notes else ""
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
            cell.outputs = _joined(cell.outputs)
    ran: dict[str, Any] = json.loads(nbformat.writes(notebook))
    collapse(ran["cells"])
    return ran


def collapse(cells: Iterable[dict[str, Any]]) -> None:
    """Have a notebook open as a lesson, as the site shows it: set what Jupyter reads.

    Code shows only in cells tagged ``open``; figures and tables show, other outputs with their
    code; a section "More: …" or "Solution" is closed.

    Parameters
    ----------
    cells : iterable of dict
        Of a notebook; their metadata are changed in place.
    """
    for cell in cells:
        about = cell["metadata"]
        if cell["cell_type"] == "code":
            shown = "open" in about.get("tags", [])
            rich = any(output.get("data", {}).keys() - {"text/plain"} for output in cell["outputs"])
            hidden = {"source_hidden": not shown, "outputs_hidden": not (shown or rich)}
            about["jupyter"] = {name: True for name, hides in hidden.items() if hides}
            if not about["jupyter"]:
                del about["jupyter"]
        elif _FOLDED.match("".join(cell["source"])):
            about["jp-MarkdownHeadingCollapsed"] = True
        else:
            about.pop("jp-MarkdownHeadingCollapsed", None)


def _joined(outputs: list[Any]) -> list[Any]:
    """Join neighbouring pieces of one stream, which a kernel sends as it happens to."""
    joined: list[Any] = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output["output_type"] == "stream" and before.get("name") == output["name"]:
            before["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _write(path: Path, notebook: dict[str, Any]) -> None:
    text = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True)
    _replace(path, text + "\n")


def _replace(path: Path, text: str) -> None:
    """Replace a file at once, so that none is ever half written."""
    beside = path.with_suffix(".tmp")
    beside.write_text(text)
    beside.replace(path)


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


def replicate(book: Path, seeds: int, names: Sequence[str] = ()) -> list[str]:
    """Run notebooks under the seed shifts 1 … `seeds` and store the value of every claim.

    The values go to ``replication.json`` in the book's folder as each run ends: those of other
    shifts and of other pages stay, those of claims that nobody makes any more go.

    Parameters
    ----------
    book : Path
        The folder of the notebooks.
    seeds : int
        How many shifts.
    names : sequence of str
        Stems of the notebooks to run; by default all.

    Returns
    -------
    list of str
        The runs that ended with an error, of which nothing is stored, and what it was.
    """
    pages = [page for page in _notebooks(book) if page.stem in names or not names]
    made = [record.claim.id for record in read_claims(book)]
    failed: list[str] = []
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        runs = {
            pool.submit(_measure, page, seed): (page, seed)
            for seed in range(1, seeds + 1)
            for page in pages
        }
        for run in as_completed(runs):
            page, seed = runs[run]
            try:
                notes = run.result()
            except Exception as error:
                failed.append(f"COMPANION_SEED={seed} {page.stem}: {str(error)[-500:]}")
                continue
            _store(book, made, seed, notes)
            bad = [note["id"] for note in notes if not note["holds"]]
            print(f"COMPANION_SEED={seed} {page.stem}: not as required: {bad}", flush=True)
    return failed


def _measure(page: Path, seed: int) -> list[dict[str, Any]]:
    """Run a notebook under a seed shift; return the notes of its claims."""
    with TemporaryDirectory() as folder:
        notes = Path(folder) / "notes"
        notes.touch()
        execute(page, seed=seed, notes=notes)
        return [json.loads(line) for line in notes.read_text().splitlines()]


def _store(book: Path, made: Sequence[str], seed: int, notes: Sequence[dict[str, Any]]) -> None:
    """Put the values of one run beside those of the others, claims in the book's order."""
    runs = replications(book)
    for note in notes:
        known = runs.get(note["id"], Replication([], []))
        values = known.values + [None] * (seed - len(known.values))
        values[seed - 1] = note["value"] and float(f"{note['value']:.6g}")
        fell = {*known.fell} - {seed} | (set() if note["holds"] else {seed})
        runs[note["id"]] = Replication(values, sorted(fell))
    rows = []
    for id in made:
        if run := runs.get(id):
            row = {"values": run.values} | ({"fell": run.fell} if run.fell else {})
            rows.append(f' "{id}": {json.dumps(row)}')
    _replace(book / "replication.json", "{\n" + ",\n".join(rows) + "\n}\n")


def _notebooks(book: Path) -> list[Path]:
    """The notebooks, in reading order."""
    return [page for page in toc(book) if page.suffix == ".ipynb"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Execute the named notebooks (default: all), or replicate the book."""
    parser = argparse.ArgumentParser(prog="python -m companion.notebooks", description=main.__doc__)
    parser.add_argument("names", nargs="*", help="stems of notebooks in book/, e.g. activations")
    parser.add_argument("--book", type=Path, default=Path("book"))
    parser.add_argument("--replicate", type=int, metavar="SEEDS", default=0)
    options = parser.parse_args(arguments)
    if options.replicate:
        if failed := replicate(options.book, options.replicate, options.names):
            raise SystemExit("\n".join(failed))
        return
    for name in options.names or [page.stem for page in _notebooks(options.book)]:
        path = options.book / f"{name}.ipynb"
        _write(path, ran := execute(path))
        print(f"ran {path}", flush=True)
        if name == "intro":
            readme = options.book / "assets" / "readme-figure.png"
            readme.write_bytes(stored_figure(ran, "fig-living"))


if __name__ == "__main__":
    main()
