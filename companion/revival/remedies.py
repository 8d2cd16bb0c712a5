"""Remedies other than a reset: every one tells the census before and after."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from companion.checks import choice, names, real
from companion.detection import UnitReport, census
from companion.detection.rounding import tied
from companion.detection.session import bare
from companion.revival.graph import is_layer, unit_axis, weight_axes
from companion.revival.groups import unit_groups

__all__ = ["Centre", "Remedy", "centre_inputs", "redraw", "shift_bias", "swap_activation"]

CONSTANT = 1e-12
"""A feature whose standard deviation is at most this share of its mean does not vary."""


@dataclass(frozen=True, eq=False)
class Remedy:
    """What a remedy returns; it prints as a table."""

    model: nn.Module  #: the model given, changed in place; or the new one
    before: UnitReport
    after: UnitReport
    changed: tuple[str, ...]  #: what was changed, in words
    left: dict[str, str] = field(default_factory=dict)  #: activations left as they were, and why

    def __str__(self) -> str:
        width = max(5, *(len(layer.name) for layer in self.before))
        heads = f"{'layer':{width}}  units  dead before  after  active before   after"
        notes = [f"left {name!r}: {why}" for name, why in self.left.items()]
        lines = [*self.changed, *notes, heads]
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
    if not isinstance(replacements, Mapping):
        raise TypeError(f"replacements must be a dict, not {replacements!r}")
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


def redraw(model: nn.Module) -> list[str]:
    r"""Draw all parameters of a model anew, in place, as if it had never been trained.

    The weights of linear layers and convolutions are drawn by He's rule, from a normal distribution
    of variance :math:`2/n_\text{in}`, and their biases are zero. All other modules, such as norms
    and embeddings, are asked to `reset_parameters`.

    Parameters
    ----------
    model : torch.nn.Module
        What is drawn comes from PyTorch's generator: `torch.manual_seed` repeats it. An optimizer
        that has seen the model before keeps what it has added up, so begin with a new one.

    Returns
    -------
    list of str
        Names of the parameters that stayed: those of modules that cannot draw them.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(50, 99), nn.BatchNorm1d(99), nn.ReLU())
    >>> _ = nn.init.constant_(net[1].bias, -3.0)
    >>> redraw(net), bool(net[1].bias.any()), round(net[0].weight.std().item(), 1)
    ([], False, 0.2)
    """
    net, stayed = bare(model), list[str]()
    for path, module in net.named_modules():
        own = dict(module.named_parameters(path, recurse=False))
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        parametrized = is_parametrized(module, "weight")
        if is_layer(module) and (parametrized or "weight" in module._parameters):
            weight: Any = module.weight.detach().clone()
            axis, _ = weight_axes(module)
            n_units = weight.shape[axis] * (getattr(module, "groups", 1) if axis else 1)
            nn.init.normal_(weight, std=math.sqrt(2 * n_units / weight.numel()))
            with torch.no_grad():
                if parametrized:
                    module.weight = weight  # its parameters follow from that
                else:
                    module.weight.copy_(weight)
                if module.bias is not None:
                    module.bias.zero_()
        elif callable(reset) and not is_layer(module):
            reset()
        elif "parametrizations." not in path:
            stayed += own
    return stayed


class Centre(nn.Module):
    """Subtract a mean from the inputs, and divide them by a scale.

    Parameters
    ----------
    mean, scale : Tensor
        Buffers; they broadcast against the inputs.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Return (x - mean) / scale, of the shape of x."""
        return (x - self.mean) / self.scale


def shift_bias(
    model: nn.Module,
    loader: Any,
    *,
    p_active: float = 0.5,
    layers: Sequence[str] | None = None,
    all_units: bool = False,
    **options: Any,
) -> Remedy:
    r"""Shift biases, in place, until units have a positive pre-activation as often as wanted.

    From the first activation to the last, :math:`b_i` becomes :math:`b_i - q_i`, with
    :math:`q_i` in the middle between two neighbours among the unit's pre-activations: those that
    leave a share as close as possible to `p_active` above, and one value at least. Behind a batch
    norm, which takes the bias away, its β is shifted instead.

    Parameters
    ----------
    model : torch.nn.Module
        As for `revive`, but what reads the units does not matter.
    loader
        For `companion.detection.census`, as are the keywords `options`. The pre-activations of the
        shifted units are kept in memory, one layer at a time.
    p_active : float, default 0.5
        Share of the samples, and positions, between 0 and 1. Pre-activations that are equal but for
        rounding, as where all inputs of the layer are 0, stay together on one side: those that lie
        no further from the value at the wanted share than 1e-10 (in float32 1e-6) of the unit's
        largest. The share is then the nearest that is possible, and the larger of two as near; a
        unit whose pre-activations are all equal fires at all of them.
    layers : sequence of str, optional
        Activations to treat; by default all. An activation whose layer has neither bias nor β, or
        is not known, is then left, and the record's `left` says why.
    all_units : bool, default False
        Shift the living units too, and not only those that are dead.

    Returns
    -------
    Remedy

    Raises
    ------
    ValueError, TypeError
        If a number is out of range, a name unknown, or the units of a layer that `layers` names
        cannot be shifted. The model is as before then, and also if a census fails.

    Notes
    -----
    The function changes: what is woken was read with weights that had nothing to do.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = nn.init.constant_(net[0].bias, -50.0)
    >>> print(shift_bias(net, torch.linspace(-1, 1, 1000)[:, None]))
    1: 2 units shifted by 0.bias
    layer  units  dead before  after  active before   after
    1          2            2      0          0.0 %   50.0 %
    """
    net = bare(model)
    real("p_active", p_active, 0, 1, open_low=True, open_high=True)
    choice("all_units", all_units, (True, False))
    before = census(net, loader, **options)
    chosen = names("layers", before.names if layers is None else layers, before.names)
    written: list[tuple[nn.Parameter, Tensor]] = []
    changed, left, n_known = [], {}, 0
    try:
        now = before
        for group in unit_groups(net, before):
            index = np.arange(group.n_units)
            if not all_units:
                if len(written) > n_known:  # shifts further up may have woken units here, or killed
                    now, n_known = census(net, loader, **options), len(written)
                index = np.flatnonzero(now[group.name].dead)
            if not len(index) or group.name not in chosen:
                continue
            name, module = group.makers[-1].name, group.makers[-1].module
            problem = ""
            if module is None or not group.direct or len(group.before) > 1:
                problem = group.problem or "something stands between it and its layer"
            elif module.bias is None:
                problem = f"{name} has no bias"
            if problem and layers is not None:
                raise ValueError(f"cannot shift the units of {group.name!r}: {problem}")
            if problem:
                left[group.name] = problem
                continue
            z, precision = _outputs(module, index, lambda: census(net, loader, **options))
            places = torch.from_numpy(index).to(module.bias.device)
            written.append((module.bias, module.bias.detach().clone()))
            middles = [_middle(row, p_active, precision) for row in z]
            shift = torch.tensor(middles, dtype=torch.float64).to(module.bias)
            with torch.no_grad():
                module.bias[places] -= shift
            changed.append(f"{group.name}: {len(index)} units shifted by {name}.bias")
        return Remedy(model, before, census(net, loader, **options), tuple(changed), left)
    except BaseException:
        with torch.no_grad():
            for bias, value in reversed(written):
                bias.copy_(value)
        raise


def _middle(z: np.ndarray, p_active: float, precision: float) -> float:
    """Find a number that so large a share of these values exceeds, and that none is equal to."""
    if not np.isfinite(z).all():
        return 0.0
    falling, wanted = np.sort(z)[::-1], p_active * len(z)
    at, same = falling[int(wanted)], precision * np.abs(z).max()
    above, with_it = int((z > at + same).sum()), int((z >= at - same).sum())
    n = above if above and wanted - above < with_it - wanted else with_it
    if n == len(z):
        return float(falling[-1] - (same or precision))
    return float(falling[n - 1 : n + 1].mean())


def _outputs(
    module: nn.Module, units: np.ndarray, run: Callable[[], Any]
) -> tuple[np.ndarray, float]:
    """Run a model, and return what a layer puts out for these units, of shape (n, values).

    Also return how far apart values may be, relative to the largest, that are equal.
    """
    found: list[np.ndarray] = []
    precisions: list[float] = []

    def look(module: nn.Module, args: Any, output: Tensor) -> None:
        rows = output.detach().movedim(unit_axis(module, output), 0).flatten(1)
        found.append(rows[torch.from_numpy(units).to(rows.device)].cpu().double().numpy())
        precisions.append(tied(output.dtype))

    handle = module.register_forward_hook(look)
    try:
        run()
    finally:
        handle.remove()
    return np.concatenate(found, axis=1), max(precisions)


def centre_inputs(model: nn.Module, loader: Any, *, scale: bool = False, **options: Any) -> Remedy:
    """Put a `Centre` in front of a model: its inputs then have mean 0 on a data set.

    Parameters
    ----------
    model : torch.nn.Module
        Stays as it is; the new model shares its parameters.
    loader
        For `companion.detection.census`, as are the keywords `options`; it is run twice.
    scale : bool, default False
        Divide by the standard deviation too, where that is not 0: more than 1e-12 of the mean,
        since of a feature that is constant it is 0 but for rounding.

    Returns
    -------
    Remedy
        Its `model` is ``nn.Sequential(Centre(mean, scale), model)``. The mean is one per feature,
        and for images, (samples, channels, height, width), one per channel.

    Raises
    ------
    ValueError, TypeError
        As `companion.detection.census`.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> with torch.no_grad():
    ...     _ = net[0].weight.fill_(-1.0), net[0].bias.fill_(0.0)
    >>> print(centre_inputs(net, torch.linspace(5, 7, 100)[:, None]))
    0: the inputs' mean is subtracted
    layer  units  dead before  after  active before   after
    1          2            2      0          0.0 %   50.0 %
    """
    choice("scale", scale, (True, False))
    net = bare(model)
    sums: list[tuple[int, Tensor, Tensor]] = []
    ends: list[int] = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if not args or not isinstance(args[0], Tensor) or not args[0].is_floating_point():
            raise TypeError("loader must give inputs that are real numbers, in one tensor")
        x = args[0].detach().double()
        axes = [0, *range(2, x.ndim)] if x.ndim > 3 else [0]
        ends[:] = [x.ndim]
        n = x.numel() // x.sum(axes, keepdim=True).numel()
        mean = x.mean(axes, keepdim=True)[0]
        sums.append((n, mean, ((x - mean) ** 2).mean(axes, keepdim=True)[0]))

    handle = net.register_forward_pre_hook(look)
    try:
        before = census(net, loader, **options)
    finally:
        handle.remove()
    total = sum(n for n, _, _ in sums)
    mean = sum((n * m for n, m, _ in sums), start=torch.zeros(())) / total
    square = sum((n * (v + (m - mean) ** 2) for n, m, v in sums), start=torch.zeros(())) / total
    varies = square.sqrt() > CONSTANT * mean.abs()
    spread = torch.where(varies, square, 1.0).sqrt() if scale else torch.ones_like(mean)
    like = next(net.parameters(), mean)
    centre = Centre(mean.to(like), spread.to(like)).train(net.training)
    new = nn.Sequential(centre, net)
    new.training = net.training
    what = "0: the inputs' mean is subtracted" + (", and their scale divided out" if scale else "")
    return Remedy(new, before, census(new, loader, **options), (what,))
