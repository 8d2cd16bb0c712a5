"""Watch the units of a model while it trains, by hooks that leave nothing behind.

What a forward pass goes through. `_start`, the first hook of the model, decides whether the pass is
looked at; `_begin` makes it the `_Pass` of this thread and enters a `Flow`. Modules that are
activations have the hooks of `_attach_to`, all others those of `_follow`, which tell the flow where
its calls come from. Whatever is found to be an activation comes to `judge`, and from there to the
`Tally` of its layer (`_add`). `_finish`, the last hook, ends the flow and keeps the plan of the
next pass in this mode, training or evaluation:

- A pass without a plan is followed in full. What it called becomes the plan, if it is plain.
- A pass with a plan that calls the same leaves the plan as it is: this is the fast way.
- A pass with a plan that calls anything else is *odd*. From there on it is followed, but of tensors
  made before nothing is known: where a layer has its units is taken from the plan, and a layer that
  is not in it is *missed*: the report says so, and `census` runs the batch `again`. There is no
  plan afterwards, so that the next pass is followed; after `MOST_ODD` of these, there never is.
- A pass that ends by an exception leaves no plan either.

In compiled code no flow can run: there `_InCompiled` counts modules alone.
"""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from companion.checks import choice, whole
from companion.detection.flow import Call, Flow, Plan, first_tensor, tensors_in
from companion.detection.report import UnitReport
from companion.detection.rules import FUNCTIONS, Rule, module_rule, own_rule
from companion.detection.tally import Layout, Tally
from companion.detection.trails import Trail

__all__ = ["Watch", "bare", "watch"]

Mask = str | Callable[..., Tensor]

MOST_ODD = 3
"""A model that so often calls other functions than before is followed on every pass."""
_NOTHING = torch.zeros(0)

_PADDING = {"attention_mask": True, "src_key_padding_mask": False, "key_padding_mask": False}
"""Arguments of a model that tell padding, and what they are where a number counts."""

_CHANNELS = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
_FEATURES = (nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding)
_GATED = (nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell)


class Hook:
    """A hook that a copy of the model, or a pickle of it, does not take along."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        """Let PyTorch call it."""
        return self.function(*args)

    def __reduce__(self) -> tuple[type[Hook], tuple[Callable[..., None]]]:
        return Hook, (_nothing,)


def _nothing(*_: Any) -> None:
    return None


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
        if isinstance(model, torch.jit.ScriptModule):
            raise TypeError("model must not be TorchScript's, but the model that it was made of")
        if not isinstance(inner, nn.Module):
            return model
        model = inner


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
        activations: tuple[type[nn.Module], ...] = (),
        mode: str | None = None,
        axis: int | Mapping[str, int] | None = None,
        mask: Mask | None = None,
        batch_first: bool = True,
        history: bool = False,
    ) -> None:
        self.model = bare(model)
        self.every = whole("every", every)
        self.samples = None if samples is None else whole("samples", samples)
        self.mode = None if mode is None else choice("mode", mode, ("train", "eval"))
        self.axis = _checked_axis(axis)
        self.rules = find_activations(self.model, activations)
        if not (mask is None or isinstance(mask, str) or callable(mask)):
            raise TypeError(f"mask must be a name or callable, not {mask!r}")
        self.mask = mask
        self.batch_first = choice("batch_first", batch_first, (True, False))
        self.keeps_history = choice("history", history, (True, False))
        self.notes: dict[str, None] = {}  # what was not seen, in order
        self.example: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._makers = {
            id(p): name
            for name, part in self.model.named_modules()
            if (p := dict(part.named_parameters(recurse=False)).get("weight")) is not None
        }
        self._fixed = {id(t) for t in (*self.model.parameters(), *self.model.buffers())}
        self._paths = {name for name, _ in self.model.named_modules()}
        self._tallies: dict[str, tuple[int, Tally]] = {}
        self._broken: set[str] = set()
        self._handles: list[Any] = []
        self._renew: list[Callable[[], None]] = []  # the rules of modules that have numbers
        self._here = _Here()
        self._lock = threading.RLock()
        self._count = 0
        self._called = self._recorded = False
        self._steps: list[int] = []
        self._shares: list[dict[str, Tensor]] = []
        self._plans: dict[bool, Plan] = {}  # by mode: what a pass calls
        self._odd = 0  # passes that called anything else
        self.missed: set[str] = set()  # layers that were called first on such a pass
        self._only: frozenset[str] = frozenset()
        self._zeros: dict[torch.device, Any] = {}  # 0 as long as the model's outputs are finite
        self._in_compiled = _InCompiled()

    # ---- what a user calls ----------------------------------------------------------------------

    def attach(self) -> Self:
        """Add the hooks."""
        if self._handles:
            raise RuntimeError("this watch is attached already; detach it first, or make another")
        model, add = self.model, self._handles.append
        if self.every > 1:
            like = next(model.parameters(), torch.zeros(()))
            self._in_compiled.passes = torch.zeros((), dtype=torch.long, device=like.device)
        add(model.register_forward_pre_hook(Hook(self._start), with_kwargs=True, prepend=True))
        channels = False
        for path, module in model.named_modules():
            name = path.replace("_orig_mod.", "")
            if isinstance(module, _CHANNELS + _FEATURES):
                channels = isinstance(module, _CHANNELS)
            if isinstance(module, torch.jit.ScriptModule):
                continue  # can have no hooks
            if module in self.rules:
                self._attach_to(name, module, self.rules[module], channels)
            elif module is not model and _calls_functions(module):
                self._follow(name, module)
        add(model.register_forward_hook(Hook(self._finish), always_call=True))
        return self

    def detach(self) -> None:
        """Remove the hooks; what was counted stays."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._renew = [], []
        self._finish()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(self, *_: object) -> None:
        self.detach()

    def clear(self) -> None:
        """Forget what was counted so far."""
        with self._lock:
            for kept in (
                self._tallies, self._broken, self.notes, self._steps, self._shares, self._zeros,
            ):  # fmt: skip
                kept.clear()

    def report(self) -> UnitReport:
        """Return what was seen so far; only here does the CPU wait for the device."""
        placed = sorted(self._tallies.values(), key=lambda pair: pair[0])
        found = [tally.report() for _, tally in placed]
        layers = tuple(layer for layer in found if layer is not None)
        if not layers:
            raise ValueError(self.why_nothing())
        if isinstance(self.axis, Mapping):
            names = [layer.name for layer in layers]
            if wrong := [name for name in self.axis if name not in names]:
                raise ValueError(f"axis must name layers of {names}, not {wrong[0]!r}")
        notes = [*self.notes, *_unseen(self.model)]
        notes += [
            f"{label!r} was not counted when it was first called" for label in sorted(self.missed)
        ]
        if self._in_compiled.used:
            notes.append(
                "in compiled code modules were seen, by the slopes and bounds that they had at the "
                "start, and functions such as F.relu were not"
            )
        finite = all(zero == 0 for zero in self._zeros.values())
        return UnitReport(layers, tuple(notes), not finite, self.example)

    def history(self) -> dict[str, np.ndarray]:
        """Return the share of dead units on each pass that was looked at, by layer.

        "pass" holds the numbers of these passes; where a layer was not called, its share is NaN.
        Needs ``watch(model, history=True)``.
        """
        if not self.keeps_history:
            raise ValueError("history must be asked for: watch(model, history=True)")
        names = dict.fromkeys(name for shares in self._shares for name in shares)
        rows = {
            name: np.array([float(shares.get(name, np.nan)) for shares in self._shares])
            for name in names
        }
        return {"pass": np.array(self._steps), **rows}

    def again(self, run: Callable[[], object]) -> None:
        """Run the model once more, to count what was missed on the last pass, and nothing else."""
        self._only, self.missed = frozenset(self.missed), set()
        try:
            run()
        finally:
            self._only = frozenset()

    def why_nothing(self) -> str:
        """Say why there is no report."""
        if not self._called:
            return (
                "no forward pass was seen. Call the model itself, as in model(x), while it is "
                "watched; model.forward(x) and calls of its parts go unseen, and so do those of a "
                "model that had been compiled and called before: watch first, then compile"
            )
        if self.notes:
            return f"no activation could be counted: {'; '.join(self.notes)}"
        if not self._recorded:
            return f"no forward pass was seen in mode {self.mode!r}; mode=None watches both"
        return (
            "model called no activation that is known, or with empty batches only; "
            "activations=(TheirClass,) names activations of your own"
        )

    # ---- one forward pass -----------------------------------------------------------------------

    def _start(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Begin a forward pass of the whole model."""
        on = self.mode is None or (self.mode == "train") == module.training
        if torch.compiler.is_compiling():
            self._called = True
            self._in_compiled.start(on, self.every)
            return
        try:
            self._finish()  # the last pass, if it was interrupted
            self._called = True
            with self._lock:
                number, self._count = self._count, self._count + on
            if on and number % self.every == 0:
                self._begin(number, module.training, args, kwargs)
        except Exception as error:
            self._failed("the model's inputs", error)

    def _begin(self, number: int, training: bool, args: Any, kwargs: dict[str, Any]) -> None:
        given = tensors_in((args, kwargs))
        if any(map(torch._C._functorch.is_functorch_wrapped_tensor, given)):
            self.notes["passes within torch.func (vmap, grad, ...) were not counted"] = None
            return
        self._recorded = True
        for renew in self._renew:
            renew()
        mask = _mask(self.mask, self.model, args, kwargs)
        here = _Pass(number, training, training in self._plans, mask)
        here.flow = Flow(
            self._makers,
            partial(self.judge, here),
            self._failed,
            paths=self._paths,
            fixed=self._fixed,
            batch_first=self.batch_first,
            plan=self._plans.get(training),
        )
        self._place_samples(here, self.model, first_tensor(args, kwargs))
        if self.example is None:
            self.example = _first_samples(args, kwargs, given)
        self._here.now = here
        here.flow.__enter__()

    def _finish(self, module: Any = None, args: Any = (), output: Any = None) -> None:
        """End it, even by an exception."""
        if torch.compiler.is_compiling():
            return
        here = self._here.now
        if here is None:
            return
        self._here.now = None
        here.flow.__exit__(None, None, None)
        try:
            here.flow.finish()
            for t in tensors_in(output):  # 0, or NaN if it is not finite; nobody waits for it
                if t.is_floating_point() or t.is_complex():
                    self._zeros[t.device] = self._zeros.get(t.device, 0) + (0 * t.detach()).sum()
        except Exception as error:
            self._failed("the model's outputs", error)
        self._plans.pop(here.training, None)
        self.missed |= here.missed
        if module is None or sys.exception() is not here.outer:  # interrupted, or it has raised
            pass
        elif here.flow.light:
            self._plans[here.training] = here.flow.plan
        elif here.planned:
            self._odd += 1
        elif here.flow.plain and self._odd < MOST_ODD:
            self._plans[here.training] = here.flow.plan
        if self.keeps_history:
            with self._lock:
                self._steps.append(here.number)
                self._shares.append(here.shares)

    def _failed(self, where: str, error: Exception) -> None:
        """Keep what went wrong for the report: a watch never raises into a training loop."""
        self.notes[f"{where or 'the model'}: {type(error).__name__}: {error}"] = None

    def _attach_to(self, name: str, module: nn.Module, rule: Rule, channels: bool) -> None:
        """Hook a module that is an activation."""
        name = name or type(module).__name__

        def renew() -> None:
            nonlocal rule
            rule = module_rule(module) or rule

        if FUNCTIONS.get(rule.kind, True):
            self._renew.append(renew)

        def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            z = first_tensor(args, kwargs)
            if z is None:
                return
            in_place = getattr(module, "inplace", False)
            copies = callable(rule.of) or (in_place and rule.of == "z")
            if torch.compiler.is_compiling():
                self._in_compiled.z = z.clone() if copies else z
                return
            here = self._here.now
            if here is None:
                return
            if copies or in_place:
                with torch._C.DisableTorchFunction():
                    here.flow.overwritten(z)
                    if copies:
                        here.kept[name] = z.clone()
            here.flow.muted += 1

        def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            if torch.compiler.is_compiling():
                self._in_compiled.look(self, name, rule, output, channels)
                return
            here = self._here.now
            if here is None:
                return
            given = first_tensor(args, kwargs)
            if given is None:
                return
            here.flow.muted -= 1
            z = here.kept.pop(name, given)
            if isinstance(output, Tensor) and not here.flow.muted:
                try:
                    with torch._C.DisableTorchFunction():
                        if here.flow.light:
                            self._again(here, name, rule, z, output)
                            return
                        here.flow.module(name, rule, module.forward, z, output, given)
                except Exception as error:
                    self._failed(name, error)

        self._handles += [
            module.register_forward_pre_hook(Hook(enter), with_kwargs=True),
            module.register_forward_hook(Hook(leave), with_kwargs=True, always_call=True),
        ]

    def _follow(self, name: str, module: nn.Module) -> None:
        """Hook a module that may call activations, to know where a call comes from."""

        def enter(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                self._in_compiled.used = True
                return
            here = self._here.now
            if here is None:
                return
            here.flow.path.append(name)
            first = first_tensor(args, kwargs)
            here.given.append(first)
            self._place_samples(here, module, first)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_compiling():
                return
            here = self._here.now
            if here is None or len(here.flow.path) < 2:
                return
            here.flow.path.pop()
            given = here.given.pop()
            if given is not None and isinstance(output, Tensor):
                with torch._C.DisableTorchFunction():
                    here.flow.left(name, type(module).__name__.lower(), given, output)

        self._handles += [
            module.register_forward_pre_hook(Hook(enter), with_kwargs=True),
            module.register_forward_hook(Hook(leave), always_call=True),
        ]

    def _place_samples(self, here: _Pass, module: nn.Module, x: Tensor | None) -> None:
        """Note where samples are in what goes into a module that says so."""
        if x is not None and x.ndim == 3 and hasattr(module, "batch_first"):
            axis = 0 if module.batch_first else 1
            here.flow.note(x, replace(here.flow.trail(x), batch=axis, n=x.shape[axis]))

    def judge(self, here: Any, call: Call) -> None:
        """Count an activation, and remember where its units are."""
        plan, trail, label = here.flow.plan, call.trail, call.name
        if here.flow.light:
            self._add(here, label, call.rule, call.z, call.h, trail, call.place)
            return
        if here.planned and trail.units is None:  # of the pass up to here nothing was followed
            known = plan.trail(label, call.h)
            if known is None:
                here.missed.add(label)
                return
            trail = known
        plan.trails[label] = trail, call.h.ndim
        if call.step >= 0:
            plan.calls[call.step] = replace(call, z=_NOTHING, h=_NOTHING)
        if trail.batch is None and trail.n > 1:  # only a full look can tell how many
            here.flow.plain = False
        self._add(here, label, call.rule, call.z, call.h, trail, call.place)

    def _again(self, here: _Pass, name: str, rule: Rule, z: Tensor, h: Tensor) -> None:
        """Count a module whose units are where they were in an earlier pass."""
        label = here.flow.label(name)
        trail = here.flow.plan.trail(label, h)
        if trail is None:  # on a branch that was not taken then
            here.flow.light = False
            here.missed.add(label)
        else:
            self._add(here, label, rule, z, h, trail, here.flow.place)

    def _add(
        self, here: _Pass, label: str, rule: Rule, z: Tensor, h: Tensor, trail: Trail, place: int
    ) -> None:
        if label in self._broken or (self._only and label not in self._only):
            return
        if torch._C._functorch.is_functorch_wrapped_tensor(h):
            self.notes[f"{label!r} runs within torch.func (vmap, ...) and was not counted"] = None
            return
        try:
            if trail.unfit:
                raise ValueError(trail.unfit)
            if trail.note:
                self.notes[f"{label!r} {trail.note}"] = None
            if h.shape != z.shape:
                raise ValueError(f"made {tuple(h.shape)} of {tuple(z.shape)}")
            layout = self._layout(label, trail, h)
            with self._lock:
                if label not in self._tallies:
                    self._tallies[label] = place, Tally(label, rule, trail.made_by)
                tally = self._tallies[label][1]
                if tally.rule is not rule:  # it may hold tensors of this pass, or other numbers
                    tally.go_on(rule)
                before = tally.sums.get("active") if self.keeps_history else None
                before = None if before is None else before.clone()
                tally.add(z, h, layout, samples=self.samples, mask=here.mask)
                if self.keeps_history and tally.sums:
                    new = tally.sums["active"] if before is None else tally.sums["active"] - before
                    here.shares[label] = (new == 0).double().mean()
        except Exception as error:
            self._broken.add(label)
            self._tallies.pop(label, None)
            self.notes[f"{label!r} was not counted: {error}"] = None

    def _layout(self, label: str, trail: Trail, t: Tensor) -> Layout:
        axis = self.axis.get(label) if isinstance(self.axis, Mapping) else self.axis
        if axis is not None:
            if not -t.ndim <= axis < t.ndim:
                raise ValueError(f"axis must be one of a tensor of {t.ndim}, not {axis}")
            trail = replace(trail, units=(axis % t.ndim,))
        return trail.layout(t)


class _Here(threading.local):
    """The pass that runs in this thread, if it is looked at."""

    now: _Pass | None = None


@dataclass(eq=False)
class _Pass:
    """One forward pass that is looked at."""

    number: int
    training: bool
    planned: bool
    mask: Tensor | None
    kept: dict[str, Tensor] = field(default_factory=dict)  # what modules will overwrite, copied
    given: list[Tensor | None] = field(default_factory=list)
    shares: dict[str, Tensor] = field(default_factory=dict)
    missed: set[str] = field(default_factory=set)  # layers that could not be counted this time
    outer: BaseException | None = field(default_factory=sys.exception)  # caught by the caller
    flow: Any = None


class _InCompiled:
    """The same within `torch.compile`, where only modules can be seen, and nothing may branch."""

    def __init__(self) -> None:
        self.used = False
        self.passes: Tensor | None = None
        self.gate: Tensor | None = None
        self.on = False
        self.z: Any = None
        self.calls: dict[str, int] = {}

    def start(self, on: bool, every: int) -> None:
        """Begin a pass; `gate` is 1 if it is looked at, and known on the device only."""
        self.used, self.on = True, on
        self.calls.clear()
        if on and self.passes is not None:
            self.gate = (self.passes % every == 0).double()
            self.passes.add_(1)

    def look(self, watched: Watch, name: str, rule: Rule, h: Tensor, channels: bool) -> None:
        """Count an activation that is a module."""
        if not self.on:
            return
        watched._recorded = True
        call = self.calls[name] = self.calls.get(name, 0) + 1
        label = name if call == 1 else f"{name} ({call})"
        if label not in watched._tallies:
            watched._tallies[label] = len(watched._tallies), Tally(label, rule)
        units = (1,) if h.ndim > 1 and (channels or h.ndim == 2) else None
        layout = watched._layout(label, Trail(units, 0, len(h)), h)
        tally = watched._tallies[label][1]
        tally.add(self.z, h, layout, samples=watched.samples, gate=self.gate)


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
        if rule is None and isinstance(module, own):
            rule = own_rule(type(module).__name__.lower(), module.forward)
        if rule is not None:
            found[module] = rule
            inside.update(child for child in module.modules() if child is not module)
    return found


def _calls_functions(module: nn.Module) -> bool:
    """Tell whether a module may call activations, or says where samples are."""
    of_torch = type(module).__module__.startswith("torch.nn.modules")
    return not of_torch or any(True for _ in module.children()) or hasattr(module, "batch_first")


def _mask(
    given: Mask | None, model: nn.Module, args: Any, kwargs: Mapping[str, Any]
) -> Tensor | None:
    """Find which positions count: those that the model's padding mask does not leave out."""
    if callable(given):
        return given(*args, **kwargs).bool()
    if len(args) < 2 and not kwargs:
        return None
    try:
        bound = inspect.signature(model.forward).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    bound |= bound.get("kwargs", {})
    for name in _PADDING if given is None else [given]:
        found = bound.get(name)
        if isinstance(found, Tensor) and found.ndim == 2:
            return found.bool() if _PADDING.get(name, True) else ~found.bool()
    return None


def _first_samples(
    args: tuple[Any, ...], kwargs: dict[str, Any], given: list[Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Keep two samples of what a model is called with; all if it isn't clear which those are."""
    n = {len(t) if t.ndim else 0 for t in given}

    def cut(thing: Any) -> Any:
        if isinstance(thing, Tensor) and thing.layout == torch.strided:
            return (thing[:2] if len(n) == 1 and thing.ndim else thing).detach().clone()
        if type(thing) in (tuple, list):
            return type(thing)(map(cut, thing))
        if type(thing) is dict:
            return {key: cut(value) for key, value in thing.items()}
        return thing

    return cut(tuple(args)), cut(dict(kwargs))


def _unseen(model: nn.Module) -> list[str]:
    """Name the parts of a model that have units which nothing here can see."""
    found, attention = [], []
    for name, part in model.named_modules():
        kind = type(part).__name__
        if isinstance(part, torch.jit.ScriptModule):
            found.append(f"{name!r} has been compiled by TorchScript and was not seen")
        elif isinstance(part, _GATED):
            found.append(f"{name!r} ({kind}): its gates are within one call and were not counted")
        elif isinstance(part, nn.RNN) and part.num_layers > 1:
            found.append(f"{name!r} ({kind}): of its {part.num_layers} layers only the last counts")
        elif "attention" in kind.lower() and not any(map(_is_attention, part.children())):
            attention.append((name, kind))
    if attention:
        kinds = ", ".join(dict.fromkeys(kind for _, kind in attention))
        more = f" and {len(attention) - 1} more" if len(attention) > 1 else ""
        found.append(f"{attention[0][0]!r}{more} ({kinds}): attention's softmax has no units")
    return found


def _is_attention(part: nn.Module) -> bool:
    return "attention" in type(part).__name__.lower()


def _checked_axis(axis: Any) -> int | dict[str, int] | None:
    if axis is None:
        return None
    if isinstance(axis, Mapping):
        return {str(name): whole(f"axis[{name!r}]", value, -9) for name, value in axis.items()}
    return whole("axis", axis, -9)


def watch(
    model: nn.Module,
    *,
    every: int = 1,
    samples: int | None = None,
    activations: tuple[type[nn.Module], ...] = (),
    mode: str | None = None,
    axis: int | Mapping[str, int] | None = None,
    mask: Mask | None = None,
    batch_first: bool = True,
    history: bool = False,
) -> Watch:
    """Watch the units of a model while it trains.

    Use it round a training loop, which stays as it is::

        with watch(model, every=10) as watched:
            train(model)
        print(watched.report())

    It follows the functions that run in a forward pass, sums in double precision, in memory of a
    few numbers per unit on the model's device, and waits for the device in `report` only. It never
    raises into the loop: what could not be counted stands in the report's `notes`. When it is
    left, by an exception too, no hook stays behind; a copy of the model that is made meanwhile has
    none.

    Parameters
    ----------
    model : torch.nn.Module
        Any, also one that `torch.compile` or `DistributedDataParallel` has wrapped. Activations are
        modules and functions alike: those of `torch.nn` and `torch.nn.functional`, `torch.relu`,
        `Tensor.relu`, `clamp` and `maximum` behind a layer, and what is put together from others,
        such as x * sigmoid(x), which is judged as a whole.
    every : int, default 1
        Look at the 1st, (every + 1)th, ... of the forward passes.
    samples : int, optional
        Look at the first so many samples of a batch.
    activations : tuple of subclasses of torch.nn.Module
        Activations of your own. They must act on each number by itself; their derivative is found
        by autograd, for which they are called a second time.
    mode : {None, "train", "eval"}
        Which forward passes count: all, or those with the model in training or evaluation mode.
    axis : int or mapping of str to int, optional
        On which axis of the outputs the units are, for all layers or by name. By default it is
        followed from the layer that makes them, through whatever moves axes: after a convolution
        or a batch norm it is 1, after a linear layer or a layer norm the last. Where nothing shows
        it, it is 1 for images and else the last.
    mask : str or callable, optional
        Which positions of a sequence count: the name of the model's argument that says so (0 for
        padding), or a callable that takes what the model takes and returns a boolean tensor of
        shape (samples, positions). By default an argument "attention_mask",
        "src_key_padding_mask" or "key_padding_mask" of two axes, if the model is given one. On a
        GPU, a mask makes the CPU wait.
    batch_first : bool, default True
        Whether the samples are on the first axis of the model's inputs, or on the second. What
        PyTorch's recurrent and transformer layers say of themselves (`batch_first`) is followed.
    history : bool, default False
        Keep the share of dead units on each pass that is looked at, for `Watch.history`.

    Returns
    -------
    Watch
        A context manager with `attach`, `detach`, `clear`, `report` and `history`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name. `report` raises `ValueError` if nothing was seen.

    Notes
    -----
    A layer of the report is called by the path of the module that is the activation, or of the one
    that calls it as a function: "path.relu()", and "path.composed()" if it is put together from
    several. Each call has its own layer, "relu", "relu (2)", .... Only what runs inside
    ``model(x)`` counts: ``model.forward(x)``, calls of the model's parts, and what gradient
    checkpointing computes again in the backward pass do not. Compile a model after the watch is
    attached; PyTorch does not run hooks that are added after the first compiled call. What
    a module is given between passes, such as another slope, is taken up. In compiled code it is
    not, functions are not seen, and where units are is taken from the order of the modules. Under
    `DistributedDataParallel` each rank counts what it sees; `UnitReport.all_reduce` adds the ranks.

    Taught in the chapter `detection`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> _ = net[0].weight.data.fill_(1.0)
    >>> _ = net[0].bias.data.copy_(torch.tensor([-9.0, -1.0, 0.5]))
    >>> with watch(net) as watched:
    ...     for _ in range(5):
    ...         _ = net(torch.rand(100, 2))
    >>> report = watched.report()
    >>> report["1"].dead, report["1"].always_on, report["1"].n_seen
    (array([ True, False, False]), array([False, False,  True]), 500)
    >>> len(net[1]._forward_hooks)
    0
    """
    return Watch(
        model,
        every=every,
        samples=samples,
        activations=activations,
        mode=mode,
        axis=axis,
        mask=mask,
        batch_first=batch_first,
        history=history,
    )
