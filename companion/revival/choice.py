"""Which units to reset or to remove, and what the dead among them put out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from companion.revival.groups import unit_groups
from companion.revival.structure import RefusalError, UnitGroup, constant_at

if TYPE_CHECKING:
    from companion.detection import UnitReport

__all__ = ["Chosen", "choose", "constant", "folds"]

Chosen = list[tuple[UnitGroup, np.ndarray]]
_SMALL = 1e-6  # of a layer's largest output: as small as the derivative of a dead smooth unit


def constant(layer: Any) -> np.ndarray:
    """Tell which units are dead and put out the same number for every sample."""
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(np.maximum(layer.rms**2 - layer.mean**2, 0))
        return np.asarray(layer.dead & (spread <= 1e-5 * np.maximum(1, layer.rms)))


def choose(
    model: nn.Module,
    report: UnitReport,
    *,
    tau: float = 0.0,
    units: Mapping[str, ArrayLike] | None = None,
    layers: Sequence[str] | None = None,
    skip: Sequence[str] = (),
    batch: Tensor | None = None,
) -> Chosen:
    """Choose units in layers whose readers are known; refuse all if one of them is not."""
    if isinstance(tau, bool) or not isinstance(tau, Real):
        raise TypeError(f"tau must be a real number, not {tau!r}")
    if not 0 <= tau < math.inf:
        raise ValueError(f"tau must be finite and not negative, not {tau!r}")
    groups = unit_groups(model, report, batch=batch)
    names = [group.name for group in groups]
    for argument, given in (("layers", layers or ()), ("skip", skip), ("units", units or ())):
        if isinstance(given, str):
            raise TypeError(f"{argument} must be a list of names, not {given!r}")
        for name in given:
            if name not in names:
                raise ValueError(f"{argument} must name activations of {names}, not {name!r}")
    chosen: Chosen = []
    problems: list[str] = []
    for group, layer in zip(groups, report.layers, strict=True):
        if group.name in skip or (layers is not None and group.name not in layers):
            continue
        if layer.nan.any():
            problems.append(f"{group.name!r}: {int(layer.nan.sum())} units gave NaN or infinity")
            continue
        if units is None:
            picked = constant(layer) | (layer.score <= tau if tau > 0 else False)
            index = np.flatnonzero(picked)
        else:
            index = _whole(group, units.get(group.name, ()))
        if not len(index):
            continue
        if group.problem:
            problems.append(f"{group.name!r}: {group.problem}")
        chosen.append((group, index))
    if problems:
        raise ValueError(
            f"cannot touch the units of {'; of '.join(problems)}. Nothing was changed; skip= "
            "leaves layers out"
        )
    return chosen


def _whole(group: UnitGroup, given: ArrayLike) -> np.ndarray:
    index = np.asarray(given)
    if index.size and (index.dtype.kind not in "iu" or index.ndim != 1):
        raise TypeError(f"units must hold lists of whole numbers, not {given!r}")
    index = np.unique(index.astype(int))
    if len(index) and not 0 <= index[0] <= index[-1] < group.n_units:
        raise ValueError(
            f"units must be from 0 to {group.n_units - 1} in {group.name!r}, not {index.tolist()}"
        )
    return index


def folds(
    group: UnitGroup, layer: Any, index: np.ndarray
) -> list[tuple[Any, np.ndarray, Tensor | None]]:
    """For each reader, its columns for the units and what their constants add to its output.

    The constant is that of units that are dead; of others it is taken for 0. Raises a ValueError
    if a padding, or a reader without a bias, has no place for it.
    """
    dead = constant(layer)[index]
    values = np.where(dead, layer.mean[index], 0.0)
    with np.errstate(invalid="ignore"):
        values[np.abs(values) <= _SMALL * np.nanmax(layer.rms)] = 0.0
    found = []
    for reader in group.readers:
        places = reader.places(index, group.n_units)
        try:
            at = constant_at(reader, torch.from_numpy(values), index, group.n_units)
        except RefusalError as problem:
            raise ValueError(
                f"cannot touch the units of {group.name!r}: {problem}. Nothing was changed; skip= "
                "leaves layers out"
            ) from None
        at = torch.where(torch.from_numpy(dead)[:, None], at, 0.0)
        added = None
        if bool((at != 0).any()):
            weight = reader.module.weight.detach().cpu().double()
            weight = weight.reshape(*weight.shape[:2], -1).sum(2)  # over the kernel
            added = weight[:, torch.from_numpy(places.ravel())] @ at.reshape(-1)
        found.append((reader, places, added))
    return found
