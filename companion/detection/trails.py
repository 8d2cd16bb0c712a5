"""Where the units and the samples of a tensor are, after each function of PyTorch.

Beneath `companion.detection.flow`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from companion.detection.tally import Layout

__all__ = ["Trail", "made", "outside"]

_LAYERS = {"linear": 0} | {f"conv{kind}{n}d": n for kind in ("", "_transpose") for n in (1, 2, 3)}
"""Behind the axis of their units, how many axes of positions there are."""
_PRODUCTS = {"matmul", "mm", "bmm", "baddbmm", "addmm", "__matmul__"}
_NORMS = {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"}
_RECURRENT = {"rnn_relu", "rnn_tanh", "lstm", "gru"}
_VIEWS = {
    "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "T", "mT", "H",
    "mH", "squeeze", "unsqueeze", "expand", "expand_as", "chunk", "split", "tensor_split",
    "unbind", "__getitem__", "select", "narrow",
}  # fmt: skip
_SHAPES = {"reshape", "view", "flatten", "unflatten", "view_as", "reshape_as"}
_LIKE = {"zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "rand_like"}
_REDUCTIONS = {
    "sum", "mean", "amax", "amin", "max", "min", "prod", "std", "var", "logsumexp",
}  # fmt: skip

_FAR = 2**40
"""Stride of the samples in a picture of a tensor, in which the units lie next to each other."""


@dataclass(frozen=True)
class Trail:
    """What is known of a tensor."""

    units: tuple[int, ...] | None  #: axes along which units differ; None: not known
    batch: int | None  #: axis of the samples; None: there is one, or they share an axis
    n: int  #: samples
    made_by: str = ""  #: path of the layer whose rows make the units
    fixed: bool = False  #: whether it is computed from parameters and constants alone
    unfit: str = ""  #: why units cannot be told: then an activation is not counted
    note: str = ""  #: what else the report should say

    def layout(self, t: Tensor) -> Layout:
        """Say where units and samples are; where nothing shows it, by the number of axes."""
        units = self.units
        if units is None:
            units = (1,) if t.ndim > 3 else (t.ndim - 1,) if t.ndim > 1 else ()
        batch = None if self.batch in units or self.batch is None else self.batch
        single = batch is None and self.batch is not None  # its axis holds units
        return Layout(
            units, batch, 1 if single else t.shape[batch] if batch is not None else self.n
        )


def outside(t: Tensor, batch: int = 0, *, fixed: bool = False) -> Trail:
    """Return the trail of a tensor that no layer made, with the samples on this axis."""
    if not t.ndim:
        return Trail(None, None, 1, fixed=fixed)
    return Trail(None, batch, t.shape[batch], fixed=fixed)


def made(
    func: Any, name: str, args: Any, kwargs: Any, given: Sequence[Tensor],
    trails: Sequence[Trail], outputs: Sequence[Tensor], makers: Mapping[int, str],
) -> list[Trail]:  # fmt: skip
    """Find the trails of what a function returned, from those of the tensors it was given."""
    out = outputs[0]
    last = (out.ndim - 1,)
    if name in _LAYERS:
        axis = (out.ndim - 1 - _LAYERS[name],)
        return [_same(trails[0], axis, out, makers.get(id(given[1]), ""))]
    if name in _LIKE or all(trail.fixed for trail in trails):
        return [outside(o, fixed=True) for o in outputs]
    before, t = trails[0], given[0]
    if name in _PRODUCTS:
        return [_product(name, given, trails, out, makers)]
    if name == "einsum":
        return [_einsum(args, given, trails, out, makers)]
    if "grouped_mm" in name:
        return [replace(_same(before, last, out, ""), note="pools the units of several experts")]
    if name in {"embedding", "bilinear"}:
        return [_same(before, last, out, "")]
    if name in _NORMS:
        axis = last if name in {"layer_norm", "rms_norm"} else (1,)
        known = axis if before.units is None or name == "batch_norm" else before.units
        return [_same(before, known, out, before.made_by if known == before.units else "")]
    if name in _RECURRENT:
        return [replace(before, units=(o.ndim - 1,), made_by="") for o in outputs]
    if name in _VIEWS:
        found = _viewed(func, args, kwargs, t, before, outputs)
        if found is not None:
            return found
    if name in _SHAPES:
        return [_reshaped(before, t.shape, out.shape)]
    if name in _REDUCTIONS and out.ndim < t.ndim:
        return [_reduced(before, t, o, args, kwargs) for o in outputs]
    living = [(t, trail) for t, trail in zip(given, trails, strict=True) if not trail.fixed]
    # The first of the largest: a weight of fewer axes may stand before what it multiplies.
    t, before = max(living, key=lambda one: one[0].ndim)
    others = {trail.made_by for _, trail in living}
    return [_guessed(before, t, o, one_maker=len(others) == 1) for o in outputs]


def _same(before: Trail, units: tuple[int, ...], out: Tensor, made_by: str) -> Trail:
    batch = before.batch if before.batch is not None and before.batch < out.ndim else None
    return Trail(units, batch, before.n, made_by, note=before.note)


def _guessed(before: Trail, t: Tensor, out: Tensor, *, one_maker: bool) -> Trail:
    """Take it that a function moves nothing; of one that takes axes away, that units remain."""
    units, made_by = before.units, before.made_by if one_maker else ""
    if out.ndim == t.ndim:
        kept = units is not None and all(out.shape[i] == t.shape[i] for i in units)
        n = before.n if before.batch is None else out.shape[before.batch]
        return replace(before, n=n, made_by=made_by if kept else "", fixed=False)
    batch = 0 if out.ndim and before.batch == 0 and out.shape[0] == before.n else None
    if units == (1,) and out.ndim > 1 and out.shape[:2] == t.shape[:2]:
        return replace(before, batch=batch, made_by=made_by, fixed=False)
    if units == (t.ndim - 1,) and out.ndim and out.shape[-1] == t.shape[-1]:
        return replace(before, units=(out.ndim - 1,), batch=batch, made_by=made_by, fixed=False)
    return Trail(None, batch, before.n)


def _product(
    name: str, given: Sequence[Tensor], trails: Sequence[Trail], out: Tensor,
    makers: Mapping[int, str],
) -> Trail:  # fmt: skip
    """Find the units of a matrix product: along the axis that a weight brings, or those it had."""
    first = 1 if name in {"addmm", "baddbmm"} else 0
    (left, right), (one, two) = given[first : first + 2], trails[first : first + 2]
    if not (one.fixed or two.fixed):
        return _product_of_data(left, right, one, two, out)
    weight, before = (left, two) if one.fixed else (right, one)
    axis = out.ndim - 2 if one.fixed and right.ndim > 1 else out.ndim - 1
    if weight.ndim > 2:  # experts; which samples their rows are of, nobody knows
        units = (*range(out.ndim - 2), axis)
        return Trail(units, 2 * out.ndim - 3 - axis, out.shape[2 * out.ndim - 3 - axis])
    batch = before.batch if weight is right else out.ndim - 1 if right.ndim == 2 else 0
    batch = batch if batch is None or batch < out.ndim else None
    n = before.n if batch is None else out.shape[batch]
    return Trail((axis,), batch, n, makers.get(id(weight), ""))


def _product_of_data(left: Tensor, right: Tensor, one: Trail, two: Trail, out: Tensor) -> Trail:
    """Keep the units of two tensors that are multiplied, such as values that attention adds up."""
    for t, trail, axis in ((left, one, out.ndim - 2), (right, two, out.ndim - 1)):
        if t.ndim == out.ndim and axis in (trail.units or ()):
            return Trail(trail.units, trail.batch, trail.n)
    return Trail(None, one.batch, one.n, unfit="a product of two tensors has no units")


def _einsum(
    args: Any, given: Sequence[Tensor], trails: Sequence[Trail], out: Tensor,
    makers: Mapping[int, str],
) -> Trail:  # fmt: skip
    """Find the units of an `einsum`: along all axes that a parameter has, too."""
    inputs, arrow, result = str(args[0]).replace(" ", "").partition("->")
    letters = inputs.split(",")
    place = next((i for i, trail in enumerate(trails) if trail.fixed), None)
    if not arrow or "." in inputs or place is None or len(given) != 2:
        unfit = "which of its axes are units is not known" if out.ndim > 2 else ""
        return replace(outside(out), unfit=unfit)
    units = tuple(i for i, letter in enumerate(result) if letter in letters[place])
    rest = [i for i in range(out.ndim) if i not in units]
    batch = rest[0] if rest else None
    n = out.shape[batch] if batch is not None else 1
    return Trail(units, batch, n, makers.get(id(given[place]), "") if len(units) == 1 else "")


def _viewed(
    func: Any, args: Any, kwargs: Any, t: Tensor, before: Trail, outputs: Sequence[Tensor]
) -> list[Trail] | None:
    """Let a function move the axes of a picture that holds no numbers, and see where they are."""
    rest = [*args[1:], *kwargs.values()]
    numbers = any(
        isinstance(i, Tensor) for a in rest for i in (a if isinstance(a, tuple) else (a,))
    )
    if numbers or (before.units is None and before.batch is None):
        return None
    strides, step = [0] * t.ndim, 1
    for axis in reversed(before.units or ()):
        strides[axis], step = step, step * t.shape[axis]
    if before.batch is not None and not strides[before.batch]:
        strides[before.batch] = _FAR
    picture = torch.empty_strided(t.shape, strides, device="meta")

    def swap(a: Any) -> Any:
        return picture if a is t else a

    try:
        moved = func(*map(swap, args), **{key: swap(a) for key, a in kwargs.items()})
    except Exception:  # what a picture cannot do
        return None
    pictures = [moved] if isinstance(moved, Tensor) else list(moved)
    if [p.shape for p in pictures] != [o.shape for o in outputs]:
        return None
    found = []
    for p in pictures:
        units = tuple(i for i, stride in enumerate(p.stride()) if 0 < stride < _FAR)
        batch = next((i for i, stride in enumerate(p.stride()) if stride >= _FAR), None)
        whole = math.prod(p.shape[i] for i in units) == step and len(units) == 1
        n = p.shape[batch] if batch is not None else 1 if before.batch is not None else before.n
        known = units if before.units is not None else None
        made_by = before.made_by if whole else ""
        found.append(replace(before, units=known, batch=batch, n=n, made_by=made_by))
    return found


def _reshaped(before: Trail, old: Sequence[int], new: Sequence[int]) -> Trail:
    """Follow axes through a reshape: an axis that holds a part of the units has units."""

    def reach(shape: Sequence[int], axis: int) -> tuple[int, int]:
        step = math.prod(shape[axis + 1 :])
        return step, step * shape[axis]

    def holding(axis: int) -> list[int]:
        low, high = reach(old, axis)
        ends = [reach(new, i) for i in range(len(new))]
        return [
            i for i, (start, stop) in enumerate(ends)
            if new[i] > 1 and max(low, start) < min(high, stop)
        ]  # fmt: skip

    units = None
    if before.units is not None:
        units = tuple(sorted({i for axis in before.units for i in holding(axis)}))
    batch = None
    if before.batch is not None:
        same = [i for i in holding(before.batch) if new[i] == old[before.batch]]
        batch = same[0] if same else None
        if old[before.batch] == 1 and new and new[0] == 1:
            batch = 0
    whole = units is not None and [new[i] for i in units] == [old[i] for i in before.units or ()]
    mixed = {*(units or ())} & {*(holding(before.batch) if before.batch is not None else ())}
    unfit = "its samples and its units share an axis" if mixed and before.n > 1 else before.unfit
    made_by = before.made_by if whole else ""
    return replace(before, units=units, batch=batch, made_by=made_by, unfit=unfit)


def _reduced(before: Trail, t: Tensor, out: Tensor, args: Any, kwargs: Any) -> Trail:
    """Take away the axes that a function sums over."""
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis"))
    gone = {i % t.ndim for i in ((dim,) if isinstance(dim, int) else dim or range(t.ndim))}
    rest = [i for i in range(t.ndim) if i not in gone]
    if len(rest) != out.ndim:
        return Trail(None, None, before.n, fixed=before.fixed)
    units = (
        None if before.units is None else tuple(rest.index(i) for i in before.units if i in rest)
    )
    batch = rest.index(before.batch) if before.batch in rest else None
    made_by = before.made_by if len(units or ()) == len(before.units or ()) else ""
    return replace(before, units=units or None, batch=batch, made_by=made_by)
