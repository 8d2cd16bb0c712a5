"""Other remedies, a line each: every one tells the census before and after."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from companion.detection import UnitReport, census
from companion.revival.groups import bare

__all__ = ["Remedy", "lower_rate", "swap_activation"]


@dataclass(frozen=True, eq=False)
class Remedy:
    """What a remedy returns; it prints as a table."""

    model: nn.Module  #: the model given, changed in place; or the new one
    before: UnitReport
    after: UnitReport
    changed: tuple[str, ...]  #: what was changed, in words

    def __str__(self) -> str:
        width = max(5, *(len(layer.name) for layer in self.before))
        heads = f"{'layer':{width}}  units  dead before  after  active before   after"
        lines = [*self.changed, heads]
        for old, new in zip(self.before, self.after, strict=True):
            shares = [100 * np.nanmean(layer.p_active) for layer in (old, new)]
            lines.append(
                f"{old.name:{width}}  {len(old):5}  {int(old.dead.sum()):11}  "
                f"{int(new.dead.sum()):5}  {shares[0]:11.1f} %  {shares[1]:5.1f} %"
            )
        return "\n".join(lines)


def swap_activation(
    model: nn.Module, replacements: Mapping[str, nn.Module], loader: Any, **options: Any
) -> Remedy:
    """Put other activations into a model, in place; its weights stay.

    Parameters
    ----------
    model : torch.nn.Module
        Its activations must be modules.
    replacements : dict of str to torch.nn.Module
        What comes instead, by the name of an activation ("net.1") or of a kind ("relu"), as a
        report has them. Each place receives a copy of its own. What it has to learn, such as the
        slope of a PReLU, an optimizer must be told of.
    loader
        For `companion.detection.census`, as are the keywords `options`.

    Returns
    -------
    Remedy

    Raises
    ------
    ValueError, TypeError
        If a name is no activation of the model, or a replacement no module. The model is as before
        then, and also if the census fails.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = nn.init.constant_(net[0].bias, -50.0)
    >>> print(swap_activation(net, {"relu": nn.LeakyReLU(0.1)}, torch.zeros(10, 2)))
    1: relu -> LeakyReLU(negative_slope=0.1)
    layer  units  dead before  after  active before   after
    1          3            3      0          0.0 %  100.0 %
    """
    net = bare(model)
    before = census(net, loader, **options)
    kinds = {layer.name: layer.activation for layer in before}
    modules = dict(net.named_modules())
    old: dict[nn.Module, nn.Module] = {}
    changed = []
    for key, new in replacements.items():
        if not isinstance(new, nn.Module):
            raise TypeError(f"replacements must hold modules, not {new!r}")
        names = [name for name, kind in kinds.items() if key in (name, kind)]
        names = [name for name in names if " (" not in name]  # a second call is the same module
        if not names:
            raise ValueError(f"replacements must name activations of {kinds}, not {key!r}")
        for name in names:
            if name not in modules or modules[name] is net:
                raise ValueError(f"{name!r} is no module in the model, so it cannot be replaced")
            like = next(net.parameters(), torch.zeros(()))
            fresh = copy.deepcopy(new).to(like.device, like.dtype)
            old[modules[name]] = fresh.train(modules[name].training)
            changed.append(f"{name}: {kinds[name]} -> {fresh}")
    _replace(net, old)
    try:
        return Remedy(model, before, census(net, loader, **options), tuple(changed))
    except BaseException:
        _replace(net, {new: was for was, new in old.items()})
        raise


def _replace(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they are registered."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]


def lower_rate(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    *,
    factor: float = 0.1,
    **options: Any,
) -> Remedy:
    """Multiply the learning rates of an optimizer, in place, which wakes nothing by itself.

    The report shows it: before and after are the same, and stay so for a unit in the first layer.
    A schedule that computes rates from its own base undoes it with the next step.

    Parameters
    ----------
    model : torch.nn.Module
        Whose parameters the optimizer holds.
    optimizer : torch.optim.Optimizer
        The rates of all its groups are multiplied.
    loader
        For `companion.detection.census`, as are the keywords `options`.
    factor : float, default 0.1
        Positive.

    Returns
    -------
    Remedy

    Raises
    ------
    ValueError, TypeError
        If the factor is not positive and finite, or the optimizer holds no parameter of the model.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> sgd = torch.optim.SGD(net.parameters(), lr=0.5)
    >>> lower_rate(net, sgd, torch.ones(1, 2)).changed
    ('learning rate of group 0: 0.5 -> 0.05',)
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, not {optimizer!r}")
    if not 0 < factor < float("inf"):
        raise ValueError(f"factor must be positive and finite, not {factor!r}")
    held = {p for group in optimizer.param_groups for p in group["params"]}
    if not held & set(model.parameters()):
        raise ValueError("optimizer must hold the model's parameters, but holds none of them")
    before = census(model, loader, **options)
    changed = []
    for i, group in enumerate(optimizer.param_groups):
        old = float(group["lr"])
        if isinstance(group["lr"], Tensor):
            group["lr"].mul_(factor)
        else:
            group["lr"] *= factor
        changed.append(f"learning rate of group {i}: {old:g} -> {float(group['lr']):g}")
    return Remedy(model, before, census(model, loader, **options), tuple(changed))
