"""Sums over what an activation puts out, kept on its device: O(units), and no synchronisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.detection.report import LayerReport
from companion.detection.rules import Rule, wide

__all__ = ["Mixed", "Tally", "mixes"]

CHUNK = 2**17
"""On a CPU, more values than this are summed in parts: what fits the cache needs no new memory."""

EXACT = 2**24
"""Single precision counts up to here."""

PerUnit = Callable[[Tensor], Tensor]

_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_FEATURES = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)

Mixed = tuple[bool, int, bool]
"""Of the output of what mixed units last: if they are on axis 1; its axes; if it had samples."""


def mixes(module: nn.Module) -> bool:
    """Tell if a module's output shows on which axis the units are."""
    return isinstance(module, _CHANNELS + _FEATURES)


def mixed(module: nn.Module, output: Any) -> Mixed | None:
    """Tell it of a module that `mixes`."""
    if not isinstance(output, Tensor):
        return None
    channels, ndim = isinstance(module, _CHANNELS), output.ndim
    if isinstance(module, nn.modules.conv._ConvNd):
        return channels, ndim, ndim == module.weight.ndim
    return channels, ndim, ndim > 1


def arrange(t: Tensor, last: Mixed | None, axis: int | None) -> tuple[Tensor, int]:
    """Return a view with the samples on axis 0, and the axis of the units.

    One axis holds samples of one unit, unless there are no samples. Of two, and of three (a
    sequence), the last holds the units, and of more (images) axis 1; but what ran last decides
    where it can be either.
    """
    if axis is not None:
        if not -t.ndim < axis < t.ndim or axis % t.ndim == 0:
            raise ValueError(f"axis must be one of a tensor of {t.ndim} but the first, not {axis}")
        return t, axis % t.ndim
    channels, ndim, samples = last or (t.ndim > 3, t.ndim, True)
    if t.ndim < 2:
        return (t[None], 1) if t.ndim and not samples and ndim == 1 else (t.reshape(-1, 1), 1)
    if not samples and ndim == t.ndim:
        return t[None], 1 if channels else t.ndim
    if t.ndim == 3:
        channels = channels and ndim == 3
    return t, 1 if channels else t.ndim - 1


def _sums(h: Tensor, axis: int, n_values: int) -> tuple[PerUnit, PerUnit]:
    """Return the fastest ways to sum tensors of this shape per unit, and their squares."""
    if n_values > EXACT and h.device.type != "mps":
        dims = [d for d in range(h.ndim) if d != axis]
        return (
            lambda t: t.sum(dims, dtype=torch.float64),
            lambda t: (t * t).sum(dims, dtype=torch.float64),
        )
    if h.ndim == 2:
        return lambda t: t.sum(0), lambda t: (t * t).sum(0)
    if axis == 1 and h.is_contiguous():  # a norm needs no memory for the squares
        return (
            lambda t: t.flatten(2).sum(2).sum(0),
            lambda t: torch.linalg.vector_norm(t.flatten(2), dim=2).square_().sum(0),
        )
    dims = [d for d in range(h.ndim) if d != axis]
    return lambda t: t.sum(dims), lambda t: (t * t).sum(dims)


class Tally:
    """What is summed for one activation, or one of its calls."""

    def __init__(self, name: str, rule: Rule, axis: int | None = None) -> None:
        self.name = name
        self.rule = rule
        self.axis = axis
        self.n_seen = self.n_values = 0
        self.names: list[str] = []
        self.sums: Tensor | None = None  # one row per name
        self.ends: Tensor | None = None  # least and largest outputs
        self.counts: Tensor | None = None  # n_seen and n_values of compiled passes

    def add(self, z: Tensor, h: Tensor, last: Mixed | None, samples: int | None) -> None:
        """Add one call: pre-activation and output, of one shape."""
        h, axis = arrange(h.detach(), last, self.axis)
        z = h if self.rule.by_output else arrange(z.detach(), last, self.axis)[0]
        if samples is not None:
            z, h = z[:samples], h[:samples]
        numel = h.numel()
        if not numel:
            return
        if numel > CHUNK and h.is_cpu and not torch.compiler.is_compiling():
            n = max(1, CHUNK // h[0].numel())
            for before, after in zip(z.split(n), h.split(n), strict=True):
                self._add(before, after, axis)
        else:
            self._add(z, h, axis)

    def _add(self, z: Tensor, h: Tensor, axis: int) -> None:
        n, n_units, rule = len(h), h.shape[axis], self.rule
        n_values = h.numel() // n_units
        counts = rule.count(z, h)  # in the model's own precision, which rounds the ends of pieces
        h = wide(h)
        per_unit, squares = _sums(h, axis, n_values)
        found = {name: per_unit(wide(ones)) for name, ones in counts.items()}
        found["total"] = per_unit(h)
        found["square"] = squares(h)
        if not rule.nonnegative:
            found["size"] = per_unit(h.abs())
        if self.sums is None:
            self._allocate(h, n_units, list(found))
        assert self.sums is not None
        if self.sums.shape[1] != n_units:
            raise ValueError(
                f"{self.name!r} had {self.sums.shape[1]} units and now has {n_units}, on axis "
                f"{axis} of an output of shape {tuple(h.shape)}; axis= chooses another"
            )
        self.sums.add_(torch.stack(tuple(found.values())))
        dims = [d for d in range(h.ndim) if d != axis]
        ends = torch.stack([h.amin(dims), h.amax(dims)])
        if self.ends is not None:
            low, high = self.ends
            ends = torch.stack([torch.minimum(ends[0], low), torch.maximum(ends[1], high)])
        self.ends = ends
        if torch.compiler.is_compiling():  # where a number that changes would compile again
            assert self.counts is not None
            self.counts[0].add_(n)
            self.counts[1].add_(n_values)
        else:
            self.n_seen += n
            self.n_values += n_values

    def _allocate(self, h: Tensor, n_units: int, names: list[str]) -> None:
        self.names = names
        dtype = torch.float32 if h.device.type == "mps" else torch.float64
        with torch.inference_mode(False):
            self.sums = torch.zeros(len(names), n_units, dtype=dtype, device=h.device)
            self.counts = torch.zeros(2, dtype=dtype, device=h.device)

    def report(self) -> LayerReport | None:
        """Fetch the sums: only here does the CPU wait for the device."""
        if self.sums is None or self.counts is None:
            return None
        n_seen, n_values = (int(n) for n in self.counts.tolist())
        n_seen, n_values = n_seen + self.n_seen, n_values + self.n_values
        found = dict(zip(self.names, self.sums.cpu().double().numpy().copy(), strict=True))
        rule, n_units = self.rule, self.sums.shape[1]
        found |= {name: np.full(n_units, float(n_values)) for name in rule.everywhere}
        found.setdefault("steep", found["active"])  # what a rule leaves out is the same as another
        found.setdefault("upper", found["steep"] if rule.piecewise else np.zeros(n_units))
        found.setdefault("size", found["total"])
        if self.ends is not None:
            found["low"], found["high"] = self.ends.cpu().double().numpy()
        return LayerReport(self.name, rule.kind, n_seen, n_values, rule.piecewise, **found)
