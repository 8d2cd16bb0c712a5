"""Watch the units of a model while it trains."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from companion.detection.session import HINT, Watch

__all__ = ["watch"]


def watch(
    model: nn.Module,
    *,
    every: int = 1,
    samples: int | None = None,
    functional: bool = False,
    activations: tuple[type[nn.Module], ...] = (),
    mode: str | None = None,
    axis: int | Mapping[str, int] | None = None,
) -> Watch:
    """Watch the units of a model while it trains.

    Use it round a training loop, which stays as it is::

        with watch(model, every=10) as watched:
            train(model)
        print(watched.report())

    It counts with forward hooks on the activations, in double precision, in memory of a few numbers
    per unit on the model's device, and waits for the device in `report` only. When it is left, by
    an exception too, no hook stays behind; a copy of the model that is made meanwhile has none.

    Parameters
    ----------
    model : torch.nn.Module
        Any, also one that `torch.compile` or `DistributedDataParallel` has wrapped. Activations are
        those of `torch.nn` and the book's `Elementwise`.
    every : int, default 1
        Look at the 1st, (every + 1)th, ... of the forward passes.
    samples : int, optional
        Look at the first so many samples of a batch.
    functional : bool, default False
        Look at activations that are called as functions too: those of `torch.nn.functional`,
        `torch.relu`, `Tensor.relu` and their like, not `clamp`. Their layers are called
        "path.relu()", by the path of the module that calls them.
    activations : tuple of subclasses of torch.nn.Module
        Activations of your own. They must act on each number by itself; their derivative is found
        by autograd, for which they are called a second time.
    mode : {None, "train", "eval"}
        Which forward passes count: all, or those with the model in training or evaluation mode.
    axis : int or mapping of str to int, optional
        On which axis of the outputs the units are, for all layers or by name. The default is 1 for
        images and the last for sequences, but what ran last before the activation decides: after a
        convolution or a batch norm it is 1, after a linear layer or a layer norm the last.

    Returns
    -------
    Watch
        A context manager with `attach`, `detach`, `clear` and `report`.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit, by its name, or the model has no activation to watch. `report`
        raises `ValueError` if nothing was seen.

    Notes
    -----
    Each call of a module that is used several times in a forward pass has its own layer, "relu",
    "relu (2)", .... Only what runs inside ``model(x)`` counts: ``model.forward(x)``, calls of the
    model's parts, and what gradient checkpointing computes again in the backward pass do not.
    Compile a model after the watch is attached; PyTorch does not run hooks that are added after the
    first compiled call. In compiled code, functions are not seen. Under `DistributedDataParallel`
    each rank counts what it sees; `UnitReport.all_reduce` adds the ranks.

    Taught in the chapter `detection`.

    Examples
    --------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> _ = net[0].weight.data.fill_(1.0)
    >>> _ = net[0].bias.data.copy_(torch.tensor([-9.0, -1.0, 0.5]))
    >>> with watch(net) as watched:
    ...     for _ in range(5):
    ...         _ = net(torch.rand(100, 2))
    >>> report = watched.report()
    >>> report["1"].dead, report["1"].always_on, report["1"].n_seen
    (array([ True, False, False]), array([False, False,  True]), 500)
    >>> len(net[1]._forward_hooks)
    0
    """
    found = Watch(
        model,
        every=every,
        samples=samples,
        functional=functional,
        activations=activations,
        mode=mode,
        axis=axis,
    )
    if not found.rules and not functional:
        raise ValueError(f"model has no activation among its modules. {HINT}")
    return found
