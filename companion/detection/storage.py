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
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    kind = found["format"], found["version"]
    if kind != ("UnitReport", VERSION):
        raise ValueError(f"it must be a UnitReport of version {VERSION} of the format, not {kind}")
    for row in found["layers"]:
        for name in ARRAYS:
            row[name] = [np.nan if value is None else value for value in row[name]]
    return {
        "layers": found["layers"],
        "notes": tuple(found["notes"]),
        "overflowed": found["overflowed"],
    }
