"""Where the units and the samples of a tensor are, after each function of PyTorch.

Beneath `companion.detection.flow`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from companion.detection.tally import Layout

__all__ = ["Trail", "made"]

_CONVOLUTIONS = {f"conv{kind}{n}d": n for kind in ("", "_transpose") for n in (1, 2, 3)}
_PRODUCTS = {"matmul", "mm", "bmm", "baddbmm", "addmm", "__matmul__", "__rmatmul__"}
_NORMS = {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm"}
_RECURRENT = {"rnn_relu", "rnn_tanh", "lstm", "gru"}
_VIEWS = {
    "transpose", "swapaxes", "swapdims", "permute", "movedim", "moveaxis", "t", "T", "mT", "H",
    "mH", "squeeze", "unsqueeze", "expand", "expand_as", "chunk", "split", "tensor_split",
    "unbind", "__getitem__", "select", "narrow",
}  # fmt: skip
_SHAPES = {"reshape", "view", "flatten", "unflatten", "view_as", "reshape_as"}
_FILLED = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like"}
_FILLED |= {"new_zeros", "new_ones", "new_full"}

_FAR = 2**40
"""Stride of the samples in a picture of a tensor, in which the units lie next to each other."""


@dataclass(frozen=True)
class Trail:
    """What is known of a tensor."""

    units: tuple[int, ...] | None  #: axes along which units differ; None: not known
    batch: int | None  #: axis of the samples; None: there is one, or they share an axis
    n: int  #: samples
    made_by: str = ""  #: path of the layer whose rows make the units
    filled: bool = False  #: whether all its numbers are the same

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


def made(
    func: Any, name: str, args: Any, kwargs: Any, given: Sequence[Tensor],
    trails: Sequence[Trail], outputs: Sequence[Tensor], makers: Mapping[int, str],
) -> list[Trail]:  # fmt: skip
    """Find the trails of what a function returned, from those of the tensors it was given."""
    if name in _FILLED or not given:
        return [Trail(None, 0 if t.ndim else None, len(t) if t.ndim else 1, filled=name in _FILLED)
                for t in outputs]  # fmt: skip
    before, t, out = trails[0], given[0], outputs[0]
    last = (out.ndim - 1,)
    if name == "linear":
        return [_same(before, last, out, makers.get(id(given[1]), ""))]
    if name in _CONVOLUTIONS:
        axis = (out.ndim - 1 - _CONVOLUTIONS[name],)
        return [_same(before, axis, out, makers.get(id(given[1]), ""))]
    if name in _PRODUCTS:
        return [_product(name, given, trails, out, makers)]
    if name == "einsum":
        return [_einsum(args, given, trails, out, makers)]
    if name in {"embedding", "bilinear"}:
        return [_same(trails[0], last, out, "")]
    if name in _NORMS:
        axis = last if name in {"layer_norm", "rms_norm"} else (1,)
        known = before.units if before.units is not None else axis
        return [_same(before, known, out, before.made_by)]
    if name in _RECURRENT:
        return [replace(before, units=(o.ndim - 1,), made_by="") for o in outputs]
    if name in _VIEWS:
        found = _viewed(func, args, kwargs, t, before, outputs)
        if found is not None:
            return found
    if name in _SHAPES:
        return [_reshaped(before, t.shape, out.shape)]
    others = {trail.made_by for trail in trails if trail.made_by}
    return [_guessed(before, t, o, one_maker=len(others) == 1) for o in outputs]


def _same(before: Trail, units: tuple[int, ...], out: Tensor, made_by: str) -> Trail:
    batch = before.batch if before.batch is not None and before.batch < out.ndim else None
    return Trail(units, batch, before.n, made_by)


def _guessed(before: Trail, t: Tensor, out: Tensor, *, one_maker: bool) -> Trail:
    """Take it that a function moves nothing; of one that reduces axes, that the units remain."""
    units = before.units
    if out.ndim == t.ndim:
        kept = units is not None and all(out.shape[i] == t.shape[i] for i in units)
        n = before.n if before.batch is None else out.shape[before.batch]
        return Trail(units, before.batch, n, before.made_by if kept and one_maker else "")
    batch = 0 if out.ndim and before.batch == 0 and out.shape[0] == before.n else None
    if units == (1,) and out.ndim > 1 and out.shape[:2] == t.shape[:2]:
        return Trail(units, batch, before.n, before.made_by if one_maker else "")
    if units == (t.ndim - 1,) and out.ndim and out.shape[-1] == t.shape[-1]:
        return Trail((out.ndim - 1,), batch, before.n, before.made_by if one_maker else "")
    return Trail(None, batch, before.n)


def _product(
    name: str, given: Sequence[Tensor], trails: Sequence[Trail], out: Tensor,
    makers: Mapping[int, str],
) -> Trail:  # fmt: skip
    """Find the units of a matrix product: along the axis that the parameter brings."""
    pair = 1 if name in {"addmm", "baddbmm"} else 0
    left, right = given[pair : pair + 2] if name != "__rmatmul__" else given[1::-1]
    before = trails[pair] if left is given[pair] else trails[1]
    axis = out.ndim - 1
    weight = right
    if isinstance(left, nn.Parameter) and not isinstance(right, nn.Parameter):
        weight, before = left, trails[pair + 1] if right is given[pair + 1] else trails[0]
        axis = out.ndim - 2 if right.ndim > 1 else out.ndim - 1
    experts = isinstance(weight, nn.Parameter) and weight.ndim > 2
    units = (*range(out.ndim - 2), axis) if experts else (axis,)
    batch = before.batch if weight is right else out.ndim - 1 if right.ndim == 2 else 0
    batch = batch if batch is None or batch < out.ndim else None
    n = before.n if batch is None else out.shape[batch]
    if experts:  # rows of an expert, of which nobody knows which samples they are of
        batch, n = out.ndim - 2, out.shape[-2]
    return Trail(units, batch, n, makers.get(id(weight), ""))


def _einsum(
    args: Any, given: Sequence[Tensor], trails: Sequence[Trail], out: Tensor,
    makers: Mapping[int, str],
) -> Trail:  # fmt: skip
    """Find the units of an `einsum`: along all axes that a parameter has, too."""
    inputs, arrow, result = str(args[0]).replace(" ", "").partition("->")
    letters = inputs.split(",")
    place = next((i for i, t in enumerate(given) if isinstance(t, nn.Parameter)), None)
    other = trails[1 if place == 0 else 0]
    if not arrow or "." in inputs or place is None or len(given) != 2:
        return Trail(None, 0, out.shape[0]) if out.ndim else Trail((), None, 1)
    units = tuple(i for i, letter in enumerate(result) if letter in letters[place])
    rest = [i for i in range(out.ndim) if i not in units]
    batch = rest[0] if rest else None
    n = out.shape[batch] if batch is not None else other.n
    return Trail(units, batch, n, makers.get(id(given[place]), "") if len(units) == 1 else "")


def _viewed(
    func: Any, args: Any, kwargs: Any, t: Tensor, before: Trail, outputs: Sequence[Tensor]
) -> list[Trail] | None:
    """Let a function move the axes of a picture that holds no numbers, and see where they are."""
    if before.units is None and before.batch is None:
        return None
    strides, step = [0] * t.ndim, 1
    for axis in reversed(before.units or ()):
        strides[axis], step = step, step * t.shape[axis]
    if before.batch is not None and before.batch not in (before.units or ()):
        strides[before.batch] = _FAR
    picture = torch.empty_strided(t.shape, strides, device="meta")

    def swap(a: Any) -> Any:
        return picture if a is t else a

    try:
        moved = func(*map(swap, args), **{key: swap(a) for key, a in kwargs.items()})
    except Exception:  # an index of numbers, which a picture cannot take
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
        found.append(Trail(known, batch, n, before.made_by if whole else ""))
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
    return Trail(units, batch, before.n, before.made_by if whole else "")
