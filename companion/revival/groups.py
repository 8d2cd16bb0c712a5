"""Who feeds whom: the layer that makes each unit, and the layers that read it.

Three passes over a model's structure, each of which leaves fewer units to be touched:

- `companion.revival.graph.Graph` runs a copy once and notes what autograd and torch_pruning see.
- `_group` asks it, for each activation of a report, for the layer that makes the units, the norms
  between, and all that has places for them; what it knows to be unsafe becomes a `problem`.
- `_tried` believes none of it. In both modes, and with either half of the units, it sets the
  columns that read them to zero and gives the units other values: if an output moves, something
  else reads them. Groups are tried together, and where that fails by halves, down to the one at
  fault. That one may have been given wrong places: where channels have been flattened, k columns
  belong to each unit, either side by side, as behind ``flatten`` of (channels, positions), or a
  whole row of units apart, as behind one of (positions, channels). Both orders are tried, and
  if neither is right, the units are left.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.revival.graph import (
    LAYERS,
    NORMS,
    Graph,
    RefusalError,
    is_layer,
    unit_axis,
    weight_axes,
)
from companion.revival.probing import ROUNDING, Probe, far, same
from companion.untouched import untouched

if TYPE_CHECKING:
    from companion.detection import LayerReport, UnitReport

__all__ = ["Reader", "UnitGroup", "UnitGroups", "find_groups", "unit_groups"]

CHECKS = [(training, half) for training in (False, True) for half in (0, 1)]
"""Ways to try groups: if in training mode, and which of every two units is disturbed.

The other half goes on working, so that there is much to be disturbed.
"""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that has places for the units: columns if it reads them, else rows or entries."""

    name: str  #: as in `model.named_modules()`
    module: Any
    places: np.ndarray  #: of each unit, of shape (n_units, k)
    #: layers that make what it reads, if not these units alone
    factors: frozenset[str] = frozenset()


@dataclass(frozen=True, eq=False)
class UnitGroup:
    """The units of one activation, or why they cannot be touched."""

    name: str  #: the activation, as in the report
    n_units: int
    producer: str = ""  #: the layer whose rows make the units
    module: Any = None  #: that layer
    before: tuple[Reader, ...] = ()  #: norms between that layer and the activation
    direct: bool = True  #: nothing else stands between them
    after: tuple[Reader, ...] = ()  #: norms behind the activation
    beside: tuple[Reader, ...] = ()  #: what stands and falls with them: gates, depthwise layers
    readers: tuple[Reader, ...] = ()  #: the layers whose columns read the units
    problem: str = ""

    @property
    def makers(self) -> tuple[Reader, ...]:
        """What makes the pre-activations: the layer, and the norms before the activation."""
        return (Reader(self.producer, self.module, np.arange(self.n_units)[:, None]), *self.before)

    @property
    def norms(self) -> tuple[Reader, ...]:
        """All norms that have an entry for each unit."""
        return self.before + self.after


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
            readers = ", ".join(f"{r.name} ({r.places.shape[1]} each)" for r in group.readers)
            end = f"cannot be touched: {group.problem}" if group.problem else readers
            rows.append((group.name, str(group.n_units), group.producer, norms, end))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ("  ".join(f"{cell:{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows)
        return "\n".join(line.rstrip() for line in lines)


def unit_groups(
    model: nn.Module, report: UnitReport, *, example: Any = None, call: Any = None
) -> UnitGroups:
    """Find, for each activation of a report, the layer that makes its units and those that read it.

    Parameters
    ----------
    model : torch.nn.Module
        Stays as it is: copies of it are run.
    report : UnitReport
        Of this model; tells the activations.
    example : Tensor, tuple or dict, optional
        A few inputs to run it on: one, all arguments, or keyword arguments. By default the first
        that the report has seen.
    call : callable, optional
        Runs the model otherwise: ``call(model, example)``.

    Returns
    -------
    UnitGroups
        An activation has a `problem` if its units cannot be touched safely: a residual stream, tied
        or parametrized weights, a layer used twice, convolutions with groups (if not depthwise), a
        norm that mixes units, or anything else that reads them.

    Raises
    ------
    ValueError
        If the report is not of this model, or there is no example.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    The structure is that of torch_pruning's `DependencyGraph`, and then it is tried, in evaluation
    and in training mode: with the units' columns at zero, other values of the units must move no
    output. Taught in the chapter `revival`.

    Examples
    --------
    >>> import torch
    >>> from companion.detection import census
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2),
    ... )
    >>> print(unit_groups(net, census(net, [torch.randn(10, 1, 8, 8)])))
    activation  units  made by  batch norm  read by
    2           4      0        1           5 (9 each)
    6           5      5                    7 (1 each)
    """
    return find_groups(Probe(model, report, example, call), report)


def find_groups(probe: Probe, report: UnitReport) -> UnitGroups:
    """Find the groups of a model that a probe can run."""
    with untouched(probe.model):  # to read a weight under spectral norm moves its buffers
        graph = Graph(probe, report)
        modules = dict(probe.model.named_modules())
        return UnitGroups(_tried(probe, [_group(graph, modules, layer) for layer in report.layers]))


def _group(graph: Graph, modules: dict[str, Any], layer: LayerReport) -> UnitGroup:
    """Find one group by what the graph knows."""
    name, n = layer.name, len(layer)
    path = name.split(" (")[0]
    path = path.rpartition(".")[0] if path.endswith("()") else path
    kind = graph.seen[name][0] if name in graph.seen else ""
    if path == name.split(" (")[0] and isinstance(graph.modules.get(path), LAYERS):
        kind = type(graph.modules[path]).__name__.lower()
    if kind not in ("", layer.activation):  # of an activation of the user's own it is not known
        raise ValueError(f"report is not of this model: {name!r} is {kind}, not {layer.activation}")
    if path not in graph.modules:
        raise ValueError(f"report is not of this model, which has no {name!r}")
    group = UnitGroup(name, n)
    try:
        if graph.problem:
            raise RefusalError(graph.problem)
        if name not in graph.seen and not layer.made_by:
            raise RefusalError("it was not called on the example")
        producer, before, direct = graph.producer(name, layer.made_by)
        module = modules[producer]
        width = module.weight.shape[weight_axes(module)[0]]
        if width > n and not width % n:
            raise RefusalError(f"{producer} makes {width} outputs, of which it takes a part")
        if width != n:
            raise ValueError(
                f"report is not of this model: it has {n} units in {name!r}, but {producer!r} "
                f"makes {width}"
            )
        graph.plain(producer)
        first = tuple(Reader(norm, modules[norm], np.arange(n)[:, None]) for norm in before)
        group = UnitGroup(name, n, producer, module, first, direct)
        return _members(graph, modules, group)
    except RefusalError as error:
        return replace(group, problem=str(error))


def _members(graph: Graph, modules: dict[str, Any], group: UnitGroup) -> UnitGroup:
    """Sort what has places for the units."""
    before, after, readers, beside = [norm.name for norm in group.before], [], [], []
    for name, reads, places in graph.members(group.producer):
        module = modules[name]
        part = Reader(name, module, places)
        if isinstance(module, (NORMS, *LAYERS)):
            graph.plain(name)
        if isinstance(module, NORMS):
            if name not in before:
                after.append(part)
        elif is_layer(module) and reads and getattr(module, "groups", 1) == 1:
            size = module.weight.shape[weight_axes(module)[1]]
            readers.append(replace(part, places=places % size))  # a wrong place is found out
        elif is_layer(module) or isinstance(module, nn.PReLU):
            if name != group.producer:
                beside.append(part)
        else:
            kind = type(module).__name__
            raise RefusalError(f"{name} ({kind}) mixes them, or keeps their number")
    if not readers:
        raise RefusalError("no layer reads them")
    for part in (*after, *beside):
        own: Any = part.module
        n = own.num_features if isinstance(own, NORMS) else own.weight.shape[weight_axes(own)[0]]
        if 1 < n <= part.places.max():  # 1: a PReLU for all
            raise RefusalError(f"{part.name} has entries for them in a way that is not known")
    for i, reader in enumerate(readers):
        factors = graph.joins(reader.name, group.producer, [part.name for part in beside])
        readers[i] = replace(reader, factors=factors)
    return replace(group, after=tuple(after), beside=tuple(beside), readers=tuple(readers))


def _tried(probe: Probe, groups: list[UnitGroup]) -> tuple[UnitGroup, ...]:
    """Try the groups that have no problem yet, and name the problem of those that fail."""
    for check in CHECKS:
        sound = [group for group in groups if not group.problem]
        found = {group.name: group for group in _sorted_out(probe, sound, check)}
        groups = [found.get(group.name, group) for group in groups]
    return tuple(groups)


def _sorted_out(probe: Probe, groups: list[UnitGroup], check: tuple[bool, int]) -> list[UnitGroup]:
    """Check groups all at once and then by halves; one that fails, in other orders of columns."""
    if not groups or _unseen(probe, groups, *check):
        return groups
    if len(groups) > 1:
        half = len(groups) // 2
        return _sorted_out(probe, groups[:half], check) + _sorted_out(probe, groups[half:], check)
    (group,) = groups
    for apart in (False, True):  # a unit's columns are side by side, or a row of units apart
        readers = []
        for reader in group.readers:
            k = reader.module.weight.shape[weight_axes(reader.module)[1]] // group.n_units
            shape = (k, group.n_units) if apart else (group.n_units, k)
            places = np.arange(math.prod(shape)).reshape(shape)
            readers.append(replace(reader, places=places.T if apart else places))
        way = replace(group, readers=tuple(readers))
        if all(_unseen(probe, [way], *each) for each in CHECKS):
            return [way]
    problem = "something else reads its output too, or in a way that is not known"
    return [replace(group, problem=problem)]


def _unseen(probe: Probe, groups: list[UnitGroup], training: bool, half: int) -> bool:
    """Tell if every second unit can take other values, unseen, where its columns are zero."""
    zeroed = probe.copy().train(training)
    with torch.no_grad():
        for group in groups:
            for reader in group.readers:
                weight: Any = zeroed.get_submodule(reader.name).weight
                columns = torch.from_numpy(reader.places[half::2].ravel())
                weight.index_fill_(weight_axes(reader.module)[1], columns.to(weight.device), 0)
    try:
        expected = probe.outputs(copy.deepcopy(zeroed))
    except Exception:  # one sample in a batch norm, or losses without targets
        return training
    called: set[str] = set()
    for group in groups:

        def disturb(module: Any, args: Any, output: Tensor, name: str = group.name) -> Tensor:
            called.add(name)
            axis, output = unit_axis(module, output), output.clone()
            index = torch.arange(half, output.shape[axis], 2, device=output.device)
            part = output.index_select(axis, index)
            noise = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 1.5, part.shape))
            return output.index_copy_(axis, index, part.abs() + noise.to(part))

        zeroed.get_submodule(group.makers[-1].name).register_forward_hook(disturb)
    found = probe.outputs(zeroed)
    limits = [ROUNDING * far(t, t) for t in expected]
    return len(called) == len(groups) and bool(expected) and same(expected, found, limits)
