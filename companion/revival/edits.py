"""What a reset writes: planned first, tried on a copy, and only then written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.initialization import STDS, fans
from companion.initialization.draws import normal, uniform
from companion.revival.choice import Chosen, Constants
from companion.revival.graph import weight_axes
from companion.revival.groups import UnitGroup

__all__ = ["Edit", "Incoming", "plan"]

Incoming = str | Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
"""How incoming weights are drawn: a rule's name, or a function of the weight's shape."""

NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""The entry of a norm that lets everything pass."""

EQUAL = 1e-12
"""Weights with a standard deviation of this share of their norm are equal but for rounding."""


@dataclass(eq=False)
class Edit:
    """New values for some places of a tensor, along one axis."""

    layer: str
    name: str
    part: str  # "rows" make units, "columns" read them, "entries" are one for each
    axis: int
    places: np.ndarray  # of shape (n_units, k)
    living: np.ndarray  # those of the living units
    now: str
    values: Any = 0.0  # one, or a tensor of the shape of those places
    add: bool = False  # what stands there stays, and with it its gradient and the optimizer's state

    def apply(self, model: nn.Module) -> Tensor:
        """Write the values; a gradient that waits there is of the old ones, and goes with them."""
        t = tensor_of(model, self.name)
        index = torch.from_numpy(self.places.ravel()).to(t.device)
        if self.add:
            t.index_add_(self.axis, index, self.values.to(t))
        elif isinstance(self.values, Tensor):
            t.index_copy_(self.axis, index, self.values.to(t))
        else:
            t.index_fill_(self.axis, index, self.values)
        if t.grad is not None and not self.add:
            t.grad.index_fill_(self.axis, index, 0)
        return t


def tensor_of(model: nn.Module, name: str) -> Any:
    """Find a parameter or buffer by its name."""
    path, _, attribute = name.rpartition(".")
    return getattr(model.get_submodule(path), attribute)


def plan(
    chosen: Chosen, constants: Constants, incoming: Incoming | None, rng: np.random.Generator
) -> list[Edit]:
    """List what is to be written: constants to biases, then rows and norms, columns at last."""
    edits: list[Edit] = []
    zeroed: list[Edit] = []
    for name, reader, added in constants.added(chosen):
        bias, every = f"{reader.name}.bias", np.arange(len(added))[:, None]
        now = "plus constants"
        edits.append(Edit(name, bias, "entries", 0, every, every[:0], now, added, add=True))
    for name, index in chosen.items():
        group, layer = constants.groups[name], constants.report[name]
        rest = np.setdiff1d(np.arange(group.n_units), index)
        living = rest if layer.dead[rest].all() else rest[~layer.dead[rest]]
        edits += _made(group, index, living, incoming, rng)
        for reader in group.readers:
            columns, others = reader.places[index], reader.places[living]
            weight, axis = f"{reader.name}.weight", weight_axes(reader.module)[1]
            zeroed.append(Edit(name, weight, "columns", axis, columns, others, "zero"))
    return edits + zeroed


def _made(
    group: UnitGroup,
    index: np.ndarray,
    living: np.ndarray,
    incoming: Incoming | None,
    rng: np.random.Generator,
) -> Iterator[Edit]:
    """What makes the units: fresh weights, no bias, norms that let everything pass."""
    name, rows, others = group.name, index[:, None], living[:, None]
    axis = weight_axes(group.module)[0]
    old = group.module.weight.detach().transpose(0, axis)
    groups = getattr(group.module, "groups", 1)
    now, values = _fresh(old, index, living, incoming, rng, groups)
    weight, values = f"{group.producer}.weight", values.transpose(0, axis)
    yield Edit(name, weight, "rows", axis, rows, others, now, values)
    if group.module.bias is not None:
        yield Edit(name, f"{group.producer}.bias", "entries", 0, rows, others, "zero")
    for norm in group.norms:
        entries, places = norm.places[index], norm.places[living]
        for attribute, value in NORM.items():
            if getattr(norm.module, attribute) is not None:
                full, word = f"{norm.name}.{attribute}", "one" if value else "zero"
                yield Edit(name, full, "entries", 0, entries, places, word, value)


def _fresh(
    weight: Tensor,
    index: np.ndarray,
    living: np.ndarray,
    rule: Incoming | None,
    rng: np.random.Generator,
    groups: int,
) -> tuple[str, Tensor]:
    """Draw incoming weights, and say how."""
    shape = tuple(weight.shape)
    if not (rule is None or isinstance(rule, str)):
        drawn = np.asarray(rule(shape, rng))
        if drawn.dtype.kind not in "fiu" or drawn.shape != shape or not np.isfinite(drawn).all():
            raise ValueError(
                f"incoming must return finite weights of shape {shape}, not of {drawn.shape} and "
                f"{drawn.dtype}"
            )
        values = torch.from_numpy(np.ascontiguousarray(drawn[index], dtype=float))
        return f"drawn by {getattr(rule, '__name__', 'incoming')}", values
    std = math.nan
    if rule is None:
        others = weight[torch.from_numpy(living).to(weight.device)].double()
        std = float(others.std()) if others.numel() > 1 else math.nan
        if std <= EQUAL * float(others.norm()):  # of equal weights, it is rounding
            std = 0.0
    if not 0 < std < math.inf:
        rule = rule or "pytorch"
        std = STDS[rule](*fans(shape, groups=groups))
    make = uniform if rule == "pytorch" else normal
    values = torch.from_numpy(make((len(index), *shape[1:]), rng, std, np.float64))
    return f"{make.__name__}, std {std:.3g}", values
