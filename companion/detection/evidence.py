"""What stands before each activation of a model, and what it does to the activation's input.

PyTorch is imported where it is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from companion.detection.rounding import tied
from companion.detection.rules import module_rule
from companion.detection.session import bare
from companion.untouched import untouched

if TYPE_CHECKING:
    from torch import Tensor, nn

    from companion.detection.report import UnitReport

__all__ = ["Evidence", "examine"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """The layer before an activation; what was not seen is None, or NaN."""

    layer: str  #: its name
    first: bool  #: whether it is the model's first
    scale: float  #: standard deviation of its weights over that of He's rule
    norms: np.ndarray  #: length of each unit's incoming weights
    fan: np.ndarray  #: their sum over the places of a kernel, one row per unit
    bias: np.ndarray | None = None  #: one per unit
    norm: str = ""  #: name of a norm between layer and activation
    beta: np.ndarray | None = None  #: the norm's shift
    gamma: np.ndarray | None = None  #: the norm's scale
    offset: float = math.nan  #: share of the mean square of the layer's inputs that is their mean's
    mean_part: np.ndarray | None = None  #: what the mean of the layer's inputs adds to each unit
    fires_centred: np.ndarray | None = None  #: units that a sample turns on if inputs are centred
    fires_unbiased: np.ndarray | None = None  #: units that a sample turns on without biases


@dataclass(eq=False)
class _Call:
    """A module that was called, or would be: a layer, a norm or an activation."""

    kind: str
    name: str
    module: nn.Module
    x: Tensor | None = None
    z: Tensor | None = None
    norms: list[_Call] = field(default_factory=list)


def examine(report: UnitReport, model: nn.Module, inputs: Any = None) -> dict[str, Evidence]:
    """Find the layer before each activation of the report, and what it does.

    Without `inputs`, the order in which modules were registered decides; with them the model is run
    on them once, in evaluation mode, and what it holds stays as it was.

    Raises
    ------
    TypeError, ValueError
        If the report is not of this model, or an argument does not fit.
    """
    model = bare(model)
    _refuse_others(report, model)
    calls = _registered(model) if inputs is None else _called(model, inputs)
    layers = [call for call in calls if call.kind == "layer"]
    found: dict[str, Evidence] = {}
    last = -1  # place of the layer that was matched last
    for part in report.layers:
        n_units = len(part.dead)
        source = _before(calls, part.name, n_units)
        if source is None and "()" in part.name:  # a function: the next layer of that size
            later = [call for call in layers[last + 1 :] if _units(call.module) == n_units]
            source = later[0] if later else None
        if source is not None:
            last = layers.index(source)
            evidence = _evidence(source, first=source is layers[0])
            found |= {part.name: evidence} if evidence is not None else {}
    return found


def _refuse_others(report: UnitReport, model: nn.Module) -> None:
    """Raise ValueError if a report cannot be of this model."""
    modules = dict(model.named_modules())
    for part in report.layers:
        path = _path(part.name)
        if path not in modules and path != type(model).__name__:
            raise ValueError(f"report must be of this model, which has no module {path!r}")
        rule = None if "()" in part.name or path not in modules else module_rule(modules[path])
        if rule is not None and rule.kind != part.activation:
            raise ValueError(
                f"report must be of this model, where {part.name!r} is {rule.kind}, not "
                f"{part.activation}"
            )
        n_units = _units_before(model, part.name)
        if n_units not in (0, len(part)):
            raise ValueError(
                f"report must be of this model: {part.name!r} has {len(part)} units in the report "
                f"and {n_units} in the model"
            )


def _units_before(model: nn.Module, name: str) -> int:
    """Units of what stands right before an activation in an `nn.Sequential`; 0 if unknown."""
    from torch import nn

    parent, _, child = name.rpartition(".")
    beside = dict(model.named_modules()).get(parent)
    if not isinstance(beside, nn.Sequential) or child not in dict(beside.named_children()):
        return 0  # a function, a second call, or not in a row of modules
    before: list[nn.Module] = []
    for other, module in beside.named_children():
        if other == child:
            break
        before.append(module)
    while before and (_kind(before[-1]) == "norm" or isinstance(before[-1], nn.Dropout)):
        before.pop()
    return _units(before[-1]) if before else 0


def _path(name: str) -> str:
    """Path of the module that a report's layer belongs to: of "a.relu() (2)" it is "a"."""
    name = re.sub(r" \(\d+\)$", "", name)
    return re.sub(r"(^|\.)\w+\(\)$", "", name)


def _units(module: nn.Module) -> int:
    """Units of a linear layer or convolution; of anything else 0."""
    return int(getattr(module, "out_features", 0) or getattr(module, "out_channels", 0) or 0)


def _kind(module: nn.Module) -> str:
    if _units(module) and getattr(module, "weight", None) is not None:
        return "layer"
    return "norm" if "Norm" in type(module).__name__ else "other"


def _registered(model: nn.Module) -> list[_Call]:
    return [_Call(_kind(m), name, m) for name, m in model.named_modules() if not _holds_others(m)]


def _holds_others(module: nn.Module) -> bool:
    return _kind(module) == "other" and next(module.children(), None) is not None


def _called(model: nn.Module, inputs: Any) -> list[_Call]:
    """Run the model once; list its modules in the order of their calls, with inputs and outputs."""
    import torch

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(1))
    x = inputs if torch.is_tensor(inputs) else torch.as_tensor(np.array(inputs))
    x = x.detach().to(like.device, like.dtype if x.is_floating_point() else x.dtype)
    if not x.ndim or not len(x):
        raise ValueError("inputs must hold one sample at least, along the first axis")
    if not bool(x.isfinite().all()):
        raise ValueError("inputs must be finite, but hold NaN or infinity")
    calls: list[_Call] = []
    count: dict[str, int] = {}

    def note(name: str, module: nn.Module, given: Any, output: Any = None, /) -> None:
        x, z = (
            t.detach().clone() if isinstance(t, torch.Tensor) else None
            for t in ((given[0] if given else None), output)
        )
        count[name] = count.get(name, 0) + 1
        called = name if count[name] == 1 else f"{name} ({count[name]})"
        calls.append(_Call(_kind(module), called, module, x, z))

    with untouched(model), ExitStack() as hooks, torch.no_grad():
        model.eval()
        for name, module in model.named_modules():
            if _holds_others(module):
                continue
            add: Callable[..., Any] = module.register_forward_pre_hook
            if _kind(module) != "other":
                add = module.register_forward_hook
            hooks.callback(add(partial(note, name)).remove)
        model(x)
    return calls


def _before(calls: list[_Call], name: str, n_units: int) -> _Call | None:
    """Find the layer whose output, perhaps through norms, is the input of the named activation."""
    import torch

    place = next((i for i, c in enumerate(calls) if c.name == name and c.kind == "other"), 0)
    norms: list[_Call] = []
    for call in reversed(calls[:place]):
        if call.kind == "norm":
            norms.append(call)
        elif call.kind == "layer" and _units(call.module) == n_units:
            arrives, leaves = calls[place].x, (norms[0] if norms else call).z
            if arrives is not None and leaves is not None:
                same = arrives.numel() == leaves.numel()
                if not same or not torch.equal(arrives.ravel(), leaves.ravel()):
                    return None  # something else is added on the way, as in a residual net
            call.norms = norms
            return call
        elif call.kind == "layer":
            return None
    return None


def _evidence(call: _Call, first: bool) -> Evidence | None:
    """Read the parameters, and where there are inputs, try the layer without mean and biases."""
    import torch

    layer: Any = call.module
    with torch.no_grad():
        weight = layer.weight.detach().double()
        if "Transpose" in type(layer).__name__:
            weight = weight.transpose(0, 1)
        if len(weight) != _units(layer):
            return None  # a transposed convolution in groups
        sums = weight.flatten(2).sum(dim=2) if weight.ndim > 2 else weight
        seen: dict[str, Any] = {"bias": _array(layer.bias)}
        if call.norms:
            norm: Any = call.norms[0].module
            seen["norm"] = call.norms[0].name
            pair = [_array(getattr(norm, name, None)) for name in ("bias", "weight")]
            if all(t is not None and t.shape == (len(weight),) for t in pair):
                seen["beta"], seen["gamma"] = pair
        elif call.x is not None and call.z is not None and call.x.is_floating_point():
            seen |= _tried(layer, call.x, call.z)
    scale = float(weight.std(correction=0)) / math.sqrt(2 / weight[0].numel())
    return Evidence(
        call.name, first, scale, _array(weight.flatten(1).norm(dim=1)), _array(sums), **seen
    )


def _tried(layer: Any, x: Tensor, z: Tensor) -> dict[str, Any]:
    """Run a layer on centred inputs, on their mean alone, and without its biases.

    What is as small as the rounding of its parts counts as 0: inputs that do not vary, less their
    mean, leave a sum whose sign the processor decides.
    """
    axis = z.ndim - 1 - (layer.weight.ndim - 2)
    if axis < 1:
        return {}  # there are no samples
    mean = x.mean(dim=0, keepdim=True)
    others = [i for i in range(z.ndim) if i != axis]
    bias = z.new_zeros(z.shape[axis]) if layer.bias is None else layer.bias
    bias = bias.reshape([-1 if i == axis else 1 for i in range(z.ndim)])
    noise = tied(z.dtype) * ((z - bias).abs() + bias.abs()).amax(dim=others)
    mean_part = (layer.forward(mean) - bias).mean(dim=others)
    return {
        "offset": float(mean.square().mean() / x.square().mean().clamp_min(1e-30)),
        "mean_part": _array(mean_part.where(mean_part.abs() > noise, 0.0)),
        "fires_centred": _array(layer.forward(x - mean).amax(dim=others) > noise),
        "fires_unbiased": _array((z - bias).amax(dim=others) > noise),
    }


def _array(t: Tensor | None) -> Any:
    """Take a tensor to NumPy, floats in double precision; None stays."""
    if t is None:
        return None
    found = t.detach().cpu()
    return np.asarray(found.double() if found.is_floating_point() else found)
