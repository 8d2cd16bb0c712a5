"""Every notebook is stored as one clean run, and every chapter keeps the frame."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from pkgutil import iter_modules

import pytest

from companion.claims.notebooks import collapse, fingerprint
from companion.claims.records import toc
from companion.figures.style import NARROW_PNG
from tests.pattern import IN_THE_PATTERN

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.stem != "intro" and not p.stem.startswith("source_")]
NOT_YET_IN_THE_PATTERN = [path for path in CHAPTERS if path.stem not in IN_THE_PATTERN]
SERVES_ALL = {
    "checks", "claims", "devices", "experiments", "figures", "quadrature", "untouched",
}  # fmt: skip

IGNORED: dict[str, str] = {}
"""Cells that nbval may skip or not compare, as "page: cell id", with the reason. None does."""

KINDS = {"text/plain", "text/markdown", "text/html", "image/png", NARROW_PNG}
"""What outputs may be, since the site, Jupyter and the comparison know it."""

FRAME = [
    "What we saw",
    "What popular references get wrong",
    "Exercises",
    "Further reading",
    "How to cite this chapter",
]


def load(path: Path) -> dict:
    return json.loads(path.read_text())


def source(cell: dict) -> str:
    return "".join(cell["source"])


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def faults(name: str, notebook: dict) -> list[str]:
    """List what keeps a notebook from being one clean run of its own code."""
    found = []
    for number, cell in enumerate(code_cells(notebook), 1):
        where = f"{name}, code cell {number} (id {cell['id']})"
        if cell["execution_count"] != number:
            found.append(f"{where} was not run in order from a fresh kernel: `make notebooks`")
        if cell["metadata"].get("ran") != fingerprint(source(cell)):
            found.append(f"{where} was edited after it was run: `make notebooks`")
        tags = {
            tag for tag in cell["metadata"].get("tags", []) if "nbval" in tag or "raises" in tag
        }
        if (tags or "NBVAL" in source(cell)) and f"{name}: {cell['id']}" not in IGNORED:
            found.append(f"{where} asks nbval to look away: {sorted(tags) or 'in a comment'}")
        if "execution" in cell["metadata"]:
            found.append(f"{where} stores times")
        if re.search(r"^\s*[%!]", source(cell), re.MULTILINE):
            found.append(f"{where} uses a magic or the shell")
        if re.search(r";\s*(#.*)?$", source(cell), re.MULTILINE):
            found.append(f"{where} has a trailing semicolon, which nbval cannot compare")
        for output in cell["outputs"]:
            if output["output_type"] == "error" or output.get("name") == "stderr":
                found.append(f"{where} stores an error or a warning")
            if unknown := output.get("data", {}).keys() - KINDS:
                found.append(f"{where} stores what no page shows: {sorted(unknown)}")
            if "image/png" in output.get("data", {}):
                found += figure_faults(where, cell)
    return found + lesson_faults(name, notebook["cells"])


def lesson_faults(name: str, cells: list[dict]) -> list[str]:
    """List the cells that Jupyter would show otherwise than the site."""
    wanted = copy.deepcopy(cells)
    collapse(wanted)
    return [
        f"{name}, cell {number} (id {cell['id']}) does not open as a lesson: `make notebooks`"
        for number, (cell, should) in enumerate(zip(cells, wanted, strict=True), 1)
        if cell["metadata"] != should["metadata"]
    ]


def figure_faults(where: str, cell: dict) -> list[str]:
    """List what a figure's cell lacks: alt text that says what is seen, a caption, a name."""
    about = cell["metadata"].get("mystnb", {})
    alt = about.get("image", {}).get("alt", "")
    figure = about.get("figure", {})
    found = []
    if len(alt.split()) < 8:
        found.append(f"{where} has a figure without alt text that says what is seen: {alt!r}")
    if len(figure.get("caption", "").split()) < 4:
        found.append(f"{where} has a figure without a caption")
    if not re.fullmatch(r"fig-[a-z0-9-]+", figure.get("name", "")):
        found.append(f"{where} has a figure without a name like 'fig-family'")
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_one_clean_run(path):
    assert faults(path.stem, load(path)) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_portable_and_small(path):
    text = path.read_text()
    wide = re.sub(rf'"{NARROW_PNG}": "[^"]*"', "", text)  # a reader loads one of two pictures
    assert len(wide) < 500_000
    assert not re.search(r"/(?:home|root|work|Users|tmp)/\w", text)
    assert load(path)["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in load(path)["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", NOT_YET_IN_THE_PATTERN, ids=lambda path: path.stem)
def test_chapter_keeps_the_frame(path):
    cells = load(path)["cells"]
    markdown = "\n\n".join(source(cell) for cell in cells if cell["cell_type"] == "markdown")
    titles = re.findall(r"^## (.+)$", markdown, re.MULTILINE)
    assert titles[-len(FRAME) :] == FRAME
    assert re.match(r"# [A-Z].+\n\n\*[A-Z].+\?\*", markdown), "open with a title and a question"
    body = markdown[: markdown.index("## Exercises")]
    bare = re.sub(r"```.*?```|\$\$.*?\$\$|\]\([^)]*\)|\{cite:\w\}`[^`]*`", " ", body, flags=re.S)
    words = sum(any(map(str.isalpha, word)) for word in bare.split())  # a number or ± is none
    assert 1_500 <= words <= 2_800, f"{words} words before the exercises"
    exercises = markdown[markdown.index("## Exercises") : markdown.index("## Further reading")]
    asked, solved = exercises.count("\n\n**"), exercises.count("{admonition} Solution")
    assert 3 <= asked == solved <= 6


def test_chapter_module_and_test_share_a_stem():
    chapters = {path.stem for path in CHAPTERS}
    modules = {module.name for module in iter_modules([str(ROOT / "companion")])} - {"__main__"}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests").glob("test_*.py")}
    assert modules - SERVES_ALL == chapters
    assert modules <= tests


def test_every_page_is_in_the_table_of_contents():
    assert {page.name for page in toc(BOOK)} == {
        page.name for page in (*BOOK.glob("*.md"), *BOOK.glob("*.ipynb"))
    }


HIDDEN = {"source_hidden": True, "outputs_hidden": True}
CLEAN = {
    "cells": [
        {
            "cell_type": "code",
            "id": "a",
            "execution_count": 1,
            "metadata": {"ran": fingerprint("x = 1"), "jupyter": HIDDEN},
            "source": ["x = 1"],
            "outputs": [],
        }
    ]
}
PICTURE = {"output_type": "display_data", "data": {"image/png": ""}}


def test_clean_run_passes():
    assert faults("here", CLEAN) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"execution_count": None}, "not run in order"),
        ({"execution_count": 2}, "not run in order"),
        ({"source": ["x = 2"]}, "edited after it was run"),
        ({"metadata": {}}, "edited after it was run"),
        ({"metadata": {"tags": ["nbval-ignore-output"]}}, "look away"),
        ({"metadata": {"tags": ["raises-exception"]}}, "look away"),
        ({"source": ["# NBVAL_IGNORE_OUTPUT\n", "x = 1"]}, "look away"),
        ({"metadata": {"execution": {"iopub": "2026"}}}, "stores times"),
        ({"source": ["%pip install numpy"]}, "magic"),
        ({"source": ["!pip install numpy"]}, "magic"),
        ({"source": ["x = 1;"]}, "semicolon"),
        ({"outputs": [{"output_type": "stream", "name": "stderr", "text": "!"}]}, "warning"),
        ({"outputs": [{"output_type": "error", "ename": "E"}]}, "error"),
        ({"outputs": [PICTURE]}, "without alt text"),
        ({"metadata": {"ran": fingerprint("x = 1")}}, "does not open as a lesson"),
        (
            {"outputs": [{"output_type": "display_data", "data": {"video/mp4": ""}}]},
            "no page shows",
        ),
        (
            {"outputs": [PICTURE], "metadata": {"mystnb": {"image": {"alt": "a.png"}}}},
            "without alt",
        ),
    ],
)
def test_other_notebooks_are_refused(change, says):
    cell = CLEAN["cells"][0] | change
    assert any(says in fault for fault in faults("here", {"cells": [cell]}))
