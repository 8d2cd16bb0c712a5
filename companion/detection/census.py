"""Count the dead units of a model over a whole data set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from companion.checks import choice, whole
from companion.detection.flow import first_tensor
from companion.detection.report import UnitReport
from companion.detection.session import Watch
from companion.untouched import taken, untouched

__all__ = ["as_tensor", "caller", "census"]

YOUNG = 0.05
"""A share of the running statistics of a batch norm from which on the report says so."""


def census(
    model: nn.Module,
    loader: Any,
    *,
    mode: str | None = "eval",
    activations: tuple[type[nn.Module], ...] = (),
    axis: int | Mapping[str, int] | None = None,
    mask: str | Callable[..., Tensor] | None = None,
    batch_first: bool = True,
    batch_size: int = 512,
    call: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool | None = None,
) -> UnitReport:
    """Count the dead units of a model over a whole data set, exactly.

    The set is streamed, in memory of a few numbers per unit. Then the model is bit for bit as it
    was, and so are all random states, even after an exception (see `companion.untouched`).

    Parameters
    ----------
    model : torch.nn.Module
        As for `watch`; of a compiled model, the original is run.
    loader : iterable or array_like of shape (n, ...)
        A `DataLoader` or anything else that gives batches: tensors; tuples, of which the model gets
        as many as its ``forward`` needs (the first, if that is one); dicts, which it gets as
        keywords. Or all inputs as one tensor or array. Inputs go to the model's device and
        precision; whole numbers stay if the model has an embedding.
    mode : {"eval", "train", None}
        To run the model in; None: as it is. Batch norm and dropout make the difference.
    activations, axis, mask, batch_first
        As for `watch`.
    batch_size : int, default 512
        Of an array.
    call : callable, optional
        Runs the model on a batch: ``call(model, batch)``, for a loader that gives something else.
    progress : bool, optional
        Show a bar; by default on a terminal, if it takes more than a second.

    Returns
    -------
    UnitReport
        `overflowed` if a parameter, an activation or an output is no finite number: then it says
        nothing else.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name: an empty loader, inputs that are not finite, a
        model without activations, and so on.

    Notes
    -----
    Exact is the count for these samples. Of all others one only knows, with 95 % confidence, that a
    unit that was silent on n independent samples is active with a probability of at most 3 / n.
    Taught in the chapter `detection`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(1, 3), torch.nn.ReLU())
    >>> _ = net[0].weight.data.fill_(1.0)
    >>> _ = net[0].bias.data.copy_(torch.tensor([-9.0, -0.5, 0.5]))
    >>> report = census(net, torch.linspace(0, 1, 1000)[:, None])
    >>> print(report)
    layer  activation  units  dead  always on  saturated  NaN  active  samples   p <=
    1      relu            3     1          1          0    0  50.0 %    1,000  0.003
    >>> report[0].score.round(2)
    array([0.  , 0.33, 2.67])
    """
    batch_size = whole("batch_size", batch_size)
    choice("progress", progress, (True, False, None))
    watched = Watch(model, activations=activations, axis=axis, mask=mask, batch_first=batch_first)
    model = watched.model
    choice("mode", mode, ("eval", "train", None))
    if call is not None and not callable(call):
        raise TypeError(f"call must be callable, not {call!r}")
    if any(is_lazy(p) or p.is_meta for p in model.parameters()):
        raise ValueError("model must have numbers, but has lazy parameters, or some on 'meta'")
    with untouched(model), torch.no_grad():
        torch.backends.mha.set_fastpath_enabled(False)  # it calls no activation that can be seen
        if mode is not None:
            model.train(mode == "train")
        with watched:
            run, empty = call or caller("loader", model), True
            for batch in _batches(loader, batch_size, progress):
                empty = False
                _run(run, model, batch)
                if watched.missed:
                    watched.again(partial(_run, run, model, batch))
            if empty:
                raise ValueError("loader must give at least one batch, but it is empty")
        finite = all(map(_finite, model.parameters()))
        report = watched.report()
        if not model.training and (young := _young_norms(model)):
            report = replace(report, notes=(*report.notes, young))
    return report if finite else replace(report, overflowed=True)


def _young_norms(model: nn.Module) -> str:
    """Say so if the running statistics of a batch norm are not yet those of the data."""
    left = {}
    for name, part in model.named_modules():
        count = getattr(part, "num_batches_tracked", None)
        if isinstance(count, Tensor) and not part.training and part.momentum:
            left[name] = (1 - part.momentum) ** int(count)  # of what they began with
    name = max(left, key=lambda name: left[name], default="")
    if not name or left[name] < YOUNG:
        return ""
    return (
        f"{name!r} has seen few batches: {100 * left[name]:.0f} % of its running statistics are "
        "those of the start, and perhaps of other norms too; mode='train' goes by the batch's own"
    )


def _run(run: Callable[[nn.Module, Any], Any], model: nn.Module, batch: Any) -> None:
    """Run the model on a batch; say so if that does not fit."""
    first = first_tensor((batch,), {})
    with taken("loader", batch if first is None else first):
        run(model, batch)


def _finite(t: Tensor) -> bool:
    """Whether all numbers are finite: the sum is, or each of them, which takes longer to see."""
    return math.isfinite(t.sum()) or bool(t.isfinite().all())


def caller(name: str, model: nn.Module) -> Callable[[nn.Module, Any], Any]:
    """Return what calls the model with a batch, on its device and in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    tokens = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules())
    n_inputs = _n_inputs(model)

    def convert(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            x = as_tensor(name, x)
        if not isinstance(x, Tensor):
            return x
        if x.is_floating_point() and not _finite(x):
            raise ValueError(f"{name} must be finite, but a batch holds NaN or infinity")
        if like is None:
            return x
        stays = not x.is_floating_point() and (tokens or x.is_complex())
        return x.to(like.device, x.dtype if stays else like.dtype)

    def call(model: nn.Module, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return model(**{key: convert(x) for key, x in batch.items()})
        inputs = list(batch[:n_inputs]) if isinstance(batch, tuple | list) else [batch]
        if not inputs or not all(isinstance(x, Tensor | np.ndarray) for x in inputs):
            raise TypeError(
                f"{name} must give tensors, tuples that begin with them, or dicts, not "
                f"{type(batch).__name__}; call= tells how to run the model on a batch, such as "
                "call=lambda model, batch: model(batch.x)"
            )
        return model(*map(convert, inputs))

    return call


def _n_inputs(model: nn.Module) -> int:
    """Count the arguments that a model's forward cannot do without."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # of a model that TorchScript has compiled
        return 1
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(p.kind in kinds and p.default is p.empty for p in parameters))


def as_tensor(name: str, x: Any) -> Tensor:
    """Take an array to PyTorch, whatever its strides."""
    try:
        return torch.as_tensor(x if isinstance(x, Tensor) else np.array(x, order="C"))
    except (TypeError, ValueError) as error:  # of objects, of text
        raise TypeError(f"{name} must be an array of numbers: {error}") from None


def _batches(loader: Any, batch_size: int, progress: bool | None) -> Iterable[Any]:
    """Cut an array into batches, and show a bar."""
    from tqdm import tqdm

    if isinstance(loader, Tensor | np.ndarray):
        x = as_tensor("loader", loader)
        if x.ndim < 1:
            raise ValueError("loader must be of shape (n, ...), not a single number")
        if x.layout != torch.strided:
            raise ValueError(f"loader must be dense, not {x.layout}")
        loader = x.split(batch_size) if len(x) else ()
    if isinstance(loader, Mapping):  # one batch, as tokenizers make them
        loader = [loader]
    if not isinstance(loader, Iterable) or isinstance(loader, str | bytes):
        raise TypeError(f"loader must be an array or give batches, not {type(loader).__name__}")
    if progress is None:  # on a terminal only, and if it takes its time
        return tqdm(loader, "census", unit="batch", leave=False, delay=1.0, disable=None)
    return tqdm(loader, "census", unit="batch", disable=not progress)
