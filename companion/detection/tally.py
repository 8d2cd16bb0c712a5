"""Sums over what an activation puts out, kept on its device: O(units), and no synchronisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from companion.detection.report import LayerReport
from companion.detection.rules import FLAT, Edges, Rule

__all__ = ["Layout", "Tally"]

CHUNK = 2**17
"""On a CPU, more values than this are summed in parts: what fits the cache needs no new memory."""

EXACT = 2**24
"""Single precision counts up to here."""


@dataclass(frozen=True)
class Layout:
    """Where the units and the samples are in a tensor."""

    units: tuple[int, ...]  #: axes along which units differ; none: all values are of one unit
    batch: int | None  #: axis of the samples; None: there is one, or they share an axis
    n: int  #: samples


class Tally:
    """What is summed for one activation, or one of its calls."""

    def __init__(self, name: str, rule: Rule, made_by: str = "") -> None:
        self.name, self.rule, self.made_by = name, rule, made_by
        self.n_units = self.n_seen = self.n_values = 0
        self.sums: dict[str, Tensor] = {}
        self.counts: Tensor | None = None  # n_seen and n_values of compiled passes

    def go_on(self, rule: Rule) -> None:
        """Judge by another rule from here on; what the last one left out is filled in."""
        last, self.rule = self.rule, rule
        if self.sums and last.nonnegative and not rule.nonnegative:
            self.sums.setdefault("size", self.sums["total"].clone())
        if self.sums and last.silent not in (None, rule.silent):
            for name, end in (("low", -last.silent), ("high", last.silent)):
                self.sums.setdefault(name, torch.full_like(self.sums["total"], end))

    def add(
        self,
        z: Tensor,
        h: Tensor,
        layout: Layout,
        *,
        samples: int | None = None,
        mask: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> None:
        """Add one call: pre-activation and output, of one shape, and where the units are in them.

        `mask` tells the positions that count, `gate` (0 or 1, on the device) whether the call does.
        Raises `ValueError` if there are not as many units as before.
        """
        z, h, units, n = z.detach(), h.detach(), layout.units, layout.n
        if callable(self.rule.of):  # what it holds may fit this shape alone
            z = self.rule.of(z)
        if samples is not None and layout.batch is not None:
            z, h = (t.narrow(layout.batch, 0, min(samples, n)) for t in (z, h))
            n = min(samples, n)
        rest = [axis for axis in range(h.ndim) if axis not in units]
        if mask is not None and mask.numel() == h.numel() // max(1, _size(h, units)):
            z, h = (t.permute(*rest, *units).flatten(0, len(rest) - 1) for t in (z, h))
            z, h = z[mask.flatten()], h[mask.flatten()]
            n, units, rest = int(mask.flatten(1).any(1).sum()), tuple(range(1, h.ndim)), [0]
        if not rest:
            z, h, units, rest = z[None], h[None], tuple(axis + 1 for axis in units), [0]
        n_units = _size(h, units)
        if self.n_units not in (0, n_units):
            raise ValueError(f"had {self.n_units} units and now has {n_units}")
        if not h.numel():
            return
        self.n_units = n_units
        if h.numel() > CHUNK and h.is_cpu and not torch.compiler.is_compiling():
            long = max(rest, key=lambda axis: h.shape[axis])
            step = max(1, CHUNK * h.shape[long] // h.numel())
            for part in zip(z.split(step, long), h.split(step, long), strict=True):
                self._add(*part, units, gate)
        else:
            self._add(z, h, units, gate)
        n_values = h.numel() // n_units
        self._count(min(n, n_values), n_values, gate, h)

    def _add(self, z: Tensor, h: Tensor, units: tuple[int, ...], gate: Tensor | None) -> None:
        rule, n_values = self.rule, h.numel() // self.n_units
        dims = [axis for axis in range(h.ndim) if axis not in units]
        on = h if rule.of == "h" else z
        own = on.dtype
        on, h = _wide(on), _wide(h)
        found = {"active": self._count_where(rule.active, on, own, dims, n_values)}
        for name, edges in (("steep", rule.steep), ("upper", rule.upper)):
            if edges is not None:
                found[name] = self._count_where(edges, on, own, dims, n_values)
        if rule.slope is not None:
            upper = found["upper"] = found["active"]
            size = rule.slope.abs()
            flat = torch.full_like(size, FLAT)  # rounded as the slope is
            found["active"] = upper + (n_values - upper) * (size != 0)
            found["steep"] = upper + (n_values - upper) * (size > flat)
        found["total"] = _sum(h, dims)
        if not rule.nonnegative or "size" in self.sums:
            found["size"] = _sum(h.abs(), dims)
        for name, part in found.items():
            part = part.flatten() if gate is None else part.flatten() * gate
            if name not in self.sums:
                self.sums[name] = _new(part)
            self.sums[name].add_(part)
        if (rule.silent is None or "low" in self.sums) and self._some_dead(h):
            self._widen("low", -h.amin(dims), gate)
            self._widen("high", h.amax(dims), gate)

    def _some_dead(self, h: Tensor) -> bool:
        """Tell whether a unit has been dead so far: its outputs are worth a look, or the asking."""
        if torch.compiler.is_compiling() or not h.is_cpu:
            return True
        return bool((self.sums["active"] == 0).any())

    def _widen(self, name: str, end: Tensor, gate: Tensor | None) -> None:
        end = end.flatten() if gate is None else end.flatten().where(gate > 0, -torch.inf)
        if name not in self.sums:
            self.sums[name] = _new(end).sub_(torch.inf)
        torch.maximum(self.sums[name], end, out=self.sums[name])

    def _count_where(
        self, edges: Edges, t: Tensor, dtype: torch.dtype, dims: list[int], n_values: int
    ) -> Tensor:
        """Count, for each unit, the values at which a condition holds."""
        shape = [n for axis, n in enumerate(t.shape) if axis not in dims]
        count = t.new_full(shape, float(n_values)) if edges.start else None
        sign = -1 if edges.start else 1
        low, high = self._ends(t, edges)
        for level, closed in edges.at:
            level = self.rule.level(level, dtype)
            if level < low:  # all are beyond
                count = t.new_full(shape, float(n_values)) if sign > 0 else None
            elif level <= high:
                beyond = _sum(_beyond(t, level, closed), dims)
                count = sign * beyond if count is None else count.add_(beyond, alpha=sign)
            sign = -sign
        return t.new_zeros(shape) if count is None else count

    def _ends(self, t: Tensor, edges: Edges) -> tuple[float, float]:
        """Find between which levels to compare: on a CPU it saves some of several."""
        if len(edges.at) < 2 or not t.is_cpu or torch.compiler.is_compiling():
            return -float("inf"), float("inf")
        low, high = float(t.amin()), float(t.amax())
        return (low, high) if low <= high else (-float("inf"), float("inf"))  # NaN

    def _count(self, n: int, n_values: int, gate: Tensor | None, like: Tensor) -> None:
        if torch.compiler.is_compiling():  # where a number that changes would compile again
            if self.counts is None:
                self.counts = _new(like.new_zeros(2))
            self.counts[0].add_(n if gate is None else n * gate)
            self.counts[1].add_(n_values if gate is None else n_values * gate)
        else:
            self.n_seen += n
            self.n_values += n_values

    def report(self) -> LayerReport | None:
        """Fetch the sums: only here does the CPU wait for the device."""
        n_seen, n_values = self.n_seen, self.n_values
        if self.counts is not None:
            more_seen, more_values = (int(n) for n in self.counts.tolist())
            n_seen, n_values = n_seen + more_seen, n_values + more_values
        if not n_seen:
            return None
        rule = self.rule
        found = {name: t.cpu().double().numpy().copy() for name, t in self.sums.items()}
        found.setdefault("steep", found["active"])  # what a rule leaves out is the same as another
        found.setdefault("upper", found["steep"] if rule.piecewise else np.zeros(self.n_units))
        found.setdefault("size", found["total"])
        living = found["active"] > 0
        if "low" in found:
            found["low"] = -found["low"]
        elif rule.silent is not None:
            found["low"] = found["high"] = np.full(self.n_units, rule.silent)
        else:
            found["low"] = found["high"] = np.full(self.n_units, np.nan)
        for name in ("low", "high"):
            found[name] = np.where(living, np.nan, found[name])
        return LayerReport(
            self.name, rule.kind, n_seen, n_values, rule.piecewise, **found, made_by=self.made_by
        )


def _size(t: Tensor, axes: tuple[int, ...]) -> int:
    size = 1
    for axis in axes:  # `math.prod` would end a compiled graph
        size *= t.shape[axis]
    return size


def _wide(t: Tensor) -> Tensor:
    """Give single precision to what has half: bfloat16 cannot count to 257."""
    return t.float() if t.dtype in {torch.float16, torch.bfloat16} else t


def _beyond(t: Tensor, level: float, closed: bool) -> Tensor:
    """One where t is greater, zero elsewhere, in t's own precision."""
    if torch.compiler.is_compiling():
        return ((t >= level) if closed else (t > level)).to(t.dtype)
    return (torch.ge if closed else torch.gt)(t, level, out=torch.empty_like(t))


def _sum(t: Tensor, dims: list[int]) -> Tensor:
    """Sum over these axes, exactly where there are many values."""
    return t.sum(dims, dtype=_double(t) if t.numel() > EXACT else None)


def _new(like: Tensor) -> Tensor:
    """Make sums of zero."""
    with torch.inference_mode(False):
        return torch.zeros_like(like, dtype=_double(like))


def _double(t: Tensor) -> torch.dtype:
    """Return double precision, where the device has it."""
    return torch.float32 if t.device.type == "mps" else torch.float64
