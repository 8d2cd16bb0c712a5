"""The hooks of a watch: they follow a forward pass, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from companion.detection.functional import FUNCTIONS, FunctionCalls, works_in_place
from companion.detection.hooks import Hook, bare, find_activations, first_input
from companion.detection.report import UnitReport
from companion.detection.rules import Rule
from companion.detection.tally import Mixed, Tally, mixed, mixes

__all__ = ["HINT", "Watch"]


HINT = (
    "For functions such as F.relu give functional=True, and for activations of your own "
    "activations=(TheirClass,)"
)


class Watch:
    """What `watch` returns: enter it round a training loop, then ask for the `report`.

    `attach` and `detach` do the same without a ``with``. Entered again, it goes on adding.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int = 1,
        samples: int | None = None,
        functional: bool = False,
        activations: tuple[type[nn.Module], ...] = (),
        mode: str | None = None,
        axis: int | Mapping[str, int] | None = None,
    ) -> None:
        self.model = bare(model)
        for name, number in (("every", every), ("samples", samples)):
            whole = isinstance(number, int) and not isinstance(number, bool) and number >= 1
            if not whole and not (name == "samples" and number is None):
                raise ValueError(f"{name} must be a whole number of at least 1, not {number!r}")
        if mode not in {None, "train", "eval"}:
            raise ValueError(f"mode must be None, 'train' or 'eval', not {mode!r}")
        self.every, self.samples, self.functional = every, samples, functional
        self.mode = mode
        self.axis = axis
        self.rules = find_activations(self.model, activations)
        self.unwatched = 0
        self._tallies: dict[str, Tally] = {}
        self._handles: list[Any] = []
        self._probes: list[Any] = []
        self._calls: dict[str, int] = {}
        self._kept: dict[str, Tensor] = {}
        self._path: list[tuple[str, bool]] = [("", False)]
        self._mode: FunctionCalls | None = None
        self._last: Mixed | None = None
        self._on = self._called = self._recorded = self._compiled = False
        self._count = 0

    # ---- what a user calls ----------------------------------------------------------------------

    def attach(self) -> Self:
        """Add the hooks."""
        if self._handles:
            raise RuntimeError("this watch is attached already; detach it first, or make another")
        model = self.model
        if self.every > 1:  # in a compiled graph, a number that changes would compile it again
            self._begin = torch.compiler.disable(self._begin)  # type: ignore[method-assign]
        self._handles.append(model.register_forward_pre_hook(Hook(self._start), prepend=True))
        for name, module in model.named_modules():
            if module in self.rules:
                name = name.replace("._orig_mod", "") or type(module).__name__
                self._attach_to(name, module, self.rules[module])
            elif mixes(module):
                self._handles.append(module.register_forward_hook(Hook(self._mix)))
        if self.functional:
            self._handles += self._follow_path()
        self._handles.append(model.register_forward_hook(Hook(self._finish), always_call=True))
        return self

    def detach(self) -> None:
        """Remove the hooks; what was counted stays."""
        for handle in (*self._handles, *self._probes):
            handle.remove()
        self._handles, self._probes = [], []
        self._finish()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.detach()

    def clear(self) -> None:
        """Forget what was counted so far."""
        self._tallies.clear()

    def report(self) -> UnitReport:
        """Return what was seen so far; only here does the CPU wait for the device."""
        if self.functional and self._compiled:
            raise ValueError("functional=True cannot see into compiled code: watch it uncompiled")
        found = [tally.report() for tally in self._tallies.values()]
        layers = tuple(layer for layer in found if layer is not None)
        if not layers:
            raise ValueError(self.why_nothing())
        return UnitReport(layers, 0 if self._compiled else self.unwatched)

    # ---- hooks ----------------------------------------------------------------------------------

    def _attach_to(self, name: str, module: nn.Module, rule: Rule) -> None:
        if not rule.by_output and (rule.custom or getattr(module, "inplace", False)):

            def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
                if self._on:
                    self._kept[name] = first_input(args, kwargs).detach().clone()

            handle = module.register_forward_pre_hook(Hook(keep), with_kwargs=True)
            self._handles.append(handle)

        def look(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if self._on:
                z = self._kept.pop(name) if name in self._kept else first_input(args, kwargs)
                self._add(name, rule, z, output)

        self._handles.append(module.register_forward_hook(Hook(look), with_kwargs=True))

    def _start(self, module: nn.Module, args: Any) -> None:
        """Begin a forward pass of the whole model."""
        if torch.compiler.is_compiling():
            self._compiled = True
        self._begin(module)

    def _begin(self, module: nn.Module) -> None:
        if self._mode is not None:  # the last pass was interrupted
            self._finish()
        self._called = True
        self._on = self.mode is None or (self.mode == "train") == module.training
        if self._on and self.every > 1:
            self._on = self._count % self.every == 0
            self._count += 1
        if not self._on:
            return
        self._recorded = True
        self._calls.clear()
        self._kept.clear()
        self._path[:] = [("", self.model in self.rules)]
        self._last = None
        if not self._compiled and (self.functional or not self._tallies):
            if not self.functional:  # only count, and only once
                self.unwatched = 0
                self._probes = self._follow_path()
            self._mode = FunctionCalls(self._see)
            self._mode.__enter__()

    def _finish(self, *_: Any) -> None:
        """End it, even by an exception."""
        self._on = False
        for probe in self._probes:
            probe.remove()
        self._probes = []
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.__exit__(None, None, None)

    def _mix(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._on:
            self._last = mixed(module, output)

    def _follow_path(self) -> list[Any]:
        """Know at any time in which module the model is."""
        handles = []
        for name, module in self.model.named_modules():
            if module is self.model or "_orig_mod" in name:
                continue  # PyTorch goes through the first one's hooks when one of them fails
            here = (name, module in self.rules)

            def enter(module: nn.Module, args: Any, here: tuple[str, bool] = here) -> None:
                self._path.append(here)

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                if len(self._path) > 1:
                    self._path.pop()

            handles.append(module.register_forward_pre_hook(Hook(enter)))
            handles.append(module.register_forward_hook(Hook(leave), always_call=True))
        return handles

    def _see(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Make the call of an activation that is a function."""
        if torch.compiler.is_compiling():
            self._compiled = True
            return func(*args, **kwargs)
        if _Quiet.on or any(watched for _, watched in self._path):
            return func(*args, **kwargs)
        if not self.functional:
            self.unwatched += 1
            return func(*args, **kwargs)
        rule = FUNCTIONS[func](args, kwargs)
        z = first_input(args, kwargs)
        if not rule.by_output and works_in_place(func, args, kwargs):
            z = z.detach().clone()
        output = func(*args, **kwargs)
        self._add(f"{self._path[-1][0]}.{rule.kind}()".removeprefix("."), rule, z, output)
        return output

    def _add(self, name: str, rule: Rule, z: Tensor, output: Any) -> None:
        call = self._calls[name] = self._calls.get(name, 0) + 1
        label = name if call == 1 else f"{name} ({call})"
        if label not in self._tallies:
            axis = self.axis.get(name) if isinstance(self.axis, Mapping) else self.axis
            self._tallies[label] = Tally(label, rule, axis)
        before, _Quiet.on = _Quiet.on, True
        try:
            self._tallies[label].add(z, output, self._last, self.samples)
        finally:
            _Quiet.on = before

    def why_nothing(self) -> str:
        """Say why there is no report."""
        if not self._called:
            return (
                "no forward pass was seen. Call the model itself, as in model(x), while it is "
                "watched; model.forward(x) and calls of its parts go unseen, and so do those of a "
                "model that had been compiled and called before: watch first, then compile"
            )
        if not self._recorded:
            return f"no forward pass was seen in mode {self.mode!r}; mode=None watches both"
        if self.rules or self.functional:
            return "no activation of the model was called, or with empty batches only"
        calls = f"; it calls {self.unwatched} functional ones" if self.unwatched else ""
        return f"model has no activation among its modules{calls}. {HINT}"


class _Quiet:
    """While on, function calls are our own: no watch counts them."""

    on = False
