"""How each chapter reads, measured in a browser; for those in the pattern the goals are gates.

`pytest tests/test_measures.py -s` prints the table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pattern import IN_THE_PATTERN
from tests.website import NOTEBOOKS

GOALS: dict[str, tuple[float, float]] = {
    "claims_in_a_paragraph": (0, 3),
    "claims_per_100_words": (0, 1.5),
    "words": (1_500, 2_500),
    "stretch_without_picture": (0, 2_000),
    "code_and_output": (0, 20),
    "height": (0, 15_000),
    "first_figure_ends": (1, 900),
    "drawings": (3, 100),
    "formulas_cut": (0, 0),
}
"""Least and largest value of each measure; heights in pixels at 1280, shares in percent."""

MEASURE = (Path(__file__).parent / "measures.js").read_text("utf-8")
CHAPTERS = [page for page in NOTEBOOKS if page != "intro"]


def faults(measured: dict[str, Any], goals: dict[str, tuple[float, float]]) -> list[str]:
    """Name the measures that miss their goals."""
    return [
        f"{name} is {measured[name]}, not from {low:g} to {high:g}"
        for name, (low, high) in goals.items()
        if measured[name] is None or not low <= measured[name] <= high
    ]


@pytest.fixture(scope="session")
def measured(browser: Any, server: Any) -> dict[str, dict[str, Any]]:
    """All chapters' measures, printed as a table."""
    found = {}
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        for name in NOTEBOOKS:
            page.goto(f"{server.address}{name}.html", wait_until="load")
            found[name] = page.evaluate(MEASURE)
    names = list(next(iter(found.values())))
    print("\n" + " ".join(f"{name[:20]:>20}" for name in ("", *names)))
    for chapter, row in found.items():
        print(" ".join(f"{value!s:>20}" for value in (chapter, *row.values())))
    return found


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_in_the_pattern_reads_well(measured: dict[str, dict[str, Any]], name: str) -> None:
    assert measured[name]["words"] > 0
    if name in IN_THE_PATTERN:
        assert faults(measured[name], GOALS) == []


def test_measure_that_misses_its_goal_is_named() -> None:
    good = {name: low or high for name, (low, high) in GOALS.items()}
    assert faults(good, GOALS) == []
    assert faults(good | {"height": 20_000, "first_figure_ends": None}, GOALS) == [
        "height is 20000, not from 0 to 15000",
        "first_figure_ends is None, not from 1 to 900",
    ]
