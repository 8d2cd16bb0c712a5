"""How each activation is judged: which values have a derivative, and which piece they lie on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from companion.activations import Activation

__all__ = ["FLAT", "ZERO", "Rule", "custom_rule", "module_rule"]

ZERO = 1e-6
"""A smooth activation's derivative of at most this size counts as none."""
FLAT = 0.01
"""A unit whose derivative never exceeds this is saturated."""


Counts = dict[str, Tensor]
"""Ones where the derivative is not zero ("active"), where it is more than `FLAT` in size ("steep",
by default where it is not zero), and on the upper piece ("upper", by default where it is steep)."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One activation: for a piecewise linear one its pieces, for a smooth one its function."""

    kind: str  #: such as "relu"
    count: Callable[[Tensor, Tensor], Counts]  #: from z and h
    everywhere: tuple[str, ...] = ()  #: what needs no counting because it is so at every value
    nonnegative: bool = False  #: if |h| is h
    piecewise: bool = False
    by_output: bool = False  #: if `count` needs h alone, so that working in place does no harm
    custom: bool = False  #: if it is a user's own, which may work in place without saying so


def above(t: Tensor, level: float | Tensor) -> Tensor:
    """One where t is greater, zero elsewhere: comparing and converting costs four times more."""
    return (t - level).sign_().clamp_(min=0)


def wide(t: Tensor) -> Tensor:
    """Give single precision to what has half: bfloat16 cannot count to 257."""
    return t.float() if t.dtype in {torch.float16, torch.bfloat16} else t


def rounded(level: float, t: Tensor) -> Tensor:
    """Give a level the precision of t: what is clamped at 0.1 in float16 is less than 0.1."""
    return torch.full((), level, dtype=t.dtype, device=t.device)


def _relu(z: Tensor, h: Tensor) -> Counts:
    return {"active": h.sign()}


def _leaky(slope: float | Tensor, z: Tensor, h: Tensor) -> Counts:
    upper = z.sign().clamp_(min=0)
    if isinstance(slope, Tensor):  # PReLU's: on the device, and perhaps one per channel
        slope = slope.detach().to(z.dtype).abs()
        slope = slope if slope.numel() == 1 else slope.view(-1, *[1] * (z.ndim - 2))
        lower = 1 - upper
        steep = upper + lower * above(slope, rounded(FLAT, slope))
        active = upper + lower * slope.sign()
        return {"active": active, "steep": steep, "upper": upper}
    return {"active" if slope == 0 else "steep" if abs(slope) <= FLAT else "upper": upper}


def _between(low: float, high: float, z: Tensor, h: Tensor) -> Counts:
    return {"active": above(h, rounded(low, h)) * above(-h, rounded(-high, h))}


def _threshold(level: float, z: Tensor, h: Tensor) -> Counts:
    return {"active": above(wide(z), level)}  # which PyTorch does not round


def _shrink(z: Tensor, h: Tensor) -> Counts:
    return {"active": h.sign().abs_(), "upper": h.sign().clamp_(min=0)}


def _identity(z: Tensor, h: Tensor) -> Counts:
    return {}


def _smooth(function: Callable[[Tensor], Any], z: Tensor, h: Tensor) -> Counts:
    """The derivative by autograd: exact, and right for any elementwise function."""
    if torch.compiler.is_compiling():  # autograd.grad would break the graph
        pull = torch.func.vjp(function, z)[1]
        slope = pull(torch.ones_like(z))[0].abs()
        return {"active": above(slope, ZERO), "steep": above(slope, FLAT)}
    with torch.inference_mode(False), torch.enable_grad():
        leaf = z.clone().requires_grad_()
        output = function(leaf)
        if not isinstance(output, Tensor) or output.shape != z.shape:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                "an activation must act on each number of a tensor, but for an input of shape "
                f"{tuple(z.shape)} {function!r} returned {got}"
            )
        if not output.requires_grad:  # a constant
            return {"active": torch.zeros_like(z), "steep": torch.zeros_like(z)}
        (slope,) = torch.autograd.grad(output, leaf, torch.ones_like(output))
    slope = slope.abs_()
    return {"active": above(slope, ZERO), "steep": above(slope, FLAT)}


def _sigmoid(z: Tensor, h: Tensor) -> Counts:
    h = wide(h)
    slope = h - h * h
    return {"active": above(slope, ZERO), "steep": above(slope, FLAT)}


def _tanh(z: Tensor, h: Tensor) -> Counts:
    h = wide(h)
    slope = 1 - h * h
    return {"active": above(slope, ZERO), "steep": above(slope, FLAT)}


def relu() -> Rule:
    """Its output tells: the derivative is one where that is positive, and zero elsewhere."""
    return Rule("relu", _relu, nonnegative=True, piecewise=True, by_output=True)


def leaky(slope: float | Tensor, kind: str = "leaky_relu") -> Rule:
    """Two pieces, which meet at zero."""
    everywhere: tuple[str, ...] = ()
    if not isinstance(slope, Tensor) and slope:
        everywhere = ("active", "steep") if abs(slope) > FLAT else ("active",)
    return Rule(kind, partial(_leaky, slope), everywhere, piecewise=True)


def hardtanh(low: float, high: float, kind: str = "hardtanh") -> Rule:
    """One piece between two flat ones."""
    count = partial(_between, low, high)
    return Rule(kind, count, nonnegative=low >= 0, piecewise=True, by_output=True)


def threshold(level: float) -> Rule:
    """One piece above a flat one, perhaps with a jump."""
    return Rule("threshold", partial(_threshold, level), piecewise=True)


def shrink(kind: str) -> Rule:
    """Two pieces with a flat one of zeros between them, as the output tells."""
    return Rule(kind, _shrink, piecewise=True, by_output=True)


def smooth(kind: str, function: Callable[[Tensor], Any], nonnegative: bool = False) -> Rule:
    """Any other elementwise function."""
    if kind in {"sigmoid", "tanh"}:
        count = _sigmoid if kind == "sigmoid" else _tanh
        return Rule(kind, count, nonnegative=kind == "sigmoid", by_output=True)
    return Rule(kind, partial(_smooth, function), nonnegative=nonnegative)


_SMOOTH: dict[type[nn.Module], Callable[[Any], Callable[[Tensor], Tensor]]] = {
    nn.ELU: lambda m: partial(functional.elu, alpha=m.alpha),
    nn.SELU: lambda m: functional.selu,
    nn.CELU: lambda m: partial(functional.celu, alpha=m.alpha),
    nn.GELU: lambda m: partial(functional.gelu, approximate=m.approximate),
    nn.SiLU: lambda m: functional.silu,
    nn.Mish: lambda m: functional.mish,
    nn.Softplus: lambda m: partial(functional.softplus, beta=m.beta, threshold=m.threshold),
    nn.Sigmoid: lambda m: torch.sigmoid,
    nn.Tanh: lambda m: torch.tanh,
    nn.Hardswish: lambda m: functional.hardswish,
    nn.Softsign: lambda m: functional.softsign,
    nn.LogSigmoid: lambda m: functional.logsigmoid,
    nn.Tanhshrink: lambda m: functional.tanhshrink,
}
_PIECEWISE: dict[type[nn.Module], Callable[[Any], Rule]] = {
    nn.ReLU: lambda m: relu(),
    nn.ReLU6: lambda m: hardtanh(0.0, 6.0, "relu6"),
    nn.Hardtanh: lambda m: hardtanh(m.min_val, m.max_val),
    nn.Hardsigmoid: lambda m: hardtanh(0.0, 1.0, "hardsigmoid"),
    nn.LeakyReLU: lambda m: leaky(m.negative_slope),
    nn.PReLU: lambda m: leaky(m.weight, "prelu"),
    nn.RReLU: lambda m: leaky(max(m.lower, m.upper, key=abs), "rrelu"),
    nn.Threshold: lambda m: threshold(m.threshold),
    nn.Hardshrink: lambda m: shrink("hardshrink"),
    nn.Softshrink: lambda m: shrink("softshrink"),
}


def module_rule(module: nn.Module) -> Rule | None:
    """Return the rule of one of PyTorch's activations, or of the book's; None of another module."""
    known = getattr(module, "activation", None)
    if isinstance(known, Activation) and callable(getattr(module, "function", None)):
        return _of_the_book(known, module.function)  # type: ignore[arg-type]
    for cls in type(module).__mro__:
        if cls in _PIECEWISE or cls in _SMOOTH:
            if type(module).forward is not cls.forward:
                return custom_rule(module)
            if cls in _PIECEWISE:
                return _PIECEWISE[cls](module)
            kind = cls.__name__.lower()
            return smooth(kind, _SMOOTH[cls](module), cls in {nn.Sigmoid, nn.Softplus})
    return None


def custom_rule(module: nn.Module) -> Rule:
    """Judge an activation of a user's own by its derivative."""
    count = partial(_smooth, lambda z: module.forward(z.clone()))
    return Rule(type(module).__name__.lower(), count, custom=True)


def _of_the_book(known: Activation, function: Callable[[Tensor], Tensor]) -> Rule:
    name, options = known.name, known.parameters
    if name == "relu":
        return relu()
    if name in {"leaky_relu", "prelu"}:
        return leaky(options.get("negative_slope", options.get("slope", 0.0)), name)
    if name == "hardtanh":
        return hardtanh(-1.0, 1.0)
    if name == "identity":
        return Rule("identity", _identity, ("active", "steep"), piecewise=True, by_output=True)
    return smooth(name, function, name in {"sigmoid", "softplus"})
