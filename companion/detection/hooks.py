"""Hooks that stay with the model, and which of its modules get one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from companion.detection.rules import Rule, custom_rule, module_rule

__all__ = ["Hook", "bare", "find_activations", "first_input"]


class Hook:
    """A hook that a copy of the model, or a pickle of it, does not take along."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Let PyTorch call it."""
        return self.function(*args)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _idle, ()


def _idle() -> Callable[..., None]:
    return _nothing


def _nothing(*_: Any) -> None:
    return None


def first_input(args: Any, kwargs: dict[str, Any]) -> Tensor:
    """Find the pre-activation among the arguments of a call."""
    found: Tensor = args[0] if args else next(iter(kwargs.values()))
    return found


def bare(model: Any) -> nn.Module:
    """Take the model out of what compiles or distributes it."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {model!r}")
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise ValueError(
            "model must not be a DataParallel of several devices, whose copies forget what they "
            "count; use DistributedDataParallel"
        )
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def find_activations(model: nn.Module, own: tuple[type[nn.Module], ...]) -> dict[nn.Module, Rule]:
    """Find the activations among the modules; what is inside one of a user's own is part of it."""
    if not isinstance(own, tuple) or not all(
        isinstance(cls, type) and issubclass(cls, nn.Module) for cls in own
    ):
        raise TypeError(f"activations must be a tuple of subclasses of nn.Module, not {own!r}")
    found: dict[nn.Module, Rule] = {}
    inside: set[nn.Module] = set()
    for module in model.modules():
        if module in inside:
            continue
        rule = module_rule(module)
        if isinstance(module, own):
            rule = rule or custom_rule(module)
        if rule is not None:
            found[module] = rule
            inside.update(child for child in module.modules() if child is not module)
    return found
