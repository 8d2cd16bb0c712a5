"""What is seen of a model beside its units: the layers that make them, and what these receive."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from companion.detection.census import as_tensor, caller
from companion.detection.rounding import tied
from companion.detection.rules import module_rule
from companion.detection.session import bare
from companion.untouched import taken, untouched

if TYPE_CHECKING:
    from companion.detection.report import LayerReport, UnitReport

__all__ = ["Source", "examine", "variation"]


@dataclass(frozen=True, eq=False)
class Source:
    """The layer whose rows make the units of an activation; what was not seen is None, or NaN."""

    layer: str  #: its name
    scale: float  #: standard deviation of its weights over that of He's rule
    bias: np.ndarray | None = None  #: one per unit
    norm: str = ""  #: name of the norm behind it
    beta: np.ndarray | None = None  #: the norm's shift
    gamma: np.ndarray | None = None  #: the norm's scale
    offset: float = math.nan  #: share of its inputs' mean square that is their mean's
    constant: bool = False  #: if its inputs are the same for every sample


def examine(
    report: UnitReport, model: nn.Module, inputs: Any = None
) -> tuple[dict[str, Source], float, float]:
    """Find the layer before each activation; with inputs, run the model on them once.

    Also return which share of the inputs' mean square is that of their mean, and the `variation` of
    the model's outputs; NaN if not known.

    Raises
    ------
    TypeError, ValueError
        If the report is not of this model, or an argument does not fit.
    """
    model = bare(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = [_layer(modules, model, part) for part in report.layers]
    given, apart = ({}, math.nan) if inputs is None else _run(model, inputs, {"", *layers})
    sources = {
        part.name: _source(modules, layer, len(part), given.get(layer))
        for part, layer in zip(report.layers, layers, strict=True)
        if layer
    }
    return sources, _offset(given[""]) if "" in given else math.nan, apart


def variation(output: Any) -> float:
    """Return how far a model's outputs lie apart over the samples, relative to the largest number.

    NaN if there is but one sample, no output of real numbers, or one that is not finite.
    """
    found = [math.nan]
    for part in tree_leaves(output):
        if torch.is_tensor(part) and part.is_floating_point() and part.ndim and len(part) > 1:
            part = part.detach()
            size = float(part.abs().max())
            found.append(float((part - part[:1]).abs().max()) / size if size else 0.0)
    return float(np.nanmax(found)) if np.isfinite(found[1:]).any() else math.nan


def _offset(x: Tensor) -> float:
    """Return which share of the mean square of inputs is that of their mean over the samples."""
    x = x.double()
    square = float(x.square().mean())
    return 1 - float(x.var(dim=0).mean()) / square if len(x) > 1 and square else math.nan


def _layer(modules: dict[str, nn.Module], model: nn.Module, part: LayerReport) -> str:
    """Name the layer that makes the units of an activation; "" if it is not known."""
    path = re.sub(r"(^|\.)\w+\(\)$", "", re.sub(r" \(\d+\)$", "", part.name))
    if path not in modules and path != type(model).__name__:
        raise ValueError(f"report must be of this model, which has no module {path!r}")
    rule = module_rule(modules[path]) if path in modules and "()" not in part.name else None
    if rule is not None and rule.kind != part.activation:
        raise ValueError(
            f"report must be of this model, where {part.name!r} is {rule.kind}, not "
            f"{part.activation}"
        )
    name = part.made_by
    layer: Any = modules.get(name)
    shape = tuple(getattr(getattr(layer, "weight", None), "shape", ()))
    if name and len(part) not in (*shape, getattr(layer, "out_channels", 0)):
        raise ValueError(
            f"report must be of this model: {part.name!r} has {len(part)} units in the report, "
            f"and the weight of {name!r} is of shape {shape}"
        )
    return name


def _run(model: nn.Module, inputs: Any, layers: set[str]) -> tuple[dict[str, Tensor], float]:
    """Run the model; return what each of these layers receives at first, and "" the model.

    Also return the `variation` of its outputs.
    """
    given: dict[str, Tensor] = {}
    if not isinstance(inputs, Mapping):  # as tokenizers make them
        try:
            inputs = as_tensor("inputs", inputs)
        except TypeError as error:
            what = "one batch of what the model takes, an array, a tensor or a dict"
            raise TypeError(f"inputs must be {what}, not {type(inputs).__name__}") from error
        if not inputs.ndim or not len(inputs):
            raise ValueError("inputs must hold one sample at least, along the first axis")

    def note(name: str, module: nn.Module, args: Any) -> None:
        if args and torch.is_tensor(args[0]) and args[0].is_floating_point():
            given.setdefault(name, args[0].detach().clone())

    with untouched(model), ExitStack() as hooks, torch.no_grad():
        model.eval()
        for name in layers:
            handle = model.get_submodule(name).register_forward_pre_hook(partial(note, name))
            hooks.callback(handle.remove)
        with taken("inputs", inputs):
            output = caller("inputs", model)(model, inputs)
    return given, variation(output)


def _source(modules: dict[str, nn.Module], name: str, n_units: int, x: Tensor | None) -> Source:
    """Read the parameters of a layer and of the norm behind it, and look at its inputs."""
    layer: Any = modules[name]
    weight = layer.weight.detach().double()
    fan_in = weight.numel() / n_units
    seen: dict[str, Any] = {"bias": _array(getattr(layer, "bias", None))}
    behind = [*modules, ""][list(modules).index(name) + 1]
    norm: Any = modules[behind] if "Norm" in type(modules[behind]).__name__ else None
    gamma, beta = (_array(getattr(norm, key, None)) for key in ("weight", "bias"))
    if gamma is not None and gamma.shape == (n_units,):
        seen |= {"norm": behind, "beta": beta, "gamma": gamma}
    if x is not None and len(x) > 1:
        same = (x - x[:1]).abs().max() <= tied(x.dtype) * x.abs().max()
        seen |= {"offset": _offset(x), "constant": bool(same)}
    return Source(name, float(weight.std(correction=0)) / math.sqrt(2 / fan_in), **seen)


def _array(t: Tensor | None) -> Any:
    """Take a tensor to NumPy in double precision; None stays."""
    return None if t is None else t.detach().double().cpu().numpy()
