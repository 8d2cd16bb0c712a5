"""Reset units: fresh weights in, none out, and nothing left of what killed them.

What `revive` does in turn, of which only the last step writes to the model:

- `choose` takes the dead units of the report, and leaves those of a layer whose makers and readers
  are not known (`companion.revival.groups`), that is frozen, or whose constants nobody can take.
- `plan` lists what would be written (`companion.revival.edits`), with the numbers that the
  generator gives next: for as long as units are only tried, these stay the same.
- `without_harm` lets the plan be tried on a copy, whose outputs must stay as they are: all layers
  at once, and if they do not, one after the other, so that only those that do harm are left.
- `_estimate`, if there is a batch, sets running statistics in the plan to those of the batch.
- Each edit is written, and what the optimizer keeps for it reset
  (`companion.revival.optimizer_state`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from companion.checks import choice, generator, real
from companion.initialization import STDS
from companion.revival.choice import Chosen, Constants, choose, refuse, without_harm
from companion.revival.edits import Edit, Incoming, plan, tensor_of
from companion.revival.optimizer_state import (
    STATES,
    check_optimizer,
    held_keys,
    optimizer_of,
    reset_state,
)
from companion.revival.probing import Probe, same

if TYPE_CHECKING:
    from companion.detection import UnitReport

__all__ = ["Revival", "Touched", "revive"]


@dataclass(frozen=True, eq=False)
class Touched:
    """Places of one tensor that `revive` has written, or would write."""

    layer: str  #: the activation, as in the report
    tensor: str  #: as in `model.state_dict()`
    part: str  #: "rows" make units, "columns" read them, "entries" are one for each
    axis: int  #: on which these are
    index: np.ndarray  #: along that axis
    now: str  #: what stands there now
    state: tuple[str, ...] = ()  #: what the optimizer keeps for these places, and was reset


@dataclass(frozen=True, eq=False)
class Revival:
    """What `revive` returns; it prints as a table."""

    units: dict[str, np.ndarray]  #: the units that were reset, by the activation's name
    touched: tuple[Touched, ...]  #: in the order in which they were written
    left: dict[str, str] = field(default_factory=dict)  #: what was not, by name, and why
    dry_run: bool = False  #: True if nothing was written
    warnings: tuple[str, ...] = ()  #: where two layers in a row were reset as a whole

    @property
    def n_units(self) -> int:
        """Number of units that were reset."""
        return sum(len(units) for units in self.units.values())

    def __str__(self) -> str:
        rows = [("layer", "tensor", "places", "now", "optimizer's state")]
        for item in self.touched:
            places = _short(item.index)
            if item.part != "entries":
                places = f"{item.part} {places}"
            rows.append((item.layer, item.tensor, places, item.now, ", ".join(item.state)))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        lines = ["  ".join(f"{c:{w}}" for c, w in zip(r, widths, strict=True)) for r in rows]
        what = "would be reset" if self.dry_run else "reset"
        heads = f"{self.n_units} unit{'' if self.n_units == 1 else 's'} {what}"
        notes = [f"left {name!r}: {why}" for name, why in self.left.items()]
        notes += [f"warning: {text}" for text in self.warnings]
        return "\n".join(x.rstrip() for x in [heads, *(lines if self.touched else []), *notes])


def _short(index: np.ndarray) -> str:
    """Write 0, 1, 2, 7 as 0-2, 7, and leave out the middle of long lists."""
    runs = np.split(index, np.flatnonzero(np.diff(index) != 1) + 1)
    words = [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words if len(words) <= 6 else [*words[:4], "...", words[-1]])


def revive(
    model: nn.Module,
    report: UnitReport,
    *,
    rng: np.random.Generator | int | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    tau: float = 0.0,
    units: Mapping[str, ArrayLike] | None = None,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    incoming: Incoming | None = None,
    state: str = "seed",
    example: Any = None,
    call: Any = None,
    batch: Any = None,
    dry_run: bool = False,
) -> Revival:
    r"""Reset dead units, in place: what leads into them is drawn anew, what leads out is zero.

    A unit's incoming weights are drawn, its bias is 0, its entries of batch norms let everything
    pass (γ = 1, β = 0, running mean 0 and variance 1), its outgoing weights are 0, and the
    optimizer forgets what it knew of all of these. Call it after ``optimizer.step()``, before the
    next forward pass; `revive_every` does. All is tried on a copy before anything is written; what
    cannot be done safely is left, and the record's `left` says why.

    Parameters
    ----------
    model : torch.nn.Module
        Any; `unit_groups` shows what is known of it.
    report : UnitReport
        Of this model as it is now, by `census` or `watch`.
    rng : numpy.random.Generator or int, optional
        Draws the weights; untouched by a dry run.
    optimizer : torch.optim.Optimizer, optional
        SGD, Adam, AdamW, RMSprop, or another that keeps the same. Without it only weights change,
        and an optimizer in use would move the fresh weights by old momentum.
    tau : float, default 0
        At 0, dead units, whose derivative is zero on every sample; what they put out must be
        constant but for rounding, as is the 0 of a ReLU. (A hard tanh that jumps from -1 to 1 has
        no derivative either, yet tells something, and stays.) Above 0 also those whose dormancy
        score is at most τ; the function changes then.
    units : dict of str to array_like of int, optional
        Units to reset instead, by the activation's name.
    layers, skip : sequence of str, optional
        Reset in these activations only; in all but these.
    incoming : str or callable, optional
        "he", "xavier", "lecun" (normal) or "pytorch" (uniform), or a callable that takes the
        weight's shape and `rng` and returns weights, such as `companion.initialization.he_normal`.
        By default normal, with the standard deviation of the weights of the layer's living units:
        a layer doesn't say how it was initialized, but they do, and at the scale that training has
        given them since. If none lives, or all these weights are equal (to a relative 1e-12), as
        PyTorch initializes the layer.
    state : {"seed", "zero", "zero_step"}, default "seed"
        What the optimizer keeps for the fresh weights. "zero": moments of 0. Adam divides them by
        :math:`1 - \beta^t`, and t, shared by the tensor, is large: where all gradients are equal
        and constant, fresh weights take steps of 3.15 times the usual length at first, and up to
        6.55 times. "zero_step": t is 0 too; then fresh weights take the usual steps, but every
        survivor in the tensor is slowed, down to 0.153 times. "seed": first moments of 0, and for
        second ones the median over the living units: fresh weights start gently and never exceed
        the usual step, and survivors notice nothing. (Where no unit of a tensor is left, moments
        and t of the whole tensor start at 0, as in a new one.)
    example, call
        As for `unit_groups`.
    batch : Tensor, tuple or dict, optional
        More inputs, of the same form as an example. From them the running statistics of fresh
        batch-norm entries are estimated; else they are 0 and 1 until training has moved them (0.9
        to the power of t is left after t steps at PyTorch's momentum of 0.1), and the units have a
        wrong scale in evaluation mode.
    dry_run : bool, default False
        Return what would be written, and write nothing.

    Returns
    -------
    Revival
        Every tensor and index that was written, and what was left.

    Raises
    ------
    ValueError
        If `layers` or `units` name something that cannot be touched safely; if a report is of
        another model, τ is negative, the optimizer doesn't hold a parameter or keeps what is not
        known. Then model, optimizer and report are as before.
    TypeError
        If an argument is of the wrong kind.

    Notes
    -----
    At τ = 0 the function stays the same. What dead units put out, as behind a batch norm or where
    a sigmoid is stuck at 1, goes into the biases of the next layer; where that pads with zeros or
    has no bias, this cannot be, and the layer is left. In training mode the function is the same
    if no batch norm stands behind the activation. Gradients that wait at fresh weights become 0.
    If two layers in a row are reset as a whole, the weights between them are zero and no gradient
    passes a ReLU there: the record's `warnings` say so, and the weights should be drawn anew.
    Under DistributedDataParallel, call it on every rank with a generator of the same seed and the
    sum of the reports.

    Source: Sokar et al. 2023, "The Dormant Neuron Phenomenon", for what is drawn and zeroed. The
    seeded state is our own. Taught in the chapter `revival`.

    Examples
    --------
    >>> from companion.detection import census
    >>> rng = np.random.default_rng(0)
    >>> x = torch.from_numpy(rng.normal(size=(100, 4))).float()
    >>> net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.from_numpy(rng.normal(size=(5, 4))))
    ...     _ = net[0].bias.copy_(torch.tensor([0.0, -50, 0, -50, 0]))
    >>> before = net(x)
    >>> print(revive(net, census(net, x), rng=rng))
    2 units reset
    layer  tensor    places        now                optimizer's state
    1      0.weight  rows 1, 3     normal, std 0.929
    1      0.bias    1, 3          zero
    1      2.weight  columns 1, 3  zero
    >>> bool((net(x) == before).all()), int(census(net, x)["1"].dead.sum())
    (True, 0)
    """
    start = check_options(rng, tau, state, incoming)
    choice("dry_run", dry_run, (True, False))
    probe = Probe(model, report, example, call)
    optimizer = None if optimizer is None else optimizer_of(probe.model, optimizer)
    chosen, left, constants = choose(probe, report, tau=tau, units=units, layers=layers, skip=skip)
    before, within = probe.outputs(probe.copy()), probe.tolerance()

    def planned(chosen: Chosen) -> tuple[list[Edit], np.random.Generator]:
        """Plan with the numbers that come next, and return the generator after them."""
        rng = copy.deepcopy(start)
        return plan(chosen, constants, incoming, rng), rng

    def problem(chosen: Chosen) -> str:
        """Tell if outputs change; of living units, if they are more than no longer read."""
        edits, expected = planned(chosen)[0], before
        if any(not report[name].dead[index].all() for name, index in chosen.items()):
            unread = [edit for edit in edits if edit.add or edit.part == "columns"]
            expected = probe.outputs(_edited(probe, unread))
        found = probe.outputs(_edited(probe, edits))
        return "" if same(expected, found, within) else "the function would change"

    accepted = without_harm(chosen, problem, left)
    refuse(left, units, layers)
    edits, end = planned(accepted)
    if batch is not None:
        _estimate(probe, edits, batch)
    if optimizer is not None:
        written = {edit.name: tensor_of(probe.model, edit.name) for edit in edits}
        own = {name: t for name, t in written.items() if isinstance(t, nn.Parameter)}
        check_optimizer(optimizer, own)
    if not dry_run:  # nothing that could fail is left
        with torch.no_grad():
            for edit in edits:
                tensor = edit.apply(probe.model)
                if optimizer is not None and not edit.add:
                    reset_state(optimizer, tensor, edit.axis, edit.places, edit.living, state)
        start.bit_generator.state = end.bit_generator.state
    touched = tuple(_touched(edit, probe.model, optimizer, state) for edit in edits)
    return Revival(accepted, touched, left, dry_run, tuple(_deadlocks(accepted, constants)))


def _edited(probe: Probe, edits: list[Edit]) -> nn.Module:
    """Copy the model with these edits."""
    model = probe.copy()
    with torch.no_grad():
        for edit in edits:
            edit.apply(model)
    return model


def check_options(rng: Any, tau: Any, state: Any, incoming: Any) -> np.random.Generator:
    """Check what has nothing to do with the model, and return a generator."""
    real("tau", tau, 0)
    choice("state", state, STATES)
    if incoming is not None and not callable(incoming):
        choice("incoming", incoming, STDS)
    return generator("rng", rng)


def _deadlocks(chosen: Chosen, constants: Constants) -> Iterator[str]:
    """Name pairs of layers that are reset as a whole, where the second reads the first."""
    groups = [constants.groups[name] for name in chosen]
    whole = [group for group in groups if len(chosen[group.name]) == group.n_units]
    for first in whole:
        for second in whole:
            if second.producer in [reader.name for reader in first.readers]:
                yield (
                    f"all units of {first.name!r} and of {second.name!r} are reset: "
                    f"{second.producer}.weight is zero, and a ReLU behind it passes no gradient; "
                    "draw it anew"
                )


def _touched(edit: Edit, model: nn.Module, optimizer: Any, rule: str) -> Touched:
    keys = () if edit.add else held_keys(optimizer, tensor_of(model, edit.name), rule)
    index = np.sort(edit.places.ravel())
    return Touched(edit.layer, edit.name, edit.part, edit.axis, index, edit.now, keys)


def _estimate(probe: Probe, edits: list[Edit], batch: Any) -> None:
    """Let fresh running statistics be those of a batch, from layer to layer."""
    statistics: dict[str, Any] = {"running_mean": torch.mean, "running_var": torch.var}
    model = _edited(probe, edits)
    for edit in edits:
        name, _, attribute = edit.name.rpartition(".")
        if attribute in statistics:

            def look(module: Any, args: Any, edit: Edit = edit, own: str = attribute) -> None:
                index = torch.from_numpy(edit.places.ravel()).to(args[0].device)
                values = args[0].transpose(0, 1).flatten(1)[index]
                edit.values, edit.now = statistics[own](values, 1), "of the batch"
                edit.apply(model)

            model.get_submodule(name).register_forward_pre_hook(look)
    probe.outputs(model, batch)
