"""Activations that are called as functions: `F.relu`, `torch.relu`, `Tensor.relu` and others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from companion.detection import rules
from companion.detection.rules import Rule

__all__ = ["FUNCTIONS", "FunctionCalls", "works_in_place"]

Arguments = tuple[Any, ...]


class FunctionCalls(TorchFunctionMode):
    """While it is entered, `see` is told of every call of an activation, and has to make it."""

    def __init__(self, see: Callable[..., Any]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Let everything else pass."""
        if func in FUNCTIONS:
            return self.see(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def works_in_place(func: Any, args: Arguments, kwargs: dict[str, Any]) -> bool:
    """Tell if a call overwrites its argument."""
    named = getattr(func, "__name__", "").endswith("_")
    return named or bool(kwargs.get("inplace")) or any(a is True for a in args[1:])


def _option(place: int, name: str, default: Any) -> Callable[[Arguments, dict[str, Any]], Any]:
    """Find an argument by its place or its name."""
    return lambda args, kwargs: args[place] if len(args) > place else kwargs.get(name, default)


def _relu(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.relu()


def _leaky(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.leaky(_option(1, "negative_slope", 0.01)(args, kwargs))


def _rrelu(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.leaky(_option(2, "upper", 1 / 3)(args, kwargs), "rrelu")


def _prelu(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.leaky(_option(1, "weight", None)(args, kwargs), "prelu")


def _hardtanh(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    low, high = _option(1, "min_val", -1.0), _option(2, "max_val", 1.0)
    return rules.hardtanh(low(args, kwargs), high(args, kwargs))


def _threshold(args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.threshold(_option(1, "threshold", 0.0)(args, kwargs))


def _shrink(kind: str, args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.shrink(kind)


def _between(kind: str, high: float, args: Arguments, kwargs: dict[str, Any]) -> Rule:
    return rules.hardtanh(0.0, high, kind)


def _smooth(
    kind: str, function: Callable[..., Tensor], args: Arguments, kwargs: dict[str, Any]
) -> Rule:
    """Take the same options again, but never work in place."""
    others = {k: v for k, v in kwargs.items() if k not in {"input", "self", "inplace", "out"}}
    rest = [a for a in args[1:] if a is not True]
    return rules.smooth(
        kind, lambda z: function(z, *rest, **others), kind in {"sigmoid", "softplus"}
    )


def _table() -> dict[Any, Callable[[Arguments, dict[str, Any]], Rule]]:
    """Everything by which PyTorch offers an activation as a function."""
    makers: dict[str, Callable[[Arguments, dict[str, Any]], Rule]] = {
        "relu": _relu,
        "relu6": partial(_between, "relu6", 6.0),
        "leaky_relu": _leaky,
        "rrelu": _rrelu,
        "prelu": _prelu,
        "hardtanh": _hardtanh,
        "hardsigmoid": partial(_between, "hardsigmoid", 1.0),
        "threshold": _threshold,
        "hardshrink": partial(_shrink, "hardshrink"),
        "softshrink": partial(_shrink, "softshrink"),
    }
    smooth = "elu selu celu gelu silu mish softplus hardswish softsign logsigmoid tanhshrink"
    makers |= {name: partial(_smooth, name, getattr(functional, name)) for name in smooth.split()}
    makers |= {name: partial(_smooth, name, getattr(torch, name)) for name in ("sigmoid", "tanh")}
    found = {}
    for name, maker in makers.items():
        for place in (functional, torch, Tensor):
            for spelling in (name, f"{name}_"):
                if hasattr(place, spelling):
                    found[getattr(place, spelling)] = maker
    found[torch.special.expit] = makers["sigmoid"]
    return found


FUNCTIONS = _table()
"""By the function, what makes its rule from the arguments of a call."""
