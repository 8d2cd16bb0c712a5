"""Which units to reset or to remove, and what takes over the constants that they put out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.modules.conv import _ConvTransposeNd

from companion.checks import names
from companion.detection.rules import ZERO
from companion.revival.graph import unit_axis, weight_axes
from companion.revival.groups import Reader, UnitGroup, find_groups
from companion.revival.probing import Probe, tensors

if TYPE_CHECKING:
    from companion.detection import LayerReport, UnitReport

__all__ = ["Chosen", "Constants", "choose"]

Chosen = dict[str, np.ndarray]
"""Units by the activation's name."""

ROUNDING = 4
"""Of so many last digits of a sum, nothing is told."""


def choose(
    probe: Probe,
    report: UnitReport,
    *,
    tau: float = 0.0,
    units: Mapping[str, ArrayLike] | None = None,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    to_prune: bool = False,
) -> tuple[Chosen, dict[str, str], Constants]:
    """Choose units to reset, or to prune, and tell by name which are left and why.

    What is pruned may be frozen, and what read it may get a bias. Raises a ValueError if one that
    was asked for by its name cannot be touched.
    """
    for argument, given in (("layers", layers), ("skip", skip), ("units", units)):
        names(argument, () if given is None else given, report.names)
    wanted = {
        layer.name: _wanted(layer, tau, units)
        for layer in report.layers
        if layer.name not in skip and (layers is None or layer.name in layers)
    }
    groups = {group.name: group for group in find_groups(probe, report)}
    constants = Constants(probe, report, groups, makes_bias=to_prune)
    chosen: Chosen = {}
    left: dict[str, str] = {}
    for name, index in wanted.items():
        problem = groups[name].problem
        if report[name].nan.any():
            problem = f"{int(report[name].nan.sum())} units gave NaN or infinity"
        elif not (problem or to_prune):
            problem = _frozen(groups[name])
        if len(index) and not problem:
            vary = constants.vary(name, index)
            for reason in vary.values():  # the last one stands for all
                problem = f"{len(vary)} of {len(index)} units: {reason}"
            index = np.setdiff1d(index, [*vary])
            if len(index):
                chosen[name] = index
        if problem and (len(wanted[name]) or report[name].nan.any()):
            left[name] = problem
    refuse(left, units, layers)
    return chosen, left, constants


def without_harm(chosen: Chosen, problem: Callable[[Chosen], str], left: dict[str, str]) -> Chosen:
    """Take all layers if there is no problem; else one after the other, and note what is left."""
    if not problem(chosen):
        return chosen
    found: Chosen = {}
    for name, index in chosen.items():
        if why := problem(found | {name: index}):
            left[name] = why
        else:
            found[name] = index
    return found


def refuse(left: Mapping[str, str], *asked: Iterable[str] | None) -> None:
    """Raise an error if something was asked for that cannot be done."""
    named = {name for given in asked for name in given or ()}
    problems = "; of ".join(f"{name!r}: {why}" for name, why in left.items() if name in named)
    if problems:
        raise ValueError(f"cannot touch the units of {problems}. Nothing was changed")


def _frozen(group: UnitGroup) -> str:
    makers = (*group.makers, *group.after)
    learn = [(part, own) for part in makers for own in ("weight", "bias")]
    learn += [(reader, "weight") for reader in group.readers]
    parameters = {f"{part.name}.{own}": getattr(part.module, own) for part, own in learn}
    frozen = [name for name, p in parameters.items() if p is not None and not p.requires_grad]
    return f"frozen parameters could not learn again: {', '.join(frozen)}" if frozen else ""


def _wanted(layer: LayerReport, tau: float, units: Mapping[str, ArrayLike] | None) -> np.ndarray:
    if units is None:
        return np.flatnonzero(layer.dead | (layer.score <= tau if tau > 0 else False))
    index = np.asarray(units.get(layer.name, ()))
    if index.size and (index.dtype.kind not in "iu" or index.ndim != 1):
        raise TypeError(f"units must hold lists of whole numbers, not {units[layer.name]!r}")
    index = np.unique(index.astype(int))
    if len(index) and not 0 <= index[0] <= index[-1] < len(layer):
        raise ValueError(
            f"units must be from 0 to {len(layer) - 1} in {layer.name!r}, not {index.tolist()}"
        )
    return index


class Constants:
    """What readers get of units that put out constants, as seen on the example."""

    def __init__(
        self, probe: Probe, report: UnitReport, groups: dict[str, UnitGroup], makes_bias: bool
    ) -> None:
        self.groups, self.report, self.makes_bias = groups, report, makes_bias
        self.low: dict[str, Tensor] = {}
        self.high: dict[str, Tensor] = {}
        self.limit: dict[str, Tensor] = {}  # what is rounding of a reader's outputs
        readers = {r.name for g in groups.values() if not g.problem for r in g.readers}

        def look(module: Any, args: Any, kwargs: Any) -> None:
            x, name = tensors([*args, *kwargs.values()])[0].detach(), paths[module]
            x = x.transpose(0, unit_axis(module, x)).flatten(1).double()
            self.low[name], self.high[name] = x.amin(1).cpu(), x.amax(1).cpu()
            eps = torch.finfo(module.weight.dtype).eps
            size = _columns(module, None).abs().sum(2) @ x.abs().mean(1).to(module.weight)
            self.limit[name] = ROUNDING * eps * size.double().cpu()

        model = probe.copy()
        paths = {model.get_submodule(name): name for name in readers}
        for module in paths:
            module.register_forward_pre_hook(look, with_kwargs=True)
        probe.outputs(model)

    def vary(self, name: str, index: np.ndarray) -> dict[int, str]:
        """Tell which of the dead units among these no constant can stand for, and why."""
        found: dict[int, str] = {}
        dead = index[self.report[name].dead[index]]
        for reader in self.groups[name].readers if len(dead) else ():
            low, high = self._ends(name, reader, dead)
            limit = self.limit[reader.name][:, None]
            size = _columns(reader.module, reader.places[dead]).abs().sum(2).double().cpu()
            size = size.unflatten(1, low.shape)  # (outputs, units, places)
            moves = ((size * (high - low)).amax(2) > limit).any(0).numpy()
            told = ((size * low.abs()).amax(2) > limit).any(0).numpy()
            if reader.factors:  # where the example holds a factor still, other data may move it
                moves |= (size.amax((0, 2)) > 0).numpy() & ~self._zero(reader.factors, name, dead)
            for unit in dead[moves]:
                found[int(unit)] = f"what {reader.name} reads there varies"
            if pads(reader.module):
                problem = f"they put out constants, and {reader.name} pads with zeros"
            elif reader.module.bias is None and not self.makes_bias:
                problem = f"they put out constants, and {reader.name} has no bias for them"
            else:
                continue
            for unit in dead[told & ~moves]:
                found[int(unit)] = problem
        return found

    def _zero(self, factors: frozenset[str], name: str, units: np.ndarray) -> np.ndarray:
        """Tell at which units a factor of a product was zero throughout the report."""
        zero = np.zeros(len(units), bool)
        for layer in self.report:
            if layer.made_by in factors and len(layer) == len(self.report[name]):
                size = np.maximum(abs(layer.low), abs(layer.high))[units]
                zero |= layer.dead[units] & (size <= ZERO)
        return zero

    def added(self, chosen: Chosen) -> Iterator[tuple[str, Reader, Tensor]]:
        """Tell what the constants of dead units add to the outputs of their readers, if anything.

        A column that units of two activations share, as where one gates the other, counts once.
        """
        counted: dict[str, set[int]] = defaultdict(set)
        for name, index in chosen.items():
            dead = index[self.report[name].dead[index]]
            for reader in self.groups[name].readers:
                fresh = set(reader.places[dead].ravel().tolist()) - counted[reader.name]
                counted[reader.name] |= fresh
                places = np.array(sorted(fresh), dtype=int)
                columns = _columns(reader.module, places).double().cpu().sum(2)
                found = columns @ self.low[reader.name][places]
                if bool((found.abs() > self.limit[reader.name]).any()):
                    yield name, reader, found

    def _ends(self, name: str, reader: Reader, units: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the least and largest that a reader gets of units, of shape (n_units, k)."""
        layer = self.report[name]
        spread = torch.from_numpy(layer.high - layer.low)[units, None]  # of the whole data set
        for norm in self.groups[name].after:
            gamma, var, places = norm.module.weight, norm.module.running_var, norm.places[units]
            size = torch.zeros(places.shape).double() if var is None else var.double().cpu()[places]
            spread = spread / (size + norm.module.eps).sqrt()
            if gamma is not None:
                spread = spread * gamma.detach().double().cpu()[places].abs()
        places = reader.places[units]
        low, high = self.low[reader.name][places], self.high[reader.name][places]
        return low, torch.maximum(high, low + spread)


def _columns(module: Any, places: np.ndarray | None) -> Tensor:
    """Return columns of a layer's weight, of shape (outputs, columns, kernel); all by default."""
    weight = module.weight.detach()
    weight = weight.transpose(0, weight_axes(module)[0])[..., None].flatten(2)
    if places is None:
        return weight
    return weight[:, torch.from_numpy(places.ravel()).to(weight.device)]


def pads(module: Any) -> bool:
    """Tell if a layer's outputs at the edge do not see what it reads everywhere else."""
    if isinstance(module, _ConvTransposeNd):
        return True
    if getattr(module, "padding_mode", "") != "zeros":
        return False
    if isinstance(module.padding, str):
        return bool(module.padding == "same" and max(module.kernel_size) > 1)
    return any(module.padding)
