"""Remove dead units: the same function with fewer parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.revival.choice import choose, constant, folds
from companion.revival.groups import bare

if TYPE_CHECKING:
    from companion.detection import UnitReport

__all__ = ["prune"]


def prune(
    model: nn.Module,
    report: UnitReport,
    *,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    batch: Tensor | None = None,
) -> nn.Module:
    r"""Remove dead units: a smaller model with the same function.

    Of each activation, units go whose derivative is zero on every sample of the report and whose
    output is constant (as is the 0 of a dead ReLU); what they put out goes into the biases of the
    layers that read it. On other data the function is the same as long as the units stay dead
    there. If a layer has no living unit, one dead unit remains; units that are always on remain.

    Parameters
    ----------
    model : torch.nn.Module
        As for `revive`; it stays as it is.
    report : UnitReport
        Of this model as it is now: a `companion.detection.census` in evaluation mode.
    layers, skip : sequence of str, optional
        Remove units of these activations only; of all but these.
    batch : Tensor, optional
        Inputs, to see the shapes where the model reshapes, see `unit_groups`. A reshape by numbers,
        such as ``x.view(-1, 320)``, would not fit afterwards and is refused.

    Returns
    -------
    torch.nn.Module
        A copy with fewer rows, columns and batch-norm entries. An optimizer has to be made anew.

    Raises
    ------
    ValueError
        If a layer with dead units cannot be touched safely, by its name, or constants cannot be
        taken over (a layer that pads with zeros, behind a batch norm), or the report is of another
        model or holds NaN units.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    Outputs may differ by rounding, as shorter sums are added in another order. Taught in the
    chapter `revival`.

    Examples
    --------
    >>> from companion.detection import census
    >>> x = torch.randn(100, 3, 8, 8)
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    ... ).eval()
    >>> _ = nn.init.constant_(net[1].bias[:6], -50.0)
    >>> smaller = prune(net, census(net, x))
    >>> smaller[0], smaller[4].in_features
    (Conv2d(3, 2, kernel_size=(3, 3), stride=(1, 1)), 72)
    >>> bool((smaller(x) - net(x)).abs().max() < 1e-5)
    True
    """
    smaller = copy.deepcopy(bare(model))
    chosen = choose(smaller, report, layers=layers, skip=skip, batch=batch)
    for group, _ in chosen:
        own = [] if group.activation is None else [*group.activation.state_dict().values()]
        problem = "its activation keeps numbers for each" if any(t.numel() > 1 for t in own) else ""
        problem = (
            "the model reshapes them by numbers, as in view(-1, 320)" if group.fixed else problem
        )
        if problem:
            raise ValueError(
                f"cannot remove units of {group.name!r}: {problem}; skip= leaves layers out"
            )
    kept, removed = [], []
    for group, index in chosen:
        dead = index[constant(report[group.name])[index]]
        dead = dead if len(dead) < group.n_units else dead[1:]  # a layer without units is none
        removed.append(dead)
        kept.append(np.setdiff1d(np.arange(group.n_units), dead))
    changes = [
        folds(group, report[group.name], dead)
        for (group, _), dead in zip(chosen, removed, strict=True)
    ]
    for readers in changes:  # before the columns go
        for reader, _, added in readers:
            if added is not None:
                _add(reader.module, added)
    for (group, _), rest in zip(chosen, kept, strict=True):
        for norm in group.norms:
            entries = np.sort(norm.places(rest, group.n_units).ravel())
            _keep(norm.module, ("weight", "bias", "running_mean", "running_var"), 0, entries)
            norm.module.num_features = len(entries)
        _keep(group.module, ("weight", "bias"), 0, rest)
        for reader in group.readers:
            columns = reader.places(rest, group.n_units)
            _keep(reader.module, ("weight",), 1, np.sort(columns.ravel()))
        for dropout in group.masks:
            _keep(dropout, ("mask",), dropout.mask.ndim - 1, rest)
            dropout.width = len(rest)
    for group, _ in chosen:
        for module in (group.module, *(reader.module for reader in group.readers)):
            _measure(module)
    return smaller


def _keep(module: Any, names: Sequence[str], axis: int, places: np.ndarray) -> None:
    """Keep these places of parameters and buffers along an axis."""
    for name in names:
        tensor = getattr(module, name)
        if tensor is None:
            continue
        index = torch.from_numpy(places).to(tensor.device)
        with torch.no_grad():
            rest = tensor.detach().index_select(axis, index)
        if isinstance(tensor, nn.Parameter):
            rest = nn.Parameter(rest, tensor.requires_grad)
        setattr(module, name, rest)


def _add(module: Any, added: Tensor) -> None:
    """Add constants to a bias, which is made if there is none."""
    added = added.to(module.weight)
    with torch.no_grad():
        if module.bias is None:
            module.bias = nn.Parameter(added, module.weight.requires_grad)
        else:
            module.bias += added


def _measure(module: Any) -> None:
    """Let a layer's attributes tell the shape of its weight."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    else:
        module.out_channels, module.in_channels = module.weight.shape[:2]
