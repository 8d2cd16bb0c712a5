"""The checks are checked: faults planted in a copy of the book must each be caught by the suite."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from companion.figures import COLOURS

ROOT = Path(__file__).parent.parent
CHAPTER = "book/activations.ipynb"


def copy_of_the_book(to: Path) -> Path:
    """Copy what the suite reads."""
    for name in ("book", "companion", "tests"):
        skip = shutil.ignore_patterns("__pycache__", "vendor", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, to / name, ignore=skip)
    for name in ("_toc.yml", "_config.yml", "pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, to)
    return to


def suite(copy: Path, *arguments: str) -> tuple[int, str]:
    """Run a part of the suite in the copy, on the copy's companion."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST_"))}
    environment |= {"PYTHONPATH": str(copy), "COMPANION_SEED": "0", "COMPANION_CLAIMS": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    ran = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def edit(copy: Path, change: Callable[[list[dict]], object], page: str = CHAPTER) -> None:
    """Change the cells of a notebook in the copy."""
    path = copy / page
    notebook = json.loads(path.read_text())
    change(notebook["cells"])
    path.write_text(json.dumps(notebook))


def code(cells: list[dict]) -> list[dict]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def change_one_digit_in_prose(cells: list[dict]) -> None:
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (
            link := re.search(r"\[\d+\.(\d) %\]\(claim:", text)
        ):
            place = link.start(1)
            digit = str((int(text[place]) + 1) % 10)
            cell["source"] = text[:place] + digit + text[place + 1 :]
            return
    raise LookupError("no decimal with a claim in the prose")


def add_an_unlinked_result(cells: list[dict]) -> None:
    cells.insert(
        4, {"cell_type": "markdown", "id": "planted", "metadata": {}, "source": "Of these"}
    )
    cells[4]["source"] = "A wider net reads 98.9 % of them."


def hide_an_open_cell(cells: list[dict]) -> None:
    cell = next(cell for cell in code(cells) if "open" in cell["metadata"].get("tags", []))
    cell["metadata"]["jupyter"] = {"source_hidden": True}


def leave_a_cell_unrun(cells: list[dict]) -> None:
    code(cells)[5] |= {"execution_count": None, "outputs": []}


def add_an_ignore_tag(cells: list[dict]) -> None:
    code(cells)[5]["metadata"].setdefault("tags", []).append("nbval-ignore-output")


def edit_without_running(cells: list[dict]) -> None:
    code(cells)[5]["source"] = "".join(code(cells)[5]["source"]) + "\n# faster"


def use_a_claim_id_twice(cells: list[dict]) -> None:
    claims = [
        output
        for cell in code(cells)
        for output in cell["outputs"]
        if re.match(r"✓ (?!check)", "".join(output.get("text", "")))
    ]
    claims[1]["text"] = claims[0]["text"]


@pytest.mark.parametrize(
    ("fault", "test", "says"),
    [
        (change_one_digit_in_prose, "tests/test_prose.py", "measured"),
        (add_an_unlinked_result, "tests/test_prose.py", "'98.9 %' is a result without a claim"),
        (hide_an_open_cell, "tests/test_hygiene.py", "does not open as a lesson"),
        (leave_a_cell_unrun, "tests/test_hygiene.py", "code cell 6 .* was not run in order"),
        (add_an_ignore_tag, "tests/test_hygiene.py", "code cell 6 .* asks nbval to look away"),
        (
            edit_without_running,
            "tests/test_hygiene.py",
            "code cell 6 .* was edited after it was run",
        ),
        (use_a_claim_id_twice, "tests/test_prose.py", "is used twice"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_fault_in_a_notebook_is_caught(fault, test, says, tmp_path):
    copy = copy_of_the_book(tmp_path)
    edit(copy, fault)
    status, output = suite(copy, test, "-vv")
    assert status != 0
    assert re.search(says, output), output[-3000:]


def print_of(cells: list[dict], pattern: str) -> tuple[dict, re.Match]:
    """Find the first output of the page whose printed text has a pattern."""
    for cell in code(cells):
        for output in cell["outputs"]:
            if found := re.search(pattern, "".join(output.get("text", ""))):
                return output, found
    raise LookupError(pattern)


def widen_a_tolerance(cells: list[dict]) -> None:
    output, found = print_of(cells, r"expected [^ ]+ ± [^;)]+")
    output["text"] = found.string.replace(found[0], "expected 0 ± 1e9")


def bound_without_a_sentence(cells: list[dict]) -> None:
    output, found = print_of(cells, r"\(estimate")
    output["text"] = found.string.replace(found[0], "(above -12345", 1)


def estimate_from_one_seed(cells: list[dict]) -> None:
    output, found = print_of(cells, r" ± [^(\n]* \(estimate")
    output["text"] = found.string.replace(found[0], " (estimate", 1)


def not_a_number(cells: list[dict]) -> None:
    output, found = print_of(cells, r": \S+ ± [^(\n]* \(estimate")
    output["text"] = found.string.replace(found[0], ": nan ± nan over 20 seeds (estimate", 1)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (widen_a_tolerance, "deviations from failure|is wide for a value that no seed changes"),
        (bound_without_a_sentence, "above -12345 does not stand in its sentence"),
        (estimate_from_one_seed, "is an estimate from one seed"),
        (not_a_number, "is no number"),
    ],
    ids=lambda part: getattr(part, "__name__", ""),
)
def test_claim_that_cannot_fail_is_caught(fault, says, tmp_path):
    copy = copy_of_the_book(tmp_path)
    edit(copy, fault)
    status, output = suite(copy, "tests/test_gate.py", "-vv", "-k", "strict_page")
    assert status != 0
    assert re.search(says, output), output[-3000:]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda values: [], "has 0 replications"),
        (lambda values: values[:3], "has 3 replications"),
        (lambda values: [*values[:-1], None], "is no number at COMPANION_SEED=20"),
        (lambda values: [value + 1000 for value in values], "outside what its replications allow"),
    ],
    ids=["none", "too few", "no number", "stale"],
)
def test_claim_without_its_replications_is_caught(change, says, tmp_path):
    copy = copy_of_the_book(tmp_path)
    path = copy / "book" / "replication.json"
    values = json.loads(path.read_text())
    values["intro-relu-living"]["values"] = change(values["intro-relu-living"]["values"])
    path.write_text(json.dumps(values))
    status, output = suite(copy, "tests/test_gate.py", "-vv", "-k", "strict_page and intro")
    assert status != 0
    assert f"intro-relu-living: {says}" in output or re.search(says, output), output[-3000:]


def test_copy_without_a_fault_passes(tmp_path):
    status, output = suite(
        copy_of_the_book(tmp_path), "tests/test_prose.py", "tests/test_hygiene.py"
    )
    assert status == 0, output[-3000:]


def move_one_decimal_by_two(cells: list[dict]) -> int:
    """Move a printed decimal by two in its last place; return which code cell prints it."""
    for number, cell in enumerate(code(cells)):
        for output in cell["outputs"]:
            text = "".join(output.get("text", ""))
            if found := re.search(r"by hand +\[\d\.\d{7}([0-7])", text):
                place = found.start(1)
                output["text"] = text[:place] + str(int(text[place]) + 2) + text[place + 1 :]
                return number
    raise LookupError("no printed decimal")


def move_one_curve(cells: list[dict]) -> int:
    """Move the blue curve of a figure up by three pixels; return which code cell draws it."""
    blue = np.array(mpl.colors.to_rgb(COLOURS["blue"])) * 255
    for number, cell in enumerate(code(cells)):
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") != "fig-difference":
            continue
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                stored = base64.b64decode("".join(output["data"]["image/png"]))
                pixels = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).copy()
                rows, columns = np.nonzero(abs(pixels - blue).max(axis=-1) < 60)
                pixels[rows, columns] = 255
                pixels[rows - 3, columns] = blue
                file = io.BytesIO()
                Image.fromarray(pixels).save(file, format="png")
                output["data"]["image/png"] = base64.b64encode(file.getvalue()).decode()
                return number
    raise LookupError("no such figure")


def test_moved_decimal_and_moved_curve_are_caught(tmp_path):
    copy = copy_of_the_book(tmp_path)
    planted: set[int] = set()
    edit(copy, lambda cells: planted.add(move_one_decimal_by_two(cells)))
    edit(copy, lambda cells: planted.add(move_one_curve(cells)))
    assert len(planted) == 2
    status, output = suite(copy, CHAPTER, "--maxfail=2", "-rfE")
    failed = {int(n) for n in re.findall(r"^FAILED .*::Cell (\d+)", output, re.MULTILINE)}
    assert status != 0
    assert failed == planted, output[-3000:]


@pytest.mark.parametrize(
    ("module", "right", "wrong", "test", "only", "chapter"),
    [
        (
            "activations.py",
            "lambda z: _sigmoid(z) * _sigmoid(-z),",
            "lambda z: z * (1 - z),",
            "tests/test_activations.py",
            "sigmoid",
            CHAPTER,
        ),
        (
            "batch_norm.py",
            "var = ((x - mean) ** 2).mean(",
            "var = (x**2).mean(",
            "tests/test_batch_norm.py",
            "torch",
            "book/batch_norm.ipynb",
        ),
        (
            "initialization/scales.py",
            "return (of_first, of_second) if transposed else (of_second, of_first)",
            "return (of_second, of_first) if transposed else (of_first, of_second)",
            "tests/test_initialization.py",
            "fans",
            "book/initialization.ipynb",
        ),
        (
            "born_dead.py",
            "return math.prod(1 - 2.0**-n for n in widths)",
            "return math.prod(1 - 2.0 ** -(n + 1) for n in widths)",
            "tests/test_born_dead.py",
            "",
            "book/born_dead.ipynb",
        ),
        (
            "detection/report.py",
            "return (self.active == 0) & ~self.nan",
            "return (self.active < 0.02 * self.n_values) & ~self.nan",
            "tests/test_detection.py",
            "one_sample_of_many",
            "book/detection.ipynb",
        ),
        (
            "revival/pruning.py",
            "sorted(set(range(tensor.shape[axis])) - places)",
            "sorted(set(range(tensor.shape[axis])) & places)",
            "tests/test_revival.py",
            "",
            "book/dead_channels.ipynb",
        ),
    ],
    ids=[
        "wrong derivative",
        "variance without the mean",
        "swapped fans",
        "half the chance of silence",
        "rarely on is dead",
        "the living removed",
    ],
)
def test_wrong_formula_is_caught(module, right, wrong, test, only, chapter, tmp_path):
    copy = copy_of_the_book(tmp_path)
    path = copy / "companion" / module
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    status, output = suite(copy, test, "-x", "-k", only)
    assert status == 1, output[-3000:]
    status, output = suite(copy, chapter, "-x")
    assert status == 1
    assert re.search(r"::Cell \d+", output), output[-3000:]
