"""What is seen of a model beside its units: the layers that make them, and what these receive.

PyTorch is imported where it is needed.
"""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.detection.rounding import tied
from companion.detection.rules import module_rule
from companion.detection.session import bare
from companion.untouched import taken, untouched

if TYPE_CHECKING:
    from torch import Tensor, nn

    from companion.detection.report import LayerReport, UnitReport

__all__ = ["Source", "examine"]


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
) -> tuple[dict[str, Source], float]:
    """Find the layer before each activation; with inputs, run the model on them once.

    Also return which share of the inputs' mean square is that of their mean; NaN if not known.

    Raises
    ------
    TypeError, ValueError
        If the report is not of this model, or an argument does not fit.
    """
    model = bare(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    names = {part.name: _layer(modules, model, part) for part in report.layers}
    given = {} if inputs is None else _inputs(model, inputs, set(names.values()) - {""})
    sources = {
        name: _source(modules, layer, given.get(layer)) for name, layer in names.items() if layer
    }
    return sources, _offset(given[""]) if "" in given else math.nan


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
    if name and _units(modules.get(name)) != len(part):
        raise ValueError(
            f"report must be of this model: {part.name!r} has {len(part)} units in the report, "
            f"{name!r} {_units(modules.get(name))} in the model"
        )
    return name


def _units(module: Any) -> int:
    """Units of a linear layer or convolution; of anything else 0."""
    n = getattr(module, "out_features", None) or getattr(module, "out_channels", None)
    weight = getattr(module, "weight", None)
    return n if isinstance(n, int) and getattr(weight, "ndim", 0) > 1 else 0


def _inputs(model: nn.Module, inputs: Any, layers: set[str]) -> dict[str, Tensor]:
    """Run the model; return what each of these layers receives at first, and "" the model."""
    import torch

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(1))
    try:
        x = inputs if torch.is_tensor(inputs) else torch.as_tensor(np.array(inputs))
    except (TypeError, ValueError) as error:
        raise TypeError(f"inputs must be an array of numbers: {error}") from None
    x = x.detach().to(like.device, like.dtype if x.is_floating_point() else x.dtype)
    if not x.ndim or not len(x):
        raise ValueError("inputs must hold one sample at least, along the first axis")
    if not bool(x.isfinite().all()):
        raise ValueError("inputs must be finite, but hold NaN or infinity")
    given = {"": x} if x.is_floating_point() else {}

    def note(name: str, module: nn.Module, args: Any) -> None:
        if args and torch.is_tensor(args[0]) and args[0].is_floating_point():
            given.setdefault(name, args[0].detach().clone())

    with untouched(model), ExitStack() as hooks, torch.no_grad():
        model.eval()
        for name in layers:
            handle = model.get_submodule(name).register_forward_pre_hook(partial(note, name))
            hooks.callback(handle.remove)
        with taken("inputs", x):
            model(x)
    return given


def _source(modules: dict[str, nn.Module], name: str, x: Tensor | None) -> Source:
    """Read the parameters of a layer and of the norm behind it, and look at its inputs."""
    layer: Any = modules[name]
    weight = layer.weight.detach().double()
    fan_in = weight[0].numel()
    if "Transpose" in type(layer).__name__:
        fan_in = weight.numel() // layer.out_channels
    seen: dict[str, Any] = {"bias": _array(layer.bias)}
    behind = [*modules, ""][list(modules).index(name) + 1]
    norm: Any = modules[behind] if "Norm" in type(modules[behind]).__name__ else None
    gamma, beta = (_array(getattr(norm, key, None)) for key in ("weight", "bias"))
    if gamma is not None and gamma.shape == (_units(layer),):
        seen |= {"norm": behind, "beta": beta, "gamma": gamma}
    if x is not None and len(x) > 1:
        same = (x - x[:1]).abs().max() <= tied(x.dtype) * x.abs().max()
        seen |= {"offset": _offset(x), "constant": bool(same)}
    return Source(name, float(weight.std(correction=0)) / math.sqrt(2 / fan_in), **seen)


def _array(t: Tensor | None) -> Any:
    """Take a tensor to NumPy in double precision; None stays."""
    return None if t is None else t.detach().double().cpu().numpy()
