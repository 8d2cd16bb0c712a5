"""Remove dead units: the same function with fewer parameters."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from companion.revival.choice import Chosen, Constants, choose, refuse, without_harm
from companion.revival.graph import is_conv1d, weight_axes
from companion.revival.probing import Probe, copied, same

if TYPE_CHECKING:
    from companion.detection import UnitReport

__all__ = ["prune"]


def prune(
    model: nn.Module,
    report: UnitReport,
    *,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    example: Any = None,
    call: Any = None,
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
    example, call
        As for `unit_groups`.

    Returns
    -------
    torch.nn.Module
        A copy with fewer rows, columns and batch-norm entries; its attribute `left` is a dict that
        tells by name which activations have dead units still, and why. An optimizer has to be made
        anew.

    Raises
    ------
    ValueError
        If `layers` name one with dead units that cannot be removed, or the report is of another
        model.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    Outputs may differ by rounding, as shorter sums are added in another order. More is not
    accepted: the smaller model is run on the example, and a layer that changes an output is left,
    as where the model uses its width as a number. Taught in the chapter `revival`.

    Examples
    --------
    >>> from companion.detection import census
    >>> x = torch.randn(100, 3, 8, 8)
    >>> net = nn.Sequential(
    ...     nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    ... ).eval()
    >>> _ = nn.init.constant_(net[1].bias[:6], -50.0)
    >>> smaller = prune(net, census(net, x))
    >>> smaller[0], smaller[4].in_features, smaller.left
    (Conv2d(3, 2, kernel_size=(3, 3), stride=(1, 1)), 72, {})
    >>> bool((smaller(x) - net(x)).abs().max() < 1e-5)
    True
    """
    probe = Probe(model, report, example, call)
    chosen, left, constants = choose(probe, report, layers=layers, skip=skip, to_prune=True)
    for name, index in chosen.items():
        if len(index) == len(report[name]):
            chosen[name] = index[1:]  # a layer without units is none
    before, within = probe.outputs(probe.copy()), probe.tolerance()
    trains = False
    with suppress(Exception):  # of one sample in a batch norm, or losses without targets
        probe.outputs(probe.copy().train())
        trains = True

    def problem(chosen: Chosen) -> str:
        """Tell what is wrong with the model without these units."""
        smaller = _without(probe.model, chosen, constants)
        try:
            if trains:
                probe.outputs(copy.deepcopy(smaller).train())
            after = probe.outputs(smaller.eval())
        except Exception as error:  # whatever a model says to another width
            cause = error.__cause__ or error  # before it was given a name
            return f"the model does not run without them ({type(cause).__name__}: {cause})"
        return "" if same(before, after, within) else "the function would change"

    accepted = without_harm(chosen, problem, left)
    refuse(left, layers)
    smaller = _without(probe.model, accepted, constants)
    if not hasattr(smaller, "left"):
        vars(smaller)["left"] = left
    return smaller


def _without(model: nn.Module, chosen: Chosen, constants: Constants) -> nn.Module:
    """Copy a model without these units, whose constants go into biases."""
    smaller = copied(model)
    gone: dict[tuple[str, str, int], set[int]] = {}  # by module, tensor and axis, the places
    for _, reader, added in constants.added(chosen):
        _add(smaller.get_submodule(reader.name), added)
    for name, index in chosen.items():
        group = constants.groups[name]
        for reader in group.readers:
            axis = weight_axes(reader.module)[1]
            places = gone.setdefault((reader.name, "weight", axis), set())
            places.update(reader.places[index].ravel().tolist())
        for part in (*group.makers, *group.after, *group.beside):
            for own in ("weight", "bias", "running_mean", "running_var"):
                axis = weight_axes(part.module)[0] if own == "weight" else 0
                places = gone.setdefault((part.name, own, axis), set())
                places.update(part.places[index].ravel().tolist())
    for (name, own, axis), places in gone.items():
        _remove(smaller.get_submodule(name), own, axis, places)
    for name in {name for name, _, _ in gone}:
        _measure(smaller.get_submodule(name))
    return smaller


def _remove(module: Any, name: str, axis: int, places: set[int]) -> None:
    """Remove these places of a parameter or buffer along an axis."""
    tensor = getattr(module, name, None)
    if tensor is None or (isinstance(module, nn.PReLU) and tensor.numel() == 1):
        return
    rest = torch.tensor(sorted(set(range(tensor.shape[axis])) - places), device=tensor.device)
    with torch.no_grad():
        kept = tensor.detach().index_select(axis, rest.long())
    if isinstance(tensor, nn.Parameter):
        kept = nn.Parameter(kept, tensor.requires_grad)
    setattr(module, name, kept)


def _add(module: Any, added: torch.Tensor) -> None:
    """Add constants to a bias, which is made if there is none."""
    added = added.to(module.weight)
    with torch.no_grad():
        if module.bias is None:
            module.bias = nn.Parameter(added, module.weight.requires_grad)
        else:
            module.bias += added


def _measure(module: Any) -> None:
    """Let a layer's attributes tell the shape of its weight."""
    if hasattr(module, "num_features"):
        tensor = module.weight if module.weight is not None else module.running_mean
        module.num_features = len(tensor) if tensor is not None else module.num_features
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    else:
        outs, ins = (module.weight.shape[axis] for axis in weight_axes(module))
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = outs, ins
        elif is_conv1d(module):
            module.nx, module.nf = ins, outs
        else:
            module.groups = min(module.groups, outs)  # as many as there are, if depthwise
            module.out_channels, module.in_channels = outs, ins * module.groups
