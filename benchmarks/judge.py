"""Count dead units without the companion, to judge what `census` counts: `benchmarks/zoo.py`.

Nothing here knows modules or functions: it follows the operators of ATen, which everything in
PyTorch becomes, whoever wrote it. What acts number by number on one tensor is collected as an
expression, so that ``0.5 * x * (1 + tanh(...))`` is one activation of x, and ``sigmoid(a) * b`` is
the activation ``sigmoid(a)``. Its derivative is what autograd gives for the expression at the very
numbers of the pass. Which axis holds the units is known from the layer that made the numbers: they
are the rows of its weight, wherever they are moved, split, joined or pooled afterwards.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["Judge", "Layer", "judge"]

ZERO = 1e-6  # a derivative of at most this size counts as none

BENDS = {
    "relu", "gelu", "silu", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh", "elu",
    "celu", "leaky_relu", "_prelu_kernel", "softplus", "mish", "threshold", "hardshrink",
    "softshrink", "log_sigmoid_forward", "rrelu_with_noise", "clamp", "clamp_min", "clamp_max",
    "maximum", "minimum", "where", "erf", "special_erf",
}  # fmt: skip
"""What makes an expression an activation, if a layer has made the numbers."""
CURVES = {
    "pow", "exp", "expm1", "log", "log1p", "abs", "sqrt", "rsqrt", "reciprocal", "square", "sin",
    "cos", "sign", "gt", "ge", "lt", "le", "special_ndtr",
}  # fmt: skip
"""What makes one if there are two of them, or if it is joined with the number itself."""
PLAIN = CURVES | {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "neg",
    "_to_copy",
    "clone",
    "alias",
    "detach",
    "eq",
    "ne",
    "logical_not",
}
"""What acts number by number besides."""
FRESH = {
    "lift_fresh", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "scalar_tensor",
}  # fmt: skip
"""What makes constants, whatever is handed over."""
NORMS = {
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "native_group_norm",
}  # fmt: skip
"""What has a bias for each of its channels, on axis 1."""
KEEP = {
    "slice", "split", "split_with_sizes", "chunk", "index_select", "roll", "flip", "copy", "cumsum",
    "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool1d",
    "_adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bicubic2d_aa", "masked_fill",
    "native_dropout", "channel_shuffle", "addcmul", "addcdiv", "lerp", "repeat", "glu",
    "index_add", "index_put", "_fused_rms_norm",
}  # fmt: skip
"""What leaves units on the axes where they are."""


@dataclass(eq=False)
class Node:
    """The value of an expression, as a call of an operator on other values; or its root."""

    index: int
    path: str = ""
    func: Any = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    value: Tensor | None = None  # of a root
    bends: bool = False
    curves: bool = False

    def __post_init__(self) -> None:
        leaves = tree_leaves((self.args, self.kwargs))
        parents = {leaf.index: leaf for leaf in leaves if isinstance(leaf, Node)}
        self.parents = [*parents.values()]
        self.root: Node = self.parents[0].root if self.parents else self


Axis = tuple[tuple[int, bool], ...]
"""What an axis consists of, after reshapes: sizes, and if units or samples are counted there."""


@dataclass(frozen=True)
class Made:
    """Where the units are in a tensor, and the weight and the bias that made them."""

    axes: tuple[Axis, ...]
    weight: int = 0  # an address
    bias: Tensor | None = None
    expert: Tensor | None = None  # of each row, where a matrix of its own has made each group

    def on(self, axes: Iterable[Axis] | None) -> Made | None:
        """Keep all but the axes; None if these are lost."""
        return None if axes is None else replace(self, axes=tuple(axes))

    @property
    def n_units(self) -> int:
        """Number of units."""
        return math.prod(size for axis in self.axes for size, unit in axis if unit)


def axes_of(shape: Iterable[int], *units: int) -> tuple[Axis, ...]:
    """Return axes of which these hold the units."""
    shape = tuple(shape)
    return tuple(((size, i in {u % len(shape) for u in units}),) for i, size in enumerate(shape))


@dataclass(eq=False)
class Known:
    """What is known of a tensor."""

    tensor: Tensor
    version: int
    node: Node | None  # None: a constant, made of parameters only
    made: Made | None = None


@dataclass(eq=False)
class Layer:
    """One call of one activation: the largest derivative of each unit."""

    path: str
    kind: str
    slope: np.ndarray
    n_values: int
    largest: float  # pre-activation
    nan: np.ndarray
    bias: Tensor | None

    @property
    def dead(self) -> np.ndarray:
        """Units whose derivative is zero at every value."""
        return (self.slope <= ZERO) & ~self.nan

    def __str__(self) -> str:
        return f"{self.path}: {self.kind}, {self.dead.sum()} of {len(self.dead)} dead"


class Judge(TorchDispatchMode):
    """While it is entered, it follows forward passes of the model; then ask for its `layers`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.found: dict[tuple[Any, ...], Layer] = {}
        self.ignored: list[str] = []
        self.constants = {
            t.untyped_storage().data_ptr()
            for t in itertools.chain(model.parameters(), model.buffers())
        }

    # ---- a pass ---------------------------------------------------------------------------------

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Follow one forward pass."""
        self.path = [""]
        self.known: dict[int, Known] = {}
        self.roots: dict[int, list[Node]] = {}  # by the address of the memory that they share
        self.order = itertools.count()
        self.used: set[int] = set()
        self.nodes: list[tuple[Node, Made | None]] = []
        self.out: dict[int, tuple[Node, Node, Made | None]] = {}
        handles = []
        for name, module in self.model.named_modules():

            def enter(module: nn.Module, args: Any, name: str = name) -> None:
                self.path.append(name)

            def leave(module: nn.Module, args: Any, output: Any) -> None:
                self.path.pop()

            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave, always_call=True))
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), self:
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for handle in handles:
                handle.remove()
        for node, made in self.nodes:
            if node.index not in self.used:
                self._emit(node, made)
        self._add_up()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Make the call, and note what it did."""
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        before = {id(t): self._look_up(t) for t in tensors}
        name = func.overloadpacket.__name__
        if func._schema.is_mutable:
            self._save(args, func)
            name = name.removesuffix("_")
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and name in BENDS | PLAIN:
            self._extend(name, func, args, kwargs, before, out)
        elif name == "log_sigmoid_forward":
            self._extend(name, func, args, kwargs, before, out[0])
        else:
            if name == "glu":
                self._gate(args, before)
            self._make(name, args, kwargs, before, out)
        return out

    def _look_up(self, t: Tensor) -> Known:
        known = self.known.get(id(t))
        if known is not None and known.version == t._version:
            return known
        if t.untyped_storage().data_ptr() in self.constants and t.numel():
            return self._remember(t, None, Made((), t.data_ptr()))
        made = known.made if known is not None else None  # written to by way of another view
        return self._remember(t, self._root(t), made)

    def _remember(self, t: Tensor, node: Node | None, made: Made | None) -> Known:
        if node is not None:
            self.nodes.append((node, made))
        self.known[id(t)] = Known(t, t._version, node, made)
        return self.known[id(t)]

    def _root(self, t: Tensor) -> Node:
        node = Node(next(self.order), self.path[-1], value=t)
        self.roots.setdefault(t.untyped_storage().data_ptr(), []).append(node)
        return node

    def _save(self, args: Any, func: Any) -> None:
        """Copy the roots that a call is about to overwrite."""
        for argument, t in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                for root in self.roots.pop(t.untyped_storage().data_ptr(), []):
                    assert root.value is not None
                    root.value = root.value.clone()

    # ---- expressions ----------------------------------------------------------------------------

    def _extend(
        self,
        name: str,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        before: dict[int, Known],
        out: Tensor,
    ) -> None:
        """Note a call that acts number by number."""
        known = list(before.values())
        data = [k for k in known if k.node is not None]
        if not data:
            self._constant([out], known)
            return
        made = self._made_by_broadcast(data, out)
        if name == "add" and made is not None and made.bias is None:
            bias = next((k.tensor for k in known if k.node is None), None)
            if bias is not None and bias.shape == (made.n_units,):
                made = replace(made, bias=self._parameter(bias))
        roots = {k.node.root.index for k in data if k.node is not None}
        root = data[0].node.root if data[0].node is not None else None
        if len(roots) > 1 or root is None or root.value is None or root.value.shape != out.shape:
            self._consume(data)
            if len(data) > 1 and made is not None and len(roots) > 1:
                made = replace(made, bias=None)
            self._remember(out, self._root(out), made)
            return

        def node_of(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return before[id(leaf)].node or leaf

        for k in data:
            if k.node is not None:
                self.used.add(k.node.index)
        args, kwargs = tree_map(node_of, (tuple(args), kwargs))
        node = Node(
            next(self.order), self.path[-1], _not_in_place(func), args, kwargs,
            bends=name in BENDS, curves=name in CURVES or _bent(name, args),
        )  # fmt: skip
        known_out = self._remember(out, node, made)
        known_out.version += func._schema.is_mutable  # which is counted up only afterwards

    def _gate(self, args: Any, before: dict[int, Known]) -> None:
        """Note the sigmoid that is inside `glu`."""
        t, axis = args[0], args[1] if len(args) > 1 else -1
        half = t.chunk(2, axis)[1]
        made = before[id(t)].made
        made = made.on(_resized(made.axes, half)) if made is not None else None
        self._consume([before[id(t)]])
        root = self._root(half)
        sigmoid = torch.ops.aten.sigmoid.default
        node = Node(next(self.order), self.path[-1], sigmoid, (root,), bends=True)
        self._emit(node, made)

    def _consume(self, data: Iterable[Known]) -> None:
        for known in data:
            if known.node is not None:
                self.used.add(known.node.index)
                self._emit(known.node, known.made)

    def _emit(self, node: Node, made: Made | None) -> None:
        """Find the activations in an expression, from its end to its root."""
        while node.parents:
            start, between = _start(node)
            if node.bends or any(part.bends or part.curves for part in between):
                self.out.setdefault(node.index, (start, node, made))
            elif node.curves and not between:  # two curves make one, as in log(1 + exp(x))
                n_curves = 1
                while len(start.parents) == 1 and not start.bends:
                    n_curves += start.curves
                    start = start.parents[0]
                if n_curves > 1:
                    self.out.setdefault(node.index, (start, node, made))
            node = start

    def _add_up(self) -> None:
        """Judge the expressions of a pass, and add them to those of the passes before."""
        calls: Counter[Any] = Counter()
        for index in sorted(self.out):
            start, node, made = self.out[index]
            with torch.no_grad():
                z = _replay(start, {})
            bending = [part for part in _between(start, node) if part.bends or part.curves]
            names = [part.func.overloadpacket.__name__ for part in bending]
            kind = names[0] if bending == [node] else f"composite of {'+'.join(sorted(names))}"
            if not z.numel() or not z.is_floating_point():
                continue
            if made is None:
                self.ignored.append(f"{node.path}: {kind} of {tuple(z.shape)}")
                continue
            key = node.path, kind, made.weight
            calls[key] += 1
            self._judge((*key, calls[key]), kind, start, node, z, made)

    def _judge(
        self, key: tuple[Any, ...], kind: str, start: Node, node: Node, z: Tensor, made: Made
    ) -> None:
        with torch.enable_grad():
            leaf = z.clone().requires_grad_()
            h = _replay(node, {start.index: leaf})
            slope = torch.zeros_like(z)
            if h.requires_grad:
                (slope,) = torch.autograd.grad(h.sum(), leaf)
        bad = ~h.detach().isfinite()
        slope, bad = (_by_unit(t.double(), made) for t in (slope.abs(), bad))
        largest = float(z.abs().max())
        row = slope.amax(1).numpy(), slope.shape[1], bad.any(1).numpy()
        old = self.found.get(key)
        if old is None:
            self.found[key] = Layer(node.path, kind, row[0], row[1], largest, row[2], made.bias)
        else:
            old.slope, old.n_values = np.maximum(old.slope, row[0]), old.n_values + row[1]
            old.nan, old.largest = old.nan | row[2], max(old.largest, largest)

    @property
    def layers(self) -> list[Layer]:
        """What was found, in order of call."""
        return [*self.found.values()]

    def _constant(self, outs: Iterable[Tensor], known: list[Known]) -> None:
        """Note what was made of parameters only, and of which."""
        of = next((k.made for k in known if k.made is not None), None)
        for t in outs:
            if t.untyped_storage().data_ptr() in self.constants and t.numel():
                of = Made((), t.data_ptr())
            self._remember(t, None, of)

    # ---- axes -----------------------------------------------------------------------------------

    def _made_by_broadcast(self, data: list[Known], out: Tensor) -> Made | None:
        """Take the units' axes of the operand that is most like the result."""
        made = [known for known in data if known.made is not None]
        if not made:
            return None
        best = max(made, key=lambda k: (k.tensor.shape == out.shape, k.tensor.ndim))
        assert best.made is not None
        axes = list(best.made.axes)
        axes = [((1, False),)] * (out.ndim - len(axes)) + axes
        sizes = map(_size, axes)
        pairs = zip(axes, sizes, out.shape, strict=True)
        return best.made.on(axis if n == size else ((n, False),) for axis, size, n in pairs)

    def _make(
        self, name: str, args: Any, kwargs: dict[str, Any], before: dict[int, Known], out: Any
    ) -> None:
        """Note a call that does more than act number by number."""
        data = [k for k in before.values() if k.node is not None]
        outs = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        layer = name in {"mm", "addmm", "bmm", "baddbmm", "convolution", "_grouped_mm"}
        if name in FRESH or (not data and not layer):
            self._constant(outs, [*before.values()])
            return
        self._consume(data)
        for t in outs:
            try:
                made = self._axes(name, args, kwargs, before, t)
            except (IndexError, ValueError, TypeError):
                made = None
            if made is not None and tuple(map(_size, made.axes)) != tuple(t.shape):
                made = None
            self._remember(t, self._root(t), made)

    def _axes(
        self, name: str, args: Any, kwargs: dict[str, Any], before: dict[int, Known], out: Tensor
    ) -> Made | None:
        x = args[0]
        if name == "convolution":
            weight = self._weight(args[1], before)
            return Made(axes_of(out.shape, 1), weight, self._parameter(args[2]))
        if name in {"addmm", "baddbmm"}:
            return self._product(args[1], args[2], before, out, args[0])
        if name in {"mm", "bmm"}:
            return self._product(args[0], args[1], before, out, None)
        if name == "_grouped_mm":
            ends = args[2] if len(args) > 2 else kwargs["offs"]
            expert = torch.searchsorted(ends.long(), torch.arange(len(out)), right=True)
            return Made(axes_of(out.shape, 1), self._weight(args[1], before), None, expert)
        if name == "embedding":
            return Made(axes_of(out.shape, -1), self._weight(x, before))
        x = x[0] if isinstance(x, list | tuple) else x
        if not isinstance(x, Tensor):
            return None
        made = before[id(x)].made if before[id(x)].node is not None else None
        weight = made.weight if made else 0
        if name in NORMS:
            return Made(axes_of(out.shape, 1), weight, self._parameter(args[2]))
        if name == "native_layer_norm" and out.shape == x.shape:
            axes = made.axes if made else axes_of(out.shape, -1)
            return Made(axes, weight, self._parameter(args[3]))
        if made is None:
            return None
        if name == "cat":
            all_made = [before[id(t)].made for t in args[0]]
            like = [m is not None and _alike(m.axes, made.axes) for m in all_made]
            return Made((), weight).on(_resized(made.axes, out)) if all(like) else None
        return made.on(_moved(name, args, kwargs, made.axes, x, out))

    def _product(
        self, a: Tensor, b: Tensor, before: dict[int, Known], out: Tensor, bias: Tensor | None
    ) -> Made | None:
        """Units are where the weight's rows end up; for weights in a batch, each has its own.

        Of two tensors that are no weights, what is not summed over goes on.
        """
        batch = (0,) if out.ndim == 3 and a.shape[0] > 1 else ()
        if before[id(b)].node is None:
            axes = axes_of(out.shape, *batch, -1)
            return Made(axes, self._weight(b, before), self._parameter(bias))
        if before[id(a)].node is None:
            return Made(axes_of(out.shape, *batch, -2), self._weight(a, before))
        plain = axes_of(out.shape)
        (left, right) = (known.made for known in (before[id(a)], before[id(b)]))
        rows = left.axes[-2] if left else plain[-2]
        columns = right.axes[-1] if right else plain[-1]
        if not any(unit for _, unit in rows + columns):
            return None
        of = right if any(unit for _, unit in columns) else left
        assert of is not None
        return Made((*of.axes[:-2], rows, columns), of.weight)

    def _weight(self, t: Tensor, before: dict[int, Known]) -> int:
        made = before[id(t)].made
        return made.weight if made is not None and before[id(t)].node is None else 0

    def _parameter(self, t: Tensor | None) -> Tensor | None:
        return t if isinstance(t, nn.Parameter) else None


def _not_in_place(func: Any) -> Any:
    """Return the operator that gives the same without overwriting."""
    packet = func.overloadpacket.__name__
    if packet == "log_sigmoid_forward":
        return torch.ops.aten.log_sigmoid.default
    if not func._schema.is_mutable:
        return func
    return getattr(getattr(torch.ops.aten, packet.removesuffix("_")), func._overloadname)


def _start(node: Node) -> tuple[Node, list[Node]]:
    """Return the value that all of a node depends on, and the nodes between them."""
    front = {parent.index: parent for parent in node.parents}
    between = []
    while len(front) > 1:
        last = front.pop(max(front))
        between.append(last)
        front |= {parent.index: parent for parent in last.parents}
    return next(iter(front.values())), between


def _between(start: Node, node: Node) -> list[Node]:
    """Return a node and all that it depends on, but what lies behind its start."""
    found, front = {}, [node]
    while front:
        here = front.pop()
        if here.index > start.index:
            found[here.index] = here
            front += here.parents
    return [found[index] for index in sorted(found)]


def _bent(name: str, args: tuple[Any, ...]) -> bool:
    """Tell if it is a product or a quotient that is no line."""
    both = len(args) > 1 and isinstance(args[1], Node)
    return both and (name == "div" or (name == "mul" and isinstance(args[0], Node)))


def _replay(node: Node, values: dict[int, Tensor]) -> Tensor:
    """Compute an expression, from its root or from the values that are given."""
    if node.index not in values:
        if node.func is None:
            assert node.value is not None
            return node.value

        def value_of(leaf: Any) -> Any:
            return _replay(leaf, values) if isinstance(leaf, Node) else leaf

        args, kwargs = tree_map(value_of, (node.args, node.kwargs))
        values[node.index] = node.func(*args, **kwargs)
    return values[node.index]


def _by_unit(t: Tensor, made: Made) -> Tensor:
    """Arrange as (units, values)."""
    if made.expert is not None:  # in each row those of one expert, zeros for the others
        rows = made.expert[None] == torch.arange(int(made.expert.max()) + 1)[:, None]
        return (t * rows[..., None]).transpose(1, 2).reshape(-1, len(t))
    parts = [part for axis in made.axes for part in axis]
    units = [i for i, (_, unit) in enumerate(parts) if unit]
    others = [i for i, (_, unit) in enumerate(parts) if not unit]
    t = t.reshape([size for size, _ in parts]).permute(*units, *others)
    return t.reshape(made.n_units, -1)


def _size(axis: Axis) -> int:
    return math.prod(size for size, _ in axis)


def _moved(
    name: str, args: Any, kwargs: dict[str, Any], axes: tuple[Axis, ...], x: Tensor, out: Tensor
) -> Iterable[Axis] | None:
    """Follow axes through a call that moves, joins, splits or pools; None if they are lost."""
    rest = [*args[1:], *kwargs.values()]
    every = range(x.ndim)
    if name in {"view", "_unsafe_view", "reshape", "_reshape_alias"}:
        return _reshaped(axes, out.shape)
    if name == "t":
        return axes[::-1]
    if name == "transpose":
        i, j = (d % x.ndim for d in rest[:2])
        return [axes[{i: j, j: i}.get(d, d)] for d in every]
    if name == "permute":
        return [axes[d] for d in rest[0]]
    if name == "unsqueeze":
        new = rest[0] % out.ndim
        return [*axes[:new], ((1, False),), *axes[new:]]
    if name == "expand":
        axes = (((1, False),),) * (out.ndim - x.ndim) + axes
        return [a if _size(a) == n else ((n, False),) for a, n in zip(axes, out.shape, strict=True)]
    if name in {"select", "unbind"}:
        gone = rest[0] % x.ndim if rest else 0
        return [axes[d] for d in every if d != gone]
    if name == "squeeze":
        dims = rest[0] if rest else every
        dims = {d % x.ndim for d in (dims if isinstance(dims, Iterable) else [dims])}
        return [axes[d] for d in every if d not in dims or x.shape[d] > 1]
    if name in {"mean", "sum", "amax", "amin"}:
        dims = next((r for r in rest if isinstance(r, list | tuple)), None) or every
        gone = {d % x.ndim for d in dims}
        left = [axes[d] for d in every if d not in gone]
        if not any(unit for axis in left for _, unit in axis):
            return None
        keep = out.ndim == x.ndim
        return [((1, False),) if d in gone else axes[d] for d in every if keep or d not in gone]
    if name == "index" and len(rest[0]) == 1 and rest[0][0] is not None:
        index = rest[0][0]
        n_lost = index.ndim if index.dtype == torch.bool else 1
        n_new = out.ndim - x.ndim + n_lost
        return [*axes_of(out.shape[:n_new]), *axes[n_lost:]]
    return _resized(axes, out) if name in KEEP and out.ndim == x.ndim else None


def _resized(axes: Iterable[Axis], out: Tensor) -> list[Axis] | None:
    """Give axes other sizes; None if units are mixed with samples in one of them."""
    found: list[Axis] = []
    for axis, n in zip(axes, out.shape, strict=True):
        if _size(axis) == n:
            found.append(axis)
        elif len({unit for size, unit in axis if size > 1}) > 1:
            return None
        else:
            found.append(((n, any(unit for _, unit in axis)),))
    return found


def _alike(axes: Iterable[Axis], others: Iterable[Axis]) -> bool:
    """Tell if two tensors hold units on the same axes."""
    return all(
        {unit for _, unit in axis} == {unit for _, unit in other}
        for axis, other in zip(axes, others, strict=True)
    )


def _reshaped(axes: Iterable[Axis], shape: Iterable[int]) -> list[Axis] | None:
    """Join and split axes to another shape; None if one does not come out even."""
    parts = [part for axis in axes for part in axis if part[0] != 1]
    found: list[Axis] = []
    for n in shape:
        axis: list[tuple[int, bool]] = []
        while (left := n // max(1, _size(tuple(axis)))) > 1:
            if not parts:
                return None
            size, unit = parts.pop(0)
            if left % size and size % left:
                return None
            if size > left:
                parts.insert(0, (size // left, unit))
            axis.append((min(size, left), unit))
        found.append(tuple(axis) or ((1, False),))
    return found


def judge(model: nn.Module, passes: Iterable[Any]) -> Judge:
    """Judge a model in evaluation mode; each pass is a function that calls it."""
    found = Judge(model)
    for run in passes:
        with found.one_pass():
            run()
    return found
