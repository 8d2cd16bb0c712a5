"""What a reset writes: planned first, checked, and then written whole or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.initialization import fans, he_std, lecun_std, pytorch_std, xavier_std
from companion.initialization.draws import normal, uniform
from companion.revival.choice import Chosen, folds
from companion.revival.structure import UnitGroup

if TYPE_CHECKING:
    from companion.detection import LayerReport, UnitReport

__all__ = ["INCOMING", "Edit", "Incoming", "all_or_nothing", "plan"]

Incoming = str | Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
"""How incoming weights are drawn: a rule's name, or a function of the weight's shape."""

INCOMING: dict[str, Callable[[int, int], float]] = {
    "he": lambda fan_in, fan_out: he_std(fan_in),
    "lecun": lambda fan_in, fan_out: lecun_std(fan_in),
    "pytorch": lambda fan_in, fan_out: pytorch_std(fan_in),
    "xavier": xavier_std,
}
"""Standard deviation of fresh weights by the name of the rule; normal, but "pytorch" uniform."""

NORM = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
"""The entry of a batch norm that lets everything pass."""

EQUAL = 1e-12
"""Weights with a standard deviation of this share of their norm are equal but for rounding."""


@dataclass(eq=False)
class Edit:
    """New values for some places of a tensor, along one axis."""

    layer: str
    name: str
    tensor: Any
    axis: int
    places: np.ndarray  # of shape (n_units, k)
    living: np.ndarray  # those of the living units
    now: str
    value: float = 0.0
    values: Tensor | None = None  # instead of one value, of the shape of those places
    draw: Callable[[np.random.Generator], np.ndarray] | None = None  # where they come from
    add: bool = False

    def apply(self) -> None:
        """Write the values; a gradient that waits there is of the old weights, and goes."""
        t = self.tensor
        index = torch.from_numpy(self.places.ravel()).to(t.device)
        if self.values is None:
            t.index_fill_(self.axis, index, self.value)
        elif self.add:
            t.index_add_(self.axis, index, self.values.to(t))
        else:
            t.index_copy_(self.axis, index, self.values.to(t))
        if t.grad is not None and not self.add:
            t.grad.index_fill_(self.axis, index, 0)


def plan(report: UnitReport, chosen: Chosen, incoming: Incoming | None) -> list[Edit]:
    """List what is to be written: constants to biases, then rows and norms, columns at last."""
    stages = [_of_group(group, report[group.name], index, incoming) for group, index in chosen]
    return [edit for stage in zip(*stages, strict=True) for edits in stage for edit in edits]


def _of_group(
    group: UnitGroup, layer: LayerReport, index: np.ndarray, incoming: Incoming | None
) -> tuple[list[Edit], list[Edit], list[Edit]]:
    n, name, module = group.n_units, group.name, group.module
    rest = np.setdiff1d(np.arange(n), index)
    living = rest if layer.dead[rest].all() else rest[~layer.dead[rest]]
    rows, living_rows = index[:, None], living[:, None]
    now, draw = _fresh(module.weight.detach(), index, living, incoming)
    made = [
        Edit(name, f"{group.producer}.weight", module.weight, 0, rows, living_rows, now, draw=draw)
    ]
    if module.bias is not None:
        bias = f"{group.producer}.bias"
        made.append(Edit(name, bias, module.bias, 0, rows, living_rows, "zero"))
    for norm in group.norms:
        entries, others = norm.places(index, n), norm.places(living, n)
        for attribute, value in NORM.items():
            tensor, word = getattr(norm.module, attribute), "one" if value else "zero"
            if tensor is not None:
                full = f"{norm.name}.{attribute}"
                made.append(Edit(name, full, tensor, 0, entries, others, word, value))
    folded, zeroed = [], []
    for reader, columns, added in folds(group, layer, index):
        weight, bias = f"{reader.name}.weight", reader.module.bias
        others = reader.places(living, n)
        zeroed.append(Edit(name, weight, reader.module.weight, 1, columns, others, "zero"))
        if added is None:
            continue
        if bias is None:
            raise ValueError(
                f"cannot touch the units of {name!r}: they put out constants, and {reader.name} "
                "has no bias to take them over. Nothing was changed; skip= leaves layers out"
            )
        every = np.arange(len(bias))[:, None]
        folded.append(
            Edit(
                name, f"{reader.name}.bias", bias, 0, every, every[:0], "plus constants",
                values=added, add=True,
            )
        )  # fmt: skip
    return folded, made, zeroed


def _fresh(
    weight: Tensor, index: np.ndarray, living: np.ndarray, rule: Incoming | None
) -> tuple[str, Callable[[np.random.Generator], np.ndarray]]:
    """Say how incoming weights are drawn, and return what draws them."""
    shape = tuple(weight.shape)
    if not (rule is None or isinstance(rule, str)):
        made_by = rule

        def call(rng: np.random.Generator) -> np.ndarray:
            drawn = np.asarray(made_by(shape, rng), dtype=float)
            if drawn.shape != shape or not np.isfinite(drawn).all():
                raise ValueError(
                    f"incoming must return finite weights of shape {shape}, not of {drawn.shape}"
                )
            return np.asarray(drawn[index])

        return f"drawn by {getattr(rule, '__name__', 'incoming')}", call
    std = math.nan
    if rule is None:
        others = weight[torch.from_numpy(living).to(weight.device)].double()
        std = float(others.std()) if others.numel() > 1 else math.nan
        if std <= EQUAL * float(others.norm()):  # of equal weights, it is rounding
            std = 0.0
    make = normal
    if not 0 < std < math.inf:
        rule = rule or "pytorch"
        std, make = INCOMING[rule](*fans(shape)), uniform if rule == "pytorch" else normal
    return f"{make.__name__}, std {std:.3g}", lambda rng: make(
        (len(index), *shape[1:]), rng, std, np.float64
    )


@contextmanager
def all_or_nothing(edits: list[Edit], optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Give back the tensors and the optimizer's state as they were if an exception comes."""
    tensors: dict[Any, Tensor] = {e.tensor: e.tensor.detach().clone() for e in edits}
    gradients = {t: t.grad.clone() for t in tensors if t.grad is not None}
    memory: Any = {} if optimizer is None else optimizer.state
    states = {
        t: {k: v.clone() if isinstance(v, Tensor) else v for k, v in memory[t].items()}
        for t in tensors
        if t in memory
    }
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in tensors.items():
                tensor.copy_(value)
            for tensor, value in gradients.items():
                tensor.grad.copy_(value)
        for tensor, state in states.items():
            memory[tensor].update(state)
        raise


def own_parameters(edits: list[Edit]) -> dict[str, nn.Parameter]:
    """Parameters among what is written, by name."""
    return {e.name: e.tensor for e in edits if isinstance(e.tensor, nn.Parameter)}
