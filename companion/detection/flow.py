"""Follow the tensors of a forward pass: where the units are, and which calls are an activation.

A `Flow` sees every function of PyTorch that runs while it is entered, those inside modules as well.
Of each tensor it knows on which axes its units and its samples are, since what made it tells (a
linear layer, a convolution) and what moves axes is followed. And it knows of which other tensor it
is an elementwise function, and which function: so a SiLU that is written x * sigmoid(x) is judged
as one activation, by its own derivative, and not by the sigmoid within it.

What becomes of a tensor. When a function is called (`__torch_function__`), `_before` looks at what
it is given and `_after` at what it returns:

- Each output gets a trail, which tells where its units are (`note`; `trails.made` finds it).
- If the function is elementwise, its output gets a formula, too: the tensor that it is a function
  of, how to compute it from there, and which activations are in it (`_step`, `_extend`).
- A formula with an activation in it is *pending*, since more may be added: of x * sigmoid(x) the
  sigmoid is a part, and is dropped when the product becomes pending (`_subsume`).
- It is *judged* (`_settle`) when nothing more can be added: another kind of function takes it, it
  is about to be overwritten, or the pass ends (`finish`). If a module did nothing else, the
  activation gets the module's name before (`left`).

A module that is an activation is one step; what it calls inside is muted (`module`).

A pass that calls the same functions as the last one need not be followed: it is *light*, only the
activations that the `Plan` names are looked at (`_repeat`), and with the first other function it is
light no more. A pass that is not *plain* makes no plan: there an activation was put together, or
holds tensors of this pass alone. Which pass gets which plan, `companion.detection.session` decides.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from companion.detection.rules import FUNCTIONS, Rule, function_rule, own_rule
from companion.detection.trails import Trail, made, outside

__all__ = ["Call", "Flow"]

_ALIASES = {
    "special_expit": "sigmoid", "clip": "clamp", "clamp_min": "clamp", "clamp_max": "clamp",
    "true_divide": "div", "divide": "div", "multiply": "mul", "subtract": "sub",
    "__rsub__": "sub", "__rdiv__": "rdiv", "__rpow__": "pow", "_threshold": "threshold",
    "log_sigmoid": "logsigmoid",
}  # fmt: skip
_LINES = {
    "add", "sub", "mul", "div", "neg", "positive", "to", "type", "type_as", "float", "double",
    "half", "bfloat16", "clone", "detach", "contiguous",
}  # fmt: skip
"""Elementwise functions that are lines, where all arguments but one are constants."""
_BENDS = {
    "abs", "pow", "square", "sqrt", "rsqrt", "exp", "expm1", "exp2", "log", "log1p", "sin", "cos",
    "atan", "erf", "erfc", "reciprocal", "rdiv", "sign", "gt", "lt", "ge", "le", "where", "bool",
    "maximum", "minimum", "max", "min", "masked_fill", "special_ndtr",
}  # fmt: skip
"""Elementwise functions that are no activation alone, but may be one together."""
_CLAMPS = {"clamp", "maximum", "minimum", "max", "min"}
"""Activations only behind a layer: elsewhere they keep a number in its bounds."""
_TWO = {"max", "min", "where", "maximum", "minimum"}
"""Of these, the forms with one tensor reduce it, or look for places."""
_RECURRENT = {"rnn_relu": "relu", "rnn_tanh": "tanh"}
_BY_OUTPUT = {
    "relu", "relu6", "hardtanh", "hardsigmoid", "clamp", "hardshrink", "softshrink", "sigmoid",
    "tanh",
}  # fmt: skip
"""Activations that are judged by their output, so that it does no harm if they work in place."""
_DULL = {
    "size", "dim", "numel", "nelement", "ndimension", "stride", "is_contiguous", "data_ptr",
    "is_floating_point", "is_complex", "element_size", "get_device", "__len__", "__repr__",
    "__hash__", "__format__", "requires_grad_", "register_hook", "is_same_size", "storage_offset",
}  # fmt: skip
"""What asks about a tensor, and does nothing with its numbers."""


_NUMBERS = (int, float, str, type(None))


@dataclass(frozen=True, eq=False)
class Call:
    """A call of an activation, with what came in and what went out."""

    rule: Rule
    z: Tensor
    h: Tensor
    trail: Trail  #: of z
    place: int  #: in the order of calls
    name: str  #: of its layer in a report
    base: str = ""  #: the same without a number
    path: str = ""  #: of the module that called it
    step: int = -1  #: among the functions of the pass; -1 for a module
    numbers: tuple[Any, ...] = ()  #: what the function was given beside tensors, such as a slope


@dataclass(eq=False)
class Plan:
    """What a pass called, so that the next one need not be followed if it calls the same."""

    names: list[str] = field(default_factory=list)  #: of its functions
    calls: dict[int, Call] = field(default_factory=dict)  #: of activations, by their place there
    trails: dict[str, tuple[Trail, int]] = field(default_factory=dict)
    """By layer, where its units were, and the number of axes."""

    def trail(self, label: str, h: Tensor) -> Trail | None:
        """Return where the units of a layer were, if its output was of as many axes."""
        trail, ndim = self.trails.get(label, (None, 0))
        return trail if ndim == h.ndim else None


@dataclass(frozen=True, eq=False)
class _Formula:
    """An elementwise function of one tensor."""

    root: Tensor
    run: Callable[[Tensor], Any]
    calls: tuple[Call, ...] = ()  #: the activations in it that are not judged yet
    n_bends: int = 0  #: other functions in it that are no lines
    joined: bool = False  #: whether it joins two functions of the root, as x * sigmoid(x) does
    judged: bool = False  #: whether an activation in it has been judged

    @property
    def own(self) -> bool:
        """Whether it is an activation that is put together from parts."""
        bent = bool(self.calls) or self.n_bends > 0 or self.judged
        return (self.joined and bent) or self.n_bends > 1


@dataclass(frozen=True, eq=False)
class _Step:
    """A call of an elementwise function, before it is made."""

    formula: _Formula  #: of what it will return
    z: Tensor  #: what it is called on
    trail: Trail  #: of that


class Flow(TorchFunctionMode):
    """What is known of one forward pass; `judge` is told of each activation, once it is whole.

    With a `plan`, the pass is not followed as long as it calls the functions of the plan.
    """

    def __init__(
        self,
        makers: Mapping[int, str],
        judge: Callable[[Call], None],
        failed: Callable[[str, Exception], None],
        *,
        paths: Container[str] = (),
        fixed: Container[int] = (),
        batch_first: bool = True,
        plan: Plan | None = None,
    ) -> None:
        super().__init__()
        self.makers, self.judge, self.failed, self.fixed = makers, judge, failed, fixed
        self.paths = paths
        self.batch_first = batch_first
        self.plan, self.light = plan or Plan(), plan is not None
        self.plain = True  # whether another pass may go by what this one called
        self._step_number = -1
        self._numbers: tuple[Any, ...] = ()  # of the function that runs
        self.path: list[str] = [""]
        self.muted = 0  # how many modules that are activations run at present
        self.place = 0  # of the last call, in their order
        self._names: dict[str, int] = {}
        self._trails: dict[int, tuple[weakref.ref[Tensor], Trail]] = {}
        self._formulas: dict[int, _Formula] = {}  # of tensors that have a trail
        self._pending: dict[int, tuple[Tensor, _Formula]] = {}  # not judged yet
        self._judged: set[int] = set()  # places of calls that are

    # ---- what is known of a tensor --------------------------------------------------------------

    def trail(self, t: Tensor) -> Trail:
        """Return it; of one that comes from outside, the samples are on the first axis."""
        found = self._trails.get(id(t))
        if found is not None:
            return found[1]
        batch = 0 if self.batch_first or t.ndim < 2 else 1
        return outside(t, batch, fixed=id(t) in self.fixed)

    def note(self, t: Tensor, trail: Trail) -> None:
        """Keep it as long as the tensor lives."""
        key = id(t)

        def forget(_: Any, trails: Any = self._trails, formulas: Any = self._formulas) -> None:
            trails.pop(key, None)
            formulas.pop(key, None)

        self._trails[key] = (weakref.ref(t, forget), trail)
        self._formulas.pop(key, None)

    # ---- every function of PyTorch --------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function as it would have run, with a look before and after."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self.muted:
            return func(*args, **kwargs)
        self._step_number += 1
        if self.light:
            names, number = self.plan.names, self._step_number
            if number < len(names) and names[number] == name:
                call = self.plan.calls.get(number)
                if call is None:
                    return func(*args, **kwargs)
                if call.path == self.path[-1] and call.numbers == _numbers(args, kwargs):
                    return self._repeat(call, func, args, kwargs)
            self.light = False
        else:
            self.plan.names.append(name)
        if name == "__get__":
            name = getattr(getattr(func, "__self__", None), "__name__", "")
            name = name if name in {"T", "mT", "H", "mH"} else "size"
        if name in _DULL or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        self._numbers = _numbers(args, kwargs)
        name, in_place = _plain(name, args, kwargs)
        given: list[Tensor] = []
        step = None
        try:
            with torch._C.DisableTorchFunction():
                given = tensors_in((*args, *kwargs.values()))
                step = self._before(func, name, args, kwargs, given, in_place)
        except Exception as error:
            self.failed(self.path[-1], error)
        output = func(*args, **kwargs)
        try:
            with torch._C.DisableTorchFunction():
                self._after(func, name, args, kwargs, given, tensors_in(output), step)
        except Exception as error:
            self.failed(self.path[-1], error)
        return output

    def _repeat(self, call: Call, func: Any, args: Any, kwargs: Any) -> Any:
        """Make a call that the plan has, and judge it as it was judged."""
        z: Any = first_tensor(args, kwargs)
        if call.rule.of != "h" and _plain(func.__name__, args, kwargs)[1]:
            with torch._C.DisableTorchFunction():
                z = z.clone()
        output = func(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            label = self.label(call.base)
            self.judge(replace(call, z=z, h=output, name=label, place=self.place))
        return output

    def _before(
        self, func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor], in_place: bool
    ) -> _Step | None:
        """Judge what goes no further; say what the call computes, if it is elementwise."""
        if in_place and given:
            operands = [t for t in given if not self._constant(t)]
            if name in _LINES and operands and operands[0] is given[0]:
                how = self._joined_in_place if len(operands) > 1 else self._line_in_place
                if step := how(func, args, kwargs, operands):
                    return step
            self.overwritten(given[0])
        step = None
        elementwise = name in FUNCTIONS or (name in _LINES | _BENDS and not in_place)
        if elementwise and given and (name not in _TWO or len(args) + len(kwargs) > 1 < len(given)):
            operands = given[:1]
            if name not in FUNCTIONS or name == "clamp":
                operands = [t for t in given if not self._constant(t)] or operands
            step = self._step(func, args, kwargs, operands, name, in_place)
        if step is None:
            for t in given:
                self._settle(t)
        elif name in _BENDS - _CLAMPS or (name == "div" and args[1] is step.z):
            formula = replace(step.formula, n_bends=step.formula.n_bends + 1)
            step = replace(step, formula=formula)
        return step

    def _joined_in_place(
        self, func: Any, args: Any, kwargs: Any, operands: list[Tensor]
    ) -> _Step | None:
        """Put together x.mul_(sigmoid(x)) and its like, which overwrite what they are made of."""
        step = self._step(func, args, kwargs, operands)
        if step is None:
            return None
        self._subsume(step.formula)
        root = step.formula.root
        if root is operands[0]:
            root = operands[0].detach().clone()
            self.note(root, step.trail)
        self.overwritten(operands[0])
        return replace(step, formula=replace(step.formula, root=root))

    def _line_in_place(
        self, func: Any, args: Any, kwargs: Any, operands: list[Tensor]
    ) -> _Step | None:
        """Put together relu6(x + 3).div_(6) and its like, which overwrite a part of a formula."""
        (t,) = operands
        _, formula = self._pending.get(id(t), (None, self._formulas.get(id(t))))
        if formula is None or formula.root is t or (formula.calls and id(t) not in self._pending):
            return None
        self._pending.pop(id(t), None)
        calls = tuple(replace(c, h=t.clone()) if c.h is t else c for c in formula.calls)
        self._formulas[id(t)] = replace(formula, calls=calls)
        self.overwritten(t)
        return self._step(func, args, kwargs, operands)

    def _constant(self, t: Tensor) -> bool:
        return t.numel() == 1 or self.trail(t).fixed

    def _subsume(self, formula: _Formula) -> None:
        """Drop what is pending and is a part of a formula."""
        for key, (_, other) in list(self._pending.items()):
            if other.root is formula.root and {*other.calls} <= {*formula.calls}:
                del self._pending[key]

    def _step(
        self, func: Any, args: Any, kwargs: Any, operands: list[Tensor], name: str = "",
        in_place: bool = False,
    ) -> _Step | None:  # fmt: skip
        """Put a call together with what its operands are, if all are functions of one tensor."""
        trail = self.trail(operands[0])
        z = operands[0].clone() if in_place and name not in _BY_OUTPUT else operands[0]
        parts = [self._formulas.get(id(t)) or _Formula(t, _identity) for t in operands]
        if in_place and parts[0].root is operands[0]:
            parts[0] = _Formula(z, _identity)
        root = parts[0].root
        if any(part.root is not root for part in parts):
            return None
        runs = {id(t): part.run for t, part in zip(operands, parts, strict=True)}
        run = _joined(func, args, kwargs, runs)
        calls = {call.place: call for part in parts for call in part.calls}
        formula = _Formula(
            root, run, tuple(calls.values()),
            n_bends=sum(part.n_bends for part in parts),
            joined=len(operands) > 1 or any(part.joined for part in parts),
            judged=any(part.judged for part in parts),
        )  # fmt: skip
        return _Step(formula, z, trail)

    def _after(
        self, func: Any, name: str, args: Any, kwargs: Any, given: list[Tensor],
        outputs: list[Tensor], step: _Step | None,
    ) -> None:  # fmt: skip
        """Note where units are in what was returned, and what it is a function of."""
        if not outputs:
            return
        trails = [self.trail(t) for t in given]
        found = made(func, name, args, kwargs, given, trails, outputs, self.makers)
        for t, trail in zip(outputs, found, strict=True):
            self.note(t, trail)
        if name in _RECURRENT:  # of several layers, the last puts this out
            self.plain = False
            h = outputs[0]
            last = function_rule(_RECURRENT[name])
            self.judge(self._call(last, h, h, found[0], self.path[-1] or "RNN"))
        if name == "glu":
            gate = given[0].chunk(2, args[1] if len(args) > 1 else kwargs.get("dim", -1))[1]
            sigmoid = function_rule("sigmoid")
            self.judge(self._call(sigmoid, gate, gate.sigmoid(), trails[0], None))
        if step is None:
            return
        if not outputs[0].is_floating_point():
            self._formulas[id(outputs[0])] = step.formula
            return
        rule = None
        if name in FUNCTIONS or name in _CLAMPS:
            rule = _rule(func, name, args, kwargs, step)
            if any(id(t) not in self.fixed for t in given[1:]):  # a plan would keep its numbers
                self.plain = False
        self._extend(outputs[0], step, rule)

    # ---- activations ----------------------------------------------------------------------------

    def module(
        self, path: str, rule: Rule, function: Callable[[Tensor], Any], z: Tensor, h: Tensor,
        given: Tensor,
    ) -> None:  # fmt: skip
        """Note a module that is an activation: z, a copy of what was given, went in; h came out."""
        trail, in_place = self.trail(given), h is given
        if not in_place:
            z = given
        elif z is not given:
            self.note(z, trail)
            if (part := self._formulas.get(id(given))) is not None and part.root is not given:
                self._formulas[id(z)] = part
        step = self._step(function, (z,), {}, [z])
        self.note(h, trail)
        if step is not None:
            self._extend(h, replace(step, trail=trail), rule, path)

    def _extend(self, t: Tensor, step: _Step, rule: Rule | None, path: str | None = None) -> None:
        """Note what a tensor is a function of; it is judged when nothing more is added to it."""
        formula, trail = step.formula, step.trail
        loose = rule is not None and rule.kind == "clamp" and trail.units is None
        loose &= self._step_number not in self.plan.calls  # behind a layer, an earlier pass found
        if rule is not None and not trail.fixed and not loose:
            call = self._call(rule, step.z, t, step.trail, path)
            formula = replace(formula, calls=(*formula.calls, call))
        self._formulas[id(t)] = formula
        self._subsume(formula)
        if formula.calls or (formula.own and self.trail(formula.root).units is not None):
            self._pending[id(t)] = (t, formula)

    def _call(self, rule: Rule, z: Tensor, h: Tensor, trail: Trail, whole: str | None) -> Call:
        """Name a call: by the module that does nothing else, or by the one that made it."""
        name, step = whole, -1
        if name is None:
            name, step = f"{self.path[-1]}.{rule.kind}()".removeprefix("."), self._step_number
        label = self.label(name)
        return Call(rule, z, h, trail, self.place, label, name, self.path[-1], step, self._numbers)

    def _whole(self, t: Tensor, formula: _Formula, kind: str, path: str | None) -> Call:
        """Take a formula for one activation; as it holds tensors of this pass, no plan can."""
        self.plain = False
        rule = own_rule(kind, formula.run)
        return self._call(rule, formula.root, t, self.trail(formula.root), path)

    def label(self, name: str) -> str:
        """Number the calls of a name: "relu", "relu (2)", ..."""
        self.place += 1
        while True:
            self._names[name] = count = self._names.get(name, 0) + 1
            label = name if count == 1 else f"{name} ({count})"
            if count == 1 or label not in self.paths:  # nobody's own name
                return label

    def left(self, path: str, kind: str, given: Any, output: Any) -> None:
        """Give the name of a module to an activation that is all that it does."""
        t, formula = self._pending.get(id(output), (None, None))
        if t is None or formula is None or (formula.root is not given and output is not given):
            return
        if formula.own:
            call = self._whole(t, formula, kind, path)
            formula = replace(formula, calls=(call,), joined=False, n_bends=0, judged=False)
        elif len(formula.calls) == 1 and formula.calls[0].name.endswith(")"):
            (call,) = formula.calls
            call = replace(call, name=self.label(path), base=path, place=self.place)
            formula = replace(formula, calls=(call,))
        self._pending[id(t)] = (t, formula)
        self._formulas[id(t)] = formula

    def overwritten(self, t: Tensor) -> None:
        """Judge whatever needs the numbers of a tensor that is about to change."""
        for key, (value, formula) in list(self._pending.items()):
            needed = [value, formula.root, *(x for call in formula.calls for x in (call.z, call.h))]
            if any(t is x for x in needed):
                self._settle(self._pending[key][0])
        for key, formula in list(self._formulas.items()):
            if formula.root is t:  # of what it was
                del self._formulas[key]

    def _settle(self, t: Tensor) -> None:
        """Judge what a tensor is, if that is an activation."""
        _, formula = self._pending.pop(id(t), (None, None))
        if formula is None:
            return
        calls = formula.calls
        if formula.own:
            calls = (self._whole(t, formula, "composed", None),)
        for call in calls:
            if call.place not in self._judged:  # where its output goes two ways
                self._judged.add(call.place)
                self.judge(call)
        self._formulas[id(t)] = replace(formula, calls=(), n_bends=0, judged=True)

    def finish(self) -> None:
        """Judge what is left at the end of the pass."""
        with torch._C.DisableTorchFunction():
            for t, _ in list(self._pending.values()):
                self._settle(t)


def tensors_in(thing: Any) -> list[Tensor]:
    """Find the tensors in arguments or results, in their order."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, Mapping):
        parts = [*thing.values()]
    elif isinstance(thing, tuple | list):
        parts = [*thing]
    else:
        parts = [*vars(thing).values()] if dataclasses.is_dataclass(thing) else []
    return [t for part in parts if not isinstance(part, _NUMBERS) for t in tensors_in(part)]


def first_tensor(args: Any, kwargs: Any) -> Tensor | None:
    """Find the first tensor among the arguments of a call."""
    if args and isinstance(args[0], Tensor):
        return args[0]
    return next(iter(tensors_in((args, kwargs))), None)


def _numbers(args: Any, kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Collect what a function is given beside tensors: a rule stands on it."""
    named = [(key, value) for key, value in kwargs.items() if isinstance(value, _NUMBERS)]
    return (*(value for value in args if isinstance(value, _NUMBERS)), *named)


def _plain(name: str, args: Any, kwargs: Mapping[str, Any]) -> tuple[str, bool]:
    """Take off a name what says that it works in place, and make aliases one."""
    in_place = bool(kwargs.get("inplace")) or name.startswith("__i") or name == "__setitem__"
    if name.endswith("_") and not name.endswith("__"):
        name, in_place = name[:-1], True
    name = _ALIASES.get(name, name)
    if name in FUNCTIONS and any(a is True for a in args[1:]):
        in_place = True
    return name, in_place


def _rule(func: Any, name: str, args: Any, kwargs: Mapping[str, Any], step: _Step) -> Rule:
    """Return the rule of a call of an activation."""
    rest: tuple[Any, ...] = args[1:]
    options = dict(kwargs)
    if getattr(func, "__name__", "").rstrip("_") == "clamp_max" and len(args) > 1:
        rest, options = (), {"max": args[1]}
    bounds = [*rest, *options.values()]
    if name in _CLAMPS and (name != "clamp" or any(isinstance(a, Tensor) for a in bounds)):
        return own_rule("clamp", _joined(func, args, kwargs, {id(step.z): _identity}))
    return function_rule(name, rest, options)


def _joined(
    func: Any, args: Any, kwargs: Mapping[str, Any], parts: Mapping[int, Callable[[Tensor], Any]]
) -> Callable[[Tensor], Any]:
    """Return a call as a function of z, which some of its arguments are functions of, by id."""
    holes = [parts.get(id(a), a) for a in args]
    named = {key: parts.get(id(a), a) for key, a in kwargs.items()}

    def run(z: Tensor) -> Any:
        def fill(a: Any) -> Any:  # a copy, since the call may work in place
            return a(z).clone() if any(a is part for part in parts.values()) else a

        return func(*map(fill, holes), **{key: fill(a) for key, a in named.items()})

    return run


def _identity(z: Tensor) -> Tensor:
    return z
