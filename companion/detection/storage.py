"""Reports as JSON, and as one report of all ranks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from companion.detection.report import LayerReport

VERSION = 1
WORDS = {"name": str, "activation": str, "piecewise": bool}
NUMBERS = ("n_seen", "n_values")
SUMS = ("active", "steep", "upper", "total", "size", "square")


def write(
    path: str | Path, layers: Iterable[LayerReport], unwatched: int, overflowed: bool
) -> None:
    """Write layers to a file; what is no finite number becomes null."""
    rows = []
    for layer in layers:
        row = {name: getattr(layer, name) for name in (*WORDS, *NUMBERS)}
        for name in SUMS:
            sums = getattr(layer, name).tolist()
            row[name] = [value if np.isfinite(value) else None for value in sums]
        rows.append(row)
    what = {"format": "UnitReport", "version": VERSION, "unwatched": unwatched}
    what |= {"overflowed": overflowed, "layers": rows}
    text = json.dumps(what, allow_nan=False)
    Path(path).write_text(text, encoding="utf-8")


def read(path: str | Path) -> tuple[list[dict[str, Any]], int, bool]:
    """Read what `write` wrote: the arguments of each layer, and the two of the report."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise ValueError(f"{path} is no report: {error}") from None
    if not isinstance(found, dict) or found.get("format") != "UnitReport":
        raise ValueError(f"{path} is no report")
    if found.get("version") != VERSION:
        raise ValueError(
            f"{path} must be of version {VERSION} of the format, not {found.get('version')!r}"
        )
    try:
        overflowed = found.get("overflowed", False)  # earlier files do not say
        if not isinstance(overflowed, bool):
            raise ValueError(f"overflowed must be true or false, not {overflowed!r}")
        layers = [_layer(row) for row in found["layers"]]
        return layers, _whole(found["unwatched"]), overflowed
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no report: {type(error).__name__}: {error}") from None


def _layer(row: dict[str, Any]) -> dict[str, Any]:
    for name, kind in WORDS.items():
        if not isinstance(row[name], kind):
            raise ValueError(f"{name} must be of type {kind.__name__}, not {row[name]!r}")
    found = {name: row[name] for name in WORDS} | {name: _whole(row[name]) for name in NUMBERS}
    for name in SUMS:
        found[name] = np.array(row[name], dtype=float)  # null becomes NaN
        if found[name].shape != (len(row["active"]),):
            raise ValueError(f"{name} must have one number per unit")
    if not 0 < found["n_seen"] <= found["n_values"] or not len(row["active"]):
        raise ValueError("n_seen must be positive, n_values at least that, and units there")
    return found


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"a count must be a whole number, not {number!r}")
    return number


def sum_over_ranks(
    layers: tuple[LayerReport, ...], overflowed: bool, group: Any
) -> tuple[list[dict[str, Any]], bool]:
    """Return the arguments of each layer, with sums over all ranks, and if one has overflowed."""
    import torch
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        raise RuntimeError("all_reduce needs torch.distributed.init_process_group")
    nccl = distributed.get_backend(group) == "nccl"
    device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
    layout = [(p.name, p.activation, p.piecewise, len(p)) for p in layers]
    mark = float(zlib.crc32(repr(layout).encode()))
    marks = torch.tensor([mark, -mark], dtype=torch.float64, device=device)
    distributed.all_reduce(marks, distributed.ReduceOp.MAX, group)
    if marks[0] != -marks[1]:
        raise ValueError("reports must be of the same model, but the ranks have different layers")
    sums = [
        np.concatenate([[p.n_seen, p.n_values], *(getattr(p, name) for name in SUMS)])
        for p in layers
    ]
    flat = torch.from_numpy(np.concatenate([*sums, [float(overflowed)]])).to(device)
    distributed.all_reduce(flat, distributed.ReduceOp.SUM, group)
    cuts = np.cumsum([len(s) for s in sums])[:-1]
    summed, lost = np.split(flat.cpu().numpy(), [-1])
    found = []
    for p, numbers in zip(layers, np.split(summed, cuts), strict=True):
        row: dict[str, Any] = {name: getattr(p, name) for name in WORDS}
        row |= dict(zip(NUMBERS, numbers[:2].astype(int).tolist(), strict=True))
        found.append(row | dict(zip(SUMS, numbers[2:].reshape(len(SUMS), len(p)), strict=True)))
    return found, bool(lost[0] > 0)
