"""Look at a model and leave it bit for bit as it was.

Everything that runs a model in order to learn something about it does so within `untouched`:
`companion.detection.census`, `companion.vanishing_gradients.signal_profile`, `companion.revival`.
PyTorch is imported where it is needed.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["same_states", "taken", "untouched"]

_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Give back a model and all random states as they were, after an exception too.

    What is given back: parameters and their gradients, buffers, training modes, hooks, all other
    attributes of the modules, and what stands in them: tensors, arrays, lists, dicts, sets,
    deques and dataclasses, nested ones too. Objects of other classes stay as the model's code
    left them. Random states are those of Python, NumPy and PyTorch. In other threads, whoever
    enters it waits meanwhile. It holds one copy of the parameters and buffers.

    Parameters
    ----------
    model : torch.nn.Module
        May be run, changed or interrupted meanwhile.

    Examples
    --------
    >>> import torch
    >>> norm = torch.nn.BatchNorm1d(3)
    >>> with untouched(norm):
    ...     _ = norm.train()(torch.randn(10, 3) + 5)
    ...     int(norm.num_batches_tracked)
    1
    >>> int(norm.num_batches_tracked)
    0
    """
    import torch

    with _ONE_AT_A_TIME:
        undo: list[Callable[[], object]] = []
        seen: set[int] = set()
        for module in model.modules():
            _keep(vars(module), seen, undo)
        with same_states(model):
            try:
                yield
            finally:
                with torch.inference_mode(False), torch.no_grad():
                    for step in reversed(undo):
                        step()


@contextmanager
def same_states(model: nn.Module) -> Iterator[None]:
    """Give back the random states of Python, NumPy and PyTorch, and PyTorch's fast attention.

    Parameters
    ----------
    model : torch.nn.Module
        On whose devices PyTorch's random states are kept, beside the CPU's.
    """
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = {p.device for p in model.parameters() if p.is_cuda}
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(list(devices)):
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def taken(argument: str, given: Any) -> Iterator[None]:
    """Turn what a model raises on inputs of another shape or type into an error that names them.

    Parameters
    ----------
    argument : str
        Name of the argument that holds the inputs.
    given : Any
        They.

    Raises
    ------
    ValueError
        Instead of a RuntimeError, NotImplementedError or TypeError of PyTorch's; it follows from
        it, so that a fault in the model's own code can be read there.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError, TypeError) as error:
        if str(error).startswith(argument.split(",")[0]):  # it is named already
            raise
        shape = getattr(given, "shape", None)
        what = type(given).__name__ if shape is None else f"inputs of shape {tuple(shape)}"
        raise ValueError(
            f"{argument} must be what the model takes, but with {what} it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _keep(thing: Any, seen: set[int], undo: list[Callable[[], object]]) -> None:
    """Note how to put a thing back, and all that it holds."""
    import torch

    if id(thing) in seen:
        return
    seen.add(id(thing))
    inside: list[Any] = []
    if isinstance(thing, torch.Tensor):
        undo.append(_tensor(thing))
        inside = [thing.grad] if thing.is_leaf else []
    elif isinstance(thing, np.ndarray):
        values = thing.copy()
        undo.append(lambda: np.copyto(thing, values) if thing.flags.writeable else None)
    elif isinstance(thing, dict):
        pairs = dict(thing)
        undo.append(lambda: _put_back(thing, pairs))
        inside = [*pairs.values()]
    elif isinstance(thing, list | deque):
        items = list(thing)
        undo.append(lambda: (thing.clear(), thing.extend(items)))
        inside = items
    elif isinstance(thing, set):
        members = set(thing)
        undo.append(lambda: thing.symmetric_difference_update(thing ^ members))
    elif isinstance(thing, tuple):
        inside = [*thing]
    elif isinstance(thing, SimpleNamespace) or dataclasses.is_dataclass(thing):
        inside = [] if isinstance(thing, type) else [getattr(thing, "__dict__", None)]
    for part in inside:
        _keep(part, seen, undo)


def _put_back(thing: dict[Any, Any], pairs: dict[Any, Any]) -> None:
    """Give a dict its entries back, without emptying it: another thread may be reading."""
    for key in [key for key in thing if key not in pairs]:
        del thing[key]
    for key, value in pairs.items():
        if key not in thing or thing[key] is not value:
            thing[key] = value
    if [*thing] != [*pairs]:
        for key in pairs:
            thing[key] = thing.pop(key)


def _tensor(t: Tensor) -> Callable[[], object]:
    """Return what gives a tensor its values back, its gradient and its flag."""
    import torch
    from torch.nn.parameter import is_lazy

    if is_lazy(t):
        return lambda: None
    data, values, flag = t.data, t.detach().clone(), t.requires_grad
    gradient = t.grad if t.is_leaf else None

    def put_back() -> None:
        with torch.inference_mode(t.is_inference()), torch.no_grad():
            t.data = data
            if t.layout != torch.strided or not torch.equal(t, values):
                t.copy_(values)  # which a graph that waits for its backward pass would notice
        if t.is_leaf and (t.requires_grad is not flag or t.grad is not gradient):
            t.requires_grad_(flag)
            t.grad = gradient

    return put_back
