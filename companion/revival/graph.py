"""Who makes units and who reads them: one pass of a copy, as autograd and torch_pruning saw it.

Beneath `companion.revival.unit_groups`, which tries what is found here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized
from torch_pruning import BasePruningFunc, DependencyGraph
from torch_pruning.dependency import index_mapping, shape_infer
from torch_pruning.ops import OPTYPE

from companion.detection.flow import Call
from companion.detection.session import Watch
from companion.revival.probing import Probe, tensors

__all__ = ["LAYERS", "NORMS", "Graph", "RefusalError", "weight_axes"]

NORMS = _NormBase  # batch and instance norms, which keep channels apart
LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class RefusalError(Exception):
    """Why units cannot be reset or removed."""


class _Looks(Watch):
    """Notes where the input of each activation comes from, and counts nothing."""

    def __init__(self, model: nn.Module, activations: tuple[type[nn.Module], ...]) -> None:
        super().__init__(model, activations=activations)
        self.found: dict[str, tuple[str, Any]] = {}

    def judge(self, here: Any, call: Call) -> None:
        """Note the kind of a call, and what its input is in autograd's graph."""
        start = call.z.grad_fn
        if call.z is call.h and start is not None:  # it worked in place
            start = start.next_functions[0][0]
        self.found[call.name] = call.rule.kind, start


class Graph:
    """What one forward pass of a copy of the model did, under the names of a report."""

    def __init__(self, probe: Probe, report: Any) -> None:
        self.model = probe.copy()
        for p in self.model.parameters():
            p.requires_grad_(p.is_floating_point())
        self.modules = dict(self.model.named_modules())
        self.layers: dict[Any, str] = {}  # who has made a tensor, by its grad_fn
        self.inputs: dict[str, Any] = {}  # the grad_fn of what a layer reads
        self.calls: Counter[str] = Counter()
        self.seen: dict[str, tuple[str, Any]] = {}  # of an activation, its kind and its input
        self.problem = ""
        kinds = {layer.name.split(" (")[0]: layer.activation for layer in report.layers}
        self.activations = {n: kind for n, kind in kinds.items() if n and n in self.modules}
        self.owners = Counter(
            p for m in self.model.modules() for p in m._parameters.values() if p is not None
        )
        self.graph = _Dependencies()
        own = {type(m): _Conv1DPruner() for m in self.model.modules() if is_conv1d(m)}
        try:
            with torch.enable_grad():
                self.graph.build_dependency(
                    self.model, (), lambda model, _: self._watched(probe), customized_pruners=own,
                    verbose=False,
                )  # fmt: skip
        except Exception as error:  # whatever torch_pruning meets in a model it was not made for
            if not self.calls:
                raise
            self.problem = f"torch_pruning cannot follow the model ({error!r})"

    # ---- the forward pass -----------------------------------------------------------------------

    def _watched(self, probe: Probe) -> list[Tensor]:
        """Run the copy once and note what happens."""

        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if module is self.model:
                args, kwargs = _with_gradient(args), _with_gradient(kwargs)
            given = next(iter(tensors([*args, *kwargs.values()])), None)
            if given is not None:
                self.inputs[names[module]] = given.grad_fn
            return args, kwargs

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            name, made = names[module], tensors(output)
            self.calls[name] += 1
            own = any(p is not None for p in module._parameters.values())
            if made and own and name not in self.activations:
                self.layers[made[0].grad_fn] = name

        names = {module: name for name, module in self.modules.items()}
        with ExitStack() as hooks:
            for m in names:
                hooks.callback(m.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(m.register_forward_hook(leave).remove)
            looks = hooks.enter_context(_Looks(self.model, self._own()))
            output = probe.run(self.model)
            self.seen = looks.found
        return [t for t in tensors(output) if t.grad_fn is not None]

    def _own(self) -> tuple[type[nn.Module], ...]:
        """Name the classes of a user's own that the report takes for activations."""
        own = {type(self.modules[name]): kind for name, kind in self.activations.items()}
        return tuple(cls for cls, kind in own.items() if kind == cls.__name__.lower())

    # ---- back from an activation, and on from its layer -----------------------------------------

    def roots(self, start: Any, through: Iterable[str] = ()) -> dict[Any, frozenset[str]]:
        """Tell of all that leads to a node which layers it comes from, the deepest first.

        Norms, and the layers in `through`, keep units apart, and what leads to them counts.
        """
        found: dict[Any, frozenset[str]] = {}
        stack = [(start, False)]
        while stack:
            node, ready = stack.pop()
            if node is None or node in found:
                continue
            name = self.layers.get(node, "")
            if name and name not in through and not isinstance(self.modules[name], NORMS):
                found[node] = frozenset({name})
            elif hasattr(node, "variable"):
                own = isinstance(node.variable, nn.Parameter)
                found[node] = frozenset() if own else frozenset({"the model's input"})
            elif ready:
                parts = [found.get(before, frozenset()) for before, _ in node.next_functions]
                found[node] = frozenset().union(*parts)
            else:
                stack += [(node, True), *((before, False) for before, _ in node.next_functions)]
        return found

    def producer(self, label: str, made_by: str) -> tuple[str, list[str], bool]:
        """Find the layer that makes units, the norms behind it, and if nothing else is between.

        `made_by` is what the report says; without it, it is the one layer that autograd leads to.
        """
        start = self.seen[label][1] if label in self.seen else None
        roots = self.roots(start)
        between = [self.layers.get(node, "") for node, found in roots.items() if found]
        norms = [name for name in between if isinstance(self.modules[name], NORMS)]
        layers = {made_by} if made_by else roots.get(start, frozenset())
        if len(layers) != 1:
            found = " and ".join(sorted(layers))
            stream = "the activation takes what several layers make (a residual stream?): "
            raise RefusalError(stream + found if found else "no layer makes it")
        (name,) = layers
        if not is_layer(self.modules.get(name)):
            kind = f" ({type(self.modules[name]).__name__})" if name in self.modules else ""
            raise RefusalError(f"before it stands {name}{kind}")
        return name, norms, bool(between) and "" not in between

    def members(self, producer: str) -> Iterator[tuple[str, bool, np.ndarray]]:
        """Tell what has an entry for each unit: name, if it reads, and places (n, k)."""
        module: Any = self.modules[producer]
        prune = self.graph.get_pruner_of_module(module).prune_out_channels
        n_units = module.weight.shape[weight_axes(module)[0]]
        try:
            group = self.graph.get_pruning_group(module, prune, list(range(n_units)))
        except Exception as error:
            raise RefusalError(f"torch_pruning cannot follow them ({error})") from error
        for item in group.items:
            part, reads = item.dep.target.module, item.dep.handler
            if type(part).__module__ == "torch_pruning.ops":
                if type(part).__name__ == "_OutputOp":
                    raise RefusalError("the model puts them out")
                continue
            name = item.dep.target.name.split(" (")[0]
            if isinstance(part, nn.Parameter):
                raise RefusalError("a parameter of the model has an entry for each")
            places: list[list[int]] = [[] for _ in range(n_units)]
            for place, unit in zip(item.idxs, item.root_idxs, strict=True):
                places[unit].append(place)
            if len({len(found) for found in places}) > 1 or not places[0]:
                raise RefusalError(f"{name} reads some of them only")
            yield name, self.graph.is_in_channel_pruning_fn(reads), np.array(places)

    def joins(self, reader: str, producer: str, through: Iterable[str]) -> frozenset[str]:
        """Refuse units that are added to what other layers make before a reader sees them.

        With a product they are not refused: return the layers that make its factors, or those
        that make what is read, if these units only stand and fall with it.
        """
        factors: frozenset[str] = frozenset()
        start = self.inputs.get(reader)
        if producer not in self.roots(start, self.modules.keys() - {producer}).get(start, ()):
            return self.roots(start).get(start, frozenset({"the model's input"}))
        roots = self.roots(start, through)
        for node, found in roots.items():
            parts = [roots.get(before) for before, _ in getattr(node, "next_functions", ())]
            what = node.name().replace("Backward0", "").lower()
            if producer not in found or found in parts or len(found) == 1:
                continue
            if what == "mul":
                factors |= self.roots(node)[node]
            elif what != "cat":
                others = ", ".join(sorted(found - {producer})[:3])
                raise RefusalError(
                    f"its output goes into {what} with what {others} makes (a residual stream?)"
                )
        return factors

    def plain(self, name: str) -> None:
        """Refuse a layer whose weights are not plain parameters of its own, or called twice."""
        module: Any = self.modules[name]
        what = f"{name} ({type(module).__name__})"
        if self.calls[name] > 1:
            raise RefusalError(f"{what} is called {self.calls[name]} times")
        if isinstance(module, NORMS):
            return
        if is_parametrized(module) or module._parameters.get("weight") is None:
            raise RefusalError(f"the weight of {what} is parametrized")
        if any(self.owners[p] > 1 for p in module._parameters.values() if p is not None):
            raise RefusalError(f"the weight of {what} is tied: something else uses it too")
        if getattr(module, "groups", 1) != 1 and not is_depthwise(module):
            raise RefusalError(f"{what} is a convolution with groups")


def is_conv1d(module: Any) -> bool:
    """Tell if it is the linear layer of transformers' GPT-2, with its weight transposed."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def is_layer(module: Any) -> bool:
    """Tell if a module's weight has a row for each unit that it makes."""
    return isinstance(module, LAYERS) or is_conv1d(module)


def is_depthwise(module: Any) -> bool:
    """Tell if it is a convolution that keeps channels apart, one by one."""
    apart = module.groups == module.in_channels == module.out_channels
    return apart and not isinstance(module, _ConvTransposeNd)


def weight_axes(module: Any) -> tuple[int, int]:
    """Tell on which axes of a weight its outputs are, and its inputs."""
    return (1, 0) if isinstance(module, _ConvTransposeNd) or is_conv1d(module) else (0, 1)


def unit_axis(module: Any, t: Tensor) -> int:
    """Tell on which axis of its input or output a module has the channels or features."""
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return t.ndim - 1
    if isinstance(module, LAYERS):
        return t.ndim - module.weight.ndim + 1  # 1, or 0 without an axis of samples
    return 1


def _with_gradient(given: Any) -> Any:
    """Let autograd follow the inputs too."""
    if isinstance(given, Tensor):
        return given.clone().requires_grad_().clone() if given.is_floating_point() else given
    if type(given) in (tuple, list):
        return type(given)(_with_gradient(part) for part in given)
    return {k: _with_gradient(v) for k, v in given.items()} if type(given) is dict else given


class _Dependencies(DependencyGraph):
    """Goes on where torch_pruning fails to map places through a call: there they stay the same.

    As all is tried afterwards, a wrong place does no harm.
    """

    def _build_dependency(self, module2node: Any) -> None:
        super()._build_dependency(module2node)
        shape_infer.init_shape_information(self)
        for node in module2node.values():
            update = getattr(index_mapping, f"update_{node.type.name.lower()}_index_mapping", None)
            try:
                if update is not None:
                    update(self, node)
            except Exception:  # of many kinds
                node.type = OPTYPE.ELEMENTWISE


class _Conv1DPruner(BasePruningFunc):
    """Tell torch_pruning of such a layer; it prunes nothing here."""

    def prune_out_channels(self, layer: Any, idxs: Any) -> Any: ...

    def prune_in_channels(self, layer: Any, idxs: Any) -> Any: ...

    def get_out_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[1])

    def get_in_channels(self, layer: Any) -> int:
        return int(layer.weight.shape[0])
