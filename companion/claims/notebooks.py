"""Run the book's notebooks: to store their outputs, or at other seeds to store what claims measure.

``make notebooks`` and ``make replicate`` call this module.
"""

from __future__ import annotations

import argparse
import base64
import dis
import hashlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from types import CodeType
from typing import Any

from companion.claims.records import Replication, read_claims, replications, toc

__all__ = ["collapse", "execute", "fingerprint", "replicate", "stored_figure"]

_FOLDED = re.compile(r"#+ (?:More: |Solution$)", re.MULTILINE)
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def fingerprint(source: str) -> str:
    """Digest of a code cell, stored beside its outputs: an edited cell no longer matches."""
    return hashlib.sha256(source.strip().encode()).hexdigest()[:12]


def execute(
    path: Path, *, seed: int = 0, notes: Path | None = None, changed: bool = False
) -> dict[str, Any]:
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
    changed : bool, default False
        Take only the outputs of cells that were edited or cleared since they ran, and of those
        that use a name which such a cell assigns; of the others, those that are stored.

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
    stale = _stale(notebook.cells) if changed else [True] * len(notebook.cells)
    stored = [
        None if new else cell.get("outputs")
        for cell, new in zip(notebook.cells, stale, strict=True)
    ]
    client.execute(env=environment)
    notebook.metadata = {"kernelspec": _KERNEL, "language_info": {"name": "python"}}
    for cell, outputs in zip(notebook.cells, stored, strict=True):
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.metadata["ran"] = fingerprint(cell.source)
            cell.outputs = _joined(cell.outputs) if outputs is None else outputs
    ran: dict[str, Any] = json.loads(nbformat.writes(notebook))
    collapse(ran["cells"])
    return ran


def _untouched(cell: Any) -> bool:
    """Whether a cell is as it was when it ran, with the outputs of that run."""
    cleared = cell.get("execution_count") is None
    return not cleared and cell.metadata.get("ran") == fingerprint(cell.source)


def _stale(cells: Iterable[Any]) -> list[bool]:
    """Which cells were edited or cleared, or use a name that one of those assigns."""
    found: list[bool] = []
    names: set[str] = set()
    for cell in cells:
        code = cell.source if cell.cell_type == "code" else ""
        reads, assigned = _names(compile(code, "cell", "exec"), set())
        found.append((bool(code) and not _untouched(cell)) or bool(reads & names))
        names = names | assigned if found[-1] else names - assigned
    return found


def _names(code: CodeType, assigned: set[str]) -> tuple[set[str], set[str]]:
    """The globals that code reads before it assigns them, and those that it assigns."""
    reads: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname in {"LOAD_NAME", "LOAD_GLOBAL"} and step.argval not in assigned:
            reads.add(step.argval)
        elif step.opname in {"STORE_NAME", "STORE_GLOBAL"}:
            assigned.add(step.argval)
        elif isinstance(step.argval, CodeType):
            reads |= _names(step.argval, assigned)[0]
    return reads, assigned


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
    parser = argparse.ArgumentParser(
        prog="python -m companion.claims.notebooks", description=main.__doc__
    )
    parser.add_argument("names", nargs="*", help="stems of notebooks in book/, e.g. activations")
    parser.add_argument("--book", type=Path, default=Path("book"))
    parser.add_argument("--replicate", type=int, metavar="SEEDS", default=0)
    parser.add_argument(
        "--changed",
        action="store_true",
        help="store only what edited cells print, and cells after them that use their names",
    )
    options = parser.parse_args(arguments)
    if options.replicate:
        if failed := replicate(options.book, options.replicate, options.names):
            raise SystemExit("\n".join(failed))
        return
    for name in options.names or [page.stem for page in _notebooks(options.book)]:
        path = options.book / f"{name}.ipynb"
        _write(path, ran := execute(path, changed=options.changed))
        print(f"ran {path}", flush=True)
        if name == "intro":
            readme = options.book / "assets" / "readme-figure.png"
            readme.write_bytes(stored_figure(ran, "fig-living"))


if __name__ == "__main__":
    main()
