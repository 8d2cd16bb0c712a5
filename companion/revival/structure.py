"""What `unit_groups` finds: the layer that makes units, and the layers that read them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Reader", "RefusalError", "UnitGroup", "UnitGroups", "constant_at"]


class RefusalError(Exception):
    """Why units cannot be reset or removed."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer, or a batch norm on the way to it, that reads the outputs of an activation."""

    name: str  #: as in `model.named_modules()`
    module: Any  #: a linear layer, a convolution, or a batch norm
    channels_first: bool  #: unit i has the places i·k ... i·k + k - 1; else i, i + n, i + 2n, ...
    way: tuple[Any, ...]  #: what happens to a constant before: batch norms, or why it is lost

    @property
    def size(self) -> int:
        """Places that the layer reads."""
        for attribute in ("in_features", "in_channels"):
            if hasattr(self.module, attribute):
                return int(getattr(self.module, attribute))
        return int(self.module.num_features)

    def places(self, units: np.ndarray, n_units: int) -> np.ndarray:
        """Columns (or entries) that read each of the units, of shape (len(units), k)."""
        k = self.size // n_units
        units = np.asarray(units)[:, None]
        return units * k + np.arange(k) if self.channels_first else units + n_units * np.arange(k)


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The units of one activation, or why they cannot be touched."""

    name: str  #: the activation, as in the report
    n_units: int
    producer: str = ""  #: the layer whose rows make the units
    module: Any = None  #: that layer
    before: tuple[Reader, ...] = ()  #: batch norms between that layer and the activation
    direct: bool = True  #: nothing pools between them
    after: tuple[Reader, ...] = ()  #: batch norms behind the activation
    readers: tuple[Reader, ...] = ()  #: the layers whose columns read the units
    masks: tuple[Any, ...] = ()  #: dropout layers of the book's own, which keep a mask
    fixed: bool = False  #: the model reshapes their outputs by numbers, which a prune would upset
    activation: Any = None  #: its module; None of a function
    problem: str = ""

    @property
    def norms(self) -> tuple[Reader, ...]:
        """All batch norms that have an entry for each unit."""
        return self.before + self.after

    @property
    def reads(self) -> list[str]:
        """Names of all that reads the units, or is read on the way to them."""
        return [reader.name for reader in (*self.norms, *self.readers)]


@dataclass(frozen=True, eq=False)
class UnitGroups:
    """What `unit_groups` returns; it prints as a table."""

    groups: tuple[UnitGroup, ...]  #: in the order of the report

    def __iter__(self) -> Iterator[UnitGroup]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, name: str) -> UnitGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def __str__(self) -> str:
        rows = [("activation", "units", "made by", "batch norm", "read by")]
        for group in self.groups:
            norms = ", ".join(norm.name for norm in group.norms)
            readers = ", ".join(
                f"{reader.name} ({reader.size // group.n_units} each)" for reader in group.readers
            )
            made = (group.producer, norms, readers)
            end = (f"cannot be touched: {group.problem}", "", "") if group.problem else made
            rows.append((group.name, str(group.n_units), *end))
        short = [row for row in rows if not row[2].startswith("cannot")]
        widths = [max(len(row[i]) for row in (rows if i < 2 else short)) for i in range(5)]
        lines = ("  ".join(f"{cell:{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows)
        return "\n".join(line.rstrip() for line in lines)


def constant_at(reader: Reader, values: Tensor, units: np.ndarray, n_units: int) -> Tensor:
    """Follow constant outputs, of shape (len(units),), to a reader: of shape (len(units), k).

    Raises a `RefusalError` if they are not zero and don't stay constant.
    """
    found = values[:, None]
    for link in reader.way:
        if isinstance(link, str):
            if bool((found != 0).any()):
                raise RefusalError(
                    f"units give a constant other than zero, and {link}, so that no bias can take "
                    "it over"
                )
            continue
        places = torch.from_numpy(link.places(units, n_units))
        norm = link.module
        found = found.expand(len(units), max(found.shape[1], places.shape[1]))
        if norm.running_mean is not None:
            mean, var = _entries(places, norm.running_mean, norm.running_var)
            found = (found - mean) / torch.sqrt(var + norm.eps)
        else:
            found = torch.zeros_like(found)
        if norm.weight is not None:
            gamma, beta = _entries(places, norm.weight, norm.bias)
            found = gamma * found + beta
    return found.expand(len(units), reader.size // n_units)


def _entries(places: Tensor, *tensors: Tensor) -> Iterator[Tensor]:
    return (tensor.detach().cpu().double()[places] for tensor in tensors)
