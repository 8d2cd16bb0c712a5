"""Who feeds whom: the layer that makes each unit, and the layers that read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from companion.detection.rules import module_rule
from companion.revival.structure import Reader, RefusalError, UnitGroup, UnitGroups
from companion.revival.tracing import (
    BATCH_NORM,
    LAYERS,
    Call,
    Trace,
    averages,
    drops,
    flattens,
    is_shape,
    keeps,
    pools,
)

if TYPE_CHECKING:
    from companion.detection import LayerReport, UnitReport

__all__ = ["bare", "unit_groups"]

_FORWARDS = {kind.forward for kind in LAYERS}
_CONVOLUTIONS = LAYERS[1:]


def unit_groups(model: nn.Module, report: UnitReport, *, batch: Tensor | None = None) -> UnitGroups:
    """Find, for each activation of a report, the layer that makes its units and those that read it.

    Parameters
    ----------
    model : torch.nn.Module
        Traced by `torch.fx`, in evaluation and in training mode; it is not run, and stays as it
        is. Arguments of its ``forward`` that have a default keep it. A module that cannot be traced
        is taken whole, and what lies in it or beside it cannot be touched.
    report : UnitReport
        Of this model; tells the activations.
    batch : Tensor, optional
        Inputs. Where the model reshapes by numbers, such as ``x.view(-1, 320)``, it is run on them
        once, in evaluation mode, to see the shapes.

    Returns
    -------
    UnitGroups
        An activation has a `problem` if its units cannot be touched safely: a residual stream, a
        concatenation, tied or parametrized weights, a layer used twice, grouped convolutions, a
        norm that mixes units, or a call that is not known.

    Raises
    ------
    ValueError
        If the report is not of this model, or the model cannot be traced.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    Taught in the chapter `revival`.

    Examples
    --------
    >>> import torch
    >>> from companion.detection import census
    >>> net = nn.Sequential(
    ...     nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
    ...     nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 2),
    ... )
    >>> print(unit_groups(net, census(net, [torch.randn(10, 1, 8, 8)])))
    activation  units  made by  batch norm  read by
    2           4      0        1           5 (9 each)
    6           5      5                    7 (1 each)
    """
    if not hasattr(report, "layers"):
        raise TypeError(f"report must be a UnitReport, not {report!r}")
    model, names = bare(model), [layer.name for layer in report.layers]
    traces = [Trace(model, names, batch, training) for training in (False, True)]
    return UnitGroups(tuple(_in_both_modes(traces, layer) for layer in report.layers))


def bare(model: nn.Module) -> nn.Module:
    """Take the model out of what compiles or distributes it, as a report does."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {model!r}")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return bare(model.module)
    inner = getattr(model, "_orig_mod", None)
    return model if inner is None else bare(inner)


def _in_both_modes(traces: list[Trace], layer: LayerReport) -> UnitGroup:
    """Find a group that is the same in evaluation and in training mode."""
    found: list[UnitGroup] = []
    for trace in traces:
        try:
            found.append(_group(trace, layer))
        except ValueError as error:
            problem = error
    if not found:
        raise problem
    group, ways = found[0], {(group.producer, group.problem, *group.reads) for group in found}
    if len(found) < 2 or len(ways) > 1:
        differs = "training mode takes another way through the model"
        return UnitGroup(layer.name, len(layer), problem=group.problem or differs)
    return group


def _group(trace: Trace, layer: LayerReport) -> UnitGroup:
    call = trace.by_name.get(layer.name)
    if call is None:
        path = layer.name.split(" (")[0]
        whole = [name for name in trace.whole if f"{path}.".startswith(f"{name}.")]
        if not whole:
            raise ValueError(f"report is not of this model, which calls no {layer.name!r}")
        problem = f"it lies in {whole[0]}, which torch.fx takes whole"
        return UnitGroup(layer.name, len(layer), problem=problem)
    if call.module is not None:
        rule = module_rule(call.module)
        kind = type(call.module).__name__.lower() if rule is None else rule.kind
        if kind != layer.activation:
            raise ValueError(
                f"report is not of this model: {layer.name!r} is {kind}, not {layer.activation}"
            )
    return _Finder(trace, layer, call).group()


class _Finder:
    """Walk from one activation back to its layer, and on to its readers."""

    def __init__(self, trace: Trace, layer: LayerReport, call: Call) -> None:
        self.trace, self.layer, self.call, self.n_units = trace, layer, call, len(layer)
        self.before: list[Reader] = []  # batch norms
        self.after: list[Reader] = []
        self.readers: list[Reader] = []
        self.masks: list[Any] = []
        self.direct, self.fixed = True, False

    def group(self) -> UnitGroup:
        """Return the group, with its problem if there is one."""
        name, n = self.layer.name, self.n_units
        try:
            producer = self.back()
        except RefusalError as problem:
            return UnitGroup(name, n, problem=str(problem))
        width = len(producer.module.weight)  # type: ignore[arg-type, union-attr]
        if width != n:
            raise ValueError(
                f"report is not of this model: it has {n} units in {name!r}, but {producer.name!r} "
                f"makes {width}"
            )
        made = (producer.name, producer.module, tuple(self.before[::-1]), self.direct)
        try:
            self.on(self.call, flat=False, way=())
        except RefusalError as problem:
            return UnitGroup(name, n, *made, problem=str(problem))
        return UnitGroup(
            name, n, *made, tuple(self.after), tuple(self.readers), tuple(self.masks),
            self.fixed, self.call.module,
        )  # fmt: skip

    def back(self) -> Call:
        """Find the layer before the activation."""
        call = self.call
        while True:
            before = call.node.all_input_nodes
            if len(before) != 1:
                raise RefusalError(f"{call.what} takes {len(before)} inputs")
            call = self.trace.calls[before[0]]
            others = [user for user in call.node.users if not is_shape(user)]
            if len(others) > 1:
                raise RefusalError(f"what {call.what} returns is read elsewhere too")
            if isinstance(call.module, LAYERS):
                check_plain(call, self.trace)
                self.kernel = call.module.weight.ndim - 2  # axes of the positions; 0 if linear
                self.check_norms()
                return call
            if isinstance(call.module, BATCH_NORM):
                self.before.append(self.norm(call, False, ()))
            elif pools(call):
                self.direct = False
            elif not drops(call):
                raise RefusalError(f"before it stands {call.what}")
            elif hasattr(call.module, "mask"):
                self.masks.append(call.module)

    def norm(self, call: Call, flat: bool, way: tuple[Any, ...]) -> Reader:
        """Make an entry for a batch norm."""
        check_plain(call, self.trace, norm=True)
        module = cast("Any", call.module)
        k, rest = divmod(module.num_features, self.n_units)
        if rest or (k != 1 and not flat):
            raise RefusalError(f"{call.what} does not fit {self.n_units} units")
        return Reader(call.name, module, not flat or self.kernel > 0, way)

    def check_norms(self) -> None:
        """Refuse a batch norm on the sequence of a linear layer: its entries are no units."""
        if not self.kernel and self.before and self.layer.n_values != self.layer.n_seen:
            raise RefusalError(f"{self.before[0].name} does not act on the last axis")

    def on(self, call: Call, flat: bool, way: tuple[Any, ...]) -> None:
        """Find the layers after a call; `flat` if the positions have become one axis with units."""
        readers = [self.trace.calls[node] for node in call.node.users if not is_shape(node)]
        if not readers:
            raise RefusalError("nothing reads its output")
        for after in readers:
            if isinstance(after.module, LAYERS):
                self.read(after, flat, way)
            elif isinstance(after.module, BATCH_NORM):
                if not flat and not self.kernel and self.layer.n_values != self.layer.n_seen:
                    raise RefusalError(f"{after.what} does not act on the last axis")
                norm = self.norm(after, flat, way)
                self.after.append(norm)
                self.on(after, flat, (*way, norm))
            elif drops(after):
                if hasattr(after.module, "mask"):
                    self.masks.append(after.module)
                self.on(after, flat, way)
            elif self.kernel and not flat and pools(after):
                lost = () if keeps(after) else (f"{after.what} averages over padding",)
                self.on(after, flat, (*way, *lost))
            elif not flat and averages(after, self.kernel):
                self.on(after, averages(after, self.kernel) == "gone", way)
            else:
                self.flatten(after, flat, way)

    def flatten(self, after: Call, flat: bool, way: tuple[Any, ...]) -> None:
        """Go on behind a call that makes one axis of units and positions."""
        flattened = flattens(after, self.trace.shapes)
        if flattened is None:
            raise RefusalError(f"{after.what} reshapes: give batch=, inputs, to see the shapes")
        if not flattened:
            stream = " (a residual stream?)" if "add" in after.what else ""
            raise RefusalError(f"its output goes into {after.what}{stream}")
        self.fixed = self.fixed or flattens(after, {}) is None
        self.on(after, True, way)

    def read(self, call: Call, flat: bool, way: tuple[Any, ...]) -> None:
        """Note a layer that reads the units, if it does so in a way that is known."""
        check_plain(call, self.trace)
        module = cast("Any", call.module)
        if isinstance(module, _CONVOLUTIONS):
            fits = self.kernel > 0 and not flat
            if module.padding_mode == "zeros" and _padded(module):
                way = (*way, f"{call.what} pads with zeros")
        else:
            fits = flat or not self.kernel
        reader = Reader(call.name, module, self.kernel > 0, way)
        k, rest = divmod(reader.size, self.n_units)
        if not fits or rest or (not flat and k != 1):
            raise RefusalError(f"{call.what} reads it in a way that is not known")
        self.readers.append(reader)


def _padded(module: Any) -> bool:
    if isinstance(module.padding, str):
        return bool(module.padding == "same" and max(module.kernel_size) > 1)
    return any(module.padding)


def check_plain(call: Call, trace: Trace, *, norm: bool = False) -> None:
    """Refuse a layer whose weights are not its own plain parameters, or that is called twice."""
    module, what = cast("Any", call.module), call.what
    if not norm and type(module).forward not in _FORWARDS:
        raise RefusalError(f"{what} computes its weight in a way of its own")
    own: dict[str, nn.Parameter | None] = module._parameters
    if is_parametrized(module) or not {"weight", "bias"} <= own.keys():
        raise RefusalError(f"the weight of {what} is parametrized")
    tensors = [p for p in own.values() if p is not None]
    if any(is_lazy(p) for p in tensors):
        raise RefusalError(f"{what} has not been initialized")
    names = {f"{call.node.target}.{name}" for name in own}
    if any(trace.owners[p] > 1 for p in tensors) or names & trace.read:
        raise RefusalError(f"the weight of {what} is tied: something else uses it too")
    if trace.n_calls[module] > 1:
        raise RefusalError(f"{what} is called {trace.n_calls[module]} times")
    if not norm and getattr(module, "groups", 1) != 1:
        raise RefusalError(f"{what} is a convolution with groups")
