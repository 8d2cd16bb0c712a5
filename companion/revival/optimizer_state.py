"""What an optimizer remembers of weights that are drawn anew, found by the parameter itself.

Beneath `companion.revival.revive`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["STATES", "check_optimizer", "held_keys", "optimizer_of", "reset_state"]

STATES = ("seed", "zero", "zero_step")
"""Rules for the optimizer's state, as `companion.revival.revive` explains them."""

_MOMENTS = {"momentum_buffer", "exp_avg", "grad_avg"}
_SQUARES = {"square_avg", "exp_avg_sq", "max_exp_avg_sq"}
_COUNTS = {"step"}


def optimizer_of(model: nn.Module, optimizer: Any) -> torch.optim.Optimizer:
    """Take a model's optimizer out of what wraps it, as accelerate does."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {optimizer!r}")
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if not held & set(model.parameters()):
        raise ValueError("optimizer must hold the model's parameters, but holds none of them")
    return optimizer


def check_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]
) -> None:
    """Refuse an optimizer that does not hold the parameters, or whose state is not known."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in parameters.items() if p not in held]
    if missing:
        raise ValueError(
            f"optimizer must hold the model's parameters, but it does not hold {', '.join(missing)}"
        )
    names: dict[Tensor, str] = {p: name for name, p in parameters.items()}
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if not _per_weight(key, value):
                continue
            if key not in _MOMENTS | _SQUARES or value.shape != p.shape:
                raise ValueError(
                    f"{type(optimizer).__name__} keeps {key!r} for "
                    f"{names.get(p, 'a parameter')}, and what that should be for a fresh unit is "
                    "not known; SGD, Adam, AdamW and RMSprop are"
                )


def held_keys(optimizer: torch.optim.Optimizer | None, p: Tensor, rule: str) -> tuple[str, ...]:
    """Keys of a parameter's state that a rule resets."""
    state = {} if optimizer is None else optimizer.state.get(p, {})
    counts = _COUNTS if rule == "zero_step" else set()
    return tuple(key for key, value in state.items() if _per_weight(key, value) or key in counts)


def reset_state(
    optimizer: torch.optim.Optimizer,
    p: Tensor,
    axis: int,
    places: np.ndarray,
    living: np.ndarray,
    rule: str,
) -> None:
    """Reset the state of weights at `places` along an axis, of shape (n_units, k).

    `living` are the places of the living units, of shape (n_living, k).
    """
    state: dict[str, Any] = optimizer.state.get(p, {})
    whole = not len(living)
    for key, value in state.items():
        if not _per_weight(key, value):
            continue
        index = torch.from_numpy(places.ravel()).to(value.device)
        if rule != "seed" or key in _MOMENTS or whole:
            value.index_fill_(axis, index, 0)
            continue
        rows = value.index_select(axis, torch.from_numpy(living.ravel()).to(value.device))
        middle = rows.unflatten(axis, living.shape).median(axis).values
        shape = (*value.shape[:axis], *places.shape, *value.shape[axis + 1 :])
        value.index_copy_(axis, index, middle.unsqueeze(axis).expand(shape).flatten(axis, axis + 1))
    if rule == "zero_step" or (rule == "seed" and places.size == p.shape[axis]):
        for key in _COUNTS & state.keys():
            state[key] = 0 * state[key]  # a number or a tensor


def _per_weight(key: str, value: object) -> bool:
    return isinstance(value, Tensor) and key not in _COUNTS
