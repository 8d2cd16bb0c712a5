"""Reset dead units while a model trains, at the only time at which it is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from companion.checks import names, whole
from companion.detection import census
from companion.detection.session import bare
from companion.revival.edits import Incoming
from companion.revival.optimizer_state import optimizer_of
from companion.revival.resets import Revival, check_options, revive

if TYPE_CHECKING:
    from companion.detection import UnitReport

__all__ = ["Reviver", "revive_every"]


class Reviver:
    """What `revive_every` returns: it resets until it is removed, or its ``with`` is left."""

    def __init__(self, optimizer: torch.optim.Optimizer, every: int, once: Callable[[], Revival]):
        self.every, self.once = every, once
        self.steps = 0  #: steps of the optimizer so far
        self.revivals: list[Revival] = []  #: what was reset, one entry each time
        self._handle: Any = optimizer.register_step_post_hook(self._step)

    def _step(self, *_: Any) -> None:
        self.steps += 1
        if self.steps % self.every == 0:
            self.revivals.append(self.once())

    def remove(self) -> None:
        """Reset no more; `revivals` stay."""
        self._handle.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def revive_every(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    source: Any,
    *,
    rng: np.random.Generator | int | None = None,
    every: int = 1000,
    tau: float = 0.0,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    incoming: Incoming | None = None,
    state: str = "seed",
    example: Any = None,
    call: Any = None,
    batch: Any = None,
) -> Reviver:
    """Reset dead units after every so many steps of an optimizer, from a hook.

    The hook runs at the end of ``optimizer.step()``. Before it, while gradients are on their way,
    new weights would meet gradients of the old ones.

    Parameters
    ----------
    model, optimizer
        As for `revive`; of a wrapper such as accelerate's, its ``optimizer`` counts the steps.
    source : loader or callable
        What `companion.detection.census` takes: a census over it is taken each time, in evaluation
        mode. Or a callable without arguments that returns a report, such as the ``report`` of a
        `watch`, which tells of all that was seen since the watch began or was cleared.
    rng, tau, layers, skip, incoming, state, example, call, batch
        As for `revive`.
    every : int, default 1000
        Steps between two resets.

    Returns
    -------
    Reviver
        Its ``remove()`` ends it, and so does leaving its ``with``, also by an exception. Its
        `revivals` are what `revive` returned, each time.

    Raises
    ------
    ValueError, TypeError
        If an argument does not fit; what only `revive` can see, from ``optimizer.step()``, where
        the step has been taken and nothing else changed.

    Notes
    -----
    Source: Sokar et al. 2023, who reset every 1,000 steps. Taught in the chapter `revival`.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> x, y = torch.randn(64, 4), torch.randn(64, 1)
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> _ = net[0].bias.data[:3].fill_(-50.0)
    >>> adam = torch.optim.Adam(net.parameters())
    >>> with revive_every(net, adam, x, rng=np.random.default_rng(0), every=10) as reviver:
    ...     for _ in range(30):
    ...         adam.zero_grad()
    ...         nn.functional.mse_loss(net(x), y).backward()
    ...         adam.step()
    >>> [revival.n_units for revival in reviver.revivals]
    [3, 0, 0]
    """
    optimizer = optimizer_of(bare(model), optimizer)
    generator = check_options(rng, tau, state, incoming)
    for name, given in (("layers", layers or ()), ("skip", skip)):
        names(name, given, given)  # which there are, a report will tell
    if not callable(source) and (
        not isinstance(source, Iterable) or isinstance(source, str | bytes | Mapping)
    ):
        raise TypeError(f"source must be a loader or callable, not {type(source).__name__}")
    whole("every", every)

    def once() -> Revival:
        report: UnitReport = source() if callable(source) else census(model, source, call=call)
        return revive(
            model, report, optimizer=optimizer, rng=generator, tau=tau, layers=layers, skip=skip,
            incoming=incoming, state=state, example=example, call=call, batch=batch,
        )  # fmt: skip

    return Reviver(optimizer, every, once)
