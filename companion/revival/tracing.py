"""A model's calls in their order, by `torch.fx`, and what may stand between a layer and the next.

Beneath `companion.revival.unit_groups`.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = [
    "BATCH_NORM", "LAYERS", "Call", "Trace", "averages", "drops", "flattens", "is_shape",
    "keeps", "left_alone", "pools",
]  # fmt: skip

BATCH_NORM = _BatchNorm
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Shapes = dict[fx.Node, tuple[int, ...]]

_OWN = {"Dropout", "Elementwise", "SpectralLinear"}  # of companion.experiments.layers
_DROPOUT = (nn.modules.dropout._DropoutNd, nn.Identity)
_POOL = tuple(
    getattr(nn, f"{kind}{n}d") for kind in ("MaxPool", "AdaptiveMaxPool") for n in (1, 2, 3)
)
_MEAN_POOL = tuple(
    getattr(nn, f"{kind}{n}d") for kind in ("AvgPool", "AdaptiveAvgPool") for n in (1, 2, 3)
)
_FUNCTIONS = {
    "drop": {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "contiguous"},
    "pool": {f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)},
    "mean": {f"{kind}avg_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)},
}


class Call:
    """One call in the model: of a module, a function or a method."""

    def __init__(self, node: fx.Node, module: nn.Module | None, name: str) -> None:
        self.node, self.module, self.name = node, module, name

    @property
    def what(self) -> str:
        """Say what is called, for an error."""
        if self.module is not None:
            return f"{self.node.target} ({type(self.module).__name__})"
        if self.node.op in ("output", "placeholder"):
            return f"the model's {'out' if self.node.op == 'output' else 'in'}put"
        return f"a call of {_function(self.node)}"


class _Tracer(fx.Tracer):
    """Keep activations whole; with `opaque`, all modules that are not containers."""

    def __init__(self, whole: set[str], opaque: bool) -> None:
        super().__init__(autowrap_functions=())
        self.whole, self.opaque = whole, opaque

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        own = type(m).__module__ == "companion.experiments.layers" and type(m).__name__ in _OWN
        if own or module_qualified_name in self.whole:
            return True
        if self.opaque:
            return not isinstance(m, nn.Sequential)
        return super().is_leaf_module(m, module_qualified_name)


class Trace:
    """The calls of a model, under the names that a `UnitReport` gives its activations."""

    def __init__(
        self, model: nn.Module, names: Iterable[str], batch: Tensor | None, training: bool
    ) -> None:
        self.model = model
        named = inspect.signature(model.forward).parameters.items()
        self.defaults = {n: p.default for n, p in named if p.default is not inspect.Parameter.empty}
        self.modules = dict(model.named_modules())
        whole = {name.split(" (")[0] for name in names} & self.modules.keys() - {""}
        with left_alone(model, training):
            graph = self._trace(whole)
        self.calls: dict[fx.Node, Call] = {}
        self.by_name: dict[str, Call] = {}
        counts: Counter[str] = Counter()
        for node in graph.nodes:
            module = self.modules.get(str(node.target)) if node.op == "call_module" else None
            name = _name(node)
            counts[name] += 1
            name = name if counts[name] == 1 else f"{name} ({counts[name]})"
            self.calls[node] = self.by_name[name] = Call(node, module, name)
        self.whole = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        self.n_calls = Counter(call.module for call in self.calls.values() if call.module)
        self.read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        self.owners = Counter(
            p for module in model.modules() for p in module._parameters.values() if p is not None
        )
        self.shapes: Shapes = {} if batch is None else self._shapes(graph, batch)

    def _trace(self, whole: set[str]) -> fx.Graph:
        """Trace with the defaults of all arguments that have one."""
        for opaque in (False, True):
            try:
                return _Tracer(whole, opaque).trace(self.model, concrete_args=dict(self.defaults))
            except Exception as error:  # whatever the model's own code raises
                problem = error
        raise ValueError(
            f"model cannot be traced by torch.fx, so that who feeds whom is not known: {problem}"
        ) from problem

    def _shapes(self, graph: fx.Graph, batch: Tensor) -> Shapes:
        """Run the model once in evaluation mode and keep every output's shape."""
        found: Shapes = {}

        class Watcher(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                result = super().run_node(n)
                if isinstance(result, Tensor):
                    found[n] = tuple(result.shape)
                return result

        with left_alone(self.model), torch.no_grad():
            Watcher(self.model, graph=graph).run(batch, *self.defaults.values())
        return found


@contextmanager
def left_alone(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Put a model into a mode, and give back all attributes and PyTorch's random state."""
    kept = [(module, dict(vars(module))) for module in model.modules()]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Was not able to add assertion")  # to a default
        try:
            for module, _ in kept:
                module.training = training
            yield
        finally:
            for module, attributes in kept:
                vars(module).clear()
                vars(module).update(attributes)


def drops(call: Call) -> bool:
    """Tell whether a call is the identity in evaluation mode."""
    own = type(call.module).__module__ == "companion.experiments.layers"
    named = own and type(call.module).__name__ == "Dropout"
    return named or isinstance(call.module, _DROPOUT) or _is_function(call, "drop")


def pools(call: Call) -> bool:
    """Tell whether a call pools over positions, each channel for itself."""
    by_function = _is_function(call, "pool") or _is_function(call, "mean")
    return isinstance(call.module, _POOL + _MEAN_POOL) or by_function


def keeps(call: Call) -> bool:
    """Tell whether what is constant remains so, with its value, when it is pooled."""
    module = call.module
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        padding = module.padding if isinstance(module.padding, tuple) else (module.padding,)
        padded = any(padding) and module.count_include_pad
        return not padded and not getattr(module, "divisor_override", None)
    if module is None and _is_function(call, "mean") and "adaptive" not in _function(call.node):
        named = call.node.kwargs.keys() - {"input", "kernel_size", "stride"}
        return len(call.node.args) <= 3 and not named
    return True


def averages(call: Call, n_axes: int) -> str:
    """Tell of a mean over all positions whether their axes are "gone" or "kept"; "" if it is none.

    Positions have `n_axes` axes, after those of samples and channels.
    """
    node = call.node
    if node.op not in ("call_method", "call_function") or _function(node) != "mean" or not n_axes:
        return ""
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    axes = given.get("dim")
    axes = axes if isinstance(axes, list | tuple) else (axes,)
    places = {axis + n_axes + 2 if isinstance(axis, int) and axis < 0 else axis for axis in axes}
    if places != set(range(2, n_axes + 2)):
        return ""
    return "kept" if given.get("keepdim") else "gone"


def flattens(call: Call, shapes: Shapes) -> bool | None:
    """Tell whether all axes after the first become one; None if shapes are needed to know."""
    node, module = call.node, call.module
    if isinstance(module, nn.Flatten):
        return (module.start_dim, module.end_dim) == (1, -1)
    if node.op not in ("call_method", "call_function"):
        return False
    function = _function(node)
    if function == "flatten":
        rest = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | dict(node.kwargs)
        return (rest.get("start_dim", 0), rest.get("end_dim", -1)) == (1, -1)
    if function not in ("view", "reshape"):
        return False
    if not node.args:
        return None
    before = shapes.get(cast("fx.Node", node.args[0]))
    if before:
        return shapes[node] == (before[0], math.prod(before[1:]))
    shape = node.args[1:]
    if len(shape) == 1 and isinstance(shape[0], list | tuple):
        shape = tuple(shape[0])
    if len(shape) == 2 and isinstance(shape[0], fx.Node) and shape[1] == -1:
        return _is_length(shape[0], node.args[0])
    return None


def is_shape(node: fx.Node) -> bool:
    """Tell whether a node only asks for the shape."""
    size = node.op == "call_method" and node.target in ("size", "dim")
    shape = node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return size or shape


def _is_length(node: fx.Node, of: Any) -> bool | None:
    """Tell whether a node is the length of the first axis of another."""
    if node.op == "call_method" and node.target == "size":
        return True if node.args == (of, 0) else None
    if node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem":
        asked, place = node.args
        sized = isinstance(asked, fx.Node) and is_shape(asked) and asked.args[0] is of
        return True if sized and place == 0 else None
    return None


def _is_function(call: Call, kind: str) -> bool:
    return call.node.op in ("call_function", "call_method") and (
        _function(call.node) in _FUNCTIONS[kind]
    )


def _function(node: fx.Node) -> str:
    target = node.target
    return target if isinstance(target, str) else getattr(target, "__name__", str(target))


def _name(node: fx.Node) -> str:
    """Name a node as a report does: a module's path, or path.function()."""
    if node.op == "call_module":
        return str(node.target)  # the model itself is never called
    if node.op not in ("call_function", "call_method"):
        return f"{node.op} {node.target}"
    stack = node.meta.get("nn_module_stack")
    path = list(stack.values())[-1][0] if stack else ""
    function = _function(node).rstrip("_").replace("expit", "sigmoid") + "()"
    return f"{path}.{function}" if path else function
