"""Reports as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from companion.detection.report import LayerReport

VERSION = 2
WORDS = ("name", "activation", "made_by", "piecewise", "n_seen", "n_values")
COUNTS = ("active", "steep", "upper")
SUMS = (*COUNTS, "total", "size")
ARRAYS = (*SUMS, "low", "high")


def write(
    path: str | Path, layers: Iterable[LayerReport], notes: Iterable[str], overflowed: bool
) -> None:
    """Write layers to a file; what is no finite number becomes null."""
    rows = []
    for layer in layers:
        row = {name: getattr(layer, name) for name in WORDS}
        for name in ARRAYS:
            values = getattr(layer, name).tolist()
            row[name] = [value if np.isfinite(value) else None for value in values]
        rows.append(row)
    what = {"format": "UnitReport", "version": VERSION, "notes": list(notes)}
    what |= {"overflowed": overflowed, "layers": rows}
    text = json.dumps(what, allow_nan=False)
    Path(path).write_text(text, encoding="utf-8")


def read(path: str | Path) -> dict[str, Any]:
    """Read what `write` wrote: the arguments of a report, its layers as rows."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of text, of JSON, and of JSON without end
        raise ValueError(f"{path} is no report: {error}") from None
    if not isinstance(found, dict) or found.get("format") != "UnitReport":
        raise ValueError(f"{path} is no report")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path} must be of version {VERSION} of the format, not {found.get('version')!r}"
        )
    rows: Any = found.get("layers")
    notes: Any = found.get("notes")
    overflowed: Any = found.get("overflowed")
    words = isinstance(notes, list) and all(isinstance(note, str) for note in notes)
    whole = isinstance(rows, list) and all(
        isinstance(row, dict) and row.keys() == {*WORDS, *ARRAYS} for row in rows
    )
    if not words or not whole or not isinstance(overflowed, bool):
        raise ValueError(f"{path} is no report: its notes, layers or overflow are not as written")
    for row in rows:
        for name in ARRAYS:
            if name in COUNTS or not isinstance(row[name], list):
                continue
            row[name] = [np.nan if value is None else value for value in row[name]]
    return {"layers": rows, "notes": tuple(notes), "overflowed": overflowed}
