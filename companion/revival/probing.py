"""Run a model on an example without touching it: on copies, from the same random state."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.detection.flow import tensors_in as tensors
from companion.detection.session import bare
from companion.untouched import same_states, taken

__all__ = ["Probe", "copied", "far", "same", "tensors"]

ROUNDING = 16
"""Outputs are the same if they differ by so many times what the last digits of weights do."""


class Probe:
    """A model and what to run it on: `example` as for `companion.revival.unit_groups`."""

    def __init__(self, model: nn.Module, report: Any, example: Any, call: Any) -> None:
        if not hasattr(report, "layers"):
            raise TypeError(f"report must be a UnitReport, not {report!r}")
        if call is not None and not callable(call):
            raise TypeError(f"call must be callable, as in call(model, example), not {call!r}")
        self.model = bare(model)
        if example is not None:
            self.example, self.call = example, call or _call
        elif getattr(report, "example", None) is not None:
            self.example, self.call = report.example, _call_as_seen
        else:
            raise ValueError("example must be given, inputs of the model: the report holds none")

    def copy(self) -> nn.Module:
        """Copy the model, in evaluation mode and without gradients."""
        return copied(self.model).eval()

    def run(self, model: nn.Module, batch: Any = None) -> Any:
        """Run a copy, on other inputs if some are given; random numbers are the same each time."""
        name, given = ("example", self.example) if batch is None else ("batch", batch)
        seen = batch is not None and self.call is _call_as_seen
        call = _call if seen else self.call
        with _same_randomness(model), taken(name, given):
            return call(model, copy.deepcopy(given))

    def outputs(self, model: nn.Module, batch: Any = None) -> list[Tensor]:
        """Return all tensors that a copy puts out."""
        with torch.no_grad():
            return [t.detach() for t in tensors(self.run(model, batch))]

    def tolerance(self) -> list[float]:
        """Tell how far each output moves if the last digit of each weight does."""
        model = self.copy()
        before = self.outputs(model)
        generator = torch.Generator()  # whose seed is the same each time
        with torch.no_grad():
            for p in model.parameters():
                if p.is_floating_point():
                    signs = torch.randn(p.shape, generator=generator).sign().to(p)
                    p.addcmul_(p, signs, value=torch.finfo(p.dtype).eps)
        return [ROUNDING * far(*pair) for pair in zip(before, self.outputs(model), strict=True)]


def far(a: Tensor, b: Tensor) -> float:
    """Tell the largest difference between two outputs, and at least the rounding of the largest."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.numel():
        return 0.0
    if not a.is_floating_point():
        return 0.0 if torch.equal(a, b) else float("inf")
    alike = (a == b) | (a.isnan() & b.isnan())  # infinities too
    gap = torch.where(alike, 0.0, (a - b).double().abs()).max().item()
    size = torch.where(a.isfinite(), a.double().abs(), 0.0).max().item()
    return float("inf") if math.isnan(gap) else max(gap, torch.finfo(a.dtype).eps * size)


def same(before: list[Tensor], after: list[Tensor], within: list[float]) -> bool:
    """Tell if outputs are the same but for rounding."""
    return len(before) == len(after) and all(
        far(a, b) <= most for a, b, most in zip(before, after, within, strict=True)
    )


def copied(model: nn.Module) -> nn.Module:
    """Copy a model, also one that keeps outputs, which PyTorch does not copy with their graph."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for kept in tensors(list(vars(module).values())):
            if not kept.is_leaf:
                memo[id(kept)] = kept.detach().clone()
    return copy.deepcopy(model, memo)


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def _call_as_seen(model: nn.Module, example: Any) -> Any:
    args, kwargs = example
    return model(*args, **kwargs)


@contextmanager
def _same_randomness(model: nn.Module) -> Iterator[None]:
    """Begin with the same random numbers, and give back those that would have come."""
    with same_states(model):
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no layer that can be seen
        cpu = torch.default_generator  # not of devices that have not been called yet
        for seed in (random.seed, np.random.seed, cpu.manual_seed):
            seed(0)
        for device in {p.device for p in model.parameters() if p.is_cuda}:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(0)
        yield
