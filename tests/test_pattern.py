"""Chapters in the pattern keep it, and each fault is named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.pattern import END, IN_THE_PATTERN, faults, open_cells
from tests.website import BOOK


@pytest.mark.parametrize("name", sorted(IN_THE_PATTERN))
def test_chapter_keeps_the_pattern(name: str) -> None:
    assert faults(json.loads((BOOK / f"{name}.ipynb").read_text())) == []


def code(source: str, *tags: str) -> dict[str, Any]:
    """A code cell."""
    return {"cell_type": "code", "id": "c", "metadata": {"tags": list(tags)}, "source": source}


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        (["import numpy as np", "x = np.zeros(3)\nprint(x.sum())"], None),
        (["def f(x):\n    y = x\n    return [y for y in x]", "f([1])"], None),
        (["for k in range(3):\n    total = k", "print(total, k)"], None),
        (["x = np.zeros(3)"], "uses 'np', which no open cell made"),
        (["def f():\n    return data.x", "f()"], "uses 'data', which no open cell made"),
        (["y = [z + w for z in range(3)]"], "uses 'w', which no open cell made"),
        (["\n".join(f"a{n} = {n}" for n in range(13))], "has 13 lines, more than 12"),
        (["claim('a', 1)"], "makes claims or checks"),
    ],
)
def test_open_cell_can_be_typed_as_it_stands(sources: list[str], says: str | None) -> None:
    cells = [code("hidden = 1"), *(code(source, "open") for source in sources)]
    found = open_cells(cells)
    assert (found == []) == (says is None)
    assert says is None or any(says in fault for fault in found), found


def chapter(titles: list[str], exercises: int, boxes: int) -> dict[str, Any]:
    """A chapter of words only."""
    words = "\n\n> **Predict.** Which?\n\n> **Keep.** This." * boxes
    for title in titles:
        words += f"\n\n## {title}\n\nWords."
        if title == "Exercises":
            for n in range(exercises):
                words += f"\n\n### {n}. Do it\n\n#### Solution\n\nDone."
    return {"cells": [{"cell_type": "markdown", "metadata": {}, "source": words}]}


@pytest.mark.parametrize(
    ("titles", "exercises", "boxes", "says"),
    [
        (["One", *END], 5, 3, None),
        (["One", *END[:-1]], 5, 3, "its last titles are"),
        ([*"123456789", *END], 5, 3, "9 sections, more than eight"),
        (["One", *END], 4, 3, "it has 4 exercises and 4 solutions"),
        (["One", *END], 5, 2, "fewer than three boxes"),
    ],
)
def test_chapter_out_of_the_pattern_is_named(titles, exercises, boxes, says) -> None:
    found = faults(chapter(titles, exercises, boxes))
    assert (found == []) == (says is None), found
    assert says is None or any(says in fault for fault in found), found
