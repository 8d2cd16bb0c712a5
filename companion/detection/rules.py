"""How each activation is judged: which values have a derivative, and which piece they lie on.

A rule is a number that is looked at for each value (the pre-activation z, the output h, or the
derivative itself) and the edges at which the answer changes. To count is then to compare.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from companion.activations import Activation

__all__ = [
    "FLAT", "FUNCTIONS", "ZERO", "Edges", "Rule", "function_rule", "module_rule", "own_rule",
]  # fmt: skip

ZERO = 1e-6
"""A smooth activation's derivative of at most this size counts as none."""
FLAT = 0.01
"""A unit whose derivative never exceeds this is saturated."""


@dataclass(frozen=True)
class Edges:
    """Where a condition on a number holds: at -inf as `start` says, and changing at each edge."""

    start: bool = False
    at: tuple[
        tuple[float, bool], ...
    ] = ()  #: (level, whether the change comes at the level itself)


def _above(level: float) -> Edges:
    return Edges(False, ((level, False),))


def _between(low: float, high: float) -> Edges:
    return Edges(False, ((low, False), (high, True)))


ALWAYS, ABOVE_ZERO = Edges(True), _above(0.0)


_ROUNDED: dict[tuple[float, torch.dtype], float] = {}


@dataclass(frozen=True, eq=False)
class Rule:
    """How one activation is judged."""

    kind: str  #: such as "relu"
    of: str | Callable[[Tensor], Tensor]  #: what the edges are on: "z", "h", or a function of z
    active: Edges  #: where the derivative is not zero
    steep: Edges | None = None  #: where it is more than `FLAT` in size; None: as `active`
    upper: Edges | None = None  #: the upper piece, if it is piecewise linear; None: as `steep`
    piecewise: bool = False
    nonnegative: bool = False  #: if |h| is h
    silent: float | None = None  #: what a dead unit puts out, if that is certain
    slope: Tensor | None = None  #: below the edge, if it is learned: one number, or one per unit

    def __post_init__(self) -> None:
        for edges in (self.active, self.steep, self.upper):
            for level, _ in edges.at if edges is not None and self.of == "h" else ():
                for dtype in (torch.float32, torch.float16, torch.bfloat16):
                    if (level, dtype) not in _ROUNDED:
                        _ROUNDED[level, dtype] = torch.tensor(level, dtype=dtype).item()

    def level(self, level: float, dtype: torch.dtype) -> float:
        """Give a level the output's precision: clamped at 0.1 in float16 is less than 0.1."""
        return _ROUNDED.get((level, dtype), level) if self.of == "h" else level


def _leaky(kind: str, slope: Any) -> Rule:
    if isinstance(slope, Tensor):  # PReLU's: on the device, and perhaps one per channel
        return Rule(kind, "z", ABOVE_ZERO, piecewise=True, slope=slope.detach())
    active = ALWAYS if slope else ABOVE_ZERO
    steep = ALWAYS if abs(slope) > FLAT else ABOVE_ZERO
    return Rule(kind, "z", active, steep, ABOVE_ZERO, piecewise=True)


def _clamped(kind: str, low: float | None, high: float | None) -> Rule:
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    sure = low if high == math.inf else high if low == -math.inf else None
    edges = _between(low, high)
    return Rule(kind, "h", edges, piecewise=True, nonnegative=low >= 0, silent=sure)


def _shrunk(kind: str) -> Rule:
    not_zero = Edges(True, ((0.0, True), (0.0, False)))
    return Rule(kind, "h", not_zero, not_zero, ABOVE_ZERO, piecewise=True, silent=0.0)


def _smooth(kind: str, options: Mapping[str, Any]) -> Rule:
    if kind in {"sigmoid", "tanh"}:  # by the output, whose rounding decides what gradient passes
        low, high = (0.0, 1.0) if kind == "sigmoid" else (-1.0, 1.0)
        zero, flat = _gap(kind, ZERO), _gap(kind, FLAT)
        active, steep = _between(low + zero, high - zero), _between(low + flat, high - flat)
        return Rule(kind, "h", active, steep, nonnegative=low == 0)
    found = _edges(kind, tuple(sorted(options.items())))
    return Rule(kind, "z", *found, nonnegative=kind == "softplus")


def _gap(kind: str, level: float) -> float:
    """Distance of the output from its bounds at which the derivative is so large."""
    if kind == "tanh":  # 1 - h²
        return 1 - math.sqrt(1 - level)
    return (1 - math.sqrt(1 - 4 * level)) / 2  # h (1 - h)


FUNCTIONS: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"negative_slope": 0.01},
    "rrelu": {"lower": 1 / 8, "upper": 1 / 3},
    "prelu": {"weight": None},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "hardsigmoid": {},
    "clamp": {"min": None, "max": None},
    "threshold": {"threshold": None, "value": None},
    "hardshrink": {},
    "softshrink": {},
    "sigmoid": {},
    "tanh": {},
    "elu": {"alpha": 1.0},
    "selu": {},
    "celu": {"alpha": 1.0},
    "gelu": {"approximate": "none"},
    "silu": {},
    "mish": {},
    "softplus": {"beta": 1.0},
    "hardswish": {},
    "softsign": {},
    "logsigmoid": {},
    "tanhshrink": {},
}
"""By the name of a function of PyTorch, the arguments that its rule needs, and their defaults.

Where there is none it is None: `prelu` and `threshold` are always given theirs.
"""

_MODULES: dict[type[nn.Module], str] = {
    getattr(nn, name): name.lower()
    for name in (
        "ReLU", "ReLU6", "RReLU", "PReLU", "Hardtanh", "Hardsigmoid", "Threshold", "Hardshrink",
        "Softshrink", "Sigmoid", "Tanh", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Softplus",
        "Hardswish", "Softsign", "LogSigmoid", "Tanhshrink",
    )
} | {nn.LeakyReLU: "leaky_relu"}  # fmt: skip


def function_rule(name: str, args: tuple[Any, ...] = (), options: Mapping[str, Any] = {}) -> Rule:
    """Return the rule of a call of one of `FUNCTIONS`, from its arguments behind the input."""
    known = FUNCTIONS[name]
    given = known | dict(zip(known, args, strict=False))
    given |= {key: value for key, value in options.items() if key in known}
    if name == "relu":
        return Rule("relu", "h", ABOVE_ZERO, piecewise=True, nonnegative=True, silent=0.0)
    if name in {"leaky_relu", "prelu"}:
        return _leaky(name, *given.values())
    if name == "rrelu":
        return _leaky(name, max(given.values(), key=abs))
    if name in {"relu6", "hardsigmoid"}:
        return _clamped(name, 0.0, 6.0 if name == "relu6" else 1.0)
    if name in {"hardtanh", "clamp"}:
        return _clamped(name, *given.values())
    if name == "threshold":  # which PyTorch does not round to the precision of z
        level, value = given.values()
        return Rule(name, "z", _above(level), piecewise=True, silent=value)
    if name in {"hardshrink", "softshrink"}:
        return _shrunk(name)
    return _smooth(name, given)


def module_rule(module: nn.Module) -> Rule | None:
    """Return the rule of one of PyTorch's activations, or of the book's; None of another module."""
    known = getattr(module, "activation", None)
    if isinstance(known, Activation) and callable(getattr(module, "function", None)):
        return _of_the_book(module, known)
    for cls in type(module).__mro__:
        if cls in _MODULES:
            if type(module).forward is not cls.forward:
                return own_rule(type(module).__name__.lower(), module.forward)
            options = {key: getattr(module, key, None) for key in FUNCTIONS[_MODULES[cls]]}
            return function_rule(_MODULES[cls], options=options)
    return None


def own_rule(kind: str, function: Callable[[Tensor], Any]) -> Rule:
    """Judge any other elementwise function by its derivative."""
    return Rule(kind, _slope_of(function), _above(ZERO), _above(FLAT))


def _of_the_book(module: Any, known: Activation) -> Rule:
    name, options = known.name, known.parameters | module.options
    if name == "identity":
        return Rule(name, "h", ALWAYS, piecewise=True)
    if name == "prelu":
        return _leaky(name, getattr(module, "slope", options["slope"]))
    if name in FUNCTIONS and options.keys() <= FUNCTIONS[name].keys():
        return function_rule(name, options=options)
    return own_rule(name, module.forward)


def _slope_of(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Return the size of a function's derivative, by autograd: right for anything elementwise."""

    def of_copy(z: Tensor) -> Any:  # since it may work in place
        return function(z.clone())

    def slope(z: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # autograd.grad would break the graph
            return torch.func.vjp(of_copy, z)[1](torch.ones_like(z))[0].abs()
        with torch.inference_mode(False), torch.enable_grad():
            leaf = z.clone().requires_grad_()
            output = of_copy(leaf)
            if not output.requires_grad:  # a constant
                return torch.zeros_like(z)
            ones = torch.ones_like(output)
            (found,) = torch.autograd.grad(output, leaf, ones, materialize_grads=True)
        return found.abs_()

    return slope


@cache
def _edges(name: str, options: tuple[tuple[str, Any], ...]) -> tuple[Edges, Edges]:
    """Find where a smooth activation's derivative is more than `ZERO`, and than `FLAT`, in size."""
    function = getattr(functional, name)
    slope = _slope_of(lambda z: function(z, **dict(options)))

    def size(z: np.ndarray) -> np.ndarray:
        with torch._C.DisableTorchFunction():  # nobody watches this
            return np.asarray(slope(torch.from_numpy(z)))

    found = []
    z = np.sinh(np.linspace(-12, 12, 100_001))  # close together near 0, and far out as well
    for level in (ZERO, FLAT):
        holds = size(z) > level
        holds[1:-1] |= holds[:-2] & holds[2:]  # where f' changes its sign is a point, and not flat
        change = np.flatnonzero(holds[1:] != holds[:-1])
        low, high = z[change], z[change + 1]
        for _ in range(80):
            middle = (low + high) / 2
            same = (size(middle) > level) == holds[change]
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        found.append(Edges(bool(holds[0]), tuple((float(edge), False) for edge in low)))
    return found[0], found[1]
