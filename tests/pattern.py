"""Chapters in the pattern, in which the lesson stands in the reader's path; and its rules."""

from __future__ import annotations

import builtins
import re
import symtable
from typing import Any

IN_THE_PATTERN = {"activations", "batch_norm", "born_dead", "dead_relu", "gradient_explosion"}
"""Stems of the chapters that have been rewritten so; it grows with each."""

END = ["In practice", "Common errors", "Exercises", "Deeper", "How to cite this chapter"]
"""The last titles of a chapter."""

LONGEST = 12
"""Lines of a cell that stays open."""


def faults(notebook: dict[str, Any]) -> list[str]:
    """List where a chapter leaves the pattern."""
    cells = notebook["cells"]
    words = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    found = []
    titles = re.findall(r"^## (.+)$", words, re.MULTILINE)
    if titles[-len(END) :] != END:
        found.append(f"its last titles are {titles[-len(END) :]}, not {END}")
    if len(titles) - len(END) > 8:
        found.append(f"it has {len(titles) - len(END)} sections, more than eight")
    exercises = words.partition("\n## Exercises")[2].partition("\n## ")[0]
    asked, solved = (len(re.findall(rf"^{p}", exercises, re.M)) for p in ("### ", "#### Solution$"))
    if not asked == solved == 5:
        found.append(f"it has {asked} exercises and {solved} solutions, not five")
    for box in ("Predict", "Keep"):
        if len(re.findall(rf"^> \*\*{box}\.\*\*", words, re.M)) < 3:
            found.append(f"it has fewer than three boxes '> **{box}.**'")
    return found + open_cells(cells)


def open_cells(cells: list[dict[str, Any]]) -> list[str]:
    """List the open cells that are long, make claims, or use a name that none before them made."""
    found: list[str] = []
    known = set(dir(builtins))
    for cell in cells:
        if cell["cell_type"] != "code" or "open" not in cell["metadata"].get("tags", []):
            continue
        source = "".join(cell["source"])
        where = f"the open cell {cell['id']}"
        if (n := len(source.strip().splitlines())) > LONGEST:
            found.append(f"{where} has {n} lines, more than {LONGEST}")
        if re.search(r"\b(claim|check)\(", source):
            found.append(f"{where} makes claims or checks: these fold")
        table = symtable.symtable(source, cell["id"], "exec")
        made = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
        made |= {child.get_name() for child in table.get_children()}
        found += [
            f"{where} uses {name!r}, which no open cell made"
            for name in sorted(used(table) - known - made)
        ]
        known |= made
    return found


def used(table: symtable.SymbolTable) -> set[str]:
    """Names that a piece of code takes from outside it."""
    top = table.get_type() == "module"
    names = set()
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (top or symbol.is_global()):
            names.add(symbol.get_name())
    return names.union(*(used(child) for child in table.get_children()))
