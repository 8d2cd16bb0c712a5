"""Count the dead units of a model over a whole data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.detection.report import UnitReport
from companion.detection.session import Watch
from companion.vanishing_gradients.profiles import untouched

__all__ = ["census"]


def census(
    model: nn.Module,
    loader: Any,
    *,
    mode: str | None = "eval",
    functional: bool = False,
    activations: tuple[type[nn.Module], ...] = (),
    axis: int | Mapping[str, int] | None = None,
    batch_size: int = 512,
    call: Callable[[nn.Module, Any], Any] | None = None,
    progress: bool | None = None,
) -> UnitReport:
    """Count the dead units of a model over a whole data set, exactly.

    The set is streamed, in memory of a few numbers per unit. Then flags, buffers, hooks and
    PyTorch's random state are as they were, even after an exception; and so are the parameters,
    which a census never changes.

    Parameters
    ----------
    model : torch.nn.Module
        As for `watch`; of a compiled model, the original is run.
    loader : iterable or array_like of shape (n, ...)
        A `DataLoader` or anything else that gives batches: tensors, or tuples whose first entry is
        the inputs. Or all inputs as one tensor or array. Inputs go to the model's device and
        precision; whole numbers stay if the model has an embedding.
    mode : {"eval", "train", None}
        To run the model in; None: as it is. Batch norm and dropout make the difference.
    functional, activations, axis
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
    layer  activation  units   dead  always on  saturated    NaN  active   samples  P(active) <=
    1      relu            3      1          1          0      0  50.0 %     1,000         0.003
    >>> report[0].score.round(2)
    array([0.  , 0.33, 2.67])
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
    watched = Watch(model, functional=functional, activations=activations, axis=axis)
    model = watched.model
    if mode not in {None, "train", "eval"}:
        raise ValueError(f"mode must be 'eval', 'train' or None, as the model is, not {mode!r}")
    examples: list[Any] = []

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if not examples:
            examples.append(_few((args, kwargs), 8))

    with as_before(model), torch.no_grad():
        if mode is not None:
            model.train(mode == "train")
        with watched:
            handle = model.register_forward_pre_hook(keep, with_kwargs=True)
            run, empty, finite = call or _caller(model), True, True
            try:
                for batch in _batches(loader, batch_size, progress):
                    empty = False
                    finite &= _is_finite(run(model, batch))
                    if not watched.rules and not functional:
                        raise ValueError(watched.why_nothing())
            finally:
                handle.remove()
            if empty:
                raise ValueError("loader must give at least one batch, but it is empty")
        finite &= all(bool(p.isfinite().all()) for p in model.parameters())
        report = replace(watched.report(), example=examples[0])
    return report if finite else replace(report, overflowed=True)


def _few(inputs: Any, n: int) -> Any:
    """Copy the first samples of all tensors in arguments."""
    if isinstance(inputs, Tensor):
        return inputs.detach()[:n].clone() if inputs.ndim else inputs.detach().clone()
    if isinstance(inputs, tuple | list):
        return type(inputs)(_few(part, n) for part in inputs)
    if isinstance(inputs, dict):
        return {name: _few(part, n) for name, part in inputs.items()}
    return inputs


def _is_finite(output: Any) -> bool:
    """Whether all tensors in what a model returns are finite."""
    if isinstance(output, Tensor):
        return bool(output.isfinite().all()) if output.is_floating_point() else True
    if isinstance(output, Mapping):
        return all(map(_is_finite, output.values()))
    return all(map(_is_finite, output)) if isinstance(output, tuple | list) else True


def _caller(model: nn.Module) -> Callable[[nn.Module, Any], Any]:
    """Call the model with the inputs of a batch, on its device and in its precision."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    tokens = any(isinstance(part, nn.Embedding | nn.EmbeddingBag) for part in model.modules())

    def call(model: nn.Module, batch: Any) -> Any:
        x = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not isinstance(x, Tensor | np.ndarray):
            raise TypeError(
                "loader must give tensors, or tuples that begin with one, not "
                f"{type(x).__name__}; call= tells how to run the model on a batch, such as "
                "call=lambda model, batch: model(**batch)"
            )
        x = torch.as_tensor(x)
        if x.is_floating_point() and not math.isfinite(x.sum()) and not bool(x.isfinite().all()):
            raise ValueError("loader must give finite inputs, but a batch holds NaN or infinity")
        if like is not None:
            whole = not x.is_floating_point() and (tokens or x.is_complex())
            x = x.to(like.device, x.dtype if whole else like.dtype)
        return model(x)

    return call


def _batches(loader: Any, batch_size: int, progress: bool | None) -> Iterable[Any]:
    """Cut an array into batches, and show a bar."""
    from tqdm import tqdm

    if isinstance(loader, Tensor | np.ndarray):
        if loader.ndim < 1:
            raise ValueError("loader must be of shape (n, ...), not a single number")
        loader = torch.as_tensor(loader).split(batch_size)
    if not isinstance(loader, Iterable) or isinstance(loader, str | bytes | Mapping):
        raise TypeError(f"loader must be an array or give batches, not {type(loader).__name__}")
    if progress is None:  # on a terminal only, and if it takes its time
        return tqdm(loader, "census", unit="batch", leave=False, delay=1.0, disable=None)
    return tqdm(loader, "census", unit="batch", disable=not progress)


@contextmanager
def as_before(model: nn.Module) -> Iterator[None]:
    """Give back flags, buffers and PyTorch's random state, and have the hooks run meanwhile."""
    flags = {part: part.training for part in model.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it calls no activation that can be seen
    try:
        with untouched(model):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for part, training in flags.items():
            part.training = training
