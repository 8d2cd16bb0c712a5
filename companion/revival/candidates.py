"""The remedies that `trial` tries: each changes a copy of a model, or how that copy is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor, nn

from companion.detection import census
from companion.detection.rules import module_rule
from companion.revival.graph import LAYERS
from companion.revival.remedies import centre_inputs, redraw, shift_bias, swap_activation
from companion.revival.resets import revive

__all__ = ["AS_IT_IS", "REMEDIES", "Candidate", "Loss", "Run"]

AS_IT_IS = "as it is"
NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""By the number of axes of a layer's weight."""

ENOUGH = 8
"""Batches that tell how far to shift a bias; more would take longer than the training."""

Loss = Callable[[nn.Module, Any], Tensor]
"""Runs a model on a batch and returns the loss."""


@dataclass
class Run:
    """A copy of a model, and how it is trained."""

    model: nn.Module
    batches: list[Any]
    loss: Loss
    steps: int
    rng: np.random.Generator  #: for what a remedy draws, and the order of the batches
    rate: Callable[[int], float] | None = None  #: factor of the learning rate, by the step
    clip: float = math.inf  #: largest norm of the gradient

    def train(self, make_optimizer: Callable[[Any], Any]) -> None:
        """Train for so many steps; each pass takes the batches in an order of its own."""
        model, batches = self.model, self.batches
        if not model.training:
            model.train()
        optimizer = make_optimizer(model.parameters())
        if not hasattr(optimizer, "param_groups"):
            raise TypeError(f"make_optimizer must return an optimizer, not {optimizer!r}")
        groups = optimizer.param_groups
        if not {p for group in groups for p in group["params"]} <= set(model.parameters()):
            raise ValueError("make_optimizer must take the parameters that it is given, no others")
        rates = [group.get("lr") for group in groups]
        if self.rate is not None and None in rates:
            raise ValueError("the optimizer has no learning rate 'lr'")
        passes = math.ceil(self.steps / len(batches))
        order = np.concatenate([self.rng.permutation(len(batches)) for _ in range(passes)])
        for step, place in enumerate(order[: self.steps]):
            if self.rate is not None:
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate * self.rate(step)

            def closure(batch: Any = batches[place]) -> Tensor:
                optimizer.zero_grad()
                loss = self.loss(model, batch)
                loss.backward()
                if self.clip < math.inf:
                    nn.utils.clip_grad_norm_(model.parameters(), self.clip)
                return loss

            optimizer.step(closure)


def _nothing(run: Run) -> None:
    """Leave all as it is."""


def _tenth(run: Run) -> None:
    run.rate = lambda step: 0.1


def _warm_up(run: Run) -> None:
    run.rate = lambda step: min(1.0, 2 * (step + 1) / run.steps)


def _clip(run: Run) -> None:
    run.clip = 1.0


def _centre(run: Run, *, scale: bool) -> None:
    try:
        run.model = centre_inputs(run.model, run.batches, scale=scale, call=run.loss).model
    except TypeError:
        raise ValueError("the model's inputs are not one tensor of real numbers") from None


def _shift(run: Run) -> None:
    done = shift_bias(run.model, run.batches[:ENOUGH], call=run.loss)
    if not done.changed:
        raise ValueError("; ".join(done.left.values()) or "no unit is dead")


def _reset(run: Run) -> None:
    report = census(run.model, run.batches, call=run.loss)
    done = revive(run.model, report, rng=run.rng)
    if not done.n_units:
        raise ValueError("; ".join(done.left.values()) or "no unit is dead")


def _redraw(run: Run) -> None:
    redraw(run.model)


def _redraw_and_tenth(run: Run) -> None:
    redraw(run.model)
    _tenth(run)


def _unfreeze(run: Run) -> None:
    if all(p.requires_grad for p in run.model.parameters()):
        raise ValueError("no parameter is frozen")
    run.model.requires_grad_(True)


def _swap(run: Run, *, new: nn.Module) -> None:
    if not any(isinstance(module, nn.ReLU) for module in run.model.modules()):
        raise ValueError("no ReLU is a module of the model")
    swap_activation(run.model, {"relu": new}, run.batches, call=run.loss)


def _batch_norm(run: Run) -> None:
    """Put a batch norm before each activation that follows a layer in an `nn.Sequential`."""
    places = [
        (parent, name, child, before)
        for parent in run.model.modules()
        if isinstance(parent, nn.Sequential)
        for (_, before), (name, child) in pairwise(parent._modules.items())
        if isinstance(before, LAYERS) and module_rule(child) is not None
    ]
    if not places:
        raise ValueError("no activation is a module that follows a layer in an nn.Sequential")
    for parent, name, child, before in places:
        width = before.out_features if isinstance(before, nn.Linear) else before.out_channels
        norm = NORMS[before.weight.ndim](width).to(before.weight.device, before.weight.dtype)
        parent._modules[name] = nn.Sequential(norm, child)


@dataclass(frozen=True)
class Candidate:
    """A remedy: what it does to a run, and in words how to apply it for good."""

    apply: Callable[[Run], None]
    how: str


REMEDIES: dict[str, Candidate] = {
    AS_IT_IS: Candidate(_nothing, "go on"),
    "a tenth of the rate": Candidate(_tenth, "divide the learning rate by ten"),
    "warm-up": Candidate(_warm_up, "let the rate rise evenly from 0 over half of these steps"),
    "gradient clipped": Candidate(
        _clip, "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) before each step"
    ),
    "inputs centred": Candidate(
        partial(_centre, scale=False),
        "subtract the training set's mean: companion.centre_inputs(model, loader).model",
    ),
    "inputs standardized": Candidate(
        partial(_centre, scale=True),
        "companion.centre_inputs(model, loader, scale=True).model, which also divides by the "
        "standard deviation",
    ),
    "biases shifted": Candidate(_shift, "companion.shift_bias(model, loader)"),
    "dead units reset": Candidate(
        _reset, "companion.revive(model, companion.census(model, loader))"
    ),
    "redrawn": Candidate(
        _redraw,
        "companion.redraw(model), which draws all parameters anew, those of norms too, and returns "
        "the names of those that it cannot draw",
    ),
    "redrawn, a tenth of the rate": Candidate(
        _redraw_and_tenth, "companion.redraw(model), and a tenth of the learning rate"
    ),
    "unfrozen": Candidate(_unfreeze, "model.requires_grad_(True)"),
    "leaky ReLU": Candidate(
        partial(_swap, new=nn.LeakyReLU(0.1)),
        "companion.swap_activation(model, {'relu': nn.LeakyReLU(0.1)}, loader)",
    ),
    "GELU": Candidate(
        partial(_swap, new=nn.GELU()),
        "companion.swap_activation(model, {'relu': nn.GELU()}, loader)",
    ),
    "batch norm": Candidate(_batch_norm, "a batch norm between each layer and its activation"),
}
"""By name; `trial` tries them in this order."""
